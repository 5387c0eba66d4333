"""Receipts: proof that one entry is committed, verifiable offline. Pure.

Two forms, both CCF's: JSON (a path to a root that a node signed, and the node's certificate) and COSE (RFC 9942, CCF's profile:
the service's own signature over the root with the path in its unprotected header). Verification returns what was proved or raises.
No clock is asked: a receipt is evidence of what was committed, long after the certificates in it have expired.
Not here: the tree (`ledger.merkle`), whether the service deserves trust (`ledger.attestation`).
"""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ledgerd.ledger import cbor, cose
from ledgerd.ledger.entry import leaf_digest
from ledgerd.ledger.errors import FormatError, IntegrityError
from ledgerd.ledger.ids import TransactionId, parse_transaction_id
from ledgerd.ledger.merkle import PATH_LENGTH_MAX, Path, check_position, root_from_path
from ledgerd.ledger.signature import RawSignature, decode_base64, decode_digest, unique, verify_raw

PROOF_INCLUSION: Final = -1  # RFC 9942: kind of proof in header 396
PROOF_LEAF: Final = 1
PROOF_PATH: Final = 2

EVIDENCE_LENGTH_MAX: Final = 1024  # CCF's CDDL
ENDORSEMENTS_MAX: Final = 64  # one for each recovery of a service
JSON_SIZE_BYTES_MAX: Final = 1 << 20
COSE_SIZE_BYTES_MAX: Final = 1 << 16

_JSON_FIELDS: Final = frozenset(
    ("cert", "node_id", "signature", "leaf_components", "proof", "service_endorsements", "is_signature_transaction")
)
_COMPONENTS: Final = frozenset(("write_set_digest", "commit_evidence", "claims_digest"))
_HEX: Final = frozenset("0123456789abcdef")


class Leaf(NamedTuple):
    """What a receipt reveals of its entry: digests of 32 bytes, and the evidence that says which entry it is."""

    write_set_digest: bytes
    commit_evidence: str
    claims_digest: bytes


class VerifiedReceipt(NamedTuple):
    """What a receipt proved: this entry, with these claims, is committed by the service whose key verified it.

    `signed_by`: hex id of the node (JSON) or of the service's key (COSE). `signed_at`: seconds since 1970 by the signer's clock, COSE only.
    """

    transaction_id: TransactionId
    claims_digest: bytes
    write_set_digest: bytes
    root: bytes
    signed_by: str
    signature_id: TransactionId | None
    signed_at: int | None


def build_json(raw: RawSignature, leaf: Leaf, path: Path, endorsements: Sequence[str] = ()) -> dict[str, Any]:
    """Return the JSON receipt of an entry as a value for `json.dumps`.

    Args:
        raw: The raw signature of a signature entry after it.
        leaf: The entry's components; the claims digest may be dropped by who shows the claims themselves.
        path: The entry's path to `raw.root`.
        endorsements: PEM certificates from the service that endorsed the node to the present one, where there were recoveries.
    """
    receipt: dict[str, Any] = {
        "cert": raw.certificate,
        "is_signature_transaction": False,
        "leaf_components": {
            "claims_digest": leaf.claims_digest.hex(),
            "commit_evidence": leaf.commit_evidence,
            "write_set_digest": leaf.write_set_digest.hex(),
        },
        "node_id": raw.node_id,
        "proof": [{"left" if left else "right": digest.hex()} for left, digest in path],
        "signature": base64.b64encode(raw.signature).decode(),
    }
    if endorsements:
        receipt["service_endorsements"] = list(endorsements)
    return receipt


def build_signature_json(raw: RawSignature) -> dict[str, Any]:
    """Return the JSON receipt of a signature transaction itself, as CCF gives it: its leaf is the root that it signs."""
    return {
        "cert": raw.certificate,
        "is_signature_transaction": True,
        "leaf": raw.root.hex(),
        "node_id": raw.node_id,
        "proof": [],
        "signature": base64.b64encode(raw.signature).decode(),
    }


def build_cose(signature: bytes, leaf: Leaf, path: Path) -> bytes:
    """Return the COSE receipt of an entry: the service's signature (from a signature entry after it) with the entry's path."""
    message = cose.decode(signature)
    proof = cbor.encode(
        {
            PROOF_LEAF: [leaf.write_set_digest, leaf.commit_evidence, leaf.claims_digest],
            PROOF_PATH: [[left, digest] for left, digest in path],
        }
    )
    return cose.encode(message._replace(unprotected={cose.HEADER_VDP: {PROOF_INCLUSION: [proof]}}))


def verify_json(
    receipt: Mapping[str, Any] | str | bytes,
    service_certificate: str | bytes,
    *,
    expected: TransactionId | None = None,
    claims_digest: bytes | None = None,
) -> VerifiedReceipt:
    """Verify a JSON receipt against the service's certificate.

    Args:
        receipt: The receipt, decoded or as text.
        service_certificate: PEM; the one trust anchor.
        expected: The transaction that it must be of, where the caller knows.
        claims_digest: The 32 bytes that the claims give, where the caller knows; needed if the receipt leaves them out.
    Raises:
        IntegrityError: Something in it does not match; the message says what.
        FormatError: It is not a receipt, or it is that of a signature entry, which proves no transaction.
    """
    fields = _read_json(receipt)
    components = fields["leaf_components"]
    claims = _claims(components.get("claims_digest"), claims_digest)
    leaf = Leaf(decode_digest(components["write_set_digest"], "write set digest"), components["commit_evidence"], claims)
    transaction_id = _read_evidence(leaf.commit_evidence, expected)
    path = [_read_step(step) for step in fields["proof"]]
    check_position(transaction_id.seqno, path)
    root = root_from_path(leaf_digest(*leaf), path)

    certificate = load_certificate(fields["cert"], "the node's certificate")
    key = public_key(certificate, "the node's certificate")
    node_id = cose.key_id(key).decode()
    if node_id != fields["node_id"]:
        raise IntegrityError(
            f"receipt of {transaction_id}: node_id is {fields['node_id'][:16]}..., its certificate is of {node_id[:16]}..."
        )
    endorsements = [load_certificate(pem, "a service endorsement") for pem in fields.get("service_endorsements", ())]
    check_chain(certificate, [*endorsements, load_certificate(service_certificate, "the service's certificate")])
    try:
        verify_raw(key, root, decode_base64(fields["signature"], "signature"))
    except IntegrityError:
        raise IntegrityError(
            f"receipt of {transaction_id}: its path leads to root {root.hex()[:16]}..., which node {node_id[:16]}... did not sign; "
            "fetch it from another node, and keep this one as evidence"
        ) from None
    return VerifiedReceipt(transaction_id, claims, leaf.write_set_digest, root, node_id, None, None)


def verify_cose(
    receipt: bytes,
    service_key: ec.EllipticCurvePublicKey,
    claims_digest: bytes | None = None,
    *,
    expected: TransactionId | None = None,
) -> VerifiedReceipt:
    """Verify a COSE receipt against the service's public key.

    Args:
        claims_digest: The 32 bytes that the claims give; None accepts the ones in the receipt and returns them.
        expected: The transaction that it must be of, where the caller knows.
    Raises:
        IntegrityError: Something in it does not match; the message says what.
        FormatError: It is not a receipt of CCF's profile with exactly one inclusion proof.
    """
    if len(receipt) > COSE_SIZE_BYTES_MAX:
        raise FormatError(f"a COSE receipt of {len(receipt)} bytes; the limit is {COSE_SIZE_BYTES_MAX}")
    message = cose.decode(receipt)
    leaf, path = _read_proof(message)
    claims = leaf.claims_digest if claims_digest is None else claims_digest
    if claims != leaf.claims_digest:
        raise IntegrityError(f"the receipt is of claims {leaf.claims_digest.hex()[:16]}..., expected {claims.hex()[:16]}...")
    transaction_id = _read_evidence(leaf.commit_evidence, expected)
    signed_id = cose.read_root_header(message).transaction_id
    check_position(transaction_id.seqno, path, signed_id.seqno)
    if transaction_id.view > signed_id.view:
        raise IntegrityError(f"{transaction_id} cannot stand before the signature {signed_id}: views only rise")
    root = root_from_path(leaf_digest(*leaf), path)
    header = cose.verify_root(message, service_key, root)
    signed_by = cose.key_id(service_key).decode()
    return VerifiedReceipt(transaction_id, claims, leaf.write_set_digest, root, signed_by, header.transaction_id, header.issued_at)


def load_certificate(pem: str | bytes, what: str = "the certificate") -> x509.Certificate:
    """Read exactly one PEM certificate, with all that is asked of it later. Raises: FormatError."""
    reason = "expected one block BEGIN CERTIFICATE"
    try:
        data = pem.encode() if isinstance(pem, str) else pem  # a text from JSON may hold half a character
        if data.count(b"-----BEGIN") == 1:
            certificate = x509.load_pem_x509_certificate(data)
            certificate.public_key()
            _ = certificate.extensions, certificate.signature_hash_algorithm
            return certificate
    except Exception as error:  # the library has a dozen exceptions for bad DER, without a common root
        reason = str(error)[:100]
    raise FormatError(f"{what} is not one PEM certificate: {reason}")


def public_key(certificate: x509.Certificate, what: str = "the certificate") -> ec.EllipticCurvePublicKey:
    """Return the elliptic-curve key of a certificate. Raises: FormatError: It has another kind of key."""
    key = certificate.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)):
        return key
    raise FormatError(f"{what} has no key on P-256, P-384 or P-521")


def check_chain(certificate: x509.Certificate, issuers: Sequence[x509.Certificate]) -> None:
    """Check that each issuer is an authority and signed the certificate before it, from the node's to the service's.

    Validity periods are not judged: what a receipt or a ledger proves does not expire with a certificate.
    Raises: IntegrityError.
    """
    if len(issuers) > ENDORSEMENTS_MAX:
        raise IntegrityError(f"a chain of {len(issuers)} certificates; the limit is {ENDORSEMENTS_MAX}")
    for issuer in issuers:
        if not _is_authority(issuer):
            raise IntegrityError(f"certificate {fingerprint(issuer)[:16]}... endorses another but is no authority (no CA flag)")
        algorithm = certificate.signature_hash_algorithm
        if not isinstance(algorithm, (SHA256, SHA384, SHA512)):
            raise IntegrityError(f"certificate {fingerprint(certificate)[:16]}... is not signed with SHA-2")
        try:
            public_key(issuer).verify(certificate.signature, certificate.tbs_certificate_bytes, ec.ECDSA(algorithm))
        except InvalidSignature:
            raise IntegrityError(
                f"certificate {fingerprint(certificate)[:16]}... is not endorsed by {fingerprint(issuer)[:16]}...; "
                "is this the certificate of that service?"
            ) from None
        certificate = issuer


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the hex SHA-256 of a certificate's DER."""
    return certificate.fingerprint(SHA256()).hex()


def key_der(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return a key's DER SubjectPublicKeyInfo."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _read_json(receipt: Mapping[str, Any] | str | bytes) -> Mapping[str, Any]:
    value: Any = receipt
    if isinstance(receipt, (str, bytes)):
        if len(receipt) > JSON_SIZE_BYTES_MAX:
            raise FormatError(f"a receipt of {len(receipt)} bytes; the limit is {JSON_SIZE_BYTES_MAX}")
        try:
            value = json.loads(receipt, object_pairs_hook=unique)
        except (ValueError, RecursionError):
            raise FormatError("the receipt is not JSON") from None
    if not isinstance(value, Mapping):
        raise FormatError("a receipt is a JSON object")
    if "leaf" in value or value.get("is_signature_transaction", False) is not False:
        raise FormatError("this receipt is of a signature entry: it shows that a root was signed, but proves no transaction")
    if unknown := set(value) - _JSON_FIELDS:
        raise FormatError(f"a receipt has no field {min(map(str, unknown))[:64]!r}")
    components = value.get("leaf_components")
    if not isinstance(components, Mapping) or set(components) - _COMPONENTS:
        raise FormatError("a receipt's leaf_components are write_set_digest, commit_evidence and claims_digest")
    for holder, name in ((value, "cert"), (value, "node_id"), (value, "signature"), (components, "write_set_digest")):
        if not isinstance(holder.get(name), str):
            raise FormatError(f"the receipt has no {name}")
    if not isinstance(components.get("commit_evidence"), str):
        raise FormatError("the receipt has no commit_evidence, so nothing says which transaction it is of")
    proof, endorsements = value.get("proof"), value.get("service_endorsements", [])
    if not isinstance(proof, Sequence) or isinstance(proof, str) or len(proof) > PATH_LENGTH_MAX:
        raise FormatError(f"a receipt's proof is a list of at most {PATH_LENGTH_MAX} steps")
    if not isinstance(endorsements, Sequence) or not all(isinstance(pem, str) for pem in endorsements) or isinstance(endorsements, str):
        raise FormatError("a receipt's service_endorsements are a list of PEM certificates")
    return value


def _read_step(step: Any) -> tuple[bool, bytes]:
    if isinstance(step, Mapping) and len(step) == 1:
        for side, digest in step.items():
            if side in ("left", "right"):
                return side == "left", decode_digest(digest, "digest in the proof")
    raise FormatError('a step of a proof is {"left": hex} or {"right": hex}')


def _claims(stated: Any, known: bytes | None) -> bytes:
    if stated is None:
        if known is None:
            raise FormatError("the receipt leaves its claims digest out: recompute it from the claims and give it")
        return known
    claims = decode_digest(stated, "claims digest")
    if known is not None and claims != known:
        raise IntegrityError(f"the receipt is of claims {claims.hex()[:16]}..., expected {known.hex()[:16]}...")
    return claims


def _read_evidence(evidence: str, expected: TransactionId | None) -> TransactionId:
    prefix, _, rest = evidence.partition(":")
    name, _, secret = rest.partition(":")
    if prefix != "ce" or len(secret) != 64 or not _HEX.issuperset(secret) or len(evidence) > EVIDENCE_LENGTH_MAX:
        raise FormatError("commit evidence is ce:VIEW.SEQNO:HEX, with 64 digits of lower-case hex")
    transaction_id = parse_transaction_id(name)
    if expected is not None and transaction_id != expected:
        raise IntegrityError(f"the receipt is of transaction {transaction_id}, expected {expected}")
    return transaction_id


def _read_proof(message: cose.Sign1) -> tuple[Leaf, Path]:
    proofs = message.unprotected.get(cose.HEADER_VDP)
    inclusion = proofs.get(PROOF_INCLUSION) if isinstance(proofs, Mapping) else None
    if set(message.unprotected) != {cose.HEADER_VDP} or not isinstance(inclusion, (list, tuple)) or len(inclusion) != 1:
        raise FormatError("a COSE receipt carries one inclusion proof in its unprotected header (396, -1), and nothing else")
    assert isinstance(proofs, Mapping)
    if not _is_map_of(proofs, {PROOF_INCLUSION}) or not isinstance(inclusion[0], bytes):
        raise FormatError("a COSE receipt carries one inclusion proof, encoded as a byte string")
    proof = cbor.decode(inclusion[0])
    if not isinstance(proof, Mapping) or not _is_map_of(proof, {PROOF_LEAF, PROOF_PATH}):
        raise FormatError("an inclusion proof is a map of leaf (1) and path (2)")
    leaf, path = proof[PROOF_LEAF], proof[PROOF_PATH]
    if (
        not isinstance(leaf, (list, tuple))
        or len(leaf) != 3
        or not _is_digest(leaf[0])
        or not isinstance(leaf[1], str)
        or not _is_digest(leaf[2])
    ):
        raise FormatError("a proof's leaf is a write set digest, commit evidence and a claims digest")
    if not isinstance(path, (list, tuple)) or len(path) > PATH_LENGTH_MAX:
        raise FormatError(f"a proof's path has at most {PATH_LENGTH_MAX} steps")
    steps: Path = []
    for step in path:
        if not isinstance(step, (list, tuple)) or len(step) != 2 or type(step[0]) is not bool or not _is_digest(step[1]):
            raise FormatError("a step of a proof's path is [left, digest]")
        steps.append((step[0], step[1]))
    return Leaf(leaf[0], leaf[1], leaf[2]), steps


def _is_map_of(value: Mapping[Any, Any], labels: set[int]) -> bool:
    return set(value) == labels and all(type(label) is int for label in value)  # Python takes true and 1.0 for 1; others do not


def _is_digest(value: Any) -> bool:
    return isinstance(value, bytes) and len(value) == 32
