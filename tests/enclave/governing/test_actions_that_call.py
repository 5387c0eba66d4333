"""Actions whose constitution calls what a worker has: identities, certificates, versions of firmware, other constitutions."""

import json
from hashlib import sha256
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from ledgerd.apps.logging import app
from ledgerd.governance import requests, tables
from support.cluster import BY_VOTE, SANDBOX, Cluster, make_identity
from support.members import SIGNED_AT, send
from support.script_crypto import certificate

DAVE = make_identity("dave")


class Governed:
    """A service whose one member decides, by the sandbox's constitution."""

    def __init__(self) -> None:
        self.cluster = Cluster(app)
        self.host = self.cluster.begin()
        self._time = SIGNED_AT

    def propose(self, action: str, **arguments: Any) -> tuple[int, str]:
        """Propose one action. Status, and what was said."""
        self._time += 1
        member = self.cluster.member
        proposal = json.dumps({"actions": [{"name": action, "args": arguments}]}).encode()
        body = requests.sign(member.key, member.certificate, requests.PROPOSAL, proposal, created_at=self._time)
        answer = send(self.cluster, self.host, body)
        return answer.status, answer.body.decode()

    def row(self, table: str, key: bytes = tables.SINGLETON) -> Any:
        """A record of the state."""
        serving: Any = self.host.enclave._serving
        value = serving._replica.store.get(table, key)
        return None if value is None else tables.decode(value)


@pytest.fixture
def governed() -> Governed:
    return Governed()


def test_a_user_is_known_by_the_digest_of_the_certificate(governed: Governed) -> None:
    status, said = governed.propose("set_user", cert=DAVE.pem, user_data={"name": "dave"})
    assert status == 200, said
    user_id = sha256(DAVE.certificate.public_bytes(Encoding.DER)).hexdigest()
    assert governed.row(tables.USER_INFO, user_id.encode()) == {"user_data": {"name": "dave"}}
    for wrong in ("text", DAVE.pem[:200], DAVE.pem + DAVE.pem[:100]):
        assert governed.propose("set_user", cert=wrong)[0] == 400


def test_a_constitution_takes_the_place_of_another_if_it_is_one(governed: Governed) -> None:
    status, said = governed.propose("set_constitution", constitution="export function validate(input) {}")
    assert (status, "does not export a function named resolve" in said) == (400, True), said
    assert governed.row(tables.CONSTITUTION) == SANDBOX
    assert governed.propose("set_constitution", constitution=BY_VOTE)[0] == 200
    assert governed.row(tables.CONSTITUTION) == BY_VOTE


def test_a_bundle_of_authorities_is_certificates_and_nothing_else(governed: Governed) -> None:
    authority = certificate("authority", "authority", authority=True)
    status, said = governed.propose("set_ca_cert_bundle", name="partner", cert_bundle=authority + authority)
    assert status == 200, said
    for wrong in ("text", authority[:100], authority + "-----BEGIN CERTIFICATE-----"):
        assert governed.propose("set_ca_cert_bundle", name="partner", cert_bundle=wrong)[0] == 400


def test_a_version_of_firmware_in_hex_is_written_by_its_components(governed: Governed) -> None:
    status, said = governed.propose("set_snp_minimum_tcb_version_hex", cpuid="00a00f11", tcb_version="db18000000000004")
    assert status == 200, said
    components = {"boot_loader": 4, "tee": 0, "snp": 24, "microcode": 219}
    assert governed.row(tables.SNP_TCB_VERSIONS, b"00a00f11") == {"hexstring": "db18000000000004", **components}


def test_a_token_s_key_comes_with_a_certificate_of_its_own_or_with_a_chain(governed: Governed) -> None:
    def keys(*pems: str) -> dict[str, Any]:
        ders = ["".join(pem.splitlines()[1:-1]) for pem in pems]
        return {"issuer": "https://issuer.example", "jwks": {"keys": [{"kid": "k", "kty": "EC", "x5c": ders}]}}

    alone = certificate("issuer", "issuer")
    leaf, authority = certificate("leaf", "authority", "p256", "p384"), certificate("authority", "root", "p384", "p521", authority=True)
    for pems in ((alone,), (leaf, authority)):
        status, said = governed.propose("set_jwt_issuer", **keys(*pems))
        assert status == 200, said
    for pems in ((leaf, alone), (authority, leaf), (leaf, certificate("authority", "root", "p384", "p521"))):
        status, said = governed.propose("set_jwt_issuer", **keys(*pems))
        assert (status, "no chain up to the last" in said) == (400, True), said
