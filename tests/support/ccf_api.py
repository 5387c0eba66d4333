"""The shapes of answers that CCF publishes: of governance, in version 2024-07-01 of its API, and of `/node` and `/app`.

A shape is a type, a pattern, a tuple of the texts that there are, `[shape]` for a list, `{"*": shape}` for an object of any names, or an
object by its fields, where `name?` may be left out. `ANY` is whatever it likes.
Source: CCF's documentation, doc/schemas: gov/2024-07-01/gov.json, node_openapi.json, app_openapi.json. Where what CCF's nodes answer is
otherwise than what is published (JavaScript's endpoints, keys of tokens), it is what they answer.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

ANY: Final = object()
ID: Final = re.compile(r"[a-f0-9]{64}")
TRANSACTION: Final = re.compile(r"[0-9]+\.[0-9]+")
PEM: Final = re.compile(r"-----BEGIN [A-Z ]+-----\n[A-Za-z0-9+/=\n]+-----END [A-Z ]+-----\n?")
BASE64: Final = re.compile(r"[A-Za-z0-9+/]*={0,2}")
UINT: Final = int

_FAILURE: Final = {"reason": str, "trace?": str}
_PROPOSAL: Final = {
    "proposalId": ID,
    "proposerId": ID,
    "proposalState": ("Open", "Accepted", "Withdrawn", "Rejected", "Failed", "Dropped"),
    "ballotCount": UINT,
    "finalVotes?": {"*": bool},
    "voteFailures?": {"*": _FAILURE},
    "failure?": _FAILURE,
}
_MEMBER: Final = {
    "memberId": ID,
    "status": ("Accepted", "Active"),
    "certificate": PEM,
    "memberData?": ANY,
    "publicEncryptionKey?": PEM,
    "recoveryRole?": ("NonParticipant", "Participant", "Owner"),
}
_USER: Final = {"userId": ID, "certificate": PEM, "userData?": ANY}
_NODE: Final = {
    "nodeId": ID,
    "status": ("Pending", "Trusted", "Retired"),
    "nodeData?": ANY,
    "certificate?": PEM,  # published as always there; of a node that is Pending CCF gives none
    "retiredCommitted": bool,
    "quoteInfo": {"format": str, "quote?": BASE64, "endorsements?": BASE64, "uvmEndorsements?": BASE64, "endorsedTcb?": BASE64},
    "rpcInterfaces": {"*": {"publishedAddress": str, "protocol": str}},
}
_DIGEST: Final = {"memberId": ID, "stateDigest": ID}
_TRANSACTION: Final = {"transactionId": TRANSACTION, "status": ("Unknown", "Pending", "Committed", "Invalid")}
_ENDPOINT: Final = {
    "jsModule": str,
    "jsFunction": str,
    "forwardingRequired": ("sometimes", "always", "never"),
    "redirectionStrategy": ("none", "to_primary", "to_backup"),
    "authnPolicies": ANY,
    "mode": ("readwrite", "readonly", "historical"),
    "openApi": {"*": ANY},
}

GOVERNANCE: Final[dict[str, Any]] = {
    "GET /members/proposals": {"value": [_PROPOSAL]},
    "GET /members/proposals/{proposalId}": _PROPOSAL,
    "GET /members/proposals/{proposalId}/actions": {"actions": [{"name": str, "args?": ANY}]},
    "GET /members/proposals/{proposalId}/ballots/{memberId}": "text/javascript",
    "GET /members/state-digests/{memberId}": _DIGEST,
    "GET /recovery/encrypted-shares/{memberId}": {"memberId": ID, "encryptedShare": BASE64},
    "GET /service/constitution": "text/javascript",
    "GET /service/info": {
        "status": ("Opening", "Open", "WaitingForRecoveryShares", "Recovering"),
        "certificate": PEM,
        "recoveryCount": UINT,
        "creationTransactionId": TRANSACTION,
        "previousServiceCreationTransactionId?": TRANSACTION,
        "serviceData?": ANY,
        "configuration": {
            "recoveryThreshold": UINT,
            "maximumNodeCertificateValidityDays": UINT,
            "maximumServiceCertificateValidityDays": UINT,
            "recentCoseProposalsWindowSize": UINT,
        },
    },
    "GET /service/javascript-app": {"endpoints": {"*": {"*": _ENDPOINT}}},
    "GET /service/javascript-modules": {"value": [{"moduleName": str}]},
    "GET /service/javascript-modules/{moduleName}": "text/javascript",
    "GET /service/join-policy": {
        "sgx": {"measurements": [str]},
        "virtual": {"measurements": [str], "hostData": [str]},
        "snp": {"measurements": [str], "hostData": {"*": str}, "uvmEndorsements": {"*": {"*": {"svn": str}}}, "tcbVersions": {"*": ANY}},
    },
    "GET /service/jwk": {
        "issuers": {"*": {"autoRefresh": bool, "caCertBundleName?": str}},
        "keys": {"*": [{"publicKey": PEM, "issuer": str, "constraint": ANY}]},
        "caCertBundles": {"*": PEM},
    },
    "GET /service/members": {"value": [_MEMBER]},
    "GET /service/members/{memberId}": _MEMBER,
    "GET /service/nodes": {"value": [_NODE]},
    "GET /service/nodes/{nodeId}": _NODE,
    "GET /service/transactions/commit": _TRANSACTION,
    "GET /service/transactions/{transactionId}": _TRANSACTION,
    "GET /service/users": {"value": [_USER]},
    "GET /service/users/{userId}": _USER,
    "POST /members/proposals:create": _PROPOSAL,
    "POST /members/proposals/{proposalId}/ballots/{memberId}:submit": _PROPOSAL,
    "POST /members/proposals/{proposalId}:withdraw": _PROPOSAL,
    "POST /members/state-digests/{memberId}:ack": None,
    "POST /members/state-digests/{memberId}:update": _DIGEST,
    "POST /recovery/members/{memberId}:recover": {
        "message": str,
        "submittedCount": UINT,
        "recoveryThreshold": UINT,
        "fullKeySubmitted?": bool,
    },
}
"""What each endpoint answers that does what it was asked to: JSON, the content type of what is none, or None for nothing."""

_QUOTE: Final = {"node_id": ID, "raw": BASE64, "endorsements": BASE64, "format": str, "uvm_endorsements?": BASE64, "measurement?": str}
_NETWORK_NODE: Final = {
    "node_id": ID,
    "status": ("Pending", "Trusted", "Retired"),
    "primary": bool,
    "rpc_interfaces": {"*": {"bind_address": str, "published_address?": str, "protocol?": str}},
    "node_data": ANY,
    "last_written": UINT,
}
_STATUS: Final = {"transaction_id": TRANSACTION, "status": ("Unknown", "Pending", "Committed", "Invalid")}
_COMMIT: Final = {"transaction_id": TRANSACTION, "view_history?": [TRANSACTION]}
_SESSIONS: Final = {
    "active": UINT,
    "peak": UINT,
    "soft_cap": UINT,
    "hard_cap": UINT,
    "errors": {"parsing": UINT, "request_payload_too_large": UINT, "request_header_too_large": UINT},
}
_STEPS: Final = [{"left?": ID, "right?": ID}]

NODE: Final[dict[str, Any]] = {
    "/api": {"openapi": str, "info": ANY, "paths": {"*": ANY}},
    "/attestations": {"attestations": [_QUOTE]},
    "/attestations/self": _QUOTE,
    "/commit": _COMMIT,
    "/config": {"*": {"address": str}},
    "/consensus": {
        "details": {
            "configs": [{"idx": UINT, "rid": UINT, "nodes": {"*": {"address": str}}}],
            "acks": {"*": {"seqno": UINT, "last_received_ms": UINT}},
            "membership_state": ("Active", "RetirementInitiated", "Retired"),
            "leadership_state?": ("Leader", "Follower", "PreVoteCandidate", "Candidate"),
            "retirement_phase?": ("Ordered", "Signed", "Completed", "RetiredCommitted"),
            "reconfiguration_type?": ("OneTransaction",),
            "primary_id": ID,
            "current_view": UINT,
            "ticking": bool,
        }
    },
    "/js_metrics": {
        "bytecode_size": UINT,
        "bytecode_used": bool,
        "max_heap_size": UINT,
        "max_stack_size": UINT,
        "max_execution_time": UINT,
    },
    "/jwt_keys/refresh/metrics": {"attempts": UINT, "successes": UINT},
    "/metrics": {"sessions": {"active": UINT, "peak": UINT, "interfaces": {"*": _SESSIONS}}},
    "/network": {
        "service_status": ("Opening", "Open", "WaitingForRecoveryShares", "Recovering"),
        "service_certificate": PEM,
        "current_view": UINT,
        "primary_id": ID,
        "recovery_count": UINT,
        "service_data": ANY,
        "current_service_create_txid": TRANSACTION,
    },
    "/network/nodes": {"nodes": [_NETWORK_NODE]},
    "/network/nodes/primary": _NETWORK_NODE,
    "/network/nodes/self": _NETWORK_NODE,
    "/network/nodes/{node_id}": _NETWORK_NODE,
    "/network/removable_nodes": {"nodes": [_NETWORK_NODE]},
    "/quotes": {"quotes": [_QUOTE]},
    "/quotes/self": _QUOTE,
    "/receipt": {
        "cert": PEM,
        "is_signature_transaction": bool,
        "leaf_components": {"write_set_digest": ID, "commit_evidence": str, "claims_digest?": ID},
        "node_id": ID,
        "proof": _STEPS,
        "signature": BASE64,
        "service_endorsements?": [PEM],
    },
    "/self_signed_certificate": {"self_signed_certificate": PEM},
    "/service/configuration": {
        "recovery_threshold": UINT,
        "maximum_node_certificate_validity_days?": UINT,
        "maximum_service_certificate_validity_days?": UINT,
        "recent_cose_proposals_window_size?": UINT,
        "reconfiguration_type?": ("OneTransaction",),
        "consensus?": ("CFT",),
    },
    "/state": {
        "node_id": ID,
        "state": ("Uninitialized", "Initialized", "Pending", "PartOfPublicNetwork", "PartOfNetwork"),
        "last_signed_seqno": UINT,
        "startup_seqno": UINT,
        "recovery_target_seqno?": UINT,
        "last_recovered_seqno?": UINT,
        "stop_notice": bool,
    },
    "/tx": _STATUS,
    "/version": {"ccf_version": str, "quickjs_version": str, "unsafe": bool},
}
"""What can be read at `/node` of a service that is open, JSON."""

APP: Final[dict[str, Any]] = {path: NODE[path] for path in ("/api", "/commit", "/receipt", "/tx")}
"""The same of what every service has at `/app`."""

ERROR: Final = {"error": {"code": str, "message": str, "details?": [{"*": ANY}]}}


def problems(shape: Any, value: Any, where: str = "") -> Iterator[str]:
    """What of a value is not as published: a field that is missing, or of another type. Fields beyond that are none of them."""
    if shape is ANY:
        return
    if isinstance(shape, re.Pattern):
        if not isinstance(value, str) or shape.fullmatch(value) is None:
            yield f"{where}: {value!r:.60} is not like {shape.pattern}"
    elif isinstance(shape, tuple):
        if value not in shape:
            yield f"{where}: {value!r:.60} is none of {', '.join(shape)}"
    elif isinstance(shape, list):
        if not isinstance(value, list):
            yield f"{where}: {value!r:.60} is no list"
            return
        for place, inner in enumerate(value):
            yield from problems(shape[0], inner, f"{where}[{place}]")
    elif isinstance(shape, dict):
        if not isinstance(value, dict):
            yield f"{where}: {value!r:.60} is no object"
        elif "*" in shape:
            for name, inner in value.items():
                yield from problems(shape["*"], inner, f"{where}.{name}")
        else:
            for field, inner in shape.items():
                name = field.removesuffix("?")
                if name in value:
                    yield from problems(inner, value[name], f"{where}.{name}")
                elif name == field:
                    yield f"{where}.{name} is missing"
    elif type(value) is not shape or (shape is int and value < 0):
        yield f"{where}: {value!r:.60} is no {shape.__name__}"


def unknown(shape: Any, value: Any, where: str = "") -> Iterator[str]:
    """Fields of a value that are not published."""
    if isinstance(shape, list) and isinstance(value, list):
        for inner in value:
            yield from unknown(shape[0], inner, f"{where}[]")
    elif isinstance(shape, dict) and isinstance(value, dict):
        if "*" in shape:
            for inner in value.values():
                yield from unknown(shape["*"], inner, f"{where}.*")
            return
        known = {field.removesuffix("?"): inner for field, inner in shape.items()}
        for name, inner in value.items():
            if name in known:
                yield from unknown(known[name], inner, f"{where}.{name}")
            else:
                yield f"{where}.{name}"
