"""The secret that a public name needs: a TLS key made in the enclave, and the chain that a public authority gave for it.

The key never exists outside: it is made here, its request goes out to the authority, and what comes back is accepted only for this key.
Sealed (`enclave.kms.sealed`) it survives a restart of the same image. An old one that the host gives back is one that the authority once
certified: its private half is as secret as ever, and a certificate that has run out is refused here. One that was revoked is not noticed:
whoever revokes must also raise the floor of `sealed.open_by`, or seal under another KMS key.
Not here: serving with it (`enclave.tls`), the authority's protocol.
"""

from datetime import datetime
from itertools import pairwise
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
from cryptography.x509.oid import ExtendedKeyUsageOID

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
        """Refuse a chain that could not serve `name`: no certificate, another key's, for other names, or not valid `at` (aware); or none.

        Which authority it ends at is for whoever connects to judge.

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
        _check_leaf(leaf, name)
        for number, certificate in enumerate(self.chain):
            begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
            if not begins <= at < ends:
                raise IntegrityError(
                    f"certificate {number + 1} for {name} is valid from {begins} to {ends}, and now is {at}; "
                    "get a new one, or give the newest sealed file"
                )
        for number, (certificate, issuer) in enumerate(pairwise(self.chain), 1):
            if not _is_issued_by(certificate, issuer):
                raise IntegrityError(
                    f"certificate {number} for {name} is not issued by the one after it; give the authority's answer as it came: the key's "
                    "certificate first, then its issuer, and so on"
                )


def _check_leaf(leaf: x509.Certificate, name: str) -> None:
    """Refuse a certificate with which no client would let a server speak. Raises: IntegrityError."""
    try:
        extensions = {type(extension.value): extension.value for extension in leaf.extensions}
    except Exception as error:  # as in `check`
        raise IntegrityError(f"the certificate for {name} cannot be read: {str(error)[:200]}") from None
    constraints, usages = extensions.get(x509.BasicConstraints), extensions.get(x509.ExtendedKeyUsage)
    if isinstance(constraints, x509.BasicConstraints) and constraints.ca:
        raise IntegrityError(f"the certificate for {name} is an authority's; it must be one for a server")
    if isinstance(usages, x509.ExtendedKeyUsage) and ExtendedKeyUsageOID.SERVER_AUTH not in usages:
        raise IntegrityError(f"the certificate for {name} is not for servers; ask the authority for one with the usage serverAuth")


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether an authority made a certificate: its name, its signature, and that it may."""
    try:
        constraints = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
        certificate.verify_directly_issued_by(issuer)
    except Exception:  # a stranger's bytes; the library's list of what it raises is long and grows
        return False
    return constraints.ca


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
