"""The secrets of the ledger's epochs, as a node knows them: from the ledger, and from whoever admitted it.

A new secret is made within a request on the primary (`enclave.governing.renewal`) and travels in the entry that announces it: in boxes, one
for each node, that only that node's enclave can open. Every node, that primary included, takes it from its own box when it applies the
entry, and it holds from the next entry on. What is undone is given up with its entry, so all nodes know the same secrets for the same log.
A joiner is given those of entries that it has yet to read; it takes each at its place, and a box of its own before what it was given.
Law: no secret is in a log, an exception or a `repr`. They leave the enclave sealed: to a node that the tables trust, here.
Not here: encrypting entries (`ledger.entry`).
"""

import base64
from binascii import Error as Base64Error
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from nacl.exceptions import CryptoError
from nacl.public import PublicKey, SealedBox

from ledgerd.enclave.keys import LEDGER_SECRET_SIZE_BYTES, NodeKeys
from ledgerd.governance import tables
from ledgerd.ledger.entry import Sealer, WriteSet
from ledgerd.ledger.errors import FormatError, IntegrityError, UsageError
from ledgerd.ledger.ids import Seqno

BOX: Final = "encrypted_secret"  # CCF's word


class LedgerSecret(NamedTuple):
    """A secret, and the first entry that it encrypts, which is its version."""

    version: int
    secret: bytes

    def __repr__(self) -> str:
        return f"LedgerSecret({self.version})"


class LedgerSecrets:
    """What one node knows.

    Attributes:
        sealer: Writes and opens entries with them.
    """

    __slots__ = ("_given", "_keys", "_known", "sealer")

    def __init__(self, keys: NodeKeys, given: Sequence[tuple[int, bytes]]) -> None:
        """Args: given: by version, from 1 on; more than one for a joiner only. Raises: UsageError: `checked` was not asked."""
        if not given or given[0][0] != 1:
            raise UsageError("the first secret of a ledger is that of entry 1")
        self._keys = keys
        self._known = [LedgerSecret(*given[0])]
        self._given = dict(given[1:])  # of entries yet to be read
        self.sealer = Sealer(self._known[0].secret)

    def __repr__(self) -> str:
        return f"LedgerSecrets({', '.join(str(known.version) for known in self._known)})"

    def known(self) -> list[LedgerSecret]:
        """All that are in force somewhere in the log, oldest first; the last one is that of the next entry."""
        return list(self._known)

    def applied(self, seqno: Seqno, writes: WriteSet) -> None:
        """Entry `seqno`, which writes `ENCRYPTED_LEDGER_SECRETS`, is in the log: its secret holds from the next entry on.

        Raises: IntegrityError: There is none for this node, so it cannot read on.
        """
        value = writes[tables.ENCRYPTED_LEDGER_SECRETS].get(tables.SINGLETON)
        version = seqno + 1
        secret = None if value is None else self._own(tables.decode(value), seqno)
        if secret is None:
            secret = self._given.get(version)
        if secret is None:
            raise IntegrityError(
                f"entry {seqno} changes the ledger's secret, and has none for this node, which was not trusted there; "
                "it cannot read what follows: destroy it and let a new node join"
            )
        self._known.append(LedgerSecret(version, secret))
        self.sealer.begin_epoch(version, secret)

    def rolled_back(self, to: Seqno) -> None:
        """Everything above entry `to` was undone."""
        while self._known[-1].version > to + 1:
            self._known.pop()
        self.sealer.forget_epochs(to)

    def _own(self, boxes: dict[str, Any], seqno: Seqno) -> bytes | None:
        """What is in this node's own box; None if there is no box for it. Raises: IntegrityError: It cannot be opened."""
        mine = boxes.get(self._keys.id)
        if mine is None:
            return None
        try:
            secret = SealedBox(self._keys.encryption).decrypt(base64.b64decode(mine[-1][BOX], validate=True))
        except (CryptoError, Base64Error, LookupError, TypeError, ValueError):
            secret = b""
        if len(secret) != LEDGER_SECRET_SIZE_BYTES:
            raise IntegrityError(
                f"entry {seqno} changes the ledger's secret, and this node cannot open the box with its own: it is sealed to another key; "
                "destroy this node and let a new one join"
            )
        return secret


def boxed(secret: bytes, pem: str) -> bytes:
    """A secret in a box for the node whose encryption key is this one, in PEM as the tables have it.

    CCF encrypts with RSA; a box of ours is what admission uses, an X25519 sealed box (docs/formats/governance.md).
    Raises: FormatError: It is no such key.
    """
    try:
        key = PublicKey(load_pem_public_key(pem.encode()).public_bytes(Encoding.Raw, PublicFormat.Raw))
    except Exception:  # the library's list of what it raises for strange keys is long
        raise FormatError("a node's recorded encryption key is no X25519 key in PEM, so no secret can be sealed to it") from None
    return SealedBox(key).encrypt(secret)


def checked(given: Any) -> list[tuple[int, bytes]]:
    """What a joiner is given, if it can be that: versions that rise from 1, secrets of 32 bytes.

    Raises: FormatError: It cannot.
    """
    if type(given) is not list or not given:
        raise FormatError("no ledger secrets")
    found: list[tuple[int, bytes]] = []
    for item in given:
        if type(item) is not list or len(item) != 2 or type(item[0]) is not int or type(item[1]) is not bytes:
            raise FormatError("a ledger secret is a version and 32 bytes")
        if len(item[1]) != LEDGER_SECRET_SIZE_BYTES or (item[0] <= found[-1][0] if found else item[0] != 1):
            raise FormatError("ledger secrets have 32 bytes, and versions that rise from 1")
        found.append((item[0], item[1]))
    return found
