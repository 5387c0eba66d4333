"""Handshakes take turns: a step costs up to a millisecond, and whoever reaches a port may ask for it.

A few are taken in each wake-up, and what comes meanwhile of the others is kept, piece by piece, until their turn. Those who are past their
handshake do not wait. Not here: what a handshake says, and how long it may take (`enclave.sessions`, `enclave.channels`).
"""

from collections import deque
from collections.abc import Iterator
from typing import Final, Generic, Protocol, TypeVar

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

    __slots__ = ("_steps", "_steps_max", "_waiting")

    def __init__(self, steps_max: int) -> None:
        self._steps_max = steps_max
        self._steps = 0
        self._waiting: deque[T] = deque()

    def __bool__(self) -> bool:
        """True if somebody waits for the next wake-up, which should come at once."""
        return bool(self._waiting)

    def take(self, one: T, data: bytes) -> bool:
        """Whether `data` may be read now; otherwise it is kept. Beyond UNREAD_SIZE_BYTES_MAX the caller ends it."""
        if one.unread is None:
            if self._steps < self._steps_max:
                self._steps += 1
                return True
            one.unread = []
            self._waiting.append(one)
        one.unread.append(data)
        one.unread_bytes += len(data)
        return False

    def due(self) -> Iterator[tuple[T, bytes]]:
        """A wake-up is over: those whose turn the next one has, each with what came of it."""
        self._steps = 0
        while self._waiting and self._steps < self._steps_max:
            one = self._waiting.popleft()
            if one.unread is not None:
                data = b"".join(one.unread)
                one.unread, one.unread_bytes = None, 0
                self._steps += 1
                yield one, data
