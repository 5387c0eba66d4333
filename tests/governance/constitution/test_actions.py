"""Every action of our constitution: what it does to the tables, byte for byte."""

import pytest

from ledgerd.governance import constitution
from support.consortium import THIS, service
from support.constitution import Constitution, changes, text_of
from support.proposed_actions import CASES, Case, proposal

OURS = Constitution(text_of(constitution.BY_VOTE))
SANDBOX = Constitution(text_of(constitution.SANDBOX))


@pytest.mark.parametrize("case", CASES, ids=[f"{position}-{case.name}" for position, case in enumerate(CASES)])
def test_an_action_does_what_it_says(case: Case) -> None:
    before = service()
    wanted = proposal((case.name, case.args))
    assert OURS.validate(wanted, before) is None
    applied = OURS.apply(wanted, before, THIS)
    assert changes(before, applied.tables) == case.changes
    assert applied.calls == case.calls
