"""The set of nodes changes under the SDK's own decisions, in virtual time: in order, and in as many orders as there are seeds.

Writers know one node at first. After each run what was acknowledged stands once in everybody's ledger, whatever came between. Rules that
such a run must find broken are broken at the end.
"""

import json
import random
from collections import Counter
from functools import partial
from typing import Any

import pytest

from ledgerd.apps.logging import app
from ledgerd.enclave.consensus.core import Consensus
from ledgerd.enclave.consensus.quorum import majority, quorum_seqno
from ledgerd.ledger.audit import Auditor
from ledgerd.ledger.entry import read_public
from ledgerd.network.client.values import Budget
from support.cluster import Cluster, Host
from support.load import BUDGET, Load, urls_of
from support.members import SIGNED_AT, node_id, retire

LATENCY_SECONDS = 0.004
ELECTION_SECONDS = 1.0  # `support.cluster` configures it
NODES_MAX = 5
STEPS = 12


class Walk:
    """A service under load whose nodes come and go; a member's word and an operator's hand."""

    def __init__(self, budget: Budget, writers: int = 3) -> None:
        self.cluster = Cluster(app)
        (first,) = self.cluster.start(1, application_policy="open")
        self.cluster.run(0.1)
        self.cluster.latency = LATENCY_SECONDS
        self.load = Load(self.cluster, urls_of(self.cluster, [first]), writers, budget)
        self.members = [first]
        self.dead: list[Host] = []  # killed, and members still
        self.retired: list[Host] = []
        self._proposals = 0
        self.cluster.run(0.1)

    def up(self) -> list[Host]:
        return [host for host in self.members if host not in self.dead]

    def backups(self) -> list[Host]:
        primary = self.primary()
        return [host for host in self.up() if host is not primary]

    def primary(self) -> Host:
        """Whoever leads, once somebody does that has committed in its view."""
        return self._leader(self.up())

    def _leader(self, among: list[Host]) -> Host:
        found: list[Host] = []

        def is_settled() -> bool:
            found[:] = [host for host in among if serving(host) is not None and serving(host)._consensus.is_settled]
            return len(found) == 1

        self.cluster.until(is_settled)
        return found[0]

    def spares(self, host: Host) -> bool:
        """Whether each writer knows somebody else who is up. Operators are told to wait for that."""
        others = set(urls_of(self.cluster, [other for other in self.up() if other is not host]))
        return all(known & others for known in self.load.known)

    def join(self, count: int = 1) -> None:
        primary = self.primary()
        joiners = [self.cluster.join(f"j{len(self.cluster.hosts)}", primary.name) for _ in range(count)]
        self.cluster.until(lambda: all(host.notices.get("open") for host in joiners))
        self.members += joiners
        self.cluster.run(0.2)

    def retire(self, host: Host, *, through: Host | None = None, pause: float = 0.3) -> None:
        """Let a node go; stop it `pause` seconds after nobody needs it."""
        self._order(through or self.primary(), host)
        self.members.remove(host)
        if host in self.dead:
            self.dead.remove(host)
        else:
            self.cluster.until(lambda: "retired" in host.notices)
            self.retired.append(host)
            self.cluster.run(pause)
            self.cluster.kill(host)
        self.cluster.run(0.1)

    def _order(self, through: Host, *hosts: Host) -> None:
        self._proposals += 1
        answer = retire(self.cluster, through, *hosts, created_at=SIGNED_AT + self._proposals)
        assert answer.status == 200, answer.body

    def kill(self, host: Host) -> None:
        self.cluster.kill(host)
        self.dead.append(host)
        self.cluster.run(1.2)  # until it is noticed, and replaced if it led

    def order_apart(self) -> None:
        """Cut the primary off with less than half of the nodes, and order there that so many go that those would be a majority."""
        primary = self.primary()
        others = self.backups()
        side = {primary.name, *(host.name for host in others[: (len(self.members) - 1) // 2 - 1])}
        gone = [host for host in others if host.name not in side]
        while majority(len(self.members) - len(gone) + 1) <= len(side):
            gone.pop()
        self.cluster.cut = lambda a, b: (a.name in side) is not (b.name in side)
        self._order(primary, *gone)
        self._leader([host for host in self.up() if host.name not in side])
        self.cluster.run(0.5)
        self.cluster.cut = lambda a, b: False
        self.cluster.run(1.0)
        assert self.primary().name not in side, "there is one primary, and it is the majority's"

    def end(self) -> None:
        """All requests come to their end; then everybody up has the same ledger, with all that was acknowledged, once."""
        self.load.stop()
        self.cluster.run(1.0)
        assert not self.load.failures, "\n".join([*self.load.failures, *self.load.trace[-60:]])
        assert [host.name for host in self.members if host.stopped is not None] == []
        ledgers = {tuple(host.entries) for host in self.up()}
        assert len(ledgers) == 1
        (ledger,) = ledgers
        for host in (*self.retired, *self.dead):
            assert tuple(host.entries[: host.committed]) == ledger[: host.committed]
        auditor = Auditor(self.members[0].notices["service_certificate"])
        for data in ledger:
            auditor.feed(data)
        ids = [(entry.view, entry.seqno) for entry in map(read_public, ledger)]
        places = {f"{view}.{seqno}" for view, seqno in ids}
        assert {item.transaction_id for item in self.load.done} <= places
        assert max(Counter(item.transaction_id for item in self.load.done).values()) == 1
        client = self.cluster.client(self.primary())
        for item in self.load.done[:: len(self.load.done) // 20 or 1]:
            assert client.ask("GET", f"/app/records/{item.key}").body == b"value"
        shown = json.loads(client.ask("GET", "/node/network/nodes?status=Trusted").body)["nodes"]
        assert json.loads(client.ask("GET", "/node/network/nodes?status=Pending").body) == {"nodes": []}
        refused = client.ask("GET", "/node/network/nodes?status=trusted")
        assert (refused.status, json.loads(refused.body)["error"]["code"]) == (400, "InvalidQueryParameterValue")
        assert {node["node_id"] for node in shown} == {node_id(host) for host in self.members}


def serving(host: Host) -> Any:
    return host.enclave._serving


def in_order() -> None:
    """1, 3, 5, 3, 1, and then three others."""
    walk = Walk(BUDGET)
    walk.join(2)
    walk.join(2)
    walk.retire(walk.primary())
    walk.retire(walk.backups()[0])
    walk.retire(walk.primary())
    walk.retire(walk.primary())
    (last,) = walk.members
    walk.join(3)
    walk.retire(last)
    assert len(walk.retired) == 5
    assert len(walk.members) == 3
    walk.end()
    assert max(item.attempts for item in walk.load.done) > 1, "somebody was hit by it"
    assert max(item.seconds for item in walk.load.done) < ELECTION_SECONDS / 2, "nobody waited for an election timeout"
    assert all(known >= set(urls_of(walk.cluster, walk.members)) for known in walk.load.known), "the writers have learnt all nodes"


def apart() -> None:
    """A primary with one of four backups is told to go on without two of the others."""
    walk = Walk(Budget())
    walk.join(2)
    walk.join(2)
    walk.order_apart()
    walk.end()


def test_one_three_five_three_one_and_a_full_swap_cost_no_request_more_than_three_attempts() -> None:
    in_order()


def test_a_minority_cannot_make_itself_a_majority() -> None:
    apart()


@pytest.mark.parametrize("seed", range(3))
def test_nodes_come_go_and_die_in_any_order(seed: int) -> None:
    chance = random.Random(seed)
    walk = Walk(Budget())
    walk.join(2)
    for _ in range(STEPS):
        up, primary, backups = walk.up(), walk.primary(), walk.backups()
        choices = ["let time pass"]
        if len(walk.members) < NODES_MAX:
            choices += ["join", "join", "join twice"]
        if len(up) - 1 >= majority(len(walk.members) - 1) and backups:
            choices += ["retire the primary", "retire a backup", "retire through a backup"]
        if walk.dead:
            choices += ["retire a dead one"] * 3
        if len(up) - 1 >= majority(len(walk.members)):
            choices += ["kill the primary", "kill a backup"]
        if not walk.dead and len(up) >= 3:
            choices.append("order apart")
        step = chance.choice(choices)
        walk.load.trace.append(f"{walk.cluster.now:.3f} {step}: {len(up)} of {len(walk.members)} up")
        if step.startswith("join"):
            walk.join(2 if step == "join twice" else 1)
        elif step == "order apart":
            walk.order_apart()
        elif step == "retire a dead one":
            walk.retire(chance.choice(walk.dead))
        elif step == "let time pass":
            walk.cluster.run(1.0)
        else:
            host = primary if step.endswith("the primary") else chance.choice(backups)
            walk.cluster.until(partial(walk.spares, host))
            if step.startswith("kill"):
                walk.kill(host)
            else:
                through = chance.choice(backups) if step == "retire through a backup" else None
                walk.retire(host, through=through, pause=chance.choice([0.0, 0.3]))
    walk.end()


@pytest.mark.parametrize("number", range(4))
def test_writes_go_on_within_two_seconds_of_a_killed_primary(number: int) -> None:
    """By a node's defaults. Real processes, whose machine may be busy, are not held to it (`tests/end_to_end/test_kill.py`)."""
    walk = Walk(Budget())
    walk.join(2)
    victim = walk.primary()
    walk.cluster.until(partial(walk.spares, victim))
    walk.cluster.run(0.1 * number)
    before, killed_at = len(walk.load.done), walk.cluster.now
    last = walk.load.done[-1].transaction_id.partition(".")[0]
    walk.cluster.kill(victim)
    walk.dead.append(victim)
    walk.cluster.until(lambda: any(item.transaction_id.partition(".")[0] != last for item in walk.load.done[before:]))
    assert walk.cluster.now - killed_at < 2.0
    walk.end()


# What these runs are for.


def commit_by_the_newest_configuration(self: Any) -> None:
    """Instead of `_advance_commit`: a majority of the newest configuration is enough."""
    stored = {node: peer.match for node, peer in self._peers.items()} | {self.node_id: self.stored_seqno}
    reached = quorum_seqno(self._configurations[-1].nodes, stored)
    final = [seqno for seqno in self._log.committables if self._view_start <= seqno <= reached]
    if final:
        self._commit(final[-1])


def test_commit_by_the_newest_configuration_alone_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Consensus, "_advance_commit", commit_by_the_newest_configuration)
    with pytest.raises(AssertionError):  # two primaries, forked ledgers, or a service that stands still: by whose turn it is
        apart()


def test_a_primary_that_leaves_without_naming_a_successor_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Consensus, "propose_successor", lambda self: None)
    with pytest.raises(AssertionError):  # somebody waited for an election timeout, or gave up before
        in_order()
