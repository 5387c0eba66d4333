"""A hostile service: it has all of its keys, changes its own ledger, and signs everything anew, so that every hash and signature is right.

What members and nodes of others have signed it cannot make again; all else it can.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from ledgerd.governance import tables
from ledgerd.ledger import cose, signature
from ledgerd.ledger.entry import Opened, Sealer, WriteSet
from ledgerd.ledger.merkle import Frontier, serialise_tree
from support.cluster import Cluster

Change = Callable[[int, WriteSet], WriteSet | None]
"""Given an entry's seqno in the true ledger and what it writes, gives what it is to write; None leaves the entry out."""


@dataclass
class Keys:
    """What a service signs and seals with."""

    ledger_secrets: Sequence[tuple[int, bytes]]  # by the first entry of each
    service: ec.EllipticCurvePrivateKey
    nodes: Mapping[str, ec.EllipticCurvePrivateKey]  # by node id

    @classmethod
    def of(cls, cluster: Cluster) -> "Keys":
        """Those of a service of this process."""
        enclaves: list[Any] = [host.enclave for host in cluster.hosts.values()]
        return cls(
            enclaves[0]._serving.status.secrets(),
            enclaves[0]._serving.status.service.identity,
            {one._keys.id: one._keys.identity for one in enclaves if hasattr(one, "_keys")},
        )


def opened(entries: Sequence[bytes], keys: Keys) -> list[Opened]:
    """All of them, in the clear."""
    (_, first), *later = keys.ledger_secrets
    sealer = Sealer(first)
    for version, secret in later:
        sealer.begin_epoch(version, secret)
    return [sealer.open(entry) for entry in entries]


def rewrite(entries: Sequence[bytes], keys: Keys, change: Change, added: Mapping[int, Sequence[WriteSet]] | None = None) -> list[bytes]:
    """The ledger as the service would have it: the same bytes up to the first change, then all of it new.

    Args:
        added: Entries that are put in after the true ledger's entry of that seqno.
    """
    out = _Writer(keys)
    is_changed = False
    moved: dict[int, int] = {}  # seqnos, from the true ledger's to this one's
    for data, entry in zip(entries, opened(entries, keys), strict=True):
        is_signature = signature.SIGNATURES in entry.writes
        writes: WriteSet | None = entry.writes
        if not is_signature:
            writes = change(entry.seqno, {name: dict(changes) for name, changes in entry.writes.items()})
            is_changed |= writes != entry.writes
            observed = (writes or {}).get(tables.OBSERVED_SIGNATURE, {}).get(tables.SINGLETON)
            if observed is not None and writes is not None:
                seqno = tables.decode(observed)
                writes[tables.OBSERVED_SIGNATURE] = {tables.SINGLETON: tables.encode(moved.get(seqno, seqno))}
        moved[entry.seqno] = len(out.entries) + 1
        if not is_changed:
            out.keep(data, entry.leaf)
        elif is_signature:
            out.sign(entry)
        elif writes is not None:
            out.write(entry.view, writes, entry.claims_digest, entry.flags)
        for more in (added or {}).get(entry.seqno, ()):
            is_changed = True
            out.write(entry.view, more, bytes(32), 0)
    return out.entries


class _Writer:
    """Writes a ledger from its first entry."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._sealer = Sealer(keys.ledger_secrets[0][1])  # for all of it; no auditor can tell
        self._tip = Frontier()
        self._kept: list[bytes] = []
        self.entries: list[bytes] = []

    def write(self, view: int, writes: WriteSet, claims_digest: bytes, flags: int) -> None:
        """Seal one entry."""
        sealed = self._sealer.seal(view, len(self.entries) + 1, writes, claims_digest, flags)
        self.keep(sealed.data, sealed.leaf)

    def keep(self, data: bytes, leaf: bytes) -> None:
        """Take an entry as it is."""
        self.entries.append(data)
        self._tip.append(leaf)
        self._kept.append(leaf)

    def sign(self, entry: Opened) -> None:
        """Sign what there is so far, as the node that did so in the true ledger, and at the same time."""
        raw = tables.decode(entry.writes[signature.SIGNATURES][tables.SINGLETON] or b"")
        stated = tables.decode(entry.writes[signature.COSE_SIGNATURES][tables.SINGLETON] or b"")
        issued_at = cose.read_root_header(cose.decode(base64.b64decode(stated))).issued_at
        seqno, root = len(self.entries) + 1, self._tip.root()
        message = cose.sign_root(self._keys.service, root, entry.view, seqno, "ledgerd", "ledger.signature", issued_at)
        writes = signature.build(
            view=entry.view,
            seqno=seqno,
            root=root,
            node_id=raw["node"],
            certificate=raw["cert"],
            signature=signature.sign_raw(self._keys.nodes[raw["node"]], root),
            cose=message,
            tree=serialise_tree(Frontier(), self._kept),
        )
        self.write(entry.view, writes, bytes(32), entry.flags)
