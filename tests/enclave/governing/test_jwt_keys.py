"""What proposals make of tokens' keys, by the two functions that constitutions call."""

import json
from typing import Any

import pytest

from ledgerd.apps.logging import app
from ledgerd.enclave.governing.jwt_keys import CALLS
from ledgerd.enclave.outbound import Answer
from ledgerd.governance import tables
from support.cluster import SANDBOX, Cluster
from support.jwt import ISSUER, Tokens, certificate, jwk, key, record, rows

RSA, P256 = key("RSA"), key("P-256")
OTHER = "https://other.example"


@pytest.fixture
def service() -> Tokens:
    return Tokens(Cluster(app))


def accepted(answer: Answer) -> None:
    assert answer.status == 200, answer.body
    assert json.loads(answer.body)["proposalState"] == "Accepted"


def test_an_issuer_is_set_with_its_keys_and_removed_with_them(service: Tokens) -> None:
    accepted(service.propose("keys", issuer=OTHER, jwks={"keys": [jwk(RSA, "k")]}))
    accepted(service.propose("keys", issuer=ISSUER, jwks={"keys": [jwk(RSA, "k"), jwk(P256, "l", issuer=ISSUER)]}))
    assert service.keys() == rows(k=[record(RSA, OTHER), record(RSA)], l=[record(P256, constraint=ISSUER)])
    shown = json.loads(service.cluster.client(service.host).ask("GET", "/gov/service/jwk?api-version=2024-07-01").body)
    assert [(item["issuer"], item["constraint"]) for item in shown["keys"]["l"]] == [(ISSUER, ISSUER)]
    accepted(service.propose("remove", issuer=ISSUER))
    assert service.keys() == rows(k=[record(RSA, OTHER)])


def test_keys_are_replaced_and_the_same_keys_again_are_no_change(service: Tokens) -> None:
    accepted(service.propose("keys", issuer=ISSUER, jwks={"keys": [jwk(RSA, "old")]}))
    versions = set()
    for _ in range(2):
        accepted(service.propose("keys", issuer=ISSUER, jwks={"keys": [jwk(P256, "new")]}))
        assert service.keys() == rows(new=[record(P256)])
        versions.add(service.store.map(tables.JWT_KEYS).version_of(b"new"))
    assert len(versions) == 1


@pytest.mark.parametrize("kind", ["RSA", "P-256", "P-384", "P-521"])
def test_a_key_may_be_given_by_a_certificate(service: Tokens, kind: str) -> None:
    item = {"kid": "k", "kty": jwk(key(kind), "k")["kty"], "x5c": [certificate(key(kind))]}
    accepted(service.propose("keys", issuer=ISSUER, jwks={"keys": [item]}))
    assert service.keys() == rows(k=[record(key(kind))])


def test_by_our_own_constitution_too() -> None:
    service = Tokens(Cluster(app), SANDBOX)
    keys = [jwk(RSA, "a", use="sig", x5c=[certificate(RSA)]), {"kid": "b", "kty": "EC", "x5c": [certificate(P256)]}]
    accepted(service.propose("set_jwt_issuer", issuer=ISSUER, auto_refresh=False, jwks={"keys": keys}))
    assert service.keys() == rows(a=[record(RSA)], b=[record(P256)])
    accepted(service.propose("set_jwt_public_signing_keys", issuer=ISSUER, jwks={"keys": [jwk(key("P-521"), "c", alg="ES512")]}))
    assert service.keys() == rows(c=[record(key("P-521"))])
    weak = service.propose(
        "set_jwt_issuer", issuer=ISSUER, jwks={"keys": [{"kid": "k", "kty": "RSA", "x5c": [certificate(key("RSA-1024"))]}]}
    )
    assert weak.status >= 400
    assert "an RSA key of 1024 bits" in json.loads(weak.body)["error"]["message"]
    accepted(service.propose("remove_jwt_issuer", issuer=ISSUER))
    assert service.keys() == {}


def test_a_key_that_is_refused_is_told_and_nothing_changes(service: Tokens) -> None:
    for item, why in (
        ({"kid": "k", "kty": "RSA", "x5c": [certificate(key("RSA-1024"))]}, "an RSA key of 1024 bits"),
        ({"kid": "k", "kty": "EC", "x5c": [certificate(RSA)]}, "the certificate in x5c has no EC key"),
        (jwk(RSA, "k", x5c=[certificate(key("RSA", 1))]), "another key than the numbers beside it"),
        (jwk(RSA, "k", issuer=OTHER), "fails validation against issuer"),
        ({**jwk(RSA, "k"), "e": "Aw"}, "the exponent 3"),
        (jwk(RSA, "a" * 257), "has no kid of 1 to 256 printable characters"),
    ):
        answer = service.propose("keys", issuer=ISSUER, jwks={"keys": [jwk(P256, "good"), item]})
        assert answer.status >= 400
        assert why in json.loads(answer.body)["error"]["message"]
        assert service.keys() == {}


@pytest.mark.parametrize(
    ("name", "arguments", "why"),
    [
        ("setJwtPublicSigningKeys", (), "takes an issuer, its metadata and a JWKS"),
        ("setJwtPublicSigningKeys", (ISSUER, {}), "takes an issuer, its metadata and a JWKS"),
        ("setJwtPublicSigningKeys", (7, {}, {"keys": []}), "a string that is not empty"),
        ("setJwtPublicSigningKeys", ("", {}, {"keys": []}), "a string that is not empty"),
        ("setJwtPublicSigningKeys", (ISSUER, {}, None), "JWKS has no keys"),
        ("removeJwtPublicSigningKeys", (), "takes an issuer"),
        ("removeJwtPublicSigningKeys", (ISSUER, ISSUER), "takes an issuer"),
        ("removeJwtPublicSigningKeys", (None,), "a string that is not empty"),
    ],
)
def test_a_constitution_of_another_making_is_told_what_is_wrong(name: str, arguments: tuple[Any, ...], why: str) -> None:
    context: Any = None  # it is not asked before the arguments are right
    with pytest.raises(ValueError) as caught:
        CALLS[name](context, list(arguments))
    assert why in str(caught.value)
