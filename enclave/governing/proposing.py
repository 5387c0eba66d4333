"""Members' proposals: who asked for what is recorded as CCF does, and what is accepted at once is applied in the same entry.

Not here: reading them and voting (`enclave.governing.proposals`), what the constitution says (`enclave.governing.engine`), who signed
(`enclave.auth`).
"""

from hashlib import sha256
from typing import Any, Final, Protocol

from ledgerd.enclave.endpoints import Context, Registry
from ledgerd.enclave.governing.api import record_request, request_of, signed
from ledgerd.enclave.governing.engine import Engine
from ledgerd.enclave.scripting import Steps
from ledgerd.governance import descriptions, requests, tables
from ledgerd.governance.requests import SignedRequest
from ledgerd.ledger.errors import RequestError

OPEN_MAX: Final = 1_000  # of one member: open proposals are in every node's memory, and nothing but votes ends them
OPEN_BYTES_MAX: Final = 16 << 20  # the same in bytes
WINDOW_DEFAULT: Final = 100  # CCF's, where the service's configuration says nothing
CREATED_AHEAD_SECONDS_MAX: Final = 3600  # of the service's clock, by which a member's may be wrong


class Node(Protocol):
    """What proposing asks of the node that it runs on."""

    @property
    def now_ms(self) -> int: ...
    @property
    def root(self) -> bytes: ...
    def log(self, level: str, text: str) -> None: ...


class Proposing:
    """`POST /gov/members/proposals:create`."""

    def __init__(self, node: Node, engine: Engine) -> None:
        """Args: engine: runs the constitution."""
        self._node = node
        self._engine = engine

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
                    400: "InvalidCreatedAt, LastNode, ProposalCreatedTooLongAgo, ProposalFailedToValidate, ProposalReplay, "
                    "TooFewLiveNodes, TooManyOpenProposals",
                    500: "InternalError",
                    503: "NodeNotCommitted, PrimaryNotFound, TooManyPendingTransactions",
                },
                scripted=True,
            )
        )

    def _create(self, context: Context) -> Steps:
        request = request_of(context)
        proposal_id = sha256(self._node.root + request.digest).hexdigest()
        self._remember(context, request, proposal_id)
        yield from self._engine.validate(context, request.payload)
        _check_open(context, request)
        info: dict[str, Any] = {"proposer_id": request.member_id, "state": tables.OPEN, "ballots": {}}
        context.kv[tables.PROPOSALS].set(proposal_id.encode(), request.payload)
        context.kv[tables.PROPOSALS_INFO].set(proposal_id.encode(), tables.encode(info))
        record_request(context, request)
        info = yield from self._engine.resolve(context, proposal_id, info)
        self._node.log("info", f"member {request.member_id[:16]}... proposed {proposal_id[:16]}..., which is {info['state']}")
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
        window: int = config.get("recent_cose_proposals_window_size", WINDOW_DEFAULT)
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


def _check_open(context: Context, request: SignedRequest) -> None:
    """Raises: RequestError: 400 TooManyOpenProposals, the member has as many as it may have."""
    texts = context.kv[tables.PROPOSALS]
    count, size = 0, len(request.payload)
    for key, value in context.kv[tables.PROPOSALS_INFO].items():
        info = tables.decode(value)
        if info["proposer_id"] == request.member_id and info["state"] == tables.OPEN:
            count += 1
            size += len(texts.get(key) or b"")
    if count >= OPEN_MAX or size > OPEN_BYTES_MAX:
        raise RequestError(
            400,
            "TooManyOpenProposals",
            f"Of member {request.member_id} {count} proposals are open; one may have {OPEN_MAX}, with {OPEN_BYTES_MAX} bytes in all. "
            "Withdraw some first.",
        )
