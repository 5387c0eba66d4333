"""The replica world: `enclave.serving` with wires and sessions made of lists.

Consensus, execution, state, sealing, history, answers, forwarding, receipts and the checks of storage replies are the product's. TLS, HTTP,
the boundary's bytes and joining are not here.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from ledgerd.enclave import archive, configuration, execution, history, replica, serving
from ledgerd.enclave.boundary import Fetch, Ready, Traffic
from ledgerd.enclave.clock import AttestedClock
from ledgerd.enclave.consensus import messages
from ledgerd.enclave.consensus.core import Retirement, Role, Settings
from ledgerd.enclave.host_rejects import HostRejects
from ledgerd.enclave.requests import Request, Response
from ledgerd.enclave.status import Attested
from ledgerd.governance import tables
from ledgerd.ledger.entry import WriteSet
from ledgerd.ledger.ids import FIRST_VIEW, NodeId, View
from ledgerd.ledger.receipt import VerifiedReceipt, verify_cose
from support.simulation import stand_in
from support.simulation.application import app
from support.simulation.clients import Asked, Client, Clients, Want
from support.simulation.disk import Report, Write
from support.simulation.ending import judge_service
from support.simulation.invariants import Violation
from support.simulation.ledgers import SECRET, Reader
from support.simulation.patches import patched
from support.simulation.plan import Plan
from support.simulation.world import Event, Node, World

_CONSENSUS: Final = 0  # first byte of a message that may be lost, repeated and reordered; others are never repeated (`enclave.channels`)


_PROPOSAL: Final = b"\0" + messages.encode(messages.ProposeVote(View(1)))[:2]


class Channels:
    """In the place of `enclave.channels.Channels`: what it promises, without bytes."""

    def __init__(self, world: "ReplicaWorld", node_id: str) -> None:
        self._world = world
        self._node_id = node_id
        self.arrived: list[tuple[NodeId, bytes]] = []
        self.cuts: list[NodeId] = []
        self.lost: list[NodeId] = []

    def send(self, node_id: NodeId, message: bytes) -> bool:
        other = self._world.by_id.get(node_id)
        if other is None or not other.is_up:
            return False
        self._world.network.post((self._world.by_id[self._node_id].name, other.name), message)
        return True

    def connected(self, node_id: NodeId) -> bool:
        return node_id in self._world.by_id and bool(self._world.by_id[node_id].is_up)

    def take_messages(self) -> list[tuple[NodeId, bytes]]:
        taken, self.arrived = self.arrived, []
        return taken

    def take_cuts(self) -> list[NodeId]:
        taken, self.cuts = self.cuts, []
        return taken

    def take_lost(self) -> list[NodeId]:
        taken, self.lost = self.lost, []
        return taken

    def take_output(self) -> tuple[list[Any], list[int]]:
        return [], []

    def take_failures(self) -> list[str]:
        return []

    def sweep(self, now: float, unix_seconds: int | None = None) -> None:
        """Nothing waits here."""


class Dialling:
    """In the place of `enclave.dialling.Dialling`: everybody is connected."""

    world: "ReplicaWorld"

    def __init__(self, keys: Any, *_: Any, **__: Any) -> None:
        self.channels = Channels(self.world, keys.id)

    def learn(self, addresses: Any) -> None:
        """Addresses are of no use here."""

    def address_of(self, node_id: NodeId) -> str:
        return ""

    def dial(self, peers: Any, now: float, ready: Ready) -> None:
        """There is nothing to dial."""

    def settle(self) -> None:
        """There is no patience to forget."""


class Sessions:
    """In the place of `enclave.sessions.Sessions`: requests come as values, answers leave as values."""

    active = peak = 0

    def __init__(self, answered: Callable[[Any, Response], None]) -> None:
        self.requests: list[Request] = []
        self.answer = answered

    def take_requests(self) -> list[Request]:
        taken, self.requests = self.requests, []
        return taken


class Services:
    """In the place of the enclave's core: jobs run in the next wake-up."""

    def __init__(self) -> None:
        self.traffic = Traffic()
        self.compiled_modules = 0
        self.jobs: deque[tuple[Callable[[Any], object], Callable[[Any], None]]] = deque()

    def next_stream(self) -> int:
        return -1

    def submit(self, work: Callable[[Any], object], done: Callable[[Any], None]) -> None:
        self.jobs.append((work, done))

    def run_together(self, works: list[Callable[[], Any]]) -> list[Any]:
        return [work() for work in works]

    def finish(self) -> None:
        """Do what waits."""
        while self.jobs:
            work, done = self.jobs.popleft()
            try:
                result: object = work(None)
            except Exception as error:
                result = error
            done(result)


class ReplicaNode(Node):
    """A serving node and its host."""

    def __init__(self, world: "ReplicaWorld", name: str) -> None:
        keys = stand_in.NodeKeys(name)
        super().__init__(name, keys.id, world.rate())
        self.keys = keys
        self.sessions = Sessions(world.answer)
        self.services = Services()
        self.questions: deque[tuple[Fetch, int]] = deque()
        self.sweep_at = self.clock
        clock = AttestedClock()
        clock.set(1_700_000_000_000, self.clock)
        service = stand_in.ServiceKeys()
        self.serving = serving.Serving(
            app=app,
            configuration=world.configuration,
            keys=keys,  # type: ignore[arg-type]  # stands in
            certificate=keys.certificate,
            service=service,  # type: ignore[arg-type]  # stands in
            ledger_secret=SECRET,
            attested=Attested(b"", b"", True, "", []),
            clock=clock,
            sessions=self.sessions,  # type: ignore[arg-type]  # stands in
            services=self.services,
            rejects=HostRejects(lambda level, text: None),
            now=self.clock,
        )
        self.core = self.serving._consensus
        self.channels: Any = self.serving._dialling.channels
        self.watch(world.registry, world.judge)

    def propose(self, writes: WriteSet) -> None:
        """As the primary: what governance would write."""
        self.serving._apply_and_propose(writes)


def record(name: str, status: str, retired_committed: bool = False) -> bytes:
    """A node's record, as far as this world needs one."""
    address = {"bind_address": f"{name}:1", "published_address": f"{name}:1"}
    return tables.encode(
        {
            "status": status,
            "retired_committed": retired_committed,
            "node_to_node_interface": address,
            "rpc_interfaces": {"primary_rpc_interface": address},
        }
    )


class ReplicaWorld(World):
    """Serving nodes and their clients."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan, Reader())
        self.configuration = configuration.parse(_document())
        self.clients = Clients(self._send, plan.options.get("clients", 4))
        first = self._new("n1")
        genesis: WriteSet = {
            **self._trusted("n1"),
            tables.SERVICE_INFO: {tables.SINGLETON: tables.encode({"cert": stand_in.ServiceKeys().certificate_pem, "status": tables.OPEN})},
            tables.SETTINGS: {
                tables.SINGLETON: tables.encode({"admission": "automatic", "open_at_nodes": None, "application_policy": "open"})
            },
        }
        self.registry.winners[FIRST_VIEW] = "n1"
        first.serving.start(genesis)
        self.wake(first)
        for number in range(2, plan.nodes + 1):
            self.do_join(f"n{number}")
            self.do_trust("n1", f"n{number}")
        for _ in range(4):
            self.rest()
            self.do_pass(0.05)

    def _new(self, name: str) -> ReplicaNode:
        Dialling.world = self
        node = ReplicaNode(self, name)
        self.add(node)
        return node

    # What a node does.

    def arrive(self, node: ReplicaNode, sender: ReplicaNode, packet: Any) -> None:
        node.is_proposed |= packet.startswith(_PROPOSAL)
        node.channels.arrived.append((NodeId(sender.node_id), packet))

    def stored(self, node: ReplicaNode, report: Report) -> None:
        node.serving.tick(node.clock)
        node.serving.stored(*report)

    def broken(self, node: ReplicaNode, other: ReplicaNode) -> None:
        node.channels.cuts.append(NodeId(other.node_id))
        other.channels.lost.append(NodeId(node.node_id))

    def crashed(self, node: ReplicaNode) -> None:
        """Connections break; clients get no answer any more."""
        for other in self.up():
            other.channels.cuts.append(NodeId(node.node_id))
            other.channels.lost.append(NodeId(node.node_id))

    def wake(self, node: ReplicaNode) -> None:
        served = node.serving
        served.tick(node.clock)
        if node.services.jobs:
            node.services.finish()
        if node.clock >= node.sweep_at:
            node.sweep_at = node.clock + 0.5
            served.sweep(node.clock)
        ready = Ready()
        served.carry_out(ready)
        if ready.truncate_after is not None or ready.entries:
            views = node.shadow.views[ready.first_seqno : ready.first_seqno + len(ready.entries)]
            report = node.disk.submit(Write(ready.generation, ready.truncate_after, ready.first_seqno, ready.entries, views))
            if report is not None:
                served.stored(*report)
        for fetch in ready.fetches:
            node.questions.append((fetch, self._through(node, fetch)))
        self.judge.look(node)
        if ready.stop is not None and node.is_up:
            self._stopped(node, ready.stop)

    def _stopped(self, node: ReplicaNode, status: int) -> None:
        if node.serving.failed is not None or status != 0 or node.core.retirement is not Retirement.RETIRED_COMMITTED:
            raise Violation("NobodyStops", f"{node.name} stops with {status}: {node.serving.failed}")
        node.is_up = False
        self.crashed(node)

    def _through(self, node: ReplicaNode, fetch: Fetch) -> int:
        """How many entries an honest host gives: up to the first signature entry after `through`."""
        facts, views = self.registry.facts, node.disk.views
        seqno = fetch.first
        while seqno < len(views) and not (seqno > fetch.through and facts[views[seqno], seqno].meaning.signs):
            seqno += 1
        return max(0, seqno - fetch.first + 1)

    def _send(self, client: Client, name: str, asked: Asked) -> bool:
        node = self.nodes.get(name)
        if node is None or not node.is_up:
            return False
        path, _, query = asked.path.partition("?")
        node.sessions.requests.append(
            Request((client.name, client.number, name), asked.method, path, query, asked.headers, asked.body, None, client.name)
        )
        return True

    def answer(self, reply_to: tuple[str, int, str], response: Response) -> None:
        """A node answers a client."""
        headers: dict[str, str] = dict(response.headers)
        self.clients.answered(*reply_to, response.status, headers, response.body)

    # Events.

    def do_call(self, client: str, node: str, *want: str) -> None:
        """A client asks a node for something."""
        if self.clients.call(client, node, Want(*want)):
            self.inputs += 1
            target = self._node(node)
            if target is not None:
                self.wake(target)

    def do_hangup(self, client: str) -> None:
        """A client gives up."""
        if self.clients.hang_up(client):
            self.faults["client: hangs up"] += 1

    def do_answer(self, name: str) -> None:
        """A host answers a question about old entries, or does not."""
        node = self._node(name)
        if node is None or not node.questions:
            return
        fetch, count = node.questions.popleft()
        other = None
        if node.disk.lie is not None and node.disk.lie[0] == "swapped":
            others = [candidate for candidate in self.nodes.values() if candidate is not node]
            other = others[node.disk.lie[1] % len(others)].disk if others else None
        found = node.disk.read(fetch.first, count, other)
        if found is not None:
            self.inputs += 1
            node.serving.tick(node.clock)
            node.serving.fetched(fetch.request, found)
            self.wake(node)

    def do_boast(self, name: str, generation: int, beyond: int) -> None:
        """A host says that it stored what it was never given: beyond the last, or of another view."""
        node = self._node(name)
        if node is None:
            return
        self.faults["disk: boastful"] += 1
        self.inputs += 1
        core = node.core
        seqno = core._handed + beyond
        before = core.stored_seqno
        node.serving.stored(core._generation + generation, (core.view_of(seqno) or core.view) + (beyond <= 0), seqno)
        if core.stored_seqno != before:
            raise Violation("StoredIsGiven", f"{name} believes that entry {core.stored_seqno} is on its disk")
        self.wake(node)

    def do_repeat(self, source: str, target: str, index: int = 0) -> None:
        if self._is_consensus((source, target), index):
            super().do_repeat(source, target, index)

    def do_replay(self, source: str, target: str, index: int) -> None:
        """Channels let nothing of long ago through: it is as if it had been lost."""

    def do_deliver(self, source: str, target: str, index: int = 0, count: int = 1) -> None:
        super().do_deliver(source, target, index if self._is_consensus((source, target), index) else 0, count)

    def _is_consensus(self, pair: tuple[str, str], index: int) -> bool:
        packet = self.network.peek(pair, index)
        return packet is not None and packet[0] == _CONSENSUS

    # Membership.

    def _trusted(self, *names: str) -> WriteSet:
        keys = [stand_in.NodeKeys(name) for name in names]
        return {
            tables.NODE_INFO: {key.id.encode(): record(name, tables.TRUSTED) for key, name in zip(keys, names, strict=True)},
            tables.NODE_ENDORSED_CERTIFICATES: {key.id.encode(): key.certificate.public_bytes(None) for key in keys},
        }

    def do_join(self, name: str) -> None:
        """A new enclave was admitted: it begins with an empty log."""
        if name not in self.nodes:
            node = self._new(name)
            node.serving.join({}, self._genesis_digest())
            self.wake(node)

    def _genesis_digest(self) -> bytes:
        digest: bytes = self.nodes["n1"].serving._replica.genesis_digest
        return digest

    def do_trust(self, name: str, *joiners: str) -> None:
        """Governance trusts nodes."""
        node = self._node(name)
        known = [joiner for joiner in joiners if joiner in self.nodes]
        if node is not None and node.core.role is Role.PRIMARY and known:
            node.propose(self._trusted(*known))
            self.inputs += 1
            self.wake(node)

    def do_retire(self, name: str, *leavers: str) -> None:
        """Governance retires nodes."""
        node = self._node(name)
        if node is None or node.core.role is not Role.PRIMARY:
            return
        nodes = node.shadow.configurations[-1][1]
        ids = {self.nodes[leaver].node_id: leaver for leaver in leavers if leaver in self.nodes}
        leaving = {node_id: leaver for node_id, leaver in ids.items() if node_id in nodes}
        if leaving and nodes - leaving.keys():
            writes = {node_id.encode(): record(leaver, tables.RETIRED) for node_id, leaver in leaving.items()}
            node.propose({tables.NODE_INFO: dict(writes)})
            self.inputs += 1
            self.wake(node)

    # What the driver may ask for.

    def an_update(self, node: Any, chance: Any) -> Event:
        """Something for a client to change."""
        event = self._of(node, chance, chance.choice(["put", "put", "swap", "both", "delete"]), chance.choice(["committed"] * 3 + [""]))
        return event if event is not None else ("pass", 0.01)

    def a_read(self, node: Any, chance: Any) -> Event:
        """A linearizable read."""
        event = self._of(node, chance, chance.choice(["get", "all", "all"]), "committed")
        return event if event is not None else ("pass", 0.01)

    def _of(self, node: Any, chance: Any, what: str, prefer: str) -> Event | None:
        idle = [client for client in self.clients.all.values() if client.want is None]
        if not idle:
            busy = [client for client in self.clients.all.values() if client.want is not None]
            return ("hangup", chance.choice(busy).name)
        client = chance.choice(idle)
        return ("call", client.name, node.name, *self.clients.make(client, chance, what, prefer))

    def probes(self, chance: Any, node: Any) -> list[Event]:
        """What clients ask now about what they have done: status and receipt, of this node; and they ask again for what they gave up."""
        return self.clients.probes(chance, node.name)

    def a_signature(self, node: Any) -> Event | None:
        """It signs by itself; time lets it."""
        return ("tick", node.name, 0.005)

    def client_event(self, chance: Any) -> Event | None:
        """Somebody wants something, of the primary or of any node; or a host owes an answer."""
        running = self.running()
        asked = [node.name for node in running if node.questions]
        if asked and chance.random() < 0.5:
            return ("answer", chance.choice(asked))
        primaries = [node.name for node in running if node.core.role is Role.PRIMARY]
        names = primaries if primaries and chance.random() < 0.6 else [node.name for node in running]
        return self.clients.draw(chance, names)

    def client_trouble(self, chance: Any) -> Event | None:
        """A client behaves badly."""
        return self.clients.trouble(chance, [node.name for node in self.running()])

    def grow_events(self, chance: Any, count: int) -> list[Event]:
        """New nodes join."""
        primary = self.primary()
        if primary is None or primary.is_paused:
            return []
        names = [f"n{len(self.nodes) + 1 + number}" for number in range(count)]
        return [*(("join", name) for name in names), ("trust", primary.name, *names)]

    def shrink_events(self, name: str) -> list[Event]:
        """A node is removed."""
        primary = self.primary()
        if primary is None or primary.is_paused:
            return []
        nodes = primary.shadow.configurations[-1][1] - {self.nodes[name].node_id}
        return [("retire", primary.name, name)] if self.can_live(nodes) else []

    def record_events(self) -> list[Event]:
        """The primary records final removals by itself."""
        return []

    # The end.

    def rest(self, limit: int = 20_000) -> None:
        for _ in range(limit):
            super().rest(limit)
            asked = [node for node in self.up() if node.questions]
            if not asked:
                return
            for node in asked:
                self.do_answer(node.name)

    def demand(self) -> int | None:
        """Have something new made; the seqno that must become final, or None if there is no primary."""
        for client in self.clients.all.values():
            self.clients.hang_up(client.name)
        primary = self.primary()
        if primary is None:
            return None
        client = self.clients.all["c1"]
        before = primary.shadow.last
        self.do_call("c1", primary.name, "put", "p0", "", f"c1.{client.number + 1}", "committed", "")
        return before + 1 if primary.shadow.last > before else None

    def verify_receipt(self, receipt: bytes) -> VerifiedReceipt:
        """Verify a COSE receipt. Raises: IntegrityError, FormatError: It does not."""
        return verify_cose(receipt, stand_in.PublicKey("service"))  # type: ignore[arg-type]  # stands in

    def judge_end(self) -> None:
        """All that can only be judged at the end."""
        judge_service(self)


@contextmanager
def seams(plan: Plan) -> Iterator[None]:
    """What stands in for what, while this world is used; and small limits, so that they are met with."""
    small = bool(plan.settings)
    limits = {name: value for name, value in plan.settings.items() if name not in ("unsigned_entries", "ahead_entries")}
    window = plan.options.get("window", 60)
    changes: list[tuple[Any, str, Any]] = [
        (serving, "Dialling", Dialling),
        (serving, "jitter", _jitter),
        (serving, "Settings", partial(Settings, **limits)),
        (serving, "WINDOW_ENTRIES", window),
        (serving, "Executor", partial(execution.Executor, settings=execution.Settings(idempotency_window=window))),
        (replica, "_key", lambda pem: stand_in.read_certificate(pem).public_key()),
    ]
    if small:
        changes += [
            (serving, "UNSIGNED_ENTRIES", plan.options.get("unsigned", 3)),
            (history, "RECENT_RANGES_MAX", 4),
            (archive, "CATCH_UP_ENTRIES", 10),
        ]
    with patched(changes):
        yield


def _jitter() -> float:
    return Dialling.world.jitter()


def _document() -> bytes:
    return tables.encode(
        {
            "mode": "start",
            "node": {
                "rpc": {"host": "n.rpc", "port": 1},
                "peer": {"host": "n.peer", "port": 1},
                "names": [],
                "isolation": ["simulation"],
                "data": None,
            },
            "limits": {"sessions": 1000, "body_bytes": 1 << 20},
            "consensus": {"heartbeat_ms": 100, "election_timeout_ms": 1000},
            "consortium": {"roots": []},
            "start": {
                "curve": "secp384r1",
                "members": [],
                "users": [],
                "measurements": [],
                "constitution": "",
                "admission": "automatic",
                "open_at_nodes": None,
                "application_policy": "open",
            },
        }
    )
