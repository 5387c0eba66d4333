"""What must hold after every command of a scenario, whatever it was; the names are those of CCF's specification.

Judged from logs, disks, roles and commits, without knowing how the core gets there. The rest is judged as it happens (`Cluster`): one
winner a view (ElectionSafety), who has every final entry (LeaderCompleteness); a name for one log only (LogMatching); commit at signature
entries only (SignatureInv, CommitCommittableIndices), of the present view on a primary (NeverCommitEntryPrevTerms), never to another log
(LogInv) and never undone (CommittedLogAppendOnly).
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ledgerd.enclave.consensus.core import Retirement, Role
from ledgerd.enclave.consensus.quorum import majority
from support.consensus_cluster import Cluster, Member, unpack

if TYPE_CHECKING:
    from support.scenarios.driver import Driver


@dataclass
class Memory:
    """How things were after the last command."""

    commits: dict[str, int] = field(default_factory=dict)
    leading: dict[str, tuple[int, int, bytes]] = field(default_factory=dict)  # view, end of the log, its digest


def check(cluster: "Driver") -> None:
    """All of it. Raises: AssertionError: The first that does not hold."""
    cluster.check()  # MonoTerm, MonotonicMatchIndex
    cluster.check_logs()  # MonoLog, LogConfigurationConsistent, and that committable are the signature entries, all of them
    leaders: dict[int, str] = {}
    for name, member in cluster.members.items():
        core = member.core
        assert not member.down, f"{name} stopped itself, and its peers and its host are honest"
        if core.role is Role.PRIMARY:
            other = leaders.setdefault(core.view, name)
            assert other == name, f"MoreThanOneLeader: {other} and {name} in view {core.view}"
        _check_append_only(cluster.memory, member)
        check_membership(member)
        check_commit_safety(cluster, member)
    if leaders:
        _check_completeness(cluster, cluster.members[leaders[max(leaders)]])


def check_commit_safety(cluster: Cluster, member: Member) -> None:
    """QuorumLog: what a node has committed is held by a majority of every configuration that it knows up to there."""
    committed = member.core.commit_seqno
    digest = member.machine.digests[committed]
    holders = {name for name, other in cluster.members.items() if other.machine.digests[committed : committed + 1] == [digest]}
    for configuration in member.core.configurations:
        if configuration.seqno <= committed:
            held = holders & configuration.nodes
            assert len(held) >= majority(len(configuration.nodes)), (
                f"QuorumLog: {member.node_id} has committed {committed}, which only {', '.join(sorted(held)) or 'nobody'} of configuration "
                f"{configuration.seqno}, {', '.join(sorted(configuration.nodes))}, has"
            )


def _check_append_only(memory: Memory, member: Member) -> None:
    name, core, machine = member.node_id, member.core, member.machine
    was = memory.commits.get(name, 0)
    assert core.commit_seqno >= was, f"MonotonicCommit: {name} had committed {was}, and now {core.commit_seqno}"
    memory.commits[name] = core.commit_seqno
    leading = memory.leading.pop(name, None)
    if core.role is Role.PRIMARY:
        if leading is not None and leading[0] == core.view:
            _, end, digest = leading
            assert machine.digests[end : end + 1] == [digest], f"PermittedLogChanges: {name} undid entries of the view that it leads"
        memory.leading[name] = (core.view, len(machine.log), machine.digests[-1])


def _check_completeness(cluster: Cluster, leader: Member) -> None:
    """LeaderCompleteness, for as long as it leads: the primary of the latest view has everything that is final anywhere."""
    last = len(cluster.final) - 1
    assert leader.machine.digests[last : last + 1] == cluster.final[-1:], (
        f"LeaderCompleteness: {leader.node_id}, primary of view {leader.core.view}, lacks a final entry up to {last}"
    )


def check_membership(member: Member) -> None:
    """MembershipStateConsistent, RetiredCommitted, RetirementCompletedNotInConfigs: the phase of a node's removal is what its log says."""
    expected = phase_of(member)
    assert member.core.retirement is expected, (
        f"MembershipStateConsistent: {member.node_id} is {member.core.retirement.name}, and its log says {expected.name}"
    )
    if expected in (Retirement.COMPLETED, Retirement.RETIRED_COMMITTED):
        # CCF's commands name everybody in a new configuration, also those that were removed before. No service does.
        removed = member.core._retirement_seqno
        inside = [c.seqno for c in member.core.configurations if member.node_id in c.nodes and c.seqno < removed]
        assert not inside, (
            f"RetirementCompletedNotInConfigs: {member.node_id} is removed at {removed}, and still in configurations {inside}"
        )


def phase_of(member: Member) -> Retirement:
    """How far a node's removal has got, read from its log."""
    committed = member.core.commit_seqno
    known = member.initial is not None and member.node_id in member.initial
    phase = Retirement.NONE
    for entry in map(unpack, member.machine.log):
        if entry.configuration is not None:
            if known and phase is Retirement.NONE and member.node_id not in entry.configuration:
                phase = Retirement.ORDERED
            known = known or member.node_id in entry.configuration
        if entry.signs is not None and phase is Retirement.ORDERED:
            phase = Retirement.COMPLETED if entry.seqno <= committed else Retirement.SIGNED
        if member.node_id in entry.removed and entry.seqno <= committed and phase is Retirement.COMPLETED:
            phase = Retirement.RETIRED_COMMITTED
    return phase
