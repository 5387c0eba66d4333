"""The log's end, in memory: entry bytes, digests over their leaves, where views begin, which entries are signatures.

Pure. What lies before `base` is on disk only, and the host is asked for it when a peer needs it (`consensus.sending`); of that part only
the starts of views are kept, a few bytes a view. Not here: what is safe to drop or to truncate (`consensus.membership` decides).

The digest at i is the SHA-256 of all leaves from 1 to i, one after the other, 32 zero bytes at 0: it names the whole log up to there.
"""

from bisect import bisect_right
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple

from ledgerd.enclave.consensus.messages import NO_DIGEST
from ledgerd.enclave.consensus.quorum import Configuration
from ledgerd.ledger.ids import NodeId, Seqno, TransactionId, View

# Hash states kept on the way: digests are asked for where messages end, when they leave and when they are acknowledged. So more than there
# are on the way to a peer (`Settings.flight_messages`), lest each acknowledgement hash everything that is held.
_MARKS_MAX: Final = 320


class LogEntry(NamedTuple):
    """One entry as the primary makes it, or as the caller has read and verified it for `fetched`.

    Attributes:
        data: The entry's bytes as stored and sent.
        leaf: Its Merkle leaf, 32 bytes.
        committable: Whether it is a signature entry.
        configuration: The nodes from here on, if it changes them; its `seqno` is the entry's.
        removed: Nodes whose `retired_committed` it records: once that is committed nobody needs them any more.
    """

    view: View
    seqno: Seqno
    data: bytes
    leaf: bytes
    committable: bool
    configuration: Configuration | None = None
    removed: frozenset[NodeId] = frozenset()


class Log:
    """Entries `base + 1` to `last_seqno`.

    Attributes:
        base: Last seqno that is no longer held; 0 at first.
        last_seqno: Last seqno of the log.
        last_view: Its view; 0 for the empty log.
        size_bytes: Bytes of the entries held.
        committables: Signature entries above the committed one, ascending: the only places where commit may stop.
        last_committable: The last signature entry of all, committed or not; 0 if there is none.
    """

    __slots__ = (
        "_base_state",
        "_committed",
        "_data",
        "_leaves",
        "_marks",
        "_starts",
        "_states",
        "_views",
        "base",
        "committables",
        "last_committable",
        "last_seqno",
        "last_view",
        "size_bytes",
    )

    def __init__(self) -> None:
        self.base = Seqno(0)
        self.last_seqno = Seqno(0)
        self.last_view = View(0)
        self.size_bytes = 0
        self.committables: list[Seqno] = []
        self.last_committable = Seqno(0)
        self._base_state: Any = sha256()  # over the leaves up to `base`
        self._committed = Seqno(0)
        self._data: list[bytes] = []
        self._leaves: list[bytes] = []
        self._marks: list[Seqno] = []  # ascending; `_states` has the hash state at each
        self._states: list[Any] = []
        # Entry by entry views would cost memory for ever; views only begin, so their first seqnos say it all.
        self._views: list[View] = []
        self._starts: list[Seqno] = []

    def __len__(self) -> int:
        return len(self._data)

    def extend(self, view: View, data: Sequence[bytes], leaves: Sequence[bytes]) -> None:
        """Add the next entries, at least one, all of `view`, which must not be below `last_view`."""
        if view != self.last_view:
            self.last_view = view
            self._views.append(view)
            self._starts.append(Seqno(self.last_seqno + 1))
        self._data += data
        self._leaves += leaves
        self.size_bytes += sum(map(len, data))
        self.last_seqno = Seqno(self.last_seqno + len(data))

    def mark_committable(self, seqno: Seqno) -> None:
        """Entry `seqno`, above all that were marked before, is a signature entry."""
        self.committables.append(seqno)
        self.last_committable = seqno

    def view_of(self, seqno: Seqno) -> View:
        """View of entry `seqno`, held or not; 0 for seqno 0. It must not be above `last_seqno`."""
        starts = self._starts
        if starts and seqno >= starts[-1]:
            return self._views[-1]
        index = bisect_right(starts, seqno)
        return self._views[index - 1] if index else View(0)

    def view_end(self, seqno: Seqno) -> Seqno:
        """Last entry of the view that entry `seqno` (>= 1) is of."""
        index = bisect_right(self._starts, seqno)
        return Seqno(self._starts[index] - 1) if index < len(self._starts) else self.last_seqno

    def view_history(self) -> list[TransactionId]:
        """The first entry of every view that has one, ascending."""
        return [TransactionId(view, start) for view, start in zip(self._views, self._starts, strict=True)]

    def best_match(self, view: View, seqno: Seqno) -> Seqno:
        """The highest entry that could also be in a log which has an entry `seqno` of view `view`.

        A log's views never fall, so nothing of a later view can stand at or below `seqno` over there.
        """
        best = min(seqno, self.last_seqno)
        index = bisect_right(self._starts, best)
        while index and self._views[index - 1] > view:
            index -= 1
            best = Seqno(self._starts[index] - 1)
        return best

    def digest(self, seqno: Seqno) -> bytes | None:
        """The digest of the log up to `seqno`, or None where it is no longer (or not yet) held."""
        if not self.base <= seqno <= self.last_seqno:
            return None
        return self._state(seqno).digest() if seqno else NO_DIGEST

    def _state(self, seqno: Seqno) -> Any:
        """The hash state at `seqno`: that of the nearest mark below, and the leaves since; it becomes a mark."""
        marks, states = self._marks, self._states
        index = bisect_right(marks, seqno)
        start, state = (marks[index - 1], states[index - 1]) if index else (self.base, self._base_state)
        if start == seqno:
            return state
        state = state.copy()
        state.update(b"".join(self._leaves[start - self.base : seqno - self.base]))
        marks.insert(index, seqno)
        states.insert(index, state)
        if len(marks) > _MARKS_MAX:
            del marks[0], states[0]
        return state

    def data(self, first: Seqno, last: Seqno) -> list[bytes]:
        """Bytes of entries `first` to `last`, all of which must be held."""
        return self._data[first - self.base - 1 : last - self.base]

    def batch(self, first: Seqno, entries_max: int, bytes_max: int) -> list[bytes]:
        """Entries from `first` (held), of one view, within both limits but at least one."""
        start = first - self.base - 1
        batch = self._data[start : min(start + entries_max, self.view_end(first) - self.base)]
        return batch[: prefix_within(batch, bytes_max)]

    def truncate(self, to: Seqno) -> None:
        """Forget every entry above `to`, which must be at least the committed one."""
        keep = to - self.base
        self.size_bytes -= sum(map(len, self._data[keep:]))
        del self._data[keep:]
        del self._leaves[keep:]
        kept = bisect_right(self._marks, to)
        del self._marks[kept:], self._states[kept:]
        while self._starts and self._starts[-1] > to:
            del self._starts[-1]
            del self._views[-1]
        committables = self.committables
        while committables and committables[-1] > to:
            del committables[-1]
        self.last_committable = committables[-1] if committables else self._committed
        self.last_seqno = to
        self.last_view = self._views[-1] if self._views else View(0)

    def commit(self, committed: Seqno) -> None:
        """Commit has reached signature entry `committed`: those up to it need no more counting, and nothing up to it is ever truncated."""
        self._committed = committed
        del self.committables[: bisect_right(self.committables, committed)]

    def drop(self, to: Seqno) -> None:
        """Let the bytes up to `to` go from memory; they are on disk."""
        count = to - self.base
        self._base_state = self._state(to)
        self.size_bytes -= sum(map(len, self._data[:count]))
        del self._data[:count]
        del self._leaves[:count]
        gone = bisect_right(self._marks, to)
        del self._marks[:gone], self._states[:gone]
        self.base = to

    def excess(self, entries_max: int, bytes_max: int, limit: Seqno) -> Seqno:
        """The seqno up to which entries must go so that both limits hold, at most `limit`; at least `base`."""
        to = max(self.base, Seqno(self.last_seqno - entries_max))
        if self.size_bytes > bytes_max:
            over = self.size_bytes - bytes_max
            position = 0
            for data in self._data:
                if over <= 0 or self.base + position >= limit:
                    break
                over -= len(data)
                position += 1
            to = max(to, Seqno(self.base + position))
        return min(to, limit)


def prefix_within(entries: list[bytes], bytes_max: int) -> int:
    """How many of the first entries fit into `bytes_max`; at least one, lest a big entry block everything behind it."""
    size = 0
    for count, data in enumerate(entries):
        size += len(data)
        if size > bytes_max:
            return max(count, 1)
    return len(entries)
