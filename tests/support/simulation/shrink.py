"""A failing run made shorter: fewer nodes and fewer events that still break the same rule, within a time limit.

Any part of a list of events is a list of events (`world`), so pieces are left out, large ones first, as long as the failure stays (Zeller's
ddmin). What is left is mostly what matters.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from support.simulation.plan import Plan
from support.simulation.run import run
from support.simulation.world import Event

SECONDS: Final = 60.0


def shrink(plan: Plan, events: Sequence[Event], rule: str, seconds: float = SECONDS) -> tuple[Plan, list[Event]]:
    """Make it shorter.

    Args:
        events: All that were applied.
        rule: Which rule they break.
        seconds: When to be content with what there is.
    Returns: A plan and events that break it, too.
    """
    until = time.monotonic() + seconds
    best = list(events)

    def fails(candidate_plan: Plan, candidate: list[Event]) -> bool:
        failure = run(candidate_plan, candidate).failure
        return failure is not None and failure[0] == rule

    while plan.nodes > 1 and time.monotonic() < until:
        smaller = replace(plan, nodes=plan.nodes - 1)
        if not fails(smaller, best):
            break
        plan = smaller
    size = max(1, len(best) // 2)
    while time.monotonic() < until:
        at = 0
        removed = False
        while at < len(best) and time.monotonic() < until:
            candidate = best[:at] + best[at + size :]
            if fails(plan, candidate):
                best = candidate
                removed = True
            else:
                at += size
        if size == 1 and not removed:
            break
        size = max(1, size // 2)
    return plan, best
