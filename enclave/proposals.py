"""Members' proposals at `/gov`: who asked for what is recorded as CCF does, and what is accepted is applied in the same entry.

So far without ballots: where the genesis says that admission is automatic (for development), one active member's proposal is accepted
at once; where it says `vote` none is, which the answer says. The actions are those of `governance.actions`.
Not here: reading and withdrawing them (`enclave.governing`), who signed (`enclave.auth`), what a node's leaving means afterwards
(`enclave.leaving`).
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Final, Protocol

from cryptography import x509

from ledgerd.enclave import leaving
from ledgerd.enclave.endpoints import Context, Registry, Result
from ledgerd.enclave.governing.api import record_request, request_of, signed
from ledgerd.enclave.governing.proposals import forget_decided
from ledgerd.enclave.keys import CERTIFICATE_VALIDITY_DAYS, CLOCK_SLACK, at_milliseconds
from ledgerd.enclave.kv import MapHandle
from ledgerd.governance import actions, descriptions, requests, tables
from ledgerd.governance.actions import Action
from ledgerd.governance.requests import SignedRequest
from ledgerd.ledger.errors import FormatError, RequestError
from ledgerd.ledger.ids import NodeId, Seqno

CREATED_AHEAD_SECONDS_MAX: Final = 3600  # of the service's clock, by which a member's may be wrong

Trust = Callable[[Context, NodeId, dict[str, Any], x509.CertificateSigningRequest, datetime, int], None]


class Node(Protocol):
    """What proposals ask of the node that they run on."""

    @property
    def now_ms(self) -> int: ...
    @property
    def committed_seqno(self) -> Seqno: ...
    @property
    def is_settled(self) -> bool: ...
    @property
    def live_nodes(self) -> frozenset[NodeId]: ...
    @property
    def root(self) -> bytes: ...
    @property
    def settings(self) -> dict[str, Any]: ...
    def log(self, level: str, text: str) -> None: ...


class Proposals:
    """`POST /gov/members/proposals:create`."""

    def __init__(self, node: Node, trust: Trust) -> None:
        """Args: trust: writes that a waiting node is trusted; see `Admission.trust`."""
        self._node = node
        self._trust_node = trust

    def add_to(self, registry: Registry) -> None:
        """Add the endpoint."""
        registry.add(
            signed(
                "/members/proposals:create",
                self._create,
                "Propose; signed are the actions.",
                requests.PROPOSAL,
                {200: descriptions.Proposal},
                {
                    400: "InvalidCreatedAt, LastNode, NodeAlreadyRetired, NodeNotPending, ProposalCreatedTooLongAgo, "
                    "ProposalFailedToValidate, ProposalReplay, TooFewLiveNodes, UnknownNode",
                    501: "NotImplemented",
                    503: "NodeNotCommitted, PrimaryNotFound",
                },
            )
        )

    # Proposing.

    def _create(self, context: Context) -> Result:
        request = request_of(context)
        if self._node.settings.get("admission") != "automatic":
            raise RequestError(
                501,
                "NotImplemented",
                "In this service members decide by vote, and ballots are not built yet: nothing was proposed. "
                "A service whose genesis says admission = automatic takes one member's word.",
            )
        if not self._node.is_settled:
            raise RequestError(503, "PrimaryNotFound", "This primary is new and does not know yet who is there. Ask again.", _SOON)
        proposal_id = sha256(self._node.root + request.digest).hexdigest()
        self._remember(context, request, proposal_id)
        try:
            wanted = actions.read(request.payload)
        except FormatError as error:
            raise RequestError(400, "ProposalFailedToValidate", f"Proposal failed to validate: {error}.") from None
        before = leaving.trusted_nodes(context)
        for action in wanted:
            (self._remove if action.name == actions.REMOVE_NODE else self._trust)(context, action)
        leaving.check_quorum(before, leaving.trusted_nodes(context), self._node.live_nodes)
        info = {"proposer_id": request.member_id, "state": tables.ACCEPTED, "ballots": {}, "final_votes": {}}
        context.kv[tables.PROPOSALS].set(proposal_id.encode(), request.payload)
        context.kv[tables.PROPOSALS_INFO].set(proposal_id.encode(), tables.encode(info))
        forget_decided(context, besides=proposal_id)
        record_request(context, request)
        member = f"member {request.member_id[:16]}..."
        for action in wanted:
            self._node.log("info", f"{member} proposed {action.name} of node {action.node_id[:16]}..., accepted at once")
        return descriptions.proposal(proposal_id, info)

    def _remember(self, context: Context, request: SignedRequest, proposal_id: str) -> None:
        """Refuse what was sent before, or could have been: the window of recent requests has a fixed size.

        What has fallen out of the window stands before its median, so what stands before that cannot be told from a replay; of several
        requests of one second, their digests say which. Nor may a request be of the future: a window full of such would refuse all others.
        """
        latest = min(self._node.now_ms // 1000 + CREATED_AHEAD_SECONDS_MAX, requests.CREATED_AT_MAX)
        if request.created_at > latest:
            raise RequestError(
                400,
                "InvalidCreatedAt",
                f"created_at is in seconds since 1970, and at most {latest} now: the service's clock and {CREATED_AHEAD_SECONDS_MAX} s. "
                "Set the signer's clock, and sign again.",
            )
        recent = context.kv[tables.COSE_RECENT_PROPOSALS]
        key = request.replay_key
        known = recent.get(key.encode())
        if known is not None:
            raise RequestError(400, "ProposalReplay", f"This very request was accepted before, as proposal {tables.decode(known)}.")
        config = tables.decode(context.governance(tables.SERVICE_CONFIG).get(tables.SINGLETON) or b"{}")
        window: int = config["recent_cose_proposals_window_size"]
        keys = [name.decode() for name, _ in recent.items()]
        if len(keys) >= window:
            median = keys[len(keys) // 2]
            if key < median:
                oldest = int(median.partition(":")[0])
                raise RequestError(
                    400,
                    "ProposalCreatedTooLongAgo",
                    f"Among {window} recent proposals this is too old to be told from a replay: created_at must be at least {oldest}. "
                    "Sign it again.",
                )
        for name in keys[: max(0, len(keys) + 1 - window)]:
            recent.delete(name.encode())
        recent.set(key.encode(), tables.encode(proposal_id))

    # Actions.

    def _remove(self, context: Context, action: Action) -> None:
        """A trusted node retires; one that waits is forgotten, and cannot ask again."""
        records = context.kv[tables.NODE_INFO]
        record = _record_of(records, action.node_id)
        key = action.node_id.encode()
        if record["status"] == tables.RETIRED:
            raise RequestError(400, "NodeAlreadyRetired", f"Node {action.node_id} is retired already.")
        if record["status"] == tables.PENDING:
            records.delete(key)
            context.kv[tables.FORMER_NODES].set(key, leaving.REMOVED)
        else:
            records.set(key, tables.encode({**record, "status": tables.RETIRED}))

    def _trust(self, context: Context, action: Action) -> None:
        records = context.kv[tables.NODE_INFO]
        record = _record_of(records, action.node_id)
        if record["status"] != tables.PENDING:
            raise RequestError(400, "NodeNotPending", f"Node {action.node_id} does not wait for trust: it is {record['status']}.")
        version = records.version_of(action.node_id.encode())
        if version is None or version > self._node.committed_seqno:
            raise RequestError(503, "NodeNotCommitted", "The record of that node's attestation is not committed yet. Ask again.", _SOON)
        now = at_milliseconds(self._node.now_ms)
        days = CERTIFICATE_VALIDITY_DAYS if action.days is None else action.days
        begins = now if action.valid_from is None else action.valid_from
        if days > CERTIFICATE_VALIDITY_DAYS or not now - timedelta(days=days) < begins <= now + CLOCK_SLACK:
            raise RequestError(
                400,
                "ProposalFailedToValidate",
                f"The certificate of node {action.node_id} must be valid now, and for at most {CERTIFICATE_VALIDITY_DAYS} days.",
            )
        request = x509.load_pem_x509_csr(record["certificate_signing_request"].encode())
        self._trust_node(context, NodeId(action.node_id), record, request, begins, days)


_SOON: Final = (("retry-after", "1"),)


def _record_of(records: MapHandle, node_id: str) -> dict[str, Any]:
    value = records.get(node_id.encode())
    if value is None:
        raise RequestError(400, "UnknownNode", f"There is no node {node_id}; /node/network/nodes lists all.")
    record: dict[str, Any] = tables.decode(value)
    return record
