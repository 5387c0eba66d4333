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
from nacl.utils import random as kernel_random

from ledgerd.enclave import entropy
from ledgerd.enclave.runtime import module_check, quickjs, script_worker

settings.register_profile("same", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("same")

GOLDEN = 0.6180339887498949  # of whose multiples no few that follow each other are close, modulo 1


def spread(kernel: Callable[[int], bytes]) -> Callable[[int], bytes]:
    """The kernel's random bytes, but for the seven of which `entropy.jitter` makes a number: one that is far from the last ones."""
    last = 0.0

    def drawn(size: int) -> bytes:
        nonlocal last
        if size != 7:
            return kernel(size)
        last = (last + GOLDEN) % 1.0
        return int(last * (1 << 56)).to_bytes(7, "big")

    return drawn


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_to_chance() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        # Below `jitter`, for compiled modules call that directly.
        patch.setattr(entropy, "_kernel_random", spread(kernel_random))
        own_time = SimpleNamespace(monotonic=time.thread_time)
        for module in (script_worker, quickjs, module_check):
            patch.setattr(module, "time", own_time)
        yield
