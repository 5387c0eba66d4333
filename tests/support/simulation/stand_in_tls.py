"""A stand-in for TLS: the same states and the same refusals as `enclave.tls`, without OpenSSL's cost and its randomness.

Both ends say hello with their certificates and a nonce; from the nonces follows a key for each direction, and every record carries a
digest under it and its number. So a changed, lost, repeated, reordered, reflected or replayed byte ends the connection, as it would with
TLS. It keeps nothing secret and proves no key: whoever tests that uses `--crypto real`.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final

import msgpack
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ledgerd.enclave import entropy
from ledgerd.enclave.tls import CLIENT_PROTOCOLS, RECORD_SIZE_BYTES_MAX
from ledgerd.ledger.errors import LedgerdError, UsageError

_HEAD: Final = struct.Struct("!cIq")  # kind, size, digest
_HELLO: Final = b"H"
_FINISHED: Final = b"F"
_DATA: Final = b"D"
_CLOSE: Final = b"C"
_NO_TAG: Final = 0
_SIZE_MAX: Final = RECORD_SIZE_BYTES_MAX + 256  # as TLS 1.3 has it


class Context:
    """In the place of `enclave.tls.TlsContext`."""

    def __init__(self, chain: Sequence[x509.Certificate], protocols: Sequence[bytes], *, is_server: bool, wants_certificate: bool) -> None:
        self.chain = [certificate.public_bytes(Encoding.DER) for certificate in chain]
        self.protocols = list(protocols)
        self.is_server = is_server
        self.wants_certificate = wants_certificate

    @classmethod
    def for_clients(
        cls,
        chain: Sequence[x509.Certificate],
        key: Any,
        protocols: Sequence[bytes] = CLIENT_PROTOCOLS,
        named: Mapping[str, Any] | None = None,
    ) -> "Context":
        return cls(chain, protocols, is_server=True, wants_certificate=False)

    @classmethod
    def for_accepted_channels(cls, chain: Sequence[x509.Certificate], key: Any) -> "Context":
        return cls(chain, (), is_server=True, wants_certificate=True)

    @classmethod
    def for_dialled(cls, chain: Sequence[x509.Certificate] = (), key: Any = None, protocols: Sequence[bytes] = ()) -> "Context":
        return cls(chain, protocols, is_server=False, wants_certificate=True)

    def connection(self, check: Callable[[list[bytes]], None] | None = None, server_name: str | None = None) -> "Connection":
        if check is None and not self.is_server:
            raise UsageError("a client needs a check of its server's certificate")
        return Connection(self, check)


class Connection:
    """In the place of `enclave.tls.TlsConnection`; attributes as there."""

    def __init__(self, context: Context, check: Callable[[list[bytes]], None] | None) -> None:
        self._context = context
        self._check = check
        self._nonce = entropy.random_bytes(8)
        self._buffer = b""
        self._output: list[bytes] = []
        self._keys = (b"", b"")  # to send with, to receive with
        self._counts = [0, 0]
        self.established = False
        self.closed = False
        self.error: str | None = None
        self.refusal: LedgerdError | None = None
        self.peer_certificate: bytes | None = None
        self.alpn = b""
        if not context.is_server:
            self._say_hello(context.protocols)

    def feed(self, data: bytes) -> list[bytes]:
        """As `TlsConnection.feed`."""
        if self.closed or not data:
            return []
        data = self._buffer + data
        chunks: list[bytes] = []
        at = 0
        while len(data) - at >= _HEAD.size and not self.closed:
            kind, size, tag = _HEAD.unpack_from(data, at)
            if size > _SIZE_MAX or kind not in (_HELLO, _FINISHED, _DATA, _CLOSE):
                self._fail("wrong version number")
                break
            end = at + _HEAD.size + size
            if end > len(data):
                break
            self._take(kind, tag, data[at + _HEAD.size : end], chunks)
            at = end
        self._buffer = data[at:]
        return chunks

    def _take(self, kind: bytes, tag: int, body: bytes, chunks: list[bytes]) -> None:
        if kind == _HELLO and not self._keys[0]:
            self._hear_hello(body)
        elif self._keys[0] and tag == self._tag(1, kind, body):
            self._counts[1] += 1
            if kind == _DATA and self.established:
                chunks.append(body)
            elif kind == _FINISHED and self._context.is_server and not self.established:
                self.established = self._judge()
            elif kind == _CLOSE:
                self.closed = True
            else:
                self._fail("unexpected message")
        else:
            self._fail("decryption failed or bad record mac")

    def write(self, data: bytes) -> None:
        """As `TlsConnection.write`."""
        if not self.established:
            raise UsageError("written to a connection before its handshake")
        for at in range(0, len(data), RECORD_SIZE_BYTES_MAX):
            self._send(_DATA, data[at : at + RECORD_SIZE_BYTES_MAX])

    def take_output(self) -> bytes:
        """As `TlsConnection.take_output`."""
        output = b"".join(self._output)
        self._output.clear()
        return output

    def close(self) -> None:
        """As `TlsConnection.close`."""
        if self.established and self.error is None:
            self._send(_CLOSE, b"")

    def _say_hello(self, protocols: list[bytes]) -> None:
        body = msgpack.packb((self._context.is_server, self._nonce, self._context.chain, protocols))
        self._output.append(_HEAD.pack(_HELLO, len(body), _NO_TAG) + body)

    def _hear_hello(self, body: bytes) -> None:
        try:
            is_server, nonce, self._chain, protocols = msgpack.unpackb(body)
            nonces = nonce + self._nonce if self._context.is_server else self._nonce + nonce
        except (ValueError, TypeError, msgpack.UnpackException):
            self._fail("a hello that cannot be read")
            return
        if is_server is self._context.is_server:
            self._fail("unexpected message")  # our own, or somebody's of our side
            return
        up, down = blake2b(nonces + b"up", digest_size=16).digest(), blake2b(nonces + b"down", digest_size=16).digest()
        self._keys = (down, up) if self._context.is_server else (up, down)
        self.peer_certificate = self._chain[0] if self._chain else None
        if self._context.is_server:
            if self._context.wants_certificate and not self._chain:
                self._fail("peer did not return a certificate")
                return
            self.alpn = next((protocol for protocol in self._context.protocols if protocol in protocols), b"")
            self._say_hello([self.alpn])
        elif self._judge():
            self.alpn = protocols[0]
            self.established = True
            self._send(_FINISHED, b"")
        else:
            self._output.clear()

    def _judge(self) -> bool:
        check, self._check = self._check, None
        try:
            if check is not None:
                check(list(self._chain))
        except LedgerdError as error:
            self.refusal = error
            self._fail(str(error))
            return False
        return True

    def _send(self, kind: bytes, body: bytes) -> None:
        self._output.append(_HEAD.pack(kind, len(body), self._tag(0, kind, body)) + body)
        self._counts[0] += 1

    def _tag(self, direction: int, kind: bytes, body: bytes) -> int:
        # Python's own digest of bytes, SipHash of 64 bits; no other process sees it.
        return hash(b"%b%b%d %b" % (self._keys[direction], kind, self._counts[direction], body))

    def _fail(self, reason: str) -> None:
        self.closed = True
        self.error = reason
