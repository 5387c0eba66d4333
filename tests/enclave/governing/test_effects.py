"""What a proposal would do, shown to members: as it would be done, and nothing of it is."""

import base64
import json
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from ledgerd.apps.logging import app
from ledgerd.enclave.requests import Request, Response
from ledgerd.governance import descriptions, requests, tables
from support.cluster import Cluster
from support.council import Assembly
from support.executing import CERTIFICATE, NOW_S, STRANGER, USER
from support.governed import ALICE, BOB, CAROL, VERSION, code, id_of
from support.members import SIGNED_AT

NAME = "0a" * 32
CHANGE = {"name": "set_member_data", "args": {"member_id": id_of(BOB), "member_data": {"name": "Bank B"}}}


@pytest.fixture
def node() -> Assembly:
    return Assembly()


def put(node: Assembly, *actions: Any, state: str = "Open") -> None:
    info = {"proposer_id": id_of(ALICE), "state": state, "ballots": {}}
    text = json.dumps({"actions": actions}).encode()
    node.put({tables.PROPOSALS: {NAME.encode(): text}, tables.PROPOSALS_INFO: {NAME.encode(): tables.encode(info)}})


def effects(node: Assembly, caller: str = id_of(ALICE), name: str = NAME) -> Response:
    return node.answer("GET", f"/gov/members/proposals/{name}/effects{VERSION}", caller=caller)


def preview(node: Assembly, proposal: Any, caller: str = id_of(ALICE), **headers: str) -> Response:
    body = proposal if isinstance(proposal, bytes) else json.dumps(proposal).encode()
    given = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return node.answer("POST", f"/gov/members/proposals:preview{VERSION}", body, caller=caller, headers=given)


def found(response: Response) -> dict[str, Any]:
    assert response.status == 200, response.body
    told: dict[str, Any] = json.loads(response.body)
    return told


def data(value: dict[str, Any] | None) -> Any:
    return None if value is None else json.loads(base64.b64decode(value["data"]))


def test_members_see_what_would_change_and_nothing_does(node: Assembly) -> None:
    put(node, CHANGE)
    version = node.store.version
    told = found(effects(node))
    assert (told["valid"], told["description"], told["changesLeftOut"], "failure" in told) == (True, "", 0, False)
    (change,) = told["changes"]
    assert (change["table"], base64.b64decode(change["key"]).decode()) == (tables.MEMBER_INFO, id_of(BOB))
    assert (data(change["before"])["member_data"], data(change["after"])["member_data"]) == ("bob", {"name": "Bank B"})
    assert found(preview(node, {"actions": [CHANGE]})) == told
    assert node.store.version == version
    assert node.row(tables.MEMBER_INFO, id_of(BOB))["member_data"] == "bob"


def test_what_would_be_added_and_removed_has_one_side(node: Assembly) -> None:
    told = found(preview(node, {"actions": [{"name": "remove_user", "args": {"user_id": USER}}]}))
    assert {(change["table"], change["after"]) for change in told["changes"]} == {(tables.USER_CERTS, None), (tables.USER_INFO, None)}
    assert data(told["changes"][1]["before"]) == {"user_data": {"role": "clerk"}}
    policy = {"name": "set_proposal_policy", "args": {"lifetime_hours": 5}}
    (change,) = found(preview(node, {"actions": [policy]}))["changes"]
    assert (change["before"], data(change["after"])) == (None, {"lifetime_hours": 5})


def test_other_proposals_that_would_be_dropped_are_among_the_changes(node: Assembly) -> None:
    put(node, CHANGE)
    told = found(preview(node, {"actions": [{"name": "set_proposal_policy", "args": {}}]}))
    assert [data(change["after"])["state"] for change in told["changes"] if change["table"] == tables.PROPOSALS_INFO] == ["Dropped"]


@pytest.mark.parametrize("caller", ["", USER, STRANGER])
def test_only_members_may_ask(node: Assembly, caller: str) -> None:
    put(node, CHANGE)
    assert code(effects(node, caller)) == (401, "InvalidAuthenticationInfo")
    assert code(preview(node, {"actions": [CHANGE]}, caller)) == (401, "InvalidAuthenticationInfo")


def test_a_member_that_has_not_acknowledged_yet_may_look(node: Assembly) -> None:
    put(node, CHANGE)
    assert found(effects(node, id_of(CAROL)))["valid"]


def test_a_signed_proposal_is_not_what_is_previewed(node: Assembly) -> None:
    body = json.dumps({"actions": [CHANGE]}).encode()
    signed = requests.sign(ALICE.key, ALICE.certificate, requests.PROPOSAL, body, created_at=SIGNED_AT)
    assert code(preview(node, signed, content_type="application/cose")) == (400, "InvalidInput")


@pytest.mark.parametrize(
    ("proposal", "words"),
    [
        (b"{", "this is no JSON"),
        (b"\xff", "it is no UTF-8"),
        ({"actions": [{"name": "make_me_rich"}]}, "make_me_rich at position 0"),
        ({"actions": [{"name": "set_recovery_threshold", "args": {"recovery_threshold": 0}}]}, "from 1 to 254"),
    ],
)
def test_what_is_not_valid_is_told_in_the_constitutions_words(node: Assembly, proposal: Any, words: str) -> None:
    told = found(preview(node, proposal))
    assert (told["valid"], told["changes"], words in told["description"]) == (False, [], True), told


def test_what_cannot_be_applied_is_told_and_shows_no_half_of_it(node: Assembly) -> None:
    missing = {"name": "set_user_data", "args": {"user_id": "ff" * 32, "user_data": {}}}
    told = found(preview(node, {"actions": [CHANGE, missing]}))
    assert (told["valid"], told["changes"]) == (True, [])
    assert "set_user_data at position 1: there is no user" in told["failure"]


def test_a_name_that_is_none_and_a_proposal_that_is_decided(node: Assembly) -> None:
    assert code(effects(node)) == (404, "ProposalNotFound")
    assert code(effects(node, name="x")) == (400, "InvalidResourceName")
    put(node, CHANGE, state="Accepted")
    assert code(effects(node)) == (400, "ProposalNotOpen")
    response = node.answer("POST", "/gov/members/proposals:preview", b"{}", caller=id_of(ALICE))
    assert code(response) == (400, "MissingApiVersionParameter")


def test_an_idempotency_key_makes_no_entry_of_it(node: Assembly) -> None:
    version = node.store.version
    found(preview(node, {"actions": [CHANGE]}, idempotency_key="k" * 22))
    assert node.store.version == version


def test_one_is_answered_at_a_time(node: Assembly) -> None:
    put(node, CHANGE)
    path = f"/gov/members/proposals/{NAME}/effects"
    for _ in range(2):
        request = Request("reply", "GET", path, VERSION[1:], {}, b"", CERTIFICATE, id_of(ALICE))
        request.now_s = NOW_S
        outcome = node._execute(request)
        assert outcome.endpoint is not None
        assert outcome.params is not None
        node.scripting.begin(request, outcome.endpoint, outcome.params)
    refused = node.scripting.take_finished()
    assert refused is not None
    answer = node._execute(refused.request, refused).response
    assert answer is not None
    assert code(answer) == (503, "TooManyPendingTransactions")
    assert node.scripting.take_finished() is None
    node.workers.turn(0.0)
    first = node.scripting.take_finished()
    assert first is not None
    answer = node._execute(first.request, first).response
    assert answer is not None
    assert answer.status == 200
    assert found(effects(node))["valid"]  # and another one after it


def test_a_certificate_that_is_only_shown_is_signed_by_nobody(node: Assembly) -> None:
    """One member alone must not get from the service what takes a vote."""
    action = {"name": "set_service_certificate_validity", "args": {"valid_from": "20260501000000Z", "validity_period_days": 365}}
    node.now_ms_is = 1_780_000_000_000
    (change,) = found(preview(node, {"actions": [action]}))["changes"]
    shown = x509.load_pem_x509_certificate(data(change["after"])["cert"].encode())
    assert shown.public_key() == node.service.certificate.public_key()
    assert shown.subject == node.service.certificate.subject
    with pytest.raises(InvalidSignature):
        shown.verify_directly_issued_by(node.service.certificate)
    node.service.renewed(shown.not_valid_before_utc, 365).verify_directly_issued_by(node.service.certificate)


@pytest.mark.parametrize("begins", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_a_time_that_no_calendar_has_is_refused_with_the_reason(node: Assembly, begins: str) -> None:
    action = {"name": "set_service_certificate_validity", "args": {"valid_from": begins, "validity_period_days": 365}}
    assert "is no time such as" in found(preview(node, {"actions": [action]}))["failure"]


def test_a_new_ledger_secret_that_is_only_shown_is_never_made(node: Assembly) -> None:
    told = found(preview(node, {"actions": [{"name": "trigger_ledger_rekey"}]}))
    shown = {change["table"]: data(change["after"]) for change in told["changes"]}
    assert shown == {
        tables.ENCRYPTED_LEDGER_SECRETS: {},  # there are no nodes here
        tables.EARLIER_EPOCH: {"previous_ledger_secret": {"encrypted_data": "(encrypted)", "version": 1}},
    }
    assert node.logs == []


def test_a_member_asks_any_node_of_a_service() -> None:
    cluster = Cluster(app)
    _, backup = cluster.start(2)
    body = json.dumps({"actions": [{"name": "set_proposal_policy", "args": {"lifetime_hours": 1}}]}).encode()
    path = f"/gov/members/proposals:preview{VERSION}"
    answer = cluster.client(backup, cluster.member).ask("POST", path, body, content_type="application/json")
    assert answer.status == 200, answer.body
    assert [change["table"] for change in json.loads(answer.body)["changes"]] == ["public:ccf.gov.ledgerd.proposal_policy"]
    assert cluster.client(backup, cluster.user).ask("POST", path, body, content_type="application/json").status == 401


# The answer's size.


def told(*values: bytes) -> list[bool]:
    """Which values are there with their data."""
    shown = descriptions.effects((f"t{number}", b"k", None, value) for number, value in enumerate(values))
    after: list[Any] = [change["after"] or {} for change in shown["changes"]]
    assert all(len(base64.b64decode(value["data"])) == value["sizeBytes"] for value in after if "data" in value)
    return ["data" in value for value in after]


def test_large_values_are_told_by_size_and_digest(node: Assembly) -> None:
    most = descriptions.CHANGES_DATA_BYTES_MAX
    assert told(bytes(most)) == [True]
    assert told(bytes(most + 1)) == [False]
    assert told(bytes(most), b"small") == [False, True]
    assert told(*[bytes(most // 4)] * 6) == [True] * 4 + [False] * 2
    shown = descriptions.effects((str(number), b"k", b"", b"x") for number in range(descriptions.CHANGES_MAX + 7))
    assert (len(shown["changes"]), shown["changesLeftOut"]) == (descriptions.CHANGES_MAX, 7)
