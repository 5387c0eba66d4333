"""The signature entry: the only kind of entry that commits what stands before it. Pure.

Its three public maps are the tree (`ledger.merkle`), the raw signature by the node's key, and the COSE signature by the
service's key (`ledger.cose`), as in CCF with dual signatures.
Not here: which keys may sign (`ledger.audit` for a ledger, `ledger.receipt` for one entry), when to sign (`enclave.history`).
"""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256

from ledgerd.ledger.entry import WriteSet
from ledgerd.ledger.errors import FormatError, IntegrityError
from ledgerd.ledger.ids import NodeId, Seqno, TransactionId, View

SIGNATURES: Final = "public:ccf.internal.signatures"
COSE_SIGNATURES: Final = "public:ccf.internal.cose_signatures"
TREE: Final = "public:ccf.internal.tree"
SINGLETON_KEY: Final = bytes(8)  # the key of every map that holds one value

_NO_NONCE: Final = "0" * 64
_PREHASHED: Final = ec.ECDSA(Prehashed(SHA256()))
_HEX: Final = frozenset("0123456789abcdef")


class RawSignature(NamedTuple):
    """The node's signature: ECDSA in DER over the root, taken as a SHA-256 digest. `certificate` is PEM."""

    node_id: NodeId
    certificate: str
    root: bytes
    signature: bytes
    transaction_id: TransactionId


class Signature(NamedTuple):
    """One signature entry's content: at least one of the two signatures, and the tree where it was kept."""

    raw: RawSignature | None
    cose: bytes | None
    tree: bytes | None


def build(*, view: int, seqno: int, root: bytes, node_id: str, certificate: str, signature: bytes, cose: bytes, tree: bytes) -> WriteSet:
    """Return the maps of the signature entry `view.seqno`.

    Args:
        root: 32 bytes, over leaves 0 to seqno - 1: what both signatures cover.
        certificate: The node's certificate, PEM, endorsed by the service.
        signature: DER, from `sign_raw`.
        cose: From `ledger.cose.sign_root`.
        tree: From `ledger.merkle.serialise_tree`.
    """
    record = {
        "cert": certificate,
        "commit_seqno": 0,
        "commit_view": 0,
        "hashed_nonce": _NO_NONCE,
        "node": node_id,
        "root": root.hex(),
        "seqno": seqno,
        "sig": base64.b64encode(signature).decode(),
        "view": view,
    }
    return {
        COSE_SIGNATURES: {SINGLETON_KEY: f'"{base64.b64encode(cose).decode()}"'.encode()},
        SIGNATURES: {SINGLETON_KEY: json.dumps(record, separators=(",", ":")).encode()},
        TREE: {SINGLETON_KEY: tree},
    }


def parse(writes: Mapping[str, Mapping[bytes, bytes | None]]) -> Signature | None:
    """Read the signature out of an entry's public maps; None if it is no signature entry.

    Raises: FormatError: It is one, but not of this form.
    """
    raw_map, cose_map, tree_map = writes.get(SIGNATURES), writes.get(COSE_SIGNATURES), writes.get(TREE)
    if raw_map is None and cose_map is None:
        if tree_map is not None:
            raise FormatError("an entry with a tree but without a signature")
        return None
    if unknown := [name for name in writes if name not in (SIGNATURES, COSE_SIGNATURES, TREE)]:
        raise FormatError(f"a signature entry also writes {unknown[0][:64]!r}; it may write nothing else")
    raw = None if raw_map is None else _parse_raw(_only(SIGNATURES, raw_map))
    cose = None if cose_map is None else decode_base64(_json(_only(COSE_SIGNATURES, cose_map)), "COSE signature")
    return Signature(raw, cose, None if tree_map is None else _only(TREE, tree_map))


def sign_raw(key: ec.EllipticCurvePrivateKey, root: bytes) -> bytes:
    """Sign a 32-byte root with a node's key; returns DER."""
    return key.sign(root, _PREHASHED)


def verify_raw(key: ec.EllipticCurvePublicKey, root: bytes, signature: bytes) -> None:
    """Raises: IntegrityError: The signature is not this key's over this root."""
    try:
        key.verify(signature, root, _PREHASHED)
    except (InvalidSignature, ValueError):
        raise IntegrityError("the node's signature does not verify over the root; stop trusting the source") from None


def decode_base64(value: Any, what: str) -> bytes:
    """Read standard base64 with padding, in its one canonical spelling. Raises: FormatError."""
    if isinstance(value, str) and value.isascii():
        try:
            data = base64.b64decode(value, validate=True)
        except binascii.Error:
            data = b""
        if data and base64.b64encode(data).decode() == value:
            return data
    raise FormatError(f"the {what} is not base64")


def decode_digest(value: Any, what: str) -> bytes:
    """Read 32 bytes of lower-case hex. Raises: FormatError."""
    if isinstance(value, str) and len(value) == 64 and _HEX.issuperset(value):
        return bytes.fromhex(value)
    raise FormatError(f"the {what} is not 64 digits of lower-case hex")


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a JSON object, for `json.loads(object_pairs_hook=...)`. Raises: FormatError: A name stands twice: readers would differ."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise FormatError("a JSON object names a member twice")
    return value


_decode_json: Final = json.JSONDecoder(object_pairs_hook=unique).decode  # one for all entries: to make it takes as long as to use it


def _parse_raw(data: bytes) -> RawSignature:
    record = _json(data)
    if not isinstance(record, dict):
        raise FormatError("the raw signature is not a JSON object")
    node_id, certificate, view, seqno = record.get("node"), record.get("cert"), record.get("view"), record.get("seqno")
    if not isinstance(certificate, str) or type(view) is not int or type(seqno) is not int or view < 0 or seqno < 1:
        raise FormatError("the raw signature has no certificate, view or seqno")
    return RawSignature(
        NodeId(decode_digest(node_id, "signing node's id").hex()),
        certificate,
        decode_digest(record.get("root"), "signed root"),
        decode_base64(record.get("sig"), "raw signature"),
        TransactionId(View(view), Seqno(seqno)),
    )


def _only(name: str, keys: Mapping[bytes, bytes | None]) -> bytes:
    value = keys.get(SINGLETON_KEY)
    if value is None or len(keys) != 1:
        raise FormatError(f"{name} must hold one value under the key of eight zero bytes")
    return value


def _json(data: bytes) -> Any:
    try:
        value: Any = _decode_json(data.decode())
    except (ValueError, RecursionError):
        raise FormatError("a signature map does not hold JSON") from None
    return value
