"""The signature section of an image: who vouches for it. PCR8 measures the certificate; the platform checks the signature at start.

A list of one map {signing_certificate, signature}, byte strings written as arrays of numbers, as AWS's tool does. The signature is an
untagged COSE_Sign1 (ES384 in ours; ES256 and ES512 are read too) over {register_index: 0, register_value: PCR0}. What was signed is never
parsed: it is built again from the image's own PCR0 and compared.
Source: AWS's format of enclave images, version 4.
"""

from typing import Any, Final, NamedTuple

import cbor2
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from ledgerd.ledger import cbor
from ledgerd.ledger.errors import ConfigurationError, FormatError, IntegrityError
from ledgerd.node.image.errors import EifError


class Algorithm(NamedTuple):
    """An algorithm of COSE, with what belongs to it."""

    name: str
    curve: str
    digest: hashes.HashAlgorithm
    half_bytes: int


# By the bytes of the protected header that says so, and nothing else.
ALGORITHMS: Final = {
    cbor.encode({1: -7}): Algorithm("ES256", "secp256r1", hashes.SHA256(), 32),
    cbor.encode({1: -35}): Algorithm("ES384", "secp384r1", hashes.SHA384(), 48),
    cbor.encode({1: -36}): Algorithm("ES512", "secp521r1", hashes.SHA512(), 66),
}
_PROTECTED: Final = cbor.encode({1: -35})
_HALF_BYTES: Final = 48
_KEYS: Final = {"signing_certificate", "signature"}


class Signature(NamedTuple):
    """A signature as it was read; `certificate` says who, `message` is to be verified."""

    certificate: x509.Certificate
    protected: bytes
    payload: bytes
    signature: bytes

    @property
    def algorithm(self) -> Algorithm:
        """By which it was signed, as it says itself."""
        return ALGORITHMS[self.protected]

    @property
    def certificate_der(self) -> bytes:
        """What PCR8 measures."""
        return self.certificate.public_bytes(serialization.Encoding.DER)


def sign(pcr0: bytes, certificate_pem: bytes, key_pem: bytes) -> bytes:
    """Make the signature section of the image with this PCR0. The same input gives the same bytes.

    Raises: ConfigurationError: Certificate or key is no PEM, not of P-384, or they do not belong together.
    """
    certificate, key = load_certificate(certificate_pem), _load_key(key_pem)
    if certificate.public_key() != key.public_key():
        raise ConfigurationError("certificate and key do not belong together; give the key whose public half the certificate holds")
    payload = _payload(pcr0)
    der = key.sign(_to_be_signed(_PROTECTED, payload), ec.ECDSA(hashes.SHA384(), deterministic_signing=True))
    signature = b"".join(half.to_bytes(_HALF_BYTES, "big") for half in utils.decode_dss_signature(der))
    message = cbor.encode([_PROTECTED, {}, payload, signature])
    # AWS's tool writes keys in this order; cbor2, since our own encoder would sort them.
    section: list[dict[str, Any]] = [{"signing_certificate": list(_normal_pem(certificate)), "signature": list(message)}]
    return cbor2.dumps(section)


def read(section: bytes) -> Signature:
    """Read a signature section, of at most `eif.SIGNATURE_BYTES_MAX`. Nothing is verified.

    Raises: EifError: It has another form, or an unknown algorithm.
    """
    try:
        value = cbor.decode(section, depth=3)
    except FormatError as error:
        raise EifError("signature", str(error)) from None
    if not (isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict) and value[0].keys() == _KEYS):
        raise EifError("signature", "it is not a list of one map of a certificate and a signature")
    pem, message = (_bytes(value[0][name], name) for name in ("signing_certificate", "signature"))
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        certificate.public_key()
    except (ValueError, TypeError) as error:
        raise EifError("signature", f"its certificate cannot be read: {str(error)[:100]}") from None
    except Exception as error:  # unsupported key types have an exception of their own
        raise EifError("signature", f"its certificate's key cannot be read: {type(error).__name__}") from None
    try:
        parts = cbor.decode(message, depth=2)
    except FormatError as error:
        raise EifError("signature", str(error)) from None
    if isinstance(parts, cbor2.CBORTag) and parts.tag == 18:
        parts = parts.value
    if not (isinstance(parts, (list, tuple)) and len(parts) == 4):
        raise EifError("signature", "its message is no COSE_Sign1")
    protected, unprotected, payload, signature = parts
    if not (isinstance(protected, bytes) and unprotected == {} and isinstance(payload, bytes) and isinstance(signature, bytes)):
        raise EifError("signature", "its message is no COSE_Sign1 with an empty unprotected header")
    algorithm = ALGORITHMS.get(protected)
    if algorithm is None or len(signature) != 2 * algorithm.half_bytes:
        known = ", ".join(known.name for known in ALGORITHMS.values())
        raise EifError("signature", f"{len(signature)} bytes by the algorithm that header {protected[:20].hex()} names; known are {known}")
    return Signature(certificate, protected, payload, signature)


def verify(found: Signature, pcr0: bytes) -> None:
    """Check that the certificate's key signed this PCR0. Says nothing about whether the certificate is anybody's whom one trusts.

    Raises: IntegrityError: It did not.
    """
    key, algorithm = found.certificate.public_key(), found.algorithm
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != algorithm.curve:
        raise IntegrityError(f"the signing certificate's key is not of the curve of {algorithm.name}; sign the image again")
    if found.payload != _payload(pcr0):
        raise IntegrityError("what was signed is not this image's PCR0; the image was changed after signing, or the signature is another's")
    halves = (found.signature[: algorithm.half_bytes], found.signature[algorithm.half_bytes :])
    der = utils.encode_dss_signature(*(int.from_bytes(half, "big") for half in halves))
    try:
        key.verify(der, _to_be_signed(found.protected, found.payload), ec.ECDSA(algorithm.digest))
    except InvalidSignature:
        raise IntegrityError("the signing certificate's key did not make this signature; sign the image again") from None


def load_certificate(pem: bytes) -> x509.Certificate:
    """Read the certificate to sign with.

    Raises: ConfigurationError: It is none, or its key is not of P-384.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        key = certificate.public_key()
    except Exception as error:  # bad PEM, bad DER and unknown kinds of keys have exceptions of their own
        raise ConfigurationError(f"the signing certificate cannot be read as PEM: {type(error).__name__}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise ConfigurationError("the signing certificate's key must be of P-384; make one with: openssl ecparam -name secp384r1 -genkey")
    return certificate


def certificate_der(pem: bytes) -> bytes:
    """What PCR8 will measure of a certificate. Raises: ConfigurationError, as `load_certificate`."""
    return load_certificate(pem).public_bytes(serialization.Encoding.DER)


def _load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, None)
    except Exception as error:  # as above; a passphrase is a TypeError
        raise ConfigurationError(f"the signing key cannot be read as PEM without a passphrase: {type(error).__name__}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigurationError("the signing key must be of P-384")
    return key


def _normal_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _payload(pcr0: bytes) -> bytes:
    """What is signed: keys in this order, the value as an array of numbers."""
    payload: dict[str, Any] = {"register_index": 0, "register_value": list(pcr0)}
    return cbor2.dumps(payload)


def _to_be_signed(protected: bytes, payload: bytes) -> bytes:
    return cbor.encode(["Signature1", protected, b"", payload])


def _bytes(value: Any, name: str) -> bytes:
    if not (isinstance(value, (list, tuple)) and all(type(byte) is int and 0 <= byte < 256 for byte in value)):
        raise EifError("signature", f"{name} is not an array of bytes")
    return bytes(value)
