"""When an enclave wants to be woken: at its deadlines, and hardly ever for nothing. `Cluster` wakes it then, or when something comes."""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from ledgerd.apps.logging import app
from ledgerd.enclave.answers import SWEEP_SECONDS, Held, HeldAnswers
from ledgerd.enclave.archive import ANSWER_SECONDS, Archive
from ledgerd.enclave.boundary import Connect
from ledgerd.enclave.dialling import PATIENCE_SECONDS
from ledgerd.enclave.forwarding import Forwarded
from ledgerd.enclave.historical import ATTEMPTS_MAX, READ_SECONDS_MAX, RETRY_SECONDS, Historical
from ledgerd.enclave.requests import Request, Response
from ledgerd.ledger.ids import NodeId, Seqno, TransactionId, View
from support.cluster import Cluster, Host

NEVER = float("inf")
STEP_SECONDS = 0.0051  # of the cluster's time


def held(seqno: int, deadline: float) -> Held:
    return Held(TransactionId(View(2), Seqno(seqno)), None, Response(200), False, deadline)


def request() -> Request:
    return Request(None, "GET", "/", "", {}, b"", None, "")


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster(app)
    cluster.start(3)
    cluster.run(1.0)
    return cluster


def test_who_waits_for_a_commit_is_answered_in_time_and_the_enclave_sleeps_until_then(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = cluster.hosts["n0"]
    for other in cluster.hosts.values():
        other.stores = other is host
    client = cluster.client(host)
    began = cluster.now
    client.start("PUT", "/app/records/k", b"v", prefer="committed, wait=1")
    cluster.run(0.1)
    wakes: list[float] = []
    tick = host.enclave.tick

    def noted(now: float) -> None:
        wakes.append(now)
        tick(now)

    monkeypatch.setattr(host.enclave, "tick", noted)
    cluster.until(lambda: bool(client.answers))
    assert client.answers[0].status == 202 and 1.0 <= cluster.now - began < 1.0 + 3 * STEP_SECONDS
    quiet = [later - earlier for earlier, later in pairwise(wakes)]
    assert max(quiet) > 0.04, "nothing but peers and disks wakes it"


def test_a_peer_that_is_gone_is_dialled_with_patience_and_not_later(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    host = cluster.hosts["n1"]
    times: list[float] = []
    connect = cluster._connect

    def noted(dialler: Host, wanted: Connect) -> None:
        if dialler is host:
            times.append(cluster.now)
        connect(dialler, wanted)

    monkeypatch.setattr(cluster, "_connect", noted)
    cluster.kill(cluster.hosts["n2"])
    cluster.run(1.0)
    waits = [later - earlier for earlier, later in pairwise(times)]
    assert waits[:4] == pytest.approx([PATIENCE_SECONDS * 2**n for n in range(4)], abs=3 * STEP_SECONDS)


def test_answers_that_are_held_name_the_first_deadline_until_it_is_over() -> None:
    answers = HeldAnswers()
    assert answers.next_deadline == NEVER
    for seqno, deadline in ((1, 5.0), (2, 9.0), (3, NEVER)):
        answers.hold(held(seqno, deadline))
    assert answers.next_deadline == 5.0
    assert len(answers.take_committed(Seqno(1), 9)) == 1
    assert answers.take_expired(5.0) == [] and answers.next_deadline == 9.0
    assert [late.id.seqno for late in answers.take_expired(9.0)] == [2] and answers.next_deadline == NEVER


def test_requests_that_were_passed_on_name_the_first_deadline_until_it_is_over() -> None:
    forwarded, old, new = Forwarded(), NodeId("old"), NodeId("new")
    for node, deadline in ((old, NEVER), (new, 40.0), (old, 50.0)):
        forwarded.add(node, request(), deadline)
    assert forwarded.next_deadline == 40.0
    forwarded.hurry(new, 31.0)
    assert forwarded.next_deadline == 31.0
    assert len(forwarded.take_expired(30.9)) == 0 and len(forwarded.take_expired(31.0)) == 2
    assert forwarded.next_deadline == 40.0
    assert forwarded.answered(new, 2) is not None
    assert forwarded.take_expired(40.0) == [] and forwarded.next_deadline == NEVER


def test_questions_to_the_host_name_the_deadline_of_the_oldest() -> None:
    told: list[Any] = []
    archive = Archive(Any, Any, told.append)  # type: ignore[arg-type]  # neither is asked
    assert archive.next_deadline == NEVER
    for at in (1.0, 2.0, 3.0):
        archive.read(Seqno(1), Seqno(2), 100, at, told.append)
    assert archive.next_deadline == 1.0 + ANSWER_SECONDS
    archive.answered(1, [b"entry"])
    assert archive.next_deadline == 2.0 + ANSWER_SECONDS
    archive.expire(1.9 + ANSWER_SECONDS)
    assert told == [[b"entry"]]
    archive.expire(3.0 + ANSWER_SECONDS)
    assert told == [[b"entry"], [], []] and archive.next_deadline == NEVER


def test_ranges_that_are_read_name_when_to_ask_again_and_when_to_give_up() -> None:
    asked: list[Any] = []
    told: list[Any] = []
    archive: Any = SimpleNamespace(read=lambda *arguments: asked.append(arguments[-1]))
    consensus: Any = SimpleNamespace(commit_seqno=10)
    historical = Historical(archive, consensus, Any, told.append)  # type: ignore[arg-type]  # no entry is opened
    assert historical.next_deadline == NEVER
    for at in (1.0, 2.0, 3.0):  # two are read at the same time
        historical.tick(at)
        historical.read((1, 3), told.append, told.append)
    assert len(asked) == 2 and historical.next_deadline == 1.0 + READ_SECONDS_MAX
    asked[1]([])
    assert historical.next_deadline == 3.0 + RETRY_SECONDS
    historical.tick(3.0 + RETRY_SECONDS)
    assert len(asked) == 3 and historical.next_deadline == 1.0 + READ_SECONDS_MAX
    historical.tick(2.0 + READ_SECONDS_MAX)
    assert len(told) == 2 and historical.next_deadline == 3.0 + READ_SECONDS_MAX
    historical.tick(3.0 + READ_SECONDS_MAX)
    assert len(told) == 3 and historical.next_deadline == NEVER


def test_after_a_long_stop_the_host_still_has_its_time_for_what_is_asked_then(cluster: Cluster) -> None:
    """The third range is asked for in the wake-up that gives the others up, and its time counts from then, not from before the stop."""
    serving = cluster.hosts["n0"].enclave._serving
    assert serving is not None
    told: list[Any] = []
    for _ in range(3):
        serving._historical.read((1, 2), told.append, told.append)
    for reading in serving._historical._readings:
        reading.attempts = ATTEMPTS_MAX - 1
    late = serving._now + ANSWER_SECONDS + 1
    serving.tick(late)
    assert [error.error_code for error in told] == ["LedgerRangeMissing"] * 2
    assert [reading.attempts for reading in serving._historical._readings] == [0]
    assert serving._archive.next_deadline == late + ANSWER_SECONDS


@pytest.mark.parametrize("kind", ["held", "passed on"])
def test_many_who_wait_for_moments_of_their_own_are_looked_through_now_and_then(kind: str) -> None:
    """Else whoever has a thousand sessions, while nothing commits, keeps the enclave busy with looking through all for each."""
    waiting = HeldAnswers() if kind == "held" else Forwarded()
    for number in range(1_000):
        deadline = 1.0 + number / 1_000
        if isinstance(waiting, HeldAnswers):
            waiting.hold(held(number + 1, deadline))
        else:
            waiting.add(NodeId("primary"), request(), deadline)
    taken, sweeps = 0, 0
    while waiting.next_deadline < NEVER:
        now = waiting.next_deadline
        taken += len(waiting.take_expired(now))
        sweeps += 1
        due = min(1_000, int((now - 1.0) * 1_000 + 1e-6) + 1)
        assert taken >= due - 1, "nobody waits for longer"
    assert taken == 1_000
    assert sweeps <= 1.0 / SWEEP_SECONDS + 2
