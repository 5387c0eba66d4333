"""Is a history of one register linearizable? Wing and Gong's search, with Lowe's memory of where it has been.

An operation reads, writes, or does both at once. Each took effect at one moment between its call and its return; one that never returned
may have done so at any later moment, or never. The history is linearizable if there are such moments under which every read sees the last
write.
Objects are independent of each other, so a history of many keys is judged key by key (Herlihy and Wing's locality).
Source: Wing, Gong: Testing and verifying concurrent objects (1993); Lowe: Testing for linearizability (2017).
"""

from collections.abc import Sequence
from math import inf
from typing import Final, NamedTuple


class Anything:
    """What an operation that does not read has read, and what one that does not write has written."""

    def __repr__(self) -> str:
        return "-"


ANYTHING: Final = Anything()
Value = str | None
"""A register's content; None is the content of one that was never written, or whose key was removed."""


class Operation(NamedTuple):
    """One operation on the register.

    Attributes:
        invoked, returned: When, by one clock for all clients; `returned` is infinity if nobody knows whether it took effect.
        read: What it saw, or ANYTHING.
        written: What it left, or ANYTHING.
        what: For messages.
    """

    invoked: float
    returned: float
    read: Value | Anything
    written: Value | Anything
    what: str = ""


class Verdict(NamedTuple):
    """Whether it is linearizable; if not, the longest order that could be found, and those that fit nowhere after it."""

    is_linearizable: bool
    order: list[Operation]
    stuck: list[Operation]


def judge(operations: Sequence[Operation], initial: Value = None) -> Verdict:
    """Look for an order.

    Args:
        operations: In any order. Two that touch in time (one returns when the other is called) count as concurrent.
        initial: What the register holds before all of them.
    """
    operations = _without_the_unseen(operations, initial)
    count = len(operations)
    calls = sorted(range(count), key=lambda i: operations[i].invoked)
    returns = sorted(range(count), key=lambda i: operations[i].returned)
    required = sum(1 << i for i in range(count) if operations[i].returned < inf)

    done = 0  # bit i: operation i is in the order
    value = initial
    order: list[int] = []
    values: list[Value] = []
    first_call, first_return = 0, 0  # before these, everything is in the order
    seen: set[tuple[int, Value]] = set()
    longest: list[int] = []
    position = 0  # in `calls`: the next candidate
    starts: list[tuple[int, int]] = []
    while required & ~done:
        while first_return < count and done >> returns[first_return] & 1:
            first_return += 1
        while first_call < count and done >> calls[first_call] & 1:
            first_call += 1
        # Only what was called before the first of the missing ones returned may come next.
        limit = operations[returns[first_return]].returned
        position = max(position, first_call)
        chosen = -1
        while position < count and operations[calls[position]].invoked <= limit:
            candidate = calls[position]
            if not done >> candidate & 1:
                _, _, read, written, _ = operations[candidate]
                if read is ANYTHING or read == value:
                    after = value if isinstance(written, Anything) else written
                    key = (done | 1 << candidate, after)
                    if key not in seen:
                        seen.add(key)
                        chosen = candidate
                        break
            position += 1
        if chosen >= 0:
            order.append(chosen)
            values.append(value)
            starts.append((position, first_call))
            done |= 1 << chosen
            value = after
            position = 0
            if len(order) > len(longest):
                longest = order.copy()
        elif order:
            undone = order.pop()
            done &= ~(1 << undone)
            value = values.pop()
            position, first_call = starts.pop()
            position += 1
            first_return = 0
        else:
            left = [operations[i] for i in calls if required >> i & 1 and i not in longest]
            return Verdict(False, [operations[i] for i in longest], left)
    return Verdict(True, [operations[i] for i in order], [])


def _without_the_unseen(operations: Sequence[Operation], initial: Value) -> list[Operation]:
    """Leave out operations that may never have happened and whose value nobody saw: to say that they did not is always right.

    Each of them would double the search.
    """
    seen = {operation.read for operation in operations if operation.returned < inf}
    kept = []
    for operation in operations:
        if operation.returned < inf or (operation.written is not ANYTHING and operation.written in seen):
            kept.append(operation)
    return kept
