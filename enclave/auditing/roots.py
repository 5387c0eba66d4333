"""Roots of the ledger's tree as they were: which of them a proposal's id was made from.

The service takes the root that it has reached when it executes a proposal, which may be a while before the entry that it becomes: its
scripts run meanwhile, and entries of others are sealed. So an auditor looks for it, newest first, among the last roots of this ledger.
That an id follows from one of them is what binds a proposal, and all ballots on it, to this service.
"""

from collections import deque
from hashlib import sha256
from typing import Final

from ledgerd.ledger.merkle import Frontier

BLOCK_LEAVES: Final = 64
ROOTS_MAX: Final = 1 << 17  # entries that may pass while scripts run: 20,000 a second for six of theirs


class Roots:
    """The tree over the entries so far, and what it takes to make its last roots again."""

    def __init__(self) -> None:
        self._tip = Frontier()
        self._blocks: deque[tuple[Frontier, list[bytes]]] = deque([(self._tip.copy(), [])], maxlen=ROOTS_MAX // BLOCK_LEAVES)

    def append(self, leaf: bytes) -> None:
        """Add the leaf of the next entry."""
        leaves = self._blocks[-1][1]
        if len(leaves) == BLOCK_LEAVES:
            leaves = []
            self._blocks.append((self._tip.copy(), leaves))
        self._tip.append(leaf)
        leaves.append(leaf)

    def behind(self, proposal_id: str, digest: bytes) -> bytes | None:
        """The root from which a proposal's id was made; None if it is none of the last ones.

        Args: digest: SHA-256 of the signature under the proposal.
        """
        for below, leaves in reversed(self._blocks):
            frontier = below.copy()
            roots = [frontier.root()]
            for leaf in leaves:
                frontier.append(leaf)
                roots.append(frontier.root())
            for root in reversed(roots):
                if sha256(root + digest).hexdigest() == proposal_id:
                    return root
        return None
