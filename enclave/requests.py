"""A client's request and its answer, the same for HTTP/1.1, `ledgerd/1`, forwarding between nodes, and applications.

Not here: parsing and printing (`enclave.sessions`), who asks (`enclave.auth`), what exists (`enclave.endpoints`).
"""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from ledgerd.enclave.states import HistoricalState, Range
from ledgerd.ledger.ids import TransactionId

TRANSACTION_ID_HEADER: Final = "x-ms-ccf-transaction-id"  # of answers; of requests that ask for the past
HEADERS_MAX: Final = 256  # of a response, as of a request; every reader of answers has such a bound
OWN_HEADERS: Final = frozenset({TRANSACTION_ID_HEADER, "connection", "content-length", "content-type", "transfer-encoding"})
"""Headers of a response that are not a handler's to set."""

new_tuple: Final = tuple.__new__  # a NamedTuple's own `__new__` is a Python function that calls this: three times the cost

is_header_name: Final = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]{1,256}").fullmatch
is_header_value: Final = re.compile(r"[\t\x20-\x7e\xa0-\xff]{0,8192}").fullmatch


class Request:
    """One request, complete, already bounded by the limits of `enclave.sessions`.

    Attributes:
        reply_to: Opaque token of whoever wants the answer; handed back unread.
        method: Upper-case verb.
        path: Path without query, still percent-encoded.
        query: Raw query string without `?`.
        headers: Lower-case names; a repeated header is joined by `, `.
        body: At most the body limit.
        certificate: DER of the client certificate of the TLS session, proof of possession done; None without.
        caller_id: Hex SHA-256 of `certificate`, or "" without one; worked out once per session.
        now_s: Attested time, seconds since 1970, at which its execution begins. Not there before: whoever asks too early fails, instead
            of judging dates by a time that nobody has attested.
        states: What was fetched for it since it was first executed here, which its handler asked for; see `enclave.states`.
    """

    now_s: int

    __slots__ = ("body", "caller_id", "certificate", "headers", "method", "now_s", "path", "query", "reply_to", "states")

    def __init__(
        self,
        reply_to: object,
        method: str,
        path: str,
        query: str,
        headers: Mapping[str, str],
        body: bytes,
        certificate: bytes | None,
        caller_id: str,
    ) -> None:
        self.reply_to = reply_to
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.body = body
        self.certificate = certificate
        self.caller_id = caller_id
        self.states: dict[Range, list[HistoricalState]] | None = None


class Response(NamedTuple):
    """One answer. `headers` have lower-case names and hold neither content-length nor connection: the session adds those.

    Where there is a body there is a `content_type`; 204 and 304 have neither.
    """

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    content_type: str = ""


def with_id(response: Response, transaction_id: TransactionId, more_headers: tuple[tuple[str, str], ...]) -> Response:
    """The response, with a header that names the transaction that it depends on, and more of them."""
    status, headers, body, content_type = response
    view, seqno = transaction_id
    headers = (*headers, (TRANSACTION_ID_HEADER, f"{view}.{seqno}"), *more_headers)
    return new_tuple(Response, (status, headers, body, content_type))


TEXT: Final = "text/plain"
JSON: Final = "application/json"
COSE: Final = "application/cose"
BINARY: Final = "application/octet-stream"
