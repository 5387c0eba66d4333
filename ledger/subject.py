"""What a service's certificate calls it: a name that an operator writes once, as RFC 4514 writes names."""

from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from ledgerd.ledger.errors import ConfigurationError

SUBJECT_LENGTH_MAX: Final = 256  # characters


def parse_subject(text: str) -> x509.Name:
    """Read what a service's certificate shall call it, such as `CN=Ledger of the Four Banks,O=Example` (RFC 4514).

    Raises: ConfigurationError: It cannot be read, is empty or long, or has no common name.
    """
    try:
        name = x509.Name.from_rfc4514_string(text) if len(text) <= SUBJECT_LENGTH_MAX else None
    except Exception:  # the library's list of what it raises for strange names is long
        name = None
    if name is None or not name.get_attributes_for_oid(NameOID.COMMON_NAME):
        raise ConfigurationError(
            f"{text[:64]!r} is no name; give one like 'CN=Our Ledger,O=Example': a common name of at most 64 characters, and at most"
            f" {SUBJECT_LENGTH_MAX} characters in all"
        )
    return name
