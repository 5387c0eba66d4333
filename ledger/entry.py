"""One entry's bytes: CCF's transaction format, version 1. Pure: bytes in, values out.

`Sealer` writes entries and opens them, each with the ledger secret of its epoch; `read_public` reads what needs no secret.
Layout and digests follow `docs/formats/ledger.md`; all integers are little-endian.
Not here: the tree over the leaves (`ledger.merkle`), the meaning of built-in maps (`ledger.signature`, `ledger.audit`), files
(`ledger.chunks`).
"""

import struct
from binascii import hexlify
from collections.abc import Sequence
from hashlib import sha256
from hmac import digest as hmac_digest
from typing import Final, NamedTuple, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from ledgerd.ledger.errors import FormatError, IntegrityError, UsageError
from ledgerd.ledger.ids import Seqno, View

WriteSet = dict[str, dict[bytes, bytes | None]]
"""Map name to key to value; None removes the key. A name that begins with `public:` is readable by everybody, any other is sealed."""

PUBLIC_PREFIX: Final = "public:"
DIGEST_SIZE_BYTES: Final = 32
ZERO_DIGEST: Final = bytes(DIGEST_SIZE_BYTES)

VERSION: Final = 1
HEADER_SIZE_BYTES: Final = 8
GCM_HEADER_SIZE_BYTES: Final = 28  # tag 16, then IV 12
ENTRY_SIZE_BYTES_MAX: Final = 1 << 30  # CCF's own readers refuse more
VIEW_MAX: Final = (1 << 31) - 1  # the IV has 31 bits for it; the 32nd marks a snapshot

FLAG_CHUNK_AFTER: Final = 0x01
FLAG_CHUNK_BEFORE: Final = 0x02

TYPE_WRITES: Final = 0
TYPE_SNAPSHOT: Final = 1
TYPE_CLAIMS: Final = 2
TYPE_EVIDENCE: Final = 3
TYPE_EVIDENCE_AND_CLAIMS: Final = 4

_IV = struct.Struct("<QI")
_FIXED = struct.Struct("<Q16sQIQ")  # head, tag, IV, length of the public domain
_DOMAIN_4 = struct.Struct("<Bq32s32sq")  # type, version, claims digest, evidence digest, max conflict version
_U64 = struct.Struct("<Q")
_TYPE_VERSION = struct.Struct("<Bq")
_ZERO: Final = bytes(8)
_ONE: Final = _U64.pack(1)

_pack_fixed: Final = _FIXED.pack
_pack_iv: Final = _IV.pack
_pack_domain: Final = _DOMAIN_4.pack

_FIXED_SIZE: Final = _FIXED.size
_DOMAIN_SIZE: Final = _DOMAIN_4.size
_DOMAIN_END: Final = _FIXED_SIZE + _DOMAIN_SIZE
_SIZE_MIN: Final = GCM_HEADER_SIZE_BYTES + 8
_SEQNO_MAX: Final = (1 << 63) - 1
_NAME_SIZE_BYTES_MAX: Final = 512  # of a name worth remembering, with its counters
_NAMES_MAX: Final = 1024  # an application has tens of maps; the cache of their encoded names must not grow with what clients ask for


class Buffer(Protocol):
    """Bytes, or what gives slices of a file."""

    def __len__(self) -> int: ...
    def __getitem__(self, key: slice, /) -> bytes: ...


class Sealed(NamedTuple):
    """One entry, ready to store: its bytes and its leaf in the tree, 32 bytes."""

    data: bytes
    leaf: bytes


class Opened(NamedTuple):
    """One entry, decrypted, with everything it writes."""

    view: View
    seqno: Seqno
    flags: int
    writes: WriteSet
    claims_digest: bytes
    evidence_digest: bytes
    leaf: bytes


class PublicEntry(NamedTuple):
    """What one entry shows without a secret. Digests are 32 bytes; None where an old entry type has none."""

    view: View
    seqno: Seqno
    flags: int
    entry_type: int
    writes: WriteSet
    claims_digest: bytes | None
    evidence_digest: bytes | None
    write_set_digest: bytes
    leaf: bytes


class _Epoch(NamedTuple):
    """From which entry on, and what its secret gives."""

    first: int
    cipher: AESGCM
    commit_mac: HMAC  # copied for each entry: a third of the cost of setting the key up again

    @classmethod
    def of(cls, first: int, ledger_secret: bytes) -> "_Epoch":
        """Raises: UsageError: A secret of another length than 32 bytes."""
        if len(ledger_secret) != DIGEST_SIZE_BYTES:
            raise UsageError(f"a ledger secret has 32 bytes, not {len(ledger_secret)}")
        # CCF hashes the first 8 bytes of "Commit Secret Label", the size of a pointer; every ledger in the world depends on it now
        commit_secret = hmac_digest(ledger_secret, b"Commit S", "sha256")
        return cls(first, AESGCM(ledger_secret), HMAC(commit_secret, SHA256()))


class Sealer:
    """Writes and opens the entries of a ledger; holds the secrets of its epochs and never shows them.

    An epoch begins with a seqno, and lasts until the next one begins. What is sealed is sealed with the newest; what is opened, with the
    one of its seqno. Make it once: constructing a cipher costs more than using it. One thread at a time.
    """

    __slots__ = ("_cipher", "_commit_mac", "_epochs", "_first", "_last", "_names")

    def __init__(self, ledger_secret: bytes) -> None:
        """Args: ledger_secret: Of the first epoch, 32 bytes. Raises: UsageError: It has another length."""
        epoch = _Epoch.of(1, ledger_secret)
        self._epochs = [epoch]
        self._first, self._cipher, self._commit_mac = epoch  # of the newest, which nearly everything is about
        self._names: dict[str, bytes] = {}
        self._last = (0, 0)

    def __repr__(self) -> str:
        return "Sealer(...)"

    def __reduce__(self) -> str | tuple[object, ...]:
        raise UsageError("a Sealer holds a ledger secret and is never copied or written")

    def begin_epoch(self, first: int, ledger_secret: bytes) -> None:
        """Seal with this secret from entry `first` on.

        Raises: UsageError: It does not come after the newest epoch's first entry, or the secret has not 32 bytes.
        """
        if first <= self._first:
            raise UsageError(f"an epoch from entry {first} on cannot follow one from {self._first} on")
        epoch = _Epoch.of(first, ledger_secret)
        self._epochs.append(epoch)
        self._first, self._cipher, self._commit_mac = epoch

    def forget_epochs(self, last: int) -> None:
        """Everything above entry `last` was undone: forget the epochs that it brought. One that begins with the next entry stands."""
        while self._first > last + 1:
            self._epochs.pop()
            self._first, self._cipher, self._commit_mac = self._epochs[-1]

    def _epoch_of(self, seqno: int) -> _Epoch:
        return next(epoch for epoch in reversed(self._epochs) if epoch.first <= seqno or epoch.first == 1)

    def commit_evidence(self, view: int, seqno: int) -> str:
        """Return `ce:VIEW.SEQNO:HEX`, which a receipt reveals once the entry is committed; before that it is a secret."""
        name = f"{view}.{seqno}"
        mac = (self._commit_mac if seqno >= self._first else self._epoch_of(seqno).commit_mac).copy()
        mac.update(name.encode())
        return f"ce:{name}:{mac.finalize().hex()}"

    def seal(self, view: int, seqno: int, writes: WriteSet, claims_digest: bytes = ZERO_DIGEST, flags: int = 0) -> Sealed:
        """Serialise and encrypt one entry; `seal_many` for several."""
        data, leaves = self.seal_many(view, seqno, ((writes, claims_digest),), flags)
        return Sealed(data[0], leaves[0])

    def seal_many(
        self, view: int, first: int, proposals: Sequence[tuple[WriteSet, bytes]], flags: int = 0
    ) -> tuple[list[bytes], list[bytes]]:
        """Serialise and encrypt entries `first`, `first + 1`, ... of one view.

        Maps are written in order of name, public ones in the clear; a map without writes leaves no trace.
        Each (view, seqno) must be above the last one sealed: the IV is made of both, and AES-GCM never forgives a repetition.

        Args:
            proposals: What each entry writes, and its claims digest, 32 bytes.
            flags: Of each entry, 0 to 3.
        Returns: The entries' bytes, and their leaves.
        Raises: UsageError: Numbers out of range or not rising, a digest of another length, an entry of more than 1 GiB.
        """
        if (view, first) <= self._last or not 0 < view <= VIEW_MAX or first < 1:
            raise UsageError(f"{view}.{first} cannot be sealed after {self._last[0]}.{self._last[1]}: the same IV would be used twice")
        if first < self._first:
            raise UsageError(f"entry {view}.{first} cannot be sealed with the secret that holds from entry {self._first} on")
        if flags & ~3:
            raise UsageError("flags are 0 to 3")
        copy_mac = self._commit_mac.copy
        encrypt = self._cipher.encrypt
        digest_of = sha256
        head = VERSION | flags << 8
        entries: list[bytes] = []
        leaves: list[bytes] = []
        for seqno, (writes, claims_digest) in enumerate(proposals, first):
            if len(claims_digest) != DIGEST_SIZE_BYTES:
                raise UsageError("a claims digest has 32 bytes")
            name = b"%d.%d" % (view, seqno)
            mac = copy_mac()
            mac.update(name)
            evidence_digest = digest_of(b"ce:%b:%b" % (name, hexlify(mac.finalize()))).digest()
            domain = _pack_domain(TYPE_EVIDENCE_AND_CLAIMS, seqno, claims_digest, evidence_digest, 0)
            private = b""
            for map_name in sorted(writes) if len(writes) > 1 else writes:
                keys = writes[map_name]
                if keys:
                    if map_name.startswith(PUBLIC_PREFIX):
                        domain += self._write_map(map_name, keys)
                    else:
                        private += self._write_map(map_name, keys)
            sealed = encrypt(_pack_iv(seqno, view), private, domain)
            domain_size = len(domain)
            size = len(sealed) + domain_size + (_SIZE_MIN - 16)
            if size > ENTRY_SIZE_BYTES_MAX:
                raise UsageError(f"entry {view}.{seqno} would have {size} bytes; the format's limit is {ENTRY_SIZE_BYTES_MAX}")
            self._last = (view, seqno)
            data = _pack_fixed(head | size << 16, sealed[-16:], seqno, view, domain_size) + domain + sealed[:-16]
            entries.append(data)
            leaves.append(digest_of(digest_of(data).digest() + evidence_digest + claims_digest).digest())
        return entries, leaves

    def open(self, data: bytes) -> Opened:
        """Decrypt and check one entry, with the secret of its epoch.

        Only the entry type that current CCF writes is opened: with commit evidence and claims.

        Raises:
            IntegrityError: The tag does not fit, or the commit evidence is not the one that this secret gives.
            FormatError: The bytes do not follow the layout.
        """
        view, seqno, writes, leaf = self.open_writes(data)
        _, _, claims_digest, evidence_digest, _ = _DOMAIN_4.unpack_from(data, _FIXED_SIZE)
        if sha256(self.commit_evidence(view, seqno).encode()).digest() != evidence_digest:
            raise IntegrityError(f"entry {view}.{seqno}: its commit evidence is not the one that this ledger secret gives")
        return Opened(view, seqno, data[1], writes, claims_digest, evidence_digest, leaf)

    def open_writes(self, data: bytes) -> tuple[View, Seqno, WriteSet, bytes]:
        """As `open`, for a backup that takes thousands a second from an attested primary: the id, what the entry writes, and its leaf.

        The commit evidence is not computed again. Its digest is under the AES-GCM tag and in the leaf, so under the root that the backup
        compares; what `open` finds besides is a sealer of this secret that computes it wrongly.

        Raises: IntegrityError, FormatError: As `open`.
        """
        view, seqno, _, end = _read_fixed(data)
        if end < _DOMAIN_END:
            raise FormatError(f"entry {view}.{seqno}: public domain of {end - _FIXED_SIZE} bytes, expected at least {_DOMAIN_SIZE}")
        domain = data[_FIXED_SIZE:end]
        cipher = self._cipher if seqno >= self._first else self._epoch_of(seqno).cipher
        try:
            private = cipher.decrypt(data[24:36], data[end:] + data[8:24], domain)
        except InvalidTag:
            raise IntegrityError(
                f"entry {view}.{seqno}: the AES-GCM tag does not fit; the bytes were changed or belong to another epoch's secret"
            ) from None
        entry_type, version, claims_digest, evidence_digest, _ = _DOMAIN_4.unpack_from(domain)
        if entry_type != TYPE_EVIDENCE_AND_CLAIMS or version != seqno:
            raise FormatError(f"entry {view}.{seqno}: type {entry_type} version {version}, expected type 4 version {seqno}")
        writes: WriteSet = {}
        if end > _DOMAIN_END:
            _read_maps(domain, _DOMAIN_SIZE, True, writes)
        if private:
            _read_maps(private, 0, False, writes)
        return view, seqno, writes, sha256(sha256(data).digest() + evidence_digest + claims_digest).digest()

    def _write_map(self, name: str, keys: dict[bytes, bytes | None]) -> bytes:
        """Serialise one map's writes."""
        encoded = self._names.get(name)
        if encoded is None:
            raw = name.encode()
            encoded = _U64.pack(len(raw)) + raw + bytes(16)  # the two read counters are always zero
            if len(self._names) < _NAMES_MAX and len(encoded) <= _NAME_SIZE_BYTES_MAX:
                self._names[name] = encoded
        pack = _U64.pack
        if len(keys) == 1:  # by far the most common entry, written without a loop
            for key, value in keys.items():
                if value is not None:
                    return b"".join((encoded, _ONE, pack(len(key)), key, pack(len(value)), value, _ZERO))
                return b"".join((encoded, _ZERO, _ONE, pack(len(key)), key))
        writes: list[bytes] = []
        removals: list[bytes] = []
        count = 0
        for key, value in keys.items():
            if value is None:
                removals += (pack(len(key)), key)
            else:
                count += 1
                writes += (pack(len(key)), key, pack(len(value)), value)
        return b"".join((encoded, pack(count), *writes, pack(len(removals) // 2), *removals))


def read_public(data: bytes) -> PublicEntry:
    """Read what an entry shows without a secret, and compute its leaf. Nothing is authenticated by this alone.

    Raises: FormatError: The bytes do not follow the layout; every length is checked.
    """
    view, seqno, flags, end = _read_fixed(data)
    size = end - _FIXED_SIZE
    if size < 17:
        raise FormatError(f"entry {view}.{seqno}: public domain of {size} bytes is too short")
    entry_type, version = _TYPE_VERSION.unpack_from(data, _FIXED_SIZE)
    at = _FIXED_SIZE + 9
    claims_digest: bytes | None = None
    evidence_digest: bytes | None = None
    if entry_type in (TYPE_CLAIMS, TYPE_EVIDENCE_AND_CLAIMS):
        claims_digest = data[at : at + 32]
        at += 32
    if entry_type in (TYPE_EVIDENCE, TYPE_EVIDENCE_AND_CLAIMS):
        evidence_digest = data[at : at + 32]
        at += 32
    if entry_type not in (TYPE_WRITES, TYPE_CLAIMS, TYPE_EVIDENCE, TYPE_EVIDENCE_AND_CLAIMS):
        raise FormatError(f"entry {view}.{seqno}: entry type {entry_type} is none of 0, 2, 3, 4")
    if version != seqno:
        raise FormatError(f"entry {view}.{seqno}: its public domain says version {version}")
    at += 8  # max conflict version: CCF's readers skip it, and so must we
    if at > end:
        raise FormatError(f"entry {view}.{seqno}: public domain of {size} bytes is too short for entry type {entry_type}")
    writes: WriteSet = {}
    if at < end:
        _read_maps(data[:end], at, True, writes)
    digest = sha256(data).digest()
    leaf = digest
    if evidence_digest is not None:
        leaf = sha256(digest + evidence_digest + (claims_digest or b"")).digest()
    elif claims_digest is not None:
        leaf = sha256(digest + claims_digest).digest()
    return PublicEntry(view, seqno, flags, entry_type, writes, claims_digest, evidence_digest, digest, leaf)


def write_set_digest(data: bytes) -> bytes:
    """Return the SHA-256 of a whole entry, header included: the first component of its leaf."""
    return sha256(data).digest()


def leaf_digest(write_set_digest: bytes, commit_evidence: str, claims_digest: bytes) -> bytes:
    """Return the leaf of an entry from what its receipt reveals."""
    return sha256(write_set_digest + sha256(commit_evidence.encode()).digest() + claims_digest).digest()


def entry_size(data: Buffer, at: int = 0) -> int:
    """Return how many bytes the entry at `at` takes, by its header alone.

    Raises: FormatError: There is no whole header, or it is not one of version 1.
    """
    if at < 0 or len(data) - at < HEADER_SIZE_BYTES:
        raise FormatError(f"{max(len(data) - at, 0)} bytes are too few for the header of an entry")
    head = int.from_bytes(data[at : at + HEADER_SIZE_BYTES], "little")  # version, flags and 48 bits of size
    size = head >> 16
    if head & 0xFF != VERSION or head & 0xFC00 or not _SIZE_MIN <= size <= ENTRY_SIZE_BYTES_MAX:
        raise FormatError(f"entry header {data[at : at + 8].hex()}: expected version 1, flags 0 to 3 and a size of {_SIZE_MIN} to 1 GiB")
    return HEADER_SIZE_BYTES + size


def _read_fixed(data: bytes) -> tuple[View, Seqno, int, int]:
    """Return view, seqno, flags and where the public domain ends."""
    length = len(data)
    if length < _FIXED_SIZE:
        raise FormatError(f"{length} bytes are too few for an entry")
    head, _, seqno, view, public_size = _FIXED.unpack_from(data)
    size = head >> 16
    if head & 0xFCFF != VERSION:
        raise FormatError(f"entry header {data[:8].hex()}: expected version 1 and flags 0 to 3")
    if size != length - HEADER_SIZE_BYTES or size > ENTRY_SIZE_BYTES_MAX:
        raise FormatError(f"entry header says {size} bytes, there are {length - HEADER_SIZE_BYTES}")
    if view > VIEW_MAX:
        raise FormatError("this is a snapshot, not an entry: the top bit of its IV is set")
    if not 1 <= seqno <= _SEQNO_MAX:
        raise FormatError(f"entry {view}.{seqno}: seqnos start at 1 and have 63 bits")
    if public_size > size - _SIZE_MIN:
        raise FormatError(f"entry {view}.{seqno}: public domain of {public_size} bytes in an entry of {size}")
    return view, seqno, (head >> 8) & 0xFF, _FIXED_SIZE + public_size


def _read_maps(data: bytes, at: int, public: bool, maps: WriteSet) -> None:
    """Add the maps of `data[at:]`, which must fill it exactly, to `maps`."""
    end = len(data)
    unpack = _U64.unpack_from
    while at < end:
        if end - at < 8:
            raise FormatError("an entry ends inside the length of a map's name")
        (size,) = unpack(data, at)
        if size > end - at - 32:
            raise FormatError(f"an entry ends inside a map: name of {size} bytes, {end - at - 8} are left")
        name_end = at + 24 + size
        head = data[at:name_end]  # the name with its length, and the two read counters
        name = _heads.get(head) or _read_head(head)
        if name.startswith(PUBLIC_PREFIX) is not public:
            raise FormatError(f"map {name[:64]!r} stands in the {'public' if public else 'private'} domain, where it does not belong")
        if name in maps:
            raise FormatError(f"map {name[:64]!r} stands twice in one entry")
        (count,) = unpack(data, name_end)
        at = name_end + 8
        keys: dict[bytes, bytes | None] = {}
        maps[name] = keys
        left = count
        while left:
            left -= 1
            if end - at < 16:
                raise FormatError(f"map {name[:64]!r} ends inside its writes")
            (size,) = unpack(data, at)
            at += 8
            after = at + size
            if after > end - 8:
                raise FormatError(f"map {name[:64]!r}: a key of {size} bytes, {end - at} are left")
            (value_size,) = unpack(data, after)
            value_at = after + 8
            key = data[at:after]
            at = value_at + value_size
            if at > end:
                raise FormatError(f"map {name[:64]!r}: a value of {value_size} bytes, {end - value_at} are left")
            keys[key] = data[value_at:at]
        if end - at < 8:
            raise FormatError(f"map {name[:64]!r} ends before its removals")
        (removals,) = unpack(data, at)
        at += 8
        left = removals
        while left:
            left -= 1
            if end - at < 8:
                raise FormatError(f"map {name[:64]!r} ends inside its removals")
            (size,) = unpack(data, at)
            at += 8
            if size > end - at:
                raise FormatError(f"map {name[:64]!r}: a removed key of {size} bytes, {end - at} are left")
            keys[data[at : at + size]] = None
            at += size
        if len(keys) != count + removals:
            raise FormatError(f"map {name[:64]!r} names a key twice")


_heads: Final[dict[bytes, str]] = {}  # heads of maps that were read before, and the names they hold


def _read_head(head: bytes) -> str:
    """Return the name in a map's head (length, name, two read counters), and remember it: entries mostly write the same few maps."""
    try:
        name = head[8:-16].decode()
    except UnicodeDecodeError:
        raise FormatError("a map's name is not UTF-8") from None
    if head[-8:] != _ZERO:
        raise FormatError(f"map {name[:64]!r} records {_U64.unpack(head[-8:])[0]} reads; none are ever written")
    if name and head[-16:-8] == _ZERO and len(_heads) < _NAMES_MAX and len(head) <= _NAME_SIZE_BYTES_MAX:
        _heads[head] = name
    return name
