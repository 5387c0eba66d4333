"""The door for applications: a handler's signature is the contract, in running and in the OpenAPI document."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any, TypedDict

import pytest

from ledgerd.apps.logging import app as logging_app
from ledgerd.enclave import openapi
from ledgerd.enclave.app import App, Context, RequestError, Response, UsageError
from ledgerd.enclave.endpoints import Registry
from support.executing import MEMBER, STRANGER, USER, Node, error_of
from support.openapi import check_openapi


@dataclasses.dataclass
class Account:
    """What a bank keeps."""

    owner: str
    balance: int = 0


class Page(TypedDict):
    accounts: list[Account]
    after: str | None


def bank() -> App:
    app = App("bank", version="2.0.0", description="Accounts.")

    @app.put("/accounts/{id}", policies=["member_cert"])
    def create(ctx: Context, id: int, body: Account) -> Account:
        ctx.kv["accounts"].set(b"%08d" % id, json.dumps(dataclasses.asdict(body)).encode())
        return body

    @app.get("/accounts/{id}", responses={404: RequestError})
    def show(ctx: Context, id: int) -> Account | None:
        """Show an account.

        With its balance.
        """
        record = ctx.kv["accounts"].get(b"%08d" % id)
        return Account(**json.loads(record)) if record is not None else None

    @app.get("/accounts")
    def page(ctx: Context, after: int = 0, limit: int = 2, newest_first: bool = False) -> Page:
        found = ctx.kv["accounts"].range(b"%08d" % (after + 1), limit=limit, reverse=newest_first)
        return {"accounts": [Account(**json.loads(value)) for _, value in found], "after": found[-1][0].decode() if found else None}

    @app.post("/accounts/{id}:close")
    def close(ctx: Context, id: int, reason: str) -> None:
        ctx.kv["accounts"].delete(b"%08d" % id)
        ctx.kv["public:closed"].set(b"%08d" % id, reason.encode())

    @app.post("/digest", readonly=True)
    def digest(ctx: Context, body: bytes) -> bytes:
        return body[::-1]

    @app.delete("/hidden", hidden=True)
    def hidden(ctx: Context) -> Response:
        return Response(202)

    return app


@pytest.fixture
def service() -> Node:
    return Node(app=bank())


def test_declared_parameters_and_bodies_reach_the_handler(service: Node) -> None:
    for number, owner in enumerate(["ann", "bob", "cyd"], start=1):
        response = service.answer("PUT", f"/app/accounts/{number}", json.dumps({"owner": owner, "balance": number}), caller=MEMBER)
        assert (response.status, response.content_type) == (200, "application/json")
    assert json.loads(service.answer("GET", "/app/accounts/2").body) == {"owner": "bob", "balance": 2}
    assert service.answer("GET", "/app/accounts/9").status == 204

    def page(query: str) -> tuple[list[str], str | None]:
        answer = json.loads(service.answer("GET", f"/app/accounts{query}").body)
        return [account["owner"] for account in answer["accounts"]], answer["after"]

    assert page("") == (["ann", "bob"], "00000002")
    assert page("?after=2") == (["cyd"], "00000003")
    assert page("?newest_first=true&limit=1") == (["cyd"], "00000003")
    assert page("?after=3") == ([], None)
    assert service.answer("POST", "/app/accounts/2:close?reason=moved%20away").status == 204
    assert service.store.get("public:closed", b"00000002") == b"moved away"
    assert service.answer("POST", "/app/digest", b"\x00\xff").body == b"\xff\x00"


@pytest.mark.parametrize(
    ("method", "target", "body", "code"),
    [
        ("PUT", "/app/accounts/x", '{"owner":"a"}', "InvalidResourceName"),
        ("PUT", "/app/accounts/1", '{"owner":1}', "InvalidInput"),
        ("PUT", "/app/accounts/1", "", "InvalidInput"),
        ("GET", "/app/accounts?limit=x", "", "InvalidQueryParameterValue"),
        ("GET", "/app/accounts?limit=%zz", "", "InvalidQueryParameterValue"),
        ("POST", "/app/accounts/1:close", "", "InvalidQueryParameterValue"),
    ],
)
def test_a_request_that_does_not_fit_is_refused(service: Node, method: str, target: str, body: str, code: str) -> None:
    response = service.answer(method, target, body, caller=MEMBER if method == "PUT" else USER)
    assert (response.status, error_of(response)["code"]) == (400, code)
    assert service.store.version == 1


def test_policies_come_from_the_declaration_or_else_from_the_genesis() -> None:
    for policy, status in (("user_cert", 401), ("open", 204)):
        service = Node(app=bank(), policy=policy)
        assert service.answer("GET", "/app/accounts/1", caller=STRANGER).status == status
        assert service.answer("PUT", "/app/accounts/1", '{"owner":"a"}', caller=STRANGER).status == 401
    with pytest.raises(UsageError):
        bank().register(Registry("app"), "closed")


def _takes_nothing() -> None: ...
def _lacks_key(ctx: Context) -> None: ...
def _bad_type(ctx: Context, key: list[str]) -> None: ...
def _bad_body(ctx: Context, key: str, body: set[int]) -> None: ...
def _bad_answer(ctx: Context, key: str) -> set[int]:
    return set()


def _keyword_only(ctx: Context, *, key: str) -> None: ...
def _variable(ctx: Context, *key: str) -> None: ...


@pytest.mark.parametrize("function", [_takes_nothing, _lacks_key, _bad_type, _bad_body, _bad_answer, _keyword_only, _variable])
def test_a_signature_that_does_not_fit_is_refused_where_it_is_declared(function: Callable[..., Any]) -> None:
    with pytest.raises(UsageError):
        App("x").put("/records/{key}")(function)


@pytest.mark.parametrize("options", [{"policies": ["nobody"]}, {"template": "records"}])
def test_a_wrong_declaration_is_refused_where_it_stands(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        App("x").get(**{"template": "/records", **options})(lambda ctx: None)


# OpenAPI


def document(app: App) -> dict[str, Any]:
    registry = Registry("app")
    app.register(registry)
    made = openapi.document(registry, app.name, app.version, app.description)
    return json.loads(json.dumps(made))  # type: ignore[no-any-return]


def test_the_documents_keep_the_rules_of_openapi() -> None:
    for app in (bank(), logging_app, App("empty")):
        check_openapi(document(app))


def test_the_document_says_what_the_signatures_say() -> None:
    made = document(bank())
    assert made["info"] == {"title": "bank", "version": "2.0.0", "description": "Accounts."}
    assert made["servers"] == [{"url": "/app"}]
    assert sorted(made["paths"]) == ["/accounts", "/accounts/{id}", "/accounts/{id}:close", "/digest"]
    show = made["paths"]["/accounts/{id}"]["get"]
    assert (show["summary"], show["description"], show["operationId"]) == ("Show an account.", "With its balance.", "show")
    assert sorted(show["responses"]) == ["200", "204", "404", "default"]
    assert show["responses"]["200"]["content"] == {"application/json": {"schema": {"$ref": "#/components/schemas/Account"}}}
    assert show["x-ledgerd-policies"] == ["user_cert"]
    assert show["x-ccf-forwarding"]["value"] == "sometimes"
    create = made["paths"]["/accounts/{id}"]["put"]
    assert create["requestBody"] == {
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Account"}}},
        "required": True,
    }
    assert create["x-ledgerd-policies"] == ["member_cert"]
    assert create["x-ccf-forwarding"]["value"] == "always"
    limit = next(parameter for parameter in made["paths"]["/accounts"]["get"]["parameters"] if parameter["name"] == "limit")
    assert (limit["in"], limit["required"], limit["schema"]["type"], limit["schema"]["default"]) == ("query", False, "integer", 2)
    reason = made["paths"]["/accounts/{id}:close"]["post"]["parameters"][1]
    assert (reason["name"], reason["required"]) == ("reason", True)
    assert made["components"]["schemas"]["Account"]["required"] == ["owner"]


def test_one_function_may_serve_several_endpoints() -> None:
    app = App("twice")
    handler = app.get("/a")(app.get("/b")(lambda ctx: "x"))
    assert handler is not None
    check_openapi(document(app))
