"""Real nodes under load and under fire; `scripts/nemesis` runs the same for longer."""

import sys
from pathlib import Path

import pytest

from nemesis.campaign import Campaign
from support.histories import HistoryError

SECONDS = 25.0  # of trouble, for each, or until there was enough of it
FAULTS = 4
COMMITTED = 300  # writes; one in ten with a receipt
PLANTED_SECONDS = 15.0
PLANTED_CAMPAIGNS = 8  # until it is found; nearly always by the first

# An enclave that answers before the commit and says otherwise: what a primary that is cut off tells its clients is lost.
HASTY = """
import runpy
from ledgerd.enclave.answering import Answering
hold = Answering._hold

def answer(self, request, prefer, outcome):
    if prefer.receipt:
        hold(self, request, prefer, outcome)
    else:
        self.answer(request.reply_to, outcome.response)

Answering._hold = answer
runpy.run_module("ledgerd.enclave.runtime", run_name="__main__")
"""


@pytest.mark.parametrize(("seed", "nodes"), [(1, 3), (2, 3), (3, 5)])
def test_no_client_is_ever_told_what_is_not_so(seed: int, nodes: int, tmp_path: Path) -> None:
    report = Campaign(tmp_path, seed, nodes=nodes, clients=4).run(SECONDS, faults=FAULTS, committed=COMMITTED)
    assert report.faults.total() >= FAULTS
    assert report.outcomes["COMMITTED"] >= COMMITTED
    assert report.receipts > 0


def test_what_is_answered_before_its_commit_is_found(tmp_path: Path) -> None:
    enclave = (sys.executable, "-I", "-c", HASTY)
    with pytest.raises(HistoryError, match=r"CommittedIsKept|StatusIsFinal|Linearizable|ReadIsFresh|OneLedger|OrderIsTime"):
        for seed in range(1, PLANTED_CAMPAIGNS + 1):
            folder = tmp_path / str(seed)
            folder.mkdir()
            Campaign(folder, seed, nodes=3, clients=8, enclave=enclave, only={"isolate"}).run(PLANTED_SECONDS)
