"""Who is let in, and what others are told: texts, codes and shapes are CCF's."""

from typing import Any

import pytest

from ledgerd.enclave.endpoints import Context
from ledgerd.ledger.errors import UsageError
from support.executing import MEMBER, OTHER_USER, STRANGER, USER, Node, endpoint, error_of

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
    assert service.answer("GET", "/app/c", caller=STRANGER).body == b"DER"


def test_an_unknown_policy_is_refused_where_it_is_declared() -> None:
    with pytest.raises(UsageError, match="jwtt"):
        endpoint("GET", "/who", who, policies=["user_cert", "jwtt"])
