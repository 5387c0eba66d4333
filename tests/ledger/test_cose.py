"""COSE_Sign1 and the ledger's signature over a root."""

import contextlib
from hashlib import sha256
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from ledgerd.ledger import cbor, cose
from ledgerd.ledger.errors import FormatError, IntegrityError, UsageError
from ledgerd.ledger.ids import Seqno, TransactionId, View
from support.ledgers import confuse

KEY = ec.generate_private_key(ec.SECP384R1())
SMALL_KEY = ec.generate_private_key(ec.SECP256R1())
PUBLIC = KEY.public_key()
ROOT = sha256(b"root").digest()
SIGNED = cose.sign_root(KEY, ROOT, 2, 17, "service.example.com", "ledger.signature", 1_790_000_000)


def test_a_root_signature_has_ccf_s_header() -> None:
    message = cose.decode(SIGNED)
    spki = PUBLIC.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert message.protected == {
        1: -35,
        4: sha256(spki).hexdigest().encode(),
        15: {1: "service.example.com", 2: "ledger.signature", 6: 1_790_000_000},
        395: 2,
        "ccf.v1": {"txid": "2.17"},
    }
    assert message.unprotected == {}
    assert message.payload is None
    assert len(message.signature) == 96
    assert SIGNED[:2] == b"\xd2\x84"


@pytest.mark.parametrize("key", [KEY, SMALL_KEY], ids=["P-384", "P-256"])
def test_a_root_signature_verifies_and_says_what_it_is_of(key: ec.EllipticCurvePrivateKey) -> None:
    signed = cose.sign_root(key, ROOT, 2, 17, "service.example.com", "ledger.signature", 1_790_000_000)
    header = cose.verify_root(signed, key.public_key(), ROOT)
    assert header == cose.RootHeader(TransactionId(View(2), Seqno(17)), "service.example.com", "ledger.signature", 1_790_000_000)


def test_a_key_on_p256_signs_by_es256() -> None:
    message = cose.decode(cose.sign_root(SMALL_KEY, ROOT, 2, 17, "a", "b", 1))
    signed = cbor2.dumps(["Signature1", message.protected_bytes, b"", ROOT])
    r, s = int.from_bytes(message.signature[:32], "big"), int.from_bytes(message.signature[32:], "big")
    assert (message.protected[1], len(message.signature)) == (-7, 64)
    SMALL_KEY.public_key().verify(encode_dss_signature(r, s), signed, ec.ECDSA(SHA256()))


def test_what_was_signed_is_rfc_9052_s_structure() -> None:
    """Section 4.4: Sig_structure = ["Signature1", body_protected, external_aad, payload], verified here by hand."""
    protected, _, _, signature = cbor2.loads(SIGNED).value
    signed = cbor2.dumps(["Signature1", protected, b"", ROOT])
    r, s = int.from_bytes(signature[:48], "big"), int.from_bytes(signature[48:], "big")
    PUBLIC.verify(encode_dss_signature(r, s), signed, ec.ECDSA(SHA384()))


def test_another_root_and_another_key_are_refused() -> None:
    with pytest.raises(IntegrityError):
        cose.verify_root(SIGNED, PUBLIC, bytes(32))
    with pytest.raises(IntegrityError, match="certificate of that service"):
        cose.verify_root(SIGNED, ec.generate_private_key(ec.SECP384R1()).public_key(), ROOT)


def test_every_flipped_bit_is_refused() -> None:
    for bit in range(len(SIGNED) * 8):
        changed = bytearray(SIGNED)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises((IntegrityError, FormatError, UsageError)) as caught:
            cose.verify_root(bytes(changed), PUBLIC, ROOT)
        assert caught.type is not UsageError


def test_every_cut_and_every_longer_form_is_refused() -> None:
    for end in range(len(SIGNED)):
        with pytest.raises(FormatError):
            cose.decode(SIGNED[:end])
    with pytest.raises(FormatError):
        cose.decode(SIGNED + b"\x00")


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_attached_messages_round_trip_on_each_curve(curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    message = cose.decode(cose.sign(key, {4: b"me", "ccf.gov.msg.type": "ack"}, b"payload"))
    assert cose.verify(message, key.public_key()) == b"payload"
    with pytest.raises(IntegrityError):
        cose.verify(message._replace(payload=b"other"), key.public_key())
    with pytest.raises(IntegrityError):
        cose.verify(message, PUBLIC if curve.name != PUBLIC.curve.name else ec.generate_private_key(ec.SECP256R1()).public_key())


def test_the_algorithm_must_be_the_key_s() -> None:
    """A message may not choose how it is verified."""
    message = cose.decode(SIGNED)
    for algorithm in (-7, -36, 5, "ES384", None, True):
        header = cbor.encode({**message.protected, 1: algorithm})
        with pytest.raises(IntegrityError, match="algorithm"):
            cose.verify(message._replace(protected_bytes=header, protected=cbor.decode(header)), PUBLIC, ROOT)


@pytest.mark.parametrize(("key", "algorithm"), [(KEY, -7), (SMALL_KEY, -35)], ids=["ES256 by P-384", "ES384 by P-256"])
def test_a_signature_by_the_key_under_another_curves_algorithm_is_refused(key: ec.EllipticCurvePrivateKey, algorithm: int) -> None:
    """It is genuine: that very key signed these very bytes, hashed as the header says. But a curve has one algorithm here."""
    genuine = cose.decode(cose.sign_root(key, ROOT, 2, 17, "a", "b", 1))
    cose.verify_root(genuine, key.public_key(), ROOT)
    confused = confuse(genuine, key, ROOT)
    digest = {-7: SHA256(), -35: SHA384()}[algorithm]
    r, s = int.from_bytes(confused.signature[:48], "big"), int.from_bytes(confused.signature[48:], "big")
    signed = cbor2.dumps(["Signature1", confused.protected_bytes, b"", ROOT])
    key.public_key().verify(encode_dss_signature(r, s), signed, ec.ECDSA(digest))
    with pytest.raises(IntegrityError, match=f"by algorithm {algorithm}, but the key is on {key.curve.name}"):
        cose.verify_root(confused, key.public_key(), ROOT)
    short = confused._replace(signature=genuine.signature)
    with pytest.raises(IntegrityError, match=f"by algorithm {algorithm}, but the key is on {key.curve.name}"):
        cose.verify_root(short, key.public_key(), ROOT)


def test_a_payload_is_given_exactly_for_detached_messages() -> None:
    detached = cose.decode(SIGNED)
    with pytest.raises(UsageError):
        cose.verify(detached, PUBLIC)
    attached = cose.decode(cose.sign(KEY, {}, b"payload"))
    with pytest.raises(UsageError):
        cose.verify(attached, PUBLIC, b"payload")


def test_keys_without_a_cose_algorithm_are_refused() -> None:
    with pytest.raises(UsageError):
        cose.sign(ec.generate_private_key(ec.SECP256K1()), {}, b"")


CLAIMS = {1: "issuer", 2: "subject", 6: 1}
GOOD: dict[Any, Any] = {4: cose.key_id(PUBLIC), 395: 2, 15: CLAIMS, "ccf.v1": {"txid": "2.3"}}


def test_the_least_header_of_the_profile_is_accepted() -> None:
    """Guards the cases below: each differs from this one in one place."""
    assert cose.verify_root(cose.sign(KEY, GOOD, ROOT, detached=True), PUBLIC, ROOT).issuer == "issuer"


@pytest.mark.parametrize(
    "change",
    [
        {4: None},
        {4: "text"},
        {395: 1},
        {395: True},
        {395: None},
        {15: {**CLAIMS, 1: 1}},
        {15: {**CLAIMS, 2: None}},
        {15: {**CLAIMS, 6: "now"}},
        {15: {**CLAIMS, 6: -1}},
        {15: {**CLAIMS, 6: 253_402_300_800}},
        {15: {**CLAIMS, 6: (1 << 63) - 1}},
        {15: None},
        {"ccf.v1": {}},
        {"ccf.v1": {"txid": "2.03"}},
        {"ccf.v1": {"txid": 2}},
    ],
)
def test_headers_of_another_profile_are_refused(change: dict[Any, Any]) -> None:
    with pytest.raises(FormatError):
        cose.verify_root(cose.sign(KEY, GOOD | change, ROOT, detached=True), PUBLIC, ROOT)


@pytest.mark.parametrize(
    "value",
    [
        [],
        [b"", {}, None],
        [b"", {}, None, b"", b""],
        ["", {}, None, b""],
        [b"", [], None, b""],
        [b"", {}, "", b""],
        [b"", {}, None, None],
        [b"\x80", {}, None, b""],
    ],
)
def test_what_is_no_sign1_is_refused(value: Any) -> None:
    with pytest.raises(FormatError):
        cose.decode(cbor.encode(cbor2.CBORTag(18, value)))
    with pytest.raises(FormatError):
        cose.decode(cbor.encode(value), tagged=False)


def test_the_tag_is_there_exactly_when_expected() -> None:
    with pytest.raises(FormatError):
        cose.decode(SIGNED, tagged=False)
    assert cose.decode(SIGNED[1:], tagged=False).payload is None
    with pytest.raises(FormatError):
        cose.decode(SIGNED[1:])
    with pytest.raises(FormatError):
        cose.decode(b"\xd1" + SIGNED[1:])


@given(st.binary(max_size=60))
def test_arbitrary_bytes_never_do_worse_than_a_refusal(data: bytes) -> None:
    for item in (data, b"\xd2" + data, b"\xd2\x84" + data):
        with contextlib.suppress(FormatError):
            cose.decode(item)


def test_a_signature_has_one_spelling() -> None:
    """Two numbers of fixed size: a zero before the second is another spelling of the same one."""
    message = cose.decode(SIGNED)
    for other in (message.signature[:48] + b"\x00" + message.signature[48:], message.signature[:95], b""):
        with pytest.raises(IntegrityError):
            cose.verify(message._replace(signature=other), PUBLIC, ROOT)


def test_a_ledger_signature_s_payload_is_detached() -> None:
    with pytest.raises(FormatError, match="detached"):
        cose.verify_root(cose.sign(KEY, GOOD, ROOT), PUBLIC, ROOT)


def test_only_roots_are_signed() -> None:
    with pytest.raises(UsageError):
        cose.sign_root(KEY, b"short", 2, 17, "", "", 0)


def test_a_signature_in_der_becomes_two_numbers_side_by_side() -> None:
    assert cose.raw_signature(SMALL_KEY.public_key(), encode_dss_signature(1, 2)) == bytes(31) + b"\1" + bytes(31) + b"\2"
    for der in (b"", b"\x30\x00", encode_dss_signature(1 << 256, 2)):
        with pytest.raises(ValueError):
            cose.raw_signature(SMALL_KEY.public_key(), der)


def test_what_is_to_be_signed_has_its_payload_in_it() -> None:
    message = cose.prepare(PUBLIC, {4: b"kid"}, b"payload")
    assert cbor2.loads(cose.to_be_signed(message)) == ["Signature1", message.protected_bytes, b"", b"payload"]
    assert cbor2.loads(message.protected_bytes) == {1: -35, 4: b"kid"}
    with pytest.raises(UsageError, match="detached"):
        cose.to_be_signed(message._replace(payload=None))


@pytest.mark.parametrize("critical", [["unknown"], [4, 99], [15], [], 4, None, [[4]], [True], [b"4"]])
def test_a_header_that_is_called_critical_must_be_understood(critical: Any) -> None:
    """RFC 9052, section 3.1: "it is a fatal error" otherwise. A label that is not there is none that was understood."""
    key = ec.generate_private_key(ec.SECP256R1())
    message = cose.decode(cose.sign(key, {2: critical, 4: b"me", 99: 1, "unknown": 1}, b"payload"))
    with pytest.raises(IntegrityError, match="crit"):
        cose.verify(message, key.public_key())


def test_a_critical_header_that_is_understood_is_accepted() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    message = cose.decode(cose.sign(key, {2: [1, 4, "ccf.gov.msg.type"], 4: b"me", "ccf.gov.msg.type": "ack"}, b"payload"))
    assert cose.verify(message, key.public_key()) == b"payload"


@pytest.mark.parametrize("header", ["a1f526", "a1f93c0026", "a20126f6f6", "a201264101f6"], ids=["true", "1.0", "null", "bytes"])
def test_labels_that_only_some_readers_take_for_numbers_are_refused(header: str) -> None:
    """A header with its algorithm under `true`, or 1.0, is one with an algorithm for Python's dictionaries only."""
    for parts in ([bytes.fromhex(header), {}, b"", bytes(64)], [b"", cbor2.loads(bytes.fromhex(header)), b"", bytes(64)]):
        with pytest.raises(FormatError, match="label"):
            cose.decode(cbor2.dumps(cbor2.CBORTag(18, parts)))
