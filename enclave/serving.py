"""An operating node: client requests and peers' messages in, entries, messages and answers out, a batch at a time.

The order within one wake-up is the whole story: peers' messages, then requests, then one signature if it is due, then what consensus
wants done, and last what leaves. Everything that a wake-up brought goes through each step together.
Not here: starting and joining (`enclave.core`), what endpoints do (`enclave.execution`, `enclave.frontend`), threads (`enclave.runtime`).
"""

import base64
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ledgerd.enclave.admission import Admission
from ledgerd.enclave.answers import Held, HeldAnswers
from ledgerd.enclave.app import App
from ledgerd.enclave.boundary import Fetch, Ready
from ledgerd.enclave.clock import AttestedClock
from ledgerd.enclave.configuration import Configuration, service_digest
from ledgerd.enclave.consensus import messages
from ledgerd.enclave.consensus.core import Consensus, ConsensusReady, LogEntry, Role, Settings
from ledgerd.enclave.dialling import Dialling
from ledgerd.enclave.endpoints import Registry
from ledgerd.enclave.entropy import jitter
from ledgerd.enclave.execution import ANSWER, FORWARD, TRANSACTION_ID_HEADER, Executor, error_response
from ledgerd.enclave.forwarding import (
    OUTSTANDING_MAX,
    Forwarded,
    RemoteReply,
    decode_answer,
    decode_request,
    encode_answer,
    encode_request,
)
from ledgerd.enclave.frontend import ATTESTATION, RECEIPT, Frontend, attestation_object
from ledgerd.enclave.group_commit import GroupCommit
from ledgerd.enclave.idempotency import MAP as IDEMPOTENCY_MAP
from ledgerd.enclave.idempotency import WINDOW_ENTRIES
from ledgerd.enclave.keys import NodeKeys, ServiceKeys
from ledgerd.enclave.kv import Store
from ledgerd.enclave.nsm import Nsm, attestation
from ledgerd.enclave.prefer import NO_PREFERENCE, parse_prefer
from ledgerd.enclave.ranges import check_range
from ledgerd.enclave.receipts import RANGE_SIZE_BYTES_MAX, Fetches, from_range, leaf_of, make
from ledgerd.enclave.replica import Replica, Unverified, verify_signatures
from ledgerd.enclave.requests import COSE, JSON, Request, Response
from ledgerd.enclave.sessions import Sessions
from ledgerd.governance import tables
from ledgerd.ledger.entry import Sealer, WriteSet
from ledgerd.ledger.errors import HostError, PeerError, RequestError
from ledgerd.ledger.ids import NodeId, Seqno, TransactionId, View

UNCOMMITTED_MAX: Final = 10_000  # CCF's `max_uncommitted_tx_count`: beyond it requests are refused, not queued
HISTORY_SECONDS: Final = 5.0  # how long the host may take to give an entry back
CATCH_UP_ENTRIES: Final = 2_000  # read from disk at once for a peer that lags
TICK_SECONDS: Final = 0.02  # deadlines and timers are looked at so often, in one sweep

# First byte of every message on a channel.
_CONSENSUS: Final = b"\x00"
_REQUEST: Final = b"\x01"
_ANSWER: Final = b"\x02"

Done = Callable[[Any], None]


class Jobs(Protocol):
    """What the core lends: threads, and numbers for streams."""

    def next_stream(self) -> int:
        """A number for a stream that this enclave asks for."""

    def submit(self, work: Callable[[Nsm], object], done: Done) -> None:
        """Run `work` in a thread; `done` gets its result, or the exception that it raised, in a later wake-up."""


class Serving:
    """One node of a service, from its first entry to its end.

    Args:
        app: The application.
        configuration: The node's own.
        keys: The node's.
        service: The service's.
        ledger_secret: Of the present epoch, 32 bytes.
        clock: Attested time.
        now: Monotonic seconds.
        own_document: The node's attestation document.
        simulated: It is by a root that is not the vendor's.
        sessions: Clients' sessions, already open.
        jobs: Threads.
    """

    def __init__(
        self,
        *,
        app: App,
        configuration: Configuration,
        keys: NodeKeys,
        service: ServiceKeys,
        ledger_secret: bytes,
        clock: AttestedClock,
        now: float,
        own_document: bytes,
        pcr0: bytes,
        simulated: bool,
        self_signed_certificate: str,
        certificate: x509.Certificate,
        sessions: Sessions,
        jobs: Jobs,
    ) -> None:
        self.configuration = configuration
        self.service = service
        self.now = now
        self.own_document = own_document
        self.simulated = simulated
        self.self_signed_certificate = self_signed_certificate
        self.stop_notice = False
        self.failed: str | None = None
        self.host_rejects: dict[str, int] = {}
        self._app = app
        self._app_policy: str | None = None
        self._app_open = False
        self._keys = keys
        self._pcr0 = pcr0
        self._ledger_secret = ledger_secret
        self._certificate = certificate.public_bytes(Encoding.PEM).decode()
        self._clock = clock
        self._sessions = sessions
        self._jobs = jobs
        self._logs: list[tuple[str, str]] = []
        self._notices: list[tuple[str, str]] = []

        sealer = Sealer(ledger_secret)
        self._replica = Replica(Store(windows={IDEMPOTENCY_MAP: WINDOW_ENTRIES}), sealer, self._governance_changed, self._rolled_back)
        settings = Settings(heartbeat=configuration.heartbeat_seconds, election_timeout=configuration.election_timeout_seconds)
        self._consensus = Consensus(keys.id, self._replica, settings, jitter, now)
        self._group_commit = GroupCommit(keys.id, keys.identity, service.identity)
        self._dialling = Dialling(keys, certificate, service.certificate, jobs.next_stream, now)

        self._registries = {name: Registry(name) for name in ("app", "node")}
        frontend = Frontend(self)
        frontend.add_to(self._registries["app"], app.name)
        frontend.add_to(self._registries["node"], "ledgerd node")
        frontend.add_node_endpoints(self._registries["node"])
        self._admission = Admission(self)
        self._admission.add_to(self._registries["node"])
        self._executor = Executor(
            self._replica.store,
            self._registries,
            app_is_open=lambda: self._app_open,
            view_of=lambda seqno: self._consensus.view_of(seqno) or View(0),
        )
        self._requests: deque[Request] = deque()
        self._writes = HeldAnswers()
        self._reads = HeldAnswers()
        self._unconfirmed: list[Held] = []
        self._confirming: dict[int, list[Held]] = {}
        self._next_token = 0
        self._receipt_data: dict[int, tuple[bytes, bytes]] = {}
        self._forwarded = Forwarded()
        self._fetches = Fetches()
        self._wanted: list[Fetch] = []
        self._joined_peers: frozenset[NodeId] = frozenset()  # whom to answer before our own ledger names anybody

    # What others ask of this node (frontend.Node, admission.Admitting).

    @property
    def node_id(self) -> NodeId:
        """Name of this node."""
        return self._keys.id

    @property
    def state(self) -> str:
        """CCF's word for where this node is in its life."""
        return "PartOfNetwork" if self._app_policy is not None else "Pending"

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
    def now_ms(self) -> int:
        """Attested wall-clock time, milliseconds since 1970."""
        return self._clock.milliseconds(self.now)

    @property
    def store(self) -> Store:
        """The state."""
        return self._replica.store

    def secrets(self) -> list[tuple[int, bytes]]:
        """Ledger secrets by the first seqno each of them encrypts; for admission only."""
        return [(1, self._ledger_secret)]

    def log(self, level: str, text: str) -> None:
        """Tell the operator; never with a secret or a client's data in it."""
        self._logs.append((level, text))

    def status_of(self, transaction: TransactionId) -> str:
        """Unknown, Pending, Committed or Invalid; the last two are final."""
        consensus = self._consensus
        local = consensus.view_of(transaction.seqno)
        committed = transaction.seqno <= consensus.commit_seqno
        if local == transaction.view:
            return "Committed" if committed else "Pending"
        if committed or (local is not None and local > transaction.view) or consensus.commit_id.view > transaction.view:
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

    def session_metrics(self) -> dict[str, Any]:
        """As `GET /node/metrics` shows it."""
        sessions, limit = self._sessions, self.configuration.sessions_max
        counters = sessions.counters
        errors = {
            "parsing": counters.parsing,
            "request_payload_too_large": counters.request_payload_too_large,
            "request_header_too_large": counters.request_header_too_large,
        }
        interface = {
            "active": sessions.active,
            "peak": sessions.peak,
            "soft_cap": limit,
            "hard_cap": limit + 10,
            "errors": errors,
        }
        return {"active": sessions.active, "peak": sessions.peak, "interfaces": {"primary_rpc_interface": interface}}

    # Beginning.

    def start(self, genesis: WriteSet) -> None:
        """Begin a service with this write set as entry 2.1."""
        self._consensus.start_primary()
        self._group_commit.became_primary()
        self._replica.store.apply(1, genesis)
        self._replicate(genesis)
        opening = self._admission.opening(trusted=1)
        if opening is not None:
            self._replica.store.apply(2, opening)
            self._replicate(opening)

    def join(self, peers: dict[NodeId, str], genesis_digest: bytes) -> None:
        """Begin as a backup with an empty ledger, which the primary will fill; its first entry must be the one that was attested."""
        self._consensus.start_backup()
        self._dialling.learn(peers)
        self._replica.genesis_expected = genesis_digest
        self._joined_peers = frozenset(peers) - {self.node_id}

    # Inputs.

    def peer_opened(self, stream: int) -> None:
        """The host accepted a peer's stream."""
        self._dialling.channels.accepted(stream)

    def peer_received(self, stream: int, data: bytes) -> None:
        """Bytes of a peer's stream."""
        self._dialling.channels.received(stream, data)

    def peer_closed(self, stream: int) -> None:
        """A peer's stream, accepted or dialled, is gone."""
        self._dialling.closed(stream)

    def dialled(self, stream: int) -> bool:
        """A stream that we asked for is open; False if it is not one of ours."""
        return self._dialling.opened(stream)

    def stored(self, generation: int, view: int, seqno: int) -> None:
        """The host has synced entries."""
        try:
            self._consensus.stored(generation, View(view), Seqno(seqno))
        except HostError as error:
            self.reject("stored", error)

    def fetched(self, request: int, entries: list[bytes]) -> None:
        """The host gave entries back."""
        self._fetches.answered(request, entries)

    def reject(self, reason: str, error: HostError) -> None:
        """Count and log what the host should not have said."""
        self.host_rejects[reason] = self.host_rejects.get(reason, 0) + 1
        self.log("error", f"host refused: {error}")

    def tick(self, now: float) -> None:
        """Learn the time."""
        self.now = now
        self._consensus.tick(now)
        for held in (*self._writes.take_expired(now), *self._reads.take_expired(now)):
            self._answer(held.reply_to, _accepted(held.id))
        self._fetches.expire(now)

    def sweep(self, now: float) -> None:
        """What is looked at only now and then: handshakes of peers, what the operator should know."""
        channels = self._dialling.channels
        channels.sweep(now, self.now_ms // 1000)
        for failure in channels.take_failures():
            self.log("warning", f"channel ended: {failure}")
        self._dialling.settle()

    def next_wakeup(self) -> float:
        """When `tick` is due if nothing happens before."""
        return min(self._consensus.next_deadline(), self.now + (TICK_SECONDS if self._busy() else 10 * TICK_SECONDS))

    def _busy(self) -> bool:
        return len(self._writes) > 0 or len(self._reads) > 0 or len(self._forwarded) > 0

    # One wake-up.

    def carry_out(self, ready: Ready) -> None:
        """Work through what came in, and say what the host must do."""
        self._take_messages()
        self._requests.extend(self._sessions.take_requests())
        self._execute()
        self._sign()
        self._ask_consensus(ready)
        self._execute()  # what waited for a signature that has just been written, or for a primary that has just been found
        self._sign()
        channels = self._dialling.channels
        self._dialling.dial(self._consensus.peers or self._joined_peers, self.now, ready)
        for node_id in channels.take_cuts():
            self._cut(node_id)
        ready.peer_bytes, closing = channels.take_output()
        ready.closes.extend(closing)
        ready.fetches.extend(self._wanted)
        self._wanted.clear()
        ready.logs.extend(self._logs)
        self._logs.clear()
        ready.notices.extend(self._notices)
        self._notices.clear()
        if self.failed is not None:
            ready.logs.append(("error", f"the node stops: {self.failed}"))
            ready.notices.append(("refused", self.failed))
            ready.stop = 1

    def _take_messages(self) -> None:
        consensus = self._consensus
        for node_id, data in self._dialling.channels.take_messages():
            kind = data[:1]
            try:
                if kind == _CONSENSUS:
                    consensus.receive(node_id, messages.decode(data[1:]))
                elif kind == _REQUEST:
                    self._requests.append(decode_request(node_id, data[1:]))
                elif kind == _ANSWER:
                    number, response = decode_answer(node_id, data[1:])
                    reply_to = self._forwarded.answered(node_id, number)
                    if reply_to is not None:
                        self._answer(reply_to, response)
                else:
                    raise PeerError(f"node {node_id[:16]}... sent a message of unknown kind")
            except PeerError as error:
                self.log("warning", f"message dropped: {error}")
        for item in self._replica.unverified:
            self._verify_later(item)
        self._replica.unverified.clear()

    def _verify_later(self, item: Unverified) -> None:
        def done(result: Any) -> None:
            if isinstance(result, Exception) and self.failed is None:
                self.failed = f"signature entry {item.seqno} does not verify: {result}"

        self._jobs.submit(lambda _: verify_signatures(item), done)

    # Requests.

    def _execute(self) -> None:
        requests = self._requests
        consensus = self._consensus
        group_commit = self._group_commit
        while requests and not group_commit.is_signing:
            request = requests.popleft()
            if consensus.uncommitted > UNCOMMITTED_MAX:
                self._answer(request.reply_to, _too_many())
                continue
            self._execute_one(request)

    def _execute_one(self, request: Request) -> None:
        consensus = self._consensus
        primary = consensus.role is Role.PRIMARY
        prefer_header = request.headers.get("prefer")
        prefer = NO_PREFERENCE if prefer_header is None else parse_prefer(prefer_header)
        last = consensus.last_id
        outcome = self._executor.execute(
            request, is_primary=primary, next_id=TransactionId(consensus.view, Seqno(last.seqno + 1)), read_id=last
        )
        if outcome.failure is not None:
            self.log("error", f"{outcome.endpoint.label if outcome.endpoint else 'request'} failed: {outcome.failure}")
        entry = None
        if outcome.writes is not None:
            entry = self._replicate(outcome.writes, outcome.claims_digest)
        if outcome.kind == FORWARD or (prefer.committed and not primary and outcome.kind == ANSWER and outcome.transaction_id is not None):
            self._forward(request)
        elif outcome.kind == ANSWER:
            response = outcome.response
            assert response is not None, "an answer has a response"
            if not prefer.committed or outcome.transaction_id is None or (outcome.replayed and outcome.transaction_id.seqno <= consensus.commit_seqno):
                self._answer(request.reply_to, response)
                return
            deadline = float("inf") if prefer.wait_seconds is None else self.now + prefer.wait_seconds
            held = Held(outcome.transaction_id, request.reply_to, response, prefer.receipt, deadline)
            if entry is not None or outcome.replayed:
                if entry is not None and prefer.receipt:
                    self._receipt_data[entry.seqno] = (entry.data, outcome.claims_digest)
                self._writes.hold(held)
            else:
                self._unconfirmed.append(held)
        else:
            assert outcome.deferred is not None, "a deferred outcome says what to find"
            self._defer(request, outcome.deferred.what, outcome.deferred.data)

    def _replicate(self, writes: WriteSet, claims_digest: bytes = bytes(32)) -> LogEntry:
        entry = self._replica.propose(self._consensus.view, writes, claims_digest)
        self._consensus.replicate(entry)
        return entry

    def _forward(self, request: Request) -> None:
        primary = self._consensus.primary_id
        if isinstance(request.reply_to, RemoteReply):
            self._answer(
                request.reply_to,
                _error(503, "RequestAlreadyForwarded", "The node this was forwarded to is not primary any more; ask again."),
            )
        elif primary is None or not self._dialling.channels.connected(primary) or len(self._forwarded) >= OUTSTANDING_MAX:
            self._answer(request.reply_to, _error(503, "PrimaryNotFound", "No primary can be reached now; nothing was done. Ask again."))
        else:
            number = self._forwarded.add(primary, request.reply_to)
            self._dialling.channels.send(primary, _REQUEST + encode_request(number, request))

    def _cut(self, node_id: NodeId) -> None:
        self._consensus.cut(node_id)
        for reply_to in self._forwarded.cut(node_id):
            self._answer(
                reply_to,
                _error(
                    504,
                    "OutcomeUnknown",
                    "The connection to the primary was cut: the request may have been executed or not. Repeat it only with its idempotency key.",
                ),
            )

    def _answer(self, reply_to: object, response: Response) -> None:
        if isinstance(reply_to, RemoteReply):
            self._dialling.channels.send(reply_to.node, _ANSWER + encode_answer(reply_to.number, response))
        else:
            self._sessions.answer(reply_to, response)  # type: ignore[arg-type]  # what is not remote came from a session

    def _defer(self, request: Request, what: str, data: object) -> None:
        if what == RECEIPT:
            transaction, kind = data  # type: ignore[misc]  # what the frontend put there
            self._receipt(request.reply_to, transaction, kind)
        elif what == ATTESTATION:
            self._attest(request.reply_to, data)  # type: ignore[arg-type]
        else:
            self._answer(request.reply_to, _error(500, "InternalError", "Nobody here can answer this."))

    def _attest(self, reply_to: object, nonce: bytes | None) -> None:
        genesis = self._replica.genesis_digest
        if nonce is None or genesis is None:
            self._answer_attestation(reply_to, self.own_document)
            return
        user_data = service_digest(self.service.public, genesis)
        public_key = self._keys.public

        def done(result: Any) -> None:
            if isinstance(result, Exception):
                self.log("error", f"the security module gave no document: {result}")
                self._answer(reply_to, _error(503, "AttestationUnavailable", "The security module gave no document; ask again."))
            else:
                self._answer_attestation(reply_to, result)

        self._jobs.submit(lambda nsm: attestation(nsm, user_data=user_data, nonce=nonce, public_key=public_key), done)

    def _answer_attestation(self, reply_to: object, document: bytes) -> None:
        shown = attestation_object(self.node_id, base64.b64encode(document).decode(), self._pcr0.hex(), self.simulated)
        shown["service_certificate"] = self.service.certificate_pem
        genesis = self._replica.genesis_digest
        if genesis is not None:
            shown["genesis_digest"] = genesis.hex()
        self._answer(reply_to, Response(200, (), tables.encode(shown), JSON))

    # Receipts and old entries.

    def _receipt(self, reply_to: object, transaction: TransactionId, kind: str) -> None:
        def done(entries: list[bytes]) -> None:
            if not entries:
                text = f"This node's host does not give back entry {transaction.seqno} and those after it; ask another node."
                self._answer(reply_to, _error(404, "LedgerRangeMissing", text))
                return
            try:
                checked = check_range(self._replica.sealer, self._consensus.view_of, self.committed_seqno, transaction.seqno, entries)
                response = from_range(self._replica.sealer, transaction, checked, kind)
            except HostError as error:
                self.reject("fetched", error)
                response = _error(
                    503, "LedgerRangeRefused", "This node's host gave back entries that are not the committed ones; ask another node."
                )
            self._answer(reply_to, response)

        self._fetch(transaction.seqno, transaction.seqno, done)

    def _fetch(self, first: Seqno, through: int, done: Callable[[list[bytes]], None]) -> None:
        number = self._fetches.add(self.now + HISTORY_SECONDS, done)
        self._wanted.append(Fetch(number, first, through, RANGE_SIZE_BYTES_MAX))

    def _feed_peer(self, first: Seqno) -> None:
        """Read old entries back for a peer that lags; they go to it only after they were recognised."""

        def done(entries: list[bytes]) -> None:
            found: list[LogEntry] | None = None
            if entries:
                try:
                    checked = check_range(self._replica.sealer, self._consensus.view_of, self.committed_seqno, first, entries)
                    found = [
                        LogEntry(item.opened.view, item.opened.seqno, item.data, item.opened.leaf, item.signature is not None)
                        for item in checked
                    ]
                except HostError as error:
                    self.reject("fetched", error)
            try:
                self._consensus.fetched(first, found)
            except HostError as error:
                self.reject("fetched", error)

        self._fetch(first, min(first + CATCH_UP_ENTRIES, self.committed_seqno - 1), done)

    # Signatures and commit.

    def _sign(self) -> None:
        consensus = self._consensus
        if consensus.role is not Role.PRIMARY:
            return
        work = self._group_commit.begin(consensus.view, self._replica.history, consensus.commit_seqno, self.now_ms // 1000)
        if work is None:
            return
        raw, cose_signature = work
        generation = self._group_commit.generation
        self._jobs.submit(lambda _: raw(), lambda result: self._signed("raw", generation, result))
        self._jobs.submit(lambda _: cose_signature(), lambda result: self._signed("cose", generation, result))

    def _signed(self, part: str, generation: int, result: Any) -> None:
        if isinstance(result, Exception):
            self.failed = f"signing failed: {type(result).__name__}"
            return
        if self._consensus.role is not Role.PRIMARY:
            return
        finished = self._group_commit.finished(part, generation, result, self._certificate)
        if finished is not None:
            seqno, writes = finished
            self._replica.store.apply(seqno, writes)
            self._replicate(writes)

    def _ask_consensus(self, ready: Ready) -> None:
        self._begin_confirmation()
        wanted = self._consensus.ready()
        if wanted.failed is not None:
            self.failed = wanted.failed
            return
        ready.truncate_after = wanted.truncate_after
        ready.generation, ready.view = wanted.generation, wanted.view
        ready.first_seqno, ready.entries = wanted.first_seqno, wanted.entries
        ready.committed = wanted.commit
        send = self._dialling.channels.send
        for node_id, message in wanted.messages:
            send(node_id, _CONSENSUS + messages.encode(message))
        for first in wanted.fetch:
            self._feed_peer(first)
        self._change_role(wanted)
        self._finish_confirmation(wanted)
        if wanted.commit is not None:
            self._release_answers()

    def _change_role(self, wanted: ConsensusReady) -> None:
        if wanted.became_backup is not None:
            self._group_commit.reset()
            self.log("info", f"no longer primary, in view {wanted.became_backup}")
            self._notices.append(("role", "backup"))
        if wanted.became_primary is not None:
            self._group_commit.became_primary()
            self.log("info", f"primary of view {wanted.became_primary}")
            self._notices.append(("role", "primary"))

    def _release_answers(self) -> None:
        commit = self._consensus.commit_seqno
        for held in self._writes.take_committed(commit):
            response = held.response
            if held.wants_receipt:
                response = self._with_receipt(held)
            self._answer(held.reply_to, response)
        for held in self._reads.take_committed(commit):
            self._answer(held.reply_to, held.response)

    def _with_receipt(self, held: Held) -> Response:
        data = self._receipt_data.pop(held.id.seqno, None)
        signed = self._replica.history.committed_range(held.id.seqno)
        if data is None or signed is None:
            return held.response
        leaf = leaf_of(self._replica.sealer, held.id, *data)
        receipt = make(signed.signature, leaf, signed.path(held.id.seqno), COSE).body
        response = held.response
        return response._replace(headers=(*response.headers, ("x-ledgerd-receipt", base64.b64encode(receipt).decode())))

    def _rolled_back(self, to: Seqno) -> None:
        self._group_commit.reset()
        for held in (*self._writes.take_rolled_back(to), *self._reads.take_rolled_back(to)):
            self._receipt_data.pop(held.id.seqno, None)
            self._answer(held.reply_to, _invalid(held.id))
        gone = [held for held in self._unconfirmed if held.id.seqno > to]
        self._unconfirmed = [held for held in self._unconfirmed if held.id.seqno <= to]
        for token, waiting in self._confirming.items():
            gone.extend(held for held in waiting if held.id.seqno > to)
            self._confirming[token] = [held for held in waiting if held.id.seqno <= to]
        for held in gone:
            self._answer(held.reply_to, _invalid(held.id))

    # Linearizable reads.

    def _begin_confirmation(self) -> None:
        if not self._unconfirmed:
            return
        self._next_token += 1
        self._confirming[self._next_token] = self._unconfirmed
        self._unconfirmed = []
        self._consensus.confirm(self._next_token)

    def _finish_confirmation(self, wanted: ConsensusReady) -> None:
        for token in wanted.confirmed:
            for held in self._confirming.pop(token, []):  # type: ignore[call-overload]  # our tokens are numbers
                if held.id.seqno <= self._consensus.commit_seqno:
                    self._answer(held.reply_to, held.response)
                else:
                    self._reads.hold(held)
        for token in wanted.refused:
            for held in self._confirming.pop(token, []):  # type: ignore[call-overload]
                self._answer(held.reply_to, _error(503, "PrimaryNotFound", "This node is not primary any more; ask again."))

    # Governance as it changes.

    def _governance_changed(self) -> None:
        store = self._replica.store
        self._dialling.learn(
            {
                NodeId(key.decode()): record["node_to_node_interface"]["published_address"]
                for key, record in ((key, tables.decode(value)) for key, value in store.map(tables.NODE_INFO).items())
                if record["status"] == tables.TRUSTED
            }
        )
        service = store.get(tables.SERVICE_INFO, tables.SINGLETON)
        was_open = self._app_open
        self._app_open = service is not None and tables.decode(service)["status"] == tables.OPEN
        if self._app_open and not was_open:
            self._notices.append(("open", "yes"))
        settings = store.get(tables.SETTINGS, tables.SINGLETON)
        if settings is not None and self._app_policy is None:
            self._app_policy = tables.decode(settings)["application_policy"]
            self._app.register(self._registries["app"], self._app_policy)
            self._notices.append(("state", "PartOfNetwork"))


def _error(status: int, code: str, text: str) -> Response:
    headers = (("retry-after", "1"),) if status == 503 else ()
    return error_response(RequestError(status, code, text, headers))


def _invalid(transaction: TransactionId) -> Response:
    response = _error(
        409, "TransactionInvalid", f"Transaction {transaction} was rolled back by a change of primary and changed nothing; ask again."
    )
    return response._replace(headers=(*response.headers, (TRANSACTION_ID_HEADER, str(transaction))))


def _accepted(transaction: TransactionId) -> Response:
    where = f"/app/tx?transaction_id={transaction}"
    body = {"transaction_id": str(transaction), "status": "Pending", "ask": where}
    return Response(202, ((TRANSACTION_ID_HEADER, str(transaction)), ("location", where)), tables.encode(body), JSON)


def _too_many() -> Response:
    return _error(503, "TooManyPendingTransactions", "Too many transactions wait for commit; nothing was done. Ask again later.")
