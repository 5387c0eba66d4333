"""Where each field of a ledger's bytes stands: written from the format's description, not from the reader under test."""

from collections.abc import Iterator
from typing import NamedTuple


class Field(NamedTuple):
    """Bytes `start` to `end` are a field of this kind."""

    kind: str
    start: int
    end: int


def u64(data: bytes, at: int) -> int:
    """Return the number at `at`."""
    return int.from_bytes(data[at : at + 8], "little")


def fields_of_chunk(data: bytes) -> Iterator[tuple[int, Field]]:
    """Yield (seqno, field) for every field of a chunk, with seqno 0 for what belongs to the file itself."""
    table = u64(data, 0)
    yield 0, Field("offset of the table", 0, 8)
    at = 8
    while at < (table or len(data)):
        size = int.from_bytes(data[at + 2 : at + 8], "little") + 8
        seqno = u64(data, at + 24)
        for field in fields_of_entry(data[at : at + size]):
            yield seqno, Field(field.kind, at + field.start, at + field.end)
        at += size
    for place in range(table or len(data), len(data), 4):
        yield 0, Field("offset of an entry", place, place + 4)


def fields_of_entry(data: bytes) -> Iterator[Field]:
    """Yield every field of an entry; together they are all its bytes."""
    yield Field("version", 0, 1)
    yield Field("flags", 1, 2)
    yield Field("size", 2, 8)
    yield Field("tag", 8, 24)
    yield Field("IV seqno", 24, 32)
    yield Field("IV view", 32, 36)
    yield Field("public size", 36, 44)
    end = 44 + u64(data, 36)
    kind = data[44]
    yield Field("entry type", 44, 45)
    yield Field("domain version", 45, 53)
    at = 53
    if kind in (2, 4):
        yield Field("claims digest", at, at + 32)
        at += 32
    if kind in (3, 4):
        yield Field("evidence digest", at, at + 32)
        at += 32
    yield Field("max conflict version", at, at + 8)
    at += 8
    while at < end:
        size = u64(data, at)
        yield Field("map name size", at, at + 8)
        name = data[at + 8 : at + 8 + size]
        yield Field("map name", at + 8, at + 8 + size)
        at += 8 + size
        yield Field("read version", at, at + 8)
        yield Field("read count", at + 8, at + 16)
        yield Field("write count", at + 16, at + 24)
        writes = u64(data, at + 16)
        at += 24
        for _ in range(writes):
            size = u64(data, at)
            yield Field("key size", at, at + 8)
            yield Field("key", at + 8, at + 8 + size)
            at += 8 + size
            size = u64(data, at)
            yield Field("value size", at, at + 8)
            yield Field("value of " + name.decode() if name.startswith(b"public:ccf.internal.") else "value", at + 8, at + 8 + size)
            at += 8 + size
        yield Field("remove count", at, at + 8)
        removals = u64(data, at)
        at += 8
        for _ in range(removals):
            size = u64(data, at)
            yield Field("removed key size", at, at + 8)
            yield Field("removed key", at + 8, at + 8 + size)
            at += 8 + size
    yield Field("ciphertext", end, len(data))
