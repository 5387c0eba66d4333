"""The consensus state machine, without clocks, sockets or disks: Raft as CCF changed it.

Feed it with `tick`, `receive`, `stored`, `fetched` and, on the primary, `replicate`; then take `ready` and do what it says. Same inputs,
same outputs. What is CCF's: commit stops only at signature entries of the current view; a winner discards what is not signed; a quorum is
one of every active configuration; PreVote and CheckQuorum together; messages of one view; refusals that skip whole views; retirement in
four phases. What is ours: acknowledgements carry a hash of the log and are given for what is on disk only; `confirm` for reads.
`docs/consensus.md` has it in words. Not here: signatures on entries and their cadence (`enclave.history`), sealing of messages
(`enclave.channels`), checks of entries (the `StateMachine`).

No vote, no view and no entry is ever read back from disk. Raft needs them there so that a node that restarts does not contradict itself;
our nodes do not
restart: an enclave that ends takes its key with it, and what starts again is another node, with another name, that must be admitted. The
    old name keeps its
place in the configurations until it is retired and counts as down. So an enclave's memory is as lasting as its identity, and a host gains
nothing by giving an old disk to a new enclave.
"""

from collections.abc import Callable, Hashable, Sequence
from enum import Enum
from typing import Any, Final, NamedTuple, Protocol

from ledgerd.enclave.consensus.log import Log, LogEntry, prefix_within
from ledgerd.enclave.consensus.messages import (
    AppendAccepted,
    AppendEntries,
    AppendRefused,
    Message,
    ProposeVote,
    RequestVote,
    Vote,
)
from ledgerd.enclave.consensus.progress import Flow, Progress, Reply
from ledgerd.enclave.consensus.quorum import Configuration, has_quorums, quorum_seqno
from ledgerd.ledger.errors import FormatError, HostError, IntegrityError, PeerError, UsageError
from ledgerd.ledger.ids import FIRST_VIEW, NodeId, Seqno, TransactionId, View

__all__ = [
    "ROLE_TRANSITIONS",
    "Appended",
    "Configuration",
    "Consensus",
    "ConsensusReady",
    "LogEntry",
    "Note",
    "Role",
    "Settings",
    "StateMachine",
]


class Role(Enum):
    """What a node is. The values are CCF's words for `leadership_state`."""

    NONE = "None"
    BACKUP = "Follower"
    PRE_VOTE_CANDIDATE = "PreVoteCandidate"
    CANDIDATE = "Candidate"
    PRIMARY = "Leader"


class Cause(Enum):
    """Why a role changes."""

    GENESIS = "start_primary"
    JOINING = "start_backup"
    SILENCE = "no primary heard for an election timeout, or an election without result"
    PROPOSED = "ProposeVote from the primary"
    WOULD_WIN = "quorums would vote for us"
    WON = "quorums voted for us"
    LATER_VIEW = "a message of a later view"
    PRIMARY_HEARD = "AppendEntries of this view"
    QUORUM_LOST = "a configuration without answers from a majority for an election timeout (CheckQuorum)"
    STALLED = "the oldest signature entry got no further on any disk for a long time"
    RETIRED = "our own removal is on record"


# Every way a role changes is a row here; anything else is a UsageError.
ROLE_TRANSITIONS: Final = {
    (Role.NONE, Cause.GENESIS): Role.PRIMARY,
    (Role.NONE, Cause.JOINING): Role.BACKUP,
    (Role.BACKUP, Cause.SILENCE): Role.PRE_VOTE_CANDIDATE,
    (Role.BACKUP, Cause.PROPOSED): Role.CANDIDATE,  # no PreVote: its point is not to disturb a live primary, and that one asked for it
    (Role.BACKUP, Cause.LATER_VIEW): Role.BACKUP,
    (Role.BACKUP, Cause.PRIMARY_HEARD): Role.BACKUP,
    (Role.PRE_VOTE_CANDIDATE, Cause.SILENCE): Role.PRE_VOTE_CANDIDATE,
    (Role.PRE_VOTE_CANDIDATE, Cause.WOULD_WIN): Role.CANDIDATE,
    (Role.PRE_VOTE_CANDIDATE, Cause.LATER_VIEW): Role.BACKUP,
    (Role.PRE_VOTE_CANDIDATE, Cause.PRIMARY_HEARD): Role.BACKUP,
    (Role.CANDIDATE, Cause.SILENCE): Role.PRE_VOTE_CANDIDATE,  # and not at once a further view: that is what PreVote is for
    (Role.CANDIDATE, Cause.WON): Role.PRIMARY,
    (Role.CANDIDATE, Cause.LATER_VIEW): Role.BACKUP,
    (Role.CANDIDATE, Cause.PRIMARY_HEARD): Role.BACKUP,
    (Role.PRIMARY, Cause.LATER_VIEW): Role.BACKUP,
    (Role.PRIMARY, Cause.QUORUM_LOST): Role.BACKUP,
    (Role.PRIMARY, Cause.STALLED): Role.BACKUP,
    (Role.PRIMARY, Cause.RETIRED): Role.BACKUP,
}


class Retirement(Enum):
    """How far this node's own removal has got. The values are CCF's words for `retirement_phase`."""

    NONE = ""
    ORDERED = "Ordered"
    SIGNED = "Signed"
    COMPLETED = "Completed"
    RETIRED_COMMITTED = "RetiredCommitted"


class Removal(Enum):
    """What moves this node's retirement."""

    CONFIGURED = "a configuration without this node is appended"
    SIGNED = "a signature entry stands over it"
    COMMITTED = "that signature entry is committed"
    RECORDED = "the entry that records `retired_committed` is committed"
    ROLLED_BACK = "the configuration is truncated"


# Its first signature entry cannot be truncated without the configuration: a primary that lacks the one has discarded the other when it won.
# From COMPLETED on there is no way back: what is committed stays. Until RETIRED_COMMITTED the node goes on storing and voting, since peers
# that do not know yet of its removal may need it for their quorums.
RETIREMENT_TRANSITIONS: Final = {
    (Retirement.NONE, Removal.CONFIGURED): Retirement.ORDERED,
    (Retirement.ORDERED, Removal.SIGNED): Retirement.SIGNED,
    (Retirement.ORDERED, Removal.ROLLED_BACK): Retirement.NONE,
    (Retirement.SIGNED, Removal.COMMITTED): Retirement.COMPLETED,
    (Retirement.SIGNED, Removal.ROLLED_BACK): Retirement.NONE,
    (Retirement.COMPLETED, Removal.RECORDED): Retirement.RETIRED_COMMITTED,
}


class Settings(NamedTuple):
    """Times in seconds of the enclave's monotonic clock; every node of a service should use the same.

    Attributes:
        heartbeat: A peer hears from the primary at least this often.
        election_timeout: A backup stands after hearing nothing for 0.5 to 1 times this; a primary without a quorum's answers for this long
            steps down.
        stalled: A primary steps down when for so long the oldest signature entry that is not final got no further on any disk.
        commit_notice: An idle primary tells peers of a new commit after this, instead of with the next heartbeat.
        batch_entries, batch_bytes: Limits of one AppendEntries (CCF's are 20 and 20,000).
        flight_bytes, flight_messages: What may be on the way to one peer without acknowledgement.
        window_entries, window_bytes: Committed entries kept in memory for peers that lag; the host is asked for older ones.
        unsigned_entries: What no signature entry covers yet is kept from the disk, up to so many entries: it cannot be committed before,
            and a round of commits then costs each disk one sync. 0 to store and send everything at once, as CCF does.
        ahead_entries: A primary sends such entries to peers once it has made so many, so that they are worked on over there while more
            are made here; fewer go with their signature.
        pre_vote: Ask before standing.
    """

    heartbeat: float = 0.1
    election_timeout: float = 1.0
    stalled: float = 10.0
    commit_notice: float = 0.03
    batch_entries: int = 5_000
    batch_bytes: int = 1 << 20
    flight_bytes: int = 8 << 20
    flight_messages: int = 256
    window_entries: int = 5_000
    window_bytes: int = 2 << 20
    unsigned_entries: int = 0
    ahead_entries: int = 1_000
    pre_vote: bool = True


class Note(NamedTuple):
    """What consensus has to know of an entry beyond its bytes; fields as in `LogEntry`."""

    seqno: Seqno
    committable: bool
    configuration: Configuration | None = None
    removed: frozenset[NodeId] = frozenset()


class Appended(NamedTuple):
    """What a state machine says of entries that it has checked and applied: the leaf of each, and notes on those that need one."""

    leaves: list[bytes]
    notes: list[Note]


class StateMachine(Protocol):
    """What consensus moves. It is called from inside `receive`, `tick` and `stored`, and is up to date when they return."""

    def append(self, view: View, first: Seqno, entries: list[bytes]) -> Appended:
        """On a backup: open, check and apply the entries after the last one, which is `first - 1`; all call themselves of `view`.

        Raises: IntegrityError, FormatError: One is not what an honest primary would send; it says which. The node stops.
        """

    def rollback(self, to: TransactionId) -> None:
        """Undo every entry above `to` (0.0: all of them). Never below the last `commit`."""

    def commit(self, to: Seqno) -> None:
        """Everything up to `to` is final."""


class ConsensusReady:
    """What the caller must do now, in this order.

    1. `truncate_after`: forget stored entries above it.
    2. `entries`: store from `first_seqno` on and sync; report as `stored(generation, view, last)`, where `view` is that of the last one.
       `generation` has grown if something was truncated: a report of an older one acknowledges nothing.
    3. `commit`: everything up to it is final (already told to the state machine).
    4. `messages`: send each to its node; do not wait for the sync. Losing one is safe.
    5. `fetch`: read, verify and give to `fetched` consecutive entries from each of these seqnos on; all are committed.
    6. `became_primary`: the view won; write a signature entry in it, since nothing commits before. `became_backup`: the view in which this
       node is primary no longer (set only if it was).
    7. `confirmed`: tokens of `confirm` whose reads may be answered; `refused`: those that never will be, here.
    8. `failed`: this node must stop, and why. Nothing else is said after that.
    """

    __slots__ = (
        "became_backup",
        "became_primary",
        "commit",
        "confirmed",
        "entries",
        "failed",
        "fetch",
        "first_seqno",
        "generation",
        "messages",
        "refused",
        "truncate_after",
        "view",
    )

    def __init__(self, generation: int) -> None:
        self.truncate_after: Seqno | None = None
        self.generation = generation
        self.view = View(0)
        self.first_seqno = Seqno(0)
        self.entries: list[bytes] = []
        self.commit: Seqno | None = None
        self.messages: list[tuple[NodeId, Message]] = []
        self.fetch: list[Seqno] = []
        self.became_primary: View | None = None
        self.became_backup: View | None = None
        self.confirmed: list[Hashable] = []
        self.refused: list[Hashable] = []
        self.failed: str | None = None


_HANDLERS: Final[dict[type[Any], str]] = {
    AppendEntries: "_receive_append",
    AppendAccepted: "_receive_accepted",
    AppendRefused: "_receive_refused",
    RequestVote: "_receive_request_vote",
    Vote: "_receive_vote",
    ProposeVote: "_receive_propose_vote",
}
_NEVER: Final = float("inf")
_NO_VIEW: Final = View(0)
# A primary that was heard this recently, in election timeouts, is alive: no PreVote against it. Heartbeats come every tenth, and a peer
# that asks has itself heard nothing for at least half of one; the rest is slack, so that the first to ask after a crash is not refused for
# a moment's difference.
_PRIMARY_ALIVE: Final = 0.4


class Consensus:
    """One node's consensus. Call `tick` first at each wake-up: it also sets the time for what follows.

    Args:
        node_id: This node.
        state_machine: Told of appended, undone and final entries.
        settings: Times and limits.
        jitter: A fresh random number in [0, 1) for each election timer.
        now: Seconds, monotonic.

    Attributes:
        role, view, primary_id: What this node is, in which view, and whom it takes for the primary (itself included).
        commit_seqno: Last final entry.
        stored_seqno: Last entry that this node's own disk has.
        failed: Why this node must stop, or None.
    """

    def __init__(self, node_id: NodeId, state_machine: StateMachine, settings: Settings, jitter: Callable[[], float], now: float) -> None:
        self.node_id = node_id
        self.role = Role.NONE
        self.view = View(0)
        self.primary_id: NodeId | None = None
        self.commit_seqno = Seqno(0)
        self.stored_seqno = Seqno(0)
        self.failed: str | None = None
        self.retirement = Retirement.NONE
        self._machine = state_machine
        self._settings = settings
        self._jitter = jitter
        self._now = now
        self._log = Log()

        # Membership. `_configurations` are the active ones: the last committed, and all after it.
        self._configurations: list[Configuration] = []
        self._leaving: set[NodeId] = set()  # in no active configuration any more, but not yet recorded as gone: still fed
        self._removals: list[tuple[Seqno, frozenset[NodeId]]] = []  # above commit
        self._retirement_seqno = Seqno(0)
        self._retirement_signed = Seqno(0)

        # Elections.
        self._voted_for: NodeId | None = None
        self._votes: set[NodeId] = set()
        self._election_at = _NEVER
        self._primary_heard_at = float("-inf")

        # As a backup: what this view's primary is known to share with us, and what it was answered.
        self._matched = Seqno(0)
        self._kept_messages = 0  # whose entries are kept from the disk
        self._answered_round = -1
        self._refusing = False

        # As a primary.
        self._peers: dict[NodeId, Progress] = {}
        self._round = 0
        self._round_at = now
        self._check_at = now
        self._ahead = Seqno(0)  # unsigned entries up to here may go to peers
        self._view_start = Seqno(0)
        self._standing = (Seqno(0), 0)  # the oldest signature entry that is not final, and how far it has got; see `_is_stalled`
        self._standing_since = now
        self._questions: list[Hashable] = []  # reads that wait for a round to begin
        self._asked: list[Hashable] = []  # reads that wait for `_asked_round` to be answered
        self._asked_round = 0

        # For the disk.
        self._generation = 0
        self._handed = Seqno(0)
        self._truncate_after: Seqno | None = None

        # For the next ready().
        self._messages: list[tuple[NodeId, Message]] = []
        self._fetch: list[Seqno] = []
        self._batches: dict[Seqno, list[bytes]] = {}
        self._told_commit = Seqno(0)
        self._became_primary: View | None = None
        self._became_backup: View | None = None
        self._confirmed: list[Hashable] = []
        self._refused: list[Hashable] = []

    # What the rest of the enclave asks.

    @property
    def last_seqno(self) -> Seqno:
        """Last entry of the log, committed or not."""
        return self._log.last_seqno

    @property
    def last_id(self) -> TransactionId:
        """Name of the last entry; 0.0 for the empty log."""
        return TransactionId(self._log.last_view, self._log.last_seqno)

    @property
    def commit_id(self) -> TransactionId:
        """Name of the last final entry; 0.0 at first."""
        return TransactionId(self._log.view_of(self.commit_seqno), self.commit_seqno)

    @property
    def view_history(self) -> list[TransactionId]:
        """The first entry of every view that has one in this log, ascending."""
        return self._log.view_history()

    @property
    def configurations(self) -> tuple[Configuration, ...]:
        """The active configurations, oldest first."""
        return tuple(self._configurations)

    @property
    def committables(self) -> tuple[Seqno, ...]:
        """Signature entries above `commit_seqno`, ascending."""
        return tuple(self._log.committables)

    @property
    def uncommitted(self) -> int:
        """Entries that are not final; for backpressure."""
        return self._log.last_seqno - self.commit_seqno

    @property
    def memory_bytes(self) -> int:
        """Bytes of the entries held in memory."""
        return self._log.size_bytes

    @property
    def peers(self) -> frozenset[NodeId]:
        """All nodes that this one may have to talk to: those of the active configurations and those leaving, but itself."""
        return frozenset(self._leaving.union(*(c.nodes for c in self._configurations)) - {self.node_id})

    def view_of(self, seqno: Seqno) -> View | None:
        """View of entry `seqno` of this log, or None beyond its end (and for 0)."""
        return self._log.view_of(seqno) if 0 < seqno <= self._log.last_seqno else None

    def details(self) -> dict[str, Any]:
        """The `details` of GET /node/consensus, but the nodes' addresses."""
        details: dict[str, Any] = {
            "current_view": self.view,
            "ticking": self._is_electable(),
            "leadership_state": self.role.value,
            "membership_state": "Active" if self.retirement is Retirement.NONE else "Retired",
            "configs": [{"idx": c.seqno, "rid": c.seqno, "nodes": {node: {} for node in sorted(c.nodes)}} for c in self._configurations],
            "acks": {
                node: {"seqno": peer.match, "last_received_ms": max(0, round((self._now - peer.heard_at) * 1000))}
                for node, peer in sorted(self._peers.items())
            },
            "reconfiguration_type": "OneTransaction",
        }
        if self.primary_id is not None:
            details["primary_id"] = self.primary_id
        if self.retirement is not Retirement.NONE:
            details["retirement_phase"] = self.retirement.value
        return details

    # Inputs.

    def start_primary(self, view: View = FIRST_VIEW) -> None:
        """Begin a service: primary without election. The first entry replicated must carry the first configuration."""
        self._move(Cause.GENESIS)
        self.view = view
        self.primary_id = self._voted_for = self.node_id
        self._view_start = Seqno(self._log.last_seqno + 1)
        self._became_primary = view

    def start_backup(self, view: View = _NO_VIEW) -> None:
        """Join: an empty log, which whoever is primary will fill; no elections before this node reads its own name in a configuration."""
        self._move(Cause.JOINING)
        self.view = view

    def replicate(self, entry: LogEntry) -> None:
        """On the primary: the next entry, already applied. The next `ready` stores it and sends it to everyone.

        Raises: UsageError: This node is not the primary of `entry.view`, or `entry.seqno` is not the next.
        """
        view, seqno, data, leaf, committable, configuration, removed = entry
        self.replicate_plain(view, seqno, (data,), (leaf,))
        if committable or configuration is not None or removed:
            self._note(Note(seqno, committable, configuration, removed))

    def replicate_plain(self, view: View, first: Seqno, data: Sequence[bytes], leaves: Sequence[bytes]) -> None:
        """As `replicate`, for entries `first`, ..., at least one, that consensus has nothing to note of.

        Raises: UsageError: This node is not the primary of `view`, or `first` is not the next seqno.
        """
        if self.role is not Role.PRIMARY or view != self.view or first != self._log.last_seqno + 1:
            raise UsageError(f"{self.role} of view {self.view} at {self._log.last_seqno} cannot replicate {view}.{first}")
        self._log.extend(view, data, leaves)

    def receive(self, sender: NodeId, message: Message) -> None:
        """A message from `sender`, as the channel names it; effects appear in the next `ready`.

        Raises: PeerError: It is of no known kind, or from this node itself.
        """
        if self.failed is not None or self.role is Role.NONE:
            return
        handler = _HANDLERS.get(type(message))
        if handler is None or sender == self.node_id:
            raise PeerError(f"a {type(message).__name__} from {sender[:16]}... means nothing to consensus")
        getattr(self, handler)(sender, message)

    def tick(self, now: float) -> None:
        """It is `now`; never earlier than before."""
        self._now = now = max(now, self._now)
        if self.failed is not None:
            return
        if self.role is Role.PRIMARY:
            self._tick_primary(now)
        elif now >= self._election_at:
            if self._is_electable():
                self._stand_soon()
            else:
                self._election_at = _NEVER

    def next_deadline(self) -> float:
        """When `tick` has something to do, if nothing happens before; infinity if never."""
        if self.failed is not None:
            return _NEVER
        if self.role is not Role.PRIMARY:
            return self._election_at
        deadline = _NEVER
        for peer in self._peers.values():
            patience = self._settings.commit_notice if peer.told_committed < self.commit_seqno else self._settings.heartbeat
            deadline = min(deadline, peer.told_at + patience)
        return deadline

    def stored(self, generation: int, view: View, seqno: Seqno) -> None:
        """The host says: everything up to `view.seqno`, as handed over under `generation`, is on disk.

        A report of an older generation acknowledges nothing: its sync ended after a truncation, and seqnos are used again in later views.

        Raises: HostError: No honest host could say so: that entry was never handed over.
        """
        if self.failed is not None or generation < self._generation:
            return
        if generation != self._generation or seqno > self._handed or self._log.view_of(seqno) != view:
            raise HostError(f"the host stored {view}.{seqno} of generation {generation}, but was given no such entry")
        if seqno <= self.stored_seqno:
            return
        self.stored_seqno = seqno
        if self.role is Role.PRIMARY:
            self._advance_commit()
        elif self.role is Role.BACKUP and self.primary_id is not None:
            self._acknowledge()

    def fetched(self, first: Seqno, entries: list[LogEntry] | None) -> None:
        """Answer to `ConsensusReady.fetch`: consecutive entries from `first` on, verified by the caller; None or none if the host had none.

        Raises: HostError: They are not the entries of this log.
        """
        if self.failed is not None or self.role is not Role.PRIMARY:
            return
        waiting = [peer for peer in self._peers.values() if peer.fetching == first]
        for peer in waiting:
            peer.fetching = None
            peer.fetch_retry_at = self._now + (0 if entries else self._settings.heartbeat)
        if not entries:
            return
        log = self._log
        # Only what is in memory no more: the rest is sent from there.
        entries = entries[: max(0, log.base + 1 - first)]
        for offset, entry in enumerate(entries):
            if entry.seqno != first + offset or entry.view != log.view_of(entry.seqno):
                raise HostError(f"entry {first + offset} of view {log.view_of(entry.seqno)} was read back as {entry.view}.{entry.seqno}")
        data = [entry.data for entry in entries]
        for peer in waiting:
            if peer.sent + 1 == first and peer.flow is Flow.REPLICATE:
                self._send_fetched(peer, data)

    def cut(self, node_id: NodeId) -> None:
        """The channel to `node_id` broke: what was on the way may be lost; or it is there anew, and may be probed at once. (Without this
        call the next heartbeat finds out.)
        """
        peer = self._peers.get(node_id)
        if peer is not None:
            peer.move(Reply.CUT)
            peer.go_back(peer.match)

    def confirm(self, token: Hashable) -> None:
        """Ask whether this node is still primary: `token` comes back in `confirmed` after quorums have answered a round that began after
        this call, and this view has committed an entry; otherwise in `refused`. No clock is involved, so no clock can make a deposed
        primary answer.
        """
        if self.role is Role.PRIMARY and self.failed is None:
            self._questions.append(token)
        else:
            self._refused.append(token)

    def propose_successor(self) -> NodeId | None:
        """On a primary that leaves: ask the peer of the newest configuration that has most to stand at once. Returns whom, or None if there
        is nobody.
        """
        if self.role is not Role.PRIMARY or not self._configurations:
            return None
        fit = [peer for node, peer in self._peers.items() if node in self._configurations[-1].nodes and peer.flow is not Flow.DIVERGED]
        if not fit:
            return None
        best = max(fit, key=lambda peer: (peer.match, peer.node_id))
        self._messages.append((best.node_id, ProposeVote(self.view)))
        return best.node_id

    # Output.

    def ready(self) -> ConsensusReady:
        """Everything that came up since the last call; each piece is handed over once."""
        ready = ConsensusReady(self._generation)
        if self.failed is not None:
            ready.failed = self.failed
            return ready
        if self.role is Role.PRIMARY:
            self._begin_round()
            for peer in self._peers.values():
                self._send(peer)
            self._answer_questions()
        log = self._log
        ready.truncate_after, self._truncate_after = self._truncate_after, None
        last = self._storable()
        if self._handed < last:
            ready.first_seqno = Seqno(self._handed + 1)
            ready.entries = log.data(ready.first_seqno, last)
            ready.view = log.view_of(last)
            self._handed = last
            self._kept_messages = 0
        if self._told_commit < self.commit_seqno:
            ready.commit = self._told_commit = self.commit_seqno
        if self._messages:
            ready.messages, self._messages = self._messages, []
        if self._fetch:
            ready.fetch, self._fetch = self._fetch, []
        if self._confirmed:
            ready.confirmed, self._confirmed = self._confirmed, []
        if self._refused:
            ready.refused, self._refused = self._refused, []
        ready.became_primary, self._became_primary = self._became_primary, None
        ready.became_backup, self._became_backup = self._became_backup, None
        self._batches.clear()
        return ready

    # Roles.

    def _move(self, cause: Cause) -> None:
        role = ROLE_TRANSITIONS.get((self.role, cause))
        if role is None:
            raise UsageError(f"{self.role} cannot see {cause}")
        self.role = role

    def _fail(self, reason: str) -> None:
        """Stop for good. What is wrong cannot be repaired by going on: memory, a peer or this program is not what consensus rests upon."""
        self.failed = reason
        self._messages.clear()

    def _rest(self) -> None:
        """Start the election timer anew: 0.5 to 1 times the timeout, so that peers seldom stand together."""
        self._election_at = self._now + self._settings.election_timeout * (0.5 + 0.5 * self._jitter())

    def _is_member(self) -> bool:
        return any(self.node_id in configuration.nodes for configuration in self._configurations)

    def _is_electable(self) -> bool:
        """Members by what is signed, and those whose removal is not on record yet.

        By what is signed, since whoever wins discards the rest: a node that stood for the sake of an unsigned configuration would lead
        a service that it is no member of, and could not stand again. And the others, since such a one may be the only node with the latest
        signed entries, and those who do not know yet that its removal is final need its vote. If it could not stand, it would refuse theirs
        and nobody would ever lead again.
        """
        signed = self._log.last_committable
        return any(
            self.node_id in configuration.nodes for configuration in self._configurations if configuration.seqno <= signed
        ) or self.retirement in (Retirement.ORDERED, Retirement.SIGNED, Retirement.COMPLETED)

    def _follow(self, cause: Cause, view: View, primary: NodeId | None) -> None:
        """Be a backup in `view`."""
        was = self.role
        self._move(cause)
        if was is Role.PRIMARY:
            self._became_primary = None
            self._became_backup = view
            self._peers.clear()
            self._refused += self._questions + self._asked
            self._questions.clear()
            self._asked.clear()
        if view > self.view:
            self.view = view
            self._voted_for = None
        self.primary_id = primary
        self._votes.clear()
        # What is committed is in every later primary's log; nothing else is known of this one's.
        self._matched = self.commit_seqno
        self._answered_round = -1
        self._refusing = False
        if was is not Role.BACKUP or self._election_at == _NEVER:
            self._rest()

    def _stand_soon(self) -> None:
        """The timer fired: ask whether standing would succeed, without disturbing anyone's view."""
        if not self._settings.pre_vote:
            self._move(Cause.SILENCE)
            self._move(Cause.WOULD_WIN)
            self._stand()
            return
        self._move(Cause.SILENCE)
        self._ask_for_votes(pre_vote=True)

    def _stand(self) -> None:
        self.view = View(self.view + 1)
        self._voted_for = self.node_id
        self._ask_for_votes(pre_vote=False)

    def _ask_for_votes(self, *, pre_vote: bool) -> None:
        self._rest()
        self.primary_id = None
        self._votes = {self.node_id}
        last = self._log.last_committable
        request = RequestVote(self.view, self._log.view_of(last), last, pre_vote)
        self._messages += [(node, request) for node in sorted(self.peers)]
        self._count_votes()

    def _count_votes(self) -> None:
        if not has_quorums(self._configurations, self._votes):
            return
        if self.role is Role.PRE_VOTE_CANDIDATE:
            self._move(Cause.WOULD_WIN)
            self._stand()
        elif self.role is Role.CANDIDATE:
            self._move(Cause.WON)
            self._lead()

    def _lead(self) -> None:
        """Won. Entries after the last signature are discarded: no root covers them, and nobody can have committed them, since commit needs
        a signature that voters would have held against us. So a log never holds unsigned entries of an earlier view below signed ones of a
        later.
        """
        self._rollback(self._log.last_committable)
        self.primary_id = self.node_id
        self._votes.clear()
        self._election_at = _NEVER
        self._view_start = Seqno(self._log.last_seqno + 1)
        self._became_primary = self.view
        self._became_backup = None
        self._round = 0
        self._round_at = self._now
        self._standing_since = self._now
        self._check_at = self._now
        self._asked_round = 0
        self._peers = {node: Progress(node, self._log.last_seqno, self._now) for node in sorted(self.peers)}
        for peer in self._peers.values():
            self._tell(peer)

    # Elections, as asked.

    def _receive_request_vote(self, sender: NodeId, message: RequestVote) -> None:
        if message.view > self.view:
            # Even by a PreVote, and even from a stranger (a joiner cannot know all names): someone was a candidate in that view, and ours
            # is over.
            self._follow(Cause.LATER_VIEW, message.view, None)
        granted = message.view == self.view and self._would_vote(sender, message)
        if granted and not message.pre_vote:
            self._voted_for = sender
            self._rest()
        self._messages.append((sender, Vote(self.view, granted, message.pre_vote)))

    def _would_vote(self, sender: NodeId, message: RequestVote) -> bool:
        last = self._log.last_committable
        # Signed entries only: those after the last signature are nobody's loss (see _lead).
        if (message.last_view, message.last_seqno) < (self._log.view_of(last), last):
            return False
        if message.pre_vote:
            alive = self._primary_heard_at + _PRIMARY_ALIVE * self._settings.election_timeout > self._now
            return self.role is not Role.PRIMARY and not (self.primary_id is not None and alive)
        return self.primary_id is None and self._voted_for in (None, sender)

    def _receive_vote(self, sender: NodeId, message: Vote) -> None:
        if message.view > self.view:
            self._follow(Cause.LATER_VIEW, message.view, None)
            return
        expected = Role.PRE_VOTE_CANDIDATE if message.pre_vote else Role.CANDIDATE
        if message.granted and message.view == self.view and self.role is expected:
            self._votes.add(sender)
            self._count_votes()

    def _receive_propose_vote(self, sender: NodeId, message: ProposeVote) -> None:
        if message.view == self.view and sender == self.primary_id and self._is_electable():
            self._move(Cause.PROPOSED)
            self._stand()

    # As a backup.

    def _receive_append(self, sender: NodeId, message: AppendEntries) -> None:
        if message.view < self.view:
            self._refuse(sender, message)
            return
        if message.view > self.view:
            self._follow(Cause.LATER_VIEW, message.view, sender)
        elif self.role is Role.PRIMARY or self.primary_id not in (None, sender):
            self._fail(f"{sender[:16]}... and {str(self.primary_id)[:16]}... are both primary in view {self.view}")
            return
        elif self.primary_id is None:
            # Its sender may be in no configuration that we know: a joiner's log is empty, and the channel has shown that it belongs to the
            # service.
            self._follow(Cause.PRIMARY_HEARD, message.view, sender)
        self._primary_heard_at = self._now
        self._rest()
        if not self._remembers(message):
            return
        if not self._has(message.prev_view, message.prev_seqno):
            if message.prev_seqno <= self.commit_seqno:
                mine = self._log.view_of(message.prev_seqno)
                self._fail(f"{sender[:16]}... has {message.prev_view}.{message.prev_seqno} where {mine}.{message.prev_seqno} is final")
                return
            self._refuse(sender, message)
            return
        if message.entries and not self._take(sender, message):
            return
        # Up to here this log is the primary's; beyond may lie a suffix of an earlier view that it will only replace when it conflicts.
        covered = Seqno(message.prev_seqno + len(message.entries))
        self._matched = max(self._matched, covered)
        self._commit_up_to(min(message.committed, self._matched))
        # Entries are acknowledged when they are on disk (`stored`). Everything else wants an answer now.
        if not message.entries or message.round > self._answered_round or self._refusing or self.stored_seqno >= covered:
            self._answered_round = max(self._answered_round, message.round)
            self._refusing = False
            self._acknowledge()

    def _remembers(self, message: AppendEntries) -> bool:
        """Compare the primary's memory of our last acknowledgement with our own; stop if ours was rolled back by whoever runs us."""
        acked = message.acked_seqno
        if acked <= self._log.last_seqno:
            digest = self._log.digest(acked)
            if digest is None or digest == message.acked_digest:
                return True
        self._fail(
            f"this node acknowledged entry {acked} in view {message.view}, and its log up to {self.last_id} does not hold it: "
            "its memory was rolled back; destroy it and let a new node join"
        )
        return False

    def _has(self, view: View, seqno: Seqno) -> bool:
        return seqno <= self._log.last_seqno and self._log.view_of(seqno) == view

    def _take(self, sender: NodeId, message: AppendEntries) -> bool:
        """Append what is new of the message; truncate only where an entry of another view stands in the way. False: the node must stop."""
        log = self._log
        view = message.entries_view
        entries = message.entries
        known = 0
        overlap = min(len(entries), log.last_seqno - message.prev_seqno)
        while known < overlap and log.view_of(Seqno(message.prev_seqno + known + 1)) == view:
            known += 1
        if known < overlap:
            conflict = Seqno(message.prev_seqno + known + 1)
            if conflict <= max(self._matched, self.commit_seqno):
                self._fail(
                    f"{sender[:16]}... replaces entry {log.view_of(conflict)}.{conflict} by {view}.{conflict}, which is final or its own"
                )
                return False
            self._rollback(Seqno(conflict - 1))
        new = entries[known:] if known else entries
        if not new:
            return True
        first = Seqno(log.last_seqno + 1)
        try:
            leaves, notes = self._machine.append(view, first, new)
        except (IntegrityError, FormatError) as error:
            # A bad seal, or a signed root that is not ours: this node or the primary is wrong, and no further message can tell which.
            self._fail(f"entries {view}.{first} to {view}.{first + len(new) - 1} from {sender[:16]}... are refused: {error}")
            return False
        log.extend(view, new, leaves)
        self._kept_messages += 1
        for note in notes:
            self._note(note)
        return True

    def _refuse(self, sender: NodeId, message: AppendEntries) -> None:
        log = self._log
        best = log.best_match(message.prev_view, message.prev_seqno)
        self._refusing = True
        self._messages.append((sender, AppendRefused(self.view, message.round, message.prev_seqno, log.view_of(best), best)))

    def _acknowledge(self) -> None:
        """Tell the primary how far our disk holds its log. Not further: an entry of ours beyond `_matched` may be of a view that it never
        saw.
        """
        seqno = min(self._matched, self.stored_seqno)
        digest = self._log.digest(seqno)
        if digest is None or self.primary_id is None:
            return
        self._messages.append((self.primary_id, AppendAccepted(self.view, max(self._answered_round, 0), seqno, digest)))

    def _commit_up_to(self, limit: Seqno) -> None:
        """Commit the last signature entry at or below `limit`."""
        reached = Seqno(0)
        for seqno in self._log.committables:
            if seqno > limit:
                break
            reached = seqno
        if reached:
            self._commit(reached)

    # As a primary.

    def _tick_primary(self, now: float) -> None:
        settings = self._settings
        if self._peers and now >= self._check_at:  # not in each of a thousand wake-ups a second
            self._check_at = now + settings.heartbeat / 4
            if not self._hears_quorums(now):
                self._follow(Cause.QUORUM_LOST, self.view, None)
                return
            if self._is_stalled(now):
                self._follow(Cause.STALLED, self.view, None)
                self._election_at = now + 2 * settings.election_timeout  # let somebody else try first
                return
        if now >= self._round_at + settings.heartbeat:
            self._round += 1
            self._round_at = now
        for peer in self._peers.values():
            patience = settings.commit_notice if peer.told_committed < self.commit_seqno else settings.heartbeat
            if now >= peer.told_at + patience:
                self._tell(peer)

    def _hears_quorums(self, now: float) -> bool:
        """CheckQuorum: a majority of *each* active configuration has answered within an election timeout."""
        since = now - self._settings.election_timeout
        hearing = {node for node, peer in self._peers.items() if peer.heard_at > since}
        hearing.add(self.node_id)
        return has_quorums(self._configurations, hearing)

    def _is_stalled(self, now: float) -> bool:
        """Whether commit stands still though quorums answer: messages get through, and entries onto no further disk.

        So it is when this node's own host does not store, or carries nothing to one peer while another is down. The others may be a
        majority without it, and cannot know.
        """
        committables = self._log.committables
        oldest = committables[0] if committables else Seqno(0)
        standing = (oldest, min(self.stored_seqno, oldest) + sum(min(peer.match, oldest) for peer in self._peers.values()))
        if not oldest or standing != self._standing:
            self._standing, self._standing_since = standing, now
        return now >= self._standing_since + self._settings.stalled

    def _heard(self, sender: NodeId, view: View, answered: int) -> Progress | None:
        """An answer to AppendEntries: None if it says nothing about this view."""
        if view > self.view:
            self._follow(Cause.LATER_VIEW, view, None)
            return None
        if view < self.view or self.role is not Role.PRIMARY:
            return None
        peer = self._peers.get(sender)
        if peer is not None and peer.flow is not Flow.DIVERGED:
            peer.heard_at = self._now
            peer.round = max(peer.round, min(answered, self._round))
        return peer

    def _receive_accepted(self, sender: NodeId, message: AppendAccepted) -> None:
        peer = self._heard(sender, message.view, message.round)
        if peer is None:
            return
        log = self._log
        if message.seqno > log.last_seqno:
            self._fail(
                f"{sender[:16]}... has stored entry {message.seqno} in view {self.view}, and this node, the view's only author, made none "
                f"beyond {log.last_seqno}: its memory was rolled back; destroy it and let a new node join"
            )
            return
        digest = log.digest(message.seqno)
        # Where ours is not held any more, entries are committed, and the digest in the next acknowledgement covers them, too.
        if digest is not None and digest != message.digest:
            peer.move(Reply.FORKED)
            return
        peer.move(Reply.ACCEPTED)
        if peer.flow is Flow.DIVERGED:
            return
        peer.waiting = False
        if message.seqno > peer.match:
            peer.arrived(message.seqno)
            peer.acked_seqno = message.seqno
            peer.acked_digest = message.digest
            self._advance_commit()
            if log.base < self.commit_seqno <= message.seqno:
                self._release()  # perhaps this was the last one that needed them from memory

    def _receive_refused(self, sender: NodeId, message: AppendRefused) -> None:
        peer = self._heard(sender, message.view, message.round)
        # One loss makes a refusal of each message behind it; only the first tells something new.
        if peer is None or (peer.flow is Flow.PROBE and message.refused_seqno != peer.sent):
            return
        if message.refused_seqno <= peer.match:
            return  # of long ago: it has that entry on disk by now
        peer.move(Reply.REFUSED)
        if peer.flow is Flow.PROBE:
            # Strictly back, so that it ends; and never below what the peer has acknowledged, whatever a stale refusal says.
            peer.go_back(self._log.best_match(message.seqno_view, min(message.seqno, Seqno(message.refused_seqno - 1))))

    def _advance_commit(self) -> None:
        """Commit the last signature entry *of this view* that a majority of every configuration up to it has on disk.

        Of this view, since an entry of an earlier one can be on a majority and still be replaced (Raft paper, figure 8); it commits with
        the first of ours. Configurations after the signature need not agree to it: whoever leads under them had to win the earlier ones as
        well.
        """
        committables = self._log.committables
        if not committables or not self._configurations:
            return
        stored = {node: peer.match for node, peer in self._peers.items() if peer.flow is not Flow.DIVERGED}
        stored[self.node_id] = self.stored_seqno
        reached = [(configuration.seqno, quorum_seqno(configuration.nodes, stored)) for configuration in self._configurations]
        for seqno in reversed(committables):
            if seqno < self._view_start or seqno < reached[0][0]:
                return
            if all(quorum >= seqno for first, quorum in reached if first <= seqno):
                self._commit(seqno)
                return

    def _begin_round(self) -> None:
        """Start asking for those who wait, one round at a time: under load a round serves everything that arrived during the one before."""
        if self._questions and not self._asked:
            self._asked, self._questions = self._questions, []
            self._round += 1
            self._round_at = self._now
            self._asked_round = self._round
            for peer in self._peers.values():
                self._tell(peer)

    def _answer_questions(self) -> None:
        if not self._asked or self.commit_seqno < self._view_start:
            return
        agreeing = {node for node, peer in self._peers.items() if peer.round >= self._asked_round}
        agreeing.add(self.node_id)
        if has_quorums(self._configurations, agreeing):
            self._confirmed += self._asked
            self._asked = []

    # Sending.

    def _storable(self) -> Seqno:
        """Up to where entries go to this node's disk now; see `Settings.unsigned_entries`.

        A backup keeps less back than a primary may have on the way to it. Otherwise the signature that it waits for could be stuck behind
        what it has not acknowledged.
        """
        log, settings, handed = self._log, self._settings, self._handed
        last = log.last_seqno
        begun = max(log.last_committable, handed)
        if (
            last == begun
            or last - begun > settings.unsigned_entries
            or self._kept_messages * 4 >= settings.flight_messages
            or sum(map(len, log.data(Seqno(handed + 1), last))) * 4 >= settings.flight_bytes
        ):
            return last
        return begun

    def _sendable(self) -> Seqno:
        """Up to where a primary's entries go to peers now; see `Settings.ahead_entries`."""
        log, settings = self._log, self._settings
        last = log.last_seqno
        begun = max(log.last_committable, self._ahead)
        if last - begun >= min(settings.ahead_entries, settings.unsigned_entries):
            begun = self._ahead = last
        return begun

    def _tell(self, peer: Progress) -> None:
        """Send what there is to send, or a heartbeat."""
        told = len(self._messages)
        self._send(peer)
        if len(self._messages) == told:
            self._append_to(peer, [], peer.sent)

    def _send(self, peer: Progress) -> None:
        """What may go to peers after `peer.sent`, as its flow allows."""
        last = self._sendable()
        settings = self._settings
        if peer.flow is Flow.PROBE and not peer.waiting:
            self._append_to(peer, [], peer.sent)  # an empty one: what it would carry may be a megabyte, and for nothing
            peer.waiting = True
        while peer.sent < last and peer.flow is Flow.REPLICATE:
            first = Seqno(peer.sent + 1)
            if peer.flight_bytes >= settings.flight_bytes or peer.flight_messages >= settings.flight_messages:
                return
            if first <= self._log.base:
                if peer.fetching is None and self._now >= peer.fetch_retry_at and peer.flight_bytes * 2 <= settings.flight_bytes:
                    if first not in self._fetch and all(other.fetching != first for other in self._peers.values()):
                        self._fetch.append(first)
                    peer.fetching = first
                return
            batch = self._batches.get(first)
            if batch is None:
                # Peers mostly stand at the same place: cut the batch once.
                batch = self._log.batch(first, min(settings.batch_entries, last - first + 1), settings.batch_bytes)
                self._batches[first] = batch
            self._append_to(peer, batch, Seqno(peer.sent + len(batch)))

    def _send_fetched(self, peer: Progress, data: list[bytes]) -> None:
        settings = self._settings
        position = 0
        while position < len(data):
            first = Seqno(peer.sent + 1)
            batch = data[position : position + min(settings.batch_entries, self._log.view_end(first) - peer.sent)]
            batch = batch[: prefix_within(batch, settings.batch_bytes)]
            self._append_to(peer, batch, Seqno(peer.sent + len(batch)))
            position += len(batch)

    def _append_to(self, peer: Progress, entries: list[bytes], last: Seqno) -> None:
        log = self._log
        previous = peer.sent
        self._messages.append(
            (
                peer.node_id,
                AppendEntries(
                    self.view,
                    log.view_of(previous),
                    previous,
                    self.commit_seqno,
                    log.view_of(last),
                    self._round,
                    peer.acked_seqno,
                    peer.acked_digest,
                    entries,
                ),
            )
        )
        peer.told_at = self._now
        peer.told_committed = self.commit_seqno
        if entries:
            peer.departed(last, sum(map(len, entries)))

    # The log's two ends, on any node.

    def _note(self, note: Note) -> None:
        """What an appended entry means for commit and for membership."""
        seqno, committable, configuration, removed = note
        if committable:
            self._log.mark_committable(seqno)
        if configuration is not None:
            self._configure(Configuration(seqno, configuration.nodes))
        if removed:
            self._removals.append((seqno, removed))
        if committable and self.retirement is Retirement.ORDERED:
            self._retire(Removal.SIGNED)
            self._retirement_signed = seqno

    def _configure(self, configuration: Configuration) -> None:
        """A configuration is active as soon as it is appended (a node cannot know whether others have committed it already), beside all
        earlier ones.
        """
        known = self._is_member()
        self._configurations.append(configuration)
        member = self.node_id in configuration.nodes
        if known and not member and self.retirement is Retirement.NONE:
            self._retire(Removal.CONFIGURED)
            self._retirement_seqno = configuration.seqno
        if self.role is Role.PRIMARY:
            for node in sorted(configuration.nodes - self._peers.keys() - {self.node_id}):
                # It probably has nothing. Its first refusal says so, at the price of one round trip.
                self._peers[node] = Progress(node, Seqno(configuration.seqno - 1), self._now)
        elif member and self._election_at == _NEVER:
            self._rest()

    def _retire(self, cause: Removal) -> None:
        phase = RETIREMENT_TRANSITIONS.get((self.retirement, cause))
        if phase is None:
            raise UsageError(f"{self.retirement} cannot see {cause}")
        self.retirement = phase

    def _rollback(self, to: Seqno) -> None:
        """Undo every entry above `to`: in memory, in the state, and (with the next `ready`) on disk."""
        log = self._log
        if to >= log.last_seqno:
            return
        if to < self.commit_seqno:
            raise UsageError(f"rollback to {to}, below commit at {self.commit_seqno}")
        log.truncate(to)
        self._batches.clear()
        self._machine.rollback(TransactionId(log.last_view, to))
        while self._configurations and self._configurations[-1].seqno > to:
            del self._configurations[-1]
        while self._removals and self._removals[-1][0] > to:
            del self._removals[-1]
        if self.retirement in (Retirement.ORDERED, Retirement.SIGNED) and self._retirement_seqno > to:
            self._retire(Removal.ROLLED_BACK)
        if self._handed > to:
            # The host has been given some of it. From here on, what it reports of the old generation is of entries that are no more.
            self._handed = to
            self._generation += 1
            self._truncate_after = to if self._truncate_after is None else min(self._truncate_after, to)
        self.stored_seqno = min(self.stored_seqno, to)
        self._ahead = min(self._ahead, to)

    def _commit(self, to: Seqno) -> None:
        if to <= self.commit_seqno:
            return
        self.commit_seqno = to
        self._log.commit(to)
        self._machine.commit(to)
        configurations = self._configurations
        while len(configurations) > 1 and configurations[1].seqno <= to:
            self._leaving |= configurations.pop(0).nodes
            self._leaving -= configurations[0].nodes
        if self.retirement is Retirement.SIGNED and self._retirement_signed <= to:
            self._retire(Removal.COMMITTED)
        while self._removals and self._removals[0][0] <= to:
            self._remove(self._removals.pop(0)[1])
        self._release()

    def _remove(self, nodes: frozenset[NodeId]) -> None:
        self._leaving -= nodes
        for node in nodes - self.peers - {self.node_id}:
            self._peers.pop(node, None)
        if self.node_id in nodes and self.retirement is Retirement.COMPLETED:
            self._retire(Removal.RECORDED)
            if self.role is Role.PRIMARY:
                self.propose_successor()
                self._follow(Cause.RETIRED, self.view, None)

    def _release(self) -> None:
        """Let go of entries that are final, on our own disk, and either on every peer's or more than the window holds."""
        limit = min(self.commit_seqno, self.stored_seqno)
        log = self._log
        if limit <= log.base:
            return
        if self.role is Role.PRIMARY:
            to = min((peer.match for peer in self._peers.values()), default=limit)
        else:
            to = log.base  # a backup does not know what others have, and may have to feed them one day
        to = min(limit, max(to, log.excess(self._settings.window_entries, self._settings.window_bytes, limit)))
        if to > log.base:
            log.drop(to)
