"""`ledgerd gov audit`, with real script workers, on the ledger of a small service that three members govern."""

from pathlib import Path

import pytest

from ledgerd.governance import tables
from ledgerd.ledger.chunks import Chunker
from ledgerd.ledger.entry import WriteSet
from support.command_line import Ledgerd
from support.governed import id_of
from support.lives import AGAINST, Ledger, Life


@pytest.fixture(scope="module")
def life() -> Life:
    life = Life()
    life.begin()
    life.decide("open", ("transition_service_to_open", {"next_service_identity": life.certificate}))
    return life


@pytest.fixture(scope="module")
def ledger(life: Life) -> Ledger:
    return life.ledger()


@pytest.fixture
def certificate(life: Life, tmp_path: Path) -> Path:
    path = tmp_path / "service_cert.pem"
    path.write_text(life.certificate)
    return path


def stored(folder: Path, entries: list[bytes]) -> Path:
    folder.mkdir()
    chunker = Chunker(len(entries))
    for chunk in [*(chunk for entry in entries for chunk in chunker.add(entry)), *filter(None, [chunker.finish()])]:
        (folder / str(chunk.name)).write_bytes(chunk.data)
    return folder


def test_governance_that_follows_is_told(ledgerd: Ledgerd, life: Life, ledger: Ledger, certificate: Path, tmp_path: Path) -> None:
    path = stored(tmp_path / "ledger", ledger.entries)
    ran = ledgerd("gov", "audit", path, "--service-cert", certificate, "-o", "json")
    assert (ran.status, ran.json["schema"], ran.json["verdict"]) == (0, "ledgerd.gov_audit.v1", "FOLLOWS")
    assert [ran.json[name] for name in ("proposals", "ballots", "withdrawals", "acks", "other_changes")] == [1, 2, 0, 3, 4]
    last = ran.json["steps"][-1]
    assert (last["kind"], last["state"], last["member_id"]) == ("ballot", "Accepted", id_of(life.members[1]))
    assert last["proposal_id"] == life.identities["open"]
    spoken = ledgerd("gov", "audit", path, "--service-cert", certificate, "--verbose")
    assert spoken.status == 0
    assert f"{last['transaction_id']} {last['text']}" in spoken.err
    assert spoken.fields["verdict"] == "FOLLOWS"


def test_the_first_thing_that_does_not_follow_is_named(
    ledgerd: Ledgerd, life: Life, ledger: Ledger, certificate: Path, tmp_path: Path
) -> None:
    seqno, key = ledger.places["open, vote of alice"], life.identities["open"].encode()

    def flip(at: int, writes: WriteSet) -> WriteSet:
        if at == seqno:
            record = tables.decode(writes[tables.PROPOSALS_INFO][key] or b"")
            writes[tables.PROPOSALS_INFO][key] = tables.encode({**record, "ballots": {id_of(life.members[0]): AGAINST}})
        return writes

    path = stored(tmp_path / "ledger", ledger.rewritten(flip))
    ran = ledgerd("gov", "audit", path, "--service-cert", certificate)
    assert ran.status == 1
    assert (ran.fields["verdict"], ran.fields["entry"], ran.fields["rule"]) == ("REFUSED", f"2.{seqno}", "outcome")
    assert "return true" in ran.fields["expected"]
    assert "return false" in ran.fields["found"]
    assert "by the rules that stood in the ledger then" in ran.fields["reason"]


def test_without_a_certificate_the_verdict_is_unanchored_and_says_what_is_open(ledgerd: Ledgerd, ledger: Ledger, tmp_path: Path) -> None:
    ran = ledgerd("gov", "audit", stored(tmp_path / "ledger", ledger.entries))
    assert (ran.status, ran.fields["verdict"]) == (0, "UNANCHORED")
    assert "--service-cert" in ran.err


def test_a_ledger_whose_bytes_were_changed_is_refused_too(ledgerd: Ledgerd, ledger: Ledger, certificate: Path, tmp_path: Path) -> None:
    entries = ledger.entries.copy()
    entries[3] = entries[3][:8] + bytes([entries[3][8] ^ 1]) + entries[3][9:]
    ran = ledgerd("gov", "audit", stored(tmp_path / "ledger", entries), "--service-cert", certificate)
    assert (ran.status, ran.fields["verdict"]) == (1, "REFUSED")


def test_calls_that_cannot_be_meant_are_misuse(ledgerd: Ledgerd, ledger: Ledger, tmp_path: Path) -> None:
    path = stored(tmp_path / "ledger", ledger.entries)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert ledgerd("gov", "audit", empty).status == 2
    (tmp_path / "no.pem").write_text("no certificate")
    assert ledgerd("gov", "audit", path, "--service-cert", tmp_path / "no.pem").status == 2


def test_where_no_script_can_be_run_nothing_is_said(
    ledgerd: Ledgerd, ledger: Ledger, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stored(tmp_path / "ledger", ledger.entries)
    monkeypatch.setattr("sys.executable", str(tmp_path / "nothing"))
    ran = ledgerd("gov", "audit", path, "--service-cert", certificate, "-o", "json")
    assert (ran.status, ran.json["error"]["code"]) == (1, "ScriptsUnavailable")


def test_a_node_whose_evidence_is_refused_is_named(ledgerd: Ledgerd, ledger: Ledger, certificate: Path, tmp_path: Path) -> None:
    """Its record says that it runs another image: the rest of the ledger follows."""

    def relabelled(at: int, writes: WriteSet) -> WriteSet:
        if at == 1:
            ((key, value),) = writes[tables.NODE_INFO].items()
            writes[tables.NODE_INFO][key] = tables.encode({**tables.decode(value or b""), "code_digest": "00" * 48})
        return writes

    short = ledger.rewritten(relabelled)[: ledger.first(tables.MEMBER_ACKS) - 1]
    ran = ledgerd("gov", "audit", stored(tmp_path / "ledger", short), "--service-cert", certificate)
    assert (ran.status, ran.fields["verdict"]) == (1, "REFUSED")
    assert "recorded in entry 1" in ran.fields["reason"]


def test_who_waits_is_told_where_and_does_not_wait_for_ever(
    ledgerd: Ledgerd, ledger: Ledger, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stored(tmp_path / "ledger", ledger.entries)
    monkeypatch.setattr("ledgerd.node.cli.gov_audit.TOLD_EVERY_SECONDS", 0.0)
    ran = ledgerd("gov", "audit", path, "--service-cert", certificate, "--script-minutes", "0.0000001")
    assert ran.status == 1
    assert f"Running scripts of entry {ledger.places['open']}" in ran.err
    assert "--script-minutes" in ran.err.splitlines()[-1]
    assert ledgerd("gov", "audit", path, "--script-minutes", "0").status == 2
