"""Documents that AWS made, 2021 to 2026, and some that only look so. What they say stands in the vectors' manifest."""

import json
import random
from typing import Any

import pytest

from ledgerd.ledger.attestation.errors import AttestationError
from ledgerd.ledger.attestation.measurement import Measurement
from ledgerd.ledger.attestation.nitro import Attestation, decode, verify
from ledgerd.ledger.attestation.policy import Policy, check_debug, check_module, verify_recorded
from ledgerd.ledger.attestation.roots import AWS_ROOT_G1, AWS_ROOT_G1_FINGERPRINT, AWS_ROOT_G1_PEM, parse_roots
from support.vectors import vectors

ROOTS = (AWS_ROOT_G1,)


def manifest() -> list[dict[str, Any]]:
    documents: list[dict[str, Any]] = json.loads(vectors("nitro", "manifest.json").read_text())["documents"]
    return documents


def judge(entry: dict[str, Any]) -> Attestation:
    return verify(vectors("nitro", entry["file"]).read_bytes(), ROOTS, at_ms=entry.get("verify_at_ms"))


def test_the_built_in_root_is_the_one_that_aws_documents() -> None:
    assert AWS_ROOT_G1.fingerprint == AWS_ROOT_G1_FINGERPRINT
    assert not AWS_ROOT_G1.simulated
    assert parse_roots([vectors("nitro", "aws_nitro_root_g1.pem").read_text()]) == parse_roots([AWS_ROOT_G1_PEM]) == ROOTS


def test_every_genuine_document_verifies_and_says_what_the_manifest_says() -> None:
    valid = [entry for entry in manifest() if entry["expect"] == "valid"]
    assert valid
    for entry in valid:
        attestation = judge(entry)
        assert attestation.module_id == entry["module_id"]
        assert attestation.debug == entry["debug"], entry["file"]
        assert sorted(attestation.pcrs) == entry["pcrs"].pop("_indices")
        assert {index: attestation.pcrs[int(index)].hex() for index in entry["pcrs"]} == entry["pcrs"]
        assert (attestation.root, attestation.simulated) == (AWS_ROOT_G1_FINGERPRINT, False)
        check_module(attestation)


def test_genuine_debug_documents_are_refused_by_policy() -> None:
    debugging = [entry for entry in manifest() if entry["expect"] == "valid" and entry["debug"]]
    assert debugging
    for entry in debugging:
        with pytest.raises(AttestationError) as refusal:
            check_debug(judge(entry))
        assert refusal.value.rule == "debug"


def test_documents_that_only_look_genuine_are_refused() -> None:
    rules = {}
    for entry in manifest():
        if entry["expect"] == "invalid":
            with pytest.raises(AttestationError) as refusal:
                judge(entry)
            rules[entry["file"]] = refusal.value.rule
    assert rules == {
        "negative-selfsigned-e388022c.bin": "form",  # it has an unprotected header
        "negative-20240723-5f42eb91.bin": "signature",  # genuine once; its payload was changed
        "negative-unsigned-emulated.bin": "algorithm",
    }


def test_genuine_documents_are_judged_at_the_time_that_is_given() -> None:
    for entry in manifest():
        if entry["expect"] == "valid":
            document = vectors("nitro", entry["file"]).read_bytes()
            for at_ms in (entry["verify_at_ms"] + 4 * 3_600_000, entry["verify_at_ms"] - 4 * 3_600_000, 0, 1 << 70):
                with pytest.raises(AttestationError) as refusal:
                    verify(document, ROOTS, at_ms=at_ms)
                assert refusal.value.rule == "validity"


def test_a_genuine_image_is_accepted_only_where_its_three_measurements_are_listed() -> None:
    entry = next(entry for entry in manifest() if entry["expect"] == "valid" and not entry["debug"])
    document = vectors("nitro", entry["file"]).read_bytes()
    image = Measurement(*(bytes.fromhex(entry["pcrs"][index]) for index in "012"))
    policy = Policy(ROOTS, frozenset({image}))
    assert verify_recorded(document, policy, at_ms=entry["verify_at_ms"]).pcrs[0] == image.pcr0
    with pytest.raises(AttestationError) as refusal:
        verify_recorded(document, Policy(ROOTS, frozenset({image._replace(pcr2=b"\x01" * 48)})), at_ms=entry["verify_at_ms"])
    assert refusal.value.rule == "measurement"


def test_flipped_bits_of_genuine_documents_are_refused() -> None:
    entries = [entry for entry in manifest() if entry["expect"] == "valid"]
    chosen = random.Random(1)
    for entry in entries:
        document = vectors("nitro", entry["file"]).read_bytes()
        # Every bit of the framing and of the signature would take seconds; a sample over all documents does as well.
        for bit in chosen.sample(range(8 * len(document)), 250):
            changed = bytearray(document)
            changed[bit // 8] ^= 1 << bit % 8
            with pytest.raises(AttestationError):
                verify(bytes(changed), ROOTS, at_ms=entry["verify_at_ms"])


def test_both_payload_forms_are_among_the_genuine_documents() -> None:
    forms = {entry["payload_map"]: vectors("nitro", entry["file"]).read_bytes() for entry in manifest() if entry["expect"] == "valid"}
    assert decode(forms["definite"]).payload[0] == 0xA9
    assert decode(forms["indefinite"]).payload[0] == 0xBF
