"""Which tokens count: by the tables' keys, by attested time, by their issuer; and all that an attacker makes of one."""

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ledgerd.enclave.endpoints import Context
from ledgerd.enclave.jwt import bearer
from ledgerd.enclave.jwt.keys import from_der
from ledgerd.enclave.openapi import document
from ledgerd.governance import tables
from support.executing import NOW_S, USER, Node, endpoint, error_of
from support.jwt import (
    ISSUER,
    NOW,
    algorithm_of,
    b64url,
    claims,
    der,
    hmac_token,
    key,
    raw_token,
    record,
    rows,
    sign,
    token,
)

RSA, P256 = key("RSA"), key("P-256")
KINDS = ["RSA", "P-256", "P-384", "P-521"]


def who(ctx: Context) -> Any:
    assert ctx.caller is not None
    return {"policy": ctx.caller.policy, "id": ctx.caller.id, "jwt": ctx.caller.jwt, "data": ctx.caller.data}


class Service(Node):
    """A node with one endpoint for bearers of tokens, and these keys in its table."""

    def __init__(self, *policies: str, **keys: list[dict[str, Any]]) -> None:
        super().__init__([endpoint("GET", "/who", who, policies=policies or ("jwt",))])
        self.set(**keys)

    def set(self, **keys: list[dict[str, Any]]) -> None:
        """Replace these rows."""
        self.store.apply(self.store.version + 1, {tables.JWT_KEYS: rows(**keys)})

    def present(self, text: str | None, scheme: str = "Bearer", now_s: int = NOW_S) -> Any:
        """What the handler saw, or why the token was refused."""
        headers = {} if text is None else {"authorization": f"{scheme} {text}"}
        response = self.answer("GET", "/app/who", caller="", headers=headers, now_s=now_s)
        if response.status == 200:
            return json.loads(response.body)
        assert response.status == 401, response.body
        (detail,) = error_of(response)["details"]
        return detail["message"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_by_a_key_of_the_table_counts_and_is_shown_to_the_application(kind: str) -> None:
    signer = key(kind)
    found = Service(k=[record(signer)]).present(token(signer, scp="read"))
    assert found["policy"] == "jwt"
    assert found["jwt"] == {"keyIssuer": ISSUER, "header": {"alg": algorithm_of(signer), "kid": "k"}, "payload": claims(scp="read")}
    assert found["data"] is None


def test_a_refusal_is_in_ccf_s_shape_and_says_how_to_authenticate() -> None:
    response = Service().answer("GET", "/app/who")
    assert response.status == 401
    assert ("www-authenticate", 'Bearer realm="JWT bearer token access", error="invalid_token"') in response.headers
    assert error_of(response)["details"] == [
        {"auth_policy": "jwt", "code": "InvalidAuthenticationInfo", "message": "Missing authorization header"}
    ]


def test_policies_are_tried_in_order() -> None:
    node = Service("user_cert", "jwt", k=[record(RSA)])
    headers = {"authorization": f"Bearer {token(RSA)}"}
    assert json.loads(node.answer("GET", "/app/who", caller=USER, headers=headers).body)["policy"] == "user_cert"
    assert json.loads(node.answer("GET", "/app/who", caller="", headers=headers).body)["policy"] == "jwt"


def test_openapi_tells_of_bearers() -> None:
    node = Service()
    described = document(node.app, "title", "1")
    assert described["components"]["securitySchemes"] == {"jwt": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}
    assert described["paths"]["/who"]["get"]["security"] == [{"jwt": []}]


# The caller's id.


def test_every_token_of_a_subject_is_the_same_caller_and_another_subject_or_issuer_is_another() -> None:
    node = Service(k=[record(RSA)], other=[record(P256, "https://other.example")])
    alice = node.present(token(RSA, jti="1"))["id"]
    assert node.present(token(RSA, jti="2", exp=NOW + 5))["id"] == alice
    others = [
        node.present(token(RSA, sub="bob"))["id"],
        node.present(token(RSA, iss="https://issuer.example/v3"))["id"],
        node.present(token(RSA, tid="t"))["id"],
        node.present(token(P256, "other"))["id"],
    ]
    assert len({alice, *others}) == 5


def test_without_a_subject_each_token_is_a_caller_of_its_own() -> None:
    node = Service(k=[record(RSA)])
    ids = {node.present(token(RSA, sub=None, jti=jti))["id"] for jti in ("1", "1", "2")}
    assert len(ids) == 2


# Dates.


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"exp": NOW}, f"Current time {NOW} is after token's Expiration Time (exp) claim {NOW}"),
        ({"exp": NOW - 1}, f"Current time {NOW} is after token's Expiration Time (exp) claim {NOW - 1}"),
        ({"exp": NOW + 0.001}, None),
        ({"exp": 0}, f"Current time {NOW} is after token's Expiration Time (exp) claim 0"),
        ({"nbf": NOW}, None),
        ({"nbf": NOW + 1}, f"Current time {NOW} is before token's Not Before (nbf) claim {NOW + 1}"),
        ({"nbf": None}, None),
    ],
    ids=[str(number) for number in range(7)],  # the words hold the time, which workers of one run of tests must not see differently
)
def test_a_token_counts_from_nbf_on_and_until_exp_by_attested_time(change: dict[str, Any], why: str | None) -> None:
    found = Service(k=[record(RSA)]).present(token(RSA, **change))
    assert found == why if why is not None else found["policy"] == "jwt"


def test_a_token_that_counted_once_is_refused_when_its_time_is_over() -> None:
    node = Service(k=[record(RSA)])
    text = token(RSA)
    assert node.present(text)["policy"] == "jwt"
    assert "Expiration Time" in node.present(text, now_s=NOW_S + 60)


def test_while_the_time_is_not_known_nothing_counts() -> None:
    """Of 1970 no token would have expired."""
    assert Service(k=[record(RSA)]).present(token(RSA, nbf=None), now_s=0) == "The current time is not known"


# Keys, as the tables have them now.


def test_a_removed_key_is_out_at_the_next_request_and_a_replaced_one_too() -> None:
    node = Service(k=[record(RSA)])
    text = token(RSA)
    assert node.present(text)["policy"] == "jwt"
    node.set(k=[record(key("RSA", 1))])
    assert node.present(text) == "Signature verification failed"
    node.set(k=[record(key("RSA", 1)), record(RSA, "https://other.example")])
    assert node.present(text)["jwt"]["keyIssuer"] == "https://other.example"
    node.store.apply(node.store.version + 1, {tables.JWT_KEYS: {b"k": None}})
    assert node.present(text) == "JWT signing key not found for kid k"


def test_two_issuers_may_use_one_key_id() -> None:
    node = Service(k=[record(RSA), record(P256, "https://other.example")])
    assert node.present(token(RSA))["jwt"]["keyIssuer"] == ISSUER
    assert node.present(token(P256))["jwt"]["keyIssuer"] == "https://other.example"


def test_a_key_of_one_issuer_does_not_sign_for_another_s_key_id() -> None:
    node = Service(k=[record(RSA)], other=[record(P256, "https://other.example")])
    assert node.present(token(P256, "k")) == "Signature verification failed"


@pytest.mark.parametrize(
    "row",
    [
        b"",
        b"[",
        b"{}",
        b"[[]]",
        b'"x"',
        b"[" * 100_000,
        b'[{"issuer":"x"}]',
        b'[{"issuer":1,"public_key":"AAAA"}]',
        b'[{"issuer":"x","public_key":"AAAA"}]',
        b'[{"issuer":"x","public_key":"="}]',
        b"\xff",
    ],
)
def test_a_row_that_is_none_refuses_and_breaks_nothing(row: bytes) -> None:
    node = Service()
    node.store.apply(node.store.version + 1, {tables.JWT_KEYS: {b"k": row}})
    assert node.present(token(RSA)) == "Signature verification failed"


@pytest.mark.parametrize("weak", [key("RSA-1024"), ec.generate_private_key(ec.SECP256K1())])
def test_a_weak_or_strange_key_verifies_nothing_though_it_is_in_the_table(weak: Any) -> None:
    data = f"{b64url(json.dumps({'alg': 'RS256', 'kid': 'k'}).encode())}.{b64url(json.dumps(claims()).encode())}"
    algorithm = "RS256" if not isinstance(weak, ec.EllipticCurvePrivateKey) else "ES256"
    text = f"{data}.{b64url(sign(weak, algorithm, data.encode()))}"
    assert Service(k=[record(weak)]).present(text) == "Signature verification failed"


# Constraints.

TENANT = "11111111-2222-3333-4444-555555555555"
ENTRA = "https://login.microsoftonline.com"


@pytest.mark.parametrize(
    ("constraint", "iss", "tid", "counts"),
    [
        (None, "https://anybody.example", None, True),
        (ISSUER, ISSUER, None, True),
        (ISSUER, ISSUER + "/", None, False),
        (ISSUER, ISSUER.upper(), None, False),
        (ISSUER, "https://issuer.example./v2", None, False),
        (ISSUER, "https://\u0456ssuer.example/v2", None, False),  # a Cyrillic letter that looks like the Latin one
        (ISSUER, "https://issuer.example/v2\u200b", None, False),
        (ISSUER, "https://issuer.example\u2044v2", None, False),
        (ISSUER, "https://issuer.example/v2\x00", None, False),
        (ISSUER, "", None, False),
        (ISSUER, ISSUER, TENANT, False),  # a tenant is for Entra only
        ("not a URL", "not a URL", None, True),
        ("not a URL", "a URL", None, False),
        (f"{ENTRA}/{{tenantid}}/v2.0", f"{ENTRA}/{TENANT}/v2.0", TENANT, True),
        (f"{ENTRA}/{{tenantid}}/v2.0", f"{ENTRA}/{TENANT}/v2.0", None, False),
        (f"{ENTRA}/{{tenantid}}/v2.0", f"{ENTRA}/{TENANT}/v2.0", "other", False),
        (f"{ENTRA}/{{tenantid}}/v2.0", f"{ENTRA}/{{tenantid}}/v2.0", "{tenantid}", False),
        (f"{ENTRA}/{{tenantid}}/v2.0", f"{ENTRA}//v2.0", "", False),
        (f"{ENTRA}/{{tenantid}}/v2.0", f"{ENTRA}/{TENANT}/x/v2.0", f"{TENANT}/x", False),
        (f"{ENTRA}/{TENANT}/v2.0", f"{ENTRA}/{TENANT}/v2.0", TENANT, True),
        (f"{ENTRA}/{TENANT}/v2.0", f"{ENTRA}/{TENANT}/v2.0", None, False),
        (f"{ENTRA}/common/v2.0", f"{ENTRA}/common/v2.0", TENANT, False),
    ],
)
def test_a_key_with_a_constraint_signs_for_that_issuer_only(constraint: str | None, iss: str, tid: str | None, counts: bool) -> None:
    found = Service(k=[record(RSA, constraint=constraint)]).present(token(RSA, iss=iss, tid=tid))
    assert found["policy"] == "jwt" if counts else found == f"Kid k failed issuer constraint validation {constraint}"


# What an attacker makes of tokens.


@pytest.mark.parametrize("kind", ["RSA", "P-256"])
@pytest.mark.parametrize("form", [Encoding.DER, Encoding.PEM])
def test_a_public_key_is_no_secret_for_hmac(kind: str, form: Encoding) -> None:
    secret = key(kind).public_key().public_bytes(form, PublicFormat.SubjectPublicKeyInfo)
    assert "alg is 'HS256'" in Service(k=[record(key(kind))]).present(hmac_token(secret))


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", "HS256", "HS512", "RS512", "PS256", "EdDSA", "RS256 ", "rs256"])
@pytest.mark.parametrize("signature", ["", "AA"])
def test_an_algorithm_that_is_not_known_is_refused_signed_or_not(algorithm: str, signature: str) -> None:
    text = raw_token({"alg": algorithm, "kid": "k"}, claims(), RSA, "RS256")
    service = Service(k=[record(RSA)])
    assert "alg is" in service.present(text)
    assert "alg is" in service.present(f"{text.rpartition('.')[0]}.{signature}")


@pytest.mark.parametrize("said", ["RS256", "ES256", "ES384", "ES512"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_token_says_of_its_algorithm_must_be_its_key_s(said: str, kind: str) -> None:
    signer = key(kind)
    text = raw_token({"alg": said, "kid": "k"}, claims(), signer, algorithm_of(signer))
    found = Service(k=[record(signer)]).present(text)
    assert found == "Signature verification failed" if said != algorithm_of(signer) else found["policy"] == "jwt"


@pytest.mark.parametrize("kind", KINDS)
def test_any_flipped_bit_of_what_is_signed_and_any_other_signature_is_refused(kind: str) -> None:
    signer = key(kind)
    service = Service(k=[record(signer)])
    head, body, signature = token(signer).split(".")
    forged = b64url(json.dumps(claims(sub="root")).encode())
    other = token(key(kind, 1)).split(".")[2]
    for text in (f"{head}.{forged}.{signature}", f"{head}.{body}.{other}", f"{head}.{body}.", f"{head}.{body}.{b64url(bytes(64))}"):
        assert service.present(text) == "Signature verification failed"


def test_an_ecdsa_signature_has_one_form_and_its_second_value_is_no_other_caller() -> None:
    """Of (r, s) anybody makes (r, n - s), which verifies, too: so nothing may rest on a signature's bytes, and nothing does."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    service = Service(k=[record(P256)])
    data = token(P256, sub=None).rpartition(".")[0]
    signature = sign(P256, "ES256", data.encode())
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    twin = signature[:32] + (order - s).to_bytes(32, "big")
    first, second = (service.present(f"{data}.{b64url(each)}") for each in (signature, twin))
    assert first["id"] == second["id"]
    for wrong in (encode_dss_signature(r, s), signature + b"\0", b"\0" + signature, signature[:-1], bytes(64), b"\xff" * 64):
        assert service.present(f"{data}.{b64url(wrong)}") == "Signature verification failed"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text + "=",
        lambda text: text + " ",
        lambda text: " " + text,
        lambda text: text + "\n",
        lambda text: text.replace(".", "..", 1),
        lambda text: text + ".",
        lambda text: text + ".AAAA",
        lambda text: text.rpartition(".")[0],
        lambda text: "." + text,
        lambda text: text + ", " + text,  # the header sent twice
        lambda text: text.replace("e", "\u0435"),
        lambda text: text.replace("_", "/").replace("-", "+") + "+",
        lambda text: "",
        lambda text: "..",
        lambda text: "a.a.a",
        lambda text: "A" * 20_000,
        lambda text: text + "A" * 17_000,
    ],
)
def test_whatever_is_not_exactly_a_token_is_refused(spoil: Any) -> None:
    found = Service(k=[record(RSA)]).present(spoil(token(RSA)))
    assert isinstance(found, str) and found.startswith(("Malformed JWT", "JWT header"))


def test_bits_that_no_encoder_leaves_make_no_second_spelling() -> None:
    text = token(RSA)  # 256 bytes of signature: the last character has four bits too many
    assert text[-1] in "AQgw"
    last = chr(ord(text[-1]) + 1)
    assert "its last character says more than its bytes" in Service(k=[record(RSA)]).present(text[:-1] + last)


HEADER = b'{"alg":"RS256","kid":"k"}'


@pytest.mark.parametrize(
    ("header", "payload", "why"),
    [
        (b'{"alg":"none","alg":"RS256","kid":"k"}', claims(), "a JSON object names a member twice"),
        (b'{"alg":"RS256","kid":"k","kid":"k"}', claims(), "a JSON object names a member twice"),
        (HEADER, b'{"iss":"x","exp":9999999999,"exp":1}', "a JSON object names a member twice"),
        (HEADER, b'{"iss":"x","exp":9999999999,"a":{"b":1,"\\u0062":2}}', "a JSON object names a member twice"),
        (HEADER, b'{"iss":"x","exp":NaN}', "NaN is no number"),
        (HEADER, b'{"iss":"x","exp":1e999}', "a number beyond all bounds"),
        (HEADER, b'{"iss":"x","exp":9999999999,"a":' + b"9" * 5000 + b"}", "more than 100 digits"),
        (HEADER, b'{"iss":"x","exp":9999999999,"a":' + b"[" * 5000 + b"]" * 5000 + b"}", "more than 32 levels"),
        (HEADER, b'{"iss":"x","exp":9999999999,"a":' + b"[" * 32 + b"]" * 32 + b"}", "more than 32 levels"),
        (HEADER, b'{"iss":"\\ud800","exp":9999999999}', "half a character"),
        (HEADER, b'{"iss":"\xff","exp":9999999999}', "not UTF-8"),
        (HEADER, b"[]", "not an object"),
        (HEADER, b"", "not valid JSON"),
        (HEADER, b"{}{}", "not valid JSON"),
        (b"\xef\xbb\xbf" + HEADER, claims(), "not valid JSON"),
        (b'{"kid":"k"}', claims(), "alg must be a string"),
        (b'{"alg":["RS256"],"kid":"k"}', claims(), "alg must be a string"),
        (b'{"alg":"RS256"}', claims(), "kid must be a string"),
        (b'{"alg":"RS256","kid":1}', claims(), "kid must be a string"),
        (b'{"alg":"RS256","kid":"k","crit":["b64"],"b64":false}', claims(), "crit asks for extensions"),
        (b'{"alg":"RS256","kid":"k","crit":[]}', claims(), "crit asks for extensions"),
        (HEADER, claims(iss=None), "iss must be a string"),
        (HEADER, claims(iss=["a"]), "iss must be a string"),
        (HEADER, claims(iss="x" * 3000), "iss must be a string of at most"),
        (HEADER, claims(exp=None), "exp must be a number"),
        (HEADER, claims(exp="9999999999"), "exp must be a number"),
        (HEADER, claims(exp=True), "exp must be a number"),
        (HEADER, claims(exp=-1), "exp must be a number"),
        (HEADER, claims(exp=1 << 60), "exp must be a number"),
        (HEADER, b'{"iss":"x","exp":9999999999,"nbf":null}', "nbf must be a number"),
        (HEADER, claims(nbf="0"), "nbf must be a number"),
        (HEADER, claims(sub=7), "sub must be a string"),
        (HEADER, claims(tid={}), "tid must be a string"),
    ],
)
def test_truly_signed_but_not_as_every_reader_reads_it_is_refused(header: bytes, payload: Any, why: str) -> None:
    found = Service(k=[record(RSA)]).present(raw_token(header, payload, RSA, "RS256"))
    assert isinstance(found, str) and why in found


def test_keys_that_a_token_brings_along_are_not_looked_at() -> None:
    own = key("RSA", 1)
    brought = {"jwk": {"kty": "RSA"}, "jku": "https://evil.example", "x5c": ["AAAA"], "x5u": "https://evil.example"}
    assert Service(k=[record(RSA)]).present(token(own, header=brought)) == "Signature verification failed"


@pytest.mark.parametrize("kid", ["", "../k", "k\x00", "K", "\U0001f511", "x" * 2000])
def test_a_key_id_is_only_looked_up(kid: str) -> None:
    assert Service(k=[record(RSA)]).present(token(RSA, kid)) == f"JWT signing key not found for kid {kid[:256]}"


@pytest.mark.parametrize(
    ("scheme", "why"), [("Basic", "does not have Bearer scheme"), ("", "does not have Bearer scheme"), ("bearer", None)]
)
def test_only_bearers_are_looked_at(scheme: str, why: str | None) -> None:
    found = Service(k=[record(RSA)]).present(token(RSA), scheme)
    assert why in found if why else found["policy"] == "jwt"
    assert Service().answer("GET", "/app/who", headers={"authorization": "Bearer"}).status == 401


# What is remembered.


def test_what_is_remembered_is_bounded_and_holds_only_what_was_verified() -> None:
    verified = bearer.Verified()
    table = rows(k=[record(P256)])

    def present(text: str) -> Any:
        return bearer.authenticate(f"Bearer {text}", verified, table.get, NOW_S)

    for number in range(bearer.VERIFIED_MAX + 10):
        assert isinstance(present(token(key("P-256", 1), jti=str(number))), str)
    assert not verified._known
    texts = [token(P256, jti=str(number)) for number in range(bearer.VERIFIED_MAX + 10)]
    for text in texts:
        assert not isinstance(present(text), str)
    assert len(verified._known) == bearer.VERIFIED_MAX
    assert verified.find(texts[0]) is None and verified.find(texts[-1]) is not None
    long = token(P256, more="x" * bearer.VERIFIED_LENGTH_MAX)
    assert not isinstance(present(long), str)
    assert verified.find(long) is None


def test_what_is_shown_of_a_token_is_each_caller_s_own() -> None:
    found = bearer.authenticate(f"Bearer {token(RSA)}", bearer.Verified(), rows(k=[record(RSA)]).get, NOW_S)
    assert isinstance(found, bearer.Bearer)
    found.shown()["payload"]["sub"] = "root"
    assert found.shown()["payload"]["sub"] == "alice"


def test_der_of_the_table_is_what_ccf_has() -> None:
    assert record(RSA)["public_key"].startswith("MII")
    assert from_der(der(RSA)) == RSA.public_key()
