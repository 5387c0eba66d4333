"""As a backup: take the primary's entries, give way where ours differ, acknowledge what is on disk, commit what it commits.

Not here: when to stop following and to stand (`consensus.elections`).
"""

from ledgerd.enclave.consensus.membership import Membership
from ledgerd.enclave.consensus.messages import NO_DIGEST, AppendAccepted, AppendEntries, AppendRefused, Message
from ledgerd.enclave.consensus.roles import Cause, Role
from ledgerd.ledger.errors import FormatError, IntegrityError
from ledgerd.ledger.ids import NodeId, Seqno, View


class Following(Membership):
    """What a node does with AppendEntries."""

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
            if self.role is Role.NONE:
                self._fail(f"{sender[:16]}... is primary in view {self.view}, which this node led until its removal was final")
                return
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
        # What an earlier message has shown counts no more: the primary's memory may have been set back since, and names be used again.
        self._proven = self.commit_seqno
        if message.prev_seqno > self._proven and not self._agrees(sender, message):
            return
        if message.entries and not self._take(sender, message):
            return
        # Up to here this log is the primary's; beyond may lie a suffix of an earlier view that it will only replace when it conflicts.
        covered = Seqno(message.prev_seqno + len(message.entries))
        self._matched = max(self._matched, covered)
        if message.prev_seqno <= self._proven:
            self._proven = max(self._proven, covered)
        self._commit_up_to(min(message.committed, self._proven))
        # Entries are acknowledged when they are on disk (`_promise`, `stored`). Everything else wants an answer now.
        if not message.entries or message.round > self._answered_round or self._refusing or self.stored_seqno >= covered:
            self._answered_round = max(self._answered_round, message.round)
            self._refusing = False
            self._acknowledge()
        elif covered <= self._handed:
            self._promised = Seqno(0)  # sent once more: what was promised for them may be lost

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

    def _agrees(self, sender: NodeId, message: AppendEntries) -> bool:
        """Compare the logs up to `prev_seqno`, whose names are the same, where both are held; stop if they differ.

        Where they cannot be compared, nothing is final here before a signature entry has been: its root is over everything before it.
        """
        digest = self._log.digest(message.prev_seqno)
        if digest is None or message.prev_digest == NO_DIGEST:
            return True
        if digest == message.prev_digest:
            self._proven = message.prev_seqno
            return True
        self._fail_as_another(f"the log of {sender[:16]}... up to {message.prev_view}.{message.prev_seqno} is another than this node's")
        return False

    def _fail_as_another(self, what: str) -> None:
        self._fail(f"{what}: one of the two had its memory rolled back; destroy this node and let a new one join")

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
        if known and not self._holds(sender, message, known):
            return False
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
        if any(note.committable for note in notes):
            self._proven = log.last_seqno
        return True

    def _holds(self, sender: NodeId, message: AppendEntries, known: int) -> bool:
        """Compare entries that go by the names of ours, beyond what is proven; stop if they differ, for the reason in `_agrees`."""
        first = Seqno(max(message.prev_seqno, self._proven, self.commit_seqno) + 1)
        last = Seqno(message.prev_seqno + known)
        if first > last or self._log.data(first, last) == message.entries[first - message.prev_seqno - 1 : known]:
            return True
        view = message.entries_view
        self._fail_as_another(f"{sender[:16]}... has other entries in {view}.{first} to {view}.{last} than this node")
        return False

    def _refuse(self, sender: NodeId, message: AppendEntries) -> None:
        log = self._log
        best = log.best_match(message.prev_view, message.prev_seqno)
        self._refusing = True
        self._messages.append((sender, AppendRefused(self.view, message.round, message.prev_seqno, log.view_of(best), best)))

    def _acknowledge(self) -> None:
        """Tell the primary how far our disk holds its log. Not further: an entry of ours beyond `_matched` may be of a view that it never
        saw.
        """
        acknowledgement = self._acknowledgement(min(self._matched, self.stored_seqno))
        if acknowledgement is not None:
            self._messages.append(acknowledgement)

    def _promise(self) -> tuple[NodeId, Message] | None:
        """The acknowledgement of what is being handed over for the disk, for the host to send once it is there.

        To the primary it is a message that was long on its way. It may arrive after this node has followed another one, as any other may:
        by then a majority of votes for that one was given by logs that had these entries, this node's among them.
        """
        seqno = min(self._matched, self._handed)
        if not self._settings.promise or self.role is not Role.BACKUP or seqno <= max(self.stored_seqno, self._promised):
            return None
        promise = self._acknowledgement(seqno)
        if promise is not None:
            self._promised = seqno
        return promise

    def _acknowledgement(self, seqno: Seqno) -> tuple[NodeId, Message] | None:
        digest = self._log.digest(seqno)
        if digest is None or self.primary_id is None:
            return None
        return self.primary_id, AppendAccepted(self.view, max(self._answered_round, 0), seqno, digest)

    def _commit_up_to(self, limit: Seqno) -> None:
        """Commit the last signature entry at or below `limit`."""
        reached = Seqno(0)
        for seqno in self._log.committables:
            if seqno > limit:
                break
            reached = seqno
        if reached:
            self._commit(reached)
