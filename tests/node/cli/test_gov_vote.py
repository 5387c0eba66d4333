"""`ledgerd gov vote`, `withdraw` and `ack` in one step: what is signed, and what is told of it."""

import json
from pathlib import Path

import pytest

from ledgerd.governance import requests
from support.command_line import Ledgerd
from support.council import Council
from support.fake_service import FakeService
from support.governed import ALICE, BOB, CAROL, id_of
from support.members import files

TEXT = b'{"actions": [{"name": "trigger_ledger_chunk"}]}'


def test_members_vote_until_it_is_accepted(ledgerd: Ledgerd, council: Council, options: list[object], tmp_path: Path) -> None:
    proposal = council.put_proposal(TEXT)
    ran = ledgerd("gov", "vote", proposal, "--for", *files(ALICE, tmp_path), *options)
    assert ran.status == 0
    assert {name: ran.fields[name] for name in ("proposal_id", "state", "ballots", "active_members", "vote", "member_id")} == {
        "proposal_id": proposal,
        "state": "Open",
        "ballots": "1",
        "active_members": "2",
        "vote": "for",
        "member_id": id_of(ALICE),
    }
    assert "1 of 2 active members has voted" in ran.err
    assert f"ledgerd gov vote {proposal} --for" in ran.err
    ran = ledgerd("gov", "vote", proposal, "--for", "-o", "json", *files(BOB, tmp_path), *options)
    assert (ran.json["schema"], ran.json["state"], ran.json["ballots"]) == ("ledgerd.gov_vote.v1", "Accepted", 2)
    assert ran.json["final_votes"] == {id_of(ALICE): True, id_of(BOB): True}
    assert "Accepted: what it proposes is done." in ran.err
    assert [(signed.kind, signed.proposal_id) for signed in council.seen] == [(requests.BALLOT, proposal)] * 2


@pytest.mark.parametrize(("word", "says"), [("--for", "true"), ("--against", "false")])
def test_a_ballot_is_a_script_that_says_so(
    ledgerd: Ledgerd, council: Council, options: list[object], tmp_path: Path, word: str, says: str
) -> None:
    proposal = council.put_proposal(TEXT)
    assert ledgerd("gov", "vote", proposal[:8], word, *files(BOB, tmp_path), *options).status == 0
    assert json.loads(council.seen[0].payload) == {"ballot": f"export function vote(rawProposal, proposerId) {{ return {says}; }}"}


def test_a_ballot_may_be_any_script(ledgerd: Ledgerd, council: Council, options: list[object], tmp_path: Path) -> None:
    proposal = council.put_proposal(TEXT)
    script = tmp_path / "ballot.js"
    script.write_text("export function vote(raw, proposer) { return JSON.parse(raw).actions.length < 2; } // ü\n", "utf-8")
    ran = ledgerd("gov", "vote", proposal, "--script", script, *files(BOB, tmp_path), *options)
    assert (ran.status, ran.fields["vote"]) == (0, "script")
    assert json.loads(council.seen[0].payload) == {"ballot": script.read_text("utf-8")}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "how do you vote?"),
        (["--for", "--script", "SCRIPT"], "how do you vote?"),
        (["--script", "EMPTY"], "has no function vote"),
        (["--script", "BINARY"], "is not UTF-8"),
    ],
)
def test_a_wrong_call_is_told_before_anything_is_asked(
    ledgerd: Ledgerd, service: FakeService, options: list[object], tmp_path: Path, words: list[str], told: str
) -> None:
    for name, data in {"SCRIPT": b"export function vote() {}", "EMPTY": b"", "BINARY": b"vote\xff"}.items():
        (tmp_path / name).write_bytes(data)
    given = [tmp_path / word if word.isupper() else word for word in words]
    ran = ledgerd("gov", "vote", "ab" * 32, *given, *files(BOB, tmp_path), *options)
    assert (ran.status, ran.out, told in ran.err) == (2, "", True), ran.err
    for name in ("ab", "xy" * 32, "AB" * 32, "../../x"):
        ran = ledgerd("gov", "vote", name, "--for", *files(BOB, tmp_path), *options)
        assert (ran.status, "is no proposal's name" in ran.err) == (2, True)
    assert service.nodes[0].requests == []


def test_a_name_that_fits_none_or_two_is_told(ledgerd: Ledgerd, council: Council, options: list[object], tmp_path: Path) -> None:
    ran = ledgerd("gov", "vote", "0" * 8, "--for", "-o", "json", *files(BOB, tmp_path), *options)
    assert (ran.status, ran.json["error"]["code"]) == (1, "NoSuchProposal")
    ran = ledgerd("gov", "vote", "0" * 64, "--for", *files(BOB, tmp_path), *options)
    assert (ran.status, "404 ProposalNotFound" in ran.err) == (1, True)
    assert council.seen == []


def test_on_what_is_decided_nothing_is_signed(ledgerd: Ledgerd, council: Council, options: list[object], tmp_path: Path) -> None:
    proposal = council.put_proposal(TEXT, "Accepted")
    ran = ledgerd("gov", "vote", proposal, "--for", "-o", "json", *files(BOB, tmp_path), *options)
    assert (ran.status, ran.json["error"]["code"]) == (1, "NotOpen")
    assert council.seen == []


def test_who_is_not_active_is_told(ledgerd: Ledgerd, council: Council, options: list[object], tmp_path: Path) -> None:
    proposal = council.put_proposal(TEXT)
    ran = ledgerd("gov", "vote", proposal, "--for", *files(CAROL, tmp_path), *options)
    assert (ran.status, "Signer is not an active member" in ran.err) == (1, True)
    assert "ledgerd gov ack" in ran.err


def test_another_ballot_of_the_same_member_is_told(ledgerd: Ledgerd, council: Council, options: list[object], tmp_path: Path) -> None:
    proposal = council.put_proposal(TEXT)
    signing = files(BOB, tmp_path)
    for _ in range(2):
        assert ledgerd("gov", "vote", proposal, "--against", *signing, *options).status == 0
    ran = ledgerd("gov", "vote", proposal, "--for", *signing, *options)
    assert (ran.status, "VoteAlreadyExists" in ran.err) == (1, True)


def test_who_can_do_something_is_told_when_all_have_voted(
    ledgerd: Ledgerd, council: Council, options: list[object], tmp_path: Path
) -> None:
    proposal = council.put_proposal(TEXT)
    assert "Others vote with" in ledgerd("gov", "vote", proposal, "--for", *files(ALICE, tmp_path), *options).err
    ran = ledgerd("gov", "vote", proposal, "--against", *files(BOB, tmp_path), *options)
    assert (ran.fields["state"], "Others vote with" in ran.err) == ("Open", False)
    assert f"ledgerd gov withdraw {proposal}" in ran.err
