"""`ledgerd node list` and `ledgerd node retire`, against fake nodes that answer as real ones do (`tests/end_to_end` has real ones)."""

import json
from pathlib import Path
from typing import Any

import pytest

from ledgerd.governance import actions, requests
from ledgerd.governance.actions import REMOVE_NODE, Action
from support.cluster import Identity, make_identity
from support.command_line import Ledgerd
from support.fake_service import FakeAnswer, FakeRequest, FakeService, error
from support.members import files

PRIMARY, BACKUP, LEAVING, GONE, WAITING = ("aa" * 32, "ab" * 32, "bb" * 32, "cc" * 32, "dd" * 32)


class Nodes:
    """What a service says of its nodes; a retirement is complete when it was asked for `patience` times."""

    def __init__(self, address: str) -> None:
        self.address = address  # of all of them: there is one fake node
        self.confirms = True
        self.records: dict[str, str] = {PRIMARY: "Trusted", BACKUP: "Trusted", LEAVING: "Retired", GONE: "Retired", WAITING: "Pending"}
        self.removable = {GONE}
        self.patience = 0
        self.proposed: list[requests.SignedRequest] = []
        self.refusal: FakeAnswer | None = None
        self.votes = False  # whether members vote on what is proposed
        self.open: dict[str, bytes] = {}  # on what they vote, by the proposal's name

    def __call__(self, request: FakeRequest) -> FakeAnswer | None:
        path = request.path.partition("?")[0]
        headers = {"x-ms-ccf-transaction-id": "2.7", "preference-applied": "committed"}
        if not self.confirms and "prefer" in request.headers:
            return error(503, "PrimaryNotFound", "No primary is known.")
        if path == "/node/consensus":
            acks = {BACKUP: {"seqno": 7, "last_received_ms": 42}}
            return FakeAnswer(200, headers, json.dumps({"details": {"acks": acks}}).encode())
        if request.method == "GET" and path == "/node/network/nodes":
            return FakeAnswer(200, headers, json.dumps({"nodes": [self.shown(name) for name in self.records]}).encode())
        if path == "/node/network/removable_nodes":
            self.patience -= 1
            if self.patience < 0:
                self.removable |= {name for name, status in self.records.items() if status == "Retired" and name != LEAVING}
            return FakeAnswer(200, headers, json.dumps({"nodes": [self.shown(name) for name in self.removable]}).encode())
        if request.method == "DELETE":
            del self.records[path.rpartition("/")[2]]
            self.removable.discard(path.rpartition("/")[2])
            return FakeAnswer(200, headers, b"true")
        if path == "/gov/members/proposals:create":
            if self.refusal is not None:
                return self.refusal
            assert request.path.endswith("?api-version=2024-07-01")
            assert request.headers["content-type"] == "application/cose"
            self.proposed.append(requests.read(request.body))
            (action,) = actions.read(self.proposed[-1].payload)
            if self.votes:
                self.open["ee" * 32] = self.proposed[-1].payload
                return FakeAnswer(200, headers, json.dumps({"proposalId": "ee" * 32, "proposalState": "Open"}).encode())
            if self.records[action.node_id] == "Pending":
                del self.records[action.node_id]
            else:
                self.records[action.node_id] = "Retired"
            return FakeAnswer(200, headers, json.dumps({"proposalId": "ee" * 32, "proposalState": "Accepted"}).encode())
        if path == "/gov/members/proposals":
            listed = [{"proposalId": "ff" * 32, "proposalState": "Accepted"}]
            listed += [{"proposalId": name, "proposalState": "Open"} for name in self.open]
            return FakeAnswer(200, headers, json.dumps({"value": listed}).encode())
        if path.startswith("/gov/members/proposals/") and path.endswith("/actions"):
            return FakeAnswer(200, headers, self.open[path.split("/")[4]])
        return None

    def shown(self, name: str) -> dict[str, Any]:
        interfaces = {"primary_rpc_interface": {"published_address": self.address}}
        return {"node_id": name, "status": self.records[name], "primary": name == PRIMARY, "rpc_interfaces": interfaces}


@pytest.fixture
def nodes(service: FakeService) -> Nodes:
    nodes = Nodes(service.urls[0].removeprefix("https://"))
    service.nodes[0].behaviour = nodes
    return nodes


@pytest.fixture
def member() -> Identity:
    return make_identity("member0")


@pytest.fixture
def signing(member: Identity, tmp_path: Path) -> list[object]:
    return files(member, tmp_path)


def test_the_list_says_of_each_node_what_it_is_and_whether_it_may_be_stopped(ledgerd: Ledgerd, nodes: Nodes, options: list[object]) -> None:
    nodes.patience = 2
    ran = ledgerd("node", "list", "-o", "json", *options)
    assert (ran.status, ran.json["schema"]) == (0, "ledgerd.node_list.v1")
    assert ran.json["confirmed"] is True
    rows = [tuple(item[name] for name in ("node_id", "status", "role", "retirement", "removable")) for item in ran.json["items"]]
    assert rows == [
        (PRIMARY, "Trusted", "primary", None, False),
        (BACKUP, "Trusted", "backup", None, False),
        (WAITING, "Pending", None, None, False),
        (LEAVING, "Retired", None, "under way", False),
        (GONE, "Retired", None, "complete", True),
    ]
    assert ran.json["items"][0]["address"] == nodes.address
    assert [(item["stored"], item["silent_ms"]) for item in ran.json["items"][:3]] == [(None, None), (7, 42), (None, None)]
    lines = ledgerd("node", "list", *options).out.splitlines()
    assert lines[0].split("\t") == ["node_id", "status", "role", "stored", "silent_ms", "retirement", "removable", "address"]
    assert lines[1].split("\t") == [PRIMARY, "Trusted", "primary", "-", "-", "-", "no", nodes.address]
    assert lines[2].split("\t") == [BACKUP, "Trusted", "backup", "7", "42", "-", "no", nodes.address]


def test_without_a_majority_the_list_is_what_one_node_last_knew(ledgerd: Ledgerd, nodes: Nodes, options: list[object]) -> None:
    nodes.confirms = False
    ran = ledgerd("node", "list", "-o", "json", *options, "--timeout", 3.0)
    assert (ran.status, ran.json["confirmed"]) == (1, False)
    assert [(item["node_id"], item["role"]) for item in ran.json["items"][:2]] == [(PRIMARY, None), (BACKUP, None)]
    assert "No majority of the nodes confirms this" in ran.err
    assert "503 PrimaryNotFound" in ran.err
    assert "`ledgerd status` shows who answers" in ran.err


def test_where_no_node_answers_the_addresses_are_told(ledgerd: Ledgerd, nodes: Nodes, service: FakeService, options: list[object]) -> None:
    service.nodes[0].behaviour = lambda request: error(503, "PrimaryNotFound")
    ran = ledgerd("node", "list", "-o", "json", *options, "--timeout", 3.0)
    assert (ran.status, ran.json["error"]["code"]) == (1, "NoAnswer")
    assert service.urls[0] in ran.json["error"]["message"]


def test_the_list_is_good_without_what_only_the_primary_knows(ledgerd: Ledgerd, nodes: Nodes, options: list[object]) -> None:
    nodes.address = "127.0.0.1:9"
    ran = ledgerd("node", "list", "-o", "json", *options, "--timeout", 3.0)
    assert (ran.status, ran.json["confirmed"]) == (0, True)
    assert {item["stored"] for item in ran.json["items"]} == {None}


def test_a_node_is_retired_by_what_the_member_signed_and_waited_for(
    ledgerd: Ledgerd, nodes: Nodes, options: list[object], signing: list[object], member: Identity
) -> None:
    nodes.patience = 4
    ran = ledgerd("node", "retire", f"{BACKUP[:8]}...", *signing, *options)
    assert ran.status == 0
    assert ran.fields == {
        "node_id": BACKUP,
        "address": nodes.address,
        "proposal_id": "ee" * 32,
        "transaction_id": "2.7",
        "removable": "yes",
        "deleted": "no",
    }
    (request,) = nodes.proposed
    requests.verify(request, member.certificate)
    assert actions.read(request.payload) == (Action(REMOVE_NODE, BACKUP),)
    said = ran.err.splitlines()
    assert [line.partition(":")[0] for line in said] == [f"{BACKUP[:16]}...", "Ordered, Signed, Completed", "RetiredCommitted"]
    assert nodes.patience < 0, "it has waited"


def test_the_record_is_deleted_where_that_is_wanted_also_later(
    ledgerd: Ledgerd, nodes: Nodes, options: list[object], signing: list[object]
) -> None:
    ran = ledgerd("node", "retire", BACKUP, "--delete", "-o", "json", *signing, *options)
    assert (ran.status, ran.json["deleted"]) == (0, True)
    assert BACKUP not in nodes.records
    ran = ledgerd("node", "retire", GONE, "--delete", "-o", "json", *signing, *options)
    assert (ran.status, ran.json["proposal_id"], ran.json["deleted"]) == (0, None, True)
    assert "was retired before" in ran.err
    assert GONE not in nodes.records


def test_a_node_that_waits_is_forgotten_without_waiting(
    ledgerd: Ledgerd, nodes: Nodes, options: list[object], signing: list[object]
) -> None:
    ran = ledgerd("node", "retire", WAITING, "-o", "json", *signing, *options)
    assert (ran.status, ran.json["removable"], ran.json["deleted"]) == (0, True, True)
    assert WAITING not in nodes.records


def test_where_members_vote_it_is_not_called_retired_before_they_have(
    ledgerd: Ledgerd, nodes: Nodes, options: list[object], signing: list[object]
) -> None:
    nodes.votes = True
    nodes.open = {
        "a1" * 32: json.dumps({"actions": [{"name": "trigger_snapshot"}]}).encode(),
        "a2" * 32: json.dumps({"actions": [{"name": "remove_node", "args": {"node_id": PRIMARY}}]}).encode(),
    }
    for _ in range(2):  # who asks again does not propose again
        ran = ledgerd("node", "retire", BACKUP, *signing, *options)
        assert (ran.status, ran.out) == (1, "")
        assert f"is not retired: proposal {'ee' * 32} is Open" in ran.err
        assert "Completed" not in ran.err
        assert "Do not stop it" in ran.err
        assert f"ledgerd gov vote {'ee' * 32} --for" in ran.err
    assert len(nodes.proposed) == 1
    nodes.records[BACKUP] = "Retired"  # they have accepted
    ran = ledgerd("node", "retire", BACKUP, "-o", "json", *signing, *options)
    assert (ran.status, ran.json["removable"]) == (0, True)
    assert len(nodes.proposed) == 1


def test_what_is_not_recorded_in_time_is_a_failure_that_says_what_not_to_do(
    ledgerd: Ledgerd, nodes: Nodes, options: list[object], signing: list[object]
) -> None:
    ran = ledgerd("node", "retire", LEAVING, *signing, *options, "--timeout", 3.0)
    assert (ran.status, ran.out) == (1, "")
    assert "Do not stop it" in ran.err


def test_without_a_majority_nothing_is_proposed(ledgerd: Ledgerd, nodes: Nodes, options: list[object], signing: list[object]) -> None:
    nodes.confirms = False
    ran = ledgerd("node", "retire", BACKUP, *signing, *options, "--timeout", 3.0)
    assert (ran.status, ran.out, nodes.proposed) == (1, "", [])
    assert "nothing was proposed: no majority of the nodes answers" in ran.err
    assert "Nodes that have ended do not come back" in ran.err


def test_where_nobody_is_there_that_is_told_and_not_a_lost_majority(
    ledgerd: Ledgerd, nodes: Nodes, service: FakeService, options: list[object], signing: list[object]
) -> None:
    service.nodes[0].stop()
    ran = ledgerd("node", "retire", BACKUP, "-o", "json", *signing, *options, "--timeout", 3.0)
    assert (ran.status, ran.json["error"]["code"]) == (1, "NoAnswer")
    assert service.urls[0] in ran.json["error"]["message"]


def test_who_is_no_member_is_told_which_certificate_was_used(
    ledgerd: Ledgerd, nodes: Nodes, options: list[object], signing: list[object]
) -> None:
    nodes.refusal = error(401, "InvalidAuthenticationInfo", "Signer is not a known member")
    ran = ledgerd("node", "retire", BACKUP, *signing, *options)
    assert (ran.status, ran.out) == (1, "")
    assert f"nothing was proposed: {signing[1]} is not the certificate of a member" in ran.err
    assert "Signer is not a known member" in ran.err


def test_a_proposal_that_is_not_confirmed_is_told_from_one_that_was_not_made(
    ledgerd: Ledgerd, nodes: Nodes, options: list[object], signing: list[object]
) -> None:
    nodes.refusal = error(504, "OutcomeUnknown")
    ran = ledgerd("node", "retire", BACKUP, "-o", "json", *signing, *options, "--timeout", 3.0)
    assert (ran.status, ran.json["error"]["code"]) == (1, "NotRetired")
    assert "is proposed to leave, and no majority of the nodes has confirmed it" in ran.json["error"]["message"]
    assert "Do not stop it. Run this command again" in ran.json["error"]["message"]


def test_the_services_refusal_is_shown_with_its_code(ledgerd: Ledgerd, nodes: Nodes, options: list[object], signing: list[object]) -> None:
    nodes.refusal = error(400, "LastNode", "Let another one join first.")
    ran = ledgerd("node", "retire", PRIMARY, "-o", "json", *signing, *options)
    assert (ran.status, ran.json["error"]["code"]) == (1, "RequestRefused")
    assert "400 LastNode: Let another one join first." in ran.json["error"]["message"]


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [("ee" * 32, 1, "has no node"), ("aa", 2, "is no node's name"), ("AA" * 32, 2, "is no node's name"), ("zz" * 32, 2, "no node's name")],
)
def test_a_name_that_is_none_is_told(
    ledgerd: Ledgerd, nodes: Nodes, options: list[object], signing: list[object], name: str, status: int, words: str
) -> None:
    ran = ledgerd("node", "retire", name, *signing, *options)
    assert ran.status == status
    assert words in ran.err


def test_a_name_of_two_nodes_is_misuse(ledgerd: Ledgerd, nodes: Nodes, options: list[object], signing: list[object]) -> None:
    nodes.records["ab" * 4 + "00" * 28] = "Trusted"
    ran = ledgerd("node", "retire", "ab" * 4, *signing, *options)
    assert ran.status == 2
    assert "begins the names of 2 nodes" in ran.err
    assert nodes.proposed == []


def test_members_files_are_looked_at_before_anything_is_asked(
    ledgerd: Ledgerd, service: FakeService, options: list[object], signing: list[object], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    elsewhere = files(make_identity("member1"), other)
    rsa = tmp_path / "rsa.pem"
    rsa.write_text("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n")
    for given, words in (
        ([], "give both"),
        (signing[:2], "give both"),
        ([*signing[:2], *elsewhere[2:]], "is not the key of the certificate"),
        ([*signing[:2], "--member-key", rsa], "is not a private key"),
        (["--member-cert", rsa, *signing[2:]], "is not a certificate"),
    ):
        ran = ledgerd("node", "retire", BACKUP, *given, *options)
        assert (ran.status, words in ran.err) == (2, True), ran.err
    assert service.nodes[0].requests == []


def test_in_the_folder_of_dev_member0_signs(
    ledgerd: Ledgerd, nodes: Nodes, options: list[object], signing: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = tmp_path / "common"
    common.mkdir()
    for option, name in ((signing[1], "member0_cert.pem"), (signing[3], "member0_privk.pem")):
        (common / name).write_bytes(Path(str(option)).read_bytes())
    monkeypatch.setenv("LEDGERD_DIR", str(tmp_path))
    assert ledgerd("node", "retire", BACKUP, *options).status == 0
    assert len(nodes.proposed) == 1
