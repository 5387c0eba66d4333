"""Signed requests of members: what is read, what is refused, and that nobody can make a second one of a first."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from ledgerd.governance import requests
from ledgerd.ledger import cose
from ledgerd.ledger.errors import FormatError, IntegrityError, UsageError
from support.cluster import make_identity

MEMBER = make_identity("member0")
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def signed(**changes: Any) -> bytes:
    """A request by MEMBER with parts of its protected header replaced, or left out where they are None."""
    header: dict[Any, Any] = {
        cose.HEADER_KEY_ID: requests.member_id_of(MEMBER.certificate).encode(),
        requests.HEADER_TYPE: requests.PROPOSAL,
        requests.HEADER_CREATED_AT: 1_800_000_000,
    }
    names = {
        "kid": cose.HEADER_KEY_ID,
        "kind": requests.HEADER_TYPE,
        "at": requests.HEADER_CREATED_AT,
        "about": requests.HEADER_PROPOSAL_ID,
    }
    for name, value in changes.items():
        header[names[name]] = value
    return cose.sign(MEMBER.key, {key: value for key, value in header.items() if value is not None}, b"payload")


def test_what_was_signed_is_read_and_verifies() -> None:
    envelope = requests.sign(MEMBER.key, MEMBER.certificate, "ballot", b"{}", created_at=1_800_000_000, proposal_id="ab")
    request = requests.read(envelope)
    requests.verify(request, MEMBER.certificate)
    assert (request.kind, request.created_at, request.proposal_id, request.payload) == ("ballot", 1_800_000_000, "ab", b"{}")
    assert request.member_id == requests.member_id_of(MEMBER.certificate)
    assert request.envelope == envelope


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"kid": None}, "key id"),
        ({"kid": b"short"}, "key id"),
        ({"kid": "a" * 64}, "key id"),
        ({"kind": None}, "msg.type"),
        ({"kind": "party"}, "msg.type"),
        ({"kind": 5}, "msg.type"),
        ({"at": None}, "created_at"),
        ({"at": -1}, "created_at"),
        ({"at": "now"}, "created_at"),
        ({"at": True}, "created_at"),
        ({"about": 5}, "proposal_id"),
    ],
)
def test_a_header_that_lacks_something_is_refused_and_said(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(FormatError, match=what):
        requests.read(signed(**changes))


def test_a_detached_payload_and_other_bytes_are_refused() -> None:
    with pytest.raises(FormatError, match="detached"):
        requests.read(cose.sign(MEMBER.key, {}, b"payload", detached=True))
    with pytest.raises(FormatError):
        requests.read(b"not CBOR")


def test_another_members_certificate_and_a_changed_payload_do_not_verify() -> None:
    request = requests.read(signed())
    with pytest.raises(IntegrityError, match="another's"):
        requests.verify(request, make_identity("member1").certificate)
    changed = cose.decode(request.envelope)._replace(payload=b"PAYLOAD")
    with pytest.raises(IntegrityError, match="does not verify"):
        requests.verify(requests.read(cose.encode(changed)), MEMBER.certificate)


def test_the_second_signature_that_anybody_can_make_of_one_has_the_same_replay_key() -> None:
    request = requests.read(signed())
    signature = request.message.signature
    mirrored = (P256_ORDER - int.from_bytes(signature[32:], "big")).to_bytes(32, "big")
    other = requests.read(cose.encode(request.message._replace(signature=signature[:32] + mirrored)))
    requests.verify(other, MEMBER.certificate)  # it is as valid,
    assert other.digest != request.digest
    assert other.replay_key == request.replay_key  # and yet not new


def test_whoever_signs_twice_makes_two_requests() -> None:
    assert requests.read(signed()).replay_key != requests.read(signed()).replay_key


def test_replay_keys_sort_as_times() -> None:
    times = [5, 999_999_999, 1_000_000_000, requests.CREATED_AT_MAX]
    keys = [requests.read(signed(at=time)).replay_key for time in times]
    assert keys == sorted(keys)


def test_nothing_is_signed_that_could_not_be_read() -> None:
    for kind, at in (("party", 0), (requests.PROPOSAL, -1), (requests.PROPOSAL, requests.CREATED_AT_MAX + 1)):
        with pytest.raises(UsageError):
            requests.sign(MEMBER.key, MEMBER.certificate, kind, b"", created_at=at)
    with pytest.raises(UsageError, match="certificate"):
        requests.sign(ec.generate_private_key(ec.SECP256R1()), MEMBER.certificate, requests.PROPOSAL, b"", created_at=0)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b'{"ballot":"x"}', "x"),
        (b' {"other":[1],"ballot":""} ', ""),
        ('{"ballot":"ü\\u00fc\\ud83d\\ude00"}'.encode(), "üü😀"),
    ],
)
def test_a_field_of_what_was_signed_is_read(payload: bytes, expected: str) -> None:
    assert requests.field_of(payload, "ballot") == expected


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b'["ballot"]',
        b'{"ballot":null}',
        b'{"ballot":["x"]}',
        b'{"Ballot":"x"}',
        b'{"ballot":"x"} {}',
        b'{"ballot":"a","ballot":"a"}',
        b'{"ballot":"x","more":{"a":1,"a":2}}',
        b'{"ballot":"\\udc00"}',
        b'{"ballot":"\xff"}',
        b'\xef\xbb\xbf{"ballot":"x"}',
        '{"ballot":"x"}'.encode("utf-16"),
        b'{"ballot":' + b"[" * 100_000,
    ],
)
def test_a_field_that_two_readers_could_read_differently_is_refused(payload: bytes) -> None:
    with pytest.raises(FormatError, match="ballot"):
        requests.field_of(payload, "ballot")


# Signing in two steps.


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_what_was_prepared_and_signed_elsewhere_is_what_sign_makes(curve: ec.EllipticCurve) -> None:
    member = make_identity("member", curve)
    about = {"created_at": 1_800_000_000, "proposal_id": "ab" * 32}
    prepared = requests.prepare(member.certificate, "ballot", b"{}", **about)  # type: ignore[arg-type]
    message = requests.read(prepared).message
    der = member.key.sign(cose.to_be_signed(message), ec.ECDSA(cose.hash_of(member.key.public_key())))
    request = requests.read(requests.finish(prepared, member.certificate, cose.raw_signature(member.key.public_key(), der)))
    requests.verify(request, member.certificate)
    at_once = requests.read(requests.sign(member.key, member.certificate, "ballot", b"{}", **about))  # type: ignore[arg-type]
    assert request.message.protected_bytes == at_once.message.protected_bytes
    assert (request.payload, len(request.envelope)) == (at_once.payload, len(at_once.envelope))


def test_a_signature_of_something_else_does_not_finish_a_request() -> None:
    prepared = requests.prepare(MEMBER.certificate, "proposal", b"{}", created_at=1)
    signature = requests.read(requests.sign(MEMBER.key, MEMBER.certificate, "proposal", b"{}", created_at=2)).message.signature
    for wrong in (signature, signature[:-1], b"", bytes(64)):
        with pytest.raises(IntegrityError):
            requests.finish(prepared, MEMBER.certificate, wrong)
    with pytest.raises(IntegrityError, match="another's"):
        requests.finish(prepared, make_identity("other").certificate, signature)
    with pytest.raises(FormatError):
        requests.finish(b"\xd2", MEMBER.certificate, signature)


def of_rsa() -> x509.Certificate:
    """A certificate of a key that members cannot sign with."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rsa")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    return builder.sign(key, SHA256())


def test_what_is_prepared_is_held_to_the_rules_of_what_is_signed() -> None:
    for kind, at in (("vote", 1), ("ballot", -1), ("ballot", 10**10)):
        with pytest.raises(UsageError):
            requests.prepare(MEMBER.certificate, kind, b"", created_at=at)
    with pytest.raises(UsageError, match="elliptic curve"):
        requests.prepare(of_rsa(), "ballot", b"", created_at=1)
