"""Starts, retries, links and ends of enclaves, on an instance made of a folder. Waiting is a list of seconds, except for real processes."""

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from ledgerd.ledger.errors import ConfigurationError
from ledgerd.node.nitro import launcher as launchers
from ledgerd.node.nitro.cli import NitroError
from ledgerd.node.nitro.launcher import NitroEnclave, NitroLauncher
from support.nitro import Instance, UnixListener

SECONDS_MAX = 120.0
# What boots: connects where the host listens, says hello, and ends when the link does.
BOOT = r"""
import socket, sys
link = socket.socket(socket.AF_UNIX)
link.connect(sys.argv[1])
print("on the console", flush=True)
link.sendall(b"hello")
sys.exit(len(link.recv(100)))
"""


class Rig:
    """A launcher of an instance, with time in the test's hands."""

    def __init__(self, instance: Instance, **config: Any) -> None:
        self.instance = instance
        self.slept: list[float] = []
        self.now = 0.0
        self.debug = False
        self.config = config
        self.cids: list[int | None] = [None]

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def listen(self, port: int) -> UnixListener:
        return UnixListener(self.instance.folder, port, self.cids)

    def make(self, clock: Callable[[], float] | None = None) -> NitroLauncher:
        return NitroLauncher(
            self.instance.config(**self.config),
            self.instance.folder / "node0",
            debug=self.debug,
            machine=self.instance.machine,
            listen=self.listen,
            sleep=self.sleep,
            clock=clock or (lambda: self.now),
        )

    def launch(self, launcher: NitroLauncher | None = None) -> NitroEnclave:
        ours, theirs = socket.socketpair()
        with ours:
            return (launcher or self.make()).launch("", theirs)


@pytest.fixture
def rig(instance: Instance) -> Rig:
    instance.build(command=[sys.executable, "-I", "-c", BOOT, str(instance.folder / "vsock-7000")])
    return Rig(instance)


def end(enclave: NitroEnclave) -> None:
    """With real time, since the process is a real one."""
    enclave._sleep, enclave._clock = time.sleep, time.monotonic
    enclave.stop(SECONDS_MAX)
    enclave.close_output()


def test_a_started_enclave_has_the_link_and_ends_with_it(rig: Rig) -> None:
    enclave = rig.launch()
    enclave.link.settimeout(SECONDS_MAX)
    assert enclave.link.recv(100) == b"hello"
    assert enclave.isolation == ("nitro-enclave",)
    assert [enclave.pid] == rig.instance.running()
    assert os.read(enclave.output, 100) == b"", "without debug mode nobody sees its console"
    enclave._sleep, enclave._clock = time.sleep, time.monotonic
    assert enclave.stop(SECONDS_MAX) is None
    assert enclave.stop(SECONDS_MAX) is None
    assert rig.instance.running() == []
    assert rig.instance.calls("terminate-enclave") == []
    enclave.close_output()


def test_what_is_asked_of_nitro_cli_is_what_is_configured(rig: Rig) -> None:
    rig.config = {"memory_mb": 600, "cpus": 4, "cid": 33, "name": "bank"}
    enclave = rig.launch()
    (call,) = rig.instance.calls("run-enclave")
    assert call == [
        "--eif-path", str(rig.instance.image), "--memory", "600", "--cpu-count", "4", "--enclave-name", "bank", "--enclave-cid", "33"
    ]  # fmt: skip
    end(enclave)


def test_each_directorys_node_has_a_name_of_its_own(instance: Instance) -> None:
    names = [NitroLauncher(instance.config(), instance.folder / name, machine=instance.machine).name for name in ("a", "b", "a")]
    assert names[0] == names[2] != names[1]
    assert names[0].startswith("ledgerd-")


def test_an_enclave_that_does_not_end_with_its_link_is_terminated(rig: Rig) -> None:
    stubborn = BOOT.replace("sys.exit(len(link.recv(100)))", "import time; time.sleep(1000)")
    rig.instance.build(command=[sys.executable, "-I", "-c", stubborn, str(rig.instance.folder / "vsock-7000")])
    enclave = rig.launch()
    assert enclave.link.recv(100) == b"hello"
    assert enclave.stop(1.0) == -signal.SIGKILL
    assert len(rig.instance.calls("terminate-enclave")) == 1
    assert sum(rig.slept) == pytest.approx(1.0, abs=0.15)
    assert rig.instance.running() == []
    enclave.close_output()


def test_in_debug_mode_the_console_is_read_and_the_isolation_says_so(rig: Rig) -> None:
    rig.debug = True
    enclave = rig.launch()
    enclave.link.settimeout(SECONDS_MAX)
    assert enclave.link.recv(100) == b"hello"
    assert enclave.isolation == ("nitro-enclave", "debug-mode")
    assert "--debug-mode" in rig.instance.calls("run-enclave")[0]
    os.set_blocking(enclave.output, True)
    said = b""
    while b"on the console" not in said:
        part = os.read(enclave.output, 1000)
        assert part
        said += part
    end(enclave)


# Failures.


def test_what_passes_is_tried_again_with_growing_patience(rig: Rig) -> None:
    rig.instance.settings(errors={"run-enclave": ["E39", "E36", "E27"]})
    enclave = rig.launch()
    assert rig.slept == [1.0, 2.0, 4.0]
    assert len(rig.instance.calls("run-enclave")) == 4
    end(enclave)


def test_after_some_attempts_the_last_cause_is_told(rig: Rig) -> None:
    rig.instance.settings(errors={"run-enclave": ["E39", "E39", "E39", "E22"]})
    with pytest.raises(NitroError, match=r"run-enclave failed \(E22\): the pool has fewer free CPUs.*raise cpu_count"):
        rig.launch()
    assert len(rig.instance.calls("run-enclave")) == 4


@pytest.mark.parametrize("code", ["E19", "E26", "E35", "E07"])
def test_what_does_not_pass_is_not_tried_again(rig: Rig, code: str) -> None:
    rig.instance.settings(errors={"run-enclave": [code]})
    with pytest.raises(NitroError) as caught:
        rig.launch()
    assert caught.value.cause.code == code
    assert rig.slept == []
    assert len(rig.instance.calls("run-enclave")) == 1


def test_what_a_failed_start_left_behind_is_ended_before_the_next(rig: Rig) -> None:
    """As when `nitro-cli` loses its enclave's process: it says E39, and the enclave runs."""
    rig.instance.settings(errors={"run-enclave": ["E39+"]})
    hang = "import time; time.sleep(1000)"
    rig.instance.build(command=[sys.executable, "-c", hang])
    seen: list[list[int]] = []

    def sleep(seconds: float) -> None:
        seen.append(rig.instance.running())
        rig.instance.build(command=[sys.executable, "-I", "-c", BOOT, str(rig.instance.folder / "vsock-7000")])

    rig.sleep = sleep  # type: ignore[method-assign]
    enclave = rig.launch()
    assert seen == [[]]
    assert len(rig.instance.calls("terminate-enclave")) == 1
    assert rig.instance.running() == [enclave.pid]
    end(enclave)


def test_an_image_that_ends_before_it_connects_is_told_and_nothing_is_left(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launchers, "LOOK_SECONDS", 0.05)
    rig.instance.build(command=[sys.executable, "-c", "pass"])
    with pytest.raises(NitroError, match=r"ended before it reached its host; start it with attestation.debug = true"):
        rig.launch(rig.make(time.monotonic))
    assert rig.instance.running() == []


def test_an_image_that_never_connects_is_ended(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launchers, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(launchers, "BOOT_SECONDS_MAX", 0.2)
    rig.instance.build()
    with pytest.raises(NitroError, match="did not connect to vsock port 7000"):
        rig.launch(rig.make(time.monotonic))
    assert rig.instance.running() == []
    assert len(rig.instance.calls("terminate-enclave")) == 1


def test_another_enclave_of_this_instance_does_not_get_the_link(rig: Rig) -> None:
    rig.config = {"cid": 30}
    rig.cids = [31, 30]

    def intrude() -> None:
        deadline = time.monotonic() + SECONDS_MAX
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as intruder:
                intruder.connect(str(rig.instance.folder / "vsock-7000"))
                intruder.settimeout(SECONDS_MAX)
                assert intruder.recv(100) == b""
                return

    # Slow to start, so that the intruder, who listens all the time, is the first to connect.
    rig.instance.settings(slow_seconds=0.5)
    thread = threading.Thread(target=intrude)
    thread.start()
    enclave = rig.launch()
    thread.join(SECONDS_MAX)
    enclave.link.settimeout(SECONDS_MAX)
    assert enclave.link.recv(100) == b"hello"
    end(enclave)


# One start at a time.


def test_a_start_waits_for_another_on_the_same_instance(rig: Rig) -> None:
    lock = os.open(rig.instance.machine.root / "etc/nitro_enclaves/allocator.yaml", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)

    def sleep(seconds: float) -> None:
        rig.slept.append(seconds)
        assert rig.instance.calls("run-enclave") == []
        if len(rig.slept) == 3:
            os.close(lock)

    rig.sleep = sleep  # type: ignore[method-assign]
    enclave = rig.launch()
    assert rig.slept == [launchers.LOCK_POLL_SECONDS] * 3
    end(enclave)


def test_a_start_that_never_ends_is_not_waited_for_for_ever(rig: Rig) -> None:
    with open(rig.instance.machine.root / "etc/nitro_enclaves/allocator.yaml", "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ConfigurationError, match="another enclave's start on this instance has not ended within 300 s"):
            rig.launch()
    assert rig.instance.calls("run-enclave") == []


def test_the_lock_is_given_back_when_the_enclave_runs_and_when_it_does_not(rig: Rig) -> None:
    enclave = rig.launch()
    rig.instance.settings(errors={"run-enclave": ["E19"]})
    with pytest.raises(NitroError):
        rig.launch()
    second = Rig(rig.instance, name="second", cid=21)
    other = second.launch()
    assert len(rig.instance.running()) == 2
    end(enclave)
    end(other)


def test_two_starts_in_two_processes_do_not_overlap(rig: Rig) -> None:
    """Both listen on the port that the image knows, which only one can have at a time."""
    script = (
        "import sys, socket; from pathlib import Path; from support.nitro import Instance\n"
        "from ledgerd.node.nitro.launcher import NitroLauncher\n"
        "instance = Instance.at(Path(sys.argv[1]))\n"
        "launcher = NitroLauncher(instance.config(name=sys.argv[2], cid=int(sys.argv[3])), instance.folder, machine=instance.machine,"
        " listen=instance.listen)\n"
        "enclave = launcher.launch('', socket.socket()); print(enclave.link.recv(100), flush=True); sys.stdin.read()\n"
    )
    rig.instance.settings(slow_seconds=0.2)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(rig.instance.folder), f"node{number}", str(20 + number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for number in range(2)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == b"b'hello'\n"
    for child in children:
        child.communicate()
    assert [call[1] for call in map(tuple, rig.instance.calls("run-enclave"))] == [str(rig.instance.image)] * 2


# Preflight.


def test_the_check_before_a_start_tells_every_reason_at_once(rig: Rig) -> None:
    rig.make().check()
    rig.config = {"cpus": 3, "memory_mb": 8192}
    with pytest.raises(ConfigurationError) as caught:
        rig.make().check()
    first, *lines = str(caught.value).splitlines()
    assert first == "no enclave can be started here:"
    assert [line.partition(":")[0] for line in lines] == ["full cores", "free huge pages"]
    assert rig.instance.calls("run-enclave") == []


def test_the_measurement_is_the_images(rig: Rig) -> None:
    found = rig.make().measurement()
    assert {"pcr0": found.pcr0, "pcr1": found.pcr1, "pcr2": found.pcr2} == rig.instance.measurement()
    rig.instance.image.write_bytes(rig.instance.image.read_bytes()[:-1])
    with pytest.raises(ConfigurationError, match="no enclave image, by rule"):
        rig.make().measurement()
