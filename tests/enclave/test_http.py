"""HTTP/1.1: what is a request, what is refused and how, and in which order answers leave."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledgerd.enclave.http import HEADER_FIELDS_MAX, METHODS, Counters, Exchange, HttpConnection, Limits, encode_response
from ledgerd.enclave.requests import TEXT, Request, Response
from ledgerd.ledger.errors import UsageError

SMALL = Limits(body_bytes=1000, header_bytes=800, target_bytes=200, waiting=8, held_bytes=4000)


class Side:
    """A connection with what its session would hold."""

    def __init__(self, limits: Limits = SMALL) -> None:
        self.requests: list[Request] = []
        self.counters = Counters()
        self.connection = HttpConnection(None, self.requests, limits, self.counters, b"certificate", "caller")

    def feed(self, data: bytes, size: int = 0) -> "Side":
        for start in range(0, len(data), size or len(data) or 1):
            self.connection.received(data[start : start + (size or len(data))])
        return self

    def answer(self, index: int, response: Response) -> None:
        exchange = self.requests[index].reply_to
        assert isinstance(exchange, Exchange)
        self.connection.answer(exchange, response)

    @property
    def output(self) -> bytes:
        return b"".join(self.connection.output)

    def seen(self) -> list[tuple[str, str, str, dict[str, str], bytes]]:
        return [(item.method, item.path, item.query, dict(item.headers), item.body) for item in self.requests]


def parse_answers(data: bytes) -> list[tuple[int, dict[str, str], bytes]]:
    """Read answers by the book, independently of the module under test."""
    answers = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        line, *fields = head.decode().split("\r\n")
        status = int(line.split(" ")[1])
        headers = dict(field.split(": ", 1) for field in fields)
        length = int(headers.get("content-length", "0"))
        answers.append((status, headers, data[:length]))
        data = data[length:]
    return answers


GET = b"GET /app/x HTTP/1.1\r\nhost: n\r\n\r\n"

GOOD: dict[str, tuple[bytes, list[tuple[str, str, str, dict[str, str], bytes]]]] = {
    "get": (b"GET /app/x?a=b&c HTTP/1.1\r\nHost: n\r\n\r\n", [("GET", "/app/x", "a=b&c", {"host": "n"}, b"")]),
    "put": (
        b"PUT /x HTTP/1.1\r\nHost: n\r\nContent-Length: 5\r\n\r\nhello",
        [("PUT", "/x", "", {"host": "n", "content-length": "5"}, b"hello")],
    ),
    "empty body": (
        b"POST /x HTTP/1.1\r\nhost: n\r\ncontent-length: 0\r\n\r\n",
        [("POST", "/x", "", {"host": "n", "content-length": "0"}, b"")],
    ),
    "path stays encoded": (b"GET /a%2Fb%20c HTTP/1.1\r\nhost: n\r\n\r\n", [("GET", "/a%2Fb%20c", "", {"host": "n"}, b"")]),
    "second question mark": (b"GET /a?b?c HTTP/1.1\r\nhost: n\r\n\r\n", [("GET", "/a", "b?c", {"host": "n"}, b"")]),
    "absolute form": (b"GET https://n:8000/app?q HTTP/1.1\r\nhost: n\r\n\r\n", [("GET", "/app", "q", {"host": "n"}, b"")]),
    "absolute form without path": (b"GET http://n HTTP/1.1\r\nhost: n\r\n\r\n", [("GET", "/", "", {"host": "n"}, b"")]),
    "absolute form with query only": (b"GET http://n?q HTTP/1.1\r\nhost: n\r\n\r\n", [("GET", "/", "q", {"host": "n"}, b"")]),
    "asterisk": (b"OPTIONS * HTTP/1.1\r\nhost: n\r\n\r\n", [("OPTIONS", "*", "", {"host": "n"}, b"")]),
    "repeated field": (
        b"GET / HTTP/1.1\r\nhost: n\r\nAccept: a\r\nACCEPT: b\r\n\r\n",
        [("GET", "/", "", {"host": "n", "accept": "a, b"}, b"")],
    ),
    "empty value": (b"GET / HTTP/1.1\r\nx-empty:\r\nhost: n\r\n\r\n", [("GET", "/", "", {"x-empty": "", "host": "n"}, b"")]),
    "value trimmed": (b"GET / HTTP/1.1\r\nhost: \t n \t\r\n\r\n", [("GET", "/", "", {"host": "n"}, b"")]),
    "obs-text": (b"GET / HTTP/1.1\r\nhost: n\r\nx: \xe9\r\n\r\n", [("GET", "/", "", {"host": "n", "x": "\xe9"}, b"")]),
    "HTTP/1.0 without host": (b"GET / HTTP/1.0\r\n\r\n", [("GET", "/", "", {}, b"")]),
    "empty lines before": (b"\r\n\r\n" + GET, [("GET", "/app/x", "", {"host": "n"}, b"")]),
    "chunked": (
        b"POST /x HTTP/1.1\r\nhost: n\r\nTransfer-Encoding: Chunked\r\n\r\n3;ext=1\r\nabc\r\nA\r\n0123456789\r\n0\r\ntrailer: t\r\n\r\n",
        [("POST", "/x", "", {"host": "n", "transfer-encoding": "Chunked"}, b"abc0123456789")],
    ),
    "pipelined": (
        GET + b"PUT /y HTTP/1.1\r\nhost: n\r\ncontent-length: 1\r\n\r\nz" + GET,
        [
            ("GET", "/app/x", "", {"host": "n"}, b""),
            ("PUT", "/y", "", {"host": "n", "content-length": "1"}, b"z"),
            ("GET", "/app/x", "", {"host": "n"}, b""),
        ],
    ),
    "upgrade without connection": (
        b"GET / HTTP/1.1\r\nhost: n\r\nupgrade: h2c\r\n\r\n",
        [("GET", "/", "", {"host": "n", "upgrade": "h2c"}, b"")],
    ),
    "largest body": (
        b"PUT /x HTTP/1.1\r\nhost: n\r\ncontent-length: 1000\r\n\r\n" + b"x" * 1000,
        [("PUT", "/x", "", {"host": "n", "content-length": "1000"}, b"x" * 1000)],
    ),
    "largest target": (b"GET /" + b"x" * 199 + b" HTTP/1.1\r\nhost: n\r\n\r\n", [("GET", "/" + "x" * 199, "", {"host": "n"}, b"")]),
}


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7])
@pytest.mark.parametrize("name", GOOD)
def test_request_is_read_the_same_whole_and_in_pieces(name: str, size: int) -> None:
    data, expected = GOOD[name]
    side = Side().feed(data, size)
    assert side.seen() == expected
    assert side.output == b""
    assert not side.connection.incomplete
    assert [(item.certificate, item.caller_id) for item in side.requests] == [(b"certificate", "caller")] * len(expected)


def request(head: str, body: bytes = b"") -> bytes:
    return head.replace("\n", "\r\n").encode("latin-1") + body


def post(fields: str, body: bytes = b"") -> bytes:
    return request(f"POST /x HTTP/1.1\nhost: n\n{fields}\n\n", body)


REFUSED: dict[str, tuple[int, str, bytes]] = {
    # What is not HTTP.
    "noise": (400, "InvalidInput", b"\x00\x01\x02\x03noise"),
    "TLS inside TLS": (400, "InvalidInput", bytes.fromhex("16030100050100000100")),
    "HTTP/2 preface": (400, "InvalidInput", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "lower-case verb": (400, "InvalidInput", b"get / HTTP/1.1\r\nhost: n\r\n\r\n"),
    "unknown verb": (400, "InvalidInput", b"FETCH / HTTP/1.1\r\nhost: n\r\n\r\n"),
    "verb that no endpoint has": (501, "NotImplemented", b"MKCOL / HTTP/1.1\r\nhost: n\r\n\r\n"),
    "HTTP/0.9": (505, "InvalidInput", b"GET /\r\n\r\n"),
    "HTTP/2.0": (505, "InvalidInput", b"GET / HTTP/2.0\r\nhost: n\r\n\r\n"),
    "HTTP/1.2": (400, "InvalidInput", b"GET / HTTP/1.2\r\nhost: n\r\n\r\n"),
    "no version": (400, "InvalidInput", b"GET / HTTP\r\nhost: n\r\n\r\n"),
    "bare line feeds": (400, "InvalidInput", b"GET / HTTP/1.1\nhost: n\n\n"),
    # The target.
    "target without slash": (400, "InvalidInput", b"GET app HTTP/1.1\r\nhost: n\r\n\r\n"),
    "asterisk for another verb": (400, "InvalidInput", b"GET * HTTP/1.1\r\nhost: n\r\n\r\n"),
    "target of another scheme": (400, "InvalidInput", b"GET ftp://n/x HTTP/1.1\r\nhost: n\r\n\r\n"),
    "fragment": (400, "InvalidInput", b"GET /a#b HTTP/1.1\r\nhost: n\r\n\r\n"),
    "fragment after query": (400, "InvalidInput", b"GET /a?b#c HTTP/1.1\r\nhost: n\r\n\r\n"),
    "space in target": (400, "InvalidInput", b"GET /a b HTTP/1.1\r\nhost: n\r\n\r\n"),
    "control character in target": (400, "InvalidInput", b"GET /a\x01 HTTP/1.1\r\nhost: n\r\n\r\n"),
    "raw UTF-8 in target": (400, "InvalidInput", b"GET /\xc3\xa9 HTTP/1.1\r\nhost: n\r\n\r\n"),
    "target too long": (414, "RequestHeaderTooLarge", b"GET /" + b"x" * 200 + b" HTTP/1.1\r\nhost: n\r\n\r\n"),
    "target without end": (414, "RequestHeaderTooLarge", b"GET /" + b"x" * 3000),
    "CONNECT": (501, "NotImplemented", b"CONNECT n:443 HTTP/1.1\r\nhost: n\r\n\r\n"),
    # Fields.
    "no host": (400, "InvalidInput", b"GET / HTTP/1.1\r\n\r\n"),
    "two hosts": (400, "InvalidInput", b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n"),
    "folded field": (400, "InvalidInput", b"GET / HTTP/1.1\r\nhost: n\r\nx: a\r\n b\r\n\r\n"),
    "space before colon": (400, "InvalidInput", b"GET / HTTP/1.1\r\nhost : n\r\n\r\n"),
    "space before the first field": (400, "InvalidInput", b"GET / HTTP/1.1\r\n host: n\r\n\r\n"),
    "field without colon": (400, "InvalidInput", b"GET / HTTP/1.1\r\nhost\r\n\r\n"),
    "empty name": (400, "InvalidInput", b"GET / HTTP/1.1\r\n: n\r\n\r\n"),
    "name with parenthesis": (400, "InvalidInput", b"GET / HTTP/1.1\r\nh(st: n\r\n\r\n"),
    "NUL in value": (400, "InvalidInput", b"GET / HTTP/1.1\r\nhost: a\x00b\r\n\r\n"),
    "bare CR in value": (400, "InvalidInput", b"GET / HTTP/1.1\r\nhost: a\rb\r\n\r\n"),
    "DEL in value": (400, "InvalidInput", b"GET / HTTP/1.1\r\nhost: a\x7fb\r\n\r\n"),
    "one field too large": (431, "RequestHeaderTooLarge", b"GET / HTTP/1.1\r\nhost: n\r\nx: " + b"y" * 800 + b"\r\n\r\n"),
    "fields too large together": (431, "RequestHeaderTooLarge", b"GET / HTTP/1.1\r\nhost: n\r\n" + b"x: yyyyyyyy\r\n" * 70 + b"\r\n"),
    "value without end": (431, "RequestHeaderTooLarge", b"GET / HTTP/1.1\r\nhost: n\r\nx: " + b"y" * 3000),
    "name without end": (431, "RequestHeaderTooLarge", b"GET / HTTP/1.1\r\nhost: n\r\n" + b"y" * 3000),
    # Where the request ends.
    "length and chunked": (400, "InvalidInput", post("content-length: 3\ntransfer-encoding: chunked", b"0\r\n\r\n")),
    "chunked and length": (400, "InvalidInput", post("transfer-encoding: chunked\ncontent-length: 3", b"0\r\n\r\n")),
    "two lengths": (400, "InvalidInput", post("content-length: 3\ncontent-length: 3", b"abc")),
    "two different lengths": (400, "InvalidInput", post("content-length: 3\ncontent-length: 4", b"abcd")),
    "list of lengths": (400, "InvalidInput", post("content-length: 3, 3", b"abc")),
    "length with sign": (400, "InvalidInput", post("content-length: +3", b"abc")),
    "negative length": (400, "InvalidInput", post("content-length: -1", b"abc")),
    "hexadecimal length": (400, "InvalidInput", post("content-length: 0x3", b"abc")),
    "empty length": (400, "InvalidInput", post("content-length:", b"abc")),
    "length beyond 64 bits": (400, "InvalidInput", post("content-length: 99999999999999999999")),
    "unknown coding": (400, "InvalidInput", post("transfer-encoding: gzip", b"abc")),
    "coding before chunked": (400, "InvalidInput", post("transfer-encoding: gzip, chunked", b"0\r\n\r\n")),
    "chunked twice": (400, "InvalidInput", post("transfer-encoding: chunked\ntransfer-encoding: chunked", b"0\r\n\r\n")),
    "nearly chunked": (400, "InvalidInput", post("transfer-encoding: xchunked", b"0\r\n\r\n")),
    "chunked in HTTP/1.0": (400, "InvalidInput", request("POST / HTTP/1.0\ntransfer-encoding: chunked\n\n", b"0\r\n\r\n")),
    "chunk size no number": (400, "InvalidInput", post("transfer-encoding: chunked", b"3x\r\nabc\r\n0\r\n\r\n")),
    "chunk size with bare line feed": (400, "InvalidInput", post("transfer-encoding: chunked", b"3\nabc\r\n0\r\n\r\n")),
    "chunk size with space": (400, "InvalidInput", post("transfer-encoding: chunked", b"3 \r\nabc\r\n0\r\n\r\n")),
    "chunk size beyond 64 bits": (400, "InvalidInput", post("transfer-encoding: chunked", b"FFFFFFFFFFFFFFFFF\r\nabc")),
    "chunk longer than it says": (400, "InvalidInput", post("transfer-encoding: chunked", b"3\r\nabcd\r\n0\r\n\r\n")),
    "length in trailer": (400, "InvalidInput", post("transfer-encoding: chunked", b"0\r\ncontent-length: 3\r\n\r\nabc")),
    "body too large": (413, "RequestBodyTooLarge", post("content-length: 1001")),
    "body far too large": (413, "RequestBodyTooLarge", post("content-length: 999999999999999999")),
    "chunks too large": (413, "RequestBodyTooLarge", post("transfer-encoding: chunked", b"5\r\nabcde\r\n" * 201)),
    "trailers too large": (431, "RequestHeaderTooLarge", post("transfer-encoding: chunked", b"0\r\n" + b"t: yyyyyyyy\r\n" * 70 + b"\r\n")),
    "trailer without end": (431, "RequestHeaderTooLarge", post("transfer-encoding: chunked", b"0\r\nt: " + b"y" * 3000)),
    "chunk extension without end": (431, "RequestHeaderTooLarge", post("transfer-encoding: chunked", b"1;" + b"y" * 3000)),
    # What we do not do.
    "upgrade": (400, "InvalidInput", request("GET / HTTP/1.1\nhost: n\nconnection: upgrade\nupgrade: h2c\n\n")),
    "upgrade to WebSocket": (
        400,
        "InvalidInput",
        request("GET / HTTP/1.1\nhost: n\nconnection: keep-alive, Upgrade\nupgrade: websocket\n\n"),
    ),
    "unknown expectation": (417, "InvalidInput", post("expect: miracle\ncontent-length: 1", b"x")),
}


@pytest.mark.parametrize("size", [0, 1, 5])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_a_request_is_refused_in_ccf_shape(name: str, size: int) -> None:
    status, code, data = REFUSED[name]
    side = Side().feed(data, size or 2000)  # a TLS record brings no more than 16 KiB at once, so "without end" comes in pieces
    assert side.requests == []
    ((got, headers, body),) = parse_answers(side.output)
    error = json.loads(body)["error"]
    assert (got, error["code"]) == (status, code), error
    assert error["message"]
    assert headers["connection"] == "close"
    assert headers["content-type"] == "application/json"
    assert side.connection.finished and side.connection.refused
    side.feed(GET)
    assert side.requests == []
    counters = side.counters
    kinds = {413: (0, 1, 0), 414: (0, 0, 1), 431: (0, 0, 1)}
    assert (counters.parsing, counters.request_payload_too_large, counters.request_header_too_large) == kinds.get(status, (1, 0, 0))


def test_more_fields_than_allowed_are_refused() -> None:
    for count, refused in ((HEADER_FIELDS_MAX, False), (HEADER_FIELDS_MAX + 1, True)):
        side = Side(Limits()).feed(b"GET / HTTP/1.1\r\nhost: n\r\n" + b"a: b\r\n" * (count - 1) + b"\r\n")
        assert side.connection.refused == refused
        if refused:
            assert parse_answers(side.output)[0][0] == 431


def test_every_verb_that_endpoints_may_have_is_read() -> None:
    for method in METHODS:
        side = Side().feed(f"{method} / HTTP/1.1\r\nhost: n\r\n\r\n".encode())
        assert [item.method for item in side.requests] == [method]


def test_a_refusal_comes_after_the_answers_to_earlier_requests() -> None:
    side = Side().feed(GET + GET + b"nonsense\r\n\r\n" + GET)
    assert len(side.requests) == 2
    assert side.output == b"" and not side.connection.finished
    side.answer(1, Response(200, (), b"second", TEXT))
    side.answer(0, Response(200, (), b"first", TEXT))
    answers = parse_answers(side.output)
    assert [(status, body) for status, _, body in answers[:2]] == [(200, b"first"), (200, b"second")]
    assert answers[2][0] == 400
    assert side.connection.finished


@given(st.permutations(range(6)), st.integers(0, 5))
def test_answers_leave_in_the_order_of_requests(order: list[int], size: int) -> None:
    data = b"".join(b"GET /%d HTTP/1.1\r\nhost: n\r\n\r\n" % number for number in range(6))
    side = Side().feed(data, size)
    for index in order:
        side.answer(index, Response(200, (), side.requests[index].path.encode(), TEXT))
    assert [body for _, _, body in parse_answers(side.output)] == [b"/%d" % number for number in range(6)]
    assert side.connection.waiting == 0


def test_the_answer_after_connection_close_is_the_last() -> None:
    side = Side().feed(b"GET /1 HTTP/1.1\r\nhost: n\r\nConnection: close\r\n\r\n" + GET)
    assert [item.path for item in side.requests] == ["/1"]
    assert side.connection.ended and not side.connection.finished
    side.answer(0, Response(204))
    assert side.output == b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"
    assert side.connection.finished and not side.connection.refused


def test_http_1_0_closes_unless_asked_to_keep_and_then_says_so() -> None:
    side = Side().feed(b"GET / HTTP/1.0\r\n\r\n")
    side.answer(0, Response(204))
    assert side.connection.finished
    side = Side().feed(b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")
    side.answer(0, Response(200, (), b"x", TEXT))
    assert not side.connection.finished
    assert parse_answers(side.output)[0][1]["connection"] == "keep-alive"


def test_head_is_answered_with_the_length_but_without_the_body() -> None:
    side = Side().feed(b"HEAD / HTTP/1.1\r\nhost: n\r\n\r\n" + GET)
    side.answer(0, Response(200, (), b"12345", TEXT))
    side.answer(1, Response(200, (), b"12345", TEXT))
    assert side.output.count(b"content-length: 5\r\n") == 2
    assert side.output.count(b"12345") == 1


def test_expect_100_continue_is_answered_before_the_body_comes() -> None:
    head = post("expect: 100-continue\ncontent-length: 3")
    side = Side().feed(head)
    assert side.output == b"HTTP/1.1 100 Continue\r\n\r\n"
    side.connection.output.clear()
    side.feed(b"abc")
    assert side.requests[0].body == b"abc"
    side.answer(0, Response(204))
    assert side.output.startswith(b"HTTP/1.1 204")


def test_100_continue_waits_for_earlier_answers() -> None:
    side = Side().feed(GET + post("expect: 100-continue\ncontent-length: 3"))
    assert side.output == b""
    side.answer(0, Response(204))
    assert side.output == b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    side.feed(b"abc")
    assert side.requests[1].body == b"abc"


def test_a_body_that_is_too_large_is_refused_instead_of_continued() -> None:
    side = Side().feed(post("expect: 100-continue\ncontent-length: 5000"))
    assert side.output.startswith(b"HTTP/1.1 413")
    side = Side().feed(request("POST / HTTP/1.0\nexpect: 100-continue\ncontent-length: 1\n\n"))
    assert side.output == b""  # 1.0 clients do not know interim answers


def test_too_many_requests_in_flight_are_answered_503_in_their_place() -> None:
    side = Side().feed(GET * 10)
    assert len(side.requests) == 8
    for index in range(8):
        side.answer(index, Response(204))
    statuses = [status for status, _, _ in parse_answers(side.output)]
    assert statuses == [204] * 8 + [503] * 2
    side.feed(GET)
    assert len(side.requests) == 9


def test_answers_that_pile_up_behind_a_missing_one_end_the_session() -> None:
    side = Side().feed(GET * 8)
    for index in range(1, 8):
        side.answer(index, Response(200, (), b"x" * 1000, TEXT))
    assert side.connection.finished
    assert side.output == b""
    side.answer(0, Response(204))
    assert side.output == b""


def test_an_answer_to_a_closed_session_is_dropped() -> None:
    side = Side().feed(GET)
    side.connection.close()
    side.answer(0, Response(204))
    assert side.output == b""


def test_a_held_answer_given_twice_is_a_bug_of_ours() -> None:
    side = Side().feed(GET + GET)
    side.answer(1, Response(204))
    with pytest.raises(UsageError):
        side.answer(1, Response(204))


BAD_HEADERS: list[tuple[str, str]] = [
    ("x", "a\r\nset-cookie: b"),
    ("x", "a\nb"),
    ("x", "a\rb"),
    ("x", "a\0b"),
    ("x\r\ny", "a"),
    ("x y", "a"),
    ("X", "a"),
    ("", "a"),
    ("content-length", "3"),
    ("connection", "keep-alive"),
    ("transfer-encoding", "chunked"),
]


@pytest.mark.parametrize("header", BAD_HEADERS)
def test_a_header_that_would_split_the_answer_is_never_printed(header: tuple[str, str]) -> None:
    with pytest.raises(UsageError):
        encode_response(Response(200, (header,), b"", ""))


def test_content_type_cannot_split_the_answer() -> None:
    with pytest.raises(UsageError):
        encode_response(Response(200, (), b"x", "text/plain\r\nx: y"))


def test_after_an_unprintable_answer_another_may_be_given() -> None:
    side = Side().feed(GET)
    for value in ("a\nb", "€"):
        with pytest.raises(UsageError):
            side.answer(0, Response(200, (("x", value),)))
    side.answer(0, Response(500))
    assert [status for status, _, _ in parse_answers(side.output)] == [500]


def test_a_finished_connection_holds_nothing() -> None:
    side = Side().feed(post("content-length: 900", b"x" * 500))
    assert side.connection.incomplete and side.connection.buffered == 500
    side.connection.close()
    assert not side.connection.incomplete and side.connection.buffered == 0


TOKEN = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.!~", min_size=1, max_size=12)
VALUE = st.text("".join(chr(code) for code in range(0x21, 0x7F)), max_size=20)
FIELDS = st.dictionaries(TOKEN.map(lambda name: "x-" + name.lower()), VALUE, max_size=8)


@st.composite
def requests_and_wire(draw: st.DrawFn) -> tuple[tuple[str, str, str, dict[str, str], bytes], bytes]:
    method = draw(st.sampled_from(METHODS))
    path = "/" + draw(st.text("abc/%20.-_~:@!$&'()*+,;=", max_size=20))
    query = draw(st.text("abc/?=&%20", max_size=10))
    fields = {"host": "n", **draw(FIELDS)}
    body = draw(st.binary(max_size=300)) if draw(st.booleans()) else b""
    target = path + ("?" + query if query else "")
    wire_body = body
    if body and draw(st.booleans()):
        fields["transfer-encoding"] = "chunked"
        cut = draw(st.integers(1, 50))
        pieces = [body[start : start + cut] for start in range(0, len(body), cut)]
        wire_body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    elif body:
        fields["content-length"] = str(len(body))
    head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{name.title()}:  {value}\r\n" for name, value in fields.items()) + "\r\n"
    return (method, path, query, fields, body), head.encode() + wire_body


@given(st.lists(requests_and_wire(), min_size=1, max_size=5), st.lists(st.integers(1, 400), min_size=1, max_size=8))
def test_what_was_printed_is_what_is_read_wherever_it_is_cut(items: list[Any], cuts: list[int]) -> None:
    side = Side(Limits())
    wire = b"".join(data for _, data in items)
    turn = 0
    while wire:
        cut = cuts[turn % len(cuts)]
        turn += 1
        side.feed(wire[:cut])
        wire = wire[cut:]
    assert side.seen() == [seen for seen, _ in items]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 20))
def test_random_bytes_never_raise(data: bytes, size: int) -> None:
    side = Side().feed(data, size)
    if side.connection.refused:
        assert parse_answers(side.output)[0][0] >= 400


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_requests_never_raise_and_read_the_same_in_pieces(data: st.DataObject) -> None:
    wire = bytearray(data.draw(st.sampled_from([item[0] for item in GOOD.values()])) + GET)
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(wire) - 1))
        what = data.draw(st.sampled_from(["flip", "insert", "delete"]))
        if what == "flip":
            wire[position] ^= 1 << data.draw(st.integers(0, 7))
        elif what == "insert":
            wire[position:position] = data.draw(
                st.sampled_from([b"\r\n", b"\n", b" ", b"\0", b":", b"\r\n ", b"Content-Length: 1\r\n", b"0\r\n\r\n"])
            )
        else:
            del wire[position : position + data.draw(st.integers(1, 5))]
    whole = Side(Limits()).feed(bytes(wire))
    pieces = Side(Limits()).feed(bytes(wire), 1)
    assert whole.seen() == pieces.seen()
    assert whole.connection.refused == pieces.connection.refused
    for answer in parse_answers(whole.output):
        assert answer[0] >= 100


# Requests that repeat their fields take a short way past llhttp. It must be no other way.

PUT_FIELDS = b"\r\nhost: n\r\nx-a: b\r\ncontent-length: 3\r\n\r\n"


def learned(fields: bytes = PUT_FIELDS, body: bytes = b"abc") -> Side:
    """A connection that has read one request with these fields."""
    side = Side(Limits()).feed(b"PUT /first HTTP/1.1" + fields + body)
    assert len(side.requests) == 1
    side.answer(0, Response(204))
    side.requests.clear()
    side.connection.output.clear()
    return side


def both_ways(line: bytes, rest: bytes, fields: bytes = PUT_FIELDS, body: bytes = b"abc") -> Side:
    """Read `line + rest` after a request with the same fields, and alone; the two must agree, and so must the request after it."""
    short = learned(fields, body).feed(line + rest)
    long = Side(Limits()).feed(line + rest)
    assert short.seen() == long.seen()
    assert short.connection.refused == long.connection.refused
    assert short.connection.incomplete == long.connection.incomplete
    assert short.output == long.output
    for side in (short, long):
        side.feed(b"GET /next HTTP/1.1" + PUT_FIELDS + b"xyz")
    assert short.seen() == long.seen()
    return short


def test_a_request_with_the_same_fields_does_not_reach_llhttp() -> None:
    side = learned()
    side.connection._parser = object()  # type: ignore[assignment]
    side.feed(b"PUT /second?q HTTP/1.1" + PUT_FIELDS + b"def")
    side.feed(b"GET /third HTTP/1.1" + PUT_FIELDS + b"ghi")
    fields = {"host": "n", "x-a": "b", "content-length": "3"}
    assert side.seen() == [("PUT", "/second", "q", fields, b"def"), ("GET", "/third", "", fields, b"ghi")]


@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "DELETE", "HEAD", "OPTIONS", "CONNECT", "PRI", "SOURCE", "get", "MKCOL", ""])
@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/1.1 ", "RTSP/1.0", "ICE/1.0", ""])
def test_every_request_line_means_the_same_on_the_short_way(method: str, version: str) -> None:
    for target in ("/x", "/x?y?z", "/", "*", "http://n/x", "x", "/x#y", "/?", "//", "n:1", "/a%00", "/" + "x" * 8192, "/" + "x" * 8191):
        both_ways(f"{method} {target} {version}".encode(), PUT_FIELDS + b"abc")


@pytest.mark.parametrize("place", [0, 3, 4, 6, 8, 11, 19])
def test_every_byte_in_the_request_line_means_the_same_on_the_short_way(place: int) -> None:
    line = b"PUT /a/b?c HTTP/1.1"
    for byte in range(256):
        both_ways(line[:place] + bytes([byte]) + line[place:], PUT_FIELDS + b"abc")
        both_ways(line[:place] + bytes([byte]) + line[place + 1 :], PUT_FIELDS + b"abc")


@pytest.mark.parametrize(
    "rest",
    [
        PUT_FIELDS + b"ab",
        PUT_FIELDS + b"abcd",
        PUT_FIELDS + b"abcPUT /x HTTP/1.1" + PUT_FIELDS + b"abc",
        PUT_FIELDS,
        PUT_FIELDS[:-2] + b"x: y\r\n\r\nabc",
        PUT_FIELDS[2:] + b"abc",
        PUT_FIELDS.replace(b"host", b"Host") + b"abc",
        PUT_FIELDS.replace(b"3", b"2") + b"abc",
        b"\r\nx: y" + PUT_FIELDS + b"abc",
        b" " + PUT_FIELDS + b"abc",
        b"",
    ],
)
def test_fields_that_differ_take_the_long_way(rest: bytes) -> None:
    both_ways(b"PUT /x HTTP/1.1", rest)


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        (b"\r\nhost: n\r\n\r\n", b""),
        (b"\r\nhost: n\r\nconnection: keep-alive\r\n\r\n", b""),
        (b"\r\nhost: n\r\nconnection: close\r\n\r\n", b""),
        (b"\r\nhost: n\r\nupgrade: h2c\r\n\r\n", b""),
        (b"\r\nhost: n\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n", b"x"),
        (b"\r\nhost: n\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\nx\r\n0\r\n\r\n"),
        (b"\r\nhost: n\r\ncontent-length: 4\r\n\r\n", b"\r\n\r\n"),
        (b"\r\nhost: n\r\nx: " + b"y" * 3000 + b"\r\n\r\n", b""),
    ],
)
def test_fields_with_a_meaning_for_the_connection_mean_it_each_time(fields: bytes, body: bytes) -> None:
    side = learned(fields, body)
    side.feed(b"GET /x HTTP/1.1" + fields + body)
    alone = Side(Limits()).feed(b"GET /x HTTP/1.1" + fields + body)
    if side.connection.finished:
        assert b"close" in fields and side.seen() == []
    else:
        assert side.seen() == alone.seen()
        assert side.output == alone.output


def test_fields_of_an_http_1_0_request_are_judged_anew_for_1_1() -> None:
    fields = b"\r\nconnection: keep-alive\r\n\r\n"
    side = Side(Limits()).feed(b"GET /x HTTP/1.0" + fields).feed(b"GET /y HTTP/1.1" + fields)
    assert len(side.requests) == 1
    assert side.connection.refused  # 1.1 needs a host


def test_a_client_that_never_repeats_itself_is_read_all_the_same() -> None:
    side = Side(Limits())
    for number in range(50):
        side.feed(b"GET /x HTTP/1.1\r\nhost: n\r\nx: %d\r\n\r\n" % number)
    assert [item.headers["x"] for item in side.requests] == [str(number) for number in range(50)]


def test_the_short_way_keeps_the_limit_of_requests_in_flight() -> None:
    side = Side()
    for _ in range(10):
        side.feed(GET)
    assert len(side.requests) == 8 and side.connection.waiting == 10


def test_an_endless_request_holds_no_more_than_its_limits() -> None:
    side = Side()
    side.feed(b"POST /x HTTP/1.1\r\nhost: n\r\ntransfer-encoding: chunked\r\n\r\n")
    for _ in range(1000):
        side.feed(b"1\r\nx\r\n")
    assert side.connection.buffered == 1000
    side.feed(b"1\r\nx\r\n")
    assert side.connection.refused and side.connection.buffered == 0


def test_answers_that_wait_for_earlier_ones_are_bounded_over_all_sessions_together() -> None:
    counters = Counters()
    limits = Limits(held_bytes_all=10_000)
    requests: list[Request] = []
    connections = [HttpConnection(None, requests, limits, counters) for _ in range(4)]
    for connection in connections:
        connection.received(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" * 2)
        connection.answer(requests[-1].reply_to, Response(200, (), b"x" * 3_000, "text/plain"))  # type: ignore[arg-type]
    assert [connection.finished for connection in connections] == [False, False, False, True]
    assert 9_000 < counters.held <= 10_000
    for connection, request in zip(connections[:2], requests[::2], strict=False):
        connection.answer(request.reply_to, Response(204))  # type: ignore[arg-type]
    connections[2].close()
    assert counters.held == 0
