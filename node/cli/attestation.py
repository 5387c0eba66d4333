"""`ledgerd attestation`: look at attestation documents, and verify them: a node's, made for our own nonce, or one in a file."""

import base64
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ledgerd.ledger.errors import ConfigurationError, FormatError
from ledgerd.node.cli.output import EXIT_FAILED, Ended, Output, command
from ledgerd.node.cli.parameters import DIGEST, FILE, PCR
from ledgerd.node.cli.service import ServiceOptions, service_options

if TYPE_CHECKING:
    from ledgerd.ledger.attestation.measurement import Measurement
    from ledgerd.ledger.attestation.nitro import Attestation
    from ledgerd.ledger.attestation.policy import Policy

SIMULATED = "SIMULATED: the root is not AWS's, so there may be no enclave at all"


@command("show")
@click.argument("file", type=FILE, required=False)
@service_options
def attestation_show(output: Output, service: ServiceOptions, file: Path | None) -> None:
    """Show what a document says, unverified.

    FILE holds a document: binary, base64, or a node's JSON answer. Without FILE a node is asked for one.
    """
    from ledgerd.ledger.attestation.nitro import decode  # noqa: PLC0415

    if file is None:
        with service.client() as client:
            data = client.get(f"/node/attestations/self?nonce={'00' * 32}").body
    else:
        data = file.read_bytes()
    document = decode(read_document(data))
    output.record(
        "attestation_show",
        {
            "verified": False,
            "module_id": document.module_id,
            "made_at": _time(document.timestamp_ms),
            "nonce": _hex(document.nonce),
            "user_data": _hex(document.user_data),
            "public_key": _hex(document.public_key),
            **_registers(document.pcrs),
        },
    )
    output.note("This is what the document says; `ledgerd attestation verify` checks who says it.")


@command("verify")
@click.argument("file", type=FILE, required=False)
@click.option("--root", "roots", type=FILE, multiple=True, help="Accepted attestation root, PEM; may be repeated.  [default: AWS's]")
@click.option(
    "--measurements", type=FILE, help='Accepted images, JSON: {"pcr0": HEX, "pcr1": HEX, "pcr2": HEX}, or a list, or nitro-cli\'s output.'
)
@click.option("--pcr0", type=PCR, help="Accepted image, in place of --measurements.")
@click.option("--pcr1", type=PCR)
@click.option("--pcr2", type=PCR)
@click.option("--genesis", type=DIGEST, help="Digest of the service's first entry: it must be this service.")
@click.option("--save", type=click.Path(dir_okay=False, writable=True, path_type=Path), help="Write the verified service certificate here.")
@service_options
def attestation_verify(
    output: Output,
    service: ServiceOptions,
    file: Path | None,
    roots: tuple[Path, ...],
    measurements: Path | None,
    pcr0: bytes | None,
    pcr1: bytes | None,
    pcr2: bytes | None,
    genesis: bytes | None,
    save: Path | None,
) -> None:
    """Verify a node's attestation, or a stored document.

    Without FILE a node (--url) makes a document for a nonce of ours, and the service certificate that it binds can be kept with --save.
    With FILE the document is judged as of now, which proves nothing about who runs today. Exit status 1 if it is refused.
    """
    from ledgerd.ledger.attestation.errors import AttestationError  # noqa: PLC0415

    accepted = _accepted(measurements, (pcr0, pcr1, pcr2))
    fields: dict[str, Any] = {}
    try:
        if file is None:
            attestation, fields = _live(service, roots, accepted, genesis, save)
        else:
            if genesis is not None or save is not None:
                raise click.UsageError("--genesis and --save need a node, not a file: a stored document is bound to no connection")
            from ledgerd.ledger.attestation.policy import verify_recorded  # noqa: PLC0415

            attestation = verify_recorded(read_document(file.read_bytes()), _policy(roots, accepted), at_ms=time.time_ns() // 1_000_000)
    except AttestationError as error:
        refusal = {"verified": False, "rule": error.rule, "seen": error.seen, "expected": error.expected, "advice": error.advice}
        output.record("attestation_verify", refusal)
        raise Ended(EXIT_FAILED) from None
    output.record(
        "attestation_verify",
        {
            "verified": True,
            "simulated": attestation.simulated,
            "module_id": attestation.module_id,
            "made_at": _time(attestation.timestamp_ms),
            "root": attestation.root,
            **(fields if output.json else {name: value for name, value in fields.items() if name != "service_certificate"}),
            **_registers(attestation.pcrs),
        },
    )
    if attestation.simulated:
        output.note(SIMULATED)
    if file is None and save is None:
        output.note("--save FILE keeps the service certificate that this proves, to be used as --service-cert")


def _live(
    service: ServiceOptions, roots: tuple[Path, ...], accepted: "list[Measurement]", genesis: bytes | None, save: Path | None
) -> tuple["Attestation", dict[str, Any]]:
    from ledgerd.network.client import Budget, Client  # noqa: PLC0415

    if not service.urls:
        raise ConfigurationError("which node? Give --url https://HOST:PORT, or a FILE")
    budget = Budget(seconds=service.timeout)
    with Client.trust(
        service.urls, roots=roots or None, measurements=accepted, genesis=None if genesis is None else genesis.hex(), budget=budget
    ) as client:
        assert client.attestation is not None, "trust sets it"
        attestation, configuration, identity = client.attestation.attestation, client.attestation.configuration, client.identity
    fields: dict[str, Any] = {"genesis": identity.genesis, "configuration": configuration, "service_certificate": identity.certificate}
    if save is not None:
        save.write_text(identity.certificate, encoding="ascii")
        fields["saved"] = str(save)
    return attestation, fields


def _policy(roots: tuple[Path, ...], accepted: "list[Measurement]") -> "Policy":
    from ledgerd.network.client.trust import policy_of  # noqa: PLC0415

    return policy_of(roots or None, accepted)


def read_document(data: bytes) -> bytes:
    """Find the document in a file: bare, base64, or in a node's JSON answer.

    Raises: FormatError: None of these.
    """
    text = data.strip()
    try:
        if text[:1] == b"{":
            return base64.b64decode(json.loads(text)["raw"], validate=True)
        if text.isascii() and not text.startswith((b"\x84", b"\xd2")):
            return base64.b64decode(b"".join(text.split()), validate=True)
    except (ValueError, KeyError, TypeError):
        raise FormatError("the file holds neither a document, nor one in base64, nor a node's answer with one") from None
    return data


def _accepted(file: Path | None, registers: tuple[bytes | None, bytes | None, bytes | None]) -> "list[Measurement]":
    from ledgerd.ledger.attestation.measurement import Measurement, parse_measurement  # noqa: PLC0415

    lines: list[Measurement] = []
    if any(registers):
        pcr0, pcr1, pcr2 = registers
        if pcr0 is None or pcr1 is None or pcr2 is None:
            raise ConfigurationError("--pcr0, --pcr1 and --pcr2 count together: give all three")
        lines.append(parse_measurement(pcr0.hex(), pcr1.hex(), pcr2.hex()))
    if file is not None:
        lines.extend(read_measurements(file))
    if not lines:
        raise ConfigurationError("which image may run? Give --measurements FILE, or --pcr0, --pcr1 and --pcr2")
    return lines


def read_measurements(file: Path) -> "list[Measurement]":
    """Read the images in a file of measurements.

    Raises: ConfigurationError: There are none in it.
    """
    from ledgerd.ledger.attestation.measurement import parse_measurement  # noqa: PLC0415

    lines: list[Measurement] = []
    try:
        document = json.loads(file.read_bytes())
        document = document.get("Measurements", document) if isinstance(document, dict) else document
        for item in document if isinstance(document, list) else [document]:
            line = {name.lower(): value for name, value in item.items()}
            lines.append(parse_measurement(line["pcr0"], line["pcr1"], line["pcr2"], line.get("pcr8"), line.get("pcr3")))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigurationError(f"{file} holds no measurements: PCR0, PCR1 and PCR2 in hex, as JSON") from None
    return lines


def _registers(pcrs: dict[int, bytes]) -> dict[str, str]:
    return {f"pcr{index}": value.hex() for index, value in sorted(pcrs.items()) if any(value)}


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")
