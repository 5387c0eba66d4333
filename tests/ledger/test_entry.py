"""Entries: the layout byte for byte, the round trip, and that every other byte string is refused."""

import contextlib
import pickle
import struct
from hashlib import sha256
from hmac import digest as hmac_digest

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from ledgerd.ledger.entry import ENTRY_SIZE_BYTES_MAX, ZERO_DIGEST, Sealer, WriteSet, entry_size, leaf_digest, read_public, write_set_digest
from ledgerd.ledger.errors import FormatError, IntegrityError, UsageError
from support.entry_fields import fields_of_entry

SECRET = bytes(range(32))
CLAIMS = b"\xab" * 32
WRITES: WriteSet = {
    "records": {b"a": b"1", b"b": None},
    "public:z": {b"k": b"v" * 3},
    "public:a": {b"": b"", b"gone": None},
}


def number(value: int) -> bytes:
    return struct.pack("<Q", value)


def counted(value: bytes) -> bytes:
    return number(len(value)) + value


def test_the_layout_is_ccf_s_byte_for_byte() -> None:
    """Built here from the description in docs/formats/ledger.md, with nothing of the writer."""
    evidence = "ce:3.7:" + hmac_digest(hmac_digest(SECRET, b"Commit S", "sha256"), b"3.7", "sha256").hex()
    head = number(0) * 2  # read version, read count
    public = (
        b"\x04"
        + number(7)
        + CLAIMS
        + sha256(evidence.encode()).digest()
        + number(0)
        + (counted(b"public:a") + head + number(1) + counted(b"") + counted(b"") + number(1) + counted(b"gone"))
        + (counted(b"public:z") + head + number(1) + counted(b"k") + counted(b"vvv") + number(0))
    )
    private = counted(b"records") + head + number(1) + counted(b"a") + counted(b"1") + number(1) + counted(b"b")
    iv = number(7) + struct.pack("<I", 3)
    encrypted = AESGCM(SECRET).encrypt(iv, private, public)
    body = encrypted[-16:] + iv + number(len(public)) + public + encrypted[:-16]
    expected = b"\x01\x02" + struct.pack("<Q", len(body))[:6] + body

    sealer = Sealer(SECRET)
    sealed = sealer.seal(3, 7, WRITES, CLAIMS, flags=2)
    assert sealed.data == expected
    assert sealed.leaf == sha256(sha256(expected).digest() + sha256(evidence.encode()).digest() + CLAIMS).digest()
    assert sealer.commit_evidence(3, 7) == evidence
    assert leaf_digest(write_set_digest(expected), evidence, CLAIMS) == sealed.leaf


def test_an_entry_opens_to_what_was_sealed() -> None:
    sealed = Sealer(SECRET).seal(3, 7, WRITES, CLAIMS, flags=1)
    opened = Sealer(SECRET).open(sealed.data)
    assert (opened.view, opened.seqno, opened.flags, opened.claims_digest, opened.leaf) == (3, 7, 1, CLAIMS, sealed.leaf)
    assert opened.writes == WRITES
    public = read_public(sealed.data)
    assert public.writes == {name: keys for name, keys in WRITES.items() if name.startswith("public:")}
    assert list(public.writes) == ["public:a", "public:z"]
    assert (public.view, public.seqno, public.flags, public.entry_type, public.leaf) == (3, 7, 1, 4, sealed.leaf)


KEYS = st.binary(max_size=24)
MAPS = st.dictionaries(KEYS, st.none() | st.binary(max_size=64), min_size=1, max_size=5)
NAMES = st.one_of(st.text(max_size=12), st.text(max_size=12).map("public:".__add__))


@given(
    st.dictionaries(NAMES, MAPS, max_size=5),
    st.integers(1, (1 << 31) - 1),
    st.integers(1, (1 << 63) - 1),
    st.binary(min_size=32, max_size=32),
)
def test_any_writes_come_back(writes: WriteSet, view: int, seqno: int, claims: bytes) -> None:
    sealed = Sealer(SECRET).seal(view, seqno, writes, claims)
    opened = Sealer(SECRET).open(sealed.data)
    assert opened.writes == writes
    assert (opened.view, opened.seqno, opened.leaf) == (view, seqno, sealed.leaf)
    assert read_public(sealed.data).leaf == sealed.leaf
    assert entry_size(sealed.data) == len(sealed.data)


def test_maps_without_writes_leave_no_trace() -> None:
    assert Sealer(SECRET).seal(2, 1, {"records": {}, "public:a": {}}).data == Sealer(SECRET).seal(2, 1, {}).data


def test_the_order_of_maps_is_by_name_and_not_by_when_they_were_touched() -> None:
    other = dict(reversed(WRITES.items()))
    assert Sealer(SECRET).seal(2, 1, other).data == Sealer(SECRET).seal(2, 1, WRITES).data


def test_private_bytes_are_not_in_an_entry() -> None:
    secret = b"a value that nobody may see"
    sealed = Sealer(SECRET).seal(2, 1, {"records": {secret: secret}, "public:records": {b"key": b"seen"}})
    assert secret not in sealed.data
    assert b"records" not in sealed.data.replace(b"public:records", b"")
    assert b"seen" in sealed.data


def test_no_iv_is_used_twice() -> None:
    """AES-GCM under one key must never see an IV twice, whatever a caller does."""
    sealer = Sealer(SECRET)
    sealer.seal(2, 5, {})
    sealer.seal(3, 4, {})  # a new view may go back: what was rolled back carried the old view
    for view, seqno in ((3, 4), (3, 3), (2, 6)):
        with pytest.raises(UsageError, match="same IV"):
            sealer.seal(view, seqno, {})


@pytest.mark.parametrize(("view", "seqno"), [(0, 1), (2, 0), (1 << 31, 1), (-1, 1)])
def test_numbers_that_the_iv_cannot_hold_are_refused(view: int, seqno: int) -> None:
    with pytest.raises(UsageError):
        Sealer(SECRET).seal(view, seqno, {})


def test_misuse_is_refused() -> None:
    with pytest.raises(UsageError):
        Sealer(b"short")
    with pytest.raises(UsageError):
        Sealer(SECRET).seal(2, 1, {}, b"short")
    with pytest.raises(UsageError):
        Sealer(SECRET).seal(2, 1, {}, flags=4)


def test_each_entry_is_sealed_and_opened_with_the_secret_of_its_epoch() -> None:
    sealer = Sealer(SECRET)
    entries = {3: sealer.seal(2, 3, WRITES).data}
    sealer.begin_epoch(4, bytes(32))
    entries |= {4: sealer.seal(2, 4, WRITES).data, 5: sealer.seal(2, 5, {}).data}
    sealer.begin_epoch(9, bytes([9]) * 32)
    entries[9] = sealer.seal(2, 9, WRITES).data
    for secret, seqnos in ((SECRET, {3}), (bytes(32), {4, 5}), (bytes([9]) * 32, {9})):
        for seqno, data in entries.items():
            assert sealer.open(data).seqno == seqno
            if seqno in seqnos:
                assert Sealer(secret).open(data) == sealer.open(data)
                assert Sealer(secret).commit_evidence(2, seqno) == sealer.commit_evidence(2, seqno)
            else:
                with pytest.raises(IntegrityError, match="tag"):
                    Sealer(secret).open(data)
                assert Sealer(secret).commit_evidence(2, seqno) != sealer.commit_evidence(2, seqno)


def test_an_epoch_that_was_undone_is_forgotten_and_one_that_begins_next_is_not() -> None:
    sealer = Sealer(SECRET)
    sealer.begin_epoch(4, bytes(32))
    sealer.begin_epoch(6, bytes([6]) * 32)
    sealer.forget_epochs(5)
    assert Sealer(bytes([6]) * 32).open(sealer.seal(2, 6, {}).data).seqno == 6
    sealer.forget_epochs(4)
    assert Sealer(bytes(32)).open(sealer.seal(3, 5, {}).data).seqno == 5
    sealer.forget_epochs(0)
    assert Sealer(SECRET).open(sealer.seal(4, 1, {}).data).seqno == 1


def test_a_secret_seals_nothing_from_before_its_epoch_and_epochs_come_in_order() -> None:
    sealer = Sealer(SECRET)
    sealer.begin_epoch(4, bytes(32))
    with pytest.raises(UsageError, match="holds from entry 4 on"):
        sealer.seal(2, 3, {})
    for first in (4, 3, 1):
        with pytest.raises(UsageError, match="cannot follow"):
            sealer.begin_epoch(first, bytes(32))
    with pytest.raises(UsageError, match="32 bytes"):
        sealer.begin_epoch(9, b"short")


def test_a_sealer_shows_and_gives_away_nothing() -> None:
    sealer = Sealer(SECRET)
    assert repr(sealer) == str(sealer) == "Sealer(...)"
    assert not hasattr(sealer, "__dict__")
    with pytest.raises(UsageError):
        pickle.dumps(sealer)


def test_every_flipped_bit_is_refused_on_opening() -> None:
    """The header and its sizes are checked by form; all else by the tag."""
    sealer = Sealer(SECRET)
    data = sealer.seal(2, 9, WRITES, CLAIMS).data
    for bit in range(len(data) * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        if bit in (8, 9):  # the two flags: no secret covers them, but the leaf does
            assert sealer.open(bytes(changed)).leaf != sealer.open(data).leaf
            continue
        with pytest.raises((IntegrityError, FormatError)):
            sealer.open(bytes(changed))


def test_every_cut_and_every_longer_form_is_refused() -> None:
    sealer = Sealer(SECRET)
    data = sealer.seal(2, 9, WRITES, CLAIMS).data
    for end in range(len(data)):
        with pytest.raises(FormatError):
            read_public(data[:end])
        with pytest.raises(FormatError):
            sealer.open(data[:end])
    for read in (read_public, sealer.open):
        with pytest.raises(FormatError):
            read(data + b"\x00")


def test_another_epoch_s_secret_does_not_open() -> None:
    data = Sealer(SECRET).seal(2, 9, WRITES).data
    with pytest.raises(IntegrityError, match="another epoch"):
        Sealer(bytes(32)).open(data)


def test_commit_evidence_of_another_secret_is_refused() -> None:
    """Whoever can encrypt but lies about the evidence would leave an entry without receipts."""
    data = Sealer(SECRET).seal(2, 9, {}).data
    public = bytearray(data[44:])
    public[41] ^= 1  # within the evidence digest
    iv = data[24:36]
    tag = AESGCM(SECRET).encrypt(iv, b"", bytes(public))
    with pytest.raises(IntegrityError, match="commit evidence"):
        Sealer(SECRET).open(data[:8] + tag + data[24:44] + bytes(public))


@pytest.mark.parametrize("public", [b"\x04", b"\x03" + number(9) + bytes(72), b"\x04" + number(8) + bytes(72)])
def test_well_encrypted_entries_of_another_form_are_refused(public: bytes) -> None:
    """Even who holds the secret: too short, of an old type, of another version."""
    iv = number(9) + struct.pack("<I", 2)
    tag = AESGCM(SECRET).encrypt(iv, b"", public)
    body = tag + iv + counted(public)
    with pytest.raises(FormatError):
        Sealer(SECRET).open(b"\x01\x00" + struct.pack("<Q", len(body))[:6] + body)


def test_a_public_domain_longer_than_its_entry_is_refused() -> None:
    data = bytearray(Sealer(SECRET).seal(2, 9, {"public:a": {b"k": b"v"}}).data)
    data[36] += 1
    with pytest.raises(FormatError, match="public domain of"):
        read_public(bytes(data))


@pytest.mark.parametrize("seqno", [0, 1 << 63])
def test_seqnos_that_cannot_be_are_refused(seqno: int) -> None:
    with pytest.raises(FormatError, match="seqnos start at 1"):
        read_public(rebuilt(domain(b"", version=seqno), seqno=seqno))


def test_entries_beyond_the_format_s_limit_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledgerd.ledger.entry.ENTRY_SIZE_BYTES_MAX", 200)
    sealer = Sealer(SECRET)
    with pytest.raises(UsageError, match="the format's limit"):
        sealer.seal(2, 9, {"records": {b"k": bytes(200)}})
    sealer.seal(2, 9, {})  # and the number is still free: nothing was given away under its IV


def rebuilt(public: bytes, rest: bytes = b"", *, seqno: int = 9) -> bytes:
    body = bytes(16) + number(seqno) + struct.pack("<I", 2) + counted(public) + rest
    return b"\x01\x00" + struct.pack("<Q", len(body))[:6] + body


def domain(maps: bytes, *, kind: int = 4, version: int = 9) -> bytes:
    digests = {0: 0, 2: 32, 3: 32, 4: 64}.get(kind, 64)
    return bytes([kind]) + number(version) + bytes(digests) + number(0) + maps


def a_map(name: bytes = b"public:a", *, reads: int = 0, writes: bytes = number(0), removals: bytes = number(0)) -> bytes:
    return counted(name) + number(0) + number(reads) + writes + removals


HUGE = number((1 << 64) - 1)


@pytest.mark.parametrize(
    ("public", "reason"),
    [
        (domain(a_map(), version=8), "version 8"),
        (domain(b"", kind=1), "entry type 1"),
        (domain(b"", kind=5), "entry type 5"),
        (domain(b"", kind=4)[:-1], "too short"),
        (b"", "too short"),
        (domain(a_map(b"records")), "does not belong"),
        (domain(a_map() + a_map()), "stands twice"),
        (domain(a_map(b"public:\xff")), "UTF-8"),
        (domain(a_map(reads=1)), "reads"),
        (domain(a_map(writes=HUGE)), "inside its writes|key of"),
        (domain(a_map(writes=number(1) + HUGE)), "key of|inside"),
        (domain(a_map(writes=number(1) + counted(b"k") + HUGE)), "value of"),
        (domain(a_map(removals=HUGE)), "inside its removals"),
        (domain(a_map(removals=number(1) + HUGE)), "removed key of"),
        (domain(a_map(writes=number(2) + (counted(b"k") + counted(b"v")) * 2)), "key twice"),
        (domain(a_map(writes=number(1) + counted(b"k") + counted(b"v"), removals=number(1) + counted(b"k"))), "key twice"),
        (domain(HUGE), "name of"),
        (domain(b"\x00"), "length of a map's name"),
        (domain(a_map() + b"\x00" * 7), "length of a map's name"),
        (domain(a_map()[:-8]), "before its removals"),
        (domain(a_map(writes=number(1), removals=b"")), "inside its writes"),
    ],
)
def test_malformed_public_domains_are_refused(public: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        read_public(rebuilt(public))


@pytest.mark.parametrize(("kind", "claims", "evidence"), [(0, False, False), (2, True, False), (3, False, True), (4, True, True)])
def test_older_entry_types_are_read_and_their_leaves_are_ccf_s(kind: int, claims: bool, evidence: bool) -> None:
    """Type 0: the write set digest is the leaf; types 3 and 4: SHA-256 over it and what the type carries."""
    data = rebuilt(domain(a_map(writes=number(1) + counted(b"k") + counted(b"v")), kind=kind))
    entry = read_public(data)
    assert (entry.claims_digest is not None, entry.evidence_digest is not None) == (claims, evidence)
    assert entry.writes == {"public:a": {b"k": b"v"}}
    parts = sha256(data).digest() + (ZERO_DIGEST if evidence else b"") + (ZERO_DIGEST if claims else b"")
    assert entry.leaf == (sha256(parts).digest() if kind else parts)
    if kind != 4:
        with pytest.raises((IntegrityError, FormatError)):
            Sealer(SECRET).open(data)


def test_a_snapshot_is_no_entry() -> None:
    data = bytearray(rebuilt(domain(b"")))
    data[35] |= 0x80
    with pytest.raises(FormatError, match="snapshot"):
        read_public(bytes(data))


@pytest.mark.parametrize(
    "header",
    [
        b"\x00\x00" + number(36)[:6],
        b"\x01\x04" + number(36)[:6],
        b"\x01\x00" + number(35)[:6],
        b"\x01\x00" + number(ENTRY_SIZE_BYTES_MAX + 1)[:6],
        b"\x01",
    ],
)
def test_headers_that_ccf_s_readers_refuse_are_refused(header: bytes) -> None:
    with pytest.raises(FormatError):
        entry_size(header)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_never_do_worse_than_a_refusal(data: bytes) -> None:
    for read in (read_public, Sealer(SECRET).open):
        with pytest.raises((FormatError, IntegrityError)):
            read(data)


@given(st.data())
def test_changed_entries_never_do_worse_than_a_refusal(data: st.DataObject) -> None:
    """Fields are overwritten with extreme numbers: no length is believed."""
    entry = bytearray(Sealer(SECRET).seal(2, 9, WRITES).data)
    fields = [field for field in fields_of_entry(bytes(entry)) if field.end > field.start]
    for field in data.draw(st.lists(st.sampled_from(fields), min_size=1, max_size=3)):
        size = field.end - field.start
        entry[field.start : field.end] = data.draw(
            st.sampled_from([bytes(size), b"\xff" * size, b"\x7f" * size]) | st.binary(min_size=size, max_size=size)
        )
    with contextlib.suppress(FormatError):
        read_public(bytes(entry))
