"""Roots: the certificates at which a chain may end. AWS's own is built in; every other one is a simulator's.

A service accepts only the roots in its genesis configuration; whoever calls says which those are.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from ledgerd.ledger.errors import ConfigurationError

# "Root-G1" of https://docs.aws.amazon.com/enclaves/latest/user/verify-root.html, valid from 2019-10-28 to 2049-10-28.
# AWS also prints a SHA-256 that begins 8cf60e2b; that is the digest of the ZIP file, not of the certificate.
AWS_ROOT_G1_PEM: Final = """\
-----BEGIN CERTIFICATE-----
MIICETCCAZagAwIBAgIRAPkxdWgbkK/hHUbMtOTn+FYwCgYIKoZIzj0EAwMwSTEL
MAkGA1UEBhMCVVMxDzANBgNVBAoMBkFtYXpvbjEMMAoGA1UECwwDQVdTMRswGQYD
VQQDDBJhd3Mubml0cm8tZW5jbGF2ZXMwHhcNMTkxMDI4MTMyODA1WhcNNDkxMDI4
MTQyODA1WjBJMQswCQYDVQQGEwJVUzEPMA0GA1UECgwGQW1hem9uMQwwCgYDVQQL
DANBV1MxGzAZBgNVBAMMEmF3cy5uaXRyby1lbmNsYXZlczB2MBAGByqGSM49AgEG
BSuBBAAiA2IABPwCVOumCMHzaHDimtqQvkY4MpJzbolL//Zy2YlES1BR5TSksfbb
48C8WBoyt7F2Bw7eEtaaP+ohG2bnUs990d0JX28TcPQXCEPZ3BABIeTPYwEoCWZE
h8l5YoQwTcU/9KNCMEAwDwYDVR0TAQH/BAUwAwEB/zAdBgNVHQ4EFgQUkCW1DdkF
R+eWw5b6cp3PmanfS5YwDgYDVR0PAQH/BAQDAgGGMAoGCCqGSM49BAMDA2kAMGYC
MQCjfy+Rocm9Xue4YnwWmNJVA44fA0P5W2OpYow9OYCVRaEevL8uO1XYru5xtMPW
rfMCMQCi85sWBbJwKKXdS6BptQFuZbT73o/gBh1qUxl/nNr12UO8Yfwr6wPLb+6N
IwLz3/Y=
-----END CERTIFICATE-----
"""
AWS_ROOT_G1_FINGERPRINT: Final = "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"


class Root(NamedTuple):
    """One accepted root.

    Attributes:
        certificate: DER; the bundle's first certificate must be exactly these bytes.
        fingerprint: Hex SHA-256 of the DER.
        simulated: True for every root but AWS's: nothing below it proves that there is an enclave.
    """

    certificate: bytes
    fingerprint: str
    simulated: bool


def parse_roots(pems: Iterable[str]) -> tuple[Root, ...]:
    """Read accepted roots, one certificate in each PEM text.

    Raises: ConfigurationError: One is not a certificate, or there is none at all.
    """
    roots = tuple(map(_parse, pems))
    if not roots:
        raise ConfigurationError("no attestation root is given, so no enclave could ever be accepted; give at least AWS's")
    return roots


@lru_cache(maxsize=32)  # a service has one or two, and each document is judged by them
def _parse(pem: str) -> Root:
    try:
        if pem.count("-----BEGIN ") != 1:
            raise ValueError
        certificate = x509.load_pem_x509_certificate(pem.encode())
    except Exception:  # of bytes that may have come through a host; the library's list of what it raises is long and grows
        raise ConfigurationError(
            "an attestation root is not exactly one PEM certificate; give each root's certificate by itself, not its key"
        ) from None
    fingerprint = certificate.fingerprint(hashes.SHA256()).hex()
    return Root(certificate.public_bytes(Encoding.DER), fingerprint, fingerprint != AWS_ROOT_G1_FINGERPRINT)


AWS_ROOT_G1: Final = parse_roots([AWS_ROOT_G1_PEM])[0]
