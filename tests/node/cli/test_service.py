"""Commands that talk to a service: fake nodes, real receipts, simulated attestation."""

import base64
import hashlib
import json
import ssl
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ledgerd.enclave.nsm import attestation, measure_configuration
from ledgerd.ledger import cbor, entry, signature
from ledgerd.ledger.attestation.measurement import configuration_digest
from ledgerd.ledger.receipt import Leaf, build_cose, build_json
from ledgerd.node.cli.status import COLUMNS, FIELDS
from ledgerd.node.simulator.nsm import SimulatedNsm
from ledgerd.node.simulator.pki import SimulatedRoot, make_root
from support import tls
from support.command_line import Ledgerd
from support.fake_service import FakeAnswer, FakeRequest, FakeService, error
from support.ledgers import Service
from support.vectors import vectors

PCRS = {index: bytes([index + 1]) * 48 for index in range(3)}


@pytest.fixture(scope="module")
def ledger() -> Service:
    ledger = Service()
    ledger.genesis()
    ledger.write({"records": {b"1": b"value"}})
    ledger.sign()
    return ledger


@pytest.fixture
def service(tmp_path: Path, ledger: Service) -> Iterator[FakeService]:
    with FakeService(tmp_path, nodes=2, ledger=ledger) as service:
        yield service


def receipts(ledger: Service, seqno: int) -> tuple[bytes, bytes]:
    signed = ledger.signatures[-1]
    record = signature.parse(entry.read_public(ledger.entries[signed - 1]).writes)
    assert record is not None
    assert record.raw is not None
    assert record.cose is not None
    data = ledger.entries[seqno - 1]
    leaf = Leaf(hashlib.sha256(data).digest(), ledger.sealer.commit_evidence(ledger.view, seqno), bytes(32))
    path = ledger.span(signed).path(seqno)
    return build_cose(record.cose, leaf, path), json.dumps(build_json(record.raw, leaf, path)).encode()


def test_submit_says_what_became_of_it(ledgerd: Ledgerd, service: FakeService, options: list[object]) -> None:
    ran = ledgerd("tx", "submit", "put", "/app/records/1", "--data", "hello", *options)
    assert ran.status == 0
    assert ran.fields == {"transaction_id": "2.3", "status": "Committed", "http_status": "204"}
    request = service.nodes[0].requests[-1]
    assert (request.method, request.body, request.headers["content-type"]) == ("PUT", b"hello", "text/plain")


def test_submit_takes_a_body_from_a_file_and_guesses_json(
    ledgerd: Ledgerd, service: FakeService, options: list[object], tmp_path: Path
) -> None:
    body = tmp_path / "body"
    body.write_bytes(b'{"a": 1}')
    assert ledgerd("tx", "submit", "POST", "/app/x", "--data-file", body, "--no-wait", *options).fields["status"] == "Pending"
    request = service.nodes[0].requests[-1]
    assert (request.body, request.headers["content-type"]) == (b'{"a": 1}', "application/json")
    assert "prefer" not in request.headers
    assert ledgerd("tx", "submit", "POST", "/app/x", "--data-file", body, "--data", "x", *options).status == 2


def test_a_refusal_is_a_failure_with_the_services_words(ledgerd: Ledgerd, service: FakeService, options: list[object]) -> None:
    service.nodes[0].behaviour = lambda request: error(403, "Forbidden", "not for you") if request.method == "PUT" else None
    ran = ledgerd("tx", "submit", "PUT", "/app/records/1", *options)
    assert (ran.status, ran.out) == (1, "")
    assert "not for you" in ran.err


def test_the_environment_of_dev_names_the_service(ledgerd: Ledgerd, service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = service.certificate_file.parent
    (folder / "common").mkdir()
    (folder / "common" / "service_cert.pem").write_text(service.ledger.certificate)
    monkeypatch.setenv("LEDGERD_URLS", ",".join(service.urls))
    monkeypatch.setenv("LEDGERD_DIR", str(folder))
    assert ledgerd("tx", "status", "2.2").fields == {"transaction_id": "2.2", "status": "Committed"}

    monkeypatch.delenv("LEDGERD_URLS")
    assert ledgerd("tx", "status", "2.2").status == 2
    (folder / "node0").mkdir()
    (folder / "node0" / "rpc_address").write_text(service.urls[0].removeprefix("https://"))
    assert ledgerd("tx", "status", "2.2").status == 0, "the folder of `ledgerd dev` alone is enough"


def test_waiting_in_vain_says_for_what(ledgerd: Ledgerd, service: FakeService, options: list[object]) -> None:
    service.pending = 1000
    ran = ledgerd("tx", "status", "2.2", "--wait", *options, "--timeout", 3.0)
    assert ran.status == 1
    assert "2.2 was not committed in" in ran.err and "Pending still" in ran.err


def test_what_is_no_transaction_has_no_status(ledgerd: Ledgerd, service: FakeService, options: list[object]) -> None:
    service.reads["/app/api"] = FakeAnswer(200, {}, b"{}")
    ran = ledgerd("tx", "submit", "GET", "/app/api", *options, "-o", "json")
    assert (ran.status, ran.json["status"], ran.json["transaction_id"]) == (0, None, None)


def test_a_file_that_is_no_certificate_is_misuse_not_a_receipt_that_fails(ledgerd: Ledgerd, service: FakeService, ledger: Service) -> None:
    folder = service.certificate_file.parent
    (folder / "receipt").write_bytes(receipts(ledger, 3)[0])
    (folder / "text").write_text("no certificate")
    ran = ledgerd("receipt", "verify", folder / "receipt", "--service-cert", folder / "text")
    assert ran.status == 2
    assert "is no service certificate" in ran.err
    assert "LEDGERD_SERVICE_CERT" in ledgerd("receipt", "verify", folder / "receipt").err


@pytest.mark.parametrize("data", [b"", b"-----BEGIN CERTIFICATE-----", b"{}"])
def test_a_file_that_is_no_receipt_is_named(ledgerd: Ledgerd, service: FakeService, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "other").write_bytes(data)
    ran = ledgerd("receipt", "verify", tmp_path / "other", "--service-cert", service.certificate_file)
    assert (ran.status, ran.out) == (1, "")
    assert f"{tmp_path}/other is no receipt, or a broken one" in ran.err


def test_an_invalid_transaction_is_a_failure(ledgerd: Ledgerd, service: FakeService, options: list[object]) -> None:
    answer = FakeAnswer(200, {}, b'{"transaction_id": "2.9", "status": "Invalid"}')
    service.nodes[0].behaviour = lambda request: answer
    assert ledgerd("tx", "status", "2.9", *options).status == 1
    assert ledgerd("tx", "status", "2.9", "--wait", *options).status == 1


@pytest.mark.parametrize(
    ("status", "words"),
    [("Unknown", "knows no such transaction"), ("Pending", "--wait` waits"), ("Invalid", "Submit it again"), ("Committed", "ask again")],
)
def test_without_a_receipt_the_next_step_is_said(
    ledgerd: Ledgerd, service: FakeService, options: list[object], tmp_path: Path, status: str, words: str
) -> None:
    def answer(request: FakeRequest) -> FakeAnswer:
        if request.path.startswith("/node/receipt"):
            return FakeAnswer(404, {}, b'{"error": {"code": "TransactionNotFound", "message": "none"}}')
        return FakeAnswer(200, {}, json.dumps({"transaction_id": "2.99", "status": status}).encode())

    service.nodes[0].behaviour = answer
    ran = ledgerd("receipt", "get", "2.99", "--timeout", 3.0, "--out", tmp_path / "none", *options)
    assert ran.status == 1
    assert words in ran.err
    assert not (tmp_path / "none").exists()
    ran = ledgerd("receipt", "get", "2.99", "--timeout", 3.0, "--out", tmp_path / "none", *options, "-o", "json")
    assert ran.json["error"]["code"] == "NoReceipt"


@pytest.mark.parametrize("form", ["cose", "json"])
def test_a_receipt_is_fetched_and_verifies_offline_and_each_change_fails(
    ledgerd: Ledgerd, service: FakeService, options: list[object], ledger: Service, tmp_path: Path, form: str
) -> None:
    data = receipts(ledger, 3)[form == "json"]
    service.nodes[0].behaviour = lambda request: FakeAnswer(200, {}, data)
    file = tmp_path / "receipt"
    assert ledgerd("receipt", "get", "2.3", "--form", form, "--out", file, *options).fields["verified"] == "yes"
    verify = ["receipt", "verify", file, "--service-cert", service.certificate_file]
    ran = ledgerd(*verify, "-o", "json")
    assert (ran.status, ran.json["verified"], ran.json["transaction_id"], ran.json["form"]) == (0, True, "2.3", form)
    assert ledgerd(*verify, "--transaction-id", "2.3").status == 0
    assert ledgerd(*verify, "--transaction-id", "2.4").status == 1
    assert ledgerd(*verify, "--claims", file).status == 1
    assert ledgerd(*verify, "--claims-digest", "00" * 32).status == 0
    assert ledgerd(*verify, "--claims-digest", "00").status == 2
    changed = bytearray(data)
    changed[len(data) // 2] ^= 1
    file.write_bytes(changed)
    assert ledgerd(*verify).status == 1


def test_a_receipt_of_another_service_fails(ledgerd: Ledgerd, ledger: Service, tmp_path: Path) -> None:
    (tmp_path / "receipt").write_bytes(receipts(ledger, 3)[0])
    (tmp_path / "other.pem").write_text(Service().certificate)
    ran = ledgerd("receipt", "verify", tmp_path / "receipt", "--service-cert", tmp_path / "other.pem", "-o", "json")
    assert (ran.status, ran.json["schema"]) == (1, "ledgerd.error.v1")


class Attesting:
    def __init__(self, service: FakeService, root: SimulatedRoot, pcrs: dict[int, bytes], *foreign: str) -> None:
        self.nsm = SimulatedNsm(root, pcrs)
        self.ledger = service.ledger
        key = self.ledger.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        roots = [hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest() for pem in (root.certificate_pem, *foreign)]
        self.configuration = {"roots": sorted(roots), "service": hashlib.sha256(key).hexdigest(), "heartbeat_ms": 100}
        self.accepts = [[value.hex() for value in pcrs.values()]]
        measure_configuration(self.nsm, configuration_digest(self.configuration))
        self.settings: dict[str, object] = {"admission": "vote", "open_at_nodes": None}
        self.nonce: bytes | None = None  # in place of the one that is asked for
        service.nodes[0].behaviour = self.answer

    def answer(self, request: FakeRequest) -> FakeAnswer | None:
        path, _, nonce = request.path.partition("?nonce=")
        if path != "/node/attestations/self":
            return None
        keys = [
            key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            for key in (self.ledger.key, self.ledger.node.key)
        ]
        said = {"service_key": keys[0], "genesis": bytes(32), "accepts": self.accepts, "settings": self.settings}
        bound = hashlib.sha384(cbor.encode(said)).digest()
        document = attestation(self.nsm, user_data=bound, nonce=self.nonce or bytes.fromhex(nonce), public_key=keys[1])
        body = {
            "raw": base64.b64encode(document).decode(),
            "service_certificate": self.ledger.certificate,
            "genesis_digest": "00" * 32,
            "configuration": self.configuration,
            "accepts": self.accepts,
            "settings": self.settings,
        }
        return FakeAnswer(200, {}, json.dumps(body).encode())


def test_attestation_is_verified_for_our_nonce_and_its_certificate_kept(ledgerd: Ledgerd, service: FakeService, tmp_path: Path) -> None:
    root = make_root()
    Attesting(service, root, PCRS)
    (tmp_path / "root.pem").write_text(root.certificate_pem)
    measurements = tmp_path / "measurements.json"
    measurements.write_text(json.dumps({"Measurements": {f"PCR{i}": value.hex() for i, value in PCRS.items()} | {"HashAlgorithm": "x"}}))
    verify = ["attestation", "verify", "--url", service.urls[0], "--root", tmp_path / "root.pem", "--measurements", measurements]
    ran = ledgerd(*verify, "--save", tmp_path / "kept.pem", "-o", "json")
    assert (ran.status, ran.json["valid"], ran.json["simulated"]) == (0, True, True)
    assert ran.json["configuration"]["heartbeat_ms"] == 100
    assert "SIMULATED" in ran.err
    assert (tmp_path / "kept.pem").read_text() == service.ledger.certificate
    assert ledgerd(*verify, "--genesis", "00" * 32).status == 0
    assert ledgerd(*verify, "--genesis", "11" * 32).status == 1
    aws = ledgerd("attestation", "verify", "--url", service.urls[0], "--measurements", measurements, "-o", "json")
    assert (aws.status, aws.json["valid"], aws.json["error"]["code"]) == (1, False, "root")
    measurements.write_text(json.dumps([{"pcr0": "aa" * 48, "pcr1": "aa" * 48, "pcr2": "aa" * 48}]))
    ran = ledgerd(*verify, "--save", tmp_path / "not_kept.pem")
    assert (ran.status, ran.fields["rule"]) == (1, "measurement")
    assert not (tmp_path / "not_kept.pem").exists()


def test_a_node_is_named_by_its_address_alone_with_an_image_or_without(ledgerd: Ledgerd, service: FakeService, tmp_path: Path) -> None:
    root = make_root()
    attesting = Attesting(service, root, PCRS)
    (tmp_path / "root.pem").write_text(root.certificate_pem)
    verify = ["attestation", "verify", service.urls[0], "--root", tmp_path / "root.pem", "-o", "json"]
    image = [part for i, value in PCRS.items() for part in ("--pcr", f"{i}={value.hex()}")]
    ran = ledgerd(*verify, *image, "--save", tmp_path / "kept.pem")
    assert (ran.status, ran.json["valid"], (tmp_path / "kept.pem").exists()) == (0, True, True)
    assert ledgerd(*verify, *image, "--pcr", f"4={'11' * 48}").json["error"]["code"] == "measurement"
    ran = ledgerd(*verify, *image[:4])
    assert (ran.status, ran.json["valid"], "Only a part of an image was compared" in ran.err) == (0, True, True)
    assert ledgerd(*verify, "--save", tmp_path / "x").status == 2
    ran = ledgerd(*verify)
    assert (ran.status, ran.json["valid"]) == (0, True)
    assert "No image was compared" in ran.err
    attesting.nonce = bytes(32)
    assert (ledgerd(*verify).status, ledgerd(*verify).json["error"]["code"]) == (1, "nonce")


def test_a_person_is_told_how_nodes_are_admitted_and_whose_key_seals_the_public_name(
    ledgerd: Ledgerd, service: FakeService, tmp_path: Path
) -> None:
    root = make_root()
    attesting = Attesting(service, root, PCRS)
    (tmp_path / "root.pem").write_text(root.certificate_pem)
    image = [part for i, value in PCRS.items() for part in ("--pcr", f"{i}={value.hex()}")]
    verify = ["attestation", "verify", service.urls[0], "--root", tmp_path / "root.pem", *image]
    ran = ledgerd(*verify)
    assert ran.fields["admission"] == "vote"
    assert ran.fields["public_name"] == "none"
    key = "arn:aws:kms:eu-central-1:111122223333:key/11111111-2222-3333-4444-555555555555"
    attesting.settings |= {"admission": "automatic", "public_name": {"name": "ledger.example.org", "key": key}}
    ran = ledgerd(*verify)
    assert ran.fields["admission"].startswith("automatic: whoever runs an accepted image")
    assert ran.fields["public_name"] == f"ledger.example.org, sealed under {key}"
    assert "the members agreed on that key" in ran.err
    assert ledgerd(*verify, "-o", "json").json["settings"]["public_name"]["key"] == key


def test_a_node_that_was_told_to_believe_more_than_we_do_is_refused(ledgerd: Ledgerd, service: FakeService, tmp_path: Path) -> None:
    root, foreign = make_root(), make_root()
    (tmp_path / "root.pem").write_text(root.certificate_pem)
    image = [part for i, value in PCRS.items() for part in ("--pcr", f"{i}={value.hex()}")]
    verify = ["attestation", "verify", service.urls[0], "--root", tmp_path / "root.pem", "-o", "json", *image]
    Attesting(service, root, PCRS, foreign.certificate_pem)
    ran = ledgerd(*verify, "--save", tmp_path / "kept.pem")
    assert (ran.status, ran.json["error"]["code"], (tmp_path / "kept.pem").exists()) == (1, "ServiceIdentityMismatch", False)
    assert "roots that you do not accept" in ran.json["error"]["message"]
    attesting = Attesting(service, root, PCRS)
    assert ledgerd(*verify).status == 0
    attesting.accepts.append(["ff" * 48] * 3)
    ran = ledgerd(*verify)
    assert (ran.status, ran.json["error"]["code"]) == (1, "ServiceIdentityMismatch")
    assert "images that you do not" in ran.json["error"]["message"]


def test_a_document_may_be_anywhere(ledgerd: Ledgerd, service: FakeService, tmp_path: Path) -> None:
    root = make_root()
    Attesting(service, root, PCRS)
    (tmp_path / "root.pem").write_text(root.certificate_pem)
    where = f"{service.urls[0]}/node/attestations/self?nonce={'07' * 32}"
    verify = ["attestation", "verify", where, "--root", tmp_path / "root.pem", "-o", "json"]
    assert ledgerd(*verify, "--nonce", "07" * 32).status == 0
    assert ledgerd(*verify, "--nonce", "08" * 32).json["error"]["code"] == "nonce"
    ran = ledgerd("attestation", "verify", f"{service.urls[0]}/nothing", "-o", "json")
    assert (ran.status, ran.json["error"]["code"]) == (1, "Unanswered")


@pytest.mark.parametrize(
    "encode", [lambda data: data, base64.encodebytes, lambda data: json.dumps({"raw": base64.b64encode(data).decode()}).encode()]
)
def test_a_stored_document_is_shown_and_judged(ledgerd: Ledgerd, tmp_path: Path, encode: object) -> None:
    root = make_root()
    (tmp_path / "root.pem").write_text(root.certificate_pem)
    document = attestation(SimulatedNsm(root, PCRS), user_data=b"user data", nonce=None, public_key=None)
    file = tmp_path / "document"
    file.write_bytes(encode(document))  # type: ignore[operator]
    shown = ledgerd("attestation", "show", file, "-o", "json").json
    assert (shown["verified"], shown["user_data"], shown["pcrs"]["1"]) == (False, b"user data".hex(), PCRS[1].hex())
    pcrs = [part for i, value in PCRS.items() for part in ("--pcr", f"{i}={value.hex()}")]
    assert ledgerd("attestation", "verify", file, "--root", tmp_path / "root.pem", *pcrs).status == 0
    assert ledgerd("attestation", "verify", file, *pcrs).status == 1
    assert ledgerd("attestation", "verify", file, "--root", tmp_path / "root.pem", *pcrs[:4]).status == 0
    assert ledgerd("attestation", "verify", file, "--root", tmp_path / "root.pem", *pcrs, "--save", tmp_path / "x").status == 2


def test_documents_of_aws_are_shown(ledgerd: Ledgerd) -> None:
    manifest = json.loads(vectors("nitro", "manifest.json").read_text())
    assert manifest
    files = sorted(vectors("nitro").glob("genuine-*.bin"))
    assert files
    for file in files:
        assert ledgerd("attestation", "show", file).fields["instance"].startswith("i-")


def test_what_is_no_document_is_a_failure(ledgerd: Ledgerd, tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"junk!")
    assert ledgerd("attestation", "show", tmp_path / "junk").status == 1


def status_answers(
    service: FakeService,
    number: int,
    service_status: str,
    primary: str | None = "0" * 64,
    certificates: Mapping[str, str] | None = None,
    issuers: Mapping[str, object] | None = None,
) -> None:
    """Args: certificates: Of the service, under "", and of its nodes, by their names; issuers: As the node's metrics have them."""
    told = certificates or {}
    shown = [{"nodeId": name, "status": "Trusted", "certificate": pem} for name, pem in told.items() if name]

    def behaviour(request: FakeRequest) -> FakeAnswer | None:
        documents: dict[str, object] = {
            "/node/state": {"node_id": f"{number}" * 64, "state": "PartOfNetwork", "last_signed_seqno": 2},
            "/node/network": {
                "service_status": service_status,
                "current_view": 2,
                "primary_id": primary,
                "service_certificate": told.get(""),
            },
            "/gov/service/nodes?api-version=2024-07-01": {"value": shown},
            "/node/jwt_keys/refresh/metrics": {"issuers": dict(issuers or {})},
            "/node/network/nodes": {
                "nodes": [
                    {
                        "node_id": f"{other}" * 64,
                        "status": "Trusted",
                        "rpc_interfaces": {"rpc": {"published_address": f"127.0.0.1:{node.port}"}},
                    }
                    for other, node in enumerate(service.nodes)
                ]
            },
        }
        document = documents.get(request.path)
        return None if document is None else FakeAnswer(200, {}, json.dumps(document).encode())

    service.nodes[number].behaviour = behaviour


def test_status_asks_every_node_it_hears_of(ledgerd: Ledgerd, service: FakeService, options: list[object]) -> None:
    for number in range(2):
        status_answers(service, number, "Open")
    ran = ledgerd("status", *options, "-o", "json")
    assert (ran.status, ran.json["service_status"]) == (0, "Open")
    assert [(item["role"], item["committed"]) for item in ran.json["items"]] == [("primary", "2.2"), ("backup", "2.2")]
    assert all({*COLUMNS, *FIELDS} == set(item) for item in ran.json["items"]), "every item has every field"
    assert ran.json["service_certificate_until"] is None, "whose nodes told of no certificate"


def test_status_tells_of_certificates_that_end_soon(ledgerd: Ledgerd, service: FakeService, options: list[object]) -> None:
    def ending(days: int) -> str:
        return tls.identity("it", ends=timedelta(days=days)).certificate.public_bytes(Encoding.PEM).decode()

    certificates = {"": ending(20), "0" * 64: ending(300), "1" * 64: ending(5)}
    for number in range(2):
        status_answers(service, number, "Open", certificates=certificates)
    ran = ledgerd("status", *options, "-o", "json")
    assert ran.status == 0, "it serves as it did"
    assert [item["certificate_until"] for item in ran.json["items"]] == [said(certificates[name * 64]) for name in "01"]
    assert ran.json["service_certificate_until"] == said(certificates[""])
    ran = ledgerd("status", *options)
    assert "ledgerd gov propose set-service-certificate-validity" in ran.err
    assert f"ledgerd gov propose set-node-certificate-validity --node-id {'1' * 64}" in ran.err
    assert "0" * 16 not in ran.err


def test_status_tells_of_token_issuers_that_the_primary_cannot_reach(ledgerd: Ledgerd, service: FakeService, options: list[object]) -> None:
    issuers = {
        "https://good.example": {"last_success_at_s": 1, "failures_in_a_row": 0, "last_failure": "long ago"},
        "https://bad.example": {"last_success_at_s": None, "failures_in_a_row": 3, "last_failure": "no connection"},
    }
    status_answers(service, 0, "Open", issuers=issuers)
    status_answers(service, 1, "Open", issuers={"https://of.a.backup": issuers["https://bad.example"]})
    ran = ledgerd("status", *options, "-o", "json")
    assert (ran.status, ran.json["token_issuers_failing"]) == (0, {"https://bad.example": "no connection"})
    ran = ledgerd("status", *options)
    assert "keys of JWT issuer https://bad.example are not refreshed, and those that were there count: no connection" in ran.err
    assert "good.example" not in ran.err
    assert "of.a.backup" not in ran.err


def said(pem: str) -> str:
    return f"{x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"


def test_status_names_a_node_that_does_not_answer_as_the_others_do(ledgerd: Ledgerd, service: FakeService, options: list[object]) -> None:
    status_answers(service, 0, "Open")
    service.nodes[1].stop()
    ran = ledgerd("status", *options, "-o", "json", "--timeout", 3.0)
    assert [(item["node_id"], item["state"]) for item in ran.json["items"]] == [("0" * 64, "PartOfNetwork"), ("1" * 64, None)]


def test_status_of_a_service_that_nobody_leads_is_a_failure(ledgerd: Ledgerd, service: FakeService, options: list[object]) -> None:
    for number in range(2):
        status_answers(service, number, "Open", primary=None)
    ran = ledgerd("status", *options, "-o", "json")
    assert (ran.status, ran.json["service_status"]) == (1, "Open")
    assert "No node leads, so nothing is committed" in ran.err


def test_status_on_a_terminal_shows_urls_whole_and_problems_below(
    ledgerd: Ledgerd, service: FakeService, options: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        status_answers(service, number, "Open")
    service.nodes[1].stop()
    monkeypatch.setattr("ledgerd.node.cli.status.sys", SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True)))
    monkeypatch.setattr("ledgerd.node.cli.output.sys", SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True)))
    monkeypatch.setenv("COLUMNS", "80")
    ran = ledgerd("status", *options, "--timeout", 3.0)
    head, *lines = ran.out.splitlines()
    assert head.split() == ["url", "state", "role", "view", "committed", "last", "signed"]
    assert [line.split()[0] for line in lines] == service.urls
    assert f"{service.urls[1]}: " in ran.err


def test_status_of_a_service_that_is_not_open_or_not_there_is_a_failure(
    ledgerd: Ledgerd, service: FakeService, options: list[object]
) -> None:
    status_answers(service, 0, "Opening")
    assert ledgerd("status", *options).status == 1
    for node in service.nodes:
        node.stop()
    ran = ledgerd("status", *options, "--timeout", 3.0)
    assert ran.status == 1
    assert "no node answers" in ran.err
