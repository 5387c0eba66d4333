"""What this machine needs for virtual machines: QEMU, memory, an image, and a way to get the kernel's package.

Used by `ledgerd doctor` for the tree, and by the launcher, which refuses with the failures' lines.
"""

import contextlib
import shutil
from pathlib import Path
from typing import Final

from ledgerd.node.checks import Check, failure, success
from ledgerd.node.config import VmConfig
from ledgerd.node.image import eif
from ledgerd.node.image import preflight as images

MEMINFO: Final = Path("/proc/meminfo")


def preflight(config: VmConfig, meminfo: Path = MEMINFO) -> list[Check]:
    """Look at everything that a start needs; nothing is fetched."""
    return [program(config.qemu), memory(config.memory_mb, 1, meminfo), image(config.image)]


def program(qemu: str) -> Check:
    """QEMU."""
    found = shutil.which(qemu)
    if found is None:
        advice = "apt-get install qemu-system-x86 (Debian 12), or name the program by vm.qemu"
        return failure("qemu", f"{qemu} is not here", advice)
    return success("qemu", found)


def memory(memory_mb: int, machines: int = 1, meminfo: Path = MEMINFO) -> Check:
    """Free memory for so many machines."""
    free_mb = available_mb(meminfo)
    wanted = f"{machines} x {memory_mb} MiB" if machines > 1 else f"{memory_mb} MiB"
    if free_mb is not None and free_mb < machines * memory_mb:
        return failure("memory", f"{free_mb} MiB are free, {wanted} needed", "start fewer machines, lower vm.memory_mb, or stop something")
    return success("memory", f"{wanted} needed" + ("" if free_mb is None else f", {free_mb} MiB free"))


def image(path: Path) -> Check:
    """The image's file: an image, for this kind of processor, with a ramdisk beside the platform's."""
    check, read, _ = images.image(path, "vm")
    if read is None:
        return check
    if read.aarch64 or len(read.all(eif.Kind.RAMDISK)) < 2:
        what = "for Arm" if read.aarch64 else "a platform only"
        return failure(images.NAME, f"{path} is {what}", "give an image that `ledgerd image build` made")
    return check


def available_mb(meminfo: Path = MEMINFO) -> int | None:
    """Memory that can be had without swapping, in MiB; None where the kernel does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) >> 10
    return None
