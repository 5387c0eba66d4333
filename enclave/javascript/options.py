"""What an application's scripts may use up: `js_runtime_options`, which members set, within the limits of the image, which they cannot.

Law: a record that makes no sense is as good as none; an application whose options are wrong still runs, by the defaults.
Not here: keeping to the limits (`enclave.scripts.run`, `enclave.runtime.script_worker`).
"""

import json
from typing import Any, Final, NamedTuple

from ledgerd.enclave.scripts.jobs import Limits

DEFAULTS: Final = Limits()
# A worker has this much, and what it needs itself; see `enclave.runtime.sandbox`.
HEAP_BYTES_MAX: Final = 200 << 20
STACK_BYTES_MAX: Final = 4 << 20
EXECUTION_MS_MAX: Final = 10_000  # for which one request may keep one worker
EXECUTION_MS_MIN: Final = 1
# Below these the engine does not even start: as in CCF, every request then fails as if its script had used them up.
HEAP_BYTES_MIN: Final = 1 << 20
STACK_BYTES_MIN: Final = 64 << 10
INTERPRETERS_MAX: Final = 50  # each holds up to a heap; a worker that has no memory left for them ends, and begins anew


class Options(NamedTuple):
    """The options in force.

    Attributes:
        limits: Of one run.
        logs_exceptions: The operator is told what scripts throw. Their texts may hold what the application keeps secret.
        returns_exceptions: The client is told.
        used_up: What is too little for the engine to start: `out of memory` or `stack overflow`; "" where it starts.
    """

    limits: Limits = DEFAULTS
    logs_exceptions: bool = False
    returns_exceptions: bool = False
    used_up: str = ""


def read_options(record: bytes | None) -> tuple[Options, str]:
    """The options of a record, and what to tell the operator of it; "" for nothing.

    Args: record: The only one of `public:ccf.gov.js_runtime_options`, or None.
    """
    if record is None:
        return Options(), ""
    try:
        said: Any = json.loads(record)
    except (ValueError, RecursionError):
        said = None
    if type(said) is not dict:
        return Options(), "the runtime options of JavaScript applications are no JSON object; the defaults hold until a proposal sets them"
    wrong: list[str] = []
    used_up = ""

    def number(name: str, default: int, least: int, most: int) -> int:
        value = said.get(name, default)
        if type(value) is not int:
            wrong.append(f"{name} is no whole number, so it is {default}")
            return default
        if not least <= value <= most:
            wrong.append(f"{name} is {value}, and is taken as {min(max(value, least), most)}: the image allows {least} to {most}")
        return min(max(value, least), most)

    def enough(name: str, default: int, least: int, most: int, what: str) -> int:
        nonlocal used_up
        value = said.get(name, default)
        if type(value) is not int or value >= least:
            return number(name, default, least, most)
        wrong.append(f"{name} is {value}, with which no request can be answered: the engine needs {least} to start")
        used_up = used_up or what
        return max(value, 0)

    def flag(name: str) -> bool:
        value = said.get(name, False)
        if type(value) is not bool:
            wrong.append(f"{name} is neither true nor false, so it is false")
        return value is True

    limits = DEFAULTS._replace(
        heap_bytes=enough("max_heap_bytes", DEFAULTS.heap_bytes, HEAP_BYTES_MIN, HEAP_BYTES_MAX, "out of memory"),
        stack_bytes=enough("max_stack_bytes", DEFAULTS.stack_bytes, STACK_BYTES_MIN, STACK_BYTES_MAX, "stack overflow"),
        deadline_ms=number("max_execution_time_ms", DEFAULTS.deadline_ms, EXECUTION_MS_MIN, EXECUTION_MS_MAX),
        interpreters=number("max_cached_interpreters", DEFAULTS.interpreters, 0, INTERPRETERS_MAX),
    )
    options = Options(limits, flag("log_exception_details"), flag("return_exception_details"), used_up)
    return options, f"runtime options of JavaScript applications: {'; '.join(wrong)}" if wrong else ""
