"""RFC 7240, section 2."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledgerd.enclave.prefer import NO_PREFERENCE, WAIT_SECONDS_MAX, Prefer, parse_prefer


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", NO_PREFERENCE),
        ("committed", Prefer(True, False, None)),
        ("Committed", Prefer(True, False, None)),
        ('committed=""', Prefer(True, False, None)),  # "empty or zero-length values ... are equivalent to no value"
        ("committed=", Prefer(True, False, None)),
        ("committed=no", NO_PREFERENCE),
        ("receipt", Prefer(True, True, None)),
        ("committed, wait=10", Prefer(True, False, 10)),
        ("wait=10,committed", Prefer(True, False, 10)),
        ("respond-async, wait=0, receipt", Prefer(True, True, 0)),
        ("committed; wait=5", Prefer(True, False, None)),  # a parameter of committed, not a preference
        ('committed; note="a, receipt"', Prefer(True, False, None)),
        ('foo="a, receipt", wait="7"', Prefer(False, False, 7)),
        ("wait=3, wait=9", Prefer(False, False, 3)),  # "the first instance is to be considered"
        ("wait=x, committed", Prefer(True, False, None)),
        ("wait=-1", NO_PREFERENCE),
        ("wait=1.5", NO_PREFERENCE),
        ("wait=\u0663", NO_PREFERENCE),
        ("wait=99999999999999999999", Prefer(False, False, WAIT_SECONDS_MAX)),
        ("((, committed", Prefer(True, False, None)),
        (' committed\t,\twait = 4 ; x ; y="z" , ', Prefer(True, False, 4)),
        ("committedly, uncommitted", NO_PREFERENCE),
    ],
)
def test_preferences(value: str, expected: Prefer) -> None:
    assert parse_prefer(value) == expected


@given(st.text(alphabet='committed,;= "\\wait0\t(é', max_size=60))
def test_no_header_makes_it_fail(value: str) -> None:
    parsed = parse_prefer(value)
    assert parsed.committed or not parsed.receipt


def test_a_hostile_header_costs_little() -> None:
    for value in ('"' * 16_000, "a=" * 8_000, 'a;"' * 5_000, 'a;"b"' * 4_000 + "(", " " * 16_000, "a" * 16_000 + "(", "a;b=" * 4_000 + '"'):
        assert parse_prefer(value) == NO_PREFERENCE
