"""`ccf.crypto`: keys from PEM to JWK and back, against the library and published keys."""

import base64
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from support.script_crypto import base64url, certificate, crypto, key, private, public, refused, thrown

# The key's kind, and the functions' names without their end, public first.
PAIRS = {
    "p256": ("pubPem", "pem", "pubJwk", "jwk"),
    "p384": ("pubPem", "pem", "pubJwk", "jwk"),
    "p521": ("pubPem", "pem", "pubJwk", "jwk"),
    "rsa": ("pubRsaPem", "rsaPem", "pubRsaJwk", "rsaJwk"),
    "rsa3072": ("pubRsaPem", "rsaPem", "pubRsaJwk", "rsaJwk"),
    "ed25519": ("pubEddsaPem", "eddsaPem", "pubEddsaJwk", "eddsaJwk"),
    "x25519": ("pubEddsaPem", "eddsaPem", "pubEddsaJwk", "eddsaJwk"),
}
OPEN = {"EC": {"kty", "crv", "x", "y"}, "RSA": {"kty", "n", "e"}, "OKP": {"kty", "crv", "x"}}
SECRET = {"EC": {"d"}, "RSA": {"d", "p", "q", "dp", "dq", "qi"}, "OKP": {"d"}}


def to_jwk(kind: str, *kid: Any, secret: bool = True) -> dict[str, Any]:
    jwk: dict[str, Any] = crypto(f"{PAIRS[kind][secret]}ToJwk", private(kind) if secret else public(kind), *kid)
    return jwk


def to_pem(kind: str, jwk: Any, *, secret: bool = True) -> str:
    pem: str = crypto(f"{PAIRS[kind][2 + secret]}ToPem", jwk)
    return pem


def no_pem(kind: str, jwk: Any, *, secret: bool = True) -> str:
    return refused(f"{PAIRS[kind][2 + secret]}ToPem", jwk)


@pytest.mark.parametrize("kind", PAIRS)
def test_there_and_back_is_the_same_key(kind: str) -> None:
    assert to_pem(kind, to_jwk(kind)) == private(kind)
    assert to_pem(kind, to_jwk(kind, secret=False), secret=False) == public(kind)


@pytest.mark.parametrize("kind", PAIRS)
def test_a_jwk_has_the_members_of_its_kind_and_no_more(kind: str) -> None:
    jwk, open_ = to_jwk(kind), to_jwk(kind, secret=False)
    assert open_.keys() == OPEN[open_["kty"]]
    assert jwk.keys() == OPEN[jwk["kty"]] | SECRET[jwk["kty"]]
    assert jwk | open_ == jwk
    assert not any("=" in value or "+" in value or "/" in value for value in jwk.values())


def test_numbers_that_are_no_key_are_refused_as_where_tokens_are_verified() -> None:
    """An even modulus is one that the library itself takes; a point beside the curve it refuses."""
    even = base64url((1 << 2047 | 2).to_bytes(256, "big"))
    for secret in (False, True):
        assert no_pem("rsa", to_jwk("rsa", secret=secret) | {"n": even}, secret=secret).endswith("n and e are no RSA public key")
        beside = to_jwk("p256", secret=secret)
        assert no_pem("p256", beside | {"y": beside["x"]}, secret=secret).endswith("x and y are no point on P-256")


@pytest.mark.parametrize("kind", PAIRS)
def test_a_name_for_the_key_is_kept_and_not_read(kind: str) -> None:
    assert to_jwk(kind, "my key") == to_jwk(kind) | {"kid": "my key"}
    assert to_jwk(kind, "my key", secret=False)["kid"] == "my key"
    assert "kid" not in to_jwk(kind, None)
    assert to_pem(kind, to_jwk(kind, "my key") | {"use": "sig", "alg": 7}) == private(kind)
    assert refused(f"{PAIRS[kind][1]}ToJwk", private(kind), 7) == "TypeError: kid must be a string"
    assert no_pem(kind, to_jwk(kind) | {"kid": 7}) == "TypeError: jwk.kid must be a string"


def number(text: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big")


def test_numbers_are_those_of_the_key() -> None:
    numbers = key("rsa").private_numbers()
    jwk = to_jwk("rsa")
    assert [number(jwk[name]) for name in ("n", "e", "d", "p", "q", "dp", "dq", "qi")] == [
        numbers.public_numbers.n,
        numbers.public_numbers.e,
        numbers.d,
        numbers.p,
        numbers.q,
        numbers.dmp1,
        numbers.dmq1,
        numbers.iqmp,
    ]
    for kind, crv, size in (("p256", "P-256", 43), ("p384", "P-384", 64), ("p521", "P-521", 88)):
        jwk, point = to_jwk(kind), key(kind).private_numbers()
        assert (jwk["crv"], number(jwk["x"]), number(jwk["y"])) == (crv, point.public_numbers.x, point.public_numbers.y)
        assert number(jwk["d"]) == point.private_value
        assert {len(jwk[name]) for name in ("x", "y", "d")} == {size}, "as long as the curve's field, with zeros in front"
    for kind, crv in (("ed25519", "Ed25519"), ("x25519", "X25519")):
        jwk = to_jwk(kind)
        assert (jwk["kty"], jwk["crv"]) == ("OKP", crv)
        assert jwk["d"] == base64url(key(kind).private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()))
        assert jwk["x"] == base64url(key(kind).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))


def test_published_keys_are_read() -> None:
    """RFC 7515, A.3.1; RFC 8037, A.1."""
    ec = {
        "kty": "EC",
        "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        "d": "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI",
    }
    assert crypto("pemToJwk", to_pem("p256", ec)) == ec
    okp = {
        "kty": "OKP",
        "crv": "Ed25519",
        "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    }
    assert crypto("eddsaPemToJwk", to_pem("ed25519", okp)) == okp


def test_older_forms_of_pem_are_read() -> None:
    for kind in ("rsa", "p256"):
        old = private(kind, PrivateFormat.TraditionalOpenSSL)
        assert crypto(f"{PAIRS[kind][1]}ToJwk", old) == to_jwk(kind)


# What is refused.


@pytest.mark.parametrize("kind", ["p256", "rsa", "ed25519"])
@pytest.mark.parametrize("other", ["p256", "rsa", "ed25519"])
def test_a_key_of_another_kind_is_named_and_refused(kind: str, other: str) -> None:
    if kind != other:
        names = {"p256": "an EC key", "rsa": "an RSA key", "ed25519": "an Ed25519 key"}
        expected = {"p256": "an EC key", "rsa": "an RSA key", "ed25519": "an Ed25519 or X25519 key"}
        text = f"Error: pem is {names[other]}, where {expected[kind]} is expected"
        assert refused(f"{PAIRS[kind][0]}ToJwk", public(other)) == text
        assert refused(f"{PAIRS[kind][1]}ToJwk", private(other)) == text
        assert no_pem(kind, to_jwk(other)).startswith("Error: jwk.kty must be")


@pytest.mark.parametrize("kind", PAIRS)
def test_public_and_private_are_not_taken_for_each_other(kind: str) -> None:
    assert refused(f"{PAIRS[kind][1]}ToJwk", public(kind)).startswith("Error: pem cannot be read as a private key")
    for pem in (private(kind), certificate("a", "a"), "", "-----BEGIN PUBLIC KEY-----"):
        assert refused(f"{PAIRS[kind][0]}ToJwk", pem).startswith("Error: pem cannot be read as a public key in PEM")
    assert "is missing, or no text" in no_pem(kind, to_jwk(kind, secret=False))
    assert to_pem(kind, to_jwk(kind), secret=False) == public(kind), "of a private JWK, the public half is taken"


@pytest.mark.parametrize("kind", PAIRS)
def test_every_member_must_be_there_and_be_base64url(kind: str) -> None:
    whole = to_jwk(kind)
    for name in whole.keys() - {"kty"}:
        without = {key: value for key, value in whole.items() if key != name}
        for jwk in (
            without,
            whole | {name: 7},
            whole | {name: ""},
            whole | {name: None},
            whole | {name: "A" * 3000},
            whole | {name: "a+/b"},
        ):
            text = no_pem(kind, jwk)
            assert f"jwk.{name} " in text
            assert text.partition(":")[0] in ("TypeError", "RangeError", "Error")
        if name != "crv":
            for text in ("*", "A", "ä", "AAA=A"):
                assert no_pem(kind, whole | {name: text}) == f"Error: jwk.{name} is no base64url"


@pytest.mark.parametrize("kind", PAIRS)
def test_numbers_that_make_no_key_are_refused(kind: str) -> None:
    whole = to_jwk(kind)
    for name in whole.keys() - {"kty", "crv"}:
        for value in ("AA", "AQ", base64url(bytes(200)), base64url(b"\xff" * 66)):
            assert no_pem(kind, whole | {name: value}).startswith("Error: jwk")


@pytest.mark.parametrize("kind", ["p256", "p384", "p521", "ed25519", "x25519"])
def test_halves_of_two_keys_are_no_key(kind: str) -> None:
    whole = to_jwk(kind)
    other = crypto("generateEddsaKeyPair", "x25519" if kind == "x25519" else "curve25519")
    if kind.startswith("p"):
        other = crypto("generateEcdsaKeyPair", f"secp{kind[1:]}r1")
    secret = crypto(f"{PAIRS[kind][1]}ToJwk", other["privateKey"])["d"]
    assert no_pem(kind, whole | {"d": secret}).startswith("Error: jwk")


@pytest.mark.parametrize("jwk", [None, 1, "text", [], True])
def test_what_is_no_object_is_no_jwk(jwk: Any) -> None:
    for kind in ("p256", "rsa", "ed25519"):
        assert no_pem(kind, jwk) == "TypeError: jwk must be an object"


def test_a_curve_that_there_is_not_is_refused() -> None:
    assert no_pem("p256", to_jwk("p256") | {"crv": "secp256k1"}) == "RangeError: jwk.crv must be one of P-256, P-384, P-521"
    assert no_pem("p256", to_jwk("p256") | {"crv": "P-384"}).startswith("Error: jwk is no private key")
    assert no_pem("ed25519", to_jwk("ed25519") | {"crv": "Ed448"}) == "RangeError: jwk.crv must be Ed25519 or X25519"
    assert no_pem("ed25519", to_jwk("ed25519") | {"crv": "X25519"}) == "Error: jwk.x is not the public key of jwk.d"


def test_the_text_and_its_name_are_bounded() -> None:
    assert refused("pemToJwk", "-" * 70_000) == "RangeError: pem has 70000 characters; at most 65536 are read"
    assert refused("pemToJwk", private("p256"), "k" * 2_000).startswith("RangeError: kid has 2000 characters")
    assert (
        thrown("ccf.crypto.pubJwkToPem({ kty: 'EC', crv: 'P-256', x: ccf.strToBuf('a'), y: 'a' })")
        == "TypeError: jwk.x is missing, or no text"
    )
