"""Forges attestation documents below a local root: correct by default, wrong in exactly the way that a test asks for.

Shares no code with the simulator or the verifier, so that a mistake common to both shows.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha384
from typing import Any, Final, NamedTuple

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from ledgerd.ledger.attestation.measurement import Measurement
from ledgerd.ledger.attestation.policy import Policy
from ledgerd.ledger.attestation.roots import parse_roots

MADE_AT_MS: Final = 1_780_000_000_123
ROOT, REGIONAL, ZONAL, INSTANCE, LEAF = range(5)
INSTANCE_ID: Final = "i-0123456789abcdef0"
MODULE_ID: Final = f"{INSTANCE_ID}-enc0198765432abcdef"
IMAGE: Final = Measurement(b"\xa0" * 48, b"\xa1" * 48, b"\xa2" * 48)
NONCE: Final = bytes(range(32))
PUBLIC_KEY: Final = b"a node's key"
USER_DATA: Final = b"a configuration's digest"
PROTECTED: Final = bytes.fromhex("a1013822")
ORDER_P384: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973


class Shape(NamedTuple):
    """One certificate of a chain."""

    lifetime: timedelta
    authority: bool
    path_length: int | None
    usages: frozenset[str]
    usage_critical: bool = True
    constraints: bool = True
    constraints_critical: bool = True
    begins: timedelta = timedelta(minutes=-1)  # from MADE_AT_MS
    curve: type[ec.EllipticCurve] | None = ec.SECP384R1  # None: an RSA key
    digest: type[hashes.SHA256 | hashes.SHA384 | hashes.SHA512] = hashes.SHA384  # of the signature on this certificate
    issuer: str | x509.Name | None = None  # a name that is not the issuer's
    foreign_issuer: bool = False  # right name, signed by another key
    extra: x509.Extension[Any] | None = None


_AUTHORITY_USAGES: Final = frozenset({"digital_signature", "key_cert_sign", "crl_sign"})
SHAPES: Final = (
    Shape(timedelta(days=10_000), True, None, _AUTHORITY_USAGES, begins=timedelta(days=-900)),
    Shape(timedelta(days=20), True, 2, _AUTHORITY_USAGES),
    Shape(timedelta(days=5), True, 1, _AUTHORITY_USAGES),
    Shape(timedelta(days=1), True, 0, frozenset({"key_cert_sign"})),
    Shape(timedelta(hours=3, seconds=3), False, None, frozenset({"digital_signature", "content_commitment"}), usage_critical=False),
)


class Forged(NamedTuple):
    """A document and the root below which it was made."""

    document: bytes
    root_pem: str
    leaf_key: ec.EllipticCurvePrivateKey
    bundle: list[bytes]
    leaf: bytes

    @property
    def policy(self) -> Policy:
        """One that accepts this root and `IMAGE`."""
        return Policy(parse_roots([self.root_pem]), frozenset({IMAGE}))


def fields(bundle: list[bytes], leaf: bytes) -> dict[str, Any]:
    """The payload of a correct document."""
    pcrs = {index: bytes(48) for index in range(16)}
    pcrs.update({0: IMAGE.pcr0, 1: IMAGE.pcr1, 2: IMAGE.pcr2, 4: sha384(bytes(48) + INSTANCE_ID.encode()).digest()})
    return {
        "module_id": MODULE_ID,
        "digest": "SHA384",
        "timestamp": MADE_AT_MS,
        "pcrs": pcrs,
        "certificate": leaf,
        "cabundle": bundle,
        "public_key": PUBLIC_KEY,
        "user_data": USER_DATA,
        "nonce": NONCE,
    }


def sign(key: ec.EllipticCurvePrivateKey, payload: bytes, protected: bytes = PROTECTED) -> bytes:
    """r and s over the Sig_structure, 48 bytes each."""
    r, s = decode_dss_signature(key.sign(cbor2.dumps(["Signature1", protected, b"", payload]), ec.ECDSA(hashes.SHA384())))
    return r.to_bytes(48, "big") + s.to_bytes(48, "big")


def wrap(key: ec.EllipticCurvePrivateKey, payload: bytes) -> bytes:
    """A COSE_Sign1 as AWS makes it, untagged."""
    return b"\x84\x44" + PROTECTED + b"\xa0" + cbor2.dumps(payload) + cbor2.dumps(sign(key, payload))


def forge(
    *,
    shapes: Mapping[int, Mapping[str, Any]] | None = None,
    chain: tuple[Shape, ...] = SHAPES,
    change: Mapping[str, Any] | None = None,
    pcrs: Mapping[Any, Any] | None = None,
    payload: Callable[[dict[str, Any]], bytes] = cbor2.dumps,
) -> Forged:
    """Forge a document.

    Args:
        shapes: Depth of a certificate to the attributes of its `Shape` that are wrong.
        chain: The certificates, from root to leaf.
        change: Payload fields that are different.
        pcrs: PCRs that are different.
        payload: How the payload is encoded.
    """
    signers: list[tuple[x509.Name, Any]] = []
    ders: list[bytes] = []
    root_pem = ""
    for depth, right in enumerate(chain):
        shape = right._replace(**(shapes or {}).get(depth, {}))
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"depth {depth} of a forged chain")])
        key: Any = ec.generate_private_key(shape.curve()) if shape.curve else rsa.generate_private_key(65537, 2048)
        issuer_name, issuer_key = signers[-1] if signers else (name, key)
        if shape.issuer is not None:
            named = shape.issuer
            issuer_name = named if isinstance(named, x509.Name) else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, named)])
        if shape.foreign_issuer:
            issuer_key = ec.generate_private_key(ec.SECP384R1())
        begin = datetime.fromtimestamp(MADE_AT_MS // 1000, UTC) + shape.begins
        builder = x509.CertificateBuilder(issuer_name, name, key.public_key(), depth + 1, begin, begin + shape.lifetime)
        if shape.constraints:
            constraints = x509.BasicConstraints(shape.authority, shape.path_length)
            builder = builder.add_extension(constraints, critical=shape.constraints_critical)
        if shape.usages:
            builder = builder.add_extension(_usage(shape.usages), critical=shape.usage_critical)
        if shape.extra is not None:
            builder = builder.add_extension(shape.extra.value, critical=shape.extra.critical)
        certificate = builder.sign(issuer_key, shape.digest())
        signers.append((name, key))
        ders.append(certificate.public_bytes(Encoding.DER))
        root_pem = root_pem or certificate.public_bytes(Encoding.PEM).decode()
    said = fields(ders[:-1], ders[-1])
    said.update(change or {})
    if pcrs is not None:
        said["pcrs"] = {**said["pcrs"], **pcrs}
    leaf_key = signers[-1][1]
    signing_key = leaf_key if isinstance(leaf_key, ec.EllipticCurvePrivateKey) and leaf_key.curve.name == "secp384r1" else None
    return Forged(wrap(signing_key or ec.generate_private_key(ec.SECP384R1()), payload(said)), root_pem, leaf_key, ders[:-1], ders[-1])


def _usage(names: frozenset[str]) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature="digital_signature" in names,
        content_commitment="content_commitment" in names,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign="key_cert_sign" in names,
        crl_sign="crl_sign" in names,
        encipher_only=False,
        decipher_only=False,
    )
