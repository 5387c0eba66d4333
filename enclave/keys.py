"""The node's, the service's and the ledger's secrets, and the certificates made with them.

Made in the enclave, never printed: no object here shows anything of a secret in `repr`. They leave in one way only, sealed to an
attested and trusted peer (`enclave.admission`).
Not here: sealing entries (`ledger.entry`), signing roots (`ledger.cose`, `ledger.signature`).
"""

import hashlib
import ipaddress
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)
from cryptography.x509.oid import NameOID
from nacl.public import PrivateKey

from ledgerd.enclave.entropy import random_bytes
from ledgerd.ledger.errors import ConfigurationError, FormatError, PeerError
from ledgerd.ledger.ids import NodeId

CERTIFICATE_VALIDITY_DAYS: Final = 365  # CCF's cap; renewal is by proposal
CLOCK_SLACK: Final = timedelta(hours=1)  # clients whose clock is behind still accept a new certificate
LEDGER_SECRET_SIZE_BYTES: Final = 32

CURVES: Final[Mapping[str, tuple[ec.EllipticCurve, hashes.SHA256 | hashes.SHA384]]] = {
    "secp256r1": (ec.SECP256R1(), hashes.SHA256()),
    "secp384r1": (ec.SECP384R1(), hashes.SHA384()),
}
"""What a service may choose for its own key and those of its nodes, and the hash with which such a key signs certificates."""


def spki(key: ec.EllipticCurvePublicKey) -> bytes:
    """DER SubjectPublicKeyInfo."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def node_id_of(public_key: bytes) -> NodeId:
    """Name of the node whose identity key has this DER SubjectPublicKeyInfo."""
    return NodeId(hashlib.sha256(public_key).hexdigest())


class NodeKeys:
    """A node's identity key, on the curve that its service chose, and encryption key (X25519). Both die with the enclave."""

    __slots__ = ("encryption", "encryption_public", "id", "identity", "public")

    def __init__(self, curve: str) -> None:
        """Args: curve: One of `CURVES`."""
        self.identity = ec.generate_private_key(CURVES[curve][0])
        self.public = spki(self.identity.public_key())
        self.id = node_id_of(self.public)
        self.encryption = PrivateKey.generate()
        self.encryption_public = bytes(self.encryption.public_key)

    def __repr__(self) -> str:
        return f"NodeKeys({self.id[:16]}...)"

    def certificate_request(self, names: tuple[str, ...]) -> x509.CertificateSigningRequest:
        """PKCS#10 request for a certificate over the identity key with `names` (DNS names or addresses)."""
        return (
            x509.CertificateSigningRequestBuilder()
            .subject_name(_name("ledgerd Node"))
            .add_extension(_alternative_names(names), critical=False)
            .sign(self.identity, _hash_of(self.identity))
        )

    def self_signed_certificate(self, names: tuple[str, ...], at: datetime) -> x509.Certificate:
        """Certificate over the identity key by itself; proves nothing but possession."""
        return _certificate(
            self.identity,
            self.identity.public_key(),
            _name("ledgerd Node"),
            _name("ledgerd Node"),
            at,
            ca=False,
            names=_alternative_names(names),
        )


class ServiceKeys:
    """The service's identity key, on the curve that it chose, and its self-signed certificate. Held by trusted nodes only."""

    __slots__ = ("certificate", "certificate_pem", "identity", "public")

    def __init__(self, identity: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self.identity = identity
        self.certificate = certificate
        self.certificate_pem = certificate.public_bytes(Encoding.PEM).decode()
        self.public = spki(identity.public_key())

    def __repr__(self) -> str:
        return f"ServiceKeys({hashlib.sha256(self.public).hexdigest()[:16]}...)"

    def endorse(self, request: x509.CertificateSigningRequest, at: datetime, days: int = CERTIFICATE_VALIDITY_DAYS) -> x509.Certificate:
        """Certificate over a node's identity key, signed by the service.

        Args:
            request: The node's request; its signature must have been checked.
            at: From when on it is valid: now, by the enclave's attested clock.
            days: For how long.
        """
        key = request.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey), "the caller has checked the key"
        try:
            names: x509.SubjectAlternativeName | None = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            names = None
        return _certificate(self.identity, key, request.subject, self.certificate.subject, at, ca=False, names=names, days=days)

    def renewed(self, at: datetime, days: int) -> x509.Certificate:
        """Another certificate of the service's key, by itself, valid from `at` for so many days."""
        name, key = self.certificate.subject, self.certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey), "it is the service's own"
        return _certificate(self.identity, key, name, name, at, ca=True, names=None, days=days)

    def stand_in(self) -> "ServiceKeys":
        """Keys whose certificates look like the service's and are signed by a key that nobody keeps: to show what would be, and no more."""
        return ServiceKeys(create_service_key(self.identity.curve.name), self.certificate)

    def private_bytes(self) -> bytes:
        """PKCS#8 DER of the private key, to be sealed to a trusted peer and nobody else."""
        return self.identity.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def create_service_key(curve: str) -> ec.EllipticCurvePrivateKey:
    """Make the key of a new service, on one of `CURVES`. Called once in the life of a service, by its first node."""
    return ec.generate_private_key(CURVES[curve][0])


def curve_of(certificate: x509.Certificate) -> str:
    """Name of the curve of a service's key, which is that of its nodes' keys, too.

    Raises: ConfigurationError: The key is on none of `CURVES`, so this is no service's certificate.
    """
    try:
        key = certificate.public_key()
    except Exception:  # the library's list of what it raises for strange keys is long
        key = None
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in CURVES:
        return key.curve.name
    raise ConfigurationError(f"the service certificate has no key on {' or '.join(CURVES)}; is it a service's?")


def create_service_keys(identity: ec.EllipticCurvePrivateKey, at: datetime, name: x509.Name) -> ServiceKeys:
    """Certify a new service's key, by itself, as `name`."""
    return ServiceKeys(identity, _certificate(identity, identity.public_key(), name, name, at, ca=True, names=None))


def receive_service_keys(private: bytes, certificate: x509.Certificate) -> ServiceKeys:
    """Rebuild the service identity from what a peer sealed to this node.

    Raises: PeerError: Key and certificate do not belong together.
    """
    try:
        identity = load_der_private_key(private, None)
    except ValueError:
        raise PeerError("the service key received does not parse; the node that sent it is not of our version") from None
    if not isinstance(identity, ec.EllipticCurvePrivateKey):
        raise PeerError("the service key received is not an elliptic-curve key")
    keys = ServiceKeys(identity, certificate)
    certified = certificate.public_key()
    if not isinstance(certified, ec.EllipticCurvePublicKey) or spki(certified) != keys.public:
        raise PeerError("the service key received is not the key of the service certificate")
    return keys


def create_ledger_secret() -> bytes:
    """32 unpredictable bytes: the AES-256 key of an epoch of the ledger."""
    return random_bytes(LEDGER_SECRET_SIZE_BYTES)


def parse_certificate(pem: str) -> x509.Certificate:
    """Read one PEM certificate.

    Raises: FormatError: It is not one, or its key cannot be read.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        certificate.public_key()  # parsed when asked for only
        return certificate
    except Exception:  # the library's list of what it raises for strange bytes is long
        raise FormatError("not a PEM certificate") from None


def _certificate(
    issuer_key: ec.EllipticCurvePrivateKey,
    key: ec.EllipticCurvePublicKey,
    subject: x509.Name,
    issuer: x509.Name,
    at: datetime,
    *,
    ca: bool,
    names: x509.SubjectAlternativeName | None,
    days: int = CERTIFICATE_VALIDITY_DAYS,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(int.from_bytes(random_bytes(16), "big") >> 1 | 1)
        .not_valid_before(at - CLOCK_SLACK)
        .not_valid_after(at + timedelta(days=days))
        # CCF's verifier walks X.509 paths: the service may endorse its predecessor, which endorses nodes, hence one level.
        .add_extension(x509.BasicConstraints(ca=ca, path_length=1 if ca else None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=ca,
                crl_sign=ca,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if names is not None:
        builder = builder.add_extension(names, critical=False)
    return builder.sign(issuer_key, _hash_of(issuer_key))


def _hash_of(key: ec.EllipticCurvePrivateKey) -> hashes.SHA256 | hashes.SHA384:
    return CURVES[key.curve.name][1]


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _alternative_names(names: tuple[str, ...]) -> x509.SubjectAlternativeName:
    general: list[x509.GeneralName] = []
    for name in names:
        try:
            general.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            general.append(x509.DNSName(name))
    return x509.SubjectAlternativeName(general)


def at_milliseconds(now_ms: int) -> datetime:
    """Attested wall-clock milliseconds as a datetime, whole seconds."""
    return datetime.fromtimestamp(now_ms // 1000, UTC)
