"""`ccf.crypto` in real workers: nothing of it needs what a worker has given up, and nothing of it outlives the deadline."""

import pytest

from ledgerd.enclave.runtime.crypto.functions import FUNCTIONS
from ledgerd.enclave.scripts.jobs import End, Limits, Result
from support.script_crypto import APPLICATION, DECISION, certificate, every_function, private, public
from support.scripts import job, workers


@pytest.mark.parametrize("alone", [False, True])
def test_every_function_runs_within_the_sandbox(alone: bool) -> None:
    with workers() as fleet:
        outcome = fleet.run(every_function(alone=alone))
        assert outcome.end is End.DONE, outcome
        assert isinstance(outcome.value, Result)
        assert outcome.value.data.decode() == "[" + ",".join(f'"{name}"' for name in sorted(FUNCTIONS)) + "]"
        assert fleet.pool.killed_total == 0


def test_what_a_decision_may_call_runs_within_the_sandbox() -> None:
    source = """export const f = (certificate, privateKey, publicKey) => {
      const data = ccf.strToBuf('data');
      const algorithm = { name: 'RSA-PSS', hash: 'SHA-256' };
      return [ccf.pemToId(certificate).length, ccf.isValidX509CertBundle(certificate),
        ccf.crypto.isValidX509CertChain(certificate, certificate),
        ccf.crypto.verifySignature(algorithm, publicKey, ccf.crypto.sign(algorithm, privateKey, data), data)];
    }"""
    with workers() as fleet:
        outcome = fleet.run(job(source, certificate("a", "a", authority=True), private("rsa"), public("rsa"), alone=True, **DECISION))
        assert outcome.value == Result("json", b"[64,true,true,true]"), outcome


def test_a_worker_that_makes_keys_for_too_long_is_stopped() -> None:
    """The engine cannot look at the clock while a key is made; afterwards it does, and if that takes too long the process is killed."""
    source = "export function f() { for (;;) ccf.crypto.generateRsaKeyPair(3072); }"
    with workers() as fleet:
        outcome = fleet.run(job(source, limits=Limits(deadline_ms=100), **APPLICATION))
        assert (outcome.end, outcome.text) == (End.DEADLINE, "Operation took too long to complete.")
        assert fleet.run(job("export const f = () => 1;")).value == Result("json", b"1")
