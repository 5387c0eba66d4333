"""Attestation evidence as people have it: found in files and answers, and explained. Used by `ledgerd attestation`."""

import base64
import binascii
import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ledgerd.ledger.errors import ConfigurationError, FormatError

if TYPE_CHECKING:
    from ledgerd.ledger.attestation.certificates import Loaded
    from ledgerd.ledger.attestation.evidence import Evidence
    from ledgerd.ledger.attestation.nitro import Attestation, Document
    from ledgerd.ledger.attestation.roots import Root
    from ledgerd.ledger.attestation.snp import Report, SnpAttestation

SIZE_BYTES_MAX: Final = 1 << 20  # a document is below 17 KB, in base64 within JSON below 24 KB; whatever is larger is something else
SIMULATED: Final = "SIMULATED: the root is neither AWS's nor AMD's, so there may be no enclave at all"


def find(data: bytes, certificates: Iterable[Path] = (), uvm: Path | None = None) -> "Evidence":
    """Find evidence in the content of a file: bare, base64, or a node's JSON answer.

    Args:
        data: The content.
        certificates: Files with the certificates of an SNP report, PEM or DER, in any order.
        uvm: File with its UVM endorsement, bare or base64.
    Raises: FormatError: None of these. ConfigurationError: A file beside it holds something else.
    """
    from ledgerd.ledger.attestation.evidence import NITRO, SNP, Evidence  # noqa: PLC0415
    from ledgerd.ledger.attestation.snp import REPORT_SIZE_BYTES  # noqa: PLC0415

    kind, endorsements, endorsement = None, b"", None
    text = data.strip()
    try:
        if len(data) > SIZE_BYTES_MAX:
            raise ValueError
        if text[:1] == b"{" and len(data) != REPORT_SIZE_BYTES:
            answer = json.loads(text)
            kind = answer.get("format")
            data = _base64(answer["raw"])
            endorsements, endorsement = _base64(answer.get("endorsements", "")), answer.get("uvm_endorsements")
            endorsement = None if endorsement is None else _base64(endorsement)
        elif text.isascii() and not text.startswith((b"\x84", b"\xd2")) and len(data) != REPORT_SIZE_BYTES:
            data = _base64(b"".join(text.split()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise FormatError("there is no attestation evidence: neither bare, nor in base64, nor a node's answer with it") from None
    if kind not in (NITRO, SNP):
        kind = SNP if len(data) == REPORT_SIZE_BYTES else NITRO
    if kind == SNP:
        held = list(certificates)
        endorsements = _arranged(held) if held else endorsements
        if uvm is not None:
            endorsement = _bare(uvm.read_bytes())
    return Evidence(kind, data, endorsements, endorsement)


def _base64(text: str | bytes) -> bytes:
    return base64.b64decode(text, validate=True)


def _bare(data: bytes) -> bytes:
    try:
        return data if not data.isascii() else _base64(b"".join(data.split()))
    except binascii.Error:
        return data


def _arranged(files: list[Path]) -> bytes:
    """Certificates of an SNP report in the order in which they are judged: leaf, its issuer, the root."""
    from ledgerd.ledger.attestation import certificates  # noqa: PLC0415

    loaded: list[tuple[bytes, Loaded]] = []
    for file in files:
        data = file.read_bytes()
        try:
            ders = certificates.split_pem(data) if b"-----BEGIN" in data else [data]
            loaded.extend((der, certificates.load(der, serial_may_be_zero=True)) for der in ders)
        except ValueError as error:
            raise ConfigurationError(f"{file} holds {error}; give the certificates of the report, PEM or DER") from None
    roots = [der for der, own in loaded if certificates.is_named_by(own, own)]
    leaves = [
        der for der, own in loaded if der not in roots and not any(certificates.is_named_by(other, own) for _, other in loaded)
    ]
    others = [der for der, _ in loaded if der not in roots and der not in leaves]
    return b"".join(
        b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n" for der in (*leaves, *others, *roots)
    )


def arks(files: Iterable[Path]) -> dict[str, str]:
    """AMD's roots, or those in files instead: hex SHA-256 of each, and whose it is, by its name.

    Raises: ConfigurationError: A file holds no root of a processor.
    """
    from ledgerd.ledger.attestation import certificates  # noqa: PLC0415
    from ledgerd.ledger.attestation.snp import AMD_ARKS, GENOA, MILAN, TURIN  # noqa: PLC0415

    accepted = {}
    for file in files:
        try:
            (der,) = certificates.split_pem(file.read_bytes())
            name = certificates.load(der).name
        except ValueError as error:
            raise ConfigurationError(f"{file} is no root, one certificate in PEM: {error}") from None
        product = next((product for product in (MILAN, GENOA, TURIN) if f"CN=ARK-{product}" in name.split(",")), None)
        if product is None:
            raise ConfigurationError(f"{file} is the certificate of {name}, not of ARK-{MILAN}, ARK-{GENOA} or ARK-{TURIN}")
        accepted[sha256(der).hexdigest()] = product
    return accepted or dict(AMD_ARKS)


def nitro_roots(files: Iterable[Path]) -> tuple["Root", ...]:
    """AWS's root, or those in files instead.

    Raises: ConfigurationError: A file holds no root.
    """
    from ledgerd.ledger.attestation.roots import AWS_ROOT_G1, parse_roots  # noqa: PLC0415

    try:
        texts = [file.read_text(encoding="ascii") for file in files]
    except UnicodeDecodeError:
        raise ConfigurationError("a root is not PEM text; give each root's certificate, PEM") from None
    return parse_roots(texts) if texts else (AWS_ROOT_G1,)


# What it says, in two shapes: for programs, and for people.


def nitro_facts(said: "Document | Attestation", at_ms: int, simulated: bool | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a document says of itself: for programs and for people. `simulated` is None where nothing is proven."""
    pcrs = said.pcrs
    debug = not any(pcrs.get(0, b"")) or not any(pcrs.get(1, b""))
    instance, _, _ = said.module_id.rpartition("-enc")
    facts: dict[str, Any] = {
        "debug": debug,
        "simulated": simulated,
        "module_id": said.module_id,
        "timestamp_ms": said.timestamp_ms,
        "pcrs": {str(index): value.hex() for index, value in sorted(pcrs.items())},
        "nonce": _hex(said.nonce),
        "user_data": _hex(said.user_data),
        "public_key": _hex(said.public_key),
    }
    image = f"PCR0 {pcrs[0].hex()}" if 0 in pcrs and not debug else "not known: a debug enclave measures no image"
    people: dict[str, Any] = {
        "mode": "DEBUG: the host can read its console" if debug else "production",
        "image": image + (f", signed by the key of PCR8 {pcrs[8].hex()}" if any(pcrs.get(8, b"")) else "" if debug else ", not signed"),
        "instance": instance or said.module_id,
        "enclave": said.module_id,
        "role": f"the one with PCR3 {pcrs[3].hex()}" if any(pcrs.get(3, b"")) else "none",
        "made": f"{moment(said.timestamp_ms)}, {age(said.timestamp_ms, at_ms)}",
        "nonce": _hex(said.nonce),
        "user_data": _hex(said.user_data),
        "public_key": _hex(said.public_key),
        **{f"pcr{index}": value.hex() for index, value in sorted(pcrs.items()) if any(value)},
    }
    return facts, people


def snp_facts(said: "Report | SnpAttestation", debug: bool, simulated: bool | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a report says of itself: for programs and for people. `simulated` is None where nothing is proven."""
    facts: dict[str, Any] = {
        "debug": debug,
        "simulated": simulated,
        "module_id": None,
        "timestamp_ms": None,
        "pcrs": {},
        "chip_id": said.chip_id.hex(),
        "signing_key": said.signing_key,
        "vmpl": said.vmpl,
        "measurement": said.measurement.hex(),
        "host_data": said.host_data.hex(),
        "report_data": said.report_data.hex(),
    }
    people = {
        "mode": "DEBUG: the host can read and change its memory" if debug else "production",
        "guest": f"measurement {said.measurement.hex()}",
        "host_data": said.host_data.hex() if any(said.host_data) else "none: the host bound no container policy",
        "chip": said.chip_id.hex(),
        "signed_by": f"the {'chip' if said.signing_key == 'VCEK' else 'cloud'}'s key ({said.signing_key})",
        "privilege_level": said.vmpl,
        "report_data": said.report_data.hex(),
    }
    return facts, people


def moment(milliseconds: int) -> str:
    """A time for people."""
    if milliseconds >= 253_402_300_800_000:  # year 10000, which Python's calendar does not have
        return f"{milliseconds} ms since 1970"
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")


def age(made_ms: int, at_ms: int) -> str:
    """How old something is at a time, for people: the two largest units."""
    passed = timedelta(milliseconds=abs(at_ms - made_ms))
    seconds = passed.days * 86_400 + passed.seconds
    parts: list[str] = []
    for unit, size in (("year", 31_556_952), ("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1)):
        count, seconds = divmod(seconds, size)
        if count or parts:
            parts.append(f"{count} {unit}{'' if count == 1 else 's'}")
        if len(parts) == 2:
            break
    return f"{' '.join(parts) or 'less than a second'} {'before' if at_ms >= made_ms else 'AFTER'} the time of judgement"


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()
