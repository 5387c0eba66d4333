"""`ledgerd/1`: frames in, frames out, in any order; what is no frame is refused as HTTP would be."""

import json
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledgerd.enclave import pipeline
from ledgerd.enclave.http import Counters, Limits
from ledgerd.enclave.pipeline import REQUEST_ID_MAX, Call, PipelineConnection
from ledgerd.enclave.requests import JSON, TEXT, Request, Response

SMALL = Limits(body_bytes=1000, header_bytes=300, target_bytes=100, waiting=8)


class Side:
    """A connection with what its session would hold."""

    def __init__(self, limits: Limits = SMALL) -> None:
        self.requests: list[Request] = []
        self.counters = Counters()
        self.connection = PipelineConnection(None, self.requests, limits, self.counters, b"certificate", "caller")

    def feed(self, data: bytes, size: int = 0) -> "Side":
        for start in range(0, len(data), size or len(data) or 1):
            self.connection.received(data[start : start + (size or len(data))])
        return self

    def answer(self, index: int, response: Response) -> None:
        call = self.requests[index].reply_to
        assert isinstance(call, Call)
        self.connection.answer(call, response)

    def answers(self) -> list[list[Any]]:
        data = b"".join(self.connection.output)
        items = []
        while data:
            length = int.from_bytes(data[:4], "big")
            items.append(msgpack.unpackb(data[4 : 4 + length]))
            data = data[4 + length :]
        return items


def frame(*item: Any) -> bytes:
    return prefixed(msgpack.packb(list(item)))


def prefixed(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


PUT = frame(7, "PUT", "/app/records/a?x=1", {"prefer": "committed"}, b"hello")


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 50])
def test_requests_are_read_the_same_whole_and_in_pieces(size: int) -> None:
    side = Side().feed(PUT + frame(8, "GET", "/app/commit", {}, b""), size)
    seen = [(item.method, item.path, item.query, item.headers, item.body, item.certificate, item.caller_id) for item in side.requests]
    assert seen == [
        ("PUT", "/app/records/a", "x=1", {"prefer": "committed"}, b"hello", b"certificate", "caller"),
        ("GET", "/app/commit", "", {}, b"", b"certificate", "caller"),
    ]
    assert not side.connection.incomplete and side.connection.buffered == 0


def test_a_cut_request_is_incomplete_until_its_last_byte() -> None:
    side = Side()
    for index in range(len(PUT) - 1):
        side.feed(PUT[index : index + 1])
        assert side.connection.incomplete and side.requests == []
        assert side.connection.buffered == index + 1
    side.feed(PUT[-1:])
    assert not side.connection.incomplete and len(side.requests) == 1


@given(st.permutations(range(6)))
def test_answers_leave_at_once_in_any_order(order: list[int]) -> None:
    side = Side().feed(b"".join(frame(number * 10, "GET", "/x", {}, b"") for number in range(6)))
    for index in order:
        side.answer(index, Response(200, (("x-ms-ccf-transaction-id", "2.5"),), b"%d" % index, TEXT))
    assert side.answers() == [
        [index * 10, 200, {"x-ms-ccf-transaction-id": "2.5", "content-type": "text/plain"}, b"%d" % index] for index in order
    ]
    assert side.connection.waiting == 0


def test_the_example_in_the_documentation_is_true() -> None:
    page = Path(__file__).parents[2] / "docs" / "formats" / "ledgerd-1.md"
    request, answer = [bytes.fromhex(line) for line in page.read_text().split("```")[1].split("\n") if line]
    side = Side().feed(request)
    assert [(item.method, item.path, item.headers, item.body) for item in side.requests] == [("GET", "/app/commit", {}, b"")]
    side.answer(0, Response(200, (("x-ms-ccf-transaction-id", "2.143"),), b'{"transaction_id":"2.143"}', JSON))
    assert b"".join(side.connection.output) == answer


# The session survives these, since it is known which request is meant.
REJECTED: dict[str, tuple[int, str, list[Any]]] = {
    "unknown verb": (501, "NotImplemented", ["FETCH", "/", {}, b""]),
    "lower-case verb": (501, "NotImplemented", ["get", "/", {}, b""]),
    "target without slash": (400, "InvalidInput", ["GET", "x", {}, b""]),
    "empty target": (400, "InvalidInput", ["GET", "", {}, b""]),
    "absolute target": (400, "InvalidInput", ["GET", "http://n/x", {}, b""]),
    "fragment": (400, "InvalidInput", ["GET", "/x#y", {}, b""]),
    "space in target": (400, "InvalidInput", ["GET", "/a b", {}, b""]),
    "line break in target": (400, "InvalidInput", ["GET", "/a\n", {}, b""]),
    "letters beyond ASCII in target": (400, "InvalidInput", ["GET", "/é", {}, b""]),
    "target too long": (414, "RequestHeaderTooLarge", ["GET", "/" + "x" * 100, {}, b""]),
    "body too large": (413, "RequestBodyTooLarge", ["PUT", "/x", {}, b"x" * 1001]),
    "headers too large": (431, "RequestHeaderTooLarge", ["GET", "/x", {"a": "x" * 300}, b""]),
    "upper-case header": (400, "InvalidInput", ["GET", "/x", {"A": "b"}, b""]),
    "empty header name": (400, "InvalidInput", ["GET", "/x", {"": "b"}, b""]),
    "header name with space": (400, "InvalidInput", ["GET", "/x", {"a b": "b"}, b""]),
    "line break in header": (400, "InvalidInput", ["GET", "/x", {"a": "b\r\nc: d"}, b""]),
    "NUL in header": (400, "InvalidInput", ["GET", "/x", {"a": "\0"}, b""]),
    "header beyond latin-1": (400, "InvalidInput", ["GET", "/x", {"a": "€"}, b""]),
    "header value no text": (400, "InvalidInput", ["GET", "/x", {"a": 1}, b""]),
    "header name bytes": (400, "InvalidInput", ["GET", "/x", {b"a": "b"}, b""]),
    "method no text": (400, "InvalidInput", [b"GET", "/x", {}, b""]),
    "target no text": (400, "InvalidInput", ["GET", b"/x", {}, b""]),
    "headers no map": (400, "InvalidInput", ["GET", "/x", [], b""]),
    "body text": (400, "InvalidInput", ["PUT", "/x", {}, "text"]),
    "body nil": (400, "InvalidInput", ["PUT", "/x", {}, None]),
}


@pytest.mark.parametrize("name", REJECTED)
def test_a_bad_request_is_answered_under_its_id_and_the_session_goes_on(name: str) -> None:
    status, code, rest = REJECTED[name]
    side = Side().feed(frame(42, *rest) + PUT)
    ((number, got, headers, body),) = side.answers()
    assert (number, got, json.loads(body)["error"]["code"]) == (42, status, code)
    assert headers == {"content-type": "application/json"}
    assert [item.method for item in side.requests] == ["PUT"]
    assert not side.connection.ended


# After these nobody knows what the next byte means.
ENDED: dict[str, tuple[int, bytes]] = {
    "HTTP": (413, b"GET / HTTP/1.1\r\nhost: n\r\n\r\n"),
    "frame too large": (413, (10_000).to_bytes(4, "big")),
    "empty frame": (400, prefixed(b"")),
    "no msgpack": (400, prefixed(b"\xc1")),
    "trailing bytes in frame": (400, prefixed(PUT[4:] + b"\0")),
    "cut inside": (400, prefixed(PUT[4:-1])),
    "map": (400, prefixed(msgpack.packb({"id": 1}))),
    "four fields": (400, frame(1, "GET", "/", {})),
    "six fields": (400, frame(1, "GET", "/", {}, b"", 1)),
    "id text": (400, frame("1", "GET", "/", {}, b"")),
    "id true": (400, frame(True, "GET", "/", {}, b"")),
    "id negative": (400, frame(-1, "GET", "/", {}, b"")),
    "id too large": (400, frame(REQUEST_ID_MAX + 1, "GET", "/", {}, b"")),
    "id nil": (400, frame(None, "GET", "/", {}, b"")),
    "extension type": (400, frame(1, "GET", "/", {}, msgpack.ExtType(1, b"x"))),
    "too many headers": (400, frame(1, "GET", "/", {str(number): "" for number in range(257)}, b"")),
    "deep nesting": (400, prefixed(b"\x91" * 1300)),
    "text that is not UTF-8": (400, prefixed(b"\x95\x01\xa1\xff\xa1/\x80\xc4\x00")),
}


@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize("name", ENDED)
def test_what_is_no_frame_ends_the_session_with_an_error_without_id(name: str, size: int) -> None:
    status, data = ENDED[name]
    side = Side().feed(data, size)
    ((number, got, _, body),) = side.answers()
    assert (number, got) == (None, status)
    assert json.loads(body)["error"]["message"]
    assert side.connection.finished and side.connection.refused
    side.feed(PUT)
    assert side.requests == []


def test_the_error_that_ends_a_session_lets_earlier_requests_be_answered() -> None:
    side = Side().feed(PUT + frame(8, "GET", "/", {}, b"") + prefixed(b"\xc1") + PUT)
    assert len(side.requests) == 2
    assert side.connection.ended
    for index in (1, 0):
        assert not side.connection.finished
        side.answer(index, Response(204))
    assert [item[:2] for item in side.answers()] == [[None, 400], [8, 204], [7, 204]]
    assert side.connection.finished


def test_too_many_requests_in_flight_are_answered_503() -> None:
    side = Side().feed(b"".join(frame(number, "GET", "/x", {}, b"") for number in range(10)))
    assert len(side.requests) == 8
    assert [item[:2] for item in side.answers()] == [[8, 503], [9, 503]]
    side.answer(0, Response(204))
    side.feed(PUT)
    assert len(side.requests) == 9


def test_a_large_frame_in_small_records_is_not_copied_again_and_again() -> None:
    side = Side(Limits())
    body = b"x" * (1 << 20)
    side.feed(frame(1, "PUT", "/x", {}, body), 100)  # 10,000 pieces; quadratic copying would take minutes
    assert side.requests[0].body == body


@pytest.mark.parametrize("head", [b"\x98", b"\x88"])
def test_lists_in_lists_are_refused_before_they_are_built(head: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mebibyte of them takes a second to read, and anybody may send one."""
    calls: list[str] = []

    def count(name: str) -> None:
        check = getattr(pipeline, name)

        def counted(items: Any) -> Any:
            calls.append(name)
            return check(items)

        monkeypatch.setattr(pipeline, name, counted)

    count("_flat_list")
    count("_flat_map")
    nested = bytes([head[0] & 0xF0])
    while len(nested) < 100_000:
        nested = head + (nested * 8 if head == b"\x98" else b"".join(b"\xa1" + bytes([97 + key]) + nested for key in range(8)))
    side = Side(Limits(body_bytes=1 << 20)).feed(prefixed(nested))
    assert side.requests == [] and side.connection.ended
    assert len(calls) < 20


def test_a_header_that_occurs_twice_in_an_answer_is_joined() -> None:
    side = Side().feed(PUT)
    side.answer(0, Response(401, (("www-authenticate", "a"), ("x", "y"), ("www-authenticate", "b"))))
    assert side.answers() == [[7, 401, {"www-authenticate": "a, b", "x": "y"}, b""]]


def test_an_answer_to_a_closed_session_is_dropped() -> None:
    side = Side().feed(PUT)
    side.connection.close()
    side.answer(0, Response(204))
    assert side.answers() == []


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 9))
def test_random_bytes_never_raise(data: bytes, size: int) -> None:
    Side().feed(data, size).answers()


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=8) | st.binary(max_size=8) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3) | st.integers(0, 9), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(JUNK, max_size=7))
def test_any_msgpack_is_a_request_or_refused(item: list[Any]) -> None:
    side = Side().feed(frame(*item))
    assert len(side.requests) + len(side.answers()) == 1


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(PUT) - 1), st.integers(0, 7))
def test_a_flipped_bit_never_raises(position: int, bit: int) -> None:
    wire = bytearray(PUT)
    wire[position] ^= 1 << bit
    side = Side().feed(bytes(wire))
    assert len(side.requests) + len(side.answers()) + side.connection.incomplete == 1


# Frames with the verb and the headers of an earlier one are read without decoding them again (`_take_alike`): it must not show.

_KEYED = {"prefer": "committed, wait=29", "content-type": "text/plain", "idempotency-key": "2.7/abc-1"}
_NUMBERS = st.sampled_from((0, 127, 128, 255, 256, 65_535, 65_536, 2**32, REQUEST_ID_MAX, REQUEST_ID_MAX + 1, -1, "7"))
_TARGETS = st.sampled_from(
    ("/", "/app/records/key000001", "/app/x?a=1?b", "/" + "x" * 30, "/" + "x" * 31, "/" + "x" * 100, "/a b", "/é", "", b"/")
)
_KEYS = st.sampled_from(("", "k", "k" * 31, "k" * 32, "k" * 231, "k" * 232, "k" * 233, "k" * 256, "é", "a\nb", 7, b"k"))
_BODIES = st.sampled_from((b"", b"v", b"v" * 255, b"v" * 256, b"v" * 1000, b"v" * 1001, "text"))
_FRAMES = st.one_of(
    st.builds(lambda number, target, body: [number, "PUT", target, {"prefer": "committed"}, body], _NUMBERS, _TARGETS, _BODIES),
    st.builds(
        lambda number, target, key, body: [number, "PUT", target, {**_KEYED, "idempotency-key": key}, body],
        _NUMBERS,
        _TARGETS,
        _KEYS,
        _BODIES,
    ),
    st.builds(lambda number, target: [number, "GET", target, {}, b""], _NUMBERS, _TARGETS),
)


def _read(side: Side, data: bytes) -> tuple[object, ...]:
    """What one more frame's bytes did to a connection."""
    side.feed(data)
    requests = [(item.method, item.path, item.query, item.headers, item.body, item.reply_to.number) for item in side.requests]  # type: ignore[attr-defined]
    answers = side.answers()
    side.requests.clear()
    side.connection.output.clear()
    return requests, answers, side.connection.ended, side.connection.buffered


@settings(max_examples=400)
@given(st.lists(_FRAMES, min_size=1, max_size=6), st.data())
def test_frames_like_earlier_ones_are_read_as_if_there_had_been_none(items: list[list[Any]], data: st.DataObject) -> None:
    side = Side()
    for item in items:
        packed = msgpack.packb(item)
        if data.draw(st.booleans()):  # somebody's frames, nearly
            at = data.draw(st.integers(0, len(packed) - 1))
            packed = packed[:at] + data.draw(st.binary(max_size=2)) + packed[at + data.draw(st.integers(0, 2)) :]
        alone = Side()
        assert _read(side, prefixed(packed)) == _read(alone, prefixed(packed))
        if side.connection.ended or side.connection.buffered:
            break
        side.connection.waiting = 0


def _decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Frames that were decoded whole, as they come."""
    taken: list[bytes] = []
    take = PipelineConnection._take

    def counted(self: PipelineConnection, data: bytes) -> None:
        taken.append(data)
        take(self, data)

    monkeypatch.setattr(PipelineConnection, "_take", counted)
    return taken


@pytest.mark.parametrize("headers", [{}, {"prefer": "committed"}, _KEYED])
def test_only_the_first_of_frames_that_are_alike_is_decoded(headers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    taken = _decoded(monkeypatch)
    side = Side(Limits())
    for number in range(200, 300):
        if "idempotency-key" in headers:
            headers = {**headers, "idempotency-key": f"2.{number}/abc-{number}"}
        side.feed(frame(number, "PUT", f"/app/records/{number}", headers, b"v" * number))
        assert side.requests[-1].headers == headers
    assert len(taken) == 1 and len(side.requests) == 100


def test_a_client_that_changes_its_headers_is_learnt_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = _decoded(monkeypatch)
    side = Side(Limits())
    for number in range(1000, 1100):
        side.feed(frame(number, "PUT", "/x", {"prefer": "committed" if number < 1050 else "wait=1"}, b""))
    assert 2 <= len(taken) <= 10


def test_requests_of_one_connection_do_not_share_their_headers() -> None:
    side = Side()
    side.feed(b"".join(frame(number, "PUT", "/x", {"a": "b"}, b"") for number in range(1000, 1003)))
    side.requests[1].headers["a"] = "changed"  # type: ignore[index]  # as an application could
    assert [item.headers["a"] for item in side.requests] == ["b", "changed", "b"]


def test_a_connection_remembers_no_large_headers() -> None:
    side = Side(Limits())
    side.feed(frame(1000, "PUT", "/x", {"a": "b" * 600}, b"") * 2)
    assert side.connection._alike is None and len(side.requests) == 2
