"""A service's life: nodes that come late, stand still, are stopped and are killed; and what an ordinary HTTP client sees of it."""

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledgerd.ledger.receipt import verify_json
from support.https import Answer, Request
from support.processes import ENDING_SECONDS_MAX, PATIENT_MS, Node, Service, wait_for

MANY = 3000
BEYOND_MEMORY = 8000


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Three nodes, for tests that leave them as they were."""
    with Service(tmp_path_factory.mktemp("life")) as service:
        yield service


def put(key: str, value: str = "value", **headers: str) -> Request:
    return Request("PUT", f"/app/records/{key}", value.encode(), headers)


def stop(node: Node, number: int = signal.SIGSTOP) -> None:
    """Let both processes of a node stand still, or go on."""
    os.kill(node.enclave_pid, number)
    os.kill(node.host_pid, number)


# Nodes.


def test_a_late_node_catches_up_with_thousands_of_transactions(tmp_path: Path) -> None:
    with Service(tmp_path) as service:
        primary = service.primary()
        with primary.session() as client:
            answers = client.ask_all([put(f"key-{number}", f"value {number}") for number in range(MANY)])
            assert {answer.status for answer in answers} == {204}
            assert client.ask_all([put("last", prefer="committed")])[0].status == 204
            committed = primary.committed()
            late = service.add()
            # From now on commits need it, so that what is written while it catches up must not wait for ever.
            assert client.ask_all([put("after", prefer="committed")])[0].status == 204
        assert service.settle(committed) > MANY
        assert late.entries() == primary.entries()
        with late.session() as client:
            read = client.ask_all([Request("GET", f"/app/records/key-{number}") for number in range(0, MANY, 100)])
        assert [answer.body.decode() for answer in read] == [f"value {number}" for number in range(0, MANY, 100)]
        with primary.session() as client:
            shown = client.ask("GET", "/node/network/nodes").json()["nodes"]
        assert {(node["node_id"], node["status"]) for node in shown} == {(node.id, "Trusted") for node in service.nodes}


def test_a_backup_that_stands_still_stops_no_commit_and_catches_up(service: Service) -> None:
    primary, (still, _) = service.primary(), service.backups()
    stop(still)
    try:
        with primary.session() as client:
            for number in range(50):
                assert client.ask_all([put(f"still-{number}", str(number), prefer="committed")])[0].status == 204
            # More than anybody keeps in memory for it, so that it is fed from the primary's disk.
            assert {answer.status for answer in client.ask_all([put(f"many-{number}", "x" * 500) for number in range(BEYOND_MEMORY)])} == {
                204
            }
    finally:
        stop(still, signal.SIGCONT)
    assert service.settle(primary.committed()) > BEYOND_MEMORY
    assert len({tuple(node.entries()) for node in service.nodes}) == 1
    with still.session() as client:
        assert client.ask("GET", "/app/records/still-49").body == b"49"


def test_every_node_reads_the_past_back_from_its_own_disk(service: Service) -> None:
    primary = service.primary()
    with primary.session() as client:
        writes = [Request("PUT", "/app/public/records/past", b"%d" % number) for number in range(1500)]
        ids = [answer.transaction_id for answer in client.ask_all(writes)]
        private = client.ask_all([put("old", "as it was", prefer="committed")])[0].transaction_id
        assert client.ask_all([put("old", "as it is", prefer="committed")])[0].status == 204
    service.settle(primary.committed())
    first, last = (int(ids[at].partition(".")[2]) for at in (0, -1))
    named = Request("GET", "/app/records/old/historical", b"", {"x-ms-ccf-transaction-id": private})
    for node in service.nodes:
        with node.session() as client:
            found = json.loads(client.ask("GET", f"/app/public/records/past/historical/range?first={first}&last={last}").body)
            old = client.ask_all([named])[0].json()
        assert [(item["transaction_id"], item["message"]) for item in found] == [(ids[n], str(n)) for n in range(1500)]
        assert (old["message"], old["transaction_id"]) == ("as it was", private)
        assert str(verify_json(old["receipt"], service.certificate.read_bytes()).transaction_id) == private


def test_a_primary_alone_commits_nothing(tmp_path: Path) -> None:
    with Service(tmp_path) as service:
        primary, backups = service.primary(), service.backups()
        with primary.session() as client:
            for node in backups:
                stop(node)
            written = client.ask("PUT", "/app/records/alone", b"x").transaction_id
            seqno = int(written.partition(".")[2])
            wait_for(lambda: client.ask("GET", "/node/state").json()["last_signed_seqno"] > seqno, "the write is signed")
            wait_for(lambda: len(primary.entries()) > seqno, "write and signature are on the primary's disk")
            for _ in range(20):
                assert client.ask("GET", f"/app/tx?transaction_id={written}").json()["status"] == "Pending"
                assert client.ask("GET", f"/app/receipt?transaction_id={written}").status == 404
            stop(backups[0], signal.SIGCONT)
            # With the second of three it goes on, be it under this primary or, after a long while, the next: what was signed is never lost.
            with backups[0].session() as other:
                wait_for(
                    lambda: other.ask("GET", f"/app/tx?transaction_id={written}").json()["status"] == "Committed", "a majority commits"
                )


def test_a_primary_that_stood_still_gives_way_and_what_was_not_signed_is_gone(tmp_path: Path) -> None:
    """Its clock, sockets and disk go on later as if nothing had happened; yet it must acknowledge nothing that the others do not have."""
    with Service(tmp_path, election_ms=PATIENT_MS) as service:
        old, others = service.primary(), service.backups()
        with old.session() as client, old.session() as waiting:
            assert client.ask_all([put("before", prefer="committed")])[0].status == 204
            # While the backups stand still nothing is committed, so a second signature does not follow the first.
            for node in others:
                stop(node)
            first = client.ask("PUT", "/app/records/first", b"x").transaction_id
            seqno = int(first.partition(".")[2])
            wait_for(lambda: client.ask("GET", "/node/state").json()["last_signed_seqno"] > seqno, "the first write is signed")
            answers: list[Answer] = []
            asking = threading.Thread(target=lambda: answers.extend(waiting.ask_all([put("held", prefer="committed")])))
            asking.start()
            wait_for(lambda: client.ask("GET", "/app/records/held").status == 200, "the second write was executed")
            stop(old)
            for node in others:
                stop(node, signal.SIGCONT)
            elected = wait_for_primary(others)
            with elected.session() as session:
                assert session.ask_all([put("after", prefer="committed")])[0].status == 204
            assert not answers
            stop(old, signal.SIGCONT)
            service.settle()
            asking.join()
            assert (answers[0].status, answers[0].json()["error"]["code"]) == (409, "TransactionInvalid")
            for node in service.nodes:
                with node.session() as session:
                    asked = session.ask("GET", f"/app/tx?transaction_id={answers[0].transaction_id}")
                    assert asked.json()["status"] == "Invalid"
                    assert session.ask("GET", "/app/records/held").status == 404
                    assert session.ask("GET", "/app/records/after").status == 200
        assert len({tuple(node.entries()) for node in service.nodes}) == 1


def wait_for_primary(nodes: list[Node]) -> Node:
    """The one of these that calls itself primary."""
    found: list[Node] = []

    def is_there() -> bool:
        for node in nodes:
            with node.session() as session:
                if session.ask("GET", "/node/network").json()["primary_id"] == node.id:
                    found.append(node)
        return bool(found)

    wait_for(is_there, "one of the nodes is primary")
    return found[0]


def test_sigterm_ends_a_node_and_the_rest_goes_on(tmp_path: Path) -> None:
    with Service(tmp_path) as service:
        ended = service.backups()[0]
        enclave = os.pidfd_open(ended.enclave_pid)
        ended.process.send_signal(signal.SIGTERM)
        assert ended.process.wait(ENDING_SECONDS_MAX) == 0
        assert select.select([enclave], [], [], 0)[0], "the enclave ended before its host did"
        os.close(enclave)
        assert not (ended.directory / "host.pid").exists()
        assert not (ended.directory / "enclave.pid").exists()
        assert "stopped as asked" in ended.log()
        assert ended.output().strip() == "ledgerd: stopped as asked"
        with service.primary().session() as client:
            assert client.ask_all([put("after", prefer="committed")])[0].status == 204


def test_all_nodes_end_by_sigterm_at_once(tmp_path: Path) -> None:
    with Service(tmp_path) as service:
        for node in service.nodes:
            node.process.send_signal(signal.SIGTERM)
        assert [node.process.wait(ENDING_SECONDS_MAX) for node in service.nodes] == [0, 0, 0]
        assert all(node.wait_enclave_ended(0) for node in service.nodes)


def test_the_other_process_does_not_outlive_a_killed_one(tmp_path: Path) -> None:
    with Service(tmp_path) as service:
        first, second, _ = service.nodes
        first.kill_host()
        assert first.wait_enclave_ended()
        second.kill_enclave()
        assert second.process.wait(ENDING_SECONDS_MAX) == 1
        assert "ended by signal 9" in second.output()


def test_a_directory_that_a_node_has_used_is_refused(tmp_path: Path) -> None:
    with Service(tmp_path, nodes=1) as service:
        node = service.nodes[0]
        again = Node(service, 0)
        service.nodes.append(again)
        again.begin('[start]\nadmission = "automatic"\n[[start.members]]\ncertificate = "member0_cert.pem"')
        assert again.process.wait(ENDING_SECONDS_MAX) == 2
        assert "was used by a node before" in again.output()
        assert len(again.output().strip().splitlines()) == 1
        with node.session() as client:
            assert client.ask_all([put("still", prefer="committed")])[0].status == 204


# Ordinary clients.


def curl(service: Service, *arguments: str, trusted: bool = True) -> tuple[int, str, str]:
    """Run curl; returns its exit status, what it printed, and its complaints."""
    program = shutil.which("curl")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("curl is not installed")
        pytest.skip("curl is not installed")
    trust = ["--cacert", str(service.certificate)] if trusted else []
    done = subprocess.run([program, "-sS", "-m", "60", *trust, *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_curl_writes_and_reads_at_every_node(service: Service) -> None:
    for number, node in enumerate(service.nodes):
        url = f"{node.url}/app/records/curl{number}"
        status, printed, problem = curl(service, "-X", "PUT", "-H", "prefer: committed", "--data-binary", "h\u00e9llo", "-i", url)
        assert (status, problem) == (0, "")
        head = printed.splitlines()
        assert head[0] == "HTTP/1.1 204 No Content"
        assert any(line.startswith("x-ms-ccf-transaction-id: 2.") for line in head)
    service.settle()
    for node in service.nodes:
        urls = [f"{node.url}/app/records/curl{number}" for number in range(len(service.nodes))]
        # Several URLs at once: curl reuses its connection, and says so.
        status, printed, _ = curl(service, "-w", " %{http_code} %{num_connects} %{content_type}\n", *urls)
        assert status == 0
        assert [line.split(" ")[:3] for line in printed.splitlines()] == [
            ["h\u00e9llo", "200", "1"],
            ["h\u00e9llo", "200", "0"],
            ["h\u00e9llo", "200", "0"],
        ]


def test_a_node_counts_what_passes_its_link_and_the_sessions_that_fail(service: Service) -> None:
    node = service.nodes[0]

    def metrics() -> Any:
        return json.loads(curl(service, f"{node.url}/node/metrics")[1])

    before = metrics()
    with socket.create_connection(node.rpc) as broken:
        broken.sendall(b"GET / HTTP/1.1\r\n\r\n")  # without TLS
        while broken.recv(100):
            pass
    after = metrics()
    assert set(after) == {"sessions", "link", "host_rejects"}
    for name in ("frames_received", "bytes_received", "frames_sent", "bytes_sent"):
        assert 0 < before["link"][name] < after["link"][name]
    assert after["sessions"]["tls_failed"] == before["sessions"]["tls_failed"] + 1
    assert after["host_rejects"] == {}


def test_curl_without_the_service_certificate_refuses_to_talk(service: Service) -> None:
    status, _, problem = curl(service, f"{service.nodes[0].url}/node/network", trusted=False)
    assert status == 60, problem


@pytest.mark.parametrize(
    ("arguments", "path", "status", "code"),
    [
        ((), "/app/records/unknown", 404, "ResourceNotFound"),
        ((), "/app/nothing", 404, "ResourceNotFound"),
        (("-X", "POST"), "/app/records/a", 405, "UnsupportedHttpVerb"),
        ((), "/app/tx?transaction_id=nonsense", 400, "InvalidQueryParameterValue"),
        ((), "/app/receipt?transaction_id=2.999999", 404, "TransactionPendingOrUnknown"),
        (("-X", "PUT", "-H", "content-type: text/plain", "--data-binary", "@-"), "/app/records/big", 413, "RequestBodyTooLarge"),
        (("-H", f"x-long: {'a' * 20_000}"), "/app/records/a", 431, "RequestHeaderTooLarge"),
    ],
)
def test_curl_is_told_what_is_wrong_and_the_node_lives(
    service: Service, tmp_path: Path, arguments: tuple[str, ...], path: str, status: int, code: str
) -> None:
    big = tmp_path / "big"
    big.write_bytes(bytes(2 << 20))
    arguments = tuple(f"@{big}" if argument == "@-" else argument for argument in arguments)
    done, printed, problem = curl(service, *arguments, "-w", "\n%{http_code}", service.nodes[1].url + path)
    assert done == 0, problem
    body, _, shown = printed.rpartition("\n")
    assert (int(shown), json.loads(body)["error"]["code"]) == (status, code)
    assert curl(service, "-o", "/dev/null", "-w", "%{http_code}", f"{service.nodes[1].url}/node/ready/app")[:2] == (0, "204")


def test_curl_follows_a_backup_to_the_primary(service: Service) -> None:
    primary, backup = service.primary(), service.backups()[0]
    status, printed, _ = curl(service, "-L", "-o", "/dev/null", "-w", "%{http_code} %{url_effective}", f"{backup.url}/node/primary")
    assert (status, printed) == (0, f"200 {primary.url}/node/primary")
    assert curl(service, "-I", "-o", "/dev/null", "-w", "%{http_code}", f"{primary.url}/node/primary")[:2] == (0, "200")


def test_curl_with_a_users_certificate_may_write_where_users_may(tmp_path: Path) -> None:
    with Service(tmp_path, nodes=1, policy="user_cert") as service:
        url = f"{service.nodes[0].url}/app/records/mine"
        report = ("-o", "/dev/null", "-w", "%{http_code}")
        write = ("-X", "PUT", "-H", "prefer: committed", "-d", "x", *report, url)
        for name, expected in (("user0", "204"), ("member0", "401"), (None, "401")):
            identity = () if name is None else ("--cert", f"{tmp_path}/{name}_cert.pem", "--key", f"{tmp_path}/{name}_privk.pem")
            assert curl(service, *identity, *write)[:2] == (0, expected), name
