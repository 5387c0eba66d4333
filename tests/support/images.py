"""Small stand-ins for what enclave images are made of, and an independent reader and measurer to compare with."""

import io
import struct
import tarfile
import zlib
from datetime import UTC, datetime, timedelta
from hashlib import sha384
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from ledgerd.node.image import rootfs
from ledgerd.node.image.build import ImageSpec, Parts
from ledgerd.node.image.python import LIBRARIES, LOADER, PYTHON
from ledgerd.node.image.tree import File, Link, Tree

KERNEL: Final = b"kernel" * 100
PLATFORM: Final = b"platform" * 50
COMMAND_LINE: Final = "reboot=k panic=30 pci=off nomodules console=ttyS0 random.trust_cpu=on"


def kept(request: pytest.FixtureRequest) -> Path:
    """A folder that lasts from run to run, for packages and wheels; in a cache folder as `ledgerd` would make it in the user's."""
    cache: pytest.Cache | None = getattr(request.config, "cache", None)  # there by pytest's plugin only
    if cache is None:
        pytest.fail("what images are made of is fetched once and kept in pytest's cache: run without `-p no:cacheprovider`", pytrace=False)
    return Path(cache.mkdir("home")) / "ledgerd" / "image"


def packages() -> list[Tree]:
    """Packages with the few files that an image cannot do without; their content is nothing that runs."""
    system = Tree()
    system.add(PYTHON, File(b"\x7fELF interpreter", True))
    system.add(LOADER, File(b"\x7fELF loader", True))
    for name in rootfs.LIBRARIES_KEPT:
        system.add(f"{LIBRARIES}/{name}.1.2", File(b"\x7fELF " + name.encode()))
        system.add(f"{LIBRARIES}/{name}", Link(f"{name}.1.2"))
    library = Tree()
    for name in rootfs.EXTENSIONS_KEPT:
        library.add(f"{rootfs.STANDARD_LIBRARY}/lib-dynload/{name}.cpython-311-x86_64-linux-gnu.so", File(b"\x7fELF " + name.encode()))
    for name in ("os", "json/__init__", "ctypes/__init__", "test/regrtest", "pdb", "encodings/utf_8", "encodings/cp437", "http/client"):
        library.add(f"{rootfs.STANDARD_LIBRARY}/{name}.py", File(f"'{name}'\n".encode()))
    library.add("usr/share/doc/libpython/README", File(b"read me"))
    library.add("usr/lib/binfmt.d/python3.11.conf", File(b"x"))
    return [system, library]


def wheels() -> list[Tree]:
    """One wheel's modules."""
    tree = Tree()
    tree.add("codec/__init__.py", File(b"from codec._fast import go\n"))
    tree.add("codec/_fast.cpython-311-x86_64-linux-gnu.so", File(b"\x7fELF codec"))
    tree.add("cffi/api.py", File(b"build = 1\n"))
    return [tree]


def parts() -> Parts:
    """Stand-ins for everything that comes from others."""
    return Parts(packages(), wheels())


def spec(**changes: Any) -> ImageSpec:
    """What a small image is made of."""
    chosen = {"app": "ledgerd.apps.logging", "kernel": KERNEL, "platform_ramdisk": PLATFORM, "command_line": COMMAND_LINE, **changes}
    return ImageSpec(**chosen)


class Header(NamedTuple):
    """An image's header by another hand: offsets counted, not unpacked by the code that is tested."""

    data: bytes

    def number(self, at: int, size: int) -> int:
        return int.from_bytes(self.data[at : at + size], "big")

    @property
    def sections(self) -> list[tuple[int, bytes]]:
        """Type and data of each section, by the table."""
        found = []
        for index in range(self.number(26, 2)):
            offset, size = self.number(28 + 8 * index, 8), self.number(284 + 8 * index, 8)
            found.append((self.number(offset, 2), self.data[offset + 12 : offset + 12 + size]))
        return found


def pcr(*data: bytes) -> bytes:
    """What the platform's documentation says: SHA-384 of 48 zero bytes and of the SHA-384 of the sections' bytes."""
    return sha384(b"\0" * 48 + sha384(b"".join(data)).digest()).digest()


def with_checksum(data: bytes) -> bytes:
    """The same file with the checksum that belongs to it."""
    return data[:544] + struct.pack(">I", zlib.crc32(data[:544] + data[548:])) + data[548:]


def deb(files: dict[str, bytes | str | None], compression: str = "xz") -> bytes:
    """A Debian package: bytes are files, text is a link's target, None a folder."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=f"w:{compression}") as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.mtime, entry.uid = 1_600_000_000, 1000
            if content is None:
                entry.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
            else:
                entry.size, entry.mode = len(content), 0o755 if content.startswith(b"#!") else 0o640
            archive.addfile(entry, io.BytesIO(content) if isinstance(content, bytes) else None)
    return ar({"debian-binary": b"2.0\n", "control.tar.xz": b"ignored", f"data.tar.{compression}": packed.getvalue()})


def ar(members: dict[str, bytes]) -> bytes:
    """An `ar` archive."""
    whole = b"!<arch>\n"
    for name, data in members.items():
        whole += f"{name:<16}{1600000000:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}".encode() + b"`\n" + data + b"\n" * (len(data) % 2)
    return whole


class Entry(NamedTuple):
    """One entry as it stands in an archive."""

    name: str
    numbers: dict[str, int]
    data: bytes


_FIELDS: Final = (
    *("ino", "mode", "uid", "gid", "nlink", "mtime", "filesize"),
    *("devmajor", "devminor", "rdevmajor", "rdevminor", "namesize", "check"),
)


def entries(data: bytes) -> list[Entry]:
    """All entries, the trailer too."""
    found, at = [], 0
    while data[at : at + 6] == b"070701":
        numbers = {name: int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i, name in enumerate(_FIELDS)}
        name_end = at + 110 + numbers["namesize"]
        name = data[at + 110 : name_end]
        assert name.endswith(b"\0")
        start = (name_end + 3) // 4 * 4
        end = start + numbers["filesize"]
        found.append(Entry(name[:-1].decode(), numbers, data[start:end]))
        at = (end + 3) // 4 * 4
    assert not any(data[at:])
    return found


def make_signer(curve: ec.EllipticCurve) -> tuple[bytes, bytes]:
    """Certificate and key, PEM, of a new key."""
    return certify_signer(ec.generate_private_key(curve))


def certify_signer(key: Any) -> tuple[bytes, bytes]:
    """Certificate and key, PEM, of any key."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "signer")])
    start = datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, start, start + timedelta(days=3650))
    certificate = builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA384())
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(serialization.Encoding.PEM), private
