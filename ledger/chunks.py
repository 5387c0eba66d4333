"""CCF's ledger files: a chunk is a header, entries back to back, and a table of where each begins. Pure: bytes, never files.

Layout: u64 offset of the table (0 while the chunk is being written), entries, then u32 offsets to the end of the file; little-endian.
Not here: what the entries say (`ledger.entry`), whether it is true (`ledger.audit`), directories (the node's commands).
"""

import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from ledgerd.ledger.entry import FLAG_CHUNK_AFTER, FLAG_CHUNK_BEFORE, Buffer, entry_size, read_public
from ledgerd.ledger.errors import FormatError, UsageError
from ledgerd.ledger.ids import Seqno
from ledgerd.ledger.signature import COSE_SIGNATURES, SIGNATURES

CHUNK_SIZE_BYTES: Final = 5_000_000  # CCF's default; a chunk closes at the first signature at which it has as many
CHUNK_SIZE_BYTES_MAX: Final = (1 << 32) - 1  # offsets are u32

_HEADER = struct.Struct("<Q")
_NAME = re.compile(r"ledger_([1-9][0-9]{0,18})(?:-([1-9][0-9]{0,18}))?(\.committed)?")
_SET_ASIDE: Final = (".ignored", ".recovery", ".committed_prefix")


class ChunkName(NamedTuple):
    """What a chunk's file name says. `last` is None while it is being written."""

    first: Seqno
    last: Seqno | None
    committed: bool

    def __str__(self) -> str:
        return f"ledger_{self.first}{'' if self.last is None else f'-{self.last}'}{'.committed' if self.committed else ''}"


class Chunk(NamedTuple):
    """One chunk, ready to be written to a file of that name."""

    name: ChunkName
    data: bytes


def parse_name(name: str) -> ChunkName | None:
    """Read a file's name; None if the file is no part of a ledger: set aside by CCF, or something else altogether.

    Raises: FormatError: It begins with `ledger_` but names no range of seqnos.
    """
    if not name.startswith("ledger_") or name.endswith(_SET_ASIDE):
        return None
    match = _NAME.fullmatch(name)
    if match is None:
        raise FormatError(f"file {name[:64]!r} is not named ledger_FIRST, ledger_FIRST-LAST or ledger_FIRST-LAST.committed")
    first, last, committed = int(match[1]), int(match[2]) if match[2] else None, match[3] is not None
    if (last is not None and last < first) or (committed and last is None):
        raise FormatError(f"file {name[:64]!r} names no range of seqnos")
    return ChunkName(Seqno(first), None if last is None else Seqno(last), committed)


def arrange(names: Iterable[str]) -> list[tuple[str, ChunkName]]:
    """Put the chunk files of one ledger in order; other files are left out.

    Raises: FormatError: They overlap, leave a gap, do not begin at seqno 1, or something follows a chunk that is not closed.
    """
    chunks = [(name, parsed) for name in names if (parsed := parse_name(name)) is not None]
    chunks.sort(key=lambda chunk: chunk[1].first)
    following: int | None = 1
    for name, chunk in chunks:
        if following is None:
            raise FormatError(f"{name} follows a chunk that is still being written")
        if chunk.first != following:
            raise FormatError(f"{name} begins at {chunk.first}, expected {following}: chunks are missing or overlap")
        following = None if chunk.last is None else chunk.last + 1
    return chunks


def parse(data: Buffer, name: ChunkName | None = None) -> Iterator[bytes]:
    """Yield the entries of one chunk, each of whole bytes; what they say is not looked at but for their sizes and first seqno.

    The table is checked first, so a chunk whose table is wrong yields nothing.

    Args:
        data: The chunk's bytes; of a large file, whatever gives slices of it.
        name: What its name promises: closed or not, its first seqno and how many entries.
    Raises: FormatError: Any offset, size or count contradicts another one.
    """
    where = "this chunk" if name is None else str(name)
    count, end = _check(data, where, 1 if name is None else name.first)
    at = _HEADER.size
    if name is not None:
        if (end == len(data)) is not (name.last is None):
            raise FormatError(f"{name}: the name says that it is {'open' if name.last is None else 'closed'}, the file says otherwise")
        if name.last is not None and count != name.last - name.first + 1:
            raise FormatError(f"{name}: {count} entries, the name promises {name.last - name.first + 1}")
        if count and (seen := int.from_bytes(data[at + 24 : at + 32], "little")) != name.first:
            raise FormatError(f"{name}: the first entry is {seen}, expected {name.first}")
    while at < end:
        following = at + entry_size(data, at)
        yield bytes(data[at:following])
        at = following


def build(entries: Sequence[bytes], *, closed: bool = True) -> bytes:
    """Return a chunk's bytes: with its table, or as it looks while being written. Raises: UsageError: It would be too large."""
    size = _HEADER.size + sum(map(len, entries))
    if size + 4 * len(entries) > CHUNK_SIZE_BYTES_MAX or (closed and not entries):
        raise UsageError(f"a closed chunk has at least one entry and at most 4 GiB, not {len(entries)} entries of {size} bytes")
    if not closed:
        return b"".join((bytes(8), *entries))
    offsets = []
    at = _HEADER.size
    for entry in entries:
        offsets.append(at)
        at += len(entry)
    return b"".join((_HEADER.pack(size), *entries, struct.pack(f"<{len(offsets)}I", *offsets)))


class Chunker:
    """Cuts a ledger into chunks where CCF would: at the first signature at which a chunk is large enough, or where an entry asks.

    Args:
        first: The seqno of the first entry that will be added.
        committed: The last committed seqno; chunks up to it are named `.committed`.
        chunk_size: In bytes.
    """

    __slots__ = ("_after_signature", "_chunk_size", "_committed", "_entries", "_first", "_size")

    def __init__(self, committed: int, *, first: int = 1, chunk_size: int = CHUNK_SIZE_BYTES) -> None:
        self._committed = committed
        self._chunk_size = chunk_size
        self._first = first
        self._entries: list[bytes] = []
        self._size = _HEADER.size
        self._after_signature = False

    def add(self, entry: bytes) -> list[Chunk]:
        """Add the next entry and return the chunks that it completes: none, one, or two where an entry asks for a cut on both sides.

        Raises: FormatError: It is no entry, or not the next one.
        """
        public = read_public(entry)
        if public.seqno != self._first + len(self._entries):
            raise FormatError(f"entry {public.view}.{public.seqno} where {self._first + len(self._entries)} should follow")
        chunks = []
        if public.flags & FLAG_CHUNK_BEFORE and self._after_signature:
            chunks.append(self._close())
        self._entries.append(entry)
        self._size += len(entry)
        self._after_signature = SIGNATURES in public.writes or COSE_SIGNATURES in public.writes
        if self._after_signature and (self._size >= self._chunk_size or public.flags & FLAG_CHUNK_AFTER):
            chunks.append(self._close())
        return chunks

    def finish(self) -> Chunk | None:
        """Return the last chunk, still open, with what is in none of the others; None if there is nothing left."""
        if not self._entries:
            return None
        return Chunk(ChunkName(Seqno(self._first), None, False), build(self._entries, closed=False))

    def _close(self) -> Chunk:
        last = self._first + len(self._entries) - 1
        chunk = Chunk(ChunkName(Seqno(self._first), Seqno(last), last <= self._committed), build(self._entries))
        self._first = last + 1
        self._entries = []
        self._size = _HEADER.size
        self._after_signature = False
        return chunk


def _check(data: Buffer, where: str, first: int) -> tuple[int, int]:
    """Check that sizes and table agree; return how many entries there are, and where the last one ends.

    Nothing is kept of each entry: a chunk of 4 GiB may have seventy million. `where` and `first` (seqno) are for what a refusal says.
    """
    if len(data) < _HEADER.size:
        raise FormatError(f"{where}: {len(data)} bytes have no header")
    (table,) = _HEADER.unpack(data[: _HEADER.size])
    end = table or len(data)
    if table and (table >= len(data) or table > CHUNK_SIZE_BYTES_MAX or table <= _HEADER.size or (len(data) - table) % 4):
        raise FormatError(f"{where}: a file of {len(data)} bytes whose table begins at {table}")
    stated = (len(data) - table) // 4 if table else None
    count = 0
    at = _HEADER.size
    while at < end:
        if stated is not None:
            seen = int.from_bytes(data[table + 4 * count : table + 4 * count + 4], "little") if count < stated else "none"
            if seen != at:
                raise FormatError(
                    f"{where}: entry {first + count} begins at {at}, the table says {seen}; its offset or the size before it was changed"
                )
        try:
            size = entry_size(data, at)
        except FormatError as error:
            raise FormatError(f"{where}: entry {first + count} at offset {at}: {error}") from None
        if at + size > end:
            raise FormatError(f"{where}: entry {first + count} at offset {at} ends at {at + size}, the entries end at {end}")
        count += 1
        at += size
    if stated is not None and count != stated:
        raise FormatError(f"{where}: {count} entries, but a table of {stated}")
    return count, end
