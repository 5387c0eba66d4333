"""The logging application as its users meet it."""

import json

import pytest

from ledgerd.apps.logging import app
from ledgerd.enclave.requests import TRANSACTION_ID_HEADER, Response
from ledgerd.ledger.receipt import verify_json
from support.cluster import Cluster
from support.executing import STRANGER, USER, Node, error_of

BOTH = pytest.mark.parametrize("path", ["/app/records", "/app/public/records", "/records", "/public/records"])


@pytest.fixture
def service() -> Node:
    return Node(app=app)


@BOTH
@pytest.mark.parametrize("message", ["a message", "", "ä\n\x00", "x" * 10_000])
@pytest.mark.parametrize(("key", "segment"), [("a", "a"), ("42", "42"), ("a b/ä:c", "a%20b%2F%C3%A4:c")])
def test_a_message_is_written_read_and_removed(service: Node, path: str, message: str, key: str, segment: str) -> None:
    target = f"{path}/{segment}"
    assert service.answer("PUT", target, message) == Response(204, ((TRANSACTION_ID_HEADER, "2.2"),))
    read = service.answer("GET", target)
    assert (read.status, read.body.decode(), dict(read.headers)) == (200, message, {TRANSACTION_ID_HEADER: "2.2"})
    assert read.content_type == "text/plain"
    assert service.answer("DELETE", target) == Response(204, ((TRANSACTION_ID_HEADER, "2.3"),))
    for method in ("GET", "DELETE"):
        response = service.answer(method, target)
        assert (response.status, error_of(response)) == (404, {"code": "ResourceNotFound", "message": f"There is no record {key}."})
    assert service.store.version == 3


def test_private_and_public_messages_are_apart(service: Node) -> None:
    assert service.ask("PUT", "/app/records/k", "private").writes == {"records": {b"k": b"private"}}
    assert service.ask("PUT", "/app/public/records/k", "public").writes == {"public:records": {b"k": b"public"}}
    assert service.answer("GET", "/app/records/k").body == b"private"
    assert service.answer("GET", "/app/public/records/k").body == b"public"


@BOTH
def test_a_message_is_text(service: Node, path: str) -> None:
    response = service.answer("PUT", f"{path}/k", b"\xff")
    assert (response.status, error_of(response)["code"]) == (400, "InvalidInput")


@BOTH
@pytest.mark.parametrize("method", ["PUT", "GET", "DELETE"])
def test_only_users_are_served_unless_the_service_is_open(path: str, method: str) -> None:
    Node(app=app).ask("PUT", f"{path}/k", "v", caller=USER)
    assert Node(app=app).answer(method, f"{path}/k", caller=STRANGER).status == 401
    assert Node(app=app, policy="open").answer(method, f"{path}/k", caller="").status in (204, 404)


def test_messages_are_read_as_they_were_written_with_receipts() -> None:
    cluster = Cluster(app)
    host = cluster.start(1)[0]
    client = cluster.client(host)
    ids = []
    for place in ("records", "public/records"):
        for message in (b"first", b"second"):
            ids.append(client.ask("PUT", f"/app/{place}/k", message, prefer="committed").headers[TRANSACTION_ID_HEADER])
        ids.append(client.ask("DELETE", f"/app/{place}/k", prefer="committed").headers[TRANSACTION_ID_HEADER])
    for transaction, was in zip(ids[:3], ("first", "second", None), strict=True):
        answer = client.ask("GET", "/app/records/k/historical", x_ms_ccf_transaction_id=transaction)
        shown = json.loads(answer.body)
        assert (answer.status, shown["message"], shown["transaction_id"]) == (200, was, transaction)
        assert str(verify_json(shown["receipt"], host.notices["service_certificate"]).transaction_id) == transaction
    answer = client.ask("GET", "/app/records/other/historical", x_ms_ccf_transaction_id=ids[0])
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (404, "ResourceNotFound")
    last = ids[-1].split(".")[1]
    answer = client.ask("GET", f"/app/public/records/k/historical/range?first=1&last={last}")
    shown = json.loads(answer.body)
    assert [(item["transaction_id"], item["message"]) for item in shown] == list(zip(ids[3:], ("first", "second", None), strict=True))
    answer = client.ask("GET", "/app/public/records/k/historical/range?first=3&last=2003")
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (400, "RangeTooLarge")
