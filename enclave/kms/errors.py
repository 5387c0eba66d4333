"""Why a call to KMS came to nothing, sorted by who must act. Never holds a key, a plaintext or a credential."""

import re
from typing import Any, ClassVar, Final

from ledgerd.ledger.errors import LedgerdError

_REASON: Final = re.compile(r"[A-Za-z]{1,64}")
_MESSAGE_LENGTH_MAX: Final = 300

# What KMS calls its refusals, and what whoever runs the node can do.
_ADVICE: Final = {
    "AccessDeniedException": (
        "the key's policy gives it to another image or role, or this enclave runs in debug mode: compare its PCR0, PCR1 and PCR2 with the "
        "policy, and print a right one with `ledgerd kms policy`"
    ),
    "InvalidCiphertextException": "what is to be decrypted was made with another key, for another purpose or service, or was changed",
    "IncorrectKeyException": "what is to be decrypted was made with another key: name that one",
    "NotFoundException": "there is no such key in this account and region: compare the key's ARN",
    "DisabledException": "the key is disabled: enable it in KMS",
    "KMSInvalidStateException": "the key waits for its deletion, or is not ready: cancel the deletion, or wait",
    "ExpiredTokenException": "the credentials have run out: hand over new ones of the instance's role",
    "UnrecognizedClientException": "AWS does not know the credentials: hand over those of the instance's role",
    "InvalidSignatureException": "the credentials do not belong together, or the enclave's clock is wrong by minutes: hand over new ones",
    "MissingAuthenticationTokenException": "the request arrived unsigned: is something between this host and KMS?",
    "ValidationException": "KMS does not accept the attestation document or a parameter: is the clock right, and is this a Nitro enclave?",
    "ThrottlingException": "there are too many calls in this account: wait, or have the quota raised",
}
_RETRIED: Final = frozenset(
    {"ThrottlingException", "KMSInternalException", "DependencyTimeoutException", "InternalFailure", "ServiceUnavailable"}
)


class KmsRefusedError(LedgerdError):
    """KMS answered, and its answer is no.

    Attributes:
        reason: KMS's own name for it, for example `AccessDeniedException`.
        passing: The same call may succeed later.
    """

    code: ClassVar[str] = "KmsRefused"

    def __init__(self, operation: str, status: int, reason: str, message: str) -> None:
        advice = _ADVICE.get(reason, "look it up among KMS's errors")
        super().__init__(f"KMS refuses {operation} with {reason} (status {status}): {message or 'it does not say why'}; {advice}")
        self.reason = reason
        self.passing = status >= 500 or reason in _RETRIED


class KmsUnavailableError(LedgerdError):
    """No answer of KMS could be had; the host, the network or AWS is in the way. The secret is safe, and not here."""

    code: ClassVar[str] = "KmsUnavailable"


def refusal(operation: str, status: int, body: Any) -> KmsRefusedError:
    """Make an error of KMS's answer. `body` is whatever its JSON was, or None."""
    fields = body if type(body) is dict else {}
    name = fields.get("__type")
    # Older front ends write a prefix up to `#`, and some a suffix after `:`.
    reason = name.rpartition("#")[2].partition(":")[0] if type(name) is str else ""
    message = next((fields[key] for key in ("message", "Message") if type(fields.get(key)) is str), "")
    shown = "".join(character if character.isprintable() else " " for character in message[:_MESSAGE_LENGTH_MAX])
    return KmsRefusedError(operation, status, reason if _REASON.fullmatch(reason) else "an unnamed error", shown)
