"""Script workers for commands that run a ledger's scripts on the caller's own machine: the enclave's, in the same sandbox.

Whoever wrote a ledger wrote its scripts, so they are run as an enclave runs them: each in a fresh process that has one socket, no files, no
environment, nobody's rights and a dozen system calls. What a worker may ask for, and for how long, is for the pool to say.
Not here: which jobs there are (`enclave.auditing`), what a worker does (`enclave.runtime.script_worker`, which nobody imports).
"""

import contextlib
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, Final, Protocol

_COMMAND: Final = ("-I", "-X", "utf8", "-W", "ignore", "-m", "ledgerd.enclave.runtime.script_worker")
_READ_BYTES: Final = 256 << 10


class Ready(Protocol):
    """What a pool wants done."""

    @property
    def kill(self) -> list[int]: ...
    @property
    def send(self) -> list[tuple[int, bytes]]: ...
    @property
    def start(self) -> list[int]: ...


class Pool(Protocol):
    """A pool of script workers, sans-IO; see `enclave.scripts.pool`."""

    def received(self, name: int, data: bytes, /) -> None: ...
    def ended(self, name: int, how: str, /) -> None: ...
    def at(self, now: float, /) -> None: ...
    def tick(self, now: float, /) -> None: ...
    def next_wakeup(self) -> float: ...
    def ready(self) -> Any: ...


class ScriptWorkers:
    """The processes of a pool, turned by whoever waits for a script; nothing happens in between."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._streams: dict[int, socket.socket] = {}

    def turn(self) -> None:
        """Do what the pool wants, then wait until a worker says something or its time is over, and tell the pool."""
        pool = self._pool
        pool.tick(time.monotonic())
        self._obey()
        wait = max(0.0, pool.next_wakeup() - time.monotonic())
        names = {stream: name for name, stream in self._streams.items()}
        ready, _, _ = select.select(list(names), [], [], min(wait, 1.0))
        pool.at(time.monotonic())
        for stream in ready:
            self._read(names[stream], stream)

    def close(self) -> None:
        """Kill all of them."""
        for name in list(self._processes):
            self._kill(name)

    def _obey(self) -> None:
        while True:
            ready: Ready = self._pool.ready()
            if not (ready.kill or ready.send or ready.start):
                return
            for name in ready.kill:
                self._kill(name)
            for name, data in ready.send:
                stream = self._streams.get(name)
                if stream is not None:
                    self._send(name, stream, data)
            for name in ready.start:
                self._start(name)

    def _start(self, name: int) -> None:
        ours, theirs = socket.socketpair()
        try:
            process = subprocess.Popen(  # noqa: S603 (our own program)
                (sys.executable, *_COMMAND), stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={}
            )
        except OSError as error:
            ours.close()
            self._pool.ended(name, f"it cannot be started: {error.strerror}")
            return
        finally:
            theirs.close()
        self._processes[name], self._streams[name] = process, ours

    def _send(self, name: int, stream: socket.socket, data: bytes) -> None:
        """Send a frame. A worker that does not take it, since it waits for nothing but that, is broken."""
        stream.settimeout(10.0)
        try:
            stream.sendall(data)
        except OSError:
            self._lost(name)

    def _read(self, name: int, stream: socket.socket) -> None:
        try:
            data = stream.recv(_READ_BYTES)
        except OSError:
            data = b""
        if data:
            self._pool.received(name, data)
        else:
            self._lost(name)

    def _lost(self, name: int) -> None:
        self._pool.ended(name, f"exit status {self._kill(name)}")

    def _kill(self, name: int) -> int | None:
        """End a worker, and wait for that; its status, if it is still known here."""
        process, stream = self._processes.pop(name, None), self._streams.pop(name, None)
        if process is None or stream is None:
            return None
        stream.close()
        process.kill()
        return process.wait()


@contextlib.contextmanager
def script_workers(pool: Pool) -> Iterator[ScriptWorkers]:
    """The workers of a pool, killed at the end."""
    made = ScriptWorkers(pool)
    try:
        yield made
    finally:
        made.close()
