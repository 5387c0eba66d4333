"""What may lie in the place of a file: only a file of a bounded size is opened, and nothing is waited for."""

import os
from pathlib import Path

import pytest

from ledgerd.node.bounded_file import open_bounded


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
