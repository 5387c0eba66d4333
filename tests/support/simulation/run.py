"""One run from its seed, or from a list of events: apply, heal, and judge the end.

Not here: how many runs, and the table (`campaign`).
"""

import gc
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

from support.simulation import complete_seams, coverage, ending, replica_world
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
        inputs: Inputs that nodes had; `slept`: those that woke nobody; seconds: simulated; cpu: seconds of processor time.
        faults, coverage: How often each was met.
        digest: Over all that happened, if it was asked for: two runs with the same one did the same.
    """

    plan: Plan
    failure: tuple[str, str] | None = None
    events: list[Event] = field(default_factory=list)
    inputs: int = 0
    slept: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    coverage: Counter[str] = field(default_factory=Counter)
    digest: str = ""


_WORLDS: Final[dict[str, tuple[Callable[[Plan], AbstractContextManager[None]], Callable[[Plan], Any]]]] = {
    "core": (lambda plan: nullcontext(), CoreWorld),
    "replica": (replica_world.seams, ReplicaWorld),
    "complete": (complete_seams.seams, CompleteWorld),
}


def run(plan: Plan, events: Iterable[Event] | None = None, trace: Any = None, *, is_digested: bool = False) -> Result:
    """Run a plan: its own events, or those given.

    Args:
        events: What to apply instead of what the driver would draw.
        trace: Called with a line for each event and what came of it.
        is_digested: Give the result its digest.
    """
    result = Result(plan)
    began = time.process_time()
    with _garbage_kept():
        world = _run(plan, events, trace, result)
        if is_digested and world is not None:
            result.digest = _digest(world, result)
    result.cpu = time.process_time() - began
    return result


def _run(plan: Plan, events: Iterable[Event] | None, trace: Any, result: Result) -> Any:
    world: Any = None
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
        result.inputs, result.slept, result.seconds, result.faults = world.inputs, world.slept, world.time, world.faults
    return world


def _digest(world: Any, result: Result) -> str:
    """Over events, nodes and what clients saw; not over entries, since the platform's keys and certificates are of each process."""
    nodes = [
        (node.name, node.is_up, node.core.role, node.core.view, node.core.commit_seqno, node.shadow.views, node.shadow.epochs)
        for node in world.nodes.values()
    ]
    clients = getattr(world, "clients", None)
    calls = [] if clients is None else [(c.client, c.outcome, c.transaction, sorted(c.reads.items())) for c in clients.history.calls]
    parts = (result.events, result.inputs, result.failure, sorted(result.faults.items()), sorted(result.coverage.items()), nodes, calls)
    return sha256(repr(parts).encode()).hexdigest()


# Objects of the young generation before a collection, as in an enclave's process.
_GC_THRESHOLDS: Final = (50_000, 50, 1_000)


@contextmanager
def _garbage_kept() -> Iterator[None]:
    """Collect garbage at the end of the block, and seldom within: a world is one heap of cycles that dies as a whole.

    What was there before is set aside meanwhile: to walk through all modules after each run would take longer than many a run. Not for
    ever, since others ask the collector who holds an object (hypothesis does, and ends a test run where nobody seems to).
    """
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.collect()
        gc.unfreeze()
