"""Makes of a folder the application that a proposal installs: CCF's layout, `app.json` and modules below `src/`.

Not here: what may stand in `app.json`, which the constitution judges.
"""

import os
from pathlib import Path
from typing import Any, Final

from ledgerd.ledger.errors import ConfigurationError
from ledgerd.node.cli.gov_files import FILE_BYTES_MAX, parse_json, read_text

MODULES_MAX: Final = 4_096  # as many as the service runs
METADATA: Final = "app.json"
SOURCES: Final = "src"
TYPESCRIPT: Final = frozenset({".ts", ".mts", ".cts", ".tsx"})


def read_bundle(path: Path) -> dict[str, Any]:
    """The bundle: `{"metadata": {"endpoints": ...}, "modules": [{"name", "module"}, ...]}`.

    Args: path: A folder, or a JSON file that has the bundle, or a whole proposal with `set_js_app` as tools make it.
    Raises: ConfigurationError: It is none of these; the message says what is missing.
    """
    return _folder(path) if path.is_dir() else _file(path)


def _file(path: Path) -> dict[str, Any]:
    found = parse_json(read_text(str(path)), str(path))
    if isinstance(found, dict) and isinstance(actions := found.get("actions"), list) and len(actions) == 1 and isinstance(actions[0], dict):
        found = actions[0].get("args")  # what ccf-build-bundle writes is a whole proposal
    if isinstance(found, dict) and "bundle" in found:
        found = found["bundle"]
    if not isinstance(found, dict) or not {"metadata", "modules"} <= found.keys():
        raise ConfigurationError(
            f"{path} is no application: a bundle has metadata and modules; or give a folder with {METADATA} and {SOURCES}/"
        )
    return found


def _folder(path: Path) -> dict[str, Any]:
    metadata, sources = path / METADATA, path / SOURCES
    if not metadata.is_file() or not sources.is_dir():
        missing = METADATA if not metadata.is_file() else f"{SOURCES}/"
        built = " (a TypeScript project has it in dist/ once it is built)" if (path / "dist" / METADATA).is_file() else ""
        raise ConfigurationError(f"{path} is no application: it has no {missing}{built}")
    described = parse_json(read_text(str(metadata)), str(metadata))
    if not isinstance(described, dict) or "endpoints" not in described:
        raise ConfigurationError(f"{metadata} has no endpoints")
    modules, left = [], FILE_BYTES_MAX
    for file in _modules(sources):
        if file.suffix in TYPESCRIPT:
            raise ConfigurationError(
                f"{path} is not built: {file.relative_to(path).as_posix()} is TypeScript, and the service runs JavaScript; build it, and "
                "give the folder that the bundler writes (`npm run build` and dist, in docs/javascript-apps.md)"
            )
        text = read_text(str(file), left)
        left -= len(text)
        modules.append({"name": file.relative_to(sources).as_posix(), "module": text})
        if len(modules) > MODULES_MAX:
            raise ConfigurationError(f"{sources} has more than {MODULES_MAX} files; is it the folder of what was built?")
    return {"metadata": described, "modules": modules}


def _modules(folder: Path) -> list[Path]:
    """All files below it but hidden ones, in the same order on every machine; links to elsewhere are refused."""
    found = [Path(where) / name for where, _, names in os.walk(folder) for name in names if not name.startswith(".")]
    for file in found:
        if not file.resolve().is_relative_to(folder.resolve()):
            raise ConfigurationError(f"{file} is a link to outside of {folder}; a bundle has its own files only")
    return sorted(file for file in found if file.is_file())
