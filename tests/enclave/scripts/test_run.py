"""One job's messages against its rights and limits: what a worker in the wrong hands may not do, whatever the honest one checks."""

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledgerd.enclave.kv import Store
from ledgerd.enclave.scripts import messages as m
from ledgerd.enclave.scripts import run as runs
from ledgerd.enclave.scripts.access import Access
from ledgerd.enclave.scripts.jobs import LOG_LINES_MAX, MAPS_MAX, Bundle, End, Job, Json, Limits, Response, Result
from ledgerd.enclave.scripts.messages import LookedError, WorkerError
from ledgerd.enclave.scripts.run import Run, job_message, kind_of
from ledgerd.ledger.errors import UsageError
from support.scripts import Scope, unscoped


def run(access: Access = Access.APP_RW, **options: Any) -> Run:
    """A run of nothing in particular."""
    store = Store()
    store.apply(1, {"m": {b"k": b"v"}, "public:ccf.gov.x": {b"k": b"gov"}})

    def fails(arguments: list[Any]) -> Any:
        raise ValueError("not like this")

    job = Job(Bundle({}), "/m", "f", (), access, **options)
    return Run(job, Scope(store), unscoped({"double": lambda arguments: arguments * 2, "fails": fails}))


def test_each_question_is_answered_from_the_state() -> None:
    for message, answer in (
        ([m.GET, "m", b"k"], b"v"),
        ([m.GET, "m", b"x"], None),
        ([m.HAS, "m", b"k"], True),
        ([m.VERSION, "m", b"k"], 1),
        ([m.SIZE, "m"], 1),
        ([m.PAGE, "m", None, None, 256], ([(b"k", b"v")], False)),
    ):
        assert run().take(message) == [m.ANSWER, answer]


def test_a_call_is_of_a_named_function_and_may_be_refused() -> None:
    assert run(calls=("double",)).take([m.CALL, "double", [1]]) == [m.ANSWER, [1, 1]]
    assert run(calls=("fails",)).take([m.CALL, "fails", []]) == [m.REFUSAL, "not like this"]
    with pytest.raises(WorkerError, match="may not make"):
        run(calls=("double",)).take([m.CALL, "fails", []])


def test_a_fault_of_ours_ends_the_job_and_not_the_node() -> None:
    def breaks(arguments: list[Any]) -> Any:
        raise OverflowError("secret")

    broken = Run(Job(Bundle({}), "/m", "f", calls=("breaks",)), Scope(Store()), unscoped({"breaks": breaks}))
    with pytest.raises(WorkerError, match=r"ccf\.breaks failed inside the service: OverflowError") as told:
        broken.take([m.CALL, "breaks", []])
    assert "secret" not in str(told.value)


@pytest.mark.parametrize(
    "message",
    [[m.CLEAR, "many"], [m.PAGE, "many", None, None, 256], [m.SIZE, "own"], [m.PAGE, "own", None, None, 256], [m.GET, "many", b"large"]],
)
def test_there_is_an_end_to_what_its_questions_go_through(message: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The enclave's loop goes through it, now and again at the end of the run; one question may ask for all of a map."""
    monkeypatch.setattr(runs, "LOOKED_MAX", 1_000)
    store = Store()
    store.apply(1, {"many": {**{b"%d" % number: b"" for number in range(300)}, b"large": bytes(300 << 10)}})
    made = Run(Job(Bundle({}), "/m", "f", (), Access.APP_RW), Scope(store), {})
    for number in range(300):
        made.take([m.SET, "own", b"%d" % number, b""])
    with pytest.raises(LookedError, match="at more than 1000 entries"):
        for _ in range(5):
            made.take(message)
            made.answered()
    assert LookedError.end is End.OPERATIONS


@pytest.mark.parametrize("kind", [m.GET, m.HAS, m.VERSION, m.PAGE])
def test_there_is_an_end_to_the_keys_that_it_asks_for(kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are kept to the end of the run, and may be a mebibyte each: a ballot must not fill the enclave's memory with them."""
    monkeypatch.setattr(runs, "ASKED_BYTES_MAX", 1_000)
    made = run(Access.GOV_RO)
    with pytest.raises(LookedError, match="keys of more than 1000 bytes"):
        for number in range(11):
            made.take([kind, "public:ccf.gov.x", b"%100d" % number, *([None, 1] if kind == m.PAGE else [])])
            made.answered()
    assert made._asked == 1_100


@pytest.mark.parametrize(
    ("access", "message"),
    [
        (Access.APP_RO, [m.SET, "m", b"k", b"v"]),
        (Access.APP_RO, [m.DELETE, "m", b"k"]),
        (Access.APP_RO, [m.CLEAR, "m"]),
        (Access.APP_RW, [m.SET, "public:ccf.gov.x", b"k", b"v"]),
        (Access.APP_RW, [m.GET, "ledgerd.internal.idempotency", b"k"]),
        (Access.GOV_RO, [m.SET, "public:ccf.gov.x", b"k", b"v"]),
        (Access.GOV_RO, [m.GET, "m", b"k"]),
        (Access.GOV_RW, [m.GET, "public:records", b"k"]),
        (Access.GOV_RW, [m.SIZE, "public:records"]),
        (Access.GOV_RW, [m.PAGE, "m", None, None, 256]),
        (Access.GOV_RW, [m.SET, "public:ccf.internal.x", b"k", b"v"]),
    ],
)
def test_a_map_is_opened_within_the_job_s_rights(access: Access, message: list[Any]) -> None:
    with pytest.raises(WorkerError, match="may not open"):
        run(access).take(message)


def test_what_is_not_asked_within_limits_is_not_answered() -> None:
    few = run(limits=Limits(operations=2))
    few.take([m.SET, "m", b"a", b""])
    few.take([m.SET, "m", b"b", b""])
    with pytest.raises(WorkerError, match="operations"):
        few.take([m.SET, "m", b"c", b""])
    small = run(limits=Limits(writes_bytes=10))
    small.take([m.SET, "m", b"12345", b"12345"])
    with pytest.raises(WorkerError, match="bytes"):
        small.take([m.DELETE, "m", b"1"])
    maps = run()
    for number in range(MAPS_MAX):
        maps.take([m.SET, f"m{number}", b"k", b"v"])
    with pytest.raises(WorkerError, match="maps"):
        maps.take([m.SET, "one more", b"k", b"v"])


def test_results_and_log_lines_are_within_limits() -> None:
    for message in ([m.DONE, "text", b"12345"], [m.RESPONSE, 200, [["ab", "c"]], "text", b"12"]):
        with pytest.raises(WorkerError, match="limit"):
            run(limits=Limits(output_bytes=4), body=None if message[0] == m.DONE else b"").take(message)
    talkative = run()
    for _ in range(LOG_LINES_MAX):
        talkative.take([m.LOG, "info", "x"])
    with pytest.raises(WorkerError, match="log"):
        talkative.take([m.LOG, "info", "x"])


def test_it_ends_once_and_answers_nothing_afterwards() -> None:
    done = run()
    done.take([m.LOG, "error", "hm"])
    done.take([m.DONE, "json", b"1"])
    assert done.outcome is not None
    assert (done.outcome.end, done.outcome.value, done.outcome.logs) == (End.DONE, Result("json", b"1"), (("error", "hm"),))
    with pytest.raises(WorkerError, match="wait"):
        done.take([m.GET, "m", b"k"])
    answered = run(body=b"")
    answered.take([m.RESPONSE, 404, [["a", "b"]], "bytes", b"x"])
    assert answered.outcome is not None
    assert answered.outcome.value == Response(404, (("a", "b"),), Result("bytes", b"x"))


@pytest.mark.parametrize(
    ("body", "message"), [(None, [m.RESPONSE, 200, [], "json", b"true"]), (b"", [m.DONE, "json", b"true"])], ids=["a ballot", "an endpoint"]
)
def test_a_job_ends_in_its_own_way(body: bytes | None, message: list[Any]) -> None:
    """Else a ballot that broke the engine would be a fault of the enclave's, and nobody's votes on that proposal could be counted."""
    with pytest.raises(WorkerError, match="not how such a job ends"):
        run(body=body).take(message)


def test_who_asks_waits_for_the_answer() -> None:
    asking = run()
    asking.take([m.GET, "m", b"k"])
    with pytest.raises(WorkerError, match="wait"):
        asking.take([m.DONE, "json", b"1"])
    asking.answered()
    asking.take([m.DONE, "json", b"1"])


def test_an_argument_that_no_script_can_be_given_is_a_fault_of_ours() -> None:
    for argument in (object(), float("nan"), {1, 2}, [b"x"]):
        with pytest.raises(UsageError, match="JSON"):
            job_message(Job(Bundle({}), "/m", "f", (argument,)))


NAMES = st.sampled_from(["m", "public:records", "public:ccf.gov.x", "public:ccf.internal.x", "ccf.gov.x", "ledgerd.internal.idempotency"])
KEYS = st.binary(max_size=2)
HOSTILE = st.one_of(
    st.tuples(st.just(m.SET), NAMES, KEYS, KEYS),
    st.tuples(st.sampled_from([m.DELETE, m.GET, m.HAS, m.VERSION]), NAMES, KEYS),
    st.tuples(st.sampled_from([m.CLEAR, m.SIZE]), NAMES),
    st.tuples(st.just(m.PAGE), NAMES, st.none() | KEYS, st.none() | KEYS, st.integers(1, 256)),
    st.tuples(st.just(m.CALL), st.sampled_from(["double", "fails", "other"]), st.lists(st.none() | st.text(max_size=3), max_size=3)),
    st.tuples(st.just(m.LOG), st.just("info"), st.text(max_size=5)),
    st.tuples(st.just(m.DONE), st.sampled_from(["json", "text"]), KEYS),
    st.tuples(st.just(m.FAILED), st.just("exception"), st.text(max_size=5), st.just("")),
    st.tuples(st.just(m.HELLO), st.just([])),
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(Access)), st.lists(HOSTILE, min_size=1, max_size=10))
def test_no_words_of_a_worker_read_or_write_beyond_the_job_s_rights(access: Access, words: list[Any]) -> None:
    """Whatever it says: it is killed, or has read and would write only what the table of rights allows, written out here once more."""
    app = access in (Access.APP_RO, Access.APP_RW)
    writable = {
        Access.APP_RW: {"m", "public:records"},
        Access.APP_RO: set(),
        Access.GOV_RO: set(),
        Access.GOV_RW: {"public:ccf.gov.x", "public:records"},
    }[access]
    secret = (
        {"ccf.gov.x", "ledgerd.internal.idempotency"}
        | (set() if app else {"m"})
        | ({"public:records"} if access is Access.GOV_RW else set())
    )
    hostile = run(access, calls=("double", "fails"))
    for message in m.read(msgpack.packb(words)):
        try:
            answer = hostile.take(message)
        except WorkerError:
            break
        if answer is not None:
            assert message[1] not in secret
            hostile.answered()
    transaction = Store().begin()
    hostile._overlay.write_into(transaction)
    assert transaction.take().keys() <= writable


def test_what_is_worked_out_once_for_many_jobs_is_what_would_be_for_each() -> None:
    whole = Job(Bundle({}), "/m", "f", ({"a": "ä"},), Access.APP_RW, ("one", "two"), reuse="k")
    spared = whole._replace(arguments=(Json(b'{"a":"\\u00e4"}'),), kind=kind_of(whole))
    assert job_message(spared) == job_message(whole)
