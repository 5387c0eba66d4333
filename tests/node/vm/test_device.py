import contextlib
import select
import socket
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledgerd.node.vm.device import RESETS_MAX, STREAMS_MAX, Device
from ledgerd.node.vm.errors import GuestError
from ledgerd.node.vm.rings import Memory, Queue, Region
from ledgerd.node.vm.streams import BUFFER_BYTES
from support.virtio import (
    CREDIT_REQUEST,
    CREDIT_UPDATE,
    DATA,
    GUEST_BASE,
    REQUEST,
    RESET,
    RESPONSE,
    SHUTDOWN,
    USER_BASE,
    WRITE,
    Guest,
    Packet,
    queue_places,
)

PORT = 7000
RECEIVE, SEND = 1, 2


class Rig:
    """A device whose port 7000 leads to `host`, and the guest before it."""

    def __init__(self, guest: Guest, buffers: int = 8) -> None:
        self.guest = guest
        self.epoll = select.epoll()
        self.hosts: list[socket.socket] = []
        self.device = Device(16, self.connect, self.epoll)
        memory = Memory([Region(GUEST_BASE, USER_BASE, guest.memory)])
        self.device.receive = Queue(memory, guest.size, **queue_places(guest.receive))
        self.device.transmit = Queue(memory, guest.size, **queue_places(guest.transmit))
        guest.offer_buffers(buffers)

    def connect(self, port: int) -> socket.socket | None:
        if port != PORT:
            return None
        ours, theirs = socket.socketpair()
        ours.settimeout(120)
        self.hosts.append(ours)
        return theirs

    @property
    def host(self) -> socket.socket:
        return self.hosts[-1]

    def close(self) -> None:
        self.device.close()
        self.epoll.close()
        for host in self.hosts:
            host.close()

    def work(self) -> None:
        """One turn of the loop: what the sockets say, then the queues."""
        for descriptor, events in self.epoll.poll(0):
            assert self.device.woken(descriptor, events)
        self.device.work()

    def exchange(self, *packets: Packet | bytes) -> list[Packet]:
        """Send packets, and take what comes."""
        for packet in packets:
            self.guest.send(packet)
        self.work()
        self.guest.sent()
        return self.guest.received()

    def open(self, guest_port: int = 1024, buffer_bytes: int = 1 << 16) -> None:
        """A stream from the guest to the host."""
        (answer,) = self.exchange(Packet(REQUEST, guest_port, PORT, buffer_bytes=buffer_bytes))
        assert (answer.operation, answer.guest_port, answer.host_port) == (RESPONSE, guest_port, PORT)


@pytest.fixture
def rig(guest: Guest) -> Iterator[Rig]:
    made = Rig(guest)
    yield made
    made.close()


def test_a_stream_carries_bytes_both_ways(rig: Rig) -> None:
    rig.open()
    assert rig.exchange(Packet(DATA, 1024, PORT, b"from the guest")) == []
    assert rig.host.recv(100) == b"from the guest"
    rig.host.sendall(b"from the host")
    (packet,) = rig.exchange()
    assert (packet.operation, packet.data, packet.host_cid, packet.guest_cid) == (DATA, b"from the host", 3, 16)
    assert packet.forwarded == 14 and packet.buffer_bytes == BUFFER_BYTES


@pytest.mark.parametrize("cid", [2, 3])
def test_the_host_is_reached_as_host_and_as_parent(rig: Rig, cid: int) -> None:
    (answer,) = rig.exchange(Packet(REQUEST, 5, PORT, host_cid=cid))
    assert (answer.operation, answer.host_cid) == (RESPONSE, cid)


@pytest.mark.parametrize("packet", [Packet(REQUEST, 5, PORT, host_cid=4), Packet(REQUEST, 5, PORT, guest_cid=17)])
def test_packets_of_or_to_somebody_else_are_dropped(rig: Rig, packet: Packet) -> None:
    assert rig.exchange(packet) == []
    assert len(rig.device) == 0


@pytest.mark.parametrize(
    "packet",
    [
        Packet(REQUEST, 5, 7001),
        Packet(REQUEST, 5, PORT, kind=2),
        Packet(DATA, 5, PORT, b"of no stream"),
        Packet(SHUTDOWN, 5, PORT),
        Packet(99, 5, PORT),
        Packet(0, 5, PORT),
    ],
)
def test_what_belongs_to_no_stream_is_reset(rig: Rig, packet: Packet) -> None:
    (answer,) = rig.exchange(packet)
    assert (answer.operation, answer.guest_port, answer.host_port) == (RESET, 5, packet.host_port)
    assert len(rig.device) == 0


def test_a_reset_is_not_answered(rig: Rig) -> None:
    assert rig.exchange(Packet(RESET, 5, PORT)) == []
    rig.open()
    assert rig.exchange(Packet(RESET, 1024, PORT)) == []
    assert len(rig.device) == 0
    assert rig.host.recv(1) == b""


@pytest.mark.parametrize("operation", [REQUEST, RESPONSE, 99])
def test_an_operation_that_makes_no_sense_ends_the_stream(rig: Rig, operation: int) -> None:
    rig.open()
    (answer,) = rig.exchange(Packet(operation, 1024, PORT))
    assert answer.operation == RESET
    assert rig.host.recv(1) == b""


def test_the_guest_gets_no_more_than_it_has_room_for(rig: Rig) -> None:
    rig.open(buffer_bytes=100)
    rig.host.sendall(bytes(range(250)))
    (first,) = rig.exchange()
    assert first.data == bytes(range(100))
    assert rig.exchange() == []
    (second,) = rig.exchange(Packet(CREDIT_UPDATE, 1024, PORT, buffer_bytes=100, forwarded=60))
    assert second.data == bytes(range(100, 160))
    (third,) = rig.exchange(Packet(CREDIT_UPDATE, 1024, PORT, buffer_bytes=200, forwarded=160))
    assert third.data == bytes(range(160, 250))


def test_a_guest_that_claims_to_have_taken_more_than_there_was_gets_nothing(rig: Rig) -> None:
    rig.open(buffer_bytes=100)
    rig.host.sendall(b"x" * 10)
    assert rig.exchange(Packet(CREDIT_UPDATE, 1024, PORT, buffer_bytes=100, forwarded=1)) == []


def test_the_guest_is_told_what_was_forwarded(rig: Rig) -> None:
    rig.open()
    (answer,) = rig.exchange(Packet(CREDIT_REQUEST, 1024, PORT))
    assert (answer.operation, answer.forwarded, answer.buffer_bytes) == (CREDIT_UPDATE, 0, BUFFER_BYTES)
    told = []
    for _ in range(4):
        told += rig.exchange(Packet(DATA, 1024, PORT, bytes(BUFFER_BYTES // 8)))
        assert len(rig.host.recv(BUFFER_BYTES, socket.MSG_WAITALL | socket.MSG_DONTWAIT)) == BUFFER_BYTES // 8
    assert [(packet.operation, packet.forwarded) for packet in told] == [
        (CREDIT_UPDATE, BUFFER_BYTES // 4),
        (CREDIT_UPDATE, BUFFER_BYTES // 2),
    ]


def test_a_guest_that_sends_without_credit_loses_its_stream(rig: Rig) -> None:
    """A host that does not read: what waits is bounded."""
    rig.open()
    rig.host.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    answers: list[Packet] = []
    sent = 0
    while not answers:
        answers = rig.exchange(Packet(DATA, 1024, PORT, bytes(1 << 16)))
        answers = [answer for answer in answers if answer.operation != CREDIT_UPDATE]
        sent += 1 << 16
        assert sent < 4 * BUFFER_BYTES
    assert [answer.operation for answer in answers] == [RESET]


def test_a_guest_that_has_finished_sends_nothing_more_even_while_the_host_is_behind(rig: Rig) -> None:
    rig.open()
    for _ in range(4):
        rig.exchange(Packet(DATA, 1024, PORT, bytes(60_000)))
    assert rig.exchange(Packet(SHUTDOWN, 1024, PORT, flags=SEND)) == []
    (answer,) = rig.exchange(Packet(DATA, 1024, PORT, b"and yet"))
    assert answer.operation == RESET


def test_a_guest_that_has_finished_may_still_receive(rig: Rig) -> None:
    rig.open()
    assert rig.exchange(Packet(DATA, 1024, PORT, b"last words"), Packet(SHUTDOWN, 1024, PORT, flags=SEND)) == []
    assert rig.host.recv(100) == b"last words" and rig.host.recv(1) == b""
    rig.host.sendall(b"an answer")
    assert [packet.data for packet in rig.exchange()] == [b"an answer"]
    (answer,) = rig.exchange(Packet(DATA, 1024, PORT, b"and yet"))
    assert answer.operation == RESET


def test_a_closed_guest_is_acknowledged_once_the_host_has_everything(rig: Rig) -> None:
    """The reset answers a shutdown of both ways (VIRTIO 1.2, 5.10.6.5)."""
    rig.open()
    (answer,) = rig.exchange(Packet(DATA, 1024, PORT, b"last"), Packet(SHUTDOWN, 1024, PORT, flags=SEND | RECEIVE)) or rig.exchange()
    assert answer.operation == RESET
    assert rig.host.recv(100) == b"last" and rig.host.recv(1) == b""
    assert len(rig.device) == 0


def test_a_host_that_has_finished_may_still_receive(rig: Rig) -> None:
    rig.open()
    rig.host.sendall(b"last")
    rig.host.shutdown(socket.SHUT_WR)
    assert [(packet.operation, packet.data, packet.flags) for packet in rig.exchange()] == [(DATA, b"last", 0), (SHUTDOWN, b"", SEND)]
    assert rig.exchange(Packet(DATA, 1024, PORT, b"heard")) == []
    assert rig.host.recv(100) == b"heard"


def test_a_host_that_is_gone_is_told_to_the_guest(rig: Rig) -> None:
    rig.open()
    rig.host.close()
    operations = [(packet.operation, packet.flags) for packet in rig.exchange() + rig.exchange()]
    assert operations[-1] == (SHUTDOWN, SEND | RECEIVE)
    (answer,) = rig.exchange(Packet(DATA, 1024, PORT, b"to nobody"))
    assert answer.operation == RESET
    assert rig.epoll.poll(0) == [], "and nothing is waited for any more"


def test_a_host_that_is_gone_does_not_keep_the_loop_busy(rig: Rig) -> None:
    """While the guest has no room, and after."""
    rig.open(buffer_bytes=2)
    rig.host.sendall(b"four")
    rig.host.close()
    rig.exchange()
    rig.exchange()
    assert rig.epoll.poll(0) == []
    (last, end) = rig.exchange(Packet(CREDIT_UPDATE, 1024, PORT, forwarded=2))
    assert (last.data, end.operation, end.flags) == (b"ur", SHUTDOWN, SEND | RECEIVE)


def test_a_guest_without_buffers_is_served_when_it_has_some(guest: Guest) -> None:
    rig = Rig(guest, buffers=0)
    guest.send(Packet(REQUEST, 9, PORT))
    rig.work()
    rig.host.sendall(b"early")
    rig.work()
    rig.work()
    assert guest.received() == [] and rig.epoll.poll(0) == []
    guest.offer_buffers(1)
    rig.work()
    assert [packet.operation for packet in guest.received()] == [RESPONSE]
    rig.work()
    assert [packet.data for packet in guest.received()] == [b"early"]
    rig.close()


def test_credit_that_is_due_is_not_forgotten_without_buffers(guest: Guest) -> None:
    rig = Rig(guest, buffers=1)
    guest.send(Packet(REQUEST, 9, PORT))
    rig.work()
    guest.received(again=False)
    for operation in (CREDIT_REQUEST, DATA):
        guest.send(Packet(operation, 9, PORT, b"x" if operation == DATA else b""))
    rig.work()
    guest.offer_buffers(1)
    rig.work()
    assert [(packet.operation, packet.forwarded) for packet in guest.received()] == [(CREDIT_UPDATE, 1)]
    rig.close()


def test_a_flood_of_nonsense_waits_for_the_guest_to_take_its_answers(guest: Guest) -> None:
    rig = Rig(guest, buffers=0)
    taken = 0
    for _ in range(4 * RESETS_MAX):
        if taken < RESETS_MAX:
            guest.send(Packet(DATA, 5, PORT, b"of no stream"))
        rig.work()
        taken += guest.sent()
    assert taken == RESETS_MAX
    guest.send(Packet(DATA, 5, PORT))
    rig.work()
    assert guest.sent() == 0, "nothing more is taken"
    guest.offer_buffers(1)
    rig.work()
    assert guest.sent() == 1
    rig.close()


def test_streams_are_bounded(rig: Rig) -> None:
    for port in range(STREAMS_MAX):
        rig.open(port)
    (answer,) = rig.exchange(Packet(REQUEST, STREAMS_MAX, PORT))
    assert answer.operation == RESET and len(rig.device) == STREAMS_MAX


def test_a_busy_stream_leaves_buffers_to_others(rig: Rig) -> None:
    rig.open(1)
    rig.open(2)
    busy, quiet = rig.hosts
    busy.sendall(bytes(40_000))
    quiet.sendall(b"a word")
    assert b"a word" in [packet.data for packet in rig.exchange()][:2]


def test_a_long_transfer_arrives_as_it_was_sent(rig: Rig) -> None:
    """Both ways at once, with less credit than data."""
    rig.open(buffer_bytes=3000)
    rig.host.setblocking(False)
    there, back = bytes(i * 7 & 0xFF for i in range(300_000)), bytes(i * 11 & 0xFF for i in range(200_000))
    got, came = bytearray(), bytearray()
    sent = at = credit = 0
    forwarded = BUFFER_BYTES
    while len(got) < len(there) or len(came) < len(back):
        if at < len(back):
            with contextlib.suppress(BlockingIOError):
                at += rig.host.send(back[at : at + 5000])
        packets: list[Packet | bytes] = [Packet(CREDIT_UPDATE, 1024, PORT, buffer_bytes=3000, forwarded=credit)]
        part = there[sent : min(sent + 20_000, forwarded)]
        if part:
            packets.append(Packet(DATA, 1024, PORT, part, buffer_bytes=3000, forwarded=credit))
            sent += len(part)
        for packet in rig.exchange(*packets):
            assert packet.operation in (DATA, CREDIT_UPDATE)
            came += packet.data
            forwarded = packet.forwarded + BUFFER_BYTES
        credit = len(came)
        with contextlib.suppress(BlockingIOError):
            got += rig.host.recv(30_000)
    assert bytes(got) == there and bytes(came) == back


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Packet(DATA, 1, PORT).encode()[:43], "a packet of 43 bytes"),
        (Packet(DATA, 1, PORT, bytes(65537)).encode(), "a packet of 65581 bytes"),
        (Packet(DATA, 1, PORT, b"abc").encode(length=4), "4 bytes follow, and 3 do"),
    ],
)
def test_a_packet_that_is_none_ends_the_device(rig: Rig, data: bytes, message: str) -> None:
    with pytest.raises(GuestError, match=message):
        rig.exchange(data)


def test_a_packet_in_a_writable_buffer_ends_the_device(rig: Rig) -> None:
    rig.guest.transmit.add([(GUEST_BASE, 44)], WRITE)
    with pytest.raises(GuestError, match="a writable buffer"):
        rig.work()


@pytest.mark.parametrize(("size", "flags"), [(43, WRITE), (100, 0)])
def test_a_buffer_that_takes_no_packet_ends_the_device(guest: Guest, size: int, flags: int) -> None:
    rig = Rig(guest, buffers=0)
    guest.receive.add([(GUEST_BASE, size)], flags)
    guest.send(Packet(REQUEST, 9, PORT))
    with pytest.raises(GuestError, match="cannot be written, or is shorter"):
        rig.work()
    rig.close()


def test_a_buffer_without_room_for_data_ends_the_device(guest: Guest) -> None:
    rig = Rig(guest, buffers=1)
    rig.open(9)
    rig.guest.received()
    rig.device.work()
    taken = rig.device.receive
    assert taken is not None
    while taken.take() is not None:
        pass
    guest.receive.add([(GUEST_BASE, 44)], WRITE)
    rig.host.sendall(b"x")
    with pytest.raises(GuestError, match="without room for data"):
        rig.work()
    rig.close()


PACKETS = st.builds(
    Packet,
    operation=st.integers(0, 9),
    guest_port=st.integers(0, 2),
    host_port=st.sampled_from([PORT, 7001]),
    data=st.binary(max_size=40),
    flags=st.integers(0, 3),
    buffer_bytes=st.sampled_from([0, 10, 1 << 16, 0xFFFFFFFF]),
    forwarded=st.sampled_from([0, 1, 20, 0xFFFFFFFF]),
    host_cid=st.sampled_from([2, 3, 4]),
    guest_cid=st.just(16),
    kind=st.sampled_from([1, 1, 1, 2]),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(steps=st.lists(st.one_of(PACKETS, st.binary(min_size=1, max_size=30)), max_size=30))
def test_no_sequence_of_packets_breaks_the_device(steps: list[Packet | bytes]) -> None:
    """Packets from the guest, bytes from the host, in any order; answers stay well-formed (`decode` sees to that)."""
    guest = Guest()
    rig = Rig(guest)
    for step in steps:
        if isinstance(step, Packet):
            rig.exchange(step)
        elif rig.hosts:
            with contextlib.suppress(OSError):
                rig.host.sendall(step)
    rig.exchange()
    rig.close()
    guest.close()
