"""The archive, read by another hand and, where it is installed, by cpio itself; and the tree that it is made of."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ledgerd.node.image.cpio import archive
from ledgerd.node.image.errors import ImageError
from ledgerd.node.image.tree import File, Folder, Link, Tree
from support.images import entries


def sample(order: list[str]) -> Tree:
    things: dict[str, Any] = {"b/run": File(b"#!x", True), "b/data": File(b"12345"), "a": Link("b/data"), "b": Folder(), "b.c": File(b"")}
    tree = Tree()
    for name in order:
        tree.add(name, things[name])
    return tree


def test_an_archive_is_sorted_and_says_nothing_of_who_made_it() -> None:
    made = archive(sample(["b/run", "b/data", "a", "b.c"]))
    assert made == archive(sample(["a", "b.c", "b", "b/data", "b/run"]))
    assert len(made) % 512 == 0
    found = entries(made)
    assert [entry.name for entry in found] == ["a", "b", "b.c", "b/data", "b/run", "TRAILER!!!"]
    assert [entry.numbers["mode"] for entry in found[:-1]] == [0o120777, 0o040755, 0o100644, 0o100644, 0o100755]
    assert [entry.data for entry in found[:-1]] == [b"b/data", b"", b"", b"12345", b"#!x"]
    assert [entry.numbers["ino"] for entry in found[:-1]] == [1, 2, 3, 4, 5]
    for entry in found:
        assert not any(entry.numbers[name] for name in ("uid", "gid", "mtime", "devmajor", "devminor", "rdevmajor", "rdevminor", "check"))


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed")
def test_cpio_unpacks_it(tmp_path: Path) -> None:
    made = archive(sample(["b/run", "b/data", "a", "b.c"]))
    subprocess.run(["cpio", "-idm", "--quiet"], input=made, cwd=tmp_path, check=True)
    assert (tmp_path / "a").read_bytes() == b"12345"
    assert (tmp_path / "b" / "run").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("path", ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "./a", "a\0b", "x" * 5000])
def test_paths_that_are_not_clean_are_refused(path: str) -> None:
    with pytest.raises(ImageError, match="cannot be a path"):
        Tree().add(path, File(b""))


def test_one_path_is_one_thing() -> None:
    tree = sample(["b/data"])
    tree.add("b/data", File(b"12345"))  # the same again
    with pytest.raises(ImageError, match="two different things"):
        tree.add("b/data", File(b"other"))
    with pytest.raises(ImageError, match="not a folder"):
        tree.add("b/data/below", File(b""))
    with pytest.raises(ImageError, match="two different things"):
        tree.add("b", File(b""))


def test_the_name_of_the_end_is_no_files_name() -> None:
    tree = Tree()
    tree.add("TRAILER!!!", File(b""))
    with pytest.raises(ImageError, match="ends the archive"):
        archive(tree)


def test_a_tree_is_written_to_disk(tmp_path: Path) -> None:
    sample(["b/run", "b/data", "a", "b.c"]).write(tmp_path)
    assert (tmp_path / "a").readlink() == Path("b/data")
    assert (tmp_path / "b" / "run").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "b.c").stat().st_mode & 0o777 == 0o644
