"""Many tasks on one pipelined connection: one of them reads and watches the time for all, one writes for all, and any may be cancelled."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import msgpack
import pytest

from ledgerd.network.client.attempts import Lost, Received, Send, Trouble
from ledgerd.network.client.pipeline import _Connection

SHORT, LONG = 0.02, 600.0


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[None]]], None]:
    return lambda main: anyio.run(main, backend=request.param)


class Stream:
    """The node's end: keeps what was written, and gives what it is told to."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.writable = anyio.Event()
        self.writable.set()
        self._give, self._take = anyio.create_memory_object_stream[bytes](100)

    async def send(self, data: bytes) -> None:
        await self.writable.wait()
        self.written.append(data)

    async def receive(self, _: int) -> bytes:
        return await self._take.receive()

    async def aclose(self) -> None:
        self._give.close()
        self._take.close()

    def requests(self) -> dict[str, int]:
        """Numbers of the requests that have come, by path."""
        found, data = {}, b"".join(self.written)
        while data:
            size = 4 + int.from_bytes(data[:4], "big")
            number, _, path, _, _ = msgpack.unpackb(data[4:size])
            found[path] = number
            data = data[size:]
        return found

    def answer(self, *paths: str) -> None:
        """Answer these requests, with their paths, in one piece."""
        frames = [msgpack.packb((self.requests()[path], 200, {}, path.encode())) for path in paths]
        self._give.send_nowait(b"".join(len(packed).to_bytes(4, "big") + packed for packed in frames))

    def end(self) -> None:
        self._give.close()


class Asking:
    """Tasks that ask, and what they were told."""

    def __init__(self, stream: Stream, tasks: anyio.abc.TaskGroup) -> None:
        stream_of_tls: Any = stream
        self.connection = _Connection(stream_of_tls)
        self.results: dict[str, Received | Lost] = {}
        self._tasks = tasks

    def ask(self, path: str, timeout: float = LONG) -> anyio.CancelScope:
        scope = anyio.CancelScope()

        async def one() -> None:
            with scope:
                self.results[path] = await self.connection.exchange(Send("https://a:1", "GET", path, {}, b"", timeout))

        self._tasks.start_soon(one)
        return scope

    def bodies(self) -> set[str]:
        return {result.body.decode() for result in self.results.values() if isinstance(result, Received)}

    async def until(self, count: int) -> None:
        while len(self.results) < count:
            await anyio.lowlevel.checkpoint()


Main = Callable[[Stream, Asking], Awaitable[None]]


def scenario(run: Callable[[Callable[[], Awaitable[None]]], None], main: Main) -> None:
    async def whole() -> None:
        stream = Stream()
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                await main(stream, Asking(stream, tasks))
        await stream.aclose()

    run(whole)


def test_requests_that_are_ready_together_share_one_write(run: Callable[..., None]) -> None:
    async def main(stream: Stream, asking: Asking) -> None:
        paths = [f"/{number}" for number in range(20)]
        for path in paths:
            asking.ask(path)
        await anyio.wait_all_tasks_blocked()
        assert len(stream.written) == 1
        stream.answer(*paths[10:])
        stream.answer(*paths[:10])
        await asking.until(20)
        assert asking.bodies() == set(paths)

    scenario(run, main)


@pytest.mark.parametrize("order", [("/short", "/long"), ("/long", "/short")])
def test_each_request_has_its_own_time_whoever_reads_for_all(run: Callable[..., None], order: tuple[str, str]) -> None:
    async def main(stream: Stream, asking: Asking) -> None:
        for path in order:
            asking.ask(path, SHORT if path == "/short" else LONG)
            await anyio.wait_all_tasks_blocked()  # the first of them reads
        await asking.until(1)
        assert asking.results == {"/short": Lost(Trouble.CUT, "no answer within 0.0 s")}
        stream.answer("/short", "/long")  # the former is too late, and spoils nothing
        await asking.until(2)
        assert asking.bodies() == {"/long"}

    scenario(run, main)


def test_time_goes_on_for_the_others_when_the_one_who_reads_is_cancelled(run: Callable[..., None]) -> None:
    async def main(_: Stream, asking: Asking) -> None:
        reader = asking.ask("/reader")
        await anyio.wait_all_tasks_blocked()
        asking.ask("/waiting", 2 * SHORT)
        await anyio.wait_all_tasks_blocked()
        reader.cancel()
        await asking.until(1)
        assert list(asking.results) == ["/waiting"]

    scenario(run, main)


def test_whoever_is_cancelled_while_it_writes_for_all_finishes_that(run: Callable[..., None]) -> None:
    async def main(stream: Stream, asking: Asking) -> None:
        stream.writable = anyio.Event()
        writer = asking.ask("/writer")
        await anyio.wait_all_tasks_blocked()
        asking.ask("/other")
        await anyio.wait_all_tasks_blocked()
        writer.cancel()
        await anyio.wait_all_tasks_blocked()
        stream.writable.set()
        await anyio.wait_all_tasks_blocked()
        assert stream.requests().keys() == {"/writer", "/other"}
        stream.answer("/other", "/writer")
        await asking.until(1)
        assert asking.bodies() == {"/other"}

    scenario(run, main)


def test_a_node_that_stops_reading_is_left_by_all(run: Callable[..., None]) -> None:
    async def main(stream: Stream, asking: Asking) -> None:
        stream.writable = anyio.Event()
        asking.ask("/writer", 20 * SHORT)
        await anyio.wait_all_tasks_blocked()
        asking.ask("/reader")
        asking.ask("/waiting")
        await asking.until(3)
        assert asking.results["/reader"] == asking.results["/waiting"] == Lost(Trouble.CUT, "the node stopped reading")
        assert isinstance(asking.results["/writer"], Lost), "for the same reason, or since its own time was over: it is the same moment"
        assert asking.connection.dead

    scenario(run, main)


def test_a_connection_that_ends_ends_for_all(run: Callable[..., None]) -> None:
    async def main(stream: Stream, asking: Asking) -> None:
        for number in range(3):
            asking.ask(f"/{number}")
        await anyio.wait_all_tasks_blocked()
        stream.answer("/1")
        await asking.until(1)
        stream.end()
        await asking.until(3)
        assert asking.bodies() == {"/1"}
        assert asking.results["/0"] == asking.results["/2"] == Lost(Trouble.CUT, "the node closed the connection")

    scenario(run, main)


def test_a_connection_that_is_lost_takes_no_more_requests(run: Callable[..., None]) -> None:
    async def main(_: Stream, asking: Asking) -> None:
        await asking.connection.close()
        asking.ask("/1")
        await asking.until(1)
        assert asking.results["/1"] == Lost(Trouble.NOT_SENT, "the connection was lost")

    scenario(run, main)


def test_several_times_run_out_one_after_the_other(run: Callable[..., None]) -> None:
    async def main(_: Stream, asking: Asking) -> None:
        for number in range(1, 4):
            asking.ask(f"/{number}", number * SHORT)
        await asking.until(3)
        assert list(asking.results) == ["/1", "/2", "/3"]

    scenario(run, main)


@pytest.mark.parametrize("run", ["asyncio"], indirect=True)
def test_asyncio_may_cancel_whoever_is_to_write_for_all(run: Callable[..., None]) -> None:
    """`asyncio.timeout` and `wait_for` know nothing of anyio's shields."""

    async def main(stream: Stream, asking: Asking) -> None:
        writer = asyncio.create_task(asking.connection.exchange(Send("https://a:1", "GET", "/writer", {}, b"", LONG)))
        asking.ask("/reader")
        asking.ask("/waiting")
        await asyncio.sleep(0)  # now the first lets others share its write, and the second reads
        assert stream.written == []
        writer.cancel()
        await anyio.wait_all_tasks_blocked()
        stream.answer("/reader", "/waiting")
        await asking.until(2)
        assert asking.bodies() == {"/reader", "/waiting"}

    scenario(run, main)


@pytest.mark.parametrize("run", ["asyncio"], indirect=True)
def test_a_write_that_asyncio_cuts_ends_the_connection_at_once(run: Callable[..., None]) -> None:
    async def main(stream: Stream, asking: Asking) -> None:
        stream.writable = anyio.Event()
        writer = asyncio.create_task(asking.connection.exchange(Send("https://a:1", "GET", "/writer", {}, b"", LONG)))
        asking.ask("/reader")
        asking.ask("/waiting")
        await anyio.wait_all_tasks_blocked()
        writer.cancel()
        await asking.until(2)
        assert {lost.trouble for lost in asking.results.values() if isinstance(lost, Lost)} == {Trouble.CUT}
        assert asking.connection.dead

    scenario(run, main)
