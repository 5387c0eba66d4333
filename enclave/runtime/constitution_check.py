"""Whether a text could be a constitution: run as a module, in an engine of its own with nothing at hand, it must export what is called.

What it would decide is for members to read; this only stops a text by which nothing could ever be decided again.
Source: CCF documentation, `ccf.gov.validateConstitution`: names, and how many arguments each takes.
"""

from typing import Any, Final, NamedTuple

from ledgerd.enclave.runtime.crypto.arguments import Kind, RefusalError
from ledgerd.enclave.runtime.quickjs import Engine, EngineError, ScriptError
from ledgerd.enclave.scripts.jobs import Limits, canonical

STACK_BYTES_MAX: Final = 1 << 20  # beside what the script that asks has on the same stack
REASON_LENGTH_MAX: Final = 1_000

_PROPOSED: Final = "/proposed constitution"
_LOOK: Final = "/look"
_LOOK_SOURCE: Final = f"""
import * as proposed from '{_PROPOSED}';
export const look = (name) => (typeof proposed[name] === 'function' ? `${{proposed[name].length}}` : 'none');
"""


class _Expected(NamedTuple):
    least: int
    most: int
    names: str


_EXPECTED: Final = {
    "validate": _Expected(1, 1, "input"),
    "resolve": _Expected(3, 4, "proposal, proposerId, votes[, proposalId]"),
    "apply": _Expected(2, 2, "proposal, proposalId"),
}


class OvertimeError(Exception):
    """The time of the script that asks was up meanwhile."""


def check(arguments: list[Any], limits: Limits, deadline: float) -> bool:
    """Check a text that a script gives.

    Args:
        arguments: Of the call: the text.
        limits: Of the script that asks.
        deadline: When its time is up, monotonic seconds.
    Returns: True.
    Raises:
        RefusalError: It is no constitution; why.
        OvertimeError: It ran until the deadline.
    """
    if len(arguments) != 1:
        raise RefusalError(f"Passed {len(arguments)} arguments, but expected 1", Kind.TYPE)
    (source,) = arguments
    if type(source) is not str:
        raise RefusalError("constitution is not a string", Kind.TYPE)
    if not source:
        raise RefusalError("constitution is empty", Kind.TYPE)
    sources = {_PROPOSED: source, _LOOK: _LOOK_SOURCE}
    try:
        engine = Engine(limits.heap_bytes, min(limits.stack_bytes, STACK_BYTES_MAX), canonical, sources.get, lambda count: 0.0)
    except EngineError as error:
        raise RefusalError(f"proposed constitution cannot be looked at: {error}") from None
    engine.deadline = deadline
    try:
        lengths = _look(engine)
    except ScriptError as error:
        if engine.interrupted:
            raise OvertimeError from None
        text = (error.text or "out of memory")[:REASON_LENGTH_MAX]
        raise RefusalError(f"proposed constitution cannot be loaded: {text}", Kind.TYPE) from None
    finally:
        engine.close()
    for name, expected in _EXPECTED.items():
        length = lengths[name]
        if length == "none":
            raise RefusalError(f"proposed constitution does not export a function named {name}", Kind.TYPE)
        if length not in map(str, range(expected.least, expected.most + 1)):
            wanted = f"{expected.least}" if expected.least == expected.most else f"between {expected.least} and {expected.most}"
            raise RefusalError(
                f"proposed constitution exports function {name} with {length} arguments, expected {wanted} ({expected.names})", Kind.TYPE
            )
    return True


def _look(engine: Engine) -> dict[str, str]:
    """How many arguments each function takes, as text; `none` where there is none."""
    look = engine.function(_LOOK, _LOOK_SOURCE, "look", is_script=False)
    assert look is not None, "it is our own"
    lengths = {}
    try:
        for name in _EXPECTED:
            asked = engine.new_text(name.encode())
            try:
                answer = engine.call(look, asked)
            finally:
                engine.free(asked)
            try:
                lengths[name] = engine.read(answer, 64).decode(errors="replace")
            except OverflowError:
                lengths[name] = "other"
            finally:
                engine.free(answer)
    finally:
        engine.free(look)
    return lengths
