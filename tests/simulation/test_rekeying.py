"""The ledger's secret changes while faults burn, and each rule about it notices what it is there for."""

import json
from dataclasses import replace

import pytest

from support.simulation import complete_seams
from support.simulation.complete_world import CompleteWorld
from support.simulation.ledgers import boxes_agree
from support.simulation.members import Member, Told, what_is_decided_is_done
from support.simulation.plan import REKEY, Plan, draw
from support.simulation.run import run
from support.simulation.violation import Violation


def change_secret(world: CompleteWorld) -> None:
    """Propose, and vote, at a lone node."""
    for _ in range(2):
        world.do_rekey("n1", "")
        for _ in range(4):
            world.do_tick("n1", 0.01)


def test_secrets_are_announced_and_some_are_undone_and_no_rule_is_broken() -> None:
    announced = final = 0
    for seed in range(6):
        plan = draw(seed, "complete", nodes=3)
        result = run(replace(plan, faults={**plan.faults, REKEY: 1.0}, recipes=("secret undone",)))
        assert result.failure is None, f"seed {seed}: {result.failure}"
        announced += result.faults["rekey: announced"]
        final += result.faults["rekey: final"]
    assert announced > final > 6


def test_one_run_in_four_or_so_has_a_member_and_only_of_the_complete_world() -> None:
    with_member = [seed for seed in range(60) if REKEY in draw(seed, "complete").faults]
    assert 6 < len(with_member) < 26
    assert not any(REKEY in draw(seed, world).faults for seed in range(60) for world in ("core", "replica"))


def test_a_node_that_knows_another_secret_than_its_log_announces_is_noticed() -> None:
    plan = Plan(seed=1, world="complete", nodes=1, faults={REKEY: 1.0})
    with complete_seams.seams(plan):
        world = CompleteWorld(plan)
        change_secret(world)
        node = world.nodes["n1"]
        assert len(node.shadow.epochs) == 2, "it was proposed and voted for"
        node.shadow.epochs.append(node.shadow.last + 1)
        with pytest.raises(Violation, match="SecretsFollowLog"):
            world.do_tick("n1", 1.0)


def test_boxes_with_two_secrets_are_noticed() -> None:
    assert boxes_agree({"n1": b"s", "n2": b"s"}) == b"s"
    with pytest.raises(Violation, match="BoxesAgree"):
        boxes_agree({"n1": b"s", "n2": b"t"})


def test_a_decision_that_was_told_and_is_not_in_the_ledger_is_noticed() -> None:
    plan = Plan(seed=1, world="complete", nodes=1, faults={REKEY: 1.0})
    with complete_seams.seams(plan):
        world = CompleteWorld(plan)
        change_secret(world)
        assert world.member is not None
        (told,) = world.member.told
        what_is_decided_is_done(told, world.registry)
        with pytest.raises(Violation, match="WhatIsDecidedIsDone"):
            what_is_decided_is_done(Told((2, 1), False), world.registry)  # the first entry announces nothing
        del world.registry.final[told.transaction[1] :]
        with pytest.raises(Violation, match="WhatIsDecidedIsDone"):
            what_is_decided_is_done(told._replace(is_committed=True), world.registry)


@pytest.mark.parametrize(("status", "shown"), [(500, {"error": {"code": "InternalError"}}), (200, {"proposalState": "Rejected"})])
def test_an_answer_that_no_honest_service_gives_a_member_is_noticed(status: int, shown: object) -> None:
    member = Member()
    member.next("")
    with pytest.raises(Violation, match="KnownAnswer"):
        member.answered(status, {}, json.dumps(shown).encode())
