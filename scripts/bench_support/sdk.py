"""The SDK's own pipelined path as a load: one client, a thread for each connection, each with `Client.submit_many`; a program of its own.

What an application reaches that uses the SDK as it is; `bench_support.pipelined` is the same without the SDK's cost.
Prints a summary as JSON.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench_support.machine import percentile
from ledgerd.network.client import Answer, Call, Client

START_SECONDS_MAX = 30.0
Share = tuple[list[str], list[float], list[str], float, float]
"""Ids, latencies in seconds, errors, and when the first request and the last answer were."""


def work(number: int, options: argparse.Namespace, client: Client, barrier: Barrier) -> Share:
    """One connection's share of the load."""
    started: list[float] = []
    ids, times, errors = [], [], []
    records = [Call("PUT", f"/app/records/key{key:06d}", b"v" * 64, {"content-type": "text/plain"}) for key in range(options.keys)]

    def calls() -> Iterator[Call]:
        key = number * 7919 % options.keys
        end = time.monotonic() + options.seconds
        while (now := time.monotonic()) < end:
            started.append(now)
            yield records[key]
            key = (key + 1) % options.keys

    last = 0.0
    barrier.wait(START_SECONDS_MAX)
    for index, answer in client.submit_many(calls(), window=options.in_flight, idempotent=options.idempotent):
        last = time.monotonic()
        times.append(last - started[index])
        identifier = answer.headers.get("x-ms-ccf-transaction-id") if isinstance(answer, Answer) and answer.committed else None
        if identifier:
            ids.append(identifier)
        else:
            errors.append(repr(answer))
    return ids, times, errors, started[0], last


def main() -> int:
    """Returns: exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--url", required=True)
    parser.add_argument("--ca", type=Path, required=True, help="the service's certificate, PEM")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--keys", type=int, default=1000)
    parser.add_argument("--idempotent", action="store_true", help="with an idempotency key for each, as is the SDK's default")
    parser.add_argument("--ids", type=Path, help="write every transaction id to this file")
    options = parser.parse_args()
    barrier = Barrier(options.connections)
    with Client(options.url, service_certificate=options.ca) as client, ThreadPoolExecutor(options.connections) as threads:
        running = [threads.submit(work, number, options, client, barrier) for number in range(options.connections)]
        shares = [one.result() for one in running]
    ids = [identifier for share in shares for identifier in share[0]]
    times = sorted(seconds for share in shares for seconds in share[1])
    errors = [error for share in shares for error in share[2]]
    seconds = max(share[4] for share in shares) - min(share[3] for share in shares)
    if options.ids:
        options.ids.write_text("\n".join(ids))
    p50, p99 = percentile(times, 0.5) * 1000, percentile(times, 0.99) * 1000
    first_error = errors[0][:300] if errors else ""
    counts = {"answers": len(ids), "errors": len(errors), "first_error": first_error}
    sys.stdout.write(json.dumps({**counts, "seconds": seconds, "p50": p50, "p99": p99}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
