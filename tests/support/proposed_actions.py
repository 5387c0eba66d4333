"""What each action is to do to the tables of `support.consortium`, byte for byte; and what it is to ask the service for.

Written from CCF's documentation and tables, so that the same cases can be put to CCF's own constitution.
"""

import base64
import json
from hashlib import sha256
from typing import Any, Final, NamedTuple

from cryptography.hazmat.primitives.serialization import Encoding

from ledgerd.governance import tables
from support.consortium import (
    ALICE,
    BOB,
    CAROL,
    DAVE,
    ERIN,
    GONE,
    NITRO_ROOT,
    OTHER,
    OTHER_PCR0,
    OTHER_ROOT,
    OTHER_TRUSTED,
    PCR0,
    PCR1,
    PCR2,
    PENDING,
    PREVIOUS_SERVICE,
    RETIRED,
    ROOT_HEX,
    RSA_NUMBERS,
    RSA_PEM,
    SERVICE,
    STRANGER,
    TRUSTED,
    USER,
    json_of,
    key,
    member_id,
    node,
    proposal_info,
)
from support.constitution import SINGLETON

ACKS: Final = "public:ccf.gov.members.acks"
HISTORY: Final = "public:ccf.gov.history"
MODULES: Final = "public:ccf.gov.modules"
BYTECODE: Final = "public:ccf.gov.modules_quickjs_bytecode"
BYTECODE_VERSION: Final = "public:ccf.gov.modules_quickjs_version"
FLUSH: Final = "public:ccf.gov.interpreter.flush"
ENDPOINTS: Final = "public:ccf.gov.endpoints"
BUNDLES: Final = "public:ccf.gov.tls.ca_cert_bundles"
ISSUERS: Final = "public:ccf.gov.jwt.issuers"
ISSUER: Final = "https://issuer.example"

FROM: Final = "20270101000000Z"
DROPPED: Final[dict[str, dict[bytes, bytes | None]]] = {tables.PROPOSALS_INFO: {OTHER.encode(): proposal_info("Dropped")}}


class Case(NamedTuple):
    """One action, and what it does.

    Attributes:
        name, args: The action.
        changes: Records that are different afterwards, by table; None for one that is gone.
        calls: What it asks the service for.
        ours: Why CCF's constitution does not do the same; None if it does.
    """

    name: str
    args: Any
    changes: dict[str, dict[bytes, bytes | None]]
    calls: list[list[Any]] = []  # noqa: RUF012 - never changed
    ours: str | None = None


def _member(identity: Any, record: dict[str, Any], encryption_key: str | None = None) -> dict[str, dict[bytes, bytes | None]]:
    changes: dict[str, dict[bytes, bytes | None]] = {
        tables.MEMBER_CERTS: {key(identity): identity.pem.encode()},
        tables.MEMBER_INFO: {key(identity): json_of(record)},
        ACKS: {key(identity): json_of({"state_digest": ROOT_HEX})},
    }
    if encryption_key is not None:
        changes[tables.MEMBER_ENCRYPTION_KEYS] = {key(identity): encryption_key.encode()}
    return changes


def _config(**more: Any) -> dict[str, dict[bytes, bytes | None]]:
    before = {
        "recovery_threshold": 1,
        "maximum_node_certificate_validity_days": 365,
        "maximum_service_certificate_validity_days": 300,
        "recent_cose_proposals_window_size": 100,
    }
    return {tables.SERVICE_CONFIG: {SINGLETON: json_of({**before, **more})}}


def _endorsed(node_id: str, status: str, days: int, begin: str = FROM) -> dict[bytes, bytes | None]:
    return {node_id.encode(): f"certificate for request of a {status} node from {begin} for {days} days".encode()}


def _ask(status: str, days: int, begin: str = FROM) -> list[Any]:
    return ["generateEndorsedCertificate", f"request of a {status} node", begin, days]


CONSTITUTION: Final = "export function validate (input) { return { valid: true }; }"

MODULE: Final = "export function get (request) { return { body: 'café' }; }"
ENDPOINT: Final = {
    "js_module": "src/app.js",
    "js_function": "get",
    "forwarding_required": "sometimes",
    "redirection_strategy": "none",
    "authn_policies": ["user_cert", {"all_of": ["jwt", "member_cert"]}, "no_auth"],
    "mode": "readonly",
    "openapi": {"summary": "reads"},
    "openapi_hidden": False,
    "interpreter_reuse": {"key": "one"},
}
BUNDLE: Final = {
    "metadata": {"endpoints": {"/log/{id}": {"get": ENDPOINT}}},
    "modules": [{"name": "src/app.js", "module": MODULE}],
}
LONG: Final = "let a = ;" + " " * (1 << 20)  # more than is compiled before a vote
INSTALLED: Final[dict[str, dict[bytes, bytes | None]]] = {
    MODULES: {b"/old.js": None, b"/src/app.js": MODULE.encode()},
    FLUSH: {SINGLETON: b"true"},
    ENDPOINTS: {b"GET /old": None, b"GET /log/{id}": json_of({**ENDPOINT, "js_module": "/src/app.js"})},
}

OPTIONS: Final = {"max_heap_bytes": 104857600, "max_stack_bytes": 1048576, "max_execution_time_ms": 1000, "log_exception_details": True}

POLICY_TEXT: Final = "package policy # é"
POLICY_DIGEST: Final = sha256(POLICY_TEXT.encode()).hexdigest()
TCB: Final = {"boot_loader": 4, "tee": 0, "snp": 20, "microcode": 209}


def _base64url(number: int, size: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes(size, "big")).decode().rstrip("=")


_POINT: Final = ALICE.key.public_key().public_numbers()
DER: Final = base64.b64encode(NITRO_ROOT.certificate.public_bytes(Encoding.DER)).decode()
RSA_KEY: Final = {"kid": "one", "kty": "RSA", "n": _base64url(RSA_NUMBERS.n, 256), "e": "AQAB", "alg": "RS256", "use": "sig"}
EC_KEY: Final = {"kid": "two", "kty": "EC", "crv": "P-256", "x": _base64url(_POINT.x, 32), "y": _base64url(_POINT.y, 32)}
CERTIFIED_KEY: Final = {"kid": "three", "kty": "EC", "x5c": [DER], "issuer": "kept"}
JWKS: Final = {"keys": [RSA_KEY, EC_KEY, CERTIFIED_KEY]}
METADATA: Final = {"issuer": ISSUER, "auto_refresh": True, "ca_cert_bundle_name": "roots"}

_NEW: Final = "CCF has no such action"

CASES: Final = (
    # Members.
    Case("set_member", {"cert": ERIN.pem}, _member(ERIN, {"status": "Accepted"})),
    Case(
        "set_member",
        {"cert": ERIN.pem, "encryption_pub_key": RSA_PEM, "member_data": {"name": "é", "n": [1]}, "recovery_role": "Owner"},
        _member(ERIN, {"member_data": {"name": "é", "n": [1]}, "recovery_role": "Owner", "status": "Accepted"}, RSA_PEM),
    ),
    Case("set_member", {"cert": ERIN.pem, "member_data": None}, _member(ERIN, {"member_data": None, "status": "Accepted"})),
    Case(  # one that is there is written anew, and has to agree again
        "set_member",
        {"cert": BOB.pem},
        {
            tables.MEMBER_INFO: {key(BOB): json_of({"status": "Accepted"})},
            tables.MEMBER_ENCRYPTION_KEYS: {key(BOB): None},
            ACKS: {key(BOB): json_of({"state_digest": ROOT_HEX})},
        },
    ),
    Case(
        "remove_member",
        {"member_id": member_id(CAROL)},
        {
            tables.MEMBER_CERTS: {key(CAROL): None},
            tables.MEMBER_INFO: {key(CAROL): None},
            ACKS: {key(CAROL): None},
            HISTORY: {key(CAROL): None},
        },
    ),
    Case(
        "remove_member",
        {"member_id": member_id(BOB)},
        {
            tables.MEMBER_CERTS: {key(BOB): None},
            tables.MEMBER_INFO: {key(BOB): None},
            tables.MEMBER_ENCRYPTION_KEYS: {key(BOB): None},
            ACKS: {key(BOB): None},
        },
        [["triggerLedgerRekey"]],
    ),
    Case(  # who never became active held no share
        "remove_member",
        {"member_id": member_id(DAVE)},
        {
            tables.MEMBER_CERTS: {key(DAVE): None},
            tables.MEMBER_INFO: {key(DAVE): None},
            tables.MEMBER_ENCRYPTION_KEYS: {key(DAVE): None},
            ACKS: {key(DAVE): None},
        },
    ),
    Case("remove_member", {"member_id": member_id(STRANGER)}, {}),
    Case(
        "set_member_data",
        {"member_id": member_id(DAVE), "member_data": {"a": 1}},
        {tables.MEMBER_INFO: {key(DAVE): json_of({"status": "Accepted", "member_data": {"a": 1}})}},
    ),
    Case(
        "set_member_data",
        {"member_id": member_id(ALICE), "member_data": None},
        {tables.MEMBER_INFO: {key(ALICE): json_of({"status": "Active", "member_data": None})}},
    ),
    Case("set_recovery_threshold", {"recovery_threshold": 2}, _config(recovery_threshold=2), [["triggerRecoverySharesRefresh"]]),
    Case("set_recovery_threshold", {"recovery_threshold": 1}, {}),
    Case("trigger_recovery_shares_refresh", None, {}, [["triggerRecoverySharesRefresh"]]),
    # Users.
    Case("set_user", {"cert": STRANGER.pem}, {tables.USER_CERTS: {key(STRANGER): STRANGER.pem.encode()}}),
    Case(
        "set_user",
        {"cert": STRANGER.pem, "user_data": {"x": [True, None]}},
        {
            tables.USER_CERTS: {key(STRANGER): STRANGER.pem.encode()},
            tables.USER_INFO: {key(STRANGER): json_of({"user_data": {"x": [True, None]}})},
        },
    ),
    Case("set_user", {"cert": USER.pem, "user_data": None}, {tables.USER_INFO: {key(USER): None}}),
    Case("remove_user", {"user_id": member_id(USER)}, {tables.USER_CERTS: {key(USER): None}, tables.USER_INFO: {key(USER): None}}),
    Case("remove_user", {"user_id": member_id(STRANGER)}, {}),
    Case(
        "set_user_data",
        {"user_id": member_id(USER), "user_data": {"role": "writer"}},
        {tables.USER_INFO: {key(USER): json_of({"user_data": {"role": "writer"}})}},
    ),
    Case("set_user_data", {"user_id": member_id(USER)}, {tables.USER_INFO: {key(USER): None}}),
    # The service.
    Case("set_constitution", {"constitution": CONSTITUTION}, {tables.CONSTITUTION: {SINGLETON: json_of(CONSTITUTION)}, **DROPPED}),
    Case("transition_service_to_open", {"next_service_identity": SERVICE.pem}, {}, [["transitionServiceToOpen", None, SERVICE.pem]]),
    Case(
        "transition_service_to_open",
        {"next_service_identity": SERVICE.pem, "previous_service_identity": PREVIOUS_SERVICE.pem},
        {},
        [["transitionServiceToOpen", PREVIOUS_SERVICE.pem, SERVICE.pem]],
    ),
    Case(
        "transition_service_to_open",
        {"next_service_identity": SERVICE.pem, "previous_service_identity": None},
        {},
        [["transitionServiceToOpen", None, SERVICE.pem]],
        ours="CCF's declares the argument as one that may be null, and then refuses null",
    ),
    Case("assert_service_identity", {"service_identity": SERVICE.pem}, {}),
    Case(
        "set_service_configuration",
        {"recovery_threshold": 2, "recent_cose_proposals_window_size": 50},
        _config(recovery_threshold=2, recent_cose_proposals_window_size=50),
        [["triggerRecoverySharesRefresh"]],
    ),
    Case("set_service_configuration", {"recent_cose_proposals_window_size": 10000}, _config(recent_cose_proposals_window_size=10000)),
    Case(
        "set_service_configuration",
        {"reconfiguration_type": "OneTransaction"},
        _config(reconfiguration_type="OneTransaction"),
        ours="CCF's takes only the change to two transactions, which there is not here",
    ),
    Case("trigger_ledger_rekey", None, {}, [["triggerLedgerRekey"]]),
    Case("trigger_ledger_chunk", None, {}, [["triggerLedgerChunk"]]),
    Case("trigger_ledger_chunk", {}, {}, [["triggerLedgerChunk"]]),
    Case("trigger_snapshot", None, {}, [["triggerSnapshot"]]),
    # Certificates.
    Case(
        "set_node_certificate_validity",
        {"node_id": TRUSTED, "valid_from": FROM, "validity_period_days": 10},
        {tables.NODE_ENDORSED_CERTIFICATES: _endorsed(TRUSTED, "Trusted", 10)},
        [_ask("Trusted", 10)],
    ),
    Case(
        "set_all_nodes_certificate_validity",
        {"valid_from": FROM},
        {tables.NODE_ENDORSED_CERTIFICATES: {**_endorsed(TRUSTED, "Trusted", 365), **_endorsed(OTHER_TRUSTED, "Trusted", 365)}},
        [_ask("Trusted", 365), _ask("Trusted", 365)],
    ),
    Case(
        "set_service_certificate_validity",
        {"valid_from": FROM, "validity_period_days": 300},
        {
            tables.SERVICE_INFO: {
                SINGLETON: json_of(
                    {"cert": f"certificate from {FROM} for 300 days", "status": "Open", "recovery_count": 0, "service_data": None}
                )
            }
        },
        [["generateNetworkCertificate", FROM, 300]],
    ),
    Case(
        "set_service_certificate_validity",
        {},
        {
            tables.SERVICE_INFO: {
                SINGLETON: json_of(
                    {"cert": "certificate from 20270115080000Z for 300 days", "status": "Open", "recovery_count": 0, "service_data": None}
                )
            }
        },
        [["generateNetworkCertificate", "20270115080000Z", 300]],
        ours="CCF's asks for valid_from; here it is the service's last signed time unless given",
    ),
    # Nodes.
    Case(
        "transition_node_to_trusted",
        {"node_id": PENDING, "valid_from": FROM, "validity_period_days": 90},
        {
            tables.NODE_INFO: {
                PENDING.encode(): json_of({**json.loads(node("Pending")), "status": "Trusted", "ledger_secret_seqno": 17}),
            },
            tables.NODE_ENDORSED_CERTIFICATES: _endorsed(PENDING, "Pending", 90),
        },
        [_ask("Pending", 90)],
    ),
    Case("transition_node_to_trusted", {"node_id": TRUSTED, "valid_from": FROM}, {}),
    Case(
        "remove_node",
        {"node_id": TRUSTED},
        {tables.NODE_INFO: {TRUSTED.encode(): node("Retired").replace(b"of a Retired", b"of a Trusted")}},
    ),
    Case("remove_node", {"node_id": PENDING}, {tables.NODE_INFO: {PENDING.encode(): None}}),
    Case("remove_node", {"node_id": RETIRED}, {}),
    Case("remove_node", {"node_id": GONE}, {}),
    Case(
        "set_node_data",
        {"node_id": TRUSTED, "node_data": ["any", 1]},
        {tables.NODE_INFO: {TRUSTED.encode(): node("Trusted", node_data=["any", 1])}},
    ),
    # What may join.
    Case(
        "add_nitro_measurement",
        {"pcr0": OTHER_PCR0, "pcr1": PCR1, "pcr2": PCR2},
        {
            tables.NITRO_MEASUREMENTS: {tables.measurement_key(*map(bytes.fromhex, (OTHER_PCR0, PCR1, PCR2))): tables.ALLOWED_TO_JOIN},
            **DROPPED,
        },
        ours=_NEW,
    ),
    Case(
        "remove_nitro_measurement",
        {"pcr0": PCR0, "pcr1": PCR1, "pcr2": PCR2},
        {tables.NITRO_MEASUREMENTS: {tables.measurement_key(*map(bytes.fromhex, (PCR0, PCR1, PCR2))): None}},
        ours=_NEW,
    ),
    Case(
        "add_nitro_root", {"root": OTHER_ROOT.pem}, {tables.NITRO_ROOTS: {key(OTHER_ROOT): OTHER_ROOT.pem.encode()}, **DROPPED}, ours=_NEW
    ),
    Case(
        "add_snp_measurement", {"measurement": OTHER_PCR0}, {tables.SNP_MEASUREMENTS: {OTHER_PCR0.encode(): b'"AllowedToJoin"'}, **DROPPED}
    ),
    Case("remove_snp_measurement", {"measurement": PCR0}, {tables.SNP_MEASUREMENTS: {PCR0.encode(): None}}),
    Case(
        "add_snp_host_data",
        {"host_data": POLICY_DIGEST, "security_policy": POLICY_TEXT},
        {tables.SNP_HOST_DATA: {POLICY_DIGEST.encode(): json_of(POLICY_TEXT)}, **DROPPED},
        ours="the digest that CCF's compares as a text is no text in this test's engine",
    ),
    Case("add_snp_host_data", {"host_data": "cd" * 32, "security_policy": ""}, {tables.SNP_HOST_DATA: {b"cd" * 32: b'""'}, **DROPPED}),
    Case("remove_snp_host_data", {"host_data": "ab" * 32}, {tables.SNP_HOST_DATA: {b"ab" * 32: None}}),
    Case(
        "add_snp_uvm_endorsement",
        {"did": "did:x509:one", "feed": "second", "svn": "7"},
        {tables.SNP_UVM_ENDORSEMENTS: {b"did:x509:one": json_of({"feed": {"svn": "100"}, "second": {"svn": "7"}})}, **DROPPED},
    ),
    Case(
        "add_snp_uvm_endorsement",
        {"did": "did:x509:two", "feed": "feed", "svn": "7"},
        {tables.SNP_UVM_ENDORSEMENTS: {b"did:x509:two": json_of({"feed": {"svn": "7"}})}, **DROPPED},
    ),
    Case("remove_snp_uvm_endorsement", {"did": "did:x509:one", "feed": "feed"}, {tables.SNP_UVM_ENDORSEMENTS: {b"did:x509:one": None}}),
    Case(
        "set_snp_minimum_tcb_version",
        {"cpuid": "00a00f11", "tcb_version": TCB},
        {tables.SNP_TCB_VERSIONS: {b"00a00f11": json_of(TCB)}, **DROPPED},
    ),
    Case(
        "set_snp_minimum_tcb_version_hex",
        {"cpuid": "00a10f11", "tcb_version": "d315000000000004"},
        {tables.SNP_TCB_VERSIONS: {b"00a10f11": json_of({"hexstring": "d315000000000004"})}, **DROPPED},
        ours="the constitution in the test's ledger is older than the action",
    ),
    Case("remove_snp_minimum_tcb_version", {"cpuid": "00a00f11"}, {tables.SNP_TCB_VERSIONS: {b"00a00f11": None}}),
    Case(
        "set_minimum_version",
        {"version": "1.20.3"},
        {"public:ccf.gov.ledgerd.minimum_version": {SINGLETON: b'{"version":"1.20.3"}'}},
        ours=_NEW,
    ),
    # The application.
    Case("set_js_app", {"bundle": BUNDLE}, INSTALLED, [["refreshAppBytecodeCache"]]),
    Case(
        "set_js_app",
        {"bundle": BUNDLE, "disable_bytecode_cache": True},
        {**INSTALLED, BYTECODE: {b"/old.js": None}, BYTECODE_VERSION: {SINGLETON: None}},
    ),
    Case(
        "remove_js_app",
        None,
        {
            MODULES: {b"/old.js": None},
            ENDPOINTS: {b"GET /old": None},
            BYTECODE: {b"/old.js": None},
            BYTECODE_VERSION: {SINGLETON: None},
            FLUSH: {SINGLETON: None},
        },
    ),
    Case("refresh_js_app_bytecode_cache", None, {}, [["refreshAppBytecodeCache"]]),
    Case(
        "set_js_app",
        {"bundle": {"metadata": {"endpoints": {}}, "modules": [{"name": "a.js", "module": "let a = ;"}]}, "disable_bytecode_cache": True},
        {
            MODULES: {b"/old.js": None, b"/a.js": b"let a = ;"},
            ENDPOINTS: {b"GET /old": None},
            FLUSH: {SINGLETON: b"true"},
            BYTECODE: {b"/old.js": None},
            BYTECODE_VERSION: {SINGLETON: None},
        },
    ),
    Case(
        "set_js_app",
        {"bundle": {"metadata": {"endpoints": {}}, "modules": [{"name": "a.js", "module": LONG}]}},
        {MODULES: {b"/old.js": None, b"/a.js": LONG.encode()}, ENDPOINTS: {b"GET /old": None}, FLUSH: {SINGLETON: b"true"}},
        [["refreshAppBytecodeCache"]],
    ),
    Case(
        "set_js_runtime_options",
        {"max_heap_bytes": 1 << 20},
        {"public:ccf.gov.js_runtime_options": {SINGLETON: json_of({"max_heap_bytes": 1 << 20})}},
        ours="theirs wants the three limits every time",
    ),
    Case("set_js_runtime_options", OPTIONS, {"public:ccf.gov.js_runtime_options": {SINGLETON: json_of(OPTIONS)}}),
    # Tokens.
    Case(
        "set_ca_cert_bundle",
        {"name": "more", "cert_bundle": NITRO_ROOT.pem + OTHER_ROOT.pem},
        {BUNDLES: {b"more": json_of(NITRO_ROOT.pem + OTHER_ROOT.pem)}},
    ),
    Case("remove_ca_cert_bundle", {"name": "roots"}, {BUNDLES: {b"roots": None}}),
    Case("remove_ca_cert_bundle", {"name": "none"}, {}),
    Case("set_jwt_issuer", METADATA, {ISSUERS: {ISSUER.encode(): json_of(METADATA)}}),
    Case(
        "set_jwt_issuer",
        {"jwks": JWKS, "issuer": "https://other.example/v2"},
        {ISSUERS: {b"https://other.example/v2": b'{"issuer":"https://other.example/v2"}'}},
        [["setJwtPublicSigningKeys", "https://other.example/v2", {"issuer": "https://other.example/v2"}, JWKS]],
    ),
    Case(
        "set_jwt_public_signing_keys",
        {"issuer": ISSUER, "jwks": JWKS},
        {},
        [["setJwtPublicSigningKeys", ISSUER, {"issuer": ISSUER, "auto_refresh": False}, JWKS]],
    ),
    Case("remove_jwt_issuer", {"issuer": ISSUER}, {ISSUERS: {ISSUER.encode(): None}}, [["removeJwtPublicSigningKeys", ISSUER]]),
    Case("remove_jwt_issuer", {"issuer": "https://nobody.example"}, {}),
    Case("cleanup_legacy_jwt_records", None, {}, ours="the constitution in the test's ledger is older than the action"),
    # How proposals end.
    Case(
        "set_proposal_policy",
        {"lifetime_hours": 72, "rejection": "majority"},
        {"public:ccf.gov.ledgerd.proposal_policy": {SINGLETON: b'{"lifetime_hours":72,"rejection":"majority"}'}, **DROPPED},
        ours=_NEW,
    ),
    Case("set_proposal_policy", {}, {"public:ccf.gov.ledgerd.proposal_policy": {SINGLETON: b"{}"}, **DROPPED}, ours=_NEW),
)


def proposal(*actions: tuple[str, Any]) -> dict[str, Any]:
    """A proposal of these actions; arguments that are None are left out."""
    return {"actions": [{"name": name, "args": args} if args is not None else {"name": name} for name, args in actions]}
