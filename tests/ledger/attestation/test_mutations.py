"""A short run of what `scripts/fuzz` does for longer: thousands of changed inputs, none of which may break the law."""

import random
from hashlib import sha256

import pytest

from support.fuzzing import Target, mutate, targets

ALL = targets()
MUTATIONS = 700


@pytest.mark.parametrize("target", ALL, ids=[target.name for target in ALL])
def test_changed_inputs_are_refused_and_nothing_else_happens(target: Target) -> None:
    chosen = random.Random(sha256(target.name.encode()).digest())
    assert all(target.judge(seed) for seed in target.seeds)
    refused = 0
    for _ in range(MUTATIONS):
        seed, other = chosen.choice(target.seeds), chosen.choice(target.seeds)
        refused += not target.judge(mutate(seed, other, chosen))
    assert refused > MUTATIONS // 4, "changes that change nothing test nothing"


@pytest.mark.parametrize("target", ALL, ids=[target.name for target in ALL])
def test_nothing_and_noise_are_refused(target: Target) -> None:
    chosen = random.Random(3)
    for size in (0, 1, 2, 7, 100, 1_184, 1_185, 5_000, 70_000):
        assert not target.judge(chosen.randbytes(size))
