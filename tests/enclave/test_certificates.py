"""Renewed certificates: every node shows what the ledger has, on old keys, and gives it up with an entry that is undone."""

import json
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ledgerd.apps.logging import app
from ledgerd.enclave.certificates import ShownCertificates
from ledgerd.enclave.keys import NodeKeys, create_service_key, create_service_keys
from ledgerd.enclave.kv import Store
from ledgerd.enclave.outbound import Answer, HttpClient
from ledgerd.enclave.tls import TlsContext
from ledgerd.governance import requests, tables
from ledgerd.ledger.audit import Auditor
from ledgerd.ledger.entry import WriteSet
from ledgerd.ledger.errors import ConfigurationError
from ledgerd.ledger.subject import parse_subject
from support.cluster import Client, Cluster, Host
from support.members import SIGNED_AT, send
from support.tls import NOW


def propose(cluster: Cluster, name: str, at: int = SIGNED_AT, **arguments: Any) -> Answer:
    payload = json.dumps({"actions": [{"name": name, "args": arguments}]}).encode()
    body = requests.sign(cluster.member.key, cluster.member.certificate, requests.PROPOSAL, payload, created_at=at)
    return send(cluster, cluster.hosts["n0"], body)


def shown(cluster: Cluster, host: Host) -> list[x509.Certificate]:
    """What a node shows a new client."""
    seen: list[bytes] = []

    class Watching(Client):
        def __init__(self) -> None:
            super().__init__(cluster, host)
            self.http = HttpClient(TlsContext.for_dialled(), host.name, seen.extend)

    assert Watching().ask("GET", "/node/version").status == 200
    return [x509.load_der_x509_certificate(der) for der in seen]


def days(certificate: x509.Certificate) -> int:
    return (certificate.not_valid_after_utc - certificate.not_valid_before_utc + timedelta(seconds=1)).days


def test_nodes_show_renewed_certificates_on_their_old_keys_and_go_on() -> None:
    cluster = Cluster(app)
    hosts = cluster.start(3)
    cluster.run(0.3)
    before = {host.name: shown(cluster, host)[0] for host in hosts}
    pinned = hosts[0].notices["service_certificate"]
    assert propose(cluster, "set_all_nodes_certificate_validity", validity_period_days=30).status == 200
    assert propose(cluster, "set_service_certificate_validity", at=SIGNED_AT + 1, validity_period_days=60).status == 200
    cluster.run(0.3)
    for host in hosts:
        node, service = shown(cluster, host)
        assert (days(node), days(service)) == (30, 60)
        assert node.public_key() == before[host.name].public_key()
        node.verify_directly_issued_by(x509.load_pem_x509_certificate(pinned.encode()))
        assert host.notices["service_certificate"] == service.public_bytes(Encoding.PEM).decode() != pinned
    late = cluster.join("n3")  # is given the new one
    cluster.until(lambda: late.notices.get("open") == "yes")
    cluster.kill(hosts[0])  # and channels to a new primary are opened with it
    cluster.run(3.0)
    assert cluster.client(hosts[1]).ask("PUT", "/app/records/k", b"v", prefer="committed").status == 204
    auditor = Auditor(pinned)
    for data in hosts[1].entries:
        auditor.feed(data)
    assert auditor.result().last_transaction_id.view > 2


@pytest.mark.parametrize("arguments", [{"valid_from": "20200101000000Z", "validity_period_days": 30}, {"validity_period_days": 100_000}])
def test_a_renewal_that_would_cut_the_service_off_is_refused(arguments: dict[str, Any]) -> None:
    cluster = Cluster(app)
    (host,) = cluster.start(1)
    answer = propose(cluster, "set_service_certificate_validity", **arguments)
    assert answer.status in (400, 500), answer.body
    assert days(shown(cluster, host)[1]) == 365


class Node:
    def __init__(self) -> None:
        self.keys = NodeKeys("secp256r1")
        self.service = create_service_keys(create_service_key("secp256r1"), NOW, parse_subject("CN=Test"))
        self.request = self.keys.certificate_request(("localhost",))
        self.logs: list[str] = []
        self.shown = ShownCertificates(
            self.keys, self.service.endorse(self.request, NOW), self.service, lambda _, text: self.logs.append(text)
        )
        self.store = Store()

    def record(self, node: str, service: str) -> bool:
        rows: WriteSet = {
            tables.NODE_ENDORSED_CERTIFICATES: {self.keys.id.encode(): node.encode()},
            tables.SERVICE_INFO: {tables.SINGLETON: tables.encode({"cert": service})},
        }
        self.store.apply(self.store.version + 1, rows)
        return self.shown.learn(self.store)


def test_the_ledger_before_a_nodes_own_time_changes_nothing() -> None:
    node = Node()
    assert not node.shown.learn(node.store)
    assert not node.record(node.shown.node_pem, node.service.certificate_pem)
    assert node.logs == []


def test_a_renewal_that_is_undone_is_given_up() -> None:
    node = Node()
    first = node.shown.node
    node.record(node.shown.node_pem, node.service.certificate_pem)
    renewed = node.service.endorse(node.request, NOW, 30).public_bytes(Encoding.PEM).decode()
    assert node.record(renewed, node.service.certificate_pem)
    assert node.shown.node != first
    node.store.rollback(1)
    assert node.shown.learn(node.store)
    assert node.shown.node == first


def test_a_service_is_called_as_its_first_node_says_and_stays_so_when_renewed() -> None:
    cluster = Cluster(app)
    hosts = cluster.start(2, service_subject="CN=Ledger of Four Banks,O=Example")
    assert propose(cluster, "set_service_certificate_validity", validity_period_days=60).status == 200
    cluster.run(0.3)
    for host in hosts:
        node, service = shown(cluster, host)
        assert service.subject.rfc4514_string() == node.issuer.rfc4514_string() == "CN=Ledger of Four Banks,O=Example"


@pytest.mark.parametrize(
    "text", ["", "Ledger", "O=Example", "CN=" + "x" * 65, "C=Utopia,CN=x", "CN=x," + "O=y," * 80 + "O=y", "CN=x,", "\0"]
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"is no name; give one like 'CN=Our Ledger,O=Example'"):
        parse_subject(text)


def test_what_is_not_of_the_own_keys_is_not_shown() -> None:
    node, other = Node(), Node()
    before = node.shown.chain
    for of_node, of_service in (
        (other.shown.node_pem, node.service.certificate_pem),
        (node.shown.node_pem, other.service.certificate_pem),
        ("", node.service.certificate_pem),
        (node.shown.node_pem, "garbage"),
    ):
        assert not node.record(of_node, of_service)
        assert "certificates of before are shown" in node.logs[-1]
        assert node.shown.chain == before
