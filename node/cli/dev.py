"""`ledgerd dev`: a whole service on this machine, and what a newcomer needs to try it."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ledgerd.ledger.errors import ConfigurationError
from ledgerd.node.cli.output import Ended, Output, command

if TYPE_CHECKING:
    from ledgerd.node.dev import Opened
    from ledgerd.node.dev_public_name import Shown

APP: Final = "ledgerd.apps.logging"
PORT: Final = 8000
_ENCLAVES: Final = {"process": "processes", "vm": "virtual machines"}


@command("dev")
@click.option("--nodes", type=click.IntRange(1, 16), default=3, show_default=True, help="How many nodes.")
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where everything goes; new or empty.  [default: a temporary folder, removed at the end]",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=PORT,
    show_default=True,
    help="Port of the first node, the others follow; 0 takes free ones.",
)
@click.option(
    "--app", default=APP, show_default=True, metavar="MODULE", help="The application: a module, installed or in the working directory."
)
@click.option(
    "--js-app-bundle",
    "js_app",
    type=click.Path(exists=True, path_type=Path),
    help="An application in JavaScript, installed by proposal when the service is open: a folder with app.json and src/, or a JSON file. "
    "What it throws is told to callers.",
)
@click.option(
    "--launcher",
    type=click.Choice(["process", "vm"]),
    default="process",
    show_default=True,
    help="How to start enclaves: as processes, or in virtual machines of QEMU's.",
)
@click.option(
    "--image",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="For --launcher vm: an EIF file that has --app in it.  [default: one is built, and kept]",
)
@click.option(
    "--curve",
    type=click.Choice(["secp256r1", "secp384r1"]),
    default="secp256r1",
    show_default=True,
    help="Of the service's key and its nodes'.",
)
@click.option(
    "--public-name",
    metavar="NAME",
    help="Seal TLS keys for this DNS name by a simulated KMS, and certify one: what docs/kms.md describes.",
)
@click.option("--anybody", is_flag=True, help="Let callers without a certificate use the application.")
@click.option(
    "--exec", "to_run", metavar="COMMAND", help="Run this when the service is open, then stop everything and exit with its status."
)
def dev(
    output: Output,
    nodes: int,
    directory: Path | None,
    port: int,
    app: str,
    js_app: Path | None,
    launcher: str,
    image: Path | None,
    curve: str,
    public_name: str | None,
    anybody: bool,
    to_run: str | None,
) -> None:
    """Run a whole service on this machine, for development.

    Starts the nodes, opens the service, prints URLs, files and a curl line, and stops everything on Ctrl-C. Attestation is SIMULATED.

    With --exec the command finds LEDGERD_URL (the primary), LEDGERD_URLS (all, by commas) and LEDGERD_DIR in its environment, where
    other `ledgerd` commands look too: ledgerd dev --exec 'ledgerd status'
    """
    if image is not None and launcher != "vm":
        raise ConfigurationError("--image is for virtual machines: add --launcher vm")
    from ledgerd.node.cli.gov_bundle import read_bundle  # noqa: PLC0415
    from ledgerd.node.dev import run_dev  # noqa: PLC0415 (loads cryptography)
    from ledgerd.node.dev_folder import DevOptions  # noqa: PLC0415

    bundle = None if js_app is None else read_bundle(js_app)

    def opened(service: "Opened") -> None:
        common = service.directory / "common"
        line = curl(service.primary, common, app if bundle is None else "", anybody=anybody)
        if output.json:
            fields = {
                "simulated": True,
                "urls": list(service.urls),
                "primary": service.primary,
                "directory": str(service.directory),
                "isolation": service.isolation.split(),
                "seconds": round(service.seconds, 3),
                "curl": line,
                "public_name": service.public_name._asdict() if service.public_name is not None else None,
            }
            output.record("dev", fields)
        elif to_run is None:
            click.echo(_welcome(service, line, launcher, temporary=directory is None))
        else:
            opened_after = f"{len(service.urls)} nodes open after {service.seconds:.1f} s"
            output.note(f"ledgerd dev: {opened_after}, attestation SIMULATED, primary {service.primary}")

    options = DevOptions(nodes, directory, port, app, anybody, to_run, launcher, image, curve, public_name, bundle)
    status = run_dev(options, opened, lambda text: output.note(f"ledgerd dev: {text}"))
    raise Ended(status)


def curl(url: str, common: Path, app: str, *, anybody: bool) -> str:
    """A line that works as printed: a committed write for the logging application, the API of any other."""
    parts = ["curl", "-i", "--cacert", str(common / "service_cert.pem")]
    if not anybody:
        parts += ["--cert", str(common / "user0_cert.pem"), "--key", str(common / "user0_privk.pem")]
    if app == APP:
        parts += ["-X", "PUT", "-H", "content-type: text/plain", "-H", "prefer: committed", "--data", "hello", f"{url}/app/records/1"]
    else:
        parts.append(f"{url}/app/api")
    return shlex.join(parts)


def _welcome(service: "Opened", line: str, launcher: str, *, temporary: bool) -> str:
    common = service.directory / "common"
    logs = service.directory / "node0" / "node.log"
    measurements, root = (shlex.quote(str(common / name)) for name in ("measurements.json", "simulated_root_cert.pem"))
    programs, folder = (shlex.quote(str(path)) for path in (Path(sys.executable).parent, service.directory))
    return "\n".join(
        [
            f"A service of {len(service.urls)} nodes is open after {service.seconds:.1f} s.",
            f"Attestation is SIMULATED: the enclaves are {_ENCLAVES[launcher]} of this machine, for development only. Kept apart by:",
            "  " + service.isolation,
            "",
            *(f"  {url}{'  (primary)' if url == service.primary else ''}" for url in service.urls),
            "",
            f"  {common / 'service_cert.pem'}   the service's identity",
            f"  {common / 'user0_cert.pem'}, user0_privk.pem   a user (also user1; member0 governs)",
            f"  {logs}   logs, addresses, process ids, of each node",
            *(["  (a temporary folder, removed at the end; --dir keeps it)"] if temporary else []),
            "",
            "Write something, and see it committed:" if " -X PUT " in line else "What the application offers:",
            "",
            line,
            "",
            "Or, in another terminal, with the SDK (docs/sdk.md) or:",
            "",
            f"export PATH={programs}:$PATH LEDGERD_DIR={folder}; ledgerd status",
            "",
            "There too, let a node go, signed by member0 (docs/operating.md has how one joins):",
            "",
            "ledgerd node list; ledgerd node retire NODE_ID",
            "",
            "Then ask the primary to attest itself, which proves what it runs to whoever believes the root (this one is SIMULATED):",
            "",
            f"ledgerd attestation verify {service.primary} --measurements {measurements} --root {root}",
            "",
            *(_of_name(service.public_name) if service.public_name is not None else []),
            "Stop with Ctrl-C.",
        ]
    )


def _of_name(shown: "Shown") -> list[str]:
    """How to see the public name at work."""
    return [
        f"For {shown.name} each node made a TLS key in its enclave and had it sealed, by a SIMULATED KMS, to what it runs; an authority of",
        f"this folder's own certified the first one's. {shown.decisions} says what KMS was asked, and why it answered.",
        "A node that starts now opens that key and serves the name. Start it in another terminal, and see it from a third:",
        "",
        shown.join,
        shown.curl,
        "",
    ]
