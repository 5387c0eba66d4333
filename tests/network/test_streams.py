import select
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from ledgerd.ledger.errors import ConfigurationError
from ledgerd.network import streams as module
from ledgerd.network.streams import Kind, Streams

SECONDS_MAX = 120.0


def client_kind(unsent_bytes_max: int = 1 << 20, streams_max: int = 100, pauses: bool = True) -> Kind:
    return Kind(0, unsent_bytes_max, streams_max, pauses)


@pytest.fixture
def streams() -> Iterator[Streams]:
    streams = Streams()
    yield streams
    streams.shut()


def poll_until(streams: Streams, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline
        streams.poll(0.05)


def connected(streams: Streams, kind: Kind, count: int = 1) -> list[socket.socket]:
    address = streams.listen("127.0.0.1", 0, kind)
    clients = [socket.create_connection(address, SECONDS_MAX) for _ in range(count)]
    poll_until(streams, lambda: len(streams.opened) == count)
    return clients


def received(client: socket.socket, size: int) -> bytes:
    """So many bytes, in however many pieces they come."""
    data = b""
    while len(data) < size and (piece := client.recv(size - len(data))):
        data += piece
    return data


def arrive(streams: Streams) -> None:
    """Wait until what clients have sent can be read of every stream."""
    for stream in streams._streams.values():
        assert select.select([stream.socket], [], [], SECONDS_MAX)[0]


def close_all(clients: list[socket.socket]) -> None:
    for client in clients:
        client.close()


def test_bytes_of_all_streams_come_in_one_batch(streams: Streams) -> None:
    clients = connected(streams, client_kind(), 20)
    assert [number for number, _, _ in streams.opened] == list(range(1, 21))
    for number, client in enumerate(clients):
        client.sendall(b"request %d" % number)
    arrive(streams)
    streams.poll(SECONDS_MAX)
    assert sorted(streams.received) == [(number + 1, b"request %d" % number) for number in range(20)]
    close_all(clients)


def test_each_stream_gets_its_own_bytes_in_order(streams: Streams) -> None:
    clients = connected(streams, client_kind(), 3)
    for piece in (b"a", b"b", b"c"):
        for number in (1, 2, 3):
            streams.send(number, piece + str(number).encode())
    assert [received(client, 6) for client in clients] == [b"a1b1c1", b"a2b2c2", b"a3b3c3"]
    close_all(clients)


def test_a_client_that_goes_is_told_once(streams: Streams) -> None:
    (client,) = connected(streams, client_kind())
    client.close()
    poll_until(streams, lambda: bool(streams.closed))
    streams.send(1, b"too late")
    streams.close(1)
    streams.poll(0)
    assert streams.closed == [1]


def test_what_the_kernel_does_not_take_waits_and_arrives(streams: Streams) -> None:
    (client,) = connected(streams, client_kind(unsent_bytes_max=64 << 20))
    data = bytes(range(256)) * (64 << 10)
    streams.send(1, data)
    streams.send(1, b"end")
    got = bytearray()
    client.settimeout(SECONDS_MAX)
    while len(got) < len(data) + 3:
        streams.poll(0)
        got += client.recv(1 << 20)
    assert got == data + b"end"
    assert streams.closed == []
    client.close()


def test_a_client_that_does_not_read_is_dropped_at_its_limit_and_only_it(streams: Streams) -> None:
    slow, quick = connected(streams, client_kind(unsent_bytes_max=1 << 20), 2)
    sent = 0
    while not streams.closed:
        streams.send(1, bytes(256 << 10))
        sent += 256 << 10
        streams.poll(0)
        assert sent < 64 << 20, "the buffer has no end"
    assert streams.closed == [1]
    assert streams.dropped == 1
    streams.send(2, b"still here")
    assert received(quick, 10) == b"still here"
    close_all([slow, quick])


def test_all_unsent_bytes_together_have_a_limit(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UNSENT_BYTES_MAX", 20 << 20)
    clients = connected(streams, client_kind(unsent_bytes_max=64 << 20), 4)
    for _ in range(10):
        for number in range(1, 5):
            streams.send(number, bytes(2 << 20))
    assert streams.closed
    assert streams._unsent_total <= (20 << 20) + (2 << 20)
    close_all(clients)


def test_what_each_of_many_is_sent_first_counts_too_and_the_largest_goes(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    """One answer may be large, and a client without a certificate may ask for it in each of its thousand sessions, and read none."""
    monkeypatch.setattr(module, "UNSENT_BYTES_MAX", 40 << 20)
    clients = connected(streams, client_kind(), 6)
    streams.send(1, bytes(10 << 20))  # some of which the kernel takes
    for number in range(2, 7):
        streams.send(number, bytes(16 << 20))
        assert streams._unsent_total <= 40 << 20
    assert streams.closed
    assert 1 not in streams.closed
    assert streams.dropped == len(streams.closed)
    close_all(clients)


def test_room_is_made_by_clients_before_a_peer_that_catches_up(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UNSENT_BYTES_MAX", 60 << 20)
    (peer,) = connected(streams, client_kind(pauses=False))
    streams.opened.clear()
    clients = connected(streams, client_kind(), 3)
    streams.send(1, bytes(32 << 20))
    for number in (2, 3, 4):
        streams.send(number, bytes(16 << 20))
    assert streams.closed
    assert 1 not in streams.closed
    close_all([peer, *clients])


def test_a_client_that_does_not_read_its_answers_is_not_read_from(streams: Streams) -> None:
    (client,) = connected(streams, client_kind(unsent_bytes_max=64 << 20))
    streams.send(1, bytes(16 << 20))
    client.sendall(b"more requests")
    streams.poll(0.05)
    assert streams.received == []
    client.settimeout(SECONDS_MAX)
    got = 0
    while got < 16 << 20:
        streams.poll(0)
        got += len(client.recv(1 << 20))
    poll_until(streams, lambda: bool(streams.received))
    assert streams.received == [(1, b"more requests")]
    client.close()


def test_unsent_bytes_that_stand_still_are_dropped_in_time(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STALL_SECONDS_MAX", 0.0)
    monkeypatch.setattr(module, "SWEEP_SECONDS", 0.0)
    (client,) = connected(streams, client_kind(unsent_bytes_max=64 << 20))
    streams.send(1, bytes(16 << 20))
    poll_until(streams, lambda: streams.closed == [1])
    client.close()


def test_not_reading_leaves_bytes_in_the_kernel_for_all(streams: Streams) -> None:
    (client,) = connected(streams, client_kind())
    streams.reading = False
    client.sendall(b"later")
    streams.poll(0.02)
    assert streams.received == []
    streams.reading = True
    poll_until(streams, lambda: bool(streams.received))
    assert streams.received == [(1, b"later")]
    client.close()


def test_one_wake_up_reads_no_more_than_its_share(streams: Streams) -> None:
    clients = connected(streams, client_kind(), 40)
    for client in clients:
        client.sendall(bytes(64 << 10))
    arrive(streams)
    streams.poll(SECONDS_MAX)
    streams.poll(0)
    first = sum(len(data) for _, data in streams.received)
    assert first <= 2 * (module.WAKE_UP_BYTES_MAX + module.READ_BYTES)
    poll_until(streams, lambda: sum(len(data) for _, data in streams.received) == 40 * (64 << 10))
    close_all(clients)


def test_an_answer_reaches_a_client_that_is_still_sending_when_we_close(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINGER_SECONDS_MAX", 600.0)
    # A close with unread bytes would be a reset, which destroys the answer (a 413 in the middle of a body, say).
    (client,) = connected(streams, client_kind())
    client.sendall(bytes(64 << 10))
    streams.send(1, b"413")
    streams.close(1)
    assert streams.closed == [1]
    client.sendall(bytes(64 << 10))
    streams.poll(0)
    client.settimeout(SECONDS_MAX)
    assert received(client, 100) == b"413"
    assert streams.received == []
    client.close()
    poll_until(streams, lambda: not streams._streams)
    assert streams.closed == [1]


def test_a_client_that_never_leaves_after_our_close_is_dropped(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINGER_SECONDS_MAX", 0.0)
    monkeypatch.setattr(module, "SWEEP_SECONDS", 0.0)
    (client,) = connected(streams, client_kind())
    streams.close(1)
    poll_until(streams, lambda: not streams._streams)
    assert streams.dropped == 0
    client.close()


def test_streams_above_the_limit_are_closed_at_once_and_room_is_used_again(streams: Streams) -> None:
    kind = client_kind(streams_max=2)
    address = streams.listen("127.0.0.1", 0, kind)
    clients = [socket.create_connection(address, SECONDS_MAX) for _ in range(3)]
    poll_until(streams, lambda: len(streams.opened) == 2)
    poll_until(streams, lambda: _readable(clients[2]))
    assert clients[2].recv(1) == b""
    assert len(streams.opened) == 2
    clients[0].close()
    poll_until(streams, lambda: bool(streams.closed))
    clients.append(socket.create_connection(address, SECONDS_MAX))
    poll_until(streams, lambda: len(streams.opened) == 3)
    close_all(clients)


def test_at_the_limit_a_newcomer_takes_the_place_of_one_that_is_closing_already(streams: Streams) -> None:
    kind = client_kind(streams_max=2)
    clients = connected(streams, kind, 2)
    address = clients[0].getpeername()
    streams.close(1)
    newcomer = socket.create_connection(address, SECONDS_MAX)
    poll_until(streams, lambda: len(streams.opened) == 3)
    assert streams.closed == [1] and kind.count == 2
    late = socket.create_connection(address, SECONDS_MAX)
    late.settimeout(SECONDS_MAX)
    poll_until(streams, lambda: late.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"" if _readable(late) else False)
    assert len(streams.opened) == 3
    streams.send(3, b"hello")
    assert received(newcomer, 5) == b"hello"
    close_all([*clients, newcomer, late])


def _readable(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


def test_connecting_opens_a_stream_under_the_callers_number(streams: Streams) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(SECONDS_MAX)
        streams.connect(-1, "127.0.0.1", server.getsockname()[1], Kind(2, 1 << 20, 10, False))
        streams.send(-1, b"early")  # before the connection stands: it waits
        other, _ = server.accept()
        with other:
            poll_until(streams, lambda: [item[:2] for item in streams.opened] == [(-1, 2)])
            streams.send(-1, b", late")
            other.settimeout(SECONDS_MAX)
            got = b""
            while len(got) < 11:
                streams.poll(0)
                got += other.recv(100)
            assert got == b"early, late"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "no such host", "255.255.255.255"])
def test_connecting_in_vain_is_told_as_closed(streams: Streams, host: str) -> None:
    with socket.socket() as silent:  # nobody else gets this port meanwhile
        silent.bind(("127.0.0.1", 0))
        streams.connect(-5, host, silent.getsockname()[1], Kind(2, 1 << 20, 10, False))
        poll_until(streams, lambda: streams.closed == [-5])
    assert streams.opened == []


def test_connecting_that_takes_too_long_is_told_as_closed(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECT_SECONDS_MAX", 0.0)
    monkeypatch.setattr(module, "SWEEP_SECONDS", 0.0)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        address = server.getsockname()
        fill = [socket.socket() for _ in range(3)]
        for sock in fill:
            sock.setblocking(False)
            sock.connect_ex(address)
        streams.connect(-1, address[0], address[1], Kind(2, 1 << 20, 10, False))
        poll_until(streams, lambda: streams.closed == [-1])
        close_all(fill)


def test_a_port_in_use_is_refused_with_advice(streams: Streams) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"cannot listen on 127.0.0.1:{port}: address already in use; .*choose another port"):
            streams.listen("127.0.0.1", port, client_kind())


def test_a_watched_descriptor_is_returned(streams: Streams) -> None:
    one, other = socket.socketpair()
    with one, other:
        streams.watch(one.fileno())
        assert streams.poll(0) == []
        other.send(b"x")
        assert streams.poll(SECONDS_MAX) == [one.fileno()]
        one.recv(1)
        streams.watch(one.fileno(), writing=True)
        assert streams.poll(SECONDS_MAX) == [one.fileno()]
        streams.unwatch(one.fileno())
        assert streams.poll(0) == []
