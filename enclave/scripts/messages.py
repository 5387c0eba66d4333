"""The words between enclave and worker, msgpack behind a length, and the one door for what a worker says.

A worker runs what nobody has vouched for, so it may be anybody's: `read` takes nothing on trust, and gives only messages of the exact
form, within bounds, or a WorkerError, upon which the worker is killed. Whether a message is in place is for `enclave.scripts.run`.
What the enclave sends is written here too; the worker reads it without care, since the enclave could do anything to it anyway.

A frame is a list of messages, so that what came about together goes in one write. A message is a list: a number from below, then fields.
"""

import struct
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Final

import msgpack

from ledgerd.enclave.scripts.access import NAME_LENGTH_MAX
from ledgerd.enclave.scripts.jobs import KINDS, SOURCES_BYTES_MAX, End
from ledgerd.ledger.errors import LedgerdError

# To the worker.
BUNDLE: Final = 1  # id, {name: source}
FORGET: Final = 2  # id of a bundle
JOB: Final = 3  # see `job_message`
ANSWER: Final = 4  # to the last operation that needs one
REFUSAL: Final = 5  # the same, as an exception with this text

# From the worker.
HELLO: Final = 10  # [words]: how it is kept apart
SET: Final = 11  # map, key, value
DELETE: Final = 12  # map, key
CLEAR: Final = 13  # map
GET: Final = 14  # map, key -> value or None
HAS: Final = 15  # map, key -> bool
VERSION: Final = 16  # map, key -> int or None
SIZE: Final = 17  # map -> int
PAGE_ENTRIES_MAX: Final = 256  # one answer's worth of `forEach`
PAGE: Final = 18  # map, start or None, end or None, how many at most -> [[key, value]...], whether there may be more
CALL: Final = 19  # name, [arguments] -> anything
LOG: Final = 20  # level, text
DONE: Final = 21  # kind, data
RESPONSE: Final = 22  # status, [[name, value]...], kind, data
FAILED: Final = 23  # end, text, trace

LEVELS: Final = ("info", "warning", "error")

KEY_BYTES_MAX: Final = 1 << 20
VALUE_BYTES_MAX: Final = 16 << 20
TEXT_LENGTH_MAX: Final = 16 << 10  # of an exception's text, of its trace, of a log line
HEADERS_MAX: Final = 256
ARGUMENTS_MAX: Final = 16  # of a call into the enclave
DEPTH_MAX: Final = 32  # of its arguments
ITEMS_MAX: Final = 1 << 16  # in any list or dict
MESSAGES_MAX: Final = 1 << 16  # in a frame
FRAME_BYTES_MAX: Final = SOURCES_BYTES_MAX + (16 << 20)
# In all lists and dicts of a frame together. What a frame costs goes by these, not by its bytes: one of 30 MiB of empty lists takes 2 GiB
# and half a minute of the enclave's own loop. An honest worker has said what it has to before it comes to half as many.
FRAME_ITEMS_MAX: Final = 1 << 18
CALL_ITEMS_MAX: Final = FRAME_ITEMS_MAX // 4  # in the arguments of one call, for a script that is to be told rather than stopped
_UNCOUNTED_BYTES_MAX: Final = 64 << 10  # smaller frames cannot hold enough of anything
_LENGTH: Final = struct.Struct(">I")


class WorkerError(LedgerdError):
    """A script worker broke the protocol: kill it, and believe nothing of its current jobs."""

    code: ClassVar[str] = "WorkerError"
    end: ClassVar[End] = End.CRASHED


class LookedError(WorkerError):
    """A script looks at more than it may, which only the enclave can know; its worker may be honest, but must be stopped."""

    code: ClassVar[str] = "LookedError"
    end: ClassVar[End] = End.OPERATIONS


def frame(messages: list[Any]) -> bytes:
    """A list of messages as bytes."""
    body: bytes = msgpack.packb(messages, use_bin_type=True)
    return _LENGTH.pack(len(body)) + body


def packed(messages: list[Any]) -> bytes:
    """Messages as bytes, for `frame_of`."""
    return b"".join(msgpack.packb(message, use_bin_type=True) for message in messages)


def frame_of(data: bytes, count: int) -> bytes:
    """A frame of `count` messages that are packed already."""
    return b"".join((_LENGTH.pack(len(data) + 5), b"\xdd", _LENGTH.pack(count), data))


class Frames:
    """Cuts what arrives into frames' bodies, holding at most one frame that is not complete."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take bytes; give the bodies of frames that are complete.

        Raises: WorkerError: A frame is longer than any can be.
        """
        buffer = self._data
        buffer += data
        while len(buffer) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(buffer)[0]
            if end > FRAME_BYTES_MAX:
                raise WorkerError(f"a frame of {end} bytes; the limit is {FRAME_BYTES_MAX}")
            if len(buffer) < end:
                return
            body = bytes(buffer[_LENGTH.size : end])
            del buffer[:end]
            yield body


def read(body: bytes) -> list[list[Any]]:
    """The messages in a frame from a worker, each of its exact form.

    Raises: WorkerError: Something else.
    """
    try:
        messages = msgpack.unpackb(
            body,
            raw=False,
            strict_map_key=True,
            max_array_len=min(ITEMS_MAX, len(body)),  # without which nested heads of lists alone would reserve half a gigabyte
            max_map_len=ITEMS_MAX,
            max_ext_len=0,
            max_bin_len=VALUE_BYTES_MAX,
            max_str_len=VALUE_BYTES_MAX,
            list_hook=(count := _counting(len(body))),
            object_hook=count,
        )
    except Exception as error:  # msgpack raises many kinds, for bytes that anybody may have written
        raise WorkerError(f"a frame that is no msgpack, or of too many items: {type(error).__name__}") from None
    if type(messages) is not list or not 0 < len(messages) <= MESSAGES_MAX:
        raise WorkerError("a frame that is no list of messages")  # an empty one costs its worker nothing, and could be said for ever
    for message in messages:
        if type(message) is not list or not message or type(message[0]) is not int:
            raise WorkerError("a message without a number")
        check = _CHECKS.get(message[0])
        if check is None or not check(message):
            raise WorkerError(f"message {message[0]} is malformed, or not one of a worker's")
    return messages


def _counting(size_bytes: int) -> Callable[[Any], Any] | None:
    """A hook that counts what lists and dicts hold, and raises ValueError at more than FRAME_ITEMS_MAX; None for small frames."""
    if size_bytes <= _UNCOUNTED_BYTES_MAX:
        return None
    left = FRAME_ITEMS_MAX

    def count(items: Any) -> Any:
        nonlocal left
        left -= 1 + len(items)
        if left < 0:
            raise ValueError
        return items

    return count


def _is_map(name: Any) -> bool:
    return type(name) is str and 0 < len(name) <= NAME_LENGTH_MAX


def _is_key(key: Any) -> bool:
    return type(key) is bytes and len(key) <= KEY_BYTES_MAX


def _is_text(text: Any) -> bool:
    return type(text) is str and len(text) <= TEXT_LENGTH_MAX


def _names_key(message: list[Any]) -> bool:
    return len(message) == 3 and _is_map(message[1]) and _is_key(message[2])


def _names_map(message: list[Any]) -> bool:
    return len(message) == 2 and _is_map(message[1])


def _is_set(message: list[Any]) -> bool:
    return len(message) == 4 and _is_map(message[1]) and _is_key(message[2]) and type(message[3]) is bytes


def _is_page(message: list[Any]) -> bool:
    if len(message) != 5 or not _is_map(message[1]) or type(message[4]) is not int or not 0 < message[4] <= PAGE_ENTRIES_MAX:
        return False
    return all(bound is None or _is_key(bound) for bound in message[2:4])


def _is_value(value: Any, depth: int = 0) -> bool:
    if type(value) is list:
        return depth < DEPTH_MAX and all(_is_value(item, depth + 1) for item in value)
    if type(value) is dict:
        return depth < DEPTH_MAX and all(type(key) is str and _is_value(item, depth + 1) for key, item in value.items())
    return value is None or type(value) in (bool, int, float, str, bytes)


def _is_call(message: list[Any]) -> bool:
    return (
        len(message) == 3
        and _is_map(message[1])
        and type(message[2]) is list
        and len(message[2]) <= ARGUMENTS_MAX
        and _is_value(message[2])
    )


def _is_log(message: list[Any]) -> bool:
    return len(message) == 3 and message[1] in LEVELS and _is_text(message[2])


def _is_result(kind: Any, data: Any) -> bool:
    return type(kind) is str and kind in KINDS and type(data) is bytes


def _is_done(message: list[Any]) -> bool:
    return len(message) == 3 and _is_result(message[1], message[2])


def _is_response(message: list[Any]) -> bool:
    if len(message) != 5 or type(message[1]) is not int or type(message[2]) is not list or len(message[2]) > HEADERS_MAX:
        return False
    if not -(1 << 31) <= message[1] < 1 << 31 or not _is_result(message[3], message[4]):
        return False
    return all(type(pair) is list and len(pair) == 2 and _is_text(pair[0]) and _is_text(pair[1]) for pair in message[2])


def _is_failed(message: list[Any]) -> bool:
    return len(message) == 4 and type(message[1]) is str and message[1] in _OWN_ENDS and _is_text(message[2]) and _is_text(message[3])


def _is_hello(message: list[Any]) -> bool:
    return len(message) == 2 and type(message[1]) is list and len(message[1]) <= 16 and all(_is_text(word) for word in message[1])


# How a worker may say that a run ended; the other ends are for the enclave to see.
_OWN_ENDS: Final = frozenset(
    end.value for end in (End.INVALID, End.EXCEPTION, End.DEADLINE, End.MEMORY, End.STACK, End.OUTPUT, End.OPERATIONS)
)

_CHECKS: Final = {
    HELLO: _is_hello,
    SET: _is_set,
    DELETE: _names_key,
    CLEAR: _names_map,
    GET: _names_key,
    HAS: _names_key,
    VERSION: _names_key,
    SIZE: _names_map,
    PAGE: _is_page,
    CALL: _is_call,
    LOG: _is_log,
    DONE: _is_done,
    RESPONSE: _is_response,
    FAILED: _is_failed,
}
