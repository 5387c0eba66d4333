"""Members' proposals: who may, what is refused by which code, and what an auditor finds of it in the ledger."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from ledgerd.apps.logging import app
from ledgerd.enclave.governing.proposing import CREATED_AHEAD_SECONDS_MAX
from ledgerd.enclave.keys import parse_certificate
from ledgerd.enclave.outbound import Answer
from ledgerd.governance import requests, tables
from ledgerd.governance.actions import REMOVE_NODE, TRUST_NODE, Action
from ledgerd.ledger import cose
from ledgerd.ledger.audit import Auditor
from ledgerd.ledger.entry import read_public
from support.cluster import Cluster, Host, make_identity
from support.members import CREATE, SIGNED_AT, envelope, node_id, retire, send, trust

NOBODY = "ab" * 32


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster(app)
    cluster.start(3)
    cluster.run(0.3)
    return cluster


def code(answer: Answer) -> tuple[int, str]:
    return answer.status, json.loads(answer.body)["error"]["code"]


def details(answer: Answer) -> str:
    text: str = json.loads(answer.body)["error"]["details"][0]["message"]
    return text


def statuses(cluster: Cluster, host: Host) -> dict[str, str]:
    nodes = json.loads(cluster.client(host).ask("GET", "/node/network/nodes").body)["nodes"]
    return {node["node_id"]: node["status"] for node in nodes}


def writes(host: Host, name: str) -> Iterator[tuple[str, bytes | None]]:
    """Everything that a node's disk has of a public map, in order."""
    for data in host.entries:
        for key, value in read_public(data).writes.get(name, {}).items():
            yield key.decode(), value


# Who may.


def test_an_active_members_proposal_is_accepted_at_once_and_shown_as_ccf_does(cluster: Cluster) -> None:
    n0, _, n2 = cluster.hosts.values()
    answer = retire(cluster, n0, n2)
    assert answer.status == 200
    assert "x-ms-ccf-transaction-id" in answer.headers
    shown = json.loads(answer.body)
    assert shown.keys() == {"proposalId", "proposerId", "proposalState", "ballotCount", "finalVotes", "voteFailures"}
    assert (shown["proposalState"], shown["ballotCount"]) == ("Accepted", 0)
    assert shown["proposerId"] == requests.member_id_of(cluster.member.certificate)
    client = cluster.client(n0)
    assert json.loads(client.ask("GET", f"/gov/members/proposals/{shown['proposalId']}?api-version=2024-07-01").body) == shown
    assert json.loads(client.ask("GET", "/gov/members/proposals?api-version=2024-07-01").body) == {"value": [shown]}
    actions = client.ask("GET", f"/gov/members/proposals/{shown['proposalId']}/actions?api-version=2024-07-01")
    assert json.loads(actions.body) == {"actions": [{"name": "remove_node", "args": {"node_id": node_id(n2)}}]}
    assert code(client.ask("GET", f"/gov/members/proposals/{NOBODY}?api-version=2024-07-01")) == (404, "ProposalNotFound")
    assert code(client.ask("GET", f"/gov/members/proposals/{NOBODY}/actions?api-version=2024-07-01")) == (404, "ProposalNotFound")


def test_a_backup_passes_a_proposal_to_the_primary(cluster: Cluster) -> None:
    n0, n1, n2 = cluster.hosts.values()
    assert retire(cluster, n1, n2).status == 200
    assert statuses(cluster, n0)[node_id(n2)] == "Retired"


def test_strangers_users_and_forgers_are_refused_with_the_reason(cluster: Cluster) -> None:
    n0, _, n2 = cluster.hosts.values()
    action = Action(REMOVE_NODE, node_id(n2))
    good = envelope(cluster.member, action)
    for body, reason in (
        (b"", "parse"),
        (b"{}", "parse"),
        (envelope(make_identity("stranger"), action), "not a known member"),
        (envelope(cluster.user, action), "not a known member"),
        (cose.encode(cose.decode(good)._replace(payload=b'{"actions":[]}')), "verify"),
    ):
        answer = send(cluster, n0, body)
        assert code(answer) == (401, "InvalidAuthenticationInfo")
        assert reason in details(answer)
        assert answer.headers["www-authenticate"] == 'COSE-SIGN1 realm="Signed request access"'
    answer = send(cluster, n0, good, content_type="application/json")
    assert code(answer) == (401, "InvalidAuthenticationInfo")
    assert "Content type" in details(answer)
    assert "Retired" not in statuses(cluster, n0).values()


def test_a_member_who_has_not_agreed_yet_is_refused() -> None:
    cluster = Cluster(app)
    (n0,) = cluster.start(1, admission="vote")  # whose members have to acknowledge before they are active
    answer = retire(cluster, n0, n0)
    assert code(answer) == (401, "InvalidAuthenticationInfo")
    assert "not an active member" in details(answer)


def test_a_request_signed_for_something_else_is_no_proposal(cluster: Cluster) -> None:
    n0, _, n2 = cluster.hosts.values()
    answer = send(cluster, n0, envelope(cluster.member, Action(REMOVE_NODE, node_id(n2)), kind="ballot"))
    assert code(answer) == (401, "InvalidAuthenticationInfo")
    assert "signed as a ballot" in details(answer)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", "MissingApiVersionParameter"),
        ("?api-version=2022-06-01-preview", "UnsupportedApiVersionValue"),
        ("?api-version=", "UnsupportedApiVersionValue"),
    ],
)
def test_the_version_of_the_api_is_demanded(cluster: Cluster, query: str, expected: str) -> None:
    n0, _, n2 = cluster.hosts.values()
    body = envelope(cluster.member, Action(REMOVE_NODE, node_id(n2)))
    assert code(send(cluster, n0, body, CREATE.partition("?")[0] + query)) == (400, expected)
    assert code(cluster.client(n0).ask("GET", f"/gov/members/proposals{query}")) == (400, expected)


# Replays.


def test_the_same_request_again_is_refused_though_sent_to_another_node(cluster: Cluster) -> None:
    n0, n1, n2 = cluster.hosts.values()
    body = envelope(cluster.member, Action(REMOVE_NODE, node_id(n2)))
    first = send(cluster, n0, body)
    assert code(send(cluster, n0, body)) == (400, "ProposalReplay")
    answer = send(cluster, n1, body)
    assert code(answer) == (400, "ProposalReplay")
    assert json.loads(first.body)["proposalId"] in json.loads(answer.body)["error"]["message"]


def test_a_repeated_request_with_an_idempotency_key_gets_the_first_answer(cluster: Cluster) -> None:
    n0, _, n2 = cluster.hosts.values()
    body = envelope(cluster.member, Action(REMOVE_NODE, node_id(n2)))
    first, again = (send(cluster, n0, body, idempotency_key="once") for _ in range(2))
    assert (first.status, again.status, again.body) == (200, 200, first.body)


def test_what_is_older_than_the_median_of_a_full_window_is_refused(cluster: Cluster) -> None:
    """A window of four: a request that has fallen out of it is older than what is still taken, so it cannot come again."""
    n0, *_ = cluster.hosts.values()
    serving: Any = n0.enclave._serving
    config = tables.decode(serving._replica.store.get(tables.SERVICE_CONFIG, tables.SINGLETON))
    assert config["recent_cose_proposals_window_size"] == 100
    small = tables.encode({**config, "recent_cose_proposals_window_size": 4})
    serving._apply_and_propose({tables.SERVICE_CONFIG: {tables.SINGLETON: small}})
    joiners = iter(range(1, 20))
    sent: dict[int, bytes] = {}

    def propose(at: int) -> Answer:
        """Something harmless that is accepted: a node that waits is forgotten."""
        waiting = f"{next(joiners):064x}"
        record = {"status": tables.PENDING, "retired_committed": False}
        serving._apply_and_propose({tables.NODE_INFO: {waiting.encode(): tables.encode(record)}})
        sent[at] = envelope(cluster.member, Action(REMOVE_NODE, waiting), created_at=at)
        return send(cluster, n0, sent[at])

    assert [propose(at).status for at in (10, 30, 20, 40)] == [200] * 4
    answer = propose(29)  # the window is full: 10, 20, 30, 40, with median 30
    assert code(answer) == (400, "ProposalCreatedTooLongAgo")
    assert "at least 30" in json.loads(answer.body)["error"]["message"]
    assert propose(31).status == 200  # 10 falls out
    assert code(send(cluster, n0, sent[10])) == (400, "ProposalCreatedTooLongAgo")
    assert code(send(cluster, n0, sent[40])) == (400, "ProposalReplay")
    assert len(dict(serving._replica.store.map(tables.COSE_RECENT_PROPOSALS).items())) == 4


def test_what_falls_out_of_a_window_of_one_second_cannot_come_back(cluster: Cluster) -> None:
    n0, *_ = cluster.hosts.values()
    serving: Any = n0.enclave._serving
    config = tables.decode(serving._replica.store.get(tables.SERVICE_CONFIG, tables.SINGLETON))
    small = tables.encode({**config, "recent_cose_proposals_window_size": 4})
    serving._apply_and_propose({tables.SERVICE_CONFIG: {tables.SINGLETON: small}})
    sent = []
    for number in range(1, 6):
        waiting = f"{number:064x}"
        record = tables.encode({"status": tables.PENDING, "retired_committed": False})
        serving._apply_and_propose({tables.NODE_INFO: {waiting.encode(): record}})
        sent.append(envelope(cluster.member, Action(REMOVE_NODE, waiting), created_at=SIGNED_AT))
    sent.sort(key=lambda body: requests.read(body).replay_key)
    assert [send(cluster, n0, body).status for body in sent] == [200] * 5  # the first one falls out
    refused = [code(send(cluster, n0, body)) for body in sent]
    assert refused == [(400, "ProposalCreatedTooLongAgo")] + 4 * [(400, "ProposalReplay")]


@pytest.mark.parametrize(("seconds", "accepted"), [(CREATED_AHEAD_SECONDS_MAX - 60, True), (CREATED_AHEAD_SECONDS_MAX + 60, False)])
def test_a_request_of_the_future_is_refused(cluster: Cluster, seconds: int, accepted: bool) -> None:
    n0, _, n2 = cluster.hosts.values()
    serving: Any = n0.enclave._serving
    at = serving.status.now_ms // 1000 + seconds
    answer = send(cluster, n0, envelope(cluster.member, Action(REMOVE_NODE, node_id(n2)), created_at=at))
    assert (answer.status == 200) is accepted
    assert accepted or code(answer) == (400, "InvalidCreatedAt")


def test_a_time_of_more_than_ten_digits_is_refused(cluster: Cluster) -> None:
    n0, _, n2 = cluster.hosts.values()
    body = requests.read(envelope(cluster.member, Action(REMOVE_NODE, node_id(n2))))
    header = {**body.message.protected, requests.HEADER_CREATED_AT: requests.CREATED_AT_MAX + 1}
    del header[cose.HEADER_ALGORITHM]
    assert code(send(cluster, n0, cose.sign(cluster.member.key, header, body.payload))) == (400, "InvalidCreatedAt")


# What is refused.


def test_what_would_harm_the_service_is_refused_by_code(cluster: Cluster) -> None:
    n0, n1, n2 = cluster.hosts.values()
    bad = requests.sign(cluster.member.key, cluster.member.certificate, requests.PROPOSAL, b'{"actions":1}', created_at=SIGNED_AT)
    assert code(send(cluster, n0, bad)) == (400, "ProposalFailedToValidate")
    assert code(retire(cluster, n0, NOBODY)) == (400, "ProposalFailedToValidate")
    assert code(retire(cluster, n0, n0, n1, n2)) == (400, "LastNode")
    assert retire(cluster, n0, n2).status == 200
    answer = trust(cluster, n0, node_id(n2))
    assert code(answer) == (500, "InternalError")
    assert "is Retired; only a node that waits" in json.loads(answer.body)["error"]["message"]
    cluster.run(0.2)
    assert len(list(writes(n0, tables.PROPOSALS))) == 1, "what is refused leaves nothing"


def test_a_node_that_is_up_stays_while_too_few_others_are_and_one_that_is_down_may_go() -> None:
    cluster = Cluster(app)
    n0, n1, n2, n3, n4 = cluster.start(5)
    cluster.run(0.3)
    cluster.kill(n3)
    cluster.kill(n4)
    cluster.run(1.2)  # until the primary has heard nothing of them for an election timeout
    answer = retire(cluster, n0, n1)  # would leave n0 and n2 of four
    assert code(answer) == (400, "TooFewLiveNodes")
    message = json.loads(answer.body)["error"]["message"]
    assert "3 have to be up" in message
    assert node_id(n3)[:16] in message
    assert node_id(n4)[:16] in message
    assert retire(cluster, n0, n3).status == 200
    cluster.run(0.2)
    assert retire(cluster, n0, n1, n4, created_at=SIGNED_AT + 1).status == 200, "both at once leave n0 and n2, both up"
    cluster.run(0.2)
    assert cluster.client(n2).ask("PUT", "/app/records/k", b"v", prefer="committed").status == 204


# What is recorded.


def test_an_auditor_finds_who_asked_for_what_and_that_he_signed_it(cluster: Cluster) -> None:
    n0, _, n2 = cluster.hosts.values()
    shown = json.loads(retire(cluster, n0, n2).body)
    cluster.run(0.2)
    member = requests.member_id_of(cluster.member.certificate)
    ((key, value),) = writes(n0, tables.COSE_HISTORY)
    assert key == member
    request = requests.read(base64.b64decode(tables.decode(value or b"")))
    certificates = dict(writes(n0, tables.MEMBER_CERTS))
    requests.verify(request, parse_certificate((certificates[member] or b"").decode()))
    assert dict(writes(n0, tables.PROPOSALS)) == {shown["proposalId"]: request.payload}
    ((key, value),) = writes(n0, tables.PROPOSALS_INFO)
    assert key == shown["proposalId"]
    undisputed: dict[str, object] = {"ballots": {}, "final_votes": {}, "vote_failures": {}}
    assert tables.decode(value or b"") == {"proposer_id": member, "state": "Accepted", **undisputed}
    ((key, value),) = writes(n0, tables.COSE_RECENT_PROPOSALS)
    assert (key, tables.decode(value or b"")) == (request.replay_key, shown["proposalId"])
    auditor = Auditor(n0.notices["service_certificate"])
    for data in n0.entries:
        auditor.feed(data)
    assert auditor.result().last_signed == auditor.result().last_transaction_id


def test_of_decided_proposals_the_last_one_is_kept_in_the_state(cluster: Cluster) -> None:
    n0, n1, n2 = cluster.hosts.values()
    first = json.loads(retire(cluster, n0, n2).body)["proposalId"]
    cluster.run(0.2)
    second = json.loads(retire(cluster, n0, n1, created_at=SIGNED_AT + 1).body)["proposalId"]
    kept = json.loads(cluster.client(n0).ask("GET", "/gov/members/proposals?api-version=2024-07-01").body)["value"]
    assert [item["proposalId"] for item in kept] == [second]
    assert [key for key, value in writes(n0, tables.PROPOSALS) if value is not None] == [first, second]


# Trusting a node that waits.


def waiting(cluster: Cluster) -> tuple[Host, str]:
    """A joiner whose polls do not get through after the first, so that it stays Pending."""
    n0 = cluster.hosts["n0"]
    joiner = cluster.join("late")
    cluster.until(lambda: "Pending" in statuses(cluster, n0).values())
    cluster.cut = lambda a, b: joiner in (a, b)
    cluster.run(0.2)
    return joiner, node_id(joiner)


def test_a_member_trusts_a_node_that_waits_for_so_many_days(cluster: Cluster) -> None:
    n0 = cluster.hosts["n0"]
    joiner, name = waiting(cluster)
    body = envelope(cluster.member, Action(TRUST_NODE, name, None, 30))
    assert send(cluster, n0, body).status == 200
    assert statuses(cluster, n0)[name] == "Trusted"
    (certificate,) = (value for key, value in writes(n0, tables.NODE_ENDORSED_CERTIFICATES) if key == name)
    endorsed = parse_certificate((certificate or b"").decode())
    assert (endorsed.not_valid_after_utc - endorsed.not_valid_before_utc).days == 30
    cluster.cut = lambda a, b: False
    cluster.until(lambda: joiner.notices.get("open") is not None)


@pytest.mark.parametrize(("valid_from", "days"), [("20200101000000Z", 30), ("20990101000000Z", 30), (None, 366)])
def test_a_certificate_that_is_not_valid_now_or_too_long_is_refused(cluster: Cluster, valid_from: str | None, days: int) -> None:
    n0 = cluster.hosts["n0"]
    _, name = waiting(cluster)
    arguments = {"node_id": name, "validity_period_days": days, **({} if valid_from is None else {"valid_from": valid_from})}
    payload = json.dumps({"actions": [{"name": TRUST_NODE, "args": arguments}]}).encode()
    body = requests.sign(cluster.member.key, cluster.member.certificate, requests.PROPOSAL, payload, created_at=SIGNED_AT)
    assert code(send(cluster, n0, body)) == (500, "InternalError")
    assert statuses(cluster, n0)[name] == "Pending"


def test_a_node_that_waits_can_be_removed_and_does_not_come_back(cluster: Cluster) -> None:
    n0 = cluster.hosts["n0"]
    joiner, name = waiting(cluster)
    assert retire(cluster, n0, name).status == 200
    assert name not in statuses(cluster, n0)
    cluster.cut = lambda a, b: False
    cluster.until(lambda: joiner.stopped is not None)
    assert "is for good no more" in joiner.notices["refused"]
    assert name not in statuses(cluster, n0)
