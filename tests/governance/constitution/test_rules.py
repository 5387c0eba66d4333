"""How proposals end: votes, the members' policy, deadlines by signed times."""

import base64
import json
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ledgerd.governance import constitution, tables
from ledgerd.ledger.signature import COSE_SIGNATURES
from support.consortium import (
    ALICE,
    BOB,
    CAROL,
    DAVE,
    DECIDED,
    NOW,
    OTHER,
    PLAIN,
    STRANGER,
    THIS,
    cose_record,
    json_of,
    key,
    member_id,
    proposal_info,
    recent,
    service,
    signed_at,
)
from support.constitution import SINGLETON, Constitution, Tables, changes, text_of
from support.proposed_actions import proposal

OURS = Constitution(text_of(constitution.BY_VOTE))
SANDBOX = Constitution(text_of(constitution.SANDBOX))
POLICY = "public:ccf.gov.ledgerd.proposal_policy"
HOUR = 3600
SNAPSHOT = proposal(("trigger_snapshot", None))


def votes(yes: str = "", no: str = "") -> dict[str, bool]:
    """Ballots, by the first letters of names."""
    names = {"a": ALICE, "b": BOB, "c": CAROL, "d": DAVE, "x": STRANGER}
    return {member_id(names[letter]): letter in yes for letter in yes + no}


def with_policy(now: int = NOW, **policy: Any) -> Tables:
    """A service with a policy, whose last signature is of a time."""
    return {**service(), POLICY: {SINGLETON: json_of(policy)}, COSE_SIGNATURES: {SINGLETON: signed_at(now)}}


@pytest.mark.parametrize(
    ("ballots", "never", "majority"),
    [
        (votes(), "Open", "Open"),
        (votes("a"), "Open", "Open"),
        (votes("ab"), "Accepted", "Accepted"),
        (votes("abc"), "Accepted", "Accepted"),
        (votes("ab", "c"), "Accepted", "Accepted"),
        (votes("a", "b"), "Open", "Open"),
        (votes("", "a"), "Open", "Open"),
        (votes("a", "bc"), "Open", "Rejected"),
        (votes("", "abc"), "Open", "Rejected"),
    ],
)
def test_a_majority_of_the_active_members_decides(ballots: dict[str, bool], never: str, majority: str) -> None:
    assert OURS.resolve(SNAPSHOT, ballots, service(), THIS) == never
    assert OURS.resolve(SNAPSHOT, ballots, with_policy(rejection="never"), THIS) == never
    assert OURS.resolve(SNAPSHOT, ballots, with_policy(rejection="majority"), THIS) == majority


@pytest.mark.parametrize("ballots", [votes("adx"), votes("dx"), votes("a", "dx")])
def test_who_is_no_active_member_any_more_does_not_count(ballots: dict[str, bool]) -> None:
    assert OURS.resolve(SNAPSHOT, ballots, with_policy(rejection="majority"), THIS) == "Open"


def test_of_four_two_are_no_majority() -> None:
    four = with_policy(rejection="majority")
    four[tables.MEMBER_INFO][key(DAVE)] = json_of({"status": "Active"})
    assert OURS.resolve(SNAPSHOT, votes("ab", "cd"), four, THIS) == "Open"
    assert OURS.resolve(SNAPSHOT, votes("abc", "d"), four, THIS) == "Accepted"
    assert OURS.resolve(SNAPSHOT, votes("a", "bcd"), four, THIS) == "Rejected"


def test_the_sandbox_accepts_at_once() -> None:
    assert SANDBOX.resolve(SNAPSHOT, {}, service(), THIS) == "Accepted"
    assert SANDBOX.apply(SNAPSHOT, service(), THIS).calls == [["triggerSnapshot"]]
    assert SANDBOX.validate(proposal(("nothing", None)), service()) is not None


# THIS was signed 60 seconds before NOW.
@pytest.mark.parametrize(("now", "found"), [(NOW - 61 + HOUR, "Accepted"), (NOW - 60 + HOUR, "Rejected"), (NOW + 99 * HOUR, "Rejected")])
def test_a_lifetime_runs_from_the_proposers_signature(now: int, found: str) -> None:
    assert OURS.resolve(SNAPSHOT, votes("abc"), with_policy(now, lifetime_hours=1), THIS) == found


@pytest.mark.parametrize(("now", "found"), [(NOW + 99, "Accepted"), (NOW + 100, "Rejected")])
@pytest.mark.parametrize("policy", [{}, {"lifetime_hours": 1}])
def test_a_proposal_may_say_itself_when_it_ends(now: int, found: str, policy: dict[str, Any]) -> None:
    wanted = {**SNAPSHOT, "expires_at": NOW + 100}
    assert OURS.validate(wanted, service()) is None
    assert OURS.resolve(wanted, votes("ab"), with_policy(now, **policy), THIS) == found


def test_it_cannot_outlive_the_policy() -> None:
    wanted = {**SNAPSHOT, "expires_at": NOW + 100 * HOUR}
    assert OURS.resolve(wanted, votes("ab"), with_policy(NOW + HOUR, lifetime_hours=1), THIS) == "Rejected"


def test_without_policy_and_without_deadline_nothing_runs_out() -> None:
    assert OURS.resolve(SNAPSHOT, votes("ab"), with_policy(NOW + 100_000 * HOUR), THIS) == "Accepted"


def test_one_that_has_left_the_window_counts_as_old_as_the_oldest_there() -> None:
    before = with_policy(NOW, lifetime_hours=1)
    before[tables.COSE_RECENT_PROPOSALS] = recent({OTHER: NOW - 10, DECIDED: NOW - HOUR + 1})
    assert OURS.resolve(SNAPSHOT, votes("ab"), before, THIS) == "Accepted"
    before[tables.COSE_RECENT_PROPOSALS] = recent({OTHER: NOW - 10, DECIDED: NOW - HOUR})
    assert OURS.resolve(SNAPSHOT, votes("ab"), before, THIS) == "Rejected"


@pytest.mark.parametrize("signature", [None, b'"AAAA"', b"{}", b'""', json_of("oA==")])
def test_without_a_signed_time_nothing_runs_out(signature: bytes | None) -> None:
    before = with_policy(NOW + 99 * HOUR, lifetime_hours=1)
    before[COSE_SIGNATURES] = {} if signature is None else {SINGLETON: signature}
    assert OURS.resolve(SNAPSHOT, votes("ab"), before, THIS) == "Accepted"


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()])
@pytest.mark.parametrize("seconds", [0, 23, 24, 255, 256, 65535, 65536, 1_699_999_999, (1 << 32) - 1, 1 << 32, 9_999_999_999])
def test_the_time_in_a_signature_is_read(curve: ec.EllipticCurve, seconds: int) -> None:
    before = {COSE_SIGNATURES: {SINGLETON: cose_record(seconds, ec.generate_private_key(curve))}}
    wanted = {"actions": [], "expires_at": max(seconds, 1)}
    refused = OURS.validate(wanted, before)
    assert (refused is not None) == (seconds > 0)
    assert OURS.validate({**wanted, "expires_at": seconds + 1}, before) is None or seconds == 9_999_999_999


def test_the_time_in_a_signature_of_ccfs_own_order_of_headers_is_read() -> None:
    header = cbor2.dumps(
        {1: -35, 4: b"kid", 395: 2, 15: {1: "issuer", 6: NOW, 2: "subject"}, "ccf.v1": {"txid": "2.4"}, "x": [True, None, -5]}
    )
    signature = base64.b64encode(cbor2.dumps(cbor2.CBORTag(18, [header, {396: {}}, None, b"s" * 96]))).decode()
    before = {COSE_SIGNATURES: {SINGLETON: json_of(signature)}}
    assert OURS.validate({"actions": [], "expires_at": NOW}, before) is not None
    assert OURS.validate({"actions": [], "expires_at": NOW + 1}, before) is None


def test_what_has_run_out_is_dropped_when_something_is_applied() -> None:
    before = with_policy(NOW - 60 + HOUR - 1, lifetime_hours=1)  # OTHER, signed a minute before THIS, is over, THIS is not
    applied = OURS.apply(SNAPSHOT, before, THIS)
    assert changes(before, applied.tables) == {tables.PROPOSALS_INFO: {OTHER.encode(): proposal_info("Dropped")}}
    assert (
        OURS.apply(SNAPSHOT, with_policy(NOW - 121 + HOUR, lifetime_hours=1), THIS).tables[tables.PROPOSALS_INFO]
        == before[tables.PROPOSALS_INFO]
    )


@pytest.mark.parametrize("text", [b"", b"null", b"[]", b'{"expires_at": "1"}', b'{"expires_at": null}', b'{"expires_at": 1.5}', PLAIN])
def test_what_another_constitution_let_in_stops_nothing(text: bytes) -> None:
    before = service()
    before[tables.PROPOSALS][OTHER.encode()] = text
    assert changes(before, OURS.apply(SNAPSHOT, before, THIS).tables) == {}
    del before[tables.PROPOSALS][OTHER.encode()]
    assert changes(before, OURS.apply(SNAPSHOT, before, THIS).tables) == {}


def test_the_policy_that_is_voted_on_does_not_judge_its_own_proposal() -> None:
    wanted = proposal(("set_proposal_policy", {"lifetime_hours": 1}), ("set_proposal_policy", {"rejection": "majority"}))
    after = OURS.apply(wanted, service(), THIS).tables
    assert json.loads(after[POLICY][SINGLETON]) == {"rejection": "majority"}  # each states all of it


def test_no_outcome_depends_on_the_order_of_tables() -> None:
    before = with_policy(NOW + 10, lifetime_hours=1)
    turned: Tables = {name: dict(reversed(rows.items())) for name, rows in reversed(before.items())}
    wanted = proposal(("set_all_nodes_certificate_validity", {}), ("set_constitution", {"constitution": "export function validate"}))
    first, second = OURS.apply(wanted, before, THIS), OURS.apply(wanted, turned, THIS)
    assert first.calls == second.calls and changes(first.tables, second.tables) == {}


@pytest.mark.parametrize("order", [constitution.BY_VOTE, constitution.SANDBOX])
def test_nothing_but_the_ledger_is_asked(order: tuple[str, ...]) -> None:
    text = text_of(order)
    assert text.isascii()
    for source in ("Math.random", "Date.now", "new Date()", "import ", "eval(", "Function("):
        assert source not in text
    assert all(f"export function {name}(" in text for name in ("validate", "resolve", "apply"))
