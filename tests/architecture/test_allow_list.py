"""What trusted code may use from outside is a list, frozen here; a new name in it is a decision, so it is made in this file.

The import contracts forbid what is known to be wrong (sockets, clocks, threads); this list also stops what nobody has thought of yet.
"""

import subprocess
import sys
from typing import Final

import grimp
import pytest

from support.repository import ROOT


def names(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


# Packages and standard library modules that are imported directly, by component. Everything here is pure, or a codec, or
# cryptography; randomness comes through nacl in `enclave.entropy` only.
ALLOWED: Final[dict[str, frozenset[str]]] = {
    "ledger": names("""
        base64 binascii collections dataclasses functools hashlib hmac io json re struct typing
        cbor2 cryptography
    """),
    "governance": names("base64 collections datetime hashlib json re typing cryptography"),
    "enclave": names("""
        base64 binascii bisect collections contextlib dataclasses datetime enum functools hashlib hmac http inspect ipaddress itertools
        json operator re struct types typing urllib
        cbor2 cryptography httptools msgpack nacl OpenSSL
    """),
    # The enclave's entry: the one place with I/O. Of others' libraries, a script worker's process has msgpack, the JavaScript engine, and
    # for `ccf.crypto` what the enclave has; the enclave's own process loads no engine, as a test below sees.
    "enclave.runtime": names("""
        base64 binascii collections contextlib ctypes datetime enum fcntl functools gc hashlib hmac importlib json marshal os platform
        queue resource select signal socket struct sys threading time traceback types typing
        _quickjs cryptography msgpack OpenSSL
    """),
    "apps": names("dataclasses typing"),
}

# What trusted code uses of the house itself, beyond its own component. (The enclave's is bounded by the contracts.)
HOUSE: Final[dict[str, frozenset[str]]] = {
    "ledger": frozenset(),
    "governance": frozenset({"ledgerd.ledger"}),
    "apps": frozenset({"ledgerd.enclave.app"}),
}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """Who imports whom."""
    return grimp.build_graph("ledgerd", include_external_packages=True, cache_dir=None)


def component_of(module: str) -> str | None:
    """The component in whose list a module is looked up."""
    parts = module.split(".")
    if parts[1:3] == ["enclave", "runtime"]:
        return "enclave.runtime"
    return parts[1] if len(parts) > 1 else None


def imports_of(graph: grimp.ImportGraph, component: str) -> dict[str, set[str]]:
    """Everything that a component's modules import, and which of them do."""
    found: dict[str, set[str]] = {}
    for module in sorted(graph.modules):
        if module.startswith("ledgerd.") and component_of(module) == component:
            for imported in graph.find_modules_directly_imported_by(module):
                found.setdefault(imported, set()).add(module)
    return found


@pytest.mark.parametrize("component", ALLOWED)
def test_trusted_code_uses_what_is_listed_and_nothing_else(graph: grimp.ImportGraph, component: str) -> None:
    outside = {name: who for name, who in imports_of(graph, component).items() if name.split(".")[0] != "ledgerd"}
    new = {name: sorted(who) for name, who in outside.items() if name not in ALLOWED[component]}
    assert not new, f"{component} imports what is not on its list; is it trusted?"
    assert not ALLOWED[component] - outside.keys(), "on the list and used by nobody: take it off"


@pytest.mark.parametrize("component", HOUSE)
def test_trusted_code_uses_of_the_house_what_its_place_allows(graph: grimp.ImportGraph, component: str) -> None:
    foreign = {
        name: sorted(who)
        for name, who in imports_of(graph, component).items()
        if name.startswith("ledgerd") and component_of(name) != component
        if not any(name == door or name.startswith(f"{door}.") for door in HOUSE[component])
    }
    assert not foreign


def test_nobody_imports_the_runtime(graph: grimp.ImportGraph) -> None:
    runtime = {module for module in graph.modules if component_of(module) == "enclave.runtime"}
    users = {user for module in runtime for user in graph.find_modules_that_directly_import(module)} - runtime
    assert runtime
    assert not users


def test_randomness_has_one_source(graph: grimp.ImportGraph) -> None:
    drawing = graph.find_matching_direct_imports(import_expression="ledgerd.enclave.entropy -> nacl")
    assert drawing, "entropy moved: name its new source here"
    everywhere = {name for component in ("ledger", "governance", "enclave", "apps") for name in imports_of(graph, component)}
    assert not everywhere & {"random", "secrets", "uuid"}


_IMPORT_THE_TRUSTED: Final = """
import importlib, pkgutil, sys
count = 0
for component in ("ledger", "governance", "enclave", "apps"):
    package = importlib.import_module(f"ledgerd.{component}")
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.startswith("ledgerd.enclave.runtime"):
            importlib.import_module(module.name)
            count += 1
loaded = sorted({"trio", "anyio", "lmdb", "httpx", "subprocess", "multiprocessing", "asyncio", "click", "rich"} & sys.modules.keys())
print(count, *loaded)
"""


def test_importing_the_sans_io_enclave_loads_nothing_that_does_io() -> None:
    """`socket` is not on the list: cryptography.x509 loads it, for the type of an address."""
    done = subprocess.run([sys.executable, "-I", "-c", _IMPORT_THE_TRUSTED], cwd=ROOT, capture_output=True, text=True, check=True)
    count, *loaded = done.stdout.split()
    assert int(count) > 40, "the walk found the modules"
    assert not loaded


_IMPORT_THE_ENCLAVE: Final = """
import sys
import ledgerd.enclave.core, ledgerd.enclave.runtime.main, ledgerd.enclave.runtime.script_pool
print(*sorted(name for name in sys.modules if "quickjs" in name or name.endswith("script_worker")))
"""


def test_the_enclave_s_own_process_loads_no_javascript_engine() -> None:
    """A flaw of the engine's is one of a process that holds no key."""
    done = subprocess.run([sys.executable, "-I", "-c", _IMPORT_THE_ENCLAVE], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
