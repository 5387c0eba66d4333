"""A node's ledger as its two files hold it together: LMDB, and what the journal has beyond it.

Law: a ledger is what LMDB holds, changed by those records of the journal whose number is above the one that LMDB keeps as `moved`. It can
be read at any time, also while its node runs and after a crash at any moment.
Not here: who writes both, and in which order (`node.storage`); the records' form (`node.journal`).
Nothing here verifies anything: the host is not believed.
Databases: `entries` (seqno, 8 bytes big-endian, to entry bytes), `snapshots` (not yet used), `meta` (`format`, `committed`, `moved`).
"""

import contextlib
import itertools
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import lmdb

from ledgerd.ledger.errors import ConfigurationError, IntegrityError
from ledgerd.node import journal
from ledgerd.node.bounded_file import open_bounded

FORMAT: Final = b"ledgerd ledger 2"
DATA: Final = "data.mdb"  # LMDB's name for its file
DATABASES_MAX: Final = 3
JOURNAL_BYTES_MAX: Final = 1 << 30  # that are read at once; a node's has some MiB
SEQNO: Final = struct.Struct(">Q")
FORMAT_KEY: Final = b"format"
COMMITTED_KEY: Final = b"committed"
MOVED_KEY: Final = b"moved"


class Suffix:
    """How a ledger ends: up to `base` as it was before, then `entries`.

    Attributes:
        base: Seqno.
        entries: From seqno `base + 1` on.
    """

    def __init__(self, base: int) -> None:
        self.base = base
        self.entries: list[bytes] = []

    @property
    def last(self) -> int:
        """Seqno of the last entry."""
        return self.base + len(self.entries)

    def truncate(self, last: int) -> None:
        """Forget entries above `last`."""
        if last < self.base:
            self.base = last
            self.entries.clear()
        else:
            del self.entries[last - self.base :]

    def replace(self, base: int, entries: Sequence[bytes]) -> None:
        """Change it as a record of the journal says."""
        self.truncate(base)
        self.entries += entries


def walk(transaction: lmdb.Transaction, suffix: Suffix, first: int) -> Iterator[tuple[int, bytes]]:
    """Entries with their seqnos from `first` on: LMDB's up to the suffix's base, then the suffix's."""
    cursor: Any = transaction.cursor()
    if first <= suffix.base and cursor.set_range(SEQNO.pack(first)):
        for key, data in cursor.iternext():
            seqno: int = SEQNO.unpack(key)[0]
            if seqno > suffix.base:
                break
            yield seqno, data
    start = max(first - suffix.base - 1, 0)
    yield from enumerate(itertools.islice(suffix.entries, start, None), suffix.base + 1 + start)


def holds_ledger(directory: Path) -> bool:
    """Whether there is a ledger in the directory, of whatever age."""
    return any((directory / name).exists() for name in (DATA, journal.NAME))


class LedgerReader:
    """Reads a ledger directory, also while its node runs: each look, and each `entries` loop, sees one consistent state.

    That state has everything that the node had stored when the look began. For the journal is read first, then LMDB: whatever left the
    journal meanwhile is in LMDB, and what LMDB has of the journal is told by the number that it keeps.

    Raises: ConfigurationError: There is no ledger, or of another format. IntegrityError: LMDB's file is damaged; but where LMDB itself
        does not see that, it ends the process (`node.ledger_process`).
    """

    def __init__(self, directory: Path) -> None:
        if not (directory / DATA).is_file():  # a pipe, which a stranger may have put there, would be waited for
            raise ConfigurationError(f"{directory} holds no ledger (there is no {DATA})")
        self._directory = directory
        damaged = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.PanicError)
        try:
            # Locking, where the file system lets us: else pages that we read could be written anew meanwhile.
            writable = os.access(directory / "lock.mdb", os.W_OK)
            self._environment = lmdb.open(str(directory), readonly=True, lock=writable, max_dbs=DATABASES_MAX, create=False)
            self._entries = self._environment.open_db(b"entries", create=False)
            self._meta = self._environment.open_db(b"meta", create=False)
        except (lmdb.Error, OSError) as error:
            refusal = IntegrityError if isinstance(error, damaged) else ConfigurationError
            raise refusal(f"cannot read the ledger in {directory}: {error}") from None
        with self._damage_told(), self._begin() as transaction:
            found = transaction.get(FORMAT_KEY, db=self._meta)
        if found != FORMAT:
            self.close()
            raise ConfigurationError(f"the ledger in {directory} has format {found!r}, this program reads {FORMAT!r}")

    def _begin(self) -> lmdb.Transaction:
        while True:
            try:
                return self._environment.begin(db=self._entries)
            except lmdb.MapResizedError:  # the writer has grown it
                self._environment.set_mapsize(0)

    @contextlib.contextmanager
    def _damage_told(self) -> Iterator[None]:
        """What LMDB finds wrong with its file while it is read is an error of ours."""
        try:
            yield
        except lmdb.ReadersFullError:
            raise ConfigurationError(f"too many read the ledger in {self._directory} at once; ask again when one has ended") from None
        except (lmdb.Error, struct.error) as error:
            raise IntegrityError(
                f"the file {DATA} of the ledger in {self._directory} is damaged ({type(error).__name__}); copy it again while the node "
                "does not run, or take another node's"
            ) from None

    @contextlib.contextmanager
    def _look(self) -> Iterator[tuple[lmdb.Transaction, Suffix, int]]:
        """LMDB's state, what the journal adds to it, and the seqno up to which the node knew entries to be committed.

        Raises: ConfigurationError: The journal cannot be read, or is not of the same moment as LMDB's file.
        """
        try:
            with open_bounded(self._directory / journal.NAME, JOURNAL_BYTES_MAX) as file:
                records = list(journal.decode(file.read()))
        except OSError as error:
            raise ConfigurationError(f"cannot read the journal of the ledger in {self._directory}: {error.strerror}") from None
        with self._damage_told(), self._begin() as transaction:
            cursor = transaction.cursor()
            suffix = Suffix(SEQNO.unpack(cursor.key())[0] if cursor.last() else 0)
            moved, committed = (_number(transaction.get(key, db=self._meta)) for key in (MOVED_KEY, COMMITTED_KEY))
            for record in records:
                if record.number <= moved:
                    continue
                if record.number != moved + 1 or record.base > suffix.last:
                    raise ConfigurationError(
                        f"in {self._directory} the journal does not continue {DATA}: they are copies of different moments, or one was "
                        "damaged; copy both again while the node does not run, or export from the node's own directory"
                    )
                suffix.replace(record.base, record.entries)
                moved = record.number
                committed = max(committed, record.committed)
            yield transaction, suffix, min(committed, suffix.last)

    def last_seqno(self) -> int:
        """Seqno of the last entry; 0 if there is none."""
        with self._look() as (_, suffix, _):
            return suffix.last

    def committed_seqno(self) -> int:
        """What the node last noted as committed; behind by a fraction of a second, longer while it is busy with one batch."""
        with self._look() as (_, _, committed):
            return committed

    def entries(self, first: int = 1, last: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Entries with their seqnos, ascending, from one consistent state; gaps are the reader's to find."""
        with self._look() as (transaction, suffix, _):
            for seqno, data in walk(transaction, suffix, first):
                if last is not None and seqno > last:
                    return
                yield seqno, data

    def close(self) -> None:
        """Give the directory back."""
        self._environment.close()

    def __enter__(self) -> "LedgerReader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _number(value: bytes | memoryview | None) -> int:
    return int(SEQNO.unpack(value)[0]) if value else 0
