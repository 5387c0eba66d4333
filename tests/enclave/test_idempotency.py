"""Repeated requests: one execution, one answer, for as long as the window says; and honest refusals beyond."""

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledgerd.enclave import idempotency
from ledgerd.enclave.endpoints import Context
from ledgerd.enclave.execution import Settings
from ledgerd.enclave.requests import TRANSACTION_ID_HEADER, Response
from ledgerd.ledger.errors import RequestError
from support.executing import OTHER_USER, USER, Node, endpoint, error_of

WINDOW = 10


def count(ctx: Context) -> Response:
    """Adds one and says how many there are: executing it twice shows."""
    counter = ctx.kv["m"]
    total = int(counter.get(b"count") or b"0") + 1
    counter.set(b"count", b"%d" % total)
    return Response(201, (("x-count", str(total)),), b"%d" % total, "text/plain")


def fail(ctx: Context) -> None:
    ctx.kv["m"].set(b"tried", b"")
    raise RequestError(409, "Conflict", "No.")


def node() -> Node:
    return Node(
        [
            endpoint("POST", "/count", count, policies=["user_cert", "no_auth"]),
            endpoint("POST", "/count/{key}", count),
            endpoint("POST", "/fail", fail),
            endpoint("POST", "/nothing", lambda ctx: "done"),
            endpoint("GET", "/count", lambda ctx: ctx.kv["m"].get(b"count")),
        ],
        settings=Settings(idempotency_window=WINDOW),
    )


def total(service: Node) -> int:
    return int(service.store.get("m", b"count") or b"0")


def key(value: str) -> dict[str, str]:
    return {"idempotency-key": value}


def test_a_record_is_what_other_versions_of_this_program_read() -> None:
    service = node()
    for name in ("a", "b"):  # the second with parts that the first may have left
        service.ask("POST", "/app/nothing", headers=key(name))
        service.ask("POST", "/app/count", headers=key(name + name))
    records = [msgpack.unpackb(value) for _, value in service.store.map(idempotency.MAP).items()]
    seen = sorted((len(digest), *rest) for digest, *rest in records)
    assert seen == [
        (32, 200, [], "text/plain", b"done"),
        (32, 200, [], "text/plain", b"done"),
        (32, 201, [["x-count", "1"]], "text/plain", b"1"),
        (32, 201, [["x-count", "2"]], "text/plain", b"2"),
    ]


def test_the_same_request_again_gets_the_first_answer_and_its_id() -> None:
    service = node()
    first = service.ask("POST", "/app/count", "body", headers=key("a"))
    service.pass_entries(3)
    again = service.ask("POST", "/app/count", "body", headers=key("a"))
    assert not first.replayed and again.replayed
    assert again.response == first.response
    assert first.response == Response(201, (("x-count", "1"), (TRANSACTION_ID_HEADER, "2.2")), b"1", "text/plain")
    assert (again.transaction_id, again.writes) == ((2, 2), None)
    assert total(service) == 1


@pytest.mark.parametrize(
    ("target", "body"),
    [("/app/count", "other"), ("/app/count?x=1", "body"), ("/app/count/x", "body"), ("/app/fail", "body"), ("/count", "body")],
)
def test_the_key_for_another_request_is_refused(target: str, body: str) -> None:
    service = node()
    service.ask("POST", "/app/count", "body", headers=key("a"))
    response = service.answer("POST", target, body, headers=key("a"))
    assert (response.status, error_of(response)["code"]) == (422, "IdempotencyKeyReused")
    assert total(service) == 1


def test_keys_of_different_callers_are_different() -> None:
    service = node()
    for caller in (USER, OTHER_USER, ""):
        assert service.answer("POST", "/app/count", caller=caller, headers=key("a")).status == 201
    assert total(service) == 3


def test_key_and_caller_cannot_be_confused() -> None:
    service = node()
    service.ask("POST", "/app/count", caller="", headers=key("a"))
    assert not service.ask("POST", "/app/count", caller=USER, headers=key("a")).replayed


def test_a_failed_request_leaves_no_record_and_may_be_tried_again() -> None:
    service = node()
    for _ in range(2):
        outcome = service.ask("POST", "/app/fail", headers=key("a"))
        assert not outcome.replayed and outcome.writes is None
    assert service.store.version == 1


def test_success_without_writes_is_remembered_too() -> None:
    service = node()
    assert service.ask("POST", "/app/nothing", headers=key("a")).writes is not None
    assert service.ask("POST", "/app/nothing", headers=key("a")).replayed


def test_reading_needs_no_key_and_ignores_it() -> None:
    service = node()
    service.ask("POST", "/app/count")
    for _ in range(2):
        outcome = service.ask("GET", "/app/count", headers=key("a"))
        assert not outcome.replayed and outcome.writes is None


def test_the_record_is_private_and_rolled_back_with_its_transaction() -> None:
    service = node()
    writes = service.ask("POST", "/app/count", headers=key("a")).writes
    assert writes is not None and set(writes) == {"m", idempotency.MAP}
    assert not idempotency.MAP.startswith("public:")
    service.elect(view=3, to=1)
    again = service.ask("POST", "/app/count", headers=key("a"))
    assert (again.replayed, again.transaction_id, total(service)) == (False, (3, 3), 1)


def test_the_first_id_keeps_its_view() -> None:
    service = node()
    service.ask("POST", "/app/count", headers=key("a"))
    service.elect(view=5, to=2)
    assert service.ask("POST", "/app/count", headers=key("a")).transaction_id == (2, 2)


@pytest.mark.parametrize("passed", range(WINDOW - 2, WINDOW + 3))
@pytest.mark.parametrize("compacted", [True, False])
def test_a_record_counts_for_the_window_whether_or_not_it_was_dropped(passed: int, compacted: bool) -> None:
    service = node()
    service.ask("POST", "/app/count", headers=key("a"))
    if compacted:
        service.pass_entries(passed)
    else:
        for _ in range(passed):
            service.store.apply(service.store.version + 1, {})
    assert service.ask("POST", "/app/count", headers=key("a")).replayed is (passed < WINDOW)


@pytest.mark.parametrize("value", ["", " ", "a b", "a, b", "x" * 257, "ä", "a\x7f", "a\n", "\x00"])
def test_a_malformed_key_is_refused(value: str) -> None:
    service = node()
    response = service.answer("POST", "/app/count", headers=key(value))
    assert (response.status, error_of(response)["code"]) == (400, "InvalidHeaderValue")
    assert total(service) == 0


@pytest.mark.parametrize("value", ["!", "~" * 256, "2.1", "a/b", "2.1/", "02.1/x", "2.1.1/x", "/"])
def test_any_visible_ascii_is_a_key(value: str) -> None:
    service = node()
    service.pass_entries(5 * WINDOW)
    assert service.answer("POST", "/app/count", headers=key(value)).status == 201


def test_a_key_older_than_the_window_is_refused_rather_than_executed_again() -> None:
    service = node()
    service.ask("POST", "/app/count", headers=key("2.1/r"))  # stands at 2.2
    service.pass_entries(WINDOW - 1)
    assert service.ask("POST", "/app/count", headers=key("2.1/r")).replayed
    service.pass_entries(1)
    response = service.answer("POST", "/app/count", headers=key("2.1/r"))
    assert (response.status, error_of(response)["code"]) == (422, "IdempotencyKeyTooOld")
    assert total(service) == 1


def test_a_key_made_on_a_rolled_back_transaction_is_as_old_as_what_survived_of_its_view() -> None:
    """The client saw 2.40, which was rolled back to 2.5; its request was then executed at 3.7, and is forgotten long before seqno 40."""
    service = node()
    service.pass_entries(4)
    service.elect(view=3, to=5)  # 3.6
    assert service.answer("POST", "/app/count", headers=key("2.40/r")).status == 201  # 3.7
    service.pass_entries(WINDOW - 1)
    assert service.ask("POST", "/app/count", headers=key("2.40/r")).replayed
    service.pass_entries(1)
    response = service.answer("POST", "/app/count", headers=key("2.40/r"))
    assert (response.status, error_of(response)["code"]) == (422, "IdempotencyKeyTooOld")


def test_a_key_that_was_new_enough_is_judged_anew_after_a_rollback() -> None:
    service = node()
    for _ in range(39):
        service.store.apply(service.store.version + 1, {})
    assert service.answer("POST", "/app/count", headers=key("2.40/r")).status == 201  # 2.41
    service.elect(view=3, to=35)  # 3.36
    while service.store.version < 36 + WINDOW:
        service.store.apply(service.store.version + 1, {})
    response = service.answer("POST", "/app/count", headers=key("2.40/other"))  # may have been executed at 3.36, which is forgotten
    assert (response.status, error_of(response)["code"]) == (422, "IdempotencyKeyTooOld")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_request_with_a_dated_key_is_ever_executed_twice(data: st.DataObject) -> None:
    """Random elections, rollbacks, repetitions: each surviving history executes a request once, or its client hears that it is too old."""
    service = Node([endpoint("POST", "/note", note)], settings=Settings(idempotency_window=WINDOW))
    made: list[str] = []
    for step in range(data.draw(st.integers(1, 30))):
        action = data.draw(st.sampled_from(("new", "again", "again", "pass", "elect", "commit")))
        if action == "new":
            made.append(f"{service.view}.{service.store.version}/{step}")
        if action in ("new", "again") and made:
            name = data.draw(st.sampled_from(made)) if action == "again" else made[-1]
            outcome = service.ask("POST", "/app/note", name, headers=key(name))
            assert outcome.response is not None and outcome.response.status in (204, 422)
        elif action == "pass":
            for _ in range(data.draw(st.integers(1, WINDOW + 2))):
                service.store.apply(service.store.version + 1, {})
        elif action == "commit":
            service.store.compact(data.draw(st.integers(service.store.compacted, service.store.version)))
        elif action == "elect":
            service.elect(service.view + 1, data.draw(st.integers(max(1, service.store.compacted), service.store.version)))
        for noted, executions in service.store.map("notes").items():
            assert executions == b"1", noted


def note(ctx: Context) -> None:
    notes = ctx.kv["notes"]
    notes.set(ctx.request.body, b"%d" % (int(notes.get(ctx.request.body) or b"0") + 1))
