"""Certificates of a simulated security module: root, regional, zonal, instance, leaf, in the shapes that AWS's have.

Subjects, lifetimes, extensions and their order follow genuine documents, except that every name says `simulated`.
A chain renews its parts as they run out, and keeps its leaf for the leaf's three hours, as the hypervisor does.
Not here: what is signed with the leaf (`node.simulator.nsm`).
"""

import secrets
import threading
import uuid
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from ledgerd.ledger.errors import ConfigurationError

PARTITION: Final = "simulated"
REGION: Final = "local"

ROOT_LIFETIME: Final = timedelta(days=30 * 365 + 8, hours=1)
REGIONAL_LIFETIME: Final = timedelta(days=20, hours=1)
ZONAL_LIFETIME: Final = timedelta(days=5, hours=15)
INSTANCE_LIFETIME: Final = timedelta(days=1)
LEAF_LIFETIME: Final = timedelta(hours=3, seconds=3)
BACKDATED: Final = timedelta(minutes=1)  # authorities are older than their first document, and clocks of one machine may step back
LEAF_BACKDATED: Final = timedelta(seconds=3)

_ORGANISATION: Final = "ledgerd"
_UNIT: Final = "SIMULATED"


class Signer(NamedTuple):
    """A key and the certificate that names it."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        """The certificate as documents carry it."""
        return _der(self.certificate)


@lru_cache(maxsize=64)
def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


class SimulatedRoot(NamedTuple):
    """The anchor of one simulated platform; all nodes of a development service share it.

    Attributes:
        certificate_pem: What a service's genesis lists among its roots.
        key_pem: Unencrypted PKCS#8; whoever holds it can forge every document of this platform.
    """

    certificate_pem: str
    key_pem: bytes

    @lru_cache(maxsize=4)  # noqa: B019  of a platform's few roots, each asked for by each of its nodes
    def signer(self) -> Signer:
        """Parse both. Raises: ConfigurationError: They are no root of a simulator, or do not belong together."""
        try:
            certificate = x509.load_pem_x509_certificate(self.certificate_pem.encode())
            key = load_pem_private_key(self.key_pem, None)
        except (ValueError, TypeError):
            raise ConfigurationError(
                "the simulator's root is not a PEM certificate and a PEM key; remove both files to make new ones"
            ) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise ConfigurationError("the simulator's root certificate and key do not belong together; remove both files to make new ones")
        return Signer(key, certificate)


def make_root(now: datetime | None = None) -> SimulatedRoot:
    """Make the root of a new simulated platform, valid for 30 years from `now` (aware; default: this machine's clock)."""
    begin = (now or datetime.now(UTC)).replace(microsecond=0) - BACKDATED
    key = ec.generate_private_key(ec.SECP384R1())
    subject = _name(_SHORT, f"{PARTITION}.nitro-enclaves")
    certificate = (
        _begin(subject, subject, key, begin, begin + ROOT_LIFETIME, secrets.randbits(128))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_AUTHORITY_USAGE, critical=True)
        .sign(key, hashes.SHA384())
    )
    return SimulatedRoot(
        certificate.public_bytes(Encoding.PEM).decode(), key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )


class Chain:
    """The certificates of one simulated enclave, from root to leaf; each made when first needed and again when it has run out.

    Safe to use from several threads.
    """

    def __init__(self, root: SimulatedRoot, instance_id: str, enclave_id: str) -> None:
        self._root = root.signer()
        self._instance_id = instance_id
        self._enclave_id = enclave_id
        self._lock = threading.Lock()
        self._authorities: list[Signer] = []
        self._leaf: Signer | None = None

    def leaf(self, now: datetime) -> tuple[Signer, list[bytes]]:
        """Return what signs at `now` (aware), and the bundle: DER of root, regional, zonal, instance."""
        with self._lock:
            begin = now.replace(microsecond=0)
            # A chain is made anew from its first expired part down, since what follows is signed by that part's key.
            for depth, make in enumerate((self._make_regional, self._make_zonal, self._make_instance)):
                if depth < len(self._authorities) and not _is_valid(self._authorities[depth], now):
                    del self._authorities[depth:]
                if depth == len(self._authorities):
                    self._authorities.append(make(begin - BACKDATED))
                    self._leaf = None
            if self._leaf is None or not _is_valid(self._leaf, now):
                self._leaf = self._make_leaf(begin - LEAF_BACKDATED)
            return self._leaf, [self._root.der, *(signer.der for signer in self._authorities)]

    def _make_regional(self, begin: datetime) -> Signer:
        name = _name(_SHORT, f"{secrets.token_hex(8)}.{REGION}.{PARTITION}.nitro-enclaves")
        return _make_crl_authority(self._root, name, begin, REGIONAL_LIFETIME, path_length=2)

    def _make_zonal(self, begin: datetime) -> Signer:
        name = _name(_ZONAL, f"{secrets.token_hex(8)}.zonal.{REGION}.{PARTITION}.nitro-enclaves")
        return _make_crl_authority(self._authorities[0], name, begin, ZONAL_LIFETIME, path_length=1)

    def _make_instance(self, begin: datetime) -> Signer:
        issuer = self._authorities[1]
        key = ec.generate_private_key(ec.SECP384R1())
        name = _name(_LONG, f"{self._instance_id}.{REGION}.{PARTITION}.nitro-enclaves")
        certificate = (
            _begin(name, issuer.certificate.subject, key, begin, begin + INSTANCE_LIFETIME, secrets.randbits(159))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(key_usage(key_cert_sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(_authority_identifier(issuer), critical=False)
            .sign(issuer.key, hashes.SHA384())
        )
        return Signer(key, certificate)

    def _make_leaf(self, begin: datetime) -> Signer:
        issuer = self._authorities[2]
        key = ec.generate_private_key(ec.SECP384R1())
        name = _name(_LONG, f"{self._instance_id}-{self._enclave_id}.{REGION}.{PARTITION}")
        # AWS's serial is the enclave's number followed by 64 bits more.
        serial = int(self._enclave_id.removeprefix("enc"), 16) << 64 | int(begin.timestamp())
        certificate = (
            _begin(name, issuer.certificate.subject, key, begin, begin + LEAF_LIFETIME, serial)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(digital_signature=True, content_commitment=True), critical=False)
            .sign(issuer.key, hashes.SHA384())
        )
        return Signer(key, certificate)


def _make_crl_authority(issuer: Signer, name: x509.Name, begin: datetime, lifetime: timedelta, *, path_length: int) -> Signer:
    key = ec.generate_private_key(ec.SECP384R1())
    place = x509.UniformResourceIdentifier(f"http://crl.{PARTITION}.invalid/crl/{uuid.uuid4()}.crl")
    certificate = (
        _begin(name, issuer.certificate.subject, key, begin, begin + lifetime, secrets.randbits(128))
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_authority_identifier(issuer), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_AUTHORITY_USAGE, critical=True)
        .add_extension(x509.CRLDistributionPoints([x509.DistributionPoint([place], None, None, None)]), critical=False)
        .sign(issuer.key, hashes.SHA384())
    )
    return Signer(key, certificate)


def _begin(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, begin: datetime, end: datetime, serial: int
) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(issuer, subject, key.public_key(), max(serial, 1), begin, end)


def _is_valid(signer: Signer, now: datetime) -> bool:
    return signer.certificate.not_valid_before_utc <= now < signer.certificate.not_valid_after_utc


def _authority_identifier(issuer: Signer) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())


def key_usage(
    *, digital_signature: bool = False, content_commitment: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    """Key usages: those that are named, and no others."""
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=content_commitment,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


_AUTHORITY_USAGE: Final = key_usage(digital_signature=True, key_cert_sign=True, crl_sign=True)

# AWS's three kinds of subjects: attributes and their order.
_SHORT: Final = ((NameOID.COUNTRY_NAME, "US"), (NameOID.ORGANIZATION_NAME, _ORGANISATION), (NameOID.ORGANIZATIONAL_UNIT_NAME, _UNIT), None)
_ZONAL: Final = (
    None,
    (NameOID.ORGANIZATIONAL_UNIT_NAME, _UNIT),
    (NameOID.ORGANIZATION_NAME, _ORGANISATION),
    (NameOID.COUNTRY_NAME, "US"),
    (NameOID.STATE_OR_PROVINCE_NAME, "WA"),
    (NameOID.LOCALITY_NAME, "Seattle"),
)
_LONG: Final = (
    (NameOID.COUNTRY_NAME, "US"),
    (NameOID.STATE_OR_PROVINCE_NAME, "Washington"),
    (NameOID.LOCALITY_NAME, "Seattle"),
    (NameOID.ORGANIZATION_NAME, _ORGANISATION),
    (NameOID.ORGANIZATIONAL_UNIT_NAME, _UNIT),
    None,
)


def _name(shape: tuple[tuple[x509.ObjectIdentifier, str] | None, ...], common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(*(part or (NameOID.COMMON_NAME, common_name))) for part in shape])
