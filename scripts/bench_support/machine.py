"""The machine under the benchmark: what it is, how long its disk takes to sync, and free ports on it."""

import os
import platform
import socket
import time
from pathlib import Path
from typing import NamedTuple

from bench_support.processes import BenchError, busy_seconds

SYNC_SAMPLES = 300
IDLE_SECONDS = 1.0


class Machine(NamedTuple):
    """What a reader needs to judge the figures."""

    cpu: str
    cores: int
    memory_gib: float
    kernel: str
    python: str
    filesystem: str
    sync_ms_p50: float
    """Append 4 KiB and fdatasync, as a log does."""
    sync_ms_p99: float
    busy_cores_before: float
    """Cores that other programs kept busy in the second before the run."""


def describe(folder: Path) -> Machine:
    """Measure and describe this machine, with its disk under `folder`."""
    cpu = next((line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    kib = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    started = busy_seconds()
    time.sleep(IDLE_SECONDS)
    busy = (busy_seconds() - started) / IDLE_SECONDS
    p50, p99 = _sync_latency(folder)
    return Machine(
        cpu, len(os.sched_getaffinity(0)), round(kib / 2**20, 1), platform.release(), platform.python_version(), filesystem(folder),
        p50, p99, round(busy, 2),
    )  # fmt: skip


def filesystem(folder: Path) -> str:
    """Type of the file system that holds a folder, from the longest mount point above it."""
    mounts = [line.split()[1:3] for line in _lines("/proc/mounts")]
    holders = [(point, kind) for point, kind in mounts if folder.resolve().is_relative_to(point)]
    return max(holders, key=lambda mount: len(mount[0]))[1]


def require_disk(folder: Path) -> None:
    """Refuse a folder in memory, where a sync costs nothing. Raises: BenchError."""
    kind = filesystem(folder)
    if kind in {"tmpfs", "ramfs"}:
        raise BenchError(f"{folder} is in memory ({kind}), where syncing costs nothing; name a folder on a disk with --dir")


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(server.getsockname()[1]) for server in sockets]
    for server in sockets:
        server.close()
    return ports


def percentile(ordered: list[float], share: float) -> float:
    """The value below which a share (0 to 1) of an ordered, non-empty list lies."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _sync_latency(folder: Path) -> tuple[float, float]:
    path = folder / "sync-probe"
    block = os.urandom(4096)
    times = []
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for _ in range(SYNC_SAMPLES):
            started = time.perf_counter()
            os.write(descriptor, block)
            os.fdatasync(descriptor)
            times.append((time.perf_counter() - started) * 1000)
    finally:
        os.close(descriptor)
        path.unlink()
    times.sort()
    return round(percentile(times, 0.5), 3), round(percentile(times, 0.99), 3)


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()
