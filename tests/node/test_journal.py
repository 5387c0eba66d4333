import errno
import os
import struct
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledgerd.node import journal as journals
from ledgerd.node.journal import BLOCK_BYTES, Journal, Record, decode

SIZE_BYTES = 16 * BLOCK_BYTES
HEADER_BYTES = 56
TAG = bytes(range(16))


def encode(made: Record) -> bytes:
    return journals.encode(made, TAG)


def record(number: int, *entries: bytes, base: int | None = None, committed: int = 0) -> Record:
    return Record(number, number * 10 if base is None else base, committed, list(entries))


RECORDS = [record(7, b"one", b"", b"three", committed=5), record(8, base=2), record(9, b"x" * 5000), record(10, b"last", b"of all")]
WRITTEN = b"".join(map(encode, RECORDS))


def length(made: Record) -> int:
    """Bytes of a record without those that fill its last block."""
    return HEADER_BYTES + sum(4 + len(entry) for entry in made.entries)


def zeros(data: bytes) -> bytes:
    return data + bytes(SIZE_BYTES - len(data))


def older(data: bytes) -> bytes:
    """As if the file had been used before, by records of the same sizes and numbers just below."""
    return data + b"".join(encode(it._replace(number=it.number - len(RECORDS), committed=1)) for it in RECORDS)[len(data) :]


def test_records_come_back_as_they_were_written() -> None:
    assert list(decode(WRITTEN)) == RECORDS
    assert len(WRITTEN) == 5 * BLOCK_BYTES


def test_each_record_has_blocks_of_its_own() -> None:
    for size in range(BLOCK_BYTES - HEADER_BYTES - 6, BLOCK_BYTES - HEADER_BYTES - 2):
        data = encode(record(1, bytes(size)))
        assert len(data) % BLOCK_BYTES == 0
        assert len(data) - length(record(1, bytes(size))) < BLOCK_BYTES


@pytest.mark.parametrize("rest", [bytes, zeros, older], ids=["nothing", "zeros", "an older use"])
def test_a_record_that_was_not_completely_written_is_the_end(rest: Callable[[bytes], bytes]) -> None:
    start = 0
    for i, made in enumerate(RECORDS):
        end = start + length(made)
        for cut in range(start, end + 1):
            data = rest(WRITTEN[:cut])
            whole = i + (data[start:end] == WRITTEN[start:end])  # also without its last bytes, where they are as those under them
            found = [it for it in decode(data) if it.number >= RECORDS[0].number]
            assert found == RECORDS[:whole], f"the first {cut - start} bytes of record {i}"
        assert whole == i + 1
        start += len(encode(made))


def test_before_its_first_record_the_older_use_is_what_there_is() -> None:
    assert [found.number for found in decode(older(b""))] == [3, 4, 5, 6]


def test_a_changed_byte_ends_it_at_its_record() -> None:
    start = 0
    for i, made in enumerate(RECORDS):
        for at in range(start, start + length(made)):
            for change in (1, 0x80, 0xFF):
                data = bytearray(WRITTEN)
                data[at] ^= change
                assert list(decode(bytes(data))) == RECORDS[:i], f"byte {at - start} of record {i}"
        start += len(encode(made))


def test_a_gap_or_a_repetition_in_the_numbers_is_the_end() -> None:
    for numbers in ([1, 2, 4], [1, 2, 2], [1, 2, 1]):
        data = b"".join(encode(record(number, b"entry")) for number in numbers)
        assert [found.number for found in decode(data)] == [1, 2]


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, b""), (2, struct.pack(">2I", 8, 9)), (1, struct.pack(">I", 7)), (0xFFFFFFFF, struct.pack(">I", 8))]
)
def test_a_sum_that_is_right_over_a_record_that_is_not_is_the_end(count: int, sizes: bytes) -> None:
    rest = struct.pack(">IQQQI", len(sizes) + 8, 1, 0, 0, count) + sizes + b"8 bytes."
    data = b"LJ1\n" + TAG + crc32(rest, crc32(TAG)).to_bytes(4, "big") + rest
    assert list(decode(data)) == []
    good = struct.pack(">IQQQI", 12, 1, 0, 0, 1) + struct.pack(">I", 8) + b"8 bytes."
    assert list(decode(b"LJ1\n" + TAG + crc32(good, crc32(TAG)).to_bytes(4, "big") + good)) == [Record(1, 0, 0, [b"8 bytes."])]


@given(st.binary(max_size=200), st.integers(0, len(WRITTEN) - 1))
def test_no_bytes_are_an_error(noise: bytes, at: int) -> None:
    list(decode(noise))
    found = list(decode(WRITTEN[:at] + noise + WRITTEN[at + len(noise) :]))
    assert found == RECORDS[: len(found)]


def test_a_new_file_is_filled_and_a_restart_writes_over_it(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path, SIZE_BYTES)
    journal.tag = TAG
    assert path.read_bytes() == bytes(SIZE_BYTES)
    assert path.stat().st_blocks * 512 >= SIZE_BYTES, "reserved on disk, not a hole"
    for made in RECORDS:
        journal.append(encode(made))
    assert list(decode(path.read_bytes())) == RECORDS
    journal.restart()
    assert list(decode(path.read_bytes())) == RECORDS, "they stay until they are written over"
    journal.append(encode(record(11, b"new")))
    assert list(decode(path.read_bytes())) == [record(11, b"new")]
    assert path.stat().st_size == SIZE_BYTES
    journal.close()


def test_a_file_that_is_there_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "journal").touch()
    with pytest.raises(FileExistsError):
        Journal(tmp_path / "journal", SIZE_BYTES)


def test_writes_that_are_cut_short_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, position: pwrite(file, bytes(data)[:1000], position))
    journal = Journal(tmp_path / "journal", SIZE_BYTES)
    for made in RECORDS:
        journal.append(encode(made))
    journal.close()
    assert list(decode((tmp_path / "journal").read_bytes())) == RECORDS


def test_a_disk_that_takes_no_more_bytes_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "journal", SIZE_BYTES)
    monkeypatch.setattr(os, "pwrite", lambda file, data, position: 0 if len(data) < 1000 else len(data) - 500)
    with pytest.raises(OSError, match="takes no more bytes") as caught:
        journal.append(encode(RECORDS[0]))
    assert caught.value.errno == errno.EIO
    assert journal.position == 0
    journal.close()


def test_a_disk_that_is_full_before_the_file_is_filled_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int, data: bytes, position: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="No space left"):
        Journal(tmp_path / "journal", SIZE_BYTES)
    assert set(os.listdir("/proc/self/fd")) <= before


def test_what_a_client_wrote_into_an_entry_is_no_record_of_the_journal() -> None:
    """Old entries lie behind the newest record; one may hold what looks like the next record, and a client cannot know the tag."""
    forged = journals.encode(record(9, base=0, committed=2**60), bytes(16))
    short = encode(record(8, b"new"))
    old = encode(record(7, bytes(BLOCK_BYTES - HEADER_BYTES - 4) + forged))
    data = short + old[len(short) :]
    assert forged in data
    assert list(decode(data)) == [record(8, b"new")]
    known = encode(record(9, base=0))  # with the tag it would be one: so the tag is what keeps it out
    assert len(list(decode(short + known))) == 2


def test_every_journal_has_a_tag_of_its_own(tmp_path: Path) -> None:
    tags = set()
    for name in ("a", "b", "c"):
        journal = Journal(tmp_path / name, SIZE_BYTES)
        tags.add(journal.tag)
        journal.close()
    assert len(tags) == 3
    assert all(len(tag) == 16 for tag in tags)
