"""The loads: wrk for both services, ab for a client with a certificate, h2load for etcd's gRPC, frames for ours, a lone idle client.

Each gives a `Load`: what was answered and how fast. Whether that counts, the service is asked afterwards (`bench_support.checks`).
"""

import json
import re
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from bench_support.machine import percentile
from bench_support.processes import BenchError, run
from bench_support.wire import Wire

PUT_LUA = Path(__file__).with_name("put.lua")
AB_REQUESTS_MAX = 5_000_000
"""ab must know a number beside the time; it reserves some 40 bytes for each."""
IDLE_REQUESTS = 50
IDLE_PAUSE_SECONDS = 0.1
SLACK_SECONDS = 60.0
"""What a load may take beyond its measured seconds: handshakes of 256 connections, the last answers."""


class Request(NamedTuple):
    """One request to repeat."""

    method: str
    path: str
    body: str


class Target(NamedTuple):
    """Where to send requests, and how an answer that counts looks."""

    url: str
    requests: list[Request]
    headers: dict[str, str]
    status: int
    place: str
    """`header` or `body`: where the id of the write stands."""
    name: str
    """The header's name, or a Lua pattern whose capture is the id."""
    ca: Path


class Load(NamedTuple):
    """What a load saw. `answers` had the right status and an id; `errors` is everything else."""

    answers: int
    errors: int
    seconds: float
    p50_ms: float
    p99_ms: float
    ids: list[str]
    """Of every answer, where the load can see them; else empty."""


def wrk(target: Target, connections: int, seconds: float) -> Load:
    """Closed loop of `connections` keep-alive connections, one request outstanding on each. Raises: BenchError."""
    with tempfile.TemporaryDirectory(prefix="wrk-") as name:
        folder = Path(name)
        lines = (f"{request.method}\t{request.path}\t{request.body}\n" for request in target.requests)
        (folder / "requests").write_text("".join(lines))
        headers = [word for header, value in target.headers.items() for word in ("-H", f"{header}: {value}")]
        command = ["wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds:.0f}s", "--timeout", "30s", "-s", str(PUT_LUA), *headers]
        command += [target.url, "--", str(folder / "requests"), str(target.status), target.place, target.name, str(folder)]
        lines_out = run(command, seconds=seconds + SLACK_SECONDS).splitlines()
        ids = [line[3:] for line in lines_out if line.startswith("id ")]
        for file in folder.glob("*.ids"):
            ids += file.read_text().split()
    try:
        summary = json.loads(lines_out[-1])
    except (IndexError, ValueError):
        raise BenchError(f"wrk printed no summary: {' '.join(lines_out)[-300:]}") from None
    errors = summary["errors"] + summary["strays"]
    return Load(len(ids), errors, summary["duration"] / 1e6, summary["p50"] / 1000, summary["p99"] / 1000, ids)


def ab(target: Target, connections: int, seconds: float, identity: Path | None = None) -> Load:
    """The same loop by Apache's ab, which can present a client certificate but repeats one request.

    Args:
        identity: PEM file with the client's certificate and its key.
    Raises: BenchError.
    """
    request = target.requests[0]
    with tempfile.TemporaryDirectory(prefix="ab-") as name:
        body, table = Path(name, "body"), Path(name, "percentiles.csv")
        body.write_text(request.body)
        command = [
            "ab",
            "-q",
            "-k",
            "-s",
            "30",
            "-c",
            str(connections),
            "-t",
            f"{seconds:.0f}",
            "-n",
            str(AB_REQUESTS_MAX),
            "-e",
            str(table),
        ]
        command += ["-u" if request.method == "PUT" else "-p", str(body), "-T", "text/plain"]
        command += [word for header, value in target.headers.items() for word in ("-H", f"{header}: {value}")]
        command += ["-E", str(identity)] if identity else []
        command += ["-v", "2"] if target.place == "header" else []  # prints the headers of every answer
        output = run([*command, target.url + request.path], seconds=seconds + SLACK_SECONDS)
        rows = dict(line.split(",") for line in table.read_text().splitlines()[1:])
    figures = dict(
        re.findall(r"^(Complete requests|Failed requests|Non-2xx responses|Time taken for tests):\s+([\d.]+)", output, re.MULTILINE)
    )
    done, failed = int(figures["Complete requests"]), int(figures["Failed requests"]) + int(figures.get("Non-2xx responses", 0))
    ids = []
    if target.place == "header":
        answers = re.split(r"^LOG: header received:$", output, flags=re.MULTILINE)[1:]
        wanted = re.compile(rf"^HTTP/1\.1 {target.status} .*?^{re.escape(target.name)}: (\S+)", re.MULTILINE | re.DOTALL | re.IGNORECASE)
        ids = [match[1] for answer in answers if (match := wanted.search(answer))]
        failed, done = max(failed, done - len(ids)), min(done, len(ids))
    else:
        done -= failed
    return Load(done, failed, float(figures["Time taken for tests"]), float(rows["50"]), float(rows["99"]), ids)


def h2load(url: str, key: bytes, value: bytes, connections: int, streams: int, seconds: float) -> Load:
    """etcd's gRPC put, by nghttp2's h2load: connections with a number of calls in flight on each.

    Of what Debian, PyPI and npm offer this asks most of etcd for the least of its own processor time, several times less than grpcio or
    grpc-js (`etcdctl check perf` keeps to a fixed rate). It repeats one message, so one key; and it does not look into gRPC's
    status, so the caller compares with the key's version afterwards.
    Raises: BenchError.
    """
    message = b"".join(struct.pack("BB", tag, len(field)) + field for tag, field in ((0x0A, key), (0x12, value)))
    with tempfile.TemporaryDirectory(prefix="h2load-") as name:
        body, log = Path(name, "body"), Path(name, "log")
        body.write_bytes(struct.pack(">BI", 0, len(message)) + message)
        command = ["h2load", "-D", f"{seconds:.0f}", "-c", str(connections), "-m", str(streams), "-d", str(body), "--log-file", str(log)]
        command += ["-H", "content-type: application/grpc", "-H", "te: trailers", url + "/etcdserverpb.KV/Put"]
        output = run(command, seconds=seconds + SLACK_SECONDS)
        times = sorted(int(line.rpartition("\t")[2]) / 1000 for line in log.read_text().splitlines())
    counts = re.search(r"^requests: .* (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", output, re.MULTILINE)
    duration = re.search(r"^finished in ([\d.]+)s", output, re.MULTILINE)
    if counts is None or duration is None or not times:
        raise BenchError(f"h2load made no request that succeeded: {output[-400:]}")
    errors = sum(int(count) for count in counts.groups()[1:])
    return Load(int(counts[1]), errors, float(duration[1]), percentile(times, 0.5), percentile(times, 0.99), [])


def idle(target: Target) -> Load:
    """One client that writes ten times a second, on one kept connection: what a transaction takes of an idle service. Raises: OSError."""
    pattern = re.compile(target.name.replace("%d", "[0-9]"))
    times, ids = [], []
    started = time.monotonic()
    with Wire(target.url, target.ca) as wire:
        for number in range(IDLE_REQUESTS):
            request = target.requests[number % len(target.requests)]
            sent = time.perf_counter()
            answer = wire.ask(request.method, request.path, request.body.encode(), target.headers)
            times.append((time.perf_counter() - sent) * 1000)
            found = pattern.search(answer.body.decode()) if target.place == "body" else None
            identifier = found[1] if found else answer.headers.get(target.name)
            if answer.status == target.status and identifier:
                ids.append(identifier)
            time.sleep(IDLE_PAUSE_SECONDS)
    times.sort()
    seconds = time.monotonic() - started
    return Load(len(ids), len(times) - len(ids), seconds, percentile(times, 0.5), percentile(times, 0.99), ids)


def pipelined(
    url: str, ca: Path, folder: Path, *options: str, program: str = "pipelined.py", seconds: float, connections: int, in_flight: int
) -> Load:
    """ledgerd/1 by a program of this folder, in a process of its own: `pipelined.py` with bare frames, `sdk.py` with the SDK.

    Args:
        folder: where the ids pass through a file.
        options: further ones of that program.
        in_flight: requests on each connection.
    Raises: BenchError.
    """
    ids = folder / f"{program}.ids"
    command = [sys.executable, str(Path(__file__).with_name(program)), "--url", url, "--ca", str(ca), "--ids", str(ids), *options]
    command += ["--connections", str(connections), "--in-flight", str(in_flight), "--seconds", str(seconds)]
    summary = json.loads(run(command, seconds=seconds + SLACK_SECONDS).splitlines()[-1])
    names = ids.read_text().split()
    return Load(summary["answers"], summary["errors"], summary["seconds"], summary["p50"], summary["p99"], names)
