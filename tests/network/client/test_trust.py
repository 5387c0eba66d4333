"""First trust: what a node says of itself is believed only if an attested enclave says it, to us, now, on this connection."""

import base64
import hashlib
import json
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ledgerd.enclave.nsm import attestation, measure_configuration
from ledgerd.ledger import cbor
from ledgerd.ledger.attestation.errors import AttestationError
from ledgerd.ledger.attestation.measurement import configuration_digest
from ledgerd.ledger.errors import ConfigurationError, FormatError, IntegrityError
from ledgerd.network.client import AsyncClient, Client, RetryBudgetExhausted, ServiceIdentityMismatch
from ledgerd.node.simulator.nsm import SimulatedNsm
from ledgerd.node.simulator.pki import SimulatedRoot, make_root
from support.fake_service import FakeAnswer, FakeRequest, FakeService
from support.ledgers import Node, Service

GENESIS = hashlib.sha256(b"the first entry").digest()
PCRS = {index: bytes([index + 1]) * 48 for index in range(3)}
OTHER = ["ab" * 48, "cd" * 48, "ef" * 48]
MEASUREMENT = {f"pcr{index}": value.hex() for index, value in PCRS.items()}


def spki(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def fingerprint(root: SimulatedRoot) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(root.certificate_pem)).hexdigest()


class Attesting:
    """A service whose nodes attest; each attribute is a lie waiting to be told."""

    def __init__(self, service: FakeService, root: SimulatedRoot) -> None:
        self.root = root
        self.service_certificate = service.ledger.certificate
        self.attested_service_key = spki(service.ledger.key.public_key())
        self.node_key = spki(service.ledger.node.key.public_key())
        self.genesis = GENESIS
        self.shown_genesis = GENESIS.hex()
        self.nonce: bytes | None = None
        self.configuration: object = {
            "roots": [fingerprint(root)],
            "service": hashlib.sha256(self.attested_service_key).hexdigest(),
            "heartbeat_ms": 100,
        }
        self.accepts: list[list[str]] = [list(MEASUREMENT.values())]
        self.shown_accepts: object = ...  # as attested
        self.settings: dict[str, object] = {"admission": "automatic", "open_at_nodes": 3}
        self.shown_settings: object = ...  # as attested
        self.measure(self.configuration)
        for node in service.nodes:
            node.behaviour = self.answer

    def measure(self, configuration: object) -> None:
        """Boot anew, with this configuration in PCR16; None for an enclave that never learned one."""
        self.nsm = SimulatedNsm(self.root, PCRS)
        if configuration is not None:
            measure_configuration(self.nsm, configuration_digest(configuration))

    def answer(self, request: FakeRequest) -> FakeAnswer | None:
        parts = urlsplit(request.path)
        if parts.path != "/node/attestations/self":
            return None
        nonce = bytes.fromhex(parts.query.partition("nonce=")[2])
        bound = cbor.encode(
            {"service_key": self.attested_service_key, "genesis": self.genesis, "accepts": self.accepts, "settings": self.settings}
        )
        document = attestation(self.nsm, user_data=hashlib.sha384(bound).digest(), nonce=self.nonce or nonce, public_key=self.node_key)
        body = {
            "raw": base64.b64encode(document).decode(),
            "service_certificate": self.service_certificate,
            "genesis_digest": self.shown_genesis,
            "configuration": self.configuration,
            "accepts": self.accepts if self.shown_accepts is ... else self.shown_accepts,
            "settings": self.settings if self.shown_settings is ... else self.shown_settings,
        }
        return FakeAnswer(200, {"content-type": "application/json"}, json.dumps(body).encode())


@pytest.fixture(scope="module")
def root() -> SimulatedRoot:
    return make_root()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[FakeService]:
    with FakeService(tmp_path, nodes=1) as service:
        yield service


@pytest.fixture
def attesting(service: FakeService, root: SimulatedRoot) -> Attesting:
    return Attesting(service, root)


def test_an_attested_service_is_pinned(service: FakeService, attesting: Attesting, root: SimulatedRoot) -> None:
    with Client.trust(service.urls, roots=[root.certificate_pem], measurements=[MEASUREMENT], genesis=GENESIS.hex()) as client:
        assert client.identity.certificate == service.ledger.certificate
        assert client.identity.genesis == GENESIS.hex()
        assert client.attestation is not None
        assert client.attestation.attestation.simulated
        assert client.submit("PUT", "/app/records/1", "value").committed


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_attested_service_is_pinned_by_tasks(service: FakeService, attesting: Attesting, root: SimulatedRoot, backend: str) -> None:
    async def main() -> bool:
        client = await AsyncClient.trust(service.urls, roots=[root.certificate_pem], measurements=[MEASUREMENT])
        async with client:
            return (await client.submit("PUT", "/app/records/1", "value")).committed

    assert anyio.run(main, backend=backend)


def wrong_genesis(attesting: Attesting) -> None:
    attesting.genesis = bytes(32)


def wrong_service_key(attesting: Attesting) -> None:
    attesting.attested_service_key = spki(Service().key.public_key())


def stale_nonce(attesting: Attesting) -> None:
    attesting.nonce = bytes(32)


def another_image_is_hidden(attesting: Attesting) -> None:
    attesting.shown_accepts, attesting.accepts = attesting.accepts, [*attesting.accepts, OTHER]


def another_image_is_added(attesting: Attesting) -> None:
    attesting.shown_accepts = [*attesting.accepts, OTHER]


def no_configuration(attesting: Attesting) -> None:
    attesting.measure(None)


def another_configuration(attesting: Attesting) -> None:
    attesting.measure({"roots": []})


@pytest.mark.parametrize(
    ("lie", "rule"),
    [
        (wrong_genesis, "user_data"),
        (wrong_service_key, "user_data"),
        (stale_nonce, "nonce"),
        (another_image_is_hidden, "user_data"),
        (another_image_is_added, "user_data"),
        (no_configuration, "configuration"),
        (another_configuration, "configuration"),
    ],
)
def test_a_lie_is_refused_by_its_rule(
    service: FakeService, attesting: Attesting, root: SimulatedRoot, lie: Callable[[Attesting], None], rule: str
) -> None:
    lie(attesting)
    with pytest.raises(AttestationError) as caught:
        Client.trust(service.urls, roots=[root.certificate_pem], measurements=[MEASUREMENT])
    assert caught.value.rule == rule


def test_a_foreign_root_and_an_unwanted_image_are_refused(service: FakeService, attesting: Attesting, root: SimulatedRoot) -> None:
    with pytest.raises(AttestationError) as caught:
        Client.trust(service.urls, measurements=[MEASUREMENT])  # AWS's root only
    assert caught.value.rule == "root"
    with pytest.raises(AttestationError) as caught:
        Client.trust(service.urls, roots=[root.certificate_pem], measurements=[{**MEASUREMENT, "pcr0": "ab" * 48}])
    assert caught.value.rule == "measurement"


def test_another_services_genesis_is_refused_though_its_enclave_is_genuine(
    service: FakeService, attesting: Attesting, root: SimulatedRoot
) -> None:
    with pytest.raises(ServiceIdentityMismatch, match="began with"):
        Client.trust(service.urls, roots=[root.certificate_pem], measurements=[MEASUREMENT], genesis="ab" * 32)


def test_a_relayed_statement_is_refused_on_a_connection_that_ends_elsewhere(
    tmp_path: Path, attesting: Attesting, root: SimulatedRoot
) -> None:
    """Somebody in the middle shows us a genuine node's genuine document, made for our nonce."""
    folder = tmp_path / "middle"
    folder.mkdir()
    with FakeService(folder, nodes=1) as middle:
        middle.nodes[0].behaviour = attesting.answer
        with pytest.raises(ServiceIdentityMismatch, match="does not end in the attested enclave"):
            Client.trust(middle.urls, roots=[root.certificate_pem], measurements=[MEASUREMENT])


def test_a_node_that_the_attested_service_did_not_endorse_is_refused(tmp_path: Path, root: SimulatedRoot) -> None:
    ledger = Service()
    ledger.node = Node(Service().key)
    with FakeService(tmp_path, nodes=1, ledger=ledger) as service:
        Attesting(service, root)
        with pytest.raises(ServiceIdentityMismatch, match="not endorsed"):
            Client.trust(service.urls, roots=[root.certificate_pem], measurements=[MEASUREMENT])


def test_a_certificate_of_another_service_is_refused_though_attested_elsewhere(
    service: FakeService, attesting: Attesting, root: SimulatedRoot
) -> None:
    attesting.service_certificate = Service().certificate
    with pytest.raises(IntegrityError):
        Client.trust(service.urls, roots=[root.certificate_pem], measurements=[MEASUREMENT])


@pytest.mark.parametrize("shown", ["", "zz", "ab" * 31])
def test_a_statement_of_another_shape_is_refused(service: FakeService, attesting: Attesting, root: SimulatedRoot, shown: str) -> None:
    attesting.shown_genesis = shown
    with pytest.raises(FormatError):
        Client.trust(service.urls, roots=[root.certificate_pem], measurements=[MEASUREMENT])


@pytest.mark.parametrize("told", [None, [], "x", {"heartbeat_ms": 0.1}])
def test_a_configuration_of_another_shape_is_refused(service: FakeService, attesting: Attesting, root: SimulatedRoot, told: object) -> None:
    attesting.configuration = told
    with pytest.raises(FormatError):
        Client.trust(service.urls, roots=[root.certificate_pem], measurements=[MEASUREMENT])


def test_the_attested_configuration_is_shown_and_compared_with_what_the_caller_knows(
    service: FakeService, attesting: Attesting, root: SimulatedRoot
) -> None:
    with Client.trust(
        service.urls, roots=[root.certificate_pem], measurements=[MEASUREMENT], configuration={"heartbeat_ms": 100}
    ) as client:
        assert client.attestation is not None
        assert client.attestation.configuration == attesting.configuration
    with pytest.raises(ServiceIdentityMismatch, match="other values than expected for heartbeat_ms"):
        Client.trust(service.urls, roots=[root.certificate_pem], measurements=[MEASUREMENT], configuration={"heartbeat_ms": 50})


def test_an_enclave_configured_for_another_service_is_refused(service: FakeService, attesting: Attesting, root: SimulatedRoot) -> None:
    attesting.configuration = {"service": "ab" * 32}
    attesting.measure(attesting.configuration)
    with pytest.raises(ServiceIdentityMismatch, match="service"):
        Client.trust(service.urls, roots=[root.certificate_pem], measurements=[MEASUREMENT])


def test_an_enclave_that_believes_a_root_that_the_caller_does_not_is_refused_unless_each_is_stated(
    service: FakeService, attesting: Attesting, root: SimulatedRoot
) -> None:
    """The genuine image, told to believe the attacker's root too, takes the service's key from the attacker's fake primary."""
    attacker = make_root()
    both = sorted([fingerprint(root), fingerprint(attacker)])
    attesting.configuration = {"roots": both, "service": hashlib.sha256(attesting.attested_service_key).hexdigest()}
    attesting.measure(attesting.configuration)
    with pytest.raises(ServiceIdentityMismatch, match=f"do not accept, by SHA-256 of their DER: {fingerprint(attacker)};"):
        Client.trust(service.urls, roots=[root.certificate_pem], measurements=[MEASUREMENT])
    Client.trust(service.urls, roots=[root.certificate_pem, attacker.certificate_pem], measurements=[MEASUREMENT]).close()
    stated = {"roots": both}
    Client.trust(service.urls, roots=[root.certificate_pem], measurements=[MEASUREMENT], configuration=stated).close()


@pytest.mark.parametrize("roots", [None, [], "ab", [7]])
def test_an_enclave_that_does_not_say_which_roots_it_believes_is_refused(
    service: FakeService, attesting: Attesting, root: SimulatedRoot, roots: object
) -> None:
    attesting.configuration = {"roots": roots, "service": hashlib.sha256(attesting.attested_service_key).hexdigest()}
    attesting.measure(attesting.configuration)
    with pytest.raises(ServiceIdentityMismatch, match="does not say which attestation roots"):
        Client.trust(service.urls, roots=[root.certificate_pem], measurements=[MEASUREMENT])


def test_an_enclave_that_was_told_to_accept_another_image_is_refused_unless_the_caller_accepts_it(
    service: FakeService, attesting: Attesting, root: SimulatedRoot
) -> None:
    attesting.accepts = [*attesting.accepts, OTHER]
    with pytest.raises(ServiceIdentityMismatch, match=f"images that you do not: PCR0 {OTHER[0]}, PCR1 {OTHER[1]}, PCR2 {OTHER[2]};"):
        Client.trust(service.urls, roots=[root.certificate_pem], measurements=[MEASUREMENT])
    other = (OTHER[0], OTHER[1], OTHER[2])
    Client.trust(service.urls, roots=[root.certificate_pem], measurements=[MEASUREMENT, other]).close()


@pytest.mark.parametrize("shown", [None, [], "x", [OTHER[:2]], [["ab", "cd", "ef"]], [OTHER, OTHER], [[1, 2, 3]]])
def test_a_statement_without_accepted_images_is_refused(
    service: FakeService, attesting: Attesting, root: SimulatedRoot, shown: object
) -> None:
    attesting.shown_accepts = shown
    with pytest.raises(FormatError, match="accepts"):
        Client.trust(service.urls, roots=[root.certificate_pem], measurements=[MEASUREMENT])


def test_what_the_service_is_set_to_is_attested_and_told(service: FakeService, attesting: Attesting, root: SimulatedRoot) -> None:
    with Client.trust(service.urls, roots=[root.certificate_pem], measurements=[MEASUREMENT]) as client:
        assert client.attestation is not None
        assert client.attestation.settings == {"admission": "automatic", "open_at_nodes": 3}
    attesting.shown_settings = {"admission": "vote", "open_at_nodes": 3}
    with pytest.raises(AttestationError) as refusal:
        Client.trust(service.urls, roots=[root.certificate_pem], measurements=[MEASUREMENT])
    assert refusal.value.rule == "user_data"


@pytest.mark.parametrize("shown", [None, [], "automatic", {"admission": 0.5}])
def test_a_statement_without_settings_is_refused(service: FakeService, attesting: Attesting, root: SimulatedRoot, shown: object) -> None:
    attesting.shown_settings = shown
    with pytest.raises(FormatError, match="settings"):
        Client.trust(service.urls, roots=[root.certificate_pem], measurements=[MEASUREMENT])


def test_nobody_is_trusted_without_a_measurement(service: FakeService) -> None:
    with pytest.raises(ConfigurationError):
        Client.trust(service.urls, measurements=[])


def test_a_silent_service_is_no_reason_to_believe_anything(service: FakeService, root: SimulatedRoot) -> None:
    service.nodes[0].stop()
    with pytest.raises(RetryBudgetExhausted):
        Client.trust(service.urls, roots=[root.certificate_pem], measurements=[MEASUREMENT])
