"""Real nodes under load and under fire; `scripts/nemesis` runs the same for longer."""

from pathlib import Path

import pytest

from nemesis.campaign import Campaign

SECONDS = 25.0  # of trouble, for each


@pytest.mark.parametrize(("seed", "nodes"), [(1, 3), (2, 3), (3, 5)])
def test_no_client_is_ever_told_what_is_not_so(seed: int, nodes: int, tmp_path: Path) -> None:
    report = Campaign(tmp_path, seed, nodes=nodes, clients=4).run(SECONDS)
    assert report.faults.total() >= 5
    assert report.outcomes["COMMITTED"] > 100
    assert report.receipts > 0
