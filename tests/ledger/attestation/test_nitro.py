"""Each wrong thing that a document can hold, made by a local PKI, and the rule that refuses it."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from ledgerd.ledger.attestation.certificates import load
from ledgerd.ledger.attestation.errors import RULES, AttestationError
from ledgerd.ledger.attestation.nitro import (
    BUNDLE_LENGTH_MAX,
    DOCUMENT_SIZE_BYTES_MAX,
    PAYLOAD_SIZE_BYTES_MAX,
    Attestation,
    decode,
    signed_bytes,
    verify,
)
from ledgerd.ledger.attestation.roots import AWS_ROOT_G1, AWS_ROOT_G1_PEM, Root, parse_roots
from ledgerd.ledger.errors import ConfigurationError, LedgerdError
from support.documents import (
    IMAGE,
    INSTANCE,
    LEAF,
    MADE_AT_MS,
    MODULE_ID,
    NONCE,
    ORDER_P384,
    PROTECTED,
    PUBLIC_KEY,
    REGIONAL,
    ROOT,
    SHAPES,
    USER_DATA,
    ZONAL,
    Forged,
    forge,
    sign,
    wrap,
)

CORRECT = forge()


def judge(forged: Forged, document: bytes | None = None, at_ms: int | None = None) -> Attestation:
    return verify(forged.document if document is None else document, forged.policy.roots, at_ms=at_ms)


def refused(forged: Forged, document: bytes | None = None, at_ms: int | None = None) -> AttestationError:
    with pytest.raises(AttestationError) as refusal:
        judge(forged, document, at_ms)
    error = refusal.value
    assert error.rule in RULES
    assert error.seen and error.expected and error.advice and error.rule in str(error)
    return error


def payload(forged: Forged = CORRECT) -> dict[str, Any]:
    fields: dict[str, Any] = cbor2.loads(cbor2.loads(forged.document)[2])
    return fields


def signed(fields: Any, forged: Forged = CORRECT) -> bytes:
    return wrap(forged.leaf_key, fields if isinstance(fields, bytes) else cbor2.dumps(fields))


def test_a_correct_document_verifies_and_is_called_simulated() -> None:
    attestation = judge(CORRECT)
    assert attestation[:2] == (MODULE_ID, MADE_AT_MS)
    assert (attestation.public_key, attestation.user_data, attestation.nonce) == (PUBLIC_KEY, USER_DATA, NONCE)
    assert attestation.pcrs[0] == IMAGE.pcr0
    assert attestation.root == CORRECT.policy.roots[0].fingerprint
    assert attestation.simulated
    assert not attestation.debug


@pytest.mark.parametrize("size", [0, 1, 23, 24, 255, 256, 16_384])
def test_the_signed_bytes_are_the_sig_structure_of_rfc_9052(size: int) -> None:
    assert signed_bytes(bytes(size)) == cbor2.dumps(["Signature1", PROTECTED, b"", bytes(size)])


# Forms that are accepted.


def test_tag_18_is_accepted_once() -> None:
    assert judge(CORRECT, b"\xd2" + CORRECT.document) == judge(CORRECT)


@pytest.mark.parametrize("header", [{4: b"who"}, {"x": [1, None]}, {33: b"\x30"}])
def test_an_unprotected_header_changes_nothing_so_a_document_has_no_hash(header: dict[Any, Any]) -> None:
    assert judge(CORRECT, CORRECT.document[:6] + cbor2.dumps(header) + CORRECT.document[7:]) == judge(CORRECT)


def test_an_indefinite_payload_is_accepted() -> None:
    indefinite = forge(payload=lambda fields: b"\xbf" + cbor2.dumps(fields)[1:] + b"\xff")
    assert judge(indefinite).module_id == MODULE_ID


def test_the_other_signature_of_the_same_bytes_is_accepted_so_a_document_has_no_hash() -> None:
    r, s = CORRECT.document[-96:-48], int.from_bytes(CORRECT.document[-48:], "big")
    other = CORRECT.document[:-96] + r + (ORDER_P384 - s).to_bytes(48, "big")
    assert judge(CORRECT, other) == judge(CORRECT)


@pytest.mark.parametrize("name", ["public_key", "user_data", "nonce"])
def test_optional_fields_may_be_null_or_absent_or_1024_bytes(name: str) -> None:
    fields = payload()
    fields[name] = None
    assert getattr(judge(CORRECT, signed(fields)), name) is None
    del fields[name]
    assert getattr(judge(CORRECT, signed(fields)), name) is None
    fields[name] = bytes(1_024)
    assert getattr(judge(CORRECT, signed(fields)), name) == bytes(1_024)


@pytest.mark.parametrize("name", ["user_data", "nonce"])
def test_user_data_and_nonce_may_be_empty(name: str) -> None:
    assert getattr(judge(forge(change={name: b""})), name) == b""


def test_sparse_pcrs_are_accepted() -> None:
    pcrs = {0: IMAGE.pcr0, 1: IMAGE.pcr1, 31: bytes(48)}
    assert judge(forge(change={"pcrs": pcrs})).pcrs == pcrs


def test_32_pcrs_are_accepted() -> None:
    assert len(judge(forge(pcrs=dict.fromkeys(range(16, 32), bytes(48)))).pcrs) == 32


# Rule size.


@pytest.mark.parametrize("document", [b"", bytes(DOCUMENT_SIZE_BYTES_MAX + 1)])
def test_documents_of_impossible_size_are_refused(document: bytes) -> None:
    assert refused(CORRECT, document).rule == "size"


@pytest.mark.parametrize("size", [0, PAYLOAD_SIZE_BYTES_MAX + 1])
def test_payloads_of_impossible_size_are_refused(size: int) -> None:
    assert refused(CORRECT, signed(bytes(size))).rule == "size"


# Rules form and algorithm: the envelope.


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d + b"\x00",
        lambda d: d[:-1],
        lambda d: b"\xd1" + d,  # tag 17
        lambda d: b"\xd8\x3d" + d,  # tag 61
        lambda d: b"\xd2\xd2" + d,
        lambda d: b"\xd8\x12" + d,  # tag 18, the long way
        lambda d: b"\x83" + d[1:-98],
        lambda d: b"\x85" + d[1:] + b"\xf6",
        lambda d: b"\x9f" + d[1:],
        lambda d: d[:6] + b"\xf6" + d[7:],  # no unprotected header
        lambda d: d[:6] + b"\x80" + d[7:],
        lambda d: d[:6] + b"\xa2\x04\x41\x00\x04\x41\x00" + d[7:],  # one that stands twice in it
        lambda d: b"\x84\x44\xa1\x01\x38\x22\xa0\xf6" + d[-98:],  # detached payload
        lambda d: d[:-98] + b"\x58\x5f" + d[-95:],
        lambda d: d[:-98] + b"\x58\x61" + d[-96:] + b"\x00",
        lambda d: d[:-98] + b"\x5f\x58\x60" + d[-96:] + b"\xff",  # chunked
        lambda d: b"\x01",
        lambda d: b"\xa0",
        lambda d: b"\xd2",
    ],
)
def test_other_envelopes_are_refused(change: Callable[[bytes], bytes]) -> None:
    assert refused(CORRECT, change(CORRECT.document)).rule == "form"


@pytest.mark.parametrize("protected", ["a10126", "a10138 23", "a1013821", "a0", "", "a201382204 4100", "a10120"])
def test_other_protected_headers_are_refused(protected: str) -> None:
    header = bytes.fromhex(protected)
    body = cbor2.loads(CORRECT.document)[2]
    document = cbor2.dumps([header, {}, body, sign(CORRECT.leaf_key, body, header)])
    assert refused(CORRECT, document).rule == "algorithm"


# Rule form: the payload.

CHANGES: dict[str, dict[str, Any]] = {
    "module_id empty": {"module_id": ""},
    "module_id bytes": {"module_id": b"i-1-enc1"},
    "module_id long": {"module_id": "i" * 129},
    "module_id unprintable": {"module_id": "i-1\n-enc1"},
    "module_id beyond ASCII": {"module_id": "ï-1-enc1"},
    "digest": {"digest": "SHA256"},
    "digest bytes": {"digest": b"SHA384"},
    "timestamp zero": {"timestamp": 0},
    "timestamp negative": {"timestamp": -1},
    "timestamp true": {"timestamp": True},
    "timestamp float": {"timestamp": 1.78e12},
    "timestamp text": {"timestamp": "1780000000123"},
    "timestamp huge": {"timestamp": 1 << 63},
    "timestamp bignum": {"timestamp": 1 << 70},
    "pcrs empty": {"pcrs": {}},
    "pcrs null": {"pcrs": None},
    "pcrs list": {"pcrs": [bytes(48)]},
    "pcrs 33": {"pcrs": dict.fromkeys(range(33), bytes(48))},
    "pcr 32": {"pcrs": {32: bytes(48)}},
    "pcr -1": {"pcrs": {-1: bytes(48)}},
    "pcr true": {"pcrs": {True: bytes(48)}},
    "pcr text": {"pcrs": {"0": bytes(48)}},
    "pcr 47 bytes": {"pcrs": {0: bytes(47)}},
    "pcr 32 bytes": {"pcrs": {0: bytes(32)}},
    "pcr null": {"pcrs": {0: None}},
    "pcr text value": {"pcrs": {0: "a" * 48}},
    "certificate null": {"certificate": None},
    "certificate empty": {"certificate": b""},
    "certificate long": {"certificate": bytes(1_025)},
    "cabundle null": {"cabundle": None},
    "cabundle empty": {"cabundle": []},
    "cabundle bytes": {"cabundle": b"\x30"},
    "cabundle of text": {"cabundle": ["30"]},
    "cabundle of empty": {"cabundle": [b""]},
    "cabundle of long": {"cabundle": [bytes(1_025)]},
    "cabundle long": {"cabundle": [b"\x30"] * (BUNDLE_LENGTH_MAX + 1)},
    "public_key empty": {"public_key": b""},
    "public_key long": {"public_key": bytes(1_025)},
    "public_key text": {"public_key": "key"},
    "user_data long": {"user_data": bytes(1_025)},
    "user_data number": {"user_data": 1},
    "nonce long": {"nonce": bytes(1_025)},
    "nonce list": {"nonce": [1]},
    "nonce undefined": {"nonce": cbor2.undefined},
    "nonce false": {"nonce": False},
    "unknown key": {"nonce2": b""},
}


@pytest.mark.parametrize("name", CHANGES)
def test_payloads_with_a_wrong_field_are_refused(name: str) -> None:
    assert refused(CORRECT, signed(payload() | CHANGES[name])).rule == "form"


@pytest.mark.parametrize("name", ["module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle"])
def test_payloads_without_a_required_field_are_refused(name: str) -> None:
    fields = payload()
    del fields[name]
    assert refused(CORRECT, signed(fields)).rule == "form"


def with_member(fields: dict[str, Any], member: bytes) -> bytes:
    return b"\xaa" + cbor2.dumps(fields)[1:] + member


@pytest.mark.parametrize(
    "encode",
    [
        lambda f: with_member(f, cbor2.dumps("nonce") + cbor2.dumps(b"again")),  # duplicate key
        lambda f: with_member(f, cbor2.dumps("pcrs") + cbor2.dumps(f["pcrs"])),
        lambda f: b"\xbf" + cbor2.dumps(f)[1:] + cbor2.dumps("nonce") + cbor2.dumps(b"again") + b"\xff",
        lambda f: cbor2.dumps(f) + b"\x00",
        lambda f: cbor2.dumps(f)[:-1],
        lambda f: b"\xbf" + cbor2.dumps(f)[1:],
        lambda f: cbor2.dumps(list(f.values())),
        lambda f: cbor2.dumps(f).replace(b"\xb0\x00\x58\x30", b"\xb1\x00\x58\x30" + f["pcrs"][0] + b"\x00\x58\x30", 1),  # PCR0 twice
        lambda f: cbor2.dumps(f).replace(cbor2.dumps(NONCE), b"\x5f" + cbor2.dumps(NONCE) + b"\xff"),  # chunked bytes
        lambda f: cbor2.dumps(f).replace(b"\x66SHA384", b"\x7f\x66SHA384\xff"),  # chunked text
        lambda f: cbor2.dumps(f).replace(b"\x66digest", b"\x7f\x66digest\xff"),
        lambda f: b"\xd9\xd9\xf7" + cbor2.dumps(f),  # self-described CBOR
        lambda f: cbor2.dumps(cbor2.dumps(f)),
    ],
)
def test_payloads_encoded_otherwise_are_refused(encode: Callable[[dict[str, Any]], bytes]) -> None:
    encoded = encode(payload())
    assert encoded != cbor2.dumps(payload())
    assert refused(CORRECT, signed(encoded)).rule == "form"


# Rule root.


def test_a_root_that_is_not_accepted_is_refused_and_named() -> None:
    with pytest.raises(AttestationError) as refusal:
        verify(CORRECT.document, [AWS_ROOT_G1], at_ms=None)
    assert refusal.value.rule == "root"
    assert CORRECT.policy.roots[0].fingerprint in refusal.value.seen
    assert AWS_ROOT_G1.fingerprint in refusal.value.expected


def test_no_root_accepts_nothing() -> None:
    with pytest.raises(AttestationError) as refusal:
        verify(CORRECT.document, [], at_ms=None)
    assert refusal.value.rule == "root"


def test_an_accepted_root_at_the_wrong_end_of_the_bundle_is_refused() -> None:
    fields = payload()
    fields["cabundle"].reverse()
    assert refused(CORRECT, signed(fields)).rule == "root"


def test_a_foreign_chain_that_carries_the_accepted_root_in_front_is_refused() -> None:
    foreign = forge()
    fields = payload(foreign)
    fields["cabundle"][ROOT] = CORRECT.bundle[ROOT]
    assert refused(CORRECT, signed(fields, foreign)).rule == "chain"


def test_a_document_below_one_of_several_roots_names_that_one() -> None:
    attestation = verify(CORRECT.document, [AWS_ROOT_G1, *forge().policy.roots, *CORRECT.policy.roots], at_ms=None)
    assert attestation.root == CORRECT.policy.roots[0].fingerprint


def test_simulated_is_decided_by_the_root_that_signed_not_by_the_set() -> None:
    roots: list[Root] = [AWS_ROOT_G1, *CORRECT.policy.roots]
    assert verify(CORRECT.document, roots, at_ms=None).simulated
    assert [root.simulated for root in roots] == [False, True]


@pytest.mark.parametrize("pems", [[], ["x"], [""], [AWS_ROOT_G1_PEM * 2], [AWS_ROOT_G1_PEM.replace("MIIC", "MIID")]])
def test_roots_that_are_not_one_certificate_each_are_a_configuration_error(pems: list[str]) -> None:
    with pytest.raises(ConfigurationError):
        parse_roots(pems)


# Rules chain and algorithm: certificates.

NAME_CONSTRAINTS = x509.Extension(x509.NameConstraints.oid, True, x509.NameConstraints([x509.DNSName("example.org")], None))
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
UNKNOWN_CRITICAL = x509.Extension(UNKNOWN.oid, True, UNKNOWN)
UNKNOWN_HARMLESS = x509.Extension(UNKNOWN.oid, False, UNKNOWN)

# What no builder makes: a leaf that is no authority and has a path length all the same. (The library refuses to read it.)
# Equal to the root's for people and for the library, but not byte for byte: the root's is a UTF8String.
ROOT_NAME_PRINTABLE = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "depth 0 of a forged chain", _ASN1Type.PrintableString)])
LEAF_PATH_LENGTH = x509.UnrecognizedExtension(x509.BasicConstraints.oid, b"\x30\x03\x02\x01\x00")

CHAIN: dict[str, tuple[str, int, dict[str, Any]]] = {
    "regional that is no authority": ("chain", REGIONAL, {"authority": False, "path_length": None}),
    "zonal that is no authority": ("chain", ZONAL, {"authority": False, "path_length": None}),
    "instance that is no authority": ("chain", INSTANCE, {"authority": False, "path_length": None}),
    "root that is no authority": ("chain", ROOT, {"authority": False}),
    "root path length": ("chain", ROOT, {"path_length": 2}),
    "regional path length": ("chain", REGIONAL, {"path_length": 1}),
    "zonal path length": ("chain", ZONAL, {"path_length": 0}),
    "regional without certificate signing": ("chain", REGIONAL, {"usages": frozenset({"digital_signature", "crl_sign"})}),
    "instance without certificate signing": ("chain", INSTANCE, {"usages": frozenset({"digital_signature"})}),
    "regional without key usage": ("chain", REGIONAL, {"usages": frozenset()}),
    "regional without basic constraints": ("chain", REGIONAL, {"constraints": False}),
    "regional with basic constraints that are not critical": ("chain", REGIONAL, {"constraints_critical": False}),
    "leaf that is an authority": ("chain", LEAF, {"authority": True}),
    "leaf that may sign certificates": ("chain", LEAF, {"usages": frozenset({"digital_signature", "key_cert_sign"})}),
    "leaf without digital signature": ("chain", LEAF, {"usages": frozenset({"content_commitment"})}),
    "leaf without key usage": ("chain", LEAF, {"usages": frozenset()}),
    "leaf without basic constraints": ("chain", LEAF, {"constraints": False}),
    "leaf with a path length": (
        "chain",
        LEAF,
        {"constraints": False, "extra": x509.Extension(LEAF_PATH_LENGTH.oid, True, LEAF_PATH_LENGTH)},
    ),
    "regional with another issuer's name": ("chain", REGIONAL, {"issuer": "somebody else"}),
    "leaf with another issuer's name": ("chain", LEAF, {"issuer": "somebody else"}),
    "regional with its issuer's name in another encoding": ("chain", REGIONAL, {"issuer": ROOT_NAME_PRINTABLE}),
    "zonal signed by another key": ("chain", ZONAL, {"foreign_issuer": True}),
    "leaf signed by another key": ("chain", LEAF, {"foreign_issuer": True}),
    "critical name constraints": ("chain", ZONAL, {"extra": NAME_CONSTRAINTS}),
    "unknown critical extension": ("chain", LEAF, {"extra": UNKNOWN_CRITICAL}),
    "leaf on P-256": ("algorithm", LEAF, {"curve": ec.SECP256R1}),
    "leaf on P-521": ("algorithm", LEAF, {"curve": ec.SECP521R1}),
    "leaf with RSA": ("algorithm", LEAF, {"curve": None}),
    "zonal on P-256": ("algorithm", ZONAL, {"curve": ec.SECP256R1}),
    "leaf signed over SHA-256": ("algorithm", LEAF, {"digest": hashes.SHA256}),
    "regional signed over SHA-512": ("algorithm", REGIONAL, {"digest": hashes.SHA512}),
}


@pytest.mark.parametrize("name", CHAIN)
def test_wrong_certificates_are_refused(name: str) -> None:
    rule, depth, wrong = CHAIN[name]
    assert refused(forge(shapes={depth: wrong})).rule == rule


def test_an_extension_that_is_unknown_but_not_critical_is_accepted() -> None:
    judge(forge(shapes={LEAF: {"extra": UNKNOWN_HARMLESS}}))


def test_one_authority_too_many_is_refused_by_path_length() -> None:
    assert refused(forge(chain=(*SHAPES[:LEAF], SHAPES[INSTANCE], SHAPES[LEAF]))).rule == "chain"


def test_a_chain_with_a_missing_link_is_refused() -> None:
    for depth in (REGIONAL, ZONAL, INSTANCE):
        fields = payload()
        del fields["cabundle"][depth]
        assert refused(CORRECT, signed(fields)).rule == "chain"


def test_certificates_in_another_order_are_refused() -> None:
    fields = payload()
    bundle = fields["cabundle"]
    bundle[REGIONAL], bundle[ZONAL] = bundle[ZONAL], bundle[REGIONAL]
    assert refused(CORRECT, signed(fields)).rule == "chain"


@pytest.mark.parametrize("der", [b"\x30", b"\x30\x00", bytes(64), b"\xff" * 1_024, CORRECT.leaf + b"\x00"])
def test_bytes_that_are_no_certificate_are_refused(der: bytes) -> None:
    assert refused(CORRECT, signed(payload() | {"certificate": der})).rule == "chain"


def test_a_certificate_has_one_form_only() -> None:
    """A count of unused bits stands before a certificate's signature, outside of what is signed; cryptography 50 does not look at it."""
    forged = next(forged for forged in iter(forge, None) if forged.leaf[-1] % 2 == 0)
    at = len(forged.leaf) - len(x509.load_der_x509_certificate(forged.leaf).signature) - 1
    assert (forged.leaf[at - 2], forged.leaf[at]) == (0x03, 0)  # BIT STRING, no unused bits
    changed = forged.leaf[:at] + b"\x01" + forged.leaf[at + 1 :]
    assert refused(forged, signed(payload(forged) | {"certificate": changed}, forged)).rule == "chain"


def test_a_verified_link_is_remembered_for_its_issuer_only() -> None:
    judge(CORRECT)
    other = forge()
    fields = payload(other)
    fields["certificate"] = CORRECT.leaf  # verified a moment ago, below another instance
    assert refused(other, signed(fields, CORRECT)).rule == "chain"


# Rule validity.


@pytest.mark.parametrize("depth", range(5))
def test_every_certificate_must_be_valid_at_the_time_of_judgement(depth: int) -> None:
    expired = forge(shapes={depth: {"lifetime": timedelta(seconds=30), "begins": timedelta(seconds=-60)}})
    assert refused(expired).rule == "validity"
    not_yet = forge(shapes={depth: {"begins": timedelta(seconds=30)}})
    assert refused(not_yet).rule == "validity"
    assert judge(not_yet, at_ms=MADE_AT_MS + 30_000).module_id == MODULE_ID


def test_validity_includes_its_first_and_its_last_second() -> None:
    forged = forge(shapes={LEAF: {"begins": timedelta(0), "lifetime": timedelta(seconds=10)}})
    begin_ms = MADE_AT_MS // 1000 * 1000
    judge(forged, at_ms=begin_ms)
    judge(forged, at_ms=begin_ms + 10_999)
    assert refused(forged, at_ms=begin_ms - 1).rule == "validity"
    assert refused(forged, at_ms=begin_ms + 11_000).rule == "validity"


def test_a_remembered_link_is_still_judged_by_time() -> None:
    judge(CORRECT)
    assert refused(CORRECT, at_ms=MADE_AT_MS + 86_400_000).rule == "validity"


def test_a_chain_is_judged_by_the_first_rule_it_breaks_from_the_root_down() -> None:
    assert refused(forge(shapes={LEAF: {"lifetime": timedelta(seconds=30), "foreign_issuer": True}})).rule == "chain"


# Rule signature.


@pytest.mark.parametrize(
    "signature", [bytes(96), b"\xff" * 96, CORRECT.document[-48:] + CORRECT.document[-96:-48]], ids=["zeros", "ones", "s and r"]
)
def test_other_signatures_are_refused(signature: bytes) -> None:
    assert refused(CORRECT, CORRECT.document[:-96] + signature).rule == "signature"


def test_a_payload_signed_by_the_instance_and_not_the_leaf_is_refused() -> None:
    assert refused(CORRECT, wrap(ec.generate_private_key(ec.SECP384R1()), cbor2.dumps(payload()))).rule == "signature"


def test_the_signature_of_another_document_of_the_same_leaf_is_refused() -> None:
    other = signed(payload() | {"nonce": b"another"})
    assert refused(CORRECT, CORRECT.document[:-96] + other[-96:]).rule == "signature"


# Debug is a fact here, and a refusal in the policy.


@pytest.mark.parametrize(
    ("pcrs", "debug"),
    [
        ({0: bytes(48), 1: bytes(48), 2: bytes(48)}, True),
        ({0: bytes(48)}, True),
        ({1: bytes(48)}, True),
        ({2: bytes(48)}, False),  # an image with a single ramdisk
        ({3: bytes(48), 4: bytes(48), 8: bytes(48)}, False),
    ],
)
def test_debug_is_read_from_pcr0_and_pcr1(pcrs: dict[int, bytes], debug: bool) -> None:
    assert judge(forge(pcrs=pcrs)).debug is debug


def test_a_document_that_hides_pcr0_counts_as_debug() -> None:
    assert judge(forge(change={"pcrs": {1: IMAGE.pcr1, 2: IMAGE.pcr2}})).debug


# No changed byte, and nothing but our own refusal.


def test_no_single_changed_byte_is_accepted() -> None:
    document = CORRECT.document
    for position in range(len(document)):
        changed = bytearray(document)
        changed[position] ^= 1 << (position * 5 % 8)
        refused(CORRECT, bytes(changed))


def test_every_cut_is_refused() -> None:
    for length in range(0, len(CORRECT.document), 7):
        assert refused(CORRECT, CORRECT.document[:length]).rule in ("size", "form")


def test_no_changed_byte_of_a_certificate_is_accepted_even_when_the_document_is_signed_anew() -> None:
    """The hypervisor's signature covers the bundle, but a thief of a leaf's key could sign any bundle."""
    for depth in range(1, 5):
        der = CORRECT.leaf if depth == LEAF else CORRECT.bundle[depth]
        for position in range(depth % 3, len(der), 3):
            changed = bytearray(der)
            changed[position] ^= 1 << (position * 3 % 8)
            fields = payload()
            if depth == LEAF:
                fields["certificate"] = bytes(changed)
            else:
                fields["cabundle"][depth] = bytes(changed)
            refused(CORRECT, signed(fields))


@settings(deadline=None)
@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: CORRECT.document[:40] + tail))
def test_hostile_bytes_raise_nothing_but_a_refusal(document: bytes) -> None:
    refused(CORRECT, document)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_spliced_documents_raise_nothing_but_a_refusal(data: st.DataObject) -> None:
    document = CORRECT.document
    begin = data.draw(st.integers(0, len(document)))
    end = data.draw(st.integers(begin, min(len(document), begin + data.draw(st.sampled_from([0, 1, 4, 4_000])))))
    spliced = document[:begin] + data.draw(st.binary(max_size=8) | st.just(document[begin:end] * 2)) + document[end:]
    if spliced == document:
        return
    refused(CORRECT, spliced)


HOSTILE: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**65), 2**65)
    | st.floats()
    | st.text(max_size=9)
    | st.binary(max_size=60)
    | st.just(CORRECT.leaf),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.integers(-1, 40) | st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from([*payload(), "other"]), HOSTILE)
@settings(max_examples=300, deadline=None)
def test_hostile_values_that_are_well_signed_raise_nothing_but_a_refusal(name: str, value: Any) -> None:
    document = signed(payload() | {name: value})
    try:
        said = judge(CORRECT, document)
    except LedgerdError as error:
        assert isinstance(error, AttestationError)
    else:
        assert decode(document).payload == cbor2.loads(document)[2]
        if name in ("public_key", "user_data", "nonce"):
            assert getattr(said, name) == value


# Names: the library reads them late, and strange ones not at all.


@pytest.mark.parametrize("kind", range(1, 31))
def test_a_name_of_a_strange_kind_is_refused_or_shown_and_nothing_else(kind: int) -> None:
    """A leaf whose common name is no text, or no UTF-8; its signature fits no more, so it is refused whatever it is called."""
    at = CORRECT.leaf.rindex(b"depth 4")
    for first in (b"\x00", b"\xff", b"e"):
        strange = CORRECT.leaf[: at - 2] + bytes((kind,)) + CORRECT.leaf[at - 1 : at] + first + CORRECT.leaf[at + 1 :]
        assert refused(CORRECT, signed(payload() | {"certificate": strange})).rule == "chain"


def test_a_name_of_bits_is_shown() -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.X500_UNIQUE_IDENTIFIER, b"\x00\xff\x01", x509.name._ASN1Type.BitString)])
    begin = datetime.fromtimestamp(MADE_AT_MS // 1000, UTC)
    certificate = x509.CertificateBuilder(name, name, key.public_key(), 1, begin, begin).sign(key, hashes.SHA384())
    loaded = load(certificate.public_bytes(Encoding.DER))
    assert loaded.name
    assert loaded.validity.startswith("2026-05-28T")
