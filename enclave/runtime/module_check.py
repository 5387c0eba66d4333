"""Whether modules can be loaded: each is compiled, with what it imports, and nothing is run.

CCF finds out the same when it compiles an application for its cache of bytecode. There is no such cache here, so constitutions ask.
Not here: whether a text could be a constitution (`enclave.runtime.constitution_check`).
"""

import time
from typing import Any

from ledgerd.enclave.runtime.constitution_check import REASON_LENGTH_MAX, STACK_BYTES_MAX, OvertimeError
from ledgerd.enclave.runtime.crypto.arguments import Kind, RefusalError
from ledgerd.enclave.runtime.quickjs import Engine, EngineError, ScriptError
from ledgerd.enclave.scripts.jobs import Limits, canonical


def check(arguments: list[Any], limits: Limits, deadline: float) -> bool:
    """Check the modules that a script gives, as `set_js_app` has them: `[{name, module}, ...]`.

    Args:
        arguments: Of the call.
        limits: Of the script that asks.
        deadline: When its time is up, monotonic seconds. One module is not left half-way; whoever waits for this process ends it then.
    Returns: True.
    Raises:
        RefusalError: One is not well-formed, or imports by name what is not there; which, why and where.
        OvertimeError: The time was up.
    """
    sources = _sources(arguments)
    loaded: set[str] = set()

    def load(name: str) -> str | None:
        loaded.add(name)
        return sources.get(name)

    try:
        engine = Engine(limits.heap_bytes, min(limits.stack_bytes, STACK_BYTES_MAX), canonical, load, lambda count: 0.0)
    except EngineError as error:
        raise RefusalError(f"modules cannot be looked at: {error}") from None
    try:
        for name, source in sources.items():
            if time.monotonic() > deadline:
                raise OvertimeError
            if name not in loaded:
                engine.compile_module(name, source)
    except ScriptError as error:
        where = error.trace.strip().partition("\n")[0].strip()
        text = " ".join(part for part in (error.text or "out of memory", where) if part)
        raise RefusalError(f"module {name.removeprefix('/')} cannot be loaded: {text}"[:REASON_LENGTH_MAX], Kind.TYPE) from None
    finally:
        engine.close()
    return True


def _sources(arguments: list[Any]) -> dict[str, str]:
    given = arguments[0] if len(arguments) == 1 else None
    if type(given) is not list or not all(
        type(module) is dict and type(module.get("name")) is str and type(module.get("module")) is str for module in given
    ):
        raise RefusalError("expected one argument, a list of objects with name and module", Kind.TYPE)
    return {f"/{module['name']}": module["module"] for module in given}
