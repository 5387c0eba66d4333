"""Bearers of tokens as applications in JavaScript see them."""

import json
from typing import Any

from ledgerd.governance import tables
from support.executing import USER, error_of
from support.javascript import Installed
from support.jwt import ISSUER, claims, key, record, rows, token

RSA = key("RSA")
SHOW = "return { body: request.caller };"


def installed(*policies: Any) -> Installed:
    service = Installed()
    service.put({tables.JWT_KEYS: rows(k=[record(RSA)])})
    service.install(SHOW, authn_policies=list(policies))
    return service


def test_a_caller_is_its_policy_and_its_token() -> None:
    response = installed("jwt").answer("POST", "/app/x", caller="", headers={"authorization": f"Bearer {token(RSA)}"})
    assert json.loads(response.body) == {
        "policy": "jwt",
        "jwt": {"keyIssuer": ISSUER, "header": {"alg": "RS256", "kid": "k"}, "payload": claims()},
    }


def test_a_token_may_be_asked_for_beside_a_certificate() -> None:
    service = installed({"all_of": ["jwt", "user_cert"]})
    headers = {"authorization": f"Bearer {token(RSA)}"}
    found = json.loads(service.answer("POST", "/app/x", caller=USER, headers=headers).body)
    assert found["policy"] == ["jwt", "user_cert"]
    assert found["jwt"]["jwt"]["payload"]["sub"] == "alice"
    assert found["user_cert"]["id"] == USER
    for caller, sent in (("", headers), (USER, {})):
        response = service.answer("POST", "/app/x", caller=caller, headers=sent)
        assert response.status == 401


def test_a_key_that_is_removed_while_the_script_waits_is_out() -> None:
    """What authentication has read must still stand when the writes take effect; otherwise all is done again, from the token on."""
    service = installed("jwt")
    service.install("const k = ccf.strToBuf('k'); ccf.kv['public:x'].set(k, k); return {};", authn_policies=["jwt"])
    removed = False

    def remove(scripted: Any) -> None:
        nonlocal removed
        if not removed:
            removed = True
            service.put({tables.JWT_KEYS: {b"k": None}})

    service.on_scripted = remove
    response = service.answer("POST", "/app/x", caller="", headers={"authorization": f"Bearer {token(RSA)}"})
    assert response.status == 401
    assert error_of(response)["details"][0]["message"] == "JWT signing key not found for kid k"
    assert service.store.get("public:x", b"k") is None
