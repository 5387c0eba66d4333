"""Sharing a key among members so that some of them together have it again and fewer know nothing of it: Shamir's scheme, in CCF's format.

A key is ten numbers below the prime 2^31 - 1. For each a polynomial is drawn whose value at 0 is that number, and whose degree is one less
than the members that it takes; a share is the polynomials' values at one other place. As many shares as it takes give all of the
polynomials, by Lagrange; with one fewer every key is as likely as any other.
Nothing here is constant-time. Each key and its polynomials are used once, within one call, and thrown away; whoever combines shares does so
on a machine of its own.
Not here: encrypting shares to members, what the key wraps (`enclave.governing.sharing`); randomness, which callers bring.
Source: Shamir, How to share a secret, 1979; docs/formats/ledger-secrets.md.
"""

import struct
from collections.abc import Callable, Sequence
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ledgerd.ledger.errors import FormatError, UsageError

PRIME: Final = (1 << 31) - 1
LIMBS: Final = 10
SHARE_SIZE_BYTES: Final = 44
WHOLE: Final = 0
"""Place of the key itself: a share that says it is the whole key."""

_SHARE = struct.Struct(f"<I{LIMBS}I")
_DRAW: Final = struct.Struct("<I")


def split(threshold: int, count: int, draw: Callable[[int], bytes]) -> tuple[bytes, list[bytes]]:
    """Draw a key, and share it.

    Args:
        threshold: How many shares have the key again, at least 1.
        count: How many shares there are to be, of places 1 to `count`.
        draw: Gives so many unpredictable bytes.
    Returns: The whole key as a share, and the shares; 44 bytes each.
    Raises: UsageError: Numbers out of range.
    """
    if threshold < 1 or not 0 <= count < PRIME:
        raise UsageError(f"a key cannot be shared {threshold} of {count}")
    polynomials = [[_below_prime(draw) for _ in range(threshold)] for _ in range(LIMBS)]  # the constant term first
    whole, *shares = (_SHARE.pack(place, *(_value(polynomial, place) for polynomial in polynomials)) for place in range(count + 1))
    return whole, shares


def combine(shares: Sequence[bytes]) -> bytes:
    """The key as a whole share, from as many shares as it takes; or from one that is the whole key.

    With too few, or wrong ones, it is another key: what it opens tells.
    Raises: FormatError: One is no share, or two are of one place.
    """
    if not shares:
        raise FormatError("no shares")
    read = [_read(share) for share in shares]
    for place, _ in read:
        if place == WHOLE:
            return next(share for share, (at, _) in zip(shares, read, strict=True) if at == WHOLE)
    places = [place for place, _ in read]
    if len(set(places)) != len(places):
        raise FormatError("two shares are of the same place: the same member's twice, or of different keys")
    limbs = [0] * LIMBS
    for place, values in read:
        weight = 1
        for other in places:
            if other != place:
                weight = weight * other * pow(other - place, -1, PRIME) % PRIME
        limbs = [(limb + weight * value) % PRIME for limb, value in zip(limbs, values, strict=True)]
    return _SHARE.pack(WHOLE, *limbs)


def wrapping_key(whole: bytes) -> bytes:
    """The AES-256 key that a whole share stands for.

    CCF gives HKDF the same bytes for its `info` as for its key, where a label was meant; who reads CCF's ledgers must do so, too.
    Raises: FormatError: It is no whole share.
    """
    place, _ = _read(whole)
    if place != WHOLE:
        raise FormatError(f"a share of place {place} alone is no key; combine as many as it takes")
    material = whole[4:]
    return HKDF(SHA256(), 32, salt=None, info=material).derive(material)


def _read(share: bytes) -> tuple[int, tuple[int, ...]]:
    if len(share) != SHARE_SIZE_BYTES:
        raise FormatError(f"a share has {SHARE_SIZE_BYTES} bytes, not {len(share)}")
    place, *values = _SHARE.unpack(share)
    if place >= PRIME or any(value >= PRIME for value in values):
        raise FormatError("a share has a number that is not below 2^31 - 1")
    return place, tuple(values)


def _value(polynomial: list[int], place: int) -> int:
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * place + coefficient) % PRIME
    return value


def _below_prime(draw: Callable[[int], bytes]) -> int:
    """A number below the prime, each as likely: of 31 bits all but one pattern."""
    while True:
        (number,) = _DRAW.unpack(draw(_DRAW.size))
        number &= PRIME
        if number < PRIME:
            return int(number)
