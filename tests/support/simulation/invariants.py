"""What holds of an honest service at every moment, whatever network, hosts and clocks do. One function a rule, with its reason.

Names are those of CCF's specification where it has the rule, too. The rules look at logs as `observation` knows them, at disks, roles and
commits; how consensus arrives at them they do not know.
Not here: who applies them, and when (`judge`); what is judged at the end of a run (`ending`); what clients saw (`support.histories`).
"""

from collections.abc import Callable
from typing import Any, Final, Protocol

from ledgerd.enclave.consensus.core import Consensus, Retirement, Role
from ledgerd.ledger.ids import NodeId
from support.simulation.observation import Registry, Shadow, plain
from support.simulation.violation import Violation


class Watched(Protocol):
    """A node, as far as the rules look at it."""

    name: str
    core: Consensus
    shadow: Shadow
    view: int  # these three as they were after the last event
    role: Role
    changes: int
    matches: dict[str, int]
    may_stand: bool  # the primary has just asked it to, or it has just asked whether it would win
    reconfigured_at: float  # when its newest configuration became so, by its own clock

    def has_stored(self, view: int, seqno: int) -> bool:
        """Whether this entry is on its disk, or its host has said so."""


RULES: Final[dict[str, str]] = {}
"""Every rule and its reason."""

_Rule = Callable[..., Any]


def rule(function: _Rule) -> _Rule:
    """Register a rule under the name of the function, as CCF would write it."""
    assert function.__doc__ is not None
    RULES[_name(function.__name__)] = function.__doc__.strip().split("\n")[0]
    return function


def violation(function: _Rule, text: str) -> Violation:
    """That a rule is broken, for rules that stand elsewhere."""
    return _broken(function.__name__, text)


def _broken(function: str, text: str) -> Violation:
    return Violation(_name(function), text)


def _name(function: str) -> str:
    return "".join(word.capitalize() for word in function.split("_"))


# In an election.


@rule
def one_vote(node: Watched, view: int, candidate: str, registry: Registry) -> None:
    """A node votes for one candidate of a view: else two could win it. One whose memory was set back cannot know."""
    voter = node.shadow.node_id
    given = registry.votes.setdefault((view, voter), set())
    given.add(candidate)
    if len(given) > 1 and voter not in registry.set_back:
        raise _broken("one_vote", f"{node.name} votes in view {view} for each of {', '.join(name[:16] for name in sorted(given))}")


@rule
def won_by_votes(node: Watched, registry: Registry) -> None:
    """Who leads was voted for, in this view, by a majority of each configuration in its log."""
    view, winner = node.core.view, node.shadow.node_id
    for _, members in node.shadow.configurations:
        voters = [member for member in members if winner in registry.votes.get((view, member), ())]
        if len(voters) * 2 <= len(members):
            raise _broken("won_by_votes", f"{node.name} wins view {view} with {voters} of {sorted(members)}")


@rule
def begins_signed(node: Watched) -> None:
    """A winner gives up what is not signed before it adds anything: no root would be over that and nothing else."""
    shadow = node.shadow
    if shadow.signed[-1:] != [shadow.last] and shadow.last:
        raise _broken(
            "begins_signed", f"{node.name} begins view {node.core.view} on {plain(shadow.views[-1])}.{shadow.last}, which signs nothing"
        )


# When a node becomes primary.


@rule
def more_than_one_leader(node: Watched, registry: Registry) -> None:
    """A view has one primary at most: two could commit different entries under one name."""
    winner = registry.winners.setdefault(node.core.view, node.name)
    if winner != node.name:
        raise _broken("more_than_one_leader", f"{winner} and {node.name} are both primary of view {node.core.view}")


@rule
def leader_completeness(node: Watched, registry: Registry) -> None:
    """A primary has every final entry: what it lacks it would replace.

    Where a memory was set back, by name only: those who have the other entry of the name stop when they hear of it. And who was set back
    may win again in a view that is long over.
    """
    last = len(registry.final) - 1
    has, needs = node.shadow.views[last : last + 1], registry.final[-1:]
    if registry.set_back:
        if node.shadow.node_id in registry.set_back:
            return
        has, needs = list(map(plain, has)), list(map(plain, needs))
    if has != needs:
        raise _broken(
            "leader_completeness", f"{node.name}, primary of view {node.core.view}, lacks final entry {registry.final[-1]}.{last}"
        )


# When entries are appended.


@rule
def single_author(node: Watched, view: int, seqno: int, registry: Registry) -> None:
    """Only the primary of a view makes entries of it."""
    if registry.winners.get(view, node.name if node.core.role is Role.PRIMARY and node.core.view == view else None) != node.name:
        raise _broken("single_author", f"{node.name} has {view}.{seqno}, which {registry.winners.get(view, 'nobody')} never made")


@rule
def log_matching(node: Watched, view: int, seqno: int, registry: Registry) -> None:
    """One name, one entry, on one log: what two logs have in common they have from there down."""
    author = registry.facts[view, seqno].author
    raise _broken("log_matching", f"{view}.{seqno} of {node.name} is not, or does not stand where, that of {author[:16]} does")


@rule
def mono_log(node: Watched, view: int, count: int) -> None:
    """Views never fall along a log."""
    views = node.shadow.views
    if plain(views[-count - 1]) > view:
        raise _broken("mono_log", f"{node.name} appends an entry of view {view} after one of view {plain(views[-count - 1])}")


@rule
def append_in_view(node: Watched, view: int) -> None:
    """A primary appends in its own view only, and nobody what is of a later view than his own."""
    core = node.core
    if view > core.view or (core.role is Role.PRIMARY and view != core.view):
        raise _broken("append_in_view", f"{node.name}, {core.role.value} of view {core.view}, appends an entry of view {view}")


# When entries are undone.


@rule
def permitted_log_changes(node: Watched, to: int) -> None:
    """A log loses entries only above the commit, and a primary's only when it has just won, down to its last signature."""
    shadow = node.shadow
    if to < shadow.commit:
        raise _broken("permitted_log_changes", f"{node.name} rolls back to {to}, below its commit at {shadow.commit}")
    if node.core.role is Role.PRIMARY and (plain(shadow.views[-1]) == node.core.view or to != (shadow.signed[-1] if shadow.signed else 0)):
        raise _broken("permitted_log_changes", f"{node.name} rolls back to {to} as primary of view {node.core.view}")


@rule
def quorum_log(node: Watched, to: int, registry: Registry) -> None:
    """A node that has a final entry keeps it: those that have it are the quorum which made it final.

    Who has not come to the view in which it became final is not of that quorum, and may still give way to the primary of an earlier view,
    which does not know yet that it is deposed.
    """
    final = registry.final
    is_final = len(final) > to + 1 and node.shadow.views[to + 1 : to + 2] == final[to + 1 : to + 2]
    if is_final and node.core.view >= registry.settled[to + 1]:
        raise _broken("quorum_log", f"{node.name} rolls back to {to}, and {final[to + 1]}.{to + 1} is final")


# When a node says that something is final.


@rule
def committed_log_append_only(node: Watched, to: int) -> None:
    """The commit point only rises, and not beyond the log."""
    if not node.shadow.commit < to <= node.shadow.last:
        raise _broken(
            "committed_log_append_only", f"{node.name} commits {to} after {node.shadow.commit}, its log ends at {node.shadow.last}"
        )


@rule
def signature_inv(node: Watched, to: int) -> None:
    """Commit stops at signature entries only: what is final is under a signed root."""
    shadow = node.shadow
    if to not in shadow.signed:
        raise _broken("signature_inv", f"{node.name} commits {shadow.views[to]}.{to}, which is no signature")


@rule
def log_inv(node: Watched, to: int, registry: Registry) -> None:
    """There is one final log: of two, one is the beginning of the other."""
    views, final = node.shadow.views, registry.final
    first = node.shadow.commit
    if views[first : min(to + 1, len(final))] != final[first : to + 1]:
        raise _broken("log_inv", f"{node.name} commits up to {plain(views[to])}.{to}, where others have committed another log")


@rule
def never_commit_entry_prev_terms(node: Watched, to: int, registry: Registry) -> None:
    """What becomes final first becomes so at the primary of its own view: an earlier one's may still be replaced (Raft, figure 8)."""
    if to < len(registry.final):
        return
    view = plain(node.shadow.views[to])
    if node.core.role is not Role.PRIMARY or view != node.core.view:
        raise _broken(
            "never_commit_entry_prev_terms", f"{node.name}, {node.core.role.value} of view {node.core.view}, commits {view}.{to} first"
        )


@rule
def durable(node: Watched, to: int, registry: Registry, nodes: dict[str, Any]) -> None:
    """Commit means on disk: at a majority of every configuration up to the entry, as far as their hosts say the truth."""
    if to < len(registry.final):
        return
    view = node.shadow.views[to]
    for first, members in node.shadow.configurations:
        if first > to:
            break
        holders = [name for name in members if name in nodes and nodes[name].has_stored(view, to)]
        if len(holders) * 2 <= len(members):
            raise _broken("durable", f"{node.name} commits {plain(view)}.{to}, which only {holders} of {sorted(members)} have on disk")


# After an event.


@rule
def mono_term(node: Watched) -> None:
    """A node's view never falls: it might vote twice in one."""
    if node.core.view < node.view:
        raise _broken("mono_term", f"{node.name} goes back from view {node.view} to {node.core.view}")


_MOVES: Final = {
    Role.NONE: {Role.PRIMARY, Role.BACKUP},
    Role.BACKUP: {Role.PRE_VOTE_CANDIDATE, Role.CANDIDATE, Role.PRIMARY},
    Role.PRE_VOTE_CANDIDATE: {Role.BACKUP, Role.CANDIDATE, Role.PRIMARY},
    Role.CANDIDATE: {Role.BACKUP, Role.PRE_VOTE_CANDIDATE, Role.PRIMARY},
    Role.PRIMARY: {Role.BACKUP, Role.NONE},
}


@rule
def state_transitions(node: Watched) -> None:
    """Roles change as an election has it: nobody leads without having stood, or stands in a view that he did not enter for it."""
    before, after = node.role, node.core.role
    stands = after in (Role.CANDIDATE, Role.PRIMARY)
    entered = node.core.view > node.view or before is Role.CANDIDATE or before is Role.NONE
    if after is not before and (after not in _MOVES[before] or (stands and not entered)):
        raise _broken("state_transitions", f"{node.name} goes from {before.value} of view {node.view} to {after.value} of {node.core.view}")


@rule
def asks_before_it_stands(node: Watched) -> None:
    """Nobody stands without having asked whether it would win, but whom the primary asks to: a lost election disturbs everybody."""
    if node.role is Role.BACKUP and node.core.role is Role.CANDIDATE and not node.may_stand:
        raise _broken("asks_before_it_stands", f"{node.name} stands in view {node.core.view} all at once")


@rule
def commit_committable_indices(node: Watched) -> None:
    """Commit and signature entries, as the node keeps them beside its log, are those of its log."""
    core, shadow = node.core, node.shadow
    above = [seqno for seqno in shadow.signed if seqno > core.commit_seqno]
    if core.commit_seqno != shadow.commit or list(core.committables) != above:
        raise _broken(
            "commit_committable_indices", f"{node.name}: {core.commit_seqno}, {core.committables} instead of {shadow.commit}, {above}"
        )


@rule
def log_configuration_consistent(node: Watched) -> None:
    """The active configurations are the last committed one and all later ones of the log: no more, no fewer."""
    own = [(configuration.seqno, configuration.nodes) for configuration in node.core.configurations]
    if own != node.shadow.configurations:
        raise _broken("log_configuration_consistent", f"{node.name} has {_shown(own)}, its log says {_shown(node.shadow.configurations)}")


@rule
def membership_state_consistent(node: Watched) -> None:
    """How far a node's own removal has got follows from its log and its commit."""
    shadow = node.shadow
    if not shadow.left:
        expected = Retirement.NONE
    elif not shadow.left_signed:
        expected = Retirement.ORDERED
    elif shadow.commit < shadow.left_signed:
        expected = Retirement.SIGNED
    else:
        expected = Retirement.RETIRED_COMMITTED if shadow.node_id in shadow.removed else Retirement.COMPLETED
    if node.core.retirement is not expected:
        raise _broken("membership_state_consistent", f"{node.name} is {node.core.retirement}, its log says {expected}")


@rule
def retired_committed(node: Watched) -> None:
    """Nobody is gone before the entry that records it is final, and a primary that is gone leads no more."""
    if node.core.retirement is Retirement.RETIRED_COMMITTED and (
        node.shadow.node_id not in node.shadow.removed or node.core.role is Role.PRIMARY
    ):
        raise _broken("retired_committed", f"{node.name} is retired and {node.core.role.value}; recorded: {sorted(node.shadow.removed)}")


@rule
def retirement_completed_not_in_configs(node: Watched) -> None:
    """Whose removal is final is in no active configuration any more."""
    if node.core.retirement in (Retirement.COMPLETED, Retirement.RETIRED_COMMITTED) and any(
        node.shadow.node_id in nodes for _, nodes in node.shadow.configurations
    ):
        raise _broken("retirement_completed_not_in_configs", f"{node.name} is {node.core.retirement} and still counted")


@rule
def monotonic_match_index(node: Watched) -> None:
    """What a primary knows of a peer's disk never falls within its view, and never exceeds its own log."""
    known = node.matches
    last = node.core.last_seqno
    for peer_id, peer in node.core._peers.items():
        if known.get(peer_id, 0) > peer.match or peer.match > last:
            raise _broken(
                "monotonic_match_index", f"{node.name}: {peer_id[:16]} from {known.get(peer_id, 0)} to {peer.match}, log to {last}"
            )
        known[peer_id] = peer.match


@rule
def sent_covers_match(node: Watched) -> None:
    """A primary sends nothing again that a peer has acknowledged, and what is not on its way has no size: it would count for ever."""
    for peer_id, peer in node.core._peers.items():
        if peer.sent < peer.match:
            raise _broken("sent_covers_match", f"{node.name} goes back to {peer.sent}; {peer_id[:16]} has acknowledged {peer.match}")
        if peer.flight_bytes and not peer.flight_messages:
            raise _broken("sent_covers_match", f"{node.name}: no message and {peer.flight_bytes} bytes are on their way to {peer_id[:16]}")


@rule
def check_quorum(node: Watched) -> None:
    """A primary leads only while a majority of each active configuration answers: others may lead already, and clients wait in vain."""
    core = node.core
    if core._now < node.reconfigured_at + core._settings.heartbeat:
        return
    since = core._now - core._settings.election_timeout - core._settings.heartbeat
    peers = core._peers
    for _, nodes in node.shadow.configurations:
        heard = sum(1 for member in nodes if member == node.shadow.node_id or (member in peers and peers[NodeId(member)].heard_at > since))
        if heard * 2 <= len(nodes):
            raise _broken("check_quorum", f"{node.name} leads view {core.view}, and {heard} of {sorted(nodes)} answer")


@rule
def nobody_stops(node: Watched, registry: Registry) -> None:
    """An honest enclave never has a reason to stop itself, whatever hosts and networks do; but where a memory was set back it may."""
    if node.core.failed is not None and not registry.set_back:
        raise _broken("nobody_stops", f"{node.name} stops: {node.core.failed}")


def _shown(configurations: list[tuple[Any, Any]]) -> str:
    return " ".join(f"{seqno}:{'+'.join(sorted(node[:8] for node in nodes))}" for seqno, nodes in configurations)
