"""A member acknowledges the service's state, and is active from there on: records, codes, and what replays cannot do."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ledgerd.apps.logging import app
from ledgerd.enclave.outbound import Answer
from ledgerd.governance import requests, tables
from ledgerd.ledger.audit import Auditor
from ledgerd.ledger.entry import WriteSet, read_public
from ledgerd.ledger.signature import SIGNATURES
from support.cluster import Cluster, Host, Identity, make_identity
from support.executing import error_of
from support.governed import ALICE, BOB, CAROL, DIGEST, Governed, code, id_of
from support.members import SIGNED_AT, envelope, node_id, retire, send

OTHER = "5b" * 32
PATH = "/members/state-digests/"


def signature_over(root: str) -> WriteSet:
    """The part of a signature entry that tells its root."""
    return {SIGNATURES: {tables.SINGLETON: tables.encode({"root": root})}}


@pytest.fixture
def node() -> Governed:
    node = Governed()
    node.put(signature_over(DIGEST))
    return node


def update(node: Governed, who: Identity = CAROL) -> Any:
    return node.send(who, requests.STATE_DIGEST, f"{PATH}{id_of(who)}:update")


def ack(node: Governed, who: Identity = CAROL, digest: Any = DIGEST) -> Any:
    return node.send(who, requests.ACK, f"{PATH}{id_of(who)}:ack", {"stateDigest": digest})


def status(node: Governed, who: Identity = CAROL) -> str:
    shown: str = node.read(f"/service/members/{id_of(who)}")["status"]
    return shown


# The way there.


def test_a_member_asks_for_the_digest_signs_it_and_is_active(node: Governed) -> None:
    assert status(node) == "Accepted"
    answer = update(node)
    assert (answer.status, json.loads(answer.body)) == (200, {"memberId": id_of(CAROL), "stateDigest": DIGEST})
    assert node.read(PATH + id_of(CAROL)) == {"memberId": id_of(CAROL), "stateDigest": DIGEST}
    assert status(node) == "Accepted", "asking is not acknowledging"
    answer = ack(node)
    assert (answer.status, answer.body) == (204, b"")
    assert status(node) == "Active"
    assert node.row(tables.MEMBER_INFO, id_of(CAROL)) == {"status": "Active", "member_data": "carol"}, "the rest of the record stays"
    assert any("is active" in line for line in node.logs)


def test_the_records_are_those_of_ccf(node: Governed) -> None:
    update(node)
    assert node.row(tables.MEMBER_ACKS, id_of(CAROL)) == {"state_digest": DIGEST}
    assert node.row(tables.COSE_HISTORY, id_of(CAROL)) is None, "who could read it there could send it again"
    ack(node)
    record = node.row(tables.MEMBER_ACKS, id_of(CAROL))
    assert record.keys() == {"state_digest", "cose_sign1_req"}
    request = requests.read(base64.b64decode(record["cose_sign1_req"]))
    requests.verify(request, CAROL.certificate)
    assert json.loads(request.payload) == {"stateDigest": record["state_digest"]}
    assert node.row(tables.COSE_HISTORY, id_of(CAROL)) == record["cose_sign1_req"]


def test_a_fresher_digest_keeps_what_was_signed_until_that_is_signed_as_well(node: Governed) -> None:
    update(node)
    ack(node)
    first = node.row(tables.MEMBER_ACKS, id_of(CAROL))["cose_sign1_req"]
    node.put(signature_over(OTHER))
    assert json.loads(update(node).body)["stateDigest"] == OTHER
    assert node.row(tables.MEMBER_ACKS, id_of(CAROL)) == {"state_digest": OTHER, "cose_sign1_req": first}
    assert status(node) == "Active"
    assert ack(node, digest=OTHER).status == 204
    assert node.row(tables.MEMBER_ACKS, id_of(CAROL))["cose_sign1_req"] != first


def test_a_member_that_is_active_may_acknowledge_again(node: Governed) -> None:
    update(node, ALICE)
    assert ack(node, ALICE).status == 204
    assert status(node, ALICE) == "Active"
    assert not any("is active" in line for line in node.logs), "nothing new"


# What is refused.


def test_without_a_digest_there_is_nothing_to_show_or_acknowledge(node: Governed) -> None:
    assert code(node.get(PATH + id_of(CAROL))) == (404, "ResourceNotFound")
    assert code(ack(node)) == (403, "AuthorizationFailed")
    assert status(node) == "Accepted"


@pytest.mark.parametrize("digest", [OTHER, "", DIGEST.upper(), DIGEST[:-1]])
def test_another_digest_is_refused(node: Governed, digest: str) -> None:
    update(node)
    refusal = ack(node, digest=digest)
    assert code(refusal) == (400, "StateDigestMismatch")
    assert DIGEST in error_of(refusal)["message"]
    assert status(node) == "Accepted"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'"' + DIGEST.encode() + b'"',
        b'{"stateDigest":1}',
        b'{"state_digest":"' + DIGEST.encode() + b'"}',
        b'{"stateDigest":"\\ud800"}',
        f'{{"stateDigest":"{OTHER}","stateDigest":"{DIGEST}"}}'.encode(),
        f'{{"stateDigest":"{DIGEST}"}}'.encode("utf-16"),
        b"[" * 100_000,
    ],
)
def test_what_is_no_acknowledgement_is_refused(node: Governed, payload: bytes) -> None:
    update(node)
    assert code(node.send(CAROL, requests.ACK, f"{PATH}{id_of(CAROL)}:ack", payload)) == (400, "InvalidInput")
    assert status(node) == "Accepted"


def test_nobody_asks_or_acknowledges_for_another(node: Governed) -> None:
    update(node)
    for kind, action in ((requests.STATE_DIGEST, "update"), (requests.ACK, "ack")):
        refusal = node.send(BOB, kind, f"{PATH}{id_of(CAROL)}:{action}", {"stateDigest": DIGEST})
        assert code(refusal) == (400, "InvalidAuthenticationInfo")
        assert id_of(CAROL) in error_of(refusal)["message"]
        assert id_of(BOB) in error_of(refusal)["message"]
    assert status(node) == "Accepted"


def test_before_the_first_signature_there_is_no_digest() -> None:
    node = Governed()
    refusal = update(node)
    assert code(refusal) == (500, "InternalError")
    assert "Ask again" in error_of(refusal)["message"]
    assert node.row(tables.MEMBER_ACKS, id_of(CAROL)) is None


# Replays.


def test_who_repeats_an_acknowledgement_does_not_grow_the_ledger(node: Governed) -> None:
    update(node)
    path, body = f"{PATH}{id_of(CAROL)}:ack", tables.encode({"stateDigest": DIGEST})
    envelopes = [requests.sign(CAROL.key, CAROL.certificate, requests.ACK, body, created_at=at) for at in (1, 2)]
    assert node.post(path, envelopes[0]).status == 204
    version = node.store.version
    for again in (*envelopes, *envelopes):
        assert node.post(path, again).status == 204
    assert node.store.version == version
    assert base64.b64decode(node.row(tables.MEMBER_ACKS, id_of(CAROL))["cose_sign1_req"]) == envelopes[0]


def test_an_old_acknowledgement_does_not_pass_for_one_of_a_fresher_state(node: Governed) -> None:
    update(node)
    old = requests.sign(CAROL.key, CAROL.certificate, requests.ACK, tables.encode({"stateDigest": DIGEST}), created_at=SIGNED_AT)
    assert node.post(f"{PATH}{id_of(CAROL)}:ack", old).status == 204
    node.put({tables.MEMBER_INFO: {id_of(CAROL).encode(): b'{"status":"Accepted"}'}, **signature_over(OTHER)})  # left, and is asked anew
    update(node)
    assert code(node.post(f"{PATH}{id_of(CAROL)}:ack", old)) == (400, "StateDigestMismatch")
    assert status(node) == "Accepted"


def test_a_record_that_members_have_spoilt_does_not_keep_anybody_out(node: Governed) -> None:
    node.put({tables.MEMBER_ACKS: {id_of(ALICE).encode(): tables.encode({"state_digest": DIGEST, "cose_sign1_req": "!"})}})
    assert ack(node, ALICE).status == 204
    assert len(node.row(tables.MEMBER_ACKS, id_of(ALICE))["cose_sign1_req"]) > 1


# In a whole service.


def ask(cluster: Cluster, host: Host, who: Identity, kind: str, action: str, payload: bytes = b"") -> Answer:
    body = requests.sign(who.key, who.certificate, kind, payload, created_at=SIGNED_AT)
    return send(cluster, host, body, f"/gov{PATH}{id_of(who)}:{action}?api-version=2024-07-01")


def writes(host: Host, name: str) -> Iterator[tuple[str, bytes | None]]:
    """Everything that a node's disk has of a public map, in order."""
    for data in host.entries:
        for key, value in read_public(data).writes.get(name, {}).items():
            yield key.decode(), value


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: str(curve.name))
def test_a_member_of_a_service_that_votes_becomes_active_through_any_node(curve: ec.EllipticCurve) -> None:
    who = make_identity("member", curve)
    cluster = Cluster(app)
    (n0,) = cluster.start(1, admission="vote", members=[{"certificate": who.pem, "data": None}])
    assert "not an active member" in send(cluster, n0, envelope(who)).body.decode()
    answer = ask(cluster, n0, who, requests.STATE_DIGEST, "update")
    assert answer.status == 200
    digest = json.loads(answer.body)["stateDigest"]
    roots = [tables.decode(value or b"")["root"] for _, value in _signatures(n0)]
    assert digest in roots, "the root that a signature entry has signed"
    assert ask(cluster, n0, who, requests.ACK, "ack", tables.encode({"stateDigest": digest})).status == 204
    answer = send(cluster, n0, envelope(who))
    assert answer.status == 200, "an active member is heard"


def _signatures(host: Host) -> Iterator[tuple[str, bytes | None]]:
    for data in host.entries:
        for key, value in read_public(data).writes.get(SIGNATURES, {}).items():
            yield key.hex(), value


def test_backups_pass_acknowledgements_on_and_an_auditor_finds_them() -> None:
    cluster = Cluster(app)
    n0, n1, n2 = cluster.start(3)
    cluster.run(0.3)
    member = cluster.member
    digest = json.loads(ask(cluster, n1, member, requests.STATE_DIGEST, "update").body)["stateDigest"]
    assert ask(cluster, n2, member, requests.ACK, "ack", tables.encode({"stateDigest": digest})).status == 204
    cluster.run(0.3)
    shown = json.loads(cluster.client(n1).ask("GET", f"/gov{PATH}{id_of(member)}?api-version=2024-07-01").body)
    assert shown == {"memberId": id_of(member), "stateDigest": digest}
    *_, (key, value) = writes(n0, tables.MEMBER_ACKS)
    record = tables.decode(value or b"")
    assert (key, record["state_digest"]) == (id_of(member), digest)
    requests.verify(requests.read(base64.b64decode(record["cose_sign1_req"])), member.certificate)
    assert retire(cluster, n0, node_id(n2)).status == 200
    auditor = Auditor(n0.notices["service_certificate"])
    for data in n0.entries:
        auditor.feed(data)
    assert auditor.result().last_signed
