"""The shape of the tree: links, docstrings, sizes, and what no trusted module calls."""

import ast
import subprocess
from typing import Final

import pytest

from support.repository import COMPONENTS, ROOT, TRUSTED, modules

LINES_MAX: Final = 600  # a module that a newcomer reads in one sitting
LONGER: Final[dict[str, str]] = {}  # by name, and why
CALLS_REFUSED: Final = {"open", "print", "input", "eval", "exec", "compile", "__import__", "breakpoint"}


def test_every_component_is_linked_into_the_facade() -> None:
    """A checkout without symbolic links would build an empty wheel in silence."""
    for name in COMPONENTS:
        link = ROOT / "src" / "ledgerd" / name
        assert link.is_symlink(), f"{link} is not a link; clone with core.symlinks=true"
        assert link.resolve() == ROOT / name
        assert (link / "__init__.py").is_file()


def test_the_facade_holds_no_code() -> None:
    facade = ROOT / "src" / "ledgerd"
    assert {path.name for path in facade.iterdir()} - {"__pycache__"} == {*COMPONENTS, "__init__.py", "py.typed"}
    body = ast.parse((facade / "__init__.py").read_text()).body
    assert [type(node) for node in body] == [ast.Expr], "a docstring only"


@pytest.mark.parametrize("component", [*COMPONENTS, "tests/support"])
def test_every_module_says_what_it_is(component: str) -> None:
    silent = [str(path.relative_to(ROOT)) for path in modules(component) if not ast.get_docstring(ast.parse(path.read_text()))]
    assert not silent


@pytest.mark.parametrize("component", COMPONENTS)
def test_no_module_is_too_long_to_read(component: str) -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in modules(component)}
    assert not {name: length for name, length in lengths.items() if length > LINES_MAX and name not in LONGER}
    stale = {name for name in LONGER if name.split("/")[0] == component and lengths.get(name, 0) <= LINES_MAX}
    assert not stale, "short again: take it off the list"


@pytest.mark.parametrize("component", TRUSTED)
def test_trusted_code_opens_prints_and_evaluates_nothing(component: str) -> None:
    """Builtins need no import, so the import contracts cannot see them."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.func.id}"
        for path in modules(component)
        if ROOT / "enclave" / "runtime" not in path.parents
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS_REFUSED
    ]
    assert not found


def test_no_file_names_a_place_of_one_machine() -> None:
    """Sources, documents and locks are read everywhere; a home folder in them works for one person."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    places = tuple(f"/{name}/" for name in ("root", "home", "work"))
    found = []
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.is_symlink() or not path.is_file():
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if any(place in line and not line[max(0, line.find(place) - 1)].isalnum() for place in places):
                found.append(f"{name}:{number}: {line.strip()[:100]}")
    assert not found
