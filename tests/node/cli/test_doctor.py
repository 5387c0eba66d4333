"""`ledgerd doctor`: a tree, its three shapes, and its statuses."""

import sys
from pathlib import Path

import pytest

from ledgerd.node.checks import Check, Section, Verdict
from ledgerd.node.cli import doctor as cli_doctor
from ledgerd.node.cli.output import Output
from ledgerd.node.image import eif
from support.command_line import Ledgerd

SECTIONS = [
    Section("machine", (Check("disk", Verdict.SUCCESS, "1 ms"), Check("memory", Verdict.WARNING, "1 MiB", "buy some"))),
    Section("nitro launcher", (Check("image", Verdict.FAILURE, "none", "give one"),)),
]


def test_a_machine_with_warnings_only_is_good_enough(ledgerd: Ledgerd, tmp_path: Path) -> None:
    ran = ledgerd("doctor", "--dir", tmp_path, "-o", "json")
    assert ran.status == 0
    assert ran.json["schema"] == "ledgerd.doctor.v1"
    assert ran.json["verdict"] == "warning"
    assert [section["name"] for section in ran.json["sections"]] == ["program", "machine", "process launcher"]
    for section in ran.json["sections"]:
        for check in section["checks"]:
            assert set(check) == {"name", "verdict", "found", "advice"}
            assert bool(check["advice"]) is (check["verdict"] != "success")


def test_a_failure_is_status_1_and_its_line_says_what_to_do(ledgerd: Ledgerd, tmp_path: Path) -> None:
    ran = ledgerd("doctor", "--dir", tmp_path, "--launcher", "nitro", "--image", tmp_path / "none.eif")
    assert ran.status == 1
    head, *lines = [line.split("\t") for line in ran.out.splitlines()]
    assert head == ["section", "name", "verdict", "found", "advice"]
    (image,) = [line for line in lines if line[1] == "image"]
    assert image[2] == "failure"
    assert "No such file" in image[3]
    assert "--image" in image[4]


def test_a_virtual_machines_needs_are_looked_at(ledgerd: Ledgerd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    ran = ledgerd("doctor", "--dir", tmp_path, "--launcher", "vm", "--image", tmp_path / "none.eif", "-o", "json")
    assert ran.status == 1
    (section,) = [section for section in ran.json["sections"] if section["name"] == "vm launcher"]
    assert [(check["name"], check["verdict"]) for check in section["checks"]] == [
        ("qemu", "failure"),
        ("memory", "success"),
        ("image", "failure"),
        ("attestation", "warning"),
    ]
    assert "apt-get install qemu-system-x86" in section["checks"][0]["advice"]
    ran = ledgerd("doctor", "--dir", tmp_path, "--launcher", "vm", "-o", "json")
    (image,) = [check for section in ran.json["sections"] for check in section["checks"] if check["name"] == "image"]
    assert image["verdict"] == "warning"
    assert image["advice"] == "`ledgerd dev` builds one; `ledgerd node` needs --image, or vm.image"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"# no image", "no enclave image, by rule 'size'"),
        (eif.write(b"kernel", "line", [b"platform"], metadata=None), "is a platform only"),
        (eif.write(b"kernel", "line", [b"platform", b"ours"], metadata=None, aarch64=True), "is for Arm"),
        (eif.write(b"kernel", "line", [b"platform", b"ours"], metadata=None), ""),
    ],
)
def test_a_virtual_machines_image_is_read_as_its_start_will(ledgerd: Ledgerd, tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "some.eif").write_bytes(data)
    ran = ledgerd("doctor", "--dir", tmp_path, "--launcher", "vm", "--image", tmp_path / "some.eif", "-o", "json")
    (image,) = [check for section in ran.json["sections"] for check in section["checks"] if check["name"] == "image"]
    assert image["verdict"] == ("failure" if said else "success")
    assert said in image["found"]


def test_an_image_for_a_process_is_misuse(ledgerd: Ledgerd, tmp_path: Path) -> None:
    ran = ledgerd("doctor", "--dir", tmp_path, "--image", tmp_path / "some.eif")
    assert (ran.status, ran.out) == (2, "")
    assert "add --launcher vm, or --launcher nitro" in ran.err


def test_a_configuration_that_is_wrong_is_misuse(ledgerd: Ledgerd, tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text("[node]\n")
    ran = ledgerd("doctor", "--config", tmp_path / "node.toml")
    assert ran.status == 2
    assert "node.app: missing" in ran.err


def test_people_see_a_tree(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    cli_doctor._say(Output("table"), SECTIONS, "failure")
    assert capsys.readouterr().out.replace("\x1b[0m", "").replace("\x1b[32m", "").replace("\x1b[33m", "").replace("\x1b[31m", "") == (
        "machine: warning\n"
        "├─ ok disk: 1 ms\n"
        "└─ warning memory: 1 MiB\n"
        "      -> buy some\n"
        "nitro launcher: FAILURE\n"
        "└─ FAILURE image: none\n"
        "      -> give one\n"
    )
