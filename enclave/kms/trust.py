"""Whether the server at the other end is KMS: its certificate, judged in the enclave, by roots that the configuration names.

Not here: the judging itself (`enclave.web_servers`), Amazon's roots (`enclave.kms.amazon_roots`).
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final

from cryptography import x509

from ledgerd.enclave import web_servers
from ledgerd.enclave.tls import Check
from ledgerd.ledger.errors import ConfigurationError


def parse_server_roots(pems: Iterable[str]) -> tuple[x509.Certificate, ...]:
    """Read the authorities that may vouch for KMS, any number in each PEM text.

    Raises: ConfigurationError: One is none, or there is none at all.
    """
    roots: list[x509.Certificate] = []
    for pem in pems:
        try:
            roots.extend(x509.load_pem_x509_certificates(pem.encode()))
        except Exception:  # of bytes that came through the host; the library's list of what it raises is long and grows
            raise ConfigurationError(
                "a root for KMS's certificate is not PEM; give the certificates of Amazon's root authorities, not keys"
            ) from None
    if not roots:
        raise ConfigurationError("no root for KMS's certificate is given, so nobody could be believed; give Amazon Trust Services' roots")
    return tuple(roots)


def server_check(roots: tuple[x509.Certificate, ...], name: str, at: Callable[[], datetime]) -> Check:
    """Make the check of one connection to KMS; as `web_servers.server_check`."""
    return web_servers.server_check(roots, name, at, _ADVICE)


_ADVICE: Final = "is something between this host and AWS, or is a root missing from this node's configuration?"
