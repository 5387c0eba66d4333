"""Bugs of a service around a correct consensus, planted by changing one function: each is one that a reviewer could overlook.

Not here: bugs of consensus (`support.consensus_bugs`).
"""

from collections.abc import Callable
from typing import Any, Final

from ledgerd.enclave import archive, ranges
from ledgerd.enclave.answering import Answering, _complete
from ledgerd.enclave.answers import Held
from ledgerd.enclave.archive import Archive
from ledgerd.enclave.consensus.core import Consensus, Role
from ledgerd.enclave.forwarding import Forwarded
from ledgerd.enclave.frontend import Frontend
from ledgerd.enclave.history import History
from ledgerd.enclave.idempotency import MAP, Idempotency
from ledgerd.enclave.kv import Store, Transaction, _Map
from ledgerd.enclave.ledger_secrets import LedgerSecrets
from ledgerd.enclave.ranges import CheckedEntry
from ledgerd.enclave.refusals import rolled_back
from ledgerd.enclave.replica import Replica
from ledgerd.enclave.status import Status
from ledgerd.ledger import signature
from ledgerd.ledger.entry import ZERO_DIGEST
from ledgerd.ledger.errors import FormatError, HostError, IntegrityError
from ledgerd.ledger.ids import Seqno, View
from support.simulation.patches import Change

_hold: Final[Any] = Answering._hold
_rolled_back: Final[Any] = Answering.rolled_back

_rollback: Final[Any] = Store.rollback
_compact: Final[Any] = Store.compact
_cut: Final[Any] = History.rollback
_status_of: Final[Any] = Status.status_of
_propose_plain: Final[Any] = Replica.propose_plain
_find: Final[Any] = Idempotency.find
_begin_epoch: Final[Any] = LedgerSecrets.applied


def answers_before_commit(self: Any, request: Any, prefer: Any, outcome: Any) -> None:
    """Says that a transaction is committed when it is executed."""
    if outcome.writes is None:
        _hold(self, request, prefer, outcome)
    else:
        self.answer(request.reply_to, outcome.response)


def reads_without_confirmation(self: Any, request: Any, prefer: Any, outcome: Any) -> None:
    """Answers a linearizable read without asking whether it is still primary."""
    if outcome.writes is None and not outcome.replayed and outcome.transaction_id.seqno <= self._consensus.commit_seqno:
        self.answer(request.reply_to, outcome.response)
    else:
        _hold(self, request, prefer, outcome)


def reads_what_is_not_committed(self: Any, tokens: Any) -> None:
    """Answers a confirmed read at once, though what it saw may still be rolled back."""
    for token in tokens:
        for held in self._confirming.pop(token, ()):
            self._answer_read(held, _complete(held))


def says_invalid_too_early(self: Any, to: Seqno) -> None:
    """Calls a write rolled back as soon as it is undone here, though the next primary may still have it."""
    _rolled_back(self, to)
    undone, self._undone = self._undone, []
    for held in undone:
        self.answer(held.reply_to, rolled_back(held.id))


def forgets_who_waits_for_what_was_undone(self: Any, to: Seqno) -> None:
    """Takes a write that was undone for committed when its seqno is committed, in whatever view."""
    undone: list[Held] = self._writes.take_rolled_back(to)
    _rolled_back(self, to)
    for held in undone:
        self._writes.hold(held)


def idempotency_outlives_a_rollback(self: Any, seqno: int) -> None:
    """Does not undo the records of idempotency keys: a repetition is then answered with what never happened."""
    state = self._maps.get(MAP)
    kept = dict(state.slots) if state is not None else {}
    _rollback(self, seqno)
    if kept:
        self._maps.setdefault(MAP, _Map()).slots.update(kept)


def idempotency_forgets_when_it_compacts(self: Any, seqno: int) -> None:
    """Drops records of idempotency keys with every commit."""
    _compact(self, seqno)
    state = self._maps.get(MAP)
    if state is not None:
        for key in [key for key, (_, version) in state.slots.items() if version <= seqno]:
            self._remove(MAP, key)


def undo_does_not_restore_removed_keys(self: Any, seqno: int) -> None:
    """Leaves a key removed though its removal was rolled back."""
    lost = [
        (name, key) for version, name, key, before in self._undo if version > seqno and before is not None and self.get(name, key) is None
    ]
    _rollback(self, seqno)
    for name, key in lost:
        self._remove(name, key)


def undo_restores_the_newest(self: Any, seqno: int) -> None:
    """Undoes from the wrong end: of several writes to a key the oldest is taken back last."""
    undone = [write for write in self._undo if write[0] > seqno]
    _rollback(self, seqno)
    for _, name, key, before in undone:
        if before is None:
            self._remove(name, key)
        else:
            self._maps.setdefault(name, _Map()).slots[key] = before


def tree_keeps_a_leaf(self: Any, to: Seqno) -> None:
    """Keeps one leaf too many when it is cut back; the next signature is over another root."""
    before = list(self._leaves)
    size = self._below.size
    _cut(self, to)
    keep = to + 1 - size
    if self._below.size == size and 0 <= keep < len(before):
        self._begin(self._below, before[: keep + 1])


def receipts_of_anything(self: Any, transaction: Any) -> Any:
    """Gives a receipt for whatever is in the log."""
    return transaction


def _check_to_the_end(self: Any, first: Seqno, entries: list[bytes]) -> Any:
    consensus = self._consensus
    return ranges.check_range(self._replica.sealer, consensus.view_of, consensus.last_seqno, first, entries)


def believes_storage(
    sealer: Any, view_of: Callable[[Seqno], View | None], commit: Seqno, first: Seqno, entries: list[bytes]
) -> list[CheckedEntry]:
    """Believes what the host gives back, if only it opens and a signature entry is in it."""
    checked: list[CheckedEntry] = []
    covered = 0
    for data in entries:
        try:
            opened = sealer.open(data)
            record = signature.parse(opened.writes)
        except (IntegrityError, FormatError) as error:
            raise HostError(str(error)) from None
        checked.append(CheckedEntry(data, opened, record))
        covered = len(checked) if record is not None else covered
    if not covered:
        raise HostError("no signature")
    return checked[:covered]


def says_invalid_by_guess(self: Any, transaction: Any) -> str:
    """Calls an id invalid as soon as another view's entry stands in its place."""
    local = self._consensus.view_of(transaction.seqno)
    if local is not None and local > transaction.view:
        return "Invalid"
    answer: str = _status_of(self, transaction)
    return answer


def says_committed_by_number(self: Any, transaction: Any) -> str:
    """Calls an id committed if its seqno is, in whatever view."""
    if transaction.seqno <= self._consensus.commit_seqno:
        return "Committed"
    answer: str = _status_of(self, transaction)
    return answer


def claims_are_lost(self: Any, view: View, proposals: Any) -> Any:
    """Seals every entry without its claims."""
    return _propose_plain(self, view, [(writes, ZERO_DIGEST) for writes, _ in proposals])


def keeps_writes_of_what_it_refuses(self: Transaction) -> None:
    """Does not discard the writes of a request that was refused: the next one takes them along."""
    if self._store.version % 3:  # not always, lest everything breaks at once
        for handle in self._writing:
            handle._writes = None
        self._writing.clear()


def mixes_up_answers(self: Any, node: Any, number: int) -> Any:
    """Gives a forwarded request's answer to whoever has waited longest."""
    oldest = next(iter(self._waiting), None)
    return None if oldest is None else self._waiting.pop(oldest)[1]


def forgets_keys(self: Any, guard: Any, response: Any, transaction: Any) -> None:
    """Does not write down that a key was used."""


def keys_end_with_their_view(self: Any, guard: Any) -> Any:
    """Finds records of the present view only: what a deposed primary has done is done again."""
    version = self._records.version_of(guard.record)
    present = self._store.version
    if version is not None and present and self._view_of(Seqno(version)) != self._view_of(Seqno(present)):
        return None
    return _find(self, guard)


def nobody_waits_for_what_was_passed_on(self: Any, node: Any, number: int) -> None:
    """Throws away what the primary answers to a forwarded request."""


def believes_any_sync(self: Any, generation: int, view: View, seqno: Seqno) -> None:
    """Takes whatever the host says to have stored for stored."""
    if self.failed is None and seqno > self.stored_seqno:
        self.stored_seqno = Seqno(min(seqno, self._log.last_seqno))
        if self.role is Role.PRIMARY:
            self._advance_commit()
        elif self.role is Role.BACKUP and self.primary_id is not None:
            self._acknowledge()


def never_gives_up_on_its_host(self: Any, now: float) -> None:
    """Does not give up on what the host does not give back, though that is due, and stays so."""


def seals_on_with_the_old_secret(self: Any, seqno: Seqno, writes: Any) -> None:
    """Knows the new secret of the ledger, and seals and opens with the old one: so do all nodes, and none of them notices."""
    epochs = list(self.sealer._epochs)
    _begin_epoch(self, seqno, writes)
    self.sealer._epochs = epochs
    self.sealer._first, self.sealer._cipher, self.sealer._commit_mac = epochs[-1]


def keeps_a_secret_that_was_undone(self: Any, to: Seqno) -> None:
    """Does not give up a secret of the ledger when the entry that announced it is undone."""


PLANTED: Final[dict[str, tuple[Change, ...]]] = {
    "answers_before_commit": ((Answering, "_hold", answers_before_commit),),
    "reads_without_confirmation": ((Answering, "_hold", reads_without_confirmation),),
    "reads_what_is_not_committed": ((Answering, "confirmed", reads_what_is_not_committed),),
    "says_invalid_too_early": ((Answering, "rolled_back", says_invalid_too_early),),
    "forgets_who_waits_for_what_was_undone": ((Answering, "rolled_back", forgets_who_waits_for_what_was_undone),),
    "idempotency_outlives_a_rollback": ((Store, "rollback", idempotency_outlives_a_rollback),),
    "idempotency_forgets_when_it_compacts": ((Store, "compact", idempotency_forgets_when_it_compacts),),
    "undo_does_not_restore_removed_keys": ((Store, "rollback", undo_does_not_restore_removed_keys),),
    "undo_restores_the_newest": ((Store, "rollback", undo_restores_the_newest),),
    "tree_keeps_a_leaf": ((History, "rollback", tree_keeps_a_leaf),),
    "receipts_of_anything": ((Frontend, "_committed", receipts_of_anything), (Archive, "_check", _check_to_the_end)),
    "believes_storage": ((archive, "check_range", believes_storage),),
    "says_invalid_by_guess": ((Status, "status_of", says_invalid_by_guess),),
    "says_committed_by_number": ((Status, "status_of", says_committed_by_number),),
    "never_gives_up_on_its_host": ((Archive, "expire", never_gives_up_on_its_host),),
    "claims_are_lost": ((Replica, "propose_plain", claims_are_lost),),
    "keeps_writes_of_what_it_refuses": ((Transaction, "discard", keeps_writes_of_what_it_refuses),),
    "mixes_up_answers": ((Forwarded, "answered", mixes_up_answers),),
    "keys_end_with_their_view": ((Idempotency, "find", keys_end_with_their_view),),
    "nobody_waits_for_what_was_passed_on": ((Forwarded, "answered", nobody_waits_for_what_was_passed_on),),
    "forgets_keys": ((Idempotency, "remember", forgets_keys),),
    "believes_any_sync": ((Consensus, "stored", believes_any_sync),),
}
"""Each bug's changes, by the name of the function that says what is wrong."""

PLANTED_IN_REKEYING: Final[dict[str, tuple[Change, ...]]] = {
    "seals_on_with_the_old_secret": ((LedgerSecrets, "applied", seals_on_with_the_old_secret),),
    "keeps_a_secret_that_was_undone": ((LedgerSecrets, "rolled_back", keeps_a_secret_that_was_undone),),
}
"""The same for bugs that only a change of the ledger's secret shows."""
