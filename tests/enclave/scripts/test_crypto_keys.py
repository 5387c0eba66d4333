"""`ccf.crypto`: keys are made, wrapped and unwrapped; and nothing is drawn for a decision."""

from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, x25519
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap_with_padding, aes_key_wrap_with_padding
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from support.script_crypto import APPLICATION, DECISION, called, crypto, key, private, public, refused, thrown
from support.scripts import value_of

KWP = {"name": "AES-KWP"}
OAEP = {"name": "RSA-OAEP"}
BOTH = {"name": "RSA-OAEP-AES-KWP", "aesKeySize": 256}
FORM = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)


# Making.


@pytest.mark.parametrize("bits", [128, 192, 256])
def test_an_aes_key_is_as_long_as_was_asked_for_and_never_the_same(bits: int) -> None:
    keys = {crypto("generateAesKey", bits), crypto("generateAesKey", bits), called("generateAesKey", bits)}
    assert {len(made) * 8 for made in keys} == {bits}
    assert len(keys) == 3


def pair_of(made: dict[str, str]) -> tuple[Any, Any]:
    """Both keys, read, and belonging together."""
    assert made.keys() == {"privateKey", "publicKey"}
    assert made["privateKey"].startswith("-----BEGIN PRIVATE KEY-----\n")
    assert made["publicKey"].startswith("-----BEGIN PUBLIC KEY-----\n")
    secret, open_ = load_pem_private_key(made["privateKey"].encode(), None), load_pem_public_key(made["publicKey"].encode())
    assert secret.public_key() == open_
    return secret, open_


@pytest.mark.parametrize(("arguments", "size", "exponent"), [([2048], 2048, 65_537), ([2048, 3], 2048, 3), ([3072, None], 3072, 65_537)])
def test_an_rsa_pair(arguments: list[Any], size: int, exponent: int) -> None:
    made, _ = pair_of(crypto("generateRsaKeyPair", *arguments))
    assert isinstance(made, rsa.RSAPrivateKey)
    assert (made.key_size, made.private_numbers().public_numbers.e) == (size, exponent)


@pytest.mark.parametrize("curve", ["secp256r1", "secp384r1", "secp521r1"])
def test_an_ecdsa_pair(curve: str) -> None:
    made, _ = pair_of(crypto("generateEcdsaKeyPair", curve))
    assert isinstance(made, ec.EllipticCurvePrivateKey)
    assert made.curve.name == curve


def test_pairs_on_curve25519() -> None:
    assert isinstance(pair_of(crypto("generateEddsaKeyPair", "curve25519"))[0], ed25519.Ed25519PrivateKey)
    assert isinstance(pair_of(crypto("generateEddsaKeyPair", "x25519"))[0], x25519.X25519PrivateKey)


@pytest.mark.parametrize(
    ("function", "arguments", "expected"),
    [
        ("generateAesKey", [100], "RangeError: an AES key of 100 bits: invalid key size (not one of 128, 192, 256)"),
        ("generateAesKey", ["128"], "TypeError: size must be a whole number"),
        ("generateAesKey", [128, 1], "TypeError: Passed 2 arguments, but expected 1"),
        ("generateRsaKeyPair", [1024], "RangeError: an RSA key of 1024 bits; they are made with 2048 to 4096"),
        ("generateRsaKeyPair", [1 << 20], "RangeError: an RSA key of 1048576 bits; they are made with 2048 to 4096"),
        ("generateRsaKeyPair", [2048, 2], "RangeError: an RSA key with exponent 2; they are made with 65537 or 3"),
        ("generateRsaKeyPair", [], "TypeError: Passed 0 arguments, but expected 1 or 2"),
        ("generateEcdsaKeyPair", ["secp256k1"], "RangeError: Unsupported curve id, supported: secp256r1, secp384r1, secp521r1"),
        ("generateEcdsaKeyPair", [256], "TypeError: curve must be a string"),
        ("generateEddsaKeyPair", ["ed448"], "RangeError: Unsupported curve id, supported: curve25519, x25519"),
    ],
)
def test_what_there_is_not_is_not_made(function: str, arguments: list[Any], expected: str) -> None:
    assert refused(function, *arguments) == expected


def test_the_names_before_there_was_ccf_crypto_are_the_same_functions() -> None:
    pair_of(called("generateRsaKeyPair", 2048))
    pair_of(called("generateEcdsaKeyPair", "secp256r1"))
    assert called("wrapKey", b"key", bytes(16), KWP) == crypto("wrapKey", b"key", bytes(16), KWP)
    assert thrown("ccf.generateEcdsaKeyPair(7)") == "TypeError: curve must be a string"


def test_nothing_is_drawn_for_a_decision() -> None:
    rsa_key = public("rsa").encode()
    for function, arguments in (
        ("generateAesKey", [128]),
        ("generateRsaKeyPair", [2048]),
        ("generateEcdsaKeyPair", ["secp256r1"]),
        ("generateEddsaKeyPair", ["curve25519"]),
        ("wrapKey", [b"key", rsa_key, OAEP]),
        ("wrapKey", [b"key", rsa_key, BOTH]),
    ):
        text = refused(function, *arguments, where=DECISION)
        assert text.startswith("TypeError: ")
        assert text.endswith("draws random numbers; a decision must come out the same each time it is made")
    assert crypto("wrapKey", b"key", bytes(16), KWP, where=DECISION) == crypto("wrapKey", b"key", bytes(16), KWP)


# Wrapping.


@pytest.mark.parametrize(
    ("content", "wrapped"),
    [
        ("c37b7e6492584340bed12207808941155068f738", "138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a"),
        ("466f7250617369", "afbeb0f07dfbf5419200f2ccb50bb24f"),
    ],
)
def test_aes_wraps_as_published(content: str, wrapped: str) -> None:
    """RFC 5649, 6."""
    by = bytes.fromhex("5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8")
    assert crypto("wrapKey", bytes.fromhex(content), by, KWP).hex() == wrapped
    assert crypto("unwrapKey", bytes.fromhex(wrapped), by, KWP).hex() == content


@pytest.mark.parametrize("size", [1, 7, 8, 9, 32, 1190, 64 << 10])
@pytest.mark.parametrize("bits", [128, 192, 256])
def test_aes_both_ways(size: int, bits: int) -> None:
    content, by = bytes(number % 255 for number in range(size)), bytes(range(bits // 8))
    ours = crypto("wrapKey", content, by, KWP)
    assert aes_key_unwrap_with_padding(by, ours) == content
    assert crypto("unwrapKey", aes_key_wrap_with_padding(by, content), by, KWP) == content
    for wrong in (ours[:-1], ours[:8], b"", bytes((ours[0] ^ 1,)) + ours[1:], ours + bytes(8)):
        assert refused("unwrapKey", wrong, by, KWP).startswith("Error: wrappedKey cannot be unwrapped: it was wrapped by another AES key")
    assert refused("unwrapKey", ours, bytes(bits // 8), KWP).startswith("Error: wrappedKey cannot be unwrapped")


@pytest.mark.parametrize("kind", ["rsa", "rsa3072"])
def test_rsa_both_ways(kind: str) -> None:
    content = bytes(range(190))
    ours = crypto("wrapKey", content, public(kind).encode(), OAEP)
    assert key(kind).decrypt(ours, FORM) == content
    assert crypto("unwrapKey", key(kind).public_key().encrypt(content, FORM), private(kind).encode(), OAEP) == content
    assert crypto("unwrapKey", ours, private(kind).encode() + b"\0", OAEP) == content
    other = "rsa" if kind == "rsa3072" else "rsa3072"
    for wrong, by in ((ours, other), (ours[:-1], kind), (bytes(len(ours)), kind), (b"", kind)):
        assert refused("unwrapKey", wrong, private(by).encode(), OAEP).startswith(
            "Error: wrappedKey cannot be unwrapped: it was wrapped for another key"
        )


def labelled(function: str, content: bytes, by: bytes, name: str, label: str | None) -> Any:
    """A call whose parameters have a label."""
    shown = "undefined" if label is None else f"ccf.strToBuf('{label}')"
    return value_of(
        f"return ccf.crypto.{function}(args[0], args[1], {{ name: '{name}', aesKeySize: 128, label: {shown} }});",
        content,
        by,
        **APPLICATION,
    )


@pytest.mark.parametrize("name", ["RSA-OAEP", "RSA-OAEP-AES-KWP"])
def test_a_label_must_be_the_same_again(name: str) -> None:
    content, open_, secret = b"the key", public("rsa").encode(), private("rsa").encode()
    wrapped = labelled("wrapKey", content, open_, name, "for you")
    form = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), b"for you")
    inner = key("rsa").decrypt(wrapped[:256], form)
    assert (inner if name == "RSA-OAEP" else aes_key_unwrap_with_padding(inner, wrapped[256:])) == content
    assert labelled("unwrapKey", wrapped, secret, name, "for you") == content
    for other in ("for me", "", None):
        with pytest.raises(AssertionError, match="another label"):
            labelled("unwrapKey", wrapped, secret, name, other)
    without = labelled("wrapKey", content, open_, name, None)
    assert labelled("unwrapKey", without, secret, name, "") == content


@pytest.mark.parametrize("bits", [128, 192, 256])
def test_aes_with_a_key_that_rsa_wraps_both_ways(bits: int) -> None:
    content = private("rsa").encode()
    ours = crypto("wrapKey", content, public("rsa").encode(), BOTH | {"aesKeySize": bits})
    between = key("rsa").decrypt(ours[:256], FORM)
    assert len(between) * 8 == bits
    assert aes_key_unwrap_with_padding(between, ours[256:]) == content
    theirs = key("rsa").public_key().encrypt(bytes(32), FORM) + aes_key_wrap_with_padding(bytes(32), content)
    assert crypto("unwrapKey", theirs, private("rsa").encode(), {"name": BOTH["name"]}) == content
    for wrong in (theirs[:-1], theirs[:256], theirs[1:], theirs[:100], b""):
        assert refused("unwrapKey", wrong, private("rsa").encode(), BOTH).startswith("Error: wrappedKey cannot be unwrapped")


@pytest.mark.parametrize(
    ("content", "by", "parameters", "expected"),
    [
        (b"k", b"", {"name": "AES-GCM"}, "RangeError: unsupported key wrapping algorithm, supported: RSA-OAEP, AES-KWP, RSA-OAEP-AES-KWP"),
        (b"k", b"", {}, "TypeError: parameters.name must be a string"),
        (b"k", b"", None, "TypeError: parameters must be an object"),
        ("k", b"", KWP, "TypeError: key must be an ArrayBuffer"),
        (b"k", "PEM", OAEP, "TypeError: wrappingKey must be an ArrayBuffer"),
        (b"k", bytes(15), KWP, "RangeError: an AES key of 15 bytes; expected 16, 24 or 32"),
        (b"", bytes(16), KWP, "RangeError: key is empty; AES-KWP wraps one byte or more"),
        (bytes((64 << 10) + 1), bytes(16), KWP, "RangeError: key has 65537 bytes; at most 65536 are taken"),
        (b"k", b"\xff", OAEP, "Error: wrappingKey cannot be read as a public key in PEM"),
        (b"k", b"", BOTH | {"aesKeySize": 64}, "RangeError: aesKeySize is 64; AES keys have 128, 192 or 256 bits"),
        (b"k", b"", {"name": BOTH["name"]}, "TypeError: aesKeySize must be a whole number"),
        (b"k", b"", OAEP | {"label": "text"}, "Error: wrappingKey cannot be read"),
    ],
)
def test_wrapping_that_makes_no_sense_is_refused(content: Any, by: Any, parameters: Any, expected: str) -> None:
    assert refused("wrapKey", content, by, parameters).startswith(expected)


def test_keys_that_do_not_suit_or_do_not_fit_are_refused() -> None:
    assert refused("wrapKey", b"k", public("p256").encode(), OAEP) == "Error: wrappingKey is an EC key; wrapping with RSA needs an RSA key"
    assert refused("unwrapKey", b"k", private("p256").encode(), OAEP) == "Error: unwrappingKey is an EC key; RSA-OAEP needs an RSA key"
    assert refused("wrapKey", bytes(191), public("rsa").encode(), OAEP) == (
        "Error: key has 191 bytes; an RSA key of 2048 bits wraps 190 at most: use RSA-OAEP-AES-KWP"
    )
    assert (
        refused("wrapKey", b"k", public("rsa").encode(), OAEP | {"label": "text"}) == "TypeError: parameters.label must be an ArrayBuffer"
    )
    locked = key("rsa").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password"))
    assert "in PEM without a password" in refused("unwrapKey", bytes(256), locked, OAEP)
