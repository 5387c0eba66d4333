"""HTTP/1.1 for clients, sans-IO: plaintext of one session in, requests out; responses in, plaintext out.

llhttp (httptools) finds the boundaries, in its strict mode; this module adds what it does not judge: limits, `host`, versions,
transfer codings, forms of the target. Whatever two readers could cut differently is refused, never repaired. Nothing here raises
for what a client sent: the client gets a 4xx in CCF's error shape after the answers to its earlier requests, and the session ends.
Not here: TLS, deadlines and how many sessions (`enclave.sessions`), the framing of `ledgerd/1` (`enclave.pipeline`).
"""

import json
import re
from collections import deque
from http import HTTPStatus
from typing import Final, NamedTuple

import httptools

from ledgerd.enclave.requests import JSON, Request, Response
from ledgerd.ledger.errors import UsageError

HEADER_FIELDS_MAX: Final = 256  # as CCF's default
METHODS: Final = ("GET", "PUT", "POST", "DELETE", "HEAD", "PATCH", "OPTIONS", "TRACE")  # others are 501: no endpoint can have them

_FIELD_OVERHEAD_BYTES: Final = 4  # ": " and CRLF, so that the limit counts bytes on the wire
_BLOCK_SIZE_BYTES_MAX: Final = 2048  # fields worth remembering, for each session
_MISSES_MAX: Final = 16  # a client that changes its fields each time is not worth comparing
_NAMES_MAX: Final = 4096  # header names remembered over all sessions; a client could invent them without end


class Limits(NamedTuple):
    """How large one request may be, and how many of one session may wait for their answers."""

    body_bytes: int = 1 << 20  # CCF's default
    header_bytes: int = 16 << 10  # all fields together; CCF's default for one
    target_bytes: int = 8 << 10  # RFC 9112 recommends to support at least 8,000
    waiting: int = 4096  # requests without an answer yet; the SDK keeps some hundreds in flight
    held_bytes: int = 16 << 20  # answers that wait for an earlier one of their session
    held_bytes_all: int = 256 << 20  # the same, of all sessions together


class Counters:
    """What `/node/metrics` and the operator's metrics show about sessions; and `held`, bytes of answers that wait in all of them."""

    __slots__ = ("held", "parsing", "request_header_too_large", "request_payload_too_large")

    def __init__(self) -> None:
        self.held = 0
        self.parsing = 0
        self.request_payload_too_large = 0
        self.request_header_too_large = 0

    def count(self, status: int) -> None:
        """Count one refusal of a session's bytes."""
        if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            self.request_payload_too_large += 1
        elif status in (HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, HTTPStatus.REQUEST_URI_TOO_LONG):
            self.request_header_too_large += 1
        else:
            self.parsing += 1


class Exchange:
    """Where the answer to one request goes; the `reply_to` of requests that came by HTTP."""

    __slots__ = ("connection", "encoded", "is_head", "keep_alive")

    def __init__(self, connection: "HttpConnection", is_head: bool, keep_alive: bool | None) -> None:
        self.connection = connection
        self.is_head = is_head
        self.keep_alive = keep_alive  # None: keep, and say so (HTTP/1.0 clients want to hear it)
        self.encoded: bytes | None = None  # an answer that waits for earlier ones


class Refusal(Exception):
    """The client's bytes cannot be a request of ours; internal to the two protocols of a session."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


def error_response(status: int, code: str, message: str) -> Response:
    """An error in CCF's shape."""
    return Response(status, (), json.dumps({"error": {"code": code, "message": message}}).encode(), JSON)


_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
_METHOD_NAMES: Final = {name.encode(): name for name in METHODS}
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}")
_AUTHORITY: Final = re.compile(r"https?://[A-Za-z0-9\-._~%!$&'()*+,;=:\[\]@]+", re.IGNORECASE)
_BODILESS: Final = frozenset({204, 304})
_PLAIN_LINE: Final = re.compile(
    r"(GET|PUT|POST|DELETE) (/[A-Za-z0-9/\-._~%:@!$&'()*+,;=]*)(?:\?([A-Za-z0-9/\-._~%:@!$&'()*+,;=?]*))? HTTP/1\.1"
)
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
# Two of these in one request would let two readers disagree about where it ends or whom it is for.
_SINGLE: Final = frozenset({"host", "content-length", "transfer-encoding", "expect"})

_names: dict[bytes, str] = {}
_response_names: set[str] = set()


def encode_response(response: Response, *, keep_alive: bool | None = True, is_head: bool = False) -> bytes:
    """Print an answer.

    Args:
        keep_alive: False adds `connection: close`; None adds `connection: keep-alive`.
        is_head: Leave the body out but state its length.
    Raises: UsageError: A header's name or value would break out of its line, or cannot be carried.
    """
    status, headers, body, content_type = response
    line = _STATUS_LINES.get(status) or f"HTTP/1.1 {status} \r\n"
    fields = 1
    text = line
    for name, value in headers:
        if name not in _response_names:
            _learn_response_name(name)
        text += f"{name}: {value}\r\n"
        fields += 1
    if content_type:
        text += f"content-type: {content_type}\r\n"
        fields += 1
    if keep_alive is not True:
        text += "connection: close\r\n" if keep_alive is False else "connection: keep-alive\r\n"
        fields += 1
    if text.count("\n") != fields or text.count("\r") != fields or "\0" in text:
        raise UsageError("a response header holds a line break")
    try:
        if status in _BODILESS:
            return (text + "\r\n").encode("latin-1")
        head = f"{text}content-length: {len(body)}\r\n\r\n".encode("latin-1")
    except UnicodeEncodeError:
        raise UsageError("a response header holds characters that HTTP cannot carry") from None
    return head if is_head else head + body


def _learn_response_name(name: str) -> None:
    if _TOKEN.fullmatch(name) is None or name != name.lower() or name in ("content-length", "connection", "transfer-encoding"):
        raise UsageError(f"response header {name[:64]!r} is not a lower-case token that a handler may set")
    if len(_response_names) < _NAMES_MAX:
        _response_names.add(name)


class HttpConnection:
    """The HTTP side of one session.

    Attributes:
        owner: Whatever the maker wants to find again from an Exchange.
        output: Plaintext to send; the owner takes and clears it.
        ended: No more is read: the last request has come, or a refusal has been written.
        finished: All that will ever be said is in `output`; end the session once it is sent.
        refused: The client's bytes were refused, so unread ones may follow.
        incomplete: A request has begun and is not all there; what deadlines look at.
        waiting: Requests that have no answer yet.
        buffered: Bytes of an incomplete body that are held.
    """

    __slots__ = (
        "_block",
        "_block_headers",
        "_block_length",
        "_body",
        "_counters",
        "_fields",
        "_held",
        "_keep_alive",
        "_length",
        "_limits",
        "_misses",
        "_moved",
        "_parser",
        "_parts",
        "_queue",
        "_requests",
        "_size",
        "_stuck",
        "_target",
        "buffered",
        "caller_id",
        "certificate",
        "ended",
        "finished",
        "headers",
        "incomplete",
        "output",
        "owner",
        "refused",
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
        self.output: list[bytes] = []
        self.ended = False
        self.finished = False
        self.refused = False
        self.incomplete = False
        self.buffered = 0
        self._queue: deque[Exchange] = deque()
        self._held = 0
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        # The fields of the last request, as bytes and as they were read; see `_read_again`.
        self._block = b""
        self._block_headers: dict[str, str] = {}
        self._block_length = 0
        self._misses = 0
        # Of the request that is being read:
        self.headers: dict[str, str] = {}
        self._target = b""
        self._size = 0
        self._fields = 0
        self._body = b""
        self._length = 0  # as stated by content-length
        self._parts: bytearray | None = None  # of a chunked body, and of one that comes in pieces
        self._keep_alive: bool | None = True
        self._moved = False
        self._stuck = 0

    @property
    def waiting(self) -> int:
        """Requests that have no answer yet."""
        return len(self._queue)

    def received(self, data: bytes) -> None:
        """Read on; complete requests are appended to the list given at construction."""
        parser = self._parser
        if self.ended or parser is None:
            return
        if self._block and not self.incomplete and self._read_again(data):
            return
        learn = not self.incomplete and self._misses < _MISSES_MAX
        count = len(self._requests)
        self._moved = False
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if not self.ended:
                self._refuse(Refusal(400, "InvalidInput", "CONNECT and protocol upgrades are not offered here; speak HTTP/1.1."))
            return
        except httptools.HttpParserError as error:
            if not self.ended:
                self._refuse(_refusal_of(error))
            return
        if self.incomplete:
            # Bytes that bring no callback pile up inside the parser: an endless name, value, chunk extension or trailer.
            self._stuck = 0 if self._moved else self._stuck + len(data)
            if self._stuck > self._limits.header_bytes:
                self._refuse(_headers_too_large(self._limits))
        elif learn and len(self._requests) == count + 1:
            self._learn(data)

    def _read_again(self, data: bytes) -> bool:
        """Read a request whose fields are, byte for byte, those of an earlier one that llhttp and we have judged; True if it was one.

        Clients repeat themselves, and this costs a third. The meaning of no field depends on a request line of the plain kind that
        is taken here, and `data` must end where the request ends. Everything else takes the long way; llhttp, between two
        requests, does not notice that one went past it.
        """
        block = self._block
        end = data.find(b"\r\n")
        start = end + len(block)
        if end < 0 or not data.startswith(block, end) or len(data) - start != self._block_length:
            self._misses += 1
            if self._misses >= _MISSES_MAX:
                self._block = b""
            return False
        if end > self._limits.target_bytes:
            return False
        line = _PLAIN_LINE.fullmatch(data[:end].decode("latin-1"))
        if line is None:
            return False
        method, path, query = line.groups("")
        self._misses = 0
        exchange = Exchange(self, False, True)
        self._queue.append(exchange)
        self._take(exchange, method, path, query, self._block_headers, data[start:])
        return True

    def _learn(self, data: bytes) -> None:
        headers = self.headers
        if self._keep_alive is not True or "expect" in headers or "transfer-encoding" in headers:
            return
        end = data.find(b"\r\n")
        stop = data.find(b"\r\n\r\n") + 4
        if end > 0 and stop - end <= _BLOCK_SIZE_BYTES_MAX and len(data) == stop + self._length:
            self._block = data[end:stop]
            self._block_headers = headers
            self._block_length = self._length

    def answer(self, exchange: Exchange, response: Response) -> None:
        """Print the answer to one request; it leaves when all earlier ones of the session have left.

        An answer to a session that has ended is dropped.

        Raises: UsageError: The response's headers cannot be printed; nothing was sent, answer again.
        """
        queue = self._queue
        if self.finished or not queue:
            return
        encoded = encode_response(response, keep_alive=exchange.keep_alive, is_head=exchange.is_head)
        if queue[0] is not exchange:
            self._hold(exchange, encoded)
            return
        queue.popleft()
        exchange.encoded = b""
        self.output.append(encoded)
        if exchange.keep_alive is False:
            self._finish()
        elif queue and queue[0].encoded is not None:
            self._release()

    def close(self) -> None:
        """Forget everything; the session is gone. Later answers are dropped."""
        self._finish()
        self.output.clear()

    def _finish(self) -> None:
        self.ended = self.finished = True
        self.incomplete = False
        self.buffered = 0
        self._parser = None  # parser and connection refer to each other, and the collector does not run
        self._queue.clear()
        self._counters.held -= self._held
        self._held = 0
        self._parts = None
        self._body = self._block = b""
        self.headers = self._block_headers = {}

    def _hold(self, exchange: Exchange, encoded: bytes) -> None:
        if exchange.encoded is not None:
            raise UsageError("a request was answered twice")
        exchange.encoded = encoded
        self._held += len(encoded)
        self._counters.held += len(encoded)
        if self._held > self._limits.held_bytes or self._counters.held > self._limits.held_bytes_all:
            self._finish()

    def _release(self) -> None:
        queue = self._queue
        while queue and (encoded := queue[0].encoded) is not None:
            exchange = queue.popleft()
            self._held -= len(encoded)
            self._counters.held -= len(encoded)
            self.output.append(encoded)
            if exchange.keep_alive is False:
                self._finish()
                return

    def refuse(self, status: int, code: str, message: str) -> None:
        """End the session with an error, after the answers to the requests that are already complete."""
        if not self.ended:
            self._refuse(Refusal(status, code, message))

    def _refuse(self, refusal: Refusal) -> None:
        self._counters.count(refusal.status)
        self.ended = self.refused = True
        self.incomplete = False
        self.buffered = 0
        self._parts = None
        exchange = Exchange(self, False, False)
        self._queue.append(exchange)
        self.answer(exchange, error_response(refusal.status, refusal.code, refusal.message))

    # What the parser calls. An exception out of these comes back as the `__context__` of an HttpParserError.

    def on_message_begin(self) -> None:
        self.incomplete = True
        self.headers = {}
        self._target = b""
        self._size = 0
        self._fields = 0
        self._body = b""
        self._length = 0
        self._parts = None
        self._moved = True

    def on_url(self, part: bytes) -> None:
        self._target += part
        if len(self._target) > self._limits.target_bytes:
            raise Refusal(414, "RequestHeaderTooLarge", f"The request target is longer than {self._limits.target_bytes} bytes.")
        self._moved = True

    def on_header(self, name: bytes, value: bytes) -> None:
        self._size = size = self._size + len(name) + len(value) + _FIELD_OVERHEAD_BYTES
        self._fields += 1
        self._moved = True
        if size > self._limits.header_bytes:
            raise _headers_too_large(self._limits)
        if self._parts is not None:
            return  # a trailer: counted, never believed
        key = _names.get(name) or _name(name)
        text = value.decode("latin-1").strip(" \t")
        headers = self.headers
        if key in headers:
            if key in _SINGLE:
                raise Refusal(400, "InvalidInput", f"The header {key} occurs twice.")
            text = f"{headers[key]}, {text}"
        headers[key] = text

    def on_headers_complete(self) -> None:
        parser = self._parser
        assert parser is not None
        headers = self.headers
        limits = self._limits
        self._moved = True
        if self._fields > HEADER_FIELDS_MAX:
            raise Refusal(431, "RequestHeaderTooLarge", f"The request has more than {HEADER_FIELDS_MAX} header fields.")
        version = parser.get_http_version()
        if version == "1.1":
            if "host" not in headers:
                raise Refusal(400, "InvalidInput", "An HTTP/1.1 request needs the header host.")
            self._keep_alive = parser.should_keep_alive() if "connection" in headers else True
        elif version == "1.0":
            # An answer to a 1.0 client that may keep the connection must say that it does.
            self._keep_alive = None if "connection" in headers and parser.should_keep_alive() else False
        else:
            raise Refusal(505, "InvalidInput", f"HTTP/{version} is not spoken here; use HTTP/1.1.")
        length = headers.get("content-length")
        if length is not None:
            # llhttp has checked the digits; this is the second pair of eyes.
            if not length.isascii() or not length.isdigit() or "transfer-encoding" in headers:
                raise Refusal(400, "InvalidInput", "The request states its length in two ways, or in a form that is no number.")
            if len(length) > 18 or int(length) > limits.body_bytes:
                raise _body_too_large(limits)
            self._length = int(length)
        elif "transfer-encoding" in headers:
            if headers["transfer-encoding"].lower() != "chunked" or version != "1.1":
                raise Refusal(400, "InvalidInput", "The only transfer coding is chunked, in HTTP/1.1.")
            self._parts = bytearray()
        if "upgrade" in headers and parser.should_upgrade():
            raise Refusal(400, "InvalidInput", "Protocol upgrades are not offered here; speak HTTP/1.1.")
        if "expect" in headers and version == "1.1":
            if headers["expect"].lower() != "100-continue":
                raise Refusal(417, "InvalidInput", "The only expectation is 100-continue.")
            if self._parts is not None or self._length > 0:
                self._continue()

    def on_body(self, part: bytes) -> None:
        self._moved = True
        self.buffered = size = self.buffered + len(part)
        parts = self._parts
        if parts is None:
            if size == self._length:
                self._body = part
                return
            self._parts = parts = bytearray()
        if size > self._limits.body_bytes:
            raise _body_too_large(self._limits)
        parts += part

    def on_chunk_header(self) -> None:
        self._moved = True

    def on_message_complete(self) -> None:
        parser = self._parser
        assert parser is not None
        self.incomplete = False
        self.buffered = 0
        method = _METHOD_NAMES.get(parser.get_method())
        if method is None:
            raise Refusal(501, "NotImplemented", f"The verb {parser.get_method().decode('latin-1')} is not known here.")
        target = self._target.decode("latin-1")
        if target[0] != "/":
            target = _origin_form(target, method)
        path, _, query = target.partition("?")
        if "#" in target:
            raise Refusal(400, "InvalidInput", "A request target has no fragment.")
        keep_alive = self._keep_alive
        if keep_alive is False:
            self.ended = True
        exchange = Exchange(self, method == "HEAD", keep_alive)
        queue = self._queue
        queue.append(exchange)
        parts = self._parts
        body = self._body if parts is None else bytes(parts)
        self._take(exchange, method, path, query, self.headers, body)

    def _take(self, exchange: Exchange, method: str, path: str, query: str, headers: dict[str, str], body: bytes) -> None:
        if len(self._queue) > self._limits.waiting:
            self.answer(
                exchange, error_response(503, "TooManyPendingTransactions", "Too many requests of this session wait for an answer.")
            )
            return
        self._requests.append(Request(exchange, method, path, query, headers, body, self.certificate, self.caller_id))

    def _continue(self) -> None:
        if not self._queue:
            self.output.append(_CONTINUE)
            return
        interim = Exchange(self, False, True)
        self._queue.append(interim)
        self._hold(interim, _CONTINUE)


def _name(name: bytes) -> str:
    text = name.decode("latin-1").lower()
    if len(_names) < _NAMES_MAX:
        _names[name] = text
    return text


def _origin_form(target: str, method: str) -> str:
    if target == "*" and method == "OPTIONS":
        return target
    match = _AUTHORITY.match(target)
    if match is None:
        raise Refusal(400, "InvalidInput", "The request target must be a path, or a http(s) URL.")
    rest = target[match.end() :]
    return rest if rest.startswith("/") else "/" + rest


def _headers_too_large(limits: Limits) -> Refusal:
    return Refusal(431, "RequestHeaderTooLarge", f"The request's header is larger than {limits.header_bytes} bytes.")


def _body_too_large(limits: Limits) -> Refusal:
    return Refusal(413, "RequestBodyTooLarge", f"The request's body is larger than {limits.body_bytes} bytes.")


def _refusal_of(error: httptools.HttpParserError) -> Refusal:
    cause = error.__context__
    if isinstance(cause, Refusal):
        return cause
    if isinstance(error, httptools.HttpParserCallbackError):
        return Refusal(500, "InternalError", "The request could not be read.")  # a bug of ours must not end the node
    return Refusal(400, "InvalidInput", f"Unable to parse data as a HTTP request: {error}.")
