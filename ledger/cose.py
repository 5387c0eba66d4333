"""COSE_Sign1, RFC 9052: strict decoding, and the ledger's signature over a Merkle root. Pure.

`sign_root` makes what CCF stores in `public:ccf.internal.cose_signatures`: tag 18, detached payload = the 32-byte root.
Each function is one call, fit for a worker thread: OpenSSL releases the GIL while it computes.
Not here: proofs in the unprotected header (`ledger.receipt`), who may sign what in governance.
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final, NamedTuple

from cbor2 import CBORTag
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ledgerd.ledger import cbor
from ledgerd.ledger.errors import FormatError, IntegrityError, UsageError
from ledgerd.ledger.ids import TransactionId, parse_transaction_id

TAG_SIGN1: Final = 18

HEADER_ALGORITHM: Final = 1
HEADER_CRITICAL: Final = 2
HEADER_KEY_ID: Final = 4
HEADER_CWT_CLAIMS: Final = 15
HEADER_VDS: Final = 395  # verifiable data structure, RFC 9942
HEADER_VDP: Final = 396  # and its proofs, in the unprotected header
HEADER_CCF: Final = "ccf.v1"
CWT_ISSUER: Final = 1
CWT_SUBJECT: Final = 2
CWT_ISSUED_AT: Final = 6
VDS_CCF_LEDGER_SHA256: Final = 2
ISSUED_AT_MAX: Final = 253_402_300_799  # the end of the year 9999, where calendars and certificates end, too

# Headers that a signer may call critical: those that somebody of ours looks at. Others say what nobody here would heed.
_UNDERSTOOD: Final = frozenset(
    (
        *(HEADER_ALGORITHM, HEADER_KEY_ID, HEADER_CWT_CLAIMS, HEADER_VDS, HEADER_CCF),
        *("ccf.gov.msg.type", "ccf.gov.msg.created_at", "ccf.gov.msg.proposal_id"),
    )
)

# algorithm number to curve, hash and the size in bytes of each of the two numbers of a signature (RFC 9053, section 2.1)
_ALGORITHMS: Final[dict[int, tuple[str, HashAlgorithm, int]]] = {
    -7: ("secp256r1", SHA256(), 32),
    -35: ("secp384r1", SHA384(), 48),
    -36: ("secp521r1", SHA512(), 66),
}
_ALGORITHM_OF_CURVE: Final = {curve: number for number, (curve, _, _) in _ALGORITHMS.items()}


class Sign1(NamedTuple):
    """One COSE_Sign1 as received; `protected_bytes` is what was signed, `protected` what it says. `payload` None: detached."""

    protected_bytes: bytes
    protected: Mapping[Any, Any]
    unprotected: Mapping[Any, Any]
    payload: bytes | None
    signature: bytes


class RootHeader(NamedTuple):
    """What a verified ledger signature says in its protected header. `issued_at` is in seconds since 1970, by the signer's clock."""

    transaction_id: TransactionId
    issuer: str
    subject: str
    issued_at: int


def decode(data: bytes, *, tagged: bool = True, indefinite: bool = False) -> Sign1:
    """Read a COSE_Sign1. Raises: FormatError. Nothing is verified.

    Args:
        tagged: Whether tag 18 must stand before it; otherwise it must not.
    """
    value = cbor.decode(data, indefinite=indefinite)
    if isinstance(value, CBORTag) is not tagged or (tagged and value.tag != TAG_SIGN1):
        raise FormatError(f"not a COSE_Sign1: tag {TAG_SIGN1} is {'missing' if tagged else 'not expected'}")
    parts = value.value if tagged else value
    if not isinstance(parts, (list, tuple)) or len(parts) != 4:
        raise FormatError("not a COSE_Sign1: expected an array of four")
    protected_bytes, unprotected, payload, signature = parts
    if (
        not isinstance(protected_bytes, bytes)
        or not isinstance(unprotected, Mapping)
        or not (payload is None or isinstance(payload, bytes))
        or not isinstance(signature, bytes)
    ):
        raise FormatError("not a COSE_Sign1: expected protected bytes, a map, a payload or nil, and a signature")
    protected = cbor.decode(protected_bytes, indefinite=indefinite) if protected_bytes else {}
    if not isinstance(protected, Mapping):
        raise FormatError("not a COSE_Sign1: its protected header is not a map")
    if any(type(label) not in (int, str) for label in (*protected, *unprotected)):
        # Python takes true and 1.0 for 1, the algorithm; others do not.
        raise FormatError("not a COSE_Sign1: a label in a header is neither an integer nor text")
    return Sign1(protected_bytes, protected, unprotected, payload, signature)


def encode(message: Sign1) -> bytes:
    """Write a COSE_Sign1 with tag 18, its protected header byte for byte."""
    return cbor.encode(CBORTag(TAG_SIGN1, [message.protected_bytes, dict(message.unprotected), message.payload, message.signature]))


def sign(key: ec.EllipticCurvePrivateKey, protected: Mapping[Any, Any], payload: bytes, *, detached: bool = False) -> bytes:
    """Sign a payload; the algorithm header is added by the key's curve.

    Raises: UsageError: The curve is none of P-256, P-384 and P-521.
    """
    public = key.public_key()
    algorithm = algorithm_of(public)
    header = cbor.encode({HEADER_ALGORITHM: algorithm, **protected})
    der = key.sign(_to_be_signed(header, payload), ec.ECDSA(_ALGORITHMS[algorithm][1]))
    return encode(Sign1(header, {}, {}, None if detached else payload, raw_signature(public, der)))


def prepare(key: ec.EllipticCurvePublicKey, protected: Mapping[Any, Any], payload: bytes) -> Sign1:
    """A message that lacks only its signature, which is empty: for keys that somebody else holds, who signs what `to_be_signed` gives.

    Raises: UsageError: The curve is none of P-256, P-384 and P-521.
    """
    header = {HEADER_ALGORITHM: algorithm_of(key), **protected}
    return Sign1(cbor.encode(header), header, {}, payload, b"")


def to_be_signed(message: Sign1) -> bytes:
    """The bytes that the signature of an attached message is over: the Sig_structure of RFC 9052, section 4.4."""
    if message.payload is None:
        raise UsageError("what is signed has its payload in it; this message's is detached")
    return _to_be_signed(message.protected_bytes, message.payload)


def hash_of(key: ec.EllipticCurvePublicKey) -> HashAlgorithm:
    """The hash that goes with a key's curve, over which ECDSA signs."""
    return _ALGORITHMS[algorithm_of(key)][1]


def raw_signature(key: ec.EllipticCurvePublicKey, der: bytes) -> bytes:
    """An ECDSA signature in DER, as the two numbers side by side that COSE has.

    Raises: ValueError: It is no DER, or its numbers are too large for the key's curve.
    """
    size = _ALGORITHMS[algorithm_of(key)][2]
    r, s = decode_dss_signature(der)
    try:
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")
    except OverflowError:
        raise ValueError(f"a signature on {key.curve.name} has two numbers of {size} bytes at most") from None


def verify(message: Sign1, key: ec.EllipticCurvePublicKey, payload: bytes | None = None) -> bytes:
    """Verify a message and return its payload.

    Args:
        payload: For a detached message the bytes that were signed; for an attached one None.
    Raises:
        IntegrityError: The signature does not verify, names another algorithm than the key's, or asks for what nobody here understands.
        UsageError: A payload was given for an attached message, or none for a detached one.
    """
    if (message.payload is None) is (payload is None):
        raise UsageError("give the payload of a detached message, and only of a detached one")
    signed = message.payload if payload is None else payload
    assert signed is not None
    algorithm = message.protected.get(HEADER_ALGORITHM)
    if type(algorithm) is not int or algorithm not in _ALGORITHMS or _ALGORITHMS[algorithm][0] != key.curve.name:
        raise IntegrityError(f"COSE signature by algorithm {algorithm!r}, but the key is on {key.curve.name}")
    if HEADER_CRITICAL in message.protected:
        _check_critical(message.protected)
    _, hash_algorithm, size = _ALGORITHMS[algorithm]
    if len(message.signature) != 2 * size:
        raise IntegrityError(f"COSE signature of {len(message.signature)} bytes; {key.curve.name} gives {2 * size}")
    r, s = int.from_bytes(message.signature[:size], "big"), int.from_bytes(message.signature[size:], "big")
    try:
        key.verify(encode_dss_signature(r, s), _to_be_signed(message.protected_bytes, signed), ec.ECDSA(hash_algorithm))
    except InvalidSignature:
        raise IntegrityError("the COSE signature does not verify by the expected key; stop trusting the source") from None
    return signed


def _check_critical(protected: Mapping[Any, Any]) -> None:
    """RFC 9052, section 3.1: who does not understand a header that is called critical refuses the message. Raises: IntegrityError."""
    labels = protected[HEADER_CRITICAL]
    if type(labels) is not list or not labels or any(type(label) not in (int, str) for label in labels):
        raise IntegrityError("the COSE header crit (2) is no list of labels")
    for label in labels:
        if label not in _UNDERSTOOD or label not in protected:
            raise IntegrityError(f"the COSE header crit (2) asks that header {label!r:.64} be understood, which nobody here does")


def algorithm_of(key: ec.EllipticCurvePublicKey) -> int:
    """Return the COSE algorithm number that belongs to a key's curve."""
    number = _ALGORITHM_OF_CURVE.get(key.curve.name)
    if number is None:
        raise UsageError(f"no COSE algorithm for keys on {key.curve.name}; use P-256 or P-384")
    return number


def key_id(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return the key id that CCF writes: 64 ASCII hex digits, the SHA-256 of the DER SubjectPublicKeyInfo."""
    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest().encode()


def sign_root(
    key: ec.EllipticCurvePrivateKey,
    root: bytes,
    view: int,
    seqno: int,
    issuer: str,
    subject: str,
    issued_at: int,
    own_key_id: bytes | None = None,
) -> bytes:
    """Sign a Merkle root with the service key for the signature entry `view.seqno`.

    Args:
        root: 32 bytes, over leaves 0 to seqno - 1.
        issuer, subject: CWT claims; CCF's defaults are `service.example.com` and `ledger.signature`.
        issued_at: Seconds since 1970.
        own_key_id: `key_id` of the key, for who signs often; computed if not given.
    Returns: The encoded COSE_Sign1 with detached payload, 210 to 300 bytes.
    """
    if len(root) != 32:
        raise UsageError(f"a root has 32 bytes, not {len(root)}")
    protected = {
        HEADER_KEY_ID: own_key_id or key_id(key.public_key()),
        HEADER_VDS: VDS_CCF_LEDGER_SHA256,
        HEADER_CWT_CLAIMS: {CWT_ISSUER: issuer, CWT_SUBJECT: subject, CWT_ISSUED_AT: issued_at},
        HEADER_CCF: {"txid": f"{view}.{seqno}"},
    }
    return sign(key, protected, root, detached=True)


def verify_root(data: bytes | Sign1, key: ec.EllipticCurvePublicKey, root: bytes) -> RootHeader:
    """Verify a service's signature over a root, and return what it says of itself.

    Raises:
        IntegrityError: It does not verify, or is by another key.
        FormatError: It is not a ledger signature of CCF's profile (RFC 9942, vds 2).
    """
    message = data if isinstance(data, Sign1) else decode(data)
    header = read_root_header(message)
    if message.protected[HEADER_KEY_ID] != key_id(key):
        raise IntegrityError(
            f"signature of {header.transaction_id} is by key {message.protected[HEADER_KEY_ID][:16].decode('ascii', 'replace')}..., "
            f"the service's is {key_id(key)[:16].decode()}...; is this the certificate of that service?"
        )
    if message.payload is not None:
        raise FormatError(f"signature of {header.transaction_id} carries a payload; a ledger signature's is detached")
    verify(message, key, root)
    return header


def read_root_header(message: Sign1) -> RootHeader:
    """Read the protected header of a ledger signature, unverified. Raises: FormatError."""
    protected = message.protected
    claims = protected.get(HEADER_CWT_CLAIMS)
    ccf = protected.get(HEADER_CCF)
    kid = protected.get(HEADER_KEY_ID)
    vds = protected.get(HEADER_VDS)
    if type(vds) is not int or vds != VDS_CCF_LEDGER_SHA256:
        raise FormatError(f"protected header 395 is {vds!r}, expected 2: CCF's ledger profile")
    if not isinstance(kid, bytes) or not isinstance(claims, Mapping) or not isinstance(ccf, Mapping):
        raise FormatError("a ledger signature's protected header names its key (4), its claims (15) and its transaction (ccf.v1)")
    issuer, subject, issued_at = claims.get(CWT_ISSUER), claims.get(CWT_SUBJECT), claims.get(CWT_ISSUED_AT)
    txid = ccf.get("txid")
    if not isinstance(issuer, str) or not isinstance(subject, str) or type(issued_at) is not int or not isinstance(txid, str):
        raise FormatError("a ledger signature's claims are issuer (1), subject (2), time (6) and ccf.v1 txid")
    if not 0 <= issued_at <= ISSUED_AT_MAX:
        raise FormatError(f"a ledger signature's time (6) is {issued_at}, which is in no year from 1970 to 9999")
    return RootHeader(parse_transaction_id(txid), issuer, subject, issued_at)


def _to_be_signed(protected: bytes, payload: bytes) -> bytes:
    return cbor.encode(["Signature1", protected, b"", payload])
