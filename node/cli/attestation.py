"""`ledgerd attestation`: look at attestation evidence, and verify it: a node's, made for our own nonce, or one in a file.

Not here: finding evidence in bytes (`evidence`), judging what is stored (`judging`), asking nodes and other addresses (`asking`).
"""

import os
import re
import time
from pathlib import Path
from typing import Final

import click

from ledgerd.ledger.errors import ConfigurationError
from ledgerd.node.cli import asking, judging
from ledgerd.node.cli import evidence as found
from ledgerd.node.cli.allow_list import read_measurements
from ledgerd.node.cli.output import Output, command
from ledgerd.node.cli.parameters import DIGEST, EPOCH_MS, FILE, HEX, INDEXED_PCR
from ledgerd.node.cli.service import ServiceOptions, service_options

NONCE_SIZE_BYTES: Final = 32
NONCE_SIZE_BYTES_MIN: Final = 16  # of a node's
_ROLE: Final = re.compile(r"arn:aws[a-z-]{0,20}:iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]{1,512}")


@command("show")
@click.argument("file", type=FILE, required=False)
@service_options
def attestation_show(output: Output, service: ServiceOptions, file: Path | None) -> None:
    """Show what a document says, unverified.

    FILE holds a Nitro document or an SNP report: binary, base64, hex, or a node's JSON answer. Without FILE a node is asked for one.
    """
    if file is None:
        with service.client() as client:
            data = client.get(f"{asking.STATEMENT_PATH}{'00' * NONCE_SIZE_BYTES}").body
    else:
        data = found.read(str(file))
    facts, people = judging.claims(data, _now_ms())
    output.record("attestation_show", {"verified": False, **(facts if output.json else people)})
    output.note("This is what the document says; `ledgerd attestation verify` checks who says it.")


@command("verify")
@click.argument("target", metavar="[FILE|URL]", required=False)
@click.option("--root", "roots", type=FILE, multiple=True, help="Accepted root, PEM; may be repeated.  [default: AWS's; AMD's for SNP]")
@click.option("--at", type=EPOCH_MS, metavar="EPOCH_MS", help="Judge as of this time.  [default: now]")
@click.option("--pcr", "pcrs", type=INDEXED_PCR, multiple=True, help="Value that a register must have; may be repeated.")
@click.option("--role", metavar="ARN", help="Role that the enclave's instance must have: what PCR3 measures.")
@click.option(
    "--measurements", type=FILE, help='Accepted images, JSON: {"pcr0": HEX, "pcr1": HEX, "pcr2": HEX}, or a list, or nitro-cli\'s output.'
)
@click.option("--nonce", type=HEX, help="Nonce that the document must hold.  [default: any; for a node, a fresh one of ours]")
@click.option("--allow-debug", is_flag=True, help="Do not refuse a debug enclave, which protects nothing from its host.")
@click.option(
    "--endorsements", type=FILE, multiple=True, help="Certificates of an SNP report: PEM, DER, or as Azure gives them; may be repeated."
)
@click.option("--uvm-endorsement", type=FILE, help="Who vouches for an SNP report's measurement, COSE.")
@click.option("--security-policy", type=FILE, help="Container policy whose SHA-256 an SNP report's host data must be.")
@click.option("--genesis", type=DIGEST, help="Digest of the service's first entry: it must be this service.")
@click.option("--save", type=click.Path(dir_okay=False, writable=True, path_type=Path), help="Write the verified service certificate here.")
@service_options
def attestation_verify(
    output: Output,
    service: ServiceOptions,
    target: str | None,
    roots: tuple[Path, ...],
    at: int | None,
    pcrs: tuple[tuple[int, bytes], ...],
    role: str | None,
    measurements: Path | None,
    nonce: bytes | None,
    allow_debug: bool,
    endorsements: tuple[Path, ...],
    uvm_endorsement: Path | None,
    security_policy: Path | None,
    genesis: bytes | None,
    save: Path | None,
) -> None:
    """Verify a node's attestation, or a stored document.

    It is explained too: whose image, debug or not, on which instance and in which role, how old, which rule fails.

    FILE holds a Nitro document or an SNP report: binary, base64, hex, or a node's JSON answer; it is judged offline, now or as of --at, and
    proves nothing about who runs today. URL is a node, https://HOST:PORT, which makes a document for a nonce of ours, or any address of a
    document. Without either, nodes of --url are asked; where an image is stated, the service certificate that they bind can be kept with
    --save.

    Exit status 0 if it is valid, 1 if it is refused, 2 for wrong use.
    """
    lines = [] if measurements is None else read_measurements(measurements)
    registers = _registers(pcrs, role)
    node = asking.is_node(target)
    one_document = at is not None or nonce is not None or allow_debug or bool(endorsements or uvm_endorsement or security_policy)
    if target is None and one_document:
        raise ConfigurationError("--at, --nonce, --allow-debug and the options for SNP are for one document: give FILE or URL")
    states_image = bool(lines) or registers.keys() >= set(judging.IMAGE_REGISTERS)
    if target is None or (node and states_image and not one_document):
        service = service._replace(urls=service.urls if target is None else (str(target),))
        asking.verify_live(output, service, roots, lines, registers, genesis, save)
        return
    if genesis is not None or save is not None:
        raise ConfigurationError("--genesis and --save need a node and an image (--measurements, or --pcr 0, 1 and 2), judged now")
    if node:
        nonce = os.urandom(NONCE_SIZE_BYTES) if nonce is None else nonce
        if len(nonce) < NONCE_SIZE_BYTES_MIN:
            raise ConfigurationError(f"a node makes no document for a nonce of {len(nonce)} bytes: give at least {NONCE_SIZE_BYTES_MIN}")
    data = asking.fetch(target, service.timeout, nonce if node else None) if asking.is_url(target) else found.read(target)
    wanted = judging.Wanted(roots, lines, registers, nonce, _now_ms() if at is None else at, at is not None, allow_debug, security_policy)
    judging.verify_stored(output, data, endorsements, uvm_endorsement, wanted)
    if node and not states_image:
        compared = "Only a part of an image" if registers.keys() & set(judging.IMAGE_REGISTERS) else "No image"
        output.note(f"{compared} was compared: state all of it by --pcr 0=HEX --pcr 1=HEX --pcr 2=HEX, or --measurements FILE")


def _registers(pcrs: tuple[tuple[int, bytes], ...], role: str | None) -> dict[int, bytes]:
    """Values that registers must have, as `--pcr` and `--role` state them."""
    registers = dict(pcrs)
    if len(registers) != len(pcrs):
        raise ConfigurationError("--pcr names a register twice: give each once")
    if role is not None:
        from ledgerd.ledger.attestation.measurement import ROLE_PCR, role_pcr  # noqa: PLC0415

        if not _ROLE.fullmatch(role):
            raise ConfigurationError(f"--role {role[:200]!r} is not of the form arn:aws:iam::ACCOUNT:role/NAME")
        if registers.setdefault(ROLE_PCR, role_pcr(role)) != role_pcr(role):
            raise ConfigurationError(f"--role and --pcr {ROLE_PCR} state different values for one register: give one of them")
    return registers


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
