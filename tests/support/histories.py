"""What clients saw of a service, and whether a correct one could have shown it.

A recorder fills a `History` while clients run; the checks below judge it afterwards, each by itself, and raise `HistoryError` with what is
wrong. They know nothing of how the service is made, nor of who ran it: the simulation and the tests with real processes use the same ones.
Some also take the committed ledger, as applications see it (`Entry`), which whoever has the files and the keys can make.
Times are of one clock for all clients, in any unit; events at the same time count as concurrent.

    history = History()
    call = history.invoke("client 1", now, "n0", writes={"x": "1"})
    ...
    call.end(Outcome.COMMITTED, later, transaction=(2, 18))
    check(history, ledger)
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import accumulate, pairwise
from math import inf
from typing import Final, NamedTuple, Protocol

from support.linearizability import ANYTHING, Operation, Value, judge

Id = tuple[int, int]
"""View and seqno of a transaction."""


class HistoryError(AssertionError):
    """No correct service could have shown this.

    Attributes:
        rule: Name of the check that found it.
    """

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule


class Outcome(Enum):
    """What the client knows of its call afterwards."""

    COMMITTED = "the answer says that it waited for the commit"
    EXECUTED = "the answer came before the commit"
    REFUSED = "the answer says that nothing was done"
    ROLLED_BACK = "the answer says that it was executed and undone"
    UNKNOWN = "no answer, or one that says that nobody knows"


@dataclass(slots=True)
class Call:
    """One request as one client sent it once. A repetition is another call, with the same `key` and `token`.

    Attributes:
        client, node: Who asked whom.
        invoked, returned: When; `returned` is infinity while there is no answer.
        reads: What it saw of the state before its own writes: key to value, None where there was none.
        writes: What it changes if it takes effect, whatever it finds; None removes. Only keys that the ledger shows, where one is given.
        key: Its idempotency key, if it has one.
        token: One of the values that it would write, and one that no other request writes. It tells repetitions from a key used twice.
        outcome: What the client knows.
        transaction: The id in the answer: its own for what writes, of the last entry that it may have seen for what only reads.
        receipt: As the answer brought it.
    """

    client: str
    node: str
    invoked: float
    writes: dict[str, Value]
    key: str | None = None
    token: str | None = None
    returned: float = inf
    reads: dict[str, Value] = field(default_factory=dict)
    outcome: Outcome = Outcome.UNKNOWN
    transaction: Id | None = None
    receipt: bytes | None = None

    def end(
        self,
        outcome: Outcome,
        returned: float,
        *,
        transaction: Id | None = None,
        reads: Mapping[str, Value] | None = None,
        receipt: bytes | None = None,
    ) -> None:
        """The answer is there."""
        self.outcome = outcome
        self.returned = returned
        self.transaction = transaction
        self.reads = dict(reads or {})
        self.receipt = receipt

    def __str__(self) -> str:
        until = "?" if self.returned == inf else f"{self.returned:g}"
        what = " ".join([*(f"reads {k}={v}" for k, v in self.reads.items()), *(f"writes {k}={v}" for k, v in self.writes.items())])
        name = "" if self.transaction is None else f" as {self.transaction[0]}.{self.transaction[1]}"
        return f"{self.client} at {self.node} [{self.invoked:g}, {until}] {what} {self.outcome.name}{name}"


class Sighting(NamedTuple):
    """What one node said of a transaction's status, when it was asked and when the answer arrived."""

    node: str
    asked: float
    answered: float
    transaction: Id
    status: str


@dataclass(slots=True)
class History:
    """Everything that clients saw.

    Attributes:
        calls: In the order in which they were made.
        sightings: Answers about the status of transactions.
        receipts: All receipts that were given out, by the transaction that was asked for; those in calls need not be here, too.
    """

    calls: list[Call] = field(default_factory=list)
    sightings: list[Sighting] = field(default_factory=list)
    receipts: list[tuple[Id, bytes]] = field(default_factory=list)

    def invoke(
        self,
        client: str,
        now: float,
        node: str,
        *,
        writes: Mapping[str, Value] | None = None,
        key: str | None = None,
        token: str | None = None,
    ) -> Call:
        """A client sends a request; `end` the call that this returns when its answer arrives."""
        call = Call(client, node, now, dict(writes or {}), key, token)
        self.calls.append(call)
        return call

    def saw(self, node: str, asked: float, answered: float, transaction: Id, status: str) -> None:
        """A node answered `GET /tx`."""
        self.sightings.append(Sighting(node, asked, answered, transaction, status))


class Entry(NamedTuple):
    """One committed entry, as applications see it: `writes` are of keys that clients know; entries of the service itself have none."""

    view: int
    seqno: int
    writes: Mapping[str, Value]


COMMITTED: Final = "Committed"
INVALID: Final = "Invalid"
STATUSES: Final = frozenset({"Unknown", "Pending", COMMITTED, INVALID})


def check(history: History, ledger: Sequence[Entry] | None = None) -> None:
    """All checks that need no more than this.

    Args:
        ledger: The whole committed ledger in order, if there is one to compare with.
    Raises: HistoryError: The first one that fails.
    """
    check_names(history)
    check_order(history)
    check_linearizable(history)
    check_statuses(history)
    if ledger is not None:
        check_ledger_order(ledger)
        check_fates(history, ledger)
        check_reads(history, Timeline(ledger))
        check_freshness(history, ledger)
        check_once(history, ledger)


class Request(NamedTuple):
    """A request and all its repetitions: it took effect once at most, between the first call and the first answer that says so."""

    call: Call
    invoked: float
    returned: float

    @property
    def is_committed(self) -> bool:
        """Whether its client knows that it took effect."""
        return self.call.outcome is Outcome.COMMITTED


def requests(history: History) -> list[Request]:
    """Fold repetitions into the requests that they repeat; `call` is the committed one if there is one.

    Those that certainly had no effect are left out.
    """
    attempts: dict[tuple[str, str | None] | int, list[Call]] = defaultdict(list)
    for number, call in enumerate(history.calls):
        attempts[number if call.key is None else (call.key, call.token)].append(call)
    folded = []
    for calls in attempts.values():
        committed = [call for call in calls if call.outcome is Outcome.COMMITTED]
        open_ = [call for call in calls if call.outcome in (Outcome.EXECUTED, Outcome.UNKNOWN)]
        if committed or open_:
            chosen = min(committed, key=lambda call: call.returned) if committed else open_[0]
            folded.append(Request(chosen, min(call.invoked for call in calls), chosen.returned if committed else inf))
    return folded


def check_linearizable(history: History) -> None:
    """Each key is a register. What is known to be committed took effect between call and return, what is of unknown fate later or never.

    What was answered before its commit promises nothing in this respect, so only its effect may be seen.
    """
    by_key: dict[str, list[Operation]] = defaultdict(list)
    for call, invoked, returned in requests(history):
        known = returned < inf
        for key in {*call.writes, *call.reads} if known else call.writes:
            read = call.reads[key] if known and key in call.reads else ANYTHING
            by_key[key].append(Operation(invoked, returned, read, call.writes.get(key, ANYTHING), str(call)))
    for key, operations in by_key.items():
        verdict = judge(operations)
        if not verdict.is_linearizable:
            after = "\n  ".join(operation.what for operation in verdict.order[-6:]) or "nothing"
            stuck = "\n  ".join(operation.what for operation in verdict.stuck[:8])
            raise HistoryError("Linearizable", f"key {key}: after\n  {after}\nthese cannot all follow:\n  {stuck}")


def check_names(history: History) -> None:
    """One id, one transaction, and the reverse: neither have two requests one id, nor one request two that are committed."""
    named: dict[Id, Call] = {}
    for call in history.calls:
        if call.writes and call.transaction is not None and call.outcome is not Outcome.REFUSED:
            other = named.setdefault(call.transaction, call)
            if other is not call and (call.key is None or (call.key, call.token) != (other.key, other.token)):
                raise HistoryError("OneNameOneTransaction", f"two transactions have one id:\n  {other}\n  {call}")
    answered: dict[str, Call] = {}
    for call in history.calls:
        if call.key is not None and call.outcome is Outcome.COMMITTED and call.transaction is not None:
            other = answered.setdefault(call.key, call)
            if other.transaction != call.transaction:
                raise HistoryError("OncePerKey", f"one key was answered with two committed ids:\n  {other}\n  {call}")


def check_order(history: History) -> None:
    """The order of ids is the order of time: what was committed before another was asked for has the lower seqno."""
    writes = [request for request in requests(history) if request.is_committed and request.call.writes]
    finished = sorted(writes, key=lambda request: request.returned)
    highest: list[Request] = []
    for request in finished:
        highest.append(max(request, highest[-1], key=lambda r: _id(r.call)[1]) if highest else request)
    returns = [request.returned for request in finished]
    for request in writes:
        before = bisect_left(returns, request.invoked)
        if before and _id(highest[before - 1].call)[1] >= _id(request.call)[1]:
            first = highest[before - 1].call
            raise HistoryError("OrderIsTime", f"the second was asked for when the first was committed:\n  {first}\n  {request.call}")


def check_statuses(history: History) -> None:
    """Committed never becomes Invalid nor the reverse, at any node; and what a node called committed it never calls less.

    Views never fall along a ledger, and a seqno stands in it once, so two committed ids can contradict each other, too.
    """
    final: dict[Id, Sighting] = {}
    first_committed: dict[tuple[str, Id], Sighting] = {}
    for sighting in sorted(history.sightings, key=lambda sighting: sighting.answered):
        if sighting.status not in STATUSES:
            raise HistoryError("KnownStatus", f"{sighting}")
        if sighting.status in (COMMITTED, INVALID):
            other = final.setdefault(sighting.transaction, sighting)
            if other.status != sighting.status:
                raise HistoryError("StatusIsFinal", f"{other}\n  {sighting}")
        if sighting.status == COMMITTED:
            first_committed.setdefault((sighting.node, sighting.transaction), sighting)
    for sighting in history.sightings:
        earlier = first_committed.get((sighting.node, sighting.transaction))
        if earlier is not None and sighting.status != COMMITTED and sighting.asked > earlier.answered:
            raise HistoryError("StatusIsFinal", f"a node that called it committed calls it less:\n  {earlier}\n  {sighting}")
    committed = {transaction for transaction, sighting in final.items() if sighting.status == COMMITTED}
    committed |= {_id(call) for call in history.calls if _is_committed_write(call)}
    for call in history.calls:
        if call.transaction is None or not call.writes:
            continue
        said = final.get(call.transaction)
        if call.outcome is Outcome.COMMITTED and said is not None and said.status == INVALID:
            raise HistoryError("StatusIsFinal", f"answered as committed, and then:\n  {call}\n  {said}")
        if call.outcome is Outcome.ROLLED_BACK and call.transaction in committed:
            raise HistoryError("StatusIsFinal", f"answered as rolled back, and yet it is committed:\n  {call}")
    for first, second in pairwise(sorted((seqno, view) for view, seqno in committed)):
        if first[1] > second[1] or first[0] == second[0]:
            raise HistoryError("OneLedger", f"{first[1]}.{first[0]} and {second[1]}.{second[0]} cannot both be committed")


def check_ledger_order(ledger: Sequence[Entry]) -> None:
    """Seqnos without a gap from the first on; views never fall."""
    for before, entry in pairwise(ledger):
        if entry.seqno != before.seqno + 1 or entry.view < before.view:
            raise HistoryError("OneLedger", f"{entry.view}.{entry.seqno} stands after {before.view}.{before.seqno}")


def check_fates(history: History, ledger: Sequence[Entry]) -> None:
    """What was called committed is in the ledger with just its writes; what was called rolled back or refused is not."""
    entries = {(entry.view, entry.seqno): entry for entry in ledger}
    last = (ledger[-1].view, ledger[-1].seqno) if ledger else (0, 0)
    for call in history.calls:
        if not call.writes or call.transaction is None or call.outcome is Outcome.REFUSED:
            continue
        entry = entries.get(call.transaction)
        if call.outcome is Outcome.COMMITTED:
            if entry is None:
                raise HistoryError("CommittedIsKept", f"it is not in the ledger, which ends at {last[0]}.{last[1]}:\n  {call}")
        elif call.outcome is Outcome.ROLLED_BACK and entry is not None:
            raise HistoryError("RolledBackIsGone", f"it is in the ledger:\n  {call}")
        if entry is not None and dict(entry.writes) != call.writes:
            raise HistoryError("CommittedIsKept", f"the ledger has {dict(entry.writes)} there:\n  {call}")
    for sighting in history.sightings:
        if sighting.status == COMMITTED and sighting.transaction not in entries:
            raise HistoryError("CommittedIsKept", f"it is not in the ledger, which ends at {last[0]}.{last[1]}: {sighting}")
        if sighting.status == INVALID and sighting.transaction in entries:
            raise HistoryError("RolledBackIsGone", f"it is in the ledger: {sighting}")


class States(Protocol):
    """Knows the state at ids; perhaps of rolled-back ones, too."""

    def knows(self, transaction: Id) -> bool:
        """Whether it can say what the state was at this id."""

    def value(self, transaction: Id, key: str, *, before: bool = False) -> Value:
        """What `key` held at this id, the id's own writes included unless `before`."""


class Timeline:
    """The state at every id of a committed ledger."""

    def __init__(self, ledger: Iterable[Entry]) -> None:
        self._views: dict[int, int] = {}
        self._written: dict[str, list[tuple[int, Value]]] = defaultdict(list)
        for entry in ledger:
            self._views[entry.seqno] = entry.view
            for key, value in entry.writes.items():
                self._written[key].append((entry.seqno, value))

    def knows(self, transaction: Id) -> bool:
        """Whether the id is in the ledger."""
        return self._views.get(transaction[1]) == transaction[0]

    def value(self, transaction: Id, key: str, *, before: bool = False) -> Value:
        """As in `States`."""
        written = self._written.get(key, [])
        at = bisect_right(written, transaction[1] - before, key=lambda item: item[0])
        return written[at - 1][1] if at else None


def check_reads(history: History, states: States) -> None:
    """Every read set equals the state at its version: that before its own entry for what writes, else that at the id in the answer.

    Calls whose id `states` does not know are left out.
    """
    for call in history.calls:
        if not call.reads or call.transaction is None or call.outcome is Outcome.REFUSED or not states.knows(call.transaction):
            continue
        for key, seen in call.reads.items():
            there = states.value(call.transaction, key, before=bool(call.writes))
            if seen != there:
                raise HistoryError("ReadSetIsState", f"{key} was {there}, and not {seen}, at its version:\n  {call}")


def check_freshness(history: History, ledger: Sequence[Entry]) -> None:
    """A read known to be linearizable saw all that was committed before it was asked for: by ids, so for keys that nobody wrote as well."""
    views = {entry.seqno: entry.view for entry in ledger}
    finished = sorted((call.returned, _id(call)[1]) for call in history.calls if _is_committed_write(call))
    returns = [returned for returned, _ in finished]
    highest = list(accumulate((seqno for _, seqno in finished), max))
    for call in history.calls:
        if call.writes or call.outcome is not Outcome.COMMITTED or call.transaction is None:
            continue
        view, seqno = call.transaction
        if views.get(seqno) != view:
            raise HistoryError("ReadIsFresh", f"its version is not in the ledger:\n  {call}")
        before = bisect_left(returns, call.invoked)
        if before and seqno < highest[before - 1]:
            raise HistoryError(
                "ReadIsFresh", f"entry {highest[before - 1]} had been answered as committed before it was asked for:\n  {call}"
            )


def check_once(history: History, ledger: Sequence[Entry]) -> None:
    """What only one request writes stands at most once in the ledger, however often it was repeated, and not at all if it was refused."""
    places: dict[str, list[Entry]] = defaultdict(list)
    tokens = {call.token for call in history.calls if call.token is not None}
    for entry in ledger:
        for value in set(entry.writes.values()):
            if value is not None and value in tokens:
                places[value].append(entry)
    for token, entries in places.items():
        if len(entries) > 1:
            where = ", ".join(f"{entry.view}.{entry.seqno}" for entry in entries)
            calls = "\n  ".join(str(call) for call in history.calls if call.token == token)
            raise HistoryError("OncePerKey", f"{token} was written by {where}:\n  {calls}")
    open_ = {call.token for call in history.calls if call.outcome is not Outcome.REFUSED}
    for token in places.keys() - open_:
        calls = "\n  ".join(str(call) for call in history.calls if call.token == token)
        raise HistoryError("RefusedIsNothing", f"{token} was written by {places[token][0].view}.{places[token][0].seqno}:\n  {calls}")


def check_receipts(history: History, ledger: Sequence[Entry], verify: Callable[[bytes], Id]) -> None:
    """Every receipt that was given out verifies, is of the transaction that was asked for, and of a committed one.

    Args:
        verify: Returns the id that a receipt proves, or raises.
    """
    committed = {(entry.view, entry.seqno) for entry in ledger}
    given = [(call.transaction, call.receipt) for call in history.calls if call.receipt is not None]
    for transaction, receipt in [*given, *history.receipts]:
        try:
            proven = verify(receipt)
        except Exception as error:
            raise HistoryError("ReceiptVerifies", f"that of {transaction}: {error}") from error
        if proven != transaction:
            raise HistoryError("ReceiptVerifies", f"that of {transaction} is of {proven}")
        if proven not in committed:
            raise HistoryError("ReceiptIsOfCommitted", f"{proven} is not in the committed ledger, and has a receipt")


def check_ledgers(ledgers: Mapping[str, Sequence[bytes]]) -> None:
    """Committed ledgers are byte-identical as far as both reach. Args: ledgers: each node's committed entries, from the first on."""
    longest = max(ledgers, key=lambda node: len(ledgers[node]), default=None)
    if longest is None:
        return
    for node, entries in ledgers.items():
        for seqno, (mine, other) in enumerate(zip(entries, ledgers[longest], strict=False), 1):
            if mine != other:
                raise HistoryError("OneLedger", f"entry {seqno} of {node} is not that of {longest}")


def _is_committed_write(call: Call) -> bool:
    return call.outcome is Outcome.COMMITTED and bool(call.writes) and call.transaction is not None


def _id(call: Call) -> Id:
    assert call.transaction is not None
    return call.transaction
