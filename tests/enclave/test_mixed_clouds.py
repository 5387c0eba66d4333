"""A guest on AMD SEV-SNP asks a service on Nitro to be admitted: only where the members' join policy says so, and by every rule of it."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from nacl.public import PrivateKey, SealedBox

from ledgerd.apps.logging import app
from ledgerd.enclave.genesis import genesis_writes
from ledgerd.enclave.keys import CURVES
from ledgerd.enclave.outbound import Answer
from ledgerd.enclave.program import VERSION
from ledgerd.governance import tables
from ledgerd.ledger import cbor
from ledgerd.ledger.attestation import snp_policy
from ledgerd.ledger.attestation.binding import binding_digest
from ledgerd.ledger.attestation.snp_policy import report_data
from ledgerd.ledger.entry import WriteSet
from support.cluster import Cluster
from support.reports import FEED, HOST_DATA, MEASUREMENT, ForgedReport, forge_report, forge_uvm

UVM, DID = forge_uvm()
MILAN: dict[bytes, bytes | None] = {b"00a00f11": b'{"boot_loader":4,"tee":0,"snp":24,"microcode":219}'}
ACCEPTING: WriteSet = {
    tables.SNP_MEASUREMENTS: {MEASUREMENT.hex().encode(): tables.ALLOWED_TO_JOIN},
    tables.SNP_HOST_DATA: {HOST_DATA.hex().encode(): b'""'},
    tables.SNP_TCB_VERSIONS: MILAN,
}
ENDORSED: WriteSet = {
    tables.SNP_UVM_ENDORSEMENTS: {DID.encode(): tables.encode({FEED: {"svn": "22"}})},
    tables.SNP_HOST_DATA: {HOST_DATA.hex().encode(): b'""'},
    tables.SNP_TCB_VERSIONS: MILAN,
}


class Guest:
    """A node on SEV-SNP, as far as admission sees one."""

    def __init__(self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, curve: str) -> None:
        self.cluster = cluster
        self.client = cluster.client(cluster.hosts["n0"])
        self.identity = ec.generate_private_key(CURVES[curve][0])
        self.hash = CURVES[curve][1]
        self.public_key = self.identity.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.box = PrivateKey.generate()
        self.accept: Callable[[ForgedReport], None] = lambda forged: monkeypatch.setattr(snp_policy, "AMD_ARKS", forged.arks)
        serving: Any = cluster.hosts["n0"].enclave._serving
        node = serving._admission._node
        self.configuration = node.configuration.relevant(node.service.public)

    def ask(self, *, uvm: bytes | None = None, change: dict[str, Any] | None = None, **fields: Any) -> Answer:
        """Ask to join, with a report for a fresh nonce."""
        nonce = bytes.fromhex(json.loads(self.client.ask("POST", "/node/join/nonce").body)["nonce"])
        encryption_key = bytes(self.box.public_key)
        bound = report_data(self.public_key, nonce, binding_digest(self.configuration, encryption_key, VERSION))
        forged = forge_report(**{"report_data": bound, **fields})
        self.accept(forged)
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(self.identity, self.hash)
        quote_info = {
            "format": "AMD_SEV_SNP_v1",
            "quote": base64.b64encode(forged.report).decode(),
            "endorsements": base64.b64encode(forged.endorsements).decode(),
        }
        if uvm is not None:
            quote_info["uvm_endorsements"] = base64.b64encode(uvm).decode()
        body = {
            "nonce": nonce.hex(),
            "quote_info": quote_info,
            "public_encryption_key": base64.b64encode(encryption_key).decode(),
            "configuration": self.configuration,
            "program": VERSION,
            "certificate_signing_request": request.public_bytes(Encoding.PEM).decode(),
            "node_info_network": {"rpc": "guest.rpc:8000", "peer": "guest.peer:9000"},
            "node_data": None,
            "startup_seqno": 0,
            **(change or {}),
        }
        return self.client.ask("POST", "/node/join", json.dumps(body).encode())

    def refused(self, **fields: Any) -> str:
        """Ask to join, and be refused: the message."""
        answer = self.ask(**fields)
        assert answer.status == 401
        error = json.loads(answer.body)["error"]
        assert error["code"] == "InvalidQuote"
        message: str = error["message"]
        return message


@pytest.fixture
def guest_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[WriteSet], Guest]:
    """Makes a service on Nitro whose genesis has these rows, and a guest that knows it."""

    def make(rows: WriteSet, curve: str = "secp256r1") -> Guest:
        monkeypatch.setattr("ledgerd.enclave.core.genesis_writes", lambda *arguments: {**genesis_writes(*arguments), **rows})
        cluster = Cluster(app)
        cluster.start(1, curve=curve)
        return Guest(cluster, monkeypatch, curve)

    return make


@pytest.mark.parametrize(("rows", "uvm"), [(ACCEPTING, None), (ENDORSED, UVM)], ids=["by measurement", "by endorsement"])
def test_a_guest_that_the_policy_accepts_is_recorded_trusted_and_given_the_secrets(
    guest_of: Callable[[WriteSet], Guest], rows: WriteSet, uvm: bytes | None
) -> None:
    guest = guest_of(rows)
    answer = json.loads(guest.ask(uvm=uvm).body)
    assert answer["node_status"] == "Pending"
    guest.cluster.run(1)
    trusted = json.loads(guest.ask(uvm=uvm).body)
    assert (trusted["node_status"], trusted["node_id"]) == ("Trusted", answer["node_id"])
    secrets = cbor.decode(SealedBox(guest.box).decrypt(base64.b64decode(trusted["network_info"]["sealed"])))
    assert secrets["node_id"] == answer["node_id"]
    assert secrets["service_key"]
    shown = {
        item["node_id"]: item
        for item in json.loads(guest.client.ask("GET", "/node/attestations").body)["attestations"]
    }  # fmt: skip
    own = shown[answer["node_id"]]
    assert (own["format"], own["measurement"]) == ("AMD_SEV_SNP_v1", MEASUREMENT.hex())
    assert base64.b64decode(own["endorsements"]).startswith(b"-----BEGIN CERTIFICATE-----")
    assert ("uvm_endorsements" in own) == (uvm is not None)
    assert sorted(item["format"] for item in shown.values()) == ["AMD_SEV_SNP_v1", "AWS_Nitro_v1"]


def test_a_service_whose_policy_has_no_rows_for_snp_does_not_admit_guests(guest_of: Callable[[WriteSet], Guest]) -> None:
    message = guest_of({}).refused()
    assert "rule 'format'" in message
    assert "expected AWS_Nitro_v1" in message


def test_guests_that_the_policy_does_not_accept_are_refused_by_the_rule_they_break(guest_of: Callable[[WriteSet], Guest]) -> None:
    guest = guest_of(ACCEPTING)
    for fields, rule in (
        ({"policy": 0x3001F | 1 << 19}, "debug"),
        ({"measurement": b"\xb1" * 48}, "measurement"),
        ({"host_data": bytes(32)}, "host_data"),
        ({"product": "Genoa"}, "tcb"),
        ({"vmpl": 1}, "vmpl"),
        ({"report_data": bytes(64)}, "public_key"),
        ({"change": {"public_encryption_key": base64.b64encode(bytes(32)).decode()}}, "nonce"),
        ({"uvm": UVM, "measurement": b"\xb1" * 48}, "endorsement"),
        ({"change": {"configuration": {}}}, "configuration"),
        ({"change": {"nonce": "00" * 32}}, "nonce"),
    ):
        assert f"rule '{rule}'" in guest.refused(**fields)
        guest.cluster.run(1.1)  # refusals are rationed
    log = "\n".join(text for level, text in guest.cluster.hosts["n0"].logs if level == "warning")
    assert "rule 'host_data'" in log


def test_a_replayed_report_is_refused(guest_of: Callable[[WriteSet], Guest]) -> None:
    guest = guest_of(ACCEPTING)
    old = report_data(guest.public_key, bytes(32), binding_digest(guest.configuration, bytes(guest.box.public_key), VERSION))
    assert "rule 'nonce'" in guest.refused(report_data=old)


def test_without_amds_root_a_report_is_refused(guest_of: Callable[[WriteSet], Guest]) -> None:
    guest = guest_of(ACCEPTING)
    guest.accept = lambda forged: None
    assert "rule 'root'" in guest.refused()


def test_a_row_that_cannot_be_read_admits_nobody_and_says_so(guest_of: Callable[[WriteSet], Guest]) -> None:
    guest = guest_of({**ACCEPTING, tables.SNP_TCB_VERSIONS: {b"00a00f11": b"{}"}})
    answer = guest.ask()
    assert answer.status == 500
    assert "TCB version of Milan" in json.loads(answer.body)["error"]["message"]


@pytest.mark.parametrize(("curve", "another"), [("secp256r1", "secp384r1"), ("secp384r1", "secp256r1")])
def test_the_certificate_request_must_be_signed_by_its_own_key_which_is_on_the_services_curve(
    guest_of: Callable[..., Guest], curve: str, another: str
) -> None:
    guest = guest_of(ACCEPTING, curve)
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    signed = builder.sign(guest.identity, guest.hash).public_bytes(Encoding.DER)
    other = builder.sign(guest.identity, guest.hash)
    changed = x509.load_der_x509_csr(signed[:-1] + bytes((signed[-1] ^ 1,))).public_bytes(Encoding.PEM).decode()
    assert "not signed by its own key" in guest.refused(change={"certificate_signing_request": changed})
    assert guest.ask(change={"certificate_signing_request": other.public_bytes(Encoding.PEM).decode()}).status == 200
    strange = builder.sign(ec.generate_private_key(CURVES[another][0]), CURVES[another][1]).public_bytes(Encoding.PEM).decode()
    told = guest.refused(change={"certificate_signing_request": strange})
    assert f"refused by rule 'curve': its key is on {another}, this service and its nodes have their keys on {curve}" in told
    rsa_key = builder.sign(rsa.generate_private_key(65537, 2048), hashes.SHA256()).public_bytes(Encoding.PEM).decode()
    assert "rule 'curve': its key is on no elliptic curve" in guest.refused(change={"certificate_signing_request": rsa_key})
    foreign = builder.sign(ec.generate_private_key(CURVES[curve][0]), guest.hash).public_bytes(Encoding.PEM).decode()
    assert "rule 'public_key'" in guest.refused(change={"certificate_signing_request": foreign})
