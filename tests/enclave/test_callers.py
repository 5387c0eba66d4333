"""Client certificates on whole enclaves: any may be shown, and what it is worth is decided by the tables, request by request."""

import json
from datetime import timedelta
from typing import Any

import pytest

from ledgerd.enclave.app import App, Context
from ledgerd.governance import requests, tables
from ledgerd.ledger import cose
from support import tls
from support.cluster import Client, Cluster, Identity, make_identity

app = App("callers")


@app.post("/user", policies=["user_cert"])
def user(ctx: Context) -> str:
    assert ctx.caller is not None
    ctx.kv["seen"].set(ctx.caller.id.encode(), b"")
    return ctx.caller.id


@app.get("/anybody", policies=["any_cert"])
def anybody(ctx: Context) -> str:
    assert ctx.caller is not None
    return ctx.caller.id


@app.post("/signed", policies=[{"all_of": ["user_cert", "user_cose_sign1"]}])
def signed(ctx: Context) -> bytes:
    assert ctx.caller is not None
    content = ctx.caller.parts["user_cose_sign1"].content
    assert content is not None
    return content


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    cluster = Cluster(app)
    cluster.start(2)
    cluster.run(0.3)
    return cluster


def id_of(who: Identity) -> str:
    return requests.member_id_of(who.certificate)


def reason(answer: Any) -> str:
    assert answer.status == 401
    error = json.loads(answer.body)["error"]
    assert (error["code"], error["message"]) == ("InvalidAuthenticationInfo", "Invalid authentication credentials.")
    (detail,) = error["details"]
    return str(detail["message"])


def register(cluster: Cluster, who: Identity, pem: bytes | None) -> None:
    """What an accepted proposal does to a user, without the proposal."""
    serving: Any = cluster.hosts["n0"].enclave._serving
    serving._apply_and_propose({tables.USER_CERTS: {id_of(who).encode(): pem}})
    cluster.run(0.3)


@pytest.mark.parametrize("host", ["n0", "n1"])
def test_who_has_no_certificate_or_an_unknown_one_gets_an_answer_and_no_broken_handshake(cluster: Cluster, host: str) -> None:
    nobody = cluster.client(cluster.hosts[host])
    assert reason(nobody.ask("POST", "/app/user")) == "No caller user certificate"
    assert reason(nobody.ask("GET", "/app/anybody")) == "No caller certificate"
    stranger = make_identity("stranger")
    client = cluster.client(cluster.hosts[host], stranger)
    assert reason(client.ask("POST", "/app/user")) == "Could not find matching user certificate"
    assert client.ask("GET", "/app/anybody").body.decode() == id_of(stranger)


@pytest.mark.parametrize("host", ["n0", "n1"])
def test_a_user_is_in_and_out_by_the_tables_within_one_session(cluster: Cluster, host: str) -> None:
    who = make_identity("comes and goes")
    client = cluster.client(cluster.hosts[host], who)
    for _ in range(2):
        assert reason(client.ask("POST", "/app/user")) == "Could not find matching user certificate"
        register(cluster, who, who.pem.encode())
        assert client.ask("POST", "/app/user").body.decode() == id_of(who)
        register(cluster, who, None)
    assert reason(client.ask("POST", "/app/user")) == "Could not find matching user certificate"


@pytest.mark.parametrize(
    ("begins", "ends", "why"), [(-2, -1, "is after certificate's Not After"), (1, 2, "is before certificate's Not Before")]
)
def test_a_certificate_out_of_its_time_gets_an_answer_and_no_broken_handshake(cluster: Cluster, begins: int, ends: int, why: str) -> None:
    dated: Any = tls.identity("dated", begins=timedelta(days=begins), ends=timedelta(days=ends))
    client = cluster.client(cluster.hosts["n0"], dated)
    assert why in reason(client.ask("GET", "/app/anybody"))
    assert why in reason(client.ask("POST", "/app/user"))


def test_a_chain_may_be_shown_and_the_first_certificate_is_who_it_is(cluster: Cluster) -> None:
    root = tls.identity("root", authority=True)
    middle = tls.identity("middle", issuer=root, authority=True)
    leaf: Any = tls.identity("leaf", issuer=middle)
    for issuers in ((), (middle.certificate,), (middle.certificate, root.certificate), (root.certificate,)):
        client = Client(cluster, cluster.hosts["n0"], leaf, issuers)
        assert client.ask("GET", "/app/anybody").body.decode() == id_of(leaf)


def test_one_session_may_carry_what_its_user_has_signed(cluster: Cluster) -> None:
    client = cluster.client(cluster.hosts["n1"], cluster.user)
    body = cose.sign(cluster.user.key, {cose.HEADER_KEY_ID: id_of(cluster.user).encode()}, b"my word")
    assert client.ask("POST", "/app/signed", body, content_type="application/cose").body == b"my word"
    other = make_identity("other")
    body = cose.sign(other.key, {cose.HEADER_KEY_ID: id_of(other).encode()}, b"another's")
    answer = client.ask("POST", "/app/signed", body, content_type="application/cose")
    assert reason(answer) == "user_cose_sign1: Signer is not a known user"
    assert answer.headers["www-authenticate"] == 'COSE-SIGN1 realm="Signed request access"'
