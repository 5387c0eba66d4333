"""What crosses the link between host and enclave: events in, `Ready` out, as msgpack; never hashed, never signed.

The only module of the enclave that a host imports, and the one door for what the host says: `decode_events` checks every
byte of form here, once. Whether a reply is *true* (a stored entry, a fetched range) is checked by whoever asked for it.
A frame is a batch: all that one wake-up found, or all that one wake-up produced.
Framing, credit and sockets are `enclave.runtime.link` and `ledgerd.network.frames`.
"""

from typing import Any, Final, NamedTuple, TypeAlias

import msgpack

from ledgerd.ledger.errors import FormatError, HostError

FRAME_SIZE_BYTES_MAX: Final = 32 << 20  # one fetched range (8 MiB) and a full credit window of client bytes fit well inside
EVENTS_MAX: Final = 1 << 16  # events in one frame; a wake-up of 10,000 busy connections needs fewer
STREAM_MAX: Final = 1 << 53

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
_RECEIVED: Final = _TAG_OF[Received]


def encode_events(events: list[Event]) -> bytes:
    """Pack a batch of events (host side)."""
    packed: bytes = msgpack.packb([(_TAG_OF[type(event)], *event) for event in events])
    return packed


def decode_events(frame: bytes) -> list[Event]:
    """Unpack and check a batch of events from the host.

    Raises: HostError: The frame is not a list of well-formed events within the limits above.
    """
    try:
        items = msgpack.unpackb(
            frame, max_array_len=EVENTS_MAX, max_map_len=0, max_ext_len=0, max_str_len=4096, max_bin_len=FRAME_SIZE_BYTES_MAX
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


class Ready:
    """What the host must do now, in this order.

    1. `truncate_after`: forget entries above it. Storing first would delete the new suffix.
    2. `entries`: store from `first_seqno` on and sync; report `Stored(generation, ...)`. `generation` grows with every truncation,
       so that a sync that ends after one acknowledges nothing. Do not wait for the sync to do the rest.
    3. `committed`: entries up to it will never be truncated.
    4. `peer_bytes`, then `client_bytes`: send; drop the stream (and say Closed) when its buffer is full, never wait.
    5. `connects`, `closes` (after what was sent is flushed), `fetches`.
    6. `logs` (level, text) and `metrics` (name to number) and `notices` (name, text): tell the operator.
       Notices: `isolation`, `node_id`, `service_certificate` (PEM), `state`, `open`, `refused` (why the node cannot go on).
    7. `stop`: exit status with which the node ends, or None.
    """

    __slots__ = (
        "client_bytes",
        "closes",
        "committed",
        "connects",
        "entries",
        "fetches",
        "first_seqno",
        "generation",
        "logs",
        "metrics",
        "notices",
        "peer_bytes",
        "stop",
        "truncate_after",
        "view",
    )

    def __init__(self) -> None:
        self.truncate_after: int | None = None
        self.generation = 0
        self.view = 0  # of the last entry in `entries`, to be repeated in Stored
        self.first_seqno = 0
        self.entries: list[bytes] = []
        self.committed: int | None = None
        self.peer_bytes: list[tuple[int, bytes]] = []
        self.client_bytes: list[tuple[int, bytes]] = []
        self.connects: list[Connect] = []
        self.closes: list[int] = []
        self.fetches: list[Fetch] = []
        self.logs: list[tuple[str, str]] = []
        self.metrics: dict[str, int | float] = {}
        self.notices: list[tuple[str, str]] = []
        self.stop: int | None = None

    def is_empty(self) -> bool:
        """True when there is nothing to do."""
        return not (
            self.entries
            or self.peer_bytes
            or self.client_bytes
            or self.connects
            or self.closes
            or self.fetches
            or self.logs
            or self.metrics
            or self.notices
            or self.truncate_after is not None
            or self.committed is not None
            or self.stop is not None
        )


def encode_ready(ready: Ready) -> bytes:
    """Pack a Ready (enclave side)."""
    packed: bytes = msgpack.packb([getattr(ready, name) for name in Ready.__slots__])
    return packed


def decode_ready(frame: bytes) -> Ready:
    """Unpack a Ready (host side). The host believes its own enclave about form, but says so if it cannot read it.

    Raises: FormatError: The frame is not a Ready; enclave and host are not of one version.
    """
    try:
        values = msgpack.unpackb(frame, max_buffer_size=FRAME_SIZE_BYTES_MAX, use_list=True)
        ready = Ready()
        for name, value in zip(Ready.__slots__, values, strict=True):
            setattr(ready, name, value)
        ready.connects = [Connect(*item) for item in ready.connects]
        ready.fetches = [Fetch(*item) for item in ready.fetches]
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise FormatError(f"the enclave sent a frame the host cannot read ({type(error).__name__}); are both of one version?") from None
    return ready
