"""The replicated ledger of one node: entries, state and tree, always at the same seqno. The state machine below consensus.

A primary's entries come from `propose`, a backup's from `append`; both end in the same state.
Not here: who may append (`enclave.consensus`), when to sign (`enclave.group_commit`), what endpoints do (`enclave.execution`).
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from ledgerd.enclave.consensus.core import Appended, Configuration, Note
from ledgerd.enclave.consensus.log import LogEntry
from ledgerd.enclave.history import History
from ledgerd.enclave.kv import Store
from ledgerd.enclave.ledger_secrets import LedgerSecrets
from ledgerd.governance import tables
from ledgerd.ledger import cose, signature
from ledgerd.ledger.entry import ZERO_DIGEST, WriteSet, write_set_digest
from ledgerd.ledger.errors import IntegrityError
from ledgerd.ledger.ids import NodeId, Seqno, TransactionId, View

GOVERNANCE_PREFIX: Final = "public:ccf.gov."
_SPECIAL: Final = "public:ccf."

Membership = tuple[Configuration | None, frozenset[NodeId]]
"""What an entry changes of it: the configuration from there on, and the nodes that it removes for good; as in `LogEntry`."""

Proposal = tuple[WriteSet, bytes]
"""What an entry writes, and its claims digest."""


def is_plain(writes: WriteSet) -> bool:
    """Whether an entry is of interest to applications only: no signature, nothing of governance."""
    for name in writes:  # noqa: SIM110  a generator takes 2.5 times as long, for each entry on each node
        if name.startswith(_SPECIAL):
            return False
    return True


class Unverified(NamedTuple):
    """A signature entry appended by a backup whose ECDSA signatures are still to be verified, off the path."""

    seqno: Seqno
    signature: signature.Signature
    node_certificate: bytes
    service_certificate: str


class Replica:
    """Store, history and sealing of one node, moved forward and back together."""

    def __init__(
        self,
        store: Store,
        secrets: LedgerSecrets,
        on_governance: Callable[[], None],
        on_rollback: Callable[[Seqno], None],
        recent_ranges: int,
    ) -> None:
        """Wire the three together.

        Args:
            on_governance: Called whenever a governance map may have changed, forward or back.
            on_rollback: Called when everything above a seqno was undone.
            recent_ranges: How many committed ranges are kept for receipts, at most.
        """
        self.store = store
        self.history = History(recent_ranges)
        self.sealer = secrets.sealer
        self._secrets = secrets
        self.unverified: list[Unverified] = []
        self._on_governance = on_governance
        self._on_rollback = on_rollback
        self._governance_seqno = Seqno(0)  # of the last entry that wrote a governance map
        self.genesis_digest: bytes | None = None
        self.genesis_expected: bytes | None = None  # on a joiner: what the node that admitted it has attested

    @property
    def last(self) -> Seqno:
        """Seqno of the last entry applied."""
        return self.history.last

    def propose(
        self, view: View, writes: WriteSet, claims_digest: bytes = ZERO_DIGEST, record: signature.Signature | None = None
    ) -> LogEntry:
        """Seal the next entry, on a primary, whose writes are already in the store. The caller hands it to consensus.

        Args: record: what it says, if it is a signature entry.
        """
        seqno = Seqno(self.history.last + 1)
        sealed = self.sealer.seal(view, seqno, writes, claims_digest)
        configuration, removed = self._note(seqno, writes, sealed.leaf, record, sealed.data)
        return LogEntry(view, seqno, sealed.data, sealed.leaf, record is not None, configuration, removed)

    def propose_plain(self, view: View, proposals: list[Proposal]) -> tuple[Seqno, list[bytes], list[bytes]]:
        """As `propose`, for entries whose `writes` are all plain (`is_plain`).

        Returns: The first seqno, the entries' bytes, their leaves.
        """
        first = Seqno(self.history.last + 1)
        data, leaves = self.sealer.seal_many(view, first, proposals)
        self.history.extend(leaves)
        return first, data, leaves

    def append(self, view: View, first: Seqno, entries: list[bytes]) -> Appended:
        """Open, check and apply the next entries, on a backup.

        Raises: IntegrityError: One is not the entry that follows, or a signature over another root than this node's own; the
            caller stops the node, since either it or the primary is broken.
        """
        sealer, store = self.sealer, self.store
        leaves: list[bytes] = []
        plain: list[bytes] = []  # leaves that the history does not have yet
        notes: list[Note] = []
        for expected, data in enumerate(entries, first):
            opened_view, seqno, writes, leaf = sealer.open_writes(data)
            if seqno != expected or opened_view != view:
                raise IntegrityError(f"entry {opened_view}.{seqno} stands where {view}.{expected} has to")
            leaves.append(leaf)
            if is_plain(writes):
                store.apply(seqno, writes)
                plain.append(leaf)
                continue
            self.history.extend(plain)
            plain.clear()
            record = signature.parse(writes) if signature.TREE in writes else None
            if record is not None:
                self._check_signature(view, seqno, record)
            store.apply(seqno, writes)
            notes.append(Note(seqno, record is not None, *self._note(seqno, writes, leaf, record, data)))
        self.history.extend(plain)
        return Appended(leaves, notes)

    def rollback(self, to: TransactionId) -> None:
        """Undo everything above `to`."""
        self.store.rollback(to.seqno)
        self.history.rollback(to.seqno)
        self._secrets.rolled_back(to.seqno)
        self.unverified = [item for item in self.unverified if item.seqno <= to.seqno]
        if self._governance_seqno > to.seqno:
            self._governance_seqno = to.seqno
            self._on_governance()
        self._on_rollback(to.seqno)

    def commit(self, to: Seqno) -> None:
        """Make everything up to `to` final."""
        self.store.compact(to)
        self.history.commit(to)

    def configuration(self, seqno: Seqno) -> Configuration:
        """The nodes that the tables trust, as of the last entry."""
        nodes = self.store.map(tables.NODE_INFO)
        trusted = frozenset(NodeId(key.decode()) for key, value in nodes.items() if tables.decode(value)["status"] == tables.TRUSTED)
        return Configuration(seqno, trusted)

    def _note(self, seqno: Seqno, writes: WriteSet, leaf: bytes, record: signature.Signature | None, data: bytes) -> Membership:
        if record is None:
            self.history.extend((leaf,))
        else:
            self.history.append_signature(leaf, record)
        if tables.ENCRYPTED_LEDGER_SECRETS in writes:
            self._secrets.applied(seqno, writes)
        for name in writes:
            if name.startswith(GOVERNANCE_PREFIX):
                self._governance_seqno = seqno
                if seqno == 1:
                    self.genesis_digest = write_set_digest(data)
                    if self.genesis_expected not in (None, self.genesis_digest):
                        raise IntegrityError(
                            "the ledger's first entry is not the one that the admitting node attested; this is another ledger"
                        )
                self._on_governance()
                return self._membership(seqno, writes.get(tables.NODE_INFO, {}))
        return None, frozenset()

    def _membership(self, seqno: Seqno, records: Mapping[bytes, bytes | None]) -> Membership:
        """What records of nodes, just written, mean for consensus.

        As in CCF: whoever becomes Trusted or Retired makes a new configuration; waiting, and being forgotten, does not; and the record of
        `retired_committed` says that nobody needs the node any more.
        """
        is_changed = False
        removed = set()
        for key, value in records.items():
            if value is None:
                continue
            node = tables.decode(value)
            if node["status"] == tables.RETIRED and node["retired_committed"]:
                removed.add(NodeId(key.decode()))
            elif node["status"] != tables.PENDING:
                is_changed = True
        return self.configuration(seqno) if is_changed else None, frozenset(removed)

    def _check_signature(self, view: View, seqno: Seqno, record: signature.Signature) -> None:
        root = self.history.root()
        raw = record.raw
        if raw is None or record.cose is None or record.tree is None:
            raise IntegrityError(f"signature entry {view}.{seqno} lacks one of its two signatures or its tree")
        if raw.root != root or raw.transaction_id != (view, seqno):
            raise IntegrityError(
                f"signature entry {view}.{seqno} is over root {raw.root.hex()[:16]}..., this node's own is {root.hex()[:16]}...; "
                "one of the two nodes has a damaged ledger"
            )
        signer = raw.node_id.encode()
        certificate = self.store.get(tables.NODE_ENDORSED_CERTIFICATES, signer)
        if certificate is None:
            raise IntegrityError(f"signature entry {view}.{seqno} is signed by node {raw.node_id[:16]}..., which was never endorsed")
        service = self.store.get(tables.SERVICE_INFO, tables.SINGLETON)
        assert service is not None, "the genesis entry writes it"
        self.unverified.append(Unverified(seqno, record, certificate, tables.decode(service)["cert"]))


def verify_signatures(item: Unverified) -> None:
    """Verify both signatures of a signature entry whose root is known to be right; for a worker thread, 0.2 ms on P-256, 1.8 on P-384.

    Raises: IntegrityError: One of them does not verify, or names another transaction.
    """
    raw, cose_signature = item.signature.raw, item.signature.cose
    assert raw is not None and cose_signature is not None, "an appended signature entry has both"
    signature.verify_raw(_key(item.node_certificate), raw.root, raw.signature)
    header = cose.verify_root(cose_signature, _key(item.service_certificate.encode()), raw.root)
    if header.transaction_id != raw.transaction_id:
        raise IntegrityError(f"the COSE signature is of {header.transaction_id}, the raw one of {raw.transaction_id}")


@lru_cache(maxsize=64)  # one service and a few nodes sign everything
def _key(pem: bytes) -> ec.EllipticCurvePublicKey:
    key = x509.load_pem_x509_certificate(pem).public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise IntegrityError("a signing certificate's key is not on an elliptic curve")
    return key
