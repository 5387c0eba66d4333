"""What crosses the link between host and enclave: events in, `Ready` out, as msgpack; never hashed, never signed.

The only module of the enclave that a host imports, and the one door for what the host says: `decode_events` checks every
byte of form here, once. Whether a reply is *true* (a stored entry, a fetched range) is checked by whoever asked for it.
A frame is a batch: all that one wake-up found, or all that one wake-up produced. Framing and credit are here too, sans-IO,
since both ends need the very same rules. Sockets and clocks are in `enclave.runtime.link` and `node.host`.
"""

import struct
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any, Final, NamedTuple, TypeAlias

import msgpack

from ledgerd.ledger.errors import FormatError, HostError, UsageError

LINK_PORT_DEFAULT: Final = 7000  # vsock; where an image connects to its host, and the host listens. AWS's own init uses 9000
FRAME_SIZE_BYTES_MAX: Final = 32 << 20  # one fetched range (8 MiB) and a full credit window of client bytes fit well inside
WINDOW_BYTES: Final = 8 << 20  # credit each way: a thousand busy clients' bytes, and all that a receiver ever has to hold besides one frame
READY_BYTES_MAX: Final = 8 << 20  # a larger Ready leaves in several frames
_ITEM_BYTES: Final = 512  # what an item of a Ready counts for beside its bytes
# A frame of nothing but empty lists would take 70 bytes of memory for each of its own. Small frames may: a mebibyte becomes 75 MB for
# a moment. In larger ones, of large data and few items, items are counted: that costs a call for each list, too much for every frame.
UNCOUNTED_BYTES_MAX: Final = 1 << 20
ITEMS_MAX: Final = 1 << 20  # a million connections' worth, and 100 MB at most
# Events in one frame, items in one list: a wake-up that has more uses several frames. Room for a list is reserved when it is announced (by
# our version of msgpack for at most 10,000 items), and lists may be nested a thousand deep by who means harm: 80 MB that nobody touches.
LIST_MAX: Final = 1 << 14
STREAM_MAX: Final = 1 << 53
HOST_LENGTH_MAX: Final = 255  # of a name that an enclave wants to be connected to

# Kinds of byte streams. The host numbers those it accepts, upward from 1; the enclave numbers those it asks for, downward from -1.
CLIENT: Final = 0
PEER: Final = 1
OUTBOUND: Final = 2


class Configured(NamedTuple):
    """First event of all: the node's configuration, JSON, read by `enclave.configuration`."""

    document: bytes


class Opened(NamedTuple):
    """A stream exists: accepted (CLIENT, PEER), or connected as the enclave asked (OUTBOUND)."""

    stream: int
    kind: int
    remote: str


class Received(NamedTuple):
    """Bytes of a stream, in order."""

    stream: int
    data: bytes


class Closed(NamedTuple):
    """The stream is gone, whoever ended it; nothing more will be said of it."""

    stream: int


class Stored(NamedTuple):
    """Everything up to `view.seqno` of append generation `generation` is on disk, synced."""

    generation: int
    view: int
    seqno: int


class Fetched(NamedTuple):
    """Answer to a fetch: consecutive entries from the first asked for; empty if the host has none."""

    request: int
    entries: list[bytes]


class Stopping(NamedTuple):
    """The operator asked the host to stop; shown as `stop_notice`."""


Event: TypeAlias = Configured | Opened | Received | Closed | Stored | Fetched | Stopping

_TAGS: Final[tuple[type[Any], ...]] = (Configured, Opened, Received, Closed, Stored, Fetched, Stopping)
_TAG_OF: Final = {kind: tag for tag, kind in enumerate(_TAGS)}
_pack: Final = msgpack.Packer().pack  # one for all frames: making it costs more than using it
_OPENED: Final = _TAG_OF[Opened]
_RECEIVED: Final = _TAG_OF[Received]
_CLOSED: Final = _TAG_OF[Closed]


def encode_events(events: list[Event]) -> bytes:
    """Pack a batch of events (host side)."""
    packed: bytes = _pack([(_TAG_OF[type(event)], *event) for event in events])
    return packed


def encode_streams(
    opened: list[tuple[int, int, str]], received: list[tuple[int, bytes]], closed: list[int], others: list[Event]
) -> list[bytes]:
    """As `encode_events`, from plain tuples: what streams did, in this order, and then the others (host side, every wake-up).

    Returns: One frame; several where there are more than LIST_MAX events.
    """
    items: list[Any] = [(_RECEIVED, stream, data) for stream, data in received]
    if opened:
        items = [(_OPENED, *item) for item in opened] + items
    items.extend((_CLOSED, stream) for stream in closed)
    items.extend((_TAG_OF[type(event)], *event) for event in others)
    if len(items) <= LIST_MAX:
        return [_pack(items)]
    return [_pack(items[start : start + LIST_MAX]) for start in range(0, len(items), LIST_MAX)]


def decode_events(frame: bytes | memoryview) -> list[Event]:
    """Unpack and check a batch of events from the host.

    Raises: HostError: The frame is not a list of well-formed events within the limits above.
    """
    try:
        items = msgpack.unpackb(
            # A list cannot have more items than bytes; without this bound nested list headers alone would reserve half a gigabyte.
            frame,
            max_array_len=min(LIST_MAX, len(frame)),
            max_map_len=0,
            max_ext_len=0,
            max_str_len=4096,
            max_bin_len=FRAME_SIZE_BYTES_MAX,
            list_hook=_counting(frame),
        )
    except (ValueError, msgpack.UnpackException) as error:
        raise HostError(f"the host sent a frame of {len(frame)} bytes that is not msgpack: {type(error).__name__}") from None
    if type(items) is not list:
        raise HostError("the host sent a frame that is not a list of events")
    events: list[Event] = []
    for item in items:
        # Client and peer bytes are nearly all there is, so they are looked at first.
        if type(item) is list and len(item) == 3 and item[0] == _RECEIVED and type(item[1]) is int and type(item[2]) is bytes and item[2]:
            events.append(Received(item[1], item[2]))
        else:
            events.append(_decode_rare(item))
    return events


def _counting(frame: bytes | memoryview) -> Callable[[Any], Any] | None:
    """A hook that counts what lists and maps hold, and raises ValueError at more than ITEMS_MAX; None for small frames."""
    if len(frame) <= UNCOUNTED_BYTES_MAX:
        return None
    left = ITEMS_MAX

    def count(items: Any) -> Any:
        nonlocal left
        left -= len(items) + 1
        if left < 0:
            raise ValueError("too many items")
        return items

    return count


def _decode_rare(item: Any) -> Event:
    if type(item) is not list or not item or type(item[0]) is not int or not 0 <= item[0] < len(_TAGS):
        raise HostError("the host sent an event without a known tag")
    kind = _TAGS[item[0]]
    fields = item[1:]
    if len(fields) != len(kind._fields) or not _SHAPES[kind](fields):
        raise HostError(f"the host sent a malformed {kind.__name__} event")
    event: Event = kind(*fields)
    return event


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= STREAM_MAX


def _is_stream(value: Any) -> bool:
    return type(value) is int and 0 < abs(value) <= STREAM_MAX


_SHAPES: Final[dict[type[Any], Any]] = {
    Configured: lambda f: type(f[0]) is bytes,
    Opened: lambda f: (
        _is_stream(f[0]) and f[1] in (CLIENT, PEER, OUTBOUND) and type(f[1]) is int and type(f[2]) is str and len(f[2]) <= 256
    ),
    Received: lambda f: _is_stream(f[0]) and type(f[1]) is bytes and len(f[1]) > 0,
    Closed: lambda f: _is_stream(f[0]),
    Stored: lambda f: all(_is_count(value) for value in f),
    Fetched: lambda f: _is_count(f[0]) and type(f[1]) is list and all(type(entry) is bytes for entry in f[1]),
    Stopping: lambda f: True,
}


class Fetch(NamedTuple):
    """Ask for entries `first`, `first + 1`, ... up to and including the first signature entry with seqno > `through`.

    The host may stop earlier, at `size_max` bytes, but gives at least one entry if it has it.
    """

    request: int
    first: int
    through: int
    size_max: int


class Connect(NamedTuple):
    """Open a TCP stream to `host:port` under the enclave's (negative) number; answered by Opened or Closed."""

    stream: int
    host: str
    port: int


_READY_FIELDS: Final = (
    "client_bytes",
    "closes",
    "committed",
    "connects",
    "entries",
    "fetches",
    "first_seqno",
    "generation",
    "logs",
    "notices",
    "once_stored",
    "patience_ms",
    "peer_bytes",
    "stop",
    "truncate_after",
    "view",
)


class Ready:
    """What the host must do now, in this order.

    1. `truncate_after`: forget entries above it. Storing first would delete the new suffix.
    2. `entries`: store from `first_seqno` on and sync; report `Stored(generation, ...)`, within `patience_ms` if nothing else is to be
       said before. `generation` grows with every truncation, so that a sync that ends after one acknowledges nothing. Do not wait for the
       sync to do the rest.
    3. `committed`: entries up to it will never be truncated.
    4. `peer_bytes`, then `client_bytes`: send; drop the stream (and say Closed) when its buffer is full, never wait. Both may as well be
       sent before anything is stored.
       `once_stored`, sealed after `peer_bytes`: send once all entries of this Ready and earlier ones are on disk, before anything that a
       later Ready has for the same stream. It tells a peer that they are, without a detour through this enclave.
    5. `connects`, `closes` (after what was sent is flushed), `fetches`.
    6. `logs` (level, text) and `notices` (name, text): tell the operator.
       Notices: `isolation`, `node_id`, `service_certificate` (PEM), `state`, `open`, `refused` (why the node cannot go on), `retired`,
       `public_name_sealed` (base64, to be kept), `public_name_request` (PEM).
    7. `stop`: exit status with which the node ends, or None.
    """

    __slots__ = _READY_FIELDS

    def __init__(self) -> None:
        self.truncate_after: int | None = None
        self.generation = 0
        self.view = 0  # of the last entry in `entries`, to be repeated in Stored
        self.first_seqno = 0
        self.patience_ms = 0
        self.entries: list[bytes] = []
        self.committed: int | None = None
        self.once_stored: list[tuple[int, bytes]] = []
        self.peer_bytes: list[tuple[int, bytes]] = []
        self.client_bytes: list[tuple[int, bytes]] = []
        self.connects: list[Connect] = []
        self.closes: list[int] = []
        self.fetches: list[Fetch] = []
        self.logs: list[tuple[str, str]] = []
        self.notices: list[tuple[str, str]] = []
        self.stop: int | None = None

    def is_empty(self) -> bool:
        """True when there is nothing to do."""
        return not (
            self.entries
            or self.once_stored
            or self.peer_bytes
            or self.client_bytes
            or self.connects
            or self.closes
            or self.fetches
            or self.logs
            or self.notices
            or self.truncate_after is not None
            or self.committed is not None
            or self.stop is not None
        )


_fields_of: Final = attrgetter(*_READY_FIELDS)


def encode_ready(ready: Ready) -> bytes:
    """Pack a Ready (enclave side)."""
    packed: bytes = _pack(_fields_of(ready))
    return packed


def encode_ready_frames(ready: Ready) -> list[bytes]:
    """Pack a Ready for the link: one frame nearly always, several when it is larger than READY_BYTES_MAX, or has lists above LIST_MAX.

    Carried out one after the other, the frames do what the whole would do. Entries in all frames but the last that has any carry view 0:
    the host stores them and reports only the last.
    """
    size = sum(map(len, ready.entries)) + sum(len(data) for _, data in ready.peer_bytes) + sum(len(data) for _, data in ready.client_bytes)
    items = len(ready.entries) + len(ready.peer_bytes) + len(ready.client_bytes) + len(ready.closes) + len(ready.logs) + len(ready.fetches)
    if size <= READY_BYTES_MAX and items <= LIST_MAX:
        return [encode_ready(ready)]
    return [encode_ready(part) for part in _split(ready)]


def _split(ready: Ready) -> Iterator[Ready]:
    """Cut into parts of about READY_BYTES_MAX each (an item larger than that stays whole), in the order of Ready's docstring.

    Each item counts for so many bytes more that no list becomes longer than LIST_MAX.
    """
    part = Ready()
    part.truncate_after, part.generation, part.first_seqno = ready.truncate_after, ready.generation, ready.first_seqno
    room = READY_BYTES_MAX
    for data in ready.entries:
        if room < len(data) + _ITEM_BYTES and part.entries:
            yield part
            following = Ready()
            following.generation, following.first_seqno = ready.generation, part.first_seqno + len(part.entries)
            part, room = following, READY_BYTES_MAX
        part.entries.append(data)
        room -= len(data) + _ITEM_BYTES
    part.view, part.patience_ms, part.committed = ready.view, ready.patience_ms, ready.committed
    for name in ("peer_bytes", "client_bytes"):
        for stream, whole in getattr(ready, name):
            # Bytes of a stream may be cut anywhere.
            for start in range(0, len(whole), READY_BYTES_MAX - _ITEM_BYTES):
                piece = whole[start : start + READY_BYTES_MAX - _ITEM_BYTES]
                if room < len(piece) + _ITEM_BYTES:
                    yield part
                    part, room = Ready(), READY_BYTES_MAX
                getattr(part, name).append((stream, piece))
                room -= len(piece) + _ITEM_BYTES
    part.connects = ready.connects
    for name in ("closes", "fetches", "logs"):
        items = getattr(ready, name)
        for start in range(0, len(items), LIST_MAX):
            if start:
                yield part
                part = Ready()
            setattr(part, name, items[start : start + LIST_MAX])
    part.once_stored = ready.once_stored  # not before: it follows the peer's other bytes
    part.notices, part.stop = ready.notices, ready.stop
    yield part


# Each field, and of what type it is while it asks for nothing: None, 0, or a list without items.
_EMPTY_READY: Final = tuple((name, type(getattr(Ready(), name))) for name in _READY_FIELDS)

# msgpack knows no tuples: what becomes of the items of these lists.
_ITEMS: Final[dict[str, Callable[[Any], Any]]] = {
    "once_stored": tuple,
    "peer_bytes": tuple,
    "client_bytes": tuple,
    "connects": Connect._make,
    "fetches": Fetch._make,
    "logs": tuple,
    "notices": tuple,
}


def decode_ready(frame: bytes | memoryview) -> Ready:
    """Unpack a Ready and check its form completely (host side): whose enclave this is, and of which version, is its builder's choice.

    Raises: FormatError: The frame is not a Ready that could be carried out.
    """
    count = _counting(frame)
    try:
        values = msgpack.unpackb(frame, max_array_len=min(LIST_MAX, len(frame)), max_ext_len=0, list_hook=count, object_hook=count)
    except (ValueError, msgpack.UnpackException) as error:
        raise FormatError(
            f"the enclave sent a frame of {len(frame)} bytes that is not msgpack ({type(error).__name__}); are both of one version?"
        ) from None
    if type(values) is not list or len(values) != len(_READY_FIELDS):
        raise FormatError("the enclave sent a frame that is no Ready; are enclave and host of one version?")
    ready = Ready()
    for (name, empty), value in zip(_EMPTY_READY, values, strict=True):
        if not value and type(value) is empty:
            continue  # nothing to do, as most of a Ready says; a new one has it so
        if not _READY_SHAPES[name](value):
            raise FormatError(f"the enclave sent a Ready with malformed {name}; are enclave and host of one version?")
        setattr(ready, name, list(map(_ITEMS[name], value)) if name in _ITEMS else value)
    return ready


def _is_optional_count(value: Any) -> bool:
    return value is None or _is_count(value)


def _is_stream_bytes(value: Any) -> bool:
    if type(value) is not list:
        return False
    for item in value:  # noqa: SIM110 - every frame with answers comes by here, and a generator costs twice as much
        if type(item) is not list or len(item) != 2 or type(item[0]) is not int or type(item[1]) is not bytes:
            return False
    return True


def _is_texts(value: Any) -> bool:
    return type(value) is list and all(type(item) is list and len(item) == 2 and type(item[0]) is type(item[1]) is str for item in value)


def _is_connects(value: Any) -> bool:
    return type(value) is list and all(
        type(item) is list
        and len(item) == 3
        and _is_stream(item[0])
        and type(item[1]) is str
        and 0 < len(item[1]) <= HOST_LENGTH_MAX
        and item[1].isascii()
        and item[1].isprintable()
        and type(item[2]) is int
        and 0 < item[2] < 1 << 16
        for item in value
    )


_READY_SHAPES: Final[dict[str, Callable[[Any], bool]]] = {
    "client_bytes": _is_stream_bytes,
    "closes": lambda value: type(value) is list and all(map(_is_stream, value)),
    "committed": _is_optional_count,
    "connects": _is_connects,
    "entries": lambda value: type(value) is list and set(map(type, value)) <= {bytes},
    "fetches": lambda value: (
        type(value) is list and all(type(item) is list and len(item) == len(Fetch._fields) and all(map(_is_count, item)) for item in value)
    ),
    "first_seqno": _is_count,
    "generation": _is_count,
    "logs": _is_texts,
    "notices": _is_texts,
    "once_stored": _is_stream_bytes,
    "patience_ms": _is_count,
    "peer_bytes": _is_stream_bytes,
    "stop": lambda value: value is None or (type(value) is int and 0 <= value < 256),
    "truncate_after": _is_optional_count,
    "view": _is_count,
}


_HEADER: Final = struct.Struct("!II")  # length of the body, credit granted; both in bytes
_BUFFER_BYTES: Final = 256 << 10  # one read of a UNIX socket gives at most about 200 KiB


_COUNTED: Final = ("bytes_received", "bytes_sent", "frames_received", "frames_sent", "waits")


class Traffic:
    """What has passed one end of the link since it began.

    Attributes:
        frames_received, frames_sent: Those with a body; what only grants credit counts as bytes alone.
        bytes_received, bytes_sent: All of them, headers too.
        waits: How often a frame used up all credit, so that the next had to wait for the other end.
    """

    __slots__ = _COUNTED

    def __init__(self) -> None:
        self.frames_received = 0
        self.bytes_received = 0
        self.frames_sent = 0
        self.bytes_sent = 0
        self.waits = 0

    def numbers(self) -> dict[str, int]:
        """All of them, by name."""
        return {name: getattr(self, name) for name in _COUNTED}


class Framing:
    """Frames and credit at one end of the link, without a socket.

    A frame is two big-endian 32-bit numbers, length of the body and credit granted, and the body. Each end starts with
    WINDOW_BYTES of credit, may send a body while it has any left (so the last one may overdraw it), and gets back what the
    other end has dealt with. A frame without body only grants, and needs no credit: so two ends that wait for each other
    always learn what they wait for.

    Receiving: read into `space()`, tell `filled(n)`, take `bodies()`; when a body was dealt with, `consumed(n)`.
    Sending: while `credit > 0`, `frame(body)`; else wait for `credit` to grow. `grant()` says what must be sent even without a body.

    Attributes:
        credit: Bytes of bodies that may still be sent; negative when overdrawn.
        traffic: What has passed.
    """

    __slots__ = ("_buffer", "_due", "_end", "_start", "_window", "credit", "traffic")

    def __init__(self) -> None:
        self.credit = WINDOW_BYTES
        self.traffic = Traffic()
        self._window = WINDOW_BYTES  # what the other end may still send
        self._due = 0  # consumed, not yet granted
        self._buffer = bytearray(_BUFFER_BYTES)
        self._start = 0
        self._end = 0

    def space(self) -> memoryview:
        """Where to read to; never empty. Invalidates the bodies handed out before."""
        if self._start == self._end:
            self._start = self._end = 0
            if len(self._buffer) > _BUFFER_BYTES:
                self._buffer = bytearray(_BUFFER_BYTES)
        needed = self._needed()
        if self._start and (self._end == len(self._buffer) or self._start + needed > len(self._buffer)):
            # A new buffer, not a move within the old one: somebody may still hold a view of it.
            rest = self._buffer[self._start : self._end]
            self._buffer = bytearray(max(_BUFFER_BYTES, needed))
            self._buffer[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        elif needed > len(self._buffer):
            grown = bytearray(needed)
            grown[: self._end] = self._buffer[: self._end]
            self._buffer = grown
        return memoryview(self._buffer)[self._end :]

    def _needed(self) -> int:
        """Size of the frame that has begun to arrive."""
        if self._end - self._start < _HEADER.size:
            return _HEADER.size
        length: int = _HEADER.unpack_from(self._buffer, self._start)[0]
        return _HEADER.size + min(length, FRAME_SIZE_BYTES_MAX)

    def filled(self, count: int) -> None:
        """`count` bytes were read into the space."""
        self._end += count
        self.traffic.bytes_received += count

    def bodies(self) -> Iterator[memoryview]:
        """The complete bodies that have arrived, in order; valid until the next `space()`. Credit granted to us is booked on the way.

        Raises: HostError: A frame is larger than FRAME_SIZE_BYTES_MAX, was sent without credit, or grants more than was ever used.
        """
        while self._end - self._start >= _HEADER.size:
            length, granted = _HEADER.unpack_from(self._buffer, self._start)
            if length > FRAME_SIZE_BYTES_MAX:
                raise HostError(f"a frame of {length} bytes on the link; the limit is {FRAME_SIZE_BYTES_MAX}")
            if length and self._window <= 0:
                raise HostError(f"a frame of {length} bytes on the link without credit")
            body = self._start + _HEADER.size
            if self._end < body + length:
                return
            self._start = body + length
            self.credit += granted
            if self.credit > WINDOW_BYTES:
                raise HostError(f"a frame on the link grants {granted} bytes of credit, more than was used")
            if length:
                self._window -= length
                self.traffic.frames_received += 1
                yield memoryview(self._buffer)[body : body + length]

    def consumed(self, count: int) -> None:
        """`count` bytes of bodies are dealt with: the other end may send as many again."""
        self._due += count

    def frame(self, body: bytes) -> bytes:
        """Frame a body with all credit that is due.

        Raises: UsageError: There is no credit, or the body is empty or larger than FRAME_SIZE_BYTES_MAX.
        """
        if self.credit <= 0 or not 0 < len(body) <= FRAME_SIZE_BYTES_MAX:
            raise UsageError(f"cannot send a frame of {len(body)} bytes with credit {self.credit}")
        self.credit -= len(body)
        traffic = self.traffic
        traffic.frames_sent += 1
        traffic.bytes_sent += _HEADER.size + len(body)
        traffic.waits += self.credit <= 0
        return _HEADER.pack(len(body), self._take_due()) + body

    def grant(self) -> bytes:
        """A frame that only grants, when a quarter of the window waits to be granted; else nothing: it travels with the next body."""
        if self._due < WINDOW_BYTES // 4:
            return b""
        self.traffic.bytes_sent += _HEADER.size
        return _HEADER.pack(0, self._take_due())

    def _take_due(self) -> int:
        due, self._due = self._due, 0
        self._window += due
        return due
