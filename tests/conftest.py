"""What every test shares: nothing that a busy machine, or chance, decides.

Where enclaves run within the test's own process, the times of which elections are made are spread evenly instead of drawn: two nodes never
stand in the same moment, so that an election that a test is about is won by the first who stands. (Ties are the simulation's to make.) And
scripts use up their time by running, not by waiting for a processor. Examples of Hypothesis are the same in every run, and may take their
time; `--hypothesis-profile default` draws others.
"""

import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, settings

from ledgerd.enclave import serving
from ledgerd.enclave.runtime import module_check, quickjs, script_worker

settings.register_profile("same", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("same")

GOLDEN = 0.6180339887498949  # of whose multiples no few that follow each other are close, modulo 1


def spread() -> Callable[[], float]:
    """Numbers in [0, 1), of which those that follow each other are far apart."""
    last = 0.0

    def following() -> float:
        nonlocal last
        last = (last + GOLDEN) % 1.0
        return last

    return following


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_to_chance() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "jitter", spread())
        own_time = SimpleNamespace(monotonic=time.thread_time)
        for module in (script_worker, quickjs, module_check):
            patch.setattr(module, "time", own_time)
        yield
