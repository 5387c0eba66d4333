"""Nodes come and go while clients write: 1, 3, 5, 3, 1, and then all others, by the command line and the SDK; real processes.

Afterwards the ledger itself is read: what was acknowledged stands in it, once. At the end everything is stopped, and nothing begins again
by itself. Not here: how few attempts and how little time a request costs (`tests/enclave/test_membership.py`).
"""

import collections
import itertools
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ledgerd.ledger.audit import Auditor
from ledgerd.ledger.entry import read_public
from ledgerd.network.client import Answer, Budget, Call, Client, ClientError
from support.command_line import Ran, run
from support.processes import ENDING_SECONDS_MAX, Node, Service, wait_for

BUDGET = Budget(seconds=60.0, attempts=20, attempt_seconds=20.0)
WRITERS = 3
MAP = "public:records"
THINK_SECONDS = 0.005
BETWEEN = 20  # acknowledged writes of every client between two changes


class Writer:
    """One client that writes new keys, one after the other, or many at a time over one connection."""

    def __init__(self, service: Service, name: str, *, pipelined: bool = False) -> None:
        self.name = name
        self.written: list[tuple[str, str]] = []  # key, transaction id
        self.problems: list[str] = []
        self._stopping = threading.Event()
        first = service.nodes[0].url  # all others it has to learn
        self._client = Client(first, service_certificate=service.certificate, budget=BUDGET)
        self._thread = threading.Thread(target=self._pipeline if pipelined else self._write)
        self._thread.start()

    def _write(self) -> None:
        for count in itertools.count():
            if self._stopping.is_set() or self.problems:
                return
            key = f"{self.name}-{count}"
            self._stopping.wait(THINK_SECONDS)
            try:
                self._take(key, self._client.submit("PUT", f"/app/public/records/{key}", key))
            except ClientError as error:
                self.problems.append(f"{key}: {type(error).__name__}: {error}")

    def _pipeline(self) -> None:
        for index, result in self._client.submit_many(self._calls(), window=8):
            if isinstance(result, Answer):
                self._take(f"{self.name}-{index}", result)
            else:
                self.problems.append(f"{self.name}-{index}: {type(result).__name__}: {result}")

    def _calls(self) -> Iterator[Call]:
        for count in itertools.count():
            if self._stopping.wait(THINK_SECONDS) or self.problems:
                return
            yield Call("PUT", f"/app/public/records/{self.name}-{count}", f"{self.name}-{count}".encode())

    def _take(self, key: str, answer: Answer) -> None:
        assert answer.committed
        self.written.append((key, str(answer.transaction_id)))

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        self._client.close()

    @property
    def knows(self) -> set[str]:
        return set(self._client.nodes)


class Load:
    """All writers."""

    def __init__(self, service: Service) -> None:
        self.writers = [Writer(service, f"w{number}") for number in range(WRITERS)]
        self.writers.append(Writer(service, "pipelined", pipelined=True))

    def __enter__(self) -> "Load":
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self.writers:
            writer.stop()

    def problems(self) -> list[str]:
        return [problem for writer in self.writers for problem in writer.problems]

    def goes_on(self) -> None:
        """Every client writes some more, and none has had a request that failed."""
        wanted = [len(writer.written) + BETWEEN for writer in self.writers]

        def done() -> bool:
            return bool(self.problems()) or all(len(writer.written) >= count for writer, count in zip(self.writers, wanted, strict=True))

        wait_for(done, "every client writes")
        assert not self.problems()


class Membership:
    """Changes of the set of nodes, by the command line."""

    def __init__(self, service: Service, load: Load) -> None:
        self.service = service
        self.load = load
        self.members = list(service.nodes)

    def ask(self, *words: str) -> Ran:
        folder = self.service.folder
        urls = [word for node in self.members for word in ("--url", node.url)]
        return run("node", *words, *urls, "--service-cert", folder / "service_cert.pem", "-o", "json")

    def listed(self) -> dict[str, dict[str, Any]]:
        return {node["node_id"]: node for node in self.ask("list").json["items"]}

    def primary(self) -> Node:
        (name,) = [name for name, node in self.listed().items() if node["role"] == "primary"]
        return next(node for node in self.members if node.id == name)

    def join(self, count: int) -> list[Node]:
        """Let nodes join, started beside each other."""
        host, port = self.members[0].rpc
        joined = [Node(self.service, len(self.service.nodes) + number) for number in range(count)]
        self.service.nodes += joined
        for node in joined:
            node.begin(f'[join]\ntarget = "{host}:{port}"\nservice_certificate = "service_cert.pem"')
        for node in joined:
            node.wait_open()
        self.members += joined
        self.load.goes_on()
        begun = self.members[0].committed()
        # What is trusted and up may still be reading the ledger, and is then not counted on.
        wait_for(lambda: all(node.committed() >= begun for node in joined), "the new nodes have caught up")
        return joined

    def retire(self, node: Node) -> None:
        """Let a node go, and stop it when the command says that it may be."""
        folder = self.service.folder
        words = ("--member-cert", str(folder / "member0_cert.pem"), "--member-key", str(folder / "member0_privk.pem"))
        ran = self.ask("retire", node.id, *words)
        assert ran.status == 0, ran.err
        assert (ran.json["node_id"], ran.json["removable"]) == (node.id, True)
        self.members.remove(node)
        assert "this node is retired and may be stopped" in node.wait_file("retired")
        self.load.goes_on()  # clients of that node have found their way
        node.process.send_signal(signal.SIGTERM)
        assert node.process.wait(ENDING_SECONDS_MAX) == 0
        self.load.goes_on()


def test_nodes_come_and_go_while_clients_write_and_no_request_fails(tmp_path: Path) -> None:
    with Service(tmp_path, nodes=1) as service:
        first = service.nodes[0]
        with Load(service) as load:
            nodes = Membership(service, load)
            load.goes_on()
            nodes.join(2)
            nodes.join(2)
            assert len(nodes.members) == 5
            nodes.retire(nodes.primary())
            nodes.retire(next(node for node in nodes.members if node is not nodes.primary()))
            assert len(nodes.members) == 3
            nodes.retire(nodes.primary())
            nodes.retire(nodes.primary())
            assert len(nodes.members) == 1
            (last,) = nodes.members
            assert last is not first
            nodes.join(2)
            nodes.retire(last)
            assert {name for name, node in nodes.listed().items() if node["status"] == "Trusted"} == {node.id for node in nodes.members}
            assert all(node["removable"] for node in nodes.listed().values() if node["status"] == "Retired")
            known = [writer.knows for writer in load.writers]
        assert not load.problems()
        assert all(urls & {node.url for node in nodes.members} for urls in known)
        check(service, nodes.members, load)
        check_nothing_begins_again(service, nodes.members)


def check(service: Service, members: list[Node], load: Load) -> None:
    """Every acknowledged write stands in the ledger once, where its answer said; the ledger is sound, and the same on all nodes."""
    written = dict(item for writer in load.writers for item in writer.written)
    service.settle(max(int(transaction.partition(".")[2]) for transaction in written.values()))
    ledgers = [node.entries() for node in members]
    assert ledgers[0] == ledgers[1]
    found: dict[str, list[str]] = collections.defaultdict(list)
    auditor = Auditor(service.certificate.read_text())
    for data in ledgers[0]:
        auditor.feed(data)
        entry = read_public(data)
        for key in entry.writes.get(MAP, {}):
            found[key.decode()].append(f"{entry.view}.{entry.seqno}")
    assert auditor.result().last_signed == auditor.result().last_transaction_id
    assert {key: found[key] for key in written} == {key: [transaction] for key, transaction in written.items()}
    assert all(len(places) == 1 for places in found.values())


def check_nothing_begins_again(service: Service, members: list[Node]) -> None:
    """All nodes are stopped: their directories start nothing, and say in one line why, and what to do."""
    for node in members:
        node.process.send_signal(signal.SIGTERM)
    for node in members:
        assert node.process.wait(ENDING_SECONDS_MAX) == 0
    before = {node: node.entries() for node in members}
    for node in (*members, service.nodes[0]):
        file = service.folder / f"{node.name}.toml"
        ran = run("node", "join" if "[join]" in file.read_text() else "start", "--config", file)
        assert (ran.status, ran.out) == (2, "")
        (line,) = ran.err.strip().splitlines()
        assert "was used by a node before; a node never resumes from its disk: choose a new directory" in line
        assert ("nothing goes on by itself" in line) is (node in members)
        assert ("nobody needs it or its files any more" in line) is (node not in members)
    assert {node: node.entries() for node in members} == before
