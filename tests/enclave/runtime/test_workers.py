import select
import threading
from typing import Any, NamedTuple

import pytest

from ledgerd.enclave.runtime.workers import Workers


class Job(NamedTuple):
    number: int
    work: Any


def raises() -> None:
    raise ValueError("no")


def test_signatures_never_wait_for_the_security_module_which_anybody_can_keep_busy() -> None:
    workers = Workers(b"nsm")
    answered = threading.Event()
    for number in range(100):
        workers.submit(Job(number, lambda nsm: answered.wait(10)))
    together: list[list[int]] = []
    loop = threading.Thread(target=lambda: together.append(workers.run_together([lambda: 1, lambda: 2, lambda: 3])))
    loop.start()
    loop.join(5)
    assert together == [[1, 2, 3]]
    answered.set()


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


def test_an_exception_of_one_that_runs_together_is_raised_to_whoever_waits() -> None:
    workers = Workers(b"")
    with pytest.raises(ValueError, match="no"):
        workers.run_together([lambda: 1, raises])
    assert workers.run_together([lambda: 1, lambda: 2]) == [1, 2]
