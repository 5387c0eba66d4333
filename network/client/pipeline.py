"""Carries out `Send` and `submit_many` for tasks, over `ledgerd/1`: one TLS connection per node, many requests in flight.

Laws: whoever waits for an answer reads for everybody, so there is no background task to own, cancel or forget; a connection that
breaks, stalls or talks nonsense is dropped whole, and everything on it becomes `Lost`.
Not here: frames (`client.frames`), what goes again (`client.attempts`, `client.bulk`), threads (`client.blocking`).
"""

import ssl
import sys
from collections.abc import AsyncIterator, Callable
from math import inf
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel
from anyio.streams.tls import TLSAttribute, TLSStream

from ledgerd.ledger.errors import FormatError
from ledgerd.network.client.attempts import Lost, Received, Send, Trouble
from ledgerd.network.client.bulk import Bulk
from ledgerd.network.client.errors import ClientError
from ledgerd.network.client.frames import Decoder, Encoder
from ledgerd.network.client.identity import ALPN_PIPELINED
from ledgerd.network.client.losses import CONNECT_SECONDS_MAX, ELSEWHERE, RECEIVE_BYTES, cut, lost
from ledgerd.network.client.values import Answer

if TYPE_CHECKING:
    from asyncio import Future

_BROKEN: Final = (OSError, ssl.SSLError, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, FormatError)


class _Event(Protocol):
    """What wakes the one task that waits for it; trio's own, or ours for asyncio."""

    def set(self) -> None: ...

    async def wait(self) -> None: ...


class _FutureEvent:
    """asyncio's own looks for its event loop, with a lock, and keeps a queue of those who wait."""

    __slots__ = ("_future",)

    def __init__(self, future: "Future[None]") -> None:
        self._future = future

    def set(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    async def wait(self) -> None:
        await self._future


class _Slot:
    """One request that waits. `event` is set when it has its result, or when it is its turn to read for all."""

    __slots__ = ("deadline", "event", "result", "timeout")

    def __init__(self, event: _Event, deadline: float, timeout: float) -> None:
        self.event = event
        self.deadline = deadline  # by the event loop's clock
        self.timeout = timeout
        self.result: Received | Lost | None = None


class _Connection:
    """One connection; made by `_connect`, and used in one event loop.

    A request costs no task, cancel scope or timer of its own: the one who reads for all also watches the time for all, and the first of
    those who are ready to send writes for all.
    """

    __slots__ = (
        "_clock",
        "_decoder",
        "_earliest",
        "_encoder",
        "_event",
        "_flushing",
        "_next",
        "_out",
        "_reading",
        "_scope",
        "_stream",
        "_waiting",
        "dead",
    )

    def __init__(self, stream: TLSStream) -> None:
        self._stream = stream
        self._decoder = Decoder()
        self._encoder = Encoder()
        self._event, self._clock = _of_this_loop()
        self._out: list[bytes] = []
        self._waiting: dict[int, _Slot] = {}  # for an answer
        self._earliest = inf  # no deadline of those who wait is before it
        self._scope: anyio.CancelScope | None = None  # of the one who reads
        self._next = 0
        self._flushing = False
        self._reading = False
        self.dead = False

    async def exchange(self, step: Send) -> Received | Lost:
        """Send one request and wait for its answer."""
        if self.dead:
            return Lost(Trouble.NOT_SENT, "the connection was lost")
        number = self._next
        self._next += 1
        self._encoder.add(self._out, number, step.method, step.path, step.headers, step.body)
        deadline = self._clock() + step.timeout
        slot = self._waiting[number] = _Slot(self._event(), deadline, step.timeout)
        if deadline < self._earliest:
            self._earliest = deadline
            if self._scope is not None:
                self._scope.deadline = deadline
        try:
            while slot.result is None:
                if self._out and not self._flushing:
                    await self._flush(step.timeout)
                elif self._reading:
                    await slot.event.wait()
                    if slot.result is None:
                        slot.event = self._event()
                else:
                    await self._read()
        finally:
            if slot.result is None:
                self._waiting.pop(number, None)
            if self._waiting and not self._reading:
                next(iter(self._waiting.values())).event.set()  # it reads from now on
        return slot.result

    async def close(self) -> None:
        """Drop the connection; whoever waits gets `Lost`."""
        self._die("the connection was closed")
        await anyio.aclose_forcefully(self._stream)

    async def _flush(self, seconds: float) -> None:
        self._flushing = True
        try:
            while self._out and not self.dead:
                # Half a TLS record would ruin the connection for all, and they count on us, so a cancelled request still finishes this.
                with anyio.move_on_after(seconds, shield=True) as scope:
                    await anyio.lowlevel.checkpoint()  # others who are ready now share the write
                    data = b"".join(self._out)
                    self._out.clear()
                    try:
                        await self._stream.send(data)
                    except BaseException:
                        self.dead = True
                        raise
                if scope.cancelled_caught:
                    self._die("the node stopped reading")
        except _BROKEN as error:
            self._die(str(error) or type(error).__name__)
        finally:
            self._flushing = False
            if self.dead:
                self._die("a request was cancelled while it wrote for others, too")  # as below, in the midst of it
            elif self._out:  # cancelled by asyncio's own means, which know no shield: another one goes on
                self._wake_all()

    async def _read(self) -> None:
        self._reading = True
        try:
            with anyio.move_on_after(self._earliest - self._clock()) as self._scope:
                frames = self._decoder.feed(await self._stream.receive(RECEIVE_BYTES))
                for number, status, headers, body in frames:
                    slot = self._waiting.pop(number, None)
                    if slot is not None:
                        slot.result = Received(status, headers, body)
                        slot.event.set()
            if self._scope.cancelled_caught:
                self._expire()
        except _BROKEN as error:
            self._scope = None
            self._die("the node closed the connection" if isinstance(error, anyio.EndOfStream) else str(error) or type(error).__name__)
        finally:
            self._reading = False
            self._scope = None

    def _expire(self) -> None:
        now = self._clock()
        for number, slot in list(self._waiting.items()):
            if slot.deadline <= now:
                self._give_up(number, slot, f"no answer within {slot.timeout:.1f} s")
        self._earliest = min((slot.deadline for slot in self._waiting.values()), default=inf)

    def _die(self, reason: str) -> None:
        self.dead = True
        self._out.clear()
        for number, slot in list(self._waiting.items()):
            self._give_up(number, slot, reason)
        self._wake_all()

    def _wake_all(self) -> None:
        for slot in self._waiting.values():
            slot.event.set()
        if self._scope is not None:
            self._scope.cancel()  # whoever reads would otherwise wait until its time is over

    def _give_up(self, number: int, slot: _Slot, reason: str) -> None:
        del self._waiting[number]
        slot.result = Lost(Trouble.CUT, reason)
        slot.event.set()


def _of_this_loop() -> tuple[Callable[[], _Event], Callable[[], float]]:
    """How to make an event, and the clock of deadlines. anyio would find out for each event anew which library runs."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():
        return trio.Event, trio.current_time
    import asyncio  # noqa: PLC0415 (trio does without)

    loop = asyncio.get_running_loop()
    return lambda: _FutureEvent(loop.create_future()), loop.time


class AsyncPipelined:
    """Connections by node, opened when first needed."""

    __slots__ = ("_connections", "_context", "_locks")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._connections: dict[str, _Connection] = {}
        self._locks: dict[str, anyio.Lock] = {}

    async def send(self, step: Send) -> Received | Lost:
        """Send and wait. Never raises for anything that the network or the node does."""
        connection = self._connections.get(step.origin)
        if connection is None or connection.dead:
            async with self._locks.setdefault(step.origin, anyio.Lock()):
                connection = self._connections.get(step.origin)
                if connection is None or connection.dead:
                    stream = await _connect(step.origin, self._context, step.timeout)
                    if isinstance(stream, Lost):
                        return stream
                    connection = self._connections[step.origin] = _Connection(stream)
        return await connection.exchange(step)

    async def close(self) -> None:
        """Close all connections."""
        connections = list(self._connections.values())
        self._connections.clear()
        for connection in connections:
            await connection.close()


async def run_bulk(bulk: Bulk, context: ssl.SSLContext) -> AsyncIterator[tuple[int, Answer | ClientError]]:
    """Drive a `Bulk` to its end; yields each call's result as it comes."""
    while not bulk.finished():
        origin = bulk.origin()
        timeout = bulk.shared.budget.attempt_seconds
        why: Lost | None = None
        stream = await _connect(origin, context, timeout)
        if isinstance(stream, Lost):
            why = stream
        else:
            decoder = Decoder()
            try:
                while why is None:
                    results: list[tuple[int, Answer | ClientError]] = []
                    try:
                        with anyio.fail_after(timeout):
                            data = bulk.output()
                            if data:
                                await stream.send(data)
                            if bulk.finished():
                                break
                            frames = decoder.feed(await stream.receive(RECEIVE_BYTES))
                    except (TimeoutError, *_BROKEN) as error:
                        why = cut(error, timeout)
                    else:
                        results, stay = bulk.received(frames)
                        why = None if stay else ELSEWHERE
                    for result in results:
                        yield result
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.aclose_forcefully(stream)
        if why is not None:
            results, pause = bulk.lost(origin, why)
            for result in results:
                yield result
            if pause:
                await anyio.sleep(pause)


async def _connect(origin: str, context: ssl.SSLContext, seconds: float) -> TLSStream | Lost:
    parts = urlsplit(origin)
    assert parts.hostname and parts.port, "nodes are origins"
    try:
        with anyio.fail_after(min(seconds, CONNECT_SECONDS_MAX)):
            stream = await anyio.connect_tcp(parts.hostname, parts.port, ssl_context=context, tls_standard_compatible=False)
    except TimeoutError:
        return Lost(Trouble.NOT_SENT, "no connection in time")
    except (OSError, ssl.SSLError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
        return lost(error, sent=False)
    if stream.extra(TLSAttribute.alpn_protocol) != ALPN_PIPELINED:  # noqa: S610 (anyio's `extra`, not Django's)
        await anyio.aclose_forcefully(stream)
        return Lost(Trouble.NOT_SENT, f"the node does not speak {ALPN_PIPELINED}")
    return stream
