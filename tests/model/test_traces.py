"""What the simulation does, the specification explains; what a core with a planted bug does, it refuses. More: `scripts/model --traces`."""

from dataclasses import replace

import pytest

from support import consensus_bugs
from support.explaining import TRACED, Traced, explain, recorded
from support.tlc import Tlc

SEED = 14  # two nodes; the primary is removed, and asks the other to stand
CHEAP = (consensus_bugs.CommitsUnsigned,)


def test_the_steps_of_a_run_are_steps_of_the_specification(tlc: Tlc) -> None:
    recording = recorded(SEED)
    assert recording.verdict is None
    assert {step.state.role for step in recording.steps} >= {"primary", "none", "candidate"}, "a run in which nothing happens says nothing"
    explanation = explain(tlc, recording)
    assert explanation.refused is None, explanation.refused
    assert explanation.steps == len(recording.steps)


@pytest.mark.parametrize("traced", [traced for traced in TRACED if traced.bug in CHEAP], ids=lambda traced: traced.bug.__name__)
def test_a_planted_bug_is_refused_where_it_shows(tlc: Tlc, traced: Traced) -> None:
    recording = recorded(traced.seed, traced.bug)
    explanation = explain(tlc, recording)
    assert explanation.refused is not None
    state = explanation.refused.state
    assert state.log[state.commit - 1].kind != "sign", "refused for something else"


def test_a_step_that_nobody_took_is_refused(tlc: Tlc) -> None:
    """A node says that it has on its disk what it does not even have in memory."""
    recording = recorded(SEED)
    at = next(number for number, step in enumerate(recording.steps) if number > 10 and step.state.stored)
    step = recording.steps[at]
    forged = step._replace(state=step.state._replace(stored=len(step.state.log) + 1))
    steps = [*recording.steps[:at], forged, *recording.steps[at + 1 :]]
    explanation = explain(tlc, replace(recording, steps=steps))
    assert explanation.steps == at
    assert explanation.refused == forged
