"""Debian packages: fetched by the machine's own apt, opened in Python, taken by hash.

No archive's address stands here: apt knows where it gets packages from, and the lock says whether they are the right ones. Nothing is
installed, no package's script is run, and no root is needed.
"""

import io
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

from ledgerd.node.image.commands import run
from ledgerd.node.image.errors import ImageError
from ledgerd.node.image.lock import Locked, Store
from ledgerd.node.image.tree import UNPACKED_BYTES_MAX, File, Folder, Link, Tree

FETCH_SECONDS_MAX: Final = 300.0
_ADVICE: Final = (
    "run `apt-get update` on Debian 12 first; if the archive has newer versions only, put the files that packages.lock names into the "
    "cache folder (Debian keeps old versions in its snapshot archive), or lock again: scripts/lock"
)
_AR_MAGIC: Final = b"!<arch>\n"
_AR_HEADER_BYTES: Final = 60
# Where everything lies since Debian merged these folders into /usr; packages of version 12 still name the old ones.
_MERGED: Final = ("bin", "lib", "lib64", "sbin")


def fetch(locked: Sequence[Locked], store: Store, say: Callable[[str], None]) -> None:
    """Get what the store lacks.

    Args:
        say: Is told what takes long.
    Raises:
        ImageError: apt is not here, or has no such version.
        IntegrityError: It gave something else.
    """
    missing = store.missing(locked)
    if not missing:
        return
    say(f"fetching {len(missing)} Debian packages with apt")
    with tempfile.TemporaryDirectory(prefix="ledgerd-image-") as name:
        # `NAME:all` is not a way to name a package that is for every architecture
        words = [f"{item.name}{'' if item.architecture == 'all' else f':{item.architecture}'}={item.version}" for item in missing]
        command = ["apt-get", "-q", "download", *words]
        run(command, what="fetching Debian packages", advice=_ADVICE, seconds=FETCH_SECONDS_MAX, folder=Path(name))
        store.keep(Path(name), missing)


def lock(names: Sequence[str]) -> str:
    """Make the lines of `packages.lock` for the newest versions that apt knows.

    Raises: ImageError: apt is not here, or does not know one.
    """
    lines = []
    with tempfile.TemporaryDirectory(prefix="ledgerd-image-") as folder:
        command = ["apt-get", "-q", "download", *(f"{name}:amd64" for name in names)]
        run(command, what="fetching Debian packages", advice="run `apt-get update` first", seconds=FETCH_SECONDS_MAX, folder=Path(folder))
        for path in sorted(Path(folder).glob("*.deb")):
            name, version, architecture = path.stem.split("_")
            lines.append(f"{name} {version.replace('%3a', ':')} {architecture} {sha256(path.read_bytes()).hexdigest()}")
    return "".join(f"{line}\n" for line in lines)


def unpack(data: bytes, title: str) -> Tree:
    """Read the files of a package, with its folders as Debian merges them into /usr.

    Args:
        title: What to call it in messages.
    Raises: ImageError: It is not a package, or holds what an image cannot have (device files, names that lead out).
    """
    tree = Tree()
    packed = next((content for name, content in _members(data, title) if name.startswith("data.tar")), None)
    if packed is None:
        raise ImageError(f"{title} is no Debian package: it has no data.tar")
    room = UNPACKED_BYTES_MAX
    try:
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r:*") as archive:
            for member in archive:
                if (path := _merged(member.name)) and path not in _MERGED:
                    room -= _add(tree, path, member, archive, title, room)
    except ImageError:
        raise
    except Exception as error:  # of bytes that anybody may have written: decompressors and `tarfile` raise what they like
        raise ImageError(f"{title} cannot be unpacked: {str(error)[:100]!r}; packages of Debian 12 are packed with xz") from None
    return tree


def _add(tree: Tree, path: str, member: tarfile.TarInfo, archive: tarfile.TarFile, title: str, room: int) -> int:
    """Put one thing into the tree; how many bytes it has, which must be at most `room`."""
    if member.isdir():
        if path not in tree:
            tree.add(path, Folder())
    elif member.issym():
        tree.add(path, Link(member.linkname))
    elif member.isfile() or member.islnk():
        content = archive.extractfile(member)  # follows a second name of a file within the archive
        if content is None:
            raise ImageError(f"{title} holds {path!r} as a second name of something that is no file")
        data = content.read(room + 1)
        if len(data) > room:
            raise ImageError(f"{title} holds more than {UNPACKED_BYTES_MAX} bytes; no package of an image does")
        tree.add(path, File(data, bool(member.mode & 0o111)))
        return len(data)
    else:
        raise ImageError(f"{title} holds {path!r}, which is no file, folder or link")
    return 0


def _merged(name: str) -> str:
    path = name.removeprefix("./").rstrip("/")
    first, _, rest = path.partition("/")
    return "" if path in ("", ".") else f"usr/{path}" if first in _MERGED and rest else path


def _members(data: bytes, title: str) -> list[tuple[str, bytes]]:
    """Names and contents of an `ar` archive."""
    if not data.startswith(_AR_MAGIC):
        raise ImageError(f"{title} is no Debian package: it does not begin as an ar archive")
    found, position = [], len(_AR_MAGIC)
    while position < len(data):
        header = data[position : position + _AR_HEADER_BYTES]
        start = position + _AR_HEADER_BYTES
        digits = header[48:58].rstrip()
        if len(header) != _AR_HEADER_BYTES or header[58:] != b"`\n" or not digits.isdigit() or int(digits) > len(data) - start:
            raise ImageError(f"{title} is no Debian package: its ar archive is damaged at byte {position}")
        found.append((header[:16].decode("ascii", "replace").rstrip().rstrip("/"), data[start : start + int(digits)]))
        position = start + int(digits) + int(digits) % 2
    return found
