"""Runs of the simulation's core world, written down for TLC: `tests/model/Trace.tla` says whether each step is one of the specification's.

A recorded step is the part of one node's state that the specification has, as it is after something happened to the node, if that is not
what it was. Where the core does in one call what are several steps over there (a sync is reported, and something becomes final; a timer
fires in a service of one node, and it leads), it is looked at in between: `Looks` overrides the methods at whose beginning or end it
stands there. It only looks; what is decided is the core's, or a planted bug's.
Not here: what TLC is given, and what it says (`support.explaining`); what happens (`support.simulation.driver`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from ledgerd.enclave.consensus.core import Consensus, Role
from ledgerd.enclave.consensus.messages import Message, RequestVote
from ledgerd.enclave.consensus.roles import Cause
from ledgerd.ledger.ids import NodeId, Seqno, View
from support.simulation import core_world, world
from support.simulation.core_world import CoreWorld
from support.simulation.driver import Driver
from support.simulation.judge import Judge
from support.simulation.observation import Meaning
from support.simulation.patches import patched
from support.simulation.plan import Plan
from support.simulation.violation import Violation

NOBODY: Final = "nobody"


class Entry(NamedTuple):
    """An entry as the specification has it."""

    view: int
    kind: str
    nodes: frozenset[str]


class State(NamedTuple):
    """What the specification knows of a node; as it is here, a node is that has only just begun to run."""

    view: int = 0
    role: str = "backup"
    primary: str = NOBODY
    voted: str = NOBODY
    log: tuple[Entry, ...] = ()
    commit: int = 0
    matched: int = 0
    stored: int = 0
    stopped: bool = False


class Step(NamedTuple):
    """What a node became.

    Attributes:
        event: During which event of the simulation, for people.
        node: Which node.
        state: What it is now.
        kept: How many entries it still has of those that it had.
        asker: For whom it would vote, in a step that changes nothing.
    """

    event: str
    node: str
    state: State
    kept: int
    asker: str = NOBODY

    def shown(self) -> str:
        """On one line, its log from where it is new."""
        if self.asker != NOBODY:
            return f"would vote for {self.asker}"
        added = " ".join(f"{entry.kind} of view {entry.view}" for entry in self.state.log[self.kept :])
        fields = " ".join(f"{name}={value}" for name, value in self.state._asdict().items() if name != "log")
        return f"{fields} log={self.kept} entries" + (f" and {added}" if added else "")


@dataclass
class Recording:
    """One run.

    Attributes:
        beginning: What the nodes were when recording began, at rest.
        steps: What they became.
        verdict: The first rule that the simulation found to be broken, or what a planted bug raised in the end.
    """

    beginning: dict[str, State] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    verdict: str | None = None

    @property
    def entries(self) -> list[Entry]:
        """All that were appended, as often as that was."""
        logs = [state.log for state in self.beginning.values()] + [step.state.log[step.kept :] for step in self.steps]
        return [entry for log in logs for entry in log]

    @property
    def nodes(self) -> list[str]:
        """All nodes that there ever are, or were to be."""
        mentioned = set[str]().union(*(entry.nodes for entry in self.entries))
        return sorted({*self.beginning, *(step.node for step in self.steps), *mentioned})

    @property
    def last_view(self) -> int:
        """The latest view that anybody was in."""
        return max(state.view for state in [*self.beginning.values(), *(step.state for step in self.steps)])


class _Recorder:
    """Keeps what each node was when it was last looked at."""

    def __init__(self) -> None:
        self.recording = Recording()
        self.event = ""
        self.is_on = False
        self._last: dict[str, State] = {}
        self._changes: dict[str, int] = {}

    def begin(self, world: CoreWorld) -> None:
        for name, node in world.nodes.items():
            self._last[name] = self.recording.beginning[name] = self._state(node.core)
        self.is_on = True

    def look(self, core: Consensus, asker: str | None = None) -> None:
        """Write down what the node has become, if it is not what it was."""
        if not self.is_on:
            return
        log = core._log
        if core.role is Role.PRIMARY and log.last_view != core.view:
            return  # it has won, and is about to sign: one step
        before = self._last.get(core.node_id, State())
        after = self._state(core)
        kept = _shared(before.log, after.log)
        if after.role == "primary" and before.role == "candidate":
            # The host may have reported a sync before the node signed.
            won = after._replace(stored=min(before.stored, len(after.log) - 1))
            self._add(Step(self.event, core.node_id, won, kept))
            before, kept = won, len(won.log)
        if after != before:
            self._add(Step(self.event, core.node_id, after, kept))
        if asker is not None:
            self._add(Step(self.event, core.node_id, after, len(after.log), asker))

    def _add(self, step: Step) -> None:
        self.recording.steps.append(step)
        self._last[step.node] = step.state

    def _state(self, core: Consensus) -> State:
        primary = core.primary_id
        follows = core.role is Role.BACKUP and primary is not None
        return State(
            core.view,
            core.role.name.lower(),
            NOBODY if primary is None else primary,
            NOBODY if core._voted_for is None else core._voted_for,
            self._log(core),
            core.commit_seqno,
            core._matched if follows else 0,  # it means something only where a primary is followed
            core.stored_seqno,
            core.failed is not None,
        )

    def _log(self, core: Consensus) -> tuple[Entry, ...]:
        shadow = core._log._shadow  # type: ignore[attr-defined]  # the world has put an ObservedLog there
        last = self._last.get(core.node_id)
        if last is not None and self._changes.get(core.node_id) == shadow.changes:
            return last.log
        self._changes[core.node_id] = shadow.changes
        facts = shadow.registry.facts
        return tuple(_entry(view, facts[view, seqno].meaning) for seqno, view in enumerate(shadow.views) if seqno)


def _shared(log: tuple[Entry, ...], other: tuple[Entry, ...]) -> int:
    """How many entries both logs begin with."""
    if log is other:
        return len(log)
    pairs = enumerate(zip(log, other, strict=False))
    return next((number for number, (ours, theirs) in pairs if ours != theirs), min(len(log), len(other)))


def _entry(view: int, meaning: Meaning) -> Entry:
    if meaning.nodes is not None:
        return Entry(view, "nodes", meaning.nodes)
    if meaning.removed:
        return Entry(view, "gone", meaning.removed)
    return Entry(view, "sign" if meaning.signs else "data", frozenset())


def _looking(base: type[Consensus], recorder: _Recorder) -> type[Consensus]:
    """The same consensus, looked at wherever one step of the specification ends."""
    look = recorder.look

    class Looks(base):  # type: ignore[misc,valid-type]  # the core itself, or one with a planted bug
        def receive(self, sender: NodeId, message: Message) -> None:
            try:
                super().receive(sender, message)
            finally:
                look(self)

        def tick(self, now: float) -> None:
            try:
                super().tick(now)
            finally:
                look(self)

        def stored(self, generation: int, view: View, seqno: Seqno) -> None:
            try:
                super().stored(generation, view, seqno)
            finally:
                look(self)

        def replicate_plain(self, view: View, first: Seqno, data: Sequence[bytes], leaves: Sequence[bytes]) -> None:
            super().replicate_plain(view, first, data, leaves)
            look(self)

        def _follow(self, cause: Cause, view: View, primary: NodeId | None) -> None:
            leads_for_nothing = self.role is Role.PRIMARY and self._log.last_view != self.view
            super()._follow(cause, view, primary)
            if primary is None or leads_for_nothing:
                look(self)

        def _receive_request_vote(self, sender: NodeId, message: RequestVote) -> None:
            super()._receive_request_vote(sender, message)
            answer = self._messages[-1][1]
            look(self, sender if answer.granted and answer.pre_vote else None)

        def _count_votes(self) -> None:
            look(self)
            super()._count_votes()

        def _advance_commit(self) -> None:
            look(self)
            super()._advance_commit()

    return Looks


def _lenient(recording: Recording) -> type[Judge]:
    """A judge that notes the first broken rule, and lets the run go on: what it leads to is for the specification to refuse."""

    def noted(rule: Callable[..., None]) -> Callable[..., None]:
        def look(self: Judge, *arguments: Any) -> None:
            try:
                rule(self, *arguments)
            except Violation as violation:
                recording.verdict = recording.verdict or str(violation)

        return look

    names = ("authored", "differs", "extended", "truncating", "committing", "look")
    return type("Lenient", (Judge,), {name: noted(getattr(Judge, name)) for name in names})


def record(plan: Plan, base: type[Consensus] = Consensus) -> Recording:
    """Run a plan of the core world, but for the healing at its end.

    Args:
        base: The consensus that runs.
    """
    recorder = _Recorder()
    recording = recorder.recording
    with patched([(core_world, "Consensus", _looking(base, recorder)), (world, "Judge", _lenient(recording))]):
        cores = CoreWorld(plan)
        recorder.begin(cores)
        driver = Driver(plan, cores)
        try:
            for _ in range(plan.steps):
                event = driver.next()
                recorder.event = " ".join(map(str, event))
                cores.apply(event)
        except Exception as error:  # a bug may raise anything
            recording.verdict = recording.verdict or f"{type(error).__name__}: {error}"
    return recording
