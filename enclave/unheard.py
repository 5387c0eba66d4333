"""A joiner whose admission is not final yet, and nobody leads who could make it so: its operator is told, once.

An election may have undone the admission: whoever leads now may never have heard of this node. It does not end itself, for if the one that
admitted it comes back, that one may need it for a majority.
Not here: being admitted (`enclave.joining`).
"""

from collections.abc import Callable
from typing import Final

from ledgerd.enclave.consensus.core import Consensus
from ledgerd.enclave.kv import Store
from ledgerd.governance import tables
from ledgerd.ledger.ids import NodeId

SECONDS: Final = 10.0  # without a primary


class Unheard:
    """Looks now and then, from the admission on."""

    def __init__(self, node_id: NodeId, store: Store, consensus: Consensus, log: Callable[[str, str], None], now: float) -> None:
        self._key = node_id.encode()
        self._store = store
        self._consensus = consensus
        self._log = log
        self._since = now  # since when there is no primary
        self._is_over = False  # the admission is final, or the operator was told

    def look(self, now: float) -> None:
        """Look whether it is time to tell."""
        if self._is_over:
            return
        record, version = self._store.get(tables.NODE_INFO, self._key), self._store.map(tables.NODE_INFO).version_of(self._key)
        is_final = record is not None and version is not None and version <= self._consensus.commit_seqno
        if is_final and tables.decode(record or b"")["status"] != tables.PENDING:
            self._is_over = True
        elif self._consensus.primary_id is not None:
            self._since = now
        elif now >= self._since + SECONDS:
            self._is_over = True
            self._log(
                "warning",
                f"this node was admitted, but that is not final, and no primary was heard for {SECONDS:.0f} s: another than the one that "
                "admitted it may lead now, and not know of it. `ledgerd status --url` of another node tells; where this one is Pending "
                "there, stop it, and start another in its place",
            )
