"""`ledgerd node`: run one node in this process, until it ends."""

from pathlib import Path

import click

from ledgerd.ledger.errors import ConfigurationError
from ledgerd.node.cli.output import Ended, Output, command

_CONFIG = click.option(
    "-c", "--config", "path", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True, help="The node's TOML file."
)
_LAUNCHER = click.option("--launcher", type=click.Choice(["process", "vm", "nitro"]), help="How to start it, in place of node.launcher.")
_IMAGE = click.option(
    "--image", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The EIF file, in place of nitro.image or vm.image."
)
_CHECK = click.option("--check", is_flag=True, help="Only check configuration, directory and image: tell every problem, start nothing.")


@command("start")
@_CONFIG
@_LAUNCHER
@_IMAGE
@_CHECK
def node_start(output: Output, path: Path, launcher: str | None, image: Path | None, check: bool) -> None:
    """Start a new service with this node as its first.

    The configuration has a [start] section: members, users, and which enclaves may join. The node runs until it is told to stop.
    """
    _run(output, path, "start", launcher, image, check)


@command("join")
@_CONFIG
@_LAUNCHER
@_IMAGE
@_CHECK
def node_join(output: Output, path: Path, launcher: str | None, image: Path | None, check: bool) -> None:
    """Join an existing service.

    The configuration has a [join] section: one of the service's nodes, and the service's certificate. If the service refuses the node,
    the message says by which rule.
    """
    _run(output, path, "join", launcher, image, check)


def _run(output: Output, path: Path, mode: str, launcher: str | None, image: Path | None, check: bool) -> None:
    from ledgerd.node import config as configs  # noqa: PLC0415

    config = configs.load(path, launcher=launcher, image=image)
    there = "start" if config.start is not None else "join"
    if there != mode:
        raise ConfigurationError(f"{path} has a [{there}] section: run `ledgerd node {there}`, or give it a [{mode}] section")
    if check:
        from ledgerd.node.lifecycle import check_node  # noqa: PLC0415

        check_node(config)
        output.record("node_check", {"file": str(path), "mode": mode, "correct": True})
        return
    from ledgerd.node.lifecycle import run_node  # noqa: PLC0415

    raise Ended(run_node(config, notice=lambda name, text: _tell(output, name, text)))


def _tell(output: Output, name: str, text: str) -> None:
    if output.json:
        output.record("node_notice", {"name": name, "text": text})
    elif "\n" not in text.strip() and name != "refused":  # which is the last line anyway
        output.note(f"{name}: {text.strip()}")
