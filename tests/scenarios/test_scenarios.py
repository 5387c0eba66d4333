"""The scenario files of this folder: each holds on our core, fails on the bug that it is about, and together they go everywhere.

A file says in its first lines which row of the bug catalogue it is (`# bug:`), and which planted bugs of `support.consensus_bugs` it has
to find (`# planted:`). Those rows that the language cannot say have another place, which `ELSEWHERE` names.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from ledgerd.enclave.consensus import progress, roles
from ledgerd.enclave.consensus.core import Consensus
from support import consensus_bugs, datadriven
from support.consensus_scenarios import Scenario
from support.repository import ROOT
from support.scenarios.language import COMMANDS, read
from support.scenarios.runner import run

FILES: Final = sorted(Path(__file__).parent.glob("*.scenario"))
TRANSCRIPTS: Final = ROOT / "tests" / "enclave" / "consensus"

# The bug catalogue: each row, in words that its file's `# bug:` begins with.
CATALOGUE: Final = (
    "quorum over the union of configurations",
    "CheckQuorum not per configuration",
    "commit of an entry of an earlier view by counting",
    "the first fix for commits of earlier views cleared the committable indices",
    "commit advances on a refusal",
    "truncation from an early AppendEntries",
    "inaccurate acknowledgement",
    "premature retirement",
    "suffix collision",
    "rollback_safety",
    "reconfig_01_23",
    "stale membership kept when the log that gave it is replaced",
    "two leaders in one term",
    "a flaky member forces elections",
    "a backup commits a suffix of its own beyond what a message has verified",
)
# What the language cannot say (it knows no disk, no read, no client), and where it is said instead.
ELSEWHERE: Final = {
    "term and vote persisted in two writes": "enclave/consensus/test_core.py::test_nothing_is_read_back_from_a_disk",
    "single node acknowledges before the sync": "enclave/consensus/replication.txt",
    "a sync that ends after a truncation": "enclave/consensus/stored_generations.txt",
    "stale read after a pause": "enclave/consensus/stale_read.txt",
    "duplicate effect on retry": "enclave/test_idempotency.py",
}


def header(path: Path, key: str) -> str:
    """What a file says of itself; empty if it does not."""
    found = re.search(rf"^# {key}: (.+)$", path.read_text(), re.MULTILINE)
    return found.group(1) if found else ""


def planted() -> list[tuple[Path, type[Consensus]]]:
    return [(path, getattr(consensus_bugs, name)) for path in FILES for name in header(path, "planted").split(", ") if name]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scenario(path: Path) -> None:
    outcome = run(path)
    assert not outcome.failure, "\n".join([*outcome.transcript, *outcome.failure])


@pytest.mark.parametrize(("path", "bug"), planted(), ids=lambda value: getattr(value, "__name__", "") or value.stem)
def test_a_planted_bug_makes_its_scenario_fail(path: Path, bug: type[Consensus]) -> None:
    assert run(path, bug).failure, f"{bug.__doc__} was not noticed"


def test_every_planted_bug_that_scenarios_are_asked_to_find_has_one() -> None:
    assert {bug for _, bug in planted()} == set(consensus_bugs.PLANTED)


def test_every_row_of_the_bug_catalogue_has_its_place() -> None:
    said = [header(path, "bug") for path in FILES]
    assert all(said), "a file does not say which bug it is about"
    missing = [row for row in CATALOGUE if not any(words.startswith(row) for words in said)]
    for row, place in ELSEWHERE.items():
        name, _, test = place.partition("::")
        path = ROOT / "tests" / name
        if not path.is_file() or (test and f"def {test}(" not in path.read_text()):
            missing.append(row)
    assert not missing


def test_every_command_is_in_some_scenario() -> None:
    assert {step.command for path in FILES for step in read(path)} == set(COMMANDS)


class Seen(dict[object, object]):
    """A table that remembers which of its rows were used."""

    def __init__(self, rows: Mapping[Any, object]) -> None:
        super().__init__(rows)
        self.used: set[object] = set()

    def get(self, key: object, default: object = None) -> object:
        self.used.add(key)
        return super().get(key, default)


def test_every_row_of_every_table_is_met_by_scenarios(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the scenarios of this folder, and where the language ends by the transcripts beside the core's tests."""
    monkeypatch.delenv("LEDGERD_REWRITE", raising=False)
    tables = {}
    for module, name in ((roles, "ROLE_TRANSITIONS"), (roles, "RETIREMENT_TRANSITIONS"), (progress, "FLOW_TRANSITIONS")):
        tables[name] = Seen(getattr(module, name))
        monkeypatch.setattr(module, name, tables[name])
    for path in FILES:
        assert not run(path).failure
    ours = {name: set(table.used) for name, table in tables.items()}
    for path in datadriven.scenario_files(TRANSCRIPTS):
        datadriven.run(path, Scenario().handle)
    for name, table in tables.items():
        print(f"{name}: {len(table)} rows, {len(ours[name])} met by scenarios, {len(table.used)} with transcripts")
        assert table.used == set(table), f"{name}: {set(table) - table.used} not met, {table.used - set(table)} not in the table"
    # What only the transcripts can say is what only a host or a broken channel does.
    beyond = {str(row) for name, table in tables.items() for row in table.used - ours[name]}
    assert all(re.search("Cause.STALLED|Reply.CUT|Reply.FORKED|Flow.DIVERGED", row) for row in beyond), beyond
