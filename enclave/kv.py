"""The state: named maps of bytes to bytes, versioned, ordered, with undo back to the last compaction.

Law: the same writes applied in the same order give the same state on every node; `rollback` restores exactly the state there was.
One transaction runs at a time. It sees its own writes; nobody else does until `apply`.
Not here: what maps mean, who may open them (`enclave.execution`), bytes of entries (`ledgerd.ledger.entry`).
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import islice
from operator import itemgetter
from typing import Final, TypeAlias

from ledgerd.enclave.ordered import SortedKeys
from ledgerd.ledger.entry import WriteSet
from ledgerd.ledger.errors import UsageError

_Slot: TypeAlias = tuple[bytes, int]  # value, version (seqno of the write)
_Write: TypeAlias = tuple[int, str, bytes, _Slot | None]  # its seqno, map, key, slot before it
_seqno_of: Final = itemgetter(0)
_PAGE_KEYS: Final = 512  # keys that `items` looks up at once
_HANDLES_MAX: Final = 1024  # remembered from one request to the next; names of more maps only an application's callers can think of


class _Map:
    """One map as applied: slots by key, and an order index once somebody has asked for order."""

    __slots__ = ("order", "slots")

    def __init__(self) -> None:
        self.slots: dict[bytes, _Slot] = {}
        self.order: SortedKeys | None = None

    def ordered(self) -> SortedKeys:
        """The order index; the first call sorts the map (about 0.7 s for a million keys), later ones are free."""
        order = self.order
        if order is None:
            order = self.order = SortedKeys(self.slots)
        return order


_NOTHING: Final = _Map()  # any map without a key


class MapView:
    """A map as last applied, for reading; it follows later changes. Lookups cost two dict accesses; ranges are in byte order of keys.

    Attributes:
        name: The map's name, `public:` prefix included.
    """

    __slots__ = ("_maps", "name")

    def __init__(self, store: "Store", name: str) -> None:
        self._maps = store._maps
        self.name = name

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`, or None."""
        slot = self._state().slots.get(key)
        return None if slot is None else slot[0]

    def has(self, key: bytes) -> bool:
        """True if `key` has a value, be it empty."""
        return self.get(key) is not None

    def version_of(self, key: bytes) -> int | None:
        """Seqno of the last applied write of `key`, or None if it has no applied value. Own uncommitted writes do not count."""
        slot = self._state().slots.get(key)
        return None if slot is None else slot[1]

    def size(self) -> int:
        """Number of keys."""
        return len(self._state().slots)

    def range(
        self, start: bytes | None = None, end: bytes | None = None, *, limit: int | None = None, reverse: bool = False
    ) -> list[tuple[bytes, bytes]]:
        """Pairs with `start <= key < end` in ascending order of keys (descending with `reverse`), at most `limit` of them.

        For the next page, ascending: `start = last_key + b"\\0"`; descending: `end = last_key`.
        """
        return list(islice(self._pairs(start, end, reverse), limit))

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All pairs in ascending order of keys. Writing to the map meanwhile is allowed; keys behind the cursor are not revisited."""
        start = None
        while page := self.range(start, limit=_PAGE_KEYS):
            yield from page
            start = page[-1][0] + b"\0"

    def _pairs(self, start: bytes | None, end: bytes | None, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
        state = self._state()
        slots = state.slots
        for key in state.ordered().keys(start, end, reverse=reverse):
            yield key, slots[key][0]

    def _state(self) -> _Map:
        return self._maps.get(self.name, _NOTHING)


class MapHandle(MapView):
    """A map within the running transaction: reads see its writes."""

    __slots__ = ("_transaction", "_writes")

    def __init__(self, store: "Store", name: str, transaction: "Transaction") -> None:
        super().__init__(store, name)
        self._transaction = transaction
        self._writes: dict[bytes, bytes | None] | None = None

    def get(self, key: bytes) -> bytes | None:
        """The value of `key` as this transaction sees it, or None."""
        writes = self._writes
        if writes is not None and key in writes:
            return writes[key]
        slot = self._maps.get(self.name, _NOTHING).slots.get(key)
        return None if slot is None else slot[0]

    def set(self, key: bytes, value: bytes) -> None:
        """Write `value` under `key`.

        Raises: UsageError: The transaction is read-only, or key or value are not bytes.
        """
        if type(key) is not bytes or type(value) is not bytes:
            raise UsageError(f"map {self.name}: keys and values are bytes, not {type(key).__name__} and {type(value).__name__}")
        writes = self._writes
        if writes is None:
            writes = self._begin_writing()
        writes[key] = value

    def delete(self, key: bytes) -> bool:
        """Remove `key`; True if it had a value. Removing what is not there writes nothing.

        Raises: UsageError: The transaction is read-only.
        """
        writes = self._writes
        if writes is None:
            writes = self._begin_writing()
        if key in self._state().slots:
            there = writes.get(key, b"") is not None
            writes[key] = None
            return there
        return writes.pop(key, None) is not None

    def clear(self) -> None:
        """Remove every key.

        Raises: UsageError: The transaction is read-only.
        """
        writes = self._begin_writing() if self._writes is None else self._writes
        writes.clear()
        writes.update(dict.fromkeys(self._state().slots))

    def size(self) -> int:
        """Number of keys as this transaction sees it."""
        slots = self._state().slots
        size = len(slots)
        for key, value in (self._writes or {}).items():
            size += (value is not None) - (key in slots)
        return size

    def _begin_writing(self) -> dict[bytes, bytes | None]:
        transaction = self._transaction
        if transaction.readonly:
            raise UsageError(f"map {self.name}: a read-only endpoint cannot write")
        transaction.touched = True
        transaction._writing.append(self)
        writes: dict[bytes, bytes | None] = {}
        self._writes = writes
        return writes

    def _pairs(self, start: bytes | None, end: bytes | None, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
        writes = self._writes
        base = super()._pairs(start, end, reverse)
        if not writes:
            yield from base
            return
        # Merge two sorted runs. Where both have a key, the transaction's own write counts.
        own = sorted((key for key in writes if (start is None or key >= start) and (end is None or key < end)), reverse=reverse)
        pair = next(base, None)
        for key in own:
            while pair is not None and (pair[0] > key if reverse else pair[0] < key):
                yield pair
                pair = next(base, None)
            if pair is not None and pair[0] == key:
                pair = next(base, None)
            value = writes[key]
            if value is not None:
                yield key, value
        if pair is not None:
            yield pair
            yield from base


class Transaction:
    """Reads and writes of one request. The object and its handles are reused; use them only between `begin` and `take` or `discard`.

    Attributes:
        touched: Some map was opened, so that the answer depends on the state.
        readonly: Writing raises UsageError.
    """

    __slots__ = ("_handles", "_store", "_writing", "readonly", "touched")

    def __init__(self, store: "Store") -> None:
        self._store = store
        self._handles: dict[str, MapHandle] = {}
        self._writing: list[MapHandle] = []
        self.touched = False
        self.readonly = False

    def map(self, name: str) -> MapHandle:
        """The map `name`; maps need no creation."""
        self.touched = True
        handle = self._handles.get(name)
        if handle is None:
            handle = self._handles[name] = MapHandle(self._store, name, self)
        return handle

    def applied(self, name: str) -> MapView:
        """Read view of the map `name` without this transaction's writes."""
        self.touched = True
        return MapView(self._store, name)

    @property
    def writes(self) -> WriteSet:
        """What the transaction would change: real writes only, maps without any left out."""
        return {handle.name: handle._writes for handle in self._writing if handle._writes}

    def take(self) -> WriteSet:
        """End the transaction and hand over its writes, for `Store.apply`."""
        writes: WriteSet = {}
        for handle in self._writing:
            if handle._writes:
                writes[handle.name] = handle._writes
            handle._writes = None
        self._writing.clear()
        return writes

    def discard(self) -> None:
        """End the transaction and forget its writes."""
        for handle in self._writing:
            handle._writes = None
        self._writing.clear()


class Store:
    """All maps of the service.

    Args:
        windows: Maps whose records live for a number of entries only: map name to window. A record of version v may be dropped by
            `compact(s)` once v <= s - window; whoever reads such a map must count it as absent from then on.

    Attributes:
        rollbacks: How often entries were undone: while it stays, what was seen has only been added to.
    """

    __slots__ = ("_compacted", "_expiring", "_maps", "_transaction", "_undo", "_version", "_windows", "rollbacks")

    def __init__(self, windows: Mapping[str, int] | None = None) -> None:
        self.rollbacks = 0
        # Maps that hold a key, and no others: an application's callers may think of names without end. Everything else knows maps by name.
        self._maps: dict[str, _Map] = {}
        self._windows = dict(windows or {})
        self._version = 0
        self._compacted = 0
        self._undo: list[_Write] = []  # of every entry above `_compacted`, in order; to be undone from the right
        self._expiring: dict[str, deque[_Write]] = {name: deque() for name in self._windows}  # as they stand in `_undo`
        self._transaction = Transaction(self)

    @property
    def version(self) -> int:
        """Seqno of the last applied entry."""
        return self._version

    @property
    def compacted(self) -> int:
        """Seqno up to which nothing can be rolled back."""
        return self._compacted

    def begin(self, *, readonly: bool = False) -> Transaction:
        """Start the transaction; one that was not ended before is discarded."""
        transaction = self._transaction
        if transaction._writing:
            transaction.discard()
        if len(transaction._handles) > _HANDLES_MAX:
            transaction._handles.clear()
        transaction.touched = False
        transaction.readonly = readonly
        return transaction

    def get(self, name: str, key: bytes) -> bytes | None:
        """The applied value of `key` in map `name`, or None."""
        state = self._maps.get(name)
        if state is None:
            return None
        slot = state.slots.get(key)
        return None if slot is None else slot[0]

    def map(self, name: str) -> MapView:
        """Read view of the map as applied; it follows later changes."""
        return MapView(self, name)

    def names(self) -> list[str]:
        """Names of maps that hold a key, sorted."""
        return sorted(self._maps)

    def start_at(self, seqno: int) -> None:
        """Declare the state to be that of `seqno`, with nothing to undo: for a state loaded at once."""
        self._undo.clear()
        self._version = self._compacted = seqno

    def apply(self, seqno: int, writes: WriteSet) -> None:
        """Make entry `seqno` part of the state.

        Raises: UsageError: `seqno` does not follow the last applied entry.
        """
        if seqno != self._version + 1:
            raise UsageError(f"entry {seqno} cannot be applied to the state at {self._version}")
        self._version = seqno
        undo = self._undo
        maps = self._maps
        for name, changes in writes.items():
            state = maps.get(name)
            if state is None:
                state = maps[name] = _Map()
            slots = state.slots
            order = state.order
            expiring = self._expiring.get(name)
            for key, value in changes.items():
                before = slots.get(key)
                if value is not None:
                    slots[key] = (value, seqno)
                    if before is None and order is not None:
                        order.add(key)
                elif before is not None:
                    del slots[key]
                    if order is not None:
                        order.remove(key)
                else:
                    continue
                write = (seqno, name, key, before)
                undo.append(write)
                if expiring is not None and value is not None:
                    expiring.append(write)
            if not slots:
                del maps[name]

    def rollback(self, seqno: int) -> None:
        """Undo every entry above `seqno`.

        Raises: UsageError: `seqno` is below the last compaction, or above the last entry.
        """
        if not self._compacted <= seqno <= self._version:
            raise UsageError(f"cannot roll back to {seqno}: the state reaches from {self._compacted} to {self._version}")
        self._transaction.discard()
        self.rollbacks += 1
        maps = self._maps
        undo = self._undo
        while undo and undo[-1][0] > seqno:
            _, name, key, before = undo.pop()
            window = self._windows.get(name)
            if before is None or (window is not None and before[1] <= self._compacted - window):  # was not there, or outlived its time
                self._remove(name, key)
                continue
            state = maps.get(name)
            if state is None:
                state = maps[name] = _Map()
            if state.order is not None and key not in state.slots:
                state.order.add(key)
            state.slots[key] = before
        for expiring in self._expiring.values():
            while expiring and expiring[-1][0] > seqno:
                expiring.pop()
        self._version = seqno

    def compact(self, seqno: int) -> None:
        """Give up the right to roll back below `seqno`, and drop records that outlived their window; at each commit.

        Raises: UsageError: `seqno` is above the last entry. (Below the last compaction it does nothing.)
        """
        if seqno > self._version:
            raise UsageError(f"cannot compact at {seqno}: the last entry is {self._version}")
        undo = self._undo
        del undo[: bisect_right(undo, seqno, key=_seqno_of)]
        self._compacted = max(seqno, self._compacted)
        for name, expiring in self._expiring.items():
            last = self._compacted - self._windows[name]
            if not expiring or expiring[0][0] > last:
                continue
            state = self._maps.get(name, _NOTHING)
            slots, order = state.slots, state.order
            while expiring and expiring[0][0] <= last:
                version, _, key, _ = expiring.popleft()
                slot = slots.get(key)
                if slot is not None and slot[1] == version:  # not rewritten since
                    del slots[key]
                    if order is not None:
                        order.remove(key)
            if not slots:
                self._maps.pop(name, None)

    def _remove(self, name: str, key: bytes) -> None:
        state = self._maps.get(name)
        if state is not None and state.slots.pop(key, None) is not None:
            if state.order is not None:
                state.order.remove(key)
            if not state.slots:
                del self._maps[name]
