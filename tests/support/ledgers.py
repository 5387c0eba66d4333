"""A small service that writes a ledger: real keys, real certificates, both signatures. For tests of what reads ledgers."""

import datetime
import hashlib
import ipaddress
import json
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from ledgerd.ledger import cbor, cose, signature
from ledgerd.ledger.entry import ZERO_DIGEST, Sealer, WriteSet
from ledgerd.ledger.merkle import Frontier, Span, serialise_tree

NOT_BEFORE = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
NOT_AFTER = datetime.datetime(2036, 1, 1, tzinfo=datetime.UTC)
ISSUED_AT = 1_790_000_000
SINGLETON = bytes(8)
SERVICE_INFO = "public:ccf.gov.service.info"
NODES_INFO = "public:ccf.gov.nodes.info"
NODES_CERTIFICATES = "public:ccf.gov.nodes.endorsed_certificates"
CURVES: dict[str, tuple[ec.EllipticCurve, SHA256 | SHA384]] = {
    "secp256r1": (ec.SECP256R1(), SHA256()),
    "secp384r1": (ec.SECP384R1(), SHA384()),
}


def confuse(message: cose.Sign1, key: ec.EllipticCurvePrivateKey, payload: bytes) -> cose.Sign1:
    """The same message, signed by the same key under the other curve's algorithm: by name, hash and length."""
    algorithm, digest, size = {"secp256r1": (-35, SHA384(), 48), "secp384r1": (-7, SHA256(), 48)}[key.curve.name]
    header = cbor.encode({**message.protected, cose.HEADER_ALGORITHM: algorithm})
    r, s = decode_dss_signature(key.sign(cbor.encode(["Signature1", header, b"", payload]), ec.ECDSA(digest)))
    signature = r.to_bytes(size, "big") + s.to_bytes(size, "big")
    return message._replace(protected_bytes=header, protected=cbor.decode(header), signature=signature)


def certify(subject: str, key: ec.EllipticCurvePublicKey, issuer: str, issuer_key: ec.EllipticCurvePrivateKey, *, authority: bool) -> str:
    """Return a PEM certificate as CCF makes them: services are authorities with path length 1, nodes are not."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOT_BEFORE)
        .not_valid_after(NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=1 if authority else None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not authority,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=authority,
                crl_sign=authority,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    if not authority:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
    return builder.sign(issuer_key, CURVES[issuer_key.curve.name][1]).public_bytes(Encoding.PEM).decode()


class Node:
    """A node's identity key, on its service's curve, with the certificate that the service gave it."""

    def __init__(self, service_key: ec.EllipticCurvePrivateKey, service_name: str = "Test Service") -> None:
        self.key = ec.generate_private_key(service_key.curve)
        spki = self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.id = hashlib.sha256(spki).hexdigest()
        self.certificate = certify("Test Node", self.key.public_key(), service_name, service_key, authority=False)

    def info(self, status: str = "Trusted") -> bytes:
        """Return what `public:ccf.gov.nodes.info` says of it."""
        pem = self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        return json.dumps({"status": status, "public_key": pem}).encode()


class Service:
    """Writes entries from seqno 1 on; `entries[i]` is that of seqno i + 1.

    Starts with nothing: call `genesis` first. `data` and `leaves` of every entry are kept.
    """

    def __init__(self, secret: bytes = b"\x07" * 32, curve: str = "secp384r1") -> None:
        self.sealer = Sealer(secret)
        self.key = ec.generate_private_key(CURVES[curve][0])
        self.certificate = certify("Test Service", self.key.public_key(), "Test Service", self.key, authority=True)
        self.node = Node(self.key)
        self.view = 2
        self.entries: list[bytes] = []
        self.leaves: list[bytes] = []
        self.frontier = Frontier()
        self.signed = Frontier()  # as it was before the last signature entry's own leaf
        self.signatures: list[int] = []

    @property
    def seqno(self) -> int:
        """The last seqno."""
        return len(self.entries)

    def write(self, writes: WriteSet, claims_digest: bytes = ZERO_DIGEST, flags: int = 0) -> int:
        """Append one entry and return its seqno."""
        sealed = self.sealer.seal(self.view, self.seqno + 1, writes, claims_digest, flags)
        self.entries.append(sealed.data)
        self.leaves.append(sealed.leaf)
        self.frontier.append(sealed.leaf)
        return self.seqno

    def info(self, status: str) -> bytes:
        """Return what `public:ccf.gov.service.info` says."""
        record = {"cert": self.certificate, "status": status, "current_service_create_txid": "2.1", "recovery_count": 0}
        return json.dumps(record).encode()

    def genesis(self) -> None:
        """Write the first entry and the first signature."""
        self.write(
            {
                SERVICE_INFO: {SINGLETON: self.info("Opening")},
                NODES_INFO: {self.node.id.encode(): self.node.info()},
                NODES_CERTIFICATES: {self.node.id.encode(): self.node.certificate.encode()},
            }
        )
        self.sign()

    def open(self) -> None:
        """Open the service."""
        self.write({SERVICE_INFO: {SINGLETON: self.info("Open")}})

    def sign(self, **changes: Any) -> int:
        """Append a signature entry and return its seqno; `changes` replace arguments of `signature.build`."""
        seqno = self.seqno + 1
        root = self.frontier.root()
        tree = serialise_tree(self.signed, [bytes(32), *self.leaves][self.signed.size :])
        self.signed = self.frontier.copy()
        self.signatures.append(seqno)
        arguments: dict[str, Any] = {
            "view": self.view,
            "seqno": seqno,
            "root": root,
            "node_id": self.node.id,
            "certificate": self.node.certificate,
            "signature": signature.sign_raw(self.node.key, root),
            "cose": cose.sign_root(self.key, root, self.view, seqno, "service.example.com", "ledger.signature", ISSUED_AT),
            "tree": tree,
        }
        return self.write(signature.build(**arguments | changes))

    def span(self, size: int) -> Span:
        """Return all nodes of the tree of the first `size` leaves."""
        return Span(Frontier(), self.leaves[: size - 1])
