"""Checks the evidence of nodes that a ledger holds, as of the time at which the ledger recorded it. Pure: entries in, findings out.

Evidence is judged by the join policy that stood in the ledger when the node's record was written (or by a stricter one of the caller's), at
the time that the service's next signature states. A Nitro document must also attest the node's own key; in PCR16 the configuration that
the genesis records; and, of a node that joined, in `user_data` the key to which the service's secrets were sealed.
What no ledger shows is the nonce: that evidence was fresh when its node joined rests on the image that admitted it. SNP reports bind
configuration and encryption key only together with the nonce, so of them only the node's key is checked.
Not here: whether the ledger is whole and whose it is (`ledger.audit`): feed what that took.
Source: docs/formats/join.md; docs/formats/ledger.md.
"""

import base64
import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from ledgerd.governance import tables
from ledgerd.ledger import cose
from ledgerd.ledger.attestation import policy, snp, snp_policy
from ledgerd.ledger.attestation.binding import binding_digest
from ledgerd.ledger.attestation.errors import AttestationError
from ledgerd.ledger.attestation.evidence import NITRO, SNP
from ledgerd.ledger.attestation.measurement import Measurement, configuration_digest
from ledgerd.ledger.attestation.nitro import Attestation
from ledgerd.ledger.attestation.policy import Policy
from ledgerd.ledger.attestation.roots import Root, parse_roots
from ledgerd.ledger.attestation.snp import SnpAttestation
from ledgerd.ledger.entry import PublicEntry, WriteSet
from ledgerd.ledger.errors import FormatError, LedgerdError
from ledgerd.ledger.receipt import key_der, load_certificate, public_key
from ledgerd.ledger.signature import COSE_SIGNATURES, parse

VERIFIED: Final = "VERIFIED"
REFUSED: Final = "REFUSED"
UNCHECKED: Final = "UNCHECKED"

# What can be checked of a node. A finding names those that were.
CHAIN: Final = "chain"  # certificates and signature, below an accepted root, at the recorded time; not a debug enclave
IMAGE: Final = "image"  # measurement, by the join policy
KEY: Final = "key"  # the node's key, by which it signs
CONFIGURATION: Final = "configuration"  # PCR16 is the recorded configuration
ENCRYPTION_KEY: Final = "encryption_key"  # to which the service's secrets were sealed
FIRMWARE: Final = "firmware"  # SNP: the processor's
UNSIGNED: Final = "recorded after the last signature: it is under no root yet"
NEVER_CHECKED: Final = "nonces: no ledger holds them, so that evidence was fresh rests on the image that admitted its node"

COPIED_ROWS_MAX: Final = 1_000_000  # of tables as they were, between two signatures; a service of a hundred rows writes some hundred

_WATCHED: Final = frozenset(
    (
        *(tables.NODE_INFO, tables.NITRO_ROOTS, tables.NITRO_MEASUREMENTS, tables.CONFIGURATION, tables.SERVICE_INFO, COSE_SIGNATURES),
        *(tables.SNP_MEASUREMENTS, tables.SNP_HOST_DATA, tables.SNP_UVM_ENDORSEMENTS, tables.SNP_TCB_VERSIONS),
    )
)
_POLICY_TABLES: Final = _WATCHED - {tables.NODE_INFO, COSE_SIGNATURES}
_JUDGED: Final = ("quote_info", "public_key", "encryption_pub_key", "code_digest")  # of a record; the rest, such as its status, changes


class NodeFinding(NamedTuple):
    """What was found of one node's recorded evidence.

    Attributes:
        node_id: Of the node.
        seqno: Entry that records the evidence.
        verdict: `VERIFIED`, `REFUSED` or `UNCHECKED`.
        reason: Why not verified; empty if it is.
        checked: What was checked, and held.
        format: Of the evidence, or None if there is none.
        at_ms: As of when, milliseconds since 1970; None where the ledger says no time.
        code_digest: What the node ran, hex: PCR0, or the guest's measurement.
        machine: Where it ran, for people.
        root: Hex SHA-256 of the DER of the root below which it was attested.
        simulated: That root is neither AWS's nor AMD's.
    """

    node_id: str
    seqno: int
    verdict: str
    reason: str
    checked: tuple[str, ...] = ()
    format: str | None = None
    at_ms: int | None = None
    code_digest: str | None = None
    machine: str | None = None
    root: str | None = None
    simulated: bool | None = None


class _Unchecked(Exception):
    """There is nothing that can be judged."""


class _Recorded(NamedTuple):
    """A node's record, and what stood in the ledger beside it."""

    node_id: str
    seqno: int
    record: Mapping[str, Any]
    begins: bool  # the entry begins the service, so the node did not join
    state: Mapping[str, Mapping[bytes, bytes]]


class NodeAudit:
    """Takes a ledger entry by entry, in order, and finds out what its nodes' evidence proves.

    Args:
        roots: Accepted roots of Nitro documents, in place of those in the ledger.
        measurements: Accepted images, in place of those in the ledger.
    """

    def __init__(self, roots: tuple[Root, ...] | None = None, measurements: frozenset[Measurement] | None = None) -> None:
        self._roots = roots
        self._measurements = measurements
        self._tables: dict[str, dict[bytes, bytes]] = {name: {} for name in _POLICY_TABLES}
        self._held: set[str] = set()  # tables that a record which waits has as they are
        self._copied = 0  # rows, since something waits
        self._seen: dict[bytes, list[Any]] = {}  # node id to what was judged, so that a later change of status is not judged again
        self._waiting: list[_Recorded] = []  # for a signature that says what time it is
        self._findings: list[NodeFinding] = []

    def feed(self, entry: PublicEntry) -> None:
        """Take the next entry, which an auditor has taken.

        Raises: FormatError: What nodes are judged by changes with their records so often that no service wrote it.
        """
        writes = entry.writes
        if not writes or _WATCHED.isdisjoint(writes):
            return
        for name in _POLICY_TABLES & writes.keys():
            if name in self._held:
                self._copy(name)
            table = self._tables[name]
            for key, value in writes[name].items():
                if value is None:
                    table.pop(key, None)
                else:
                    table[key] = value
        for node_id, data in (writes.get(tables.NODE_INFO) or {}).items():
            self._record(entry.seqno, node_id, data, begins=tables.CONFIGURATION in writes or entry.seqno == 1)
        if COSE_SIGNATURES in writes and self._waiting:
            at_ms = _signed_at_ms(writes)
            self._findings.extend(self._judge(recorded, at_ms) for recorded in self._waiting)
            self._waiting.clear()
            self._held.clear()
            self._copied = 0

    def findings(self) -> list[NodeFinding]:
        """What was found so far, in the order of the records; those after the last signature too, unchecked."""
        return [*self._findings, *(NodeFinding(item.node_id, item.seqno, UNCHECKED, UNSIGNED) for item in self._waiting)]

    def _record(self, seqno: int, node_id: bytes, data: bytes | None, *, begins: bool) -> None:
        try:
            record = {} if data is None else json.loads(data)
            judged = [record.get(name) for name in _JUDGED]
        except (ValueError, RecursionError, AttributeError):
            record, judged = {}, []
        if data is None or self._seen.get(node_id) == judged:
            return
        self._seen[node_id] = judged
        self._waiting.append(_Recorded(node_id.decode("ascii", "replace"), seqno, record, begins, dict(self._tables)))
        self._held.update(_POLICY_TABLES)

    def _copy(self, name: str) -> None:
        """Have a table that can be changed: what waits keeps the old one."""
        table = self._tables[name]
        self._copied += len(table)
        if self._copied > COPIED_ROWS_MAX:
            raise FormatError(
                f"between two signatures {len(self._waiting)} records of nodes were written, and the rules for them changed so often that "
                f"{self._copied} rows would have to be kept; no service does that"
            )
        self._tables[name] = dict(table)
        self._held.discard(name)

    def _judge(self, recorded: _Recorded, at_ms: int | None) -> NodeFinding:
        evidence = recorded.record.get("quote_info")
        kind = evidence.get("format") if isinstance(evidence, dict) else None
        finding = NodeFinding(recorded.node_id, recorded.seqno, UNCHECKED, "", format=kind if isinstance(kind, str) else None, at_ms=at_ms)
        try:
            if not isinstance(evidence, dict):
                raise _Unchecked("the ledger records no evidence")
            if kind not in (NITRO, SNP):
                raise _Unchecked(f"nobody here judges evidence of format {str(kind)[:64]!r}")
            if at_ms is None:
                raise _Unchecked("no signature after it says what time it was recorded")
            key = _node_key(recorded)
            checked, attestation = (self._nitro if kind == NITRO else self._snp)(recorded, evidence, key, at_ms)
        except _Unchecked as unchecked:
            return finding._replace(reason=str(unchecked))
        except (LedgerdError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = str(error) if isinstance(error, LedgerdError) else f"its record cannot be read: {type(error).__name__}"
            return finding._replace(verdict=REFUSED, reason=reason)
        if isinstance(attestation, Attestation):
            what, where = attestation.pcrs[0], attestation.module_id
        else:
            what, where = attestation.measurement, f"{attestation.product} {attestation.chip_id.hex()[:16]}"
        if recorded.record.get("code_digest") not in (None, what.hex()):
            return finding._replace(verdict=REFUSED, reason="its record names another code digest than its evidence")
        return finding._replace(
            verdict=VERIFIED,
            checked=checked,
            code_digest=what.hex(),
            machine=where,
            root=attestation.root,
            simulated=attestation.simulated,
        )

    def _nitro(self, recorded: _Recorded, evidence: Mapping[str, Any], key: bytes, at_ms: int) -> tuple[tuple[str, ...], Attestation]:
        state = recorded.state
        roots = self._roots
        if roots is None:
            roots = parse_roots(value.decode() for value in state[tables.NITRO_ROOTS].values())
        lines = self._measurements
        if lines is None:
            lines = frozenset(Measurement(*tables.parse_measurement_key(line)) for line in state[tables.NITRO_MEASUREMENTS])
        checked = [CHAIN, IMAGE, KEY]
        configuration = _configuration(state)
        user_data = None
        if configuration is not None:
            checked.append(CONFIGURATION)
            if not recorded.begins:
                user_data = binding_digest(configuration, _encryption_key(recorded), _program(recorded))
                checked.append(ENCRYPTION_KEY)
        attestation = policy.verify_recorded(
            base64.b64decode(evidence["quote"], validate=True),
            Policy(roots, lines),
            at_ms=at_ms,
            public_key=key,
            user_data=user_data,
            configuration=None if configuration is None else configuration_digest(configuration),
        )
        return tuple(checked), attestation

    def _snp(self, recorded: _Recorded, evidence: Mapping[str, Any], key: bytes, at_ms: int) -> tuple[tuple[str, ...], SnpAttestation]:
        state = recorded.state
        accepted = snp_policy.policy_of(
            measurements=state[tables.SNP_MEASUREMENTS],
            host_data=state[tables.SNP_HOST_DATA],
            uvm_endorsements=state[tables.SNP_UVM_ENDORSEMENTS].items(),
            tcb_versions=state[tables.SNP_TCB_VERSIONS].items(),
        )
        report, endorsements = (base64.b64decode(evidence[name], validate=True) for name in ("quote", "endorsements"))
        uvm = evidence.get("uvm_endorsements")
        attestation = snp.verify(report, endorsements, at_ms=at_ms)
        checked = [CHAIN, IMAGE, KEY]
        if accepted.least_tcb:  # services of CCF had no such table once
            snp_policy.check_tcb(attestation, accepted.least_tcb)
            checked.append(FIRMWARE)
        snp_policy.check_guest(attestation, None if uvm is None else base64.b64decode(uvm, validate=True), accepted)
        snp_policy.check_public_key(attestation, key)
        return tuple(checked), attestation


def _signed_at_ms(writes: WriteSet) -> int | None:
    """When the service signed, by its own attested clock; None where the signature does not say."""
    try:
        found = parse(writes)
        return None if found is None or found.cose is None else cose.read_root_header(cose.decode(found.cose)).issued_at * 1000
    except FormatError:
        return None


def _configuration(state: Mapping[str, Mapping[bytes, bytes]]) -> dict[str, Any] | None:
    """What all nodes run with, as the genesis records it, of the service's present identity; None in ledgers that do not."""
    recorded = state[tables.CONFIGURATION].get(tables.SINGLETON)
    if recorded is None:
        return None
    configuration: dict[str, Any] = json.loads(recorded)
    service = json.loads(state[tables.SERVICE_INFO][tables.SINGLETON])
    identity = key_der(public_key(load_certificate(service["cert"], "the service's certificate"), "the service's certificate"))
    return {**configuration, "service": sha256(identity).hexdigest()}


def _node_key(recorded: _Recorded) -> bytes:
    """DER of the node's key, which must be the one that its id names.

    Raises: AttestationError: Rule `public_key`. ValueError, KeyError, TypeError: The record is of another form.
    """
    key = _public_key(recorded.record["public_key"])
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError
    der = key_der(key)
    if sha256(der).hexdigest() != recorded.node_id:
        raise AttestationError(
            "public_key",
            f"a record of node {recorded.node_id[:16]}... with another key",
            "the key whose digest is the node's id",
            "do not trust this ledger: its nodes are not who they say",
        )
    return der


def _encryption_key(recorded: _Recorded) -> bytes:
    key = _public_key(recorded.record["encryption_pub_key"])
    if not isinstance(key, x25519.X25519PublicKey):
        raise ValueError
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def _program(recorded: _Recorded) -> str:
    program = recorded.record["program"]
    if type(program) is not str:
        raise ValueError
    return program


def _public_key(pem: str) -> PublicKeyTypes:
    try:
        return load_pem_public_key(pem.encode())
    except Exception:  # of bytes that anybody may have written; the library's list of what it raises is long and grows
        raise ValueError from None
