"""A host's disk: what it was given, what it does with that, and what it says of it. A hostile one lies in each of these.

The enclave hands over work (`Write`); the disk carries it out piece by piece, when the driver says so, and reports. What it was truly given
stays known beside every lie, so that a host that becomes honest again has it.
"""

from collections import deque
from typing import Final, NamedTuple

LIES: Final = {
    "eager": "says that it has stored what it has not begun to store, and has lost it when it is asked",
    "failing": "cannot store anything now (ENOSPC, EIO), and says nothing",
    "lost": "gives back nothing from some entry on",
    "torn": "gives back entries that end too early",
    "flipped": "gives back entries with a bit changed",
    "misdirected": "gives back another entry in the place of the one asked for",
    "reordered": "gives back the entries in another order",
    "rolled back": "gives back what it had long ago",
    "forked": "gives back entries that were truncated, where it still has them",
    "swapped": "gives back the entries of another node's disk",
    "withheld": "does not answer",
    "mixed": "answers with the entries of another question",
    "boastful": "says that it stored what it was never given",
}
"""What a hostile disk does, by name."""


class Write(NamedTuple):
    """One piece of work. `views`: of each of the entries."""

    generation: int
    truncate_after: int | None
    first_seqno: int
    entries: list[bytes]
    views: list[int]


class Report(NamedTuple):
    """What the host says when a piece of work is done."""

    generation: int
    view: int
    seqno: int


class Disk:
    """One node's.

    Attributes:
        queue: Work that is not done.
        submitted: How many pieces of work there were.
        entries: What it was given and has stored; entry i is at i - 1.
        views: View of each of them, by seqno; `views[0]` is 0.
        lie: (name, parameter) of what it lies about now, or None.
    """

    def __init__(self) -> None:
        self.queue: deque[Write] = deque()
        self.submitted = 0
        self.entries: list[bytes] = []
        self.views: list[int] = [0]
        self.lie: tuple[str, int] | None = None
        self._truncated: dict[int, bytes] = {}

    @property
    def done(self) -> int:
        """How many of them are done."""
        return self.submitted - len(self.queue)

    def submit(self, write: Write) -> Report | None:
        """Take a piece of work; the report, if the host says at once that it is done."""
        self.submitted += 1
        if self.lie is not None and self.lie[0] == "eager":
            while self.queue:
                self._carry_out(self.queue.popleft())
            return self._carry_out(write)
        self.queue.append(write)
        return None

    def finish(self) -> Report | None:
        """The oldest piece of work is done."""
        if not self.queue or (self.lie is not None and self.lie[0] == "failing"):
            return None
        return self._carry_out(self.queue.popleft())

    def has(self, view: int, seqno: int) -> bool:
        """Whether this entry is there, or was said to be."""
        return self.views[seqno : seqno + 1] == [view]

    def _carry_out(self, write: Write) -> Report | None:
        if write.truncate_after is not None:
            for seqno in range(write.truncate_after + 1, len(self.entries) + 1):
                self._truncated[seqno] = self.entries[seqno - 1]
            del self.entries[write.truncate_after :]
            del self.views[write.truncate_after + 1 :]
        if not write.entries:
            return None
        assert write.first_seqno == len(self.entries) + 1, "the enclave leaves a gap on its disk"
        self.entries += write.entries
        self.views += write.views
        return Report(write.generation, self.views[-1], len(self.entries))

    def read(self, first: int, count: int, other: "Disk | None" = None) -> list[bytes] | None:
        """Consecutive entries from `first` on, as the host gives them; None if it does not answer.

        Args:
            other: Somebody else's disk, for a host that mixes them up.
        """
        own = self.entries[first - 1 : first - 1 + count]
        if self.lie is None:
            return own
        name, parameter = self.lie
        if name == "withheld":
            return None
        if not own:
            return own
        at = parameter % len(own)
        if name in ("lost", "eager"):
            return own[:at]
        if name == "torn":
            return [*own[:at], own[at][: parameter % len(own[at])], *own[at + 1 :]]
        if name == "flipped":
            return [*own[:at], flip(own[at], parameter * 31, parameter), *own[at + 1 :]]
        if name == "misdirected":
            return [*own[:at], self.entries[parameter * 7 % len(self.entries)], *own[at + 1 :]]
        if name == "reordered":
            return own[at:] + own[:at] if at else own[::-1]
        if name == "rolled back":
            return self.entries[: len(self.entries) * (parameter % 16) // 16][first - 1 : first - 1 + count]
        if name == "forked":
            return [self._truncated.get(seqno, data) for seqno, data in enumerate(own, first)]
        if name == "swapped":
            return other.entries[first - 1 : first - 1 + count] if other is not None else []
        if name == "mixed":
            start = parameter % len(self.entries)
            return self.entries[start : start + count]
        return own


def flip(data: bytes, where: int, bit: int) -> bytes:
    """The same with one bit changed; both numbers go round."""
    at = where % len(data)
    return data[:at] + bytes([data[at] ^ 1 << bit % 8]) + data[at + 1 :]
