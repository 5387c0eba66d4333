"""Packages and wheels: opened in Python, and fetched by programs that are played here."""

import io
import os
import zipfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

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
