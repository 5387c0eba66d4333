"""Chunk files: names, tables, and where a ledger is cut."""

import contextlib
import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledgerd.ledger import chunks
from ledgerd.ledger.chunks import Chunk, Chunker, ChunkName, arrange, build, parse, parse_name
from ledgerd.ledger.entry import FLAG_CHUNK_AFTER, FLAG_CHUNK_BEFORE, Sealer
from ledgerd.ledger.errors import FormatError, UsageError
from ledgerd.ledger.ids import Seqno
from ledgerd.ledger.signature import SIGNATURES

SECRET = b"\x05" * 32


def entries(count: int, *, signed: frozenset[int] = frozenset(), flags: dict[int, int] | None = None) -> list[bytes]:
    """Entries 1 to `count`; those in `signed` look like signature entries."""
    sealer = Sealer(SECRET)
    made = []
    for seqno in range(1, count + 1):
        writes: dict[str, dict[bytes, bytes | None]] = {SIGNATURES if seqno in signed else "records": {bytes(8): b"x" * seqno}}
        made.append(sealer.seal(2, seqno, writes, flags=(flags or {}).get(seqno, 0)).data)
    return made


CLOSED = build(entries(3))
NAME = ChunkName(Seqno(1), Seqno(3), True)


@pytest.mark.parametrize(
    ("text", "name"),
    [("ledger_1-14.committed", (1, 14, True)), ("ledger_15-15", (15, 15, False)), ("ledger_506", (506, None, False))],
)
def test_names_are_read_and_written(text: str, name: tuple[int, int | None, bool]) -> None:
    assert parse_name(text) == name
    assert str(parse_name(text)) == text


@pytest.mark.parametrize("text", ["snapshot_1_2", "ledger_1-2.ignored", "ledger_1-2.recovery", "ledger_1-2.committed_prefix", "", "x"])
def test_files_that_are_no_part_of_a_ledger_are_left_out(text: str) -> None:
    assert parse_name(text) is None


@pytest.mark.parametrize(
    "text",
    ["ledger_", "ledger_0-1", "ledger_01", "ledger_2-1", "ledger_1.committed", "ledger_1-2.bak", "ledger_1-2\n", "ledger_-2", "ledger_٣"],
)
def test_names_without_a_range_are_refused(text: str) -> None:
    with pytest.raises(FormatError):
        parse_name(text)


def test_chunks_are_put_in_order_of_their_numbers() -> None:
    names = ["ledger_10-12", "ledger_13", "ledger_1-2.committed", "ledger_3-9.committed", "ledger_1-9.ignored", "other"]
    assert [name for name, _ in arrange(names)] == ["ledger_1-2.committed", "ledger_3-9.committed", "ledger_10-12", "ledger_13"]
    assert arrange([]) == []


@pytest.mark.parametrize(
    "names",
    [
        ["ledger_2-3"],
        ["ledger_1-2", "ledger_4-5"],
        ["ledger_1-2", "ledger_2-3"],
        ["ledger_1-2", "ledger_1-2.committed"],
        ["ledger_1", "ledger_2-3"],
    ],
)
def test_gaps_overlaps_and_what_follows_an_open_chunk_are_refused(names: list[str]) -> None:
    with pytest.raises(FormatError):
        arrange(names)


@given(st.integers(1, 12), st.booleans())
def test_chunks_come_back(count: int, closed: bool) -> None:
    made = entries(count)
    name = ChunkName(Seqno(1), Seqno(count) if closed else None, False)
    assert list(parse(build(made, closed=closed), name)) == made


def test_the_layout_is_ccf_s() -> None:
    """u64 offset of the table, entries, u32 offsets."""
    made = entries(2)
    table = 8 + len(made[0]) + len(made[1])
    assert build(made) == struct.pack("<Q", table) + made[0] + made[1] + struct.pack("<II", 8, 8 + len(made[0]))
    assert build(made, closed=False) == bytes(8) + made[0] + made[1]


def test_an_open_chunk_without_entries_is_read() -> None:
    assert list(parse(bytes(8), ChunkName(Seqno(7), None, False))) == []
    with pytest.raises(UsageError):
        build([])


def test_every_cut_and_every_longer_form_of_a_closed_chunk_is_refused() -> None:
    for end in range(len(CLOSED)):
        with pytest.raises(FormatError):
            list(parse(CLOSED[:end], NAME))
    with pytest.raises(FormatError):
        list(parse(CLOSED + b"\x00", NAME))
    with pytest.raises(FormatError):
        list(parse(CLOSED + bytes(4), NAME))


def test_nothing_is_kept_of_each_entry_of_a_chunk() -> None:
    """A chunk of 4 GiB may have seventy million entries, and whoever wrote it knows that a list of them would take gigabytes."""
    count = 20_000
    entry = entries(1)[0]
    chunk = build([entry] * count)
    tracemalloc.start()
    try:
        assert sum(1 for _ in parse(chunk)) == count
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_torn_entry_at_the_end_of_an_open_chunk_is_refused() -> None:
    made = entries(2)
    data = build(made, closed=False)
    for end in range(8 + len(made[0]) + 1, len(data)):
        with pytest.raises(FormatError):
            list(parse(data[:end], ChunkName(Seqno(1), None, False)))


def test_every_flipped_bit_of_header_and_table_is_refused() -> None:
    table = int.from_bytes(CLOSED[:8], "little")
    for at in [*range(8), *range(table, len(CLOSED))]:
        for bit in range(8):
            changed = bytearray(CLOSED)
            changed[at] ^= 1 << bit
            with pytest.raises(FormatError):
                list(parse(bytes(changed), NAME))


@pytest.mark.parametrize(
    "name",
    [
        ChunkName(Seqno(1), Seqno(2), True),
        ChunkName(Seqno(1), Seqno(4), True),
        ChunkName(Seqno(2), Seqno(4), True),
        ChunkName(Seqno(1), None, False),
    ],
)
def test_a_chunk_under_another_name_is_refused(name: ChunkName) -> None:
    with pytest.raises(FormatError):
        list(parse(CLOSED, name))


def cut(made: list[bytes], **options: int) -> list[Chunk]:
    chunker = Chunker(options.pop("committed", len(made)), **options)
    found = [chunk for entry in made for chunk in chunker.add(entry)]
    last = chunker.finish()
    return [*found, last] if last else found


def test_a_chunk_closes_at_the_first_signature_at_which_it_is_large_enough() -> None:
    made = entries(8, signed=frozenset({2, 4, 6}))
    size = 8 + sum(len(entry) for entry in made[:4])
    found = cut(made, chunk_size=size, committed=4)
    assert [str(chunk.name) for chunk in found] == ["ledger_1-4.committed", "ledger_5"]
    assert [entry for chunk in found for entry in parse(chunk.data, chunk.name)] == made
    assert [str(chunk.name) for chunk in cut(made, chunk_size=size + 1, committed=4)] == ["ledger_1-6", "ledger_7"]


def test_entries_may_ask_for_a_cut() -> None:
    """0x01 closes after the next signature that carries it, 0x02 before the entry; both only at a signature."""
    made = entries(
        6, signed=frozenset({2, 4}), flags={1: FLAG_CHUNK_AFTER, 2: FLAG_CHUNK_AFTER, 5: FLAG_CHUNK_BEFORE, 6: FLAG_CHUNK_BEFORE}
    )
    assert [str(chunk.name) for chunk in cut(made)] == ["ledger_1-2.committed", "ledger_3-4.committed", "ledger_5"]


def test_a_chunker_takes_entries_in_order() -> None:
    made = entries(3)
    with pytest.raises(FormatError):
        Chunker(3).add(made[1])
    chunker = Chunker(3, first=2)
    assert chunker.add(made[1]) == []
    with pytest.raises(FormatError):
        chunker.add(b"")
    assert Chunker(0).finish() is None


def test_a_closed_chunk_stays_below_4_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_SIZE_BYTES_MAX", len(CLOSED) - 1)
    with pytest.raises(UsageError):
        build(entries(3))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_never_do_worse_than_a_refusal(data: bytes) -> None:
    for item in (data, bytes(8) + data, struct.pack("<Q", len(data)) + data):
        with contextlib.suppress(FormatError):
            assert all(isinstance(entry, bytes) for entry in parse(item))


def test_a_refusal_names_the_entry() -> None:
    made = entries(3)
    at = 8 + len(made[0])
    for place in (at + 2, int.from_bytes(CLOSED[:8], "little") + 4):  # the size of entry 2; the offset of entry 2
        changed = bytearray(CLOSED)
        changed[place] ^= 1
        with pytest.raises(FormatError, match=r"ledger_1-3\.committed: entry [23] begins at"):
            list(parse(bytes(changed), NAME))
