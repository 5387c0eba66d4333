"""Deterministic CBOR: RFC 8949, by its own clauses."""

import contextlib
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledgerd.ledger import cbor
from ledgerd.ledger.errors import FormatError, UsageError


def test_keys_are_in_bytewise_order_of_their_encodings() -> None:
    """4.2.1: "The keys in every map MUST be sorted in the bytewise lexicographic order of their deterministic encodings." """
    # the example of that section: 10, 100, -1, "z", "aa", [100], [-1], false (arrays are no keys here)
    encoded = cbor.encode({False: 0, "aa": 0, "z": 0, -1: 0, 100: 0, 10: 0})
    assert encoded.hex() == "a6" + "0a00" + "186400" + "2000" + "617a00" + "62616100" + "f400"


@pytest.mark.parametrize(
    ("value", "expected"),
    [(23, "17"), (24, "1818"), (256, "190100"), (65536, "1a00010000"), ((1 << 64) - 1, "1b" + "ff" * 8), (-(1 << 64), "3b" + "ff" * 8)],
)
def test_numbers_are_as_short_as_can_be(value: int, expected: str) -> None:
    """4.2.1: "Preferred serialization MUST be used." """
    assert cbor.encode(value).hex() == expected


KEYS = st.integers(-(1 << 64), (1 << 64) - 1) | st.text(max_size=8) | st.binary(max_size=8)
VALUES = st.recursive(
    KEYS | st.booleans() | st.none(), lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


@given(VALUES)
def test_what_is_encoded_comes_back_and_encodes_the_same(value: Any) -> None:
    data = cbor.encode(value)
    assert cbor.decode(data) == value
    assert cbor.encode(cbor.decode(data)) == data
    assert cbor2.loads(data) == value


@given(st.dictionaries(KEYS, st.integers(0, 9), min_size=2, max_size=6))
def test_the_order_of_insertion_does_not_show(value: dict[Any, int]) -> None:
    assert cbor.encode(value) == cbor.encode(dict(reversed(value.items())))


@given(VALUES)
def test_every_cut_and_every_longer_form_is_refused(value: Any) -> None:
    data = cbor.encode(value)
    for end in range(len(data)):
        with pytest.raises(FormatError):
            cbor.decode(data[:end])
    for more in (b"\x00", b"\xff", data):
        with pytest.raises(FormatError):
            cbor.decode(data + more)


@pytest.mark.parametrize(
    "data",
    [
        "a201000100",
        "9f00ff",
        "5f4100ff",
        "bf0000ff",
        "c100",
        "82c100",
        "c249010000000000000000",
        "d81c80",
        "d81d00",
        "d82361ff",
        "d9d9f700",
        "61ff",
        "ff",
        "1c",
    ],
)
def test_what_strangers_may_not_send_is_refused(data: str) -> None:
    """Duplicate keys, indefinite lengths, tags with a meaning, broken text, reserved bytes."""
    with pytest.raises(FormatError):
        cbor.decode(bytes.fromhex(data))


def test_indefinite_lengths_are_read_where_asked() -> None:
    assert cbor.decode(bytes.fromhex("9f00ff"), indefinite=True) == [0]
    with pytest.raises(FormatError):
        cbor.decode(bytes.fromhex("bf00000000ff"), indefinite=True)  # duplicates are refused there too


def test_nesting_is_bounded_on_both_sides() -> None:
    nested: Any = 0
    for _ in range(16):
        nested = [nested]
    assert cbor.decode(cbor.encode(nested)) == nested
    with pytest.raises(UsageError):
        cbor.encode([nested])
    for data in (b"\x81" * 17 + b"\x00", b"\x81" * 100_000, b"\xa1\x00" * 100_000, b"\xc6" * 100_000):
        with pytest.raises(FormatError):
            cbor.decode(data)
    with pytest.raises(FormatError):
        cbor.decode(cbor.encode([[0]]), depth=1)


def test_huge_lengths_are_refused_before_memory_is_taken() -> None:
    for data in ("5b7fffffffffffffff", "9b7fffffffffffffff", "bb7fffffffffffffff", "7bffffffffffffffff"):
        with pytest.raises(FormatError):
            cbor.decode(bytes.fromhex(data))


@given(st.binary(max_size=80))
def test_arbitrary_bytes_never_do_worse_than_a_refusal(data: bytes) -> None:
    for indefinite in (False, True):
        with contextlib.suppress(FormatError):
            cbor.decode(data, indefinite=indefinite)


@pytest.mark.parametrize("value", [1.5, {1, 2}, object(), 1 << 64, [2.0], {1.0: 0}])
def test_what_has_no_deterministic_form_here_is_refused(value: Any) -> None:
    with pytest.raises(UsageError):
        cbor.encode(value)


@pytest.mark.parametrize("depth", [0, 17])
def test_the_depth_that_may_be_asked_for_is_bounded(depth: int) -> None:
    with pytest.raises(UsageError):
        cbor.decode(b"\x00", depth=depth)


@pytest.mark.parametrize("item", ["00", "a0", "80", "40", "6161", "c600", "5fff", "9fff", "f4", "1800"])
def test_what_would_take_long_to_read_is_refused_by_its_count_of_items(item: str) -> None:
    most = 1 << 20
    data = bytes.fromhex("9b") + most.to_bytes(8, "big") + bytes.fromhex(item) * most
    with pytest.raises(FormatError, match="more than 4096 items"):
        cbor.decode(data, indefinite=True)
    with pytest.raises(FormatError, match="more than 4096 items"):
        cbor.decode(b"\x9f" + bytes.fromhex(item) * most + b"\xff", indefinite=True)


def test_large_strings_are_one_item_each() -> None:
    value = [bytes(1 << 20), "x" * (1 << 16), b"\xa0" * 300, *range(4092)]
    assert cbor.decode(cbor.encode(value)) == value
    with pytest.raises(FormatError, match="more than 4096 items"):
        cbor.decode(cbor.encode([*value, 0]))
