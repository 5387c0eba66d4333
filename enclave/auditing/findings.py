"""What an audit of governance says: steps that follow, and the first thing that does not. Values, and how they are put into words."""

import json
from collections.abc import Mapping
from typing import Any, ClassVar, Final, NamedTuple

from ledgerd.governance import tables
from ledgerd.ledger.entry import WriteSet
from ledgerd.ledger.errors import FormatError, IntegrityError
from ledgerd.ledger.ids import TransactionId
from ledgerd.ledger.signature import unique

SHOWN_CHARACTERS: Final = 16  # of an id in a sentence
VALUE_CHARACTERS_MAX: Final = 200  # of a value that is shown

# Rules that can be broken. A finding names one of them; programs may rely on the names.
FORM: Final = "form"  # a table or an envelope is of another form
GENESIS: Final = "genesis"
ORIGIN: Final = "origin"  # nothing in the ledger gives rise to this change
MEMBER: Final = "member"  # the signer is no active member
SIGNATURE: Final = "signature"
PROPOSAL_ID: Final = "proposal_id"
CREATED_AT: Final = "created_at"
TIME: Final = "time"  # what was taken for the present time was not
REQUEST: Final = "request"  # the service itself refuses such a request
OUTCOME: Final = "outcome"  # what was asked for has another outcome
CERTIFICATE: Final = "certificate"
NODE: Final = "node"


class Step(NamedTuple):
    """One entry that follows.

    Attributes:
        transaction_id: Of the entry.
        kind: One of a closed list, such as `ballot`.
        text: What happened, in words.
        member_id: Who asked for it, if a member did.
        proposal_id: The proposal that it is about.
        state: Of that proposal afterwards.
    """

    transaction_id: TransactionId
    kind: str
    text: str
    member_id: str | None = None
    proposal_id: str | None = None
    state: str | None = None


class NotFollowingError(IntegrityError):
    """The first thing in a ledger that does not follow from what stands before it.

    Attributes:
        transaction_id: Where it stands.
        rule: Which of the rules above is broken.
        expected, found: In words.
        meaning: What that says of the service.
    """

    code: ClassVar[str] = "NotFollowing"

    def __init__(self, transaction_id: TransactionId, rule: str, expected: str, found: str, meaning: str) -> None:
        super().__init__(f"entry {transaction_id}, rule '{rule}': expected {expected}; there stands {found}. {meaning}")
        self.transaction_id = transaction_id
        self.rule = rule
        self.expected = expected
        self.found = found
        self.meaning = meaning


class Difference(NamedTuple):
    """Where two write sets differ first; `where` names table, key and field."""

    where: str
    expected: str
    found: str


_ABSENT: Final = object()
_NOTHING: Final = "nothing written"


def difference(expected: WriteSet, found: WriteSet) -> Difference | None:
    """The first place, in order of tables and keys, where an entry's public writes are not those expected; None if they are the same."""
    for name in sorted(expected.keys() | found.keys()):
        here: Mapping[bytes, Any] = expected.get(name, {})
        there: Mapping[bytes, Any] = found.get(name, {})
        for key in sorted(here.keys() | there.keys()):
            mine, theirs = here.get(key, _ABSENT), there.get(key, _ABSENT)
            if mine != theirs:
                return _within(f"{name} {shown_key(key)}".rstrip(), mine, theirs)
    return None


def _within(where: str, expected: Any, found: Any) -> Difference:
    """Name the field, where both are JSON objects."""
    if isinstance(expected, bytes) and isinstance(found, bytes):
        one, other = read_json(expected), read_json(found)
        separator = ", "
        while isinstance(one, dict) and isinstance(other, dict) and one != other:
            field = min(name for name in one.keys() | other.keys() if one.get(name, _ABSENT) != other.get(name, _ABSENT))
            where += f"{separator}{short(field)}"
            separator = "."
            one, other = one.get(field, _ABSENT), other.get(field, _ABSENT)
        if separator == ".":
            return Difference(where, _in_json(one), _in_json(other))
    return Difference(where, _words(expected), _words(found))


def _words(value: Any) -> str:
    if value is _ABSENT:
        return _NOTHING
    if value is None:
        return "removal"
    try:
        return _cut(value.decode())
    except UnicodeDecodeError:
        return _cut(f"0x{value.hex()}")


def _in_json(value: Any) -> str:
    return _NOTHING if value is _ABSENT else _cut(json.dumps(value, ensure_ascii=False))


def _cut(text: str) -> str:
    return text if len(text) <= VALUE_CHARACTERS_MAX else f"{text[:VALUE_CHARACTERS_MAX]}... ({len(text)} characters)"


def read_json(data: bytes) -> Any:
    """The JSON in a record; None if it is none, or names a member twice."""
    try:
        return json.loads(data, object_pairs_hook=unique)
    except (ValueError, RecursionError, FormatError):
        return None


def record_in(data: bytes | None) -> dict[str, Any] | None:
    """The JSON object in a record; None if it is none, or there is no record."""
    found = None if data is None else read_json(data)
    return found if isinstance(found, dict) else None


def short(name: str) -> str:
    """An id as people tell it from another."""
    return f"{name[:SHOWN_CHARACTERS]}..." if len(name) > 2 * SHOWN_CHARACTERS else name


def shown_key(key: bytes) -> str:
    """A key of a table; nothing for that of a single record."""
    if key == tables.SINGLETON:
        return ""
    try:
        return short(key.decode())
    except UnicodeDecodeError:
        return f"0x{key.hex()[:SHOWN_CHARACTERS]}..."
