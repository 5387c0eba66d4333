"""Runs a target in a process of its own: what it was fed last is known even if that process is killed, crashes or never returns.

The number of executions and the input of the present one lie in memory that both processes see. Memory of the child is limited, so that an
input that takes too much fails there and nowhere else.
"""

import contextlib
import faulthandler
import mmap
import os
import pickle
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple

from support.fuzzing.bounds import timed, weighed
from support.fuzzing.laws import BrokenLaw, Maker, Target
from support.fuzzing.mutation import SIZE_BYTES_MAX, mutate

MUTATIONS_MIN: Final = 100  # however short the time
WEIGHED_EVERY: Final = 64  # every so many inputs are weighed
HANGING_SECONDS: Final = 300.0  # of one input, until its process is killed
ADDRESS_SPACE_BYTES: Final = 1 << 30  # more than the process has when it begins
_REPORT_BYTES_MAX: Final = 64 << 10
_INPUT_BYTES_MAX: Final = 4 << 20
_HEAD: Final = struct.Struct("=QQQQ")  # executions, accepted, most bytes weighed, size of the present input


class Result(NamedTuple):
    """What came of one target.

    Attributes:
        finding: What broke the law, or None.
        kept: File of the input that did.
    """

    target: str
    executions: int
    accepted: int
    seconds: float
    weighed_bytes_max: int
    finding: str | None = None
    kept: str | None = None


class Plan(NamedTuple):
    """How long, and how. Either of `seconds` and `mutations` ends it; guided only knows seconds."""

    seconds: float | None
    mutations: int | None
    seed: int
    guided: bool = False


class _Board:
    """Memory of both processes."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _HEAD.size + _INPUT_BYTES_MAX)
        self.executions = self.accepted = self.weighed_bytes_max = 0

    def begin(self, data: bytes) -> None:
        """The child is about to judge this input."""
        size = min(len(data), _INPUT_BYTES_MAX)
        _HEAD.pack_into(self._memory, 0, self.executions, self.accepted, self.weighed_bytes_max, size)
        self._memory[_HEAD.size : _HEAD.size + size] = data[:size]

    def end(self, accepted: bool) -> None:
        """It has been judged."""
        self.executions += 1
        self.accepted += accepted

    def read(self) -> tuple[int, int, int, bytes]:
        """As the child left it: executions, accepted, most bytes weighed, the input."""
        executions, accepted, most, size = _HEAD.unpack_from(self._memory)
        return executions, accepted, most, bytes(self._memory[_HEAD.size : _HEAD.size + size])


def run(name: str, maker: Maker, plan: Plan) -> Result:
    """Fuzz one target."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        return _run(name, maker, plan, folder)


def _run(name: str, maker: Maker, plan: Plan, folder: str) -> Result:
    board = _Board()
    begin = time.monotonic()
    reading, writing = os.pipe()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # who interrupts has not found anything: the child never sees it
    child = os.fork()
    if child == 0:
        os.close(reading)
        _child(maker, plan, board, writing, folder)
    os.close(writing)
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        status, killed = _wait(child, board)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)
        raise
    with os.fdopen(reading, "rb") as pipe:
        told: str | None = pickle.loads(pipe.read() or pickle.dumps(None))
    executions, accepted, most, data = board.read()
    seconds = time.monotonic() - begin
    if killed:
        told = f"does not come to an end within {HANGING_SECONDS:.0f} s"
    elif status != 0 and told is None:
        told = f"the process ended by signal {signal.Signals(-status).name}" if status < 0 else f"the process ended with status {status}"
    if told is None:
        return Result(name, executions, accepted, seconds, most)
    kept = Path(tempfile.gettempdir(), f"fuzz-{name}-{sha256(data).hexdigest()[:16]}")
    kept.write_bytes(data)
    return Result(name, executions, accepted, seconds, most, told, str(kept))


def replay(maker: Maker, data: bytes) -> bool:
    """Judge one input here, as if it were fuzzed. Raises: what it raises."""
    target = maker()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        accepted = timed(target, data)
        weighed(target, data)
    return accepted


def _wait(child: int, board: _Board) -> tuple[int, bool]:
    """Exit status as `os.waitstatus_to_exitcode` has it, and whether the child had to be killed."""
    seen, since = -1, time.monotonic()
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), False
        executions = board.read()[0]
        if executions != seen:
            seen, since = executions, time.monotonic()
        elif time.monotonic() > since + HANGING_SECONDS:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return -signal.SIGKILL, True
        time.sleep(0.02)


def _child(maker: Maker, plan: Plan, board: _Board, writing: int, folder: str) -> None:
    """Never returns."""
    status = 0
    until = None if plan.seconds is None else time.monotonic() + plan.seconds  # what it takes to begin counts, too
    faulthandler.disable()  # a crash is told by the parent
    try:
        warnings.simplefilter("error")  # an input that makes somebody warn is a finding, too
        tempfile.tempdir = folder  # what a target makes is gone with it
        target = maker()
        _limit_memory()
        if plan.guided:
            _guide(target, plan, board, writing, folder)
        else:
            _change(target, plan, board, until)
    except BaseException as error:
        _tell(writing, error)
        status = 1
    finally:
        os._exit(status)


def _tell(writing: int, error: BaseException) -> None:
    text = f"breaks the law: {error}" if isinstance(error, BrokenLaw) else f"raises {type(error).__name__}: {error}"
    places = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-3:]]
    with contextlib.suppress(OSError):
        os.write(writing, pickle.dumps(f"{text[:2_000]} ({', '.join(places)})")[:_REPORT_BYTES_MAX])


def _limit_memory() -> None:
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[0])
    most = pages * mmap.PAGESIZE + ADDRESS_SPACE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _judge(target: Target, data: bytes, board: _Board, weigh: bool) -> None:
    board.begin(data)
    if weigh:
        board.weighed_bytes_max = max(board.weighed_bytes_max, weighed(target, data))
    board.end(timed(target, data))


def _change(target: Target, plan: Plan, board: _Board, until: float | None) -> None:
    chosen = random.Random(plan.seed)
    for data in (*target.seeds, *target.bombs):
        _judge(target, data, board, weigh=True)
    seeds, tokens = target.seeds, target.tokens
    executions = 0
    while executions < MUTATIONS_MIN or (
        (plan.mutations is None or executions < plan.mutations) and (until is None or time.monotonic() < until)
    ):
        data = mutate(chosen.choice(seeds), chosen.choice(seeds), chosen, tokens)
        _judge(target, data, board, weigh=executions % WEIGHED_EVERY == 0)
        executions += 1
    board.begin(b"")


def _guide(target: Target, plan: Plan, board: _Board, writing: int, folder: str) -> None:
    """By atheris: libFuzzer chooses what to change further by the code that an input reached. It ends this process by itself."""
    import atheris  # type: ignore[import-untyped]

    for data in (*target.seeds, *target.bombs):
        _judge(target, data, board, weigh=True)

    def one(data: bytes) -> None:
        try:
            _judge(target, data, board, weigh=board.executions % WEIGHED_EVERY == 0)
        except BaseException as error:
            _tell(writing, error)
            os._exit(1)
        board.begin(b"")

    def ours(data: bytes, size_max: int, seed: int) -> bytes:
        chosen = random.Random(seed)
        if chosen.random() < 0.3:
            changed: Any = atheris.Mutate(data, size_max)
            return bytes(changed)
        return mutate(data, chosen.choice(target.seeds), chosen, target.tokens)[:size_max]

    corpus = Path(folder, "corpus")
    corpus.mkdir()
    for number, data in enumerate(target.seeds):
        (corpus / f"seed{number}").write_bytes(data)
    assert plan.seconds is not None, "guided runs end by time"
    largest = max(40_000, *(2 * len(data) for data in target.seeds))
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, sys.stderr.fileno())
    options = [
        f"-max_total_time={max(1, round(plan.seconds))}",
        f"-seed={plan.seed + 1}",
        f"-max_len={min(largest, SIZE_BYTES_MAX)}",
        "-rss_limit_mb=0",
        f"-artifact_prefix={folder}/",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one, custom_mutator=ours)
    atheris.Fuzz()
