"""The locked dependencies: all that pyproject.toml asks for, each with hashes, and naming no place to get them from."""

import re
import tomllib
from typing import Final

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from support.repository import ROOT

PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUNTIME: Final[list[str]] = PROJECT["project"]["dependencies"]
DEVELOPMENT: Final[list[str]] = PROJECT["project"]["optional-dependencies"]["dev"]
FUZZ: Final[list[str]] = PROJECT["project"]["optional-dependencies"]["fuzz"]
BUILD: Final[list[str]] = PROJECT["build-system"]["requires"]


def locked(name: str) -> dict[str, tuple[str, int]]:
    """Version and number of hashes of each package in requirements/NAME.txt; this Python's, where a package stands there for several.

    Lines that are neither fail the test.
    """
    found: dict[str, tuple[str, int]] = {}
    text = (ROOT / "requirements" / f"{name}.txt").read_text().replace("\\\n", " ")
    for line in filter(None, text.splitlines()):
        shape = re.fullmatch(r"([a-zA-Z0-9._-]+)==([^\s;]+)(?: ;([^#]*?))?((?: +--hash=sha256:[0-9a-f]{64})+) *", line)
        assert shape is not None, f"requirements/{name}.txt: {line[:100]}"
        name = canonicalize_name(shape[1])
        if name not in found or (shape[3] and Marker(shape[3]).evaluate()):
            found[name] = (shape[2], shape[4].count("--hash"))
    return found


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("runtime", RUNTIME), ("build", BUILD), ("dev", RUNTIME + DEVELOPMENT + BUILD), ("fuzz", FUZZ)],
    ids=["runtime", "build", "dev", "fuzz"],
)
def test_the_lock_covers_what_the_project_asks_for(name: str, wanted: list[str]) -> None:
    packages = locked(name)
    for text in wanted:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue  # another Python's
        version = packages.get(canonicalize_name(requirement.name), ("absent", 0))[0]
        assert version != "absent" and requirement.specifier.contains(version), f"{text}: locked {version}; run scripts/lock"


def test_development_runs_with_the_versions_of_production() -> None:
    development = locked("dev")
    assert {name: development.get(name) for name in locked("runtime")} == locked("runtime")


@pytest.mark.parametrize("name", ["runtime", "build", "dev", "fuzz"])
def test_the_lock_names_no_place(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    assert not re.search(r"://|index-url|find-links|trusted-host|file:|^\s*-[^-]|@ ", text, re.MULTILINE)
