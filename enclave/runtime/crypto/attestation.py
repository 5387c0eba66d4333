"""Attestation reports of AMD's processors, proven and shown in CCF's form; and versions of their firmware.

Proof is `ledger.attestation`'s. In a decision, which has no time, the dates of certificates are not judged (see `certificates`).
Source: AMD 56860, ATTESTATION_REPORT, for the fields that `ledger.attestation.snp` has no use for; CCF documentation, `snp_attestation`.
"""

from collections.abc import Mapping
from typing import Any, Final

from ledgerd.enclave.runtime.crypto.arguments import Function, Kind, RefusalError, Surroundings, octets, text
from ledgerd.ledger.attestation import certificates, snp, uvm
from ledgerd.ledger.attestation.errors import AttestationError
from ledgerd.ledger.errors import ConfigurationError

_REASON_LENGTH_MAX: Final = 1_000
_END: Final = b"-----END CERTIFICATE-----"

# Whose word CCF takes for a guest's measurement where nobody says otherwise: publisher and feed, and the least version.
UVM_ROOTS: Final[Mapping[tuple[str, str], int]] = {
    ("did:x509:0:sha256:I__iuL25oXEVFdTP_aBLx_eT1RPHbCQ_ECBQfYZpt9s::eku:1.3.6.1.4.1.311.76.59.1.2", "ContainerPlat-AMD-UVM"): 100,
    ("did:x509:0:sha256:I__iuL25oXEVFdTP_aBLx_eT1RPHbCQ_ECBQfYZpt9s::eku:1.3.6.1.4.1.311.76.59.1.5", "ConfAKS-AMD-UVM"): 1,
}

# Where parts of a report begin, and how long they are.
_NUMBERS: Final = {
    "version": (0x00, 4),
    "guest_svn": (0x04, 4),
    "vmpl": (0x30, 4),
    "signature_algo": (0x34, 4),
    "cpuid_fam_id": (0x188, 1),
    "cpuid_mod_id": (0x189, 1),
    "cpuid_step": (0x18A, 1),
    "current_build": (0x1E8, 1),
    "current_minor": (0x1E9, 1),
    "current_major": (0x1EA, 1),
    "committed_build": (0x1EC, 1),
    "committed_minor": (0x1ED, 1),
    "committed_major": (0x1EE, 1),
}
_OCTETS: Final = {
    "family_id": (0x10, 16),
    "image_id": (0x20, 16),
    "report_data": (0x50, 64),
    "measurement": (0x90, 48),
    "host_data": (0xC0, 32),
    "id_key_digest": (0xE0, 48),
    "author_key_digest": (0x110, 48),
    "report_id": (0x140, 32),
    "report_id_ma": (0x160, 32),
    "chip_id": (0x1A0, 64),
}
_TCBS: Final = {"platform_version": 0x38, "reported_tcb": 0x180, "committed_tcb": 0x1E0, "launch_tcb": 0x1F0}
_POLICY_AT, _PLATFORM_AT, _FLAGS_AT, _SIGNATURE_AT = 0x08, 0x40, 0x48, 0x2A0
_SIGNATURE_PART_BYTES: Final = 72


def _verify_snp_attestation(
    where: Surroundings, evidence: Any, endorsements: Any, uvm_endorsements: Any = None, endorsed_tcb: Any = None
) -> dict[str, Any]:
    report = octets(evidence, "evidence")
    chain = octets(endorsements, "endorsements", snp.ENDORSEMENTS_SIZE_BYTES_MAX)
    endorsement = None if uvm_endorsements is None else octets(uvm_endorsements, "uvm_endorsements", uvm.SIZE_BYTES_MAX)
    wanted = None if endorsed_tcb is None else text(endorsed_tcb, "endorsed_tcb", 16)
    # The first three texts are CCF's, by which its own tests know the cases.
    if len(report) != snp.REPORT_SIZE_BYTES:
        raise RefusalError(f"attestation report is not of expected size {snp.REPORT_SIZE_BYTES}: {len(report)}", Kind.RANGE)
    if (count := chain.count(_END)) != snp.CHAIN_LENGTH:
        raise RefusalError(f"Expected {snp.CHAIN_LENGTH} endorsement certificates but got {count}", Kind.RANGE)
    try:
        proven = snp.verify(report, chain, at_ms=where.time_ms or _when_all_begin(chain))
        found: dict[str, Any] = {"attestation": _shown(report)}
        if wanted is not None and wanted.lower() != found["attestation"]["reported_tcb"]:
            reported = found["attestation"]["reported_tcb"]
            raise RefusalError(f"endorsed TCB {wanted} does not match reported TCB {reported}", Kind.RANGE)
        if endorsement is not None:
            found["uvm_endorsements"] = _endorsed(uvm.verify(endorsement), proven.measurement)
    except AttestationError as error:
        raise RefusalError(str(error)[:_REASON_LENGTH_MAX], Kind.RANGE) from None
    return found


def _when_all_begin(chain: bytes) -> int:
    """The first time at which every certificate of a chain has begun, milliseconds; 0 for what is no chain, which is refused anyway."""
    try:
        ders = certificates.split_pem(chain)
        return max((certificates.load(der, serial_may_be_zero=True).begins_s for der in ders), default=0) * 1000
    except ValueError:
        return 0


def _endorsed(endorsement: uvm.UvmEndorsement, measurement: bytes) -> dict[str, str]:
    if endorsement.measurement != measurement:
        raise RefusalError(
            f"the report's measurement is {measurement.hex()}, the UVM endorsement's {endorsement.measurement.hex()}", Kind.RANGE
        )
    least = UVM_ROOTS.get((endorsement.did, endorsement.feed))
    if least is None or endorsement.svn < least:
        raise RefusalError(
            f"UVM endorsements did {endorsement.did[:200]}, feed {endorsement.feed[:100]}, svn {endorsement.svn} do not match any of the "
            f"known UVM roots of trust",
            Kind.RANGE,
        )
    return {"did": endorsement.did, "feed": endorsement.feed, "svn": str(endorsement.svn)}


def _shown(report: bytes) -> dict[str, Any]:
    """A report's fields, by CCF's names."""

    def number(at: int, size: int) -> int:
        return int.from_bytes(report[at : at + size], "little")

    policy, platform, flags = number(_POLICY_AT, 8), number(_PLATFORM_AT, 8), number(_FLAGS_AT, 4)
    platform_info = {"smt_en": platform & 1, "tsme_en": platform >> 1 & 1}
    r, s = (report[at : at + _SIGNATURE_PART_BYTES] for at in (_SIGNATURE_AT, _SIGNATURE_AT + _SIGNATURE_PART_BYTES))
    return {
        **{name: number(at, size) for name, (at, size) in _NUMBERS.items()},
        **{name: report[at : at + size] for name, (at, size) in _OCTETS.items()},
        **{name: report[at : at + 8][::-1].hex() for name, at in _TCBS.items()},
        "policy": {
            "abi_minor": policy & 0xFF,
            "abi_major": policy >> 8 & 0xFF,
            "smt": policy >> 16 & 1,
            "migrate_ma": policy >> 18 & 1,
            "debug": policy >> 19 & 1,
            "single_socket": policy >> 20 & 1,
        },
        "platform_info": platform_info,
        "plaform_info": platform_info,  # as CCF's program spells it, other than its types
        "flags": {"author_key_en": flags & 1, "mask_chip_key": flags >> 1 & 1, "signing_key": flags >> 2 & 7},
        "signature": {"r": r, "s": s},
    }


def _tcb_hex_to_policy(_: Surroundings, cpuid: Any, tcb: Any) -> dict[str, Any]:
    given, digits = text(cpuid, "cpuid", 64).lower(), text(tcb, "tcb", 64).lower()
    try:
        product = snp.parse_cpuid(given).product
    except ConfigurationError as error:
        raise RefusalError(str(error)) from None
    if product is None:
        raise RefusalError(f"CPUID {given} is no Milan, Genoa or Turin, the processors that are supported")
    if len(digits) != 16 or set(digits) - set("0123456789abcdef"):
        raise RefusalError("a TCB version is 16 hex characters, the most significant byte first")
    version = snp.tcb_of(bytes.fromhex(digits)[::-1], product)
    return {"hexstring": digits} | {name: value for name, value in version._asdict().items() if value is not None}


FUNCTIONS: Final[Mapping[str, Function]] = {"verifySnpAttestation": _verify_snp_attestation, "tcbHexToPolicy": _tcb_hex_to_policy}
