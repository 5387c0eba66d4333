"""Handshakes take turns: a step costs up to a millisecond, and whoever reaches a port may ask for it.

A few are taken in each wake-up, and what comes meanwhile of the others is kept, piece by piece, until their turn. A wake-up that has
something else to hand over can leave them to the next one, which comes at once; but never for long. Those who are past their handshake do
not wait. Not here: what a handshake says, and how long it may take (`enclave.sessions`, `enclave.channels`).
"""

from collections import deque
from collections.abc import Iterator
from typing import Final, Generic, Protocol, TypeVar

LEFT_SECONDS_MAX: Final = 0.002  # how long wake-ups that are busy may leave handshakes: 500 steps a second are always taken
UNREAD_SIZE_BYTES_MAX: Final = 64 << 10  # that wait of one handshake; a flight with a large certificate has some 10 KiB


class Waiting(Protocol):
    """Whoever is in a handshake.

    Attributes:
        unread: What came and waits for its turn; None if it does not wait. Whoever is gone sets it to None, and has no turn any more.
        unread_bytes: Size of it.
    """

    unread: list[bytes] | None
    unread_bytes: int


T = TypeVar("T", bound=Waiting)


class Turns(Generic[T]):
    """Whose turn it is. Args: steps_max: of handshakes in one wake-up."""

    __slots__ = ("_left_since", "_steps", "_steps_max", "_waiting")

    def __init__(self, steps_max: int) -> None:
        self._steps_max = steps_max
        self._steps = 0
        self._waiting: deque[T] = deque()
        self._left_since: float | None = None

    def __bool__(self) -> bool:
        """True if somebody waits for the next wake-up, which should come at once."""
        return bool(self._waiting)

    def take(self, one: T, data: bytes) -> bool:
        """Whether `data` may be read now; otherwise it is kept. Beyond UNREAD_SIZE_BYTES_MAX the caller ends it."""
        if one.unread is None and self._steps < self._steps_max:
            self._steps += 1
            return True
        self.keep(one, data)
        return False

    def keep(self, one: T, data: bytes) -> None:
        """Keep what came until `due`. Beyond UNREAD_SIZE_BYTES_MAX the caller ends it."""
        if one.unread is None:
            one.unread = []
            self._waiting.append(one)
        one.unread.append(data)
        one.unread_bytes += len(data)

    def due(self, busy_at: float | None = None) -> Iterator[tuple[T, bytes]]:
        """A wake-up is over: those whose turn the next one has, each with what came of it.

        Args: busy_at: Monotonic seconds, if this wake-up has other things to hand over, which would have to wait for a step.
        """
        self._steps = 0
        if busy_at is not None and self._waiting:
            if self._left_since is None:
                self._left_since = busy_at
            if busy_at - self._left_since < LEFT_SECONDS_MAX:
                return
        self._left_since = None
        while self._waiting and self._steps < self._steps_max:
            one = self._waiting.popleft()
            if one.unread is not None:
                data = b"".join(one.unread)
                one.unread, one.unread_bytes = None, 0
                self._steps += 1
                yield one, data
