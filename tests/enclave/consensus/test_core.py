"""What the scenario files cannot say: lies of the host, memory that was set back, misuse, memory bounds, deadlines, tables."""

import copy
import copyreg
from collections import Counter, deque
from hashlib import sha256
from itertools import pairwise

import pytest

from ledgerd.enclave.consensus import core, messages
from ledgerd.enclave.consensus.core import Consensus, LogEntry, Retirement, Role, Settings
from ledgerd.enclave.consensus.messages import (
    NO_DIGEST,
    AppendAccepted,
    AppendEntries,
    AppendRefused,
    Message,
    ProposeVote,
    RequestVote,
    Vote,
)
from ledgerd.enclave.consensus.progress import Flow
from ledgerd.ledger.errors import HostError, PeerError, UsageError
from ledgerd.ledger.ids import NodeId, Seqno, View
from support.consensus_cluster import Cluster, Member, unpack
from support.simulation import coverage
from support.simulation.plan import draw
from support.simulation.run import run


def service(*names: str, settings: Settings | None = None) -> Cluster:
    """A service at rest, in view 2, all of `names` trusted."""
    cluster = Cluster(settings)
    first = cluster.start(names[0])
    for name in names[1:]:
        cluster.join(name)
    if names[1:]:
        first.replicate(nodes=names)
        first.replicate(sign=True)
    cluster.run(0.3)
    assert {m.core.commit_seqno for m in cluster.up()} == {first.core.last_seqno}
    return cluster


def write(cluster: Cluster, name: str, count: int = 1, size: int = 10) -> None:
    member = cluster.members[name]
    for _ in range(count):
        member.replicate("x" * size)
    member.replicate(sign=True)
    cluster.pump(name)


def flow_of(primary: Member, peer: str) -> Flow:
    return primary.core._peers[NodeId(peer)].flow


def role_of(member: Member) -> core.Role:
    return member.core.role


def retirement_of(member: Member) -> Retirement:
    return member.core.retirement


def entry(view: int, seqno: int, data: bytes = b"entry") -> LogEntry:
    return LogEntry(View(view), Seqno(seqno), data, sha256(data).digest(), False)


# Memory that was set back by the host.


def remember(member: Member) -> Member:
    kept = copy.deepcopy(member)
    kept.machine.on_append = lambda seqno, digest: None  # the invariants are about honest nodes
    kept.machine.on_commit = lambda seqno: None
    return kept


# Hash states are never changed in place, so a copy of a member may share them; deepcopy takes a name for an answer as "the same object".
copyreg.pickle(type(sha256()), lambda state: "the same")


def test_a_backup_set_back_stops_when_it_is_told_what_it_acknowledged() -> None:
    cluster = service("n1", "n2", "n3")
    before = remember(cluster.members["n2"])
    write(cluster, "n1")
    cluster.settle()
    cluster.members["n2"] = before
    write(cluster, "n1")
    cluster.settle()
    assert before.down
    assert before.core.failed is not None
    assert "its memory was rolled back" in before.core.failed
    assert cluster.members["n1"].core.commit_seqno == cluster.members["n1"].core.last_seqno  # the other two go on


def test_a_primary_set_back_stops_when_a_peer_has_more_of_its_view_than_it_wrote() -> None:
    cluster = service("n1", "n2", "n3")
    before = remember(cluster.members["n1"])
    write(cluster, "n1")
    cluster.settle()
    cluster.members["n1"] = before
    cluster.matches.clear()  # that invariant is about honest hosts
    cluster.tick("n1", 0.2)
    cluster.settle()
    assert before.down
    assert before.core.failed is not None
    assert "the view's only author" in before.core.failed


def write_otherwise(cluster: Cluster, member: Member, count: int = 2) -> None:
    """Under the next names that the others have seen written, a primary writes something else."""
    for _ in range(count):
        member.replicate("otherwise")
    member.replicate(sign=True)
    cluster.pump(member.node_id)
    while member.writes:
        member.store()


def test_a_primary_set_back_that_writes_otherwise_loses_its_quorum() -> None:
    cluster = service("n1", "n2", "n3")
    before = remember(cluster.members["n1"])
    write(cluster, "n1", count=3)
    cluster.settle()
    cluster.members["n1"] = before
    # Under the names 2.5 to 2.9 it writes something else, one entry more than there was.
    before.machine.on_append = lambda seqno, digest: None
    write_otherwise(cluster, before, count=4)
    for _ in range(200):
        while cluster.packets:
            cluster.deliver()
        cluster.tick("n1", 0.01)
    assert before.core.commit_seqno == 4, "it committed entries that others hold differently"
    assert before.down or before.core.role is not Role.PRIMARY


def test_an_acknowledgement_with_another_hash_does_not_count() -> None:
    cluster = service("n1", "n2", "n3")
    n1 = cluster.members["n1"]
    write(cluster, "n1")
    n1.store()
    cluster.packets.clear()
    n1.machine.on_commit = lambda seqno: None  # n3's answer below is made up
    n1.core.receive(NodeId("n2"), AppendAccepted(View(2), 1, n1.core.last_seqno, sha256(b"other").digest()))
    assert n1.core._peers[NodeId("n2")].flow is Flow.DIVERGED
    while n1.writes:
        n1.store()
    assert n1.core.commit_seqno < n1.core.last_seqno
    digest = n1.core._log.digest(n1.core.last_seqno)
    assert digest is not None
    n1.core.receive(NodeId("n2"), AppendAccepted(View(2), 1, n1.core.last_seqno, digest))  # too late: it stays out
    assert n1.core.commit_seqno < n1.core.last_seqno
    n1.core.receive(NodeId("n3"), AppendAccepted(View(2), 1, n1.core.last_seqno, digest))
    assert n1.core.commit_seqno == n1.core.last_seqno


def test_a_primary_set_back_that_writes_otherwise_is_found_by_the_next_one_before_it_calls_that_final() -> None:
    cluster = service("n1", "n2", "n3")
    before = remember(cluster.members["n1"])
    write(cluster, "n1", count=2)
    cluster.settle()
    cluster.tick("n1", 0.2)
    cluster.settle()
    assert cluster.members["n2"].core.commit_seqno == 7
    cluster.members["n1"] = before
    cluster.isolate("n1")
    write_otherwise(cluster, before)
    assert before.core.last_seqno == 7
    cluster.tick("n1", 1.5)
    cluster.heal()
    cluster.isolate("n3")
    n2 = cluster.members["n2"]
    n2.core.receive(NodeId("n1"), ProposeVote(n2.core.view))  # it stands, and n1 votes for it: their last entries have one name
    for _ in range(20):
        cluster.pump("n2")
        while cluster.packets:
            cluster.deliver()
    assert n2.core.role is Role.PRIMARY
    assert "had its memory rolled back" in str(before.core.failed)
    assert before.core.commit_seqno == 4, "it would give receipts for what nobody else has"


def test_a_candidate_set_back_counts_no_vote_for_what_it_had_before() -> None:
    cluster = service("n1", "n2", "n3")
    n2 = cluster.members["n2"]
    before = remember(n2)
    write(cluster, "n1")
    cluster.settle()
    cluster.isolate("n1")
    votes: list[tuple[NodeId, Message]] = []
    for member in (n2, before):
        member.core.receive(NodeId("n1"), ProposeVote(View(2)))
        asked = [message for to, message in member.core.ready().messages if isinstance(message, RequestVote) and to == "n3"]
        cluster.members["n3"].core.receive(NodeId("n2"), asked[0])
        votes += [item for item in cluster.members["n3"].core.ready().messages if isinstance(item[1], Vote)]
        assert member.core.role is Role.CANDIDATE
    (_, old), (_, new) = votes
    assert (old.granted, new.granted) == (True, False)  # type: ignore[union-attr]
    before.core.receive(NodeId("n3"), old)
    assert before.core.role is Role.CANDIDATE, "it would discard what is final"
    n2.core.receive(NodeId("n3"), old)
    assert n2.core.role is Role.PRIMARY


def test_entries_that_go_by_the_names_of_others_are_compared() -> None:
    cluster = service("n1", "n2", "n3")
    n2 = cluster.members["n2"]
    names = [unpack(data)._replace(seqno=seqno, signs=None) for seqno, data in enumerate(n2.machine.log[-1:] * 2, 5)]
    n2.core.receive(NodeId("n1"), append(n2.core, [entry.pack() for entry in names]))
    assert n2.core.last_seqno == 6
    again = AppendEntries(
        View(3), View(2), Seqno(4), Seqno(4), View(2), 1, Seqno(0), NO_DIGEST, NO_DIGEST, [entry.pack() for entry in names]
    )
    n2.core.receive(NodeId("n3"), again)
    assert n2.core.failed is None
    other = [entry._replace(payload="other").pack() for entry in names]
    n2.core.receive(NodeId("n3"), again._replace(view=View(4), entries=other))
    assert "has other entries in 2.5 to 2.6" in str(n2.core.failed)


def test_what_cannot_be_compared_is_final_only_under_a_signature_that_follows() -> None:
    cluster = service("n1", "n2", "n3")
    n1, n2 = (cluster.members[name] for name in ("n1", "n2"))
    write(cluster, "n1", count=2)
    while cluster.packets:
        cluster.deliver()
    while n2.writes:
        n2.store()
    last = n2.core.last_id
    assert (last.seqno, n2.core.commit_seqno) == (7, 4)
    unknown = AppendEntries(View(5), last.view, last.seqno, last.seqno, last.view, 1, Seqno(0), NO_DIGEST, NO_DIGEST, [])
    n2.machine.on_commit = lambda seqno: None  # the primary of view 5 is made up
    n2.core.receive(NodeId("n1"), unknown)
    assert n2.core.commit_seqno == 4
    entry = unpack(n1.machine.log[-1])._replace(view=5, seqno=8, signs=n2.machine.digests[-1])
    n2.machine.on_append = lambda seqno, digest: None
    n2.core.receive(NodeId("n1"), unknown._replace(entries_view=View(5), entries=[entry.pack()], committed=Seqno(7)))
    assert n2.core.commit_seqno == 7


def test_what_a_primary_set_back_wrote_before_is_not_called_final_by_what_it_says_afterwards() -> None:
    cluster = service("n1", "n2", "n3")
    n2 = cluster.members["n2"]
    write(cluster, "n1", count=2)
    while cluster.packets:
        cluster.deliver()
    while n2.writes:
        n2.store()
    assert (n2.core.last_seqno, n2.core.commit_seqno) == (7, 4)  # the last one a signature, so all of it was shown to be the primary's
    # Set back to entry 4, it has written something else up to 7, with others, and does not know that this peer has the first.
    digest = n2.core._log.digest(Seqno(4))
    assert digest is not None
    told = AppendEntries(View(2), View(2), Seqno(4), Seqno(7), View(2), 9, Seqno(4), digest, digest, [])
    n2.core.receive(NodeId("n1"), told)
    assert (n2.core.failed, n2.core.commit_seqno) == (None, 4)
    n2.core.receive(NodeId("n1"), told._replace(prev_seqno=Seqno(6), prev_digest=sha256(b"other").digest()))
    assert "is another than this node's" in str(n2.core.failed)


# Entries and messages that an honest primary would not send.


def append(node: Consensus, entries: list[bytes], entries_view: int = 2) -> AppendEntries:
    """What the primary n1 of view 2 would send after the last entry."""
    last = node.last_id
    return AppendEntries(View(2), last.view, last.seqno, node.commit_seqno, View(entries_view), 99, Seqno(0), NO_DIGEST, NO_DIGEST, entries)


def test_a_signature_over_another_root_stops_a_backup_before_it_stores_or_acknowledges() -> None:
    cluster = service("n1", "n2")
    n2 = cluster.members["n2"]
    seqno = n2.core.last_seqno + 1
    good = unpack(n2.machine.log[-1])._replace(seqno=seqno, signs=None).pack()
    bad = unpack(n2.machine.log[-1])._replace(seqno=seqno + 1, signs=bytes(32)).pack()
    n2.core.receive(NodeId("n1"), append(n2.core, [good, bad]))
    ready = n2.core.ready()
    assert ready.failed is not None
    assert f"entry 2.{seqno + 1} signs another root" in ready.failed
    assert not ready.entries
    assert not ready.messages
    n2.core.tick(100.0)
    assert n2.core.ready().messages == []
    assert n2.core.next_deadline() == float("inf")


def test_an_entry_that_calls_itself_otherwise_stops_a_backup() -> None:
    cluster = service("n1", "n2")
    n2 = cluster.members["n2"]
    other = unpack(n2.machine.log[-1])._replace(seqno=n2.core.last_seqno + 1, signs=None, view=1).pack()
    n2.core.receive(NodeId("n1"), append(n2.core, [other]))
    assert "entry 1.5 stands where 2.5 has to" in str(n2.core.ready().failed)


def test_a_second_primary_of_a_view_stops_a_node() -> None:
    cluster = service("n1", "n2", "n3")
    n2 = cluster.members["n2"]
    n2.core.receive(NodeId("n3"), append(n2.core, []))
    assert "both primary in view 2" in str(n2.core.ready().failed)


def test_a_primary_that_lacks_a_final_entry_stops_a_backup() -> None:
    cluster = service("n1", "n2", "n3")
    n2 = cluster.members["n2"]
    assert n2.core.commit_seqno == 4
    n2.core.receive(NodeId("n3"), AppendEntries(View(7), View(2), Seqno(2), Seqno(2), View(7), 0, Seqno(0), NO_DIGEST, NO_DIGEST, [b"x"]))
    assert "replaces entry 2.3" in str(n2.core.ready().failed)


def test_messages_that_mean_nothing_are_refused_and_harm_nothing() -> None:
    cluster = service("n1", "n2")
    n1 = cluster.members["n1"].core
    with pytest.raises(PeerError, match="means nothing"):
        n1.receive(NodeId("n1"), RequestVote(View(9), View(2), Seqno(4), False, NO_DIGEST))
    with pytest.raises(PeerError, match="means nothing"):
        n1.receive(NodeId("n2"), "words")  # type: ignore[arg-type]
    before = n1.commit_seqno, n1.view, n1.role
    # Answers of a stranger, to an earlier view, and from an earlier time.
    digest = n1._log.digest(n1.last_seqno)
    assert digest is not None
    n1.receive(NodeId("n9"), AppendAccepted(View(2), 0, n1.last_seqno, digest))
    n1.receive(NodeId("n2"), AppendAccepted(View(1), 0, n1.last_seqno, digest))
    n1.receive(NodeId("n2"), AppendRefused(View(2), 0, Seqno(3), View(0), Seqno(0)))
    assert (n1.commit_seqno, n1.view, n1.role) == before
    assert n1._peers[NodeId("n2")].match == n1.last_seqno, "match fell"
    assert n1._peers[NodeId("n2")].flow is Flow.REPLICATE


# What the host says about its disk.


@pytest.mark.parametrize(("generation", "view", "seqno"), [(0, 2, 5), (1, 2, 4), (0, 3, 4), (0, 1, 4)])
def test_a_report_of_what_was_never_handed_over_is_refused(generation: int, view: int, seqno: int) -> None:
    node = service("n1", "n2", "n3").members["n1"].core
    assert node.last_seqno == 4
    with pytest.raises(HostError, match="given no such entry"):
        node.stored(generation, View(view), Seqno(seqno))


def test_entries_read_back_must_be_of_this_log() -> None:
    cluster = service("n1", "n2")
    n1 = cluster.members["n1"].core
    assert n1._log.base == 4
    n1.fetched(Seqno(1), [entry(2, 1), entry(2, 2)])  # nobody waits for them, yet they are right
    for wrong in ([entry(2, 2)], [entry(3, 1)], [entry(2, 1), entry(2, 3)]):
        with pytest.raises(HostError, match="read back"):
            n1.fetched(Seqno(1), wrong)


def test_a_host_that_has_nothing_is_asked_again_later() -> None:
    cluster = service("n1", "n2", settings=Settings(window_entries=0))
    n1 = cluster.members["n1"].core
    cluster.join("n3")
    cluster.members["n1"].replicate(nodes=["n1", "n2", "n3"])
    fetches: list[tuple[float, Seqno]] = []
    now = n1._now
    for step in range(30):
        n1.tick(now + step * 0.01)
        ready = n1.ready()
        for to, message in ready.messages:
            if to == "n3":
                n3 = cluster.members["n3"].core
                n3.tick(now + step * 0.01)
                n3.receive(NodeId("n1"), message)
                for _, answer in n3.ready().messages:
                    n1.receive(NodeId("n3"), answer)
        for first in ready.fetch:
            fetches.append((step * 0.01, first))
            n1.fetched(first, None)
    assert [first for _, first in fetches] == [1, 1, 1]
    assert all(later - earlier >= 0.1 for (earlier, _), (later, _) in pairwise(fetches))


def test_nothing_is_read_back_from_a_disk() -> None:
    """A term and a vote that are written apart can be read back apart (hashicorp/raft #661). Neither is written, or read, here."""
    cluster = service("n1", "n2", "n3")
    n2, n3 = cluster.members["n2"], cluster.members["n3"]
    cluster.isolate("n1")
    disks = list(n2.disk), list(n3.disk)
    cluster.tick("n3", 0.5)
    cluster.tick("n2", 1.0)
    while role_of(n2) is not Role.PRIMARY:
        cluster.deliver()
    assert n3.core._voted_for == "n2"
    assert (n3.core.view, n3.writes) == (3, deque())
    assert (n2.disk, n3.disk) == disks
    cluster.settle()

    # So who starts again under its old name, even beside its old disk, has nothing to go on with, and the next message finds it out.
    again = Consensus(NodeId("n3"), n3.machine, Settings(), lambda: 0.5, n3.now)
    assert (again.view, again.last_seqno) == (0, 0)
    again.start_backup()
    n2.core.tick(n2.now + 0.1)
    for to, message in n2.core.ready().messages:
        if to == "n3":
            again.receive(NodeId("n2"), message)
    assert "its memory was rolled back" in str(again.failed)


# Misuse by our own code.


def test_only_the_primary_of_the_view_replicates_the_next_entry() -> None:
    cluster = service("n1", "n2")
    n1, n2 = (cluster.members[name].core for name in ("n1", "n2"))
    for node, wrong in ((n2, entry(2, 5)), (n1, entry(2, 6)), (n1, entry(2, 4)), (n1, entry(3, 5))):
        with pytest.raises(UsageError, match="cannot replicate"):
            node.replicate(wrong)
    with pytest.raises(UsageError, match="cannot see"):
        n1.start_primary()


# Bounds.


def test_memory_holds_only_what_someone_may_need() -> None:
    cluster = service("n1", "n2", "n3", settings=Settings(window_entries=100, window_bytes=10_000))
    n1, n2 = (cluster.members[name].core for name in ("n1", "n2"))
    for _ in range(20):
        write(cluster, "n1", count=20, size=50)
        cluster.settle()
        assert n1.memory_bytes == 0, "everybody has everything, nobody needs it from memory"
        assert n2.memory_bytes <= 10_000 + 21 * 100
    assert n2.memory_bytes > 5_000, "a backup keeps its window: it may have to feed others one day"
    cluster.isolate("n3")
    for _ in range(20):
        write(cluster, "n1", count=20, size=50)
        cluster.settle()
        assert n1.memory_bytes <= 10_000 + 21 * 100
    cluster.heal()
    cluster.run(1.0)
    assert {m.core.commit_seqno for m in cluster.up()} == {n1.last_seqno}


def test_what_is_on_the_way_to_a_silent_peer_is_bounded() -> None:
    settings = Settings(batch_entries=10, flight_bytes=2_000, window_entries=10_000)
    cluster = service("n1", "n2", "n3", settings=settings)
    cluster.isolate("n3")
    n1 = cluster.members["n1"]
    for _ in range(50):
        write(cluster, "n1", count=10, size=50)
        cluster.settle()
    peer = n1.core._peers[NodeId("n3")]
    assert peer.flight_bytes <= 2_000 + 10 * 200
    assert n1.core.commit_seqno == n1.core.last_seqno


def test_batches_keep_their_limits_and_one_view() -> None:
    cluster = service("n1", "n2", settings=Settings(batch_entries=7, batch_bytes=400))
    write(cluster, "n1", count=40, size=30)
    sizes = [messages.decode(packet.data) for packet in cluster.packets]
    batches = [message.entries for message in sizes if isinstance(message, AppendEntries)]
    assert sum(map(len, batches)) == 41
    assert all(len(batch) <= 7 and sum(map(len, batch)) <= 400 for batch in batches)
    assert max(map(len, batches)) == 7
    write(cluster, "n1", count=1, size=5_000)  # a big entry goes alone, but it goes
    cluster.settle()
    assert cluster.members["n2"].core.last_seqno == cluster.members["n1"].core.last_seqno


# What no signature covers yet.


def sent_to(cluster: Cluster, name: str) -> list[AppendEntries]:
    cluster.pump("n1")
    sent = [messages.decode(packet.data) for packet in cluster.packets if packet.to == name]
    return [message for message in sent if isinstance(message, AppendEntries) and message.entries]


def kept_back(settings: Settings) -> tuple[Cluster, Member, Member]:
    cluster = service("n1", "n2", settings=settings._replace(unsigned_entries=50))
    return cluster, cluster.members["n1"], cluster.members["n2"]


def test_unsigned_entries_go_to_no_disk_and_to_peers_only_by_the_batch() -> None:
    cluster, n1, n2 = kept_back(Settings(ahead_entries=4))
    for _ in range(3):
        n1.replicate("x")
    assert sent_to(cluster, "n2") == []
    n1.replicate("x")
    assert [len(message.entries) for message in sent_to(cluster, "n2")] == [4]
    cluster.settle()
    assert n2.core.last_seqno == n1.core.last_seqno
    assert len(n1.disk) == len(n2.disk) == n1.core.last_seqno - 4
    n1.replicate(sign=True)
    cluster.pump("n1")
    cluster.settle()
    assert len(n1.disk) == len(n2.disk) == n1.core.commit_seqno == n1.core.last_seqno


def test_a_backup_stores_unsigned_entries_before_they_could_hold_up_the_signature() -> None:
    cluster, n1, n2 = kept_back(Settings(flight_messages=8, batch_entries=1, ahead_entries=1))
    before = len(n2.disk)
    n1.replicate("x")
    cluster.pump("n1")
    cluster.settle()
    assert len(n2.disk) == before
    n1.replicate("x")  # the second message of eight that may be on their way
    cluster.pump("n1")
    cluster.settle()
    assert len(n2.disk) == n1.core.last_seqno
    cluster, n1, n2 = kept_back(Settings(flight_bytes=4_000, ahead_entries=1))
    before = len(n2.disk)
    n1.replicate("x" * 1_000)  # a quarter of the bytes that may be on their way
    cluster.pump("n1")
    cluster.settle()
    assert len(n2.disk) == n1.core.last_seqno > before


def test_a_node_stands_only_for_a_configuration_that_is_signed() -> None:
    cluster = service("n1", settings=Settings(unsigned_entries=50, ahead_entries=1))
    n1, n2 = cluster.members["n1"], cluster.join("n2")
    n1.replicate(nodes=["n1", "n2"])
    cluster.pump("n1")
    cluster.settle()
    assert [c.nodes for c in n2.core.configurations][-1:] == [frozenset({"n1", "n2"})]
    cluster.isolate("n1")
    cluster.tick("n2", 5.0)
    assert role_of(n2) is core.Role.BACKUP  # it would discard that very entry, and lead a service that it is no member of
    cluster.heal()
    n1.replicate(sign=True)
    cluster.run(0.5)
    cluster.isolate("n1")
    cluster.tick("n2", 5.0)
    assert role_of(n2) is core.Role.PRE_VOTE_CANDIDATE


def test_a_node_that_unsigned_entries_added_and_removed_does_not_stand() -> None:
    cluster = service("n1", settings=Settings(unsigned_entries=50, ahead_entries=1))
    n1, n2 = cluster.members["n1"], cluster.join("n2")
    n1.replicate(nodes=["n1", "n2"])
    n1.replicate(nodes=["n1"])
    cluster.pump("n1")
    cluster.settle()
    assert retirement_of(n2) is Retirement.ORDERED
    cluster.isolate("n1")
    cluster.tick("n2", 5.0)
    assert role_of(n2) is core.Role.BACKUP  # a winner would have signed as a node that its own ledger does not know
    cluster.heal()
    n1.replicate(sign=True)
    cluster.run(0.5)
    assert retirement_of(n2) is Retirement.COMPLETED
    cluster.isolate("n1")
    cluster.tick("n2", 5.0)
    assert role_of(n2) is core.Role.PRE_VOTE_CANDIDATE


# Time.


def test_deadlines_say_when_tick_has_something_to_do() -> None:
    cluster = service("n1", "n2")
    n1, n2 = (cluster.members[name] for name in ("n1", "n2"))
    assert n1.now < n1.core.next_deadline() <= n1.now + 0.1  # a heartbeat
    assert n2.now + 0.5 <= n2.core.next_deadline() <= n2.now + 1.0  # an election
    write(cluster, "n1")
    cluster.settle()
    assert n1.core.next_deadline() <= n1.now + Settings().commit_notice  # peers do not know of the commit yet
    alone = service("n1").members["n1"].core
    assert alone.next_deadline() == float("inf")
    joiner = cluster.join("n9").core
    assert joiner.next_deadline() == float("inf")


def test_new_entries_are_sent_at_once_and_heartbeats_only_to_the_idle() -> None:
    cluster = service("n1", "n2")
    n1 = cluster.members["n1"]
    n1.core.ready()
    n1.replicate("a")
    sent = [message for _, message in n1.core.ready().messages]
    assert [len(m.entries) for m in sent if isinstance(m, AppendEntries)] == [1]
    n1.replicate("b")  # pipelined: no answer has come
    sent = [message for _, message in n1.core.ready().messages]
    assert [len(m.entries) for m in sent if isinstance(m, AppendEntries)] == [1]
    n1.core.tick(n1.now + 0.09)
    assert n1.core.ready().messages == []
    n1.core.tick(n1.now + 0.11)
    assert len(n1.core.ready().messages) == 1


def test_a_cut_channel_is_probed_at_once() -> None:
    cluster = service("n1", "n2")
    n1 = cluster.members["n1"]
    write(cluster, "n1", count=5)
    cluster.packets.clear()
    n1.core.cut(NodeId("n2"))
    cluster.pump("n1")
    cluster.settle()
    assert cluster.members["n2"].core.last_seqno == n1.core.last_seqno
    assert n1.core.commit_seqno == n1.core.last_seqno


# What others see.


def test_details_are_those_of_the_consensus_endpoint() -> None:
    cluster = service("n1", "n2")
    assert cluster.members["n1"].core.details() == {
        "primary_id": "n1",
        "current_view": 2,
        "ticking": True,
        "leadership_state": "Leader",
        "membership_state": "Active",
        "configs": [{"idx": 3, "rid": 3, "nodes": {"n1": {}, "n2": {}}}],
        "acks": {"n2": {"seqno": 4, "last_received_ms": cluster.members["n1"].core.details()["acks"]["n2"]["last_received_ms"]}},
        "reconfiguration_type": "OneTransaction",
    }
    joiner = cluster.join("n9").core.details()
    assert (joiner["ticking"], joiner["leadership_state"], "primary_id" in joiner) == (False, "Follower", False)


def test_view_history_names_the_first_entry_of_each_view_and_forgets_what_is_rolled_back() -> None:
    cluster = service("n1", "n2", "n3")
    n2 = cluster.members["n2"].core
    cluster.isolate("n1")
    cluster.tick("n3", 0.5)
    cluster.tick("n2", 1.0)
    cluster.settle()
    assert n2.view_history == [(2, 1), (3, 5)]
    assert [n2.view_of(Seqno(seqno)) for seqno in (0, 1, 4, 5, 6)] == [None, 2, 2, 3, None]
    cluster.members["n1"].replicate("lost")
    assert cluster.members["n1"].core.last_id == (2, 5)
    cluster.heal()
    cluster.run(0.5)
    assert cluster.members["n1"].core.view_history == [(2, 1), (3, 5)]
    assert str(cluster.members["n1"].core.commit_id) == "3.5"


def test_a_primary_that_its_own_host_and_a_cut_keep_from_committing_leaves_it_to_the_majority_without_it() -> None:
    cluster = service("n1", "n2", "n3")
    n1 = cluster.members["n1"]
    cluster.cut_between(["n1"], ["n3"])

    def lose() -> None:
        n1.writes.popleft()

    n1.store = lose  # type: ignore[method-assign]  # it says that it has stored nothing more
    write(cluster, "n1")
    wanted = n1.core.last_seqno
    cluster.run(9)
    assert n1.core.role is Role.PRIMARY  # it hears n2, and slow disks are no reason
    cluster.run(5)
    primary = cluster.primary()
    assert primary is not None and primary is not n1
    assert primary.core.commit_seqno > wanted


def test_a_host_that_claims_one_entry_more_every_few_seconds_does_not_keep_the_others_from_committing() -> None:
    cluster = service("n1", "n2", "n3")
    n1 = cluster.members["n1"]
    cluster.cut_between(["n1"], ["n3"])

    def keep() -> None:
        n1.writes.popleft()

    n1.store = keep  # type: ignore[method-assign]
    write(cluster, "n1", count=100)
    wanted = n1.core.last_seqno
    for _ in range(3):
        cluster.run(5)
        if n1.core.role is Role.PRIMARY:
            data = n1.machine.log[len(n1.disk)]
            n1.disk.append(data)
            n1.disk_digests.append(n1.machine.digests[len(n1.disk)])
            n1.core.stored(n1.core._generation, View(2), Seqno(len(n1.disk)))
    assert len(n1.disk) < wanted
    primary = cluster.primary()
    assert primary is not None and primary is not n1
    assert primary.core.commit_seqno > wanted


def test_a_primary_whose_peer_catches_up_slowly_is_not_stalled() -> None:
    cluster = service("n1", "n2", settings=Settings(stalled=0.5, election_timeout=100.0))
    n1, n2 = cluster.members["n1"].core, cluster.members["n2"]
    for _ in range(6):
        cluster.members["n1"].replicate("x")
        cluster.pump("n1")
        while cluster.packets:
            cluster.deliver()
    cluster.members["n1"].replicate(sign=True)
    cluster.pump("n1")
    while cluster.packets:
        cluster.deliver()
    while cluster.members["n1"].writes:
        cluster.store("n1")
    while n2.writes:
        cluster.tick("n1", 0.4)
        cluster.store("n2")
        while cluster.packets:
            cluster.deliver()
    assert (n1.role, n1.commit_seqno) == (Role.PRIMARY, n1.last_seqno)


# Acknowledgements that are handed over beside the entries.

PROMISING = Settings(promise=True)


def acknowledged(cluster: Cluster) -> list[int]:
    """What acknowledgements are on their way, by seqno; they are taken off it."""
    decoded = [messages.decode(packet.data) for packet in cluster.packets]
    cluster.packets.clear()
    return [message.seqno for message in decoded if isinstance(message, AppendAccepted)]


def handed_over(cluster: Cluster) -> Member:
    """A backup whose disk has not yet what it was given last."""
    write(cluster, "n1")
    cluster.store("n1")
    while cluster.packets:
        cluster.deliver()
    backup = cluster.members["n2"]
    assert backup.core.stored_seqno < backup.core.last_seqno
    return backup


def test_a_promise_is_sent_by_who_stores_the_entries_and_the_report_of_it_is_no_news() -> None:
    cluster = service("n1", "n2", settings=PROMISING)
    backup = handed_over(cluster)
    last = backup.core.last_seqno
    assert cluster.members["n1"].core.commit_seqno < last, "nothing is acknowledged before it is stored"
    write_ = backup.writes[-1]
    assert write_.promise is not None and write_.promise[0] == "n1"
    while backup.writes:
        cluster.store("n2")
    assert acknowledged(cluster) == [last], "the promise, and no second one when the disk's report came"
    assert backup.core.stored_seqno == last


def test_a_promise_that_arrives_commits() -> None:
    cluster = service("n1", "n2", settings=PROMISING)
    backup = handed_over(cluster)
    while backup.writes:
        cluster.store("n2")
    while cluster.packets:
        cluster.deliver()
    assert cluster.members["n1"].core.commit_seqno == backup.core.last_seqno


def test_what_is_sent_once_more_is_acknowledged_once_more() -> None:
    """The primary's channel broke, and the promise with it."""
    cluster = service("n1", "n2", settings=PROMISING)
    backup = handed_over(cluster)
    cluster.members["n1"].core.cut(NodeId("n2"))
    cluster.pump("n1")
    for _ in range(4):
        while cluster.packets:
            cluster.deliver()
    while backup.writes:
        backup.writes[0] = backup.writes[0]._replace(promise=None)
        cluster.store("n2")
    assert acknowledged(cluster) == [backup.core.last_seqno]


def test_a_promise_that_cannot_be_sent_is_replaced_when_the_disk_reports() -> None:
    cluster = service("n1", "n2", settings=PROMISING)
    backup = handed_over(cluster)
    backup.core.cut(NodeId("n1"))
    while backup.writes:
        backup.writes[0] = backup.writes[0]._replace(promise=None)
        cluster.store("n2")
    assert acknowledged(cluster) == [backup.core.last_seqno]


def test_a_promise_to_one_primary_is_none_to_the_next() -> None:
    cluster = service("n1", "n2", "n3", settings=PROMISING)
    backup = handed_over(cluster)
    assert backup.core._promised == backup.core.last_seqno
    view = View(backup.core.view + 1)
    digest = backup.core._log.digest(backup.core.last_seqno)
    assert digest is not None
    cluster.packets.clear()
    prev = (backup.core.view_of(backup.core.last_seqno), backup.core.last_seqno)
    assert prev[0] is not None
    message = AppendEntries(view, prev[0], prev[1], backup.core.commit_seqno, prev[0], 0, Seqno(0), NO_DIGEST, digest, [])
    backup.core.receive(NodeId("n3"), message)
    cluster.pump("n2")
    while backup.writes:
        backup.writes[0] = backup.writes[0]._replace(promise=None)
        cluster.store("n2")
    assert acknowledged(cluster)[-1] == backup.core.last_seqno


def test_reports_of_the_disk_are_patient_where_others_are_waited_for() -> None:
    alone = Cluster(PROMISING)
    first = alone.start("n1")
    first.replicate(sign=True)
    assert first.core.ready().patience_ms == 0
    cluster = service("n1", "n2", settings=PROMISING)
    primary, backup = cluster.members["n1"].core, cluster.members["n2"].core
    cluster.members["n1"].replicate(sign=True)
    sent = primary.ready()
    assert sent.patience_ms == 1
    for to, message in sent.messages:
        assert to == "n2"
        backup.receive(NodeId("n1"), message)
    assert backup.ready().patience_ms > 1


# The tables.


def test_every_row_of_every_table_is_met() -> None:
    met: Counter[str] = Counter()
    for seed in range(200, 212):
        met += run(draw(seed, "core")).coverage
    with coverage.counting(met):
        test_a_primary_set_back_that_writes_otherwise_loses_its_quorum()
        test_a_diverged_peer_stays_out_of_everything()
        test_a_removed_primary_hands_over()
        test_who_hears_of_a_later_view_or_a_primary_gives_way()
        test_a_removal_that_is_rolled_back_never_was()
        test_a_primary_that_its_own_host_and_a_cut_keep_from_committing_leaves_it_to_the_majority_without_it()
    assert not [row for row in coverage.rows() if not met[row]]


def test_a_diverged_peer_stays_out_of_everything() -> None:
    for first in (Flow.REPLICATE, Flow.PROBE):
        cluster = service("n1", "n2", "n3")
        n1 = cluster.members["n1"]
        write(cluster, "n1")
        cluster.packets.clear()
        if first is Flow.PROBE:
            n1.core.cut(NodeId("n2"))
            n1.core.cut(NodeId("n2"))  # again, while probing
        assert flow_of(n1, "n2") is first
        other = AppendAccepted(View(2), 1, n1.core.last_seqno, sha256(b"other").digest())
        n1.core.receive(NodeId("n2"), other)
        n1.core.receive(NodeId("n2"), other)
        n1.core.receive(NodeId("n2"), AppendRefused(View(2), 1, n1.core.last_seqno, View(2), Seqno(1)))
        digest = n1.core._log.digest(n1.core.last_seqno)
        assert digest is not None
        n1.core.receive(NodeId("n2"), other._replace(digest=digest))
        n1.core.cut(NodeId("n2"))
        assert flow_of(n1, "n2") is Flow.DIVERGED
        write(cluster, "n1")
        assert not any(packet.to == "n2" for packet in cluster.packets), "it is sent entries"
        n1.core.tick(n1.now + 0.1)
        cluster.pump("n1")
        assert any(packet.to == "n2" for packet in cluster.packets), "but heartbeats, which tell it what it once acknowledged"


def test_a_removed_primary_hands_over() -> None:
    cluster = service("n1", "n2", "n3")
    n1 = cluster.members["n1"]
    n1.replicate(nodes=["n2", "n3"])
    n1.replicate(sign=True)
    cluster.run(0.2)
    assert retirement_of(n1) is Retirement.COMPLETED
    assert n1.core.role is Role.PRIMARY
    n1.replicate(removed=["n1"])
    n1.replicate(sign=True)
    cluster.run(0.3)
    assert retirement_of(n1) is Retirement.RETIRED_COMMITTED
    primary = cluster.primary()
    assert primary is not None
    assert primary.node_id == "n2"
    assert "n1" not in primary.core._peers, "nobody needs it any more"
    assert [c.nodes for c in primary.core.configurations] == [{"n2", "n3"}]


def test_a_primary_that_is_removed_for_good_has_no_role_until_a_later_view_speaks_to_it() -> None:
    def removed() -> Member:
        cluster = service("n1", "n2", "n3")
        n1 = cluster.members["n1"]
        n1.replicate(nodes=["n2", "n3"])
        n1.replicate(sign=True)
        cluster.run(0.2)
        n1.replicate(removed=["n1"])
        n1.replicate(sign=True)
        cluster.pump("n1")
        while role_of(n1) is Role.PRIMARY:
            if cluster.packets:
                cluster.deliver()
            else:
                for name in cluster.members:
                    cluster.store(name)
        return n1

    n1 = removed()
    assert (role_of(n1), n1.core.primary_id, n1.core.details()["leadership_state"]) == (Role.NONE, None, "None")
    n1.core.tick(n1.now + 10)
    assert role_of(n1) is Role.NONE, "it stands no more"
    n1.core.receive(NodeId("n2"), RequestVote(View(3), View(2), n1.core.last_seqno, False, bytes([7] * 32)))
    assert (role_of(n1), n1.core.view) == (Role.BACKUP, 3)
    assert [m for _, m in n1.core.ready().messages] == [Vote(View(3), True, False, bytes([7] * 32))]
    n1.core.tick(n1.now + 20)
    assert role_of(n1) is Role.BACKUP, "nor then"

    n1 = removed()
    last = n1.core.last_seqno
    n1.core.receive(NodeId("n3"), AppendEntries(View(2), View(2), last, last, View(2), 9, Seqno(0), NO_DIGEST, NO_DIGEST, []))
    assert "which this node led" in str(n1.core.ready().failed)


def test_a_removal_that_is_rolled_back_never_was() -> None:
    for sign in (False, True):
        cluster = service("n1", "n2", "n3")
        n1 = cluster.members["n1"]
        cluster.isolate("n1")
        n1.replicate(nodes=["n2", "n3"])
        if sign:
            n1.replicate(sign=True)
        cluster.pump("n1")
        assert retirement_of(n1) is (Retirement.SIGNED if sign else Retirement.ORDERED)
        cluster.tick("n3", 0.5)
        cluster.tick("n2", 1.0)
        cluster.settle()
        cluster.heal()
        cluster.run(0.5)
        assert retirement_of(n1) is Retirement.NONE
        assert [c.nodes for c in n1.core.configurations] == [{"n1", "n2", "n3"}]


def test_who_hears_of_a_later_view_or_a_primary_gives_way() -> None:
    for message in (
        Vote(View(9), False, False, NO_DIGEST),
        AppendEntries(View(3), View(2), Seqno(4), Seqno(4), View(2), 0, Seqno(0), NO_DIGEST, NO_DIGEST, []),
    ):
        cluster = service("n1", "n2", "n3")
        cluster.isolate("n1")
        cluster.tick("n3", 0.5)
        cluster.tick("n2", 1.0)
        while cluster.members["n2"].core.role is not Role.CANDIDATE:
            cluster.deliver()
        cluster.members["n2"].core.receive(NodeId("n3"), message)
        assert (cluster.members["n2"].core.role, cluster.members["n2"].core.view) == (Role.BACKUP, message.view)
    n1 = cluster.members["n1"].core
    n1.confirm("a read")
    n1.receive(NodeId("n3"), RequestVote(View(5), View(2), Seqno(4), False, NO_DIGEST))
    ready = n1.ready()
    assert (n1.role, ready.became_backup, ready.refused) == (Role.BACKUP, 5, ["a read"])


def test_without_pre_vote_a_node_stands_at_once() -> None:
    cluster = service("n1", "n2", "n3", settings=Settings(pre_vote=False))
    cluster.isolate("n1")
    cluster.tick("n2", 1.0)
    cluster.settle()
    assert cluster.members["n2"].core.role is Role.PRIMARY
    assert not any("PreVote" in line for line in cluster.trace)
