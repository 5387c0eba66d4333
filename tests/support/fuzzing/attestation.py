"""The verifiers of attestation: documents, reports, endorsements and certificates from anybody."""

from typing import Final

import cbor2

from ledgerd.ledger.attestation import certificates, nitro, snp, uvm
from ledgerd.ledger.attestation.errors import AttestationError
from support import documents, reports
from support.fuzzing.laws import Bound, BrokenLaw, Maker, Target

# Certificates are parsed and their signatures checked before they are believed; five of a chain take some milliseconds.
_CHAIN: Final = Bound(memory_bytes=2 << 20)


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

    return Target("nitro-document", seeds, judge, bound=_CHAIN)


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

    return Target("nitro-payload", [seed, b"\xbf" + seed[1:] + b"\xff"], judge, bound=_CHAIN)


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

    return Target("snp-report", [bytes((at,)) + each.report for at, each in enumerate(forged)], judge, bound=_CHAIN)


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

    return Target("snp-endorsements", [forged.endorsements], judge, bound=_CHAIN)


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

    return Target("uvm", [message, message[1:]], judge, bound=_CHAIN)


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

    return Target("certificate", seeds, judge, bound=_CHAIN)


MAKERS: Final[dict[str, Maker]] = {
    "nitro-document": _nitro_document,
    "nitro-payload": _nitro_payload,
    "snp-report": _snp_report,
    "snp-endorsements": _snp_endorsements,
    "uvm": _uvm,
    "certificate": _certificate,
}
