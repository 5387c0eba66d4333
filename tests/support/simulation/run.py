"""One run from its seed, or from a list of events: apply, heal, and judge the end.

Not here: how many runs, and the table (`campaign`).
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final

from support.simulation import complete_world, coverage, ending, replica_world
from support.simulation.complete_world import CompleteWorld
from support.simulation.core_world import CoreWorld
from support.simulation.driver import Driver
from support.simulation.plan import Plan
from support.simulation.replica_world import ReplicaWorld
from support.simulation.world import Event


@dataclass
class Result:
    """What became of one run.

    Attributes:
        failure: The broken rule's name and what happened, or None.
        events: Every event that was applied, if they were kept.
        inputs: Inputs that nodes handled; seconds: simulated; cpu: seconds of processor time.
        faults, coverage: How often each was met.
    """

    plan: Plan
    failure: tuple[str, str] | None = None
    events: list[Event] = field(default_factory=list)
    inputs: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    coverage: Counter[str] = field(default_factory=Counter)


_WORLDS: Final[dict[str, tuple[Callable[[Plan], AbstractContextManager[None]], Callable[[Plan], Any]]]] = {
    "core": (lambda plan: nullcontext(), CoreWorld),
    "replica": (replica_world.seams, ReplicaWorld),
    "complete": (complete_world.seams, CompleteWorld),
}


def run(plan: Plan, events: Iterable[Event] | None = None, trace: Any = None) -> Result:
    """Run a plan: its own events, or those given.

    Args:
        events: What to apply instead of what the driver would draw.
        trace: Called with a line for each event and what came of it.
    """
    result = Result(plan)
    began = time.process_time()
    world = None
    seams, make = _WORLDS[plan.world]
    with coverage.counting(result.coverage), seams(plan):
        try:
            world = make(plan)
            world.trace = trace
            if events is None:
                driver = Driver(plan, world)
                kept = result.events.append
                for _ in range(plan.steps):
                    event = driver.next()
                    kept(event)
                    world.apply(event)
            else:
                for event in events:
                    result.events.append(event)
                    world.apply(event)
            ending.finish(world)
        except Exception as error:  # a bug may raise anything
            result.failure = (getattr(error, "rule", type(error).__name__), str(error))
    if world is not None:
        result.inputs, result.seconds, result.faults = world.inputs, world.time, world.faults
    result.cpu = time.process_time() - began
    return result
