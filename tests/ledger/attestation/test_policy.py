"""Each reason for not wanting an enclave that is one, and the difference between now and then."""

from dataclasses import replace
from datetime import timedelta
from hashlib import sha384
from typing import Any

import pytest

from ledgerd.ledger.attestation.errors import AttestationError
from ledgerd.ledger.attestation.measurement import Measurement
from ledgerd.ledger.attestation.nitro import Attestation
from ledgerd.ledger.attestation.policy import AGE_MS_MAX_DEFAULT, CLOCK_SKEW_MS_MAX, Policy, verify_now, verify_recorded
from ledgerd.ledger.attestation.roots import AWS_ROOT_G1
from ledgerd.ledger.errors import UsageError
from support.documents import IMAGE, INSTANCE_ID, LEAF, MADE_AT_MS, NONCE, PUBLIC_KEY, USER_DATA, Forged, forge

CORRECT = forge()
OTHER = b"\x0f" * 48


def now(forged: Forged = CORRECT, policy: Policy | None = None, **different: Any) -> Attestation:
    arguments: dict[str, Any] = {"now_ms": MADE_AT_MS, "nonce": NONCE, "public_key": PUBLIC_KEY, "user_data": USER_DATA}
    return verify_now(forged.document, policy or forged.policy, **(arguments | different))


def rule(forged: Forged = CORRECT, policy: Policy | None = None, **different: Any) -> str:
    with pytest.raises(AttestationError) as refusal:
        now(forged, policy, **different)
    return refusal.value.rule


def allowing(*lines: Measurement) -> Policy:
    return replace(CORRECT.policy, measurements=frozenset(lines))


def test_a_document_made_for_the_caller_just_now_is_accepted() -> None:
    assert now().nonce == NONCE


def test_debug_enclaves_are_refused_whatever_is_listed() -> None:
    zero = bytes(48)
    forged = forge(pcrs={0: zero, 1: zero, 2: zero})
    assert rule(forged) == "debug"
    assert rule(forged, replace(forged.policy, measurements=frozenset({Measurement(zero, zero, zero)}))) == "debug"


@pytest.mark.parametrize("index", [0, 1, 2])
def test_every_one_of_the_three_measurements_counts(index: int) -> None:
    assert rule(forge(pcrs={index: OTHER})) == "measurement"


def test_measurements_of_different_lines_do_not_mix() -> None:
    first, second = IMAGE._replace(pcr1=OTHER), IMAGE._replace(pcr2=OTHER)
    assert rule(policy=allowing(first, second)) == "measurement"
    assert now(policy=allowing(first, second, IMAGE)).pcrs[0] == IMAGE.pcr0


def test_an_empty_allow_list_accepts_nobody() -> None:
    assert rule(policy=allowing()) == "measurement"


@pytest.mark.parametrize(("index", "name"), [(3, "pcr3"), (8, "pcr8")])
def test_signer_and_role_count_where_they_are_listed(index: int, name: str) -> None:
    policy = allowing(IMAGE._replace(**{name: OTHER}))
    assert rule(policy=policy) == "measurement"
    forged = forge(pcrs={index: OTHER})
    now(forged, replace(policy, roots=forged.policy.roots))
    now(forged)


def test_a_refused_image_is_named_so_that_members_can_judge_it() -> None:
    with pytest.raises(AttestationError) as refusal:
        now(policy=allowing(IMAGE._replace(pcr0=OTHER)))
    assert all(pcr.hex() in refusal.value.seen for pcr in IMAGE[:3])
    assert OTHER.hex() in refusal.value.expected


@pytest.mark.parametrize(
    "change", [{"module_id": "i-0fedcba9876543210-enc01"}, {"module_id": INSTANCE_ID}, {"module_id": f"{INSTANCE_ID}-enc"}]
)
def test_a_module_whose_instance_was_not_measured_is_refused(change: dict[str, str]) -> None:
    assert rule(forge(change=change)) == "module"


def test_pcr4_must_be_there_and_right() -> None:
    assert rule(forge(pcrs={4: sha384(b"i-0fedcba9876543210").digest()})) == "module"
    assert rule(forge(change={"pcrs": {0: IMAGE.pcr0, 1: IMAGE.pcr1, 2: IMAGE.pcr2}})) == "module"


@pytest.mark.parametrize("nonce", [None, b"", NONCE[:-1], NONCE + b"\x00", bytes(32)])
def test_any_other_nonce_is_refused(nonce: bytes | None) -> None:
    assert rule(forge(change={"nonce": nonce})) == "nonce"


def test_a_caller_cannot_do_without_a_nonce() -> None:
    for nonce in (b"", bytes(15)):
        with pytest.raises(UsageError):
            now(forge(change={"nonce": nonce}), nonce=nonce)


@pytest.mark.parametrize("name", ["public_key", "user_data"])
def test_bindings_are_compared_where_the_caller_states_them(name: str) -> None:
    stated: dict[str, Any] = {name: b"something else"}
    assert rule(**stated) == name
    assert rule(forge(change={name: None})) == name
    left_to_the_caller: dict[str, Any] = {name: None}
    assert getattr(now(**left_to_the_caller), name) in (PUBLIC_KEY, USER_DATA)


DIGEST = sha384(b"a configuration").digest()[:32]


def test_pcr16_is_judged_where_the_caller_states_a_configuration() -> None:
    """The platform's arithmetic: SHA-384 of 48 zero bytes and of the data, which is not hashed before."""
    measured = forge(pcrs={16: sha384(bytes(48) + DIGEST).digest()})
    assert now(measured, configuration=DIGEST).pcrs[16] == sha384(bytes(48) + DIGEST).digest()
    assert rule(measured, configuration=bytes(32)) == "configuration"
    assert rule(CORRECT, configuration=DIGEST) == "configuration"  # it lists no PCR16
    assert rule(forge(pcrs={16: bytes(48)}), configuration=DIGEST) == "configuration"
    now(measured)
    with pytest.raises(AttestationError) as refusal:
        verify_recorded(CORRECT.document, CORRECT.policy, at_ms=MADE_AT_MS, configuration=DIGEST)
    assert refusal.value.rule == "configuration"
    assert refusal.value.seen == "PCR16 absent"
    verify_recorded(measured.document, measured.policy, at_ms=MADE_AT_MS, configuration=DIGEST)


def test_age_is_bounded_on_both_sides() -> None:
    oldest = MADE_AT_MS + AGE_MS_MAX_DEFAULT + CLOCK_SKEW_MS_MAX
    now(now_ms=oldest)
    assert rule(now_ms=oldest + 1) == "age"
    now(now_ms=MADE_AT_MS - CLOCK_SKEW_MS_MAX)
    assert rule(now_ms=MADE_AT_MS - CLOCK_SKEW_MS_MAX - 1) == "age"


def test_a_stated_age_holds() -> None:
    policy = replace(CORRECT.policy, age_ms_max=1_000)
    now(policy=policy, now_ms=MADE_AT_MS + 1_000 + CLOCK_SKEW_MS_MAX)
    assert rule(policy=policy, now_ms=MADE_AT_MS + 1_001 + CLOCK_SKEW_MS_MAX) == "age"


def test_certificates_are_judged_now_and_not_only_when_the_document_was_made() -> None:
    forged = forge(shapes={LEAF: {"lifetime": timedelta(minutes=2)}})
    assert now(forged, now_ms=MADE_AT_MS + 30_000).nonce == NONCE
    assert rule(forged, now_ms=MADE_AT_MS + 90_000) == "validity"


def test_a_verifier_whose_clock_is_a_little_behind_accepts_a_leaf_of_this_second() -> None:
    forged = forge(shapes={LEAF: {"begins": timedelta(0)}})
    assert now(forged, now_ms=MADE_AT_MS - 2_000).nonce == NONCE


def test_a_foreign_root_is_refused_before_anything_is_believed() -> None:
    assert rule(policy=replace(CORRECT.policy, roots=(AWS_ROOT_G1,)), nonce=bytes(32)) == "root"


# Then.


def test_a_recorded_document_needs_no_nonce_and_may_be_old() -> None:
    attestation = verify_recorded(CORRECT.document, CORRECT.policy, at_ms=MADE_AT_MS + 3_600_000)
    assert attestation.nonce == NONCE


@pytest.mark.parametrize(("at_ms", "expected"), [(MADE_AT_MS + 4 * 3_600_000, "validity"), (MADE_AT_MS - 3_600_000, "validity")])
def test_a_recorded_document_is_judged_when_it_was_recorded(at_ms: int, expected: str) -> None:
    with pytest.raises(AttestationError) as refusal:
        verify_recorded(CORRECT.document, CORRECT.policy, at_ms=at_ms)
    assert refusal.value.rule == expected


def test_a_document_recorded_before_it_was_made_is_refused() -> None:
    forged = forge(change={"timestamp": MADE_AT_MS + CLOCK_SKEW_MS_MAX + 1})
    with pytest.raises(AttestationError) as refusal:
        verify_recorded(forged.document, forged.policy, at_ms=MADE_AT_MS)
    assert refusal.value.rule == "age"


@pytest.mark.parametrize(
    ("forged", "expected"),
    [
        (forge(pcrs={0: bytes(48)}), "debug"),
        (forge(pcrs={0: OTHER}), "measurement"),
        (forge(pcrs={4: OTHER}), "module"),
        (forge(change={"public_key": b"other"}), "public_key"),
        (forge(change={"user_data": b"other"}), "user_data"),
    ],
)
def test_a_recorded_document_meets_the_same_policy(forged: Forged, expected: str) -> None:
    with pytest.raises(AttestationError) as refusal:
        verify_recorded(forged.document, forged.policy, at_ms=MADE_AT_MS, public_key=PUBLIC_KEY, user_data=USER_DATA)
    assert refusal.value.rule == expected
