"""The guest's memory, and the split virtqueues in it.

Law: nothing that stands in the guest's memory is believed. Every address is checked against what the guest has, every index against its
ring, every chain against a length; the first wrong one is a `GuestError`. A field is read once and used as it was read, since the
guest may change it at any time.
Memory order: the processor keeps stores in order (x86), and between a store and a look at the other side there is always a system call.
So the guest is always told, whatever its flags ask for, and no barrier is needed that Python does not have.
Source: VIRTIO 1.2, section 2.7 (split virtqueues).
"""

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from ledgerd.node.vm.errors import GuestError

QUEUE_SIZE_MAX: Final = 1 << 15
CHAIN_LENGTH_MAX: Final = 64  # a packet of 64 KiB in single pages, and its header, take 17; bounds the work that one chain can cause
_DESCRIPTOR: Final = struct.Struct("<QIHH")  # address, length, flags, next
_USED: Final = struct.Struct("<II")  # head of the chain, bytes written
_NEXT: Final = 1
_WRITE: Final = 2
_INDIRECT: Final = 4


class Region(NamedTuple):
    """A stretch of the guest's memory.

    Attributes:
        guest: Where the guest sees it begin.
        user: Where the monitor (QEMU) does: rings are named by its addresses.
        data: The bytes, shared and writable.
    """

    guest: int
    user: int
    data: memoryview


class Memory:
    """All regions of a guest."""

    def __init__(self, regions: Sequence[Region]) -> None:
        self._regions = tuple(regions)

    def guest(self, address: int, size: int) -> memoryview:
        """Bytes at an address of the guest's. Raises: GuestError: They are not all in one region."""
        for region in self._regions:
            start = address - region.guest
            if start >= 0 and start + size <= len(region.data):
                return region.data[start : start + size]
        raise GuestError(f"a descriptor names {size} bytes at {address:#x}, which the guest does not have")

    def user(self, address: int, size: int) -> memoryview:
        """Bytes at an address of the monitor's. Raises: GuestError: They are not all in one region."""
        for region in self._regions:
            start = address - region.user
            if start >= 0 and start + size <= len(region.data):
                return region.data[start : start + size]
        raise GuestError(f"a ring is said to lie at {address:#x}, outside of the guest's memory")


class Chain(NamedTuple):
    """Buffers that the guest handed over together.

    Attributes:
        head: Names the chain when it is given back.
        readable: What the guest wrote.
        writable: Where we may write.
    """

    head: int
    readable: tuple[memoryview, ...]
    writable: tuple[memoryview, ...]


class Queue:
    """One virtqueue, seen from the device.

    Args:
        memory: Of the guest.
        size: Number of descriptors, a power of two.
        descriptors, available, used: Where the three parts lie, in the monitor's addresses.
        position: Which entry of `available` comes next.
    Attributes:
        given_back: Chains were given back since the guest was last told.
    """

    def __init__(self, memory: Memory, size: int, *, descriptors: int, available: int, used: int, position: int = 0) -> None:
        if not 0 < size <= QUEUE_SIZE_MAX or size & (size - 1):
            raise GuestError(f"a queue of {size} descriptors; the number must be a power of two, at most {QUEUE_SIZE_MAX}")
        self._memory = memory
        self._size = size
        self._mask = size - 1
        self._descriptors = memory.user(descriptors, size * _DESCRIPTOR.size)
        # As arrays of 16 bits, so that an index is read and written in one piece. [0] flags, [1] index, then the ring.
        self._available = memory.user(available, 4 + 2 * size).cast("H")
        self._used_index = memory.user(used, 4).cast("H")
        self._used = memory.user(used + 4, size * _USED.size)
        self.position = position & 0xFFFF
        self.given_back = False

    def take(self) -> Chain | None:
        """The next chain, or None. Raises: GuestError: It, or the ring, is not well-formed."""
        waiting = (self._available[1] - self.position) & 0xFFFF
        if not waiting:
            return None
        if waiting > self._size:
            raise GuestError(f"a queue of {self._size} claims {waiting} chains")
        head = self._available[2 + (self.position & self._mask)]
        chain = self._read(head)
        self.position = (self.position + 1) & 0xFFFF
        return chain

    def put_back(self) -> None:
        """Leave the chain that was taken last where it was, unused."""
        self.position = (self.position - 1) & 0xFFFF

    def _read(self, head: int) -> Chain:
        readable: list[memoryview] = []
        writable: list[memoryview] = []
        number = head
        for _ in range(min(self._size, CHAIN_LENGTH_MAX)):
            if number >= self._size:
                raise GuestError(f"descriptor {number} in a queue of {self._size}")
            address, length, flags, following = _DESCRIPTOR.unpack_from(self._descriptors, number * _DESCRIPTOR.size)
            if flags & _INDIRECT:
                raise GuestError("an indirect descriptor, which was not agreed on")
            if flags & _WRITE:
                writable.append(self._memory.guest(address, length))
            elif writable:
                raise GuestError("a chain with a readable buffer after a writable one")
            else:
                readable.append(self._memory.guest(address, length))
            if not flags & _NEXT:
                return Chain(head, tuple(readable), tuple(writable))
            number = following
        raise GuestError(f"a chain of more than {min(self._size, CHAIN_LENGTH_MAX)} descriptors: it goes in a circle, or holds no packet")

    def give_back(self, head: int, written: int) -> None:
        """Return a chain, with so many bytes written; the guest has yet to be told."""
        index = self._used_index[1]
        _USED.pack_into(self._used, (index & self._mask) * _USED.size, head, written)
        self._used_index[1] = (index + 1) & 0xFFFF
        self.given_back = True
