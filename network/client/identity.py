"""The service's identity, pinned: what every TLS connection of the SDK must end at.

The certificate is the only trust anchor: no system store, no environment, no way to switch verification off.
How one comes to believe a certificate in the first place is `client.trust`.
"""

import ssl
from os import PathLike
from pathlib import Path
from typing import Final, NamedTuple

from ledgerd.ledger import receipt
from ledgerd.ledger.errors import ConfigurationError, FormatError

ALPN_HTTP: Final = "http/1.1"
ALPN_PIPELINED: Final = "ledgerd/1"


class ServiceIdentity(NamedTuple):
    """What a client knows about the service that it talks to.

    Attributes:
        certificate: The service certificate, PEM.
        genesis: Hex digest of the service's first entry, where attestation has told it; "" otherwise. With the certificate alone
            a client trusts whoever gave it the certificate; `client.trust` checks that an attested enclave holds its key.
    """

    certificate: str
    genesis: str = ""


class Credentials(NamedTuple):
    """A user's or member's certificate and private key, PEM files."""

    certificate: str
    key: str


def read_identity(certificate: str | PathLike[str] | ServiceIdentity) -> ServiceIdentity:
    """Take a service certificate as PEM text, or from a file.

    Raises: ConfigurationError: There is no such file, or it is no certificate.
    """
    if isinstance(certificate, ServiceIdentity):
        return certificate
    if isinstance(certificate, str) and "-----BEGIN" in certificate:
        text = certificate
    else:
        try:
            text = Path(certificate).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            raise ConfigurationError(f"cannot read the service certificate {Path(certificate)}: {reason}") from None
    try:
        receipt.public_key(receipt.load_certificate(text, "the service certificate"), "the service certificate")
    except FormatError as error:
        raise ConfigurationError(str(error)) from None
    return ServiceIdentity(text)


def tls_context(identity: ServiceIdentity, credentials: Credentials | None, alpn: str) -> ssl.SSLContext:
    """Make the context for connections to nodes of this service and no other.

    Raises: ConfigurationError: The client's certificate or key cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # demands a certificate that is valid for the host asked for
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the pinned certificate ends the chain, whoever else may have signed it
    context.load_verify_locations(cadata=identity.certificate)
    _finish(context, credentials, alpn)
    return context


def unverified_context(alpn: str) -> ssl.SSLContext:
    """For the one exchange of `client.trust` that fetches an attestation document, and verifies that instead."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    _finish(context, None, alpn)
    return context


def _finish(context: ssl.SSLContext, credentials: Credentials | None, alpn: str) -> None:
    context.set_alpn_protocols([alpn])
    if credentials is not None:
        try:
            context.load_cert_chain(credentials.certificate, credentials.key)
        except (OSError, ssl.SSLError) as error:
            reason = str(error)
            if not isinstance(error, ssl.SSLError):
                reason = error.strerror or reason
            elif error.reason == "KEY_VALUES_MISMATCH":
                reason = "the key is another certificate's; give the two files of one user or member"
            elif error.library in ("PEM", "SSL"):
                reason = "they are not a certificate and a private key in PEM"
            raise ConfigurationError(f"cannot use {credentials.certificate} with {credentials.key}: {reason}") from None
