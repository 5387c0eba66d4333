"""The store against a model that keeps a whole copy of the state for every version."""

import copy
from typing import TypeAlias

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ledgerd.enclave import kv, ordered
from ledgerd.enclave.endpoints import ApplicationMaps
from ledgerd.enclave.kv import Store
from ledgerd.ledger.entry import WriteSet
from ledgerd.ledger.errors import UsageError

NAMES = ("records", "public:records", "short")
WINDOW = 3  # of the map "short"
Model: TypeAlias = dict[str, dict[bytes, tuple[bytes, int]]]

names = st.sampled_from(NAMES)
keys = st.binary(max_size=2) | st.sampled_from([b"a", b"b", b"c"])
values = st.binary(max_size=2)
writes = st.dictionaries(names, st.dictionaries(keys, st.none() | values, max_size=6), max_size=3)


class StoreAgainstModel(RuleBasedStateMachine):
    """The model: `states[i]` is the whole state at seqno `base + i`; nothing below `base` is kept."""

    @initialize(block=st.integers(2, 6), order_early=st.booleans(), handles_max=st.integers(0, 3), held=st.booleans())
    def start(self, block: int, order_early: bool, handles_max: int, held: bool) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(ordered, "BLOCK_KEYS_MAX", block)
        self.patch.setattr(kv, "_PAGE_KEYS", block)
        self.patch.setattr(kv, "_HANDLES_MAX", handles_max)
        self.store = Store({"short": WINDOW})
        self.base = 0
        self.states: list[Model] = [{name: {} for name in NAMES}]
        self.views = [self.store.map(name) for name in NAMES] if held else []
        if order_early:
            for name in NAMES:
                self.store.map(name).range()

    def teardown(self) -> None:
        self.patch.undo()

    @property
    def version(self) -> int:
        return self.base + len(self.states) - 1

    @property
    def state(self) -> Model:
        return self.states[-1]

    def _apply_to_model(self, changes: WriteSet) -> None:
        self.states.append(copy.deepcopy(self.state))
        for name, pairs in changes.items():
            for key, value in pairs.items():
                if value is None:
                    self.state[name].pop(key, None)
                else:
                    self.state[name][key] = (value, self.version)

    @rule(changes=writes)
    def apply_an_entry(self, changes: WriteSet) -> None:
        self.store.apply(self.version + 1, changes)
        self._apply_to_model(changes)

    @rule(data=st.data())
    def run_a_transaction(self, data: st.DataObject) -> None:
        transaction = self.store.begin()
        seen = {name: {key: value for key, (value, _) in pairs.items()} for name, pairs in self.state.items()}
        for _ in range(data.draw(st.integers(0, 8))):
            name, key = data.draw(st.sampled_from(NAMES[:2])), data.draw(keys)
            handle, pairs = transaction.map(name), seen[name]
            action = data.draw(st.sampled_from(("set", "delete", "clear", "get", "range", "items")))
            if action == "set":
                value = data.draw(values)
                handle.set(key, value)
                pairs[key] = value
            elif action == "delete":
                assert handle.delete(key) == (key in pairs)
                pairs.pop(key, None)
            elif action == "clear":
                handle.clear()
                pairs.clear()
            elif action == "get":
                assert handle.get(key) == pairs.get(key)
                assert handle.has(key) == (key in pairs)
                assert handle.version_of(key) == self.state[name].get(key, (None, None))[1]
            elif action == "range":
                start, end = data.draw(st.none() | keys), data.draw(st.none() | keys)
                limit, reverse = data.draw(st.none() | st.integers(0, 5)), data.draw(st.booleans())
                expected = sorted(
                    ((k, v) for k, v in pairs.items() if (start is None or k >= start) and (end is None or k < end)), reverse=reverse
                )
                assert handle.range(start, end, limit=limit, reverse=reverse) == expected[:limit]
            else:
                assert list(handle.items()) == sorted(pairs.items())
            assert handle.size() == len(pairs)
        if data.draw(st.booleans()):
            transaction.discard()
            return
        changes = transaction.take()
        for name, change in changes.items():
            assert change, "a map without writes is not part of a write set"
            assert all(value is not None or key in self.state[name] for key, value in change.items()), "only what is there is removed"
        self.store.apply(self.version + 1, changes)
        self._apply_to_model(changes)
        assert {name: {key: value for key, (value, _) in pairs.items()} for name, pairs in self.state.items()} == seen

    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        to = data.draw(st.integers(self.base, self.version))
        self.store.rollback(to)
        del self.states[to - self.base + 1 :]

    @rule(data=st.data())
    def compact(self, data: st.DataObject) -> None:
        to = data.draw(st.integers(self.base, self.version))
        self.store.compact(to)
        del self.states[: to - self.base]
        self.base = to

    @invariant()
    def the_states_are_equal(self) -> None:
        if not hasattr(self, "store"):
            return
        assert self.store.version == self.version
        for name, state in self.state.items():
            pairs = state
            view = self.store.map(name)
            found = {key: (value, view.version_of(key)) for key, value in view.items()}
            if name == "short":  # what outlived its window may be there or not, but nobody may rely on it
                found = {key: slot for key, slot in found.items() if (slot[1] or 0) > self.version - WINDOW}
                pairs = {key: slot for key, slot in state.items() if slot[1] > self.version - WINDOW}
            else:
                assert view.size() == len(pairs)
            assert found == pairs
            assert all(kept.size() == view.size() for kept in self.views if kept.name == name), "a view follows its map for ever"
            assert all(self.store.get(name, key) == value for key, (value, _) in pairs.items())


TestStoreAgainstModel = StoreAgainstModel.TestCase
TestStoreAgainstModel.settings = settings(max_examples=150, stateful_step_count=20, deadline=None)


def test_entries_are_applied_in_order_without_gaps() -> None:
    store = Store()
    store.apply(1, {})
    for wrong in (1, 3, 0):
        with pytest.raises(UsageError):
            store.apply(wrong, {})
    assert store.version == 1


def test_nothing_is_rolled_back_below_a_commit_or_above_the_end() -> None:
    store = Store()
    for seqno in range(1, 5):
        store.apply(seqno, {"m": {b"k": bytes([seqno])}})
    store.compact(2)
    for wrong in (1, 5):
        with pytest.raises(UsageError):
            store.rollback(wrong)
    with pytest.raises(UsageError):
        store.compact(5)
    store.rollback(2)
    assert store.get("m", b"k") == b"\x02"


def test_a_state_loaded_at_once_has_nothing_to_undo() -> None:
    store = Store()
    store.apply(1, {"m": {b"k": b"v"}})
    store.start_at(100)
    store.apply(101, {"m": {b"k": b"w"}})
    with pytest.raises(UsageError):
        store.rollback(99)
    store.rollback(100)
    assert store.get("m", b"k") == b"v"


def test_a_readonly_transaction_cannot_write() -> None:
    store = Store()
    store.apply(1, {"m": {b"k": b"v"}})
    handle = store.begin(readonly=True).map("m")
    for write in (lambda: handle.set(b"k", b"w"), lambda: handle.delete(b"k"), handle.clear):
        with pytest.raises(UsageError):
            write()
    assert handle.get(b"k") == b"v"


@pytest.mark.parametrize(("key", "value"), [("text", b"v"), (b"k", "text"), (b"k", bytearray(b"v")), (b"k", None)])
def test_keys_and_values_are_bytes_and_nothing_else(key: bytes, value: bytes) -> None:
    transaction = Store().begin()
    with pytest.raises(UsageError):
        transaction.map("m").set(key, value)
    assert transaction.writes == {}


def test_a_transaction_that_was_not_ended_leaves_nothing_for_the_next() -> None:
    store = Store()
    store.begin().map("m").set(b"k", b"v")
    transaction = store.begin()
    assert not transaction.touched
    assert transaction.map("m").get(b"k") is None
    assert transaction.take() == {}


def test_undo_is_given_up_at_commit() -> None:
    store = Store()
    for seqno in range(1, 1001):
        store.apply(seqno, {"m": {b"k%d" % (seqno % 10): b"v"}})
        store.compact(seqno)
    assert len(store._undo) == 0


def test_records_that_outlived_their_window_are_given_up_at_commit() -> None:
    store = Store({"m": 10})
    for seqno in range(1, 1001):
        store.apply(seqno, {"m": {b"k%d" % seqno: b"v"}})
        store.compact(seqno)
    assert store.map("m").size() == 10
    assert len(store._expiring["m"]) == 10


def test_records_that_were_rolled_back_are_not_waited_for() -> None:
    store = Store({"m": 10})
    for _ in range(100):
        store.apply(1, {"m": {b"k": b"v"}})
        store.rollback(0)
    assert len(store._expiring["m"]) == 0


def test_a_record_rewritten_within_its_window_lives_on() -> None:
    store = Store({"m": 3})
    store.apply(1, {"m": {b"k": b"old"}})
    store.apply(2, {"m": {b"k": b"new"}})
    store.apply(3, {})
    store.apply(4, {})
    store.compact(4)
    assert store.get("m", b"k") == b"new"


def test_pages_can_be_walked_while_the_map_changes() -> None:
    store = Store()
    store.apply(1, {"m": {b"%04d" % number: b"v" for number in range(1500)}})
    handle = store.begin().map("m")
    seen = []
    for key, _ in handle.items():
        seen.append(key)
        handle.delete(key)
        handle.set(b"0000", b"behind the cursor")
    assert seen == [b"%04d" % number for number in range(1500)]
    assert handle.size() == 1


def test_names_are_of_maps_that_hold_something() -> None:
    store = Store()
    store.map("looked at")
    store.apply(1, {"b": {b"k": b"v"}, "a": {b"k": b"v"}})
    store.apply(2, {"b": {b"k": None}})
    assert store.names() == ["a"]


def test_names_that_were_only_asked_for_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers of an application may think of names without end."""
    monkeypatch.setattr(kv, "_HANDLES_MAX", 10)
    store = Store()
    for number in range(1_000):
        transaction = store.begin()
        assert transaction.map(f"m{number}").get(b"k") is None
        assert store.map(f"n{number}").size() == 0
        assert transaction.applied(f"o{number}").range() == []
        transaction.discard()
    assert store._maps == {}
    assert len(transaction._handles) <= kv._HANDLES_MAX + 1


def test_names_of_maps_that_hold_nothing_any_more_are_forgotten() -> None:
    store = Store()
    for number in range(100):
        store.apply(2 * number + 1, {f"m{number}": {b"k": b"v"}})
        store.apply(2 * number + 2, {f"m{number}": {b"k": None}})
    assert store._maps == {}
    store.rollback(151)  # all of it may be undone
    assert store.get("m75", b"k") == b"v"
    store.compact(151)
    assert store.names() == ["m75"] == list(store._maps)


def test_a_map_is_forgotten_with_the_last_record_that_outlived_its_window() -> None:
    store = Store({"m": 1})
    store.apply(1, {"m": {b"k": b"v"}})
    store.apply(2, {})
    store.compact(2)
    assert store._maps == {}
    store.rollback(2)
    assert store._maps == {}


def test_an_application_s_maps_are_the_transaction_s_also_after_handles_were_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one map would have two in one request, and each would not see what the other writes."""
    monkeypatch.setattr(kv, "_HANDLES_MAX", 10)
    store = Store()
    transaction = store.begin()
    maps = ApplicationMaps(transaction)
    first = maps["records"]
    for number in range(20):
        maps[f"m{number}"].get(b"k")
    assert maps["records"] is first
    store.begin()
    maps["records"].set(b"k", b"v")
    assert transaction.map("records").get(b"k") == b"v"
    assert transaction.take() == {"records": {b"k": b"v"}}
