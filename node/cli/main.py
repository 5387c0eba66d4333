"""`ledgerd`: the entry point, and the list of all commands.

Law: nothing is imported for a command that does not run; `ledgerd --version` and help answer at once.
"""

import importlib
import os
import sys
from typing import Any, Final, NamedTuple, NoReturn

import click

from ledgerd.node.cli import forms

PROGRAM: Final = "ledgerd"


class Entry(NamedTuple):
    """Where a command is, and what help says of it before it is loaded."""

    module: str
    name: str
    help: str


class LazyGroup(click.Group):
    """A group whose commands are loaded when they are needed.

    Args:
        entries: Commands by name, in the order of help.
    """

    def __init__(self, *arguments: Any, entries: dict[str, Entry] | None = None, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.entries = entries or {}
        self.params.append(forms.before_the_name())

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands."""
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one command."""
        entry = self.entries.get(cmd_name)
        if entry is None:
            return None
        loaded = getattr(importlib.import_module(entry.module), entry.name)
        assert isinstance(loaded, click.Command), "the table names commands"
        return loaded

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write help's list of commands without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in self.entries.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, but a mistyped name is answered with the names that there are."""
        if args and args[0] not in self.entries and not args[0].startswith("-"):
            ctx.fail(f"No such command {args[0]!r}; there are: {', '.join(self.entries)}.")
        return super().resolve_command(ctx, args)


def _noun(name: str, help_text: str, verbs: dict[str, str], elsewhere: dict[str, str] | None = None) -> Entry:
    """Args: elsewhere: modules of verbs that are not in the noun's own."""
    modules = {verb: f"ledgerd.node.cli.{(elsewhere or {}).get(verb, name)}" for verb in verbs}
    group = LazyGroup(name, help=help_text, entries={verb: Entry(modules[verb], f"{name}_{verb}", text) for verb, text in verbs.items()})
    _GROUPS[name] = group
    return Entry(__name__, f"group_{name}", help_text)


_GROUPS: Final[dict[str, LazyGroup]] = {}

COMMANDS: Final = {
    "dev": Entry("ledgerd.node.cli.dev", "dev", "Run a whole service on this machine, for development."),
    "node": _noun(
        "node",
        "Run one node; list and retire those of a service.",
        {
            "start": "Start a new service with this node as its first.",
            "join": "Join an existing service.",
            "list": "List the nodes of a service, and which of them may be stopped.",
            "retire": "Retire a node: the others go on without it.",
        },
        {"list": "nodes", "retire": "nodes"},
    ),
    "gov": _noun(
        "gov",
        "Look at what governance has recorded, and take part as a member.",
        {
            "members": "List the members: who governs.",
            "users": "List the users: who may use the application.",
            "service": "Show the service: its status, its certificate, and its configuration.",
            "policy": "List what a node has to show to join: each image, root, or the like that is accepted.",
            "constitution": "Print the rules by which members govern, in JavaScript.",
            "proposals": "List the proposals that are open, and the last one that was decided.",
            "show": "Show a proposal: who made it, what it asks for, who has voted, and what it would change.",
            "diff": "Show what a proposal would change, before and after.",
            "propose": "Propose something to the members.",
            "vote": "Vote on a proposal: for it, against it, or by a script.",
            "withdraw": "Withdraw a proposal: whoever made it may, as long as it is open.",
            "ack": "Acknowledge the service's state: the member takes part from then on.",
            "finish": "Put a signature into what --prepare wrote, and send it.",
            "submit": "Send a request that a member has signed.",
            "share": "Show your own share for recovery, decrypted, in base64.",
            "audit": "Replay governance from a ledger, offline.",
        },
        {
            "show": "gov_diff",
            "diff": "gov_diff",
            "share": "gov_share",
            "propose": "gov_propose",
            "vote": "gov_vote",
            "finish": "gov_finish",
            "submit": "gov_finish",
            "audit": "gov_audit",
        },
    ),
    "doctor": Entry(
        "ledgerd.node.cli.doctor", "doctor", "Look whether a node can run on this machine, and say what to do where it cannot."
    ),
    "status": Entry("ledgerd.node.cli.status", "status", "Show the service and its nodes."),
    "tx": _noun(
        "tx",
        "Submit transactions, and ask what became of them.",
        {"submit": "Submit a transaction and wait until it is committed.", "status": "Show whether a transaction is committed."},
    ),
    "receipt": _noun(
        "receipt",
        "Get receipts, and verify them offline.",
        {"get": "Get the receipt of a transaction.", "verify": "Verify a receipt offline."},
    ),
    "ledger": _noun(
        "ledger",
        "Read, export and verify a ledger offline.",
        {
            "export": "Write a node's ledger as CCF chunk files.",
            "verify": "Recompute a ledger from its stored bytes.",
            "show": "List a ledger's entries, or show one.",
        },
    ),
    "attestation": _noun(
        "attestation",
        "Look at attestation documents, and verify them.",
        {"show": "Show what a document says, unverified.", "verify": "Verify a node's attestation, or a stored document."},
    ),
    "image": _noun(
        "image",
        "Build enclave images that reproduce, and look at any.",
        {
            "build": "Build an enclave image.",
            "describe": "Describe any enclave image.",
            "measure": "Tell the PCRs that an image would have.",
        },
    ),
    "kms": _noun(
        "kms",
        "Give a key of AWS KMS to an image.",
        {"policy": "Print the key policy that gives a KMS key to an image."},
    ),
    "completion": Entry("ledgerd.node.cli.completion", "completion", "Print the script that completes commands in a shell."),
}


def __getattr__(name: str) -> LazyGroup:
    """Nouns are attributes too, so that the table above names everything in one way."""
    if name.startswith("group_") and name[6:] in _GROUPS:
        return _GROUPS[name[6:]]
    raise AttributeError(name)


def _print_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import version  # noqa: PLC0415 (only here)

        click.echo(f"{PROGRAM} {version(PROGRAM)}")
        ctx.exit()


@click.group(
    PROGRAM,
    cls=LazyGroup,
    entries=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit status: 0 done; 1 it failed, or it does not verify; 2 called wrongly. Start with `ledgerd dev`.",
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version and exit.")
def cli() -> None:
    """A confidential ledger, run together by parties who do not trust each other.

    Nodes execute inside attested enclaves; every committed transaction has a receipt that anyone can verify offline.
    """


def _refuse(error: click.ClickException, arguments: list[str]) -> int:
    """Say what click found wrong with a call, in one line or, where that was asked for, in one JSON document."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return error.exit_code
    from ledgerd.node.cli.output import Ended, Output  # noqa: PLC0415 (only here)

    context = error.ctx if isinstance(error, click.UsageError) else None
    advice = "" if context is None else f" Try `{context.command_path} --help`."
    message = " ".join(error.format_message().split())  # click lists choices in lines of their own
    try:
        Output("json" if _wants_json(arguments) else "table").fail("UsageError", f"{message.rstrip('.')}.{advice}", error.exit_code)
    except Ended as ended:
        return ended.exit_code


def _wants_json(arguments: list[str]) -> bool:
    """What `-o` says, the last one; the call is wrong, so click itself may not have come to it."""
    form = os.environ.get("LEDGERD_OUTPUT", "")
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument in ("-o", "--output"):
            form = following
        elif argument.startswith("--output="):
            form = argument.removeprefix("--output=")
        elif argument.startswith("-o"):
            form = argument[2:].removeprefix("=")
    return form == "json"


def main() -> NoReturn:
    """Run the command line."""
    try:
        status = cli.main(prog_name=PROGRAM, standalone_mode=False)
    except click.exceptions.Abort:
        status = 1
    except click.ClickException as error:
        status = _refuse(error, sys.argv[1:])
    sys.exit(status if isinstance(status, int) else 0)


if __name__ == "__main__":
    main()
