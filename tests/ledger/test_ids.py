"""Names of transactions, as people and programs write them."""

import pytest

from ledgerd.ledger.errors import FormatError
from ledgerd.ledger.ids import NO_TRANSACTION, parse_entry_id, parse_transaction_id


def test_a_transaction_is_named_by_view_and_seqno() -> None:
    assert str(parse_entry_id("2.18")) == str(parse_transaction_id("2.18")) == "2.18"
    assert parse_entry_id("1.1") == (1, 1)  # nobody issues it, but it may be asked for
    assert parse_transaction_id("0.0") == NO_TRANSACTION


@pytest.mark.parametrize("text", ["a.b", "-1.-1", "2", "2.", ".2", "2.18.1", "+2.18", "2.018", " 2.18", "2.18\n", "²." + "1" * 30])
def test_anything_else_is_none(text: str) -> None:
    for parse in (parse_transaction_id, parse_entry_id):
        with pytest.raises(FormatError, match=r"is not VIEW\.SEQNO"):
            parse(text)


@pytest.mark.parametrize("text", ["0.0", "1.0", "0.1", "2.0"])
def test_nothing_comes_before_the_first(text: str) -> None:
    with pytest.raises(FormatError, match=f"{text} names no transaction"):
        parse_entry_id(text)
