"""The secret that a public name needs: a TLS key made in the enclave, and the chain that a public authority gave for it.

The key never exists outside: it is made here, its request goes out to the authority, and what comes back is accepted only for this key.
Sealed (`enclave.kms.sealed`) it survives a restart of the same image. An old one that the host gives back is one that the authority once
certified: its private half is as secret as ever, and a certificate that has run out is refused here. One that was revoked is not noticed:
whoever revokes must also raise the floor of `sealed.open_by`, or seal under another KMS key.
Not here: serving with it (`enclave.tls`), the authority's protocol.
"""

from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from ledgerd.ledger import cbor
from ledgerd.ledger.errors import ConfigurationError, FormatError, IntegrityError

PURPOSE_PREFIX: Final = "tls:"
CHAIN_LENGTH_MAX: Final = 8

_CURVES: Final = ("secp256r1", "secp384r1")  # what public authorities certify


class TlsSecret:
    """A private key and its certificates.

    Attributes:
        key: On P-256 or P-384.
        chain: The key's certificate first; empty until the authority has answered.
    """

    __slots__ = ("chain", "key")

    def __init__(self, key: ec.EllipticCurvePrivateKey, chain: tuple[x509.Certificate, ...] = ()) -> None:
        self.key = key
        self.chain = chain

    def __repr__(self) -> str:
        return f"TlsSecret({len(self.chain)} certificates)"

    def request(self, name: str) -> x509.CertificateSigningRequest:
        """PKCS#10 request for the authority, for one DNS name."""
        subject = x509.Name([])  # the name stands among the alternative ones, where browsers look
        names = x509.SubjectAlternativeName([x509.DNSName(name)])
        builder = x509.CertificateSigningRequestBuilder().subject_name(subject).add_extension(names, critical=True)
        return builder.sign(self.key, hashes.SHA256())

    def with_chain(self, pem: str, name: str, at: datetime) -> "TlsSecret":
        """Accept what the authority gave.

        Raises: ConfigurationError: It is no chain for this key and name that is valid `at` (aware).
        """
        try:
            chain = tuple(x509.load_pem_x509_certificates(pem.encode()))
        except Exception:  # of bytes that came through the host; the library's list of what it raises is long and grows
            raise ConfigurationError("the certificates for the public name are not PEM; give the chain that the authority sent") from None
        found = TlsSecret(self.key, chain)
        try:
            found.check(name, at)
        except IntegrityError as error:
            raise ConfigurationError(str(error)) from None
        return found

    def check(self, name: str, at: datetime) -> None:
        """Refuse a chain that could not serve `name`: no certificate, another key's, for other names, or not valid `at` (aware).

        Raises: IntegrityError.
        """
        if not 0 < len(self.chain) <= CHAIN_LENGTH_MAX:
            raise IntegrityError(f"there are {len(self.chain)} certificates for {name}; 1 to {CHAIN_LENGTH_MAX} are expected")
        leaf = self.chain[0]
        try:
            certified = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
        except Exception as error:  # of bytes that came through the host; the library's list of what it raises is long and grows
            raise IntegrityError(f"the certificate for {name} cannot be read: {str(error)[:200]}") from None
        if certified != self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo):
            raise IntegrityError(f"the certificate for {name} is of another key; it must be made for this enclave's own request")
        wildcard = f"*.{name.partition('.')[2]}"
        if not {name.lower(), wildcard.lower()} & {item.lower() for item in names}:
            raise IntegrityError(f"the certificate is for {', '.join(names)[:200] or 'no name'}, not for {name}")
        if not leaf.not_valid_before_utc <= at < leaf.not_valid_after_utc:
            raise IntegrityError(
                f"the certificate for {name} is valid from {leaf.not_valid_before_utc} to {leaf.not_valid_after_utc}, and now is {at}; "
                "get a new one, or give the newest sealed file"
            )


def create(curve: type[ec.EllipticCurve] = ec.SECP256R1) -> TlsSecret:
    """Make a key; the chain comes later."""
    return TlsSecret(ec.generate_private_key(curve()))


def encode(secret: TlsSecret) -> bytes:
    """Print it to be sealed. Secret."""
    return cbor.encode(
        {
            "key": secret.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
            "chain": [certificate.public_bytes(Encoding.DER) for certificate in secret.chain],
        }
    )


def decode(data: bytes) -> TlsSecret:
    """Read what was sealed.

    Raises: FormatError: It is something else.
    """
    fields = cbor.decode(data, depth=2)
    if type(fields) is not dict or [type(fields.get(name)) for name in ("key", "chain")] != [bytes, list] or len(fields) != 2:
        raise FormatError("what was sealed is no TLS key with its chain")
    try:
        key = load_der_private_key(fields["key"], None)
        chain = tuple(x509.load_der_x509_certificate(item) for item in fields["chain"])
    except Exception:  # of bytes that came through the host; the library's list of what it raises is long and grows
        raise FormatError("what was sealed as a TLS key and its chain cannot be read") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _CURVES or len(chain) > CHAIN_LENGTH_MAX:
        raise FormatError("what was sealed is no TLS key on P-256 or P-384 with a short chain")
    return TlsSecret(key, chain)
