"""Bugs of the literature, planted by subclassing: a simulation that does not find them proves nothing.

Each class changes one decision of the core and is otherwise the core.
"""

from typing import Final

from ledgerd.enclave.consensus.core import Consensus
from ledgerd.enclave.consensus.messages import AppendAccepted, AppendEntries, AppendRefused, RequestVote, Vote
from ledgerd.enclave.consensus.progress import Progress
from ledgerd.enclave.consensus.quorum import majority, quorum_seqno
from ledgerd.enclave.consensus.roles import Cause, Retirement, Role
from ledgerd.enclave.consensus.state import NEVER
from ledgerd.ledger.ids import NodeId, Seqno, View


class QuorumOfTheUnion(Consensus):
    """A majority of all nodes of all configurations, instead of one of each (CCF #3837, #3948, #4018)."""

    def _count_votes(self) -> None:
        active = self._configurations
        union = frozenset[NodeId]().union(*(c.nodes for c in active))
        if active and len(self._votes & union) >= majority(len(union)):
            self._configurations = [active[0]._replace(nodes=frozenset(self._votes))]
            try:
                super()._count_votes()
            finally:
                self._configurations = active


class NewestConfigurationOnly(Consensus):
    """Commit needs a majority of the newest configuration only."""

    def _advance_commit(self) -> None:
        stored = {node: peer.match for node, peer in self._peers.items()}
        stored[self.node_id] = self.stored_seqno
        for seqno in reversed(self._log.committables):
            if seqno >= self._view_start and quorum_seqno(self._configurations[-1].nodes, stored) >= seqno:
                self._commit(seqno)
                return


class CommitsEarlierViews(Consensus):
    """Counts signature entries of earlier views (Raft paper, figure 8; CCF #3828, #3950, #3971, #5674)."""

    def _advance_commit(self) -> None:
        start, self._view_start = self._view_start, Seqno(0)
        super()._advance_commit()
        self._view_start = start


class CommitsUnsigned(Consensus):
    """Commits what a majority has, signed or not."""

    def _advance_commit(self) -> None:
        stored = {node: peer.match for node, peer in self._peers.items()}
        stored[self.node_id] = self.stored_seqno
        if self._configurations:
            reached = min(quorum_seqno(c.nodes, stored) for c in self._configurations)
            if reached > self.commit_seqno and reached >= self._view_start:
                self._commit(reached)


class CommitsOnRefusal(Consensus):
    """Takes the guess in a refusal for an acknowledgement (CCF #5324, #5325)."""

    def _receive_refused(self, sender: NodeId, message: AppendRefused) -> None:
        super()._receive_refused(sender, message)
        peer = self._peers.get(sender)
        if peer is not None and message.view == self.view:
            peer.match = min(message.seqno, self._log.last_seqno)
            self._advance_commit()


class AcknowledgesItsWholeLog(Consensus):
    """Acknowledges entries beyond those that it shares with the primary (CCF #6001, #6016)."""

    def _acknowledge(self) -> None:
        matched, self._matched = self._matched, self._log.last_seqno
        super()._acknowledge()
        self._matched = matched


class AcknowledgesMemory(Consensus):
    """Acknowledges before the disk has it (etcd #14370)."""

    def _acknowledge(self) -> None:
        stored, self.stored_seqno = self.stored_seqno, self._log.last_seqno
        super()._acknowledge()
        self.stored_seqno = stored


class CountsItsOwnMemory(Consensus):
    """As the primary, counts itself before its own disk has it."""

    def _advance_commit(self) -> None:
        stored, self.stored_seqno = self.stored_seqno, self._log.last_seqno
        super()._advance_commit()
        self.stored_seqno = stored


class BelievesOldGenerations(Consensus):
    """Takes a sync that began before a truncation for one that covers what came after."""

    def stored(self, generation: int, view: View, seqno: Seqno) -> None:
        if generation < self._generation and seqno <= self._handed:
            generation, view = self._generation, self._log.view_of(seqno)
        super().stored(generation, view, seqno)


class TruncatesToTheMessage(Consensus):
    """Gives up what lies beyond a message, conflict or not, as if nothing had come since (CCF #5927, #5991, #6016)."""

    def _receive_append(self, sender: NodeId, message: AppendEntries) -> None:
        super()._receive_append(sender, message)
        covered = Seqno(message.prev_seqno + len(message.entries))
        if message.view == self.view and self.failed is None and self.commit_seqno <= covered < self._log.last_seqno:
            self._rollback(covered)


class CommitsItsOwnSuffix(Consensus):
    """As a backup, commits up to the primary's commit without asking whether that part of its log is the primary's."""

    def _receive_append(self, sender: NodeId, message: AppendEntries) -> None:
        super()._receive_append(sender, message)
        if message.view == self.view and self.failed is None:
            self._commit_up_to(min(message.committed, self._log.last_seqno))


class VotesForAnyone(Consensus):
    """Does not compare logs."""

    def _would_vote(self, sender: NodeId, message: RequestVote) -> bool:
        return super()._would_vote(sender, message._replace(last_view=View(1 << 40)))


class VotesTwice(Consensus):
    """Forgets its vote."""

    def _would_vote(self, sender: NodeId, message: RequestVote) -> bool:
        self._voted_for = None
        return super()._would_vote(sender, message)


class AnswersByLease(Consensus):
    """Answers reads because it was primary a moment ago (etcd #20418)."""

    def _answer_questions(self) -> None:
        if self.commit_seqno >= self._view_start:
            self._confirmed += self._asked
            self._asked = []


class KeepsLostConfigurations(Consensus):
    """Goes on with a configuration whose entry was rolled back (openraft #1808)."""

    def _rollback(self, to: Seqno) -> None:
        kept = list(self._configurations)
        super()._rollback(to)
        self._configurations = kept


class RemovedNodesNeverStand(Consensus):
    """Nobody can lead when a removed node has the latest signed entries (premature retirement, CCF #5919, #5973)."""

    def _is_electable(self) -> bool:
        return self.is_member


class HashNotCompared(Consensus):
    """Takes an acknowledgement of another log, whose entries have the same names, for one of its own."""

    def _receive_accepted(self, sender: NodeId, message: AppendAccepted) -> None:
        digest = self._log.digest(message.seqno) if message.seqno <= self._log.last_seqno else None
        super()._receive_accepted(sender, message if digest is None else message._replace(digest=digest))


class ChecksNewestQuorum(Consensus):
    """CheckQuorum asks for a majority of the newest configuration only (CCF #7375)."""

    def _hears_quorums(self, now: float) -> bool:
        active = self._configurations
        self._configurations = active[-1:]
        try:
            return super()._hears_quorums(now)
        finally:
            self._configurations = active


class ForgetsSignatures(Consensus):
    """A winner starts without the signature entries that it has not committed (the first fix for #3828, undone by #3950)."""

    def _lead(self) -> None:
        super()._lead()
        self._log.committables.clear()
        self._log.last_committable = self.commit_seqno


class ForgetsItsVote(Consensus):
    """Gives its vote of a view back when it follows somebody in that view (CCF #5891)."""

    def _follow(self, cause: Cause, view: View, primary: NodeId | None) -> None:
        super()._follow(cause, view, primary)
        if cause is Cause.PRIMARY_HEARD:
            self._voted_for = self.primary_id = None


class StandsWithoutAsking(Consensus):
    """Begins a view whenever its timer fires."""

    def _stand_soon(self) -> None:
        self._move(Cause.SILENCE)
        self._move(Cause.WOULD_WIN)
        self._stand()


class GoesBackBelowMatch(Consensus):
    """Believes a refusal that is older than an acknowledgement, and sends again what a peer has on disk (CCF rollback_safety)."""

    def _receive_refused(self, sender: NodeId, message: AppendRefused) -> None:
        super()._receive_refused(sender, message)
        peer = self._peers.get(sender)
        if peer is not None:
            peer.sent = min(peer.sent, self._log.best_match(message.seqno_view, min(message.seqno, self._log.last_seqno)))
            peer.match = min(peer.match, peer.sent)


class KeepsItsRemoval(Consensus):
    """Stays removed although the configuration that removed it was rolled back."""

    def _rollback(self, to: Seqno) -> None:
        retirement, self.retirement = self.retirement, Retirement.NONE
        super()._rollback(to)
        self.retirement = retirement


class LeadsWhenRemoved(Consensus):
    """Leads on after the record of its removal is final, and asks nobody to follow it."""

    def _remove(self, nodes: frozenset[NodeId]) -> None:
        role, self.role = self.role, Role.BACKUP
        super()._remove(nodes)
        self.role = role


class CountsOldVotes(Consensus):
    """Counts a vote that was given in an earlier view, to a candidacy that came to nothing."""

    def _receive_vote(self, sender: NodeId, message: Vote) -> None:
        super()._receive_vote(sender, message._replace(view=max(message.view, self.view)) if message.granted else message)


class RemembersWhomItRefused(Consensus):
    """Notes the last candidate that asked instead of the one that it voted for."""

    def _receive_request_vote(self, sender: NodeId, message: RequestVote) -> None:
        super()._receive_request_vote(sender, message)
        if message.view == self.view and not message.pre_vote:
            self._voted_for = sender


class KeepsUnsigned(Consensus):
    """A winner goes on where its log ends, signed or not."""

    def _discard_unsigned(self) -> None:
        pass


class OlderQuorumOffByOne(Consensus):
    """Commits with one node too few of the older configurations."""

    def _advance_commit(self) -> None:
        stored = {node: peer.match for node, peer in self._peers.items()}
        stored[self.node_id] = self.stored_seqno
        for seqno in reversed(self._log.committables):
            counted = [c.nodes for c in self._configurations if c.seqno <= seqno]
            lacking = [majority(len(nodes)) - sum(stored.get(node, 0) >= seqno for node in nodes) for nodes in counted]
            if seqno >= self._view_start and lacking and lacking[-1] <= 0 and max(lacking) <= 1:
                self._commit(seqno)
                return


class LosesQuestions(Consensus):
    """Begins a round for new reads before the round for earlier ones is over, and forgets those."""

    def _begin_round(self) -> None:
        if self._questions:
            self._asked = []
        super()._begin_round()


class BelievesAnyRound(Consensus):
    """Takes any answer of a peer for one to the round that reads wait for, however old."""

    def _heard(self, sender: NodeId, view: View, answered: int) -> Progress | None:
        return super()._heard(sender, view, self._round)


class CountsVotesOfOthers(Consensus):
    """Counts the votes of whoever gave one, member of the configuration or not."""

    def _count_votes(self) -> None:
        active, votes = self._configurations, frozenset(self._votes)
        self._configurations = [c._replace(nodes=votes) if len(votes) >= majority(len(c.nodes)) else c for c in active]
        try:
            super()._count_votes()
        finally:
            self._configurations = active


class ForgetsItsTimer(Consensus):
    """Does not say when who stands is to try again: where votes were lost it is never woken for that."""

    def next_deadline(self) -> float:
        return NEVER if self.role in (Role.PRE_VOTE_CANDIDATE, Role.CANDIDATE) else super().next_deadline()


PLANTED: Final[tuple[type[Consensus], ...]] = (
    QuorumOfTheUnion,
    NewestConfigurationOnly,
    CommitsEarlierViews,
    CommitsUnsigned,
    CommitsOnRefusal,
    AcknowledgesItsWholeLog,
    TruncatesToTheMessage,
    CommitsItsOwnSuffix,
    VotesForAnyone,
    VotesTwice,
    KeepsLostConfigurations,
    RemovedNodesNeverStand,
    ChecksNewestQuorum,
    ForgetsItsVote,
    ForgetsSignatures,
    StandsWithoutAsking,
    GoesBackBelowMatch,
    KeepsItsRemoval,
    LeadsWhenRemoved,
)
"""Those that both the simulation and a scenario file are asked to find."""

FOUND_BY_SIMULATION: Final[tuple[type[Consensus], ...]] = (
    AcknowledgesMemory,
    CountsItsOwnMemory,
    BelievesOldGenerations,
    AnswersByLease,
    HashNotCompared,
    CountsOldVotes,
    RemembersWhomItRefused,
    KeepsUnsigned,
    OlderQuorumOffByOne,
    LosesQuestions,
    BelievesAnyRound,
    CountsVotesOfOthers,
    ForgetsItsTimer,
)
"""Those that only the simulation is asked to find; the first five are of disks, reads and memories, of which scenarios know nothing."""
