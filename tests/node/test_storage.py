import errno
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ledgerd.ledger.entry import Sealer
from ledgerd.ledger.errors import ConfigurationError
from ledgerd.ledger.signature import SIGNATURES
from ledgerd.node.journal import Journal, decode
from ledgerd.node.ledger_files import LedgerReader
from ledgerd.node.storage import DIRECT_BYTES, MOVE_BYTES, Append, Read, Report, Storage, is_signature

SECONDS_MAX = 120.0


def entry(seqno: int, text: str = "", signature: bool = False) -> bytes:
    name = SIGNATURES if signature else "public:records"
    return Sealer(bytes(32)).seal(2, seqno, {name: {b"key": text.encode()}}).data


def wait(storage: Storage, done: Callable[[Report], bool]) -> Report:
    """Collect until a report is what one waits for; return it."""
    while True:
        assert select.select([storage.wake], [], [], SECONDS_MAX)[0], "no report"
        report = storage.collect()
        if done(report):
            return report


def wait_stored(storage: Storage, seqno: int) -> tuple[int, int, int]:
    report = wait(storage, lambda report: report.failed is not None or (report.stored is not None and report.stored[2] >= seqno))
    assert report.stored is not None, report.failed
    return report.stored


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    storage = Storage(tmp_path / "ledger")
    yield storage
    storage.close()


def test_a_report_is_as_patient_as_the_least_patient_of_what_it_tells(storage: Storage) -> None:
    storage.append(Append(0, 2, None, 1, [entry(1)], patience_ms=20))
    assert wait(storage, lambda report: report.appends == 1).patience_ms == 20
    storage.append(Append(0, 2, None, 2, [entry(2)]))
    assert select.select([storage.wake], [], [], SECONDS_MAX)[0]
    storage.append(Append(0, 2, None, 3, [entry(3)], patience_ms=20))
    storage.read(Read(1, 3, 3, 100))  # in a turn of its own, after that
    while not storage._reads:
        assert select.select([storage.wake], [], [], SECONDS_MAX)[0]
    report = storage.collect()
    assert (report.appends, report.stored, report.patience_ms) == (3, (0, 2, 3), 0)


def contents(directory: Path) -> list[tuple[int, bytes]]:
    with LedgerReader(directory) as reader:
        return list(reader.entries())


def crashed(directory: Path, to: Path) -> Path:
    """A copy of a ledger's files as they are now: what is there if its process is killed."""
    to.mkdir()
    for name in ("data.mdb", "journal"):
        shutil.copy(directory / name, to / name)
    return to


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is made durable, in order, by name."""
    found: list[str] = []
    append, move = Journal.append, Storage._move

    def appended(self: Journal, data: bytes) -> None:
        append(self, data)
        found.append("journal")

    def moved(self: Storage) -> None:
        move(self)
        found.append("LMDB")

    monkeypatch.setattr(Journal, "append", appended)
    monkeypatch.setattr(Storage, "_move", moved)
    return found


READER = """
import sys
from pathlib import Path
from ledgerd.node.ledger_files import LedgerReader
with LedgerReader(Path(sys.argv[1])) as reader:
    for line in sys.stdin:
        print(reader.last_seqno(), sum(1 for _ in reader.entries()), next(reader.entries())[1][:10], flush=True)
"""


def test_what_is_stored_can_be_read_by_another_process_also_while_the_map_grows(storage: Storage, tmp_path: Path) -> None:
    storage.append(Append(0, 2, None, 1, [b"one", b"two"]))
    assert wait_stored(storage, 2) == (0, 2, 2)
    with subprocess.Popen(
        [sys.executable, "-c", READER, str(tmp_path / "ledger")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        print("look", file=reader.stdin, flush=True)
        assert reader.stdout.readline() == "2 2 b'one'\n"
        for first in range(3, 103, 10):
            storage.append(Append(0, 2, None, first, [bytes(1 << 20)] * 10))
        while wait_stored(storage, 3)[2] < 102:
            pass
        print("look", file=reader.stdin, flush=True)
        assert reader.stdout.readline() == "102 102 b'one'\n"
        reader.stdin.close()


def test_what_is_in_the_journal_only_is_read_by_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: list[str]) -> None:
    monkeypatch.setattr("ledgerd.node.storage.NOTE_SECONDS", 60.0)
    storage = Storage(tmp_path / "ledger")
    storage.append(Append(0, 2, None, 1, [b"one", b"two"]))
    wait_stored(storage, 2)
    look = subprocess.run(
        [sys.executable, "-c", READER, str(tmp_path / "ledger")], input="look\n", stdout=subprocess.PIPE, text=True, check=True
    )
    assert look.stdout == "2 2 b'one'\n"
    assert steps == ["journal"]
    storage.close()


def test_a_batch_is_flushed_once_and_lmdb_follows_when_the_journal_has_grown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: list[str]
) -> None:
    monkeypatch.setattr("ledgerd.node.storage.NOTE_SECONDS", 60.0)
    storage = Storage(tmp_path / "ledger")
    for seqno in range(1, 6):
        storage.append(Append(0, 2, None, seqno, [bytes(MOVE_BYTES // 3)]))
        wait_stored(storage, seqno)
    storage.close()
    assert steps == ["journal", "journal", "journal", "LMDB", "journal", "journal", "LMDB"]


def test_lmdb_follows_after_a_while(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: list[str]) -> None:
    monkeypatch.setattr("ledgerd.node.storage.NOTE_SECONDS", 0.01)
    storage.append(Append(0, 2, None, 1, [b"entry"]))
    deadline = time.monotonic() + SECONDS_MAX
    while steps != ["journal", "LMDB"]:
        assert time.monotonic() < deadline, steps
        select.select([storage.wake], [], [], 0.001)
        storage.collect()


def test_a_large_batch_goes_to_lmdb_at_once_with_what_was_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: list[str]) -> None:
    monkeypatch.setattr("ledgerd.node.storage.NOTE_SECONDS", 60.0)
    storage = Storage(tmp_path / "ledger")
    large = bytes(DIRECT_BYTES)
    for seqno, data in enumerate((b"1", large, b"3"), 1):
        storage.append(Append(0, 2, None, seqno, [data]))
        wait_stored(storage, seqno)
    assert steps == ["journal", "LMDB", "journal"]
    copy = crashed(tmp_path / "ledger", tmp_path / "copy")
    assert [record.base for record in decode((copy / "journal").read_bytes())] == [2]
    assert contents(copy) == [(1, b"1"), (2, large), (3, b"3")]
    storage.close()


def test_batches_that_wait_are_reported_as_one_with_the_credit_of_all(storage: Storage) -> None:
    for seqno in range(1, 101):
        storage.append(Append(0, 2, None, seqno, [bytes(10)]))
    stored, size = (0, 0, 0), 0
    while stored != (0, 2, 100):
        report = wait(storage, lambda report: report.stored is not None)
        assert report.stored is not None
        stored, size = report.stored, size + report.stored_bytes
    assert size == 1000


def test_truncation_forgets_the_suffix_before_the_new_one_is_stored(storage: Storage, tmp_path: Path) -> None:
    storage.append(Append(0, 2, None, 1, [b"1", b"2", b"3", b"4"]))
    storage.append(Append(1, 3, 2, 3, [b"3'"]))
    storage.close()
    assert contents(tmp_path / "ledger") == [(1, b"1"), (2, b"2"), (3, b"3'")]


def test_what_was_truncated_in_the_same_batch_is_not_reported(storage: Storage) -> None:
    storage.read(Read(0, 1, 0, 1))
    storage.append(Append(0, 2, None, 1, [b"1", b"2"]))
    storage.append(Append(1, 2, 1, 2, []))
    storage.read(Read(1, 2, 0, 1))
    report = wait(storage, lambda report: any(request == 1 for request, _ in report.read))
    assert report.read[-1] == (1, [])
    assert report.stored is None or report.stored == (0, 2, 2), "at most the first batch alone, if it had its own transaction"


def test_truncating_above_the_end_changes_nothing(storage: Storage, tmp_path: Path) -> None:
    storage.append(Append(1, 2, 7, 1, [b"1"]))
    storage.close()
    assert contents(tmp_path / "ledger") == [(1, b"1")]


def test_view_0_stores_without_a_report(storage: Storage) -> None:
    storage.append(Append(0, 0, None, 1, [b"1"]))
    storage.append(Append(0, 2, None, 2, [b"2"]))
    assert wait_stored(storage, 1) == (0, 2, 2)


def test_entries_that_do_not_continue_the_ledger_stop_it(storage: Storage) -> None:
    storage.append(Append(0, 2, None, 5, [b"5"]))
    report = wait(storage, lambda report: report.failed is not None)
    assert "hands over entry 5 after 0" in str(report.failed)
    assert report.stored is None


def test_a_range_ends_with_the_first_signature_above_its_bound(storage: Storage) -> None:
    entries = [entry(seqno, signature=seqno in (3, 6, 9)) for seqno in range(1, 11)]
    storage.append(Append(0, 2, None, 1, entries))
    storage.read(Read(7, 2, 4, 1 << 20))
    report = wait(storage, lambda report: bool(report.read))
    assert report.read == [(7, entries[1:6])]


def test_a_range_ends_at_its_size_but_has_at_least_one_entry(storage: Storage) -> None:
    entries = [bytes(100)] * 5
    storage.append(Append(0, 2, None, 1, entries))
    storage.read(Read(1, 1, 9, 10))
    storage.read(Read(2, 1, 9, 250))
    storage.read(Read(3, 6, 9, 250))
    read: list[tuple[int, list[bytes]]] = []
    while len(read) < 3:
        read += wait(storage, lambda report: bool(report.read)).read
    assert [(request, len(found)) for request, found in read] == [(1, 1), (2, 2), (3, 0)]


def test_the_name_of_the_signature_table_in_a_value_makes_no_signature() -> None:
    assert not is_signature(entry(1, SIGNATURES))
    assert is_signature(entry(1, signature=True))
    assert not is_signature(SIGNATURES.encode())


def test_a_full_map_is_a_clear_error_and_nothing_is_acknowledged(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "ledger", map_size_max=1 << 20)
    storage.append(Append(0, 2, None, 1, [b"small"]))
    wait_stored(storage, 1)
    storage.append(Append(0, 2, None, 2, [bytes(2 << 20)]))
    report = wait(storage, lambda report: report.failed is not None)
    assert "reached its limit of 1048576 bytes" in str(report.failed)
    assert report.stored is None
    storage.close()
    assert contents(tmp_path / "ledger") == [(1, b"small")]


DEVICES = [("/dev/full", "No space left on device"), ("/proc/self/mem", "Input/output error")]


def break_file(path: Path, device: str) -> None:
    """Make the ledger's own descriptors lead to a device that fails every write, as a full or broken disk does."""
    broken = os.open(device, os.O_RDWR)
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if target == str(path):
            os.dup2(broken, int(name))
    os.close(broken)


def wait_failed(storage: Storage) -> str:
    report = wait(storage, lambda report: report.failed is not None)
    assert report.stored is None
    return str(report.failed)


@pytest.mark.parametrize(("device", "reason"), DEVICES)
@pytest.mark.parametrize(("file", "size"), [("journal", 5), ("data.mdb", DIRECT_BYTES)])
def test_a_failing_device_is_a_clear_error_and_nothing_is_acknowledged(
    tmp_path: Path, file: str, size: int, device: str, reason: str
) -> None:
    storage = Storage(tmp_path / "ledger")
    storage.append(Append(0, 2, None, 1, [b"before"]))
    wait_stored(storage, 1)
    break_file(tmp_path / "ledger" / file, device)
    storage.append(Append(0, 2, None, 2, [bytes(size)]))
    assert reason in wait_failed(storage)
    storage.append(Append(0, 2, None, 3, [b"more"]))  # ignored, not answered
    storage.close()
    assert storage.collect().stored is None
    assert contents(tmp_path / "ledger") == [(1, b"before")]


@pytest.mark.parametrize(("device", "reason"), DEVICES)
def test_when_lmdb_fails_after_the_journal_what_was_acknowledged_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, reason: str
) -> None:
    monkeypatch.setattr("ledgerd.node.storage.NOTE_SECONDS", 60.0)
    storage = Storage(tmp_path / "ledger")
    storage.append(Append(0, 2, None, 1, [b"1", b"2"]))
    wait_stored(storage, 2)
    break_file(tmp_path / "ledger" / "data.mdb", device)
    storage.append(Append(1, 3, 1, 2, [b"2'", b"3"]))
    assert wait_stored(storage, 3) == (1, 3, 3)
    storage.close()
    assert reason in wait_failed(storage)
    assert contents(tmp_path / "ledger") == [(1, b"1"), (2, b"2'"), (3, b"3")]


def test_a_flush_that_fails_acknowledges_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(tmp_path / "ledger")

    def fdatasync(file: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    storage.append(Append(0, 2, None, 1, [b"1"]))
    assert "Input/output error" in wait_failed(storage)
    storage.close()


def test_a_disk_without_room_for_the_journal_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int, data: bytes, position: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(ConfigurationError, match=r"cannot make a ledger in .*No space left"):
        Storage(tmp_path / "ledger")
    with pytest.raises(ConfigurationError, match="has format None"):
        LedgerReader(tmp_path / "ledger")


def test_a_full_map_after_the_journal_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "ledger", map_size_max=1 << 20)
    entries = [bytes([i]) * 300_000 for i in range(10)]
    seqno, failed = 0, None
    while failed is None:
        seqno += 1
        storage.append(Append(0, 2, None, seqno, [entries[seqno]]))
        report = wait(storage, lambda report: report.failed is not None or report.stored is not None)
        failed = report.failed
    assert "reached its limit of 1048576 bytes" in failed
    storage.close()
    found = contents(tmp_path / "ledger")
    assert found == list(enumerate(entries[1:], 1))[: len(found)]
    assert len(found) >= seqno - 1 >= 3


def test_a_used_directory_is_refused(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="never resumes from its disk: choose a new directory"):
        Storage(tmp_path / "ledger")


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot make a ledger"):
        Storage(tmp_path / "file" / "ledger")


def test_closing_stores_what_is_queued_and_what_is_committed(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "ledger")
    storage.append(Append(0, 2, None, 1, [b"1", b"2"]))
    storage.committed(1)
    storage.close()
    storage.close()
    with LedgerReader(tmp_path / "ledger") as reader:
        assert (reader.last_seqno(), reader.committed_seqno()) == (2, 1)
        assert list(reader.entries(2)) == [(2, b"2")]
        assert list(reader.entries(1, 1)) == [(1, b"1")]


COMMITTED_READER = """
import sys
from pathlib import Path
from ledgerd.node.ledger_files import LedgerReader
with LedgerReader(Path(sys.argv[1])) as reader:
    for line in sys.stdin:
        print(reader.committed_seqno(), flush=True)
"""


def test_an_idle_node_notes_what_is_committed_also_long_after_its_last_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: Storage
) -> None:
    monkeypatch.setattr("ledgerd.node.storage.NOTE_SECONDS", 0.01)
    storage.append(Append(0, 2, None, 1, [b"1", b"2"]))
    wait_stored(storage, 2)
    with subprocess.Popen(
        [sys.executable, "-c", COMMITTED_READER, str(tmp_path / "ledger")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        for seqno in (1, 2):  # with the second, the thread has noted everything and rests
            storage.committed(seqno)
            deadline = time.monotonic() + SECONDS_MAX
            noted = -1
            while noted != seqno:
                assert time.monotonic() < deadline, f"{noted} is noted, {seqno} is committed"
                print("look", file=reader.stdin, flush=True)
                noted = int(reader.stdout.readline())
        reader.stdin.close()


def test_while_batches_come_the_note_goes_with_them_and_needs_no_sync_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: list[str]
) -> None:
    monkeypatch.setattr("ledgerd.node.storage.NOTE_SECONDS", 60.0)
    storage = Storage(tmp_path / "ledger")
    for seqno in range(1, 6):
        storage.append(Append(0, 2, None, seqno, [b"entry"]))
        wait_stored(storage, seqno)
        storage.committed(seqno)
    assert steps == ["journal"] * 5
    with LedgerReader(crashed(tmp_path / "ledger", tmp_path / "copy")) as reader:
        assert (reader.last_seqno(), reader.committed_seqno()) == (5, 4)
    storage.close()
    assert steps == ["journal"] * 5 + ["LMDB"]
    with LedgerReader(tmp_path / "ledger") as reader:
        assert reader.committed_seqno() == 5


def test_reading_where_there_is_no_ledger_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="holds no ledger"):
        LedgerReader(tmp_path)
    (tmp_path / "data.mdb").write_bytes(b"not LMDB" * 1000)
    with pytest.raises(ConfigurationError, match="cannot read the ledger"):
        LedgerReader(tmp_path)
    (tmp_path / "data.mdb").unlink()
    (tmp_path / "journal").touch()
    with pytest.raises(ConfigurationError, match=r"there is no data\.mdb"):
        LedgerReader(tmp_path)
    with pytest.raises(ConfigurationError, match="choose a new directory"):
        Storage(tmp_path)
