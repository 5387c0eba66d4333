"""When the primary signs, and with what: one signature entry at a time, as soon as something is unsigned.

So an idle service commits one transaction at once and a busy one signs everything that came in while the last signature was on its way
to a majority. A commit sends many clients their answers, and their next requests trickle in: to sign at the first of them would make
every other round a round of one, and rounds cost: each is two signatures, a sync and some wake-ups on every node. So a round waits
until the clients that were just answered are back, for at most half as long as the last round took, and 4 ms. What short scripts that
may write run for is as good as back, so it is waited for, and the others get their time from when there is none of it: they may not have
been heard before, since who asks a script is answered by two processes that take turns. That, too, has an end, after 20 ms.
Both signatures are computed here, one after the other: 0.1 ms on P-256. A thread for one of them would cost a wake-up, which is more; and
nothing could be executed meanwhile anyway, since the signature entry signs the root over all entries before it.
Not here: what a signature entry holds (`ledger.signature`).
"""

from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from ledgerd.enclave.history import History
from ledgerd.ledger import cose, signature
from ledgerd.ledger.entry import WriteSet
from ledgerd.ledger.ids import NodeId, Seqno, TransactionId, View

ISSUER: Final = "ledgerd"
SUBJECT: Final = "ledger.signature"
PATIENCE_SECONDS_MAX: Final = 0.004
SCRIPTS_SECONDS_MAX: Final = 0.02  # of waiting in all where scripts run: a round's worth of 64 clients takes half of it
STALE_SECONDS: Final = 60.0  # after which members' requests are preceded by a signature, for the time that it states
_NEVER: Final = float("inf")


class GroupCommit:
    """Decides when to sign, and signs.

    Attributes:
        begin_at: When to stop waiting for more transactions, monotonic seconds; infinity while nothing waits.
        node_certificate: Of the key that signs, PEM; each signature names it.
    """

    def __init__(
        self,
        node_id: NodeId,
        node_key: ec.EllipticCurvePrivateKey,
        node_certificate: str,
        service_key: ec.EllipticCurvePrivateKey,
    ) -> None:
        self.begin_at = _NEVER
        self._node_id = node_id
        self._node_key = node_key
        self.node_certificate = node_certificate
        self._service_key = service_key
        self._service_key_id = cose.key_id(service_key.public_key())
        self._outstanding = Seqno(0)  # the last signature entry issued; nothing new is issued before it is committed
        self._must_sign = False  # a new primary signs even if it has nothing new
        self._last_size = 0
        self._signed_at: float | None = None
        self._last_at = _NEVER  # as above, but for ever
        self._patience = 0.0
        self._expected = 0
        self._since: float | None = None  # when it was that something became unsigned, as far as it is waited for more
        self._alone_since = 0.0  # the same, or when scripts were last running since then

    def became_primary(self) -> None:
        """A new view has begun on this node: sign at its start, whatever was outstanding before."""
        self.reset()
        self._must_sign = True
        self.begin_at = 0.0  # at once, in a wake-up of its own if need be

    def reset(self) -> None:
        """The log was rolled back, or this node is no longer primary: what was outstanding is not any more."""
        self._outstanding = Seqno(0)
        self._must_sign = False
        self.begin_at = _NEVER
        self._signed_at = self._since = None

    def is_due(self, history: History, commit: Seqno, now: float, coming: int = 0) -> bool:
        """Whether to sign now.

        Args:
            commit: Commit point; an issued signature above it is still outstanding.
            now: Monotonic seconds.
            coming: Transactions that may write, and that scripts will have ended with within a moment.
        """
        if self._outstanding > commit:
            return False
        unsigned = history.unsigned
        if self._signed_at is not None:  # the last round has just been committed
            self._patience = min(PATIENCE_SECONDS_MAX, (now - self._signed_at) / 2)
            self._expected = unsigned + self._last_size + coming
            self._signed_at = None
        if self._must_sign:
            return True
        if unsigned >= self._expected:
            return unsigned > 0
        if not unsigned:
            return False
        if self._since is None:
            self._since = self._alone_since = now
        if coming:
            self._alone_since = now
        self.begin_at = min(self._alone_since + self._patience, self._since + SCRIPTS_SECONDS_MAX)
        return now >= self.begin_at

    def is_stale(self, commit: Seqno, now: float) -> bool:
        """Whether this node has signed nothing for so long that the ledger does not tell what time it is any more."""
        return self._last_at + STALE_SECONDS < now and self._outstanding <= commit

    def sign(self, view: View, history: History, now: float, now_seconds: int) -> tuple[WriteSet, signature.Signature]:
        """Sign the whole history; return what the signature entry at the next seqno writes, and what it says.

        Args:
            now_seconds: Attested time, for the COSE signature's `iat`.
        """
        root = history.root()
        seqno = Seqno(history.last + 1)
        raw = signature.sign_raw(self._node_key, root)
        cose_signature = cose.sign_root(self._service_key, root, view, seqno, ISSUER, SUBJECT, now_seconds, self._service_key_id)
        self.begin_at = _NEVER
        self._since = None
        self._must_sign = False
        self._signed_at = self._last_at = now
        self._last_size = history.unsigned
        self._outstanding = seqno
        certificate, tree = self.node_certificate, history.tree()
        record = signature.Signature(
            signature.RawSignature(self._node_id, certificate, root, raw, TransactionId(view, seqno)), cose_signature, tree
        )
        writes = signature.build(
            view=view,
            seqno=seqno,
            root=root,
            node_id=self._node_id,
            certificate=certificate,
            signature=raw,
            cose=cose_signature,
            tree=tree,
        )
        return writes, record
