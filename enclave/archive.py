"""Old entries: asked of the host, recognised, and made into receipts or sent on to a peer that lags.

Not here: how an entry is recognised (`enclave.ranges`), what a receipt is (`ledger.receipt`), ranges for applications
(`enclave.historical`).
"""

from collections.abc import Callable
from typing import Final

from ledgerd.enclave.boundary import Fetch
from ledgerd.enclave.consensus.core import Consensus, LogEntry
from ledgerd.enclave.ranges import CheckedEntry, check_range
from ledgerd.enclave.receipts import from_range
from ledgerd.enclave.refusals import BUSY, refusal
from ledgerd.enclave.replica import Replica
from ledgerd.enclave.requests import Response
from ledgerd.ledger.errors import HostError
from ledgerd.ledger.ids import Seqno, TransactionId

ANSWER_SECONDS: Final = 5.0  # how long the host may take; then it has not got the entries, as far as we care
RANGE_SIZE_BYTES_MAX: Final = 8 << 20  # what one answer of the host may hold; one signed range of a busy service fits
RECEIPTS_MAX: Final = 256  # made from the disk at one time; each may be a range of megabytes to open, and anybody may ask
CATCH_UP_ENTRIES: Final = 2_000  # read at once for a peer that lags
_NEVER: Final = float("inf")


class Archive:
    """Questions to the host about old entries, each with a number and a deadline.

    Attributes:
        wanted: Questions to hand over with the next `Ready`.
    """

    def __init__(self, consensus: Consensus, replica: Replica, reject: Callable[[HostError], None]) -> None:
        """Args: reject: told when the host gave what it should not."""
        self.wanted: list[Fetch] = []
        self._consensus = consensus
        self._replica = replica
        self._reject = reject
        self._waiting: dict[int, tuple[float, Callable[[list[bytes]], None]]] = {}
        self._next = 1

    @property
    def next_deadline(self) -> float:
        """When the host has taken too long for an answer; infinity while none is waited for."""
        for deadline, _ in self._waiting.values():
            return deadline  # that of the oldest question, since all may take as long
        return _NEVER

    def answered(self, number: int, entries: list[bytes]) -> None:
        """The host answered; an answer that nobody waits for is ignored."""
        waiting = self._waiting.pop(number, None)
        if waiting is not None:
            waiting[1](entries)

    def expire(self, now: float) -> None:
        """Give up on what the host did not answer in time."""
        while now >= self.next_deadline:
            self._waiting.pop(next(iter(self._waiting)))[1]([])

    def receipt(self, transaction: TransactionId, kind: str, now: float, answer: Callable[[Response], None]) -> None:
        """Make the receipt of a committed transaction, and give it to `answer` when it is there.

        Args:
            kind: `JSON` or `COSE`, the content type.
            now: Monotonic seconds.
        """

        if len(self._waiting) >= RECEIPTS_MAX:
            answer(BUSY)
            return

        def done(entries: list[bytes]) -> None:
            if not entries:
                answer(
                    refusal(
                        404,
                        "LedgerRangeMissing",
                        f"This node's host does not give back entry {transaction.seqno} and those after it; ask another node.",
                    )
                )
                return
            try:
                answer(from_range(self._replica.sealer, transaction, self._check(transaction.seqno, entries), kind))
            except HostError as error:
                self._reject(error)
                answer(
                    refusal(
                        503, "LedgerRangeRefused", "This node's host gave back entries that are not the committed ones; ask another node."
                    )
                )

        self._ask(transaction.seqno, min(transaction.seqno, self._consensus.commit_seqno - 1), now, done)

    def read(self, first: Seqno, through: int, size_bytes_max: int, now: float, done: Callable[[list[bytes]], None]) -> None:
        """Ask for entries from `first` up to the first signature entry above `through`, or about so many bytes of them.

        Args: done: given what the host gave, unchecked; nothing if it did not answer in time.
        """
        self._ask(first, through, now, done, size_bytes_max)

    def feed_peer(self, first: Seqno, now: float) -> None:
        """Read entries from `first` on back for a peer that lags; they go to it only after they were recognised."""

        def done(entries: list[bytes]) -> None:
            found: list[LogEntry] | None = None
            try:
                if entries:
                    found = [
                        LogEntry(item.opened.view, item.opened.seqno, item.data, item.opened.leaf, item.signature is not None)
                        for item in self._check(first, entries)
                    ]
            except HostError as error:
                self._reject(error)
            try:
                self._consensus.fetched(first, found)
            except HostError as error:
                self._reject(error)

        self._ask(first, min(first + CATCH_UP_ENTRIES, self._consensus.commit_seqno - 1), now, done)

    def _check(self, first: Seqno, entries: list[bytes]) -> list[CheckedEntry]:
        return check_range(self._replica.sealer, self._consensus.view_of, self._consensus.commit_seqno, first, entries)

    def _ask(
        self, first: Seqno, through: int, now: float, done: Callable[[list[bytes]], None], size_bytes_max: int = RANGE_SIZE_BYTES_MAX
    ) -> None:
        number = self._next
        self._next += 1
        self._waiting[number] = (now + ANSWER_SECONDS, done)
        self.wanted.append(Fetch(number, first, through, size_bytes_max))
