"""Hosts, peers' operators and clients that do their worst: a typed refusal or nothing, never a wrong state and never a dead enclave."""

import json
from collections.abc import Callable

import msgpack
import pytest

from ledgerd.apps.logging import app
from ledgerd.enclave import boundary
from ledgerd.enclave.archive import RECEIPTS_MAX
from ledgerd.enclave.boundary import CLIENT
from ledgerd.enclave.serving import DOCUMENTS_MAX
from ledgerd.enclave.tls import PIPELINE_PROTOCOL, TlsContext
from support.cluster import Client, Cluster, Host

ID = "x-ms-ccf-transaction-id"


class Wires:
    """Lets a network keep back what it carries, in order, and hand it over later: nothing is lost, so channels live on."""

    def __init__(self, cluster: Cluster) -> None:
        self.kept: list[tuple[Host, int, bytes]] = []
        self.keeps: Callable[[Host, Host], bool] = lambda a, b: False
        self._carry = cluster._carry
        cluster._carry = self.carry  # type: ignore[method-assign]

    def carry(self, host: Host, stream: int, data: bytes) -> None:
        end = host.streams.get(stream, (None, 0))[0]
        if isinstance(end, Host) and (self.keeps(host, end) or any(kept[:2] == (host, stream) for kept in self.kept)):
            self.kept.append((host, stream, data))
        else:
            self._carry(host, stream, data)

    def allow(self, keeps: Callable[[Host, Host], bool]) -> None:
        """From now on keep back between these only; what was kept for others goes its way."""
        self.keeps = keeps
        kept, self.kept = self.kept, []
        for host, stream, data in kept:
            self.carry(host, stream, data)


def all_but(*groups: set[str]) -> Callable[[Host, Host], bool]:
    """Keeps back everything but within each group."""
    return lambda a, b: not any(a.name in group and b.name in group for group in groups)


def status(client: Client, transaction: str) -> str:
    answer: str = json.loads(client.ask("GET", f"/app/tx?transaction_id={transaction}").body)["status"]
    return answer


def leader(cluster: Cluster, *names: str) -> Host:
    """Run until one of these is primary."""
    hosts = [cluster.hosts[name] for name in names]
    for host in hosts:
        host.notices.pop("role", None)
    cluster.until(lambda: any(host.notices.get("role") == "primary" for host in hosts))
    return next(host for host in hosts if host.notices.get("role") == "primary")


# What is final and what is not.


def test_invalid_is_never_said_of_what_a_later_primary_may_still_commit() -> None:
    cluster = Cluster(app)
    old, *_ = cluster.start(3)
    cluster.run(0.3)
    wires = Wires(cluster)
    wires.allow(all_but({"n1", "n2"}))
    transaction = cluster.client(old).ask("PUT", "/app/records/k", b"v").headers[ID]
    new = leader(cluster, "n1", "n2")
    other = ({"n1", "n2"} - {new.name}).pop()
    wires.allow(all_but())  # before anything of the new view reaches the other
    cluster.run(0.1)
    assert len(new.entries) >= int(transaction.split(".")[1]), "the new primary has an entry of its own in that place"
    said = status(cluster.client(new), transaction)
    cluster.run(2)
    new.alive = False
    wires.allow(all_but({"n0", other}))
    cluster.until(lambda: status(cluster.client(old), transaction) == "Committed")
    assert said == "Unknown"


def test_a_client_is_not_told_that_a_write_was_undone_while_another_node_may_still_commit_it() -> None:
    cluster = Cluster(app)
    old, *_ = cluster.start(5)
    cluster.run(0.3)
    wires = Wires(cluster)
    wires.allow(all_but({"n0", "n1"}, {"n2", "n3", "n4"}))
    client = cluster.client(old)
    client.start("PUT", "/app/records/k", b"v", prefer="committed")
    cluster.run(0.2)
    new = leader(cluster, "n2", "n3", "n4")
    rest = sorted({"n2", "n3", "n4"} - {new.name})
    wires.allow(all_but({"n0", new.name}))
    cluster.until(lambda: any("no longer primary" in text for _, text in old.logs))
    cluster.run(0.3)
    assert old.entries[-1] == new.entries[-1], "the write was rolled back where the client waits for it"
    assert client.answers == []
    new.alive = False
    wires.allow(all_but({"n1", *rest}))
    leader(cluster, "n1", *rest)
    wires.allow(all_but({"n0", "n1", *rest}))
    cluster.until(lambda: client.answers != [])
    assert client.answers[0].status == 204
    assert status(cluster.client(cluster.hosts["n1"]), client.answers[0].headers[ID]) == "Committed"


# What many can ask for at little cost.


class Pipeline(Client):
    """A client that sends many requests in one stream of bytes, as `ledgerd/1` allows."""

    def __init__(self, cluster: Cluster, host: Host) -> None:
        self.got: list[tuple[int, bytes]] = []
        self.is_closed = False
        self._host = host
        self._buffer = bytearray()
        self._tls = TlsContext.for_dialled(protocols=[PIPELINE_PROTOCOL]).connection(lambda chain: None)
        self._stream = cluster.open_stream(self, 0, host, CLIENT)
        self._flush()
        cluster.until(lambda: self._tls.established)

    def send(self, *requests: tuple[str, str, dict[str, str], bytes]) -> None:
        """Hand over method, target, headers and body of each in one go."""
        frames = [msgpack.packb([number, *request]) for number, request in enumerate(requests)]
        self._tls.write(b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames))
        self._flush()

    def received(self, data: bytes) -> None:
        for chunk in self._tls.feed(data):
            self._buffer += chunk
        while len(self._buffer) >= 4 and len(self._buffer) >= (size := 4 + int.from_bytes(self._buffer[:4], "big")):
            _, status, _, body = msgpack.unpackb(bytes(self._buffer[4:size]))
            self.got.append((status, body))
            del self._buffer[:size]
        self._flush()

    def _flush(self) -> None:
        data = self._tls.take_output()
        if data:
            self._host.inbox.append(boundary.Received(self._stream, data))


@pytest.fixture
def single() -> tuple[Cluster, Host]:
    """A service of one node."""
    cluster = Cluster(app)
    return cluster, cluster.start(1)[0]


def test_documents_for_anybody_are_bounded_and_the_rest_hear_that_the_node_is_busy(single: tuple[Cluster, Host]) -> None:
    cluster, host = single
    client = Pipeline(cluster, host)
    asked = DOCUMENTS_MAX + 36
    client.send(*[("GET", f"/node/attestations/self?nonce={'00' * 32}", {}, b"")] * asked)
    cluster.until(lambda: len(client.got) == asked)
    statuses = [status for status, _ in client.got]
    assert statuses.count(200) == DOCUMENTS_MAX
    assert statuses.count(503) == 36
    client.send(("GET", f"/node/attestations/self?nonce={'00' * 32}", {}, b""))
    cluster.until(lambda: len(client.got) == asked + 1)
    assert client.got[-1][0] == 200, "and it is not busy for ever"


def test_receipts_from_the_disk_are_bounded_while_the_host_does_not_answer(single: tuple[Cluster, Host]) -> None:
    cluster, host = single
    transaction = cluster.client(host).ask("PUT", "/app/records/k", b"v", prefer="committed").headers[ID]
    silence = cluster._read
    cluster._read = lambda host, fetch: []  # type: ignore[method-assign]
    client = Pipeline(cluster, host)
    asked = RECEIPTS_MAX + 44
    client.send(*[("GET", f"/app/receipt?transaction_id={transaction}", {}, b"")] * asked)
    cluster.until(lambda: len(client.got) == asked)
    statuses = [status for status, _ in client.got]
    assert statuses.count(404) == RECEIPTS_MAX
    assert statuses.count(503) == 44
    cluster._read = silence  # type: ignore[method-assign]
    client.send(("GET", f"/app/receipt?transaction_id={transaction}", {}, b""))
    cluster.until(lambda: len(client.got) == asked + 1)
    assert client.got[-1][0] == 200
