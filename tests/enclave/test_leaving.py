"""A node leaves: phases, records, what it answers afterwards, and that nobody who dies in between stops it."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from ledgerd.apps.logging import app
from ledgerd.enclave import boundary
from ledgerd.enclave.leaving import RETIRED_SECONDS, check_quorum
from ledgerd.enclave.outbound import Answer
from ledgerd.governance import requests, tables
from ledgerd.governance.actions import REMOVE_NODE, Action
from ledgerd.ledger.errors import RequestError
from ledgerd.ledger.ids import NodeId
from support.cluster import Cluster, Host
from support.members import CREATE, SIGNED_AT, envelope, node_id, retire

RETIRED = "this node is retired and may be stopped"
PHASES = ("Ordered", "Signed", "Completed")


def start(nodes: int, latency: float = 0.0) -> tuple[Cluster, list[Host]]:
    cluster = Cluster(app)
    hosts = cluster.start(nodes)
    cluster.run(0.3)
    cluster.latency = latency
    return cluster, hosts


def code(answer: Answer) -> tuple[int, str]:
    return answer.status, json.loads(answer.body)["error"]["code"]


def ask(cluster: Cluster, host: Host, path: str) -> Any:
    return json.loads(cluster.client(host).ask("GET", path).body)


def consensus(host: Host) -> Any:
    """A node's own view of consensus, without a request, which would take virtual time."""
    serving = host.enclave._serving
    return serving.status.consensus_details() if serving is not None else {"leadership_state": "None"}


def phase(host: Host) -> str:
    text: str = consensus(host).get("retirement_phase", "")
    return text


def primary(cluster: Cluster) -> Host | None:
    """Whoever leads the latest view, if anybody does."""
    leading = [host for host in cluster.hosts.values() if host.alive and consensus(host)["leadership_state"] == "Leader"]
    return max(leading, key=lambda host: consensus(host)["current_view"], default=None)


def primary_after(cluster: Cluster, dying: Host, writing: Host) -> Host:
    """Wait for a primary's end; who leads after it, and has committed something."""
    cluster.until(lambda: not dying.alive)
    cluster.until(lambda: primary(cluster) is not None)
    assert put(cluster, writing) == 204
    cluster.run(0.3)
    new = primary(cluster)
    assert new is not None
    return new


def removable(cluster: Cluster, host: Host) -> list[str]:
    return [node["node_id"] for node in ask(cluster, host, "/node/network/removable_nodes")["nodes"]]


def delete(cluster: Cluster, host: Host, node: str) -> Answer:
    return cluster.client(host).ask("DELETE", f"/node/network/nodes/{node}")


def put(cluster: Cluster, host: Host, key: str = "k") -> int:
    return cluster.client(host).ask("PUT", f"/app/records/{key}", b"v", prefer="committed").status


def order(cluster: Cluster, node: Host | str, at: Host) -> None:
    """Propose that a node leaves and wait for nothing. A write goes before: its signature is on its way, so that the next one waits."""
    cluster.client(at).start("PUT", "/app/records/before", b"v")
    cluster.until(lambda: bool(consensus_of(at).committables))
    body = envelope(cluster.member, Action(REMOVE_NODE, node if isinstance(node, str) else node_id(node)))
    cluster.client(at).start("POST", CREATE, body, content_type=requests.CONTENT_TYPE)


def consensus_of(host: Host) -> Any:
    serving = host.enclave._serving
    assert serving is not None
    return serving._consensus


def said(host: Host, text: str) -> int:
    return sum(text in line for _, line in host.logs)


def is_retired(host: Host) -> bool:
    return "retired" in host.notices


# One node after the other.


def test_a_backup_leaves_through_all_phases_and_its_record_is_deleted() -> None:
    cluster, (n0, n1, n2) = start(3, latency=0.004)
    seen: list[str] = []

    def watch() -> bool:
        if n2.alive and phase(n2) not in seen:
            seen.append(phase(n2))
        return False

    cluster.watchers.append(watch)
    assert retire(cluster, n0, n2).status == 200
    name = node_id(n2)
    assert code(delete(cluster, n0, name)) == (400, "NodeNotRetiredCommitted")
    cluster.until(lambda: is_retired(n2))
    cluster.run(0.2)
    assert seen == ["", "Signed", "Completed", "RetiredCommitted"]  # its entry comes with the signature over it, not before
    assert said(n2, RETIRED) == 1

    details = ask(cluster, n2, "/node/consensus")["details"]
    assert (details["membership_state"], details["retirement_phase"]) == ("Retired", "RetiredCommitted")
    for host in (n0, n1):
        details = ask(cluster, host, "/node/consensus")["details"]
        assert details["membership_state"] == "Active"
        assert "retirement_phase" not in details
        assert [set(configuration["nodes"]) for configuration in details["configs"]] == [{node_id(n0), node_id(n1)}]
        (shown,) = ask(cluster, host, "/node/network/removable_nodes")["nodes"]
        assert shown.keys() == {"node_id", "status", "primary", "node_data", "last_written", "rpc_interfaces"}
        assert (shown["node_id"], shown["status"], shown["primary"]) == (name, "Retired", False)

    answer = delete(cluster, n1, name)  # a backup passes it on
    assert (answer.status, json.loads(answer.body)) == (200, True)
    cluster.run(0.2)
    assert removable(cluster, n1) == []
    assert code(cluster.client(n1).ask("GET", f"/node/network/nodes/{name}")) == (404, "ResourceNotFound")
    assert code(delete(cluster, n0, name)) == (404, "ResourceNotFound")
    assert put(cluster, n0) == 204
    # Two nodes need both for a commit; so the one that left does not count any more.
    cluster.kill(n2)
    assert put(cluster, n1) == 204


def test_a_retired_node_shows_clients_the_way_and_speaks_of_itself_only() -> None:
    cluster, (n0, _, n2) = start(3)
    before = cluster.client(n2)
    before.ask("PUT", "/app/records/k", b"v", prefer="committed")
    retire(cluster, n0, n2)
    cluster.until(lambda: is_retired(n2))
    for client in (before, cluster.client(n2, cluster.user)):
        for method, path in (
            ("GET", "/app/records/k"),
            ("PUT", "/app/records/k"),
            ("GET", "/node/network"),
            ("GET", "/app/tx?transaction_id=2.5"),
            ("POST", "/gov/members/proposals:create?api-version=2024-07-01"),
            ("POST", "/node/join"),
        ):
            answer = client.ask(method, path, b"v" if method != "GET" else b"")
            assert code(answer) == (307, "NodeRetired")
            assert answer.headers["location"] == f"https://n0.rpc:8001{path}"
    state = ask(cluster, n2, "/node/state")
    assert (state["retired"], state["node_id"]) == (True, node_id(n2))
    assert ask(cluster, n0, "/node/state")["retired"] is False
    assert cluster.client(n2).ask("GET", "/node/ready/app").status == 503
    assert cluster.client(n0).ask("GET", "/node/ready/app").status == 204


def test_a_retired_node_ends_and_its_keys_with_it() -> None:
    cluster, (n0, _, n2) = start(3)
    retire(cluster, n0, n2)
    cluster.until(lambda: is_retired(n2))
    cluster.run(RETIRED_SECONDS - 1)
    assert n2.alive
    cluster.run(2)
    assert (n2.alive, n2.stopped) == (False, 0)
    assert put(cluster, n0) == 204


def test_channels_of_a_retired_node_are_refused_afterwards() -> None:
    cluster, (n0, n1, n2) = start(3)
    retire(cluster, n0, n2)
    cluster.until(lambda: is_retired(n2))
    cluster.run(1.0)
    for host in (n0, n1):
        assert said(host, f"node {node_id(n2)[:16]}... ended: the node is retired") == 2  # both directions, once each
    serving: Any = n2.enclave._serving
    serving._wanted_peers = lambda: serving._consensus.peers  # as if it wanted to go on
    cluster.run(3.0)
    assert all(said(host, f"node {node_id(n2)[:16]}... is retired") > 0 for host in (n0, n1))
    assert [consensus(host)["current_view"] for host in (n0, n1)] == [2, 2]


def test_a_node_that_is_down_is_retired_without_it() -> None:
    cluster, (n0, n1, n2) = start(3)
    cluster.kill(n2)
    assert retire(cluster, n0, n2).status == 200
    cluster.run(0.2)
    assert removable(cluster, n0) == [node_id(n2)]
    cluster.kill(n1)
    cluster.run(0.1)
    assert cluster.client(n0).ask("PUT", "/app/records/k", b"v", prefer="committed, wait=1").status == 202, "two of two are needed now"


@pytest.mark.parametrize("is_deleted", [False, True])
def test_a_retired_id_is_never_admitted_again_be_its_record_deleted_or_not(is_deleted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, (n0, _, n2) = start(3)
    retire(cluster, n0, n2)
    cluster.until(lambda: is_retired(n2))
    if is_deleted:
        assert delete(cluster, n0, node_id(n2)).status == 200
    # A genuine enclave, a genuine document, and the key of the one that left.
    monkeypatch.setattr("ledgerd.enclave.core.NodeKeys", lambda curve: n2.enclave._keys)
    again = cluster.join("again")
    cluster.until(lambda: again.stopped is not None)
    assert node_id(again) == node_id(n2)
    assert "NodeAlreadyExists" in again.notices["refused"] or "is for good no more" in again.notices["refused"]
    assert node_id(n2) not in trusted(cluster, n0)


def test_who_is_admitted_while_the_primary_leaves_learns_where_that_is(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, (n0, n1, n2) = start(3)
    cluster.cut = lambda a, b: n0 in (a, b) and all(host in (n0, n1, n2) for host in (a, b))  # so that nothing commits
    serving = n0.enclave._serving
    assert serving is not None
    records = serving._replica.store.map(tables.NODE_INFO)
    key = node_id(n0).encode()
    record = {**tables.decode(records.get(key) or b""), "status": tables.RETIRED, "retired_committed": True}
    serving._apply_and_propose({tables.NODE_INFO: {key: tables.encode(record)}})
    # The trust of this one is committed already, so it is given the secrets at once.
    monkeypatch.setattr("ledgerd.enclave.core.NodeKeys", lambda curve: n2.enclave._keys)
    again = cluster.join("again")
    cluster.until(lambda: again.enclave._serving is not None)
    assert again.enclave._serving is not None
    assert again.enclave._serving._joined_peers == {node_id(n0), node_id(n1)}


# A primary that leaves.


def test_a_primary_that_leaves_names_its_successor_and_writes_go_on_without_an_election_timeout() -> None:
    cluster, (n0, n1, n2) = start(3, latency=0.004)
    assert put(cluster, n1) == 204
    assert retire(cluster, n0, n0).status == 200
    cluster.until(lambda: is_retired(n0))
    begun = cluster.now
    cluster.until(lambda: primary(cluster) in (n1, n2))
    assert cluster.now - begun < 0.05, "an election timeout is 0.5 to 1 s"
    assert put(cluster, n1) == 204
    assert consensus(n1)["current_view"] == 3
    assert removable(cluster, n1) == [node_id(n0)]
    new = primary(cluster)
    assert new is not None
    answer = cluster.client(n0).ask("GET", "/app/records/k")
    assert answer.headers["location"].startswith(f"https://{new.name}.rpc:"), "it names the primary"


class Writers:
    """Clients of a node that each write once, as many as wanted in each of its phases: one in a step."""

    def __init__(self, cluster: Cluster, host: Host, **wanted: int) -> None:
        self.clients = [(at, cluster.client(host)) for at, count in wanted.items() for _ in range(count)]
        self._waiting = list(enumerate(self.clients))
        self._host = host
        cluster.watchers.append(self._step)

    def _step(self) -> bool:
        for item in self._waiting:
            number, (at, client) = item
            if self._host.alive and phase(self._host) == at:
                client.start("PUT", f"/app/records/{number}", b"v", prefer="committed")
                self._waiting.remove(item)
                return True
        return False

    def answered(self) -> bool:
        return not self._waiting and all(client.answers for _, client in self.clients)

    def answers(self) -> list[Answer]:
        return [client.answers[0] for _, client in self.clients]


def test_the_last_writes_of_a_primary_that_leaves_are_committed_or_answered_with_where_to_go() -> None:
    cluster, (n0, *_) = start(3, latency=0.004)
    writers = Writers(cluster, n0, Completed=20, RetiredCommitted=5)
    retire(cluster, n0, n0)
    cluster.until(writers.answered)
    assert {answer.status for answer in writers.answers()} == {204, 307, 409}
    new = primary(cluster)
    assert new is not None
    for number, answer in enumerate(writers.answers()):
        found = cluster.client(new).ask("GET", f"/app/records/{number}").status
        assert found == (200 if answer.status == 204 else 404)
        if answer.status != 204:
            assert answer.headers["location"].startswith("https://n")


def test_a_retired_primary_that_hears_nothing_more_says_that_it_does_not_know() -> None:
    cluster, (n0, *_) = start(3, latency=0.004)
    cluster.cut = lambda a, b: n0 in (a, b) and phase(n0) == "RetiredCommitted"
    writers = Writers(cluster, n0, Completed=20)
    retire(cluster, n0, n0)
    cluster.until(writers.answered)
    assert {answer.status for answer in writers.answers()} == {204, 504}
    for answer in writers.answers():
        if answer.status == 504:
            assert code(answer) == (504, "OutcomeUnknown")
            assert answer.headers["location"].startswith("https://n")
            assert answer.headers["x-ms-ccf-transaction-id"].startswith("2.")


def test_a_host_that_is_told_to_stop_hands_over_first() -> None:
    cluster, (n0, n1, n2) = start(3, latency=0.004)
    put(cluster, n0)
    begun = cluster.now
    n0.inbox.append(boundary.Stopping())
    cluster.until(lambda: n0.stopped is not None)
    cluster.until(lambda: primary(cluster) in (n1, n2))
    assert n0.stopped == 0
    assert cluster.now - begun < 0.05
    assert put(cluster, n1) == 204
    # Whoever is no primary, or has nobody to hand over to, stops at once; and nobody waits for a successor that does not come.
    backup = n1 if primary(cluster) is n2 else n2
    backup.inbox.append(boundary.Stopping())
    cluster.until(lambda: backup.stopped is not None)
    last = n2 if backup is n1 else n1
    begun = cluster.now
    last.inbox.append(boundary.Stopping())
    cluster.until(lambda: last.stopped is not None)
    assert (last.stopped, cluster.now - begun < 0.4) == (0, True)


# Deaths in between.


def kill_at(cluster: Cluster, reached: Callable[[], bool], victim: Host) -> None:
    """Kill a node in the very step in which something holds."""

    def watch() -> bool:
        if victim.alive and reached():
            cluster.kill(victim)
            return True
        return False

    cluster.watchers.append(watch)


def reached(host: Host, name: str, at: str) -> bool:
    """Whether the retirement of the node `name` has got to phase `at`, as another node sees it."""
    serving: Any = host.enclave._serving
    store = serving._replica.store
    record = tables.decode(store.get(tables.NODE_INFO, name.encode()))
    version = store.map(tables.NODE_INFO).version_of(name.encode())
    if record["status"] != tables.RETIRED:
        return False
    signed = consensus_of(host).committables[-1:] > (version,)
    found: bool = {"Ordered": True, "Signed": signed, "Completed": consensus_of(host).commit_seqno > version}[at]
    return found


@pytest.mark.parametrize("at", PHASES)
def test_a_new_primary_goes_on_with_the_retirement_that_the_last_one_began(at: str) -> None:
    cluster, (n0, n1, _, n3, leaver) = start(5, latency=0.004)
    name = node_id(leaver)
    kill_at(cluster, lambda: reached(n0, name, at), n0)
    order(cluster, leaver, n0)
    new = primary_after(cluster, n0, n1)
    if at != "Completed" and not is_retired(leaver):  # nobody had the entry but the dead one: it is as if it had never been asked for
        assert phase(leaver) == ""
        assert removable(cluster, new) == []
        assert retire(cluster, new, leaver, created_at=SIGNED_AT + 1).status == 200
    cluster.until(lambda: is_retired(leaver))
    cluster.run(0.2)
    assert removable(cluster, n1) == [name]
    cluster.run(1.1)  # until the dead one is not taken for live any more
    leading = primary(cluster)
    assert leading is not None
    assert retire(cluster, leading, n0, created_at=SIGNED_AT + 2).status == 200
    cluster.run(0.3)
    assert removable(cluster, n1) == sorted([name, node_id(n0)])
    assert put(cluster, n3) == 204


@pytest.mark.parametrize("at", PHASES)
def test_a_primary_that_dies_while_it_leaves_is_removed_by_the_next_one(at: str) -> None:
    cluster, (n0, n1, n2) = start(3, latency=0.004)
    name = node_id(n0)
    kill_at(cluster, lambda: phase(n0) == at, n0)
    order(cluster, n0, n0)
    new = primary_after(cluster, n0, n1)
    if at != "Completed" and removable(cluster, new) == []:
        assert retire(cluster, new, name, created_at=SIGNED_AT + 1).status == 200
        cluster.run(0.3)
    assert removable(cluster, n2) == [name]


@pytest.mark.parametrize("heard_by", ["nobody", "one", "both"])
def test_whether_the_next_primary_knows_of_it_decides_what_becomes_of_a_retirement(heard_by: str) -> None:
    """A signed retirement that a majority has is final, one that nobody else has is undone; in between the next primary's log decides."""
    cluster, (n0, n1, n2) = start(3, latency=0.004)
    deaf = {"nobody": (n1, n2), "one": (n2,), "both": ()}[heard_by]
    cluster.cut = lambda a, b: a is n0 and b in deaf and phase(n0) == "Signed"
    kill_at(cluster, lambda: phase(n0) == "Signed", n0)  # what has left it still arrives
    order(cluster, n0, n0)
    cluster.until(lambda: not n0.alive)
    cluster.cut = lambda a, b: False
    cluster.until(lambda: primary(cluster) is not None)
    assert put(cluster, n1) == 204
    cluster.run(0.3)
    assert removable(cluster, n1) == removable(cluster, n2) == ([] if heard_by == "nobody" else [node_id(n0)])


def test_a_retirement_ordered_by_a_primary_without_its_backups_is_undone() -> None:
    cluster, (n0, n1, n2) = start(3)
    cluster.cut = lambda a, b: n0 in (a, b)
    assert retire(cluster, n0, n1).status == 200  # executed, not committed, and never to be
    assert ask(cluster, n0, f"/node/network/nodes/{node_id(n1)}")["status"] == "Retired"
    cluster.until(lambda: primary(cluster) in (n1, n2))
    assert put(cluster, n2) == 204
    cluster.cut = lambda a, b: False
    cluster.run(1.0)
    for host in (n0, n1, n2):
        assert ask(cluster, host, f"/node/network/nodes/{node_id(n1)}")["status"] == "Trusted"
        assert phase(host) == ""
    assert put(cluster, n1) == 204


def test_a_retired_node_that_was_never_told_disturbs_nobody_when_it_is_heard_again() -> None:
    cluster, (n0, n1, n2) = start(3)
    cluster.cut = lambda a, b: n2 in (a, b)
    cluster.run(1.1)
    assert retire(cluster, n0, n2).status == 200
    cluster.run(0.3)
    assert removable(cluster, n0) == [node_id(n2)]
    assert phase(n2) == ""
    cluster.cut = lambda a, b: False  # it stands for election, with a view that may be ahead of theirs; what it says is not heard
    cluster.run(5.0)
    assert [consensus(host)["current_view"] for host in (n0, n1)] == [2, 2]
    assert consensus(n0)["leadership_state"] == "Leader"
    assert not is_retired(n2)
    assert put(cluster, n1) == 204


# Joiners in the middle.


@pytest.mark.parametrize(
    ("leaver", "at"), [("n0", "Ordered"), ("n0", "Signed"), ("n0", "Completed"), ("n2", "Signed"), ("n2", "Completed")]
)
def test_a_node_joins_while_another_leaves(leaver: str, at: str) -> None:
    cluster, hosts = start(3, latency=0.004)
    leaving = cluster.hosts[leaver]
    joiners: list[Host] = []

    def watch() -> bool:
        if not joiners and phase(leaving) == at:
            joiners.append(cluster.join("late", "n1"))
            return True
        return False

    cluster.watchers.append(watch)
    order(cluster, leaving, hosts[0])
    cluster.until(lambda: bool(joiners))
    (joiner,) = joiners
    cluster.until(lambda: is_retired(leaving) and joiner.notices.get("open") is not None)
    assert put(cluster, joiner) == 204
    cluster.run(0.5)
    assert joiner.entries == hosts[1].entries
    members = set(consensus(joiner)["configs"][-1]["nodes"])
    assert members == {node_id(host) for host in (*hosts, joiner) if host is not leaving}


def test_a_node_leaves_while_it_is_still_catching_up() -> None:
    cluster, (n0, n1, _) = start(3)
    joiner = cluster.join("late")
    joiner.stores = False  # its disk stands still, so it acknowledges nothing
    cluster.until(lambda: node_id_or_none(joiner) in trusted(cluster, n0))
    assert put(cluster, n1) == 204
    assert retire(cluster, n0, joiner).status == 200
    cluster.run(0.3)
    assert removable(cluster, n0) == [node_id(joiner)]
    assert put(cluster, n1) == 204


def node_id_or_none(host: Host) -> str | None:
    return host.notices.get("node_id")


def trusted(cluster: Cluster, host: Host) -> set[str]:
    return {node["node_id"] for node in ask(cluster, host, "/node/network/nodes?status=Trusted")["nodes"]}


def test_a_joiner_finds_the_primary_though_the_old_ledger_does_not_name_it() -> None:
    """After a full swap the first entries name nodes that are gone. A joiner whose channels break while it reads them finds its way."""
    cluster, (n0,) = start(1)
    cluster.join("a")
    cluster.until(lambda: cluster.hosts["a"].notices.get("open") is not None)
    put(cluster, n0)
    retire(cluster, n0, n0)
    cluster.until(lambda: is_retired(n0))
    cluster.kill(n0)
    joiner = cluster.join("b", "a")
    cluster.until(lambda: any("is trusted and catches up" in text for _, text in joiner.logs))
    for stream in [stream for stream in joiner.streams if stream < 0]:
        cluster.close_stream(joiner, stream)
    cluster.until(lambda: joiner.notices.get("open") is not None)
    assert put(cluster, joiner) == 204


# The rule about quorums, by itself.


@pytest.mark.parametrize(
    ("before", "after", "live", "refused"),
    [
        ("a", "", "a", "LastNode"),
        ("ab", "a", "ab", None),
        ("ab", "a", "a", None),  # b is down; its removal cannot be committed, but that is another matter
        ("abc", "ab", "ab", None),  # the one that goes is down
        ("abc", "ab", "ac", "TooFewLiveNodes"),
        ("abcde", "abcd", "abc", None),
        ("abcde", "abcd", "abe", "TooFewLiveNodes"),
        ("abcde", "abc", "ab", None),
        ("abcde", "ab", "abcde", None),
        ("abc", "abcd", "ab", None),  # nobody leaves
        ("abc", "de", "abc", None),  # a full swap: whoever is new has just asked to join
    ],
)
def test_who_may_leave(before: str, after: str, live: str, refused: str | None) -> None:
    def nodes(names: str) -> frozenset[NodeId]:
        return frozenset(map(NodeId, names))

    if refused is None:
        check_quorum(nodes(before), nodes(after), nodes(live))
        return
    with pytest.raises(RequestError) as error:
        check_quorum(nodes(before), nodes(after), nodes(live))
    assert error.value.error_code == refused
