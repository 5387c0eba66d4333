"""An issuer of tokens behind a real HTTPS server on the loopback, of TLS 1.2 only, as many on the web are."""

import contextlib
import json
import ssl
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ledgerd.enclave.jwt.refresh import METADATA
from ledgerd.node.simulator.kms_server import make_identity

SILENCE_SECONDS_MAX = 60.0


class IssuerServer:
    """Serves until it is closed.

    Attributes:
        name: Of the issuer: a URL.
        root_pem: The authority below which its certificate is.
        keys: What it publishes.
    """

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.keys = list(keys)
        identity = make_identity("issuer.example")  # whose certificate has 127.0.0.1, too
        self.root_pem = identity.root_pem
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with tempfile.TemporaryDirectory() as folder:  # the standard library reads keys from files only
            file = Path(folder, "identity.pem")
            file.write_bytes(identity.certificate_pem + identity.key_pem)
            context.load_cert_chain(file)
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = SILENCE_SECONDS_MAX

            def do_GET(self) -> None:
                pages = {METADATA: {"issuer": issuer.name, "jwks_uri": f"{issuer.name}/keys"}, "/keys": {"keys": issuer.keys}}
                body = json.dumps(pages.get(self.path, {})).encode()
                self.send_response(200 if self.path in pages else 404)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.authority = f"127.0.0.1:{self._server.server_address[1]}"
        self.name = f"https://{self.authority}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def __enter__(self) -> "IssuerServer":
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        with contextlib.suppress(OSError):
            self._server.server_close()
