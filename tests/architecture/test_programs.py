"""Programs in `scripts` that people call by hand: called wrongly they say so in a line, interrupted they leave nothing behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.processes import wait_for
from support.repository import ROOT

WRONG = {
    "nemesis --minutes nan": "argument --minutes: 'nan' is not a number above 0",
    "nemesis --clients 0": "argument --clients: '0' is not a whole number from 1 on",
    "nemesis --nodes 2": "argument --nodes: invalid choice: 2",
    "nemesis --dir /nowhere": "--dir /nowhere is no folder",
    "fuzz --mutations -1": "argument --mutations: '-1' is not a whole number from 1 on",
    "fuzz --seconds 1e999": "argument --seconds: '1e999' is not a number above 0",
    "fuzz --nothing": "unrecognized arguments: --nothing",
    "fuzz nothing": "there is no target nothing",
    "fuzz http --replay /nowhere": "--replay /nowhere cannot be read: No such file or directory",
    "scenario": "the following arguments are required: FILE",
    "simulate --minutes 0": "argument --minutes: '0' is not a number above 0",
    "simulate --jobs 0": "argument --jobs: '0' is not a whole number from 1 on",
    "simulate --seed x": "argument --seed: 'x' is not a whole number from 0 on",
    "simulate --bug nothing": "there is no planted bug nothing; scripts/simulate --bug list names those that there are",
    "simulate --bug VotesTwice --compiled": "bugs are planted by changing classes, and compiled ones cannot be changed: ",
    "simulate --compiled --jobs 0": "argument --jobs: '0' is not a whole number from 1 on",
    "simulate --replay /nowhere": "--replay /nowhere: No such file or directory",
    "model --workers 0": "argument --workers: '0' is not a whole number from 1 on",
    "picture --nothing": "unrecognized arguments: --nothing",
    "commands --write --check": "argument --check: not allowed with argument --write",
    "oracles --nothing": "unrecognized arguments: --nothing",
    "model nothing": "no such size: nothing; there are change, ",
}


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_call_is_told_in_a_line_and_ends_with_2(words: str) -> None:
    name, *arguments = words.split()
    called = subprocess.run([sys.executable, ROOT / "scripts" / name, *arguments], capture_output=True, text=True, timeout=600, check=False)
    assert (called.returncode, called.stdout, called.stderr.count("\n")) == (2, "", 1), called.stderr
    assert called.stderr.startswith(f"{name}: {WRONG[words]}")


def test_a_python_that_has_the_sources_and_not_what_they_need_is_left() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-S", str(ROOT / "scripts" / "simulate"), "--bug", "list"]
    called = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=environment)
    assert (called.returncode, called.stderr) == (0, "")
    assert "VotesTwice" in called.stdout.splitlines()


@pytest.mark.parametrize(("main", "is_read"), [("lambda: print('x' * 1_000_000) or 0", False), ("lambda: os.write(broken, b'x')", True)])
def test_a_reader_who_has_seen_enough_is_told_from_another_pipe_that_breaks(main: str, is_read: bool) -> None:
    lines = ("import os", "from support.programs import end", "reading, broken = os.pipe()", "os.close(reading)", f"end({main})")
    command = [sys.executable, "-c", "\n".join(lines)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT / "tests") as program:
        assert program.stdout is not None and program.stderr is not None
        if not is_read:
            program.stdout.close()
        told = program.stderr.read()
    assert program.returncode == 1
    assert told.endswith("BrokenPipeError: [Errno 32] Broken pipe\n") if is_read else told == ""


def _parents() -> dict[int, int]:
    """Every process and its parent."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        if fields[0] != "Z":
            found[int(path.parent.name)] = int(fields[1])
    return found


def _below(root: int) -> set[int]:
    """Everything that a process has started, and what that has started."""
    parents = _parents()
    found: set[int] = set()
    rest = [root]
    while rest:
        parent = rest.pop()
        children = [child for child, its in parents.items() if its == parent]
        found.update(children)
        rest += children
    return found


@pytest.mark.parametrize(
    ("words", "processes", "told"),
    [
        ("simulate --minutes 5 --jobs 2", 2, "interrupted; the table is of what was done until then"),
        ("fuzz http --seconds 300", 1, "interrupted"),
        ("nemesis --minutes 5 --quiet --dir {folder}", 6, "interrupted"),
    ],
)
def test_one_that_is_interrupted_says_so_in_a_line_and_leaves_nothing(tmp_path: Path, words: str, processes: int, told: str) -> None:
    """As a terminal does it: everything in its group is told."""
    name, *arguments = words.format(folder=tmp_path).split()
    command = [sys.executable, str(ROOT / "scripts" / name), *arguments]
    started: set[int] = set()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True) as program:

        def is_at_work() -> bool:
            started.update(_below(program.pid))
            return len(started) >= processes or program.poll() is not None

        try:
            wait_for(is_at_work, f"{name} works", 60.0)
            os.killpg(program.pid, signal.SIGINT)
            _, errors = program.communicate(timeout=600)
        finally:
            program.kill()
    assert (program.returncode, errors) == (130, f"{name}: {told}\n")
    wait_for(lambda: not started & set(_parents()), f"what {name} has started ends", 10.0)
    assert list(tmp_path.iterdir()) == []
