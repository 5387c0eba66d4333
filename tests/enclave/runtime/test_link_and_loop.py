import contextlib
import select
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from ledgerd.enclave.boundary import WINDOW_BYTES, Event, Framing, Ready, Received, decode_ready, encode_events
from ledgerd.enclave.runtime.link import Link, LinkClosedError
from ledgerd.enclave.runtime.loop import run
from ledgerd.enclave.runtime.workers import Workers
from ledgerd.ledger.errors import HostError


class Ends(NamedTuple):
    link: Link
    host: socket.socket


@pytest.fixture
def ends() -> Iterator[Ends]:
    host, enclave = socket.socketpair()
    host.settimeout(40)  # less than the loop sleeps when nobody wakes it
    with host, enclave:
        yield Ends(Link(enclave), host)


def ready_with(data: bytes) -> Ready:
    ready = Ready()
    ready.client_bytes = [(1, data)]
    return ready


def test_all_frames_that_are_there_are_received_at_once(ends: Ends) -> None:
    framing = Framing()
    events: list[Event] = [Received(1, b"a"), Received(2, b"b")]
    ends.host.sendall(framing.frame(encode_events(events)) + framing.frame(encode_events(events)))
    assert [batch for _, batch in ends.link.receive()] == [events, events]
    assert ends.link.receive() == []


def test_a_host_that_floods_without_credit_is_refused_before_it_fills_the_memory(ends: Ends) -> None:
    body = encode_events([Received(1, bytes(1 << 20))])
    frame = len(body).to_bytes(4, "big") + bytes(4) + body
    taken = 0

    def flood() -> None:
        try:
            while True:
                ends.host.sendall(frame)
        except OSError:
            pass

    thread = threading.Thread(target=flood)
    thread.start()
    with pytest.raises(HostError, match="without credit"):
        while True:
            select.select([ends.link.socket], [], [], 10)
            taken += sum(size for size, _ in ends.link.receive())
    ends.link.socket.close()
    ends.host.shutdown(socket.SHUT_RDWR)
    thread.join()
    assert taken <= WINDOW_BYTES + len(frame)


def test_a_host_that_takes_nothing_blocks_the_link(ends: Ends) -> None:
    sent = 0
    while not ends.link.blocked:
        ends.link.send(ready_with(bytes(1 << 20)))
        sent += 1 << 20
    assert sent <= WINDOW_BYTES + (1 << 20)


def test_a_host_that_grants_but_does_not_read_blocks_the_link_too(ends: Ends) -> None:
    sent = 0
    while not ends.link.blocked and sent < 10 * WINDOW_BYTES:
        ends.link.send(ready_with(bytes(1 << 20)))
        sent += 1 << 20
        ends.host.sendall(bytes(4) + (1 << 20).to_bytes(4, "big"))
        ends.link.receive()
    assert sent <= WINDOW_BYTES + (2 << 20)


def test_what_waited_for_credit_leaves_when_credit_comes(ends: Ends) -> None:
    ends.link.send(ready_with(b"x" * (30 << 20)))  # several frames, more than the window
    assert ends.link.blocked
    framing = Framing()
    received = b""
    while len(received) < 30 << 20:
        ends.link.flush()
        framing.filled(ends.host.recv_into(framing.space()))
        for body in framing.bodies():
            received += decode_ready(body).client_bytes[0][1]
            framing.consumed(len(body))
        if grant := framing.grant():
            ends.host.sendall(grant)
            ends.link.receive()
    assert received == b"x" * (30 << 20)
    assert not ends.link.blocked


def test_a_closed_link_is_told(ends: Ends) -> None:
    ends.host.close()
    with pytest.raises(LinkClosedError):
        ends.link.receive()
    with pytest.raises(LinkClosedError):
        ends.link.send(ready_with(b"x"))


class Core:
    """Echoes; stops on `stop`; runs a job on `job`; counts what it is asked."""

    def __init__(self) -> None:
        self.ready_now = Ready()
        self.job_list: list[Any] = []
        self.batches: list[int] = []
        self.wakeup = time.monotonic() + 60
        self.ticks = 0
        self.stop_at_tick: int | None = None
        self.scripts = None

    def log(self, level: str, text: str) -> None:
        raise NotImplementedError

    def receive(self, events: list[Event]) -> None:
        self.batches.append(len(events))
        for event in events:
            assert isinstance(event, Received)
            if event.data == b"stop":
                self.ready_now.stop = 7
            elif event.data == b"job":
                self.job_list.append(Job(event.stream, lambda nsm: nsm + b" answered"))
            elif event.data == b"bad job":
                self.job_list.append(Job(event.stream, lambda nsm: nsm.missing))
            else:
                self.ready_now.client_bytes.append((event.stream, event.data))

    def tick(self, now: float) -> None:
        self.ticks += 1
        if self.ticks == self.stop_at_tick:
            self.ready_now.stop = 8

    def next_wakeup(self) -> float:
        return self.wakeup

    def ready(self) -> Ready:
        ready, self.ready_now = self.ready_now, Ready()
        return ready

    def jobs(self) -> list[Any]:
        jobs, self.job_list = self.job_list, []
        return jobs

    def finished(self, number: int, result: object) -> None:
        self.ready_now.client_bytes.append((number, result if isinstance(result, bytes) else type(result).__name__.encode()))


class Job(NamedTuple):
    number: int
    work: Any


def serve(ends: Ends, core: Core, frames: list[list[Event]]) -> tuple[int, list[tuple[int, bytes]]]:
    """Run the loop against a host that sends some frames and takes the answers; return exit status and answers."""
    framing = Framing()
    ends.host.sendall(b"".join(framing.frame(encode_events(events)) for events in frames))
    answers: list[tuple[int, bytes]] = []
    status: list[int] = []
    thread = threading.Thread(target=lambda: status.append(run(core, ends.link, Workers(b"nsm"))))
    thread.start()
    while True:
        framing.filled(ends.host.recv_into(framing.space()))
        for body in framing.bodies():
            ready = decode_ready(body)
            answers += [(stream, data) for stream, data in ready.client_bytes]
            if len(answers) >= sum(len(events) for events in frames) and ready.stop is None:
                ends.host.sendall(framing.frame(encode_events([Received(1, b"stop")])))
            if ready.stop is not None:
                thread.join(120)
                return status[0], answers


def test_one_wake_up_takes_all_frames_and_answers_in_one(ends: Ends) -> None:
    core = Core()
    status, answers = serve(ends, core, [[Received(1, b"a"), Received(2, b"b")], [Received(1, b"c")]])
    assert (status, answers) == (7, [(1, b"a"), (2, b"b"), (1, b"c")])
    assert core.batches == [2, 1, 1]


def test_jobs_run_in_threads_and_their_results_come_back(ends: Ends) -> None:
    status, answers = serve(ends, Core(), [[Received(number, b"job") for number in range(1, 20)]])
    assert sorted(answers) == [(number, b"nsm answered") for number in range(1, 20)]
    assert status == 7


def test_an_exception_of_a_job_is_its_result(ends: Ends) -> None:
    _, answers = serve(ends, Core(), [[Received(1, b"bad job")]])
    assert answers == [(1, b"AttributeError")]


def test_a_job_that_ready_asks_for_starts_in_the_same_wake_up(ends: Ends) -> None:
    class Signing(Core):
        def ready(self) -> Ready:
            ready = super().ready()
            for number, _ in ready.client_bytes:
                if number < 100:
                    self.job_list.append(Job(100 + number, lambda nsm: nsm))
            return ready

    # Nothing else wakes the loop for a minute: were the job left for the next wake-up, the test would run into its time limit.
    core = Signing()
    framing = Framing()
    ends.host.sendall(framing.frame(encode_events([Received(1, b"a")])))
    thread = threading.Thread(target=lambda: run(core, ends.link, Workers(b"nsm")))
    thread.start()
    answers: list[int] = []
    while answers != [1, 101]:
        framing.filled(ends.host.recv_into(framing.space()))
        answers += [stream for body in framing.bodies() for stream, _ in decode_ready(body).client_bytes]
    ends.host.sendall(framing.frame(encode_events([Received(1, b"stop")])))
    thread.join(120)
    assert not thread.is_alive()


def test_the_core_is_woken_when_it_asked_to_be(ends: Ends) -> None:
    core = Core()
    core.wakeup = time.monotonic()
    core.stop_at_tick = 5
    assert run(core, ends.link, Workers(b"")) == 8


def test_the_loop_ends_with_the_link(ends: Ends) -> None:
    ends.host.close()
    with pytest.raises(LinkClosedError):
        run(Core(), ends.link, Workers(b""))


def test_while_the_host_takes_nothing_the_core_is_given_nothing(ends: Ends) -> None:
    # Answers of 16 MiB to one event: the second event must wait until the host has taken the first answer.
    class Generous(Core):
        def receive(self, events: list[Event]) -> None:
            self.batches.append(len(events))
            self.ready_now.client_bytes.append((1, bytes(16 << 20)))

    core = Generous()
    core.wakeup = time.monotonic()  # a busy clock must not change it
    framing = Framing()

    def serve() -> None:
        with contextlib.suppress(LinkClosedError):
            run(core, ends.link, Workers(b""))

    thread = threading.Thread(target=serve)
    thread.start()
    for number in range(50):
        ends.host.sendall(framing.frame(encode_events([Received(number + 1, bytes(300 << 10))])) if framing.credit > 0 else b"")
    # The pass limit lets one frame of 300 KiB through at a time; its answer blocks the link.
    assert select.select([ends.host], [], [], 10)[0]
    deadline = time.monotonic() + 10
    while not core.batches and time.monotonic() < deadline:
        pass
    ends.host.close()
    thread.join(120)
    assert core.batches == [1]
