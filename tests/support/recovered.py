"""What members who hold shares can do with a ledger alone: have all of its secrets again. No code of the service's but the two formats."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256

from ledgerd.governance import tables
from ledgerd.ledger import shares
from ledgerd.ledger.entry import Opened, Sealer, read_public


def decrypted(text: str, key: rsa.RSAPrivateKey) -> bytes:
    """A share."""
    return key.decrypt(base64.b64decode(text), padding.OAEP(padding.MGF1(SHA256()), SHA256(), None))


def unwrapped(key: bytes, text: str) -> bytes:
    """What was encrypted in CCF's order."""
    data = base64.b64decode(text)
    return AESGCM(key).decrypt(data[16:28], data[28:] + data[:16], None)


def secrets_of(entries: Sequence[bytes], keys: Mapping[str, rsa.RSAPrivateKey]) -> dict[int, bytes]:
    """The secrets by version, from a ledger and the private keys of members by id."""
    written: dict[str, dict[int, Any]] = {name: {} for name in _TABLES}
    for seqno, data in enumerate(entries, 1):
        writes = read_public(data).writes
        for name in _TABLES:
            value = writes.get(name, {}).get(tables.SINGLETON)
            if value is not None:
                written[name][seqno] = tables.decode(value)
    rekeys, chain = written[tables.ENCRYPTED_LEDGER_SECRETS], written[tables.EARLIER_EPOCH]
    at, record = max(written[tables.RECOVERY_SHARES].items())
    whole = shares.combine([decrypted(record["encrypted_shares"][member], key) for member, key in keys.items()])
    secret = unwrapped(shares.wrapping_key(whole), record["wrapped_latest_ledger_secret"])
    version = max((seqno + 1 for seqno in rekeys if seqno <= at), default=1)
    found = {version: secret}
    step = at if at in rekeys else record.get("previous_secret_stored_version")
    while step is not None and "previous_ledger_secret" in chain[step]:
        assert step == version - 1
        before = chain[step]["previous_ledger_secret"]
        secret, version = unwrapped(secret, before["encrypted_data"]), before["version"]
        found[version] = secret
        step = before.get("previous_secret_stored_version")
    return found


def opened_by(entries: Iterable[bytes], secrets: Mapping[int, bytes]) -> list[Opened]:
    """All entries, in the clear."""
    (_, first), *later = sorted(secrets.items())
    sealer = Sealer(first)
    for version, secret in later:
        sealer.begin_epoch(version, secret)
    return [sealer.open(data) for data in entries]


_TABLES = (tables.RECOVERY_SHARES, tables.EARLIER_EPOCH, tables.ENCRYPTED_LEDGER_SECRETS)
