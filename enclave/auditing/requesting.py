"""A member's request, executed again by the endpoint that took it, on the state before its entry."""

from collections.abc import Callable
from typing import Final, NamedTuple

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
from ledgerd.enclave.scripts.jobs import End, Job, Outcome
from ledgerd.enclave.scripts.pool import Pool
from ledgerd.enclave.states import EMPTY_LEDGER
from ledgerd.governance import requests
from ledgerd.governance.requests import SignedRequest
from ledgerd.ledger.entry import WriteSet
from ledgerd.ledger.errors import LedgerdError, RequestError
from ledgerd.ledger.ids import Seqno, TransactionId

TIMES_AS_LONG: Final = 3  # as an enclave lets a script run: an auditor's machine may be slower, and in no hurry

_QUERY: Final = "api-version=2024-07-01"
_BY_LIMITS: Final = frozenset({End.DEADLINE, End.MEMORY, End.STACK, End.CRASHED})


class ScriptsUnavailableError(LedgerdError):
    """Scripts cannot be run on this machine, so nothing can be said about what they decided."""

    code = "ScriptsUnavailable"


class Expected(NamedTuple):
    """What a request has to write.

    Attributes:
        writes: All of it.
        periods: Of certificates that it had made.
        doubt: Why that may be wrong, in words that end a sentence; as a rule nothing.
    """

    writes: WriteSet
    periods: tuple[Period, ...] = ()
    doubt: str = ""


class Again:
    """Executes requests.

    Args:
        store: The state; only read.
        last_signed: Seqno of the last signature entry.
        turn: Drives the pool's workers until something may have come of it.

    Attributes:
        pool: The script workers.
    """

    def __init__(self, store: Store, last_signed: Callable[[], Seqno], turn: Callable[[], None]) -> None:
        self._store = store
        self._turn = turn
        self._node = StandIn(store, last_signed)
        renewal = RecordedRenewal(self._node)
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
            ScriptsUnavailableError: Nothing can be said.
        """
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
