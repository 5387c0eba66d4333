"""A look at what a builder was given, before an image is made of it that nothing could start.

A look at the first bytes only, and never a refusal: the platform decides what it boots, and may learn new forms.
"""

from typing import Final

_RAMDISKS: Final = {
    b"\x1f\x8b": "gzip",
    b"070701": "cpio",
    b"070702": "cpio",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x02\x21\x4c\x18": "lz4",
    b"BZh": "bzip2",
    b"\x5d\x00\x00": "lzma",
    b"\x89LZO": "lzo",
}
_LOOKED_AT_BYTES: Final = 1024
_KERNEL_BYTES_MIN: Final = 1 << 20  # AWS's has 9 MB
_RAMDISK_BYTES_MIN: Final = 512  # one block of cpio


def warnings(kernel: bytes | memoryview, ramdisk: bytes | memoryview) -> list[str]:
    """What looks wrong with a kernel for x86-64 and the platform's ramdisk, in words; empty if nothing does."""
    sizes = len(kernel), len(ramdisk)
    kernel, ramdisk = bytes(kernel[:_LOOKED_AT_BYTES]), bytes(ramdisk[:_LOOKED_AT_BYTES])
    if _is_ramdisk(kernel) and _is_kernel(ramdisk):
        return ["kernel and ramdisk are exchanged: --kernel takes bzImage, --ramdisk the platform's init and modules"]
    found = []
    if not _is_kernel(kernel):
        seen = "an ELF file: vmlinux, of which bzImage is made" if kernel.startswith(b"\x7fELF") else _beginning(kernel, sizes[0])
        found.append(f"the kernel is no bzImage (its boot sector has no `HdrS`): {seen}; nothing on x86-64 will boot it")
    elif sizes[0] < _KERNEL_BYTES_MIN:
        found.append(f"the kernel has {sizes[0]} bytes, where a whole one has millions; is it cut short?")
    if not _is_ramdisk(ramdisk):
        found.append(
            f"the ramdisk is neither cpio nor packed in a way that Linux unpacks: {_beginning(ramdisk, sizes[1])}; nothing will start"
        )
    elif sizes[1] < _RAMDISK_BYTES_MIN:
        found.append(f"the ramdisk has {sizes[1]} bytes, too few for an init; is it cut short?")
    return found


def _is_kernel(data: bytes) -> bool:
    """Source: the kernel's "Linux/x86 Boot Protocol", version 2.00 and newer."""
    return data[0x1FE:0x200] == b"\x55\xaa" and data[0x202:0x206] == b"HdrS"


def _is_ramdisk(data: bytes) -> bool:
    return data.startswith(tuple(_RAMDISKS))


def _beginning(data: bytes, size: int) -> str:
    return f"{size} bytes that begin with {data[:8].hex() or 'nothing'}"
