"""Judges stored evidence as the options ask, and explains the verdict, or the refusal, to people and programs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from ledgerd.ledger.errors import ConfigurationError, LedgerdError
from ledgerd.node.cli import evidence as found
from ledgerd.node.cli import recognition
from ledgerd.node.cli.output import EXIT_FAILED, Ended, Output
from ledgerd.node.cli.parameters import EPOCH_MS_MIN

if TYPE_CHECKING:
    from ledgerd.ledger.attestation.errors import AttestationError
    from ledgerd.ledger.attestation.evidence import Evidence
    from ledgerd.ledger.attestation.measurement import Measurement

IMAGE_REGISTERS: Final = (0, 1, 2)  # they count together
ANY_IMAGE: Final = "any: none was demanded, so this proves only who signed it"
SCHEMA: Final = "attestation_verify"
SAID: Final = ("debug", "module_id", "timestamp_ms", "pcrs")  # there for programs in every verdict; null where nothing could be read


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


def verify_stored(output: Output, data: bytes, endorsements: Sequence[Path], uvm_endorsement: Path | None, wanted: Wanted) -> None:
    """Judge what a file holds, and say the verdict; end with status 1 if it is refused.

    Raises: ConfigurationError: An option is for another kind of evidence.
    """
    from ledgerd.ledger.attestation.errors import AttestationError  # noqa: PLC0415
    from ledgerd.ledger.attestation.evidence import SNP  # noqa: PLC0415

    evidence = None
    try:
        evidence = found.find(data, endorsements, uvm_endorsement, wanted.roots)
        facts, people = (_judge_report if evidence.format == SNP else _judge_document)(evidence, wanted)
    except AttestationError as error:
        _refuse(output, error, data, evidence, wanted)
    judged = {"judged_at_ms": wanted.at_ms, **facts} if output.json else {"judged_at": found.moment(wanted.at_ms), **people}
    output.record(SCHEMA, {"valid": True, "format": evidence.format, **judged})
    if facts["simulated"]:
        output.note(found.SIMULATED)
    if facts["debug"]:
        output.note("DEBUG: accepted because of --allow-debug; its host can read it, so believe nothing of it")


def claims(data: bytes, at_ms: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What evidence in a file says of itself, proven or not: for programs and for people.

    Raises: AttestationError: There is none.
    """
    from ledgerd.ledger.attestation.errors import AttestationError  # noqa: PLC0415

    try:
        return _claims(found.find(data), at_ms)
    except AttestationError as error:
        advice = recognition.advice(data)
        if advice is None:
            raise
        raise AttestationError(error.rule, error.seen, error.expected, advice) from None


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
    stated = [index for index in IMAGE_REGISTERS if index in wanted.pcrs]
    checked = bool(wanted.lines) or len(stated) == len(IMAGE_REGISTERS)
    accepted = "as was demanded" if checked else f"any with {', '.join(f'this PCR{index}' for index in stated)}" if stated else ANY_IMAGE
    return (
        {"measurement_checked": checked, **facts, "root": attestation.root},
        {"accepted_image": accepted, **people, "root": found.nitro_root(attestation)},
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
            "root": found.snp_root(attestation),
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


def _refuse(output: Output, error: "AttestationError", data: bytes, evidence: "Evidence | None", wanted: Wanted) -> NoReturn:
    """Say why evidence is refused, and what it says of itself as far as it can be read; end with status 1."""
    from ledgerd.ledger.attestation.errors import AttestationError  # noqa: PLC0415
    from ledgerd.ledger.attestation.evidence import SNP  # noqa: PLC0415

    facts: dict[str, Any] = {}
    people: dict[str, Any] = {}
    advice = error.advice
    try:
        if evidence is not None:
            facts, people = _claims(evidence, wanted.at_ms)
    except AttestationError:
        pass
    if not facts:  # it cannot be read at all: so what is it?
        advice = recognition.advice(data) or advice
    elif error.rule == "validity":
        advice = _advice_on_time(facts["timestamp_ms"], wanted, advice)
    elif evidence is not None and evidence.format == SNP and error.rule in ("form", "root", "chain", "chip", "tcb"):
        advice = f"{advice}; {found.amd_addresses(evidence.quote)}"
    kind = evidence.format if evidence is not None and facts else None
    judged = {"judged_at_ms": wanted.at_ms, **facts} if output.json else {"judged_at": found.moment(wanted.at_ms), **people}
    record_refusal(output, AttestationError(error.rule, error.seen, error.expected, advice), kind, judged, is_said=bool(facts))


def _advice_on_time(made_ms: int | None, wanted: Wanted, advice: str) -> str:
    if wanted.at_given:
        if wanted.at_ms < EPOCH_MS_MIN:
            return f"--at counts milliseconds since 1970; did you give seconds? Then give --at {wanted.at_ms * 1000}"
        return advice
    then = "an earlier time, give --at EPOCH_MS"
    if made_ms is not None and made_ms >= EPOCH_MS_MIN:
        then = f"when it says it was made, give --at {made_ms}"
    return f"evidence is judged as of now unless --at says otherwise: to judge it as of {then}; otherwise {advice}"


def record_refusal(output: Output, error: LedgerdError, kind: str | None, says: dict[str, Any], *, is_said: bool = False) -> NoReturn:
    """Say a refusal, and end with status 1.

    Args:
        kind: Format of the evidence; None if that is not known.
        says: What else is to be said.
        is_said: Part of that is what the evidence says of itself.
    """
    rule = getattr(error, "rule", error.code)
    details = {name: getattr(error, name) for name in ("seen", "expected", "advice") if hasattr(error, name)}
    if output.json:
        refusal = {"valid": False, "error": {"code": rule, "message": str(error), **details}, "format": kind}
        output.record(SCHEMA, {**refusal, **dict.fromkeys(SAID), **says})
    else:
        output.record(SCHEMA, {"valid": False, "rule": rule, **(details or {"reason": str(error)}), "format": kind, **says})
        if is_said:
            output.note("It was refused: what it says of itself is not proven.")
    raise Ended(EXIT_FAILED) from None
