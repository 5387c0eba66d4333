"""Forges SEV-SNP reports, their certificates and UVM endorsements below local roots: correct by default, wrong in the way a test asks for.

Shares no code with the verifier, so that a mistake common to both shows.
"""

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from typing import Any, Final, NamedTuple

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID, ObjectIdentifier

NOW_MS: Final = 1_780_000_000_000
MEASUREMENT: Final = b"\xb0" * 48
HOST_DATA: Final = sha256(b"package policy").digest()
CHIP: Final = bytes(range(1, 65))
PUBLIC_KEY: Final = b"DER of a node's key"
NONCE: Final = bytes(range(32))
USER_DATA: Final = b"a configuration's digest"
CPUS: Final = {"Milan": (0x19, 0x01, 1), "Genoa": (0x19, 0x11, 1), "Turin": (0x1A, 0x01, 1)}
# Bytes 0 to 7 of a firmware version, and what its components are.
TCB: Final = {
    "Milan": bytes((4, 0, 0, 0, 0, 0, 24, 219)),
    "Genoa": bytes((10, 0, 0, 0, 0, 0, 23, 84)),
    "Turin": bytes((1, 2, 3, 4, 0, 0, 0, 81)),
}
COMPONENTS: Final = {
    "Milan": {"3.1": 4, "3.2": 0, "3.3": 24, "3.8": 219},
    "Genoa": {"3.1": 10, "3.2": 0, "3.3": 23, "3.8": 84},
    "Turin": {"3.9": 1, "3.1": 2, "3.2": 3, "3.3": 4, "3.8": 81},
}
PSS: Final = padding.PSS(padding.MGF1(hashes.SHA384()), 48)
EKU: Final = "1.3.6.1.4.1.99999.59.1.2"
FEED: Final = "ContainerPlat-AMD-UVM"


class ForgedReport(NamedTuple):
    """A report, what travels with it, and the root below which it was made."""

    report: bytes
    endorsements: bytes
    arks: dict[str, str]
    ders: tuple[bytes, bytes, bytes]  # leaf, ASK, ARK
    key: ec.EllipticCurvePrivateKey


@cache
def authority(name: str) -> rsa.RSAPrivateKey:
    """A key, made once: RSA-2048, since AMD's 4096 take a second each to make."""
    return rsa.generate_private_key(65537, 2048)


def integer(value: int) -> bytes:
    """DER INTEGER."""
    return b"\x02\x01" + bytes((value,)) if value < 128 else b"\x02\x02\x00" + bytes((value,))


def pem(*ders: bytes) -> bytes:
    """A bundle."""
    return b"".join(b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n" for der in ders)


def certify(
    subject: str,
    key: Any,
    issuer: str,
    issuer_key: rsa.RSAPrivateKey,
    *,
    authority: bool = False,
    path_length: int | None = None,
    usages: bool = True,
    critical: bool = True,
    extensions: Mapping[str, bytes] | None = None,
    begins: timedelta = timedelta(days=-100),
    lifetime: timedelta = timedelta(days=2_500),
    pss: bool = True,
    digest: type[hashes.SHA256 | hashes.SHA384] = hashes.SHA384,
    serial: int = 1,
    eku: str | None = None,
    unknown_critical: bool = False,
) -> bytes:
    """DER of one certificate."""
    begin = datetime.fromtimestamp(NOW_MS // 1000, UTC) + begins
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in (issuer, subject)]
    builder = x509.CertificateBuilder(names[0], names[1], key.public_key(), max(serial, 1), begin, begin + lifetime)
    if authority:
        builder = builder.add_extension(x509.BasicConstraints(True, path_length), critical)
        if usages:
            builder = builder.add_extension(x509.KeyUsage(False, False, False, False, False, True, True, False, False), True)
    if eku is not None:
        builder = builder.add_extension(x509.KeyUsage(True, False, False, False, False, False, False, False, False), True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ObjectIdentifier(eku)]), False)
    for number, value in (extensions or {}).items():
        oid = ObjectIdentifier(f"1.3.6.1.4.1.3704.1.{number}")
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), False)
    if unknown_critical:
        builder = builder.add_extension(x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00"), True)
    certificate = builder.sign(issuer_key, digest(), rsa_padding=PSS if pss else None)
    der = certificate.public_bytes(Encoding.DER)
    if serial < 1:  # as AMD does, and the builder does not
        signed = certificate.tbs_certificate_bytes
        zeroed = signed.replace(
            b"\xa0\x03\x02\x01\x02\x02\x01\x01", b"\xa0\x03\x02\x01\x02\x02\x01" + (serial & 0xFF).to_bytes(1, "big"), 1
        )
        assert zeroed != signed
        der = der.replace(signed, zeroed).replace(certificate.signature, issuer_key.sign(zeroed, PSS, hashes.SHA384()))
    return der


def sign_report(body: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """A report of its signed part."""
    r, s = decode_dss_signature(key.sign(body, ec.ECDSA(hashes.SHA384())))
    return body + r.to_bytes(72, "little") + s.to_bytes(72, "little") + bytes(512 - 144)


def body(
    product: str = "Milan",
    *,
    version: int = 3,
    policy: int = 0x3001F,
    vmpl: int = 0,
    algorithm: int = 1,
    flags: int = 0,
    report_data: bytes = sha256(PUBLIC_KEY).digest() + sha256(cbor2.dumps([NONCE, USER_DATA])).digest(),
    measurement: bytes = MEASUREMENT,
    host_data: bytes = HOST_DATA,
    tcb: bytes | None = None,
    cpu: tuple[int, int, int] | None = None,
    chip: bytes | None = None,
) -> bytes:
    """The signed part of a report."""
    data = bytearray(0x2A0)
    data[0:4] = version.to_bytes(4, "little")
    data[8:16] = policy.to_bytes(8, "little")
    data[0x30:0x34] = vmpl.to_bytes(4, "little")
    data[0x34:0x38] = algorithm.to_bytes(4, "little")
    data[0x48:0x4C] = flags.to_bytes(4, "little")
    data[0x50:0x90] = report_data
    data[0x90:0xC0] = measurement
    data[0xC0:0xE0] = host_data
    data[0x180:0x188] = TCB[product] if tcb is None else tcb
    if version >= 3:
        data[0x188:0x18B] = bytes(cpu or CPUS[product])
    data[0x1A0:0x1E0] = (CHIP[:8] + bytes(56) if product == "Turin" else CHIP) if chip is None else chip
    return bytes(data)


def forge_report(
    product: str = "Milan",
    *,
    vlek: bool = False,
    ark: Mapping[str, Any] | None = None,
    ask: Mapping[str, Any] | None = None,
    leaf: Mapping[str, Any] | None = None,
    extensions: Mapping[str, bytes | None] | None = None,
    curve: type[ec.EllipticCurve] = ec.SECP384R1,
    **fields: Any,
) -> ForgedReport:
    """Forge a report with its chain.

    Args:
        product: Milan, Genoa or Turin.
        vlek: Sign by a cloud's key instead of the chip's.
        ark, ask, leaf: Arguments of `certify` that are different.
        extensions: Numbered extensions of the leaf that are different; None leaves one out.
        curve: Of the leaf's key.
        fields: Arguments of `body` that are different.
    """
    key = ec.generate_private_key(curve())
    names = (f"ARK-{product}", f"SEV-VLEK-{product}" if vlek else f"SEV-{product}", "SEV-VLEK" if vlek else "SEV-VCEK")
    held: dict[str, bytes | None] = {number: integer(value) for number, value in COMPONENTS[product].items()}
    if not vlek:
        held["4"] = CHIP[:8] if product == "Turin" else CHIP
    held.update(extensions or {})
    ark_key, ask_key = authority(names[0]), authority(names[1])
    ark_der = certify(names[0], ark_key, names[0], ark_key, **{"authority": True, **(ark or {})})
    middle: dict[str, Any] = {"issuer": names[0], "issuer_key": ark_key, "authority": True, "path_length": 0, **(ask or {})}
    ask_der = certify(names[1], ask_key, **middle)
    present = {number: value for number, value in held.items() if value is not None}
    arguments: dict[str, Any] = {
        "subject": names[2], "issuer": names[1], "issuer_key": ask_key, "serial": 0, "extensions": present, **(leaf or {}),
    }  # fmt: skip
    leaf_der = certify(key=key, **arguments)
    fields.setdefault("flags", 1 << 2 if vlek else 0)
    ders = (leaf_der, ask_der, ark_der)
    report = sign_report(body(product, **fields), key)
    return ForgedReport(report, pem(*ders), {sha256(ark_der).hexdigest(): product}, ders, key)


def forge_uvm(
    *,
    measurement: str = MEASUREMENT.hex(),
    svn: Any = "22",
    payload: bytes | None = None,
    header: Mapping[Any, Any] | None = None,
    intermediate: Mapping[str, Any] | None = None,
    leaf: Mapping[str, Any] | None = None,
    foreign_key: bool = False,
    curve: type[ec.EllipticCurve] | None = None,
    algorithm: int = -38,
) -> tuple[bytes, str]:
    """Forge an endorsement: the message, and the publisher's identifier. `curve`: of the publisher's key, in place of an RSA key."""
    root, middle = authority("UVM root"), authority("UVM intermediate")
    own: Any = authority("UVM leaf") if curve is None else ec.generate_private_key(curve())
    root_der = certify("root", root, "root", root, authority=True, pss=False)
    above: dict[str, Any] = {"issuer": "root", "issuer_key": root, "authority": True, "pss": False, **(intermediate or {})}
    below: dict[str, Any] = {"issuer": "middle", "issuer_key": middle, "eku": EKU, "pss": False, **(leaf or {})}
    middle_der, leaf_der = certify("middle", middle, **above), certify("publisher", own, **below)
    fingerprint = base64.urlsafe_b64encode(sha256(root_der).digest()).rstrip(b"=").decode()
    did = f"did:x509:0:sha256:{fingerprint}::eku:{EKU}"
    said = {
        1: algorithm,
        3: "application/json",
        33: [leaf_der, middle_der, root_der],
        "iss": did,
        "feed": FEED,
        "signingtime": cbor2.CBORTag(1, 1_675_834_943),
        **(header or {}),
    }
    protected = cbor2.dumps({label: value for label, value in said.items() if value is not None})
    if payload is None:
        payload = json.dumps({"x-ms-sevsnpvm-guestsvn": svn, "x-ms-sevsnpvm-launchmeasurement": measurement}).encode()
    key: Any = authority("somebody else") if foreign_key else own
    data = cbor2.dumps(["Signature1", protected, b"", payload])
    digests = {-7: hashes.SHA256(), -37: hashes.SHA256(), -35: hashes.SHA384(), -38: hashes.SHA384()}
    digest = digests.get(algorithm, hashes.SHA512())
    if curve is None:
        signature = key.sign(data, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
    else:
        r, s = decode_dss_signature(key.sign(data, ec.ECDSA(digest)))
        half = (key.curve.key_size + 7) // 8
        signature = r.to_bytes(half, "big") + s.to_bytes(half, "big")
    return cbor2.dumps(cbor2.CBORTag(18, [protected, {"timestamp": b"not signed"}, payload, signature])), did
