"""The curve of a service: chosen where it starts, on each of the two it lives, and no other is taken.

Not here: a joiner that asks with another curve (`test_joining`, `test_mixed_clouds`), foreign verifiers (`test_ccf_oracle`, `test_oracle`).
"""

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from ledgerd.apps.logging import app
from ledgerd.governance import tables
from ledgerd.ledger import cose
from ledgerd.ledger.audit import Auditor
from ledgerd.ledger.entry import read_public
from ledgerd.ledger.receipt import load_certificate, public_key, verify_cose, verify_json
from ledgerd.ledger.signature import parse
from support.cluster import Cluster, Host
from support.tls import identity

CURVES = [("secp256r1", -7, "sha256"), ("secp384r1", -35, "sha384")]


def refusal(cluster: Cluster, host: Host) -> str:
    cluster.until(lambda: host.stopped is not None)
    assert host.stopped == 1
    return host.notices["refused"]


@pytest.mark.parametrize(("curve", "algorithm", "digest"), CURVES)
def test_a_service_of_each_curve_starts_is_joined_and_commits(curve: str, algorithm: int, digest: str) -> None:
    """Its key, every node's key and both signatures of every round are on that curve; the joiners were told of the certificate alone."""
    cluster = Cluster(app)
    hosts = cluster.start(3, curve=curve)
    client = cluster.client(hosts[1])
    answer = client.ask("PUT", "/app/records/k", b"v", prefer="receipt")
    assert answer.status == 204
    pem = hosts[0].notices["service_certificate"]
    auditor = Auditor(pem)
    certificates = [load_certificate(pem)]
    algorithms = set()
    for entry in hosts[0].entries:
        auditor.feed(entry)
        writes = read_public(entry).writes
        certificates += [load_certificate(node) for node in writes.get(tables.NODE_ENDORSED_CERTIFICATES, {}).values() if node]
        signed = parse(writes)
        if signed is not None and signed.cose is not None:
            algorithms.add(cose.decode(signed.cose).protected[cose.HEADER_ALGORITHM])
    assert auditor.result().anchored
    assert algorithms == {algorithm}
    assert [public_key(certificate).curve.name for certificate in certificates] == [curve] * 4
    assert {certificate.signature_hash_algorithm.name for certificate in certificates if certificate.signature_hash_algorithm} == {digest}
    name = answer.headers["x-ms-ccf-transaction-id"]
    proven = verify_cose(base64.b64decode(answer.headers["x-ledgerd-receipt"]), public_key(certificates[0]))
    assert str(proven.transaction_id) == name
    cluster.until(lambda: client.ask("GET", f"/app/receipt?transaction_id={name}").status == 200)
    assert str(verify_json(client.answers[-1].body, pem).transaction_id) == name


@pytest.mark.parametrize(("curve", "algorithm", "digest"), CURVES)
def test_every_node_attests_the_curve(curve: str, algorithm: int, digest: str) -> None:
    """So a client that needs one can ask for it: `configuration={"curve": ...}` of `Client.trust`."""
    cluster = Cluster(app)
    for host in cluster.start(2, curve=curve):
        shown = json.loads(cluster.client(host).ask("GET", f"/node/attestations/self?nonce={'07' * 32}").body)
        assert shown["configuration"]["curve"] == curve


@pytest.mark.parametrize("curve", ["secp521r1", "P-256", "", None, 256])
def test_a_service_on_another_curve_does_not_start(curve: object) -> None:
    cluster = Cluster(app)
    start = {
        "members": [],
        "users": [],
        "measurements": [],
        "constitution": "",
        "admission": "vote",
        "application_policy": "open",
        "service_subject": "CN=Test",
    }
    host = cluster.add("n0", cluster.configuration("n0", "start", start={**start, "curve": curve}))
    assert "curve" in refusal(cluster, host)


def test_a_joiner_that_was_given_no_services_certificate_ends_before_it_asks() -> None:
    cluster = Cluster(app)
    wide = identity("x", key=ec.generate_private_key(ec.SECP521R1())).certificate.public_bytes(Encoding.PEM).decode()
    other = identity("x", key=ed25519.Ed25519PrivateKey.generate()).certificate.public_bytes(Encoding.PEM).decode()
    for name, pem, told in (
        ("n1", wide.replace("BEGIN C", "BEGIN D"), "join.service_certificate is not a PEM certificate"),
        ("n2", wide, "has no key on secp256r1 or secp384r1"),
        ("n3", other, "has no key on secp256r1 or secp384r1"),
    ):
        join = {"target": {"host": "n0.rpc", "port": 8001}, "service_certificate": pem}
        assert told in refusal(cluster, cluster.add(name, cluster.configuration(name, "join", join=join)))
