"""As a primary: new entries, what peers acknowledge, what commits, whether quorums still follow, and reads that ask for it.

Not here: becoming one (`consensus.elections`); what is sent (`consensus.sending`).
"""

from collections.abc import Hashable, Sequence

from ledgerd.enclave.consensus.contract import Note
from ledgerd.enclave.consensus.log import LogEntry
from ledgerd.enclave.consensus.messages import AppendAccepted, AppendRefused
from ledgerd.enclave.consensus.progress import Flow, Progress, Reply
from ledgerd.enclave.consensus.quorum import has_quorums, quorum_seqno
from ledgerd.enclave.consensus.roles import Cause, Role
from ledgerd.enclave.consensus.sending import Sending
from ledgerd.ledger.errors import UsageError
from ledgerd.ledger.ids import NodeId, Seqno, View


class Leading(Sending):
    """What only a primary does."""

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

    def confirm(self, token: Hashable) -> None:
        """Ask whether this node is still primary: `token` comes back in `confirmed` after quorums have answered a round that began after
        this call, and this view has committed an entry; otherwise in `refused`. No clock is involved, so no clock can make a deposed
        primary answer.
        """
        if self.role is Role.PRIMARY and self.failed is None:
            self._questions.append(token)
        else:
            self._refused.append(token)

    def live_nodes(self) -> frozenset[NodeId]:
        """On the primary: itself, and the peers that have stored something in this view and have answered within an election timeout."""
        since = self._now - self._settings.election_timeout
        return frozenset({self.node_id, *(node for node, peer in self._peers.items() if peer.match and peer.heard_at > since)})

    def catching_up(self, lag_max: int) -> frozenset[NodeId]:
        """On the primary: the peers of the newest configuration that answer, or have had no time for it, and lack more than `lag_max`
        entries of what is final.
        """
        since, behind = self._now - self._settings.election_timeout, self.commit_seqno - lag_max
        nodes = self._configurations[-1].nodes if self._configurations else frozenset[NodeId]()
        return frozenset(node for node, peer in self._peers.items() if node in nodes and peer.heard_at > since and peer.match < behind)

    @property
    def is_settled(self) -> bool:
        """Whether this primary has committed an entry of its own view: before that it has not heard who is there."""
        return self.role is Role.PRIMARY and self.commit_seqno >= self._view_start

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
        self._heartbeat(now)

    def _heartbeat(self, now: float) -> None:
        settings = self._settings
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
        majority without it, and cannot know. What counts of the own disk is that it has all of it: how much it has is the host's word, and
        a host that gave it entry by entry could keep a service from committing for hours.
        """
        committables = self._log.committables
        oldest = committables[0] if committables else Seqno(0)
        standing = (oldest, (self.stored_seqno >= oldest) + sum(min(peer.match, oldest) for peer in self._peers.values()))
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
        if peer is not None and (peer.flow is not Flow.PROBE or message.refused_seqno == peer.sent):
            self._retreat(peer, message, Seqno(message.refused_seqno - 1))  # strictly back, so that it ends

    def _retreat(self, peer: Progress, message: AppendRefused, highest: Seqno) -> None:
        """Go back to where the peer's log may be ours, to `highest` at most; and never below what the peer has acknowledged, whatever a
        stale refusal says.
        """
        if message.refused_seqno <= peer.match:
            return  # of long ago: it has that entry on disk by now
        peer.move(Reply.REFUSED)
        if peer.flow is Flow.PROBE:
            peer.go_back(self._log.best_match(message.seqno_view, min(message.seqno, highest, peer.sent)))

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
