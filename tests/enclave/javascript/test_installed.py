"""Applications in JavaScript on whole enclaves: installed by proposals, on every node, while requests go on."""

import json
from typing import Any

import pytest

from ledgerd.apps.logging import app
from ledgerd.enclave.outbound import Answer
from ledgerd.governance import tables
from support.cluster import Cluster, Host, Identity, make_identity
from support.governed import id_of
from support.javascript import bundle
from support.members import propose

RECORDS = """
const records = ccf.kv['records'];
export function put(request) { records.set(ccf.strToBuf(request.params.key), request.body.arrayBuffer()); return {statusCode: 204}; }
export function get(request) {
  const value = records.get(ccf.strToBuf(request.params.key));
  return value === undefined ? {statusCode: 404, body: {error: {code: 'NoRecord', message: request.params.key}}} : {body: value};
}
export function claim(request) {
  ccf.rpc.setClaimsDigest(request.body.arrayBuffer());
  ccf.kv['public:claims'].set(ccf.strToBuf('last'), request.body.arrayBuffer());
  return {body: request.caller.policy};
}
"""
READS: dict[str, Any] = {"mode": "readonly", "forwarding_required": "sometimes"}
APP = bundle(
    {
        "PUT /notes/{key}": {"js_function": "put"},
        "GET /notes/{key}": {"js_function": "get", **READS},
        "POST /claims": {"js_function": "claim", "authn_policies": ["user_cert", "no_auth"]},
    },
    {"app.js": RECORDS},
)


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster(app)
    cluster.start(3)
    cluster.run(0.3)
    return cluster


def apply(cluster: Cluster, *actions: tuple[str, Any]) -> None:
    answer = propose(cluster, cluster.hosts["n0"], *actions)
    assert (answer.status, json.loads(answer.body)["proposalState"]) == (200, "Accepted"), answer.body
    cluster.run(0.5)


def ask(cluster: Cluster, host: str, method: str, path: str, body: bytes = b"", who: Identity | None = None, **headers: str) -> Answer:
    return cluster.client(cluster.hosts[host], who).ask(method, path, body, **headers)


def title(cluster: Cluster) -> Any:
    return json.loads(ask(cluster, "n1", "GET", "/app/api").body)["info"]["title"]


def test_what_members_install_is_there_on_every_node_and_gone_when_they_remove_it(cluster: Cluster) -> None:
    assert ask(cluster, "n1", "GET", "/app/notes/a").status == 404
    assert title(cluster) == app.name
    apply(cluster, ("set_js_app", {"bundle": APP}))
    assert title(cluster) == "Application in JavaScript"
    for host in cluster.hosts:
        assert ask(cluster, host, "PUT", f"/app/notes/{host}", host.encode(), prefer="committed").status == 204
    cluster.run(0.3)
    for host in cluster.hosts:
        for key in cluster.hosts:
            assert ask(cluster, host, "GET", f"/notes/{key}").body == key.encode()
        missing = ask(cluster, host, "GET", "/app/notes/none")
        assert (missing.status, json.loads(missing.body)["error"]["code"]) == (404, "NoRecord")
    assert ask(cluster, "n2", "PUT", "/app/records/python", b"still there", prefer="committed").status == 204
    apply(cluster, ("remove_js_app", None))
    assert title(cluster) == app.name
    for host in cluster.hosts:
        assert ask(cluster, host, "GET", "/app/notes/n0").status == 404
        assert ask(cluster, host, "GET", "/app/records/python").body == b"still there"


@pytest.mark.parametrize("source", ["export function put( {", "import './not_there.js'; export function put() {}"])
def test_what_could_not_be_loaded_is_refused_unless_it_is_not_to_be_compiled(cluster: Cluster, source: str) -> None:
    broken = {"bundle": bundle({"PUT /a": {"js_function": "put"}}, {"app.js": source})}
    refusal = propose(cluster, cluster.hosts["n0"], ("set_js_app", broken))
    error = json.loads(refusal.body)["error"]
    assert (refusal.status, error["code"]) == (400, "ProposalFailedToValidate")
    assert "bundle.modules: module app.js cannot be loaded: " in error["message"]
    apply(cluster, ("set_js_app", {**broken, "disable_bytecode_cache": True}))
    assert ask(cluster, "n1", "PUT", "/app/a").status == 500


def test_endpoints_that_say_least_are_forwarded_as_ccf_forwards_them(cluster: Cluster) -> None:
    least = {"js_module": "app.js", "js_function": "put", "mode": "readwrite", "authn_policies": ["no_auth"], "openapi": {}}
    apply(cluster, ("set_js_app", {"bundle": {"metadata": {"endpoints": {"/n/{key}": {"put": least}}}, "modules": APP["modules"]}}))
    assert [ask(cluster, host, "PUT", "/app/n/a", b"b").status for host in cluster.hosts] == [204, 204, 204]


def test_a_node_that_joins_later_has_the_application_too(cluster: Cluster) -> None:
    apply(cluster, ("set_js_app", {"bundle": APP}))
    assert ask(cluster, "n0", "PUT", "/app/notes/a", b"b", prefer="committed").status == 204
    cluster.join("n3")
    cluster.run(1.0)
    assert ask(cluster, "n3", "GET", "/app/notes/a").body == b"b"


def test_claims_are_in_the_receipt(cluster: Cluster) -> None:
    apply(cluster, ("set_js_app", {"bundle": APP}))
    answer = ask(cluster, "n1", "POST", "/app/claims", b"\7" * 32, cluster.user, prefer="committed")
    assert (answer.status, answer.body) == (200, b"user_cert")
    cluster.run(0.3)
    transaction = answer.headers["x-ms-ccf-transaction-id"]
    found = json.loads(ask(cluster, "n0", "GET", f"/app/receipt?transaction_id={transaction}").body)
    assert found["leaf_components"]["claims_digest"] == (b"\7" * 32).hex()


def test_a_user_is_in_and_out_by_vote_within_one_session(cluster: Cluster) -> None:
    users_only = {"POST /claims": {"js_function": "claim", "authn_policies": ["user_cert"]}}
    apply(cluster, ("set_js_app", {"bundle": bundle(users_only, {"app.js": RECORDS})}))
    who = make_identity("comes and goes")
    client = cluster.client(cluster.hosts["n1"], who)
    for _ in range(2):
        answer = client.ask("POST", "/app/claims", bytes(32))
        assert answer.status == 401
        assert json.loads(answer.body)["error"]["details"][0]["message"] == "Could not find matching user certificate"
        apply(cluster, ("set_user", {"cert": who.pem}))
        assert client.ask("POST", "/app/claims", bytes(32)).status == 200
        apply(cluster, ("remove_user", {"user_id": id_of(who)}))
    assert client.ask("POST", "/app/claims", bytes(32)).status == 401


def test_a_request_of_an_application_that_is_replaced_meanwhile_is_answered_by_the_new_one(cluster: Cluster) -> None:
    """The script has run, and before its request takes effect another application stands in the tables."""
    told = "export const main = () => ({{body: '{0}'}});"
    apply(cluster, ("set_js_app", {"bundle": bundle({"POST /who": {}}, {"app.js": told.format("old")})}))
    host = cluster.hosts["n0"]
    assert ask(cluster, "n0", "POST", "/app/who").body == b"old"
    _before_the_next_takes_effect(host, told.format("new"))
    assert ask(cluster, "n0", "POST", "/app/who").body == b"new"
    _before_the_next_takes_effect(host, None)
    assert ask(cluster, "n0", "POST", "/app/who").status == 404


def _before_the_next_takes_effect(host: Host, module: str | None) -> None:
    """Have the tables hold another application, with this module or none, once a script's answer is about to be taken."""
    serving: Any = host.enclave._serving
    scripting = serving._scripting
    take = scripting.take_finished

    def change() -> Any:
        scripting.take_finished = take
        finished = take()
        rows: dict[str, Any] = {tables.MODULES: {b"/app.js": module and module.encode()}}
        if module is None:
            rows[tables.ENDPOINTS] = {b"POST /who": None}
        serving._apply_and_propose(rows)
        return finished

    scripting.take_finished = change


# The ledger.


LEDGER = """
const records = ccf.kv['public:notes'];
export function write(request) { records.set(ccf.strToBuf('k'), request.body.arrayBuffer()); return {}; }
export function was(request) {
  const {transactionId, kv, receipt} = ccf.historicalState;
  const value = kv['public:notes'].get(ccf.strToBuf('k'));
  return {body: {transactionId, value: value && ccf.bufToStr(value), leaf: receipt.leaf_components.claims_digest}};
}
export function where(request) {
  const {view, seqno} = ccf.consensus.getLastCommittedTxId();
  const {getStatusForTxId, getViewForSeqno} = ccf.consensus;
  return {body: [getStatusForTxId(view, seqno), getViewForSeqno(seqno) === view, getViewForSeqno(1e9)]};
}
"""


def test_endpoints_see_the_ledger_as_it_was_and_is(cluster: Cluster) -> None:
    endpoints: dict[str, Any] = {
        "POST /write": {"js_function": "write"},
        "GET /was": {"js_function": "was", "mode": "historical", "forwarding_required": "never"},
        "GET /where": {"js_function": "where", **READS},
    }
    apply(cluster, ("set_js_app", {"bundle": bundle(endpoints, {"app.js": LEDGER})}))
    written = [ask(cluster, "n0", "POST", "/app/write", body, prefer="committed") for body in (b"one", b"two")]
    cluster.run(0.5)
    header = "x-ms-ccf-transaction-id"
    for answer, value in zip(written, ("one", "two"), strict=True):
        transaction = answer.headers[header]
        for host in ("n0", "n2"):
            shown = ask(cluster, host, "GET", "/app/was", x_ms_ccf_transaction_id=transaction)
            assert shown.status == 200, shown.body
            assert json.loads(shown.body) == {"transactionId": transaction, "value": value, "leaf": "00" * 32}
    for named, status, code in (
        (None, 400, "MissingRequiredHeader"),
        ("x", 400, "InvalidHeaderValue"),
        ("2.999999", 404, "TransactionPendingOrUnknown"),
    ):
        headers: dict[str, Any] = {} if named is None else {"x_ms_ccf_transaction_id": named}
        answer = ask(cluster, "n1", "GET", "/app/was", **headers)
        assert (answer.status, json.loads(answer.body)["error"]["code"]) == (status, code)
    assert json.loads(ask(cluster, "n2", "GET", "/app/where").body) == ["Committed", True, None]
