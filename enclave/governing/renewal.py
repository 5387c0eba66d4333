"""New ledger secrets, as the members' rules ask for them: made here, in the enclave, and written into the request's own entry.

Calls of a constitution only say what is due; it is done once, when all of a proposal's actions are: for the nodes that there are then. The
previous secret goes into the same entry, encrypted under the new one, so whoever has the newest can read the ledger back to its beginning.
Law: what is written is encrypted before any map sees it.
Not here: when a secret holds (`enclave.ledger_secrets`), who may ask (the constitution).
"""

import base64
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ledgerd.enclave.endpoints import Context
from ledgerd.enclave.entropy import random_bytes
from ledgerd.enclave.keys import create_ledger_secret
from ledgerd.enclave.ledger_secrets import BOX, LedgerSecret, boxed
from ledgerd.governance import tables

REKEY: Final = "rekey"
TRIED: Final = "(encrypted)"

_IV_SIZE_BYTES: Final = 12
_TAG_SIZE_BYTES: Final = 16
_RECOVERING: Final = ("Recovering", tables.WAITING_FOR_SHARES)


class Node(Protocol):
    """What renewal asks of the node that it runs on."""

    def secrets(self) -> list[LedgerSecret]: ...
    def log(self, level: str, text: str) -> None: ...


class Renewal:
    """Makes what is due."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def ask(self, context: Context, what: str) -> None:
        """Note that it is due at the end of the request. Raises: ValueError: Not while the service recovers."""
        info: dict[str, Any] = tables.decode(context.kv[tables.SERVICE_INFO].get(tables.SINGLETON) or b"{}")
        if info.get("status") in _RECOVERING:
            raise ValueError(f"the service is {info['status']}: its secrets and their shares cannot change before it is open again")
        context.overlay.due.add(what)

    def complete(self, context: Context) -> None:
        """Do what is due. Raises: FormatError: A node's record has no key to seal to."""
        due = context.overlay.due
        if REKEY in due:
            self._rekey(context)
        due.clear()

    def _rekey(self, context: Context) -> None:
        """Write a new secret for every node, and the one before for whoever will have the new one.

        Those that leave get it, too: until their retirement is final commits need them, and they read on until they are told.
        """
        previous = self._node.secrets()[-1]
        secret = create_ledger_secret()
        history = context.kv[tables.EARLIER_EPOCH]
        stored = history.version_of(tables.SINGLETON)
        pointer = {} if stored is None else {"previous_secret_stored_version": stored}
        under_new = self.opaque(
            context, tables.EARLIER_EPOCH, ("previous_ledger_secret", "encrypted_data"), lambda: gcm(secret, previous.secret)
        )
        before = {"encrypted_data": under_new, "version": previous.version, **pointer}
        history.set(tables.SINGLETON, tables.encode({"previous_ledger_secret": before}))
        boxes: dict[str, Any] = {}
        for key, value in context.kv[tables.NODE_INFO].items():
            node_id, record = key.decode(), tables.decode(value)
            if record["status"] != tables.PENDING:
                pem = record["encryption_pub_key"]
                box = self.opaque(context, tables.ENCRYPTED_LEDGER_SECRETS, (node_id, 0, BOX), partial(boxed, secret, pem))
                boxes[node_id] = [{BOX: box, **pointer}]
        context.kv[tables.ENCRYPTED_LEDGER_SECRETS].set(tables.SINGLETON, tables.encode(boxes))
        if not context.overlay.is_trial:
            self._node.log("info", f"the ledger gets a new secret, sealed to {len(boxes)} {'node' if len(boxes) == 1 else 'nodes'}")

    def opaque(self, context: Context, table: str, path: tuple[str | int, ...], make: Callable[[], bytes]) -> str:
        """Something encrypted, in base64, for this place in a table's record. An auditor's takes what stands there: it can make none.

        For a trial nothing is made: nobody has voted for it.
        """
        return TRIED if context.overlay.is_trial else base64.b64encode(make()).decode()


def gcm(key: bytes, secret: bytes) -> bytes:
    """AES-256-GCM under a random IV, in CCF's order: tag, IV, ciphertext."""
    iv = random_bytes(_IV_SIZE_BYTES)
    sealed = AESGCM(key).encrypt(iv, secret, None)
    return sealed[-_TAG_SIZE_BYTES:] + iv + sealed[:-_TAG_SIZE_BYTES]
