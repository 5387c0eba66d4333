"""Whether the simulation would notice anything: each planted bug must be found within its number of seeds."""

import os
import subprocess
from pathlib import Path
from typing import Final

import pytest

from support.simulation.bugs import BUGS, Bug
from support.simulation.invariants import RULES
from support.simulation.patches import patched
from support.simulation.run import run

PROGRAM: Final = Path(__file__).parents[2] / "scripts" / "simulate"


def test_there_are_enough() -> None:
    assert len(BUGS) >= 15 and len({bug.name for bug in BUGS}) == len(BUGS)


# A change that no longer fits what it changes breaks every run: that finds nothing.
UNFIT = {"AttributeError", "TypeError", "NameError"}


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_found(bug: Bug) -> None:
    with patched(bug.changes):
        for seed in range(bug.seeds):
            failure = run(bug.plan(seed)).failure
            if failure is not None:
                assert failure[0] not in UNFIT, failure
                return
    pytest.fail(f"{bug.name} was not found in {bug.seeds} seeds")


def test_the_program_says_what_a_planted_bug_breaks_why_it_must_not_and_how_to_see_it_again(tmp_path: Path) -> None:
    words = ["--bug", "VotesTwice", "--shrink", "5"]
    found = subprocess.run([PROGRAM, *words], capture_output=True, text=True, check=False, env={**os.environ, "TMPDIR": str(tmp_path)})
    (kept,) = tmp_path.glob("simulate-core-*.events")
    assert found.returncode == 1
    for said in (": OneVote: ", f"the rule:    {RULES['OneVote']}", "again:       scripts/simulate --bug VotesTwice", str(kept)):
        assert said in found.stderr
    again = subprocess.run([PROGRAM, *words[:2], "--replay", kept], capture_output=True, text=True, check=False)
    assert again.returncode == 1 and again.stdout.splitlines()[-1].startswith("OneVote: ")
    assert subprocess.run([PROGRAM, "--bug", "VotesNever"], capture_output=True, check=False).returncode == 2
