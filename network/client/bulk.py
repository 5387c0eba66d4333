"""Many requests on one pipelined connection at a time: which are in flight, which must go again. No I/O.

Made for throughput: no task, event or timer per request, frames are built and read in batches. The promises of a single request
(`client.attempts`) hold for each: idempotency keys, the budget, the same verdicts. Keys are `VIEW.SEQNO/RANDOM-INDEX`: 128 random bits
drawn once for a bulk, so no two bulks share them, and the index of the call, so no two calls of one do.
Whoever drives it (`client.blocking`, `client.pipeline`) alternates `output`, a read, `received`; after a broken connection it calls
`lost` and connects to `origin()`.
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
from ledgerd.network.client.values import APPLIED_HEADER, SAFE_METHODS, TRANSACTION_ID_HEADER, Answer, Call, says_committed

NEWEST_NUMBER: Final = (1 << 53) - 1  # of a frame that is no call's: it asks for the newest transaction
NODES_NUMBER: Final = NEWEST_NUMBER - 1  # and of the one that asks for the nodes
IN_FLIGHT_BYTES_MAX: Final = 1 << 20  # of request frames not yet answered: less than a node buffers, so neither side ever blocks the other


class _Batch:
    """What calls share that are sent for the first time together, with the same headers."""

    __slots__ = ("headers", "key_start", "started")

    def __init__(self, headers: Mapping[str, str], key_start: str) -> None:
        self.headers = headers  # with ours, without a key that we made; never changed
        self.key_start = key_start  # of the keys that we make, of which the rest is the call's index; "": we make none
        self.started = 0.0


class _Item:
    """One call that must go again, and what is known of it. Most calls never do, and cost no such object."""

    __slots__ = ("attempts", "call", "executed", "headers", "index", "key", "size", "started", "unsure")

    def __init__(self, index: int, call: Call, headers: Mapping[str, str], key: str | None, started: float) -> None:
        self.index = index
        self.call = call
        self.headers = headers  # as a batch's
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
        "_first",
        "_flying_bytes",
        "_headers",
        "_impostors",
        "_keys",
        "_merged",
        "_next",
        "_random",
        "_repeated",
        "_with_key",
        "nodes",
        "shared",
        "window",
    )

    def __init__(self, calls: Iterable[Call], nodes: Nodes, shared: Attempting, *, window: int, commit: bool, make_keys: bool) -> None:
        self._calls: Iterator[Call] | None = iter(calls)
        self._again: deque[_Item] = deque()
        self._first: dict[int, tuple[Call, int, _Batch]] = {}  # in flight for the first time: call, the frame's size, batch
        self._repeated: dict[int, _Item] = {}  # in flight again
        self._flying_bytes = 0
        self._next = 0
        self._failed_rounds = 0
        self._asked = False  # for the newest transaction, on this connection
        self._answered = False  # anything, by the node of this connection
        self._impostors: dict[str, str] = {}
        self._keys = make_keys
        wait = int(shared.budget.attempt_seconds) - 1
        self._headers = {"prefer": prefer_header(commit=True, receipt=False, wait_seconds=wait)} if commit else {}
        self._call_headers: dict[str, str] = {}  # of the last call that was sent; most calls of a bulk have the same
        self._merged = self._headers  # and ours
        self._with_key: dict[str, str] = {}  # the same, and a key: each call's in turn
        self._random = shared.token(TOKEN_BYTES) if make_keys else ""
        self._encoder = Encoder()
        self.nodes = nodes
        self.shared = shared
        self.window = window

    @property
    def in_flight(self) -> int:
        """Requests sent and not answered."""
        return len(self._first) + len(self._repeated)

    def finished(self) -> bool:
        """True when every call has had its result."""
        return self._calls is None and not self._first and not self._repeated and not self._again

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
        frames: list[bytes] = []
        if self._answered and self.nodes.should_learn(self.shared.clock()):
            self._encoder.add(frames, NODES_NUMBER, "GET", NODES_PATH, {}, b"")
        while self._again and self._has_room():
            self._send_again(self._again.popleft(), frames)
        if self._calls is not None and self._has_room():
            self._send_new(self._calls, frames)
        return b"".join(frames)

    def _has_room(self) -> bool:
        return self.in_flight < self.window and self._flying_bytes < IN_FLIGHT_BYTES_MAX

    def _send_new(self, calls: Iterator[Call], frames: list[bytes]) -> None:
        """Every call passes here, and most no other place but `received`."""
        add = self._encoder.add
        first, room = self._first, self.window - len(self._repeated)
        index, flying_bytes = self._next, self._flying_bytes
        key_start = f"{self.nodes.newest}/{self._random}-" if self._keys else ""
        batches: list[_Batch] = []
        last_headers: Mapping[str, str] | None = None
        for call in calls:
            method, path, body, headers = call.method, call.path, call.body, call.headers
            if headers != last_headers:
                if headers != self._call_headers:
                    self._merge(headers)
                last_headers, merged, with_key = self._call_headers, self._merged, self._with_key
                batch = _Batch(merged, "" if "idempotency-key" in merged else key_start)
                batches.append(batch)
            if batch.key_start and method not in SAFE_METHODS:
                with_key["idempotency-key"] = key_start + str(index)
                size = add(frames, index, method, path, with_key, body)
            else:
                size = add(frames, index, method, path, merged, body)
            first[index] = (call, size, batch)
            index += 1
            flying_bytes += size
            if len(first) >= room or flying_bytes >= IN_FLIGHT_BYTES_MAX:
                break
        else:
            self._calls = None
        self._next, self._flying_bytes = index, flying_bytes
        now = self.shared.clock()
        for batch in batches:
            batch.started = now

    def _send_again(self, item: _Item, frames: list[bytes]) -> None:
        """A call that was sent before, or whose connection could not be made; or, where it was executed, the question for its status."""
        if item.executed is not None:
            item.size = self._encoder.add(frames, item.index, "GET", f"{STATUS_PATH}{item.executed.transaction_id}", {}, b"")
        else:
            headers = item.headers
            if item.key is not None:
                item.key = item.key or f"{self.nodes.newest}/{self._random}-{item.index}"
                headers = {**headers, "idempotency-key": item.key}
            item.size = self._encoder.add(frames, item.index, item.call.method, item.call.path, headers, item.call.body)
            item.attempts += 1
        self._flying_bytes += item.size
        self._repeated[item.index] = item

    def received(self, frames: list[Frame]) -> tuple[list[tuple[int, Answer | ClientError]], bool]:
        """Take answers.

        Returns: Results by index of the call, in the order in which they came; and whether to go on with this connection (False: its
            node is not the one to talk to; connect to `origin()` after `lost`).
        """
        results: list[tuple[int, Answer | ClientError]] = []
        stay = True
        commit = bool(self._headers)
        newest = None
        pop = self._first.pop
        answered_bytes = 0
        for number, status, headers, body in frames:
            flight = pop(number, None)
            if flight is None:
                item = self._repeated.pop(number, None)
                if item is None:
                    stay = self._own(number, Received(status, headers, body)) and stay
                    continue
                answered_bytes += item.size
            else:
                answered_bytes += flight[1]
                if 200 <= status < 300 and status != 202 and (not commit or headers.get(APPLIED_HEADER) == "committed"):
                    newest = headers
                    results.append((number, Answer(status, headers, body, commit)))
                    continue
                item = self._item(number, *flight)
            stay = self._judge(item, Received(status, headers, body), results) and stay
        self._flying_bytes -= answered_bytes
        if newest is not None:
            self._succeeded(newest)
        return results, stay

    def _succeeded(self, headers: Mapping[str, str]) -> None:
        self._answered = True
        self._failed_rounds = 0
        self.nodes.saw(headers)

    def _item(self, index: int, call: Call, size: int, batch: _Batch) -> _Item:
        """The history of a call that was sent once."""
        key = batch.headers.get("idempotency-key")
        if batch.key_start and call.method not in SAFE_METHODS:
            key = f"{batch.key_start}{index}"
        item = _Item(index, call, batch.headers, key, batch.started)
        item.attempts, item.size = 1, size
        return item

    def _own(self, number: int, received: Received) -> bool:
        """The answer to a question of our own. Returns whether to stay."""
        if number == NEWEST_NUMBER:
            return self._learn_newest(received)
        if number == NODES_NUMBER and received.status == 200:
            take_nodes(self.nodes, received.body)
        return True  # whatever else it is: a node that answers twice harms only itself

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

    def lost(self, origin: str, why: Lost) -> tuple[list[tuple[int, Answer | ClientError]], float]:
        """The connection to `origin` is gone or could not be made: everything in flight goes again, or fails.

        Returns: Results of requests that cannot go again, and for how long to pause before the next connection.
        """
        if why.trouble is Trouble.IMPOSTOR:
            self._impostors[origin] = why.reason
        self.nodes.leave(origin)
        results: list[tuple[int, Answer | ClientError]] = []
        items = [self._item(index, *flight) for index, flight in self._first.items()]
        items = sorted([*items, *self._repeated.values()], key=lambda item: item.index)
        self._first.clear()
        self._repeated.clear()
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
        """The next call, though it cannot be sent yet."""
        if self._calls is None:
            return None
        call = next(self._calls, None)
        if call is None:
            self._calls = None
            return None
        index = self._next
        self._next = index + 1
        if call.headers != self._call_headers:
            self._merge(call.headers)
        headers = self._merged
        key = headers.get("idempotency-key")
        if key is None and self._keys and call.method not in SAFE_METHODS:
            key = ""
        return _Item(index, call, headers, key, self.shared.clock())

    def _merge(self, headers: Mapping[str, str]) -> None:
        """A call's headers and ours: kept for the next calls, as a copy, since the caller may change his in between."""
        self._call_headers = dict(headers)
        self._merged = {**headers, **self._headers}
        self._with_key = dict(self._merged)

    def _judge(self, item: _Item, received: Received, results: list[tuple[int, Answer | ClientError]]) -> bool:
        """Any answer but a plain success to a call that was sent once. Returns whether this node is still the one to talk to."""
        status, headers, body = received
        if not 200 <= status < 300 or status == 202:
            return self._unusual(item, received, results)
        self._succeeded(headers)
        commit = bool(self._headers)
        committed = commit and says_committed(headers)
        if item.executed is None and (committed or not commit or TRANSACTION_ID_HEADER not in headers):
            results.append((item.index, Answer(status, headers, body, committed)))
        else:
            self._unproven(item, received, results)
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
