"""From `nitro-cli run-enclave` to a commit: the real host and the real enclave, a stand-in for the program, UNIX sockets for vsocks.

What it does not show: AWS's signature, isolation, and what real hardware does.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ledgerd.network.client import Client
from ledgerd.node.lifecycle import simulated_root
from support.cluster import make_identity
from support.nitro import Instance

SECONDS_MAX = 120.0
SCRIPT = Path(__file__).parent.parent.parent / "support" / "nitro_node.py"


class Node:
    """One node; its host is a process of this test's, its enclave is not."""

    def __init__(self, instance: Instance, number: int, section: str, more: str = "", image: Path | None = None) -> None:
        self.folder = instance.folder
        self.directory = self.folder / f"node{number}"
        file = self.folder / f"node{number}.toml"
        file.write_text(
            f'[node]\ndirectory = "node{number}"\nlauncher = "nitro"\n'
            f'[nitro]\nimage = "{image or instance.image}"\ncli = "{instance.cli}"\nmemory_mb = 512\ncid = {20 + number}\n'
            f'[rpc]\nlisten = "127.0.0.1:0"\n[peer]\nlisten = "127.0.0.1:0"\n'
            f'[attestation]\nroots = ["simulator/root_cert.pem"]\n{more}\n{section}\n'
        )
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(self.folder), str(file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        self.found: dict[str, str] = {}

    def notices(self, last: str) -> dict[str, str]:
        """Read notices until one of a name."""
        assert self.process.stdout is not None
        while last not in self.found:
            line = self.process.stdout.readline()
            assert line, self.process.communicate()[1]
            name, _, text = line.strip().partition(" ")
            self.found[name] = text
        return self.found

    @property
    def address(self) -> str:
        return (self.directory / "rpc_address").read_text()

    def log(self) -> str:
        return (self.directory / "node.log").read_text()


class Rig:
    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.nodes: list[Node] = []
        self.root = simulated_root(instance.folder / "simulator")
        for name in ("member0", "user0"):
            identity = make_identity(name)
            (instance.folder / f"{name}_cert.pem").write_text(identity.pem)
            key = identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            (instance.folder / f"{name}_privk.pem").write_bytes(key)

    def start(self, nodes: int = 1, more: str = "") -> Node:
        section = (
            f'[start]\nadmission = "automatic"\nopen_at_nodes = {nodes}\napplication_policy = "open"\n'
            '[[start.members]]\ncertificate = "member0_cert.pem"\n'
        )
        self.nodes.append(Node(self.instance, 0, section, more))
        return self.nodes[-1]

    def join(self, image: Path | None = None, more: str = "") -> Node:
        first = self.nodes[0]
        shutil.copy(first.directory / "service_cert.pem", self.instance.folder / "service_cert.pem")
        section = f'[join]\ntarget = "{first.address}"\nservice_certificate = "service_cert.pem"\n{more}'
        self.nodes.append(Node(self.instance, len(self.nodes), section, image=image))
        return self.nodes[-1]

    def wait_no_enclave(self) -> bool:
        deadline = time.monotonic() + SECONDS_MAX
        while self.instance.running() and time.monotonic() < deadline:
            time.sleep(0.01)
        return not self.instance.running()


@pytest.fixture
def rig(instance: Instance) -> Iterator[Rig]:
    instance.build(boots=True)
    rig = Rig(instance)
    yield rig
    for node in rig.nodes:
        if node.process.poll() is None:
            node.process.kill()
        node.process.communicate()


def test_two_enclaves_of_one_image_make_a_service_that_commits_and_end_with_their_hosts(rig: Rig) -> None:
    first = rig.start(nodes=2)
    deadline = time.monotonic() + SECONDS_MAX
    while not (first.directory / "service_cert.pem").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    second = rig.join()
    assert second.notices("open")["attested"] == "SIMULATED"
    first.notices("open")
    assert first.found["isolation"] == second.found["isolation"] == "nitro-enclave"
    assert "platform: module i-" in first.log()
    assert "attestation is SIMULATED" in first.log()
    assert int((first.directory / "enclave.pid").read_text()) in rig.instance.running()
    url = f"https://{first.address}"
    with Client.trust(url, roots=[rig.root.certificate_pem], measurements=[rig.instance.measurement()]) as client:
        assert client.attestation is not None
        assert client.attestation.configuration["heartbeat_ms"] == 100
        assert client.submit("PUT", "/app/records/1", "from an enclave").committed
    first.process.send_signal(signal.SIGTERM)
    assert first.process.wait(SECONDS_MAX) == 0
    second.process.kill()  # no goodbye: its enclave ends because its link does
    second.process.wait(SECONDS_MAX)
    assert rig.wait_no_enclave()
    assert rig.instance.calls("terminate-enclave") == [], "both ended by themselves"


def test_another_image_is_refused_with_the_rule_and_nothing_is_left(rig: Rig) -> None:
    first = rig.start()
    first.notices("open")
    accepted = "\n".join(f'{name} = "{value}"' for name, value in rig.instance.measurement().items())
    other = rig.instance.build(boots=True, platform=b"another platform").rename(rig.instance.folder / "other.eif")
    second = rig.join(other, f"[[join.measurements]]\n{accepted}\n")
    _, errors = second.process.communicate(timeout=SECONDS_MAX)
    assert second.process.returncode == 1
    assert "rule 'measurement'" in errors
    deadline = time.monotonic() + SECONDS_MAX
    while len(rig.instance.running()) > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert rig.instance.running() == [int((first.directory / "enclave.pid").read_text())]


def test_an_enclave_that_dies_ends_its_host_with_a_reason(rig: Rig) -> None:
    first = rig.start()
    first.notices("open")
    os.kill(int((first.directory / "enclave.pid").read_text()), signal.SIGKILL)
    _, errors = first.process.communicate(timeout=SECONDS_MAX)
    assert first.process.returncode == 1
    assert "the enclave closed the link; " in errors or "the link to the enclave broke: " in errors
    assert "the enclave process has ended; " in errors


def test_an_instance_that_cannot_start_it_is_misuse_with_every_reason_and_leaves_the_directory_new(rig: Rig) -> None:
    rig.instance.write("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "1")
    rig.instance.remove("dev/vsock")
    first = rig.start()
    _, errors = first.process.communicate(timeout=SECONDS_MAX)
    assert first.process.returncode == 2
    assert "no enclave can be started here:\nvsock: no /dev/vsock; " in errors
    assert "free huge pages: 2 of 4096 MiB are free, 512 are needed; raise memory_mib" in errors
    assert not first.directory.exists()


def test_a_start_that_fails_says_the_cause_and_what_to_do(rig: Rig) -> None:
    rig.instance.settings(errors={"run-enclave": ["E31"]})
    first = rig.start()
    _, errors = first.process.communicate(timeout=SECONDS_MAX)
    assert first.process.returncode == 1
    assert "run-enclave failed (E31): the memory that the enclave was promised cannot be given to it; raise memory_mib" in errors
