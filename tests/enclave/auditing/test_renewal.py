"""New secrets and shares, replayed by who has no secret: for whom they are, and in which words, follows; what is encrypted does not."""

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ledgerd.enclave.auditing import findings
from ledgerd.governance import tables
from ledgerd.ledger.entry import WriteSet
from support.auditing import audited
from support.cluster import make_identity
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


@pytest.fixture(scope="module")
def shared() -> Ledger:
    members = [make_identity(name) for name in ("alice", "bob", "carol")]
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    life = Life(members, encryption_key=pem)
    life.begin()
    life.decide("open", ("transition_service_to_open", {"next_service_identity": life.certificate}))
    life.decide("rekey", REKEY)
    life.decide("refresh", ("trigger_recovery_shares_refresh", {}))
    return life.ledger()


def test_shares_follow(shared: Ledger) -> None:
    audited(shared.entries, shared.certificate)
    for name in ("open", "rekey", "refresh"):
        assert tables.RECOVERY_SHARES in shared.writes(shared.places[f"{name}, vote of bob"])


@pytest.mark.parametrize("name", ["open", "rekey", "refresh"])
@pytest.mark.parametrize("what", ["a stranger", "one fewer", "pointer", "more words", "none"])
def test_shares_for_others_do_not_follow(shared: Ledger, name: str, what: str) -> None:
    place = shared.places[f"{name}, vote of bob"]

    def change(seqno: int, writes: WriteSet) -> WriteSet:
        if seqno == place:
            record = tables.decode(writes[tables.RECOVERY_SHARES][tables.SINGLETON] or b"")
            given = record["encrypted_shares"]
            if what == "a stranger":
                given["ab" * 32] = next(iter(given.values()))
            elif what == "one fewer":
                given.pop(next(iter(given)))
            elif what == "pointer":
                record["previous_secret_stored_version"] = 1
            else:
                record["more"] = {}
            writes[tables.RECOVERY_SHARES][tables.SINGLETON] = tables.encode(record)
            if what == "none":
                del writes[tables.RECOVERY_SHARES]
        return writes

    error = shared.refused(change)
    assert (error.transaction_id.seqno, error.rule) == (place, findings.OUTCOME)


def test_shares_that_nobody_decided_have_no_origin(shared: Ledger) -> None:
    row = shared.writes(shared.places["refresh, vote of bob"])[tables.RECOVERY_SHARES]
    error = shared.refused(added={shared.places["refresh"]: [{tables.RECOVERY_SHARES: row}]})
    assert error.rule == findings.ORIGIN
