"""Who comes in and with what: certificates, handshakes, configurations, the exchange by which a node joins, what a client is told first."""

import contextlib
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import SSL

from ledgerd.apps.logging import app
from ledgerd.enclave import configuration as configurations
from ledgerd.enclave import joining
from ledgerd.enclave.admission import NONCE_SIZE_BYTES
from ledgerd.enclave.boundary import Configured, Ready
from ledgerd.enclave.channels import check_node_certificate
from ledgerd.enclave.core import Enclave
from ledgerd.enclave.endpoints import Context, Maps
from ledgerd.enclave.joining import Admitted, Joining, JoinRefusedError
from ledgerd.enclave.kms import settings
from ledgerd.enclave.outbound import Answer
from ledgerd.enclave.requests import Request
from ledgerd.enclave.sessions import Sessions
from ledgerd.enclave.tls import TlsContext
from ledgerd.governance import tables
from ledgerd.ledger.attestation.measurement import Measurement, configuration_digest
from ledgerd.ledger.attestation.policy import Policy
from ledgerd.ledger.attestation.roots import parse_roots
from ledgerd.ledger.attestation.snp_policy import policy_of
from ledgerd.ledger.errors import ConfigurationError, IntegrityError, LedgerdError, PeerError, RequestError
from ledgerd.network.client import trust
from ledgerd.network.client.values import parse_json
from ledgerd.node import config
from ledgerd.node.sections import Address
from support.cluster import PCRS, Cluster, Host
from support.fuzzing.frames import cut
from support.fuzzing.laws import Bound, BrokenLaw, Maker, Target
from support.tls import NOW, Identity, MemoryClient, identity

_JSON_TOKENS: Final = [
    b"null",
    b"true",
    b"-1",
    b"1e9",
    b"1.5",
    b'""',
    b"[]",
    b"{}",
    b'"\\ud800"',
    b'"\\u0000"',
    b"99999999999999999999",
    b'"a b"',
    b'"%"',
]
_JSON_BOMBS: Final = [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 1_000_000, b'"' + b"a" * 1_000_000 + b'"', b"[" + b"0," * 300_000 + b"0]"]
_SLOW: Final = Bound(seconds=1.2, memory_bytes=4 << 20)


# Certificates and handshakes.


def _peer_certificate() -> Target:
    """What a stranger shows at the port for peers."""
    service = identity("service", authority=True)
    nodes = [identity("node", issuer=service), identity("another", issuer=service)]
    signed = {each.certificate.tbs_certificate_bytes for each in nodes}

    def judge(data: bytes) -> bool:
        try:
            check_node_certificate(data, service.certificate, int(NOW.timestamp()))
        except IntegrityError:
            return False
        if not any(each in data for each in signed):
            raise BrokenLaw("what the service has not signed is a node's certificate")
        return True

    seeds = [each.certificate.public_bytes(Encoding.DER) for each in nodes]
    return Target("peer-certificate", seeds, judge, bound=Bound(memory_bytes=1 << 20), accepts_most=True)


def _server_context() -> TlsContext:
    own = identity("server")
    return TlsContext.for_clients([own.certificate], own.key)  # type: ignore[arg-type]


def _client_handshake() -> Target:
    """What anybody sends to the port for clients before there is a session."""
    context = _server_context()
    client = MemoryClient()
    with contextlib.suppress(SSL.WantReadError):
        client.connection.do_handshake()
    hello = client.connection.bio_read(1 << 16)
    pipelined = MemoryClient(protocols=[b"ledgerd/1"])
    with contextlib.suppress(SSL.WantReadError):
        pipelined.connection.do_handshake()

    def judge(data: bytes) -> bool:
        sessions = Sessions(context)
        sessions.opened(1)
        for part in cut(data) if len(data) % 2 else [data]:
            sessions.received(1, part)
        output, closing = sessions.take_output()
        if sessions.take_requests():
            raise BrokenLaw("a request out of a handshake")
        if sessions.active != (not closing):
            raise BrokenLaw("a session that ended is kept, or one that goes on was forgotten")
        if sum(len(said) for _, said in output) > 3 * len(data) + 5_000:
            raise BrokenLaw("more is said than was asked")
        return not closing

    return Target(
        "client-handshake", [hello, pipelined.connection.bio_read(1 << 16)], judge, bound=Bound(memory_bytes=1 << 20), accepts_most=True
    )


def _key_in(certificate: bytes) -> object:
    """Its key; None if it is written as OpenSSL alone reads it, which has seen the proof (a point's other forms)."""
    try:
        return x509.load_der_x509_certificate(certificate).public_key()
    except ValueError:
        return None


def _client_certificate() -> Target:
    """The certificate that a client proves in its handshake: any, by whomever it is signed."""
    server = _server_context()
    keys = [identity("client"), identity("another")]
    ders = [each.certificate.public_bytes(Encoding.DER) for each in keys]

    def judge(data: bytes) -> bool:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        own = next((each for each, der in zip(keys, ders, strict=True) if _spki(each) in data), keys[0])
        try:
            context.use_certificate(x509.load_der_x509_certificate(data))
            context.use_privatekey(own.key)
        except Exception:
            return False  # the client's own library does not take it
        client = MemoryClient(context=context)
        connection = server.connection()
        for _ in range(4):
            with contextlib.suppress(SSL.WantReadError, SSL.Error):
                client.connection.do_handshake()
            with contextlib.suppress(SSL.WantReadError):
                connection.feed(client.connection.bio_read(1 << 16))
            said = connection.take_output()
            if said:
                client.connection.bio_write(said)
        if not connection.established:
            return False
        shown = connection.peer_certificate
        # The same key may be written in another way than ours; then it is to be read.
        if shown is None or (_spki(own) not in shown and _key_in(shown) not in (own.key.public_key(), None)):
            raise BrokenLaw("a certificate of a key that nobody proved")
        return True

    return Target("client-certificate", ders, judge, bound=Bound(seconds=1.2, memory_bytes=1 << 20), accepts_most=True)


def _spki(who: Identity) -> bytes:
    return who.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


# Joining.


class _Recorded:
    """A service of one node, and all that it and a joiner said to each other."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bytes]] = []
        self.answers: list[tuple[str, Answer]] = []
        ask, received = Joining._ask, Joining.received
        recorded = self

        def recording(this: Joining, method: str, path: str, body: bytes, then: Any) -> None:
            recorded.asked.append((path.partition("?")[0], body))

            def taking(answer: Answer) -> None:
                recorded.answers.append((then.__name__, answer))
                recorded.nonce, recorded.server_public = this._nonce, this._server_public
                then(answer)

            ask(this, method, path, body, taking)

        joining.Joining._ask = recording  # type: ignore[method-assign, assignment]
        try:
            self.cluster = Cluster(app)
            self.first = self.cluster.start(1)[0]
            self.joiner = self.cluster.join("n1")
            self.cluster.until(lambda: self.joiner.enclave._joining is not None)
            self.joining = self.joiner.enclave._joining
            self.cluster.until(lambda: self.joiner.notices.get("open") == "yes")
        finally:
            joining.Joining._ask = ask  # type: ignore[method-assign]
            joining.Joining.received = received  # type: ignore[method-assign]
        self.nonce: bytes
        self.server_public: bytes

    def answer(self, step: str) -> Answer:
        """What the first answer at this step was; for the last step the last, which holds the secrets."""
        found = [answer for name, answer in self.answers if name == step]
        return found[-1] if step == "_answered" else found[0]


@cache
def _recorded() -> _Recorded:
    return _Recorded()


def _join_request() -> Target:
    """What a stranger posts to `/node/join`: a nonce that could be ours is taken for granted, all else is looked at."""
    recorded = _recorded()
    serving = recorded.first.enclave._serving
    assert serving is not None
    executor = serving._answering._executor
    admission = serving._admission
    admission._throttle.refused = lambda remote, now: None  # type: ignore[method-assign]
    redeem = admission._nonces.redeem

    def redeem_any(nonce: bytes, now: float) -> None:
        if len(nonce) == NONCE_SIZE_BYTES:  # it gives no others
            admission._nonces._given[nonce] = now + 1
        redeem(nonce, now)

    admission._nonces.redeem = redeem_any  # type: ignore[method-assign]
    serving.status.log = lambda level, text: None
    seeds = [body for path, body in recorded.asked if path == "/node/join"][:1]
    genuine = json.loads(seeds[0])

    def judge(data: bytes) -> bool:
        transaction = executor._store.begin()
        request = Request(None, "POST", "/node/join", "", {}, data, None, "")
        try:
            answer = admission._join(Context(request, {}, None, Maps(transaction), transaction))
        except RequestError as error:
            if error.status not in (400, 401):
                raise BrokenLaw(f"answered with {error.status}: {error}") from None
            return False
        finally:
            transaction.discard()
        told = json.loads(data)
        for name in ("configuration", "public_encryption_key"):
            if told[name] != genuine[name]:
                raise BrokenLaw(f"a {name} that was not attested is taken")
        if answer["node_id"] != recorded.joiner.notices["node_id"]:
            raise BrokenLaw("another node than the attested one is admitted")
        tables.encode(answer)
        return True

    tokens = [*_JSON_TOKENS, b'"node_data": [[[[]]]],', b'"rpc": "h:1"', b"localhost", b"\\r\\n", b"-----BEGIN CERTIFICATE REQUEST-----"]
    return Target("join-request", seeds, judge, tokens=tokens, bombs=_JSON_BOMBS, bound=_SLOW)


class _Listener:
    """Told what becomes of an attempt to join."""

    def __init__(self) -> None:
        self.admissions: list[Admitted] = []
        self.refusals: list[str] = []

    def admitted(self, admitted: Admitted) -> None:
        self.admissions.append(admitted)

    def join_refused(self, reason: str) -> None:
        self.refusals.append(reason)

    def log(self, level: str, text: str) -> None:
        pass


_STEPS: Final = ("_judge", "_document", "_answered")


def _join_answer() -> Target:
    """What the node that is asked answers to a joiner; the first byte says at which step, the second how the status differs."""
    recorded = _recorded()
    enclave = recorded.joiner.enclave
    configuration, listener = enclave._configuration, _Listener()
    assert configuration is not None and configuration.join is not None

    def no_job(work: Any, done: Any) -> None:
        pass

    fresh = Joining(
        *(configuration, configuration.join, enclave._keys, enclave._measurement, enclave._clock),
        *(listener, no_job, lambda: -1, 0.0),
    )
    service_key = enclave._serving.status.service.public if enclave._serving is not None else b""
    genuine = json.loads(recorded.answer("_judge").body)
    statuses = (200, 200, 200, 200, 308, 400, 401, 503, 204, 100)

    def judge(data: bytes) -> bool:
        step, status, body = (
            _STEPS[data[0] % 3] if data else "_judge",
            statuses[data[1] % len(statuses)] if len(data) > 1 else 200,
            data[2:],
        )
        listener.admissions.clear()
        listener.refusals.clear()
        fresh._attempts, fresh._nonce, fresh._server_public = 0, recorded.nonce, recorded.server_public
        headers = {"location": body[:200].decode("latin-1")} if status == 308 else {}
        accepted = False
        try:
            getattr(fresh, step)(Answer(status, headers, body))
            accepted = status == 200 and not listener.refusals
        except (PeerError, IntegrityError, JoinRefusedError):
            pass
        ready = Ready()
        fresh.carry_out(ready)
        for admitted in listener.admissions:
            if admitted.service.public != service_key or admitted.certificate.public_key() != enclave._keys.identity.public_key():
                raise BrokenLaw("admitted with another's keys")
        if step == "_judge" and accepted:
            told = json.loads(body)
            if (
                any(told[name] != genuine[name] for name in ("configuration", "accepts"))
                or told["genesis_digest"].lower() != genuine["genesis_digest"]
            ):
                raise BrokenLaw("what was not attested is believed")
        return accepted

    seeds = [bytes((number, 0)) + recorded.answer(step).body for number, step in enumerate(_STEPS)]
    seeds.append(bytes((2, 0)) + b'{"node_status": "Pending", "node_id": "00"}')
    tokens = [*_JSON_TOKENS, b"https://n1:8000/node/join", b"http://", b"[::1", b"https://a:99999999"]
    bombs = [bytes((number, 0)) + bomb for bomb in _JSON_BOMBS for number in range(3)]
    return Target("join-answer", seeds, judge, tokens=tokens, bombs=bombs, bound=_SLOW)


def _client_trust() -> Target:
    """What a node says of itself to a client that knows nothing but images and roots."""
    recorded = _recorded()
    cluster = recorded.cluster
    nonce = bytes(range(32))
    client = cluster.client(recorded.first)
    body = client.ask("GET", f"/node/attestations/self?nonce={nonce.hex()}").body
    presented = client.http._tls.peer_certificate
    policy = Policy(parse_roots([cluster.root.certificate_pem]), frozenset({Measurement(PCRS[0], PCRS[1], PCRS[2])}))
    statement = trust.parse_statement(parse_json(body))
    clock = recorded.first.enclave._clock
    now_ms = clock.milliseconds(cluster.now)

    def verify(data: bytes) -> trust.Trusted:
        said = trust.parse_statement(parse_json(data))
        return trust.verify_statement(said, policy, presented=presented, nonce=nonce, now_ms=now_ms, genesis=None)

    expected = verify(body)

    def judge(data: bytes) -> bool:
        try:
            found = verify(data)
        except LedgerdError:
            return False
        if (found.identity.genesis, found.configuration) != (expected.identity.genesis, expected.configuration):
            raise BrokenLaw("another service is believed")
        keys = [
            x509.load_pem_x509_certificate(pem.encode()).public_key() for pem in (found.identity.certificate, statement.service_certificate)
        ]
        if keys[0] != keys[1]:
            raise BrokenLaw("another service's key is believed")
        return True

    return Target("client-trust", [body], judge, tokens=_JSON_TOKENS, bombs=_JSON_BOMBS, bound=_SLOW)


def _join_policy() -> Target:
    """Rows of the members' join policy for SEV-SNP: keys and values, each with its length before it."""
    rows: list[tuple[bytes, bytes]] = [
        (b"00a00f11", b'{"boot_loader": 3, "tee": 0, "snp": 8, "microcode": 115}'),
        (b"00b00f21", b'{"hexstring": "db18000000000004"}'),
        (b"did:x509:0:sha256:abc::eku:1.2.3", b'{"feed": {"svn": "100"}}'),
    ]

    def pack(*values: bytes) -> bytes:
        return b"".join(len(value).to_bytes(2, "big") + value for value in values)

    def judge(data: bytes) -> bool:
        parts, at = list[bytes](), 0
        while at < len(data) and len(parts) < 6:
            size = int.from_bytes(data[at : at + 2], "big")
            parts.append(data[at + 2 : at + 2 + size])
            at += 2 + size
        parts += [b""] * (6 - len(parts))
        try:
            policy_of(
                measurements=[parts[0]], host_data=[parts[1]], uvm_endorsements=[(parts[2], parts[3])], tcb_versions=[(parts[4], parts[5])]
            )
        except ConfigurationError:
            return False
        return True

    seeds = [pack(b"ab" * 48, b"cd" * 32, *rows[2], *rows[0]), pack(b"ab" * 48, b"cd" * 32, *rows[2], *rows[1])]
    return Target("join-policy", seeds, judge, tokens=[*_JSON_TOKENS, b'"hexstring"'], accepts_most=True)


# Configurations.


def _documents(cluster: Cluster, host: Host) -> list[bytes]:
    start = {
        "members": [{"certificate": cluster.member.pem, "data": {"name": "m"}, "encryption_key": None}],
        "users": [{"certificate": cluster.user.pem, "data": None}],
        "measurements": [{"pcr0": "ab" * 48, "pcr1": "cd" * 48, "pcr2": "ef" * 48}],
        "constitution": "",
        "admission": "automatic",
        "open_at_nodes": 1,
        "application_policy": "open",
        "curve": "secp256r1",
        "service_subject": "CN=Test Service",
    }
    join = {"target": {"host": "n0.rpc", "port": 8001}, "service_certificate": host.notices["service_certificate"]}
    name = {
        "name": "ledger.example.org",
        "key": "arn:aws:kms:eu-central-1:111122223333:key/11111111-2222-3333-4444-555555555555",
        "chain": "-----BEGIN CERTIFICATE-----",
        "endpoint": {"host": "kms.relay", "port": 443},
        "credentials": {"access_key_id": "ASIAEXAMPLEEXAMPLE00", "secret_access_key": "a" * 40, "session_token": "token"},
        "roots": [cluster.root.certificate_pem],
        "sealed": "AAAA",
    }
    return [cluster.configuration("n9", "start", start=start, public_name=name), cluster.configuration("n9", "join", join=join)]


def _configuration() -> Target:
    """The document by which a host configures its enclave."""
    recorded = _recorded()

    def judge(data: bytes) -> bool:
        try:
            found = configurations.parse(data)
            relevant = found.relevant(b"service")
        except ConfigurationError:
            return False
        if found.accepted((b"a", b"b", b"c")) == () or not 0 < found.sessions_max <= 1_000_000:
            raise BrokenLaw("a bound that is none")
        configuration_digest(relevant)
        return True

    tokens = [*_JSON_TOKENS, b'"mode": "join"', b'"data": [[[[]]]]', b'"port": 0', b"Infinity"]
    return Target("configuration", _documents(recorded.cluster, recorded.first), judge, tokens=tokens, bombs=_JSON_BOMBS, bound=_SLOW)


def _configured_enclave() -> Target:
    """The same document, up to an enclave that serves or joins, or says in a notice why it does not."""
    recorded = _recorded()
    nsm = recorded.first.nsm
    nsm_of = type(nsm)

    def judge(data: bytes) -> bool:
        enclave = Enclave(app, 0.0)
        module = nsm_of(recorded.cluster.root, PCRS)
        enclave.receive([Configured(data)])
        notices: dict[str, str] = {}
        stop: int | None = None
        for _ in range(4):
            ready = enclave.ready()
            notices.update(dict(ready.notices))
            stop = ready.stop if stop is None else stop
            for job in enclave.jobs():
                result: object
                try:
                    result = job.work(module)
                except Exception as error:
                    result = error
                enclave.finished(job.number, result)
        if (stop is not None) != ("refused" in notices) or stop not in (None, 1):
            raise BrokenLaw(f"stopped with {stop}, and notices {sorted(notices)}")
        return stop is None

    return Target(
        "configured-enclave",
        _documents(recorded.cluster, recorded.first),
        judge,
        tokens=_JSON_TOKENS,
        bound=Bound(seconds=2.0, memory_bytes=8 << 20),
    )


def _public_name() -> Target:
    """Its section on a public name."""
    recorded = _recorded()
    seed = json.dumps(json.loads(_documents(recorded.cluster, recorded.first)[0])["public_name"]).encode()

    def judge(data: bytes) -> bool:
        try:
            section = json.loads(data)
        except (ValueError, RecursionError):
            return False
        if type(section) is not dict:
            return False
        try:
            settings.read(section).relevant()
        except ConfigurationError:
            return False
        return True

    return Target("public-name", [seed], judge, tokens=_JSON_TOKENS, bound=_SLOW)


_TOML: Final = b"""
[node]
directory = "n0"
app = "ledgerd.apps.logging"
names = ["localhost"]
data = { role = "first" }
[rpc]
listen = "127.0.0.1:8000"
published = "[::1]:8000"
[peer]
listen = "127.0.0.1:9000"
[limits]
clients = 1000
body_bytes = 1048576
[consensus]
heartbeat_ms = 100
[attestation]
simulator = "simulator"
roots = ["root.pem"]
[start]
admission = "automatic"
open_at_nodes = 1
[[start.members]]
certificate = "member.pem"
data = 7
[[start.measurements]]
pcr0 = "%s"
pcr1 = "%s"
pcr2 = "%s"
""" % ((b"ab" * 48,) * 3)


def _configuration_toml() -> Target:
    """An operator's file, and the document that is made of it."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-toml-"))
    for name in ("root.pem", "member.pem", "service_cert.pem"):
        (folder / name).write_text("-----BEGIN CERTIFICATE-----\n")
    path = folder / "node.toml"
    start, join = _TOML, _TOML.partition(b"[start]")[0] + b'[join]\ntarget = "n0:8000"\nservice_certificate = "service_cert.pem"\n'

    def judge(data: bytes) -> bool:
        path.write_bytes(data)
        try:
            found = config.load(path)
            document = config.enclave_document(
                found, rpc=Address("h", 1), peer=Address("h", 2), isolation=("test",), roots=found.roots, own_measurement=None
            )
        except ConfigurationError:
            return False
        json.loads(document)
        return True

    tokens = [
        b"1979-05-27",
        b"07:32:00",
        b"inf",
        b"nan",
        b'"\\u0000"',
        b'""',
        b"[[",
        b"]]",
        b"=",
        b"'''",
        b'"""',
        b"{ a = { b = 1 } }",
        b".",
        b"true",
    ]
    bombs = [b"a = " + b"[" * 50_000, b"a" + b".a" * 500 + b" = 1", b"a = " + b"{a=" * 20_000, b"x = 1" + b"0" * 10_000]
    return Target(
        "configuration-toml",
        [start, join],
        judge,
        tokens=tokens,
        bombs=bombs,
        bound=Bound(seconds=2.0, memory_bytes=4 << 20, memory_factor=600),
    )


MAKERS: Final[dict[str, Maker]] = {
    "peer-certificate": _peer_certificate,
    "client-handshake": _client_handshake,
    "client-certificate": _client_certificate,
    "join-request": _join_request,
    "join-answer": _join_answer,
    "client-trust": _client_trust,
    "join-policy": _join_policy,
    "configuration": _configuration,
    "configured-enclave": _configured_enclave,
    "public-name": _public_name,
    "configuration-toml": _configuration_toml,
}
