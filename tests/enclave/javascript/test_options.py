"""What members may allow an application to use up, and what they cannot."""

import json
from typing import Any

import pytest

from ledgerd.enclave.javascript.options import EXECUTION_MS_MAX, HEAP_BYTES_MAX, Options, read_options
from ledgerd.enclave.scripts.jobs import Limits

SET = {
    "max_heap_bytes": 50 << 20,
    "max_stack_bytes": 512 << 10,
    "max_execution_time_ms": 250,
    "max_cached_interpreters": 3,
    "log_exception_details": True,
    "return_exception_details": True,
}


def record(**changed: Any) -> bytes:
    return json.dumps({**SET, **changed}).encode()


def test_without_a_record_ccfs_defaults_hold() -> None:
    assert read_options(None) == (Options(Limits(100 << 20, 1 << 20, 1_000), False, False), "")


def test_a_record_is_taken_as_it_is_within_the_limits_of_the_image() -> None:
    options, complaint = read_options(record())
    limits = options.limits
    assert (limits.heap_bytes, limits.stack_bytes, limits.deadline_ms, limits.interpreters) == (50 << 20, 512 << 10, 250, 3)
    assert (options.logs_exceptions, options.returns_exceptions, complaint) == (True, True, "")


def test_what_the_image_does_not_allow_is_cut_and_told() -> None:
    options, complaint = read_options(record(max_heap_bytes=1 << 60))
    assert (options.limits.heap_bytes, options.used_up) == (HEAP_BYTES_MAX, "")
    assert f"max_heap_bytes is {1 << 60}, and is taken as {HEAP_BYTES_MAX}" in complaint


@pytest.mark.parametrize(
    ("name", "least", "used_up"), [("max_heap_bytes", 1 << 20, "out of memory"), ("max_stack_bytes", 64 << 10, "stack overflow")]
)
def test_with_less_than_the_engine_needs_nothing_can_run(name: str, least: int, used_up: str) -> None:
    assert read_options(record(**{name: least}))[0].used_up == ""
    for said in (least - 1, 100, 0, -5):
        options, complaint = read_options(record(**{name: said}))
        assert options.used_up == used_up
        assert f"{name} is {said}, with which no request can be answered: the engine needs {least} to start" in complaint
    assert read_options(record(max_execution_time_ms=0))[0].limits.deadline_ms == 1


def test_no_option_keeps_a_worker_for_ever() -> None:
    assert read_options(record(max_execution_time_ms=10**9))[0].limits.deadline_ms == EXECUTION_MS_MAX


@pytest.mark.parametrize(
    "changed", [{"max_heap_bytes": "1"}, {"max_stack_bytes": 1.5}, {"max_execution_time_ms": None}, {"log_exception_details": 1}]
)
def test_a_value_of_another_kind_is_as_good_as_none(changed: dict[str, Any]) -> None:
    options, complaint = read_options(record(**changed))
    (name,) = changed
    assert name in complaint
    without = read_options(json.dumps({key: value for key, value in SET.items() if key != name}).encode())
    assert (options, "") == without


@pytest.mark.parametrize("broken", [b"", b"x", b"[]", b"null", b"\xff", b"[" * 100_000])
def test_a_record_that_is_none_is_told_and_the_defaults_hold(broken: bytes) -> None:
    options, complaint = read_options(broken)
    assert (options, "no JSON object" in complaint) == (Options(), True)
