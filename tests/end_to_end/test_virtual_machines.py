"""A service whose nodes are virtual machines: the image that would run in an enclave, booted, with AF_VSOCK and the ioctl of `/dev/nsm`.

Needs QEMU, an apt of Debian 12 and pip with an index; where they are not, everything here is skipped and says why. Under CI, as root, QEMU
must be there (.ci/run installs it).
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledgerd.ledger.attestation.measurement import Measurement, image_pcrs
from ledgerd.network.client import Budget, Client
from ledgerd.node.config import VM_QEMU_DEFAULT
from ledgerd.node.image import eif
from ledgerd.node.image.errors import ImageError
from ledgerd.node.vm import images
from support.images import kept
from support.processes import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

APP = "ledgerd.apps.logging"
NODES = 3
START_SECONDS_MAX = 1200.0
BUDGET = Budget(seconds=300.0, attempt_seconds=60.0)
LEDGERD = (sys.executable, "-P", "-m", "ledgerd.node.cli.main")


@pytest.fixture(scope="module")
def image(request: pytest.FixtureRequest) -> Path:
    """The image that the machines start, made and kept where `ledgerd dev` looks for it."""
    if shutil.which(VM_QEMU_DEFAULT) is None:
        if os.environ.get("CI") and os.getuid() == 0:
            pytest.fail(f"{VM_QEMU_DEFAULT} is not here, and CI could have installed qemu-system-x86")
        pytest.skip(f"{VM_QEMU_DEFAULT} is not here: apt-get install qemu-system-x86")
    try:
        return images.application(APP, None, kept(request))
    except ImageError as error:
        pytest.skip(f"an image cannot be built here: {error}")


class Dev:
    """`ledgerd dev --launcher vm`, while it runs."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
        self.output = folder.with_name("dev.json")
        self.errors = folder.with_name("dev.err")
        command = [*LEDGERD, "dev", "--launcher", "vm", "--nodes", str(NODES), "--port", "0", "--dir", str(folder), "-o", "json"]
        with self.output.open("wb") as out, self.errors.open("wb") as err:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=self.environment)
        self.told: Any = None

    def wait_open(self) -> None:
        """Wait until it says that the service is open."""

        def said() -> bool:
            assert self.process.poll() is None, self.errors.read_text()
            try:
                self.told = json.loads(self.output.read_text())
            except ValueError:
                return False
            return True

        wait_for(said, "the service opens", START_SECONDS_MAX)

    def client(self, number: int) -> Client:
        """A user at one of its nodes."""
        common = self.folder / "common"
        identity = (common / "user0_cert.pem", common / "user0_privk.pem")
        return Client(self.told["urls"][number], service_certificate=common / "service_cert.pem", credentials=identity, budget=BUDGET)

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Another `ledgerd` command."""
        return subprocess.run([*LEDGERD, *arguments], capture_output=True, text=True, env=self.environment, check=False, timeout=600)

    def machines(self) -> list[int]:
        """Process ids of the virtual machines."""
        return [int(path.read_text()) for path in sorted(self.folder.glob("*/enclave.pid"))]


@pytest.fixture(scope="module")
def dev(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    running = Dev(tmp_path_factory.mktemp("vm") / "service", image.parents[2])
    try:
        running.wait_open()
        yield running
    finally:
        machines = running.machines()
        running.process.terminate()
        assert running.process.wait(120) in (0, 130), running.errors.read_text()
        assert not [pid for pid in machines if Path(f"/proc/{pid}").exists()], "machines that outlived their hosts"


def pcrs(path: Path) -> dict[str, str]:
    """What an image's own sections measure."""
    found = eif.read(path.read_bytes())
    kernel, ramdisks = found.all(eif.Kind.KERNEL)[0], found.all(eif.Kind.RAMDISK)
    line = image_pcrs(kernel, found.command_line.encode(), ramdisks)
    return {"pcr0": line.pcr0.hex(), "pcr1": line.pcr1.hex(), "pcr2": line.pcr2.hex()}


def test_every_node_attests_the_image_that_was_booted(dev: Dev, image: Path) -> None:
    """They joined by that measurement: it is the only one that the service accepts."""
    assert dev.told["simulated"] is True
    assert {"virtual-machine", "own-kernel", "no-network-device"} <= set(dev.told["isolation"])
    assert json.loads((dev.folder / "common" / "measurements.json").read_text()) == pcrs(image)
    expected = [bytes.fromhex(value) for value in pcrs(image).values()]
    for url in dev.told["urls"]:
        root = dev.folder / "common" / "simulated_root_cert.pem"
        with Client.trust([url], roots=[root], measurements=[Measurement(*expected)], budget=BUDGET) as client:
            assert client.attestation is not None
            attestation = client.attestation.attestation
        assert attestation.simulated
        assert [attestation.pcrs[index] for index in range(3)] == expected


def test_a_commit_and_its_receipt(dev: Dev) -> None:
    """Asked of a backup: the request crosses the channel between two machines' enclaves. The receipt is verified here."""
    backup = next(number for number, url in enumerate(dev.told["urls"]) if url != dev.told["primary"])
    with dev.client(backup) as client:
        answer = client.submit("PUT", "/app/records/1", "from a virtual machine", headers={"content-type": "text/plain"}, receipt=True)
        assert answer.committed and answer.receipt is not None
        client.verify_receipt(answer.receipt, transaction_id=answer.transaction_id)
    for number in range(NODES):
        with dev.client(number) as client:
            assert client.get("/app/records/1", committed=True).text == "from a virtual machine"


def test_machines_have_neither_disk_nor_network_device(dev: Dev) -> None:
    for pid in dev.machines():
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        assert words[0].endswith(VM_QEMU_DEFAULT) and "-nodefaults" in words
        assert [words[at + 1] for at, word in enumerate(words) if word == "-device"] == ["vhost-user-vsock-pci,chardev=vsock"]


def test_an_image_with_one_changed_byte_is_refused_by_its_peers(dev: Dev, image: Path, tmp_path: Path) -> None:
    """The byte, the time in the head of the compressed ramdisk, changes only the measurement: the machine starts, and asks to join."""
    found = eif.read(image.read_bytes())
    platform, ours = (bytes(ramdisk) for ramdisk in found.all(eif.Kind.RAMDISK))
    changed = ours[:4] + bytes([ours[4] ^ 1]) + ours[5:]
    other = tmp_path / "other.eif"
    other.write_bytes(eif.write(bytes(found.all(eif.Kind.KERNEL)[0]), found.command_line, [platform, changed], metadata=None))
    assert pcrs(other)["pcr1"] == pcrs(image)["pcr1"] and pcrs(other)["pcr2"] != pcrs(image)["pcr2"]
    configuration = (dev.folder / "node1" / "node.toml").read_text()
    folder = dev.folder / "other"
    folder.mkdir()
    accepts = "\n".join(f'{name} = "{value}"' for name, value in pcrs(image).items())  # it would join them
    changed_configuration = f"{configuration.replace(str(image), str(other))}\n[[join.measurements]]\n{accepts}\n"
    (folder / "node.toml").write_text(changed_configuration)
    done = dev.run("node", "join", "--config", str(folder / "node.toml"))
    assert done.returncode not in (0, 2), done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "this node will not join" not in last, "it is the service that refuses"
    assert "rule 'measurement'" in last, last
    assert pcrs(other)["pcr2"][:16] in last, "it says what was seen"
    assert not (folder / "enclave.pid").exists()
    primary = dev.told["urls"].index(dev.told["primary"])
    assert "refused a node that asked to join" in (dev.folder / f"node{primary}" / "node.log").read_text()
    with dev.client(0) as client:
        nodes = client.get("/node/network/nodes").json()["nodes"]
    assert len(nodes) == NODES, "nobody else was written down"
