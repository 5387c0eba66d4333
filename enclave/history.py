"""The Merkle tree beside the log: what the next signature covers, what a rollback undoes, and the ranges that receipts come from.

Leaves are kept since the last committed signature, so the tree can go back to any uncommitted point; the last few committed ranges are
kept for receipts. Everything older is on the host's disk only and comes back through `check_range`.
Not here: signing (`enclave.group_commit`), the tree itself (`ledger.merkle`), receipts (`ledger.receipt`).
"""

from collections import deque
from collections.abc import Sequence
from typing import Final

from ledgerd.ledger import merkle
from ledgerd.ledger.errors import UsageError
from ledgerd.ledger.ids import Seqno
from ledgerd.ledger.signature import Signature

RECENT_LEAVES_MAX: Final = 20_000  # of committed ranges kept for receipts: 640 kB of digests
RECENT_RANGES_MAX: Final = 64


class SignedRange:
    """The leaves that one signature entry added to the tree, and that signature."""

    __slots__ = ("_span", "below", "leaves", "seqno", "signature")

    def __init__(self, below: merkle.Frontier, leaves: list[bytes], seqno: Seqno, signature: Signature) -> None:
        """Args: below: frontier under `leaves[0]`. seqno: of the signature entry; the tree it signs has that many leaves."""
        self.below = below
        self.leaves = leaves
        self.seqno = seqno
        self.signature = signature
        self._span: merkle.Span | None = None

    def covers(self, seqno: Seqno) -> bool:
        """True if `seqno` is among the leaves of this range."""
        return self.below.size <= seqno < self.seqno

    def path(self, seqno: Seqno) -> merkle.Path:
        """Path of the leaf of `seqno` to the signed root."""
        if self._span is None:
            self._span = merkle.Span(self.below, self.leaves)
        return self._span.path(seqno)


class History:
    """The tree over the whole ledger, able to go back to any point above the commit."""

    def __init__(self, recent_ranges: int = RECENT_RANGES_MAX) -> None:
        """Args: recent_ranges: how many committed ranges are kept for receipts, at most."""
        self._recent_ranges = recent_ranges
        self._below = merkle.Frontier()
        self._leaves: list[bytes] = []
        self._tip = self._below.copy()  # over the first `_folded` leaves; the others are folded in together when a root is asked for
        self._folded = 0
        self._ranges: deque[SignedRange] = deque()
        self._uncommitted = 0  # of `_ranges`, counted from the right
        self._recent_leaves = 0

    @property
    def last(self) -> Seqno:
        """Seqno of the last leaf."""
        return Seqno(self._below.size + len(self._leaves) - 1)

    @property
    def last_signed(self) -> Seqno:
        """Seqno of the last signature entry in the log, committed or not; 0 if there is none."""
        return self._ranges[-1].seqno if self._ranges else Seqno(0)

    @property
    def unsigned(self) -> int:
        """Number of entries that no signature covers yet, the last signature entry itself not counted."""
        return self.last - self.last_signed

    def root(self) -> bytes:
        """Root over all leaves so far: what a signature entry at `last + 1` signs."""
        return self._fold().root()

    def tree(self) -> bytes:
        """The serialised tree for a signature entry at `last + 1`."""
        return merkle.serialise_tree(self._below, self._leaves)

    def extend(self, leaves: Sequence[bytes]) -> None:
        """Add the leaves of entries that are no signatures."""
        self._leaves += leaves

    def append_signature(self, leaf: bytes, signature: Signature) -> SignedRange:
        """Close the range with the signature entry at `last + 1`, whose own leaf is the first of the next range."""
        tip = self._fold()
        closed = SignedRange(self._below, self._leaves, Seqno(tip.size), signature)
        self._ranges.append(closed)
        self._uncommitted += 1
        self._begin(tip, [leaf])
        return closed

    def _fold(self) -> merkle.Frontier:
        """The frontier over all leaves."""
        if self._folded < len(self._leaves):
            self._tip.extend(self._leaves[self._folded :])
            self._folded = len(self._leaves)
        return self._tip

    def _begin(self, below: merkle.Frontier, leaves: list[bytes]) -> None:
        self._below = below
        self._leaves = leaves
        self._tip = below.copy()
        self._folded = 0

    def rollback(self, to: Seqno) -> None:
        """Forget every leaf above `to`, which is not below the committed signature."""
        while self._ranges and self._ranges[-1].seqno > to:
            if not self._uncommitted:
                raise UsageError(f"the history cannot go back to {to}: {self._ranges[-1].seqno} is committed")
            undone = self._ranges.pop()
            self._uncommitted -= 1
            self._begin(undone.below, undone.leaves)
        keep = to + 1 - self._below.size
        if keep < 0 or keep > len(self._leaves):
            raise UsageError(f"the history has no leaf {to} to go back to")
        self._begin(self._below, self._leaves[:keep])

    def commit(self, to: Seqno) -> list[SignedRange]:
        """Mark signatures up to `to` as committed; return the ranges that became so, in order."""
        count = len(self._ranges)
        committed = []
        while self._uncommitted and self._ranges[count - self._uncommitted].seqno <= to:
            signed = self._ranges[count - self._uncommitted]
            self._uncommitted -= 1
            self._recent_leaves += len(signed.leaves)
            committed.append(signed)
        while self._recent_leaves > RECENT_LEAVES_MAX or len(self._ranges) - self._uncommitted > self._recent_ranges:
            if len(self._ranges) - self._uncommitted <= 1:
                break
            self._recent_leaves -= len(self._ranges.popleft().leaves)
        return committed

    def committed_range(self, seqno: Seqno) -> SignedRange | None:
        """The committed range that covers `seqno`, if it is still in memory."""
        committed = len(self._ranges) - self._uncommitted
        for index in range(committed - 1, -1, -1):
            if self._ranges[index].covers(seqno):
                return self._ranges[index]
        return None
