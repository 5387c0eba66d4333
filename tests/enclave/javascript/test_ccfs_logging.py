"""CCF's logging application, unmodified: the bytes of the proposal that once installed it in a service of CCF's, signed here anew.

They are read from a ledger that CCF wrote; nothing of the application is in this repository. Every one of its endpoints is asked, with what
each of its policies takes, at a primary and at a backup.
Not here: applications of the same kinds as CCF's other samples (`tests/end_to_end/test_samples.py`).
"""

import json
from functools import partial
from hashlib import sha256
from typing import Any

import pytest

from ledgerd.enclave.outbound import Answer
from ledgerd.governance import requests, tables
from ledgerd.ledger import chunks, cose, receipt
from ledgerd.ledger.entry import read_public
from ledgerd.ledger.ids import parse_entry_id
from support.cluster import make_identity
from support.governed import id_of
from support.jwt import ISSUER
from support.members import SIGNED_AT, propose, send
from support.two_nodes import BEARER, TwoNodes
from support.vectors import vectors

ID = "x-ms-ccf-transaction-id"
BOTH = pytest.mark.parametrize("kind", ["private", "public"])


@pytest.fixture(scope="module")
def published() -> bytes:
    """What members of CCF's service signed to have it installed."""
    folder = vectors("ccf-ledgers", "cose_flipflop_service", "ledger")
    for name, parsed in chunks.arrange([path.name for path in folder.iterdir()]):
        for data in chunks.parse((folder / name).read_bytes(), parsed):
            for payload in read_public(data).writes.get(tables.PROPOSALS, {}).values():
                if payload is not None and b'"set_js_app"' in payload:
                    return payload
    pytest.fail("that ledger has no proposal with set_js_app")


class Installed(TwoNodes):
    """A service with the application; and what was asked of it."""

    def __init__(self, published: bytes) -> None:
        super().__init__()
        self.member = self.cluster.member
        answer = send(self.cluster, self.cluster.hosts["n0"], requests.sign(
            self.member.key, self.member.certificate, requests.PROPOSAL, published, created_at=SIGNED_AT - 1))  # fmt: skip
        assert json.loads(answer.body)["proposalState"] == "Accepted"
        self.decide()
        self.asked: set[tuple[str, str]] = set()

    def ask(self, method: str, path: str, *args: Any, **more: Any) -> Answer:
        self.asked.add((method, path.partition("?")[0]))
        return super().ask(method, path, *args, **more)

    def write(self, method: str, path: str, body: Any = b"", **more: Any) -> str:
        """Ask for what is answered by true, until it is committed everywhere; the id of its transaction."""
        answer = self.commit(method, path, body, **more)
        assert answer.body == b"true", answer
        return answer.headers[ID]


@pytest.fixture(scope="module")
def service(published: bytes) -> Installed:
    return Installed(published)


def message(answer: Answer) -> Any:
    assert answer.status == 200, answer
    return json.loads(answer.body)["msg"]


@BOTH
def test_messages_are_written_read_counted_and_removed(service: Installed, kind: str) -> None:
    path = f"/log/{kind}"
    service.write("POST", path, {"id": 1, "msg": "one"})
    service.write("POST", path, {"id": 2, "msg": "zwei ü"}, node="n1")
    service.write("POST", f"{path}?scope=other", {"id": 1, "msg": "elsewhere"}, authorization=BEARER)
    for node in ("n0", "n1"):
        ask = partial(service.ask, "GET", node=node)
        assert message(ask(f"{path}?id=1")) == "one"
        assert message(ask(f"{path}?id=2", authorization=BEARER)) == "zwei ü"
        assert message(ask(f"{path}?id=1&scope=other")) == "elsewhere"
        assert message(ask(f"{path}/backup?id=1")) == "one"
        assert ask(f"{path}/count").body == b"2"
        missing = ask(f"{path}?id=3")
        assert (missing.status, json.loads(missing.body)) == (404, {"error": {"code": "ResourceNotFound"}})
        assert ask(f"{path}?nothing=3").status == 500  # it throws
        assert service.cluster.client(service.cluster.hosts[node]).ask("GET", f"/app{path}?id=1").status == 401
    service.write("DELETE", f"{path}?id=1", node="n1")
    assert service.ask("DELETE", f"{path}?id=1").status == 404
    assert service.ask("GET", f"{path}?id=1").status == 404
    service.write("DELETE", f"{path}/all")
    assert service.ask("GET", f"{path}/count").body == b"0"
    assert message(service.ask("GET", f"{path}?id=1&scope=other")) == "elsewhere"


def test_who_writes_what_is_up_to_the_application(service: Installed) -> None:
    service.write("POST", "/log/private/prefix_cert", {"id": 10, "msg": "signed"})
    assert message(service.ask("GET", "/log/private?id=10")) == f"{id_of(service.user)}: signed"
    stranger = make_identity("stranger")
    service.write("POST", "/log/private/anonymous", {"id": 11, "msg": "whoever"}, who=stranger)
    assert message(service.ask("GET", "/log/private?id=11")) == "whoever"
    refused = service.ask("POST", "/log/private/admin_only", {"id": 12, "msg": "mine"})
    assert (refused.status, refused.body) == (403, b"Only admins may access this endpoint")
    data = {"user_id": id_of(service.user), "user_data": {"isAdmin": True}}
    assert propose(service.cluster, service.cluster.hosts["n0"], ("set_user_data", data)).status == 200
    service.write("POST", "/log/private/admin_only", {"id": 12, "msg": "mine"})
    assert message(service.ask("GET", "/log/private?id=12")) == "mine"
    service.asked.add(("POST", "/log/private/raw_text/{id}"))
    assert service.ask("POST", "/log/private/raw_text/13", b"plain").status == 415
    service.write("POST", "/log/private/raw_text/13", b"plain", kind="text/plain")
    assert message(service.ask("GET", "/log/private?id=13")) == "plain"


@BOTH
def test_what_was_written_is_read_with_its_receipt(service: Installed, kind: str) -> None:
    path = f"/log/{kind}"
    first = service.write("POST", path, {"id": 20, "msg": "first", "record_claim": True})
    service.write("POST", path, {"id": 20, "msg": "second"}, node="n1")
    certificate = service.cluster.hosts["n0"].notices["service_certificate"]
    for node in ("n0", "n1"):
        assert message(service.ask("GET", f"{path}/historical?id=20", node=node, x_ms_ccf_transaction_id=first)) == "first"
        answer = service.ask("GET", f"{path}/historical_receipt?id=20", node=node, x_ms_ccf_transaction_id=first)
        shown = json.loads(answer.body)
        assert shown["msg"] == "first"
        is_claimed = kind == "public"  # the claim is the message, whose digest whoever verifies makes himself
        assert ("claims_digest" in shown["receipt"]["leaf_components"]) is not is_claimed
        claims = sha256(b"first").digest() if is_claimed else bytes(32)
        receipt.verify_json(shown["receipt"], certificate, expected=parse_entry_id(first), claims_digest=claims)
        assert service.ask("GET", f"{path}/historical?id=20", node=node).status == 400  # which transaction?


@BOTH
def test_a_range_is_read_until_it_is_there(service: Installed, kind: str) -> None:
    path = f"/log/{kind}"
    ids = [service.write("POST", path, {"id": 30, "msg": f"message {number}"}) for number in range(3)]
    service.write("DELETE", f"{path}?id=30")
    first, last = (int(ids[place].partition(".")[2]) for place in (0, -1))
    for node in ("n0", "n1"):
        entries = service.read_whole(f"{path}/historical/range?id=30&from_seqno={first}&to_seqno={last}", node)["entries"]
        assert entries == [{"seqno": int(each.partition(".")[2]), "id": 30, "msg": f"message {number}"} for number, each in enumerate(ids)]
        for wrong in (f"from_seqno={last}&to_seqno={first}", "from_seqno=x", "to_seqno=999999"):
            answer = service.ask("GET", f"{path}/historical/range?id=30&{wrong}", node=node)
            assert (answer.status, json.loads(answer.body)["error"]["code"]) == (400, "InvalidInput")


@BOTH
def test_a_range_that_the_host_does_not_give_back_is_a_404_that_names_it(service: Installed, kind: str) -> None:
    """The application knows of 200 and 202 only, and would be asked again for ever."""
    path = f"/log/{kind}"
    ids = [service.write("POST", path, {"id": 40, "msg": "message"}) for _ in range(4)]
    first, last = (int(ids[place].partition(".")[2]) for place in (0, -1))
    host = service.cluster.hosts["n1"]
    host.read_back = lambda seqno, data: None if seqno >= last - 1 else data
    url = f"{path}/historical/range?id=40&from_seqno={first}&to_seqno={last}"
    assert service.ask("GET", url, node="n1").status == 202
    service.cluster.run(2.0)
    answer = service.ask("GET", url, node="n1")
    error = json.loads(answer.body)["error"]
    assert (answer.status, error["code"]) == (404, "LedgerRangeMissing")
    assert f"entries {last - 1} to {last}" in error["message"]
    host.read_back = lambda seqno, data: data[:-1] + bytes([data[-1] ^ 1])
    service.cluster.run(20.0)  # what was refused is asked for again then
    assert service.ask("GET", url, node="n1").status == 202
    service.cluster.run(2.0)
    answer = service.ask("GET", url, node="n1")
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (503, "LedgerRangeRefused")
    host.read_back = None
    service.cluster.run(20.0)
    assert len(service.read_whole(url, "n1")["entries"]) == 4


@pytest.mark.parametrize("node", ["n0", "n1"])
def test_it_tells_callers_by_each_policy(service: Installed, node: str) -> None:
    signed = cose.sign(service.user.key, {cose.HEADER_KEY_ID: id_of(service.user).encode()}, b"my word")
    stranger = make_identity("stranger")
    nobody = service.cluster.client(service.cluster.hosts[node])
    ask = partial(service.ask, "POST", "/multi_auth", node=node)
    said = ask(signed, kind="application/cose", authorization=BEARER, who=service.user).body.decode()
    assert said.startswith("Conjoined auth policy: jwt,user_cert,user_cose_sign1\n\njwt:\nJWT\n")
    for line in (
        f"a user with ID: {id_of(service.user)}",
        f"a JWT issued by: {ISSUER}",
        f"signed by kid: {id_of(service.user)}",
        "content of size: 7",
    ):
        assert line in said
    for answer, first in (
        (ask(), "User TLS cert"),
        (ask(who=service.member), "Member TLS cert"),
        (ask(who=stranger), "Any TLS cert"),
        (ask(authorization=BEARER), "JWT"),
        (nobody.ask("POST", "/app/multi_auth", signed, content_type="application/cose"), "User COSE Sign1"),
        (nobody.ask("POST", "/app/multi_auth"), "Unauthenticated"),
    ):
        assert (answer.status, answer.headers["content-type"], answer.body.decode().partition("\n")[0]) == (200, "text/plain", first)


def test_it_asks_callers_by_a_policy_of_its_own(service: Installed) -> None:
    ask = partial(service.ask, "GET", "/custom_auth", node="n1")
    refused = ask()
    assert (refused.status, refused.body) == (401, b"Missing required header x-custom-auth-name")
    accepted = ask(x_custom_auth_name="Ana", x_custom_auth_age="42")
    assert (accepted.status, json.loads(accepted.body)["description"]) == (200, "Your name is Ana and you are 42")
    thrown = ask(x_custom_auth_explode="boom")
    assert (thrown.status, json.loads(thrown.body)["error"]["message"]) == (500, "Exception thrown while executing.")


def test_every_endpoint_was_asked(service: Installed, published: bytes) -> None:
    """Last in this module."""
    (action,) = json.loads(published)["actions"]
    endpoints = action["args"]["bundle"]["metadata"]["endpoints"]
    assert {(verb.upper(), path) for path, item in endpoints.items() for verb in item} <= service.asked
    assert len(endpoints) > 15
