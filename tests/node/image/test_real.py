"""A whole image from Debian's packages and PyPI's wheels: reproduced, complete, lean, and able to run a service.

Needs an apt of Debian 12 and pip with an index; where they do not work every test here is skipped, and says why. What was fetched is
kept in pytest's cache folder.
"""

import ast
import gzip
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from typing import Final

import pytest

from ledgerd.enclave.scripts.jobs import End, Limits, Result
from ledgerd.node.image import lock, packages, wheels
from ledgerd.node.image.build import Image, ImageSpec, build
from ledgerd.node.image.errors import ImageError
from ledgerd.node.image.lock import Store
from ledgerd.node.image.python import ImagePython
from ledgerd.node.image.rootfs import LEFT_OUT, RUNTIME, STANDARD_LIBRARY, platform_tree
from ledgerd.node.image.tree import File
from support.https import Request
from support.images import COMMAND_LINE, KERNEL, PLATFORM, Header, entries, kept, pcr, spec
from support.processes import Service
from support.repository import ROOT, modules
from support.script_crypto import every_function
from support.scripts import job as script
from support.scripts import workers

pytestmark = pytest.mark.slow

PACKAGES: Final = "usr/lib/python3/dist-packages"
RAMDISK_BYTES_MAX: Final = 20 << 20  # 19.8 MB when this was written
ARCHIVE_BYTES_MAX: Final = 56 << 20  # 57.3 MB; it stays in the enclave's memory
# Of everything in the image that is not ours; found on one machine, and to be found on every other.
OTHERS_SHA256: Final = "8dedc820d65ab4d5a1d5d14fc1a70bdb4ad7498162239cdd5179c85e810b8985"

CHILD: Final = """
import os, sys
os.umask(0o077)
from hashlib import sha256
from pathlib import Path
from ledgerd.node.image.build import build
from ledgerd.node.image.lock import Store, parse_packages
from support.images import spec
image = build(spec(packages=parse_packages(sys.argv[2])), Store(Path(sys.argv[1])))
print(sha256(image.eif()).hexdigest())
"""


@pytest.fixture(scope="session")
def store(request: pytest.FixtureRequest) -> Store:
    return Store(kept(request))


@pytest.fixture(scope="session")
def chosen(store: Store, tmp_path_factory: pytest.TempPathFactory) -> ImageSpec:
    """What is built: by the project's locks, or where Debian has moved on since, by its newest packages."""
    wanted = spec()
    try:
        wheels.fetch(wanted.wheels, store, lambda _: None)
        packages.fetch(wanted.packages, store, lambda _: None)
    except ImageError as first:
        try:
            newest = lock.parse_packages(packages.lock([item.name for item in wanted.packages]))
            wanted = spec(packages=newest)
            packages.fetch(newest, store, lambda _: None)
        except ImageError:
            pytest.skip(f"an image cannot be built here: {first}")
    return wanted


@pytest.fixture(scope="session")
def image(chosen: ImageSpec, store: Store) -> Image:
    try:
        return build(chosen, store)
    except ImageError as error:
        if "this machine is" in str(error):
            pytest.skip(str(error))
        raise


@pytest.fixture(scope="session")
def runs(image: Image, tmp_path_factory: pytest.TempPathFactory) -> ImagePython:
    """The image's root in a folder, ready to run."""
    folder = tmp_path_factory.mktemp("root")
    for above in (folder, folder.parent):
        above.chmod(0o755)
    return ImagePython(image.root, folder.resolve())


def test_the_locked_packages_can_be_had(chosen: ImageSpec) -> None:
    if chosen.packages != spec().packages:
        pytest.skip("the archive no longer has the packages of packages.lock, and the newest were taken; run scripts/lock")


def test_a_build_elsewhere_is_the_same_file(image: Image, chosen: ImageSpec, store: Store, tmp_path: Path) -> None:
    """Another process, folder, umask, time zone, hash seed, and temporary folder."""
    locked = "".join(f"{item.name} {item.version} {item.architecture} {item.sha256}\n" for item in chosen.packages)
    more = {"TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7", "TMPDIR": str(tmp_path), "LANG": "tr_TR.UTF-8", "PYTHONPATH": str(ROOT / "tests")}
    done = subprocess.run(
        [sys.executable, "-P", "-c", CHILD, str(store.folder), locked],
        env={**os.environ, **more},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == sha256(image.eif()).hexdigest()


def test_what_others_made_is_in_it_byte_for_byte_as_on_any_other_machine(image: Image, chosen: ImageSpec) -> None:
    """Everything but our own modules, which change with every commit: what the locks give, unpacked, chosen and compiled."""
    if chosen.packages != spec().packages:
        pytest.skip("not the locked packages")
    digest = sha256()
    for entry in entries(gzip.decompress(image.ramdisks[1])):
        if "ledgerd" not in entry.name:
            mode, size = entry.numbers["mode"], entry.numbers["filesize"]
            digest.update(f"{entry.name} {mode:o} {size}\n".encode() + entry.data)
    assert digest.hexdigest() == OTHERS_SHA256, "unless the locks or what is left out have changed, builds differ by machine"


def test_its_pcrs_are_those_of_its_bytes(image: Image) -> None:
    ours = Header(image.eif()).sections[4][1]
    line = COMMAND_LINE.encode()
    assert image.measurement[:3] == (pcr(KERNEL, line, PLATFORM, ours), pcr(KERNEL, line, PLATFORM), pcr(ours))


def test_it_is_lean(image: Image) -> None:
    assert len(image.ramdisks[1]) < RAMDISK_BYTES_MAX
    assert image.archive_bytes < ARCHIVE_BYTES_MAX
    said = re.search(r"Together ([\d.]+) MB in (\d+) files and folders, ([\d.]+) MB compressed", (ROOT / "docs" / "images.md").read_text())
    assert said is not None
    is_so = (image.archive_bytes / 1e6, len(list(image.root.items())), len(image.ramdisks[1]) / 1e6)
    assert [float(figure) for figure in said.groups()] == pytest.approx(is_so, rel=0.02)
    paths = [path for path, _ in image.root.items()]
    names = {part for path in paths for part in path.removesuffix(".pyc").split("/")}
    kept_out = "pip setuptools ensurepip node network pycparser cffi share sqlite3 ssl subprocess test unittest asyncio site-packages"
    assert not names & set(kept_out.split())
    assert not [path for path in paths if path.endswith((".py", ".a", ".h", ".c", ".rst", ".pyi"))]
    programs = [path for path, node in image.root.files() if node.executable]
    assert programs == ["usr/bin/python3.11", "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"]
    assert not [path for path in paths if path.endswith(".pyc") and path.split("/")[-1].startswith("sitecustomize")]
    assert len(entries(gzip.decompress(image.ramdisks[1]))) == len(image.root) + 4, "and cmd, env, rootfs, the archive's end"


def test_what_is_named_as_left_out_would_be_there(chosen: ImageSpec, store: Store) -> None:
    """A pattern that fits nothing is a mistake in writing it. (`sitecustomize` is a link today, and must not come back as a file.)"""
    everything = platform_tree([packages.unpack(store.read(item), str(item)) for item in chosen.packages])
    library = [path.removeprefix(f"{STANDARD_LIBRARY}/").removesuffix(".py") for path, _ in everything.files() if STANDARD_LIBRARY in path]
    there = {"/".join(path.split("/")[:end]) for path in library for end in (1, 2, 3)}
    for patterns in LEFT_OUT.values():
        for pattern in patterns.split():
            assert pattern == "sitecustomize" or any(fnmatchcase(name, pattern) for name in there), pattern


def test_everything_that_trusted_code_imports_is_there_at_whatever_time_it_does(runs: ImagePython) -> None:
    """Imports inside functions would fail in production only."""
    names: set[str] = set()
    for path in modules("ledger", "governance", "enclave", "apps"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module)
    assert {"cbor2", "OpenSSL", "ctypes", "ledgerd.enclave.sessions"} <= names
    assert runs.outside_after_import(*sorted(names), "ledgerd.enclave.core", f"{RUNTIME}.main") == []


def test_what_is_kept_of_the_standard_library_can_be_imported(image: Image, runs: ImagePython) -> None:
    """A module that needs one that was left out would be of no use to an application."""
    folder = f"{STANDARD_LIBRARY}/"
    paths = [path.removeprefix(folder).removesuffix(".pyc") for path, _ in image.root.files() if path.startswith(folder)]
    names = [path.removesuffix("/__init__").replace("/", ".") for path in paths if not path.startswith("lib-dynload/")]
    assert {"json", "json.decoder", "decimal", "importlib.resources"} <= set(names)
    assert runs.outside_after_import(*sorted(name for name in names if not name.endswith("__main__"))) == []


def test_every_extension_and_library_finds_what_it_needs_in_the_image(image: Image, runs: ImagePython) -> None:
    """By the loader itself, which is told to look nowhere else."""
    shared = [path for path, node in image.root.files() if isinstance(node, File) and ".so" in path and "ld-linux" not in path]
    assert len(shared) > 15
    for path in shared:
        words = [runs.command()[0], "--inhibit-cache", "--library-path", runs.command()[3], "--list", str(runs.folder / path)]
        listed = subprocess.run(words, capture_output=True, text=True, check=False)
        assert listed.returncode == 0, path + listed.stderr
        used = [line.split("=>")[1].split("(")[0].strip() for line in listed.stdout.splitlines() if "=>" in line]
        assert not [name for name in used if not name.startswith(f"{runs.folder}/")], path


def test_hashes_are_made_by_the_processors_instructions(runs: ImagePython) -> None:
    """Without libcrypto Python falls back in silence, and a Merkle tree costs several times as much."""
    assert runs.outside_after_import("_hashlib", "_ctypes", "_decimal", "_json", "_queue", "_contextvars", "_typing", "resource") == []


def test_a_script_runs_from_the_images_files(runs: ImagePython, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine, its prelude, and everything that a worker needs before it gives up the right to open a file."""
    loader, *words = runs.command("-I", "-X", "utf8", "-m", f"{RUNTIME}.script_worker")
    monkeypatch.setattr(sys, "executable", loader)
    with workers(command=tuple(words)) as fleet:
        source = "export const f = (x) => [x, Date.now(), typeof ccf.kv.m, 2n ** 70n > 1];"
        assert fleet.run(script(source, "from an image")).value == Result("json", b'["from an image",0,"object",true]')
        assert "system-call-filter" in fleet.pool.isolation
        for alone in (False, True):
            ended = fleet.run(every_function(alone=alone))
            assert ended.end is End.DONE, ended
        assert fleet.run(script("export const f = () => { for (;;); }", limits=Limits(deadline_ms=100))).end is End.DEADLINE


@pytest.fixture(scope="session")
def service(runs: ImagePython, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two nodes whose enclaves are the image's files, run by the image's Python."""
    folder = tmp_path_factory.mktemp("service")
    with Service(folder, nodes=2, enclave=runs.command("-I", "-X", "utf8", "-m", RUNTIME)) as running:
        yield running


def test_a_service_runs_from_the_images_files(service: Service, runs: ImagePython) -> None:
    """Attested joining, TLS, consensus, a durable commit and its receipt."""
    primary = service.primary()
    maps = Path(f"/proc/{primary.enclave_pid}/maps").read_text()
    used = {line.split(None, 5)[5] for line in maps.splitlines() if ".so" in line}
    assert used and all(name.startswith(f"{runs.folder}/") for name in used), used
    with primary.session() as client:
        answer = client.ask_all([Request("PUT", "/app/records/1", b"from an image", {"prefer": "committed, receipt"})])[0]
        assert answer.status == 204
        assert client.ask("GET", "/app/records/1").body == b"from an image"
    assert json.dumps(dict(answer.headers)).count("x-ledgerd-receipt") == 1
