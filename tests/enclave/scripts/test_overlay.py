"""A run's reads and writes beside a state that moves: it counts only if it could have happened at its end."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledgerd.enclave.kv import Store
from ledgerd.enclave.scripts.overlay import Overlay


def store_of(entries: dict[bytes, bytes]) -> Store:
    """A state with one map."""
    store = Store()
    store.apply(1, {"m": dict(entries)})
    return store


def test_a_run_sees_its_own_writes_and_nobody_else_does() -> None:
    store = store_of({b"a": b"1", b"b": b"2"})
    overlay = Overlay(store)
    overlay.set("m", b"c", b"3")
    overlay.delete("m", b"a")
    assert [overlay.get("m", key) for key in (b"a", b"b", b"c")] == [None, b"2", b"3"]
    assert overlay.size("m") == 2
    assert overlay.page("m", None, None, 256) == ([(b"b", b"2"), (b"c", b"3")], False)
    assert (store.get("m", b"a"), store.get("m", b"c")) == (b"1", None)
    assert overlay.is_current()
    transaction = store.begin()
    overlay.write_into(transaction)
    assert transaction.take() == {"m": {b"a": None, b"c": b"3"}}


def test_the_same_key_reads_the_same_although_the_state_has_moved() -> None:
    store = store_of({b"a": b"1"})
    overlay = Overlay(store)
    assert overlay.get("m", b"a") == b"1"
    store.apply(2, {"m": {b"a": b"2"}})
    assert overlay.get("m", b"a") == b"1"
    assert not overlay.is_current()


def test_a_rollback_that_gives_a_seqno_to_another_value_is_seen() -> None:
    store = store_of({b"a": b"0"})
    store.apply(2, {"m": {b"a": b"old"}})
    overlay = Overlay(store)
    overlay.get("m", b"a")
    overlay.version("m", b"a")
    store.rollback(1)
    store.apply(2, {"m": {b"a": b"new"}})
    assert not overlay.is_current()


READS: dict[str, Any] = {
    "get": lambda overlay: overlay.get("m", b"a"),
    "get of nothing": lambda overlay: overlay.get("m", b"x"),
    "version": lambda overlay: overlay.version("m", b"a"),
    "size": lambda overlay: overlay.size("m"),
    "page": lambda overlay: overlay.page("m", None, None, 256),
    "page to": lambda overlay: overlay.page("m", None, b"b", 256),
    "page of one": lambda overlay: overlay.page("m", None, None, 1),
    "page from": lambda overlay: overlay.page("m", b"b", None, 256),
    "delete": lambda overlay: overlay.delete("m", b"x"),
    "clear": lambda overlay: overlay.clear("m"),
}
CHANGES: dict[str, dict[bytes, bytes | None]] = {"other value": {b"a": b"9"}, "new key": {b"x": b"9"}, "gone": {b"a": None}}
SEEN: dict[str, set[str]] = {
    "get": {"other value", "gone"},
    "get of nothing": {"new key"},
    "version": {"other value", "gone"},
    "size": {"new key", "gone"},
    "page": {"other value", "new key", "gone"},
    "page to": {"other value", "gone"},
    "page of one": {"other value", "gone"},
    "page from": {"new key"},
    "delete": set(),  # whatever is there, it will not be
    "clear": {"new key", "gone"},
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("read", READS)
def test_a_read_is_void_when_others_change_what_it_saw_and_only_then(read: str, change: str) -> None:
    store = store_of({b"a": b"1", b"b": b"2"})
    overlay = Overlay(store)
    READS[read](overlay)
    assert overlay.is_current()
    store.apply(2, {"m": dict(CHANGES[change])})
    assert overlay.is_current() is (change not in SEEN[read])


def test_pages_are_short_and_meet_without_a_gap() -> None:
    entries = {b"%04d" % number: b"v" * (9_000 if number % 3 else 1) for number in range(700)}
    overlay = Overlay(store_of(entries))
    overlay.set("m", b"0350x", b"own")
    found: list[tuple[bytes, bytes]] = []
    pages = 0
    start, more = None, True
    while more:
        page, more = overlay.page("m", start, None, 256)
        found += page
        start = page[-1][0] + b"\0"
        pages += 1
    assert found == sorted({**entries, b"0350x": b"own"}.items())
    assert pages > 3


def test_a_page_has_bounds_and_so_many_entries_with_what_the_run_has_written() -> None:
    overlay = Overlay(store_of({b"%02d" % number: b"v" for number in range(0, 20, 2)}))
    overlay.set("m", b"05", b"own")
    overlay.delete("m", b"04")

    def keys(start: bytes | None, end: bytes | None, most: int) -> tuple[list[bytes], bool]:
        entries, more = overlay.page("m", start, end, most)
        return [key for key, _ in entries], more

    assert keys(b"03", b"09", 256) == ([b"05", b"06", b"08"], False)
    assert keys(b"03", b"08", 256) == ([b"05", b"06"], False)
    assert keys(b"03", b"09", 2) == ([b"05", b"06"], True)
    assert keys(None, b"05", 1) == ([b"00"], True)
    assert keys(b"09", b"03", 256) == ([], False)
    assert keys(b"18", None, 256) == ([b"18"], False)


KEYS = st.sampled_from([b"a", b"b", b"c"])
STEPS = st.one_of(
    st.tuples(st.just("get"), KEYS),
    st.tuples(st.just("version"), KEYS),
    st.tuples(st.just("set"), KEYS, st.sampled_from([b"1", b"2"])),
    st.tuples(st.just("delete"), KEYS),
    st.tuples(st.just("clear")),
    st.tuples(st.just("size")),
    st.tuples(st.just("page"), st.none() | KEYS, st.none() | KEYS, st.integers(1, 3)),
)
WRITES = st.dictionaries(KEYS, st.none() | st.sampled_from([b"1", b"2"]), max_size=2)


def play(overlay: Overlay, steps: list[Any]) -> list[Any]:
    """What a run of these steps sees."""
    return [getattr(overlay, name)("m", *arguments) for name, *arguments in steps]


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(KEYS, st.sampled_from([b"1", b"2"])), st.lists(st.tuples(STEPS, WRITES), max_size=8))
def test_a_run_that_is_current_is_one_that_ran_at_its_end(before: dict[bytes, bytes], story: list[Any]) -> None:
    """The oracle: the same steps played at once, in the state as it is at the end, see the same and write the same."""
    store = store_of(before)
    overlay = Overlay(store)
    seen = []
    for seqno, (step, writes) in enumerate(story, 2):
        seen += play(overlay, [step])
        store.apply(seqno, {"m": dict(writes)})
    if not overlay.is_current():
        return
    oracle = Overlay(store)
    assert play(oracle, [step for step, _ in story]) == seen
    results = []
    for each in (overlay, oracle):
        transaction = store.begin()
        each.write_into(transaction)
        results.append(transaction.take().get("m", {}))
    after = [{**dict(store.map("m").range()), **writes} for writes in results]
    assert after[0] == after[1]


def test_a_trial_tells_what_it_would_change_and_leaves_nothing() -> None:
    store = store_of({b"a": b"1", b"b": b"2"})
    overlay = Overlay(store)
    assert overlay.page("m", None, None, 256)[0] == [(b"a", b"1"), (b"b", b"2")]
    overlay.set("m", b"b", b"3")
    overlay.set("m", b"a", b"1")  # as it is
    overlay.set("m", b"c", b"4")
    overlay.delete("m", b"c")  # there was none
    overlay.delete("m", b"a")
    overlay.set("k", b"z", b"")
    assert overlay.take_trial() == [("k", b"z", None, b""), ("m", b"a", b"1", None), ("m", b"b", b"2", b"3")]
    store.apply(2, {"m": {b"a": b"9"}})
    assert overlay.is_current()
    transaction = store.begin()
    overlay.write_into(transaction)
    assert transaction.take() == {}
