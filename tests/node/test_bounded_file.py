"""What may lie in the place of a file: only a file of a bounded size is opened, and nothing is waited for."""

import os
from pathlib import Path

import pytest

from ledgerd.node.bounded_file import WINDOW_BYTES, FileBytes, open_bounded


def test_a_file_of_the_size_is_read_and_a_larger_one_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1234")
    with open_bounded(tmp_path / "file", 4) as file:
        assert file.read() == b"1234"
    with pytest.raises(OSError, match="it has more than 3 bytes"):
        open_bounded(tmp_path / "file", 3)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "nothing"])
def test_what_is_no_file_is_refused_at_once_and_nothing_stays_open(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError):
        open_bounded(path, 1)
    assert os.listdir("/proc/self/fd") == before


def test_slices_are_those_of_the_bytes_wherever_they_begin_and_end(tmp_path: Path) -> None:
    data = os.urandom(3 * WINDOW_BYTES + 17)
    (tmp_path / "file").write_bytes(data)
    with open_bounded(tmp_path / "file", len(data)) as file:
        seen = FileBytes(file)
        assert len(seen) == len(data)
        for start in (0, 1, WINDOW_BYTES - 3, WINDOW_BYTES, 2 * WINDOW_BYTES + 5, len(data) - 4, len(data), 0, 3):
            for size in (0, 1, 8, WINDOW_BYTES, WINDOW_BYTES + 1, 2 * WINDOW_BYTES, len(data)):
                assert seen[start : start + size] == data[start : start + size]
        assert seen[:] == data


def test_two_places_are_read_by_turns_without_reading_each_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(bytes(1 << 20))
    with open_bounded(tmp_path / "file", 1 << 20) as file:
        seen = FileBytes(file)
        reads: list[int] = []
        read = os.pread

        def counted(descriptor: int, size: int, at: int) -> bytes:
            reads.append(at)
            return read(descriptor, size, at)

        monkeypatch.setattr(os, "pread", counted)
        for at in range(0, WINDOW_BYTES, 1024):
            assert seen[at : at + 8] == seen[500_000 + at : 500_000 + at + 8] == bytes(8)
        assert reads == [0, 500_000]


def test_a_file_that_is_cut_short_while_it_is_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(1 << 20))
    with open_bounded(tmp_path / "file", 1 << 20) as file:
        seen = FileBytes(file)
        os.truncate(tmp_path / "file", 600_000)
        assert seen[:8] == bytes(8)
        with pytest.raises(OSError, match="cut short"):
            seen[700_000:700_008]
        with pytest.raises(OSError, match="cut short"):
            seen[:]
