"""A whole life of governance follows from its ledger; and does not once a service that has all of its keys has rewritten it.

Every ledger here has right hashes and signatures throughout: `support.auditing.refusal` asserts that before it looks at the verdict.
"""

import base64
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest

from ledgerd.enclave.auditing import findings, requesting
from ledgerd.enclave.auditing import replay as replaying
from ledgerd.enclave.auditing.findings import NotFollowingError
from ledgerd.enclave.auditing.replay import Replay
from ledgerd.enclave.scripts.pool import Pool
from ledgerd.governance import requests, tables
from ledgerd.ledger.entry import WriteSet, read_public
from ledgerd.ledger.ids import Seqno, TransactionId, View
from ledgerd.ledger.merkle import Frontier
from ledgerd.ledger.signature import SIGNATURES
from support.auditing import audited
from support.cluster import Identity, make_identity
from support.governed import id_of
from support.ledgers import Service
from support.lives import AGAINST, FOR, Ledger, Life, whole_life
from support.members import SIGNED_AT
from support.rewriting import Change


@pytest.fixture(scope="module")
def lived() -> tuple[Life, Ledger]:
    return whole_life()


@pytest.fixture(scope="module")
def life(lived: tuple[Life, Ledger]) -> Life:
    return lived[0]


@pytest.fixture(scope="module")
def ledger(lived: tuple[Life, Ledger]) -> Ledger:
    return lived[1]


def at(seqno: int, edit: Callable[[WriteSet], WriteSet | None]) -> Change:
    """A change of one entry."""
    return lambda here, writes: edit(writes) if here == seqno else writes


def edited(name: str, proposal_id: str, **fields: Any) -> Callable[[WriteSet], WriteSet]:
    """A change of fields of one record."""

    def edit(writes: WriteSet) -> WriteSet:
        record = tables.decode(writes[name][proposal_id.encode()] or b"")
        writes[name][proposal_id.encode()] = tables.encode({**record, **fields})
        return writes

    return edit


def recorded(envelope: bytes) -> bytes:
    """An envelope as the history of requests has it."""
    return tables.encode(base64.b64encode(envelope).decode())


def signed(who: Identity, kind: str, payload: Any, proposal_id: str | None = None, created_at: int = SIGNED_AT + 500) -> bytes:
    return requests.sign(who.key, who.certificate, kind, tables.encode(payload), created_at=created_at, proposal_id=proposal_id)


def resigned(who: Identity, envelope: bytes, old: Identity) -> Callable[[WriteSet], WriteSet]:
    """Another member's request in place of what stands there."""

    def edit(writes: WriteSet) -> WriteSet:
        writes[tables.COSE_HISTORY].pop(id_of(old).encode())
        writes[tables.COSE_HISTORY][id_of(who).encode()] = recorded(envelope)
        return writes

    return edit


def check(error: NotFollowingError, seqno: int, rule: str) -> NotFollowingError:
    """It is the first thing that does not follow."""
    assert (error.transaction_id.seqno, error.rule) == (seqno, rule), str(error)
    return error


def test_a_whole_life_follows(life: Life, ledger: Ledger) -> None:
    steps = {int(step.transaction_id.seqno): step for step in audited(ledger.entries, life.certificate)}
    for name, seqno in ledger.places.items():
        assert seqno in steps, name
    said = {name: steps[seqno].text for name, seqno in ledger.places.items()}
    alice = id_of(life.members[0])[:16]
    assert said["open"] == f"member {alice}... proposed transition_service_to_open: Open"
    assert said["open, vote of bob"].endswith(": Accepted, 2 for and 0 against")
    assert said["user, vote of alice"].endswith(": Accepted, 2 for and 0 against, 1 ballot failed")
    assert said["rejecting, vote of bob"].endswith(f"dropped: {life.identities['dropped'][:16]}...")
    assert said["rejected, vote of carol"].endswith(": Rejected, 0 for and 2 against")
    assert said["withdrawn, withdrawn"] == f"member {alice}... withdrew {life.identities['withdrawn'][:16]}..."
    kinds = [step.kind for step in steps.values()]
    assert [kinds.count(kind) for kind in ("genesis", "ack", "join", "retired", "withdrawal")] == [1, 3, 1, 1, 1]


# The six ways of the issue.


def test_a_ballot_that_was_flipped(life: Life, ledger: Ledger) -> None:
    seqno, proposal_id = ledger.places["open, vote of alice"], life.identities["open"]
    flip = edited(tables.PROPOSALS_INFO, proposal_id, ballots={id_of(life.members[0]): AGAINST})
    error = check(ledger.refused(at(seqno, flip)), seqno, findings.OUTCOME)
    assert f"ballots.{id_of(life.members[0])[:16]}..." in error.expected
    assert "return true" in error.expected
    assert "return false" in error.found


def test_a_ballot_that_was_flipped_with_its_request(life: Life, ledger: Ledger) -> None:
    """The service signs in the member's name, by a key of its own."""
    seqno, proposal_id, alice = ledger.places["open, vote of alice"], life.identities["open"], life.members[0]
    own = signed(make_identity("forger"), requests.BALLOT, {"ballot": AGAINST}, proposal_id)
    true = signed(alice, requests.BALLOT, {"ballot": AGAINST}, proposal_id)
    forged = true.replace(requests.read(true).message.signature, requests.read(own).message.signature)

    def edit(writes: WriteSet) -> WriteSet:
        writes[tables.COSE_HISTORY] = {id_of(alice).encode(): recorded(forged)}
        return edited(tables.PROPOSALS_INFO, proposal_id, ballots={id_of(alice): AGAINST})(writes)

    check(ledger.refused(at(seqno, edit)), seqno, findings.SIGNATURE)


def test_a_ballot_that_was_removed(life: Life, ledger: Ledger) -> None:
    """The next one stands in its place, and beside it what nobody can have seen who had not the first."""
    seqno = ledger.places["open, vote of alice"]
    gone = ledger.rewritten(at(seqno, lambda _: None))
    error = check(ledger.refused(at(seqno, lambda _: None)), seqno + 1, findings.OUTCOME)
    assert len(gone) == len(ledger.entries) - 1
    assert "proposals_info" in error.expected


def test_a_ballot_that_was_removed_from_the_record_of_its_proposal(life: Life, ledger: Ledger) -> None:
    seqno, bob = ledger.places["open, vote of bob"], life.members[1]
    only = edited(tables.PROPOSALS_INFO, life.identities["open"], ballots={id_of(bob): FOR}, final_votes={id_of(bob): True})
    check(ledger.refused(at(seqno, only)), seqno, findings.OUTCOME)


@pytest.mark.parametrize("observed", [b"1", b"99999", b'"x"', b"null"])
def test_a_decision_by_another_time_than_that_of_a_signature_just_before_it(life: Life, ledger: Ledger, observed: bytes) -> None:
    seqno = ledger.places["open, vote of bob"]

    def edit(writes: WriteSet) -> WriteSet:
        assert tables.OBSERVED_SIGNATURE in writes
        return {**writes, tables.OBSERVED_SIGNATURE: {tables.SINGLETON: observed}}

    check(ledger.refused(at(seqno, edit)), seqno, findings.TIME)


def test_an_action_that_was_changed(life: Life, ledger: Ledger) -> None:
    seqno, proposal_id = ledger.places["user"], life.identities["user"]

    def edit(writes: WriteSet) -> WriteSet:
        value = writes[tables.PROPOSALS][proposal_id.encode()]
        assert value is not None
        writes[tables.PROPOSALS][proposal_id.encode()] = value.replace(b"clerk", b"owner")
        return writes

    error = check(ledger.refused(at(seqno, edit)), seqno, findings.OUTCOME)
    assert "actions" in error.expected


def test_the_effect_of_an_action_that_was_changed(ledger: Ledger) -> None:
    seqno = ledger.places["user, vote of alice"]

    def edit(writes: WriteSet) -> WriteSet:
        ((key, _),) = writes[tables.USER_INFO].items()
        writes[tables.USER_INFO][key] = tables.encode({"user_data": {"role": "owner"}})
        return writes

    error = check(ledger.refused(at(seqno, edit)), seqno, findings.OUTCOME)
    assert '"clerk"' in error.expected
    assert error.found == '"owner"'


def test_a_signature_of_somebody_who_is_no_member(life: Life, ledger: Ledger) -> None:
    seqno, mallory = ledger.places["open, vote of bob"], make_identity("mallory")
    envelope = signed(mallory, requests.BALLOT, {"ballot": FOR}, life.identities["open"])
    error = ledger.refused(at(seqno, resigned(mallory, envelope, life.members[1])))
    check(error, seqno, findings.MEMBER)
    assert "who is none" in error.found


def test_votes_of_another_service(life: Life, ledger: Ledger) -> None:
    """Its members are the same; what they signed there is put in here, their proposal and all of their ballots."""
    twin = Life(life.members)
    twin.begin()
    twin.decide("user", ("set_user", {"cert": make_identity("user").pem}))
    there = twin.ledger()
    seqno = ledger.places["constitution, vote of bob"]
    added = {seqno: [there.writes(there.places[name]) for name in ("user", "user, vote of alice", "user, vote of bob")]}
    check(ledger.refused(added=added), seqno + 1, findings.PROPOSAL_ID)


def test_a_ballot_of_another_service_for_a_proposal_of_this_one(life: Life, ledger: Ledger) -> None:
    seqno, alice = ledger.places["open, vote of alice"], life.members[0]
    envelope = signed(alice, requests.BALLOT, {"ballot": FOR}, "ab" * 32)
    error = check(ledger.refused(at(seqno, resigned(alice, envelope, alice))), seqno, findings.PROPOSAL_ID)
    assert "What a member signed for one proposal was used for another" in error.meaning


def test_an_action_without_its_proposal(ledger: Ledger) -> None:
    seqno = ledger.places["user, vote of alice"]
    applied = ledger.writes(seqno)
    alone = {name: applied[name] for name in (tables.USER_CERTS, tables.USER_INFO)}
    error = check(ledger.refused(added={seqno - 1: [alone]}), seqno, findings.ORIGIN)
    assert "no member proposed it" in error.meaning


# And others.


def test_a_ballot_of_a_member_that_is_not_active() -> None:
    early = Life()
    early.acknowledge(early.members[0])
    early.acknowledge(early.members[1])
    early.propose("open", ("transition_service_to_open", {"next_service_identity": early.certificate}))
    early.vote("open", 0)
    ledger, carol = early.ledger(), early.members[2]
    seqno = ledger.places["open, vote of alice"]
    envelope = signed(carol, requests.BALLOT, {"ballot": FOR}, early.identities["open"])
    error = ledger.refused(at(seqno, resigned(carol, envelope, early.members[0])))
    check(error, seqno, findings.MEMBER)
    assert "who is Accepted" in error.found


def dated(ledger: Ledger, seqno: int, who: Identity, created_at: int) -> Change:
    """The same proposal with another date: its proposer signs it anew, and its name follows as it should."""
    frontier = Frontier()
    for entry in ledger.entries[: seqno - 1]:
        frontier.append(read_public(entry).leaf)
    ((_, payload),) = ledger.writes(seqno)[tables.PROPOSALS].items()
    assert payload is not None
    envelope = requests.sign(who.key, who.certificate, requests.PROPOSAL, payload, created_at=created_at)
    request = requests.read(envelope)
    proposal_id = sha256(frontier.root() + request.digest).hexdigest().encode()

    def edit(writes: WriteSet) -> WriteSet:
        for name in (tables.PROPOSALS, tables.PROPOSALS_INFO):
            (old,) = [key for key, value in writes[name].items() if value is not None]
            writes[name][proposal_id] = writes[name].pop(old)
        recent = writes[tables.COSE_RECENT_PROPOSALS]
        (old,) = [key for key, value in recent.items() if value is not None]
        del recent[old]
        recent[request.replay_key.encode()] = tables.encode(proposal_id.decode())
        writes[tables.COSE_HISTORY] = {id_of(who).encode(): recorded(envelope)}
        return writes

    return at(seqno, edit)


def test_a_proposal_that_is_older_than_the_window_allows() -> None:
    small = Life()
    small.begin()
    small.decide("window", ("set_service_configuration", {"recent_cose_proposals_window_size": 2}))
    for number in range(3):
        small.propose(f"later {number}", ("trigger_ledger_chunk", {}))
    ledger = small.ledger()
    seqno, alice = ledger.places["later 2"], small.members[0]
    error = check(ledger.refused(dated(ledger, seqno, alice, SIGNED_AT - 1000)), seqno, findings.REQUEST)
    assert "ProposalCreatedTooLongAgo" in error.expected


def test_a_proposal_of_the_future(life: Life, ledger: Ledger) -> None:
    seqno, alice = ledger.places["constitution"], life.members[0]
    check(ledger.refused(dated(ledger, seqno, alice, 9_999_999_999)), seqno, findings.CREATED_AT)


def test_a_proposal_with_another_date_follows_by_itself(life: Life, ledger: Ledger) -> None:
    """So what is refused above is the date, and nothing else; here it is the ballots, whose proposal has another name."""
    seqno, alice = ledger.places["constitution"], life.members[0]
    error = check(ledger.refused(dated(ledger, seqno, alice, life.created_at + 5)), seqno + 2, findings.REQUEST)
    assert "ProposalNotFound" in error.expected


def test_a_proposal_whose_name_does_not_follow(life: Life, ledger: Ledger) -> None:
    seqno, proposal_id = ledger.places["user"], life.identities["user"].encode()

    def edit(writes: WriteSet) -> WriteSet:
        for name in (tables.PROPOSALS, tables.PROPOSALS_INFO):
            writes[name] = {b"ab" * 32: writes[name].pop(proposal_id)}
        return writes

    check(ledger.refused(at(seqno, edit)), seqno, findings.PROPOSAL_ID)


@pytest.mark.parametrize("name", ["CONSTITUTION", "PROPOSAL_POLICY", "SETTINGS", "PROPOSALS_INFO", "COSE_RECENT_PROPOSALS"])
def test_rules_that_were_changed_without_a_proposal(ledger: Ledger, name: str) -> None:
    seqno = ledger.places["user"]
    row: WriteSet = {getattr(tables, name): {tables.SINGLETON: b"\"export function resolve() { return 'Accepted'; }\""}}
    check(ledger.refused(added={seqno - 1: [row]}), seqno, findings.ORIGIN)


def test_a_member_that_is_active_without_having_signed(life: Life, ledger: Ledger) -> None:
    seqno = ledger.places["ack 0"]

    def edit(writes: WriteSet) -> WriteSet:
        return {tables.MEMBER_INFO: writes[tables.MEMBER_INFO]}

    check(ledger.refused(at(seqno, edit)), seqno, findings.ORIGIN)
    alice = life.members[0]
    other = signed(alice, requests.ACK, {"stateDigest": "ab" * 32})
    error = check(ledger.refused(at(seqno, resigned(alice, other, alice))), seqno, findings.REQUEST)
    assert "StateDigestMismatch" in error.expected


def test_a_state_digest_that_is_none(life: Life, ledger: Ledger) -> None:
    seqno = ledger.first(tables.MEMBER_ACKS)
    key, record = ledger.row(seqno, tables.MEMBER_ACKS)

    def edit(writes: WriteSet) -> WriteSet:
        writes[tables.MEMBER_ACKS][key] = tables.encode({**record, "state_digest": "ab" * 32})
        return writes

    check(ledger.refused(at(seqno, edit)), seqno, findings.ORIGIN)


def test_votes_that_were_counted_otherwise(life: Life, ledger: Ledger) -> None:
    seqno, proposal_id = ledger.places["rejected, vote of carol"], life.identities["rejected"]
    votes = {id_of(life.members[0]): True, id_of(life.members[2]): True}
    error = check(ledger.refused(at(seqno, edited(tables.PROPOSALS_INFO, proposal_id, final_votes=votes))), seqno, findings.OUTCOME)
    assert (error.expected[-5:], error.found) == ("false", "true")
    accepted = edited(tables.PROPOSALS_INFO, proposal_id, state=tables.ACCEPTED)
    error = check(ledger.refused(at(seqno, accepted)), seqno, findings.OUTCOME)
    assert (error.expected[-10:], error.found) == ('"Rejected"', '"Accepted"')


def test_a_dropped_proposal_that_was_accepted(life: Life, ledger: Ledger) -> None:
    seqno, proposal_id, bob = ledger.places["rejecting, vote of bob"], life.identities["dropped"], life.members[1]
    vote = signed(bob, requests.BALLOT, {"ballot": FOR}, proposal_id)
    info = {
        "proposer_id": id_of(life.members[0]),
        "state": tables.ACCEPTED,
        "ballots": {id_of(life.members[0]): FOR, id_of(bob): FOR},
        "final_votes": {id_of(life.members[0]): True, id_of(bob): True},
    }
    row: WriteSet = {
        tables.COSE_HISTORY: {id_of(bob).encode(): recorded(vote)},
        tables.PROPOSALS_INFO: {proposal_id.encode(): tables.encode(info)},
        tables.USER_CERTS: {b"ab" * 32: None},
    }
    error = check(ledger.refused(added={seqno: [row]}), seqno + 1, findings.REQUEST)
    assert "ProposalNotFound" in error.expected


def test_a_proposal_that_was_taken_back_by_another_member(life: Life, ledger: Ledger) -> None:
    seqno, bob = ledger.places["withdrawn, withdrawn"], life.members[1]
    envelope = signed(bob, requests.WITHDRAWAL, "", life.identities["withdrawn"])
    error = check(ledger.refused(at(seqno, resigned(bob, envelope, life.members[0]))), seqno, findings.REQUEST)
    assert "AuthorizationFailed" in error.expected


def test_certificates_that_say_more_than_was_asked_for(life: Life, ledger: Ledger) -> None:
    seqno = ledger.places["certificates, vote of bob"]
    earlier = ledger.writes(1)[tables.NODE_ENDORSED_CERTIFICATES]

    def longer(writes: WriteSet) -> WriteSet:
        writes[tables.NODE_ENDORSED_CERTIFICATES].update(earlier)
        return writes

    error = check(ledger.refused(at(seqno, longer)), seqno, findings.CERTIFICATE)
    assert "a certificate with begin" in error.expected or "a certificate with end" in error.expected


def test_the_service_s_certificate_is_of_its_key(life: Life, ledger: Ledger) -> None:
    seqno = ledger.places["service certificate, vote of bob"]
    key, service = ledger.row(seqno, tables.SERVICE_INFO)
    before = ledger.row(ledger.places["open, vote of bob"], tables.SERVICE_INFO)[1]["cert"]

    def same(writes: WriteSet) -> WriteSet:
        writes[tables.SERVICE_INFO][key] = tables.encode({**service, "cert": before})
        return writes

    check(ledger.refused(at(seqno, same)), seqno, findings.CERTIFICATE)


# Scripts that take about as long as they may.


def without_alice(life: Life, ledger: Ledger) -> list[bytes]:
    """The ledger up to where the service says that a ballot ran out of its time: one vote is left then, which decides nothing."""
    seqno, key = ledger.places["open, vote of bob"], life.identities["open"].encode()

    def edit(writes: WriteSet) -> WriteSet:
        record = tables.decode(writes[tables.PROPOSALS_INFO][key] or b"")
        undecided = {name: value for name, value in record.items() if name not in ("final_votes", "vote_failures")}
        kept: WriteSet = {name: writes[name] for name in (tables.COSE_HISTORY, tables.OBSERVED_SIGNATURE) if name in writes}
        return {**kept, tables.PROPOSALS_INFO: {key: tables.encode({**undecided, "state": "Open"})}}

    entries = ledger.rewritten(at(seqno, edit))
    end = next(number for number, entry in enumerate(entries) if number >= seqno and SIGNATURES in read_public(entry).writes)
    return entries[: end + 1]


def took(seconds: float) -> property:
    """For `Pool.took`: scripts take so long, whatever they do."""
    return property(lambda pool: seconds, lambda pool, value: None)


def test_a_script_that_takes_long_here_may_have_been_late_there(life: Life, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a member could make an honest service's ledger refused, by a ballot that takes about as long as one may."""
    monkeypatch.setattr(Pool, "took", took(0.4), raising=False)
    last = audited(without_alice(life, ledger), life.certificate)[-1]
    assert last.text.endswith("ran out of time is the service's word: here it took long, and ended")


def test_a_script_that_is_quick_here_was_in_time_there(life: Life, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pool, "took", took(0.2), raising=False)
    with pytest.raises(NotFollowingError) as caught:
        audited(without_alice(life, ledger), life.certificate)
    assert caught.value.rule == findings.OUTCOME


def test_scripts_that_take_for_ever_all_together_end_the_audit(ledger: Ledger, life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pool, "took", took(9.0), raising=False)
    monkeypatch.setattr(requesting, "SCRIPT_SECONDS_MAX", 20.0)
    with pytest.raises(requesting.ScriptsTooSlowError, match="--script-minutes"):
        audited(ledger.entries, life.certificate)


def test_signatures_that_all_say_one_second_are_not_kept_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts of an entry may have seen any of the last minute's; a ledger may have gigabytes of them in one."""
    monkeypatch.setattr(replaying, "OBSERVED_BYTES_MAX", 20_000)
    made = Service()
    made.genesis()
    replay = Replay()
    for number in range(100):
        made.sign()
        replay._signature(TransactionId(View(2), Seqno(number + 1)), read_public(made.entries[-1]).writes)
    assert 0 < len(replay._signatures) < 40
