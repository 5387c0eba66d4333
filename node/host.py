"""The host's only loop: what the world did becomes events for the enclave, what the enclave is ready with becomes deeds.

Law: it carries bytes, and understands none. It never waits for the disk (`node.storage` has its own thread), nor for a stream
(`network.streams`); one pass per wake-up, one frame to the enclave per pass.
Bounded in both directions by the credit of `enclave.boundary.Framing`: without credit nothing is read from any stream; entries give
the enclave its credit back when they are on disk, everything else when it was carried out.
"""

import logging
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from ledgerd.enclave.boundary import (
    CLIENT,
    OUTBOUND,
    PEER,
    Configured,
    Event,
    Fetch,
    Fetched,
    Framing,
    Ready,
    Stopping,
    Stored,
    decode_ready,
    encode_events,
    encode_streams,
)
from ledgerd.ledger.errors import FormatError, HostError, LedgerdError
from ledgerd.network.streams import Kind, Streams
from ledgerd.node.printing import one_line, printable
from ledgerd.node.promises import Promises
from ledgerd.node.storage import Append, Read, Storage, StorageError

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
STOP_SECONDS_MAX: Final = 1.0  # for the enclave to say goodbye after the operator's first signal
FETCHES_MAX: Final = 4096
CLIENT_UNSENT_BYTES_MAX: Final = 1 << 20
PEER_UNSENT_BYTES_MAX: Final = 64 << 20  # a peer that catches up
PEERS_MAX: Final = 256
CLIENTS_OVER: Final = 256  # beyond the cap, which is the enclave's to keep: it lets others leave for newcomers, or tells them why not
OUTPUT_LOGGED_BYTES_MAX: Final = 1 << 20  # of what the enclave prints; it prints only when it fails
_SLEEP_SECONDS: Final = 1.0
_STOPPING: Final = frozenset({signal.SIGTERM, signal.SIGINT})
# While many streams are busy, their bytes trickle in one by one; each frame costs a wake-up here and one in the enclave. So a busy host
# lets some come together first. A lone client never waits: its frames carry one stream.
GATHER_STREAMS_MIN: Final = 4
GATHER_SECONDS: Final = 0.0002

log = logging.getLogger("ledgerd.node")


def kinds(clients_max: int) -> dict[int, Kind]:
    """The kinds of streams of a node, by the boundary's tag."""
    return {
        CLIENT: Kind(CLIENT, CLIENT_UNSENT_BYTES_MAX, clients_max + CLIENTS_OVER, pauses=True),
        PEER: Kind(PEER, PEER_UNSENT_BYTES_MAX, PEERS_MAX, pauses=False),
        OUTBOUND: Kind(OUTBOUND, PEER_UNSENT_BYTES_MAX, PEERS_MAX, pauses=False),
    }


class EnclaveLostError(LedgerdError):
    """The enclave is gone without having said stop, or speaks another protocol."""

    code = "EnclaveLost"


class Host:
    """One node's host, from configuration to exit status.

    Args:
        link: Connected to the enclave; taken over.
        storage: The ledger.
        streams: Already listening; taken over.
        outbound: Kind for streams that the enclave asks for.
        output: Descriptor of what the enclave prints, or None.
        notice: Told what the enclave announces: name, text.
    """

    def __init__(
        self,
        link: socket.socket,
        storage: Storage,
        streams: Streams,
        outbound: Kind,
        output: int | None = None,
        notice: Callable[[str, str], None] = lambda name, text: None,
    ) -> None:
        link.setblocking(False)
        self._link = link
        self._framing = Framing()
        self._unsent = bytearray()  # framed, waiting for the link's socket; bounded by credit
        self._frames: deque[bytes] = deque()  # bodies that wait for credit; nothing is read while there are any
        self._storage = storage
        self._appends = self._appended = 0  # handed to the storage; on disk
        self._promises = Promises()
        self._stored: Stored | None = None  # to be told with the next frame
        self._stored_by = 0.0  # or by then
        self._streams = streams
        self._outbound = outbound
        self._output = output
        self._output_bytes = 0
        self._notice = notice
        self._fetches: deque[Fetch] = deque()
        self._fetching = False
        self._others: list[Event] = []
        self._status: int | None = None
        self._stop_deadline: float | None = None
        self._stop_asked = 0
        self._busy = False  # the last frame carried bytes of several streams

    def run(self, configuration: bytes, catch_signals: bool = True) -> int:
        """Serve until the enclave says stop, the operator insists, or something is broken.

        Args:
            configuration: JSON document for the enclave.
            catch_signals: Take SIGTERM and SIGINT as the operator's wish to stop; only from the main thread.
        Returns: The exit status that the enclave chose; 0 when the operator's grace period ran out.
        Raises:
            EnclaveLostError: The enclave died, or is of another version.
            StorageError: The disk failed.
        """
        streams = self._streams
        link = self._link.fileno()
        storage = self._storage.wake
        streams.watch(link)
        streams.watch(storage)
        if self._output is not None:
            streams.watch(self._output)
        signals = _Signals() if catch_signals else None
        if signals is not None:
            streams.watch(signals.wake)
        self._frames.append(encode_events([Configured(configuration)]))
        self._flush()
        try:
            while self._status is None:
                patience = _SLEEP_SECONDS if self._stored is None else max(0.0, self._stored_by - time.monotonic())
                woken = streams.poll(min(_SLEEP_SECONDS, patience))
                if self._busy and not woken and streams.received:
                    time.sleep(GATHER_SECONDS)
                    woken = streams.poll(0.0)
                for descriptor in woken:
                    if descriptor == link:
                        self._receive()
                    elif descriptor == storage:
                        self._collect()
                    elif descriptor == self._output:
                        self._log_output()
                    elif signals is not None:
                        wanted = signals.take()
                        if signal.SIGUSR1 in wanted:
                            self.log_numbers()
                        if _STOPPING & wanted:
                            self.stop()
                self._busy = len(streams.received) >= GATHER_STREAMS_MIN
                for stream in streams.closed:
                    self._promises.forget(stream)
                has_news = streams.received or streams.opened or streams.closed or self._others
                if self._stored is not None and (has_news or time.monotonic() >= self._stored_by):
                    self._others.append(self._stored)
                    self._stored = None
                if has_news or self._others:
                    self._frames.extend(encode_streams(streams.opened, streams.received, streams.closed, self._others))
                    streams.opened.clear()
                    streams.received.clear()
                    streams.closed.clear()
                    self._others.clear()
                self._flush()
                if self._stop_deadline is not None and time.monotonic() >= self._stop_deadline:
                    log.warning("the enclave did not say goodbye in time")
                    self._status = EXIT_OK
        finally:
            if signals is not None:
                signals.restore()
            self.log_numbers()
        return self._status

    def numbers(self) -> dict[str, int]:
        """What has passed the link, seen from this end, and what clients' and peers' streams are doing."""
        link = {f"link_{name}": number for name, number in self._framing.traffic.numbers().items()}
        return {**link, "streams": len(self._streams), "streams_dropped": self._streams.dropped, "frames_waiting": len(self._frames)}

    def log_numbers(self) -> None:
        """Write them into the log: when asked by SIGUSR1, and at the end."""
        log.info("numbers: %s", ", ".join(f"{name} {number}" for name, number in self.numbers().items()))

    def stop(self) -> None:
        """The operator wants to stop: ask the enclave, and do not wait longer than STOP_SECONDS_MAX; the second time, not at all."""
        self._stop_asked += 1
        if self._stop_asked == 1:
            log.info("asked to stop")
            self._others.append(Stopping())
            self._stop_deadline = time.monotonic() + STOP_SECONDS_MAX
        else:
            self._stop_deadline = time.monotonic()

    # From the enclave.

    def _receive(self) -> None:
        framing = self._framing
        try:
            while True:
                space = framing.space()
                try:
                    count = self._link.recv_into(space)
                except BlockingIOError:
                    break
                if not count:
                    if self._status is not None:
                        return
                    raise EnclaveLostError("the enclave closed the link")
                framing.filled(count)
                for body in framing.bodies():
                    self._carry_out(decode_ready(body), len(body))
                if count < len(space):
                    break
        except OSError as error:
            raise EnclaveLostError(f"the link to the enclave broke: {error.strerror}") from None
        except (FormatError, HostError) as error:  # the rules of the link are the same for both of its ends
            raise EnclaveLostError(f"the enclave breaks the protocol of the link: {error}") from None

    def _carry_out(self, ready: Ready, size: int) -> None:
        """Do what the enclave is ready with, in the order that `boundary.Ready` gives."""
        if self._status is not None:
            return
        send = self._streams.send
        for stream, data in ready.peer_bytes:
            if self._promises.holds(stream):
                self._follow(stream, data)
            else:
                send(stream, data)
        for stream, data in ready.client_bytes:
            send(stream, data)
        if ready.truncate_after is not None or ready.entries:
            self._storage.append(
                Append(ready.generation, ready.view, ready.truncate_after, ready.first_seqno, ready.entries, ready.patience_ms)
            )
            self._appends += 1
            size -= sum(map(len, ready.entries))
        self._framing.consumed(size)
        if ready.committed is not None:
            self._storage.committed(ready.committed)
        if ready.once_stored:
            self._promises.promise(self._appends, ready.once_stored)
            self._keep_promises()
        for connect in ready.connects:
            self._streams.connect(connect.stream, connect.host, connect.port, self._outbound)
        for stream in ready.closes:
            self._streams.close(stream)
        if ready.fetches:
            self._fetches.extend(ready.fetches)
            if len(self._fetches) > FETCHES_MAX:
                raise EnclaveLostError(f"the enclave asks for more than {FETCHES_MAX} ranges at once")
            self._fetch()
        for level, text in ready.logs:
            log.log(logging.getLevelNamesMapping().get(level.upper(), logging.INFO), "enclave: %s", one_line(text))
        for name, text in ready.notices:
            self._notice(name, text)
        if ready.stop is not None:
            self._status = ready.stop

    def _keep_promises(self) -> None:
        """Send what has waited for the disk."""
        for stream, data in self._promises.due(self._appended):
            self._streams.send(stream, data)

    def _follow(self, stream: int, data: bytes) -> None:
        """Keep what a peer gets after something that waits for the disk; give the stream up if that lasts too long for all that comes."""
        if self._promises.size_bytes > PEER_UNSENT_BYTES_MAX:
            self._streams.close(stream)
        else:
            self._promises.follow(stream, data)

    def _fetch(self) -> None:
        """Read one range at a time, and none while the enclave is behind: an answer may be 8 MiB."""
        if self._fetches and not self._fetching and not self._frames:
            self._fetching = True
            fetch = self._fetches.popleft()
            self._storage.read(Read(fetch.request, fetch.first, fetch.through, fetch.size_max))

    def log_rest(self) -> None:
        """Log what the enclave printed last; once it has ended."""
        while self._output is not None and self._log_output():
            pass

    def _log_output(self) -> bool:
        assert self._output is not None
        try:
            data = os.read(self._output, 1 << 16)
        except BlockingIOError:
            return False
        if not data:
            self._streams.unwatch(self._output)
            self._output = None
        elif self._output_bytes < OUTPUT_LOGGED_BYTES_MAX:
            self._output_bytes += len(data)
            for line in data.decode(errors="replace").splitlines():
                log.error("enclave prints: %s", printable(line))
        return bool(data)

    # To the enclave.

    def _collect(self) -> None:
        report = self._storage.collect()
        if report.stored_bytes:
            self._framing.consumed(report.stored_bytes)
        self._appended = report.appends
        self._keep_promises()
        if report.stored is not None:
            due = time.monotonic() + report.patience_ms / 1000
            self._stored_by = due if self._stored is None else min(due, self._stored_by)
            self._stored = Stored(*report.stored)
        for request, entries in report.read:
            self._frames.append(encode_events([Fetched(request, entries)]))
            self._fetching = False
        if report.failed is not None:
            raise StorageError(report.failed)

    def _flush(self) -> None:
        framing = self._framing
        frames = self._frames
        while frames and framing.credit > 0:
            self._write(framing.frame(frames.popleft()))
        grant = framing.grant()
        if grant:
            self._write(grant)
        elif self._unsent:
            self._write(b"")
        if not frames and self._fetches:
            self._fetch()
        self._streams.reading = not frames

    def _write(self, data: bytes) -> None:
        unsent = self._unsent
        waiting = bool(unsent)
        try:
            if waiting:
                unsent += data
                del unsent[: self._link.send(unsent)]
            else:
                sent = self._link.send(data)
                if sent < len(data):
                    unsent += memoryview(data)[sent:]
        except BlockingIOError:
            if not waiting:
                unsent += data
        except OSError as error:
            # What the enclave said last may still be there to be read: a reason to stop, for example.
            self._receive()
            if self._status is None:
                raise EnclaveLostError(f"the link to the enclave broke: {error.strerror}") from None
        if bool(unsent) is not waiting:
            self._streams.watch(self._link.fileno(), writing=bool(unsent))


def _only_wake(number: int, frame: object) -> None:
    """A signal's handler: what wakes the loop is the byte that Python writes for it."""


class _Signals:
    """SIGTERM, SIGINT and SIGUSR1 as bytes on a descriptor."""

    def __init__(self) -> None:
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        self.wake = self._read.fileno()
        self._previous = {number: signal.signal(number, _only_wake) for number in (*_STOPPING, signal.SIGUSR1)}
        self._previous_wake = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)

    def take(self) -> set[int]:
        """Those that came since the last call."""
        try:
            return {number for number in self._read.recv(256) if number in self._previous}
        except BlockingIOError:
            return set()

    def restore(self) -> None:
        """Give the signals back to whoever had them."""
        signal.set_wakeup_fd(self._previous_wake)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._read.close()
        self._write.close()
