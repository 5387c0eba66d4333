"""Keys of token issuers on real nodes: the enclave asks a real HTTPS server through its host."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ledgerd.governance import requests, tables
from support.issuer_server import IssuerServer
from support.jwt import CONSTITUTION, jwk, key
from support.processes import Node, Service, wait_for

P256 = key("P-256")


@pytest.fixture
def issuer() -> Iterator[IssuerServer]:
    with IssuerServer(jwk(P256, "first")) as server:
        yield server


def service_for(folder: Path, hosts: list[str]) -> Service:
    """One node, whose operator allows these hosts to be asked, every second."""
    (folder / "tokens.js").write_text(CONSTITUTION)
    section = f"[jwt]\nkey_refresh_interval_s = 1\nhosts = {json.dumps(hosts)}\n"
    return Service(folder, 1, constitution="tokens.js", more=lambda _: section)


def name_issuer(node: Node, issuer: IssuerServer) -> None:
    """Have the member name the issuer."""
    folder = node.service.folder
    member = load_pem_private_key((folder / "member0_privk.pem").read_bytes(), None)
    assert isinstance(member, EllipticCurvePrivateKey)
    certificate = x509.load_pem_x509_certificate((folder / "member0_cert.pem").read_bytes())
    wanted = {tables.CA_CERT_BUNDLES: ("roots", issuer.root_pem), tables.JWT_ISSUERS: (issuer.name, RECORD)}
    rows = [{"name": "row", "args": {"table": table, "key": name, "value": value}} for table, (name, value) in wanted.items()]
    body = requests.sign(member, certificate, requests.PROPOSAL, json.dumps({"actions": rows}).encode(), created_at=int(time.time()))
    with node.session() as session:
        answer = session.ask("POST", "/gov/members/proposals:create?api-version=2024-07-01", body, content_type=requests.CONTENT_TYPE)
    assert answer.status == 200, answer.body


RECORD = {"auto_refresh": True, "ca_cert_bundle_name": "roots"}


def read(node: Node, path: str) -> Any:
    with node.session() as session:
        return session.ask("GET", path).json()


def key_ids(node: Node) -> set[str]:
    return set(read(node, "/gov/service/jwk?api-version=2024-07-01")["keys"])


def test_an_issuers_keys_come_from_its_server_and_follow_it(tmp_path: Path, issuer: IssuerServer) -> None:
    with service_for(tmp_path, [issuer.authority]) as service:
        node = service.nodes[0]
        name_issuer(node, issuer)
        wait_for(lambda: key_ids(node) == {"first"}, "the issuer's key is in the table")
        issuer.keys[:] = [jwk(key("RSA"), "second")]
        wait_for(lambda: key_ids(node) == {"second"}, "its new key takes the place of the old one")
        shown = read(node, "/node/jwt_keys/refresh/metrics")
        assert shown["successes"] >= 2 and shown["failures"] == 0, (shown, node.log())
        assert f"keys of JWT issuer {issuer.name} were refreshed" in node.log()


def test_a_server_that_the_operator_does_not_allow_is_not_reached(tmp_path: Path, issuer: IssuerServer) -> None:
    with service_for(tmp_path, ["issuer.example"]) as service:
        node = service.nodes[0]
        name_issuer(node, issuer)
        wait_for(lambda: read(node, "/node/jwt_keys/refresh/metrics")["failures"] >= 2, "failures are counted")
        assert key_ids(node) == set()
        assert f"this node's operator does not allow {issuer.authority} to be asked; it belongs into jwt.hosts" in node.log()
