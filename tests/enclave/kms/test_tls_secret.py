"""The TLS key for a public name: made inside, certified outside, sealed, opened, served with."""

import base64
from datetime import datetime, timedelta

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from ledgerd.enclave.kms import sealed, tls_secret
from ledgerd.enclave.kms.calls import parse_key_arn
from ledgerd.enclave.kms.sealed import Opened
from ledgerd.enclave.kms.tls_secret import TlsSecret
from ledgerd.enclave.tls import TlsContext
from ledgerd.ledger.errors import ConfigurationError, FormatError, IntegrityError
from support.kms import AUTHORITY, BEGIN, NAME, Rig, certify
from support.tls import MemoryClient

NOW = BEGIN
END = "-----END CERTIFICATE-----\n"

CERTIFICATE = x509.load_pem_x509_certificates(certify(AUTHORITY.public_key()).encode())[1].public_bytes(Encoding.DER)
VERSION_13 = CERTIFICATE.replace(bytes.fromhex("a003020102"), bytes.fromhex("a00302010d"), 1)


def pem(der: bytes) -> str:
    return f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(der).decode()}\n-----END CERTIFICATE-----\n"


def complete(secret: TlsSecret) -> TlsSecret:
    return secret.with_chain(certify(secret.key.public_key()), NAME, NOW)


def test_the_request_names_the_name_and_is_signed_by_the_key() -> None:
    secret = tls_secret.create()
    request = secret.request(NAME)
    assert request.is_signature_valid
    assert request.public_key() == secret.key.public_key()
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [NAME]


@pytest.mark.parametrize("curve", [ec.SECP256R1, ec.SECP384R1])
def test_it_survives_a_restart_of_the_same_image_and_serves(curve: type[ec.EllipticCurve]) -> None:
    rig = Rig()
    binding = sealed.bind(parse_key_arn(rig.key()), tls_secret.PURPOSE_PREFIX + NAME, b"service")
    secret = complete(tls_secret.create(curve))
    sealed.seal_by(rig.client.ask, binding, tls_secret.encode(secret), 1, rig.results.append)
    blob = rig.run(0)
    again = Rig(kms=rig.kms)
    sealed.open_by(again.client.ask, binding, blob, again.results.append)
    opened = again.run(0)
    assert isinstance(opened, Opened)
    found = tls_secret.decode(opened.secret)
    found.check(NAME, NOW)
    server = TlsContext.for_clients(found.chain, found.key).connection()
    client = MemoryClient()
    for _ in range(3):
        server.feed(client.take_output())
        client.receive(server.take_output())
    assert client.established
    assert client.connection.get_peer_certificate(as_cryptography=True) == secret.chain[0]


@pytest.mark.parametrize(
    ("names", "days", "at", "said"),
    [
        (("other.example.org",), 90, NOW, "not for ledger.example.org"),
        (("example.org", "*.org"), 90, NOW, "not for ledger.example.org"),
        ((NAME,), 90, NOW + timedelta(days=91), "valid from"),
        ((NAME,), 90, NOW - timedelta(days=2), "valid from"),
    ],
)
def test_a_chain_that_could_not_serve_is_refused(names: tuple[str, ...], days: int, at: datetime, said: str) -> None:
    secret = tls_secret.create()
    with pytest.raises(ConfigurationError, match=said):
        secret.with_chain(certify(secret.key.public_key(), names, days), NAME, at)


def test_another_key_s_certificate_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="of another key"):
        tls_secret.create().with_chain(certify(AUTHORITY.public_key()), NAME, NOW)


def test_a_wildcard_certificate_serves() -> None:
    secret = tls_secret.create()
    assert len(secret.with_chain(certify(secret.key.public_key(), ("*.example.org",)), "Ledger.Example.org", NOW).chain) == 2


def test_a_missing_chain_is_told() -> None:
    secret = tls_secret.create()
    with pytest.raises(IntegrityError, match="0 certificates"):
        secret.check(NAME, NOW)
    for chain in ("nonsense", pem(VERSION_13)):
        with pytest.raises(ConfigurationError, match="not PEM"):
            secret.with_chain(chain, NAME, NOW)
    with pytest.raises(ConfigurationError, match="10 certificates"):
        secret.with_chain(certify(secret.key.public_key()) * 5, NAME, NOW)


def test_certificates_that_are_no_chain_are_refused() -> None:
    secret = tls_secret.create()
    public = secret.key.public_key()
    leaf, root = x509.load_pem_x509_certificates(certify(public).encode())
    text = [certificate.public_bytes(Encoding.PEM).decode() for certificate in (leaf, root)]
    assert len(secret.with_chain(text[0], NAME, NOW).chain) == 1
    for wrong in (
        certify(public, authority=ec.generate_private_key(ec.SECP256R1())),  # of that name, with another key
        certify(public, is_authority=False),
        text[0] + text[0],
        text[0] + certify(AUTHORITY.public_key()),
    ):
        with pytest.raises(ConfigurationError, match=r"certificate 1 for .* is not issued by the one after it"):
            secret.with_chain(wrong, NAME, NOW)
    with pytest.raises(ConfigurationError, match=r"certificate 2 for .* is valid from"):
        secret.with_chain(text[0] + certify(public, days=0, begins=NOW).partition(END)[2], NAME, NOW)


@pytest.mark.parametrize(
    ("extension", "said"),
    [
        (x509.BasicConstraints(True, None), "is an authority's"),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), "is not for servers"),
    ],
)
def test_a_certificate_that_is_not_for_a_server_is_refused(extension: x509.ExtensionType, said: str) -> None:
    secret = tls_secret.create()
    with pytest.raises(ConfigurationError, match=said):
        secret.with_chain(certify(secret.key.public_key(), more=[extension]), NAME, NOW)
    right = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])
    secret.with_chain(certify(secret.key.public_key(), more=[right]), NAME, NOW)


def test_a_key_without_chain_can_be_sealed_until_the_authority_answers() -> None:
    secret = tls_secret.create()
    found = tls_secret.decode(tls_secret.encode(secret))
    assert found.chain == ()
    assert found.key.private_numbers() == secret.key.private_numbers()


def test_the_key_is_not_shown() -> None:
    secret = complete(tls_secret.create())
    assert repr(secret) == "TlsSecret(2 certificates)"


def private(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


P256 = bytes.fromhex("2a8648ce3d030107")  # the curve's name; with another last byte it is one that nobody knows


@pytest.mark.parametrize(
    "fields",
    [
        [],
        {},
        {"key": b"", "chain": []},
        {"key": b"nonsense", "chain": []},
        {"key": private(AUTHORITY), "chain": [b"nonsense"]},
        {"key": private(AUTHORITY), "chain": ["text"]},
        {"key": private(AUTHORITY), "chain": [VERSION_13]},
        {"key": private(AUTHORITY), "chain": [], "more": 1},
        {"key": private(ed25519.Ed25519PrivateKey.generate()), "chain": []},
        {"key": private(ec.generate_private_key(ec.SECP521R1())), "chain": []},
        {"key": private(AUTHORITY).replace(P256, P256[:-1] + b"\x1b"), "chain": []},
    ],
)
def test_what_is_no_tls_secret_is_refused(fields: object) -> None:
    with pytest.raises(FormatError):
        tls_secret.decode(cbor2.dumps(fields))


ENCODED = tls_secret.encode(complete(tls_secret.create()))


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_any_change_is_read_or_a_typed_refusal(data: st.DataObject) -> None:
    made = bytearray(ENCODED)
    start = data.draw(st.integers(0, len(made)))
    made[start : start + data.draw(st.integers(0, 20))] = data.draw(st.binary(max_size=20))
    try:
        found = tls_secret.decode(bytes(made))
        found.check(NAME, NOW)
    except (FormatError, IntegrityError):
        return
