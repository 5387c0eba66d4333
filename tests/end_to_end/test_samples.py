"""What CCF's published samples do, and what CCF's own tests ask of them: applications of the same kind, in our words, on real nodes.

Roles (CCF's js-authentication), reconciliation of parties' data (microsoft/ccf-app-samples), limits (js-limits), and the header `accept`
(js-content-types).
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ledgerd.network.client.members import Member, proposal
from support.cluster import make_identity
from support.https import Answer, Request
from support.javascript import bundle
from support.processes import Node, Service

SAMPLES = Path(__file__).parent.parent / "support" / "samples"
# So that what ends a script is never that the machine had no time for it.
PATIENT = {"max_execution_time_ms": 10_000}
USERS = ("user0", "user1", "user2", "user3")

SOMETIMES = {"forwarding_required": "sometimes"}  # a backup begins it, and passes it on when it has written
ROLES: dict[str, dict[str, Any]] = {
    "GET /secret": {"js_module": "roles.js", "js_function": "readSecret", "authn_policies": ["user_cert"], "mode": "readonly"},
    "POST /secret": {"js_module": "roles.js", "js_function": "writeSecret", "authn_policies": ["user_cert"], **SOMETIMES},
    "POST /roles": {"js_module": "roles.js", "js_function": "giveRole", "authn_policies": ["user_cert"], **SOMETIMES},
}
EITHER = ["member_cert", "user_cert"]
RECONCILIATION: dict[str, dict[str, Any]] = {
    "POST /records": {"js_module": "reconciliation.js", "js_function": "submit", "authn_policies": EITHER},
    "POST /csv/records": {"js_module": "reconciliation.js", "js_function": "submitTable", "authn_policies": EITHER},
    "GET /report": {"js_module": "reconciliation.js", "js_function": "report", "authn_policies": EITHER, "mode": "readonly"},
    "GET /report/{id}": {"js_module": "reconciliation.js", "js_function": "reportOne", "authn_policies": EITHER, "mode": "readonly"},
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("samples")) as service:
        for name in USERS[1:]:
            identity = make_identity(name)
            key = identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            (service.folder / f"{name}_cert.pem").write_text(identity.pem)
            (service.folder / f"{name}_privk.pem").write_bytes(key)
            propose(service, "set_user", {"cert": identity.pem, "user_data": {"name": name}})
        propose(service, "set_js_runtime_options", PATIENT)
        yield service


def propose(service: Service, name: str, args: Mapping[str, Any]) -> None:
    """Have the only member decide it, and every node know of it."""
    member = Member(service.folder / "member0_cert.pem", service.folder / "member0_privk.pem")
    call = member.sign(proposal(json.dumps({"actions": [{"name": name, "args": args}]}).encode()))
    primary = service.primary()
    with primary.session() as session:
        answer = session.ask_all([Request(call.method, call.path, call.body, dict(call.headers) | {"prefer": "committed"})])[0]
        assert answer.json()["proposalState"] == "Accepted", answer
    service.settle(int(answer.transaction_id.partition(".")[2]))


def install(service: Service, endpoints: Mapping[str, Mapping[str, Any]], *modules: str) -> None:
    propose(service, "set_js_app", {"bundle": bundle(endpoints, {name: (SAMPLES / name).read_text() for name in modules})})


def ask(node: Node, who: str | None, method: str, path: str, body: object = b"", **headers: str) -> Answer:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with node.session(who) as session:
        return session.ask(method, path, data, **headers)


def name_of(service: Service, who: str) -> str:
    """A caller's id."""
    certificate = x509.load_pem_x509_certificate((service.folder / f"{who}_cert.pem").read_bytes())
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def test_roles_come_from_the_members_and_go_on_from_hand_to_hand(service: Service) -> None:
    install(service, ROLES, "roles.js")
    first, second, third, fourth = USERS
    nodes = [service.primary(), *service.backups()]
    for who in USERS:
        for node in nodes:
            assert ask(node, who, "GET", "/app/secret").status == 401
            assert ask(node, who, "POST", "/app/secret", {"text": "mine"}).status == 401
            assert ask(node, who, "POST", "/app/roles", {"to": name_of(service, who), "role": "reader"}).status == 401
    propose(service, "set_user_data", {"user_id": name_of(service, first), "user_data": {"role": "keeper"}})
    gifts = [
        (first, first, "reader"),
        (first, second, "keeper"),
        (second, third, "reader"),
        (second, third, "writer"),
        (second, fourth, "reader"),
    ]
    for number, (giver, taker, role) in enumerate(gifts):
        given = ask(nodes[number % 3], giver, "POST", "/app/roles", {"to": name_of(service, taker), "role": role}, prefer="committed")
        assert given.status == 204, given
    for who in USERS:
        written = ask(nodes[1], who, "POST", "/app/secret", {"text": f"{who} was here"}, prefer="committed")
        assert written.status == (204 if who == third else 401), (who, written)
        read = ask(nodes[0], who, "GET", "/app/secret")
        assert read.status == (401 if who == second else 200), (who, read)
    assert ask(nodes[0], fourth, "GET", "/app/secret").body.decode() == f"{third} was here"
    propose(service, "set_user_data", {"user_id": name_of(service, first), "user_data": {}})
    assert ask(nodes[2], first, "POST", "/app/roles", {"to": name_of(service, first), "role": "writer"}).status == 401
    assert ask(nodes[0], first, "GET", "/app/secret").status == 200  # what was given here stays


def test_each_party_learns_where_it_stands_and_not_what_others_have_said(service: Service) -> None:
    install(service, RECONCILIATION, "reconciliation.js", "identities.js", "csv.js", "typed.js")
    first, second, third = (service.primary(), *service.backups())
    wrong: list[tuple[str, bytes]] = [
        ("/app/records", b"[]"),
        ("/app/records", b""),
        ("/app/records", b"null"),
        ("/app/records", b'[{"id": "a"}]'),
        ("/app/csv/records", b"key,value\na,1\n"),
        ("/app/csv/records", b'[{"id": "a", "value": "1"}]'),
    ]
    for path, body in wrong:
        refused = ask(first, "member0", "POST", path, body)
        assert refused.status == 400, (path, body, refused)
    assert ask(first, None, "POST", "/app/records", [{"id": "a", "value": "1"}]).status == 401
    table = b"id,value\r\na/1,C.18.13\r\n\r\nb,A01\r\nc,A.01.1\r\n"
    assert ask(first, "member0", "POST", "/app/csv/records", table, prefer="committed").json() == {"content": 3}
    theirs = [{"id": "a/1", "value": "C.18.13"}, {"id": "c", "value": "A01.1"}, {"id": "b", "value": "A02"}]
    assert ask(second, "user0", "POST", "/app/records", theirs, prefer="committed").json() == {"content": 3}
    assert ask(third, "user1", "POST", "/app/records", theirs[:2], prefer="committed").json() == {"content": 2}

    def standing(who: str, record: str) -> dict[str, Any]:
        answer = ask(first, who, "GET", f"/app/report/{record}")
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json"), answer
        found: dict[str, Any] = answer.json()["content"]
        return found

    agreed = {"id": "a/1", "value": "C.18.13", "group": "agreed", "with_most": True, "agreeing": 3, "different": 1}
    for who in ("member0", "user0", "user1"):
        assert standing(who, "a%2F1") == agreed
    mine = {"id": "c", "group": "not agreed", "different": 2}
    assert standing("member0", "c") == {**mine, "value": "A.01.1", "with_most": False, "agreeing": 1}
    assert standing("user1", "c") == {**mine, "value": "A01.1", "with_most": True, "agreeing": 2}
    few = {"id": "b", "group": "too few", "with_most": False, "agreeing": 1, "different": 2}
    assert standing("member0", "b") == {**few, "value": "A01"}
    assert ask(first, "user1", "GET", "/app/report/b").status == 400  # of which user1 has said nothing
    assert ask(first, "user1", "GET", "/app/report/nothing").status == 400
    assert [row["id"] for row in ask(first, "user1", "GET", "/app/report").json()["content"]] == ["a/1", "c"]

    corrected = [{"id": "c", "value": "A01.1"}]
    assert ask(third, "member0", "POST", "/app/records", corrected, prefer="committed").status == 200
    assert standing("user1", "c") == {"id": "c", "group": "agreed", "value": "A01.1", "with_most": True, "agreeing": 3, "different": 1}
    assert ask(second, "user3", "GET", "/app/report").json() == {"content": []}
    propose(service, "remove_user", {"user_id": name_of(service, "user1")})
    assert ask(second, "user1", "GET", "/app/report").status == 401


ACCEPTED = [
    ("nonsense", 400),
    ("text/html", 406),
    ("text/html;q=0.9,image/jpeg;video/mpeg;q=0.8", 406),
    ("*/*", 200),
    ("application/*", 200),
    ("application/json", 200),
    ("text/html;q=0.9,image/jpeg;video/mpeg;q=0.8,*/*;q=0.1", 200),
    ("text/html;q=0.9,image/jpeg;video/mpeg;q=0.8,application/json;q=0.1", 200),
]


def test_the_service_gives_json_to_those_who_take_it(service: Service) -> None:
    """The header's values are those of CCF's test."""
    (backup, *_) = service.backups()
    for node in (service.primary(), backup):
        for accept, status in ACCEPTED:
            answer = ask(node, None, "GET", "/node/commit", accept=accept)
            assert (answer.status, answer.headers["content-type"]) == (status, "application/json"), (accept, answer)
    committed = ask(backup, None, "GET", "/node/commit").json()["transaction_id"]
    path = f"/node/receipt?transaction_id={committed}"
    assert ask(backup, None, "GET", path, accept="application/cbor").status == 406
    assert ask(backup, None, "GET", path, accept="application/json").json()["proof"] is not None
    assert ask(backup, None, "GET", "/node/receipt/cose?transaction_id=2.1", accept="text/html").status == 200
    assert ask(backup, None, "GET", "/gov/service/members?api-version=2024-07-01", accept="text/html").status == 200


LIMITS = {
    "POST /depth": {"js_function": "depth"},
    "POST /memory": {"js_function": "memory"},
}
LIMITS_SOURCE = """
const down = (n) => (n > 0 ? 1 + down(n - 1) : 0);
export const depth = (request) => ({body: {depth: down(request.body.json().depth)}});
export const memory = (request) => ({body: {size: new Uint8Array(request.body.json().size).fill(7).length}});
"""


@pytest.mark.parametrize(
    ("option", "path", "little", "much", "text"),
    [
        ("max_stack_bytes", "/app/depth", {"depth": 1}, {"depth": 8_192}, "InternalError: stack overflow"),
        ("max_heap_bytes", "/app/memory", {"size": 1}, {"size": 5 << 20}, "InternalError: out of memory"),
    ],
)
def test_limits_end_requests_and_governance_sets_others(
    service: Service, option: str, path: str, little: dict[str, int], much: dict[str, int], text: str
) -> None:
    """CCF's own test: less and less, down to where not even the engine can start; and then back."""
    propose(service, "set_js_app", {"bundle": bundle(LIMITS, {"app.js": LIMITS_SOURCE})})
    node = service.primary()
    told = {**PATIENT, "return_exception_details": True}
    propose(service, "set_js_runtime_options", told)
    shown = {"max_stack_bytes": "max_stack_size", "max_heap_bytes": "max_heap_size"}[option]
    default = ask(node, None, "GET", "/node/js_metrics").json()[shown]
    assert ask(node, None, "POST", path, little).status == 200
    for limit in (3 << 19, 100):
        propose(service, "set_js_runtime_options", {option: limit, **told})
        answer = ask(node, None, "POST", path, little if limit == 100 else much)
        error = answer.json()["error"]
        assert (answer.status, error["message"]) == (500, "Exception thrown while executing."), (limit, answer)
        assert [detail["message"] for detail in error["details"]] == [text], (limit, answer)
        assert ask(node, None, "GET", "/node/js_metrics").json()[shown] == limit
    propose(service, "set_js_runtime_options", {option: default, **told})
    assert ask(node, None, "POST", path, little).status == 200


def test_what_names_no_transaction_is_told_from_what_never_was(service: Service) -> None:
    """The names are those of CCF's test of its logging application."""
    node = service.backups()[0]
    for name in ("a.b", "-1.-1", "0.0", "1.0", "0.1", "2.0"):
        for path in ("/tx", "/node/tx", "/app/receipt"):
            answer = ask(node, None, "GET", f"{path}?transaction_id={name}")
            assert (answer.status, answer.json()["error"]["code"]) == (400, "InvalidQueryParameterValue"), (path, name)
    for name in ("1.1", "1.2"):
        assert ask(node, None, "GET", f"/tx?transaction_id={name}").json()["status"] == "Invalid"
