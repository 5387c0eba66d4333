"""Answers to what one commit made final leave in pieces, so that clients go on while the rest is printed."""

import pytest

from ledgerd.apps.logging import app
from ledgerd.enclave.answering import ANSWERS_MAX
from ledgerd.enclave.answers import Held, HeldAnswers
from ledgerd.enclave.boundary import Ready
from ledgerd.enclave.requests import Response
from ledgerd.ledger.ids import Seqno, TransactionId, View
from support.cluster import Client, Cluster, Host

WRITES = 2 * ANSWERS_MAX + 10  # of a round: what one wake-up may answer takes three


def held(seqno: int) -> Held:
    return Held(TransactionId(View(2), Seqno(seqno)), None, Response(200), False, float("inf"))


def waiting(writes: int) -> tuple[Cluster, Host, list[Client]]:
    """A service whose primary has executed so many writes, and sent none of the answers, which wait for the commit."""
    cluster = Cluster(app)
    host = cluster.start(3)[0]
    clients = [cluster.client(host) for _ in range(writes)]
    for client in clients:
        client.ask("GET", "/node/version")  # shakes hands
    cluster.latency = 0.02
    for number, client in enumerate(clients):
        client.start("PUT", f"/app/records/{number}", b"v", prefer="committed")
    cluster.step()
    assert not answered(clients)
    return cluster, host, clients


def answered(clients: list[Client]) -> list[int]:
    """Who has been answered, in the order of their writes."""
    return [number for number, client in enumerate(clients) if len(client.answers) > 1]


def first_piece(cluster: Cluster, clients: list[Client]) -> int:
    """Run until somebody is answered. Returns: how many are."""
    while not answered(clients):
        if not cluster.step():
            cluster.now += 0.005
    return len(answered(clients))


def test_answers_leave_in_pieces_and_in_order_and_the_rest_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, host, clients = waiting(WRITES)
    pieces: list[int] = []
    obey = cluster._obey

    def counted(of: Host, ready: Ready) -> None:
        before = len(answered(clients))
        obey(of, ready)
        assert answered(clients) == list(range(len(answered(clients))))
        if len(answered(clients)) > before:
            pieces.append(len(answered(clients)) - before)

    monkeypatch.setattr(cluster, "_obey", counted)
    first_piece(cluster, clients)
    while len(answered(clients)) < WRITES:
        assert host.enclave.next_wakeup() <= cluster.now, "what is left needs nothing that comes from outside"
        cluster.step()
    assert pieces == [ANSWERS_MAX, ANSWERS_MAX, WRITES - 2 * ANSWERS_MAX]
    assert {client.answers[-1].status for client in clients} == {204}
    while cluster.step():
        pass
    assert host.enclave.next_wakeup() > cluster.now


def test_what_is_committed_is_not_called_unknown_by_a_node_that_ends_between_two_pieces() -> None:
    cluster, host, clients = waiting(WRITES)
    assert first_piece(cluster, clients) < WRITES
    serving = host.enclave._serving
    assert serving is not None
    serving._answering._give_up_at = cluster.now
    cluster.until(lambda: len(answered(clients)) == WRITES)
    assert {client.answers[-1].status for client in clients} == {204}


def test_held_answers_are_taken_in_order_and_so_many_at_most() -> None:
    answers = HeldAnswers()
    for seqno in (3, 1, 2, 5):
        answers.hold(held(seqno))
    assert answers.has_committed(Seqno(1)) and not answers.has_committed(Seqno(0))
    assert [one.id.seqno for one in answers.take_committed(Seqno(3), 2)] == [1, 2]
    assert [one.id.seqno for one in answers.take_committed(Seqno(3), 2)] == [3]
    assert answers.take_committed(Seqno(4), 2) == [] and not answers.has_committed(Seqno(4))
