"""What can go wrong for a client, sorted by what the client can still know about its transaction.

`TransactionInvalid`: it did not happen and never will. `OutcomeUnknown`: it may have. `RequestRefused`: the service said no.
`RetryBudgetExhausted`: nobody answered in time, and nothing has changed. `ServiceIdentityMismatch`: this is not the pinned service.
"""

from typing import ClassVar

from ledgerd.ledger.errors import IntegrityError, LedgerdError
from ledgerd.ledger.ids import TransactionId


class ClientError(LedgerdError):
    """Root of what the SDK raises itself; errors of `ledger` (a receipt that does not verify) pass through as they are."""

    code: ClassVar[str] = "ClientError"


class RequestRefused(ClientError):
    """The service answered with an error that repeating would not change.

    Attributes:
        status: HTTP status.
        error_code: CCF's code, for example `ResourceNotFound`; "" where the answer had none.
        message: What the service said.
        details: Further items, for example one per authentication policy.
    """

    code = "RequestRefused"

    def __init__(self, status: int, error_code: str, message: str, details: tuple[dict[str, object], ...] = ()) -> None:
        said = [item["message"] for item in details if isinstance(item.get("message"), str)]
        more = "".join(f"; {text}" for text in dict.fromkeys(said) if str(text) not in message)
        super().__init__(f"{status} {error_code}: {message}{more}")
        self.status = status
        self.error_code = error_code
        self.message = message
        self.details = details


class TransactionInvalid(ClientError):
    """The transaction was executed and then rolled back: it did not happen, and never will. Repeating it is safe."""

    code = "TransactionInvalid"

    def __init__(self, message: str, transaction_id: TransactionId | None) -> None:
        super().__init__(message)
        self.transaction_id = transaction_id


class OutcomeUnknown(ClientError):
    """The transaction may have been executed, and the client cannot tell.

    Repeat it with `idempotency_key` (the same request, the same key) to learn its answer, or ask for `transaction_id` where there is one.
    """

    code = "OutcomeUnknown"

    def __init__(self, message: str, transaction_id: TransactionId | None, idempotency_key: str | None) -> None:
        super().__init__(message)
        self.transaction_id = transaction_id
        self.idempotency_key = idempotency_key


class RetryBudgetExhausted(ClientError):
    """No node executed the request within the budget, or it was one that only reads: nothing has changed. `last` says what the last
    attempt met.
    """

    code = "RetryBudgetExhausted"

    def __init__(self, attempts: int, seconds: float, last: str, what: str = "no node took the request") -> None:
        super().__init__(f"{what} in {attempts} attempts and {seconds:.1f} s; the last one: {last}")
        self.attempts = attempts
        self.seconds = seconds
        self.last = last


class ServiceIdentityMismatch(ClientError, IntegrityError):
    """A node presented a certificate that the pinned service identity did not endorse."""

    code = "ServiceIdentityMismatch"
