"""Client bytes to requests and back: TLS, protocol, limits and deadlines of every client session.

The host says that a stream opened, carried bytes, closed; `requests` fills with complete requests; `answer` takes their responses;
`take_output` gives what all sessions have to send, one TLS write for each session and wake-up. Nothing here raises for
what a client or the host says. Time comes with `sweep`; between two sweeps it stands still, which is exact enough for deadlines.
Not here: HTTP itself (`enclave.http`), `ledgerd/1` (`enclave.pipeline`), who the caller is (`enclave.auth`), who leaves when all places
are taken (`enclave.places`), whose handshake is next (`enclave.turns`), execution.
"""

import hashlib
from typing import Final, NamedTuple, TypeAlias

from ledgerd.enclave.http import Counters, Exchange, HttpConnection, Limits
from ledgerd.enclave.pipeline import Call, PipelineConnection
from ledgerd.enclave.places import Knows, Places
from ledgerd.enclave.requests import Request, Response
from ledgerd.enclave.session import ANSWERING, HANDSHAKE, IDLE, LINGERING, READING, Protocol, Session
from ledgerd.enclave.tls import PIPELINE_PROTOCOL, TlsContext
from ledgerd.enclave.turns import UNREAD_SIZE_BYTES_MAX, Turns

ReplyTo: TypeAlias = Exchange | Call
"""The `reply_to` of every request that came from a client's session; test with `isinstance`."""

HANDSHAKES_MAX: Final = 1  # steps of handshakes in one wake-up: up to a millisecond, which whatever comes meanwhile waits for
_LINGER_SIZE_BYTES_MAX: Final = 8 << 20  # swallowed after a refusal, so that the client gets to read why instead of a reset


def remote_of(reply_to: object) -> str:
    """Whence a request came, as the host says; "" if by no session of this node."""
    owner = reply_to.connection.owner if isinstance(reply_to, ReplyTo) else None
    return owner.remote if isinstance(owner, Session) else ""


class SessionLimits(NamedTuple):
    """What one client, and all clients together, may take."""

    sessions: int = 1000  # CCF's soft cap; beyond it somebody leaves, or else a request is answered 503 and the session ends
    sessions_over: int = 10  # so many more get that answer, as in CCF; beyond those the stream is closed at once
    handshake_seconds: float = 10.0
    header_seconds: float = 10.0  # from a request's first byte to its body's first
    request_seconds: float = 30.0  # from a request's first byte to its last
    idle_seconds: float = 600.0  # without a request in either direction; keeps the cap from filling with the forgotten
    known_seconds: float = 30.0  # of silence for which a caller whom the tables know keeps its place when all are taken
    linger_seconds: float = 2.0
    buffered_bytes: int = 64 << 20  # incomplete requests of all sessions together; beyond it, those that still grow are refused
    request: Limits = Limits()


DEFAULT_LIMITS: Final = SessionLimits()


class Sessions:
    """All client sessions of this node.

    Attributes:
        counters: Refusals, for `/node/metrics`.
        knows: Says of a caller's id whether the tables know it.
        peak: Most sessions there ever were at one time.
        refused_at_cap: Streams and requests turned away because there were too many sessions, and nobody who could leave.
        evicted: Sessions that had to leave for others.
        tls_failed: Handshakes and records that failed.
        timed_out: Sessions ended by a deadline.
    """

    __slots__ = (
        "_buffered",
        "_closing",
        "_context",
        "_dirty",
        "_farewells",
        "_greetings",
        "_limits",
        "_now",
        "_places",
        "_requests",
        "_sessions",
        "_turns",
        "counters",
        "evicted",
        "knows",
        "peak",
        "refused_at_cap",
        "timed_out",
        "tls_failed",
    )

    def __init__(self, context: TlsContext, limits: SessionLimits = DEFAULT_LIMITS, now: float = 0.0) -> None:
        self._context = context
        self._limits = limits
        self._now = now
        self._sessions: dict[int, Session] = {}
        self._requests: list[Request] = []
        self._dirty: list[Session] = []
        self._closing: list[int] = []
        self._buffered = 0
        self._places = Places()
        self._farewells: list[tuple[int, bytes]] = []  # of those who had to leave
        self._greetings: Turns[Session] = Turns(HANDSHAKES_MAX)  # first steps
        self._turns: Turns[Session] = Turns(HANDSHAKES_MAX)  # all others
        self.knows: Knows = lambda caller: False
        self.counters = Counters()
        self.peak = 0
        self.evicted = 0
        self.refused_at_cap = 0
        self.tls_failed = 0
        self.timed_out = 0

    @property
    def active(self) -> int:
        """Sessions now."""
        return len(self._sessions)

    def use(self, context: TlsContext) -> None:
        """Show another certificate to sessions that open from now on; needed when the service endorses a new one."""
        self._context = context

    @property
    def has_backlog(self) -> bool:
        """True if something waits for the next wake-up, which should come at once."""
        return bool(self._greetings or self._turns or self._requests)

    def opened(self, stream: int, remote: str = "") -> None:
        """The host accepted a client's stream, from `remote` as it says."""
        sessions = self._sessions
        if stream in sessions:
            return  # an honest host never reuses a number; the old session goes on and the new bytes will not fit it
        limits = self._limits
        count = len(sessions)
        over_cap = False
        if count >= limits.sessions:
            leaver = self._places.leaver(sessions.values(), self._now, limits.known_seconds, self.knows)
            if leaver is not None:
                self.evicted += 1
                self._dismiss(leaver)
                count -= 1
            elif count >= limits.sessions + limits.sessions_over:
                self.refused_at_cap += 1
                self._closing.append(stream)
                return
            else:
                over_cap = True
        sessions[stream] = Session(stream, self._context.connection(), self._now, remote, over_cap)
        if count >= self.peak:
            self.peak = count + 1

    def received(self, stream: int, data: bytes) -> None:
        """The host carried bytes of a client, in order and cut anywhere."""
        session = self._sessions.get(stream)
        if session is None:
            return  # ended by us while these were on their way
        if session.phase == LINGERING:
            session.lingered += len(data)
            if session.lingered > _LINGER_SIZE_BYTES_MAX:
                self._end(session)
            return
        if session.protocol is not None:
            self._read(session, data)
            return
        if not session.greeted:
            self._greetings.keep(session, data)  # what others wait for goes first
        elif self._turns.take(session, data):
            self._read(session, data)
        if session.unread_bytes > UNREAD_SIZE_BYTES_MAX:
            self.tls_failed += 1
            self._end(session)

    def _read(self, session: Session, data: bytes) -> None:
        tls = session.tls
        protocol = session.protocol
        chunks = tls.feed(data)
        if protocol is None:
            if not session.dirty:
                session.dirty = True
                self._dirty.append(session)  # the handshake has something to say, or failed and says why
            if not tls.established:
                if tls.closed:
                    self.tls_failed += 1
                return
            protocol = self._choose(session)
        if chunks:
            before = protocol.buffered
            count = len(self._requests)
            for chunk in chunks:
                protocol.received(chunk)
            if not protocol.incomplete:
                session.phase = ANSWERING
            elif session.phase != READING or len(self._requests) != count:
                session.phase = READING
                session.since = self._now
            if protocol.buffered != before:
                self._account(protocol, before)
        if tls.error is not None:
            self.tls_failed += 1
        # TLS may have answered by itself (a key update, a refused renegotiation); such bytes must not pile up unsent until we speak.
        silent = not chunks or protocol.incomplete
        if (silent or protocol.output or protocol.finished or tls.closed) and not session.dirty:
            session.dirty = True
            self._dirty.append(session)

    def closed(self, stream: int) -> None:
        """The host says that the stream is gone; answers that are still to come are dropped."""
        session = self._sessions.get(stream)
        if session is not None:
            self._forget(session)

    def take_requests(self) -> list[Request]:
        """Complete requests since the last call, in order of arrival."""
        requests = self._requests
        if requests:
            taken = requests[:]
            requests.clear()
            return taken
        return []

    def answer(self, reply_to: ReplyTo, response: Response) -> None:
        """Give the answer to one request; it leaves with the next `take_output` (over HTTP: after those of earlier requests).

        An answer to a session that is gone is dropped.

        Raises: UsageError: The response cannot be printed (a line break in a header); nothing was sent, answer again.
        """
        connection = reply_to.connection
        connection.answer(reply_to, response)  # type: ignore[arg-type]  # each kind of connection makes its own kind of reply_to
        if connection.output or connection.finished:
            session = connection.owner
            assert isinstance(session, Session)
            if not session.dirty:
                session.dirty = True
                self._dirty.append(session)

    def take_output(self, now: float | None = None, *, is_busy: bool = False) -> tuple[list[tuple[int, bytes]], list[int]]:
        """What to send, and which streams to close once that is sent; each is handed over once.

        New clients come last: where there are answers, or others have something to send, they are left to the next wake-up for a while.

        Args:
            now: Monotonic seconds, of somebody who can wake up again at once.
            is_busy: Whether others have something to send.
        """
        output, self._farewells = self._farewells, []
        for session, data in self._turns.due():
            self._read(session, data)
        self._flush_all(output)
        if self._greetings:
            for session, data in self._greetings.due(now if is_busy or output else None):
                session.greeted = True
                self._read(session, data)
            self._flush_all(output)
        closing = self._closing
        if closing:
            self._closing = []
        return output, closing

    def _flush_all(self, output: list[tuple[int, bytes]]) -> None:
        dirty = self._dirty
        if dirty:
            self._dirty = []
            for session in dirty:
                session.dirty = False
                self._flush(session, output)

    def sweep(self, now: float) -> None:
        """Move time and end the sessions that are past a deadline. Call it about once a second.

        Args:
            now: Monotonic seconds.
        """
        self._now = now
        limits = self._limits
        late: list[Session] = []
        for session in self._sessions.values():
            phase = session.phase
            if phase == ANSWERING:
                protocol = session.protocol
                assert protocol is not None
                if not protocol.waiting:
                    session.phase = IDLE
                    session.since = now
            elif now - session.since > (
                limits.idle_seconds
                if phase == IDLE
                else self._patience(session)
                if phase == READING
                else limits.handshake_seconds
                if phase == HANDSHAKE
                else limits.linger_seconds
            ):
                late.append(session)
        for session in late:
            self._expire(session)

    def _patience(self, session: Session) -> float:
        """How long the request that a session has begun may take."""
        protocol = session.protocol
        limits = self._limits
        return limits.request_seconds if protocol is not None and protocol.buffered else limits.header_seconds

    def _choose(self, session: Session) -> Protocol:
        tls = session.tls
        certificate = tls.peer_certificate
        caller_id = hashlib.sha256(certificate).hexdigest() if certificate is not None else ""
        kind = PipelineConnection if tls.alpn == PIPELINE_PROTOCOL else HttpConnection
        protocol = kind(session, self._requests, self._limits.request, self.counters, certificate, caller_id)
        session.protocol = protocol
        session.phase = IDLE
        session.since = self._now
        if session.over_cap:
            self.refused_at_cap += 1
            protocol.refuse(503, "SessionCapExhausted", "This node has as many sessions as it may have; try another node, or later.")
        return protocol

    def _account(self, protocol: Protocol, before: int) -> None:
        self._buffered += protocol.buffered - before
        if self._buffered > self._limits.buffered_bytes and protocol.buffered > before:
            held = protocol.buffered
            protocol.refuse(503, "TooManyPendingTransactions", "This node holds too many unfinished requests; try again later.")
            self._buffered -= held - protocol.buffered

    def _flush(self, session: Session, output: list[tuple[int, bytes]]) -> None:
        if session.stream not in self._sessions:
            return
        tls = session.tls
        protocol = session.protocol
        finished = tls.closed
        if protocol is not None:
            parts = protocol.output
            if parts and tls.error is None:
                tls.write(parts[0] if len(parts) == 1 else b"".join(parts))
            parts.clear()
            # A client may close its side first and wait for its answers.
            finished = protocol.finished or tls.error is not None or (finished and not protocol.waiting)
        if finished:
            tls.close()
        data = tls.take_output()
        if data:
            output.append((session.stream, data))
        if not finished:
            return
        if protocol is not None and protocol.refused and not tls.closed:
            # Closing now, with the client's bytes unread, would reset the stream and could lose the answer.
            session.phase = LINGERING
            session.since = self._now
            return
        self._end(session)

    def _expire(self, session: Session) -> None:
        phase = session.phase
        protocol = session.protocol
        if phase != LINGERING:
            self.timed_out += 1
        if phase == READING and protocol is not None and not protocol.ended:
            before = protocol.buffered
            protocol.refuse(408, "InvalidInput", f"The request took longer than {self._patience(session):g} seconds to arrive.")
            self._buffered -= before - protocol.buffered
            session.phase = ANSWERING
            if not session.dirty:
                session.dirty = True
                self._dirty.append(session)
            return
        self._end(session)

    def _dismiss(self, session: Session) -> None:
        """End a session in order, for the sake of another."""
        session.tls.close()
        data = session.tls.take_output()
        if data:
            self._farewells.append((session.stream, data))
        self._end(session)

    def _end(self, session: Session) -> None:
        self._closing.append(session.stream)
        self._forget(session)

    def _forget(self, session: Session) -> None:
        del self._sessions[session.stream]
        session.gone = True
        session.unread = None
        protocol = session.protocol
        if protocol is not None:
            self._buffered -= protocol.buffered
            protocol.close()
