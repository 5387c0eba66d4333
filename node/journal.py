"""The journal before LMDB: one write and one flush make a batch durable; LMDB gets it later, many batches at once.

Law: a file of fixed size, filled with zeros before its first use, so that no write changes anything but data. Records follow each other
from its beginning, each in blocks of its own: no write touches a block that holds what was acknowledged. Once LMDB has everything, writing
begins at the start again, over records that nobody needs any more; numbers, which only rise, tell old records from new ones.
Whatever is not a whole record of this journal with the number that follows is the end: a torn write, an older use of the file, or zeros.
Of this journal: each has a random tag, and all its records begin with it. For old entries lie behind the newest record, and clients choose
what stands in theirs; without the tag one could write what looks like a record, and a reader would take it for the next.
Not here: when LMDB is written, and how a reader puts the two together (`node.storage`). The format is in docs/formats/journal.md.
"""

import errno
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple
from zlib import crc32

NAME: Final = "journal"
BLOCK_BYTES: Final = 4096  # what a disk writes whole or not at all, and the page of the kernel's cache
MAGIC: Final = b"LJ1\n"
TAG_BYTES: Final = 16
# After magic and tag: CRC-32 of the tag and all that follows, bytes of sizes and entries, number, base, committed, count of entries.
_HEADER: Final = struct.Struct(f">4s{TAG_BYTES}sIIQQQI")
_SUMMED_FROM: Final = 4 + TAG_BYTES + 4
_FILL_BYTES: Final = 1 << 20


class Record(NamedTuple):
    """One change of the ledger: forget the entries above `base`, then put `entries` after it.

    Attributes:
        number: One more than the last record's.
        base: Seqno; 0 for none.
        committed: Seqno up to which the node knew entries to be committed.
        entries: From seqno `base + 1` on; may be none.
    """

    number: int
    base: int
    committed: int
    entries: Sequence[bytes]


def payload_bytes(record: Record) -> int:
    """Size of a record without its header and what fills its last block."""
    return 4 * len(record.entries) + sum(map(len, record.entries))


def encode(record: Record, tag: bytes) -> bytes:
    """A record's bytes, filled up to whole blocks. Args: tag: of the journal, TAG_BYTES."""
    entries = record.entries
    sizes = struct.pack(f">{len(entries)}I", *map(len, entries))
    head = _HEADER.pack(MAGIC, tag, 0, payload_bytes(record), record.number, record.base, record.committed, len(entries))
    rest = b"".join((head[_SUMMED_FROM:], sizes, *entries))
    return b"".join((MAGIC, tag, crc32(rest, crc32(tag)).to_bytes(4, "big"), rest, bytes(-(len(rest) + _SUMMED_FROM) % BLOCK_BYTES)))


def decode(data: bytes) -> Iterator[Record]:
    """The records in a journal's bytes, up to the first that is not whole or does not follow; never an error.

    The first one tells the journal's tag: nobody but the writer writes at the file's beginning.
    """
    position = 0
    number = None
    tag = data[4 : 4 + TAG_BYTES]
    view = memoryview(data)
    while position + _HEADER.size <= len(data):
        magic, tagged, checksum, size_bytes, found, base, committed, count = _HEADER.unpack_from(data, position)
        start = position + _HEADER.size
        end = start + size_bytes
        if (
            magic != MAGIC
            or tagged != tag
            or (number is not None and found != number)
            or end > len(data)
            or crc32(view[position + _SUMMED_FROM : end], crc32(tag)) != checksum
        ):
            return
        sizes = struct.unpack_from(f">{count}I", data, start) if 4 * count <= size_bytes else ()
        start += 4 * count
        if start + sum(sizes) != end:  # not by us, but the file may come from anybody
            return
        entries = []
        for size in sizes:
            entries.append(data[start : start + size])
            start += size
        yield Record(found, base, committed, entries)
        number = found + 1
        position = end + -end % BLOCK_BYTES


class Journal:
    """The writer of a new journal.

    Args:
        path: Of the file, which must not be there.
        size_bytes: Of the file, for ever.
    Attributes:
        position: Where the next record goes; 0 if there is none since the last `restart`.
        tag: With which its records begin.
    Raises: OSError: It cannot be made, or there is no room for it.
    """

    def __init__(self, path: Path, size_bytes: int) -> None:
        self.position = 0
        self.tag = os.urandom(TAG_BYTES)
        self._size_bytes = size_bytes
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # Zeros that are written, not only reserved: the first write to a reserved block would have to change the file's metadata, too.
            for start in range(0, size_bytes, _FILL_BYTES):
                self._write(bytes(min(_FILL_BYTES, size_bytes - start)), start)
            os.fsync(self._file)
        except OSError:
            self.close()
            raise

    def append(self, data: bytes) -> None:
        """Write an encoded record, for which there must be room; it is durable on return.

        Raises: OSError: The disk failed; whether the record is there is unknown, and nothing more may be written.
        """
        assert self.position + len(data) <= self._size_bytes
        self._write(data, self.position)
        os.fdatasync(self._file)
        self.position += len(data)

    def restart(self) -> None:
        """Begin at the start again: LMDB has made durable all that was written."""
        self.position = 0

    def close(self) -> None:
        """Give the file back."""
        os.close(self._file)

    def _write(self, data: bytes, position: int) -> None:
        written = os.pwrite(self._file, data, position)
        while written < len(data):  # rare: a signal, or a disk that is about to say that it is full
            more = os.pwrite(self._file, memoryview(data)[written:], position + written)
            if not more:
                raise OSError(errno.EIO, "the disk takes no more bytes")
            written += more
