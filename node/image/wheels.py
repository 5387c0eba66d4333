"""Python packages: fetched by pip as wheels for the image's Python, taken by hash, never installed."""

import io
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from ledgerd.node.image.commands import run
from ledgerd.node.image.errors import ImageError
from ledgerd.node.image.lock import Locked, Store
from ledgerd.node.image.tree import UNPACKED_BYTES_MAX, File, Tree

FETCH_SECONDS_MAX: Final = 300.0
# What the image's Python can load: CPython 3.11 of Debian 12, with glibc 2.36.
_PLATFORMS: Final = (*(f"manylinux_2_{minor}_x86_64" for minor in range(36, 16, -1)), "manylinux2014_x86_64")
_TARGET: Final = ("--python-version", "3.11", "--implementation", "cp", "--abi", "cp311", "--abi", "abi3", "--abi", "none")
_ADVICE: Final = "is pip there, and can it reach its index? Or put the files that wheels.lock names into the cache folder"


def fetch(locked: Sequence[Locked], store: Store, say: Callable[[str], None]) -> None:
    """Get what the store lacks.

    Raises:
        ImageError: pip is not here, or finds none of that hash.
        IntegrityError: It gave something else.
    """
    missing = store.missing(locked)
    if not missing:
        return
    say(f"fetching {len(missing)} wheels with pip")
    with tempfile.TemporaryDirectory(prefix="ledgerd-image-") as name:
        folder = Path(name)
        (folder / "requirements.txt").write_text("".join(f"{item.name}=={item.version} --hash=sha256:{item.sha256}\n" for item in missing))
        command = [*pip_download(folder), "--require-hashes", "-r", folder / "requirements.txt"]
        run(command, what="fetching wheels", advice=_ADVICE, seconds=FETCH_SECONDS_MAX)
        store.keep(folder, missing)


def pip_download(folder: Path) -> list[str | Path]:
    """The command that fetches wheels for the image's Python into a folder, without what they depend on."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download", "--no-deps", "--only-binary", ":all:"]
    platforms = [word for platform in _PLATFORMS for word in ("--platform", platform)]
    return [*pip, *_TARGET, *platforms, "-d", folder]


def unpack(data: bytes, title: str) -> Tree:
    """Read the modules and extensions of a wheel: what Python can import, and nothing else.

    Raises: ImageError: It is not a wheel, or puts files elsewhere than beside its modules.
    """
    tree = Tree()
    room = UNPACKED_BYTES_MAX
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for entry in archive.infolist():
                room -= entry.file_size  # more than that is never read of it
                if room < 0:
                    raise ImageError(f"{title} holds more than {UNPACKED_BYTES_MAX} bytes; no wheel of an image does")
                if ".data/" in entry.filename and not entry.filename.partition(".data/")[2].startswith(("scripts/", "headers/")):
                    raise ImageError(f"{title} puts {entry.filename!r} elsewhere than beside its modules; that is not done here")
                if entry.filename.endswith((".py", ".so")) and ".data/" not in entry.filename:
                    tree.add(entry.filename, File(archive.read(entry)))
    except ImageError:
        raise
    except Exception as error:  # of bytes that anybody may have written: decompressors and `zipfile` raise what they like
        raise ImageError(f"{title} is no wheel: {str(error)[:100]!r}") from None
    return tree
