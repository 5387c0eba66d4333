"""Looks at this machine as a node will meet it: program, disk, limits, ports, and the launcher that is to start the enclave.

Law: it changes nothing but one temporary file, and leaves nothing; a check that cannot be made says so, and never raises.
Not here: what an AWS instance needs (`node.nitro.preflight`), what a virtual machine needs (`node.vm.preflight`), how it is printed
(`node.cli.doctor`).
"""

import os
import platform
import resource
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Final

from ledgerd.ledger.errors import ConfigurationError
from ledgerd.node.checks import Check, Section, failure, success, warning
from ledgerd.node.config import CLIENTS_MAX_DEFAULT, VM_MEMORY_MB_DEFAULT, VM_QEMU_DEFAULT, NitroConfig, NodeConfig, VmConfig
from ledgerd.node.launch import ProcessLauncher
from ledgerd.node.lifecycle import files_needed, refuse_used
from ledgerd.node.measure import DEPENDENCIES, check_application
from ledgerd.node.nitro.cli import NitroCli
from ledgerd.node.nitro.launcher import NitroLauncher
from ledgerd.node.nitro.machine import Machine
from ledgerd.node.nitro.preflight import preflight
from ledgerd.node.sections import Address
from ledgerd.node.vm import preflight as vms

PYTHON_MIN: Final = (3, 11)
SYNCS: Final = 32
SYNC_MS_GOOD: Final = 5.0  # each commit waits for one at a majority of the nodes; a local SSD takes 0.1 to 2 ms
BLOCK: Final = b"\0" * 4096
CHILD_SECONDS: Final = 5.0
HOST_DEPENDENCIES: Final = ("lmdb", "httpx", "anyio", "click", "rich")


def examine(
    directory: Path,
    *,
    launcher: str,
    config: NodeConfig | None = None,
    nitro: NitroConfig | None = None,
    vm: VmConfig | None = None,
    machine: Machine | None = None,
) -> list[Section]:
    """Look at everything.

    Args:
        directory: Where a node's ledger is, or is to be; it need not exist.
        launcher: `process`, `vm` or `nitro`.
        config: Of the node that is to run here, if known.
        nitro, vm: What to start, where the launcher is that one.
        machine: Where the `nitro` launcher's facts are.
    """
    machine = machine or Machine()
    sections = [Section("program", tuple(_program())), Section("machine", (*_disk(directory), _files(config), _memory(machine)))]
    if config is not None:
        sections.append(Section("node", (_directory(config), _port("clients' address", config.rpc), _port("peers' address", config.peer))))
    if launcher == "vm":
        no_image = warning("image", "none is given", "`ledgerd dev` builds one; `ledgerd node` needs --image, or vm.image")
        checks = [vms.program(VM_QEMU_DEFAULT), vms.memory(VM_MEMORY_MB_DEFAULT), no_image] if vm is None else vms.preflight(vm)
        sections.append(Section("vm launcher", (*checks, _simulated("virtual machine"))))
    elif launcher == "nitro":
        if nitro is None:
            advice = "give --image FILE, or a --config with a [nitro] section"
            nitro_checks: tuple[Check, ...] = (failure("image", "none is given", advice),)
        else:
            name = NitroLauncher(nitro, directory).name
            nitro_checks = tuple(preflight(nitro, name, machine, NitroCli(nitro.cli)))
        sections.append(Section("nitro launcher", nitro_checks))
    else:
        sections.append(Section("process launcher", tuple(_process(config))))
    return sections


def _program() -> list[Check]:
    version = platform.python_version()
    checks = []
    if sys.version_info[:2] < PYTHON_MIN:
        checks.append(failure("python", version, f"use Python {'.'.join(map(str, PYTHON_MIN))} or newer"))
    else:
        checks.append(success("python", f"{version}, {platform.machine()}"))
    missing = []
    for name in (*DEPENDENCIES, *HOST_DEPENDENCIES):
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        checks.append(failure("dependencies", f"missing: {', '.join(missing)}", "install ledgerd anew, with its dependencies"))
    else:
        checks.append(success("dependencies", f"all {len(DEPENDENCIES) + len(HOST_DEPENDENCIES)} are there"))
    return checks


def _disk(directory: Path, clock: Callable[[], float] = time.perf_counter) -> list[Check]:
    """Sync small writes where the ledger is to be, as each commit does."""
    name = "disk sync"
    place = next((path for path in (directory.absolute(), *directory.absolute().parents) if path.exists()), Path("/"))
    times = []
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            for _ in range(SYNCS):
                os.write(file.fileno(), BLOCK)
                began = clock()
                os.fdatasync(file.fileno())
                times.append((clock() - began) * 1000)
    except OSError as error:
        return [failure(name, f"cannot write in {place}: {error.strerror}", "choose another node.directory, or make this one writable")]
    typical, worst = statistics.median(times), max(times)
    found = f"{typical:.2f} ms typically, {worst:.2f} ms at worst, of {SYNCS} in {place}"
    if typical > SYNC_MS_GOOD:
        return [warning(name, found, "each commit waits for a sync: use a faster disk, one of the ledger's own if you can")]
    return [success(name, found)]


def _files(config: NodeConfig | None) -> Check:
    name = "open files"
    needed = files_needed(CLIENTS_MAX_DEFAULT if config is None else config.clients_max)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < needed:
        return failure(name, f"{hard} are allowed, {needed} are needed", "raise the hard limit (`ulimit -Hn`), or lower limits.clients")
    return success(name, f"{'any number' if hard == resource.RLIM_INFINITY else hard} allowed, {needed} needed")


def _memory(machine: Machine) -> Check:
    name = "memory"
    lines = dict(line.split(":", 1) for line in (machine.text("proc/meminfo") or "").splitlines() if ":" in line)
    words = lines.get("MemAvailable", "").split()
    if not words or not words[0].isdigit():
        return warning(name, "unknown: /proc/meminfo does not say", "see that a million keys' gigabyte is there")
    available = int(words[0]) >> 10
    if available < 1024:
        return warning(name, f"{available} MiB are available", "a million keys take about a gigabyte; end something else, or add memory")
    return success(name, f"{available} MiB available")


def _directory(config: NodeConfig) -> Check:
    name = "directory"
    try:
        refuse_used(config.directory)
    except ConfigurationError:
        return failure(name, f"{config.directory} was used by a node", "choose a new directory")
    return success(name, f"{config.directory} is new")


def _port(name: str, address: Address) -> Check:
    """Bind as a node will, and let go."""
    try:
        family = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        socket.create_server((address.host, address.port), family=family).close()
    except OSError as error:
        return failure(name, f"cannot listen on {address}: {error.strerror}", "stop what listens there, or choose another address")
    return success(name, f"{address} is free")


def _process(config: NodeConfig | None) -> list[Check]:
    checks = []
    if config is not None:
        try:
            check_application(config.app, config.app_path)
            checks.append(success("application", config.app))
        except ConfigurationError as error:
            checks.append(failure("application", str(error), "see docs/writing-apps.md"))
    ours, theirs = socket.socketpair()
    with ours:
        try:
            child = ProcessLauncher((sys.executable, "-I", "-c", "pass")).launch("none", theirs)
        except ConfigurationError as error:
            checks.append(failure("sandbox", str(error), "see what in this system forbids it to start processes"))
            return checks
        child.stop(CHILD_SECONDS)
        child.close_output()
    words = ", ".join(child.isolation)
    if "network-namespace" in child.isolation and "process-namespace" in child.isolation:
        checks.append(success("sandbox", words))
    else:
        advice = "allow user name spaces (sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces), or leave the container"
        checks.append(warning("sandbox", f"without name spaces of its own: {words}", advice))
    return [*checks, _simulated("process")]


def _simulated(what: str) -> Check:
    advice = "for development only; production needs nitro"
    return warning("attestation", f"SIMULATED: a {what} is no enclave, its host can read it", advice)
