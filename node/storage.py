"""The node's disk: entries by seqno in a journal and then in LMDB, written by one thread, durable before it is said so.

Law: one record in the journal per wake-up of the thread, flushed once, and only then reported (`node.journal`). LMDB follows: with
everything that it lacks in one synced transaction, whenever nothing waits and NOTE_SECONDS have passed, at the latest when the journal has
grown by MOVE_BYTES; a large batch goes there at once, rather than be written twice.
Whatever goes wrong (no space, a device's error) is final: nothing is reported any more and the node stops, for a disk that lied once may
not be asked again. What is committed is noted in each record and each transaction, and NOTE_SECONDS later where neither comes, so that an
idle node's notes are right, too.
Not here: how the two files are read together (`node.ledger_files`), and the journal's form (`node.journal`).
"""

import contextlib
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import lmdb

from ledgerd.ledger.entry import read_public
from ledgerd.ledger.errors import ConfigurationError, FormatError, LedgerdError
from ledgerd.ledger.signature import SIGNATURES
from ledgerd.node import journal
from ledgerd.node.journal import Journal, Record
from ledgerd.node.ledger_files import COMMITTED_KEY, DATABASES_MAX, FORMAT, FORMAT_KEY, MOVED_KEY, SEQNO, Suffix, holds_ledger, walk

MAP_SIZE_BYTES_FIRST: Final = 64 << 20  # of address space, not of disk; doubled whenever it is full
MAP_SIZE_BYTES_MAX: Final = 1 << 42
FETCH_ENTRIES_MAX: Final = 10_000
NOTE_SECONDS: Final = 0.2  # before LMDB gets what it lacks, and the note of what is committed
MOVE_BYTES: Final = 1 << 20  # in the journal, before LMDB gets them whatever waits
DIRECT_BYTES: Final = 1 << 20  # of one batch: from here on to write it once saves more than its flushes cost
JOURNAL_BYTES: Final = MOVE_BYTES + DIRECT_BYTES + journal.BLOCK_BYTES
_READERS_MAX: Final = 126
_SIGNATURE_MARK: Final = SIGNATURES.encode()


class StorageError(LedgerdError):
    """The disk failed, or was handed something that does not continue what it holds. The node must stop."""

    code = "StorageError"


class Append(NamedTuple):
    """Forget entries above `truncate_after` (if given), then store `entries` from `first_seqno` on.

    `generation` and `view` are for the report; with view 0 there is none. `patience_ms`: how long it may wait for others.
    """

    generation: int
    view: int
    truncate_after: int | None
    first_seqno: int
    entries: list[bytes]
    patience_ms: int = 0


class Read(NamedTuple):
    """Find entries from `first` to the first signature entry above `through`, or about `size_max` bytes."""

    request: int
    first: int
    through: int
    size_max: int


class _Wake:
    """Wakes the thread: there is something to note, or the time has come to do so."""


class Report(NamedTuple):
    """What the thread has done since the last report.

    Attributes:
        stored: (generation, view, seqno) up to which all is on disk, or None.
        patience_ms: How long nobody need be told of `stored`.
        appends: How many batches, of all since the start, are on disk.
        stored_bytes: Size of the entries whose transaction ended, for credit.
        read: (request, entries) for each Read.
        failed: Why nothing more will be stored, or None.
    """

    stored: tuple[int, int, int] | None
    patience_ms: int
    appends: int
    stored_bytes: int
    read: list[tuple[int, list[bytes]]]
    failed: str | None


class Storage:
    """A new ledger in an empty directory, and the thread that writes it.

    Args:
        directory: Made if it is not there.
        map_size_max: Bytes beyond which the ledger may not grow.
    Attributes:
        wake: Descriptor that becomes readable when there is something to `collect`.
    Raises: ConfigurationError: The directory already holds a ledger, or cannot be written.
    """

    def __init__(self, directory: Path, map_size_max: int = MAP_SIZE_BYTES_MAX) -> None:
        if holds_ledger(directory):
            raise ConfigurationError(f"{directory} already holds a ledger; a node never resumes from its disk: choose a new directory")
        self._map_size_max = map_size_max
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._environment = lmdb.open(
                str(directory),
                map_size=min(MAP_SIZE_BYTES_FIRST, map_size_max),
                subdir=True,
                max_dbs=DATABASES_MAX,
                max_readers=_READERS_MAX,
                mode=0o600,
                # The defaults, said aloud: each commit is on disk, data and meta page, when it returns.
                sync=True,
                metasync=True,
                writemap=False,
                lock=True,
            )
            self._entries = self._environment.open_db(b"entries")
            self._environment.open_db(b"snapshots")
            self._meta = self._environment.open_db(b"meta")
            self._journal = Journal(directory / journal.NAME, JOURNAL_BYTES)
            with self._environment.begin(write=True) as transaction:
                transaction.put(FORMAT_KEY, FORMAT, db=self._meta)
            _sync_directories(directory)
        except (lmdb.Error, OSError) as error:
            raise ConfigurationError(f"cannot make a ledger in {directory}: {error}") from None
        self.wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._suffix = Suffix(0)  # what LMDB lacks
        self._in_lmdb = 0  # seqno of LMDB's last entry
        self._record = 0  # number of the last record
        self._due: float | None = None  # when LMDB gets what it lacks
        self._committed = 0
        self._noted = 0
        self._resting = False  # the thread waits without end: LMDB lacks nothing
        self._work: queue.SimpleQueue[Append | Read | _Wake | None] = queue.SimpleQueue()
        self._stored: tuple[int, int, int] | None = None
        self._patience_ms = 0
        self._appends = 0
        self._stored_bytes = 0
        self._reads: deque[tuple[int, list[bytes]]] = deque()
        self._failed: str | None = None
        self._lock = threading.Lock()  # held for a few assignments only
        self._writer = threading.Thread(target=self._run, name="storage", daemon=True)
        self._writer.start()

    # The host's side: never waits.

    def append(self, append: Append) -> None:
        """Queue a batch; batches are stored in the order given. See `Report.appends`."""
        self._work.put(append)

    def read(self, read: Read) -> None:
        """Queue a read; it sees all that was queued before."""
        self._work.put(read)

    def committed(self, seqno: int) -> None:
        """Note that entries up to `seqno` will stay, for whoever looks at the ledger: with the next batch, or within NOTE_SECONDS."""
        self._committed = seqno
        if self._resting:
            self._resting = False
            self._work.put(_Wake())

    def collect(self) -> Report:
        """Take what was done. Call when `wake` is readable."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.wake)
        with self._lock:
            report = Report(self._stored, self._patience_ms, self._appends, self._stored_bytes, list(self._reads), self._failed)
            self._stored = None
            self._stored_bytes = 0
            self._reads.clear()
        return report

    def close(self) -> None:
        """Finish what is queued, then close. Idempotent."""
        if self._writer.is_alive():
            self._work.put(None)
            self._writer.join()

    # The thread's side.

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except (lmdb.Error, OSError, StorageError) as error:
            self._fail(f"the disk failed: {error}; nothing after the last report was acknowledged, and this node stops")
        except Exception as error:  # a bug of ours must stop the node just as well, or it would wait for ever for a report
            self._fail(f"the storage thread failed: {type(error).__name__}: {error}")
        finally:
            with contextlib.suppress(lmdb.Error, OSError):
                self._environment.close()
                self._journal.close()

    def _turn(self) -> bool:
        """Wait for work, and do all that waits; False when it was the last."""
        work = self._work
        appends: list[Append] = []
        read: Read | None = None
        ended = False
        item = self._wait()
        # One record for all that waits: a flush costs the same for one entry and for a thousand. A read ends it, to keep its place.
        for _ in range(work.qsize() + 1):
            if item is None:
                ended = True
                break
            if isinstance(item, Read):
                read = item
                break
            if isinstance(item, Append):
                appends.append(item)
            if work.empty():
                break
            item = work.get()
        if appends:
            self._store(appends)
        if read is not None:
            entries = self._find(read)
            with self._lock:
                self._reads.append((read.request, entries))
        if appends or read is not None:
            os.eventfd_write(self.wake, 1)
        # Only now: what was stored is on its way, and mostly nothing waits until its answer is.
        if ended:
            if self._lacks():
                self._move()
        elif self._journal.position >= MOVE_BYTES or (self._due is not None and work.empty() and time.monotonic() >= self._due):
            self._move()
        return not ended

    def _lacks(self) -> bool:
        """Whether LMDB lacks something."""
        return self._journal.position > 0 or self._committed != self._noted

    def _wait(self) -> Append | Read | _Wake | None:
        """Wait for work, without end only if LMDB lacks nothing: then `committed` wakes us."""
        if not self._journal.position:
            self._resting = True  # first: of this and the line below, and `committed`, one sees the other
            if self._committed == self._noted:
                item = self._work.get()
                self._resting = False
                return item
            self._resting = False
        now = time.monotonic()
        if self._due is None:
            self._due = now + NOTE_SECONDS
        try:
            return self._work.get(timeout=max(self._due - now, 0.0))
        except queue.Empty:
            return _Wake()

    def _fail(self, reason: str) -> None:
        with self._lock:
            self._failed = reason
            self._stored = None
        os.eventfd_write(self.wake, 1)

    def _store(self, appends: list[Append]) -> None:
        change = Suffix(self._suffix.last)
        for append in appends:
            if append.truncate_after is not None:
                change.truncate(append.truncate_after)
            if append.entries:
                if append.first_seqno != change.last + 1:
                    raise StorageError(f"the enclave hands over entry {append.first_seqno} after {change.last}")
                change.entries += append.entries
        if change.entries or change.base < self._suffix.last:
            self._record += 1
            record = Record(self._record, change.base, self._committed, change.entries)
            is_direct = journal.payload_bytes(record) >= DIRECT_BYTES
            if not is_direct:
                self._journal.append(journal.encode(record, self._journal.tag))
            self._suffix.replace(change.base, change.entries)
            if is_direct:
                self._move()
        stored: tuple[int, int, int] | None = None
        size = 0
        for append in appends:
            if append.truncate_after is not None:
                stored = None
            if append.entries:
                size += sum(map(len, append.entries))
                if append.view:
                    stored = (append.generation, append.view, append.first_seqno + len(append.entries) - 1)
        with self._lock:
            patience_ms = min(append.patience_ms for append in appends)
            self._patience_ms = patience_ms if self._stored is None else min(patience_ms, self._patience_ms)
            self._appends += len(appends)
            self._stored_bytes += size
            self._stored = stored or (None if any(append.truncate_after is not None for append in appends) else self._stored)

    def _move(self) -> None:
        """Give LMDB all that it lacks, in one synced transaction; then the journal is free."""
        while True:
            committed = self._committed  # the host's thread may move it
            try:
                with self._environment.begin(write=True, db=self._entries) as transaction:
                    self._write(transaction)
                    transaction.put(MOVED_KEY, SEQNO.pack(self._record), db=self._meta)
                    if committed:
                        transaction.put(COMMITTED_KEY, SEQNO.pack(committed), db=self._meta)
                break
            except lmdb.MapFullError:
                size = self._environment.info()["map_size"]
                if size >= self._map_size_max:
                    raise StorageError(f"the ledger reached its limit of {self._map_size_max} bytes") from None
                self._environment.set_mapsize(min(size * 2, self._map_size_max))
        self._journal.restart()
        self._in_lmdb = self._suffix.last
        self._suffix = Suffix(self._in_lmdb)
        self._noted = committed
        self._due = None

    def _write(self, transaction: lmdb.Transaction) -> None:
        suffix = self._suffix
        cursor = transaction.cursor()
        if suffix.base < self._in_lmdb and cursor.set_range(SEQNO.pack(suffix.base + 1)):
            while cursor.delete():
                pass
        pack = SEQNO.pack
        cursor.putmulti([(pack(seqno), data) for seqno, data in enumerate(suffix.entries, suffix.base + 1)], append=True)

    def _find(self, read: Read) -> list[bytes]:
        with self._environment.begin(db=self._entries) as transaction:
            return find_range(walk(transaction, self._suffix, read.first), read)


def find_range(entries: Iterator[tuple[int, bytes]], read: Read) -> list[bytes]:
    """Entries from `read.first` up to and including the first signature entry above `read.through`.

    Fewer where they end, or where `size_max` bytes do; at least one if there is one.
    """
    found: list[bytes] = []
    room = read.size_max
    for expected, (seqno, data) in enumerate(entries, read.first):
        if seqno != expected or (found and (room < len(data) or len(found) >= FETCH_ENTRIES_MAX)):
            break
        found.append(data)
        room -= len(data)
        if seqno > read.through and is_signature(data):
            break
    return found


def is_signature(data: bytes) -> bool:
    """Whether an entry writes the table of signatures. The name alone may stand in any value, so then the entry is parsed."""
    if _SIGNATURE_MARK not in data:
        return False
    try:
        return SIGNATURES in read_public(data).writes
    except FormatError:
        return False


def _sync_directories(directory: Path) -> None:
    """A file is only there after a crash if its directory was synced, too."""
    for folder in (directory, directory.parent):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
