"""Keys, numbers and signatures that a name decides, in the place of what OpenSSL and the kernel draw.

A run must repeat exactly in another process, though hosts corrupt bytes by their place in a message: so certificates must be as long as
they were, and an ECDSA signature in DER, or a serial number, is a byte shorter now and then.
"""

from collections.abc import Callable
from functools import partialmethod
from random import Random
from typing import Any
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from nacl.public import PrivateKey

from ledgerd.node.simulator import pki
from support.simulation.patches import Change


class Curves:
    """In the place of the module `ec`: keys come from `chance`."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance

    def __getattr__(self, name: str) -> Any:
        return getattr(ec, name)

    def generate_private_key(self, curve: ec.EllipticCurve) -> ec.EllipticCurvePrivateKey:
        return ec.derive_private_key(self._chance.getrandbits(curve.key_size - 1) | 1, curve)


class Boxes:
    """In the place of libsodium's class of private keys: keys come from `chance`."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance

    def generate(self) -> PrivateKey:
        return PrivateKey(self._chance.randbytes(PrivateKey.SIZE))


class _Numbers:
    """In the place of the modules `secrets` and `uuid`."""

    def __init__(self, chance: Random) -> None:
        self.randbits: Callable[[int], int] = chance.getrandbits
        self._chance = chance

    def token_hex(self, size: int) -> str:
        return self._chance.randbytes(size).hex()

    def uuid4(self) -> UUID:
        return UUID(int=self._chance.getrandbits(128))


def certificates() -> list[Change]:
    """Signatures of certificates, and of requests for some, follow from the key and what is signed (RFC 6979)."""
    builders = (x509.CertificateBuilder, x509.CertificateSigningRequestBuilder)
    return [(builder, "sign", partialmethod(builder.sign, ecdsa_deterministic=True)) for builder in builders]


def platform(name: str) -> list[Change]:
    """What the simulated platform draws while `name` is made."""
    chance = Random(f"platform {name}")
    numbers = _Numbers(chance)
    return [(pki, "ec", Curves(chance)), (pki, "secrets", numbers), (pki, "uuid", numbers), *certificates()]
