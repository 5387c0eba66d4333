"""What a proposal would do, shown before anybody votes: it is applied on the request's overlay, which is then thrown away.

Ours. Only members may ask, by their certificate in TLS, since each question runs scripts for up to seconds; and one at a time is answered,
since ballots wait for the same worker. A proposal that nobody has signed is asked about as plain JSON: a signed one could be sent by
whoever carries it, and would then be made.
Law: nothing of a trial stays, and nothing comes out of it that is worth something without a vote (`calls` signs with a key that nobody
keeps).
Not here: applying (`enclave.governing.engine`), the answer's form (`governance.descriptions`).
"""

from hashlib import sha256
from typing import Any, Final

from ledgerd.enclave.endpoints import Context, Registry
from ledgerd.enclave.governing.api import id_in_path, trying
from ledgerd.enclave.governing.engine import Engine
from ledgerd.enclave.requests import JSON
from ledgerd.enclave.scripting import Steps
from ledgerd.governance import descriptions, tables
from ledgerd.ledger.errors import RequestError

TRIALS_MAX: Final = 1  # at one time: they share the one worker in which ballots are counted

_NOT_VALID: Final = "ProposalFailedToValidate"
_REFUSALS: Final = {400: "InvalidInput", 503: "NodeNotCommitted, PrimaryNotFound, TooManyPendingTransactions"}


class Effects:
    """The two endpoints."""

    def __init__(self, engine: Engine) -> None:
        """Args: engine: runs the constitution."""
        self._engine = engine
        self._running = 0

    def add_to(self, registry: Registry) -> None:
        """Add them."""
        registry.add(
            trying(
                "GET",
                "/members/proposals/{proposalId}/effects",
                self._of_known,
                "What a proposal would change if it were accepted now.",
                descriptions.Effects,
                {**_REFUSALS, 400: "InvalidResourceName, ProposalNotOpen", 404: "ProposalNotFound"},
            )
        )
        registry.add(
            trying(
                "POST",
                "/members/proposals:preview",
                self._of_new,
                "What a proposal would change that nobody has made yet; given as it is, not signed.",
                descriptions.Effects,
                _REFUSALS,
                body=Any,  # what is no proposal is shown to be none
            )
        )

    def _of_known(self, context: Context) -> Steps:
        proposal_id = id_in_path(context, "proposalId")
        key = proposal_id.encode()
        text = context.governance(tables.PROPOSALS).get(key)
        record = context.governance(tables.PROPOSALS_INFO).get(key)
        if text is None or record is None:
            raise RequestError(404, "ProposalNotFound", f"There is no proposal {proposal_id}.")
        state = tables.decode(record)["state"]
        if state != tables.OPEN:
            raise RequestError(400, "ProposalNotOpen", f"Proposal {proposal_id} is {state}: it would do nothing any more.")
        return (yield from self._try(context, text, proposal_id))

    def _of_new(self, context: Context) -> Steps:
        request = context.request
        if request.headers.get("content-type", "").partition(";")[0].strip() != JSON:
            raise RequestError(400, "InvalidInput", f"A proposal is asked about as {JSON}, not signed: a signed one would be made.")
        return (yield from self._try(context, request.body, sha256(request.body).hexdigest()))

    def _try(self, context: Context, proposal: bytes, proposal_id: str) -> Steps:
        if self._running >= TRIALS_MAX:
            text = "Another member is being shown what a proposal would do. Ask again."
            raise RequestError(503, "TooManyPendingTransactions", text, (("retry-after", "1"),))
        overlay = context.overlay
        overlay.is_trial = True
        context.set_apply_writes(False)  # nor is the answer remembered for who asks again with an idempotency key
        self._running += 1
        try:
            yield from self._engine.validate(context, proposal)
            yield from self._engine.apply(context, proposal_id, proposal.decode())
        except RequestError as error:
            overlay.take_trial()
            if error.status == 503:
                raise
            if error.error_code == _NOT_VALID:
                return descriptions.effects((), problem=error.message)
            return descriptions.effects((), failure=error.message)
        finally:
            self._running -= 1
        return descriptions.effects(overlay.take_trial())
