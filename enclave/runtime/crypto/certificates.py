"""Certificates: whether text is some, whether a chain leads to one that is trusted, and the identity that one stands for.

Chains are judged by OpenSSL's own rules, as in CCF, at the time that the script's clock says; a trusted certificate need not be a root,
but must be an authority.
A decision has no time, so that it comes out the same whenever it is made again: dates are not judged then.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import crypto

from ledgerd.enclave.runtime.crypto.arguments import BUNDLE_LENGTH_MAX, Function, RefusalError, Surroundings, reason, text, utf8

_CHAIN_LENGTH_MAX: Final = 64  # certificates of each kind; every one may be tried
_NO_CHECK_TIME: Final = 0x200000  # OpenSSL's flag, which pyOpenSSL has no name for
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _pem_to_id(_: Surroundings, pem: Any) -> str:
    data = utf8(text(pem, "pem"), "pem")
    try:
        return sha256(x509.load_pem_x509_certificate(data).public_bytes(Encoding.DER)).hexdigest()
    except Exception as error:  # of hostile bytes; the library does not state which of its many exceptions can come
        raise RefusalError(f"Failed to parse PEM: no certificate: {reason(error)}") from None


def _is_valid_bundle(_: Surroundings, pem: Any) -> bool:
    return bool(_certificates(text(pem, "pem", BUNDLE_LENGTH_MAX)))


def _is_valid_chain(where: Surroundings, chain: Any, trusted: Any) -> bool:
    path = _certificates(text(chain, "chain", BUNDLE_LENGTH_MAX))
    anchors = _certificates(text(trusted, "trusted", BUNDLE_LENGTH_MAX))
    if not 0 < len(path) <= _CHAIN_LENGTH_MAX or not 0 < len(anchors) <= _CHAIN_LENGTH_MAX:
        return False
    if not all(_is_authority(anchor) for anchor in anchors):
        return False
    try:
        store = crypto.X509Store()
        store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN | (0 if where.time_ms else _NO_CHECK_TIME))
        if where.time_ms:
            store.set_time(_EPOCH + timedelta(milliseconds=where.time_ms))
        for anchor in anchors:
            store.add_cert(crypto.X509.from_cryptography(anchor))
        target, *between = (crypto.X509.from_cryptography(certificate) for certificate in path)
        crypto.X509StoreContext(store, target, between).verify_certificate()
    except (crypto.Error, crypto.X509StoreContextError, ValueError, OverflowError):
        return False
    return True


def _is_authority(certificate: x509.Certificate) -> bool:
    """Whether it may issue others: it says so, or it is from before certificates could say so, and signed by itself."""
    try:
        values = {type(extension.value): extension.value for extension in certificate.extensions}
        usage, basic = values.get(x509.KeyUsage), values.get(x509.BasicConstraints)
        if isinstance(usage, x509.KeyUsage) and not usage.key_cert_sign:
            return False
        if isinstance(basic, x509.BasicConstraints):
            return basic.ca
        return certificate.version is x509.Version.v1 and certificate.issuer == certificate.subject
    except Exception:  # of hostile bytes, as in `_pem_to_id`
        return False


def _certificates(pem: str) -> list[x509.Certificate]:
    """Those of a bundle; none if something else is in it, or a single one cannot be read."""
    try:
        found = x509.load_pem_x509_certificates(pem.encode())
    except Exception:  # of hostile bytes, as in `_pem_to_id`
        return []
    # What is no whole block the library passes over.
    return found if pem.count("-----BEGIN ") == pem.count("-----END ") == len(found) else []


FUNCTIONS: Final[Mapping[str, Function]] = {
    "pemToId": _pem_to_id,
    "isValidX509CertBundle": _is_valid_bundle,
    "isValidX509CertChain": _is_valid_chain,
}
