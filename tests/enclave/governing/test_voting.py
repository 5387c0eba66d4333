"""Three members govern a service by vote: from Opening on, through the whole enclave, with our own constitution."""

import json
from typing import Any

import pytest

from ledgerd.enclave.governing import proposing
from ledgerd.governance import requests, tables
from support.cluster import make_identity
from support.governed import VERSION, id_of
from support.members import SIGNED_AT, node_id
from support.voting import NO, YES, Consortium, code, opening, shown


@pytest.fixture
def consortium() -> Consortium:
    return Consortium()


def test_a_proposal_takes_more_than_half_of_the_active_members(consortium: Consortium) -> None:
    first, second, third = consortium.members
    proposal = shown(consortium.propose(first, opening(consortium)))
    assert (proposal["proposalState"], proposal["ballotCount"]) == ("Open", 0)
    name = proposal["proposalId"]
    assert shown(consortium.vote(first, name))["proposalState"] == "Open"
    assert shown(consortium.vote(second, name, NO))["proposalState"] == "Open"
    assert consortium.read("service/info")["status"] == "Opening"
    decided = shown(consortium.vote(third, name))
    assert decided["proposalState"] == "Accepted"
    assert decided["finalVotes"] == {id_of(first): True, id_of(second): False, id_of(third): True}
    assert consortium.read("service/info")["status"] == "Open"
    assert consortium.host.notices["open"] == "yes"
    assert code(consortium.vote(first, name)) == (400, "ProposalNotOpen")


def test_a_members_looping_ballot_counts_for_nothing_and_is_recorded(consortium: Consortium) -> None:
    first, second, third = consortium.members
    name = shown(consortium.propose(first, opening(consortium)))["proposalId"]
    consortium.vote(first, name, "export function vote() { throw new Error('never'); }")
    consortium.vote(second, name)
    decided = shown(consortium.vote(third, name))
    assert decided["proposalState"] == "Accepted"
    assert decided["finalVotes"] == {id_of(second): True, id_of(third): True}
    assert decided["voteFailures"][id_of(first)]["reason"] == "Error: never"


def test_every_ballot_is_run_again_whenever_votes_are_counted(consortium: Consortium) -> None:
    """So one may say no until something has happened, and counts for what it says at the end."""
    first, second, third = consortium.members
    consortium.open()
    user = make_identity("user")
    waits = f"""export function vote() {{
      return ccf.kv["public:ccf.gov.users.certs"].has(ccf.strToBuf("{id_of(user)}"));
    }}"""
    name = shown(consortium.propose(first, ("trigger_ledger_chunk", None)))["proposalId"]
    assert shown(consortium.vote(first, name, waits))["proposalState"] == "Open"
    assert shown(consortium.vote(second, name))["proposalState"] == "Open", "one vote for it, one against"
    consortium.carry(("set_user", {"cert": user.pem}))
    decided = shown(consortium.vote(third, name, NO))
    assert decided["proposalState"] == "Accepted"
    assert decided["finalVotes"] == {id_of(first): True, id_of(second): True, id_of(third): False}


def test_a_proposal_that_fails_when_applied_changes_nothing_and_the_last_ballot_is_not_taken(consortium: Consortium) -> None:
    first, second, _ = consortium.members
    stranger = make_identity("service")
    name = shown(consortium.propose(first, ("transition_service_to_open", {"next_service_identity": stranger.pem})))["proposalId"]
    consortium.vote(first, name)
    version = consortium.row(tables.PROPOSALS_INFO, name.encode())
    answer = consortium.vote(second, name)
    assert code(answer) == (500, "InternalError")
    assert "made for another one" in json.loads(answer.body)["error"]["message"]
    assert consortium.row(tables.PROPOSALS_INFO, name.encode()) == version
    assert consortium.read("service/info")["status"] == "Opening"


def test_what_stands_in_no_constitution_is_refused_with_its_words(consortium: Consortium) -> None:
    answer = consortium.propose(consortium.members[0], ("make_me_rich", {}))
    assert code(answer) == (400, "ProposalFailedToValidate")
    assert "make_me_rich at position 0" in json.loads(answer.body)["error"]["message"]


def test_members_who_have_not_acknowledged_neither_propose_nor_count() -> None:
    consortium = Consortium(active=1)
    first, second, _ = consortium.members
    assert code(consortium.propose(second, opening(consortium))) == (401, "InvalidAuthenticationInfo")
    name = shown(consortium.propose(first, opening(consortium)))["proposalId"]
    assert code(consortium.vote(second, name)) == (401, "InvalidAuthenticationInfo")
    assert shown(consortium.vote(first, name))["proposalState"] == "Accepted"


def test_a_node_that_waits_is_trusted_by_vote_and_serves(consortium: Consortium) -> None:
    first, second, _ = consortium.members
    name = shown(consortium.propose(first, opening(consortium)))["proposalId"]
    for member in (first, second):
        consortium.vote(member, name)
    joiner = consortium.cluster.join("n1")
    consortium.cluster.until(lambda: "Pending" in [node["status"] for node in consortium.read("service/nodes")["value"]])
    consortium.cluster.until(lambda: any("transition-node-to-trusted" in text for _, text in joiner.logs))
    assert sum("transition-node-to-trusted" in text for _, text in joiner.logs) == 1
    trusting = shown(consortium.propose(first, ("transition_node_to_trusted", {"node_id": node_id(joiner), "valid_from": "250101000000Z"})))
    for member in (first, second):
        answer = consortium.vote(member, trusting["proposalId"])
    assert code(answer) == (500, "InternalError")  # that certificate would have ended before the service began
    trusting = shown(consortium.propose(first, ("transition_node_to_trusted", {"node_id": node_id(joiner)})))
    for member in (first, second):
        answer = consortium.vote(member, trusting["proposalId"])
    assert shown(answer)["proposalState"] == "Accepted"
    consortium.cluster.until(lambda: joiner.notices.get("open") == "yes")


def test_a_node_that_waits_and_is_removed_stands_among_the_former_ones(consortium: Consortium) -> None:
    """The service notes that, whatever the constitution: it could ask again otherwise."""
    consortium.open()
    joiner = consortium.cluster.join("n1")
    consortium.cluster.until(lambda: "Pending" in [node["status"] for node in consortium.read("service/nodes")["value"]])
    assert shown(consortium.carry(("remove_node", {"node_id": node_id(joiner)})))["proposalState"] == "Accepted"
    assert consortium.row(tables.FORMER_NODES, node_id(joiner).encode()) == "Removed"


def test_the_same_request_is_one_entry_or_none_though_others_write_meanwhile(consortium: Consortium) -> None:
    """Two members vote at the same time: both ballots are computed, and both count."""
    first, second, third = consortium.members
    name = shown(consortium.propose(first, opening(consortium)))["proposalId"]
    clients = [consortium.cluster.client(consortium.host) for _ in range(2)]
    for client, who in zip(clients, (second, third), strict=True):
        body = json.dumps({"ballot": YES}).encode()
        envelope = requests.sign(who.key, who.certificate, "ballot", body, created_at=SIGNED_AT, proposal_id=name)
        path = f"/gov/members/proposals/{name}/ballots/{id_of(who)}:submit{VERSION}"
        client.start("POST", path, envelope, content_type=requests.CONTENT_TYPE)
    consortium.cluster.until(lambda: all(client.answers for client in clients))
    states = sorted(shown(client.answers[0])["proposalState"] for client in clients)
    assert states == ["Accepted", "Open"]


def test_where_there_is_no_constitution_nothing_can_be_decided() -> None:
    consortium = Consortium(constitution="")
    answer = consortium.propose(consortium.members[0], opening(consortium))
    assert code(answer) == (500, "InternalError")


def test_after_a_silence_decisions_are_made_by_the_present_time(consortium: Consortium) -> None:
    first, second, third = consortium.members
    name, args = opening(consortium)
    serving: Any = consortium.host.enclave._serving
    deadline = serving.status.now_ms // 1000 + 3600
    body = {"actions": [{"name": name, "args": args}], "expires_at": deadline}
    proposal = shown(consortium.send(first, "proposal", "proposals:create", body))["proposalId"]
    consortium.vote(first, proposal)
    consortium.cluster.now += 7200  # in which nobody says anything
    decided = shown(consortium.vote(second, proposal))
    assert decided["proposalState"] == "Rejected", "its time has run out, though no signature said so before this very ballot"
    assert code(consortium.vote(third, proposal)) == (400, "ProposalNotOpen")
    signed = consortium.row(tables.OBSERVED_SIGNATURE)
    assert signed == serving._replica.last - 2, "that signature, the ballot, and the next signature are the last entries"


def test_of_one_member_so_many_proposals_may_be_open(consortium: Consortium, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposing, "OPEN_MAX", 2)
    first, second, _ = consortium.members
    name = shown(consortium.propose(first, opening(consortium)))["proposalId"]
    shown(consortium.propose(first, opening(consortium)))
    assert code(consortium.propose(first, opening(consortium))) == (400, "TooManyOpenProposals")
    shown(consortium.propose(second, opening(consortium)))
    assert consortium.send(first, "withdrawal", f"proposals/{name}:withdraw", proposal_id=name).status == 200
    shown(consortium.propose(first, opening(consortium)))
    monkeypatch.setattr(proposing, "OPEN_MAX", 100)
    monkeypatch.setattr(proposing, "OPEN_BYTES_MAX", 2_000)  # two of them are less, three are more
    assert code(consortium.propose(first, opening(consortium), opening(consortium))) == (400, "TooManyOpenProposals")
    monkeypatch.setattr(proposing, "OPEN_BYTES_MAX", 50_000)
    shown(consortium.propose(first, opening(consortium), opening(consortium)))
