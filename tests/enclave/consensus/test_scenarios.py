"""The scenario files of this folder; what their commands mean is `support.consensus_scenarios`."""

from pathlib import Path

import pytest

from ledgerd.enclave.consensus.core import Consensus
from support import consensus_bugs, datadriven
from support.consensus_scenarios import Scenario

FOLDER = Path(__file__).parent


@pytest.mark.parametrize("path", datadriven.scenario_files(FOLDER), ids=lambda path: path.stem)
def test_scenario(path: Path) -> None:
    datadriven.run(path, Scenario().handle)


@pytest.mark.parametrize(
    ("name", "bug"),
    [
        ("replication", consensus_bugs.AcknowledgesMemory),
        ("stored_generations", consensus_bugs.BelievesOldGenerations),
        ("replication", consensus_bugs.CountsItsOwnMemory),
        ("stale_read", consensus_bugs.AnswersByLease),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_planted_bug_of_disks_or_reads_makes_its_scenario_fail(name: str, bug: type[Consensus], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LEDGERD_REWRITE", raising=False)
    with pytest.raises(AssertionError):
        datadriven.run(FOLDER / f"{name}.txt", Scenario(bug).handle)
