"""What holds for every command: help, output shapes, statuses, and that nothing is loaded for what does not run."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from ledgerd.node.cli.gov_actions import ACTIONS
from ledgerd.node.cli.main import LazyGroup, cli, main
from support.command_line import Ledgerd


def commands(group: LazyGroup, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command, str]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, LazyGroup):
            yield from commands(command, (*path, name))
        else:
            entry = group.entries.get(name)
            yield (*path, name), command, command.get_short_help_str(200) if entry is None else entry.help


ALL = list(commands(cli))


def test_all_commands_that_are_promised_are_there() -> None:
    promised = [
        "dev",
        "node start",
        "node join",
        "node list",
        "node retire",
        "gov members",
        "gov users",
        "gov service",
        "gov policy",
        "gov constitution",
        "gov proposals",
        "gov show",
        "gov diff",
        *(f"gov propose {name}" for name in ("FILE", *ACTIONS)),
        "gov vote",
        "gov withdraw",
        "gov ack",
        "gov finish",
        "gov submit",
        "gov share",
        "gov audit",
        "doctor",
        "status",
        "tx submit",
        "tx status",
        "receipt get",
        "receipt verify",
        "ledger export",
        "ledger verify",
        "ledger show",
        "attestation show",
        "attestation verify",
        "image build",
        "image describe",
        "image measure",
        "kms policy",
        "completion",
    ]
    assert [" ".join(path) for path, _, _ in ALL] == promised


@pytest.mark.parametrize(("path", "command", "help_text"), ALL, ids=[" ".join(path) for path, _, _ in ALL])
def test_every_command_has_both_outputs_and_help_that_its_group_repeats(
    path: tuple[str, ...], command: click.Command, help_text: str
) -> None:
    option = next(parameter for parameter in command.params if "--output" in parameter.opts)
    assert "-o" in option.opts
    assert isinstance(option.type, click.Choice)
    assert list(option.type.choices) == ["table", "json"]
    assert command.get_short_help_str(200) == help_text
    assert command.name == path[-1]
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name not in ("pcr1", "pcr2"):
            assert parameter.help, f"{path} {parameter.name} has no help"


def test_help_and_version_load_nothing_that_a_command_needs() -> None:
    script = (
        "import sys; from ledgerd.node.cli.main import cli\n"
        "for arguments in (['--help'], ['ledger', '--help'], ['--version']):\n"
        "    cli.main(arguments, prog_name='ledgerd', standalone_mode=False)\n"
        "heavy = {'httpx', 'cryptography', 'rich', 'trio', 'anyio', 'lmdb', 'msgpack', 'asyncio', 'cbor2'} & set(sys.modules)\n"
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("0.1.0")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["ledger", "nonsense"],
        ["--nonsense"],
        ["tx", "status"],
        ["tx", "status", "nonsense"],
        ["tx", "status", "2.5"],  # no service named
        ["tx", "submit", "PUT", "no-slash", "--url", "https://127.0.0.1:1", "--service-cert", __file__],
        ["dev", "--nodes", "0"],
        ["dev", "--nodes", "many"],
        ["dev", "--port", "70000"],
        ["dev", "--launcher", "nitro"],
        ["dev", "--image", __file__],
        ["receipt", "verify", "/nonexistent"],
        ["ledger", "verify", "/nonexistent"],
        ["status", "-o", "yaml"],
        ["status", "--url", "http://127.0.0.1:1", "--service-cert", __file__],
        ["attestation", "verify", "--url", "https://127.0.0.1:1"],  # no measurement
        ["node", "start", "--config", "/nonexistent"],
        ["image", "build", "--kernel", __file__, "--ramdisk", __file__, "--out", "/nonexistent/x"],  # no command line
        ["image", "describe", "/nonexistent"],
        ["completion", "tcsh"],
    ],
)
def test_misuse_is_status_2_and_said_on_standard_error(ledgerd: Ledgerd, arguments: list[str]) -> None:
    ran = ledgerd(*arguments)
    assert ran.status == 2
    assert ran.out == ""
    assert ran.err


def test_an_error_is_one_json_document_where_json_is_asked_for(ledgerd: Ledgerd) -> None:
    ran = ledgerd("tx", "status", "2.5", "-o", "json")
    assert ran.status == 2
    document = ran.json
    assert document["schema"] == "ledgerd.error.v1"
    assert document["error"]["code"] == "ConfigurationError"


@pytest.mark.parametrize(
    ("arguments", "variable", "expected"),
    [
        (["status", "--nonsense", "-o", "json"], "", True),
        (["status", "-ojson", "--nonsense"], "", True),
        (["--nonsense", "--output=json"], "", True),
        (["nonsense"], "json", True),
        (["tx", "status"], "json", True),
        (["status", "--nonsense"], "", False),
        (["status", "-o", "table", "--nonsense"], "json", False),
    ],
)
def test_what_click_refuses_is_json_too_where_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], variable: str, expected: bool
) -> None:
    monkeypatch.setattr(sys, "argv", ["ledgerd", *arguments])
    monkeypatch.setenv("LEDGERD_OUTPUT", variable)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr()
    if expected:
        document = json.loads(said.out)
        assert (document["schema"], document["error"]["code"], said.err) == ("ledgerd.error.v1", "UsageError", "")
        assert "--help`" in document["error"]["message"]
    else:
        assert said.out == ""
        assert "--nonsense" in said.err
        assert len(said.err.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments", ["nonsense", "gov nonsense", "dev --nodes 0", "dev --launcher x", "dev --node 1", "dev more", "tx submit", "dev --port"]
)
def test_what_click_refuses_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["ledgerd", *arguments.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert re.fullmatch(r"ledgerd: .+\.( Try `ledgerd[a-z ]* --help`\.)?\n", said.err)


@pytest.mark.parametrize(
    ("arguments", "is_json"),
    [
        ("-o json tx status 2.5", True),
        ("tx -o json status 2.5", True),
        ("tx --output=json status 2.5", True),
        ("-o table tx -ojson status 2.5", True),
        ("-o table tx status -o json 2.5", True),
        ("-o json tx status 2.5 -o table", False),
        ("tx status 2.5", False),
    ],
)
def test_the_shape_may_stand_before_the_command_too_and_the_last_counts(ledgerd: Ledgerd, arguments: str, is_json: bool) -> None:
    ran = ledgerd(*arguments.split())
    assert (ran.status, ran.out.startswith("{")) == (2, is_json)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_for_this_program(ledgerd: Ledgerd, shell: str) -> None:
    ran = ledgerd("completion", shell)
    assert "_LEDGERD_COMPLETE" in ran.out
    assert ledgerd("completion", shell, "-o", "json").json["script"] in ran.out


def test_the_module_runs_as_the_program_does() -> None:
    done = subprocess.run([sys.executable, "-m", "ledgerd.node.cli.main", "nonsense"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "there are: dev, node" in done.stderr
