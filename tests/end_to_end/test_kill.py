"""The primary is killed under load, in ten fresh services: nothing acknowledged is lost, nothing happens twice, and writes go on.

Clients write each key once, with `prefer: committed` and an idempotency key; one whose connection breaks or who is told to ask again
repeats the same request at the next node. Afterwards the ledgers themselves are read, not only what the nodes say about them.
Not here: how soon writes go on, which a busy machine has a say in; `tests/enclave/test_membership.py` has it under virtual time.
"""

import collections
import itertools
import threading
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from ledgerd.ledger.audit import Auditor
from ledgerd.ledger.entry import read_public
from support.https import AGAIN, Answer, Request, Session
from support.processes import DEFAULT_MS, ENDING_SECONDS_MAX, POLL_SECONDS, Node, Service, wait_for

RUNS = 10
WRITERS = 6
ACKNOWLEDGED_BEFORE = 300  # in all, before the primary is killed
ACKNOWLEDGED_AFTER = 10  # by each writer: all but one, which was on its way, by the next primary
BUDGET_SECONDS = 100.0  # for one write with all its repetitions
MAP = "public:records"


class Written(NamedTuple):
    """One acknowledged write."""

    key: str
    value: str
    transaction_id: str
    at: float
    attempts: int

    @property
    def seqno(self) -> int:
        return int(self.transaction_id.partition(".")[2])


def _put(key: str, value: str) -> Request:
    return Request("PUT", f"/app/public/records/{key}", value.encode(), {"prefer": "committed", "idempotency-key": f"once-{key}"})


class Writer:
    """One client: writes a new key as soon as the last one is acknowledged."""

    def __init__(self, service: Service, number: int, stopping: threading.Event) -> None:
        self.written: list[Written] = []
        self.problems: list[str] = []
        self._service = service
        self._number = number
        self._at = number
        self._stopping = stopping
        self._session: Session | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        for count in itertools.count():
            if self._stopping.is_set() or not self._write(f"w{self._number}-{count}", f"value {self._number} of {count}"):
                break
        self._leave()

    def _write(self, key: str, value: str) -> bool:
        end = time.monotonic() + BUDGET_SECONDS
        said = ""
        for attempt in itertools.count(1):
            try:
                answer = self._here().ask_all([_put(key, value)])[0]
            except OSError as error:
                said = str(error)
            else:
                if answer.status == 204:
                    self.written.append(Written(key, value, answer.transaction_id, time.monotonic(), attempt))
                    return True
                said = f"{answer.status} {answer.body!r}"
                if answer.status not in AGAIN:
                    break
            self._leave()
            self._at += 1
            if time.monotonic() > end:
                break
            time.sleep(POLL_SECONDS)
        self.problems.append(f"{key} after {attempt} attempts: {said}")
        return False

    def _here(self) -> Session:
        if self._session is None:
            nodes = self._service.nodes
            self._session = nodes[self._at % len(nodes)].session()
        return self._session

    def _leave(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None


class Load:
    """All writers; a context manager that stops them."""

    def __init__(self, service: Service) -> None:
        self._stopping = threading.Event()
        self.writers = [Writer(service, number, self._stopping) for number in range(WRITERS)]

    def __enter__(self) -> "Load":
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for writer in self.writers:
            writer.thread.join()

    def written(self) -> list[Written]:
        """What was acknowledged until now."""
        return [item for writer in self.writers for item in list(writer.written)]

    def problems(self) -> list[str]:
        """What clients could not get done within their budget."""
        return [problem for writer in self.writers for problem in writer.problems]


@pytest.mark.parametrize("number", range(RUNS))
def test_a_killed_primary_loses_nothing_and_does_nothing_twice(number: int, tmp_path: Path) -> None:
    with Service(tmp_path, election_ms=DEFAULT_MS) as service:
        with Load(service) as load:
            wait_for(lambda: len(load.written()) >= ACKNOWLEDGED_BEFORE or load.problems(), "writes are acknowledged")
            primary = service.primary()
            wait_for(lambda: primary.committed_on_disk() > len(service.nodes), "its disk notes what is committed")
            (primary.kill_host if number % 2 == 0 else primary.kill_enclave)()
            killed_at = time.monotonic()

            def resumed() -> bool:
                done = (sum(item.at > killed_at for item in list(writer.written)) for writer in load.writers)
                return bool(load.problems()) or all(count >= ACKNOWLEDGED_AFTER for count in done)

            wait_for(resumed, "every client writes again")
        assert not load.problems()
        written = load.written()
        assert any(item.attempts > 1 for item in written), "the kill must hit somebody"
        assert primary.process.wait(ENDING_SECONDS_MAX) != 0
        assert primary.wait_enclave_ended()

        survivors = service.alive()
        assert len(survivors) == 2
        service.settle(max(item.seqno for item in written))  # a backup learns a little later what is committed
        check_answers(survivors, written)
        committed = service.settle(max(item.seqno for item in written))
        ledgers = [node.entries() for node in survivors]
        check_ledgers(ledgers, primary, committed)
        check_writes(ledgers[0], written)
        auditor = Auditor(service.certificate.read_text())
        for entry in ledgers[0]:
            auditor.feed(entry)
        assert auditor.result().last_signed == auditor.result().last_transaction_id


def check_answers(survivors: list[Node], written: list[Written]) -> None:
    """Survivors call every acknowledged transaction Committed, have its value, and repeat their answer instead of writing again."""
    for node in survivors:
        statuses = node.ask_until_answered([Request("GET", f"/app/tx?transaction_id={item.transaction_id}") for item in written])
        values = node.ask_until_answered([Request("GET", f"/app/public/records/{item.key}") for item in written])
        repeated = [item for item in written if item.attempts > 1] + written[:: len(written) // 50]
        again = node.ask_until_answered([_put(item.key, item.value) for item in repeated])
        assert [answer.json()["status"] for answer in statuses] == ["Committed"] * len(written)
        assert [answer.body.decode() for answer in values] == [item.value for item in written]
        assert [_of(answer) for answer in again] == [(204, item.transaction_id) for item in repeated]


def _of(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.headers.get("x-ms-ccf-transaction-id")


def check_ledgers(ledgers: list[list[bytes]], dead: Node, committed: int) -> None:
    """All ledgers are the same bytes as far as they are committed, the dead node's too."""
    assert ledgers[0] == ledgers[1]
    assert len(ledgers[0]) == committed
    dead_committed = dead.committed_on_disk()
    assert dead_committed > len(dead.service.nodes)
    prefix = dead.entries(dead_committed)
    assert len(prefix) == dead_committed <= committed
    assert prefix == ledgers[0][:dead_committed]


def check_writes(ledger: list[bytes], written: list[Written]) -> None:
    """Every acknowledged write stands in the ledger once, where its answer said; no write, acknowledged or not, stands there twice."""
    found: dict[str, list[tuple[str, str]]] = collections.defaultdict(list)
    for data in ledger:
        entry = read_public(data)
        for key, value in entry.writes.get(MAP, {}).items():
            assert value is not None
            found[key.decode()].append((f"{entry.view}.{entry.seqno}", value.decode()))
    assert {item.key: found[item.key] for item in written} == {item.key: [(item.transaction_id, item.value)] for item in written}
    assert {key for key, writes in found.items() if len(writes) > 1} == set()
