"""A whole service in virtual time, one of whose hosts changes everything that it says: any byte of any frame, any answer, the time itself.

Bytes are changed at random, and so are events by somebody who knows what they mean: other streams, numbers near the right ones, other
entries, what was said before. What a frame of the link cannot hold is refused by its form (and would end the node, with that reason); all
else reaches the enclave. None of it may raise, end an enclave without a reason, make an acknowledged write go away, fork a ledger, or give
a client a wrong answer; and what no honest host says is counted by reason.
"""

import json
import random
from collections import Counter
from typing import Any

import pytest

from ledgerd.apps.logging import app
from ledgerd.enclave import archive, boundary, historical
from ledgerd.enclave.boundary import CLIENT, OUTBOUND, PEER, Closed, Configured, Event, Fetched, Opened, Received, Stored
from ledgerd.enclave.host_rejects import CONFIGURED, DOCUMENT, FETCHED, OPENED, REASONS, STORED, HostRejects
from ledgerd.enclave.ranges import CheckedEntry
from ledgerd.enclave.serving import Serving
from ledgerd.ledger import signature
from ledgerd.ledger.errors import HostError, PeerError
from ledgerd.ledger.ids import Seqno, View
from ledgerd.ledger.receipt import verify_json
from support.cluster import Client, Cluster, Host
from support.fuzzing.mutation import mutate

ID = "x-ms-ccf-transaction-id"
ROUNDS = 100
LIES_MIN = 250  # in each run; some thousands in all
EVENTS = ("Closed", "Configured", "Fetched", "Opened", "Received", "Stored")  # all but the wish to stop, which no lie can make worse
OTHERWISE = ("again", "late", "module", "time")


class LyingModule:
    """Stands before a security module, and changes its answers while it is told to."""

    def __init__(self, module: Any, cluster: "LyingCluster", part: float) -> None:
        self._module = module
        self._cluster = cluster
        self._part = part

    def request(self, request: bytes) -> bytes:
        answer: bytes = self._module.request(request)
        cluster = self._cluster
        if cluster.hostile is None or cluster.random.random() > self._part:
            return answer
        cluster.lies["module"] += 1
        return mutate(answer, answer, cluster.random)


class LyingCluster(Cluster):
    """Changes what one host tells its enclave; counts how often, and what became of it.

    Attributes:
        lies: Mutations, by what was changed.
        refused: Frames whose form the enclave refused.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(app)
        self.random = random.Random(seed)
        self.hostile: Host | None = None
        self.lies: Counter[str] = Counter()
        self.refused = 0
        self.seen: Counter[str] = Counter()  # what clients were shown of the disk
        self._before: list[bytes] = []
        self._offset = 0.0

    def attack(self, host: Host, module_part: float = 0.5) -> None:
        """From now on this one's host lies, and of its security module's answers so many are changed."""
        self.hostile = host
        host.nsm = LyingModule(host.nsm, self, module_part)  # type: ignore[assignment]

    def _wake(self, host: Host) -> None:
        if host is not self.hostile:
            super()._wake(host)
            return
        events = list(host.inbox)
        host.inbox.clear()
        if self.random.random() < 0.15:
            events.insert(self.random.randrange(len(events) + 1), self._invented(host))
        host.enclave.tick(self._time())
        for frame in self._frames(events):
            try:
                found = boundary.decode_events(frame)
            except HostError:
                self.refused += 1
                continue
            host.enclave.receive(found)
        self._carry_out(host)

    def _time(self) -> float:
        """As the host's machine shows it: it jumps, and stands still."""
        chance = self.random.random()
        if chance < 0.1:
            self.lies["time"] += 1
            self._offset = self.random.choice((-50.0, -1.0, -0.1, 0.0, 0.1, 0.5, 2.0))
        return self.now + self._offset

    def _frames(self, events: list[Event]) -> list[bytes]:
        """One frame for each event, a part of them changed, given twice, out of turn, or again from before."""
        chosen = self.random
        frames = []
        for event in events:
            frame = boundary.encode_events([event])
            other = chosen.choice(self._before) if self._before else frame
            kind = chosen.random()
            # Bytes of streams are under TLS, which ends at the first that was changed; then nothing more could be tried there for a while.
            if kind < (0.04 if isinstance(event, Received) else 0.4 if isinstance(event, Stored | Fetched) else 0.2):
                self.lies[type(event).__name__] += 1
                frame = mutate(frame, other, chosen) if chosen.random() < 0.5 else boundary.encode_events([self._changed(event)])
            elif kind < 0.3:
                self.lies["again"] += 1
                frames.append(other)
            elif kind < 0.33:
                self.lies["late"] += 1
                frame, self._before = other, [*self._before, frame]
            self._before = [*self._before[-40:], frame]
            frames.append(frame)
        return frames

    def _changed(self, event: Event) -> Event:
        """The same kind of event, with something else in it that is well-formed."""
        chosen = self.random
        match event:
            case Opened(stream, _, remote):
                return Opened(chosen.choice((stream, -stream, stream + 1)), chosen.choice((CLIENT, PEER, OUTBOUND)), remote)
            case Received(stream, data):
                return Received(stream, data[: chosen.randrange(len(data))] + chosen.randbytes(3))
            case Stored(generation, view, seqno):
                near = chosen.choice((0, seqno // 2, seqno - 1, seqno + 1, seqno + 1_000))
                return chosen.choice(
                    (Stored(generation, view, max(0, near)), Stored(generation + 1, view, seqno), Stored(generation, 0, seqno))
                )
            case Fetched(number, entries):
                known = self.hosts["n0"].entries
                begin = chosen.randrange(len(known))
                other = known[begin : begin + len(entries)]
                return Fetched(
                    number, chosen.choice(([], entries[1:], entries[:-1], entries[::-1], entries * 2, other, [b"", *entries[1:]]))
                )
            case _:
                return event

    def _invented(self, host: Host) -> Event:
        """What nothing has happened for."""
        chosen = self.random
        kind = chosen.choice(EVENTS)
        self.lies[kind] += 1
        stream = chosen.choice(list(host.streams) or [1])
        match kind:
            case "Closed":
                return Closed(stream)
            case "Configured":
                return Configured(b"{}")
            case "Fetched":
                return Fetched(chosen.randrange(20), host.entries[:3])
            case "Opened":
                number = chosen.choice((stream, -chosen.randrange(1, 50), host.next_stream + chosen.randrange(3)))
                return Opened(number, chosen.choice((CLIENT, PEER, OUTBOUND)), "nobody:1")
            case "Received":
                return Received(stream, chosen.randbytes(40))
            case _:
                return Stored(chosen.randrange(3), chosen.randrange(4), len(host.entries) + chosen.randrange(-3, 3))

    def _carry(self, host: Host, stream: int, data: bytes) -> None:
        try:
            super()._carry(host, stream, data)
        except PeerError:
            self.close_stream(host, stream)

    def close_stream(self, host: Host, stream: int) -> None:
        if host.streams.get(stream) is not None:
            super().close_stream(host, stream)


class Watched:
    """Writes each key once, with its own name as value, and remembers what was said of it."""

    def __init__(self, cluster: LyingCluster) -> None:
        self.cluster = cluster
        self.acknowledged: dict[str, str] = {}  # key to transaction
        self._waiting: list[tuple[Client, str, bool]] = []
        self._receipts: list[tuple[Client, str]] = []
        self._pasts: list[tuple[Client, str, str]] = []
        self.receipts = 0
        self.pasts = 0

    def write(self, host: Host, key: str) -> None:
        client = self.cluster.client(host)
        client.start("PUT", f"/app/public/records/{key}", key.encode(), prefer="committed")
        self._waiting.append((client, key, True))

    def read(self, host: Host) -> None:
        if self.acknowledged:
            key = self.cluster.random.choice(list(self.acknowledged))
            client = self.cluster.client(host)
            client.start("GET", f"/app/public/records/{key}", prefer="committed")
            self._waiting.append((client, key, False))

    def ask(self, host: Host) -> None:
        """What needs the security module, and what needs the disk."""
        nonce = self.cluster.random.randbytes(32).hex()
        self.cluster.client(host).start("GET", f"/node/attestations/self?nonce={nonce}")
        if self.acknowledged:
            transaction = self.cluster.random.choice(list(self.acknowledged.values()))
            client = self.cluster.client(host)
            client.start("GET", f"/app/receipt?transaction_id={transaction}")
            self._receipts.append((client, transaction))
            key, transaction = self.cluster.random.choice(list(self.acknowledged.items()))
            seqno = int(transaction.partition(".")[2])
            client = self.cluster.client(host)
            client.start("GET", f"/app/public/records/{key}/historical/range?first={max(1, seqno - 3)}&last={seqno}")
            self._pasts.append((client, key, transaction))

    def look(self) -> None:
        """Judge what has come."""
        left = []
        for client, key, is_write in self._waiting:
            if not client.answers:
                left.append((client, key, is_write))
            elif is_write and client.answers[0].status == 204:
                self.acknowledged[key] = client.answers[0].headers[ID]
            elif not is_write and client.answers[0].status == 200:
                assert client.answers[0].body == key.encode(), "a client saw something else than was written"
            elif not is_write:
                assert client.answers[0].status != 404, "a linearizable read does not see what was acknowledged before it"
        self._waiting = left
        for client, transaction in [item for item in self._receipts if item[0].answers]:
            self._receipts.remove((client, transaction))
            if client.answers[0].status == 200:
                proved = verify_json(client.answers[0].body, self.cluster.hosts["n0"].notices["service_certificate"])
                assert str(proved.transaction_id) == transaction
                self.receipts += 1
        for past in [item for item in self._pasts if item[0].answers]:
            self._pasts.remove(past)
            client, key, transaction = past
            if client.answers[0].status == 200:
                assert json.loads(client.answers[0].body) == [{"transaction_id": transaction, "message": key}]
                self.pasts += 1


def attacked(seed: int, name: str) -> LyingCluster:
    """Let one host of three lie while clients write and read, and judge what came of it.

    Raises: AssertionError: Something is wrong; or whatever an enclave raised.
    """
    cluster = LyingCluster(seed)
    cluster.start(3)
    cluster.run(0.3)
    hosts = cluster.hosts
    victim = hosts[name]
    honest = [host for host in hosts.values() if host is not victim]
    watched = Watched(cluster)
    for number in range(5):
        watched.write(hosts["n0"], f"before{number}")
    cluster.run(0.3)
    watched.look()
    assert len(watched.acknowledged) == 5
    cluster.attack(victim)
    for number in range(ROUNDS):
        alive = [host for host in hosts.values() if host.alive]
        watched.write(cluster.random.choice(alive), f"during{number}")
        watched.read(cluster.random.choice(alive))
        if victim.alive:
            watched.ask(victim)
        cluster.run(0.05)
        watched.look()
    rejected = dict(victim.enclave._rejects.counts)
    cluster.hostile = None
    cluster.run(3)
    watched.look()
    cluster.seen["receipts"] += watched.receipts
    cluster.seen["pasts"] += watched.pasts
    assert [host.stopped for host in honest] == [None, None], "another's host ended an honest host's enclave"
    assert (victim.stopped is None) == ("refused" not in victim.notices), "a node that stops says why"
    assert victim.stopped in (None, 1)
    writer = cluster.writer(honest)
    for key, transaction in watched.acknowledged.items():
        answer = writer.ask("GET", f"/app/public/records/{key}")
        assert (answer.status, answer.body) == (200, key.encode())
        assert b'"Committed"' in writer.ask("GET", f"/app/tx?transaction_id={transaction}").body
    both = min(
        host.committed for host in honest
    )  # the victim may be behind: who said that a stream is closed can keep its node from hearing
    assert honest[0].entries[:both] == honest[1].entries[:both]
    assert victim.entries[: min(both, victim.committed)] == honest[0].entries[: min(both, victim.committed)]
    if victim.alive:
        assert sum(cluster.lies.values()) > LIES_MIN and set(cluster.lies) == {*EVENTS, *OTHERWISE}, cluster.lies
        assert {CONFIGURED, OPENED, FETCHED, DOCUMENT} <= set(rejected) <= set(REASONS), rejected
    return cluster


@pytest.mark.parametrize("name", ["n0", "n1"])
@pytest.mark.parametrize("seed", range(3))
def test_any_mutation_of_what_a_host_says_is_refused_or_harmless(seed: int, name: str) -> None:
    cluster = attacked(seed, name)
    assert min(cluster.seen["receipts"], cluster.seen["pasts"]) > 2, "clients were shown something of the disk"


def _believing(sealer: Any, view_of: Any, commit: Seqno, first: Seqno, entries: list[bytes]) -> list[CheckedEntry]:
    """As `ranges.check_range`, of an enclave that believes its host as to which entry is which."""
    opened = [(data, sealer.open(data)) for data in entries]
    return [CheckedEntry(data, found, signature.parse(found.writes)) for data, found in opened]


def _believing_each(sealer: Any, view_of: Any, commit: Seqno, seqno: Seqno, data: bytes) -> CheckedEntry:
    """As `ranges.recognise`, of the same."""
    found = sealer.open(data)
    return CheckedEntry(data, found, signature.parse(found.writes))


def _raising(this: Serving, generation: int, view: int, seqno: int) -> None:
    """As `Serving.stored`, of an enclave that does not expect a lie."""
    this._consensus.stored(generation, View(view), Seqno(seqno))


@pytest.mark.parametrize(
    ("place", "name", "bug"),
    [
        pytest.param(archive, "check_range", _believing, id="entries are believed"),
        pytest.param(historical, "recognise", _believing_each, id="entries of the past are believed"),
        pytest.param(Serving, "stored", _raising, id="a lie raises"),
        pytest.param(HostRejects, "count", lambda this, reason, error: None, id="a lie is not counted"),
    ],
)
def test_an_enclave_that_does_not_expect_lies_is_found(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, bug: Any) -> None:
    monkeypatch.setattr(place, name, bug)
    with pytest.raises(Exception):  # noqa: B017  of whatever kind: without the bug there is none
        for seed in range(3):
            attacked(seed, "n0")


def test_a_joiner_whose_host_and_module_lie_ends_with_a_reason_or_joins() -> None:
    became: Counter[str] = Counter()
    for seed in range(40):
        cluster = LyingCluster(seed)
        first = cluster.start(1)[0]
        joiner = cluster.join("n1")
        cluster.attack(joiner, module_part=0.05)
        cluster.run(0.5)
        cluster.hostile = None
        refused_by_form = cluster.refused
        cluster.run(15)  # more than a joiner waits for an answer
        assert first.stopped is None
        assert (joiner.stopped is None) == ("refused" not in joiner.notices)
        end = "ended" if joiner.stopped is not None else "joined" if joiner.notices.get("open") else "waits"
        # Only a frame that would have ended it, the configuration in it perhaps, may leave it waiting for ever.
        assert end != "waits" or refused_by_form or cluster.lies["Configured"], (seed, cluster.lies)
        became[end] += 1
    assert became["ended"] > 2 and became["joined"] > 2, became


def test_what_no_honest_host_says_is_counted_by_reason() -> None:
    cluster = Cluster(app)
    host = cluster.start(1)[0]
    host.inbox.extend([Configured(b"{}"), Opened(-77, OUTBOUND, "nobody"), Stored(0, 9, 1_000)])
    client = cluster.client(host)
    host.inbox.append(Opened(client.stream, CLIENT, "twice"))
    cluster.run(0.1)
    answer = client.ask("GET", "/node/metrics")
    assert json.loads(answer.body)["host_rejects"] == {CONFIGURED: 1, OPENED: 2, STORED: 1}
    assert host.stopped is None
