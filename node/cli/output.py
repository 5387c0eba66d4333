"""The one layer through which commands speak: tables for people, plain lines for pipes, JSON for programs; and exit statuses.

Every command is made by `command`, so every command has `-o table|json` and the same statuses: 0 it did what was asked; 1 it failed,
or it does not verify; 2 it was called wrongly. On standard output stands the result and nothing else; one JSON document with
`-o json`, whose `schema` names its shape and grows a new version when that changes. Standard error is for people.
A table has frames only on a terminal: elsewhere its columns are separated by tabs, with one line of names.
What is said may have come from strangers (names in certificates, metadata of images), so what moves a cursor or turns the direction of
writing is escaped, in every shape.
"""

import functools
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NoReturn, TypeVar

import click

from ledgerd.ledger.errors import ConfigurationError, LedgerdError
from ledgerd.node.cli import forms
from ledgerd.node.printing import one_line, printable

EXIT_FAILED: Final = 1
EXIT_MISUSE: Final = 2
SCHEMA_VERSION: Final = 1
NODE_ID_SHOWN: Final = 16  # characters of a node's or member's name that people are shown; JSON has all

_BEYOND_ASCII: Final = re.compile(r"[^\n -~]")

F = TypeVar("F", bound=Callable[..., Any])


class Output:
    """What a command says.

    Args:
        form: `table` or `json`.
    """

    def __init__(self, form: str) -> None:
        self.json = form == "json"

    def record(self, schema: str, fields: Mapping[str, Any]) -> None:
        """Say one thing: names and values. Values are what JSON has; nested ones are for JSON, and shown compactly to people."""
        if self.json:
            self._document(schema, dict(fields))
        elif sys.stdout.isatty():
            width = max((len(name) for name in fields), default=0)
            for name, value in fields.items():
                click.echo(f"{click.style(_label(name).ljust(width), dim=True)}  {_text(value)}")
        else:
            for name, value in fields.items():
                click.echo(f"{name}\t{_flat(value)}")

    def rows(
        self,
        schema: str,
        columns: Sequence[str],
        rows: Iterable[Mapping[str, Any]],
        *,
        droppable: Sequence[str] = (),
        named: str | None = None,
        **more: Any,
    ) -> None:
        """Say a list of things: the columns for people, every field for JSON, under `items`; `more` stands beside it, JSON only.

        Of `droppable` columns a terminal leaves out so many, the first first, that the others fit. Of ids in the column `named` it shows
        what tells one from another; pipes have them whole, to be given to other commands. Nothing else is ever cut off.
        """
        if self.json:
            self._document(schema, {**more, "items": [dict(row) for row in rows]})
        elif sys.stdout.isatty():
            from rich.console import Console  # noqa: PLC0415 (slow to load, and needed on terminals only)
            from rich.table import Table  # noqa: PLC0415

            console = Console(markup=False, highlight=False)
            cells = [{column: _text(row.get(column))[: NODE_ID_SHOWN if column == named else None] for column in columns} for row in rows]
            shown = list(columns)
            for column in droppable:
                if sum(max(len(_label(name)), *(len(cell[name]) for cell in cells), 0) + 2 for name in shown) - 2 > console.width:
                    shown.remove(column)
            table = Table(box=None, pad_edge=False, header_style="bold")
            for column in shown:
                table.add_column(_label(column), overflow="fold")
            for cell in cells:
                table.add_row(*(cell[column] for column in shown))
            console.print(table)
        else:
            click.echo("\t".join(columns))
            for row in rows:
                click.echo("\t".join(_flat(row.get(column)) for column in columns))

    def text(self, schema: str, name: str, text: str) -> None:
        """Say a text that is its own format, such as a script: as it is, or as one field in JSON. A terminal is not given what it obeys."""
        if self.json:
            self._document(schema, {name: text})
        elif sys.stdout.isatty():
            click.echo(printable(text), nl=not text.endswith("\n"))
        else:
            click.echo(text, nl=not text.endswith("\n"), color=True)  # else it would be given without its sequences for terminals

    def page(self, schema: str, fields: Mapping[str, Any], lines: Iterable[str]) -> None:
        """Say what people read as a page of lines, and programs as fields."""
        if self.json:
            self._document(schema, dict(fields))
            return
        colours = {"+": "green", "-": "red", "~": "yellow"} if sys.stdout.isatty() else {}
        for line in lines:
            colour = colours.get(line.lstrip()[:1])
            click.echo(one_line(line) if colour is None else click.style(one_line(line), fg=colour))

    def note(self, text: str) -> None:
        """Tell people something that is not the result."""
        click.echo(printable(text), err=True)

    def fail(self, code: str, message: str, status: int = EXIT_FAILED) -> NoReturn:
        """Say why it failed, and end with `status`."""
        if self.json:
            self._document("error", {"error": {"code": code, "message": message}})
        else:
            for number, line in enumerate(message.splitlines() or [code]):
                click.echo(f"{'ledgerd: ' if number == 0 else '         '}{printable(line)}", err=True)
        raise Ended(status)

    def _document(self, schema: str, fields: dict[str, Any]) -> None:
        document = json.dumps({"schema": f"ledgerd.{schema}.v{SCHEMA_VERSION}", **fields}, indent=2, ensure_ascii=False)
        click.echo(_BEYOND_ASCII.sub(_seen, document))


class Ended(click.exceptions.Exit):
    """The command has said everything; this is its status."""


def command(name: str, cls: type[click.Command] | None = None, **attributes: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a command of a function whose first argument is its `Output`; options and arguments follow by name.

    Errors of ours become one message and a status: ConfigurationError 2, every other LedgerdError 1.
    """

    def make(function: Callable[..., Any]) -> click.Command:
        @functools.wraps(function)
        def run(output_form: str, **options: Any) -> Any:
            output = Output(forms.chosen(output_form))
            try:
                return function(output, **options)
            except ConfigurationError as error:
                output.fail(error.code, str(error), EXIT_MISUSE)
            except LedgerdError as error:
                output.fail(error.code, str(error))

        option = click.option(
            *forms.FLAGS,
            "output_form",
            type=click.Choice(forms.FORMS),
            default="table",
            show_default=True,
            envvar="LEDGERD_OUTPUT",
            help="Shape of the result: for people and pipes, or one JSON document.",
        )
        decorated: Callable[..., Any] = option(run)
        made: click.Command = click.command(name, cls=cls or click.Command, **attributes)(decorated)
        return made

    return make


def _seen(found: re.Match[str]) -> str:
    """A character of JSON; by its code if a terminal would obey it, if nobody sees it, or if it is half of a pair, which no file takes."""
    char = found[0]
    return char if char.isprintable() else json.dumps(char)[1:-1]


def _label(name: str) -> str:
    return name.replace("_", " ")


def _text(value: Any) -> str:
    """For a terminal."""
    return printable(_raw(value))


def _flat(value: Any) -> str:
    """One field of one line: a value from outside must not look like two."""
    return printable(_raw(value).replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r"))


def _raw(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return json.dumps(value, ensure_ascii=False)
