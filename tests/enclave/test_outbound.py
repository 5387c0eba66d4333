"""The joiner's HTTP client: pinned, bounded, typed errors, redirects handed back."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from ledgerd.enclave.outbound import HEADER_SIZE_BYTES_MAX, Answer, HttpClient
from ledgerd.enclave.requests import JSON, Response
from ledgerd.enclave.sessions import ReplyTo, Sessions
from ledgerd.enclave.tls import TlsConnection, TlsContext
from ledgerd.ledger.errors import IntegrityError, PeerError, UsageError
from support.tls import identity

SERVER = identity("node")
assert isinstance(SERVER.key, ec.EllipticCurvePrivateKey)
SERVING = TlsContext.for_clients([SERVER.certificate], SERVER.key)
DIALLING = TlsContext.for_dialled()


def pinned(chain: list[bytes]) -> None:
    if chain != [SERVER.der]:
        raise IntegrityError("another certificate than the one that was pinned")


class Pair:
    """The client, and a server that says whatever a test makes it say."""

    def __init__(self) -> None:
        self.client = HttpClient(DIALLING, "n:8000", pinned)
        self.server: TlsConnection = SERVING.connection()
        self.asked = b""
        self.shake()

    def shake(self) -> None:
        for _ in range(4):
            self.asked += b"".join(self.server.feed(self.client.take_output()))
            assert self.client.received(self.server.take_output()) == []

    def ask(self, method: str = "GET", path: str = "/node/state", body: bytes = b"") -> None:
        self.client.request(method, path, {}, body)
        self.asked += b"".join(self.server.feed(self.client.take_output()))

    def say(self, data: bytes, size: int = 0) -> list[Answer]:
        answers = []
        for start in range(0, len(data), size or len(data)):
            self.server.write(data[start : start + (size or len(data))])
            answers += self.client.received(self.server.take_output())
        return answers


def test_it_speaks_with_our_own_sessions() -> None:
    sessions = Sessions(SERVING)
    sessions.opened(1)
    client = HttpClient(DIALLING, "n:8000", pinned)
    client.request("POST", "/node/join", {"content-type": JSON}, b"{}")
    client.request("GET", "/node/state")
    answers: list[Answer] = []
    for _ in range(5):
        data = client.take_output()
        if data:
            sessions.received(1, data)
        for request in sessions.take_requests():
            assert request.headers["host"] == "n:8000"
            assert isinstance(request.reply_to, ReplyTo)
            sessions.answer(request.reply_to, Response(200, (), b"%s %s" % (request.method.encode(), request.body), JSON))
        for _, data in sessions.take_output()[0]:
            answers += client.received(data)
    assert [(item.status, item.body) for item in answers] == [(200, b"POST {}"), (200, b"GET ")]
    assert client.waiting == 0 and client.reusable


def test_what_is_asked_is_well_formed_http() -> None:
    pair = Pair()
    pair.client.request("POST", "/node/join", {"content-type": JSON}, b"{}")
    pair.shake()
    assert pair.asked == b"POST /node/join HTTP/1.1\r\nhost: n:8000\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


def test_nothing_is_asked_of_a_server_that_fails_the_check() -> None:
    other = identity("node")
    assert isinstance(other.key, ec.EllipticCurvePrivateKey)
    server = TlsContext.for_clients([other.certificate], other.key).connection()
    client = HttpClient(DIALLING, "n:8000", pinned)
    client.request("POST", "/node/join", {}, b"attestation")
    server.feed(client.take_output())
    with pytest.raises(IntegrityError, match="pinned"):
        client.received(server.take_output())
    assert client.take_output() == b""
    assert not server.established and not client.reusable


@pytest.mark.parametrize("size", [0, 1, 7])
@pytest.mark.parametrize(
    ("wire", "answer"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", (200, b"hi", None)),
        (b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"", None)),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", (200, b"hi", None)),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n", (201, b"", None)),
        (b"HTTP/1.1 307 Temporary Redirect\r\nLocation: https://m:1/x\r\ncontent-length: 0\r\n\r\n", (307, b"", "https://m:1/x")),
        (b"HTTP/1.1 308 Permanent Redirect\r\nlocation: /y\r\ncontent-length: 0\r\n\r\n", (308, b"", "/y")),
        (b"HTTP/1.1 307 Temporary Redirect\r\ncontent-length: 0\r\n\r\n", (307, b"", None)),
        (b"HTTP/1.1 200 OK\r\nlocation: /y\r\ncontent-length: 0\r\n\r\n", (200, b"", None)),
    ],
)
def test_answers_are_read_whole_and_in_pieces(wire: bytes, answer: tuple[int, bytes, str | None], size: int) -> None:
    pair = Pair()
    pair.ask()
    (got,) = pair.say(wire, size)
    assert (got.status, got.body, got.location) == answer
    assert pair.client.waiting == 0


@pytest.mark.parametrize(
    "wire",
    [
        b"nonsense",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * HEADER_SIZE_BYTES_MAX + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: yyyyyyyy\r\n" * 2000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000,
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\nmore",
    ],
)
def test_what_is_no_answer_is_a_peer_error(wire: bytes) -> None:
    pair = Pair()
    pair.ask()
    with pytest.raises(PeerError, match="n:8000"):
        pair.say(wire)
    with pytest.raises(UsageError):
        pair.client.request("GET", "/")


def test_an_answer_to_no_question_is_a_peer_error() -> None:
    with pytest.raises(PeerError, match="nobody asked"):
        Pair().say(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")


def test_an_answer_cut_short_is_a_peer_error() -> None:
    pair = Pair()
    pair.ask()
    assert pair.say(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf") == []
    with pytest.raises(PeerError, match="unanswered"):
        pair.client.closed()
    pair = Pair()
    pair.ask()
    pair.server.close()
    with pytest.raises(PeerError, match="unanswered"):
        pair.client.received(pair.server.take_output())


def test_an_end_after_the_last_answer_is_no_error() -> None:
    pair = Pair()
    pair.ask()
    assert len(pair.say(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")) == 1
    assert not pair.client.reusable
    pair.server.close()
    assert pair.client.received(pair.server.take_output()) == []
    pair.client.closed()


def test_a_server_that_is_no_tls_is_a_peer_error() -> None:
    client = HttpClient(DIALLING, "n:8000", pinned)
    client.request("GET", "/")
    with pytest.raises(PeerError):
        client.received(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("BREW", "/", {}),
        ("GET", "x", {}),
        ("GET", "/a b", {}),
        ("GET", "/a\r\nx: y", {}),
        ("GET", "/é", {}),
        ("GET", "/", {"x": "a\r\nb: c"}),
        ("GET", "/", {"x\n": "a"}),
    ],
)
def test_a_request_that_would_break_its_line_is_never_printed(method: str, path: str, headers: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        HttpClient(DIALLING, "n:8000", pinned).request(method, path, headers)


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=1, max_size=300), st.integers(0, 9))
def test_random_answers_raise_nothing_but_peer_errors(data: bytes, size: int) -> None:
    pair = Pair()
    pair.ask()
    try:
        pair.say(data, size)
    except PeerError:
        assert not pair.client.reusable
