"""`ccf.crypto`: digests, signatures, message authentication. Both ways against the library, and against published answers."""

from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat, PublicFormat

from support.script_crypto import APPLICATION, DECISION, base64url, called, certificate, crypto, key, private, public, refused, thrown

DATA = b"what is signed \0\xff"
HASHES: dict[str, hashes.HashAlgorithm] = {"SHA-256": hashes.SHA256(), "SHA-384": hashes.SHA384(), "SHA-512": hashes.SHA512()}
SIZES = {"p256": 32, "p384": 48, "p521": 66}
EDDSA = {"name": "EdDSA"}


def ecdsa(digest: str = "SHA-256") -> dict[str, Any]:
    return {"name": "ECDSA", "hash": digest}


def pss(salt: int | None = None, digest: str = "SHA-256") -> dict[str, Any]:
    return {"name": "RSA-PSS", "hash": digest} | ({} if salt is None else {"saltLength": salt})


def test_digests_are_the_published_ones() -> None:
    """FIPS 180-4, of `abc`."""
    assert crypto("digest", "SHA-256", b"abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert crypto("digest", "SHA-384", b"abc").hex()[:32] == "cb00753f45a35e8bb5a03d699ac65007"
    assert crypto("digest", "SHA-512", b"abc").hex()[:32] == "ddaf35a193617abacc417349ae204131"
    assert crypto("digest", "SHA-256", b"").hex()[:16] == "e3b0c44298fc1c14"
    assert called("digest", "SHA-256", b"abc") == crypto("digest", "SHA-256", b"abc")


@pytest.mark.parametrize("size", [65_500, 65_536, 200_000])
def test_data_larger_than_what_is_handed_over_at_once_is_whole(size: int) -> None:
    data = bytes(number % 251 for number in range(size))
    digest = hashes.Hash(hashes.SHA256())
    digest.update(data)
    assert crypto("digest", "SHA-256", data) == digest.finalize()


# RFC 4231, test case 2.
MACS = {
    "SHA-256": "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
    "SHA-384": "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
    "SHA-512": "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554"
    "9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
}


@pytest.mark.parametrize("digest", MACS)
def test_hmac_gives_the_published_answer_and_knows_it_again(digest: str) -> None:
    algorithm, data = {"name": "HMAC", "hash": digest}, b"what do ya want for nothing?"
    mac = crypto("sign", algorithm, "Jefe", data)
    assert mac.hex() == MACS[digest]
    assert crypto("verifySignature", algorithm, "Jefe", mac, data) is True
    assert crypto("verifySignature", algorithm, "jefe", mac, data) is False
    assert crypto("verifySignature", algorithm, "Jefe", mac[:-1], data) is False
    assert crypto("verifySignature", algorithm, "Jefe", mac, data + b"?") is False


def test_eddsa_gives_the_published_answer() -> None:
    """RFC 8032, 7.1, test 2."""
    jwk = {
        "kty": "OKP",
        "crv": "Ed25519",
        "d": "TM0Imyj_ltqdtsNG7BFOD1uKMZ81q6Yk2oz27U-4pvs",
        "x": "PUAXw-hDiVqStwqnTRt-vJyYLM8uxJaMwM1V8Sr0Zgw",
    }
    pem = crypto("eddsaJwkToPem", jwk)
    assert crypto("sign", EDDSA, pem, b"\x72").hex() == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )


def test_ecdsa_knows_a_published_signature() -> None:
    """RFC 6979, A.2.5: P-256, SHA-256, `sample`."""
    x = bytes.fromhex("60FED4BA255A9D31C961EB74C6356D68C049B8923B61FA6CE669622E60F29FB6")
    y = bytes.fromhex("7903FE1008B8BC99A41AE9E95628BC64F2F1B20C2D7E9F5177A3C294D4462299")
    jwk = {"kty": "EC", "crv": "P-256", "x": base64url(x), "y": base64url(y)}
    signature = bytes.fromhex(
        "EFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716F7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8"
    )
    pem = crypto("pubJwkToPem", jwk)
    assert crypto("verifySignature", ecdsa(), pem, signature, b"sample") is True
    assert crypto("verifySignature", ecdsa(), pem, signature, b"test") is False


@pytest.mark.parametrize("digest", HASHES)
@pytest.mark.parametrize("curve", SIZES)
def test_ecdsa_both_ways_with_r_and_s_side_by_side(curve: str, digest: str) -> None:
    ours = crypto("sign", ecdsa(digest), private(curve), DATA)
    size = SIZES[curve]
    assert len(ours) == 2 * size
    der = encode_dss_signature(int.from_bytes(ours[:size], "big"), int.from_bytes(ours[size:], "big"))
    key(curve).public_key().verify(der, DATA, ec.ECDSA(HASHES[digest]))

    r, s = decode_dss_signature(key(curve).sign(DATA, ec.ECDSA(HASHES[digest])))
    theirs = r.to_bytes(size, "big") + s.to_bytes(size, "big")
    assert crypto("verifySignature", ecdsa(digest), public(curve), theirs, DATA) is True
    mixed = (theirs[size:] + theirs[:size], theirs[:size] + b"\0" + theirs[size:])
    for wrong in (der, theirs[:-1], theirs + b"\0", b"", bytes(2 * size), b"\xff" * 2 * size, *mixed):
        assert crypto("verifySignature", ecdsa(digest), public(curve), wrong, DATA) is False
    assert crypto("verifySignature", ecdsa(digest), public(curve), theirs, DATA + b"!") is False
    other = "SHA-512" if digest == "SHA-256" else "SHA-256"
    assert crypto("verifySignature", ecdsa(other), public(curve), theirs, DATA) is False


@pytest.mark.parametrize("digest", HASHES)
@pytest.mark.parametrize("salt", [None, 0, 20, 64])
def test_rsa_pss_both_ways_with_the_salt_that_was_asked_for(digest: str, salt: int | None) -> None:
    form = padding.PSS(padding.MGF1(HASHES[digest]), salt or 0)
    ours = crypto("sign", pss(salt, digest), private("rsa"), DATA)
    key("rsa").public_key().verify(ours, DATA, form, HASHES[digest])
    theirs = key("rsa").sign(DATA, form, HASHES[digest])
    assert crypto("verifySignature", pss(salt, digest), public("rsa"), theirs, DATA) is True
    assert crypto("verifySignature", pss(21, digest), public("rsa"), theirs, DATA) is False
    assert crypto("verifySignature", pss(salt, digest), public("rsa"), theirs[:-1], DATA) is False
    assert crypto("verifySignature", pss(salt, digest), public("rsa"), theirs, DATA[1:]) is False
    assert crypto("verifySignature", pss(salt, digest), public("rsa3072"), theirs, DATA) is False


def test_eddsa_both_ways() -> None:
    signature = crypto("sign", EDDSA, private("ed25519"), DATA)
    assert signature == key("ed25519").sign(DATA)
    assert crypto("verifySignature", EDDSA, public("ed25519"), signature, DATA) is True
    for wrong in (signature[:-1], signature + b"\0", bytes(64), signature[::-1]):
        assert crypto("verifySignature", EDDSA, public("ed25519"), wrong, DATA) is False


@pytest.mark.parametrize(("kind", "form"), [("rsa", PrivateFormat.TraditionalOpenSSL), ("p256", PrivateFormat.TraditionalOpenSSL)])
def test_keys_in_their_older_form_sign_too(kind: str, form: PrivateFormat) -> None:
    algorithm = ecdsa() if kind == "p256" else pss()
    assert private(kind, form) != private(kind)
    signature = crypto("sign", algorithm, private(kind, form), DATA)
    assert crypto("verifySignature", algorithm, public(kind), signature, DATA) is True


@pytest.mark.parametrize(("kind", "algorithm"), [("p384", ecdsa("SHA-384")), ("rsa", pss(32)), ("ed25519", EDDSA)])
def test_a_certificate_stands_for_its_key(kind: str, algorithm: dict[str, Any]) -> None:
    pem = certificate("signer", "authority", kind)
    signature = crypto("sign", algorithm, private(kind), DATA)
    assert crypto("verifySignature", algorithm, pem, signature, DATA) is True
    assert crypto("verifySignature", algorithm, pem, signature, DATA[1:]) is False


# What is refused.


@pytest.mark.parametrize(
    ("algorithm", "kind"),
    [(ecdsa(), "rsa"), (ecdsa(), "ed25519"), (pss(), "p256"), (EDDSA, "p256"), (EDDSA, "x25519"), (EDDSA, "rsa")],
)
def test_a_key_of_another_kind_is_refused(algorithm: dict[str, Any], kind: str) -> None:
    for text in (refused("sign", algorithm, private(kind), DATA), refused("verifySignature", algorithm, public(kind), b"", DATA)):
        assert text.startswith("Error: incompatible signing algorithm for given key type: key is a")
        assert algorithm["name"] in text


@pytest.mark.parametrize("kind", ["p224", "p256k"])
def test_a_curve_that_ccf_does_not_know_is_refused(kind: str) -> None:
    assert refused("sign", ecdsa(), private(kind), DATA).startswith("RangeError: key is on the curve secp")


def test_a_key_that_takes_too_long_is_refused() -> None:
    for bits in (8_192, 8_193):
        numbers = rsa.RSAPublicNumbers(65_537, (1 << (bits - 1)) + 1)
        pem = numbers.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        if bits == 8_192:
            assert crypto("verifySignature", pss(), pem, bytes(1024), DATA) is False
        else:
            assert (
                refused("verifySignature", pss(), pem, bytes(1024), DATA) == "RangeError: key has 8193 bits; RSA keys are used up to 8192"
            )


def test_a_private_key_verifies_nothing_and_a_public_one_signs_nothing() -> None:
    assert refused("verifySignature", ecdsa(), private("p256"), b"", DATA).startswith(
        "Error: key cannot be read as a public key or a certificate"
    )
    assert refused("sign", ecdsa(), public("p256"), DATA).startswith("Error: key cannot be read as a private key")


@pytest.mark.parametrize(
    "pem", ["", "x", "-----BEGIN PRIVATE KEY-----\n", "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----", "\0"]
)
def test_text_that_is_no_key_is_refused(pem: str) -> None:
    assert refused("sign", ecdsa(), pem, DATA).startswith("Error: key cannot be read")
    assert refused("verifySignature", ecdsa(), pem, b"", DATA).startswith("Error: key cannot be read")


def test_half_of_a_surrogate_pair_is_refused() -> None:
    assert thrown("ccf.crypto.sign({name: 'ECDSA', hash: 'SHA-256'}, '\\ud800', args[0])", DATA).startswith("TypeError: key has half")


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        (
            {"name": "RSASSA-PKCS1-v1_5", "hash": "SHA-256"},
            "RangeError: Unsupported signing algorithm, supported: RSA-PSS, ECDSA, EdDSA, HMAC",
        ),
        ({"hash": "SHA-256"}, "TypeError: algorithm.name must be a string"),
        ({"name": 7}, "TypeError: algorithm.name must be a string"),
        ("ECDSA", "TypeError: algorithm must be an object"),
        (None, "TypeError: algorithm must be an object"),
        ({"name": "ECDSA"}, "TypeError: algorithm.hash must be a string"),
        (ecdsa("SHA-1"), "RangeError: Unsupported hash algorithm, supported: SHA-256, SHA-384, SHA-512"),
    ],
)
def test_an_algorithm_that_there_is_not_is_refused(algorithm: Any, expected: str) -> None:
    assert refused("sign", algorithm, private("p256"), DATA) == expected
    assert refused("verifySignature", algorithm, public("p256"), b"", DATA) == expected


@pytest.mark.parametrize("salt", [-1, 1025, 1.5, "20", True])
def test_a_salt_of_no_length_is_refused(salt: Any) -> None:
    text = refused("sign", pss() | {"saltLength": salt}, private("rsa"), DATA)
    assert "algorithm.saltLength must be" in text


def test_a_salt_that_does_not_fit_under_the_key_is_refused() -> None:
    assert "cannot sign with a salt of 300 bytes" in refused("sign", pss(300), private("rsa"), DATA)
    assert crypto("verifySignature", pss(300), public("rsa"), bytes(256), DATA) is False


def test_a_digest_of_no_kind_or_of_no_bytes_is_refused() -> None:
    assert refused("digest", "MD5", b"") == "RangeError: unsupported digest algorithm, supported: SHA-256, SHA-384, SHA-512"
    assert refused("digest", "SHA-256", "text") == "TypeError: data must be an ArrayBuffer"
    assert thrown("ccf.crypto.digest('SHA-256', new Uint8Array(3))").startswith("TypeError: Arguments must be ArrayBuffers, not views")
    assert refused("digest", "SHA-256") == "TypeError: Passed 1 arguments, but expected 2"
    assert refused("sign") == "TypeError: Passed 0 arguments, but expected 3"
    assert refused("verifySignature", 1, 2, 3, 4, 5) == "TypeError: Passed 5 arguments, but expected 4"


# Decisions.


def test_a_decision_signs_nothing_that_draws_random_numbers() -> None:
    for algorithm, kind in ((ecdsa(), "p256"), (pss(1), "rsa")):
        text = refused("sign", algorithm, private(kind), DATA, where=DECISION)
        assert text.startswith("TypeError: signing with ")
        assert "draws random numbers; a decision must come out the same" in text


def test_a_decision_verifies_and_signs_what_comes_out_the_same() -> None:
    signature = crypto("sign", ecdsa(), private("p256"), DATA)
    assert crypto("verifySignature", ecdsa(), public("p256"), signature, DATA, where=DECISION) is True
    for algorithm, given in ((pss(0), private("rsa")), (EDDSA, private("ed25519")), ({"name": "HMAC", "hash": "SHA-256"}, "secret")):
        assert crypto("sign", algorithm, given, DATA, where=DECISION) == crypto("sign", algorithm, given, DATA, where=APPLICATION)
    assert len(crypto("digest", "SHA-256", DATA, where=DECISION)) == 32
