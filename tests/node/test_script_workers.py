"""Script workers of commands: real processes, in the enclave's sandbox, turned by whoever waits."""

import os
from typing import Any

import pytest

from ledgerd.enclave.scripts.jobs import DEADLINE_TEXT, End, Limits, Outcome, Result
from ledgerd.enclave.scripts.pool import Pool
from ledgerd.node.script_workers import ScriptWorkers, script_workers
from support.scripts import Scope, job, unscoped


def run(workers: ScriptWorkers, pool: Pool, source: str, *arguments: Any, **options: Any) -> Outcome:
    """Run one job, alone in its process, to its end."""
    ended: list[Outcome] = []
    pool.submit(job(source, *arguments, alone=True, **options), Scope(), ended.append)
    while not ended:
        workers.turn()
    return ended[0]


def test_a_script_is_run_in_a_sandbox_and_may_ask() -> None:
    pool = Pool(unscoped({"twice": lambda arguments: arguments[0] * 2}), 1, 0.0)
    with script_workers(pool) as workers:
        outcome = run(workers, pool, "export function f(n) { return ccf.twice(n); }", 21, calls=("twice",))
        assert outcome.value == Result("json", b"42")
        assert {"own-process", "no-descriptors", "empty-environment"} <= set(pool.isolation)
        assert run(workers, pool, "export function f() { throw new Error('no'); }").end is End.EXCEPTION


def test_a_loop_is_ended_and_the_next_script_has_another_process() -> None:
    pool = Pool({}, 1, 0.0)
    with script_workers(pool) as workers:
        outcome = run(workers, pool, "export function f() { for (;;); }", limits=Limits(deadline_ms=50))
        assert (outcome.end, outcome.text) == (End.DEADLINE, DEADLINE_TEXT)
        assert run(workers, pool, "export function f() { return 1; }").value == Result("json", b"1")


def test_a_worker_that_dies_is_replaced_and_its_script_told_so() -> None:
    pool = Pool({}, 1, 0.0)
    with script_workers(pool) as workers:
        ended: list[Outcome] = []
        pool.submit(job("export function f() { for (;;); }", alone=True), Scope(), ended.append)
        while pool.starting or not workers._processes:
            workers.turn()
        for process in list(workers._processes.values()):
            os.kill(process.pid, 9)
        while not ended:
            workers.turn()
        assert ended[0].end is End.CRASHED
        assert run(workers, pool, "export function f() { return 1; }").value == Result("json", b"1")


def test_nothing_is_left_of_them() -> None:
    pool = Pool({}, 1, 0.0)
    with script_workers(pool) as workers:
        run(workers, pool, "export function f() { return 1; }")
        processes = list(workers._processes.values())
    assert not workers._processes
    assert all(process.returncode is not None for process in processes)


def test_where_no_worker_can_be_started_scripts_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool({}, 1, 0.0)
    monkeypatch.setattr("sys.executable", "/does/not/exist")
    with script_workers(pool) as workers:
        assert run(workers, pool, "export function f() { return 1; }").end is End.UNAVAILABLE
