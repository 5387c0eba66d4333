"""The enclave image file (EIF): written in one way only, and read from anybody without belief.

A header of 548 bytes with a table of sections, then the sections, each with a header of 12 bytes; all numbers big-endian.
Reading is strict where a lenient reader could be shown something else than what is measured: sections must follow one another from the
header to the end of the file, in the order of the table, so that there is no gap, no overlap and no second way to find one.
Not here: what a signature says (`signature`), what is told to people (`describe`).
Source: AWS's format of enclave images, version 4, checked against a second implementation of the loader.
"""

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from ledgerd.ledger.attestation.measurement import Measurement, image_pcrs
from ledgerd.node.image.errors import EifError, ImageError

MAGIC: Final = b".eif"
VERSION: Final = 4
VERSIONS_READ: Final = (2, 3, 4)  # 2 brought the checksum, 3 the signature, 4 the metadata; 1 has nothing to check
SECTIONS_MAX: Final = 32
# An enclave needs four times its image as memory, and the largest machines have 4 TiB; ours has about 20 MB.
IMAGE_BYTES_MAX: Final = 4 << 30
COMMAND_LINE_BYTES_MAX: Final = 2048  # COMMAND_LINE_SIZE of x86
METADATA_BYTES_MAX: Final = 1 << 20  # ours has 600 bytes; Docker's description of an image, in AWS's, a few thousand
SIGNATURE_BYTES_MAX: Final = 32 << 10  # the loader's own limit

_HEADER: Final = struct.Struct(f">4sHHQQHH{SECTIONS_MAX}Q{SECTIONS_MAX}QII")
_SECTION: Final = struct.Struct(">HHQ")
_CHECKSUM_BYTES: Final = 4
_FLAG_AARCH64: Final = 1
assert _HEADER.size == 548 and _SECTION.size == 12


class Kind(IntEnum):
    """What a section holds."""

    KERNEL = 1
    COMMAND_LINE = 2
    RAMDISK = 3
    SIGNATURE = 4
    METADATA = 5


@dataclass(frozen=True, slots=True)
class Section:
    """One section as it stands in a file; `offset` is that of its header."""

    kind: Kind
    offset: int
    data: memoryview


@dataclass(frozen=True, slots=True)
class Eif:
    """An image that was read: its form is right, and nothing in it is believed.

    Attributes:
        version: Of the format.
        aarch64: Made for Arm; otherwise x86-64.
        memory_bytes: What it asks for where the starter names none. Not measured.
        cpus: The same. Not measured.
        sections: All of them, in the file's order.
        metadata: What its maker says of it. Not measured.
        reserved: The two reserved fields of the header, which should be zero.
        checksum: CRC32 of the file; it was compared.
    """

    version: int
    aarch64: bool
    memory_bytes: int
    cpus: int
    sections: tuple[Section, ...]
    metadata: Mapping[str, Any] | None
    reserved: tuple[int, int]
    checksum: int

    def all(self, kind: Kind) -> tuple[memoryview, ...]:
        """Data of all sections of a kind."""
        return tuple(section.data for section in self.sections if section.kind is kind)

    @property
    def command_line(self) -> str:
        """What the kernel is told."""
        return bytes(self.all(Kind.COMMAND_LINE)[0]).decode("ascii")

    @property
    def signature(self) -> bytes | None:
        """The signature section, if there is one; see `signature.read`."""
        found = self.all(Kind.SIGNATURE)
        return bytes(found[0]) if found else None

    def measure(self) -> Measurement:
        """PCR0, 1 and 2, from the bytes that are there."""
        kernel, command_line = self.all(Kind.KERNEL)[0], self.all(Kind.COMMAND_LINE)[0]
        return image_pcrs(kernel, command_line, self.all(Kind.RAMDISK))


def write(
    kernel: bytes,
    command_line: str,
    ramdisks: Sequence[bytes],
    *,
    metadata: Mapping[str, Any] | None,
    signature: bytes | None = None,
    memory_bytes: int = 1 << 30,
    cpus: int = 2,
    aarch64: bool = False,
) -> bytes:
    """Write an image: kernel, command line, metadata, ramdisks, signature, in this order, as AWS's own tool does.

    Args:
        kernel: In the form that the platform boots (bzImage on x86-64).
        command_line: One line of ASCII.
        ramdisks: The platform's first, then ours.
        metadata: JSON; keys are sorted, so equal metadata gives equal bytes.
        signature: Made by `signature.sign`.
        memory_bytes: Asked for where the starter names none.
        cpus: The same.
        aarch64: Made for Arm.
    Raises: ImageError: A part is missing, too large, or not of its form.
    """
    if not kernel or not ramdisks or not all(ramdisks):
        raise ImageError("an image needs a kernel and at least one ramdisk, and none of them may be empty")
    line = _command_line(command_line)
    parts = [(Kind.KERNEL, kernel), (Kind.COMMAND_LINE, line)]
    if metadata is not None:
        text = json.dumps(metadata, sort_keys=True, separators=(",", ":")).encode()
        if len(text) > METADATA_BYTES_MAX:
            raise ImageError(f"metadata of {len(text)} bytes; at most {METADATA_BYTES_MAX}")
        parts.append((Kind.METADATA, text))
    parts += [(Kind.RAMDISK, ramdisk) for ramdisk in ramdisks]
    if signature is not None:
        if len(signature) > SIGNATURE_BYTES_MAX:
            raise ImageError(f"a signature of {len(signature)} bytes; at most {SIGNATURE_BYTES_MAX}: use a smaller certificate")
        parts.append((Kind.SIGNATURE, signature))
    if len(parts) > SECTIONS_MAX:
        raise ImageError(f"{len(parts)} sections; an image has at most {SECTIONS_MAX}")
    offsets, position = [], _HEADER.size
    for _, data in parts:
        offsets.append(position)
        position += _SECTION.size + len(data)
    if position > IMAGE_BYTES_MAX:
        raise ImageError(f"an image of {position} bytes; at most {IMAGE_BYTES_MAX}")
    unused = (0,) * (SECTIONS_MAX - len(parts))
    sizes = [len(data) for _, data in parts]
    numbers = (memory_bytes, cpus, 0, len(parts), *offsets, *unused, *sizes, *unused, 0, 0)
    header = _HEADER.pack(MAGIC, VERSION, _FLAG_AARCH64 if aarch64 else 0, *numbers)[:-_CHECKSUM_BYTES]
    body = b"".join(_SECTION.pack(kind, 0, len(data)) + data for kind, data in parts)
    return header + zlib.crc32(body, zlib.crc32(header)).to_bytes(_CHECKSUM_BYTES, "big") + body


def _command_line(text: str) -> bytes:
    line = text.encode("ascii", "replace")
    if not text.isascii() or not text.isprintable() or len(line) > COMMAND_LINE_BYTES_MAX:
        raise ImageError(
            f"the kernel's command line must be one line of ASCII of at most {COMMAND_LINE_BYTES_MAX} bytes, not {text[:100]!r}"
        )
    return line


def read(data: bytes | memoryview) -> Eif:
    """Read an image from anybody. Work and memory are bounded by the size of `data`, which is not copied.

    Raises: EifError: By the first rule that is broken.
    """
    view = memoryview(data)
    if not _HEADER.size < len(view) <= IMAGE_BYTES_MAX:
        raise EifError(
            "size", f"{len(view)} bytes; a header has {_HEADER.size}, and an image at most {IMAGE_BYTES_MAX}; is the file whole?"
        )
    magic, version, flags, memory_bytes, cpus, reserved, count, *table, unused, checksum = _HEADER.unpack_from(view)
    if magic != MAGIC:
        raise EifError("header", f"it begins with {magic.hex()}, an image with {MAGIC.hex()} ({MAGIC.decode()!r})")
    if version not in VERSIONS_READ:
        raise EifError("header", f"version {version} of the format; known here: {', '.join(map(str, VERSIONS_READ))}")
    if flags & ~_FLAG_AARCH64:
        raise EifError("header", f"flags {flags:#06x}; only bit 0, for Arm, has a meaning")
    if not 0 < count <= SECTIONS_MAX:
        raise EifError("header", f"{count} sections; 1 to {SECTIONS_MAX} have a place in the table")
    sections = _sections(view, count, table[:SECTIONS_MAX], table[SECTIONS_MAX:])
    computed = zlib.crc32(view[_HEADER.size :], zlib.crc32(view[: _HEADER.size - _CHECKSUM_BYTES]))
    if computed != checksum:
        raise EifError("checksum", f"CRC32 is {computed:08x}, the header says {checksum:08x}; the file was damaged, get it again")
    _check_kinds(sections, version)
    metadata = next((section.data for section in sections if section.kind is Kind.METADATA), None)
    return Eif(
        version,
        bool(flags & _FLAG_AARCH64),
        memory_bytes,
        cpus,
        sections,
        None if metadata is None else _read_metadata(metadata),
        (reserved, unused),
        checksum,
    )


def _sections(view: memoryview, count: int, offsets: list[int], sizes: list[int]) -> tuple[Section, ...]:
    if any(offsets[count:]) or any(sizes[count:]):
        raise EifError("layout", f"the table says more than the {count} sections that there are")
    found: list[Section] = []
    position = _HEADER.size
    for number, (offset, size) in enumerate(zip(offsets[:count], sizes[:count], strict=True)):
        if offset != position:
            raise EifError("layout", f"section {number} is at {offset}, but the one before it ends at {position}: a gap, or an overlap")
        start = offset + _SECTION.size
        if size > len(view) - start:
            raise EifError(
                "layout", f"section {number} has {size} bytes at {offset}, beyond the file's end at {len(view)}; is the file whole?"
            )
        kind, flags, own_size = _SECTION.unpack_from(view, offset)
        if own_size != size:
            raise EifError("section", f"section {number} says of itself that it has {own_size} bytes, the table says {size}")
        if kind not in set(Kind):
            raise EifError("section", f"section {number} is of type {kind}; known are 1 to {len(Kind)}")
        if flags:
            raise EifError("section", f"section {number} has flags {flags:#06x}; none has a meaning")
        position = start + size
        found.append(Section(Kind(kind), offset, view[start:position]))
    if position != len(view):
        raise EifError("layout", f"{len(view) - position} bytes follow the last section, measured by nobody")
    return tuple(found)


def _check_kinds(sections: tuple[Section, ...], version: int) -> None:
    kinds = [section.kind for section in sections]
    for kind, least, most, since in (
        (Kind.KERNEL, 1, 1, 1),
        (Kind.COMMAND_LINE, 1, 1, 1),
        (Kind.RAMDISK, 1, SECTIONS_MAX, 1),
        (Kind.SIGNATURE, 0, 1, 3),
        (Kind.METADATA, 0, 1, 4),
    ):
        if not least <= (number := kinds.count(kind)) <= most:
            raise EifError("sections", f"{number} sections of type {kind.name.lower()}; there must be {least} to {most}")
        if number and version < since:
            raise EifError("sections", f"a section of type {kind.name.lower()} in version {version}; there is none before {since}")
    # Measurements are taken over kernel, command line, ramdisks; a file in another order would be measured in another way by some.
    measured = [kind for kind in kinds if kind in (Kind.KERNEL, Kind.COMMAND_LINE, Kind.RAMDISK)]
    if measured != sorted(measured):
        raise EifError("sections", "kernel, command line and ramdisks stand in another order, so it is not sure what is measured")
    for section in sections:
        limit = {Kind.COMMAND_LINE: COMMAND_LINE_BYTES_MAX, Kind.METADATA: METADATA_BYTES_MAX, Kind.SIGNATURE: SIGNATURE_BYTES_MAX}
        if len(section.data) > (most := limit.get(section.kind, IMAGE_BYTES_MAX)):
            raise EifError("sections", f"{section.kind.name.lower()} of {len(section.data)} bytes; at most {most}")
        if section.kind is Kind.COMMAND_LINE:
            line = bytes(section.data)
            if not (line.isascii() and line.decode("ascii").isprintable()):
                raise EifError("command_line", f"the kernel's command line is not one line of ASCII: {line[:100]!r}")


def _read_metadata(data: memoryview) -> Mapping[str, Any]:
    try:
        value = json.loads(bytes(data).decode("utf-8"), parse_constant=_refuse_constant)
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # half of a surrogate pair could not be shown
    except (ValueError, RecursionError):
        raise EifError("metadata", "it is not JSON, in UTF-8 and of sane depth") from None
    if not isinstance(value, dict):
        raise EifError("metadata", "it is JSON, but not an object")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)
