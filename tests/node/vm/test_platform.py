import ast
from pathlib import Path

import pytest

from ledgerd.ledger.errors import ConfigurationError
from ledgerd.node.image import eif, rootfs
from ledgerd.node.image.build import ImageSpec
from ledgerd.node.image.errors import ImageError
from ledgerd.node.image.python import HostTools
from ledgerd.node.image.tree import File, Tree
from ledgerd.node.vm import guest, images, platform
from support.images import entries, packages


def kernel(*, without: str = "", images_count: int = 1) -> Tree:
    """A kernel's package, whose files are nothing that runs."""
    tree = Tree()
    for number in range(images_count):
        tree.add(f"boot/vmlinuz-6.1.0-{number}-cloud-amd64", File(b"kernel"))
    for name in (*guest.MODULES, "e1000"):
        if name != without:
            tree.add(f"usr/lib/modules/6.1.0-0-cloud-amd64/kernel/some/{name}.ko", File(name.encode()))
    return tree


def everything() -> Tree:
    tree = rootfs.platform_tree(packages())
    for name in ("ctypes/_endian", "encodings/__init__", "struct"):
        tree.add(f"{rootfs.STANDARD_LIBRARY}/{name}.py", File(b"pass\n"))
    return tree


def test_ramdisk_0_has_what_init_needs_and_nothing_else() -> None:
    made = platform.assemble(kernel(), everything(), b"#!init", HostTools())
    found = {entry.name: entry for entry in entries(made.ramdisk)}
    assert (made.kernel, made.command_line) == (b"kernel", platform.COMMAND_LINE)
    assert found["init"].data == b"#!init" and found["init"].numbers["mode"] == 0o100755
    assert {name for name in found if name.endswith(".ko")} == {f"modules/{name}.ko" for name in guest.MODULES}
    assert "usr/lib/python3.11/ctypes/__init__.pyc" in found and "usr/lib/python3.11/os.pyc" in found
    assert {name.rpartition("/")[2].partition(".")[0] for name in found if "lib-dynload/" in name} == {"_ctypes"}
    libraries = {name.rpartition("/")[2] for name in found if name.startswith("usr/lib/x86_64-linux-gnu/")}
    assert libraries == set(platform.LIBRARIES_KEPT)
    assert not [name for name in found if name.endswith((".py", ".ko.xz")) or name.startswith(("rootfs", "cmd", "env"))]


def test_the_same_parts_make_the_same_bytes() -> None:
    first, second = (platform.assemble(kernel(), everything(), platform.init(), HostTools()) for _ in range(2))
    assert first == second


def test_a_kernel_without_a_module_or_of_several_is_refused() -> None:
    with pytest.raises(ImageError, match=r"has no module cuse; kernel\.lock must name a kernel for clouds"):
        platform.assemble(kernel(without="cuse"), everything(), b"", HostTools())
    with pytest.raises(ImageError, match="holds 2 kernels"):
        platform.assemble(kernel(images_count=2), everything(), b"", HostTools())


def test_init_imports_nothing_that_ramdisk_0_lacks() -> None:
    builtin = {"_socket", "ctypes", "os", "struct"}
    tree = ast.parse(platform.init())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert names == builtin and not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert platform.init().startswith(b"#!/usr/bin/python3.11 -ISB\n")


def test_what_is_made_once_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = platform.Platform(b"kernel", b"ramdisk", "line")
    calls = []

    def build(store: object, say: object) -> platform.Platform:
        calls.append(store)
        return made

    monkeypatch.setattr(platform, "build", build)
    assert images.stand_in(tmp_path / "new") == made
    assert images.stand_in(tmp_path / "new") == made
    assert len(calls) == 1
    assert [path.suffix for path in (tmp_path / "new").iterdir()] == [".eif"], "no half of a file is left"
    monkeypatch.setattr(platform, "COMMAND_LINE", "another")
    images.stand_in(tmp_path / "new")
    assert len(calls) == 2, "other parts, another name"


def test_what_is_found_damaged_is_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "build", lambda store, say: platform.Platform(b"kernel", b"ramdisk", "line"))
    images.stand_in(tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes().replace(b"ramdisk", b"RAMDISK"))
    with pytest.raises(ConfigurationError, match="by rule 'checksum'"):
        images.stand_in(tmp_path)


def test_an_image_is_named_by_its_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed line of the application, or of ours, makes another image; else the one that is there is taken."""

    class Built:
        def eif(self) -> bytes:
            return eif.write(b"kernel", "line", [b"platform", b"ours"], metadata=None)

    calls = []

    def build(spec: ImageSpec, store: object, say: object) -> Built:
        calls.append(spec.app)
        return Built()

    monkeypatch.setattr(platform, "build", lambda store, say: platform.Platform(b"kernel", b"ramdisk", "line"))
    monkeypatch.setattr(images, "build", build)
    (tmp_path / "mine.py").write_text("app = 1\n")
    first = images.application("mine", tmp_path, tmp_path / "kept")
    assert images.application("mine", tmp_path, tmp_path / "kept") == first
    assert calls == ["mine"]
    (tmp_path / "mine.py").write_text("app = 2\n")
    assert images.application("mine", tmp_path, tmp_path / "kept") != first
    assert calls == ["mine", "mine"]
