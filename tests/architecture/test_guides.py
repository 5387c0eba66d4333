"""The guides in docs/ tell the truth: the help is the program's, configurations load, every key is named, code runs as printed."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from ledgerd.ledger.errors import ConfigurationError
from ledgerd.node import config
from support import typescript
from support.repository import ROOT

DOCS: Final = ROOT / "docs"
OPERATING: Final = (DOCS / "operating.md").read_text()
AWS: Final = (DOCS / "deploy" / "aws.md").read_text()
MEMBERS: Final = (DOCS / "members.md").read_text()
COMMANDS: Final[dict[str, Any]] = runpy.run_path(str(ROOT / "scripts" / "commands"))
SECTIONS: Final = ("node", "rpc", "peer", "limits", "consensus", "attestation", "vm", "nitro", "start", "join", "public_name")
LEDGERD: Final = str(Path(sys.executable).with_name("ledgerd"))


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", document, re.DOTALL)


def test_the_page_of_commands_is_their_present_help() -> None:
    assert (DOCS / "cli.md").read_text() == COMMANDS["page"](), "run: scripts/commands --write"


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_configurations_shown_load(tmp_path: Path, number: int) -> None:
    for name in ("alice_cert.pem", "bob_cert.pem", "service_cert.pem", "alice_enc_pubk.pem"):
        (tmp_path / name).write_text("-----BEGIN CERTIFICATE-----\n")
    (tmp_path / "node.toml").write_text(blocks(OPERATING, "toml")[number])
    loaded = config.load(tmp_path / "node.toml")
    assert (loaded.start is not None, loaded.join is not None) == ((True, False), (False, True), (False, True))[number]
    assert (loaded.nitro is not None) is (number == 2)


@pytest.mark.parametrize("number", [0, 1])
def test_the_configurations_for_aws_load(tmp_path: Path, number: int) -> None:
    for name in ("alice_cert.pem", "bob_cert.pem", "service_cert.pem"):
        (tmp_path / name).write_text("-----BEGIN CERTIFICATE-----\n")
    (tmp_path / "node.toml").write_text(blocks(AWS, "toml")[number])
    loaded = config.load(tmp_path / "node.toml")
    assert loaded.nitro is not None
    assert loaded.nitro.image == tmp_path / "ledgerd.eif"
    assert (loaded.start is not None, loaded.join is not None) == ((True, False), (False, True))[number]


@pytest.mark.parametrize("guide", [AWS, MEMBERS], ids=["aws", "members"])
def test_the_commands_of_a_guide_and_their_options_are_the_program_s(guide: str) -> None:
    sections = (DOCS / "cli.md").read_text().split("\n## ")
    helps = {part.partition("\n")[0]: part for part in sections if part.startswith("ledgerd ")}
    shell = "\n".join(blocks(guide, "sh")).replace("\\\n", " ")
    # `systemd-run` has options of its own, before the program's name
    lines = [re.sub(r'"\$\(command -v ledgerd\)"', "\nledgerd", line).rpartition("\n")[2] for line in shell.splitlines()]
    commands = [line.partition("#")[0] for line in lines if re.match(r"ledgerd [a-z]", line)]
    assert len(commands) > 10
    for command in commands:
        name = max((name for name in helps if f"{command.strip()} ".startswith(f"{name} ")), key=len, default=None)
        if name is None and command.startswith("ledgerd gov propose "):
            name = "ledgerd gov propose FILE"  # where no action stands, a file's name does
        assert name is not None, f"no such command: {command}"
        further = helps["ledgerd gov propose FILE"] if name.startswith("ledgerd gov propose ") else ""  # it says so
        for option in re.findall(r"(?<= )--?[a-z][a-z0-9-]*", command):
            assert re.search(rf"(?<![\w-]){option}(?![\w-])", helps[name] + further), f"{name} has no {option}: {command}"


@pytest.mark.parametrize("section", SECTIONS)
def test_the_table_of_the_configuration_names_every_key_and_no_other(tmp_path: Path, section: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        config.parse({section: {"nonsense": 1}}, tmp_path)
    known = next(line for line in str(caught.value).splitlines() if line.startswith(f"{section}.nonsense: unknown; known here: "))
    table = OPERATING.partition("## All of the configuration")[2].partition("##")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = {key for row in rows for key in re.findall(rf"`{section}\.(\w+)`", row)}
    assert named == set(known.partition("known here: ")[2].split(", "))


@pytest.mark.slow
def test_what_members_may_try_on_one_machine_runs_as_printed(tmp_path: Path) -> None:
    (tmp_path / "guide.sh").write_text("set -e\n" + blocks(MEMBERS.partition("<!-- example: run by a test")[2], "sh")[0])
    path = f"{Path(LEDGERD).parent}:{os.environ['PATH']}"
    whole = [LEDGERD, "dev", "--nodes", "1", "--dir", "service", "--port", "0", "--exec", "bash guide.sh"]
    done = subprocess.run(whole, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600, env={**os.environ, "PATH": path})
    assert done.returncode == 0, done.stdout + done.stderr
    assert '+  return "Accepted"' not in done.stdout
    assert '-  return "Accepted";' in done.stdout  # the difference of the two constitutions
    assert "state     Open: 0 of 3 active members have voted" in done.stdout
    assert "state     Accepted" in done.stdout
    assert '{"role": "clerk"}' in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("number", range(3))
def test_the_code_of_the_sdk_s_guide_runs_as_printed(tmp_path: Path, number: int) -> None:
    code = blocks((DOCS / "sdk.md").read_text(), "python")[number]
    (tmp_path / "guide.py").write_text(code.replace('"https://127.0.0.1:8000"', '__import__("os").environ["LEDGERD_URL"]'))
    command = f"{sys.executable} -W error guide.py && {sys.executable} -W error guide.py trio"
    whole = [LEDGERD, "dev", "--dir", "service", "--port", "0", "--exec", command]
    done = subprocess.run(whole, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("True" in done.stdout, "SIMULATED" in done.stdout, "1000 are committed" in done.stdout)[number]


@pytest.mark.slow
def test_the_guide_s_application_in_typescript_is_built_and_runs_as_printed(tmp_path: Path) -> None:
    """`npm ci` itself, from the cache that `scripts/oracles` has filled."""
    guide = (DOCS / "javascript-apps.md").read_text().partition("<!-- example: run by a test")[2]
    commands = blocks(guide, "sh")[0].replace("ledgerd dev ", "ledgerd dev --nodes 1 --port 0 ")
    folder = tmp_path / "documents"
    environment = typescript.require_packages()
    typescript.copy_example(folder)
    (folder / "guide.sh").write_text("set -e\n" + commands)
    environment["PATH"] = f"{Path(LEDGERD).parent}:{environment['PATH']}"
    done = subprocess.run(["bash", "guide.sh"], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "node_modules" / "@microsoft" / "ccf-app" / "kv.js").is_file()
    assert '"text": "hello"' in done.stdout or '"text":"hello"' in done.stdout, done.stdout
    assert "of whom members say" in done.stdout, done.stdout
