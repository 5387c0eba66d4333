"""Runs as they come: no rule is broken, everything that can happen does, and a seed is all there is to a run."""

import os
import subprocess
import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from ledgerd.ledger import cose, signature
from ledgerd.ledger.errors import IntegrityError
from support.simulation.disk import LIES
from support.simulation.invariants import RULES
from support.simulation.plan import FAULTS, SET_BACK, draw, from_json, set_back
from support.simulation.recipes import RECIPES
from support.simulation.run import run
from support.simulation.stand_in import PrivateKey, PublicKey


@pytest.mark.parametrize(("world", "seeds"), [("core", 16), ("replica", 16), ("complete", 14)])
def test_no_rule_is_broken_and_every_kind_of_fault_is_met(world: str, seeds: int) -> None:
    faults: Counter[str] = Counter()
    for seed in range(10_000, 10_000 + seeds):
        result = run(draw(seed, world))
        assert result.failure is None, f"seed {seed} of {world}: {result.failure}"
        assert result.inputs > 300
        faults += result.faults
    expected = {"loss", "repeat", "reset", "partition", "one-way partition", "primary isolated", "crash", "pause", "clock jump"}
    expected |= {"corruption", "truncation", "misdelivery"} if world == "complete" else {"reorder"}
    assert not expected - faults.keys()
    # Whole enclaves are slower, so fewer seeds.
    assert sum(1 for lie in LIES if f"disk: {lie}" in faults) > (4 if world == "complete" else 8)
    assert sum(1 for recipe in RECIPES if f"recipe: {recipe}" in faults) > (2 if world == "complete" else 6)


@pytest.mark.parametrize("world", ["core", "replica", "complete"])
def test_a_seed_and_its_list_of_events_both_repeat_a_run_exactly(world: str) -> None:
    for seed in (3, 4):
        plan = draw(seed, world)
        lines: tuple[list[str], list[str]] = ([], [])
        first = run(plan)
        again = run(plan, trace=lines[0].append)
        replayed = run(from_json(plan.to_json()), events=first.events, trace=lines[1].append)
        assert first.events == again.events == replayed.events
        assert first.inputs == again.inputs == replayed.inputs
        assert lines[0] == lines[1]


SEEDS: Final = ("8000", "8003")  # each parted within its first events, while certificates were as long as chance had it
PROGRAM: Final = """
import sys
sys.path.insert(0, sys.argv[1])
from support.simulation.plan import draw
from support.simulation.run import run
for seed in sys.argv[2:]:
    print(seed, run(draw(int(seed), "complete", steps=1_000), is_digested=True).digest)
"""


def test_a_seed_does_the_same_in_another_process() -> None:
    def said(*seeds: str) -> list[str]:
        command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parents[1]), *seeds]
        # Sets have one order: a seed decides everything.
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": "0"})
        return sorted(done.stdout.splitlines())

    first = said(*SEEDS)
    assert len(first) == len(SEEDS)
    assert said(*SEEDS) == said(*reversed(SEEDS)) == first


def test_every_rule_has_a_reason_and_every_fault_is_drawn() -> None:
    assert len(RULES) >= 20 and all(reason.endswith(".") for reason in RULES.values())
    drawn = {fault for seed in range(40) for fault in draw(seed, "core").faults}
    assert drawn == {*FAULTS, SET_BACK}


def test_peers_of_a_primary_that_was_set_back_are_known_as_another_logs() -> None:
    coverage: Counter[str] = Counter()
    stopped = 0
    for seed in range(12):
        result = run(set_back(draw(seed, "core"), Random(seed)))
        assert result.failure is None, f"seed {seed}: {result.failure}"
        coverage += result.coverage
        stopped += result.faults["node stops: a memory was set back"]
    assert stopped
    assert not {"flow: PROBE FORKED", "flow: REPLICATE FORKED", "flow: DIVERGED FORKED", "flow: DIVERGED CUT"} - coverage.keys()


def test_whole_enclaves_run_with_real_cryptography_too() -> None:
    result = run(draw(3, "complete", crypto="real", nodes=3, steps=300))
    assert result.failure is None and result.inputs > 300


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()])
def test_what_stands_in_for_a_key_takes_its_own_signatures_and_no_others(curve: ec.EllipticCurve) -> None:
    public, other = (PublicKey.of(ec.generate_private_key(curve).public_key()) for _ in range(2))
    signer: Any = PrivateKey(public)
    raw = signature.sign_raw(signer, b"r" * 32)
    attached = cose.decode(cose.sign(signer, {}, b"payload"))
    verifiers: list[tuple[Any, bytes, bool]] = [(public, b"r" * 32, True), (public, b"s" * 32, False), (other, b"r" * 32, False)]
    for key, root, is_right in verifiers:
        with nullcontext() if is_right else pytest.raises(IntegrityError):
            signature.verify_raw(key, root, raw)
    assert cose.verify(attached, verifiers[0][0]) == b"payload"
    with pytest.raises(InvalidSignature):
        public.verify(raw[:-1] + bytes([raw[-1] ^ 1]), b"r" * 32, None)
    with pytest.raises(IntegrityError):
        cose.verify(attached, verifiers[2][0])
