"""Reads certificates that strangers sent: one form for one certificate, no warning that escapes, nothing believed.

AMD gives its chip certificates the serial number 0, about which `cryptography` warns, and which it will refuse one day. So such a
certificate is read with the serial number 1 in its place, while signatures are checked over the bytes that were signed.
Not here: chains (`nitro`, `snp`, `uvm`).
"""

import binascii
import re
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtensionOID, NameOID

CERTIFICATE_SIZE_BYTES_MAX: Final = 4_096  # with an RSA-4096 key and signature, AMD's and Microsoft's have up to 1,800

_KNOWN_CRITICAL: Final = frozenset({ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE})
_PEM: Final = re.compile(rb"\s*-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----\s*")


class Loaded(NamedTuple):
    """A certificate that was read.

    Attributes:
        certificate: What it says; its serial number may not be the one that stands in it.
        key: Its public key.
        signed: The bytes that its issuer signed.
        issuer, subject: Both names as they stand there, in DER.
        begins_s, ends_s: First and last second of its validity, since 1970.
    """

    certificate: x509.Certificate
    key: CertificatePublicKeyTypes
    signed: bytes
    issuer: bytes
    subject: bytes
    begins_s: int
    ends_s: int

    @property
    def name(self) -> str:
        """Its subject, short, for people."""
        try:
            return self.certificate.subject.rfc4514_string()[:200]
        except Exception:  # of hostile bytes, as in `load`; there it would be read for every certificate, and cost as much as all the rest
            return "a name that cannot be read"

    @property
    def common_names(self) -> list[str]:
        """Common names of its subject; none if that cannot be read."""
        try:
            return [str(found.value) for found in self.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        except Exception:  # as in `name`
            return []

    @property
    def validity(self) -> str:
        """First and last second of its validity, for people."""
        begins, ends = self.certificate.not_valid_before_utc, self.certificate.not_valid_after_utc
        return f"{begins.isoformat()} to {ends.isoformat()} ({self.begins_s} to {self.ends_s})"

    def is_valid_at(self, at_s: int) -> bool:
        """Say whether it is valid in that second since 1970."""
        return self.begins_s <= at_s <= self.ends_s


class Role(NamedTuple):
    """What basic constraints and key usage say.

    Attributes:
        is_authority: It is a CA, by critical basic constraints, and may sign certificates.
        path_length: How many authorities may stand between it and the leaf; None for any number.
        may_sign_data: Key usage has digitalSignature, or there is no key usage.
    """

    is_authority: bool
    path_length: int | None
    may_sign_data: bool


def load(der: bytes, *, serial_may_be_zero: bool = False) -> Loaded:
    """Read a certificate.

    Args:
        der: All of its bytes.
        serial_may_be_zero: Read AMD's chip certificates too.
    Raises: ValueError: It is none of X.509 version 3 in its only form.
    """
    if not 0 < len(der) <= CERTIFICATE_SIZE_BYTES_MAX:
        raise ValueError(f"a certificate of {len(der)} bytes")
    serial_at, algorithm, issuer, subject = _fields(der)
    if der[serial_at] >= 0x80 or (der[serial_at - 1 : serial_at + 1] == b"\x01\x00" and not serial_may_be_zero):
        raise ValueError("a serial number that is not positive")
    readable = der
    if der[serial_at - 1 : serial_at + 1] == b"\x01\x00":
        readable = der[:serial_at] + b"\x01" + der[serial_at + 1 :]
    try:
        certificate = x509.load_der_x509_certificate(readable)
        # Read now, so that it fails here.
        key, _ = certificate.public_key(), certificate.signature_algorithm_oid
        extensions = certificate.extensions
        begins_s = int(certificate.not_valid_before_utc.timestamp())
        ends_s = int(certificate.not_valid_after_utc.timestamp())
    except Exception as error:  # of hostile bytes; the library does not state which of its many exceptions can come
        raise ValueError(str(error)[:200]) from None
    if certificate.version is not x509.Version.v3:
        raise ValueError("not version 3")
    signature = certificate.signature
    signed_at = _into(der, 0)
    signed = der[signed_at : _after(der, signed_at)]
    # Outside of what is signed stand the algorithm, again, and the signature with a count of bits that it does not use. The library is
    # not strict about either, so the same certificate could have several forms.
    if der[signed_at:] != signed + algorithm + b"\x03" + _length(len(signature) + 1) + b"\x00" + signature:
        raise ValueError("another algorithm beside the signature than is signed, or a signature that does not use all of its bits")
    if any(extension.critical and extension.oid not in _KNOWN_CRITICAL for extension in extensions):
        raise ValueError("a critical extension that is not known here")
    return Loaded(certificate, key, signed, issuer, subject, begins_s, ends_s)


def role(loaded: Loaded) -> Role:
    """Read basic constraints and key usage; a certificate without basic constraints is no authority.

    Raises: ValueError: Basic constraints are not critical, or one of the two cannot be read.
    """
    extensions = loaded.certificate.extensions
    authority, path_length, may_sign_data = False, None, True
    for extension in extensions:
        if isinstance(extension.value, x509.BasicConstraints):
            authority, path_length = extension.value.ca, extension.value.path_length
            if authority and not extension.critical:
                raise ValueError("basic constraints that are not critical")
    may_sign_certificates = False
    for extension in extensions:
        if isinstance(extension.value, x509.KeyUsage):
            may_sign_certificates, may_sign_data = extension.value.key_cert_sign, extension.value.digital_signature
    return Role(authority and may_sign_certificates, path_length, may_sign_data)


def is_named_by(loaded: Loaded, issuer: Loaded) -> bool:
    """Say whether a certificate names `issuer` as its issuer, in whatever kind of text."""
    try:
        return loaded.certificate.issuer == issuer.certificate.subject
    except Exception:  # of hostile bytes, as in `load`
        return False


def issued_by(loaded: Loaded, issuer: Loaded) -> bool:
    """Say whether name and signature of a certificate are those of `issuer`, by an algorithm that the library offers."""
    try:
        loaded.certificate.verify_directly_issued_by(issuer.certificate)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def split_pem(text: bytes) -> list[bytes]:
    """Take a bundle of PEM certificates apart: DER of each, in order.

    Raises: ValueError: Something else than certificates and white space is there.
    """
    ders, at = [], 0
    while at < len(text):
        found = _PEM.match(text, at)
        if found is None:
            if text[at:].strip() == b"":
                break
            raise ValueError("something that is no PEM certificate")
        try:
            ders.append(binascii.a2b_base64(b"".join(found.group(1).split()), strict_mode=True))
        except binascii.Error:
            raise ValueError("a PEM certificate whose base64 is broken") from None
        at = found.end()
    return ders


def _fields(der: bytes) -> tuple[int, bytes, bytes, bytes]:
    """Position of the serial number's first byte; then whole the algorithm that is signed, issuer and subject (RFC 5280, 4.1)."""
    at = _into(der, _into(der, 0))
    if der[at : at + 1] == b"\xa0":
        at = _after(der, at)
    if der[at : at + 1] != b"\x02":
        raise ValueError("no serial number")
    serial_at, algorithm_at = _into(der, at), _after(der, at)
    if serial_at >= len(der):
        raise ValueError("cut short")
    issuer_at = _after(der, algorithm_at)
    validity_at = _after(der, issuer_at)
    subject_at = _after(der, validity_at)
    return serial_at, der[algorithm_at:issuer_at], der[issuer_at:validity_at], der[subject_at : _after(der, subject_at)]


def _into(der: bytes, at: int) -> int:
    """Position of the content of the element that starts at `at`."""
    first = der[at + 1 : at + 2]
    if not first:
        raise ValueError("cut short")
    return at + 2 + (first[0] - 0x80 if first[0] > 0x80 else 0)


def _after(der: bytes, at: int) -> int:
    """Position after the element that starts at `at`."""
    content = _into(der, at)
    first = der[at + 1]
    return content + (first if first < 0x80 else int.from_bytes(der[at + 2 : content], "big"))


def _length(count: int) -> bytes:
    """A length as DER writes it, up to 65,535."""
    if count < 0x80:
        return bytes((count,))
    return bytes((0x81, count)) if count < 0x100 else bytes((0x82,)) + count.to_bytes(2, "big")
