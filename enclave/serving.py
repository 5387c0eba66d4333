"""An operating node: what clients and peers sent goes in, entries, messages and answers come out, a batch at a time.

The order within one wake-up is the whole story: peers' messages, then requests, then what consensus wants done, then one signature if it
is due, and last what leaves. Everything that a wake-up brought goes through each step together.
Not here: starting and joining (`enclave.core`), requests one by one (`enclave.answering`), threads (`enclave.runtime`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol, cast

from cryptography import x509

from ledgerd.enclave import execution, ledger_calls
from ledgerd.enclave.admission import Admission
from ledgerd.enclave.answering import REPLY, REQUEST, Answering
from ledgerd.enclave.app import App
from ledgerd.enclave.archive import Archive
from ledgerd.enclave.boundary import Ready, Traffic
from ledgerd.enclave.built_ins import built_in
from ledgerd.enclave.certificates import ShownCertificates
from ledgerd.enclave.clock import AttestedClock
from ledgerd.enclave.configuration import Configuration
from ledgerd.enclave.consensus import messages
from ledgerd.enclave.consensus.core import Consensus, ConsensusReady, LogEntry, Retirement, Role
from ledgerd.enclave.dialling import Dialling
from ledgerd.enclave.documents import Documents
from ledgerd.enclave.endpoints import STATES, Deferred, Registry
from ledgerd.enclave.entropy import jitter
from ledgerd.enclave.execution import Executor, error_response
from ledgerd.enclave.frontend import ATTESTATION, RECEIPT, Frontend
from ledgerd.enclave.governing import frontend as governing_frontend
from ledgerd.enclave.governing.calls import GovernanceCalls
from ledgerd.enclave.governing.renewal import Renewal
from ledgerd.enclave.group_commit import GroupCommit
from ledgerd.enclave.historical import Historical
from ledgerd.enclave.host_rejects import FETCHED, STORED, HostRejects
from ledgerd.enclave.idempotency import MAP as IDEMPOTENCY_MAP
from ledgerd.enclave.javascript import applications
from ledgerd.enclave.javascript.applications import JavaScriptApplication
from ledgerd.enclave.jwt.refresh import Refresh
from ledgerd.enclave.keys import NodeKeys, ServiceKeys
from ledgerd.enclave.kv import Store
from ledgerd.enclave.leaving import RETIRED_SECONDS, Elsewhere, Leaving, address_elsewhere
from ledgerd.enclave.ledger_secrets import LedgerSecrets
from ledgerd.enclave.limits import LIMITS
from ledgerd.enclave.nsm import Nsm
from ledgerd.enclave.replica import Proposal, Replica, Unverified, verify_signatures
from ledgerd.enclave.requests import COSE, Request
from ledgerd.enclave.scripting import Scripting
from ledgerd.enclave.scripts.pool import Pool
from ledgerd.enclave.sessions import Sessions
from ledgerd.enclave.states import HistoricalState, Range, size_of
from ledgerd.enclave.status import Attested, Status
from ledgerd.enclave.unheard import Unheard
from ledgerd.governance import tables
from ledgerd.ledger.entry import ZERO_DIGEST, WriteSet
from ledgerd.ledger.errors import HostError, PeerError, RequestError
from ledgerd.ledger.ids import NodeId, Seqno, TransactionId, View
from ledgerd.ledger.signature import Signature

DIAL_SECONDS: Final = 0.02  # between looks at whom to dial, where nothing has changed that would tell
VERIFY_SECONDS: Final = 0.25  # between verifications of the newest signature; see `_verify`

CONSENSUS = Consensus  # a variable, so that a simulation of compiled nodes can have one that it watches

_NEVER: Final = float("inf")
_CONSENSUS: Final = b"\x00"  # first byte of a message on a channel; the others are `answering.REQUEST` and `REPLY`

Done = Callable[[Any], None]


class Services(Protocol):
    """What the core lends: threads, and numbers for streams."""

    def next_stream(self) -> int:
        """A number for a stream that this enclave asks for."""

    def submit(self, work: Callable[[Nsm], object], done: Done) -> None:
        """Run `work` in a thread; `done` gets its result, or the exception that it raised, in a later wake-up."""

    def show_certificates(self, chain: list[x509.Certificate]) -> None:
        """Show these to clients from now on."""

    @property
    def traffic(self) -> Traffic:
        """What passes the link to the host."""

    @property
    def compiled_modules(self) -> int:
        """How many modules run as machine code."""

    @property
    def script_workers(self) -> int:
        """How many scripts can run at the same time: one a core."""


class Serving:
    """One node of a service, from its first entry to its end.

    Args:
        app: The application.
        configuration: The node's own.
        keys: The node's.
        certificate: The node's, endorsed by the service.
        service: The service's keys.
        ledger_secrets: By the first entry that each encrypts, from 1 on.
        attested: What this enclave's own document says.
        clock: Attested time.
        sessions: Clients' sessions, already open.
        services: Threads and stream numbers.
        rejects: Counts what the host should not have said.
        now: Monotonic seconds.

    Attributes:
        status: What the node tells of itself.
        scripts: Which script worker runs what; the runtime has the processes.
        failed: Why the node must stop, or None.
    """

    def __init__(
        self,
        *,
        app: App,
        configuration: Configuration,
        keys: NodeKeys,
        certificate: x509.Certificate,
        service: ServiceKeys,
        ledger_secrets: list[tuple[int, bytes]],
        attested: Attested,
        clock: AttestedClock,
        sessions: Sessions,
        services: Services,
        rejects: HostRejects,
        now: float,
    ) -> None:
        self.failed: str | None = None
        self._now = now
        self._app = app
        self._app_open = False
        self._keys = keys
        self._sessions = sessions
        self._services = services
        self._rejects = rejects
        self._logs: list[tuple[str, str]] = []
        self._notices: list[tuple[str, str]] = []
        self._joined_peers: frozenset[NodeId] = frozenset()  # whom to answer before our own ledger names anybody
        self._verifying = False
        self._verified_at = now
        self._dial_at = now
        self._ends_at = _NEVER  # a retired node ends itself

        limits = LIMITS
        store = Store(windows={IDEMPOTENCY_MAP: limits.idempotency_window})
        secrets = LedgerSecrets(keys, ledger_secrets)
        self._replica = Replica(store, secrets, self._governance_changed, self._rolled_back, limits.recent_ranges)
        settings = limits.consensus._replace(
            heartbeat=configuration.heartbeat_seconds, election_timeout=configuration.election_timeout_seconds
        )
        self._consensus: Consensus = CONSENSUS(keys.id, self._replica, settings, jitter, now)
        self._unheard = Unheard(keys.id, store, self._consensus, self._log, now)
        self._certificates = ShownCertificates(keys, certificate, service, self._log)
        self._group_commit = GroupCommit(keys.id, keys.identity, self._certificates.node_pem, service.identity)
        own = str(configuration.peer)
        self._dialling = Dialling(keys, certificate, service.certificate, self._is_former, services.next_stream, now, own)
        reject = partial(rejects.count, FETCHED)
        self._archive = Archive(self._consensus, self._replica, reject)
        self._historical = Historical(self._archive, self._consensus, self._replica, reject)
        self.status = Status(
            configuration,
            keys,
            service,
            secrets,
            attested,
            clock,
            self._consensus,
            self._replica,
            self._dialling,
            sessions,
            services.traffic,
            rejects.counts,
            self._log,
            now,
        )
        sessions.knows = lambda caller: _is_known(store, caller)
        self.status.compiled_modules = services.compiled_modules
        self._registries = {name: Registry(name) for name in ("app", "node", "gov")}
        frontend = Frontend(self.status)
        frontend.add_to(self._registries["app"], lambda: self._javascript.title or app.name)
        frontend.add_to(self._registries["node"], lambda: "ledgerd node")
        frontend.add_node_endpoints(self._registries["node"])
        renewal = Renewal(self.status)
        self._admission = Admission(self.status, renewal.at_opening)
        self._admission.add_to(self._registries["node"])
        self._leaving = Leaving(self.status)
        self._leaving.add_to(self._registries["node"])
        self._refresh = Refresh(configuration.jwt, store, services.next_stream, lambda: self.status.now_ms, self._log)
        self._registries["node"].add(built_in("GET", "/jwt_keys/refresh/metrics", lambda _: self._refresh.metrics()))
        governing = self._registries["gov"]
        frontend.add_to(governing, lambda: "ledgerd governance")
        governing_frontend.add_to(governing, self.status, renewal)
        self._javascript = JavaScriptApplication(
            store, self.status, self._registries["app"], ledger_calls.APPLICATION_CALLS, (ledger_calls.HISTORICAL_STATE,)
        )
        self._javascript.add_to(self._registries["node"])
        calls = GovernanceCalls(self.status, renewal).calls | applications.FUNCTIONS | ledger_calls.calls(self._historical)
        self.scripts = Pool(calls, services.script_workers, now)
        self._scripting = Scripting(store, self.scripts, self.status)
        executor = Executor(
            store,
            self._registries,
            app_is_open=lambda: self._app_open,
            view_of=lambda seqno: self._consensus.view_of(seqno) or self._consensus.view,  # not in the log yet: of this wake-up
            ledger=self.status,
            settings=execution.Settings(idempotency_window=limits.idempotency_window),
        )
        self._answering = Answering(
            executor,
            self._scripting,
            self._consensus,
            self._replica,
            sessions,
            self._dialling.channels,
            self._propose,
            self._propose_plain,
            self._defer,
            lambda transaction, done: self._archive.receipt(transaction, COSE, self._now, done),
            self._log,
            lambda: self.status.now_ms,
            self._tell_time,
        )
        self._documents = Documents(self.status, keys, self._replica, rejects, services.submit, self._answering.answer)

    # Beginning.

    def start(self, genesis: WriteSet) -> None:
        """Begin a service with this write set as entry 2.1."""
        self._consensus.start_primary()
        self._group_commit.became_primary()
        self._apply_and_propose(genesis)
        opening = self._admission.opening(trusted=1)
        if opening is not None:
            self._apply_and_propose(opening)

    def join(self, peers: dict[NodeId, str], genesis_digest: bytes) -> None:
        """Begin as a backup with an empty ledger, which the primary will fill; its first entry must be the one that was attested."""
        self._consensus.start_backup()
        self._dialling.learn(peers)
        self._replica.genesis_expected = genesis_digest
        self._joined_peers = frozenset(peers) - {self._keys.id}

    # Inputs.

    def peer_opened(self, stream: int) -> None:
        """The host accepted a peer's stream."""
        self._dialling.channels.accepted(stream)

    def peer_received(self, stream: int, data: bytes) -> None:
        """Bytes of a peer's stream, or of an issuer's server."""
        if self._refresh.owns(stream):
            self._refresh.received(stream, data)
        else:
            self._dialling.channels.received(stream, data)

    def peer_closed(self, stream: int) -> None:
        """A stream of a peer's or of an issuer's server, accepted or dialled, is gone."""
        if self._refresh.owns(stream):
            self._refresh.closed(stream)
            return
        self._dialling.closed(stream)
        self._dial_at = self._now

    def dialled(self, stream: int) -> bool:
        """A stream that we asked for is open; False if it is not one of ours."""
        if self._refresh.owns(stream):
            self._refresh.opened(stream)
            return True
        return self._dialling.opened(stream)

    def stored(self, generation: int, view: int, seqno: int) -> None:
        """The host has synced entries."""
        try:
            self._consensus.stored(generation, View(view), Seqno(seqno))
        except HostError as error:
            self._rejects.count(STORED, error)

    def fetched(self, request: int, entries: list[bytes]) -> None:
        """The host gave entries back."""
        self._archive.answered(request, entries)

    def tick(self, now: float) -> None:
        """Learn the time."""
        self._now = self.status.now = now
        self._consensus.tick(now)
        self._answering.tick(now)
        self._historical.tick(now)  # before what may have it ask anew, with a deadline that counts from now
        self._archive.expire(now)
        self._refresh.tick(now, self._consensus.role is Role.PRIMARY)

    def sweep(self, now: float) -> None:
        """What is looked at only now and then: handshakes of peers, what the operator should know."""
        channels = self._dialling.channels
        channels.sweep(now, self.status.now_ms // 1000)
        for failure in channels.take_failures():
            self._log("warning", f"channel ended: {failure}")
        self._dialling.settle()
        self._unheard.look(now)

    def hand_over(self) -> bool:
        """The operator wants this node to stop: ask a peer to be primary in its place. False if there is nothing to hand over."""
        self.status.stop_notice = True
        successor = self._consensus.propose_successor()
        if successor is not None:
            self._log("info", f"asked to stop: node {successor[:16]}... is to be primary")
        return successor is not None

    def next_wakeup(self) -> float:
        """When `tick` is due if nothing happens before. What nobody waits for is looked at with the next sweep."""
        if self._answering.has_backlog or self._dialling.channels.has_backlog or self._archive.wanted:  # scripts ask between wake-ups
            return self._now
        return min(
            self._consensus.next_deadline(),
            self._group_commit.begin_at,
            self._answering.next_deadline,
            self._archive.next_deadline,
            self._historical.next_deadline,
            max(self._dial_at, self._dialling.next_deadline),
            self._verified_at + VERIFY_SECONDS if self._replica.unverified and not self._verifying else _NEVER,
            self._ends_at,
        )

    # One wake-up.

    def carry_out(self, ready: Ready) -> None:
        """Work through what came in, and say what the host must do."""
        answering = self._answering
        channels = self._dialling.channels
        self._take_messages()
        if self._consensus.retirement is Retirement.RETIRED_COMMITTED and not answering.is_retired:
            self._retire()
        for node_id in channels.take_cuts():
            self._dial_at = self._now
            self._consensus.cut(node_id)
            answering.cut(node_id)
        for node_id in channels.take_lost():  # its answers to what we forwarded may have been lost
            answering.cut(node_id)
        requests = self._sessions.take_requests()
        if requests:
            answering.add(requests)
        answering.execute()
        self._record_retirements()
        self._record_keys()
        self._sign()
        promise = self._ask_consensus(ready)
        self._verify()
        if self._now >= self._dial_at:
            self._dial_at = self._now + DIAL_SECONDS
            self._dialling.dial(self._wanted_peers(), self._now, ready)
        self._refresh.carry_out(ready)
        output, closing = channels.take_output()
        ready.peer_bytes.extend(output)
        ready.closes.extend(closing)
        if promise is not None:
            self._seal_promise(ready, *promise)
        if self._archive.wanted:
            ready.fetches.extend(self._archive.wanted)
            self._archive.wanted.clear()
        if self._logs or self._notices:
            ready.logs.extend(self._logs)
            self._logs.clear()
            ready.notices.extend(self._notices)
            self._notices.clear()
        if self._now >= self._ends_at:
            ready.logs.append(("info", "this retired node ends, and its keys with it"))
            ready.stop = 0
        if self.failed is not None:
            ready.logs.append(("error", f"the node stops: {self.failed}"))
            ready.notices.append(("refused", self.failed))
            ready.stop = 1

    def _take_messages(self) -> None:
        for node_id, data in self._dialling.channels.take_messages():
            kind = data[:1]
            try:
                if kind == _CONSENSUS:
                    self._consensus.receive(node_id, messages.decode(data[1:]))
                elif kind == REQUEST:
                    self._answering.forwarded_here(node_id, data[1:])
                elif kind == REPLY:
                    self._answering.answered_there(node_id, data[1:])
                else:
                    raise PeerError(f"node {node_id[:16]}... sent a message of unknown kind")
            except PeerError as error:
                self._log("warning", f"message dropped: {error}")

    def _ask_consensus(self, ready: Ready) -> tuple[NodeId, messages.Message] | None:
        """Hand over what consensus is ready with, but its promise, which is returned: what else goes to peers is sealed before it."""
        answering = self._answering
        answering.begin_confirmation()
        wanted = self._consensus.ready()
        if wanted.failed is not None:
            self.failed = wanted.failed
            return None
        ready.truncate_after = wanted.truncate_after
        ready.generation, ready.view = wanted.generation, wanted.view
        ready.first_seqno, ready.entries = wanted.first_seqno, wanted.entries
        ready.patience_ms = wanted.patience_ms
        ready.committed = wanted.commit
        send = self._dialling.channels.send
        for node_id, message in wanted.messages:
            send(node_id, _CONSENSUS + messages.encode(message))
        for first in wanted.fetch:
            self._archive.feed_peer(first, self._now)
        if wanted.became_backup is not None or wanted.became_primary is not None:
            self._change_role(wanted)
        answering.confirmed(wanted.confirmed)
        answering.refused(wanted.refused)
        if wanted.commit is not None or answering.has_committed:
            answering.committed()
        return wanted.promise

    def _seal_promise(self, ready: Ready, node_id: NodeId, message: messages.Message) -> None:
        """Hand over what acknowledges the entries beside it. What else goes to that node now is sealed already: it need not wait."""
        if sealed := self._dialling.channels.seal(node_id, _CONSENSUS + messages.encode(message)):
            ready.once_stored.append(sealed)
        else:
            self._consensus.cut(node_id)

    def _change_role(self, wanted: ConsensusReady) -> None:
        if wanted.became_backup is not None:
            self._group_commit.reset()
            self._log("info", f"no longer primary, in view {wanted.became_backup}")
            self._notices.append(("role", "backup"))
        if wanted.became_primary is not None:
            self._group_commit.became_primary()
            self._log("info", f"primary of view {wanted.became_primary}")
            self._notices.append(("role", "primary"))

    # Nodes that leave.

    def _record_retirements(self) -> None:
        """As the primary, end the retirements that are committed, be they ordered under this primary or an earlier one."""
        if self._consensus.role is Role.PRIMARY:
            writes = self._leaving.due()
            if writes is not None:
                self._apply_and_propose(writes)

    def _record_keys(self) -> None:
        """As the primary, write what refreshes of issuers' keys have brought."""
        while self._consensus.role is Role.PRIMARY and (writes := self._refresh.due()) is not None:
            self._apply_and_propose(writes)

    def _retire(self) -> None:
        """This node is not needed any more. Whoever waits here is told so, and whoever asks from now on is shown the way."""
        self._answering.retire(Elsewhere(lambda: address_elsewhere(self._replica.store, self._keys.id, self._consensus.primary_id)))
        self._ends_at = self._now + RETIRED_SECONDS
        text = f"this node is retired and may be stopped; it shows clients the way, and ends in {RETIRED_SECONDS:.0f} s"
        self._log("info", text)
        self._notices.append(("retired", text))

    def _is_former(self, node_id: NodeId) -> bool:
        return self._leaving.is_former(node_id)

    def _wanted_peers(self) -> frozenset[NodeId]:
        """Whom to keep a channel to. An old part of the ledger names neither the primary nor others that joined since, who count this node
        as one of theirs all the same: they may need its vote.
        """
        if self._answering.is_retired:
            return frozenset()
        wanted = self._consensus.peers | self._dialling.channels.speakers
        return wanted if self._consensus.is_member else wanted | self._joined_peers

    # Entries and signatures.

    def _propose(self, writes: WriteSet, claims_digest: bytes = ZERO_DIGEST, record: Signature | None = None) -> LogEntry:
        entry = self._replica.propose(self._consensus.view, writes, claims_digest, record)
        self._consensus.replicate(entry)
        return entry

    def _propose_plain(self, proposals: list[Proposal]) -> tuple[Seqno, list[bytes]]:
        first, data, leaves = self._replica.propose_plain(self._consensus.view, proposals)
        self._consensus.replicate_plain(self._consensus.view, first, data, leaves)
        return first, data

    def _apply_and_propose(self, writes: WriteSet, record: Signature | None = None) -> None:
        self._replica.store.apply(self._replica.last + 1, writes)
        self._propose(writes, record=record)

    def _sign(self) -> None:
        consensus = self._consensus
        if consensus.role is Role.PRIMARY and self._group_commit.is_due(
            self._replica.history, consensus.commit_seqno, self._now, self.scripts.soon
        ):
            self._propose_signature()

    def _tell_time(self) -> None:
        """Have the ledger say what time it is, by a signature, if it has not for a while."""
        if self._group_commit.is_stale(self._consensus.commit_seqno, self._now):
            self._propose_signature()

    def _propose_signature(self) -> None:
        writes, record = self._group_commit.sign(self._consensus.view, self._replica.history, self._now, self.status.now_ms // 1000)
        self._apply_and_propose(writes, record)

    def _verify(self) -> None:
        """Verify the newest signature that a primary sent, off the path, at most four times a second.

        Its root was compared with this node's own before it was acknowledged, so the state is right whatever the ECDSA says. What is at
        stake is whether receipts will verify; and a signature covers all that earlier ones covered, so the newest one stands for them.
        """
        unverified = self._replica.unverified
        if not unverified or self._verifying or self._now < self._verified_at + VERIFY_SECONDS:
            return
        item: Unverified = unverified[-1]
        unverified.clear()
        self._verifying = True
        self._verified_at = self._now

        def done(result: Any) -> None:
            self._verifying = False
            if isinstance(result, Exception) and self.failed is None:
                self.failed = f"signature entry {item.seqno} does not verify: {result}"

        self._services.submit(lambda _: verify_signatures(item), done)

    def _rolled_back(self, to: Seqno) -> None:
        self._group_commit.reset()
        self._answering.rolled_back(to)

    # Answers that take longer.

    def _defer(self, reply_to: object, deferred: Deferred) -> None:
        if deferred.what == RECEIPT:
            transaction, kind = cast(tuple[TransactionId, str], deferred.data)
            self._archive.receipt(transaction, kind, self._now, lambda response: self._answering.answer(reply_to, response))
        elif deferred.what == ATTESTATION:
            self._documents.give(reply_to, cast(bytes | None, deferred.data))
        elif deferred.what == STATES:
            self._fetch_states(*cast(tuple[Request, Range], deferred.data))
        else:
            raise NotImplementedError(deferred.what)

    def _fetch_states(self, request: Request, wanted: Range) -> None:
        """Fetch what a handler has asked for, and have the request executed again, or refused."""
        found: list[HistoricalState] = []

        def done(error: RequestError | None) -> None:
            if error is not None:
                self._answering.answer(request.reply_to, error_response(error))
                return
            request.states = {**(request.states or {}), wanted: found}
            self._answering.again(request)

        self._historical.read(wanted, found.extend, done, size_of(request.states) + len(request.body))

    # Governance as it changes; the operator.

    def _governance_changed(self) -> None:
        self._dial_at = self._now
        self._refresh.governance_changed()
        store = self._replica.store
        records = self._leaving.learn(store.map(tables.NODE_INFO).items())
        self._dialling.learn(
            {
                NodeId(key.decode()): record["node_to_node_interface"]["published_address"]
                for key, record in records.items()
                if record["status"] != tables.PENDING
            }
        )
        if self._certificates.learn(store):
            self._show_certificates()
        service = store.get(tables.SERVICE_INFO, tables.SINGLETON)
        was_open = self._app_open
        self._app_open = service is not None and tables.decode(service)["status"] == tables.OPEN
        if self._app_open and not was_open:
            self._notices.append(("open", "yes"))
        self._javascript.learn()
        settings = store.get(tables.SETTINGS, tables.SINGLETON)
        if settings is not None and not self.status.in_network:
            self.status.in_network = True
            self._javascript.add_image(self._app.endpoints(tables.decode(settings)["application_policy"]))
            self._notices.append(("state", "PartOfNetwork"))

    def _show_certificates(self) -> None:
        """Members have renewed some: handshakes and signatures show the new ones from now on."""
        shown = self._certificates
        self.status.service = shown.service
        self._group_commit.node_certificate = shown.node_pem
        self._dialling.channels.use([shown.node], self._keys.identity, shown.service.certificate)
        self._services.show_certificates(shown.chain)
        self._notices.append(("service_certificate", shown.service.certificate_pem))

    def _log(self, level: str, text: str) -> None:
        self._logs.append((level, text))


def _is_known(store: Store, caller: str) -> bool:
    """Whether a caller is a user or a member."""
    key = caller.encode()
    return store.get(tables.USER_CERTS, key) is not None or store.get(tables.MEMBER_CERTS, key) is not None
