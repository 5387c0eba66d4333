"""Two threads for what takes long and releases the GIL: one for requests to the NSM and verification, one for signing.

The loop waits for the second of two signatures, so that never stands behind anything: anybody may ask for documents.
Law: no Python computation here: a thread that holds the GIL turns a 4 us step of the loop into 2 ms. Results are collected by
the loop, woken once however many there are.
Not here: JavaScript workers, which are processes.
"""

import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple


class _Together(NamedTuple):
    """One part of `run_together`."""

    number: int
    together: Callable[[], Any]
    results: "queue.SimpleQueue[tuple[int, Any]]"


class Workers:
    """Runs jobs `(number, work)`; `work(nsm)` gives the result. `wake` becomes readable when results wait.

    Attributes:
        wake: Descriptor for the loop's poll.
    """

    def __init__(self, nsm: object) -> None:
        self.wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._nsm = nsm
        self._jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._together: queue.SimpleQueue[_Together] = queue.SimpleQueue()
        self._results: deque[tuple[int, Any]] = deque()
        threading.Thread(target=self._run, name="worker-jobs", daemon=True).start()
        threading.Thread(target=self._run_together, name="worker-together", daemon=True).start()

    def submit(self, job: Any) -> None:
        """Queue a job: has `number` and `work`."""
        self._jobs.put(job)

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            result: Any
            try:
                result = job.work(self._nsm)
            except Exception as error:  # whatever it is, who asked must learn of it
                result = error
            self._results.append((job.number, result))
            del job, result
            os.eventfd_write(self.wake, 1)

    def _run_together(self) -> None:
        while True:
            number, together, results = self._together.get()
            try:
                results.put((number, together()))
            except Exception as error:
                results.put((number, error))
            del together, results

    def run_together(self, works: list[Callable[[], Any]]) -> list[Any]:
        """Run all at once, the first in this thread, and return their results in order once all are there.

        For work of some hundred microseconds that the loop has to wait for anyway: two signatures cost the time of one, and no wake-up.
        Raises: Whatever one of them raises.
        """
        results: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        for index, work in enumerate(works[1:], 1):
            self._together.put(_Together(index, work, results))
        first = works[0]()
        others = sorted((results.get() for _ in works[1:]), key=lambda item: item[0])
        for _, result in others:
            if isinstance(result, Exception):
                raise result
        return [first, *(result for _, result in others)]

    def collect(self) -> list[tuple[int, Any]]:
        """Take the results that are there, each with its job's number; an exception is a result too. Call when `wake` is readable."""
        try:
            os.eventfd_read(self.wake)  # first, so that a result that comes meanwhile wakes again
        except BlockingIOError:
            return []
        results = self._results
        return [results.popleft() for _ in range(len(results))]
