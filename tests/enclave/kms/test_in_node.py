"""A node with a public name: it seals, restarts as another node of the service, opens, and serves; and what its host cannot choose."""

from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from ledgerd.apps.logging import app
from ledgerd.enclave import boundary
from ledgerd.enclave.boundary import CLIENT, OUTBOUND
from ledgerd.enclave.kms.amazon_roots import AMAZON_ROOTS, FINGERPRINTS
from ledgerd.governance import tables
from ledgerd.ledger.entry import read_public
from ledgerd.node.kms_policy import key_policy
from ledgerd.node.simulator.kms import Answer, SimulatedKms
from ledgerd.node.simulator.kms_server import make_identity
from support.cluster import PCRS, Client, Cluster, Host
from support.kms import CALLER, NAME, ROLE, SERVER_NAME, ServerEnd, certify, encode_answer
from support.tls import MemoryClient

CREDENTIALS = {"access_key_id": CALLER.access_key_id, "secret_access_key": CALLER.secret_access_key, "session_token": CALLER.session_token}


class KmsCluster(Cluster):
    """A cluster in whose network KMS is, too."""

    def __init__(self) -> None:
        super().__init__(app)
        self.kms = SimulatedKms([self.root.certificate_pem], [CALLER])
        self.identity = make_identity(SERVER_NAME)
        self.arn = self.kms.create_key(key_policy([PCRS], [ROLE]))
        self.servers: dict[tuple[str, int], ServerEnd] = {}

    def settings(self, **change: Any) -> dict[str, Any]:
        settings = {
            "name": NAME,
            "key": self.arn,
            "roots": [self.identity.root_pem],
            "endpoint": {"host": "kms.relay", "port": 443},
            "credentials": CREDENTIALS,
            "sealed": None,
            "chain": "",
        }
        return {"public_name": {**settings, **change}}

    def configuration(self, name: str, mode: str, **more: Any) -> bytes:
        return super().configuration(name, mode, **{**self.settings(), **more})

    def _connect(self, host: Host, connect: boundary.Connect) -> None:
        if connect.host != "kms.relay":
            super()._connect(host, connect)
            return
        self.servers[host.name, connect.stream] = ServerEnd(self.identity)
        host.inbox.append(boundary.Opened(connect.stream, OUTBOUND, connect.host))

    def _carry(self, host: Host, stream: int, data: bytes) -> None:
        server = self.servers.get((host.name, stream))
        if server is None:
            super()._carry(host, stream, data)
            return
        server.feed(data)
        head, mark, body = server.asked.partition(b"\r\n\r\n")
        if mark:
            headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
            if len(body) >= int(headers["content-length"]):
                server.asked = b""
                server.say(encode_answer(Answer(*self.kms.request("POST", "/", headers, body))))
        if output := server.take_output():
            host.inbox.append(boundary.Received(stream, output))


def shown(cluster: KmsCluster, host: Host, name: str) -> x509.Certificate | None:
    """The certificate that a browser sees."""
    client = MemoryClient(server_name=name)

    class End(Client):
        def __init__(self) -> None:
            self.is_closed = False

        def received(self, data: bytes) -> None:
            client.receive(data)
            if more := client.take_output():
                host.inbox.append(boundary.Received(stream, more))

    stream = cluster.open_stream(End(), 0, host, CLIENT)
    host.inbox.append(boundary.Received(stream, client.take_output()))
    cluster.until(lambda: client.established)
    return client.connection.get_peer_certificate(as_cryptography=True)


def logs(host: Host) -> str:
    return "\n".join(text for _, text in host.logs)


def settled(cluster: KmsCluster, host: Host) -> None:
    cluster.until(lambda: NAME in logs(host))


def test_a_public_name_survives_a_restart() -> None:
    cluster = KmsCluster()
    first, _ = cluster.start(2)
    settled(cluster, first)
    assert {"public_name_sealed", "public_name_request"} <= first.notices.keys()
    second = cluster.join("n2")
    settled(cluster, second)
    requested = x509.load_pem_x509_csr(second.notices["public_name_request"].encode()).public_key()
    assert isinstance(requested, EllipticCurvePublicKey)
    cluster.kill(second)
    chain = certify(requested, begins=x509.load_pem_x509_certificate(cluster.identity.certificate_pem).not_valid_before_utc)
    kept = cluster.settings(sealed=second.notices["public_name_sealed"], chain=chain)
    third = cluster.join("n3", configuration=kept)
    cluster.until(lambda: f"serves the public name {NAME}" in logs(third))
    named, other = shown(cluster, third, NAME), shown(cluster, third, "localhost")
    assert named is not None and other is not None
    assert named.public_key() == requested
    service = x509.load_pem_x509_certificate(first.notices["service_certificate"].encode())
    other.verify_directly_issued_by(service)


def test_members_see_name_and_key_in_the_genesis() -> None:
    cluster = KmsCluster()
    (first,) = cluster.start(1)
    written = read_public(first.entries[0]).writes[tables.SETTINGS][tables.SINGLETON]
    assert written is not None
    recorded = tables.decode(written)
    assert recorded["public_name"] == {"name": NAME, "key": cluster.arn}


@pytest.mark.parametrize("field", ["key", "name", "all"])
def test_a_host_cannot_choose_another_key_or_name(field: str) -> None:
    """A key of its own would give it the data key, too: such a node is not admitted."""
    cluster = KmsCluster()
    cluster.start(1)
    own = {
        "key": cluster.settings(key=cluster.kms.create_key(key_policy([PCRS], [ROLE]))),
        "name": cluster.settings(name="other.example.org"),
        "all": {"public_name": None},
    }[field]
    joiner = cluster.join("n1", configuration=own)
    cluster.until(lambda: joiner.stopped is not None)
    assert "rule 'configuration'" in joiner.notices["refused"]
    assert "public_name" in joiner.notices["refused"]


def test_a_service_starts_and_joins_without_kms() -> None:
    cluster = KmsCluster()
    cluster.start(1)
    joiner = cluster.join("n1", configuration=cluster.settings(credentials=None))
    settled(cluster, joiner)
    assert "no credentials" in logs(joiner)
    cluster.until(lambda: joiner.notices.get("open") is not None)


def test_an_image_that_the_key_s_policy_does_not_name_runs_without_its_public_name() -> None:
    cluster = KmsCluster()
    cluster.kms.put_key_policy(cluster.arn, key_policy([{**PCRS, 2: b"\x01" * 48}], [ROLE]))
    (first,) = cluster.start(1)
    settled(cluster, first)
    assert "AccessDeniedException" in logs(first)
    assert first.notices["open"]


def test_roots_of_the_host_s_choice_count_in_simulated_enclaves_only() -> None:
    cluster = KmsCluster()
    (first,) = cluster.start(1)
    enclave = first.enclave
    enclave._simulated = False
    settings = enclave._configuration.public_name if enclave._configuration else None
    serving = enclave._serving
    assert settings is not None and settings.roots and serving is not None
    enclave._kms = None
    enclave._begin_public_name(settings, None)  # type: ignore[arg-type]  # refused before the service is looked at
    assert enclave._kms is None
    assert "public_name.roots are for simulated enclaves" in enclave.ready().logs[-1][1]


def test_amazon_s_roots_are_those_that_it_publishes() -> None:
    assert tuple(root.fingerprint(hashes.SHA256()).hex() for root in AMAZON_ROOTS) == FINGERPRINTS
