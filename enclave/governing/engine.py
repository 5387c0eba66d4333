"""The constitution at work: what is well-formed, what the ballots mean, what an accepted proposal does. CCF's order of things.

Scripts are run one after the other on the request's overlay, each in a process of its own: a ballot that broke the engine must have no
hand in the next one. So a proposal and all its consequences are one entry, or nothing. Time and chance are the same for each run, so
whoever replays the ledger finds the same outcome (docs/audit.md).
Beside the constitution stand rules that no vote can change, for without them there would be no service to vote in: enough nodes must be
left to commit anything, a node is trusted only once the record of its attestation is committed, and what that record says of the attested
enclave stands, its keys above all: new ledger secrets are sealed to them.
Not here: who may ask (`enclave.governing.proposing`, `enclave.governing.proposals`), workers (`enclave.scripts`).
"""

import json
from collections.abc import Callable, Generator
from typing import Any, Final, Protocol

from ledgerd.enclave import leaving
from ledgerd.enclave.endpoints import Context
from ledgerd.enclave.governing.records import problem_with
from ledgerd.enclave.scripts.access import Access
from ledgerd.enclave.scripts.jobs import BYTES, JSON, TEXT, Bundle, End, Job, Limits, Outcome, Result
from ledgerd.governance import tables
from ledgerd.ledger.errors import FormatError, RequestError, UsageError
from ledgerd.ledger.ids import NodeId, Seqno

LIMITS: Final = Limits(deadline_ms=3_000)  # CCF's, but for the time: theirs is one second on a machine that does nothing else
CALLS_BEFORE: Final = ()  # of validate, resolve and ballots, which decide and change nothing
CALLS_OF_APPLY: Final = (
    "node.transitionServiceToOpen",
    "node.triggerLedgerRekey",
    "node.triggerRecoverySharesRefresh",
    "node.triggerLedgerChunk",
    "node.triggerSnapshot",
    "network.getLatestLedgerSecretSeqno",
    "network.generateEndorsedCertificate",
    "network.generateNetworkCertificate",
    "setJwtPublicSigningKeys",
    "removeJwtPublicSigningKeys",
    "refreshAppBytecodeCache",
)
REASON_LENGTH_MAX: Final = 4_096  # of what stands in the ledger

_ATTESTED: Final = ("quote_info", "public_key", "encryption_pub_key", "code_digest")  # of a node's record
_CONSTITUTION: Final = "/constitution.js"
_BALLOT: Final = "/ballot.js"
_FALSE: Final = frozenset({b"null", b"false", b"0"})  # in JSON, as scripts' results are written
_STATES: Final = frozenset({tables.OPEN, tables.ACCEPTED, tables.REJECTED})

Run = Generator[Job, Outcome, Outcome]


class Node(Protocol):
    """What the engine asks of the node that it runs on."""

    @property
    def committed_seqno(self) -> Seqno: ...
    @property
    def is_settled(self) -> bool: ...
    @property
    def live_nodes(self) -> frozenset[NodeId]: ...
    def log(self, level: str, text: str) -> None: ...


class Engine:
    """Runs the constitution that is in the ledger.

    Args: complete: Does what its calls have asked for, when all actions are done (`enclave.governing.renewal`).
    """

    def __init__(self, node: Node, complete: Callable[[Context], None]) -> None:
        self._node = node
        self._complete = complete
        self._bundles: dict[bytes, Bundle] = {}  # of the present constitution, by its record

    def validate(self, context: Context, proposal: bytes) -> Generator[Job, Outcome, None]:
        """Ask whether a proposal is well-formed.

        Raises: RequestError: 400 ProposalFailedToValidate, with what the constitution says; 500 InternalError, it has failed itself.
        """
        try:
            text = proposal.decode()
        except UnicodeDecodeError:
            raise RequestError(400, "ProposalFailedToValidate", "Proposal failed to validate: it is no UTF-8.") from None
        outcome = yield self._job(context, "validate", (text,), Access.GOV_RO)
        if outcome.end is not End.DONE:
            raise _failed("Failed to execute validation", outcome)
        answer = _json(outcome.value)
        if not isinstance(answer, dict) or type(answer.get("valid")) is not bool:
            raise RequestError(500, "InternalError", "The constitution's validate() gave no {valid, description}.")
        if not answer["valid"]:
            description = str(answer.get("description", ""))[:REASON_LENGTH_MAX]
            raise RequestError(400, "ProposalFailedToValidate", f"Proposal failed to validate: {description}")

    def resolve(self, context: Context, proposal_id: str, info: dict[str, Any]) -> Generator[Job, Outcome, dict[str, Any]]:
        """Count the ballots of an open proposal, and do what it asks for if it is accepted.

        Args: info: Its record, with all ballots.
        Returns: The record as it is now, written.
        Raises: RequestError: 500 InternalError, the constitution or the proposal has failed; 400 and 503 as `apply`. Nothing is to be
            written then.
        """
        proposal = context.kv[tables.PROPOSALS].get(proposal_id.encode())
        if proposal is None:
            raise UsageError("an open proposal has no text")
        text = proposal.decode()
        votes: dict[str, bool] = {}
        failures: dict[str, dict[str, str]] = {}
        for member_id, ballot in sorted(info["ballots"].items()):
            outcome = yield self._ballot(ballot, text, info["proposer_id"])
            if outcome.end is End.UNAVAILABLE:
                raise _failed("Failed to run a ballot", outcome)
            if outcome.end is End.DONE:
                votes[member_id] = _is_true(outcome.value)
            else:
                failures[member_id] = _failure(outcome)
        counted = [{"member_id": member_id, "vote": vote} for member_id, vote in votes.items()]
        outcome = yield self._job(context, "resolve", (text, info["proposer_id"], counted, proposal_id), Access.GOV_RO)
        if outcome.end is not End.DONE:
            raise _failed("Failed to resolve()", outcome)
        state = _text(outcome.value)
        if state not in _STATES:
            raise RequestError(500, "InternalError", f'resolve() returned invalid status value: "{state[:64]}"')
        info["state"] = state
        if state != tables.OPEN:
            info["final_votes"] = votes
            info["vote_failures"] = failures
        context.kv[tables.PROPOSALS_INFO].set(proposal_id.encode(), tables.encode(info))
        if state == tables.ACCEPTED:
            yield from self.apply(context, proposal_id, text)
        if state != tables.OPEN:
            forget_decided(context, besides=proposal_id)
        if context.overlay.observed is not None:  # by which an auditor knows what the scripts took for the present time
            context.kv[tables.OBSERVED_SIGNATURE].set(tables.SINGLETON, tables.encode(context.overlay.observed))
        return info

    def apply(self, context: Context, proposal_id: str, proposal: str) -> Generator[Job, Outcome, None]:
        """Do what a proposal asks for, on the request's overlay.

        Raises: RequestError: 500 InternalError, an action has failed; 400 LastNode or TooFewLiveNodes, it would end the service; 503, it
            cannot be said yet.
        """
        before = leaving.node_records(context)
        outcome = yield self._job(context, "apply", (proposal, proposal_id), Access.GOV_RW)
        if outcome.end is not End.DONE:
            raise _failed("Failed to apply()", outcome)
        for name, changes in context.overlay.writes.items():
            for key, value in changes.items():
                problem = problem_with(name, key, value)
                if problem is not None:
                    shown = key.decode(errors="replace")[:70]
                    raise RequestError(
                        500, "InternalError", f"Failed to apply(): table {name}, record {shown!r}: {problem}; nothing was done."
                    )
        after = leaving.node_records(context)
        for node_id, record in after.items():
            if node_id not in before or _attested(before[node_id]) != _attested(record):
                text = f"Failed to apply(): what the record of node {node_id[:64]} says of its enclave comes from its attestation alone."
                raise RequestError(500, "InternalError", text)
        self._check_nodes(context, leaving.trusted_nodes(before), leaving.trusted_nodes(after))
        for node_id, record in before.items():
            if node_id not in after and record["status"] == tables.PENDING:  # so that it cannot ask again, by any constitution
                context.kv[tables.FORMER_NODES].set(node_id.encode(), leaving.REMOVED)
        try:
            self._complete(context)
        except FormatError as error:
            raise RequestError(500, "InternalError", f"Failed to apply(): {error}; nothing was done.") from None

    def _check_nodes(self, context: Context, before: frozenset[NodeId], after: frozenset[NodeId]) -> None:
        if before == after:
            return
        node = self._node
        if not node.is_settled:
            raise RequestError(503, "PrimaryNotFound", "This primary is new and does not know yet who is there. Ask again.", _SOON)
        leaving.check_quorum(before, after, node.live_nodes)
        records = context.kv[tables.NODE_INFO]
        for node_id in after - before:
            version = records.version_of(node_id.encode())
            if version is None or version > node.committed_seqno:
                text = f"The record of node {node_id}'s attestation is not committed yet. Ask again."
                raise RequestError(503, "NodeNotCommitted", text, _SOON)
        if after - before and (context.kv[tables.ENCRYPTED_LEDGER_SECRETS].version_of(tables.SINGLETON) or 0) > node.committed_seqno:
            text = "The last change of the ledger's secret is not committed yet, so no node can be given it. Ask again."
            raise RequestError(503, "NodeNotCommitted", text, _SOON)

    def _job(self, context: Context, function: str, arguments: tuple[Any, ...], access: Access) -> Job:
        record = context.governance(tables.CONSTITUTION).get(tables.SINGLETON)
        if record is None:
            raise RequestError(500, "InternalError", "There is no constitution, so nothing can be decided.")
        bundle = self._bundles.get(record)
        if bundle is None:
            bundle = Bundle({_CONSTITUTION: str(tables.decode(record))})
            self._bundles = {record: bundle}
        calls = CALLS_OF_APPLY if access is Access.GOV_RW else CALLS_BEFORE
        return Job(bundle, _CONSTITUTION, function, arguments, access, calls, limits=LIMITS, alone=True)

    @staticmethod
    def _ballot(source: str, proposal: str, proposer_id: str) -> Job:
        return Job(Bundle({_BALLOT: source}), _BALLOT, "vote", (proposal, proposer_id), Access.GOV_RO, limits=LIMITS, alone=True)


def forget_decided(context: Context, besides: str) -> None:
    """With a proposal that is decided, `besides`, those decided before leave the state: the ledger has them."""
    proposals, infos = context.kv[tables.PROPOSALS], context.kv[tables.PROPOSALS_INFO]
    for key, value in infos.items():
        if key != besides.encode() and tables.decode(value)["state"] != tables.OPEN:
            infos.delete(key)
            proposals.delete(key)


_SOON: Final = (("retry-after", "1"),)


def _failure(outcome: Outcome) -> dict[str, str]:
    """Why a script failed, as a record has it."""
    found = {"reason": outcome.text[:REASON_LENGTH_MAX]}
    if outcome.trace:
        found["trace"] = outcome.trace[:REASON_LENGTH_MAX]
    return found


def _failed(what: str, outcome: Outcome) -> RequestError:
    """The constitution failed, and with it the request."""
    if outcome.end is End.UNAVAILABLE:
        return RequestError(503, "TooManyPendingTransactions", f"{what}: {outcome.text} Nothing was done.", _SOON)
    reason = _failure(outcome)
    detail = {"code": "JSException", "message": reason["reason"], **({"trace": reason["trace"]} if "trace" in reason else {})}
    return RequestError(500, "InternalError", f"{what}: {reason['reason']}", (), (detail,))


def _json(value: Any) -> Any:
    """What a script returned as JSON; None if it returned anything else, or what is nested too deeply to be read."""
    assert isinstance(value, Result), "governance asks for values"
    try:
        return json.loads(value.data) if value.kind == JSON else None
    except (ValueError, RecursionError):
        return None


def _text(value: Any) -> str:
    assert isinstance(value, Result), "governance asks for values"
    return value.data.decode(errors="replace") if value.kind == TEXT else ""


def _is_true(value: Any) -> bool:
    """Whether JavaScript would take it for true. It is a ballot's, so it is not read: what cannot be must not end the others' request."""
    assert isinstance(value, Result), "governance asks for values"
    if value.kind == JSON:
        return value.data not in _FALSE
    return value.kind == BYTES or (value.kind == TEXT and bool(value.data))


def _attested(record: dict[str, Any]) -> list[Any]:
    """What a node's record says that comes from its attestation."""
    return [record.get(name) for name in _ATTESTED]
