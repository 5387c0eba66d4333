"""The description of every endpoint that all services have, but for those of governance: what it answers, and how it refuses.

The names of fields are CCF's where CCF has them. A test puts what a running node answers to these words
(`tests/end_to_end/test_openapi.py`).
Not here: the endpoints themselves (`enclave.frontend`, `enclave.admission`, `enclave.leaving`), `/gov` (`enclave.governing.api`).
"""

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, NotRequired, TypedDict

from ledgerd.enclave.accepts import check_takes_json
from ledgerd.enclave.endpoints import Context, Endpoint, Handler, Result
from ledgerd.enclave.operations import operation, query
from ledgerd.enclave.requests import COSE


class Commit(TypedDict):
    """The last committed transaction; with `view_history`, the first of each view."""

    transaction_id: str
    view_history: NotRequired[list[str]]


class TransactionState(TypedDict):
    """Where a transaction stands."""

    transaction_id: str
    status: Literal["Unknown", "Pending", "Committed", "Invalid"]


class LeafComponents(TypedDict):
    """What a leaf is made of."""

    write_set_digest: str
    commit_evidence: str
    claims_digest: NotRequired[str]


class Receipt(TypedDict):
    """A receipt in CCF's JSON."""

    cert: str
    is_signature_transaction: bool
    leaf: NotRequired[str]
    leaf_components: NotRequired[LeafComponents]
    node_id: str
    proof: list[dict[str, str]]
    service_endorsements: NotRequired[list[str]]
    signature: str


class NodeState(TypedDict):
    """This node."""

    node_id: str
    state: Literal["PartOfNetwork", "Pending"]
    last_signed_seqno: int
    startup_seqno: int
    stop_notice: bool
    retired: bool
    isolation: list[str]
    simulated: bool


class Network(TypedDict):
    """The service."""

    service_status: str
    service_certificate: str
    current_view: int
    primary_id: str | None
    recovery_count: int
    service_data: Any
    current_service_create_txid: str


class NetworkNode(TypedDict):
    """A node, as the ledger records it."""

    node_id: str
    status: Literal["Pending", "Trusted", "Retired"]
    primary: bool
    node_data: Any
    last_written: int | None
    rpc_interfaces: dict[str, dict[str, Any]]


class NetworkNodes(TypedDict):
    """Nodes."""

    nodes: list[NetworkNode]


class Address(TypedDict):
    """Where a node's clients connect."""

    address: str


class ConsensusState(TypedDict):
    """Consensus, as this node sees it."""

    details: dict[str, Any]


class NodeAttestation(TypedDict):
    """A node's attestation document, base64; of `self` with what it attests."""

    node_id: str
    format: str
    raw: str
    endorsements: str
    measurement: str
    simulated: bool
    uvm_endorsements: NotRequired[str]
    accepts: NotRequired[Any]
    settings: NotRequired[dict[str, Any]]
    service_certificate: NotRequired[str]
    configuration: NotRequired[dict[str, Any]]
    genesis_digest: NotRequired[str]


class NodeAttestations(TypedDict):
    """Of all nodes that are trusted."""

    attestations: list[NodeAttestation]


class NodeQuotes(TypedDict):
    """The same by CCF's older name."""

    quotes: list[NodeAttestation]


class SelfSigned(TypedDict):
    """This node's certificate by itself, PEM."""

    self_signed_certificate: str


class PreviousIdentity(TypedDict):
    """The certificate of the service before a recovery, PEM."""

    previous_service_identity: str


class Version(TypedDict):
    """What runs."""

    ccf_version: str
    quickjs_version: str
    unsafe: bool
    compiled_modules: int


class JoinNonce(TypedDict):
    """To be in the attestation document of a node that asks to join."""

    nonce: str
    protocol_version: int


class JoinAnswer(TypedDict):
    """What a node that asks to join is told."""

    node_status: Literal["Pending", "Trusted"]
    node_id: str
    network_info: NotRequired[dict[str, Any]]


class Described(NamedTuple):
    """Words for one endpoint; see `operations.operation`."""

    summary: str
    answers: dict[int, Any]
    refusals: Mapping[int, str] = MappingProxyType({})
    parameters: tuple[dict[str, Any], ...] = ()
    body: dict[str, Any] | None = None


_TRANSACTION: Final = (
    query(
        "transaction_id",
        {"type": "string", "pattern": "^[1-9][0-9]{0,15}\\.[1-9][0-9]{0,15}$"},
        "VIEW.SEQNO, such as 2.18.",
        required=True,
    ),
)
_HISTORY: Final = (
    query("view_history", {"type": "string", "enum": ["true", "false"]}, "With the first transaction of every view."),
    query("view_history_since", {"type": "integer", "minimum": 1, "maximum": 10**18 - 1}, "Of this view and later ones."),
)
_NONCE: Final = (query("nonce", {"type": "string", "pattern": "^([0-9a-fA-F]{2}){16,512}$"}, "Stands in a document made for it."),)
_FILTERS: Final = tuple(query(name, {"type": "string"}, f"Only with this {name}.") for name in ("host", "port", "status"))
_NOT_READY: Final = {503: "ServiceNotReady"}
_NO_PRIMARY: Final = {503: "PrimaryNotFound"}
_OLD: Final = {
    400: "InvalidQueryParameterValue",
    404: "LedgerRangeMissing, TransactionInvalid, TransactionPendingOrUnknown",
    503: "LedgerRangeRefused, TooManyRequests",
}
_DOCUMENT: Final = {400: "InvalidQueryParameterValue", 503: "AttestationUnavailable, TooManyRequests"}
_JSON_OBJECT: Final = {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}
_ELSEWHERE: Final = {308: "NodeCannotHandleRequest"}
_BAD_ACCEPT: Final = "InvalidHeaderValue"

DESCRIBED: Final = {
    "GET /commit": Described(
        "The last committed transaction.", {200: Commit}, dict.fromkeys((400, 404), "InvalidQueryParameterValue"), _HISTORY
    ),
    "GET /tx": Described("Where a transaction stands.", {200: TransactionState}, {400: "InvalidQueryParameterValue"}, _TRANSACTION),
    "GET /receipt": Described("A committed transaction's receipt.", {200: Receipt}, _OLD, _TRANSACTION),
    "GET /receipt/cose": Described("The same as COSE.", {200: COSE}, _OLD, _TRANSACTION),
    "GET /api": Described("This description.", {200: dict[str, Any]}),
    "GET /state": Described("This node.", {200: NodeState}),
    "GET /network": Described("The service.", {200: Network}, _NOT_READY),
    "GET /network/nodes": Described("All nodes.", {200: NetworkNodes}, {400: "InvalidQueryParameterValue"}, _FILTERS),
    "GET /network/nodes/self": Described("This node's record.", {200: NetworkNode}, {404: "ResourceNotFound"}),
    "GET /network/nodes/primary": Described("The primary's record.", {200: NetworkNode}, {404: "ResourceNotFound", **_NO_PRIMARY}),
    "GET /network/nodes/{node_id}": Described("A node's record.", {200: NetworkNode}, {404: "ResourceNotFound"}),
    "GET /network/removable_nodes": Described("Nodes that nobody needs any more.", {200: NetworkNodes}),
    "DELETE /network/nodes/{node_id}": Described(
        "Delete the record of such a node.", {200: bool}, {400: "NodeNotRetiredCommitted", 404: "ResourceNotFound"}
    ),
    **{
        f"{verb} /primary": Described("200 at the primary; elsewhere the way to it.", {200: None, 307: None}, _NO_PRIMARY)
        for verb in ("GET", "HEAD")
    },
    **{
        f"{verb} /backup": Described("200 at a backup; at the primary the way to one.", {200: None, 307: None}, {404: "ResourceNotFound"})
        for verb in ("GET", "HEAD")
    },
    "GET /config": Described("Nodes of the active configurations.", {200: dict[str, Address]}, {404: "ResourceNotFound"}),
    "GET /consensus": Described("Consensus, as this node sees it.", {200: ConsensusState}),
    "GET /attestations": Described("What the trusted nodes have attested.", {200: NodeAttestations}),
    "GET /attestations/self": Described("What this node attests.", {200: NodeAttestation}, _DOCUMENT, _NONCE),
    "GET /quotes": Described("As `/attestations`.", {200: NodeQuotes}),
    "GET /quotes/self": Described("As `/attestations/self`.", {200: NodeAttestation}, _DOCUMENT, _NONCE),
    "GET /self_signed_certificate": Described("This node's certificate by itself.", {200: SelfSigned}),
    "GET /service/configuration": Described("The service's configuration.", {200: dict[str, Any]}, _NOT_READY),
    "GET /service/previous_identity": Described(
        "The service's certificate before it was recovered.", {200: PreviousIdentity}, {404: "ResourceNotFound"}
    ),
    "GET /version": Described("What runs.", {200: Version}),
    "GET /metrics": Described("Sessions, the link to the host, and what that should not have said.", {200: dict[str, Any]}),
    "GET /ready/app": Described("Whether applications are served.", {204: None, 503: None}),
    "GET /ready/gov": Described("Whether governance is served.", {204: None, 503: None}),
    "GET /js_metrics": Described("Limits of scripts.", {200: dict[str, Any]}),
    "GET /jwt_keys/refresh/metrics": Described("How the keys of token issuers were refreshed.", {200: dict[str, Any]}),
    "POST /join/nonce": Described("A nonce for a node that asks to join.", {200: JoinNonce}, {**_ELSEWHERE, **_NO_PRIMARY}),
    "POST /join": Described(
        "Ask to join; see docs/formats/join.md.",
        {200: JoinAnswer},
        {
            400: "NodeAlreadyExists",
            401: "InvalidQuote",
            429: "TooManyRequests",
            500: "InternalError",
            **_ELSEWHERE,
            **_NO_PRIMARY,
        },
        body=_JSON_OBJECT,
    ),
}


def built_in(method: str, path: str, handler: Handler, **options: Any) -> Endpoint:
    """One of these endpoints, described; where it answers JSON, only to clients that take it. Args: options: as `Endpoint`'s."""
    label = f"{method} {path}"
    described, schemas = _described(label)
    answer = _negotiated(handler) if gives_json(label) else handler
    return Endpoint(method, path, answer, operation=described, schemas=schemas, **options)


def gives_json(label: str) -> bool:
    """Whether this endpoint answers with JSON when all goes well."""
    return any(answer is not None and not isinstance(answer, str) for answer in DESCRIBED[label].answers.values())


def _negotiated(handler: Handler) -> Handler:
    """The same, for clients that take JSON. Others are still told what went wrong; what the handler has written goes with the answer."""

    def answer(context: Context) -> Result:
        result = handler(context)
        check_takes_json(context.request.headers)
        return result

    return answer


@cache
def _described(label: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What OpenAPI says of one of them, and the schemas that it names: the same for all frontends, and for nobody to change."""
    words = DESCRIBED[label]
    schemas: dict[str, Any] = {}
    refusals = dict(words.refusals)
    if gives_json(label):
        refusals[400] = f"{refusals[400]}, {_BAD_ACCEPT}" if 400 in refusals else _BAD_ACCEPT
        refusals[406] = "UnsupportedContentType"
    described = operation(words.summary, words.answers, refusals, schemas, words.parameters)
    if words.body is not None:
        described["requestBody"] = words.body
    return described, schemas
