"""Signatures, in the forms of the Web Crypto API: ECDSA as r and s side by side (IEEE P1363), salts of RSA-PSS as given.

A signature that does not fit is False, whatever is wrong with it; a key that cannot be read or does not suit the algorithm is refused.
"""

import hmac
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from ledgerd.enclave.runtime.crypto.arguments import Function, Kind, RefusalError, Surroundings, members, octets, reason, text, utf8, whole
from ledgerd.enclave.runtime.crypto.digests import DIGESTS
from ledgerd.enclave.runtime.crypto.keys import Private, Public, kind_of, private_key, public_key

_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {"SHA-256": hashes.SHA256(), "SHA-384": hashes.SHA384(), "SHA-512": hashes.SHA512()}
_EDDSA, _ECDSA, _PSS, _HMAC = "EdDSA", "ECDSA", "RSA-PSS", "HMAC"
_NAMES: Final = (_PSS, _ECDSA, _EDDSA, _HMAC)
_HMAC_KEY_LENGTH_MAX: Final = 64 << 10


def _sign(where: Surroundings, algorithm: Any, key: Any, data: Any) -> bytes:
    parameters = members(algorithm, "algorithm")
    name = _name(parameters)
    content = octets(data, "data")
    if name == _HMAC:
        return _mac(parameters, key, content)
    private = private_key(key)
    if name == _EDDSA:
        if not isinstance(private, ed25519.Ed25519PrivateKey):
            _does_not_suit(name, private)
        return private.sign(content)
    digest = _HASHES[_hash(parameters)]
    if name == _ECDSA:
        if not isinstance(private, ec.EllipticCurvePrivateKey):
            _does_not_suit(name, private)
        where.must_draw("signing with ECDSA")
        r, s = decode_dss_signature(private.sign(content, ec.ECDSA(digest)))
        size = _half(private.curve)
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")
    if not isinstance(private, rsa.RSAPrivateKey):
        _does_not_suit(name, private)
    salt = _salt_bytes(parameters)
    if salt:
        where.must_draw("signing with RSA-PSS and a salt")
    try:
        return private.sign(content, padding.PSS(padding.MGF1(digest), salt), digest)
    except ValueError as error:
        raise RefusalError(f"the key of {private.key_size} bits cannot sign with a salt of {salt} bytes: {reason(error)}") from None


def _verify_signature(_: Surroundings, algorithm: Any, key: Any, signature: Any, data: Any) -> bool:
    parameters = members(algorithm, "algorithm")
    name = _name(parameters)
    given, content = octets(signature, "signature"), octets(data, "data")
    if name == _HMAC:
        return hmac.compare_digest(_mac(parameters, key, content), given)
    public = public_key(key, or_certificate=True)
    try:
        if name == _EDDSA:
            if not isinstance(public, ed25519.Ed25519PublicKey):
                _does_not_suit(name, public)
            public.verify(given, content)
            return True
        digest = _HASHES[_hash(parameters)]
        if name == _ECDSA:
            if not isinstance(public, ec.EllipticCurvePublicKey):
                _does_not_suit(name, public)
            size = _half(public.curve)
            if len(given) != 2 * size:
                return False
            r, s = int.from_bytes(given[:size], "big"), int.from_bytes(given[size:], "big")
            public.verify(encode_dss_signature(r, s), content, ec.ECDSA(digest))
            return True
        if not isinstance(public, rsa.RSAPublicKey):
            _does_not_suit(name, public)
        public.verify(given, content, padding.PSS(padding.MGF1(digest), _salt_bytes(parameters)), digest)
    except InvalidSignature:
        return False
    return True


def _name(parameters: dict[str, Any]) -> str:
    name = text(parameters.get("name"), "algorithm.name")
    if name not in _NAMES:
        raise RefusalError(f"Unsupported signing algorithm, supported: {', '.join(_NAMES)}", Kind.RANGE)
    return name


def _hash(parameters: dict[str, Any]) -> str:
    name = text(parameters.get("hash"), "algorithm.hash")
    if name not in _HASHES:
        raise RefusalError(f"Unsupported hash algorithm, supported: {', '.join(_HASHES)}", Kind.RANGE)
    return name


def _salt_bytes(parameters: dict[str, Any]) -> int:
    given = parameters.get("saltLength")
    salt = 0 if given is None else whole(given, "algorithm.saltLength")
    if not 0 <= salt <= 1 << 10:
        raise RefusalError(f"a salt of {salt} bytes; algorithm.saltLength must be 0 to 1024", Kind.RANGE)
    return salt


def _mac(parameters: dict[str, Any], key: Any, content: bytes) -> bytes:
    return hmac.digest(utf8(text(key, "key", _HMAC_KEY_LENGTH_MAX), "key"), content, DIGESTS[_hash(parameters)])


def _half(curve: ec.EllipticCurve) -> int:
    """Bytes of r, and of s."""
    return (curve.key_size + 7) // 8


def _does_not_suit(name: str, key: Private | Public) -> NoReturn:
    raise RefusalError(f"incompatible signing algorithm for given key type: key is {kind_of(key)}, which cannot be used with {name}")


FUNCTIONS: Final[Mapping[str, Function]] = {"sign": _sign, "verifySignature": _verify_signature}
