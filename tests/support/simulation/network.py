"""What is on its way between nodes, and what a network may do with it. Deterministic: who calls says which packet, and what happens to it.

A link carries from one end to another, in order unless told otherwise. Packets are opaque. Not here: who decides (`driver`).
"""

from collections import deque
from typing import Any, Final

Pair = tuple[str, str]
_KEPT: Final = 12  # packets of a link that are remembered, to be sent again much later


class Network:
    """All links.

    Attributes:
        busy: Links with something on them, for whoever draws one.
        cut: Links that carry nothing now.
        holds: Whether a cut link keeps what it is given until it is mended; else that is lost.
    """

    def __init__(self, holds: bool) -> None:
        self.holds = holds
        self.busy: list[Pair] = []
        self.cut: set[Pair] = set()
        self._links: dict[Pair, deque[Any]] = {}
        self._at: dict[Pair, int] = {}  # place in `busy`
        self._old: dict[Pair, deque[Any]] = {}

    def post(self, pair: Pair, packet: Any) -> None:
        """Something sets out."""
        if pair in self.cut and not self.holds:
            return
        link = self._links.get(pair)
        if link is None:
            link = self._links[pair] = deque()
            self._old[pair] = deque(maxlen=_KEPT)
        if not link:
            self._at[pair] = len(self.busy)
            self.busy.append(pair)
        link.append(packet)

    def pending(self, pair: Pair) -> int:
        """How much is on its way."""
        link = self._links.get(pair)
        return len(link) if link else 0

    def take(self, pair: Pair, index: int = 0) -> Any | None:
        """Something arrives; None if there is no such packet, or the link is cut."""
        link = self._links.get(pair)
        if not link or index >= len(link) or pair in self.cut:
            return None
        packet = link.popleft() if not index else link[index]
        if index:
            del link[index]
        self._old[pair].append(packet)
        if not link:
            self._idle(pair)
        return packet

    def peek(self, pair: Pair, index: int = 0) -> Any | None:
        """What would arrive."""
        link = self._links.get(pair)
        return link[index] if link and index < len(link) else None

    def put_back(self, pair: Pair, packet: Any) -> None:
        """Put something in the place of what `peek` has shown."""
        self._links[pair][0] = packet

    def lose(self, pair: Pair, index: int = 0) -> bool:
        """One packet never arrives."""
        link = self._links.get(pair)
        if not link or index >= len(link):
            return False
        del link[index]
        if not link:
            self._idle(pair)
        return True

    def lose_all(self, pair: Pair) -> None:
        """Everything on the way is lost."""
        link = self._links.get(pair)
        if link:
            link.clear()
            self._idle(pair)

    def repeat(self, pair: Pair, index: int = 0) -> bool:
        """One packet will arrive twice, the second time behind all others."""
        link = self._links.get(pair)
        if not link or index >= len(link):
            return False
        link.append(link[index])
        return True

    def replay(self, pair: Pair, index: int) -> bool:
        """A packet that has arrived before sets out again."""
        old = self._old.get(pair)
        if not old or index >= len(old) or pair in self.cut:
            return False
        self.post(pair, old[index])
        return True

    def mend(self) -> None:
        """All links carry."""
        self.cut.clear()

    def _idle(self, pair: Pair) -> None:
        at = self._at.pop(pair)
        last = self.busy.pop()
        if last != pair:
            self.busy[at] = last
            self._at[last] = at
