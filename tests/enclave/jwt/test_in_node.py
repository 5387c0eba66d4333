"""A Python application whose callers bear tokens, in whole nodes: from the header through a backup to the handler, by attested time."""

import json
from typing import Any

from ledgerd.enclave import boundary
from ledgerd.enclave.app import App, Context
from ledgerd.enclave.boundary import OUTBOUND
from ledgerd.enclave.clock import CLOCK_SECONDS
from ledgerd.governance import tables
from support.cluster import Cluster, Host
from support.jwt import ISSUER, Tokens, jwk, key, record, rows, token
from support.jwt_servers import HOST, JWKS_PATH, NAME, Web, Wire, page

RSA = key("RSA")

app = App("tokens")


@app.get("/who", policies=("jwt",))
def who(ctx: Context) -> Any:
    """Who asks."""
    assert ctx.caller is not None
    return ctx.caller.jwt


@app.post("/count", policies=("jwt",))
def count(ctx: Context) -> int:
    """Count the calls."""
    handle = ctx.kv["public:count"]
    number = int(handle.get(b"n") or b"0") + 1
    handle.set(b"n", str(number).encode())
    return number


def now_of(host: Host) -> int:
    """Attested seconds."""
    serving = host.enclave._serving
    assert serving is not None
    return serving.status.now_ms // 1000


def write(host: Host, **keys: list[dict[str, Any]]) -> None:
    """Put keys into the table, as a proposal does."""
    serving = host.enclave._serving
    assert serving is not None
    serving._apply_and_propose({tables.JWT_KEYS: rows(**keys)})


def test_tokens_count_on_every_node_until_they_expire_by_attested_time() -> None:
    cluster = Cluster(app)
    primary, backup = cluster.start(2)
    write(primary, k=[record(RSA)])
    cluster.run(1.0)
    now = now_of(primary)
    text = token(RSA, nbf=now - 1, exp=now + 20)
    for host in (primary, backup):
        client = cluster.client(host)
        answer = client.ask("GET", "/app/who", authorization=f"Bearer {text}")
        assert answer.status == 200
        assert json.loads(answer.body)["payload"]["sub"] == "alice"
        assert json.loads(answer.body)["keyIssuer"] == ISSUER
    cluster.run(21.0)
    for host in (primary, backup):
        answer = cluster.client(host).ask("GET", "/app/who", authorization=f"Bearer {text}")
        assert answer.status == 401
        assert "Expiration Time" in json.loads(answer.body)["error"]["details"][0]["message"]


def test_a_machine_that_stood_still_makes_no_token_live_longer_for_more_than_some_minutes() -> None:
    """A host that suspends its enclave stops the monotonic clock; the security module's next document tells how late it is."""
    cluster = Cluster(app)
    (host,) = cluster.start(1)
    write(host, k=[record(RSA)])
    cluster.run(1.0)
    before = now_of(host)
    text = token(RSA, nbf=before - 1, exp=before + 3000)
    host.nsm._clock = lambda: before + 3600.0
    assert who_is(cluster, host, text) == 200
    cluster.run(CLOCK_SECONDS + 1)
    assert now_of(host) >= before + 3600
    assert who_is(cluster, host, text) == 401
    host.nsm._clock = lambda: before - 3600.0
    cluster.run(CLOCK_SECONDS + 1)
    assert now_of(host) >= before + 3600  # never back


def test_without_the_security_module_the_clock_goes_on_by_itself_and_the_operator_hears_of_it() -> None:
    cluster = Cluster(app)
    (host,) = cluster.start(1)
    before = now_of(host)
    host.nsm.request = lambda request: b""  # type: ignore[method-assign]
    cluster.run(CLOCK_SECONDS + 1)
    assert now_of(host) >= before + CLOCK_SECONDS
    assert any("does not tell the time" in text for _, text in host.logs)


def test_a_write_through_a_backup_is_authenticated_by_the_primary_and_an_idempotency_key_is_its_subject_s() -> None:
    cluster = Cluster(app)
    primary, backup = cluster.start(2)
    write(primary, k=[record(RSA)])
    cluster.run(1.0)
    now = now_of(primary)

    def call(host: Host, subject: str, number: int) -> Any:
        text = token(RSA, sub=subject, nbf=now - 1, exp=now + 600, jti=str(number))
        answer = cluster.client(host).ask("POST", "/app/count", authorization=f"Bearer {text}", idempotency_key='"one"')
        assert answer.status == 200, answer.body
        return json.loads(answer.body)

    assert call(backup, "alice", 1) == 1
    assert call(primary, "alice", 2) == 1  # repeated with a fresh token
    assert call(primary, "bob", 3) == 2
    refused = cluster.client(backup).ask("POST", "/app/count", authorization="Bearer x")
    assert refused.status == 401
    assert refused.headers["www-authenticate"] == 'Bearer realm="JWT bearer token access", error="invalid_token"'


class WebCluster(Cluster):
    """A cluster whose hosts reach the servers of issuers, too."""

    def __init__(self) -> None:
        super().__init__(app)
        self.web = Web(valid_now=True)
        self.wires: dict[tuple[str, int], Wire] = {}

    def configuration(self, name: str, mode: str, **more: Any) -> bytes:
        return super().configuration(name, mode, **{"jwt": {"key_refresh_interval_s": 100, "hosts": [HOST]}, **more})

    def _connect(self, host: Host, connect: boundary.Connect) -> None:
        if (connect.host, connect.port) not in self.web.identities:
            super()._connect(host, connect)
            return
        self.wires[host.name, connect.stream] = Wire(self.web, connect.host, connect.port)
        host.inbox.append(boundary.Opened(connect.stream, OUTBOUND, connect.host))

    def _carry(self, host: Host, stream: int, data: bytes) -> None:
        wire = self.wires.get((host.name, stream))
        if wire is None:
            super()._carry(host, stream, data)
        elif answer := wire.feed(data):
            host.inbox.append(boundary.Received(stream, answer))


def test_members_name_an_issuer_and_its_tokens_count_on_every_node_until_its_server_replaces_the_key() -> None:
    cluster = WebCluster()
    service = Tokens(cluster)
    first, second = service.host, cluster.join("n1")
    cluster.until(lambda: second.notices.get("open") is not None)
    cluster.web.issuer(NAME, jwk(RSA, "k"))
    root = cluster.web.identities[HOST, 443].root_pem
    service.propose("row", table=tables.CA_CERT_BUNDLES, key="roots", value=root)
    record = {"issuer": NAME, "auto_refresh": True, "ca_cert_bundle_name": "roots"}
    assert service.propose("row", table=tables.JWT_ISSUERS, key=NAME, value=record).status == 200
    cluster.until(lambda: metrics(cluster, first)["successes"] == 1)
    now = now_of(first)
    text = token(RSA, iss=NAME, nbf=now - 1, exp=now + 1000)
    for host in (first, second):
        cluster.until(lambda host=host: who_is(cluster, host, text) == 200)  # type: ignore[misc]
    length = len(first.entries)
    cluster.web.pages[NAME + JWKS_PATH] = page({"keys": [jwk(key("RSA", 1), "k")]})
    cluster.run(90)
    assert who_is(cluster, first, text) == 200
    cluster.run(12)
    assert metrics(cluster, first)["successes"] == 2
    for host in (first, second):
        assert who_is(cluster, host, text) == 401
    assert len(first.entries) > length
    assert metrics(cluster, second) == {"attempts": 0, "successes": 0, "failures": 0, "issuers": {}}


def test_refreshes_that_bring_nothing_new_do_not_grow_the_ledger_and_a_new_primary_goes_on() -> None:
    cluster = WebCluster()
    service = Tokens(cluster)
    for name in ("n1", "n2"):
        cluster.join(name)
    cluster.until(lambda: all(host.notices.get("open") for host in cluster.hosts.values()))
    cluster.web.issuer(NAME, jwk(RSA, "k"))
    service.propose("row", table=tables.CA_CERT_BUNDLES, key="roots", value=cluster.web.identities[HOST, 443].root_pem)
    service.propose("row", table=tables.JWT_ISSUERS, key=NAME, value={"auto_refresh": True, "ca_cert_bundle_name": "roots"})
    cluster.until(lambda: metrics(cluster, service.host)["successes"] == 1)
    cluster.run(5)
    length = len(service.host.entries)
    cluster.run(305)
    assert metrics(cluster, service.host)["successes"] == 4
    assert len(service.host.entries) == length
    asked = len(cluster.web.asked)
    cluster.kill(service.host)
    others = [host for host in cluster.hosts.values() if host.alive]
    cluster.until(lambda: len(cluster.web.asked) == asked + 2)
    cluster.run(5)
    assert sorted(metrics(cluster, host)["successes"] for host in others) == [0, 1]


def who_is(cluster: Cluster, host: Host, text: str) -> int:
    """Status of a request with a token."""
    return cluster.client(host).ask("GET", "/app/who", authorization=f"Bearer {text}").status


def metrics(cluster: Cluster, host: Host) -> Any:
    """What a node tells of its refreshes."""
    return json.loads(cluster.client(host).ask("GET", "/node/jwt_keys/refresh/metrics").body)
