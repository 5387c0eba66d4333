import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledgerd.node.vm.errors import GuestError
from ledgerd.node.vm.rings import CHAIN_LENGTH_MAX, Memory, Queue, Region
from support.virtio import GUEST_BASE, INDIRECT, MEMORY_BYTES, NEXT, USER_BASE, WRITE, Guest, queue_places


def memory_of(guest: Guest) -> Memory:
    return Memory([Region(GUEST_BASE, USER_BASE, guest.memory)])


def queue_of(guest: Guest) -> Queue:
    return Queue(memory_of(guest), guest.size, **queue_places(guest.transmit))


def test_a_chain_is_read_in_its_order_and_given_back(guest: Guest) -> None:
    queue = queue_of(guest)
    assert queue.take() is None
    guest.memory[0x100000:0x100008] = b"abcdefgh"
    guest.transmit.describe(5, GUEST_BASE + 0x100000, 3, NEXT, 2)
    guest.transmit.describe(2, GUEST_BASE + 0x100004, 2, NEXT, 9)
    guest.transmit.describe(9, GUEST_BASE + 0x100200, 7, WRITE)
    guest.transmit.chains[5] = [5, 2, 9]
    guest.transmit.offer(5)
    chain = queue.take()
    assert chain is not None
    assert (chain.head, [bytes(part) for part in chain.readable], [len(part) for part in chain.writable]) == (5, [b"abc", b"ef"], [7])
    chain.writable[0][:2] = b"XY"
    assert not queue.given_back
    queue.give_back(chain.head, 2)
    assert queue.given_back
    assert bytes(guest.memory[0x100200:0x100202]) == b"XY"
    assert guest.transmit.returned() == [(5, 2)]
    assert queue.take() is None


def test_a_chain_put_back_comes_again(guest: Guest) -> None:
    queue = queue_of(guest)
    guest.transmit.add([(GUEST_BASE, 4)])
    first = queue.take()
    assert first is not None and queue.take() is None
    queue.put_back()
    assert queue.take() == first


def test_indexes_wrap_at_16_bits(guest: Guest) -> None:
    """Of both rings: after 65535 comes 0."""
    ring = guest.transmit
    ring.index, ring.seen = 0xFFFE, 0xFFFE
    struct.pack_into("<H", guest.memory, ring.used + 2, 0xFFFE)
    queue = Queue(memory_of(guest), guest.size, **queue_places(ring), position=0xFFFE)
    for number in range(5):
        ring.add([(GUEST_BASE, number + 1)])
        chain = queue.take()
        assert chain is not None and len(chain.readable[0]) == number + 1
        queue.give_back(chain.head, number)
        assert ring.returned() == [(chain.head, number)]
    assert ring.index == 3 and queue.position == 3


@pytest.mark.parametrize(
    ("address", "length"),
    [
        (GUEST_BASE - 1, 4),
        (GUEST_BASE + MEMORY_BYTES, 1),
        (GUEST_BASE + MEMORY_BYTES - 3, 4),
        (0, 1),
        (2**64 - 1, 2),
        (GUEST_BASE, 2**32 - 1),
    ],
)
def test_what_the_guest_does_not_have_is_refused(guest: Guest, address: int, length: int) -> None:
    guest.transmit.add([(address, length)])
    with pytest.raises(GuestError, match="which the guest does not have"):
        queue_of(guest).take()


def test_a_chain_in_a_circle_is_refused(guest: Guest) -> None:
    guest.transmit.describe(0, GUEST_BASE, 1, NEXT, 1)
    guest.transmit.describe(1, GUEST_BASE, 1, NEXT, 0)
    guest.transmit.offer(0)
    with pytest.raises(GuestError, match="goes in a circle"):
        queue_of(guest).take()


def test_the_longest_chain_is_taken(guest: Guest) -> None:
    guest.transmit.add([(GUEST_BASE, 1)] * guest.size)
    chain = queue_of(guest).take()
    assert chain is not None and len(chain.readable) == guest.size


def test_a_chain_longer_than_any_packet_needs_is_refused() -> None:
    large = Guest(size=4 * CHAIN_LENGTH_MAX)
    try:
        for count, taken in ((CHAIN_LENGTH_MAX, True), (CHAIN_LENGTH_MAX + 1, False)):
            large.transmit.add([(GUEST_BASE, 1)] * count)
            queue = queue_of(large)
            if taken:
                assert queue.take() is not None
            else:
                queue.position = 1
                with pytest.raises(GuestError, match="holds no packet"):
                    queue.take()
    finally:
        large.close()


@pytest.mark.parametrize("by", ["ring", "chain"])
def test_a_descriptor_outside_of_the_table_is_refused(guest: Guest, by: str) -> None:
    guest.transmit.describe(0, GUEST_BASE, 1, NEXT, guest.size)
    guest.transmit.offer(guest.size if by == "ring" else 0)
    with pytest.raises(GuestError, match=f"descriptor {guest.size} in a queue of {guest.size}"):
        queue_of(guest).take()


def test_an_indirect_descriptor_is_refused(guest: Guest) -> None:
    guest.transmit.describe(0, GUEST_BASE, 16, INDIRECT)
    guest.transmit.offer(0)
    with pytest.raises(GuestError, match="indirect"):
        queue_of(guest).take()


def test_a_readable_buffer_after_a_writable_one_is_refused(guest: Guest) -> None:
    guest.transmit.describe(0, GUEST_BASE, 1, NEXT | WRITE, 1)
    guest.transmit.describe(1, GUEST_BASE, 1)
    guest.transmit.offer(0)
    with pytest.raises(GuestError, match="after a writable one"):
        queue_of(guest).take()


def test_more_chains_than_there_are_descriptors_are_refused(guest: Guest) -> None:
    queue = queue_of(guest)
    guest.transmit.index = guest.size + 1
    with pytest.raises(GuestError, match=f"claims {guest.size + 1} chains"):
        queue.take()


@pytest.mark.parametrize("size", [0, 3, 1 << 16])
def test_a_queue_of_a_wrong_size_is_refused(guest: Guest, size: int) -> None:
    with pytest.raises(GuestError, match="power of two"):
        Queue(memory_of(guest), size, **queue_places(guest.transmit))


@pytest.mark.parametrize("part", ["descriptors", "available", "used"])
def test_a_ring_outside_of_memory_is_refused(guest: Guest, part: str) -> None:
    with pytest.raises(GuestError, match="outside of the guest's memory"):
        Queue(memory_of(guest), guest.size, **{**queue_places(guest.transmit), part: USER_BASE + MEMORY_BYTES - 2})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(table=st.binary(min_size=256, max_size=256), available=st.binary(min_size=36, max_size=36))
def test_whatever_stands_in_the_rings_is_read_or_refused(guest: Guest, table: bytes, available: bytes) -> None:
    """Never another exception; and what is read lies in the guest's memory, since it is a view of it."""
    queue = queue_of(guest)
    ring = guest.transmit
    guest.memory[ring.table : ring.table + 256] = table
    guest.memory[ring.available : ring.available + 36] = available
    try:
        for _ in range(guest.size):
            chain = queue.take()
            if chain is None:
                break
            assert sum(map(len, chain.readable + chain.writable)) <= guest.size * MEMORY_BYTES
    except GuestError:
        pass
