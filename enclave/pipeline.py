"""`ledgerd/1`: requests and answers as length-prefixed msgpack, many in flight, answered in any order; `docs/formats/ledgerd-1.md`.

Same port, same TLS, same endpoints, limits and errors as HTTP; chosen by ALPN. It exists because one TLS record then carries many requests.
Not here: TLS and deadlines (`enclave.sessions`), HTTP (`enclave.http`).
"""

import re
from typing import Any, Final

import msgpack

from ledgerd.enclave.http import HEADER_FIELDS_MAX, METHODS, Counters, Limits, error_response
from ledgerd.enclave.requests import Request, Response

REQUEST_ID_MAX: Final = (1 << 53) - 1  # what a double can hold, for clients in any language
_ENVELOPE_BYTES: Final = 64  # msgpack's own bytes around the five fields
_PREFIX_BYTES: Final = 4
_METHODS: Final = frozenset(METHODS)
_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]{1,256}")
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_PATH: Final = re.compile(r"/[\x21\x22\x24-\x7e]*")  # visible ASCII without "#"
# A list costs a hundred times its byte, and time to match: a mebibyte of lists in lists takes a second. In frames above this size what is
# nested deeper than a request is refused as soon as it shows; in smaller ones looking would cost more than it saves.
_FLAT_SIZE_BYTES_MIN: Final = 4 << 10
_NAMES_MAX: Final = 4096
_GOOD_MAX: Final = 256
_GOOD_SIZE_BYTES_MAX: Final = 512

_pack: Final = msgpack.Packer().pack  # one for all: making it costs more than using it
_names: set[str] = set()
_good_sizes: dict[tuple[tuple[str, str], ...], int] = {}  # headers of earlier requests, text all of it, and their sizes


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


class PipelineConnection:
    """The `ledgerd/1` side of one session; attributes as in `enclave.http.HttpConnection`."""

    __slots__ = (
        "_buffer",
        "_counters",
        "_frame_size_max",
        "_limits",
        "_requests",
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
        self._counters = counters
        self.certificate = certificate
        self.caller_id = caller_id
        self._frame_size_max = limits.body_bytes + limits.header_bytes + limits.target_bytes + _ENVELOPE_BYTES
        self._buffer = bytearray()
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
        take = self._take
        while size - offset >= _PREFIX_BYTES:
            start = offset + _PREFIX_BYTES
            length = int.from_bytes(data[offset:start], "big")
            if length > frame_size_max:
                self._refuse(None, 413, "RequestBodyTooLarge", f"A frame is larger than {frame_size_max} bytes.")
                return
            end = start + length
            if end > size:
                break
            take(data[start:end])
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
        if _PATH.fullmatch(target) is None:
            self._reject(number, 400, "InvalidInput", "The target must be a path that begins with /, in visible ASCII, without fragment.")
            return
        if headers and not self._headers_are_good(number, headers):
            return
        self.waiting += 1
        call = Call(self, number)
        if self.waiting > limits.waiting:
            self.answer(call, error_response(503, "TooManyPendingTransactions", "Too many requests of this session wait for an answer."))
            return
        path, _, query = target.partition("?")
        self._requests.append(Request(call, method, path, query, headers, body, self.certificate, self.caller_id))

    def _headers_are_good(self, number: int, headers: dict[Any, Any]) -> bool:
        # Clients repeat their headers: what was judged good is not judged again.
        block = tuple(headers.items())
        try:
            known = _good_sizes.get(block)
        except TypeError:  # a value that is a map or a list
            known = None
        if known is not None and known <= self._limits.header_bytes:
            return True
        size = 0
        for name, value in headers.items():
            if type(name) is not str or type(value) is not str or (name not in _names and not _learn(name)) or not _VALUE.fullmatch(value):
                self._reject(number, 400, "InvalidInput", "Headers map lower-case tokens to text without control characters.")
                return False
            size += len(name) + len(value) + 4
        if size > self._limits.header_bytes:
            self._reject(number, 431, "RequestHeaderTooLarge", f"The request's header is larger than {self._limits.header_bytes} bytes.")
            return False
        if size <= _GOOD_SIZE_BYTES_MAX:
            if len(_good_sizes) >= _GOOD_MAX:
                _good_sizes.clear()  # or one client's inventions would keep everybody's out for ever
            _good_sizes[block] = size
        return True


def _learn(name: str) -> bool:
    if _NAME.fullmatch(name) is None:
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
