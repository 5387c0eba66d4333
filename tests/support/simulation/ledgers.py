"""Real ledger entries, as the simulation reads them: what they mean for consensus, and what applications see of them."""

from collections.abc import Sequence
from typing import Final

from ledgerd.governance import tables
from ledgerd.ledger.entry import Sealer, read_public
from ledgerd.ledger.signature import TREE
from support.histories import Entry
from support.simulation.application import PRIVATE, PUBLIC
from support.simulation.observation import PLAIN, Meaning

SECRET: Final = b"the ledger secret of a simulation"[:32]
_SPECIAL: Final = b"public:ccf."


def read_entry(data: bytes, before: frozenset[str]) -> Meaning:
    """What an entry means for consensus, read from its public part."""
    if _SPECIAL not in data:
        return PLAIN
    writes = read_public(data).writes
    if TREE in writes:
        return Meaning(signs=True)
    nodes = before
    is_changed = False
    removed = set()
    for key, value in writes.get(tables.NODE_INFO, {}).items():
        if value is None:
            continue
        node = tables.decode(value)
        if node["status"] == tables.RETIRED and node["retired_committed"]:
            removed.add(key.decode())
        elif node["status"] == tables.RETIRED:
            is_changed, nodes = True, nodes - {key.decode()}
        elif node["status"] == tables.TRUSTED:
            is_changed, nodes = True, nodes | {key.decode()}
    return Meaning(nodes=nodes if is_changed else None, removed=frozenset(removed)) if is_changed or removed else PLAIN


def as_applications_see(entries: Sequence[bytes], secret: bytes) -> list[Entry]:
    """Open entries, and leave what applications wrote.

    Raises: IntegrityError, FormatError: One of them does not open.
    """
    sealer = Sealer(secret)
    seen = []
    for data in entries:
        opened = sealer.open(data)
        writes = {
            key.decode(): None if value is None else value.decode()
            for name in (PUBLIC, PRIVATE)
            for key, value in opened.writes.get(name, {}).items()
        }
        seen.append(Entry(opened.view, opened.seqno, writes))
    return seen
