"""What consensus and its caller owe each other: settings, the state machine that is moved, and what `ready` hands over.

Values only. Not here: what becomes of them (`consensus.core`).
"""

from collections.abc import Hashable
from typing import NamedTuple, Protocol

from ledgerd.enclave.consensus.messages import Message
from ledgerd.enclave.consensus.quorum import Configuration
from ledgerd.ledger.ids import NodeId, Seqno, TransactionId, View


class Settings(NamedTuple):
    """Times in seconds of the enclave's monotonic clock; every node of a service should use the same.

    Attributes:
        heartbeat: A peer hears from the primary at least this often.
        election_timeout: A backup stands after hearing nothing for 0.5 to 1 times this; a primary without a quorum's answers for this long
            steps down.
        stalled: A primary steps down when for so long the oldest signature entry that is not final got no further on any disk.
        newcomer: A node that was just added counts as heard for so much longer than others: it learns only when it asks next that it is
            trusted, and what it needs to answer. Without, a primary could step down for nobody: where the newcomer is needed for a
            majority nobody could be elected, nor give it that.
        commit_notice: An idle primary tells peers of a new commit after this, instead of with the next heartbeat.
        batch_entries, batch_bytes: Limits of one AppendEntries (CCF's are 20 and 20,000).
        flight_bytes, flight_messages: What may be on the way to one peer without acknowledgement.
        window_entries, window_bytes: Committed entries kept in memory for peers that lag; the host is asked for older ones.
        unsigned_entries: What no signature entry covers yet is kept from the disk, up to so many entries: it cannot be committed before,
            and a round of commits then costs each disk one sync. 0 to store and send everything at once, as CCF does.
        promise: A backup hands its acknowledgement over together with the entries (`ConsensusReady.promise`), for whoever stores them to
            send, instead of making it when they are reported as stored.
        ahead_entries: A primary sends such entries to peers once it has made so many, so that they are worked on over there while more
            are made here; fewer go with their signature.
        pre_vote: Ask before standing.
    """

    heartbeat: float = 0.1
    election_timeout: float = 1.0
    stalled: float = 10.0
    newcomer: float = 0.0  # as CCF, whose nodes have what they need when they are trusted
    commit_notice: float = 0.03
    batch_entries: int = 5_000
    batch_bytes: int = 1 << 20
    flight_bytes: int = 8 << 20
    flight_messages: int = 256
    window_entries: int = 5_000
    window_bytes: int = 2 << 20
    unsigned_entries: int = 0
    ahead_entries: int = 1_000
    promise: bool = False
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
       `patience_ms`: how long the report may wait, to come together with other news.
    3. `commit`: everything up to it is final (already told to the state machine).
    4. `messages`: send each to its node; do not wait for the sync. Losing one is safe.
       `promise`: send it once `entries` are on disk, and before any later message to that node. If it cannot be sent, say `cut`.
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
        "patience_ms",
        "promise",
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
        self.patience_ms = 0
        self.commit: Seqno | None = None
        self.messages: list[tuple[NodeId, Message]] = []
        self.promise: tuple[NodeId, Message] | None = None
        self.fetch: list[Seqno] = []
        self.became_primary: View | None = None
        self.became_backup: View | None = None
        self.confirmed: list[Hashable] = []
        self.refused: list[Hashable] = []
        self.failed: str | None = None
