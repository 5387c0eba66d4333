"""A node's directory that somebody else gives us: whatever its files hold, the reader goes on and says what is wrong."""

import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from ledgerd.ledger.errors import ConfigurationError, IntegrityError
from ledgerd.node import ledger_process
from ledgerd.node.storage import Append, Storage
from support.command_line import run

PAGE_BYTES = 4096
ENTRIES = [b"\x00" * 8 + b"%d" % number + bytes(3_000) for number in range(40)]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A ledger whose entries are all in LMDB's file."""
    storage = Storage(tmp_path / "ledger")
    storage.committed(len(ENTRIES))
    storage.append(Append(1, 2, None, 1, ENTRIES))
    storage.close()
    return tmp_path / "ledger"


def everything(directory: Path) -> list[bytes]:
    last, _ = ledger_process.look(directory)
    return [data for _, data in ledger_process.entries(directory, 1, last)]


def test_it_gives_what_is_stored(directory: Path) -> None:
    assert ledger_process.look(directory) == (len(ENTRIES), len(ENTRIES))
    assert list(ledger_process.entries(directory, 5, 7)) == [(number, ENTRIES[number - 1]) for number in (5, 6, 7)]
    assert everything(directory) == ENTRIES


def test_a_reader_may_stop_before_the_end(directory: Path) -> None:
    reading = ledger_process.entries(directory, 1, len(ENTRIES))
    assert next(reading) == (1, ENTRIES[0])
    reading.close()  # type: ignore[attr-defined]  # a generator


def test_where_there_is_no_ledger_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="holds no ledger"):
        ledger_process.look(tmp_path)
    (tmp_path / "data.mdb").write_bytes(b"nonsense")
    with pytest.raises(ConfigurationError, match="cannot read the ledger"):
        ledger_process.look(tmp_path)


def test_a_child_that_says_something_else_is_not_listened_to(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one may whose memory a hostile file has spoilt; this one does not end by itself."""
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexec yes\n")
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program))
    with pytest.raises(IntegrityError, match=r"^after entry 0: .* is damaged"):
        ledger_process.look(directory)


def cut(data: bytearray) -> None:
    del data[3 * PAGE_BYTES :]


def emptied(data: bytearray) -> None:
    data[2 * PAGE_BYTES :] = bytes(len(data) - 2 * PAGE_BYTES)


def swapped(data: bytearray) -> None:
    """Every page but the first two is another one's."""
    pages = [data[at : at + PAGE_BYTES] for at in range(2 * PAGE_BYTES, len(data), PAGE_BYTES)]
    data[2 * PAGE_BYTES :] = b"".join(pages[1:] + pages[:1])


def pointing_far(data: bytearray) -> None:
    """Whatever may be a number of a page is one that there is not."""
    for at in range(2 * PAGE_BYTES + 16, len(data) - 8, 8):
        if int.from_bytes(data[at : at + 8], "little") in range(2, len(data) // PAGE_BYTES):
            struct.pack_into("<Q", data, at, 1 << 40)


@pytest.mark.parametrize("harm", [cut, emptied, swapped, pointing_far])
def test_a_file_that_ends_its_reader_is_a_refusal(directory: Path, harm: Callable[[bytearray], None]) -> None:
    """The first of them ends with SIGBUS whoever maps the file."""
    data = bytearray((directory / "data.mdb").read_bytes())
    harm(data)
    (directory / "data.mdb").write_bytes(data)
    with pytest.raises((IntegrityError, ConfigurationError), match=r"another node's|cannot read the ledger"):
        everything(directory)
    for command in ("verify", "show"):
        ran = run("ledger", command, directory)
        assert ran.status in (1, 2)
        assert "Traceback" not in ran.out + ran.err


def test_a_file_that_was_cut_short_says_how_far_it_is_read(directory: Path) -> None:
    data = (directory / "data.mdb").read_bytes()
    (directory / "data.mdb").write_bytes(data[: len(data) // 2])
    with pytest.raises(IntegrityError, match=r"^after entry \d+: .* is damaged: LMDB ended the process that read it \(SIGBUS\)"):
        everything(directory)


def test_random_damage_ends_nobody_but_the_child(directory: Path) -> None:
    whole = (directory / "data.mdb").read_bytes()
    chance = random.Random(7)
    for _ in range(8):
        data = bytearray(whole)
        for _ in range(64):
            data[chance.randrange(PAGE_BYTES * 2, len(data))] ^= 1 << chance.randrange(8)
        (directory / "data.mdb").write_bytes(data)
        try:
            read = everything(directory)
        except (IntegrityError, ConfigurationError):
            continue
        assert len(read) <= len(ENTRIES)
