"""Replay a ledger from entry 1 and check every claim that it makes of itself. Pure: entries in, a verdict out.

Every leaf is recomputed from stored bytes, every root compared with what both signatures cover, every signer with what the ledger
recorded of it. Nothing is decrypted. With the service's certificate the verdict is anchored: its key signed the last root, and so
all that stands before it. Entries after the last signature are under no root yet: of those only the form is checked.
Not here: reading files (the node's commands, `ledger.chunks`), receipts, attestation of nodes, governance rules.
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec

from ledgerd.ledger import cose
from ledgerd.ledger.entry import PublicEntry, WriteSet, read_public
from ledgerd.ledger.errors import FormatError, IntegrityError, LedgerdError, UsageError
from ledgerd.ledger.ids import FIRST_VIEW, NO_TRANSACTION, TransactionId
from ledgerd.ledger.merkle import Frontier, Tree, parse_tree
from ledgerd.ledger.receipt import check_chain, key_der, load_certificate, public_key
from ledgerd.ledger.signature import (
    COSE_SIGNATURES,
    SIGNATURES,
    SINGLETON_KEY,
    TREE,
    RawSignature,
    decode_base64,
    parse,
    unique,
    verify_raw,
)

SERVICE_INFO: Final = "public:ccf.gov.service.info"
NODES_INFO: Final = "public:ccf.gov.nodes.info"
NODES_CERTIFICATES: Final = "public:ccf.gov.nodes.endorsed_certificates"
PREVIOUS_IDENTITY: Final = "public:ccf.gov.service.previous_service_identity"
PREVIOUS_ROOT: Final = "public:ccf.internal.previous_service_last_signed_root"
ENDORSEMENT: Final = "public:ccf.internal.previous_service_identity_endorsement"

_WATCHED: Final = frozenset(
    (SERVICE_INFO, NODES_INFO, NODES_CERTIFICATES, PREVIOUS_IDENTITY, PREVIOUS_ROOT, ENDORSEMENT, SIGNATURES, COSE_SIGNATURES, TREE)
)

OPENING: Final = "Opening"
OPEN: Final = "Open"
RECOVERING: Final = "Recovering"
WAITING: Final = "WaitingForRecoveryShares"

# Every way a service changes its status is a row here, beside staying as it is; None is the ledger's beginning.
TRANSITIONS: Final[frozenset[tuple[str | None, str]]] = frozenset(
    (
        (None, OPENING),
        (OPENING, OPEN),
        (OPENING, WAITING),
        (OPEN, OPENING),  # a recovery, as CCF recorded it before it had a word for that
        (WAITING, OPENING),
        (RECOVERING, OPENING),
        (OPEN, RECOVERING),
        (RECOVERING, WAITING),
        (WAITING, OPEN),
    )
)
_NODE_STATUSES: Final = frozenset(("Pending", "Trusted", "Retired"))


class AuditResult(NamedTuple):
    """What was found. Counts are of entries; `unsigned` of them stand after `last_signed` and are under no root yet.

    What is said of the service is as of `last_signed`.
    `anchored`: the last signature is by the key of the certificate that was given. Otherwise the ledger is consistent with
    itself, and whose it is remains open: UNANCHORED.
    """

    transactions: int
    signatures: int
    last_transaction_id: TransactionId
    last_signed: TransactionId | None
    last_root: bytes | None
    unsigned: int
    service_status: str | None
    service_certificate: str | None
    recoveries: int
    anchored: bool


class _ServiceState(NamedTuple):
    status: str | None
    certificate: str | None
    key: ec.EllipticCurvePublicKey | None
    recoveries: int


_NO_SERVICE: Final = _ServiceState(None, None, None, 0)


class Auditor:
    """Takes a ledger entry by entry from seqno 1; raises at the first that does not fit, and takes no more after that."""

    __slots__ = (
        "_anchor",
        "_certificates",
        "_defer",
        "_endorsed",
        "_endorsement_seqno",
        "_failed",
        "_frontier",
        "_identities",
        "_key",
        "_last",
        "_leaves",
        "_outstanding",
        "_pem",
        "_previous_ends",
        "_signed",
        "_signed_frontier",
        "_signed_root",
        "_signed_state",
        "_statuses",
        "signatures",
        "status",
    )

    def __init__(
        self, service_certificate: str | bytes | None = None, *, defer: Callable[[Callable[[], None]], object] | None = None
    ) -> None:
        """Begin before entry 1.

        Args:
            service_certificate: PEM; the identity that the ledger must end under. None audits UNANCHORED.
            defer: Takes each verification of a signature (a call that raises IntegrityError, and releases the GIL) and may run it later,
                in threads, where many small batches make signatures the cost of an audit. All must have run before `result`.
        Raises: FormatError: It is not one PEM certificate.
        """
        self._defer = defer
        self._outstanding: dict[tuple[int, str], None] = {}
        self._anchor = None if service_certificate is None else public_key(load_certificate(service_certificate))
        self._frontier = Frontier()
        self._leaves: list[bytes] = []  # since the last signature, its own leaf first: to name the entry that was changed
        self._signed_frontier = Frontier()
        self._signed: TransactionId | None = None
        self._signed_root: bytes | None = None
        self._signed_state: _ServiceState = _NO_SERVICE
        self._last = NO_TRANSACTION
        self._statuses: dict[bytes, str] = {}
        self._certificates: dict[bytes, str] = {}
        self._endorsed: dict[str, tuple[str, ec.EllipticCurvePublicKey]] = {}  # by PEM: node id and key, under the present identity
        self._key: ec.EllipticCurvePublicKey | None = None
        self._pem: str | None = None
        self._identities: list[bytes] = []  # DER keys of the service, in order
        self._previous_ends: dict[str, bytes] = {}  # last signature of each identity before the present one: id to root
        self._endorsement_seqno: int | None = None
        self._failed: str | None = None
        self.status: str | None = None
        self.signatures = 0

    @property
    def last(self) -> TransactionId:
        """The last entry that was taken."""
        return self._last

    @property
    def signed(self) -> TransactionId | None:
        """The last signature entry that was taken: all before it is as it was signed."""
        return self._signed

    def feed(self, data: bytes) -> PublicEntry:
        """Take the next entry, in its stored bytes, and return what it shows.

        Raises:
            IntegrityError: It contradicts what the ledger said before, or a signature does not cover the bytes that were read.
            FormatError: It does not follow the format.
            UsageError: An entry was refused before.
        """
        if self._failed is not None:
            raise UsageError(f"this audit ended: {self._failed}")
        try:
            entry = read_public(data)
            self._take(entry)
        except (IntegrityError, FormatError) as error:
            self._failed = f"entry {self._last.seqno + 1} (after {self._last}): {error}"
            raise type(error)(self._failed) from None
        except LedgerdError as error:
            self._failed = str(error)
            raise
        return entry

    def result(self) -> AuditResult:
        """Return the verdict over all entries so far.

        Raises:
            IntegrityError: With a certificate: nothing is signed by its key, or the ledger goes on under another.
            UsageError: An entry was refused, or a deferred verification has failed or not run yet.
        """
        if self._failed is not None:
            raise UsageError(f"this audit ended: {self._failed}")
        if self._outstanding:
            raise UsageError(f"{len(self._outstanding)} signatures are not verified: run what was deferred, and raise what it raises")
        state = self._signed_state
        if self._anchor is not None and state.key != self._anchor:
            seen = "nothing is signed" if state.key is None else f"the last signature is under {cose.key_id(state.key).decode()[:16]}..."
            raise IntegrityError(
                f"up to {self._last} the ledger is consistent with itself, but it is not the given service's: "
                f"expected key {cose.key_id(self._anchor).decode()[:16]}..., {seen}"
            )
        return AuditResult(
            transactions=self._last.seqno,
            signatures=self.signatures,
            last_transaction_id=self._last,
            last_signed=self._signed,
            last_root=self._signed_root,
            unsigned=self._last.seqno - (self._signed.seqno if self._signed else 0),
            service_status=state.status,
            service_certificate=state.certificate,
            recoveries=state.recoveries,
            anchored=self._anchor is not None,
        )

    def copy(self) -> "Auditor":
        """Return an independent auditor at the same place, for example to go on from here when more of the ledger is there.

        Raises: UsageError: A deferred verification has failed or not run yet.
        """
        if self._outstanding:
            raise UsageError(f"{len(self._outstanding)} signatures are not verified yet")
        other = Auditor.__new__(Auditor)
        for name in Auditor.__slots__:
            value = getattr(self, name)
            setattr(other, name, value.copy() if isinstance(value, (dict, list, Frontier)) else value)
        return other

    def _take(self, entry: PublicEntry) -> None:
        view, seqno = entry.view, entry.seqno
        last_view, last_seqno = self._last
        if seqno != last_seqno + 1:
            raise IntegrityError(f"this is {view}.{seqno}; an entry is missing, repeated or out of place")
        if view < last_view or view < FIRST_VIEW:
            raise IntegrityError(f"this is {view}.{seqno}; views start at {FIRST_VIEW} and never fall")
        writes = entry.writes
        identifier = TransactionId(view, seqno)
        is_signature = False
        if writes and not _WATCHED.isdisjoint(writes):
            is_signature = self._read_tables(identifier, writes)
        self._frontier.append(entry.leaf)
        if is_signature:
            self._leaves = [entry.leaf]
        else:
            self._leaves.append(entry.leaf)
        self._last = identifier

    def _read_tables(self, identifier: TransactionId, writes: WriteSet) -> bool:
        """Take what the built-in tables say; True if this was a signature entry."""
        if (info := writes.get(SERVICE_INFO)) is not None:
            self._read_service(identifier, _singleton(SERVICE_INFO, info), writes)
        elif PREVIOUS_IDENTITY in writes or PREVIOUS_ROOT in writes:
            raise IntegrityError("a previous service identity is recorded, but no service begins here")
        if (nodes := writes.get(NODES_INFO)) is not None:
            self._read_nodes(nodes)
        if (certificates := writes.get(NODES_CERTIFICATES)) is not None:
            self._read_certificates(certificates)
        if (endorsement := writes.get(ENDORSEMENT)) is not None:
            self._read_endorsement(identifier, _singleton(ENDORSEMENT, endorsement))
        if SIGNATURES in writes or COSE_SIGNATURES in writes or TREE in writes:
            self._check_signature(identifier, writes)
            return True
        return False

    def _read_service(self, identifier: TransactionId, data: bytes, writes: WriteSet) -> None:
        info = _object(data, "service.info")
        status, pem = info.get("status"), info.get("cert")
        if not isinstance(status, str) or not isinstance(pem, str):
            raise FormatError("service.info has no status or no certificate")
        if status != self.status and (self.status, status) not in TRANSITIONS:
            raise IntegrityError(f"the service goes from {self.status} to {status}; no service does that")
        key = self._key
        if pem != self._pem:
            key = public_key(load_certificate(pem, "the service's certificate"), "the service's certificate")
        if self._key is None or key != self._key:
            self._change_identity(identifier, status, info, writes)
            assert key is not None
            self._identities.append(key_der(key))
        elif PREVIOUS_ROOT in writes:
            raise IntegrityError("a previous service's last root is recorded, but the service's identity is the same")
        if pem != self._pem:
            self._endorsed.clear()
        self.status, self._pem, self._key = status, pem, key

    def _change_identity(self, identifier: TransactionId, status: str, info: dict[str, Any], writes: WriteSet) -> None:
        """Check what a service says of its predecessor where a new identity begins."""
        created = info.get("current_service_create_txid")
        if created is not None and created != str(identifier):
            raise IntegrityError(f"a service identity begins at {identifier}, but says that it was created at {str(created)[:32]!r}")
        if self._key is None:
            return
        if status not in (RECOVERING, OPENING):
            raise IntegrityError(f"the service's identity changes at {identifier} without a recovery (status {status})")
        if self._signed is None or self._signed_root is None or self._signed != self._last:
            raise IntegrityError(f"a recovery begins at {identifier}, which does not follow a signature")
        previous, root = writes.get(PREVIOUS_IDENTITY), writes.get(PREVIOUS_ROOT)
        if previous is not None:
            stated = _value(_singleton(PREVIOUS_IDENTITY, previous), "previous_service_identity")
            if not isinstance(stated, str) or public_key(load_certificate(stated)) != self._key:
                raise IntegrityError("the previous service identity that is recorded is not the one of the ledger so far")
        if root is not None and _value(_singleton(PREVIOUS_ROOT, root), "previous_service_last_signed_root") != self._signed_root.hex():
            raise IntegrityError(f"the previous service's last signed root that is recorded is not that of {self._signed}")
        self._previous_ends[str(self._signed)] = self._signed_root

    def _read_nodes(self, nodes: dict[bytes, bytes | None]) -> None:
        for node_id, value in nodes.items():
            if value is None:
                self._statuses.pop(node_id, None)
                self._certificates.pop(node_id, None)
                continue
            info = _object(value, "nodes.info")
            status, certificate = info.get("status"), info.get("cert")
            if type(status) is not str or status not in _NODE_STATUSES:
                raise FormatError(f"node {node_id[:16]!r}... has status {str(status)[:32]!r}, expected Pending, Trusted or Retired")
            self._statuses[node_id] = status
            if isinstance(certificate, str):  # CCF before 2.0 kept it here
                self._certificates.setdefault(node_id, certificate)

    def _read_certificates(self, certificates: dict[bytes, bytes | None]) -> None:
        for node_id, value in certificates.items():
            if value is None:
                self._certificates.pop(node_id, None)
                continue
            try:
                self._certificates[node_id] = value.decode("ascii")
            except UnicodeDecodeError:
                raise FormatError(f"the endorsed certificate of node {node_id[:16]!r}... is not PEM") from None

    def _read_endorsement(self, identifier: TransactionId, data: bytes) -> None:
        """Check the present service's statement about the key of the one before (at first: about its own)."""
        record = _object(data, "previous_service_identity_endorsement")
        if self._key is None:
            raise IntegrityError("a service identity is endorsed before there is a service")
        if decode_base64(record.get("endorsing_key"), "endorsing key") != self._identities[-1]:
            raise IntegrityError("the endorsing key is not the present service's")
        message = cose.decode(decode_base64(record.get("endorsement"), "endorsement"))
        cose.verify(message, self._key)
        epoch = message.protected.get(cose.HEADER_CCF)
        begin, end = record.get("endorsement_epoch_begin"), record.get("endorsement_epoch_end")
        if not isinstance(epoch, Mapping) or epoch.get("epoch.start.txid") != begin or epoch.get("epoch.end.txid") != end:
            raise IntegrityError("the signed endorsement and the record around it speak of different epochs")
        if message.payload not in self._identities:
            raise IntegrityError("the endorsed key is of no service identity of this ledger")
        ends = self._previous_ends.get(end) if type(end) is str else None
        if end is not None and (ends is None or epoch.get("epoch.end.merkle.root") != ends):
            raise IntegrityError(f"the endorsed epoch ends at {str(end)[:32]!r} with a root that is not the one signed there")
        if record.get("previous_version") != self._endorsement_seqno:
            raise IntegrityError(
                f"this endorsement follows the one at {record.get('previous_version')}, the ledger's last is at {self._endorsement_seqno}"
            )
        self._endorsement_seqno = identifier.seqno

    def _check_signature(self, identifier: TransactionId, writes: WriteSet) -> None:
        found = parse(writes)
        assert found is not None  # one of the three maps is there, or nobody would ask
        if self._key is None:
            raise IntegrityError("a signature before there is a service to sign")
        tree = None if found.tree is None else parse_tree(found.tree)
        root = self._frontier.root()
        raw = found.raw
        if raw is not None:
            if raw.transaction_id != identifier:
                raise IntegrityError(f"the raw signature says that it is {raw.transaction_id}, the entry is {identifier}")
            if raw.root != root:
                raise IntegrityError(self._explain(identifier, root, raw.root, tree))
            node_key = self._signer(raw)
            self._verify(identifier, "raw", partial(verify_raw, node_key, root, raw.signature))
        if found.cose is not None:
            message = cose.decode(found.cose)
            header = cose.read_root_header(message)
            if raw is None and tree is not None and _tree_root(tree) != root:  # the tree is no proof, but says better what is wrong
                raise IntegrityError(self._explain(identifier, root, _tree_root(tree), tree))
            self._verify(identifier, "COSE", partial(cose.verify_root, message, self._key, root))
            if header.transaction_id != identifier:
                raise IntegrityError(f"the COSE signature says that it is {header.transaction_id}, the entry is {identifier}")
            if message.unprotected:
                raise FormatError("the COSE signature has an unprotected header; in a ledger it is empty")
        if tree is not None:
            self._check_tree(identifier, tree)
        self.signatures += 1
        self._signed, self._signed_root = identifier, root
        self._signed_frontier = self._frontier.copy()
        self._signed_state = _ServiceState(self.status, self._pem, self._key, len(self._identities) - 1)

    def _verify(self, identifier: TransactionId, kind: str, check: Callable[[], object]) -> None:
        """Verify a signature now, or hand it to whom the caller named; until it verified, there is no verdict."""
        if self._defer is None:
            check()
            return
        outstanding = self._outstanding
        name = (identifier.seqno, kind)
        outstanding[name] = None

        def run() -> None:
            try:
                check()
            except (IntegrityError, FormatError) as error:
                raise type(error)(f"signature entry {identifier}, {kind} signature: {error}") from None
            del outstanding[name]  # one operation of a dict: threads need no lock

        self._defer(run)

    def _signer(self, raw: RawSignature) -> ec.EllipticCurvePublicKey:
        """Return the key of the node that signed, if it is one that the ledger knows."""
        node_id = raw.node_id.encode()
        status = self._statuses.get(node_id)
        if status is None or status == "Pending":
            raise IntegrityError(f"signed by node {raw.node_id[:16]}..., whose status is {status}; expected Trusted or Retired")
        recorded = self._certificates.get(node_id)
        if recorded is None:
            raise IntegrityError(f"signed by node {raw.node_id[:16]}..., of which the ledger records no endorsed certificate")
        endorsed = self._endorsed.get(raw.certificate)
        if endorsed is None:
            certificate = load_certificate(raw.certificate, "the signing node's certificate")
            key = public_key(certificate, "the signing node's certificate")
            assert self._pem is not None
            check_chain(certificate, [load_certificate(self._pem)])
            endorsed = (cose.key_id(key).decode(), key)
            self._endorsed[raw.certificate] = endorsed
        if endorsed[0] != raw.node_id:
            raise IntegrityError(f"signed by node {raw.node_id[:16]}..., but the certificate beside it is of {endorsed[0][:16]}...")
        if recorded != raw.certificate:
            kept = public_key(load_certificate(recorded, "the node's recorded certificate"))
            if kept != endorsed[1]:
                raise IntegrityError(f"node {raw.node_id[:16]}... signs with another key than that of its recorded certificate")
        return endorsed[1]

    def _check_tree(self, identifier: TransactionId, tree: Tree) -> None:
        """Compare the tree that a signature entry keeps with ours, as far as we still hold it."""
        if tree.base + len(tree.leaves) != identifier.seqno:
            raise IntegrityError(f"the tree of {identifier} has {tree.base + len(tree.leaves)} leaves, expected {identifier.seqno}")
        known = self._leaves[-len(tree.leaves) :] if tree.leaves else []
        if tree.leaves[len(tree.leaves) - len(known) :] != known or (
            tree.base == self._signed_frontier.size and tree.below != self._signed_frontier
        ):
            raise IntegrityError(f"the tree of {identifier} is not the one of the entries before it")

    def _explain(self, identifier: TransactionId, root: bytes, signed: bytes, tree: Tree | None) -> str:
        """Say where the ledger was changed, as far as the signature entry still knows."""
        since = 1 if self._signed is None else self._signed.seqno
        where = f"an entry from {since} to {identifier.seqno - 1} was changed"
        if tree is not None and tree.base + len(tree.leaves) == identifier.seqno and _tree_root(tree) == signed:
            first = identifier.seqno - len(self._leaves)
            for seqno, leaf in enumerate(self._leaves, first):
                if seqno >= tree.base and tree.leaves[seqno - tree.base] != leaf:
                    where = f"the first entry that was changed is {seqno}"
                    break
        return f"signature entry {identifier}: the entries read give root {root.hex()[:16]}..., signed is {signed.hex()[:16]}...: {where}"


def _tree_root(tree: Tree) -> bytes:
    frontier = tree.below.copy()
    for leaf in tree.leaves:
        frontier.append(leaf)
    return frontier.root() if frontier.size else bytes(32)


def _singleton(name: str, keys: dict[bytes, bytes | None]) -> bytes:
    value = keys.get(SINGLETON_KEY)
    if value is None or len(keys) != 1:
        raise FormatError(f"{name} must hold one value under the key of eight zero bytes")
    return value


def _value(data: bytes, what: str) -> Any:
    try:
        return json.loads(data, object_pairs_hook=unique)
    except (ValueError, RecursionError):
        raise FormatError(f"{what} does not hold JSON") from None


def _object(data: bytes, what: str) -> dict[str, Any]:
    value = _value(data, what)
    if not isinstance(value, dict):
        raise FormatError(f"{what} does not hold a JSON object")
    return value
