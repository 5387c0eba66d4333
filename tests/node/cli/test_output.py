"""The output layer: a value from outside never looks like two, JSON has a versioned schema, terminals get tables."""

import json

import click
import pytest
from click.testing import CliRunner

from ledgerd.ledger.errors import ConfigurationError, IntegrityError, LedgerdError
from ledgerd.node.cli.output import Output, command

ROWS: list[dict[str, object]] = [{"name": "a", "count": 1, "hidden": "x"}, {"name": "two\nlines\tand \\ tab", "count": None}]


@command("show")
def show(output: Output) -> None:
    output.record("thing", {"some_text": "one\ntwo", "yes": True, "list": ["a", "b"], "none": None, "deep": {"a": 1}})


@command("rows")
def rows(output: Output) -> None:
    output.rows("things", ("name", "count"), ROWS, total=2)


def run(target: click.Command, *arguments: str) -> str:
    return CliRunner().invoke(target, arguments).stdout


def test_a_record_in_a_pipe_is_one_line_for_each_field() -> None:
    assert run(show).splitlines() == ["some_text\tone\\ntwo", "yes\tyes", "list\ta, b", "none\t-", 'deep\t{"a": 1}']


def test_rows_in_a_pipe_are_one_line_each_under_their_names() -> None:
    assert run(rows).splitlines() == ["name\tcount", "a\t1", "two\\nlines\\tand \\\\ tab\t-"]


def test_json_is_one_document_with_every_field() -> None:
    assert json.loads(run(show, "-o", "json")) == {
        "schema": "ledgerd.thing.v1",
        "some_text": "one\ntwo",
        "yes": True,
        "list": ["a", "b"],
        "none": None,
        "deep": {"a": 1},
    }
    assert json.loads(run(rows, "-o", "json")) == {"schema": "ledgerd.things.v1", "total": 2, "items": ROWS}


def test_a_terminal_gets_aligned_columns_and_no_markup_of_the_data(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    output = Output("table")
    output.rows("things", ("name",), [{"name": "[bold]x"}])
    output.record("thing", {"a": 1, "longer_name": 2})
    lines = click.unstyle(capsys.readouterr().out).splitlines()
    assert lines[1].strip() == "[bold]x"
    assert lines[2].index("1") == lines[3].index("2")


@pytest.mark.parametrize(("columns", "head"), [(47, "url id state"), (46, "url state"), (20, "url")])
def test_a_narrow_terminal_leaves_out_columns_and_cuts_nothing_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int, head: str
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    url = "https://127.0.0.1:8000"
    Output("table").rows("things", ("url", "id", "state"), [{"url": url, "id": "a" * 16, "state": "Open"}], droppable=("id", "state"))
    lines = click.unstyle(capsys.readouterr().out).splitlines()
    assert lines[0].split() == head.split()
    assert "".join(line.split()[0] for line in lines[1:]) == url


@pytest.mark.parametrize(("error", "status"), [(ConfigurationError, 2), (IntegrityError, 1), (LedgerdError, 1)])
def test_errors_become_statuses(error: type[LedgerdError], status: int) -> None:
    @command("failing")
    def failing(output: Output) -> None:
        raise error("what happened\nand more")

    result = CliRunner().invoke(failing, [])
    assert (result.exit_code, result.stdout, result.stderr) == (status, "", "ledgerd: what happened\n         and more\n")
    result = CliRunner().invoke(failing, ["-o", "json"])
    assert result.exit_code == status
    assert json.loads(result.stdout)["error"] == {"code": error.code, "message": "what happened\nand more"}


HOSTILE = "name\x1b[2J\x9b31m\u202egnp.exe\r\x07"
ESCAPED = "name\\x1b[2J\\x9b31m\\u202egnp.exe\\r\\x07"


@pytest.mark.parametrize("terminal", [True, False])
def test_what_a_terminal_would_obey_is_escaped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, terminal: bool
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    output = Output("table")
    output.record("thing", {"a": HOSTILE, "b": [HOSTILE], "c": {"d": HOSTILE}})
    output.rows("things", ("a",), [{"a": HOSTILE}])
    output.note(HOSTILE)
    with pytest.raises(click.exceptions.Exit):
        output.fail("Code", HOSTILE.replace("\r", ""))
    said = capsys.readouterr()
    shown = click.unstyle(said.out)
    assert shown.count("\\x9b31m\\u202egnp.exe") == 4
    assert ESCAPED in said.err
    assert not {"\x9b", "\u202e", "\x07", "\r"} & set(said.out + said.err)


def test_json_holds_such_characters_as_codes_and_is_still_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    Output("json").record("thing", {"a": HOSTILE, "b": "größer"})
    said = capsys.readouterr().out
    assert not {"\x1b", "\x9b", "\u202e", "\x07", "\r"} & set(said)
    assert "größer" in said
    assert json.loads(said)["a"] == HOSTILE


def test_half_of_a_pair_and_what_nobody_sees_beyond_the_first_plane_are_codes_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON of a stranger's, such as a ledger's, may hold them; no terminal and no file takes the first."""
    strange = "\ud800 \U000e0041 \xad \U0001f600"
    Output("json").record("thing", {"a": strange})
    said = capsys.readouterr().out
    assert said.encode()
    assert not {"\ud800", "\U000e0041", "\xad"} & set(said)
    assert "\U0001f600" in said
    assert json.loads(said)["a"] == strange


@pytest.mark.parametrize("terminal", [True, False])
def test_a_script_is_given_to_a_pipe_as_it_is_and_to_a_terminal_without_what_it_obeys(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, terminal: bool
) -> None:
    """A constitution comes from whoever runs the service."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    Output("table").text("script", "text", "a\n\tb\x1b[2J")
    assert capsys.readouterr().out == ("a\n\tb\\x1b[2J\n" if terminal else "a\n\tb\x1b[2J\n")
