"""A client made of the standard library's TLS and a few lines of HTTP/1.1, so that ours is not judged by itself.

It can also send many requests before it reads the first answer.
"""

import json
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

SECONDS_MAX = 60.0  # for any word of an answer; met only by what is broken, or was stopped
# What tells a client to ask again: rolled back, not possible now, fate unknown.
AGAIN = (409, 503, 504)
AHEAD_MAX = 200  # requests sent before their answers are read


class Answer(NamedTuple):
    """One answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        """The body as a JSON object."""
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def transaction_id(self) -> str:
        """What the answer names as its transaction."""
        return self.headers["x-ms-ccf-transaction-id"]


class Request(NamedTuple):
    """One request."""

    method: str
    path: str
    body: bytes = b""
    headers: dict[str, str] = {}  # noqa: RUF012 (a tuple's default, never changed)


class Session:
    """A connection over TLS to one node, which must hold a certificate of the service."""

    def __init__(
        self, address: tuple[str, int], service_certificate: Path, identity: tuple[Path, Path] | None = None, seconds: float = SECONDS_MAX
    ) -> None:
        """`identity` are files with a client's certificate and key. Raises: OSError: it cannot be made."""
        context = ssl.create_default_context(cafile=str(service_certificate))
        if identity is not None:
            context.load_cert_chain(*identity)
        plain = socket.create_connection(address, seconds)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket = context.wrap_socket(plain, server_hostname=address[0])
        except BaseException:
            plain.close()
            raise
        self._input = self._socket.makefile("rb")

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._input.close()
        self._socket.close()

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """Send a request and wait for its answer; `idempotency_key` stands for the header `idempotency-key`.

        Raises: OSError: The connection ended before the answer.
        """
        return self.ask_all([Request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})])[0]

    def ask_all(self, requests: Sequence[Request]) -> list[Answer]:
        """Send requests, AHEAD_MAX of them before reading on, and return all answers in their order. Raises: as `ask`."""
        answers: list[Answer] = []
        for start in range(0, len(requests), AHEAD_MAX):
            batch = requests[start : start + AHEAD_MAX]
            self._socket.sendall(b"".join(map(_encode, batch)))
            answers.extend(self._read(request.method == "HEAD") for request in batch)
        return answers

    def send_raw(self, data: bytes) -> Answer:
        """Send bytes as they are, and read one answer. Raises: as `ask`."""
        self._socket.sendall(data)
        return self._read(without_body=False)

    def _read(self, without_body: bool) -> Answer:
        status = self._line()
        headers: dict[str, str] = {}
        while line := self._line():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        size = 0 if without_body else int(headers.get("content-length", "0"))
        body = self._input.read(size)
        if len(body) < size:
            raise ConnectionResetError("the connection ended within an answer")
        return Answer(int(status.split(" ")[1]), headers, body)

    def _line(self) -> str:
        line = self._input.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionResetError("the connection ended before an answer")
        return line[:-2].decode()


def _encode(request: Request) -> bytes:
    fields = {"host": "localhost", "content-length": str(len(request.body)), **request.headers}
    if request.body and "content-type" not in fields:
        fields["content-type"] = "text/plain"
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{request.method} {request.path} HTTP/1.1\r\n{head}\r\n".encode() + request.body
