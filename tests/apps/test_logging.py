"""The logging application as its users meet it."""

import pytest

from ledgerd.apps.logging import app
from ledgerd.enclave.execution import TRANSACTION_ID_HEADER
from ledgerd.enclave.requests import Response
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
    assert read.content_type == ("text/plain" if message else "")
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
