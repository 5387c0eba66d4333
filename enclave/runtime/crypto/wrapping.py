"""Keys in transit: wrapped by RSA-OAEP (with SHA-256 throughout), by AES with padding, or by AES with a key that RSA wraps.

Source: RFC 8017, 7.1; RFC 5649; PKCS #11 2.40, CKM_RSA_AES_KEY_WRAP.
"""

import os
from collections.abc import Mapping
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap_with_padding, aes_key_wrap_with_padding

from ledgerd.enclave.runtime.crypto.arguments import (
    KEY_BYTES_MAX,
    PEM_LENGTH_MAX,
    Function,
    Kind,
    RefusalError,
    Surroundings,
    members,
    octets,
    reason,
    text,
    whole,
)
from ledgerd.enclave.runtime.crypto.keys import AES_BITS, kind_of, private_key, public_key

_OAEP, _KWP, _BOTH = "RSA-OAEP", "AES-KWP", "RSA-OAEP-AES-KWP"
_NAMES: Final = (_OAEP, _KWP, _BOTH)
_WRAPPED_BYTES_MAX: Final = KEY_BYTES_MAX + (2 << 10)  # and what wrapping adds: 1 KiB of RSA, 16 bytes of AES


def _wrap_key(where: Surroundings, key: Any, wrapping_key: Any, parameters: Any) -> bytes:
    content = octets(key, "key", KEY_BYTES_MAX)
    by = octets(wrapping_key, "wrappingKey", PEM_LENGTH_MAX)
    name, options = _name(parameters)
    if name == _KWP:
        return _wrap_aes(content, by)
    if name == _OAEP:
        return _wrap_rsa(where, content, _public(by), options)
    bits = whole(options.get("aesKeySize"), "aesKeySize")
    if bits not in AES_BITS:
        raise RefusalError(f"aesKeySize is {bits}; AES keys have 128, 192 or 256 bits", Kind.RANGE)
    public = _public(by)
    where.must_draw(f"wrapping with {name}")
    between = os.urandom(bits // 8)
    return _wrap_rsa(where, between, public, options) + _wrap_aes(content, between)


def _unwrap_key(_: Surroundings, wrapped: Any, unwrapping_key: Any, parameters: Any) -> bytes:
    content = octets(wrapped, "wrappedKey", _WRAPPED_BYTES_MAX)
    by = octets(unwrapping_key, "unwrappingKey", PEM_LENGTH_MAX)
    name, options = _name(parameters)
    if name == _KWP:
        return _unwrap_aes(content, by)
    private = private_key(_pem(by), "unwrappingKey")
    if not isinstance(private, rsa.RSAPrivateKey):
        raise RefusalError(f"unwrappingKey is {kind_of(private)}; {name} needs an RSA key")
    if name == _OAEP:
        return _unwrap_rsa(content, private, options)
    size = (private.key_size + 7) // 8
    return _unwrap_aes(content[size:], _unwrap_rsa(content[:size], private, options))


def _name(parameters: Any) -> tuple[str, dict[str, Any]]:
    options = members(parameters, "parameters")
    name = text(options.get("name"), "parameters.name")
    if name not in _NAMES:
        raise RefusalError(f"unsupported key wrapping algorithm, supported: {', '.join(_NAMES)}", Kind.RANGE)
    return name, options


def _padding(options: dict[str, Any]) -> padding.OAEP:
    label = options.get("label")
    given = None if label is None else octets(label, "parameters.label", PEM_LENGTH_MAX)
    return padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), given or None)


def _pem(data: bytes) -> str:
    return data.decode(errors="replace")


def _public(data: bytes) -> rsa.RSAPublicKey:
    public = public_key(_pem(data), "wrappingKey")
    if not isinstance(public, rsa.RSAPublicKey):
        raise RefusalError(f"wrappingKey is {kind_of(public)}; wrapping with RSA needs an RSA key")
    return public


def _wrap_rsa(where: Surroundings, content: bytes, by: rsa.RSAPublicKey, options: dict[str, Any]) -> bytes:
    where.must_draw(f"wrapping with {_OAEP}")
    room = (by.key_size + 7) // 8 - 2 * hashes.SHA256.digest_size - 2
    if len(content) > room:
        raise RefusalError(f"key has {len(content)} bytes; an RSA key of {by.key_size} bits wraps {max(room, 0)} at most: use {_BOTH}")
    try:
        return by.encrypt(content, _padding(options))
    except ValueError as error:
        raise RefusalError(f"key cannot be wrapped: {reason(error)}") from None


def _unwrap_rsa(content: bytes, by: rsa.RSAPrivateKey, options: dict[str, Any]) -> bytes:
    try:
        return by.decrypt(content, _padding(options))
    except ValueError:
        raise RefusalError("wrappedKey cannot be unwrapped: it was wrapped for another key or with another label, or was changed") from None


def _check_aes(by: bytes) -> None:
    if len(by) * 8 not in AES_BITS:
        raise RefusalError(f"an AES key of {len(by)} bytes; expected 16, 24 or 32", Kind.RANGE)


def _wrap_aes(content: bytes, by: bytes) -> bytes:
    _check_aes(by)
    if not content:
        raise RefusalError("key is empty; AES-KWP wraps one byte or more", Kind.RANGE)
    return aes_key_wrap_with_padding(by, content)


def _unwrap_aes(content: bytes, by: bytes) -> bytes:
    _check_aes(by)
    try:
        return aes_key_unwrap_with_padding(by, content)
    except Exception:  # InvalidUnwrap, of another size or content
        raise RefusalError("wrappedKey cannot be unwrapped: it was wrapped by another AES key, or was changed") from None


FUNCTIONS: Final[Mapping[str, Function]] = {"wrapKey": _wrap_key, "unwrapKey": _unwrap_key}
