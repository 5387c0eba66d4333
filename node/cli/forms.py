"""`-o table|json`: what it is called, and how it may stand before a command's name as well as after it.

Apart from `output`, since the entry point imports it for every call, help included.
"""

from typing import Final

import click

FLAGS: Final = ("-o", "--output")
FORMS: Final = ("table", "json")
_GIVEN: Final = "ledgerd.output"  # in click's `meta`, which a group shares with its command


def before_the_name() -> click.Option:
    """An option for groups. Each command has its own and tells of it, so help is silent of this one."""
    return click.Option(FLAGS, type=click.Choice(FORMS), expose_value=False, hidden=True, callback=_keep)


def chosen(own: str) -> str:
    """What counts for the command that runs: its own option, else what stood before its name, else the environment or the default."""
    context = click.get_current_context()
    is_own = context.get_parameter_source("output_form") is click.core.ParameterSource.COMMANDLINE
    return own if is_own else str(context.meta.get(_GIVEN, own))


def _keep(ctx: click.Context, _parameter: click.Parameter, form: str | None) -> None:
    if form is not None:
        ctx.meta[_GIVEN] = form
