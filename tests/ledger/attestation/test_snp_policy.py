"""Each reason for not wanting a guest that is one, the difference between now and then, and CCF's tables."""

import json
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from ledgerd.ledger.attestation.errors import AttestationError
from ledgerd.ledger.attestation.snp import Cpu, SnpAttestation, Tcb, cpuid, parse_cpuid
from ledgerd.ledger.attestation.snp_policy import (
    LeastTcb,
    SnpPolicy,
    policy_of,
    report_data,
    verify_now,
    verify_recorded,
)
from ledgerd.ledger.errors import ConfigurationError, UsageError
from support.reports import FEED, HOST_DATA, MEASUREMENT, NONCE, NOW_MS, PUBLIC_KEY, USER_DATA, ForgedReport, forge_report, forge_uvm
from support.vectors import vectors

MILAN = Cpu(0x19, 0x01, 1)
CORRECT = forge_report()
UVM, DID = forge_uvm()
LEAST = (LeastTcb(MILAN, Tcb(4, 0, 24, 219)),)
POLICY = SnpPolicy(frozenset({MEASUREMENT}), {}, frozenset({HOST_DATA}), LEAST, arks=CORRECT.arks)
ENDORSED = replace(POLICY, measurements=frozenset(), uvm={DID: {FEED: 22}})


def now(forged: ForgedReport = CORRECT, policy: SnpPolicy = POLICY, uvm: bytes | None = None, **different: Any) -> SnpAttestation:
    arguments: dict[str, Any] = {"now_ms": NOW_MS, "nonce": NONCE, "public_key": PUBLIC_KEY, "user_data": USER_DATA}
    policy = replace(policy, arks={**policy.arks, **forged.arks})
    return verify_now(forged.report, forged.endorsements, uvm, policy, **(arguments | different))


def rule(forged: ForgedReport = CORRECT, policy: SnpPolicy = POLICY, uvm: bytes | None = None, **different: Any) -> str:
    with pytest.raises(AttestationError) as refusal:
        now(forged, policy, uvm, **different)
    assert refusal.value.seen and refusal.value.expected and refusal.value.advice
    return refusal.value.rule


def test_a_report_made_for_the_caller_just_now_is_accepted() -> None:
    assert now().measurement == MEASUREMENT


def test_a_policy_that_states_nothing_accepts_nobody() -> None:
    assert rule(policy=SnpPolicy(arks=CORRECT.arks)) == "tcb"
    assert rule(policy=SnpPolicy(least_tcb=LEAST, arks=CORRECT.arks)) == "measurement"
    assert rule(policy=replace(POLICY, host_data=frozenset())) == "host_data"
    assert SnpPolicy().arks.keys() != CORRECT.arks.keys()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"policy": 0x3001F | 1 << 19}, "debug"),
        ({"policy": 0x3001F | 1 << 18}, "migration"),
        ({"vmpl": 1}, "vmpl"),
        ({"vmpl": 4}, "vmpl"),
        ({"vmpl": 0xFFFFFFFF}, "vmpl"),
        ({"measurement": b"\xb1" * 48}, "measurement"),
        ({"host_data": bytes(32)}, "host_data"),
        ({"report_data": bytes(64)}, "public_key"),
        ({"report_data": sha256(b"another key").digest() + bytes(32)}, "public_key"),
        ({"report_data": sha256(PUBLIC_KEY).digest() + bytes(32)}, "nonce"),  # CCF's: no nonce
    ],
)
def test_guests_that_are_not_wanted_are_refused(fields: dict[str, Any], expected: str) -> None:
    assert rule(forge_report(**fields)) == expected


def test_debug_guests_are_refused_whatever_is_listed() -> None:
    forged = forge_report(policy=0x3001F | 1 << 19, measurement=bytes(48))
    assert rule(forged, replace(POLICY, measurements=frozenset({bytes(48)}))) == "debug"


def test_privilege_levels_are_accepted_where_the_policy_says_so_and_the_host_never() -> None:
    lower = replace(POLICY, vmpl_max=2)
    now(forge_report(vmpl=2), lower)
    assert rule(forge_report(vmpl=3), lower) == "vmpl"
    assert rule(forge_report(vmpl=4), replace(POLICY, vmpl_max=9)) == "vmpl"


@pytest.mark.parametrize("name", ["nonce", "user_data", "public_key"])
def test_nonce_key_and_user_data_are_bound(name: str) -> None:
    stated: dict[str, Any] = {name: b"something else of 27 bytes"}
    assert rule(**stated) == ("public_key" if name == "public_key" else "nonce")


def test_a_caller_cannot_do_without_a_nonce() -> None:
    with pytest.raises(UsageError):
        now(nonce=bytes(15))


def test_nonce_and_user_data_do_not_flow_into_each_other() -> None:
    assert report_data(PUBLIC_KEY, b"ab", b"c") != report_data(PUBLIC_KEY, b"a", b"bc")


# Firmware.


@pytest.mark.parametrize("at", range(4))
def test_every_component_of_the_firmware_must_be_reached(at: int) -> None:
    name = Tcb._fields[at]
    newer = LEAST[0].tcb._replace(**{name: getattr(LEAST[0].tcb, name) + 1})
    assert rule(policy=replace(POLICY, least_tcb=(LeastTcb(MILAN, newer),))) == "tcb"


def test_newer_firmware_is_accepted() -> None:
    now(policy=replace(POLICY, least_tcb=(LeastTcb(MILAN, Tcb(0, 0, 0, 0)),)))


def test_only_listed_processors_are_accepted() -> None:
    genoa = (LeastTcb(Cpu(0x19, 0x11, 1), Tcb(0, 0, 0, 0)),)
    assert rule(policy=replace(POLICY, least_tcb=genoa)) == "tcb"
    assert rule(policy=replace(POLICY, least_tcb=(LeastTcb(MILAN._replace(stepping=0), Tcb(0, 0, 0, 0)),))) == "tcb"
    turin = forge_report("Turin")
    assert rule(turin, replace(POLICY, least_tcb=(LeastTcb(Cpu(0x1A, 1, 1), Tcb(2, 3, 4, 81)),))) == "tcb"  # without fmc
    now(turin, replace(POLICY, least_tcb=(LeastTcb(Cpu(0x1A, 1, 1), Tcb(2, 3, 4, 81, 1)),)))


def test_a_report_that_names_no_processor_must_reach_every_line_of_its_product() -> None:
    old = forge_report(version=2)
    now(old)
    assert rule(old, replace(POLICY, least_tcb=(*LEAST, LeastTcb(MILAN._replace(stepping=2), Tcb(5, 0, 24, 219))))) == "tcb"
    assert rule(old, replace(POLICY, least_tcb=(LeastTcb(Cpu(0x19, 0x11, 1), Tcb(0, 0, 0, 0)),))) == "tcb"


# Endorsed measurements.


def test_a_publisher_may_vouch_for_a_measurement() -> None:
    now(policy=ENDORSED, uvm=UVM)
    now(policy=replace(ENDORSED, uvm={DID: {FEED: 1, "other": 99}}), uvm=UVM)


@pytest.mark.parametrize("accepted", [{}, {DID: {}}, {DID: {"other": 1}}, {DID + "0": {FEED: 1}}, {DID: {FEED: 23}}])
def test_publisher_feed_and_version_must_be_accepted(accepted: dict[str, dict[str, int]]) -> None:
    assert rule(policy=replace(ENDORSED, uvm=accepted), uvm=UVM) == "endorsement"


def test_an_endorsement_is_of_the_reports_measurement() -> None:
    assert rule(policy=ENDORSED, uvm=forge_uvm(measurement="b1" * 48)[0]) == "endorsement"


def test_an_endorsement_is_verified_and_not_only_read() -> None:
    assert rule(policy=ENDORSED, uvm=forge_uvm(foreign_key=True)[0]) == "endorsement"
    assert rule(policy=ENDORSED) == "measurement"


# Then.


def test_a_recorded_report_needs_no_nonce() -> None:
    ccf = forge_report(report_data=sha256(PUBLIC_KEY).digest() + bytes(32))
    policy = replace(POLICY, arks=ccf.arks)
    verify_recorded(ccf.report, ccf.endorsements, None, policy, at_ms=NOW_MS, public_key=PUBLIC_KEY)
    verify_recorded(ccf.report, ccf.endorsements, None, policy, at_ms=NOW_MS)


@pytest.mark.parametrize(
    ("different", "expected"),
    [
        ({"public_key": b"another"}, "public_key"),
        ({"at_ms": NOW_MS + 86_400_000 * 3_000}, "validity"),
        ({"policy": replace(POLICY, host_data=frozenset())}, "host_data"),
        ({"policy": replace(POLICY, least_tcb=())}, "tcb"),
    ],
)
def test_a_recorded_report_meets_the_same_policy(different: dict[str, Any], expected: str) -> None:
    arguments: dict[str, Any] = {"policy": POLICY, "at_ms": NOW_MS, "public_key": PUBLIC_KEY} | different
    policy = arguments.pop("policy")
    with pytest.raises(AttestationError) as refusal:
        verify_recorded(CORRECT.report, CORRECT.endorsements, None, policy, **arguments)
    assert refusal.value.rule == expected


# CCF's tables.


def test_azures_report_is_accepted_by_a_policy_in_ccfs_form() -> None:
    text = vectors("snp", "azure_aci_security_policy.txt").read_bytes()
    uvm = vectors("snp", "azure_aci_uvm_reference_info.cose").read_bytes()
    policy = policy_of(
        host_data=[sha256(text).hexdigest().encode()],
        uvm_endorsements=[
            (
                b"did:x509:0:sha256:I__iuL25oXEVFdTP_aBLx_eT1RPHbCQ_ECBQfYZpt9s::eku:1.3.6.1.4.1.311.76.59.1.2",
                b'{"ContainerPlat-AMD-UVM":{"svn":"22"}}',
            )
        ],
        tcb_versions=[(b"00a00f11", b'{"boot_loader":3,"tee":0,"snp":8,"microcode":115}')],
    )
    report = vectors("snp", "azure_aci_milan_report.bin").read_bytes()
    chain = b"".join(vectors("snp", f"{name}.pem").read_bytes() for name in ("azure_aci_milan_leaf", "ask_milan", "ark_milan"))
    assert verify_recorded(report, chain, uvm, policy, at_ms=1_700_000_000_000).product == "Milan"
    with pytest.raises(AttestationError) as refusal:
        verify_recorded(report, chain, uvm, replace(policy, host_data=frozenset({bytes(32)})), at_ms=1_700_000_000_000)
    assert refusal.value.rule == "host_data"


def test_rows_of_every_table_are_read() -> None:
    policy = policy_of(
        measurements=[MEASUREMENT.hex().encode()],
        host_data=[HOST_DATA.hex().encode()],
        uvm_endorsements=[(b"did:x509:x", b'{"a":{"svn":"1"},"b":{"svn":"100"}}')],
        tcb_versions=[
            (b"00a00f11", b'{"boot_loader":4,"microcode":219,"snp":24,"tee":0}'),
            (b"00b00f11", b'{"fmc":1,"boot_loader":2,"microcode":81,"snp":4,"tee":3}'),
            (b"00a10f11", b'{"hexstring":"541700000000000a"}'),
        ],
    )
    assert policy.measurements == {MEASUREMENT}
    assert policy.host_data == {HOST_DATA}
    assert policy.uvm == {"did:x509:x": {"a": 1, "b": 100}}
    assert policy.least_tcb == (
        LeastTcb(MILAN, Tcb(4, 0, 24, 219)),
        LeastTcb(Cpu(0x1A, 1, 1), Tcb(2, 3, 4, 81, 1)),
        LeastTcb(Cpu(0x19, 0x11, 1), Tcb(10, 0, 23, 84)),
    )


@pytest.mark.parametrize("text", ["00a00f11", "00a10f11", "00b00f11", "00aa0f02"])
def test_processors_are_numbered_as_cpuid_does(text: str) -> None:
    assert cpuid(parse_cpuid(text)) == text


TCB_ROW = {"boot_loader": 4, "microcode": 219, "snp": 24, "tee": 0}


@pytest.mark.parametrize(
    "rows",
    [
        {"measurements": [b"b0" * 47]},
        {"measurements": [b"B0" * 48]},
        {"measurements": [b"\xff" * 96]},
        {"host_data": [b"zz" * 32]},
        {"uvm_endorsements": [(b"did", b"[]")]},
        {"uvm_endorsements": [(b"did", b'{"feed":{}}')]},
        {"uvm_endorsements": [(b"did", b'{"feed":{"svn":"x"}}')]},
        {"uvm_endorsements": [(b"did", b'{"feed":1}')]},
        {"uvm_endorsements": [(b"\xff", b'{"feed":{"svn":"1"}}')]},
        {"tcb_versions": [(b"00A00F11", json.dumps(TCB_ROW).encode())]},
        {"tcb_versions": [(b"a00f11", json.dumps(TCB_ROW).encode())]},
        {"tcb_versions": [(b"00000000", json.dumps(TCB_ROW).encode())]},
        {"tcb_versions": [(b"00b00f11", json.dumps(TCB_ROW).encode())]},  # Turin without fmc
        {"tcb_versions": [(b"00a00f11", json.dumps(TCB_ROW | {"fmc": 0}).encode())]},
        {"tcb_versions": [(b"00a00f11", json.dumps(TCB_ROW | {"tee": 256}).encode())]},
        {"tcb_versions": [(b"00a00f11", json.dumps(TCB_ROW | {"tee": True}).encode())]},
        {"tcb_versions": [(b"00a00f11", b"{}")]},
        {"tcb_versions": [(b"00a00f11", b'{"hexstring":"00"}')]},
        {"tcb_versions": [(b"00a00f11", b"not JSON")]},
    ],
)
def test_rows_of_another_form_are_a_configuration_error(rows: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        policy_of(**rows)
