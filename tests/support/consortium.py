"""The tables of a small service, as actions of a proposal find them: three active members, a new one, a user, nodes in every state.

Keys are made anew for each run; everything that a test compares is built from the same names.
"""

import base64
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ledgerd.governance import tables
from ledgerd.governance.requests import member_id_of
from ledgerd.ledger import cose
from ledgerd.ledger.signature import COSE_SIGNATURES, SIGNATURES
from support.cluster import Identity, make_identity
from support.constitution import SINGLETON, Tables

ALICE, BOB, CAROL, DAVE, ERIN = (make_identity(name) for name in ("alice", "bob", "carol", "dave", "erin"))  # dave is new, erin nobody yet
USER, STRANGER = make_identity("user"), make_identity("stranger")
SERVICE, PREVIOUS_SERVICE = make_identity("service"), make_identity("previous service")
NITRO_ROOT, OTHER_ROOT = make_identity("root"), make_identity("other root")

_RSA: Final = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
RSA_PEM: Final = _RSA.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
RSA_NUMBERS: Final = _RSA.public_numbers()
EC_PEM: Final = ALICE.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

TRUSTED, OTHER_TRUSTED, PENDING, RETIRED, GONE, NEVER = (f"{digit}{digit}" * 32 for digit in "123456")
PCR0, PCR1, PCR2, OTHER_PCR0 = (f"{digit}0" * 48 for digit in "abcd")
NOW: Final = 1_800_000_000  # 2027-01-15T08:00:00Z, the service's last signed time
ROOT_HEX: Final = "ef" * 32

THIS, OTHER, DECIDED = (f"{digit}f" * 32 for digit in "012")  # proposals


def member_id(identity: Identity) -> str:
    """Name of a member, or of a user."""
    return member_id_of(identity.certificate)


def key(identity: Identity) -> bytes:
    """Key of its record."""
    return member_id(identity).encode()


def json_of(record: object) -> bytes:
    """A record, in the bytes in which tables hold it."""
    return tables.encode(record)


def signed_at(seconds: int) -> bytes:
    """The record of the service's last signature, which states this time."""
    return cose_record(seconds, ec.generate_private_key(ec.SECP384R1()))


def cose_record(seconds: int, service: ec.EllipticCurvePrivateKey) -> bytes:
    """The same, by a key."""
    signature = cose.sign_root(service, bytes(32), 2, 40, "service.example.com", "ledger.signature", seconds)
    return json_of(base64.b64encode(signature).decode())


def node(status: str, **more: object) -> bytes:
    """A node's record, as far as actions look at it."""
    return json_of({"status": status, "certificate_signing_request": f"request of a {status} node", "quote_info": {"format": "x"}, **more})


def proposal_info(state: str) -> bytes:
    """A proposal's record."""
    return json_of({"proposer_id": member_id(ALICE), "state": state, "ballots": {}})


PLAIN: Final = b'{"actions":[]}'


def service() -> Tables:
    """All tables of it, to be changed at will."""
    active = {key(identity): json_of({"status": "Active", "member_data": {"n": 1}}) for identity in (ALICE, BOB, CAROL)}
    return {
        tables.MEMBER_CERTS: {key(identity): identity.pem.encode() for identity in (ALICE, BOB, CAROL, DAVE)},
        tables.MEMBER_INFO: {**active, key(DAVE): json_of({"status": "Accepted"})},
        tables.MEMBER_ENCRYPTION_KEYS: {key(identity): RSA_PEM.encode() for identity in (ALICE, BOB, DAVE)},
        "public:ccf.gov.members.acks": {key(identity): json_of({"state_digest": ""}) for identity in (ALICE, BOB, CAROL, DAVE)},
        "public:ccf.gov.history": {key(CAROL): b'"old"'},
        tables.USER_CERTS: {key(USER): USER.pem.encode()},
        tables.USER_INFO: {key(USER): json_of({"user_data": {"role": "reader"}})},
        tables.NODE_INFO: {
            TRUSTED.encode(): node("Trusted"),
            OTHER_TRUSTED.encode(): node("Trusted"),
            PENDING.encode(): node("Pending"),
            RETIRED.encode(): node("Retired", retired_committed=True),
        },
        tables.FORMER_NODES: {RETIRED.encode(): b'"Retired"', GONE.encode(): b'"Retired"'},
        tables.NITRO_MEASUREMENTS: {f"{PCR0}:{PCR1}:{PCR2}".encode(): tables.ALLOWED_TO_JOIN},
        tables.NITRO_ROOTS: {key(NITRO_ROOT): NITRO_ROOT.pem.encode()},
        tables.SNP_MEASUREMENTS: {PCR0.encode(): tables.ALLOWED_TO_JOIN},
        tables.SNP_HOST_DATA: {b"ab" * 32: b'""'},
        tables.SNP_UVM_ENDORSEMENTS: {b"did:x509:one": json_of({"feed": {"svn": "100"}})},
        tables.SNP_TCB_VERSIONS: {b"00a00f11": json_of({"boot_loader": 1, "tee": 0, "snp": 2, "microcode": 3})},
        tables.SERVICE_INFO: {SINGLETON: json_of({"cert": SERVICE.pem, "status": "Open", "recovery_count": 0, "service_data": None})},
        tables.SERVICE_CONFIG: {
            SINGLETON: json_of(
                {
                    "recovery_threshold": 1,
                    "maximum_node_certificate_validity_days": 365,
                    "maximum_service_certificate_validity_days": 300,
                    "recent_cose_proposals_window_size": 100,
                }
            )
        },
        tables.CONSTITUTION: {SINGLETON: b'"export function validate"'},
        tables.PROPOSALS: {THIS.encode(): PLAIN, OTHER.encode(): PLAIN, DECIDED.encode(): PLAIN},
        tables.PROPOSALS_INFO: {
            THIS.encode(): proposal_info("Open"),
            OTHER.encode(): proposal_info("Open"),
            DECIDED.encode(): proposal_info("Rejected"),
        },
        tables.COSE_RECENT_PROPOSALS: recent({THIS: NOW - 60, OTHER: NOW - 120}),
        "public:ccf.gov.modules": {b"/old.js": b"old"},
        "public:ccf.gov.modules_quickjs_bytecode": {b"/old.js": b"\x00\xff"},
        "public:ccf.gov.modules_quickjs_version": {SINGLETON: b"2024-01-13"},
        "public:ccf.gov.interpreter.flush": {SINGLETON: b"false"},
        "public:ccf.gov.endpoints": {b"GET /old": b"{}"},
        "public:ccf.gov.tls.ca_cert_bundles": {b"roots": json_of(NITRO_ROOT.pem)},
        "public:ccf.gov.jwt.issuers": {b"https://issuer.example": json_of({"issuer": "https://issuer.example", "auto_refresh": False})},
        SIGNATURES: {SINGLETON: json_of({"root": ROOT_HEX, "seqno": 40})},
        COSE_SIGNATURES: {SINGLETON: signed_at(NOW)},
    }


def recent(signed: dict[str, int]) -> dict[bytes, bytes]:
    """The window of recent requests: proposals, and when they were signed."""
    return {f"{seconds:010d}:{proposal[:8] * 8}".encode(): json_of(proposal) for proposal, seconds in signed.items()}
