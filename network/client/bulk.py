"""Many requests on one pipelined connection at a time: which are in flight, which must go again. No I/O.

Made for throughput: no task, event or timer per request, frames are built and read in batches. The promises of a single request
(`client.attempts`) hold for each: idempotency keys, the budget, the same verdicts. Keys are `VIEW.SEQNO/RANDOM-INDEX`: 128 random bits
drawn once for a bulk, so no two bulks share them, and the index of the call, so no two calls of one do.
The driver (`client.pipeline`) alternates `output`, a read, `received`; after a broken connection it calls `lost` and connects
to `origin()`.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from ledgerd.ledger.errors import FormatError
from ledgerd.ledger.ids import TransactionId
from ledgerd.network.client.attempts import (
    COMMIT_PATH,
    STATUS_PATH,
    TOKEN_BYTES,
    Attempting,
    Lost,
    Received,
    Trouble,
    Verdict,
    error_of,
    judge,
    newest_of,
    prefer_header,
)
from ledgerd.network.client.errors import (
    ClientError,
    OutcomeUnknown,
    RequestRefused,
    RetryBudgetExhausted,
    ServiceIdentityMismatch,
    TransactionInvalid,
)
from ledgerd.network.client.frames import Encoder, Frame
from ledgerd.network.client.learning import NODES_PATH, take_nodes
from ledgerd.network.client.nodes import Nodes
from ledgerd.network.client.values import SAFE_METHODS, TRANSACTION_ID_HEADER, Answer, Call, says_committed

NEWEST_NUMBER: Final = (1 << 53) - 1  # of a frame that is no call's: it asks for the newest transaction
NODES_NUMBER: Final = NEWEST_NUMBER - 1  # and of the one that asks for the nodes
IN_FLIGHT_BYTES_MAX: Final = 1 << 20  # of request frames not yet answered: less than a node buffers, so neither side ever blocks the other


class _Item:
    __slots__ = ("attempts", "call", "executed", "headers", "index", "key", "size", "started", "unsure")

    def __init__(self, index: int, call: Call, headers: dict[str, str], key: str | None, started: float) -> None:
        self.index = index
        self.call = call
        self.headers = headers  # with ours, without a key that we made; shared with other items, so never changed
        self.key = key  # None: it goes without. "": one is made when it is first sent
        self.started = started
        self.attempts = 0
        self.size = 0
        self.unsure = ""
        self.executed: Answer | None = None  # by a node that did not say it waited for commit: its status is asked instead


class Bulk:
    """State of one `submit_many`.

    Args:
        calls: Taken one by one as the window allows; may be endless.
        nodes: As in `client.attempts`. Where keys are to be made and `nodes.newest` is not known, a node is asked for it first.
        shared: Budget (each request has its own) and sources.
        window: Requests in flight at most.
        commit: Ask for answers at commit.
        make_keys: Give each unsafe request an idempotency key.
    """

    __slots__ = (
        "_again",
        "_answered",
        "_asked",
        "_call_headers",
        "_calls",
        "_encoder",
        "_failed_rounds",
        "_flying",
        "_flying_bytes",
        "_headers",
        "_impostors",
        "_keys",
        "_merged",
        "_next",
        "_random",
        "nodes",
        "shared",
        "window",
    )

    def __init__(self, calls: Iterable[Call], nodes: Nodes, shared: Attempting, *, window: int, commit: bool, make_keys: bool) -> None:
        self._calls: Iterator[Call] | None = iter(calls)
        self._again: deque[_Item] = deque()
        self._flying: dict[int, _Item] = {}
        self._flying_bytes = 0
        self._next = 0
        self._failed_rounds = 0
        self._asked = False  # for the newest transaction, on this connection
        self._answered = False  # anything, by the node of this connection
        self._impostors: dict[str, str] = {}
        self._keys = make_keys
        wait = shared.budget.attempt_seconds - 1
        self._headers = {"prefer": prefer_header(commit=True, receipt=False, wait_seconds=wait)} if commit else {}
        self._call_headers: dict[str, str] = {}  # of the last call that was sent; most calls of a bulk have the same
        self._merged = self._headers
        self._random = shared.token(TOKEN_BYTES) if make_keys else ""
        self._encoder = Encoder()
        self.nodes = nodes
        self.shared = shared
        self.window = window

    @property
    def in_flight(self) -> int:
        """Requests sent and not answered."""
        return len(self._flying)

    def finished(self) -> bool:
        """True when every call has had its result."""
        return self._calls is None and not self._flying and not self._again

    def origin(self) -> str:
        """The node to connect to.

        Raises: ServiceIdentityMismatch: Every node known is an impostor.
        """
        origin = self.nodes.pick(self._impostors)
        if origin is None:
            raise ServiceIdentityMismatch("; ".join(f"{origin}: {reason}" for origin, reason in self._impostors.items()))
        return origin

    def output(self) -> bytes:
        """Fill the window; return the frames to send, which may be none."""
        if self._keys and self.nodes.newest is None:
            return self._ask_newest()
        flying, again, window = self._flying, self._again, self.window
        add = self._encoder.add
        frames: list[bytes] = []
        if self._answered and self.nodes.should_learn(self.shared.clock()):
            add(frames, NODES_NUMBER, "GET", NODES_PATH, {}, b"")
        in_flight_bytes = self._flying_bytes
        while len(flying) < window and in_flight_bytes < IN_FLIGHT_BYTES_MAX:
            item = again.popleft() if again else self._take()
            if item is None:
                break
            index, call, key = item.index, item.call, item.key
            if item.executed is None:
                headers = item.headers
                if key is not None:
                    if not key:
                        item.key = key = f"{self.nodes.newest}/{self._random}-{index}"
                    headers = {**headers, "idempotency-key": key}
                size = add(frames, index, call.method, call.path, headers, call.body)
                item.attempts += 1
            else:
                size = add(frames, index, "GET", f"{STATUS_PATH}{item.executed.transaction_id}", {}, b"")
            item.size = size
            in_flight_bytes += size
            flying[index] = item
        self._flying_bytes = in_flight_bytes
        return b"".join(frames)

    def received(self, frames: list[Frame]) -> tuple[list[tuple[int, Answer | ClientError]], bool]:
        """Take answers.

        Returns: Results by index of the call, in the order in which they came; and whether to go on with this connection (False: its
            node is not the one to talk to; connect to `origin()` after `lost`).
        """
        results: list[tuple[int, Answer | ClientError]] = []
        stay = True
        commit = bool(self._headers)
        newest = None
        pop = self._flying.pop
        answered_bytes = 0
        for number, status, headers, body in frames:
            item = pop(number, None)
            if item is None:
                if number == NEWEST_NUMBER:
                    stay = self._learn_newest(Received(status, headers, body)) and stay
                elif number == NODES_NUMBER and status == 200:
                    take_nodes(self.nodes, body)
                continue  # a node that answers twice harms only itself
            answered_bytes += item.size
            if 200 <= status < 300 and status != 202:
                newest = headers
                committed = commit and says_committed(headers)
                if committed or not commit or (item.executed is None and TRANSACTION_ID_HEADER not in headers):
                    results.append((number, Answer(status, headers, body, committed)))
                else:
                    self._unproven(item, Received(status, headers, body), results)
            else:
                stay = self._unusual(item, Received(status, headers, body), results) and stay
        self._flying_bytes -= answered_bytes
        if newest is not None:
            self._answered = True
            self._failed_rounds = 0
            self.nodes.saw(newest)
        return results, stay

    def _ask_newest(self) -> bytes:
        frames: list[bytes] = []
        if not self._asked:
            self._encoder.add(frames, NEWEST_NUMBER, "GET", COMMIT_PATH, {}, b"")
            self._asked = True
        return b"".join(frames)

    def _learn_newest(self, received: Received) -> bool:
        """Returns whether to stay. Otherwise the calls wait for another node to tell, for as long as their budgets allow."""
        if received.status in (307, 308):
            self.nodes.follow(received.headers.get("location", ""))
            return False
        try:
            self.nodes.newest = newest_of(Answer(received.status, received.headers, received.body, False))
        except FormatError:
            return False
        return True

    def _unproven(self, item: _Item, received: Received, results: list[tuple[int, Answer | ClientError]]) -> None:
        """A success of which the node does not say that it is committed, or an answer about such a one's status."""
        executed = item.executed
        if executed is None:
            item.executed = Answer(received.status, received.headers, received.body, True)
            item.unsure = "executed, and not known to be committed"
            self._repeat(item, item.unsure, results)
            return
        document = Answer(received.status, received.headers, received.body, False).json()
        status = document.get("status") if isinstance(document, dict) else None
        if status == "Committed":
            results.append((item.index, executed))
            return
        invalid = None
        if status == "Invalid":
            invalid = TransactionInvalid(f"transaction {executed.transaction_id} was rolled back", executed.transaction_id)
            item.executed, item.unsure = None, ""
        self._repeat(item, f"its status is {status}", results, invalid)

    def lost(self, origin: str, why: Lost) -> tuple[list[tuple[int, Answer | ClientError]], float]:
        """The connection to `origin` is gone or could not be made: everything in flight goes again, or fails.

        Returns: Results of requests that cannot go again, and for how long to pause before the next connection.
        """
        if why.trouble is Trouble.IMPOSTOR:
            self._impostors[origin] = why.reason
        self.nodes.leave(origin)
        results: list[tuple[int, Answer | ClientError]] = []
        items = sorted(self._flying.values(), key=lambda item: item.index)
        self._flying.clear()
        self._asked = self._answered = False
        self._flying_bytes = 0
        last = f"{origin}: {why.reason}"
        for item in items:
            item.unsure = last
            self._repeat(item, last, results)
        while len(self._again) < self.window and (taken := self._take()):
            self._again.append(taken)  # their budget runs from now on, or no connection at all would be tried for ever
        waiting = list(self._again)
        self._again.clear()
        for item in waiting:
            self._repeat(item, last, results)
        self._failed_rounds += 1
        return results, self._pause()

    def _pause(self) -> float:
        budget = self.shared.budget
        rounds = self._failed_rounds // max(1, len(self.nodes.origins))
        if rounds == 0:
            return 0.0
        return float(min(budget.pause_seconds * 2 ** min(rounds - 1, 30), budget.pause_seconds_max) * (1 - self.shared.jitter() / 2))

    def _take(self) -> _Item | None:
        if self._calls is None:
            return None
        call = next(self._calls, None)
        if call is None:
            self._calls = None
            return None
        index = self._next
        self._next = index + 1
        headers = self._merged if call.headers == self._call_headers else self._merge(call.headers)
        key = headers.get("idempotency-key")
        if key is None and self._keys and call.method not in SAFE_METHODS:
            key = ""
        return _Item(index, call, headers, key, self.shared.clock())

    def _merge(self, headers: Mapping[str, str]) -> dict[str, str]:
        """A call's headers and ours: kept for the next calls, as a copy, since the caller may change his in between."""
        self._call_headers = dict(headers)
        self._merged = {**headers, **self._headers}
        return self._merged

    def _unusual(self, item: _Item, received: Received, results: list[tuple[int, Answer | ClientError]]) -> bool:
        """Anything but plain success. Returns whether this node is still the one to talk to."""
        code, message, details = error_of(received)
        self.nodes.saw(received.headers)
        verdict = judge(received.status, code, waits=bool(self._headers))
        last = f"{received.status} {code}: {message}"
        if item.executed is not None and verdict in (Verdict.DONE, Verdict.REFUSED):
            results.append((item.index, self._unknown(item, last)))
            return True
        if verdict is Verdict.DONE:
            results.append((item.index, Answer(received.status, received.headers, received.body, bool(self._headers))))
            return True
        if verdict is Verdict.REFUSED:
            if code == "IdempotencyKeyTooOld" and item.unsure:
                results.append((item.index, self._unknown(item, last)))
            else:
                results.append((item.index, RequestRefused(received.status, code, message, details)))
            return True
        if verdict in (Verdict.PENDING, Verdict.UNSURE):
            item.unsure = last
        invalid = TransactionInvalid(last, None) if code == "TransactionInvalid" else None
        self._repeat(item, last, results, invalid)
        if verdict is Verdict.ELSEWHERE or "location" in received.headers:  # a node that has left the service says who goes on
            return not self.nodes.follow(received.headers.get("location", ""))
        return verdict is Verdict.PENDING or invalid is not None

    def _repeat(
        self, item: _Item, last: str, results: list[tuple[int, Answer | ClientError]], invalid: TransactionInvalid | None = None
    ) -> None:
        budget = self.shared.budget
        seconds = self.shared.clock() - item.started
        repeatable = item.key is not None or item.call.method in SAFE_METHODS
        if item.unsure and not repeatable and item.executed is None:
            results.append((item.index, self._unknown(item, last)))
        elif item.attempts >= budget.attempts or seconds >= budget.seconds:
            if item.unsure:
                results.append((item.index, self._unknown(item, last)))
            else:
                results.append((item.index, invalid or RetryBudgetExhausted(item.attempts, seconds, last)))
        else:
            self._again.append(item)

    def _unknown(self, item: _Item, last: str) -> OutcomeUnknown:
        known: TransactionId | None = None if item.executed is None else item.executed.transaction_id
        what = f"{item.call.method} {item.call.path} may have been executed: {item.unsure or last}"
        return OutcomeUnknown(what, known, item.key or None)
