"""Starts a Nitro Enclave and takes its link; ends it with the host.

One start at a time on an instance, whoever starts: two would fight for the same huge pages, and both listen on the one vsock port that
images know. So a start holds a lock from before it listens until the enclave has connected; then the port is free for the next.
Law: only the enclave that was started here is given the link: whatever else connects from another CID is sent away. No orphan: an enclave
whose link ends stops by itself (`enclave.runtime`), and `stop` ends one that does not.
What may pass is tried again with patience; what cannot, not. Not tried on hardware: see docs/operating.md.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from ledgerd.ledger.errors import ConfigurationError
from ledgerd.node.checks import failures
from ledgerd.node.config import Measurement, NitroConfig
from ledgerd.node.image import eif
from ledgerd.node.image.errors import EifError
from ledgerd.node.nitro.causes import Cause
from ledgerd.node.nitro.cli import NitroCli, NitroError, RunningInfo, own
from ledgerd.node.nitro.machine import ALLOCATOR, Machine
from ledgerd.node.nitro.preflight import preflight
from ledgerd.node.nitro.transport import Listener, VsockListener

ATTEMPTS_MAX: Final = 4
PATIENCE_SECONDS: Final = 1.0  # after the first failure; doubled after each
LOCK_SECONDS_MAX: Final = 300.0  # for others' starts to end
LOCK_POLL_SECONDS: Final = 0.2
BOOT_SECONDS_MAX: Final = 90.0  # from the command's end to the link; kernel, Python and imports take seconds
LOOK_SECONDS: Final = 2.0  # between looks whether an enclave that has not connected yet still runs
STOP_POLL_SECONDS: Final = 0.1

log = logging.getLogger("ledgerd.node")


class NitroLauncher:
    """Starts enclaves from an image.

    Args:
        config: Image, memory, CPUs.
        directory: The node's; names the enclave where the configuration does not.
        debug: In debug mode: its console is logged, and every verifier refuses it.
        machine: Where.
        listen: Makes the listener for a port.
        sleep, clock: Seconds, monotonic.
    """

    def __init__(
        self,
        config: NitroConfig,
        directory: Path,
        *,
        debug: bool = False,
        machine: Machine | None = None,
        listen: Callable[[int], Listener] = VsockListener,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = config.name or f"ledgerd-{hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:8]}"
        self._config = config
        self._debug = debug
        self._machine = machine or Machine()
        self._cli = NitroCli(config.cli)
        self._listen = listen
        self._sleep = sleep
        self._clock = clock

    def check(self) -> None:
        """Look whether a start can work.

        Raises: ConfigurationError: It cannot; one line for each reason, with what to do.
        """
        found = failures(preflight(self._config, self.name, self._machine, self._cli))
        if found:
            raise ConfigurationError("\n".join(["no enclave can be started here:", *found]))

    def measurement(self) -> Measurement:
        """PCR0, PCR1 and PCR2 of the image. Raises: ConfigurationError: It cannot be read, or is none."""
        try:
            line = eif.read(self._config.image.read_bytes()).measure()
        except OSError as error:
            raise ConfigurationError(f"cannot read {self._config.image}: {error.strerror}") from None
        except EifError as error:
            raise ConfigurationError(f"{self._config.image} is {error}") from None
        return Measurement(line.pcr0.hex(), line.pcr1.hex(), line.pcr2.hex())

    def launch(self, app: str, nsm: socket.socket) -> "NitroEnclave":
        """As `Launcher.launch`; the application is in the image, and its security module is the device's.

        Raises:
            NitroError: It did not start, or did not connect; nothing is left running.
            ConfigurationError: The vsock port is taken, or another start never ends.
        """
        nsm.close()
        with self._alone(), contextlib.closing(self._listen(self._config.link_port)) as listener:
            info = self._start()
            try:
                link = self._accept(listener, info)
            except BaseException:
                self._end(info)
                raise
        return NitroEnclave(info, link, self._cli, self._debug, self._sleep, self._clock)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock of this instance: the allocator's file, which is there wherever enclaves can run, and is not written."""
        path = self._machine.root / ALLOCATOR
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigurationError(f"cannot read {path}: {error.strerror}; is the Nitro Enclaves allocator installed?") from None
        try:
            deadline = self._clock() + LOCK_SECONDS_MAX
            waiting = False
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if self._clock() >= deadline:
                        raise ConfigurationError(
                            f"another enclave's start on this instance has not ended within {LOCK_SECONDS_MAX:.0f} s; "
                            f"`fuser {path}` names its process"
                        ) from None
                if not waiting:
                    log.info("waiting for another enclave's start to end")
                    waiting = True
                self._sleep(LOCK_POLL_SECONDS)
            yield
        finally:
            os.close(descriptor)

    def _start(self) -> RunningInfo:
        config = self._config
        before = self._ids()
        patience = PATIENCE_SECONDS
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                info = self._cli.run(
                    config.image, memory_mb=config.memory_mb, cpus=config.cpus, name=self.name, cid=config.cid, debug=self._debug
                )
            except NitroError as error:
                self._clean(before)
                if not error.cause.passes or attempt == ATTEMPTS_MAX:
                    raise
                log.warning("%s; trying again in %.0f s", error, patience)
                self._sleep(patience)
                patience *= 2
            else:
                log.info("enclave %s runs as CID %d with %d CPUs and %d MiB", info.id, info.cid, info.cpus, info.memory_mb)
                return info
        raise AssertionError("the last attempt raises")

    def _accept(self, listener: Listener, info: RunningInfo) -> socket.socket:
        deadline = self._clock() + BOOT_SECONDS_MAX
        what = f"the boot of enclave {info.id}"
        while (left := deadline - self._clock()) > 0:
            accepted = listener.accept(min(left, LOOK_SECONDS))
            if accepted is None:
                if not self._runs(info):
                    raise NitroError(what, Cause("", "it ended before it reached its host", _LOOK))
            elif accepted.cid is not None and accepted.cid != info.cid:
                log.warning("CID %d connected where CID %d was expected; sent away", accepted.cid, info.cid)
                accepted.link.close()
            else:
                return accepted.link
        late = f"it did not connect to vsock port {self._config.link_port} within {BOOT_SECONDS_MAX:.0f} s"
        raise NitroError(what, Cause("", late, _LOOK))

    def _runs(self, info: RunningInfo) -> bool:
        try:
            return any(enclave.id == info.id for enclave in self._cli.describe())
        except NitroError:
            return True  # not known to have ended

    def _ids(self) -> set[str] | None:
        """Enclaves that run; None if that cannot be known."""
        try:
            return {enclave.id for enclave in self._cli.describe()}
        except NitroError:
            return None

    def _clean(self, before: set[str] | None) -> None:
        """End what a failed start may have left: of our name, and not there before. Nothing where that cannot be told."""
        if before is None:
            return
        with contextlib.suppress(NitroError):
            for enclave in own(self._cli.describe(), self.name):
                if enclave.id not in before:
                    self._end(enclave)

    def _end(self, info: RunningInfo) -> None:
        with contextlib.suppress(NitroError):
            self._cli.terminate(info.id)


_LOOK: Final = "start it with attestation.debug = true and read its console in the node's log; is the image's link for this port?"


class NitroEnclave:
    """A running enclave; see `node.launch.RunningEnclave`. Its exit status is not known to its host."""

    def __init__(
        self,
        info: RunningInfo,
        link: socket.socket,
        cli: NitroCli,
        debug: bool,
        sleep: Callable[[float], None],
        clock: Callable[[], float],
    ) -> None:
        self.info = info
        self.pid = info.process_id
        self.link = link
        self.isolation: tuple[str, ...] = ("nitro-enclave", "debug-mode") if debug else ("nitro-enclave",)
        self._cli = cli
        self._sleep = sleep
        self._clock = clock
        self._status: int | None = None
        self._ended = False
        self._console: subprocess.Popen[bytes] | None = None
        self.output, end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if debug:
                os.set_blocking(end, True)
                self._console = cli.console(info.id, end)
        finally:
            os.close(end)

    def stop(self, seconds: float) -> int | None:
        """As `RunningEnclave.stop`. Idempotent."""
        with contextlib.suppress(OSError):
            self.link.close()
        if not self._ended:
            self._status, self._ended = self._wait(seconds), True
            if self._console is not None:
                self._console.terminate()
                self._console.wait()
        return self._status

    def _wait(self, seconds: float) -> int | None:
        """None if it ended by itself, the signal if it had to be terminated."""
        deadline = self._clock() + seconds
        while True:
            try:
                if all(enclave.id != self.info.id for enclave in self._cli.describe()):
                    return None
            except NitroError as error:
                log.warning("%s", error)
            if self._clock() >= deadline:
                break
            self._sleep(STOP_POLL_SECONDS)
        try:
            self._cli.terminate(self.info.id)
        except NitroError as error:
            log.error("enclave %s may still run: %s; end it by `nitro-cli terminate-enclave`", self.info.id, error)
        return -signal.SIGKILL

    def close_output(self) -> None:
        """Give `output` back, once everything is read."""
        os.close(self.output)
