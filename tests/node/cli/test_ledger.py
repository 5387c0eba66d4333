"""`ledgerd ledger` on ledgers of a small service, as chunks and in LMDB."""

import os
import select
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ledgerd.ledger.audit import Auditor
from ledgerd.ledger.chunks import Chunker
from ledgerd.ledger.entry import PublicEntry
from ledgerd.node.storage import Append, Storage
from support.command_line import Ledgerd
from support.ledgers import Service
from support.vectors import vectors


@pytest.fixture(scope="module")
def service() -> Service:
    service = Service()
    service.genesis()
    service.open()
    for i in range(20):
        service.write({"records": {b"key": b"secret"}, "public:notes": {b"%d" % i: b"note"}})
        if i % 5 == 4:
            service.sign()
    service.write({"records": {b"late": b"x"}})
    return service


@pytest.fixture
def certificate(service: Service, tmp_path: Path) -> Path:
    path = tmp_path / "service_cert.pem"
    path.write_text(service.certificate)
    return path


def write_chunks(folder: Path, entries: list[bytes], committed: int, chunk_size: int = 1) -> Path:
    folder.mkdir()
    chunker = Chunker(committed, chunk_size=chunk_size)
    chunks = [chunk for entry in entries for chunk in chunker.add(entry)]
    rest = chunker.finish()
    for chunk in [*chunks, *([rest] if rest else [])]:
        (folder / str(chunk.name)).write_bytes(chunk.data)
    return folder


def write_lmdb(folder: Path, entries: list[bytes], committed: int) -> Path:
    storage = Storage(folder / "ledger")
    storage.committed(committed)
    storage.append(Append(1, 2, None, 1, entries))
    storage.close()
    return folder


def write_killed(folder: Path, entries: list[bytes], committed: int) -> Path:
    """What is left of a node that was killed: half of the entries are in LMDB, the rest is in the journal only."""
    half = len(entries) // 2
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("ledgerd.node.storage.NOTE_SECONDS", 60.0)
        storage = Storage(folder.with_name("running"))
        for first, some, direct_bytes in ((0, entries[:half], 0), (half, entries[half:], 1 << 20)):
            monkeypatch.setattr("ledgerd.node.storage.DIRECT_BYTES", direct_bytes)
            storage.committed(committed)
            storage.append(Append(1, 2, None, first + 1, some))
            while storage.collect().stored is None:
                assert select.select([storage.wake], [], [], 10.0)[0]
        (folder / "ledger").mkdir(parents=True)
        for name in ("data.mdb", "journal"):
            shutil.copy(folder.with_name("running") / name, folder / "ledger" / name)
        storage.close()
    return folder


@pytest.fixture(params=["chunks", "lmdb", "killed"])
def ledger(request: pytest.FixtureRequest, service: Service, tmp_path: Path) -> Path:
    write = {"chunks": write_chunks, "lmdb": write_lmdb, "killed": write_killed}[request.param]
    return write(tmp_path / "node0", service.entries, service.signatures[-1])


def test_a_ledger_verifies_by_its_certificate(ledgerd: Ledgerd, ledger: Path, certificate: Path, service: Service) -> None:
    ran = ledgerd("ledger", "verify", ledger, "--service-cert", certificate, "-o", "json")
    assert ran.status == 0
    found = ran.json
    assert found["verdict"] == "VERIFIED"
    assert found["last_transaction_id"] == f"2.{service.seqno}"
    assert found["last_signed"] == f"2.{service.signatures[-1]}"
    assert found["unsigned"] == 1
    assert found["signatures"] == len(service.signatures)


def test_without_a_certificate_the_verdict_is_unanchored_and_says_what_is_open(ledgerd: Ledgerd, ledger: Path) -> None:
    ran = ledgerd("ledger", "verify", ledger)
    assert (ran.status, ran.fields["verdict"]) == (0, "UNANCHORED")
    assert "UNANCHORED" in ran.err
    assert "--service-cert" in ran.err


def test_another_services_certificate_refuses(ledgerd: Ledgerd, ledger: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_text(Service().certificate)
    ran = ledgerd("ledger", "verify", ledger, "--service-cert", other)
    assert (ran.status, ran.fields["verdict"]) == (1, "REFUSED")


def test_a_changed_entry_is_refused_by_name(ledgerd: Ledgerd, service: Service, certificate: Path, tmp_path: Path) -> None:
    entries = service.entries.copy()
    data = bytearray(entries[9])
    data[data.index(b"note") + 1] ^= 1
    entries[9] = bytes(data)
    for name, write in (("chunks", write_chunks), ("lmdb", write_lmdb)):
        ran = ledgerd("ledger", "verify", write(tmp_path / name, entries, 0), "--service-cert", certificate)
        assert (ran.status, ran.fields["verdict"]) == (1, "REFUSED")
        assert ran.fields["reason"].endswith("the first entry that was changed is 10")


def test_a_lost_entry_in_lmdb_is_refused(ledgerd: Ledgerd, service: Service, certificate: Path, tmp_path: Path) -> None:
    ledger = write_lmdb(tmp_path / "lmdb", [*service.entries[:5], *service.entries[6:]], 0)
    ran = ledgerd("ledger", "verify", ledger, "--service-cert", certificate)
    signed = max(seqno for seqno in service.signatures if seqno <= 5)
    assert (ran.status, ran.fields["good_up_to"]) == (1, f"2.{signed}"), "what follows the last good signature is not proven"


@pytest.mark.parametrize("write", [write_lmdb, write_killed])
def test_export_gives_what_verifies_and_names_committed_what_is(
    ledgerd: Ledgerd, service: Service, certificate: Path, tmp_path: Path, write: Callable[[Path, list[bytes], int], Path]
) -> None:
    committed = service.signatures[-2]
    node = write(tmp_path / "node0", service.entries, committed)
    ran = ledgerd("ledger", "export", node, tmp_path / "out", "--chunk-bytes", 2000, "-o", "json")
    assert ran.status == 0
    files = ran.json["files"]
    assert files == sorted(
        (path.name for path in (tmp_path / "out").iterdir()), key=lambda name: int(name.split("_")[1].split("-")[0].split(".")[0])
    )
    assert any(name.endswith(f"-{committed}.committed") for name in files)
    assert all(int(name.split("_")[1].split("-")[0]) > committed for name in files if not name.endswith(".committed"))
    assert ledgerd("ledger", "verify", tmp_path / "out", "--service-cert", certificate).status == 0
    assert ran.json["committed"] == committed
    assert ran.json["entries"] == service.seqno


def test_export_does_not_mix_ledgers_or_invent_one(ledgerd: Ledgerd, service: Service, tmp_path: Path) -> None:
    node = write_lmdb(tmp_path / "node0", service.entries, 0)
    assert ledgerd("ledger", "export", node, node).status == 2
    assert ledgerd("ledger", "export", tmp_path, tmp_path / "out").status == 2
    chunks = write_chunks(tmp_path / "chunks", service.entries, 0)
    assert ledgerd("ledger", "export", chunks, tmp_path / "out").status == 2


def test_show_lists_entries_and_one(ledgerd: Ledgerd, ledger: Path, service: Service) -> None:
    ran = ledgerd("ledger", "show", ledger, "--from", 3, "--limit", 2, "-o", "json")
    assert [item["transaction_id"] for item in ran.json["items"]] == ["2.3", "2.4"]
    entry = ledgerd("ledger", "show", ledger, "--entry", 4, "-o", "json").json
    assert entry["writes"] == {"public:notes": {"0": "note"}}
    signature = ledgerd("ledger", "show", ledger, "--from", service.signatures[-1], "--limit", 1, "-o", "json")
    assert signature.json["items"][0]["kind"] == "signature"
    assert ledgerd("ledger", "show", ledger, "--entry", 999).status == 2


def test_show_says_whether_there_is_more(ledgerd: Ledgerd, ledger: Path, service: Service) -> None:
    assert "There are more: --from 3" in ledgerd("ledger", "show", ledger, "--limit", 2).err
    assert ledgerd("ledger", "show", ledger, "--limit", 2, "-o", "json").json["more"] is True
    assert ledgerd("ledger", "show", ledger, "--limit", len(service.entries)).err == ""
    assert "no entry 1000 or later" in ledgerd("ledger", "show", ledger, "--from", 1000).err


def test_nothing_of_a_private_map_is_shown(ledgerd: Ledgerd, ledger: Path) -> None:
    shown = ledgerd("ledger", "show", ledger, "-o", "json").out + ledgerd("ledger", "show", ledger, "--entry", 4).out
    assert "records" not in shown
    assert "secret" not in shown


def test_an_empty_ledger_is_not_called_verified(ledgerd: Ledgerd, tmp_path: Path, certificate: Path) -> None:
    node = write_lmdb(tmp_path / "node0", [], 0)
    assert ledgerd("ledger", "verify", node, "--service-cert", certificate).status == 1


def test_a_gap_between_chunk_files_is_refused(ledgerd: Ledgerd, service: Service, certificate: Path, tmp_path: Path) -> None:
    folder = write_chunks(tmp_path / "chunks", service.entries, service.seqno)
    sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)[0].rename(tmp_path / "away")
    assert ledgerd("ledger", "verify", folder, "--service-cert", certificate).status == 1


@pytest.mark.parametrize("name", ["double_sealed_service", "cose_flipflop_service"])
def test_ledgers_that_ccf_wrote_verify(ledgerd: Ledgerd, name: str) -> None:
    folder = vectors("ccf-ledgers", name)
    ran = ledgerd("ledger", "verify", folder / "ledger", "--service-cert", folder / "service_cert.pem")
    assert (ran.status, ran.fields["verdict"]) == (0, "VERIFIED")


@pytest.mark.parametrize("kind", ["pipe", "endless", "dangling", "folder", "loop", "huge"])
@pytest.mark.parametrize("command", [("ledger", "verify"), ("gov", "audit"), ("ledger", "show")])
def test_what_a_stranger_puts_in_a_chunk_s_place_is_refused_and_not_waited_for(
    ledgerd: Ledgerd, tmp_path: Path, command: tuple[str, ...], kind: str
) -> None:
    folder = tmp_path / "chunks"
    folder.mkdir()
    file = folder / "ledger_1"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "endless":
        file.symlink_to("/dev/zero")
    elif kind == "dangling":
        file.symlink_to(tmp_path / "nothing")
    elif kind == "folder":
        file.mkdir()
    elif kind == "loop":
        file.symlink_to(file)
    else:
        with file.open("xb") as stream:
            stream.truncate(9 << 30)  # takes no room on the disk
    ran = ledgerd(*command, folder)
    assert ran.status == 2
    assert str(file) in ran.err or str(tmp_path / "nothing") in ran.err


def test_a_chunk_that_is_cut_short_while_it_is_read_is_a_refusal(ledgerd: Ledgerd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may write the file, a CCF node that rolls back among them, must not end its reader without a verdict."""
    service = Service()
    service.genesis()
    for number in range(10):
        service.write({"public:notes": {b"%d" % number: bytes(40_000)}})
    service.sign()
    folder = write_chunks(tmp_path / "chunks", service.entries, 1)
    file = max(folder.iterdir(), key=lambda path: path.stat().st_size)
    feed = Auditor.feed

    def cut(auditor: Auditor, data: bytes) -> PublicEntry:
        if auditor.last.seqno == 3:
            os.truncate(file, 100)
        return feed(auditor, data)

    monkeypatch.setattr(Auditor, "feed", cut)
    ran = ledgerd("ledger", "verify", folder)
    assert (ran.status, ran.fields["verdict"]) == (1, "REFUSED")
    assert "cut short while it was read" in ran.fields["reason"]


def test_an_empty_chunk_file_is_refused(ledgerd: Ledgerd, tmp_path: Path) -> None:
    folder = tmp_path / "chunks"
    folder.mkdir()
    (folder / "ledger_1").touch()
    assert ledgerd("ledger", "verify", folder).status == 1


@pytest.mark.parametrize("name", ["data.mdb", "journal"])
def test_a_pipe_in_place_of_a_node_s_files_is_not_waited_for(ledgerd: Ledgerd, service: Service, tmp_path: Path, name: str) -> None:
    folder = write_lmdb(tmp_path / "node0", service.entries, 0) / "ledger"
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert ledgerd("ledger", "verify", folder).status == 2


def test_a_damaged_database_is_an_error_of_ours(ledgerd: Ledgerd, service: Service, tmp_path: Path) -> None:
    """A page that says that it is of another kind; LMDB's own check of it."""
    folder = write_lmdb(tmp_path / "node0", service.entries, 0) / "ledger"
    data = bytearray((folder / "data.mdb").read_bytes())
    for page in range(2 * 4096, len(data), 4096):
        data[page + 10] = 0x04  # an overflow page's
    (folder / "data.mdb").write_bytes(data)
    ran = ledgerd("ledger", "verify", folder)
    assert ran.status == 1
    assert "damaged" in ran.err or "cannot read" in ran.err
