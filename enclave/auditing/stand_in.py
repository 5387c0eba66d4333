"""The node on which a request is executed again: what endpoints and constitutions ask of theirs, as far as a ledger tells it.

What it cannot tell is answered in favour of the entry that stands there, and is named in docs/audit.md: what the primary's clock said,
which nodes it heard from. What its keys made is taken from the entry, once it is checked to be what was asked for.
"""

import base64
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

from ledgerd.enclave.auditing.certificates import RecordedKeys
from ledgerd.enclave.auditing.findings import NotFollowingError, read_json
from ledgerd.enclave.governing.calls import GovernanceCalls
from ledgerd.enclave.governing.renewal import Renewal
from ledgerd.enclave.keys import ServiceKeys
from ledgerd.enclave.kv import Store
from ledgerd.enclave.ledger_secrets import LedgerSecret
from ledgerd.enclave.scripts.run import Call
from ledgerd.governance import tables
from ledgerd.ledger.entry import WriteSet
from ledgerd.ledger.ids import NodeId, Seqno, TransactionId


class Period(NamedTuple):
    """From when a certificate is valid, and for how many days. It had to hold when it was made, which the next signature bounds."""

    begins: datetime
    days: int


class StandIn:
    """Such a node, for one entry after the other.

    Args:
        store: The state before the entry.
        last_signed: Seqno of the last signature before it: nothing later can have been committed.

    Attributes:
        root: The root that the service had reached, as a proposal's id shows.
        now_ms: Its time, as far as it is known.
        periods: Of certificates that the entry asked for.
        broken: Why a certificate that it records is not the one that was to be made.
    """

    def __init__(self, store: Store, last_signed: Callable[[], Seqno]) -> None:
        self.store = store
        self.root = bytes(32)
        self.now_ms = 0
        self.periods: list[Period] = []
        self.broken: NotFollowingError | None = None
        self._last_signed = last_signed
        self._entry: tuple[TransactionId, WriteSet] | None = None

    def face(self, transaction_id: TransactionId, writes: WriteSet, root: bytes, now_ms: int) -> None:
        """Be the node that made this entry."""
        self._entry = (transaction_id, writes)
        self.root = root
        self.now_ms = now_ms
        self.periods = []
        self.broken = None

    @property
    def service(self) -> ServiceKeys:
        """The service's keys."""
        assert self._entry is not None, "it stands in for the node that made an entry"
        info = tables.decode(self.store.get(tables.SERVICE_INFO, tables.SINGLETON) or b"{}")
        return RecordedKeys(info["cert"], *self._entry)

    def secrets(self) -> list[LedgerSecret]:
        """Of the ledger's secrets only their versions are known, and only the last one is asked for."""
        changed = self.store.map(tables.ENCRYPTED_LEDGER_SECRETS).version_of(tables.SINGLETON) or 0
        return [LedgerSecret(changed + 1, b"")]

    def recorded(self, table: str, path: tuple[str | int, ...]) -> str:
        """A text in a record of one that the entry writes; an empty one if it is not there."""
        assert self._entry is not None, "it stands in for the node that made an entry"
        found: Any = read_json(self._entry[1].get(table, {}).get(tables.SINGLETON) or b"")
        for step in path:
            try:
                found = found[step]
            except (LookupError, TypeError):
                return ""
        return found if isinstance(found, str) else ""

    @property
    def is_settled(self) -> bool:
        """It was, or it would not have taken the request."""
        return True

    @property
    def committed_seqno(self) -> Seqno:
        """At most what was signed."""
        return self._last_signed()

    @property
    def live_nodes(self) -> frozenset[NodeId]:
        """At most all that it trusts."""
        rows = self.store.map(tables.NODE_INFO).items()
        return frozenset(NodeId(key.decode()) for key, value in rows if tables.decode(value)["status"] == tables.TRUSTED)

    def log(self, level: str, text: str) -> None:
        """What an operator would be told is not of interest here."""


class RecordedRenewal(Renewal):
    """What is encrypted is taken from the entry; whom and what for, in which words, is made again."""

    def __init__(self, node: StandIn) -> None:
        super().__init__(node)
        self._stand_in = node

    def opaque(self, table: str, path: tuple[str | int, ...], make: Callable[[], bytes]) -> str:
        """What stands there; the expected record then differs unless it is base64."""
        text = self._stand_in.recorded(table, path)
        try:
            return base64.b64encode(base64.b64decode(text, validate=True)).decode() or "something encrypted"
        except ValueError:
            return "something encrypted"


class Calls(GovernanceCalls):
    """The enclave's functions for constitutions; whether a certificate held when it was made is asked of the next signature's time."""

    def __init__(self, node: StandIn, renewal: Renewal) -> None:
        super().__init__(node, renewal)
        self._stand_in = node
        self.calls = {name: self._noting(call) for name, call in self.calls.items()}

    def _check_now(self, begins: datetime, days: int) -> None:
        self._stand_in.periods.append(Period(begins, days))

    def _noting(self, call: Call) -> Call:
        """A script that asks for a certificate is told, like one that asks for the impossible; the audit ends when it has."""

        def noting(scope: Any, arguments: list[Any]) -> Any:
            try:
                return call(scope, arguments)
            except NotFollowingError as error:
                self._stand_in.broken = error
                raise ValueError(str(error)) from None

        return noting
