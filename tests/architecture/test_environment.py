"""`scripts/environment` takes the Python that runs a node fastest, and says so where it is not the one that people would expect."""

import shutil
import subprocess
from pathlib import Path

import pytest

from support.repository import ROOT

DISTRIBUTIONS = "/usr/bin/python3"

# A Python that is new enough, takes so many nanoseconds for anything, and makes no environment.
FAKE = """#!/bin/sh
case "$*" in
*process_time_ns*) echo {nanoseconds} ;;
*"-m venv"*) exit 1 ;;
-V) echo Python 3.11.99 ;;
esac
"""


def make_environment(folder: Path, nanoseconds: int, **environment: str) -> str:
    """Run a copy of the script that has nothing to install, with such a `python3` on the PATH; returns what it says."""
    scripts, programs = folder / "scripts", folder / "programs"
    for path in (scripts, programs):
        path.mkdir()
    shutil.copy(ROOT / "scripts" / "environment", scripts)
    fake = programs / "python3"
    fake.write_text(FAKE.format(nanoseconds=nanoseconds))
    fake.chmod(0o755)
    command = [str(scripts / "environment"), "runtime"]
    variables = {"PATH": f"{programs}:/usr/bin:/bin", **environment}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=variables)
    assert done.returncode != 0, "there is nothing that it could install"
    return done.stderr


@pytest.mark.parametrize(("nanoseconds", "environment"), [(1, {}), (10**12, {"PYTHON": "python3"})], ids=["fast", "named"])
def test_a_python_that_is_fast_or_named_is_taken(tmp_path: Path, nanoseconds: int, environment: dict[str, str]) -> None:
    said = make_environment(tmp_path, nanoseconds, **environment)
    assert "takes" not in said
    assert "making .venv with Python 3.11.99" in said


def test_the_distributions_python_is_preferred_to_a_slow_one_and_it_says_so(tmp_path: Path) -> None:
    wanted = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))"
    if not Path(DISTRIBUTIONS).exists() or subprocess.run([DISTRIBUTIONS, "-c", wanted], stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip(f"{DISTRIBUTIONS} is none that could be taken here")
    said = make_environment(tmp_path, 10**12)
    assert f"environment: takes {DISTRIBUTIONS}, which is faster than the python3 on your PATH; PYTHON=python3 takes that one\n" in said
    assert "Python 3.11.99" not in said
