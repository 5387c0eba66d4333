"""The tree: the fast forms against the definition's own recursion."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledgerd.ledger.errors import FormatError, IntegrityError, UsageError
from ledgerd.ledger.merkle import LEAF_ZERO, Frontier, Path, Span, check_position, parse_tree, path, root_from_path, serialise_tree


def leaf(index: int) -> bytes:
    return LEAF_ZERO if index == 0 else sha256(b"%d" % index).digest()


def level_up(nodes: list[bytes]) -> list[bytes]:
    """A parent is the hash of its two children; an odd last node is promoted unchanged."""
    pairs = [sha256(nodes[at] + nodes[at + 1]).digest() for at in range(0, len(nodes) - 1, 2)]
    return pairs + nodes[len(pairs) * 2 :]


def defined_root(nodes: list[bytes]) -> bytes:
    return nodes[0] if len(nodes) == 1 else defined_root(level_up(nodes))


def defined_path(nodes: list[bytes], index: int) -> Path:
    if len(nodes) == 1:
        return []
    own: Path = []
    if index % 2:
        own = [(True, nodes[index - 1])]
    elif index + 1 < len(nodes):
        own = [(False, nodes[index + 1])]
    return own + defined_path(level_up(nodes), index // 2)


def frontier(size: int) -> Frontier:
    """The frontier over the first `size` leaves, at least leaf 0."""
    made = Frontier()
    for index in range(1, size):
        made.append(leaf(index))
    return made


SIZES = st.integers(1, 200)


def test_an_empty_ledger_s_root_is_leaf_zero() -> None:
    assert Frontier().root() == bytes(32)
    assert Frontier().size == 1


@given(SIZES)
def test_roots_are_the_definition_s(size: int) -> None:
    assert frontier(size).root() == defined_root([leaf(index) for index in range(size)])


@given(st.data(), SIZES)
def test_paths_are_the_definition_s(data: st.DataObject, size: int) -> None:
    base = data.draw(st.integers(1, size))
    nodes = [leaf(index) for index in range(size)]
    span = Span(frontier(base), nodes[base:])
    if base == size:
        return
    index = data.draw(st.integers(base, size - 1))
    found = span.path(index)
    assert found == path(frontier(base), base, nodes[base:], index, size) == defined_path(nodes, index)
    assert span.root() == defined_root(nodes) == root_from_path(leaf(index), found)
    check_position(index, found)
    check_position(index, found, size)


@given(st.data(), st.integers(2, 120))
def test_a_path_fits_no_other_position_of_its_tree(data: st.DataObject, size: int) -> None:
    index = data.draw(st.integers(0, size - 1))
    other = data.draw(st.integers(0, 130).filter(lambda number: number != index))
    found = defined_path([leaf(number) for number in range(size)], index)
    with pytest.raises(IntegrityError):
        check_position(other, found, size)
    with pytest.raises(IntegrityError):
        check_position(index, [*found, (False, bytes(32))], size)
    if found:
        with pytest.raises(IntegrityError):
            check_position(index, found[:-1], size)


def test_a_path_of_wrong_length_is_refused() -> None:
    """Leaf 0's path in a tree of 5: the same sides as in one of 8, but the size says which."""
    nodes = [leaf(index) for index in range(8)]
    check_position(0, defined_path(nodes[:5], 0), 8)
    with pytest.raises(IntegrityError):
        check_position(0, defined_path(nodes[:4], 0), 8)
    with pytest.raises(IntegrityError):
        check_position(4, defined_path(nodes[:5], 4), 8)
    with pytest.raises(IntegrityError):
        check_position(8, defined_path(nodes, 7), 8)


@given(st.data(), SIZES)
def test_copies_are_independent(data: st.DataObject, size: int) -> None:
    made = frontier(size)
    kept = made.copy()
    root = made.root()
    for _ in range(data.draw(st.integers(1, 9))):
        made.append(bytes(32))
    assert kept == frontier(size)
    assert kept.root() == root
    assert made != kept


@given(st.data(), SIZES)
def test_a_serialised_tree_comes_back(data: st.DataObject, size: int) -> None:
    base = data.draw(st.integers(1, size))
    leaves = [leaf(index) for index in range(base, size)]
    tree = parse_tree(serialise_tree(frontier(base), leaves))
    assert (tree.below, tree.base, tree.leaves) == (frontier(base), base, leaves)


def test_the_serialised_form_is_ccf_s() -> None:
    """Big-endian: leaves kept, leaves below, the leaves, then the flushed subtrees from the smallest up."""
    peaks = [sha256(b"four").digest(), sha256(b"two").digest()]
    data = serialise_tree(Frontier(peaks, 6), [leaf(6), leaf(7)])
    assert data == (2).to_bytes(8, "big") + (6).to_bytes(8, "big") + leaf(6) + leaf(7) + peaks[1] + peaks[0]


def test_a_tree_of_all_leaves_is_accepted() -> None:
    """Writers that never flush keep leaf 0 too, above an empty frontier."""
    tree = parse_tree((2).to_bytes(8, "big") + bytes(8) + leaf(0) + leaf(1))
    assert (tree.below.size, tree.leaves) == (0, [leaf(0), leaf(1)])
    for item in tree.leaves:
        tree.below.append(item)
    assert tree.below == frontier(2)


@given(st.binary(max_size=120))
def test_trees_of_another_length_are_refused(data: bytes) -> None:
    try:
        tree = parse_tree(data)
    except FormatError:
        return
    assert serialise_tree(tree.below, tree.leaves) == data


def test_every_cut_of_a_tree_is_refused() -> None:
    data = serialise_tree(frontier(6), [leaf(6)])
    for end in range(len(data)):
        with pytest.raises(FormatError):
            parse_tree(data[:end])
    with pytest.raises(FormatError):
        parse_tree(data + b"\x00")


def test_misuse_is_refused() -> None:
    nodes = [leaf(index) for index in range(8)]
    with pytest.raises(UsageError):
        Frontier([], 1)
    with pytest.raises(UsageError):
        Frontier([], 0).root()
    for base, index, size in ((4, 3, 8), (4, 8, 8), (4, 5, 9), (3, 5, 8)):
        with pytest.raises(UsageError):
            path(frontier(4), base, nodes[4:], index, size)
    with pytest.raises(UsageError):
        Span(frontier(4), []).root()
    with pytest.raises(UsageError):
        Span(frontier(4), nodes[4:]).path(3)
