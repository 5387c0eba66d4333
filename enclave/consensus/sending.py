"""How a primary feeds its peers: what may go, in which pieces, and what the host must read back for those that lag.

Not here: what their answers mean (`consensus.leading`); what is known of each (`consensus.progress`).
"""

from ledgerd.enclave.consensus.following import Following
from ledgerd.enclave.consensus.log import LogEntry, prefix_within
from ledgerd.enclave.consensus.messages import NO_DIGEST, AppendEntries
from ledgerd.enclave.consensus.progress import Flow, Progress, Reply
from ledgerd.enclave.consensus.roles import Role
from ledgerd.ledger.errors import HostError
from ledgerd.ledger.ids import NodeId, Seqno


class Sending(Following):
    """AppendEntries, as the flow to each peer allows."""

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
            if peer.sent + 1 == first and self._is_flowing(peer):
                self._send_fetched(peer, data)

    def cut(self, node_id: NodeId) -> None:
        """The channel to `node_id` broke: what was on the way may be lost; or it is there anew, and may be probed at once. (Without this
        call the next heartbeat finds out.)
        """
        if node_id == self.primary_id:
            self._promised = Seqno(0)
        peer = self._peers.get(node_id)
        if peer is not None:
            peer.move(Reply.CUT)
            peer.go_back(peer.match)

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

    def _send_all(self) -> None:
        for peer in self._peers.values():
            self._send(peer)

    def _is_flowing(self, peer: Progress) -> bool:
        """Whether entries go to this peer, rather than the question where its log ends."""
        return peer.flow is Flow.REPLICATE

    def _dismiss(self) -> None:
        """Tell peers that are needed no more so: with the commit of the record that removed them. Nothing is sent to them after that, so
        one that this does not reach goes on waiting for a primary, until its operator stops it.
        """
        for peer in self._dismissed:
            self._tell(peer)
        self._dismissed.clear()

    def _send(self, peer: Progress) -> None:
        """What may go to peers after `peer.sent`, as its flow allows."""
        last = self._sendable()
        settings = self._settings
        flowing = self._is_flowing(peer)
        if not flowing and peer.flow is Flow.PROBE and not peer.waiting:
            self._append_to(peer, [], peer.sent)  # an empty one: what it would carry may be a megabyte, and for nothing
            peer.waiting = True
        while peer.sent < last and flowing:
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
        digest = log.digest(previous)
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
                    digest or NO_DIGEST,
                    entries,
                ),
            )
        )
        peer.told_at = self._now
        peer.told_committed = self.commit_seqno
        if entries:
            peer.departed(last, sum(map(len, entries)))
