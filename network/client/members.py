"""What a member says to its service: proposals, acknowledgements, all signed with the member's own key, which never leaves this machine.

Not here: sending them (`Client.submit`), their form (`governance.requests`), what they ask for (`governance.actions`).
"""

import json
import time
from os import PathLike
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ledgerd.governance import acks, actions, requests
from ledgerd.governance.actions import Action
from ledgerd.ledger.errors import ConfigurationError
from ledgerd.network.client.values import Call

API_VERSION: Final = "2024-07-01"
_VERSION: Final = f"?api-version={API_VERSION}"
PROPOSALS_PATH: Final = f"/gov/members/proposals:create{_VERSION}"


class Member:
    """A member's certificate and signing key, read from PEM files."""

    def __init__(self, certificate: str | PathLike[str], key: str | PathLike[str]) -> None:
        """Raises: ConfigurationError: A file cannot be read, is not what it should be, or the two do not belong together."""
        self._certificate = _certificate(Path(certificate))
        self._key = _key(Path(key))
        if self._certificate.public_key() != self._key.public_key():
            raise ConfigurationError(f"{key} is not the key of the certificate {certificate}; give the two files of one member")

    @property
    def id(self) -> str:
        """The member's name in the service: hex SHA-256 of the certificate."""
        return requests.member_id_of(self._certificate)

    def proposal(self, *wanted: Action) -> Call:
        """The request that proposes these actions, signed now.

        Sent twice with one idempotency key, as `Client.submit` does, it counts once; without, the second one is refused as a replay.
        """
        return self._signed(requests.PROPOSAL, PROPOSALS_PATH, actions.write(wanted))

    def withdrawal(self, proposal_id: str) -> Call:
        """The request that withdraws one's own proposal."""
        path = f"/gov/members/proposals/{proposal_id}:withdraw{_VERSION}"
        return self._signed(requests.WITHDRAWAL, path, b"", proposal_id=proposal_id)

    def state_digest(self) -> Call:
        """The request for the digest of the service's present state, which `acknowledgement` signs."""
        return self._signed(requests.STATE_DIGEST, f"/gov/members/state-digests/{self.id}:update{_VERSION}", b"")

    def acknowledgement(self, digest: str) -> Call:
        """The request by which the member says that it has seen the state of this digest, and takes part."""
        payload = json.dumps({acks.STATE_DIGEST: digest}, separators=(",", ":")).encode()
        return self._signed(requests.ACK, f"/gov/members/state-digests/{self.id}:ack{_VERSION}", payload)

    def _signed(self, kind: str, path: str, payload: bytes, proposal_id: str | None = None) -> Call:
        body = requests.sign(self._key, self._certificate, kind, payload, created_at=int(time.time()), proposal_id=proposal_id)
        return Call("POST", path, body, {"content-type": requests.CONTENT_TYPE})


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None


def _certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(_read(path))
    except ValueError:
        raise ConfigurationError(f"{path} is not a certificate in PEM") from None


def _key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(_read(path), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigurationError(f"{path} is not a private key in PEM without a passphrase") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in ("secp256r1", "secp384r1", "secp521r1"):
        raise ConfigurationError(f"{path} is not a key on P-256, P-384 or P-521, with which members sign")
    return key
