"""What `/gov` tells of the tables: members, users, nodes, proposals and the rest, in CCF's words. Pure.

Each type here is the JSON of an answer; the OpenAPI document is made from the same types. What CCF has no words for (Nitro) is ours.
Not here: which endpoint gives what (`enclave.governing`), who may change a table.
Source: CCF's schema of the governance API, version 2024-07-01.
"""

import base64
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any, Final, Literal, NotRequired, TypeAlias, TypedDict

from ledgerd.governance import tables
from ledgerd.ledger.attestation.evidence import NITRO
from ledgerd.ledger.errors import FormatError
from ledgerd.ledger.signature import decode_base64

Rows: TypeAlias = Iterable[tuple[bytes, bytes]]
"""Keys and values of a map, as they stand in it."""

RecoveryRole: TypeAlias = Literal["NonParticipant", "Participant", "Owner"]

# CCF's values where the record leaves them out.
VALIDITY_DAYS: Final = 365
RECENT_PROPOSALS: Final = 100


class Member(TypedDict):
    """A member; `publicEncryptionKey` is there if it takes part in recovery."""

    memberId: str
    status: str
    certificate: NotRequired[str]
    memberData: Any
    publicEncryptionKey: NotRequired[str]
    recoveryRole: RecoveryRole


class Members(TypedDict):
    """All of them."""

    value: list[Member]


class User(TypedDict):
    """A user."""

    userId: str
    certificate: str
    userData: Any


class Users(TypedDict):
    """All of them."""

    value: list[User]


class QuoteInfo(TypedDict):
    """A node's attestation: for Nitro the document itself; for SEV-SNP what CCF shows, the report is at /node/attestations."""

    format: str
    quote: NotRequired[str]
    endorsements: NotRequired[str]
    uvmEndorsements: NotRequired[str]
    endorsedTcb: NotRequired[str]


class RpcInterface(TypedDict):
    """Where clients reach a node."""

    publishedAddress: str
    protocol: str


class Node(TypedDict):
    """A node; it has a certificate from when it is trusted."""

    nodeId: str
    status: str
    nodeData: Any
    certificate: NotRequired[str]
    retiredCommitted: bool
    quoteInfo: QuoteInfo
    rpcInterfaces: dict[str, RpcInterface]


class Nodes(TypedDict):
    """All of them."""

    value: list[Node]


class ServiceConfiguration(TypedDict):
    """What members may change of how the service itself works."""

    recoveryThreshold: int
    maximumNodeCertificateValidityDays: int
    maximumServiceCertificateValidityDays: int
    recentCoseProposalsWindowSize: int


class ServiceInfo(TypedDict):
    """The service."""

    status: str
    certificate: str
    recoveryCount: int
    creationTransactionId: NotRequired[str]
    previousServiceCreationTransactionId: NotRequired[str]
    serviceData: Any
    configuration: NotRequired[ServiceConfiguration]


class NitroMeasurement(TypedDict):
    """An image that may join, as `nitro-cli` prints it."""

    PCR0: str
    PCR1: str
    PCR2: str


class NitroJoinPolicy(TypedDict):
    """Images, and roots by the SHA-256 of their DER. Any pair of the two is accepted."""

    measurements: list[NitroMeasurement]
    roots: dict[str, str]


class SnpJoinPolicy(TypedDict):
    """What a guest on SEV-SNP has to show; without `hostData` none is accepted."""

    measurements: list[str]
    hostData: dict[str, Any]
    uvmEndorsements: dict[str, Any]
    tcbVersions: dict[str, Any]


class SgxJoinPolicy(TypedDict):
    """Which enclaves on SGX may join: none."""

    measurements: list[str]


class VirtualJoinPolicy(TypedDict):
    """Which nodes may join that attest nothing: none."""

    measurements: list[str]
    hostData: list[str]


class JoinPolicy(TypedDict):
    """What a node has to show to join, by platform; the last two are always empty, for clients that are made from CCF's schema."""

    nitro: NitroJoinPolicy
    snp: SnpJoinPolicy
    sgx: SgxJoinPolicy
    virtual: VirtualJoinPolicy


class JwtIssuer(TypedDict):
    """Who issues tokens, and how its keys are got."""

    autoRefresh: bool
    caCertBundleName: NotRequired[str]


class JwtKey(TypedDict):
    """A key that signs tokens, PEM."""

    publicKey: str
    issuer: str
    constraint: str | None


class JwtInfo(TypedDict):
    """Which tokens the service takes."""

    issuers: dict[str, JwtIssuer]
    keys: dict[str, list[JwtKey]]
    caCertBundles: dict[str, str]


class JavaScriptApp(TypedDict):
    """The application's endpoints: path, then verb, then properties."""

    endpoints: dict[str, dict[str, dict[str, Any]]]


class JavaScriptModule(TypedDict):
    """A module's name."""

    moduleName: str


class JavaScriptModules(TypedDict):
    """All of them."""

    value: list[JavaScriptModule]


class Failure(TypedDict):
    """Why a script failed."""

    reason: str
    trace: NotRequired[str | None]


class Proposal(TypedDict):
    """What is known of a proposal; the last three once it is decided."""

    proposalId: str
    proposerId: str
    proposalState: str
    ballotCount: int
    finalVotes: NotRequired[dict[str, bool]]
    voteFailures: NotRequired[dict[str, Failure]]
    failure: NotRequired[Failure]


class Proposals(TypedDict):
    """Those that are open, and the last one decided."""

    value: list[Proposal]


class ChangedValue(TypedDict):
    """A value; `data` in base64, but where there would be too much of it."""

    sizeBytes: int
    sha256: str
    data: NotRequired[str]


class Change(TypedDict):
    """A record that would change: its table, its key in base64, and its value before and after; null where there is none."""

    table: str
    key: str
    before: ChangedValue | None
    after: ChangedValue | None


class Effects(TypedDict):
    """What a proposal would do if it were accepted now; `failure` if it could not be applied, and then nothing changes."""

    valid: bool
    description: str
    failure: NotRequired[str]
    changes: list[Change]
    changesLeftOut: int


class StateDigest(TypedDict):
    """What a member is asked to sign, hex."""

    memberId: str
    stateDigest: str


class TransactionStatus(TypedDict):
    """Where a transaction stands."""

    transactionId: str
    status: Literal["Unknown", "Pending", "Committed", "Invalid"]


class EncryptedShare(TypedDict):
    """A member's recovery share, encrypted to its key; base64."""

    memberId: str
    encryptedShare: str


class ShareReceived(TypedDict):
    """How far a recovery is."""

    message: str
    submittedCount: int
    recoveryThreshold: int
    fullKeySubmitted: bool


def member(member_id: str, info: bytes, certificate: bytes | None, encryption_key: bytes | None) -> Member:
    """A member, by its rows in the three tables of members."""
    record = tables.decode(info)
    shown: Member = {
        "memberId": member_id,
        "status": record["status"],
        "memberData": record.get("member_data"),
        "recoveryRole": record.get("recovery_role") or ("NonParticipant" if encryption_key is None else "Participant"),
    }
    if certificate is not None:
        shown["certificate"] = _text(certificate)
    if encryption_key is not None:
        shown["publicEncryptionKey"] = _text(encryption_key)
    return shown


def user(user_id: str, certificate: bytes, info: bytes | None) -> User:
    """A user, by its rows in the two tables of users."""
    data = None if info is None else tables.decode(info).get("user_data")
    return {"userId": user_id, "certificate": _text(certificate), "userData": data}


def node(node_id: str, info: bytes, certificate: bytes | None) -> Node:
    """A node, by its record and the certificate by which the service endorses it."""
    record = tables.decode(info)
    shown: Node = {
        "nodeId": node_id,
        "status": record["status"],
        "nodeData": record.get("node_data"),
        "retiredCommitted": record["retired_committed"],
        "quoteInfo": _quote(record["quote_info"]),
        "rpcInterfaces": {
            name: {"publishedAddress": interface["published_address"], "protocol": interface.get("app_protocol", "HTTP1")}
            for name, interface in record["rpc_interfaces"].items()
        },
    }
    if certificate is not None:
        shown["certificate"] = _text(certificate)
    return shown


def _quote(record: Mapping[str, str]) -> QuoteInfo:
    shown: QuoteInfo = {"format": record["format"]}
    if record["format"] == NITRO:
        shown["quote"] = record["quote"]
        shown["endorsements"] = record["endorsements"]
    if "uvm_endorsements" in record:
        shown["uvmEndorsements"] = record["uvm_endorsements"]
    if "endorsed_tcb" in record:  # hex in the table
        shown["endorsedTcb"] = base64.b64encode(bytes.fromhex(record["endorsed_tcb"])).decode()
    return shown


def service(info: bytes, configuration: bytes | None, previous: str | None) -> ServiceInfo:
    """The service.

    Args: previous: First transaction of the service that this one recovers.
    """
    record = tables.decode(info)
    shown: ServiceInfo = {
        "status": record["status"],
        "certificate": record["cert"],
        "recoveryCount": record.get("recovery_count") or 0,
        "serviceData": record.get("service_data"),
    }
    if "current_service_create_txid" in record:
        shown["creationTransactionId"] = record["current_service_create_txid"]
    if previous is not None:
        shown["previousServiceCreationTransactionId"] = previous
    if configuration is not None:
        settings = tables.decode(configuration)
        shown["configuration"] = {
            "recoveryThreshold": settings["recovery_threshold"],
            "maximumNodeCertificateValidityDays": settings.get("maximum_node_certificate_validity_days", VALIDITY_DAYS),
            "maximumServiceCertificateValidityDays": settings.get("maximum_service_certificate_validity_days", VALIDITY_DAYS),
            "recentCoseProposalsWindowSize": settings.get("recent_cose_proposals_window_size", RECENT_PROPOSALS),
        }
    return shown


def nitro_join_policy(measurements: Rows, roots: Rows) -> NitroJoinPolicy:
    """Which enclave images may join, and under which roots. What admission reads is what is shown: every row."""
    lines = []
    for key, _ in measurements:
        pcr0, pcr1, pcr2 = tables.parse_measurement_key(key)
        lines.append(NitroMeasurement(PCR0=pcr0.hex(), PCR1=pcr1.hex(), PCR2=pcr2.hex()))
    return {"measurements": lines, "roots": {_text(key): _text(value) for key, value in roots}}


def snp_join_policy(measurements: Rows, host_data: Rows, uvm_endorsements: Rows, tcb_versions: Rows) -> SnpJoinPolicy:
    """Which guests on SEV-SNP may join."""
    return {
        "measurements": [_text(key) for key, _ in measurements],
        "hostData": _decoded(host_data),
        "uvmEndorsements": _decoded(uvm_endorsements),
        "tcbVersions": _decoded(tcb_versions),
    }


def jwt(issuers: Rows, keys: Rows, bundles: Rows) -> JwtInfo:
    """Which tokens the service takes."""
    shown: JwtInfo = {"issuers": {}, "keys": {}, "caCertBundles": _decoded(bundles)}
    for issuer, record in _decoded(issuers).items():
        found: JwtIssuer = {"autoRefresh": record.get("auto_refresh", False)}
        if record.get("ca_cert_bundle_name") is not None:
            found["caCertBundleName"] = record["ca_cert_bundle_name"]
        shown["issuers"][issuer] = found
    for key_id, records in _decoded(keys).items():
        shown["keys"][key_id] = [
            {"publicKey": _public_key_pem(record["public_key"]), "issuer": record["issuer"], "constraint": record.get("constraint")}
            for record in records
        ]
    return shown


def javascript_app(endpoints: Rows, *, original: bool) -> JavaScriptApp:
    """The application's endpoints.

    Args: original: With their properties as they were installed, instead of in this API's names.
    """
    shown: JavaScriptApp = {"endpoints": {}}
    for key, properties in _decoded(endpoints).items():
        verb, _, path = key.partition(" ")
        shown["endpoints"].setdefault(path, {})[verb] = properties if original else _javascript_endpoint(properties)
    return shown


def _javascript_endpoint(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "jsModule": properties["js_module"],
        "jsFunction": properties["js_function"],
        "forwardingRequired": properties.get("forwarding_required", "always"),
        "redirectionStrategy": properties.get("redirection_strategy", "none"),
        "authnPolicies": properties.get("authn_policies", []),
        "mode": properties.get("mode", "readwrite"),
        "openApi": properties.get("openapi", {}),
    }


def javascript_modules(modules: Rows) -> JavaScriptModules:
    """The names of the application's modules."""
    return {"value": [{"moduleName": _text(key)} for key, _ in modules]}


def proposal(proposal_id: str, info: Mapping[str, Any]) -> Proposal:
    """A proposal, by its decoded record."""
    shown: Proposal = {
        "proposalId": proposal_id,
        "proposerId": info["proposer_id"],
        "proposalState": info["state"],
        "ballotCount": len(info["ballots"]),
    }
    if info.get("final_votes") is not None:
        shown["finalVotes"] = info["final_votes"]
    if info.get("vote_failures") is not None:
        shown["voteFailures"] = info["vote_failures"]
    if info.get("failure") is not None:
        shown["failure"] = info["failure"]
    return shown


def _decoded(rows: Rows) -> dict[str, Any]:
    return {_text(key): tables.decode(value) for key, value in rows}


def _text(data: bytes) -> str:
    """Text of a key or value. Members' scripts write these tables, so it may be anything, and must not make the others unreadable."""
    return data.decode(errors="replace")


def _public_key_pem(key: Any) -> str:
    """PEM of a SubjectPublicKeyInfo that the table has as base64 of its DER; empty if it has none."""
    try:
        der = decode_base64(key, "public key")
    except FormatError:
        return ""
    text = base64.b64encode(der).decode()
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return "\n".join(("-----BEGIN PUBLIC KEY-----", *lines, "-----END PUBLIC KEY-----", ""))


CHANGES_MAX: Final = 1_000  # that an answer tells of
CHANGES_DATA_BYTES_MAX: Final = 4 << 20  # of their values, smallest first, so that one large module does not hide the rest


def effects(changes: Iterable[tuple[str, bytes, bytes | None, bytes | None]], problem: str = "", failure: str | None = None) -> Effects:
    """What a proposal would do.

    Args:
        changes: (table, key, before, after), sorted.
        problem: Why it is not valid.
        failure: Why it could not be applied.
    """
    found = list(changes)
    told = found[:CHANGES_MAX]
    sizes = sorted((len(value), at, side) for at, change in enumerate(told) for side, value in enumerate(change[2:]) if value is not None)
    total, whole = 0, set()
    for size, at, side in sizes:
        total += size
        if total > CHANGES_DATA_BYTES_MAX:
            break
        whole.add((at, side))
    shown: Effects = {"valid": not problem, "description": problem, "changes": [], "changesLeftOut": len(found) - len(told)}
    if failure is not None:
        shown["failure"] = failure
    for at, (table, key, before, after) in enumerate(told):
        values = [_changed(value, is_whole=(at, side) in whole) for side, value in enumerate((before, after))]
        shown["changes"].append({"table": table, "key": base64.b64encode(key).decode(), "before": values[0], "after": values[1]})
    return shown


def _changed(value: bytes | None, *, is_whole: bool) -> ChangedValue | None:
    if value is None:
        return None
    shown: ChangedValue = {"sizeBytes": len(value), "sha256": sha256(value).hexdigest()}
    if is_whole:
        shown["data"] = base64.b64encode(value).decode()
    return shown
