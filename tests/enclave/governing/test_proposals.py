"""Proposals that are there: shown, withdrawn by their proposer, and voted on up to the point where ballots are counted."""

import base64
import json
from typing import Any

import pytest

from ledgerd.apps.logging import app
from ledgerd.governance import requests, tables
from support.cluster import Cluster
from support.executing import error_of
from support.governed import ALICE, BOB, Governed, code, id_of
from support.members import SIGNED_AT, retire, send

OPEN, DECIDED, NONE = "0a" * 32, "0b" * 32, "0c" * 32
YES, NO = "export function vote() { return true; }", "export function vote() { return false; }"


def info(state: str, ballots: dict[str, str] | None = None, **more: Any) -> bytes:
    return tables.encode({"proposer_id": id_of(ALICE), "state": state, "ballots": ballots or {}, **more})


def filled(node: Governed) -> Governed:
    failure = {"reason": "Error: no", "trace": "at vote"}
    votes = {"final_votes": {id_of(BOB): False}, "vote_failures": {id_of(ALICE): failure}, "failure": failure}
    node.put(
        {
            tables.PROPOSALS: {OPEN.encode(): b'{"actions": []}', DECIDED.encode(): b"{}"},
            tables.PROPOSALS_INFO: {
                OPEN.encode(): info("Open", {id_of(ALICE): YES}),
                DECIDED.encode(): info("Failed", {id_of(ALICE): YES, id_of(BOB): NO}, **votes),
            },
        }
    )
    return node


@pytest.fixture
def node() -> Governed:
    return filled(Governed())


def withdraw(node: Governed, who: Any = ALICE, proposal: str = OPEN, **about: Any) -> Any:
    return node.send(who, requests.WITHDRAWAL, f"/members/proposals/{proposal}:withdraw", **{"proposal_id": proposal, **about})


def vote(node: Governed, who: Any = BOB, payload: Any = None, proposal: str = OPEN, **about: Any) -> Any:
    path = f"/members/proposals/{proposal}/ballots/{id_of(who)}:submit"
    return node.send(who, requests.BALLOT, path, {"ballot": NO} if payload is None else payload, **{"proposal_id": proposal, **about})


# Reading.


def test_proposals_are_shown_in_ccfs_words(node: Governed) -> None:
    opened = {"proposalId": OPEN, "proposerId": id_of(ALICE), "proposalState": "Open", "ballotCount": 1}
    failure = {"reason": "Error: no", "trace": "at vote"}
    decided = {
        "proposalId": DECIDED,
        "proposerId": id_of(ALICE),
        "proposalState": "Failed",
        "ballotCount": 2,
        "finalVotes": {id_of(BOB): False},
        "voteFailures": {id_of(ALICE): failure},
        "failure": failure,
    }
    assert node.read("/members/proposals") == {"value": [opened, decided]}
    assert node.read(f"/members/proposals/{OPEN}") == opened
    assert node.read(f"/members/proposals/{DECIDED}") == decided
    actions = node.get(f"/members/proposals/{OPEN}/actions")
    assert (actions.body, actions.content_type) == (b'{"actions": []}', "application/json")


def test_a_ballot_is_given_as_the_script_that_it_is(node: Governed) -> None:
    answer = node.get(f"/members/proposals/{OPEN}/ballots/{id_of(ALICE)}")
    assert (answer.status, answer.content_type, answer.body.decode()) == (200, "text/javascript", YES)


def test_what_is_not_there_is_not_found(node: Governed) -> None:
    for path in (NONE, f"{NONE}/actions", f"{NONE}/ballots/{id_of(ALICE)}"):
        assert code(node.get(f"/members/proposals/{path}")) == (404, "ProposalNotFound")
    assert code(node.get(f"/members/proposals/{OPEN}/ballots/{id_of(BOB)}")) == (404, "VoteNotFound")


# Withdrawing.


def test_the_proposer_withdraws(node: Governed) -> None:
    answer = withdraw(node)
    assert answer.status == 200
    assert json.loads(answer.body)["proposalState"] == "Withdrawn"
    assert node.read(f"/members/proposals/{OPEN}")["proposalState"] == "Withdrawn"
    assert node.row(tables.PROPOSALS_INFO, DECIDED) is None, "of decided proposals the last one stays"
    assert node.store.get(tables.PROPOSALS, DECIDED.encode()) is None
    assert node.store.get(tables.PROPOSALS, OPEN.encode()) is not None
    envelope = base64.b64decode(node.row(tables.COSE_HISTORY, id_of(ALICE)))
    assert requests.read(envelope).kind == "withdrawal"
    version = node.store.version
    again = withdraw(node)
    assert (again.status, again.body) == (200, answer.body)
    assert node.store.version == version, "who repeats it must not grow the ledger"


def test_a_proposal_that_nobody_knows_is_as_good_as_withdrawn(node: Governed) -> None:
    version = node.store.version
    answer = withdraw(node, proposal=NONE)
    assert (answer.status, answer.body, node.store.version) == (204, b"", version)


def test_only_the_proposer_withdraws(node: Governed) -> None:
    assert code(withdraw(node, BOB)) == (403, "AuthorizationFailed")
    assert node.read(f"/members/proposals/{OPEN}")["proposalState"] == "Open"


@pytest.mark.parametrize("state", ["Accepted", "Rejected", "Failed", "Dropped"])
def test_what_is_decided_cannot_be_withdrawn(node: Governed, state: str) -> None:
    node.put({tables.PROPOSALS_INFO: {DECIDED.encode(): info(state)}})
    refusal = withdraw(node, proposal=DECIDED)
    assert code(refusal) == (400, "ProposalNotOpen")
    assert state in error_of(refusal)["message"]


@pytest.mark.parametrize("named", [None, NONE, "", OPEN.upper(), DECIDED])
def test_the_signature_must_be_for_this_proposal(node: Governed, named: str | None) -> None:
    version = node.store.version
    assert code(withdraw(node, proposal_id=named)) == (400, "InvalidResourceName")
    assert code(vote(node, proposal_id=named)) == (400, "InvalidResourceName")
    assert node.store.version == version


# Voting.


def constitution(resolve: str, apply: str = "") -> str:
    """One that says this."""
    return f"""
        export function validate(input) {{ return {{valid: true, description: ""}}; }}
        export function resolve(proposal, proposerId, votes, proposalId) {{ {resolve} }}
        export function apply(proposal, proposalId) {{ {apply} }}
    """


def test_a_new_ballot_is_counted_with_the_others_and_recorded() -> None:
    node = filled(Governed(constitution('return votes.length === 2 ? "Accepted" : "Open";')))
    answer = vote(node)
    assert answer.status == 200, answer
    shown = json.loads(answer.body)
    assert (shown["proposalState"], shown["ballotCount"]) == ("Accepted", 2)
    assert shown["finalVotes"] == {id_of(ALICE): True, id_of(BOB): False}
    assert node.row(tables.PROPOSALS_INFO, OPEN)["ballots"] == {id_of(ALICE): YES, id_of(BOB): NO}
    request = requests.read(base64.b64decode(node.row(tables.COSE_HISTORY, id_of(BOB))))
    assert (request.kind, request.proposal_id) == ("ballot", OPEN)


@pytest.mark.parametrize(
    ("resolve", "apply", "text"),
    [
        ('return "Accepted";', 'throw new Error("no");', "Failed to apply(): Error: no"),
        ('throw new Error("no");', "", "Failed to resolve(): Error: no"),
        ('return "Perhaps";', "", 'resolve() returned invalid status value: "Perhaps"'),
        ("return 1;", "", 'resolve() returned invalid status value: ""'),
        ('ccf.kv["public:ccf.gov.x"].set(ccf.strToBuf("k"), ccf.strToBuf("v"));', "", "read-only"),
    ],
)
def test_a_constitution_that_fails_takes_the_ballot_back(resolve: str, apply: str, text: str) -> None:
    node = filled(Governed(constitution(resolve, apply)))
    version = node.store.version
    answer = vote(node)
    assert code(answer) == (500, "InternalError")
    assert text in error_of(answer)["message"]
    assert node.store.version == version


def test_the_same_ballot_again_is_no_error_and_another_one_is(node: Governed) -> None:
    version = node.store.version
    answer = vote(node, ALICE, {"ballot": YES})
    assert (answer.status, json.loads(answer.body)["ballotCount"]) == (200, 1)
    assert code(vote(node, ALICE, {"ballot": NO})) == (400, "VoteAlreadyExists")
    assert node.store.version == version


def test_votes_are_for_open_proposals(node: Governed) -> None:
    assert code(vote(node, proposal=DECIDED)) == (400, "ProposalNotOpen")
    assert code(vote(node, proposal=NONE)) == (404, "ProposalNotFound")


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"{}", {"ballot": 1}, {"ballot": None}, {"vote": YES}, {"ballot": "\ud800"}, b'{"ballot":"a","ballot":"b"}']
)
def test_what_is_no_ballot_is_refused(node: Governed, payload: Any) -> None:
    assert code(vote(node, payload=payload)) == (400, "InvalidInput")


def test_nobody_votes_for_another(node: Governed) -> None:
    path = f"/members/proposals/{OPEN}/ballots/{id_of(ALICE)}:submit"
    refusal = node.send(BOB, requests.BALLOT, path, {"ballot": YES}, proposal_id=OPEN)
    assert code(refusal) == (400, "InvalidResourceName")
    assert node.read(f"/members/proposals/{OPEN}")["ballotCount"] == 1


def test_a_withdrawal_is_no_vote_and_a_vote_no_withdrawal(node: Governed) -> None:
    for kind, path in (
        (requests.WITHDRAWAL, f"/members/proposals/{OPEN}/ballots/{id_of(ALICE)}:submit"),
        (requests.BALLOT, f"/members/proposals/{OPEN}:withdraw"),
    ):
        assert code(node.send(ALICE, kind, path, {"ballot": YES}, proposal_id=OPEN)) == (401, "InvalidAuthenticationInfo")


# In a whole service.


def test_a_proposal_that_was_accepted_at_once_cannot_be_withdrawn_or_voted_on() -> None:
    cluster = Cluster(app)
    n0, n1 = cluster.start(2)
    cluster.run(0.3)
    member = cluster.member
    proposal = json.loads(retire(cluster, n0, n1).body)["proposalId"]
    for kind, path, payload in (
        (requests.WITHDRAWAL, f"{proposal}:withdraw", b""),
        (requests.BALLOT, f"{proposal}/ballots/{id_of(member)}:submit", tables.encode({"ballot": YES})),
    ):
        body = requests.sign(member.key, member.certificate, kind, payload, created_at=SIGNED_AT, proposal_id=proposal)
        answer = send(cluster, n0, body, f"/gov/members/proposals/{path}?api-version=2024-07-01")
        assert (answer.status, json.loads(answer.body)["error"]["code"]) == (400, "ProposalNotOpen")
