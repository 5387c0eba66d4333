"""The built-in maps: CCF's names, and the records kept in them, byte for byte as CCF's tools read them.

Records are compact JSON unless the comment beside the name says otherwise. Ours are under `public:ccf.gov.nodes.nitro.` and
`public:ccf.gov.ledgerd.`; the rest is in CCF's documentation of built-in maps.
Not here: when a record may change (`enclave.admission`, `enclave.governing`, `enclave.leaving`).
"""

import json
from typing import Any, Final

MEMBER_CERTS: Final = "public:ccf.gov.members.certs"  # member id -> PEM
MEMBER_ENCRYPTION_KEYS: Final = "public:ccf.gov.members.encryption_public_keys"  # member id -> PEM
MEMBER_INFO: Final = "public:ccf.gov.members.info"
MEMBER_ACKS: Final = "public:ccf.gov.members.acks"
USER_CERTS: Final = "public:ccf.gov.users.certs"  # user id -> PEM
USER_INFO: Final = "public:ccf.gov.users.info"
NODE_INFO: Final = "public:ccf.gov.nodes.info"
NODE_ENDORSED_CERTIFICATES: Final = "public:ccf.gov.nodes.endorsed_certificates"  # node id -> PEM
NITRO_MEASUREMENTS: Final = "public:ccf.gov.nodes.nitro.measurements"  # "PCR0:PCR1:PCR2" in hex -> "AllowedToJoin"
NITRO_ROOTS: Final = "public:ccf.gov.nodes.nitro.roots"  # hex SHA-256 of the DER -> PEM
SNP_MEASUREMENTS: Final = "public:ccf.gov.nodes.snp.measurements"  # measurement in hex -> "AllowedToJoin"
SNP_HOST_DATA: Final = "public:ccf.gov.nodes.snp.host_data"  # SHA-256 of a container policy in hex -> the policy, or an empty text
SNP_UVM_ENDORSEMENTS: Final = "public:ccf.gov.nodes.snp.uvm_endorsements"  # did:x509 of a publisher -> feeds and least svn
SNP_TCB_VERSIONS: Final = "public:ccf.gov.nodes.snp.tcb_versions"  # CPUID in hex -> oldest firmware
SERVICE_INFO: Final = "public:ccf.gov.service.info"
SERVICE_CONFIG: Final = "public:ccf.gov.service.config"
CONSTITUTION: Final = "public:ccf.gov.constitution"  # JSON string of the source text
MODULES: Final = "public:ccf.gov.modules"  # name of a JavaScript module, such as "/main.js" -> its source text
ENDPOINTS: Final = "public:ccf.gov.endpoints"  # "GET /path" -> properties of an application's endpoint in JavaScript
JS_RUNTIME_OPTIONS: Final = "public:ccf.gov.js_runtime_options"  # what such endpoints may use up
INTERPRETER_FLUSH: Final = "public:ccf.gov.interpreter.flush"  # written with every application, so that its version tells them apart
JWT_ISSUERS: Final = "public:ccf.gov.jwt.issuers"  # issuer -> how its keys are got
JWT_KEYS: Final = "public:ccf.gov.jwt.public_signing_keys_metadata_v2"  # key id -> its keys, with issuer and constraint
CA_CERT_BUNDLES: Final = "public:ccf.gov.tls.ca_cert_bundles"  # name -> certificates in PEM, a JSON string
PROPOSALS: Final = "public:ccf.gov.proposals"  # proposal id -> the proposal's bytes
PROPOSALS_INFO: Final = "public:ccf.gov.proposals_info"
COSE_HISTORY: Final = "public:ccf.gov.cose_history"  # member id -> base64 of the last request that it signed, a JSON string
COSE_RECENT_PROPOSALS: Final = "public:ccf.gov.cose_recent_proposals"  # "time:digest" of a request -> proposal id, a JSON string
SETTINGS: Final = "public:ccf.gov.ledgerd.settings"
FORMER_NODES: Final = "public:ccf.gov.ledgerd.former_nodes"  # node id -> "Retired" or "Removed"; for good, unlike its record
MINIMUM_VERSION: Final = "public:ccf.gov.ledgerd.minimum_version"  # oldest version of a node's program that may join
PROPOSAL_POLICY: Final = "public:ccf.gov.ledgerd.proposal_policy"  # when proposals end that nobody decides
OBSERVED_SIGNATURE: Final = "public:ccf.gov.ledgerd.observed_signature"  # seqno of the signature entry that the last decision looked at
CONFIGURATION: Final = "public:ccf.gov.ledgerd.configuration"  # what all nodes run with, as PCR16 of each measures it

# The service's own, which no script writes.
ENCRYPTED_LEDGER_SECRETS: Final = "public:ccf.internal.encrypted_ledger_secrets"  # node id -> a new ledger secret, sealed to that node
RECOVERY_SHARES: Final = "public:ccf.internal.recovery_shares"  # the newest ledger secret, wrapped, and members' shares of the key
EARLIER_EPOCH: Final = "public:ccf.internal.historical_encrypted_ledger_secret"  # the one before, encrypted under the one after

SINGLETON: Final = bytes(8)
"""Key of a map that holds one record."""

ALLOWED_TO_JOIN: Final = b'"AllowedToJoin"'

PENDING: Final = "Pending"
TRUSTED: Final = "Trusted"
RETIRED: Final = "Retired"

ACTIVE: Final = "Active"  # of a member
ACCEPTED: Final = "Accepted"  # of a member that has not yet said that it agrees; and of a proposal

NON_PARTICIPANT: Final = "NonParticipant"  # of a member, when the service recovers; without a role it is a Participant
OWNER: Final = "Owner"

OPENING: Final = "Opening"
OPEN: Final = "Open"  # of a service; and of a proposal on which members vote
WITHDRAWN: Final = "Withdrawn"  # of a proposal
REJECTED: Final = "Rejected"
WAITING_FOR_SHARES: Final = "WaitingForRecoveryShares"


def encode(record: Any) -> bytes:
    """Compact JSON, as CCF writes it."""
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def decode(data: bytes) -> Any:
    """Read a record that this service itself wrote."""
    return json.loads(data)


def measurement_key(pcr0: bytes, pcr1: bytes, pcr2: bytes) -> bytes:
    """Key under which an enclave image is allowed: all three registers, since PCR0 alone does not fix where its parts end."""
    return f"{pcr0.hex()}:{pcr1.hex()}:{pcr2.hex()}".encode()


def parse_measurement_key(key: bytes) -> tuple[bytes, bytes, bytes]:
    """Inverse of `measurement_key`."""
    pcr0, pcr1, pcr2 = key.decode().split(":")
    return bytes.fromhex(pcr0), bytes.fromhex(pcr1), bytes.fromhex(pcr2)
