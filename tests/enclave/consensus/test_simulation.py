"""Invariants under random faults; and whether the invariants would notice anything: planted bugs must be found."""

from collections import Counter

import pytest

from ledgerd.enclave.consensus.core import Consensus
from ledgerd.ledger.errors import LedgerdError
from support.consensus_bugs import FIRST_SEEDS, PLANTED
from support.consensus_simulation import simulate


@pytest.mark.parametrize("seed", range(20))
def test_invariants_hold_and_progress_resumes(seed: int) -> None:
    simulate(seed, 2_000)


def test_the_simulation_meets_what_it_is_for() -> None:
    events: Counter[str] = Counter()
    for seed in range(100, 112):
        simulation = simulate(seed, 1_500)
        events += simulation.events
        for line in simulation.cluster.trace:
            for word in ("wins", "rolls back", "fetches", "AppendRefused", "confirms", "refuses", "no longer", "ignored"):
                events[word] += word in line
    often = ("wins", "rolls back", "fetches", "AppendRefused", "confirms", "refuses", "no longer", "ignored")
    rare = [name for name in ("loss", "repetition", "partition", "growth", "retirement", "read", "crash") if events[name] < 2]
    rare += [name for name in often if events[name] < 5]
    assert not rare, events


@pytest.mark.parametrize("bug", PLANTED, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_found_within_ten_seeds(bug: type[Consensus]) -> None:
    first = FIRST_SEEDS.get(bug, 0)
    for seed in range(first, first + 10):
        try:
            simulate(seed, 1_500, bug)
        except (AssertionError, LedgerdError):
            return
    pytest.fail(f"{bug.__doc__} was not noticed")
