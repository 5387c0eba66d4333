"""The image's own Python, at work on the machine that builds: it compiles modules, compresses, and imports what was put together.

Bytecode and compressed bytes depend on the interpreter and the library that made them. So these are made by those that the lock
names, run from where they were unpacked by their own loader; another machine's Python or zlib has no part in an image.
"""

import marshal
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from ledgerd.node.image.commands import run
from ledgerd.node.image.errors import ImageError
from ledgerd.node.image.tree import Tree

VERSION: Final = "3.11"
PYTHON: Final = f"usr/bin/python{VERSION}"
LIBRARIES: Final = "usr/lib/x86_64-linux-gnu"
LOADER: Final = f"{LIBRARIES}/ld-linux-x86-64.so.2"
_SECONDS_MAX: Final = 300.0
_ADVICE: Final = "an image is built on Linux on x86-64, where its Python can run"

# Compiles: takes a list of (path as tracebacks shall say it, source), gives a list of modules' bytes, or the text of what is wrong.
# Unchecked hash: the source's hash stands in the module for auditors, and nobody compares at run time. Version 2 of the form writes no
# references, whose presence would depend on how often the interpreter happens to hold an object.
_COMPILE: Final = """
import importlib.util, marshal, sys
made = []
for path, source in marshal.loads(sys.stdin.buffer.read()):
    try:
        code = compile(source, path, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError) as error:
        made = f"{path}: {error}"
        break
    head = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + importlib.util.source_hash(source)
    made.append(head + marshal.dumps(code, 2))
sys.stdout.buffer.write(marshal.dumps(made, 4))
"""

# Compresses as gzip: no name, no time, and 255 for an unknown system. Level 6: 9 takes three times as long and saves no percent.
_COMPRESS: Final = """
import sys, zlib
data = sys.stdin.buffer.read()
pack = zlib.compressobj(6, zlib.DEFLATED, -15, 9)
end = zlib.crc32(data).to_bytes(4, "little") + (len(data) & 0xFFFFFFFF).to_bytes(4, "little")
sys.stdout.buffer.write(bytes.fromhex("1f8b08000000000000ff") + pack.compress(data) + pack.flush() + end)
"""

# Imports modules; tells those of the files mapped into the process that lie outside of a folder.
_IMPORT: Final = """
import importlib, sys
for name in sys.argv[2:]:
    importlib.import_module(name)
lines = open("/proc/self/maps").read().splitlines()
files = {line.split(None, 5)[5] for line in lines if len(line.split(None, 5)) == 6}
print(*sorted(name for name in files if name.startswith("/") and not name.startswith(sys.argv[1] + "/")), sep="\\n", end="")
"""


class Tools(Protocol):
    """What makes bytes that depend on who makes them."""

    def compile(self, sources: Sequence[tuple[str, bytes]]) -> list[bytes]:
        """Modules' bytes for (path, source), in the same order. Raises: ImageError: One is not Python."""

    def compress(self, data: bytes) -> bytes:
        """The same data as gzip."""


class HostTools:
    """This process's own Python and zlib: for tests, whose images nobody compares between machines."""

    def compile(self, sources: Sequence[tuple[str, bytes]]) -> list[bytes]:
        """As `Tools.compile`."""
        return _modules(run([sys.executable, "-I", "-S", "-c", _COMPILE], given=_request(sources), **_COMPILING))

    def compress(self, data: bytes) -> bytes:
        """As `Tools.compress`."""
        return run([sys.executable, "-I", "-S", "-c", _COMPRESS], given=data, **_COMPRESSING)


class ImagePython:
    """The image's Python, from files in a folder.

    Args:
        tree: What it needs: interpreter, loader, libraries, standard library.
        folder: An empty folder to put them into.
    Raises: ImageError: This machine cannot run it.
    """

    def __init__(self, tree: Tree, folder: Path) -> None:
        if platform.system() != "Linux" or platform.machine() != "x86_64":
            raise ImageError(f"this machine is {platform.system()} on {platform.machine()}; {_ADVICE}")
        for path in (LOADER, PYTHON):
            if path not in tree:
                raise ImageError(f"the packages hold no {path}; packages.lock must name Python {VERSION} and libc6")
        tree.write(folder)
        self.folder = folder

    def command(self, *arguments: str) -> tuple[str, ...]:
        """How to run it from here, without anything of this machine's: loader, libraries, interpreter, then `arguments`.

        Its folder of modules is found from `PYTHONHOME`, or by -I from where the interpreter lies.
        """
        return (
            str(self.folder / LOADER),
            "--inhibit-cache",
            "--library-path",
            str(self.folder / LIBRARIES),
            str(self.folder / PYTHON),
            *arguments,
        )

    def compile(self, sources: Sequence[tuple[str, bytes]]) -> list[bytes]:
        """As `Tools.compile`."""
        return _modules(self._run("-S", "-s", "-B", "-c", _COMPILE, given=_request(sources), **_COMPILING))

    def compress(self, data: bytes) -> bytes:
        """As `Tools.compress`."""
        return self._run("-S", "-s", "-B", "-c", _COMPRESS, given=data, **_COMPRESSING)

    def outside_after_import(self, *modules: str) -> list[str]:
        """Import modules, in order; the files then in use that are not of the image.

        Raises: ImageError: One cannot be imported.
        """
        what: dict[str, Any] = {"what": f"importing {', '.join(modules)} in the image", "advice": _IMPORT_ADVICE, "seconds": _SECONDS_MAX}
        return self._run("-s", "-B", "-c", _IMPORT, str(self.folder), *modules, **what).decode().splitlines()

    def _run(self, *arguments: str, **options: Any) -> bytes:
        return run(self.command(*arguments), environment=self.environment, **options)

    @property
    def environment(self) -> Mapping[str, str]:
        """All of the environment in which it runs from here."""
        return {"PYTHONHOME": str(self.folder / "usr"), "PYTHONHASHSEED": "0", "LC_ALL": "C"}


PACKAGES: Final = "usr/lib/python3/dist-packages"
_COMPILING: Final[dict[str, Any]] = {"what": "compiling modules", "advice": _ADVICE, "seconds": _SECONDS_MAX}
_COMPRESSING: Final[dict[str, Any]] = {"what": "compressing", "advice": _ADVICE, "seconds": _SECONDS_MAX}
_IMPORT_ADVICE: Final = (
    "an image holds the enclave, its few libraries and most of the standard library; an application can use nothing else"
)


def _request(sources: Sequence[tuple[str, bytes]]) -> bytes:
    return marshal.dumps([(path, source) for path, source in sources], 4)


def _modules(answer: bytes) -> list[bytes]:
    made = marshal.loads(answer)  # noqa: S302 (our own program's answer)
    if isinstance(made, str):
        raise ImageError(f"a module of the image is not Python: {made}")
    assert isinstance(made, list), "one answer of two"
    return made
