"""What stands in for TLS refuses what TLS refuses; and copies of memories share nothing that changes."""

from typing import Any

import pytest

from support.simulation.copying import allow, copied, fields, put
from support.simulation.stand_in_tls import Connection, Context


def connected() -> tuple[Connection, Connection]:
    """A client and a server, after their handshake."""
    server = Context((), (), is_server=True, wants_certificate=False).connection()
    client = Context((), (), is_server=False, wants_certificate=True).connection(lambda chain: None)
    for _ in range(2):
        server.feed(client.take_output())
        client.feed(server.take_output())
    assert client.established and server.established
    return client, server


def test_records_arrive_in_order() -> None:
    client, server = connected()
    client.write(b"one")
    client.write(b"two")
    assert server.feed(client.take_output()) == [b"one", b"two"]


@pytest.mark.parametrize("at", range(17))
def test_a_changed_byte_ends_the_connection(at: int) -> None:
    client, server = connected()
    client.write(b"text")
    record = bytearray(client.take_output())
    record[at] ^= 1
    assert server.feed(bytes(record) + bytes(512)) == [] and server.error is not None


def test_a_record_out_of_its_place_ends_the_connection() -> None:
    client, server = connected()
    client.write(b"one")
    first = client.take_output()
    client.write(b"one")
    second = client.take_output()
    for reader, record in ((connected()[1], first), (client, first), (connected()[1], second)):  # of another connection, reflected
        assert reader.feed(record) == [] and reader.error is not None
    assert server.feed(first) == [b"one"]
    assert server.feed(first) == [] and server.error is not None  # repeated


def test_a_record_that_overtakes_another_ends_the_connection() -> None:
    client, server = connected()
    client.write(b"one")
    client.take_output()
    client.write(b"one")
    assert server.feed(client.take_output()) == [] and server.error is not None


class Slotted:
    """Of two kinds of fields, some without a value."""

    __slots__ = ("empty", "items")
    empty: int

    def __init__(self) -> None:
        self.items = [1]


class Holder:
    """Holds another one, and itself."""

    def __init__(self, shared: list[int]) -> None:
        self.slotted = Slotted()
        self.shared = shared
        self.itself = self


def test_a_copy_has_all_that_the_object_holds_but_what_is_shared() -> None:
    shared = [0]
    holder = Holder(shared)
    made = copied(holder, {id(shared): shared})
    assert made is made.itself is not holder and made.shared is shared
    holder.slotted.items.append(2)
    assert made.slotted.items == [1] and fields(made.slotted) == ["items"]
    put(holder, made)
    assert holder.slotted is made.slotted


class Compiled:
    """Says of itself what a compiled class says, and cannot be taken apart by Python."""

    __mypyc_attrs__ = ("items", "empty")
    empty: int

    def __init__(self, items: list[int]) -> None:
        self.items = items

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


def test_a_compiled_object_is_copied_where_it_is_allowed() -> None:
    with pytest.raises(TypeError):
        copied(Compiled([1]), {})
    allow(Compiled, lambda: Compiled([]))
    first = Compiled([1])
    second = copied(first, {})
    first.items.append(2)
    assert second.items == [1]
