"""Sharing a key: vectors by hand, and what must hold of every key."""

import hmac
import random
import struct
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledgerd.ledger.errors import FormatError, UsageError
from ledgerd.ledger.shares import LIMBS, PRIME, SHARE_SIZE_BYTES, combine, split, wrapping_key


def drawing(*numbers: int) -> Any:
    """Randomness that gives these numbers."""
    left = iter(numbers)
    return lambda size: struct.pack("<I", next(left))


def numbers_of(share: bytes) -> tuple[int, ...]:
    return struct.unpack("<11I", share)


def seeded(seed: int) -> Any:
    return random.Random(seed).randbytes


# 7 + 3x, 8 + 3x, ...: at 1, 2 and 3; and one whose values pass the prime
_TWO_OF_THREE = [number for limb in range(LIMBS) for number in (7 + limb, 3)]


def test_a_vector_of_two_of_three() -> None:
    whole, shares = split(2, 3, drawing(*_TWO_OF_THREE))
    assert numbers_of(whole) == (0, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)
    assert numbers_of(shares[0]) == (1, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19)
    assert numbers_of(shares[2]) == (3, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25)
    assert shares[0].hex() == "01000000" + "".join(f"{number:02x}000000" for number in range(10, 20))


def test_a_vector_whose_values_pass_the_prime() -> None:
    whole, shares = split(3, 4, drawing(*[PRIME - 1, PRIME - 2, 5] * LIMBS))  # -1 - 2x + 5x^2
    assert [numbers_of(share)[1] for share in (whole, *shares)] == [PRIME - 1, 2, 15, 38, 71]
    assert combine(shares[1:]) == whole


def test_the_wrapping_key_is_hkdf_with_the_key_as_its_own_info() -> None:
    whole, _ = split(1, 0, drawing(*range(1, 11)))
    material = struct.pack("<10I", *range(1, 11))
    extracted = hmac.digest(bytes(32), material, "sha256")
    assert wrapping_key(whole) == hmac.digest(extracted, material + b"\x01", "sha256")  # RFC 5869, one block


@given(st.integers(1, 5), st.integers(0, 3), st.integers(0, 2**32))
def test_as_many_as_it_takes_have_the_key_again_whichever_they_are(threshold: int, more: int, seed: int) -> None:
    whole, shares = split(threshold, threshold + more, seeded(seed))
    assert [len(share) for share in (whole, *shares)] == [SHARE_SIZE_BYTES] * (threshold + more + 1)
    for some in combinations(shares, threshold):
        assert combine(some) == whole
        assert combine(some[::-1]) == whole
    assert combine(shares) == whole, "more than it takes do no harm"
    assert combine([*shares, whole]) == combine([whole]) == whole, "an owner's is the key itself"


@given(st.integers(2, 5), st.integers(0, 2**32), st.lists(st.integers(0, PRIME - 1), min_size=LIMBS, max_size=LIMBS))
def test_one_fewer_leave_every_key_possible(threshold: int, seed: int, other: list[int]) -> None:
    """For any key there is a last share that makes it of theirs, so they tell nothing of which one it is."""
    _, shares = split(threshold, threshold - 1, seeded(seed))
    wanted = struct.pack("<11I", 0, *other)
    last = []
    place, weights = threshold, [1] * threshold  # Lagrange's, at 0, of places 1 to `threshold`
    for one in range(1, threshold + 1):
        for another in range(1, threshold + 1):
            if one != another:
                weights[one - 1] = weights[one - 1] * another * pow(another - one, -1, PRIME) % PRIME
    for limb in range(LIMBS):
        sum_of_others = sum(weights[at] * numbers_of(share)[limb + 1] for at, share in enumerate(shares))
        last.append((other[limb] - sum_of_others) * pow(weights[-1], -1, PRIME) % PRIME)
    assert combine([*shares, struct.pack("<11I", place, *last)]) == wanted


def test_too_few_or_wrong_shares_give_another_key() -> None:
    whole, shares = split(3, 5, seeded(1))
    _, others = split(3, 5, seeded(2))
    assert combine(shares[:2]) != whole
    assert combine([*shares[:2], others[2]]) != whole
    assert combine([*shares[:3], others[4]]) != whole


def test_keys_are_drawn_evenly_below_the_prime() -> None:
    """The pattern that would be the prime itself is drawn again, and the bit above is not looked at."""
    draws = [0xFFFFFFFF, 0x7FFFFFFF, 0x80000005]
    whole, _ = split(1, 0, drawing(*draws, *range(9)))
    assert numbers_of(whole)[1:] == (5, *range(9))


@pytest.mark.parametrize("shares", [[], [b""], [bytes(43)], [bytes(45)], [struct.pack("<11I", PRIME, *[0] * 10)]])
def test_what_is_no_share_is_refused(shares: list[bytes]) -> None:
    with pytest.raises(FormatError):
        combine(shares)


def test_shares_of_one_place_numbers_out_of_range_and_single_shares_are_refused() -> None:
    _, shares = split(2, 3, seeded(1))
    with pytest.raises(FormatError, match="same place"):
        combine([shares[0], shares[0]])
    with pytest.raises(FormatError, match="not below"):
        combine([shares[0], struct.pack("<11I", 9, *[PRIME] * 10)])
    with pytest.raises(FormatError, match="combine as many"):
        wrapping_key(shares[0])
    for threshold, count in ((0, 3), (-1, 3), (1, -1), (1, PRIME)):
        with pytest.raises(UsageError):
            split(threshold, count, seeded(1))
