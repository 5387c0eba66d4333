"""Tokens on a real node: members name an issuer, the enclave asks its HTTPS server, an application in JavaScript is called."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.command_line import run
from support.issuer_server import IssuerServer
from support.jwt import PrivateKey, jwk, key, token
from support.processes import Node, Service, wait_for

P256 = key("P-256")


@pytest.fixture
def issuer() -> Iterator[IssuerServer]:
    with IssuerServer(jwk(P256, "first")) as server:
        yield server


def service_for(folder: Path, hosts: list[str]) -> Service:
    """One node, whose operator allows these hosts to be asked, every second."""
    section = f"[jwt]\nkey_refresh_interval_s = 1\nhosts = {json.dumps(hosts)}\n"
    return Service(folder, 1, more=lambda _: section)


def propose(node: Node, *action: object) -> None:
    """Have the member propose something, by the command line and our own constitution, for which one member's word is enough here."""
    folder = node.service.folder
    member = ("--member-cert", folder / "member0_cert.pem", "--member-key", folder / "member0_privk.pem")
    ran = run("gov", "propose", *action, "--url", node.url, "--service-cert", node.service.certificate, *member)
    assert ran.status == 0, ran


def name_issuer(node: Node, issuer: IssuerServer) -> None:
    """Have the member name the issuer."""
    roots = node.service.folder / "roots.pem"
    roots.write_text(issuer.root_pem)
    propose(node, "set-ca-cert-bundle", "--name", "roots", "--cert-bundle", roots)
    propose(node, "set-jwt-issuer", "--issuer", issuer.name, "--auto-refresh", "yes", "--ca-cert-bundle-name", "roots")


def install(node: Node) -> None:
    """Have the member install an application in JavaScript that tells its caller who it is."""
    bundle = node.service.folder / "bundle"
    (bundle / "src").mkdir(parents=True)
    (bundle / "src" / "app.js").write_text("export function who(request) { return { body: request.caller.jwt.payload.sub }; }")
    properties = {"js_module": "app.js", "js_function": "who", "authn_policies": ["jwt"], "mode": "readonly"}
    endpoint = {**properties, "forwarding_required": "sometimes", "openapi": {}}
    (bundle / "app.json").write_text(json.dumps({"endpoints": {"/who": {"get": endpoint}}}))
    propose(node, "set-js-app", "--bundle", bundle)
    propose(node, "set-js-runtime-options", "--max-execution-time-ms", 10_000)  # however busy the machine is


def who(node: Node, kid: str, private: PrivateKey, issuer: IssuerServer) -> tuple[int, bytes]:
    """What the application says to the bearer of a fresh token."""
    now = int(time.time())
    text = token(private, kid, iss=issuer.name, nbf=now - 60, exp=now + 60)
    with node.session() as session:
        answer = session.ask("GET", "/app/who", authorization=f"Bearer {text}")
    return answer.status, answer.body


def read(node: Node, path: str) -> Any:
    with node.session() as session:
        return session.ask("GET", path).json()


def key_ids(node: Node) -> set[str]:
    return set(read(node, "/gov/service/jwk?api-version=2024-07-01")["keys"])


def test_tokens_count_while_their_issuers_server_publishes_the_key(tmp_path: Path, issuer: IssuerServer) -> None:
    with service_for(tmp_path, [issuer.authority]) as service:
        node = service.nodes[0]
        name_issuer(node, issuer)
        install(node)
        wait_for(lambda: key_ids(node) == {"first"}, "the issuer's key is in the table")
        assert who(node, "first", P256, issuer) == (200, b"alice")
        issuer.keys[:] = [jwk(key("RSA"), "second")]
        wait_for(lambda: key_ids(node) == {"second"}, "its new key takes the place of the old one")
        assert who(node, "first", P256, issuer)[0] == 401
        assert who(node, "second", key("RSA"), issuer) == (200, b"alice")
        shown = read(node, "/node/jwt_keys/refresh/metrics")
        assert shown["successes"] >= 2 and shown["failures"] == 0, (shown, node.log())
        assert f"keys of JWT issuer {issuer.name} were refreshed" in node.log()
        service.settle()
    audited = run("gov", "audit", node.directory / "ledger", "--service-cert", service.certificate, "-o", "json")
    assert audited.status == 0, audited
    assert audited.out.count(f"keys of token issuer {issuer.name} were fetched") == 2


def test_a_server_that_the_operator_does_not_allow_is_not_reached(tmp_path: Path, issuer: IssuerServer) -> None:
    with service_for(tmp_path, ["issuer.example"]) as service:
        node = service.nodes[0]
        name_issuer(node, issuer)
        wait_for(lambda: read(node, "/node/jwt_keys/refresh/metrics")["failures"] >= 2, "failures are counted")
        assert key_ids(node) == set()
        assert f"this node's operator does not allow {issuer.authority} to be asked; it belongs into jwt.hosts" in node.log()
