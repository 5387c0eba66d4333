"""HTTP/1.1 over TLS with nothing between: one send a request, answers in order, so that a time measured is the service's.

Only what a benchmark needs: answers with `content-length` or without a body. Not for use against a service that is not trusted.
"""

import socket
import ssl
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import urlsplit

RECEIVE_BYTES = 1 << 16
TIMEOUT_SECONDS = 30.0


class Answer(NamedTuple):
    """Status, headers by lower-case name, body."""

    status: int
    headers: dict[str, str]
    body: bytes


def tls_context(ca: Path, identity: tuple[Path, Path] | None = None, alpn: str = "http/1.1") -> ssl.SSLContext:
    """Trust one certificate only. `identity`: files of the client's certificate and key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cafile=str(ca))
    context.set_alpn_protocols([alpn])
    if identity is not None:
        context.load_cert_chain(*identity)
    return context


def connect(url: str, context: ssl.SSLContext) -> ssl.SSLSocket:
    """A connection with the handshake done and Nagle off. Raises: OSError."""
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 443
    plain = socket.create_connection((host, port), TIMEOUT_SECONDS)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(plain, server_hostname=host)


class Wire:
    """One kept connection."""

    def __init__(self, url: str, ca: Path, identity: tuple[Path, Path] | None = None) -> None:
        self._host = urlsplit(url).netloc
        self._socket = connect(url, tls_context(ca, identity))
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        """One request, one answer. Raises: OSError."""
        self._socket.sendall(self._request(method, path, body, headers or {}))
        return self._answer()

    def get_all(self, paths: Iterable[str]) -> list[Answer]:
        """Many GETs in one flight, answers in order; keep it to some dozens. Raises: OSError."""
        requests = [self._request("GET", path, b"", {}) for path in paths]
        self._socket.sendall(b"".join(requests))
        return [self._answer() for _ in requests]

    def _request(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", f"host: {self._host}", *(f"{name}: {value}" for name, value in headers.items())]
        if body:
            lines.append(f"content-length: {len(body)}")
        return "\r\n".join([*lines, "", ""]).encode() + body

    def _answer(self) -> Answer:
        while b"\r\n\r\n" not in self._buffer:
            self._receive()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        size = int(headers.get("content-length", 0))
        while len(self._buffer) < size:
            self._receive()
        body, self._buffer = self._buffer[:size], self._buffer[size:]
        return Answer(int(lines[0].split()[1]), headers, body)

    def _receive(self) -> None:
        data = self._socket.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionError("the service closed the connection before it had answered")
        self._buffer += data
