"""What a builder is warned of before somebody tries to start an image that nothing can start."""

import gzip

import pytest

from ledgerd.node.image.inputs import warnings

KERNEL = bytes(0x1FE) + b"\x55\xaa\xeb\x66HdrS" + bytes(2 << 20)
RAMDISK = b"070701" + bytes(1_000)


def test_what_the_platform_boots_is_not_warned_of() -> None:
    for ramdisk in (
        RAMDISK,
        gzip.compress(bytes(range(256)) * 100, compresslevel=0),
        b"\xfd7zXZ\x00" + bytes(1_000),
        b"\x28\xb5\x2f\xfd" + bytes(1_000),
    ):
        assert warnings(KERNEL, ramdisk) == warnings(memoryview(KERNEL), memoryview(ramdisk)) == []


@pytest.mark.parametrize(
    ("kernel", "ramdisk", "words"),
    [
        (b"", RAMDISK, ["no bzImage"]),
        (b"garbage", RAMDISK, ["7 bytes that begin with 67617262616765"]),
        (b"\x7fELF" + bytes(1 << 21), RAMDISK, ["vmlinux"]),
        (KERNEL[:0x300], RAMDISK, ["cut short"]),
        (KERNEL, b"", ["0 bytes that begin with nothing"]),
        (KERNEL, b"garbage", ["neither cpio nor packed"]),
        (KERNEL, RAMDISK[:100], ["too few for an init"]),
        (b"garbage", b"garbage", ["no bzImage", "neither cpio"]),
        (RAMDISK, KERNEL, ["exchanged"]),
    ],
)
def test_what_cannot_start_is_warned_of(kernel: bytes, ramdisk: bytes, words: list[str]) -> None:
    found = warnings(kernel, ramdisk)
    assert len(found) == len(words)
    assert all(word in text for word, text in zip(words, found, strict=True))
