"""A short run of what `scripts/fuzz` does for longer: nothing but a typed refusal comes of changed inputs, of noise, and of nothing."""

import random
import warnings
from functools import cache
from hashlib import sha256

import pytest

from support.fuzzing.bounds import timed
from support.fuzzing.catalogue import MAKERS
from support.fuzzing.laws import Target
from support.fuzzing.mutation import mutate

MUTATIONS = 150
NOISE_BYTES = (0, 1, 2, 3, 7, 100, 1_184, 5_000)


@cache
def target(name: str) -> Target:
    return MAKERS[name]()


@pytest.mark.parametrize("name", MAKERS)
def test_changed_inputs_and_noise_are_refused_and_nothing_else_happens(name: str) -> None:
    made = target(name)
    chosen = random.Random(sha256(name.encode()).digest())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert any(made.judge(seed) for seed in made.seeds), "what is always refused tests nothing"
        for size in NOISE_BYTES:
            made.judge(chosen.randbytes(size))
        refused = 0
        for _ in range(MUTATIONS):
            seed, other = chosen.choice(made.seeds), chosen.choice(made.seeds)
            refused += not timed(made, mutate(seed, other, chosen, made.tokens))
    if not made.accepts_most:
        assert refused > MUTATIONS // 4, "changes that change nothing test nothing"


def test_targets_say_what_they_are_of() -> None:
    for name, maker in MAKERS.items():
        assert maker.__doc__, name
