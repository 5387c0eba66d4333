"""Proposals after they were made: reading them, withdrawing them, voting on them.

Not here: making them (`enclave.governing.proposing`), what ballots mean (`enclave.governing.engine`).
"""

from typing import Any, Final, Protocol

from ledgerd.enclave.endpoints import Context, Registry, Result
from ledgerd.enclave.governing.api import (
    JAVASCRIPT,
    id_in_path,
    javascript,
    reading,
    record_request,
    request_of,
    signed,
    signed_proposal_in_path,
    signer_in_path,
)
from ledgerd.enclave.governing.engine import Engine, forget_decided
from ledgerd.enclave.requests import JSON, Response
from ledgerd.enclave.scripting import Steps
from ledgerd.governance import descriptions, requests, tables
from ledgerd.ledger.errors import FormatError, RequestError


class Node(Protocol):
    """What these endpoints ask of the node that they run on."""

    def log(self, level: str, text: str) -> None: ...


class KnownProposals:
    """The endpoints of proposals that are there."""

    def __init__(self, node: Node, engine: Engine) -> None:
        """Args: engine: counts ballots."""
        self._node = node
        self._engine = engine

    def add_to(self, registry: Registry) -> None:
        """Add them."""
        one = "/members/proposals/{proposalId}"
        ballot = one + "/ballots/{memberId}"
        missing = {400: "InvalidResourceName", 404: "ProposalNotFound"}
        registry.add(
            reading("/members/proposals", self._list, "Proposals that are open, and the last one decided.", descriptions.Proposals)
        )
        registry.add(reading(one, self._show, "One proposal.", descriptions.Proposal, missing))
        registry.add(reading(one + "/actions", self._actions, "What it proposes, as it was signed.", JSON, missing))
        registry.add(
            signed(
                one + ":withdraw",
                self._withdraw,
                "Withdraw a proposal of one's own; 204 if there is none, or none any more.",
                requests.WITHDRAWAL,
                {200: descriptions.Proposal, 204: None},
                {400: "InvalidResourceName, ProposalNotOpen", 403: "AuthorizationFailed", 503: "TooManyPendingTransactions"},
                scripted=True,
            )
        )
        registry.add(
            reading(
                ballot,
                self._ballot,
                "The script by which a member has voted.",
                JAVASCRIPT,
                {400: "InvalidResourceName", 404: "ProposalNotFound, VoteNotFound"},
            )
        )
        registry.add(
            signed(
                ballot + ":submit",
                self._submit,
                'Vote; signed is {"ballot": "SCRIPT"}. The same again is no error.',
                requests.BALLOT,
                {200: descriptions.Proposal},
                {
                    400: "InvalidInput, InvalidResourceName, LastNode, ProposalNotOpen, TooFewLiveNodes, VoteAlreadyExists",
                    404: "ProposalNotFound",
                    500: "InternalError",
                    503: "NodeNotCommitted, PrimaryNotFound, TooManyPendingTransactions",
                },
                scripted=True,
            )
        )

    # Reading.

    def _list(self, context: Context) -> Result:
        rows = context.governance(tables.PROPOSALS_INFO).items()
        return descriptions.Proposals(value=[descriptions.proposal(key.decode(), tables.decode(value)) for key, value in rows])

    def _show(self, context: Context) -> Result:
        proposal_id = id_in_path(context, "proposalId")
        return descriptions.proposal(proposal_id, _info(context, proposal_id))

    def _actions(self, context: Context) -> Result:
        proposal_id = id_in_path(context, "proposalId")
        value = context.governance(tables.PROPOSALS).get(proposal_id.encode())
        if value is None:
            raise _not_found(proposal_id)
        return Response(200, (), value, JSON)

    def _ballot(self, context: Context) -> Result:
        proposal_id = id_in_path(context, "proposalId")
        member_id = id_in_path(context, "memberId")
        script = _info(context, proposal_id)["ballots"].get(member_id)
        if script is None:
            raise RequestError(404, "VoteNotFound", f"Member {member_id} has not voted on proposal {proposal_id}.")
        return javascript(script.encode())

    # Members' requests.

    def _withdraw(self, context: Context) -> Steps:
        yield from ()  # no script; but in turn with what has some, which withdrawals could have done again and again otherwise
        proposal_id = signed_proposal_in_path(context)
        request = request_of(context)
        infos = context.kv[tables.PROPOSALS_INFO]
        value = infos.get(proposal_id.encode())
        if value is None:
            return None  # whether there ever was one, nobody here knows any more
        info: dict[str, Any] = tables.decode(value)
        if info["proposer_id"] != request.member_id:
            raise RequestError(
                403, "AuthorizationFailed", f"Proposal {proposal_id} is of member {info['proposer_id']}, who alone may withdraw it."
            )
        if info["state"] not in (tables.OPEN, tables.WITHDRAWN):
            raise RequestError(400, "ProposalNotOpen", f"Proposal {proposal_id} is {info['state']} and cannot be withdrawn any more.")
        if info["state"] == tables.OPEN:
            info["state"] = tables.WITHDRAWN
            infos.set(proposal_id.encode(), tables.encode(info))
            forget_decided(context, besides=proposal_id)
            record_request(context, request)
            self._node.log("info", f"member {request.member_id[:16]}... withdrew proposal {proposal_id[:16]}...")
        return descriptions.proposal(proposal_id, info)

    def _submit(self, context: Context) -> Steps:
        proposal_id = signed_proposal_in_path(context)
        member_id = signer_in_path(context, "InvalidResourceName")
        info = _info(context, proposal_id)
        if info["state"] != tables.OPEN:
            raise RequestError(400, "ProposalNotOpen", f"Proposal {proposal_id} is {info['state']}; votes are for open ones.")
        try:
            ballot = requests.field_of(request_of(context).payload, _BALLOT)
        except FormatError as error:
            raise RequestError(400, "InvalidInput", f"A vote is not of that form: {error}.") from None
        before = info["ballots"].get(member_id)
        if before == ballot:
            return descriptions.proposal(proposal_id, info)
        if before is not None:
            text = f"Member {member_id} has voted on proposal {proposal_id} already, by another ballot, which counts."
            raise RequestError(400, "VoteAlreadyExists", text)
        if len(ballot) > BALLOT_LENGTH_MAX:
            raise RequestError(400, "InvalidInput", f"A ballot has at most {BALLOT_LENGTH_MAX} characters; it is run at every later vote.")
        info["ballots"][member_id] = ballot
        record_request(context, request_of(context))
        info = yield from self._engine.resolve(context, proposal_id, info)
        self._node.log("info", f"member {member_id[:16]}... voted on proposal {proposal_id[:16]}..., which is {info['state']}")
        return descriptions.proposal(proposal_id, info)


_BALLOT: Final = "ballot"
BALLOT_LENGTH_MAX: Final = 256 << 10


def _info(context: Context, proposal_id: str) -> dict[str, Any]:
    value = context.governance(tables.PROPOSALS_INFO).get(proposal_id.encode())
    if value is None:
        raise _not_found(proposal_id)
    info: dict[str, Any] = tables.decode(value)
    return info


def _not_found(proposal_id: str) -> RequestError:
    text = f"There is no proposal {proposal_id}; of those that are decided only the last one is kept here, the ledger has all."
    return RequestError(404, "ProposalNotFound", text)
