"""Changes of governance's tables that no member asked for in this very entry: the closed list of them, each held to its exact form.

The genesis; what the service does by itself where the genesis allows it (trusting attested nodes, opening); what follows from members'
earlier decisions (the end of a retirement, the record that is deleted then, keys of token issuers that are fetched); and what anybody may
ask for and that decides nothing (a node that wants to join, a member that asks for a state digest). Whatever is none of these has no
origin, and ends the audit.
Not here: what members sign (`enclave.auditing.replay`).
"""

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from ledgerd.enclave import leaving
from ledgerd.enclave.auditing import findings
from ledgerd.enclave.auditing.certificates import RecordedKeys
from ledgerd.enclave.auditing.findings import record_in, short
from ledgerd.enclave.auditing.stand_in import RecordedRenewal, StandIn
from ledgerd.enclave.jwt.records import changes, read_records
from ledgerd.enclave.keys import CLOCK_SLACK
from ledgerd.enclave.kv import Store
from ledgerd.governance import acks, tables
from ledgerd.governance.requests import member_id_of
from ledgerd.ledger.entry import WriteSet
from ledgerd.ledger.errors import FormatError
from ledgerd.ledger.ids import Seqno, TransactionId
from ledgerd.ledger.receipt import load_certificate
from ledgerd.ledger.signature import SIGNATURES

GENESIS_REQUIRED: Final = frozenset(
    (
        *(tables.NODE_INFO, tables.NODE_ENDORSED_CERTIFICATES, tables.SERVICE_INFO, tables.SERVICE_CONFIG, tables.CONSTITUTION),
        *(tables.CONFIGURATION, tables.SETTINGS),
    )
)
GENESIS_ALLOWED: Final = GENESIS_REQUIRED | frozenset(
    (
        *(tables.MEMBER_CERTS, tables.MEMBER_INFO, tables.MEMBER_ENCRYPTION_KEYS, tables.USER_CERTS, tables.USER_INFO),
        *(tables.NITRO_MEASUREMENTS, tables.NITRO_ROOTS),
        *(tables.SNP_MEASUREMENTS, tables.SNP_HOST_DATA, tables.SNP_UVM_ENDORSEMENTS, tables.SNP_TCB_VERSIONS),
    )
)

_SHARES: Final = (tables.RECOVERY_SHARES, tables.EARLIER_EPOCH)  # what an opening writes besides, where members have encryption keys

_NO_ORIGIN: Final = (
    "Nothing in the ledger gives rise to this change: no member proposed it, and it is none of what a service does by itself. "
    "Whoever ran the service changed its rules past its members."
)


class Change(NamedTuple):
    """What an entry does that no member asked for in it; `kind` and `text` as in `findings.Step`, `member_id` if it concerns one."""

    kind: str
    text: str
    member_id: str | None = None


class Unasked:
    """Recognises such entries.

    Args:
        store: The state before the entry; followed as it changes.
        last_signed: Seqno of the last signature entry before it.
    """

    def __init__(self, store: Store, last_signed: Callable[[], Seqno]) -> None:
        self._store = store
        self._last_signed = last_signed
        self._node_then = StandIn(store, last_signed)
        self._renewal = RecordedRenewal(self._node_then)

    def genesis(self, transaction_id: TransactionId, writes: WriteSet) -> Change:
        """Entry 1. What it says is taken as it is: it is what the members agreed to by joining; that it is whole is checked.

        Raises: NotFollowingError: It is no genesis of ours.
        """

        def refuse(expected: str, found: str) -> findings.NotFollowingError:
            meaning = "The service began in a way in which none does; nothing that follows can be judged."
            return findings.NotFollowingError(transaction_id, findings.GENESIS, expected, found, meaning)

        missing, more = GENESIS_REQUIRED - writes.keys(), writes.keys() - GENESIS_ALLOWED
        if missing or more:
            wrong = f"none of {min(missing)}" if missing else f"writes to {min(more)}"
            raise refuse("the first entry of a service of ledgerd's (those of CCF's own nodes cannot be replayed)", wrong)
        settings = record_in(writes[tables.SETTINGS].get(tables.SINGLETON)) or {}
        service = record_in(writes[tables.SERVICE_INFO].get(tables.SINGLETON)) or {}
        if service.get("status") != tables.OPENING:
            raise refuse(f"a service that is {tables.OPENING}", f"status {service.get('status')}")
        nodes = [(key.decode(errors="replace"), record_in(value)) for key, value in writes[tables.NODE_INFO].items()]
        if len(nodes) != 1 or nodes[0][1] is None or nodes[0][1].get("status") != tables.TRUSTED:
            raise refuse("one node, which is Trusted", f"{len(nodes)} nodes")
        status = tables.ACTIVE if settings.get("admission") == "automatic" else tables.ACCEPTED
        for infos, pems in ((tables.MEMBER_INFO, tables.MEMBER_CERTS), (tables.USER_INFO, tables.USER_CERTS)):
            known, certified = writes.get(infos, {}), writes.get(pems, {})
            if not known.keys() <= certified.keys():
                raise refuse(f"a certificate for each record of {infos}", "one without")
            if infos == tables.MEMBER_INFO and known.keys() != certified.keys():  # of users there may be nothing to say
                raise refuse(f"a record of {infos} for each certificate", "one without")
            for key, pem in certified.items():
                if pem is None or _id_of(pem) != key:
                    raise refuse(f"keys of {pems} that are the digests of the certificates", f"{short(key.decode(errors='replace'))}")
        for key, value in writes.get(tables.MEMBER_INFO, {}).items():
            found = (record_in(value) or {}).get("status")
            if found != status:
                raise refuse(f"members that are {status}, as admission is {settings.get('admission')}", f"{short(key.decode())} is {found}")
        constitution = writes[tables.CONSTITUTION].get(tables.SINGLETON) or b""
        members = ", ".join(short(key.decode()) for key in sorted(writes.get(tables.MEMBER_INFO, {}))) or "none"
        return Change(
            "genesis",
            f"the service begins: members ({status}) {members}; users {len(writes.get(tables.USER_CERTS, {}))}; "
            f"admission {settings.get('admission')}; constitution {sha256(constitution).hexdigest()[:16]}...",
        )

    def recognise(self, transaction_id: TransactionId, writes: WriteSet) -> Change:
        """Any later entry.

        Raises: NotFollowingError: It is none of the list.
        """
        names = frozenset(writes)
        for tried in _TRIED.get(names, ()):
            change = tried(self, transaction_id, writes)
            if change is not None:
                return change
        name = min(names)
        key, value = min(writes[name].items())
        what = "is removed" if value is None else "is written"
        found = f"{name} {findings.shown_key(key)}".rstrip()
        more = f", with {', '.join(sorted(names - {name}))}" if len(names) > 1 else ""
        raise findings.NotFollowingError(
            transaction_id,
            findings.ORIGIN,
            "a member's signed request beside every change of this kind",
            f"{found} {what}{more}",
            _NO_ORIGIN,
        )

    # Each of these gives None where the entry is not of its kind.

    def _joins(self, transaction_id: TransactionId, writes: WriteSet) -> Change | None:
        """A node asks to join: one record more, Pending, under the digest of its key."""
        one = _one(writes[tables.NODE_INFO])
        if one is None:
            return None
        key, record = one
        if record.get("status") != tables.PENDING or record.get("retired_committed") is not False or self._node(key) is not None:
            return None
        if self._store.get(tables.FORMER_NODES, key) is not None:
            return None
        if _node_id_of(record.get("public_key")) != key:
            raise findings.NotFollowingError(
                transaction_id,
                findings.NODE,
                "a node's record under the digest of its key",
                f"another key in the record of {short(key.decode(errors='replace'))}",
                "Who joins here is not who the record says.",
            )
        return Change("join", f"node {short(key.decode())} asks to join: {tables.PENDING}")

    def _digest(self, transaction_id: TransactionId, writes: WriteSet) -> Change | None:
        """A member asked for the digest of the state, which is the root that was signed last."""
        one = _one(writes[tables.MEMBER_ACKS])
        signed = record_in(self._store.get(SIGNATURES, tables.SINGLETON))
        if one is None or signed is None:
            return None
        key, record = one
        if self._store.get(tables.MEMBER_INFO, key) is None:
            return None
        before = self._store.get(tables.MEMBER_ACKS, key)
        expected = acks.asked(record_in(before), signed["root"])
        if record != expected:
            return None
        member = key.decode()
        return Change("state_digest", f"member {short(member)} asked for the state digest {signed['root'][:16]}...", member)

    def _trusts(self, transaction_id: TransactionId, writes: WriteSet) -> Change | None:
        """Where admission is automatic: a node that waits is trusted, and its key certified; perhaps the service opens with that."""
        one = _one(writes[tables.NODE_INFO])
        before = None if one is None else self._node(one[0])
        if one is None or before is None or self._settings().get("admission") != "automatic":
            return None
        key, record = one
        if before.get("status") != tables.PENDING or record != {**before, "status": tables.TRUSTED}:
            return None
        if writes[tables.NODE_ENDORSED_CERTIFICATES].keys() != {key}:
            return None
        version = self._store.map(tables.NODE_INFO).version_of(key)
        if version is None or version > self._last_signed():
            return None  # it could not be committed yet
        keys = RecordedKeys(str(self._service().get("cert")), transaction_id, writes)
        request = x509.load_pem_x509_csr(str(before.get("certificate_signing_request")).encode())
        keys.endorse(request, keys.recorded(request).not_valid_before_utc + CLOCK_SLACK)  # when it was made, only the primary knew
        opens = ""
        if tables.SERVICE_INFO in writes:
            if not self._opens(transaction_id, writes, self._trusted() + 1):
                return None
            opens = ", and the service opens, as the genesis says"
        return Change("trust", f"node {short(key.decode())} is trusted, as the genesis says of every attested node{opens}")

    def _opening(self, transaction_id: TransactionId, writes: WriteSet) -> Change | None:
        if not self._opens(transaction_id, writes, self._trusted()):
            return None
        return Change("open", "the service opens, as the genesis says")

    def _opens(self, transaction_id: TransactionId, writes: WriteSet, trusted: int) -> bool:
        wanted = self._settings().get("open_at_nodes")
        before = self._service()
        if type(wanted) is not int or trusted < wanted or before.get("status") != tables.OPENING:
            return False
        self._node_then.face(transaction_id, writes, bytes(32), 0)
        expected = {
            tables.SERVICE_INFO: {tables.SINGLETON: tables.encode({**before, "status": tables.OPEN})},
            **self._renewal.at_opening(self._store),
        }
        return all(writes.get(name) == expected.get(name) for name in (tables.SERVICE_INFO, *_SHARES))

    def _retired(self, transaction_id: TransactionId, writes: WriteSet) -> Change | None:
        """Retirements that the members decided, and that a signature covers, are noted as final."""
        nodes = writes[tables.NODE_INFO]
        if writes[tables.FORMER_NODES] != dict.fromkeys(nodes, leaving.RETIRED):
            return None
        for key, value in nodes.items():
            before = self._node(key)
            if before is None or before.get("status") != tables.RETIRED or before.get("retired_committed") is not False:
                return None
            version = self._store.map(tables.NODE_INFO).version_of(key)
            if version is None or version >= self._last_signed():
                return None
            if value != tables.encode({**before, "retired_committed": True}):
                return None
        return Change("retired", f"{_nodes(nodes)}: not needed any more")

    def _deleted(self, transaction_id: TransactionId, writes: WriteSet) -> Change | None:
        """The record of a node that is not needed any more is deleted; anybody may ask for that."""
        nodes = writes[tables.NODE_INFO]
        gone = writes.get(tables.NODE_ENDORSED_CERTIFICATES, {})
        if len(nodes) != 1 or any(value is not None for value in [*nodes.values(), *gone.values()]) or not gone.keys() <= nodes.keys():
            return None
        for key in nodes:
            before = self._node(key)
            if before is None or before.get("status") != tables.RETIRED or before.get("retired_committed") is not True:
                return None
        return Change("deleted", f"{_nodes(nodes)}: the record is deleted")

    def _refreshed(self, transaction_id: TransactionId, writes: WriteSet) -> Change | None:
        """The service has fetched the keys of a token issuer for which members have decided that it does."""
        rows = self._store.map(tables.JWT_KEYS)
        changed = writes[tables.JWT_KEYS]
        touched = {key: (rows.get(key), value) for key, value in changed.items()}
        issuers = {record.issuer for pair in touched.values() for row in pair if row is not None for record in read_records(row)}
        after = {**dict(rows.items()), **changed}
        for issuer in sorted(issuers):
            metadata = record_in(self._store.get(tables.JWT_ISSUERS, issuer.encode()))
            if metadata is None or metadata.get("auto_refresh") is not True:
                continue
            keys = {
                key.decode(): record
                for key, row in after.items()
                if row is not None
                for record in read_records(row)
                if record.issuer == issuer
            }
            if changes(rows.items(), issuer, keys) == changed:
                text = f"keys of token issuer {issuer[:200]} were fetched: there are {len(keys)}, and {len(changed)} rows changed"
                return Change("jwt_refresh", text)
        return None

    # What stands in the state.

    def _node(self, key: bytes) -> dict[str, Any] | None:
        return record_in(self._store.get(tables.NODE_INFO, key))

    def _settings(self) -> dict[str, Any]:
        return record_in(self._store.get(tables.SETTINGS, tables.SINGLETON)) or {}

    def _service(self) -> dict[str, Any]:
        return record_in(self._store.get(tables.SERVICE_INFO, tables.SINGLETON)) or {}

    def _trusted(self) -> int:
        rows = self._store.map(tables.NODE_INFO).items()
        return sum((record_in(value) or {}).get("status") == tables.TRUSTED for _, value in rows)


_Tried = Callable[[Unasked, TransactionId, WriteSet], Change | None]
_TRIED: Final[Mapping[frozenset[str], tuple[_Tried, ...]]] = {
    frozenset({tables.NODE_INFO}): (Unasked._joins, Unasked._deleted),
    frozenset({tables.MEMBER_ACKS}): (Unasked._digest,),
    frozenset({tables.NODE_INFO, tables.NODE_ENDORSED_CERTIFICATES}): (Unasked._trusts, Unasked._deleted),
    **{
        frozenset({tables.NODE_INFO, tables.NODE_ENDORSED_CERTIFICATES, tables.SERVICE_INFO, *shares}): (Unasked._trusts,)
        for shares in ((), _SHARES, _SHARES[:1])
    },
    **{frozenset({tables.SERVICE_INFO, *shares}): (Unasked._opening,) for shares in ((), _SHARES, _SHARES[:1])},
    frozenset({tables.JWT_KEYS}): (Unasked._refreshed,),
    frozenset({tables.NODE_INFO, tables.FORMER_NODES}): (Unasked._retired,),
}


def _one(changes: Mapping[bytes, bytes | None]) -> tuple[bytes, dict[str, Any]] | None:
    """The one record that is written to a table; None if there are more, or it is none."""
    if len(changes) != 1:
        return None
    ((key, value),) = changes.items()
    record = record_in(value)
    return None if record is None else (key, record)


def _id_of(pem: bytes) -> bytes:
    try:
        return member_id_of(load_certificate(pem)).encode()
    except FormatError:
        return b""


def _node_id_of(pem: Any) -> bytes:
    try:
        key = load_pem_public_key(pem.encode())
        return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest().encode()
    except Exception:  # of bytes that anybody may have written; the library's list of what it raises is long
        return b""


def _nodes(nodes: Mapping[bytes, bytes | None]) -> str:
    return f"node{'' if len(nodes) == 1 else 's'} {', '.join(short(key.decode(errors='replace')) for key in sorted(nodes))}"
