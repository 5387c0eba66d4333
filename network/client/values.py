"""What goes into the SDK and what comes out: calls, answers, budgets.

Not here: how a call becomes attempts (`client.attempts`), or bytes (`client.session`, `client.pipeline`).
"""

import base64
import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from ledgerd.ledger.errors import FormatError
from ledgerd.ledger.ids import TransactionId, parse_transaction_id

TRANSACTION_ID_HEADER: Final = "x-ms-ccf-transaction-id"
RECEIPT_HEADER: Final = "x-ledgerd-receipt"
APPLIED_HEADER: Final = "preference-applied"  # RFC 7240, section 3
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class Budget(NamedTuple):
    """How long and how often one logical request may be tried; the first limit that is reached ends it.

    Attributes:
        seconds: Total, from the call to the answer, pauses included.
        attempts: Requests sent at most, redirects included.
        attempt_seconds: One attempt; a node that is silent for longer counts as gone.
        pause_seconds: Pause after the first round of all nodes without success; it doubles with every round, up to `pause_seconds_max`,
            and each is shortened by up to half at random, so that clients do not come back all at once.
    """

    seconds: float = 15.0
    attempts: int = 100
    attempt_seconds: float = 5.0
    pause_seconds: float = 0.02
    pause_seconds_max: float = 0.3


class Call(NamedTuple):
    """One logical request.

    Attributes:
        method: Upper-case verb.
        path: Path with query, for example `/app/records/42`.
        body: Bytes; text is the caller's to encode.
        headers: Lower-case names. `content-type` belongs here; `prefer` and `idempotency-key` are the SDK's.
    """

    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = {}


class Answer(NamedTuple):
    """One answer of the service, status 2xx.

    Attributes:
        status: HTTP status.
        headers: Lower-case names.
        body: The answer's bytes.
        committed: True: the transaction (or, for a read, everything that it saw) is committed and will never be undone. False: that is
            not known, since nobody asked, or since the request touched nothing that could be committed (no `transaction_id`).
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    committed: bool

    @property
    def transaction_id(self) -> TransactionId | None:
        """The transaction's own id, or for a read the id of the last write that it may have seen.

        Raises: FormatError: The service sent something that is no id.
        """
        text = self.headers.get(TRANSACTION_ID_HEADER)
        return None if text is None else parse_transaction_id(text)

    @property
    def receipt(self) -> bytes | None:
        """The COSE receipt that came with the answer, as it came: whoever asked the SDK for it has had it verified.

        Raises: FormatError: The header is not base64.
        """
        text = self.headers.get(RECEIPT_HEADER)
        if text is None:
            return None
        try:
            return base64.b64decode(text, validate=True)
        except ValueError:  # binascii.Error, or a character that is no ASCII
            raise FormatError(f"the service sent a header {RECEIPT_HEADER} that is not base64") from None

    @property
    def text(self) -> str:
        """The body as UTF-8 text."""
        return self.body.decode()

    def json(self) -> Any:
        """The body as JSON.

        Raises: FormatError: It is not JSON.
        """
        return parse_json(self.body)


def says_committed(headers: Mapping[str, str]) -> bool:
    """Whether the node says that it waited for commit. One that knows no such preference ignores it, and its 2xx proves nothing."""
    applied = headers.get(APPLIED_HEADER)
    return applied is not None and (applied == "committed" or "committed" in (word.strip() for word in applied.split(",")))


def parse_json(data: bytes) -> Any:
    """Decode JSON that a service sent.

    Raises: FormatError: It is not JSON.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise FormatError(f"the service sent {len(data)} bytes that should be JSON and are not: {data[:80]!r}") from None
