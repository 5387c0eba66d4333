"""What a node does in an election, noted and judged as it does it.

Votes are counted here, not by the node: how it counts is what is judged. One wake-up may hold more than one step of an election, after a
pause for one: a timer and the answers to the question before; so the node is watched inside.
Not here: the rules (`invariants`).
"""

from typing import Any

from ledgerd.enclave.consensus.core import Consensus
from ledgerd.enclave.consensus.messages import ProposeVote, RequestVote, Vote
from ledgerd.ledger.ids import NodeId
from support.simulation.invariants import begins_signed, one_vote, won_by_votes


class WatchedConsensus(Consensus):
    """Consensus whose votes are known and judged, and how it wins; its node's `may_stand` says whether it may.

    Attributes:
        watched: The node; None before it is told to anybody.
    """

    watched: Any = None

    def _receive_propose_vote(self, sender: NodeId, message: ProposeVote) -> None:
        if self.watched is not None:
            self.watched.may_stand = True
        super()._receive_propose_vote(sender, message)

    def _ask_for_votes(self, *, pre_vote: bool) -> None:
        node = self.watched
        if node is not None:
            node.may_stand |= pre_vote
            if not pre_vote:
                one_vote(node, self.view, node.shadow.node_id, node.shadow.registry)
        super()._ask_for_votes(pre_vote=pre_vote)

    def _receive_request_vote(self, sender: NodeId, message: RequestVote) -> None:
        super()._receive_request_vote(sender, message)
        node = self.watched
        if node is not None:
            for to, vote in self._messages[-1:]:
                if isinstance(vote, Vote) and vote.granted and not vote.pre_vote:
                    one_vote(node, vote.view, to, node.shadow.registry)

    def _lead(self) -> None:
        node = self.watched
        if node is not None:
            won_by_votes(node, node.shadow.registry)
        super()._lead()
        if node is not None:
            begins_signed(node)


def watched(kind: type[Consensus]) -> type[WatchedConsensus]:
    """The class for nodes that are watched: `kind` is Consensus, or one with a planted bug, which is never compiled."""
    return WatchedConsensus if kind is Consensus else type(f"Watched{kind.__name__}", (WatchedConsensus, kind), {})
