import select
from typing import Any, NamedTuple

from ledgerd.enclave.runtime.workers import Workers


class Job(NamedTuple):
    number: int
    work: Any


def raises() -> None:
    raise ValueError("no")


def test_the_results_of_jobs_come_with_their_numbers_and_an_exception_is_one() -> None:
    workers = Workers(b"nsm")
    workers.submit(Job(7, lambda nsm: nsm + b"!"))
    workers.submit(Job(8, lambda nsm: raises()))
    found: list[tuple[int, Any]] = []
    while len(found) < 2:
        assert select.select([workers.wake], [], [], 5)[0]
        found += workers.collect()
    assert found[0] == (7, b"nsm!")
    assert found[1][0] == 8
    assert isinstance(found[1][1], ValueError)
