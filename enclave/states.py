"""Historical states: what one committed transaction wrote, with the receipt that proves it, for applications to read.

A state holds its transaction's own writes and nothing else, as in CCF: to learn a key's value as of some time, an application must know
which transaction wrote it. Whoever needs states that are not at hand raises `StatesWanted`; the run is dropped, and begins again when
they are there. Committed transactions never change, so a state is as good later as it was at first.
Not here: fetching and verifying (`enclave.historical`), states as scripts see them (`enclave.ledger_calls`).
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final, Protocol, TypeAlias

from ledgerd.ledger import merkle
from ledgerd.ledger.entry import WriteSet
from ledgerd.ledger.errors import RequestError, UsageError
from ledgerd.ledger.ids import NO_TRANSACTION, Seqno, TransactionId, View
from ledgerd.ledger.receipt import Leaf, build_json, build_signature_json
from ledgerd.ledger.signature import Signature

RANGE_ENTRIES_MAX: Final = 10_000  # of one request; read and checked in a second or so, a few hundred at a time
RANGES_MAX: Final = 16  # of one request; before each of them it is executed once more
RANGE_BYTES_MAX: Final = 16 << 20  # of the entries of one request, as they stand in the ledger

Range: TypeAlias = tuple[int, int]
"""First and last seqno, both included."""

_NO_KEYS: Final[dict[bytes, bytes | None]] = {}


class StatesWanted(BaseException):
    """A run cannot go on without these states; it is dropped, and begins again from its first line when they are there.

    No Exception: a handler that catches all of those must not swallow it.
    """

    def __init__(self, wanted: Range) -> None:
        super().__init__(wanted)
        self.wanted = wanted


class HistoricalMap:
    """What one transaction wrote to one map. Keys are in ascending order of bytes; what it removed is absent."""

    __slots__ = ("_seqno", "_writes", "name")

    def __init__(self, name: str, writes: dict[bytes, bytes | None], seqno: Seqno) -> None:
        self.name = name
        self._writes = writes
        self._seqno = seqno

    def get(self, key: bytes) -> bytes | None:
        """The value that the transaction wrote under `key`; None if it wrote none there, or removed it."""
        return self._writes.get(key)

    def has(self, key: bytes) -> bool:
        """True if the transaction wrote a value under `key`, be it empty."""
        return self._writes.get(key) is not None

    def removed(self, key: bytes) -> bool:
        """True if the transaction removed `key`."""
        return key in self._writes and self._writes[key] is None

    def version_of(self, key: bytes) -> int | None:
        """The transaction's seqno if it wrote a value under `key`."""
        return self._seqno if self.has(key) else None

    def size(self) -> int:
        """Number of values written."""
        return sum(value is not None for value in self._writes.values())

    def range(
        self, start: bytes | None = None, end: bytes | None = None, *, limit: int | None = None, reverse: bool = False
    ) -> list[tuple[bytes, bytes]]:
        """Pairs with `start <= key < end`, at most `limit` of them; descending with `reverse`."""
        keys = sorted((key for key in self._writes if (start is None or key >= start) and (end is None or key < end)), reverse=reverse)
        return list(islice(((key, value) for key in keys if (value := self._writes[key]) is not None), limit))

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All pairs."""
        return iter(self.range())


class HistoricalMaps:
    """The maps that one transaction wrote to, by name; any other is empty."""

    __slots__ = ("_seqno", "_writes")

    def __init__(self, writes: WriteSet, seqno: Seqno) -> None:
        self._writes = writes
        self._seqno = seqno

    def __getitem__(self, name: str) -> HistoricalMap:
        """The map `name`: the application's own, or a public one of the service.

        Raises: UsageError: It is a private map of the service, which holds what others were answered.
        """
        if not is_readable(name):
            raise UsageError(f"map {name[:256]!r} is the service's own, and sealed")
        return HistoricalMap(name, self._writes.get(name, _NO_KEYS), self._seqno)

    def names(self) -> list[str]:
        """Names of the maps that the transaction wrote to and that may be read, sorted."""
        return sorted(filter(is_readable, self._writes))


class HistoricalState:
    """One committed transaction, recognised as this service's own.

    Attributes:
        transaction_id: Its id.
        writes: What it wrote, every map; applications use `kv`.
        leaf: The components of its leaf in the tree.
        record: The signature over it; of a signature entry, the one that it holds.
        size_bytes: About what it takes in memory.
    """

    __slots__ = ("_span", "leaf", "record", "size_bytes", "transaction_id", "writes")

    def __init__(
        self, transaction_id: TransactionId, writes: WriteSet, leaf: Leaf, record: Signature, span: merkle.Span | None, size_bytes: int
    ) -> None:
        """Args: span: the tree that `record` signed; None for a signature entry itself."""
        self.transaction_id = transaction_id
        self.writes = writes
        self.leaf = leaf
        self.record = record
        self.size_bytes = size_bytes
        self._span = span

    @property
    def kv(self) -> HistoricalMaps:
        """The maps as this transaction wrote them."""
        return HistoricalMaps(self.writes, self.transaction_id.seqno)

    @property
    def is_signature(self) -> bool:
        """True of a signature entry, which proves no transaction."""
        return self._span is None

    @property
    def path(self) -> merkle.Path:
        """From its leaf to the signed root; empty for a signature entry."""
        return [] if self._span is None else self._span.path(self.transaction_id.seqno)

    @property
    def receipt(self) -> dict[str, Any]:
        """The receipt, as `GET /app/receipt` gives it; made anew each time."""
        raw = self.record.raw
        assert raw is not None, "this service writes both signatures"
        return build_signature_json(raw) if self._span is None else build_json(raw, self.leaf, self.path)


def is_readable(name: str) -> bool:
    """Whether an application may read a map: its own, and what every auditor sees; not what the service keeps sealed."""
    return name.startswith("public:") or not name.startswith(("ccf.", "ledgerd."))


def size_of(states: dict[Range, list[HistoricalState]] | None) -> int:
    """About what these states take in memory."""
    return sum(state.size_bytes for found in (states or {}).values() for state in found)


def check_wanted(first: int, last: int, committed: Seqno, there: Mapping[Range, object] | None = None) -> None:
    """Check that a range is one that can be asked for.

    Args: there: what the same request was given before; together they must not be too many.
    Raises: RequestError: 400, it is none or too long; 404 TransactionPendingOrUnknown, its end is not committed yet.
    """
    check_range_of(first, last, there)
    if last > committed:
        raise not_committed(f"Only committed transactions can be queried, up to {committed} now; {last} is not committed yet.")


def check_range_of(first: int, last: int, there: Mapping[Range, object] | None = None) -> None:
    """The same, whatever is committed. Raises: RequestError: 400."""
    if not 0 < first <= last:
        raise RequestError(
            400, "InvalidInput", f"Entries {first} to {last} are no range: the first entry is 1, and the last not before it."
        )
    count = last - first + 1 + sum(end - begin + 1 for begin, end in (there or ()))
    if count > RANGE_ENTRIES_MAX or len(there or ()) >= RANGES_MAX:
        raise RequestError(
            400,
            "RangeTooLarge",
            f"With entries {first} to {last} the request reads {count} of the ledger's past; at most {RANGE_ENTRIES_MAX}, in {RANGES_MAX} "
            "ranges, are read at once. Ask for fewer.",
        )


def check_committed(transaction: TransactionId, status: str) -> None:
    """Check that a transaction can be queried.

    Raises: RequestError: 404 TransactionInvalid or TransactionPendingOrUnknown, as CCF.
    """
    if status == "Invalid":
        raise RequestError(404, "TransactionInvalid", f"Transaction {transaction} is invalid: it can never be committed.")
    if status != "Committed":
        raise not_committed(f"Transaction {transaction} is not committed yet, or not known to this node; ask again.")


def not_committed(message: str) -> RequestError:
    """The refusal of what is not committed yet."""
    return RequestError(404, "TransactionPendingOrUnknown", message, headers=(("cache-control", "no-cache"),))


class Ledger(Protocol):
    """What a handler may ask of consensus, as this node knows it; later answers may be of a later state."""

    @property
    def committed(self) -> TransactionId: ...
    def status_of(self, transaction: TransactionId) -> str: ...
    def view_of(self, seqno: Seqno) -> View | None: ...


class _EmptyLedger:
    """A ledger without entries: for a context without a node."""

    committed: TransactionId = NO_TRANSACTION

    def status_of(self, transaction: TransactionId) -> str:
        """Nothing is known."""
        return "Unknown"

    def view_of(self, seqno: Seqno) -> View | None:
        """Nothing is there."""
        return None


EMPTY_LEDGER: Final[Ledger] = _EmptyLedger()
