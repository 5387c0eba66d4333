"""Requests that scripts answer: what others write meanwhile, who is removed meanwhile, and what fails."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from ledgerd.enclave import scripting
from ledgerd.enclave.endpoints import Context, Endpoint
from ledgerd.enclave.requests import Request
from ledgerd.enclave.scripting import ATTEMPTS_MAX, Scripted, Scripting, Steps
from ledgerd.enclave.scripts.access import Access
from ledgerd.enclave.scripts.jobs import Bundle, End, Job, Result
from ledgerd.enclave.scripts.overlay import SIGNED
from ledgerd.enclave.states import EMPTY_LEDGER
from ledgerd.governance.tables import SINGLETON
from ledgerd.ledger.errors import RequestError
from support.executing import CERTIFICATE, NOW_S, OTHER_USER, STRANGER, USER, Node, error_of

BUNDLE = Bundle(
    {
        "/main.js": """
const table = ccf.kv["counters"], key = ccf.strToBuf("k");
export function add(step) {
  const before = table.get(key);
  const now = (before === undefined ? 0 : Number(ccf.bufToStr(before))) + step;
  table.set(key, ccf.strToBuf(String(now)));
  return now;
}
export function fail() { throw new Error("no"); }
"""
    }
)
STORED = b"k"


def job(function: str, *arguments: Any) -> Job:
    return Job(BUNDLE, "/main.js", function, arguments, Access.APP_RW)


def number_of(value: Any) -> int:
    assert isinstance(value, Result)
    return int(json.loads(value.data))


def twice(context: Context) -> Steps:
    """Adds by one script, then by another, and writes what came of it beside."""
    first = yield job("add", 1)
    second = yield job("add", 10)
    context.kv["sums"].set(b"s", b"%d" % (number_of(first.value) + number_of(second.value)))
    return {"first": number_of(first.value), "second": number_of(second.value)}


def node(handler: Callable[[Context], Steps] = twice, **more: Any) -> Node:
    return Node([Endpoint("POST", "/x", handler, **{"policies": ("user_cert",), "system": False, "scripted": True, **more})])


def meanwhile(world: Node, act: Callable[[int], None]) -> list[int]:
    """Do something whenever a request is about to take effect; gives how often that was."""
    times = [0]

    def scripted(_: Scripted) -> None:
        times[0] += 1
        act(times[0])

    world.on_scripted = scripted
    return times


def put(world: Node, name: str, key: bytes, value: bytes | None) -> None:
    world.store.apply(world.store.version + 1, {name: {key: value}})


def test_scripts_of_one_request_see_what_those_before_them_did_and_all_of_it_is_one_entry() -> None:
    world = node()
    outcome = world.ask("POST", "/app/x")
    assert outcome.response is not None
    assert json.loads(outcome.response.body) == {"first": 1, "second": 11}
    assert outcome.writes == {"counters": {STORED: b"11"}, "sums": {b"s": b"12"}}
    assert outcome.transaction_id == (2, 2)


def test_what_others_write_meanwhile_has_all_of_it_done_again() -> None:
    world = node()
    times = meanwhile(world, lambda number: put(world, "counters", STORED, b"100") if number == 1 else None)
    assert json.loads(world.answer("POST", "/app/x").body) == {"first": 101, "second": 111}
    assert times == [2]
    assert world.store.get("counters", STORED) == b"111"


def test_what_others_write_elsewhere_does_not() -> None:
    world = node()
    times = meanwhile(world, lambda number: put(world, "counters", b"other", b"1"))
    assert world.answer("POST", "/app/x").status == 200
    assert times == [1]


def test_a_value_that_came_back_after_a_rollback_is_as_good_as_one_that_stayed() -> None:
    world = node()
    put(world, "counters", STORED, b"5")

    def act(number: int) -> None:
        if number == 1:
            world.elect(3, to=1)
            put(world, "counters", STORED, b"5")

    meanwhile(world, act)
    assert json.loads(world.answer("POST", "/app/x").body) == {"first": 6, "second": 16}


def test_it_is_not_done_for_ever() -> None:
    world = node()
    times = meanwhile(world, lambda number: put(world, "counters", STORED, b"%d" % number) if number <= ATTEMPTS_MAX else None)
    answer = world.answer("POST", "/app/x")
    assert (answer.status, error_of(answer)["code"]) == (503, "TransactionCommitAttemptsExceedLimit")
    assert times == [ATTEMPTS_MAX + 1]
    assert world.store.get("sums", b"s") is None


def test_a_caller_who_is_removed_meanwhile_has_no_part_in_it() -> None:
    world = node()
    meanwhile(world, lambda number: put(world, "public:ccf.gov.users.certs", USER.encode(), None) if number == 1 else None)
    assert world.answer("POST", "/app/x").status == 401
    assert world.store.get("counters", STORED) is None


def test_of_two_requests_with_one_idempotency_key_one_is_done_and_both_get_its_answer() -> None:
    world = node()
    inner: list[Any] = []

    def act(number: int) -> None:
        if number == 1:
            inner.append(world.answer("POST", "/app/x", headers={"idempotency-key": "once"}))

    meanwhile(world, act)
    outer = world.answer("POST", "/app/x", headers={"idempotency-key": "once"})
    assert outer.body == inner[0].body
    assert world.store.get("counters", STORED) == b"11"


def test_errors_write_nothing() -> None:
    def refuses(context: Context) -> Steps:
        yield job("add", 1)
        context.kv["sums"].set(b"s", b"1")
        raise RequestError(409, "Conflict", "no")

    def breaks(context: Context) -> Steps:
        yield job("add", 1)
        raise KeyError("secret")

    def catches(context: Context) -> Steps:
        outcome = yield job("fail")
        assert outcome.end is End.EXCEPTION
        return outcome.text

    world = node(refuses)
    answer = world.answer("POST", "/app/x")
    assert (answer.status, error_of(answer)["code"]) == (409, "Conflict")
    outcome = node(breaks).ask("POST", "/app/x")
    assert outcome.response is not None
    assert (outcome.response.status, outcome.writes) == (500, None)
    assert b"secret" not in outcome.response.body
    assert "KeyError in" in (outcome.failure or "")
    assert world.store.version == 1
    assert node(catches).answer("POST", "/app/x").body == b"Error: no"


def test_a_job_that_cannot_be_told_to_a_worker_fails_its_own_request() -> None:
    def handler(_: Context) -> Steps:
        yield job("add", float("inf"))

    world = node(handler)
    assert world.answer("POST", "/app/x").status == 500
    assert world.answer("POST", "/app/x").status == 500


def test_what_is_done_again_is_not_done_on_guesses() -> None:
    """Whoever writes what was wrongly guessed that others read must not keep them from their end."""

    def handler(_: Context) -> Steps:
        outcome = yield job("add", 1)._replace(ahead=(("others", b"theirs"),))
        return number_of(outcome.value)

    world = node(handler)
    times = meanwhile(world, lambda number: put(world, "others", b"theirs", b"%d" % number))
    assert world.answer("POST", "/app/x").status == 200
    assert times == [2]


def begun(world: Node, caller: str, name: str) -> None:
    """A request is begun, and not waited for."""
    request = Request("reply", "POST", "/app/x", name, {}, b"", CERTIFICATE, caller)
    request.now_s = NOW_S
    outcome = world._execute(request)
    assert outcome.endpoint is not None
    assert outcome.params is not None
    world.scripting.begin(request, outcome.endpoint, outcome.params)


def order(world: Node) -> list[tuple[str, int]]:
    """Do all that was begun; which came when, and with which status."""
    found: list[tuple[str, int]] = []
    while True:
        world.workers.turn(0.0)
        scripted = world.scripting.take_finished()
        if scripted is None:
            return found
        assert scripted.is_current(), "those in turn do not disturb each other"
        response = world._execute(scripted.request, scripted).response
        assert response is not None
        found.append((scripted.request.query, response.status))
        world.scripting.take_turns()


def test_those_in_turn_are_done_one_after_the_other_by_turns_of_callers() -> None:
    """Whoever asks for much, for seconds each, keeps the others waiting for one of them at a time, and has none of them done again."""
    world = node(in_turn=True)
    for name in ("a", "b", "c"):
        begun(world, USER, name)
    for name in ("d", "e"):
        begun(world, OTHER_USER, name)
    assert order(world) == [("a", 200), ("b", 200), ("d", 200), ("c", 200), ("e", 200)]
    assert world.store.get("counters", STORED) == b"55"


def test_a_caller_s_requests_that_wait_are_bounded_and_strangers_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripting, "WAITING_MAX", 1)
    world = node(in_turn=True)
    for name in ("a", "b", "c"):
        begun(world, USER, name)
    begun(world, STRANGER, "s")
    begun(world, OTHER_USER, "d")
    assert sorted(order(world)) == [("a", 200), ("b", 200), ("c", 503), ("d", 200), ("s", 401)]


def test_a_read_only_endpoint_writes_nothing() -> None:
    def writes(context: Context) -> Steps:
        context.kv["sums"].set(b"s", b"1")
        yield job("add", 1)

    world = node(writes, readonly=True)
    assert world.answer("POST", "/app/x").status == 500
    assert world.store.version == 1


def test_maps_of_the_service_are_not_for_applications() -> None:
    def writes(context: Context) -> Steps:
        context.kv["public:ccf.gov.x"].set(b"s", b"1")
        yield job("add", 1)

    assert node(writes).answer("POST", "/app/x").status == 500


def test_there_is_an_end_to_how_many_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripting, "RUNNING_MAX", 2)
    monkeypatch.setattr(scripting, "RUNNING_BYTES_MAX", 100)
    open_to_all = Endpoint("POST", "/x", twice, policies=("no_auth",), system=False, scripted=True)
    for sizes in ((0, 0), (101,)):
        world = node()
        waiting = Scripting(world.store, world.scripts, EMPTY_LEDGER)
        for size in sizes:
            assert not waiting.is_full
            waiting.begin(Request("reply", "POST", "/app/x", "", {}, bytes(size), None, ""), open_to_all, {})
        assert waiting.is_full
        while not waiting.has_finished:
            world.workers.turn(0.0)
        assert waiting.take_finished() is not None
        assert not waiting.is_full


def looks(context: Context) -> Steps:
    """Looks at the last signature before a script and after it."""
    tables = [context.governance(name) for name in SIGNED]
    before = [table.get(SINGLETON) for table in tables]
    yield job("add", 1)
    assert [table.get(SINGLETON) for table in tables] == before, "all of it is of one signature"
    assert [table.version_of(SINGLETON) for table in tables] == [context.overlay.observed] * 3
    assert [(table.size(), list(table.items())) for table in tables] == [(1, [(SINGLETON, value)]) for value in before]
    return context.overlay.observed


def sign(world: Node, text: bytes) -> None:
    world.store.apply(world.store.version + 1, {name: {SINGLETON: text} for name in SIGNED})


def test_the_service_signs_on_while_scripts_run_and_nothing_is_done_again_for_it() -> None:
    world = node(looks)
    sign(world, b"first")
    times = meanwhile(world, lambda number: sign(world, b"later"))
    assert json.loads(world.answer("POST", "/app/x").body) == 2
    assert times == [1]


def test_a_signature_that_was_undone_meanwhile_counts_for_nothing() -> None:
    world = node(looks)
    sign(world, b"first")

    def act(number: int) -> None:
        if number == 1:
            world.elect(3, to=1)
            world.elect(3, to=1)
            sign(world, b"first")

    times = meanwhile(world, act)
    assert json.loads(world.answer("POST", "/app/x").body) == 3
    assert times == [2]
