"""Recovery shares: the newest ledger secret, so wrapped that enough members together have it from the ledger alone, and fewer have nothing.

A key is drawn, shared among the active members who have an encryption key (`ledger.shares`), and used once, to wrap the secret; then it is
forgotten. Participants hold a share each, Owners the whole key. Each is encrypted to its member, by RSA-OAEP, so the record can be public.
From the newest secret the earlier ones follow by the chain in `EARLIER_EPOCH`.
Where nobody has an encryption key there are no shares, and the operator is told; CCF would not open such a service.
Not here: when shares are made anew (`enclave.governing.renewal`), recovering.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from ledgerd.enclave.entropy import random_bytes
from ledgerd.enclave.kv import MapView, Store
from ledgerd.enclave.ledger_secrets import LedgerSecret
from ledgerd.governance import tables
from ledgerd.ledger import shares
from ledgerd.ledger.entry import WriteSet
from ledgerd.ledger.errors import FormatError

NONE: Final = "no active member has an encryption key, so there are no recovery shares: with the last node all private data would be lost"
KEY_BITS_MIN: Final = 2048  # as the constitution demands

IV_SIZE_BYTES: Final = 12
_IV_ONCE: Final = bytes(IV_SIZE_BYTES)  # each wrapping key is used once
_TAG_SIZE_BYTES: Final = 16


class Tables(Protocol):
    """Maps by name: a request's, or the state's."""

    def __getitem__(self, name: str) -> MapView: ...


class Stored:
    """The state's."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getitem__(self, name: str) -> MapView:
        """The map `name`."""
        return self._store.map(name)


Opaque = Callable[[str, tuple[str | int, ...], Callable[[], bytes]], str]
"""Something encrypted, in base64, for a place in a table's record; see `Renewal`."""


class Sharing(NamedTuple):
    """What it takes to have shares made.

    Attributes:
        writes: None where there are to be none.
        warning: For the operator; empty as a rule.
    """

    writes: WriteSet
    warning: str = ""


class _Holders(NamedTuple):
    participants: dict[str, str]  # member id -> encryption key, PEM
    owners: dict[str, str]


def shared(maps: Tables, latest: LedgerSecret, opaque: Opaque, *, is_new: bool, is_opening: bool = False) -> Sharing:
    """New shares of a secret.

    Args:
        latest: The secret.
        is_new: It is announced by this very entry, so nothing in the ledger leads on from it yet.
        is_opening: The service opens with this entry, where the chain begins.
    Raises: FormatError: There are fewer members to hold shares than it takes, or one's key is no RSA key.
    """
    holders = _holders(maps)
    threshold = tables.decode(maps[tables.SERVICE_CONFIG].get(tables.SINGLETON) or b"{}").get("recovery_threshold", 1)
    count = len(holders.participants)
    if not count and not holders.owners:
        before = maps[tables.RECOVERY_SHARES].get(tables.SINGLETON)
        gone: WriteSet = {} if before is None else {tables.RECOVERY_SHARES: {tables.SINGLETON: None}}
        return Sharing(gone, NONE)
    if count < threshold and not holders.owners:
        raise FormatError(f"{count} active members have an encryption key, and it takes {threshold} to recover (recovery_threshold)")
    record = _record(holders, threshold, latest, opaque)
    chain = maps[tables.EARLIER_EPOCH]
    if not is_new and "previous_ledger_secret" in tables.decode(chain.get(tables.SINGLETON) or b"{}"):
        record["previous_secret_stored_version"] = chain.version_of(tables.SINGLETON)
    writes: WriteSet = {tables.RECOVERY_SHARES: {tables.SINGLETON: tables.encode(record)}}
    if is_opening and chain.get(tables.SINGLETON) is None:
        writes[tables.EARLIER_EPOCH] = {tables.SINGLETON: tables.encode({"next_version": latest.version})}
    warning = f"fewer members hold a share ({count}) than it takes ({threshold}): only an Owner can recover" if count < threshold else ""
    return Sharing(writes, warning)


def _record(holders: _Holders, threshold: int, latest: LedgerSecret, opaque: Opaque) -> dict[str, Any]:
    keys = {member: encryption_key(pem) for member, pem in {**holders.participants, **holders.owners}.items()}
    whole, parts = shares.split(threshold, len(holders.participants), random_bytes)
    given = {**dict(zip(sorted(holders.participants), parts, strict=True)), **dict.fromkeys(holders.owners, whole)}
    table = tables.RECOVERY_SHARES
    return {
        "wrapped_latest_ledger_secret": opaque(
            table, ("wrapped_latest_ledger_secret",), lambda: gcm(shares.wrapping_key(whole), _IV_ONCE, latest.secret)
        ),
        "encrypted_shares": {
            member: opaque(table, ("encrypted_shares", member), partial(encrypted, keys[member], given[member])) for member in sorted(given)
        },
    }


def takes_part(info: dict[str, Any]) -> bool:
    """Whether a member holds a share, or the key, if it is active and has an encryption key."""
    return info.get("recovery_role") != tables.NON_PARTICIPANT


def _holders(maps: Tables) -> _Holders:
    found = _Holders({}, {})
    keys = maps[tables.MEMBER_ENCRYPTION_KEYS]
    for key, value in maps[tables.MEMBER_INFO].items():
        info = tables.decode(value)
        pem = keys.get(key)
        if info["status"] == tables.ACTIVE and pem is not None and takes_part(info):
            (found.owners if info.get("recovery_role") == tables.OWNER else found.participants)[key.decode()] = pem.decode(errors="replace")
    return found


def gcm(key: bytes, iv: bytes, secret: bytes) -> bytes:
    """AES-256-GCM in CCF's order: tag, IV, ciphertext."""
    sealed = AESGCM(key).encrypt(iv, secret, None)
    return sealed[-_TAG_SIZE_BYTES:] + iv + sealed[:-_TAG_SIZE_BYTES]


def encrypted(key: rsa.RSAPublicKey, share: bytes) -> bytes:
    """A share for who has the private key, as `openssl pkeyutl` decrypts it with `rsa_padding_mode:oaep`, `rsa_oaep_md:sha256`."""
    return key.encrypt(share, padding.OAEP(padding.MGF1(SHA256()), SHA256(), None))


def encryption_key(pem: str) -> rsa.RSAPublicKey:
    """Read a member's. Raises: FormatError: It is none to which a share can be encrypted."""
    try:
        key = load_pem_public_key(pem.encode())
        if not isinstance(key, rsa.RSAPublicKey) or key.key_size < KEY_BITS_MIN:
            raise ValueError
    except Exception:  # the library's list of what it raises for strange keys is long
        raise FormatError(
            f"a member's encryption key is no RSA public key in PEM, of {KEY_BITS_MIN} bits or more, to which a share could be encrypted"
        ) from None
    return key
