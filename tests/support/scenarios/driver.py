"""Carries out the commands of CCF's scenario language on a cluster of our consensus cores.

What is CCF's: its times (in milliseconds, the unit of every clock here) and batches; each node has one queue of outgoing messages, and
connections matter when a message leaves it; the entries of an AppendEntries are read from the sender's ledger at that moment; nothing is
signed but by `emit_signature`; a node has no role before it is spoken to. What is ours: the disk, which here is immediate; one
acknowledgement for each message, the last.
Not here: the form of files (`language`), what the cores do as CCF's (`habits`), what must hold after each step (`invariants`).
"""

import json
import random
from collections.abc import Callable, Iterable
from itertools import product
from typing import Final

from ledgerd.enclave.consensus import messages
from ledgerd.enclave.consensus.core import Configuration, Consensus, Retirement, Role, Settings
from ledgerd.enclave.consensus.messages import AppendAccepted, AppendEntries
from ledgerd.ledger.ids import FIRST_VIEW, NodeId, Seqno
from support.consensus_cluster import Cluster, Member, Packet, describe, describe_member, unpack
from support.scenarios import invariants
from support.scenarios.habits import with_habits
from support.scenarios.language import Step

UNLIMITED: Final = 1 << 40
ELECTION_MILLISECONDS: Final = 100.0
CCF: Final = Settings(
    heartbeat=10.0,
    election_timeout=ELECTION_MILLISECONDS,
    stalled=float("inf"),
    commit_notice=10.0,
    batch_entries=20,
    batch_bytes=20_000,
    flight_bytes=UNLIMITED,
    flight_messages=UNLIMITED,
    window_entries=UNLIMITED,
    window_bytes=UNLIMITED,
    unsigned_entries=0,
)
DIGITS_MAX: Final = 12  # of a number in a file; milliseconds of thirty years
ROUNDS_MAX: Final = 5  # of dispatch_all
SYNC_ROUNDS_MAX: Final = 20


class Failed(Exception):
    """An assertion of the file, or one that every file has to stand, does not hold."""

    def __init__(self, expected: str, seen: str) -> None:
        super().__init__(f"expected {expected}; seen {seen}")
        self.expected = expected
        self.seen = seen


class Driver(Cluster):
    """A cluster, as the commands of one file have made it.

    Args:
        core: The class under test, or one with a planted bug; CCF's habits are added to it.
    """

    def __init__(self, core: type[Consensus] = Consensus) -> None:
        super().__init__(CCF, core=with_habits(core))
        # CCF's timers begin with 0 to 50 of the 100 ms elapsed. Files have to work with every draw; here it is the longest, always.
        self._jitter = lambda: 1.0
        self._random = random.Random(1)  # a shuffle is the same in every run
        self.connections: set[tuple[str, str]] = set()
        self.memory = invariants.Memory()
        self.delivered = 0

    def do(self, step: Step) -> None:
        """Carry out one command, and check what must hold after each.

        Raises: Failed, AssertionError: Something does not hold.
        """
        name = "assert_not_detail" if step.command == "assert_!detail" else step.command
        method: Callable[..., None] = getattr(self, f"do_{name}")
        method(*step.words)
        invariants.check(self)

    def finish(self) -> None:
        """After the last line: there must be a way to full agreement."""
        self.do_loop_until_sync()
        invariants.check(self)

    # How nodes move. Whatever happens to one, its disk is done with it before anything else happens.

    def _act(self, member: Member, action: Callable[[], object]) -> None:
        mark = len(self.packets)
        action()
        self.pump(member.node_id)
        while member.writes and not member.down:
            self.store(member.node_id)
        # Acknowledgements are given when a message arrives and again when its entries are stored. CCF's files count one.
        fresh = self.packets[mark:]
        last = {packet.to: index for index, packet in enumerate(fresh) if _is_accepted(packet)}
        self.packets[mark:] = [packet for index, packet in enumerate(fresh) if not _is_accepted(packet) or last[packet.to] == index]
        for sender, to, data in self.packets[mark:]:
            super().note(f"{sender}->{to} {describe(messages.decode(data))}")

    def _begin_view(self, member: Member) -> None:
        """Nothing is signed but on command."""

    def _post(self, packet: Packet) -> None:
        self.packets.append(packet)

    def note(self, line: str) -> None:
        if " stores generation " not in line and "->" not in line:  # what is sent is told by _act
            super().note(line)

    def _node(self, name: str) -> Member:
        member = self.members.get(name)
        if member is None:
            raise Failed(f"a node {name}", f"nodes {', '.join(self._names()) or 'none'}")
        return member

    def _all_there(self, *names: str) -> None:
        for name in names:
            self._node(name)

    def _names(self) -> list[str]:
        return sorted(self.members)

    def _create(self, name: str) -> Member:
        if name in self.members:
            raise Failed(f"no node {name} yet", "there is one")
        return self.add(name)

    def _wake(self, member: Member) -> None:
        """Until it is spoken to, a node has no role."""
        core = member.core
        if core.role is Role.NONE and core.retirement is Retirement.NONE:
            core.start_backup()
            if member.initial is not None:
                core._configure(Configuration(Seqno(0), member.initial))
            core.tick(member.now)

    def _primary(self, term: str) -> Member | None:
        """The primary of a view; of `latest`, there may be none."""
        primaries = sorted((m for m in self.members.values() if m.core.role is Role.PRIMARY), key=lambda m: (m.core.view, m.node_id))
        if term == "latest":
            return primaries[-1] if primaries else None
        for member in primaries:
            if member.core.view == _number(term):
                return member
        seen = ", ".join(f"{m.node_id} in {m.core.view}" for m in primaries) or "none"
        raise Failed(f"a primary in term {term}", f"primaries: {seen}")

    def _replicate(
        self, term: str, payload: str = "", *, sign: bool = False, nodes: Iterable[str] | None = None, removed: Iterable[str] = ()
    ) -> None:
        if nodes is not None and not set(nodes):
            raise Failed("a configuration with a node in it", "none")
        member = self._primary(term)
        if member is None:
            self.note(f"no primary to replicate {payload or 'that'}")
            return
        self._act(member, lambda: member.replicate(payload, sign=sign, nodes=nodes, removed=removed))
        entry = unpack(member.machine.log[-1])
        kind = "signature" if sign else f"configuration {' '.join(sorted(nodes))}" if nodes is not None else payload or "record"
        self.note(f"{member.node_id} appends {entry.view}.{entry.seqno} {kind[:40]}")

    # Nodes and configurations.

    def do_start_node(self, name: str) -> None:
        if self.members:
            raise Failed("start_node as the first node", f"nodes {', '.join(self._names())}")
        member = self._create(name)
        member.core.start_primary(FIRST_VIEW)
        self._replicate(str(FIRST_VIEW), nodes=[name])

    def do_trust_node(self, term: str, name: str) -> None:
        self.do_trust_nodes(term, name)

    def do_trust_nodes(self, term: str, *names: str) -> None:
        self._admit(names)
        self._replicate(term, nodes=self._names())

    def do_swap_node(self, term: str, out: str, name: str) -> None:
        self.do_swap_nodes(term, "out", out, "in", name)

    def do_swap_nodes(self, term: str, *words: str) -> None:
        lists: dict[str, list[str]] = {"in": [], "out": []}
        kind = words[0]
        if kind not in lists:
            raise Failed("`in` or `out` after the term", kind)
        for word in words:
            if word in lists:
                kind = word
            else:
                lists[kind].append(word)
        self._all_there(*lists["out"])
        self._admit(lists["in"])
        self._replicate(term, nodes=[name for name in self._names() if name not in lists["out"]])

    def _admit(self, names: Iterable[str]) -> None:
        for name in names:
            self._create(name)
        for name in names:
            for other in self._names():
                if other != name:
                    self.do_connect(name, other)

    def do_cleanup_nodes(self, term: str, *names: str) -> None:
        self._all_there(*names)
        self._replicate(term, removed=names)

    def do_nominate_successor(self, name: str) -> None:
        member = self._node(name)
        self._act(member, member.core.propose_successor)

    def do_pre_vote_enabled(self, value: str) -> None:
        if value not in ("true", "false"):
            raise Failed("true or false", value)
        self.settings = self.settings._replace(pre_vote=value == "true")  # of nodes made from now on

    def do_nodes(self, *names: str) -> None:
        for name in names:
            self._create(name)
        for member in self.members.values():
            member.initial = frozenset(map(NodeId, names))

    def do_create_new_node(self, name: str) -> None:
        self._create(name)

    def do_replicate_new_configuration(self, term: str, *names: str) -> None:
        for name in names:
            if name not in self.members:
                self._create(name)
        self._replicate(term, nodes=names)

    # Entries.

    def do_replicate(self, term: str, data: str) -> None:
        self._replicate(term, data)

    def do_emit_signature(self, term: str) -> None:
        self._replicate(term, sign=True)

    # Time.

    def do_periodic_one(self, name: str, milliseconds: str) -> None:
        member = self._node(name)
        member.now += _number(milliseconds)
        if member.core.role is Role.NONE and member.initial is not None:
            if member.now < ELECTION_MILLISECONDS:
                return
            self._act(member, lambda: self._wake(member))
        self._act(member, lambda: member.core.tick(member.now))

    def do_periodic_all(self, milliseconds: str) -> None:
        for name in self._names():
            self.do_periodic_one(name, milliseconds)

    # The network.

    def do_connect(self, one: str, other: str) -> None:
        self._all_there(one, other)
        self.connections |= {(one, other), (other, one)}

    def do_reconnect(self, one: str, other: str) -> None:
        self.do_connect(one, other)

    def do_disconnect(self, one: str, other: str) -> None:
        self._all_there(one, other)
        self.connections -= {(one, other), (other, one)}

    def do_disconnect_node(self, name: str) -> None:
        self._node(name)
        for other in self._names():
            self.do_disconnect(name, other)

    def do_reconnect_node(self, name: str) -> None:
        self._node(name)
        for other in self._names():
            if other != name:
                self.do_connect(name, other)

    def do_drop_pending(self, sender: str) -> None:
        self._node(sender)
        self.packets = [packet for packet in self.packets if packet.sender != sender]

    def do_drop_pending_to(self, sender: str, to: str) -> None:
        self._all_there(sender, to)
        self.packets = [packet for packet in self.packets if (packet.sender, packet.to) != (sender, to)]

    def do_dispatch_one(self, sender: str) -> None:
        self._node(sender)
        self._dispatch(sender, UNLIMITED)

    def do_dispatch_single(self, sender: str, to: str) -> None:
        self._all_there(sender, to)
        packet = next((packet for packet in self.packets if (packet.sender, packet.to) == (sender, to)), None)
        if packet is not None:
            self._dispatch_packet(packet)

    def do_dispatch_all_once(self) -> None:
        # Those that are waiting now, and none that they cause.
        counts = {name: sum(packet.sender == name for packet in self.packets) for name in self._names()}
        for name, count in counts.items():
            self._dispatch(name, count)

    def do_dispatch_all(self) -> None:
        for _ in range(ROUNDS_MAX):
            if not self.packets:
                return
            self.do_dispatch_all_once()

    def _dispatch(self, sender: str, count: int) -> None:
        """Deliver the oldest messages of a node's queue, `count` at most, those not counted that get lost."""
        while count > 0:
            packet = next((packet for packet in self.packets if packet.sender == sender), None)
            if packet is None:
                return
            count -= self._dispatch_packet(packet)

    def _dispatch_packet(self, packet: Packet) -> bool:
        self.packets.remove(packet)
        sender, to, data = packet
        message = messages.decode(data)
        member = self.members.get(to)
        if member is None or (sender, to) not in self.connections:
            self.note(f"{sender}-x{to} {describe(message)}")
            return False
        if isinstance(message, AppendEntries) and not _is_still_there(self.members[sender], message):
            self.note(f"{sender}-x{to} {describe(message)}: rolled back meanwhile")
            return False
        self.note(f"{sender}=>{to} {describe(message)}")
        self.delivered += 1
        self._wake(member)
        self._act(member, lambda: member.core.receive(NodeId(sender), message))
        return True

    def do_shuffle_one(self, sender: str) -> None:
        self._node(sender)
        mine = [packet for packet in self.packets if packet.sender == sender]
        self._random.shuffle(mine)
        self.packets = [packet for packet in self.packets if packet.sender != sender] + mine

    def do_shuffle_all(self) -> None:
        for name in self._names():
            self.do_shuffle_one(name)

    def do_loop_until_sync(self) -> None:
        primary = self._primary("latest")
        if primary is None:
            raise Failed("a primary that could bring all nodes together", "none")
        self._replicate("latest", sign=True)
        active = [name for name in self._names() if self.members[name].core.retirement is Retirement.NONE]
        for name in active:
            self.do_reconnect_node(name)
        for _ in range(SYNC_ROUNDS_MAX):
            self.do_periodic_one(primary.node_id, "10")
            self.do_dispatch_all()
            differences = self._differences(active)
            if not differences:
                return
        raise Failed(f"all of {', '.join(active)} in sync after {SYNC_ROUNDS_MAX} rounds", "; ".join(differences))

    def do_assert_loop_sync(self, rounds: str, *names: str) -> None:
        self._all_there(*names)
        among = list(names)
        for _ in range(_number(rounds)):
            primary = self._primary("latest")
            if primary is None or not self._differences(among):
                break
            self.do_periodic_one(primary.node_id, "10")
            for sender, to in product(among, among):
                for _ in [packet for packet in self.packets if (packet.sender, packet.to) == (sender, to)]:
                    self.do_dispatch_single(sender, to)
        differences = self._differences(among)
        if differences:
            raise Failed(f"{', '.join(among)} in sync within {rounds} rounds among themselves", "; ".join(differences))

    def do_mark_seed(self, name: str) -> None:
        self.note(f"mark {name}")

    # For readers of the transcript.

    def do_state_one(self, name: str) -> None:
        self.note(describe_member(self._node(name)))

    def do_state_all(self) -> None:
        for name in self._names():
            self.do_state_one(name)

    def do_summarise_log(self, name: str) -> None:
        self.note(f"{name}: {summarise_log(self._node(name))}")

    def do_summarise_logs_all(self) -> None:
        for name in self._names():
            self.do_summarise_log(name)

    def do_summarise_messages(self, sender: str, to: str) -> None:
        self._all_there(sender, to)
        waiting = [describe(messages.decode(packet.data)) for packet in self.packets if (packet.sender, packet.to) == (sender, to)]
        self.note(f"{len(waiting)} from {sender} to {to}: {'; '.join(waiting) or '-'}")

    # Assertions.

    def do_assert_state_sync(self) -> None:
        differences = self._differences(self._names())
        if differences:
            raise Failed("all nodes in sync", "; ".join(differences))

    def _differences(self, names: list[str]) -> list[str]:
        """How nodes differ from the first in view, log or commit."""
        if not names:
            return []
        first = self.members[names[0]]
        differences = []
        for name in names[1:]:
            member = self.members[name]
            if member.core.view != first.core.view:
                differences.append(f"{name} is in term {member.core.view}, {first.node_id} in {first.core.view}")
            if member.disk != first.disk:
                differences.append(f"{name} has {summarise_log(member)}, {first.node_id} has {summarise_log(first)}")
            if member.core.commit_seqno != first.core.commit_seqno:
                differences.append(f"{name} has committed {member.core.commit_seqno}, {first.node_id} {first.core.commit_seqno}")
        return differences

    def do_assert_commit_safety(self, name: str) -> None:
        invariants.check_commit_safety(self, self._node(name))

    def do_assert_commit_idx(self, name: str, seqno: str) -> None:
        seen = self._node(name).core.commit_seqno
        if seen != _number(seqno):
            raise Failed(f"{name} at commit {seqno}", str(seen))

    def do_assert_last_txid(self, name: str, transaction_id: str) -> None:
        seen = str(self._node(name).core.last_id)
        if seen != transaction_id:
            raise Failed(f"{transaction_id} as the last entry of {name}", seen)

    def do_assert_detail(self, name: str, key: str, value: str) -> None:
        seen = self._detail(name, key)
        if seen != value:
            raise Failed(f"{key} of {name} to be {value}", seen)

    def do_assert_not_detail(self, name: str, key: str, value: str) -> None:
        if self._detail(name, key) == value:
            raise Failed(f"{key} of {name} not to be {value}", value)

    def _detail(self, name: str, key: str) -> str:
        """As GET /node/consensus would show it."""
        details = self._node(name).core.details()
        if key not in details:
            raise Failed(f"{name} to have a detail {key}", ", ".join(details))
        value = details[key]
        return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), sort_keys=True)

    def do_assert_config(self, name: str, seqno: str, *nodes: str) -> None:
        seen = self._configuration(name, seqno)
        if seen != frozenset(map(NodeId, nodes)):
            raise Failed(f"configuration {seqno} of {name} to be {', '.join(sorted(nodes))}", ", ".join(sorted(seen or {"none"})))

    def do_assert_absent_config(self, name: str, seqno: str) -> None:
        seen = self._configuration(name, seqno)
        if seen is not None:
            raise Failed(f"no configuration {seqno} at {name}", ", ".join(sorted(seen)))

    def _configuration(self, name: str, seqno: str) -> frozenset[NodeId] | None:
        return next((c.nodes for c in self._node(name).core.configurations if c.seqno == _number(seqno)), None)

    # The same, deprecated.

    def do_assert_is_primary(self, name: str) -> None:
        self.do_assert_detail(name, "leadership_state", Role.PRIMARY.value)

    def do_assert_is_backup(self, name: str) -> None:
        self.do_assert_detail(name, "leadership_state", Role.BACKUP.value)

    def do_assert_is_candidate(self, name: str) -> None:
        self.do_assert_detail(name, "leadership_state", Role.CANDIDATE.value)

    def do_assert_is_retired(self, name: str) -> None:
        self.do_assert_detail(name, "membership_state", "Retired")

    def do_assert_is_active(self, name: str) -> None:
        self.do_assert_detail(name, "membership_state", "Active")

    def do_assert_isnot_primary(self, name: str) -> None:
        self.do_assert_not_detail(name, "leadership_state", Role.PRIMARY.value)

    def do_assert_isnot_backup(self, name: str) -> None:
        self.do_assert_not_detail(name, "leadership_state", Role.BACKUP.value)

    def do_assert_isnot_candidate(self, name: str) -> None:
        self.do_assert_not_detail(name, "leadership_state", Role.CANDIDATE.value)


def _number(word: str) -> int:
    if not (word.isascii() and word.isdigit() and len(word) <= DIGITS_MAX):
        seen = repr(word) if len(word) <= 2 * DIGITS_MAX else f"{len(word)} characters, {word[:DIGITS_MAX]!r} ..."
        raise Failed(f"a number of at most {DIGITS_MAX} digits", seen)
    return int(word)


def _is_accepted(packet: Packet) -> bool:
    return isinstance(messages.decode(packet.data), AppendAccepted)


def _is_still_there(sender: Member, message: AppendEntries) -> bool:
    """Whether the sender's ledger still has what the message says; a host sends what it reads there when the message leaves."""
    first = message.prev_seqno
    return sender.machine.log[first : first + len(message.entries)] == message.entries


def summarise_log(member: Member) -> str:
    """A log as the views of its entries, the committed one in brackets."""
    names = [f"{entry.view}.{entry.seqno}" for entry in map(unpack, member.machine.log)]
    committed = member.core.commit_seqno
    if committed:
        names[committed - 1] = f"[{names[committed - 1]}]"
    return " ".join(names) or "nothing"
