"""The blocked sorted set against the sorted set of the language."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledgerd.enclave import ordered
from ledgerd.enclave.ordered import SortedKeys

keys = st.binary(max_size=3)
bounds = st.none() | keys


@given(
    initial=st.sets(keys, max_size=40),
    changes=st.lists(keys, max_size=80),
    start=bounds,
    end=bounds,
    block=st.integers(2, 9),
)
def test_keys_are_those_of_a_sorted_set(
    initial: set[bytes], changes: list[bytes], start: bytes | None, end: bytes | None, block: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ordered, "BLOCK_KEYS_MAX", block)
        ours, oracle = SortedKeys(initial), set(initial)
        for key in changes:
            if key in oracle:
                ours.remove(key)
                oracle.remove(key)
            else:
                ours.add(key)
                oracle.add(key)
        expected = [key for key in sorted(oracle) if (start is None or key >= start) and (end is None or key < end)]
        assert list(ours.keys(start, end)) == expected
        assert list(ours.keys(start, end, reverse=True)) == expected[::-1]
        assert len(ours) == len(oracle)


def test_removing_what_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyError):
        SortedKeys([b"a", b"c"]).remove(b"b")
