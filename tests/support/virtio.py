"""The guest's side of a vsock device, in a test: a driver that lays out queues in shared memory, and speaks vhost-user as QEMU does.

Written against the VIRTIO text and not against `node.vm`, whose other side it is.
"""

import mmap
import os
import socket
import struct
from typing import Any, Final, NamedTuple

MEMORY_BYTES: Final = 4 << 20
GUEST_BASE: Final = 0x100000
USER_BASE: Final = 0x7F00_0000_0000
CID: Final = 16
NEXT, WRITE, INDIRECT = 1, 2, 4
REQUEST, RESPONSE, RESET, SHUTDOWN, DATA, CREDIT_UPDATE, CREDIT_REQUEST = range(1, 8)
_HEADER: Final = "<QQIIIHHIII"
_DATA_AREA: Final = 1 << 20  # buffers begin here; rings lie below


class Packet(NamedTuple):
    """One packet, with what a test looks at."""

    operation: int
    guest_port: int
    host_port: int
    data: bytes = b""
    flags: int = 0
    buffer_bytes: int = 1 << 16
    forwarded: int = 0
    host_cid: int = 3
    guest_cid: int = CID
    kind: int = 1

    def encode(self, length: int | None = None) -> bytes:
        """As the guest sends it; `length` lies about the data."""
        said = len(self.data) if length is None else length
        numbers = (self.guest_cid, self.host_cid, self.guest_port, self.host_port, said, self.kind, self.operation)
        return struct.pack(_HEADER, *numbers, self.flags, self.buffer_bytes, self.forwarded) + self.data


def decode(data: bytes) -> Packet:
    """As the guest receives it."""
    source, target, host_port, guest_port, length, kind, operation, flags, buffer_bytes, forwarded = struct.unpack_from(_HEADER, data)
    assert len(data) == 44 + length
    return Packet(operation, guest_port, host_port, data[44:], flags, buffer_bytes, forwarded, source, target, kind)


class Ring:
    """A driver's side of one queue, of `size` descriptors, at an offset in memory."""

    def __init__(self, memory: memoryview, at: int, size: int) -> None:
        self.memory = memory
        self.size = size
        self.table, self.available, self.used = at, at + 16 * size, at + 16 * size + 4 + 2 * size + 2
        self.used += -self.used % 4
        self.seen = 0
        self.free = list(range(size))
        self.chains: dict[int, list[int]] = {}

    def describe(self, number: int, address: int, length: int, flags: int = 0, following: int = 0) -> None:
        """Write one descriptor, whatever it says."""
        struct.pack_into("<QIHH", self.memory, self.table + 16 * number, address, length, flags, following)

    def offer(self, head: int) -> None:
        """Put a chain into the ring of available ones."""
        index = self.index
        struct.pack_into("<H", self.memory, self.available + 4 + 2 * (index % self.size), head)
        self.index = index + 1

    @property
    def index(self) -> int:
        """How many chains were ever offered, modulo 2^16."""
        return int(struct.unpack_from("<H", self.memory, self.available + 2)[0])

    @index.setter
    def index(self, value: int) -> None:
        struct.pack_into("<H", self.memory, self.available + 2, value & 0xFFFF)

    def add(self, buffers: list[tuple[int, int]], flags: int = 0) -> int:
        """Offer a well-formed chain of (guest address, length); its head."""
        numbers = [self.free.pop(0) for _ in buffers]
        for place, (number, (address, length)) in enumerate(zip(numbers, buffers, strict=True)):
            last = place == len(buffers) - 1
            self.describe(number, address, length, flags | (0 if last else NEXT), 0 if last else numbers[place + 1])
        self.chains[numbers[0]] = numbers
        self.offer(numbers[0])
        return numbers[0]

    def returned(self) -> list[tuple[int, int]]:
        """Chains that came back since the last call: (head, bytes written)."""
        found = []
        while self.seen != struct.unpack_from("<H", self.memory, self.used + 2)[0]:
            head, written = struct.unpack_from("<II", self.memory, self.used + 4 + 8 * (self.seen % self.size))
            self.free.extend(self.chains.pop(head))
            found.append((head, written))
            self.seen = (self.seen + 1) & 0xFFFF
        return found


class Guest:
    """A guest with a receive and a transmit queue.

    Args:
        size: Descriptors of each.
        buffer_bytes: Of each receive buffer's data part.
    """

    def __init__(self, size: int = 16, buffer_bytes: int = 4096) -> None:
        self.descriptor = os.memfd_create("guest")
        os.ftruncate(self.descriptor, MEMORY_BYTES)
        self.memory = memoryview(mmap.mmap(self.descriptor, MEMORY_BYTES))
        self.receive = Ring(self.memory, 0x1000, size)
        self.transmit = Ring(self.memory, 0x21000, size)
        self.size = size
        self.buffer_bytes = buffer_bytes
        self._places: dict[int, int] = {}
        self._slots = [_DATA_AREA + number * (1 << 17) for number in range(8)]  # for packets to the host: one each
        self._free = [(2 << 20) + number * (1 << 15) for number in range(size // 2)]  # for packets from it
        self._sending: dict[int, int] = {}

    def close(self) -> None:
        """Give its memory back."""
        os.close(self.descriptor)

    def guest(self, offset: int) -> int:
        """A guest's address."""
        return GUEST_BASE + offset

    def offer_buffers(self, count: int) -> None:
        """Offer buffers for packets from the host, as Linux does: a header's, and one for data."""
        for _ in range(count):
            at = self._free.pop(0)
            head = self.receive.add([(self.guest(at), 44), (self.guest(at + 64), self.buffer_bytes)], WRITE)
            self._places[head] = at

    def send(self, packet: Packet | bytes) -> None:
        """Offer a packet to the host, in two buffers if it has data."""
        data = packet.encode() if isinstance(packet, Packet) else packet
        at = self._slots.pop(0)
        self.memory[at : at + len(data)] = data
        buffers = [(self.guest(at), min(44, len(data)))]
        if len(data) > 44:
            buffers.append((self.guest(at + 44), len(data) - 44))
        self._sending[self.transmit.add(buffers)] = at

    def sent(self) -> int:
        """How many packets the host has taken since the last call."""
        returned = self.transmit.returned()
        self._slots.extend(self._sending.pop(head) for head, _ in returned)
        return len(returned)

    def received(self, again: bool = True) -> list[Packet]:
        """Packets from the host since the last call; their buffers are offered again unless told."""
        found = []
        for head, written in self.receive.returned():
            at = self._places.pop(head)
            data = bytes(self.memory[at : at + 44]) + bytes(self.memory[at + 64 : at + 64 + written - 44])
            found.append(decode(data))
            self._free.append(at)
        if again:
            self.offer_buffers(len(found))
        return found


class Monitor:
    """QEMU's part: hands a guest over by vhost-user, and rings.

    Args:
        sock: Connected to the backend.
        guest: Who is handed over.
    """

    def __init__(self, sock: socket.socket, guest: Guest) -> None:
        self.socket = sock
        self.guest = guest
        self.kicks = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2)]
        self.calls = [os.eventfd(0) for _ in range(2)]

    def close(self) -> None:
        """Give everything back."""
        for descriptor in (*self.kicks, *self.calls):
            os.close(descriptor)
        self.socket.close()

    def tell(self, request: int, payload: bytes, *descriptors: int, flags: int = 1) -> None:
        """Send one message."""
        socket.send_fds(self.socket, [struct.pack("=III", request, flags, len(payload)) + payload], list(descriptors))

    def ask(self, request: int, payload: bytes = b"") -> bytes:
        """Send one message and read its answer."""
        self.tell(request, payload)
        number, flags, size = struct.unpack("=III", self.socket.recv(12, socket.MSG_WAITALL))
        assert (number, flags) == (request, 5)
        return self.socket.recv(size, socket.MSG_WAITALL) if size else b""

    def number(self, request: int) -> int:
        """A message whose answer is one number."""
        return int(struct.unpack("=Q", self.ask(request))[0])

    def share_memory(self) -> None:
        """Send where the guest's memory is."""
        region = struct.pack("=II4Q", 1, 0, GUEST_BASE, MEMORY_BYTES, USER_BASE, 0)
        self.tell(5, region, self.guest.descriptor)

    def set_up(self) -> int:
        """All that QEMU says until the device runs; the context id that the guest is told."""
        features = self.number(1)
        assert features >> 32 & 1 and features >> 30 & 1
        assert self.number(15) == 1 << 9
        self.tell(16, struct.pack("=Q", 1 << 9))
        self.tell(3, b"")
        config = self.ask(24, struct.pack("=III8x", 0, 8, 0))
        self.tell(2, struct.pack("=Q", 1 << 32 | 1 << 30))
        self.share_memory()
        for number, ring in enumerate((self.guest.receive, self.guest.transmit)):
            self.tell(8, struct.pack("=II", number, ring.size))
            self.tell(10, struct.pack("=II", number, 0))
            places = (USER_BASE + ring.table, USER_BASE + ring.used, USER_BASE + ring.available)
            self.tell(9, struct.pack("=IIQQQQ", number, 0, *places, 0))
            self.tell(12, struct.pack("=Q", number), self.kicks[number])
            self.tell(13, struct.pack("=Q", number), self.calls[number])
            self.tell(18, struct.pack("=II", number, 1))
        return int.from_bytes(config[12:], "little")

    def kick(self, number: int) -> None:
        """The guest rings: 0 for new buffers, 1 for new packets."""
        os.eventfd_write(self.kicks[number], 1)

    def wait_call(self, number: int) -> None:
        """Wait until the device rings back."""
        os.eventfd_read(self.calls[number])


def queue_places(ring: Ring) -> dict[str, Any]:
    """Where a device finds a queue."""
    return {"descriptors": USER_BASE + ring.table, "available": USER_BASE + ring.available, "used": USER_BASE + ring.used}
