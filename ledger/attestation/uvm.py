"""Endorsements of a guest's measurement (Azure's "UVM reference info"): who vouches that it is which version of what.

A COSE_Sign1 by a publisher, named by a did:x509 identifier (fingerprint of an authority of its chain, and a usage that the leaf must
have). As in CCF, certificates' dates are not judged: the publisher's live for a year, what it published for longer; what is accepted is
governed by publisher, feed and lowest version number instead.
Source: CCF's table nodes.snp.uvm_endorsements; did:x509 (microsoft/did-x509); RFC 9052, RFC 9360.
"""

import base64
import json
from hashlib import sha256
from typing import Any, Final, NamedTuple, NoReturn

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from ledgerd.ledger.attestation import certificates, items
from ledgerd.ledger.attestation.certificates import Loaded
from ledgerd.ledger.attestation.errors import AttestationError
from ledgerd.ledger.errors import FormatError

SIZE_BYTES_MAX: Final = 32_768  # about 11 KB are seen: three RSA certificates, and a time stamp that is not signed
CHAIN_LENGTH_MAX: Final = 5

_SIGN1_TAG: Final = 0xD2  # tag 18, allowed once
_TIME_TAG: Final = 1  # stands before the time of signing
# Algorithms of COSE: Microsoft's publishers sign with PS384, some with a key on an elliptic curve.
_PSS: Final[dict[int, hashes.HashAlgorithm]] = {-37: hashes.SHA256(), -38: hashes.SHA384(), -39: hashes.SHA512()}
_ECDSA: Final[dict[int, hashes.HashAlgorithm]] = {-7: hashes.SHA256(), -35: hashes.SHA384(), -36: hashes.SHA512()}
_ALGORITHM, _CONTENT_TYPE, _X5CHAIN = 1, 3, 33  # labels of the protected header


class UvmEndorsement(NamedTuple):
    """What a publisher said of a measurement.

    Attributes:
        did: The publisher, `did:x509:0:sha256:...`.
        feed: Which of its products.
        svn: Security version number, which grows when something was wrong before.
        measurement: 48 bytes.
    """

    did: str
    feed: str
    svn: int
    measurement: bytes


def verify(message: bytes) -> UvmEndorsement:
    """Prove that the publisher that an endorsement names signed it. Whether that publisher is believed is `snp_policy`.

    Raises: AttestationError: Rules `size` and `endorsement`.
    """
    if not 0 < len(message) <= SIZE_BYTES_MAX:
        raise AttestationError(
            "size",
            f"a UVM endorsement of {len(message)} bytes",
            f"1 to {SIZE_BYTES_MAX} bytes",
            "send it as the platform gives it, decoded",
        )
    sign1 = _read(message[1:] if message[0] == _SIGN1_TAG else message, frozenset())
    if type(sign1) is not list or len(sign1) != 4:
        _refuse("no array of four", "a COSE_Sign1 message")
    protected, _, payload, signature = sign1
    if type(protected) is not bytes or type(payload) is not bytes or type(signature) is not bytes:
        _refuse("a COSE_Sign1 whose protected header, payload or signature is no byte string", "byte strings")
    header = _read(protected, frozenset({_TIME_TAG}))
    if type(header) is not dict or header.get(_CONTENT_TYPE) != "application/json":
        _refuse("another content type", "application/json in the protected header")
    did, feed, chain = header.get("iss"), header.get("feed"), header.get(_X5CHAIN)
    if type(did) is not str or type(feed) is not str or type(chain) is not list or not 2 <= len(chain) <= CHAIN_LENGTH_MAX:
        _refuse("a protected header without iss, feed or x5chain", f"all three, with 2 to {CHAIN_LENGTH_MAX} certificates")
    key = _publisher_key(did, _loaded(chain), chain)
    structure = b"\x84\x6aSignature1" + _byte_string(protected) + b"\x40" + _byte_string(payload)
    _check_signature(key, header.get(_ALGORITHM), signature, structure)
    return _said(did, feed, payload)


def _check_signature(key: CertificatePublicKeyTypes, algorithm: Any, signature: bytes, data: bytes) -> None:
    """Check a signature of COSE's form by the algorithm that the header names, which must be one for the key's kind."""
    digest = None if type(algorithm) is not int else (_PSS if isinstance(key, rsa.RSAPublicKey) else _ECDSA).get(algorithm)
    try:
        if digest is None or not isinstance(key, (rsa.RSAPublicKey, ec.EllipticCurvePublicKey)):
            _refuse(
                f"algorithm {str(algorithm)[:32]}, not one for the key of its first certificate", "PS256, 384 or 512; ES256, 384 or 512"
            )
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, data, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
            return
        half = (key.curve.key_size + 7) // 8
        if len(signature) != 2 * half:
            raise InvalidSignature
        r, s = int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
        key.verify(encode_dss_signature(r, s), data, ec.ECDSA(digest))
    except InvalidSignature:
        _refuse("a signature that does not fit", "a signature by the first certificate of x5chain")


def _said(did: str, feed: str, payload: bytes) -> UvmEndorsement:
    try:
        statement = json.loads(payload)
        measurement = bytes.fromhex(statement["x-ms-sevsnpvm-launchmeasurement"])
        svn = parse_svn(statement["x-ms-sevsnpvm-guestsvn"])
    except (ValueError, KeyError, TypeError, RecursionError):
        _refuse("a payload that names no measurement and version number", "x-ms-sevsnpvm-launchmeasurement and x-ms-sevsnpvm-guestsvn")
    if len(measurement) != 48:
        _refuse(f"a measurement of {len(measurement)} bytes", "48")
    return UvmEndorsement(did, feed, svn, measurement)


def parse_svn(text: object) -> int:
    """Read a security version number, decimal text as in CCF's table, or a number.

    Raises: ValueError: It is none.
    """
    if type(text) is int and 0 <= text < 1 << 64:
        return text
    if type(text) is str and text.isascii() and text.isdigit() and len(text) <= 19:
        return int(text)
    raise ValueError("no security version number")


def _loaded(chain: list[Any]) -> list[Loaded]:
    """Read the chain, leaf first, and check that each certificate is issued by the one after it."""
    loaded: list[Loaded] = []
    for depth, der in enumerate(chain):
        try:
            if type(der) is not bytes:
                raise ValueError("no bytes")
            certificate = certificates.load(der)
            role = certificates.role(certificate)
        except ValueError as error:
            _refuse(f"a certificate that cannot be read: {error}", "X.509 version 3")
        if depth and (not role.is_authority or (role.path_length is not None and role.path_length < depth - 1)):
            _refuse(f"{certificate.name} may not issue the certificates before it", "a certificate authority")
        if not depth and (role.is_authority or not role.may_sign_data):
            _refuse(f"{certificate.name} is an authority or may not sign data", "a certificate that may only sign data")
        if loaded and not certificates.issued_by(loaded[-1], certificate):
            _refuse(f"{loaded[-1].name}: not issued by {certificate.name}", "a chain, leaf first")
        loaded.append(certificate)
    return loaded


def _publisher_key(did: str, chain: list[Loaded], ders: list[bytes]) -> CertificatePublicKeyTypes:
    """Resolve a did:x509 identifier: an authority of the chain has its fingerprint, and the leaf has the usages that it names."""
    method, _, policies = did.partition("::")
    kind = method.split(":")
    if len(kind) != 5 or kind[:4] != ["did", "x509", "0", "sha256"] or not policies:
        _refuse(f"issuer {did[:200]!r}", "did:x509:0:sha256:FINGERPRINT::eku:USAGE")
    fingerprints = [base64.urlsafe_b64encode(sha256(der).digest()).rstrip(b"=").decode() for der in ders[1:]]
    if kind[4] not in fingerprints:
        _refuse(f"a chain without the authority {kind[4][:64]!r}", "the authority that the issuer's identifier names")
    try:
        usages = chain[0].certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        held = {usage.dotted_string for usage in usages}
    except x509.ExtensionNotFound:
        held = set()
    for policy in policies.split("::"):
        name, _, value = policy.partition(":")
        if name != "eku" or value not in held:
            _refuse(f"{chain[0].name} does not fulfil {policy[:100]!r}", "an extended key usage that the leaf has")
    return chain[0].key


def _read(data: bytes, tags: frozenset[int]) -> Any:
    try:
        return items.read(data, shortest=False, tags=tags)
    except FormatError as error:
        _refuse(f"bytes that do not decode: {error}", "one COSE_Sign1 message, and nothing after it")


def _byte_string(data: bytes) -> bytes:
    """A byte string of up to 65,535 bytes in CBOR, as the Sig_structure has it."""
    size = len(data)
    if size < 24:
        return bytes((0x40 | size,)) + data
    return (bytes((0x58, size)) if size < 256 else b"\x59" + size.to_bytes(2, "big")) + data


def _refuse(seen: str, expected: str) -> NoReturn:
    raise AttestationError("endorsement", f"a UVM endorsement with {seen}", expected, "send the unchanged endorsement of the platform")
