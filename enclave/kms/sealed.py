"""A secret kept outside by the host, which only this image can open again: sealed under a data key that KMS gives to attested enclaves.

The blob names its purpose and the service it is for, in the clear; both are bound twice, in KMS's encryption context and in AES-GCM's
associated data, so a blob for another purpose or service opens neither there nor here. Every blob has a data key of its own.
What it does not do: the host may give back an older blob, or the same one to two enclaves, and nobody in here can tell. So what is
sealed must stay harmless when it is old: it carries the time of its sealing, and the opener says what is too old (`not_before_ms`).
That nobody but the enclave can *make* a blob is the key policy's doing: it denies Encrypt to everybody, and unattested GenerateDataKey.
Format: docs/kms.md.
"""

import hashlib
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ledgerd.enclave.entropy import random_bytes
from ledgerd.enclave.kms import calls
from ledgerd.enclave.kms.calls import Call, DataKey, KeyArn, parse_key_arn
from ledgerd.ledger import cbor
from ledgerd.ledger.errors import ConfigurationError, FormatError, IntegrityError, LedgerdError

FORMAT: Final = "ledgerd sealed secret 1"
BLOB_SIZE_BYTES_MAX: Final = 128 << 10
SECRET_SIZE_BYTES_MAX: Final = 64 << 10  # a key and a chain of certificates take some 6 KiB
NONCE_SIZE_BYTES: Final = 12
SERVICE_SIZE_BYTES: Final = 32

_KEYS: Final = {"format": str, "purpose": str, "service": bytes, "key": str, "wrapped": bytes, "nonce": bytes, "sealed": bytes}

Ask = Callable[[Call, Callable[[Any], None]], None]
"""Makes a call to KMS: `KmsClient.ask`."""


class Binding(NamedTuple):
    """What a secret is for.

    Attributes:
        key: KMS's key under which it is sealed.
        purpose: Short name, for example `tls:ledger.example.org`.
        service: SHA-256 of the service's public key (DER SubjectPublicKeyInfo), 32 bytes.
    """

    key: KeyArn
    purpose: str
    service: bytes

    def context(self) -> dict[str, str]:
        """KMS's encryption context; it stands in the account's audit trail, too."""
        return {"ledgerd:purpose": self.purpose, "ledgerd:service": self.service.hex()}

    def associated(self, wrapped: bytes) -> bytes:
        """AES-GCM's associated data: everything in a blob that is not secret, but the nonce."""
        return cbor.encode([FORMAT, self.purpose, self.service, self.key.text, hashlib.sha256(wrapped).digest()])


class Opened(NamedTuple):
    """A secret, and when it was sealed: milliseconds since 1970, by the sealing enclave's attested clock."""

    secret: bytes
    sealed_at_ms: int

    def __repr__(self) -> str:
        return f"Opened(sealed_at_ms={self.sealed_at_ms})"


def bind(key: KeyArn, purpose: str, service_public: bytes) -> Binding:
    """Say what a secret is for. `service_public` is the service's DER SubjectPublicKeyInfo."""
    return Binding(key, purpose, hashlib.sha256(service_public).digest())


def seal(data_key: DataKey, binding: Binding, secret: bytes, at_ms: int) -> bytes:
    """Make the blob. `at_ms` is now, by the attested clock.

    Raises: ConfigurationError: The secret is larger than 64 KiB.
    """
    if len(secret) > SECRET_SIZE_BYTES_MAX:
        raise ConfigurationError(f"a secret of {len(secret)} bytes is too large to be sealed; at most {SECRET_SIZE_BYTES_MAX}")
    nonce = random_bytes(NONCE_SIZE_BYTES)
    content = cbor.encode({"at_ms": at_ms, "secret": secret})
    return cbor.encode(
        {
            "format": FORMAT,
            "purpose": binding.purpose,
            "service": binding.service,
            "key": binding.key.text,
            "wrapped": data_key.wrapped,
            "nonce": nonce,
            "sealed": AESGCM(data_key.plaintext).encrypt(nonce, content, binding.associated(data_key.wrapped)),
        }
    )


class Blob(NamedTuple):
    """A blob's parts; nothing in it is proven before `open_blob`."""

    binding: Binding
    wrapped: bytes
    nonce: bytes
    sealed: bytes

    def __repr__(self) -> str:
        return f"Blob({self.binding.purpose!r})"


def read(blob: bytes) -> Blob:
    """Read a blob that the host gives.

    Raises: FormatError: It is none.
    """
    if not 0 < len(blob) <= BLOB_SIZE_BYTES_MAX:
        raise FormatError(f"a sealed secret of {len(blob)} bytes; 1 to {BLOB_SIZE_BYTES_MAX} are read")
    fields = cbor.decode(blob, depth=1)
    if type(fields) is not dict or fields.keys() != _KEYS.keys() or any(type(fields[name]) is not kind for name, kind in _KEYS.items()):
        raise FormatError("what the host gives is no sealed secret: other fields; is the file the right one, and whole?")
    if (
        fields["format"] != FORMAT
        or len(fields["service"]) != SERVICE_SIZE_BYTES
        or len(fields["nonce"]) != NONCE_SIZE_BYTES
        or not 0 < len(fields["wrapped"]) <= calls.CIPHERTEXT_SIZE_BYTES_MAX
    ):
        raise FormatError(f"the sealed secret is not of the form {FORMAT!r} that this version reads; was it made by another one?")
    try:
        key = parse_key_arn(fields["key"])
    except ConfigurationError as error:
        raise FormatError(f"the sealed secret names no key: {error}") from None
    return Blob(Binding(key, fields["purpose"], fields["service"]), fields["wrapped"], fields["nonce"], fields["sealed"])


def check_binding(blob: Blob, binding: Binding) -> None:
    """Refuse a blob that is for something else: before KMS is asked, so that the reason can be told.

    Raises: IntegrityError.
    """
    for name, seen, expected in (
        ("key", blob.binding.key.text, binding.key.text),
        ("purpose", blob.binding.purpose, binding.purpose),
        ("service", blob.binding.service.hex(), binding.service.hex()),
    ):
        if seen != expected:
            raise IntegrityError(f"the sealed secret is for {name} {seen[:160]!r}, not {expected[:160]!r}; give the file that belongs here")


def open_blob(blob: Blob, binding: Binding, plaintext_key: bytes, *, not_before_ms: int = 0) -> Opened:
    """Open a blob with the key that KMS unwrapped.

    Args:
        not_before_ms: Refuse what was sealed earlier, milliseconds since 1970: the one defence against a host that gives back an older
            blob, as good as the place from which this number comes (a ledger, not the host).
    Raises: IntegrityError: It is for something else, was changed, or is too old. FormatError: Another version wrote it.
    """
    check_binding(blob, binding)
    try:
        content = AESGCM(plaintext_key).decrypt(blob.nonce, blob.sealed, binding.associated(blob.wrapped))
    except (InvalidTag, ValueError):
        raise IntegrityError(
            f"the sealed secret for {binding.purpose!r} was changed, or its parts are of different ones; restore the file"
        ) from None
    fields = cbor.decode(content, depth=1)
    if type(fields) is not dict or [type(fields.get(name)) for name in ("secret", "at_ms")] != [bytes, int]:
        raise FormatError(f"the sealed secret for {binding.purpose!r} is of another version of this image")
    opened = Opened(fields["secret"], fields["at_ms"])
    if opened.sealed_at_ms < not_before_ms:
        raise IntegrityError(
            f"the sealed secret for {binding.purpose!r} is of {opened.sealed_at_ms} ms since 1970, older than {not_before_ms}; "
            "the host gives back an old one: give the newest"
        )
    return opened


def seal_by(ask: Ask, binding: Binding, secret: bytes, at_ms: int, done: Callable[[bytes | LedgerdError], None]) -> None:
    """Have KMS make a data key, and seal with it; `done` is told the blob or the error."""

    def made(result: Any) -> None:
        if isinstance(result, LedgerdError):
            done(result)
            return
        try:
            blob = seal(result, binding, secret, at_ms)
        except LedgerdError as error:
            done(error)
        else:
            done(blob)

    ask(calls.generate_data_key(binding.key, binding.context()), made)


def open_by(ask: Ask, binding: Binding, blob: bytes, done: Callable[[Opened | LedgerdError], None], *, not_before_ms: int = 0) -> None:
    """Have KMS unwrap a blob's data key, and open it; `done` is told the secret or the error."""
    try:
        parts = read(blob)
        check_binding(parts, binding)
    except LedgerdError as error:
        done(error)
        return

    def unwrapped(result: Any) -> None:
        if isinstance(result, LedgerdError):
            done(result)
            return
        try:
            opened = open_blob(parts, binding, result, not_before_ms=not_before_ms)
        except LedgerdError as error:
            done(error)
        else:
            done(opened)

    ask(calls.decrypt(binding.key, parts.wrapped, binding.context(), calls.DATA_KEY_SIZE_BYTES), unwrapped)
