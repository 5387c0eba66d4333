"""Key sets as issuers publish and members propose them: what is taken, what is left out, what is refused."""

import base64
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from ledgerd.enclave.jwt import jwks
from ledgerd.ledger.errors import FormatError
from support.jwt import ISSUER, certificate, der, jwk, key, number

RSA, P256 = key("RSA"), key("P-256")


def read(*keys: Any, issuer: str = ISSUER) -> dict[str, tuple[bytes, str, str | None]]:
    return {kid: tuple(record) for kid, record in jwks.read({"keys": list(keys)}, issuer).items()}  # type: ignore[misc]


@pytest.mark.parametrize("kind", ["RSA", "P-256", "P-384", "P-521"])
def test_a_key_is_given_by_numbers_by_a_certificate_or_by_both(kind: str) -> None:
    private = key(kind)
    numbers = jwk(private, "k", use="sig", x5t="ignored", key_ops=["verify"])
    certified = {"kid": "k", "kty": numbers["kty"], "x5c": [certificate(private), "not looked at"]}
    for item in (numbers, certified, {**numbers, **certified}, {**numbers, "x5c": None, "alg": None, "issuer": None}):
        assert read(item) == {"k": (der(private), ISSUER, None)}


def test_each_curve_of_the_constitution_is_a_curve_here() -> None:
    assert set(read(*(jwk(key(kind), kind, alg=alg) for kind, alg in (("P-256", "ES256"), ("P-384", "ES384"), ("P-521", "ES512"))))) == {
        "P-256",
        "P-384",
        "P-521",
    }


@pytest.mark.parametrize(
    ("issuer", "constraint"),
    [
        (ISSUER, ISSUER),
        (ISSUER, "https://issuer.example/other"),
        ("https://limited.issuer.example", ISSUER),
        (ISSUER, "https://ISSUER.example/"),
        ("https://login.microsoftonline.com/common/v2.0", "https://login.microsoftonline.com/{tenantid}/v2.0"),
    ],
)
def test_a_key_may_be_constrained_to_its_own_host_or_one_above(issuer: str, constraint: str) -> None:
    assert read(jwk(RSA, "k", issuer=constraint), issuer=issuer)["k"][2] == constraint


@pytest.mark.parametrize(
    "constraint",
    [
        "https://other.example",
        "https://sub.issuer.example",
        "https://notissuer.example",
        "http://issuer.example",
        "issuer.example",
        "",
        1,
        "https://issuer.example@other.example",
        "https://issuer.example:99999",
        "https://issuer.example/\u00e4",
        "https://",
    ],
)
def test_a_constraint_to_another_host_is_refused(constraint: Any) -> None:
    with pytest.raises(FormatError, match=r"JWKS kid k: its issuer constraint .* fails validation"):
        read(jwk(RSA, "k", issuer=constraint))


def without(item: dict[str, Any], name: str) -> dict[str, Any]:
    return {other: value for other, value in item.items() if other != name}


BAD = [
    (jwk(key("RSA-1024"), "k"), "an RSA key of 1024 bits"),
    ({"kid": "k", "kty": "RSA", "x5c": [certificate(key("RSA-1024"))]}, "an RSA key of 1024 bits"),
    ({**jwk(RSA, "k"), "n": number((1 << 8200) - 1)}, "8200 bits"),
    ({**jwk(RSA, "k"), "n": number(1 << 2047 | 2)}, "n and e are no RSA public key"),
    ({**jwk(RSA, "k"), "e": "AQ"}, "n and e are no RSA public key"),
    ({**jwk(RSA, "k"), "e": "Aw"}, "the exponent 3"),
    ({**jwk(RSA, "k"), "e": number((1 << 64) + 1)}, "exponent"),
    ({**jwk(RSA, "k"), "n": jwk(RSA, "k")["n"] + "="}, "n is not base64url"),
    ({**jwk(RSA, "k"), "n": 7}, "n is no text of base64url"),
    ({**jwk(RSA, "k"), "n": "A" * 5000}, "n is no text of base64url"),
    ({**jwk(RSA, "k"), "n": ""}, "n is no text of base64url"),
    (without(jwk(RSA, "k"), "e"), "it has n but not all of n, e"),
    (without(jwk(P256, "k"), "y"), "it has crv but not all of crv, x, y"),
    ({"kid": "k", "kty": "RSA"}, "it has neither n, e nor x5c"),
    ({"kid": "k", "kty": "EC"}, "it has neither crv, x, y nor x5c"),
    ({**jwk(P256, "k"), "y": jwk(P256, "k")["x"]}, "x and y are no point on P-256"),
    ({**jwk(P256, "k"), "x": "AAAA"}, "x and y have 3 and 32 bytes"),
    ({**jwk(key("P-384"), "k"), "crv": "P-256"}, "x and y have 48 and 48 bytes"),
    ({"kid": "k", "kty": "RSA", "x5c": [certificate(P256)]}, "the certificate in x5c has no RSA key"),
    ({"kid": "k", "kty": "EC", "x5c": [certificate(RSA)]}, "the certificate in x5c has no EC key"),
    (jwk(RSA, "k", x5c=[certificate(key("RSA", 1))]), "another key than the numbers beside it"),
    (jwk(RSA, "k", x5c=[certificate(P256)]), "another key than the numbers beside it"),
    (jwk(RSA, "k", alg="ES256"), "alg is ES256, but such a key has RS256"),
    (jwk(P256, "k", alg="ES384"), "alg is ES384, but such a key has ES256"),
    (jwk(RSA, "k", x5c=[]), "x5c is no list that begins with a certificate"),
    (jwk(RSA, "k", x5c="AAAA"), "x5c is no list that begins with a certificate"),
    (jwk(RSA, "k", x5c=["A" * 20_000]), "x5c is no list that begins with a certificate"),
    (jwk(RSA, "k", x5c=["AAAA"]), "x5c does not begin with a certificate"),
    (jwk(RSA, "k", x5c=["!"]), "x5c does not begin with a certificate"),
    (jwk(RSA, "k", x5c=[certificate(RSA)[:-8]]), "x5c does not begin with a certificate"),
]


@pytest.mark.parametrize(("item", "why"), BAD)
def test_a_malformed_or_weak_key_is_refused_by_whoever_asks(item: dict[str, Any], why: str) -> None:
    for left_out in (None, lambda text: None):
        with pytest.raises(FormatError, match="JWKS kid k: ") as caught:
            jwks.read({"keys": [jwk(P256, "good"), item]}, ISSUER, left_out)
        assert why in str(caught.value)


STRANGE: list[tuple[dict[str, Any], str]] = [
    (jwk(RSA, "k", use="enc"), "is of another use than sig"),
    (jwk(RSA, "k", alg="PS256"), "is for another alg than"),
    (jwk(RSA, "k", alg="none"), "is for another alg than"),
    (jwk(RSA, "k", alg="HS256"), "is for another alg than"),
    ({"kid": "k", "kty": "oct", "k": "AAAA"}, "is of another kty than RSA and EC"),
    ({"kid": "k", "kty": "OKP", "crv": "Ed25519", "x": "AAAA"}, "is of another kty than RSA and EC"),
    ({"kid": "k", "kty": ["RSA"]}, "is of another kty than RSA and EC"),
    ({"kid": "k"}, "is of another kty than RSA and EC"),
    ({"kid": "k", "kty": "EC", "crv": {}, "x": "AA", "y": "AA"}, "is on another crv than"),
    (jwk(RSA, "k", use=[]), "is of another use than sig"),
    (jwk(RSA, "k", alg={}), "is for another alg than"),
    ({"kid": "k", "kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"}, "is on another crv than"),
    (without(jwk(RSA, "k"), "kid"), "has no kid of 1 to 256 printable characters"),
    (jwk(RSA, ""), "has no kid of 1 to 256 printable characters"),
    (jwk(RSA, "x" * 257), "has no kid of 1 to 256 printable characters"),
    (jwk(RSA, "\ud800"), "has no kid of 1 to 256 printable characters"),
    (jwk(RSA, "a\nb"), "has no kid of 1 to 256 printable characters"),
    ({**jwk(RSA, "k"), "kid": 7}, "has no kid of 1 to 256 printable characters"),
]


@pytest.mark.parametrize(("item", "why"), STRANGE)
def test_what_is_of_no_use_here_is_left_out_of_what_others_publish_and_an_error_in_what_members_decide(
    item: dict[str, Any], why: str
) -> None:
    with pytest.raises(FormatError) as caught:
        read(jwk(P256, "good"), item)
    assert why in str(caught.value)
    told: list[str] = []
    assert set(jwks.read({"keys": [jwk(P256, "good"), item]}, ISSUER, told.append)) == {"good"}
    assert len(told) == 1 and told[0].startswith(f"key 1 {why}")
    with pytest.raises(FormatError, match="no key that is for signing"):
        jwks.read({"keys": [item]}, ISSUER, told.append)


def test_an_id_that_stands_twice_is_refused() -> None:
    with pytest.raises(FormatError, match="JWKS kid k is there twice"):
        read(jwk(RSA, "k"), jwk(P256, "k"))
    with pytest.raises(FormatError, match="JWKS kid k is there twice"):
        read(jwk(RSA, "k"), jwk(RSA, "k"))


@pytest.mark.parametrize(
    "value", [None, [], "x", {}, {"keys": None}, {"keys": {}}, {"keys": []}, {"keys": ["x"]}, {"keys": [[]]}, {"key": [1]}]
)
def test_what_is_no_key_set_is_refused(value: Any) -> None:
    with pytest.raises(FormatError, match="JWKS"):
        jwks.read(value, ISSUER)


def test_the_number_of_keys_is_bounded() -> None:
    with pytest.raises(FormatError, match="JWKS has 101 keys"):
        read(*(jwk(P256, str(index)) for index in range(101)))
    assert len(read(*(jwk(P256, str(index)) for index in range(100)))) == 100


def test_a_certificate_over_a_key_of_another_kind_is_refused() -> None:
    edwards = ed25519.Ed25519PrivateKey.generate()
    template = x509.load_der_x509_certificate(base64.b64decode(certificate(RSA)))
    signed = (
        x509.CertificateBuilder()
        .subject_name(template.subject)
        .issuer_name(template.subject)
        .public_key(edwards.public_key())
        .serial_number(1)
        .not_valid_before(template.not_valid_before_utc)
        .not_valid_after(template.not_valid_after_utc)
        .sign(edwards, None)
    )
    item = {"kid": "k", "kty": "EC", "x5c": [base64.b64encode(signed.public_bytes(Encoding.DER)).decode()]}
    with pytest.raises(FormatError, match="neither RSA nor on one of the curves"):
        read(item)
