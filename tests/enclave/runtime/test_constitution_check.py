"""`ccf.gov.validateConstitution`: what could be a constitution, found out where it can do no harm."""

from typing import Any

import pytest

from ledgerd.enclave.scripts.access import Access
from ledgerd.enclave.scripts.jobs import End, Limits, Result
from ledgerd.governance import constitution
from support.repository import ROOT
from support.script_crypto import APPLICATION
from support.scripts import PATIENT, job, run_here, value_of, workers

PARTS = {
    "validate": "export function validate(input) {}",
    "resolve": "export function resolve(proposal, proposerId, votes) {}",
    "apply": "export function apply(proposal, proposalId) {}",
}
WHOLE = "\n".join(PARTS.values())
CHECK = "return ccf.gov.validateConstitution(args[0]);"
HERE: dict[str, Any] = {"access": Access.GOV_RO}


def refused(text: Any, **options: Any) -> str:
    """What is thrown about a text."""
    outcome, _ = run_here(job(f"export function f(...args) {{ {CHECK} }}", text, **HERE | options))
    assert outcome.end is End.EXCEPTION, outcome
    return outcome.text


@pytest.mark.parametrize("files", [constitution.BY_VOTE, constitution.SANDBOX])
def test_our_own_constitutions_are_constitutions(files: tuple[str, ...]) -> None:
    text = constitution.join(files, lambda name: (ROOT / "governance" / "constitution" / name).read_text())
    assert value_of(CHECK, text, **HERE) is True


@pytest.mark.parametrize(
    "text",
    [
        WHOLE,
        WHOLE.replace("votes)", "votes, proposalId)"),
        "const f = (a) => 0, g = (a, b, c) => 0, h = (a, b) => 0; export { f as validate, g as resolve, h as apply };",
        WHOLE + "export const more = 1; export default 7;",
        WHOLE + "globalThis.left = 1; Array.prototype.map = null; for (let i = 0; i < 1000; i++) ;",
    ],
)
def test_what_exports_the_three_functions_is_one(text: str) -> None:
    assert value_of(CHECK, text, **HERE) is True


@pytest.mark.parametrize("name", PARTS)
def test_each_function_must_be_there_and_take_its_arguments(name: str) -> None:
    others = "\n".join(text for other, text in PARTS.items() if other != name)
    missing = f"TypeError: proposed constitution does not export a function named {name}"
    for text in (
        others,
        others + PARTS[name].removeprefix("export "),
        others + f"export const {name} = 7;",
        others + f"globalThis.{name} = (a, b) => 0;",
    ):
        assert refused(text) == missing
    counts = {"validate": "expected 1 (input)", "resolve": "expected between 3 and 4", "apply": "expected 2 (proposal, proposalId)"}
    for arguments in ("", "...many", "a, b, c, d, e"):
        found = refused(others + f"export function {name}({arguments}) {{}}")
        number = 5 if arguments.startswith("a") else 0
        assert found.startswith(f"TypeError: proposed constitution exports function {name} with {number} arguments, {counts[name]}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (7, "TypeError: constitution is not a string"),
        (None, "TypeError: constitution is not a string"),
        (b"bytes", "TypeError: constitution is not a string"),
        ("", "TypeError: constitution is empty"),
        ("export function (", "TypeError: proposed constitution cannot be loaded: SyntaxError: "),
        ("throw new RangeError('no');" + WHOLE, "TypeError: proposed constitution cannot be loaded: RangeError: no"),
        (
            "import { f } from './other.js';" + WHOLE,
            "TypeError: proposed constitution cannot be loaded: ReferenceError: could not load module",
        ),
        ("import { look } from '/look'; look('x');" + WHOLE, "TypeError: proposed constitution cannot be loaded: "),
        ("ccf.kv.records;" + WHOLE, "TypeError: proposed constitution cannot be loaded: ReferenceError: ccf is not defined"),
        ("console.log(1);" + WHOLE, "TypeError: proposed constitution cannot be loaded: ReferenceError: console is not defined"),
        ("await new Promise(() => {});" + WHOLE, "TypeError: proposed constitution cannot be loaded: "),
        ("const f = () => f() + 1; f();" + WHOLE, "TypeError: proposed constitution cannot be loaded: RangeError: Maximum call stack"),
        ("const a = []; for (;;) a.push(new Uint8Array(1000000));" + WHOLE, "TypeError: proposed constitution cannot be loaded: "),
        (
            WHOLE + "Object.defineProperty(apply, 'length', { value: 'x'.repeat(100) });",
            "TypeError: proposed constitution exports function apply with other",
        ),
        (
            WHOLE + "Object.defineProperty(apply, 'length', { get() { throw new Error('mine'); } });",
            "TypeError: proposed constitution cannot be loaded: Error: mine",
        ),
    ],
)
def test_what_cannot_be_one_is_refused_with_the_reason(text: Any, expected: str) -> None:
    assert refused(text, limits=PATIENT._replace(heap_bytes=20 << 20)).startswith(expected)


def test_the_count_of_arguments_is_checked() -> None:
    outcome, _ = run_here(job("export function f() { ccf.gov.validateConstitution(); }", **HERE))
    assert outcome.text == "TypeError: Passed 0 arguments, but expected 1"


def test_nothing_of_the_text_gets_out_of_its_own_engine() -> None:
    body = """
      const key = ccf.strToBuf('k');
      const before = Object.keys(globalThis).join();
      ccf.gov.validateConstitution(args[0]);
      try { ccf.gov.validateConstitution('throw 1'); } catch {}
      return [before === Object.keys(globalThis).join(), typeof leaked, [1].map((x) => x + 1)[0],
        ccf.kv['public:records'].get(key) === undefined, ccf.bufToStr(ccf.strToBuf('still here'))];
    """
    text = WHOLE + "globalThis.leaked = 1; Array.prototype.map = null; delete globalThis.JSON;"
    assert value_of(body, text, **HERE) == [True, "undefined", 2, True, "still here"]


def test_applications_do_not_have_it() -> None:
    assert value_of("return typeof ccf.gov;", **APPLICATION) == "undefined"
    assert value_of("return typeof ccf.gov.validateConstitution;", access=Access.GOV_RW) == "function"


def test_a_text_that_never_ends_uses_up_the_time_of_who_asks() -> None:
    catching = "export function f(text) { try { ccf.gov.validateConstitution(text); } catch { return 1; } return 2; }"
    outcome, _ = run_here(job(catching, "for (;;) ;" + WHOLE, limits=Limits(deadline_ms=100), **HERE))
    assert (outcome.end, outcome.text) == (End.DEADLINE, "Operation took too long to complete.")


def test_it_runs_within_the_sandbox_after_and_before_everything_else() -> None:
    source = f"export function f(...args) {{ args[0] += ' '; const id = ccf.kv['public:x'].size; {CHECK} }}"
    deep = "export function f(text, depth) { return depth ? f(text, depth - 1) : ccf.gov.validateConstitution(text); }"
    with workers() as fleet:
        for _ in range(2):
            assert fleet.run(job(source, WHOLE, **HERE)).value == Result("json", b"true")
        assert fleet.run(job(deep, WHOLE, 2_300, limits=PATIENT._replace(stack_bytes=4 << 20), **HERE)).value == Result("json", b"true")
        recursive = "const f = () => f() + 1; f();"
        outcome = fleet.run(job(deep, recursive, 2_300, limits=PATIENT._replace(stack_bytes=4 << 20), alone=True, **HERE))
        assert outcome.end is End.EXCEPTION, outcome
        assert fleet.pool.killed_total == 0
