"""The threat model names tests as evidence; each must be there, or a line would be shown by nothing."""

import ast
import re
from typing import Final

from support.repository import ROOT

PAGE: Final = (ROOT / "docs" / "threat-model.md").read_text()
NAMED: Final = re.findall(r"`(tests/[^`:]*)::([^`]*)`", PAGE)


def test_every_test_named_exists() -> None:
    assert len(NAMED) == PAGE.count("tests/") > 50, "a reference is not of the form `tests/FILE.py::NAME`"
    missing = []
    for path, name in NAMED:
        file = ROOT / path
        tree = ast.parse(file.read_text()) if file.is_file() else ast.Module([], [])
        if name not in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}:
            missing.append(f"{path}::{name}")
    assert not missing


def test_every_line_of_an_adversary_names_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and line.count("|") == 4]
    rows = [line for line in rows if not line.endswith("| Test |")]
    assert rows
    assert not [line for line in rows if "::test_" not in line]
