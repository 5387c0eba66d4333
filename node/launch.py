"""The launchers: start an enclave, hand it its end of the link, say how it is kept apart.

Here: the `process` launcher, a sandboxed child for development and tests. It keeps an honest enclave's secrets in and a broken
one's reach small; it is no defence against the machine's owner, so its documents are signed by a simulated root and say so.
Law: no orphan: the child dies with the host (PR_SET_PDEATHSIG, and the end of the link), its own children with it (it is init of its
process name space).
"""

import contextlib
import ctypes
import fcntl
import os
import platform
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NoReturn, Protocol

from ledgerd.ledger.errors import ConfigurationError

PYTHON: Final = (sys.executable, "-I", "-W", "ignore")
RUNTIME: Final = "ledgerd.enclave.runtime"
MEMORY_BYTES_DEFAULT: Final = 8 << 30  # of address space; a million keys take about 1 GiB
OPEN_FILES_MAX: Final = 64  # link, simulator, standard streams, epoll, eventfd, later script workers
PROCESSES_MAX: Final = 64
START_SECONDS_MAX: Final = 5.0  # fork, name spaces and exec take milliseconds
LINK_DESCRIPTOR: Final = 3
NSM_DESCRIPTOR: Final = 4

_CLONE_NEWUTS: Final = 0x04000000
_CLONE_NEWIPC: Final = 0x08000000
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWPID: Final = 0x20000000
_CLONE_NEWNET: Final = 0x40000000
_SYS_CLONE: Final = {"x86_64": 56, "aarch64": 220}
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38
_NOBODY: Final = 65534

# Tried in this order; the first that the kernel allows is used. Ubuntu, for one, may refuse user name spaces to ordinary users.
_ISOLATIONS: Final[tuple[tuple[int, tuple[str, ...]], ...]] = (
    (
        _CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWPID | _CLONE_NEWIPC | _CLONE_NEWUTS,
        ("user-namespace", "network-namespace", "process-namespace", "ipc-namespace"),
    ),
    (_CLONE_NEWUSER | _CLONE_NEWNET, ("user-namespace", "network-namespace")),
    (0, ()),
)
_ALWAYS: Final = ("no-new-privileges", "resource-limits", "no-inherited-descriptors", "empty-environment", "dies-with-host")


class RunningEnclave(Protocol):
    """A started enclave, seen from its host.

    Attributes:
        isolation: What keeps it apart, as words for `/node/state`; shown at start.
        link: The host's end of the link, connected.
        output: Descriptor of what it prints, non-blocking; end of file when it is gone.
        pid: Its process, or that of the virtual machine's monitor.
    """

    isolation: tuple[str, ...]
    link: socket.socket
    output: int
    pid: int

    def close_output(self) -> None:
        """Give `output` back."""

    def stop(self, seconds: float) -> int | None:
        """Close the link, give it `seconds` to end, then kill it. Returns its exit status, negative for a signal, None if not known."""


class Launcher(Protocol):
    """A way to start an enclave."""

    def launch(self, app: str, nsm: socket.socket) -> RunningEnclave:
        """Start an enclave running application module `app`; `nsm` is its end of the way to the NSM simulator, closed here."""


class ProcessLauncher:
    """Starts the enclave as a child process, in name spaces of its own where the kernel allows it.

    Launch from the main thread, before others start: the child is made by `clone`, of the calling thread only, and must not find
    another's lock; and it dies with the thread that made it.

    Args:
        command: Program and first arguments; `--link`, `--nsm` and `--app` are added.
        memory_bytes: Limit of its address space.
        isolations: What to try, in order: (clone flags, words).
        app_path: Folder in which to look for the application's module after all others.
    """

    def __init__(
        self,
        command: Sequence[str] = (*PYTHON, "-m", RUNTIME),
        memory_bytes: int = MEMORY_BYTES_DEFAULT,
        isolations: Sequence[tuple[int, tuple[str, ...]]] = _ISOLATIONS,
        app_path: Path | None = None,
    ) -> None:
        if app_path is not None:
            append = f"import runpy, sys; sys.path.append({str(app_path.resolve())!r}); runpy.run_module({RUNTIME!r}, run_name='__main__')"
            command = (*PYTHON, "-c", append)
        self._command = tuple(command)
        self._memory_bytes = memory_bytes
        self._isolations = tuple(isolations)

    def launch(self, app: str, nsm: socket.socket) -> "ChildEnclave":
        """As `Launcher.launch`.

        Raises: ConfigurationError: It cannot be started, not even without name spaces; says at which step.
        """
        host_end, enclave_end = socket.socketpair()
        output, child_output = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(child_output, True)
        command = (*self._command, "--link", str(LINK_DESCRIPTOR), "--nsm", str(NSM_DESCRIPTOR), "--app", app)
        problems: list[str] = []
        try:
            for flags, words in self._isolations:
                try:
                    pid = self._start(command, flags, enclave_end.fileno(), nsm.fileno(), child_output)
                except OSError as error:
                    problems.append(f"{' '.join(words) or 'without name spaces'}: {error.strerror}")
                    continue
                return ChildEnclave(pid, host_end, output, (*words, *_ALWAYS))
        finally:
            enclave_end.close()
            nsm.close()
            os.close(child_output)
        host_end.close()
        os.close(output)
        raise ConfigurationError(f"the enclave process cannot be started ({'; '.join(problems)})")

    def _start(self, command: tuple[str, ...], flags: int, link: int, nsm: int, output: int) -> int:
        """Clone, set up, exec; return the child's pid. Raises OSError with what failed as `strerror`."""
        report, child_report = os.pipe2(os.O_CLOEXEC)
        limits = self._limits(bool(flags & _CLONE_NEWUSER))
        outside = (os.geteuid(), os.getegid())
        host = os.getpid()
        try:
            pid = _clone(flags)
        except OSError:
            os.close(report)
            os.close(child_report)
            raise
        if pid == 0:
            descriptors = {0: None, 1: output, 2: output, LINK_DESCRIPTOR: link, NSM_DESCRIPTOR: nsm}
            _become_enclave(command, flags, descriptors, limits, outside, host, child_report)
        os.close(child_report)
        try:
            readable, _, _ = select.select([report], [], [], START_SECONDS_MAX)
            problem = os.read(report, 200).decode(errors="replace") if readable else f"no exec within {START_SECONDS_MAX} s"
        finally:
            os.close(report)
        if problem:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise OSError(0, problem)
        return pid

    def _limits(self, own_users: bool) -> list[tuple[int, int]]:
        limits = [
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_FSIZE, 0),
            (resource.RLIMIT_NOFILE, OPEN_FILES_MAX),
            (resource.RLIMIT_AS, self._memory_bytes),
        ]
        if own_users:  # else it would count the user's other processes too
            limits.append((resource.RLIMIT_NPROC, PROCESSES_MAX))
        return limits


class ChildEnclave:
    """A running child process; see `RunningEnclave`."""

    def __init__(self, pid: int, link: socket.socket, output: int, isolation: tuple[str, ...]) -> None:
        self.pid = pid
        self.link = link
        self.output = output
        self.isolation = isolation
        self._status: int | None = None

    def stop(self, seconds: float) -> int:
        """As `RunningEnclave.stop`. Idempotent."""
        with contextlib.suppress(OSError):
            self.link.close()
        if self._status is None:
            deadline = time.monotonic() + seconds
            descriptor = os.pidfd_open(self.pid)
            try:
                if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            finally:
                os.close(descriptor)
        return self._status

    def close_output(self) -> None:
        """Give `output` back, once everything is read."""
        os.close(self.output)


# Through PyDLL, which keeps the interpreter's lock: in the child this thread is the only one left, and it holds it.
_syscall: Final[Callable[..., int]] = ctypes.PyDLL(None, use_errno=True).syscall
_prctl: Final[Callable[..., int]] = ctypes.PyDLL(None, use_errno=True).prctl


def _clone(flags: int) -> int:
    """As `os.fork`, into new name spaces.

    Raises: OSError: The kernel does not allow it, or this machine's call number is unknown here.
    """
    if not flags:
        return os.fork()
    number = _SYS_CLONE.get(platform.machine())
    if number is None:
        raise OSError(0, f"no call number for {platform.machine()}")
    pid = _syscall(number, ctypes.c_ulong(flags | signal.SIGCHLD), None, None, None, None)
    if pid < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return pid


def _become_enclave(
    command: tuple[str, ...],
    flags: int,
    descriptors: dict[int, int | None],
    limits: list[tuple[int, int]],
    outside: tuple[int, int],
    host: int,
    report: int,
) -> NoReturn:
    """In the child: give up all that it must not have, then exec. Never returns; a failure is told by the report pipe."""
    step = "setup"
    try:
        if flags & _CLONE_NEWUSER:
            step = "map the user"
            _write("/proc/self/setgroups", "deny")
            _write("/proc/self/uid_map", f"{_NOBODY} {outside[0]} 1")
            _write("/proc/self/gid_map", f"{_NOBODY} {outside[1]} 1")
        step = "own session"
        os.setsid()
        os.umask(0o077)
        step = "descriptors"
        # First out of the way of the numbers that are to be theirs, then into place.
        source = {number: os.open("/dev/null", os.O_RDONLY) if given is None else given for number, given in descriptors.items()}
        moved = {number: _duplicate(given, 100) for number, given in source.items()}
        report = _duplicate(report, 100)
        for number, given in moved.items():
            os.dup2(given, number, inheritable=True)
        first = max(descriptors) + 1
        os.closerange(first, report)
        os.closerange(report + 1, 1 << 16)
        step = "resource limits"
        for kind, value in limits:
            hard = resource.getrlimit(kind)[1]
            resource.setrlimit(kind, (value, value) if hard == resource.RLIM_INFINITY else (min(value, hard), min(value, hard)))
        step = "no new privileges"
        if _prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        # Had the host died before, no signal would come any more. (In a process name space of its own, the parent shows as 0.)
        if os.getppid() not in (host, 0):
            os._exit(1)
        step = "exec"
        os.chdir("/")
        os.execve(command[0], command, {})  # noqa: S606 (no shell is the point)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.write(report, f"{step}: {getattr(error, 'strerror', None) or type(error).__name__}".encode()[:200])
    os._exit(1)


def _duplicate(descriptor: int, at_least: int) -> int:
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, at_least)


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
