"""A load of pipelined ledgerd/1 frames: so many connections, so many puts in flight on each; a program of its own.

The frames are as `docs/formats/ledgerd-1.md` has them, made ahead but for their numbers: the load must cost less than what it measures.
Prints `{"done": N}` while it runs where asked, and a summary as the last line, both JSON.
"""

import argparse
import json
import selectors
import ssl
import struct
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import msgpack

from bench_support.machine import percentile
from bench_support.wire import connect, tls_context

TRANSACTION_ID = "x-ms-ccf-transaction-id"
RECEIVE_BYTES = 1 << 18
PROGRESS_SECONDS = 0.5
STALL_SECONDS_MAX = 30.0
"""Without a single answer for so long, the load gives up."""
PREFIX = struct.Struct(">IBBI")  # length of the rest; array of five; uint32; the request's number
LENGTH = struct.Struct(">I")


class Source:
    """What to send next, and when to stop."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.number = 0
        self.requests_max: int = options.requests or sys.maxsize
        self._keys: int = options.keys
        self._idempotency: str = options.idempotency
        self._first: int = options.first_key
        self._headers = {"prefer": options.prefer, "content-type": "text/plain"}
        self._body = (b"v" * options.value_bytes)[: options.value_bytes]
        ready = min(self._keys, 100_000)
        self._frames = [] if self._idempotency else [self._rest(key, self._headers) for key in range(ready)]

    def frame(self) -> bytes:
        """The next request's frame; its number is `self.number` after the call."""
        self.number = number = self.number + 1
        key = number % self._keys
        if self._idempotency:
            rest = self._rest(key, {**self._headers, "idempotency-key": f"{self._idempotency}-{number}"})
        elif key < len(self._frames):
            rest = self._frames[key]
        else:
            rest = self._rest(key, self._headers)
        return PREFIX.pack(len(rest) + 6, 0x95, 0xCE, number) + rest

    def _rest(self, key: int, headers: dict[str, str]) -> bytes:
        parts = ("PUT", f"/app/records/key{self._first + key:06d}", headers, self._body)
        return b"".join(msgpack.packb(part) for part in parts)


class Tally:
    """What came back."""

    def __init__(self, prefer_status: int) -> None:
        self.status = prefer_status
        self.sent: dict[int, float] = {}
        self.times: list[float] = []
        self.ids: list[str] = []
        self.errors = 0
        self.first_error = ""

    def take(self, answer: list[object], now: float) -> None:
        """Count one answer."""
        number, status, headers, body = answer[:4]
        assert isinstance(number, int) and isinstance(headers, dict)
        self.times.append(now - self.sent.pop(number))
        identifier = headers.get(TRANSACTION_ID)
        if status == self.status and identifier:
            self.ids.append(identifier)
        else:
            self.errors += 1
            self.first_error = self.first_error or f"{status} {body!r:.200}"


class Pipeline:
    """One connection."""

    def __init__(self, connection: ssl.SSLSocket, source: Source, tally: Tally) -> None:
        self.connection = connection
        self.source, self.tally = source, tally
        self.incoming = bytearray()
        self.outgoing = b""

    def send_more(self, count: int) -> None:
        """Add requests to what waits, and send what the socket takes."""
        if count:
            now = time.perf_counter()
            frames = []
            for _ in range(count):
                frames.append(self.source.frame())
                self.tally.sent[self.source.number] = now
            self.outgoing += b"".join(frames)
        while self.outgoing:
            try:
                self.outgoing = self.outgoing[self.connection.send(self.outgoing) :]
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                return

    def receive(self) -> int:
        """Take all that has arrived. Returns: how many answers. Raises: ConnectionError."""
        while True:
            try:
                data = self.connection.recv(RECEIVE_BYTES)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            if not data:
                raise ConnectionError("the service closed a connection under load")
            self.incoming += data
        buffer, position, answers, now = bytes(self.incoming), 0, 0, time.perf_counter()
        while len(buffer) - position >= 4:
            end = position + 4 + LENGTH.unpack_from(buffer, position)[0]
            if end > len(buffer):
                break
            self.tally.take(msgpack.unpackb(buffer[position + 4 : end]), now)
            position, answers = end, answers + 1
        del self.incoming[:position]
        return answers


def load(options: argparse.Namespace) -> dict[str, object]:
    """Run it.

    Returns: answers that count, errors, seconds from the first request to the last answer, p50 and p99 in milliseconds.
    Raises: OSError.
    """
    identity = (options.cert, options.key) if options.cert else None
    context = tls_context(options.ca, identity, "ledgerd/1")
    source, tally = Source(options), Tally(options.status)
    selector = selectors.DefaultSelector()
    pipelines = []
    for _ in range(options.connections):
        connection = connect(options.url, context)
        if connection.selected_alpn_protocol() != "ledgerd/1":
            raise ConnectionError(f"{options.url} does not speak ledgerd/1: it chose {connection.selected_alpn_protocol()}")
        connection.setblocking(False)
        pipelines.append(Pipeline(connection, source, tally))
        selector.register(connection, selectors.EVENT_READ, pipelines[-1])
    started = last = shown = time.perf_counter()
    end = started + options.seconds if options.seconds else float("inf")
    for pipeline in pipelines:
        pipeline.send_more(min(options.in_flight, source.requests_max - source.number))
    while tally.sent:
        for key, _ in selector.select(0.05):
            count = key.data.receive()
            now = time.perf_counter()
            last = now if count else last
            key.data.send_more(min(count, source.requests_max - source.number) if now < end else 0)
        for pipeline in pipelines:
            if pipeline.outgoing:
                pipeline.send_more(0)
        now = time.perf_counter()
        if now - last > STALL_SECONDS_MAX:
            raise ConnectionError(f"no answer for {STALL_SECONDS_MAX:.0f} s with {len(tally.sent)} requests in flight")
        if options.progress and now - shown >= PROGRESS_SECONDS:
            shown = now
            sys.stdout.write(json.dumps({"done": source.number - len(tally.sent)}) + "\n")
            sys.stdout.flush()
    for pipeline in pipelines:
        pipeline.connection.close()
    if options.ids:
        options.ids.write_text("\n".join(tally.ids))
    times = sorted(tally.times)
    summary: dict[str, object] = {
        "answers": len(tally.ids),
        "errors": tally.errors,
        "seconds": last - started,
        "first_error": tally.first_error,
    }
    return {**summary, "p50": percentile(times, 0.5) * 1000, "p99": percentile(times, 0.99) * 1000}


def main() -> int:
    """Returns: exit status; 1 when the service failed the load."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--url", required=True)
    parser.add_argument("--ca", type=Path, required=True, help="the service's certificate, PEM")
    parser.add_argument("--cert", type=Path, help="a user's certificate, PEM")
    parser.add_argument("--key", type=Path, help="its key, PEM")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=0.0, help="how long to send; 0: until --requests are done")
    parser.add_argument("--requests", type=int, default=0, help="how many to send; 0: until --seconds are over")
    parser.add_argument("--keys", type=int, default=1000)
    parser.add_argument("--first-key", type=int, default=0)
    parser.add_argument("--value-bytes", type=int, default=64)
    parser.add_argument("--prefer", default="committed")
    parser.add_argument("--status", type=int, default=204, help="what an answer must have to count")
    parser.add_argument("--idempotency", default="", help="give every request an idempotency key that begins so")
    parser.add_argument("--ids", type=Path, help="write every transaction id to this file")
    parser.add_argument("--progress", action="store_true")
    options = parser.parse_args()
    if not options.seconds and not options.requests:
        parser.error("one of --seconds and --requests is needed")
    try:
        summary = load(options)
    except OSError as error:
        sys.stderr.write(f"pipelined: {error}\n")
        return 1
    sys.stdout.write(json.dumps(summary) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
