"""Every endpoint of which CCF publishes the shape of the answer, asked of a service that has something of everything to tell: it has that
shape. What is more is ours, and said here.

Our own descriptions: `tests/end_to_end/test_openapi.py`; refusals: `test_error_codes`.
"""

import json
import re
from collections.abc import Set
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ledgerd.enclave.outbound import Answer
from ledgerd.governance import requests
from support.ccf_api import APP, ERROR, GOVERNANCE, NODE, problems, unknown
from support.cluster import BY_VOTE, Identity, make_identity
from support.governed import VERSION, id_of
from support.jwt import jwk, key
from support.lives import THROWING, Life

ID = "x-ms-ccf-transaction-id"

# Fields of ours that CCF's answers do not have. `ledgerd` says what its clients need to know of attestation on Nitro, and of hosts.
_SESSIONS: Final = {f".sessions.{name}" for name in ("evicted", "refused_at_cap", "timed_out", "tls_failed")}
_ATTESTED: Final = {".simulated", ".accepts", ".settings", ".service_certificate", ".configuration", ".genesis_digest"}
OURS: Final[dict[str, Set[str]]] = {
    "/gov/service/join-policy": {".nitro"},
    "/node/attestations": {".attestations[].simulated"},
    "/node/quotes": {".quotes[].simulated"},
    "/node/state": {".retired", ".isolation", ".simulated"},
    "/node/version": {".compiled_modules"},
    "/node/jwt_keys/refresh/metrics": {".failures", ".issuers"},
    "/node/js_metrics": {".max_cached_interpreters"},
    "/node/metrics": {".link", ".host_rejects"} | _SESSIONS,
    **{f"/node/{name}/self": _ATTESTED for name in ("attestations", "quotes")},
    **{f"/{name}/api": frozenset({".components", ".servers"}) for name in ("node", "app")},
}


class Told:
    """A service of one node that three members govern: with shares, a user, an application, an issuer of tokens, a node that waits."""

    def __init__(self) -> None:
        public = rsa.generate_private_key(65537, 2048).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self.life = life = Life(encryption_key=public.decode(), constitution=BY_VOTE)
        life.begin()
        life.decide("open", ("transition_service_to_open", {"next_service_identity": life.certificate}))
        self.user = make_identity("user")
        endpoint = {"js_module": "a.js", "js_function": "a", "mode": "readonly", "forwarding_required": "never", "authn_policies": ["jwt"]}
        module = {"name": "a.js", "module": "export function a() { return {}; }"}
        app = {"metadata": {"endpoints": {"/a": {"get": endpoint}}}, "modules": [module]}
        issuer = {"issuer": "https://issuer.example", "auto_refresh": False, "jwks": {"keys": [jwk(key("RSA"), "k")]}}
        life.propose(
            "all",
            ("set_user", {"cert": self.user.pem, "user_data": {"role": "clerk"}}),
            ("set_member", {"cert": make_identity("newcomer").pem, "member_data": {"name": "newcomer"}}),
            ("set_js_app", {"bundle": app}),
            ("set_ca_cert_bundle", {"name": "roots", "cert_bundle": self.user.pem}),
            ("set_jwt_issuer", issuer),
            ("add_snp_measurement", {"measurement": "ab" * 48}),
            ("add_snp_host_data", {"host_data": "ab" * 32, "security_policy": ""}),
            ("add_snp_uvm_endorsement", {"did": "did:x509:0:sha256:a", "feed": "feed", "svn": "1"}),
            ("set_snp_minimum_tcb_version_hex", {"cpuid": "00a00f11", "tcb_version": "d315000000000004"}),
        )
        life.vote("all", 2, THROWING)
        life.vote("all", 0)
        life.vote("all", 1, state="Accepted")
        life.cluster.join("n1")
        life.cluster.run(2.0)
        life.propose("open one", ("remove_user", {"user_id": id_of(self.user)}))
        life.vote("open one", 0)
        life.cluster.run(2.0)
        self.member: Identity = life.members[0]
        self.names = {
            "proposalId": life.identities["open one"],
            "memberId": id_of(self.member),
            "userId": id_of(self.user),
            "nodeId": life.primary.notices["node_id"],
            "node_id": life.primary.notices["node_id"],
            "moduleName": "%2Fa.js",
            "transactionId": "2.1",
        }

    def filled(self, template: str) -> str:
        return re.sub(r"\{(\w+)\}", lambda found: self.names[found[1]], template)

    def get(self, path: str) -> Answer:
        return self.life.cluster.client(self.life.primary).ask("GET", path)

    def post(self, path: str, kind: str, payload: Any, proposal_id: str | None = None) -> Answer:
        self.life.created_at += 1
        body = json.dumps(payload).encode()
        who = self.member
        envelope = requests.sign(who.key, who.certificate, kind, body, created_at=self.life.created_at, proposal_id=proposal_id)
        return self.life.cluster.client(self.life.primary).ask("POST", f"/gov{path}{VERSION}", envelope, content_type="application/cose")


@pytest.fixture(scope="module")
def told() -> Told:
    return Told()


def check(shape: Any, answer: Answer, path: str) -> None:
    """An answer has its shape, and no fields that are not said to be ours."""
    content_type = answer.headers.get("content-type")
    if shape is None:
        assert (answer.status, answer.body) == (204, b""), answer
        return
    assert answer.status == 200, answer
    if isinstance(shape, str):
        assert (content_type, bool(answer.body)) == (shape, True)
        return
    assert content_type == "application/json"
    value = json.loads(answer.body)
    assert list(problems(shape, value, path)) == []
    assert {field.removeprefix(path) for field in unknown(shape, value, path)} == OURS.get(path, set())


READ: Final = [name.partition(" ")[2] for name in GOVERNANCE if name.startswith("GET ")]


@pytest.mark.parametrize("path", READ)
def test_what_is_read_of_governance_has_the_published_shape(told: Told, path: str) -> None:
    answer = told.get(f"/gov{told.filled(path)}{VERSION}")
    check(GOVERNANCE[f"GET {path}"], answer, f"/gov{path}")
    if "transactions" not in path:  # for which no table is looked at
        assert re.fullmatch(r"\d+\.\d+", answer.headers[ID])


def test_lists_have_something_in_them(told: Told) -> None:
    """So that the shape of what stands in them was looked at."""
    for name, least in (("members", 4), ("users", 1), ("nodes", 2), ("javascript-modules", 1)):
        assert len(json.loads(told.get(f"/gov/service/{name}{VERSION}").body)["value"]) >= least, name
    proposals = json.loads(told.get(f"/gov/members/proposals{VERSION}").body)["value"]
    assert {each["proposalState"] for each in proposals} == {"Open", "Accepted"}
    assert any(each.get("voteFailures") for each in proposals)
    policy = json.loads(told.get(f"/gov/service/join-policy{VERSION}").body)
    assert all(policy["snp"].values())
    assert all(json.loads(told.get(f"/gov/service/jwk{VERSION}").body).values())


def test_what_members_are_answered_has_the_published_shape(told: Told) -> None:
    me = id_of(told.member)
    asked = set()

    def post(path: str, kind: str, payload: Any, proposal_id: str | None = None) -> Any:
        answer = told.post(told.filled(path), kind, payload, proposal_id)
        asked.add(f"POST {path}")
        check(GOVERNANCE[f"POST {path}"], answer, f"/gov{path}")
        assert re.fullmatch(r"\d+\.\d+", answer.headers[ID])
        return json.loads(answer.body) if answer.body else None

    name = post("/members/proposals:create", requests.PROPOSAL, {"actions": [{"name": "trigger_ledger_chunk"}]})["proposalId"]
    told.names = {**told.names, "proposalId": name}
    post("/members/proposals/{proposalId}/ballots/{memberId}:submit", requests.BALLOT, {"ballot": THROWING}, name)
    post("/members/proposals/{proposalId}:withdraw", requests.WITHDRAWAL, {}, name)
    digest = post("/members/state-digests/{memberId}:update", requests.STATE_DIGEST, {})["stateDigest"]
    post("/members/state-digests/{memberId}:ack", requests.ACK, {"stateDigest": digest})
    refused = told.post(f"/recovery/members/{me}:recover", requests.RECOVERY_SHARE, {"share": ""})
    assert list(problems(ERROR, json.loads(refused.body))) == []
    never = {"POST /recovery/members/{memberId}:recover"}  # no service waits for shares here yet
    assert asked == {path for path in GOVERNANCE if path.startswith("POST ")} - never


@pytest.mark.parametrize("path", [*(f"/node{path}" for path in NODE), *(f"/app{path}" for path in APP)])
def test_what_every_service_tells_has_the_published_shape(told: Told, path: str) -> None:
    query = "?transaction_id=2.1" if path.endswith(("/tx", "/receipt")) else ""
    if path.endswith("/commit"):
        query = "?view_history=true"
    frontend, shapes = ("/node", NODE) if path.startswith("/node") else ("/app", APP)
    check(shapes[path.removeprefix(frontend)], told.get(told.filled(path) + query), path)


def test_refusals_have_the_published_shape(told: Told) -> None:
    for path in ("/gov/service/info", f"/gov/service/members/x{VERSION}", "/node/tx", "/app/nothing", "/app/a", f"/gov/nothing{VERSION}"):
        answer = told.get(path)
        assert answer.status >= 400
        assert list(problems(ERROR, json.loads(answer.body))) == [], path


def test_every_published_endpoint_of_governance_is_described(told: Told) -> None:
    paths = json.loads(told.get("/gov/api").body)["paths"]
    described = {f"{method.upper()} {path}" for path, item in paths.items() for method in item}
    assert GOVERNANCE.keys() <= described
    ours = {"GET /members/proposals/{proposalId}/effects", "POST /members/proposals:preview"}
    built_in = {f"GET {path}" for path in ("/api", "/commit", "/receipt", "/receipt/cose", "/tx")}
    assert described - GOVERNANCE.keys() == ours | built_in


def test_what_has_another_shape_is_found() -> None:
    """The comparison itself."""
    shape = {"a": int, "b?": [str], "c": {"*": bool}, "d": ("x", "y")}
    good = {"a": 1, "b": ["t"], "c": {"n": True}, "d": "x"}
    assert list(problems(shape, good, "x")) == []
    changes: tuple[dict[str, Any], ...] = (
        {"a": "1"},
        {"a": -1},
        {"a": True},
        {"b": "t"},
        {"b": [1]},
        {"c": []},
        {"c": {"n": 1}},
        {"d": "z"},
    )
    for change in changes:
        assert len(list(problems(shape, {**good, **change}, "x"))) == 1, change
    assert list(problems(shape, {name: good[name] for name in "abd"}, "x")) == ["x.c is missing"]
    assert list(unknown(shape, {**good, "e": 1, "f": {}})) == [".e", ".f"]
