"""CCF's own package, which we did not write, verifies our ledger and our receipts, and refuses changed ones.

The last transaction id and the number of signatures that it must report are stated here, so that an oracle which verifies nothing
fails the test.
"""

import copy
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledgerd.ledger import chunks, signature
from ledgerd.ledger.entry import read_public
from ledgerd.ledger.receipt import Leaf, build_cose, build_json
from support.ccf_oracle import Oracle
from support.entry_fields import fields_of_chunk
from support.ledgers import CURVES, Service
from support.oracles import made_oracle

CLAIMS = b"\xcc" * 32
TRANSACTIONS = 48
SIGNATURES = 6
LAST = "2.48"


@pytest.fixture(scope="module", params=[6, 7])
def oracle(request: pytest.FixtureRequest) -> Iterator[Oracle]:
    with made_oracle(request.param) as made:
        yield made


@pytest.fixture(scope="module", params=CURVES)
def service(request: pytest.FixtureRequest) -> Service:
    made = Service(curve=request.param)
    made.genesis()
    made.open()
    for number in range(40):
        key = b"key %d" % (number % 7)
        if number % 10 == 9:
            made.sign()
        made.write({"records": {key: b"private"}, "public:records": {key: b"value %d" % number, b"gone": None}}, CLAIMS)
    made.sign()
    return made


def export(service: Service, folder: Path) -> list[Path]:
    """Write chunk files of at least 4 KB, the last one open."""
    chunker = chunks.Chunker(service.seqno, chunk_size=4000)
    made = [chunk for entry in service.entries for chunk in chunker.add(entry)]
    if last := chunker.finish():
        made.append(last)
    assert len(made) >= 4
    files = [folder / str(chunk.name) for chunk in made]
    for file, chunk in zip(files, made, strict=True):
        file.write_bytes(chunk.data)
    return files


def test_the_ledger_verifies(oracle: Oracle, service: Service, tmp_path: Path) -> None:
    export(service, tmp_path)
    answer = oracle.ledger(tmp_path)
    assert answer == {"ok": True, "error": None, "transactions": TRANSACTIONS, "signatures": SIGNATURES, "last": LAST}


def test_a_ledger_with_a_flipped_bit_before_the_last_signature_does_not(oracle: Oracle, service: Service, tmp_path: Path) -> None:
    """One flip in every kind of field of an entry. (What CCF's reader skips in a file, its table of offsets, is our auditor's to check.)"""
    files = export(service, tmp_path)
    choose = random.Random(7)
    places = [
        (file, field)
        for file in files
        for seqno, field in fields_of_chunk(file.read_bytes())
        if 0 < seqno < service.seqno and field.end > field.start
    ]
    for kind in sorted({field.kind for _, field in places}):
        file, field = choose.choice([place for place in places if place[1].kind == kind])
        genuine = file.read_bytes()
        changed = bytearray(genuine)
        changed[choose.randrange(field.start, field.end)] ^= 1 << choose.randrange(8)
        file.write_bytes(changed)
        answer = oracle.ledger(tmp_path)
        assert not answer["ok"], f"{kind} of {file.name}"
        file.write_bytes(genuine)
    assert oracle.ledger(tmp_path)["ok"]


def test_a_ledger_without_a_chunk_does_not(oracle: Oracle, service: Service, tmp_path: Path) -> None:
    files = export(service, tmp_path)
    shutil.move(files[1], tmp_path / "ledger.ignored")
    assert not oracle.ledger(tmp_path)["ok"]


def parts(service: Service, seqno: int) -> tuple[signature.Signature, Leaf]:
    found = signature.parse(read_public(service.entries[-1]).writes)
    entry = read_public(service.entries[seqno - 1])
    assert found is not None
    assert entry.claims_digest is not None
    return found, Leaf(entry.write_set_digest, service.sealer.commit_evidence(2, seqno), entry.claims_digest)


@pytest.mark.parametrize("seqno", [1, 4, 17, 46])
def test_a_json_receipt_verifies_and_a_changed_one_does_not(oracle: Oracle, service: Service, seqno: int) -> None:
    found, leaf = parts(service, seqno)
    assert found.raw is not None
    receipt = build_json(found.raw, leaf, service.span(service.seqno).path(seqno))
    assert oracle.receipt(receipt, service.certificate) == {"ok": True, "error": None}
    for other in changed(receipt):
        assert not oracle.receipt(other, service.certificate)["ok"], other
    assert not oracle.receipt(receipt, Service(curve=service.key.curve.name).certificate)["ok"]


def changed(receipt: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the receipt with each field that CCF's verifier reads changed in one digit."""
    for name in receipt["leaf_components"]:
        other = copy.deepcopy(receipt)
        other["leaf_components"][name] = flip(receipt["leaf_components"][name])
        yield other
    for at, step in enumerate(receipt["proof"]):
        (side, digest), other = next(iter(step.items())), copy.deepcopy(receipt)
        other["proof"][at] = {side: flip(digest)}
        yield other
        other = copy.deepcopy(receipt)
        other["proof"][at] = {"left" if side == "right" else "right": digest}
        yield other
    for name in ("signature", "cert"):
        value, other = receipt[name], copy.deepcopy(receipt)
        middle = len(value) // 2
        other[name] = value[:middle] + flip(value[middle:])
        yield other


def flip(text: str) -> str:
    return ("1" if text[0] != "1" else "2") + text[1:]


@pytest.mark.parametrize("seqno", [1, 4, 17, 46])
def test_a_cose_receipt_verifies_and_a_changed_one_does_not(oracle: Oracle, service: Service, seqno: int) -> None:
    found, leaf = parts(service, seqno)
    assert found.cose is not None
    receipt = build_cose(found.cose, leaf, service.span(service.seqno).path(seqno))
    assert oracle.cose_receipt(receipt, service.certificate, leaf.claims_digest) == {"ok": True, "error": None}
    assert not oracle.cose_receipt(receipt, service.certificate, b"\xdd" * 32)["ok"]
    for at in range(0, len(receipt), 11):
        other = bytearray(receipt)
        other[at] ^= 1
        assert not oracle.cose_receipt(bytes(other), service.certificate, leaf.claims_digest)["ok"], at
