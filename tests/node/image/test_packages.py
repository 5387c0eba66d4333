"""Packages and wheels: opened in Python, and fetched by programs that are played here."""

import contextlib
import gzip
import io
import os
import tarfile
import zipfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledgerd.ledger.errors import IntegrityError
from ledgerd.node.image import packages, wheels
from ledgerd.node.image.errors import ImageError
from ledgerd.node.image.lock import Locked, Store
from ledgerd.node.image.tree import File, Folder, Link, Tree
from support.images import ar, deb

PACKAGE = deb(
    {
        "./": None,
        "./lib": None,
        "./lib/x86_64-linux-gnu": None,
        "./lib/x86_64-linux-gnu/libz.so.1.2": b"library",
        "./lib/x86_64-linux-gnu/libz.so.1": "libz.so.1.2",
        "./usr/bin/run": b"#!/bin/sh",
        "./etc/": None,
    }
)


def test_a_package_is_opened_and_its_folders_are_merged() -> None:
    assert dict(packages.unpack(PACKAGE, "p").items()) == {
        "etc": Folder(),
        "usr": Folder(),
        "usr/bin": Folder(),
        "usr/bin/run": File(b"#!/bin/sh", True),
        "usr/lib": Folder(),
        "usr/lib/x86_64-linux-gnu": Folder(),
        "usr/lib/x86_64-linux-gnu/libz.so.1": Link("libz.so.1.2"),
        "usr/lib/x86_64-linux-gnu/libz.so.1.2": File(b"library"),
    }


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"!<arch>\n",
        b"!<arch>\nshort",
        PACKAGE[:-10],
        PACKAGE[:100],
        b"?" + PACKAGE[1:],
        ar({"debian-binary": b"2.0\n"}),
        ar({"data.tar.xz": b"not xz"}),
        ar({"data.tar.zst": bytes.fromhex("28b52ffd00")}),
        ar({"data.tar": b"x" * 512}),
        deb({"./../outside": b"x"}),
        deb({"/absolute": b"x"}),
        deb({"./a": b"1", "./a/b": b"2"}),
    ],
)
def test_what_is_no_package_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError):
        packages.unpack(data, "p")


def tar(*members: tuple[str, bytes, str, int]) -> bytes:
    """A package of (name, kind, name that is linked to, size); what a file has is zeros."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, kind, target, size in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, target, size
            archive.addfile(member, io.BytesIO(bytes(size)) if size else None)
    return ar({"data.tar": made.getvalue()})


FILE, SYMLINK, HARD, FOLDER, DEVICE = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(tar(("a", HARD, "nowhere", 0)), id="a second name of nothing"),
        pytest.param(tar(("a", HARD, "a", 0)), id="a second name of itself"),
        pytest.param(tar(("b", FOLDER, "", 0), ("a", HARD, "b", 0)), id="a second name of a folder"),
        pytest.param(tar(("b", SYMLINK, "c", 0), ("c", SYMLINK, "b", 0), ("a", HARD, "b", 0)), id="links in a circle"),
        pytest.param(tar(("a", SYMLINK, "", 0)), id="a link to nothing"),
        pytest.param(tar(("a", SYMLINK, "x" * 5_000, 0)), id="a link to a name without end"),
        pytest.param(tar(("a", SYMLINK, "x\udcff", 0)), id="a link to a name that is no text"),
        pytest.param(tar(("a\udcff", FILE, "", 0)), id="a name that is no text"),
        pytest.param(tar(("a", SYMLINK, "/etc", 0), ("a/passwd", FILE, "", 1)), id="a file below a link that leads out"),
        pytest.param(tar(("a", FILE, "", 1), ("a", SYMLINK, "/etc", 0)), id="a link in the place of a file"),
        pytest.param(tar(("a", DEVICE, "", 0)), id="a device"),
        pytest.param(ar({"data.tar.gz": gzip.compress(bytes(10_240))[:-20]}), id="compressed and cut"),
        pytest.param(ar({"data.tar.gz": bytes.fromhex("1f8b08000000000000ff") + b"\x07" * 50}), id="compressed and damaged"),
        pytest.param(ar({"data.tar.bz2": b"BZh9" + b"\x01" * 50}), id="compressed in another way, and damaged"),
    ],
)
def test_a_package_made_to_harm_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError):
        packages.unpack(data, "p")


def test_a_package_or_wheel_without_end_is_refused_before_it_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (packages, wheels):
        monkeypatch.setattr(module, "UNPACKED_BYTES_MAX", 3_000)
    assert len(packages.unpack(tar(("a", FILE, "", 3_000)), "p")) == 1
    for data in (
        tar(("a", FILE, "", 3_001)),
        tar(("a", FILE, "", 2_000), ("b", FILE, "", 2_000)),
        tar(("a", FILE, "", 2_000), ("b", HARD, "a", 0)),
    ):
        with pytest.raises(ImageError, match="holds more than"):
            packages.unpack(data, "p")
    wheels.unpack(wheel({"a.py": bytes(3_000)}), "w")
    with pytest.raises(ImageError, match="holds more than"):
        wheels.unpack(wheel({"a.py": bytes(2_000), "b.py": bytes(2_000)}), "w")


def damaged() -> list[bytes]:
    """Wheels that are encrypted, name a file in no text, are packed in an unknown way, and are damaged within."""
    right = wheel({"a.py": b"data" * 100})
    central = right.rindex(b"PK\x01\x02")
    encrypted = bytearray(right)
    encrypted[6] |= 1
    encrypted[central + 8] |= 1
    no_text = bytearray(wheel({"abc.py": b""}).replace(b"abc.py", b"\xff\xfe\xfd.py"))
    for at in (no_text.index(b"PK\x03\x04") + 7, no_text.index(b"PK\x01\x02") + 9):
        no_text[at] |= 8  # says that it is UTF-8
    unknown = bytearray(right)
    unknown[8] = unknown[central + 10] = 99
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.py", b"data" * 100)
    within = bytearray(packed.getvalue())
    within[36] ^= 0xFF
    return [bytes(encrypted), bytes(no_text), bytes(unknown), bytes(within)]


@pytest.mark.parametrize("number", range(4))
def test_a_damaged_wheel_is_refused(number: int) -> None:
    with pytest.raises(ImageError):
        wheels.unpack(damaged()[number], "w")


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_whatever_is_changed_in_a_package_or_wheel_is_read_or_refused(data: st.DataObject) -> None:
    for made, unpack in ((PACKAGE, packages.unpack), (wheel({"a/b.py": b"x", "c.so": b"y" * 50}), wheels.unpack)):
        changed = bytearray(made)
        at = data.draw(st.integers(0, len(changed)))
        changed[at : at + data.draw(st.integers(0, 30))] = data.draw(st.binary(max_size=30))
        with contextlib.suppress(ImageError):
            unpack(bytes(changed), "x")


def wheel(files: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return made.getvalue()


def names(tree: Tree) -> list[str]:
    return [path for path, _ in tree.files()]


def test_of_a_wheel_only_modules_and_extensions_are_taken() -> None:
    everything = {"a/__init__.py": b"", "a/b.so": b"x", "a/py.typed": b"", "a/b.pyi": b"", "a-1.dist-info/RECORD": b"", "a/c.h": b""}
    assert names(wheels.unpack(wheel(everything | {"a-1.data/scripts/a.py": b""}), "a")) == ["a/__init__.py", "a/b.so"]


@pytest.mark.parametrize(
    "data", [b"", b"PK", wheel({"a-1.data/purelib/a.py": b""}), wheel({"../a.py": b""}), wheel({"a.py": b"", "a.py/b.py": b""})]
)
def test_what_is_no_wheel_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError):
        wheels.unpack(data, "a")


LOCKED = Locked("thing", "1:2", "amd64", sha256(PACKAGE).hexdigest())


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program `apt-get` in front of the real one: tells its arguments, gives what lies in `given`, fails as `fails` says."""
    folder = tmp_path / "programs"
    folder.mkdir()
    program = folder / "apt-get"
    program.write_text(
        f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\n'
        f"if [ -e {tmp_path}/fails ]; then cat {tmp_path}/fails >&2; exit 100; fi\ncp {tmp_path}/given thing_1%3a2_amd64.deb\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def fetch(store: Store) -> list[str]:
    said: list[str] = []
    packages.fetch([LOCKED], store, said.append)
    return said


def test_a_package_is_fetched_once_by_name_and_version(apt: Path) -> None:
    (apt / "given").write_bytes(PACKAGE)
    assert fetch(Store(apt / "store")) == ["fetching 1 Debian packages with apt"]
    assert (apt / "arguments").read_text().split() == ["-q", "download", "thing:amd64=1:2"]
    store = Store(apt / "store")
    assert fetch(store) == []
    assert store.read(LOCKED) == PACKAGE


def test_a_package_of_another_hash_is_refused(apt: Path) -> None:
    (apt / "given").write_bytes(PACKAGE + b"\n")
    with pytest.raises(IntegrityError, match="thing 1:2 was fetched, but no file has its SHA-256"):
        fetch(Store(apt / "store"))


def test_what_apt_says_when_it_fails_is_told_with_what_to_do(apt: Path) -> None:
    (apt / "fails").write_text("W: nothing\nE: Version '1:2' for 'thing' was not found\n")
    with pytest.raises(ImageError, match=r"(?s)apt-get update.*cache folder.*lock again.*E: Version '1:2' for 'thing' was not found$"):
        fetch(Store(apt / "store"))


def test_without_apt_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImageError, match=r"needs apt-get, which is not here; .*cache folder"):
        fetch(Store(tmp_path / "store"))


def test_wheels_are_asked_of_pip_for_the_images_python_and_by_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    data = wheel({"a.py": b""})

    def run(command: list[Any], **_: Any) -> bytes:
        asked.extend(map(str, command))
        folder = Path(command[command.index("-d") + 1])
        asked.append((folder / "requirements.txt").read_text())
        (folder / "a-1-py3-none-any.whl").write_bytes(data)
        return b""

    monkeypatch.setattr(wheels, "run", run)
    item = Locked("a", "1", "", sha256(data).hexdigest())
    store = Store(tmp_path / "store")
    wheels.fetch([item], store, lambda _: None)
    assert {"--require-hashes", "--no-deps", "--only-binary", "cp311"} <= set(asked)
    assert asked[-1] == f"a==1 --hash=sha256:{item.sha256}\n"
    assert store.read(item) == data
    asked.clear()
    wheels.fetch([item], store, lambda _: None)
    assert not asked
