"""`ledgerd/1`: requests and answers as length-prefixed msgpack, many in flight, answered in any order; `docs/formats/ledgerd-1.md`.

Same port, same TLS, same endpoints, limits and errors as HTTP; chosen by ALPN. It exists because one TLS record then carries many requests.
Not here: TLS and deadlines (`enclave.sessions`), HTTP (`enclave.http`).
"""

import re
from struct import Struct
from typing import Any, Final

import msgpack

from ledgerd.enclave.http import HEADER_FIELDS_MAX, METHODS, Counters, Limits, error_response
from ledgerd.enclave.idempotency import HEADER
from ledgerd.enclave.requests import Request, Response

REQUEST_ID_MAX: Final = (1 << 53) - 1  # what a double can hold, for clients in any language
_ENVELOPE_BYTES: Final = 64  # msgpack's own bytes around the five fields
_PREFIX_BYTES: Final = 4
_METHODS: Final = frozenset(METHODS)
_is_name: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]{1,256}").fullmatch
_is_value: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*").fullmatch
_is_path: Final = re.compile(r"/[\x21\x22\x24-\x7e]*").fullmatch  # visible ASCII without "#"
# A list costs a hundred times its byte, and time to match: a mebibyte of lists in lists takes a second. In frames above this size what is
# nested deeper than a request is refused as soon as it shows; in smaller ones looking would cost more than it saves.
_FLAT_SIZE_BYTES_MIN: Final = 4 << 10
_NAMES_MAX: Final = 4096
_ALIKE_SIZE_BYTES_MAX: Final = 512  # of headers that a connection remembers
_NUMBER_SIZES_BYTES: Final = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}  # msgpack's integers, by their first byte

_length_at: Final = Struct(">I").unpack_from
_pack: Final = msgpack.Packer().pack  # one for all: making it costs more than using it
_names: set[str] = set()


def _flat_list(items: list[Any]) -> list[Any]:
    """Called when a list is read to its end, those within it first. Raises: ValueError: There is a list in it."""
    if list in map(type, items):
        raise ValueError
    return items


def _flat_map(items: dict[Any, Any]) -> dict[Any, Any]:
    """As `_flat_list`, of maps, which hold neither lists nor maps in a request."""
    if not {list, dict}.isdisjoint(map(type, items.values())):
        raise ValueError
    return items


class Call:
    """Where the answer to one request goes; the `reply_to` of requests that came by `ledgerd/1`."""

    __slots__ = ("connection", "number")

    def __init__(self, connection: "PipelineConnection", number: int) -> None:
        self.connection = connection
        self.number = number


class _Alike:
    """Verb and headers that were read and found good, and their bytes: a client's next frames mostly have the same.

    Attributes:
        packed_method, packed_headers: As they stand in such a frame, before the target and after it.
        size: Of the headers, as limits count them.
        has_key: They end with an idempotency key, whose text is different in each frame and not among these.
    """

    __slots__ = ("has_key", "headers", "method", "packed_headers", "packed_method", "size")

    def __init__(self, method: str, headers: dict[str, str]) -> None:
        last = next(reversed(headers), "")
        self.has_key = last == HEADER
        self.method = method
        self.headers = headers.copy()
        self.packed_method: bytes = _pack(method)
        self.packed_headers: bytes = _pack(headers)
        self.size = _size(headers)
        if self.has_key:
            value = self.headers.pop(last)
            self.packed_headers = self.packed_headers[: -len(_pack(value))]
            self.size -= len(value)


class PipelineConnection:
    """The `ledgerd/1` side of one session; attributes as in `enclave.http.HttpConnection`."""

    __slots__ = (
        "_alike",
        "_body_max",
        "_buffer",
        "_counters",
        "_frame_size_max",
        "_headers_max",
        "_limits",
        "_others",
        "_requests",
        "_target_max",
        "_waiting_max",
        "buffered",
        "caller_id",
        "certificate",
        "ended",
        "finished",
        "incomplete",
        "output",
        "owner",
        "refused",
        "waiting",
    )

    def __init__(
        self,
        owner: object,
        requests: list[Request],
        limits: Limits,
        counters: Counters,
        certificate: bytes | None = None,
        caller_id: str = "",
    ) -> None:
        self.owner = owner
        self._requests = requests
        self._limits = limits
        self._body_max, self._headers_max = limits.body_bytes, limits.header_bytes  # as they are asked for with every request
        self._target_max, self._waiting_max = limits.target_bytes, limits.waiting
        self._counters = counters
        self.certificate = certificate
        self.caller_id = caller_id
        self._frame_size_max = limits.body_bytes + limits.header_bytes + limits.target_bytes + _ENVELOPE_BYTES
        self._buffer = bytearray()
        self._alike: _Alike | None = None
        self._others = 0  # frames that were not alike
        self.output: list[bytes] = []
        self.ended = False
        self.finished = False
        self.refused = False
        self.incomplete = False
        self.buffered = 0
        self.waiting = 0

    def received(self, data: bytes) -> None:
        """Read on; complete requests are appended to the list given at construction."""
        if self.ended:
            return
        buffer = self._buffer
        if buffer:
            buffer += data
            if len(buffer) >= _PREFIX_BYTES and len(buffer) - _PREFIX_BYTES < int.from_bytes(buffer[:4], "big") <= self._frame_size_max:
                self.buffered = len(buffer)
                return
            data = bytes(buffer)
            buffer.clear()
        offset = 0
        size = len(data)
        frame_size_max = self._frame_size_max
        while size - offset >= _PREFIX_BYTES:
            start = offset + _PREFIX_BYTES
            (length,) = _length_at(data, offset)
            if length > frame_size_max:
                self._refuse(None, 413, "RequestBodyTooLarge", f"A frame is larger than {frame_size_max} bytes.")
                return
            end = start + length
            if end > size:
                break
            if not self._take_alike(data, start, end):
                self._take(data[start:end])
                if self.ended:
                    return
            offset = end
        if offset < size:
            buffer += data[offset:]
        self.buffered = len(buffer)
        self.incomplete = self.buffered > 0

    def answer(self, call: Call, response: Response) -> None:
        """Print the answer to one request; it leaves with the next output, whatever came before it."""
        if self.finished:
            return
        self.output.append(_encode(call.number, response))
        self.waiting -= 1
        if self.ended and self.waiting == 0:
            self._finish()

    def refuse(self, status: int, code: str, message: str) -> None:
        """End the session with an error that belongs to no request."""
        if not self.ended:
            self._refuse(None, status, code, message)

    def close(self) -> None:
        """Forget everything; the session is gone. Later answers are dropped."""
        self._finish()
        self.output.clear()

    def _finish(self) -> None:
        self.ended = self.finished = True
        self.incomplete = False
        self._buffer.clear()
        self.buffered = 0
        self.waiting = 0

    def _refuse(self, number: int | None, status: int, code: str, message: str) -> None:
        self._counters.count(status)
        self.output.append(_encode(number, error_response(status, code, message)))
        self.ended = self.refused = True
        self.incomplete = False
        self._buffer.clear()
        self.buffered = 0
        if self.waiting == 0:
            self._finish()

    def _reject(self, number: int, status: int, code: str, message: str) -> None:
        self._counters.count(status)
        self.output.append(_encode(number, error_response(status, code, message)))

    def _take(self, frame: bytes) -> None:
        try:
            if len(frame) < _FLAT_SIZE_BYTES_MIN:
                item = msgpack.unpackb(frame, max_array_len=8, max_map_len=HEADER_FIELDS_MAX, max_ext_len=0)
            else:
                item = msgpack.unpackb(
                    frame, max_array_len=8, max_map_len=HEADER_FIELDS_MAX, max_ext_len=0, list_hook=_flat_list, object_hook=_flat_map
                )
        except (ValueError, msgpack.UnpackException, RecursionError):
            item = None
        if type(item) is not list or len(item) != 5:
            self._refuse(None, 400, "InvalidInput", "A frame must be the msgpack array [id, method, target, headers, body].")
            return
        number, method, target, headers, body = item
        if type(number) is not int or not 0 <= number <= REQUEST_ID_MAX:
            self._refuse(None, 400, "InvalidInput", "The id of a request must be an integer from 0 to 2^53 - 1.")
            return
        if type(method) is not str or type(target) is not str or type(headers) is not dict or type(body) is not bytes:
            self._reject(number, 400, "InvalidInput", "A request is [id: int, method: str, target: str, headers: map, body: bin].")
            return
        limits = self._limits
        if len(body) > limits.body_bytes:
            self._reject(number, 413, "RequestBodyTooLarge", f"The request's body is larger than {limits.body_bytes} bytes.")
            return
        if len(target) > limits.target_bytes:
            self._reject(number, 414, "RequestHeaderTooLarge", f"The request target is longer than {limits.target_bytes} bytes.")
            return
        if method not in _METHODS:
            self._reject(number, 501, "NotImplemented", "The verb is not known here; verbs are upper-case.")
            return
        if _is_path(target) is None:
            self._reject(number, 400, "InvalidInput", "The target must be a path that begins with /, in visible ASCII, without fragment.")
            return
        if headers and not self._headers_are_good(number, headers):
            return
        if self._others % 8 == 0 and _size(headers) <= _ALIKE_SIZE_BYTES_MAX:  # rarely, where no two frames in a row are alike
            self._alike = _Alike(method, headers)
        self._others += 1
        self._accept(number, method, target, headers, body)

    def _take_alike(self, data: bytes, at: int, end: int) -> bool:
        """Read the frame `data[at:end]`, if verb and headers have the bytes of an earlier one; in half the time of `_take`.

        Accepts nothing that `_take` would not, and reads the same from it. Where anything is unusual, it does nothing.
        """
        alike = self._alike
        if alike is None:
            return False
        try:
            size = _NUMBER_SIZES_BYTES.get(data[at + 1], 0)
            if data[at] != 0x95 or not size:
                return False
            at += 2 + size
            number = int.from_bytes(data[at - size : at], "big")
            if number > REQUEST_ID_MAX or not data.startswith(alike.packed_method, at):
                return False
            target_at, at = _text_at(data, at + len(alike.packed_method))
            if at - target_at > self._target_max or not data.startswith(alike.packed_headers, at):
                return False
            target = data[target_at:at].decode("ascii")
            if _is_path(target) is None:
                return False
            at += len(alike.packed_headers)
            headers = alike.headers.copy()
            header_size = alike.size
            if alike.has_key:
                key_at, at = _text_at(data, at)
                key = data[key_at:at].decode("ascii")
                if _is_value(key) is None:
                    return False
                headers[HEADER] = key
                header_size += at - key_at
            size = data[at + 1]
            if data[at] == 0xC4:
                at += 2
            elif data[at] == 0xC5:
                size = size << 8 | data[at + 2]
                at += 3
            else:
                return False
        except (IndexError, ValueError):
            return False
        if at + size != end or size > self._body_max or header_size > self._headers_max:
            return False
        self._accept(number, alike.method, target, headers, data[at:end])
        return True

    def _accept(self, number: int, method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        self.waiting += 1
        call = Call(self, number)
        if self.waiting > self._waiting_max:
            self.answer(call, error_response(503, "TooManyPendingTransactions", "Too many requests of this session wait for an answer."))
            return
        path, _, query = target.partition("?")
        self._requests.append(Request(call, method, path, query, headers, body, self.certificate, self.caller_id))

    def _headers_are_good(self, number: int, headers: dict[Any, Any]) -> bool:
        for name, value in headers.items():
            if type(name) is not str or type(value) is not str or (name not in _names and not _learn(name)) or not _is_value(value):
                self._reject(number, 400, "InvalidInput", "Headers map lower-case tokens to text without control characters.")
                return False
        if _size(headers) > self._limits.header_bytes:
            self._reject(number, 431, "RequestHeaderTooLarge", f"The request's header is larger than {self._limits.header_bytes} bytes.")
            return False
        return True


def _text_at(data: bytes, at: int) -> tuple[int, int]:
    """Where a text that msgpack packs with one or two bytes before it begins and ends. Raises: ValueError: There is none. IndexError."""
    size = data[at] - 0xA0
    if size == 0xD9 - 0xA0:
        return at + 2, at + 2 + data[at + 1]
    if not 0 <= size < 32:
        raise ValueError
    return at + 1, at + 1 + size


def _size(headers: dict[str, str]) -> int:
    """As limits count it."""
    size = 0
    for name, value in headers.items():
        size += len(name) + len(value) + 4
    return size


def _learn(name: str) -> bool:
    if _is_name(name) is None:
        return False
    if len(_names) >= _NAMES_MAX:
        _names.clear()
    _names.add(name)
    return True


def _encode(number: int | None, response: Response) -> bytes:
    status, headers, body, content_type = response
    fields = dict(headers)
    if len(fields) != len(headers):
        fields = {}
        for name, value in headers:
            fields[name] = f"{fields[name]}, {value}" if name in fields else value
    if content_type:
        fields["content-type"] = content_type
    packed: bytes = _pack((number, status, fields, body))
    return len(packed).to_bytes(_PREFIX_BYTES, "big") + packed
