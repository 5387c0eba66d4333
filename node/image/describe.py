"""What can be said of an image file without believing it: what is measured, what is not, who signed it.

What is shown as `unmeasured` can be changed by anybody who passes the file on; the PCRs stay the same.
"""

from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final

from ledgerd.ledger.attestation.measurement import Measurement, certificate_pcr
from ledgerd.ledger.errors import IntegrityError
from ledgerd.node.image import inputs, signature
from ledgerd.node.image.eif import Eif, Kind
from ledgerd.node.image.errors import EifError

UNMEASURED: Final = "metadata and the memory and CPUs asked for are measured by nobody: whoever passed the file on may have written them"
UNSIGNED: Final = "not signed: PCR8 will be zero, so only PCR0, 1 and 2 say what runs"
SIGNED: Final = "PCR8 says who signed, and not what: an allow-list needs PCR0, 1 and 2 too, or it accepts every image of that signer"
_NAME_CHARACTERS_MAX: Final = 200


def describe(image: Eif, now: datetime) -> tuple[dict[str, Any], list[str]]:
    """Say what an image is: fields, and warnings for people.

    Args:
        now: To tell whether the certificate is valid; in UTC.
    Raises: EifError: There is a signature section of an unknown form.
    """
    measured = image.measure()
    warnings = [UNMEASURED]
    signer: dict[str, Any] | None = None
    pcr8 = None
    if image.signature is None:
        warnings.append(UNSIGNED)
    else:
        signer, pcr8, problems = _signer(image.signature, measured.pcr0, now)
        warnings += [SIGNED, *problems]
    if not image.aarch64:
        warnings += inputs.warnings(image.all(Kind.KERNEL)[0], image.all(Kind.RAMDISK)[0])
    if len(image.all(Kind.RAMDISK)) == 1:
        warnings.append("one ramdisk only: there is nothing but the platform's, and PCR2 measures nothing")
    if any(image.reserved):
        warnings.append(
            f"reserved header fields are not zero ({image.reserved[0]:#x}, {image.reserved[1]:#x}); others may see something in them"
        )
    fields = {
        "version": image.version,
        "architecture": "aarch64" if image.aarch64 else "x86_64",
        "crc32": f"{image.checksum:08x}",
        "command_line": image.command_line,
        "pcr0": measured.pcr0.hex(),
        "pcr1": measured.pcr1.hex(),
        "pcr2": measured.pcr2.hex(),
        "pcr8": None if pcr8 is None else pcr8.hex(),
        "signer": signer,
        "sections": [
            {
                "type": section.kind.name.lower(),
                "offset": section.offset,
                "bytes": len(section.data),
                "sha256": sha256(section.data).hexdigest(),
                "measured": section.kind in (Kind.KERNEL, Kind.COMMAND_LINE, Kind.RAMDISK),
            }
            for section in image.sections
        ],
        "unmeasured": {"memory_bytes": image.memory_bytes, "cpus": image.cpus, "metadata": image.metadata},
    }
    return fields, warnings


def registers(image: Eif) -> Measurement:
    """What an enclave that runs this image is measured as: PCR0, 1 and 2, and PCR8 if the image is signed.

    Raises: EifError: There is a signature section of an unknown form. IntegrityError: The signature does not verify, so nothing runs it.
    """
    measured = image.measure()
    if image.signature is None:
        return measured
    found = signature.read(image.signature)
    signature.verify(found, measured.pcr0)
    return measured._replace(pcr8=certificate_pcr(found.certificate_der))


def _signer(section: bytes, pcr0: bytes, now: datetime) -> tuple[dict[str, Any], bytes, list[str]]:
    """Who signed, what PCR8 will be, and what is wrong with it."""
    found = signature.read(section)
    certificate = found.certificate
    problems: list[str] = []
    try:
        signature.verify(found, pcr0)
        valid = True
    except IntegrityError as error:
        valid = False
        problems.append(f"the signature does not verify, so the platform will not start it: {error}")
    try:
        start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        subject = certificate.subject.rfc4514_string()[:_NAME_CHARACTERS_MAX]
    except Exception as error:  # these fields are parsed now only; a name of a strange kind is a TypeError, for one
        raise EifError("signature", f"its certificate cannot be read: {str(error)[:100]}") from None
    if not start <= now <= end:
        problems.append(f"the certificate is valid from {_day(start)} to {_day(end)} only; the platform will not start the image now")
    der = found.certificate_der
    fields = {
        "verified": valid,
        "subject": subject,
        "not_before": start.isoformat(),
        "not_after": end.isoformat(),
        "certificate_sha256": sha256(der).hexdigest(),
    }
    return fields, certificate_pcr(der), problems


def _day(time: datetime) -> str:
    return time.astimezone(UTC).date().isoformat()
