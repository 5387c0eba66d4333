"""Processes that a benchmark started: their CPU time, their memory, their end.

Every figure comes from `/proc`, so Linux only. Processes are known and stopped by pid, never by name.
"""

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

TICK_SECONDS = 1.0 / os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """The benchmark cannot go on; the message says what to do."""


class Memory(NamedTuple):
    """Bytes, as `/proc/PID/smaps_rollup` sees them."""

    resident: int
    anonymous: int
    """Without pages of files: LMDB's map is page cache, which the kernel may drop."""


def stat_fields(pid: int) -> list[str]:
    """The fields of `/proc/PID/stat` after the command's name; index 11 is utime, 12 is stime, 19 the start time. Raises: OSError."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def cpu_seconds(pid: int) -> float:
    """User and system time that a process has used with all its threads, in seconds, in steps of a tick (10 ms). Raises: BenchError."""
    try:
        fields = stat_fields(pid)
    except OSError:
        raise BenchError(f"process {pid} has ended during the measurement; its log says why") from None
    return (int(fields[11]) + int(fields[12])) * TICK_SECONDS


def busy_seconds() -> float:
    """CPU time of the whole machine since boot, all cores together, without idle and waiting for disks, in seconds."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) * TICK_SECONDS


def memory(pid: int) -> Memory:
    """What a process holds now.

    A process that lets nobody look (an enclave is not dumpable, so only root may) is read from `status`, which is less exact.
    Raises: BenchError.
    """
    try:
        try:
            sizes = _kib(Path(f"/proc/{pid}/smaps_rollup").read_text())
            return Memory(sizes["Rss"], sizes["Anonymous"])
        except PermissionError:
            sizes = _kib(Path(f"/proc/{pid}/status").read_text())
            return Memory(sizes["VmRSS"], sizes["RssAnon"])
    except (OSError, KeyError) as error:
        raise BenchError(f"process {pid} has ended, its memory cannot be read: {error!r}; its log says why") from None


def _kib(text: str) -> dict[str, int]:
    lines = (line.split() for line in text.splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[-1] == "kB"}


class CpuWindow:
    """CPU seconds of each named process, and of everything else on the machine, between its making and `close`."""

    def __init__(self, processes: Mapping[str, int]) -> None:
        self._processes = dict(processes)
        self._started = time.monotonic()
        self._children = _children_seconds()
        self._busy = busy_seconds()
        self._before = {name: cpu_seconds(pid) for name, pid in self._processes.items()}

    def close(self) -> tuple[dict[str, float], float, float]:
        """To be called when the load, a child of this process, has been waited for.

        Returns: CPU seconds by process; CPU seconds of the load; cores that others kept busy meanwhile (0.3 is a third of one core).
        """
        by_process = {name: cpu_seconds(pid) - self._before[name] for name, pid in self._processes.items()}
        load = _children_seconds() - self._children
        others = busy_seconds() - self._busy - sum(by_process.values()) - load
        return by_process, load, max(0.0, others / (time.monotonic() - self._started))


def _children_seconds() -> float:
    times = os.times()
    return times.children_user + times.children_system


def stop(process: subprocess.Popen[bytes], *, grace_seconds: float = 10.0) -> None:
    """Ask a child to end, then end it."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def stop_pid(pid: int, started: str) -> None:
    """End a process that is not our child, if it still is the one that started at that time (field 19 of its stat)."""
    try:
        if stat_fields(pid)[19] == started:
            os.kill(pid, signal.SIGKILL)
    except OSError:
        return


def run(command: list[str], *, seconds: float, environment: Mapping[str, str] | None = None) -> str:
    """Run a load to its end.

    Args:
        seconds: how long it may take before it is killed.
    Returns: Its standard output.
    Raises: BenchError: It is not installed, took too long or failed.
    """
    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds, env={**os.environ, **(environment or {})}, check=False)
    except FileNotFoundError:
        raise BenchError(f"{command[0]} is not installed; on Debian and Ubuntu: apt-get install {package_of(command[0])}") from None
    except subprocess.TimeoutExpired:
        raise BenchError(f"{command[0]} did not end within {seconds:.0f} s: {' '.join(command)}") from None
    if done.returncode != 0:
        tail = (done.stderr or done.stdout).decode(errors="replace")[-600:]
        raise BenchError(f"{command[0]} ended with status {done.returncode}: {' '.join(command)}\n{tail}")
    return done.stdout.decode(errors="replace")


def package_of(program: str) -> str:
    """The Debian package that holds a program we use."""
    return {"ab": "apache2-utils", "etcd": "etcd-server", "etcdctl": "etcd-client", "h2load": "nghttp2-client"}.get(program, program)
