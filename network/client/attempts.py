"""How one logical request becomes attempts: which node, when again, when to give up, and what the caller is told. No I/O.

`attempts` is a generator: it yields `Send` and `Pause`, is sent back what came of it, and returns the answer. The synchronous and the
asynchronous client drive the same one, so both keep the same promises:

- A request that may have been executed is repeated only if that is harmless: a safe method, or an idempotency key, made once per
  logical request, under which the service executes it at most once.
- An answer counts as committed if the node says that it waited for that; of any other the transaction's status is asked.
- A request that certainly was not executed (refused before execution, rolled back, never sent) is repeated in any case.
- Everything ends within the stated budget.

Not here: bytes and sockets (`client.session`, `client.pipeline`), what a receipt proves (`ledger.receipt`).
"""

import json
from collections.abc import Callable, Generator, Mapping
from enum import Enum
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias

from ledgerd.ledger.ids import TransactionId, parse_transaction_id
from ledgerd.network.client.errors import (
    OutcomeUnknown,
    RequestRefused,
    RetryBudgetExhausted,
    ServiceIdentityMismatch,
    TransactionInvalid,
)
from ledgerd.network.client.nodes import Nodes
from ledgerd.network.client.values import SAFE_METHODS, TRANSACTION_ID_HEADER, Answer, Budget, Call, says_committed

COMMIT_PATH: Final = "/node/commit"
STATUS_PATH: Final = "/node/tx?transaction_id="
TOKEN_BYTES: Final = 16  # random part of an idempotency key: 128 bits never collide


class Send(NamedTuple):
    """Send this to `origin`, and give back `Received` or `Lost` within `timeout` seconds."""

    origin: str
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    timeout: float


class Pause(NamedTuple):
    """Wait, then give back None."""

    seconds: float


class Received(NamedTuple):
    """A node's answer, header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Trouble(Enum):
    """Why there is no answer."""

    NOT_SENT = "not sent"  # no connection: certainly not executed
    CUT = "cut"  # sent at least in part: may have been executed
    IMPOSTOR = "impostor"  # the certificate does not belong to the pinned service: nothing was sent


class Lost(NamedTuple):
    """There is no answer, for this reason."""

    trouble: Trouble
    reason: str


Result: TypeAlias = Received | Lost | None
Steps: TypeAlias = Generator[Send | Pause, Result, Answer]


class Verdict(Enum):
    """What an answer means for the request."""

    DONE = 1
    PENDING = 2  # executed, not committed yet: the same request again waits for the rest
    ELSEWHERE = 3  # not executed here: another node was named
    AGAIN = 4  # certainly not executed
    UNSURE = 5  # may have been executed
    REFUSED = 6


# Refusals that come before execution, or that undo it. Whatever else a 5xx says, the transaction may exist.
NOT_EXECUTED: Final = frozenset(
    {
        (404, "FrontendNotOpen"),
        (408, ""),
        (409, "TransactionInvalid"),  # executed, rolled back: it can never commit, and its idempotency record went with it
        (429, ""),
        (500, "SessionConsistencyLost"),
        (503, "BackupNotFound"),
        (503, "PrimaryNotFound"),
        (503, "RequestAlreadyForwarded"),
        (503, "SessionCapExhausted"),
        (503, "TooManyPendingTransactions"),
        (503, "TransactionCommitAttemptsExceedLimit"),
    }
)
RECEIPT_PENDING: Final = (404, "TransactionPendingOrUnknown")


class Attempting(NamedTuple):
    """What all attempts of a client share: the budget, and where time and randomness come from."""

    budget: Budget
    clock: Callable[[], float]  # monotonic seconds
    jitter: Callable[[], float]  # uniform in [0, 1)
    token: Callable[[int], str]  # random text made of so many random bytes, for idempotency keys


def error_of(received: Received) -> tuple[str, str, tuple[dict[str, object], ...]]:
    """Read CCF's error shape: code, message, details; the start of the body as message where it has another shape."""
    try:
        error = json.loads(received.body)["error"]
        code, message, details = error["code"], error["message"], error.get("details") or []
        if type(code) is str and type(message) is str and type(details) is list:
            return code, message, tuple(item for item in details if type(item) is dict)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    return "", received.body[:200].decode("utf-8", "replace"), ()


def judge(status: int, error_code: str, *, waits: bool) -> Verdict:
    """Say what an answer means. `waits`: the caller wants a final answer, so 202 is not one."""
    if 200 <= status < 300:
        return Verdict.PENDING if waits and status == 202 else Verdict.DONE
    if status in (307, 308):
        return Verdict.ELSEWHERE
    if (status, error_code) in NOT_EXECUTED or (status, "") in NOT_EXECUTED:
        return Verdict.AGAIN
    if waits and (status, error_code) == RECEIPT_PENDING:
        return Verdict.PENDING
    if status in (502, 503, 504):
        return Verdict.UNSURE
    return Verdict.REFUSED


@lru_cache(maxsize=64)
def prefer_header(*, commit: bool, receipt: bool, wait_seconds: int) -> str:
    """RFC 7240: what the client wants, and for how long the node may hold the answer back."""
    wants = [name for name, wanted in (("committed", commit or receipt), ("receipt", receipt)) if wanted]
    return ", ".join([*wants, f"wait={max(1, wait_seconds)}"]) if wants else ""


def attempts(
    call: Call,
    nodes: Nodes,
    shared: Attempting,
    *,
    deadline: float,
    key: str | None = None,
    commit: bool = False,
    receipt: bool = False,
    waits: bool = False,
) -> Steps:
    """Try `call` at one node after the other until there is an answer that counts.

    Args:
        call: What is asked.
        nodes: Where; learns which node answers, and the newest transaction id.
        shared: Budget and sources.
        deadline: By `shared.clock`, when to give up.
        key: Idempotency key; with it, and for safe methods, an attempt with unknown outcome is repeated.
        commit: Ask for the answer at commit.
        receipt: Ask for the COSE receipt in the answer; implies `commit`.
        waits: 202 means "ask again" even without `commit`, as for receipts.
    Returns: The answer, status 2xx.
    Raises: RequestRefused, TransactionInvalid, OutcomeUnknown, RetryBudgetExhausted, ServiceIdentityMismatch: see each.
    """
    budget, clock = shared.budget, shared.clock
    started = clock()
    repeatable = key is not None or call.method in SAFE_METHODS
    commit = commit or receipt
    impostors: dict[str, str] = {}
    unsure = ""
    last = "no attempt was made"
    pending: TransactionId | None = None
    invalid: TransactionInvalid | None = None
    pause, in_round, sent = budget.pause_seconds, 0, 0

    while sent < budget.attempts and (remaining := deadline - clock()) > 0:
        origin = nodes.pick(impostors)
        if origin is None:
            raise ServiceIdentityMismatch("; ".join(f"{origin}: {reason}" for origin, reason in impostors.items()))
        timeout = min(budget.attempt_seconds, remaining)
        headers = dict(call.headers)
        if key is not None:
            headers["idempotency-key"] = key
        if commit:
            # The node answers 202 a little before we would take it for dead.
            headers["prefer"] = prefer_header(commit=commit, receipt=receipt, wait_seconds=int(timeout) - 1)
        sent += 1
        result = yield Send(origin, call.method, call.path, headers, call.body, timeout)

        hurry, invalid = False, None
        if isinstance(result, Received):
            nodes.saw(result.headers)
            code, message, details = error_of(result) if result.status >= 300 else ("", "", ())
            verdict = judge(result.status, code, waits=waits or commit)
            if verdict is Verdict.DONE:
                nodes.prefer(origin)
                writes = commit and TRANSACTION_ID_HEADER in result.headers
                if not writes or says_committed(result.headers):
                    return Answer(result.status, result.headers, result.body, writes)
                try:
                    return (yield from _await_commit(result, _transaction_id(result), nodes, shared, deadline, origin, key))
                except TransactionInvalid as error:
                    invalid, last = error, str(error)
            else:
                last = f"{origin} answered {result.status} {code}".rstrip()
            if verdict is Verdict.REFUSED:
                raise _refusal(result, code, message, details, key, unsure)
            if verdict is Verdict.PENDING:
                pending = _transaction_id(result)
                if not repeatable:
                    return (yield from _await_commit(result, pending, nodes, shared, deadline, origin, key))
                if commit:
                    unsure = last
                in_round = len(nodes.origins)  # the same node again, after a pause
            elif verdict is Verdict.ELSEWHERE:
                hurry = nodes.follow(result.headers.get("location", ""))
                if not hurry:
                    nodes.leave(origin)
            elif verdict is Verdict.UNSURE:
                unsure = last
                pending = _transaction_id(result) or pending
                hurry = nodes.follow(result.headers.get("location", ""))  # a node that has left the service says who goes on
                if not hurry:
                    nodes.leave(origin)
            elif code == "TransactionInvalid":
                # Its node may be a backup by now, but it answered: it will know the new primary; if it has left, it names it.
                hurry = nodes.follow(result.headers.get("location", ""))
                invalid = TransactionInvalid(f"{_name(call)}: {message}", _transaction_id(result))
            elif verdict is Verdict.AGAIN:
                nodes.leave(origin)
        else:
            assert isinstance(result, Lost), "whoever drives attempts answers a Send with Received or Lost"
            last = f"{origin}: {result.reason}"
            if result.trouble is Trouble.IMPOSTOR:
                impostors[origin] = result.reason
                hurry = True
            elif result.trouble is Trouble.CUT:
                unsure = last
            nodes.leave(origin)
        if unsure and not repeatable:
            break
        in_round += 1
        if not hurry and in_round >= len(nodes.origins):
            in_round = 0
            yield Pause(min(pause * (1 - shared.jitter() / 2), max(0.0, deadline - clock())))
            pause = min(2 * pause, budget.pause_seconds_max)

    if invalid is not None and not unsure:
        raise invalid
    if call.method in SAFE_METHODS and (unsure or pending is not None):  # whatever became of it, it has changed nothing
        raise RetryBudgetExhausted(sent, clock() - started, last, f"no final answer to {_name(call)}")
    if unsure or pending is not None:
        repeat = "repeat it with the same idempotency key" if key is not None else "look at what it should have changed"
        named = f" (transaction {pending})" if pending is not None else ""
        raise OutcomeUnknown(f"{_name(call)}{named} may have been executed: {unsure or last}; {repeat}", pending, key)
    raise RetryBudgetExhausted(sent, clock() - started, last)


def submission(
    call: Call, nodes: Nodes, shared: Attempting, *, key: str | None, make_key: bool, commit: bool, receipt: bool = False
) -> Steps:
    """Submit a transaction once, whatever happens on the way.

    Args:
        call: The request.
        nodes: As in `attempts`.
        shared: As in `attempts`.
        key: The caller's own idempotency key, or None.
        make_key: Make one where the caller gave none and the method is not safe: `VIEW.SEQNO/RANDOM`, with the newest id seen, so
            that the service can tell a key older than its memory from a new one.
        commit: Answer at commit.
        receipt: With the receipt.
    Raises: As `attempts`.
    """
    deadline = shared.clock() + shared.budget.seconds
    made = make_key and key is None and call.method not in SAFE_METHODS
    if made:
        if nodes.newest is None:
            yield from _learn_newest(nodes, shared, deadline)
        key = f"{nodes.newest}/{shared.token(TOKEN_BYTES)}"
    try:
        return (yield from attempts(call, nodes, shared, deadline=deadline, key=key, commit=commit, receipt=receipt))
    except RequestRefused as refusal:
        # A client that slept for longer than the service remembers. Nothing was executed under this key, or it would be OutcomeUnknown.
        if not made or refusal.error_code != "IdempotencyKeyTooOld":
            raise
    yield from _learn_newest(nodes, shared, deadline)
    key = f"{nodes.newest}/{shared.token(TOKEN_BYTES)}"
    return (yield from attempts(call, nodes, shared, deadline=deadline, key=key, commit=commit, receipt=receipt))


def newest_of(answer: Answer) -> TransactionId:
    """Read the answer of `COMMIT_PATH`. Raises: FormatError: It holds no id."""
    return parse_transaction_id(str(_field(answer.json(), "transaction_id")))


def _learn_newest(nodes: Nodes, shared: Attempting, deadline: float) -> Generator[Send | Pause, Result, None]:
    answer = yield from attempts(Call("GET", COMMIT_PATH), nodes, shared, deadline=deadline)
    newest = newest_of(answer)
    if nodes.newest is None or newest > nodes.newest:
        nodes.newest = newest


def _await_commit(
    first: Received, pending: TransactionId | None, nodes: Nodes, shared: Attempting, deadline: float, origin: str, key: str | None
) -> Steps:
    """Ask for the transaction's status until it is final, where the request need not or cannot be repeated for that."""
    if pending is None:
        raise OutcomeUnknown(f"{origin} answered 202 without a transaction id", None, key)
    pause = shared.budget.pause_seconds
    why = "it is pending"
    while shared.clock() < deadline:
        try:
            answer = yield from attempts(Call("GET", f"{STATUS_PATH}{pending}"), nodes, shared, deadline=deadline)
        except RetryBudgetExhausted as error:
            why = str(error)
            break
        status = _field(answer.json(), "status")
        if status == "Committed":
            return Answer(first.status, first.headers, first.body, True)
        if status == "Invalid":
            raise TransactionInvalid(f"transaction {pending} was rolled back", pending)
        yield Pause(pause)
        pause = min(2 * pause, shared.budget.pause_seconds_max)
    raise OutcomeUnknown(f"transaction {pending} was executed, but is not known to be committed ({why}); ask for its status", pending, key)


def _refusal(
    received: Received, code: str, message: str, details: tuple[dict[str, object], ...], key: str | None, unsure: str
) -> RequestRefused | OutcomeUnknown:
    if code == "IdempotencyKeyTooOld" and unsure:
        return OutcomeUnknown(f"{unsure}, and now the service no longer remembers the key {key}", None, key)
    return RequestRefused(received.status, code, message, details)


def _transaction_id(received: Received) -> TransactionId | None:
    text = received.headers.get(TRANSACTION_ID_HEADER)
    return None if text is None else parse_transaction_id(text)


def _field(document: Any, name: str) -> Any:
    return document.get(name) if isinstance(document, dict) else None


def _name(call: Call) -> str:
    return f"{call.method} {call.path}"
