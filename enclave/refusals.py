"""Refusals that the core itself answers with: what happened, whether anything was done, what to do next."""

from typing import Final

from ledgerd.enclave.execution import error_response
from ledgerd.enclave.requests import JSON, TRANSACTION_ID_HEADER, Response
from ledgerd.governance import tables
from ledgerd.ledger.errors import RequestError
from ledgerd.ledger.ids import TransactionId


def refusal(status: int, code: str, text: str) -> Response:
    """An error in CCF's shape; 503 says when to ask again."""
    headers = (("retry-after", "1"),) if status == 503 else ()
    return error_response(RequestError(status, code, text, headers))


NOT_PRIMARY: Final = refusal(503, "PrimaryNotFound", "This node is not primary any more; nothing was done here. Ask again.")
NO_PRIMARY: Final = refusal(503, "PrimaryNotFound", "No primary can be reached now; nothing was done. Ask again.")
FORWARDED_TWICE: Final = refusal(
    503, "RequestAlreadyForwarded", "The node that this was forwarded to is not primary any more; nothing was done. Ask again."
)
TOO_MANY: Final = refusal(
    503, "TooManyPendingTransactions", "Too many transactions wait for their commit; nothing was done. Ask again later."
)
TOO_LARGE_TO_FORWARD: Final = refusal(
    413, "RequestBodyTooLarge", "The request is too large to be passed on to the primary; nothing was done. Send it to the primary itself."
)
TOO_LARGE_TO_PASS_BACK: Final = refusal(
    502, "AnswerTooLarge", "The request was executed, but its answer is too large to come through another node. Ask the primary itself."
)
BUSY: Final = refusal(503, "TooManyRequests", "Too many others wait for documents or receipts here. Ask again later, or another node.")
OUTCOME_UNKNOWN: Final = refusal(
    504,
    "OutcomeUnknown",
    "The primary was lost before it answered: the request may have been executed or not. Repeat it only with its idempotency key.",
)
NO_DOCUMENT: Final = refusal(503, "AttestationUnavailable", "The security module gave no document; ask again.")


def outcome_unknown(transaction: TransactionId) -> Response:
    """504: the transaction was executed by a primary that leaves; whether the next one keeps it is not for this node to see."""
    response = refusal(
        504,
        "OutcomeUnknown",
        f"This node is retired, and transaction {transaction} was not committed yet. Ask another node for its status, or repeat it there "
        "with its idempotency key.",
    )
    return response._replace(headers=(*response.headers, (TRANSACTION_ID_HEADER, str(transaction))))


def rolled_back(transaction: TransactionId) -> Response:
    """409: the transaction was executed, and then undone by a change of primary."""
    response = refusal(
        409, "TransactionInvalid", f"Transaction {transaction} was rolled back by a change of primary and changed nothing; ask again."
    )
    return response._replace(headers=(*response.headers, (TRANSACTION_ID_HEADER, str(transaction))))


def still_pending(transaction: TransactionId) -> Response:
    """202: executed, not committed within the client's limit; where to ask."""
    where = f"/app/tx?transaction_id={transaction}"
    body = {"transaction_id": str(transaction), "status": "Pending", "ask": where}
    return Response(202, ((TRANSACTION_ID_HEADER, str(transaction)), ("location", where)), tables.encode(body), JSON)
