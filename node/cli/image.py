"""`ledgerd image`: build an enclave image that is the same on every machine, measure it, and describe any image without believing it."""

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from ledgerd.ledger.errors import ConfigurationError
from ledgerd.node.cli.output import EXIT_FAILED, Ended, Output, command
from ledgerd.node.cli.parameters import FILE

if TYPE_CHECKING:
    from ledgerd.ledger.attestation.measurement import Measurement
    from ledgerd.node.image.build import Image, ImageSpec
    from ledgerd.node.image.eif import Eif

F = TypeVar("F", bound=Callable[..., Any])

_OUT: Final = click.Path(dir_okay=False, writable=True, path_type=Path)


def _parts(function: F) -> F:
    """The options that say what an image is made of."""
    options = (
        click.option("--kernel", type=FILE, required=True, help="Kernel, as the platform boots it."),
        click.option("--ramdisk", type=FILE, required=True, help="The platform's ramdisk: init, and the kernel's modules."),
        click.option("--cmdline", "command_line", metavar="TEXT", help="The kernel's command line; or use --cmdline-file."),
        click.option("--cmdline-file", "command_line_file", type=FILE, help="File with the kernel's command line."),
        click.option(
            "--app",
            default="ledgerd.apps.logging",
            show_default=True,
            metavar="MODULE",
            help="The application: a module, installed or in the working directory.",
        ),
        click.option("--link-port", type=click.IntRange(1, (1 << 32) - 1), default=7000, show_default=True, help="The host's vsock port."),
        click.option("--cert", "certificate", type=FILE, help="Certificate to sign with, PEM, P-384; sets PCR8."),
        click.option(
            "--cache",
            type=click.Path(file_okay=False, path_type=Path),
            help="Folder of packages and wheels, found by their hashes.  [default: in the user's cache]",
        ),
        click.option("--packages", type=FILE, help="Debian packages to use.  [default: ledgerd's own packages.lock]"),
        click.option("--wheels", type=FILE, help="Wheels to use.  [default: ledgerd's own wheels.lock]"),
    )
    for option in reversed(options):
        function = option(function)
    return function


@command("build")
@_parts
@click.option("--key", type=FILE, help="Key to sign with, PEM without passphrase.")
@click.option("--name", default="ledgerd", show_default=True, help="Name in the metadata, which nobody measures.")
@click.option("--memory", "memory_mib", type=click.IntRange(64, 1 << 22), default=1024, show_default=True, help="MiB to ask for.")
@click.option("--cpus", type=click.IntRange(1, 1024), default=2, show_default=True, help="CPUs to ask for.")
@click.option("--out", type=_OUT, required=True, help="The image; FILE.sbom.json and FILE.pcrs.json are written beside it.")
def image_build(output: Output, out: Path, **options: Any) -> None:
    """Build an enclave image.

    The same sources, locks, kernel and ramdisk give the same file on every machine. Needs Linux on x86-64, and no root. Packages come
    by the machine's apt and wheels by pip, each checked by its hash; nothing is fetched that the cache has.
    """
    if (options["key"] is None) != (options["certificate"] is None):
        raise ConfigurationError("--cert and --key sign together: give both, or neither")
    image = _make(output, options)
    data = image.eif()
    written = {"image": out, "sbom": Path(f"{out}.sbom.json"), "measurements": Path(f"{out}.pcrs.json")}
    try:
        out.write_bytes(data)
        written["sbom"].write_bytes(image.sbom)
        written["measurements"].write_text(json.dumps(_registers(image.measurement), indent=1) + "\n", encoding="ascii")
    except OSError as error:
        raise ConfigurationError(f"{error.filename} cannot be written: {error.strerror}") from None
    warnings = _warn(output, image.spec)
    sizes = {"bytes": len(data), "ramdisk_bytes": len(image.ramdisks[1]), "unpacked_bytes": image.archive_bytes}
    output.record(
        "image_build",
        {
            **{name: str(path) for name, path in written.items()},
            **sizes,
            "files": len(image.root),
            **_registers(image.measurement),
            **({"warnings": warnings} if output.json else {}),
        },
    )


@command("measure")
@_parts
def image_measure(output: Output, **options: Any) -> None:
    """Tell the PCRs that an image would have.

    Everything is made as by `build`, and nothing is written. With --cert, PCR8 too; the key is not needed.
    """
    pcr8 = None
    if options["certificate"] is not None:
        from ledgerd.ledger.attestation.measurement import certificate_pcr  # noqa: PLC0415
        from ledgerd.node.image.signature import certificate_der  # noqa: PLC0415

        pcr8 = certificate_pcr(certificate_der(options["certificate"].read_bytes()))  # before the work: a wrong one is told at once
    image = _make(output, {**options, "key": None, "name": "ledgerd", "memory_mib": 1024, "cpus": 2})
    _warn(output, image.spec)
    output.record("image_measure", _registers(image.measurement._replace(pcr8=pcr8)))


@command("describe")
@click.argument("file", type=FILE)
def image_describe(output: Output, file: Path) -> None:
    """Describe any enclave image.

    Sections, sizes, PCRs, checksum, signer and metadata, read defensively. Exit status 1 if the file is no image, or its signature does
    not verify.
    """
    from ledgerd.node.image.describe import describe  # noqa: PLC0415

    fields, warnings = describe(read_image(file), datetime.now(UTC))
    sections = fields.pop("sections")
    if output.json:
        output.record("image_describe", {**fields, "sections": sections, "warnings": warnings})
    else:
        lines = {f"section_{number}": f"{item['type']}, {item['bytes']} bytes" for number, item in enumerate(sections)}
        output.record("image_describe", {**fields, **lines})
        for warning in warnings:
            output.note(f"warning: {warning}")
    if fields["signer"] is not None and not fields["signer"]["verified"]:
        raise Ended(EXIT_FAILED)


def read_image(file: Path) -> "Eif":
    """Read an image's file.

    Raises: EifError: It is no image.
    """
    from ledgerd.node.image import eif  # noqa: PLC0415
    from ledgerd.node.image.errors import EifError  # noqa: PLC0415

    if not file.is_file():
        raise EifError("size", f"{file} is not a regular file, so it has no size")
    if (size := file.stat().st_size) > eif.IMAGE_BYTES_MAX:
        raise EifError("size", f"{size} bytes; an image has at most {eif.IMAGE_BYTES_MAX}")
    return eif.read(file.read_bytes())


def _make(output: Output, options: dict[str, Any]) -> "Image":
    from ledgerd.node.image import lock  # noqa: PLC0415
    from ledgerd.node.image.build import ImageSpec, Signer, build  # noqa: PLC0415

    signer = None
    if options["key"] is not None:
        signer = Signer(options["certificate"].read_bytes(), options["key"].read_bytes())
    spec = ImageSpec(
        app=options["app"],
        kernel=options["kernel"].read_bytes(),
        platform_ramdisk=options["ramdisk"].read_bytes(),
        command_line=_command_line(options["command_line"], options["command_line_file"]),
        app_folder=Path.cwd(),
        link_port=options["link_port"],
        name=options["name"],
        memory_bytes=options["memory_mib"] << 20,
        cpus=options["cpus"],
        signer=signer,
        packages=lock.parse_packages(_text(options["packages"] or lock.PACKAGES)),
        wheels=lock.parse_wheels(_text(options["wheels"] or lock.WHEELS)),
    )
    return build(spec, lock.Store(options["cache"] or lock.default_folder()), _progress(output))


def _warn(output: Output, spec: "ImageSpec") -> list[str]:
    """Say what looks wrong with what an image was made of."""
    from ledgerd.node.image import inputs  # noqa: PLC0415

    found = inputs.warnings(spec.kernel, spec.platform_ramdisk)
    for warning in found:
        output.note(f"warning: {warning}")
    return found


def _command_line(text: str | None, file: Path | None) -> str:
    if (text is None) == (file is None):
        raise ConfigurationError(
            "the kernel's command line is measured, so it must be given: --cmdline TEXT or --cmdline-file FILE, one of them"
        )
    return (_text(file) if file is not None else text or "").rstrip("\n")


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except UnicodeDecodeError:
        raise ConfigurationError(f"{file} is not ASCII text") from None


def _progress(output: Output) -> Callable[[str], None]:
    """One line a step on standard error, where a person sees it."""
    if output.json or not sys.stderr.isatty():
        return lambda step: None
    return lambda step: output.note(f"{step} ...")


def _registers(measured: "Measurement") -> dict[str, str]:
    named = {"pcr0": measured.pcr0, "pcr1": measured.pcr1, "pcr2": measured.pcr2, "pcr8": measured.pcr8}
    return {name: value.hex() for name, value in named.items() if value is not None}
