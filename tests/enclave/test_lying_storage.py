"""A host that gives back something else than what was stored: found out wherever the enclave reads, and never believed."""

import json
from collections.abc import Callable

import pytest

from ledgerd.apps.logging import app
from ledgerd.ledger import receipt
from support.cluster import Cluster, Host
from support.forks import rolled_back

ID = "x-ms-ccf-transaction-id"
Lie = Callable[[int, bytes], bytes | None]


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.fixture
def service() -> tuple[Cluster, Host, str]:
    """One node with some history, and the id of a transaction in the middle of it."""
    cluster = Cluster(app)
    host = cluster.start(1)[0]
    client = cluster.client(host)
    ids = [client.ask("PUT", f"/app/public/records/{n}", b"v%d" % n, prefer="committed").headers[ID] for n in range(12)]
    cluster.run(0.2)
    return cluster, host, ids[5]


def ask_receipt(cluster: Cluster, host: Host, transaction: str) -> tuple[int, str]:
    answer = cluster.client(host).ask("GET", f"/app/receipt?transaction_id={transaction}")
    code = "" if answer.status == 200 else json.loads(answer.body)["error"]["code"]
    return answer.status, code


def test_every_flipped_bit_of_the_entry_and_of_its_signature_is_refused(service: tuple[Cluster, Host, str]) -> None:
    cluster, host, transaction = service
    seqno = int(transaction.split(".")[1])
    own = host.entries[seqno - 1]
    for target in (seqno, seqno + 1):
        for at in range(0, len(host.entries[target - 1]), 7):
            host.read_back = lambda n, data, at=at, target=target: flip(data, at) if n == target else data
            status, code = ask_receipt(cluster, host, transaction)
            # The eight bytes before a *last* signature entry's tag are under no tree yet; its flags say nothing that a receipt repeats.
            if status == 200:
                assert target != seqno and at < 8, f"byte {at} of entry {target} was changed and believed"
            else:
                assert (status, code) == (503, "LedgerRangeRefused")
    assert own == host.entries[seqno - 1]
    assert host.enclave._rejects.counts["fetched"] > 20
    assert any("host refused" in text for level, text in host.logs if level == "error")


@pytest.mark.parametrize(
    "lie",
    [
        pytest.param(lambda entries, n, data: entries[n - 3], id="an older entry in its place"),
        pytest.param(lambda entries, n, data: entries[n], id="the next entry in its place"),
        pytest.param(lambda entries, n, data: data[:-1], id="truncated"),
        pytest.param(lambda entries, n, data: b"", id="empty"),
        pytest.param(lambda entries, n, data: data + b"\0", id="with a byte more"),
        pytest.param(lambda entries, n, data: bytes(len(data)), id="zeros"),
    ],
)
def test_an_entry_that_is_not_the_one_asked_for_is_refused(
    service: tuple[Cluster, Host, str], lie: Callable[[list[bytes], int, bytes], bytes]
) -> None:
    cluster, host, transaction = service
    seqno = int(transaction.split(".")[1])
    entries = list(host.entries)
    host.read_back = lambda n, data: lie(entries, n, data) if n == seqno else data
    assert ask_receipt(cluster, host, transaction) == (503, "LedgerRangeRefused")


def test_entries_withheld_are_a_404_with_the_range_not_a_wait_for_ever(service: tuple[Cluster, Host, str]) -> None:
    cluster, host, transaction = service
    host.read_back = lambda n, data: None
    assert ask_receipt(cluster, host, transaction) == (404, "LedgerRangeMissing")


def test_a_signature_withheld_is_refused(service: tuple[Cluster, Host, str]) -> None:
    cluster, host, transaction = service
    seqno = int(transaction.split(".")[1])
    host.read_back = lambda n, data: data if n == seqno else None
    assert ask_receipt(cluster, host, transaction)[0] == 503


def test_an_entry_of_a_rolled_back_view_is_refused_though_it_was_once_sealed_and_signed_by_this_service() -> None:
    cluster = Cluster(app)
    hosts = cluster.start(3)
    cluster.run(0.3)
    old = hosts[0]

    def write(new: Host) -> list[str]:
        client = cluster.client(new)
        return [client.ask("PUT", f"/app/public/records/{n}", b"v", prefer="committed").headers[ID] for n in range(3)]

    fork, ids = rolled_back(cluster, hosts, "/app/public/records/k", write)
    # Now every entry that the fork had comes back in place of the committed one of the same seqno.
    old.read_back = lambda n, data: fork[n - 1] if n <= len(fork) else data
    forked = [transaction for transaction in ids if int(transaction.split(".")[1]) <= len(fork)]
    view3 = cluster.client(old).ask("GET", "/app/commit?view_history=true")
    starts = json.loads(view3.body)["view_history"]
    first_of_new_view = starts[-1]
    assert int(first_of_new_view.split(".")[1]) <= len(fork)
    for transaction in (*forked, first_of_new_view):
        assert ask_receipt(cluster, old, transaction) == (503, "LedgerRangeRefused")


def test_a_receipt_from_the_disk_is_the_one_given_at_commit(service: tuple[Cluster, Host, str]) -> None:
    cluster, host, transaction = service
    answer = cluster.client(host).ask("GET", f"/app/receipt?transaction_id={transaction}")
    verified = receipt.verify_json(answer.body, host.notices["service_certificate"])
    assert str(verified.transaction_id) == transaction


def test_the_receipt_of_the_last_signature_is_given_though_entries_after_it_are_not_committed(service: tuple[Cluster, Host, str]) -> None:
    cluster, host, _ = service
    signature = f"2.{host.committed}"
    host.stores = False  # what is written from now on stays uncommitted, and is on the disk all the same
    cluster.client(host).start("PUT", "/app/public/records/more", b"v")
    cluster.run(0.1)
    assert len(host.entries) > host.committed
    assert ask_receipt(cluster, host, signature) == (200, "")
    assert host.enclave._rejects.counts == {}


def test_a_lagging_peer_is_never_fed_what_the_primary_s_host_made_up() -> None:
    cluster = Cluster(app)
    first = cluster.start(1)[0]
    client = cluster.client(first)
    for number in range(40):
        client.ask("PUT", f"/app/records/{number}", b"v", prefer="committed")
    honest = {"on": False}
    first.read_back = lambda n, data: data if honest["on"] or n != 9 else flip(data, len(data) - 3)
    late = cluster.join("n1")
    cluster.until(lambda: any("host refused" in text for _, text in first.logs))
    cluster.run(0.3)
    assert late.entries == [] and late.stopped is None
    honest["on"] = True
    cluster.until(lambda: late.notices.get("open") == "yes")
    assert late.entries == first.entries[: len(late.entries)]


def test_a_host_that_claims_to_have_stored_what_it_was_never_given_is_counted_and_commits_nothing() -> None:
    from ledgerd.enclave import boundary

    cluster = Cluster(app)
    host = cluster.start(1)[0]
    host.stores = False
    client = cluster.client(host)
    client.start("PUT", "/app/records/k", b"v", prefer="committed")
    cluster.run(0.1)
    host.inbox.append(boundary.Stored(0, 2, 1_000_000))
    host.inbox.append(boundary.Stored(0, 3, len(host.entries)))
    cluster.run(0.1)
    assert client.answers == []
    assert host.enclave._rejects.counts["stored"] == 2
