"""What programs in `scripts` have in common: the Python that they run in, how they refuse what makes no sense, and how they end.

Law: imports nothing but the standard library, since a program may be begun by any Python, and finds the project's here. Whoever calls one
wrongly reads one line, and status 2; whoever interrupts it reads one line, and nothing that it started is left.
Not here: `ledgerd` itself, whose commands are click's (`node.cli`).
"""

import argparse
import math
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NoReturn, TypeVar

ROOT: Final = Path(__file__).resolve().parents[2]
PYTHON: Final = ROOT / ".venv" / "bin" / "python"
INTERRUPTED: Final = 130  # as a shell shows it

Number = TypeVar("Number", int, float)


def enter(*, ordered: bool = False) -> None:
    """Go on in a Python that has the project, from the first line again; where there is none, it is made first.

    Args: ordered: Sets have the same order in every run, so that a seed decides everything.
    """
    if ordered:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # they load all they need before `end` listens
    is_there = None not in map(find_spec, ("ledgerd", "msgpack"))  # the sources alone, as PYTHONPATH gives them, are not enough
    if is_there and (not ordered or os.environ.get("PYTHONHASHSEED") == "0"):
        return
    python = Path(sys.executable) if is_there else PYTHON
    if not is_there and (not PYTHON.exists() or Path(sys.prefix) == PYTHON.parents[1]):
        made = subprocess.run([ROOT / "scripts" / "environment", "dev"], check=False)
        if made.returncode:
            sys.exit(made.returncode)  # it has said why
    os.execve(python, [str(python), *sys.argv], {**os.environ, **({"PYTHONHASHSEED": "0"} if ordered else {})})


def end(main: Callable[[], int]) -> NoReturn:
    """Run a program to its end, and end with the status that it gives."""
    name = Path(sys.argv[0]).name
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        status = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # once is enough
        print(f"{name}: interrupted", file=sys.stderr)
        status = INTERRUPTED
    except BrokenPipeError:
        output = select.poll()
        output.register(sys.stdout, 0)
        if not output.poll(0):
            raise  # it is another pipe that broke, such as one to a process that has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # who read has seen enough, as `head` has
        status = 1
    sys.exit(status)


class Parser(argparse.ArgumentParser):
    """Arguments of a program whose docstring is its help."""

    def __init__(self, text: str | None) -> None:
        super().__init__(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        """One line, and status 2."""
        print(f"{self.prog}: {message}; scripts/{self.prog} --help shows what there is", file=sys.stderr)
        sys.exit(2)


def above_0(text: str) -> float:
    """A number of minutes, seconds or the like."""
    return _number(text, float, lambda number: math.isfinite(number) and number > 0, "a number above 0")


def from_0(text: str) -> float:
    """The same, or 0."""
    return _number(text, float, lambda number: math.isfinite(number) and number >= 0, "a number from 0 on")


def count(text: str) -> int:
    """How many of something."""
    return _number(text, int, lambda number: number >= 1, "a whole number from 1 on")


def whole(text: str) -> int:
    """A seed, or the like."""
    return _number(text, int, lambda number: number >= 0, "a whole number from 0 on")


def _number(text: str, read: Callable[[str], Number], is_meant: Callable[[Number], bool], what: str) -> Number:
    try:
        number = read(text)
        if is_meant(number):
            return number
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
