"""The archive that the kernel unpacks as its first file system: cpio, form "newc". Same tree, same bytes.

Entries are sorted by path; owner and group are root, times are zero, modes one of four, inode numbers count from 1.
Source: the Linux kernel's description of the initramfs buffer format.
"""

from typing import Final

from ledgerd.node.image.errors import ImageError
from ledgerd.node.image.tree import File, Link, Node, Tree

FILE_BYTES_MAX: Final = (1 << 32) - 1  # eight hex digits
_MAGIC: Final = b"070701"
_END: Final = "TRAILER!!!"
_ALIGNMENT: Final = 4
_BLOCK: Final = 512  # so that another archive can follow


def archive(tree: Tree) -> bytes:
    """Write a tree as one archive.

    Raises: ImageError: A file is 4 GiB or more, or is called as the archive's end is.
    """
    parts: list[bytes] = []
    for number, (path, node) in enumerate(tree.items(), 1):
        if path == _END:
            raise ImageError(f"a file cannot be called {_END!r}: that name ends the archive")
        parts.append(_entry(path, number, *_shape(node)))
    parts.append(_entry(_END, 0, 0, 1, b""))
    whole = b"".join(parts)
    return whole + bytes(-len(whole) % _BLOCK)


def _shape(node: Node) -> tuple[int, int, bytes]:
    """Mode with the type's bits, number of names, content."""
    if isinstance(node, File):
        return 0o100755 if node.executable else 0o100644, 1, node.data
    if isinstance(node, Link):
        return 0o120777, 1, node.target.encode()
    return 0o040755, 2, b""


def _entry(path: str, inode: int, mode: int, names: int, data: bytes) -> bytes:
    if len(data) > FILE_BYTES_MAX:
        raise ImageError(f"{path!r} has {len(data)} bytes; an archive of this form holds files below 4 GiB")
    name = path.encode() + b"\0"
    # inode, mode, owner, group, names, time, size, device (2), device of a device file (2), size of name, checksum (none in this form)
    numbers = (inode, mode, 0, 0, names, 0, len(data), 0, 0, 0, 0, len(name), 0)
    head = _MAGIC + b"".join(b"%08x" % number for number in numbers) + name
    return head + bytes(-len(head) % _ALIGNMENT) + data + bytes(-len(data) % _ALIGNMENT)
