"""New ledger secrets and recovery shares, as the members' rules ask for them: made here, in the enclave, within the request's own entry.

Calls of a constitution only say what is due; it is done once, when all of a proposal's actions are, for the nodes and members that there
are then. The previous secret goes into the same entry, encrypted under the new one, so whoever has the newest can read the ledger back to
its beginning. Shares are always of the newest.
Law: what is written is encrypted before any map sees it.
Not here: when a secret holds (`enclave.ledger_secrets`), the form of shares (`enclave.governing.sharing`), who may ask (the constitution).
"""

import base64
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol

from ledgerd.enclave.endpoints import Context
from ledgerd.enclave.entropy import random_bytes
from ledgerd.enclave.governing.sharing import IV_SIZE_BYTES, Opaque, Sharing, Stored, Tables, gcm, shared, takes_part
from ledgerd.enclave.keys import create_ledger_secret
from ledgerd.enclave.kv import Store
from ledgerd.enclave.ledger_secrets import BOX, LedgerSecret, boxed
from ledgerd.governance import tables
from ledgerd.ledger.entry import WriteSet
from ledgerd.ledger.errors import FormatError

REKEY: Final = "rekey"
SHARES: Final = "shares"
OPENING: Final = "opening"
NEXT: Final = 0  # version of a secret that is being announced: the entry's own seqno is not known yet
TRIED: Final = "(encrypted)"

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
        status = _status(context.kv)
        if status in _RECOVERING:
            raise ValueError(f"the service is {status}: its secrets and their shares cannot change before it is open again")
        context.overlay.due.add(what)

    def complete(self, context: Context) -> None:
        """Do what is due. Before a service is open there are no shares; when it opens they are made.

        Raises: FormatError: There is no key of a node or member to encrypt to, or there are fewer members for shares than it takes.
        """
        overlay = context.overlay
        due, overlay.due = overlay.due, set()
        if not due:
            return
        # The newest secret is not read from the maps; its record is, so that shares of one that is replaced meanwhile are made again.
        context.kv[tables.ENCRYPTED_LEDGER_SECRETS].version_of(tables.SINGLETON)
        opaque = _tried if overlay.is_trial else self.opaque
        latest = self._rekey(context, opaque) if REKEY in due else self._node.secrets()[-1]
        if _status(context.kv) == tables.OPEN:
            self._write(context, shared(context.kv, latest, opaque, is_new=REKEY in due, is_opening=OPENING in due), quiet=overlay.is_trial)

    def member_activated(self, context: Context, member_id: str) -> None:
        """Make new shares, one for this member, who is active from now on: if the service is open and it takes part in recovery."""
        info = tables.decode(context.kv[tables.MEMBER_INFO].get(member_id.encode()) or b"{}")
        has_key = context.kv[tables.MEMBER_ENCRYPTION_KEYS].get(member_id.encode()) is not None
        if has_key and takes_part(info) and _status(context.kv) == tables.OPEN:
            try:
                made = shared(context.kv, self._node.secrets()[-1], self.opaque, is_new=False)
            except FormatError as error:  # of others: it is no reason to keep this one from taking part
                made = Sharing({}, f"no new recovery shares were made: {error}")
            self._write(context, made)

    def at_opening(self, store: Store) -> WriteSet:
        """What is to be written besides where the service opens by itself."""
        try:
            made = shared(Stored(store), self._node.secrets()[-1], self.opaque, is_new=False, is_opening=True)
        except FormatError as error:  # the genesis says that it opens
            made = Sharing({}, f"there are no recovery shares: {error}")
        if made.warning:
            self._node.log("warning", made.warning)
        return made.writes

    def _write(self, context: Context, made: Sharing, quiet: bool = False) -> None:
        for name, changes in made.writes.items():
            for key, value in changes.items():
                if value is None:
                    context.kv[name].delete(key)
                else:
                    context.kv[name].set(key, value)
        if made.warning and not quiet:
            self._node.log("warning", made.warning)

    def _rekey(self, context: Context, opaque: Opaque) -> LedgerSecret:
        """Write a new secret for every node, and the one before for whoever will have the new one.

        Those that leave get it, too: until their retirement is final commits need them, and they read on until they are told.
        """
        previous = self._node.secrets()[-1]
        secret = create_ledger_secret()
        history = context.kv[tables.EARLIER_EPOCH]
        stored = history.version_of(tables.SINGLETON)
        pointer = {} if stored is None else {"previous_secret_stored_version": stored}
        place = ("previous_ledger_secret", "encrypted_data")
        under_new = opaque(tables.EARLIER_EPOCH, place, lambda: gcm(secret, random_bytes(IV_SIZE_BYTES), previous.secret))
        before = {"encrypted_data": under_new, "version": previous.version, **pointer}
        history.set(tables.SINGLETON, tables.encode({"previous_ledger_secret": before}))
        boxes: dict[str, Any] = {}
        for key, value in context.kv[tables.NODE_INFO].items():
            node_id, record = key.decode(), tables.decode(value)
            if record["status"] != tables.PENDING:
                pem = record["encryption_pub_key"]
                box = opaque(tables.ENCRYPTED_LEDGER_SECRETS, (node_id, 0, BOX), partial(boxed, secret, pem))
                boxes[node_id] = [{BOX: box}]
        context.kv[tables.ENCRYPTED_LEDGER_SECRETS].set(tables.SINGLETON, tables.encode(boxes))
        if not context.overlay.is_trial:
            self._node.log("info", f"the ledger gets a new secret, sealed to {len(boxes)} {'node' if len(boxes) == 1 else 'nodes'}")
        return LedgerSecret(NEXT, secret)

    def opaque(self, table: str, path: tuple[str | int, ...], make: Callable[[], bytes]) -> str:
        """Something encrypted, in base64, for this place in a table's record. An auditor's takes what stands there: it can make none."""
        return base64.b64encode(make()).decode()


def _tried(table: str, path: tuple[str | int, ...], make: Callable[[], bytes]) -> str:
    """The same for a trial: nothing is made that nobody has voted for."""
    return TRIED


def _status(maps: Tables) -> str:
    info: dict[str, Any] = tables.decode(maps[tables.SERVICE_INFO].get(tables.SINGLETON) or b"{}")
    return str(info.get("status"))
