"""`ledgerd kms`: what KMS must be told so that it gives a key to an image and to nobody else."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ledgerd.ledger.errors import ConfigurationError
from ledgerd.node.cli.output import Output, command
from ledgerd.node.cli.parameters import FILE, INDEXED_PCR, PCR

if TYPE_CHECKING:
    from ledgerd.ledger.attestation.measurement import Measurement


@command("policy")
@click.option("--image", "files", type=FILE, multiple=True, help="An image's file, measured here; may be repeated.")
@click.option("--pcr0", type=PCR, help="The image: its PCR0.")
@click.option(
    "--pcr",
    "registers",
    type=INDEXED_PCR,
    multiple=True,
    metavar="N=HEX",
    help="Another PCR of it; may be repeated.",
)
@click.option(
    "--measurements",
    type=FILE,
    help='Images in a file, JSON: {"pcr0": HEX, "pcr1": HEX, "pcr2": HEX}, or a list, or nitro-cli\'s output.',
)
@click.option("--role", "roles", multiple=True, metavar="ARN", help="Role of the instances that run the image; may be repeated.")
@click.option("--account", metavar="ID", help="In place of --role: whoever the account's own policies let.")
@click.option(
    "--admin",
    "administrators",
    multiple=True,
    metavar="ARN",
    help="Who may change the policy, so is trusted with the key; may be repeated.",
)
def kms_policy(
    output: Output,
    files: tuple[Path, ...],
    pcr0: bytes | None,
    registers: tuple[tuple[int, bytes], ...],
    measurements: Path | None,
    roles: tuple[str, ...],
    account: str | None,
    administrators: tuple[str, ...],
) -> None:
    """Print the key policy that gives a KMS key to an image.

    Calls without an attestation document, and of every other image, are denied whatever else allows them; so is all that could put
    another secret in place of the enclave's. The result is what `aws kms create-key --policy file://FILE` takes.
    """
    from ledgerd.node.kms_policy import key_policy, print_policy  # noqa: PLC0415

    if roles and account is not None:
        raise ConfigurationError("--role and --account: give one or the other; beside an account a role narrows nothing")
    images = _images(files, pcr0, registers, measurements)
    policy = key_policy(images, [*roles, *([account] if account is not None else [])], administrators)
    if output.json:
        output.record("kms_policy", {"policy": policy})
    else:
        output.text("kms_policy", "policy", print_policy(policy))
    if any(not {1, 2} <= image.keys() for image in images):
        output.note("PCR0 alone does not fix where an image's sections end: give PCR1 and PCR2 too")
    if administrators:
        output.note(f"{', '.join(administrators)} can change this policy, so they can give the key to any image: they are trusted with it")
    else:
        output.note(
            "nobody may change this policy: AWS takes it only with --bypass-policy-lockout-safety-check; another image needs another key"
        )


def _images(
    files: tuple[Path, ...], pcr0: bytes | None, registers: tuple[tuple[int, bytes], ...], measurements: Path | None
) -> list[Mapping[int, bytes]]:
    images: list[Mapping[int, bytes]] = []
    for file in files:
        from ledgerd.node.cli.image import read_image  # noqa: PLC0415
        from ledgerd.node.image.describe import registers as registers_of  # noqa: PLC0415

        images.append(_values(registers_of(read_image(file))))
    if measurements is not None:
        from ledgerd.node.cli.allow_list import read_measurements  # noqa: PLC0415

        images += [_values(line) for line in read_measurements(measurements)]
    given: dict[int, bytes] = {} if pcr0 is None else {0: pcr0}
    for index, value in registers:
        if given.setdefault(index, value) != value:
            raise ConfigurationError(f"PCR{index} is given twice, with two values; a second image goes into --image or --measurements")
    if given:
        images.append(given)
    return images


def _values(line: "Measurement") -> dict[int, bytes]:
    values = {0: line.pcr0, 1: line.pcr1, 2: line.pcr2, 3: line.pcr3, 8: line.pcr8}
    return {index: value for index, value in values.items() if value is not None}
