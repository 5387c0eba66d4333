"""A life under CCF's own default constitution, which stands in the first entry of a ledger that CCF wrote, follows as well."""

import json

from ledgerd.enclave.auditing import findings
from ledgerd.governance import tables
from ledgerd.ledger import chunks
from ledgerd.ledger.entry import WriteSet, read_public
from support.auditing import audited
from support.governed import id_of
from support.lives import short_life
from support.vectors import vectors


def test_a_life_under_ccfs_constitution_follows_and_a_flipped_vote_does_not() -> None:
    folder = vectors("ccf-ledgers", "cose_flipflop_service", "ledger")
    ((name, parsed), *_) = chunks.arrange([path.name for path in folder.iterdir()])
    genesis = read_public(next(chunks.parse((folder / name).read_bytes(), parsed)))
    life, ledger = short_life(json.loads(genesis.writes[tables.CONSTITUTION][tables.SINGLETON] or b""))
    steps = {int(step.transaction_id.seqno): step for step in audited(ledger.entries, life.certificate)}
    assert steps[ledger.places["user, vote of alice"]].text.endswith("Accepted, 2 for and 0 against, 1 ballot failed")
    assert steps[ledger.places["constitution, vote of bob"]].state == "Accepted"
    seqno, key = ledger.places["user, vote of alice"], life.identities["user"].encode()

    def flip(at: int, writes: WriteSet) -> WriteSet:
        if at == seqno:
            record = tables.decode(writes[tables.PROPOSALS_INFO][key] or b"")
            record["final_votes"][id_of(life.members[1])] = False
            writes[tables.PROPOSALS_INFO][key] = tables.encode(record)
        return writes

    error = ledger.refused(flip)
    assert (error.transaction_id.seqno, error.rule) == (seqno, findings.OUTCOME)
