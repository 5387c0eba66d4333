"""CCF's own command-line tools, as its package installs them; a test that needs what was not made is skipped, in CI it fails."""

import os
import shutil
from typing import NoReturn

import pytest

from support.ccf_oracle import ROOT

TOOLS = ROOT / ".venv-ccf7" / "bin"


def refuse(text: str) -> NoReturn:
    """Skip for want of a program; in CI fail."""
    if os.environ.get("CI"):
        pytest.fail(text)
    pytest.skip(text)


def environment(*needed: str) -> dict[str, str]:
    """A process's environment with CCF's tools on the PATH, and without ours. Args: needed: other programs, which must be installed."""
    if not (TOOLS / "ccf_cose_sign1").exists():
        refuse(f"{TOOLS} has no ccf_cose_sign1: run scripts/oracles")
    missing = [name for name in needed if shutil.which(name) is None]
    if missing:
        refuse(f"not installed: {', '.join(missing)}")
    ours = str(ROOT / ".venv")
    path = [str(TOOLS), *(folder for folder in os.environ["PATH"].split(os.pathsep) if not folder.startswith(ours))]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return inherited | {"PATH": os.pathsep.join(path)}
