"""What goes into ramdisk 1, and where: the one place where something is let into an image or kept out of it.

Everything is under `rootfs/`, which the platform's init enters before it starts what `cmd` says with the environment that `env` says:
one word, one `NAME=value` a line. Modules are there as bytecode only, whose first bytes hold their source's hash: one file for each, so
none can differ from what is shown beside it.
Not here: how things are fetched (`packages`, `wheels`) and compiled (`python`).
"""

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final

from ledgerd.ledger.errors import ConfigurationError
from ledgerd.node.image.errors import ImageError
from ledgerd.node.image.python import LIBRARIES, LOADER, PACKAGES, PYTHON, VERSION, Tools
from ledgerd.node.image.tree import File, Folder, Link, Tree

RUNTIME: Final = "ledgerd.enclave.runtime"
NSM_DEVICE: Final = "/dev/nsm"
STANDARD_LIBRARY: Final = f"usr/lib/python{VERSION}"
ENVIRONMENT: Final = {"PATH": "/usr/bin", "LC_ALL": "C"}  # there are no locales; the command says UTF-8

# Where the platform's init mounts things; it does not make them.
MOUNT_POINTS: Final = ("dev", "proc", "run", "sys", "tmp")
_MERGED_LINKS: Final = {"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64"}

# Shared libraries, by what programs call them. Each is needed by the interpreter or by a module below; a test loads all of them.
LIBRARIES_KEPT: Final = {
    "libc.so.6": "everything",
    "libm.so.6": "the interpreter, _decimal, cbor2",
    "libpthread.so.0": "an empty shell since it became part of libc; msgpack, httptools, cffi and cbor2 still ask for it",
    "libgcc_s.so.1": "unwinding in Rust: cryptography, cbor2; and libc itself, when a thread is cancelled",
    "libz.so.1": "the interpreter",
    "libexpat.so.1": "the interpreter",
    "libffi.so.8": "_ctypes",
    "libcrypto.so.3": "_hashlib: SHA-2 by the processor's own instructions, several times as fast as Python's own",
}
EXTENSIONS_KEPT: Final = ("_contextvars", "_ctypes", "_decimal", "_hashlib", "_json", "_queue", "_typing", "resource")
ENCODINGS_KEPT: Final = frozenset(
    {"__init__", "aliases", "ascii", "base64_codec", "charmap", "hex_codec", "idna", "latin_1", "punycode", "raw_unicode_escape"}
    | {"unicode_escape", "utf_16", "utf_16_be", "utf_16_le", "utf_32", "utf_32_be", "utf_32_le", "utf_7", "utf_8", "utf_8_sig"}
)

# Of the standard library, what an enclave has no use for. What computes stays: an application may use it.
LEFT_OUT: Final[Mapping[str, str]] = {
    "tests": "test unittest doctest __hello__ __phello__",
    "packaging and building": "venv distutils _distutils_system_mod zipapp modulefinder py_compile compileall _sysconfigdata* "
    "_osx_support _aix_support _bootsubprocess pyclbr symtable",
    "debugging and profiling": "pdb bdb cmd code codeop profile cProfile pstats trace tracemalloc timeit pydoc pydoc_data pickletools "
    "tabnanny rlcompleter",
    "screens, sound and mail": "turtle curses webbrowser antigravity this aifc chunk sunau wave sndhdr imghdr colorsys mailbox mailcap "
    "smtplib smtpd imaplib poplib nntplib telnetlib ftplib uu xdrlib netrc",
    "terminals and other programs": "pty tty getpass getopt pipes subprocess crypt",
    "network, and other processes": "asyncio asyncore asynchat multiprocessing concurrent socketserver ssl http/client http/server "
    "http/cookies http/cookiejar urllib/request urllib/robotparser urllib/response urllib/error wsgiref xmlrpc cgi cgitb logging/config",
    "databases, archives and documents": "sqlite3 dbm shelve tarfile gzip bz2 lzma _compression zipimport xml plistlib",
    "other systems": "ntpath nturl2path ctypes/_aix ctypes/util ctypes/wintypes zoneinfo",
    "what is there in C": "_pyio _pydecimal",
    "metadata of distributions, of which there is none": "importlib/metadata",
    "what runs at the start on a developer's machine": "sitecustomize",
}
_LEFT_OUT: Final = [pattern for patterns in LEFT_OUT.values() for pattern in patterns.split()]

# Of wheels, beyond what is no module: cffi's own Python is for building; what runs needs its one extension.
# Of quickjs-ng, the library that is its extension is all that is used.
WHEELS_LEFT_OUT: Final = ("cffi/*", "quickjs/*", "*/tests/*", "*/test/*", "*/conftest.py", "msgpack/fallback.py")
DATA_SUFFIXES: Final = (".pem", ".js", ".json", ".txt")
_LINE: Final = re.compile(r"[\x20-\x7e]+")


def platform_tree(packages: Sequence[Tree]) -> Tree:
    """All files of all packages: what the image's Python needs to run here, and a little more."""
    everything = Tree()
    for package in packages:
        everything.update(package)
    return everything


def system(everything: Tree) -> Tree:
    """Take out of the packages what an image needs: interpreter, loader and libraries.

    Raises: ImageError: Something is not there.
    """
    tree = Tree()
    for folder in MOUNT_POINTS:
        tree.add(folder, Folder())
    for name, target in _MERGED_LINKS.items():
        tree.add(name, Link(target))
    tree.add(PYTHON, _follow(everything, PYTHON))
    tree.add(LOADER, _follow(everything, LOADER))
    tree.add("usr/lib64/ld-linux-x86-64.so.2", Link(f"/{LOADER}"))
    for name in LIBRARIES_KEPT:
        # Under the name by which it is asked for: links between names are of use to linkers only.
        tree.add(f"{LIBRARIES}/{name}", File(_follow(everything, f"{LIBRARIES}/{name}").data))
    for name in EXTENSIONS_KEPT:
        file = f"{STANDARD_LIBRARY}/lib-dynload/{name}.cpython-{VERSION.replace('.', '')}-x86_64-linux-gnu.so"
        tree.add(file, File(_follow(everything, file).data))
    return tree


def _follow(tree: Tree, path: str) -> File:
    for _ in range(8):
        node = tree.get(path)
        if isinstance(node, File):
            return node
        if not isinstance(node, Link):
            break
        path = node.target.lstrip("/") if node.target.startswith("/") else f"{path.rpartition('/')[0]}/{node.target}"
        path = path if path.startswith("usr/") else f"usr/{path}"
    raise ImageError(f"the packages hold no file {path!r}; compare packages.lock with what `rootfs` keeps")


def standard_library(everything: Tree) -> Tree:
    """The modules of the standard library that are kept, as sources."""
    tree = Tree()
    for path, file in everything.files():
        inside = path.removeprefix(f"{STANDARD_LIBRARY}/")
        if inside != path and inside.endswith(".py") and not _is_left_out(inside.removesuffix(".py")):
            tree.add(path, File(file.data))
    return tree


def _is_left_out(module: str) -> bool:
    """Of `a/b/c`: whether it, or a package above it, is named in `LEFT_OUT`."""
    parts = module.split("/")
    if parts[0] == "encodings":
        return parts[-1] not in ENCODINGS_KEPT
    above = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
    return any(fnmatchcase(name, pattern) for name in above for pattern in _LEFT_OUT)


def wheels(trees: Sequence[Tree]) -> Tree:
    """Modules and extensions of the wheels that are kept, in their place."""
    tree = Tree()
    for wheel in trees:
        for path, file in wheel.files():
            if not any(fnmatchcase(path, pattern) for pattern in WHEELS_LEFT_OUT):
                tree.add(f"{PACKAGES}/{path}", File(file.data))
    return tree


def sources(files: Mapping[str, bytes]) -> Tree:
    """Our own modules, and data of the few kinds that there are, by path below the folder of packages.

    Raises: ConfigurationError: A file is of no kind that belongs into an image.
    """
    tree = Tree()
    for path, data in files.items():
        if not path.endswith((".py", *DATA_SUFFIXES)):
            raise ConfigurationError(
                f"{path} is neither a module nor data ({', '.join(DATA_SUFFIXES)}), so no image takes it; move it out of the package"
            )
        tree.add(f"{PACKAGES}/{path}", File(data))
    return tree


def compiled(tree: Tree, tools: Tools) -> Tree:
    """The same tree with bytecode in place of sources."""
    modules = [(path, file.data) for path, file in tree.files() if path.endswith(".py")]
    made = dict(zip((path for path, _ in modules), tools.compile([(f"/{path}", source) for path, source in modules]), strict=True))
    result = Tree()
    for path, node in tree.items():
        if path in made:
            result.add(f"{path}c", File(made[path]))
        else:
            result.add(path, node)
    return result


def command(app: str, link_port: int) -> tuple[str, ...]:
    """What runs in the enclave.

    Raises: ConfigurationError: The port is none.
    """
    if not 0 < link_port < 1 << 32:
        raise ConfigurationError(f"a vsock port is 1 to {(1 << 32) - 1}, not {link_port}")
    # -I: the interpreter takes nothing from its environment, nor from a working directory
    return (f"/{PYTHON}", "-I", "-X", "utf8", "-m", RUNTIME, "--link", f"vsock:{link_port}", "--nsm", NSM_DEVICE, "--app", app)


def ramdisk_tree(root: Tree, words: Sequence[str], environment: Mapping[str, str] = ENVIRONMENT) -> Tree:
    """The whole of ramdisk 1: the root, and what init is to start in it.

    Raises: ImageError: A word cannot stand on a line of its own.
    """
    variables = [f"{name}={value}" for name, value in sorted(environment.items())]
    for line in (*words, *variables):
        if not _LINE.fullmatch(line):
            raise ImageError(f"init cannot be told {line!r}: each word of the command must be one line of ASCII")
    tree = Tree()
    tree.add("cmd", File("".join(f"{word}\n" for word in words).encode()))
    tree.add("env", File("".join(f"{variable}\n" for variable in variables).encode()))
    tree.add("rootfs", Folder())
    tree.update(root, "rootfs")
    return tree
