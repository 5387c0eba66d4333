"""Public keys that verify tokens: which there are, how they are kept (DER SubjectPublicKeyInfo), and which algorithm each may verify.

Law: the key decides. What a token says of its algorithm is only compared with the one that its key has, so there is nothing to choose for
whoever made the token: no `none`, no HMAC with a public key as its secret, no RSA signature by a key of another kind.
"""

from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from ledgerd.ledger.errors import FormatError, IntegrityError

PublicKey: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

RSA_BITS_MIN: Final = 2048
RSA_BITS_MAX: Final = 8192  # a signature by a longer one takes a millisecond to verify, for whoever asks
RSA_EXPONENT_MIN: Final = 65537  # FIPS 186-5
RSA_EXPONENT_MAX: Final = (1 << 32) - 1
DER_SIZE_BYTES_MAX: Final = 2048  # of a key; one of RSA_BITS_MAX has 1,062


class Curve(NamedTuple):
    """What JSON Web Algorithms (RFC 7518) say of one curve.

    Attributes:
        name: Of the curve in JWK.
        algorithm: The only one that its keys have.
        size: Bytes of a coordinate, and of each half of a signature.
    """

    name: str
    algorithm: str
    size: int
    curve: ec.EllipticCurve
    hash: hashes.SHA256 | hashes.SHA384 | hashes.SHA512


CURVES: Final = {
    curve.curve.name: curve
    for curve in (
        Curve("P-256", "ES256", 32, ec.SECP256R1(), hashes.SHA256()),
        Curve("P-384", "ES384", 48, ec.SECP384R1(), hashes.SHA384()),
        Curve("P-521", "ES512", 66, ec.SECP521R1(), hashes.SHA512()),
    )
}
RSA_ALGORITHM: Final = "RS256"
ALGORITHMS: Final = (RSA_ALGORITHM, *(curve.algorithm for curve in CURVES.values()))


def check(key: Any) -> PublicKey:
    """Whether a public key is one that may verify tokens.

    Raises: FormatError: It is of another kind, or too weak.
    """
    if isinstance(key, rsa.RSAPublicKey):
        if not RSA_BITS_MIN <= key.key_size <= RSA_BITS_MAX:
            raise FormatError(f"an RSA key of {key.key_size} bits; {RSA_BITS_MIN} to {RSA_BITS_MAX} are allowed")
        exponent = key.public_numbers().e
        if not RSA_EXPONENT_MIN <= exponent <= RSA_EXPONENT_MAX:
            raise FormatError(f"an RSA key with the exponent {exponent}; {RSA_EXPONENT_MIN} to {RSA_EXPONENT_MAX} are allowed")
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in CURVES:
        return key
    raise FormatError(f"a key that is neither RSA nor on one of the curves {', '.join(curve.name for curve in CURVES.values())}")


def from_rsa_numbers(n: int, e: int) -> rsa.RSAPublicKey:
    """The RSA key of a modulus and an exponent, as a JWK gives them.

    Raises: FormatError: There is none. An even modulus is one that the library lets pass.
    """
    try:
        key = rsa.RSAPublicNumbers(e, n).public_key()
    except ValueError:
        key = None
    if key is None or n % 2 == 0:
        raise FormatError("n and e are no RSA public key")
    return key


def from_point(curve: Curve, x: int, y: int) -> ec.EllipticCurvePublicKey:
    """The key of a point on a curve, as a JWK gives it. Raises: FormatError: It is not on the curve."""
    try:
        return ec.EllipticCurvePublicNumbers(x, y, curve.curve).public_key()
    except ValueError:
        raise FormatError(f"x and y are no point on {curve.name}") from None


def to_der(key: PublicKey) -> bytes:
    """DER SubjectPublicKeyInfo."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@lru_cache(maxsize=64)  # a handful of issuers with a handful of keys sign everything; parsing one costs as much as a verification
def from_der(der: bytes) -> PublicKey:
    """Inverse of `to_der`.

    Raises: FormatError: It is no such key, or one that `check` refuses.
    """
    if len(der) > DER_SIZE_BYTES_MAX:
        raise FormatError(f"a key of {len(der)} bytes; at most {DER_SIZE_BYTES_MAX} are read")
    try:
        key = load_der_public_key(der)
    except Exception:  # the library's list of what it raises for strange bytes is long
        raise FormatError("bytes that are no public key") from None
    return check(key)


def algorithm_of(key: PublicKey) -> str:
    """The one algorithm of a key."""
    return RSA_ALGORITHM if isinstance(key, rsa.RSAPublicKey) else CURVES[key.curve.name].algorithm


def verify(key: PublicKey, algorithm: str, signature: bytes, data: bytes) -> None:
    """Verify a signature as RFC 7518 sections 3.3 and 3.4 say.

    Raises: IntegrityError: It does not verify, or `algorithm` is not the key's.
    """
    if algorithm != algorithm_of(key):
        raise IntegrityError(f"the token says {algorithm}, its key is for {algorithm_of(key)}")
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
            return
        curve = CURVES[key.curve.name]
        if len(signature) != 2 * curve.size:  # two numbers of fixed length, not DER
            raise InvalidSignature
        r, s = int.from_bytes(signature[: curve.size], "big"), int.from_bytes(signature[curve.size :], "big")
        key.verify(encode_dss_signature(r, s), data, ec.ECDSA(curve.hash))
    except InvalidSignature:
        raise IntegrityError("the signature is not this key's") from None
