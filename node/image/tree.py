"""A tree of files in memory, of which only what an image keeps can be said: names, bytes, links, and whether a file may be run.

No owner, time, or finer mode exists here, so none can differ between two machines.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from ledgerd.node.image.errors import ImageError

PATH_BYTES_MAX: Final = 4095  # PATH_MAX of Linux, without its NUL
UNPACKED_BYTES_MAX: Final = 1 << 30  # of one package; the largest has 20 MB


class File(NamedTuple):
    """A regular file."""

    data: bytes
    executable: bool = False


class Link(NamedTuple):
    """A symbolic link; `target` may be absolute, and may lead nowhere."""

    target: str


class Folder(NamedTuple):
    """A folder."""


Node: TypeAlias = File | Link | Folder


def _is_text(name: str) -> bool:
    """Whether a file system takes a name, everywhere as the same bytes."""
    try:
        return len(name.encode()) <= PATH_BYTES_MAX and "\0" not in name
    except UnicodeEncodeError:  # of bytes that are no UTF-8, as archives may have them
        return False


class Tree:
    """Paths, relative and separated by `/`, and what stands there. Folders above a path come into being with it."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}

    def __contains__(self, path: str) -> bool:
        return path in self._nodes

    def __getitem__(self, path: str) -> Node:
        return self._nodes[path]

    def get(self, path: str) -> Node | None:
        """What stands at a path, if anything."""
        return self._nodes.get(path)

    def __len__(self) -> int:
        return len(self._nodes)

    def items(self) -> Iterator[tuple[str, Node]]:
        """Everything, sorted by the bytes of its path: a folder stands before what is in it."""
        for path in sorted(self._nodes, key=lambda path: path.encode()):
            yield path, self._nodes[path]

    def files(self) -> Iterator[tuple[str, File]]:
        """The regular files, in the same order."""
        for path, node in self.items():
            if isinstance(node, File):
                yield path, node

    def add(self, path: str, node: Node) -> None:
        """Put something at a path.

        Raises: ImageError: The path is not a clean relative one, or something else stands there or in its way.
        """
        parts = path.split("/")
        if not _is_text(path) or not set(parts).isdisjoint({"", ".", ".."}):
            raise ImageError(
                f"{path[:200]!r} cannot be a path in an image: it must be relative, in UTF-8, and without empty, `.` or `..` parts"
            )
        if isinstance(node, Link) and (not node.target or not _is_text(node.target)):
            raise ImageError(f"{path[:200]!r} cannot be put into the image: it is a link to {node.target[:200]!r}")
        for end in range(1, len(parts)):
            above = "/".join(parts[:end])
            if not isinstance(self._nodes.setdefault(above, Folder()), Folder):
                raise ImageError(f"{path!r} cannot be put into the image: {above!r} is not a folder there")
        if self._nodes.setdefault(path, node) != node:
            raise ImageError(f"two different things want to be {path!r} in the image; leave one of them out")

    def update(self, other: "Tree", below: str = "") -> None:
        """Add everything of another tree, below a folder."""
        for path, node in other.items():
            self.add(f"{below}/{path}" if below else path, node)

    def write(self, folder: Path) -> None:
        """Write everything into a folder that exists and is empty; absolute links stay as they are.

        Raises: OSError: As the file system does.
        """
        for path, node in self.items():
            place = folder / path
            if isinstance(node, Folder):
                place.mkdir(mode=0o755)
            elif isinstance(node, Link):
                place.symlink_to(node.target)
            else:
                place.write_bytes(node.data)
                place.chmod(0o755 if node.executable else 0o644)
