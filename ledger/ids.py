"""Names of things: views, sequence numbers, transactions, nodes.

Follows CCF: views start at 2, seqnos at 1, and a node's name is the digest of its public key.
"""

from typing import Final, NamedTuple, NewType

from ledgerd.ledger.errors import FormatError

View = NewType("View", int)
"""Term of one primary; the first is 2."""

Seqno = NewType("Seqno", int)
"""1-based position in the ledger; 0 names the empty ledger."""

NodeId = NewType("NodeId", str)
"""Hex SHA-256 of the DER SubjectPublicKeyInfo of a node's identity key: 64 lower-case characters."""

FIRST_VIEW: Final = View(2)
NUMBER_MAX: Final = (1 << 63) - 1  # versions are signed 64-bit in the ledger


class TransactionId(NamedTuple):
    """Names one entry for ever: a primary never issues a seqno twice in a view."""

    view: View
    seqno: Seqno

    def __str__(self) -> str:
        return f"{self.view}.{self.seqno}"


NO_TRANSACTION: Final = TransactionId(View(0), Seqno(0))


def parse_transaction_id(text: str) -> TransactionId:
    """Read `VIEW.SEQNO`, both decimal without sign, space or leading zero.

    Raises: FormatError: It is anything else.
    """
    view, dot, seqno = text.partition(".")
    if not dot or not _is_number(view) or not _is_number(seqno):
        raise FormatError(f"transaction id {text[:64]!r} is not VIEW.SEQNO, two decimal numbers such as 2.18")
    return TransactionId(View(int(view)), Seqno(int(seqno)))


def parse_entry_id(text: str) -> TransactionId:
    """Read what names an entry: as `parse_transaction_id`, but neither number is 0, as in CCF.

    Raises: FormatError: It is anything else.
    """
    found = parse_transaction_id(text)
    if 0 in found:
        raise FormatError(f"transaction id {found} names no transaction: views and seqnos begin with 1")
    return found


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20 and (text == "0" or text[0] != "0") and int(text) <= NUMBER_MAX
