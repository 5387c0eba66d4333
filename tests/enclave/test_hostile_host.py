"""Hosts, peers' operators and clients that do their worst: a typed refusal or nothing, never a wrong state and never a dead enclave."""

import json
from collections.abc import Callable

from ledgerd.apps.logging import app
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
