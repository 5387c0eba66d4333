"""What a serving node tells of itself to the built-in endpoints, admission and governance. Reads only.

Not here: the endpoints (`enclave.frontend`, `enclave.admission`, `enclave.governing`, `enclave.leaving`).
"""

from collections.abc import Callable, Mapping
from typing import Any

from ledgerd.enclave.boundary import Traffic
from ledgerd.enclave.clock import AttestedClock
from ledgerd.enclave.configuration import Configuration
from ledgerd.enclave.consensus.core import Consensus, Retirement, Role
from ledgerd.enclave.dialling import Dialling
from ledgerd.enclave.keys import NodeKeys, ServiceKeys
from ledgerd.enclave.kv import Store
from ledgerd.enclave.ledger_secrets import LedgerSecret, LedgerSecrets
from ledgerd.enclave.replica import Replica
from ledgerd.enclave.sessions import Sessions
from ledgerd.governance import tables
from ledgerd.ledger.ids import NodeId, Seqno, TransactionId, View


class Attested:
    """What this enclave's attestation says: the document, PCR0, whether its root is a simulator's; and its certificate by itself.

    `accepts` are the images that this node, and whoever admitted it, was told to accept: `measurement.shown_triples`.
    """

    __slots__ = ("accepts", "document", "pcr0", "self_signed_certificate", "simulated")

    def __init__(self, document: bytes, pcr0: bytes, simulated: bool, self_signed_certificate: str, accepts: list[list[str]]) -> None:
        self.accepts = accepts
        self.document = document
        self.pcr0 = pcr0
        self.simulated = simulated
        self.self_signed_certificate = self_signed_certificate


class Status:
    """One node, as the built-ins see it; fulfils the `Node` of `frontend`, `leaving` and `proposals`, and `admission.Admitting`.

    Attributes:
        now: Monotonic seconds of this wake-up.
        in_network: The node has read the service's first entry.
        stop_notice: The operator has asked the host to stop.
        compiled_modules: How many modules run as machine code.
        log: Tells the operator; never with a secret or a client's data.
    """

    def __init__(
        self,
        configuration: Configuration,
        keys: NodeKeys,
        service: ServiceKeys,
        ledger_secrets: LedgerSecrets,
        attested: Attested,
        clock: AttestedClock,
        consensus: Consensus,
        replica: Replica,
        dialling: Dialling,
        sessions: Sessions,
        traffic: Traffic,
        host_rejects: Mapping[str, int],
        log: Callable[[str, str], None],
        now: float,
    ) -> None:
        self.configuration = configuration
        self.service = service
        self.attested = attested
        self.log = log
        self.now = now
        self.in_network = False
        self.stop_notice = False
        self.compiled_modules = 0
        self._keys = keys
        self._ledger_secrets = ledger_secrets
        self._clock = clock
        self._consensus = consensus
        self._replica = replica
        self._dialling = dialling
        self._sessions = sessions
        self._traffic = traffic
        self._host_rejects = host_rejects

    @property
    def node_id(self) -> NodeId:
        """Name of this node."""
        return self._keys.id

    @property
    def state(self) -> str:
        """CCF's word for where this node is in its life."""
        return "PartOfNetwork" if self.in_network else "Pending"

    @property
    def is_primary(self) -> bool:
        """True if this node is primary, as far as it knows."""
        return self._consensus.role is Role.PRIMARY

    @property
    def primary_id(self) -> NodeId | None:
        """The primary of this view, if known."""
        return self._consensus.primary_id

    @property
    def view(self) -> View:
        """The present view."""
        return self._consensus.view

    @property
    def committed(self) -> TransactionId:
        """The last committed transaction."""
        return self._consensus.commit_id

    @property
    def committed_seqno(self) -> Seqno:
        """Its seqno."""
        return self._consensus.commit_seqno

    @property
    def is_settled(self) -> bool:
        """True if this node is primary and has committed in its own view."""
        return self._consensus.is_settled

    @property
    def live_nodes(self) -> frozenset[NodeId]:
        """On the primary: the nodes that it hears from, itself included."""
        return self._consensus.live_nodes()

    def catching_up(self, lag_max: int) -> frozenset[NodeId]:
        """On the primary: nodes that are more than so many entries behind, and answer."""
        return self._consensus.catching_up(lag_max)

    @property
    def retired(self) -> bool:
        """True if this node was removed and is not needed any more."""
        return self._consensus.retirement is Retirement.RETIRED_COMMITTED

    @property
    def root(self) -> bytes:
        """Root of the tree over what this node has applied, entries of this wake-up perhaps excepted."""
        return self._replica.history.root()

    @property
    def last_signed(self) -> Seqno:
        """The last signature entry in the log."""
        return self._replica.history.last_signed

    @property
    def view_history(self) -> list[TransactionId]:
        """The first transaction of every view."""
        return self._consensus.view_history

    @property
    def isolation(self) -> tuple[str, ...]:
        """What isolates the enclave from its host, as the launcher said."""
        return self.configuration.isolation

    @property
    def simulated(self) -> bool:
        """True if the attestation's root is a simulator's."""
        return self.attested.simulated

    @property
    def self_signed_certificate(self) -> str:
        """The node's certificate by itself, PEM."""
        return self.attested.self_signed_certificate

    @property
    def now_ms(self) -> int:
        """Attested wall-clock time, milliseconds since 1970."""
        return self._clock.milliseconds(self.now)

    @property
    def settings(self) -> dict[str, Any]:
        """The service's settings, as the ledger has them; empty before its first entry is there."""
        found: dict[str, Any] = tables.decode(self._replica.store.get(tables.SETTINGS, tables.SINGLETON) or b"{}")
        return found

    @property
    def store(self) -> Store:
        """The state."""
        return self._replica.store

    def secrets(self) -> list[LedgerSecret]:
        """Ledger secrets, oldest first, for admission and renewal only; the last one is that of the next entry."""
        return self._ledger_secrets.known()

    def view_of(self, seqno: Seqno) -> View | None:
        """View of an entry in this node's log, committed or not."""
        return self._consensus.view_of(seqno)

    def status_of(self, transaction: TransactionId) -> str:
        """Unknown, Pending, Committed or Invalid; the last two are final."""
        consensus = self._consensus
        local = consensus.view_of(transaction.seqno)
        committed = transaction.seqno <= consensus.commit_seqno
        if local == transaction.view:
            return "Committed" if committed else "Pending"
        # An entry of a later view in its place proves nothing before it is final: whoever leads next may still have this one.
        if committed or consensus.commit_id.view > transaction.view:
            return "Invalid"
        return "Unknown"

    def consensus_details(self) -> dict[str, Any]:
        """As `GET /node/consensus` shows it."""
        details = self._consensus.details()
        for configuration in details["configs"]:
            for node_id, shown in configuration["nodes"].items():
                shown["address"] = self._dialling.address_of(node_id)
        return details

    def active_nodes(self) -> list[NodeId]:
        """Nodes of the active configurations."""
        return sorted({node for configuration in self._consensus.configurations for node in configuration.nodes})

    def metrics(self) -> dict[str, Any]:
        """As `GET /node/metrics` shows it: sessions, with CCF's fields and ours; the link to the host; what that should not have said."""
        sessions, limit = self._sessions, self.configuration.sessions_max
        counters = sessions.counters
        interface = {
            "active": sessions.active,
            "peak": sessions.peak,
            "soft_cap": limit,
            "hard_cap": limit + 10,
            "errors": {
                "parsing": counters.parsing,
                "request_payload_too_large": counters.request_payload_too_large,
                "request_header_too_large": counters.request_header_too_large,
            },
        }
        shown = {
            "active": sessions.active,
            "peak": sessions.peak,
            "refused_at_cap": sessions.refused_at_cap,
            "evicted": sessions.evicted,
            "tls_failed": sessions.tls_failed,
            "timed_out": sessions.timed_out,
            "interfaces": {"primary_rpc_interface": interface},
        }
        return {"sessions": shown, "link": self._traffic.numbers(), "host_rejects": dict(self._host_rejects)}
