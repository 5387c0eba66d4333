"""The three attested calls as bytes: what is asked of KMS, and what its answer holds. AWS JSON 1.1; signing is `enclave.kms.sigv4`.

A call names its key by ARN always, Decrypt too: KMS would otherwise take the key that the ciphertext names, so a host could pass off what
it encrypted with a key of its own. An alias would be no better: its owner points it elsewhere at will.
The answer's plaintext must be empty. An endpoint that gives one ignored the document, so it is not KMS, and everybody on its side of TLS
knows the secret.
Source: AWS KMS API reference: Decrypt, GenerateDataKey, GenerateRandom, RecipientInfo.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, NoReturn

from cryptography.hazmat.primitives.asymmetric import rsa

from ledgerd.enclave.kms import ber, cms
from ledgerd.enclave.kms.errors import refusal
from ledgerd.ledger.errors import ConfigurationError, FormatError, UsageError

CONTENT_TYPE: Final = "application/x-amz-json-1.1"
SERVICE: Final = "kms"
TARGET_PREFIX: Final = "TrentService."
RECIPIENT_ALGORITHM: Final = "RSAES_OAEP_SHA_256"
ANSWER_SIZE_BYTES_MAX: Final = 64 << 10  # the largest real one is about 12 KiB
CIPHERTEXT_SIZE_BYTES_MAX: Final = 6_144  # KMS's own limit for what it decrypts
DATA_KEY_SIZE_BYTES: Final = 32  # AES_256
RANDOM_SIZE_BYTES_MAX: Final = 1_024  # KMS's own limit
CONTEXT_PAIRS_MAX: Final = 16

_ARN: Final = re.compile(r"arn:(aws|aws-cn|aws-us-gov):kms:([a-z]{2}(?:-[a-z]+)+-[0-9]{1,2}):([0-9]{12}):key/[A-Za-z0-9-]{1,128}")


class KeyArn(NamedTuple):
    """The full name of one key."""

    text: str
    partition: str
    region: str

    @property
    def endpoint(self) -> str:
        """DNS name under which KMS serves the key's region."""
        return f"kms.{self.region}.amazonaws.com{'.cn' if self.partition == 'aws-cn' else ''}"


def parse_key_arn(text: str) -> KeyArn:
    """Read a key's ARN.

    Raises: ConfigurationError: It is none (aliases and bare key ids are none), or names a multi-Region key.
    """
    match = _ARN.fullmatch(text)
    if "key/mrk-" in text:
        raise ConfigurationError(
            f"{text[:160]!r} is a multi-Region key: its replicas hold the same key under policies of their own, which need not ask for "
            "this image; make a single-Region key"
        )
    if match is None:
        raise ConfigurationError(
            f"{text[:160]!r} is not a KMS key's ARN; give arn:aws:kms:REGION:ACCOUNT:key/ID, not an alias, which its owner can redirect"
        )
    return KeyArn(text, match[1], match[2])


class Call(NamedTuple):
    """One call, before it has a document.

    Attributes:
        operation: KMS's name of it.
        parameters: All but the recipient.
        key: ARN that the answer must name; None where no key is involved.
        size: Bytes of plaintext that must come back; None for any.
    """

    operation: str
    parameters: Mapping[str, Any]
    key: str | None
    size: int | None


class DataKey:
    """A key made by KMS.

    Attributes:
        plaintext: 32 bytes, for this enclave alone.
        wrapped: The same under KMS's key; what Decrypt takes.
    """

    __slots__ = ("plaintext", "wrapped")

    def __init__(self, plaintext: bytes, wrapped: bytes) -> None:
        self.plaintext = plaintext
        self.wrapped = wrapped

    def __repr__(self) -> str:
        return f"DataKey(wrapped in {len(self.wrapped)} bytes)"


def decrypt(key: KeyArn, wrapped: bytes, context: Mapping[str, str], size: int | None = None) -> Call:
    """Ask for what `wrapped` holds; KMS refuses unless `context` is the one with which it was made.

    Raises: FormatError: KMS would not take it for its size.
    """
    if not 0 < len(wrapped) <= CIPHERTEXT_SIZE_BYTES_MAX:
        raise FormatError(f"a ciphertext of {len(wrapped)} bytes; KMS takes 1 to {CIPHERTEXT_SIZE_BYTES_MAX}")
    parameters = {"KeyId": key.text, "CiphertextBlob": _base64(wrapped), "EncryptionContext": _context(context)}
    return Call("Decrypt", parameters, key.text, size)


def generate_data_key(key: KeyArn, context: Mapping[str, str]) -> Call:
    """Ask for a new AES-256 key, bound to `context`."""
    parameters = {"KeyId": key.text, "KeySpec": "AES_256", "EncryptionContext": _context(context)}
    return Call("GenerateDataKey", parameters, key.text, DATA_KEY_SIZE_BYTES)


def generate_random(size: int) -> Call:
    """Ask for random bytes, 1 to 1,024."""
    if not 0 < size <= RANDOM_SIZE_BYTES_MAX:
        raise UsageError(f"KMS gives 1 to {RANDOM_SIZE_BYTES_MAX} random bytes, not {size}")
    return Call("GenerateRandom", {"NumberOfBytes": size}, None, size)


def request_headers(call: Call, host: str) -> dict[str, str]:
    """What to sign."""
    return {"host": host, "content-type": CONTENT_TYPE, "x-amz-target": TARGET_PREFIX + call.operation}


def request_body(call: Call, document: bytes) -> bytes:
    """Print a call, attested by `document`."""
    recipient = {"KeyEncryptionAlgorithm": RECIPIENT_ALGORITHM, "AttestationDocument": _base64(document)}
    return json.dumps({**call.parameters, "Recipient": recipient}, separators=(",", ":")).encode()


def read_answer(call: Call, status: int, body: bytes, key: rsa.RSAPrivateKey) -> bytes | DataKey:
    """Read the answer to a call, and open it.

    Args:
        key: Whose public half the call's document attested.
    Returns: The plaintext; for GenerateDataKey both forms of the key.
    Raises:
        KmsRefusedError: KMS says no.
        FormatError: It is no answer of KMS to this call.
        IntegrityError: The envelope is not for this key.
    """
    fields = _fields(body)
    if status != 200:
        raise refusal(call.operation, status, fields)
    if fields is None:
        _refuse(call, "it is not a JSON object")
    if fields.get("Plaintext"):
        _refuse(call, "it holds a plaintext, so the document was ignored; this endpoint is not KMS, and the secret in it is lost")
    if call.key is not None and fields.get("KeyId") != call.key:
        _refuse(call, f"it is of another key than {call.key}")
    plaintext = cms.open_envelope(cms.read(_bytes(call, fields, "CiphertextForRecipient", ber.SIZE_BYTES_MAX)), key)
    if call.size is not None and len(plaintext) != call.size:
        _refuse(call, f"{len(plaintext)} bytes were in the envelope, not {call.size}")
    if call.operation == "GenerateDataKey":
        return DataKey(plaintext, _bytes(call, fields, "CiphertextBlob", CIPHERTEXT_SIZE_BYTES_MAX))
    return plaintext


def _context(context: Mapping[str, str]) -> dict[str, str]:
    if len(context) > CONTEXT_PAIRS_MAX or not all(name and value for name, value in context.items()):
        raise UsageError(f"an encryption context has at most {CONTEXT_PAIRS_MAX} pairs, none of them empty")
    return dict(context)


def _fields(body: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found if type(found) is dict else None


def _bytes(call: Call, fields: dict[str, Any], name: str, size_max: int) -> bytes:
    text = fields.get(name)
    if type(text) is not str or not 0 < len(text) <= 4 * (size_max + 2) // 3:
        _refuse(call, f"its {name} is no text of a fitting length")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        _refuse(call, f"its {name} is not base64")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _refuse(call: Call, what: str) -> NoReturn:
    raise FormatError(f"the answer to {call.operation} is none that KMS gives: {what}; what answers at this endpoint?")
