"""Endorsements of a guest's measurement: a genuine one of Azure's, and each wrong thing that one can hold."""

from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from ledgerd.ledger.attestation.errors import AttestationError
from ledgerd.ledger.attestation.uvm import SIZE_BYTES_MAX, UvmEndorsement, parse_svn, verify
from support.reports import FEED, MEASUREMENT, authority, certify, forge_uvm
from support.vectors import vectors

CORRECT, DID = forge_uvm()
AZURE_DID = "did:x509:0:sha256:I__iuL25oXEVFdTP_aBLx_eT1RPHbCQ_ECBQfYZpt9s::eku:1.3.6.1.4.1.311.76.59.1.2"


def rule(message: bytes) -> str:
    with pytest.raises(AttestationError) as refusal:
        verify(message)
    return refusal.value.rule


def test_azures_endorsement_verifies() -> None:
    endorsement = verify(vectors("snp", "azure_aci_uvm_reference_info.cose").read_bytes())
    assert endorsement[:3] == (AZURE_DID, "ContainerPlat-AMD-UVM", 22)
    report = vectors("snp", "azure_aci_milan_report.bin").read_bytes()
    assert endorsement.measurement == report[0x90:0xC0]


def test_no_changed_byte_of_what_azure_signed_is_accepted() -> None:
    message = vectors("snp", "azure_aci_uvm_reference_info.cose").read_bytes()
    _, unprotected, payload, signature = cbor2.loads(message).value
    ignored_begin = message.index(cbor2.dumps(unprotected))
    ignored_end = ignored_begin + len(cbor2.dumps(unprotected))
    assert message.endswith(cbor2.dumps(payload) + cbor2.dumps(signature))
    for position in [*range(1, ignored_begin, 7), *range(ignored_end, len(message), 3)]:
        changed = bytearray(message)
        changed[position] ^= 1 << position % 8
        rule(bytes(changed))


def test_a_correct_endorsement_verifies_with_and_without_its_tag() -> None:
    expected = UvmEndorsement(DID, FEED, 22, MEASUREMENT)
    assert verify(CORRECT) == verify(CORRECT[1:]) == expected
    assert verify(forge_uvm(svn=7)[0]).svn == 7


@pytest.mark.parametrize(("curve", "algorithm"), [(None, -37), (None, -39), (ec.SECP256R1, -7), (ec.SECP384R1, -35), (ec.SECP521R1, -36)])
def test_publishers_may_sign_by_other_algorithms(curve: type[ec.EllipticCurve] | None, algorithm: int) -> None:
    message, did = forge_uvm(curve=curve, algorithm=algorithm)
    assert verify(message).did == did
    changed = message[:-1] + bytes((message[-1] ^ 1,))
    assert rule(changed) == "endorsement"


@pytest.mark.parametrize(("curve", "algorithm"), [(None, -35), (ec.SECP384R1, -38), (None, -7), (None, -257), (ec.SECP384R1, -8)])
def test_an_algorithm_of_another_kind_of_key_is_refused(curve: type[ec.EllipticCurve] | None, algorithm: int) -> None:
    assert rule(forge_uvm(curve=curve, algorithm=algorithm)[0]) == "endorsement"


def test_a_signature_on_a_curve_has_one_length() -> None:
    message, _ = forge_uvm(curve=ec.SECP384R1, algorithm=-35)
    parts = cbor2.loads(message).value
    for signature in (parts[3] + b"\x00", parts[3][1:], b""):
        assert rule(cbor2.dumps([*parts[:3], signature])) == "endorsement"


WRONG: dict[str, dict[str, Any]] = {
    "another signer": {"foreign_key": True},
    "another algorithm": {"header": {1: -37}},
    "no algorithm": {"header": {1: None}},
    "another content type": {"header": {3: "application/cbor"}},
    "no issuer": {"header": {"iss": None}},
    "no feed": {"header": {"feed": None}},
    "a feed of bytes": {"header": {"feed": b"feed"}},
    "no chain": {"header": {33: None}},
    "a chain of one": {"header": {33: [b"\x30"]}},
    "a chain of six": {"header": {33: [b"\x30"] * 6}},
    "a chain of text": {"header": {33: ["leaf", "root"]}},
    "another method": {"header": {"iss": DID.replace("x509", "web")}},
    "another version": {"header": {"iss": DID.replace(":0:", ":1:")}},
    "another digest": {"header": {"iss": DID.replace("sha256", "sha384")}},
    "another authority": {"header": {"iss": f"did:x509:0:sha256:{'A' * 43}::eku:1.2.3"}},
    "an issuer without a policy": {"header": {"iss": DID.partition("::")[0]}},
    "another usage": {"header": {"iss": DID + "9"}},
    "a second usage that is not held": {"header": {"iss": DID + "::eku:1.2.3"}},
    "a policy that is not known": {"header": {"iss": DID + "::subject:CN:publisher"}},
    "a leaf without usages": {"leaf": {"eku": None}},
    "a leaf that is an authority": {"leaf": {"authority": True, "eku": None}},
    "a leaf of another issuer": {"leaf": {"issuer_key": authority("foreign")}},
    "a leaf of another issuer's name": {"leaf": {"issuer": "somebody"}},
    "an intermediate that is no authority": {"intermediate": {"authority": False}},
    "an intermediate of another issuer": {"intermediate": {"issuer_key": authority("foreign")}},
    "a short measurement": {"measurement": "b0" * 32},
    "a measurement that is no hex": {"measurement": "zz" * 48},
    "a version that is no number": {"svn": "twenty-two"},
    "a negative version": {"svn": "-1"},
    "a version that is true": {"svn": True},
    "a huge version": {"svn": "9" * 20},
    "a payload that is no JSON": {"payload": b"{"},
    "a payload that is a list": {"payload": b"[]"},
    "a deep payload": {"payload": b"[" * 10_000},
    "an empty payload": {"payload": b""},
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_endorsements_are_refused(name: str) -> None:
    assert rule(forge_uvm(**WRONG[name])[0]) == "endorsement"


def test_the_leafs_own_fingerprint_names_no_publisher() -> None:
    """Whoever holds any key could otherwise name itself, below an authority that never heard of it."""
    import base64
    from hashlib import sha256

    leaf = cbor2.loads(cbor2.loads(CORRECT).value[0])[33][0]
    own = base64.urlsafe_b64encode(sha256(leaf).digest()).rstrip(b"=").decode()
    assert rule(forge_uvm(header={"iss": f"did:x509:0:sha256:{own}::{DID.partition('::')[2]}"})[0]) == "endorsement"


def test_a_chain_of_someone_elses_below_the_named_root_is_refused() -> None:
    chain = cbor2.loads(cbor2.loads(CORRECT).value[0])[33]
    own = authority("UVM leaf")
    foreign = certify("middle", authority("foreign"), "foreign", authority("foreign"), authority=True, pss=False)
    leaf = certify("publisher", own, "middle", authority("foreign"), eku=DID.rpartition(":")[2], pss=False)
    assert rule(forge_uvm(header={33: [leaf, foreign, chain[2]]})[0]) == "endorsement"


@pytest.mark.parametrize("message", [b"", bytes(SIZE_BYTES_MAX + 1)])
def test_endorsements_of_impossible_size_are_refused(message: bytes) -> None:
    assert rule(message) == "size"


@pytest.mark.parametrize(
    "message", [CORRECT + b"\x00", CORRECT[:-1], b"\xd2" + CORRECT, b"\xd1" + CORRECT[1:], b"\xa0", b"\x84\xf6\xa0\xf6\xf6", b"\xd2"]
)
def test_other_envelopes_are_refused(message: bytes) -> None:
    assert rule(message) == "endorsement"


def test_version_numbers_are_decimal_text_or_numbers() -> None:
    assert [parse_svn(text) for text in ("0", "22", 22)] == [0, 22, 22]
    for text in ("", " 1", "1.0", "٣", None, 1.0, -1, 1 << 64, True):
        with pytest.raises(ValueError, match="version"):
            parse_svn(text)


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=300), st.integers(0, len(CORRECT)))
def test_hostile_bytes_raise_nothing_but_a_refusal(tail: bytes, at: int) -> None:
    rule(tail or b"\x00")
    if CORRECT[:at] + tail != CORRECT:
        rule(CORRECT[:at] + tail)
