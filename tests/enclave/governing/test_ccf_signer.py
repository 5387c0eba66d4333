"""CCF's own signers are the members' clients: what they sign is taken, on each curve and in one step or two."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ledgerd.apps.logging import app
from ledgerd.enclave.outbound import Answer
from ledgerd.governance import actions, requests
from ledgerd.governance.actions import REMOVE_NODE, Action
from support.ccf_signer import Signer
from support.cluster import Cluster, Host, make_identity
from support.governed import id_of
from support.members import CREATE, SIGNED_AT, node_id, send

VERSION = "?api-version=2024-07-01"


def post(cluster: Cluster, host: Host, path: str, envelope: bytes) -> Answer:
    return send(cluster, host, envelope, f"/gov/members/{path}{VERSION}")


def code(answer: Answer) -> tuple[int, str]:
    return answer.status, json.loads(answer.body)["error"]["code"]


@pytest.mark.parametrize(
    ("major", "curve"),
    [(7, ec.SECP256R1()), (7, ec.SECP384R1()), (7, ec.SECP521R1()), (6, ec.SECP256R1())],
    ids=lambda each: str(each)[:30],
)
def test_a_member_becomes_active_by_ccfs_tools(major: int, curve: ec.EllipticCurve, tmp_path: Path) -> None:
    who = make_identity("member", curve)
    signer = Signer(major, who, tmp_path)
    cluster = Cluster(app)
    (n0,) = cluster.start(1, admission="vote", members=[{"certificate": who.pem, "data": None}])
    path = f"state-digests/{id_of(who)}"
    answer = post(cluster, n0, f"{path}:update", signer.sign("state_digest", b"", SIGNED_AT))
    assert answer.status == 200, answer.body
    digest = json.loads(answer.body)["stateDigest"]
    ack = json.dumps({"stateDigest": digest}).encode()
    assert post(cluster, n0, f"{path}:ack", signer.sign_apart("ack", ack, SIGNED_AT)).status == 204
    shown = json.loads(cluster.client(n0).ask("GET", f"/gov/service/members/{id_of(who)}{VERSION}").body)
    assert shown["status"] == "Active"
    share = signer.sign("recovery_share", b'{"share":"AAAA"}', SIGNED_AT)
    answer = send(cluster, n0, share, f"/gov/recovery/members/{id_of(who)}:recover{VERSION}")
    assert code(answer) == (403, "ServiceNotWaitingForRecoveryShares"), "an active member is heard"


@pytest.mark.parametrize("apart", [False, True], ids=["one step", "two steps"])
def test_a_proposal_a_ballot_and_a_withdrawal_by_ccfs_tools_are_understood(apart: bool, tmp_path: Path) -> None:
    cluster = Cluster(app)
    n0, n1 = cluster.start(2)
    cluster.run(0.3)
    signer = Signer(7, cluster.member, tmp_path)
    sign = signer.sign_apart if apart else signer.sign
    answer = send(cluster, n0, sign("proposal", actions.write([Action(REMOVE_NODE, node_id(n1))]), SIGNED_AT), CREATE)
    assert answer.status == 200, answer.body
    proposal = json.loads(answer.body)["proposalId"]
    ballot = sign("ballot", b'{"ballot":"export function vote() { return true; }"}', SIGNED_AT, proposal)
    path = f"proposals/{proposal}/ballots/{id_of(cluster.member)}:submit"
    assert code(post(cluster, n0, path, ballot)) == (400, "ProposalNotOpen"), "it was accepted at once"
    withdrawal = sign("withdrawal", b"", SIGNED_AT, proposal)
    assert code(post(cluster, n0, f"proposals/{proposal}:withdraw", withdrawal)) == (400, "ProposalNotOpen")
    other = "0a" * 32
    assert code(post(cluster, n0, f"proposals/{other}:withdraw", withdrawal)) == (400, "InvalidResourceName")
    assert post(cluster, n0, f"proposals/{other}:withdraw", sign("withdrawal", b"", SIGNED_AT, other)).status == 204
    assert requests.read(withdrawal).proposal_id == proposal
