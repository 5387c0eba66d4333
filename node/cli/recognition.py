"""Says what a file is that holds no attestation evidence, and what reads it: a mistaken file is the commonest mistake.

A look at its first bytes, nothing more: what is said here is advice, and proves nothing.
"""

import json
import re
from typing import Any, Final

_JSON_BYTES_MAX: Final = 1 << 20
_LOOKED_AT_BYTES: Final = 64
_JWT: Final = re.compile(rb"eyJ[\w-]+\.[\w-]+\.[\w-]*\s*")
_PEM: Final = re.compile(rb"\s*-----BEGIN ([A-Z0-9 ]{1,40})-----")
_ENVELOPED_DATA: Final = bytes.fromhex("06092a864886f70d010703")
_SIGN1_TAG: Final = 0xD2
_X5CHAIN: Final = 33
_SNP_VERSIONS: Final = range(1, 16)

# Begins with; what it is, and what to do with it.
_BEGINNINGS: Final = (
    (b".eif", "an enclave image: `ledgerd image describe FILE` reads it"),
    (b"PK\x03\x04", "a ZIP archive: unpack it, and give what is in it"),
    (b"\x1f\x8b", "compressed by gzip: unpack it"),
    (b"HCLA", "the report of an Azure virtual machine's TPM: the SNP report in it begins at byte 32 and has 1,184"),
    (b"\x03\x00\x02\x00", "an SGX quote, and nobody here judges SGX: what is read are Nitro documents and SNP reports"),
    (b"\x04\x00\x02\x00\x00\x00", "an SGX quote, and nobody here judges SGX: what is read are Nitro documents and SNP reports"),
    (b"\x04\x00\x02\x00\x81\x00", "a TDX quote, and nobody here judges TDX: what is read are Nitro documents and SNP reports"),
    (b"<", "a page or XML, not evidence: was the address right, and did it answer with the document?"),
)
# A key that JSON of each kind has.
_OBJECTS: Final = (
    ("leaf_components", "a receipt: `ledgerd receipt verify FILE --service-cert FILE` reads it"),
    ("pcr0", "a list of measurements, which belongs to --measurements"),
    ("Measurements", "a list of measurements, which belongs to --measurements"),
    ("Statement", "a key policy, of which nothing is to be verified here"),
    ("bomFormat", "an image's bill of materials, of which nothing is to be verified here"),
    ("error", "a node's answer that something went wrong, not its evidence"),
)
_CERTIFICATES: Final = (
    "certificates: --root takes a root, --endorsements those of an SNP report; a service's is what receipts and ledgers are verified by"
)


def advice(data: bytes) -> str | None:
    """Say what a file is and what to do with it; None if it is nothing known here."""
    kind = _kind(data)
    return None if kind is None else f"this looks like {kind}"


def _kind(data: bytes) -> str | None:
    if (named := _PEM.match(data)) is not None:
        if b"CERTIFICATE" in named[1] and b"REQUEST" not in named[1]:
            return _CERTIFICATES
        return f"PEM of a {named[1].decode().lower()}, of which nothing is to be verified here"
    for beginning, kind in _BEGINNINGS:
        if data.startswith(beginning):
            return kind
    if data[:_LOOKED_AT_BYTES].lstrip()[:1] in (b"{", b"["):
        return _json(data)
    if _JWT.fullmatch(data):
        return "a JSON web token, such as an attestation service's: give the document or report itself, which is judged here"
    if _ENVELOPED_DATA in data[:_LOOKED_AT_BYTES]:
        return "an answer of KMS to an attested call: only the enclave that asked can open it"
    return _cose(data) or _near_report(data) or (_CERTIFICATES if data[:1] == b"\x30" else None)


def _json(data: bytes) -> str:
    value: Any = None
    if len(data) <= _JSON_BYTES_MAX:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            return "JSON that is damaged"
    names = set(value if isinstance(value, dict) else ())
    return next((kind for name, kind in _OBJECTS if name in names), "JSON without the evidence that a node's answer has in `raw`")


def _cose(data: bytes) -> str | None:
    """A COSE_Sign1 of another kind, by its protected header."""
    from ledgerd.ledger import cose  # noqa: PLC0415
    from ledgerd.ledger.attestation import items  # noqa: PLC0415
    from ledgerd.ledger.errors import FormatError  # noqa: PLC0415

    rest = data[1:] if data[:1] == bytes((_SIGN1_TAG,)) else data
    if rest[:1] != b"\x84" or len(rest) < 4:
        return None
    head = rest[1]
    size, at = (head - 0x40, 2) if 0x40 <= head < 0x58 else (rest[2], 3) if head == 0x58 else (int.from_bytes(rest[2:4], "big"), 4)
    try:
        protected = items.read(rest[at : at + size], shortest=False, tags=frozenset({1}))
    except FormatError:
        return None
    labels = set(protected if isinstance(protected, dict) else ())
    if cose.HEADER_VDS in labels:
        return "a receipt: `ledgerd receipt verify FILE --service-cert FILE` reads it"
    if _X5CHAIN in labels:
        return "a UVM endorsement: give the SNP report for which it vouches, and this by --uvm-endorsement"
    return None


def _near_report(data: bytes) -> str | None:
    """The driver's answer, of which the report is a part; or a report of another length."""
    from ledgerd.ledger.attestation.snp import REPORT_SIZE_BYTES  # noqa: PLC0415

    if len(data) >= 32 + REPORT_SIZE_BYTES and not any(data[8:32]) and int.from_bytes(data[32:36], "little") in _SNP_VERSIONS:
        return "the SNP driver's whole answer: the report in it begins at byte 32 and has 1,184 (`tail -c +33 FILE | head -c 1184`)"
    if REPORT_SIZE_BYTES // 2 < len(data) < 2 * REPORT_SIZE_BYTES and int.from_bytes(data[:4], "little") in _SNP_VERSIONS:
        return (
            f"an SNP report with something missing or added: it has {len(data)} bytes, a report 1,184; certificates go into --endorsements"
        )
    return None
