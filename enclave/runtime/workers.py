"""A thread for what takes long and releases the GIL: requests to the NSM, which anybody may make it busy with, and verification.

Law: no Python computation here: a thread that holds the GIL turns a 4 us step of the loop into 2 ms. Results are collected by
the loop, woken once however many there are.
Not here: JavaScript workers, which are processes.
"""

import os
import queue
import threading
from collections import deque
from typing import Any


class Workers:
    """Runs jobs `(number, work)`; `work(nsm)` gives the result. `wake` becomes readable when results wait.

    Attributes:
        wake: Descriptor for the loop's poll.
    """

    def __init__(self, nsm: object) -> None:
        self.wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._nsm = nsm
        self._jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._results: deque[tuple[int, Any]] = deque()
        threading.Thread(target=self._run, name="worker-jobs", daemon=True).start()

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

    def collect(self) -> list[tuple[int, Any]]:
        """Take the results that are there, each with its job's number; an exception is a result too. Call when `wake` is readable."""
        try:
            os.eventfd_read(self.wake)  # first, so that a result that comes meanwhile wakes again
        except BlockingIOError:
            return []
        results = self._results
        return [results.popleft() for _ in range(len(results))]
