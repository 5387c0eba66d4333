"""The one source of randomness in the trusted code.

The kernel's generator, which in a Nitro enclave is fed by the security module, read through libsodium. Key generation stays
inside OpenSSL, which seeds itself from the same place.
"""

from nacl.utils import random as _kernel_random


def random_bytes(size: int) -> bytes:
    """Return `size` unpredictable bytes."""
    return _kernel_random(size)


def jitter() -> float:
    """Return a number in [0, 1), for election timers."""
    return int.from_bytes(_kernel_random(7), "big") / (1 << 56)
