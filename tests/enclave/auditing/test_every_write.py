"""No write of any entry that a member asked for can be changed, left out or added to: each is tried, at its place in a whole life."""

from collections.abc import Iterator

import pytest

from ledgerd.enclave.auditing.findings import NotFollowingError
from ledgerd.enclave.auditing.replay import Replay
from ledgerd.governance import tables
from ledgerd.ledger.entry import WriteSet, read_public
from support.auditing import driven
from support.lives import whole_life

ADDED = ("USER_CERTS", "MEMBER_INFO", "PROPOSALS_INFO", "SERVICE_INFO", "COSE_HISTORY", "NITRO_MEASUREMENTS")


def variants(turn: int, writes: WriteSet) -> Iterator[tuple[str, WriteSet]]:
    """What somebody could make of a write set, by words for it; where a value is changed, and what is added, takes turns."""
    for name, rows in writes.items():
        for key, value in rows.items():
            rest = {other: same for other, same in rows.items() if other != key}
            without = {other: same for other, same in writes.items() if other != name}
            where = f"{name} {key[:8]!r}"
            yield f"without {where}", {**without, name: rest} if rest else without
            yield f"other key of {where}", {**without, name: {**rest, key + b"0": value}}
            if value is None:
                yield f"{where} not removed", {**without, name: {**rest, key: b"{}"}}
                continue
            yield f"{where} removed", {**without, name: {**rest, key: None}}
            if name == tables.OBSERVED_SIGNATURE:
                continue  # which of the last signatures told the time is the service's to say; what else stands there, `test_replay` tries
            at = (0, len(value) // 2, len(value) - 1)[turn % 3]
            yield f"{where} changed at {at}", {**without, name: {**rest, key: value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]}}
    table = getattr(tables, ADDED[turn % len(ADDED)])
    yield f"more of {table}", {**writes, table: {**writes.get(table, {}), b"ff" * 32: b"{}"}}
    yield "more of an application's", {**writes, "public:records": {b"k": b"v"}}


def test_no_write_of_a_member_s_request_can_be_another() -> None:
    _, ledger = whole_life()
    replay = Replay()
    driven(replay)
    tried = 0
    for data in ledger.entries:
        entry = read_public(data)
        if tables.COSE_HISTORY in entry.writes:
            for what, writes in variants(entry.seqno // 2, entry.writes):
                tried += 1
                with pytest.raises(NotFollowingError) as refused:
                    replay.feed(entry._replace(writes=writes))
                    pytest.fail(f"entry {entry.seqno}: {what}")
                assert refused.value.transaction_id.seqno == entry.seqno
        replay.feed(entry)
    assert tried > 500
