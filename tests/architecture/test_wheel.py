"""A wheel holds everything, and runs where there is no checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from support.repository import COMPONENTS, ROOT

pytestmark = pytest.mark.slow


def pip(*arguments: str | Path) -> None:
    """Run pip, without the network and without dependencies."""
    words = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *map(str, arguments), "--no-deps", "--no-index"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from a copy so that the checkout stays as it is."""
    tree = tmp_path_factory.mktemp("tree")
    for name in COMPONENTS:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "src", tree / "src", symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    wheels = tmp_path_factory.mktemp("wheels")
    pip("wheel", "--no-build-isolation", "--wheel-dir", wheels, tree)
    (built,) = wheels.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of a fresh environment that has the wheel, and sees our dependencies but not our checkout."""
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    pip("--python", python, "install", wheel)
    return environment / "bin"


def run(*command: str | Path, cwd: Path) -> str:
    """Run outside of the checkout; what it prints."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LEDGERD"))}
    done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_every_file_and_nothing_else(wheel: Path) -> None:
    """A data file of a kind that `package-data` in pyproject.toml does not name would be missing."""
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = (path for name in COMPONENTS for path in (ROOT / name).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert names == {*(f"ledgerd/{path.relative_to(ROOT)}" for path in files), "ledgerd/__init__.py", "ledgerd/py.typed"}


def test_it_carries_its_licence(wheel: Path) -> None:
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in zipfile.ZipFile(wheel).namelist())


def test_it_is_the_wheel_that_runs_and_not_the_checkout(installed: Path, tmp_path: Path) -> None:
    place = run(installed / "python", "-c", "import ledgerd.apps.logging as app; print(app.__file__)", cwd=tmp_path)
    assert Path(place.strip()).is_relative_to(installed.parent)


def test_the_command_says_its_version(installed: Path, tmp_path: Path) -> None:
    assert run(installed / "ledgerd", "--version", cwd=tmp_path).startswith("ledgerd 0.")


def test_a_service_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    said = run(installed / "ledgerd", "dev", "--nodes", "1", "--port", "0", "--exec", f"{installed / 'ledgerd'} status", cwd=tmp_path)
    assert "PartOfNetwork" in said
