"""The process launcher's measurement: the same for the same code, another for one changed byte."""

import sys
from pathlib import Path

import pytest

from ledgerd.ledger.errors import ConfigurationError
from ledgerd.node import measure as module
from ledgerd.node.measure import check_application, measure


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `measured_app` that can be found."""
    folder = tmp_path / "measured_app"
    folder.mkdir()
    (folder / "__init__.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "measured_app", raising=False)
    return folder


def test_the_same_code_measures_the_same(app: Path) -> None:
    assert measure("measured_app") == measure("measured_app")
    assert "measured_app" not in sys.modules  # found, not run


def test_a_changed_byte_of_the_application_changes_our_measurement_only(app: Path) -> None:
    before = measure("measured_app")
    (app / "__init__.py").write_text("x = 2\n")
    after = measure("measured_app")
    assert (after.pcr0 != before.pcr0, after.pcr1 == before.pcr1, after.pcr2 != before.pcr2) == (True, True, True)


def test_another_version_of_a_dependency_changes_the_platforms_measurement_only(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = measure("measured_app")
    monkeypatch.setattr(module, "_version", lambda name: "0" if name == "trio" else "1")
    after = measure("measured_app")
    assert (after.pcr0 != before.pcr0, after.pcr1 != before.pcr1, after.pcr2 == before.pcr2) == (True, True, True)


def test_names_count_and_compiled_files_do_not(app: Path) -> None:
    before = measure("measured_app")
    (app / "__pycache__").mkdir()
    (app / "__pycache__" / "__init__.cpython-311.pyc").write_bytes(b"x")
    (app / "left.pyc").write_bytes(b"x")
    assert measure("measured_app") == before
    (app / "a.py").write_text("")
    added = measure("measured_app")
    assert added.pcr2 != before.pcr2
    (app / "a.py").rename(app / "b.py")
    assert measure("measured_app").pcr2 != added.pcr2


def test_an_extension_module_is_measured_since_it_is_what_runs(app: Path) -> None:
    before = measure("measured_app")
    (app / "hot.cpython-311-x86_64-linux-gnu.so").write_bytes(b"one")
    compiled = measure("measured_app")
    (app / "hot.cpython-311-x86_64-linux-gnu.so").write_bytes(b"two")
    assert len({before.pcr2, compiled.pcr2, measure("measured_app").pcr2}) == 3


def test_bytes_cannot_move_between_files_unnoticed(app: Path) -> None:
    (app / "a.py").write_text("1")
    (app / "b.py").write_text("23")
    before = measure("measured_app")
    (app / "a.py").write_text("12")
    (app / "b.py").write_text("3")
    assert measure("measured_app").pcr2 != before.pcr2


def test_a_single_module_is_an_application_too(app: Path) -> None:
    (app / "inner.py").write_text("y = 1\n")
    assert measure("measured_app.inner").pcr2 != measure("measured_app").pcr2


def test_every_trusted_folder_is_measured(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    original = module.files_of

    def record(name: str, folder: Path | None = None) -> list[tuple[str, bytes]]:
        seen.append(name)
        files = original(name, folder)
        assert files
        return files

    monkeypatch.setattr(module, "files_of", record)
    measure("measured_app")
    assert seen == ["ledgerd.enclave", "ledgerd.governance", "ledgerd.ledger", "measured_app"]
    names = [path for path, _ in original("ledgerd.ledger")]
    assert "attestation/nitro.py" in names and "__init__.py" in names


@pytest.mark.parametrize("name", ["no_such_app", "measured_app.nothing", "nothing.at.all", "sys", "", "."])
def test_an_application_that_cannot_be_found_is_a_configuration_error(app: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="found"):
        measure(name)


def test_an_application_that_is_not_installed_is_found_in_the_folder_named_and_measures_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "beside" / "package"
    folder.mkdir(parents=True)
    for name in ("__init__", "inner"):
        (folder / f"{name}.py").write_text(f"app = '{name}'\n")
    with pytest.raises(ConfigurationError, match=f"neither installed here nor in {tmp_path}"):
        measure("package.inner", tmp_path)
    beside = [measure(name, tmp_path / "beside") for name in ("package", "package.inner")]
    monkeypatch.syspath_prepend(str(tmp_path / "beside"))
    assert [measure(name) for name in ("package", "package.inner")] == beside


@pytest.mark.parametrize(
    ("text", "problem"), [("x = 1\n", "makes no `app`"), ("app = \n", "is not Python: .*candidate.py, line 1"), (None, "cannot be found")]
)
def test_what_cannot_be_an_application_is_told_before_anything_starts(tmp_path: Path, text: str | None, problem: str) -> None:
    if text is not None:
        (tmp_path / "candidate.py").write_text(text)
    with pytest.raises(ConfigurationError, match=problem):
        check_application("candidate", tmp_path)


def test_who_names_the_file_is_told_the_modules_name(tmp_path: Path) -> None:
    (tmp_path / "candidate.py").write_text("app = 1\n")
    with pytest.raises(ConfigurationError, match="as Python imports it, 'candidate', not its file"):
        check_application("candidate.py", tmp_path)


@pytest.mark.parametrize(
    "text", ["app = App('x')", "app: App = App('x')", "from elsewhere import app", "from x import y as app", "from x import *"]
)
def test_whatever_binds_app_may_be_an_application(tmp_path: Path, text: str) -> None:
    (tmp_path / "candidate.py").write_text(text)
    check_application("candidate", tmp_path)
