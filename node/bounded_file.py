"""Opens a file in a folder that somebody else may have filled: a file and nothing else, and of no more than so many bytes.

It may be changed while it is read. So it is read and not mapped: a map of a file that is cut short ends the process that looks at it.

Not here: files that the caller names, which may be pipes (`cli.gov_files`).
"""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO, Final

WINDOW_BYTES: Final = 64 << 10  # read at once; what is larger is read by itself
WINDOWS_MAX: Final = 2  # kept: who reads a chunk goes through its entries and its table at the same time


def open_bounded(path: Path, bytes_max: int) -> BinaryIO:
    """Open it to be read.

    Raises: OSError: It cannot be opened; it is no file, but something that would be waited for, or never ends; or it is larger.
    """
    stream = open(path, "rb", opener=_without_waiting)  # noqa: SIM115  the caller closes it
    found = os.fstat(stream.fileno())
    if stat.S_ISREG(found.st_mode) and found.st_size <= bytes_max:
        return stream
    stream.close()
    if stat.S_ISREG(found.st_mode):
        raise OSError(errno.EFBIG, f"it has more than {bytes_max} bytes", str(path))
    raise OSError(errno.EINVAL, "it is no file", str(path))


class FileBytes:
    """The bytes of an open file as they are asked for, by slices; as many as it had at first."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file.fileno()
        self._size = os.fstat(self._file).st_size
        self._windows: list[tuple[int, int, bytes]] = []  # where each begins and ends; the one read last comes first

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, key: slice, /) -> bytes:
        """Raises: OSError: It cannot be read, or has become shorter."""
        start, stop = key.start, key.stop
        if type(start) is not int or type(stop) is not int or not 0 <= start <= stop <= self._size:
            start, stop, _ = key.indices(self._size)
        for begins, ends, data in self._windows:
            if begins <= start and stop <= ends:
                return data[start - begins : stop - begins]
        data = self._read(start, max(stop - start, min(WINDOW_BYTES, self._size - start)))
        if len(data) <= WINDOW_BYTES:
            self._windows = [(start, start + len(data), data), *self._windows[: WINDOWS_MAX - 1]]
        return data[: stop - start]

    def _read(self, start: int, size: int) -> bytes:
        parts = []
        while size > 0:
            part = os.pread(self._file, size, start)
            if not part:
                raise OSError(errno.EIO, "it was cut short while it was read")
            parts.append(part)
            start += len(part)
            size -= len(part)
        return b"".join(parts)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
