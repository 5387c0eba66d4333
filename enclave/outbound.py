"""A small HTTP/1.1 client over TLS, sans-IO: what a joining enclave asks of a node that it does not trust yet.

`take_output` gives bytes for the stream, `received` takes its bytes and returns complete answers, one for each request, in order.
The server is judged by the `check` that the caller brings before a byte of a request is sent. Redirects are handed back, not
followed: whom to ask next is the caller's decision.
Not here: connecting (the host does), deadlines (the caller's), what is asked (`enclave.admission`).
"""

from collections import deque
from collections.abc import Mapping
from typing import Final, NamedTuple

import httptools

from ledgerd.enclave.tls import Check, TlsContext
from ledgerd.ledger.errors import PeerError, UsageError

ANSWER_SIZE_BYTES_MAX: Final = 16 << 20  # the largest thing a node gives a joiner in one answer
HEADER_SIZE_BYTES_MAX: Final = 16 << 10  # as we allow clients of ours
REDIRECTS: Final = frozenset({307, 308})

_METHODS: Final = frozenset({"GET", "POST", "PUT", "DELETE"})


class Answer(NamedTuple):
    """One complete answer. `headers` have lower-case names; repeated ones are joined by `, `."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def location(self) -> str | None:
        """Where a 307 or 308 points; None for every other answer, or if it does not say."""
        return self.headers.get("location") if self.status in REDIRECTS else None


class HttpClient:
    """One connection to one server.

    Attributes:
        waiting: Requests without an answer yet.
        reusable: Whether further requests may be made on it.
    """

    __slots__ = (
        "_answer_size_max",
        "_answers",
        "_body",
        "_host",
        "_moved",
        "_parser",
        "_queue",
        "_size",
        "_stuck",
        "_tls",
        "headers",
        "reusable",
        "waiting",
    )

    def __init__(
        self,
        context: TlsContext,
        host: str,
        check: Check,
        *,
        server_name: str | None = None,
        answer_size_bytes_max: int = ANSWER_SIZE_BYTES_MAX,
    ) -> None:
        """Begin.

        Args:
            context: `TlsContext.for_dialled`.
            host: `host:port`, for the header.
            check: Judges the server's certificate chain (DER, leaf first); raises IntegrityError to refuse it.
            server_name: What to ask for by SNI, where a server has several certificates; decides nothing about whom we believe.
            answer_size_bytes_max: Largest body that is taken.
        """
        self._tls = context.connection(check, server_name)
        self._answer_size_max = answer_size_bytes_max
        self._host = host
        self._queue: deque[bytes] = deque()
        self._parser = httptools.HttpResponseParser(self)
        self._answers: list[Answer] = []
        self.waiting = 0
        self.reusable = True
        self.headers: dict[str, str] = {}
        self._body = bytearray()
        self._size = 0
        self._moved = False
        self._stuck = 0

    def request(self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> None:
        """Ask; the bytes leave with `take_output` once the server's certificate was found good.

        Raises: UsageError: The request cannot be printed, or the connection is over.
        """
        if not self.reusable:
            raise UsageError("the connection is over; make another")
        fields = {"host": self._host, **(headers or {}), "content-length": str(len(body))}
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        lines = len(fields) + 1
        if (
            method not in _METHODS
            or not path.startswith("/")
            or " " in path
            or not head.isascii()
            or head.count("\n") != lines
            or head.count("\r") != lines
        ):
            raise UsageError("the request cannot be printed: an unknown verb, no path, or a header of more than one line of ASCII")
        self._queue.append(head.encode("latin-1") + b"\r\n" + body)
        self.waiting += 1

    def take_output(self) -> bytes:
        """Bytes for the stream, handed over once."""
        tls = self._tls
        if self._queue and tls.established and not tls.closed:
            tls.write(b"".join(self._queue))
            self._queue.clear()
        return tls.take_output()

    def received(self, data: bytes) -> list[Answer]:
        """Take bytes of the stream, cut anywhere; return the answers that are now complete.

        Raises:
            IntegrityError: The check refused the server; nothing was sent to it.
            PeerError: TLS failed, or the answer is not HTTP within the limits. Answers before it are lost with it; ask again elsewhere.
        """
        tls = self._tls
        chunks = tls.feed(data)
        for chunk in chunks:
            self._parse(chunk)
        answers = self._answers
        self._answers = []
        if tls.closed:
            self.reusable = False
            if tls.refusal is not None:
                raise tls.refusal
            if not answers or tls.error is not None:
                self._ended(tls.error)
        return answers

    def closed(self) -> None:
        """The stream is gone.

        Raises: PeerError: Requests are still waiting for their answers.
        """
        self.reusable = False
        self._ended(None)

    def close(self) -> None:
        """End in order; `take_output` then holds the closing alert."""
        self.reusable = False
        self._tls.close()

    def _ended(self, reason: str | None) -> None:
        if self.waiting:
            raise PeerError(f"{self._host} ended the connection with {self.waiting} requests unanswered ({reason or 'no reason given'})")

    def _parse(self, chunk: bytes) -> None:
        if not self.reusable:
            raise PeerError(f"{self._host} sent more after its last answer")
        self._moved = False
        try:
            self._parser.feed_data(chunk)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.reusable = False
            cause = error.__context__
            if isinstance(cause, PeerError):
                raise cause from None
            raise PeerError(f"{self._host} does not answer in HTTP/1.1: {error}") from None
        self._stuck = 0 if self._moved else self._stuck + len(chunk)
        if self._stuck > HEADER_SIZE_BYTES_MAX:
            self.reusable = False
            raise PeerError(f"{self._host} sends a header without end")

    # What the parser calls. An exception out of these comes back as the `__context__` of an HttpParserError.

    def on_message_begin(self) -> None:
        if not self.waiting:
            raise PeerError(f"{self._host} answers what nobody asked")
        self.headers = {}
        self._body = bytearray()
        self._size = 0
        self._moved = True

    def on_header(self, name: bytes, value: bytes) -> None:
        self._moved = True
        self._size += len(name) + len(value) + 4
        if self._size > HEADER_SIZE_BYTES_MAX:
            raise PeerError(f"{self._host} sends a header larger than {HEADER_SIZE_BYTES_MAX} bytes")
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1").strip(" \t")
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        self._moved = True
        length = self.headers.get("content-length", "0")
        if len(length) > 18 or (length.isdigit() and int(length) > self._answer_size_max):
            raise PeerError(f"{self._host} announces an answer larger than {self._answer_size_max} bytes")

    def on_body(self, part: bytes) -> None:
        self._moved = True
        if len(self._body) + len(part) > self._answer_size_max:
            raise PeerError(f"{self._host} sends an answer larger than {self._answer_size_max} bytes")
        self._body += part

    def on_chunk_header(self) -> None:
        self._moved = True

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            return  # interim
        self.waiting -= 1
        if not self._parser.should_keep_alive():
            self.reusable = False
        self._answers.append(Answer(status, self.headers, bytes(self._body)))
