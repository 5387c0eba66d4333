"""The import contracts of pyproject.toml hold, and each of them is caught when it is broken on purpose."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.repository import COMPONENTS, ROOT

LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")


def lint(tree: Path) -> tuple[int, str]:
    """Run lint-imports on a tree; its status, and what it says."""
    environment = {**os.environ, "PYTHONPATH": str(tree / "src"), "COLUMNS": "200"}
    done = subprocess.run(
        [LINT_IMPORTS, "--no-cache"],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the code, links and all, that a test may spoil."""
    for name in COMPONENTS:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "src", tmp_path / "src", symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_all_contracts_hold() -> None:
    status, said = lint(ROOT)
    assert status == 0, said
    assert "0 broken" in said, said


@pytest.mark.parametrize(
    ("contract", "file", "line"),
    [
        ("layers", "ledger/ids.py", "import ledgerd.governance.tables"),
        ("layers", "governance/tables.py", "import ledgerd.enclave.kv"),
        ("layers", "enclave/kv.py", "import ledgerd.network.streams"),
        ("layers", "network/streams.py", "import ledgerd.node.config"),
        ("layers", "network/streams.py", "import ledgerd.enclave.boundary"),
        ("layers", "enclave/kv.py", "import ledgerd.apps.logging"),
        ("one door", "node/host.py", "import ledgerd.enclave.keys"),
        ("one door", "apps/logging/__init__.py", "import ledgerd.enclave.kv"),
        ("trusted code does no I/O", "ledger/ids.py", "import socket"),
        ("trusted code does no I/O", "governance/tables.py", "import time"),
        ("trusted code does no I/O", "enclave/kv.py", "from random import random"),
        ("trusted code does no I/O", "apps/logging/__init__.py", "from pathlib import Path"),
        ("no cycles", "ledger/ids.py", "import ledgerd.ledger.audit"),
    ],
)
def test_a_breach_is_caught_and_named(tree: Path, contract: str, file: str, line: str) -> None:
    with (tree / file).open("a") as module:
        module.write(f"\n{line}\n")
    status, said = lint(tree)
    assert status == 1, said
    assert f"{contract} BROKEN" in said, said


def test_a_copy_without_a_breach_passes(tree: Path) -> None:
    """Otherwise the breaches above could be caught for another reason."""
    status, said = lint(tree)
    assert status == 0, said


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("from . import kv", "TID252"),
        ("from ..ledger import ids", "TID252"),
        ("import enclave", "TID251"),
        ("from ledger import ids", "TID251"),
    ],
)
def test_only_absolute_imports_through_the_facade_pass(line: str, rule: str) -> None:
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise", "--stdin-filename", "enclave/new.py", "-"]
    done = subprocess.run(command, cwd=ROOT, input=f'"""A module."""\n\n{line}\n', capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert rule in done.stdout
