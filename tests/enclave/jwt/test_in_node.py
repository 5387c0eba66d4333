"""A Python application whose callers bear tokens, in whole nodes: from the header through a backup to the handler, by attested time."""

import json
from typing import Any

from ledgerd.enclave.app import App, Context
from ledgerd.governance import tables
from support.cluster import Cluster, Host
from support.jwt import ISSUER, key, record, rows, token

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
