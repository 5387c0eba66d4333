"""Whether TLC can explain a recording by the specification of consensus: each step by one of its own.

Makes the module `Recorded`, which `tests/model/Trace.tla` reads, and a .cfg without bounds, since the recording is bounded; entries that no
signature covers may be stored and sent, as they may with some settings. Not here: recordings (`support.recording`); TLC (`support.tlc`).
"""

import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

from ledgerd.enclave.consensus.core import Consensus
from support import consensus_bugs
from support.recording import NOBODY, Entry, Recording, State, Step, record
from support.simulation.plan import draw
from support.tlc import MODEL, Outcome, Tlc, TlcError

EVENTS: Final = 300
SECONDS_MAX: Final = 120.0


class Explanation(NamedTuple):
    """How far the specification explains a recording.

    Attributes:
        steps: How many of its steps; `refused`: the next one, unless these are all.
        outcome: What TLC saw.
    """

    steps: int
    refused: Step | None
    outcome: Outcome


class Traced(NamedTuple):
    """A planted bug, and a seed whose run the specification refuses because of it."""

    bug: type[Consensus]
    seed: int


TRACED: Final = (
    Traced(consensus_bugs.CommitsUnsigned, 1),
    Traced(consensus_bugs.CommitsEarlierViews, 4),
    Traced(consensus_bugs.NewestConfigurationOnly, 31),
    Traced(consensus_bugs.QuorumOfTheUnion, 10),
    Traced(consensus_bugs.AcknowledgesMemory, 1),
    Traced(consensus_bugs.CountsItsOwnMemory, 4),
    Traced(consensus_bugs.CommitsItsOwnSuffix, 10),
    Traced(consensus_bugs.TruncatesToTheMessage, 2),
    Traced(consensus_bugs.KeepsLostConfigurations, 54),
    Traced(consensus_bugs.VotesForAnyone, 4),
    Traced(consensus_bugs.VotesTwice, 2),
    Traced(consensus_bugs.ForgetsItsVote, 2),
)


def recorded(seed: int, bug: type[Consensus] | None = None) -> Recording:
    """The run of a seed, without its end, and without promises: over there, an acknowledgement is said by whose disk has the entries."""
    plan = draw(seed, "core", steps=EVENTS)
    return record(replace(plan, settings={**plan.settings, "promise": False}), bug or Consensus)


def explain(tlc: Tlc, recording: Recording, seconds: float = SECONDS_MAX) -> Explanation:
    """Let TLC follow the recording.

    Raises: TlcError: A step is such that the specification does not even have a value for it; or time was up.
    """
    with tempfile.TemporaryDirectory(prefix="trace-") as scratch:
        for name in ("Consensus", "Ledger", "Trace"):
            shutil.copy(MODEL / f"{name}.tla", scratch)
        Path(scratch, "Recorded.tla").write_text(module(recording))
        outcome = tlc.check("Trace", constants(recording), seconds=seconds, folder=Path(scratch))
    if not outcome.complete:
        raise TlcError(f"TLC followed {outcome.depth - 1} of {len(recording.steps)} steps in {seconds:.0f} s, and time was up")
    steps = outcome.depth - 1
    return Explanation(steps, recording.steps[steps] if steps < len(recording.steps) else None, outcome)


def module(recording: Recording) -> str:
    """The text of `Recorded.tla`."""
    fresh = State()
    beginning = ",\n    ".join(f"{name} |-> {_node(recording.beginning.get(name, fresh))}" for name in recording.nodes)
    steps = ",\n    ".join(map(_step, recording.steps))
    return f"""------------------------------ MODULE Recorded ------------------------------
EXTENDS Naturals, Sequences
Beginning == [
    {beginning}]
Steps == <<
    {steps}>>
=============================================================================
"""


def constants(recording: Recording) -> str:
    """The text of the .cfg."""
    first = next(name for name, state in recording.beginning.items() if state.role == "primary")
    targets = sorted({_names(entry.nodes) for entry in recording.entries if entry.kind == "nodes"})
    many = len(recording.entries)
    return f"""SPECIFICATION TraceSpec
CONSTANTS
    None = "{NOBODY}"
    Server = {_names(recording.nodes)}
    First = "{first}"
    Genesis = {_names(recording.beginning)}
    Targets = {{{", ".join(targets)}}}
    FirstView = {recording.beginning[first].view}
    LastView = {recording.last_view + 1}
    Datas = {many}
    Signs = {many}
    Reconfigs = {many}
    Gones = {many}
    PreVote = TRUE
    KeepBack = FALSE
    DiskLag = TRUE
    Hashes = FALSE
    Restores = 0
    Bug = "none"
"""


def _step(step: Step) -> str:
    state = step.state
    more = {"node": f'"{step.node}"', "keep": str(step.kept), "add": _log(state.log[step.kept :]), "for": f'"{step.asker}"'}
    return f"\\* {step.event}\n    {_shown(_fields(state) | more)}"


def _node(state: State) -> str:
    return _shown(_fields(state) | {"log": _log(state.log), "proven": "0", "heard": "<<>>", "echo": "<<>>"})


def _fields(state: State) -> dict[str, str]:
    return {
        "view": str(state.view),
        "role": f'"{state.role}"',
        "primary": f'"{state.primary}"',
        "voted": f'"{state.voted}"',
        "commit": str(state.commit),
        "matched": str(state.matched),
        "stored": str(state.stored),
        "stopped": str(state.stopped).upper(),
    }


def _shown(fields: dict[str, str]) -> str:
    return "[" + ", ".join(f"{name} |-> {value}" for name, value in fields.items()) + "]"


def _log(log: Sequence[Entry]) -> str:
    return (
        "<<" + ", ".join(f'[view |-> {view}, kind |-> "{kind}", nodes |-> {_names(nodes)}, tag |-> 0]' for view, kind, nodes in log) + ">>"
    )


def _names(names: Iterable[str]) -> str:
    return "{" + ", ".join(f'"{name}"' for name in sorted(names)) + "}"
