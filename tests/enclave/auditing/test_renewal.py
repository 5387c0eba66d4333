"""Changes of the ledger's secret, replayed by who has no secret: for whom, and in which words, follows; what is encrypted does not."""

import pytest

from ledgerd.enclave.auditing import findings
from ledgerd.governance import tables
from ledgerd.ledger.entry import WriteSet
from support.auditing import audited
from support.lives import Ledger, Life

REKEY: tuple[str, dict[str, str]] = ("trigger_ledger_rekey", {})


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    life = Life()
    life.begin()
    life.decide("open", ("transition_service_to_open", {"next_service_identity": life.certificate}))
    life.decide("first", REKEY)
    life.decide("second", REKEY, REKEY)
    return life.ledger()


def test_changes_of_the_secret_follow(ledger: Ledger) -> None:
    said = {int(step.transaction_id.seqno): step.text for step in audited(ledger.entries, ledger.certificate)}
    assert said[ledger.places["second"]].endswith("proposed trigger_ledger_rekey, trigger_ledger_rekey: Open")
    assert [len(secret) for _, secret in ledger.keys.ledger_secrets] == [32] * 3


@pytest.mark.parametrize("what", ["stranger", "nobody", "version", "pointer", "words", "no change"])
def test_a_change_for_others_or_without_a_decision_does_not_follow(ledger: Ledger, what: str) -> None:
    place = ledger.places["second, vote of bob"]

    def change(seqno: int, writes: WriteSet) -> WriteSet:
        if seqno != place:
            return writes
        boxes = tables.decode(writes[tables.ENCRYPTED_LEDGER_SECRETS][tables.SINGLETON] or b"")
        before = tables.decode(writes[tables.EARLIER_EPOCH][tables.SINGLETON] or b"")
        if what == "stranger":
            boxes["ab" * 32] = next(iter(boxes.values()))
        elif what == "nobody":
            boxes.clear()
        elif what == "version":
            before["previous_ledger_secret"]["version"] += 1
        elif what == "pointer":
            next(iter(boxes.values()))[0]["previous_secret_stored_version"] = 1
        elif what == "words":
            before["previous_ledger_secret"]["encrypted_data"] = "no base64"
        writes[tables.ENCRYPTED_LEDGER_SECRETS][tables.SINGLETON] = tables.encode(boxes)
        writes[tables.EARLIER_EPOCH][tables.SINGLETON] = tables.encode(before)
        if what == "no change":
            del writes[tables.ENCRYPTED_LEDGER_SECRETS]
        return writes

    error = ledger.refused(change)
    assert (error.transaction_id.seqno, error.rule) == (place, findings.OUTCOME)


def test_a_change_that_nobody_decided_has_no_origin(ledger: Ledger) -> None:
    row = ledger.writes(ledger.places["first, vote of bob"])[tables.ENCRYPTED_LEDGER_SECRETS]
    error = ledger.refused(added={ledger.places["first"]: [{tables.ENCRYPTED_LEDGER_SECRETS: row}]})
    assert error.rule == findings.ORIGIN
