"""Signing in two steps, for keys in HSMs and vaults; and requests that other tools have signed."""

import base64
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ledgerd.governance import requests, tables
from ledgerd.ledger import cose
from support import council as councils
from support.ccf_signer import Signer
from support.cluster import Identity, make_identity
from support.command_line import Ledgerd, Ran
from support.council import Council
from support.fake_service import FakeService
from support.governed import ALICE, CAROL, DIGEST, id_of
from support.members import SIGNED_AT
from support.oracles import made_oracle

TEXT = b'{"actions": [{"name": "trigger_snapshot"}]}'
HASHES = {256: SHA256(), 384: SHA384(), 521: SHA512()}
CURVES = {256: ec.SECP256R1(), 384: ec.SECP384R1(), 521: ec.SECP521R1()}

Form = Callable[[Identity, bytes], bytes]
"""Makes of a signature in DER what a signer hands out."""


def raw(identity: Identity, der: bytes) -> bytes:
    r, s = decode_dss_signature(der)
    size = (identity.key.curve.key_size + 7) // 8
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


FORMS: dict[str, Form] = {
    "DER": lambda identity, der: der,
    "raw": raw,
    "base64 of DER": lambda identity, der: base64.encodebytes(der),
    "base64 of raw": lambda identity, der: base64.b64encode(raw(identity, der)) + b"\n",
    "Azure's API": lambda identity, der: json.dumps(
        {"kid": "https://vault/keys/k", "value": base64.urlsafe_b64encode(raw(identity, der)).rstrip(b"=").decode()}
    ).encode(),
    "Azure's command line": lambda identity, der: json.dumps(
        {"algorithm": "ES384", "signature": base64.b64encode(raw(identity, der)).decode()}
    ).encode(),
    "AWS KMS": lambda identity, der: json.dumps({"KeyId": "arn", "Signature": base64.b64encode(der).decode()}).encode(),
}


def certificate_of(identity: Identity, folder: Path) -> list[object]:
    """A member whose key is not here."""
    file = folder / "member_cert.pem"
    file.write_text(identity.pem)
    return ["--member-cert", file]


def signed_digest(identity: Identity, folder: Path) -> bytes:
    """What an HSM gives for the digest in the folder, in DER."""
    digest = (folder / "digest").read_bytes()
    return identity.key.sign(digest, ec.ECDSA(Prehashed(HASHES[identity.key.curve.key_size])))


def prepare(ledgerd: Ledgerd, identity: Identity, folder: Path, *words: object) -> Ran:
    ran = ledgerd("gov", *words, "--prepare", folder, *certificate_of(identity, folder.parent))
    assert (ran.status, ran.err.startswith("Nothing is signed or sent yet.")) == (0, True), ran.err
    return ran


@pytest.fixture
def member(council: Council, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Identity]:
    """Makes active members with keys of a size."""

    def make(bits: int) -> Identity:
        identity = make_identity(f"member on {bits}", CURVES[bits])
        council.activate("one", identity)
        monkeypatch.setitem(councils.MEMBERS, id_of(identity), identity)
        return identity

    return make


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bits", [256, 384, 521])
def test_a_proposal_is_signed_elsewhere(
    ledgerd: Ledgerd,
    council: Council,
    options: list[object],
    tmp_path: Path,
    member: Callable[[int], Identity],
    bits: int,
    form: str,
) -> None:
    identity, folder = member(bits), tmp_path / "request"
    ran = prepare(ledgerd, identity, folder, "propose", "trigger-snapshot", "-o", "json")
    algorithm, hash_name = {256: ("ES256", "sha256"), 384: ("ES384", "sha384"), 521: ("ES512", "sha512")}[bits]
    assert (ran.json["algorithm"], ran.json["hash"], ran.json["kind"]) == (algorithm, hash_name, "proposal")
    assert ran.json["digest"] == (folder / "digest").read_bytes().hex()
    assert council.seen == []
    (folder / "signature").write_bytes(FORMS[form](identity, signed_digest(identity, folder)))
    ran = ledgerd("gov", "finish", folder, *options)
    assert (ran.status, ran.fields["kind"], ran.fields["state"]) == (0, "proposal", "Open")
    (signed,) = council.seen
    assert (signed.kind, json.loads(signed.payload)) == (requests.PROPOSAL, {"actions": [{"name": "trigger_snapshot"}]})


def test_openssl_signs_what_was_prepared(
    ledgerd: Ledgerd, council: Council, options: list[object], tmp_path: Path, member: Callable[[int], Identity]
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not here")
    identity, folder = member(384), tmp_path / "request"
    key = tmp_path / "key.pem"
    key.write_bytes(identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    proposal = council.put_proposal(TEXT)
    ran = prepare(ledgerd, identity, folder, "vote", proposal, "--against")
    (line,) = [line.split() for line in ran.err.splitlines() if line.startswith("  openssl ")]
    subprocess.run([str(key) if word == "KEY" else word for word in line], check=True, capture_output=True)
    ran = ledgerd("gov", "finish", folder, *options)
    assert (ran.status, ran.fields["ballots"]) == (0, "1")
    assert (council.seen[0].kind, council.seen[0].proposal_id) == (requests.BALLOT, proposal)


def test_acknowledging_and_withdrawing_go_in_two_steps_too(
    ledgerd: Ledgerd, council: Council, options: list[object], tmp_path: Path
) -> None:
    ran = ledgerd("gov", "ack", "--prepare", tmp_path / "x", *certificate_of(CAROL, tmp_path), *options)
    assert (ran.status, "first --ask, then --digest" in ran.err) == (2, True)
    for step, words in (("ask", ["--ask"]), ("ack", ["--digest", DIGEST])):
        folder = tmp_path / step
        prepare(ledgerd, CAROL, folder, "ack", *words)
        (folder / "signature").write_bytes(signed_digest(CAROL, folder))
        ran = ledgerd("gov", "finish", folder, *options)
        assert (ran.status, ran.fields["state_digest"]) == (0, DIGEST)
        assert (f"ledgerd gov ack --digest {DIGEST}" in ran.err) is (step == "ask")
    assert ran.fields["status"] == "Active"
    proposal = council.put_proposal(TEXT, who=CAROL)
    prepare(ledgerd, CAROL, tmp_path / "withdraw", "withdraw", proposal)
    (tmp_path / "signature").write_bytes(signed_digest(CAROL, tmp_path / "withdraw"))
    ran = ledgerd("gov", "finish", tmp_path / "withdraw", "--signature", tmp_path / "signature", *options)
    assert (ran.status, council.state(proposal)) == (0, "Withdrawn")


def test_what_is_finished_may_be_sent_later(ledgerd: Ledgerd, council: Council, options: list[object], tmp_path: Path) -> None:
    folder, envelope = tmp_path / "request", tmp_path / "request.cose"
    prepare(ledgerd, ALICE, folder, "propose", "trigger-snapshot")
    (folder / "signature").write_bytes(signed_digest(ALICE, folder))
    ran = ledgerd("gov", "finish", folder, "--out", envelope, "-o", "json")
    assert (ran.status, ran.json["kind"], ran.json["file"]) == (0, "proposal", str(envelope))
    assert council.seen == []
    ran = ledgerd("gov", "submit", envelope, *options)
    assert (ran.status, ran.fields["state"]) == (0, "Open")
    assert council.seen[0].envelope == envelope.read_bytes()


@pytest.mark.parametrize(
    ("signature", "told"),
    [
        (b"", "is no ECDSA signature"),
        (b"{}", "is no ECDSA signature"),
        (b'{"value": 1}', "is no ECDSA signature"),
        (b"{" * 50_000, "is no ECDSA signature"),
        (b"\xff" * 63, "is no ECDSA signature"),
        (bytes(64), "nothing was sent. Sign again, with that member"),
        (ALICE.key.sign(b"something else", ec.ECDSA(SHA256())), "nothing was sent. Sign again, with that member"),
        (b"x" * 100_000, "which is too much"),
    ],
    ids=[str(number) for number in range(8)],  # one of them is made anew in each process that runs tests
)
def test_a_wrong_signature_is_not_sent(
    ledgerd: Ledgerd, service: FakeService, options: list[object], tmp_path: Path, signature: bytes, told: str
) -> None:
    folder = tmp_path / "request"
    prepare(ledgerd, ALICE, folder, "propose", "trigger-snapshot")
    (folder / "signature").write_bytes(signature)
    ran = ledgerd("gov", "finish", folder, *options)
    assert (ran.status, ran.out, told in ran.err) == (2 if "too much" in told else 1, "", True), ran.err
    assert service.nodes[0].requests == []


def test_what_was_prepared_is_not_lost_or_mistaken(ledgerd: Ledgerd, tmp_path: Path) -> None:
    folder = tmp_path / "request"
    prepare(ledgerd, ALICE, folder, "propose", "trigger-snapshot")
    before = (folder / "request.cose").read_bytes()
    ran = ledgerd("gov", "propose", "trigger-ledger-chunk", "--prepare", folder, *certificate_of(ALICE, tmp_path))
    assert (ran.status, "has a request already" in ran.err) == (2, True)
    assert (folder / "request.cose").read_bytes() == before
    ran = ledgerd("gov", "finish", folder)
    assert (ran.status, f"Sign {folder}/to-be-signed" in ran.err) == (2, True)
    (folder / "signature").write_bytes(b"x")
    (folder / "request.cose").write_bytes(b"x")
    assert ledgerd("gov", "finish", folder).status == 1
    (folder / "request.cose").unlink()
    ran = ledgerd("gov", "finish", folder)
    assert (ran.status, "nothing is prepared" in ran.err) == (2, True)


# What other tools have signed.


def envelope(kind: str, payload: bytes = TEXT, proposal_id: str | None = None) -> bytes:
    return requests.sign(ALICE.key, ALICE.certificate, kind, payload, created_at=SIGNED_AT, proposal_id=proposal_id)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "is no request"),
        (TEXT, "is no request"),
        (envelope("encrypted_recovery_share"), "goes to no endpoint"),
        (envelope(requests.BALLOT), "names its proposal"),
        (envelope(requests.WITHDRAWAL, proposal_id="../../service/info?x="), "names its proposal"),
        (cose.sign(ALICE.key, {}, TEXT), "is no request"),
    ],
)
def test_what_is_no_request_is_told(
    ledgerd: Ledgerd, service: FakeService, options: list[object], tmp_path: Path, data: bytes, told: str
) -> None:
    file = tmp_path / "request.cose"
    file.write_bytes(data)
    ran = ledgerd("gov", "submit", file, *options)
    assert (ran.status, ran.out, told in ran.err) == (2, "", True), ran.err
    assert service.nodes[0].requests == []


@pytest.mark.parametrize("major", [6, 7])
def test_what_ccfs_tools_have_signed_is_sent(
    ledgerd: Ledgerd, council: Council, options: list[object], tmp_path: Path, member: Callable[[int], Identity], major: int
) -> None:
    identity = member(384)
    signer = Signer(major, identity, tmp_path)
    file = tmp_path / "signed"
    for sign in (signer.sign, signer.sign_apart):
        file.write_bytes(sign(requests.PROPOSAL, TEXT, SIGNED_AT))
        ran = ledgerd("gov", "submit", file, *options)
        assert (ran.status, ran.fields["state"]) == (0, "Open")
    proposal = ran.fields["proposal_id"]
    file.write_bytes(
        signer.sign(requests.BALLOT, json.dumps({"ballot": "export function vote() { return true; }"}).encode(), SIGNED_AT, proposal)
    )
    ran = ledgerd("gov", "submit", file, *options)
    assert (ran.status, ran.fields["ballots"]) == (0, "1")
    assert len(council.seen) == 3


@pytest.mark.parametrize("major", [6, 7])
@pytest.mark.parametrize("bits", [256, 384, 521])
def test_what_we_prepare_is_what_ccfs_tool_prepares(ledgerd: Ledgerd, tmp_path: Path, major: int, bits: int) -> None:
    identity = make_identity("member", CURVES[bits])
    signer = Signer(major, identity, tmp_path)
    folder = tmp_path / "request"
    prepare(ledgerd, identity, folder, "propose", "trigger-snapshot")
    request = requests.read((folder / "request.cose").read_bytes())
    assert (folder / "digest").read_bytes() == signer.digest(requests.PROPOSAL, request.payload, request.created_at)


@pytest.mark.parametrize("major", [6, 7])
@pytest.mark.parametrize("bits", [256, 384, 521])
def test_what_we_finish_verifies_in_the_libraries_that_ccf_uses(ledgerd: Ledgerd, tmp_path: Path, major: int, bits: int) -> None:
    identity, folder, envelope = make_identity("member", CURVES[bits]), tmp_path / "request", tmp_path / "signed"
    prepare(ledgerd, identity, folder, "vote", "ab" * 32, "--for")
    (folder / "signature").write_bytes(signed_digest(identity, folder))
    assert ledgerd("gov", "finish", folder, "--out", envelope).status == 0
    with made_oracle(major) as oracle:
        found = oracle.signed_request(envelope.read_bytes(), identity.pem)
        assert found["ok"], found
        assert found["header"]["ccf.gov.msg.type"] == "ballot"
        assert "return true" in json.loads(found["payload"])["ballot"]
        broken = bytearray(envelope.read_bytes())
        broken[-1] ^= 1
        assert not oracle.signed_request(bytes(broken), identity.pem)["ok"]


def test_a_members_state_is_what_the_table_says(ledgerd: Ledgerd, council: Council, options: list[object], tmp_path: Path) -> None:
    file = tmp_path / "signed"
    file.write_bytes(requests.sign(CAROL.key, CAROL.certificate, requests.STATE_DIGEST, b"", created_at=SIGNED_AT))
    ran = ledgerd("gov", "submit", file, "-o", "json", *options)
    assert (ran.json["kind"], ran.json["state_digest"], ran.json["acknowledged"], ran.json["status"]) == (
        "state_digest",
        DIGEST,
        False,
        "Accepted",
    )
    assert council.node.row(tables.MEMBER_INFO, id_of(CAROL))["status"] == "Accepted"
