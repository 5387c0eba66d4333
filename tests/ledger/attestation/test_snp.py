"""SEV-SNP reports, genuine and forged: each wrong thing that one can hold, and the rule that refuses it."""

import json
import random
import warnings
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from ledgerd.ledger.attestation import snp
from ledgerd.ledger.attestation.errors import RULES, AttestationError
from ledgerd.ledger.attestation.snp import AMD_ARKS, Cpu, SnpAttestation, Tcb, decode, verify
from support import reports
from support.reports import CHIP, HOST_DATA, MEASUREMENT, NOW_MS, ForgedReport, body, forge_report, integer, pem, sign_report
from support.vectors import vectors

CORRECT = forge_report()
GENUINE_AT_MS = 1_772_000_000_000  # when all three leaves are valid


def judge(forged: ForgedReport, report: bytes | None = None, endorsements: bytes | None = None, at_ms: int = NOW_MS) -> SnpAttestation:
    return verify(
        forged.report if report is None else report,
        forged.endorsements if endorsements is None else endorsements,
        at_ms=at_ms,
        arks=forged.arks,
    )


def rule(forged: ForgedReport, report: bytes | None = None, endorsements: bytes | None = None, at_ms: int = NOW_MS) -> str:
    with pytest.raises(AttestationError) as refusal:
        judge(forged, report, endorsements, at_ms)
    error = refusal.value
    assert error.rule in RULES
    assert error.seen and error.expected and error.advice
    return error.rule


# Genuine ones.


def genuine() -> list[dict[str, Any]]:
    manifest = json.loads(vectors("snp", "manifest.json").read_text())
    assert {fingerprint: name.lower() for fingerprint, name in AMD_ARKS.items()}.items() >= {
        fingerprint: name for name, fingerprint in manifest["arks_sha256"].items()
    }.items()
    entries: list[dict[str, Any]] = manifest["reports"]
    return entries


def files(entry: dict[str, Any]) -> tuple[bytes, bytes]:
    """Report and endorsements."""
    name, kind = entry["name"], entry["gen"]
    parts = [f"{name}_leaf.pem", f"ask_{kind}.pem", f"ark_{kind}.pem"]
    return vectors("snp", f"{name}_report.bin").read_bytes(), b"\n".join(vectors("snp", part).read_bytes() for part in parts)


def test_every_genuine_report_verifies_and_says_what_the_manifest_says() -> None:
    valid = [entry for entry in genuine() if entry["chain_ok"]]
    assert {entry["gen"] for entry in valid} == {"milan", "genoa"}
    for entry in valid:
        report, endorsements = files(entry)
        said, attestation = decode(report), verify(report, endorsements, at_ms=GENUINE_AT_MS)
        assert (said.version, hex(said.policy), said.signing_key) == (entry["version"], entry["policy"], entry["signing_key"])
        for name in ("report_data", "measurement", "host_data", "chip_id"):
            assert getattr(attestation, name).hex() == entry[name]
        assert said.reported_tcb.hex() == entry["reported_tcb"]
        assert (attestation.product.lower(), attestation.vmpl, attestation.debug) == (entry["gen"], entry["vmpl"], entry["debug_allowed"])
        assert not attestation.simulated


def test_a_genuine_report_with_a_chip_certificate_that_amd_did_not_sign_is_refused() -> None:
    invalid = [entry for entry in genuine() if not entry["chain_ok"]]
    assert invalid
    for entry in invalid:
        with pytest.raises(AttestationError) as refusal:
            verify(*files(entry), at_ms=GENUINE_AT_MS)
        assert refusal.value.rule == "chain"


def test_parts_of_different_genuine_reports_do_not_mix() -> None:
    entries = {entry["name"]: files(entry) for entry in genuine()}
    for report, endorsements, expected in (
        ("ms_milan", "azure_aci_milan", "signature"),
        ("azure_aci_milan", "ms_milan", "signature"),
        ("ms_genoa", "ms_milan", "signature"),
    ):
        with pytest.raises(AttestationError) as refusal:
            verify(entries[report][0], entries[endorsements][1], at_ms=GENUINE_AT_MS)
        assert refusal.value.rule == expected
    leaf = entries["ms_genoa"][1].split(b"-----END")[0] + b"-----END CERTIFICATE-----\n"
    milan = entries["ms_milan"][1].split(b"-----END CERTIFICATE-----", 1)[1]
    with pytest.raises(AttestationError) as refusal:
        verify(entries["ms_genoa"][0], leaf + milan, at_ms=GENUINE_AT_MS)
    assert refusal.value.rule == "chain"


def test_genuine_reports_are_judged_at_the_time_that_is_given() -> None:
    report, endorsements = files(next(entry for entry in genuine() if entry["name"] == "ms_milan"))
    for at_ms in (0, GENUINE_AT_MS - 86_400_000 * 60, GENUINE_AT_MS + 86_400_000 * 3_000, 1 << 70):
        with pytest.raises(AttestationError) as refusal:
            verify(report, endorsements, at_ms=at_ms)
        assert refusal.value.rule == "validity"


def test_no_changed_bit_of_a_genuine_report_is_accepted() -> None:
    chosen = random.Random(2)
    for entry in genuine():
        if entry["chain_ok"]:
            report, endorsements = files(entry)
            for bit in chosen.sample(range(8 * len(report)), 120):
                changed = bytearray(report)
                changed[bit // 8] ^= 1 << bit % 8
                with pytest.raises(AttestationError):
                    verify(bytes(changed), endorsements, at_ms=GENUINE_AT_MS)


# Forged ones that are correct.


@pytest.mark.parametrize("product", ["Milan", "Genoa", "Turin"])
@pytest.mark.parametrize("vlek", [False, True])
def test_correct_reports_of_each_processor_and_key_verify(product: str, vlek: bool) -> None:
    forged = forge_report(product, vlek=vlek, version=5)
    attestation = judge(forged)
    assert (attestation.product, attestation.cpu) == (product, Cpu(*reports.CPUS[product]))
    assert attestation.signing_key == ("VLEK" if vlek else "VCEK")
    assert (attestation.measurement, attestation.host_data) == (MEASUREMENT, HOST_DATA)
    assert attestation.simulated
    assert not attestation.debug
    assert attestation.root in forged.arks


def test_firmware_versions_are_read_by_each_processors_layout() -> None:
    assert judge(forge_report("Milan")).tcb == Tcb(4, 0, 24, 219)
    assert judge(forge_report("Turin")).tcb == Tcb(2, 3, 4, 81, 1)


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_versions_2_to_5_are_read_and_the_first_names_no_processor(version: int) -> None:
    assert (judge(forge_report(version=version)).cpu is None) == (version == 2)


def test_siblings_of_genoa_are_genoa() -> None:
    assert judge(forge_report("Genoa", cpu=(0x19, 0xA0, 2))).product == "Genoa"


@pytest.mark.parametrize("product", ["Milan", "Turin"])
def test_a_hardware_id_may_be_wrapped(product: str) -> None:
    bare = CHIP[:8] if product == "Turin" else CHIP
    judge(forge_report(product, extensions={"4": bytes((4, len(bare))) + bare}))


def test_a_chip_certificate_may_have_a_positive_serial_number() -> None:
    judge(forge_report(leaf={"serial": 77}))


def test_the_serial_number_zero_of_amds_certificates_gives_no_warning() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        judge(CORRECT)
    assert seen == []


def test_the_other_signature_of_the_same_bytes_is_accepted_so_a_report_has_no_hash() -> None:
    s = int.from_bytes(CORRECT.report[0x2E8:0x330], "little")
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
    other = CORRECT.report[:0x2E8] + (order - s).to_bytes(72, "little") + CORRECT.report[0x330:]
    assert judge(CORRECT, other) == judge(CORRECT)


# Form.


@pytest.mark.parametrize("report", [b"", CORRECT.report[:-1], CORRECT.report + b"\x00"])
def test_reports_of_another_size_are_refused(report: bytes) -> None:
    assert rule(CORRECT, report) == "size"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [({"version": 1}, "form"), ({"version": 6}, "form"), ({"algorithm": 0}, "algorithm"), ({"algorithm": 2}, "algorithm"),
     ({"flags": 7 << 2}, "form"), ({"flags": 2 << 2}, "form")],
)  # fmt: skip
def test_reports_of_another_form_are_refused(fields: dict[str, Any], expected: str) -> None:
    assert rule(forge_report(**fields)) == expected


def test_bytes_after_the_signature_are_zero() -> None:
    assert rule(CORRECT, CORRECT.report[:-1] + b"\x01") == "form"


@pytest.mark.parametrize(
    "endorsements",
    [
        b"",
        b"junk",
        CORRECT.endorsements + b"junk",
        b"junk" + CORRECT.endorsements,
        CORRECT.endorsements.replace(b"M", b"*", 1),
        pem(*CORRECT.ders[:2]),
        pem(*CORRECT.ders, CORRECT.ders[2]),
        pem(CORRECT.ders[0]).replace(b"=", b""),
    ],
)
def test_endorsements_that_are_not_three_certificates_are_refused(endorsements: bytes) -> None:
    assert rule(CORRECT, endorsements=endorsements) == "form"


def test_endless_endorsements_are_refused() -> None:
    assert rule(CORRECT, endorsements=CORRECT.endorsements * 20) == "size"


# Root and chain.


def test_a_root_that_is_not_accepted_is_refused() -> None:
    with pytest.raises(AttestationError) as refusal:
        verify(CORRECT.report, CORRECT.endorsements, at_ms=NOW_MS)
    assert refusal.value.rule == "root"
    assert all(fingerprint in refusal.value.expected for fingerprint in AMD_ARKS)
    with pytest.raises(AttestationError, match="none is accepted"):
        verify(CORRECT.report, CORRECT.endorsements, at_ms=NOW_MS, arks={})


@pytest.mark.parametrize("order", [(2, 1, 0), (1, 0, 2), (0, 2, 1), (0, 0, 2), (0, 2, 2)])
def test_certificates_in_another_order_are_refused(order: tuple[int, ...]) -> None:
    assert rule(CORRECT, endorsements=pem(*(CORRECT.ders[at] for at in order))) in ("root", "chain")


def test_a_foreign_chain_that_ends_with_the_accepted_root_is_refused() -> None:
    foreign = forge_report("Genoa")
    assert rule(CORRECT, foreign.report, pem(*foreign.ders[:2], CORRECT.ders[2])) == "chain"


CHAIN: dict[str, tuple[str, Any]] = {
    "ASK that is no authority": ("chain", {"ask": {"authority": False}}),
    "ARK that is no authority": ("chain", {"ark": {"authority": False}}),
    "ASK without certificate signing": ("chain", {"ask": {"usages": False}}),
    "ASK with constraints that are not critical": ("chain", {"ask": {"critical": False}}),
    "ARK without room for an ASK": ("chain", {"ark": {"path_length": 0}}),
    "leaf that is an authority": ("chain", {"leaf": {"authority": True, "serial": 1}}),
    "ASK of another issuer's name": ("chain", {"ask": {"issuer": "somebody"}}),
    "leaf of another issuer's name": ("chain", {"leaf": {"issuer": "somebody"}}),
    "ASK signed by another key": ("chain", {"ask": {"issuer_key": reports.authority("foreign")}}),
    "leaf signed by another key": ("chain", {"leaf": {"issuer_key": reports.authority("foreign")}}),
    "leaf signed in the old way": ("algorithm", {"leaf": {"pss": False, "serial": 1}}),
    "ASK signed in the old way": ("algorithm", {"ask": {"pss": False}}),
    "leaf with a negative serial number": ("chain", {"leaf": {"serial": -128}}),
    "ASK with serial number zero": ("chain", {"ask": {"serial": 0}}),
    "unknown critical extension": ("chain", {"leaf": {"unknown_critical": True}}),
    "leaf on P-256": ("algorithm", {"curve": ec.SECP256R1}),
    "leaf on P-521": ("algorithm", {"curve": ec.SECP521R1}),
    "expired leaf": ("validity", {"leaf": {"lifetime": timedelta(days=99)}}),
    "expired ASK": ("validity", {"ask": {"lifetime": timedelta(days=99)}}),
    "expired ARK": ("validity", {"ark": {"lifetime": timedelta(days=99)}}),
    "leaf not yet valid": ("validity", {"leaf": {"begins": timedelta(seconds=1)}}),
    "ASK not yet valid": ("validity", {"ask": {"begins": timedelta(seconds=1)}}),
    "ARK not yet valid": ("validity", {"ark": {"begins": timedelta(seconds=1)}}),
}


@pytest.mark.parametrize("name", CHAIN)
def test_wrong_certificates_are_refused(name: str) -> None:
    expected, arguments = CHAIN[name]
    assert rule(forge_report(**arguments)) == expected


# Chip and firmware.

BINDING: dict[str, tuple[str, dict[str, Any]]] = {
    "another chip": ("chip", {"chip": bytes(63) + b"\x01"}),
    "a masked chip": ("chip", {"chip": bytes(64)}),
    "a masked chip key": ("chip", {"flags": 1 << 1}),
    "no hardware id": ("chip", {"extensions": {"4": None}}),
    "half a hardware id": ("chip", {"extensions": {"4": CHIP[:32]}}),
    "eight bytes of it, as Turin has": ("chip", {"extensions": {"4": CHIP[:8]}}),
    "a VLEK said, a VCEK given": ("chip", {"flags": 1 << 2}),
    "a VCEK said, a VLEK given": ("chip", {"vlek": True, "flags": 0}),
    "another family": ("chip", {"cpu": (0x1A, 0x01, 1)}),
    "another model": ("chip", {"cpu": (0x19, 0x11, 1)}),
    "an unknown model": ("chip", {"cpu": (0x19, 0x21, 1)}),
    "an older boot loader": ("tcb", {"tcb": bytes((3, 0, 0, 0, 0, 0, 24, 219))}),
    "another TEE": ("tcb", {"tcb": bytes((4, 1, 0, 0, 0, 0, 24, 219))}),
    "a newer SNP": ("tcb", {"tcb": bytes((4, 0, 0, 0, 0, 0, 25, 219))}),
    "older microcode": ("tcb", {"tcb": bytes((4, 0, 0, 0, 0, 0, 24, 218))}),
    "no boot loader": ("tcb", {"extensions": {"3.1": None}}),
    "no microcode": ("tcb", {"extensions": {"3.8": None}}),
    "a boot loader of another type": ("tcb", {"extensions": {"3.1": b"\x04\x01\x04"}}),
    "a boot loader with a long length": ("tcb", {"extensions": {"3.1": b"\x02\x02\x00\x04"}}),
    "negative microcode": ("tcb", {"extensions": {"3.8": b"\x02\x01\xdb"}}),
    "too much microcode": ("tcb", {"extensions": {"3.8": b"\x02\x02\x01\xdb"}}),
}


@pytest.mark.parametrize("name", BINDING)
def test_reports_of_another_chip_or_firmware_are_refused(name: str) -> None:
    expected, arguments = BINDING[name]
    assert rule(forge_report(**arguments)) == expected


@pytest.mark.parametrize("number", ["3.9", "3.1", "3.2", "3.3", "3.8"])
def test_every_component_of_turins_firmware_counts(number: str) -> None:
    assert rule(forge_report("Turin", extensions={number: integer(99)})) == "tcb"


def test_the_rest_of_turins_chip_id_is_zero() -> None:
    assert rule(forge_report("Turin", chip=CHIP)) == "chip"


# Signature.


def test_a_report_signed_by_another_key_is_refused() -> None:
    other = sign_report(body(), ec.generate_private_key(ec.SECP384R1()))
    assert rule(CORRECT, other) == "signature"


@pytest.mark.parametrize("signature", [bytes(144), b"\xff" * 144])
def test_other_signatures_are_refused(signature: bytes) -> None:
    assert rule(CORRECT, CORRECT.report[:0x2A0] + signature + bytes(368)) == "signature"


def test_debug_and_migration_are_facts_here_and_refusals_in_the_policy() -> None:
    attestation = judge(forge_report(policy=0x3001F | 1 << 19 | 1 << 18))
    assert attestation.debug
    assert attestation.may_migrate


# No changed byte, and nothing but our own refusal.


def test_no_single_changed_byte_of_a_report_is_accepted() -> None:
    for position in range(len(CORRECT.report)):
        changed = bytearray(CORRECT.report)
        changed[position] ^= 1 << (position * 5 % 8)
        rule(CORRECT, bytes(changed))


def test_no_changed_byte_of_a_certificate_is_accepted() -> None:
    for depth, der in enumerate(CORRECT.ders):
        for position in range(depth, len(der), 3):
            changed = bytearray(der)
            changed[position] ^= 1 << (position * 3 % 8)
            assert rule(CORRECT, endorsements=pem(*CORRECT.ders[:depth], bytes(changed), *CORRECT.ders[depth + 1 :])) in (
                "chain", "root", "algorithm", "validity",
            )  # fmt: skip


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=1_300), st.binary(max_size=300))
def test_hostile_bytes_raise_nothing_but_a_refusal(report: bytes, endorsements: bytes) -> None:
    rule(CORRECT, report)
    rule(CORRECT, endorsements=pem(endorsements, *CORRECT.ders[1:]))
    rule(CORRECT, endorsements=endorsements)


def test_the_kinds_of_processors_are_those_of_amds_roots() -> None:
    assert set(AMD_ARKS.values()) == {snp.MILAN, snp.GENOA, snp.TURIN}
