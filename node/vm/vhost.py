"""How QEMU hands a device over: vhost-user messages on a UNIX socket, with descriptors of the guest's memory and of its bells.

Only what a vsock device of QEMU's needs is understood. The monitor is our own child; a message that cannot be understood is told and ends
the machine, since nothing sensible can follow.
Source: QEMU's vhost-user protocol description; VIRTIO 1.2, section 5.10.
"""

import contextlib
import mmap
import os
import select
import socket
import struct
from enum import IntEnum
from typing import Final

from ledgerd.node.vm.errors import GuestError
from ledgerd.node.vm.rings import Memory, Queue, Region

REGIONS_MAX: Final = 8
QUEUES: Final = 2  # receive, transmit; the third, of events, QEMU keeps to itself
MESSAGE_BYTES_MAX: Final = 4096
MESSAGE_SECONDS_MAX: Final = 5.0  # for the rest of one that has begun
_HEAD: Final = struct.Struct("=III")  # request, flags, size of what follows
_U64: Final = struct.Struct("=Q")
_STATE: Final = struct.Struct("=II")  # queue, number
_ADDRESSES: Final = struct.Struct("=IIQQQQ")  # queue, flags, descriptors, used, available, log
_REGION: Final = struct.Struct("=QQQQ")  # guest address, size, monitor's address, offset in the file
_CONFIG: Final = struct.Struct("=III")  # offset, size, flags
_VERSION: Final = 1
_REPLY: Final = 4
_NO_DESCRIPTOR: Final = 1 << 8

_FEATURE_PROTOCOL: Final = 1 << 30
_FEATURES: Final = 1 << 32 | _FEATURE_PROTOCOL  # VIRTIO_F_VERSION_1
_PROTOCOL_FEATURES: Final = 1 << 9  # CONFIG: the device tells its configuration


class Request(IntEnum):
    """The messages that are understood."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    SET_MEMORY = 5
    SET_QUEUE_SIZE = 8
    SET_QUEUE_ADDRESSES = 9
    SET_QUEUE_POSITION = 10
    GET_QUEUE_POSITION = 11
    SET_QUEUE_KICK = 12
    SET_QUEUE_CALL = 13
    SET_QUEUE_ERROR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    SET_QUEUE_ENABLE = 18
    GET_CONFIG = 24


class _Ring:
    """What is known of one queue while it is set up."""

    def __init__(self) -> None:
        self.size = 0
        self.position = 0
        self.addresses: tuple[int, int, int] | None = None  # descriptors, used, available
        self.kick: int | None = None
        self.call: int | None = None
        self.enabled = False
        self.queue: Queue | None = None


class Monitor:
    """QEMU's end of the device.

    Args:
        sock: Connected to it.
        cid: What the guest is told to be its context id.
        epoll: Told of the descriptors by which the guest rings.
    """

    def __init__(self, sock: socket.socket, cid: int, epoll: select.epoll) -> None:
        sock.settimeout(MESSAGE_SECONDS_MAX)
        self._epoll = epoll
        self._socket = sock
        self._cid = cid
        self._memory: Memory | None = None
        self._needs_enabling = False
        self._rings = [_Ring() for _ in range(QUEUES)]

    def fileno(self) -> int:
        """What to wait for."""
        return self._socket.fileno()

    @property
    def queues(self) -> tuple[Queue | None, ...]:
        """Receive and transmit, as far as they are started."""
        return tuple(ring.queue for ring in self._rings)

    def kicked(self, descriptor: int) -> bool:
        """Silence the guest's bell, if this is one."""
        if all(ring.kick != descriptor for ring in self._rings):
            return False
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(descriptor)
        return True

    def ring_back(self) -> None:
        """Tell the guest of what was given back to it."""
        for ring in self._rings:
            if ring.queue is not None and ring.queue.given_back and ring.call is not None:
                ring.queue.given_back = False
                os.eventfd_write(ring.call, 1)

    def close(self) -> None:
        """Give everything back."""
        for ring in self._rings:
            ring.queue = None
            self._set_kick(ring, None)
            ring.call = _replace(ring.call, None)
        self._memory = None
        self._socket.close()

    def handle(self) -> bool:
        """Take one message, which is there; False if QEMU is gone.

        Raises: GuestError: It cannot be understood. OSError: QEMU is gone in the middle of it.
        """
        head, descriptors, _, _ = socket.recv_fds(self._socket, _HEAD.size, REGIONS_MAX)
        try:
            if not head:
                return False
            request, flags, size = _HEAD.unpack(head + self._read(_HEAD.size - len(head)))
            if size > MESSAGE_BYTES_MAX or flags & 3 != _VERSION:
                raise GuestError(f"QEMU sent message {request} with {size} bytes and flags {flags:#x}, which is not of this protocol")
            try:
                self._handle(Request(request), self._read(size), descriptors)
            except (ValueError, struct.error):
                raise GuestError(f"QEMU sent message {request} with {size} bytes, which is not understood here") from None
        finally:
            for descriptor in descriptors:  # those that were taken are no longer in the list
                os.close(descriptor)
        return True

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._socket.recv(size - len(data))
            if not part:
                raise ConnectionError("QEMU closed its socket in the middle of a message")
            data += part
        return data

    def _answer(self, request: Request, payload: bytes) -> None:
        self._socket.sendall(_HEAD.pack(request, _VERSION | _REPLY, len(payload)) + payload)

    def _ring(self, number: int) -> _Ring:
        if number >= QUEUES:
            raise GuestError(f"QEMU speaks of queue {number}; there are {QUEUES}")
        return self._rings[number]

    def _handle(self, request: Request, payload: bytes, descriptors: list[int]) -> None:
        match request:
            case Request.GET_FEATURES:
                self._answer(request, _U64.pack(_FEATURES))
            case Request.SET_FEATURES:
                self._needs_enabling = bool(_U64.unpack(payload)[0] & _FEATURE_PROTOCOL)
            case Request.GET_PROTOCOL_FEATURES:
                self._answer(request, _U64.pack(_PROTOCOL_FEATURES))
            case Request.SET_OWNER | Request.SET_PROTOCOL_FEATURES:
                pass
            case Request.GET_CONFIG:
                offset, size, _ = _CONFIG.unpack_from(payload)
                if size != len(payload) - _CONFIG.size:
                    raise GuestError(
                        f"QEMU asks for {size} bytes of the device's configuration, with room for {len(payload) - _CONFIG.size}"
                    )
                config = self._cid.to_bytes(8, "little")[offset : offset + size]
                self._answer(request, payload[: _CONFIG.size] + config.ljust(size, b"\0"))
            case Request.SET_MEMORY:
                self._set_memory(payload, descriptors)
            case Request.SET_QUEUE_SIZE | Request.SET_QUEUE_POSITION | Request.GET_QUEUE_POSITION | Request.SET_QUEUE_ENABLE:
                self._set_state(request, *_STATE.unpack(payload))
            case Request.SET_QUEUE_ADDRESSES:
                number, _, table, used, available, _ = _ADDRESSES.unpack(payload)
                self._ring(number).addresses = (table, used, available)
            case Request.SET_QUEUE_KICK | Request.SET_QUEUE_CALL | Request.SET_QUEUE_ERROR:
                self._set_bell(request, _U64.unpack(payload)[0], descriptors)

    def _set_memory(self, payload: bytes, descriptors: list[int]) -> None:
        count = _STATE.unpack_from(payload)[0]
        if count > REGIONS_MAX or count != len(descriptors):
            raise GuestError(f"QEMU tells of {count} regions of memory and sends {len(descriptors)} descriptors")
        regions = []
        for number, descriptor in enumerate(descriptors):
            guest, size, user, offset = _REGION.unpack_from(payload, _STATE.size + number * _REGION.size)
            try:
                mapped = memoryview(mmap.mmap(descriptor, offset + size))
            except (OSError, OverflowError) as error:
                raise GuestError(f"{size} bytes of the guest's memory cannot be mapped: {error}") from None
            regions.append(Region(guest, user, mapped[offset:]))
        self._memory = Memory(regions)
        for ring in self._rings:
            if ring.queue is not None:
                ring.position, ring.queue = ring.queue.position, None
                self._start(ring)

    def _set_state(self, request: Request, number: int, value: int) -> None:
        ring = self._ring(number)
        match request:
            case Request.SET_QUEUE_SIZE:
                ring.size = value
            case Request.SET_QUEUE_POSITION:
                ring.position = value
            case Request.SET_QUEUE_ENABLE:
                ring.enabled = bool(value)
                self._start(ring)
            case Request.GET_QUEUE_POSITION:  # and stop
                if ring.queue is not None:
                    ring.position, ring.queue = ring.queue.position, None
                self._set_kick(ring, None)
                self._answer(request, _STATE.pack(number, ring.position))

    def _set_bell(self, request: Request, value: int, descriptors: list[int]) -> None:
        ring = self._ring(value & 0xFF)
        given = None if value & _NO_DESCRIPTOR else descriptors.pop(0) if descriptors else None
        if given is None and request is Request.SET_QUEUE_KICK:
            raise GuestError("QEMU wants a queue to be polled, which is not offered")
        match request:
            case Request.SET_QUEUE_KICK:
                assert given is not None, "refused above"
                self._set_kick(ring, given)
                self._start(ring)
            case Request.SET_QUEUE_CALL:
                ring.call = _replace(ring.call, given)
                if ring.queue is not None:
                    ring.queue.given_back = True  # what was given back before this bell was there
            case _:
                _replace(given, None)

    def _set_kick(self, ring: _Ring, given: int | None) -> None:
        if ring.kick is not None:
            self._epoll.unregister(ring.kick)  # closing does not: QEMU still holds the other end open
        ring.kick = _replace(ring.kick, given)
        if given is not None:
            self._epoll.register(given, select.EPOLLIN)

    def _start(self, ring: _Ring) -> None:
        """Open a queue once all is known of it."""
        if ring.queue is not None and not ring.enabled and self._needs_enabling:
            ring.position, ring.queue = ring.queue.position, None
        if ring.queue is not None or ring.kick is None or ring.addresses is None or self._memory is None:
            return
        if self._needs_enabling and not ring.enabled:
            return
        table, used, available = ring.addresses
        ring.queue = Queue(self._memory, ring.size, descriptors=table, available=available, used=used, position=ring.position)


def _replace(old: int | None, new: int | None) -> int | None:
    if old is not None:
        os.close(old)
    return new
