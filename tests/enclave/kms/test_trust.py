"""Whether a server is KMS: chains in the form of public ones, right but for one thing."""

from datetime import datetime, timedelta
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ledgerd.enclave.kms.trust import parse_server_roots, server_check
from ledgerd.ledger.errors import ConfigurationError, IntegrityError
from support.kms import BEGIN, SERVER_NAME

DAY = timedelta(days=1)


class Signer(NamedTuple):
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)


def make(
    name: str,
    issuer: Signer | None,
    *,
    authority: bool,
    names: tuple[str, ...] = (),
    begins: datetime = BEGIN - DAY,
    days: int = 30,
    usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH,
) -> Signer:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer_name, issuer_key = (issuer.certificate.subject, issuer.key) if issuer else (subject, key)
    usages = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"), False
    )
    builder = (
        x509.CertificateBuilder(issuer_name, subject, key.public_key(), x509.random_serial_number(), begins, begins + days * DAY)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.KeyUsage(digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, **usages), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(item) for item in names]), critical=False)
    if not authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return Signer(key, builder.sign(issuer_key, hashes.SHA256()))


ROOT = make("root", None, authority=True, days=3000)
MIDDLE = make("middle", ROOT, authority=True, days=300)
NAMES = (SERVER_NAME,)


def judge(*chain: bytes, at: datetime = BEGIN) -> None:
    server_check((ROOT.certificate,), SERVER_NAME, lambda: at)(list(chain))


def test_a_right_chain_passes() -> None:
    leaf = make("leaf", MIDDLE, authority=False, names=NAMES)
    judge(leaf.der, MIDDLE.der)
    judge(leaf.der, MIDDLE.der, ROOT.der)
    judge(leaf.der, make("another", None, authority=True).der, MIDDLE.der)
    judge(make("leaf", ROOT, authority=False, names=NAMES).der)
    judge(make("leaf", ROOT, authority=False, names=("*.eu-central-1.amazonaws.com", "x.example.org", *NAMES)).der)


def wrong() -> dict[str, list[bytes]]:
    leaf = make("leaf", MIDDLE, authority=False, names=NAMES)
    other = make("root", None, authority=True)
    expired = make("middle", ROOT, authority=True, begins=BEGIN - 10 * DAY, days=9)
    no_authority = make("middle", ROOT, authority=False, names=NAMES)
    return {
        "nothing": [],
        "too many": [leaf.der, *[MIDDLE.der] * 8],
        "no certificate": [b"nonsense"],
        "nonsense behind it": [leaf.der, b"nonsense"],
        "another name": [make("leaf", MIDDLE, authority=False, names=("kms.eu-west-1.amazonaws.com",)).der, MIDDLE.der],
        "a name below": [make("leaf", MIDDLE, authority=False, names=(f"x.{SERVER_NAME}",)).der, MIDDLE.der],
        "a name in the subject only": [make(SERVER_NAME, MIDDLE, authority=False).der, MIDDLE.der],
        "run out": [make("leaf", MIDDLE, authority=False, names=NAMES, begins=BEGIN - 10 * DAY, days=9).der, MIDDLE.der],
        "not yet valid": [make("leaf", MIDDLE, authority=False, names=NAMES, begins=BEGIN + DAY).der, MIDDLE.der],
        "an authority that has run out": [make("leaf", expired, authority=False, names=NAMES).der, expired.der],
        "an authority that is none": [make("leaf", no_authority, authority=False, names=NAMES).der, no_authority.der],
        "an authority that is missing": [leaf.der],
        "a root of the same name": [make("leaf", other, authority=False, names=NAMES).der, other.der],
        "signed by itself": [make("leaf", None, authority=False, names=NAMES).der],
        "for clients": [make("leaf", MIDDLE, authority=False, names=NAMES, usage=ExtendedKeyUsageOID.CLIENT_AUTH).der, MIDDLE.der],
        "the authority in place of a server": [MIDDLE.der, ROOT.der],
    }


WRONG = wrong()


@pytest.mark.parametrize("which", WRONG)
def test_a_chain_that_is_wrong_in_one_thing_is_refused(which: str) -> None:
    with pytest.raises(IntegrityError, match=SERVER_NAME):
        judge(*WRONG[which])


def test_every_changed_byte_of_a_leaf_is_refused() -> None:
    made = make("leaf", ROOT, authority=False, names=NAMES)
    leaf = made.der
    # How many bits of the signature are called unused is not signed, and the library may ignore it; it changes nothing that counts.
    unused_bits = len(leaf) - len(made.certificate.signature) - 1
    for position in set(range(len(leaf))) - {unused_bits}:
        with pytest.raises(IntegrityError):
            judge(leaf[:position] + bytes((leaf[position] ^ 1,)) + leaf[position + 1 :])


def test_time_decides_and_it_is_the_one_that_is_given() -> None:
    leaf = make("leaf", ROOT, authority=False, names=NAMES).der
    judge(leaf, at=BEGIN + 28 * DAY)
    for at in (BEGIN - 2 * DAY, BEGIN + 30 * DAY):
        with pytest.raises(IntegrityError):
            judge(leaf, at=at)


@pytest.mark.parametrize("pems", [[], ["nonsense"], ["-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"], ["\udc80"]])
def test_roots_that_are_none_are_refused(pems: list[str]) -> None:
    with pytest.raises(ConfigurationError):
        parse_server_roots(pems)
