"""`ccf.gov.checkModules`: what a module's first request would find out, found out before anybody votes."""

from typing import Any

import pytest

from ledgerd.enclave.scripts.access import Access
from ledgerd.enclave.scripts.jobs import End, Limits
from support.scripts import job, run_here, value_of

CHECK = "return ccf.gov.checkModules(args[0]);"
HERE: dict[str, Any] = {"access": Access.GOV_RO}


def modules(**sources: str) -> list[dict[str, str]]:
    return [{"name": f"{name}.js", "module": source} for name, source in sources.items()]


def refused(given: Any, **options: Any) -> str:
    """What is thrown about modules."""
    outcome, _ = run_here(job(f"export function f(...args) {{ {CHECK} }}", given, **HERE | options))
    assert outcome.end is End.EXCEPTION, outcome
    return outcome.text


@pytest.mark.parametrize(
    "given",
    [
        [],
        modules(a="export function main() {}"),
        modules(a="import {b} from './b.js'; export const main = b;", b="export {main as b} from './a.js';"),
        modules(a="import('./not/there.js'); throw new Error('not now'); while (true);"),
        [{"name": "a/b.js", "module": "import '../c.js'"}, {"name": "c.js", "module": "import './a/b.js'"}],
    ],
)
def test_what_is_well_formed_and_there_can_be_loaded_and_nothing_of_it_runs(given: Any) -> None:
    assert value_of(CHECK, given, **HERE) is True


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (modules(a="export const a = 1;", b="export const b = ;"), "TypeError: module b.js cannot be loaded: SyntaxError: "),
        (modules(a="import './b.js';", b="\n\nlet let;"), "at /b.js:3"),
        (modules(a="import './c.js';", b=""), "TypeError: module a.js cannot be loaded: ReferenceError: could not load module '/c.js'"),
        (modules(a="return 1;"), "module a.js cannot be loaded: SyntaxError"),
    ],
)
def test_what_cannot_be_loaded_is_told_with_its_place(given: Any, told: str) -> None:
    assert told in refused(given)


@pytest.mark.parametrize("given", [7, None, "a", [7], [{"name": "a"}], [{"name": 1, "module": ""}]])
def test_what_is_no_list_of_modules_is_told(given: Any) -> None:
    assert refused(given) == "TypeError: expected one argument, a list of objects with name and module"


def test_it_takes_no_longer_than_the_script_that_asks_may() -> None:
    many = [{"name": f"{number}.js", "module": f"export const x = [{'1,' * 20_000}];"} for number in range(100)]
    outcome, _ = run_here(job(f"export function f(...args) {{ {CHECK} }}", many, **HERE, limits=Limits(deadline_ms=100)))
    assert outcome.end is End.DEADLINE


def test_the_script_that_asks_goes_on_afterwards() -> None:
    source = "try { ccf.gov.checkModules([{name: 'a', module: ';;('}]); } catch (error) { return error.name; }"
    assert value_of(source, **HERE) == "TypeError"


def test_applications_have_no_such_function() -> None:
    assert value_of("return typeof ccf.gov;", access=Access.APP_RW) == "undefined"
