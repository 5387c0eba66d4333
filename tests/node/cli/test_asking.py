"""Addresses of documents, as hostile servers may answer: `ledgerd attestation verify URL` ends in time and stays small."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ledgerd.node.cli import asking, evidence
from support.command_line import Ledgerd
from support.documents import MADE_AT_MS, forge

FORGED = forge()
ENDLESS_BYTES = 100_000_000


class Hostile(BaseHTTPRequestHandler):
    """Answers as its path says."""

    server: "Server"

    def log_message(self, *_arguments: Any) -> None:
        """Stay silent."""

    def do_GET(self) -> None:
        with suppress(OSError):  # whoever asked has gone
            getattr(self, self.path.strip("/").replace("/", "_") or "root")()

    def root(self) -> None:
        self._say(200, FORGED.document)

    document = root

    def moved(self) -> None:
        self._say(302, b"", location="/document")

    def circle(self) -> None:
        self._say(302, b"", location="/circle")

    def elsewhere(self) -> None:
        self._say(302, b"", location="file:///etc/hostname")

    def gone(self) -> None:
        self._say(404, FORGED.document)

    def silent(self) -> None:
        self.server.ended.wait()

    def dripping(self) -> None:
        self.send_response(200)
        self.end_headers()
        while not self.server.ended.wait(0.01):
            self.wfile.write(b"x")

    def dripping_head(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nx: ")
        while not self.server.ended.wait(0.01):
            self.wfile.write(b"x")

    def endless(self) -> None:
        self.send_response(200)
        self.end_headers()
        for _ in range(ENDLESS_BYTES // 100_000):
            self.wfile.write(bytes(100_000))
            self.server.sent_bytes += 100_000

    def bomb(self) -> None:
        self._say(200, gzip.compress(bytes(ENDLESS_BYTES), 1), **{"content-encoding": "gzip"})

    def cut(self) -> None:
        self._say(200, FORGED.document, **{"content-length": "100000"})

    def garbage(self) -> None:
        self.wfile.write(b"garbage\r\n\r\n")

    def _say(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Hostile)
        self.ended = threading.Event()
        self.sent_bytes = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.ended.set()
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("path", ["", "/", "/document", "/moved"])
def test_a_document_is_judged_wherever_it_lies(ledgerd: Ledgerd, server: Server, tmp_path: Path, path: str) -> None:
    (tmp_path / "root.pem").write_text(FORGED.root_pem)
    verify = ["attestation", "verify", server.url + path, "--root", tmp_path / "root.pem", "--at", MADE_AT_MS, "-o", "json"]
    ran = ledgerd(*verify)
    assert (ran.status, ran.json["valid"]) == (0, True)


@pytest.mark.parametrize("path", ["circle", "elsewhere", "gone", "cut", "garbage"])
def test_what_is_no_answer_is_said(ledgerd: Ledgerd, server: Server, path: str) -> None:
    ran = ledgerd("attestation", "verify", f"{server.url}/{path}", "-o", "json")
    assert (ran.status, ran.json["error"]["code"]) == (1, "Unanswered")
    assert server.url in ran.json["error"]["message"]


@pytest.mark.parametrize("path", ["silent", "dripping", "dripping_head"])
def test_an_answer_that_does_not_end_is_not_waited_for(ledgerd: Ledgerd, server: Server, path: str) -> None:
    ran = ledgerd("attestation", "verify", f"{server.url}/{path}", "--timeout", "0.3", "-o", "json")
    assert (ran.status, ran.json["error"]["code"]) == (1, "Unanswered")


def test_an_answer_without_end_is_not_read_to_its_end(ledgerd: Ledgerd, server: Server) -> None:
    ran = ledgerd("attestation", "verify", f"{server.url}/endless", "-o", "json")
    assert (ran.status, ran.json["error"]["code"]) == (1, "form")
    assert server.sent_bytes < ENDLESS_BYTES // 2


def test_what_is_compressed_is_not_unpacked(server: Server) -> None:
    assert len(asking.fetch(f"{server.url}/bomb", 5, None)) < 2 * evidence.SIZE_BYTES_MAX
