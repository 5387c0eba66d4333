"""Receipts: from the signed ranges in memory, or from entries that the host gives back.

A receipt needs the entry (for its digests), the path to a signed root, and the signature. Right after commit all three are in memory;
later the entry and the signature entry after it are fetched from the host and recognised (`enclave.ranges`) before anything is made of
them.
Not here: the formats (`ledger.receipt`), which transactions are committed (`enclave.frontend`).
"""

import json

from ledgerd.enclave.ranges import CheckedEntry
from ledgerd.enclave.requests import COSE, JSON, Response
from ledgerd.ledger import merkle, receipt, signature
from ledgerd.ledger.entry import Sealer, write_set_digest
from ledgerd.ledger.errors import HostError
from ledgerd.ledger.ids import TransactionId


def leaf_of(sealer: Sealer, transaction: TransactionId, data: bytes, claims_digest: bytes) -> receipt.Leaf:
    """The components of an entry's leaf; revealing them says that the entry is committed."""
    return receipt.Leaf(write_set_digest(data), sealer.commit_evidence(transaction.view, transaction.seqno), claims_digest)


def from_range(sealer: Sealer, transaction: TransactionId, entries: list[CheckedEntry], kind: str) -> Response:
    """Make the receipt of the first of `entries`, which the last one, a signature entry, covers.

    Args:
        kind: `JSON` or `COSE`, the content type.
    Raises: HostError: The host gave another signature than one that covers it.
    """
    first = entries[0]
    if first.signature is not None:
        return _of_signature(first.signature, kind)
    record = next(entry.signature for entry in entries if entry.signature is not None)
    assert record.raw is not None and record.tree is not None and record.cose is not None, "check_range has seen them"
    tree = merkle.parse_tree(record.tree)
    if not tree.base <= transaction.seqno < tree.base + len(tree.leaves):
        raise HostError(f"the host left out the signature that covers {transaction}")
    path = merkle.path(tree.below, tree.base, tree.leaves, transaction.seqno, tree.base + len(tree.leaves))
    return make(record, leaf_of(sealer, transaction, first.data, first.opened.claims_digest), path, kind)


def make(record: signature.Signature, leaf: receipt.Leaf, path: merkle.Path, kind: str) -> Response:
    """The receipt as an answer, in either form."""
    assert record.raw is not None and record.cose is not None, "this service writes both"
    if kind == COSE:
        return Response(200, (), receipt.build_cose(record.cose, leaf, path), COSE)
    return Response(200, (), json.dumps(receipt.build_json(record.raw, leaf, path)).encode(), JSON)


def _of_signature(record: signature.Signature, kind: str) -> Response:
    assert record.raw is not None, "this service writes both"
    if kind == COSE:
        body = {"error": {"code": "ResourceNotFound", "message": "A signature transaction has no COSE receipt; ask for one it covers."}}
        return Response(404, (), json.dumps(body).encode(), JSON)
    return Response(200, (), json.dumps(receipt.build_signature_json(record.raw)).encode(), JSON)
