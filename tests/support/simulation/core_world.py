"""The core world: consensus alone. Nodes append, sign, ask and change configurations whenever the driver says so.

An entry is its own description: a letter for what it does, its name, and the rest. So schedules are reached that the service never makes:
several unsigned configurations, signatures at any place, reads at any moment.
"""

import contextlib
from collections import deque
from collections.abc import Hashable
from hashlib import sha256
from typing import Any, Final

from ledgerd.enclave.consensus.core import Appended, Configuration, Consensus, LogEntry, Note, Role, Settings
from ledgerd.ledger.errors import HostError, IntegrityError
from ledgerd.ledger.ids import FIRST_VIEW, NodeId, Seqno, TransactionId, View
from support.simulation.copying import allow, copied, put
from support.simulation.disk import Disk, Report
from support.simulation.elections import WatchedConsensus, watched
from support.simulation.observation import PLAIN, Meaning, Registry, Shadow, Witness, plain
from support.simulation.plan import SET_BACK, Plan
from support.simulation.violation import Violation
from support.simulation.world import CLOCK_BEGINS, Event, Node, World

_PLAIN: Final = ord("p")
_SIGNATURE: Final = ord("s")
_LAST_READ: Final = "the last read"


def make_entry(letter: str, view: int, seqno: int, rest: str = "") -> bytes:
    """An entry's bytes. Letters: p plain, s signature (`rest`: a root), c configuration (`rest`: its nodes), r removal (`rest`: whose)."""
    return f"{letter}{view}.{seqno} {rest}".encode()


def read_entry(data: bytes, before: frozenset[str]) -> Meaning:
    """What an entry means."""
    if data[0] == _PLAIN:
        return PLAIN
    letter, rest = data[:1], data.decode().split()[1:]
    if letter == b"s":
        return Meaning(signs=True)
    return Meaning(nodes=frozenset(rest)) if letter == b"c" else Meaning(removed=frozenset(rest))


class Machine:
    """The state machine below consensus: it counts, and says what entries mean.

    Attributes:
        roots: A digest over everything up to each entry, for signatures to have; only where names may stand for two entries, as it costs.
    """

    def __init__(self, has_roots: bool) -> None:
        self.last = 0
        self.committed = 0
        self.roots = [b""] if has_roots else None

    def root(self) -> str:
        """What a signature entry here covers."""
        return "" if self.roots is None else self.roots[-1].hex()

    def extend(self, data: bytes) -> None:
        """The next entry, where there are roots.

        Raises: IntegrityError: It is a signature, over something else.
        """
        assert self.roots is not None
        if data[0] == _SIGNATURE and data.split()[1:] != [self.root().encode()]:
            raise IntegrityError("the signed root is another")
        self.roots.append(sha256(self.roots[-1] + data).digest()[:8])

    def append(self, view: View, first: Seqno, entries: list[bytes]) -> Appended:
        if first != self.last + 1:
            raise Violation("StateFollowsLog", f"entries from {first} on are applied to a state at {self.last}")
        if self.roots is not None:
            for data in entries:
                self.extend(data)
        self.last += len(entries)
        notes = []
        for seqno, data in enumerate(entries, first):
            if data[0] != _PLAIN:
                notes.append(_note(Seqno(seqno), read_entry(data, frozenset())))
        return Appended(entries, notes)

    def rollback(self, to: TransactionId) -> None:
        if not self.committed <= to.seqno < self.last:
            raise Violation("StateFollowsLog", f"a state at {self.last}, final up to {self.committed}, is taken back to {to.seqno}")
        self.last = to.seqno
        if self.roots is not None:
            del self.roots[to.seqno + 1 :]

    def commit(self, to: Seqno) -> None:
        if not self.committed < to <= self.last:
            raise Violation("StateFollowsLog", f"a state at {self.last}, final up to {self.committed}, becomes final up to {to}")
        self.committed = to


def _note(seqno: Seqno, meaning: Meaning) -> Note:
    configuration = None if meaning.nodes is None else Configuration(seqno, frozenset(map(NodeId, meaning.nodes)))
    return Note(seqno, meaning.signs, configuration, frozenset(map(NodeId, meaning.removed)))


class CoreNode(Node):
    """Consensus, a state that counts, a disk.

    Attributes:
        former: The disk that it had before it was set back, with what it had acknowledged then.
    """

    def __init__(self, name: str, rate: float, machine: Machine, core: WatchedConsensus) -> None:
        super().__init__(name, name, rate)
        self.former: Disk | None = None
        self.machine = machine
        self.core = core

    def has_stored(self, view: int, seqno: int) -> bool:
        return self.disk.has(view, seqno) or (self.former is not None and self.former.has(view, seqno))

    def append(self, letter: str, rest: str = "") -> None:
        """As the primary: make the next entry."""
        core = self.core
        seqno = Seqno(core.last_seqno + 1)
        data = make_entry(letter, core.view, seqno, self.machine.root() if letter == "s" else rest)
        self.machine.last += 1
        if self.machine.roots is not None:
            self.machine.extend(data)
        if letter == "p":
            core.replicate_plain(core.view, seqno, (data,), (data,))
        else:
            note = _note(seqno, read_entry(data, frozenset()))
            core.replicate(LogEntry(core.view, seqno, data, data, note.committable, note.configuration, note.removed))


def _blank_machine() -> Machine:
    return Machine(has_roots=False)


def _blank_consensus() -> WatchedConsensus:
    return WatchedConsensus(NodeId(""), _blank_machine(), Settings(), float, 0.0)


def _blank_node() -> CoreNode:
    return CoreNode("", 1.0, _blank_machine(), _blank_consensus())


def _blank_shadow() -> Shadow:
    return Shadow("", Registry(read_entry), Witness())


allow(CoreNode, _blank_node)
allow(Disk, Disk)
allow(Machine, _blank_machine)
allow(Shadow, _blank_shadow)
allow(WatchedConsensus, _blank_consensus)


class CoreWorld(World):
    """Consensus cores.

    Attributes:
        asked: Reads that wait, by token: the node, and whether its log had everything final when it was asked.
        confirmed: The last read that was confirmed.
        copies: Memories and disks as they were, by node, for a host to put back.
        heard: What those nodes were given since: senders and packets.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan, read_entry)
        self.settings = Settings(**plan.settings)
        self.asked: dict[Hashable, tuple[str, bool]] = {}
        self.confirmed: Hashable = None
        self.copies: dict[str, CoreNode] = {}
        self.heard: dict[str, deque[tuple[CoreNode, Any]]] = {}
        first = self._new("n1")
        first.core.start_primary(FIRST_VIEW)
        self.registry.winners[FIRST_VIEW] = "n1"
        first.append("c", "n1")
        self.wake(first)
        names = [f"n{number}" for number in range(2, plan.nodes + 1)]
        for name in names:
            self.do_join(name)
        if names:
            self.do_configure("n1", "n1", *names)
        self.do_sign("n1")
        self.rest()
        self.do_pass(0.15)
        self.rest()

    def _new(self, name: str) -> CoreNode:
        rate, machine = self.rate(), Machine(SET_BACK in self.plan.faults)
        node = CoreNode(name, rate, machine, watched(Consensus)(NodeId(name), machine, self.settings, self.jitter, CLOCK_BEGINS))
        node.watch(self.registry, self.judge)
        self.add(node)
        return node

    # What a node does.

    def arrive(self, node: CoreNode, sender: CoreNode, packet: Any) -> None:
        if self.copies and node.name in self.copies:
            self.heard[node.name].append((sender, packet))
        node.core.tick(node.clock)
        node.core.receive(NodeId(sender.name), packet)

    def stored(self, node: CoreNode, report: Report) -> None:
        node.core.stored(report.generation, View(plain(report.view)), Seqno(report.seqno))

    def promised(self, node: CoreNode, packet: Any) -> None:
        to, message = packet
        if to in self.nodes:
            self.network.post((node.name, to), message)

    def broken(self, node: CoreNode, other: CoreNode) -> None:
        node.core.cut(NodeId(other.name))

    def wake(self, node: CoreNode) -> None:
        core = node.core
        node.due = None
        core.tick(node.clock)
        while True:
            ready = core.ready()
            if ready.failed is not None:
                break
            self.store(node, ready)
            post = self.network.post
            for to, message in ready.messages:
                if to in self.nodes:
                    post((node.name, to), message)
            if ready.promise is not None:
                self.promise(node, ready.promise)
            if ready.confirmed or ready.refused:
                self._answered(node, ready.confirmed, ready.refused)
            for first in ready.fetch:
                self._fetch(node, first)
            if ready.became_primary is not None and core.role is Role.PRIMARY:
                # Its own log must be complete before it makes anything on top of it.
                self.judge.look(node)
                node.append("s")
            elif not ready.fetch:
                break
        self.judge.look(node)
        if core.failed is not None:
            node.is_up = False
            self.faults["node stops: a memory was set back"] += 1
            if self.trace is not None:
                self.trace(f"{node.name} stops: {core.failed}")

    def next_wakeup(self, node: CoreNode) -> float:
        return node.core.next_deadline()

    def _fetch(self, node: CoreNode, first: int) -> None:
        """Read back for a peer that lags. What a lying host gives back is for the worlds that check it; here it gives nothing."""
        self.inputs += 1
        lie = node.disk.lie
        found = [] if lie is not None and lie[0] != "boastful" else node.disk.read(first, self.plan.fetch)
        entries = []
        for seqno, data in enumerate(found or [], first):
            note = _note(Seqno(seqno), read_entry(data, frozenset()))
            view = View(plain(node.disk.views[seqno]))
            entries.append(LogEntry(view, Seqno(seqno), data, data, note.committable, note.configuration, note.removed))
        node.core.fetched(Seqno(first), entries)

    def _answered(self, node: CoreNode, confirmed: list[Hashable], refused: list[Hashable]) -> None:
        if node.name in self.registry.set_back:
            # No digest keeps old answers of its peers from passing for new ones, and it may be asked what it has answered before.
            confirmed = []
        for token in confirmed:
            asked = self.asked.pop(token, None)
            if asked is None or asked[0] != node.name:
                raise Violation("AnswersAreAskedFor", f"{node.name} confirms {token}, which nobody asked it")
            if not asked[1]:
                raise Violation("ReadIsFresh", f"{node.name} answers {token}, though it lacked what was final when it was asked")
            self.confirmed = token
        for token in refused:
            self.asked.pop(token, None)

    # Events.

    def do_write(self, name: str, count: int, size: int) -> None:
        """A client has a primary make entries."""
        node = self._node(name)
        if node is not None and node.core.role is Role.PRIMARY:
            for _ in range(count):
                node.append("p", "x" * size)
            self.inputs += count
            self.wake(node)

    def do_hurry(self, name: str, count: int) -> None:
        """As `write`, but the node does not get to send anything yet."""
        node = self._node(name)
        if node is not None and node.core.role is Role.PRIMARY:
            for _ in range(count):
                node.append("p")
            self.inputs += count
            node.due = node.clock  # what else comes at this moment may come first

    def do_sign(self, name: str) -> None:
        """A primary signs."""
        node = self._node(name)
        if node is not None and node.core.role is Role.PRIMARY:
            node.append("s")
            self.inputs += 1
            self.wake(node)

    def do_ask(self, name: str, token: str) -> None:
        """A linearizable read arrives at a node."""
        node = self._node(name)
        if node is not None:
            final, views = self.registry.final, node.shadow.views
            last = len(final) - 1
            self.asked[token] = (name, views[last : last + 1] == final[last:])
            node.core.confirm(token)
            self.inputs += 1
            self.wake(node)

    def do_join(self, name: str) -> None:
        """A new enclave, with an empty log."""
        if name not in self.nodes:
            node = self._new(name)
            node.core.start_backup()
            self.wake(node)

    def do_configure(self, name: str, *members: str) -> None:
        """A primary appends a configuration."""
        node = self._node(name)
        if node is not None and node.core.role is Role.PRIMARY and all(member in self.nodes for member in members):
            node.append("c", " ".join(members))
            self.inputs += 1
            self.wake(node)

    def do_record(self, name: str, *removed: str) -> None:
        """A primary records removals that are final."""
        node = self._node(name)
        if node is not None and node.core.role is Role.PRIMARY:
            gone = [member for member in removed if member in node.core._leaving]
            if gone:
                node.append("r", " ".join(gone))
                self.inputs += 1
                self.wake(node)

    def do_boast(self, name: str, generation: int, beyond: int) -> None:
        """A host says that it stored what it was never given: beyond the last, or of another view; the node must refuse it."""
        node = self._node(name)
        if node is None:
            return
        report = self.boast(node, generation, beyond)
        before = node.core.stored_seqno
        with contextlib.suppress(HostError):
            self.stored(node, report)
        if node.core.stored_seqno != before:
            raise Violation("StoredIsGiven", f"{name} believes that {report.view}.{report.seqno} is on its disk")
        self.wake(node)

    # Events of a host that sets back a memory.

    def do_copy(self, name: str) -> None:
        """A host copies an enclave's memory, and its own disk."""
        node = self._node(name)
        if node is not None and not self.registry.set_back:
            shared = {id(thing): thing for thing in (self, self.registry, self.judge, self.settings)}
            self.copies = {name: copied(node, shared)}
            self.heard = {name: deque()}

    def do_restore(self, name: str) -> None:
        """It puts the copy back, once."""
        node = self._node(name)
        kept = self.copies.pop(name, None)
        if node is None or kept is None:
            return
        self.faults["memory set back"] += 1
        self.registry.set_back.add(name)
        former, clock, rate = node.disk, node.clock, node.rate
        put(node, kept)
        node.former, node.clock, node.rate, node.disk.lie = former, clock, rate, former.lie
        node.core.watched = node
        self.asked = {token: asked for token, asked in self.asked.items() if asked[0] != name}
        self.wake(node)

    def do_again(self, name: str, index: int = 0) -> None:
        """It gives an enclave something again that it was given before it was set back: the `index`-th that is left of it."""
        node, heard = self._node(name), self.heard.get(name)
        if node is not None and heard and index < len(heard) and name in self.registry.set_back:
            sender, packet = heard[index]
            del heard[index]
            self.faults["replay"] += 1
            self.inputs += 1
            self.arrive(node, sender, packet)
            self.wake(node)

    # What the driver may ask for.

    def set_back_event(self, chance: Any) -> Event | None:
        """A host takes a copy of an enclave's memory, sometimes a newer one; puts it back; and then plays again what it had played."""
        if self.registry.set_back:
            (name,) = self.registry.set_back
            left = len(self.heard.get(name, ()))
            return ("again", name, 0 if chance.random() < 0.7 else chance.randrange(left)) if left else None
        if self.copies and chance.random() < 0.3:
            return ("restore", next(iter(self.copies)))
        primary = self.primary()
        running = self.running()
        if primary is not None and chance.random() < 0.5:
            return ("copy", primary.name)
        return ("copy", chance.choice(running).name) if running else None

    def an_update(self, node: Any, chance: Any) -> Event:
        """Something for a client to change."""
        if chance.random() < 0.2:
            return ("hurry", node.name, chance.randrange(1, 5))
        return ("write", node.name, chance.randrange(1, 8), chance.randrange(60))

    def a_read(self, node: Any, chance: Any) -> Event:
        """A linearizable read."""
        return ("ask", node.name, f"r{self.inputs}")

    def probes(self, chance: Any, node: Any) -> list[Event]:
        """What clients would ask now about what they have done: there are none."""
        return []

    def a_signature(self, node: Any) -> Event:
        """Have it sign."""
        return ("sign", node.name)

    def client_event(self, chance: Any) -> Event | None:
        """Somebody wants something. A deposed primary does not know it yet: it too must take writes."""
        primaries = [node for node in self.running() if node.core.role is Role.PRIMARY]
        if not primaries:
            return None
        node = primaries[0] if len(primaries) == 1 else chance.choice(primaries)
        draw = chance.random()
        if draw < 0.5:
            return self.an_update(node, chance)
        return ("sign", node.name) if draw < 0.88 else self.a_read(node, chance)

    def grow_events(self, chance: Any, count: int) -> list[Event]:
        """New nodes join."""
        primary = self.primary()
        if primary is None or primary.is_paused:
            return []
        names = [f"n{len(self.nodes) + 1 + number}" for number in range(count)]
        nodes = primary.shadow.configurations[-1][1]
        return [*(("join", name) for name in names), ("configure", primary.name, *sorted(nodes), *names)]

    def shrink_events(self, name: str) -> list[Event]:
        """A node is removed."""
        primary = self.primary()
        if primary is None or primary.is_paused:
            return []
        nodes = primary.shadow.configurations[-1][1] - {name}
        if not self.can_live(nodes):
            return []
        return [("configure", primary.name, *sorted(nodes))]

    def record_events(self) -> list[Event]:
        """Final removals are put on record."""
        primary = self.primary()
        return [("record", primary.name, *sorted(primary.core._leaving))] if primary is not None and primary.core._leaving else []

    def client_trouble(self, chance: Any) -> Event | None:
        """There are no clients here that could make any."""
        return None

    # The end.

    def may_stand_still(self) -> bool:
        """Where a memory was set back nodes may stop, since they cannot tell whose it was; and whom it led to another entry of the name of
        a final one is lost to the service, though perhaps nobody can know. The others must go on as long as they are a majority.
        """
        final = self.registry.final
        able = {
            node.node_id
            for node in self.up()
            if all(mine == one or plain(mine) != plain(one) for mine, one in zip(node.shadow.views, final, strict=False))
        } - self.registry.set_back
        known = {nodes for node in self.nodes.values() for _, nodes in node.shadow.configurations}
        return bool(self.registry.set_back) and any(len(nodes & able) * 2 <= len(nodes) for nodes in known)

    def demand(self) -> int | None:
        """Have something new made; the seqno that must become final, or None if there is no primary."""
        primary = self.primary()
        if primary is None:
            return None
        primary.append("p")
        primary.append("s")
        self.wake(primary)
        return int(primary.core.last_seqno)

    def demand_answer(self, primary: Any) -> None:
        """Ask for a linearizable read."""
        self.do_ask(primary.name, _LAST_READ)

    def unanswered(self) -> str:
        """Who waits in vain, in words; empty if nobody does."""
        waiting = [token for token, (name, _) in self.asked.items() if self.nodes[name].is_up]
        if self.registry.set_back:
            return ""
        if waiting:
            return f"reads {', '.join(map(str, waiting))} are neither confirmed nor refused"
        return "" if self.confirmed == _LAST_READ else "the primary confirms no read"

    def judge_end(self) -> None:
        """What nodes keep beside their logs is what the logs say, and honest disks have it."""
        for node in self.up():
            log, shadow = node.core._log, node.shadow
            views = list(map(plain, shadow.views))
            starts = [(v, s) for s, v in enumerate(views) if s and v != views[s - 1]]
            if node.core.view_history != starts:
                raise Violation("ViewHistory", f"{node.name}: {node.core.view_history}, its log says {starts}")
            if log.base > min(shadow.commit, node.core.stored_seqno):
                raise Violation("HeldUntilSafe", f"{node.name} let go of entries up to {log.base}")
            held = [self.registry.facts[v, s].data for s, v in enumerate(shadow.views) if s > log.base]
            if log.data(Seqno(log.base + 1), node.core.last_seqno) != held:
                raise Violation("LogIsWhole", f"{node.name} holds other entries than it was given")
            if node.disk.views[: shadow.commit + 1] != shadow.views[: shadow.commit + 1] and not node.disk.queue:
                raise Violation("DiskFollows", f"{node.name}: the disk has not what is final")
