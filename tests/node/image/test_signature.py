"""The signature section: what AWS's form is, that only the right key over the right PCR0 verifies, and what is refused."""

from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils
from hypothesis import given
from hypothesis import strategies as st

from ledgerd.ledger.errors import ConfigurationError, IntegrityError
from ledgerd.node.image import signature
from ledgerd.node.image.errors import EifError
from support.images import certify_signer, make_signer

PCR0 = bytes(range(48))


CERTIFICATE, KEY = make_signer(ec.SECP384R1())
OTHER = make_signer(ec.SECP384R1())
SECTION = signature.sign(PCR0, CERTIFICATE, KEY)


def rebuilt(**changes: Any) -> bytes:
    """The section with parts of its message or map replaced."""
    entry = cbor2.loads(SECTION)[0]
    message = cbor2.loads(bytes(entry["signature"]))
    parts = dict(zip(("protected", "unprotected", "payload", "signed"), message, strict=True))
    for name in parts.keys() & changes.keys():
        parts[name] = changes.pop(name)
    return cbor2.dumps([{**entry, "signature": list(cbor2.dumps(list(parts.values()))), **changes}])


def test_it_is_what_aws_writes_by_another_reader() -> None:
    """Byte strings are arrays of numbers; the message is an untagged COSE_Sign1, ES384, over {register_index, register_value}."""
    (entry,) = cbor2.loads(SECTION)
    assert list(entry) == ["signing_certificate", "signature"]
    assert bytes(entry["signing_certificate"]) == CERTIFICATE
    protected, unprotected, payload, signed = cbor2.loads(bytes(entry["signature"]))
    assert (protected, unprotected, len(signed)) == (bytes.fromhex("a1013822"), {}, 96)
    assert cbor2.loads(payload) == {"register_index": 0, "register_value": list(PCR0)}
    assert list(cbor2.loads(payload)) == ["register_index", "register_value"]
    key = x509.load_pem_x509_certificate(CERTIFICATE).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    structure = cbor2.dumps(["Signature1", protected, b"", payload])
    der = utils.encode_dss_signature(int.from_bytes(signed[:48], "big"), int.from_bytes(signed[48:], "big"))
    key.verify(der, structure, ec.ECDSA(hashes.SHA384()))


def test_signing_twice_gives_the_same_bytes() -> None:
    assert signature.sign(PCR0, CERTIFICATE, KEY) == SECTION


def test_it_verifies_for_its_image_only() -> None:
    found = signature.read(SECTION)
    signature.verify(found, PCR0)
    assert found.certificate_der == signature.certificate_der(CERTIFICATE)
    with pytest.raises(IntegrityError, match="not this image's PCR0"):
        signature.verify(found, bytes(48))


def test_another_certificate_does_not_verify() -> None:
    with pytest.raises(IntegrityError, match="did not make"):
        signature.verify(signature.read(rebuilt(signing_certificate=list(OTHER[0]))), PCR0)
    smaller = make_signer(ec.SECP256R1())
    with pytest.raises(IntegrityError, match="curve of ES384"):
        signature.verify(signature.read(rebuilt(signing_certificate=list(smaller[0]))), PCR0)


@pytest.mark.parametrize(
    ("curve", "header", "digest", "half"),
    [(ec.SECP256R1(), "a10126", hashes.SHA256(), 32), (ec.SECP521R1(), "a1013823", hashes.SHA512(), 66)],
)
def test_signatures_of_aws_s_other_algorithms_are_read(
    curve: ec.EllipticCurve, header: str, digest: hashes.HashAlgorithm, half: int
) -> None:
    certificate, pem = make_signer(curve)
    key = serialization.load_pem_private_key(pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    payload = cbor2.dumps({"register_index": 0, "register_value": list(PCR0)})
    der = key.sign(cbor2.dumps(["Signature1", bytes.fromhex(header), b"", payload]), ec.ECDSA(digest))
    signed = b"".join(number.to_bytes(half, "big") for number in utils.decode_dss_signature(der))
    message = cbor2.dumps([bytes.fromhex(header), {}, payload, signed])
    section = cbor2.dumps([{"signing_certificate": list(certificate), "signature": list(message)}])
    found = signature.read(section)
    signature.verify(found, PCR0)
    changed = bytearray(found.signature)
    changed[-1] ^= 1
    with pytest.raises(IntegrityError):
        signature.verify(found._replace(signature=bytes(changed)), PCR0)


def test_every_changed_bit_of_the_signature_is_refused() -> None:
    good = signature.read(SECTION)
    for at in range(96):
        changed = bytearray(good.signature)
        changed[at] ^= 1
        with pytest.raises(IntegrityError):
            signature.verify(good._replace(signature=bytes(changed)), PCR0)


@pytest.mark.parametrize(
    "section",
    [
        b"",
        b"\x80",
        cbor2.dumps([1]),
        cbor2.dumps({}),
        SECTION + b"\0",
        SECTION[:-1],
        cbor2.dumps([*cbor2.loads(SECTION), *cbor2.loads(SECTION)]),
        rebuilt(more=1),
        rebuilt(signing_certificate=CERTIFICATE),  # a byte string
        rebuilt(signing_certificate=[256]),
        rebuilt(signing_certificate=[True]),
        rebuilt(signing_certificate=[-1]),
        rebuilt(signing_certificate=list(b"nonsense")),
        rebuilt(signature=list(b"")),
        rebuilt(signature=bytes(96)),
        rebuilt(signed=list(bytes(96))),
        rebuilt(protected=bytes.fromhex("a10126")),  # ES256, whose signatures are shorter
        rebuilt(protected=bytes.fromhex("a10127")),  # EdDSA
        rebuilt(protected=b""),
        rebuilt(unprotected={1: 2}),
        rebuilt(payload=None),
        rebuilt(payload="text"),
        b"\x9f" * 1000,
        b"\x9b" + b"\xff" * 8,
        b"\x81\xbb\x7f" + b"\xff" * 7,
        b"\x81\xa1\x5b" + b"\xff" * 8,
        b"\x81" * 1000,
        cbor2.dumps([{"signing_certificate": [], "signature": []}]),
    ],
)
def test_other_forms_are_refused(section: bytes) -> None:
    with pytest.raises(EifError) as caught:
        signature.read(section)
    assert caught.value.rule == "signature"


@pytest.mark.parametrize("length", [0, 64, 95, 97, 132])
def test_a_signature_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(EifError, match=f"{length} bytes by the algorithm"):
        signature.read(rebuilt(signed=bytes(length)))


@pytest.mark.parametrize(
    ("certificate", "key", "words"),
    [
        (b"", KEY, "certificate"),
        (KEY, KEY, "certificate"),
        (CERTIFICATE, b"", "key"),
        (CERTIFICATE, CERTIFICATE, "key"),
        (OTHER[0], KEY, "belong together"),
        (*make_signer(ec.SECP256R1()), "P-384"),
        (*certify_signer(ed25519.Ed25519PrivateKey.generate()), "P-384"),
    ],
)
def test_a_signer_that_cannot_sign_is_misuse(certificate: bytes, key: bytes, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        signature.sign(PCR0, certificate, key)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_in_one_way(data: bytes) -> None:
    with pytest.raises(EifError):
        signature.read(data)


@given(st.lists(st.tuples(st.integers(0, len(SECTION) - 1), st.integers(0, 255)), min_size=1, max_size=3))
def test_damage_is_refused_or_does_not_verify_or_changes_nothing(damage: list[tuple[int, int]]) -> None:
    changed = bytearray(SECTION)
    for at, byte in damage:
        changed[at] = byte
    try:
        found = signature.read(bytes(changed))
        signature.verify(found, PCR0)
    except (EifError, IntegrityError):
        return
    # what still verifies: text around the PEM, or a part of the certificate that its key's owner does not sign with
    good = signature.read(SECTION)
    assert found.certificate.public_key() == good.certificate.public_key()
    assert found.signature == good.signature
