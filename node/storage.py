"""The node's disk: entries by seqno in LMDB, written by one thread, durable before it is said so.

Law: one write transaction per wake-up of the thread, synced once, and only then reported. Whatever goes wrong in it (no space,
a device's error) is final: nothing is reported any more and the node stops, for a disk that lied once may not be asked again.
What is committed is noted with the next batch, or after NOTE_SECONDS without one, so that an idle node's notes are right, too.
Nothing here verifies anything: the host is not believed, and the enclave checks whatever it reads back.
Databases: `entries` (seqno, 8 bytes big-endian, to entry bytes), `snapshots` (not yet used), `meta` (`format`, `committed`).
"""

import contextlib
import os
import queue
import struct
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple

import lmdb

from ledgerd.ledger.entry import read_public
from ledgerd.ledger.errors import ConfigurationError, FormatError, LedgerdError
from ledgerd.ledger.signature import SIGNATURES

FORMAT: Final = b"ledgerd ledger 1"
MAP_SIZE_BYTES_FIRST: Final = 64 << 20  # of address space, not of disk; doubled whenever it is full
MAP_SIZE_BYTES_MAX: Final = 1 << 42
FETCH_ENTRIES_MAX: Final = 10_000
NOTE_SECONDS: Final = 0.2  # without a batch, before the note of what is committed has a sync of its own: none while transactions come
_DATABASES: Final = 3
_READERS_MAX: Final = 126
_SEQNO: Final = struct.Struct(">Q")
_SIGNATURE_MARK: Final = SIGNATURES.encode()
_COMMITTED: Final = b"committed"
_FORMAT_KEY: Final = b"format"


class StorageError(LedgerdError):
    """The disk failed, or was handed something that does not continue what it holds. The node must stop."""

    code = "StorageError"


class Append(NamedTuple):
    """Forget entries above `truncate_after` (if given), then store `entries` from `first_seqno` on.

    `generation` and `view` are for the report; with view 0 there is none.
    """

    generation: int
    view: int
    truncate_after: int | None
    first_seqno: int
    entries: list[bytes]


class Read(NamedTuple):
    """Find entries from `first` to the first signature entry above `through`, or about `size_max` bytes."""

    request: int
    first: int
    through: int
    size_max: int


class _Wake:
    """Wakes the thread, which waits without end, since there is something to note."""


class Report(NamedTuple):
    """What the thread has done since the last report.

    Attributes:
        stored: (generation, view, seqno) up to which all is on disk, or None.
        stored_bytes: Size of the entries whose transaction ended, for credit.
        read: (request, entries) for each Read.
        failed: Why nothing more will be stored, or None.
    """

    stored: tuple[int, int, int] | None
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
                max_dbs=_DATABASES,
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
            with self._environment.begin(write=True) as transaction:
                transaction.put(_FORMAT_KEY, FORMAT, db=self._meta)
            _sync_directories(directory)
        except (lmdb.Error, OSError) as error:
            raise ConfigurationError(f"cannot make a ledger in {directory}: {error}") from None
        self.wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._last = 0
        self._committed = 0
        self._noted = 0
        self._resting = False  # the thread waits without end: all is noted
        self._work: queue.SimpleQueue[Append | Read | _Wake | None] = queue.SimpleQueue()
        self._stored: tuple[int, int, int] | None = None
        self._stored_bytes = 0
        self._reads: deque[tuple[int, list[bytes]]] = deque()
        self._failed: str | None = None
        self._lock = threading.Lock()  # held for a few assignments only
        self._thread = threading.Thread(target=self._run, name="storage", daemon=True)
        self._thread.start()

    # The host's side: never waits.

    def append(self, append: Append) -> None:
        """Queue a batch; batches are stored in the order given."""
        self._work.put(append)

    def read(self, read: Read) -> None:
        """Queue a read; it sees all that was queued before."""
        self._work.put(read)

    def committed(self, seqno: int) -> None:
        """Note that entries up to `seqno` will stay, for whoever looks at the ledger: with the next batch, or after NOTE_SECONDS."""
        self._committed = seqno
        if self._resting:
            self._resting = False
            self._work.put(_Wake())

    def collect(self) -> Report:
        """Take what was done. Call when `wake` is readable."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.wake)
        with self._lock:
            report = Report(self._stored, self._stored_bytes, list(self._reads), self._failed)
            self._stored = None
            self._stored_bytes = 0
            self._reads.clear()
        return report

    def close(self) -> None:
        """Finish what is queued, then close. Idempotent."""
        if self._thread.is_alive():
            self._work.put(None)
            self._thread.join()

    # The thread's side.

    def _run(self) -> None:
        work = self._work
        ended = False
        busy = False
        try:
            while not ended:
                appends: list[Append] = []
                reads: list[Read] = []
                try:
                    item = self._wait(busy)
                except queue.Empty:
                    busy = False
                    if self._committed != self._noted:
                        self._store([])
                    continue
                busy = True
                # One transaction for all that waits: a sync costs the same for one entry and for a thousand.
                # A read ends the batch, to keep its place.
                for _ in range(work.qsize() + 1):
                    if item is None:
                        ended = True
                        break
                    if isinstance(item, Read):
                        reads.append(item)
                        break
                    if isinstance(item, Append):
                        appends.append(item)
                    if work.empty():
                        break
                    item = work.get()
                if appends or (ended and self._committed != self._noted):
                    self._store(appends)
                for read in reads:
                    entries = self._find(read)
                    with self._lock:
                        self._reads.append((read.request, entries))
                os.eventfd_write(self.wake, 1)
        except (lmdb.Error, OSError, StorageError) as error:
            self._fail(f"the disk failed: {error}; nothing after the last report was acknowledged, and this node stops")
        except Exception as error:  # a bug of ours must stop the node just as well, or it would wait for ever for a report
            self._fail(f"the storage thread failed: {type(error).__name__}: {error}")
        finally:
            with contextlib.suppress(lmdb.Error):
                self._environment.close()

    def _wait(self, busy: bool) -> Append | Read | _Wake | None:
        """Wait for work; without end only if all is noted, and then `committed` wakes us. Raises: queue.Empty: There was none in time."""
        if not busy:
            self._resting = True  # first: of this and the line below, and `committed`, one sees the other
            if self._committed == self._noted:
                item = self._work.get()
                self._resting = False
                return item
            self._resting = False
        return self._work.get(timeout=NOTE_SECONDS)

    def _fail(self, reason: str) -> None:
        with self._lock:
            self._failed = reason
            self._stored = None
        os.eventfd_write(self.wake, 1)

    def _store(self, appends: list[Append]) -> None:
        while True:
            last = self._last
            committed = self._committed  # the host's thread may move it
            try:
                with self._environment.begin(write=True, db=self._entries) as transaction:
                    for append in appends:
                        last = self._apply(transaction, append, last)
                    if committed:
                        transaction.put(_COMMITTED, _SEQNO.pack(committed), db=self._meta)
                break
            except lmdb.MapFullError:
                size = self._environment.info()["map_size"]
                if size >= self._map_size_max:
                    raise StorageError(f"the ledger reached its limit of {self._map_size_max} bytes") from None
                self._environment.set_mapsize(min(size * 2, self._map_size_max))
        self._last = last
        self._noted = committed
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
            self._stored_bytes += size
            self._stored = stored or (None if any(append.truncate_after is not None for append in appends) else self._stored)

    def _apply(self, transaction: lmdb.Transaction, append: Append, last: int) -> int:
        cursor = transaction.cursor()
        if append.truncate_after is not None and append.truncate_after < last:
            if cursor.set_range(_SEQNO.pack(append.truncate_after + 1)):
                while cursor.delete():
                    pass
            last = append.truncate_after
        if append.entries:
            if append.first_seqno != last + 1:
                raise StorageError(f"the enclave hands over entry {append.first_seqno} after {last}")
            pack = _SEQNO.pack
            items = [(pack(seqno), data) for seqno, data in enumerate(append.entries, append.first_seqno)]
            cursor.putmulti(items, append=True)
            last += len(items)
        return last

    def _find(self, read: Read) -> list[bytes]:
        with self._environment.begin(db=self._entries) as transaction:
            return find_range(transaction, read)


def find_range(transaction: lmdb.Transaction, read: Read) -> list[bytes]:
    """Entries from `read.first` up to and including the first signature entry above `read.through`.

    Fewer where they end, or where `size_max` bytes do; at least one if there is one.
    """
    found: list[bytes] = []
    cursor: Any = transaction.cursor()
    if not cursor.set_key(_SEQNO.pack(read.first)):
        return found
    room = read.size_max
    seqno = read.first
    for key, data in cursor.iternext():
        if key != _SEQNO.pack(seqno) or (found and (room < len(data) or len(found) >= FETCH_ENTRIES_MAX)):
            break
        found.append(data)
        room -= len(data)
        if seqno > read.through and is_signature(data):
            break
        seqno += 1
    return found


def is_signature(data: bytes) -> bool:
    """Whether an entry writes the table of signatures. The name alone may stand in any value, so then the entry is parsed."""
    if _SIGNATURE_MARK not in data:
        return False
    try:
        return SIGNATURES in read_public(data).writes
    except FormatError:
        return False


def holds_ledger(directory: Path) -> bool:
    """Whether there is a ledger in the directory, of whatever age."""
    return (directory / "data.mdb").exists()


class LedgerReader:
    """Reads a ledger directory, also while its node runs: LMDB gives each `entries` loop one consistent state.

    Raises: ConfigurationError: There is no ledger, or of another format.
    """

    def __init__(self, directory: Path) -> None:
        if not holds_ledger(directory):
            raise ConfigurationError(f"{directory} holds no ledger (there is no data.mdb)")
        try:
            # Locking, where the file system lets us: else pages that we read could be written anew meanwhile.
            writable = os.access(directory / "lock.mdb", os.W_OK)
            self._environment = lmdb.open(str(directory), readonly=True, lock=writable, max_dbs=_DATABASES, create=False)
            self._entries = self._environment.open_db(b"entries", create=False)
            self._meta = self._environment.open_db(b"meta", create=False)
        except (lmdb.Error, OSError) as error:
            raise ConfigurationError(f"cannot read the ledger in {directory}: {error}") from None
        with self._begin() as transaction:
            found = transaction.get(_FORMAT_KEY, db=self._meta)
        if found != FORMAT:
            self.close()
            raise ConfigurationError(f"the ledger in {directory} has format {found!r}, this program reads {FORMAT!r}")

    def _begin(self) -> lmdb.Transaction:
        while True:
            try:
                return self._environment.begin(db=self._entries)
            except lmdb.MapResizedError:  # the writer has grown it
                self._environment.set_mapsize(0)

    def last_seqno(self) -> int:
        """Seqno of the last entry; 0 if there is none."""
        with self._begin() as transaction:
            cursor = transaction.cursor()
            return int(_SEQNO.unpack(cursor.key())[0]) if cursor.last() else 0

    def committed_seqno(self) -> int:
        """What the node last noted as committed; behind by up to NOTE_SECONDS, longer while it is busy with one batch."""
        with self._begin() as transaction:
            value = transaction.get(_COMMITTED, db=self._meta)
            return int(_SEQNO.unpack(value)[0]) if value else 0

    def entries(self, first: int = 1, last: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Entries with their seqnos, ascending, from one consistent state; gaps are the reader's to find."""
        with self._begin() as transaction:
            cursor: Any = transaction.cursor()
            if not cursor.set_range(_SEQNO.pack(first)):
                return
            for key, data in cursor.iternext():
                seqno: int = _SEQNO.unpack(key)[0]
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


def _sync_directories(directory: Path) -> None:
    """A file is only there after a crash if its directory was synced, too."""
    for folder in (directory, directory.parent):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
