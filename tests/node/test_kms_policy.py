"""The key policy for an image, evaluated as printed: by a simulated KMS, against every way around it that we know."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from ledgerd.ledger.errors import ConfigurationError
from ledgerd.node.kms_policy import ADMINISTRATION, DISCLOSING, NEVER, condition_key, key_policy, print_policy
from ledgerd.node.simulator.key_policy import KeyPolicy, Request

ROLE = "arn:aws:iam::111122223333:role/node"
ADMIN = "arn:aws:iam::111122223333:role/keys"
STRANGER = "arn:aws:iam::111122223333:role/stranger"
KEY = "arn:aws:kms:eu-central-1:111122223333:key/a"
A = {0: b"\xa0" * 48, 1: b"\xa1" * 48, 2: b"\xa2" * 48}
B = {0: b"\xb0" * 48, 1: b"\xb1" * 48, 2: b"\xb2" * 48}
EVERYTHING = KeyPolicy({"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}}, of_key=False)
CARELESS = {"Effect": "Allow", "Principal": {"AWS": "111122223333"}, "Action": "kms:*", "Resource": "*"}


def allowed(policy: Mapping[str, Any], action: str, pcrs: Mapping[int, bytes] | None, principal: str = ROLE) -> bool:
    """As the simulator would decide, for a caller whose account lets it do everything."""
    context = {} if pcrs is None else {condition_key(index): value.hex() for index, value in pcrs.items()}
    printed = KeyPolicy(print_policy(policy))
    return printed.decide(Request(frozenset({principal}), "111122223333", action, KEY, context), EVERYTHING).allowed


@pytest.mark.parametrize("action", ["kms:Decrypt", "kms:GenerateDataKey"])
def test_the_image_gets_the_key_and_nothing_else_does(action: str) -> None:
    policy = key_policy([A], [ROLE], [ADMIN])
    assert allowed(policy, action, A)
    assert not allowed(policy, action, None)
    assert not allowed(policy, action, B)
    assert not allowed(policy, action, {index: bytes(48) for index in range(3)})
    for index in range(3):
        assert not allowed(policy, action, {**A, index: b"\xff" * 48})
    assert not allowed(policy, action, A, STRANGER)
    assert not allowed(policy, action, A, ADMIN)


def test_a_careless_statement_beside_it_opens_nothing() -> None:
    """AWS's default statement lets the account's own policies decide; even then no plaintext leaves without the right document."""
    policy = key_policy([A], [ROLE], [ADMIN])
    policy["Statement"].append(CARELESS)
    for action in DISCLOSING:
        assert not allowed(policy, action, None)
        assert not allowed(policy, action, B)
        assert not allowed(policy, action, B, STRANGER)
    for action in NEVER:
        assert not allowed(policy, action, None)
        assert not allowed(policy, action, A)


def test_two_images_pass_and_their_mixtures_do_not() -> None:
    policy = key_policy([A, B], [ROLE])
    assert allowed(policy, "kms:Decrypt", A)
    assert allowed(policy, "kms:Decrypt", B)
    assert not allowed(policy, "kms:Decrypt", {**A, 1: B[1]})
    assert not allowed(policy, "kms:Decrypt", {0: A[0], 1: B[1], 2: B[2]})


def test_a_register_of_one_image_only_does_not_lock_out_the_other() -> None:
    signed = {**A, 8: b"\xa8" * 48}
    policy = key_policy([signed, B], [ROLE])
    assert allowed(policy, "kms:Decrypt", signed)
    assert allowed(policy, "kms:Decrypt", {**B, 8: bytes(48)})
    assert not allowed(policy, "kms:Decrypt", {**A, 8: b"\xff" * 48})


def test_a_vm_with_a_tpm_is_no_enclave() -> None:
    """Its documents set NitroTPMPCRn only."""
    policy = key_policy([A], [ROLE])
    policy["Statement"].append(CARELESS)
    request = Request(frozenset({ROLE}), "111122223333", "kms:Decrypt", KEY, {"kms:RecipientAttestation:NitroTPMPCR4": A[0].hex()})
    assert not KeyPolicy(policy).decide(request, EVERYTHING).allowed


def test_an_account_in_place_of_a_role() -> None:
    policy = key_policy([A], ["111122223333"])
    assert allowed(policy, "kms:Decrypt", A, STRANGER)
    assert not allowed(policy, "kms:Decrypt", None, STRANGER)


def test_the_administrator_manages_and_is_the_only_one() -> None:
    policy = key_policy([A], [ROLE], [ADMIN])
    for action in ADMINISTRATION:
        assert allowed(policy, action, None, ADMIN)
        assert not allowed(policy, action, A)
        assert not allowed(key_policy([A], [ROLE]), action, A, ADMIN)
    assert not set(ADMINISTRATION) & set(DISCLOSING + NEVER)


def test_it_is_printed_as_aws_takes_it() -> None:
    printed = json.loads(print_policy(key_policy([A], [ROLE], [ADMIN])))
    assert printed["Version"] == "2012-10-17"
    assert len(print_policy(printed)) < 32 << 10
    values = [item["Condition"] for item in printed["Statement"] if "Condition" in item]
    assert values[0] == {"StringEqualsIgnoreCase": {condition_key(index): A[index].hex() for index in range(3)}}
    assert [item["Sid"] for item in printed["Statement"]] == [
        "AllowAdministration",
        "AllowImage1",
        "DenyCallsWithoutDocument",
        "DenyOtherImagesByPCR0",
        "DenyOtherImagesByPCR1",
        "DenyOtherImagesByPCR2",
        "DenyWaysAround",
    ]


@pytest.mark.parametrize(
    ("images", "users", "administrators", "said"),
    [
        ([], [ROLE], [], "for an image"),
        ([{1: A[1]}], [ROLE], [], "PCR0 is missing"),
        ([{**A, 0: bytes(48)}], [ROLE], [], "debug"),
        ([{**A, 1: bytes(48)}], [ROLE], [], "debug"),
        ([{**A, 32: A[0]}], [ROLE], [], "PCR32"),
        ([{**A, 3: b"short"}], [ROLE], [], "PCR3"),
        ([A], [], [], "who calls"),
        ([A], ["*"], [], "neither"),
        ([A], ["arn:aws:iam::111122223333:root"], [], "neither"),
        ([A], ["arn:aws:iam::111122223333:role/*"], [], "neither"),
        ([A], [ROLE], ["111122223333"], "is not arn:aws:iam"),
    ],
)
def test_what_makes_no_policy_is_told(images: Any, users: list[str], administrators: list[str], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        key_policy(images, users, administrators)
