"""What an AWS instance says of itself in files: huge pages, CPU pool, driver, allocator. Reads only, judges nothing.

Every path is below one root, so that a folder can stand for a machine in tests.
"""

import grp
import os
import pwd
from pathlib import Path
from typing import Final, NamedTuple

DEVICE: Final = "dev/nitro_enclaves"
VSOCK: Final = "dev/vsock"
ALLOCATOR: Final = "etc/nitro_enclaves/allocator.yaml"
GROUP: Final = "ne"
_FILE_SIZE_MAX: Final = 1 << 16


class HugePages(NamedTuple):
    """Huge pages of one size."""

    size_mb: int
    total: int
    free: int


class Machine:
    """One machine.

    Args:
        root: What stands for `/`.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root

    def text(self, path: str) -> str | None:
        """A small file's text without white space at its ends; None if it cannot be read."""
        try:
            with (self.root / path).open("rb") as file:
                return file.read(_FILE_SIZE_MAX).decode(errors="replace").strip()
        except OSError:
            return None

    def exists(self, path: str) -> bool:
        """Whether there is anything of this name."""
        return (self.root / path).exists()

    def usable(self, path: str) -> bool:
        """Whether this process may read and write it."""
        return os.access(self.root / path, os.R_OK | os.W_OK)

    def is_ec2(self) -> bool:
        """Whether the firmware names Amazon EC2."""
        return "Amazon EC2" in f"{self.text('sys/class/dmi/id/sys_vendor')} {self.text('sys/class/dmi/id/board_vendor')}"

    def allocator(self) -> dict[str, str] | None:
        """The allocator's settings, `key: value` on lines of their own; None if there is no such file."""
        text = self.text(ALLOCATOR)
        if text is None:
            return None
        lines = (line.partition("#")[0] for line in text.splitlines() if not line.startswith((" ", "-")))
        pairs = (line.partition(":") for line in lines if ":" in line)
        return {key.strip(): value.strip().strip("'\"") for key, _, value in pairs}

    def cpu_pool(self) -> list[int] | None:
        """CPUs that were set aside for enclaves; None if the driver says nothing, empty if there are none."""
        text = self.text("sys/module/nitro_enclaves/parameters/ne_cpus")
        return None if text is None else cpu_list(text)

    def threads_per_core(self) -> int:
        """2 where each core shows as two CPUs, else 1."""
        return 2 if self.text("sys/devices/system/cpu/smt/active") == "1" else 1

    def huge_pages(self) -> list[HugePages]:
        """Of every size that the kernel knows."""
        found = []
        folder = self.root / "sys/kernel/mm/hugepages"
        for path in sorted(folder.glob("hugepages-*kB")) if folder.is_dir() else ():
            numbers = [self.text(str((path / name).relative_to(self.root))) or "0" for name in ("nr_hugepages", "free_hugepages")]
            size = path.name.removeprefix("hugepages-").removesuffix("kB")
            if all(number.isdigit() for number in (*numbers, size)):
                found.append(HugePages(int(size) >> 10, int(numbers[0]), int(numbers[1])))
        return found

    def user(self) -> str:
        """Name of the user that this process runs as."""
        try:
            return pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:
            return str(os.geteuid())

    def waits_for_login(self) -> bool:
        """Whether the user was added to the group `ne` after this session began."""
        try:
            group = grp.getgrnam(GROUP)
        except KeyError:
            return False
        return self.user() in group.gr_mem and group.gr_gid not in os.getgroups()


def cpu_list(text: str) -> list[int]:
    """Read the kernel's form, such as `2-3,6`; what is not in that form is left out."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if first.isdigit() and (last or first).isdigit():
            found.extend(range(int(first), int(last or first) + 1))
    return found
