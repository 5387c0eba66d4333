"""What runs compiled does the same: each seed, event for event (`scripts/compile --for-simulation`, where somebody has made it)."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
COMPILED: Final = ROOT / "build" / "simulated"
PROGRAM: Final = """
import sys
sys.path[1:1] = sys.argv[1:]
from ledgerd.enclave.runtime.main import compiled_modules
from support.simulation import world
from support.simulation.plan import draw, set_back
from support.simulation.run import run
from random import Random
plans = [draw(seed, kind) for kind in ("core", "replica", "complete") for seed in range(20_000, 20_003)]
plans += [set_back(draw(seed, "core"), Random(seed)) for seed in range(20_000, 20_006)]
for plan in plans:
    result = run(plan, is_digested=True)
    print(plan.world, plan.seed, result.inputs, result.failure, result.digest, result.faults["memory set back"])
print(world.__file__.endswith(".so"), compiled_modules(), file=sys.stderr)
"""


def is_of_these_sources() -> bool:
    """Whether it was made, and of what is here."""
    packages = next(COMPILED.glob("lib/python*/site-packages/ledgerd"), None)
    if packages is None or not (COMPILED / ".made-for").exists():
        return False
    pairs = ((ROOT / "src" / "ledgerd", packages), (ROOT / "tests" / "support", packages.parent / "support"))
    return all(_sources(now) == _sources(then) for now, then in pairs)


def _sources(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for pattern in ("*.py", "*/**/*.py") for path in folder.glob(pattern)}


@pytest.mark.skipif(not is_of_these_sources(), reason="scripts/compile --for-simulation was not run on these sources")
def test_a_seed_does_the_same_compiled_and_interpreted() -> None:
    def said_by(python: str | Path, *path: Path) -> tuple[str, list[str]]:
        # Sets have one order: a seed decides everything.
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        command = [python, "-c", PROGRAM, *path]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return done.stdout, done.stderr.split()

    interpreted, how = said_by(sys.executable, ROOT / "tests")
    assert how == ["False", "0"]
    compiled, how = said_by(COMPILED / "bin" / "python")
    assert how[0] == "True" and int(how[1]) > 40
    assert interpreted.splitlines() == compiled.splitlines()
    assert sum(int(line.split()[-1]) for line in compiled.splitlines()), "no memory was set back, so none was copied"
