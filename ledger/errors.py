"""The exception tree, sorted by who must act.

A message says what happened, what was expected and what to do next; it never holds a secret.
"""

from typing import ClassVar


class LedgerdError(Exception):
    """Root of all errors that ledgerd raises on purpose."""

    code: ClassVar[str] = "LedgerdError"


class IntegrityError(LedgerdError):
    """A proof, hash or signature does not match: stop trusting the source."""

    code = "IntegrityError"


class FormatError(LedgerdError):
    """Bytes do not follow their format: refuse them. Carries no verdict about who wrote them."""

    code = "FormatError"


class PeerError(LedgerdError):
    """Bytes from another node break the protocol: drop the message or the connection, keep the node."""

    code = "PeerError"


class HostError(LedgerdError):
    """The host's reply is not what an honest host would say: refuse it, count it, go on or stop."""

    code = "HostError"


class ConfigurationError(LedgerdError):
    """A configuration or option is wrong: the operator must change it."""

    code = "ConfigurationError"


class UsageError(LedgerdError):
    """A caller in this program broke a module's contract: a bug of ours."""

    code = "UsageError"


class RequestError(LedgerdError):
    """A client's request is refused; becomes an HTTP answer in CCF's error shape.

    Args:
        status: HTTP status, 400 to 599.
        error_code: CCF's error code, for example `ResourceNotFound`.
        message: Sentence for the caller.
        headers: Extra response headers, lower-case names.
        details: Items of `error.details`, for example one per authentication policy.
    """

    code = "RequestError"

    def __init__(
        self,
        status: int,
        error_code: str,
        message: str,
        headers: tuple[tuple[str, str], ...] = (),
        details: tuple[dict[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error_code = error_code
        self.message = message
        self.headers = headers
        self.details = details
