"""Requests that scripts answer: each a transaction of its own beside the loop's other work, until its handler has an answer.

A scripted endpoint's handler is a generator. It works on the request's overlay, yields a `Job` for every script that it wants run there,
is sent what became of it, and returns the answer. Then the request stands in the queue with all others (`enclave.answering`): if what it
has read still stands its writes become an entry like any other's (`enclave.execution`), if not it is done again from the beginning.
Law: while scripts run nothing waits for them but their own request. Authentication is read through the overlay, too, so that a caller who
was removed meanwhile has no part in the outcome.
Not here: which worker runs what (`enclave.scripts.pool`), what handlers do (`enclave.governing`, applications).
"""

from collections import deque
from collections.abc import Generator
from typing import Final, TypeAlias

from ledgerd.enclave.auth import NOBODY, authenticate
from ledgerd.enclave.endpoints import ApplicationMaps, Context, Endpoint, Maps, Result
from ledgerd.enclave.kv import Store
from ledgerd.enclave.requests import Request
from ledgerd.enclave.scripts.jobs import Job, Outcome
from ledgerd.enclave.scripts.overlay import OverlayTransaction
from ledgerd.enclave.scripts.pool import Pool
from ledgerd.enclave.states import Ledger, StatesWanted, size_of
from ledgerd.ledger.errors import RequestError

RUNNING_MAX: Final = 10_000  # requests at one time
RUNNING_BYTES_MAX: Final = 64 << 20  # of their bodies, and of what was fetched for them
WAITING_MAX: Final = 16  # of one caller's that wait for their turn
ATTEMPTS_MAX: Final = 30  # of one whose reads others keep changing; CCF's own number

Signed: TypeAlias = dict[str, tuple[bytes | None, int | None]]
"""Records of a signature: value and version, by map."""

Steps: TypeAlias = Generator[Job, Outcome, Result]
"""What a scripted endpoint's handler returns."""


class Scripted:
    """A request that scripts answer.

    Attributes:
        request, endpoint, params: As they were matched.
        context: The handler's; its overlay holds what would be written.
        result: What the handler returned.
        error: What it raised instead; or `StatesWanted`, upon which all of it is done again.
    """

    __slots__ = ("_attempts", "_ledger", "_steps", "_transaction", "context", "endpoint", "error", "params", "request", "result")

    def __init__(self, request: Request, endpoint: Endpoint, params: dict[str, str], ledger: Ledger) -> None:
        self.request = request
        self.endpoint = endpoint
        self.params = params
        self.context: Context
        self.result: Result = None
        self.error: Exception | StatesWanted | None = None
        self._ledger = ledger
        self._transaction: OverlayTransaction
        self._steps: Steps | None = None
        self._attempts = 0

    @property
    def has_begun(self) -> bool:
        """True if the handler was reached: the caller is who it may be."""
        return self._steps is not None

    @property
    def is_repeated(self) -> bool:
        """True if it is not done for the first time."""
        return self._attempts > 1

    def is_current(self) -> bool:
        """Whether all that it has read still stands, so that it may take effect now."""
        return self._transaction.overlay.is_current()

    def begin(self, store: Store, signed: Signed | None = None, refusal: RequestError | None = None) -> Job | None:
        """Do it, from the beginning; see `go_on`.

        Args:
            signed: What is taken for the records of the last signature; None for those in the state.
            refusal: What to answer instead.
        """
        self._attempts += 1
        endpoint = self.endpoint
        transaction = self._transaction = OverlayTransaction(store, readonly=endpoint.readonly)
        transaction.touched = endpoint.reads_tables
        if signed is not None:
            transaction.overlay.see_signed(signed)
        maps = Maps(transaction) if endpoint.system else ApplicationMaps(transaction)
        self.context = Context(self.request, self.params, NOBODY, maps, transaction, self._ledger)
        self.result, self.error, self._steps = None, None, None
        try:
            if refusal is not None:
                raise refusal
            if self._attempts > ATTEMPTS_MAX:
                text = f"Others wrote what the request had read, {ATTEMPTS_MAX} times in a row; nothing was done. Ask again."
                raise RequestError(503, "TransactionCommitAttemptsExceedLimit", text, _LATER)
            if not endpoint.is_open:
                self.context.caller = authenticate(self.request, transaction.overlay, endpoint.policies)
            self._steps = endpoint.handler(self.context)
        except Exception as error:  # a handler's fault must not stop the node
            self.error = error
            return None
        return self.go_on(None)

    def go_on(self, outcome: Outcome | None) -> Job | None:
        """Let the handler take what became of a script; give the next one to run, or None when there is an answer."""
        assert self._steps is not None, "it has begun"
        try:
            return next(self._steps) if outcome is None else self._steps.send(outcome)
        except StopIteration as end:
            self.result = end.value
        except (Exception, StatesWanted) as error:  # as above
            self.error = error
        return None


_LATER: Final = (("retry-after", "3"),)


def _weight(request: Request) -> int:
    """About the memory that a request takes."""
    return len(request.body) + (size_of(request.states) if request.states else 0)


class Scripting:
    """The scripted requests of one node."""

    def __init__(self, store: Store, pool: Pool, ledger: Ledger) -> None:
        self._store = store
        self._ledger = ledger
        self._pool = pool
        self._running = 0
        self._bytes = 0
        self._finished: deque[Scripted] = deque()
        self._turn: Scripted | None = None  # the one `in_turn` that is being done
        self._waiting: dict[str, deque[Scripted]] = {}  # those that wait, by caller; whose turn is next comes first

    @property
    def has_finished(self) -> bool:
        """True if some have an answer that is not taken yet."""
        return bool(self._finished)

    @property
    def is_full(self) -> bool:
        """True if no more can be begun now."""
        return self._running >= RUNNING_MAX or self._bytes > RUNNING_BYTES_MAX

    def begin(self, request: Request, endpoint: Endpoint, params: dict[str, str]) -> None:
        """Begin with a request."""
        scripted = Scripted(request, endpoint, params, self._ledger)
        self._count(scripted)
        if endpoint.in_turn:
            self._queue(scripted)
        else:
            self._start(scripted)

    def _queue(self, scripted: Scripted) -> None:
        """Have one wait for its caller's turn; who asks for much waits for himself, and whoever is nobody is told so at once."""
        try:
            caller = authenticate(scripted.request, self._store, scripted.endpoint.policies)
        except RequestError:
            self._start(scripted)
            return
        name = caller.id if caller is not None else ""
        waiting = self._waiting.get(name, deque())
        if len(waiting) < WAITING_MAX:
            waiting.append(scripted)
            self._waiting[name] = waiting
            self.take_turns()
        else:
            text = f"{WAITING_MAX} requests of yours wait to be decided. Ask again when they are."
            self._start(scripted, RequestError(503, "TooManyPendingTransactions", text, _LATER))

    def take_turns(self) -> None:
        """Begin with the next of those `in_turn`, if none is being done: to be called when what was finished has taken effect."""
        if self._turn is None and self._waiting:
            caller = next(iter(self._waiting))
            waiting = self._waiting.pop(caller)
            scripted = self._turn = waiting.popleft()
            if waiting:
                self._waiting[caller] = waiting  # behind the others
            self._start(scripted)

    def again(self, scripted: Scripted) -> None:
        """Do one again that was finished: what it has read was written since."""
        if scripted.endpoint.in_turn:
            self._turn = scripted
        self._count(scripted)
        self._start(scripted)

    def take_finished(self) -> Scripted | None:
        """The next one that has an answer."""
        if not self._finished:
            return None
        scripted = self._finished.popleft()
        if scripted is self._turn:
            self._turn = None
        self._running -= 1
        self._bytes -= _weight(scripted.request)
        return scripted

    def _count(self, scripted: Scripted) -> None:
        self._running += 1
        self._bytes += _weight(scripted.request)

    def _start(self, scripted: Scripted, refusal: RequestError | None = None) -> None:
        self._go(scripted, scripted.begin(self._store, refusal=refusal))

    def _go(self, scripted: Scripted, job: Job | None) -> None:
        if job is None:
            self._finished.append(scripted)
            return
        if scripted.is_repeated and job.ahead:  # a wrong guess at a key that others write must not have it done again and again
            job = job._replace(ahead=())
        try:
            self._pool.submit(job, scripted.context, lambda outcome: self._go(scripted, scripted.go_on(outcome)))
        except Exception as error:  # such as arguments that are no JSON: the handler's fault, as above
            scripted.error = error
            self._finished.append(scripted)
