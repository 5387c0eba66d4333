"""The stand-in for AWS's platform: Debian's kernel for clouds, and a ramdisk 0 with its modules, a Python, and our init.

An image's own ramdisk is started on it unchanged. So PCR2 is that of production, and PCR0 and PCR1 are the stand-in's: nobody can take
one for the other. Same locks, same bytes, on every machine; made once, and kept.
"""

import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

from ledgerd.node.image import cpio, lock, packages, rootfs
from ledgerd.node.image.errors import ImageError
from ledgerd.node.image.lock import Locked, Store
from ledgerd.node.image.python import ImagePython, Tools
from ledgerd.node.image.tree import File, Folder, Tree
from ledgerd.node.vm import guest

KERNEL_LOCK: Final = Path(__file__).resolve().parent / "kernel.lock"
# After a panic the machine ends. The second part leaves out what protects a kernel from its programs and tests its algorithms: nothing here
# is protected anyway, and in software it is a quarter of the start.
COMMAND_LINE: Final = (
    "console=ttyS0 quiet panic=-1 random.trust_cpu=on mitigations=off nokaslr no5lvl init_on_alloc=0 cryptomgr.notests audit=0 apparmor=0"
)
FORMAT: Final = "ledgerd virtual machine platform 1"

# Of the interpreter, what init needs: what it loads before it runs, `ctypes`, and `os`, by which it finds its folder.
MODULES_KEPT: Final = (
    *("os", "codecs", "io", "abc", "stat", "posixpath", "genericpath", "_collections_abc", "struct", "types"),
    *("encodings/__init__", "encodings/aliases", "encodings/utf_8", "encodings/ascii", "encodings/latin_1"),
    *("ctypes/__init__", "ctypes/_endian"),
)
LIBRARIES_KEPT: Final = ("ld-linux-x86-64.so.2", "libc.so.6", "libm.so.6", "libz.so.1", "libexpat.so.1", "libffi.so.8")
EXTENSION_KEPT: Final = "lib-dynload/_ctypes."


class Platform(NamedTuple):
    """What stands in for the platform's part of an image."""

    kernel: bytes
    ramdisk: bytes
    command_line: str


def locked() -> tuple[tuple[Locked, ...], tuple[Locked, ...]]:
    """The kernel's package, and those of the interpreter."""
    return lock.parse_packages(KERNEL_LOCK.read_text()), lock.parse_packages(lock.PACKAGES.read_text())


def digest() -> str:
    """What a platform is made of, as one name."""
    parts = [FORMAT, COMMAND_LINE, *MODULES_KEPT, *LIBRARIES_KEPT, *(str(item) + item.sha256 for items in locked() for item in items)]
    return sha256("\n".join(parts).encode() + init()).hexdigest()


def init() -> bytes:
    """The first process's program."""
    return Path(guest.__file__).read_bytes()


def build(store: Store, say: Callable[[str], None] = lambda _: None) -> Platform:
    """Make the platform, fetching what the store lacks.

    Raises: ImageError, IntegrityError: As `image.build.build`.
    """
    kernel_lock, python_lock = locked()
    packages.fetch((*kernel_lock, *python_lock), store, say)
    say("unpacking the kernel")
    kernel = rootfs.platform_tree([packages.unpack(store.read(item), str(item)) for item in kernel_lock])
    everything = rootfs.platform_tree([packages.unpack(store.read(item), str(item)) for item in python_lock])
    with tempfile.TemporaryDirectory(prefix="ledgerd-vm-") as folder:
        tools = ImagePython(everything, Path(folder).resolve())
        return assemble(kernel, everything, init(), tools)


def assemble(kernel: Tree, everything: Tree, program: bytes, tools: Tools) -> Platform:
    """Put a platform together from what was unpacked.

    Raises: ImageError: Something is not there.
    """
    tree = Tree()
    for folder in ("dev", "modules"):
        tree.add(folder, Folder())
    tree.add("init", File(program, True))
    by_name = {path.rpartition("/")[2]: file for path, file in kernel.files() if path.endswith(".ko")}
    for name in guest.MODULES:
        if (file := by_name.get(f"{name}.ko")) is None:
            raise ImageError(f"the kernel's package has no module {name}; kernel.lock must name a kernel for clouds, of Debian 12")
        tree.add(f"modules/{name}.ko", File(file.data))
    for path, node in rootfs.system(everything).items():
        name = path.rpartition("/")[2]
        is_library = path.startswith("usr/lib/x86_64-linux-gnu/") and name not in LIBRARIES_KEPT
        is_extension = "/lib-dynload/" in path and EXTENSION_KEPT not in path
        if path not in rootfs.MOUNT_POINTS and not is_library and not is_extension:
            tree.add(path, node)
    library = Tree()
    for path, file in rootfs.standard_library(everything).files():
        if path.removeprefix(f"{rootfs.STANDARD_LIBRARY}/").removesuffix(".py") in MODULES_KEPT:
            library.add(path, file)
    tree.update(rootfs.compiled(library, tools))
    images = [file.data for path, file in kernel.files() if path.startswith("boot/vmlinuz-")]
    if len(images) != 1:
        raise ImageError(f"the kernel's package holds {len(images)} kernels; kernel.lock must name one")
    return Platform(images[0], cpio.archive(tree), COMMAND_LINE)
