"""What the tables say of an application in JavaScript: members vote for it, and their scripts write it, so anything can stand there."""

import json
from typing import Any, Final

from ledgerd.enclave import openapi
from ledgerd.enclave.endpoints import Endpoint, Registry
from ledgerd.enclave.javascript.declared import Declared, read_declared
from ledgerd.enclave.javascript.options import (
    EXECUTION_MS_MAX,
    EXECUTION_MS_MIN,
    HEAP_BYTES_MAX,
    HEAP_BYTES_MIN,
    INTERPRETERS_MAX,
    STACK_BYTES_MAX,
    STACK_BYTES_MIN,
    read_options,
)
from ledgerd.ledger.errors import UsageError
from support.fuzzing.laws import BrokenLaw, Maker, Target

_ENDPOINT: Final = {
    "js_module": "/src/app.js",
    "js_function": "read",
    "authn_policies": ["jwt", {"all_of": ["member_cert", "user_cose_sign1"]}],
    "mode": "readonly",
    "forwarding_required": "sometimes",
    "openapi": {"operationId": "read", "parameters": [{"name": "n", "in": "query"}], "responses": {"200": {"description": "It."}}},
    "openapi_hidden": False,
    "interpreter_reuse": {"key": "one"},
}
_OPTIONS: Final = {
    "max_heap_bytes": 100 << 20,
    "max_stack_bytes": 1 << 20,
    "max_execution_time_ms": 1_000,
    "max_cached_interpreters": 10,
    "log_exception_details": True,
    "return_exception_details": False,
}
_BOMBS: Final = (
    b"[" * 100_000,
    b'{"openapi":' + b'{"a":' * 100_000,
    b'{"openapi":' + b"9" * 100_000 + b"}",
    b'{"authn_policies":[' + b'"jwt",' * 100_000 + b'"jwt"]}',
    b'{"openapi":{"parameters":[' + b'{"name":"a"},' * 50_000 + b"{}]}}",
)


def _javascript_endpoint() -> Target:
    """A row of the table of endpoints, its key and its record with a line's end between them; and the description that it gets."""

    def judge(data: bytes) -> bool:
        key, _, record = data.partition(b"\n")
        try:
            declared = read_declared(key, record)
            registry = Registry("app")
            more: Any = {"policies": declared.policies, "forwarding": declared.forwarding, "operation": declared.operation}
            registry.add(Endpoint(declared.method, declared.path, _never, **more))
        except UsageError:
            return False
        json.dumps(openapi.document(registry, "", ""), ensure_ascii=False, allow_nan=False).encode()
        if declared.broken:
            return False
        said = json.loads(record)
        if (declared.module, declared.function) != (said["js_module"], said["js_function"]):
            raise BrokenLaw("another function answers than the record names")
        again = read_declared(key, json.dumps(said).encode())
        if _names(again) != _names(declared) or again._replace(policies=declared.policies) != declared:
            raise BrokenLaw("a record is read otherwise when it is written again")
        return True

    record = json.dumps(_ENDPOINT).encode()
    seeds = [b"GET /records/{key}\n" + record, b'POST /\n{"js_module":"/a","js_function":"f","openapi":{"x":1}}']
    tokens = [b"null", b"[]", b"{}", b"1e999", b"NaN", b'"\\ud800"', b'"all_of"', b'"historical"', b"{key}", b"\n", b"\xff"]
    bombs = [
        *(b"GET /a\n" + bomb for bomb in _BOMBS),
        b"GET /" + b"{a}/" * 50_000 + b"\n" + record,
        b"GET /" + b"{" * 100_000 + b"\n" + record,
    ]
    return Target("javascript-endpoint", seeds, judge, tokens=tokens, bombs=bombs)


def _javascript_options() -> Target:
    """The record of what scripts may use up."""

    def judge(data: bytes) -> bool:
        options, complaint = read_options(data)
        limits = options.limits
        starts = not options.used_up  # else no script runs at all
        if not (
            starts * HEAP_BYTES_MIN <= limits.heap_bytes <= HEAP_BYTES_MAX
            and starts * STACK_BYTES_MIN <= limits.stack_bytes <= STACK_BYTES_MAX
            and EXECUTION_MS_MIN <= limits.deadline_ms <= EXECUTION_MS_MAX
            and 0 <= limits.interpreters <= INTERPRETERS_MAX
        ):
            raise BrokenLaw("scripts may use up more than the image allows")
        return not complaint

    tokens = [b"null", b"true", b"-1", b"1e3", b"1e999", b"NaN", b"9" * 30, b'"1"', b'"max_heap_bytes":', b"\xff"]
    return Target("javascript-options", [json.dumps(_OPTIONS).encode(), b"{}"], judge, tokens=tokens, bombs=_BOMBS)


def _names(declared: Declared) -> list[str]:
    return [policy.name for policy in declared.policies]


def _never(context: Any) -> None:
    raise AssertionError("nobody calls it here")


MAKERS: Final[dict[str, Maker]] = {"javascript-endpoint": _javascript_endpoint, "javascript-options": _javascript_options}
