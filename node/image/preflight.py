"""Looks at an image's file before it is started: is it there, and is it an image, as strictly read as it will be then.

Used by what the launchers `vm` and `nitro` look at, so by `ledgerd doctor` and `ledgerd node start --check` too.
"""

import stat
from pathlib import Path
from typing import Final

from ledgerd.node.checks import Check, failure, success
from ledgerd.node.image import eif
from ledgerd.node.image.errors import EifError

NAME: Final = "image"


def image(path: Path, section: str) -> tuple[Check, eif.Eif | None, int]:
    """Look at the file.

    Args:
        path: The file.
        section: Of the configuration that names it, `vm` or `nitro`.
    Returns: What is found; the image, if it is one; its size in bytes.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise EifError("size", "it is not a regular file, so it has no size")
        if found.st_size > eif.IMAGE_BYTES_MAX:  # before it is read into memory
            raise EifError("size", f"{found.st_size} bytes; an image has at most {eif.IMAGE_BYTES_MAX}")
        data = path.read_bytes()
        read = eif.read(data)
    except OSError as error:
        return (
            failure(NAME, f"cannot read {path}: {error.strerror}", f"give the path of an EIF file (--image, or {section}.image)"),
            None,
            0,
        )
    except EifError as error:
        return failure(NAME, f"{path} is {error}", "give the file that `ledgerd image build` wrote"), None, 0
    return success(NAME, f"{path}, {len(data) / (1 << 20):.1f} MiB"), read, len(data)
