"""Modules that are read now and run when they are first imported: for a process that will not be able to open a file then.

A script worker can open nothing once it has heard of a script. To import beforehand all that some script may want would double what a
worker takes to start, and most scripts want none of it; to read it costs an eighth of that. Machine code is loaded at once.
Law: after `close` nothing is looked for in files, so that an import of what was not kept fails, where it would otherwise kill the process.
Not here: which modules (`enclave.runtime.crypto.needs`).
"""

import importlib
import marshal
import os
import sys
from collections.abc import Iterable
from importlib.machinery import BuiltinImporter, FrozenImporter, ModuleSpec, PathFinder, SourceFileLoader, SourcelessFileLoader
from importlib.util import MAGIC_NUMBER
from types import ModuleType
from typing import Any, Final

_HEAD_BYTES: Final = 16  # of a file of bytecode: magic number, flags, then time and size of the source, or its hash
_UNCHECKED: Final = 1


class Kept:
    """Finds and loads modules from memory."""

    def __init__(self) -> None:
        self._codes: dict[str, tuple[bytes, bool]] = {}  # bytecode, and whether it is a package

    def keep(self, names: Iterable[str]) -> None:
        """Read modules, packages before what is in them; what is imported already, or is not there, is passed over."""
        places: dict[str, list[str]] = {}
        for name in names:
            if name in sys.modules:
                continue
            package = name.rpartition(".")[0]
            path = places.get(package) or getattr(sys.modules.get(package), "__path__", None)
            if package and path is None:
                continue
            spec = PathFinder.find_spec(name, path)
            if spec is None or not isinstance(spec.loader, SourceFileLoader | SourcelessFileLoader):
                continue
            if spec.submodule_search_locations:
                places[name] = spec.submodule_search_locations
            self._codes[name] = (_bytecode(name, spec, spec.loader), spec.submodule_search_locations is not None)

    def close(self) -> None:
        """From now on modules come from here, or from the interpreter itself."""
        finders: list[Any] = [BuiltinImporter, FrozenImporter, self]
        sys.meta_path[:] = finders
        sys.path_hooks.clear()
        sys.path_importer_cache.clear()

    # What the interpreter asks.

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Say whether it is kept here."""
        found = self._codes.get(name)
        return None if found is None else ModuleSpec(name, self, is_package=found[1])  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Have it made as any."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Run it; it is not needed again."""
        code, _ = self._codes.pop(module.__name__)
        exec(marshal.loads(code), module.__dict__)  # noqa: S102, S302 - as every import does


def load(names: Iterable[str]) -> None:
    """Import modules of machine code; those that this interpreter has within itself, or not at all, cost nothing."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            continue


def _bytecode(name: str, spec: ModuleSpec, loader: SourceFileLoader | SourcelessFileLoader) -> bytes:
    """As it lies beside the source, if it is this source's; or else compiled now."""
    assert spec.origin is not None, "it was found in a file"
    if isinstance(loader, SourcelessFileLoader):
        return loader.get_data(spec.origin)[_HEAD_BYTES:]
    try:
        data = loader.get_data(spec.cached or "")
        if data[:4] == MAGIC_NUMBER:
            flags = int.from_bytes(data[4:8], "little")
            if flags == _UNCHECKED or (flags == 0 and data[8:_HEAD_BYTES] == _mark(spec.origin)):
                return data[_HEAD_BYTES:]
    except OSError:
        pass
    return marshal.dumps(loader.get_code(name))


def _mark(source: str) -> bytes:
    """What a file of bytecode says of its source: time and size."""
    found = os.stat(source)
    return b"".join((int(number) & 0xFFFFFFFF).to_bytes(4, "little") for number in (found.st_mtime, found.st_size))
