"""One run's world: nodes, wires, disks and time, moved by events that leave no choice.

An event is a tuple, its name first; `World.apply` does what it says, or nothing where it cannot be done (so that any part of a list of
events is a list of events). Every input that a node handles is counted, and after each wake-up the node is judged.
What a node is made of, how clients reach it and how its membership changes is for the worlds beneath: `core_world`, `replica_world`,
`complete_world`. Not here: which event comes next (`driver`).
"""

import random
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from ledgerd.enclave.consensus.core import Role
from support.simulation.disk import LIES, Disk, Report, Write
from support.simulation.elections import WatchedConsensus
from support.simulation.judge import Judge
from support.simulation.network import Network
from support.simulation.observation import ObservedLog, Reader, Registry, Shadow
from support.simulation.plan import Plan
from support.simulation.violation import Violation

Event = tuple[Any, ...]

CLOCK_BEGINS: Final = 1000.0  # a new node's clock
_TURNS_MAX: Final = 20  # in which a node works through what it left for later at first


class Node:
    """One enclave and its host.

    Attributes:
        name: Short, for events and people; `node_id` is what logs call it.
        clock: Its own monotonic seconds; `rate`: how fast they go.
        is_up, is_paused, is_frozen: Whether it lives; is stopped for a while; has a clock that stands.
        disk: Its host's.
        promises: What its host is to send once so many pieces of work of the disk are done.
        due: When its own clock is to wake it if nothing comes before; None while nobody has asked it since it was last awake.
    """

    core: WatchedConsensus

    def __init__(self, name: str, node_id: str, rate: float) -> None:
        self.name = name
        self.node_id = node_id
        self.clock = CLOCK_BEGINS
        self.rate = rate
        self.is_up = True
        self.is_paused = False
        self.is_frozen = False
        self.disk = Disk()
        self.promises: deque[tuple[int, Any]] = deque()
        self.due: float | None = None
        # What `invariants` saw last.
        self.shadow: Shadow
        self.view = 0
        self.role = Role.NONE
        self.changes = -1
        self.matches: dict[str, int] = {}
        self.newest: list[tuple[int, frozenset[str]]] = []
        self.reconfigured_at = 0.0
        self.may_stand = False

    def has_stored(self, view: int, seqno: int) -> bool:
        """Whether this entry is on its disk, or its host has said so."""
        return self.disk.has(view, seqno)

    def watch(self, registry: Registry, judge: Judge) -> None:
        """From now on, what its log does is known; to be called before it has any entry."""
        self.shadow = Shadow(self.node_id, registry, judge)
        self.core._log = ObservedLog(self.shadow)
        self.core.watched = self


class World:
    """Everything that all worlds share.

    Args:
        plan: What this run is.
        reader: Reads what an entry means for consensus.

    Attributes:
        nodes: All that ever were, by name; `by_id` by node id.
        time: Seconds since the start, by no node's clock.
        inputs: How many inputs nodes have had; `slept`: for how many of them the node was not woken, since nothing was due.
        faults: How often each kind of fault was done.
        trace: Called with a line for people, if anybody wants to know.
    """

    is_bytes = False  # whether what is on its way is bytes of streams, in which every loss breaks one

    def __init__(self, plan: Plan, reader: Reader) -> None:
        self.plan = plan
        self.nodes: dict[str, Any] = {}
        self.by_id: dict[str, Any] = {}
        self.registry = Registry(reader)
        self.judge = Judge(self.registry, self.nodes, self.by_id)
        self.network = Network(plan.holds)
        self.time = 0.0
        self.inputs = 0
        self.slept = 0
        self.faults: Counter[str] = Counter()
        self.trace: Callable[[str], None] | None = None
        self.jitter = random.Random(f"jitter {plan.seed}").random
        self._rates = random.Random(f"rates {plan.seed}")
        self.handlers: dict[str, Callable[..., None]] = {name[3:]: getattr(self, name) for name in dir(self) if name.startswith("do_")}

    def apply(self, event: Event) -> None:
        """Do what the event says, as far as it can be done.

        Raises: Violation: A rule is broken. Exception: Whatever a bug raises.
        """
        if self.trace is not None:
            self.trace(" ".join(map(str, event)))
        self.handlers[event[0]](*event[1:])

    # What the worlds beneath bring.

    def wake(self, node: Any) -> None:
        """Let a node work through what came in, and do what it says. Ends in `judge.look`, and nobody knows what is due then."""
        raise NotImplementedError

    def next_wakeup(self, node: Any) -> float:
        """When a node wants to be woken, by its own clock, if nothing comes before."""
        raise NotImplementedError

    def has_news(self, node: Any) -> bool:
        """Whether something came for a node that it has not seen yet."""
        return False

    def time_passed(self, node: Node) -> None:
        """A node's clock went on. It is woken as the loop of an enclave would wake it: when something is there or due, and not otherwise.

        A deadline that a node forgets to name thus stays forgotten, and is found by what never happens; and so is one that it goes on
        naming when it is over.

        Raises: Violation: It wants to be woken again and again.
        """
        self.inputs += 1
        due = node.due
        if due is None:
            due = node.due = self.next_wakeup(node)
        if node.clock < due:
            if self.has_news(node):
                self.wake(node)
            else:
                self.slept += 1
            return
        for _ in range(_TURNS_MAX):
            self.wake(node)
            if not node.is_up:
                return
            node.due = self.next_wakeup(node)
            if node.clock < node.due:
                return
        raise Violation("ComesToRest", f"{node.name} is due at {node.due}, whatever it does; it is {node.clock}")

    def store(self, node: Node, ready: Any) -> None:
        """Give a node's disk what the node has for it; some disks have it at once."""
        if ready.truncate_after is not None or ready.entries:
            views = node.shadow.views[ready.first_seqno : ready.first_seqno + len(ready.entries)]
            report = node.disk.submit(Write(ready.generation, ready.truncate_after, ready.first_seqno, ready.entries, views))
            self._keep_promises(node)
            if report is not None:
                self.stored(node, report)

    def promise(self, node: Node, packet: Any) -> None:
        """Keep what a node's host is to send once the disk has all that it was given up to now."""
        node.promises.append((node.disk.submitted, packet))
        self._keep_promises(node)

    def finish(self, node: Node) -> Report | None:
        """A disk finishes its oldest piece of work, and its host sends what waited for that."""
        report: Report | None = node.disk.finish()
        self._keep_promises(node)
        return report

    def _keep_promises(self, node: Node) -> None:
        while node.promises and node.promises[0][0] <= node.disk.done:
            self.promised(node, node.promises.popleft()[1])

    def promised(self, node: Any, packet: Any) -> None:
        """Send what has waited for the disk."""
        raise NotImplementedError

    def stored(self, node: Any, report: Report) -> None:
        """Tell a node what its host says."""
        raise NotImplementedError

    def arrive(self, node: Any, sender: Any, packet: Any) -> None:
        """Give a packet to a node, without waking it."""
        raise NotImplementedError

    def broken(self, node: Any, other: Any) -> None:
        """Tell a node that its way to another broke."""
        raise NotImplementedError

    # Nodes.

    def add(self, node: Node) -> None:
        """A new node, up and running."""
        self.nodes[node.name] = node
        self.by_id[node.node_id] = node

    def rate(self) -> float:
        """How fast a new node's clock goes."""
        drift = self.plan.faults.get("drift", 0.0)
        return 1.0 + drift * self._rates.uniform(-0.2, 0.2)

    def running(self) -> list[Any]:
        """Nodes that live and are not stopped."""
        nodes: dict[str, Node] = self.nodes
        return [node for node in nodes.values() if node.is_up and not node.is_paused]

    def up(self) -> list[Any]:
        """Nodes that live."""
        nodes: dict[str, Node] = self.nodes
        return [node for node in nodes.values() if node.is_up]

    def primary(self) -> Any | None:
        """The primary of the latest view, if there is one that lives."""
        primaries = [node for node in self.up() if node.core.role is Role.PRIMARY]
        return max(primaries, key=lambda node: node.core.view, default=None)

    def may_lose(self, name: str) -> bool:
        """Whether every configuration that anybody has keeps a majority if this node is lost, too."""
        lost = {node.node_id for node in self.nodes.values() if not node.is_up} | {self.nodes[name].node_id}
        known = {nodes for node in self.up() for _, nodes in node.shadow.configurations}
        return all(2 * len(nodes - lost) > len(nodes) for nodes in known)

    def can_live(self, nodes: frozenset[str]) -> bool:
        """Whether a majority of these lives: nobody would make such a configuration otherwise."""
        return 2 * len(self.alive(nodes)) > len(nodes)

    def alive(self, nodes: Iterable[str]) -> list[Any]:
        """Those of these ids that live. A node that ended while it joined may be in the ledger, and was never one here."""
        known = (self.by_id.get(node) for node in sorted(nodes))
        return [node for node in known if node is not None and node.is_up]

    def _node(self, name: str) -> Any | None:
        node: Node | None = self.nodes.get(name)
        return node if node is not None and node.is_up and not node.is_paused else None

    # Events of the network.

    def do_deliver(self, source: str, target: str, index: int = 0, count: int = 1) -> None:
        """Packets arrive, `count` of them from the `index`-th on, and are worked through in one wake-up."""
        node = self._node(target)
        if node is None:
            if target not in self.nodes or not self.nodes[target].is_up:
                self.network.lose((source, target), index)
            return
        sender = self.nodes[source]
        taken = 0
        for _ in range(count):
            packet = self.network.take((source, target), index)
            if packet is None:
                break
            taken += 1
            self.arrive(node, sender, packet)
        if taken:
            self.inputs += taken
            if index:
                self.faults["reorder"] += 1
            self.wake(node)

    def do_drain(self, target: str, most: int) -> None:
        """One wake-up finds all that is there, as a busy host's does: packets of every way to a node, `most` of each, and syncs."""
        node = self._node(target)
        if node is None:
            return
        taken = 0
        for pair in [pair for pair in self.network.busy if pair[1] == target]:
            for _ in range(most):
                packet = self.network.take(pair)
                if packet is None:
                    break
                taken += 1
                self.arrive(node, self.nodes[pair[0]], packet)
        for _ in range(min(most, len(node.disk.queue))):
            report = self.finish(node)
            if report is not None:
                taken += 1
                self.stored(node, report)
        if taken:
            self.inputs += taken
            self.wake(node)

    def do_lose(self, source: str, target: str, index: int = 0) -> None:
        """A packet is lost."""
        if self.network.lose((source, target), index):
            self.faults["loss"] += 1

    def do_repeat(self, source: str, target: str, index: int = 0) -> None:
        """A packet is on its way twice."""
        if self.network.repeat((source, target), index):
            self.faults["repeat"] += 1

    def do_replay(self, source: str, target: str, index: int) -> None:
        """A packet of long ago sets out again."""
        if self.network.replay((source, target), index):
            self.faults["replay"] += 1

    def do_cut(self, source: str, target: str) -> None:
        """From one node to another nothing gets through."""
        self.network.cut.add((source, target))

    def do_mend(self) -> None:
        """Every way is open."""
        self.network.mend()

    def do_partition(self, kind: str, *group: str) -> None:
        """Cut all ways between a group and the others: `both` directions, `in` or `out` of the group only."""
        others = [name for name in self.nodes if name not in group]
        pairs = [(a, b) for a in group for b in others]
        if kind != "in":
            self.network.cut.update(pairs)
        if kind != "out":
            self.network.cut.update((b, a) for a, b in pairs)
        if group and others:
            self.faults["partition" if kind == "both" else "one-way partition"] += 1

    def do_break(self, source: str, target: str) -> None:
        """The connection from one node to another breaks: what was on it is lost, and both ends learn of it."""
        node, other = self._node(source), self.nodes.get(target)
        if node is None or other is None:
            return
        self.faults["reset"] += 1
        self.inputs += 1
        self.network.lose_all((source, target))
        self.broken(node, other)
        self.wake(node)

    # Events of time.

    def do_pass(self, seconds: float) -> None:
        """Time passes for everybody, at everybody's rate."""
        self.time += seconds
        nodes: list[Node] = list(self.nodes.values())
        for node in nodes:
            if node.is_up and not node.is_frozen:
                node.clock += seconds * node.rate
        for node in nodes:
            if node.is_up and not node.is_paused:
                self.time_passed(node)

    def do_tick(self, name: str, seconds: float) -> None:
        """One node's clock runs ahead."""
        node = self._node(name)
        if node is not None:
            node.clock += seconds
            if seconds > 1:
                self.faults["clock jump"] += 1
            self.time_passed(node)

    def do_freeze(self, name: str, on: int) -> None:
        """A node's clock stands still, or goes on."""
        if name in self.nodes:
            self.nodes[name].is_frozen = bool(on)
            self.faults["clock freeze"] += on

    # Events of processes.

    def do_pause(self, name: str, on: int) -> None:
        """A node is stopped (SIGSTOP), or goes on."""
        node = self.nodes.get(name)
        if node is not None and node.is_up and node.is_paused is not bool(on):
            node.is_paused = bool(on)
            self.faults["pause"] += on

    def do_crash(self, name: str, unsent: int = 0) -> None:
        """A node is gone for good; of what it sent last, so many packets on each way never left."""
        node = self.nodes.get(name)
        if node is None or not node.is_up:
            return
        self.faults["crash"] += 1
        if node.disk.queue:
            self.faults["crash between persistence steps"] += 1
        node.is_up = False
        for pair in list(self.network.busy):
            if pair[0] == name:
                for _ in range(unsent):
                    self.network.lose(pair, self.network.pending(pair) - 1)
        self.crashed(node)

    def crashed(self, node: Any) -> None:
        """What else happens when a node is gone."""

    # Events of disks.

    def do_store(self, name: str) -> None:
        """A disk finishes its oldest piece of work."""
        node = self._node(name)
        if node is None:
            return
        report = self.finish(node)
        if report is not None:
            self.inputs += 1
            self.stored(node, report)
            self.wake(node)

    def do_lie(self, name: str, lie: str, parameter: int) -> None:
        """From now on, a host lies about its disk."""
        node = self.nodes.get(name)
        if node is None or not node.is_up or lie not in LIES:
            return
        self.faults["disk: " + lie] += 1
        node.disk.lie = (lie, parameter)

    def boast(self, node: Any, generation: int, beyond: int) -> Report:
        """What a host says that it stored, and was never given: beyond the last, or of another view. Each world has its event for it."""
        self.faults["disk: boastful"] += 1
        self.inputs += 1
        core = node.core
        seqno = core._handed + beyond
        return Report(core._generation + generation, (core.view_of(seqno) or core.view) + (beyond <= 0), seqno)

    def do_honest(self, name: str) -> None:
        """A host lies no more."""
        if name in self.nodes:
            self.nodes[name].disk.lie = None

    # The end.

    def may_stand_still(self) -> bool:
        """Whether the service need not go on, though every fault has ended."""
        return False

    def calm(self) -> None:
        """End every fault: the network carries, hosts are honest, clocks run, whoever was stopped goes on."""
        self.network.mend()
        for node in self.nodes.values():
            node.is_paused = node.is_frozen = False
            node.rate = 1.0
            node.disk.lie = None

    def rest(self, limit: int = 20_000) -> None:
        """Deliver and store until nothing is left to do."""
        network = self.network
        for _ in range(limit):
            if network.busy:
                source, target = network.busy[0]
                count = min(network.pending((source, target)), 8)
                self.do_deliver(source, target, 0, count)
                if network.pending((source, target)) and not self.nodes[target].is_up:
                    network.lose_all((source, target))
            else:
                waiting = [node for node in self.up() if node.disk.queue]
                if not waiting:
                    return
                for node in waiting:
                    while node.disk.queue and node.is_up:
                        self.do_store(node.name)
        raise Violation("ComesToRest", f"nodes talk without end: {self.network.busy[:6]}")
