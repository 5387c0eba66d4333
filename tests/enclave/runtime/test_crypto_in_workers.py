"""`ccf.crypto` in real workers: nothing of it needs what a worker has given up, and nothing of it outlives the deadline."""

import pytest

from ledgerd.enclave.runtime.crypto.functions import FUNCTIONS
from ledgerd.enclave.scripts.jobs import End, Limits, Result
from support.reports import forge_report
from support.script_crypto import APPLICATION, DECISION, certificate, private, public
from support.scripts import job, workers

# Calls every function, by making what the next one needs; gives the names of those that it has called.
EVERYTHING = """
export function f(certificate, report, endorsements) {
  const called = [];
  const on = (name, ...args) => { called.push(name); return (ccf.crypto[name] ?? ccf[name] ?? snp_attestation[name])(...args); };
  const check = (right, what) => { if (!right) throw new Error(what); };
  const data = ccf.strToBuf('data');
  check(on('digest', 'SHA-512', data).byteLength === 64, 'digest');
  const rsa = on('generateRsaKeyPair', 2048);
  const named = (kind) => [`pub${kind}PemToJwk`, `pub${kind}JwkToPem`];
  const [rsaIn, eddsaIn] = [['rsaPemToJwk', 'rsaJwkToPem'], ['eddsaPemToJwk', 'eddsaJwkToPem']];
  const pairs = [
    [{ name: 'RSA-PSS', hash: 'SHA-256', saltLength: 32 }, rsa, [...named('Rsa'), ...rsaIn]],
    [{ name: 'EdDSA' }, on('generateEddsaKeyPair', 'curve25519'), [...named('Eddsa'), ...eddsaIn]],
  ];
  for (const curve of ['secp256r1', 'secp384r1', 'secp521r1']) {
    pairs.push([{ name: 'ECDSA', hash: 'SHA-384' }, on('generateEcdsaKeyPair', curve), [...named(''), 'pemToJwk', 'jwkToPem']]);
  }
  for (const [algorithm, { privateKey, publicKey }, names] of pairs) {
    const [publicIn, publicOut, privateIn, privateOut] = names;
    const signature = on('sign', algorithm, privateKey, data);
    check(on('verifySignature', algorithm, publicKey, signature, data), algorithm.name);
    check(!on('verifySignature', algorithm, publicKey, signature, ccf.strToBuf('other')), algorithm.name);
    check(on(publicOut, on(publicIn, publicKey)) === publicKey, publicIn);
    check(on(privateOut, on(privateIn, privateKey)) === privateKey, privateIn);
  }
  for (const parameters of [{ name: 'AES-KWP' }, { name: 'RSA-OAEP' }, { name: 'RSA-OAEP-AES-KWP', aesKeySize: 256 }]) {
    const aes = on('generateAesKey', 256);
    const isAes = parameters.name === 'AES-KWP';
    const wrapped = on('wrapKey', data, isAes ? aes : ccf.strToBuf(rsa.publicKey), parameters);
    check(ccf.bufToStr(on('unwrapKey', wrapped, isAes ? aes : ccf.strToBuf(rsa.privateKey), parameters)) === 'data', parameters.name);
  }
  check(on('isValidX509CertBundle', certificate) && !on('isValidX509CertBundle', 'none'), 'bundle');
  check(on('isValidX509CertChain', certificate, certificate) && !on('isValidX509CertChain', certificate, 'none'), 'chain');
  check(on('pemToId', certificate).length === 64, 'id');
  check(on('tcbHexToPolicy', '00a00f11', 'db18000000000004').snp === 24, 'tcb');
  let reason = '';
  try { on('verifySnpAttestation', report, endorsements); } catch (error) { reason = error.message; }
  check(reason.includes('a chain that ends at'), `report: ${reason}`);
  let refused = 0;
  const none = '-----BEGIN PUBLIC KEY-----\\nAA==\\n-----END PUBLIC KEY-----';
  for (const wrong of ['', 'none', none, certificate.slice(0, 200), rsa.publicKey, rsa.privateKey]) {
    for (const name of ['pubPemToJwk', 'pemToJwk', 'pubEddsaPemToJwk', 'eddsaPemToJwk']) {
      try { on(name, wrong); } catch { refused++; }
    }
  }
  check(refused === 24, `refused ${refused}`);
  return [...new Set(called)].sort();
}
"""


@pytest.mark.parametrize("alone", [False, True])
def test_every_function_runs_within_the_sandbox(alone: bool) -> None:
    with workers() as fleet:
        limits = Limits(deadline_ms=20_000)
        forged = forge_report()
        given = (certificate("a", "a", "rsa", "rsa", authority=True), forged.report, forged.endorsements)
        asked = job(EVERYTHING, *given, alone=alone, limits=limits, **APPLICATION)
        outcome = fleet.run(asked)
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
        outcome = fleet.run(job(source, certificate("a", "a"), private("rsa"), public("rsa"), alone=True, **DECISION))
        assert outcome.value == Result("json", b"[64,true,true,true]"), outcome


def test_a_worker_that_makes_keys_for_too_long_is_stopped() -> None:
    """The engine cannot look at the clock while a key is made; afterwards it does, and if that takes too long the process is killed."""
    source = "export function f() { for (;;) ccf.crypto.generateRsaKeyPair(3072); }"
    with workers() as fleet:
        outcome = fleet.run(job(source, limits=Limits(deadline_ms=100), **APPLICATION))
        assert (outcome.end, outcome.text) == (End.DEADLINE, "Operation took too long to complete.")
        assert fleet.run(job("export const f = () => 1;")).value == Result("json", b"1")
