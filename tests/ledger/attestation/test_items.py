"""The closed grammar: what it reads equals what cbor2 reads, and everything outside of it is a FormatError."""

from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledgerd.ledger.attestation.items import DEPTH_MAX, ITEMS_MAX, read
from ledgerd.ledger.errors import FormatError

KEYS = st.integers(0, 2**64 - 1) | st.text(max_size=8)
SCALARS = st.integers(-(2**64), 2**64 - 1) | st.binary(max_size=300) | st.text(max_size=40) | st.booleans() | st.none()
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    return 0


@settings(deadline=None)
@given(VALUES.filter(lambda value: depth(value) <= DEPTH_MAX))
def test_what_the_grammar_knows_reads_as_it_was_written(value: Any) -> None:
    assert read(cbor2.dumps(value)) == value


@settings(deadline=None)
@given(VALUES.filter(lambda value: depth(value) <= DEPTH_MAX), st.data())
def test_every_cut_and_every_continuation_is_refused(value: Any, data: st.DataObject) -> None:
    encoded = cbor2.dumps(value)
    with pytest.raises(FormatError):
        read(encoded[: data.draw(st.integers(0, len(encoded) - 1))])
    with pytest.raises(FormatError, match="follow"):
        read(encoded + data.draw(st.binary(min_size=1, max_size=3)))


@settings(deadline=None)
@given(st.binary(max_size=64))
def test_hostile_bytes_raise_nothing_else_and_mean_what_cbor2_says(data: bytes) -> None:
    for shortest in (True, False):
        try:
            value = read(data, shortest=shortest)
        except FormatError:
            continue
        assert value == cbor2.loads(data)


@pytest.mark.parametrize(
    ("encoded", "value"),
    [("bf0141aaff", {1: b"\xaa"}), ("9f0102ff", [1, 2]), ("bfff", {}), ("9fff", []), ("bf61619f01ffff", {"a": [1]})],
)
def test_indefinite_maps_and_lists_are_read(encoded: str, value: Any) -> None:
    assert read(bytes.fromhex(encoded)) == value


@pytest.mark.parametrize(
    ("encoded", "why"),
    [
        ("", "cut short"),
        ("ff", "break"),
        ("a201f601f6", "twice"),
        ("bf01f601f6ff", "twice"),
        ("a2616101616102", "twice"),
        ("a1f501", "key"),  # true is not 1
        ("a120f6", "key"),
        ("a14101f6", "key"),
        ("a18001", "key"),
        ("a101ff", "break"),
        ("8201ff", "break"),
        ("bf01ff", "break"),
        ("5f4101ff", "chunked"),
        ("7f6161ff", "chunked"),
        ("1f", "chunked"),
        ("3f", "chunked"),
        ("c101", "tag"),
        ("d8184101", "tag"),
        ("f90000", "float"),
        ("fb0000000000000000", "float"),
        ("f7", "simple"),
        ("f0", "simple"),
        ("f814", "simple"),
        ("1c", "reserved"),
        ("5e", "reserved"),
        ("1817", "shortest"),
        ("190017", "shortest"),
        ("1900ff", "shortest"),
        ("1a0000ffff", "shortest"),
        ("1b00000000ffffffff", "shortest"),
        ("580141", "shortest"),
        ("61ff", "UTF-8"),
        ("62eda0", "UTF-8"),
        ("5bffffffffffffffff", "longer"),
        ("9bffffffffffffffff", "cut short"),
        ("bbffffffffffffffff", "cut short"),
        ("81" * (DEPTH_MAX + 1) + "01", "nested"),
        ("99" + (ITEMS_MAX + 1).to_bytes(2, "big").hex() + "01" * (ITEMS_MAX + 1), "more than"),
    ],
)
def test_what_lies_outside_the_grammar_is_refused(encoded: str, why: str) -> None:
    with pytest.raises(FormatError, match=why):
        read(bytes.fromhex(encoded))


def test_numbers_in_full_length_are_read_where_the_caller_says_so() -> None:
    assert read(bytes.fromhex("190001"), shortest=False) == 1
