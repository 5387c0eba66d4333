"""Lock what enclave images are made of: write node/image/wheels.lock, node/image/packages.lock, node/vm/kernel.lock. Run by scripts/lock.

Wheels are those of requirements/runtime.txt that the enclave imports, each by the one file that fits the image's Python. Debian packages
are the newest that apt knows; where there is no apt of Debian 12 their lock stays as it is.
"""

import re
import sys
import tempfile
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

from ledgerd.node.image import lock, packages, wheels
from ledgerd.node.image.commands import run
from ledgerd.node.image.errors import ImageError
from ledgerd.node.image.lock import Locked
from ledgerd.node.vm import platform

ROOT: Final = Path(__file__).resolve().parent.parent
WHEELS: Final = ("cbor2", "cffi", "cryptography", "httptools", "msgpack", "pynacl", "pyopenssl", "quickjs-ng", "typing-extensions")
PACKAGES: Final = (
    "libc6",
    "libexpat1",
    "libffi8",
    "libgcc-s1",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libssl3",
    "python3.11-minimal",
    "zlib1g",
)
WHEELS_HEAD: Final = """# Wheels of which an image holds parts, as pip reads them: NAME==VERSION --hash=sha256:HASH, exactly one hash each.
# Versions are those of requirements/runtime.txt. Made by scripts/lock.
"""
PACKAGES_HEAD: Final = """# The Debian 12 packages of which an image holds parts: NAME VERSION ARCHITECTURE SHA-256. Made by scripts/lock.
"""
KERNEL: Final = "linux-image-cloud-amd64"
KERNEL_HEAD: Final = """# The kernel of virtual machines, a Debian 12 package: NAME VERSION ARCHITECTURE SHA-256. Made by scripts/lock.
"""


def lock_wheels() -> str:
    """The lines of wheels.lock."""
    runtime = (ROOT / "requirements" / "runtime.txt").read_text().replace("\\\n", " ")
    lines = []
    with tempfile.TemporaryDirectory() as name:
        for wheel in WHEELS:
            found = re.search(rf"^{re.escape(wheel)}==([^\s;]+).*$", runtime, re.MULTILINE)
            if found is None:
                raise ImageError(f"requirements/runtime.txt has no {wheel}")
            hashes = set(re.findall(r"sha256:([0-9a-f]{64})", found[0]))
            folder = Path(name, wheel)
            run([*wheels.pip_download(folder), f"{wheel}=={found[1]}"], what=f"fetching {wheel}", advice="see scripts/lock", seconds=300)
            (file,) = folder.glob("*.whl")
            digest = sha256(file.read_bytes()).hexdigest()
            if digest not in hashes:
                raise ImageError(f"{file.name} has a hash that requirements/runtime.txt does not know")
            lines.append(f"{wheel}=={found[1]} --hash=sha256:{digest}\n")
    return "".join(lines)


def lock_kernel() -> str:
    """The line of kernel.lock: the package on which Debian's name for its newest kernel depends."""
    told = run(["apt-cache", "depends", KERNEL], what=f"looking for {KERNEL}", advice="run `apt-get update` first", seconds=60)
    found = re.search(r"Depends: (linux-image-\S+)", told.decode())
    if found is None:
        raise ImageError(f"apt knows no {KERNEL}; run `apt-get update` on Debian 12 first")
    return packages.lock([found[1]])


def write(path: Path, head: str, body: str, locked: Sequence[Locked]) -> None:
    """Write one lock, and say so."""
    path.write_text(head + body)
    print(f"{path.relative_to(ROOT)}: {len(locked)} files")


def main() -> int:
    """Write all three."""
    try:
        body = lock_wheels()
        write(lock.WHEELS, WHEELS_HEAD, body, lock.parse_wheels(body))
        body = packages.lock(PACKAGES)
        write(lock.PACKAGES, PACKAGES_HEAD, body, lock.parse_packages(body))
        body = lock_kernel()
        write(platform.KERNEL_LOCK, KERNEL_HEAD, body, lock.parse_packages(body))
    except ImageError as error:
        print(f"scripts/lock: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
