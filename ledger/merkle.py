"""The ledger's Merkle tree, as CCF builds it. Pure.

Leaf 0 is 32 zero bytes and leaf i belongs to seqno i. A parent is SHA-256(left || right); an odd last node moves up
unchanged. The signature entry at seqno N signs the root over leaves 0 to N-1; then its own leaf joins.
`Frontier` grows with the ledger in constant memory; `Span` answers paths for a stretch of leaves. Digests are 32 bytes.
Not here: what a leaf is made of (`ledger.entry`), signatures over roots (`ledger.cose`, `ledger.signature`).
"""

import struct
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from ledgerd.ledger.errors import FormatError, IntegrityError, UsageError

Path = list[tuple[bool, bytes]]
"""Sibling digests from the leaf upward; True where the sibling stands left."""

LEAF_ZERO: Final = bytes(32)
PATH_LENGTH_MAX: Final = 63  # seqnos have 63 bits
_TREE_HEAD = struct.Struct(">QQ")


class Frontier:
    """The roots of the complete subtrees over all leaves so far: enough to append and to give the root.

    A new one holds leaf 0, so its size is 1. `peaks` go from the largest subtree (left) to the smallest.
    """

    __slots__ = ("peaks", "size")

    def __init__(self, peaks: Sequence[bytes] = (LEAF_ZERO,), size: int = 1) -> None:
        """Raises: UsageError: The number of peaks is not that of a tree of `size` leaves."""
        if size < 0 or size.bit_count() != len(peaks):
            raise UsageError(f"a tree of {size} leaves has {max(size, 0).bit_count()} peaks, not {len(peaks)}")
        self.peaks = list(peaks)
        self.size = size

    def append(self, leaf: bytes) -> None:
        """Add the leaf of the next entry."""
        peaks = self.peaks
        size = self.size
        self.size = size + 1
        while size & 1:
            leaf = sha256(peaks.pop() + leaf).digest()
            size >>= 1
        peaks.append(leaf)

    def extend(self, leaves: Sequence[bytes]) -> None:
        """Add the leaves of the next entries, level by level: the same as `append` of each, at little more than the cost of the hashes."""
        level = list(leaves)
        size = self.size
        self.size = size + len(level)
        peaks = self.peaks
        below: list[bytes] = []  # new peaks, smallest first
        digest_of = sha256
        while level:
            if size & 1:
                level.insert(0, peaks.pop())
            if len(level) & 1:
                below.append(level.pop())
            level = [digest_of(left + right).digest() for left, right in zip(level[::2], level[1::2], strict=True)]
            size >>= 1
        peaks += below[::-1]

    def root(self) -> bytes:
        """Return the root over all leaves so far. Raises: UsageError: There are none."""
        if not self.peaks:
            raise UsageError("a tree without leaves has no root")
        node = self.peaks[-1]
        for peak in self.peaks[-2::-1]:
            node = sha256(peak + node).digest()
        return node

    def copy(self) -> "Frontier":
        """Return an independent frontier of the same tree: a few dozen digests."""
        other = Frontier.__new__(Frontier)
        other.peaks = self.peaks.copy()
        other.size = self.size
        return other

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Frontier) and self.size == other.size and self.peaks == other.peaks

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"Frontier(size={self.size})"


class Span:
    """All nodes over a stretch of leaves, to answer many paths: about one hash a leaf once, then none.

    Args:
        below: The frontier over leaves 0 to base - 1, where base = `below.size`; of those only the peaks are known.
        leaves: Leaves base to size - 1. The tree has `below.size + len(leaves)` leaves.
    """

    __slots__ = ("_levels", "base", "size")

    def __init__(self, below: Frontier, leaves: Iterable[bytes]) -> None:
        level = list(leaves)
        self.base = below.size
        self.size = count = below.size + len(level)
        first = below.size
        peaks = below.peaks.copy()
        self._levels: list[tuple[int, list[bytes]]] = []
        while count > 1:
            if first & 1:
                level.insert(0, peaks.pop())
                first -= 1
            self._levels.append((first, level))
            above = [sha256(left + right).digest() for left, right in zip(level[::2], level[1::2], strict=False)]
            if len(level) & 1:
                above.append(level[-1])
            first >>= 1
            count = (count + 1) >> 1
            level = above
        self._levels.append((first, level))

    def root(self) -> bytes:
        """Return the root. Raises: UsageError: There are no leaves above base to compute it from."""
        first, level = self._levels[-1]
        if first or len(level) != 1:
            raise UsageError("this span has no leaves of its own; ask its frontier for the root")
        return level[0]

    def path(self, index: int) -> Path:
        """Return the path of leaf `index`. Raises: UsageError: It is not in this span."""
        if not self.base <= index < self.size:
            raise UsageError(f"leaf {index} is not in the span {self.base} to {self.size - 1}")
        path: Path = []
        for first, level in self._levels[:-1]:
            at = index - first
            if index & 1:
                path.append((True, level[at - 1]))
            elif at + 1 < len(level):
                path.append((False, level[at + 1]))
            index >>= 1
        return path


def path(below: Frontier, base: int, leaves: Sequence[bytes], index: int, size: int) -> Path:
    """Return the path of leaf `index` in the tree of the first `size` leaves.

    Args:
        below: The frontier over leaves 0 to base - 1.
        base: The index of `leaves[0]`; must be `below.size`.
        leaves: Leaves from `base` on, at least up to size - 1.
        index: base <= index < size.
    Raises: UsageError: The numbers contradict each other. For many paths of one tree make a `Span` once.
    """
    if base != below.size or not base <= index < size <= base + len(leaves):
        raise UsageError(f"leaf {index} of {size}: known are {base} to {base + len(leaves) - 1}, the frontier is at {below.size}")
    return Span(below, leaves[: size - base]).path(index)


def root_from_path(leaf: bytes, path: Iterable[tuple[bool, bytes]]) -> bytes:
    """Fold a path into the root that it leads to. It proves nothing until a signature over that root is verified."""
    node = leaf
    for left, sibling in path:
        node = sha256(sibling + node if left else node + sibling).digest()
    return node


def check_position(index: int, path: Sequence[tuple[bool, bytes]], size: int | None = None) -> None:
    """Check that a path has the shape of leaf `index`'s path in a tree, of `size` leaves where that is known.

    Within one tree the sides of a path name its leaf; where the size is not known, they only exclude most others.
    Raises: IntegrityError: No tree (of this size) gives leaf `index` such a path.
    """
    at = index
    promoted = False  # once a node is the last of its level, so is every node above it: no right sibling follows
    for left, _ in path:
        if left:
            while at and not at & 1:
                promoted = True
                at >>= 1
            if not at:
                break
        elif promoted or at & 1:
            break
        at >>= 1
    else:
        if at == 0 and (size is None or len(path) == _path_length(index, size)):
            return
    raise IntegrityError(f"a path of {len(path)} digests with these sides does not lead from leaf {index}; the proof is of another entry")


def _path_length(index: int, size: int) -> int:
    """Return how many siblings leaf `index` has on its way up in a tree of `size` leaves; -1 where it is not in the tree."""
    if not 0 <= index < size:
        return -1
    length = 0
    last = size - 1
    while last:
        length += index & 1 or index < last
        index >>= 1
        last >>= 1
    return length


class Tree(NamedTuple):
    """What a signature entry says about the tree: a frontier, and the leaves that follow it."""

    below: Frontier
    base: int
    leaves: list[bytes]


def serialise_tree(below: Frontier, leaves: Sequence[bytes]) -> bytes:
    """Encode a tree as CCF does in `public:ccf.internal.tree`.

    Big-endian: number of leaves, number of leaves below them, the leaves, the subtree roots below from smallest to largest.
    """
    return b"".join((_TREE_HEAD.pack(len(leaves), below.size), *leaves, *below.peaks[::-1]))


def parse_tree(data: bytes) -> Tree:
    """Decode what `serialise_tree` encodes. Raises: FormatError: The length is not what its two numbers ask for."""
    if len(data) < _TREE_HEAD.size:
        raise FormatError(f"a serialised tree has at least 16 bytes, not {len(data)}")
    count, base = _TREE_HEAD.unpack_from(data)
    if base >> 63 or len(data) != _TREE_HEAD.size + 32 * (count + base.bit_count()):
        raise FormatError(f"a serialised tree of {count} leaves above {base} cannot have {len(data)} bytes")
    digests = [data[at : at + 32] for at in range(_TREE_HEAD.size, len(data), 32)]
    return Tree(Frontier(digests[: count - 1 : -1] if count else digests[::-1], base), base, digests[:count])
