"""The script workers of a pool within this process: the worker's own code and the pool's own door, and no process, socket or clock."""

from collections import deque
from typing import Any, NamedTuple, cast

import msgpack

from ledgerd.enclave.runtime.script_line import Connection, Interpreters
from ledgerd.enclave.runtime.script_worker import Execution
from ledgerd.enclave.scripts import messages
from ledgerd.enclave.scripts.pool import Pool
from support.scripts import prelude


class _Killed(Exception):
    """The pool wants this worker no more."""


class _Wire(Connection):
    """Both ways between one worker and the pool."""

    def __init__(self, pool: Pool, name: int) -> None:
        self.pool = pool
        self.name = name
        self.inbox: deque[bytes] = deque()
        self.is_killed = False

    def send(self, message: list[Any], size: int = 0) -> None:
        """Say something at once."""
        self.pool.received(self.name, messages.frame([message]))

    def flush(self) -> None:
        """Nothing waits here."""

    def flush_late(self, now: float) -> None:
        """Nor here."""

    def answer(self) -> list[Any]:
        """The answer to what was said last."""
        carry(self.pool, self.pool_workers)
        if self.is_killed:
            raise _Killed
        for place, data in enumerate(self.inbox):  # further jobs may have come before it
            (answer, *_) = unframe(data)
            if answer[0] in (messages.ANSWER, messages.REFUSAL):
                del self.inbox[place]
                return cast("list[Any]", answer)
        raise AssertionError("no answer")

    pool_workers: "dict[int, _Worker]"


class _Worker(NamedTuple):
    wire: _Wire
    bundles: dict[bytes, dict[str, str]]
    kept: Interpreters


def unframe(data: bytes) -> list[Any]:
    """The messages of one frame."""
    return cast(list[Any], msgpack.unpackb(data[4:], raw=False, max_bin_len=len(data), max_str_len=len(data)))


def carry(pool: Pool, workers: dict[int, _Worker]) -> list[tuple[str, str]]:
    """Do what the pool says, but run nothing."""
    logs: list[tuple[str, str]] = []
    while True:
        ready = pool.ready()
        logs += ready.logs
        for name in ready.kill:
            gone = workers.pop(name, None)
            if gone is not None:
                gone.wire.is_killed = True
        for name, data in ready.send:
            if name in workers:
                workers[name].wire.inbox.append(data)
        for name in ready.start:
            wire = _Wire(pool, name)
            wire.pool_workers = workers
            workers[name] = _Worker(wire, {}, Interpreters())
            wire.send([messages.HELLO, ["test"]])
        if not (ready.kill or ready.send or ready.start):
            return logs


def _run(worker: _Worker) -> None:
    for message in unframe(worker.wire.inbox.popleft()):
        if message[0] == messages.BUNDLE:
            worker.bundles[message[1]] = message[2]
        elif message[0] == messages.FORGET:
            del worker.bundles[message[1]]
            worker.kept.forget(message[1])
        else:
            assert message[0] == messages.JOB, message[0]
            try:
                worker.wire.send(Execution(worker.wire, worker.bundles[message[1]], message, prelude(), worker.kept).run())
            except _Killed:
                return
            if worker.wire.is_killed:
                return


class ScriptWorkers:
    """The workers of one enclave's pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._workers: dict[int, _Worker] = {}

    def turn(self, now: float) -> list[tuple[str, str]]:
        """Run all that waits, to its end."""
        self._pool.tick(now)
        logs = carry(self._pool, self._workers)
        while waiting := [worker for worker in self._workers.values() if worker.wire.inbox]:
            _run(waiting[0])
            logs += carry(self._pool, self._workers)
        return logs


def run_wanted(host: Any, now: float) -> bool:
    """Run the scripts that the enclave of a host wants run, to their end, and tell it what they logged; False if there are none."""
    pool = host.enclave.scripts
    if pool is None or not pool.has_news:
        return False
    if host.scripts is None:
        host.scripts = ScriptWorkers(pool)
    for level, text in host.scripts.turn(now):
        host.enclave.log(level, text)
    return True
