"""The specification holds at a small size, and fails where a rule is broken. The larger sizes: `scripts/model`."""

import pytest

from support.models import BUGS, MODULE, Bug, configuration, sizes
from support.tlc import MODEL, Tlc

CHEAP = ("early", "newest", "memory", "ordered stand")


def test_the_smallest_size_holds_in_every_state(tlc: Tlc) -> None:
    outcome = tlc.check(MODULE, configuration("quick"), seconds=100)
    assert outcome.violated is None, outcome.output
    assert outcome.complete
    assert outcome.distinct > 1_000, "a model that goes nowhere says nothing"


@pytest.mark.parametrize("bug", [bug for bug in BUGS if bug.name in CHEAP], ids=lambda bug: bug.name)
def test_a_broken_rule_is_found(tlc: Tlc, bug: Bug) -> None:
    outcome = tlc.check(MODULE, configuration(bug.size, bug), seconds=100)
    assert outcome.violated == bug.finds, bug.what


def test_the_specification_knows_every_bug_by_name() -> None:
    specification = (MODEL / "Consensus.tla").read_text()
    assert all(f'Bug = "{bug.name}"' in specification or f'Bug # "{bug.name}"' in specification for bug in BUGS)
    assert all(bug.size in sizes() for bug in BUGS)
