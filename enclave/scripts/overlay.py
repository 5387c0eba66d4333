"""What one request has read and what it would write, beside the state: a transaction that takes as long as its scripts do.

Consensus and other requests go on while a script runs, so the state may move under it. It therefore writes nothing until its end, and
everything that it has read is remembered; if all of that still stands then, the run is as good as one that happened at once at that
moment, and its writes can be applied. Values are compared, not versions: after a rollback the same seqno may hold something else.
The service signs its ledger all the time, so the records of its last signature are looked at once, all together, and need not stand until
the end: they only must not have been undone. Which signature that was, governance writes down for auditors.
Handlers written for the running transaction work on it as they are: `OverlayTransaction` and its maps have the same words.
Law: nothing of a request is seen by anybody before `write_into`.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeAlias

from ledgerd.enclave.kv import MapHandle, MapView, Store, Transaction
from ledgerd.ledger.errors import UsageError
from ledgerd.ledger.signature import COSE_SIGNATURES, SIGNATURES, TREE

SIGNED: Final = (SIGNATURES, COSE_SIGNATURES, TREE)
PAGE_BYTES_MAX: Final = 1 << 20  # of one answer to `forEach`
_NEVER: Final = bytes(1)  # by its identity
_SINGLETON: Final = bytes(8)  # the only key that maps of signatures have

Mark: TypeAlias = tuple[dict[str, dict[bytes, bytes | None]], frozenset[str]]
"""What an overlay would do at some moment; for `go_back`."""


class Overlay:
    """The maps of one request: its handler's, and those of all scripts that it runs.

    Args:
        store: The state; it is read only.

    Attributes:
        due: What its calls have asked for, to be done by the handler when all scripts have run.
        is_trial: Nothing of it will be done; who works on it must let nothing out that is worth something only if it is, such as
            certificates.
    """

    __slots__ = ("_checks", "_reads", "_records_signed", "_store", "_writes", "due", "is_trial")

    def __init__(self, store: Store) -> None:
        self.due: set[str] = set()
        self.is_trial = False
        self._store = store
        self._writes: dict[str, dict[bytes, bytes | None]] = {}
        self._reads: dict[tuple[str, bytes], bytes | None] = {}
        self._checks: list[Callable[[], bool]] = []
        self._records_signed: dict[str, tuple[bytes | None, int | None]] | None = None  # value and version, by map

    @property
    def observed(self) -> int | None:
        """Seqno of the signature entry that the request has looked at; None if it has looked at none."""
        return None if self._records_signed is None else self._records_signed[SIGNATURES][1]

    def see_signed(self, records: dict[str, tuple[bytes | None, int | None]]) -> None:
        """Take these for the records of the last signature (value and version, by map): for who does again what was done before."""
        self._records_signed = records

    def _last_signed(self, name: str) -> tuple[bytes | None, int | None]:
        """Value and version of one of the records of the last signature, as of the first look at any of them."""
        if self._records_signed is None:
            store, rollbacks = self._store, self._store.rollbacks
            self._records_signed = {name: (store.get(name, _SINGLETON), store.map(name).version_of(_SINGLETON)) for name in SIGNED}
            self._checks.append(lambda: store.rollbacks == rollbacks)
        return self._records_signed[name]

    def get(self, name: str, key: bytes) -> bytes | None:
        """The value as the run sees it: its own, or that of its first look."""
        written = self._writes.get(name)
        if written is not None and key in written:
            return written[key]
        return self._first_look(name, key)

    def effort(self, name: str, *, clearing: bool = False) -> int:
        """Entries that `size`, `page` and, with `clearing`, `clear` of a map go through, beside those that they give."""
        own = len(self._writes.get(name, ()))
        return own + self._store.map(name).size() if clearing else own

    @property
    def keys_read(self) -> Iterable[tuple[str, bytes]]:
        """Maps and keys whose values the request has looked at."""
        return self._reads

    def version(self, name: str, key: bytes) -> int | None:
        """Seqno of the last applied write; the run's own do not count."""
        if name in SIGNED:
            return self._last_signed(name)[1] if key == _SINGLETON else None
        view = self._store.map(name)
        version, value = view.version_of(key), view.get(key)
        self._checks.append(lambda: view.version_of(key) == version and view.get(key) == value)
        return version

    def set(self, name: str, key: bytes, value: bytes) -> None:
        """Write, at the end."""
        self._writes.setdefault(name, {})[key] = value

    def delete(self, name: str, key: bytes) -> None:
        """Remove, at the end."""
        self._writes.setdefault(name, {})[key] = None

    def clear(self, name: str) -> None:
        """Remove all keys that there are now."""
        view = self._store.map(name)
        keys = [key for key, _ in view.range()]
        self._checks.append(lambda: [key for key, _ in view.range()] == keys)
        written = self._writes.setdefault(name, {})
        written.update(dict.fromkeys([*written, *keys]))

    def size(self, name: str) -> int:
        """Number of keys as the run sees it."""
        if name in SIGNED:
            return int(self._last_signed(name)[0] is not None)
        view = self._store.map(name)
        size = there = view.size()
        self._checks.append(lambda: view.size() == there)
        for key, value in self._writes.get(name, {}).items():
            size += (value is not None) - (self._first_look(name, key) is not None)
        return size

    def range(self, name: str, start: bytes | None = None, end: bytes | None = None) -> list[tuple[bytes, bytes]]:
        """Entries with `start <= key < end`, in order of keys, as the run sees them."""
        if name in SIGNED:
            value = self._last_signed(name)[0]
            is_within = (start is None or start <= _SINGLETON) and (end is None or end > _SINGLETON)
            return [] if value is None or not is_within else [(_SINGLETON, value)]
        view = self._store.map(name)
        seen = view.range(start, end)
        self._checks.append(lambda: view.range(start, end) == seen)
        own = self._written(name, start, end)
        if not own:
            return seen
        return sorted((key, value) for key, value in {**dict(seen), **own}.items() if value is not None)

    def page(self, name: str, start: bytes | None, end: bytes | None, most: int) -> tuple[list[tuple[bytes, bytes]], bool]:
        """Entries with `start <= key < end` (None: no such bound), in order of keys, as the run sees them; and whether there may be more.

        Args: most: Entries that are wanted.
        """
        if name in SIGNED:
            return self.range(name, start, end), False
        view = self._store.map(name)
        written = self._written(name, start, end)
        limit = most + len(written)  # enough, if the run has removed as many as it has written
        there = view.range(start, end, limit=limit)
        is_cut = len(there) == limit
        if is_cut:
            written = {key: value for key, value in written.items() if key <= there[-1][0]}
        found = sorted((key, value) for key, value in {**dict(there), **written}.items() if value is not None)
        entries = _within(found[:most])
        is_cut = is_cut or len(entries) < len(found)
        last = entries[-1][0] + b"\0" if is_cut else end
        seen = view.range(start, last)
        self._checks.append(lambda: view.range(start, last) == seen)
        return entries, is_cut

    def _written(self, name: str, start: bytes | None, end: bytes | None) -> dict[bytes, bytes | None]:
        """What the run has written with `start <= key < end`."""
        written = self._writes.get(name, {})
        return {key: value for key, value in written.items() if (start is None or key >= start) and (end is None or key < end)}

    def _first_look(self, name: str, key: bytes) -> bytes | None:
        if name in SIGNED:
            return self._last_signed(name)[0] if key == _SINGLETON else None
        seen = self._reads.get((name, key), _NEVER)
        if seen is _NEVER:
            seen = self._reads[(name, key)] = self._store.get(name, key)
        return seen

    @property
    def writes(self) -> dict[str, dict[bytes, bytes | None]]:
        """What the request would write so far, by map and key; None removes. To be looked at only."""
        return self._writes

    def mark(self) -> Mark:
        """What it would do as of now."""
        return {name: dict(written) for name, written in self._writes.items()}, frozenset(self.due)

    def go_back(self, mark: Mark) -> None:
        """Undo what was done since; what was read counts on. A mark serves once."""
        self._writes, self.due = mark[0], set(mark[1])

    def take_trial(self) -> list[tuple[str, bytes, bytes | None, bytes | None]]:
        """End a trial: what it would have changed, as (map, key, before, after), sorted.

        Afterwards it is as if nothing had been read or written: there is nothing to be applied, nor to be done again.
        """
        changes = []
        for name, written in self._writes.items():
            for key, after in written.items():
                before = self._store.get(name, key)
                if before != after:
                    changes.append((name, key, before, after))
        self._writes, self._reads, self._checks, self._records_signed = {}, {}, [], None
        return sorted(changes, key=lambda change: change[:2])

    def is_current(self) -> bool:
        """Whether everything that was read still stands."""
        get = self._store.get
        for (name, key), value in self._reads.items():
            if get(name, key) != value:
                return False
        return all(check() for check in self._checks) if self._checks else True

    def write_into(self, transaction: Transaction) -> None:
        """Make the run's writes those of `transaction`; at once after `is_current`, before anything else is applied."""
        for name, changes in self._writes.items():
            handle = transaction.map(name)
            for key, value in changes.items():
                if value is None:
                    handle.delete(key)
                else:
                    handle.set(key, value)


class OverlayMap(MapHandle):
    """A map of an overlay, with the words of one of the running transaction."""

    __slots__ = ("_overlay", "_readonly")

    def __init__(self, overlay: Overlay, name: str, transaction: Transaction, *, readonly: bool) -> None:
        super().__init__(overlay._store, name, transaction)
        self._overlay = overlay
        self._readonly = readonly

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`, or None."""
        return self._overlay.get(self.name, key)

    def version_of(self, key: bytes) -> int | None:
        """Seqno of the last applied write of `key`, or None if it has no applied value."""
        return self._overlay.version(self.name, key)

    def size(self) -> int:
        """Number of keys."""
        return self._overlay.size(self.name)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All pairs in ascending order of keys, as of now."""
        yield from self._overlay.range(self.name)

    def set(self, key: bytes, value: bytes) -> None:
        """Write `value` under `key`. Raises: UsageError: The endpoint is read-only, or key or value are not bytes."""
        self._check_writable()
        if type(key) is not bytes or type(value) is not bytes:
            raise UsageError(f"map {self.name}: keys and values are bytes, not {type(key).__name__} and {type(value).__name__}")
        self._overlay.set(self.name, key, value)

    def delete(self, key: bytes) -> bool:
        """Remove `key`; True if it had a value. Raises: UsageError: The endpoint is read-only."""
        self._check_writable()
        there = self.get(key) is not None
        self._overlay.delete(self.name, key)
        return there

    def clear(self) -> None:
        """Remove every key. Raises: UsageError: The endpoint is read-only."""
        self._check_writable()
        self._overlay.clear(self.name)

    def _check_writable(self) -> None:
        if self._readonly:
            raise UsageError(f"map {self.name}: a read-only endpoint cannot write")

    def _pairs(self, start: bytes | None, end: bytes | None, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
        pairs = self._overlay.range(self.name, start, end)
        yield from reversed(pairs) if reverse else pairs


class OverlayTransaction(Transaction):
    """An overlay, with the words of the running transaction."""

    __slots__ = ("overlay",)

    def __init__(self, store: Store, *, readonly: bool = False) -> None:
        super().__init__(store)
        self.overlay = Overlay(store)
        self.readonly = readonly

    def map(self, name: str) -> MapHandle:
        """The map `name`; maps need no creation."""
        self.touched = True
        return OverlayMap(self.overlay, name, self, readonly=self.readonly)

    def applied(self, name: str) -> MapView:
        """The same for reading. Unlike the running transaction's it shows what the request itself would write: scripts of one request see
        what those before them, and its handler, have done."""
        self.touched = True
        return OverlayMap(self.overlay, name, self, readonly=True)


def _within(entries: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """As many of them, one at least, as an answer bears."""
    size = 0
    for count, (key, value) in enumerate(entries):
        size += len(key) + len(value)
        if count and size > PAGE_BYTES_MAX:
            return entries[:count]
    return entries
