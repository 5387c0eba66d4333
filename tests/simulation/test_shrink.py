"""A failing run is made shorter, its file reads back, and both still break the same rule."""

import pytest

from support.simulation import files
from support.simulation.bugs import BUGS
from support.simulation.patches import patched
from support.simulation.run import run
from support.simulation.shrink import shrink


@pytest.mark.parametrize(("name", "seconds"), [("CommitsUnsigned", 3.0), ("answers_before_commit", 4.0)])
def test_a_failing_run_becomes_a_short_file_that_fails_alike(name: str, seconds: float) -> None:
    bug = next(bug for bug in BUGS if bug.name == name)
    with patched(bug.changes):
        whole = next(result for seed in range(bug.seeds) if (result := run(bug.plan(seed))).failure is not None)
        assert whole.failure is not None
        plan, events = shrink(whole.plan, whole.events, whole.failure[0], seconds)
        assert len(events) * 2 < len(whole.events)
        again = files.read(files.write(plan, events, "for\npeople"))
        assert again == (plan, events)
        failure = run(*again).failure
        assert failure is not None and failure[0] == whole.failure[0]
    assert run(plan, events).failure is None  # it is the bug, and nothing else


@pytest.mark.parametrize("text", ["", "[1]", "no\n", '{"seed": 1}\n'])
def test_what_is_no_such_file_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"line 1|no plan"):
        files.read(text)
