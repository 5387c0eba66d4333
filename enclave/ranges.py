"""Entries that the host gives back: believed only after the enclave has recognised them as its own committed ones.

An entry opens only with the ledger secret, and its IV is its view and seqno, which the enclave's own view history must confirm: a primary
never issues a seqno twice in a view, so what passes is *the* entry and not merely one that was once signed. The eight bytes of its header
are outside the AES-GCM tag, so each is compared with the only value that this service writes; the tree in the next signature entry covers
them too, but that of the last signature entry in an answer may be the last of all.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ledgerd.ledger import merkle, signature
from ledgerd.ledger.entry import Opened, Sealer
from ledgerd.ledger.errors import FormatError, HostError, IntegrityError
from ledgerd.ledger.ids import Seqno, View


class CheckedEntry(NamedTuple):
    """One recognised entry, its stored bytes, and the signature it holds if it is a signature entry."""

    data: bytes
    opened: Opened
    signature: signature.Signature | None


def check_range(
    sealer: Sealer,
    view_of: Callable[[Seqno], View | None],
    commit: Seqno,
    first: Seqno,
    entries: list[bytes],
) -> list[CheckedEntry]:
    """Check consecutive entries from the host, and cut off those that no signature entry in the answer covers.

    Args:
        sealer: Of the ledger secret under which they were written.
        view_of: The enclave's own view history.
        commit: The enclave's own commit point; nothing above it is believed.
        first: Seqno that was asked for.
        entries: What the host gave.
    Returns: At least one entry; the last one is a signature entry.
    Raises: HostError: The host lied, lost or mixed up entries; the message names the first that is wrong.
    """
    checked: list[CheckedEntry] = []
    covered = 0
    for index, data in enumerate(entries):
        entry = recognise(sealer, view_of, commit, Seqno(first + index), data)
        if entry.signature is not None:
            check_covered(entry, checked)
            covered = index + 1
        checked.append(entry)
    if not covered:
        raise HostError(f"the host gave {len(entries)} entries from {first} on and no signature over them")
    return checked[:covered]


def recognise(sealer: Sealer, view_of: Callable[[Seqno], View | None], commit: Seqno, seqno: Seqno, data: bytes) -> CheckedEntry:
    """Open what the host gave as entry `seqno`, and check that it is that very entry; arguments as for `check_range`.

    Raises: HostError: It is another, or has been changed.
    """
    try:
        opened = sealer.open(data)
        record = signature.parse(opened.writes)
    except (IntegrityError, FormatError) as error:
        raise HostError(f"the host's entry {seqno} is not what was stored: {error}") from None
    if opened.flags:
        raise HostError(f"the host's entry {seqno} has been changed: it has flags {opened.flags}, and this service sets none")
    if opened.seqno != seqno or seqno > commit or opened.view != view_of(seqno):
        raise HostError(
            f"the host gave {opened.view}.{opened.seqno} where committed entry {view_of(seqno)}.{seqno} was asked for; "
            "it is from before a rollback or from another place"
        )
    return CheckedEntry(data, opened, record)


def check_covered(signed: CheckedEntry, before: Sequence[CheckedEntry]) -> merkle.Span:
    """Check entries against the tree in a signature entry after them.

    Args:
        signed: The signature entry, recognised.
        before: Recognised entries of rising seqnos below it; those that this tree holds no leaf of are left alone.
    Returns: The tree, for paths.
    Raises: HostError: A leaf is another than the one that was signed, or the tree does not lead to the signed root.
    """
    record, seqno = signed.signature, signed.opened.seqno
    if record is None or record.raw is None or record.tree is None:
        raise HostError(f"the host's signature entry {seqno} has no raw signature or no tree; this service writes both")
    try:
        tree = merkle.parse_tree(record.tree)
    except FormatError as error:
        raise HostError(f"the host's signature entry {seqno} is not what was stored: {error}") from None
    for entry in before:
        at = entry.opened.seqno - tree.base
        if 0 <= at < len(tree.leaves) and entry.opened.leaf != tree.leaves[at]:
            raise HostError(f"the host's entry {entry.opened.seqno} has been changed: its leaf is not the one that was signed")
    span = merkle.Span(tree.below, tree.leaves)
    if span.root() != record.raw.root:
        raise HostError(f"the host's signature entry {seqno} has a tree that does not lead to its root")
    return span
