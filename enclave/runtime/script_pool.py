"""The script workers as processes: starts them, carries bytes both ways, kills them. What to do when is `enclave.scripts.pool`'s to say.

A worker is a fresh interpreter, never a copy of this process: nothing of the enclave's memory is in it. It is started with one end of a
socket as descriptor 0, no other descriptor, no environment, and gives up the rest by itself before it hears of any script.
Law: never waits. A worker that does not take what it is sent is no reason to stop reading from others, and is killed by its time.
"""

import os
import select
import signal
import socket
import sys
from typing import Final

from ledgerd.enclave.scripts.pool import Pool

COMMAND: Final = ("-I", "-X", "utf8", "-W", "ignore", "-m", "ledgerd.enclave.runtime.script_worker")
DESCRIPTORS_MAX: Final = 64  # the process launcher's own limit; every other descriptor of this process closes by itself
_READ_BYTES: Final = 256 << 10
_TURN_BYTES_MAX: Final = 4 << 20  # of one worker in one turn: the loop has more to do
_DYING_SECONDS: Final = 0.002  # between looks at what was killed


class _Process:
    """A worker's process and this end of its socket."""

    __slots__ = ("fault", "is_blocked", "is_known", "name", "pid", "stream", "unsent")

    def __init__(self, name: int, pid: int, stream: socket.socket) -> None:
        self.name = name
        self.pid = pid
        self.stream = stream
        self.unsent = bytearray()
        self.is_blocked = False  # it does not take what it is sent
        self.is_known = True  # the pool counts on it
        self.fault = ""  # why it was killed, where its end does not say


class ScriptPool:
    """The processes of a `Pool`.

    Args:
        pool: Decides. Submit jobs to it, then call `turn`.
        command: The interpreter's arguments.

    Attributes:
        wake: Descriptor for the loop's poll: readable when `turn` has something to do.
    """

    def __init__(self, pool: Pool, command: tuple[str, ...] = COMMAND) -> None:
        self.pool = pool
        self._command = command
        self._epoll = select.epoll()
        self.wake = self._epoll.fileno()
        self._processes: dict[int, _Process] = {}  # by the descriptors of their sockets
        self._names: dict[int, _Process] = {}
        self._dying: list[_Process] = []
        self._now = 0.0

    def next_wakeup(self) -> float:
        """When `turn` is needed even if nothing is to be read, monotonic seconds."""
        wakeup = self.pool.next_wakeup()
        return min(wakeup, self._now + _DYING_SECONDS) if self._dying else wakeup

    def turn(self, now: float) -> list[tuple[str, str]]:
        """Take what is there, and do what has to be done; give what the operator should know."""
        self._now = now
        for descriptor, mask in self._epoll.poll(0):
            process = self._processes.get(descriptor)
            if process is None:
                continue  # gone a moment ago
            if mask & select.EPOLLOUT:
                self._write(process)
            if mask & ~select.EPOLLOUT:
                self._read(process)
        self._bury()
        self.pool.tick(now)
        logs: list[tuple[str, str]] = []
        while True:
            ready = self.pool.ready()
            logs += ready.logs
            if not (ready.kill or ready.send or ready.start):
                return logs
            for name in ready.kill:
                process = self._names.pop(name, None)
                if process is not None:
                    process.is_known = False
                    self._kill(process)
            for name, data in ready.send:
                process = self._names.get(name)
                if process is not None:
                    process.unsent += data
                    self._write(process)
            for name in ready.start:
                self._start(name)

    def close(self) -> None:
        """Kill all of them, and wait for their end."""
        for process in list(self._processes.values()):
            self._kill(process)
        for process in self._dying:
            os.waitpid(process.pid, 0)
        self._dying.clear()
        self._epoll.close()

    def _start(self, name: int) -> None:
        ours, theirs = socket.socketpair()
        actions: list[tuple[int, ...]] = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0)]
        actions += [(os.POSIX_SPAWN_CLOSE, number) for number in range(1, DESCRIPTORS_MAX)]
        try:
            pid = os.posix_spawn(sys.executable, (sys.executable, *self._command), {}, file_actions=actions)
        except OSError as error:
            ours.close()
            self.pool.ended(name, f"it cannot be started: {error.strerror}")
            return
        finally:
            theirs.close()
        ours.setblocking(False)
        process = _Process(name, pid, ours)
        self._names[name] = self._processes[ours.fileno()] = process
        self._epoll.register(ours.fileno(), select.EPOLLIN)

    def _read(self, process: _Process) -> None:
        taken = 0
        while taken < _TURN_BYTES_MAX:
            try:
                data = process.stream.recv(_READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._kill(process)  # it has ended, most likely; `_bury` learns how
                return
            if process.unsent:  # a worker that asks on and takes no answer would have them kept for it without end
                process.fault = "it asks on and takes no answer"
                self._kill(process)
                return
            taken += len(data)
            self.pool.received(process.name, data)
            if len(data) < _READ_BYTES:
                return

    def _write(self, process: _Process) -> None:
        unsent = process.unsent
        try:
            while unsent:
                del unsent[: process.stream.send(unsent)]
        except BlockingIOError:
            pass
        except OSError:
            unsent.clear()  # it is gone; reading will tell
        if process.stream.fileno() >= 0 and process.is_blocked is not bool(unsent):
            process.is_blocked = bool(unsent)
            self._epoll.modify(process.stream.fileno(), select.EPOLLIN | (select.EPOLLOUT if unsent else 0))

    def _kill(self, process: _Process) -> None:
        descriptor = process.stream.fileno()
        if descriptor < 0:
            return  # it dies already
        os.kill(process.pid, signal.SIGKILL)  # its number is its own until it is buried
        del self._processes[descriptor]
        self._epoll.unregister(descriptor)
        process.stream.close()
        self._dying.append(process)

    def _bury(self) -> None:
        """Take leave of those that are dead by now. A large one takes a while to die, and is not waited for."""
        left: list[_Process] = []
        for process in self._dying:
            pid, status = os.waitpid(process.pid, os.WNOHANG)
            if not pid:
                left.append(process)
            elif process.is_known:
                self._names.pop(process.name, None)
                self.pool.ended(process.name, process.fault or _how(os.waitstatus_to_exitcode(status)))
        self._dying = left


def _how(status: int) -> str:
    """How a process ended, for the operator."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"
