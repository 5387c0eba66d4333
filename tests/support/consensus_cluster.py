"""A cluster of consensus cores in one process: its network, its disks and its clock are the test's to move.

Every message is encoded and decoded. After each step `Cluster.check` compares the cores with the protocol's invariants, which know nothing
of how the cores do it: they look at logs, disks, roles and commits only.
"""

import random
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable
from hashlib import sha256
from itertools import pairwise
from typing import Any, NamedTuple

import msgpack

from ledgerd.enclave.consensus import messages
from ledgerd.enclave.consensus.core import Appended, Configuration, Consensus, LogEntry, Note, Role, Settings
from ledgerd.enclave.consensus.messages import AppendAccepted, AppendEntries, AppendRefused, Message, ProposeVote, RequestVote, Vote
from ledgerd.enclave.consensus.quorum import majority
from ledgerd.ledger.errors import IntegrityError
from ledgerd.ledger.ids import FIRST_VIEW, NodeId, Seqno, TransactionId, View

NO_DIGEST = bytes(32)


class Entry(NamedTuple):
    """What an entry says; packed, it is the entry's bytes."""

    view: int
    seqno: int
    signs: bytes | None  # a signature entry: the digest of the log before it
    configuration: list[str] | None
    removed: list[str]
    payload: str

    def pack(self) -> bytes:
        packed: bytes = msgpack.packb(tuple(self))
        return packed


def unpack(data: bytes) -> Entry:
    return Entry(*msgpack.unpackb(data))


class Machine:
    """A state machine that keeps the log and refuses a signature over another one."""

    def __init__(self) -> None:
        self.log: list[bytes] = []
        self.digests: list[bytes] = [NO_DIGEST]
        self.committed = 0
        self.on_append: Callable[[int, bytes], None] = lambda seqno, digest: None
        self.on_commit: Callable[[int], None] = lambda seqno: None

    def add(self, entry: Entry, data: bytes) -> bytes:
        leaf = sha256(data).digest()
        self.log.append(data)
        self.digests.append(sha256(self.digests[-1] + leaf).digest())
        self.on_append(entry.seqno, self.digests[-1])
        return leaf

    def append(self, view: View, first: Seqno, entries: list[bytes]) -> Appended:
        assert first == len(self.log) + 1, "a batch does not follow the log"
        appended = Appended([], [])
        for data in entries:
            entry = unpack(data)
            if entry.signs is not None and entry.signs != self.digests[-1]:
                raise IntegrityError(f"entry {entry.view}.{entry.seqno} signs another root")
            if entry.seqno != len(self.log) + 1 or entry.view != view:
                raise IntegrityError(f"entry {entry.view}.{entry.seqno} stands where {view}.{len(self.log) + 1} has to")
            appended.leaves.append(self.add(entry, data))
            if entry.signs is not None or entry.configuration is not None or entry.removed:
                appended.notes.append(Note(Seqno(entry.seqno), entry.signs is not None, *_membership(entry)))
        return appended

    def rollback(self, to: TransactionId) -> None:
        assert to.seqno >= self.committed, "a final entry is undone"
        assert to.seqno == 0 or unpack(self.log[to.seqno - 1]).view == to.view
        del self.log[to.seqno :]
        del self.digests[to.seqno + 1 :]

    def commit(self, to: Seqno) -> None:
        assert self.committed < to <= len(self.log)
        self.committed = to
        self.on_commit(to)


def _membership(entry: Entry) -> tuple[Configuration | None, frozenset[NodeId]]:
    configuration = None
    if entry.configuration is not None:
        configuration = Configuration(Seqno(entry.seqno), frozenset(map(NodeId, entry.configuration)))
    return configuration, frozenset(map(NodeId, entry.removed))


class Write(NamedTuple):
    """One piece of work for a disk."""

    generation: int
    truncate_after: int | None
    first_seqno: int
    entries: list[bytes]
    view: int
    promise: tuple[NodeId, Message] | None


class Member:
    """One node: core, state machine, disk."""

    def __init__(self, node_id: str, core: type[Consensus], settings: Settings, jitter: Callable[[], float]) -> None:
        self.node_id = NodeId(node_id)
        self.now = 0.0  # every node has a clock of its own
        self.machine = Machine()
        self.core = core(self.node_id, self.machine, settings, jitter, self.now)
        self.writes: deque[Write] = deque()
        self.disk: list[bytes] = []
        self.disk_digests: list[bytes] = [NO_DIGEST]
        self.down = False
        self.losing = False  # the disk does nothing, and says so to nobody
        self.initial: frozenset[NodeId] | None = None  # a configuration that stands in no entry
        self.won: list[int] = []
        self.confirmed: list[Hashable] = []
        self.refused: list[Hashable] = []

    def replicate(self, payload: str = "", *, sign: bool = False, nodes: Iterable[str] | None = None, removed: Iterable[str] = ()) -> int:
        """As the primary: make and apply the next entry."""
        seqno = self.core.last_seqno + 1
        signs = self.machine.digests[-1] if sign else None
        entry = Entry(self.core.view, seqno, signs, sorted(nodes) if nodes is not None else None, sorted(removed), payload)
        data = entry.pack()
        leaf = self.machine.add(entry, data)
        self.core.replicate(LogEntry(self.core.view, Seqno(seqno), data, leaf, sign, *_membership(entry)))
        return seqno

    def store(self) -> Write | None:
        """The disk finishes its oldest piece of work and says so."""
        if self.losing:
            self.writes.clear()
        if not self.writes:
            return None
        write = self.writes.popleft()
        if write.truncate_after is not None:
            del self.disk[write.truncate_after :]
            del self.disk_digests[write.truncate_after + 1 :]
        if write.entries:
            assert write.first_seqno == len(self.disk) + 1, "the disk has a gap"
            for data in write.entries:
                self.disk.append(data)
                self.disk_digests.append(sha256(self.disk_digests[-1] + sha256(data).digest()).digest())
            self.core.stored(write.generation, View(write.view), Seqno(write.first_seqno + len(write.entries) - 1))
        return write

    def fetch(self, first: int, count: int) -> list[LogEntry]:
        found = []
        for data in self.disk[first - 1 : first - 1 + count]:
            entry = unpack(data)
            found.append(
                LogEntry(View(entry.view), Seqno(entry.seqno), data, sha256(data).digest(), entry.signs is not None, *_membership(entry))
            )
        return found


class Packet(NamedTuple):
    """A message on its way."""

    sender: str
    to: str
    data: bytes


class Cluster:
    """All of it.

    Args:
        settings: Of every node.
        seed: Of the nodes' election timers; None makes every timer fire after three quarters of the timeout.
        fetch_count: How many entries a host gives at once.
        core: The class under test, or one with a planted bug.
    """

    def __init__(
        self, settings: Settings | None = None, seed: int | None = None, fetch_count: int = 1_000, core: type[Consensus] = Consensus
    ) -> None:
        self.core = core
        self.settings = settings or Settings()
        self.members: dict[str, Member] = {}
        self.packets: list[Packet] = []
        self.cut: set[tuple[str, str]] = set()
        self.trace: list[str] = []
        self.fetch_count = fetch_count
        self._random = random.Random(seed)
        self._jitter: Callable[[], float] = self._random.random if seed is not None else lambda: 0.5
        # What the invariants remember of the whole run.
        self.winners: dict[int, str] = {}
        self.authors: dict[tuple[int, int], bytes] = {}
        self.final: list[bytes] = [NO_DIGEST]  # digests of the longest log that anybody has committed
        self.views: dict[str, int] = defaultdict(int)
        self.matches: dict[str, tuple[int, dict[str, int]]] = {}
        self.questions: dict[Hashable, int] = {}

    # Nodes.

    def add(self, node_id: str) -> Member:
        member = self.members[node_id] = Member(node_id, self.core, self.settings, self._jitter)
        member.machine.on_append = lambda seqno, digest: self._appended(member, seqno, digest)
        member.machine.on_commit = lambda seqno: self._committed(member, seqno)
        return member

    def start(self, node_id: str) -> Member:
        """The first node of a service, with genesis and its signature."""
        member = self.add(node_id)
        member.core.start_primary(FIRST_VIEW)
        member.replicate("genesis", nodes=[node_id])
        self.pump(node_id)
        return member

    def join(self, node_id: str) -> Member:
        member = self.add(node_id)
        member.core.start_backup()
        return member

    def up(self) -> list[Member]:
        return [member for member in self.members.values() if not member.down]

    def primary(self) -> Member | None:
        """The primary of the latest view, if there is one."""
        return max((m for m in self.up() if m.core.role is Role.PRIMARY), key=lambda m: m.core.view, default=None)

    # Steps. Each ends in pump(), which does what ready() says, but for the disk's work and the network's.

    def pump(self, node_id: str) -> None:
        member = self.members[node_id]
        if member.down:
            return
        role, view = member.core.role, member.core.view
        ready = member.core.ready()
        if ready.failed is not None:
            self.note(f"{node_id} stops: {ready.failed}")
            member.down = True
            return
        if ready.became_primary is not None:
            self._won(member, ready.became_primary)
        if ready.became_backup is not None:
            self.note(f"{node_id} is primary no longer, view {ready.became_backup}")
        if ready.truncate_after is not None or ready.entries:
            member.writes.append(Write(ready.generation, ready.truncate_after, ready.first_seqno, ready.entries, ready.view, ready.promise))
            if ready.truncate_after is not None:
                self.note(f"{node_id} rolls back to {ready.truncate_after}, generation {ready.generation}")
        if ready.commit is not None:
            self.note(f"{node_id} commits {member.core.commit_id}")
        for to, message in ready.messages:
            self.note(f"{node_id}->{to} {describe(message)}")
            self._post(Packet(node_id, to, messages.encode(message)))
        for first in ready.fetch:
            self.note(f"{node_id} fetches from {first}")
            entries = member.fetch(first, self.fetch_count)
            member.core.fetched(first, entries)
        member.confirmed += ready.confirmed
        member.refused += ready.refused
        for token in ready.confirmed:
            self.note(f"{node_id} confirms {token}")
            needed = self.questions.pop(token)
            assert member.machine.digests[needed : needed + 1] == self.final[needed : needed + 1], "a stale read"
        for token in ready.refused:
            self.note(f"{node_id} refuses {token}")
            self.questions.pop(token, None)
        if ready.fetch:
            self.pump(node_id)
        if ready.became_primary is not None and member.core.role is Role.PRIMARY:
            self._begin_view(member)
        assert role is member.core.role, "ready() changed the role"
        assert view == member.core.view, "ready() changed the view"

    def _begin_view(self, member: Member) -> None:
        """What a new primary does first."""
        member.replicate(sign=True)
        self.pump(member.node_id)

    def tick(self, node_id: str, seconds: float) -> None:
        """Time passes for one node."""
        member = self.members[node_id]
        member.now += seconds
        if not member.down:
            member.core.tick(member.now)
            self.pump(node_id)

    def _post(self, packet: Packet) -> None:
        if (packet.sender, packet.to) not in self.cut and packet.to in self.members:
            self.packets.append(packet)

    def deliver(self, index: int = 0) -> None:
        packet = self.packets.pop(index)
        member = self.members[packet.to]
        if member.down or (packet.sender, packet.to) in self.cut:
            return
        member.core.receive(NodeId(packet.sender), messages.decode(packet.data))
        self.pump(packet.to)

    def store(self, node_id: str) -> None:
        member = self.members[node_id]
        if member.down:
            return
        generation = member.core._generation
        write = member.store()
        if write is None:
            return
        if write.entries:
            last = f"{write.view}.{write.first_seqno + len(write.entries) - 1}"
            ignored = ": ignored" if write.generation < generation else ""
            self.note(f"{node_id} stores generation {write.generation} up to {last}{ignored}")
        if write.promise is not None:
            to, message = write.promise
            self.note(f"{node_id}->{to} {describe(message)}, as promised")
            self._post(Packet(node_id, to, messages.encode(message)))
        self.pump(node_id)

    def settle(self, limit: int = 10_000) -> None:
        """Deliver and store until nothing is left to do."""
        for _ in range(limit):
            if self.packets:
                self.deliver()
            elif any(member.writes and not member.down for member in self.members.values()):
                for node_id, member in self.members.items():
                    while member.writes and not member.down:
                        self.store(node_id)
            else:
                break
            self.check()
        else:
            raise AssertionError("the cluster does not come to rest")

    def run(self, seconds: float, step: float = 0.01) -> None:
        """Let time pass on a good network with fast disks."""
        for _ in range(round(seconds / step)):
            for node_id in list(self.members):
                self.tick(node_id, step)
            self.settle()

    def cut_between(self, ones: Iterable[str], others: Iterable[str]) -> None:
        others = list(others)
        for one in ones:
            for other in others:
                self.cut |= {(one, other), (other, one)}
        self.packets = [packet for packet in self.packets if (packet.sender, packet.to) not in self.cut]

    def isolate(self, node_id: str) -> None:
        self.cut_between([node_id], [other for other in self.members if other != node_id])

    def heal(self) -> None:
        self.cut.clear()

    def ask(self, node_id: str, token: Hashable) -> None:
        """A linearizable read arrives at a node."""
        self.questions[token] = len(self.final) - 1
        self.members[node_id].core.confirm(token)

    def note(self, line: str) -> None:
        self.trace.append(line)

    # Invariants.

    def _won(self, member: Member, view: int) -> None:
        self.note(f"{member.node_id} wins view {view}")
        assert self.winners.setdefault(view, member.node_id) == member.node_id, "ElectionSafety: two primaries in one view"
        member.won.append(view)
        last = len(self.final) - 1
        assert member.machine.digests[last : last + 1] == self.final[-1:], "LeaderCompleteness: a primary lacks a final entry"

    def _appended(self, member: Member, seqno: int, digest: bytes) -> None:
        view = unpack(member.machine.log[-1]).view
        assert self.authors.setdefault((view, seqno), digest) == digest, "LogMatching: one name for two logs"

    def _committed(self, member: Member, to: int) -> None:
        entry = unpack(member.machine.log[to - 1])
        assert entry.signs is not None, "SignatureInv: commit stops at an unsigned entry"
        ours = member.machine.digests[: to + 1]
        common = min(to, len(self.final) - 1)
        assert ours[common] == self.final[common], "CommitSafety: two final logs"
        if to < len(self.final):
            return
        self.final = ours
        assert member.core.role is Role.PRIMARY, "a backup is ahead of every primary"
        assert entry.view == member.core.view, "NeverCommitEntryPrevTerms"
        for configuration in configurations_of(member, upto=to):
            holders = [n for n in configuration if n in self.members and self.members[n].disk_digests[to : to + 1] == [ours[to]]]
            assert len(holders) >= majority(len(configuration)), f"Durability: {to} is on {holders} of {sorted(configuration)} only"

    def check(self) -> None:
        """What holds after every step, whatever it was."""
        for node_id, member in self.members.items():
            core = member.core
            if member.down:
                continue
            assert core.view >= self.views[node_id], "MonoTerm"
            self.views[node_id] = core.view
            assert core.last_seqno == len(member.machine.log)
            assert core.commit_seqno == member.machine.committed
            assert core.stored_seqno <= len(member.disk)
            matches: dict[str, int] = {peer_id: peer.match for peer_id, peer in core._peers.items()}
            view, were = self.matches.get(node_id, (0, {}))
            if view == core.view:
                assert all(match >= were.get(peer_id, 0) for peer_id, match in matches.items()), "MonotonicMatchIndex"
            self.matches[node_id] = core.view, matches

    def check_logs(self) -> None:
        """What a core keeps beside its log must be what the log says; slower."""
        for member in self.up():
            core = member.core
            entries = [unpack(data) for data in member.machine.log]
            signatures = [entry.seqno for entry in entries if entry.signs is not None]
            assert list(core.committables) == [seqno for seqno in signatures if seqno > core.commit_seqno], "committables"
            assert core._log.last_committable == (signatures[-1] if signatures else 0), "last committable"
            starts = [(e.view, e.seqno) for i, e in enumerate(entries) if i == 0 or entries[i - 1].view != e.view]
            assert core.view_history == starts, "view history"
            assert all(a.view <= b.view for a, b in pairwise(entries)), "MonoLog"
            if core.role is not Role.NONE:
                assert [c.nodes for c in core.configurations] == configurations_of(member, upto=len(entries)), "LogConfigurationConsistent"
            base = core._log.base
            assert base <= min(core.commit_seqno, core.stored_seqno)
            assert core._log.data(Seqno(base + 1), core.last_seqno) == member.machine.log[base:]
            assert core.memory_bytes == sum(map(len, member.machine.log[base:]))


def configurations_of(member: Member, upto: int) -> list[frozenset[str]]:
    """The active configurations, read from the log: the last one committed, and every later one up to `upto`."""
    active: list[frozenset[str]] = [] if member.initial is None else [member.initial]
    for data in member.machine.log[:upto]:
        entry = unpack(data)
        if entry.configuration is not None:
            if entry.seqno <= min(member.core.commit_seqno, upto):
                active.clear()
            active.append(frozenset(entry.configuration))
    return active


def describe(message: Message) -> str:
    """A message on one line."""
    match message:
        case AppendEntries():
            first = message.prev_seqno + 1
            last = message.prev_seqno + len(message.entries)
            span = f"{first}" if first == last else f"{first}..{last}"
            entries = f" entries={message.entries_view}.{span}" if message.entries else ""
            return f"AppendEntries view={message.view} prev={message.prev_view}.{message.prev_seqno}{entries} commit={message.committed}"
        case AppendAccepted():
            return f"AppendAccepted view={message.view} stored={message.seqno}"
        case AppendRefused():
            return f"AppendRefused view={message.view} prev={message.refused_seqno} best={message.seqno_view}.{message.seqno}"
        case RequestVote():
            name = "RequestPreVote" if message.pre_vote else "RequestVote"
            return f"{name} view={message.view} last={message.last_view}.{message.last_seqno}"
        case Vote():
            return f"{'PreVote' if message.pre_vote else 'Vote'} view={message.view} {'yes' if message.granted else 'no'}"
        case ProposeVote():
            return f"ProposeVote view={message.view}"


def describe_member(member: Member) -> str:
    """A node on one line."""
    core = member.core
    if member.down:
        return f"{member.node_id}: down"
    signed = ",".join(map(str, core.committables)) or "-"
    groups = " ".join("{" + " ".join(sorted(c.nodes)) + "}" for c in core.configurations) or "-"
    phase: Any = f" retirement={core.retirement.value}" if core.retirement.value else ""
    return (
        f"{member.node_id}: {core.role.value} view={core.view} last={core.last_id} stored={core.stored_seqno} commit={core.commit_id}"
        f" signed={signed} active={groups}{phase}"
    )
