"""CCF's own package, which we did not write, verifies what a running service of each curve wrote and answered, and refuses it once changed.

The service has lost its primary, so its ledger has two views. It is exported by the command line while its nodes run. What the oracle must
report is stated from the answers of the service and the entries on its disks; an oracle that verifies nothing would fail.
"""

import base64
import copy
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledgerd.ledger.entry import read_public
from ledgerd.ledger.errors import FormatError, IntegrityError
from ledgerd.ledger.receipt import load_certificate, public_key, verify_json
from support.ccf_oracle import Oracle
from support.entry_fields import fields_of_chunk
from support.https import Answer, Request
from support.oracles import made_oracle
from support.processes import PATIENT_MS, Service

SIGNATURES = "public:ccf.internal.signatures"
WRITES = 24  # in each view
ZERO_CLAIMS = bytes(32)
CHUNK_BYTES = 8000
RANDOM_FLIPS = 20


@pytest.fixture(scope="module", params=[6, 7])
def oracle(request: pytest.FixtureRequest) -> Iterator[Oracle]:
    with made_oracle(request.param) as made:
        yield made


class Answered:
    """A running service, and what it said about its writes."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.receipts: dict[str, bytes] = {}  # COSE, from the header, by transaction
        self._write("before")
        dead = service.primary()
        dead.kill_host()
        dead.process.wait()
        self._write("after")
        self.committed = service.settle()
        with service.primary().session() as client:
            self.last = client.ask("GET", "/app/commit").json()["transaction_id"]

    def _write(self, when: str) -> None:
        with self.service.primary().session() as client:
            for number in range(WRITES):
                place = ("records", "public/records")[number % 2]
                headers = {"prefer": "receipt", "idempotency-key": f"{when}-{number}"} if number % 3 else {}
                answer = client.ask_all([Request("PUT", f"/app/{place}/key{number % 5}", b"value %d" % number, headers)])[0]
                assert answer.status == 204
                if headers:
                    self.receipts[answer.transaction_id] = base64.b64decode(answer.headers["x-ledgerd-receipt"])

    def get(self, path: str, transaction_id: str) -> Answer:
        """Ask a backup, which has to read the entry back from its disk."""
        with self.service.backups()[0].session() as client:
            answer = client.ask("GET", f"/app/{path}?transaction_id={transaction_id}")
        assert answer.status == 200
        return answer

    @property
    def certificate(self) -> str:
        return self.service.certificate.read_text()

    def some(self) -> list[str]:
        """Some transactions: the first ever, which nobody has a header of, and of every view the first and the last."""
        views: dict[int, list[str]] = {}  # two at least; which the second is depends on how many elections it took
        for name in self.receipts:
            views.setdefault(int(name.split(".")[0]), []).append(name)
        assert len(views) >= 2
        return ["2.1", *dict.fromkeys(names[at] for names in views.values() for at in (0, -1))]


@pytest.fixture(scope="module", params=["secp256r1", "secp384r1"])
def answered(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Answered]:
    with Service(tmp_path_factory.mktemp("oracle"), curve=request.param, election_ms=PATIENT_MS) as service:
        assert public_key(load_certificate(service.certificate.read_bytes())).curve.name == request.param
        yield Answered(service)


def ledgerd(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    command = [sys.executable, "-c", "from ledgerd.node.cli.main import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture
def exported(answered: Answered, tmp_path: Path) -> list[Path]:
    """Chunk files of a survivor's ledger, its nodes running."""
    folder = tmp_path / "exported"
    done = ledgerd("ledger", "export", answered.service.alive()[0].directory, folder, "--chunk-bytes", str(CHUNK_BYTES))
    assert done.returncode == 0, done.stderr
    files = sorted(folder.iterdir(), key=lambda path: int(path.name.split("_")[1].split("-")[0].split(".")[0]))
    assert len(files) >= 3
    return files


def test_the_exported_ledger_verifies(oracle: Oracle, answered: Answered, exported: list[Path]) -> None:
    signatures = sum(SIGNATURES in read_public(data).writes for data in answered.service.alive()[0].entries())
    assert signatures > 2 * WRITES // 2
    assert oracle.ledger(exported[0].parent) == {
        "ok": True,
        "error": None,
        "transactions": answered.committed,
        "signatures": signatures,
        "last": answered.last,
    }


def test_a_flipped_bit_before_the_last_signature_is_refused(oracle: Oracle, answered: Answered, exported: list[Path]) -> None:
    """Once in every kind of field, and at random. (The table of offsets, which CCF's reader skips, is our own auditor's to check.)"""
    choose = random.Random(11)
    places = [
        (file, field)
        for file in exported
        for seqno, field in fields_of_chunk(file.read_bytes())
        if 0 < seqno < answered.committed and field.end > field.start
    ]
    chosen = [choose.choice([place for place in places if place[1].kind == kind]) for kind in sorted({field.kind for _, field in places})]
    chosen += choose.choices(places, weights=[field.end - field.start for _, field in places], k=RANDOM_FLIPS)
    for file, field in chosen:
        genuine = file.read_bytes()
        changed = bytearray(genuine)
        changed[choose.randrange(field.start, field.end)] ^= 1 << choose.randrange(8)
        file.write_bytes(changed)
        assert not oracle.ledger(file.parent)["ok"], f"{field} of {file.name}"
        file.write_bytes(genuine)
    assert oracle.ledger(exported[0].parent)["ok"]


def test_our_own_auditor_agrees(answered: Answered, exported: list[Path]) -> None:
    options = ("--service-cert", answered.service.certificate, "-o", "json")
    for path in (exported[0].parent, *(node.directory for node in answered.service.nodes)):
        done = ledgerd("ledger", "verify", path, *options)
        assert done.returncode == 0, done.stderr
    changed = bytearray(exported[0].read_bytes())
    changed[500] ^= 1
    exported[0].write_bytes(changed)
    assert ledgerd("ledger", "verify", exported[0].parent, *options).returncode == 1


def test_json_receipts_verify_and_changed_ones_do_not(oracle: Oracle, answered: Answered) -> None:
    for transaction_id in answered.some():
        receipt = answered.get("receipt", transaction_id).json()
        assert receipt["leaf_components"]["commit_evidence"].startswith(f"ce:{transaction_id}:")
        assert oracle.receipt(receipt, answered.certificate) == {"ok": True, "error": None}
        for path, other in changes(receipt):
            if path[0] not in ("node_id", "is_signature_transaction"):  # CCF's verifier reads neither
                assert not oracle.receipt(other, answered.certificate)["ok"], path
            with pytest.raises((IntegrityError, FormatError)):
                verify_json(other, answered.certificate)


def changes(receipt: dict[str, Any]) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Yield the receipt with one field changed, and which one: a character of a text, the side of a step, a truth."""
    for path in leaves(receipt):
        other = copy.deepcopy(receipt)
        at = other
        for step in path[:-1]:
            at = at[step]
        value = at[path[-1]]
        if isinstance(value, bool):
            at[path[-1]] = not value
        else:
            middle = len(value) // 2
            at[path[-1]] = value[:middle] + ("1" if value[middle] != "1" else "2") + value[middle + 1 :]
        yield path, other
    for number, step in enumerate(receipt["proof"]):
        ((side, digest),) = step.items()
        other = copy.deepcopy(receipt)
        other["proof"][number] = {"left" if side == "right" else "right": digest}
        yield ("proof", number), other


def leaves(value: Any, *path: Any) -> Iterator[tuple[Any, ...]]:
    """Paths to everything that is neither an object nor a list."""
    if isinstance(value, dict):
        for name in value:
            yield from leaves(value[name], *path, name)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from leaves(item, *path, number)
    else:
        yield path


def test_cose_receipts_verify_and_changed_ones_do_not(oracle: Oracle, answered: Answered) -> None:
    for transaction_id in answered.some():
        receipts = [answered.get("receipt/cose", transaction_id).body]
        if transaction_id in answered.receipts:
            receipts.append(answered.receipts[transaction_id])
        for receipt in receipts:
            assert f"ce:{transaction_id}:".encode() in receipt
            assert oracle.cose_receipt(receipt, answered.certificate, ZERO_CLAIMS) == {"ok": True, "error": None}
            assert not oracle.cose_receipt(receipt, answered.certificate, b"\x01" * 32)["ok"]
            for at in range(0, len(receipt), 7):
                other = bytearray(receipt)
                other[at] ^= 1
                assert not oracle.cose_receipt(bytes(other), answered.certificate, ZERO_CLAIMS)["ok"], at


def test_every_receipt_of_a_header_verifies(oracle: Oracle, answered: Answered) -> None:
    assert len(answered.receipts) == 2 * WRITES * 2 // 3
    for transaction_id, receipt in answered.receipts.items():
        assert oracle.cose_receipt(receipt, answered.certificate, ZERO_CLAIMS)["ok"], transaction_id
