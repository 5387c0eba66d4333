"""Simulated documents beside genuine ones: same form, another root, and our own verifier judges them."""

import json
import threading
from datetime import UTC, datetime
from typing import Any

import cbor2
import pytest
from cryptography import x509

from ledgerd.enclave import nsm
from ledgerd.ledger.attestation.errors import AttestationError
from ledgerd.ledger.attestation.measurement import Measurement, instance_pcr
from ledgerd.ledger.attestation.nitro import decode, verify
from ledgerd.ledger.attestation.policy import Policy, verify_now
from ledgerd.ledger.attestation.roots import AWS_ROOT_G1, parse_roots
from ledgerd.ledger.errors import ConfigurationError
from ledgerd.node.simulator.nsm import SimulatedNsm
from ledgerd.node.simulator.pki import SimulatedRoot, make_root
from support.vectors import vectors

ROOT = make_root(datetime(2026, 1, 1, tzinfo=UTC))
IMAGE = Measurement(b"\xa0" * 48, b"\xa1" * 48, b"\xa2" * 48)
PCRS = {0: IMAGE.pcr0, 1: IMAGE.pcr1, 2: IMAGE.pcr2}
BEGIN_S = datetime(2026, 6, 1, 12, 0, 0, 250_000, tzinfo=UTC).timestamp()
NONCE = bytes(32)


class Clock:
    """Seconds since 1970, set by the test."""

    def __init__(self) -> None:
        self.now_s = BEGIN_S

    def __call__(self) -> float:
        return self.now_s


def document(module: SimulatedNsm) -> bytes:
    return nsm.attestation(module, user_data=b"data", nonce=NONCE, public_key=b"key")


def payload(data: bytes) -> dict[str, Any]:
    fields: dict[str, Any] = cbor2.loads(cbor2.loads(data)[2])
    return fields


def policy(root: SimulatedRoot = ROOT) -> Policy:
    return Policy(parse_roots([root.certificate_pem]), frozenset({IMAGE}))


def genuine(name: str) -> bytes:
    """A genuine document of 2026, or of 2025 with a definite payload."""
    return vectors("nitro", {"indefinite": "genuine-20260206-1ad417fa.bin", "definite": "genuine-20250106-19b71700.bin"}[name]).read_bytes()


@pytest.mark.parametrize("indefinite", [True, False])
def test_simulated_documents_pass_the_strict_verifier_and_say_that_they_are_simulated(indefinite: bool) -> None:
    module = SimulatedNsm(ROOT, PCRS, clock=Clock(), indefinite=indefinite)
    attestation = verify_now(document(module), policy(), now_ms=int(BEGIN_S * 1000), nonce=NONCE, public_key=b"key", user_data=b"data")
    assert attestation.simulated
    assert attestation.timestamp_ms == int(BEGIN_S * 1000)
    assert attestation.module_id == module.module_id


def test_no_simulated_document_passes_where_aws_is_the_only_root() -> None:
    with pytest.raises(AttestationError) as refusal:
        verify(document(SimulatedNsm(ROOT, PCRS, clock=Clock())), [AWS_ROOT_G1], at_ms=None)
    assert refusal.value.rule == "root"


def test_one_simulated_platform_does_not_vouch_for_another() -> None:
    with pytest.raises(AttestationError) as refusal:
        verify(document(SimulatedNsm(make_root(), PCRS)), policy().roots, at_ms=None)
    assert refusal.value.rule == "root"


@pytest.mark.parametrize("form", ["indefinite", "definite"])
def test_envelope_keys_and_types_are_those_of_genuine_documents(form: str) -> None:
    real, made = genuine(form), document(SimulatedNsm(ROOT, PCRS, clock=Clock(), indefinite=form == "indefinite"))
    assert made[:7] == real[:7]  # array of four, protected header, no unprotected one
    assert made[10:11] == real[10:11] == (b"\xbf" if form == "indefinite" else b"\xa9")
    assert len(cbor2.loads(made)[3]) == len(cbor2.loads(real)[3]) == 96
    said, expected = payload(made), payload(real)
    assert list(said) == list(expected)  # nine keys, in this order
    assert [type(said[key]) for key in list(said)[:6]] == [type(expected[key]) for key in list(said)[:6]]
    assert list(said["pcrs"]) == list(expected["pcrs"]) == list(range(16))
    assert {len(value) for value in said["pcrs"].values()} == {48}
    assert len(said["module_id"]) == len(expected["module_id"])
    assert abs(len(made) - len(real)) < 400


def names(name: x509.Name) -> list[tuple[str, str]]:
    return [(attribute.oid.dotted_string, attribute._type.name) for attribute in name]


@pytest.mark.parametrize("form", ["indefinite", "definite"])
def test_certificates_have_the_shape_of_genuine_ones(form: str) -> None:
    real, made = decode(genuine(form)), decode(document(SimulatedNsm(ROOT, PCRS, clock=Clock())))
    assert len(made.cabundle) == len(real.cabundle) == 4
    for depth, (der, expected_der) in enumerate(zip((*made.cabundle, made.certificate), (*real.cabundle, real.certificate), strict=True)):
        certificate, expected = x509.load_der_x509_certificate(der), x509.load_der_x509_certificate(expected_der)
        assert certificate.version is expected.version
        assert certificate.signature_algorithm_oid == expected.signature_algorithm_oid
        assert names(certificate.subject) == names(expected.subject)
        assert names(certificate.issuer) == names(expected.issuer)
        shape = [(extension.oid, extension.critical) for extension in certificate.extensions]
        assert shape == [(extension.oid, extension.critical) for extension in expected.extensions], depth
        for kind in (x509.BasicConstraints, x509.KeyUsage):
            assert certificate.extensions.get_extension_for_class(kind) == expected.extensions.get_extension_for_class(kind)
        lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        expected_lifetime = expected.not_valid_after_utc - expected.not_valid_before_utc
        assert abs(lifetime - expected_lifetime).total_seconds() <= (86_400 if depth in (0, 2) else 0)
        assert abs(len(der) - len(expected_der)) < 100


def test_every_certificate_below_the_root_says_simulated_and_none_says_amazon() -> None:
    said = decode(document(SimulatedNsm(ROOT, PCRS, clock=Clock())))
    for der in (*said.cabundle, said.certificate):
        subject = x509.load_der_x509_certificate(der).subject.rfc4514_string()
        assert "SIMULATED" in subject and "simulated" in subject
        assert "Amazon" not in subject


def test_pcr4_follows_from_the_instance_and_what_was_not_measured_is_zero() -> None:
    module = SimulatedNsm(ROOT, PCRS, instance_id="i-0123456789abcdef0", clock=Clock())
    pcrs = payload(document(module))["pcrs"]
    assert pcrs[4] == instance_pcr("i-0123456789abcdef0")
    assert {index: pcrs[index] for index in (0, 1, 2)} == PCRS
    assert all(pcrs[index] == bytes(48) for index in (3, *range(5, 16)))


def test_debug_zeroes_the_image_but_not_the_instance() -> None:
    made = document(SimulatedNsm(ROOT, PCRS | {3: b"\x03" * 48, 8: b"\x08" * 48}, debug=True, clock=Clock()))
    pcrs = payload(made)["pcrs"]
    assert {pcrs[index] for index in (0, 1, 2, 8)} == {bytes(48)}
    assert bytes(48) not in (pcrs[3], pcrs[4])
    with pytest.raises(AttestationError) as refusal:
        verify_now(made, policy(), now_ms=int(BEGIN_S * 1000), nonce=NONCE, public_key=None, user_data=None)
    assert refusal.value.rule == "debug"


@pytest.mark.parametrize("pcrs", [{16: bytes(48)}, {-1: bytes(48)}, {0: bytes(47)}])
def test_pcrs_that_no_boot_measures_are_refused(pcrs: dict[int, bytes]) -> None:
    with pytest.raises(ConfigurationError):
        SimulatedNsm(ROOT, pcrs)


def test_optional_fields_are_null_where_nothing_is_given() -> None:
    said = payload(nsm.attestation(SimulatedNsm(ROOT, PCRS, clock=Clock()), user_data=None, nonce=None, public_key=None))
    assert [said[name] for name in ("public_key", "user_data", "nonce")] == [None, None, None]


def test_high_and_low_s_both_occur() -> None:
    module = SimulatedNsm(ROOT, PCRS, clock=Clock())
    signatures = {document(module)[-48] < 0x80 for _ in range(64)}  # the highest bit of s: all alike once in 2^63 runs
    assert signatures == {True, False}


def chain_at(module: SimulatedNsm, clock: Clock, hours: float) -> list[bytes]:
    clock.now_s = BEGIN_S + hours * 3_600
    made = document(module)
    verify(made, policy().roots, at_ms=None)
    said = decode(made)
    return [*said.cabundle, said.certificate]


def test_the_leaf_is_reused_for_its_three_hours_and_every_part_is_renewed_when_it_has_run_out() -> None:
    clock = Clock()
    module = SimulatedNsm(ROOT, PCRS, clock=clock)
    chain = chain_at(module, clock, 0)
    assert chain_at(module, clock, 2.99) == chain
    for hours, kept in ((3.1, 4), (25, 3), (24 * 6, 2), (24 * 21, 1)):
        renewed = chain_at(module, clock, hours)
        assert renewed[:kept] == chain[:kept], hours
        assert all(new != old for new, old in zip(renewed[kept:], chain[kept:], strict=True)), hours
        chain = renewed


def test_a_clock_that_steps_back_gets_a_chain_that_is_valid_then() -> None:
    clock = Clock()
    module = SimulatedNsm(ROOT, PCRS, clock=clock)
    chain = chain_at(module, clock, 0)
    assert chain_at(module, clock, -24 * 100)[1:] != chain[1:]


def test_threads_share_one_chain() -> None:
    module = SimulatedNsm(ROOT, PCRS, clock=Clock())
    made: list[bytes] = []
    threads = [threading.Thread(target=lambda: made.extend(document(module) for _ in range(8))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 64
    assert len({decode(each).certificate for each in made}) == 1
    for each in made:
        verify(each, policy().roots, at_ms=None)


def test_a_root_survives_being_written_and_read() -> None:
    read = SimulatedRoot(json.loads(json.dumps(ROOT.certificate_pem)), bytes(ROOT.key_pem))
    verify(document(SimulatedNsm(read, PCRS)), policy().roots, at_ms=None)


@pytest.mark.parametrize(
    "root",
    [
        SimulatedRoot("", b""),
        SimulatedRoot(ROOT.certificate_pem, b""),
        SimulatedRoot(ROOT.certificate_pem, make_root().key_pem),
        SimulatedRoot(ROOT.key_pem.decode(), ROOT.key_pem),
    ],
)
def test_a_root_that_is_broken_or_mixed_is_a_configuration_error(root: SimulatedRoot) -> None:
    with pytest.raises(ConfigurationError):
        SimulatedNsm(root, PCRS)
