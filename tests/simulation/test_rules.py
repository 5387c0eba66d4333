"""Rules that no planted bug breaks first: a world at rest is damaged by hand, in one place, and each notices."""

from collections.abc import Callable

import pytest

from ledgerd.enclave.consensus.core import Retirement, Role
from ledgerd.ledger.ids import NodeId, Seqno, View
from support.simulation import invariants
from support.simulation.core_world import CoreNode, CoreWorld
from support.simulation.invariants import RULES
from support.simulation.plan import Plan
from support.simulation.violation import Violation


def extend(node: CoreNode, view: int, data: bytes = b"p") -> None:
    node.core._log.extend(View(view), [data], [data])


def leader_lacks_a_final_entry(world: CoreWorld, primary: CoreNode, backup: CoreNode) -> None:
    world.registry.final.append(7)
    primary.view, primary.role = 1, Role.BACKUP  # as if it had won just now
    world.judge.look(primary)


def backup_makes_an_entry(world: CoreWorld, primary: CoreNode, backup: CoreNode) -> None:
    extend(backup, primary.core.view)


def one_name_for_two_entries(world: CoreWorld, primary: CoreNode, backup: CoreNode) -> None:
    extend(primary, primary.core.view, b"p one")
    extend(backup, primary.core.view, b"p other")


def view_falls_along_a_log(world: CoreWorld, primary: CoreNode, backup: CoreNode) -> None:
    world.registry.winners[1] = primary.name
    extend(primary, 1)


def entry_of_a_view_to_come(world: CoreWorld, primary: CoreNode, backup: CoreNode) -> None:
    world.registry.winners[9] = backup.name
    extend(backup, 9)


def commit_is_undone(world: CoreWorld, primary: CoreNode, backup: CoreNode) -> None:
    backup.core._log.truncate(Seqno(backup.shadow.commit - 1))


def commit_does_not_rise(world: CoreWorld, primary: CoreNode, backup: CoreNode) -> None:
    backup.shadow.committed(backup.shadow.commit)


def view_falls(world: CoreWorld, primary: CoreNode, backup: CoreNode) -> None:
    backup.view = 9
    world.judge.look(backup)


def leads_without_having_stood(world: CoreWorld, primary: CoreNode, backup: CoreNode) -> None:
    primary.role = Role.BACKUP
    world.judge.look(primary)


def sends_again_what_is_acknowledged(world: CoreWorld, primary: CoreNode, backup: CoreNode) -> None:
    peer = primary.core._peers[NodeId(backup.node_id)]
    peer.sent = Seqno(peer.match - 1)
    world.judge.look(primary)


def bytes_that_are_nowhere(world: CoreWorld, primary: CoreNode, backup: CoreNode) -> None:
    primary.core._peers[NodeId(backup.node_id)].flight_bytes = 7
    world.judge.look(primary)


def votes_for_two(world: CoreWorld, primary: CoreNode, backup: CoreNode) -> None:
    for candidate in ("n1", "n3"):
        invariants.one_vote(backup, 9, candidate, world.registry)


def wins_with_its_own_vote(world: CoreWorld, primary: CoreNode, backup: CoreNode) -> None:
    invariants.one_vote(backup, backup.core.view, backup.node_id, world.registry)
    backup.core._lead()


def begins_on_what_nothing_signs(world: CoreWorld, primary: CoreNode, backup: CoreNode) -> None:
    extend(primary, primary.core.view)
    invariants.begins_signed(primary)


def gone_and_counted(world: CoreWorld, primary: CoreNode, backup: CoreNode) -> None:
    backup.core.retirement = Retirement.COMPLETED
    invariants.retirement_completed_not_in_configs(backup)


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        (leader_lacks_a_final_entry, "LeaderCompleteness"),
        (backup_makes_an_entry, "SingleAuthor"),
        (one_name_for_two_entries, "LogMatching"),
        (view_falls_along_a_log, "MonoLog"),
        (entry_of_a_view_to_come, "AppendInView"),
        (commit_is_undone, "PermittedLogChanges"),
        (commit_does_not_rise, "CommittedLogAppendOnly"),
        (view_falls, "MonoTerm"),
        (leads_without_having_stood, "StateTransitions"),
        (sends_again_what_is_acknowledged, "SentCoversMatch"),
        (bytes_that_are_nowhere, "SentCoversMatch"),
        (votes_for_two, "OneVote"),
        (wins_with_its_own_vote, "WonByVotes"),
        (begins_on_what_nothing_signs, "BeginsSigned"),
        (gone_and_counted, "RetirementCompletedNotInConfigs"),
    ],
)
def test_a_rule_notices_what_it_is_there_for(damage: Callable[[CoreWorld, CoreNode, CoreNode], None], rule: str) -> None:
    world = CoreWorld(Plan(seed=1, world="core", nodes=3))
    for node in world.nodes.values():
        world.judge.look(node)
    assert rule in RULES
    with pytest.raises(Violation) as broken:
        damage(world, world.nodes["n1"], world.nodes["n2"])
    assert broken.value.rule == rule
