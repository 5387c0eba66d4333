"""What one logical request does about each thing that can happen to an attempt, without network, clock or chance."""

import json
from collections.abc import Callable

import pytest

from ledgerd.ledger.ids import TransactionId, parse_transaction_id
from ledgerd.network.client.attempts import (
    Attempting,
    Lost,
    Pause,
    Received,
    Send,
    Steps,
    Trouble,
    Verdict,
    attempts,
    judge,
    submission,
)
from ledgerd.network.client.errors import (
    OutcomeUnknown,
    RequestRefused,
    RetryBudgetExhausted,
    ServiceIdentityMismatch,
    TransactionInvalid,
)
from ledgerd.network.client.nodes import Nodes
from ledgerd.network.client.values import Answer, Budget, Call

A, B, C = "https://a:1", "https://b:1", "https://c:1"
PUT = Call("PUT", "/app/records/1", b"value")
GET = Call("GET", "/app/records/1")
BUDGET = Budget()
EXECUTED = Received(204, {"x-ms-ccf-transaction-id": "2.9"}, b"")
DONE = EXECUTED._replace(headers={**EXECUTED.headers, "preference-applied": "committed"})
COMMIT = Received(200, {}, b'{"transaction_id": "2.7"}')


def refused(status: int, code: str, headers: dict[str, str] | None = None) -> Received:
    return Received(status, headers or {}, json.dumps({"error": {"code": code, "message": "text"}}).encode())


class World:
    """Drives steps by a script of results, with a clock that moves only when told."""

    def __init__(self, *results: Received | Lost | Callable[[Send], Received | Lost], budget: Budget = BUDGET) -> None:
        self.results = list(results)
        self.sent: list[Send] = []
        self.paused: list[float] = []
        self.now = 100.0
        self.attempt_costs = 0.0
        self.nodes = Nodes([A, B, C])
        self.shared = Attempting(budget, lambda: self.now, lambda: 0.0, lambda size: "r" * size)

    def run(self, steps: Steps) -> Answer:
        result: Received | Lost | None = None
        while True:
            try:
                step = steps.send(result)
            except StopIteration as done:
                answer: Answer = done.value
                return answer
            if isinstance(step, Pause):
                self.paused.append(step.seconds)
                self.now += step.seconds
                result = None
                continue
            self.sent.append(step)
            self.now += self.attempt_costs
            script = self.results.pop(0) if len(self.results) > 1 else self.results[0]
            result = script(step) if callable(script) else script

    def attempt(self, call: Call = PUT, key: str | None = "2.7/k", commit: bool = True, waits: bool = False) -> Answer:
        deadline = self.now + self.shared.budget.seconds
        return self.run(attempts(call, self.nodes, self.shared, deadline=deadline, key=key, commit=commit, waits=waits))

    def submit(self, call: Call = PUT, key: str | None = None, make_key: bool = True) -> Answer:
        return self.run(submission(call, self.nodes, self.shared, key=key, make_key=make_key, commit=True))

    @property
    def asked(self) -> list[str]:
        return [step.origin for step in self.sent]


def test_a_success_is_returned_and_its_node_is_asked_first_from_then_on() -> None:
    world = World(Lost(Trouble.NOT_SENT, "refused"), DONE)
    answer = world.attempt()
    assert (answer.status, answer.committed, answer.transaction_id) == (204, True, parse_transaction_id("2.9"))
    assert world.asked == [A, B]
    assert world.nodes.pick() == B
    assert world.nodes.newest == parse_transaction_id("2.9")


def test_a_dead_node_costs_no_pause_while_another_is_untried() -> None:
    world = World(Lost(Trouble.NOT_SENT, "refused"), Lost(Trouble.CUT, "reset"), DONE)
    world.attempt()
    assert world.asked == [A, B, C]
    assert world.paused == []


def test_pauses_grow_with_every_round_and_are_bounded() -> None:
    world = World(*[refused(503, "PrimaryNotFound")] * 30, DONE)
    world.attempt()
    assert world.paused == sorted(world.paused)
    assert world.paused[0] == 0.02
    assert world.paused[-1] == 0.3
    assert len(world.paused) == 10


@pytest.mark.parametrize(
    "unsure", [Lost(Trouble.CUT, "reset"), refused(504, "OutcomeUnknown"), refused(503, "TransactionReplicationFailed")]
)
def test_what_may_have_been_executed_is_repeated_with_the_same_key_only(unsure: Received | Lost) -> None:
    world = World(unsure, DONE)
    world.attempt(key="2.7/k")
    assert [step.headers["idempotency-key"] for step in world.sent] == ["2.7/k", "2.7/k"]

    world = World(unsure, DONE)
    with pytest.raises(OutcomeUnknown):
        world.attempt(key=None)
    assert len(world.sent) == 1


def test_a_read_is_repeated_without_a_key() -> None:
    world = World(Lost(Trouble.CUT, "reset"), DONE)
    world.attempt(GET, key=None)
    assert len(world.sent) == 2
    assert "idempotency-key" not in world.sent[1].headers


@pytest.mark.parametrize("last", [Lost(Trouble.CUT, "reset"), refused(504, "OutcomeUnknown"), Received(202, {}, b"")])
def test_a_read_without_an_answer_has_changed_nothing(last: Received | Lost) -> None:
    world = World(last, budget=Budget(attempts=3))
    with pytest.raises(RetryBudgetExhausted, match=f"no final answer to GET {GET.path} in 3 attempts"):
        world.attempt(GET, key=None)


@pytest.mark.parametrize(
    "harmless",
    [
        Lost(Trouble.NOT_SENT, "refused"),
        refused(503, "PrimaryNotFound"),
        refused(503, "TooManyPendingTransactions"),
        refused(404, "FrontendNotOpen"),
        refused(500, "SessionConsistencyLost"),
        refused(409, "TransactionInvalid"),
        Received(429, {}, b""),
    ],
)
def test_what_was_certainly_not_executed_is_repeated_without_a_key(harmless: Received | Lost) -> None:
    world = World(harmless, DONE)
    assert world.attempt(key=None).status == 204
    assert len(world.sent) == 2


def test_a_redirect_names_the_next_node_but_not_what_is_asked() -> None:
    world = World(Received(307, {"location": "https://d:9/app/other"}, b""), DONE)
    world.attempt()
    assert [(step.origin, step.path) for step in world.sent] == [(A, PUT.path), ("https://d:9", PUT.path)]
    assert world.paused == []
    assert "https://d:9" in world.nodes.origins


def test_a_redirect_away_from_encryption_is_not_followed() -> None:
    world = World(Received(307, {"location": "http://b:1/app/records/1"}, b""), DONE)
    world.attempt()
    assert all(step.origin.startswith("https://") for step in world.sent)


def test_a_refusal_is_raised_at_once_with_what_the_service_said() -> None:
    details = [{"auth_policy": "User TLS", "code": "InvalidAuthenticationInfo", "message": "no certificate"}]
    body = json.dumps({"error": {"code": "InvalidAuthenticationInfo", "message": "Invalid info", "details": details}}).encode()
    world = World(Received(401, {}, body))
    with pytest.raises(RequestRefused, match="no certificate") as caught:
        world.attempt()
    assert (caught.value.status, caught.value.error_code, len(world.sent)) == (401, "InvalidAuthenticationInfo", 1)


def test_what_a_refusal_says_twice_is_told_once() -> None:
    details: tuple[dict[str, object], ...] = tuple(
        {"message": text} for text in ("Error: there is no bundle", "InternalError: interrupted", "InternalError: interrupted")
    )
    told = str(RequestRefused(500, "InternalError", "Failed to apply(): Error: there is no bundle", details))
    assert told == "500 InternalError: Failed to apply(): Error: there is no bundle; InternalError: interrupted"


def test_an_answer_of_unknown_form_is_refused_with_its_text() -> None:
    with pytest.raises(RequestRefused, match="teapot"):
        World(Received(418, {}, b"teapot")).attempt()


def test_a_pending_answer_is_asked_again_until_committed() -> None:
    pending = Received(202, {"x-ms-ccf-transaction-id": "2.8"}, b"")
    world = World(pending, pending, DONE)
    assert world.attempt().committed
    assert len({step.headers["idempotency-key"] for step in world.sent}) == 1


def test_a_pending_transaction_without_a_key_is_asked_about_not_repeated() -> None:
    pending = Received(202, {"x-ms-ccf-transaction-id": "2.8"}, b"")
    world = World(pending, Received(200, {}, b'{"status": "Pending"}'), Received(200, {}, b'{"status": "Committed"}'))
    assert world.attempt(key=None).committed
    assert [(step.method, step.path) for step in world.sent[1:]] == [("GET", "/node/tx?transaction_id=2.8")] * 2

    world = World(pending, Received(200, {}, b'{"status": "Invalid"}'))
    with pytest.raises(TransactionInvalid):
        world.attempt(key=None)


def test_an_endless_rollback_ends_as_invalid_not_as_unknown() -> None:
    world = World(refused(409, "TransactionInvalid"), budget=Budget(attempts=5))
    with pytest.raises(TransactionInvalid):
        world.attempt()
    assert len(world.sent) == 5


def test_a_budget_spent_on_nodes_that_never_took_it_says_that_nothing_happened() -> None:
    world = World(refused(503, "PrimaryNotFound"), budget=Budget(seconds=2))
    with pytest.raises(RetryBudgetExhausted, match="PrimaryNotFound"):
        world.attempt()
    assert world.now <= 102.0 + 0.3


def test_a_budget_spent_after_a_cut_says_that_the_outcome_is_unknown_and_names_the_key() -> None:
    world = World(Lost(Trouble.CUT, "reset"), refused(503, "PrimaryNotFound"), budget=Budget(seconds=2))
    with pytest.raises(OutcomeUnknown) as caught:
        world.attempt(key="2.7/k")
    assert caught.value.idempotency_key == "2.7/k"


def test_the_outcome_is_unknown_with_the_id_where_one_was_told() -> None:
    world = World(refused(504, "OutcomeUnknown", {"x-ms-ccf-transaction-id": "2.8"}), budget=Budget(attempts=2))
    with pytest.raises(OutcomeUnknown) as caught:
        world.attempt()
    assert caught.value.transaction_id == TransactionId(*parse_transaction_id("2.8"))


def test_no_attempt_starts_or_lasts_beyond_the_budget() -> None:
    world = World(Lost(Trouble.CUT, "slow"), budget=Budget(seconds=7, attempt_seconds=5))
    world.attempt_costs = 5
    with pytest.raises(OutcomeUnknown):
        world.attempt()
    assert [step.timeout for step in world.sent] == [5, 2]


def test_an_impostor_is_left_aside_and_named_only_if_nobody_else_is_there() -> None:
    impostor = Lost(Trouble.IMPOSTOR, "wrong certificate")
    world = World(impostor, impostor, DONE)
    assert world.attempt().status == 204

    world = World(impostor)
    with pytest.raises(ServiceIdentityMismatch, match=A):
        world.attempt()
    assert world.asked == [A, B, C]


def test_the_wish_for_commit_carries_a_limit_shorter_than_our_own() -> None:
    world = World(DONE)
    world.attempt()
    assert world.sent[0].headers["prefer"] == "committed, wait=4"
    world = World(DONE)
    world.attempt(commit=False)
    assert "prefer" not in world.sent[0].headers


def test_a_key_is_made_once_and_dated_by_the_newest_id() -> None:
    world = World(COMMIT, Lost(Trouble.CUT, "reset"), DONE)
    world.submit()
    assert [step.path for step in world.sent] == ["/node/commit", PUT.path, PUT.path]
    assert [step.headers["idempotency-key"] for step in world.sent[1:]] == ["2.7/" + "r" * 16] * 2


def test_later_keys_need_no_question_and_reads_need_no_key() -> None:
    world = World(COMMIT, DONE)
    world.submit()
    world.submit()
    world.submit(GET)
    assert [step.headers.get("idempotency-key", "")[:4] for step in world.sent] == ["", "2.7/", "2.9/", ""]


def test_a_key_that_is_too_old_is_made_anew_while_nothing_can_have_happened() -> None:
    world = World(refused(422, "IdempotencyKeyTooOld"), Received(200, {}, b'{"transaction_id": "4.900"}'), DONE)
    world.nodes.newest = parse_transaction_id("2.7")
    world.submit()
    assert world.sent[2].headers["idempotency-key"].startswith("4.900/")


def test_a_key_that_became_too_old_after_a_cut_leaves_the_outcome_unknown() -> None:
    world = World(Lost(Trouble.CUT, "reset"), refused(422, "IdempotencyKeyTooOld"))
    world.nodes.newest = parse_transaction_id("2.7")
    with pytest.raises(OutcomeUnknown):
        world.submit()


def test_the_callers_own_key_is_never_replaced() -> None:
    world = World(refused(422, "IdempotencyKeyTooOld"))
    with pytest.raises(RequestRefused):
        world.submit(key="mine")
    assert [step.headers["idempotency-key"] for step in world.sent] == ["mine"]


def test_a_receipt_that_is_not_there_yet_is_asked_for_again() -> None:
    world = World(Received(202, {}, b""), refused(404, "TransactionPendingOrUnknown"), Received(200, {}, b"receipt"))
    assert world.attempt(GET, key=None, commit=False, waits=True).body == b"receipt"


def test_every_server_error_that_is_not_known_to_be_harmless_leaves_doubt() -> None:
    assert judge(503, "SomethingNew", waits=True) is Verdict.UNSURE
    assert judge(502, "", waits=True) is Verdict.UNSURE
    assert judge(202, "", waits=False) is Verdict.DONE


def status(text: str) -> Received:
    return Received(200, {"x-ms-ccf-transaction-id": "2.11"}, json.dumps({"transaction_id": "2.9", "status": text}).encode())


def test_a_success_that_does_not_say_it_waited_for_commit_is_asked_about_until_it_is_committed() -> None:
    world = World(EXECUTED, status("Unknown"), status("Pending"), status("Committed"))
    answer = world.attempt()
    assert (answer.status, answer.committed, answer.transaction_id) == (204, True, parse_transaction_id("2.9"))
    assert [(step.method, step.path) for step in world.sent] == [
        ("PUT", "/app/records/1"),
        *[("GET", "/node/tx?transaction_id=2.9")] * 3,
    ]
    assert world.paused == [0.02, 0.04]


def test_what_was_rolled_back_before_it_was_committed_is_submitted_again() -> None:
    world = World(EXECUTED, status("Invalid"), DONE)
    assert world.attempt().committed
    assert [step.method for step in world.sent] == ["PUT", "GET", "PUT"]


@pytest.mark.parametrize("silence", [status("Pending"), Lost(Trouble.NOT_SENT, "refused")])
def test_what_is_not_known_to_be_committed_within_the_budget_is_an_unknown_outcome(silence: Received | Lost) -> None:
    world = World(EXECUTED, silence)
    with pytest.raises(OutcomeUnknown, match=r"2\.9 was executed, but is not known to be committed") as caught:
        world.attempt(key="2.7/k")
    assert (caught.value.transaction_id, caught.value.idempotency_key) == (parse_transaction_id("2.9"), "2.7/k")


@pytest.mark.parametrize(("applied", "asks"), [("committed", 0), ("wait, committed", 0), ("wait", 1), ("uncommitted", 1)])
def test_the_preference_that_a_node_says_it_applied_is_read_as_a_list(applied: str, asks: int) -> None:
    world = World(EXECUTED._replace(headers={**EXECUTED.headers, "preference-applied": applied}), status("Committed"))
    assert world.attempt().committed
    assert len(world.sent) == 1 + asks


def test_nothing_is_called_committed_that_touched_nothing_or_was_not_to_wait() -> None:
    assert not World(Received(200, {}, b"{}")).attempt(GET).committed
    world = World(EXECUTED)
    assert not world.attempt(commit=False).committed
    assert len(world.sent) == 1


@pytest.mark.parametrize(
    "left",
    [
        refused(307, "NodeRetired", {"location": f"{C}/app/records/1"}),
        refused(409, "TransactionInvalid", {"location": f"{C}/"}),
        refused(504, "OutcomeUnknown", {"location": f"{C}/"}),
    ],
)
def test_a_node_that_has_left_the_service_says_who_goes_on(left: Received) -> None:
    world = World(left, DONE)
    world.attempt()
    assert world.asked == [A, C]
    assert world.paused == []


@pytest.mark.parametrize("location", ["", "/", "http://c:1/", "https://"])
def test_where_it_names_nobody_the_next_node_is_asked(location: str) -> None:
    world = World(refused(504, "OutcomeUnknown", {"location": location}), DONE)
    world.attempt()
    assert world.asked == [A, B]
