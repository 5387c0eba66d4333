"""Whose jobs are next: those of one kind wait in a lane of their own, and lanes take turns.

So an endpoint whose scripts run for as long as they may has others wait for the worker that it holds, not for all that were ever asked of
it; and where there are several workers it never holds the last one, once it is known to be slow.
Not here: workers (`enclave.scripts.pool`).
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final, Generic, Protocol, TypeVar

WEIGHT: Final = 0.05  # of a job, in the average of how long those of its lane take
SLOW_SECONDS: Final = 0.1  # on average
LANES_MAX: Final = 1_000  # that are remembered; an application has a few endpoints


class Waiting(Protocol):
    """A job that waits. Attributes: lane: its lane's name."""

    @property
    def lane(self) -> str: ...


T = TypeVar("T", bound=Waiting)


class Lane(Generic[T]):
    """Jobs of one kind.

    Attributes:
        waiting: Those that wait.
        held: How many workers run some.
        seconds: How long one takes, of late, on average; None until one has ended.
    """

    __slots__ = ("held", "seconds", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[T] = deque()
        self.held = 0
        self.seconds: float | None = None

    def took(self, seconds: float) -> None:
        """One has ended, after so long."""
        self.seconds = seconds if self.seconds is None else self.seconds + WEIGHT * (seconds - self.seconds)

    @property
    def is_slow(self) -> bool:
        """Whether its jobs are of those that others should not have to wait for."""
        return self.seconds is not None and self.seconds > SLOW_SECONDS


class Lanes(Generic[T]):
    """All of them."""

    def __init__(self) -> None:
        self._lanes: dict[str, Lane[T]] = {}
        self._turns: deque[Lane[T]] = deque()  # those in which somebody waits
        self._count = 0

    def __len__(self) -> int:
        """Jobs that wait."""
        return self._count

    def __iter__(self) -> Iterator[T]:
        """All that wait."""
        for lane in self._turns:
            yield from lane.waiting

    @property
    def waiting(self) -> Iterable[Lane[T]]:
        """Lanes in which somebody waits."""
        return self._turns

    def lane(self, name: str) -> Lane[T]:
        """The lane of this name."""
        lane = self._lanes.get(name)
        if lane is None:
            if len(self._lanes) >= LANES_MAX:  # of applications that are gone; what was learnt of the others is soon learnt again
                self._lanes = {known: lane for known, lane in self._lanes.items() if lane.waiting or lane.held}
            lane = self._lanes[name] = Lane()
        return lane

    def put(self, job: T) -> None:
        """A job waits, behind those of its lane."""
        lane = self.lane(job.lane)
        if not lane.waiting:
            self._turns.append(lane)
        lane.waiting.append(job)
        self._count += 1

    def put_back(self, job: T) -> None:
        """It waits again, before all others of its lane."""
        lane = self.lane(job.lane)
        if not lane.waiting:
            self._turns.appendleft(lane)
        lane.waiting.appendleft(job)
        self._count += 1

    def next(self, workers: int) -> Lane[T] | None:
        """The lane whose turn it is; None if none may have a worker now.

        Args: workers: How many there are in all; a slow lane does not get the last one.
        """
        for _ in range(len(self._turns)):
            lane = self._turns[0]
            if not lane.is_slow or lane.held < max(workers - 1, 1):
                return lane
            self._turns.rotate(-1)
        return None

    def take(self, lane: Lane[T], most: int) -> list[T]:
        """Up to so many jobs of the lane whose turn it is; then it is the next one's."""
        taken = [lane.waiting.popleft() for _ in range(min(most, len(lane.waiting)))]
        self._count -= len(taken)
        self._turns.remove(lane)
        if lane.waiting:
            self._turns.append(lane)
        return taken

    def clear(self) -> None:
        """Nobody waits any more."""
        for lane in self._turns:
            lane.waiting.clear()
        self._turns.clear()
        self._count = 0
