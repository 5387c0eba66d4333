"""What becomes of what endpoints return and throw: CCF's statuses, content types, codes and texts."""

from typing import Any

import pytest

from ledgerd.enclave.javascript.options import Options
from ledgerd.enclave.javascript.responses import respond
from ledgerd.enclave.scripts.jobs import End, Outcome
from ledgerd.ledger.errors import RequestError
from support.executing import error_of
from support.javascript import Installed

TELL = {
    "max_heap_bytes": 20 << 20,
    "max_stack_bytes": 1 << 20,
    "max_execution_time_ms": 200,
    "return_exception_details": True,
    "log_exception_details": True,
}


def service(source: str, options: Any = None) -> Installed:
    made = Installed()
    made.install(source, options)
    return made


def returned(source: str) -> Any:
    return service(f"return {source};").answer("POST", "/app/x")


@pytest.mark.parametrize(
    ("source", "status", "content_type", "body"),
    [
        ("{}", 200, "", b""),
        ("{body: undefined}", 200, "", b""),
        ("{body: ''}", 200, "text/plain", b""),
        ("{body: new ArrayBuffer(0)}", 200, "application/octet-stream", b""),
        ("{body: 'text'}", 200, "text/plain", b"text"),
        ("{body: {a: [1, null]}}", 200, "application/json", b'{"a":[1,null]}'),
        ("{body: null}", 200, "application/json", b"null"),
        ("{body: false}", 200, "application/json", b"false"),
        ("{body: new ArrayBuffer(2)}", 200, "application/octet-stream", b"\0\0"),
        ("{body: new Uint8Array([1, 2, 3]).subarray(1)}", 200, "application/octet-stream", b"\2\3"),
        ("{body: new Uint16Array([258])}", 200, "application/octet-stream", b"\2\1"),
        ("{statusCode: 404, body: 'no'}", 404, "text/plain", b"no"),
        ("{statusCode: 204, body: 'no'}", 204, "", b""),
        ("{statusCode: 599}", 599, "", b""),
        ("{body: '<p>', headers: {'Content-Type': 'text/html'}}", 200, "text/html", b"<p>"),
        ("{headers: {'content-type': 'text/html'}}", 200, "text/html", b""),
        ("Promise.resolve({body: 'later'})", 200, "text/plain", b"later"),
        ("(async () => { await 1; return {body: 'later'}; })()", 200, "text/plain", b"later"),
    ],
)
def test_a_body_is_what_it_is(source: str, status: int, content_type: str, body: bytes) -> None:
    response = returned(source)
    assert (response.status, response.content_type, response.body) == (status, content_type, body)


def test_headers_are_lower_case_and_the_nodes_own_are_the_nodes() -> None:
    response = returned(
        "{headers: {'X-A': 1, 'retry-after': 3, Connection: 'close', 'content-length': '7', 'x-ms-ccf-transaction-id': '9.9', 'x-a': 2}}"
    )
    assert response.headers == (("x-a", "2"), ("retry-after", "3"))


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("7", "not an object"),
        ("undefined", "not an object"),
        ("{statusCode: '200'}", "status code type"),
        ("{statusCode: 199}", "status code type"),
        ("{statusCode: 600}", "status code type"),
        ("{headers: {'a b': 'c'}}", "header type"),
        ("{headers: {'': 'c'}}", "header type"),
        ("{headers: {'ä': 'c'}}", "header type"),
        ("{headers: {a: 'b\\r\\nc: d'}}", "header value type"),
        ("{headers: {a: '\\u0000'}}", "header value type"),
        ("{headers: {a: '\\u4000'}}", "header value type"),
        ("{headers: {'content-type': 'a\\nb'}}", "header value type"),
        ("{headers: {a: Symbol()}}", "header value type"),
        ("{body: {a: 1n}}", "error during JSON conversion of body"),
        ("{headers: Object.fromEntries(Array(257).fill().map((_, i) => [`h${i}`, 'v']))}", "more than 256 headers"),
    ],
)
def test_what_is_no_response_is_refused_by_ccfs_words_and_writes_nothing(source: str, why: str) -> None:
    made = service(f"ccf.kv.m.set(new ArrayBuffer(1), new ArrayBuffer(1)); return {source};")
    before = made.store.version
    response = made.answer("POST", "/app/x")
    assert response.status == 500
    expected = {"code": "InternalError", "message": f"Invalid endpoint function return value ({why})."}
    if why.startswith("more than"):
        expected["message"] = "Exception thrown while executing."  # the worker sees that already
    assert error_of(response) == expected
    assert made.store.version == before


@pytest.mark.parametrize(
    ("source", "text", "detail"),
    [
        ("throw new Error('no')", "Exception thrown while executing.", "Error: no"),
        ("throw {a: 1}", "Exception thrown while executing.", '{"a":1}'),
        ("throw 7", "Exception thrown while executing.", "7"),
        ("throw null", "Exception thrown while executing.", "InternalError: out of memory"),
        ("nothing.at.all", "Exception thrown while executing.", "ReferenceError: nothing is not defined"),
        ("while (true);", "Operation took too long to complete.", "InternalError: interrupted"),
        ("return main(request)", "Exception thrown while executing.", "InternalError: stack overflow"),
        ("const a = []; while (true) a.push(new ArrayBuffer(1e6))", "Exception thrown while executing.", "InternalError: out of memory"),
        (
            "return new Promise(() => {})",
            "Exception thrown while executing.",
            "Error: the promise that the function returned is never settled",
        ),
        ("return Promise.reject(new Error('later'))", "Exception thrown while executing.", "Error: later"),
        ("import('/not/there.js'); return {}", "ok", ""),
        (
            "return {body: {toJSON() { throw new Error('x') }}}",
            "Invalid endpoint function return value (error during JSON conversion of body).",
            "Error: x",
        ),
    ],
)
def test_what_is_thrown_is_told_as_far_as_members_have_decided(source: str, text: str, detail: str) -> None:
    told = service(source, TELL)
    response = told.answer("POST", "/app/x")
    if text == "ok":
        assert response.status == 200
        return
    error = error_of(response)
    assert (response.status, error["code"], error["message"]) == (500, "InternalError", text)
    (shown,) = error["details"]
    assert (shown["code"], shown["message"]) == ("JSException", detail)
    assert any(line.startswith("error: POST /app/x: ") for line in told.logs)
    untold = service(source, {**TELL, "return_exception_details": False, "log_exception_details": False})
    assert error_of(untold.answer("POST", "/app/x")) == {"code": "InternalError", "message": text}
    assert untold.logs == []


def test_a_trace_says_where() -> None:
    (shown,) = error_of(service("throw new Error('no')", TELL).answer("POST", "/app/x"))["details"]
    assert "main (/app.js:1" in shown["trace"]


@pytest.mark.parametrize(
    ("properties", "detail"),
    [({"js_module": "/other.js"}, "there is no module /other.js"), ({"js_function": "other"}, "/app.js has no function other")],
)
def test_a_function_that_is_not_there_is_an_exception(properties: dict[str, str], detail: str) -> None:
    made = Installed()
    made.install("return {};", TELL, **properties)
    (shown,) = error_of(made.answer("POST", "/app/x"))["details"]
    assert detail in shown["message"]


def test_a_text_of_several_lines_is_several_lines_in_the_log() -> None:
    made = service("console.log('one\\ntwo'); throw new Error('three\\nfour');", TELL)
    assert made.answer("POST", "/app/x").status == 500
    assert made.logs[:4] == ["info: [app] one", "info: [app] two", "error: POST /app/x: Error: three", "error: four"]
    assert made.logs[4].startswith("error:       at main (/app.js:1")
    many = service("console.log('x\\n'.repeat(500)); return {};")
    many.answer("POST", "/app/x")
    assert len(many.logs) == 101
    assert "401 more log lines" in many.logs[-1]


def test_log_lines_reach_the_operator_in_bounds() -> None:
    many = "for (let i = 0; i < 500; i++) console.log('x'.repeat(9999));"
    made = service(f"console.log('one', 2); console.warn('two'); console.error({{}}); {many} return {{}};")
    assert made.answer("POST", "/app/x").status == 200
    assert made.logs[:3] == ["info: [app] one 2", "warning: [app] two", "error: [app] [object Object]"]
    assert len(made.logs) == 101
    assert max(len(line) for line in made.logs) < 2_100
    assert "403 more log lines" in made.logs[-1]


@pytest.mark.parametrize("end", [End.EXCEPTION, End.DEADLINE])
@pytest.mark.parametrize("text", ["Error: no such entries", "no such entries", "Error: no such entries, says the application"])
def test_a_refused_range_is_told_to_the_client_only_if_that_was_thrown_and_to_the_operator_all_the_same(end: End, text: str) -> None:
    refusal = RequestError(404, "LedgerRangeMissing", "no such entries")
    outcome = Outcome(end, None, text, "at main", (("info", "before"),))
    logs: list[str] = []
    with pytest.raises(RequestError) as raised:
        respond(outcome, Options(logs_exceptions=True), "GET /app/x", lambda level, line: logs.append(f"{level}: {line}"), refusal)
    is_told = end is End.EXCEPTION and text.endswith("entries")
    assert (raised.value is refusal, raised.value.status) == (is_told, 404 if is_told else 500)
    assert logs == ["info: [app] before", f"error: GET /app/x: {text}", "error:   at main"]
