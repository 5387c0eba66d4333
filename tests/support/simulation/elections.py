"""What a node does in an election, noted and judged as it does it.

Votes are counted here, not by the node: how it counts is what is judged. One wake-up may hold more than one step of an election, after a
pause for one: a timer and the answers to the question before; so the node is watched inside.
Not here: the rules (`invariants`).
"""

from ledgerd.enclave.consensus.messages import ProposeVote, RequestVote, Vote
from ledgerd.ledger.ids import NodeId
from support.simulation.invariants import Watched, begins_signed, one_vote, won_by_votes


def watch(node: Watched) -> None:
    """From now on, a node's votes are known and judged, and how it wins; and its `may_stand` says whether it may."""
    core, registry = node.core, node.shadow.registry
    receive_proposal, ask_for_votes = type(core)._receive_propose_vote, type(core)._ask_for_votes
    receive_request, lead = type(core)._receive_request_vote, type(core)._lead

    def receive_and_note(sender: NodeId, message: ProposeVote) -> None:
        node.may_stand = True
        receive_proposal(core, sender, message)

    def ask_and_note(*, pre_vote: bool) -> None:
        node.may_stand |= pre_vote
        if not pre_vote:
            one_vote(node, core.view, node.shadow.node_id, registry)
        ask_for_votes(core, pre_vote=pre_vote)

    def vote_and_note(sender: NodeId, message: RequestVote) -> None:
        receive_request(core, sender, message)
        for to, vote in core._messages[-1:]:
            if isinstance(vote, Vote) and vote.granted and not vote.pre_vote:
                one_vote(node, vote.view, to, registry)

    def lead_and_judge() -> None:
        won_by_votes(node, registry)
        lead(core)
        begins_signed(node)

    core._receive_propose_vote = receive_and_note  # type: ignore[method-assign]  # watched
    core._ask_for_votes = ask_and_note  # type: ignore[method-assign]  # watched
    core._receive_request_vote = vote_and_note  # type: ignore[method-assign]  # watched
    core._lead = lead_and_judge  # type: ignore[method-assign]  # watched
