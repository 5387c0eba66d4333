"""Running the command line in this process: its status, its result, and what it told people."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from click.testing import CliRunner

from ledgerd.node.cli.main import cli


class Ran(NamedTuple):
    """What a command did."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on standard output."""
        return json.loads(self.out)

    @property
    def fields(self) -> dict[str, str]:
        """A record as pipes see it."""
        return dict(line.split("\t", 1) for line in self.out.splitlines())


Ledgerd: TypeAlias = Callable[..., Ran]


def run(*arguments: object) -> Ran:
    """Run `ledgerd` with these arguments."""
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="ledgerd")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ran(result.exit_code, result.stdout, result.stderr)
