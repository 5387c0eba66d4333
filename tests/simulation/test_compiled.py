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
sys.path.insert(0, sys.argv[1])
from ledgerd.enclave.runtime.main import compiled_modules
from support.simulation.plan import draw
from support.simulation.run import run
for world in ("replica", "complete"):
    for seed in range(20_000, 20_003):
        result = run(draw(seed, world), is_digested=True)
        print(world, seed, result.inputs, result.failure, result.digest)
print(compiled_modules(), file=sys.stderr)
"""


def is_of_these_sources() -> bool:
    """Whether it was made, and of what is here."""
    packages = next(COMPILED.glob("lib/python*/site-packages/ledgerd"), None)
    if packages is None or not (COMPILED / ".made-for").exists():
        return False
    now, then = ({p.relative_to(f): p.read_bytes() for p in f.glob("*/**/*.py")} for f in (ROOT / "src" / "ledgerd", packages))
    return now == then


@pytest.mark.skipif(not is_of_these_sources(), reason="scripts/compile --for-simulation was not run on these sources")
def test_a_seed_does_the_same_compiled_and_interpreted() -> None:
    def said_by(python: str | Path) -> tuple[str, int]:
        # Sets have one order: a seed decides everything.
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        command = [python, "-c", PROGRAM, ROOT / "tests"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return done.stdout, int(done.stderr.split()[-1])

    interpreted, none = said_by(sys.executable)
    compiled, modules = said_by(COMPILED / "bin" / "python")
    assert none == 0 and modules > 40
    assert interpreted.splitlines() == compiled.splitlines()
