"""The `vm` launcher: an enclave image in a virtual machine of QEMU's, on any Linux machine.

Law: what is measured is what is started: kernel and ramdisks are handed over as sealed memory. The machine has no network device and no
disk; it dies with its host (PR_SET_PDEATHSIG). Software emulation always: where /dev/kvm is itself virtual, stock kernels hang.
The image's own ramdisk is started on the stand-in platform (`platform`), whatever platform the file has.
"""

import contextlib
import fcntl
import logging
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from ledgerd.ledger.attestation.measurement import image_pcrs
from ledgerd.ledger.errors import ConfigurationError
from ledgerd.node.checks import Check, failures
from ledgerd.node.child import dies_with_us
from ledgerd.node.config import Measurement, VmConfig
from ledgerd.node.image import eif
from ledgerd.node.printing import printable
from ledgerd.node.vm import guest, images
from ledgerd.node.vm.backend import Backend
from ledgerd.node.vm.errors import MachineError
from ledgerd.node.vm.platform import Platform
from ledgerd.node.vm.preflight import MEMINFO, preflight

BOOT_SECONDS_MAX: Final = 180.0  # 10 s alone on two cores; several at once on a busy machine take their time
OUTPUT_BYTES_SHOWN: Final = 4096
ISOLATION: Final = ("virtual-machine", "own-kernel", "no-network-device", "no-disk", "dies-with-host")

log = logging.getLogger("ledgerd.node")


class VmLauncher:
    """Starts virtual machines.

    Args:
        config: Image, memory, QEMU's name.
        folder: Where packages, and what is made of them, are kept.
        say: Is told what takes long.
        meminfo: Where the kernel tells of free memory.
    """

    def __init__(
        self,
        config: VmConfig,
        folder: Path,
        *,
        say: Callable[[str], None] = lambda _: None,
        meminfo: Path = MEMINFO,
    ) -> None:
        self._config = config
        self._folder = folder
        self._say = say
        self._meminfo = meminfo
        self._platform: Platform | None = None
        self._ramdisks: tuple[bytes, ...] = ()

    def check(self) -> None:
        """Look whether a start can work, and read what is to be started.

        Raises: ConfigurationError: It cannot; says what to install or to change. ImageError, IntegrityError: There is no platform.
        """
        refuse(preflight(self._config, self._meminfo))
        image = images.read(self._config.image)
        ramdisks = tuple(map(bytes, image.all(eif.Kind.RAMDISK)[1:]))
        self._platform = images.stand_in(self._folder, self._say)
        self._ramdisks = ramdisks

    def measurement(self) -> Measurement:
        """PCR0, PCR1 and PCR2 of what is started; after `check`."""
        under = self._checked()
        line = image_pcrs(under.kernel, under.command_line.encode(), (under.ramdisk, *self._ramdisks))
        return Measurement(line.pcr0.hex(), line.pcr1.hex(), line.pcr2.hex())

    def _checked(self) -> Platform:
        if self._platform is None:
            self.check()
        assert self._platform is not None, "check found it, or raised"
        return self._platform

    def launch(self, app: str, nsm: socket.socket) -> "VirtualMachine":
        """As `Launcher.launch`, from the main thread; the application is in the image. Waits until the enclave has connected.

        Raises: MachineError: It did not start, or did not connect; nothing is left running.
        """
        under = self._checked()
        machine = VirtualMachine(self._config, under, self._ramdisks, nsm)
        try:
            machine.wait_connected(BOOT_SECONDS_MAX)
        except BaseException:
            machine.stop(0.0)
            machine.close_output()
            raise
        return machine


def refuse(checks: Sequence[Check]) -> None:
    """Raises: ConfigurationError: One of the checks is a failure; one line for each, with what to do."""
    if found := failures(checks):
        raise ConfigurationError("\n".join(["no virtual machine can be started here:", *found]))


class VirtualMachine:
    """A running virtual machine; see `node.launch.RunningEnclave`."""

    def __init__(self, config: VmConfig, under: Platform, ramdisks: tuple[bytes, ...], nsm: socket.socket) -> None:
        self.isolation: tuple[str, ...] = ISOLATION
        self._status: int | None = None
        self._woken = threading.Event()
        self._connected = False
        self._link_port = config.link_port
        self.link, enclave_end = socket.socketpair()
        self._heartbeat, heartbeat = socket.socketpair()
        self._heartbeat.sendall(guest.HEARTBEAT)  # the answer lies ready
        self._ports = {config.link_port: enclave_end, guest.NSM_PORT: nsm, guest.HEARTBEAT_PORT: heartbeat}
        monitor, qemu_end = socket.socketpair()
        self.output, child_output = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(child_output, True)
        kernel = _sealed("kernel", under.kernel)
        ramdisk = _sealed("ramdisks", b"".join((under.ramdisk, *ramdisks)))
        try:
            command = qemu_command(config, under.command_line, f"/dev/fd/{kernel}", f"/dev/fd/{ramdisk}", qemu_end.fileno())
            self._process = _start(command, (kernel, ramdisk, qemu_end.fileno()), child_output)
        except OSError as error:
            for sock in (self.link, self._heartbeat, monitor, *self._ports.values()):
                sock.close()
            os.close(self.output)
            raise MachineError(f"{config.qemu} cannot be started: {error.strerror}") from None
        finally:
            qemu_end.close()
            for descriptor in (child_output, kernel, ramdisk):
                os.close(descriptor)
        self.pid = self._process.pid
        self._backend = Backend(monitor, self._connect, self._woken.set)

    def _connect(self, port: int) -> socket.socket | None:
        """What the guest reaches at a port of its parent's: each of the three once."""
        sock = self._ports.pop(port, None)
        if sock is not None and port == self._link_port:
            self._connected = True
            self._woken.set()
        return sock

    def wait_connected(self, seconds: float) -> None:
        """Wait until the enclave has connected. Raises: MachineError: It ended before, or it takes longer."""
        woken = self._woken.wait(seconds)
        if self._connected:
            return
        how = "ended before its enclave connected" if woken else f"did not connect within {seconds:.0f} s"
        self.stop(1.0 if woken else 0.0)
        raise MachineError(f"the virtual machine {how} to vsock port {self._link_port}; it printed:\n{self._printed()}")

    def _printed(self) -> str:
        data = b""
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self.output, 1 << 16):
                data = (data + part)[-OUTPUT_BYTES_SHOWN:]
        return printable(data.decode(errors="replace").replace("\r\n", "\n")).strip() or "nothing"

    def stop(self, seconds: float) -> int:
        """As `RunningEnclave.stop`: what is in the machine ends with its link, and the machine with that. Idempotent."""
        with contextlib.suppress(OSError):
            self.link.close()
        if self._status is None:
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
            self._status = self._process.wait()
            self._backend.close()
            for sock in (self._heartbeat, *self._ports.values()):
                sock.close()
        return self._status

    def close_output(self) -> None:
        """Give `output` back, once everything is read."""
        os.close(self.output)


def qemu_command(config: VmConfig, command_line: str, kernel: str, ramdisk: str, monitor: int) -> list[str]:
    """QEMU's arguments: a machine with a serial line and a vsock, and nothing else."""
    return [
        *(shutil.which(config.qemu) or config.qemu, "-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", str(config.memory_mb)),
        *("-object", f"memory-backend-memfd,id=memory,size={config.memory_mb}M,share=on", "-machine", "memory-backend=memory"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny"),
        *("-chardev", f"socket,id=vsock,fd={monitor}", "-device", "vhost-user-vsock-pci,chardev=vsock"),
        *("-kernel", kernel, "-initrd", ramdisk, "-append", command_line),
    ]


def _sealed(name: str, data: bytes) -> int:
    """A descriptor of memory that nobody can change any more."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    return descriptor


def _start(command: list[str], descriptors: tuple[int, ...], output: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(  # noqa: S603 (no shell; QEMU, as configured)
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=descriptors,
        env={},
        start_new_session=True,
        preexec_fn=dies_with_us(signal.SIGKILL),  # noqa: PLW1509 (no other thread runs yet)
    )
