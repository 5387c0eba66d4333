"""Carries out `Send` and `submit_many` for tasks, over `ledgerd/1`: one TLS connection per node, many requests in flight.

Laws: whoever waits for an answer reads for everybody, so there is no background task to own, cancel or forget; a connection that
breaks, stalls or talks nonsense is dropped whole, and everything on it becomes `Lost`.
Not here: frames (`client.frames`), what goes again (`client.attempts`, `client.bulk`), threads (`client.blocking`).
"""

import ssl
from collections.abc import AsyncIterator
from typing import Final
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

_BROKEN: Final = (OSError, ssl.SSLError, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, FormatError)


class _Slot:
    """One request that waits. `event` is set when it has its result, or when it is its turn to read for all."""

    __slots__ = ("event", "result")

    def __init__(self) -> None:
        self.event = anyio.Event()
        self.result: Received | Lost | None = None


class _Connection:
    """One connection; made by `_connect`."""

    __slots__ = ("_decoder", "_encoder", "_flushing", "_next", "_out", "_reading", "_stream", "_waiting", "dead")

    def __init__(self, stream: TLSStream) -> None:
        self._stream = stream
        self._decoder = Decoder()
        self._encoder = Encoder()
        self._out: list[bytes] = []
        self._waiting: dict[int, _Slot] = {}
        self._next = 0
        self._flushing = False
        self._reading = False
        self.dead = False

    async def exchange(self, step: Send) -> Received | Lost:
        """Send one request and wait for its answer."""
        number = self._next
        self._next += 1
        slot = self._waiting[number] = _Slot()
        self._encoder.add(self._out, number, step.method, step.path, step.headers, step.body)
        try:
            with anyio.move_on_after(step.timeout):
                await anyio.lowlevel.checkpoint()  # others who are ready now share the write
                await self._flush(step.timeout)
                while slot.result is None:
                    if self._reading:
                        await slot.event.wait()
                        if slot.result is None:
                            slot.event = anyio.Event()
                    else:
                        await self._read()
        finally:
            self._waiting.pop(number, None)
            self._hand_over()
        return slot.result or Lost(Trouble.CUT, f"no answer within {step.timeout:.1f} s")

    async def close(self) -> None:
        """Drop the connection; whoever waits gets `Lost`."""
        self._die("the connection was closed")
        await anyio.aclose_forcefully(self._stream)

    async def _flush(self, seconds: float) -> None:
        if self._flushing:
            return
        self._flushing = True
        try:
            while self._out and not self.dead:
                data = b"".join(self._out)
                self._out.clear()
                # Half a TLS record would ruin the connection for all, so a cancelled request still finishes this write.
                with anyio.move_on_after(seconds, shield=True) as scope:
                    await self._stream.send(data)
                if scope.cancelled_caught:
                    self._die("the node stopped reading")
        except _BROKEN as error:
            self._die(str(error) or type(error).__name__)
        finally:
            self._flushing = False

    async def _read(self) -> None:
        self._reading = True
        try:
            for number, status, headers, body in self._decoder.feed(await self._stream.receive(RECEIVE_BYTES)):
                slot = self._waiting.get(number)
                if slot is not None:
                    slot.result = Received(status, headers, body)
                    slot.event.set()
        except _BROKEN as error:
            self._die("the node closed the connection" if isinstance(error, anyio.EndOfStream) else str(error) or type(error).__name__)
        finally:
            self._reading = False

    def _hand_over(self) -> None:
        if self._reading:
            return
        for slot in self._waiting.values():
            if slot.result is None:
                slot.event.set()
                return

    def _die(self, reason: str) -> None:
        self.dead = True
        for slot in self._waiting.values():
            if slot.result is None:
                slot.result = Lost(Trouble.CUT, reason)
                slot.event.set()


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
