"""One document of an issuer's server: asked for by HTTPS through the host's relay, bounded, read as one JSON object.

TLS ends here, in the enclave. The server is judged by the members' bundle of certificates, by its name and by attested time before it
learns what is wanted. A redirect is not followed: where keys come from is said by the issuer's name and by its own metadata, nothing else.
Not here: which documents (`enclave.jwt.refresh`), deadlines (the same).
"""

from datetime import datetime
from typing import Any, Final

from cryptography import x509

from ledgerd.enclave.jwt.strict import read_object
from ledgerd.enclave.jwt.urls import Url
from ledgerd.enclave.outbound import Answer, HttpClient
from ledgerd.enclave.tls import TlsContext
from ledgerd.enclave.web_servers import is_address, server_check
from ledgerd.ledger.errors import FormatError, PeerError

DOCUMENT_SIZE_BYTES_MAX: Final = 256 << 10  # the largest key sets known have some 20 KiB

_ADVICE: Final = "is its authority in the issuer's ca_cert_bundle?"


class Fetch:
    """One request on one connection of its own."""

    def __init__(self, context: TlsContext, url: Url, roots: tuple[x509.Certificate, ...], at: datetime) -> None:
        """Begin; `take_output` has the first bytes once the stream is open.

        Args:
            context: `TlsContext.for_web_servers`.
            roots: Who may vouch for the server.
            at: Attested time.
        """
        self._url = url
        name = None if is_address(url.host) else url.host
        check = server_check(roots, url.host, lambda: at, _ADVICE)
        self._http = HttpClient(context, url.authority, check, server_name=name, answer_size_bytes_max=DOCUMENT_SIZE_BYTES_MAX)
        self._http.request("GET", url.path, {"accept": "application/json", "connection": "close"})

    def take_output(self) -> bytes:
        """Bytes for the stream."""
        return self._http.take_output()

    def received(self, data: bytes) -> dict[str, Any] | None:
        """Take bytes of the stream; the document once it is complete.

        Raises:
            IntegrityError: The server is another.
            PeerError, FormatError: Its answer is no such document.
        """
        answers = self._http.received(data)
        return self._read(answers[0]) if answers else None

    def closed(self) -> None:
        """The stream is gone. Raises: PeerError: As it must be as long as the document is not complete."""
        self._http.closed()

    def _read(self, answer: Answer) -> dict[str, Any]:
        where = f"https://{self._url.authority}{self._url.path}"[:300]
        if 300 <= answer.status < 400:
            location = answer.headers.get("location", "nowhere")[:300]
            raise PeerError(f"{where} redirects to {location}, which is not followed; name the final URL")
        if answer.status != 200:
            raise PeerError(f"{where} answers {answer.status} instead of 200")
        if "content-encoding" in answer.headers:
            raise PeerError(f"{where} answers with a content-encoding, which was not asked for")
        try:
            return read_object(answer.body, "the document")
        except FormatError as error:
            raise FormatError(f"{where}: {error}") from None
