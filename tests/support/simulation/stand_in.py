"""Cheap, deterministic stand-ins for keys and certificates: a signature is a digest that whoever knows the public key could make, too.

They keep the forms (DER, PEM, curve names), so that the product's own code builds and verifies everything around them; a changed byte is
found as with real ones. In the complete world, whose certificates are real, keys stand in for those that certificates name. AES-GCM, SHA-2
and the Merkle tree stay real: they cost little and are deterministic already.
"""

import base64
from functools import lru_cache
from hashlib import sha256, sha384
from types import SimpleNamespace
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_SHORTER: Final = 8  # so many bytes fewer than the curve has for each number of a signature: below its order
_BEGIN: Final = "-----BEGIN CERTIFICATE-----\n"
_END: Final = "\n-----END CERTIFICATE-----\n"


@lru_cache(maxsize=256)  # whoever verifies asks for what was signed a moment ago
def _signature(der: bytes, size: int, data: bytes) -> bytes:
    digest = sha384(der + data).digest()
    return encode_dss_signature(*(int.from_bytes(half[:size], "big") | 1 for half in (digest, sha384(digest).digest())))


class PublicKey:
    """Verifies."""

    curve: Any = SimpleNamespace(name="secp384r1")
    key_size = 384

    def __init__(self, name: str) -> None:
        self.name = name
        self.der = b"stand-in " + sha384(name.encode()).digest()

    @classmethod
    def of(cls, real: ec.EllipticCurvePublicKey) -> "PublicKey":
        """What stands in for a key that certificates name."""
        made = cls("")
        made.curve, made.key_size = real.curve, real.key_size
        made.der = real.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return made

    def public_bytes(self, encoding: Any, form: Any) -> bytes:
        """DER, for whoever only hashes it."""
        return self.der

    def verify(self, signature: bytes, data: bytes, algorithm: Any) -> None:
        """Raises: InvalidSignature: It is not this key's over this."""
        if signature != self.signature(data):
            raise InvalidSignature

    def signature(self, data: bytes) -> bytes:
        """DER, always the same for the same data."""
        return _signature(self.der, self.key_size // 8 - _SHORTER, data)


class PrivateKey:
    """Signs."""

    def __init__(self, public: PublicKey) -> None:
        self._public = public

    def public_key(self) -> PublicKey:
        """Its other half."""
        return self._public

    def sign(self, data: bytes, algorithm: Any) -> bytes:
        """As `PublicKey.signature`."""
        return self._public.signature(data)


class Certificate:
    """A name and its public key."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pem = _BEGIN + base64.b64encode(f"stand-in certificate of {name}".encode()).decode() + _END

    def public_bytes(self, encoding: Any) -> bytes:
        """PEM."""
        return self.pem.encode()

    def public_key(self) -> PublicKey:
        """Whose it is."""
        return PublicKey(self.name)


def read_certificate(pem: str | bytes) -> Certificate:
    """Read what `Certificate` wrote."""
    text = pem if isinstance(pem, str) else pem.decode()
    body = base64.b64decode(text.removeprefix(_BEGIN).removesuffix(_END)).decode()
    return Certificate(body.removeprefix("stand-in certificate of "))


class NodeKeys:
    """In the place of `keys.NodeKeys`."""

    def __init__(self, name: str) -> None:
        self.identity: Any = PrivateKey(PublicKey(name))
        self.public = PublicKey(name).der
        self.id: Any = sha256(self.public).hexdigest()
        self.encryption_public = sha256(name.encode()).digest()
        self.certificate: Any = Certificate(name)


class ServiceKeys:
    """In the place of `keys.ServiceKeys`."""

    def __init__(self) -> None:
        self.identity: Any = PrivateKey(PublicKey("service"))
        self.public = PublicKey("service").der
        self.certificate: Any = Certificate("service")
        self.certificate_pem = Certificate("service").pem
