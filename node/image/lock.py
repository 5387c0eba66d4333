"""What an image takes from others: lists of names, versions and hashes, and the folder that keeps what was once fetched.

`packages.lock` has one Debian package a line: name, version, architecture, SHA-256. `wheels.lock` is what pip reads: `NAME==VERSION
--hash=sha256:...`, with exactly one hash, so that only one file can be meant. Neither names a place to get things from.
A file is what its hash says, wherever it came from: the folder of files may be filled in any way, and is the image's source years later,
when archives have moved on.
"""

import os
import re
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

from ledgerd.ledger.errors import ConfigurationError, IntegrityError

FILE_BYTES_MAX: Final = 256 << 20  # the largest package has 3 MB
_FOLDER: Final = Path(__file__).resolve().parent
PACKAGES: Final = _FOLDER / "packages.lock"
WHEELS: Final = _FOLDER / "wheels.lock"
SUFFIXES: Final = (".deb", ".whl")

_PACKAGE: Final = re.compile(r"([a-z0-9][a-z0-9+.-]+) ([A-Za-z0-9.+:~-]+) (amd64|all) ([0-9a-f]{64})")
_WHEEL: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9.+!_-]+) --hash=sha256:([0-9a-f]{64})")


class Locked(NamedTuple):
    """One file that goes into an image; `architecture` is empty for a wheel."""

    name: str
    version: str
    architecture: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def parse_packages(text: str) -> tuple[Locked, ...]:
    """Read `packages.lock`. Raises: ConfigurationError: A line is of another form, or a package stands there twice."""
    return _parse(text, "packages.lock", _PACKAGE, Locked)


def parse_wheels(text: str) -> tuple[Locked, ...]:
    """Read `wheels.lock`. Raises: ConfigurationError: A line is of another form, or a wheel stands there twice."""
    return _parse(text, "wheels.lock", _WHEEL, lambda name, version, digest: Locked(name, version, "", digest))


def _parse(text: str, title: str, shape: re.Pattern[str], make: Callable[..., Locked]) -> tuple[Locked, ...]:
    found: dict[str, Locked] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = shape.fullmatch(line.strip())
        if match is None:
            raise ConfigurationError(f"{title}, line {number}: {line[:100]!r} is not of the form that the file's head describes")
        item = make(*match.groups())
        if found.setdefault(item.name, item) is not item:
            raise ConfigurationError(f"{title}, line {number}: {item.name} stands there twice")
    if not found:
        raise ConfigurationError(f"{title} is empty")
    return tuple(found.values())


def default_folder() -> Path:
    """Where packages and wheels are kept unless told: in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ledgerd" / "image"


class Store:
    """A folder of packages and wheels, found by what they are and not by what they are called.

    Args:
        folder: Where they lie; made when something is put there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._found: dict[str, Path] = {}

    def missing(self, wanted: Iterable[Locked]) -> list[Locked]:
        """Those that are not there. Reads every file of the folder that is new to it."""
        known = set(self._found.values())
        for path in sorted(self.folder.glob("*")):
            if path.suffix in SUFFIXES and path not in known and path.is_file() and path.stat().st_size <= FILE_BYTES_MAX:
                self._found[sha256(path.read_bytes()).hexdigest()] = path
        return [item for item in wanted if item.sha256 not in self._found]

    def keep(self, folder: Path, wanted: Iterable[Locked]) -> None:
        """Move what was fetched into a folder to here.

        Raises: IntegrityError: Something was fetched, but is not what the lock means.
        """
        waiting = {item.sha256: item for item in wanted}
        fetched = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
        digests = {path: sha256(path.read_bytes()).hexdigest() for path in fetched}
        self.folder.mkdir(parents=True, exist_ok=True)
        for path, digest in digests.items():
            if waiting.pop(digest, None) is not None:
                kept = self.folder / path.name
                if kept.exists():  # of that name, and something else: what is there may be what another lock means
                    kept = self.folder / f"{digest[:16]}-{path.name}"
                path.replace(kept)
                self._found[digest] = kept
        if waiting:
            item = next(iter(waiting.values()))
            others = ", ".join(f"{path.name} ({digests[path][:16]}...)" for path in fetched if path.exists())
            raise IntegrityError(
                f"{item} was fetched, but no file has its SHA-256 {item.sha256[:16]}...: got {others or 'nothing'}. "
                f"The archive serves something else than what was locked: do not build from it. If you know why, lock again (scripts/lock)"
            )

    def read(self, item: Locked) -> bytes:
        """The file's bytes, checked again as they are read.

        Raises: IntegrityError: It changed since it was found.
        """
        path = self._found[item.sha256]
        data = path.read_bytes()
        if sha256(data).hexdigest() != item.sha256:
            raise IntegrityError(f"{path} changed while it was used; remove it and build again")
        return data
