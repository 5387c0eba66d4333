"""Each check of a history, with the smallest history that it must refuse, and one that it must not."""

from collections.abc import Callable

import pytest

from support.histories import Call, Entry, History, HistoryError, Outcome, check, check_ledgers, check_receipts

LEDGER = [
    Entry(2, 1, {}),
    Entry(2, 2, {"x": "1"}),
    Entry(2, 3, {"y": "1"}),
    Entry(3, 4, {}),
    Entry(3, 5, {"x": "2"}),
]


def put(
    history: History, at: float, until: float, id_: tuple[int, int] | None, outcome: Outcome = Outcome.COMMITTED, **writes: str
) -> Call:
    call = history.invoke(f"c{len(history.calls)}", at, "n0", writes=writes)
    if outcome is not Outcome.UNKNOWN:
        call.end(outcome, until, transaction=id_)
    return call


def get(history: History, at: float, until: float, id_: tuple[int, int], outcome: Outcome = Outcome.COMMITTED, **reads: str | None) -> Call:
    call = history.invoke(f"c{len(history.calls)}", at, "n1")
    call.end(outcome, until, transaction=id_, reads=reads)
    return call


def good() -> History:
    """What an honest service shows, and the ledger above it."""
    history = History()
    put(history, 0, 3, (2, 2), x="1")
    put(history, 1, 4, (2, 3), y="1")
    put(history, 2, 9, (2, 4), Outcome.ROLLED_BACK, x="9")
    put(history, 2, 9, None, Outcome.REFUSED, x="8")
    put(history, 3, 9, None, Outcome.UNKNOWN, y="7")
    get(history, 5, 6, (2, 3), x="1", y="1")
    first = history.invoke("c", 6, "n0", writes={"x": "2"}, key="k", token="2")
    assert first.outcome is Outcome.UNKNOWN
    again = history.invoke("c", 8, "n1", writes={"x": "2"}, key="k", token="2")
    again.end(Outcome.COMMITTED, 9, transaction=(3, 5), reads={"x": "1"})
    get(history, 9.5, 10, (3, 5), x="2")
    get(history, 9.5, 10, (2, 3), Outcome.EXECUTED, x="1")  # answered before its commit: may be old
    history.saw("n1", 6, 6.5, (2, 3), "Pending")
    history.saw("n1", 7, 7.5, (2, 3), "Committed")
    history.saw("n1", 7, 8.5, (2, 3), "Pending")  # overtaken on its way
    history.saw("n0", 8, 8.5, (2, 3), "Unknown")
    history.saw("n0", 9, 9.5, (2, 4), "Invalid")
    return history


def test_an_honest_history_passes() -> None:
    check(good(), LEDGER)


def _stale(history: History) -> None:
    get(history, 11, 12, (3, 5), x="1")


def _lost(history: History) -> None:
    put(history, 11, 12, (3, 6), z="1")


def _changed(history: History) -> None:
    put(history, 0, 12, (3, 4), z="1")


def _kept(history: History) -> None:
    put(history, 0, 12, (3, 5), Outcome.ROLLED_BACK, x="2")


def _turned(history: History) -> None:
    history.saw("n2", 11, 12, (2, 4), "Committed")


def _less(history: History) -> None:
    history.saw("n1", 11, 12, (2, 3), "Pending")


def _denied(history: History) -> None:
    history.saw("n2", 11, 12, (2, 2), "Invalid")


def _twins(history: History) -> None:
    put(history, 11, 12, (2, 2), Outcome.EXECUTED, x="5")


def _back(history: History) -> None:
    put(history, 11, 12, (3, 4), w="1")


def _behind(history: History) -> None:
    get(history, 11, 12, (2, 3), z=None)


def _dirty(history: History) -> None:
    get(history, 0, 12, (2, 2), Outcome.EXECUTED, x=None)


def _both(history: History) -> None:
    put(history, 0, 12, (2, 5), w="1")


def _second_id(history: History) -> None:
    call = history.invoke("c", 11, "n1", writes={"x": "2"}, key="k", token="2")
    call.end(Outcome.COMMITTED, 12, transaction=(3, 6))


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        (_stale, {"Linearizable"}),
        (_lost, {"CommittedIsKept"}),
        (_changed, {"CommittedIsKept"}),
        (_kept, {"RolledBackIsGone", "StatusIsFinal", "OneNameOneTransaction"}),
        (_turned, {"StatusIsFinal"}),
        (_less, {"StatusIsFinal"}),
        (_denied, {"StatusIsFinal"}),
        (_twins, {"OneNameOneTransaction"}),
        (_back, {"OrderIsTime"}),
        (_behind, {"ReadIsFresh"}),
        (_dirty, {"ReadSetIsState"}),
        (_both, {"OneLedger"}),
        (_second_id, {"OncePerKey"}),
    ],
)
def test_a_history_that_no_correct_service_shows_is_refused(change: Callable[[History], None], rules: set[str]) -> None:
    history = good()
    change(history)
    with pytest.raises(HistoryError) as caught:
        check(history, LEDGER)
    assert caught.value.rule in rules


def test_a_request_that_took_effect_twice_is_found() -> None:
    history = good()
    with pytest.raises(HistoryError, match="OncePerKey"):
        check(history, [*LEDGER, Entry(3, 6, {"x": "2"})])


def test_an_effect_of_what_was_refused_is_found() -> None:
    history = good()
    call = history.invoke("c", 11, "n0", writes={"x": "3"}, token="3")
    call.end(Outcome.REFUSED, 12)
    with pytest.raises(HistoryError, match="RefusedIsNothing"):
        check(history, [*LEDGER, Entry(3, 6, {"x": "3"})])


def test_ledgers_are_compared_as_far_as_both_reach() -> None:
    check_ledgers({"n0": [b"a", b"b"], "n1": [b"a"], "n2": []})
    check_ledgers({})
    with pytest.raises(HistoryError, match="OneLedger: entry 2 of n1"):
        check_ledgers({"n0": [b"a", b"b", b"c"], "n1": [b"a", b"x"]})


def test_receipts_must_verify_be_of_what_was_asked_and_of_what_is_committed() -> None:
    def verify(receipt: bytes) -> tuple[int, int]:
        if receipt == b"forged":
            raise ValueError("no")
        view, seqno = receipt.split(b".")
        return int(view), int(seqno)

    history = good()
    history.calls[0].receipt = b"2.2"
    history.receipts.append(((3, 5), b"3.5"))
    check_receipts(history, LEDGER, verify)
    for transaction, receipt, rule in [
        ((2, 2), b"forged", "ReceiptVerifies"),
        ((2, 2), b"2.3", "ReceiptVerifies"),
        ((2, 4), b"2.4", "ReceiptIsOfCommitted"),
    ]:
        with pytest.raises(HistoryError, match=rule):
            check_receipts(History(receipts=[(transaction, receipt)]), LEDGER, verify)
