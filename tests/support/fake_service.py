"""A service in threads: real TLS below a real service identity, HTTP/1.1 and `ledgerd/1`, and a test's own idea of what to answer.

It executes every request with an idempotency key once, as nodes do, and counts executions: `service.executed`.
"""

import contextlib
import http
import json
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, NamedTuple

import msgpack
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from support.ledgers import Service


class FakeRequest(NamedTuple):
    """One request as a node sees it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class FakeAnswer(NamedTuple):
    """What to answer; `cut` ends the connection instead, after execution if it says so."""

    status: int
    headers: Mapping[str, str] = MappingProxyType({})
    body: bytes = b""
    cut: bool = False


CUT = FakeAnswer(0, cut=True)


def error(status: int, code: str, message: str = "as the test wants it") -> FakeAnswer:
    """CCF's error shape."""
    return FakeAnswer(status, {}, json.dumps({"error": {"code": code, "message": message}}).encode())


class FakeNode:
    """One node. `behaviour(request)` may answer instead of the service; None lets the service answer."""

    def __init__(self, service: "FakeService", context: ssl.SSLContext) -> None:
        self.service = service
        self.behaviour: Callable[[FakeRequest], FakeAnswer | None] = lambda request: None
        self.requests: list[FakeRequest] = []
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"https://127.0.0.1:{self.port}"
        self._connections: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def stop(self) -> None:
        """Die: refuse new connections, break the others."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes `accept`
        self._threads[0].join(120)
        self._listener.close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(120)

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(plain,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, plain: socket.socket) -> None:
        self._connections.add(plain)
        try:
            plain.settimeout(120)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._context.wrap_socket(plain, server_side=True) as connection:
                self._connections.add(connection)
                try:
                    if connection.selected_alpn_protocol() == "ledgerd/1":
                        self._serve_frames(connection)
                    else:
                        self._serve_http(connection)
                finally:
                    self._connections.discard(connection)
        except OSError:
            pass
        finally:
            self._connections.discard(plain)
            plain.close()

    def _answer(self, request: FakeRequest) -> FakeAnswer:
        self.requests.append(request)
        return self.behaviour(request) or self.service.answer(request)

    def _serve_http(self, connection: ssl.SSLSocket) -> None:
        with connection.makefile("rb") as stream:  # closed here: an error that a behaviour keeps would keep it open
            while line := stream.readline():
                method, path, _ = line.decode().split(" ", 2)
                headers: dict[str, str] = {}
                while (line := stream.readline().strip()) != b"":
                    name, _, value = line.decode().partition(":")
                    headers[name.lower()] = value.strip()
                answer = self._answer(FakeRequest(method, path, headers, stream.read(int(headers.get("content-length", "0")))))
                if answer.cut:
                    return
                reason = http.HTTPStatus(answer.status).phrase
                lines = [f"HTTP/1.1 {answer.status} {reason}", *(f"{name}: {value}" for name, value in answer.headers.items())]
                if answer.status != 204:
                    lines.append(f"content-length: {len(answer.body)}")
                connection.sendall("\r\n".join([*lines, "", ""]).encode() + answer.body)

    def _serve_frames(self, connection: ssl.SSLSocket) -> None:
        buffer = bytearray()
        while data := connection.recv(1 << 16):
            buffer += data
            answers = []
            while len(buffer) >= 4 and len(buffer) >= 4 + (size := int.from_bytes(buffer[:4], "big")):
                number, method, path, headers, body = msgpack.unpackb(bytes(buffer[4 : 4 + size]))
                del buffer[: 4 + size]
                answer = self._answer(FakeRequest(method, path, headers, body))
                if answer.cut:
                    return
                packed = msgpack.packb((number, answer.status, dict(answer.headers), answer.body))
                answers.append(len(packed).to_bytes(4, "big") + packed)
            answers.reverse()  # answers may come in any order, so they do
            connection.sendall(b"".join(answers))


class FakeService:
    """Some nodes of one service. Use it in `with`.

    Args:
        folder: Where certificate and key files go.
        nodes: How many.
        ledger: The service identity and its ledger; a new one by default.
    """

    def __init__(self, folder: Path, nodes: int = 3, ledger: Service | None = None) -> None:
        self.ledger = ledger or Service()
        self.certificate_file = folder / "service_cert.pem"
        self.certificate_file.write_text(self.ledger.certificate)
        chain, key = folder / "node_chain.pem", folder / "node_privk.pem"
        chain.write_text(self.ledger.node.certificate)
        key.write_bytes(self.ledger.node.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain, key)
        context.set_alpn_protocols(["ledgerd/1", "http/1.1"])
        self._lock = threading.Lock()
        self._remembered: dict[str, FakeAnswer] = {}
        self.executed: Counter[tuple[str, str]] = Counter()
        self.knows_prefer = True
        self.pending = 0  # so often is a transaction called pending
        self.seqno = 2
        self.reads: dict[str, FakeAnswer] = {}
        self.nodes = [FakeNode(self, context) for _ in range(nodes)]

    @property
    def urls(self) -> list[str]:
        return [node.url for node in self.nodes]

    def __enter__(self) -> "FakeService":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for node in self.nodes:
            node.stop()
        for node in self.nodes:
            node.join()

    def answer(self, request: FakeRequest) -> FakeAnswer:
        """Execute a request as a primary would."""
        with self._lock:
            path, _, query = request.path.partition("?")
            if path == "/node/commit":
                return _json({"transaction_id": f"2.{self.seqno}"})
            if path == "/node/tx":
                status = "Pending" if self.pending > 0 else "Committed"
                self.pending -= 1
                return _json({"transaction_id": query.partition("=")[2], "status": status})
            if request.method == "GET":
                return self.reads.get(request.path) or error(404, "ResourceNotFound")
            key = request.headers.get("idempotency-key")
            if key is not None and key in self._remembered:
                return self._remembered[key]
            self.executed[request.method, request.path] += 1
            self.seqno += 1
            waits = self.knows_prefer and "committed" in request.headers.get("prefer", "")
            applied = {"preference-applied": "committed"} if waits else {}
            answer = FakeAnswer(204, {"x-ms-ccf-transaction-id": f"2.{self.seqno}", **applied})
            if key is not None:
                self._remembered[key] = answer
            return answer


def _json(document: Any) -> FakeAnswer:
    return FakeAnswer(200, {"content-type": "application/json"}, json.dumps(document).encode())
