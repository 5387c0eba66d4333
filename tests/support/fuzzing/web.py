"""HTTP: what clients send, judged beside a second reader; and what servers answer to an enclave that asks."""

from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

import h11

from ledgerd.enclave.http import HEADER_FIELDS_MAX, Counters, Exchange, HttpConnection, Limits
from ledgerd.enclave.outbound import HttpClient
from ledgerd.enclave.requests import Request, Response
from ledgerd.ledger.errors import PeerError
from support.fuzzing.frames import cut
from support.fuzzing.laws import Bound, BrokenLaw, Maker, Target

_LIMITS: Final = Limits(body_bytes=4_000, target_bytes=400, waiting=20_000)
_RECORD_BYTES: Final = 16 << 10  # TLS gives no more in one piece
_YES: Final = Response(200, (), b"yes", "text/plain")

Seen = list[tuple[str, str, bytes]]
"""Requests: method, path with query, body."""


def _field(text: str) -> bytes:
    return text.encode() + b"\r\n"


_GET: Final = b"GET /app/records/1?a=b HTTP/1.1\r\nHost: node:8000\r\n\r\n"
_PUT: Final = b"PUT /app/records/2 HTTP/1.1\r\nhost: node\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nhello"
_CHUNKED: Final = (
    b"POST /x HTTP/1.1\r\nhost: n\r\ntransfer-encoding: chunked\r\n\r\n5;ext=1\r\nhello\r\n3\r\n123\r\n0\r\ntrailer: x\r\n\r\n"
)
_EXPECTING: Final = b"PUT /y HTTP/1.1\r\nhost: n\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\nabc"
_OLD: Final = b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n"
_LAST: Final = b"GET /z HTTP/1.1\r\nhost: n\r\nconnection: close\r\n\r\n"
_ABSOLUTE: Final = b"GET https://node:8000/app/commit HTTP/1.1\r\nhost: node:8000\r\n\r\n"
_HEAD: Final = b"HEAD /node/primary HTTP/1.1\r\nhost: n\r\naccept: a\r\naccept: b\r\n\r\n"

SEEDS: Final = [
    _GET,
    _GET * 4 + _LAST,
    _PUT * 3,
    _PUT + _GET + _PUT,
    _CHUNKED + _GET,
    _EXPECTING + _GET,
    _OLD + _OLD,
    _ABSOLUTE + _HEAD + _PUT,
    _PUT + _CHUNKED + _PUT + _LAST,
]
# What request smuggling is made of.
TOKENS: Final = [
    *map(
        _field,
        (
            *(
                "Content-Length: 5",
                "content-length: 0",
                "content-length: 05",
                "content-length: +5",
                "content-length: 5, 5",
                "content-length:\t6",
            ),
            *(
                "transfer-encoding: chunked",
                "Transfer-Encoding: identity",
                "transfer-encoding: xchunked",
                "transfer-encoding: chunked, chunked",
            ),
            *(
                "transfer-encoding:\x0bchunked",
                "transfer-encoding : chunked",
                " transfer-encoding: chunked",
                "connection: close",
                "host: other",
            ),
            *("connection: keep-alive, close", "upgrade: h2c", "connection: upgrade", "expect: 100-continue", "expect: 200-ok", "x: \x00"),
        ),
    ),
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b"\n\n",
        b"0\r\n\r\n",
        b"5\r\n",
        b"ffffffffffffffff1\r\n",
        b"-1\r\n",
        b" ",
        b"\t",
        b"\0",
        b"\xff",
    ),
    *(
        b" HTTP/1.1\r\n",
        b" HTTP/1.0\r\n",
        b" HTTP/2.0\r\n",
        b" HTTP/0.9\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT n:1 HTTP/1.1\r\n",
    ),
    *(b"//", b"/../", b"?", b"#", b"%00", b"%0d%0a", b"http://other/", b"*", b"\xc3\xa9", b"GET ", b"PUT "),
]


class _Ours:
    """Our reader, fed in pieces, that answers everything at the end."""

    def __init__(self, parts: list[bytes], keep: HttpConnection | None = None) -> None:
        self.taken: list[Request] = []
        connection = HttpConnection(None, self.taken, _LIMITS, Counters())
        for part in parts:
            connection.received(part)
        self.ended = connection.ended
        self.refused = connection.refused
        self.waiting = connection.incomplete
        said = b"".join(connection.output)
        for request in self.taken:
            reply_to = request.reply_to
            assert isinstance(reply_to, Exchange)
            connection.output.clear()
            connection.answer(reply_to, _YES)
            said += b"".join(connection.output)
        self.finished = connection.finished
        self.said = said

    @property
    def seen(self) -> Seen:
        return [(r.method, r.path + ("?" + r.query if r.query else ""), r.body) for r in self.taken]

    def outcome(self) -> tuple[Any, ...]:
        """What may not depend on cuts: all but which of several reasons a refusal gives."""
        said = self.said.rpartition(b"HTTP/1.1 4")[0] if self.refused else self.said
        return self.seen, self.ended, self.refused, said


def _statuses(said: bytes, heads: list[bool]) -> list[int]:
    """Statuses of the answers in what was said, in order; `heads` tells which answers have no body though they state its length.

    Raises: BrokenLaw: It is no sequence of answers.
    """
    found: list[int] = []
    final = 0
    while said:
        head, mark, rest = said.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        if not mark or not lines[0].startswith(b"HTTP/1.1 "):
            raise BrokenLaw(f"no answer begins with {head[:60]!r}")
        status = int(lines[0][9:12])
        found.append(status)
        length = 0
        if status >= 200:
            for line in lines[1:]:
                name, _, value = line.partition(b": ")
                if name == b"content-length" and not (final < len(heads) and heads[final]):
                    length = int(value)
            final += 1
        said = rest[length:]
        if len(rest) < length:
            raise BrokenLaw("an answer that is cut off")
    return found


def _theirs(data: bytes) -> tuple[Seen, str]:
    """What h11 reads in the same bytes, and how it ends: `open`, `waiting` (in the middle of a request), `refused`, `closed`."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    seen: Seen = []
    try:
        connection.receive_data(data)
        request: h11.Request | None = None
        body = bytearray()
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                request, body = event, bytearray()
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert request is not None
                target = _origin_form(request.target.decode("latin-1"))
                seen.append((request.method.decode("latin-1"), target.removesuffix("?") if target.count("?") == 1 else target, bytes(body)))
                request = None
                if str(connection.their_state) == "MIGHT_SWITCH_PROTOCOL":
                    return seen, "refused"
                connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                    return seen, "closed"
                connection.start_next_cycle()
            elif event is h11.NEED_DATA:
                begun = request is not None or bool(connection.trailing_data[0])
                return seen, "waiting" if begun else "open"
            else:
                return seen, "refused"
    except (h11.RemoteProtocolError, ValueError):  # the latter of a target that is no URL, which h11 does not look at
        return seen, "refused"


def _origin_form(target: str) -> str:
    if target.startswith("/") or target == "*":
        return target
    parts = urlsplit(target)
    return (parts.path or "/") + ("?" + parts.query if parts.query else "")


def _http() -> Target:
    """What a client, or a smuggler behind somebody else's proxy, sends."""

    def judge(data: bytes) -> bool:
        whole = _Ours(_records(data))
        if len(data) <= _RECORD_BYTES:  # of longer ones, a header without end is refused a little sooner or later
            for parts in (cut(data), [piece for piece in _after_requests(data) if piece]):
                if _Ours(parts).outcome() != whole.outcome():
                    raise BrokenLaw("requests or answers depend on how the stream was cut")
        _check_answers(whole)
        if len(data) <= 4 * _RECORD_BYTES:  # the other reader takes long for large ones
            _check_agreement(whole, *_theirs(data))
        return bool(whole.taken) and not whole.refused

    bombs = [
        b"GET / HTTP/1.1\r\nhost: n\r\n" + b"a: b\r\n" * (HEADER_FIELDS_MAX + 5) + b"\r\n",
        b"GET / HTTP/1.1\r\nhost: n\r\nx: " + b"y" * 600_000,
        b"GET /" + b"x" * 600_000,
        b"POST / HTTP/1.1\r\nhost: n\r\ntransfer-encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 100_000,
        b"POST / HTTP/1.1\r\nhost: n\r\ntransfer-encoding: chunked\r\n\r\n1;" + b"x" * 600_000,
        b"POST / HTTP/1.1\r\nhost: n\r\ntransfer-encoding: chunked\r\n\r\n0\r\n" + b"t: v\r\n" * 80_000,
        _GET * 5_000,
        b"PUT / HTTP/1.1\r\nhost: n\r\ncontent-length: 999999999999999999999999\r\n\r\n",
        b"\r\n" * 300_000,
    ]
    return Target("http", SEEDS, judge, tokens=TOKENS, bombs=bombs, bound=Bound(seconds=1.2, seconds_per_mebibyte=80.0), accepts_most=True)


def _records(data: bytes) -> list[bytes]:
    return [data[at : at + _RECORD_BYTES] for at in range(0, len(data), _RECORD_BYTES)] or [b""]


def _after_requests(data: bytes) -> list[bytes]:
    """Cut where the seeds' requests end, as a client sends them: one at a time."""
    for end in (b"hello", b"abc", b"trailer: x\r\n\r\n", b"\r\n\r\nGET ", b"\r\n\r\nPUT "):
        at = 4 if end.startswith(b"\r\n") else len(end)
        parts, start = [], 0
        while (found := data.find(end, start)) >= 0:
            parts.append(data[start : found + at])
            start = found + at
        if parts:
            return [*parts, data[start:]]
    return [data]


def _check_answers(ours: _Ours) -> None:
    """Every request ends in one answer, in order, or the session ends; and it does not end without one."""
    statuses = [status for status in _statuses(ours.said, [r.method == "HEAD" for r in ours.taken]) if status >= 200]
    if statuses[: len(ours.taken)].count(200) + statuses.count(503) < len(ours.taken) and not ours.finished:
        raise BrokenLaw(f"{len(ours.taken)} requests, answered with {statuses}")
    extra = len(statuses) - len(ours.taken)
    if ours.refused and not statuses:
        raise BrokenLaw("refused without a word")
    if not ours.refused and extra > 0 and statuses.count(503) < extra:
        raise BrokenLaw(f"{len(ours.taken)} requests got {len(statuses)} answers: {statuses}")
    if ours.refused and statuses[-1] < 400:
        raise BrokenLaw(f"a refusal that says {statuses[-1]}")


def _check_agreement(ours: _Ours, theirs: Seen, state: str) -> None:
    """Two readers must not see different requests in the same bytes: one may refuse what the other takes, and that is all."""
    mine = ours.seen
    for own, other in zip(mine, theirs, strict=False):
        if own != other:
            raise BrokenLaw(f"read as {own!r}, and by h11 as {other!r}")
    if len(theirs) > len(mine) and not ours.ended:
        raise BrokenLaw(f"h11 sees {len(theirs)} requests, we {len(mine)}, and wait for more")
    if len(mine) > len(theirs) and state in ("open", "waiting"):
        raise BrokenLaw(f"we see {len(mine)} requests, h11 {len(theirs)}, and waits for more")


# The other way round.


class _Server:
    """Stands for a TLS connection to a server that was believed: what it is fed is what the server says."""

    def __init__(self) -> None:
        self.established = True
        self.closed = False
        self.error = None
        self.refusal = None

    def feed(self, data: bytes) -> list[bytes]:
        return [data]

    def write(self, data: bytes) -> None:
        pass

    def take_output(self) -> bytes:
        return b""


class _Context:
    def connection(self, check: Callable[[list[bytes]], None], server_name: str | None) -> _Server:
        return _Server()


def _http_client() -> Target:
    """What a node, or whoever is in its place, answers to an enclave that wants to join; and KMS's relay."""
    json_answer = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 12\r\n\r\n{"nonce": 1}'
    seeds = [
        json_answer,
        json_answer * 2,
        b"HTTP/1.1 308 Permanent Redirect\r\nlocation: https://n1:8000/node/join\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + json_answer,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}",
    ]

    def read(parts: list[bytes]) -> tuple[list[tuple[int, dict[str, str], bytes]], bool]:
        client = HttpClient(_Context(), "node:1", lambda chain: None, answer_size_bytes_max=3_000)  # type: ignore[arg-type]
        client.request("GET", "/a")
        client.request("POST", "/b", {"content-type": "application/json"}, b"{}")
        client.take_output()
        found = []
        try:
            for part in parts:
                found += [(answer.status, dict(answer.headers), answer.body) for answer in client.received(part)]
                if client.waiting < 0:
                    raise BrokenLaw("answers to what nobody asked")
        except PeerError:
            return found, True
        return found, False

    def is_last(answers: list[tuple[int, dict[str, str], bytes]]) -> bool:
        return bool(answers) and "connection" in answers[-1][1]

    def judge(data: bytes) -> bool:
        answers, failed = read(_records(data))
        in_pieces = read(cut(data))
        # Answers that came in one piece with what is no answer are lost with it; in pieces they may have been given before.
        same = (answers, failed) == in_pieces or (failed and in_pieces[1] and in_pieces[0][: len(answers)] == answers)
        # And what follows the last answer of a connection is no answer: in the same piece it is not even looked at.
        same = same or (is_last(answers) and answers == in_pieces[0])
        if len(data) <= _RECORD_BYTES and not same:
            raise BrokenLaw(f"answers depend on how the stream was cut: {answers, failed} or {in_pieces}")
        return bool(answers) and not failed

    bombs = [
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 600_000,
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 90_000,
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"z" * 600_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 40_000,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 90_000,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;" + b"a" * 600_000,
    ]
    tokens = [
        *TOKENS,
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n",
    ]
    return Target(
        "http-client", seeds, judge, tokens=tokens, bombs=bombs, bound=Bound(seconds=1.2, seconds_per_mebibyte=80.0), accepts_most=True
    )


MAKERS: Final[dict[str, Maker]] = {"http": _http, "http-client": _http_client}
