"""Figures put in order: rows, ratios, goals; as text, as JSON, as `docs/performance.md`."""

from typing import Any, NamedTuple

from bench_support.machine import Machine

GATEWAY, GRPC, HTTPS, USER, PIPELINED, IDLE = "gateway", "gRPC", "HTTPS", "HTTPS, user's certificate", "ledgerd/1 pipelined", "idle"
JAVASCRIPT = "HTTPS, JavaScript"
ETCD, LEDGERD, COMPILED = "etcd", "ledgerd", "ledgerd, compiled"
OURS = (LEDGERD, COMPILED)
SDK = "SDK"
DISTURBED_CORES = 0.2
"""What others may use during a load that is still believed: a tenth of the smallest machine that we measure on."""


class Row(NamedTuple):
    """One load on one system."""

    system: str
    path: str
    load: str
    """The program that made it."""
    connections: int
    in_flight: int
    per_second: float
    """Of answers that count."""
    p50_ms: float
    p99_ms: float
    answers: int
    not_counted: int
    """Answers whose transaction is not Committed, wrong answers, and connections that failed."""
    seconds: float
    cpu_us: dict[str, float]
    """Microseconds of CPU for one transaction, by process."""
    load_cpu_us: float
    others_cores: float
    """Cores that the rest of the machine kept busy meanwhile: near 0 in a run that can be believed."""

    @property
    def cpu_us_all(self) -> float:
        """All nodes together."""
        return sum(self.cpu_us.values())


CPU_OF_ETCD_MAX = 0.43
"""100 us of 234, which etcd's gateway took for a put on the machine where that goal was set: machines differ by a factor of three."""


class Goal(NamedTuple):
    """One promise, and what was found."""

    text: str
    wanted: str
    found: str
    reached: bool


class Report(NamedTuple):
    """A run, or several whose medians these are."""

    command: str
    rounds: int
    seconds: float
    versions: dict[str, str]
    machine: Machine
    rows: list[Row]


def median_rows(rounds: list[list[Row]]) -> list[Row]:
    """For each load the row of the round that was the median in throughput: real rows, not mixtures."""
    chosen = []
    for first in rounds[0]:
        same = [row for rows in rounds for row in rows if _key(row) == _key(first)]
        same.sort(key=lambda row: row.per_second)
        chosen.append(same[len(same) // 2])
    return chosen


def _key(row: Row) -> tuple[object, ...]:
    return row.system, row.path, row.load, row.connections, row.in_flight


def find(rows: list[Row], path: str, in_flight: int | None = None, system: str | None = None, load: str | None = None) -> Row | None:
    """The first row that fits, if it was measured."""
    for row in rows:
        if row.path == path and in_flight in (None, row.in_flight) and system in (None, row.system) and load in (None, row.load):
            return row
    return None


def peer_of(rows: list[Row], row: Row) -> Row | None:
    """The row of etcd that a row of ours is to be compared with.

    Same program, same number of requests in flight; for the pipelined path the gateway's best, whatever its connections.
    """
    if row.system not in OURS:
        return None
    if row.path == PIPELINED:
        gateway = [other for other in rows if other.path == GATEWAY and other.load == "wrk"]
        return max(gateway, key=lambda other: other.per_second, default=None)
    return find(rows, IDLE if row.path == IDLE else GATEWAY, row.in_flight, ETCD, row.load)


def grpc_peer_of(rows: list[Row], row: Row) -> Row | None:
    """etcd's gRPC row with as many requests in flight."""
    return find(rows, GRPC, row.in_flight, ETCD) if row.system in OURS and row.path != IDLE else None


def goals(rows: list[Row]) -> list[Goal]:
    """What is promised, for as much of it as was measured, of each build by itself."""
    found = [goal for system in OURS for goal in _goals_of(rows, system)]
    for row in rows:
        if row.not_counted:
            text = f"{row.system}, {row.path}, {row.connections} connections: answers that do not count"
            found.append(Goal(text, "0", str(row.not_counted), reached=False))
    return found


def _goals_of(rows: list[Row], system: str) -> list[Goal]:
    found: list[Goal] = []
    build = "" if system == LEDGERD else f"{system}: "

    def at_least(text: str, wanted: float, row: Row | None, peer: Row | None) -> None:
        if row and peer:
            ratio = row.per_second / peer.per_second
            found.append(Goal(build + text, f"at least {wanted:g}", f"{ratio:.1f}", ratio >= wanted))

    def below(text: str, wanted: str, limit: float, value: float, unit: str, *, equal: bool = False) -> None:
        found.append(Goal(build + text, wanted, f"{value:.3g}{unit}", value <= limit if equal else value < limit))

    for connections in (64, 256):
        row = find(rows, HTTPS, connections, system)
        at_least(f"HTTPS at {connections} connections, times etcd's gateway", 2.5, row, row and peer_of(rows, row))
    row = find(rows, JAVASCRIPT, 64, system)
    at_least("JavaScript at 64 connections, times etcd's gateway", 1.5, row, row and peer_of(rows, row))
    row = find(rows, PIPELINED, system=system, load=SDK)
    at_least("SDK pipelined 8 x 64, times etcd's gateway", 8, row, row and peer_of(rows, row))
    for connections in (64, 256):
        if row := find(rows, HTTPS, connections, system):
            text = f"CPU of all nodes for a write over HTTPS, {connections} connections"
            below(text, "under 100 us", 100, row.cpu_us_all, " us")
            if peer := peer_of(rows, row):
                wanted = f"under {CPU_OF_ETCD_MAX:g}, as 100 us were where the goal was set"
                below(f"{text}, times etcd's", wanted, CPU_OF_ETCD_MAX, row.cpu_us_all / peer.cpu_us_all, "")
    if (row := find(rows, HTTPS, 1, system)) and (peer := peer_of(rows, row)):
        below("p50 at one connection, times etcd's", "at most 2", 2, row.p50_ms / peer.p50_ms, "", equal=True)
    if row := find(rows, IDLE, system=system):
        below("an idle service commits one transaction, p50", "under 5 ms", 5, row.p50_ms, " ms")
    return found


def as_json(report: Report) -> dict[str, Any]:
    """Everything, for programs."""
    rows = []
    for row in report.rows:
        peer, grpc = peer_of(report.rows, row), grpc_peer_of(report.rows, row)
        ratios = {
            "cpu_us_all": row.cpu_us_all,
            "times_etcd_gateway": row.per_second / peer.per_second if peer else None,
            "times_etcd_grpc": row.per_second / grpc.per_second if grpc else None,
        }
        rows.append({**row._asdict(), **ratios})
    return {
        **report._asdict(),
        "machine": report.machine._asdict(),
        "rows": rows,
        "goals": [goal._asdict() for goal in goals(report.rows)],
    }


def tables(report: Report) -> dict[str, list[list[str]]]:
    """Title to rows of words, the first of them the heading."""
    speed = [
        ["System", "Path", "Connections x in flight", "Transactions/s", "p50 ms", "p99 ms", "x gateway", "x gRPC", "Not counted", "Load by"]
    ]
    cpu = [["System", "Path", "In flight", "All nodes", "By process", "Load", "Others' cores"]]
    for row in report.rows:
        peer, grpc = peer_of(report.rows, row), grpc_peer_of(report.rows, row)
        each = f"{row.connections} x {row.in_flight // row.connections}"
        ratios = [f"{row.per_second / other.per_second:.1f}" if other and row.path != IDLE else "" for other in (peer, grpc)]
        rate = "" if row.path == IDLE else f"{row.per_second:,.0f}"
        speed.append([row.system, row.path, each, rate, f"{row.p50_ms:.2f}", f"{row.p99_ms:.2f}", *ratios, str(row.not_counted), row.load])
        if row.path != IDLE:
            processes = ", ".join(f"{name} {value:.1f}" for name, value in row.cpu_us.items())
            others = f"{row.others_cores:.2f}"
            cpu.append([row.system, row.path, str(row.in_flight), f"{row.cpu_us_all:.0f}", processes, f"{row.load_cpu_us:.0f}", others])
    promises = [["Goal", "Wanted", "Found", ""]]
    promises += [[goal.text, goal.wanted, goal.found, "reached" if goal.reached else "MISSED"] for goal in goals(report.rows)]
    return {"Transactions": speed, "CPU microseconds a transaction": cpu, "Goals": promises}


def machine_lines(report: Report) -> list[str]:
    """The machine and the versions, as sentences."""
    machine = report.machine
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    disturbed = [row for row in report.rows if row.others_cores > DISTURBED_CORES]
    warnings = [f"DISTURBED: in {len(disturbed)} of {len(report.rows)} loads other programs used more than {DISTURBED_CORES:g} cores."]
    return [
        f"{machine.cpu}, {machine.cores} cores, {machine.memory_gib:g} GiB, Linux {machine.kernel}; all nodes and the load share it.",
        f"Disk: {machine.filesystem}; append 4 KiB and fdatasync: p50 {machine.sync_ms_p50:g} ms, p99 {machine.sync_ms_p99:g} ms.",
        f"Versions: {versions}.",
        f"{report.rounds} round(s), {report.seconds:g} s a load; other programs used {machine.busy_cores_before:g} cores before the run.",
        *(warnings if disturbed else []),
    ]


def as_text(report: Report) -> str:
    """For a terminal."""
    blocks = ["\n".join(machine_lines(report))]
    for title, rows in tables(report).items():
        if len(rows) > 1:
            widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
            lines = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]
            blocks.append("\n".join([title, "-" * len(title), *lines]))
    return "\n\n".join(blocks) + "\n"


PREFACE = """# Speed, measured

Made by `{command}`; do not edit: run it again. Three nodes of each system on one machine, TLS for clients and between nodes, every
commit synced to disk at a majority before it is answered, 64-byte values over 1,000 keys (ab and h2load repeat one key). All loads go
to the primary or leader.

An answer of ledgerd counts only if `/app/tx` afterwards calls its transaction Committed: every id is collected, duplicates are dropped,
the highest id of each view and a random sample are asked for, and all of them as soon as one is not Committed. Answers of etcd count if
it answered with a revision, no revision twice; ab's and gRPC's counts are compared with the revision of the store or the version of the
key.

"ledgerd" runs interpreted, as enclave images do; "ledgerd, compiled" is the same source with the modules that `scripts/compile` lists
compiled ahead of time. Which of the two a row is, its nodes said (`compiled_modules` of `/node/version`), and each stands beside the
same rows of etcd.

"x gateway" compares with etcd's JSON gateway under the same load, the pipelined path with the gateway's best row. "x gRPC" compares
with etcd's gRPC at as many requests in flight, loaded by h2load, which costs less CPU than any gRPC library that we tried. "SDK"
submits without idempotency keys, since etcd has none; "SDK, idempotent" is what it does by default; bare frames show the service
without the cost of the SDK. The idle rows are a lone client that writes ten times a second. CPU is user and system time of each process
over the load, handshakes included, for each transaction that counts. Wall-clock figures drift between machines and runs; ratios within
a run, and CPU, do less.
"""


def as_markdown(report: Report) -> str:
    """The page `docs/performance.md`."""
    blocks = [PREFACE.format(command=report.command), "\n".join(f"- {line}" for line in machine_lines(report))]
    for title, rows in tables(report).items():
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        lines.insert(1, "|" + "---|" * len(rows[0]))
        blocks.append("\n".join([f"## {title}", "", *lines]))
    return "\n\n".join(blocks) + "\n"
