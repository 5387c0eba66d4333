"""What one run has read and what it would write, beside the state: a transaction that takes as long as its script does.

Consensus and other requests go on while a script runs, so the state may move under it. It therefore writes nothing until its end, and
everything that it has read is remembered; if all of that still stands then, the run is as good as one that happened at once at that
moment, and its writes can be applied. Values are compared, not versions: after a rollback the same seqno may hold something else.
Law: nothing of a run is seen by anybody before `write_into`.
"""

from collections.abc import Callable
from typing import Final

from ledgerd.enclave.kv import Store, Transaction

PAGE_ENTRIES_MAX: Final = 256  # one answer's worth of `forEach`
PAGE_BYTES_MAX: Final = 1 << 20
_NEVER: Final = bytes(1)  # by its identity


class Overlay:
    """The maps of one run.

    Args:
        store: The state; it is read only.
    """

    __slots__ = ("_checks", "_reads", "_store", "_writes")

    def __init__(self, store: Store) -> None:
        self._store = store
        self._writes: dict[str, dict[bytes, bytes | None]] = {}
        self._reads: dict[tuple[str, bytes], bytes | None] = {}
        self._checks: list[Callable[[], bool]] = []

    def get(self, name: str, key: bytes) -> bytes | None:
        """The value as the run sees it: its own, or that of its first look."""
        written = self._writes.get(name)
        if written is not None and key in written:
            return written[key]
        return self._first_look(name, key)

    def version(self, name: str, key: bytes) -> int | None:
        """Seqno of the last applied write; the run's own do not count."""
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
        view = self._store.map(name)
        size = there = view.size()
        self._checks.append(lambda: view.size() == there)
        for key, value in self._writes.get(name, {}).items():
            size += (value is not None) - (self._first_look(name, key) is not None)
        return size

    def page(self, name: str, start: bytes | None) -> tuple[list[tuple[bytes, bytes]], bool]:
        """Entries from key `start` on (None: from the first), in order of keys, as the run sees them; and whether there may be more."""
        view = self._store.map(name)
        written = {key: value for key, value in self._writes.get(name, {}).items() if start is None or key >= start}
        limit = PAGE_ENTRIES_MAX + len(written)  # enough, if the run has removed as many as it has written
        there = view.range(start, limit=limit)
        is_cut = len(there) == limit
        if is_cut:
            written = {key: value for key, value in written.items() if key <= there[-1][0]}
        found = sorted((key, value) for key, value in {**dict(there), **written}.items() if value is not None)
        entries = _within(found)
        is_cut = is_cut or len(entries) < len(found)
        end = entries[-1][0] + b"\0" if is_cut else None
        seen = view.range(start, end)
        self._checks.append(lambda: view.range(start, end) == seen)
        return entries, is_cut

    def _first_look(self, name: str, key: bytes) -> bytes | None:
        seen = self._reads.get((name, key), _NEVER)
        if seen is _NEVER:
            seen = self._reads[(name, key)] = self._store.get(name, key)
        return seen

    def is_current(self) -> bool:
        """Whether everything that was read still stands."""
        get = self._store.get
        return all(get(name, key) == value for (name, key), value in self._reads.items()) and all(check() for check in self._checks)

    def write_into(self, transaction: Transaction) -> None:
        """Make the run's writes those of `transaction`; at once after `is_current`, before anything else is applied."""
        for name, changes in self._writes.items():
            handle = transaction.map(name)
            for key, value in changes.items():
                if value is None:
                    handle.delete(key)
                else:
                    handle.set(key, value)


def _within(entries: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """As many of them, one at least, as an answer bears."""
    size = 0
    for count, (key, value) in enumerate(entries):
        size += len(key) + len(value)
        if count == PAGE_ENTRIES_MAX or (count and size > PAGE_BYTES_MAX):
            return entries[:count]
    return entries
