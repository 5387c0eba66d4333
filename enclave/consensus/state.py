"""What a node's consensus knows, what others may read of it, and how it gives up a role.

The base of the state machine. Each class beyond adds what one purpose needs, and calls only what it stands upon:

    State <- Membership <- Following <- Sending <- Leading <- Elections <- core.Consensus

One object in the end, without doors in between: the rules share their state, and an entry on its way pays for no indirection. One line,
since a class of two bases could not be compiled (docs/adr/0010); what makes a primary needs nothing of what a backup does.
Not here: any rule of the protocol but one, what a node forgets when it becomes a backup.
"""

from collections.abc import Callable, Hashable
from typing import Final

from ledgerd.enclave.consensus.contract import Settings, StateMachine
from ledgerd.enclave.consensus.log import Log
from ledgerd.enclave.consensus.messages import NO_DIGEST, Message
from ledgerd.enclave.consensus.progress import Progress
from ledgerd.enclave.consensus.quorum import Configuration
from ledgerd.enclave.consensus.roles import Cause, Retirement, Role, next_role
from ledgerd.ledger.ids import NodeId, Seqno, TransactionId, View

NEVER: Final = float("inf")


class State:
    """One node's consensus, at rest; see `core.Consensus` for the arguments and attributes."""

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
        self._asked_with = NO_DIGEST  # digest of the log for which votes are asked
        self._election_at = NEVER
        self._primary_heard_at = float("-inf")

        # As a backup: what this view's primary is known to share with us, and what it was answered.
        self._matched = Seqno(0)
        self._proven = Seqno(0)
        self._kept_messages = 0  # whose entries are kept from the disk
        self._answered_round = -1
        self._refusing = False

        # As a primary.
        self._peers: dict[NodeId, Progress] = {}
        self._dismissed: list[Progress] = []  # peers that a record has just removed: one more message tells them
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
        self._promised = Seqno(0)  # up to here the report that it is stored needs no acknowledgement: the host sends one
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

    # Roles.

    def _move(self, cause: Cause) -> None:
        self.role = next_role(self.role, cause)

    def _fail(self, reason: str) -> None:
        """Stop for good. What is wrong cannot be repaired by going on: memory, a peer or this program is not what consensus rests upon."""
        self.failed = reason
        self._messages.clear()

    def _rest(self) -> None:
        """Start the election timer anew: 0.5 to 1 times the timeout, so that peers seldom stand together."""
        self._election_at = self._now + self._settings.election_timeout * (0.5 + 0.5 * self._jitter())

    def _abdicate(self, view: View) -> None:
        """Drop what only a primary has."""
        self._became_primary = None
        self._became_backup = view
        self._peers.clear()
        self._dismissed.clear()
        self._refused += self._questions + self._asked
        self._questions.clear()
        self._asked.clear()

    def _follow(self, cause: Cause, view: View, primary: NodeId | None) -> None:
        """Be a backup in `view`."""
        was = self.role
        self._move(cause)
        if was is Role.PRIMARY:
            self._abdicate(view)
        if view > self.view:
            self.view = view
            self._voted_for = None
        self.primary_id = primary
        self._votes.clear()
        # What is committed is in every later primary's log; nothing else is known of this one's.
        self._matched = self._proven = self.commit_seqno
        self._answered_round = -1
        self._refusing = False
        self._promised = Seqno(0)
        if was is not Role.BACKUP or self._election_at == NEVER:
            self._rest()
