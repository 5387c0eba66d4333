"""The Nitro security module's requests and answers as bytes, and one function for each request.

Sans-IO: whoever has the device (`enclave.runtime`: the ioctl on `/dev/nsm`, or a simulator's socket) offers one method, `Nsm.request`.
The device serves one request after the other and takes milliseconds for a document: call it from a worker thread, never from the loop.
A form that no device sends is a FormatError: then what answers is no security module.
Not here: what a document proves (`ledger.attestation`).
Source: the kernel's drivers/misc/nsm.c; aws-nitro-enclaves-nsm-api (serde's external tagging in CBOR).
"""

from typing import Any, ClassVar, Final, NamedTuple, Protocol

import cbor2

from ledgerd.ledger.attestation import items
from ledgerd.ledger.attestation.measurement import CONFIGURATION_PCR, configuration_pcr
from ledgerd.ledger.errors import FormatError, LedgerdError

REQUEST_SIZE_BYTES_MAX: Final = 0x1000  # the driver's own limits; it wants the whole response buffer to be there
RESPONSE_SIZE_BYTES_MAX: Final = 0x3000
FIELD_SIZE_BYTES_MAX: Final = 1_024  # each of user_data, nonce, public_key
PCR_COUNT: Final = 32
PCR_SIZE_BYTES: Final = 48

ERROR_CODES: Final = frozenset(
    {
        "Success",
        "InvalidArgument",
        "InvalidIndex",
        "InvalidResponse",
        "ReadOnlyIndex",
        "InvalidOperation",
        "BufferTooSmall",
        "InputTooLarge",
        "InternalError",
    }
)


class NsmError(LedgerdError):
    """The security module refuses a request.

    Attributes:
        reason: One of `ERROR_CODES`, for example `ReadOnlyIndex` for a locked PCR.
    """

    code: ClassVar[str] = "NsmError"

    def __init__(self, reason: str, request: str) -> None:
        super().__init__(f"the security module answers {request} with {reason}")
        self.reason = reason


class Nsm(Protocol):
    """The device, or what stands for it."""

    def request(self, request: bytes) -> bytes:
        """Carry one request there and its answer back; blocks. Raises OSError where the device is gone."""


class Description(NamedTuple):
    """What the device says of itself; `locked_pcrs` are the indices that no longer change."""

    version: tuple[int, int, int]
    module_id: str
    max_pcrs: int
    locked_pcrs: tuple[int, ...]
    digest: str


class Pcr(NamedTuple):
    """One PCR: whether it can still change, and its 48 bytes."""

    locked: bool
    value: bytes


def attestation(nsm: Nsm, *, user_data: bytes | None, nonce: bytes | None, public_key: bytes | None) -> bytes:
    """Have a document made that attests these three, each at most 1,024 bytes, None for absent; `public_key` is not empty.

    Raises: NsmError: The device refuses. FormatError: The answer is not one.
    """
    for name, value in (("user_data", user_data), ("nonce", nonce), ("public_key", public_key)):
        if value is not None and len(value) > FIELD_SIZE_BYTES_MAX:
            raise NsmError("InputTooLarge", f"Attestation with {len(value)} bytes of {name}")
    answer = _ask(nsm, "Attestation", {"user_data": user_data, "nonce": nonce, "public_key": public_key}, {"document": bytes})
    document: bytes = answer["document"]
    if not document:
        raise FormatError("the security module's answer holds an empty document")
    return document


def get_random(nsm: Nsm) -> bytes:
    """Return the device's random bytes, 256 of them; mix them in, do not use them alone.

    Raises: NsmError, FormatError: As in `attestation`.
    """
    random: bytes = _ask(nsm, "GetRandom", None, {"random": bytes})["random"]
    if not random:
        raise FormatError("the security module's answer holds no random bytes")
    return random


def describe(nsm: Nsm) -> Description:
    """Ask the device what it is.

    Raises: NsmError, FormatError: As in `attestation`.
    """
    fields = _ask(
        nsm,
        "DescribeNSM",
        None,
        {
            "version_major": int,
            "version_minor": int,
            "version_patch": int,
            "module_id": str,
            "max_pcrs": int,
            "locked_pcrs": list,
            "digest": str,
        },
    )
    locked = fields["locked_pcrs"]
    if any(type(index) is not int or index < 0 for index in locked):
        raise FormatError("the security module names a locked PCR that is no index")
    return Description(
        (fields["version_major"], fields["version_minor"], fields["version_patch"]),
        fields["module_id"],
        fields["max_pcrs"],
        tuple(locked),
        fields["digest"],
    )


def describe_pcr(nsm: Nsm, index: int) -> Pcr:
    """Read one PCR, index 0 to 31.

    Raises: NsmError, FormatError: As in `attestation`.
    """
    fields = _ask(nsm, "DescribePCR", {"index": index}, {"lock": bool, "data": bytes})
    return Pcr(fields["lock"], _pcr_value(fields["data"]))


def extend_pcr(nsm: Nsm, index: int, data: bytes) -> bytes:
    """Set PCR `index` (16 to 31 are the application's) to the SHA-384 of its value and `data`; return the new value.

    Raises: NsmError: `ReadOnlyIndex` for a locked one. FormatError: As in `attestation`.
    """
    return _pcr_value(_ask(nsm, "ExtendPCR", {"index": index, "data": data}, {"data": bytes})["data"])


def lock_pcr(nsm: Nsm, index: int) -> None:
    """Lock one PCR for the life of the enclave; only locked ones are attested.

    Raises: NsmError, FormatError: As in `attestation`.
    """
    _ask(nsm, "LockPCR", {"index": index}, None)


def lock_pcrs(nsm: Nsm, below: int) -> None:
    """Lock every PCR with an index below `below`.

    Raises: NsmError, FormatError: As in `attestation`.
    """
    _ask(nsm, "LockPCRs", {"range": below}, None)


def measure_configuration(nsm: Nsm, digest: bytes) -> None:
    """Measure the digest of this enclave's configuration into PCR16 and lock it: every document from then on attests it.

    Raises: NsmError: The device refuses; `ReadOnlyIndex` if PCR16 is locked. FormatError: Something else was measured there before.
    """
    if extend_pcr(nsm, CONFIGURATION_PCR, digest) != configuration_pcr(digest):
        raise FormatError("PCR16 was not zero before this enclave measured its configuration; boot an unchanged image anew")
    lock_pcr(nsm, CONFIGURATION_PCR)


def _ask(nsm: Nsm, name: str, arguments: dict[str, Any] | None, shape: dict[str, type] | None) -> dict[str, Any]:
    """Send one request and check its answer against `shape` (field name to exact type; None for an answer without fields)."""
    request = cbor2.dumps(name if arguments is None else {name: arguments})
    if len(request) > REQUEST_SIZE_BYTES_MAX:
        raise NsmError("InputTooLarge", f"{name} of {len(request)} bytes")
    response = nsm.request(request)
    if not 0 < len(response) <= RESPONSE_SIZE_BYTES_MAX:
        raise FormatError(f"the security module answers {name} with {len(response)} bytes")
    answer = items.read(response, shortest=False)  # QEMU's device writes its 16-bit numbers in full
    if shape is None and answer == name:
        return {}
    if type(answer) is dict and len(answer) == 1:
        reason = answer.get("Error")
        if type(reason) is str and reason in ERROR_CODES:
            raise NsmError(reason, name)
        fields = answer.get(name)
        if shape is not None and type(fields) is dict and all(type(fields.get(key)) is kind for key, kind in shape.items()):
            return fields
    raise FormatError(f"the security module answers {name} in a form that no device uses")


def _pcr_value(data: bytes) -> bytes:
    if len(data) != PCR_SIZE_BYTES:
        raise FormatError(f"the security module reports a PCR of {len(data)} bytes")
    return data
