"""`ledgerd doctor`: what on this machine is right, what is not, and what to do next."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ledgerd.ledger.errors import ConfigurationError
from ledgerd.node.cli.output import EXIT_FAILED, Ended, Output, command
from ledgerd.node.cli.parameters import FILE

if TYPE_CHECKING:
    from ledgerd.node.checks import Section

MARKS: Final = {
    "success": click.style("ok", fg="green"),
    "warning": click.style("warning", fg="yellow"),
    "failure": click.style("FAILURE", fg="red"),
}


@command("doctor")
@click.option("-c", "--config", "path", type=FILE, help="A node's TOML file: look whether that node can run here.")
@click.option(
    "--launcher",
    type=click.Choice(["process", "vm", "nitro"]),
    help="How its enclave is to be started.  [default: as in --config, or process]",
)
@click.option("--image", type=click.Path(dir_okay=False, path_type=Path), help="The EIF file that is to be started, by vm or nitro.")
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the ledger is to be: its disk is timed.  [default: as in --config, or here]",
)
def doctor(output: Output, path: Path | None, launcher: str | None, image: Path | None, directory: Path | None) -> None:
    """Look whether a node can run on this machine, and say what to do where it cannot.

    Changes nothing. Exit status 1 if there is a failure; warnings do not count.
    """
    from ledgerd.node import config as configs  # noqa: PLC0415
    from ledgerd.node import doctor as doctors  # noqa: PLC0415
    from ledgerd.node.checks import Verdict, worst  # noqa: PLC0415

    config = None if path is None else configs.load(path, launcher=launcher, image=image)
    launcher = launcher or ("process" if config is None else config.launcher)
    if image is not None and launcher == "process":
        raise ConfigurationError("--image is for virtual machines and enclaves: add --launcher vm, or --launcher nitro")
    nitro = config.nitro if config is not None else None
    vm = config.vm if config is not None else None
    if image is not None:
        nitro, vm = nitro or configs.NitroConfig(image), vm or configs.VmConfig(image)
    directory = directory or (Path() if config is None else config.directory)
    sections = doctors.examine(directory, launcher=launcher, config=config, nitro=nitro, vm=vm)
    verdict = worst(sections)
    _say(output, sections, str(verdict))
    if verdict is Verdict.FAILURE:
        raise Ended(EXIT_FAILED)


def _say(output: Output, sections: "Sequence[Section]", verdict: str) -> None:
    """A tree for people; lines for pipes; the same tree as JSON."""
    if not output.json and sys.stdout.isatty():
        for section in sections:
            click.echo(f"{section.name}: {MARKS[str(section.verdict)]}")
            for number, check in enumerate(section.checks, 1):
                last = number == len(section.checks)
                click.echo(f"{'└─' if last else '├─'} {MARKS[str(check.verdict)]} {check.name}: {check.found}")
                if check.advice:
                    click.echo(f"{'  ' if last else '│ '}    -> {check.advice}")
        return
    tree: list[dict[str, Any]] = [
        {"name": section.name, "verdict": str(section.verdict), "checks": [_fields(check) for check in section.checks]}
        for section in sections
    ]
    if output.json:
        output.record("doctor", {"verdict": verdict, "sections": tree})
    else:
        rows = [{"section": section["name"], **check} for section in tree for check in section["checks"]]
        output.rows("doctor", ("section", "name", "verdict", "found", "advice"), rows)


def _fields(check: Any) -> dict[str, str]:
    return {"name": check.name, "verdict": str(check.verdict), "found": check.found, "advice": check.advice}
