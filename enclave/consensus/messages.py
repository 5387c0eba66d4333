"""What consensus says to consensus: plain values, and their bytes on an attested channel.

Sans-IO. The channel has named the sender and kept order and integrity (`enclave.channels`); form is checked here once, meaning in
`consensus.core`. The bytes are msgpack arrays, tag first; they are neither hashed nor signed, and both ends run the same version.
"""

from typing import Any, Final, NamedTuple, TypeAlias

import msgpack

from ledgerd.ledger.errors import PeerError
from ledgerd.ledger.ids import NUMBER_MAX, Seqno, View

MESSAGE_SIZE_BYTES_MAX: Final = 16 << 20  # what a channel carries; a batch is 1 MiB, one entry may exceed it
ENTRIES_MAX: Final = 1 << 14  # a sender stops at its `Settings.batch_entries`, 5,000 by default; the room for them is reserved unread
DIGEST_SIZE: Final = 32
NO_DIGEST: Final = bytes(DIGEST_SIZE)
"""The digest of the empty log."""


class AppendEntries(NamedTuple):
    """Primary to a peer: entries `prev_seqno + 1`, ..., all of one view; none in a heartbeat.

    `round` grows with time: an answer to a round says that its sender still followed this primary when it arrived.
    `acked_seqno` and `acked_digest` repeat the peer's own last acknowledgement to this primary (0 and zeros before the first), so that
    a peer whose memory was rolled back finds that out. `prev_digest` is that of the primary's log up to `prev_seqno` (zeros where it is no
    longer held): a name, `view.seqno`, can stand for two entries if somebody's memory was rolled back, before this primary began or since:
    it may be the primary's own.
    """

    view: View
    prev_view: View
    prev_seqno: Seqno
    committed: Seqno
    entries_view: View
    round: int
    acked_seqno: Seqno
    acked_digest: bytes
    prev_digest: bytes
    entries: list[bytes]


class AppendAccepted(NamedTuple):
    """My log up to `seqno` is the primary's, and is on my disk; `digest` is that of my log up to there."""

    view: View
    round: int
    seqno: Seqno
    digest: bytes


class AppendRefused(NamedTuple):
    """I do not have the entry at `refused_seqno` (the message's `prev_seqno`), or my view is later.

    The best that can match is `seqno` in `seqno_view`: so the primary goes back by whole views, not by single entries.
    """

    view: View
    round: int
    refused_seqno: Seqno
    seqno_view: View
    seqno: Seqno


class RequestVote(NamedTuple):
    """A candidate asks; with `pre_vote` only whether it would be worth asking, in the view that it is in already.

    `last_view` and `last_seqno` name its last signature entry, since anything after that is discarded by whoever wins; `digest` is that of
    its log up to there.
    """

    view: View
    last_view: View
    last_seqno: Seqno
    pre_vote: bool
    digest: bytes


class Vote(NamedTuple):
    """The answer to RequestVote, of which it repeats `digest`.

    So a candidate whose memory was rolled back, and which asks anew with less, counts no answer to what it asked before.
    """

    view: View
    granted: bool
    pre_vote: bool
    digest: bytes


class ProposeVote(NamedTuple):
    """A primary that leaves tells the best placed peer to stand at once."""

    view: View


Message: TypeAlias = AppendEntries | AppendAccepted | AppendRefused | RequestVote | Vote | ProposeVote

_KINDS: Final[tuple[type[Any], ...]] = (AppendEntries, AppendAccepted, AppendRefused, RequestVote, Vote, ProposeVote)
_pack: Final = msgpack.Packer().pack  # making it costs more than using it
_TAGS: Final = {kind: tag for tag, kind in enumerate(_KINDS)}


def encode(message: Message) -> bytes:
    """Pack one message."""
    packed: bytes = _pack((_TAGS[type(message)], *message))
    return packed


def decode(data: bytes) -> Message:
    """Unpack one message and check its form completely.

    Raises: PeerError: The bytes are not exactly one well-formed message.
    """
    if len(data) > MESSAGE_SIZE_BYTES_MAX:
        raise PeerError(f"consensus message of {len(data)} bytes; the limit is {MESSAGE_SIZE_BYTES_MAX}")
    try:
        fields = msgpack.unpackb(
            data,
            raw=True,
            max_array_len=min(ENTRIES_MAX, len(data)),
            max_map_len=0,
            max_ext_len=0,
            max_str_len=0,
            max_bin_len=MESSAGE_SIZE_BYTES_MAX,
        )
    except (ValueError, msgpack.UnpackException) as error:
        raise PeerError(f"consensus message of {len(data)} bytes is not msgpack: {type(error).__name__}") from None
    if type(fields) is not list or not fields or type(fields[0]) is not int or not 0 <= fields[0] < len(_KINDS):
        raise PeerError("consensus message without a known tag")
    kind = _KINDS[fields[0]]
    del fields[0]
    types = _TYPES[kind]
    if len(fields) != len(types):
        raise PeerError(f"{kind.__name__} with {len(fields)} fields instead of {len(types)}")
    for name, value, expected in zip(kind._fields, fields, types, strict=True):
        if type(value) is not expected or (expected is int and not 0 <= value <= NUMBER_MAX):
            raise PeerError(f"{kind.__name__} with a malformed {name}")
        if expected is bytes and len(value) != DIGEST_SIZE:
            raise PeerError(f"{kind.__name__} with a {name} of {len(value)} bytes instead of {DIGEST_SIZE}")
    message: Message = kind(*fields)
    if isinstance(message, AppendEntries):
        _check_append(message)
    return message


def _check_append(message: AppendEntries) -> None:
    entries = message.entries
    if entries and (set(map(type, entries)) != {bytes} or b"" in entries):
        raise PeerError("AppendEntries with something else than entries in `entries`")
    if not message.prev_view <= message.entries_view <= message.view:
        raise PeerError(f"AppendEntries of views {message.prev_view}, {message.entries_view}, {message.view}, which must not fall")
    if (message.prev_view == 0) != (message.prev_seqno == 0):
        raise PeerError(f"AppendEntries after {message.prev_view}.{message.prev_seqno}, which cannot exist")
    if message.prev_seqno + len(entries) > NUMBER_MAX:
        raise PeerError("AppendEntries beyond the last possible seqno")


_TYPES: Final[dict[type[Any], tuple[type[Any], ...]]] = {
    AppendEntries: (int, int, int, int, int, int, int, bytes, bytes, list),
    AppendAccepted: (int, int, int, bytes),
    AppendRefused: (int, int, int, int, int),
    RequestVote: (int, int, int, bool, bytes),
    Vote: (int, bool, bool, bytes),
    ProposeVote: (int,),
}
