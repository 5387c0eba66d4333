"""Keys as JSON Web Keys and back: RSA, the three NIST curves, and Ed25519 with X25519.

What a JWK says beside the key (`use`, `alg`, ...) is neither read nor written, but for `kid`. Which numbers are a key is for
`enclave.jwt.keys` to say, as for those that sign tokens; that base64url is padded, or a coordinate lacks its zeros in front, matters to
members who vote for a key, and not here.
Source: RFC 7517; RFC 7518, 6.2 and 6.3; RFC 8037, 2.
"""

import base64
import binascii
from collections.abc import Mapping
from functools import partial
from typing import Any, Final, TypeAlias

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from ledgerd.enclave.jwt.keys import CURVES, from_point, from_rsa_numbers
from ledgerd.enclave.runtime.crypto.arguments import Function, Kind, RefusalError, Surroundings, members, reason, text
from ledgerd.enclave.runtime.crypto.keys import (
    RSA_BITS_MAX,
    Private,
    Public,
    kind_of,
    private_key,
    private_pem,
    public_key,
    public_pem,
)

_EC, _RSA, _OKP = "EC", "RSA", "OKP"
_CURVES: Final = {curve.name: curve for curve in CURVES.values()}
_KID_LENGTH_MAX: Final = 1 << 10
_NUMBER_LENGTH_MAX: Final = RSA_BITS_MAX // 6 + 4  # in base64url

_Edwards: TypeAlias = ed25519.Ed25519PublicKey | x25519.X25519PublicKey
_PRIVATE: Final[dict[str, tuple[type, ...]]] = {
    _EC: (ec.EllipticCurvePrivateKey,),
    _RSA: (rsa.RSAPrivateKey,),
    _OKP: (ed25519.Ed25519PrivateKey, x25519.X25519PrivateKey),
}
_PUBLIC: Final[dict[str, tuple[type, ...]]] = {
    _EC: (ec.EllipticCurvePublicKey,),
    _RSA: (rsa.RSAPublicKey,),
    _OKP: (ed25519.Ed25519PublicKey, x25519.X25519PublicKey),
}
_EXPECTED: Final = {_EC: "an EC key", _RSA: "an RSA key", _OKP: "an Ed25519 or X25519 key"}


# PEM to JWK.


def _to_jwk(kind: str, is_private: bool, _: Surroundings, pem: Any, kid: Any = None) -> dict[str, str]:
    key: Private | Public = private_key(pem, "pem") if is_private else public_key(pem, "pem")
    if not isinstance(key, (_PRIVATE if is_private else _PUBLIC)[kind]):
        raise RefusalError(f"pem is {kind_of(key)}, where {_EXPECTED[kind]} is expected")
    jwk = _described(key)
    if kid is not None:
        jwk["kid"] = text(kid, "kid", _KID_LENGTH_MAX)
    return jwk


def _described(key: Private | Public) -> dict[str, str]:
    if isinstance(key, rsa.RSAPublicKey):
        public = key.public_numbers()
        return {"kty": _RSA, "n": _encoded(public.n), "e": _encoded(public.e)}
    if isinstance(key, ec.EllipticCurvePublicKey):
        curve, point = CURVES[key.curve.name], key.public_numbers()
        return {"kty": _EC, "crv": curve.name, "x": _encoded(point.x, curve.size), "y": _encoded(point.y, curve.size)}
    if isinstance(key, _Edwards):
        name = "Ed25519" if isinstance(key, ed25519.Ed25519PublicKey) else "X25519"
        return {"kty": _OKP, "crv": name, "x": _base64url(key.public_bytes(Encoding.Raw, PublicFormat.Raw))}
    jwk = _described(key.public_key())
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.private_numbers()
        parts = {"d": numbers.d, "p": numbers.p, "q": numbers.q, "dp": numbers.dmp1, "dq": numbers.dmq1, "qi": numbers.iqmp}
        return jwk | {name: _encoded(value) for name, value in parts.items()}
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return jwk | {"d": _encoded(key.private_numbers().private_value, CURVES[key.curve.name].size)}
    return jwk | {"d": _base64url(key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()))}


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _encoded(number: int, size: int | None = None) -> str:
    return _base64url(number.to_bytes((number.bit_length() + 7) // 8 if size is None else size, "big"))


# JWK to PEM.


def _to_pem(kind: str, is_private: bool, _: Surroundings, jwk: Any) -> str:
    parts = members(jwk, "jwk")
    if parts.get("kty") != kind:
        raise RefusalError(f"jwk.kty must be {kind!r}: {_EXPECTED[kind]} is expected")
    kid = parts.get("kid")
    if kid is not None:
        text(kid, "jwk.kid", _KID_LENGTH_MAX)
    try:
        if is_private:
            return private_pem(_read_private(kind, parts))
        return public_pem(_read_public(kind, parts))
    except RefusalError:
        raise
    except Exception as error:  # of hostile numbers; the library does not state which of its many exceptions can come
        raise RefusalError(f"jwk is no {'private' if is_private else 'public'} key: {reason(error)}") from None


def _read_public(kind: str, parts: dict[str, Any]) -> Public:
    if kind == _RSA:
        return _modulus(parts)
    if kind == _EC:
        return _point(parts)
    data = _octets(parts, "x")
    return ed25519.Ed25519PublicKey.from_public_bytes(data) if _is_ed25519(parts) else x25519.X25519PublicKey.from_public_bytes(data)


def _read_private(kind: str, parts: dict[str, Any]) -> Private:
    if kind == _RSA:
        public = _modulus(parts).public_numbers()
        d, p, q, dp, dq, qi = (_number(parts, name) for name in ("d", "p", "q", "dp", "dq", "qi"))
        return rsa.RSAPrivateNumbers(p, q, d, dp, dq, qi, public).private_key()
    if kind == _EC:
        return ec.EllipticCurvePrivateNumbers(_number(parts, "d"), _point(parts).public_numbers()).private_key()
    data = _octets(parts, "d")
    key: ed25519.Ed25519PrivateKey | x25519.X25519PrivateKey
    if _is_ed25519(parts):
        key = ed25519.Ed25519PrivateKey.from_private_bytes(data)
    else:
        key = x25519.X25519PrivateKey.from_private_bytes(data)
    if key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw) != _octets(parts, "x"):
        raise RefusalError("jwk.x is not the public key of jwk.d")
    return key


def _is_ed25519(parts: dict[str, Any]) -> bool:
    curve = parts.get("crv")
    if curve not in ("Ed25519", "X25519"):
        raise RefusalError("jwk.crv must be Ed25519 or X25519", Kind.RANGE)
    return bool(curve == "Ed25519")


def _modulus(parts: dict[str, Any]) -> rsa.RSAPublicKey:
    return from_rsa_numbers(_number(parts, "n"), _number(parts, "e"))


def _point(parts: dict[str, Any]) -> ec.EllipticCurvePublicKey:
    curve = _CURVES.get(text(parts.get("crv"), "jwk.crv"))
    if curve is None:
        raise RefusalError(f"jwk.crv must be one of {', '.join(_CURVES)}", Kind.RANGE)
    return from_point(curve, _number(parts, "x"), _number(parts, "y"))


def _octets(parts: dict[str, Any], name: str) -> bytes:
    value = parts.get(name)
    if type(value) is not str or not value:
        raise RefusalError(f"jwk.{name} is missing, or no text", Kind.TYPE)
    if len(value) > _NUMBER_LENGTH_MAX:
        raise RefusalError(f"jwk.{name} has {len(value)} characters; at most {_NUMBER_LENGTH_MAX} are read", Kind.RANGE)
    digits = value.rstrip("=")
    try:
        if set("+/") & set(digits):
            raise ValueError
        return base64.b64decode((digits + "=" * (-len(digits) % 4)).encode("ascii"), b"-_", validate=True)
    except (ValueError, binascii.Error):
        raise RefusalError(f"jwk.{name} is no base64url") from None


def _number(parts: dict[str, Any], name: str) -> int:
    return int.from_bytes(_octets(parts, name), "big")


FUNCTIONS: Final[Mapping[str, Function]] = {
    "pubPemToJwk": partial(_to_jwk, _EC, False),
    "pemToJwk": partial(_to_jwk, _EC, True),
    "pubRsaPemToJwk": partial(_to_jwk, _RSA, False),
    "rsaPemToJwk": partial(_to_jwk, _RSA, True),
    "pubEddsaPemToJwk": partial(_to_jwk, _OKP, False),
    "eddsaPemToJwk": partial(_to_jwk, _OKP, True),
    "pubJwkToPem": partial(_to_pem, _EC, False),
    "jwkToPem": partial(_to_pem, _EC, True),
    "pubRsaJwkToPem": partial(_to_pem, _RSA, False),
    "rsaJwkToPem": partial(_to_pem, _RSA, True),
    "pubEddsaJwkToPem": partial(_to_pem, _OKP, False),
    "eddsaJwkToPem": partial(_to_pem, _OKP, True),
}
