import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledgerd.enclave.boundary import (
    FRAME_SIZE_BYTES_MAX,
    ITEMS_MAX,
    LIST_MAX,
    READY_BYTES_MAX,
    UNCOUNTED_BYTES_MAX,
    WINDOW_BYTES,
    Closed,
    Connect,
    Event,
    Fetch,
    Framing,
    Opened,
    Ready,
    Received,
    Stored,
    decode_events,
    decode_ready,
    encode_events,
    encode_ready,
    encode_ready_frames,
    encode_streams,
)
from ledgerd.ledger.errors import FormatError, HostError, UsageError


def feed(framing: Framing, data: bytes, piece: int) -> list[bytes]:
    """Feed bytes in pieces of at most `piece`, as a socket would give them."""
    bodies: list[bytes] = []
    at = 0
    while at < len(data):
        space = framing.space()
        count = min(piece, len(space), len(data) - at)
        space[:count] = data[at : at + count]
        framing.filled(count)
        at += count
        bodies += [bytes(body) for body in framing.bodies()]
    return bodies


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=20), st.integers(1, 400))
def test_bodies_arrive_whole_and_in_order_however_the_stream_is_cut(bodies: list[bytes], piece: int) -> None:
    sender = Framing()
    assert feed(Framing(), b"".join(sender.frame(body) for body in bodies), piece) == bodies


@pytest.mark.parametrize("size", [(256 << 10) - 8, (256 << 10) - 7, 256 << 10, 3 << 20])
def test_a_frame_larger_than_the_buffer_arrives_between_small_ones(size: int) -> None:
    sender = Framing()
    bodies = [b"before", bytes(size), b"after"]
    assert feed(Framing(), b"".join(sender.frame(body) for body in bodies), 200_000) == bodies


def test_a_body_that_is_cut_off_is_not_given() -> None:
    data = Framing().frame(b"body")
    receiver = Framing()
    for cut in range(1, len(data)):
        assert feed(receiver, data[cut - 1 : cut], 1) == []


def test_a_frame_above_the_limit_is_refused_by_its_header() -> None:
    with pytest.raises(HostError, match="limit"):
        feed(Framing(), struct.pack("!II", FRAME_SIZE_BYTES_MAX + 1, 0), 8)


def test_the_last_frame_may_overdraw_the_credit_and_the_next_is_refused() -> None:
    receiver = Framing()
    feed(receiver, struct.pack("!II", WINDOW_BYTES + 5, 0) + bytes(WINDOW_BYTES + 5), 1 << 20)
    with pytest.raises(HostError, match="without credit"):
        feed(receiver, struct.pack("!II", 1, 0), 8)


def test_sending_without_credit_is_a_bug_of_ours() -> None:
    sender = Framing()
    sender.frame(bytes(WINDOW_BYTES))
    assert sender.credit == 0
    with pytest.raises(UsageError):
        sender.frame(b"more")


def test_credit_that_was_never_used_cannot_be_granted() -> None:
    with pytest.raises(HostError, match="more than was used"):
        feed(Framing(), struct.pack("!II", 0, 1), 8)


@given(st.lists(st.integers(1, 3 << 20), min_size=1, max_size=30))
def test_two_ends_never_wait_for_each_other_for_ever(sizes: list[int]) -> None:
    # Whatever was sent, once the receiver has dealt with all of it the sender may send again, if need be by a frame that only grants.
    sender, receiver = Framing(), Framing()
    for size in sizes:
        if sender.credit <= 0:
            feed(sender, receiver.grant(), 8)
        assert sender.credit > 0
        for body in feed(receiver, sender.frame(bytes(size)), 1 << 20):
            receiver.consumed(len(body))


def test_credit_travels_with_the_next_body() -> None:
    sender, receiver = Framing(), Framing()
    feed(receiver, sender.frame(b"12345"), 100)
    receiver.consumed(5)
    assert receiver.grant() == b""
    assert feed(sender, receiver.frame(b"answer"), 100) == [b"answer"]
    assert sender.credit == WINDOW_BYTES


EVENTS: list[Event] = [Opened(3, 0, "1.2.3.4:5"), Received(3, b"abc"), Received(-1, b"x"), Closed(3), Stored(1, 2, 3)]


def test_streams_are_packed_as_the_events_that_they_are() -> None:
    (packed,) = encode_streams([(3, 0, "1.2.3.4:5")], [(3, b"abc"), (-1, b"x")], [3], [Stored(1, 2, 3)])
    assert packed == encode_events(EVENTS)
    assert decode_events(memoryview(packed)) == EVENTS


@pytest.mark.parametrize("cut", range(len(encode_events(EVENTS))))
def test_events_that_are_cut_off_are_refused(cut: int) -> None:
    with pytest.raises(HostError):
        decode_events(encode_events(EVENTS)[:cut])


@given(st.data())
def test_a_frame_of_events_that_was_changed_gives_well_formed_events_or_a_refusal(data: st.DataObject) -> None:
    frame = bytearray(encode_events(EVENTS))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    try:
        events = decode_events(bytes(frame))
    except HostError:
        return
    assert decode_events(encode_events(events)) == events


@pytest.mark.parametrize(
    "frame",
    [
        b"\xdd\x00\x01\x00\x00" * 1000,
        b"\x91" * 100_000,
        b"\x91\x80",
        b"\x81\x01\x02",
        b"\xc7\x00\x05",
        b"\x91\xd6\xff\0\0\0\0",
        b"\x91\x93\x02\x01\xa1x",
        b"",
    ],
)
def test_frames_made_to_harm_are_refused(frame: bytes) -> None:
    with pytest.raises(HostError):
        decode_events(frame)


def test_a_small_ready_is_one_frame() -> None:
    ready = Ready()
    ready.client_bytes = [(1, b"a")]
    (frame,) = encode_ready_frames(ready)
    assert decode_ready(frame).client_bytes == [(1, b"a")]


def test_a_ready_comes_out_with_the_types_that_it_declares() -> None:
    """msgpack makes lists of tuples; compiled code believes a declaration, and raises TypeError where it is not true."""
    ready = Ready()
    ready.client_bytes, ready.peer_bytes, ready.logs, ready.notices = [(1, b"a")], [(2, b"b")], [("info", "c")], [("state", "d")]
    ready.once_stored = [(3, b"e")]
    ready.connects, ready.fetches = [Connect(-1, "host", 443)], [Fetch(1, 2, 3, 4)]
    decoded = decode_ready(encode_ready(ready))
    for name in ("client_bytes", "peer_bytes", "once_stored", "logs", "notices", "connects", "fetches"):
        assert [(type(item), item) for item in getattr(decoded, name)] == [(type(item), item) for item in getattr(ready, name)]


def test_a_large_ready_is_several_frames_that_do_the_same() -> None:
    ready = Ready()
    ready.truncate_after, ready.generation, ready.view, ready.first_seqno, ready.committed = 6, 4, 9, 7, 5
    ready.entries = [bytes([number]) * (3 << 20) for number in range(7)]
    ready.peer_bytes = [(-1, b"p" * (1 << 20)), (-2, b"q")]
    ready.patience_ms, ready.once_stored = 7, [(-2, b"stored")]
    ready.client_bytes = [(1, b"a" * (20 << 20)), (2, b"b")]
    ready.connects, ready.closes, ready.fetches = [Connect(-3, "h", 1)], [2], [Fetch(1, 2, 3, 4)]
    ready.stop = 0
    parts = [decode_ready(frame) for frame in encode_ready_frames(ready)]
    assert len(parts) > 3
    assert all(len(frame) < 2 * READY_BYTES_MAX for frame in encode_ready_frames(ready))
    assert [part.truncate_after for part in parts] == [6] + [None] * (len(parts) - 1)
    stored: list[bytes] = []
    for part in parts:
        if part.entries:
            assert part.generation == 4
            assert part.first_seqno == 7 + len(stored)
            stored += part.entries
            assert part.view == (9 if len(stored) == 7 else 0), "only the end of the whole batch may be reported"
            assert part.patience_ms == (7 if len(stored) == 7 else 0)
    assert stored == ready.entries
    for name in ("peer_bytes", "client_bytes"):
        whole: dict[int, bytes] = {}
        for part in parts:
            for stream, data in getattr(part, name):
                whole[stream] = whole.get(stream, b"") + data
        assert list(whole.items()) == getattr(ready, name)
    assert [part.closes for part in parts[:-1]] == [[]] * (len(parts) - 1)
    assert [part.once_stored for part in parts[:-1]] == [[]] * (len(parts) - 1), "it follows what else the peer gets"
    last = parts[-1]
    assert last.once_stored == [(-2, b"stored")]
    assert (last.connects, last.closes, last.fetches, last.stop) == (ready.connects, ready.closes, ready.fetches, 0)
    assert [part.committed for part in parts if part.committed is not None] == [5]


def packed_array(items: bytes, count: int) -> bytes:
    return b"\xdd" + count.to_bytes(4, "big") + items


def test_a_large_frame_of_many_small_lists_is_refused_before_they_fill_the_memory() -> None:
    """Each of a frame's bytes would become 70: before items were counted, 32 MiB of them took 2.3 GB and 22 s."""
    lists = packed_array(b"\x90" * 100, 100)
    frame = packed_array(lists * (LIST_MAX - 1), LIST_MAX - 1)
    assert UNCOUNTED_BYTES_MAX < len(frame) < WINDOW_BYTES
    assert ITEMS_MAX < 101 * (LIST_MAX - 1)
    with pytest.raises(HostError, match="not msgpack: ValueError"):
        decode_events(frame)


def test_as_many_events_as_one_frame_may_have_are_not_too_many() -> None:
    events: list[Event] = [Received(1, bytes(100))] * LIST_MAX
    frame = encode_events(events)
    assert len(frame) > UNCOUNTED_BYTES_MAX
    assert len(decode_events(frame)) == LIST_MAX
    with pytest.raises(HostError):
        decode_events(encode_events([*events, Closed(1)]))


def test_a_wake_up_with_more_events_than_a_frame_may_have_gives_several_frames() -> None:
    """A network that breaks ends a hundred thousand streams at once."""
    closed = list(range(1, 2 * LIST_MAX + 10))
    frames = encode_streams([(7, 0, "a")], [(7, b"x")], closed, [Stored(1, 2, 3)])
    assert len(frames) == 3
    assert [event for frame in frames for event in decode_events(frame)] == [
        *(Opened(7, 0, "a"), Received(7, b"x")),
        *map(Closed, closed),
        Stored(1, 2, 3),
    ]


def test_a_ready_of_too_many_items_is_refused_and_never_made() -> None:
    ready = Ready()
    ready.client_bytes = [(1, b"a" * 100)] * LIST_MAX
    frame = encode_ready(ready)
    assert len(frame) > UNCOUNTED_BYTES_MAX
    assert len(decode_ready(frame).client_bytes) == LIST_MAX
    ready.client_bytes.append((1, b"one more"))
    with pytest.raises(FormatError):
        decode_ready(encode_ready(ready))
    ready.closes = list(range(1, 2 * LIST_MAX + 2))
    ready.logs = [("info", "text")] * 3
    ready.entries = [b"e"] * (LIST_MAX + 5)
    ready.first_seqno, ready.view, ready.generation, ready.committed, ready.stop = 9, 4, 2, 8, 1
    parts = [decode_ready(frame) for frame in encode_ready_frames(ready)]
    assert [entry for part in parts for entry in part.entries] == ready.entries
    assert [tuple(item) for part in parts for item in part.client_bytes] == ready.client_bytes
    assert [stream for part in parts for stream in part.closes] == ready.closes
    assert [tuple(item) for part in parts for item in part.logs] == ready.logs
    assert [part.stop for part in parts if part.stop is not None] == [parts[-1].stop] == [1]
    assert [part.view for part in parts if part.entries][-1] == 4
    following = 9
    for part in parts:
        if part.entries:
            assert part.first_seqno == following
            following += len(part.entries)


@pytest.mark.parametrize(
    "change",
    [
        {"entries": ["text"]},
        {"client_bytes": [(1, "text")]},
        {"client_bytes": [(1, b"a", 2)]},
        {"peer_bytes": [7]},
        {"once_stored": [(-1, None)]},
        {"patience_ms": -1},
        {"closes": [0]},
        {"connects": [(1, "host", 0)]},
        {"connects": [(1, "", 80)]},
        {"connects": [(1, "a\0b", 80)]},
        {"connects": [(1, "h" * 256, 80)]},
        {"fetches": [(1, 2, 3)]},
        {"fetches": [(1, -2, 3, 4)]},
        {"logs": [("info",)]},
        {"notices": [("state", b"bytes")]},
        {"committed": -1},
        {"view": None},
        {"stop": 256},
        {"stop": True},
    ],
    ids=str,
)
def test_a_ready_that_could_not_be_carried_out_is_refused(change: dict[str, object]) -> None:
    ready = Ready()
    for name, value in change.items():
        setattr(ready, name, value)
    with pytest.raises(FormatError, match=next(iter(change))):
        decode_ready(encode_ready(ready))
