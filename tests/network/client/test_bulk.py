"""Many requests on one connection: each has its result once, whatever breaks in between."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledgerd.ledger.ids import parse_transaction_id
from ledgerd.network.client.attempts import Attempting, Lost, Trouble
from ledgerd.network.client.bulk import IN_FLIGHT_BYTES_MAX, NODES_NUMBER, Bulk
from ledgerd.network.client.errors import OutcomeUnknown, RequestRefused, RetryBudgetExhausted, ServiceIdentityMismatch
from ledgerd.network.client.frames import Frame
from ledgerd.network.client.nodes import Nodes
from ledgerd.network.client.values import Answer, Budget, Call

PUT = Call("PUT", "/app/records/1", b"v")
BUDGET = Budget()
CUT = Lost(Trouble.CUT, "reset")


class Clock:
    now = 0.0


def make(calls: Iterable[Call], *, window: int = 4, make_keys: bool = True, budget: Budget = BUDGET) -> Bulk:
    tokens = iter(range(1_000_000))
    nodes = Nodes(["a:1", "b:1"])
    nodes.newest = parse_transaction_id("2.7")
    shared = Attempting(budget, lambda: Clock.now, lambda: 0.0, lambda size: f"r{next(tokens)}")
    return Bulk(calls, nodes, shared, window=window, commit=True, make_keys=make_keys)


def requests(data: bytes) -> Iterator[tuple[int, dict[str, str]]]:
    while data:
        size = int.from_bytes(data[:4], "big")
        number, _, _, headers, _ = msgpack.unpackb(data[4 : 4 + size])
        yield number, headers
        data = data[4 + size :]


def done(number: int) -> Frame:
    return (number, 204, {"x-ms-ccf-transaction-id": "2.9", "preference-applied": "committed"}, b"")


def executed(number: int) -> Frame:
    return (number, 204, {"x-ms-ccf-transaction-id": "2.9"}, b"")


def status(number: int, text: str) -> Frame:
    return (number, 200, {}, json.dumps({"transaction_id": "2.9", "status": text}).encode())


def refusal(number: int, status: int, code: str) -> Frame:
    return (number, status, {}, json.dumps({"error": {"code": code, "message": "text"}}).encode())


def test_the_window_is_filled_and_refilled_and_never_exceeded() -> None:
    bulk = make([PUT] * 6)
    assert [number for number, _ in requests(bulk.output())] == [0, 1, 2, 3]
    assert bulk.output() == b""
    results, stay = bulk.received([done(2), done(0)])
    assert [index for index, _ in results] == [2, 0]
    assert stay
    assert [number for number, _ in requests(bulk.output())] == [4, 5]
    bulk.received([done(1), done(3), done(4), done(5)])
    assert bulk.output() == b""
    assert bulk.finished()


def test_bytes_in_flight_are_bounded() -> None:
    bulk = make([PUT._replace(body=bytes(IN_FLIGHT_BYTES_MAX // 2))] * 10, window=10)
    bulk.output()
    assert bulk.in_flight == 2


def test_a_broken_connection_sends_everything_again_with_the_same_keys_to_the_next_node() -> None:
    bulk = make([PUT] * 4)
    assert bulk.origin() == "https://a:1"
    first = dict(requests(bulk.output()))
    bulk.received([done(1)])
    results, pause = bulk.lost("https://a:1", CUT)
    assert (results, pause, bulk.origin()) == ([], 0.0, "https://b:1")
    again = dict(requests(bulk.output()))
    assert sorted(again) == [0, 2, 3]
    assert all(again[number]["idempotency-key"] == first[number]["idempotency-key"] for number in again)


def paths(data: bytes) -> list[str]:
    found = []
    while data:
        size = int.from_bytes(data[:4], "big")
        found.append(msgpack.unpackb(data[4 : 4 + size])[2])
        data = data[4 + size :]
    return found


def test_a_success_that_does_not_say_it_waited_for_commit_is_asked_about_in_its_place() -> None:
    bulk = make([PUT] * 2, window=2, make_keys=False)
    bulk.output()
    assert bulk.received([executed(0), done(1)])[0][0][0] == 1
    for text in ("Unknown", "Pending"):
        assert paths(bulk.output()) == ["/node/tx?transaction_id=2.9"]
        assert bulk.received([status(0, text)]) == ([], True)
    assert bulk.lost("https://a:1", CUT)[0] == [], "asking may be repeated, though the request may not"
    assert paths(bulk.output()) == ["/node/tx?transaction_id=2.9"]
    [(index, answer)], _ = bulk.received([status(0, "Committed")])
    assert isinstance(answer, Answer)
    assert (index, answer.status, answer.committed) == (0, 204, True)
    assert bulk.finished()


def test_what_was_rolled_back_before_it_was_committed_goes_again() -> None:
    bulk = make([PUT])
    bulk.output()
    bulk.received([executed(0)])
    bulk.output()
    assert bulk.received([status(0, "Invalid")]) == ([], True)
    assert paths(bulk.output()) == [PUT.path]


def test_what_is_not_known_to_be_committed_within_the_budget_is_an_unknown_outcome() -> None:
    Clock.now = 0.0
    bulk = make([PUT], budget=Budget(seconds=10))
    bulk.output()
    bulk.received([executed(0)])
    bulk.output()
    Clock.now = 11.0
    [(_, error)], _ = bulk.received([status(0, "Pending")])
    Clock.now = 0.0
    assert isinstance(error, OutcomeUnknown)
    assert error.transaction_id == parse_transaction_id("2.9")


def test_keys_differ_and_the_callers_own_is_kept() -> None:
    bulk = make([PUT, PUT, PUT._replace(headers={"idempotency-key": "mine"}), Call("GET", "/app/records/1")])
    keys = [headers.get("idempotency-key") for _, headers in requests(bulk.output())]
    assert keys == ["2.7/r0-0", "2.7/r0-1", "mine", None]


def test_the_newest_transaction_is_asked_for_before_the_first_key_is_made() -> None:
    bulk = make([PUT], budget=Budget(seconds=10))
    bulk.nodes.newest = None
    (question,) = requests(asked := bulk.output())
    assert paths(asked) == ["/node/commit"]
    assert bulk.output() == b"", "once on each connection"
    for status, body in ((503, b""), (200, b"{}")):
        assert bulk.received([(question[0], status, {}, body)]) == ([], False)
        assert bulk.lost(bulk.origin(), CUT)[0] == []
        assert paths(bulk.output()) == ["/node/commit"]
    assert bulk.received([(question[0], 200, {}, b'{"transaction_id": "2.8"}')]) == ([], True)
    assert [headers["idempotency-key"] for _, headers in requests(bulk.output())] == ["2.8/r0-0"]
    assert bulk.received([done(0)])[0][0][0] == 0
    assert bulk.finished()


def test_calls_fail_by_themselves_where_nobody_tells_the_newest_transaction() -> None:
    Clock.now = 0.0
    bulk = make([PUT] * 2, budget=Budget(seconds=10))
    bulk.nodes.newest = None
    assert bulk.lost("https://a:1", Lost(Trouble.NOT_SENT, "refused"))[0] == []
    Clock.now = 11.0
    results, _ = bulk.lost("https://b:1", Lost(Trouble.NOT_SENT, "refused"))
    Clock.now = 0.0
    assert [type(error) for _, error in results] == [RetryBudgetExhausted] * 2
    assert bulk.finished()


def test_headers_are_those_at_the_time_of_the_call_though_the_caller_uses_one_map_for_all() -> None:
    shared = {"content-type": "text/plain"}

    def calls() -> Iterator[Call]:
        for kind in ("text/plain", "text/plain", "application/json"):
            shared["content-type"] = kind
            yield PUT._replace(headers=shared)

    bulk = make(calls())
    wanted = ["text/plain", "text/plain", "application/json"]
    assert [headers["content-type"] for _, headers in requests(bulk.output())] == wanted
    bulk.lost("https://a:1", CUT)
    assert [headers["content-type"] for _, headers in requests(bulk.output())] == wanted


def test_without_keys_a_cut_leaves_the_outcome_unknown() -> None:
    bulk = make([PUT], make_keys=False)
    bulk.output()
    results, _ = bulk.lost("https://a:1", CUT)
    assert isinstance(results[0][1], OutcomeUnknown)


def test_a_refusal_is_the_result_of_its_call_alone() -> None:
    bulk = make([PUT] * 2)
    bulk.output()
    results, stay = bulk.received([refusal(0, 401, "InvalidAuthenticationInfo"), done(1)])
    assert isinstance(results[0][1], RequestRefused)
    assert stay
    assert len(results) == 2


def test_a_rolled_back_transaction_goes_again_and_a_backup_without_primary_is_left() -> None:
    bulk = make([PUT] * 2)
    bulk.output()
    results, stay = bulk.received([refusal(0, 409, "TransactionInvalid")])
    assert (results, stay) == ([], True)
    assert [number for number, _ in requests(bulk.output())] == [0]
    results, stay = bulk.received([refusal(0, 503, "PrimaryNotFound")])
    assert (results, stay) == ([], False)


def test_each_call_has_a_budget_of_its_own() -> None:
    bulk = make([PUT], budget=Budget(attempts=2))
    for _ in range(2):
        bulk.output()
        results, stay = bulk.received([refusal(0, 503, "PrimaryNotFound")])
        assert not stay
    assert isinstance(results[0][1], RetryBudgetExhausted)


def test_time_spent_without_any_connection_counts() -> None:
    Clock.now = 0.0
    bulk = make([PUT], budget=Budget(seconds=10))
    bulk.output()
    assert bulk.lost("https://a:1", CUT)[0] == []
    Clock.now = 11.0
    results, _ = bulk.lost("https://b:1", Lost(Trouble.NOT_SENT, "refused"))
    Clock.now = 0.0
    assert isinstance(results[0][1], OutcomeUnknown)
    assert bulk.output() == b""
    assert bulk.finished()


def test_only_impostors_left_is_an_identity_mismatch() -> None:
    bulk = make([PUT])
    bulk.lost("https://a:1", Lost(Trouble.IMPOSTOR, "wrong"))
    assert bulk.origin() == "https://b:1"
    bulk.lost("https://b:1", Lost(Trouble.IMPOSTOR, "wrong"))
    with pytest.raises(ServiceIdentityMismatch):
        bulk.origin()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 30), st.integers(1, 8), st.randoms(use_true_random=False))
def test_every_call_has_exactly_one_result_whatever_happens(calls: int, window: int, chance: object) -> None:
    pick = chance.choice  # type: ignore[attr-defined]
    bulk = make([PUT] * calls, window=window, budget=Budget(attempts=1000))
    found: Counter[int] = Counter()
    flying: list[int] = []
    while not bulk.finished():
        flying += [number for number, _ in requests(bulk.output())]
        if not flying:
            continue
        number = pick(flying)
        flying.remove(number)
        frame = pick([done(number), done(number), refusal(number, 400, "InvalidInput"), refusal(number, 503, "PrimaryNotFound")])
        results, stay = bulk.received([frame, done(10_000)])
        if not stay or pick([True, False, False, False]):
            more, _ = bulk.lost(bulk.origin(), CUT)
            results += more
            flying.clear()
        found.update(index for index, _ in results)
    assert found == Counter(range(calls))


def test_the_nodes_are_asked_for_on_a_connection_that_answers_when_it_is_time() -> None:
    bulk = make([PUT] * 8, window=2)
    assert not bulk.nodes.should_learn(Clock.now - 100.0)  # winds the clock
    assert [number for number, _ in requests(bulk.output())] == [0, 1], "nothing before this node has shown that it answers"
    bulk.received([done(0), done(1)])
    assert [number for number, _ in requests(bulk.output())] == [NODES_NUMBER, 2, 3]
    interface = {"primary_rpc_interface": {"published_address": "c:1"}}
    listing = json.dumps({"nodes": [{"status": "Trusted", "rpc_interfaces": interface}]}).encode()
    results, stay = bulk.received([(NODES_NUMBER, 200, {}, listing), done(2), done(3)])
    assert ([index for index, _ in results], stay) == ([2, 3], True)
    assert bulk.nodes.origins == ("https://a:1", "https://b:1", "https://c:1")
    assert [number for number, _ in requests(bulk.output())] == [4, 5]
    results, stay = bulk.received([done(4), done(5), (NODES_NUMBER, 503, {}, b"")])
    assert ([index for index, _ in results], stay) == ([4, 5], True), "failing does not matter"


def test_a_node_that_has_left_the_service_is_left_for_the_one_it_names() -> None:
    bulk = make([PUT] * 2)
    bulk.output()
    left = json.dumps({"error": {"code": "OutcomeUnknown", "message": "text"}}).encode()
    results, stay = bulk.received([(0, 504, {"location": "https://c:1/"}, left)])
    assert (results, stay) == ([], False)
    assert bulk.origin() == "https://c:1"
    bulk.lost("https://a:1", CUT)
    assert sorted(number for number, _ in requests(bulk.output())) == [0, 1]
    results, _ = bulk.received([done(0), done(1)])
    assert all(isinstance(result, Answer) for _, result in results)


def test_calls_of_several_kinds_go_together_each_with_its_own_headers_and_key() -> None:
    text, own = {"content-type": "text/plain"}, {"idempotency-key": "mine"}
    calls = [
        PUT._replace(headers=text),
        Call("GET", "/app/records/1", headers=text),
        PUT._replace(headers=own),
        PUT,
        PUT._replace(headers=text),
    ]
    bulk = make(calls, window=8)
    prefer = {"prefer": "committed, wait=4"}
    wanted = [
        {**text, **prefer, "idempotency-key": "2.7/r0-0"},
        {**text, **prefer},
        {**own, **prefer},
        {**prefer, "idempotency-key": "2.7/r0-3"},
        {**text, **prefer, "idempotency-key": "2.7/r0-4"},
    ]
    assert [headers for _, headers in requests(bulk.output())] == wanted
    bulk.lost("https://a:1", CUT)
    bulk.nodes.newest = parse_transaction_id("2.9")
    assert [headers for _, headers in requests(bulk.output())] == wanted, "a key is the same when its call goes again"


def test_a_call_that_goes_again_keeps_its_place_in_the_window() -> None:
    bulk = make([PUT] * 6, window=3)
    bulk.output()
    bulk.received([refusal(1, 409, "TransactionInvalid"), done(0)])
    assert [number for number, _ in requests(bulk.output())] == [1, 3]
    assert bulk.in_flight == 3
    assert bulk.output() == b""
    bulk.received([done(1)])
    assert [number for number, _ in requests(bulk.output())] == [4]


def test_the_budget_of_a_call_begins_when_it_is_sent() -> None:
    def slowly() -> Iterator[Call]:
        for _ in range(2):
            Clock.now += 11.0
            yield PUT

    Clock.now = 0.0
    bulk = make(slowly(), window=2, budget=Budget(seconds=10))
    bulk.output()
    assert bulk.received([refusal(0, 409, "TransactionInvalid"), refusal(1, 409, "TransactionInvalid")]) == ([], True)
    Clock.now += 11.0
    bulk.output()
    results, _ = bulk.received([refusal(0, 409, "TransactionInvalid"), refusal(1, 409, "TransactionInvalid")])
    Clock.now = 0.0
    assert [index for index, _ in results] == [0, 1]


def test_a_node_that_applied_more_preferences_than_commit_is_believed() -> None:
    bulk = make([PUT])
    bulk.output()
    said = {"x-ms-ccf-transaction-id": "2.9", "preference-applied": "wait=4, committed"}
    [(_, answer)], _ = bulk.received([(0, 204, said, b"")])
    assert isinstance(answer, Answer)
    assert answer.committed


def test_the_answer_about_a_status_is_never_the_answer_to_the_call() -> None:
    bulk = make([PUT])
    bulk.output()
    bulk.received([executed(0)])
    bulk.output()
    number, code, _, body = status(0, "Pending")
    assert bulk.received([(number, code, {"preference-applied": "committed"}, body)]) == ([], True)
    assert paths(bulk.output()) == ["/node/tx?transaction_id=2.9"]
