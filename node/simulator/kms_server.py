"""Offers a simulated KMS over HTTPS on the loopback, under the name that AWS's has, with a certificate below an authority of its own.

For tests and development. One thread for each connection; a client that says nothing is dropped after some seconds.
"""

import contextlib
import ipaddress
import ssl
import tempfile
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ledgerd.node.simulator.kms import BODY_SIZE_BYTES_MAX, SimulatedKms
from ledgerd.node.simulator.pki import key_usage

SILENCE_SECONDS_MAX: Final = 5.0
LIFETIME: Final = timedelta(days=30)
BACKDATED: Final = timedelta(hours=1)


class ServerIdentity(NamedTuple):
    """A server's certificate and key, PEM, and the authority below which it is: what goes into a node's configuration."""

    root_pem: str
    certificate_pem: bytes
    key_pem: bytes


def make_identity(name: str, *, now: datetime | None = None) -> ServerIdentity:
    """Make an authority, and a certificate for the DNS name `name` below it, in the form that public ones have."""
    begin = (now or datetime.now(UTC)).replace(microsecond=0) - BACKDATED
    end = begin + LIFETIME
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "SIMULATED authority of KMS's endpoint")])
    root = (
        x509.CertificateBuilder(issuer, issuer, root_key.public_key(), x509.random_serial_number(), begin, end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(root_key.public_key()), critical=False)
        .add_extension(key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(root_key, hashes.SHA256())
    )
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    names = x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number(), begin, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
        .add_extension(names, critical=False)
        .add_extension(key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    return ServerIdentity(
        root.public_bytes(Encoding.PEM).decode(),
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = SILENCE_SECONDS_MAX
    kms: SimulatedKms

    def do_POST(self) -> None:
        length = self.headers.get("content-length", "")
        if not length.isdigit() or len(length) > 9 or int(length) > BODY_SIZE_BYTES_MAX:
            self.send_error(413)
            self.close_connection = True
            return
        body = self.rfile.read(int(length))
        answer = self.kms.request("POST", self.path, {name.lower(): value for name, value in self.headers.items()}, body)
        self.send_response(answer.status)
        self.send_header("content-type", "application/x-amz-json-1.1")
        self.send_header("content-length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: `SimulatedKms.reasons` tells more."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that breaks off is its own business."""


class KmsServer:
    """A simulated KMS served in threads of this process, until it is closed.

    Attributes:
        host, port: Where it listens: what a relay connects to in place of AWS.
    """

    def __init__(self, kms: SimulatedKms, identity: ServerIdentity) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory() as folder:  # the standard library reads keys from files only
            file = Path(folder, "identity.pem")
            file.touch(mode=0o600)
            file.write_bytes(identity.certificate_pem + identity.key_pem)
            context.load_cert_chain(file)
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"kms": kms}))
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.host, self.port = "127.0.0.1", self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="kms-simulator", daemon=True)
        self._thread.start()

    def __enter__(self) -> "KmsServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening. May be called more than once."""
        self._server.shutdown()
        self._thread.join()
        with contextlib.suppress(OSError):
            self._server.server_close()
