"""Channels between enclaves: who is believed, and that a host can only cut or delay."""

import datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL

from ledgerd.enclave.channels import HANDSHAKES_MAX, HELLO, ChannelLimits, Channels, check_node_certificate, node_id_of
from ledgerd.ledger.errors import IntegrityError, UsageError
from ledgerd.ledger.ids import NodeId
from support.tls import NOW, Identity, MemoryClient, identity

DAY = datetime.timedelta(days=1)
UNIX_SECONDS = int(NOW.timestamp())
SERVICE = identity("service", authority=True)


class Member:
    """A node's identity and what it needs to make channels."""

    def __init__(
        self, name: str, service: Identity = SERVICE, begins: datetime.timedelta = -DAY, ends: datetime.timedelta = 30 * DAY
    ) -> None:
        self.name = name
        self.learned: list[tuple[NodeId, str]] = []
        self.identity = identity(name, issuer=service, begins=begins, ends=ends)
        self.node_id = node_id_of(self.identity.certificate)

    def channels(self, limits: ChannelLimits | None = None, retired: frozenset[NodeId] | set[NodeId] = frozenset()) -> Channels:
        assert isinstance(self.identity.key, ec.EllipticCurvePrivateKey)
        return Channels(
            self.node_id,
            [self.identity.certificate],
            self.identity.key,
            SERVICE.certificate,
            retired.__contains__,
            address=f"{self.name}.peer:9001",
            learn=lambda node_id, address: self.learned.append((node_id, address)),
            unix_seconds=UNIX_SECONDS,
            limits=limits or ChannelLimits(),
        )


A = Member("a")
B = Member("b")
C = Member("c")


class Wire:
    """Two nodes and the hosts between them. `a` dials on stream -1, which is stream 1 at `b`; a second dial is -2 and 2."""

    def __init__(self, a: Channels, b: Channels) -> None:
        self.a = a
        self.b = b
        self.closed: list[tuple[str, int]] = []
        self.dials = 0

    def dial(self) -> None:
        self.dials += 1
        self.a.connect(B.node_id, -self.dials)
        self.b.accepted(self.dials)

    def carry(self) -> None:
        """Until both are quiet."""
        moved = True
        while moved:
            moved = False
            for name, source, sink in (("a", self.a, self.b), ("b", self.b, self.a)):
                output, closes = source.take_output()
                for stream, data in output:
                    moved = True
                    sink.received(-stream, data)
                for stream in closes:
                    moved = True
                    self.closed.append((name, stream))
                    sink.closed(-stream)


def joined(a: Channels | None = None, b: Channels | None = None) -> Wire:
    wire = Wire(a or A.channels(), b or B.channels())
    wire.dial()
    wire.carry()
    assert wire.a.connected(B.node_id)
    return wire


def test_messages_arrive_in_order_with_their_sender() -> None:
    wire = joined()
    sent = [b"one", b"two" * 10_000, b"3", b"x" * 3_000_000, b"last"]
    for message in sent:
        assert wire.a.send(B.node_id, message)
    wire.carry()
    assert wire.b.take_messages() == [(A.node_id, message) for message in sent]
    assert wire.b.take_messages() == []
    assert wire.closed == []


def test_who_dials_says_where_it_listens() -> None:
    B.learned.clear()
    joined()
    assert B.learned == [(A.node_id, "a.peer:9001")]


def test_what_is_sealed_for_later_stands_between_what_was_sent_before_and_after() -> None:
    wire = joined()
    wire.a.send(B.node_id, b"before")
    before, _ = wire.a.take_output()
    sealed = wire.a.seal(B.node_id, b"later")
    assert sealed is not None
    wire.a.send(B.node_id, b"after")
    after, _ = wire.a.take_output()
    for stream, data in [*before, sealed, *after]:
        wire.b.received(-stream, data)
    assert wire.b.take_messages() == [(A.node_id, b"before"), (A.node_id, b"later"), (A.node_id, b"after")]


def test_nothing_is_sealed_for_later_before_the_channel_is_up() -> None:
    wire = Wire(A.channels(), B.channels())
    assert wire.a.seal(B.node_id, b"later") is None
    wire.dial()
    assert wire.a.seal(B.node_id, b"later") is None
    wire.carry()
    assert wire.b.take_messages() == [], "nor does it wait, to be sent when nobody says so"


def test_messages_of_one_wake_up_leave_as_one_write() -> None:
    wire = joined()
    for number in range(50):
        wire.a.send(B.node_id, b"%d" % number)
    output, _ = wire.a.take_output()
    assert len(output) == 1
    data = output[0][1]
    assert 5 + int.from_bytes(data[3:5], "big") == len(data)


def test_messages_sent_during_the_handshake_wait_for_it() -> None:
    wire = Wire(A.channels(), B.channels())
    wire.dial()
    assert wire.a.dialling(B.node_id) and not wire.a.connected(B.node_id)
    assert wire.a.reaches(frozenset({B.node_id})) and wire.a.reaches(frozenset())
    assert not wire.b.reaches(frozenset({A.node_id})) and not wire.a.reaches(frozenset({A.node_id, B.node_id}))
    assert wire.a.send(B.node_id, b"early")
    wire.carry()
    assert wire.b.take_messages() == [(A.node_id, b"early")]


def test_without_a_channel_nothing_is_sent() -> None:
    channels = A.channels()
    assert not channels.send(B.node_id, b"x")
    assert channels.take_output() == ([], [])
    assert channels.take_cuts() == []


def test_each_direction_has_its_own_channel() -> None:
    wire = joined()
    assert not wire.b.connected(A.node_id)
    wire.b.connect(A.node_id, -9)
    wire.a.accepted(9)
    wire.carry()
    assert wire.b.connected(A.node_id)
    wire.a.send(B.node_id, b"to b")
    wire.b.send(A.node_id, b"to a")
    wire.carry()
    assert wire.a.take_messages() == [(B.node_id, b"to a")]
    assert wire.b.take_messages() == [(A.node_id, b"to b")]


def test_a_flood_of_handshakes_waits_for_its_turn_and_a_node_that_is_known_does_not() -> None:
    wire = joined()
    before = wire.b._channels.copy()
    greetings = [MemoryClient().take_output() for _ in range(40)]
    for stream, greeting in enumerate(greetings, 100):
        wire.b.accepted(stream)
        wire.b.received(stream, greeting[:50])
        wire.b.received(stream, greeting[50:])
    wire.a.send(B.node_id, b"in between")
    (_, message), *_ = wire.a.take_output()[0]
    wire.b.received(1, message)
    assert wire.b.take_messages() == [(A.node_id, b"in between")]
    answered: list[int] = []
    wakeups = 0
    while wire.b.has_backlog:
        wakeups += 1
        output, _ = wire.b.take_output()
        assert len(output) <= 2 * HANDSHAKES_MAX
        answered += [stream for stream, _ in output]
    assert answered == list(range(100, 140)), "all had their turn, in order"
    assert wakeups >= 40 / HANDSHAKES_MAX - 1
    assert before.items() <= wire.b._channels.items()


def test_what_a_stranger_says_while_its_handshake_waits_is_bounded_and_forgotten_with_it() -> None:
    channels = B.channels()
    greetings = [MemoryClient().take_output() for _ in range(HANDSHAKES_MAX + 2)]
    for stream, greeting in enumerate(greetings, 1):
        channels.accepted(stream)
        channels.received(stream, greeting)
    endless, gone = len(greetings) - 1, len(greetings)
    for _ in range(70):
        channels.received(endless, bytes(1024))
    channels.closed(gone)
    output, closing = channels.take_output()
    assert [stream for stream, _ in output] == list(range(1, HANDSHAKES_MAX + 1))
    assert closing == [endless]
    assert not channels.has_backlog


# Who is believed


def refused(dialler: Channels, acceptor: Channels, expected: NodeId) -> list[str]:
    """Dial; return why it failed, at both ends. Nothing may have been delivered."""
    wire = Wire(dialler, acceptor)
    dialler.connect(expected, -1)
    acceptor.accepted(1)
    dialler.send(expected, b"must not arrive")
    wire.carry()
    assert acceptor.take_messages() == []
    assert not dialler.connected(expected)
    assert dialler.take_cuts() == [expected]
    return dialler.take_failures() + acceptor.take_failures()


def test_a_node_of_another_service_is_refused_by_dialler_and_acceptor() -> None:
    other = identity("service", authority=True)  # the same name, another key
    stranger = Member("stranger", other)
    assert any("not signed by this service" in reason for reason in refused(A.channels(), stranger.channels(), stranger.node_id))
    assert any("not signed by this service" in reason for reason in refused(stranger.channels(), A.channels(), A.node_id))


def test_a_node_with_another_key_than_dialled_is_refused() -> None:
    reasons = refused(A.channels(), C.channels(), B.node_id)
    assert any(f"dialled node {B.node_id[:16]}" in reason and C.node_id[:16] in reason for reason in reasons)


def test_a_reflected_stream_is_refused() -> None:
    mirror = A.channels()
    reasons = refused(A.channels(), mirror, B.node_id)
    assert any("dialled node" in reason for reason in reasons)
    # Also by the acceptor, if a dialler were content: a channel whose dialler is ourselves.
    node = A.channels()
    with pytest.raises(UsageError):
        node.connect(A.node_id, -1)
    client = raw_client(A.identity)
    node.accepted(1)
    drive(node, client)
    assert any("this node itself" in reason for reason in node.take_failures())


def test_a_retired_node_is_refused_and_its_channels_end() -> None:
    assert any("retired" in reason for reason in refused(A.channels(), B.channels(retired={A.node_id}), B.node_id))
    assert any("retired" in reason for reason in refused(A.channels(retired={B.node_id}), B.channels(), B.node_id))
    retired: set[NodeId] = set()
    wire = joined(b=B.channels(retired=retired))
    retired.add(A.node_id)
    wire.b.sweep(1.0)
    wire.carry()
    assert not wire.a.connected(B.node_id) and wire.a.take_cuts() == [B.node_id]
    wire = joined()
    wire.a.retire(B.node_id)
    assert not wire.a.send(B.node_id, b"x")
    assert wire.a.take_cuts() == []  # nobody is to dial it again


@pytest.mark.parametrize(
    ("begins", "ends", "good"),
    [(-DAY, DAY, True), (-2 * DAY, -DAY, False), (DAY, 2 * DAY, False), (-DAY, 0 * DAY, True), (0 * DAY, DAY, True)],
)
def test_a_certificate_counts_within_its_validity_at_the_time_given(
    begins: datetime.timedelta, ends: datetime.timedelta, good: bool
) -> None:
    der = Member("x", begins=begins, ends=ends).identity.der
    assert check_node_certificate(der, SERVICE.certificate, None)
    if good:
        assert check_node_certificate(der, SERVICE.certificate, UNIX_SECONDS)
    else:
        with pytest.raises(IntegrityError, match="valid from"):
            check_node_certificate(der, SERVICE.certificate, UNIX_SECONDS)


def test_the_service_certificate_is_no_node() -> None:
    with pytest.raises(IntegrityError, match="instead of a node's"):
        check_node_certificate(SERVICE.der, SERVICE.certificate, None)


def test_a_certificate_with_any_bit_flipped_is_refused() -> None:
    good = A.identity.der
    unused_bits = len(good) - len(A.identity.certificate.signature) - 1  # of the signature's BIT STRING: the one byte that nothing covers
    for bit in range(8 * len(good)):
        if bit // 8 == unused_bits:
            continue
        der = bytearray(good)
        der[bit // 8] ^= 1 << bit % 8
        with pytest.raises(IntegrityError):
            check_node_certificate(bytes(der), SERVICE.certificate, None)


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_random_bytes_are_no_certificate(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        check_node_certificate(data, SERVICE.certificate, None)


def raw_client(who: Identity | None) -> MemoryClient:
    return MemoryClient(who, version=SSL.TLS1_3_VERSION)


def drive(channels: Channels, client: MemoryClient, stream: int = 1) -> list[int]:
    """Carry bytes between an acceptor and a client that is not ours; return which streams it closes."""
    closes: list[int] = []
    for _ in range(5):
        data = client.take_output()
        if data:
            channels.received(stream, data)
        output, more = channels.take_output()
        closes += more
        for _, answer in output:
            try:
                client.receive(answer)
            except SSL.Error:
                return closes
    return closes


def test_a_client_without_certificate_is_refused() -> None:
    channels = A.channels()
    channels.accepted(1)
    assert drive(channels, raw_client(None)) == [1]
    assert channels.take_failures()


def test_tls_1_2_is_refused() -> None:
    channels = A.channels()
    channels.accepted(1)
    client = MemoryClient(B.identity, version=SSL.TLS1_2_VERSION)
    assert drive(channels, client) == [1]
    assert not client.established


# What a proven peer may say


def speaking(limits: ChannelLimits | None = None) -> tuple[Channels, MemoryClient]:
    channels = A.channels(limits)
    channels.accepted(1)
    client = raw_client(B.identity)
    drive(channels, client)
    assert client.established
    return channels, client


def prefixed(message: bytes) -> bytes:
    return len(message).to_bytes(4, "big") + message


def test_a_channel_begins_with_its_version_and_number() -> None:
    channels, client = speaking()
    client.send(prefixed(HELLO + (5).to_bytes(8, "big") + b"h:1") + prefixed(b"message"))
    assert drive(channels, client) == []
    assert channels.take_messages() == [(B.node_id, b"message")]


@pytest.mark.parametrize(
    "said",
    [
        prefixed(b"message"),
        prefixed(b"ledgerd-channel/1 " + (1).to_bytes(8, "big") + b"h:1"),
        prefixed(HELLO + bytes(7)),
        prefixed(HELLO + bytes(8) + b"h:1"),  # numbers begin at 1
        prefixed(HELLO + (1).to_bytes(8, "big")),
        prefixed(HELLO + (1).to_bytes(8, "big") + b"h"),
        prefixed(HELLO + (1).to_bytes(8, "big") + b"h:0"),
        prefixed(HELLO + (1).to_bytes(8, "big") + b"h\0:1"),
        prefixed(HELLO + (1).to_bytes(8, "big") + b"\xff:1"),
        prefixed(HELLO + (1).to_bytes(8, "big") + b"h" * 256 + b":1"),
        prefixed(HELLO + (1).to_bytes(8, "big") + b"h:" + b"0" * 400 + b"1"),
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_another_beginning_ends_the_channel(said: bytes) -> None:
    channels, client = speaking()
    client.send(said + prefixed(b"message"))
    assert drive(channels, client) == [1]
    assert channels.take_messages() == []
    assert len(channels.take_failures()) == 1


@pytest.mark.parametrize("length", [0, 1001, 1 << 31, (1 << 32) - 1])
def test_a_message_of_no_or_too_many_bytes_ends_the_channel(length: int) -> None:
    channels, client = speaking(ChannelLimits(message_bytes=1000))
    client.send(prefixed(HELLO + (1).to_bytes(8, "big") + b"h:1") + prefixed(b"good" * 250) + length.to_bytes(4, "big") + b"rest")
    assert drive(channels, client) == [1]
    assert channels.take_messages() == [(B.node_id, b"good" * 250)]


def test_our_own_message_beyond_the_limit_is_a_bug_of_ours() -> None:
    wire = joined(A.channels(ChannelLimits(message_bytes=10)))
    for message in (b"", b"x" * 11):
        with pytest.raises(UsageError):
            wire.a.send(B.node_id, message)


def test_an_acceptor_that_speaks_ends_the_channel() -> None:
    assert isinstance(B.identity.key, ec.EllipticCurvePrivateKey)
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.use_certificate(B.identity.certificate)
    context.use_privatekey(B.identity.key)
    context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
    server = SSL.Connection(context, None)
    server.set_accept_state()
    channels = A.channels()
    channels.connect(B.node_id, -1)
    for turn in range(4):
        for _, data in channels.take_output()[0]:
            server.bio_write(data)
        try:
            if turn < 2:
                server.do_handshake()
            else:
                server.send(b"hello")
        except SSL.WantReadError:
            pass
        channels.received(-1, server.bio_read(1 << 16))
        if not channels.dialling(B.node_id):
            break
    assert channels.take_cuts() == [B.node_id]
    assert any("not its own" in reason for reason in channels.take_failures())


# Cuts and limits


def test_a_cut_is_reported_and_a_new_dial_mends_it() -> None:
    wire = joined()
    wire.a.closed(-1)
    wire.b.closed(1)
    assert wire.a.take_cuts() == [B.node_id] and wire.a.take_cuts() == []
    assert not wire.a.connected(B.node_id)
    wire.dial()
    wire.carry()
    wire.a.send(B.node_id, b"again")
    wire.carry()
    assert wire.b.take_messages() == [(A.node_id, b"again")]


def test_a_second_dial_replaces_the_first_at_both_ends() -> None:
    wire = joined()
    wire.dial()
    wire.a.send(B.node_id, b"on the second")
    wire.carry()
    assert wire.b.take_messages() == [(A.node_id, b"on the second")]
    assert wire.a.take_cuts() == []
    assert ("a", -1) in wire.closed
    assert wire.a.connected(B.node_id)


def test_an_older_channel_delivered_after_a_newer_one_is_refused() -> None:
    a, b = A.channels(), B.channels()
    a.connect(B.node_id, -1)
    b.accepted(1)
    b.received(1, a.take_output()[0][0][1])
    a.received(-1, b.take_output()[0][0][1])
    a.send(B.node_id, b"old")
    withheld = a.take_output()[0][0][1]  # the host keeps the end of the handshake and the first message
    a.closed(-1)
    wire = Wire(a, b)
    wire.dials = 1
    wire.dial()
    a.send(B.node_id, b"new")
    wire.carry()
    assert b.take_messages() == [(A.node_id, b"new")]
    b.received(1, withheld)
    assert b.take_messages() == []
    assert any("older" in reason for reason in b.take_failures())
    a.send(B.node_id, b"newer")
    wire.carry()
    assert b.take_messages() == [(A.node_id, b"newer")]


def test_what_is_in_flight_on_an_older_channel_is_lost_once_a_newer_one_has_begun() -> None:
    wire = joined()
    wire.a.send(B.node_id, b"old")
    (withheld,), _ = wire.a.take_output()
    wire.dial()
    wire.a.send(B.node_id, b"new")
    for source, sink in ((wire.a, wire.b), (wire.b, wire.a), (wire.a, wire.b)):
        for stream, data in source.take_output()[0]:  # the host closes nothing
            if abs(stream) == wire.dials:
                sink.received(-stream, data)
    assert wire.b.take_messages() == [(A.node_id, b"new")]
    assert wire.b.take_output()[1] == [1]
    wire.b.received(1, withheld[1])
    assert wire.b.take_messages() == []


def test_a_full_queue_cuts_the_channel() -> None:
    channels = A.channels(ChannelLimits(queued_bytes=1000))
    channels.connect(B.node_id, -1)
    assert channels.send(B.node_id, b"x" * 900)
    assert not channels.send(B.node_id, b"x" * 900)
    assert channels.take_cuts() == [B.node_id]
    assert channels.take_output()[1] == [-1]


def test_a_handshake_that_takes_too_long_is_cut() -> None:
    a, b = A.channels(), B.channels()
    a.connect(B.node_id, -1)
    b.accepted(1)
    for channels, stream in ((a, -1), (b, 1)):
        channels.sweep(4.0)
        assert channels.take_output()[1] == []
        channels.sweep(5.5)
        assert channels.take_output()[1] == [stream]
    assert a.take_cuts() == [B.node_id]


def sealed(a: Channels, message: bytes) -> bytes:
    """What leaves `a` for its only channel."""
    assert a.send(B.node_id, message)
    ((_, data),) = a.take_output()[0]
    return data


def test_a_record_whose_length_was_changed_does_not_hold_up_the_channel() -> None:
    a, b = A.channels(), B.channels()
    wire = Wire(a, b)
    wire.dial()
    wire.carry()
    data = bytearray(sealed(a, b"one"))
    data[3] ^= 0x20  # of the record's length: 8 KiB more
    b.sweep(100.0)
    b.received(1, bytes(data))
    for second in range(5):
        b.received(1, sealed(a, b"heartbeat"))
        b.sweep(101.0 + second)
    assert (b.take_messages(), b.take_failures()) == ([], [])  # it may still be a slow way
    b.sweep(106.0)
    assert "the rest of a record does not come" in b.take_failures()[0]
    wire.carry()
    assert a.take_cuts() == [B.node_id]
    wire.dial()
    assert a.send(B.node_id, b"two")
    wire.carry()
    assert b.take_messages() == [(A.node_id, b"two")]


def test_a_record_that_comes_in_pieces_is_waited_for_and_then_forgotten() -> None:
    a, b = A.channels(), B.channels()
    wire = Wire(a, b)
    wire.dial()
    wire.carry()
    data = sealed(a, b"one")
    b.sweep(100.0)
    b.received(1, data[:9])
    b.sweep(104.0)
    b.received(1, data[9:])
    assert b.take_messages() == [(A.node_id, b"one")]
    b.sweep(200.0)
    assert b.take_failures() == []


def test_streams_that_do_not_say_who_they_are_push_out_each_other_only() -> None:
    wire = joined(b=B.channels(ChannelLimits(unproven=3)))
    for stream in range(10, 14):
        wire.b.accepted(stream)
    assert wire.b.take_output()[1] == [10]
    wire.a.send(B.node_id, b"still here")
    wire.carry()
    assert wire.b.take_messages() == [(A.node_id, b"still here")]


def test_a_key_that_has_sealed_enough_is_replaced_without_loss() -> None:
    wire = joined(A.channels(ChannelLimits(records=5)))
    for number in range(4):
        wire.a.send(B.node_id, b"%d" % number)
        wire.carry()
    assert wire.b.take_messages() == [(A.node_id, b"%d" % number) for number in range(4)]
    assert wire.a.take_cuts() == [B.node_id]
    assert ("a", -1) in wire.closed
    wire.dial()
    wire.carry()
    assert wire.a.connected(B.node_id)
    assert len(wire.a.take_failures()) == 1


def test_bytes_for_unknown_streams_are_ignored() -> None:
    channels = A.channels()
    channels.received(3, b"x")
    channels.closed(3)
    assert channels.take_output() == ([], [])


def test_reasons_for_the_log_are_bounded() -> None:
    channels = A.channels()
    for stream in range(1, 300):
        channels.accepted(stream)
        channels.received(stream, b"not TLS at all")
    assert 0 < len(channels.take_failures()) <= 64


# A hostile host


class HostileWire:
    """Keeps every byte that ever went either way, and plays with them as it is told.

    In flight are packets: (sink, stream, bytes). What one node sends on a stream belongs to the other's stream of opposite number.
    """

    def __init__(self) -> None:
        self.nodes = {"a": A.channels(), "b": B.channels()}
        self.other = {"a": "b", "b": "a"}
        self.flying: list[tuple[str, int, bytes]] = []
        self.history: list[tuple[str, int, bytes]] = []
        self.sent: dict[str, list[bytes]] = {"a": [], "b": []}
        self.got: dict[str, list[bytes]] = {"a": [], "b": []}
        self.dials = 0

    def dial(self, name: str) -> None:
        self.dials += 1
        stream = self.dials * 2 + (name == "b")
        to = self.other[name]
        self.nodes[name].connect({"a": A, "b": B}[to].node_id, -stream)
        self.nodes[to].accepted(stream)
        self.collect()

    def send(self, name: str) -> None:
        to = {"a": A, "b": B}[self.other[name]].node_id
        message = f"{name} {len(self.sent[name])}".encode() * (1 + len(self.sent[name]) % 3)
        if self.nodes[name].send(to, message):
            self.sent[name].append(message)
        self.collect()

    def collect(self) -> None:
        for name, node in self.nodes.items():
            output, _ = node.take_output()  # a hostile host closes nothing
            for stream, data in output:
                self.flying.append((self.other[name], -stream, data))
            for sender, message in node.take_messages():
                assert sender == {"a": A, "b": B}[self.other[name]].node_id
                self.got[self.other[name]].append(message)

    def deliver(self, packet: tuple[str, int, bytes]) -> None:
        sink, stream, data = packet
        self.history.append(packet)
        self.nodes[sink].received(stream, data)
        self.collect()

    def check(self) -> None:
        """What was delivered is a subsequence of what was sent: nothing forged, nothing twice, nothing out of order."""
        for name in ("a", "b"):
            remaining = iter(self.sent[name])
            for message in self.got[name]:
                assert any(message == candidate for candidate in remaining), f"{message!r} forged, repeated or out of order"


PLAYS = ["dial", "cut", "drop", "duplicate", "swap", "replay", "reflect", "cross", "truncate", "split", "flip"]
NUMBER = st.integers(0, 1 << 16)  # taken modulo what there is: sizes of signatures differ from run to run
PLAY = st.tuples(st.sampled_from(["send", "send", "deliver", "deliver", "deliver", *PLAYS]), NUMBER, NUMBER)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 6), st.lists(PLAY, max_size=40))
def test_a_hostile_host_can_only_cut_or_delay(rounds: int, plays: list[tuple[str, int, int]]) -> None:
    wire = HostileWire()
    wire.dial("a")
    wire.dial("b")
    for _ in range(rounds):  # mostly let the handshakes through, else nothing is ever delivered
        for packet in wire.flying[:]:
            wire.flying.remove(packet)
            wire.deliver(packet)
    for play, first, second in plays:
        flying = wire.flying
        name = "ab"[first % 2]
        stream = (2 + second % (wire.dials * 2)) * (1 - first // 2 % 2 * 2)
        if play == "dial":
            wire.dial(name)
        elif play == "send":
            wire.send(name)
        elif play == "cut":
            wire.nodes[name].closed(stream)
            wire.collect()
        elif play == "replay" and wire.history:
            wire.deliver(wire.history[first % len(wire.history)])
        elif play == "deliver" and flying:
            wire.deliver(flying.pop(0))
        elif flying:
            index = first % len(flying)
            sink, to, data = flying[index]
            position = second % len(data)
            if play == "drop":
                del flying[index]
            elif play == "duplicate":
                flying.insert(second % len(flying), flying[index])
            elif play == "swap":
                flying.append(flying.pop(index))
            elif play == "reflect":
                wire.deliver((wire.other[sink], -to, data))
            elif play == "cross":
                wire.deliver((sink, stream, data))
            elif play == "truncate":
                flying[index] = (sink, to, data[: position + 1])
            elif play == "split" and position:
                flying[index : index + 1] = [(sink, to, data[:position]), (sink, to, data[position:])]
            elif play == "flip":
                flying[index] = (sink, to, data[:position] + bytes([data[position] ^ 1 << first % 8]) + data[position + 1 :])
        wire.check()
    # It was only delay: once the host is honest, a new channel carries again.
    wire.flying.clear()
    wire.dial("a")
    wire.send("a")
    while wire.flying:
        wire.deliver(wire.flying.pop(0))
    wire.check()
    assert wire.got["a"][-1] == wire.sent["a"][-1]


def test_an_honest_host_lets_everything_through() -> None:
    """The property above would hold for channels that deliver nothing; this shows that its wire delivers."""
    wire = HostileWire()
    wire.dial("a")
    wire.dial("b")
    for _ in range(20):
        wire.send("a")
        wire.send("b")
        while wire.flying:
            wire.deliver(wire.flying.pop(0))
    assert len(wire.got["a"]) == len(wire.got["b"]) == 20
    wire.check()
