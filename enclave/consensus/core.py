"""The consensus state machine, without clocks, sockets or disks: Raft as CCF changed it.

Feed it with `tick`, `receive`, `stored`, `fetched` and, on the primary, `replicate`; then take `ready` and do what it says. Same inputs,
same outputs. What is CCF's: commit stops only at signature entries of the current view; a winner discards what is not signed; a quorum is
one of every active configuration; PreVote and CheckQuorum together; messages of one view; refusals that skip whole views; retirement in
four phases. What is ours: acknowledgements carry a hash of the log and are given for what is on disk only; `confirm` for reads.
`docs/consensus.md` has it in words. Not here: signatures on entries and their cadence (`enclave.history`), sealing of messages
(`enclave.channels`), checks of entries (the `StateMachine`).

No vote, no view and no entry is ever read back from disk. Raft needs them there so that a node that restarts does not contradict itself;
our nodes do not restart: an enclave that ends takes its key with it, and what starts again is another node, with another name, that must
be admitted. The old name keeps its place in the configurations until it is retired and counts as down. So an enclave's memory is as lasting
as its identity, and a host gains nothing by giving an old disk to a new enclave.

Here are the inputs and the output. The rules stand by purpose in the classes beneath: `elections`, `leading` and `sending` for a primary,
`following` for a backup, `membership` for what an entry means on any node, `state` for the fields; what may become what, in `roles`.
"""

from typing import Any, Final

from ledgerd.enclave.consensus.contract import Appended, ConsensusReady, Note, Settings, StateMachine
from ledgerd.enclave.consensus.elections import Elections
from ledgerd.enclave.consensus.log import LogEntry
from ledgerd.enclave.consensus.messages import (
    AppendAccepted,
    AppendEntries,
    AppendRefused,
    Message,
    ProposeVote,
    RequestVote,
    Vote,
)
from ledgerd.enclave.consensus.quorum import Configuration
from ledgerd.enclave.consensus.roles import Cause, Retirement, Role
from ledgerd.enclave.consensus.state import NEVER
from ledgerd.ledger.errors import HostError, PeerError
from ledgerd.ledger.ids import FIRST_VIEW, NodeId, Seqno, View

__all__ = [
    "Appended",
    "Configuration",
    "Consensus",
    "ConsensusReady",
    "LogEntry",
    "Note",
    "Retirement",
    "Role",
    "Settings",
    "StateMachine",
]


_HANDLERS: Final[dict[type[Any], str]] = {
    AppendEntries: "_receive_append",
    AppendAccepted: "_receive_accepted",
    AppendRefused: "_receive_refused",
    RequestVote: "_receive_request_vote",
    Vote: "_receive_vote",
    ProposeVote: "_receive_propose_vote",
}

_NO_VIEW: Final = View(0)

# For how long reports of the disk may wait for other news. A backup that has handed over its acknowledgement needs them only to answer
# questions; a primary needs acknowledgements as well, and they mostly come later than its own disk's.
_PROMISED_MS: Final = 20
_NOT_ALONE_MS: Final = 1


class Consensus(Elections):
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

    def receive(self, sender: NodeId, message: Message) -> None:
        """A message from `sender`, as the channel names it; effects appear in the next `ready`.

        Raises: PeerError: It is of no known kind, or from this node itself.
        """
        if self.failed is not None or (self.role is Role.NONE and self.retirement is not Retirement.RETIRED_COMMITTED):
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
                self._election_at = NEVER

    def next_deadline(self) -> float:
        """When `tick` has something to do, if nothing happens before; infinity if never."""
        if self.failed is not None:
            return NEVER
        if self.role is not Role.PRIMARY:
            return self._election_at
        deadline = NEVER
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
        elif seqno > self._promised:
            self._acknowledge()

    # Output.

    def ready(self) -> ConsensusReady:
        """Everything that came up since the last call; each piece is handed over once."""
        ready = ConsensusReady(self._generation)
        if self.failed is not None:
            ready.failed = self.failed
            return ready
        if self.role is Role.PRIMARY:
            self._begin_round()
            self._send_all()
            self._dismiss()
            self._answer_questions()
        log = self._log
        ready.truncate_after, self._truncate_after = self._truncate_after, None
        if self._handed < log.last_seqno and self._handed < (last := self._storable()):
            ready.first_seqno = Seqno(self._handed + 1)
            ready.entries = log.data(ready.first_seqno, last)
            ready.view = log.view_of(last)
            self._handed = last
            self._kept_messages = 0
            ready.promise = self._promise()
            if ready.promise is not None:
                ready.patience_ms = _PROMISED_MS
            elif self._peers:
                ready.patience_ms = _NOT_ALONE_MS
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
