"""Drives `nitro-cli`: one call for each of its commands that is needed, its JSON as values, its errors with one cause.

Law: a command that ends in time with status 0 and the JSON that was asked for has worked; everything else is a NitroError. What it
prints is bounded while it prints, and goes to files: an enclave's process that it leaves behind may hold its descriptors for ever.
Nothing is tried again here (`node.nitro.launcher` does that).
"""

import contextlib
import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any, ClassVar, Final, NamedTuple

from ledgerd.ledger.errors import LedgerdError
from ledgerd.node.nitro.causes import Cause, cause_of

CALL_SECONDS_MAX: Final = 30.0
RUN_SECONDS_MAX: Final = 180.0  # loading a large image into huge pages takes tens of seconds
OUTPUT_SIZE_MAX: Final = 1 << 20  # a description of four enclaves has 2 KB
ANSWERS_MAX: Final = 64  # places in the output where an answer may begin
POLL_SECONDS: Final = 0.1
_NUMBERS: Final = {"ProcessID": 1 << 31, "EnclaveCID": 1 << 32, "NumberOfCPUs": 1 << 16, "MemoryMiB": 1 << 32}
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,127}")  # given back to the program: never taken for an option
_NAME_LENGTH_MAX: Final = 256
_JSON: Final = re.compile(r"^[\[{]", re.MULTILINE)
_VERSION: Final = re.compile(r"([0-9]{1,6})\.([0-9]{1,6})\.([0-9]{1,6})")


class NitroError(LedgerdError):
    """`nitro-cli`, or the enclave that it started, did not do what it should.

    Attributes:
        cause: Why, as far as is known.
    """

    code: ClassVar[str] = "NitroError"

    def __init__(self, what: str, cause: Cause) -> None:
        super().__init__(f"{what} failed{f' ({cause.code})' if cause.code else ''}: {cause.text}; {cause.advice}")
        self.cause = cause


class RunningInfo(NamedTuple):
    """One running enclave, as `describe-enclaves` and `run-enclave` tell of it."""

    name: str
    id: str
    process_id: int
    cid: int
    cpus: int
    memory_mb: int
    debug: bool


class NitroCli:
    """The program.

    Args:
        program: Its name or path.
    """

    def __init__(self, program: str = "nitro-cli") -> None:
        self.program = program

    def version(self) -> tuple[int, int, int]:
        """Its version. Raises: NitroError: It is not there, or says none."""
        match = _VERSION.search(self._call("--version"))
        if match is None:
            raise NitroError(f"{self.program} --version", Cause("", "it names no version", "is it AWS's nitro-cli?"))
        return int(match[1]), int(match[2]), int(match[3])

    def run(self, image: Path, *, memory_mb: int, cpus: int, name: str, cid: int | None, debug: bool) -> RunningInfo:
        """Start an enclave. Raises: NitroError."""
        options = ["--eif-path", str(image), "--memory", str(memory_mb), "--cpu-count", str(cpus), "--enclave-name", name]
        if cid is not None:
            options += ["--enclave-cid", str(cid)]
        if debug:
            options.append("--debug-mode")
        found = self._json("run-enclave", *options, seconds=RUN_SECONDS_MAX)
        return _info(found, "run-enclave", debug)

    def describe(self) -> list[RunningInfo]:
        """All enclaves that run on this instance, and that this user may see. Raises: NitroError."""
        found = self._json("describe-enclaves")
        if not isinstance(found, list):
            raise _strange("describe-enclaves")
        return [_info(item, "describe-enclaves", None) for item in found]

    def terminate(self, enclave_id: str) -> None:
        """End an enclave at once. Raises: NitroError."""
        found = self._json("terminate-enclave", "--enclave-id", enclave_id)
        if not isinstance(found, dict) or found.get("Terminated") is not True:
            raise _strange("terminate-enclave")

    def console(self, enclave_id: str, output: int) -> "subprocess.Popen[bytes]":
        """Write the console of an enclave in debug mode to descriptor `output`, until it ends. Raises: NitroError: No such program."""
        try:
            return subprocess.Popen(  # noqa: S603 (a fixed command, without a shell)
                [self.program, "console", "--enclave-id", enclave_id], stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        except OSError as error:
            raise self._missing(error) from None

    def _json(self, command: str, *options: str, seconds: float = CALL_SECONDS_MAX) -> Any:
        text = self._call(command, *options, seconds=seconds)
        for start in islice(_JSON.finditer(text), ANSWERS_MAX):  # words for people may stand in lines before it
            with contextlib.suppress(ValueError, RecursionError):
                return json.JSONDecoder().raw_decode(text, start.start())[0]
        raise _strange(command)

    def _call(self, *arguments: str, seconds: float = CALL_SECONDS_MAX) -> str:
        """Run to the end; return standard output."""
        what = f"{self.program} {arguments[0]}"
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            try:
                process = subprocess.Popen(  # noqa: S603 (a fixed command, without a shell)
                    [self.program, *arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=errors
                )
            except OSError as error:
                raise self._missing(error) from None
            with process:
                try:
                    cause = _wait(process, (output, errors), seconds)
                finally:
                    process.kill()  # does nothing to one that has ended
            if cause is not None:
                raise NitroError(what, cause)
            if process.returncode != 0:
                raise NitroError(what, cause_of(_text(errors)))
            return _text(output)

    def _missing(self, error: OSError) -> NitroError:
        cause = Cause("", f"it cannot be run: {error.strerror}", "install aws-nitro-enclaves-cli, or set nitro.cli to its path")
        return NitroError(self.program, cause)


def _wait(process: "subprocess.Popen[bytes]", files: Sequence[IO[bytes]], seconds: float) -> Cause | None:
    """Wait for its end; why it is not waited for any more, or None if it has ended."""
    deadline = time.monotonic() + seconds
    while True:
        left = deadline - time.monotonic()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, min(left, POLL_SECONDS)))
            return None
        if any(os.fstat(file.fileno()).st_size > OUTPUT_SIZE_MAX for file in files):
            return Cause("", f"it printed more than {OUTPUT_SIZE_MAX >> 20} MiB", "is it AWS's nitro-cli? Run the command by hand")
        if left <= 0:
            return Cause("", f"it did not end within {seconds:.0f} s", "see /var/log/nitro_enclaves/nitro_enclaves.log", True)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read(OUTPUT_SIZE_MAX).decode(errors="replace")


def own(enclaves: Sequence[RunningInfo], name: str) -> list[RunningInfo]:
    """Those of a name."""
    return [enclave for enclave in enclaves if enclave.name == name]


def _info(found: Any, command: str, debug: bool | None) -> RunningInfo:
    if not isinstance(found, dict):
        raise _strange(command)
    name, enclave_id = found.get("EnclaveName") or "", found.get("EnclaveID")
    numbers: list[Any] = [found.get(key) for key in _NUMBERS]
    if (
        type(name) is not str
        or len(name) > _NAME_LENGTH_MAX
        or not name.isprintable()
        or type(enclave_id) is not str
        or _ID.fullmatch(enclave_id) is None
        or not all(type(number) is int and 0 < number < most for number, most in zip(numbers, _NUMBERS.values(), strict=True))
    ):
        raise _strange(command)
    is_debug = "DEBUG" in str(found.get("Flags", ""))
    process_id, cid, cpus, memory_mb = numbers
    return RunningInfo(name, enclave_id, process_id, cid, cpus, memory_mb, is_debug if debug is None else debug)


def _strange(command: str) -> NitroError:
    return NitroError(f"nitro-cli {command}", Cause("", "its answer has an unknown form", "is it AWS's nitro-cli, 1.2 or newer?"))
