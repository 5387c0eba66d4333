"""What the process launcher measures in place of an image: the enclave's code and the platform below it, as PCR0, 1 and 2.

The same files and versions give the same PCRs on every machine, and one changed byte gives others; so `dev` and tests exercise
admission for real. It proves nothing to outsiders: the host measures itself. PCRs of images come from `ledger.attestation.measurement`.
"""

import ast
from collections.abc import Iterator
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from platform import python_implementation, python_version
from typing import Final

import cbor2

from ledgerd.ledger.attestation.measurement import Measurement, ext
from ledgerd.ledger.errors import ConfigurationError

TRUSTED_PACKAGES: Final = ("ledgerd.enclave", "ledgerd.governance", "ledgerd.ledger")
# Distributions that the enclave process imports; what only hosts and clients use is not measured.
DEPENDENCIES: Final = ("cbor2", "cffi", "cryptography", "httptools", "msgpack", "pynacl", "pyopenssl")

_FORMAT: Final = "ledgerd process measurement 1"


def measure(app: str, folder: Path | None = None) -> Measurement:
    """Measure what `python -m ledgerd.enclave.runtime --app APP` would run here.

    PCR1 is the platform (Python and the enclave's dependencies, by version), PCR2 our code with the application, PCR0 both.

    Args:
        app: Dotted name of the application's module or package, which is found but not imported.
        folder: Where to look for it, if it is not installed.
    Raises: ConfigurationError: The application, or a part of this program, cannot be found.
    """
    code_of = [
        [name, [[path, data] for path, data in files_of(name, where)]]
        for name, where in (*((package, None) for package in TRUSTED_PACKAGES), (app, folder))
    ]
    platform = cbor2.dumps(
        [_FORMAT, "platform", python_implementation(), python_version(), [[name, _version(name)] for name in DEPENDENCIES]]
    )
    code = cbor2.dumps([_FORMAT, "code", code_of])
    return Measurement(ext(platform + code), ext(platform), ext(code))


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def check_application(app: str, folder: Path | None = None) -> None:
    """See without running it that a module can be an application: it is Python, and makes an `app`.

    Raises: ConfigurationError: It cannot be found, or be one.
    """
    spec = _find(app, folder)
    if spec.origin is None or not spec.origin.endswith(".py"):
        raise ConfigurationError(f"application {app!r} is no Python module with an object `app`")
    try:
        tree = ast.parse(Path(spec.origin).read_bytes(), spec.origin)
    except (SyntaxError, ValueError) as error:
        where = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise ConfigurationError(f"application {app!r} is not Python: {spec.origin}{where}: {error.args[0]}") from None
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    names |= {alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    if not names & {"app", "*"}:
        raise ConfigurationError(f"module {app!r} ({spec.origin}) makes no `app`, so it is no application; see docs/writing-apps.md")


def _find(module: str, folder: Path | None = None) -> ModuleSpec:
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None and folder is not None:
        search = [str(folder)]
        for end in range(len(parts := module.split("."))):
            spec = PathFinder.find_spec(".".join(parts[: end + 1]), search)
            if spec is None:
                break
            search = list(spec.submodule_search_locations or ())
    if spec is None or not (spec.has_location or spec.submodule_search_locations):
        where = "it is not installed here" if folder is None else f"it is neither installed here nor in {folder}"
        meant = f"; name the module as Python imports it, {module[:-3]!r}, not its file" if module.endswith(".py") else ""
        raise ConfigurationError(f"module {module!r} cannot be found, so it cannot be measured: {where}{meant}")
    return spec


def files_of(module: str, folder: Path | None = None) -> list[tuple[str, bytes]]:
    """Return a module's or package's files as (path with `/`, bytes), sorted; links are followed, bytecode left out, extension modules not.

    Raises: ConfigurationError: It cannot be found.
    """
    spec = _find(module, folder)
    if spec.submodule_search_locations:
        found = [(path.relative_to(root).as_posix(), path) for root in map(Path, spec.submodule_search_locations) for path in _walk(root)]
    else:
        assert spec.origin is not None
        found = [(Path(spec.origin).name, Path(spec.origin))]
    return [(name, path.read_bytes()) for name, path in sorted(found)]


def is_package(module: str, folder: Path | None = None) -> bool:
    """Whether a module is a package. Raises: ConfigurationError: It cannot be found."""
    return bool(_find(module, folder).submodule_search_locations)


def _walk(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_dir():
            if path.name != "__pycache__":
                yield from _walk(path)
        elif path.suffix != ".pyc":
            yield path
