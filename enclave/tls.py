"""OpenSSL in memory: TLS for clients, for channels between enclaves, and for what the enclave itself asks of others.

Bytes in, bytes out; keys come from memory and never leave. A server here accepts whatever certificate a caller presents, as
long as the caller proves that it holds the key (that proof is TLS's own): the tables decide who it is and whether it still counts. A client
here has no trust store either; it is built with a `check` that judges the server's chain, and nothing is sent or handed over before it has.
So OpenSSL's clock, names and trust anchors decide nothing.
Not here: who a caller is (`enclave.auth`), HTTP (`enclave.http`), peers' certificates (`enclave.channels`).
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from OpenSSL import SSL, _util, crypto

from ledgerd.ledger.errors import LedgerdError, UsageError

Check: TypeAlias = Callable[[list[bytes]], None]
"""Judges a peer's chain (DER, leaf first): returns, or raises a LedgerdError whose text becomes the connection's `error`."""

HTTP_PROTOCOL: Final = b"http/1.1"
PIPELINE_PROTOCOL: Final = b"ledgerd/1"
CLIENT_PROTOCOLS: Final = (PIPELINE_PROTOCOL, HTTP_PROTOCOL)  # our order of preference

RECORD_SIZE_BYTES_MAX: Final = 1 << 14  # plaintext of one TLS record (RFC 8446 5.1), so one read takes a whole record
SESSION_LIFETIME_SECONDS: Final = 3600  # a ticket resumes for so long; keys of tickets live in this process only

_RECORD_OVERHEAD_BYTES: Final = 96  # header, padding, MAC, IV of the worst suite we allow, rounded up
_READ_SIZE_BYTES: Final = 1 << 14
_MODE_ENABLE_PARTIAL_WRITE: Final = 1  # pyOpenSSL switches it on; off, one write takes everything
# The four calls that every request makes go to OpenSSL directly: through pyOpenSSL's methods they cost 4.6 us a request, so 1.8 us.
# These names of pyOpenSSL are private; its version is locked, and the tests of this module fail should they change. Errors are still
# told by its methods.
_ffi: Final[Any] = _util.ffi
_lib: Final[Any] = _util.lib
_BUFFER_SIZE_BYTES: Final = 1 << 16
_BUFFER: Final = _ffi.new("char[]", _BUFFER_SIZE_BYTES)
# A connection's buffer in OpenSSL keeps the size that it once had, for as long as the connection lives, and anybody may ask for megabytes
# at once. So it is emptied after so much: three records, which fit into ours.
_WRITE_SIZE_BYTES_MAX: Final = 3 * RECORD_SIZE_BYTES_MAX
_CIPHERS_TLS12: Final = b"ECDHE+AESGCM:ECDHE+CHACHA20"  # forward secret and authenticated; TLS 1.3 has only such


class TlsContext:
    """What many connections share: keys, versions, policy. Make it with one of the class methods."""

    __slots__ = ("_context", "is_server")

    def __init__(self, context: SSL.Context, *, is_server: bool) -> None:
        self._context = context
        self.is_server = is_server

    @classmethod
    def for_clients(
        cls,
        chain: Sequence[x509.Certificate],
        key: EllipticCurvePrivateKey,
        protocols: Sequence[bytes] = CLIENT_PROTOCOLS,
        named: "Mapping[str, TlsContext] | None" = None,
    ) -> "TlsContext":
        """Serve clients: TLS 1.2 and 1.3, a certificate asked for but not required, any accepted, ALPN from `protocols`.

        Args:
            chain: Our certificate first, then those that endorse it.
            key: Of the first certificate.
            named: Other contexts, also made here, for clients that ask for one of these names (lower case) by SNI.
        """
        context = _context(server=True, minimum=SSL.TLS1_2_VERSION)
        _use(context, chain, key)
        context.set_cipher_list(_CIPHERS_TLS12)
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)  # most clients are silent most of the time, and need not hold 25 KiB each meanwhile
        context.set_verify(SSL.VERIFY_PEER, _accept_any)
        # A resumed session brings its client certificate along inside the ticket, sealed by this context's key.
        context.set_session_id(b"ledgerd clients")
        context.set_timeout(SESSION_LIFETIME_SECONDS)

        def select(_: SSL.Connection, offered: list[bytes]) -> bytes | SSL._NoOverlappingProtocols:
            for protocol in protocols:
                if protocol in offered:
                    return protocol
            return SSL.NO_OVERLAPPING_PROTOCOLS  # the handshake goes on without ALPN, which means HTTP/1.1

        context.set_alpn_select_callback(select)
        if named:
            by_name = {name.encode("ascii"): other._context for name, other in named.items()}

            def choose(connection: SSL.Connection) -> None:
                other = by_name.get((connection.get_servername() or b"").lower())
                if other is not None:
                    connection.set_context(other)

            context.set_tlsext_servername_callback(choose)
        return cls(context, is_server=True)

    @classmethod
    def for_accepted_channels(cls, chain: Sequence[x509.Certificate], key: EllipticCurvePrivateKey) -> "TlsContext":
        """Accept channels from other enclaves: TLS 1.3 only, certificate required; `check` decides about it."""
        context = _context(server=True, minimum=SSL.TLS1_3_VERSION)
        _use(context, chain, key)
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _accept_any)
        _forbid_resumption(context)
        return cls(context, is_server=True)

    @classmethod
    def for_dialled(
        cls,
        chain: Sequence[x509.Certificate] = (),
        key: EllipticCurvePrivateKey | None = None,
        protocols: Sequence[bytes] = (),
    ) -> "TlsContext":
        """Dial another enclave or node: TLS 1.3 only, our certificate shown if given."""
        context = _context(server=False, minimum=SSL.TLS1_3_VERSION)
        if key is not None:
            _use(context, chain, key)
        context.set_verify(SSL.VERIFY_PEER, _accept_any)
        _forbid_resumption(context)
        if protocols:
            context.set_alpn_protos(list(protocols))
        return cls(context, is_server=False)

    @classmethod
    def for_web_servers(cls) -> "TlsContext":
        """Dial a server of the public web, for which TLS 1.2 is still usual; no certificate of ours."""
        context = _context(server=False, minimum=SSL.TLS1_2_VERSION)
        context.set_cipher_list(_CIPHERS_TLS12)
        context.set_verify(SSL.VERIFY_PEER, _accept_any)
        _forbid_resumption(context)
        return cls(context, is_server=False)

    def connection(self, check: Check | None = None, server_name: str | None = None) -> "TlsConnection":
        """Start one connection; a client's asks for `server_name` by SNI.

        Raises: UsageError: A client without a check; it would believe anybody.
        """
        if check is None and not self.is_server:
            raise UsageError("a TLS client needs a check of its server's certificate")
        return TlsConnection(self._context, self.is_server, check, server_name)


def _context(*, server: bool, minimum: int) -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD if server else SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(minimum)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    context.clear_mode(_MODE_ENABLE_PARTIAL_WRITE)
    return context


def _use(context: SSL.Context, chain: Sequence[x509.Certificate], key: EllipticCurvePrivateKey) -> None:
    context.use_certificate(chain[0])
    context.use_privatekey(key)
    context.check_privatekey()
    for certificate in chain[1:]:
        context.add_extra_chain_cert(certificate)


def _forbid_resumption(context: SSL.Context) -> None:
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET)


def _accept_any(_: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
    return True


class TlsConnection:
    """One TLS connection in memory.

    Attributes:
        established: The handshake is done and `check`, where there is one, was content.
        closed: Nothing more will come from the peer, because it said so or because of `error`. What `take_output` gives may
            still be sent: it is the alert that tells the peer why.
        error: Why the connection failed, for logs and counters; None after an orderly end.
        refusal: What `check` raised, if that is why.
        peer_certificate: DER of the peer's certificate, exactly as it sent it; None if it showed none. It survives resumption.
        alpn: Negotiated protocol, b"" without.
    """

    __slots__ = (
        "_aligned",
        "_check",
        "_connection",
        "_head",
        "_input",
        "_output",
        "_output_size",
        "_session",
        "_skip",
        "_taken",
        "alpn",
        "closed",
        "error",
        "established",
        "peer_certificate",
        "refusal",
    )

    def __init__(self, context: SSL.Context, is_server: bool, check: Check | None, server_name: str | None = None) -> None:
        connection = SSL.Connection(context, None)
        if server_name is not None:
            connection.set_tlsext_host_name(server_name.encode("ascii"))
        self._connection = connection
        self._check = check
        self.established = False
        self.closed = False
        self.error: str | None = None
        self.refusal: LedgerdError | None = None
        self.peer_certificate: bytes | None = None
        self.alpn = b""
        self._session: Any = connection._ssl
        self._input: Any = connection._into_ssl
        self._output: Any = connection._from_ssl
        self._output_size = _READ_SIZE_BYTES
        self._taken: list[bytes] = []  # out of OpenSSL already, of what is to be taken next
        # Where the records of the input end; only so that `feed` knows when one more read would find nothing.
        self._aligned = True
        self._skip = 0
        self._head = b""
        if is_server:
            connection.set_accept_state()
        else:
            connection.set_connect_state()
            self._handshake()

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes from the peer, in order, cut anywhere; return the plaintext that became readable.

        Never raises for what the peer sent: look at `closed` afterwards.
        """
        if self.closed or not data:
            return []
        size = len(data)
        if self._aligned and size > 5 and size == 5 + (data[3] << 8 | data[4]):
            whole = True
        else:
            self._follow(data)
            whole = False
        chunks: list[bytes] = []
        connection = self._connection
        try:
            if whole and self.established:
                if _lib.BIO_write(self._input, data, size) != size:
                    raise SSL.Error
                count = _lib.SSL_read(self._session, _BUFFER, RECORD_SIZE_BYTES_MAX)
                if count > 0:
                    return [_ffi.buffer(_BUFFER, count)[:]]
                return [connection.recv(RECORD_SIZE_BYTES_MAX)]  # tells why not
            connection.bio_write(data)
            if not self.established and not self._handshake():
                return chunks
            recv = connection.recv
            while True:
                chunks.append(recv(RECORD_SIZE_BYTES_MAX))
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self.closed = True
        except SSL.Error as error:
            self._fail(_reason(error))
        return chunks

    def write(self, data: bytes) -> None:
        """Encrypt `data`; the bytes are among those of the next `take_output`.

        Raises: UsageError: Before the handshake is done; the caller queues.
        """
        if not self.established:
            raise UsageError("written to a TLS connection before its handshake")
        if not data:
            return
        size = len(data)
        if size > _WRITE_SIZE_BYTES_MAX:
            taken, self._taken = self._taken, []
            for start in range(0, size, _WRITE_SIZE_BYTES_MAX):
                self.write(data[start : start + _WRITE_SIZE_BYTES_MAX])
                taken.append(self.take_output())
            self._taken = taken
            return
        if _lib.SSL_write(self._session, data, size) != size:
            try:
                self._connection.send(data)  # tells why not
            except SSL.Error as error:
                self._fail(_reason(error))
                return
        self._output_size += size + ((size >> 14) + 1) * _RECORD_OVERHEAD_BYTES

    def take_output(self) -> bytes:
        """Bytes for the peer, handed over once; empty if there are none."""
        if self._taken:
            taken, self._taken = self._taken, []
            return b"".join((*taken, self.take_output()))
        size = self._output_size
        self._output_size = _READ_SIZE_BYTES
        parts: list[bytes] = []
        if size <= _BUFFER_SIZE_BYTES:
            count = _lib.BIO_read(self._output, _BUFFER, size)
            if count < size:
                return _ffi.buffer(_BUFFER, count)[:] if count > 0 else b""
            parts.append(_ffi.buffer(_BUFFER, count)[:])
        try:
            while True:
                output = self._connection.bio_read(size)
                if len(output) < size and not parts:
                    return output
                parts.append(output)
        except SSL.WantReadError:
            return b"".join(parts)

    def close(self) -> None:
        """End our side in order: `take_output` then holds the closing alert."""
        self._check = None
        if self.established and self.error is None:
            with contextlib.suppress(SSL.Error):
                self._connection.shutdown()

    def _handshake(self) -> bool:
        connection = self._connection
        try:
            connection.do_handshake()
        except SSL.WantReadError:
            return False
        certificate = connection.get_peer_certificate()
        if certificate is not None:
            self.peer_certificate = crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)
        check = self._check
        if check is not None:
            self._check = None  # needed once, and its owner may refer to us
            try:
                check(self._chain())
            except LedgerdError as error:
                self.refusal = error
                self._fail(str(error))
                self._discard_output()
                return False
        self.alpn = connection.get_alpn_proto_negotiated()
        self.established = True
        return True

    def _chain(self) -> list[bytes]:
        if self.peer_certificate is None:
            return []
        chain = [crypto.dump_certificate(crypto.FILETYPE_ASN1, item) for item in self._connection.get_peer_cert_chain() or ()]
        # OpenSSL counts the leaf in on a client and leaves it out on a server.
        return chain if chain and chain[0] == self.peer_certificate else [self.peer_certificate, *chain]

    def _discard_output(self) -> None:
        # A client's last flight holds its certificate and its proof: not for a server that failed the check.
        self.take_output()

    def _fail(self, reason: str) -> None:
        self.closed = True
        self.error = reason

    def _follow(self, data: bytes) -> None:
        skip = self._skip
        if len(data) < skip:
            self._skip = skip - len(data)
            self._aligned = False
            return
        if self._head:
            data = self._head + data
            self._head = b""
        size = len(data)
        offset = skip
        while size - offset >= 5:
            offset += 5 + (data[offset + 3] << 8 | data[offset + 4])
        if offset > size:
            self._skip = offset - size
        else:
            self._skip = 0
            self._head = data[offset:]
        self._aligned = offset == size


def _reason(error: SSL.Error) -> str:
    if isinstance(error, SSL.SysCallError):
        return "the stream ended inside TLS"
    reasons = error.args[0] if error.args else ()
    return "; ".join(str(item[-1]) for item in reasons) if isinstance(reasons, list | tuple) and reasons else type(error).__name__
