"""When the primary signs, and with what: one signature entry at a time, as soon as something is unsigned.

So an idle service commits one transaction at once and a busy one signs everything that came in while the last signature was on its way to
a majority. While the two signatures are being computed (in worker threads, about 0.3 ms) nothing is executed: the signature entry signs
the root over all entries before it, so the next seqno is its own.
Not here: threads (`enclave.runtime`), what a signature entry holds (`ledger.signature`).
"""

from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from ledgerd.enclave.history import History
from ledgerd.ledger import cose, signature
from ledgerd.ledger.entry import WriteSet
from ledgerd.ledger.ids import NodeId, Seqno, View

ISSUER: Final = "ledgerd"
SUBJECT: Final = "ledger.signature"

Work = Callable[[], bytes]


class GroupCommit:
    """Decides when to sign; holds the one signature that is being made."""

    def __init__(self, node_id: NodeId, node_key: ec.EllipticCurvePrivateKey, service_key: ec.EllipticCurvePrivateKey) -> None:
        self._node_id = node_id
        self._node_key = node_key
        self._service_key = service_key
        self._outstanding = Seqno(0)  # the last signature entry issued; nothing new is issued before it is committed
        self._must_sign = False  # a new primary signs even if it has nothing new
        self._at: tuple[View, Seqno, bytes, bytes] | None = None
        self._parts: dict[str, bytes] = {}
        self.generation = 0  # of signatures begun; the result of an older one is of a log that is no more

    @property
    def is_signing(self) -> bool:
        """True while a signature is being made: the next seqno belongs to it."""
        return self._at is not None

    def became_primary(self) -> None:
        """A new view has begun on this node: sign at its start, whatever was outstanding before."""
        self.reset()
        self._must_sign = True

    def reset(self) -> None:
        """Forget the signature in progress: the log was rolled back, or this node is no longer primary."""
        self._at = None
        self._parts = {}
        self._outstanding = Seqno(0)
        self._must_sign = False

    def begin(self, view: View, history: History, commit: Seqno, now_seconds: int) -> tuple[Work, Work] | None:
        """Begin a signature if one is due.

        Args:
            commit: Commit point; an issued signature above it is still outstanding.
            now_seconds: Attested time, for the COSE signature's `iat`.
        Returns: The work for two threads, raw signature first; None if nothing is due.
        """
        if self._at is not None or self._outstanding > commit or not (history.unsigned or self._must_sign):
            return None
        root = history.root()
        seqno = Seqno(history.last + 1)
        self._at = (view, seqno, root, history.tree())
        self._must_sign = False
        self.generation += 1
        node_key, service_key = self._node_key, self._service_key
        return (
            lambda: signature.sign_raw(node_key, root),
            lambda: cose.sign_root(service_key, root, view, seqno, ISSUER, SUBJECT, now_seconds),
        )

    def finished(self, part: str, generation: int, value: bytes, certificate: str) -> tuple[Seqno, WriteSet] | None:
        """Take one of the two results, `raw` or `cose`, of the signature begun as `generation`; with the second, the entry is complete.

        Returns: The seqno it must get and what it writes; None while the other part is missing, or if it is not wanted any more.
        """
        if self._at is None or generation != self.generation:
            return None
        self._parts[part] = value
        if len(self._parts) < 2:
            return None
        view, seqno, root, tree = self._at
        writes = signature.build(
            view=view,
            seqno=seqno,
            root=root,
            node_id=self._node_id,
            certificate=certificate,
            signature=self._parts["raw"],
            cose=self._parts["cose"],
            tree=tree,
        )
        self._at = None
        self._parts = {}
        self._outstanding = seqno
        return seqno, writes
