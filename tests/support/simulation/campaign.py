"""Many runs, in several processes, and the table of what they met.

Not here: one run (`run`); a failing run made shorter (`shrink`); the command line (`scripts/simulate`).
"""

import multiprocessing
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from ledgerd.node.child import dies_with_us
from support.simulation import coverage
from support.simulation.plan import Plan, draw
from support.simulation.run import Result, run

# Which world a seed has, by its remainder.
WORLDS: Final = ("core", "replica", "complete")


@dataclass(frozen=True)
class Choice:
    """What all runs of a campaign have in common; None leaves it to the seed."""

    world: str | None = None
    nodes: int | None = None
    crypto: str = "stand-in"
    steps: int | None = None

    def plan(self, seed: int) -> Plan:
        """The plan of one seed."""
        return draw(seed, self.world or WORLDS[seed % len(WORLDS)], nodes=self.nodes, crypto=self.crypto, steps=self.steps)


@dataclass
class Part:
    """What runs of one world added up to; `slept`: of its events those that woke nobody, since nothing was due."""

    seeds: int = 0
    failed: int = 0
    events: int = 0
    slept: int = 0
    simulated_seconds: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Events a second on one core."""
        return self.events / self.cpu_seconds if self.cpu_seconds else 0.0


@dataclass
class Total:
    """What all runs added up to.

    Attributes:
        failures: (seed, world, rule, what happened).
        interrupted: Somebody did not want to wait for more.
    """

    parts: dict[str, Part] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    coverage: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, str, str, str]] = field(default_factory=list)
    interrupted: bool = False

    def add(self, seed: int, result: Result) -> None:
        """Count one run."""
        part = self.parts.setdefault(result.plan.world, Part())
        part.seeds += 1
        part.events += result.inputs
        part.slept += result.slept
        part.simulated_seconds += result.seconds
        part.cpu_seconds += result.cpu
        self.faults += result.faults
        self.coverage += result.coverage
        if result.failure is not None:
            part.failed += 1
            self.failures.append((seed, result.plan.world, *result.failure))

    def whole(self) -> Part:
        """All worlds together."""
        whole = Part()
        for part in self.parts.values():
            whole.seeds += part.seeds
            whole.failed += part.failed
            whole.events += part.events
            whole.slept += part.slept
            whole.simulated_seconds += part.simulated_seconds
            whole.cpu_seconds += part.cpu_seconds
        return whole

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        rows = coverage.rows()

        def shown(part: Part) -> dict[str, Any]:
            return {
                "seeds": part.seeds,
                "failed": part.failed,
                "events": part.events,
                "woke_nobody": part.slept,
                "simulated_hours": round(part.simulated_seconds / 3600, 2),
                "cpu_seconds": round(part.cpu_seconds, 1),
                "events_per_second": round(part.rate),
            }

        return {
            "worlds": {name: shown(part) for name, part in sorted(self.parts.items())},
            "total": shown(self.whole()),
            "faults": dict(sorted(self.faults.items())),
            "transitions": {row: self.coverage[row] for row in rows},
            "transitions_missing": [row for row in rows if not self.coverage[row]],
            "violations": [{"seed": s, "world": w, "rule": r, "text": text} for s, w, r, text in self.failures],
        }

    def table(self) -> str:
        """For people."""
        lines = [
            f"{'world':<10}{'seeds':>8}{'failed':>8}{'events':>12}{'woke nobody':>13}{'sim. hours':>12}{'cpu s':>9}{'events/s a core':>17}"
        ]
        for name, part in [*sorted(self.parts.items()), ("total", self.whole())]:
            lines.append(
                f"{name:<10}{part.seeds:>8,}{part.failed:>8,}{part.events:>12,}{part.slept:>13,}{part.simulated_seconds / 3600:>12,.1f}"
                f"{part.cpu_seconds:>9,.0f}{part.rate:>17,.0f}"
            )
        lines += ["", "faults"]
        width = max((len(name) for name in self.faults), default=0)
        lines += [f"  {name:<{width}}{count:>12,}" for name, count in sorted(self.faults.items())]
        lines += ["", "transitions"]
        for table in coverage.TABLES:
            rows = [row for row in coverage.rows() if row.startswith(table + ":")]
            met = sum(1 for row in rows if self.coverage[row])
            lines.append(f"  {table:<12}{met} of {len(rows)} rows, {sum(self.coverage[row] for row in rows):,} times")
            lines += [f"    never: {row}" for row in rows if not self.coverage[row]]
        lines += ["", f"violations    {len(self.failures)}"]
        return "\n".join(lines)


def _one(argument: tuple[int, Choice]) -> tuple[int, Result]:
    seed, choice = argument
    result = run(choice.plan(seed))
    result.events = []  # its seed brings them back
    return seed, result


def campaign(choice: Choice, seeds: Iterator[int], jobs: int, progress: Callable[[Total], None], until: float | None = None) -> Total:
    """Run seeds until there are no more, or until a moment has come; stop at the first that fails.

    Args:
        seeds: Which ones; endless, if there is an `until`.
        progress: Told after every run.
        until: By `time.monotonic`.
    """
    total = Total()

    def wanted() -> Iterator[tuple[int, Choice]]:
        for seed in seeds:
            if (until is not None and time.monotonic() >= until) or total.failures:
                return
            yield seed, choice

    try:
        if jobs == 1:
            for argument in wanted():
                total.add(*_one(argument))
                progress(total)
        else:
            _in_processes(jobs, wanted(), total, progress)
    except KeyboardInterrupt:
        total.interrupted = True
    return total


def _begin(die_with_the_first: Callable[[], None]) -> None:
    die_with_the_first()


def _in_processes(jobs: int, source: Iterator[tuple[int, Choice]], total: Total, progress: Callable[[Total], None]) -> None:
    context = multiprocessing.get_context("fork")
    # A terminal tells all processes of an interrupt, and the first of them ends the others: those never see it, from their first moment on.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    with context.Pool(jobs, _begin, (dies_with_us(signal.SIGKILL),)) as pool:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        # A task queue that is longer than the pool would make `until` late.
        waiting: list[Any] = []
        while True:
            while len(waiting) < jobs and (following := next(source, None)) is not None:
                waiting.append(pool.apply_async(_one, (following,)))
            if not waiting:
                return
            done = [item for item in waiting if item.ready()]
            if not done:
                waiting[0].wait(0.05)
                continue
            for item in done:
                waiting.remove(item)
                total.add(*item.get())
                progress(total)
