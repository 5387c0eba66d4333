"""What is fuzzed, and the law that every input must keep; used by `scripts/fuzz` and by a short test.

The law: a verifier answers hostile bytes with its typed refusal and with nothing else, and what it accepts holds exactly the signed bytes
of one of the seeds. Inputs may differ where nobody signs: (r, n-s), an unprotected header, white space in PEM.
"""

import random
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import cbor2

from ledgerd.ledger.attestation import certificates, nitro, snp, uvm
from ledgerd.ledger.attestation.errors import AttestationError
from support import documents, reports


class BrokenLaw(Exception):
    """A finding."""


class Target(NamedTuple):
    """One thing to fuzz.

    Attributes:
        name: For people and the command line.
        seeds: Inputs that are accepted.
        judge: Feeds one input; returns whether it was accepted. Raises: BrokenLaw, and whatever else a bug raises.
    """

    name: str
    seeds: Sequence[bytes]
    judge: Callable[[bytes], bool]


def targets() -> list[Target]:
    """Make all targets; keys and certificates are new each time."""
    return [_nitro_document(), _nitro_payload(), _snp_report(), _snp_endorsements(), _uvm(), _certificate()]


def _nitro_document() -> Target:
    """A document from the network."""
    forged = documents.forge()
    indefinite = documents.wrap(forged.leaf_key, b"\xbf" + cbor2.loads(forged.document)[2][1:] + b"\xff")
    seeds = [forged.document, b"\xd2" + forged.document, indefinite]
    signed = {nitro.decode(seed).payload for seed in seeds}
    roots = forged.policy.roots

    def judge(data: bytes) -> bool:
        try:
            nitro.verify(data, roots, at_ms=documents.MADE_AT_MS)
        except AttestationError:
            return False
        if nitro.decode(data).payload not in signed:
            raise BrokenLaw("a changed payload is accepted")
        return True

    return Target("nitro-document", seeds, judge)


def _nitro_payload() -> Target:
    """A payload signed by a real leaf's key: what a thief of that key, or a strange security module, could send."""
    forged = documents.forge()
    seed: bytes = cbor2.loads(forged.document)[2]
    roots = forged.policy.roots
    chain = set(forged.bundle) | {forged.leaf}

    def judge(data: bytes) -> bool:
        try:
            document = documents.wrap(forged.leaf_key, data)
            nitro.verify(document, roots, at_ms=documents.MADE_AT_MS)
        except AttestationError:
            return False
        said = nitro.decode(document)
        if not {said.certificate, *said.cabundle} <= chain:
            raise BrokenLaw("a changed certificate is accepted")
        if any(type(index) is not int or not 0 <= index < 32 or len(value) != 48 for index, value in said.pcrs.items()):
            raise BrokenLaw("a register that none is")
        return True

    return Target("nitro-payload", [seed, b"\xbf" + seed[1:] + b"\xff"], judge)


def _snp_report() -> Target:
    """A report from the network, with its own certificates; the first byte says of which processor."""
    forged = [reports.forge_report("Milan"), reports.forge_report("Turin", version=5), reports.forge_report("Genoa", vlek=True, version=2)]

    def judge(data: bytes) -> bool:
        own = forged[data[0] % len(forged)] if data else forged[0]
        report = data[1:]
        try:
            snp.verify(report, own.endorsements, at_ms=reports.NOW_MS, arks=own.arks)
        except AttestationError:
            return False
        if report[:0x2A0] != own.report[:0x2A0]:
            raise BrokenLaw("a changed report is accepted")
        return True

    return Target("snp-report", [bytes((at,)) + each.report for at, each in enumerate(forged)], judge)


def _snp_endorsements() -> Target:
    """Certificates from the network, beside a report that is right."""
    forged = reports.forge_report()

    def judge(data: bytes) -> bool:
        try:
            snp.verify(forged.report, data, at_ms=reports.NOW_MS, arks=forged.arks)
        except AttestationError:
            return False
        if tuple(certificates.split_pem(data)) != forged.ders:
            raise BrokenLaw("a changed certificate is accepted")
        return True

    return Target("snp-endorsements", [forged.endorsements], judge)


def _uvm() -> Target:
    """An endorsement from the network."""
    message, _ = reports.forge_uvm()
    expected, signed = uvm.verify(message), cbor2.loads(message).value

    def judge(data: bytes) -> bool:
        try:
            endorsement = uvm.verify(data)
        except AttestationError:
            return False
        # cbor2 is laxer than the verifier, so it reads whatever that reads.
        parts = cbor2.loads(data)
        parts = parts.value if isinstance(parts, cbor2.CBORTag) else parts
        if endorsement != expected or (parts[0], parts[2]) != (signed[0], signed[2]):
            raise BrokenLaw("a changed endorsement is accepted")
        return True

    return Target("uvm", [message, message[1:]], judge)


def _certificate() -> Target:
    """The reader of certificates alone, which sees what others refuse before."""
    forged = reports.forge_report()
    seeds = [*forged.ders, documents.forge().leaf]

    def judge(data: bytes) -> bool:
        try:
            loaded = certificates.load(data, serial_may_be_zero=True)
            certificates.role(loaded)
        except ValueError:
            return False
        _ = loaded.name, loaded.common_names, loaded.validity  # may not fail any more
        _ = certificates.is_named_by(loaded, loaded), certificates.issued_by(loaded, loaded)
        if loaded.signed not in data:
            raise BrokenLaw("what is signed is not in the certificate")
        return True

    return Target("certificate", seeds, judge)


_INTERESTING: Final = [
    *(bytes((byte,)) for byte in (0x00, 0xFF, 0x7F, 0x80, 0xF6, 0xF7, 0xF5, 0xBF, 0x9F, 0x5F, 0xA0, 0xC1, 0xD2)),
    *(bytes((byte,)) + b"\xff" * 8 for byte in (0x1B, 0x5B, 0x9B, 0xBB)),
    *(b"\x7f\x61\x61\xff", b"\x30\x80", b"\x30\x84\xff\xff\xff\xff", b"\x02\x01\x00", b"\x05\x00"),
    *(b"-----BEGIN CERTIFICATE-----", b"\n", b"="),
]


def mutate(data: bytes, other: bytes, chosen: random.Random) -> bytes:
    """Change an input in one to three places, also by parts of another one."""
    changed = bytearray(data)
    for _ in range(chosen.choice((1, 1, 1, 2, 3))):
        at = chosen.randrange(len(changed) + 1)
        end = min(len(changed), at + chosen.choice((1, 1, 2, 4, 8, 48, 96, 500)))
        kind = chosen.randrange(8)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << chosen.randrange(8)
        elif kind == 1 and at < len(changed):
            changed[at] = chosen.randrange(256)
        elif kind == 2:
            del changed[at:end]
        elif kind == 3:
            changed[at:at] = changed[at:end]
        elif kind == 4:
            changed[at:at] = chosen.choice(_INTERESTING)
        elif kind == 5:
            piece = chosen.choice(_INTERESTING)
            changed[at : at + len(piece)] = piece
        elif kind == 6:
            begin = chosen.randrange(len(other) + 1)
            changed[at:end] = other[begin : begin + end - at]
        else:
            to = chosen.randrange(len(changed) + 1)
            piece = bytes(changed[at:end])
            del changed[at:end]
            changed[to:to] = piece
    return bytes(changed)
