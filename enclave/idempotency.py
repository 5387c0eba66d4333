"""Requests that may be repeated: the first answer again for the same key, never a second execution.

Law: the record is written by the very transaction that it guards, so a transaction that is rolled back leaves none. A record counts for
`window` entries and then as absent, at every node alike. Keys of the form `VIEW.SEQNO/RANDOM`, with the last id that the client had
seen, are refused once a record of theirs could have been forgotten; other keys protect for the window only.
Not here: dropping old records (`Store.compact`, by the store's `windows`).
"""

import re
from collections.abc import Callable
from hashlib import sha256 as _sha256
from typing import Final, NamedTuple

import msgpack

from ledgerd.enclave.kv import Store, Transaction
from ledgerd.enclave.requests import Request, Response
from ledgerd.ledger.errors import FormatError, RequestError
from ledgerd.ledger.ids import Seqno, TransactionId, View, parse_transaction_id

_pack: Final = msgpack.Packer().pack
_RECORD_HEAD: Final = b"\x95" + _pack(bytes(32))[:2]  # of an array of five, and of the digest in it
HEADER: Final = "idempotency-key"
MAP: Final = "ledgerd.internal.idempotency"  # private: answers may be confidential
WINDOW_ENTRIES: Final = 100_000

_is_key: Final = re.compile(r"[\x21-\x7e]{1,256}").fullmatch


class Guard:
    """One guarded request.

    Attributes:
        record: Where its record stands.
        digest: SHA-256 of what was asked.
        key: As the client gave it.
    """

    __slots__ = ("digest", "key", "record")

    def __init__(self, record: bytes, digest: bytes, key: str) -> None:
        self.record = record
        self.digest = digest
        self.key = key


class First(NamedTuple):
    """The answer that the first request got, and its transaction."""

    id: TransactionId
    response: Response


class Idempotency:
    """Finds and writes records.

    Args:
        store: Made with `windows={MAP: window}`.
        view_of: View of an applied seqno; monotone.
        window: Entries for which a record counts.
    """

    __slots__ = (
        "_last_name",
        "_last_response",
        "_last_seen",
        "_last_tail",
        "_records",
        "_store",
        "_view_of",
        "_window",
    )

    def __init__(self, store: Store, view_of: Callable[[Seqno], View], window: int = WINDOW_ENTRIES) -> None:
        self._store = store
        self._records = store.map(MAP)
        self._view_of = view_of
        self._window = window
        self._last_name = "/"  # with the slash
        self._last_seen: TransactionId | None = None
        self._last_response: Response | None = None
        self._last_tail = b""

    def guard(self, request: Request, key: str, caller_id: str) -> Guard:
        """Check the key's form and name its record.

        Raises: RequestError: 400 InvalidHeaderValue.
        """
        if _is_key(key) is None:
            raise RequestError(400, "InvalidHeaderValue", f"{HEADER} must be 1 to 256 visible ASCII characters, given once.")
        method, path, query = request.method, request.path, request.query
        what = f"{len(method)} {len(path)} {len(query)} {method}{path}{query}".encode() + request.body
        return Guard(_sha256(f"{caller_id}\0{key}".encode()).digest(), _sha256(what).digest(), key)

    def find(self, guard: Guard) -> First | None:
        """The first answer, if the key is known.

        Raises: RequestError: 422 IdempotencyKeyReused, the key was used for another request; 422 IdempotencyKeyTooOld, it is not known any
            more whether it was used.
        """
        records = self._records
        version = records.version_of(guard.record)
        oldest = self._store.version - self._window  # records up to here are forgotten
        if version is None or version <= oldest:
            if oldest > 0 and (seen := self._seen(guard.key)) is not None and self._is_too_old(seen, Seqno(oldest)):
                raise RequestError(
                    422,
                    "IdempotencyKeyTooOld",
                    f"The key was made at {seen}, more than {self._window} transactions ago; "
                    "whether its request was executed is no longer known. Look, then ask with a new key.",
                )
            return None
        record = records.get(guard.record)
        assert record is not None
        digest, status, headers, content_type, body = msgpack.unpackb(record)
        if digest != guard.digest:
            raise RequestError(422, "IdempotencyKeyReused", "The key was used before, with another method, path, query or body.")
        seqno = Seqno(version)
        response = Response(status, tuple((name, value) for name, value in headers), body, content_type)
        return First(TransactionId(self._view_of(seqno), seqno), response)

    def remember(self, guard: Guard, response: Response, transaction: Transaction) -> None:
        """Write the record as part of the transaction. `response` is without its transaction id, which the record's version tells."""
        if response is not self._last_response:  # nearly always it is the same object: no content
            self._last_tail = b"".join(map(_pack, (response.status, response.headers, response.content_type, response.body)))
            self._last_response = response
        transaction.map(MAP).set(guard.record, _RECORD_HEAD + guard.digest + self._last_tail)

    def _is_too_old(self, seen: TransactionId, oldest: Seqno) -> bool:
        """Whether a request whose client had seen `seen` may have been executed below `oldest`, and be forgotten.

        It stands after all of this ledger that has the view of `seen` or an earlier one, up to `seen.seqno` (a rollback may have taken
        `seen` itself). So it is new enough if there is an entry of such a view from `oldest` up to there; views only grow, so if
        `oldest` is one.
        """
        return seen.seqno < oldest or self._view_of(oldest) > seen.view

    def _seen(self, key: str) -> TransactionId | None:
        """The id in a dated key. Clients make many keys with one id, so the last one read is kept."""
        if key.startswith(self._last_name) and len(key) > len(self._last_name):
            return self._last_seen
        name, slash, random = key.partition("/")
        if not slash or not random:
            return None
        try:
            self._last_seen = parse_transaction_id(name)
        except FormatError:
            self._last_seen = None
        self._last_name = name + slash
        return self._last_seen
