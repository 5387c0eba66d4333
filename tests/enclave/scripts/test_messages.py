"""The door for what workers say: exact forms pass, everything else is one error."""

import contextlib
import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledgerd.enclave.scripts import messages
from ledgerd.enclave.scripts.messages import Frames, WorkerError, frame, read

GOOD: list[list[Any]] = [
    [messages.HELLO, ["own-process"]],
    [messages.SET, "m", b"k", b"v"],
    [messages.DELETE, "m", b"k"],
    [messages.CLEAR, "m"],
    [messages.GET, "m", b""],
    [messages.HAS, "m", b"k"],
    [messages.VERSION, "m", b"k"],
    [messages.SIZE, "m"],
    [messages.PAGE, "m", None, None, 256],
    [messages.PAGE, "m", b"k", b"l", 1],
    [messages.CALL, "pemToId", ["x", 1, 1.5, None, True, b"y", [{"a": b"z"}]]],
    [messages.LOG, "info", "text"],
    [messages.DONE, "json", b"1"],
    [messages.RESPONSE, 200, [["a", "b"]], "text", b"x"],
    [messages.FAILED, "exception", "Error", ""],
]


def nested(depth: int) -> Any:
    """A list in a list in a list."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


BAD: list[Any] = [
    [],
    None,
    7,
    "text",
    {},
    [7],
    [[]],
    [["x"]],
    [[None]],
    [[True, "m"]],
    [[messages.JOB, 1]],
    [[messages.ANSWER, 1]],
    [[99]],
    [[-1]],
    [[messages.SET, "m", b"k"]],
    [[messages.SET, "m", b"k", "v"]],
    [[messages.SET, "m", b"k", b"v", b"w"]],
    [[messages.SET, "", b"k", b"v"]],
    [[messages.SET, "m" * 257, b"k", b"v"]],
    [[messages.SET, b"m", b"k", b"v"]],
    [[messages.SET, "m", b"k" * ((1 << 20) + 1), b"v"]],
    [[messages.GET, "m", "k"]],
    [[messages.GET, "m", None]],
    [[messages.SIZE, "m", b"k"]],
    [[messages.PAGE, "m", 1, None, 1]],
    [[messages.PAGE, "m", None, "l", 1]],
    [[messages.PAGE, "m", None, None, 0]],
    [[messages.PAGE, "m", None, None, 257]],
    [[messages.PAGE, "m", None, None, True]],
    [[messages.PAGE, "m", None]],
    [[messages.CALL, "f", "x"]],
    [[messages.CALL, "f", [nested(40)]]],
    [[messages.CALL, "f", [1] * 17]],
    [[messages.LOG, "loud", "x"]],
    [[messages.LOG, "info", "x" * ((16 << 10) + 1)]],
    [[messages.DONE, "json", "1"]],
    [[messages.DONE, "yaml", b"1"]],
    [[messages.DONE, ["json"], b"1"]],
    [[messages.RESPONSE, "200", [], "text", b""]],
    [[messages.RESPONSE, 1 << 40, [], "text", b""]],
    [[messages.RESPONSE, 200, [["a"]], "text", b""]],
    [[messages.RESPONSE, 200, [["a", b"b"]], "text", b""]],
    [[messages.RESPONSE, 200, [["a", "b"]] * 257, "text", b""]],
    [[messages.FAILED, "conflict", "", ""]],
    [[messages.FAILED, "done", "", ""]],
    [[messages.FAILED, ["exception"], "", ""]],
    [[messages.HELLO, "words"]],
    [[messages.HELLO, ["w"] * 17]],
]


@pytest.mark.parametrize("message", GOOD, ids=lambda message: str(message[:2]))
def test_every_message_of_a_worker_s_passes(message: list[Any]) -> None:
    assert read(msgpack.packb([message])) == [message]


@pytest.mark.parametrize("body", BAD, ids=lambda body: str(body)[:40])
def test_every_other_form_is_refused(body: Any) -> None:
    with pytest.raises(WorkerError):
        read(msgpack.packb(body))


def test_a_good_message_does_not_excuse_a_bad_one() -> None:
    with pytest.raises(WorkerError):
        read(msgpack.packb([GOOD[0], BAD[14][0]]))


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_messages_or_one_error(body: bytes) -> None:
    with contextlib.suppress(WorkerError):
        assert type(read(body)) is list


@settings(deadline=None)
@given(st.sampled_from(GOOD), st.data())
def test_a_flipped_byte_is_another_message_or_one_error(message: list[Any], data: st.DataObject) -> None:
    body = bytearray(msgpack.packb([message]))
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] ^= data.draw(st.integers(1, 255))
    try:
        (found,) = read(bytes(body)) or [[0]]
    except (WorkerError, ValueError) as error:
        assert isinstance(error, WorkerError) or "unpack" in str(error)
    else:
        assert type(found[0]) is int


@settings(deadline=None)
@given(st.lists(st.binary(max_size=50), max_size=5), st.integers(1, 20))
def test_frames_come_out_as_they_went_in_however_they_are_cut(bodies: list[bytes], step: int) -> None:
    frames = Frames()
    stream = b"".join(frame([body]) for body in bodies)
    found = [body for at in range(0, len(stream), step) for body in frames.feed(stream[at : at + step])]
    assert [msgpack.unpackb(body) for body in found] == [[body] for body in bodies]


def test_a_frame_longer_than_any_is_refused_before_it_is_held() -> None:
    with pytest.raises(WorkerError, match="limit"):
        list(Frames().feed(b"\xff\xff\xff\xff"))


@pytest.mark.parametrize("kind", [[], {}, 7])
def test_a_frame_of_many_small_things_is_refused_before_they_are_made(kind: Any) -> None:
    """A worker in the wrong hands may say 32 MiB of them: two gigabytes of the enclave's memory, and half a minute of its loop."""
    few = [[messages.CALL, "f", [[kind] * 60_000]]]
    assert read(msgpack.packb(few)) == few
    many = msgpack.packb([[messages.CALL, "f", [[[kind] * 60_000] * 15] * 15]])
    tracemalloc.start()
    try:
        with pytest.raises(WorkerError, match="too many items"):
            read(many)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 100 << 20, "all of it would be a gigabyte"
