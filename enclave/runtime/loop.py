"""The enclave's only loop: wait; take all that is there; let the core decide; send all that came of it in one frame.

Law: one thread, no task per session, one pass per wake-up. The core is not asked for anything while the host takes nothing:
events then wait here, at most one window of them, and the host learns by the lack of credit.
A plain epoll: measured, a wake-up costs 15 us of CPU; the same under trio, waiting for the epoll descriptor, 31 us.
"""

import select
import time
from collections import deque
from typing import Any, Final, Protocol

from ledgerd.enclave.boundary import Event, Ready
from ledgerd.enclave.runtime.link import Link
from ledgerd.enclave.runtime.script_pool import ScriptPool
from ledgerd.enclave.runtime.workers import Workers
from ledgerd.enclave.scripts.pool import Pool

_SLEEP_SECONDS_MAX: Final = 60.0
_PASS_BYTES: Final = 256 << 10  # a thousand requests or so: tens of milliseconds, well under a heartbeat; the rest waits for the next pass


class Core(Protocol):
    """What the loop needs of `enclave.core.Enclave`."""

    def receive(self, events: list[Event]) -> None:
        """Take a batch of the host's events."""

    def tick(self, now: float) -> None:
        """Learn the time: called first in every wake-up, monotonic seconds."""

    def next_wakeup(self) -> float:
        """When `tick` is needed even if nothing happens, monotonic seconds."""

    def ready(self) -> Ready:
        """What the host must do now; each piece of work is handed over once."""

    def log(self, level: str, text: str) -> None:
        """Tell the operator."""

    @property
    def scripts(self) -> Pool | None:
        """Which script worker is to run what, once there is a service."""

    def jobs(self) -> list[Any]:
        """Work for other threads: `number`, `work(nsm)`."""

    def finished(self, number: int, result: object) -> None:
        """A job's result, or the exception that it raised."""


def run(core: Core, link: Link, workers: Workers) -> int:
    """Serve until the core says stop.

    Returns: The exit status that the core chose.
    Raises:
        LinkClosedError: The host is gone.
        HostError: The host broke the protocol of the link.
    """
    epoll = select.epoll()
    link_descriptor = link.socket.fileno()
    epoll.register(link_descriptor, select.EPOLLIN)
    epoll.register(workers.wake, select.EPOLLIN)
    scripts: ScriptPool | None = None
    watching_writes = False
    waiting: deque[tuple[int, list[Event]]] = deque()  # bounded by the window that the link enforces
    while True:
        wakeup = core.next_wakeup() if scripts is None else min(core.next_wakeup(), scripts.next_wakeup())
        timeout = min(max(wakeup - time.monotonic(), 0.0), _SLEEP_SECONDS_MAX)
        if link.blocked:
            timeout = _SLEEP_SECONDS_MAX  # nothing can be done before the host grants credit or reads
        elif waiting:
            timeout = 0.0
        results: list[tuple[int, Any]] = []
        for descriptor, mask in epoll.poll(timeout):
            if descriptor == workers.wake:
                results = workers.collect()
            elif descriptor == link_descriptor and mask & ~select.EPOLLOUT:
                waiting.extend(link.receive())
        now = time.monotonic()
        core.tick(now)
        for number, result in results:
            core.finished(number, result)
        if not link.blocked:
            taken = 0
            while waiting and taken < _PASS_BYTES:
                size, events = waiting.popleft()
                core.receive(events)
                taken += size
            link.consumed(taken)
            if scripts is not None:
                _turn(core, scripts, now)  # what scripts have said is part of this wake-up
            ready = core.ready()
            if scripts is None and core.scripts is not None:
                scripts = ScriptPool(core.scripts)
                epoll.register(scripts.wake, select.EPOLLIN)
            if scripts is not None and scripts.pool.has_news:
                _turn(core, scripts, now)  # and what they are asked leaves with it
            for job in core.jobs():  # after ready(), which may be what asks for them; before the link, so that they run meanwhile
                workers.submit(job)
            if not ready.is_empty():
                link.send(ready)
            if ready.stop is not None:
                if scripts is not None:
                    scripts.close()
                _drain(link)
                return ready.stop
        link.flush()
        if link.unsent is not watching_writes:
            watching_writes = link.unsent
            epoll.modify(link_descriptor, select.EPOLLIN | (select.EPOLLOUT if watching_writes else 0))


def _turn(core: Core, scripts: ScriptPool, now: float) -> None:
    for level, text in scripts.turn(now):
        core.log(level, text)


def _drain(link: Link) -> None:
    """Give the last words to a host that takes them; a second is plenty."""
    deadline = time.monotonic() + 1.0
    while (link.unsent or link.blocked) and (left := deadline - time.monotonic()) > 0:
        select.select([link.socket], [link.socket] if link.unsent else [], [], left)
        link.receive()
        link.flush()
