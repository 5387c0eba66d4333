"""`ledgerd attestation`: look at attestation evidence, and verify it: a node's, made for our own nonce, or one in a file."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn
from urllib.parse import urlsplit

import click

from ledgerd.ledger.errors import ConfigurationError, LedgerdError
from ledgerd.node.cli import evidence as found
from ledgerd.node.cli.output import EXIT_FAILED, Ended, Output, command
from ledgerd.node.cli.parameters import DIGEST, EPOCH_MS, EPOCH_MS_MIN, FILE, HEX, INDEXED_PCR
from ledgerd.node.cli.service import ServiceOptions, service_options

if TYPE_CHECKING:
    from ledgerd.ledger.attestation.errors import AttestationError
    from ledgerd.ledger.attestation.evidence import Evidence
    from ledgerd.ledger.attestation.measurement import Measurement
    from ledgerd.ledger.attestation.nitro import Attestation

NONCE_SIZE_BYTES: Final = 32
IMAGE_REGISTERS: Final = (0, 1, 2)  # they count together
ANY_IMAGE: Final = "any: none was demanded, so this proves only who signed it"
STATEMENT_PATH: Final = "/node/attestations/self?nonce="


class Unanswered(LedgerdError):
    """An address gave no evidence."""

    code = "Unanswered"


class Wanted(NamedTuple):
    """What the options ask of evidence."""

    roots: tuple[Path, ...]
    lines: "list[Measurement]"
    pcrs: dict[int, bytes]
    nonce: bytes | None
    at_ms: int
    at_given: bool
    allow_debug: bool
    security_policy: Path | None


@command("show")
@click.argument("file", type=FILE, required=False)
@service_options
def attestation_show(output: Output, service: ServiceOptions, file: Path | None) -> None:
    """Show what a document says, unverified.

    FILE holds a Nitro document or an SNP report: binary, base64, or a node's JSON answer. Without FILE a node is asked for one.
    """
    if file is None:
        with service.client() as client:
            data = client.get(f"{STATEMENT_PATH}{'00' * NONCE_SIZE_BYTES}").body
    else:
        data = file.read_bytes()
    facts, people = _claims(found.find(data), _now_ms())
    output.record("attestation_show", {"verified": False, **(facts if output.json else people)})
    output.note("This is what the document says; `ledgerd attestation verify` checks who says it.")


@command("verify")
@click.argument("target", metavar="[FILE|URL]", required=False)
@click.option("--root", "roots", type=FILE, multiple=True, help="Accepted root, PEM; may be repeated.  [default: AWS's; AMD's for SNP]")
@click.option("--at", type=EPOCH_MS, metavar="EPOCH_MS", help="Judge a stored document as of this time.  [default: now]")
@click.option("--pcr", "pcrs", type=INDEXED_PCR, multiple=True, help="Value that a register must have; may be repeated.")
@click.option(
    "--measurements", type=FILE, help='Accepted images, JSON: {"pcr0": HEX, "pcr1": HEX, "pcr2": HEX}, or a list, or nitro-cli\'s output.'
)
@click.option("--nonce", type=HEX, help="Nonce that a stored document must hold. (A node is given one of ours.)")
@click.option("--allow-debug", is_flag=True, help="Do not refuse a debug enclave, which protects nothing from its host.")
@click.option("--endorsements", type=FILE, multiple=True, help="Certificates of an SNP report, PEM or DER; may be repeated.")
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

    FILE holds a Nitro document or an SNP report: binary, base64, or a node's JSON answer; it is judged offline, now or as of --at, and
    proves nothing about who runs today. URL is a node, https://HOST:PORT, which makes a document for a nonce of ours, or any address of a
    document. Without either, nodes of --url are asked; where an image is stated, the service certificate that they bind can be kept with
    --save.

    Exit status 0 if it is valid, 1 if it is refused, 2 for wrong use.
    """
    lines = [] if measurements is None else read_measurements(measurements)
    registers = dict(pcrs)
    if len(registers) != len(pcrs):
        raise ConfigurationError("--pcr names a register twice: give each once")
    node = _is_node(target)
    if (target is None or node) and (lines or registers or target is None):
        if at is not None or nonce is not None or allow_debug or endorsements or uvm_endorsement or security_policy:
            raise ConfigurationError(
                "--at, --nonce, --allow-debug and the options for SNP are for stored evidence: a node is judged now, by our nonce"
            )
        _verify_live(
            output, service._replace(urls=service.urls if target is None else (str(target),)), roots, lines, registers, genesis, save
        )
        return
    if genesis is not None or save is not None:
        raise ConfigurationError("--genesis and --save need a node and an image (--measurements, or --pcr 0, 1 and 2)")
    if node:
        if nonce is not None or at is not None:
            raise ConfigurationError("--nonce and --at are for stored documents: a node is judged now, by a nonce of ours")
        nonce = _random_nonce()
    assert target is not None, "otherwise it was live"
    data = _fetch(target, service.timeout, nonce if node else None) if _is_url(target) else _read(target)
    wanted = Wanted(roots, lines, registers, nonce, _now_ms() if at is None else at, at is not None, allow_debug, security_policy)
    _verify_stored(output, found.find(data, endorsements, uvm_endorsement), wanted)
    if node:
        output.note("No image was compared: state one by --pcr 0=HEX --pcr 1=HEX --pcr 2=HEX, or --measurements FILE")


def _verify_stored(output: Output, evidence: "Evidence", wanted: Wanted) -> None:
    from ledgerd.ledger.attestation.errors import AttestationError  # noqa: PLC0415
    from ledgerd.ledger.attestation.evidence import SNP  # noqa: PLC0415

    try:
        facts, people = (_judge_report if evidence.format == SNP else _judge_document)(evidence, wanted)
    except AttestationError as error:
        _refuse(output, error, evidence, wanted)
    judged = {"judged_at_ms": wanted.at_ms, **facts} if output.json else {"judged_at": found.moment(wanted.at_ms), **people}
    output.record("attestation_verify", {"valid": True, "format": evidence.format, **judged})
    if facts["simulated"]:
        output.note(found.SIMULATED)
    if facts["debug"]:
        output.note("DEBUG: accepted because of --allow-debug; its host can read it, so believe nothing of it")


def _judge_document(evidence: "Evidence", wanted: Wanted) -> tuple[dict[str, Any], dict[str, Any]]:
    from ledgerd.ledger.attestation import nitro, policy  # noqa: PLC0415

    if wanted.security_policy is not None:
        raise ConfigurationError("--security-policy is for SNP reports; a Nitro image is stated by --pcr or --measurements")
    attestation = nitro.verify(evidence.quote, found.nitro_roots(wanted.roots), at_ms=wanted.at_ms)
    if not wanted.allow_debug:
        policy.check_debug(attestation)
    if wanted.lines:
        policy.check_measurement(attestation, wanted.lines)
    policy.check_pcrs(attestation, wanted.pcrs)
    policy.check_module(attestation)
    if wanted.nonce is not None:
        policy.check_nonce(attestation, wanted.nonce)
    policy.check_age(attestation, wanted.at_ms, None)
    facts, people = found.nitro_facts(attestation, wanted.at_ms, attestation.simulated)
    root = "SIMULATED" if attestation.simulated else "AWS Nitro Enclaves, G1"
    stated = [index for index in IMAGE_REGISTERS if index in wanted.pcrs]
    checked = bool(wanted.lines) or len(stated) == len(IMAGE_REGISTERS)
    accepted = "as was demanded" if checked else f"any with {', '.join(f'this PCR{index}' for index in stated)}" if stated else ANY_IMAGE
    return (
        {"measurement_checked": checked, **facts, "root": attestation.root},
        {"accepted_image": accepted, **people, "root": f"{root} ({attestation.root})"},
    )


def _judge_report(evidence: "Evidence", wanted: Wanted) -> tuple[dict[str, Any], dict[str, Any]]:
    from ledgerd.ledger.attestation import snp, snp_policy, uvm  # noqa: PLC0415

    if wanted.pcrs or wanted.lines:
        raise ConfigurationError("--pcr and --measurements are for Nitro documents; an SNP report has --security-policy")
    attestation = snp.verify(evidence.quote, evidence.endorsements, at_ms=wanted.at_ms, arks=found.arks(wanted.roots))
    if not wanted.allow_debug:
        snp_policy.check_debug(attestation)
    snp_policy.check_migration(attestation)
    snp_policy.check_vmpl(attestation, snp_policy.VMPL_GUEST_MAX)
    endorsement = None if evidence.uvm_endorsement is None else uvm.verify(evidence.uvm_endorsement)
    if endorsement is not None:
        snp_policy.check_endorsement_is_of(attestation, endorsement)
    if wanted.security_policy is not None:
        snp_policy.check_host_data(attestation, [snp_policy.host_data_of(wanted.security_policy.read_bytes())])
    if wanted.nonce is not None:
        snp_policy.check_report_data(attestation, wanted.nonce)
    facts, people = found.snp_facts(attestation, attestation.debug, attestation.simulated)
    root = "SIMULATED" if attestation.simulated else f"AMD, {attestation.product}"
    publisher = None if endorsement is None else {"did": endorsement.did, "feed": endorsement.feed, "svn": endorsement.svn}
    tcb = {name: value for name, value in attestation.tcb._asdict().items() if value is not None}
    if wanted.security_policy is None:
        accepted = "any: no policy was demanded, so this proves only who signed it"
    elif endorsement is None:
        accepted = "any: nobody endorses what is to enforce the policy"
    else:
        accepted = "any that its endorser vouches for; containers as the policy says"
    programs = {"product": attestation.product, "tcb": tcb, "uvm_endorsement": publisher, "root": attestation.root}
    return (
        {"measurement_checked": wanted.security_policy is not None and endorsement is not None, **facts, **programs},
        {
            "accepted_image": accepted,
            **people,
            "endorsed_by": "nobody" if endorsement is None else f"{endorsement.feed}, version {endorsement.svn}, by {endorsement.did}",
            "firmware": str(attestation.tcb),
            "root": f"{root} ({attestation.root})",
        },
    )


def _claims(evidence: "Evidence", at_ms: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What evidence says of itself, proven or not."""
    from ledgerd.ledger.attestation import nitro, snp  # noqa: PLC0415
    from ledgerd.ledger.attestation.evidence import SNP  # noqa: PLC0415

    if evidence.format == SNP:
        report = snp.decode(evidence.quote)
        return found.snp_facts(report, snp.is_debug(report), None)
    return found.nitro_facts(nitro.decode(evidence.quote), at_ms, None)


def _refuse(output: Output, error: "AttestationError", evidence: "Evidence", wanted: Wanted) -> NoReturn:
    """Say why evidence is refused, and what it says of itself as far as it can be read; end with status 1."""
    from ledgerd.ledger.attestation.errors import AttestationError  # noqa: PLC0415

    try:
        facts, people = _claims(evidence, wanted.at_ms)
    except AttestationError:
        facts, people = {}, {}
    advice = error.advice
    if error.rule == "validity" and not wanted.at_given:
        made = facts.get("timestamp_ms")
        advice = (
            "evidence is judged as of now unless --at says otherwise: to judge it as of "
            + (
                "an earlier time, give --at EPOCH_MS"
                if made is None or made < EPOCH_MS_MIN
                else f"when it says it was made, give --at {made}"
            )
            + f"; otherwise {error.advice}"
        )
    judged = {"judged_at_ms": wanted.at_ms, **facts} if output.json else {"judged_at": found.moment(wanted.at_ms), **people}
    _record_refusal(output, error, advice, evidence.format, judged)


def _record_refusal(output: Output, error: "AttestationError", advice: str, kind: str, says: dict[str, Any]) -> NoReturn:
    message = f"attestation refused by rule {error.rule!r}: {error.seen}; expected {error.expected}; {advice}"
    details = {"seen": error.seen, "expected": error.expected, "advice": advice}
    if output.json:
        output.record(
            "attestation_verify", {"valid": False, "error": {"code": error.rule, "message": message, **details}, "format": kind, **says}
        )
    else:
        output.record("attestation_verify", {"valid": False, "rule": error.rule, **details, "format": kind, **says})
        if says:
            output.note("It was refused: what it says of itself is not proven.")
    raise Ended(EXIT_FAILED) from None


# Nodes.


def _verify_live(
    output: Output,
    service: ServiceOptions,
    roots: tuple[Path, ...],
    lines: "list[Measurement]",
    registers: dict[int, bytes],
    genesis: bytes | None,
    save: Path | None,
) -> None:
    from ledgerd.ledger.attestation.errors import AttestationError  # noqa: PLC0415
    from ledgerd.ledger.attestation.evidence import NITRO  # noqa: PLC0415

    try:
        attestation, fields = _live(service, roots, [*lines, *_line_of(registers, lines)], registers, genesis, save)
    except AttestationError as error:
        _record_refusal(output, error, error.advice, NITRO, {})
    facts, people = found.nitro_facts(attestation, _now_ms(), attestation.simulated)
    certificate = fields.pop("service_certificate")
    output.record(
        "attestation_verify",
        {
            "valid": True,
            "format": NITRO,
            **({"measurement_checked": True} if output.json else {"accepted_image": "as was demanded"}),
            **(facts if output.json else people),
            "root": attestation.root,
            **({**fields, "service_certificate": certificate} if output.json else fields),
        },
    )
    if attestation.simulated:
        output.note(found.SIMULATED)
    if save is None:
        output.note("--save FILE keeps the service certificate that this proves, to be used as --service-cert")


def _live(
    service: ServiceOptions,
    roots: tuple[Path, ...],
    accepted: "list[Measurement]",
    registers: dict[int, bytes],
    genesis: bytes | None,
    save: Path | None,
) -> tuple["Attestation", dict[str, Any]]:
    from ledgerd.ledger.attestation.policy import check_pcrs  # noqa: PLC0415
    from ledgerd.network.client import Budget, Client  # noqa: PLC0415

    if not accepted:
        raise ConfigurationError("which image may run? Give --measurements FILE, or --pcr 0=HEX --pcr 1=HEX --pcr 2=HEX")
    if not service.urls:
        raise ConfigurationError("which node? Give --url https://HOST:PORT, or a FILE")
    budget = Budget(seconds=service.timeout)
    with Client.trust(
        service.urls, roots=roots or None, measurements=accepted, genesis=None if genesis is None else genesis.hex(), budget=budget
    ) as client:
        assert client.attestation is not None, "trust sets it"
        attestation, configuration, identity = client.attestation.attestation, client.attestation.configuration, client.identity
    check_pcrs(attestation, registers)
    fields: dict[str, Any] = {"genesis": identity.genesis, "configuration": configuration, "service_certificate": identity.certificate}
    if save is not None:
        save.write_text(identity.certificate, encoding="ascii")
        fields["saved"] = str(save)
    return attestation, fields


def _line_of(registers: dict[int, bytes], lines: "list[Measurement]") -> "list[Measurement]":
    """An image stated by --pcr 0, 1 and 2, for nodes; beside --measurements registers are only compared."""
    from ledgerd.ledger.attestation.measurement import parse_measurement  # noqa: PLC0415

    if lines or not registers:
        return []
    if not {0, 1, 2} <= registers.keys():
        raise ConfigurationError("PCR0, PCR1 and PCR2 of an image count together: give --pcr for all three")
    return [parse_measurement(*(registers[index].hex() for index in range(3)))]


def _is_url(target: str) -> bool:
    return target.startswith(("https://", "http://"))


def _is_node(target: str | None) -> bool:
    return target is not None and _is_url(target) and urlsplit(target).path in ("", "/") and not urlsplit(target).query


def _fetch(url: str, timeout: float, nonce: bytes | None) -> bytes:
    """Get evidence from an address. Whose address it is does not matter: evidence speaks for itself.

    Raises: ConfigurationError: It is no address. Unanswered: There is no answer, or another one.
    """
    import httpx  # noqa: PLC0415

    from ledgerd.network.client.identity import ALPN_HTTP, unverified_context  # noqa: PLC0415

    address = url if nonce is None else f"{url.rstrip('/')}{STATEMENT_PATH}{nonce.hex()}"
    data = b""
    try:
        with (
            httpx.Client(verify=unverified_context(ALPN_HTTP), trust_env=False, timeout=timeout) as http,
            http.stream("GET", address) as response,
        ):
            for part in response.iter_bytes():
                data += part
                if len(data) > found.SIZE_BYTES_MAX:
                    break
            if response.status_code == 200:
                return data
            raise ConnectionError(f"it answered {response.status_code}")
    except httpx.InvalidURL as error:
        raise ConfigurationError(f"{url} is no address: {error}") from None
    except (httpx.HTTPError, ConnectionError) as error:
        raise Unanswered(f"no evidence from {url}: {error or type(error).__name__}; ask again, or give a FILE") from None


def _read(target: str) -> bytes:
    try:
        return Path(target).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot read {target}: {error.strerror}") from None


def read_measurements(file: Path) -> "list[Measurement]":
    """Read the images in a file of measurements.

    Raises: ConfigurationError: There are none in it.
    """
    from ledgerd.ledger.attestation.measurement import Measurement, parse_measurement  # noqa: PLC0415

    lines: list[Measurement] = []
    try:
        document = json.loads(file.read_bytes())
        document = document.get("Measurements", document) if isinstance(document, dict) else document
        for item in document if isinstance(document, list) else [document]:
            line = {name.lower(): value for name, value in item.items()}
            lines.append(parse_measurement(line["pcr0"], line["pcr1"], line["pcr2"], line.get("pcr8"), line.get("pcr3")))
    except (ValueError, KeyError, TypeError, AttributeError):
        lines = []
    if not lines:
        raise ConfigurationError(f"{file} holds no measurements: PCR0, PCR1 and PCR2 in hex, as JSON")
    return lines


def _random_nonce() -> bytes:
    import secrets  # noqa: PLC0415

    return secrets.token_bytes(NONCE_SIZE_BYTES)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
