"""Certificates that a ledger records: made with the service's key, so an auditor cannot make them again, but can check each.

Who holds the key could certify anything. What makes a certificate one of this service's is that the ledger asks for it, and that it says
what was asked for and no more: it must be the one that the enclave makes, but for its serial number and the signature, which must verify.
"""

from datetime import datetime
from typing import Final, NoReturn

from cryptography import x509

from ledgerd.enclave.auditing import findings
from ledgerd.enclave.keys import CERTIFICATE_VALIDITY_DAYS, ServiceKeys, create_service_key, curve_of
from ledgerd.governance import tables
from ledgerd.ledger.entry import WriteSet
from ledgerd.ledger.errors import FormatError, IntegrityError
from ledgerd.ledger.ids import TransactionId
from ledgerd.ledger.receipt import check_chain, load_certificate, public_key

_MEANING: Final = "Whoever ran the service certified what nobody asked for."


class RecordedKeys(ServiceKeys):
    """In place of the service's keys: whoever asks for a certificate is given the one that the entry records, once it is checked.

    Args:
        service_pem: The service's certificate before the entry.
        transaction_id, writes: The entry.
    """

    __slots__ = ("_id", "_writes")

    def __init__(self, service_pem: str, transaction_id: TransactionId, writes: WriteSet) -> None:
        certificate = load_certificate(service_pem, "the service's certificate")
        super().__init__(create_service_key(curve_of(certificate)), certificate)  # a key of nobody's, to make certificates of the same form
        self._id = transaction_id
        self._writes = writes

    def endorse(self, request: x509.CertificateSigningRequest, at: datetime, days: int = CERTIFICATE_VALIDITY_DAYS) -> x509.Certificate:
        """The recorded certificate over the key of a node's request. Raises: NotFollowingError: It is another than was to be made."""
        found = self.recorded(request)
        self._compare(found, super().endorse(request, at, days))
        return found

    def recorded(self, request: x509.CertificateSigningRequest) -> x509.Certificate:
        """The same, unchecked. Raises: NotFollowingError: There is none."""
        pems = self._writes.get(tables.NODE_ENDORSED_CERTIFICATES, {}).values()
        certificates = [found for pem in pems if pem is not None and (found := _certificate(pem)) is not None]
        found = next((one for one in certificates if one.public_key() == request.public_key()), None)
        if found is None:
            self._refuse("a certificate over the key of the node's recorded request", "none over that key")
        return found

    def renewed(self, at: datetime, days: int) -> x509.Certificate:
        """The recorded certificate of the service's own key. Raises: NotFollowingError: It is another than was to be made."""
        record = findings.record_in(self._writes.get(tables.SERVICE_INFO, {}).get(tables.SINGLETON)) or {}
        found = _certificate(str(record.get("cert")).encode())
        if found is None or found.public_key() != self.certificate.public_key():
            self._refuse("another certificate of the service's key", "none of that key")
        self._compare(found, super().renewed(at, days))
        return found

    def _compare(self, found: x509.Certificate, wanted: x509.Certificate) -> None:
        try:
            check_chain(found, [self.certificate])
        except (FormatError, IntegrityError) as error:
            self._refuse("a certificate that the service's key has signed", str(error))
        for name, here, there in (
            ("begin", str(wanted.not_valid_before_utc), str(found.not_valid_before_utc)),
            ("end", str(wanted.not_valid_after_utc), str(found.not_valid_after_utc)),
            ("subject", wanted.subject.rfc4514_string(), found.subject.rfc4514_string()),
            ("issuer", wanted.issuer.rfc4514_string(), found.issuer.rfc4514_string()),
        ):
            if here != there:
                self._refuse(f"a certificate with {name} {here}", f"{name} {there}")
        expected, there_are = _extensions(wanted), _extensions(found)
        key = public_key(found)
        expected[_SUBJECT_KEY] = (False, x509.SubjectKeyIdentifier.from_public_key(key).public_bytes())
        expected[_ISSUER_KEY] = (False, x509.AuthorityKeyIdentifier.from_issuer_public_key(public_key(self.certificate)).public_bytes())
        for oid in expected.keys() | there_are.keys():
            if expected.get(oid) != there_are.get(oid):
                self._refuse(f"a certificate as the service makes it, with its extension {oid.dotted_string}", "another, or none")

    def _refuse(self, expected: str, found: str) -> NoReturn:
        raise findings.NotFollowingError(self._id, findings.CERTIFICATE, expected, found, _MEANING)


_SUBJECT_KEY: Final = x509.SubjectKeyIdentifier.oid
_ISSUER_KEY: Final = x509.AuthorityKeyIdentifier.oid


def _extensions(certificate: x509.Certificate) -> dict[x509.ObjectIdentifier, tuple[bool, bytes]]:
    return {extension.oid: (extension.critical, extension.value.public_bytes()) for extension in certificate.extensions}


def _certificate(pem: bytes) -> x509.Certificate | None:
    try:
        return load_certificate(pem)
    except FormatError:
        return None
