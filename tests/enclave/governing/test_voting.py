"""Three members govern a service by vote: from Opening on, through the whole enclave, with our own constitution."""

import json
from typing import Any

import pytest

from ledgerd.apps.logging import app
from ledgerd.enclave.outbound import Answer
from ledgerd.governance import requests, tables
from support.cluster import BY_VOTE, Cluster, Host, Identity, make_identity
from support.governed import id_of
from support.members import CREATE, SIGNED_AT, node_id, send

YES, NO = (f"export function vote(proposal, proposerId) {{ return {answer}; }}" for answer in ("true", "false"))
VERSION = "?api-version=2024-07-01"


class Consortium:
    """A service that three members have started, and who are active."""

    def __init__(self, nodes: int = 1, constitution: str = BY_VOTE, active: int = 3) -> None:
        self.members = [make_identity(f"member{number}") for number in range(3)]
        self.cluster = Cluster(app)
        parties = [{"certificate": member.pem, "data": {"name": f"member{number}"}} for number, member in enumerate(self.members)]
        self.cluster.begin(admission="vote", members=parties, open_at_nodes=None, constitution=constitution)
        self.time = SIGNED_AT
        for member in self.members[:active]:
            self.activate(member)

    @property
    def host(self) -> Host:
        """Its first node."""
        return self.cluster.hosts["n0"]

    def send(self, who: Identity, kind: str, path: str, payload: Any = b"", **about: Any) -> Answer:
        """Sign something and send it."""
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self.time += 1
        envelope = requests.sign(who.key, who.certificate, kind, body, created_at=self.time, **about)
        return send(self.cluster, self.host, envelope, f"/gov/members/{path}{VERSION}")

    def activate(self, who: Identity) -> None:
        """Have a member acknowledge the state."""
        digest = json.loads(self.send(who, "state_digest", f"state-digests/{id_of(who)}:update").body)["stateDigest"]
        assert self.send(who, "ack", f"state-digests/{id_of(who)}:ack", {"stateDigest": digest}).status == 204

    def propose(self, who: Identity, *actions: Any) -> Answer:
        """Propose actions, as (name, arguments)."""
        return self.send(who, "proposal", "proposals:create", {"actions": [{"name": name, "args": args} for name, args in actions]})

    def vote(self, who: Identity, proposal_id: str, ballot: str = YES) -> Answer:
        """Vote."""
        path = f"proposals/{proposal_id}/ballots/{id_of(who)}:submit"
        return self.send(who, "ballot", path, {"ballot": ballot}, proposal_id=proposal_id)

    def read(self, path: str) -> Any:
        """What anybody may read of governance."""
        return json.loads(self.cluster.client(self.host).ask("GET", f"/gov/{path}{VERSION}").body)

    def row(self, name: str, key: bytes = tables.SINGLETON) -> Any:
        """A record of the state."""
        serving: Any = self.host.enclave._serving
        value = serving._replica.store.get(name, key)
        return None if value is None else tables.decode(value)


@pytest.fixture
def consortium() -> Consortium:
    return Consortium()


def shown(answer: Answer) -> dict[str, Any]:
    assert answer.status == 200, answer.body
    found: dict[str, Any] = json.loads(answer.body)
    return found


def code(answer: Answer) -> tuple[int, str]:
    return answer.status, json.loads(answer.body)["error"]["code"]


def opening(consortium: Consortium) -> tuple[str, dict[str, str]]:
    return "transition_service_to_open", {"next_service_identity": consortium.row(tables.SERVICE_INFO)["cert"]}


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
    trusting = shown(consortium.propose(first, ("transition_node_to_trusted", {"node_id": node_id(joiner), "valid_from": "250101000000Z"})))
    for member in (first, second):
        answer = consortium.vote(member, trusting["proposalId"])
    assert code(answer) == (500, "InternalError")  # that certificate would have ended before the service began
    trusting = shown(consortium.propose(first, ("transition_node_to_trusted", {"node_id": node_id(joiner)})))
    for member in (first, second):
        answer = consortium.vote(member, trusting["proposalId"])
    assert shown(answer)["proposalState"] == "Accepted"
    consortium.cluster.until(lambda: joiner.notices.get("open") == "yes")


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
    assert CREATE
