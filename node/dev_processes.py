"""The processes of `ledgerd dev`: what each has said, whether it lives, and the end of all of them.

Not here: what they are started with (`node.dev`, `node.dev_folder`).
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final

from ledgerd.ledger.errors import LedgerdError

STOP_SECONDS_MAX: Final = 5.0
POLL_SECONDS: Final = 0.02
LOG_LINES_SHOWN: Final = 30  # an exception has up to 20 frames
_NOTICE: Final = re.compile(r"(?!ledgerd: )[a-z_]+: ")  # what a node tells of itself when all is well


class DevelopmentError(LedgerdError):
    """The service did not come up; the message says which node, and why."""

    code = "DevelopmentError"


class Stop:
    """Set by a signal; looked at wherever we wait."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True


class StoppedError(Exception):
    """Asked to stop before the service was open."""


class Child:
    """A node's process, or another one that the service needs, and the folder that it writes to."""

    def __init__(self, name: str, directory: Path, process: "subprocess.Popen[bytes]") -> None:
        self.name = name
        self.directory = directory
        self.process = process
        self.told = False

    def read(self, name: str) -> str | None:
        """What the node has written into a file of this name, or None yet."""
        try:
            return (self.directory / name).read_text().strip() or None
        except OSError:
            return None

    def words(self) -> str:
        """What it said last, for people who wonder why it ended: warnings and errors of its log, then the line that says why."""
        logged = [line for line in self._lines("node.log") if " INFO " not in line]
        said = [line for line in self._lines("output.log") if not _NOTICE.match(line)]
        return "\n".join((logged + said)[-LOG_LINES_SHOWN:]) or "nothing"

    def _lines(self, name: str) -> list[str]:
        try:
            return (self.directory / name).read_text(errors="replace").splitlines()
        except OSError:
            return []


def wait_for(found: Callable[[], str | None], nodes: list[Child], stop: Stop, deadline: float, what: str) -> str:
    """Wait for something of a service that is being born: nobody may die before it is there."""
    while True:
        value = found()
        if value:
            return value
        if stop.asked:
            raise StoppedError
        for node in nodes:
            status = node.process.poll()
            if status is not None:
                raise DevelopmentError(f"{node.name} {how(status)} before the service was open; it said:\n{node.words()}")
        if time.monotonic() > deadline:
            words = "\n".join(f"{node.name}: {node.words()}" for node in nodes)
            raise DevelopmentError(f"there was no {what.partition(' ')[2]} in time; the nodes said:\n{words}")
        time.sleep(POLL_SECONDS)


def tell_of_the_dead(nodes: list[Child], tell: Callable[[str], None]) -> None:
    """Say of each node that has ended since the last call how it did, and whether the service goes on."""
    for node in nodes:
        status = node.process.poll()
        if status is not None and not node.told:
            node.told = True
            members = [other for other in nodes if other.read("retired") is None]
            if node not in members:
                tell(f"{node.name}, which was retired, {how(status)}")
                continue
            living = sum(other.process.poll() is None for other in members)
            goes_on = "the service goes on" if 2 * living > len(members) else "without a majority nothing is committed any more"
            tell(f"{node.name} {how(status)}; {living} of {len(members)} nodes live: {goes_on}")


def end(nodes: list[Child]) -> None:
    """End all nodes: asked first, killed with all of their session if they do not."""
    deadline = time.monotonic() + STOP_SECONDS_MAX
    for node in nodes:
        send_signal(node.process, signal.SIGTERM, group=False)
    for node in nodes:
        try:
            node.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            send_signal(node.process, signal.SIGKILL, group=True)
            node.process.wait()


def send_signal(process: "subprocess.Popen[Any]", number: int, *, group: bool) -> None:
    """Send a process a signal, or the group that it leads; nothing if it is gone."""
    try:
        if group:
            os.killpg(process.pid, number)
        elif process.poll() is None:
            process.send_signal(number)
    except ProcessLookupError:
        pass


def how(status: int) -> str:
    """How a process ended, in words that follow its name."""
    if status < 0:
        return f"was ended by signal {signal.Signals(-status).name}"
    return f"ended with status {status}"
