"""One door for every platform: each format goes to its verifier, and what nobody verifies is refused."""

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256, sha384
from typing import Any

import pytest

from ledgerd.ledger.attestation.errors import AttestationError
from ledgerd.ledger.attestation.evidence import NITRO, SNP, Accepted, Evidence, NitroVerifier, SnpVerifier, Verdict
from ledgerd.ledger.attestation.snp import Cpu, Tcb
from ledgerd.ledger.attestation.snp_policy import LeastTcb, SnpPolicy
from support import documents, reports

DOCUMENT = documents.forge()
REPORT = reports.forge_report()
SNP_POLICY = SnpPolicy(
    frozenset({reports.MEASUREMENT}),
    {},
    frozenset({reports.HOST_DATA}),
    (LeastTcb(Cpu(0x19, 1, 1), Tcb(0, 0, 0, 0)),),
    arks=REPORT.arks,
)
EVIDENCE = {
    NITRO: Evidence(NITRO, DOCUMENT.document),
    SNP: Evidence(SNP, REPORT.report, REPORT.endorsements),
}
NOW: dict[str, dict[str, Any]] = {
    NITRO: {
        "now_ms": documents.MADE_AT_MS,
        "nonce": documents.NONCE,
        "public_key": documents.PUBLIC_KEY,
        "user_data": documents.USER_DATA,
        "configuration": None,
    },
    SNP: {
        "now_ms": reports.NOW_MS,
        "nonce": reports.NONCE,
        "public_key": reports.PUBLIC_KEY,
        "user_data": reports.USER_DATA,
        "configuration": None,
    },
}
BOTH = Accepted([NitroVerifier(DOCUMENT.policy), SnpVerifier(SNP_POLICY)])


def test_a_consortium_may_mix_platforms() -> None:
    nitro = BOTH.verifier_of(EVIDENCE[NITRO]).verify_now(EVIDENCE[NITRO], **NOW[NITRO])
    assert (nitro.format, nitro.code_digest, nitro.machine) == (NITRO, documents.IMAGE.pcr0, documents.MODULE_ID)
    snp = BOTH.verifier_of(EVIDENCE[SNP]).verify_now(EVIDENCE[SNP], **NOW[SNP])
    assert (snp.format, snp.code_digest) == (SNP, reports.MEASUREMENT)
    assert snp.machine.startswith("Milan ")
    assert nitro.simulated
    assert snp.simulated


@pytest.mark.parametrize("kind", [NITRO, SNP])
@pytest.mark.parametrize("name", ["nonce", "public_key", "user_data"])
def test_what_the_caller_states_must_be_attested(kind: str, name: str) -> None:
    with pytest.raises(AttestationError) as refusal:
        BOTH.verifier_of(EVIDENCE[kind]).verify_now(EVIDENCE[kind], **NOW[kind] | {name: bytes(32)})
    assert refusal.value.rule in (name, "nonce")


def test_a_configuration_reaches_the_register_that_measures_it() -> None:
    digest = sha256(b"a configuration").digest()
    measured = documents.forge(pcrs={16: sha384(bytes(48) + digest).digest()})
    verifier, evidence = NitroVerifier(measured.policy), Evidence(NITRO, measured.document)
    assert verifier.verify_now(evidence, **NOW[NITRO] | {"configuration": digest}).format == NITRO
    with pytest.raises(AttestationError) as refusal:
        verifier.verify_now(evidence, **NOW[NITRO] | {"configuration": sha256(b"another").digest()})
    assert refusal.value.rule == "configuration"


@pytest.mark.parametrize("kind", [NITRO, SNP])
def test_recorded_evidence_is_judged_when_it_was_recorded(kind: str) -> None:
    verifier, at_ms, key = BOTH.verifier_of(EVIDENCE[kind]), NOW[kind]["now_ms"], NOW[kind]["public_key"]
    assert verifier.verify_recorded(EVIDENCE[kind], at_ms=at_ms, public_key=key).format == kind
    for arguments, expected in (({"at_ms": 0}, "validity"), ({"at_ms": at_ms, "public_key": b"another"}, "public_key")):
        with pytest.raises(AttestationError) as refusal:
            verifier.verify_recorded(EVIDENCE[kind], **arguments)
        assert refusal.value.rule == expected


@pytest.mark.parametrize("kind", ["", "OE_SGX_v1", "Insecure_Virtual", "aws_nitro_v1", "x" * 10_000])
def test_what_nobody_verifies_is_refused(kind: str) -> None:
    with pytest.raises(AttestationError) as refusal:
        BOTH.verifier_of(Evidence(kind, DOCUMENT.document))
    assert refusal.value.rule == "format"
    assert len(str(refusal.value)) < 500


def test_a_platform_is_refused_unless_the_policy_names_it() -> None:
    with pytest.raises(AttestationError) as refusal:
        Accepted([NitroVerifier(DOCUMENT.policy)]).verifier_of(EVIDENCE[SNP])
    assert refusal.value.rule == "format"
    with pytest.raises(AttestationError, match="none is accepted"):
        Accepted([]).verifier_of(EVIDENCE[NITRO])


@pytest.mark.parametrize("kind", [NITRO, SNP])
def test_evidence_of_one_platform_is_nothing_to_the_other(kind: str) -> None:
    evidence = EVIDENCE[SNP if kind == NITRO else NITRO]._replace(format=kind, endorsements=b"", uvm_endorsement=None)
    with pytest.raises(AttestationError) as refusal:
        BOTH.verifier_of(evidence).verify_now(evidence, **NOW[kind])
    assert refusal.value.rule in ("form", "size")


@pytest.mark.parametrize("change", [{"endorsements": b"x"}, {"uvm_endorsement": b""}])
def test_a_nitro_document_has_nothing_beside_it(change: dict[str, Any]) -> None:
    evidence = EVIDENCE[NITRO]._replace(**change)
    verifier = NitroVerifier(DOCUMENT.policy)
    judges: list[Callable[[], Verdict]] = [
        lambda: verifier.verify_now(evidence, **NOW[NITRO]),
        lambda: verifier.verify_recorded(evidence, at_ms=documents.MADE_AT_MS),
    ]
    for judge in judges:
        with pytest.raises(AttestationError) as refusal:
            judge()
        assert refusal.value.rule == "form"


def test_an_endorsement_reaches_the_policy() -> None:
    message, did = reports.forge_uvm()
    policy = replace(SNP_POLICY, measurements=frozenset(), uvm={did: {reports.FEED: 22}})
    evidence = EVIDENCE[SNP]._replace(uvm_endorsement=message)
    assert SnpVerifier(policy).verify_now(evidence, **NOW[SNP]).code_digest == reports.MEASUREMENT
    assert SnpVerifier(policy).verify_recorded(evidence, at_ms=reports.NOW_MS).code_digest == reports.MEASUREMENT
