"""What a member says to its service: proposals, votes, acknowledgements, all signed with the member's own key.

The key is in a file on this machine (`Member`), or with somebody else who signs for it, such as an HSM (`Signatory`).
Not here: sending (`Client.submit`), the requests' form (`governance.requests`), what proposals ask for (`governance.actions`).
"""

import base64
import binascii
import json
import re
import time
from os import PathLike
from pathlib import Path
from typing import Any, Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import Hash
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ledgerd.governance import acks, actions, requests
from ledgerd.governance.actions import Action
from ledgerd.ledger import cose
from ledgerd.ledger.errors import ConfigurationError, FormatError
from ledgerd.network.client.values import Call

API_VERSION: Final = "2024-07-01"
_FILE_BYTES_MAX: Final = 1 << 20
_CURVES: Final = ("secp256r1", "secp384r1", "secp521r1")
_PATHS: Final = {
    requests.PROPOSAL: "members/proposals:create",
    requests.BALLOT: "members/proposals/{proposal}/ballots/{member}:submit",
    requests.WITHDRAWAL: "members/proposals/{proposal}:withdraw",
    requests.STATE_DIGEST: "members/state-digests/{member}:update",
    requests.ACK: "members/state-digests/{member}:ack",
    requests.RECOVERY_SHARE: "recovery/members/{member}:recover",
}
_is_id: Final = re.compile(r"[0-9A-Fa-f]{64}").fullmatch
# Under these names vaults give a signature: Azure's API, its command line, AWS KMS, and others.
_SIGNATURE_FIELDS: Final = ("value", "signature", "Signature", "result")


class Statement(NamedTuple):
    """What is to be signed. Attributes: kind: one of `requests.TYPES`. proposal_id: the proposal that it is about."""

    kind: str
    payload: bytes = b""
    proposal_id: str | None = None


def proposal(text: bytes) -> Statement:
    """Propose: `text` is the proposal's JSON, signed as it is."""
    return Statement(requests.PROPOSAL, text)


def ballot(proposal_id: str, script: str) -> Statement:
    """Vote, by a script that exports `vote(rawProposal, proposerId)`."""
    return Statement(requests.BALLOT, _compact({"ballot": script}), proposal_id)


def withdrawal(proposal_id: str) -> Statement:
    """Withdraw one's own proposal."""
    return Statement(requests.WITHDRAWAL, b"", proposal_id)


def state_digest() -> Statement:
    """Ask for the digest of the service's present state, which `acknowledgement` signs."""
    return Statement(requests.STATE_DIGEST)


def acknowledgement(digest: str) -> Statement:
    """Say that one has seen the state of this digest, and takes part."""
    return Statement(requests.ACK, _compact({acks.STATE_DIGEST: digest}))


class Prepared(NamedTuple):
    """A request that lacks its signature.

    Attributes:
        request: The request; `Signatory.finish` puts the signature in.
        to_be_signed: The bytes over which the signature must be.
        hash_name: How they are hashed, such as "sha384".
        digest: Their hash, for signers that want this.
        algorithm: What the signer is to do, in the names of JOSE and of vaults: ES256, ES384 or ES512.
    """

    request: bytes
    to_be_signed: bytes
    hash_name: str
    digest: bytes
    algorithm: str


class Signatory:
    """A member by its certificate, whose key is elsewhere."""

    def __init__(self, certificate: str | PathLike[str]) -> None:
        """Raises: ConfigurationError: The file cannot be read, or has no certificate of a key that members sign with."""
        self._certificate = _certificate(Path(certificate))
        key = self._certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
            raise ConfigurationError(f"{certificate} has no key on P-256, P-384 or P-521, with which members sign")
        self._public: ec.EllipticCurvePublicKey = key

    @property
    def id(self) -> str:
        """The member's name in the service: hex SHA-256 of the certificate."""
        return requests.member_id_of(self._certificate)

    def prepare(self, statement: Statement) -> Prepared:
        """What somebody else has to sign, as of now."""
        kind, payload, proposal_id = statement
        prepared = requests.prepare(self._certificate, kind, payload, created_at=int(time.time()), proposal_id=proposal_id)
        data = cose.to_be_signed(requests.read(prepared).message)
        algorithm = cose.hash_of(self._public)
        digest = Hash(algorithm)
        digest.update(data)
        return Prepared(prepared, data, algorithm.name, digest.finalize(), f"ES{algorithm.digest_size * 8}")

    def finish(self, prepared: bytes, signature: bytes) -> Call:
        """The signed request.

        Args: signature: As its signer gave it: in DER, or two numbers side by side; either in base64, too, or in a vault's JSON.
        Raises: FormatError: It is none of these, or nothing was prepared. IntegrityError: It is not this member's over this request.
        """
        return call_of(requests.finish(prepared, self._certificate, _raw(self._public, signature)))


class Member(Signatory):
    """A member's certificate and signing key, read from PEM files."""

    def __init__(self, certificate: str | PathLike[str], key: str | PathLike[str]) -> None:
        """Raises: ConfigurationError: A file cannot be read, is not what it should be, or the two do not belong together."""
        super().__init__(certificate)
        self._key = _key(Path(key))
        if self._public != self._key.public_key():
            raise ConfigurationError(f"{key} is not the key of the certificate {certificate}; give the two files of one member")

    def sign(self, statement: Statement) -> Call:
        """The request that says so, signed now.

        Sent twice with one idempotency key, as `Client.submit` does, it counts once; without, a proposal sent twice is refused as a replay.
        """
        kind, payload, proposal_id = statement
        signed = requests.sign(self._key, self._certificate, kind, payload, created_at=int(time.time()), proposal_id=proposal_id)
        return call_of(signed)

    def proposal(self, *wanted: Action) -> Call:
        """The request that proposes these actions."""
        return self.sign(proposal(actions.write(wanted)))


def call_of(envelope: bytes) -> Call:
    """The request that carries what a member has signed, with whatever tool; where it goes follows from its header.

    Raises: FormatError: It is no signed request, or one that no endpoint takes.
    """
    signed = requests.read(envelope)
    path = _PATHS.get(signed.kind)
    if path is None:
        raise FormatError(f"a request of type {signed.kind} goes to no endpoint; known are {', '.join(_PATHS)}")
    if "{proposal}" in path and _is_id(signed.proposal_id or "") is None:
        raise FormatError(f"a {signed.kind} names its proposal in {requests.HEADER_PROPOSAL_ID}, 64 hexadecimal digits; this one does not")
    path = path.format(proposal=signed.proposal_id, member=signed.member_id)
    return Call("POST", f"/gov/{path}?api-version={API_VERSION}", envelope, {"content-type": requests.CONTENT_TYPE})


def _raw(key: ec.EllipticCurvePublicKey, signature: bytes) -> bytes:
    """A signature as COSE has it, from any of the forms in which signers give it."""
    size = 2 * ((key.curve.key_size + 7) // 8)
    found = _signature_bytes(signature)
    for data in (found, _base64(found)):
        if data is None:
            continue
        if len(data) == size:
            return data
        try:
            return cose.raw_signature(key, data)
        except ValueError:
            pass
    raise FormatError(
        f"this is no ECDSA signature by a key on {key.curve.name}: expected DER, or two numbers side by side, {size} bytes; as they are, "
        f"in base64, or in JSON under one of {', '.join(_SIGNATURE_FIELDS)}"
    )


def _signature_bytes(signature: bytes) -> bytes:
    """Unpack a vault's JSON; what is none is taken as it is."""
    if not signature.lstrip().startswith(b"{"):
        return signature
    try:
        answer = json.loads(signature)
    except (ValueError, RecursionError):
        return signature
    texts = [answer[name] for name in _SIGNATURE_FIELDS if isinstance(answer, dict) and isinstance(answer.get(name), str)]
    return texts[0].encode(errors="replace") if texts else signature


def _base64(data: bytes) -> bytes | None:
    """Decode base64 of either alphabet, padded or not; None if it is none."""
    text = b"".join(data.split()).translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        return None


def _compact(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
    if len(data) > _FILE_BYTES_MAX:
        raise ConfigurationError(f"{path} has more than {_FILE_BYTES_MAX} bytes; it is no certificate and no key")
    return data


def _certificate(path: Path) -> x509.Certificate:
    data = _read(path)
    try:
        return x509.load_pem_x509_certificate(data)
    except Exception:  # the library's list of what it raises for malformed certificates is long
        raise ConfigurationError(f"{path} is not a certificate in PEM") from None


def _key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(_read(path), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigurationError(f"{path} is not a private key in PEM without a passphrase") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _CURVES:
        raise ConfigurationError(f"{path} is not a key on P-256, P-384 or P-521, with which members sign")
    return key
