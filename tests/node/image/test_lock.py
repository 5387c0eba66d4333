"""Locks and the store: what is used is what was locked, wherever it came from."""

from hashlib import sha256
from pathlib import Path

import pytest

from ledgerd.ledger.errors import ConfigurationError, IntegrityError
from ledgerd.node.image import lock
from ledgerd.node.image.lock import Locked, Store, parse_packages, parse_wheels
from support.repository import ROOT

HASH = "0a" * 32


def locked(data: bytes, name: str = "thing") -> Locked:
    return Locked(name, "1", "amd64", sha256(data).hexdigest())


def test_the_locks_of_the_project_are_read() -> None:
    packages = parse_packages(lock.PACKAGES.read_text())
    assert {"libc6", "python3.11-minimal", "libpython3.11-stdlib", "libssl3"} <= {item.name for item in packages}
    wheels = parse_wheels(lock.WHEELS.read_text())
    assert {"cryptography", "cbor2", "pynacl"} <= {item.name for item in wheels}


def test_wheels_are_of_the_versions_and_hashes_that_nodes_run_with() -> None:
    runtime = (ROOT / "requirements" / "runtime.txt").read_text().replace("\\\n", " ")
    for item in parse_wheels(lock.WHEELS.read_text()):
        line = next((line for line in runtime.splitlines() if line.startswith(f"{item.name}=={item.version} ")), "")
        assert item.sha256 in line, f"{item}: run scripts/lock"


def test_the_locks_name_no_place() -> None:
    for path in (lock.PACKAGES, lock.WHEELS):
        assert "://" not in path.read_text()


@pytest.mark.parametrize(
    "line",
    [
        f"libc6 1 amd64 {HASH[:-1]}",
        f"libc6 1 amd64 {HASH.upper()}",
        f"libc6 1 arm64 {HASH}",
        f"libc6 amd64 {HASH}",
        f"-o=x 1 amd64 {HASH}",
        f"libc6 1;rm amd64 {HASH}",
        f"libc6 1 amd64 {HASH} more",
        "",
        "# nothing",
        f"libc6 1 amd64 {HASH}\nlibc6 2 amd64 {HASH}",
    ],
)
def test_other_lines_of_packages_are_refused(line: str) -> None:
    with pytest.raises(ConfigurationError, match=r"packages\.lock"):
        parse_packages(line)


@pytest.mark.parametrize(
    "line",
    [
        "cbor2==6",
        f"cbor2>=6 --hash=sha256:{HASH}",
        f"cbor2==6 --hash=sha256:{HASH} --hash=sha256:{HASH}",
        f"cbor2==6 --hash=md5:{HASH}",
        f"--index-url=x==1 --hash=sha256:{HASH}",
        f"cbor2==6 --hash=sha256:{HASH}\ncbor2==6 --hash=sha256:{HASH}",
    ],
)
def test_other_lines_of_wheels_are_refused(line: str) -> None:
    with pytest.raises(ConfigurationError, match=r"wheels\.lock"):
        parse_wheels(line)


def test_a_file_is_found_by_what_it_is_and_not_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "anything.deb").write_bytes(b"content")
    (tmp_path / "thing_1_amd64.deb").write_bytes(b"something else")
    (tmp_path / "content.txt").write_bytes(b"text")
    store = Store(tmp_path)
    assert store.missing([locked(b"content"), locked(b"text"), locked(b"absent")]) == [locked(b"text"), locked(b"absent")]
    assert store.read(locked(b"content")) == b"content"


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert Store(tmp_path / "none").missing([locked(b"x")]) == [locked(b"x")]


def test_what_was_fetched_is_kept(tmp_path: Path) -> None:
    fetched = tmp_path / "fetched"
    fetched.mkdir()
    (fetched / "a.deb").write_bytes(b"a")
    store = Store(tmp_path / "store" / "deep")
    store.keep(fetched, [locked(b"a")])
    assert store.missing([locked(b"a")]) == []
    assert Store(tmp_path / "store" / "deep").missing([locked(b"a")]) == []


def test_a_file_of_a_name_that_is_taken_does_not_take_its_place(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    for content in (b"first", b"second"):
        fetched = tmp_path / content.decode()
        fetched.mkdir()
        (fetched / "a.deb").write_bytes(content)
        store.keep(fetched, [locked(content)])
    assert [store.read(locked(content)) for content in (b"first", b"second")] == [b"first", b"second"]
    assert Store(tmp_path / "store").missing([locked(b"first"), locked(b"second")]) == []


def test_a_file_of_another_hash_is_not_kept(tmp_path: Path) -> None:
    fetched = tmp_path / "fetched"
    fetched.mkdir()
    (fetched / "a.deb").write_bytes(b"changed on the way")
    store = Store(tmp_path / "store")
    with pytest.raises(IntegrityError, match=r"thing 1 was fetched.*do not build"):
        store.keep(fetched, [locked(b"a")])
    assert list((tmp_path / "store").iterdir()) == []


def test_a_file_that_changes_while_it_is_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.deb").write_bytes(b"a")
    store = Store(tmp_path)
    assert store.missing([locked(b"a")]) == []
    (tmp_path / "a.deb").write_bytes(b"b")
    with pytest.raises(IntegrityError, match="changed while"):
        store.read(locked(b"a"))
