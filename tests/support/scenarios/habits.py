"""Our consensus core with CCF's habits, so that files written for CCF count the same messages: what it does otherwise where both are safe.

Each method stands for one habit, says which, and is otherwise the core's. Nothing of this is in what a service runs.
Not here: times and limits of messages, which are settings, and the disk (`driver`).
"""

from typing import cast

from ledgerd.enclave.consensus.core import Consensus
from ledgerd.enclave.consensus.messages import AppendRefused
from ledgerd.enclave.consensus.progress import Flow, Progress
from ledgerd.ledger.ids import NodeId


class CcfConsensus(Consensus):
    """Feeds its peers, believes refusals, votes, stands, wins and dismisses as CCF does."""

    def _send_all(self) -> None:
        """Entries wait for the next heartbeat; only a peer that was never told anything hears at once."""
        for peer in self._peers.values():
            if peer.told_at < 0:
                self._append_to(peer, [], peer.sent)

    def _is_flowing(self, peer: Progress) -> bool:
        """Entries are sent without asking first where the peer's log ends."""
        return super()._is_flowing(peer) or peer.flow is Flow.PROBE

    def _release(self) -> None:
        """Entries are sent from memory, however old."""

    def _tick_primary(self, now: float) -> None:
        """Heartbeats go out before a primary asks itself whether it still is one, and it asks at every tick."""
        self._heartbeat(now)
        self._check_at = now
        super()._tick_primary(now)

    def _receive_refused(self, sender: NodeId, message: AppendRefused) -> None:
        """Refusals of any age are believed, and what is refused for its view alone may match."""
        if message.view < self.view:
            message = message._replace(view=self.view, round=0)  # its place in the log may still be right
        peer = self._heard(sender, message.view, message.round)
        if peer is not None:
            self._retreat(peer, message, message.refused_seqno)

    def _is_loyal(self) -> bool:
        """PreVote is refused for an older log only."""
        return False

    def _is_electable(self) -> bool:
        """A node stands for the sake of a configuration that is not signed yet, too."""
        return self.is_member or super()._is_electable()

    def _discard_unsigned(self) -> None:
        """Who wins before anything is committed keeps what is not signed."""
        if self.commit_seqno:
            super()._discard_unsigned()

    def _dismiss(self) -> None:
        """Who is removed for good is not told so."""
        self._dismissed.clear()


def with_habits(core: type[Consensus]) -> type[Consensus]:
    """The class `core`, a planted bug perhaps, with CCF's habits beneath: what the bug changes comes first."""
    if issubclass(CcfConsensus, core):
        return CcfConsensus
    return cast(type[Consensus], type(core.__name__, (core, CcfConsensus), {}))
