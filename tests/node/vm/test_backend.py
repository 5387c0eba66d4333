import os
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from ledgerd.node.vm.backend import GUEST_CID, Backend
from ledgerd.node.vm.rings import Chain
from support.processes import wait_for
from support.virtio import DATA, GUEST_BASE, MEMORY_BYTES, REQUEST, RESET, RESPONSE, USER_BASE, Guest, Monitor, Packet

SECONDS_MAX = 120.0
PORT = 7000


class Machine:
    """A backend, and its guest as QEMU would hand it over."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        ours, theirs = socket.socketpair()
        ours.settimeout(SECONDS_MAX)
        self.host, self.end = socket.socketpair()
        self.host.settimeout(SECONDS_MAX)
        self.ended = threading.Event()
        self.ports = {PORT: self.end}
        self.monitor = Monitor(ours, guest)
        self.backend = Backend(theirs, lambda port: self.ports.pop(port, None), self.ended.set)

    def close(self) -> None:
        self.backend.close()
        self.monitor.close()
        self.host.close()
        self.end.close()

    def next(self) -> Packet:
        """The next packet from the host."""
        while True:
            self.monitor.wait_call(0)
            packets = self.guest.received()
            self.monitor.kick(0)
            if packets:
                (packet,) = packets
                return packet

    def open(self) -> None:
        self.guest.offer_buffers(4)
        self.guest.send(Packet(REQUEST, 1024, PORT))
        self.monitor.kick(1)
        assert self.next().operation == RESPONSE


@pytest.fixture
def machine(guest: Guest) -> Iterator[Machine]:
    made = Machine(guest)
    yield made
    made.close()


def test_a_guest_that_is_handed_over_reaches_its_host(machine: Machine) -> None:
    assert machine.monitor.set_up() == GUEST_CID
    machine.open()
    machine.guest.send(Packet(DATA, 1024, PORT, b"from the guest"))
    machine.monitor.kick(1)
    assert machine.host.recv(100) == b"from the guest"
    machine.host.sendall(b"from the host")
    assert machine.next().data == b"from the host"
    machine.guest.send(Packet(REQUEST, 1025, PORT))
    machine.monitor.kick(1)
    assert machine.next().operation == RESET, "the port is taken"


def test_a_queue_that_is_stopped_goes_on_where_it_was(machine: Machine) -> None:
    """With another bell of the same number: QEMU does so when a driver resets its device."""
    machine.monitor.set_up()
    machine.open()
    assert machine.monitor.ask(11, struct.pack("=II", 1, 0)) == struct.pack("=II", 1, 1), "one packet was taken"
    machine.monitor.kick(1)
    wait_for(lambda: machine.backend._epoll.poll(0) == [], "the old bell, which QEMU still holds, is heard no more", SECONDS_MAX)
    bell = os.eventfd(0, os.EFD_NONBLOCK)
    old, machine.monitor.kicks[1] = machine.monitor.kicks[1], bell
    machine.monitor.tell(12, struct.pack("=Q", 1), bell)
    machine.guest.send(Packet(DATA, 1024, PORT, b"after"))
    machine.monitor.kick(1)
    assert machine.host.recv(100) == b"after"
    os.close(old)


def test_a_queue_that_is_not_enabled_is_left_alone(machine: Machine) -> None:
    machine.monitor.set_up()
    machine.monitor.tell(18, struct.pack("=II", 1, 0))
    machine.monitor.number(1)  # answered after all that came before
    machine.guest.offer_buffers(4)
    machine.guest.send(Packet(REQUEST, 1024, PORT))
    machine.monitor.kick(1)
    machine.monitor.number(1)  # answered after all that came before
    assert machine.guest.sent() == 0
    machine.monitor.tell(18, struct.pack("=II", 1, 1))
    assert machine.next().operation == RESPONSE


def test_the_end_of_qemu_ends_the_link(machine: Machine) -> None:
    machine.monitor.set_up()
    machine.open()
    machine.monitor.socket.close()
    assert machine.host.recv(1) == b""
    assert machine.ended.wait(SECONDS_MAX)


def test_a_guest_that_breaks_its_queue_loses_its_link_and_nothing_else(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    machine.monitor.set_up()
    machine.open()
    machine.guest.transmit.index = machine.guest.transmit.index + 1000
    machine.monitor.kick(1)
    assert machine.host.recv(1) == b""
    assert machine.ended.wait(SECONDS_MAX)
    assert "cut off: a queue of 16 claims 1000 chains" in caplog.text


def test_a_guest_that_always_has_more_keeps_nobody_from_anything(machine: Machine) -> None:
    """Its own stream goes on, and the host can still end it."""
    machine.monitor.set_up()
    machine.open()
    queue = machine.backend._device.transmit
    assert queue is not None
    nonsense = Chain(0, (memoryview(Packet(RESET, 9, 9).encode()),), ())
    queue.take = lambda: nonsense  # type: ignore[method-assign]
    machine.monitor.kick(1)
    machine.host.sendall(b"still heard")
    assert machine.next().data == b"still heard"
    machine.backend.close()
    assert machine.ended.is_set()


def test_closing_ends_the_thread_and_may_be_done_twice(machine: Machine) -> None:
    machine.monitor.set_up()
    machine.open()
    machine.backend.close()
    machine.backend.close()
    assert machine.ended.is_set()
    assert machine.host.recv(1) == b""


def region(offset: int = 0, count: int = 1) -> bytes:
    return struct.pack("=II4Q", count, 0, GUEST_BASE, MEMORY_BYTES, USER_BASE, offset)


@pytest.mark.parametrize(
    ("request_number", "payload", "message"),
    [
        (0, b"", "message 0 with 0 bytes, which is not understood"),
        (6, b"", "message 6 with 0 bytes"),
        (2, b"1234", "message 2 with 4 bytes"),
        (8, struct.pack("=II", 2, 16), "queue 2; there are 2"),
        (12, struct.pack("=Q", 1 << 8), "to be polled"),
        (12, struct.pack("=Q", 0), "to be polled"),
        (5, region(), "1 regions of memory and sends 0 descriptors"),
        (5, region(count=9), "9 regions"),
    ],
)
def test_a_message_that_is_not_understood_ends_the_machine(
    machine: Machine, caplog: pytest.LogCaptureFixture, request_number: int, payload: bytes, message: str
) -> None:
    machine.monitor.tell(request_number, payload)
    assert machine.ended.wait(SECONDS_MAX)
    assert message in caplog.text


def test_memory_that_is_not_there_ends_the_machine(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    """Else it would end this process when it is touched."""
    machine.monitor.tell(5, region(offset=4096), machine.guest.descriptor)
    assert machine.ended.wait(SECONDS_MAX)
    assert "cannot be mapped" in caplog.text or "not understood" in caplog.text


@pytest.mark.parametrize("head", [struct.pack("=III", 1, 2, 0), struct.pack("=III", 1, 1, 1 << 20)])
def test_a_head_of_another_protocol_ends_the_machine(machine: Machine, caplog: pytest.LogCaptureFixture, head: bytes) -> None:
    machine.monitor.socket.sendall(head)
    assert machine.ended.wait(SECONDS_MAX)
    assert "not of this protocol" in caplog.text


def test_an_end_within_a_message_ends_the_machine(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    machine.monitor.socket.sendall(struct.pack("=III", 2, 1, 8) + b"1234")
    machine.monitor.socket.shutdown(socket.SHUT_WR)
    assert machine.ended.wait(SECONDS_MAX)
    assert "in the middle of a message" in caplog.text


def test_a_message_may_come_in_pieces(machine: Machine) -> None:
    whole = struct.pack("=IIIQ", 2, 1, 8, 1 << 32)
    for at in range(len(whole)):
        machine.monitor.socket.sendall(whole[at : at + 1])
    assert machine.monitor.number(15) == 1 << 9


def test_nothing_is_left_open(guest: Guest) -> None:
    before = set(os.listdir("/proc/self/fd"))
    machine = Machine(guest)
    machine.monitor.set_up()
    machine.open()
    machine.close()
    assert set(os.listdir("/proc/self/fd")) <= before
