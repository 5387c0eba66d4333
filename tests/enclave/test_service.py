"""What clients see of a service: commit, forwarding, rollback, reads, receipts; on whole enclaves in virtual time."""

import base64
import json

import pytest

from ledgerd.apps.logging import app
from ledgerd.enclave import answering, boundary
from ledgerd.enclave.core import Enclave
from ledgerd.ledger import receipt
from ledgerd.ledger.ids import parse_transaction_id
from support.cluster import Client, Cluster, Host

ID = "x-ms-ccf-transaction-id"


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster(app)
    cluster.start(3)
    cluster.run(0.3)  # until the backups know too that the configurations of one and two nodes are history
    return cluster


def primary(cluster: Cluster) -> Host:
    return cluster.hosts["n0"]


def status(client: Client, transaction: str) -> str:
    answer: str = json.loads(client.ask("GET", f"/app/tx?transaction_id={transaction}").body)["status"]
    return answer


def isolate(cluster: Cluster, host: Host) -> None:
    """Cut a node's peers off, clients not: what is sent vanishes."""
    cluster.cut = lambda a, b: host in (a, b)


def test_an_answer_leaves_when_executed_and_its_id_becomes_committed(cluster: Cluster) -> None:
    client = cluster.client(primary(cluster))
    answer = client.ask("PUT", "/app/records/k", b"v", content_type="text/plain")
    assert answer.status == 204
    cluster.run(0.1)
    assert status(client, answer.headers[ID]) == "Committed"


def test_with_prefer_committed_the_answer_waits_for_a_majority_of_disks(cluster: Cluster) -> None:
    for host in cluster.hosts.values():
        host.stores = host.name == "n0"  # the primary's own disk is no majority
    client = cluster.client(primary(cluster))
    client.start("PUT", "/app/records/k", b"v", prefer="committed")
    cluster.run(0.3)
    assert client.answers == []


def test_commit_needs_no_disk_but_those_of_a_majority(cluster: Cluster) -> None:
    cluster.hosts["n0"].stores = False
    client = cluster.client(primary(cluster))
    assert client.ask("PUT", "/app/records/k", b"v", prefer="committed").status == 204


def test_past_the_wait_the_answer_is_202_and_says_where_to_ask(cluster: Cluster) -> None:
    for host in cluster.hosts.values():
        host.stores = host.name == "n0"
    client = cluster.client(primary(cluster))
    answer = client.ask("PUT", "/app/records/k", b"v", prefer="committed, wait=1")
    assert answer.status == 202
    body = json.loads(answer.body)
    assert body["status"] == "Pending"
    assert answer.headers["location"] == f"/app/tx?transaction_id={body['transaction_id']}"
    assert status(client, body["transaction_id"]) == "Pending"


@pytest.mark.parametrize("backup", ["n1", "n2"])
def test_a_write_to_a_backup_is_forwarded_and_committed(cluster: Cluster, backup: str) -> None:
    client = cluster.client(cluster.hosts[backup])
    answer = client.ask("PUT", "/app/records/k", b"through " + backup.encode(), prefer="committed")
    assert answer.status == 204
    assert cluster.client(primary(cluster)).ask("GET", "/app/records/k").body == b"through " + backup.encode()


def test_a_read_of_ones_own_committed_write_is_never_stale_at_the_primary(cluster: Cluster) -> None:
    client = cluster.client(primary(cluster))
    for number in range(5):
        client.ask("PUT", "/app/records/k", str(number).encode(), prefer="committed")
        assert client.ask("GET", "/app/records/k", prefer="committed").body == str(number).encode()


def test_a_linearizable_read_of_a_deposed_primary_is_not_answered_with_old_state(cluster: Cluster) -> None:
    old = primary(cluster)
    client = cluster.client(old)
    client.ask("PUT", "/app/records/k", b"before", prefer="committed")
    isolate(cluster, old)
    client.start("GET", "/app/records/k", prefer="committed")
    cluster.run(0.4)  # a new primary may exist any moment now
    assert len(client.answers) == 1, "a read was answered without the confirmation of a majority"
    cluster.until(lambda: len(client.answers) == 2)
    assert client.answers[-1].status == 503


def test_a_transaction_that_is_rolled_back_answers_409_and_stays_invalid(cluster: Cluster) -> None:
    old = primary(cluster)
    client = cluster.client(old)
    isolate(cluster, old)
    client.start("PUT", "/app/records/k", b"lost", prefer="committed")
    cluster.run(0.1)
    cluster.until(lambda: any(host.notices.get("role") == "primary" for host in cluster.hosts.values() if host is not old))
    new = next(host for host in cluster.hosts.values() if host is not old and host.notices.get("role") == "primary")
    cluster.client(new).ask("PUT", "/app/records/other", b"kept", prefer="committed")
    cluster.cut = lambda a, b: False
    cluster.until(lambda: len(client.answers) == 1)
    answer = client.answers[0]
    assert answer.status == 409
    assert json.loads(answer.body)["error"]["code"] == "TransactionInvalid"
    for host in cluster.hosts.values():
        cluster.run(0.3)
        assert status(cluster.client(host), answer.headers[ID]) == "Invalid"
    assert cluster.client(new).ask("GET", "/app/records/k").status == 404


def test_a_forwarded_request_whose_channel_is_cut_answers_504_outcome_unknown(cluster: Cluster) -> None:
    for host in cluster.hosts.values():
        host.stores = False
    client = cluster.client(cluster.hosts["n1"])
    client.start("PUT", "/app/records/k", b"v", prefer="committed")
    cluster.run(0.05)
    cluster.kill(primary(cluster))
    cluster.until(lambda: len(client.answers) == 1)
    assert client.answers[0].status == 504
    assert json.loads(client.answers[0].body)["error"]["code"] == "OutcomeUnknown"


def test_a_forwarded_request_whose_answer_is_lost_answers_504_too(cluster: Cluster) -> None:
    backup, first = cluster.hosts["n1"], primary(cluster)
    client = cluster.client(backup)
    for host in cluster.hosts.values():
        host.stores = False
    client.start("PUT", "/app/records/k", b"v", prefer="committed")
    cluster.run(0.05)
    theirs = [stream for stream, (end, far) in backup.streams.items() if end is first and stream > 0]
    assert theirs, "the primary has dialled the backup"
    for stream in theirs:
        cluster.close_stream(backup, stream)
        backup.inbox.append(boundary.Closed(stream))
    cluster.until(lambda: len(client.answers) == 1)
    assert json.loads(client.answers[0].body)["error"]["code"] == "OutcomeUnknown"


@pytest.mark.parametrize("backup", ["n1", "n2"])
def test_what_waits_for_its_commit_is_kept_until_there_is_a_primary_again(cluster: Cluster, backup: str) -> None:
    cluster.kill(primary(cluster))
    waiting, impatient = (cluster.client(cluster.hosts[backup]) for _ in range(2))
    begun = cluster.now
    waiting.start("PUT", "/app/records/k", b"v", prefer="committed")
    answer = impatient.ask("PUT", "/app/records/other", b"v")
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (503, "PrimaryNotFound")
    assert cluster.now - begun < 0.05, "as in CCF, at once"
    cluster.until(lambda: bool(waiting.answers))
    assert waiting.answers[0].status == 204
    assert 0.3 < cluster.now - begun < 2.0


def test_what_is_kept_for_a_primary_that_does_not_come_is_refused_within_two_seconds(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "PARKED_MAX", 3)
    n1 = cluster.hosts["n1"]
    isolate(cluster, n1)
    cluster.run(1.2)  # until it has given up its primary
    clients = [cluster.client(n1) for _ in range(4)]
    begun = cluster.now
    for client in clients:
        client.start("PUT", "/app/records/k", b"v", prefer="committed")
    cluster.run(0.1)
    assert sum(len(client.answers) for client in clients) == 1, "no more than may wait are kept"
    cluster.until(lambda: all(client.answers for client in clients))
    assert 1.9 < cluster.now - begun < 2.1
    codes = {(client.answers[0].status, json.loads(client.answers[0].body)["error"]["code"]) for client in clients}
    assert codes == {(503, "PrimaryNotFound")}


def test_an_idempotency_key_gives_the_first_answer_again_even_at_another_node_after_a_failover(cluster: Cluster) -> None:
    client = cluster.client(primary(cluster))
    first = client.ask("PUT", "/app/records/k", b"v", prefer="committed", idempotency_key="one")
    again = client.ask("PUT", "/app/records/k", b"v", prefer="committed", idempotency_key="one")
    other = client.ask("PUT", "/app/records/k", b"w", prefer="committed", idempotency_key="one")
    assert first.headers[ID] == again.headers[ID]
    assert other.status == 422
    cluster.kill(primary(cluster))
    survivor = cluster.client(cluster.hosts["n1"])
    cluster.until(lambda: any(host.notices.get("role") == "primary" for host in cluster.hosts.values() if host.alive))
    cluster.run(0.3)
    late = survivor.ask("PUT", "/app/records/k", b"v", prefer="committed", idempotency_key="one")
    assert (late.status, late.headers[ID]) == (204, first.headers[ID])


@pytest.mark.parametrize("node", ["n0", "n1"])
def test_receipts_of_old_and_new_transactions_verify_offline(cluster: Cluster, node: str) -> None:
    service = cluster.hosts["n0"].notices["service_certificate"]
    client = cluster.client(cluster.hosts[node])
    ids = []
    for number in range(30):
        answer = client.ask("PUT", f"/app/records/{number}", b"v", prefer="committed, receipt")
        ids.append(answer.headers[ID])
        held = base64.b64decode(answer.headers["x-ledgerd-receipt"])
        assert str(receipt.verify_cose(held, receipt.public_key(receipt.load_certificate(service))).transaction_id) == ids[-1]
    cluster.run(0.3)
    for transaction in (ids[0], ids[10], ids[-1]):
        answer = client.ask("GET", f"/app/receipt?transaction_id={transaction}")
        assert answer.status == 200
        verified = receipt.verify_json(answer.body, service, expected=parse_transaction_id(transaction))
        assert str(verified.transaction_id) == transaction
        cose = client.ask("GET", f"/node/receipt/cose?transaction_id={transaction}")
        assert cose.headers["content-type"] == "application/cose"
        assert str(receipt.verify_cose(cose.body, receipt.public_key(receipt.load_certificate(service))).transaction_id) == transaction


@pytest.mark.parametrize("node", ["n0", "n1"])
def test_a_repeated_request_gets_its_receipt_too(cluster: Cluster, node: str) -> None:
    client = cluster.client(cluster.hosts[node])
    key = "anew"
    first = client.ask("PUT", "/app/records/k", b"v", prefer="committed, receipt", idempotency_key=key)
    cluster.run(0.2)
    again = client.ask("PUT", "/app/records/k", b"v", prefer="committed, receipt", idempotency_key=key)
    assert first.headers["preference-applied"] == again.headers["preference-applied"] == "committed"
    service = receipt.public_key(receipt.load_certificate(cluster.hosts["n0"].notices["service_certificate"]))
    for answer in (first, again):
        verified = receipt.verify_cose(base64.b64decode(answer.headers["x-ledgerd-receipt"]), service)
        assert str(verified.transaction_id) == first.headers[ID]


def test_an_answer_that_did_not_wait_does_not_say_that_it_did(cluster: Cluster) -> None:
    assert "preference-applied" not in cluster.client(primary(cluster)).ask("PUT", "/app/records/k", b"v").headers


def test_there_is_no_receipt_for_what_is_not_committed(cluster: Cluster) -> None:
    for host in cluster.hosts.values():
        host.stores = False
    client = cluster.client(primary(cluster))
    transaction = client.ask("PUT", "/app/records/k", b"v").headers[ID]
    answer = client.ask("GET", f"/app/receipt?transaction_id={transaction}")
    assert answer.status == 404
    assert json.loads(answer.body)["error"]["code"] == "TransactionPendingOrUnknown"


def test_an_idle_service_writes_nothing(cluster: Cluster) -> None:
    cluster.run(1)
    before = [len(host.entries) for host in cluster.hosts.values()]
    cluster.run(5)
    assert [len(host.entries) for host in cluster.hosts.values()] == before


def test_a_service_of_one_node_commits_alone() -> None:
    cluster = Cluster(app)
    cluster.start(1)
    assert cluster.client(primary(cluster)).ask("PUT", "/app/records/k", b"v", prefer="committed").status == 204


def test_a_node_that_joins_late_catches_up_and_votes(cluster: Cluster) -> None:
    client = cluster.client(primary(cluster))
    for number in range(300):
        client.start("PUT", f"/app/records/{number}", b"v" * 100)
    cluster.until(lambda: len(client.answers) == 300)
    late = cluster.join("n3")
    cluster.until(lambda: late.notices.get("open") == "yes" and len(late.entries) == len(primary(cluster).entries))
    assert late.entries == primary(cluster).entries
    cluster.kill(cluster.hosts["n1"])
    assert client.ask("PUT", "/app/records/k", b"v", prefer="committed").status == 204  # 3 of 4: the late one counts


def test_committed_ledgers_are_byte_identical_after_a_failover(cluster: Cluster) -> None:
    client = cluster.client(primary(cluster))
    for number in range(20):
        client.ask("PUT", f"/app/records/{number}", b"v", prefer="committed")
    cluster.kill(primary(cluster))
    survivor = cluster.client(cluster.hosts["n1"])
    cluster.until(lambda: any(host.notices.get("role") == "primary" for host in cluster.hosts.values() if host.alive))
    cluster.until(lambda: survivor.ask("PUT", "/app/records/x", b"v", prefer="committed").status == 204)
    cluster.run(0.5)
    commit = min(host.committed for host in cluster.hosts.values())
    prefixes = {b"".join(host.entries[:commit]) for host in cluster.hosts.values()}
    assert len(prefixes) == 1


def test_a_caller_without_registered_certificate_gets_401_with_details() -> None:
    cluster = Cluster(app)
    cluster.start(1, application_policy="user_cert")
    stranger = cluster.client(primary(cluster))
    answer = stranger.ask("PUT", "/app/records/k", b"v")
    assert answer.status == 401
    error = json.loads(answer.body)["error"]
    assert error["code"] == "InvalidAuthenticationInfo"
    assert error["details"][0]["auth_policy"] == "user_cert"
    user = cluster.client(primary(cluster), cluster.user)
    assert user.ask("PUT", "/app/records/k", b"v").status == 204


def test_a_user_is_known_at_the_primary_when_a_backup_forwards() -> None:
    cluster = Cluster(app)
    cluster.start(3, application_policy="user_cert")
    assert cluster.client(cluster.hosts["n1"], cluster.user).ask("PUT", "/app/records/k", b"v", prefer="committed").status == 204
    assert cluster.client(cluster.hosts["n1"]).ask("PUT", "/app/records/k", b"v", prefer="committed").status == 401


@pytest.mark.parametrize(
    "path",
    [
        "commit",
        "commit?view_history=true",
        "api",
        "state",
        "network",
        "network/nodes",
        "network/nodes/self",
        "network/nodes/primary",
        "primary",
        "consensus",
        "config",
        "attestations",
        "attestations/self",
        "quotes",
        "version",
        "metrics",
        "service/configuration",
        "self_signed_certificate",
        "network/removable_nodes",
    ],
)
def test_built_in_answers_200(cluster: Cluster, path: str) -> None:
    answer = cluster.client(primary(cluster)).ask("GET", f"/node/{path}")
    assert answer.status == 200


def test_readiness_is_204_on_every_node(cluster: Cluster) -> None:
    for host in cluster.hosts.values():
        client = cluster.client(host)
        assert client.ask("GET", "/node/ready/app").status == 204
        assert client.ask("GET", "/node/ready/gov").status == 204


def test_a_backup_points_to_the_primary(cluster: Cluster) -> None:
    answer = cluster.client(cluster.hosts["n1"]).ask("GET", "/node/primary")
    assert answer.status == 307
    assert answer.headers["location"] == "https://n0.rpc:8001/node/primary"


def test_an_enclave_that_nobody_has_configured_yet_waits_and_does_not_spin() -> None:
    enclave = Enclave(app, 5.0)
    enclave.tick(6.0)
    assert enclave.next_wakeup() == float("inf")
