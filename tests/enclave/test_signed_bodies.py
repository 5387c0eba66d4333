"""Bodies that users and members have signed: whose they are, and what an application is told of them."""

from collections.abc import Mapping
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from ledgerd.enclave.endpoints import Context
from ledgerd.governance import requests, tables
from ledgerd.ledger import cbor, cose
from support.cluster import Identity, make_identity
from support.executing import STRANGER, Node, endpoint, error_of
from support.governed import member_rows
from support.tls import identity

CHALLENGE = ("www-authenticate", 'COSE-SIGN1 realm="Signed request access"')
CURVES = (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())
USER, MEMBER, NOBODY_HERE = make_identity("user"), make_identity("member"), make_identity("stranger")
CREATED_AT = 1_780_000_000


def id_of(who: Identity) -> str:
    return requests.member_id_of(who.certificate)


def who(ctx: Context) -> Any:
    caller = ctx.caller
    assert caller is not None
    return {"policy": caller.policy, "id": caller.id, "data": caller.data, "pem": caller.pem, "content": (caller.content or b"").decode()}


def node(policy: str, users: Mapping[str, Identity] | None = None) -> Node:
    made = Node([endpoint("POST", "/who", who, policies=[policy])])
    made.store.apply(2, member_rows({"m": MEMBER}))
    rows: dict[bytes, bytes | None] = {id_of(user).encode(): user.pem.encode() for user in (users or {"u": USER}).values()}
    made.store.apply(3, {tables.USER_CERTS: rows, tables.USER_INFO: {id_of(USER).encode(): b'{"user_data":{"desk":4}}'}})
    return made


def header(signer: Identity, **more: Any) -> dict[Any, Any]:
    return {cose.HEADER_KEY_ID: id_of(signer).encode(), requests.HEADER_CREATED_AT: CREATED_AT, **more}


def ask(service: Node, body: bytes, content_type: str | None = "application/cose", caller: str = "") -> Any:
    headers = {} if content_type is None else {"content-type": content_type}
    return service.answer("POST", "/app/who", body, headers=headers, caller=caller)


def reason(response: Any) -> str:
    assert response.status == 401
    assert response.headers == (CHALLENGE,)
    (detail,) = error_of(response)["details"]
    assert detail["code"] == "InvalidAuthenticationInfo"
    return str(detail["message"])


@pytest.mark.parametrize(("policy", "signer", "data"), [("user_cose_sign1", USER, '{"desk":4}'), ("member_cose_sign1", MEMBER, '"m"')])
def test_who_has_signed_is_the_caller_whatever_the_session_is(policy: str, signer: Identity, data: str) -> None:
    body = cose.sign(signer.key, header(signer), b"to whom it may concern")
    for session in ("", STRANGER):
        response = ask(node(policy), body, caller=session)
        assert response.status == 200
        expected = f'{{"policy":"{policy}","id":"{id_of(signer)}","data":{data},"pem":{json_text(signer.pem)},'
        assert response.body.decode() == expected + '"content":"to whom it may concern"}'


def json_text(text: str) -> str:
    return '"' + text.replace("\n", "\\n") + '"'


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: str(curve.name))
def test_every_curve_that_a_certificate_may_be_on(curve: ec.EllipticCurve) -> None:
    user = make_identity("another", curve)
    body = cose.sign(user.key, header(user), b"x")
    assert ask(node("user_cose_sign1", {"u": user}), body).status == 200


def test_a_user_need_not_say_when_and_for_what_it_has_signed_but_a_member_must_say_when() -> None:
    bare = {cose.HEADER_KEY_ID: id_of(USER).encode()}
    assert ask(node("user_cose_sign1"), cose.sign(USER.key, bare, b"x")).status == 200
    bare = {cose.HEADER_KEY_ID: id_of(MEMBER).encode()}
    assert "ccf.gov.msg.created_at" in reason(ask(node("member_cose_sign1"), cose.sign(MEMBER.key, bare, b"x")))


@pytest.mark.parametrize("kind", sorted(requests.TYPES))
def test_what_a_member_has_signed_for_the_service_is_no_applications(kind: str) -> None:
    body = requests.sign(MEMBER.key, MEMBER.certificate, kind, b"{}", created_at=CREATED_AT)
    assert "for the service itself" in reason(ask(node("member_cose_sign1"), body))
    assert "for the service itself" in reason(ask(node("user_cose_sign1", {"u": MEMBER}), body))  # who is a user, too
    named = header(MEMBER, **{requests.HEADER_TYPE: f"my_{kind}"})
    assert ask(node("member_cose_sign1"), cose.sign(MEMBER.key, named, b"{}")).status == 200


def test_everything_else_is_refused_with_the_reason() -> None:
    good = cose.decode(cose.sign(USER.key, header(USER), b"x"))
    whole = cose.encode(good)
    forged = cose.encode(good._replace(payload=b"y"))
    stranger = cose.sign(NOBODY_HERE.key, header(NOBODY_HERE), b"x")
    by_another = cose.sign(NOBODY_HERE.key, header(USER), b"x")
    member = cose.sign(MEMBER.key, header(MEMBER), b"x")
    for body, why in (
        (b"", "parse"),
        (b"{}", "parse"),
        (whole[1:], "parse"),
        (whole + b"\0", "parse"),
        (cose.encode(good._replace(payload=None)), "detached"),
        (cose.sign(USER.key, {}, b"x"), "kid"),
        (cose.sign(USER.key, {cose.HEADER_KEY_ID: id_of(USER)}, b"x"), "kid"),
        (cose.sign(USER.key, {cose.HEADER_KEY_ID: b"-" * 64}, b"x"), "kid"),
        (stranger, "Signer is not a known user"),
        (member, "Signer is not a known user"),
        (forged, "Failed to validate COSE Sign1"),
        (by_another, "Failed to validate COSE Sign1"),
    ):
        assert why in reason(ask(node("user_cose_sign1"), body)), why
    assert reason(ask(node("user_cose_sign1"), whole, None)) == "Missing content-type header"
    assert reason(ask(node("user_cose_sign1"), whole, "application/json")) == "Content type is not set to application/cose"


@pytest.mark.parametrize("algorithm", [-8, -37, "ES256", None, True, [1]])
def test_only_ecdsa_is_an_algorithm(algorithm: Any) -> None:
    message = cose.decode(cose.sign(USER.key, header(USER), b"x"))
    protected = cbor.encode({**message.protected, cose.HEADER_ALGORITHM: algorithm})
    assert "Unsupported algorithm" in reason(ask(node("user_cose_sign1"), cose.encode(message._replace(protected_bytes=protected))))


@pytest.mark.parametrize("record", [b"", b"PEM", b"\xff", identity("ed", key=ed25519.Ed25519PrivateKey.generate()).certificate])
def test_a_certificate_in_the_tables_that_cannot_verify_refuses_and_no_more(record: Any) -> None:
    stored = record if isinstance(record, bytes) else record.public_bytes(Encoding.PEM)
    service = node("user_cose_sign1")
    service.store.apply(4, {tables.USER_CERTS: {id_of(USER).encode(): stored}})
    assert "Failed to validate COSE Sign1" in reason(ask(service, cose.sign(USER.key, header(USER), b"x")))


def test_who_is_removed_has_signed_in_vain() -> None:
    service = node("user_cose_sign1")
    body = cose.sign(USER.key, header(USER), b"x")
    assert ask(service, body).status == 200
    service.store.apply(service.store.version + 1, {tables.USER_CERTS: {id_of(USER).encode(): None}})
    assert reason(ask(service, body)) == "Signer is not a known user"
