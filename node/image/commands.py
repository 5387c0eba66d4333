"""Runs other programs, and says of a failure what it was and what they said."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from ledgerd.node.image.errors import ImageError

_SAID_LINES: Final = 8  # of what a failed program said; its reason stands at the end


def run(
    command: Sequence[str | Path],
    *,
    what: str,
    advice: str,
    seconds: float,
    folder: Path | None = None,
    given: bytes = b"",
    environment: Mapping[str, str] | None = None,
) -> bytes:
    """Run a program to its end; what it wrote to standard output.

    Args:
        command: Program and arguments.
        what: What it does, for the message.
        advice: What to do when it fails.
        seconds: How long it may take.
        folder: Its working directory.
        given: Its standard input.
        environment: All of its environment; by default ours, in English.
    Raises: ImageError: It is not there, fails, or takes too long.
    """
    everything = {**os.environ, "LC_ALL": "C"} if environment is None else dict(environment)
    try:
        done = subprocess.run(  # noqa: S603 (no shell; programs and arguments are ours)
            [str(word) for word in command], input=given, capture_output=True, cwd=folder, env=everything, timeout=seconds, check=False
        )
    except FileNotFoundError:
        raise ImageError(f"{what} needs {command[0]}, which is not here; {advice}") from None
    except OSError as error:
        raise ImageError(f"{what}: {command[0]} cannot be run: {error.strerror}; {advice}") from None
    except subprocess.TimeoutExpired:
        raise ImageError(f"{what} took more than {seconds:.0f} s; {advice}") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        words = "\n".join(line for line in said if not line.startswith(("W:", "WARNING:")))
        last = "\n".join(words.splitlines()[-_SAID_LINES:]) or f"exit status {done.returncode}, without a word"
        raise ImageError(f"{what} failed; {advice}\n{last}")
    return done.stdout
