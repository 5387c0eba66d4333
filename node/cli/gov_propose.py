"""`ledgerd gov propose`: sends a proposal that a file has, or makes one of a single action from options.

Which actions there are is a table (`cli.gov_actions`); each becomes a command when it is needed. Nothing but its form is checked here:
what it would do in this service, the service says, and `ledgerd gov diff` shows.
Not here: reading options' values (`cli.gov_arguments`), signing (`cli.gov_signing`), sending (`cli.gov_outcome`).
"""

import difflib
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from ledgerd.ledger.errors import ConfigurationError
from ledgerd.node.cli import gov_arguments, gov_files
from ledgerd.node.cli.gov_actions import ACTIONS, Action, Argument, Kind
from ledgerd.node.cli.main import LazyGroup
from ledgerd.node.cli.output import Output, command
from ledgerd.node.cli.parameters import FILE
from ledgerd.node.cli.service import ServiceOptions, Signing, node_options, signing_options

_PCRS: Final = ("pcr0", "pcr1", "pcr2")
_FILE_COMMAND: Final = "FILE"
PROPOSE: Final = "ledgerd gov propose"


class ActionCommand(click.Command):
    """A proposal of one action. Its help tells what belongs to the action from what every proposal has."""

    def __init__(self, *arguments: Any, own: frozenset[str], **attributes: Any) -> None:
        """Args: own: names of the parameters that belong to the action."""
        super().__init__(*arguments, **attributes)
        self.own = own

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write both lists."""
        records = {parameter: record for parameter in self.get_params(ctx) if (record := parameter.get_help_record(ctx)) is not None}
        own = [record for parameter, record in records.items() if parameter.name in self.own]
        others = [record for parameter, record in records.items() if parameter.name not in self.own]
        if own:
            with formatter.section("Of this action"):
                formatter.write_dl(own)
        if ctx.meta.get(BRIEF):
            formatter.write_paragraph()
            formatter.write_text(f"Further options: those of `{PROPOSE} {_FILE_COMMAND}`.")
        else:
            with formatter.section("Of every proposal"):
                formatter.write_dl(others)


BRIEF: Final = "ledgerd.brief"
"""In a context's `meta`: help leaves out what all actions' commands have in common."""


class FileCommand(click.Command):
    """A whole proposal: what stands in place of the command's name is its argument."""

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Without the name of the argument, which the command's stands for."""
        return ["[OPTIONS]"]


class ProposeGroup(LazyGroup):
    """Names of actions are commands; anything else is the name of a file with a proposal."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The file first, then all actions."""
        return [_FILE_COMMAND, *ACTIONS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Make one."""
        if cmd_name == _FILE_COMMAND:
            return propose_file
        action = ACTIONS.get(cmd_name)
        return None if action is None else _command(action)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the command of files before what is no action. The constitution's names of actions, with underlines, are names as well."""
        if args and args[0].replace("_", "-") in ACTIONS:
            args = [args[0].replace("_", "-"), *args[1:]]
        elif args and args[0] not in ctx.help_option_names:
            if not args[0].startswith("-") and not Path(args[0]).exists():
                ctx.fail(_unknown(args[0]))
            args = [_FILE_COMMAND, *args]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Without the check for mistyped names, since a name may be a file's."""
        return click.Group.resolve_command(self, ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """What FILE is, and all actions."""
        with formatter.section("Proposals"):
            formatter.write_dl([(_FILE_COMMAND, "A JSON file with a whole proposal; - is standard input.")])
        with formatter.section("Proposals of one action"):
            formatter.write_dl([(name, action.help) for name, action in ACTIONS.items()])


gov_propose = ProposeGroup(
    "propose",
    help="Propose something to the members.\n\nThey vote on it with `ledgerd gov vote`. Its actions are done together or not at all.",
    subcommand_metavar="FILE|ACTION [OPTIONS]",
    epilog="--print only shows the proposal that would be sent. What each action does, and what a file looks like: docs/governance.md.",
    entries={},
)


def _proposing(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of every proposal. The command's function returns its proposal: bytes that are signed as they are, or an object."""

    @functools.wraps(function)
    def run(
        output: Output,
        service: ServiceOptions,
        signing: Signing,
        prints: bool,
        expires_in: str | None,
        expires_at: str | None,
        **options: Any,
    ) -> None:
        deadline = _deadline(expires_in, expires_at)
        proposal: bytes | dict[str, Any] = function(service=service, **options)
        if deadline is not None:
            proposal = _with_deadline(_parsed(proposal), deadline)
        if prints:
            _print(output, _parsed(proposal))
        else:
            propose(output, service, signing, proposal if isinstance(proposal, bytes) else encode(proposal))

    decorated: Callable[..., Any] = signing_options(node_options(run))
    for option in (
        click.option("--print", "--dry-run", "prints", is_flag=True, help="Only show the proposal; sign and send nothing."),
        click.option("--expires-at", metavar="TIME", help="It ends if it is not accepted by then, such as 2027-01-01T12:00:00Z."),
        click.option("--expires-in", metavar="LENGTH", help="It ends if it is not accepted within so long: 90m, 48h, 7d, 2w."),
    ):
        decorated = option(decorated)
    return decorated


def propose(output: Output, service: ServiceOptions, signing: Signing, proposal: bytes) -> None:
    """Sign a proposal and send it, or prepare it to be signed elsewhere."""
    from ledgerd.network.client import members  # noqa: PLC0415
    from ledgerd.node.cli import gov_outcome, gov_signing  # noqa: PLC0415

    call = gov_signing.sign(output, signing, gov_signing.signatory(signing), members.proposal(proposal))
    if call is not None:
        gov_outcome.send(output, service, call, schema="gov_propose")


@command(_FILE_COMMAND, cls=FileCommand)
@click.argument("file", metavar="FILE")
@_proposing
def propose_file(file: str, service: ServiceOptions) -> bytes:
    """A JSON file with a whole proposal; - is standard input.

    It is signed and sent byte for byte as it is, so that others can compare it with what they were shown. For a proposal of one action,
    give the action's name in place of FILE.
    """
    if file != "-" and not Path(file).exists():
        raise ConfigurationError(_unknown(file))
    data = gov_files.read_bytes(file)
    read_proposal(data, file)
    return data


def _unknown(word: str) -> str:
    if word.replace("_", "-") in ACTIONS:
        return f"there is no file {word!r}; if the action is meant, its name comes first, before the options"
    near = difflib.get_close_matches(word.replace("_", "-"), ACTIONS, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    return f"there is neither an action nor a file {word!r}; {meant}`{PROPOSE} --help` lists all actions"


def read_proposal(data: bytes, name: str) -> dict[str, Any]:
    """A proposal, of the right form. Raises: ConfigurationError: It is none; the message says why."""
    if data.startswith((b"\xd2\x84", b"\x84")):
        raise ConfigurationError(f"{name} is a signed request already; send it with: ledgerd gov submit {name}")
    proposal = gov_files.parse_json(data, name)
    actions = proposal.get("actions") if isinstance(proposal, dict) else None
    if not isinstance(proposal, dict) or not isinstance(actions, list) or not actions:
        raise ConfigurationError(f'{name} is no proposal: it is an object such as {{"actions": [{{"name": "trigger_snapshot"}}]}}')
    for position, action in enumerate(actions):
        if not isinstance(action, dict) or not isinstance(action.get("name"), str):
            raise ConfigurationError(f"{name}: the action at position {position} has no name")
    return proposal


def encode(proposal: dict[str, Any]) -> bytes:
    """The bytes of a proposal. Raises: ConfigurationError: It has a number that JSON cannot write."""
    try:
        return json.dumps(proposal, separators=(",", ":"), allow_nan=False).encode()
    except ValueError:
        raise ConfigurationError("a number in the proposal is too large for JSON") from None


def _parsed(proposal: bytes | dict[str, Any]) -> dict[str, Any]:
    if isinstance(proposal, dict):
        return proposal
    parsed: dict[str, Any] = json.loads(proposal)
    return parsed


def _print(output: Output, proposal: dict[str, Any]) -> None:
    if output.json:
        output.record("gov_proposal", {"proposal": proposal})
    else:
        output.text("gov_proposal", "proposal", json.dumps(proposal, indent=2))


def _deadline(expires_in: str | None, expires_at: str | None) -> int | None:
    if expires_in is not None and expires_at is not None:
        raise ConfigurationError("--expires-in and --expires-at say the same thing: give one of the two")
    now = int(time.time())
    if expires_in is not None:
        return now + gov_arguments.parse_duration(expires_in)
    if expires_at is None:
        return None
    deadline = int(gov_arguments.parse_time(expires_at, "--expires-at").timestamp())
    if deadline <= now:
        raise ConfigurationError(f"--expires-at: {expires_at} has passed already")
    return deadline


def _with_deadline(proposal: dict[str, Any], deadline: int) -> dict[str, Any]:
    if "expires_at" in proposal:
        raise ConfigurationError("the proposal says itself when it expires; leave --expires-in and --expires-at out, or change the file")
    return {**proposal, "expires_at": deadline}


# Commands of the table.


def _command(action: Action) -> click.Command:
    def run(service: ServiceOptions, **options: Any) -> dict[str, Any]:
        return {"actions": [_wanted(action, service, options)]}

    decorated: Callable[..., Any] = _proposing(run)
    for argument in reversed(action.arguments):
        decorated = _parameter(argument)(decorated)
    if _is_image(action):
        decorated = click.option("--image", type=FILE, help="Take the three from this image, an EIF file.")(decorated)
    decorated.__doc__ = f"{action.help}\n\nAction {action.name}: docs/governance.md."
    own = frozenset((*(argument.name for argument in action.arguments), "image"))
    return command(action.command, short_help=action.help, cls=ActionCommand, own=own)(decorated)


def _parameter(argument: Argument) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    if argument.kind is Kind.SCRIPTS:
        return click.argument(argument.name, metavar="FILE...", nargs=-1, required=True)
    shape: dict[str, Any] = {"metavar": _METAVARS.get(argument.kind)}
    if argument.kind is Kind.FLAG:
        shape = {"default": None, "type": bool, "metavar": "[yes|no]"}
    elif argument.kind is Kind.CHOICE:
        shape = {"type": click.Choice(argument.values)}
    optional = argument.optional or argument.kind is Kind.SERVICE or argument.name in _PCRS
    return click.option(argument.option, argument.name, required=not optional, help=argument.help, **shape)


_METAVARS: Final = {
    Kind.CERTIFICATE: "FILE",
    Kind.CERTIFICATES: "FILE",
    Kind.SERVICE: "FILE",
    Kind.PUBLIC_KEY: "FILE",
    Kind.OBJECT: "JSON|@FILE",
    Kind.VALUE: "JSON|@FILE",
    Kind.BUNDLE: "FOLDER|FILE",
    Kind.CERTIFIED: "ID|FILE",
    Kind.ID: "ID",
    Kind.HEX: "HEX",
    Kind.TEXT: "TEXT",
    Kind.WHOLE: "NUMBER",
    Kind.TIME: "TIME",
}


def _is_image(action: Action) -> bool:
    return tuple(argument.name for argument in action.arguments) == _PCRS


def _wanted(action: Action, service: ServiceOptions, options: dict[str, Any]) -> dict[str, Any]:
    given = {argument: options[argument.name] for argument in action.arguments}
    if _is_image(action):
        given = _measured(given, options["image"])
    arguments: dict[str, Any] = {}
    for argument, value in given.items():
        if value is not None:
            whole = _whole_id(service, argument, value) if argument.kind is Kind.ID else value
            arguments[argument.name] = gov_arguments.read(argument, whole)
        elif argument.kind is Kind.SERVICE:
            arguments[argument.name] = _service_certificate(service)
    wanted: dict[str, Any] = {"name": action.name}
    return {**wanted, "args": arguments} if action.arguments else wanted


def _whole_id(service: ServiceOptions, argument: Argument, given: str) -> str:
    """A node's whole name, where its first digits are given, which the service is asked to complete."""
    first = gov_arguments.first_digits(given)
    if first is None:
        return given
    if not service.urls:
        raise ConfigurationError(
            f"{argument.option}: {first} are the first digits of a node's name; give all of them, or --url to ask for them"
        )
    from ledgerd.node.cli.gov_outcome import read  # noqa: PLC0415

    with service.client() as client:
        found = [str(node["nodeId"]) for node in read(client, "service/nodes")["value"] if node["nodeId"].startswith(first)]
    if len(found) != 1:
        how = "no node's name begins" if not found else f"the names of {len(found)} nodes begin"
        raise ConfigurationError(f"{argument.option}: {how} with {first}; `ledgerd node list` lists all")
    return found[0]


def _measured(given: dict[Argument, Any], image: Path | None) -> dict[Argument, Any]:
    named = [argument for argument, value in given.items() if value is not None]
    if (image is None) is (not named) or (named and len(named) < len(given)):
        raise ConfigurationError("which image? Give --image FILE, or all of --pcr0, --pcr1 and --pcr2, which count together")
    if image is None:
        return given
    from ledgerd.node.cli.image import read_image  # noqa: PLC0415

    measurement = read_image(image).measure()
    return {argument: getattr(measurement, argument.name).hex() for argument in given}


def _service_certificate(service: ServiceOptions) -> str:
    """The certificate of the service that is asked, byte for byte as its tables have it; without one to ask, the file's."""
    if service.urls:
        from ledgerd.node.cli.gov_outcome import read  # noqa: PLC0415

        with service.client() as client:
            return str(read(client, "service/info")["certificate"])
    if service.service_cert is None:
        raise ConfigurationError("which service? Give --url https://HOST:PORT or --service-cert FILE, or set LEDGERD_DIR")
    return gov_files.read_text(str(service.service_cert))
