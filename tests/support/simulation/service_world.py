"""What worlds with a service share: clients, questions to disks, retirement, and the end.

Not here: what nodes are made of (`replica_world`, `complete_world`).
"""

from typing import Any, Final

from ledgerd.enclave import archive
from ledgerd.enclave.boundary import Fetch
from ledgerd.enclave.consensus.core import Role
from ledgerd.enclave.limits import LIMITS
from ledgerd.ledger.entry import WriteSet
from ledgerd.ledger.receipt import VerifiedReceipt
from support.histories import Call, Outcome
from support.simulation.clients import Asked, Client, Clients, Want
from support.simulation.ending import judge_service
from support.simulation.ledgers import read_entry
from support.simulation.patches import Change
from support.simulation.plan import Plan
from support.simulation.violation import Violation
from support.simulation.world import Event, World

_CLIENTS: Final = 4
_WINDOW_ENTRIES: Final = 60  # how long an idempotency key protects that does not say its age


def small_limits(plan: Plan, serving: Any) -> list[Change]:
    """Limits of a serving node, as the plan has them: so small that they are met with. `serving`: the module that is to have them."""
    small = LIMITS._replace(idempotency_window=_WINDOW_ENTRIES)
    if not plan.settings:
        return [(serving, "LIMITS", small)]
    settings = small.consensus._replace(**plan.settings)._replace(unsigned_entries=3, ahead_entries=small.consensus.ahead_entries)
    return [(serving, "LIMITS", small._replace(consensus=settings, recent_ranges=4)), (archive, "CATCH_UP_ENTRIES", 10)]


def document(name: str, roots: list[str], **mode: Any) -> dict[str, Any]:
    """What a host configures a node with; `mode` says how that begins."""
    return {
        "node": {
            "rpc": {"host": f"{name}.rpc", "port": 1},
            "peer": {"host": f"{name}.peer", "port": 1},
            "names": ["localhost"],
            "isolation": ["simulation"],
            "data": None,
        },
        "limits": {"sessions": 1000, "body_bytes": 1 << 20},
        "consensus": {"heartbeat_ms": 100, "election_timeout_ms": 1000},
        "consortium": {"roots": roots},
        **mode,
    }


def new_service(curve: str, open_at_nodes: int | None, **consortium: Any) -> dict[str, Any]:
    """The mode of a first node; `consortium`: its members and constitution, if it has any."""
    start: dict[str, Any] = {
        "members": [],
        "users": [],
        "measurements": [],
        "constitution": "",
        "admission": "automatic",
        "open_at_nodes": open_at_nodes,
        "application_policy": "open",
        "service_subject": "CN=Test Service",
        "curve": curve,
        **consortium,
    }
    return {"mode": "start", "start": start}


class ServiceWorld(World):
    """Nodes that serve clients. A node has `serving` (`enclave.serving.Serving`) and `questions` to its disk.

    Attributes:
        last_calls: What is asked at the very end, when everything must be answered; `receipts_before`: how many receipts there were then.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan, read_entry)
        self.clients = Clients(self.send, _CLIENTS)
        self.last_calls: list[Call] = []
        self.receipts_before = 0

    # What the worlds beneath bring.

    def send(self, client: Client, name: str, asked: Asked) -> bool:
        """Carry a client's request to a node; False if there is nobody."""
        raise NotImplementedError

    def fetched(self, node: Any, request: int, entries: list[bytes]) -> None:
        """Give a node what its disk gave back."""
        raise NotImplementedError

    def retirement(self, node: Any, leavers: list[str]) -> WriteSet:
        """What governance writes to retire nodes."""
        raise NotImplementedError

    def verify_receipt(self, receipt: bytes) -> VerifiedReceipt:
        """Verify a COSE receipt. Raises: IntegrityError, FormatError: It does not."""
        raise NotImplementedError

    @property
    def secret(self) -> bytes:
        """The ledger's, of its first entry."""
        raise NotImplementedError

    def announced(self, data: bytes) -> bytes:
        """The ledger secret that an entry announces, from the boxes in it."""
        raise NotImplementedError

    def hung_up(self, client: str) -> None:
        """What else happens when a client gives up."""

    def entries_asked(self, node: Any, fetch: Fetch) -> int:
        """How many entries an honest host gives: up to the first signature entry after `through`."""
        facts, views = self.registry.facts, node.disk.views
        seqno = fetch.first
        while seqno < len(views) and not (seqno > fetch.through and facts[views[seqno], seqno].meaning.signs):
            seqno += 1
        return max(0, seqno - fetch.first + 1)

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
            self.hung_up(client)

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
            self.fetched(node, fetch.request, found)
            self.wake(node)

    def do_boast(self, name: str, generation: int, beyond: int) -> None:
        """A host says that it stored what it was never given: beyond the last, or of another view."""
        node = self._node(name)
        if node is None:
            return
        core = node.core
        before = core.stored_seqno
        self.stored(node, self.boast(node, generation, beyond))
        self.wake(node)
        if core.stored_seqno > max(before, len(node.disk.entries)):
            raise Violation("StoredIsGiven", f"{name} believes that entry {core.stored_seqno} is on its disk")

    def do_retire(self, name: str, *leavers: str) -> None:
        """Governance retires nodes."""
        node = self._node(name)
        if node is None or node.core.role is not Role.PRIMARY:
            return
        nodes = node.shadow.configurations[-1][1]
        ids = {self.nodes[leaver].node_id: leaver for leaver in leavers if leaver in self.nodes}
        leaving = {node_id: leaver for node_id, leaver in ids.items() if node_id in nodes}
        if leaving and nodes - leaving.keys():
            node.serving._apply_and_propose(self.retirement(node, list(leaving.values())))
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

    def a_signature(self, node: Any) -> Event:
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
            if self.clients.hang_up(client.name):
                self.hung_up(client.name)  # a session answers in order: what it still owes would be in the way
        primary = self.primary()
        if primary is None:
            return None
        client = self.clients.all["c1"]
        before = primary.shadow.last
        self.do_call("c1", primary.name, "put", "p0", "", f"c1.{client.number + 1}", "committed", "")
        return before + 1 if primary.shadow.last > before else None

    def demand_answer(self, primary: Any) -> None:
        """Ask for a linearizable read of what was made last; a backup, which must pass it on, for a write; and for the receipt of the first
        write that anybody knows to be final, which is on the disk only by now.
        """
        self.last_calls = []
        first = next(
            (c.transaction for c in self.clients.history.calls if c.writes and c.outcome is Outcome.COMMITTED and c.transaction), None
        )
        self.receipts_before = len(self.clients.history.receipts) - (first is None)
        if first is not None:
            self.do_call("c3", primary.name, "receipt", f"{first[0]}.{first[1]}", "/cose", "", "", "")
        members = self.alive(primary.shadow.configurations[-1][1])
        backup = next((node for node in members if node is not primary), primary)
        if self.clients.all["c1"].want is None:  # the write is answered
            self.last_calls.append(self._call_last("c1", primary, "get"))
            self.last_calls.append(self._call_last("c2", backup, "put"))

    def _call_last(self, client: str, node: Any, what: str) -> Call:
        number = self.clients.all[client].number + 1
        self.do_call(client, node.name, what, "p0", "", f"{client}.{number}", "committed", "")
        return self.clients.history.calls[-1]

    def unanswered(self) -> str:
        """Who waits in vain, in words; empty if nobody does."""
        for name in ("c1", "c2", "c3"):
            client = self.clients.all[name]
            if client.want is not None:
                return f"nobody answers {client.want.what} of {name}"
        if len(self.clients.history.receipts) <= self.receipts_before:
            return "the receipt of a transaction that is final is not given"
        return "; ".join(f"{call.client} was told {call.outcome.name}" for call in self.last_calls if call.outcome is not Outcome.COMMITTED)

    def judge_end(self) -> None:
        """All that can only be judged at the end."""
        judge_service(self)
