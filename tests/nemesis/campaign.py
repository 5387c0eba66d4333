"""One campaign: a service of real nodes under load, fault after fault, then a judgement of everything that clients were told.

Faults come one after the other, each for a while, never to more nodes than the service must bear; nodes that were lost are replaced by new
ones. At the end everything is healed and progress is demanded; then the history of all clients is checked against itself and against the
ledgers, which must be the same bytes on every node.
"""

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ledgerd.governance import requests
from ledgerd.governance.actions import REMOVE_NODE, Action
from ledgerd.ledger.audit import Auditor
from ledgerd.ledger.entry import read_public
from ledgerd.ledger.ids import parse_transaction_id
from ledgerd.ledger.receipt import load_certificate, public_key, verify_cose
from nemesis.clients import Workload
from nemesis.faults import Heal, Victims
from nemesis.links import Gate, Network
from support.cluster import Identity
from support.histories import Entry, Outcome, check, check_receipts
from support.members import CREATE, envelope
from support.processes import DEFAULT_MS, Node, Service, wait_for

HOST: Final = Path(__file__).with_name("host.py")
MAP: Final = "public:records"
FAULT_SECONDS: Final = (0.3, 3.0)
REST_SECONDS: Final = (0.1, 1.0)
PROGRESS: Final = 20  # committed writes that a healed service must take
PROGRESS_SECONDS_MAX: Final = 120.0  # met only by a service that makes none, however busy the machine is
RESURRECTED_SECONDS_MAX: Final = 120.0
ASK_SECONDS_MAX: Final = 5.0  # of a node that may have been harmed, and then answers nothing
RETRY_SECONDS: Final = 0.1


class ProxiedService(Service):
    """A service whose nodes reach each other through gates, and whose hosts take orders to do wrong."""

    def __init__(self, folder: Path, nodes: int, network: Network, seed: int, enclave: tuple[str, ...] = ()) -> None:
        super().__init__(folder, nodes, election_ms=DEFAULT_MS)
        self._enclave = enclave
        self._network = network
        self._seed = seed

    def words(self, node: Node) -> list[str]:
        """As `Service.words`."""
        return [str(HOST), str(os.getpid()), str(node.directory), *self._enclave]

    def wire(self, node: Node) -> None:
        """As `Service.wire`."""
        node.peer_wire = Gate(
            self._network, node.number, lambda: node.bound("node_address"), self._number_of, self._seed * 1000 + node.number
        )

    def member(self) -> Identity:
        """The one member."""
        key = load_pem_private_key((self.folder / "member0_privk.pem").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return Identity(key, x509.load_pem_x509_certificate((self.folder / "member0_cert.pem").read_bytes()))

    def _number_of(self, process: int) -> int | None:
        return next((node.number for node in self.nodes if node.process.pid == process), None)


@dataclass
class Report:
    """What a campaign did and saw."""

    seed: int
    nodes: int
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    views: int = 0
    entries: int = 0
    receipts: int = 0
    replaced: int = 0
    stopped_themselves: list[str] = field(default_factory=list)
    bits_changed: int = 0

    def as_json(self) -> dict[str, Any]:
        """As JSON's types."""
        return {**vars(self), "faults": dict(self.faults), "outcomes": dict(self.outcomes)}


class Campaign:
    """One service and what is done to it.

    Args:
        folder: For everything that is written.
        say: Told of every fault, for whoever watches.
        only: Names of the faults to choose from; all of them unless told.
        enclave: Words that start an enclave, in place of this Python with the product: to see that what is wrong is found.
    """

    def __init__(
        self,
        folder: Path,
        seed: int,
        *,
        nodes: int,
        clients: int,
        say: Callable[[str], None] = lambda text: None,
        enclave: tuple[str, ...] = (),
        only: Collection[str] = (),
    ) -> None:
        self._only = only
        self._folder = folder
        self._clients = clients
        self._say = say
        self._choose = random.Random(seed)
        self._network = Network()
        self._victims = Victims(self._network, self._choose)
        self._replaced: set[Node] = set()
        self._retired: set[Node] = set()
        self.service = ProxiedService(folder, nodes, self._network, seed, enclave)
        self.report = Report(seed, nodes)

    def run(self, seconds: float, *, faults: int = 0, committed: int = 0) -> Report:
        """Trouble the service for so long, until there were so many faults and committed writes; then judge.

        Raises: AssertionError: Something was wrong, or it made no progress when healed.
        """
        began = time.monotonic()
        with self.service as service:
            urls = [node.url for node in service.nodes]
            with Workload(urls, str(service.certificate), self._clients, self.report.seed) as workload:
                self._settle(workload)
                while not workload.problems and (
                    time.monotonic() - began < seconds or self.report.faults.total() < faults or workload.committed < committed
                ):
                    self._trouble(workload)
                self._network.heal()
                self._replace_lost(workload)
                before = workload.committed
                wait_for(
                    lambda: workload.committed >= before + PROGRESS or workload.problems,
                    "a healed service makes progress",
                    PROGRESS_SECONDS_MAX,
                )
            self._judge(workload)
        self.report.seconds = time.monotonic() - began
        return self.report

    def _settle(self, workload: Workload) -> None:
        """Wait until all nodes know that the service as it is now is committed.

        A primary that dies before it has told that of the last node leaves backups for which the nodes before it must agree, too: of two,
        both, and one of them is dead. So it is with every Raft that changes its nodes by entries, and no fault of the service.
        """
        wait_for(lambda: workload.committed or workload.problems, "the first commit")
        committed = max(self._commit(node) for node in self.service.nodes)
        wait_for(lambda: all(self._commit(node) >= committed for node in self.service.nodes), "all nodes know of the first commit")

    @staticmethod
    def _commit(node: Node) -> int:
        with node.session() as session:
            return parse_transaction_id(session.ask("GET", "/node/commit").json()["transaction_id"]).seqno

    def _trouble(self, workload: Workload) -> None:
        choose, victims = self._choose, self._victims
        nodes = self.service.alive()
        node = choose.choice(nodes)
        if choose.random() < 0.4:  # the primary matters most
            node = self._primary(nodes) or node
        passing = (
            victims.pause_host,
            victims.pause_enclave,
            victims.isolate,
            victims.deafen,
            victims.mute,
            victims.bridge,
            victims.slow,
            victims.corrupt,
            victims.cut,
            victims.jump_clock,
            victims.lie,
        )
        possible = [one for one in (*passing, victims.kill_host, victims.kill_enclave) if not self._only or one.__name__ in self._only]
        fault = choose.choice(possible)
        if fault in (victims.kill_host, victims.kill_enclave) and not self.can_lose_one():
            fault = choose.choice(passing)
        self._say(f"{fault.__name__} {node.name}")
        self.report.faults[fault.__name__] += 1
        heal: Heal = fault(nodes, node)
        if fault == victims.lie:
            self._ask_for_old(workload)
        time.sleep(choose.uniform(*FAULT_SECONDS))
        heal()
        time.sleep(choose.uniform(*REST_SECONDS))
        self._replace_lost(workload)

    # Nodes.

    def can_lose_one(self) -> bool:
        """Whether the service can still commit with one node less."""
        configured = len(self.service.nodes) - len(self._retired)
        return len(self.service.alive()) - 1 >= configured // 2 + 1

    def _primary(self, nodes: list[Node]) -> Node | None:
        for node in nodes:
            try:
                with node.session(seconds=ASK_SECONDS_MAX) as session:
                    found = session.ask("GET", "/node/network").json()["primary_id"]
            except OSError:
                continue
            return next((other for other in nodes if other.id == found), None)
        return None

    def _replace_lost(self, workload: Workload) -> None:
        """A node that has ended comes back under a new name, after its host has tried to go on with the old directory; in vain."""
        for node in self.service.nodes:
            if node.process.poll() is None or node in self._replaced:
                continue
            if node not in self._victims.lost:
                assert node in self._victims.suspects, f"{node.name} ended and nobody had harmed it: {node.output()[-2000:]}"
                self.report.stopped_themselves.append(node.output().strip().splitlines()[-1])
            self._resurrect(node)
            self._replaced.add(node)
            self._say(f"replace {node.name}")
            new = self.service.add()
            workload.learn(new.url)
            workload.forget(node.url)
            self._retire(node)
            self.report.replaced += 1

    def _retire(self, node: Node) -> None:
        """A member has the lost node removed from the service; its place counts no more once that is recorded."""
        action, member = Action(REMOVE_NODE, node.id), self.service.member()

        def removed() -> bool:
            for other in self.service.alive():
                try:
                    with other.session(seconds=ASK_SECONDS_MAX) as session:
                        listed = session.ask("GET", "/node/network/removable_nodes").json().get("nodes", [])
                        if node.id in (item["node_id"] for item in listed):
                            return True
                        signed = envelope(member, action, created_at=int(time.time()))
                        session.ask("POST", CREATE, signed, content_type=requests.CONTENT_TYPE)
                except OSError:
                    continue
            time.sleep(RETRY_SECONDS)
            return False

        wait_for(removed, f"{node.name} is removed for good", PROGRESS_SECONDS_MAX)
        self._retired.add(node)

    def _resurrect(self, node: Node) -> None:
        """Start a node from its old directory. Raises: AssertionError: It did not refuse."""
        file = self._folder / f"{node.name}.toml"
        done = subprocess.run(
            [Path(sys.executable).with_name("ledgerd"), "node", "start" if "[start]" in file.read_text() else "join", "-c", file],
            capture_output=True,
            text=True,
            timeout=RESURRECTED_SECONDS_MAX,
            check=False,
        )
        refused = done.returncode == 2 and "never resumes from its disk" in done.stderr
        assert refused, f"a node came back from its old directory: {done.returncode} {done.stdout} {done.stderr}"

    def _ask_for_old(self, workload: Workload) -> None:
        """Have the lying host's disk read: receipts of old transactions must come from there."""
        old = [call.transaction for call in workload.history.calls if call.outcome is Outcome.COMMITTED and call.writes][:2000]
        for transaction in self._choose.sample(old, min(5, len(old))):
            assert transaction is not None
            for node in self.service.alive():
                try:
                    with node.session(seconds=ASK_SECONDS_MAX) as session:
                        answer = session.ask("GET", "/node/receipt/cose?transaction_id={}.{}".format(*transaction))
                except OSError:
                    continue
                if answer.status == 200:
                    workload.history.receipts.append((transaction, answer.body))

    # Judgement.

    def _judge(self, workload: Workload) -> None:
        assert not workload.problems, "\n".join(workload.problems)
        history, report = workload.history, self.report
        self.service.settle()
        nodes = self.service.alive()
        ledgers = [node.entries() for node in nodes]
        assert all(ledger == ledgers[0] for ledger in ledgers), "committed ledgers differ"
        certificate = self.service.certificate.read_text()
        auditor = Auditor(certificate)
        for data in ledgers[0]:
            auditor.feed(data)
        assert auditor.result().anchored
        ledger = [_entry(data) for data in ledgers[0]]
        check(history, ledger)
        key = public_key(load_certificate(certificate))
        check_receipts(history, ledger, lambda receipt: verify_cose(receipt, key).transaction_id)
        report.outcomes.update(call.outcome.name for call in history.calls)
        report.views = ledger[-1].view
        report.entries = len(ledger)
        report.receipts = len(history.receipts) + sum(call.receipt is not None for call in history.calls)
        report.bits_changed = self._network.bits_changed


def _entry(data: bytes) -> Entry:
    entry = read_public(data)
    writes = entry.writes.get(MAP, {})
    return Entry(entry.view, entry.seqno, {key.decode(): None if value is None else value.decode() for key, value in writes.items()})
