"""The image format: written as another reader sees it, and read from hostile hands with one refusal for each rule."""

import json
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledgerd.ledger.errors import FormatError
from ledgerd.node.image import eif
from ledgerd.node.image.eif import Kind
from ledgerd.node.image.errors import RULES, EifError, ImageError
from support.images import Header, pcr, with_checksum

KERNEL, LINE, PLATFORM, OURS = b"kernel", "console=ttyS0", b"platform", b"our own ramdisk"


def image(**changes: Any) -> bytes:
    options: dict[str, Any] = {"metadata": {"ImageName": "x"}, "signature": b"signature", "memory_bytes": 5 << 20, "cpus": 3, **changes}
    return eif.write(KERNEL, LINE, [PLATFORM, OURS], **options)


WHOLE = image()


def put(data: bytes, at: int, form: str, value: int) -> bytes:
    """The file with a number changed, and a checksum that belongs to it."""
    changed = bytearray(data)
    struct.pack_into(form, changed, at, value)
    return with_checksum(bytes(changed))


def rule_of(data: bytes) -> str:
    with pytest.raises(EifError) as caught:
        eif.read(data)
    assert caught.value.rule in RULES
    assert isinstance(caught.value, FormatError)
    return caught.value.rule


def test_another_reader_finds_what_was_written() -> None:
    header = Header(WHOLE)
    assert WHOLE[:4] == b".eif"
    assert [header.number(at, size) for at, size in ((4, 2), (6, 2), (8, 8), (16, 8), (24, 2), (26, 2))] == [4, 0, 5 << 20, 3, 0, 6]
    assert header.sections == [
        (1, KERNEL),
        (2, LINE.encode()),
        (5, b'{"ImageName":"x"}'),
        (3, PLATFORM),
        (3, OURS),
        (4, b"signature"),
    ]
    assert header.number(544, 4) == zlib.crc32(WHOLE[:544] + WHOLE[548:])
    assert len(WHOLE) == 548 + sum(12 + len(data) for _, data in header.sections)


def test_what_was_written_is_read() -> None:
    found = eif.read(WHOLE)
    assert (found.version, found.aarch64, found.memory_bytes, found.cpus, found.reserved) == (4, False, 5 << 20, 3, (0, 0))
    assert found.command_line == LINE
    assert found.metadata == {"ImageName": "x"}
    assert found.signature == b"signature"
    assert [bytes(data) for data in found.all(Kind.RAMDISK)] == [PLATFORM, OURS]
    assert eif.read(image(aarch64=True)).aarch64
    assert eif.read(image(signature=None, metadata=None)).signature is None


def test_pcrs_are_those_of_the_sections_data_alone() -> None:
    """nitro: PCR0 = all of kernel, command line, ramdisks; PCR1 = without our ramdisks; PCR2 = our ramdisks."""
    line = LINE.encode()
    expected = (pcr(KERNEL, line, PLATFORM, OURS), pcr(KERNEL, line, PLATFORM), pcr(OURS))
    assert eif.read(WHOLE).measure()[:3] == expected
    others = image(metadata={"ImageName": "another"}, signature=None, memory_bytes=1, cpus=1)
    assert eif.read(others).measure()[:3] == expected


@pytest.mark.parametrize("length", [0, 3, 4, 547, 548, 549, 559, 560, len(WHOLE) - 1])
def test_a_file_cut_short_is_refused(length: int) -> None:
    assert rule_of(WHOLE[:length]) in ("size", "layout")


def test_every_cut_is_refused_with_a_right_checksum_too() -> None:
    for length in range(548, len(WHOLE)):
        assert rule_of(with_checksum(WHOLE[:length])) in ("size", "layout", "section")


def test_bytes_after_the_last_section_are_refused() -> None:
    assert rule_of(with_checksum(WHOLE + b"\0")) == "layout"


def test_every_changed_bit_is_refused_by_the_checksum_or_before() -> None:
    for at in range(0, len(WHOLE), 1):
        changed = bytearray(WHOLE)
        changed[at] ^= 1 << (at % 8)
        rule_of(bytes(changed))


HEADER = [
    (0, ">B", 0, "header"),  # magic
    (4, ">H", 0, "header"),  # version
    (4, ">H", 1, "header"),
    (4, ">H", 5, "header"),
    (4, ">H", 3, "sections"),  # no metadata before version 4
    (4, ">H", 2, "sections"),  # no signature before version 3
    (6, ">H", 2, "header"),  # flags
    (6, ">H", 0x8000, "header"),
    (26, ">H", 0, "header"),  # number of sections
    (26, ">H", 33, "header"),
    (26, ">H", 65535, "header"),
    (26, ">H", 5, "layout"),
    (26, ">H", 7, "layout"),
    (28, ">Q", 0, "layout"),  # offset of the first
    (28, ">Q", 547, "layout"),
    (28, ">Q", 549, "layout"),
    (28, ">Q", (1 << 64) - 1, "layout"),
    (36, ">Q", 548, "layout"),  # of the second: over the first
    (36, ">Q", 1 << 63, "layout"),
    (28 + 8 * 6, ">Q", 1, "layout"),  # of one that is not there
    (284, ">Q", 0, "section"),  # size of the first
    (284, ">Q", len(KERNEL) + 1, "section"),
    (284, ">Q", 1 << 40, "layout"),
    (284, ">Q", (1 << 64) - 1, "layout"),
    (284, ">Q", (1 << 64) - 12, "layout"),
    (284 + 8 * 6, ">Q", 1, "layout"),
]


@pytest.mark.parametrize(("at", "form", "value", "rule"), HEADER)
def test_every_field_of_the_header_is_checked(at: int, form: str, value: int, rule: str) -> None:
    assert rule_of(put(WHOLE, at, form, value)) == rule


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize(
    ("at", "form", "value", "rule"),
    [
        (0, ">H", 0, "section"),  # type
        (0, ">H", 6, "section"),
        (0, ">H", 65535, "section"),
        (2, ">H", 1, "section"),  # flags
        (2, ">H", 0x8000, "section"),
        (4, ">Q", 0, "section"),  # size
        (4, ">Q", 1000, "section"),
        (4, ">Q", (1 << 64) - 1, "section"),
    ],
)
def test_every_field_of_a_sections_header_is_checked(number: int, at: int, form: str, value: int, rule: str) -> None:
    offset = Header(WHOLE).number(28 + 8 * number, 8)
    assert rule_of(put(WHOLE, offset + at, form, value)) == rule


def kinds(*sections: tuple[int, bytes]) -> bytes:
    """A file with these sections."""
    offsets, position = [], 548
    for _, data in sections:
        offsets.append(position)
        position += 12 + len(data)
    rest = [0] * (32 - len(sections))
    table = struct.pack(">64Q", *offsets, *rest, *[len(data) for _, data in sections], *rest)
    head = struct.pack(">4sHHQQHH", b".eif", 4, 0, 0, 0, 0, len(sections)) + table + bytes(8)
    return with_checksum(head + b"".join(struct.pack(">HHQ", kind, 0, len(data)) + data for kind, data in sections))


K, C, R, S, M = (1, b"k"), (2, b"c"), (3, b"r"), (4, b"s"), (5, b"{}")


@pytest.mark.parametrize(
    "sections",
    [
        [C, R],
        [K, R],
        [K, C],
        [K, K, C, R],
        [K, C, C, R],
        [K, C, M, M, R],
        [K, C, R, S, S],
        [C, K, R],
        [R, K, C],
        [K, R, C],
        [(1, b"k"), (2, b"c" * 2049), R],
        [K, C, R, (4, bytes((32 << 10) + 1))],
        [K, C, R, (5, b" " * (1 << 20) + b"{}")],
    ],
)
def test_other_sets_and_orders_of_sections_are_refused(sections: list[tuple[int, bytes]]) -> None:
    assert rule_of(kinds(*sections)) == "sections"


def test_the_fewest_sections_are_an_image_and_empty_ones_too() -> None:
    assert eif.read(kinds(K, C, R)).metadata is None
    assert eif.read(kinds((1, b""), (2, b""), (3, b""))).measure().pcr0 == pcr(b"")


@pytest.mark.parametrize("line", [b"a\0b", b"a\nb", "é".encode(), b"\x1b[2J"])
def test_a_command_line_that_is_no_line_is_refused(line: bytes) -> None:
    assert rule_of(kinds(K, (2, line), R)) == "command_line"


@pytest.mark.parametrize("text", [b"", b"[]", b"1", b"{", b"\xff", b'{"a":NaN}', b'{"a":"\\ud800"}', b"[" * 100_000, b'{"a":' * 100_000])
def test_metadata_that_is_no_object_is_refused(text: bytes) -> None:
    assert rule_of(kinds(K, C, (5, text), R)) == "metadata"


@pytest.mark.parametrize(
    ("kernel", "line", "ramdisks", "more"),
    [
        (b"", LINE, [PLATFORM], {}),
        (KERNEL, LINE, [], {}),
        (KERNEL, LINE, [PLATFORM, b""], {}),
        (KERNEL, "two\nlines", [PLATFORM], {}),
        (KERNEL, "é", [PLATFORM], {}),
        (KERNEL, "x" * 2049, [PLATFORM], {}),
        (KERNEL, LINE, [PLATFORM] * 31, {}),
        (KERNEL, LINE, [PLATFORM], {"metadata": {"x": "y" * (1 << 20)}}),
        (KERNEL, LINE, [PLATFORM], {"signature": bytes((32 << 10) + 1)}),
    ],
)
def test_what_would_not_be_read_is_not_written(kernel: bytes, line: str, ramdisks: list[bytes], more: dict[str, Any]) -> None:
    with pytest.raises(ImageError):
        eif.write(kernel, line, ramdisks, **{"metadata": {}, **more})


@given(st.binary(max_size=2000))
def test_any_bytes_are_refused_in_one_way(data: bytes) -> None:
    rule_of(data)


@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.binary(min_size=1, max_size=9)), min_size=1, max_size=4))
def test_damage_with_a_right_checksum_is_refused_or_read_and_never_anything_else(damage: list[tuple[int, bytes]]) -> None:
    changed = bytearray(WHOLE)
    for at, data in damage:
        changed[at : at + len(data)] = data
    try:
        found = eif.read(with_checksum(bytes(changed[: len(WHOLE)])))
    except EifError:
        return
    header = Header(bytes(changed))
    assert [(section.kind, bytes(section.data)) for section in found.sections] == header.sections
    json.dumps(found.metadata, ensure_ascii=False).encode()


@given(st.lists(st.tuples(st.integers(0, 7), st.binary(max_size=30)), max_size=8))
def test_any_sections_are_refused_or_read(sections: list[tuple[int, bytes]]) -> None:
    try:
        found = eif.read(kinds(*sections))
    except EifError:
        return
    assert [(section.kind, bytes(section.data)) for section in found.sections] == sections
    assert len(found.all(Kind.KERNEL)) == 1
