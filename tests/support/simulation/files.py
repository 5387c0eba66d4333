"""Scenario files of the simulation: a plan and its events, one a line, for `scripts/simulate --replay` and for people.

CCF's scenario language (`support.scenarios`) cannot say when a disk has synced, what a host gives back, what a client asks, or which
of several messages arrives, and most failing lists are about one of these. So this is a form of our own: the plan on the first line,
then an event a line, as a JSON list, its name first. `#` begins a comment.
"""

import json
from collections.abc import Sequence

from support.simulation.plan import Plan, from_json
from support.simulation.world import Event


def write(plan: Plan, events: Sequence[Event], comment: str = "") -> str:
    """The text of a file."""
    lines = [f"# {line}" for line in comment.splitlines()]
    return "\n".join([*lines, plan.to_json(), *(json.dumps(event) for event in events)]) + "\n"


def read(text: str) -> tuple[Plan, list[Event]]:
    """Read what `write` wrote.

    Raises: ValueError: It is no such file; the message names the line.
    """
    plan: Plan | None = None
    events: list[Event] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            if plan is None:
                plan = from_json(line)
            else:
                name, *values = json.loads(line)
                events.append((name, *values))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"line {number} is not what `scripts/simulate` writes: {error}") from None
    if plan is None:
        raise ValueError("there is no plan in it")
    return plan, events
