"""Keys: made, and read from PEM.

Private keys leave as PKCS #8, public ones as SubjectPublicKeyInfo; PKCS #1 and SEC 1 are read too, encrypted keys are not.
"""

import os
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import cryptography.hazmat.backends.openssl.backend  # noqa: F401 - the library would import it at first use
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from ledgerd.enclave.runtime.crypto.arguments import Function, Kind, RefusalError, Surroundings, reason, text, utf8, whole

AES_BITS: Final = (128, 192, 256)
RSA_BITS_LEAST: Final = 2048  # that are made, as in CCF; smaller keys of others are read
RSA_BITS_MADE_MAX: Final = 4096  # takes about half a second, and at times several
RSA_BITS_MAX: Final = 8192  # of a key that is read: the work grows with the third power
EXPONENTS: Final = (3, 65_537)  # that the library makes keys for
CURVES: Final[dict[str, ec.EllipticCurve]] = {"secp256r1": ec.SECP256R1(), "secp384r1": ec.SECP384R1(), "secp521r1": ec.SECP521R1()}
CERTIFICATE: Final = "-----BEGIN CERTIFICATE-----"

Private: TypeAlias = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | x25519.X25519PrivateKey
Public: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | x25519.X25519PublicKey


def private_key(value: Any, what: str = "key") -> Private:
    """Read a private key. Raises: RefusalError: It cannot be read, or is of no kind that is known here."""
    data = utf8(text(value, what), what)
    try:
        # Whether an RSA key's primes are prime takes a hundred times longer than a signature, and concerns nobody but who brought it.
        key = load_pem_private_key(data, None, unsafe_skip_rsa_key_validation=True)
    except Exception as error:  # of hostile bytes; the library does not state which of its many exceptions can come
        raise RefusalError(f"{what} cannot be read as a private key in PEM without a password: {reason(error)}") from None
    if not isinstance(key, Private):
        raise RefusalError(f"{what} is {type(key).__name__}, of a kind that is not known here")
    _check(key, what)
    return key


def public_key(value: Any, what: str = "key", *, or_certificate: bool = False) -> Public:
    """Read a public key, or that of a certificate. Raises: RefusalError: As `private_key`."""
    pem = text(value, what)
    data = utf8(pem, what)
    try:
        if or_certificate and pem.lstrip().startswith(CERTIFICATE):
            key: Any = x509.load_pem_x509_certificate(data).public_key()
        else:
            key = load_pem_public_key(data)
    except Exception as error:  # as in `private_key`
        expected = "a public key or a certificate" if or_certificate else "a public key"
        raise RefusalError(f"{what} cannot be read as {expected} in PEM: {reason(error)}") from None
    if not isinstance(key, Public):
        raise RefusalError(f"{what} is {type(key).__name__}, of a kind that is not known here")
    _check(key, what)
    return key


def kind_of(key: Private | Public) -> str:
    """What a key is, for people."""
    if isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey):
        return "an RSA key"
    if isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
        return "an EC key"
    return "an Ed25519 key" if isinstance(key, ed25519.Ed25519PrivateKey | ed25519.Ed25519PublicKey) else "an X25519 key"


def private_pem(key: Private) -> str:
    """A private key as text."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def public_pem(key: Public) -> str:
    """A public key as text."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _check(key: Private | Public, what: str) -> None:
    if isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey) and key.key_size > RSA_BITS_MAX:
        raise RefusalError(f"{what} has {key.key_size} bits; RSA keys are used up to {RSA_BITS_MAX}", Kind.RANGE)
    if isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey) and key.curve.name not in CURVES:
        raise RefusalError(f"{what} is on the curve {key.curve.name}; known are {', '.join(CURVES)}", Kind.RANGE)


def _pair(key: Private) -> dict[str, str]:
    return {"privateKey": private_pem(key), "publicKey": public_pem(key.public_key())}


def _generate_aes_key(where: Surroundings, size: Any) -> bytes:
    bits = whole(size, "size")
    if bits not in AES_BITS:
        raise RefusalError(f"an AES key of {bits} bits: invalid key size (not one of 128, 192, 256)", Kind.RANGE)
    where.must_draw("generateAesKey")
    return os.urandom(bits // 8)


def _generate_rsa_key_pair(where: Surroundings, size: Any, exponent: Any = None) -> dict[str, str]:
    bits = whole(size, "size")
    e = 65_537 if exponent is None else whole(exponent, "exponent")
    if not RSA_BITS_LEAST <= bits <= RSA_BITS_MADE_MAX:
        raise RefusalError(f"an RSA key of {bits} bits; they are made with {RSA_BITS_LEAST} to {RSA_BITS_MADE_MAX}", Kind.RANGE)
    if e not in EXPONENTS:
        raise RefusalError(f"an RSA key with exponent {e}; they are made with 65537 or 3", Kind.RANGE)
    where.must_draw("generateRsaKeyPair")
    return _pair(rsa.generate_private_key(e, bits))


def _generate_ecdsa_key_pair(where: Surroundings, curve: Any) -> dict[str, str]:
    found = CURVES.get(text(curve, "curve"))
    if found is None:
        raise RefusalError(f"Unsupported curve id, supported: {', '.join(CURVES)}", Kind.RANGE)
    where.must_draw("generateEcdsaKeyPair")
    return _pair(ec.generate_private_key(found))


def _generate_eddsa_key_pair(where: Surroundings, curve: Any) -> dict[str, str]:
    name = text(curve, "curve")
    if name not in ("curve25519", "x25519"):
        raise RefusalError("Unsupported curve id, supported: curve25519, x25519", Kind.RANGE)
    where.must_draw("generateEddsaKeyPair")
    return _pair(ed25519.Ed25519PrivateKey.generate() if name == "curve25519" else x25519.X25519PrivateKey.generate())


FUNCTIONS: Final[Mapping[str, Function]] = {
    "generateAesKey": _generate_aes_key,
    "generateRsaKeyPair": _generate_rsa_key_pair,
    "generateEcdsaKeyPair": _generate_ecdsa_key_pair,
    "generateEddsaKeyPair": _generate_eddsa_key_pair,
}
