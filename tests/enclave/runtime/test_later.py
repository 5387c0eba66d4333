"""Modules that are read now and run later; and that the list of those that `ccf.crypto` needs is whole."""

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledgerd.enclave.runtime.crypto import needs
from ledgerd.enclave.runtime.later import Kept, load


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that modules are imported from; what is imported there is forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    before = set(sys.modules)
    (tmp_path / "kept_one.py").write_text("import sys\nsys.kept_ran = getattr(sys, 'kept_ran', 0) + 1\nvalue = 'one'\n")
    (tmp_path / "kept_pack").mkdir()
    (tmp_path / "kept_pack" / "__init__.py").write_text("value = 'package'\n")
    (tmp_path / "kept_pack" / "inner.py").write_text("from kept_pack import value\nvalue += ' inner'\n")
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]
    if hasattr(sys, "kept_ran"):
        del vars(sys)["kept_ran"]


def keep(monkeypatch: pytest.MonkeyPatch, *names: str) -> Kept:
    kept = Kept()
    kept.keep(names)
    monkeypatch.setattr(sys, "meta_path", [kept])
    return kept


def remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def test_a_module_runs_when_it_is_imported_though_its_file_is_gone(modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(monkeypatch, "kept_one", "kept_pack", "kept_pack.inner")
    remove(modules)
    assert not hasattr(sys, "kept_ran"), "read, not run"
    assert importlib.import_module("kept_one").value == "one"
    assert importlib.import_module("kept_pack.inner").value == "package inner"
    importlib.import_module("kept_one")
    assert vars(sys)["kept_ran"] == 1


def test_what_was_not_kept_is_not_found(modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(monkeypatch, "kept_pack", "no_such_module", "no_such_package.inner", "kept_one_more", "sys")
    assert importlib.import_module("kept_pack").value == "package"
    for name in ("kept_one", "kept_pack.inner", "no_such_module"):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(name)


def test_bytecode_of_another_source_is_not_used(modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    importlib.import_module("kept_one")  # writes the bytecode
    assert list((modules / "__pycache__").glob("kept_one.*.pyc"))
    del sys.modules["kept_one"]
    (modules / "kept_one.py").write_text("value = 'changed'\n")
    importlib.invalidate_caches()
    keep(monkeypatch, "kept_one")
    assert importlib.import_module("kept_one").value == "changed"


def test_bytecode_of_the_source_is_used_as_it_lies_there(modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    importlib.import_module("kept_one")
    del sys.modules["kept_one"]
    (cached,) = (modules / "__pycache__").glob("kept_one.*.pyc")
    data = cached.read_bytes()
    cached.write_bytes(data.replace(b"one", b"two"))
    keep(monkeypatch, "kept_one")
    assert importlib.import_module("kept_one").value == "two"


def test_bytecode_without_a_source_is_read_too(modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    importlib.import_module("kept_one")
    del sys.modules["kept_one"]
    (cached,) = (modules / "__pycache__").glob("kept_one.*.pyc")
    data = cached.read_bytes()
    remove(modules)
    (modules / "kept_one.pyc").write_bytes(data)
    importlib.invalidate_caches()
    keep(monkeypatch, "kept_one")
    assert importlib.import_module("kept_one").value == "one"


def test_machine_code_that_is_not_there_is_passed_over() -> None:
    load(["math", "no_such_module"])
    assert "math" in sys.modules


# In an interpreter of its own, as a worker: what is loaded by what, from where.
_ASK = """
import json, sys
from ledgerd.enclave.runtime import script_worker
from ledgerd.enclave.runtime.crypto import functions
before = set(sys.modules)
for name in functions.FUNCTIONS:
    functions.load(name)
more = {name: getattr(sys.modules[name], "__file__", None) or "" for name in set(sys.modules) - before}
print(json.dumps([[name for name, file in more.items() if file.endswith(end)] for end in (".py", ".so")]))
"""
_CLOSED = """
from ledgerd.enclave.runtime import later, script_worker
from ledgerd.enclave.runtime.crypto import functions, needs
later.load(needs.AT_ONCE)
kept = later.Kept()
kept.keep(needs.MODULES)
kept.close()
import sys
assert "cryptography.x509" not in sys.modules and "OpenSSL" not in sys.modules
open = __builtins__.open = None
for name in functions.FUNCTIONS:
    functions.load(name)
try:
    import wave
except ModuleNotFoundError:
    print("closed")
"""


def ask(code: str) -> str:
    return subprocess.run([sys.executable, "-I", "-W", "ignore", "-c", code], check=True, capture_output=True, text=True).stdout


def test_the_list_of_what_is_needed_is_whole() -> None:
    python, machine_code = json.loads(ask(_ASK))
    assert set(python) - set(needs.MODULES) - set(needs.AT_ONCE) == set(), "add these to `needs`"
    assert set(machine_code) - set(needs.AT_ONCE) == set(), "add these to `needs`"
    assert len(python) > 50
    packages = [name for name in needs.MODULES if any(other.startswith(f"{name}.") for other in needs.MODULES)]
    for name in packages:
        first = min(at for at, other in enumerate(needs.MODULES) if other.startswith(f"{name}."))
        assert needs.MODULES.index(name) < first, f"{name} stands before what is in it"


def test_after_it_is_closed_everything_needed_is_there_and_nothing_else_is_looked_for() -> None:
    assert ask(_CLOSED) == "closed\n"
