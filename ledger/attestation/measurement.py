"""The arithmetic of PCRs: how the platform measures an image, and what an application extends.

Every PCR is 48 bytes, starts at zero and changes only by `extend`. No image is read here: callers give bytes.
Source: AWS's description of PCRs, checked against genuine documents and a second implementation of the device.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256, sha384
from typing import Any, Final, NamedTuple, TypeAlias

from ledgerd.ledger import cbor
from ledgerd.ledger.errors import ConfigurationError, FormatError

PCR_SIZE_BYTES: Final = 48
PCR_COUNT: Final = 32
ZERO: Final = bytes(PCR_SIZE_BYTES)
ROLE_PCR: Final = 3
CONFIGURATION_PCR: Final = 16  # the first that is the application's

Bytes: TypeAlias = bytes | memoryview


def extend(value: bytes, data: bytes) -> bytes:
    """Return the PCR's next value: SHA-384 of its 48-byte value and of `data`, which is not hashed before."""
    return sha384(value + data).digest()


def ext(data: bytes) -> bytes:
    """Measure one section as the image loader does: a zero PCR extended once by the SHA-384 of `data`."""
    return extend(ZERO, sha384(data).digest())


class Measurement(NamedTuple):
    """One line of an allow-list: what must run. The three PCRs count together, since PCR0 alone does not fix where sections end.

    Attributes:
        pcr0: Whole image, 48 bytes.
        pcr1: Kernel, command line and first ramdisk (the platform's), 48 bytes.
        pcr2: Other ramdisks (ours), 48 bytes.
        pcr8: Signing certificate, 48 bytes; None accepts any.
        pcr3: Role of the instance, 48 bytes; None accepts any.
    """

    pcr0: bytes
    pcr1: bytes
    pcr2: bytes
    pcr8: bytes | None = None
    pcr3: bytes | None = None


def parse_measurement(pcr0: str, pcr1: str, pcr2: str, pcr8: str | None = None, pcr3: str | None = None) -> Measurement:
    """Read a line of an allow-list from hex.

    Raises: ConfigurationError: A value is not 96 hex characters, or PCR0 or PCR1 is zero, which only a debug enclave shows.
    """
    line = Measurement(
        _parse_pcr("pcr0", pcr0),
        _parse_pcr("pcr1", pcr1),
        _parse_pcr("pcr2", pcr2),
        None if pcr8 is None else _parse_pcr("pcr8", pcr8),
        None if pcr3 is None else _parse_pcr("pcr3", pcr3),
    )
    if ZERO in (line.pcr0, line.pcr1):
        raise ConfigurationError("PCR0 or PCR1 of a measurement is zero: that is a debug enclave, and those are never admitted")
    return line


def shown_triples(measurements: Iterable[tuple[bytes, bytes, bytes]]) -> list[list[str]]:
    """PCR0, PCR1, PCR2 of each in hex, sorted, each once: the form in which a node says which images it was told to accept."""
    return [list(triple) for triple in sorted({(pcr0.hex(), pcr1.hex(), pcr2.hex()) for pcr0, pcr1, pcr2 in measurements})]


def read_triples(shown: Any) -> list[tuple[bytes, bytes, bytes]]:
    """Read what `shown_triples` made.

    Raises: FormatError: It is anything that `shown_triples` could not have made, or empty.
    """
    try:
        read = [(bytes.fromhex(pcr0), bytes.fromhex(pcr1), bytes.fromhex(pcr2)) for pcr0, pcr1, pcr2 in shown]
    except (TypeError, ValueError):
        read = []
    if not read or shown_triples(read) != shown or not all(len(pcr) == PCR_SIZE_BYTES for triple in read for pcr in triple):
        raise FormatError("accepted measurements are not a sorted list of PCR0, PCR1 and PCR2 in hex; the node is of another version")
    return read


def _parse_pcr(name: str, text: str) -> bytes:
    if len(text) != 2 * PCR_SIZE_BYTES or not set(text) <= set("0123456789abcdefABCDEF"):
        raise ConfigurationError(f"{name} of a measurement is {text[:100]!r}; give the 96 hex characters that the image's builder printed")
    return bytes.fromhex(text)


def image_pcrs(kernel: Bytes, command_line: Bytes, ramdisks: Sequence[Bytes], certificate: bytes | None = None) -> Measurement:
    """Measure an image's sections, data without headers; the first ramdisk is the platform's. Metadata and signature do not count.

    Args:
        kernel: As the image holds it.
        command_line: The same.
        ramdisks: All of them, in the image's order.
        certificate: DER of the one that signed the image; None for an unsigned image, whose PCR8 is zero and is left out here.
    """
    boot = (kernel, command_line, *ramdisks[:1])
    whole, platform, ours = _ext_all((*boot, *ramdisks[1:])), _ext_all(boot), _ext_all(ramdisks[1:])
    return Measurement(whole, platform, ours, None if certificate is None else certificate_pcr(certificate))


def _ext_all(parts: Sequence[Bytes]) -> bytes:
    """`ext` of the parts' concatenation, which is not made."""
    digest = sha384()
    for part in parts:
        digest.update(part)
    return extend(ZERO, digest.digest())


def role_pcr(role_arn: str) -> bytes:
    """PCR3: measures the name of the instance's IAM role (ASCII, not hashed before); zero for an instance without one."""
    return extend(ZERO, role_arn.encode())


def instance_pcr(instance_id: str) -> bytes:
    """PCR4: measures the instance's name, `i-...` (ASCII, not hashed before)."""
    return extend(ZERO, instance_id.encode())


def certificate_pcr(certificate: bytes) -> bytes:
    """PCR8: measures the DER of the certificate that signed the image."""
    return ext(certificate)


def configuration_digest(configuration: Any) -> bytes:
    """The 32 bytes that stand for the configuration that others rely on: SHA-256 of its deterministic CBOR.

    Raises: UsageError: It holds what deterministic CBOR has not, such as a float.
    """
    return sha256(cbor.encode(configuration)).digest()


def configuration_pcr(digest: bytes) -> bytes:
    """PCR16: measures that digest; the enclave extends it once, when it learns its configuration, and locks it."""
    return extend(ZERO, digest)
