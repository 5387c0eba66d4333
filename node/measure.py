"""What the process launcher measures in place of an image: the enclave's code and the platform below it, as PCR0, 1 and 2.

The same files and versions give the same PCRs on every machine, and one changed byte gives others; so `dev` and tests exercise
admission for real. It proves nothing to outsiders: the host measures itself. PCRs of images come from `ledger.attestation.measurement`.
"""

from collections.abc import Iterator
from importlib import metadata
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


def measure(app: str) -> Measurement:
    """Measure what `python -m ledgerd.enclave.runtime --app APP` would run here.

    PCR1 is the platform (Python and the enclave's dependencies, by version), PCR2 our code with the application, PCR0 both.

    Args:
        app: Dotted name of the application's module or package, which is found but not imported.
    Raises: ConfigurationError: The application, or a part of this program, cannot be found.
    """
    platform = cbor2.dumps(
        [_FORMAT, "platform", python_implementation(), python_version(), [[name, _version(name)] for name in DEPENDENCIES]]
    )
    code = cbor2.dumps([_FORMAT, "code", [_files(package) for package in (*TRUSTED_PACKAGES, app)]])
    return Measurement(ext(platform + code), ext(platform), ext(code))


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _files(module: str) -> list[object]:
    """Return the module's name and its files as [path with `/`, bytes], sorted; links are followed, compiled files left out."""
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not (spec.has_location or spec.submodule_search_locations):
        raise ConfigurationError(f"module {module!r} cannot be found, so the enclave's code cannot be measured; is it installed here?")
    if spec.submodule_search_locations:
        found = [
            (path.relative_to(folder).as_posix(), path) for folder in map(Path, spec.submodule_search_locations) for path in _walk(folder)
        ]
    else:
        assert spec.origin is not None
        found = [(Path(spec.origin).name, Path(spec.origin))]
    return [module, [[name, path.read_bytes()] for name, path in sorted(found)]]


def _walk(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_dir():
            if path.name != "__pycache__":
                yield from _walk(path)
        elif path.suffix != ".pyc":
            yield path
