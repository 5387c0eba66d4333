"""Nitro attestation documents: what one says, and proof that it was made below an accepted root. No opinion beyond that.

`decode` reads form only and believes nothing; `verify` adds chain and signature. Whether an enclave is *wanted* (debug, measurement,
nonce, age) is `policy`. A document has no name of its own: (r, n-s) signs the same bytes as (r, s), so its hash identifies nothing.
Source: AWS, "Nitro Enclaves attestation process" (aws-nitro-enclaves-nsm-api), sections 2 and 3, hardened; docs/formats/attestation.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final, NamedTuple, NoReturn

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.x509.oid import SignatureAlgorithmOID

from ledgerd.ledger.attestation import items
from ledgerd.ledger.attestation.certificates import Loaded, load
from ledgerd.ledger.attestation.errors import AttestationError
from ledgerd.ledger.attestation.measurement import PCR_COUNT, PCR_SIZE_BYTES, ZERO
from ledgerd.ledger.attestation.roots import Root
from ledgerd.ledger.errors import FormatError

PAYLOAD_SIZE_BYTES_MAX: Final = 16_384  # AWS's own limit; 4.3 to 7.5 KB are seen
DOCUMENT_SIZE_BYTES_MAX: Final = PAYLOAD_SIZE_BYTES_MAX + 256  # protected header, signature and framing take about 110
CERTIFICATE_SIZE_BYTES_MAX: Final = 1_024  # AWS's own limit, of each
FIELD_SIZE_BYTES_MAX: Final = 1_024  # genuine documents fill all three optional fields up to here, though AWS's text says 512
BUNDLE_LENGTH_MAX: Final = 8  # AWS's has 4; bounds the signatures that hostile bytes can make us check
SIGNATURE_SIZE_BYTES: Final = 96  # r and s of P-384
MODULE_ID_LENGTH_MAX: Final = 128  # about 40 are seen
TIMESTAMP_MS_MAX: Final = 253_402_300_799_999  # end of year 9999, where certificates end too

_PROTECTED: Final = bytes.fromhex("a1013822")  # {1: -35}: algorithm ES384
_SIGN1_TAG: Final = 0xD2  # tag 18, allowed once; the documents that AWS makes have none
_REQUIRED: Final = frozenset({"module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle"})
_OPTIONAL: Final = frozenset({"public_key", "user_data", "nonce"})


class Document(NamedTuple):
    """What a document says; nothing in it is proven.

    Attributes:
        module_id: `<instance>-enc<hex>`.
        timestamp_ms: Milliseconds since 1970, by the hypervisor's clock.
        pcrs: Locked PCRs: index 0 to 31, to 48 bytes each.
        certificate: DER of the leaf, whose key signed.
        cabundle: DER of root, ..., issuer of the leaf.
        public_key, user_data, nonce: What the enclave asked to be attested, or None.
        payload: The bytes that are signed.
        signature: r and s, 48 bytes each.
    """

    module_id: str
    timestamp_ms: int
    pcrs: dict[int, bytes]
    certificate: bytes
    cabundle: tuple[bytes, ...]
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None
    payload: bytes
    signature: bytes


class Attestation(NamedTuple):
    """What a document proves: a key below `root` signed exactly this.

    Attributes:
        module_id: `<instance>-enc<hex>`.
        timestamp_ms: Milliseconds since 1970, by the hypervisor's clock.
        pcrs: Locked PCRs: index 0 to 31, to 48 bytes each.
        public_key, user_data, nonce: What the enclave asked to be attested, or None.
        debug: PCR0 or PCR1 is zero or absent, so its host can read its console, and nothing is known of its image.
        root: Hex SHA-256 of the root's DER.
        simulated: The root is not AWS's: there may be no enclave at all. Say so wherever you say "attested".
    """

    module_id: str
    timestamp_ms: int
    pcrs: dict[int, bytes]
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None
    debug: bool
    root: str
    simulated: bool


def decode(document: bytes) -> Document:
    """Read a document's form strictly. Believes nothing: use `verify`.

    Accepts COSE_Sign1 untagged or with one tag 18; definite or indefinite maps; optional fields null or absent. Ignores the
    unprotected header, which nobody signs. Refuses unknown keys, since what we do not know we cannot judge.

    Raises: AttestationError: Rules `size`, `form`, `algorithm`.
    """
    if not 0 < len(document) <= DOCUMENT_SIZE_BYTES_MAX:
        raise AttestationError(
            "size",
            f"a document of {len(document)} bytes",
            f"1 to {DOCUMENT_SIZE_BYTES_MAX} bytes",
            "send the bytes that the security module returned, without encoding them as text",
        )
    payload, signature = _decode_sign1(document)
    fields = _read(payload, "the payload")
    if type(fields) is not dict:
        _refuse_form("a payload that is no map", "a map")
    missing, unknown = _REQUIRED - fields.keys(), fields.keys() - _REQUIRED - _OPTIONAL
    if missing or unknown:
        shown = ", ".join(sorted(str(key)[:32] for key in missing)[:9]) or "none"
        _refuse_form(f"a payload with {len(unknown)} unknown keys and these missing: {shown}", "the nine keys of AWS's documents")
    module_id, timestamp_ms = fields["module_id"], fields["timestamp"]
    if (
        type(module_id) is not str
        or not 0 < len(module_id) <= MODULE_ID_LENGTH_MAX
        or not module_id.isascii()
        or not module_id.isprintable()
    ):
        _refuse_form("a module_id that is no short ASCII text", "<instance>-enc<hex>")
    if fields["digest"] != "SHA384":
        _refuse_form("another digest", "SHA384")
    if type(timestamp_ms) is not int or not 0 < timestamp_ms <= TIMESTAMP_MS_MAX:
        _refuse_form("a timestamp that is no count of milliseconds", "milliseconds since 1970")
    bundle = fields["cabundle"]
    if type(bundle) is not list or not 0 < len(bundle) <= BUNDLE_LENGTH_MAX:
        _refuse_form("a cabundle that is no short list", f"1 to {BUNDLE_LENGTH_MAX} certificates")
    for certificate in (*bundle, fields["certificate"]):
        if type(certificate) is not bytes or not 0 < len(certificate) <= CERTIFICATE_SIZE_BYTES_MAX:
            _refuse_form("a certificate that is no short byte string", f"1 to {CERTIFICATE_SIZE_BYTES_MAX} bytes")
    return Document(
        module_id,
        timestamp_ms,
        _checked_pcrs(fields["pcrs"]),
        fields["certificate"],
        tuple(bundle),
        _checked_field("public_key", fields.get("public_key"), 1),
        _checked_field("user_data", fields.get("user_data"), 0),
        _checked_field("nonce", fields.get("nonce"), 0),
        payload,
        signature,
    )


def verify(document: bytes, roots: Sequence[Root], *, at_ms: int | None) -> Attestation:
    """Prove that a document was made below one of `roots`. Not enough to admit anybody: see `policy`.

    Args:
        document: As the security module returned it.
        roots: Those that are accepted; see `roots.parse_roots`.
        at_ms: When every certificate must be valid, milliseconds since 1970; None for the document's own signed time.
    Raises: AttestationError: Rules `size` to `signature` of `errors.RULES`.
    """
    return verify_decoded(decode(document), roots, at_ms=at_ms)


def verify_decoded(said: Document, roots: Sequence[Root], *, at_ms: int | None) -> Attestation:
    """As `verify`, of a document that `decode` returned."""
    root, leaf = _verify_chain(said, roots, said.timestamp_ms if at_ms is None else at_ms)
    r, s = int.from_bytes(said.signature[:48], "big"), int.from_bytes(said.signature[48:], "big")
    try:
        leaf.verify(encode_dss_signature(r, s), signed_bytes(said.payload), _ES384)
    except InvalidSignature:
        raise AttestationError(
            "signature",
            f"a signature that does not fit the document of {said.module_id}",
            "a signature by the key of the document's own certificate",
            "the document was changed after it was made: get a new one",
        ) from None
    pcrs = said.pcrs
    debug = pcrs.get(0, ZERO) == ZERO or pcrs.get(1, ZERO) == ZERO
    return Attestation(
        said.module_id, said.timestamp_ms, pcrs, said.public_key, said.user_data, said.nonce, debug, root.fingerprint, root.simulated
    )


def signed_bytes(payload: bytes) -> bytes:
    """Return what the leaf's key signs for a payload: the Sig_structure of RFC 9052, 4.4, with ES384 and no external data."""
    return b"\x84\x6aSignature1\x44" + _PROTECTED + b"\x40" + _byte_string_head(len(payload)) + payload


_ES384: Final = ec.ECDSA(hashes.SHA384())


def _byte_string_head(length: int) -> bytes:
    if length < 24:
        return bytes((0x40 | length,))
    if length < 256:
        return bytes((0x58, length))
    return b"\x59" + length.to_bytes(2, "big")  # payloads are at most 16,384 bytes


def _decode_sign1(document: bytes) -> tuple[bytes, bytes]:
    """Return payload and signature of a COSE_Sign1 (RFC 9052, 4.2) with ES384 alone in its protected header."""
    sign1 = _read(document[1:] if document[0] == _SIGN1_TAG else document, "the document")
    if type(sign1) is not list or len(sign1) != 4:
        _refuse_form("no array of four", "a COSE_Sign1 message, untagged or with tag 18")
    protected, unprotected, payload, signature = sign1
    if type(protected) is not bytes or type(payload) is not bytes or type(signature) is not bytes:
        _refuse_form("a COSE_Sign1 whose protected header, payload or signature is no byte string", "byte strings")
    if protected != _PROTECTED:
        raise AttestationError(
            "algorithm",
            f"protected header {protected[:32].hex()}",
            "a1013822, ES384 alone",
            "AWS signs with ES384 only: trust nothing of this",
        )
    # Nobody signs it, so whatever stands there could have been added by anyone on the way: it makes a document neither better nor worse.
    if type(unprotected) is not dict:
        _refuse_form("an unprotected header that is no map", "a map; AWS's is empty")
    if not 0 < len(payload) <= PAYLOAD_SIZE_BYTES_MAX:
        raise AttestationError("size", f"a payload of {len(payload)} bytes", f"1 to {PAYLOAD_SIZE_BYTES_MAX} bytes", "get a new document")
    if len(signature) != SIGNATURE_SIZE_BYTES:
        _refuse_form(f"a signature of {len(signature)} bytes", f"{SIGNATURE_SIZE_BYTES} bytes")
    return payload, signature


def _read(data: bytes, what: str) -> Any:
    try:
        return items.read(data)
    except FormatError as error:
        _refuse_form(f"{what} does not decode: {error}", "one CBOR item of the platform's shape, and nothing after it")


def _refuse_form(seen: str, expected: str) -> NoReturn:
    raise AttestationError("form", seen, expected, "send the unchanged bytes that the security module returned")


def _checked_pcrs(pcrs: Any) -> dict[int, bytes]:
    if type(pcrs) is not dict or not 0 < len(pcrs) <= PCR_COUNT:
        _refuse_form("pcrs that are no map of 1 to 32", "1 to 32 PCRs")
    for index, value in pcrs.items():
        if type(index) is not int or not 0 <= index < PCR_COUNT or type(value) is not bytes or len(value) != PCR_SIZE_BYTES:
            _refuse_form(f"PCR {str(index)[:32]!r} with a wrong index or value", f"index 0 to 31 and {PCR_SIZE_BYTES} bytes")
    return pcrs


def _checked_field(name: str, value: Any, size_min: int) -> bytes | None:
    if value is None or (type(value) is bytes and size_min <= len(value) <= FIELD_SIZE_BYTES_MAX):
        return value
    _refuse_form(f"a {name} that is no short byte string", f"null or {size_min} to {FIELD_SIZE_BYTES_MAX} bytes")


@dataclass(frozen=True, slots=True, eq=False)
class _Certificate:
    """The parts of a certificate that judgement needs. Each equals only itself, so what was found below one is found again by it alone."""

    key: ec.EllipticCurvePublicKey
    is_authority: bool
    path_length: int | None
    may_sign_certificates: bool
    may_sign_data: bool
    loaded: Loaded


def _verify_chain(said: Document, roots: Sequence[Root], at_ms: int) -> tuple[Root, ec.EllipticCurvePublicKey]:
    """Walk from the accepted root down to the leaf; return the root, and the key of the leaf."""
    root = next((root for root in roots if root.certificate == said.cabundle[0]), None)
    if root is None:
        raise AttestationError(
            "root",
            f"a chain that begins at {sha256(said.cabundle[0]).hexdigest()} (SHA-256 of its DER)",
            " or ".join(f"{root.fingerprint}{' (simulated)' if root.simulated else ''}" for root in roots)
            or "a root, but none is accepted",
            "the enclave runs on another platform, or on a simulator: the members decide which roots are accepted",
        )
    chain = (root.certificate, *said.cabundle[1:], said.certificate)
    at_s = at_ms // 1000  # certificates count whole seconds, the last one included
    depth_leaf = len(chain) - 1
    issuer: _Certificate | None = None
    for depth, der in enumerate(chain):
        certificate = _issued(der, issuer)
        if not certificate.loaded.is_valid_at(at_s):
            raise AttestationError(
                "validity",
                f"certificate {depth} ({certificate.loaded.name}) is valid from {certificate.loaded.validity}",
                f"validity at {at_s} (seconds since 1970)",
                "get a new document; if a new one is refused too, compare both clocks",
            )
        below = depth_leaf - depth - 1  # certificate authorities between this certificate and the leaf
        if depth < depth_leaf:
            if not certificate.is_authority or not certificate.may_sign_certificates:
                _refuse_chain(f"certificate {depth} ({certificate.loaded.name}) may not issue certificates", "a certificate authority")
            if certificate.path_length is not None and certificate.path_length < below:
                _refuse_chain(
                    f"certificate {depth} ({certificate.loaded.name}) has path length {certificate.path_length}", f"at least {below}"
                )
        elif certificate.is_authority or certificate.may_sign_certificates or not certificate.may_sign_data:
            _refuse_chain(
                f"the leaf ({certificate.loaded.name}) is an authority or may not sign data", "a certificate that may only sign data"
            )
        issuer = certificate
    assert issuer is not None, "a chain has a root and a leaf"
    return root, issuer.key


# Pure: what it answers depends on these bytes alone, never on the time, the policy or who asks, and a refusal is not kept.
# Nodes of one region share most of their chains, and four of the five signature checks of a document with them.
@lru_cache(maxsize=64)
def _issued(der: bytes, issuer: _Certificate | None) -> _Certificate:
    """Read a certificate and check that `issuer` signed it; None for a root, which is believed because it is pinned.

    Raises: AttestationError: Rules `algorithm` and `chain`.
    """
    try:
        loaded = load(der)
        certificate, key = loaded.certificate, loaded.key
        extensions = certificate.extensions
        constraints = extensions.get_extension_for_class(x509.BasicConstraints)
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        is_p384 = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1)
        is_es384 = certificate.signature_algorithm_oid == SignatureAlgorithmOID.ECDSA_WITH_SHA384
    except Exception as error:  # of hostile bytes; the library does not state which of its many exceptions can come
        _refuse_chain(f"a certificate that cannot be read: {str(error)[:200]}", "X.509 version 3 with basic constraints and key usage")
    if not is_p384 or not is_es384:
        raise AttestationError(
            "algorithm",
            f"{loaded.name}: {certificate.signature_algorithm_oid.dotted_string}",
            "P-384 with ecdsa-with-SHA384",
            "AWS uses nothing else: trust nothing of this",
        )
    if not constraints.critical:
        _refuse_chain(f"{loaded.name}: basic constraints that are not critical", "critical ones")
    if issuer is not None:
        try:  # not the library's `verify_directly_issued_by`: it encodes anew what is signed, and reads the issuer's key each time
            if loaded.issuer != issuer.loaded.subject:
                raise InvalidSignature
            issuer.key.verify(certificate.signature, loaded.signed, _ES384)
        except InvalidSignature:
            _refuse_chain(f"{loaded.name}: not issued by {issuer.loaded.name}", "a name and a signature of the certificate before it")
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return _Certificate(
        key,
        constraints.value.ca,
        constraints.value.path_length,
        usage.key_cert_sign,
        usage.digital_signature,
        loaded,
    )


def _refuse_chain(seen: str, expected: str) -> NoReturn:
    raise AttestationError("chain", seen, expected, "the document's certificates are not those of a security module: get a new one")
