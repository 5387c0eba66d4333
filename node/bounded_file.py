"""Opens a file in a folder that somebody else may have filled: a file and nothing else, and of no more than so many bytes.

Not here: files that the caller names, which may be pipes (`cli.gov_files`).
"""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


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


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
