"""Whether the server at the other end is the one that was asked for: its certificate, judged in the enclave by roots that the caller names.

The host relays the connection and resolves the name, so it may lead anywhere; this check is what it cannot pass without a certificate that
one of the roots vouches for. The time is the attested clock's. Revocation is not asked for: the host could withhold the answer.
Not here: TLS itself (`enclave.tls`), which sends nothing before this has returned.
"""

import ipaddress
from collections.abc import Callable
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from ledgerd.enclave.tls import Check
from ledgerd.ledger.errors import IntegrityError

CHAIN_LENGTH_MAX: Final = 8  # public servers send two to four
INTERMEDIATES_MAX: Final = 4


def server_check(roots: tuple[x509.Certificate, ...], name: str, at: Callable[[], datetime], advice: str) -> Check:
    """Make the check of one connection: a chain from one of `roots` to a server certificate for `name`, valid `at()`.

    The check raises IntegrityError.

    Args:
        name: DNS name or address.
        advice: What to do if the check fails; ends the message.
    """
    store = Store(list(roots))

    def check(chain: list[bytes]) -> None:
        if not 0 < len(chain) <= CHAIN_LENGTH_MAX:
            raise IntegrityError(f"the server at {name} shows a chain of {len(chain)} certificates; 1 to {CHAIN_LENGTH_MAX} are expected")
        try:
            leaf, *others = (x509.load_der_x509_certificate(item) for item in chain)
            builder = PolicyBuilder().store(store).time(at()).max_chain_depth(INTERMEDIATES_MAX)
            builder.build_server_verifier(_subject(name)).verify(leaf, others)
        except Exception as error:  # of a stranger's bytes; the library's list of what it raises is long and grows
            raise IntegrityError(f"the server that the host led to is not {name}: {str(error)[:200]}; {advice}") from None

    return check


def is_address(name: str) -> bool:
    """Whether a host is named by its address; then there is no name to ask for by SNI."""
    return isinstance(_subject(name), x509.IPAddress)


def _subject(name: str) -> x509.DNSName | x509.IPAddress:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
