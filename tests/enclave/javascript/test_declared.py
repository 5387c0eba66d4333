"""Rows of the table of endpoints: as `set_js_app` writes them, and as nothing but a mistake could."""

import json
from typing import Any

import pytest

from ledgerd.enclave.javascript.declared import RECORD_BYTES_MAX, read_declared
from ledgerd.ledger.errors import UsageError

PROPERTIES = {
    "js_module": "/src/app.js",
    "js_function": "read",
    "authn_policies": ["user_cert", {"all_of": ["member_cert", "user_cose_sign1"]}],
    "mode": "readonly",
    "forwarding_required": "sometimes",
    "redirection_strategy": "none",
    "openapi": {"summary": "Read.", "responses": {"200": {"description": "It."}}},
    "openapi_hidden": False,
    "interpreter_reuse": {"key": "one"},
    "a_tool_of_theirs": 7,
}


def read(key: bytes = b"GET /records/{key}", **changed: Any) -> Any:
    properties = {name: value for name, value in {**PROPERTIES, **changed}.items() if value is not ...}
    return read_declared(key, json.dumps(properties).encode())


def test_every_property_is_read() -> None:
    declared = read()
    assert (declared.method, declared.path, declared.module, declared.function) == ("GET", "/records/{key}", "/src/app.js", "read")
    assert [policy.name for policy in declared.policies] == ["user_cert", "member_cert+user_cose_sign1"]
    assert (declared.mode, declared.forwarding, declared.reuse) == ("readonly", "sometimes", "one")
    assert (declared.operation["summary"], declared.hidden, declared.broken) == ("Read.", False, "")


def test_what_is_left_out_is_ccfs_default() -> None:
    left_out = ("authn_policies", "mode", "forwarding_required", "redirection_strategy", "openapi", "openapi_hidden", "interpreter_reuse")
    left: dict[str, Any] = dict.fromkeys(left_out, ...)
    declared = read(**left)
    assert (declared.policies, declared.mode, declared.forwarding) == ((), "readwrite", "always")
    assert (declared.operation, declared.hidden, declared.reuse, declared.broken) == ({}, False, None, "")


@pytest.mark.parametrize("key", [b"", b"GET", b"GET records", b"get /x", b"PURGE /x", b"/x", b" /x", b"\xff /x"])
def test_a_key_that_names_no_endpoint_is_refused(key: bytes) -> None:
    with pytest.raises(UsageError):
        read(key)


@pytest.mark.parametrize(
    "changed",
    [
        {"js_module": ...},
        {"js_module": 1},
        {"js_function": ""},
        {"authn_policies": "user_cert"},
        {"authn_policies": ["root"]},
        {"authn_policies": [{"all_of": []}]},
        {"authn_policies": [{"all_of": [["user_cert"]]}]},
        {"authn_policies": [{"all_of": 7}]},
        {"authn_policies": [{"all_of": None}]},
        {"authn_policies": [{"all_of": {"user_cert": 1}}]},
        {"authn_policies": [None]},
        {"mode": "write"},
        {"mode": []},
        {"forwarding_required": "maybe"},
        {"interpreter_reuse": "one"},
        {"interpreter_reuse": {}},
        {"interpreter_reuse": {"key": "x" * 257}},
        {"openapi": {"summary": "x" * RECORD_BYTES_MAX}},
        {"openapi": {"summary": "\ud800"}},
        {"openapi": {"x": float("nan")}},
    ],
)
def test_a_record_that_cannot_be_served_is_an_endpoint_that_says_so(changed: dict[str, Any]) -> None:
    declared = read(**changed)
    assert declared.broken
    assert (declared.method, declared.path, declared.hidden) == ("GET", "/records/{key}", True)


@pytest.mark.parametrize("record", [b"", b"x", b"[]", b"7", b"\xff", b"[" * 100_000, b'{"openapi":{"x":1e999}}'])
def test_a_record_that_is_no_object_too(record: bytes) -> None:
    assert "no JSON object" in read_declared(b"GET /x", record).broken


@pytest.mark.parametrize(
    "openapi",
    [
        None,
        7,
        {"parameters": 7},
        {"parameters": [7]},
        {"parameters": [{"in": "path"}]},
        {"responses": []},
        {"operationId": []},
    ],
)
def test_what_is_malformed_of_an_operation_object_is_left_out(openapi: Any) -> None:
    declared = read(openapi=openapi)
    assert (declared.operation, declared.broken) == ({}, "")
