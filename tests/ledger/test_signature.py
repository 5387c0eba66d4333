"""Signature entries: what is written, and what is not taken for one."""

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256

from ledgerd.ledger.entry import WriteSet
from ledgerd.ledger.errors import FormatError, IntegrityError
from ledgerd.ledger.ids import Seqno, TransactionId, View
from ledgerd.ledger.signature import COSE_SIGNATURES, SIGNATURES, SINGLETON_KEY, TREE, build, parse, sign_raw, verify_raw

KEY = ec.generate_private_key(ec.SECP384R1())
ROOT = b"\x77" * 32
NODE = "ab" * 32
SIGNED = sign_raw(KEY, ROOT)
WRITES = build(view=2, seqno=17, root=ROOT, node_id=NODE, certificate="PEM", signature=SIGNED, cose=b"\xd2cose", tree=b"tree")


def record() -> dict[str, Any]:
    value = WRITES[SIGNATURES][SINGLETON_KEY]
    assert value is not None
    parsed: dict[str, Any] = json.loads(value)
    return parsed


def with_raw(value: bytes | None) -> WriteSet:
    return {**WRITES, SIGNATURES: {SINGLETON_KEY: value}}


def test_the_maps_are_ccf_s() -> None:
    assert list(WRITES) == sorted(WRITES) == [COSE_SIGNATURES, SIGNATURES, TREE]
    assert record() == {
        "cert": "PEM",
        "commit_seqno": 0,
        "commit_view": 0,
        "hashed_nonce": "0" * 64,
        "node": NODE,
        "root": ROOT.hex(),
        "seqno": 17,
        "sig": base64.b64encode(SIGNED).decode(),
        "view": 2,
    }
    assert WRITES[COSE_SIGNATURES][SINGLETON_KEY] == b'"0mNvc2U="'
    assert WRITES[TREE][SINGLETON_KEY] == b"tree"


def test_a_signature_comes_back() -> None:
    found = parse(WRITES)
    assert found is not None
    assert found.raw is not None
    assert found.raw == (NODE, "PEM", ROOT, SIGNED, TransactionId(View(2), Seqno(17)))
    assert (found.cose, found.tree) == (b"\xd2cose", b"tree")


def test_either_signature_alone_is_enough() -> None:
    raw_only = parse({SIGNATURES: WRITES[SIGNATURES], TREE: WRITES[TREE]})
    cose_only = parse({COSE_SIGNATURES: WRITES[COSE_SIGNATURES]})
    assert raw_only is not None
    assert cose_only is not None
    assert raw_only.cose is None
    assert (cose_only.raw, cose_only.tree) == (None, None)


def test_other_entries_are_none() -> None:
    assert parse({}) is None
    assert parse({"public:records": {b"k": b"v"}}) is None


def test_the_raw_signature_takes_the_root_as_a_sha_256_digest_on_every_curve() -> None:
    for curve in (ec.SECP256R1(), ec.SECP384R1()):
        key = ec.generate_private_key(curve)
        signed = sign_raw(key, ROOT)
        key.public_key().verify(signed, ROOT, ec.ECDSA(Prehashed(SHA256())))
        verify_raw(key.public_key(), ROOT, signed)
        for wrong in (b"", signed[:-1], signed + b"\x00"):
            with pytest.raises(IntegrityError):
                verify_raw(key.public_key(), ROOT, wrong)
        with pytest.raises(IntegrityError):
            verify_raw(key.public_key(), bytes(32), signed)
        with pytest.raises(IntegrityError):
            verify_raw(KEY.public_key(), ROOT, signed)


@pytest.mark.parametrize(
    "change",
    [
        {"root": "00"},
        {"root": ROOT.hex().upper().replace("7", "A")},
        {"root": None},
        {"node": "xy" * 32},
        {"node": 1},
        {"cert": None},
        {"sig": "?"},
        {"sig": base64.b64encode(SIGNED).decode() + "\n"},
        {"sig": base64.b64encode(SIGNED).decode().rstrip("=") + "!"},
        {"seqno": "17"},
        {"seqno": True},
        {"seqno": 0},
        {"view": -1},
    ],
)
def test_malformed_records_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        parse(with_raw(json.dumps(record() | change).encode()))


@pytest.mark.parametrize("value", [b"", b"[]", b"null", b"{", b"\xff", b'{"root": 1, "root": 2}', b"[" * 100_000, None])
def test_what_is_no_record_is_refused(value: bytes | None) -> None:
    with pytest.raises(FormatError):
        parse(with_raw(value))


@pytest.mark.parametrize("value", [b"", b'""', b"1", b'"?"', b'"0mNvc2U"', None])
def test_what_is_no_cose_signature_is_refused(value: bytes | None) -> None:
    with pytest.raises(FormatError):
        parse({**WRITES, COSE_SIGNATURES: {SINGLETON_KEY: value}})


def test_more_than_one_value_is_refused() -> None:
    with pytest.raises(FormatError):
        parse({**WRITES, TREE: {SINGLETON_KEY: b"", b"other": b""}})
    with pytest.raises(FormatError):
        parse({**WRITES, TREE: {b"other": b""}})
    with pytest.raises(FormatError):
        parse({TREE: {SINGLETON_KEY: b""}})
    with pytest.raises(FormatError):
        parse({**WRITES, "public:records": {b"k": b"v"}})


def test_a_record_that_names_a_member_twice_is_refused() -> None:
    """Readers differ in which of both they take."""
    value = WRITES[SIGNATURES][SINGLETON_KEY]
    assert value is not None
    with pytest.raises(FormatError, match="twice"):
        parse(with_raw(value[:-1] + b',"view":3}'))
