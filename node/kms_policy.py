"""The key policy that gives a KMS key to images, by their measurements, and to nobody else in the account.

An Allow alone would not do. Whatever else allows a call (another statement, a grant, the account's own policies) would still allow it
without a document; so what must not happen is denied, which nothing overrides:
- a call that would give out plaintext, without a document, or with one of another image;
- Encrypt, and every call that moves what is encrypted elsewhere: with these a host could make a secret of its own look like the enclave's.
A Deny with several measurements in one condition applies only when all of them differ, so there is one Deny for each PCR; the Allow has all
of them in one condition, which must all be equal, so PCR0 of one image with PCR1 of another passes nowhere.
What no policy can do is bind who may change it. That principal is trusted, and is named here or is nobody.
Source: KMS Developer Guide, "Condition keys for Nitro Enclaves" and "Key policies"; docs/kms.md.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ledgerd.ledger.attestation.measurement import PCR_COUNT, PCR_SIZE_BYTES, ZERO
from ledgerd.ledger.errors import ConfigurationError

ATTESTED: Final = ("kms:Decrypt", "kms:GenerateDataKey")  # what enclaves call
DISCLOSING: Final = ("kms:Decrypt", "kms:DeriveSharedSecret", "kms:GenerateDataKey", "kms:GenerateDataKeyPair")
NEVER: Final = (
    "kms:CreateGrant",
    "kms:DeriveSharedSecret",
    "kms:Encrypt",
    "kms:GenerateDataKeyPair",
    "kms:GenerateDataKeyPairWithoutPlaintext",
    "kms:GenerateDataKeyWithoutPlaintext",
    "kms:ReEncryptFrom",
    "kms:ReEncryptTo",
    "kms:ReplicateKey",
    "kms:UpdatePrimaryRegion",
)
ADMINISTRATION: Final = (
    "kms:CancelKeyDeletion",
    "kms:DescribeKey",
    "kms:DisableKey",
    "kms:EnableKey",
    "kms:EnableKeyRotation",
    "kms:GetKeyPolicy",
    "kms:GetKeyRotationStatus",
    "kms:ListResourceTags",
    "kms:PutKeyPolicy",
    "kms:ScheduleKeyDeletion",
    "kms:TagResource",
    "kms:UntagResource",
    "kms:UpdateKeyDescription",
)

_PRINCIPAL: Final = re.compile(r"arn:aws[a-z-]{0,20}:iam::[0-9]{12}:(?:role|user)/[A-Za-z0-9+=,.@_/-]{1,512}")
_ACCOUNT: Final = re.compile(r"[0-9]{12}")


def condition_key(index: int) -> str:
    """KMS's name for a PCR of the caller's document. PCR0 has one of its own, which only Nitro enclaves' documents set."""
    return "kms:RecipientAttestation:ImageSha384" if index == 0 else f"kms:RecipientAttestation:PCR{index}"


def key_policy(images: Sequence[Mapping[int, bytes]], users: Sequence[str], administrators: Sequence[str] = ()) -> dict[str, Any]:
    """Make the policy.

    Args:
        images: Of each image its PCRs: index to 48 bytes, PCR0 at least.
        users: ARNs of the roles whose credentials sign the enclave's calls, or account numbers, whose own policies then decide which.
        administrators: ARNs of who manages the key. They can change the policy, so they can give the key to any image; without any,
            nobody can, ever, not even to let in the image's next version.
    Raises: ConfigurationError: No image, no user, or one that is none; PCR0, 1 or 2 is zero, as in every debug enclave.
    """
    _check(images, users, administrators)
    allowed = [
        {
            "Sid": f"AllowImage{number}",
            "Effect": "Allow",
            "Principal": {"AWS": _one_or_list([_principal(user) for user in users])},
            "Action": list(ATTESTED),
            "Resource": "*",
            "Condition": {"StringEqualsIgnoreCase": {condition_key(index): image[index].hex() for index in sorted(image)}},
        }
        for number, image in enumerate(images, 1)
    ]
    common = sorted(set.intersection(*(set(image) for image in images)))
    denied = [
        _deny("DenyCallsWithoutDocument", DISCLOSING, {"Null": {condition_key(0): "true"}}),
        *(
            _deny(
                f"DenyOtherImagesByPCR{index}",
                DISCLOSING,
                {"StringNotEqualsIgnoreCase": {condition_key(index): _one_or_list(sorted({image[index].hex() for image in images}))}},
            )
            for index in common
        ),
        _deny("DenyWaysAround", NEVER, None),
    ]
    managed = [
        {
            "Sid": "AllowAdministration",
            "Effect": "Allow",
            "Principal": {"AWS": _one_or_list(list(administrators))},
            "Action": list(ADMINISTRATION),
            "Resource": "*",
        }
    ]
    return {"Version": "2012-10-17", "Id": "ledgerd-attested-key", "Statement": [*(managed if administrators else []), *allowed, *denied]}


def print_policy(policy: Mapping[str, Any]) -> str:
    """As `aws kms create-key --policy file://...` takes it."""
    return json.dumps(policy, indent=2) + "\n"


def _check(images: Sequence[Mapping[int, bytes]], users: Sequence[str], administrators: Sequence[str]) -> None:
    if not images:
        raise ConfigurationError("a key policy is for an image: give its PCR0, or a file with its measurements")
    for image in images:
        if 0 not in image:
            raise ConfigurationError("an image's PCR0 is missing: it stands for the whole image, so no policy goes without it")
        for index, value in image.items():
            if not 0 <= index < PCR_COUNT or len(value) != PCR_SIZE_BYTES:
                raise ConfigurationError(f"PCR{index} is not one of 0 to {PCR_COUNT - 1} with {PCR_SIZE_BYTES} bytes")
            if index <= 2 and value == ZERO:
                raise ConfigurationError(
                    f"PCR{index} is zero: that is any debug enclave, whose memory its host can read; start it without --debug-mode and "
                    "take the measurements that the image's builder printed"
                )
    if not users:
        raise ConfigurationError("who calls KMS? Give --role with the ARN of the instance's role, or --account")
    for user in users:
        if _PRINCIPAL.fullmatch(user) is None and _ACCOUNT.fullmatch(user) is None:
            raise ConfigurationError(f"{user[:160]!r} is neither arn:aws:iam::ACCOUNT:role/NAME nor an account's twelve digits")
    for administrator in administrators:
        if _PRINCIPAL.fullmatch(administrator) is None:
            raise ConfigurationError(f"{administrator[:160]!r} is not arn:aws:iam::ACCOUNT:role/NAME or :user/NAME")


def _deny(name: str, actions: Sequence[str], condition: Mapping[str, Any] | None) -> dict[str, Any]:
    statement = {"Sid": name, "Effect": "Deny", "Principal": "*", "Action": list(actions), "Resource": "*"}
    return statement if condition is None else {**statement, "Condition": condition}


def _principal(user: str) -> str:
    return f"arn:aws:iam::{user}:root" if _ACCOUNT.fullmatch(user) else user


def _one_or_list(values: list[str]) -> str | list[str]:
    return values[0] if len(values) == 1 else values
