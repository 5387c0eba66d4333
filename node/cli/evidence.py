"""Attestation evidence as people have it: found in files and answers, and explained. Used by `ledgerd attestation`."""

import base64
import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ledgerd.ledger.errors import ConfigurationError

if TYPE_CHECKING:
    from ledgerd.ledger.attestation.certificates import Loaded
    from ledgerd.ledger.attestation.evidence import Evidence
    from ledgerd.ledger.attestation.nitro import Attestation, Document
    from ledgerd.ledger.attestation.roots import Root
    from ledgerd.ledger.attestation.snp import Report, SnpAttestation

SIZE_BYTES_MAX: Final = 1 << 20  # a document is below 17 KB, in base64 within JSON below 24 KB; whatever is larger is something else
AMD_KDS: Final = "https://kdsintf.amd.com"
FINGERPRINT: Final = "SHA-256 of its DER"  # as `openssl x509 -noout -fingerprint -sha256` shows it; that of the PEM file is another
_HEX: Final = re.compile(rb"(?:0[xX])?((?:[0-9A-Fa-f]{2})+)")
_BASE64URL: Final = bytes.maketrans(b"-_", b"+/")
SIMULATED: Final = "SIMULATED: the root is neither AWS's nor AMD's, so there may be no enclave at all"


def find(data: bytes, certificates: Iterable[Path] = (), uvm: Path | None = None, roots: Iterable[Path] = ()) -> "Evidence":
    """Find evidence in the content of a file: bare, base64 of either alphabet, hex, or a node's JSON answer.

    Args:
        data: The content.
        certificates: Files with the certificates of an SNP report, PEM or DER, in any order.
        uvm: File with its UVM endorsement, bare or base64.
        roots: Files with accepted roots, PEM: one that is missing in `certificates` is taken from there.
    Raises: AttestationError: None of these, rule `form`, or of a kind that nobody here judges, rule `format`. ConfigurationError: A file
        beside it holds something else.
    """
    from ledgerd.ledger.attestation.errors import AttestationError  # noqa: PLC0415
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
            data = _decoded(b"".join(text.split()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise AttestationError(
            "form",
            f"{f'more than {SIZE_BYTES_MAX}' if len(data) > SIZE_BYTES_MAX else len(data)} bytes without attestation evidence",
            "a Nitro document or an SNP report: bare, in base64 or hex, or a node's JSON answer with it",
            "give the document as the enclave's security module, or the report as the processor's firmware, returned it",
        ) from None
    if kind is not None and kind not in (NITRO, SNP):
        raise AttestationError(
            "format", f"evidence of format {str(kind)[:64]!r}", f"{NITRO} or {SNP}", "nobody here judges it: believe nothing of it"
        )
    if kind is None:
        kind = SNP if len(data) == REPORT_SIZE_BYTES else NITRO
    if kind == SNP:
        held = list(certificates)
        endorsements = _arranged([*held, *roots]) if held else endorsements
        if uvm is not None:
            endorsement = _bare(read(str(uvm)))
    return Evidence(kind, data, endorsements, endorsement)


def read(target: str) -> bytes:
    """The content of a file; of what is too large to be evidence, enough to see that.

    Raises: ConfigurationError: It cannot be read.
    """
    try:
        with Path(target).open("rb") as file:
            return file.read(SIZE_BYTES_MAX + 1)
    except IsADirectoryError:
        raise ConfigurationError(f"{target} is a folder; a ledger is verified by `ledgerd ledger verify`, a node by its address") from None
    except OSError as error:
        raise ConfigurationError(f"cannot read {target}: {error.strerror}") from None


def _base64(text: str | bytes) -> bytes:
    return base64.b64decode(text, validate=True)


def _decoded(text: bytes) -> bytes:
    """Read hex or base64, the one for URLs too, with or without padding: base64 of evidence is never made of hex digits alone."""
    digits = _HEX.fullmatch(text)
    if digits is not None:
        return bytes.fromhex(digits[1].decode())
    bare = text.translate(_BASE64URL).rstrip(b"=")
    return _base64(bare + b"=" * (-len(bare) % 4))


def _bare(data: bytes) -> bytes:
    try:
        return data if not data.isascii() else _decoded(b"".join(data.split()))
    except ValueError:
        return data


def _arranged(files: list[Path]) -> bytes:
    """Certificates of an SNP report in the order in which they are judged: leaf, its issuer, the root.

    Others may lie beside them, such as those of another kind of processor; then the way begins at the one that certifies a chip.
    """
    from ledgerd.ledger.attestation import certificates  # noqa: PLC0415

    loaded: dict[bytes, Loaded] = {}
    for file in files:
        data = file.read_bytes()
        try:
            ders = certificates.split_pem(_bundle(data)) if b"-----BEGIN" in data or data[:1] != b"\x30" else [data]
            loaded |= {der: certificates.load(der, serial_may_be_zero=True) for der in ders}
        except ValueError as error:
            raise ConfigurationError(f"{file} holds {error}; give the certificates of the report, PEM or DER") from None
    left = dict(loaded)
    at = next((der for der, own in loaded.items() if set(own.common_names) & {"SEV-VCEK", "SEV-VLEK"}), None)
    chain = []
    while at is not None:
        chain.append(at)
        own = left.pop(at)
        at = next((der for der, other in left.items() if certificates.is_named_by(own, other)), None)
    return b"".join(b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n" for der in chain or loaded)


def _bundle(data: bytes) -> bytes:
    """A bundle of PEM; also as Azure's containers find it: JSON with the chip's certificate and AMD's, bare or in base64."""
    if b"-----BEGIN" in data and not data.lstrip().startswith(b"{"):
        return data
    try:
        value = json.loads(data if data.lstrip().startswith(b"{") else _base64(b"".join(data.split())))
        return f"{value['vcekCert']}\n{value['certificateChain']}".encode()
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError("neither certificates nor Azure's JSON with them") from None


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


def amd_addresses(quote: bytes) -> str:
    """Where AMD gives the certificates of a report, as advice."""
    from ledgerd.ledger.attestation.snp import TURIN, decode, tcb_of  # noqa: PLC0415

    report = decode(quote)
    product = report.cpu.product if report.cpu is not None else None
    shown = product or "PRODUCT"
    if report.signing_key == "VLEK":
        return f"the cloud gives the VLEK beside the report, AMD the rest: {AMD_KDS}/vlek/v1/{shown}/cert_chain"
    tcb = tcb_of(report.reported_tcb, shown)
    parts = {"fmc": tcb.fmc, "bl": tcb.boot_loader, "tee": tcb.tee, "snp": tcb.snp, "ucode": tcb.microcode}
    query = "&".join(f"{name}SPL={value:02}" for name, value in parts.items() if value is not None)
    chip = report.chip_id[: 8 if product == TURIN else None].hex()
    return f"for this report: {AMD_KDS}/vcek/v1/{shown}/{chip}?{query}, and {AMD_KDS}/vcek/v1/{shown}/cert_chain; by --endorsements"


def nitro_root(attestation: "Attestation") -> str:
    """A document's root, for people: whose it is, and its fingerprint."""
    return f"{'SIMULATED' if attestation.simulated else 'AWS Nitro Enclaves, G1'} ({FINGERPRINT} {attestation.root})"


def snp_root(attestation: "SnpAttestation") -> str:
    """A report's root, for people: whose it is, and its fingerprint."""
    return f"{'SIMULATED' if attestation.simulated else f'AMD, {attestation.product}'} ({FINGERPRINT} {attestation.root})"


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
