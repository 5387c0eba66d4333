"""The enclave, sans-IO: the host's events in, `Ready` out; from configuration to a node that serves.

A node's life: configured; attested (its own document gives it the time); then either the first node of a new service, or a joiner until
it is admitted; then serving, until it ends. There is no way back in: an enclave that ends takes its keys with it, and what starts again
is another node.
Not here: what serving means (`enclave.serving`), joining (`enclave.joining`), the loop, clock and threads (`enclave.runtime`).
"""

import json
from collections.abc import Callable
from typing import Any, Final, NamedTuple, cast

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ledgerd.enclave import configuration as configurations
from ledgerd.enclave.admission import encryption_key_pem
from ledgerd.enclave.app import App
from ledgerd.enclave.boundary import (
    CLIENT,
    OUTBOUND,
    PEER,
    Closed,
    Configured,
    Event,
    Fetched,
    Opened,
    Ready,
    Received,
    Stopping,
    Stored,
    Traffic,
)
from ledgerd.enclave.clock import CLOCK_SECONDS, AttestedClock
from ledgerd.enclave.configuration import Configuration
from ledgerd.enclave.genesis import genesis_writes, node_record
from ledgerd.enclave.host_rejects import CONFIGURED, OPENED, SEALED, HostRejects
from ledgerd.enclave.http import Limits
from ledgerd.enclave.join_policy import record_of
from ledgerd.enclave.joining import Admitted, Joining, spki_of
from ledgerd.enclave.keys import (
    NodeKeys,
    ServiceKeys,
    at_milliseconds,
    create_ledger_secret,
    create_service_key,
    create_service_keys,
    parse_certificate,
    spki,
)
from ledgerd.enclave.kms.amazon_roots import AMAZON_ROOTS
from ledgerd.enclave.kms.client import KmsClient
from ledgerd.enclave.kms.public_name import PublicName
from ledgerd.enclave.kms.settings import PublicNameSettings
from ledgerd.enclave.nsm import Nsm, attestation, measure_configuration
from ledgerd.enclave.program import VERSION
from ledgerd.enclave.requests import JSON, Response
from ledgerd.enclave.scripts.pool import Pool
from ledgerd.enclave.serving import Serving
from ledgerd.enclave.sessions import SessionLimits, Sessions
from ledgerd.enclave.status import Attested
from ledgerd.enclave.tls import TlsContext
from ledgerd.governance import tables
from ledgerd.ledger.attestation.evidence import NITRO, Evidence
from ledgerd.ledger.attestation.measurement import configuration_digest, shown_triples
from ledgerd.ledger.attestation.nitro import verify
from ledgerd.ledger.attestation.policy import check_configuration, check_debug, check_public_key
from ledgerd.ledger.attestation.roots import parse_roots
from ledgerd.ledger.errors import FormatError, LedgerdError

SWEEP_SECONDS: Final = 0.5  # between looks at clients' deadlines
HAND_OVER_SECONDS_MAX: Final = 0.3  # some round trips and a sync; half of what the host allows for the end, and less than an election


class Job(NamedTuple):
    """Work for another thread; its result comes back by `finished(number, result)`."""

    number: int
    work: Callable[[Nsm], object]


class Enclave:
    """One node's enclave.

    Attributes:
        traffic: What passes the link to the host; the runtime counts.
        compiled_modules: How many modules run as machine code; the runtime knows.
        script_workers: How many scripts can run at the same time; the runtime knows.
    """

    def __init__(self, app: App, now: float) -> None:
        """Args: app: the application in the image. now: monotonic seconds."""
        self._app = app
        self._now = now
        self._clock = AttestedClock()
        self._keys: NodeKeys  # made when it is configured, which tells on which curve
        self._configuration: Configuration | None = None
        self._sessions: Sessions | None = None
        self._joining: Joining | None = None
        self._serving: Serving | None = None
        self._kms: KmsClient | None = None
        self._chain: list[x509.Certificate] = []
        self._named: dict[str, TlsContext] = {}  # for a public name
        self._service_key: EllipticCurvePrivateKey | None = None  # of the service that this node starts
        self._digest = b""  # of the configuration, as PCR16 measures it
        self._own_document = b""
        self._measurement: tuple[bytes, bytes, bytes] = (b"", b"", b"")
        self._simulated = False
        self._self_signed = ""
        self._kinds: dict[int, int] = {}
        self._next_stream = 0
        self._jobs: list[Job] = []
        self._done: dict[int, Callable[[Any], None]] = {}
        self._next_job = 0
        self._ready = Ready()
        self._closing: list[int] = []
        self._next_sweep = now
        self._learn_time_at = float("inf")
        self._stops_at: float | None = None
        self.traffic = Traffic()
        self._rejects = HostRejects(self.log)
        self.compiled_modules = 0
        self.script_workers = 1

    # What the runtime calls.

    def receive(self, events: list[Event]) -> None:
        """Take a batch of the host's events. Their effects appear in the next `ready`; what no honest host says is refused and counted."""
        sessions, serving, kinds = self._sessions, self._serving, self._kinds
        for event in events:
            kind = type(event)
            if kind is Received:
                stream, data = cast(Received, event)
                of = kinds.get(stream)
                if of == CLIENT:
                    assert sessions is not None, "clients' streams exist only after configuration"
                    sessions.received(stream, data)
                elif of is not None:
                    self._peer_received(stream, data)
            elif kind is Stored:
                if serving is not None:
                    serving.stored(*event)
            else:
                self._receive_rare(event)
                sessions, serving = self._sessions, self._serving

    def tick(self, now: float) -> None:
        """Learn the time, monotonic seconds."""
        self._now = now
        if now >= self._learn_time_at:
            self._learn_time()
        if self._joining is not None:
            self._joining.tick(now)
        if self._kms is not None:
            self._kms.tick(now)
        if self._serving is not None:
            self._serving.tick(now)
        if now >= self._next_sweep and self._sessions is not None:
            self._next_sweep = now + SWEEP_SECONDS
            self._sessions.sweep(now)
            if self._serving is not None:
                self._serving.sweep(now)

    def next_wakeup(self) -> float:
        """When `tick` is due if nothing happens before, monotonic seconds."""
        if self._sessions is not None and self._sessions.has_backlog:
            return self._now
        wakeup = self._next_sweep if self._sessions is not None else float("inf")
        if self._stops_at is not None:
            wakeup = min(wakeup, self._stops_at)
        if self._joining is not None:
            wakeup = min(wakeup, self._joining.next_wakeup())
        if self._kms is not None:
            wakeup = min(wakeup, self._kms.next_wakeup())
        if self._serving is not None:
            wakeup = min(wakeup, self._serving.next_wakeup())
        return wakeup

    def ready(self) -> Ready:
        """What the host must do now; each piece of work is handed over once."""
        ready, self._ready = self._ready, Ready()
        if self._joining is not None:
            self._joining.carry_out(ready)
        if self._kms is not None:
            self._kms.carry_out(ready)
        if self._serving is not None:
            self._serving.carry_out(ready)
            if self._stops_at is not None and (self._now >= self._stops_at or not self._serving.status.is_primary):
                ready.stop = 0
        elif self._sessions is not None:
            self._answer_early(self._sessions)
        if self._sessions is not None:
            is_busy = bool(ready.entries or ready.peer_bytes)  # what a commit waits for
            output, closing = self._sessions.take_output(self._now, is_busy=is_busy)
            ready.client_bytes = output
            for stream in closing:
                self._kinds.pop(stream, None)
            ready.closes.extend(closing)
        ready.closes.extend(self._closing)
        self._closing.clear()
        if ready.logs:
            ready.logs = [(level, _one_line(text)) for level, text in ready.logs]
        return ready

    @property
    def scripts(self) -> Pool | None:
        """Which script worker is to run what; None before this node serves."""
        return None if self._serving is None else self._serving.scripts

    def jobs(self) -> list[Job]:
        """Work for other threads; each job is handed over once."""
        jobs, self._jobs = self._jobs, []
        return jobs

    def finished(self, number: int, result: object) -> None:
        """The result of a job, or the exception that it raised."""
        done = self._done.pop(number, None)
        if done is not None:
            done(result)

    # Services to the parts.

    def submit(self, work: Callable[[Nsm], object], done: Callable[[Any], None]) -> None:
        """Run `work` in a thread and give its result to `done`."""
        self._next_job += 1
        self._jobs.append(Job(self._next_job, work))
        self._done[self._next_job] = done

    def next_stream(self) -> int:
        """A number for a stream that this enclave asks for."""
        self._next_stream -= 1
        self._kinds[self._next_stream] = OUTBOUND
        return self._next_stream

    def log(self, level: str, text: str) -> None:
        """Tell the operator."""
        self._ready.logs.append((level, text))

    # Events that are rare.

    def _receive_rare(self, event: Event) -> None:
        if isinstance(event, Configured):
            self._configure(event.document)
        elif isinstance(event, Opened):
            self._opened(event)
        elif isinstance(event, Closed):
            self._closed(event.stream)
        elif isinstance(event, Received):
            self._peer_received(event.stream, event.data)
        elif isinstance(event, Fetched):
            if self._serving is not None:
                self._serving.fetched(event.request, event.entries)
        elif isinstance(event, Stopping):
            # Nothing needs a farewell (peers see the cut, and what is stored is stored), but a primary that leaves another one behind saves
            # everybody an election timeout.
            if self._serving is not None and self._serving.hand_over():
                self._stops_at = self._now + HAND_OVER_SECONDS_MAX
            else:
                self._ready.stop = 0

    def _opened(self, event: Opened) -> None:
        stream, kind, _ = event
        if kind == OUTBOUND:
            if self._kinds.get(stream) != OUTBOUND:
                self._rejects.count(OPENED, f"stream {stream} is open, which nobody asked for")
                return
            if self._joining is not None and self._joining.owns(stream):
                self._joining.opened()
            elif self._kms is not None and self._kms.owns(stream):
                self._kms.opened()
            elif self._serving is None or not self._serving.dialled(stream):
                self._closing.append(stream)
            return
        if stream <= 0 or stream in self._kinds:
            self._rejects.count(OPENED, f"stream {stream} is open twice, or under a number of the enclave's own")
            return
        if kind == CLIENT and self._sessions is not None:
            self._kinds[stream] = CLIENT
            self._sessions.opened(stream, event.remote)
        elif kind == PEER and self._serving is not None:
            self._kinds[stream] = PEER
            self._serving.peer_opened(stream)
        else:
            self._closing.append(stream)  # too early; whoever it is will come again

    def _closed(self, stream: int) -> None:
        kind = self._kinds.pop(stream, None)
        if kind == CLIENT:
            assert self._sessions is not None, "clients' streams exist only after configuration"
            self._sessions.closed(stream)
        elif kind is not None:
            if self._joining is not None and self._joining.owns(stream):
                self._joining.closed()
            elif self._kms is not None and self._kms.owns(stream):
                self._kms.closed()
            elif self._serving is not None:
                self._serving.peer_closed(stream)

    def _peer_received(self, stream: int, data: bytes) -> None:
        if self._joining is not None and self._joining.owns(stream):
            self._joining.received(data)
        elif self._kms is not None and self._kms.owns(stream):
            self._kms.received(data)
        elif self._serving is not None:
            self._serving.peer_received(stream, data)

    # A node's life.

    def _configure(self, document: bytes) -> None:
        if self._configuration is not None:
            self._rejects.count(CONFIGURED, "the enclave is configured, and keeps what it was told first")
            return
        try:
            configuration = configurations.parse(document)
            parse_roots(configuration.roots)
            self._keys = NodeKeys(configuration.curve)
            self._digest = configuration_digest(configuration.relevant(self._service_public(configuration)))
        except LedgerdError as error:
            self._give_up(str(error))
            return
        self._configuration = configuration
        public_key, digest = self._keys.public, self._digest
        self._ready.notices.append(("node_id", self._keys.id))

        def attest(nsm: Nsm) -> bytes:
            measure_configuration(nsm, digest)
            return attestation(nsm, user_data=None, nonce=None, public_key=public_key)

        self.submit(attest, self._attested)

    def _service_public(self, configuration: Configuration) -> bytes:
        """The key of the service that is started or joined: part of what PCR16 measures, so the first node makes it here already."""
        if configuration.join is not None:
            return spki_of(parse_certificate(configuration.join.service_certificate))
        self._service_key = create_service_key(configuration.curve)
        return spki(self._service_key.public_key())

    def _attested(self, result: Any) -> None:
        """The enclave's own first document: it says what time it is, what this enclave is measured as, and below which root."""
        configuration = self._configuration
        assert configuration is not None, "attested after configuration"
        if isinstance(result, Exception):
            self._give_up(f"the security module gives no document ({result}); is /dev/nsm there?")
            return
        try:
            own = verify(result, parse_roots(configuration.roots), at_ms=None)
            check_debug(own)
            check_public_key(own, self._keys.public)
            check_configuration(own, self._digest)
            if not {0, 1, 2} <= own.pcrs.keys():
                raise FormatError("it has no PCR0, PCR1 and PCR2")
            at = at_milliseconds(own.timestamp_ms)
            certificate = self._keys.self_signed_certificate(configuration.names, at)
        except LedgerdError as error:
            self._give_up(f"this node's own attestation would be refused by every other: {error}")
            return
        except (ValueError, OverflowError):
            self._give_up("no certificate can be made of the names in the configuration and the attested time; are the names DNS names?")
            return
        self._clock.set(own.timestamp_ms, self._now)
        self._learn_time_at = self._now + CLOCK_SECONDS
        self._own_document = result
        self._measurement = (own.pcrs[0], own.pcrs[1], own.pcrs[2])
        self._simulated = own.simulated
        self._self_signed = certificate.public_bytes(Encoding.PEM).decode()
        limits = SessionLimits(sessions=configuration.sessions_max, request=Limits(body_bytes=configuration.body_size_bytes_max))
        self._sessions = Sessions(TlsContext.for_clients([certificate], self._keys.identity), limits, self._now)
        self._ready.notices.append(("attested", "SIMULATED" if own.simulated else "AWS Nitro"))
        if own.simulated:
            self.log("warning", "attestation is SIMULATED: its root is not AWS's, and nothing protects this node from its host")
        try:
            if configuration.start is not None:
                self._start(configuration)
            else:
                assert configuration.join is not None, "a configuration starts or joins"
                self._joining = Joining(
                    configuration,
                    configuration.join,
                    self._keys,
                    self._measurement,
                    self._clock,
                    self,
                    self.submit,
                    self.next_stream,
                    self._now,
                )
        except LedgerdError as error:
            self._give_up(str(error))

    def _learn_time(self) -> None:
        """Ask the security module what time it is; its answer is a document like any other, and believed only as such."""
        configuration = self._configuration
        assert configuration is not None, "asked for after the first document"
        self._learn_time_at = self._now + CLOCK_SECONDS
        public_key, roots = self._keys.public, parse_roots(configuration.roots)

        def ask(nsm: Nsm) -> int:
            own = verify(attestation(nsm, user_data=None, nonce=None, public_key=public_key), roots, at_ms=None)
            check_public_key(own, public_key)
            return own.timestamp_ms

        def done(result: Any) -> None:
            if isinstance(result, Exception):
                self.log("warning", f"the security module does not tell the time: {result}; the clock goes on by itself")
            else:
                self._clock.set(result, self._now)

        self.submit(ask, done)

    def _start(self, configuration: Configuration) -> None:
        assert configuration.start is not None, "the caller has seen it"
        at = at_milliseconds(self._clock.milliseconds(self._now))
        assert self._service_key is not None, "made with the configuration's digest"
        service = create_service_keys(self._service_key, at, configuration.start.service_subject)
        request = self._keys.certificate_request(configuration.names)
        certificate = service.endorse(request, at)
        record = node_record(
            str(configuration.rpc),
            str(configuration.peer),
            status=tables.TRUSTED,
            public_key_pem=self._keys.identity.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
            encryption_key_pem=encryption_key_pem(self._keys.encryption_public),
            request_pem=request.public_bytes(Encoding.PEM).decode(),
            code_digest=self._measurement[0],
            quote_info=record_of(Evidence(NITRO, self._own_document)),
            node_data=configuration.node_data,
            program=VERSION,
        )
        writes = genesis_writes(configuration, configuration.start, service, self._keys.id, record, certificate, self._measurement)
        serving = self._serve(service, [(1, create_ledger_secret())], certificate, configuration.accepted(self._measurement))
        serving.start(writes)
        self.log("info", f"node {self._keys.id[:16]}... starts a new service")

    def admitted(self, admitted: Admitted) -> None:
        """The joiner is trusted and has the service's secrets."""
        if self._joining is not None:
            self._joining.carry_out(self._ready)  # the stream to the node that admitted us is needed no more
            self._joining = None
        serving = self._serve(admitted.service, admitted.ledger_secrets, admitted.certificate, admitted.accepts)
        serving.join(admitted.peers, admitted.genesis_digest)
        self.log("info", f"node {self._keys.id[:16]}... is trusted and catches up")

    def join_refused(self, reason: str) -> None:
        """Joining is over without success."""
        self._joining = None
        self._give_up(reason)

    def _serve(
        self,
        service: ServiceKeys,
        ledger_secrets: list[tuple[int, bytes]],
        certificate: x509.Certificate,
        accepts: tuple[tuple[bytes, bytes, bytes], ...],
    ) -> Serving:
        configuration, sessions = self._configuration, self._sessions
        assert configuration is not None and sessions is not None, "serving begins after attestation"
        self._serving = Serving(
            app=self._app,
            configuration=configuration,
            keys=self._keys,
            service=service,
            ledger_secrets=ledger_secrets,
            clock=self._clock,
            now=self._now,
            attested=Attested(self._own_document, self._measurement[0], self._simulated, self._self_signed, shown_triples(accepts)),
            certificate=certificate,
            sessions=sessions,
            services=self,
            rejects=self._rejects,
        )
        self.show_certificates([certificate, service.certificate])
        self._ready.notices.append(("service_certificate", service.certificate_pem))
        if configuration.public_name is not None:
            self._begin_public_name(configuration.public_name, service)
        return self._serving

    def _begin_public_name(self, settings: PublicNameSettings, service: ServiceKeys) -> None:
        name = settings.public_name.name
        if settings.roots and not self._simulated:
            # Whoever chooses the roots could answer in KMS's place with data keys that he knows.
            self.log("error", f"the public name {name} is not served: public_name.roots are for simulated enclaves; take them out")
        elif settings.credentials is None:
            self.log("warning", f"the public name {name} is not served by this node: its host has no credentials for KMS")
        else:
            roots = settings.roots or AMAZON_ROOTS
            self._kms = KmsClient(settings.endpoint, roots, settings.credentials, self._clock, self.submit, self.next_stream, self._now)
            PublicName(settings.public_name, self._kms.ask, service.public, lambda: self._clock.milliseconds(self._now), self)

    def serve_name(self, name: str, chain: tuple[x509.Certificate, ...], key: EllipticCurvePrivateKey) -> None:
        """The key of the public name was opened: clients that ask for it by SNI are served with it."""
        self._named = {name: TlsContext.for_clients(chain, key)}
        self.show_certificates(self._chain)

    def show_certificates(self, chain: list[x509.Certificate]) -> None:
        """Show clients these from now on, and those of a public name besides."""
        assert self._sessions is not None, "serving begins after attestation"
        self._chain = chain
        self._sessions.use(TlsContext.for_clients(chain, self._keys.identity, named=self._named))

    def notice(self, name: str, text: str) -> None:
        """Tell the host."""
        self._ready.notices.append((name, text))

    def sealed_refused(self, error: LedgerdError) -> None:
        """The host gave another sealed secret than it was given."""
        self._rejects.count(SEALED, error)

    def _answer_early(self, sessions: Sessions) -> None:
        """Before this node is part of a network it answers one question only: how far it is."""
        for request in sessions.take_requests():
            if request.method == "GET" and request.path == "/node/state":
                shown = {
                    "node_id": self._keys.id,
                    "state": "Pending" if self._joining is not None else "Initialized",
                    "simulated": self._simulated,
                }
                response = Response(200, (), json.dumps(shown).encode(), JSON)
            else:
                error = {"error": {"code": "ServiceNotReady", "message": "This node is not part of a service yet; ask /node/state."}}
                response = Response(503, (("retry-after", "1"),), json.dumps(error).encode(), JSON)
            sessions.answer(request.reply_to, response)  # type: ignore[arg-type]  # it came from a session

    def _give_up(self, reason: str) -> None:
        self._ready.notices.append(("refused", reason))
        self.log("error", reason)
        self._ready.stop = 1


def _one_line(text: str) -> str:
    """As it is, but for what could pass for another line or move a terminal's cursor: names in certificates are their makers' choice."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)
