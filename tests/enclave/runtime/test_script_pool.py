"""Real script workers: what they hold, how they are stopped, and that the loop goes on meanwhile."""

import os
import select
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from ledgerd.enclave.kv import Store
from ledgerd.enclave.runtime import script_worker
from ledgerd.enclave.runtime.script_pool import COMMAND
from ledgerd.enclave.scripts.access import Access
from ledgerd.enclave.scripts.jobs import End, Limits, Result
from ledgerd.node.launch import ProcessLauncher
from support.repository import ROOT
from support.scripts import PATIENT, Workers, job, workers

# Long enough for a machine that is busy with other things; what is measured is that it ends, not how soon.
SHORT = Limits(deadline_ms=200)
# The engine's own search in a string does not look at the time: only killing ends it.
UNSTOPPABLE = "export function f() { return 'a'.repeat(20000000).indexOf('a'.repeat(9000000) + 'b'); }"


# A worker that says nothing more, reads nothing, and does not end by itself.
SILENCE = "lock = _thread.allocate_lock(); lock.acquire(); lock.acquire()"


def pids(fleet: Workers) -> list[int]:
    """The processes there are."""
    return [process.pid for process in fleet.processes._names.values()]


def up(fleet: Workers) -> None:
    """Wait until all workers are there, and one has run something."""
    assert fleet.run(job("export const f = () => 1;")).value == Result("json", b"1")
    while fleet.pool.starting:
        select.select([fleet.processes.wake], [], [], 1)
        fleet.logs += fleet.processes.turn(time.monotonic())


def worker_command(*lines: str) -> tuple[str, ...]:
    """A worker that does something else when it is given a job, with `stream` and `messages` at hand."""
    code = ["import ctypes, mmap, os, resource, socket, sys, time, _thread", "from ledgerd.enclave.runtime import script_worker"]
    code += ["from ledgerd.enclave.scripts import messages", "def serve(connection, prelude):"]
    code += [f"    {line}" for line in ("stream = connection._stream", "connection.receive()", *lines)]
    code += ["script_worker.serve = serve", "sys.exit(script_worker.main())"]
    return ("-I", "-W", "ignore", "-c", "\n".join(code))


def test_a_worker_says_how_it_is_kept_apart() -> None:
    with workers() as fleet:
        up(fleet)
        assert {"own-process", "no-descriptors", "empty-environment", "no-new-privileges", "resource-limits"} <= set(fleet.pool.isolation)
        assert "system-call-filter" in fleet.pool.isolation  # as on every kernel that this is tested on


def test_a_worker_holds_nothing_but_its_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDGERD_SECRET", "in the environment")
    with open("/dev/null", "rb") as secret, workers() as fleet:
        os.set_inheritable(secret.fileno(), True)
        up(fleet)
        for pid in pids(fleet):
            status = Path(f"/proc/{pid}/status").read_text()
            assert "NoNewPrivs:\t1" in status
            assert "Seccomp:\t2" in status
            assert "CapEff:\t0000000000000000" in status
            if os.geteuid() == 0:  # the memory of a process that hides it is root's to see
                assert os.listdir(f"/proc/{pid}/fd") == ["0"]
                assert os.readlink(f"/proc/{pid}/fd/0").startswith("socket:")
                assert Path(f"/proc/{pid}/environ").read_bytes() == b""
                assert "Uid:\t65534\t65534\t65534\t65534" in status
                limits = Path(f"/proc/{pid}/limits").read_text()
                assert "Max processes             0 " in limits
                assert "Max file size             0 " in limits


def test_nothing_of_the_enclave_s_memory_is_in_a_worker() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may look")
    secret = b"SECRET-" + os.urandom(16).hex().encode()
    with workers() as fleet:
        up(fleet)
        found = 0
        for pid in [*pids(fleet), os.getpid()]:
            with open(f"/proc/{pid}/mem", "rb", 0) as memory:
                for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                    start, end = (int(part, 16) for part in line.split()[0].split("-"))
                    if " rw" in line and end - start < 256 << 20:
                        memory.seek(start)
                        has = secret in memory.read(end - start)
                        assert not has or pid == os.getpid()
                        found += has
        assert found, "the search finds it where it is"


TRIES = {
    "a file": "os.open('/etc/hostname', os.O_RDONLY)",
    "a socket": "socket.socket(socket.AF_INET, socket.SOCK_STREAM)",
    "a UNIX socket": "socket.socketpair()",
    "a process": "os.fork()",
    "a program": "os.execve('/bin/true', ['true'], {})",
    "a signal": "os.kill(os.getppid(), 0)",
    "the enclave's memory": "ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0)",
    "executable memory": "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)",
    "another limit": "resource.setrlimit(resource.RLIMIT_AS, (1 << 20, 1 << 20))",
    "another user": "os.setuid(0)",
    "a thread": "_thread.start_new_thread(print, ())",
    "sleep": "time.sleep(1)",
}


@pytest.mark.parametrize("what", TRIES)
def test_a_worker_that_reaches_for_more_is_killed_by_the_kernel(what: str) -> None:
    with workers(command=worker_command(TRIES[what], "os._exit(0)")) as fleet:
        outcome = fleet.run(job("export const f = () => 1;"))
        assert (outcome.end, "SIGSYS" in outcome.text) == (End.CRASHED, True), outcome


LIES = {
    "bytes": "stream.sendall(b'\\0\\0\\0\\4abcd')",
    "a frame without end": "stream.sendall(b'\\xff\\xff\\xff\\xff')",
    "a map of ours": "stream.sendall(messages.frame([[messages.GET, 'ledgerd.internal.idempotency', b'k']]))",
    "a second result": "stream.sendall(messages.frame([[messages.DONE, 'json', b'1'], [messages.DONE, 'json', b'2']]))",
    "a result of another's": "stream.sendall(messages.frame([[messages.JOB, 1]]))",
    "an end that is the enclave's": "stream.sendall(messages.frame([[messages.FAILED, 'unavailable', '', '']]))",
}


@pytest.mark.parametrize("lie", LIES)
def test_a_worker_that_lies_is_killed(lie: str) -> None:
    with workers(command=worker_command(LIES[lie], SILENCE)) as fleet:
        ended = fleet.submit(job("export const f = () => 1;"))
        before = fleet.pool.killed_total
        fleet.until(ended)
        if lie == "a second result":
            assert ended[0][0].value == Result("json", b"1")
        else:
            assert ended[0][0].end is End.CRASHED
        assert fleet.pool.killed_total == before + 1
        assert any("script worker was stopped" in text for _, text in fleet.logs)


@pytest.mark.parametrize("pause", ["pass", "stream.recv(1)"])
def test_a_worker_that_asks_on_and_takes_no_answer_is_killed(pause: str) -> None:
    store = Store()
    store.apply(1, {"m": {b"k": bytes(4 << 20)}})
    asks = f"for _ in range(8): stream.sendall(messages.frame([[messages.GET, 'm', b'k']])); {pause}"
    with workers(command=worker_command(asks, SILENCE), store=store) as fleet:
        ended = fleet.submit(job("export const f = () => 1;"))
        kept = 0
        while not ended:
            select.select([fleet.processes.wake], [], [], 1)
            fleet.logs += fleet.processes.turn(time.monotonic())
            kept = max([kept, *(len(process.unsent) for process in fleet.processes._names.values())])
        assert ended[0][0].end is End.CRASHED
        assert kept < 5 << 20
        assert "asks on" in ended[0][0].text or pause != "pass"


def test_a_script_that_nothing_else_stops_is_killed_and_another_runs() -> None:
    with workers() as fleet:
        up(fleet)
        outcome = fleet.run(job(UNSTOPPABLE, limits=SHORT))
        assert (outcome.end, outcome.text) == (End.DEADLINE, "Operation took too long to complete.")
        assert fleet.pool.killed_total == 1
        up(fleet)


def test_the_loop_goes_on_while_scripts_loop() -> None:
    """Every slot is taken by a script that does not end, and what is decided alone runs, and turns take no time of theirs."""
    with workers(2) as fleet:
        up(fleet)
        stuck = [fleet.submit(job(UNSTOPPABLE, limits=Limits(deadline_ms=4_000))) for _ in range(2)]
        alone = fleet.submit(job("export const f = () => 2;", alone=True))
        fleet.until(alone)
        assert alone[0][0].value == Result("json", b"2")
        assert stuck == [[], []]
        for _ in range(50):
            fleet.logs += fleet.processes.turn(time.monotonic())
        assert stuck == [[], []], "no turn waited for them"
        fleet.until(*stuck)
        assert {ended[0][0].end for ended in stuck} == {End.DEADLINE}


def test_memory_beyond_the_process_s_own_limit_is_this_job_s_end_only() -> None:
    with workers() as fleet:
        up(fleet)
        greedy = "export function f() { const a = []; for (;;) a.push(new Uint8Array(10000000)); }"
        outcome = fleet.run(job(greedy, limits=PATIENT._replace(heap_bytes=1 << 40)))
        assert outcome.end in (End.MEMORY, End.CRASHED), outcome
        up(fleet)


def test_deep_recursion_with_a_stack_of_any_size_is_this_job_s_end_only() -> None:
    with workers() as fleet:
        outcome = fleet.run(job("export function f() { return f() + 1; }", limits=PATIENT._replace(stack_bytes=1 << 40)))
        assert outcome.end is End.STACK
        up(fleet)


def test_one_job_leaves_nothing_for_the_next() -> None:
    leaving = """
      Array.prototype.map = 1; Object.prototype.left = 1; globalThis.left = 1; ccf.left = 1; ccf.strToBuf.left = 1; Date.left = 1;
      export const f = () => { Math.random(); return 1; };
    """
    asking = """export const f = () => [typeof [].map, typeof {}.left, typeof left, typeof ccf.left, typeof ccf.strToBuf.left,
      typeof Date.left, Math.random()];"""
    with workers() as fleet:
        first = fleet.run(job(asking))
        fleet.run(job(leaving))
        assert fleet.run(job(asking)) == first
        assert b'["function","undefined"' in first.value.data  # type: ignore[union-attr]
        assert fleet.pool.killed_total == 0


def test_many_jobs_in_few_processes_come_out_right() -> None:
    store = Store()
    store.apply(1, {"records": {b"%d" % number: b"v%d" % number for number in range(100)}})
    source = """export function f(k) {
      const m = ccf.kv.records; const key = ccf.strToBuf(k);
      m.set(key, m.get(key));
      return ccf.bufToStr(m.get(key));
    }"""
    with workers(2, store) as fleet:
        ended = [fleet.submit(job(source, str(number), access=Access.APP_RW)) for number in range(100)]
        fleet.until(*ended)
        assert [run[0][0].value for run in ended] == [Result("text", b"v%d" % number) for number in range(100)]
        assert fleet.pool.killed_total == 0
        assert len(pids(fleet)) == 2


def test_a_large_job_and_a_large_result_pass_in_pieces() -> None:
    with workers() as fleet:
        outcome = fleet.run(job("export const f = (x) => x;", b"\7" * (6 << 20)))
        assert outcome.value == Result("bytes", b"\7" * (6 << 20))


def test_a_worker_that_cannot_start_is_told_and_not_tried_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    with workers() as fleet:
        outcome = fleet.run(job("export const f = () => 1;"))
        assert outcome.end is End.UNAVAILABLE
        assert any("cannot be started" in text for _, text in fleet.logs)
    monkeypatch.undo()
    with workers(command=("-c", "import sys; sys.exit(3)")) as fleet:
        assert fleet.run(job("export const f = () => 1;")).end is End.UNAVAILABLE
        assert any("exit status 3" in text for _, text in fleet.logs)


def test_workers_are_gone_with_the_pool_and_none_is_left_unburied() -> None:
    with workers() as fleet:
        up(fleet)
        there = pids(fleet)
        os.kill(there[0], signal.SIGKILL)
        while there[0] in pids(fleet):
            select.select([fleet.processes.wake], [], [], 1)
            fleet.processes.turn(time.monotonic())
        up(fleet)
        assert there[0] not in pids(fleet)
        there += pids(fleet)
    for pid in there:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_the_prelude_is_beside_its_user() -> None:
    assert (ROOT / "enclave" / "runtime" / "prelude.js").is_file()
    assert script_worker.compiled_prelude() == script_worker.compiled_prelude()
    assert COMMAND[-1] == script_worker.__name__


def test_workers_run_within_the_process_launcher_s_sandbox() -> None:
    """Where the enclave itself has few descriptors, one user, no network, and limits that its workers inherit."""
    code = f"""
import sys; sys.path.insert(0, {str(ROOT / "tests")!r})
from support.scripts import job, workers
with workers() as fleet:
    found = [fleet.run(job("export const f = () => 1;", alone=alone)).end.value for alone in (False, True, True)]
    print(found, *fleet.pool.isolation, flush=True)
"""
    ours, theirs = socket.socketpair()
    enclave = ProcessLauncher((sys.executable, "-I", "-W", "ignore", "-c", code)).launch("unused", theirs)
    try:
        os.set_blocking(enclave.output, True)
        told = b"".join(iter(lambda: os.read(enclave.output, 1 << 16), b"")).decode()
    finally:
        enclave.stop(1)
        enclave.close_output()
        ours.close()
    assert told.startswith("['done', 'done', 'done'] own-process"), told
    assert "system-call-filter" in told


def test_where_the_engine_itself_fails_for_want_of_memory_only_its_job_is_over() -> None:
    """An object that outgrows the heap by its properties makes this engine follow a null pointer, about one time in ten."""
    grow = "export function f() { const a = {}; try { for (let i = 0; ; i++) a['k' + i] = i; } catch { return 1; } }"
    with workers() as fleet:
        for heap_bytes in (4_149_209, 4_011_443, 1_918_939, 4_170_580, 4_000_000):
            outcome = fleet.run(job(grow, limits=PATIENT._replace(heap_bytes=heap_bytes)))
            assert outcome.end in (End.DONE, End.MEMORY, End.CRASHED)
            assert fleet.run(job("export const f = () => 1;")).value == Result("json", b"1")
