"""Elections: when to stand, what to ask, whom to vote for, and what a winner does first.

Not here: the roles' table (`consensus.roles`); what a primary then does (`consensus.leading`).
"""

from typing import Final

from ledgerd.enclave.consensus.leading import Leading
from ledgerd.enclave.consensus.messages import NO_DIGEST, ProposeVote, RequestVote, Vote
from ledgerd.enclave.consensus.progress import Progress
from ledgerd.enclave.consensus.quorum import has_quorums
from ledgerd.enclave.consensus.roles import Cause, Role
from ledgerd.enclave.consensus.state import NEVER
from ledgerd.ledger.ids import NodeId, Seqno, View

# A primary that was heard this recently, in election timeouts, is alive: no PreVote against it. Heartbeats come every tenth, and a peer
# that asks has itself heard nothing for at least half of one; the rest is slack, so that the first to ask after a crash is not refused for
# a moment's difference.
_PRIMARY_ALIVE: Final = 0.4


class Elections(Leading):
    """What a node does to become primary, and to make another one."""

    def _stand_soon(self) -> None:
        """The timer fired: ask whether standing would succeed, without disturbing anyone's view."""
        if not self._settings.pre_vote:
            self._move(Cause.SILENCE)
            self._move(Cause.WOULD_WIN)
            self._stand()
            return
        self._move(Cause.SILENCE)
        self._ask_for_votes(pre_vote=True)

    def _stand(self) -> None:
        self.view = View(self.view + 1)
        self._voted_for = self.node_id
        self._ask_for_votes(pre_vote=False)

    def _ask_for_votes(self, *, pre_vote: bool) -> None:
        self._rest()
        self.primary_id = None
        self._votes = {self.node_id}
        last = self._log.last_committable
        self._asked_with = self._log.digest(last) or NO_DIGEST
        request = RequestVote(self.view, self._log.view_of(last), last, pre_vote, self._asked_with)
        voters = frozenset[NodeId]().union(*(configuration.nodes for configuration in self._configurations))
        self._messages += [(node, request) for node in sorted(voters - {self.node_id})]
        self._count_votes()

    def _count_votes(self) -> None:
        if not has_quorums(self._configurations, self._votes):
            return
        if self.role is Role.PRE_VOTE_CANDIDATE:
            self._move(Cause.WOULD_WIN)
            self._stand()
        elif self.role is Role.CANDIDATE:
            self._move(Cause.WON)
            self._lead()

    def _lead(self) -> None:
        """Won."""
        self._discard_unsigned()
        self.primary_id = self.node_id
        self._votes.clear()
        self._election_at = NEVER
        self._view_start = Seqno(self._log.last_seqno + 1)
        self._became_primary = self.view
        self._became_backup = None
        self._round = 0
        self._round_at = self._now
        self._standing_since = self._now
        self._check_at = self._now
        self._asked_round = 0
        self._peers = {node: Progress(node, self._log.last_seqno, self._now) for node in sorted(self.peers)}
        for peer in self._peers.values():
            self._tell(peer)

    def _discard_unsigned(self) -> None:
        """A winner gives up the entries after the last signature: no root covers them, and nobody can have committed them, since commit
        needs a signature that voters would have held against us. So a log never holds unsigned entries of an earlier view below signed ones
        of a later.
        """
        self._rollback(self._log.last_committable)

    def _receive_request_vote(self, sender: NodeId, message: RequestVote) -> None:
        if message.view > self.view:
            # Even by a PreVote, and even from a stranger (a joiner cannot know all names): someone was a candidate in that view, and ours
            # is over.
            self._follow(Cause.LATER_VIEW, message.view, None)
        granted = message.view == self.view and self._would_vote(sender, message)
        if granted and not message.pre_vote:
            self._voted_for = sender
            self._rest()
        self._messages.append((sender, Vote(self.view, granted, message.pre_vote, message.digest)))

    def _would_vote(self, sender: NodeId, message: RequestVote) -> bool:
        last = self._log.last_committable
        # Signed entries only: those after the last signature are nobody's loss (see _discard_unsigned).
        if (message.last_view, message.last_seqno) < (self._log.view_of(last), last):
            return False
        if message.pre_vote:
            return not self._is_loyal()
        return self.primary_id is None and self._voted_for in (None, sender)

    def _is_loyal(self) -> bool:
        """Whether there is a primary, as far as this node can tell: itself, or one that it has heard just now."""
        alive = self._primary_heard_at + _PRIMARY_ALIVE * self._settings.election_timeout > self._now
        return self.role is Role.PRIMARY or (self.primary_id is not None and alive)

    def _receive_vote(self, sender: NodeId, message: Vote) -> None:
        if message.view > self.view:
            self._follow(Cause.LATER_VIEW, message.view, None)
            return
        expected = Role.PRE_VOTE_CANDIDATE if message.pre_vote else Role.CANDIDATE
        if message.granted and message.view == self.view and self.role is expected and message.digest == self._asked_with:
            self._votes.add(sender)
            self._count_votes()

    def _receive_propose_vote(self, sender: NodeId, message: ProposeVote) -> None:
        if message.view == self.view and sender == self.primary_id and self._is_electable():
            self._move(Cause.PROPOSED)
            self._stand()
