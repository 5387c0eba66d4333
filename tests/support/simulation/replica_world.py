"""The replica world: `enclave.serving` with wires and sessions made of lists.

Consensus, execution, state, sealing, history, answers, forwarding, receipts and the checks of storage replies are the product's. TLS, HTTP,
the boundary's bytes and joining are not here.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Final

from ledgerd.enclave import configuration, replica
from ledgerd.enclave.boundary import Fetch, Ready, Traffic
from ledgerd.enclave.clock import AttestedClock
from ledgerd.enclave.consensus.core import Retirement, Role
from ledgerd.enclave.host_rejects import HostRejects
from ledgerd.enclave.requests import Request, Response
from ledgerd.enclave.status import Attested
from ledgerd.governance import tables
from ledgerd.ledger.entry import WriteSet
from ledgerd.ledger.ids import FIRST_VIEW, NodeId
from ledgerd.ledger.receipt import VerifiedReceipt, verify_cose
from support.simulation import stand_in
from support.simulation.application import app
from support.simulation.clients import Asked, Client
from support.simulation.disk import Report
from support.simulation.elections import watched
from support.simulation.interpreted import SERVING
from support.simulation.ledgers import SECRET
from support.simulation.patches import Change, patched
from support.simulation.plan import Plan
from support.simulation.service_world import ServiceWorld, document, new_service, small_limits
from support.simulation.violation import Violation
from support.simulation.world import Event, Node

_CONSENSUS: Final = 0  # first byte of a message that may be lost, repeated and reordered; others are never repeated (`enclave.channels`)


class Channels:
    """In the place of `enclave.channels.Channels`: what it promises, without bytes."""

    def __init__(self, world: "ReplicaWorld", node_id: str) -> None:
        self.speakers: frozenset[NodeId] = frozenset()  # nobody is dialled, so nobody need be known
        self.has_backlog = False
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

    def seal(self, node_id: NodeId, message: bytes) -> tuple[NodeId, bytes] | None:
        return (node_id, message) if self.connected(node_id) else None

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

    world: ClassVar["ReplicaWorld"]

    def __init__(self, keys: Any, *_: Any, **__: Any) -> None:
        self.next_deadline = float("inf")
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

    def __init__(self, answered: Callable[[Any, Response], None]) -> None:
        self.active = 0
        self.peak = 0
        self.knows: Callable[[str], bool] = lambda caller: False
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
        self.script_workers = 1
        self.jobs: deque[tuple[Callable[[Any], object], Callable[[Any], None]]] = deque()

    def next_stream(self) -> int:
        return -1

    def show_certificates(self, chain: list[Any]) -> None:
        """No client looks."""

    def submit(self, work: Callable[[Any], object], done: Callable[[Any], None]) -> None:
        self.jobs.append((work, done))

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
        self.serving: Any = SERVING.Serving(
            app=app,
            configuration=world.configuration,
            keys=keys,
            certificate=keys.certificate,
            service=service,
            ledger_secrets=[(1, SECRET)],
            attested=Attested(b"", b"", True, "", []),
            clock=clock,
            sessions=self.sessions,
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


class ReplicaWorld(ServiceWorld):
    """Serving nodes and their clients."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.configuration = configuration.parse(tables.encode(document("n", [], **new_service("secp384r1", open_at_nodes=None))))
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
        node.channels.arrived.append((NodeId(sender.node_id), packet))

    def stored(self, node: ReplicaNode, report: Report) -> None:
        node.serving.tick(node.clock)
        node.serving.stored(*report)

    def promised(self, node: ReplicaNode, packet: Any) -> None:
        node.channels.send(*packet)

    def fetched(self, node: ReplicaNode, request: int, entries: list[bytes]) -> None:
        node.serving.tick(node.clock)
        node.serving.fetched(request, entries)

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
        node.due = None
        served.tick(node.clock)
        if node.services.jobs:
            node.services.finish()
        if node.clock >= node.sweep_at:
            node.sweep_at = node.clock + 0.5
            served.sweep(node.clock)
        ready: Any = Ready()  # what is sealed here names a node, not a stream
        served.carry_out(ready)
        self.store(node, ready)
        for sealed in ready.once_stored:
            self.promise(node, sealed)
        for fetch in ready.fetches:
            node.questions.append((fetch, self.entries_asked(node, fetch)))
        self.judge.look(node)
        if ready.stop is not None and node.is_up:
            self._stopped(node, ready.stop)

    def next_wakeup(self, node: ReplicaNode) -> float:
        return min(node.sweep_at, float(node.serving.next_wakeup()))

    def has_news(self, node: ReplicaNode) -> bool:
        channels = node.channels
        return bool(node.sessions.requests or node.services.jobs or channels.arrived or channels.cuts or channels.lost)

    def _stopped(self, node: ReplicaNode, status: int) -> None:
        if node.serving.failed is not None or status != 0 or node.core.retirement is not Retirement.RETIRED_COMMITTED:
            raise Violation("NobodyStops", f"{node.name} stops with {status}: {node.serving.failed}")
        node.is_up = False
        self.crashed(node)

    def send(self, client: Client, name: str, asked: Asked) -> bool:
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

    def retirement(self, node: Any, leavers: list[str]) -> WriteSet:
        """What governance writes to retire nodes."""
        return {tables.NODE_INFO: {self.nodes[leaver].node_id.encode(): record(leaver, tables.RETIRED) for leaver in leavers}}

    # What the driver may ask for.

    def grow_events(self, chance: Any, count: int) -> list[Event]:
        """New nodes join."""
        primary = self.primary()
        if primary is None or primary.is_paused:
            return []
        names = [f"n{len(self.nodes) + 1 + number}" for number in range(count)]
        return [*(("join", name) for name in names), ("trust", primary.name, *names)]

    # The end.

    @property
    def secret(self) -> bytes:
        """The ledger's."""
        return SECRET

    def verify_receipt(self, receipt: bytes) -> VerifiedReceipt:
        """Verify a COSE receipt. Raises: IntegrityError, FormatError: It does not."""
        return verify_cose(receipt, stand_in.PublicKey("service"))  # type: ignore[arg-type]  # stands in


@contextmanager
def seams(plan: Plan) -> Iterator[None]:
    """What stands in for what, while this world is used; and small limits, so that they are met with."""
    changes: list[Change] = [
        *small_limits(plan, SERVING),
        (SERVING, "CONSENSUS", watched(SERVING.CONSENSUS)),
        (SERVING, "Dialling", Dialling),
        (SERVING, "jitter", _jitter),
        (replica, "_key", lambda pem: stand_in.read_certificate(pem).public_key()),
    ]
    with patched(changes):
        yield


def _jitter() -> float:
    return Dialling.world.jitter()
