"""CCF's habits change the core where they say so, and planted bugs stand above them."""

import inspect

import pytest

from ledgerd.enclave.consensus.core import Consensus
from support.consensus_bugs import FOUND_BY_SIMULATION, PLANTED
from support.scenarios.driver import Driver
from support.scenarios.habits import CcfConsensus, with_habits

HABITS = [name for name, value in vars(CcfConsensus).items() if inspect.isfunction(value)]


@pytest.mark.parametrize("name", HABITS)
def test_every_habit_replaces_a_method_that_the_core_has(name: str) -> None:
    """A method renamed in the core would leave its habit behind, called by nobody."""
    ours = inspect.signature(getattr(Consensus, name))
    assert inspect.signature(getattr(CcfConsensus, name)) == ours


@pytest.mark.parametrize("bug", [*PLANTED, *FOUND_BY_SIMULATION])
def test_a_planted_bug_stands_above_the_habits(bug: type[Consensus]) -> None:
    order = with_habits(bug).__mro__
    assert order.index(bug) < order.index(CcfConsensus) < order.index(Consensus)


def test_the_cores_of_the_driver_have_the_habits() -> None:
    driver = Driver()
    driver.do_start_node("0")
    assert type(driver.members["0"].core) is CcfConsensus
