"""An enclave that calls KMS, a host that relays, and a simulated KMS behind TLS, all in memory and without waiting.

The server's TLS and HTTP are pyOpenSSL and a few lines here, so that the client is not judged by its own code.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

from ledgerd.enclave.boundary import Ready
from ledgerd.enclave.clock import AttestedClock
from ledgerd.enclave.kms.calls import Call
from ledgerd.enclave.kms.client import Endpoint, KmsClient
from ledgerd.enclave.kms.sigv4 import Credentials
from ledgerd.enclave.kms.trust import parse_server_roots
from ledgerd.enclave.nsm import Nsm
from ledgerd.node.kms_policy import key_policy
from ledgerd.node.simulator.key_policy import KeyPolicy
from ledgerd.node.simulator.kms import Answer, Caller, SimulatedKms
from ledgerd.node.simulator.kms_server import ServerIdentity, make_identity
from ledgerd.node.simulator.nsm import SimulatedNsm
from ledgerd.node.simulator.pki import make_root

PCRS: Final = {0: b"\xa0" * 48, 1: b"\xa1" * 48, 2: b"\xa2" * 48}
ROLE: Final = "arn:aws:iam::111122223333:role/ledgerd-node"
ADMIN: Final = "arn:aws:iam::111122223333:role/keys"
SERVER_NAME: Final = "kms.eu-central-1.amazonaws.com"
BEGIN_S: Final = 1_790_000_000.0
BEGIN: Final = datetime.fromtimestamp(BEGIN_S, UTC)
ROOT: Final = make_root(BEGIN)
SERVER: Final = make_identity(SERVER_NAME, now=BEGIN)
IAM: Final = KeyPolicy(
    {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "kms:GenerateRandom", "Resource": "*"}}, of_key=False
)
CALLER: Final = Caller("ASIAEXAMPLEEXAMPLE00", "a secret that nobody shows".replace(" ", "/"), "token/of/a/session", ROLE, IAM)
CREDENTIALS: Final = Credentials(CALLER.access_key_id, CALLER.secret_access_key, CALLER.session_token)


NAME: Final = "ledger.example.org"
AUTHORITY: Final = ec.generate_private_key(ec.SECP256R1())
_AUTHORITY_NAME: Final = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a public authority")])


def certify(
    key: ec.EllipticCurvePublicKey,
    names: tuple[str, ...] = (NAME,),
    days: int = 90,
    begins: datetime = BEGIN,
    *,
    authority: ec.EllipticCurvePrivateKey = AUTHORITY,
    is_authority: bool = True,
    more: Sequence[x509.ExtensionType] = (),
) -> str:
    """What a public authority would send for a key: its certificate, and the authority's own.

    Args:
        authority: Whose key the second certificate is of; the first is signed by `AUTHORITY`'s.
        is_authority: The second says that it may issue certificates.
        more: Extensions of the first.
    """
    alternative = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
    begins, ends = begins - timedelta(days=1), begins + timedelta(days=days)
    leaf = x509.CertificateBuilder(_AUTHORITY_NAME, x509.Name([]), key, 1, begins, ends).add_extension(alternative, critical=True)
    for extension in more:
        leaf = leaf.add_extension(extension, critical=False)
    root = x509.CertificateBuilder(_AUTHORITY_NAME, _AUTHORITY_NAME, authority.public_key(), 2, begins, ends)
    root = root.add_extension(x509.BasicConstraints(is_authority, None), critical=True)
    return "".join(item.sign(AUTHORITY, hashes.SHA256()).public_bytes(Encoding.PEM).decode() for item in (leaf, root))


class Clock:
    """Seconds since 1970, set by the test."""

    def __init__(self, now_s: float) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


class ServerEnd:
    """A server of TLS in memory: plaintext in, plaintext out."""

    def __init__(self, identity: ServerIdentity) -> None:
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.use_certificate(x509.load_pem_x509_certificate(identity.certificate_pem))
        key = load_pem_private_key(identity.key_pem, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        context.use_privatekey(key)
        self.connection = SSL.Connection(context, None)
        self.connection.set_accept_state()
        self.established = False
        self.asked = b""

    def feed(self, data: bytes) -> None:
        """Take the client's bytes; `asked` grows."""
        self.connection.bio_write(data)
        try:
            if not self.established:
                self.connection.do_handshake()
                self.established = True
            while True:
                self.asked += self.connection.recv(1 << 16)
        except SSL.WantReadError:
            pass

    def say(self, data: bytes) -> None:
        """Encrypt for the client."""
        view = memoryview(data)
        while view:
            view = view[self.connection.send(view) :]

    def take_output(self) -> bytes:
        """Bytes for the client."""
        try:
            return self.connection.bio_read(1 << 20)
        except SSL.WantReadError:
            return b""


def encode_answer(answer: Answer) -> bytes:
    """As HTTP."""
    return b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%s" % (answer.status, len(answer.body), answer.body)


Reply = Callable[[Mapping[str, str], bytes], bytes | None]
"""Headers and body of a request to the bytes that answer it; None to say nothing."""


class Rig:
    """One enclave and its way to KMS.

    Attributes:
        connects: What the host was asked to connect to.
        unreachable: Connections that fail before one succeeds.
        reply: Who answers; the simulator, unless a test puts something else there.
        server_name: What the last client asked for by SNI.
    """

    def __init__(
        self,
        *,
        pcrs: Mapping[int, bytes] = PCRS,
        debug: bool = False,
        kms: SimulatedKms | None = None,
        server: ServerIdentity = SERVER,
        primitive: bool = False,
        credentials: Credentials = CREDENTIALS,
    ) -> None:
        self.wall = Clock(BEGIN_S) if kms is None else _clock_of(kms)
        self.kms = kms or SimulatedKms([ROOT.certificate_pem], [CALLER], clock=self.wall, primitive=primitive)
        self.server_identity = server
        self.nsm: Nsm = SimulatedNsm(ROOT, pcrs, debug=debug, clock=self.wall)
        self.now = 100.0
        self.clock = AttestedClock()
        self.clock.set(int(self.wall.now_s * 1000), self.now)
        self.reply: Reply = self.simulated
        self.connects: list[tuple[str, int]] = []
        self.unreachable = 0
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.server_name = b""
        self._last_stream = 0
        self._stream: int | None = None
        self._server: ServerEnd | None = None
        self.results: list[Any] = []
        endpoint = Endpoint(SERVER_NAME, "kms.relay", 8443, "eu-central-1")
        self.client = KmsClient(
            endpoint, parse_server_roots([SERVER.root_pem]), credentials, self.clock, self._submit, self._next_stream, self.now
        )

    def key(self, policy: Mapping[str, Any] | None = None) -> str:
        """Make a key; by default with the policy that `ledgerd kms policy` prints for the right image."""
        return self.kms.create_key(policy or key_policy([PCRS], [ROLE], [ADMIN]))

    def ask(self, call: Call) -> Any:
        """Make a call, and run until it has ended."""
        before = len(self.results)
        self.client.ask(call, self.results.append)
        return self.run(before)

    def run(self, before: int) -> Any:
        """Run until there is another result than `before`."""
        for _ in range(200):
            if len(self.results) > before:
                return self.results[before]
            self.step()
        raise AssertionError("the call never ends")

    def step(self) -> None:
        """Do what the host would; let time pass when there is nothing else to do."""
        ready = Ready()
        self.client.carry_out(ready)
        busy = False
        for stream, host, port in ready.connects:
            busy = True
            self.connects.append((host, port))
            self._stream = stream
            if self.unreachable:
                self.unreachable -= 1
                self.client.closed()
                self._stream = None
                return
            self._server = ServerEnd(self.server_identity)
            self.client.opened()
        for stream, data in ready.peer_bytes:
            busy = True
            if stream == self._stream and self._server is not None:
                self._serve(data)
        for stream in ready.closes:
            if stream == self._stream:
                self._stream = self._server = None
        if (not busy and self._stream is not None and not self._flush()) or (not busy and self._stream is None):
            self.pass_time()

    def pass_time(self) -> None:
        """Go to the client's next deadline."""
        wakeup = self.client.next_wakeup()
        if wakeup == float("inf"):
            return
        self.wall.now_s += max(0.0, wakeup - self.now)
        self.now = max(self.now, wakeup)
        self.client.tick(self.now)

    def simulated(self, headers: Mapping[str, str], body: bytes) -> bytes:
        """The simulator's answer."""
        return encode_answer(self.kms.request("POST", "/", headers, body))

    def _serve(self, data: bytes) -> None:
        server = self._server
        assert server is not None
        server.feed(data)
        self.server_name = server.connection.get_servername() or b""
        head, mark, body = server.asked.partition(b"\r\n\r\n")
        if mark:
            lines = head.decode().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines[1:])
            if len(body) >= int(headers["content-length"]):
                server.asked = b""
                assert lines[0] == "POST / HTTP/1.1"
                self.requests.append((headers, body))
                answer = self.reply(headers, body)
                if answer is not None:
                    server.say(answer)
        self._flush()

    def _flush(self) -> bool:
        output = self._server.take_output() if self._server is not None else b""
        if output:
            self.client.received(output)
        return bool(output)

    def _submit(self, work: Callable[[Nsm], object], done: Callable[[Any], None]) -> None:
        try:
            result = work(self.nsm)
        except Exception as error:
            done(error)
        else:
            done(result)

    def _next_stream(self) -> int:
        self._last_stream -= 1
        return self._last_stream


def _clock_of(kms: SimulatedKms) -> Clock:
    clock = kms._clock
    assert isinstance(clock, Clock)
    return clock
