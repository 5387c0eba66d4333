"""Whether the server at the other end is KMS: its certificate, judged in the enclave, by roots that the configuration names.

The host relays the connection and resolves the name, so it may lead anywhere; this check is what it cannot pass without a certificate that
one of the roots vouches for. The time is the attested clock's. Revocation is not asked for: the host could withhold the answer.
Not here: TLS itself (`enclave.tls`), which sends nothing before this has returned.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from ledgerd.enclave.tls import Check
from ledgerd.ledger.errors import ConfigurationError, IntegrityError

CHAIN_LENGTH_MAX: Final = 8  # AWS sends four
INTERMEDIATES_MAX: Final = 4


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
    """Make the check of one connection: a chain from one of `roots` to a server certificate for the DNS name `name`, valid `at()`.

    The check raises IntegrityError.
    """
    store = Store(list(roots))

    def check(chain: list[bytes]) -> None:
        if not 0 < len(chain) <= CHAIN_LENGTH_MAX:
            raise IntegrityError(f"the server at {name} shows a chain of {len(chain)} certificates; 1 to {CHAIN_LENGTH_MAX} are expected")
        try:
            leaf, *others = (x509.load_der_x509_certificate(item) for item in chain)
            builder = PolicyBuilder().store(store).time(at()).max_chain_depth(INTERMEDIATES_MAX)
            builder.build_server_verifier(x509.DNSName(name)).verify(leaf, others)
        except Exception as error:  # of a stranger's bytes; the library's list of what it raises is long and grows
            raise IntegrityError(
                f"the server that the host led to is not {name}: {str(error)[:200]}; is something between this host and AWS, or is a root "
                "missing from this node's configuration?"
            ) from None

    return check
