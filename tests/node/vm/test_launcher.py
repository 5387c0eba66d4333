import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from ledgerd.ledger.attestation.measurement import image_pcrs
from ledgerd.ledger.errors import ConfigurationError
from ledgerd.node.config import VmConfig
from ledgerd.node.image import eif
from ledgerd.node.vm import launcher as launchers
from ledgerd.node.vm import platform
from ledgerd.node.vm.errors import MachineError
from ledgerd.node.vm.launcher import ISOLATION, VirtualMachine, VmLauncher
from support import fake_qemu
from support.processes import own_children

SECONDS_MAX = 120.0
OURS = b"ramdisk 1 of the image"


class Place:
    """A folder with a platform that was made before, an image, and a QEMU that is none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.image = folder / "image.eif"
        self.image.write_bytes(eif.write(b"AWS's kernel", "AWS's line", [b"AWS's ramdisk", OURS], metadata=None))
        made = eif.write(b"kernel", "console=ttyS0", [b"platform"], metadata=None)
        (folder / f"vm-platform-{platform.digest()[:32]}.eif").write_bytes(made)

    def qemu(self, mode: str) -> str:
        script = self.folder / f"qemu-{mode}"
        script.write_text(f'#!/bin/sh\nexec {sys.executable} -I {fake_qemu.__file__} {mode} "$@"\n')
        script.chmod(0o755)
        return str(script)

    def launcher(self, mode: str = "serve", **changes: Any) -> VmLauncher:
        config = VmConfig(**{"image": self.image, "qemu": self.qemu(mode), **changes})
        return VmLauncher(config, self.folder)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def nsm() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(SECONDS_MAX)
    with ours, theirs:
        yield ours, theirs


def printed(machine: VirtualMachine, until: str) -> str:
    """What the machine prints, up to a word."""
    text = ""
    while until not in text:
        assert select.select([machine.output], [], [], SECONDS_MAX)[0], text
        part = os.read(machine.output, 1 << 16)
        assert part, text
        text += part.decode()
    return text


def test_what_is_measured_is_what_is_started(place: Place, nsm: tuple[socket.socket, socket.socket]) -> None:
    """The stand-in's kernel, line and ramdisk 0, and the image's own ramdisk; nothing of the host's environment."""
    launcher = place.launcher(memory_mb=300)
    measured = launcher.measurement()
    nsm[0].sendall(b"a simulator")
    machine = launcher.launch("", nsm[1])
    told = json.loads(printed(machine, "}\n").removeprefix("started ").splitlines()[0])
    assert machine.stop(SECONDS_MAX) == 0
    machine.close_output()
    assert told["kernel"] == sha256(b"kernel").hexdigest()
    assert told["ramdisks"] == sha256(b"platform" + OURS).hexdigest()
    assert (told["append"], told["memory"], told["session"]) == ("console=ttyS0", "300", True)
    assert set(told["environment"]) <= {"PWD", "LC_CTYPE", "SHLVL", "_", "OLDPWD"}
    line = image_pcrs(b"kernel", b"console=ttyS0", (b"platform", OURS))
    assert (measured.pcr0, measured.pcr1, measured.pcr2) == (line.pcr0.hex(), line.pcr1.hex(), line.pcr2.hex())
    production = image_pcrs(b"AWS's kernel", b"AWS's line", (b"AWS's ramdisk", OURS))
    assert measured.pcr2 == production.pcr2.hex() and measured.pcr1 != production.pcr1.hex()


def test_link_and_security_module_lead_into_the_machine(place: Place, nsm: tuple[socket.socket, socket.socket]) -> None:
    machine = place.launcher().launch("", nsm[1])
    assert machine.isolation == ISOLATION
    machine.link.settimeout(SECONDS_MAX)
    machine.link.sendall(b"over the link")
    assert nsm[0].recv(100) == b"\x00\x00\x00\x0cwho are you?"
    nsm[0].sendall(b"a simulator")
    assert machine.link.recv(100) == b"OVER THE LINK"
    printed(machine, "module: a simulator\n")
    assert machine.stop(SECONDS_MAX) == 0, "the end of the link ends the machine"
    assert machine.stop(SECONDS_MAX) == 0
    printed(machine, "the enclave ended\n")
    machine.close_output()


def test_a_machine_that_does_not_end_is_killed(place: Place, nsm: tuple[socket.socket, socket.socket]) -> None:
    machine = place.launcher().launch("", nsm[1])
    os.kill(machine.pid, signal.SIGSTOP)
    assert machine.stop(0.05) == -signal.SIGKILL
    machine.close_output()


def test_a_machine_that_ends_before_it_connects_is_refused_with_its_words(place: Place, nsm: tuple[socket.socket, socket.socket]) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(MachineError, match=r"(?s)ended before its enclave connected to vsock port 7000; it printed:.*Kernel panic"):
        place.launcher("panic").launch("", nsm[1])
    assert set(os.listdir("/proc/self/fd")) < set(before), "nothing new, and not the end that was handed over"


def test_a_machine_that_never_connects_is_ended(
    place: Place, nsm: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    children = own_children()
    monkeypatch.setattr(launchers, "BOOT_SECONDS_MAX", 0.5)
    with pytest.raises(MachineError, match="did not connect within 0 s to vsock port 7000"):
        place.launcher("silent").launch("", nsm[1])
    assert own_children() <= children, "other tests' nodes may run beside this one"


def test_a_machine_dies_with_its_host(place: Place) -> None:
    """A host that is killed: a process of its own, that launches and waits."""
    report, child_report = os.pipe()
    host = os.fork()
    if host == 0:
        try:
            machine = place.launcher().launch("", socket.socketpair()[1])
            os.write(child_report, str(machine.pid).encode())
            time.sleep(1000)
        finally:
            os._exit(1)
    os.close(child_report)
    descriptor = os.pidfd_open(int(os.read(report, 100)))
    os.close(report)
    os.kill(host, signal.SIGKILL)
    os.waitpid(host, 0)
    ended = bool(select.select([descriptor], [], [], SECONDS_MAX)[0])
    os.close(descriptor)
    assert ended


def refusal(launcher: VmLauncher) -> str:
    with pytest.raises(ConfigurationError) as caught:
        launcher.check()
    return str(caught.value)


def test_a_machine_without_qemu_is_told_what_to_install(place: Place) -> None:
    text = refusal(place.launcher(qemu="qemu-that-is-not-here"))
    assert text.splitlines() == [
        "no virtual machine can be started here:",
        "qemu: qemu-that-is-not-here is not here; apt-get install qemu-system-x86 (Debian 12), or name the program by vm.qemu",
    ]


def test_a_machine_without_memory_is_told_so(place: Place, tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9999999 kB\nMemAvailable:     409600 kB\n")
    launcher = VmLauncher(VmConfig(place.image, qemu=place.qemu("serve")), place.folder, meminfo=meminfo)
    assert "memory: 400 MiB are free, 512 MiB needed; start fewer machines, lower vm.memory_mb" in refusal(launcher)


def test_an_image_that_cannot_be_started_is_told_so(place: Place) -> None:
    assert "No such file" in refusal(place.launcher(image=place.folder / "no.eif"))
    other = place.folder / "other.eif"
    other.write_bytes(b"something else")
    assert "no enclave image, by rule 'size'" in refusal(place.launcher(image=other))
    other.write_bytes(eif.write(b"kernel", "line", [b"platform"], metadata=None))
    assert "is a platform only; give an image that `ledgerd image build` made" in refusal(place.launcher(image=other))
    other.write_bytes(eif.write(b"kernel", "line", [b"platform", OURS], metadata=None, aarch64=True))
    assert "is for Arm" in refusal(place.launcher(image=other))
