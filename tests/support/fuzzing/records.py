"""What is kept and handed on: entries, chunks, trees, signatures, receipts, whole ledgers; CBOR and COSE below them."""

import json
import math
from typing import Any, Final

import cbor2

from ledgerd.enclave.ranges import check_range
from ledgerd.ledger import cbor, chunks, cose, entry, merkle, receipt, signature
from ledgerd.ledger.audit import Auditor
from ledgerd.ledger.chunks import ChunkName
from ledgerd.ledger.errors import FormatError, HostError, IntegrityError, UsageError
from ledgerd.ledger.ids import Seqno, View, parse_transaction_id
from support.fuzzing.laws import Bound, BrokenLaw, Maker, Target
from support.ledgers import Service

_REFUSED: Final = (FormatError, IntegrityError)
_CBOR_BOMBS: Final = [
    b"\x81" * 100_000,
    b"\x9f" * 100_000,
    b"\xa1\x00" * 50_000,
    b"\xd8\x63" * 50_000,
    b"\x9b\x00\x00\x00\x00\x7f\xff\xff\xff",
    b"\xbb\x00\x00\x00\x00\x7f\xff\xff\xff",
    b"\x5b\x00\x00\x00\x00\x7f\xff\xff\xff",
    b"\x9a\x00\x0f\xff\xff" + b"\xf6" * 0xFFFFF,
    (b"\x9a\x00\x00\xff\xff") * 1_000,
    b"\x5f" + b"\x41a" * 100_000 + b"\xff",
    b"\xc2\x59\xff\xff" + b"\xff" * 0xFFFF,
    b"\xd8\x1c\x81\xd8\x1d\x00",
]


def _service() -> Service:
    """A ledger of some entries of every kind."""
    service = Service()
    service.genesis()
    service.open()
    for number in range(5):
        service.write({"records": {b"key": b"%d" % number}, "public:log": {b"\x00\x01": b"text", b"gone": None}}, b"\xcc" * 32)
    service.sign()
    service.write({"public:a": {b"k%d" % number: b"v" * number for number in range(12)}})
    service.write({"records": {b"large": b"x" * 3_000}})
    service.sign()
    return service


def _cbor() -> Target:
    """Our strict CBOR."""
    values: list[Any] = [
        {1: -7, 4: b"kid", "ccf.v1": {"txid": "2.7"}},
        [b"bytes", "text", None, True, -(1 << 64), (1 << 64) - 1, [[]], {}],
        cbor2.CBORTag(18, [b"", {396: {-1: [b"proof"]}}, None, b"sig"]),
    ]

    def judge(data: bytes) -> bool:
        try:
            value = cbor.decode(data)
        except FormatError:
            return False
        try:
            again = cbor.encode(value)
        except UsageError:
            return True  # a float, say: it can be read, and nothing of ours would write it
        if not _same(cbor.decode(again), value):
            raise BrokenLaw("CBOR is read otherwise when it is written again")
        if cbor.encode(cbor.decode(again)) != again:
            raise BrokenLaw("deterministic CBOR is not the same twice")
        return True

    return Target("cbor", [cbor.encode(value) for value in values], judge, bombs=_CBOR_BOMBS)


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) or (isinstance(one, float) and math.isnan(one))


def _cose() -> Target:
    """A ledger signature, as it stands in a signature entry."""
    service = _service()
    root = service.frontier.root()
    made = [cose.sign_root(service.key, root, 2, number, "service.example.com", "ledger.signature", 1_790_000_000) for number in (7, 900)]
    key = service.key.public_key()
    signed = {cose.decode(each).protected_bytes for each in made}

    def judge(data: bytes) -> bool:
        try:
            message = cose.decode(data)
            cose.verify_root(message, key, root)
        except _REFUSED:
            return False
        if message.protected_bytes not in signed or message.payload is not None:
            raise BrokenLaw("a changed header is accepted")
        return True

    return Target("cose", made, judge, bombs=_CBOR_BOMBS)


def _receipts(service: Service) -> tuple[list[bytes], list[bytes], list[receipt.VerifiedReceipt]]:
    found = signature.parse(entry.read_public(service.entries[-1]).writes)
    assert found is not None and found.raw is not None and found.cose is not None
    span = service.span(service.seqno)
    as_json, as_cose, proved = [], [], []
    for seqno in (3, 6, service.seqno - 1):
        public = entry.read_public(service.entries[seqno - 1])
        assert public.claims_digest is not None
        leaf = receipt.Leaf(public.write_set_digest, service.sealer.commit_evidence(service.view, seqno), public.claims_digest)
        as_json.append(json.dumps(receipt.build_json(found.raw, leaf, span.path(seqno))).encode())
        as_cose.append(receipt.build_cose(found.cose, leaf, span.path(seqno)))
        proved.append(receipt.verify_cose(as_cose[-1], service.key.public_key()))
        proved.append(receipt.verify_json(as_json[-1], service.certificate))
    return as_json, as_cose, proved


def _receipt_json() -> Target:
    """A receipt in JSON from anybody."""
    service = _service()
    seeds, _, proved = _receipts(service)

    def judge(data: bytes) -> bool:
        try:
            verified = receipt.verify_json(data, service.certificate)
        except _REFUSED:
            return False
        if verified not in proved:
            raise BrokenLaw(f"proves what was never committed: {verified}")
        return True

    tokens = [
        b'"cert"',
        b'"proof"',
        b'{"left": "00"}',
        b'"leaf": "00",',
        b"\\u0000",
        b'"claims_digest"',
        b'"service_endorsements": [],',
        b"true",
    ]
    bombs = [b"[" * 100_000, b'{"a":' * 100_000, b'{"proof": [' + b"{}," * 100_000 + b"{}]}", b"9" * 1_000_000]
    return Target("receipt-json", seeds, judge, tokens=tokens, bombs=bombs)


def _receipt_cose() -> Target:
    """A receipt in COSE from anybody."""
    service = _service()
    _, seeds, proved = _receipts(service)
    key = service.key.public_key()

    def judge(data: bytes) -> bool:
        try:
            verified = receipt.verify_cose(data, key)
        except _REFUSED:
            return False
        if verified not in proved:
            raise BrokenLaw(f"proves what was never committed: {verified}")
        return True

    return Target("receipt-cose", seeds, judge, bombs=_CBOR_BOMBS)


def _entry_bombs() -> list[bytes]:
    head = 1 | 0 << 8
    large = (1 << 20) - 8
    return [
        (head | (1 << 30) << 16).to_bytes(8, "little") + bytes(60),
        (head | large << 16).to_bytes(8, "little") + bytes(16) + (7).to_bytes(8, "little") + (2).to_bytes(4, "little") + bytes(large - 28),
        (head | 200 << 16).to_bytes(8, "little") + b"\xff" * 200,
    ]


def _entry_public() -> Target:
    """An entry, read without a secret: by an auditor, or a host."""
    service = _service()

    def judge(data: bytes) -> bool:
        try:
            public = entry.read_public(data)
        except FormatError:
            return False
        if entry.entry_size(data) != len(data):
            raise BrokenLaw("an entry that is longer or shorter than it says")
        if public.write_set_digest != entry.write_set_digest(data) or len(public.leaf) != 32:
            raise BrokenLaw("a digest of something else")
        return True

    return Target("entry-public", service.entries, judge, bombs=_entry_bombs(), accepts_most=True)


def _entry_sealed() -> Target:
    """An entry, opened with the secret: given back by a host, or sent by a peer."""
    service = _service()
    genuine = {data[2:]: data for data in service.entries}

    def judge(data: bytes) -> bool:
        try:
            opened = service.sealer.open(data)
            service.sealer.open_writes(data)
        except _REFUSED:
            return False
        # The head is not under the tag: its flags may differ, and whoever reads entries of a host looks at them (`enclave.ranges`).
        original = genuine.get(data[2:])
        if original is None or opened._replace(flags=0, leaf=b"") != service.sealer.open(original)._replace(flags=0, leaf=b""):
            raise BrokenLaw("a changed entry opens")
        return True

    return Target("entry-sealed", service.entries, judge, bombs=_entry_bombs())


def _range() -> Target:
    """Consecutive entries that a host gives back; the first byte says how many, each with its length before it."""
    service = _service()
    first = 3
    genuine = service.entries[first - 1 :]

    def pack(entries: list[bytes]) -> bytes:
        return bytes((len(entries),)) + b"".join(len(data).to_bytes(4, "big") + data for data in entries)

    def unpack(data: bytes) -> list[bytes]:
        entries, at = [], 1
        for _ in range(data[0] if data else 0):
            size = int.from_bytes(data[at : at + 4], "big")
            entries.append(data[at + 4 : at + 4 + size])
            at += 4 + size
        return entries

    def judge(data: bytes) -> bool:
        entries = unpack(data)
        try:
            checked = check_range(service.sealer, lambda seqno: View(2), Seqno(service.seqno), Seqno(first), entries)
        except HostError:
            return False
        found = [item.data for item in checked]
        last = found[-1]
        # What stands before the tag in the last entry is under no tree yet; nothing is made of it.
        if found[:-1] != genuine[: len(found) - 1] or last[24:] != genuine[len(found) - 1][24:]:
            raise BrokenLaw("the host's own entries are believed")
        return True

    return Target("range", [pack(genuine), pack(genuine[:6])], judge)


def _signature_maps() -> Target:
    """What a signature entry's maps hold: a record in JSON, base64 of COSE, and the tree; in this order, each with its length before it."""
    service = _service()

    def pack(seqno: int) -> bytes:
        writes = entry.read_public(service.entries[seqno - 1]).writes
        parts = [writes[name][signature.SINGLETON_KEY] or b"" for name in (signature.SIGNATURES, signature.COSE_SIGNATURES, signature.TREE)]
        return b"".join(len(part).to_bytes(4, "big") + part for part in parts)

    def judge(data: bytes) -> bool:
        parts, at = [], 0
        for _ in range(3):
            size = int.from_bytes(data[at : at + 4], "big")
            parts.append(data[at + 4 : at + 4 + size])
            at += 4 + size
        writes: entry.WriteSet = {
            name: {signature.SINGLETON_KEY: part}
            for name, part in zip((signature.SIGNATURES, signature.COSE_SIGNATURES, signature.TREE), parts, strict=True)
        }
        try:
            found = signature.parse(writes)
            assert found is not None and found.raw is not None and found.tree is not None
            tree = merkle.parse_tree(found.tree)
        except FormatError:
            return False
        if merkle.serialise_tree(tree.below, tree.leaves) != found.tree:
            raise BrokenLaw("a tree is written otherwise than it was read")
        if len(found.raw.root) != 32 or found.raw.transaction_id.seqno < 1:
            raise BrokenLaw("a signature over nothing")
        return True

    tokens = [b'"view":', b'"seqno":', b'"root":', b'"sig":', b"-1", b"1.5", b"true"]
    return Target("signature-maps", [pack(seqno) for seqno in service.signatures], judge, tokens=tokens, accepts_most=True)


def _chunk() -> Target:
    """A file of a ledger; its first byte says whether the name that it comes under is of a closed chunk, an open one, or not told."""
    service = _service()
    closed, still_open = chunks.build(service.entries), chunks.build(service.entries, closed=False)
    names = (
        None,
        ChunkName(Seqno(1), Seqno(len(service.entries)), True),
        ChunkName(Seqno(1), None, False),
        ChunkName(Seqno(1), Seqno(len(service.entries)), False),
    )

    def judge(data: bytes) -> bool:
        name = names[data[0] % len(names)] if data else None
        try:
            entries = list(chunks.parse(data[1:], name))
        except FormatError:
            return False
        if chunks.build(entries, closed=int.from_bytes(data[1:9], "little") != 0) != data[1:]:
            raise BrokenLaw("a chunk is written otherwise than it was read")
        return True

    seeds = [b"\0" + closed, b"\1" + closed, b"\2" + still_open, b"\0" + still_open]
    bombs = [
        b"\0" + bytes(8) + b"\x01\x00\x24\x00\x00\x00\x00\x00" * 100_000,
        b"\0" + (9).to_bytes(8, "little") + bytes(1 << 20),
        b"\0" + (1 << 20).to_bytes(8, "little") + bytes(1 << 20),
    ]
    return Target("chunk", seeds, judge, bombs=bombs)


def _ledger() -> Target:
    """A whole ledger, handed to an auditor in one chunk."""
    service = _service()
    expected = _audit(service.entries, service.certificate)

    def judge(data: bytes) -> bool:
        try:
            result = _audit(list(chunks.parse(data)), service.certificate)
        except _REFUSED:
            return False
        if not result.anchored or result.last_signed is None:
            return False
        # Cut short it is an earlier state; whatever is signed in it must be as it was.
        if result.last_signed == expected.last_signed and result.last_root != expected.last_root:
            raise BrokenLaw("another ledger is accepted under the same signature")
        if list(chunks.parse(data))[: result.last_signed.seqno - 1] != service.entries[: result.last_signed.seqno - 1]:
            raise BrokenLaw("a changed entry before the last signature is accepted")
        return True

    seeds = [
        chunks.build(service.entries),
        chunks.build(service.entries, closed=False),
        chunks.build(service.entries[: service.signatures[1]]),
    ]
    return Target("ledger", seeds, judge, bound=Bound(seconds=1.2))


def _audit(entries: list[bytes], certificate: str) -> Any:
    auditor = Auditor(certificate)
    for data in entries:
        auditor.feed(data)
    return auditor.result()


def _names() -> Target:
    """Texts that name things: files of a ledger, transactions."""

    def judge(data: bytes) -> bool:
        text = data.decode("utf-8", "surrogateescape")
        taken = False
        try:
            name = chunks.parse_name(text)
            if name is not None:
                taken = True
                if str(name) != text:
                    raise BrokenLaw(f"{text!r} is read as {name}")
        except FormatError:
            pass
        try:
            transaction = parse_transaction_id(text)
            taken = True
            if str(transaction) != text:
                raise BrokenLaw(f"{text!r} is read as {transaction}")
        except FormatError:
            pass
        return taken

    seeds = [b"ledger_1-20.committed", b"ledger_21-40", b"ledger_41", b"2.18", b"9223372036854775807.1"]
    return Target(
        "names",
        seeds,
        judge,
        tokens=[b"\xc2\xb2", b"\xd9\xa1", b"+", b"_", b" ", b"0"],
        bombs=[b"ledger_" + b"9" * 200_000, b"1" * 200_000 + b".1"],
    )


MAKERS: Final[dict[str, Maker]] = {
    "cbor": _cbor,
    "cose": _cose,
    "receipt-json": _receipt_json,
    "receipt-cose": _receipt_cose,
    "entry-public": _entry_public,
    "entry-sealed": _entry_sealed,
    "range": _range,
    "signature-maps": _signature_maps,
    "chunk": _chunk,
    "ledger": _ledger,
    "names": _names,
}
