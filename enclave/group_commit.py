"""When the primary signs, and with what: one signature entry at a time, as soon as something is unsigned.

So an idle service commits one transaction at once and a busy one signs everything that came in while the last signature was on its way to
a majority. A commit sends many clients their answers, and their next requests trickle in: to sign at the first of them would make every
other round a round of one. So a round waits until half as many have come as the last one had, for at most half as long as that one took,
and 2 ms. While the two signatures are being computed (in worker threads, about 0.3 ms) nothing is executed: the signature entry signs the
root over all entries before it, so the next seqno is its own.
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
PATIENCE_SECONDS_MAX: Final = 0.002
_NEVER: Final = float("inf")

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
        self.begin_at = _NEVER  # when to stop waiting for more, monotonic seconds
        self._last_size = 0
        self._begun_at: float | None = None
        self._round_seconds = 0.0
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
        self._outstanding = Seqno(0)
        self._must_sign = False
        self.begin_at = _NEVER
        self._begun_at = None

    def begin(self, view: View, history: History, commit: Seqno, now: float, now_seconds: int) -> tuple[Work, Work] | None:
        """Begin a signature if one is due.

        Args:
            commit: Commit point; an issued signature above it is still outstanding.
            now: Monotonic seconds.
            now_seconds: Attested time, for the COSE signature's `iat`.
        Returns: The work for two threads, raw signature first; None if nothing is due.
        """
        if self._at is not None or self._outstanding > commit:
            return None
        if self._begun_at is not None:
            self._round_seconds = now - self._begun_at
            self._begun_at = None
        unsigned = history.unsigned
        if not self._must_sign:
            if not unsigned:
                return None
            if 2 * unsigned < self._last_size:
                if self.begin_at == _NEVER:
                    self.begin_at = now + min(PATIENCE_SECONDS_MAX, self._round_seconds / 2)
                if now < self.begin_at:
                    return None
        self.begin_at = _NEVER
        self._begun_at = now
        self._last_size = unsigned
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

    def finished(self, generation: int, raw: bytes, cose_signature: bytes, certificate: str) -> WriteSet | None:
        """Take both signatures of what was begun as `generation`.

        Returns: What the signature entry, which comes next, writes; None if it is not wanted any more.
        """
        if self._at is None or generation != self.generation:
            return None
        view, seqno, root, tree = self._at
        self._at = None
        self._outstanding = seqno
        return signature.build(
            view=view,
            seqno=seqno,
            root=root,
            node_id=self._node_id,
            certificate=certificate,
            signature=raw,
            cose=cose_signature,
            tree=tree,
        )
