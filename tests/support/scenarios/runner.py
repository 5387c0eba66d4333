"""Runs a scenario file from its first line to full agreement, and tells what happened."""

from dataclasses import dataclass
from pathlib import Path
from traceback import extract_tb

from ledgerd.enclave.consensus.core import Consensus
from ledgerd.ledger.errors import LedgerdError
from support.consensus_cluster import describe_member
from support.scenarios.driver import Driver, Failed
from support.scenarios.language import Step, read

LAST = Step(0, "after the last line: loop_until_sync", "", ())


@dataclass
class Outcome:
    """What came of one file.

    Attributes:
        failure: What did not hold, as lines: where, what was expected and seen, each node's state; none if everything did.
        transcript: Every command, and what it caused.
        commands, messages: How many were carried out, and delivered.
    """

    path: Path
    failure: list[str]
    transcript: list[str]
    commands: int
    messages: int


def run(path: Path, core: type[Consensus] = Consensus) -> Outcome:
    """Run one file on cores of this class.

    Raises: ScenarioError: It is no scenario.
    """
    steps = read(path)
    driver = Driver(core)
    outcome = Outcome(path, [], [], 0, 0)
    for step in [*steps, LAST]:
        try:
            if step is LAST:
                driver.finish()
            else:
                driver.do(step)
        except Exception as error:  # whatever it is, the file is what made it: its transcript tells how
            outcome.failure = _describe(path, step, driver, error)
        outcome.transcript.append(f"{step.number or 'end':>5}  {step.text}")
        outcome.transcript += [f"           {line}" for line in driver.trace]
        driver.trace.clear()
        if outcome.failure:
            break
        outcome.commands += step is not LAST
    outcome.messages = driver.delivered
    return outcome


def _describe(path: Path, step: Step, driver: Driver, error: Exception) -> list[str]:
    place = f"{path}:{step.number}" if step.number else f"{path}"
    lines = [f"{place}: {step.text}"]
    if isinstance(error, Failed):
        lines += [f"    expected: {error.expected}", f"    seen:     {error.seen}"]
    elif isinstance(error, AssertionError):
        lines += [f"    does not hold: {error}"]
    else:
        lines += [f"    {type(error).__name__}: {error}"]
        if not isinstance(error, LedgerdError):  # nothing that anybody meant
            frames = extract_tb(error.__traceback__)[-3:]
            lines += [f"        in {frame.name}, {Path(frame.filename).name}:{frame.lineno}" for frame in frames]
    lines.append("    nodes:")
    lines += [f"        {describe_member(driver.members[name])}" for name in sorted(driver.members)]
    return lines
