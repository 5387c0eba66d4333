"""Where two write sets differ, in words."""

import pytest

from ledgerd.enclave.auditing.findings import Difference, difference, short
from ledgerd.ledger.entry import WriteSet

TABLE, KEY = "public:t", b"ab" * 32


@pytest.mark.parametrize(
    ("expected", "found", "where", "said"),
    [
        ({TABLE: {KEY: b"1"}}, {}, "public:t abababababababab...", ("1", "nothing written")),
        ({}, {TABLE: {KEY: None}}, "public:t abababababababab...", ("nothing written", "removal")),
        ({TABLE: {bytes(8): b"\xff"}}, {TABLE: {bytes(8): b"\xfe"}}, "public:t", ("0xff", "0xfe")),
        ({TABLE: {b"\xff": b"1"}}, {TABLE: {b"\xff": b"2"}}, "public:t 0xff...", ("1", "2")),
        ({TABLE: {b"k": b'{"a":{"b":1,"c":2}}'}}, {TABLE: {b"k": b'{"a":{"b":1,"c":3}}'}}, "public:t k, a.c", ("2", "3")),
        ({TABLE: {b"k": b'{"a":1}'}}, {TABLE: {b"k": b'{"a":1,"b":null}'}}, "public:t k, b", ("nothing written", "null")),
        ({TABLE: {b"k": b'{"a":1}'}}, {TABLE: {b"k": b'{"a": 1}'}}, "public:t k", ('{"a":1}', '{"a": 1}')),
        ({TABLE: {b"k": b'{"a":1}'}}, {TABLE: {b"k": b'{"a":1,"a":1}'}}, "public:t k", ('{"a":1}', '{"a":1,"a":1}')),
    ],
)
def test_the_first_difference_is_named(expected: WriteSet, found: WriteSet, where: str, said: tuple[str, str]) -> None:
    assert difference(expected, found) == Difference(where, *said)
    assert difference(expected, expected) is None


def test_what_is_long_is_cut() -> None:
    found = difference({TABLE: {b"k": b"x" * 1000}}, {TABLE: {b"k": b"y"}})
    assert found is not None
    assert found.expected == f"{'x' * 200}... (1000 characters)"
    assert short("ab" * 32) == "abababababababab..."
