"""A whole service in one process: real enclaves, hosts made of lists, virtual time. No sockets, no threads, no sleeping.

Each `Host` keeps what its enclave stores and carries bytes between enclaves at once, unless a test has cut, held or changed them. Jobs run
where they are asked for. `Cluster.run` moves virtual time.
"""

import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from ssl import DER_cert_to_PEM_cert, PEM_cert_to_DER_cert
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from ledgerd.enclave import boundary
from ledgerd.enclave.app import App
from ledgerd.enclave.boundary import CLIENT, OUTBOUND, PEER, Event, Ready
from ledgerd.enclave.core import Enclave
from ledgerd.enclave.outbound import Answer, HttpClient
from ledgerd.enclave.tls import TlsContext
from ledgerd.governance import constitution
from ledgerd.ledger.entry import read_public
from ledgerd.ledger.signature import TREE
from ledgerd.node.simulator.nsm import SimulatedNsm
from ledgerd.node.simulator.pki import SimulatedRoot, make_root
from support.script_workers import ScriptWorkers, run_wanted

SANDBOX, BY_VOTE = (
    constitution.join(order, lambda name: files("ledgerd.governance.constitution").joinpath(name).read_text("utf-8"))
    for order in (constitution.SANDBOX, constitution.BY_VOTE)
)

PCRS = {0: b"\x10" * 48, 1: b"\x11" * 48, 2: b"\x12" * 48}


_HASHES: dict[int, hashes.SHA384 | hashes.SHA512] = {384: hashes.SHA384(), 521: hashes.SHA512()}  # by the size of the key, in bits


@dataclass
class Identity:
    """A member's or user's key and self-signed certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()


def make_identity(name: str, curve: ec.EllipticCurve | None = None) -> Identity:
    """A new key, on P-256 unless said, with a certificate by itself."""
    key = ec.generate_private_key(curve or ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .sign(key, _HASHES.get(key.curve.key_size, hashes.SHA256()))
    )
    return Identity(key, certificate)


def of_no_version(pem: str) -> str:
    """A certificate as `pem`, but of a version that does not exist, of which the library tells by an exception that is no ValueError."""
    version = bytes.fromhex("a003020102")  # 3
    der = PEM_cert_to_DER_cert(pem)
    assert der.count(version) >= 1
    return DER_cert_to_PEM_cert(der.replace(version, version[:-1] + b"\x09", 1))


@dataclass
class Host:
    """The untrusted half of one node, made of lists."""

    name: str
    enclave: Enclave
    nsm: SimulatedNsm
    entries: list[bytes] = field(default_factory=list)
    committed: int = 0
    events: list[Event] = field(default_factory=list)
    inbox: deque[Event] = field(default_factory=deque)
    streams: dict[int, tuple["Host | Client", int]] = field(default_factory=dict)
    next_stream: int = 1
    notices: dict[str, str] = field(default_factory=dict)
    logs: list[tuple[str, str]] = field(default_factory=list)
    stopped: int | None = None
    alive: bool = True
    stores: bool = True
    read_back: Callable[[int, bytes], bytes | None] | None = None
    scripts: ScriptWorkers | None = None
    sent: list[bytes] = field(default_factory=list)  # every byte that left the enclave


class Client:
    """A client's connection to one node: TLS and HTTP in memory."""

    def __init__(self, cluster: "Cluster", host: Host, identity: Identity | None = None, issuers: Sequence[x509.Certificate] = ()) -> None:
        self.cluster = cluster
        self.host = host
        self.answers: list[Answer] = []
        self.is_closed = False
        context = TlsContext.for_dialled((identity.certificate, *issuers), identity.key) if identity else TlsContext.for_dialled()
        self.http = HttpClient(context, host.name, lambda chain: None)
        self.stream = cluster.open_stream(self, 0, host, CLIENT)

    def start(self, method: str, path: str, body: bytes = b"", **headers: str) -> None:
        """Send a request without waiting for its answer."""
        self.http.request(method, path, {name.replace("_", "-"): value for name, value in headers.items()}, body)
        self.flush()

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """Send a request and run the cluster until its answer is there."""
        count = len(self.answers)
        self.start(method, path, body, **headers)
        self.cluster.until(lambda: len(self.answers) > count or self.is_closed)
        assert len(self.answers) > count, "the session was closed without an answer"
        return self.answers[-1]

    def flush(self) -> None:
        """Hand over what waits to be sent."""
        data = self.http.take_output()
        if data:
            self.host.inbox.append(boundary.Received(self.stream, data))

    def received(self, data: bytes) -> None:
        """Bytes from the node."""
        self.answers.extend(self.http.received(data))
        self.flush()


class Cluster:
    """Hosts, time, and the wires between them."""

    def __init__(self, app: App, root: SimulatedRoot | None = None, **start: Any) -> None:
        self.app = app
        self.root = root or make_root()
        self.now = 1000.0
        self.hosts: dict[str, Host] = {}
        self.cut: Callable[[Host, Host], bool] = lambda a, b: False
        self.member = make_identity("member0")
        self.user = make_identity("user0")
        self.proposed: list[bytes] = []  # by `support.members.propose`
        self.start_options = start
        self.latency = 0.0  # of peers' bytes and of disks, seconds
        self.travelling: deque[tuple[float, Host, Event]] = deque()
        self.watchers: list[Callable[[], bool]] = []  # called in every step; each says whether it did something

    # Building.

    def configuration(self, name: str, mode: str, **more: Any) -> bytes:
        """The document that a host gives its enclave."""
        number = len(self.hosts) + 1
        document: dict[str, Any] = {
            "mode": mode,
            "node": {
                "rpc": {"host": f"{name}.rpc", "port": 8000 + number},
                "peer": {"host": f"{name}.peer", "port": 9000 + number},
                "names": ["localhost"],
                "isolation": ["test"],
                "data": None,
            },
            "limits": {"sessions": 1000, "body_bytes": 1 << 20},
            "consensus": {"heartbeat_ms": 100, "election_timeout_ms": 1000},
            "consortium": {"roots": [self.root.certificate_pem]},
        }
        document.update(more)
        return json.dumps(document).encode()

    def add(self, name: str, configuration: bytes, *, root: SimulatedRoot | None = None, **nsm: Any) -> Host:
        """Add a node with this configuration."""
        options: dict[str, Any] = {"pcrs": PCRS, **nsm}
        module = SimulatedNsm(root or self.root, **options)
        host = Host(name, Enclave(self.app, self.now), module)
        self.hosts[name] = host
        host.inbox.append(boundary.Configured(configuration))
        return host

    def start(self, nodes: int = 1, **settings: Any) -> list[Host]:
        """Start a service of `nodes` nodes and run until it is open on all of them."""
        first = self.begin(**{"open_at_nodes": nodes, **settings})
        hosts = [first]
        for number in range(1, nodes):
            hosts.append(self.join(f"n{number}"))
        self.until(lambda: all(host.notices.get("open") for host in hosts))
        return hosts

    def begin(self, **settings: Any) -> Host:
        """Start a service of one node, and run until it has begun."""
        start = {
            "members": [{"certificate": self.member.pem, "data": None}],
            "users": [{"certificate": self.user.pem, "data": None}],
            "measurements": [],
            "constitution": SANDBOX,
            "admission": "automatic",
            "open_at_nodes": 1,
            "application_policy": "open",
            "curve": "secp256r1",
            "service_subject": "CN=Test Service",
            **self.start_options,
            **settings,
        }
        first = self.add("n0", self.configuration("n0", "start", start=start))
        self.until(lambda: "service_certificate" in first.notices)
        return first

    def join(self, name: str, target: str = "n0", configuration: dict[str, Any] | None = None, **nsm: Any) -> Host:
        """Add a node that asks `target` to be admitted."""
        number = list(self.hosts).index(target) + 1
        join = {
            "target": {"host": f"{target}.rpc", "port": 8000 + number},
            "service_certificate": self.hosts[target].notices["service_certificate"],
        }
        return self.add(name, self.configuration(name, "join", join=join, **(configuration or {})), **nsm)

    # Wires.

    def open_stream(self, source: "Host | Client", source_stream: int, host: Host, kind: int) -> int:
        """Connect a stream to a node; returns its number there."""
        stream = host.next_stream
        host.next_stream += 1
        host.streams[stream] = (source, source_stream)
        host.inbox.append(boundary.Opened(stream, kind, f"{source.name if isinstance(source, Host) else 'client'}:1"))
        return stream

    def _connect(self, host: Host, connect: boundary.Connect) -> None:
        name, _, door = connect.host.partition(".")
        target = self.hosts.get(name)
        if target is None or not target.alive or self.cut(host, target):
            host.inbox.append(boundary.Closed(connect.stream))
            return
        stream = self.open_stream(host, connect.stream, target, PEER if door == "peer" else CLIENT)
        host.streams[connect.stream] = (target, stream)
        host.inbox.append(boundary.Opened(connect.stream, OUTBOUND, connect.host))

    def _carry(self, host: Host, stream: int, data: bytes) -> None:
        host.sent.append(data)
        other = host.streams.get(stream)
        if other is None:
            return
        end, far = other
        if isinstance(end, Client):
            end.received(data)
        elif end.alive and not self.cut(host, end):
            self._arrive(end, boundary.Received(far, data))

    def close_stream(self, host: Host, stream: int) -> None:
        """End a stream at both of its ends."""
        other = host.streams.pop(stream, None)
        if other is None:
            return
        end, far = other
        if isinstance(end, Client):
            end.is_closed = True
        elif far in end.streams:
            del end.streams[far]
            self._arrive(end, boundary.Closed(far))

    def _arrive(self, host: Host, event: Event) -> None:
        """Give an event to a node, at once or after the latency; in order either way."""
        if self.latency or self.travelling:
            self.travelling.append((self.now + self.latency, host, event))
        else:
            host.inbox.append(event)

    # Running.

    def kill(self, host: Host) -> None:
        """End a node at once."""
        host.alive = False
        for stream in list(host.streams):
            self.close_stream(host, stream)

    def step(self) -> bool:
        """Let every node that has something to do, do it; False if none had."""
        busy = False
        while self.travelling and self.travelling[0][0] <= self.now:
            _, host, event = self.travelling.popleft()
            host.inbox.append(event)
        for watcher in self.watchers:
            busy |= watcher()
        for host in list(self.hosts.values()):
            if not host.alive:
                continue
            if host.inbox or host.enclave.next_wakeup() <= self.now:
                busy = True
                self._wake(host)
        return busy

    def _wake(self, host: Host) -> None:
        events = list(host.inbox)
        host.inbox.clear()
        enclave = host.enclave
        enclave.tick(self.now)
        if events:
            enclave.receive(boundary.decode_events(boundary.encode_events(events)))
        self._carry_out(host)

    def _carry_out(self, host: Host) -> None:
        enclave = host.enclave
        while True:
            ready = enclave.ready()
            self._obey(host, boundary.decode_ready(boundary.encode_ready(ready)))
            jobs = enclave.jobs()
            if not jobs and not run_wanted(host, self.now):
                return
            for job in jobs:
                result: object
                try:
                    result = job.work(host.nsm)
                except Exception as error:
                    result = error
                enclave.finished(job.number, result)

    def _obey(self, host: Host, ready: Ready) -> None:
        if ready.truncate_after is not None:
            del host.entries[ready.truncate_after :]
        if ready.entries:
            assert ready.first_seqno == len(host.entries) + 1, "entries are stored in order"
            host.entries.extend(ready.entries)
            if host.stores:
                self._arrive(host, boundary.Stored(ready.generation, ready.view, len(host.entries)))
        if ready.committed is not None:
            host.committed = ready.committed
        for stream, data in (*ready.peer_bytes, *(ready.once_stored if host.stores else ()), *ready.client_bytes):
            self._carry(host, stream, data)
        for connect in ready.connects:
            self._connect(host, connect)
        for stream in ready.closes:
            self.close_stream(host, stream)
        for fetch in ready.fetches:
            host.inbox.append(boundary.Fetched(fetch.request, self._read(host, fetch)))
        host.logs.extend((level, text) for level, text in ready.logs)
        host.notices.update(dict(ready.notices))
        if ready.stop is not None:
            host.stopped = ready.stop
            self.kill(host)

    def _read(self, host: Host, fetch: boundary.Fetch) -> list[bytes]:
        found = []
        for seqno in range(fetch.first, len(host.entries) + 1):
            data: bytes | None = host.entries[seqno - 1]
            signed = seqno > fetch.through and TREE in read_public(host.entries[seqno - 1]).writes
            if host.read_back is not None:
                data = host.read_back(seqno, host.entries[seqno - 1])
            if data is None:
                break
            found.append(data)
            if signed:
                break
        return found

    def until(self, condition: Callable[[], bool], seconds: float = 30.0) -> None:
        """Run until the condition holds; fail after so many virtual seconds."""
        end = self.now + seconds
        while not condition():
            if not self.step():
                self.now += 0.005
            if self.now > end:
                tail = [f"{host.name} {level}: {text}" for host in self.hosts.values() for level, text in host.logs[-8:]]
                raise AssertionError("it did not happen in time; last words:\n" + "\n".join(tail))

    def run(self, seconds: float) -> None:
        """Let virtual time pass."""
        end = self.now + seconds
        while self.now < end:
            if not self.step():
                self.now += 0.005

    def client(self, host: Host, identity: Identity | None = None) -> Client:
        """Connect a client."""
        return Client(self, host, identity)

    def writer(self, hosts: Sequence[Host]) -> Client:
        """A client of one of these, by which a write was committed: one of them must be able to in the end."""
        for _ in range(60):
            for host in hosts:
                client = self.client(host)
                client.start("PUT", "/app/public/records/after", b"v", prefer="committed")
                self.run(0.5)
                if client.answers and client.answers[0].status == 204:
                    return client
        raise AssertionError("nothing can be written any more")
