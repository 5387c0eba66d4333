"""Three ledgerd nodes on this machine, started as a newcomer would: `ledgerd dev`.

`dev` runs a command when the service is open; ours notes the addresses in a file and then waits. The end is a SIGTERM to `dev`, which has
to stop everything; what it leaves behind is killed by pid and reported.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from bench_support.machine import free_ports
from bench_support.processes import BenchError, run, stat_fields, stop, stop_pid

NODES = 3
START_SECONDS_MAX = 90.0
STOP_SECONDS_MAX = 20.0
HOLD_SECONDS = 24 * 3600


class Service:
    """A running service; a context manager that leaves no process behind."""

    def __init__(self, folder: Path, program: str, *options: str) -> None:
        """`program` is the ledgerd to run; `options` go to its `dev`."""
        self._folder = folder
        self._program = program
        self._options = options
        self._child: subprocess.Popen[bytes] | None = None
        self._pids: dict[str, int] = {}
        self._started: dict[int, str] = {}
        self.url = ""
        """The primary's: loading a backup would add a hop to every write."""
        self.start_seconds = 0.0

    def __enter__(self) -> "Service":
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def directory(self) -> Path:
        """What `dev` calls DIR."""
        return self._folder / "service"

    @property
    def ca(self) -> Path:
        """The service's certificate, PEM."""
        return self.directory / "common" / "service_cert.pem"

    @property
    def user(self) -> tuple[Path, Path]:
        """The first user's certificate and key, PEM."""
        common = self.directory / "common"
        return common / "user0_cert.pem", common / "user0_privk.pem"

    @property
    def processes(self) -> dict[str, int]:
        """Pids: host and enclave of the primary and of each backup."""
        return dict(self._pids)

    def close(self) -> list[int]:
        """Stop everything; safe to call twice.

        Returns: pids that `ledgerd dev` had left running.
        """
        child, self._child = self._child, None
        if child is None:
            return []
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                stop(child, grace_seconds=1.0)
        left = [pid for pid, started in self._started.items() if _lives(pid, started)]
        for pid in left:
            stop_pid(pid, self._started[pid])
        if left:
            sys.stderr.write(f"bench: ledgerd dev left {len(left)} processes running, now killed: {left}\n")
        return left

    def _start(self) -> None:
        ready = self._folder / "ready"
        note = shlex.quote(str(ready))
        script = f"(env | grep ^LEDGERD_; echo HOLD_PID=$$) > {note}.new && mv {note}.new {note} && exec sleep {HOLD_SECONDS}"
        hold = f"sh -c {shlex.quote(script)}"
        command = [self._program, "dev", "--nodes", str(NODES), "--dir", str(self.directory), "--port", str(free_ports(1)[0])]
        log = self._folder / "dev.log"
        began = time.monotonic()
        with log.open("wb") as output:
            self._child = subprocess.Popen(
                [*command, *self._options, "--exec", hold], stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        while not ready.exists():
            if self._child.poll() is not None:
                raise BenchError(f"ledgerd dev ended with status {self._child.returncode}: {log.read_text(errors='replace')[-1200:]}")
            if time.monotonic() - began > START_SECONDS_MAX:
                raise BenchError(f"ledgerd dev was not ready within {START_SECONDS_MAX:.0f} s: {log.read_text(errors='replace')[-1200:]}")
            time.sleep(0.05)
        self.start_seconds = time.monotonic() - began
        words = dict(line.partition("=")[::2] for line in ready.read_text().splitlines())
        self.url = words["LEDGERD_URL"].rstrip("/")
        self._remember(int(words["HOLD_PID"]))
        self._find_processes()

    def _find_processes(self) -> None:
        backups = 0
        for node in sorted(path for path in self.directory.iterdir() if path.name.startswith("node") and path.is_dir()):
            primary = self.url.endswith("/" + (node / "rpc_address").read_text().strip())
            backups += not primary
            for kind in ("host", "enclave"):
                pid = int((node / f"{kind}.pid").read_text())
                self._pids[f"{'primary' if primary else f'backup {backups}'} {kind}"] = pid
                self._remember(pid)
        if not any(name.startswith("primary") for name in self._pids):
            raise BenchError(f"none of the nodes in {self.directory} has the primary's address {self.url} in its rpc_address")

    def _remember(self, pid: int) -> None:
        self._started[pid] = stat_fields(pid)[19]


def _lives(pid: int, started: str) -> bool:
    try:
        fields = stat_fields(pid)
    except OSError:
        return False
    return fields[0] != "Z" and fields[19] == started


def ledgerd() -> str:
    """The program `ledgerd` that belongs to this Python, else the one on PATH."""
    beside = Path(sys.executable).with_name("ledgerd")
    return str(beside) if os.access(beside, os.X_OK) else "ledgerd"


def version(program: str) -> str:
    """As `ledgerd --version` prints it, with the commit of the source where there is one."""
    text = run([program, "--version"], seconds=30).strip().rpartition(" ")[2]
    try:
        commit = run(["git", "-C", str(Path(program).parent), "describe", "--always", "--dirty"], seconds=10).strip()
    except BenchError:
        return text
    return f"{text} ({commit})"
