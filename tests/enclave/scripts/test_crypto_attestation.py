"""`snp_attestation` and `ccf.tcbHexToPolicy`: what a script learns of a report, and that it learns it of genuine ones only."""

import json
import random
from functools import partial
from typing import Any

import pytest

from ledgerd.enclave.runtime.crypto import attestation
from ledgerd.enclave.scripts.access import Access
from ledgerd.enclave.scripts.jobs import Clock, Limits
from ledgerd.ledger.attestation import snp
from support.reports import FEED, HOST_DATA, MEASUREMENT, NOW_MS, ForgedReport, forge_report, forge_uvm
from support.script_crypto import called, thrown
from support.scripts import job, value_of, workers
from support.vectors import vectors

GENUINE_AT_MS = 1_772_000_000_000  # when all leaves are valid
VERIFY = """
  const shown = (value) => value instanceof ArrayBuffer
    ? 'hex ' + [...new Uint8Array(value)].map((byte) => byte.toString(16).padStart(2, '0')).join('')
    : typeof value === 'object' ? Object.fromEntries(Object.entries(value).map(([name, part]) => [name, shown(part)])) : value;
  return shown(snp_attestation.verifySnpAttestation(...args));
"""
THROWN = "snp_attestation.verifySnpAttestation(...args)"


def application(time_ms: int = NOW_MS) -> dict[str, Any]:
    return {"access": Access.APP_RW, "clock": Clock(time_ms, None)}


DECISION: dict[str, Any] = {"access": Access.GOV_RW, "clock": Clock()}


def genuine(name: str) -> tuple[bytes, bytes]:
    """A report of a real processor, and the certificates of its key."""
    kind = name.rpartition("_")[2]
    parts = [vectors("snp", f"{part}.pem").read_bytes() for part in (f"{name}_leaf", f"ask_{kind}", f"ark_{kind}")]
    return vectors("snp", f"{name}_report.bin").read_bytes(), b"\n".join(parts)


@pytest.fixture
def forged(monkeypatch: pytest.MonkeyPatch) -> ForgedReport:
    """A report that is believed for this test."""
    made = forge_report()
    monkeypatch.setattr(snp, "verify", partial(snp.verify, arks=made.arks))
    return made


@pytest.mark.parametrize("name", ["ms_milan", "ms_genoa", "azure_aci_milan"])
def test_a_genuine_report_is_shown_in_ccf_s_form(name: str) -> None:
    report, chain = genuine(name)
    found = value_of(VERIFY, report, chain, **application(GENUINE_AT_MS))["attestation"]
    entries = json.loads(vectors("snp", "manifest.json").read_text())["reports"]
    (entry,) = (entry for entry in entries if entry["name"] == name)
    for field in ("report_data", "measurement", "host_data", "chip_id"):
        assert found[field] == "hex " + entry[field]
    policy = int(entry["policy"], 16)
    assert found["policy"] == {
        "abi_minor": policy & 0xFF,
        "abi_major": policy >> 8 & 0xFF,
        "smt": 1,
        "migrate_ma": 0,
        "debug": 0,
        "single_socket": 0,
    }
    assert (found["version"], found["vmpl"], found["signature_algo"]) == (entry["version"], entry["vmpl"], 1)
    assert found["flags"] == {"author_key_en": 0, "mask_chip_key": 0, "signing_key": 0}
    assert bytes.fromhex(found["reported_tcb"])[::-1].hex() == entry["reported_tcb"]
    assert found["platform_info"] == found["plaform_info"]
    assert found["platform_info"].keys() == {"smt_en", "tsme_en"}
    assert found["cpuid_fam_id"] == (0x19 if entry["version"] >= 3 else 0)
    assert found["signature"]["r"] == "hex " + report[0x2A0 : 0x2A0 + 72].hex()
    assert set(found) == {
        *("version", "guest_svn", "policy", "family_id", "image_id", "vmpl", "signature_algo", "platform_version", "platform_info"),
        *("plaform_info", "flags", "report_data", "measurement", "host_data", "id_key_digest", "author_key_digest", "report_id"),
        *("report_id_ma", "reported_tcb", "cpuid_fam_id", "cpuid_mod_id", "cpuid_step", "chip_id", "committed_tcb", "current_minor"),
        *("current_build", "current_major", "committed_build", "committed_minor", "committed_major", "launch_tcb", "signature"),
    }


def test_every_field_is_where_it_stands(forged: ForgedReport) -> None:
    found = value_of(VERIFY, forged.report, forged.endorsements, **application())["attestation"]
    assert found["measurement"] == "hex " + MEASUREMENT.hex()
    assert found["host_data"] == "hex " + HOST_DATA.hex()
    report = random.Random(7).randbytes(snp.REPORT_SIZE_BYTES)
    shown = attestation._shown(report)
    octets = [shown[name] for name in ("family_id", "image_id", "report_data", "measurement", "host_data", "id_key_digest", "chip_id")]
    octets += [shown[name] for name in ("author_key_digest", "report_id", "report_id_ma")]
    assert [report.index(part) for part in octets] == [0x10, 0x20, 0x50, 0x90, 0xC0, 0xE0, 0x1A0, 0x110, 0x140, 0x160]
    tcbs = [bytes.fromhex(shown[name])[::-1] for name in ("platform_version", "reported_tcb", "committed_tcb", "launch_tcb")]
    assert [report.index(part) for part in tcbs] == [0x38, 0x180, 0x1E0, 0x1F0]
    names = ("current_build", "current_minor", "current_major", "committed_build", "committed_minor", "committed_major")
    assert [shown[name] for name in names] == [report[at] for at in (0x1E8, 0x1E9, 0x1EA, 0x1EC, 0x1ED, 0x1EE)]
    assert [shown[name] for name in ("cpuid_fam_id", "cpuid_mod_id", "cpuid_step")] == list(report[0x188:0x18B])


def test_what_is_not_genuine_is_refused(forged: ForgedReport) -> None:
    report, chain = forged.report, forged.endorsements
    changed = report[:0x90] + bytes(48) + report[0xC0:]
    for evidence, endorsements in ((changed, chain), (report[:-1], chain), (report, b""), (report, chain[:500]), (b"", chain)):
        assert thrown(THROWN, evidence, endorsements, where=application()).startswith("RangeError: ")
    for evidence in (report[:-1], report + b"\0", b""):
        assert "attestation report is not of expected size 1184: " in thrown(THROWN, evidence, chain, where=application())
    for endorsements, count in ((chain[:-10], 2), (chain + b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----", 4), (b"", 0)):
        text = thrown(THROWN, report, endorsements, where=application())
        assert text == f"RangeError: Expected 3 endorsement certificates but got {count}"
    other = forge_report()
    assert thrown(THROWN, report, other.endorsements, where=application()).startswith("RangeError: ")


def test_a_report_below_another_root_than_amd_s_is_refused() -> None:
    forged = forge_report()
    text = thrown(THROWN, forged.report, forged.endorsements, where=application())
    assert text.startswith("RangeError: ")
    assert "a chain that ends at" in text


def test_certificates_must_be_valid_at_the_script_s_time_where_it_has_one(forged: ForgedReport) -> None:
    report, chain = forged.report, forged.endorsements
    for time_ms in (1, NOW_MS + 100 * 366 * 86_400_000):
        assert "is valid from" in thrown(THROWN, report, chain, where=application(time_ms))
    assert value_of(VERIFY, report, chain, **DECISION) == value_of(VERIFY, report, chain, **application())
    assert thrown(THROWN, report, b"none", where=DECISION).startswith("RangeError: ")


def test_the_firmware_that_is_endorsed_must_be_the_reported_one(forged: ForgedReport) -> None:
    report, chain = forged.report, forged.endorsements
    tcb = value_of(VERIFY, report, chain, None, None, **application())["attestation"]["reported_tcb"]
    assert value_of(VERIFY, report, chain, None, tcb, **application())["attestation"]["reported_tcb"] == tcb
    assert value_of(VERIFY, report, chain, None, tcb.upper(), **application())["attestation"]["reported_tcb"] == tcb
    text = thrown(THROWN, report, chain, None, "00" * 8, where=application())
    assert text == f"RangeError: endorsed TCB {'00' * 8} does not match reported TCB {tcb}"


def test_a_measurement_is_endorsed_by_a_publisher_that_is_known(forged: ForgedReport, monkeypatch: pytest.MonkeyPatch) -> None:
    report, chain = forged.report, forged.endorsements
    endorsement, did = forge_uvm()
    assert "do not match any of the known UVM roots of trust" in thrown(THROWN, report, chain, endorsement, where=application())
    monkeypatch.setattr(attestation, "UVM_ROOTS", {(did, FEED): 22})
    found = value_of(VERIFY, report, chain, endorsement, **application())
    assert found["uvm_endorsements"] == {"did": did, "feed": FEED, "svn": "22"}
    assert "uvm_endorsements" not in value_of(VERIFY, report, chain, **application())
    monkeypatch.setattr(attestation, "UVM_ROOTS", {(did, FEED): 23})
    assert "svn 22 do not match any" in thrown(THROWN, report, chain, endorsement, where=application())
    other, did = forge_uvm(measurement="00" * 48)
    monkeypatch.setattr(attestation, "UVM_ROOTS", {(did, FEED): 0})
    assert "the UVM endorsement's 0000" in thrown(THROWN, report, chain, other, where=application())
    assert thrown(THROWN, report, chain, endorsement[:-1], where=application()).startswith("RangeError: ")


def test_azure_s_genuine_endorsement_is_read_and_is_older_than_ccf_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    report, chain = genuine("azure_aci_milan")
    endorsement = vectors("snp", "azure_aci_uvm_reference_info.cose").read_bytes()
    where = application(GENUINE_AT_MS)
    assert "svn 22 do not match" in thrown(THROWN, report, chain, endorsement, where=where)
    monkeypatch.setattr(attestation, "UVM_ROOTS", dict.fromkeys(attestation.UVM_ROOTS, 22))
    found = value_of(VERIFY, report, chain, endorsement, **where)["uvm_endorsements"]
    assert (found["feed"], found["svn"]) == ("ContainerPlat-AMD-UVM", "22")


def test_arguments_of_another_kind_are_refused() -> None:
    assert thrown(THROWN, b"") == "TypeError: Passed 1 arguments, but expected 2 to 4"
    assert thrown(THROWN, "text", b"") == "TypeError: evidence must be an ArrayBuffer"
    assert thrown(THROWN, b"", 7) == "TypeError: endorsements must be an ArrayBuffer"
    assert thrown(THROWN, b"", b"", "text") == "TypeError: uvm_endorsements must be an ArrayBuffer"
    assert thrown(THROWN, b"", b"", b"", 7) == "TypeError: endorsed_tcb must be a string"


def test_a_report_is_verified_within_the_sandbox() -> None:
    report, chain = genuine("ms_genoa")
    endorsement = vectors("snp", "azure_aci_uvm_reference_info.cose").read_bytes()
    with workers() as fleet:
        limits = Limits(deadline_ms=20_000)
        source = f"export function f(...args) {{ {VERIFY} }}"
        for alone in (False, True):
            ended = fleet.run(job(source, report, chain, alone=alone, limits=limits, **DECISION))
            assert b'"measurement":"hex ' in ended.value.data, ended  # type: ignore[union-attr]
        ended = fleet.run(job(source, report, chain, endorsement, limits=limits, **DECISION))
        assert "the UVM endorsement's" in ended.text
        assert fleet.run(job("export const f = () => ccf.tcbHexToPolicy('00a00f11', 'd81800000000000a').snp;")).value is not None
        assert fleet.pool.killed_total == 0


# Versions of firmware.


@pytest.mark.parametrize(
    ("cpuid", "tcb", "expected"),
    [
        ("00a00f11", "db18000000000004", {"boot_loader": 4, "tee": 0, "snp": 0x18, "microcode": 0xDB}),
        ("00A10F11", "5417000000000A01", {"boot_loader": 1, "tee": 0x0A, "snp": 0x17, "microcode": 0x54}),
        ("00b00f21", "4600000004000102", {"fmc": 2, "boot_loader": 1, "tee": 0, "snp": 4, "microcode": 0x46}),
    ],
)
def test_a_version_in_hex_becomes_its_components(cpuid: str, tcb: str, expected: dict[str, int]) -> None:
    assert called("tcbHexToPolicy", cpuid, tcb) == {"hexstring": tcb.lower(), **expected}
    assert called("tcbHexToPolicy", cpuid, tcb, where=DECISION) == called("tcbHexToPolicy", cpuid, tcb)


@pytest.mark.parametrize(
    ("cpuid", "tcb", "expected"),
    [
        ("00a00f1", "db18000000000004", "Error: CPUID '00a00f1' is not 8 lower-case hex characters"),
        ("00800f11", "db18000000000004", "Error: CPUID 00800f11 is no Milan, Genoa or Turin"),
        ("00a00f11", "db180000000000", "Error: a TCB version is 16 hex characters"),
        ("00a00f11", "zb18000000000004", "Error: a TCB version is 16 hex characters"),
        (7, "db18000000000004", "TypeError: cpuid must be a string"),
    ],
)
def test_a_version_that_is_none_is_refused(cpuid: Any, tcb: str, expected: str) -> None:
    assert thrown("ccf.tcbHexToPolicy(...args)", cpuid, tcb).startswith(expected)
