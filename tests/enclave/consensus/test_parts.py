"""Messages, quorums and the log, each against its definition."""

from contextlib import suppress
from hashlib import sha256
from itertools import combinations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledgerd.enclave.consensus import messages
from ledgerd.enclave.consensus.log import Log, prefix_within
from ledgerd.enclave.consensus.messages import (
    AppendAccepted,
    AppendEntries,
    AppendRefused,
    Message,
    ProposeVote,
    RequestVote,
    Vote,
)
from ledgerd.enclave.consensus.quorum import Configuration, has_quorums, majority, quorum_seqno
from ledgerd.ledger.errors import PeerError
from ledgerd.ledger.ids import NUMBER_MAX, NodeId, Seqno, View

number = st.integers(0, NUMBER_MAX)
view = st.integers(1, NUMBER_MAX).map(View)
seqno = st.integers(0, NUMBER_MAX).map(Seqno)
digest = st.binary(min_size=32, max_size=32)


@st.composite
def append_entries(draw: st.DrawFn) -> AppendEntries:
    prev_view, entries_view, of = sorted(draw(st.tuples(view, view, view)))
    prev = Seqno(draw(st.integers(1, NUMBER_MAX - 10)))
    if draw(st.booleans()):
        prev_view, prev = View(0), Seqno(0)
    entries = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=5))
    return AppendEntries(of, prev_view, prev, draw(seqno), entries_view, draw(number), draw(seqno), draw(digest), draw(digest), entries)


any_message = st.one_of(
    append_entries(),
    st.builds(AppendAccepted, view, number, seqno, digest),
    st.builds(AppendRefused, view, number, seqno, view, seqno),
    st.builds(RequestVote, view, view, seqno, st.booleans(), digest),
    st.builds(Vote, view, st.booleans(), st.booleans(), digest),
    st.builds(ProposeVote, view),
)


@given(any_message)
def test_a_message_survives_its_bytes_and_no_cut_of_them_is_one(message: Message) -> None:
    data = messages.encode(message)
    assert messages.decode(data) == message
    assert type(messages.decode(data)) is type(message)
    for end in range(len(data)):
        with pytest.raises(PeerError):
            messages.decode(data[:end])
    with pytest.raises(PeerError):
        messages.decode(data + b"\x00")


@given(any_message, st.data())
def test_a_changed_byte_gives_a_message_or_a_refusal_and_nothing_else(message: Message, data: st.DataObject) -> None:
    packed = bytearray(messages.encode(message))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    with suppress(PeerError):
        messages.decode(bytes(packed))


GOOD = AppendEntries(View(3), View(2), Seqno(4), Seqno(4), View(3), 1, Seqno(4), bytes(32), bytes(32), [b"entry"])


@pytest.mark.parametrize(
    "change",
    [
        {"entries": [b"entry", "text"]},
        {"entries": [b""]},
        {"entries": None},
        {"entries": [b"e"] * (messages.ENTRIES_MAX + 1)},
        {"acked_digest": bytes(31)},
        {"view": 2},  # below the entries' view
        {"prev_view": 4},
        {"prev_view": 0},  # but prev_seqno is not 0
        {"prev_seqno": 0},
        {"prev_seqno": NUMBER_MAX},
        {"committed": -1},
        {"committed": True},
        {"committed": 1.0},
        {"round": NUMBER_MAX + 1},
    ],
    ids=str,
)
def test_append_entries_with_a_wrong_field_is_refused(change: dict[str, object]) -> None:
    assert messages.decode(messages.encode(GOOD)) == GOOD
    with pytest.raises(PeerError):
        messages.decode(messages.encode(GOOD._replace(**change)))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [None, [], [6, 1], [-1, 1], ["0"], [True, 1], [4, 1, 1, 0], [5], {}, [5, 1, 2]], ids=str)
def test_what_is_no_message_is_refused(value: object) -> None:
    with pytest.raises(PeerError):
        messages.decode(msgpack.packb(value))


# Quorums: the definition is "some majority all agree".


def by_definition(nodes: frozenset[NodeId], stored: dict[NodeId, Seqno]) -> Seqno:
    groups = combinations(sorted(nodes), majority(len(nodes)))
    return max(min(stored.get(node, Seqno(0)) for node in group) for group in groups)


node_ids = st.sampled_from([NodeId(name) for name in "abcdefg"])
configuration = st.builds(Configuration, seqno, st.frozensets(node_ids, min_size=1))


@given(st.frozensets(node_ids, min_size=1), st.dictionaries(node_ids, st.integers(0, 20).map(Seqno)))
def test_quorum_seqno_is_what_some_majority_has_stored(nodes: frozenset[NodeId], stored: dict[NodeId, Seqno]) -> None:
    assert quorum_seqno(nodes, stored) == by_definition(nodes, stored)


@given(st.lists(configuration, max_size=3), st.sets(node_ids), st.sets(node_ids))
def test_two_sets_with_quorums_of_one_configuration_meet(active: list[Configuration], ones: set[NodeId], others: set[NodeId]) -> None:
    agreed = has_quorums(active, ones)
    assert agreed == (bool(active) and all(2 * len(c.nodes & ones) > len(c.nodes) for c in active))
    if agreed and has_quorums(active[:1], others):
        assert ones & others


# The log: the definition is a list of (view, bytes, is a signature).

steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 2), st.binary(min_size=1, max_size=9), st.booleans()),
        st.tuples(st.just("truncate"), st.floats(0, 1)),
        st.tuples(st.just("commit"), st.floats(0, 1)),
        st.tuples(st.just("drop"), st.floats(0, 1)),
    ),
    max_size=40,
)


@given(steps, st.integers(1, 5), st.integers(1, 30))
def test_the_log_is_the_list_that_it_stands_for(script: list[tuple[str, object]], entries_max: int, bytes_max: int) -> None:
    log = Log()
    model: list[tuple[int, bytes, bool]] = []
    committed = 0
    for name, *words in script:
        last = len(model)
        if name == "append":
            rise, data, signs = words
            of = (model[-1][0] if model else 2) + int(str(rise))
            assert isinstance(data, bytes)
            model.append((of, data, bool(signs)))
            log.extend(View(of), (data,), (sha256(data).digest(),))
            if signs:
                log.mark_committable(log.last_seqno)
            continue
        share = words[0]
        assert isinstance(share, float)
        if name == "truncate":
            to = committed + round(share * (last - committed))
            del model[to:]
            log.truncate(Seqno(to))
        elif name == "commit":
            signatures = [s for s in range(committed + 1, last + 1) if model[s - 1][2]]
            if signatures:
                committed = signatures[round(share * (len(signatures) - 1))]
                log.commit(Seqno(committed))
        elif log.base < committed:
            log.drop(Seqno(log.base + 1 + round(share * (committed - log.base - 1))))
        compare(log, model, committed, entries_max, bytes_max)


def compare(log: Log, model: list[tuple[int, bytes, bool]], committed: int, entries_max: int, bytes_max: int) -> None:
    last = len(model)
    leaves = [sha256(data).digest() for _, data, _ in model]
    digests = [bytes(32)] + [sha256(b"".join(leaves[:index])).digest() for index in range(1, last + 1)]
    held = model[log.base :]
    assert (log.last_seqno, log.last_view) == (last, model[-1][0] if model else 0)
    assert len(log) == len(held)
    assert log.size_bytes == sum(len(data) for _, data, _ in held)
    signatures = [s for s in range(1, last + 1) if model[s - 1][2]]
    assert log.committables == [s for s in signatures if s > committed]
    assert log.last_committable == (signatures[-1] if signatures else 0)
    for index in range(last + 1):
        assert log.view_of(Seqno(index)) == (model[index - 1][0] if index else 0)
        assert log.digest(Seqno(index)) == (digests[index] if index >= log.base else None)
    assert log.digest(Seqno(last + 1)) is None
    assert log.data(Seqno(log.base + 1), Seqno(last)) == [data for _, data, _ in held]
    firsts = [s for s in range(1, last + 1) if s == 1 or model[s - 1][0] != model[s - 2][0]]
    assert log.view_history() == [(model[s - 1][0], s) for s in firsts]
    for of in range(9):
        for index in range(last + 2):
            best = max((s for s in range(1, min(index, last) + 1) if model[s - 1][0] <= of), default=0)
            assert log.best_match(View(of), Seqno(index)) == best
    if held:
        first = Seqno(log.base + 1)
        batch = log.batch(first, entries_max, bytes_max)
        assert batch == [data for _, data, _ in held[: len(batch)]]
        assert {of for of, _, _ in held[: len(batch)]} == {held[0][0]}
        assert 1 <= len(batch) <= entries_max
        assert len(batch) == 1 or sum(map(len, batch)) <= bytes_max
        longer = held[: len(batch) + 1]
        if len(longer) > len(batch) and len(batch) < entries_max and longer[-1][0] == held[0][0]:
            assert sum(len(data) for _, data, _ in longer) > bytes_max, "a batch is not as long as it may be"
    to = log.excess(entries_max, bytes_max, Seqno(committed))
    assert log.base <= to <= max(committed, log.base)
    if to < committed:
        assert last - to <= entries_max
        assert sum(len(data) for _, data, _ in model[to:]) <= bytes_max


def test_a_prefix_within_a_limit_has_at_least_one_entry() -> None:
    assert prefix_within([b"1234", b"5"], 3) == 1
    assert prefix_within([b"12", b"3", b"4"], 3) == 2
    assert prefix_within([b"12", b"3"], 9) == 2
