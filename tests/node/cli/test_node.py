"""`ledgerd node start --check`: what a start would refuse is told, and nothing is started."""

from pathlib import Path

import pytest

from ledgerd.node.image import eif
from ledgerd.node.simulator.pki import make_root
from support.command_line import Ledgerd

COMMON = """
[rpc]
listen = "127.0.0.1:0"
[peer]
listen = "127.0.0.1:0"
[start]
[[start.members]]
certificate = "member0.pem"
"""
PROCESS = '[node]\ndirectory = "node0"\napp = "ledgerd.apps.logging"\n[attestation]\nsimulator = "simulator"\n'
VM = '[node]\ndirectory = "node0"\nlauncher = "vm"\n[vm]\nimage = "some.eif"\n[attestation]\nsimulator = "simulator"\n'
NITRO = '[node]\ndirectory = "node0"\nlauncher = "nitro"\n[nitro]\nimage = "some.eif"\n'
IMAGE = eif.write(b"kernel", "line", [b"platform", b"ours"], metadata=None)


def write(folder: Path, text: str) -> Path:
    (folder / "member0.pem").write_text(make_root().certificate_pem)
    path = folder / "node.toml"
    path.write_text(text + COMMON)
    return path


@pytest.mark.parametrize("text", [PROCESS, VM, NITRO], ids=["process", "vm", "nitro"])
def test_what_can_be_started_is_correct_and_nothing_is_made(ledgerd: Ledgerd, tmp_path: Path, text: str) -> None:
    (tmp_path / "some.eif").write_bytes(IMAGE)
    path = write(tmp_path, text)
    ran = ledgerd("node", "start", "--check", "-c", path, "-o", "json")
    assert (ran.status, ran.json["correct"]) == (0, True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["member0.pem", "node.toml", "some.eif"]


@pytest.mark.parametrize("text", [VM, NITRO], ids=["vm", "nitro"])
def test_a_used_directory_and_an_image_that_is_none_are_told_together(ledgerd: Ledgerd, tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    (tmp_path / "node0").mkdir()
    (tmp_path / "node0" / "host.pid").write_text("1")
    ran = ledgerd("node", "start", "--check", "-c", path)
    assert (ran.status, ran.out) == (2, "")
    assert "was used by a node before" in ran.err
    assert "No such file" in ran.err
    (tmp_path / "some.eif").write_bytes(b"# no image")
    assert "no enclave image, by rule 'size'" in ledgerd("node", "start", "--check", "-c", path).err
    (tmp_path / "some.eif").unlink()
    (tmp_path / "some.eif").symlink_to("/dev/zero")
    assert "not a regular file" in ledgerd("node", "start", "--check", "-c", path).err


def test_an_image_for_a_process_is_misuse(ledgerd: Ledgerd, tmp_path: Path) -> None:
    path = write(tmp_path, PROCESS)
    ran = ledgerd("node", "start", "--check", "-c", path, "--image", path)
    assert ran.status == 2
    assert "add --launcher vm, or --launcher nitro" in ran.err
