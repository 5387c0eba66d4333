"""Answers that wait: for commit, for confirmation of the primary, or for their time limit.

Answers are kept in ledger order, so that one commit of a thousand transactions is one sweep over a deque.
Not here: sending (`enclave.core`), what `prefer` says (`enclave.prefer`).
"""

from collections import deque
from typing import Any, Final, NamedTuple

from ledgerd.enclave.requests import Response
from ledgerd.ledger.ids import Seqno, TransactionId

SWEEP_SECONDS: Final = 0.005  # between two sweeps: thousands may wait, each for a moment of its own, while nothing commits


class Held(NamedTuple):
    """One answer that waits until `id` is committed.

    `response`: without the headers that tell `id`. `deadline`: monotonic seconds after which it leaves as 202; infinity without limit.
    """

    id: TransactionId
    reply_to: Any
    response: Response
    wants_receipt: bool
    deadline: float


class HeldAnswers:
    """Answers in the order of their seqnos. Bounded by the sessions that wait for them, one or a pipeline each.

    Attributes:
        next_deadline: When to look for those that have waited for too long: earlier than the first has if it was taken since, and later by
            `SWEEP_SECONDS` at most.
    """

    def __init__(self) -> None:
        self._held: deque[Held] = deque()
        self.next_deadline = float("inf")

    def hold(self, held: Held) -> None:
        """Keep an answer. Nearly always its seqno is the highest; a repeated request's can be lower."""
        queue = self._held
        transaction, _, _, _, deadline = held
        seqno = transaction[1]
        if not queue or queue[-1][0][1] <= seqno:  # by index, since it is done for every write
            queue.append(held)
        else:
            at = len(queue) - 1
            while at and queue[at - 1].id.seqno > seqno:
                at -= 1
            queue.insert(at, held)
        self.next_deadline = min(self.next_deadline, deadline)

    def take_committed(self, commit: Seqno, count_max: int) -> list[Held]:
        """Take every answer at or below `commit`, in order, but so many at most."""
        held = self._held
        taken: list[Held] = []
        while held and held[0][0][1] <= commit and len(taken) < count_max:
            taken.append(held.popleft())
        return taken

    def has_committed(self, commit: Seqno) -> bool:
        """Whether there is an answer at or below `commit`."""
        return bool(self._held) and self._held[0].id.seqno <= commit

    def take_rolled_back(self, to: Seqno) -> list[Held]:
        """Take every answer above `to`: its transaction is undone."""
        held = self._held
        taken = []
        while held and held[-1].id.seqno > to:
            taken.append(held.pop())
        taken.reverse()
        return taken

    def take_all(self) -> list[Held]:
        """Take every answer."""
        taken = list(self._held)
        self._held.clear()
        self.next_deadline = float("inf")
        return taken

    def take_expired(self, now: float) -> list[Held]:
        """Take every answer whose time limit has passed. Costs a sweep, but only when something has expired."""
        if now < self.next_deadline:
            return []
        taken = [held for held in self._held if held.deadline <= now]
        if taken:
            self._held = deque(held for held in self._held if held.deadline > now)
        self.next_deadline = max(now + SWEEP_SECONDS, min((held.deadline for held in self._held), default=float("inf")))
        return taken
