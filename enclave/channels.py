"""Messages between enclaves: mutual TLS 1.3 over streams that hostile hosts carry.

Each node dials each peer and sends only on what it dialled; it receives only on what it accepted. A peer is believed by its
certificate: signed by the service key, valid at the time given, and its public key hashes to the node id that it claims. A host can
read, forge, replay, reflect and reorder nothing; it can only cut or delay, and a cut means a new handshake. What is delivered is
a subsequence of what the peer sent, in its order, across cuts too: every dialled channel begins with a number that only grows, and an
acceptor takes none that is not above the highest it has seen from that node. (So one `Channels` lives as long as its node's key.)
A channel carries one way only, so who dials says where it may be dialled: else a node that joined before another did, and reads in no
ledger yet who that is, could hear it and never answer.
Not here: what messages mean (`enclave.consensus`), whom to dial and when (`enclave.core`), TLS itself (`enclave.tls`).
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ledgerd.enclave.configuration import ADDRESS_LENGTH_MAX, read_address
from ledgerd.enclave.tls import RECORD_SIZE_BYTES_MAX, TlsConnection, TlsContext
from ledgerd.enclave.turns import UNREAD_SIZE_BYTES_MAX, Turns
from ledgerd.ledger.errors import IntegrityError, UsageError
from ledgerd.ledger.ids import NodeId

MESSAGE_SIZE_BYTES_MAX: Final = 16 << 20  # a batch of entries is at most 1 MiB; one entry may be larger
# The first message on every channel; then its number, 8 bytes, and where the dialler listens for peers, `host:port`.
HELLO: Final = b"ledgerd-channel/2 "

HANDSHAKES_MAX: Final = 4  # steps of strangers' handshakes in one wake-up: four milliseconds; what waits has another wake-up at once

_PREFIX_BYTES: Final = 4
_NUMBER_END: Final = len(HELLO) + 8
_HELLO_BYTES_MAX: Final = _NUMBER_END + ADDRESS_LENGTH_MAX
_FAILURES_MAX: Final = 64  # reasons kept for the log between two looks; a host could produce them without end


class ChannelLimits(NamedTuple):
    """What a peer or a host may take."""

    message_bytes: int = MESSAGE_SIZE_BYTES_MAX
    queued_bytes: int = 32 << 20  # waiting for a handshake or the next wake-up; past it the channel is cut
    unproven: int = 64  # accepted streams that have not proven who they are; the oldest goes first
    handshake_seconds: float = 5.0
    record_seconds: float = 5.0  # for the rest of a record of which some has come: its length may be a lie, and what follows fits no other
    records: int = 1 << 24  # RFC 8446 5.5 lets one AES-GCM key seal 2^24.5; then a new handshake makes a new key


DEFAULT_LIMITS: Final = ChannelLimits()


def node_id_of(certificate: x509.Certificate) -> NodeId:
    """Hex SHA-256 of the certificate's public key (DER SubjectPublicKeyInfo)."""
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return NodeId(hashlib.sha256(spki).hexdigest())


def check_node_certificate(der: bytes, service: x509.Certificate, unix_seconds: int | None) -> NodeId:
    """Judge a node's certificate and return the node id that it proves.

    Args:
        der: The certificate.
        service: The service's own certificate; its key must have signed `der`.
        unix_seconds: The time at which it must be valid; None if this enclave does not know the time yet.
    Raises: IntegrityError: It is no certificate, the service has not signed it, it is not valid at that time, or it is the service's own.
    """
    node_id, begins, ends = _signed_by(der, service)
    if unix_seconds is not None and not begins <= unix_seconds <= ends:
        raise IntegrityError(f"the certificate of node {node_id[:16]}... is valid from {begins} to {ends}, and it is {unix_seconds} now")
    return node_id


# Pure: what it answers depends on these bytes alone, never on the time, and a refusal is not kept. A peer whose connection broke
# shows the certificate that it has shown before.
@lru_cache(maxsize=64)
def _signed_by(der: bytes, service: x509.Certificate) -> tuple[NodeId, int, int]:
    """The node that a certificate names, and from when to when it is valid, seconds since 1970.

    Raises: IntegrityError: As `check_node_certificate`, but for the time.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        node_id = node_id_of(certificate)
    except Exception:  # the library's list of what it raises for an attacker's bytes is long and grows (ValueError, InvalidVersion, ...)
        raise IntegrityError("the peer's certificate cannot be read") from None
    try:
        certificate.verify_directly_issued_by(service)
    except Exception:
        raise IntegrityError(f"the certificate of node {node_id[:16]}... is not signed by this service; is it of another one?") from None
    if node_id == node_id_of(service):
        raise IntegrityError("the peer shows the certificate of the service instead of a node's")
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return node_id, int(begins.timestamp()), int(ends.timestamp())


class _Channel:
    __slots__ = (
        "buffer",
        "dirty",
        "expected",
        "is_dialled",
        "need",
        "peer",
        "proven",
        "queue",
        "queued",
        "records",
        "since",
        "stream",
        "tls",
        "unread",
        "unread_bytes",
        "waits_since",
    )

    def __init__(self, stream: int, expected: NodeId | None, since: float) -> None:
        self.stream = stream
        self.is_dialled = expected is not None
        self.expected = expected
        self.peer = expected
        self.proven = False  # dialled: handshake done; accepted: also its number was taken
        self.since = since
        self.waits_since: float | None = None  # accepted: when bytes came that made no record yet
        self.tls: TlsConnection
        self.queue: list[bytes] = []
        self.queued = 0
        self.records = 0
        self.buffer = bytearray()
        self.need = _PREFIX_BYTES
        self.dirty = False
        self.unread: list[bytes] | None = None  # see `enclave.turns`
        self.unread_bytes = 0


class Channels:
    """All channels of this node, both directions."""

    __slots__ = (
        "_accept",
        "_accepted",
        "_address",
        "_channels",
        "_closing",
        "_cuts",
        "_dial",
        "_dialled",
        "_dials",
        "_dirty",
        "_failures",
        "_highest",
        "_is_retired",
        "_learn",
        "_limits",
        "_lost",
        "_messages",
        "_node_id",
        "_now",
        "_service",
        "_turns",
        "_unix_seconds",
    )

    def __init__(
        self,
        node_id: NodeId,
        chain: Sequence[x509.Certificate],
        key: EllipticCurvePrivateKey,
        service: x509.Certificate,
        is_retired: Callable[[NodeId], bool],
        *,
        address: str,
        learn: Callable[[NodeId, str], None],
        now: float = 0.0,
        unix_seconds: int | None = None,
        limits: ChannelLimits = DEFAULT_LIMITS,
    ) -> None:
        """Make the channels of node `node_id`.

        Args:
            chain: Our node certificate, signed by the service key, first.
            key: Of that certificate.
            service: The service's certificate.
            is_retired: Says of a node id whether the ledger excludes it.
            address: Where this node listens for peers.
            learn: Told where a peer says that it listens.
            now: Monotonic seconds.
            unix_seconds: For the validity of certificates; None while unknown.
        """
        self._node_id = node_id
        self._accept = TlsContext.for_accepted_channels(chain, key)
        self._dial = TlsContext.for_dialled(chain, key)
        self._service = service
        self._is_retired = is_retired
        self._address = address.encode()
        self._learn = learn
        self._limits = limits
        self._now = now
        self._unix_seconds = unix_seconds
        self._channels: dict[int, _Channel] = {}
        self._dialled: dict[NodeId, _Channel] = {}
        self._accepted: dict[NodeId, _Channel] = {}
        self._highest: dict[NodeId, int] = {}
        self._dials = 0
        self._messages: list[tuple[NodeId, bytes]] = []
        self._dirty: list[_Channel] = []
        self._closing: list[int] = []
        self._cuts: list[NodeId] = []
        self._lost: list[NodeId] = []
        self._failures: list[str] = []
        self._turns: Turns[_Channel] = Turns(HANDSHAKES_MAX)

    @property
    def has_backlog(self) -> bool:
        """True if something waits for the next wake-up, which should come at once."""
        return bool(self._turns or self._messages)

    def use(self, chain: Sequence[x509.Certificate], key: EllipticCurvePrivateKey, service: x509.Certificate) -> None:
        """Show and expect new certificates in handshakes from now on."""
        self._accept = TlsContext.for_accepted_channels(chain, key)
        self._dial = TlsContext.for_dialled(chain, key)
        self._service = service

    def connect(self, node_id: NodeId, stream: int) -> None:
        """Begin a channel to `node_id` on a stream that the host says it has connected. An older one to the same node ends.

        Raises: UsageError: A node does not dial itself.
        """
        if node_id == self._node_id:
            raise UsageError("a node does not dial itself")
        if stream in self._channels:
            return
        older = self._dialled.pop(node_id, None)
        if older is not None:
            self._drop(older)
        self._dials += 1
        channel = _Channel(stream, node_id, self._now)
        channel.tls = self._dial.connection(lambda chain: self._check(channel, chain))
        self._channels[stream] = channel
        self._dialled[node_id] = channel
        self._enqueue(channel, HELLO + self._dials.to_bytes(8, "big") + self._address)
        self._mark(channel)

    def accepted(self, stream: int) -> None:
        """The host accepted a stream at the port for peers."""
        if stream in self._channels:
            return
        unproven = [channel for channel in self._channels.values() if not channel.is_dialled and not channel.proven]
        if len(unproven) >= self._limits.unproven:
            self._fail(unproven[0], "too many streams that do not say who they are")
        channel = _Channel(stream, None, self._now)
        channel.tls = self._accept.connection(lambda chain: self._check(channel, chain))
        self._channels[stream] = channel

    def received(self, stream: int, data: bytes) -> None:
        """The host carried bytes. Never raises: what breaks the protocol ends the channel, and `take_failures` says why."""
        channel = self._channels.get(stream)
        if channel is None:
            return
        if channel.is_dialled or channel.tls.established or self._turns.take(channel, data):
            self._take(channel, data)
        elif channel.unread_bytes > UNREAD_SIZE_BYTES_MAX:
            self._fail(channel, "more is sent in a handshake than any node has to say")

    def _take(self, channel: _Channel, data: bytes) -> None:
        tls = channel.tls
        was_established = tls.established
        chunks = tls.feed(data)
        if not was_established or not chunks:
            self._mark(channel)  # TLS itself may have something to say
            if channel.is_dialled and tls.established:
                channel.proven = True
        if chunks:
            if channel.is_dialled:
                self._fail(channel, "the peer sent on a channel that is not its own")
                return
            channel.waits_since = None
            for chunk in chunks:
                if not self._read(channel, chunk):
                    return
        elif channel.waits_since is None and not channel.is_dialled:
            channel.waits_since = self._now
        if tls.closed:
            self._fail(channel, tls.error)

    def closed(self, stream: int) -> None:
        """The host says that the stream is gone."""
        channel = self._channels.get(stream)
        if channel is not None:
            self._forget(channel)

    def send(self, node_id: NodeId, message: bytes) -> bool:
        """Queue a message, 1 byte to the limit. False if there is no channel to that node, or it was cut because its queue is full.

        True promises nothing: the host may drop what it is given.
        """
        channel = self._dialled.get(node_id)
        if channel is None:
            return False
        if not 0 < len(message) <= self._limits.message_bytes:
            raise UsageError(f"a message has 1 to {self._limits.message_bytes} bytes, this one {len(message)}")
        if channel.queued + len(message) > self._limits.queued_bytes:
            self._fail(channel, "more is waiting for this channel than may wait")
            return False
        self._enqueue(channel, message)
        if not channel.dirty:
            self._mark(channel)
        return True

    def seal(self, node_id: NodeId, message: bytes) -> tuple[int, bytes] | None:
        """Seal a message that the host is to send later, but before anything that is sealed after it.

        Returns: Its stream and bytes, with whatever was queued before it; None if the channel is not up, or was cut because it is full.
        """
        channel = self._dialled.get(node_id)
        if channel is None or not channel.tls.established or not self.send(node_id, message):
            return None
        output: list[tuple[int, bytes]] = []
        self._flush(channel, output)
        return output[0] if output else None

    def connected(self, node_id: NodeId) -> bool:
        """Whether the channel that we dialled to that node is up, as far as we can know."""
        channel = self._dialled.get(node_id)
        return channel is not None and channel.proven

    @property
    def speakers(self) -> frozenset[NodeId]:
        """The nodes that have a channel to this one."""
        return frozenset(self._accepted)

    def dialling(self, node_id: NodeId) -> bool:
        """Whether there is a channel to that node, up or in its handshake; if not, dial."""
        return node_id in self._dialled

    def reaches(self, nodes: frozenset[NodeId]) -> bool:
        """Whether `dialling` is true of each of these."""
        return self._dialled.keys() >= nodes

    def retire(self, node_id: NodeId) -> None:
        """End the channels of a node that the ledger now excludes."""
        for channel in (self._dialled.pop(node_id, None), self._accepted.pop(node_id, None)):
            if channel is not None:
                self._drop(channel)

    def sweep(self, now: float, unix_seconds: int | None = None) -> None:
        """Move time, end what is past a deadline (handshakes, records) and channels of retired nodes. Call it about once a second."""
        self._now = now
        if unix_seconds is not None:
            self._unix_seconds = unix_seconds
        deadline = now - self._limits.handshake_seconds
        for channel in list(self._channels.values()):
            if not channel.proven:
                if channel.since < deadline:
                    self._fail(channel, "the handshake took too long")
            elif channel.peer is not None and self._is_retired(channel.peer):
                self._fail(channel, "the node is retired")
            elif channel.waits_since is not None and channel.waits_since < now - self._limits.record_seconds:
                # Heartbeats would take minutes to fill a record of 16 KiB that nobody sent, and be lost in it.
                self._fail(channel, "the rest of a record does not come; what was on the way is damaged or cut short")

    def take_messages(self) -> list[tuple[NodeId, bytes]]:
        """Messages since the last call, each with the node that sent it, in order of arrival."""
        messages = self._messages
        self._messages = []
        return messages

    def take_output(self) -> tuple[list[tuple[int, bytes]], list[int]]:
        """What to send, and which streams to close once that is sent; each is handed over once."""
        output: list[tuple[int, bytes]] = []
        for channel, data in self._turns.due():
            self._take(channel, data)
        dirty = self._dirty
        if dirty:
            self._dirty = []
            for channel in dirty:
                channel.dirty = False
                self._flush(channel, output)
        closing = self._closing
        if closing:
            self._closing = []
        return output, closing

    def take_cuts(self) -> list[NodeId]:
        """Nodes to which our channel was lost since the last call: dial again, with patience."""
        cuts = self._cuts
        self._cuts = []
        return cuts

    def take_lost(self) -> list[NodeId]:
        """Nodes whose channel to us was lost since the last call: what they had said last may be lost with it."""
        lost = self._lost
        self._lost = []
        return lost

    def take_failures(self) -> list[str]:
        """Why channels ended, for the log."""
        failures = self._failures
        self._failures = []
        return failures

    def _check(self, channel: _Channel, chain: list[bytes]) -> None:
        node_id = check_node_certificate(chain[0] if chain else b"", self._service, self._unix_seconds)
        if channel.expected is not None and node_id != channel.expected:
            raise IntegrityError(f"dialled node {channel.expected[:16]}..., but node {node_id[:16]}... answered")
        if node_id == self._node_id:
            raise IntegrityError("the peer is this node itself: the host reflects our own stream")
        if self._is_retired(node_id):
            raise IntegrityError(f"node {node_id[:16]}... is retired")
        channel.peer = node_id

    def _read(self, channel: _Channel, data: bytes) -> bool:
        """Cut plaintext into messages; False if the channel was ended."""
        buffer = channel.buffer
        if buffer:
            buffer += data
            if len(buffer) < channel.need:
                return True
            data = bytes(buffer)
            buffer.clear()
        offset = 0
        size = len(data)
        need = _PREFIX_BYTES
        while size - offset >= _PREFIX_BYTES:
            start = offset + _PREFIX_BYTES
            length = int.from_bytes(data[offset:start], "big")
            if not 0 < length <= (self._limits.message_bytes if channel.proven else _HELLO_BYTES_MAX):
                self._fail(channel, f"a message of {length} bytes")
                return False
            end = start + length
            if end > size:
                need = _PREFIX_BYTES + length
                break
            if channel.proven:
                assert channel.peer is not None
                self._messages.append((channel.peer, data[start:end]))
            elif not self._begin(channel, data[start:end]):
                return False
            offset = end
        if offset < size:
            buffer += data[offset:]
        channel.need = need
        return True

    def _begin(self, channel: _Channel, hello: bytes) -> bool:
        peer = channel.peer
        assert peer is not None  # the handshake is done
        number = int.from_bytes(hello[len(HELLO) : _NUMBER_END], "big")
        if len(hello) < _NUMBER_END or not hello.startswith(HELLO):
            self._fail(channel, "the peer speaks another version of channels")
            return False
        try:
            address = read_address(hello[_NUMBER_END:].decode())
        except ValueError:
            self._fail(channel, "the peer does not say where it listens")
            return False
        if number <= self._highest.get(peer, 0):
            self._fail(channel, "the channel is older than one that the node has opened since")
            return False
        self._highest[peer] = number
        self._learn(peer, str(address))
        older = self._accepted.get(peer)
        self._accepted[peer] = channel
        if older is not None:
            self._lost.append(peer)
            self._drop(older)
        channel.proven = True
        return True

    def _enqueue(self, channel: _Channel, message: bytes) -> None:
        channel.queue.append(len(message).to_bytes(_PREFIX_BYTES, "big"))
        channel.queue.append(message)
        channel.queued += len(message)

    def _mark(self, channel: _Channel) -> None:
        if not channel.dirty:
            channel.dirty = True
            self._dirty.append(channel)

    def _flush(self, channel: _Channel, output: list[tuple[int, bytes]]) -> None:
        tls = channel.tls
        if channel.queue and tls.established and not tls.closed:
            channel.records += 1 + (channel.queued + len(channel.queue) * _PREFIX_BYTES) // RECORD_SIZE_BYTES_MAX
            tls.write(b"".join(channel.queue))
            channel.queue.clear()
            channel.queued = 0
        if channel.records >= self._limits.records and self._channels.get(channel.stream) is channel:
            channel.dirty = True  # so that what the closing adds is flushed here, once
            self._fail(channel, "its key has sealed as many records as it may")
            channel.dirty = False
        data = tls.take_output()
        if data:
            output.append((channel.stream, data))

    def _fail(self, channel: _Channel, reason: str | None) -> None:
        if len(self._failures) < _FAILURES_MAX:
            who = f"node {channel.peer[:16]}..." if channel.peer is not None else "a peer"
            self._failures.append(f"channel {'to' if channel.is_dialled else 'from'} {who} ended: {reason or 'closed by the peer'}")
        self._drop(channel)

    def _drop(self, channel: _Channel) -> None:
        if self._channels.get(channel.stream) is channel:
            channel.tls.close()
            self._mark(channel)  # an alert may still be sent
            self._closing.append(channel.stream)
            self._forget(channel)

    def _forget(self, channel: _Channel) -> None:
        del self._channels[channel.stream]
        channel.queue.clear()
        channel.queued = 0
        channel.buffer.clear()
        channel.unread = None
        peer = channel.peer
        if peer is None:
            return
        if channel.is_dialled:
            if self._dialled.get(peer) is channel:
                del self._dialled[peer]
                self._cuts.append(peer)
        elif self._accepted.get(peer) is channel:
            del self._accepted[peer]
            self._lost.append(peer)
