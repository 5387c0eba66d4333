"""What is cut into frames: the link between host and enclave, channels between enclaves, and `ledgerd/1` at both of its ends."""

import zlib
from typing import Any, Final

import msgpack

from ledgerd.enclave import boundary, forwarding
from ledgerd.enclave.boundary import (
    CLIENT,
    OUTBOUND,
    PEER,
    Closed,
    Configured,
    Connect,
    Event,
    Fetch,
    Fetched,
    Framing,
    Opened,
    Ready,
    Received,
)
from ledgerd.enclave.channels import HELLO, Channels
from ledgerd.enclave.consensus import messages
from ledgerd.enclave.consensus.messages import AppendAccepted, AppendEntries, AppendRefused, ProposeVote, RequestVote, Vote
from ledgerd.enclave.http import Counters, Limits
from ledgerd.enclave.pipeline import REQUEST_ID_MAX, Call, PipelineConnection
from ledgerd.enclave.requests import JSON, Request, Response
from ledgerd.ledger.errors import FormatError, HostError, PeerError
from ledgerd.ledger.ids import NodeId
from ledgerd.network.client.frames import Decoder
from support.fuzzing.laws import Bound, BrokenLaw, Maker, Target
from support.tls import identity

NODE: Final = NodeId("ab" * 32)


def _nested(size: int) -> bytes:
    """Lists within lists, each of which announces nearly as many items as there are bytes; a thousand levels are read."""
    return (b"\xdd" + max(1, size - 16).to_bytes(4, "big")) * 1_000 + b"\xc0" * (size - 5_000)


NESTED_LISTS: Final = [
    *map(_nested, (5_000, 16_000, 60_000, 120_000, 1 << 20)),
    (b"\xdc\x3f\xff") * 1_000 + b"\xc0" * 20_000,
    b"\xdc\xff\xff" * 1_000 + b"\xc0" * 70_000,
    b"\x91" * 100_000,
    b"\xdf\x00\x00\xff\xff" * 900,
    b"\x81\xa1a" * 50_000,
    b"\xdd\x00\x01\x00\x00" + b"\x90" * 65_536,
    b"\xdd\x00\x10\x00\x00" + b"\x90" * (1 << 20),
    b"\xdd\x7f\xff\xff\xff",
    b"\xc6\x7f\xff\xff\xff",
    b"\xc9\x7f\xff\xff\xff\x01",
]
# Where lists of thousands of items are read, a thousand of them may be nested, and msgpack reserves room for at most 10,000 items of each.
# Nothing is written to it, so it is no memory of the machine's; to reserve and give back that often takes a tenth of a second.
_RESERVED: Final = Bound(seconds=1.6, memory_bytes=1_000 * 8 * 10_000 + (4 << 20))


def cut(data: bytes) -> list[bytes]:
    """Cut bytes into small pieces, not more than a few hundred, at places that depend on them."""
    size = zlib.crc32(data) % 37 + 1 + len(data) // 300
    return [data[at : at + size] for at in range(0, len(data), size)]


# The link.

_EVENTS: Final[list[list[Event]]] = [
    [Configured(b'{"mode": "start"}')],
    [Opened(1, CLIENT, "127.0.0.1:5"), Opened(2, PEER, "::1:6"), Received(1, b"hello"), Received(2, b"\x16\x03\x01")],
    [Closed(1), boundary.Stored(0, 2, 17), Fetched(3, [b"entry", b"", b"another"]), boundary.Stopping()],
    [Opened(-3, OUTBOUND, "n1.peer"), Received(-3, b"x" * 300), Closed(-3)],
    [Received(number, b"abc") for number in range(1, 30)],
]


def _is_event(event: Event) -> bool:
    """Whether the enclave can take it without looking at its form again."""
    if isinstance(event, Configured):
        return type(event.document) is bytes
    if isinstance(event, Opened):
        return type(event.stream) is int and event.stream != 0 and event.kind in (CLIENT, PEER, OUTBOUND) and type(event.remote) is str
    if isinstance(event, Received):
        return type(event.stream) is int and type(event.data) is bytes and event.data != b""
    if isinstance(event, boundary.Stored):
        return all(type(number) is int and number >= 0 for number in event)
    if isinstance(event, Fetched):
        return type(event.request) is int and type(event.entries) is list and all(type(data) is bytes for data in event.entries)
    return isinstance(event, boundary.Stopping) or type(event.stream) is int


def _link_events() -> Target:
    """One frame of the host's."""

    def judge(data: bytes) -> bool:
        try:
            events = boundary.decode_events(data)
        except HostError:
            return False
        if not all(map(_is_event, events)):
            raise BrokenLaw("an event that nobody could work with is taken")
        if boundary.decode_events(boundary.encode_events(events)) != events:
            raise BrokenLaw("events are read otherwise when they are written again")
        return True

    bombs = [
        *NESTED_LISTS,
        *(b"\xdd" + len(part).to_bytes(4, "big") + part for part in (b"\x90" * (1 << 20), b"\x93\x02\x01\xc4\x01x" * 60_000)),
    ]
    return Target("link-events", [boundary.encode_events(events) for events in _EVENTS], judge, bombs=bombs, bound=_RESERVED)


def _link_frames() -> Target:
    """The stream of frames, whole and in pieces, at either end."""
    sender = Framing()
    bodies = [boundary.encode_events(events) for events in _EVENTS]
    seeds = [b"".join(sender.frame(body) for body in bodies), sender.frame(bodies[0]) + bytes(8), sender.frame(b"x" * 300_000)]

    def read(parts: list[bytes]) -> tuple[list[bytes], str]:
        framing, found = Framing(), list[bytes]()
        try:
            for part in parts:
                left = part
                while left:
                    space = framing.space()
                    count = min(len(space), len(left))
                    space[:count] = left[:count]
                    framing.filled(count)
                    left = left[count:]
                    for body in framing.bodies():
                        found.append(bytes(body))  # one by one: those before a refusal count
        except HostError as error:
            return found, str(error)
        return found, ""

    def judge(data: bytes) -> bool:
        whole = read([data])
        if read(cut(data)) != whole:
            raise BrokenLaw("frames depend on how the stream was cut")
        return not whole[1]

    # A frame's body may be announced before it comes: one buffer of the largest frame's size.
    bound = Bound(memory_bytes=2 * boundary.FRAME_SIZE_BYTES_MAX + (1 << 20))
    return Target("link-frames", seeds, judge, bound=bound, tokens=[b"\x02\x00\x00\x00", bytes(8)], accepts_most=True)


def _ready(**changes: Any) -> bytes:
    ready = Ready()
    for name, value in changes.items():
        setattr(ready, name, value)
    return boundary.encode_ready(ready)


def _is_ready(ready: Ready) -> bool:
    """Whether a host can carry it out without looking again."""

    def number(value: Any) -> bool:
        return type(value) is int

    def streams(items: Any) -> bool:
        return type(items) is list and all(len(item) == 2 and number(item[0]) and type(item[1]) is bytes for item in items)

    def texts(items: Any) -> bool:
        return type(items) is list and all(len(item) == 2 and type(item[0]) is type(item[1]) is str for item in items)

    return (
        all(value is None or number(value) for value in (ready.truncate_after, ready.committed, ready.stop))
        and all(number(value) for value in (ready.generation, ready.view, ready.first_seqno, ready.patience_ms))
        and all(type(entry) is bytes for entry in ready.entries)
        and streams(ready.peer_bytes)
        and streams(ready.once_stored)
        and streams(ready.client_bytes)
        and all(number(item.stream) and type(item.host) is str and number(item.port) for item in ready.connects)
        and all(map(number, ready.closes))
        and all(all(map(number, item)) for item in ready.fetches)
        and texts(ready.logs)
        and texts(ready.notices)
    )


def _link_ready() -> Target:
    """One frame of the enclave's, which somebody else may have built."""
    seeds = [
        _ready(),
        _ready(
            truncate_after=4,
            generation=1,
            view=3,
            first_seqno=5,
            entries=[b"a", b"bc"],
            committed=4,
            patience_ms=1,
            once_stored=[(-1, b"s")],
        ),
        _ready(peer_bytes=[(-1, b"p")], client_bytes=[(1, b"c"), (2, b"d" * 400)], closes=[2, -1]),
        _ready(connects=[Connect(-2, "n1.peer", 9001)], fetches=[Fetch(1, 5, 9, 8 << 20)]),
        _ready(logs=[("info", "text")], notices=[("state", "x")], stop=0),
    ]

    def judge(data: bytes) -> bool:
        try:
            ready = boundary.decode_ready(data)
        except FormatError:
            return False
        if not _is_ready(ready):
            raise BrokenLaw("a Ready that cannot be carried out is taken")
        return True

    return Target("link-ready", seeds, judge, bombs=NESTED_LISTS, bound=_RESERVED)


# Between enclaves.


def _consensus_message() -> Target:
    """A message of a peer's enclave: attested, but perhaps not of this version."""
    digest = bytes(range(32))
    said: list[messages.Message] = [
        AppendEntries(3, 2, 7, 5, 3, 9, 6, digest, digest, [b"entry", b"another"]),  # type: ignore[arg-type]
        AppendEntries(2, 0, 0, 0, 2, 1, 0, bytes(32), bytes(32), []),  # type: ignore[arg-type]
        AppendAccepted(3, 9, 7, digest),  # type: ignore[arg-type]
        AppendRefused(3, 9, 7, 2, 5),  # type: ignore[arg-type]
        RequestVote(4, 3, 7, True, digest),  # type: ignore[arg-type]
        Vote(4, True, False, digest),  # type: ignore[arg-type]
        ProposeVote(4),  # type: ignore[arg-type]
    ]

    def judge(data: bytes) -> bool:
        try:
            message = messages.decode(data)
        except PeerError:
            return False
        if messages.decode(messages.encode(message)) != message:
            raise BrokenLaw("a message is read otherwise when it is written again")
        return True

    return Target("consensus-message", [messages.encode(message) for message in said], judge, bombs=NESTED_LISTS, bound=_RESERVED)


def _forwarded_request() -> Target:
    """A client's request, passed on by a backup."""
    seeds = [
        forwarding.encode_request(7, Request(None, "PUT", "/app/x", "a=b", {"prefer": "committed"}, b"body", b"DER", "ab" * 32)),
        forwarding.encode_request(1 << 40, Request(None, "GET", "/", "", {}, b"", None, "")),
    ]

    def judge(data: bytes) -> bool:
        try:
            request = forwarding.decode_request(NODE, data)
        except PeerError:
            return False
        if not all(type(name) is type(value) is str for name, value in request.headers.items()):
            raise BrokenLaw("a request with headers that are no text")
        reply_to = request.reply_to
        assert isinstance(reply_to, forwarding.RemoteReply)
        forwarding.encode_request(reply_to.number, request)
        return True

    return Target("forwarded-request", seeds, judge, bombs=NESTED_LISTS)


def _forwarded_answer() -> Target:
    """The primary's answer to it."""
    seeds = [
        forwarding.encode_answer(7, Response(200, (("x-ms-ccf-transaction-id", "2.7"),), b"{}", JSON)),
        forwarding.encode_answer(8, Response(204)),
    ]

    def judge(data: bytes) -> bool:
        try:
            number, response = forwarding.decode_answer(NODE, data)
        except PeerError:
            return False
        if not 100 <= response.status <= 599 or not all(type(name) is type(value) is str for name, value in response.headers):
            raise BrokenLaw(f"an answer that cannot be printed: {response.status}, {response.headers}")
        forwarding.encode_answer(number, response)
        return True

    return Target("forwarded-answer", seeds, judge, bombs=NESTED_LISTS)


class _Plain:
    """Stands for a TLS connection that is done with its handshake: what it is fed is what the peer says."""

    def __init__(self) -> None:
        self.established = True
        self.closed = False
        self.error = None

    def feed(self, data: bytes) -> list[bytes]:
        return [data]

    def take_output(self) -> bytes:
        return b""

    def close(self) -> None:
        self.closed = True


def _channels() -> Channels:
    service, own = _SERVICE, _NODE
    return Channels(
        NodeId("00" * 32),
        [own.certificate],
        own.key,  # type: ignore[arg-type]
        service.certificate,
        lambda node: False,
        address="n0.peer:9001",
        learn=lambda node, address: None,
    )


_SERVICE: Final = identity("service", authority=True)
_NODE: Final = identity("node", issuer=_SERVICE)


def _channel() -> Target:
    """What a peer's enclave says inside TLS: its number, then messages."""

    def framed(*said: bytes) -> bytes:
        return b"".join(len(message).to_bytes(4, "big") + message for message in said)

    hello = HELLO + (5).to_bytes(8, "big") + b"n1.peer:9001"
    seeds = [framed(hello, b"\0first", b"\1second" * 40, b"\2"), framed(hello), framed(hello, b"x" * 70_000)]

    channels = _channels()

    def read(parts: list[bytes]) -> tuple[list[tuple[NodeId, bytes]], list[str]]:
        channels._highest.clear()  # as if no channel had been before
        channels.accepted(1)
        channel = channels._channels[1]
        channel.tls = _Plain()  # type: ignore[assignment]
        channel.peer = NODE
        for part in parts:
            channels.received(1, part)
        channels.closed(1)
        channels.take_output()
        return channels.take_messages(), channels.take_failures()

    def judge(data: bytes) -> bool:
        whole = read([data])
        if read(cut(data)) != whole:
            raise BrokenLaw("messages depend on how the stream was cut")
        if any(not message for _, message in whole[0]):
            raise BrokenLaw("an empty message")
        return not whole[1]

    return Target("channel", seeds, judge, tokens=[HELLO, hello, bytes(4)], accepts_most=True)


def _channel_handshake() -> Target:
    """What anybody may send to the port for peers: TLS, or something else."""
    dialler = _channels()
    dialler.connect(NODE, -1)
    hello = dialler.take_output()[0][0][1]

    channels = _channels()

    def judge(data: bytes) -> bool:
        channels.accepted(1)
        for part in cut(data) if len(data) % 2 else [data]:
            channels.received(1, part)
        channels.closed(1)
        channels.take_output()
        if channels.take_messages():
            raise BrokenLaw("a message from whoever proved nothing")
        return not channels.take_failures()

    return Target(
        "channel-handshake", [hello, hello + bytes.fromhex("140303000101")], judge, bound=Bound(memory_bytes=1 << 20), accepts_most=True
    )


# `ledgerd/1`.


def _frame(*values: Any) -> bytes:
    packed: bytes = msgpack.packb(values)
    return len(packed).to_bytes(4, "big") + packed


_LIMITS: Final = Limits(body_bytes=5_000, header_bytes=1_000, target_bytes=300, waiting=8)
_CALLS: Final = [
    _frame(1, "PUT", "/app/records/1?x=y", {"content-type": "text/plain", "prefer": "committed"}, b"hello"),
    _frame(2, "GET", "/app/records/1", {}, b""),
    _frame(REQUEST_ID_MAX, "POST", "/", {"a": "b"}, b"x" * 900),
]
_ALIKE: Final = [  # but for the first, these are read without decoding their headers again
    b"".join(_frame(1000 + n, "PUT", f"/app/records/{n}", {"prefer": "committed"}, b"x" * n * 150) for n in range(5)),
    b"".join(
        _frame(100_000 + n, "PUT", f"/{'y' * n * 9}", {"prefer": "wait=9", "idempotency-key": f"2.1/{'k' * n * 9}"}, b"x") for n in range(5)
    ),
]


def _ledgerd1() -> Target:
    """What a client sends after it has chosen `ledgerd/1`."""
    seeds = [b"".join(_CALLS), *_CALLS, _CALLS[1] * 12, *_ALIKE]

    def read(parts: list[bytes]) -> tuple[list[Any], list[list[Any]], bool]:
        taken: list[Request] = []
        connection = PipelineConnection(None, taken, _LIMITS, Counters())
        said = b""
        for part in parts:
            connection.received(part)
            said += b"".join(connection.output)
            connection.output.clear()
        for request in taken:
            assert isinstance(request.reply_to, Call)
            connection.answer(request.reply_to, Response(200, (), b"yes", "text/plain"))
        said += b"".join(connection.output)
        requests = [(r.reply_to.number, r.method, r.path, r.query, tuple(r.headers.items()), r.body) for r in taken]  # type: ignore[attr-defined]
        return requests, sorted(_unpack(said), key=repr), connection.ended

    def judge(data: bytes) -> bool:
        whole = read([data])
        if read(cut(data)) != whole:
            raise BrokenLaw("requests depend on how the stream was cut")
        requests, answers, ended = whole
        frames = _split(data)
        if len(requests) > len(frames):
            raise BrokenLaw("more requests than frames")
        if requests != [request for frame in frames for request in read([frame])[0]][: len(requests)]:
            raise BrokenLaw("requests depend on what came before them")
        answered = sum(1 for answer in answers if answer[0] is not None)
        if not ended and answered != len(frames):
            raise BrokenLaw(f"{len(frames)} frames got {answered} answers, and the session goes on")
        if ended and not any(answer[0] is None for answer in answers):
            raise BrokenLaw("a session that ends without a word")
        return bool(requests)

    bombs = [
        len(bomb).to_bytes(4, "big") + bomb
        for bomb in (*NESTED_LISTS, b"\x95\x01\xa3GET\xa1/" + b"\xdf\x00\x00\x01\x00" + b"\xa1a\xa1b" * 256 + b"\xc4\0")
    ]
    return Target("ledgerd1", seeds, judge, bombs=bombs, accepts_most=True)


def _split(data: bytes) -> list[bytes]:
    """Its complete frames."""
    frames, at = [], 0
    while len(data) - at >= 4 and len(data) - at - 4 >= (size := int.from_bytes(data[at : at + 4], "big")):
        frames.append(data[at : at + 4 + size])
        at += 4 + size
    return frames


def _unpack(data: bytes) -> list[list[Any]]:
    found, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        found.append(msgpack.unpackb(data[at + 4 : at + 4 + size]))
        at += 4 + size
    return found


def _ledgerd1_client() -> Target:
    """What a node, or whoever is in its place, answers to the SDK."""
    answers = [
        _frame(1, 200, {"x-ms-ccf-transaction-id": "2.7"}, b"{}"),
        _frame(2, 204, {}, b""),
        _frame(None, 400, {}, b'{"error": {}}'),
        _frame(3, 200, {}, b"x" * 40_000),
    ]

    def read(parts: list[bytes]) -> tuple[list[Any], bool]:
        decoder, found = Decoder(), list[Any]()
        try:
            for part in parts:
                found += decoder.feed(part)
        except FormatError:
            return [], True
        return found, False

    def judge(data: bytes) -> bool:
        whole = read([data])
        if read(cut(data)) != whole:
            raise BrokenLaw("answers depend on how the stream was cut")
        for number, status, headers, body in whole[0]:
            if not type(number) is type(status) is int or type(body) is not bytes:
                raise BrokenLaw("an answer of other types")
            if not all(type(name) is type(value) is str for name, value in headers.items()):
                raise BrokenLaw("headers that are no text")
        return not whole[1]

    bombs = [len(bomb).to_bytes(4, "big") + bomb for bomb in NESTED_LISTS]
    return Target("ledgerd1-client", [b"".join(answers[:2]), answers[3], answers[0]], judge, bombs=bombs, accepts_most=True)


MAKERS: Final[dict[str, Maker]] = {
    "link-events": _link_events,
    "link-frames": _link_frames,
    "link-ready": _link_ready,
    "consensus-message": _consensus_message,
    "forwarded-request": _forwarded_request,
    "forwarded-answer": _forwarded_answer,
    "channel": _channel,
    "channel-handshake": _channel_handshake,
    "ledgerd1": _ledgerd1,
    "ledgerd1-client": _ledgerd1_client,
}
