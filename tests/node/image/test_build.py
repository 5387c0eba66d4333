"""Putting an image together from stand-ins: what goes in and what stays out, and that nothing but the input decides about a byte."""

import gzip
import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ledgerd.ledger.errors import ConfigurationError
from ledgerd.node.image import build, eif, rootfs
from ledgerd.node.image.build import Image, ImageSpec, Signer, assemble, modules_of
from ledgerd.node.image.errors import ImageError
from ledgerd.node.image.python import HostTools
from ledgerd.node.image.tree import File, Link, Tree
from ledgerd.node.measure import files_of
from support.images import COMMAND_LINE, KERNEL, PLATFORM, Header, entries, make_signer, packages, parts, pcr, spec
from support.repository import ROOT


def built(chosen: ImageSpec) -> Image:
    return assemble(chosen, parts(), modules_of(chosen), HostTools())


@pytest.fixture(scope="module")
def image() -> Image:
    return built(spec())


def test_pcrs_are_those_of_the_file(image: Image) -> None:
    data = image.eif()
    sections = Header(data).sections
    assert [kind for kind, _ in sections] == [1, 2, 5, 3, 3]
    ours = sections[4][1]
    assert [sections[0][1], sections[1][1], sections[3][1]] == [KERNEL, COMMAND_LINE.encode(), PLATFORM]
    line = COMMAND_LINE.encode()
    assert image.measurement == (pcr(KERNEL, line, PLATFORM, ours), pcr(KERNEL, line, PLATFORM), pcr(ours), None, None)
    assert image.ramdisks == (PLATFORM, ours)


def test_init_is_told_what_to_start_and_where(image: Image) -> None:
    """The platform's init reads /cmd and /env, a word and a variable a line, enters /rootfs and mounts what its folders are for."""
    archive = gzip.decompress(image.ramdisks[1])
    assert len(archive) == image.archive_bytes
    found = {entry.name: entry for entry in entries(archive)}
    assert {name.split("/")[0] for name in found} == {"cmd", "env", "rootfs", "TRAILER!!!"}
    command = "/usr/bin/python3.11 -I -X utf8 -m ledgerd.enclave.runtime --link vsock:7000 --nsm /dev/nsm --app ledgerd.apps.logging"
    assert found["cmd"].data.decode().splitlines() == command.split()
    assert found["env"].data == b"LC_ALL=C\nPATH=/usr/bin\n"
    for name in ("dev", "proc", "run", "sys", "tmp"):
        assert found[f"rootfs/{name}"].numbers["mode"] == 0o040755
    assert found["rootfs/usr/bin/python3.11"].numbers["mode"] == 0o100755
    assert found["rootfs/lib64"].data == b"usr/lib64"
    loader = found["rootfs/usr/lib64/ld-linux-x86-64.so.2"].data.decode()
    assert f"rootfs{loader}" in found


def test_it_holds_what_runs_and_nothing_else(image: Image) -> None:
    paths = {path for path, _ in image.root.items()}
    packages_folder = "usr/lib/python3/dist-packages"
    for name in ("ledgerd/__init__", "ledgerd/enclave/runtime/__main__", "ledgerd/ledger/errors", "ledgerd/governance/tables"):
        assert f"{packages_folder}/{name}.pyc" in paths
    assert f"{packages_folder}/ledgerd/apps/logging/__init__.pyc" in paths
    assert f"{packages_folder}/codec/_fast.cpython-311-x86_64-linux-gnu.so" in paths
    assert not [path for path in paths if path.endswith((".py", ".pyi", ".a", ".h")) or "__pycache__" in path]
    for kept_out in ("ledgerd/node", "ledgerd/network", "cffi/", "share/", "binfmt.d", "test/", "pdb", "cp437", "http/client"):
        assert not [path for path in paths if kept_out in path], kept_out
    assert {f"usr/lib/python3.11/{name}.pyc" for name in ("os", "json/__init__", "encodings/utf_8")} <= paths


def test_a_library_has_the_name_by_which_it_is_asked_for(image: Image) -> None:
    assert image.root["usr/lib/x86_64-linux-gnu/libz.so.1"] == File(b"\x7fELF libz.so.1")
    assert not [path for path, node in image.root.items() if isinstance(node, Link) and path.startswith("usr/lib/x86")]


def test_modules_say_the_hash_of_their_source_and_run(image: Image) -> None:
    import importlib.util
    import marshal

    node = image.root["usr/lib/python3/dist-packages/ledgerd/ledger/ids.pyc"]
    assert isinstance(node, File)
    source = (ROOT / "ledger" / "ids.py").read_bytes()
    assert node.data[:4] == importlib.util.MAGIC_NUMBER
    assert node.data[4:8] == b"\1\0\0\0", "hash-based, unchecked"
    assert node.data[8:16] == importlib.util.source_hash(source)
    assert marshal.loads(node.data[16:]).co_filename == "/usr/lib/python3/dist-packages/ledgerd/ledger/ids.py"


def test_what_is_signed_is_the_images_pcr0(image: Image) -> None:
    certificate, key = make_signer(ec.SECP384R1())
    signed = built(spec(signer=Signer(certificate, key)))
    assert signed.measurement[:3] == image.measurement[:3]
    assert signed.measurement.pcr8 is not None
    assert eif.read(signed.eif()).signature == signed.signature


CHILD = """
import os, sys
os.umask(int(sys.argv[2], 8))
from hashlib import sha256
from pathlib import Path
from ledgerd.node.image.build import assemble, modules_of
from ledgerd.node.image.python import HostTools
from support.images import parts, spec
chosen = spec(app="sample.app", app_folder=Path(sys.argv[1]))
image = assemble(chosen, parts(), modules_of(chosen), HostTools())
print(sha256(image.eif()).hexdigest(), sha256(image.sbom).hexdigest(), *(value.hex() for value in image.measurement[:3]))
"""


def child(folder: Path, umask: str, *, names: list[str], time: int, **environment: str) -> list[str]:
    """Build in a process of its own, from an application written by it in this order."""
    application = folder / "sample" / "app"
    application.mkdir(parents=True)
    (folder / "sample" / "__init__.py").write_text("")
    for name in names:
        (application / name).write_text("app = None\n" if name == "__init__.py" else f"'{name}'\nkept = {{'a', 'b', 'c'}}\n")
        os.utime(application / name, (time, time))
        (application / name).chmod(0o600 if umask == "077" else 0o755)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "TZ", "PYTHONHASH"))}
    done = subprocess.run(
        [sys.executable, "-P", "-c", CHILD, str(folder), umask],
        env={**clean, **environment, "PYTHONPATH": str(ROOT / "tests")},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_two_builds_in_different_surroundings_are_the_same_bytes(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two" / "elsewhere"
    files = ["__init__.py", "inner.py", "zulu.py", "alpha.py"]
    first = child(one, "022", names=files, time=1, TZ="UTC", PYTHONHASHSEED="1", TMPDIR=str(tmp_path))
    second = child(two, "077", names=files[::-1], time=1 << 31, TZ="Asia/Tokyo", PYTHONHASHSEED="2", LANG="tr_TR", HOME="/nonexistent")
    assert first == second
    (two / "sample" / "app" / "inner.py").write_text("changed = 1\n")
    changed = spec(app="sample.app", app_folder=two)
    measured = built(changed).measurement
    assert measured.pcr1.hex() == first[3], "the platform is the same"
    assert measured.pcr2.hex() != first[4]


def test_the_command_of_another_port_is_another_image(image: Image) -> None:
    other = built(spec(link_port=7001)).measurement
    assert (other.pcr1, other.pcr2 == image.measurement.pcr2) == (image.measurement.pcr1, False)


def test_the_same_ramdisk_on_another_platform_keeps_its_pcr2(image: Image) -> None:
    moved = image.on(b"other kernel", b"other platform", "quiet")
    again = built(spec(kernel=b"other kernel", platform_ramdisk=b"other platform", command_line="quiet"))
    assert (moved.eif(), moved.sbom) == (again.eif(), again.sbom)
    assert moved.measurement.pcr2 == image.measurement.pcr2
    assert moved.measurement.pcr1 == pcr(b"other kernel", b"quiet", b"other platform")


def test_what_nobody_measures_changes_no_pcr(image: Image) -> None:
    other = built(spec(name="another", memory_bytes=1 << 31, cpus=4))
    assert other.measurement == image.measurement
    assert other.eif() != image.eif()


def test_the_bill_names_everything_with_its_hash(image: Image) -> None:
    bill = json.loads(image.sbom)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    found = {item["name"]: item for item in bill["components"]}
    chosen = spec()
    for locked in (*chosen.packages, *chosen.wheels):
        assert found[locked.name]["hashes"] == [{"alg": "SHA-256", "content": locked.sha256}]
    assert found["libc6"]["purl"].startswith("pkg:deb/debian/libc6@2.36-9%2Bdeb12u")
    assert found["kernel"]["hashes"][0]["content"] == sha256(KERNEL).hexdigest()
    source = (ROOT / "ledger" / "ids.py").read_bytes()
    assert found["ledgerd/ledger/ids.py"]["hashes"][0]["content"] == sha256(source).hexdigest()
    assert len({item["bom-ref"] for item in bill["components"]}) == len(bill["components"])
    properties = {item["name"]: item["value"] for item in bill["metadata"]["component"]["properties"]}
    assert properties["ledgerd:pcr0"] == image.measurement.pcr0.hex()
    metadata = eif.read(image.eif()).metadata
    assert metadata is not None and metadata["CustomMetadata"]["SbomSha256"] == sha256(image.sbom).hexdigest()


@pytest.fixture
def application(tmp_path: Path) -> Path:
    folder = tmp_path / "outer" / "mine"
    folder.mkdir(parents=True)
    (tmp_path / "outer" / "__init__.py").write_text("")
    (tmp_path / "outer" / "sibling.py").write_text("")
    (folder / "__init__.py").write_text("app = None\n")
    (folder / "table.json").write_text("{}")
    (folder / ".hidden.py").write_text("")
    return tmp_path


def test_an_application_brings_its_package_and_those_above_it(application: Path) -> None:
    found = modules_of(spec(app="outer.mine", app_folder=application))
    assert {name for name in found if not name.startswith("ledgerd/")} == {
        "outer/__init__.py",
        "outer/mine/__init__.py",
        "outer/mine/table.json",
    }
    assert not [name for name in found if name.startswith("ledgerd/apps")]


def test_machine_code_beside_our_own_modules_stays_out(monkeypatch: pytest.MonkeyPatch) -> None:
    before = modules_of(spec())

    def compiled(name: str, folder: Path | None = None) -> list[tuple[str, bytes]]:
        machine_code = [("kv.cpython-311-x86_64-linux-gnu.so", b"ELF")] if name == "ledgerd.enclave" else []
        return [*files_of(name, folder), *machine_code]

    monkeypatch.setattr(build, "files_of", compiled)
    assert modules_of(spec()) == before


def test_a_stray_file_in_a_package_is_told_and_not_measured(application: Path) -> None:
    (application / "outer" / "mine" / "__init__.py~").write_text("old")
    with pytest.raises(ConfigurationError, match=r"outer/mine/__init__\.py~ is neither a module nor data"):
        built(spec(app="outer.mine", app_folder=application))


def test_a_module_that_is_not_python_is_named(application: Path) -> None:
    (application / "outer" / "mine" / "broken.py").write_text("def (\n")
    with pytest.raises(ImageError, match=r"is not Python: /usr/lib/python3/dist-packages/outer/mine/broken\.py"):
        built(spec(app="outer.mine", app_folder=application))


@pytest.mark.parametrize("app", ["no.such.app", "ledgerd.ledger.ids"])
def test_what_is_no_application_is_refused_before_anything_is_done(app: str) -> None:
    with pytest.raises(ConfigurationError, match=r"application|found"):
        modules_of(spec(app=app))


def test_a_package_that_lacks_a_file_is_told() -> None:
    with pytest.raises(ImageError, match=r"hold no file 'usr/bin/python3\.11'"):
        rootfs.system(Tree())
    tree = rootfs.platform_tree(packages())
    looped = Tree()
    for path, node in tree.items():
        looped.add(path, Link("libz.so.1") if path.endswith("libz.so.1") else node)
    with pytest.raises(ImageError, match="libz"):
        rootfs.system(looped)


@pytest.mark.parametrize("words", [["a\nb"], ["é"], [""], ["a\0"]])
def test_init_is_told_nothing_that_it_would_read_otherwise(words: list[str]) -> None:
    with pytest.raises(ImageError, match="init cannot be told"):
        rootfs.ramdisk_tree(Tree(), words)


@pytest.mark.parametrize("port", [0, -1, 1 << 32])
def test_a_port_is_a_port(port: int) -> None:
    with pytest.raises(ConfigurationError, match="vsock port"):
        rootfs.command("app", port)
