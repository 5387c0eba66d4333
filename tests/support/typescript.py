"""Applications in TypeScript in tests: built as the example in docs builds itself, with what `scripts/oracles` has installed.

Nothing here reaches a registry. Where there is no npm, or there was no registry when `scripts/oracles` ran, whoever asks is skipped, in CI
too: other people's registry may be down.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from support.repository import ROOT

EXAMPLE: Final = ROOT / "docs" / "examples" / "typescript"
INSTALLED: Final = ROOT / ".npm-typescript"
MADE: Final = ("node_modules", "dist")  # never part of a copy
SECONDS_MAX: Final = 600  # for a build that takes three; met only by what hangs


def require_packages() -> dict[str, str]:
    """Skip whoever asks if the packages are not there; the environment in which npm finds them, and nothing else."""
    if shutil.which("npm") is None:
        pytest.skip("there is no npm: install Node.js 18 or newer with npm (Debian: nodejs, npm), then run scripts/oracles")
    mark = INSTALLED / "complete"
    if not mark.is_file() or (EXAMPLE / "package-lock.json").read_text() not in mark.read_text():
        pytest.skip("the packages of docs/examples/typescript are not there: run scripts/oracles, which asks npm's registry for them")
    clean = {name: value for name, value in os.environ.items() if not name.lower().startswith("npm_")}
    return {**clean, "npm_config_cache": str(INSTALLED / "cache"), "npm_config_offline": "true", "npm_config_update_notifier": "false"}


def copy_example(folder: Path) -> None:
    """A copy of the example, as a checkout has it."""
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns(*MADE))


def run(folder: Path, *command: str) -> str:
    """Run a command of npm's in a folder without a network; what it prints.

    Raises: AssertionError: It failed; with all that it said.
    """
    done = subprocess.run(command, cwd=folder, env=require_packages(), capture_output=True, text=True, check=False, timeout=SECONDS_MAX)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def link_packages(folder: Path) -> None:
    """Give a folder the installed packages, as `npm ci` would."""
    require_packages()
    (folder / "node_modules").symlink_to(INSTALLED / "node_modules", target_is_directory=True)


def read_lock() -> dict[str, Any]:
    """The packages that the example's lock names."""
    packages: dict[str, Any] = json.loads((EXAMPLE / "package-lock.json").read_text())["packages"]
    return packages
