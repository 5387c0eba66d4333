"""What members say to their service: COSE_Sign1 envelopes with CCF's header, made by whoever has the key, read and verified by the enclave.

Pure. The form is CCF's (documentation of governance requests): tag 18, attached payload, and in the protected header the algorithm, the
member's id as key id, `ccf.gov.msg.type` and `ccf.gov.msg.created_at`, and for what concerns a proposal `ccf.gov.msg.proposal_id`.
Not here: who is a member and may do what (`enclave.auth`), what a proposal does (`governance.actions`), COSE itself (`ledger.cose`).
"""

import json
from hashlib import sha256
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ledgerd.ledger import cose
from ledgerd.ledger.errors import FormatError, IntegrityError, UsageError
from ledgerd.ledger.signature import unique

HEADER_TYPE: Final = "ccf.gov.msg.type"
HEADER_CREATED_AT: Final = "ccf.gov.msg.created_at"
HEADER_PROPOSAL_ID: Final = "ccf.gov.msg.proposal_id"
CONTENT_TYPE: Final = "application/cose"

PROPOSAL: Final = "proposal"
BALLOT: Final = "ballot"
WITHDRAWAL: Final = "withdrawal"
ACK: Final = "ack"
STATE_DIGEST: Final = "state_digest"
RECOVERY_SHARE: Final = "recovery_share"
TYPES: Final = frozenset({PROPOSAL, BALLOT, WITHDRAWAL, ACK, STATE_DIGEST, RECOVERY_SHARE, "encrypted_recovery_share"})

CREATED_AT_MAX: Final = 9_999_999_999  # seconds since 1970: ten digits, so that keys of the replay window sort as times


class SignedRequest(NamedTuple):
    """One request as received; nothing is believed of it before `verify`.

    Attributes:
        kind: What it is, one of `TYPES`.
        member_id: Whose it claims to be: hex SHA-256 of the certificate in DER.
        created_at: By the signer's clock, seconds since 1970.
        proposal_id: The proposal that it is about, or None.
        payload: What was signed.
        envelope: All of its bytes, to be kept for auditors.
        message: The same, taken apart.
    """

    kind: str
    member_id: str
    created_at: int
    proposal_id: str | None
    payload: bytes
    envelope: bytes
    message: cose.Sign1

    @property
    def digest(self) -> bytes:
        """SHA-256 of the signature: with the root that the service has reached it makes the proposal's id."""
        return sha256(self.message.signature).digest()

    @property
    def replay_key(self) -> str:
        """Names this request in the window of recent ones: its time, and a digest that no stranger can change.

        Of a signature (r, s) anybody can make a second valid one, (r, n - s). Digested whole, as CCF does it, a replay could so be passed
        off as something new; r alone is as good a name, since whoever signs twice draws it anew.
        """
        signature = self.message.signature
        return f"{self.created_at:010d}:{sha256(signature[: len(signature) // 2]).hexdigest()}"


def member_id_of(certificate: x509.Certificate) -> str:
    """Name of the member with this certificate."""
    return sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def sign(
    key: ec.EllipticCurvePrivateKey,
    certificate: x509.Certificate,
    kind: str,
    payload: bytes,
    *,
    created_at: int,
    proposal_id: str | None = None,
) -> bytes:
    """Make a request.

    Args:
        key: The member's signing key, on P-256, P-384 or P-521.
        created_at: Now, seconds since 1970.
    Raises: UsageError: The kind is unknown, the time has more than ten digits, or the key does not belong to the certificate.
    """
    header = _header(certificate, kind, created_at, proposal_id)
    if key.public_key() != certificate.public_key():
        raise UsageError("the signing key is not that of the certificate")
    return cose.sign(key, header, payload)


def prepare(certificate: x509.Certificate, kind: str, payload: bytes, *, created_at: int, proposal_id: str | None = None) -> bytes:
    """Make a request that lacks only its signature: for a key that somebody else holds, who signs what `cose.to_be_signed` gives.

    Raises: UsageError: As `sign`, or the certificate's key is on no curve that members sign with.
    """
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise UsageError("the certificate's key is not on an elliptic curve; requests are signed with ECDSA")
    return cose.encode(cose.prepare(key, _header(certificate, kind, created_at, proposal_id), payload))


def finish(prepared: bytes, certificate: x509.Certificate, signature: bytes) -> bytes:
    """Put the signature into a request that `prepare` made.

    Args: signature: The two numbers side by side, each as long as the curve's, as COSE has them.
    Raises:
        FormatError: What was prepared is no request.
        IntegrityError: The signature is not the certificate's over this request.
    """
    request = read(prepared)
    message = request.message._replace(signature=signature)
    envelope = cose.encode(message)
    verify(request._replace(message=message, envelope=envelope), certificate)
    return envelope


def _header(certificate: x509.Certificate, kind: str, created_at: int, proposal_id: str | None) -> dict[int | str, int | str | bytes]:
    if kind not in TYPES or not 0 <= created_at <= CREATED_AT_MAX:
        raise UsageError(f"no request of type {kind!r} at {created_at}")
    header: dict[int | str, int | str | bytes] = {
        cose.HEADER_KEY_ID: member_id_of(certificate).encode(),
        HEADER_TYPE: kind,
        HEADER_CREATED_AT: created_at,
    }
    if proposal_id is not None:
        header[HEADER_PROPOSAL_ID] = proposal_id
    return header


def read(envelope: bytes) -> SignedRequest:
    """Take a request apart. Raises: FormatError: It is none; the message says what is missing."""
    message = cose.decode(envelope, indefinite=True)
    header = message.protected
    key_id, kind = header.get(cose.HEADER_KEY_ID), header.get(HEADER_TYPE)
    created_at, proposal_id = header.get(HEADER_CREATED_AT), header.get(HEADER_PROPOSAL_ID)
    if message.payload is None:
        raise FormatError("a governance request carries its payload; this one's is detached")
    if not isinstance(key_id, bytes) or len(key_id) != 64 or not key_id.isalnum():
        raise FormatError("the protected header has no key id (4) of 64 hexadecimal digits: the member's id")
    if not isinstance(kind, str) or kind not in TYPES:
        raise FormatError(f"the protected header has no {HEADER_TYPE} that is known")
    if type(created_at) is not int or created_at < 0:
        raise FormatError(f"the protected header has no {HEADER_CREATED_AT} in seconds since 1970")
    if proposal_id is not None and not isinstance(proposal_id, str):
        raise FormatError(f"{HEADER_PROPOSAL_ID} in the protected header is not text")
    return SignedRequest(kind, key_id.decode(), created_at, proposal_id, message.payload, envelope, message)


def verify(request: SignedRequest, certificate: x509.Certificate) -> None:
    """Verify a request against the certificate of the member that it claims to be from.

    Raises: IntegrityError: It is not from there.
    """
    if request.member_id != member_id_of(certificate):
        raise IntegrityError(f"the request is from member {request.member_id[:16]}..., the certificate is another's")
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise IntegrityError(f"member {request.member_id[:16]}... has no key on an elliptic curve; requests are signed with ECDSA")
    cose.verify(request.message, key)


def field_of(payload: bytes, name: str) -> str:
    """Read one text out of the JSON object that a member has signed. Other fields are the member's own business.

    Raises: FormatError: It is no JSON object in UTF-8, names a field twice, or has no such field of well-formed text.
    """
    try:
        root = json.loads(payload.decode(), object_pairs_hook=unique)
        value = root.get(name) if type(root) is dict else None
        if type(value) is str:
            value.encode()  # a lone surrogate would be read here and could not be written
            return value
    except (ValueError, RecursionError, FormatError):
        pass
    raise FormatError(f'the signed payload is no JSON object with the text "{name}"')
