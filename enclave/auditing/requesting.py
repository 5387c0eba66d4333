"""A member's request, executed again by the endpoint that took it, on the state before its entry."""

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Final, NamedTuple

from ledgerd.enclave.auditing.findings import NotFollowingError
from ledgerd.enclave.auditing.stand_in import Calls, Period, RecordedRenewal, StandIn
from ledgerd.enclave.auth import authenticate
from ledgerd.enclave.endpoints import Context, Endpoint, Maps, Registry
from ledgerd.enclave.governing.acks import Acknowledgement
from ledgerd.enclave.governing.engine import Engine
from ledgerd.enclave.governing.proposals import KnownProposals
from ledgerd.enclave.governing.proposing import Proposing
from ledgerd.enclave.kv import Store
from ledgerd.enclave.requests import COSE, Request
from ledgerd.enclave.scripting import Scripted, Signed
from ledgerd.enclave.scripts.access import Access
from ledgerd.enclave.scripts.jobs import DEADLINE_TEXT, End, Job, Outcome
from ledgerd.enclave.scripts.pool import Pool
from ledgerd.enclave.states import EMPTY_LEDGER
from ledgerd.governance import requests
from ledgerd.governance.requests import SignedRequest
from ledgerd.ledger.entry import WriteSet
from ledgerd.ledger.errors import LedgerdError, RequestError
from ledgerd.ledger.ids import Seqno, TransactionId

TIMES_AS_LONG: Final = 3  # as an enclave lets a script run: an auditor's machine may be slower, and in no hurry

FASTER_MAX: Final = 10  # an auditor's machine, than the one on which a script ran out of its time
LATE_MAX: Final = 4  # scripts of one request of which that is tried, in every combination
SCRIPT_SECONDS_MAX: Final = 3600.0  # of a whole ledger's scripts, unless the auditor has more patience

_QUERY: Final = "api-version=2024-07-01"
_BY_LIMITS: Final = frozenset({End.DEADLINE, End.MEMORY, End.STACK, End.CRASHED})


class ScriptsUnavailableError(LedgerdError):
    """Scripts cannot be run on this machine, so nothing can be said about what they decided."""

    code = "ScriptsUnavailable"


class ScriptsTooSlowError(LedgerdError):
    """A ledger's scripts together run for longer than the auditor wants to wait, so nothing can be said about what follows."""

    code = "ScriptsTooSlow"


class Expected(NamedTuple):
    """What a request has to write.

    Attributes:
        writes: All of it.
        periods: Of certificates that it had made.
        doubt: Why that may be wrong, in words that end a sentence; as a rule nothing.
        late: Scripts that have run out of their time in the enclave, by the service's word: here they took a while, and ended.
    """

    writes: WriteSet
    periods: tuple[Period, ...] = ()
    doubt: str = ""
    late: int = 0


class _Ran(NamedTuple):
    """A script of the request that is being executed; `seconds`: for which it ran."""

    job: Job
    outcome: Outcome
    seconds: float

    @property
    def may_be_late(self) -> bool:
        """Whether it may have run out of its time on a slower machine; only what decides is asked, for what fails to apply is no entry."""
        in_time = self.job.access is Access.GOV_RO and self.outcome.end not in _BY_LIMITS
        return in_time and self.seconds * 1000 * FASTER_MAX >= self.job.limits.deadline_ms


class Again:
    """Executes requests.

    Args:
        store: The state; only read.
        last_signed: Seqno of the last signature entry.
        turn: Drives the pool's workers until something may have come of it.

    Attributes:
        pool: The script workers.
        seconds: For which scripts have run so far.
        seconds_max: For which they may.
    """

    def __init__(self, store: Store, last_signed: Callable[[], Seqno], turn: Callable[[], None]) -> None:
        self._store = store
        self._turn = turn
        self._node = StandIn(store, last_signed)
        renewal = RecordedRenewal(self._node)
        self.seconds = 0.0
        self.seconds_max = SCRIPT_SECONDS_MAX
        self._ran: list[_Ran] = []
        self._before: list[_Ran] = []  # when the same request was executed for the first time
        self._late: frozenset[int] = frozenset()  # which of its scripts are to be taken for late, by number
        self.pool = Pool(Calls(self._node, renewal).calls, 1, 0.0)
        self._registry = Registry("gov")
        engine = Engine(self._node, renewal.complete)
        Proposing(self._node, engine).add_to(self._registry)
        KnownProposals(self._node, engine).add_to(self._registry)
        Acknowledgement(self._node, renewal).add_to(self._registry)

    def execute(
        self, request: SignedRequest, root: bytes | None, identifier: TransactionId, writes: WriteSet, signed: Signed | None
    ) -> Expected:
        """Execute one.

        Args:
            root: That the service had reached, for a proposal.
            signed: The records of the signature that the service's scripts looked at; None for the last one before the entry.
            identifier, writes: The entry that it became: what the service's keys have made is taken from there, and checked.
        Raises:
            RequestError: It is refused.
            NotFollowingError: What the service's keys have made is not what was asked for.
            ScriptsUnavailableError, ScriptsTooSlowError: Nothing can be said.
        """
        self._before, self._late = [], frozenset()
        return self._execute(request, root, identifier, writes, signed)

    def others(
        self, request: SignedRequest, root: bytes | None, identifier: TransactionId, writes: WriteSet, signed: Signed | None
    ) -> Iterator[Expected]:
        """What the request that was executed last may have written instead, if scripts of it that took long here were late in the enclave.

        A member can write a ballot that takes about as long as one may. Whether it was in time there, nobody can find out here; it must
        not be by such a ballot that an honest service's ledger does not follow.
        """
        self._before = self._ran
        slow = [number for number, ran in enumerate(self._before) if ran.may_be_late][:LATE_MAX]
        for count in range(len(slow), 0, -1):
            for late in combinations(slow, count):
                self._late = frozenset(late)
                try:
                    found = self._execute(request, root, identifier, writes, signed)
                except (RequestError, NotFollowingError):
                    continue
                yield found._replace(late=count)

    def _execute(
        self, request: SignedRequest, root: bytes | None, identifier: TransactionId, writes: WriteSet, signed: Signed | None
    ) -> Expected:
        self._ran = []
        self._node.face(identifier, writes, root or bytes(32), request.created_at * 1000)
        asked = Request(None, "POST", _path(request), _QUERY, {"content-type": COSE}, request.envelope, None, "")
        asked.now_s = request.created_at
        endpoint, params = self._registry.match("POST", asked.path)
        found = self._scripted(asked, endpoint, params, signed) if endpoint.scripted else self._plain(asked, endpoint, params)
        return found._replace(periods=tuple(self._node.periods))

    def _plain(self, asked: Request, endpoint: Endpoint, params: dict[str, str]) -> Expected:
        caller = authenticate(asked, self._store, endpoint.policies)
        transaction = self._store.begin()
        try:
            endpoint.handler(Context(asked, params, caller, Maps(transaction), transaction))
            return Expected(transaction.take())
        finally:
            transaction.discard()

    def _scripted(self, asked: Request, endpoint: Endpoint, params: dict[str, str], signed: Signed | None) -> Expected:
        scripted = Scripted(asked, endpoint, params, EMPTY_LEDGER)
        doubt = ""
        job = scripted.begin(self._store, signed)
        while job is not None:
            outcome = self._run(job, scripted.context)
            if outcome.end in _BY_LIMITS:
                doubt = (
                    f"; but a script ended here by a limit ({outcome.end.value}: {outcome.text[:100]}), which it may not reach elsewhere"
                )
            job = scripted.go_on(outcome)
        if scripted.error is not None:
            assert isinstance(scripted.error, Exception), "governance asks for no state of the past"
            raise scripted.error
        transaction = self._store.begin()
        scripted.context.overlay.write_into(transaction)
        return Expected(transaction.take(), doubt=doubt)

    def _run(self, job: Job, context: Context) -> Outcome:
        number = len(self._ran)
        if number in self._late:
            outcome, seconds = Outcome(End.DEADLINE, None, DEADLINE_TEXT), 0.0
        elif number < len(self._before) and job.access is Access.GOV_RO and _is_same(job, self._before[number].job):
            outcome, seconds = self._before[number].outcome, 0.0  # nothing was written yet when it ran, so it would be the same again
        else:
            outcome = self._run_now(job, context)
            seconds = self.pool.took
            self.seconds += seconds
        self._ran.append(_Ran(job, outcome, seconds))
        return outcome

    def _run_now(self, job: Job, context: Context) -> Outcome:
        if self.seconds > self.seconds_max:
            raise ScriptsTooSlowError(
                f"this ledger's scripts have run for {self.seconds / 60:.0f} minutes so far, and are not done; nothing is said of what "
                "they decide now. Go on with more patience: --script-minutes"
            )
        ended: list[Outcome] = []
        patient = job._replace(limits=job.limits._replace(deadline_ms=job.limits.deadline_ms * TIMES_AS_LONG))
        self.pool.submit(patient, context, ended.append)
        while not ended:
            self._turn()
        (outcome,) = ended
        if self._node.broken is not None:
            raise self._node.broken
        if outcome.end is End.UNAVAILABLE:
            raise ScriptsUnavailableError(f"no script worker runs here, so nothing can be said about what scripts decided: {outcome.text}")
        return outcome


def _is_same(job: Job, other: Job) -> bool:
    return (job.bundle.id, job.function, job.arguments) == (other.bundle.id, other.function, other.arguments)


def _path(request: SignedRequest) -> str:
    """Where a request was sent to, as what it says shows. Raises: RequestError: There is no endpoint for such."""
    proposal = f"/gov/members/proposals/{request.proposal_id}"
    paths = {
        requests.PROPOSAL: "/gov/members/proposals:create",
        requests.BALLOT: f"{proposal}/ballots/{request.member_id}:submit",
        requests.WITHDRAWAL: f"{proposal}:withdraw",
        requests.ACK: f"/gov/members/state-digests/{request.member_id}:ack",
        requests.STATE_DIGEST: f"/gov/members/state-digests/{request.member_id}:update",
    }
    if request.kind not in paths:
        raise RequestError(404, "ResourceNotFound", f"no endpoint takes a {request.kind}")
    return paths[request.kind]
