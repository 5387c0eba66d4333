"""One request, one transaction: what is kept, what is answered, with which id, and in which order things are checked."""

import dataclasses
import json
from collections.abc import Callable
from enum import Enum
from typing import Any

import pytest

from ledgerd.enclave.endpoints import Context, Deferred, Endpoint
from ledgerd.enclave.execution import ANSWER, DEFERRED, FORWARD, Settings, to_response
from ledgerd.enclave.requests import TRANSACTION_ID_HEADER, Response
from ledgerd.ledger.entry import ZERO_DIGEST
from ledgerd.ledger.errors import RequestError, UsageError
from ledgerd.ledger.ids import Seqno, TransactionId, View
from support.executing import STRANGER, USER, Node, endpoint, error_of

SECRET = "secret of a private map"


def put(ctx: Context) -> None:
    ctx.kv["m"].set(ctx.params["key"].encode(), ctx.request.body)


def get(ctx: Context) -> Any:
    value = ctx.kv["m"].get(ctx.params["key"].encode())
    if value is None:
        raise RequestError(404, "ResourceNotFound", "There is none.")
    return value.decode()


def node(**settings: int) -> Node:
    return Node([endpoint("PUT", "/m/{key}", put), endpoint("GET", "/m/{key}", get)], settings=Settings(**settings))


def transaction_id(response: Response | None) -> str | None:
    assert response is not None
    return dict(response.headers).get(TRANSACTION_ID_HEADER)


def test_a_write_is_applied_and_answers_with_its_own_id() -> None:
    service = node()
    outcome = service.ask("PUT", "/app/m/k", "v")
    assert outcome.kind == ANSWER
    assert outcome.response == Response(204, ((TRANSACTION_ID_HEADER, "2.2"),))
    assert outcome.writes == {"m": {b"k": b"v"}}
    assert outcome.claims_digest == ZERO_DIGEST
    assert outcome.transaction_id == (2, 2)
    assert outcome.endpoint is not None and outcome.endpoint.label == "PUT /app/m/{key}"
    assert service.store.version == 2


def test_an_answer_is_what_it_was_when_it_was_given_though_it_leaves_later() -> None:
    headers = [("x-count", "1")]  # not as the type says, but as applications do

    def write(ctx: Context) -> Response:
        ctx.kv["m"].set(b"k", b"v")
        return Response(200, headers)  # type: ignore[arg-type]

    outcome = Node([endpoint("POST", "/write", write)]).ask("POST", "/app/write")
    headers[0] = ("x-count", "2")
    for _ in range(2):
        assert outcome.response == Response(200, (("x-count", "1"), (TRANSACTION_ID_HEADER, "2.2")))
    assert len(headers) == 1


def test_a_read_answers_with_the_last_id_that_it_may_have_observed() -> None:
    service = node()
    service.ask("PUT", "/app/m/k", "v")
    service.pass_entries(3)
    outcome = service.ask("GET", "/app/m/k")
    assert outcome.response == Response(200, ((TRANSACTION_ID_HEADER, "2.5"),), b"v", "text/plain")
    assert (outcome.writes, outcome.transaction_id, service.store.version) == (None, (2, 5), 5)


def test_a_refusal_that_looked_at_the_state_says_at_which() -> None:
    service = node()
    assert transaction_id(service.answer("GET", "/app/m/none")) == "2.1"


def test_what_never_looked_at_the_state_has_no_id() -> None:
    service = Node([endpoint("GET", "/hello", lambda ctx: "hello"), endpoint("GET", "/private", lambda ctx: "x", policies=["user_cert"])])
    for target in ("/app/hello", "/app/unknown"):
        outcome = service.ask("GET", target)
        assert transaction_id(outcome.response) is None and outcome.transaction_id is None
    refused = service.answer("GET", "/app/private", caller=STRANGER)
    assert refused.status == 401 and transaction_id(refused) is None


def test_who_the_caller_is_depends_on_the_state() -> None:
    service = Node([endpoint("GET", "/private", lambda ctx: "x", policies=["user_cert"])])
    assert transaction_id(service.answer("GET", "/app/private", caller=USER)) == "2.1"


@pytest.mark.parametrize("status", [300, 307, 400, 404, 500])
def test_writes_are_dropped_unless_the_answer_is_2xx(status: int) -> None:
    def handler(ctx: Context) -> Response:
        put(ctx)
        return Response(status)

    service = Node([endpoint("PUT", "/m/{key}", handler)])
    outcome = service.ask("PUT", "/app/m/k", "v")
    assert (outcome.writes, service.store.version) == (None, 1)
    assert transaction_id(outcome.response) == "2.1"
    assert service.store.get("m", b"k") is None


@pytest.mark.parametrize(("status", "apply", "kept"), [(400, True, True), (200, False, False), (500, True, True), (204, True, True)])
def test_a_handler_may_say_otherwise(status: int, apply: bool, kept: bool) -> None:
    def handler(ctx: Context) -> Response:
        put(ctx)
        ctx.set_apply_writes(apply)
        return Response(status)

    service = Node([endpoint("PUT", "/m/{key}", handler)])
    outcome = service.ask("PUT", "/app/m/k", "v")
    assert (outcome.writes is not None) is kept
    assert (service.store.get("m", b"k") is not None) is kept
    assert outcome.response is not None and outcome.response.status == status


def test_a_writer_that_wrote_nothing_makes_no_entry() -> None:
    service = Node([endpoint("DELETE", "/m/{key}", lambda ctx: ctx.kv["m"].delete(b"none"))])
    outcome = service.ask("DELETE", "/app/m/k")
    assert outcome.response is not None and outcome.response.body == b"false"
    assert (outcome.writes, outcome.transaction_id, service.store.version) == (None, (2, 1), 1)


@pytest.mark.parametrize(
    "failure",
    [
        RequestError(409, "Conflict", "No."),
        ValueError(SECRET),
        RecursionError(),
        UsageError(SECRET),
        KeyError(SECRET),
        AssertionError(SECRET),
    ],
)
def test_a_handler_that_fails_changes_nothing_and_tells_nothing(failure: Exception) -> None:
    def handler(ctx: Context) -> None:
        put(ctx)
        raise failure

    service = Node([endpoint("PUT", "/m/{key}", handler), endpoint("GET", "/m/{key}", get)])
    outcome = service.ask("PUT", "/app/m/k", "v")
    assert outcome.response is not None
    assert (outcome.writes, service.store.version) == (None, 1)
    assert SECRET not in repr(outcome)
    if isinstance(failure, RequestError):
        assert error_of(outcome.response) == {"code": "Conflict", "message": "No."}
        assert outcome.failure is None
    else:
        assert outcome.response.status == 500 and error_of(outcome.response)["code"] == "InternalError"
        assert outcome.failure is not None
        assert outcome.failure.startswith(f"{type(failure).__name__} in ") and "handler (test_execution.py:" in outcome.failure
    assert service.answer("GET", "/app/m/k").status == 404


def test_a_readonly_endpoint_that_writes_fails() -> None:
    service = Node([endpoint("GET", "/m/{key}", put), endpoint("POST", "/m/{key}", put, readonly=True)])
    for method in ("GET", "POST"):
        outcome = service.ask(method, "/app/m/k", "v")
        assert outcome.response is not None and outcome.response.status == 500
        assert service.store.version == 1


def test_a_write_at_a_backup_is_forwarded_before_anybody_is_authenticated() -> None:
    service = Node([endpoint("PUT", "/m/{key}", put, policies=["user_cert"]), endpoint("GET", "/m/{key}", get)])
    service.is_primary = False
    assert service.ask("PUT", "/app/m/k", "v", caller=STRANGER).kind == FORWARD
    assert service.ask("GET", "/app/m/k").kind == ANSWER
    assert service.store.version == 1


def test_a_read_may_ask_for_the_primary() -> None:
    service = Node([endpoint("GET", "/m/{key}", get, forwarding="always")])
    service.is_primary = False
    assert service.ask("GET", "/app/m/k").kind == FORWARD


def test_what_turns_out_to_write_at_a_backup_is_the_primarys_to_do() -> None:
    def read_or_write(context: Context) -> str:
        if context.request.body:
            context.kv["m"].set(b"k", context.request.body)
        return "done"

    service = Node([endpoint("POST", "/m", read_or_write, forwarding="sometimes")])
    service.is_primary = False
    answered = service.ask("POST", "/app/m")
    assert (answered.kind, answered.response and answered.response.status) == (ANSWER, 200)
    outcome = service.ask("POST", "/app/m", "v", headers={"idempotency-key": "one"})
    assert (outcome.kind, outcome.response, outcome.writes) == (FORWARD, None, None)
    service.is_primary = True
    again = service.ask("POST", "/app/m", "v", headers={"idempotency-key": "one"})
    assert (again.kind, again.replayed, service.store.get("m", b"k")) == (ANSWER, False, b"v")


def test_a_backup_that_executes_a_writer_does_not_write() -> None:
    service = Node([endpoint("PUT", "/m/{key}", put, forwarding="never")])
    service.is_primary = False
    outcome = service.ask("PUT", "/app/m/k", "v")
    assert outcome.response is not None and outcome.writes is None
    assert (outcome.response.status, error_of(outcome.response)["code"]) == (503, "TransactionReplicationFailed")
    assert service.store.get("m", b"k") is None


def test_the_application_is_closed_until_the_service_opens() -> None:
    service = node()
    service.is_open = False
    service.node.add(Endpoint("GET", "/state", lambda ctx: "x"))
    for target in ("/app/m/k", "/m/k", "/app/unknown"):
        response = service.answer("GET", target)
        assert (response.status, error_of(response)) == (404, {"code": "FrontendNotOpen", "message": "Frontend is not open."})
    assert service.answer("GET", "/node/state").status == 200


def test_the_application_is_reachable_without_its_prefix() -> None:
    service = node()
    service.ask("PUT", "/m/k", "v")
    assert service.answer("GET", "/app/m/k").body == b"v"
    service.node.add(Endpoint("GET", "/m/{key}", lambda ctx: "of the node"))
    assert service.answer("GET", "/node/m/k").body == b"of the node"


@pytest.mark.parametrize("target", ["/gov/m/k", "/node/m/k", "/node", "/app", "/", "/appm/k", "//m/k", "*", "m/k"])
def test_an_unknown_path_is_404(target: str) -> None:
    response = node().answer("GET", target)
    assert (response.status, error_of(response)["code"]) == (404, "ResourceNotFound")


def test_an_unknown_verb_is_405_and_options_lists_them() -> None:
    response = node().answer("DELETE", "/app/m/k")
    assert (response.status, error_of(response)["code"]) == (405, "UnsupportedHttpVerb")
    assert response.headers == (("allow", "OPTIONS, GET, PUT"),)
    assert node().answer("OPTIONS", "/app/m/k") == Response(204, (("allow", "OPTIONS, GET, PUT"),))
    assert node().answer("OPTIONS", "/app/unknown").status == 404


def test_claims_are_handed_on_with_the_writes() -> None:
    def handler(ctx: Context) -> None:
        put(ctx)
        ctx.set_claims_digest(b"\x07" * 32)

    service = Node([endpoint("PUT", "/m/{key}", handler), endpoint("PUT", "/plain/{key}", put)])
    assert service.ask("PUT", "/app/m/k", "v").claims_digest == b"\x07" * 32
    assert service.ask("PUT", "/app/plain/k", "v").claims_digest == ZERO_DIGEST


@pytest.mark.parametrize("digest", [b"", b"\x07" * 31, "7" * 32, bytearray(32)])
def test_claims_are_32_bytes(digest: bytes) -> None:
    service = Node([endpoint("PUT", "/m", lambda ctx: ctx.set_claims_digest(digest))])
    assert service.answer("PUT", "/app/m").status == 500


@pytest.mark.parametrize(
    "name",
    [
        "public:ccf.gov.users.certs",
        "public:ccf.internal.tree",
        "ccf.gov.x",
        "public:ccf.other",
        "ledgerd.internal.idempotency",
        "public:ledgerd.x",
        "",
        "x" * 300,
    ],
)
def test_an_application_cannot_open_the_maps_of_the_service(name: str) -> None:
    service = Node(
        [
            endpoint("PUT", "/write", lambda ctx: ctx.kv[name].set(b"k", b"v")),
            endpoint("GET", "/read", lambda ctx: ctx.kv[name].get(b"k")),
        ]
    )
    assert service.answer("PUT", "/app/write").status == 500
    assert service.answer("GET", "/app/read").status == 500
    assert service.store.version == 1


def test_an_application_can_read_governance_and_no_other_map_of_the_service() -> None:
    names = ["public:ccf.gov.users.certs", "public:ccf.internal.tree", "ccf.gov.users.certs", "ledgerd.internal.idempotency", "m"]

    def size_of(name: str) -> Callable[[Context], int]:
        return lambda ctx: ctx.governance(name).size()

    service = Node([endpoint("GET", f"/{i}", size_of(name)) for i, name in enumerate(names)])
    assert [service.answer("GET", f"/app/{i}").status for i in range(len(names))] == [200, 200, 500, 500, 500]
    assert service.answer("GET", "/app/0").body == b"2"
    assert transaction_id(service.answer("GET", "/app/0")) == "2.1"


def test_a_built_in_opens_every_map() -> None:
    service = Node([Endpoint("POST", "/join", lambda ctx: ctx.kv["public:ccf.gov.nodes.info"].set(b"n", b"{}"))])
    assert service.ask("POST", "/app/join").writes == {"public:ccf.gov.nodes.info": {b"n": b"{}"}}


def test_an_answer_may_be_promised() -> None:
    service = Node([Endpoint("GET", "/receipt", lambda ctx: Deferred("receipt", ctx.query["transaction_id"]))])
    outcome = service.ask("GET", "/app/receipt?transaction_id=2.1")
    assert (outcome.kind, outcome.response, outcome.deferred) == (DEFERRED, None, Deferred("receipt", "2.1"))


def test_who_has_written_cannot_promise() -> None:
    def handler(ctx: Context) -> Deferred:
        put(ctx)
        return Deferred("later")

    service = Node([endpoint("PUT", "/m/{key}", handler)])
    assert service.answer("PUT", "/app/m/k", "v").status == 500
    assert service.store.version == 1


def test_a_transaction_has_a_size_that_nodes_can_exchange() -> None:
    service = node(writes_size_bytes_max=100)
    assert service.answer("PUT", "/app/m/k", "v" * 83).status == 204
    response = service.answer("PUT", "/app/m/k", "v" * 84)
    assert (response.status, error_of(response)["code"]) == (413, "TransactionTooLarge")
    assert service.store.get("m", b"k") == b"v" * 83


def test_an_entry_that_does_not_follow_the_state_is_our_own_fault_and_not_the_clients() -> None:
    service = node()
    with pytest.raises(UsageError):
        service.executor.execute(
            _request(service), is_primary=True, next_id=TransactionId(View(2), Seqno(7)), read_id=TransactionId(View(2), Seqno(1))
        )


def _request(service: Node) -> Any:
    seen: list[Any] = []
    service.app.add(endpoint("PUT", "/seen", lambda ctx: seen.append(ctx.request)))
    service.ask("PUT", "/app/seen")
    request = seen[0]
    request.path = "/app/m/k"
    return request


@dataclasses.dataclass
class Inner:
    n: int


@dataclasses.dataclass
class Outer:
    inner: Inner
    many: list[Inner]


class Colour(Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (None, Response(204)),
        ("", Response(200, (), b"", "text/plain")),
        ("text ä", Response(200, (), "text ä".encode(), "text/plain")),
        (b"", Response(200, (), b"", "application/octet-stream")),
        (b"\x00", Response(200, (), b"\x00", "application/octet-stream")),
        (True, Response(200, (), b"true", "application/json")),
        ({"a": [1, None, "ä"]}, Response(200, (), '{"a":[1,null,"ä"]}'.encode(), "application/json")),
        (Outer(Inner(1), [Inner(2)]), Response(200, (), b'{"inner":{"n":1},"many":[{"n":2}]}', "application/json")),
        ({"colour": Colour.RED}, Response(200, (), b'{"colour":"red"}', "application/json")),
        (Response(302, (("location", "/x"),)), Response(302, (("location", "/x"),))),
    ],
)
def test_a_plain_result_stands_for_a_response(result: Any, expected: Response) -> None:
    assert to_response(result) == expected


@pytest.mark.parametrize("result", [object(), {"a": object()}, float("nan"), {"a": {b"bytes": 1}}, "\ud800"])
def test_a_result_that_is_no_answer_is_a_fault_and_changes_nothing(result: Any) -> None:
    def handler(ctx: Context) -> Any:
        put(ctx)
        return result

    service = Node([endpoint("PUT", "/m/{key}", handler)])
    assert service.answer("PUT", "/app/m/k", "v").status == 500
    assert service.store.version == 1


@pytest.mark.parametrize(
    "response",
    [
        Response(199),
        Response(600),
        Response("200"),  # type: ignore[arg-type]
        Response(200, (), "text", "text/plain"),  # type: ignore[arg-type]
        Response(200, (), b"no type"),
        Response(204, (), b"body", "text/plain"),
        Response(304, (), b"body", "text/plain"),
        Response(200, (), b"body", "text/plain\r\nx: y"),
        Response(200, (("x", "a\r\nset-cookie: b"),)),
        Response(200, (("x", "a\nb"),)),
        Response(200, (("x", "a\0"),)),
        Response(200, (("x", "\u20ac"),)),
        Response(200, (("x: y", "a"),)),
        Response(200, (("X", "a"),)),
        Response(200, (("", "a"),)),
        Response(200, (("content-length", "7"),)),
        Response(200, ((TRANSACTION_ID_HEADER, "2.7"),)),
    ],
)
def test_a_response_that_cannot_be_sent_is_a_fault_and_changes_nothing(response: Response) -> None:
    def handler(ctx: Context) -> Response:
        put(ctx)
        return response

    service = Node([endpoint("PUT", "/m/{key}", handler)])
    assert service.answer("PUT", "/app/m/k", "v").status == 500
    assert service.store.version == 1


def test_an_error_message_with_odd_characters_is_still_json() -> None:
    def handler(ctx: Context) -> None:
        raise RequestError(400, "InvalidInput", 'quote " and \ud800 and \n')

    response = Node([endpoint("GET", "/m", handler)]).answer("GET", "/app/m")
    assert json.loads(response.body)["error"]["message"] == 'quote " and ? and \n'
