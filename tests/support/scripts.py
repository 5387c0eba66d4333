"""Ways to run JavaScript in tests: within this process, quickly and with the enclave's own checks; or in real workers."""

import contextlib
import json
import select
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import msgpack

from ledgerd.enclave.kv import Store
from ledgerd.enclave.runtime.script_line import Connection, Interpreters
from ledgerd.enclave.runtime.script_pool import COMMAND, ScriptPool
from ledgerd.enclave.runtime.script_worker import Execution, compiled_prelude
from ledgerd.enclave.scripts import messages
from ledgerd.enclave.scripts.jobs import BYTES, JSON, TEXT, Bundle, Job, Limits, Outcome, Result
from ledgerd.enclave.scripts.overlay import Mark, Overlay
from ledgerd.enclave.scripts.pool import Pool
from ledgerd.enclave.scripts.run import Call, Run, job_message

# Of scripts that are to end for another reason than that the machine had no time for them.
PATIENT = Limits(deadline_ms=60_000)


class _Here(Connection):
    """The enclave, in place of the socket: every message passes its door, as bytes."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._answer: list[Any] | None = None

    def send(self, message: list[Any], size: int = 0) -> None:
        """Have the enclave take it."""
        assert self._run.outcome is None, "nothing is said after the end"
        (read,) = messages.read(msgpack.packb([message]))
        self._answer = self._run.take(read)

    def flush(self) -> None:
        """Nothing waits here."""

    def flush_late(self, now: float) -> None:
        """Nor here."""

    def answer(self) -> list[Any]:
        """The answer to what was sent last."""
        assert self._answer is not None, "it waits for nothing"
        self._run.answered()
        answer: list[Any] = msgpack.unpackb(msgpack.packb(self._answer))
        return answer


class Scope:
    """For whom a script runs: nobody but itself."""

    def __init__(self, store: Store | None = None) -> None:
        self.overlay = Overlay(store or Store())

    def mark(self) -> Mark:
        """What was written so far."""
        return self.overlay.mark()

    def go_back(self, mark: Mark) -> None:
        """Undo what was written since."""
        self.overlay.go_back(mark)


Function = Callable[[list[Any]], Any]
"""A function for scripts that does not care for whom they run."""


def unscoped(functions: Mapping[str, Function] | None) -> dict[str, Call]:
    """The same as the enclave wants them."""

    def call(function: Function) -> Call:
        return lambda _, arguments: function(arguments)

    return {name: call(function) for name, function in (functions or {}).items()}


@cache
def prelude() -> bytes:
    """The prelude, compiled once."""
    return compiled_prelude()


def run_here(
    job: Job, store: Store | None = None, functions: Mapping[str, Function] | None = None, kept: Interpreters | None = None
) -> tuple[Outcome, Overlay]:
    """Run a job within this process, as a worker would."""
    scope = Scope(store)
    run = Run(job, scope, unscoped(functions))
    here = _Here(run)
    words = [*job_message(job)[:-1], run.read_ahead()]
    here.send(Execution(here, job.bundle.modules, words, prelude(), kept or Interpreters()).run())
    assert run.outcome is not None
    return run.outcome, scope.overlay


def job(source: str, *arguments: Any, function: str = "f", **options: Any) -> Job:
    """A job of one module; it has much time unless it is given other limits."""
    return Job(Bundle({"/main.js": source}), "/main.js", function, arguments, **{"limits": PATIENT, **options})


def value_of(
    source: str, *arguments: Any, store: Store | None = None, functions: Mapping[str, Function] | None = None, **options: Any
) -> Any:
    """What the body of a function gives, by way of JSON."""
    outcome, _ = run_here(job(f"export function f(...args) {{ {source} }}", *arguments, **options), store, functions)
    assert isinstance(outcome.value, Result), outcome
    kind, data = outcome.value
    if kind == BYTES:
        return data
    return json.loads(data) if kind == JSON else data.decode() if kind == TEXT else None


class Workers:
    """Real processes, and a loop that does nothing else."""

    def __init__(self, store: Store, functions: Mapping[str, Function] | None, workers: int, command: tuple[str, ...]) -> None:
        self.store = store
        self.pool = Pool(unscoped(functions), workers, time.monotonic())
        self.processes = ScriptPool(self.pool, command)
        self.logs: list[tuple[str, str]] = []

    def submit(self, job: Job) -> list[tuple[Outcome, Overlay]]:
        """Queue a job; the list gets its outcome."""
        ended: list[tuple[Outcome, Overlay]] = []
        scope = Scope(self.store)
        self.pool.submit(job, scope, lambda outcome: ended.append((outcome, scope.overlay)))
        return ended

    def until(self, *waited: list[tuple[Outcome, Overlay]], seconds: float = 120.0) -> None:
        """Turn until these have ended."""
        end = time.monotonic() + seconds
        while True:
            self.logs += self.processes.turn(time.monotonic())
            if all(waited):
                return
            left = min(end, self.processes.next_wakeup()) - time.monotonic()
            assert time.monotonic() < end, f"nothing came of it: {self.logs}"
            select.select([self.processes.wake], [], [], max(0.0, left))

    def run(self, job: Job) -> Outcome:
        """Run one job."""
        ended = self.submit(job)
        self.until(ended)
        return ended[0][0]


@contextlib.contextmanager
def workers(
    count: int = 1, store: Store | None = None, functions: Mapping[str, Function] | None = None, command: tuple[str, ...] = COMMAND
) -> Iterator[Workers]:
    """Some workers, killed at the end."""
    made = Workers(store or Store(), functions, count, command)
    try:
        yield made
    finally:
        made.processes.close()
