"""A ledger's two files, at every moment at which their process may be killed or their machine may lose power; and read while it runs.

Law: whatever was reported as stored is there, and what is there is what the enclave handed over, up to some batch.
"""

import contextlib
import mmap
import random
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import lmdb
import pytest

from ledgerd.ledger.errors import ConfigurationError
from ledgerd.node.bounded_file import open_bounded
from ledgerd.node.journal import BLOCK_BYTES, Journal, decode
from ledgerd.node.ledger_files import LedgerReader
from ledgerd.node.storage import Append, Read, Report, Storage

SECONDS_MAX = 120.0
GENERATIONS, LOOKS = 500, 20  # of a writer and of a reader beside it, at least
FILES = ("data.mdb", "journal")


class Model:
    """Batches as an enclave hands them over, and the ledger after each of them."""

    def __init__(self, seed: int, count: int) -> None:
        choose = random.Random(seed)
        self.appends: list[Append] = []
        self.states: list[list[bytes]] = [[]]
        for generation in range(count):
            state = self.states[-1]
            truncate_after = choose.randrange(len(state) + 1) if choose.random() < 0.3 else None
            kept = state[:truncate_after]
            size = choose.choice((10, 10, 3000, 9000))
            added = [b"%d.%d " % (generation, i) + choose.randbytes(choose.randrange(size)) for i in range(choose.randrange(0, 4))]
            self.appends.append(Append(generation, 2, truncate_after, len(kept) + 1, added))
            self.states.append(kept + added)


def collect(storage: Storage) -> Report:
    assert select.select([storage.wake], [], [], SECONDS_MAX)[0], "no report"
    report = storage.collect()
    assert report.failed is None
    return report


def read(storage: Storage, first: int) -> list[bytes]:
    """What the enclave is given, from one entry on."""
    storage.read(Read(first, first, 1 << 40, 1 << 30))
    while True:
        for request, entries in collect(storage).read:
            assert request == first
            return entries


def contents(directory: Path) -> list[bytes]:
    with LedgerReader(directory) as reader:
        found = list(reader.entries())
        assert reader.last_seqno() == len(found)
    assert [seqno for seqno, _ in found] == list(range(1, len(found) + 1))
    return [data for _, data in found]


def copied(directory: Path, to: Path) -> Path:
    to.mkdir()
    for name in FILES:
        shutil.copy(directory / name, to / name)
    return to


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes at which everything happens often; time never."""
    monkeypatch.setattr("ledgerd.node.storage.NOTE_SECONDS", 60.0)
    monkeypatch.setattr("ledgerd.node.storage.MOVE_BYTES", 4 * BLOCK_BYTES)
    monkeypatch.setattr("ledgerd.node.storage.DIRECT_BYTES", 2 * BLOCK_BYTES)
    monkeypatch.setattr("ledgerd.node.storage.JOURNAL_BYTES", 7 * BLOCK_BYTES)


@pytest.mark.parametrize("seed", range(4))
def test_a_read_sees_all_that_was_queued_before_wherever_it_is(small: None, tmp_path: Path, seed: int) -> None:
    model = Model(seed, 200)
    choose = random.Random(seed)
    storage = Storage(tmp_path / "ledger")
    for append, state in zip(model.appends, model.states[1:], strict=True):
        storage.append(append)
        first = choose.randrange(1, len(state) + 2)
        assert read(storage, first) == state[first - 1 :]
    storage.close()
    assert contents(tmp_path / "ledger") == model.states[-1]


@pytest.mark.parametrize("seed", range(4))
def test_killed_between_any_two_steps_a_ledger_has_what_was_reported(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Copies of the files before and after each write, flush and transaction; and with each write cut short at some byte."""
    model = Model(seed, 60)
    directory = tmp_path / "ledger"
    copies: list[tuple[str, Path, int]] = []  # what was about to be done, and how many batches were reported
    reported = 0
    choose = random.Random(seed)

    def copy(step: str) -> Path:
        copies.append((step, copied(directory, tmp_path / f"copy{len(copies)}"), reported))
        return copies[-1][1]

    write, append, move = Journal._write, Journal.append, Storage._move

    def writing(self: Journal, data: bytes, position: int) -> None:
        copy("write")
        cut = choose.randrange(len(data))
        with (copy(f"write beyond byte {cut}") / "journal").open("r+b") as file:
            file.seek(position)
            file.write(data[:cut])
        write(self, data, position)
        copy("flush")

    def appending(self: Journal, data: bytes) -> None:
        append(self, data)
        copy("report")

    def moving(self: Storage) -> None:
        copy("give LMDB what it lacks")
        move(self)
        copy("go on, after LMDB has it")

    storage = Storage(directory)
    monkeypatch.setattr(Journal, "_write", writing)
    monkeypatch.setattr(Journal, "append", appending)
    monkeypatch.setattr(Storage, "_move", moving)
    for done in model.appends:
        storage.append(done)
        read(storage, 1)  # a read is answered after the batch before it, whether or not that is reported
        reported += 1
    storage.close()
    assert len(copies) > 200
    names = {step.partition(" beyond")[0] for step, _, _ in copies}
    assert names == {"write", "flush", "report", "give LMDB what it lacks", "go on, after LMDB has it"}
    for step, path, count in copies:
        found = contents(path)
        assert found in model.states[count : count + 2], f"killed before it could {step}, after {count} batches"


@pytest.fixture
def torn(small: None, tmp_path: Path) -> Iterator[tuple[Path, Path, bytes, list[list[bytes]]]]:
    """A crashed ledger, where to copy it to, its journal, and its states: what LMDB has, and after each record."""
    batches = [
        Append(0, 2, None, 1, [b"1", b"2", b"3"]),
        Append(0, 2, None, 4, [bytes(3 * BLOCK_BYTES)]),  # goes to LMDB at once, with what was before
        Append(0, 2, None, 5, [b"5", b"6"]),
        Append(1, 3, 2, 3, []),
        Append(1, 3, None, 3, [b"3'", b"4'"]),
    ]
    states = [[b"1", b"2", b"3", bytes(3 * BLOCK_BYTES)]]
    states += [[*states[0], b"5", b"6"], [b"1", b"2"], [b"1", b"2", b"3'", b"4'"]]
    storage = Storage(tmp_path / "ledger")
    for batch in batches:
        storage.append(batch)
        read(storage, 1)
    crashed = copied(tmp_path / "ledger", tmp_path / "crashed")
    storage.close()
    journal = (crashed / "journal").read_bytes()
    assert [len(record.entries) for record in decode(journal)] == [2, 0, 2]
    yield crashed, tmp_path, journal, states


def test_cut_at_any_byte_a_journal_gives_what_was_completely_written(torn: tuple[Path, Path, bytes, list[list[bytes]]]) -> None:
    crashed, _, journal, states = torn
    path = crashed / "journal"
    for record in range(3):
        start = record * BLOCK_BYTES
        end = start + len(journal[start : start + BLOCK_BYTES].rstrip(b"\0"))
        for cut in range(start, end):
            path.write_bytes(journal[:cut])
            assert contents(crashed) == states[record]
            path.write_bytes(journal[:cut] + bytes(len(journal) - cut))
            assert contents(crashed) == states[record]
    path.write_bytes(journal[:end])
    assert contents(crashed) == states[3]


def test_a_changed_byte_leaves_what_was_before_its_record(torn: tuple[Path, Path, bytes, list[list[bytes]]]) -> None:
    crashed, _, journal, states = torn
    path = crashed / "journal"
    for record in range(3):
        start = record * BLOCK_BYTES
        for at in range(start, start + len(journal[start : start + BLOCK_BYTES].rstrip(b"\0"))):
            path.write_bytes(journal[:at] + bytes([journal[at] ^ 0x20]) + journal[at + 1 :])
            assert contents(crashed) == states[record]


def test_files_of_different_moments_are_refused_when_something_between_them_is_missing(small: None, tmp_path: Path) -> None:
    model = Model(1, 60)
    storage = Storage(tmp_path / "ledger")
    for append in model.appends[:20]:
        storage.append(append)
    read(storage, 1)
    early = copied(tmp_path / "ledger", tmp_path / "early")
    for append in model.appends[20:]:
        storage.append(append)
        read(storage, 1)
    late = copied(tmp_path / "ledger", tmp_path / "late")
    storage.close()
    assert contents(early) == model.states[20]
    assert contents(late) == model.states[60]
    early_journal = (early / "journal").read_bytes()
    (early / "journal").write_bytes((late / "journal").read_bytes())
    with pytest.raises(ConfigurationError, match="copies of different moments"):
        contents(early)
    (late / "journal").write_bytes(early_journal)
    assert contents(late) in model.states, "LMDB alone"
    (late / "journal").unlink()
    with pytest.raises(ConfigurationError, match="cannot read the journal"):
        contents(late)


@pytest.mark.parametrize("later", [1, 2, 3, 5, 8, 13, 40])
def test_what_is_stored_while_one_looks_hides_nothing_that_was_there(small: None, tmp_path: Path, later: int) -> None:
    """A look reads two files. Here the node does all it does in `later` batches after the look has read the first and before the other."""
    model = Model(2, 60)
    storage = Storage(tmp_path / "ledger")
    files: list[list[bytes]] = []
    for count, append in enumerate(model.appends):
        files.append([(tmp_path / "ledger" / name).read_bytes() for name in FILES])
        storage.append(append)
        read(storage, 1)
        assert len(files) == count + 1
    storage.close()
    look = tmp_path / "look"
    look.mkdir()
    seams = 0
    begin = LedgerReader._begin

    def put(moment: int) -> None:
        for name, data in zip(FILES, files[moment], strict=True):
            with (look / name).open("r+b" if (look / name).exists() else "wb") as file:
                file.write(data)

    def seam() -> None:
        nonlocal seams
        seams += 1
        if seams == 2:
            put(moment + later)

    def beginning(self: LedgerReader) -> lmdb.Transaction:
        seam()
        return begin(self)

    def opening(path: Path, bytes_max: int) -> BinaryIO:
        seam()
        return open_bounded(path, bytes_max)

    put(max(range(len(files)), key=lambda moment: len(files[moment][0])))  # LMDB's file never shrinks under its reader
    for moment in range(len(files) - later):
        put(moment)
        with LedgerReader(look) as reader, pytest.MonkeyPatch.context() as patch:
            patch.setattr(LedgerReader, "_begin", beginning)
            patch.setattr("ledgerd.node.ledger_files.open_bounded", opening)
            seams = 0
            found = [data for _, data in reader.entries()]
            assert seams == 2
        assert found in model.states[moment : moment + later + 1]


def test_a_ledger_that_too_many_read_is_not_called_damaged(tmp_path: Path) -> None:
    """Readers' places are in the lock file; here they are taken by one process, as by one that reads in many threads."""
    Storage(tmp_path / "ledger").close()
    with contextlib.ExitStack() as held, LedgerReader(tmp_path / "ledger") as reader:
        with pytest.raises(lmdb.ReadersFullError):
            while True:
                held.enter_context(reader._environment.begin())
        with pytest.raises(ConfigurationError, match="too many read the ledger"):
            reader.last_seqno()


READER = """
import mmap, sys
from pathlib import Path
from typing import BinaryIO
from ledgerd.node.ledger_files import LedgerReader
with open(sys.argv[2], "r+b") as file, LedgerReader(Path(sys.argv[1])) as reader:
    shared = mmap.mmap(file.fileno(), 16)
    stored = lambda: int.from_bytes(shared[:8], "little")
    print("ready", flush=True)
    looks = 0
    while stored() < 1 << 32:
        before = stored()
        committed = reader.committed_seqno()
        found = list(reader.entries())
        assert [seqno for seqno, _ in found] == list(range(1, len(found) + 1))
        assert all(int(data.split()[0]) == seqno for seqno, data in found)
        generations = [int(data.split()[1]) for _, data in found]
        assert generations == sorted(generations)
        assert len(found) >= before, (len(found), before)
        assert committed <= len(found)
        looks += 1
        shared[8:] = looks.to_bytes(8, "little")
"""


def test_a_reader_of_a_running_node_sees_what_was_stored_before_it_looked(small: None, tmp_path: Path) -> None:
    """The last two entries may be forgotten at any time; all that were stored before those, never."""
    shared = tmp_path / "stored"
    shared.write_bytes(bytes(16))
    storage = Storage(tmp_path / "ledger")
    command = [sys.executable, "-c", READER, str(tmp_path / "ledger"), str(shared)]
    with (
        shared.open("r+b") as file,
        mmap.mmap(file.fileno(), 16) as stored,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as reader,
    ):
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
        last = generation = 0
        while (generation < GENERATIONS or int.from_bytes(stored[8:], "little") < LOOKS) and reader.poll() is None:
            truncate_after = None
            if generation % 3 == 2 and last > 2:
                truncate_after = last = last - 2
            entries = [b"%d %d " % (seqno, generation) + bytes(generation % 7 * 1000) for seqno in range(last + 1, last + 5)]
            storage.append(Append(generation, 2, truncate_after, last + 1, entries))
            last += 4
            while (found := collect(storage).stored) is None or found[0] != generation:
                pass
            storage.committed(last - 2)
            stored[:8] = (last - 2).to_bytes(8, "little")
            generation += 1
        stored[:8] = b"\xff" * 8
        _, error = reader.communicate(timeout=SECONDS_MAX)
    storage.close()
    assert reader.returncode == 0, error


KILLED = """
import select, sys
from pathlib import Path
from typing import BinaryIO
from ledgerd.node.storage import Append, Storage
storage = Storage(Path(sys.argv[1]))
seqno = 0
while True:
    seqno += 1
    storage.append(Append(0, 2, None, seqno, [b"%d" % seqno + bytes(10_000)]))
    while True:
        select.select([storage.wake], [], [])
        stored = storage.collect().stored
        if stored is not None and stored[2] == seqno:
            break
    print(seqno, flush=True)
"""


@pytest.mark.parametrize("count", [1, 17, 250])
def test_a_process_that_is_killed_leaves_all_that_it_had_reported(tmp_path: Path, count: int) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "ledger")], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(count):
            reported = writer.stdout.readline()
        writer.kill()
        reported = (writer.stdout.read().split() or [reported.strip()])[-1]
    found = contents(tmp_path / "ledger")
    assert len(found) >= int(reported) >= count
    assert [int(data.rstrip(b"\0")) for data in found] == list(range(1, len(found) + 1))
