"""Ways to call `ccf.crypto` as a script does, and keys to give it."""

import base64
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from ledgerd.enclave.scripts.access import Access
from ledgerd.enclave.scripts.jobs import Clock, End, Job, Limits
from support.reports import forge_report
from support.scripts import job, run_here, value_of

NOW_S: Final = 1_700_000_000
APPLICATION: Final[dict[str, Any]] = {"access": Access.APP_RW, "clock": Clock(NOW_S * 1000, None)}
DECISION: Final[dict[str, Any]] = {"access": Access.GOV_RO, "clock": Clock(NOW_S * 1000, 7)}


def called(function: str, *arguments: Any, where: dict[str, Any] = APPLICATION) -> Any:
    """What a function gives; `function` is its path below `ccf`."""
    return value_of(f"return ccf.{function}(...args);", *arguments, **where)


def crypto(function: str, *arguments: Any, where: dict[str, Any] = APPLICATION) -> Any:
    """What a function of `ccf.crypto` gives."""
    return called(f"crypto.{function}", *arguments, where=where)


def thrown(expression: str, *arguments: Any, where: dict[str, Any] = APPLICATION) -> str:
    """What an expression over `args` throws, as its kind and its text."""
    outcome, _ = run_here(job(f"export function f(...args) {{ return {expression}; }}", *arguments, **where))
    assert outcome.end is End.EXCEPTION, outcome
    return outcome.text


def refused(function: str, *arguments: Any, where: dict[str, Any] = APPLICATION) -> str:
    """What a function of `ccf.crypto` throws."""
    return thrown(f"ccf.crypto.{function}(...args)", *arguments, where=where)


@cache
def key(kind: str) -> Any:
    """A private key, made once: rsa, rsa3072, p256, p384, p521, ed25519, x25519, and two that are not known: p256k, p224."""
    if kind.startswith("rsa"):
        return rsa.generate_private_key(65_537, int(kind[3:] or 2048))
    curves = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1(), "p256k": ec.SECP256K1(), "p224": ec.SECP224R1()}
    if kind in curves:
        return ec.generate_private_key(curves[kind])
    return ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else x25519.X25519PrivateKey.generate()


def private(kind: str, form: PrivateFormat = PrivateFormat.PKCS8) -> str:
    """It as PEM."""
    pem: bytes = key(kind).private_bytes(Encoding.PEM, form, NoEncryption())
    return pem.decode()


def public(kind: str) -> str:
    """Its public key as PEM."""
    pem: bytes = key(kind).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem.decode()


def certificate(
    subject: str,
    issuer: str,
    kind: str = "p256",
    by: str = "p256",
    *,
    authority: bool = False,
    path: int | None = None,
    days: int = 1,
    may_issue: bool | None = None,
) -> str:
    """A certificate for the key `kind`, signed by the key `by`, that has been valid for a day and is for `days` more.

    Args: may_issue: What it says of its key's usage; nothing if None.
    """
    subject_name, issuer_name = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in (subject, issuer))
    begins, ends = (datetime.fromtimestamp(NOW_S + 86_400 * day, UTC) for day in (min(-1, days - 1), days))
    serial = 1 + sum(f"{subject} {issuer} {kind} {days}".encode())
    builder = x509.CertificateBuilder(issuer_name, subject_name, key(kind).public_key(), serial, begins, ends)
    if authority:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=path), critical=True)
    if may_issue is not None:
        usage = x509.KeyUsage(True, False, False, False, False, may_issue, False, False, False)
        builder = builder.add_extension(usage, critical=True)
    digest = None if by == "ed25519" else hashes.SHA256()
    return builder.sign(key(by), digest).public_bytes(Encoding.PEM).decode()


def base64url(data: bytes) -> str:
    """As JWKs have it."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def every_function(*, alone: bool = False) -> Job:
    """A job that calls every function there is, by what the others give, and gives their names in order."""
    forged = forge_report()
    given = (certificate("a", "a", "rsa", "rsa", authority=True), forged.report, forged.endorsements)
    return job(_EVERYTHING, *given, alone=alone, limits=Limits(deadline_ms=20_000), **APPLICATION)


_EVERYTHING: Final = """
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
