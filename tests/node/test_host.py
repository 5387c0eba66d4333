import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ledgerd.enclave.boundary import (
    CLIENT,
    FRAME_SIZE_BYTES_MAX,
    OUTBOUND,
    STREAM_MAX,
    WINDOW_BYTES,
    Closed,
    Configured,
    Connect,
    Fetch,
    Fetched,
    Opened,
    Ready,
    Received,
    Stopping,
    Stored,
    encode_ready,
)
from ledgerd.ledger.errors import LedgerdError
from ledgerd.network.streams import WAKE_UP_BYTES_MAX, Streams
from ledgerd.node import host
from ledgerd.node.host import EnclaveLostError, Host, kinds
from ledgerd.node.storage import Append, Storage, StorageError
from support.enclave_end import EnclaveEnd

SECONDS_MAX = 120.0
KERNEL_BYTES_MAX = 16 << 20  # what the buffers of a loopback connection and of a UNIX socket can hold at most


class Rig:
    """A real host, in a thread, on a real disk and real sockets; the test is its enclave and its clients."""

    def __init__(self, folder: Path, ledger_bytes_max: int = 1 << 30) -> None:
        ours, theirs = socket.socketpair()
        self.enclave = EnclaveEnd(ours)
        self.streams = Streams()
        self.kinds = kinds(100)
        self.address = self.streams.listen("127.0.0.1", 0, self.kinds[CLIENT])
        self.storage = Storage(folder / "ledger", map_size_max=ledger_bytes_max)
        self.notices: list[tuple[str, str]] = []
        self.host = Host(theirs, self.storage, self.streams, self.kinds[OUTBOUND], None, lambda *notice: self.notices.append(notice))
        self.status: int | None = None
        self.error: LedgerdError | None = None
        self._link = theirs
        self._sockets: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.status = self.host.run(b"{}", catch_signals=False)
        except LedgerdError as error:
            self.error = error

    def start(self) -> None:
        self._thread.start()
        assert self.enclave.wait(Configured) == [Configured(b"{}")]

    def client(self) -> socket.socket:
        """A new client, already known to the enclave; numbers go upward from 1."""
        sock = socket.create_connection(self.address, SECONDS_MAX)
        self._sockets.append(sock)
        self.enclave.wait(Opened)
        return sock

    def finish(self) -> None:
        self._thread.join(SECONDS_MAX)
        assert not self._thread.is_alive()

    def close(self) -> None:
        self.enclave.socket.close()
        if self._thread.ident is not None:
            self._thread.join(SECONDS_MAX)
        self.storage.close()
        self.streams.shut()
        self._link.close()
        for sock in self._sockets:
            sock.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    rig.start()
    yield rig
    rig.close()


def ready(change: Callable[[Ready], None]) -> Ready:
    made = Ready()
    change(made)
    return made


def to_client(stream: int, data: bytes) -> Ready:
    return ready(lambda it: it.client_bytes.append((stream, data)))


def entries(first: int, data: list[bytes], generation: int = 0, truncate_after: int | None = None) -> Ready:
    made = Ready()
    made.generation, made.view, made.first_seqno, made.entries, made.truncate_after = generation, 2, first, data, truncate_after
    return made


def test_a_clients_bytes_go_to_the_enclave_and_its_answer_back(rig: Rig) -> None:
    client = rig.client()
    client.sendall(b"question")
    assert rig.enclave.wait(Received) == [Received(1, b"question")]
    rig.enclave.send(to_client(1, b"answer"))
    assert client.recv(100) == b"answer"
    client.close()
    assert rig.enclave.wait(Closed) == [Closed(1)]


def test_entries_are_reported_once_they_are_stored(rig: Rig) -> None:
    rig.enclave.send(entries(1, [b"1", b"2"]))
    assert rig.enclave.wait(Stored) == [Stored(0, 2, 2)]
    rig.enclave.send(entries(2, [b"2'"], generation=1, truncate_after=1))
    assert rig.enclave.wait(Stored) == [Stored(1, 2, 2)]
    rig.enclave.send(ready(lambda it: it.fetches.append(Fetch(9, 1, 100, 1 << 20))))
    assert rig.enclave.wait(Fetched) == [Fetched(9, [b"1", b"2'"])]


class Gate:
    """A disk that stores nothing before it is told to."""

    def __init__(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        self._free = threading.Event()
        self._store = rig.storage._store
        monkeypatch.setattr(rig.storage, "_store", self._wait)

    def _wait(self, appends: list[Append]) -> None:
        assert self._free.wait(SECONDS_MAX)
        self._store(appends)

    def open(self) -> None:
        self._free.set()


def test_what_waits_for_the_disk_is_sent_with_it_and_before_what_comes_later(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(rig, monkeypatch)
    peer, other = rig.client(), rig.client()
    stored = entries(1, [b"1"])
    stored.peer_bytes, stored.once_stored = [(1, b"at once ")], [(1, b"stored ")]
    rig.enclave.send(stored)
    later = Ready()
    later.peer_bytes = [(1, b"later"), (2, b"not concerned")]
    rig.enclave.send(later)
    assert other.recv(100) == b"not concerned"
    assert peer.recv(100) == b"at once "
    assert not select.select([peer], [], [], 0)[0], "the other stream was served after what waits"
    gate.open()
    received = b""
    while len(received) < len(b"stored later"):
        received += peer.recv(100)
    assert received == b"stored later"


def test_what_waits_for_a_disk_that_has_finished_does_not_wait(rig: Rig) -> None:
    """A Ready of several frames: the disk may be done before the last of them comes."""
    peer = rig.client()
    rig.enclave.send(entries(1, [b"1"]))
    rig.enclave.wait(Stored)
    rig.enclave.send(ready(lambda it: it.once_stored.append((1, b"stored"))))
    assert peer.recv(100) == b"stored"


def test_a_stream_for_which_too_much_waits_behind_a_disk_is_given_up(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "PEER_UNSENT_BYTES_MAX", 1000)
    gate = Gate(rig, monkeypatch)
    rig.client()
    stored = entries(1, [b"1"])
    stored.once_stored = [(1, b"stored")]
    rig.enclave.send(stored)
    rig.enclave.send(ready(lambda it: it.peer_bytes.append((1, bytes(1000)))))
    rig.enclave.send(ready(lambda it: it.peer_bytes.append((1, bytes(1000)))))
    assert rig.enclave.wait(Closed) == [Closed(1)]
    gate.open()


def test_what_waits_for_a_stream_that_is_gone_counts_no_more(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that connects again while the disk still stands gets another chance."""
    monkeypatch.setattr(host, "PEER_UNSENT_BYTES_MAX", 1000)
    gate = Gate(rig, monkeypatch)
    rig.client()
    first, again = entries(1, [b"1"]), entries(2, [b"2"])
    first.once_stored, again.once_stored = [(1, b"stored")], [(2, b"stored ")]
    rig.enclave.send(first)
    rig.enclave.send(ready(lambda it: it.peer_bytes.append((1, bytes(1001)))))
    rig.enclave.send(ready(lambda it: it.closes.append(1)))
    assert rig.enclave.wait(Closed) == [Closed(1)]
    peer = rig.client()
    rig.enclave.send(again)
    rig.enclave.send(ready(lambda it: it.peer_bytes.append((2, b"later"))))
    gate.open()
    with peer.makefile("rb") as received:
        assert received.read(len(b"stored later")) == b"stored later"


def test_an_enclave_of_endless_patience_does_not_stop_its_host(rig: Rig) -> None:
    client = rig.client()
    patient = entries(1, [b"1"])
    patient.patience_ms = STREAM_MAX
    rig.enclave.send(patient)
    rig.enclave.send(ready(lambda it: it.fetches.append(Fetch(9, 1, 0, 100))))
    assert rig.enclave.wait(Fetched) == [Fetched(9, [b"1"])], "it is on disk"
    client.sendall(b"news")
    assert rig.enclave.wait(Stored) == [Received(1, b"news"), Stored(0, 2, 1)]


def test_a_report_with_patience_comes_with_other_news_or_when_its_time_is_over(rig: Rig) -> None:
    client = rig.client()
    patient = entries(1, [b"1"])
    patient.patience_ms = 10_000
    rig.enclave.send(patient)
    rig.enclave.send(ready(lambda it: it.fetches.append(Fetch(9, 1, 0, 100))))
    assert rig.enclave.wait(Fetched) == [Fetched(9, [b"1"])], "it is on disk"
    client.sendall(b"news")
    assert rig.enclave.wait(Stored) == [Received(1, b"news"), Stored(0, 2, 1)]
    soon = entries(2, [b"2"])
    soon.patience_ms = 1
    rig.enclave.send(soon)
    assert rig.enclave.wait(Stored) == [Stored(0, 2, 2)]


def test_the_enclave_can_connect_and_close(rig: Rig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(SECONDS_MAX)
        rig.enclave.send(ready(lambda it: it.connects.append(Connect(-1, "127.0.0.1", server.getsockname()[1]))))
        other, _ = server.accept()
        with other:
            (opened,) = rig.enclave.wait(Opened)
            assert isinstance(opened, Opened)
            assert (opened.stream, opened.kind) == (-1, OUTBOUND)
            goodbye = Ready()
            goodbye.peer_bytes, goodbye.closes = [(-1, b"hello")], [-1]
            rig.enclave.send(goodbye)
            other.settimeout(SECONDS_MAX)
            assert other.recv(100) == b"hello"
            assert other.recv(100) == b""
            assert rig.enclave.wait(Closed) == [Closed(-1)]


def test_notices_and_the_exit_status_are_the_enclaves(rig: Rig) -> None:
    last = Ready()
    last.notices, last.stop = [("node_id", "abc")], 3
    rig.enclave.send(last)
    rig.finish()
    assert rig.notices == [("node_id", "abc")]
    assert rig.status == 3


def test_the_operator_who_stops_gives_the_enclave_time_to_say_so(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "STOP_SECONDS_MAX", 600.0)
    rig.host.stop()
    rig.client()  # wakes the loop
    rig.enclave.send(ready(lambda it: setattr(it, "stop", 0)))
    rig.finish()
    assert (rig.status, rig.error) == (0, None)


def test_stopping_is_said_to_the_enclave(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "STOP_SECONDS_MAX", 600.0)
    rig.host.stop()
    socket.create_connection(rig.address).close()
    assert Stopping() in rig.enclave.wait(Stopping)


def test_an_enclave_that_is_gone_is_an_error(rig: Rig) -> None:
    rig.enclave.socket.close()
    rig.finish()
    assert isinstance(rig.error, EnclaveLostError)


def test_an_enclave_that_speaks_another_protocol_is_an_error(rig: Rig) -> None:
    rig.enclave.socket.sendall(rig.enclave.framing.frame(b"\x93\1\2\3"))
    rig.finish()
    assert isinstance(rig.error, EnclaveLostError)
    assert "one version" in str(rig.error)


def flood(rig: Rig, body: bytes) -> None:
    """Send a body again and again without regard to credit, until the host has had enough."""
    data = len(body).to_bytes(4, "big") + bytes(4) + body
    rig.enclave.socket.setblocking(False)
    at = 0
    while rig._thread.is_alive():
        if select.select([], [rig.enclave.socket], [], 0.05)[1]:
            at = (at + rig.enclave.socket.send(data[at:])) % len(data)
    rig.finish()


def test_an_enclave_that_floods_without_credit_is_an_error_before_it_fills_the_memory(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk that stands still entries would pile up without end. What can be carried out at once never does, and gives credit back."""
    gate = threading.Event()
    monkeypatch.setattr(rig.storage, "_store", lambda appends: gate.wait(SECONDS_MAX))
    body = encode_ready(entries(1, [bytes(1 << 20)]))
    taken: list[int] = []
    carry_out = rig.host._carry_out

    def counting(made: Ready, size: int) -> None:
        taken.append(size)
        carry_out(made, size)

    monkeypatch.setattr(rig.host, "_carry_out", counting)
    flood(rig, body)
    gate.set()
    assert isinstance(rig.error, EnclaveLostError)
    assert "without credit" in str(rig.error)
    assert WINDOW_BYTES <= sum(taken) <= WINDOW_BYTES + len(body)


def test_a_frame_of_an_enclave_that_is_too_large_is_refused_by_its_header(rig: Rig) -> None:
    rig.enclave.socket.sendall((FRAME_SIZE_BYTES_MAX + 1).to_bytes(4, "big") + bytes(4))
    rig.finish()
    assert isinstance(rig.error, EnclaveLostError)
    assert "the limit is" in str(rig.error)


def test_what_passes_the_link_is_counted_at_both_ends(rig: Rig) -> None:
    client = rig.client()
    client.sendall(b"x" * 1_000)
    rig.enclave.wait(Received)
    rig.enclave.send(to_client(1, b"y" * 3_000))
    assert client.recv(3_000, socket.MSG_WAITALL) == b"y" * 3_000
    host, enclave = rig.host.numbers(), rig.enclave.framing.traffic.numbers()
    assert (host["streams"], host["link_frames_received"], host["link_bytes_received"]) == (1, 1, enclave["bytes_sent"])
    assert (host["link_frames_sent"], host["link_bytes_sent"]) == (enclave["frames_received"], enclave["bytes_received"])
    assert host["link_bytes_received"] > 3_000
    assert host["link_bytes_sent"] > 1_000
    assert host["link_waits"] == 0


def test_a_disk_that_fails_stops_the_host_and_acknowledges_nothing(tmp_path: Path) -> None:
    rig = Rig(tmp_path, ledger_bytes_max=1 << 20)
    rig.start()
    rig.enclave.send(entries(1, [bytes(2 << 20)]))
    rig.finish()
    assert isinstance(rig.error, StorageError)
    assert "limit of 1048576 bytes" in str(rig.error)
    assert not select.select([rig.enclave.socket], [], [], 0)[0]
    rig.close()


def test_while_the_enclave_takes_nothing_clients_are_held_up_not_buffered(rig: Rig) -> None:
    client = rig.client()
    rig.enclave.grants = False
    client.setblocking(False)
    sent = 0
    quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < 0.3:
        # The enclave reads its link, as it must, but deals with nothing.
        if select.select([rig.enclave.socket], [], [], 0)[0]:
            rig.enclave._read()
        try:
            sent += client.send(bytes(256 << 10))
            quiet_since = time.monotonic()
        except BlockingIOError:
            pass
    assert sent <= WINDOW_BYTES + 2 * WAKE_UP_BYTES_MAX + KERNEL_BYTES_MAX
    assert not rig.streams.received
    assert sum(map(len, rig.host._frames)) <= 2 * WAKE_UP_BYTES_MAX
    # Given its credit back, the host goes on.
    rig.enclave.framing.consumed(WINDOW_BYTES)
    rig.enclave.grants = True
    client.setblocking(True)
    rig.enclave.socket.sendall(rig.enclave.framing.grant())
    client.sendall(b"end")
    got = 0
    while True:
        events = rig.enclave.wait(Received)
        got += sum(len(event.data) for event in events if isinstance(event, Received))
        if isinstance(events[-1], Received) and events[-1].data.endswith(b"end"):
            break


def test_a_client_that_does_not_read_is_dropped_and_the_enclave_is_told(rig: Rig) -> None:
    rig.client()
    other = rig.client()
    events: list[object] = []
    sent = 0
    while Closed(1) not in events:
        rig.enclave.send(to_client(1, bytes(512 << 10)))
        sent += 512 << 10
        assert sent < 64 << 20, "buffered without end"
        while select.select([rig.enclave.socket], [], [], 0)[0]:
            events += rig.enclave._read()
    rig.enclave.send(to_client(2, b"unharmed"))
    assert other.recv(100) == b"unharmed"


def test_entries_give_credit_back_only_when_they_are_stored(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    # A disk that stands still: the enclave gets no credit for what waits for it, so the queue to the disk has an end.
    gate = threading.Event()
    store = rig.storage._store

    def slow(appends: list[object]) -> None:
        gate.wait(SECONDS_MAX)
        store(appends)  # type: ignore[arg-type]

    monkeypatch.setattr(rig.storage, "_store", slow)
    framing = rig.enclave.framing
    sent = 0
    while framing.credit > 0:
        rig.enclave.send(entries(sent + 1, [bytes(1 << 20)]))
        sent += 1
        assert sent < 100
    assert sent <= (WINDOW_BYTES >> 20) + 1
    gate.set()
    stored = rig.enclave.wait(Stored)
    while Stored(0, 2, sent) not in stored:
        stored += rig.enclave._read()
    assert framing.credit > 0


def test_ranges_are_read_one_at_a_time_while_the_enclave_is_behind(rig: Rig) -> None:
    rig.enclave.send(entries(1, [os.urandom(3 << 20)]))
    rig.enclave.wait(Stored)
    rig.enclave.grants = False
    fetches = ready(lambda it: it.fetches.extend(Fetch(number, 1, 0, 8 << 20) for number in range(100)))
    rig.enclave.send(fetches)
    deadline = time.monotonic() + SECONDS_MAX
    taken = 0
    while taken < 3 and time.monotonic() < deadline:
        taken += sum(isinstance(event, Fetched) for event in rig.enclave._read())
    # 3 x 3 MiB overdraw the window of 8: one more may have been read in advance, 96 wait unread.
    assert not select.select([rig.enclave.socket], [], [], 0.2)[0]
    assert len(rig.host._frames) <= 1
    assert len(rig.host._fetches) >= 96
