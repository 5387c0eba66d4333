"""What a primary knows of one peer: how far it has got, what is on the way to it.

Pure. Not here: what to send (`consensus.sending`).
"""

from collections import deque
from enum import Enum
from typing import Final

from ledgerd.enclave.consensus.messages import NO_DIGEST
from ledgerd.ledger.errors import UsageError
from ledgerd.ledger.ids import NodeId, Seqno


class Flow(Enum):
    """How entries are sent to a peer."""

    PROBE = "empty messages, until the peer accepts one"
    REPLICATE = "everything at once, without waiting for answers"
    DIVERGED = "heartbeats only; its acknowledgements do not count"


class Reply(Enum):
    """What a peer's answer, or the lack of one, means for the flow."""

    ACCEPTED = "AppendAccepted whose hash is ours"
    REFUSED = "AppendRefused of what was sent"
    CUT = "its channel broke, what was on the way is lost"
    FORKED = "AppendAccepted whose hash is not ours"


# Every way the flow to a peer changes is a row here. A diverged peer stays so until another view: one of us two was rolled back by its
# host. It will find out by the echo of its own acknowledgement, or we shall by losing our quorum.
FLOW_TRANSITIONS: Final = {
    (Flow.PROBE, Reply.ACCEPTED): Flow.REPLICATE,
    (Flow.PROBE, Reply.REFUSED): Flow.PROBE,
    (Flow.PROBE, Reply.CUT): Flow.PROBE,
    (Flow.PROBE, Reply.FORKED): Flow.DIVERGED,
    (Flow.REPLICATE, Reply.ACCEPTED): Flow.REPLICATE,
    (Flow.REPLICATE, Reply.REFUSED): Flow.PROBE,
    (Flow.REPLICATE, Reply.CUT): Flow.PROBE,
    (Flow.REPLICATE, Reply.FORKED): Flow.DIVERGED,
    (Flow.DIVERGED, Reply.ACCEPTED): Flow.DIVERGED,
    (Flow.DIVERGED, Reply.REFUSED): Flow.DIVERGED,
    (Flow.DIVERGED, Reply.CUT): Flow.DIVERGED,
    (Flow.DIVERGED, Reply.FORKED): Flow.DIVERGED,
}


class Progress:
    """One peer of a primary, within one view.

    Attributes:
        match: Highest seqno that the peer has on disk and that is ours; it never falls within a view.
        acked_seqno: Its last acknowledgement, with its hash; repeated to it in every message.
        sent: Highest seqno sent, on the assumption that it arrived; never below `match`.
        waiting: In `Flow.PROBE`, whether the probe (empty, after `sent`) is out; a heartbeat repeats it.
        fetching: First seqno of the entries that the host was asked for on its behalf.
        fetch_retry_at: When to ask again after the host had nothing.
        heard_at: When it last answered in this view.
        told_at: When something was last sent to it.
        told_committed: The commit seqno that it was last told.
        round: The highest round that it answered.
    """

    __slots__ = (
        "_flight",
        "acked_digest",
        "acked_seqno",
        "fetch_retry_at",
        "fetching",
        "flight_bytes",
        "flow",
        "heard_at",
        "match",
        "node_id",
        "round",
        "sent",
        "told_at",
        "told_committed",
        "waiting",
    )

    def __init__(self, node_id: NodeId, sent: Seqno, now: float) -> None:
        self.node_id = node_id
        self.match = Seqno(0)
        self.acked_seqno = Seqno(0)
        self.acked_digest = NO_DIGEST
        self.sent = sent
        self.flow = Flow.PROBE
        self.waiting = False
        self.fetching: Seqno | None = None
        self.fetch_retry_at = now
        self.heard_at = now  # grace: a new primary, or a new peer, has an election timeout's time
        self.told_at = float("-inf")
        self.told_committed = Seqno(0)
        self.round = 0
        self._flight: deque[tuple[Seqno, int]] = deque()
        self.flight_bytes = 0

    @property
    def flight_messages(self) -> int:
        """Messages with entries that are not acknowledged."""
        return len(self._flight)

    def move(self, reply: Reply) -> None:
        """Follow the table."""
        flow = FLOW_TRANSITIONS.get((self.flow, reply))
        if flow is None:
            raise UsageError(f"a peer in {self.flow} cannot see {reply}")
        self.flow = flow

    def departed(self, last: Seqno, size_bytes: int) -> None:
        """A message with entries up to `last` is on its way."""
        self.sent = last
        self._flight.append((last, size_bytes))
        self.flight_bytes += size_bytes

    def arrived(self, match: Seqno) -> None:
        """Everything up to `match` is on the peer's disk."""
        if match > self.match:
            self.match = match
            self.sent = max(self.sent, match)
            flight = self._flight
            while flight and flight[0][0] <= match:
                self.flight_bytes -= flight.popleft()[1]

    def go_back(self, to: Seqno) -> None:
        """What is on the way is of no use: continue after `to`, or after `match` if that is more."""
        self.sent = max(to, self.match)
        self._flight.clear()
        self.flight_bytes = 0
        self.fetching = None
        self.waiting = False
