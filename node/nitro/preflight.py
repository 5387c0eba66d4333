"""Looks whether an enclave can be started here, and says for each thing that is missing what to do.

One cause, one failure: what can only be known once something else is right is left out until then, instead of failing too.
"""

from collections.abc import Sequence
from typing import Final

from ledgerd.node.checks import Check, failure, success, warning
from ledgerd.node.config import NitroConfig
from ledgerd.node.image import preflight as images
from ledgerd.node.nitro.causes import ALLOCATOR as ALLOCATOR_FILE
from ledgerd.node.nitro.causes import RESTART
from ledgerd.node.nitro.cli import NitroCli, NitroError, RunningInfo, own
from ledgerd.node.nitro.machine import ALLOCATOR, DEVICE, GROUP, VSOCK, Machine

VERSION_MIN: Final = (1, 2, 0)  # the oldest whose errors and answers were looked at
ENCLAVES_MAX: Final = 4
IMAGE_FACTOR: Final = 4  # nitro-cli's own rule: memory of at least four times the image
_OPTION: Final = "launch an instance with --enclave-options Enabled=true, of a type that has enclaves"


def preflight(config: NitroConfig, name: str, machine: Machine, cli: NitroCli) -> list[Check]:
    """Look at everything.

    Args:
        config: What is to be started.
        name: The enclave's name.
        machine, cli: Where.
    """
    checks = [_device(machine), _vsock(machine)]
    image, read, size = images.image(config.image, "nitro")
    checks.append(image)
    if read is not None:
        checks.append(_memory_for_image(config, size))
    checks.append(_allocator(machine))
    checks.extend(_full_cores(config, machine))
    program, running = _program(cli)
    checks.append(program)
    if running is not None:
        checks.append(_running(running, name, config.cid))
        checks.extend(_cpus(config, machine, running))
    elif machine.cpu_pool():
        checks.extend(_cpus(config, machine, ()))
    checks.extend(_huge_pages(config, machine))
    return checks


def _device(machine: Machine) -> Check:
    name = "enclave device"
    if machine.exists(DEVICE):
        if machine.usable(DEVICE):
            return success(name, f"/{DEVICE} is there, and this user may use it")
        if machine.waits_for_login():
            return failure(name, f"this session began before {machine.user()} was in group `{GROUP}`", "log out and in again")
        return failure(
            name, f"{machine.user()} may not use /{DEVICE}", f"`sudo usermod -aG {GROUP} {machine.user()}`, then log out and in again"
        )
    if not machine.is_ec2():
        return failure(name, f"no /{DEVICE}: this machine is no EC2 instance", "run this on an EC2 instance with enclaves enabled")
    if not machine.exists("sys/module/nitro_enclaves"):
        return failure(name, f"no /{DEVICE}: the driver is not loaded", f"`sudo modprobe nitro_enclaves`; if that fails, {_OPTION}")
    return failure(name, f"no /{DEVICE}: enclaves are not enabled for this instance", _OPTION)


def _vsock(machine: Machine) -> Check:
    if machine.exists(VSOCK):
        return success("vsock", f"/{VSOCK} is there")
    return failure("vsock", f"no /{VSOCK}", "`sudo modprobe vsock`; the link to the enclave goes over it")


def _memory_for_image(config: NitroConfig, size: int) -> Check:
    name = "memory for the image"
    least = -(-IMAGE_FACTOR * size // (1 << 20))
    if config.memory_mb < least:
        return failure(
            name,
            f"{config.memory_mb} MiB, and four times the image is {least} MiB",
            f"set nitro.memory_mb to {least} at least; the state needs more: a million keys about 1024",
        )
    return success(name, f"{config.memory_mb} MiB, four times the image is {least} MiB")


def _allocator(machine: Machine) -> Check:
    name = "allocator"
    settings = machine.allocator()
    if settings is None:
        return failure(
            name, f"no {ALLOCATOR_FILE}", "install aws-nitro-enclaves-cli, which brings the allocator, and give it memory and CPUs there"
        )
    missing = [key for key in ("memory_mib",) if not settings.get(key, "").isdigit()]
    if missing or not (settings.get("cpu_count", "").isdigit() or settings.get("cpu_pool")):
        return failure(name, f"/{ALLOCATOR} lacks {(missing or ['cpu_count'])[0]}", f"set memory_mib and cpu_count there, then `{RESTART}`")
    if not machine.cpu_pool():
        return failure(
            name,
            "it has set no CPUs aside: it has not run, or it failed",
            f"`sudo systemctl enable --now nitro-enclaves-allocator.service`, then `systemctl status` it; after changes `{RESTART}`",
        )
    cpus = settings.get("cpu_count") or settings.get("cpu_pool")
    return success(name, f"{settings['memory_mib']} MiB and CPUs {cpus} in {ALLOCATOR_FILE}; it has run")


def _full_cores(config: NitroConfig, machine: Machine) -> list[Check]:
    threads = machine.threads_per_core()
    if config.cpus % threads:
        found = f"{config.cpus} CPUs, and a core of this machine is {threads}"
        return [failure("full cores", found, f"set nitro.cpus to a multiple of {threads}: enclaves take full cores")]
    return [success("full cores", f"{config.cpus} CPUs, {threads} for each core")]


def _program(cli: NitroCli) -> tuple[Check, list[RunningInfo] | None]:
    name = "nitro-cli"
    try:
        version = cli.version()
        running = cli.describe()
    except NitroError as error:
        return failure(name, f"{error.cause.code} {error.cause.text}".strip(), error.cause.advice), None
    text = ".".join(map(str, version))
    if version < VERSION_MIN:
        return warning(name, f"version {text}", f"update to {'.'.join(map(str, VERSION_MIN))} or newer"), running
    return success(name, f"version {text}"), running


def _running(running: Sequence[RunningInfo], name: str, cid: int | None) -> Check:
    check = "running enclaves"
    names = ", ".join(f"{enclave.name or enclave.id} (CID {enclave.cid})" for enclave in running) or "none"
    for enclave in own(running, name):
        return failure(
            check,
            f"one of the name {name} runs already",
            f"`nitro-cli terminate-enclave --enclave-id {enclave.id}`, or choose another nitro.name",
        )
    if any(enclave.cid == cid for enclave in running):
        return failure(check, f"CID {cid} is taken: {names}", "leave nitro.cid out, so that a free one is taken")
    if len(running) >= ENCLAVES_MAX:
        return failure(check, f"{len(running)}, the limit of an instance: {names}", "end one: `nitro-cli terminate-enclave`")
    return success(check, names)


def _cpus(config: NitroConfig, machine: Machine, running: Sequence[RunningInfo]) -> list[Check]:
    pool = machine.cpu_pool()
    if not pool:
        return []  # the allocator's failure has said so
    name = "free CPUs"
    free = len(pool) - sum(enclave.cpus for enclave in running)
    if free < config.cpus:
        return [
            failure(
                name,
                f"{free} of {len(pool)} in the pool are free, {config.cpus} are needed",
                f"raise cpu_count in {ALLOCATOR_FILE}, then `{RESTART}`; or lower nitro.cpus; or end another enclave",
            )
        ]
    return [success(name, f"{free} of {len(pool)} in the pool, {config.cpus} needed")]


def _huge_pages(config: NitroConfig, machine: Machine) -> list[Check]:
    name = "free huge pages"
    pages = machine.huge_pages()
    if not machine.cpu_pool():
        return []  # no allocator has run, so none can have been reserved
    total = sum(page.size_mb * page.total for page in pages)
    free = sum(page.size_mb * page.free for page in pages)
    if free < config.memory_mb:
        return [
            failure(
                name,
                f"{free} of {total} MiB are free, {config.memory_mb} are needed",
                f"raise memory_mib in {ALLOCATOR_FILE}, then `{RESTART}`; or lower nitro.memory_mb; or end another enclave",
            )
        ]
    return [success(name, f"{free} of {total} MiB, {config.memory_mb} needed")]
