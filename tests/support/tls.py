"""Certificates and in-memory TLS clients for tests: what a browser, `curl` or a foreign node would do, without a socket."""

import datetime
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)


class Identity(NamedTuple):
    """A key and its certificate."""

    key: Key
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)


def identity(
    name: str,
    *,
    key: Key | None = None,
    issuer: Identity | None = None,
    begins: datetime.timedelta = datetime.timedelta(days=-1),
    ends: datetime.timedelta = datetime.timedelta(days=30),
    authority: bool = False,
) -> Identity:
    """Make a certificate, self-signed unless `issuer` is given; times are relative to now."""
    key = key or ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer = issuer.key if issuer else key
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + begins)
        .not_valid_after(NOW + ends)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .sign(signer, None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA384())
    )
    return Identity(key, certificate)


class MemoryClient:
    """A TLS client by pyOpenSSL itself, not by `ledgerd.enclave.tls`, so that the two do not share a mistake."""

    def __init__(
        self,
        who: Identity | None = None,
        *,
        protocols: list[bytes] | None = None,
        version: int | None = None,
        session: SSL.Session | None = None,
        context: SSL.Context | None = None,
        server_name: str | None = None,
    ) -> None:
        if context is None:
            context = SSL.Context(SSL.TLS_CLIENT_METHOD)
            if who is not None:
                context.use_certificate(who.certificate)
                context.use_privatekey(who.key)
            if protocols:
                context.set_alpn_protos(protocols)
        if version is not None:
            context.set_min_proto_version(version)
            context.set_max_proto_version(version)
        self.context = context
        self.connection = SSL.Connection(context, None)
        if server_name is not None:
            self.connection.set_tlsext_host_name(server_name.encode())
        if session is not None:
            self.connection.set_session(session)
        self.connection.set_connect_state()
        self.established = False
        self.plaintext = b""
        self.ended = False
        self.receive(b"")

    def receive(self, data: bytes) -> None:
        """Take the server's bytes; `plaintext` grows."""
        if data:
            self.connection.bio_write(data)
        try:
            if not self.established:
                self.connection.do_handshake()
                self.established = True
            while True:
                self.plaintext += self.connection.recv(1 << 16)
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self.ended = True

    def send(self, data: bytes) -> None:
        """Encrypt; the bytes are in the next `take_output`."""
        view = memoryview(data)
        while view:
            view = view[self.connection.send(view) :]

    def take_output(self) -> bytes:
        """Bytes for the server."""
        parts = []
        try:
            while True:
                parts.append(self.connection.bio_read(1 << 16))
        except SSL.WantReadError:
            return b"".join(parts)
