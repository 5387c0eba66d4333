"""The same proposals through CCF's own default constitution, which stands in the first entry of a ledger that CCF wrote.

It is read from there each time: nothing of it is in this repository. What ours does otherwise is said at the case, and must be
otherwise.
"""

import json

import pytest

from ledgerd.governance import constitution, tables
from ledgerd.ledger import chunks
from ledgerd.ledger.entry import read_public
from support.consortium import ALICE, BOB, CAROL, DAVE, THIS, member_id, service
from support.constitution import Applied, Constitution, Refused, Tables, changes, text_of
from support.proposed_actions import CASES, Case, proposal
from support.vectors import vectors

OURS = Constitution(text_of(constitution.BY_VOTE))


@pytest.fixture(scope="module")
def ccfs() -> Constitution:
    folder = vectors("ccf-ledgers", "cose_flipflop_service", "ledger")
    ((name, parsed), *_) = chunks.arrange([path.name for path in folder.iterdir()])
    genesis = read_public(next(chunks.parse((folder / name).read_bytes(), parsed)))
    text = genesis.writes[tables.CONSTITUTION][tables.SINGLETON]
    assert text is not None
    return Constitution(json.loads(text))


def outcome(of: Constitution, case: Case, before: Tables) -> Applied | str:
    """What a constitution makes of a case: what it does, or why it does not."""
    wanted = proposal((case.name, case.args))
    refused = of.validate(wanted, before)
    if refused is not None:
        return refused
    try:
        return of.apply(wanted, before, THIS)
    except Refused as error:
        return str(error)


@pytest.mark.parametrize("case", CASES, ids=[f"{position}-{case.name}" for position, case in enumerate(CASES)])
def test_ccfs_constitution_does_the_same(ccfs: Constitution, case: Case) -> None:
    before = service()
    found = outcome(ccfs, case, before)
    same = isinstance(found, Applied) and changes(before, found.tables) == case.changes and found.calls == case.calls
    assert same == (case.ours is None), f"{case.ours}: {found}"


VOTERS = (ALICE, BOB, CAROL, DAVE)  # the last one is not active yet, and never gets to vote


@pytest.mark.parametrize("votes", range(3**3))
def test_without_a_policy_ccfs_rule_decides_alike(ccfs: Constitution, votes: int) -> None:
    said = {0: None, 1: True, 2: False}
    given = {member_id(who): said[votes // 3**position % 3] for position, who in enumerate(VOTERS[:3])}
    ballots = {member: vote for member, vote in given.items() if vote is not None}
    wanted = proposal(("trigger_snapshot", None))
    assert OURS.resolve(wanted, ballots, service(), THIS) == ccfs.resolve(wanted, ballots, service(), THIS)
