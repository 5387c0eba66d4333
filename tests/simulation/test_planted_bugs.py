"""Whether the simulation would notice anything: each planted bug must be found within its number of seeds."""

import pytest

from support.simulation.bugs import BUGS, Bug
from support.simulation.patches import patched
from support.simulation.run import run


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
