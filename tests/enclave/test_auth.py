"""Who is let in, and what others are told: texts, codes and shapes are CCF's."""

from datetime import timedelta
from typing import Any

import pytest

from ledgerd.enclave import openapi
from ledgerd.enclave.endpoints import Context
from ledgerd.ledger.errors import UsageError
from support.executing import CERTIFICATE, MEMBER, NOW_S, OTHER_USER, STRANGER, USER, Node, endpoint, error_of
from support.openapi import check_openapi
from support.tls import identity

REASONS = {
    "user_cert": ("No caller user certificate", "Could not find matching user certificate"),
    "member_cert": ("No caller member certificate", "Could not find matching member certificate"),
    "any_cert": ("No caller certificate", None),
}


def who(ctx: Context) -> Any:
    caller = ctx.caller
    return {"policy": caller.policy, "id": caller.id, "data": caller.data} if caller else "nobody"


def node(*policies: str) -> Node:
    return Node([endpoint("GET", "/who", who, policies=policies)])


@pytest.mark.parametrize(
    ("policies", "caller", "expected"),
    [
        (("user_cert",), USER, f'{{"policy":"user_cert","id":"{USER}","data":{{"role":"clerk"}}}}'),
        (("user_cert",), OTHER_USER, f'{{"policy":"user_cert","id":"{OTHER_USER}","data":null}}'),
        (("member_cert",), MEMBER, f'{{"policy":"member_cert","id":"{MEMBER}","data":null}}'),
        (("any_cert",), STRANGER, f'{{"policy":"any_cert","id":"{STRANGER}","data":null}}'),
        (("no_auth",), "", '{"policy":"no_auth","id":"","data":null}'),
        (("user_cert", "no_auth"), STRANGER, '{"policy":"no_auth","id":"","data":null}'),
        (("member_cert", "any_cert"), MEMBER, f'{{"policy":"member_cert","id":"{MEMBER}","data":null}}'),
        (("any_cert", "member_cert"), MEMBER, f'{{"policy":"any_cert","id":"{MEMBER}","data":null}}'),
        ((), STRANGER, "nobody"),
    ],
)
def test_the_first_policy_that_accepts_names_the_caller(policies: tuple[str, ...], caller: str, expected: str) -> None:
    response = node(*policies).answer("GET", "/app/who", caller=caller)
    assert (response.status, response.body.decode()) == (200, expected)


@pytest.mark.parametrize("caller", ["", STRANGER])
@pytest.mark.parametrize(
    "policies", [("user_cert",), ("member_cert",), ("user_cert", "member_cert"), ("member_cert", "user_cert"), ("any_cert", "user_cert")]
)
def test_a_refusal_has_one_detail_for_each_policy_in_order(policies: tuple[str, ...], caller: str) -> None:
    if caller and "any_cert" in policies:
        return
    response = node(*policies).answer("GET", "/app/who", caller=caller)
    assert response.status == 401
    assert response.headers == ()
    assert error_of(response) == {
        "code": "InvalidAuthenticationInfo",
        "message": "Invalid authentication credentials.",
        "details": [
            {"auth_policy": policy, "code": "InvalidAuthenticationInfo", "message": REASONS[policy][bool(caller)]} for policy in policies
        ],
    }


def test_users_are_no_members_and_members_no_users() -> None:
    assert node("member_cert").answer("GET", "/app/who", caller=USER).status == 401
    assert node("user_cert").answer("GET", "/app/who", caller=MEMBER).status == 401


def test_a_removed_user_is_out_at_the_next_request_and_an_added_one_in() -> None:
    service = node("user_cert")
    assert service.answer("GET", "/app/who", caller=USER).status == 200
    service.store.apply(2, {"public:ccf.gov.users.certs": {USER.encode(): None, STRANGER.encode(): b"PEM"}})
    assert service.answer("GET", "/app/who", caller=USER).status == 401
    assert service.answer("GET", "/app/who", caller=STRANGER).status == 200
    service.store.rollback(1)
    assert service.answer("GET", "/app/who", caller=USER).status == 200


def test_the_certificate_of_the_session_is_the_callers() -> None:
    service = Node([endpoint("GET", "/c", lambda ctx: ctx.caller.certificate, policies=["any_cert"])])
    assert service.answer("GET", "/app/c", caller=STRANGER).body == CERTIFICATE


def test_an_unknown_policy_is_refused_where_it_is_declared() -> None:
    with pytest.raises(UsageError, match="jwtt"):
        endpoint("GET", "/who", who, policies=["user_cert", "jwtt"])


# Dates of certificates.


@pytest.mark.parametrize("policy", ["user_cert", "member_cert", "any_cert"])
@pytest.mark.parametrize("seconds", [-1, 0, 86_400, 86_401])
def test_a_certificate_counts_between_its_dates(policy: str, seconds: int) -> None:
    shown = identity("dated", begins=timedelta(0), ends=timedelta(days=1)).der
    first, last = NOW_S, NOW_S + 86_400
    caller = MEMBER if policy == "member_cert" else USER
    response = node(policy).answer("GET", "/app/who", caller=caller, certificate=shown, now_s=NOW_S + seconds)
    if 0 <= seconds <= 86_400:
        assert response.status == 200
        return
    (detail,) = error_of(response)["details"]
    assert detail["message"] == (
        f"Current time {NOW_S + seconds} is before certificate's Not Before validity period {first}"
        if seconds < 0
        else f"Current time {NOW_S + seconds} is after certificate's Not After validity period {last}"
    )


def test_a_certificate_without_dates_that_can_be_read_does_not_count() -> None:
    der, version = identity("odd").der, bytes.fromhex("a003020102")  # 3, the highest; others are no ValueError
    for unreadable in (b"\x30\x00", der.replace(version, version[:-1] + b"\x09", 1)):
        response = node("any_cert").answer("GET", "/app/who", caller=USER, certificate=unreadable)
        assert response.status == 401
        assert "no dates" in error_of(response)["details"][0]["message"]


# Several policies at once.


def parts(ctx: Context) -> Any:
    caller = ctx.caller
    assert caller is not None
    found = {name: [part.policy, part.id, part.data] for name, part in caller.parts.items()}
    return {"policy": caller.policy, "id": caller.id, "parts": found}


def both(*policies: str) -> Node:
    return Node([endpoint("GET", "/who", parts, policies=[{"all_of": policies}])])


def test_all_of_accepts_whom_each_of_its_policies_accepts() -> None:
    service = both("user_cert", "any_cert")
    expected = f'{{"policy":"any_cert+user_cert","id":"{USER}",'
    expected += f'"parts":{{"any_cert":["any_cert","{USER}",null],"user_cert":["user_cert","{USER}",{{"role":"clerk"}}]}}}}'
    assert service.answer("GET", "/app/who", caller=USER).body.decode() == expected
    for caller, why in ((STRANGER, "user_cert: Could not find matching user certificate"), ("", "any_cert: No caller certificate")):
        response = service.answer("GET", "/app/who", caller=caller)
        assert response.status == 401
        (detail,) = error_of(response)["details"]
        assert detail == {"auth_policy": "any_cert+user_cert", "code": "InvalidAuthenticationInfo", "message": why}


def test_all_of_is_one_policy_among_others() -> None:
    service = Node([endpoint("GET", "/who", who, policies=[{"all_of": ["user_cert", "any_cert"]}, "member_cert"])])
    assert b'"member_cert"' in service.answer("GET", "/app/who", caller=MEMBER).body
    refused = service.answer("GET", "/app/who", caller=STRANGER)
    assert [detail["auth_policy"] for detail in error_of(refused)["details"]] == ["any_cert+user_cert", "member_cert"]


def test_a_refusal_challenges_once_in_each_way() -> None:
    policies = ["user_cose_sign1", {"all_of": ["user_cert", "user_cose_sign1"]}, "member_cose_sign1"]
    refused = Node([endpoint("GET", "/who", who, policies=policies)]).answer("GET", "/app/who", caller=STRANGER)
    assert refused.headers == (("www-authenticate", 'COSE-SIGN1 realm="Signed request access"'),)


@pytest.mark.parametrize(
    "wrong",
    [
        {"all_of": []},
        {"all_of": "user_cert"},
        {"all_of": ["user_cert", "user_cert"]},
        {"all_of": ["user_cert", {"all_of": ["any_cert"]}]},
        {"all_of": 7},
        {"all_of": None},
        {"all_of": [7]},
        {"all_of": {"user_cert": 1}},
        {"all_of": ["root"]},
        {"any_of": ["user_cert"]},
        {},
        7,
    ],
)
def test_what_is_no_list_of_simple_policies_is_refused_where_it_is_declared(wrong: Any) -> None:
    with pytest.raises(UsageError):
        endpoint("GET", "/who", who, policies=[wrong])


def test_openapi_names_what_it_has_words_for() -> None:
    service = Node(
        [
            endpoint("POST", "/a", who, policies=["user_cose_sign1"]),
            endpoint("POST", "/b", who, policies=["user_cose_sign1", "user_cert"]),
            endpoint("POST", "/c", who, policies=[{"all_of": ["user_cose_sign1", "member_cose_sign1", "any_cert"]}]),
            endpoint("POST", "/d", who, policies=["user_cert"]),
        ]
    )
    made = openapi.document(service.app, "test", "1")
    check_openapi(made)
    assert {path: item["post"].get("security") for path, item in made["paths"].items()} == {
        "/a": [{"user_cose_sign1": []}],
        "/b": [{"user_cose_sign1": []}, {}],
        "/c": [{"member_cose_sign1": [], "user_cose_sign1": []}],
        "/d": None,
    }
