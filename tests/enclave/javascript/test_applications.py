"""Which endpoints there are: the tables', forward and back, beside the service's own and those of the image; and what they may do."""

import json
from typing import Any

import pytest

from ledgerd.enclave import openapi
from ledgerd.enclave.execution import FORWARD
from ledgerd.governance import tables
from support.executing import USER, endpoint, error_of
from support.javascript import Installed, rows
from support.openapi import check_openapi

WRITE = "ccf.kv.records.set(ccf.strToBuf('k'), ccf.strToBuf('v'));"
NAMED = "export const {0} = (request) => ({{body: '{0}'}});"


def body(service: Installed, method: str, target: str, **more: Any) -> bytes:
    response = service.answer(method, target, **more)
    assert response.status == 200, response
    return bytes(response.body)


def status(service: Installed, method: str, target: str) -> int:
    return service.answer(method, target).status


def app(*names: str) -> dict[str, str]:
    return {"/app.js": "\n".join(NAMED.format(name) for name in names)}


def test_an_application_is_there_when_it_is_installed_and_gone_when_it_is_undone() -> None:
    service = Installed()
    assert status(service, "GET", "/app/a") == 404
    service.put(rows({"GET /a": {"js_function": "one"}}, app("one")))
    assert body(service, "GET", "/app/a") == body(service, "GET", "/a") == b"one"
    second = rows({"GET /a": {"js_function": "two"}, "GET /b/{c}": {"js_function": "two"}}, app("two"))
    service.put(second)
    assert body(service, "GET", "/app/a") == body(service, "GET", "/app/b/x") == b"two"
    service.back(service.store.version - 1)
    assert body(service, "GET", "/app/a") == b"one"
    assert status(service, "GET", "/app/b/x") == 404
    service.put({tables.ENDPOINTS: {b"GET /a": None}, tables.MODULES: {b"/app.js": None}})
    assert status(service, "GET", "/app/a") == 404


def test_only_the_modules_change() -> None:
    service = Installed()
    service.put(rows({"GET /a": {}}, {"/app.js": "export {main} from './other.js'", "/other.js": NAMED.format("main")}))
    assert body(service, "GET", "/app/a") == b"main"
    service.put({tables.MODULES: {b"/other.js": b"export const main = () => ({body: 'changed'})"}})
    assert body(service, "GET", "/app/a") == b"changed"


def test_javascript_goes_before_the_services_own_and_that_before_the_image() -> None:
    image = (
        endpoint("GET", "/records/{key}", lambda ctx: "image"),
        endpoint("PUT", "/records/{key}", lambda ctx: "image"),
        endpoint("GET", "/commit/more", lambda ctx: "image"),
        endpoint("GET", "/commit", lambda ctx: "image"),
    )
    service = Installed(image)
    assert body(service, "GET", "/app/records/1") == b"image"
    assert body(service, "GET", "/app/commit") == b"the service's own"
    service.put(rows({"GET /records/{id}": {}, "GET /commit": {}, "POST /commit": {}}, app("main")))
    assert body(service, "GET", "/app/records/1") == b"main"
    assert body(service, "PUT", "/app/records/1") == body(service, "GET", "/app/commit/more") == b"image"
    assert body(service, "GET", "/app/commit") == body(service, "POST", "/app/commit") == b"main"
    assert service.logs == []
    service.back(1)
    assert body(service, "GET", "/app/commit") == b"the service's own"
    assert body(service, "GET", "/app/records/1") == b"image"
    assert status(service, "POST", "/app/commit") == 405


def test_rows_that_make_no_sense_stop_nothing_and_are_told() -> None:
    service = Installed()
    made = rows({"GET /good": {}, "GET /bad": {"mode": "write"}, "GET /a/{b}": {}, "PUT /a{b}": {}}, app("main"))
    made[tables.ENDPOINTS].update(
        {b"\xff": b"{}", b"GET /c": b"\xff", b"FLY /d": b"{}", b"GET /a/{z}": made[tables.ENDPOINTS][b"GET /good"]}
    )
    service.put(made)
    assert body(service, "GET", "/app/good") == b"main"
    for path in ("/app/bad", "/app/c", "/app/a/1"):
        response = service.answer("GET", path)
        assert (response.status, error_of(response)["code"]) == (500, "InternalError")
        assert "cannot be served" in error_of(response)["message"]
    assert [status(service, "PUT", "/app/ax"), status(service, "GET", "/app/d")] == [404, 404]
    told = "\n".join(service.logs)
    for row in ("GET /app/bad", "GET /app/c", "'PUT /a{b}'", "\\xff", "'FLY /d'", "/a/{b}, /a/{z}"):
        assert row in told, row
    assert "set_js_app" in told


def test_paths_that_differ_in_names_of_parameters_only_are_refused_by_name_when_they_are_asked_for() -> None:
    service = Installed()
    two: dict[str, Any] = {"GET /dispatch/{bar}": {}, "GET /dispatch/{baz}": {}, "PUT /dispatch/{bar}": {}, "GET /dispatch/{bar}:go": {}}
    service.put(rows(two, app("main")))
    error = error_of(service.answer("GET", "/app/dispatch/foo"))
    assert error["code"] == "InternalError"
    assert error["message"] == "/app/dispatch/foo cannot be served: several endpoints have this path: /dispatch/{bar}, /dispatch/{baz}."
    assert body(service, "PUT", "/app/dispatch/foo") == body(service, "GET", "/app/dispatch/foo:go") == b"main"
    assert sum("several endpoints" in line for line in service.logs) == 1


def test_a_path_that_is_none_takes_no_other_with_it() -> None:
    service = Installed()
    service.put(rows({"GET /a/{b c}": {}, "GET /a/{b}": {}}, app("main")))
    assert body(service, "GET", "/app/a/1") == b"main"
    (line,) = service.logs
    assert "b'GET /a/{b c}' is not there" in line


def test_what_makes_no_sense_a_thousand_times_is_told_a_few_times() -> None:
    service = Installed()
    service.put(rows({f"GET /{number}": {"mode": 1} for number in range(1_000)}, {}))
    assert len(service.logs) == 11
    assert "990 more" in service.logs[-1]


def test_modules_that_cannot_be_used_are_told_and_their_endpoints_say_so() -> None:
    service = Installed()
    made = rows({"GET /a": {}}, app("main"))
    made[tables.MODULES][b"app.js"] = b"// the same name, but for the slash"
    service.put(made)
    assert "two modules have the same name" in error_of(service.answer("GET", "/app/a"))["message"]


def test_there_is_an_end_to_endpoints() -> None:
    service = Installed()
    service.put(rows({f"GET /{number}": {} for number in range(4_100)}, app("main")))
    assert "there are more than 4096" in service.logs[-2]


def test_options_change_without_the_application() -> None:
    service = Installed()
    service.install("while (true);", {"max_execution_time_ms": 50})
    assert error_of(service.answer("POST", "/app/x"))["message"] == "Operation took too long to complete."
    assert json.loads(body(service, "GET", "/node/js_metrics"))["max_execution_time"] == 50
    service.put({tables.JS_RUNTIME_OPTIONS: {tables.SINGLETON: b'{"max_execution_time_ms": 60, "return_exception_details": true}'}})
    assert error_of(service.answer("POST", "/app/x"))["details"]
    assert json.loads(body(service, "GET", "/node/js_metrics")) == {
        "bytecode_size": 0,
        "bytecode_used": False,
        "max_heap_size": 100 << 20,
        "max_stack_size": 1 << 20,
        "max_execution_time": 60,
        "max_cached_interpreters": 10,
    }


# Writing.


def test_writes_are_kept_for_2xx_or_as_the_application_says() -> None:
    for code, more, kept in ((200, "", True), (299, "", True), (400, "", False), (400, "true", True), (200, "false", False)):
        service = Installed()
        said = f"ccf.rpc.setApplyWrites({more});" if more else ""
        service.install(f"{WRITE} {said} return {{statusCode: {code}}};")
        response = service.answer("POST", "/app/x")
        assert response.status == code
        assert service.store.get("records", b"k") == (b"v" if kept else None)
        assert dict(response.headers)["x-ms-ccf-transaction-id"] == ("2.3" if kept else "2.2")


def test_an_exception_writes_nothing_even_where_the_application_wanted_it() -> None:
    service = Installed()
    service.install(f"{WRITE} ccf.rpc.setApplyWrites(true); throw 1;")
    assert service.answer("POST", "/app/x").status == 500
    assert service.store.get("records", b"k") is None


@pytest.mark.parametrize("mode", ["readonly"])
def test_an_endpoint_that_reads_cannot_write(mode: str) -> None:
    service = Installed()
    service.install(f"{WRITE} return {{}};", {"return_exception_details": True}, mode=mode)
    (detail,) = error_of(service.answer("POST", "/app/x"))["details"]
    assert "Cannot call set on table named records" in detail["message"]


@pytest.mark.parametrize(
    "name", ["public:ccf.gov.users.certs", "ccf.gov.x", "public:ccf.internal.signatures", "public:ledgerd.x", "ledgerd.x"]
)
def test_the_services_maps_cannot_be_written(name: str) -> None:
    service = Installed()
    service.install(f"ccf.kv['{name}'].set(ccf.strToBuf('k'), ccf.strToBuf('v')); return {{}};", {"return_exception_details": True})
    before = service.store.version
    (detail,) = error_of(service.answer("POST", "/app/x"))["details"]
    assert detail["message"].startswith("TypeError: Cannot call set on table named")
    assert service.store.version == before


def test_governance_can_be_read() -> None:
    service = Installed()
    service.install(
        "return {body: ccf.bufToStr(ccf.kv['public:ccf.gov.users.info'].get(ccf.strToBuf(request.body.text())))};", mode="readonly"
    )
    assert b"clerk" in body(service, "POST", "/app/x", body=USER)


def test_claims_are_bound_to_the_transaction() -> None:
    service = Installed()
    service.install(f"{WRITE} ccf.rpc.setClaimsDigest(new Uint8Array(32).fill(7).buffer); return {{}};")
    assert service.ask("POST", "/app/x").claims_digest == bytes([7]) * 32


@pytest.mark.parametrize(
    "wrong",
    [
        "setClaimsDigest(new ArrayBuffer(31))",
        "setClaimsDigest('x')",
        "setClaimsDigest()",
        "setApplyWrites(1)",
        "setApplyWrites()",
        "setApplyWrites(true, true)",
    ],
)
def test_wrong_arguments_are_an_exception(wrong: str) -> None:
    service = Installed()
    service.install(f"ccf.rpc.{wrong}; return {{}};")
    assert error_of(service.answer("POST", "/app/x"))["message"] == "Exception thrown while executing."


def test_an_idempotency_key_runs_a_request_once() -> None:
    service = Installed()
    source = "const m = ccf.kv.m; const k = ccf.strToBuf('n'); const n = m.has(k) ? ccf.bufToJsonCompatible(m.get(k)) : 0;"
    service.install(f"{source} m.set(k, ccf.jsonCompatibleToBuf(n + 1)); return {{body: n}};", authn_policies=["user_cert"])
    headers = {"idempotency-key": "abc"}
    answers = [service.answer("POST", "/app/x", headers=headers).body for _ in range(2)]
    assert answers == [b"0", b"0"]
    assert service.answer("POST", "/app/x").body == b"1"


@pytest.mark.parametrize(
    ("forwarding", "mode", "kind"), [("always", "readonly", FORWARD), ("sometimes", "readonly", None), ("never", "readwrite", None)]
)
def test_a_backup_passes_on_what_is_always_to_be_forwarded(forwarding: str, mode: str, kind: Any) -> None:
    service = Installed()
    service.install("return {body: 'here'};", mode=mode, forwarding_required=forwarding)
    service.is_primary = False
    outcome = service.ask("POST", "/app/x")
    assert outcome.kind == kind if kind else outcome.response is not None and outcome.response.body == b"here"


def test_a_backup_that_is_never_to_forward_cannot_write() -> None:
    service = Installed()
    service.install(f"{WRITE} return {{}};", forwarding_required="never")
    service.is_primary = False
    response = service.answer("POST", "/app/x")
    assert (response.status, error_of(response)["code"]) == (503, "TransactionReplicationFailed")


# Interpreters.


COUNT = "let n = 0; export function main() { return {body: ++n}; }"


def test_every_request_begins_anew_unless_interpreters_are_reused() -> None:
    service = Installed()
    service.install(COUNT)
    assert [body(service, "POST", "/app/x") for _ in range(3)] == [b"1", b"1", b"1"]
    service.install(COUNT, interpreter_reuse={"key": "k"})
    assert [body(service, "POST", "/app/x") for _ in range(3)] == [b"1", b"2", b"3"]


def test_endpoints_share_an_interpreter_by_key_and_a_new_application_begins_anew() -> None:
    service = Installed()
    both = rows(
        {f"GET /{name}": {"interpreter_reuse": {"key": key}} for name, key in (("a", "1"), ("b", "1"), ("c", "2"))}, {"/app.js": COUNT}
    )
    service.put(both)
    assert [body(service, "GET", f"/app/{name}") for name in "abca"] == [b"1", b"2", b"1", b"3"]
    service.put(both)  # the same text, installed again
    assert body(service, "GET", "/app/a") == b"1"
    service.put({tables.JS_RUNTIME_OPTIONS: {tables.SINGLETON: b'{"max_cached_interpreters": 0}'}})
    assert [body(service, "GET", "/app/a") for _ in range(2)] == [b"1", b"1"]


def test_readers_and_writers_share_no_interpreter() -> None:
    service = Installed()
    reuse = {"interpreter_reuse": {"key": "k"}}
    service.put(rows({"GET /r": {"mode": "readonly", **reuse}, "GET /w": reuse}, {"/app.js": COUNT}))
    assert [body(service, "GET", path) for path in ("/app/r", "/app/w", "/app/r", "/app/w")] == [b"1", b"1", b"2", b"2"]


# Applications that change while they run.


def test_a_request_of_an_application_that_was_replaced_is_known_to_be_so() -> None:
    service = Installed()
    service.put(rows({"GET /a": {}}, app("main")))
    old, _ = service.app.match("GET", "/app/a")
    assert not old.is_gone
    service.put({tables.USER_INFO: {b"x": b"{}"}})
    assert not old.is_gone
    service.put(rows({"GET /a": {"mode": "readonly"}}, app("main")))
    assert old.is_gone
    new, _ = service.app.match("GET", "/app/a")
    assert not new.is_gone


# OpenAPI.


def test_openapi_has_what_bundles_say_and_hides_what_is_to_be_hidden() -> None:
    service = Installed()
    described = {"summary": "Read a record.", "x-their-own": [1], "responses": {"200": {"description": "It."}}}
    service.put(
        rows(
            {
                "GET /records/{key}": {"openapi": described, "authn_policies": ["user_cert"], "mode": "readonly"},
                "PUT /records/{key}": {"openapi": {"parameters": 7, "responses": "x"}},
                "GET /secret": {"openapi_hidden": True},
                "GET /broken": {"mode": 7},
            },
            app("main"),
        )
    )
    made = openapi.document(service.app, "test", "1")
    check_openapi(made)
    assert set(made["paths"]) == {"/commit", "/records/{key}"}
    shown = made["paths"]["/records/{key}"]["get"]
    assert (shown["summary"], shown["x-their-own"], shown["x-ledgerd-policies"]) == ("Read a record.", [1], ["user_cert"])
    assert [parameter["name"] for parameter in shown["parameters"]] == ["key"]
    assert status(service, "GET", "/app/secret") == 200


@pytest.mark.parametrize(
    ("option", "shown", "text"),
    [
        ("max_heap_bytes", "max_heap_size", "InternalError: out of memory"),
        ("max_stack_bytes", "max_stack_size", "InternalError: stack overflow"),
    ],
)
def test_where_not_even_the_engine_can_start_every_request_fails_until_there_is_more(option: str, shown: str, text: str) -> None:
    """As CCF's own test of limits has it, where the least is 100 bytes."""
    service = Installed()
    service.install("return {body: 'done'};")
    for returns, details in ((False, []), (True, [{"code": "JSException", "message": text}])):
        said = {option: 100, "return_exception_details": returns}
        service.put({tables.JS_RUNTIME_OPTIONS: {tables.SINGLETON: tables.encode(said)}})
        error = error_of(service.answer("POST", "/app/x"))
        assert (error["message"], error.get("details", [])) == ("Exception thrown while executing.", details)
        assert json.loads(body(service, "GET", "/node/js_metrics"))[shown] == 100
        assert "no request can be answered" in service.logs[-1]
    service.put({tables.JS_RUNTIME_OPTIONS: {tables.SINGLETON: b"{}"}})
    assert body(service, "POST", "/app/x") == b"done"
