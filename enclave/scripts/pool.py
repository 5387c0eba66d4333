"""Which worker runs what, until when: the script workers of one enclave, without processes, sockets or clock.

Feed it with `submit`, `received`, `ended` and `tick`; then take `ready` and do what it says. Jobs of a lane are started in the order in
which they came, several at a time, so that the words of many go in one frame; lanes take turns (`enclave.scripts.lanes`). A worker says in
order what became of its jobs, those of a moment together. A worker that breaks the protocol is killed, and the first of its jobs without
an outcome is to blame. So is one that dies, or says nothing within that job's time; but then nobody knows which of several it was: some
may have ended well and not been told of yet. All that are not to blame are run elsewhere, those that may be one by one, for nothing of a
run is seen before its end.
Jobs that must be alone have a worker of their own, always a fresh one; they and the others never wait for each other.
Law: a job ends exactly once; no script, and no worker in the wrong hands, makes another job's result or holds up anybody but its own.
Not here: what the messages of one job may do (`enclave.scripts.run`), starting and killing (`enclave.runtime.script_pool`).
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

from ledgerd.enclave.scripts import messages
from ledgerd.enclave.scripts.access import Access
from ledgerd.enclave.scripts.jobs import DEADLINE_TEXT, Bundle, End, Job, Outcome
from ledgerd.enclave.scripts.lanes import Lane, Lanes
from ledgerd.enclave.scripts.messages import WorkerError
from ledgerd.enclave.scripts.run import Call, Run, Scope, job_message

QUEUED_MAX: Final = 10_000  # as many as requests may wait
BATCH_MAX: Final = 64  # jobs at one worker
ADDED_BYTES_MAX: Final = 32 << 10  # of jobs that are added to those of a worker: its socket must take them though it does not read
TOGETHER_SECONDS: Final = 0.004  # of work that one worker is given rather than several
SOON_SECONDS: Final = 0.016  # for which a worker with short jobs may say nothing: it holds some back, and has to share its core with others
BUNDLES_MAX: Final = 4  # that a worker keeps, newest used; a worker's memory must hold their sources
GRACE_SECONDS: Final = 0.5  # beyond a job's time, in which an honest worker ends it by itself and says so
START_SECONDS_MAX: Final = 10.0  # for an interpreter; 50 ms where nothing else runs
FAILED_STARTS_MAX: Final = 3  # in a row; then wait, and tell jobs so
RETRY_SECONDS: Final = 5.0
_NEVER: Final = float("inf")

Done = Callable[[Outcome], None]
"""Told how a job ended. What it has written is in its scope's overlay; whether what it has read still stands is for the caller to ask."""


@dataclass(slots=True)
class Ready:
    """What must be done now, in this order: kill, send, start.

    Attributes:
        kill: Workers to kill; nothing of theirs is listened to any more.
        send: Frames for workers.
        start: Workers to start, by the names that they are to have.
        logs: (level, text) for the operator.
    """

    kill: list[int] = field(default_factory=list)
    send: list[tuple[int, bytes]] = field(default_factory=list)
    start: list[int] = field(default_factory=list)
    logs: list[tuple[str, str]] = field(default_factory=list)


class _Task:
    """A job and who waits for it."""

    __slots__ = ("done", "is_suspect", "job", "lane", "run", "scope", "words")

    def __init__(self, job: Job, scope: Scope, done: Done) -> None:
        self.job = job
        self.lane = job.lane
        self.scope = scope
        self.done = done
        self.words = job_message(job)
        self.is_suspect = False  # it was among those of a worker that had to be stopped
        self.run: Run | None = None


class _Worker:
    """One process, as far as it is known."""

    __slots__ = ("added", "bundles", "frames", "is_up", "name", "since", "tasks", "used", "wait_until")

    def __init__(self, name: int, now: float) -> None:
        self.name = name
        self.frames = messages.Frames()
        self.is_up = False
        self.tasks: deque[_Task] = deque()
        self.bundles: OrderedDict[bytes, None] = OrderedDict()
        self.added = 0  # bytes of jobs that it got while it was not idle, since it was
        self.used = 0.0  # seconds of the first task's time, up to `since`
        self.since = now  # when it was last given something to do
        self.wait_until = now + START_SECONDS_MAX

    def arm(self, now: float, *, anew: bool) -> None:
        """It has something to do from now on: for a job that begins, or for one that goes on."""
        self.used = 0.0 if anew else self.used + now - self.since
        self.since = now
        if self.tasks:
            self.wait_until = now + self.tasks[0].job.limits.deadline_ms / 1000 + GRACE_SECONDS - self.used
        else:
            self.wait_until = _NEVER


class _Group:
    """Workers of one kind, and the jobs that wait for one of them."""

    __slots__ = ("is_alone", "is_wanted", "queue", "size", "workers")

    def __init__(self, size: int, *, is_alone: bool) -> None:
        self.size = size
        self.is_alone = is_alone
        self.is_wanted = False  # no process before there was a first job for it
        self.queue: Lanes[_Task] = Lanes()
        self.workers: dict[int, _Worker] = {}


class Pool:
    """The workers and the jobs that wait for one.

    Args:
        calls: Functions of the enclave that jobs may name.
        workers: How many processes run scripts at the same time, beside the one for jobs that must be alone.
        now: Monotonic seconds.

    Attributes:
        isolation: How workers say that they are kept apart.
        killed_total: Workers that were stopped, or died, for what a script did.
        has_news: Something was submitted since `ready` was last asked.
        took: Seconds for which the job that ended last has run, by what is known of the time (`at`).
    """

    def __init__(self, calls: Mapping[str, Call], workers: int, now: float) -> None:
        self.isolation: tuple[str, ...] = ()
        self.killed_total = 0
        self.has_news = False
        self.took = 0.0
        self._calls = calls
        self._now = now
        self._groups = (_Group(workers, is_alone=False), _Group(1, is_alone=True))
        self._names = 0
        self._failed_starts = 0
        self._retry_at = now
        self._refused: list[tuple[_Task, str]] = []
        self._ready = Ready()
        self._answered: set[int] = set()  # workers for whom an answer lies in `_ready`

    def __len__(self) -> int:
        """Jobs that wait or run."""
        return sum(len(group.queue) + sum(len(worker.tasks) for worker in group.workers.values()) for group in self._groups)

    @property
    def soon(self) -> int:
        """Jobs that may write, and will have ended within a moment, as far as is known."""
        group = self._groups[0]
        queue, now = group.queue, self._now
        running = [worker.tasks for worker in group.workers.values() if worker.tasks and now - worker.since < SOON_SECONDS]
        if not (running or queue):
            return 0
        return sum(len(tasks) for tasks in running if _writes(tasks[0]) and _moment(queue.lane(tasks[0].lane))) + (
            sum(len(lane.waiting) for lane in queue.waiting if _writes(lane.waiting[0]) and _moment(lane)) if queue else 0
        )

    @property
    def starting(self) -> int:
        """Workers that have not said hello yet."""
        return sum(not worker.is_up for group in self._groups for worker in group.workers.values())

    # In.

    def submit(self, job: Job, scope: Scope, done: Done) -> None:
        """Run a job on its scope's overlay, which nobody else may use meanwhile; `done` is called from a later call of this object.

        Raises: UsageError: It cannot be told to a worker.
        """
        task = _Task(job, scope, done)
        group = self._groups[job.alone]
        group.is_wanted = True
        self.has_news = True
        queue = group.queue
        if len(queue) >= QUEUED_MAX:
            self._refused.append((task, "Too many scripts wait to be run."))
        else:
            queue.put(task)

    def prepare(self, *, alone: bool) -> None:
        """Have workers started before there is a job for them: those for jobs that must be `alone`, or the others."""
        self._groups[alone].is_wanted = True
        self.has_news = True

    def received(self, name: int, data: bytes) -> None:
        """Bytes from a worker."""
        group, worker = self._find(name)
        if worker is None:
            return
        try:
            for body in worker.frames.feed(data):
                if name in self._answered:  # it cannot have read the answer yet, and many of them would be kept for it
                    raise WorkerError("it asks on without an answer")
                self._take(group, worker, messages.read(body))
        except WorkerError as error:
            self._blame(group, worker, error.end, f"a script worker was stopped: {error}")

    def ended(self, name: int, how: str) -> None:
        """A worker is gone, as `how` says for the operator."""
        group, worker = self._find(name)
        if worker is not None:
            self._blame(group, worker, End.CRASHED, f"a script worker ended: {how}", is_one_of=True)

    def at(self, now: float) -> None:
        """Learn the time, and no more: what is received next was said by then."""
        self._now = now

    def tick(self, now: float) -> None:
        """Learn the time, after everything that was received: who is late has said nothing until now."""
        self._now = now
        for group in self._groups:
            for worker in [worker for worker in group.workers.values() if worker.wait_until <= now]:
                if worker.is_up:
                    self._blame(group, worker, End.DEADLINE, DEADLINE_TEXT, is_one_of=True)
                else:
                    self._blame(group, worker, End.CRASHED, f"a script worker did not start within {START_SECONDS_MAX:.0f} s")

    def next_wakeup(self) -> float:
        """When `tick` is needed even if nothing is received."""
        times = [worker.wait_until for group in self._groups for worker in group.workers.values()]
        if self._retry_at > self._now:
            times.append(self._retry_at)
        return min(times, default=_NEVER)

    def ready(self) -> Ready:
        """What must be done now; each piece of work is handed over once."""
        self.has_news = False
        for group in self._groups:
            self._fill(group)
            self._assign(group)
        while self._refused:
            task, text = self._refused.pop()
            task.done(Outcome(End.UNAVAILABLE, None, text))
        self._answered.clear()
        ready, self._ready = self._ready, Ready()
        return ready

    # A worker's words.

    def _find(self, name: int) -> tuple[_Group, _Worker | None]:
        for group in self._groups:
            worker = group.workers.get(name)
            if worker is not None:
                return group, worker
        return self._groups[0], None

    def _take(self, group: _Group, worker: _Worker, words: list[list[Any]]) -> None:
        answer: list[Any] | None = None
        for message in words:
            if message[0] == messages.HELLO:
                if worker.is_up:
                    raise WorkerError("a second hello")
                worker.is_up = True
                worker.wait_until = _NEVER
                self.isolation = tuple(message[1])
                continue
            if not worker.tasks:
                raise WorkerError(f"message {message[0]} of a worker without a job")
            task = worker.tasks[0]
            assert task.run is not None, "assigned"
            answer = task.run.take(message)
            outcome = task.run.outcome
            if outcome is not None:
                self._failed_starts = 0
                self._end_first(group, worker)
                worker.arm(self._now, anew=True)
                task.done(outcome)
                if group.is_alone:
                    self._discard(group, worker)
                    return  # whatever else it says
        if answer is not None:
            run = worker.tasks[0].run
            assert run is not None, "it asks"
            try:
                self._ready.send.append((worker.name, messages.frame([answer])))
            except (TypeError, ValueError, OverflowError):
                raise WorkerError("a function of the service gave what no script can be given; that is a fault of ledgerd's") from None
            run.answered()
            self._answered.add(worker.name)
            worker.arm(self._now, anew=False)

    def _end_first(self, group: _Group, worker: _Worker) -> _Task:
        """Take the job from a worker that it has run; what is learnt of its time."""
        task = worker.tasks.popleft()
        lane = group.queue.lane(task.lane)
        self.took = worker.used + self._now - worker.since
        lane.took(self.took)
        lane.held -= not worker.tasks
        return task

    # Workers come and go.

    def _blame(self, group: _Group, worker: _Worker, end: End, text: str, *, is_one_of: bool = False) -> None:
        """Kill a worker; the first of its jobs is over, unless it `is_one_of` all that may be to blame. The others are run elsewhere."""
        self.killed_total += 1
        if not worker.tasks:  # before any script could be to blame
            self._failed_starts += 1
            if self._failed_starts >= FAILED_STARTS_MAX:
                self._failed_starts = 0
                self._retry_at = self._now + RETRY_SECONDS
        self._ready.logs.append(("warning", "a script worker was stopped: its script took too long" if end is End.DEADLINE else text))
        guilty = None
        if len(worker.tasks) > 1 and is_one_of:
            for task in worker.tasks:
                task.is_suspect = True
        elif worker.tasks:
            guilty = self._end_first(group, worker)
        self._discard(group, worker)
        if guilty is not None:
            assert guilty.run is not None, "assigned"
            guilty.done(guilty.run.stop(end, text))

    def _discard(self, group: _Group, worker: _Worker) -> None:
        """Have a worker killed, and its other jobs run elsewhere."""
        del group.workers[worker.name]
        self._ready.kill.append(worker.name)
        self._ready.send = [(name, data) for name, data in self._ready.send if name != worker.name]
        if worker.tasks:
            group.queue.lane(worker.tasks[0].lane).held -= 1
        while worker.tasks:
            task = worker.tasks.pop()
            if task.run is not None:
                task.run.undo()
                task.run = None
            group.queue.put_back(task)

    def _fill(self, group: _Group) -> None:
        """Start what is missing, unless starting has failed too often just now."""
        if self._now < self._retry_at:
            if not group.workers:
                self._refused.extend((task, "Scripts cannot be run on this node now: no script worker starts.") for task in group.queue)
                group.queue.clear()
            return
        while group.is_wanted and len(group.workers) < group.size:
            self._names += 1
            group.workers[self._names] = _Worker(self._names, self._now)
            self._ready.start.append(self._names)

    def _assign(self, group: _Group) -> None:
        """Give waiting jobs to workers, those of one lane to each. Long ones go to idle workers, in equal shares; of short ones as many to
        one as it does in a moment, even if it is not idle: to wake another process costs more than they do."""
        queue = group.queue
        if not queue:
            return
        if not group.is_alone:
            self._add(group)
        idle = [worker for worker in group.workers.values() if worker.is_up and not worker.tasks] if queue else []
        for left in range(len(idle), 0, -1):
            lane = queue.next(group.size)
            if lane is None:
                return
            share = 1
            if not group.is_alone and not lane.is_slow:
                share = min(max(-(-len(lane.waiting) // left), _moment(lane)), BATCH_MAX)
            self._give(idle[left - 1], lane, queue.take(lane, _unsuspected(lane, share)))

    def _add(self, group: _Group) -> None:
        """Give more to workers that have not done their moment's worth yet."""
        queue = group.queue
        for worker in group.workers.values():
            lane = queue.next(group.size)
            if lane is None:
                return
            if worker.tasks and worker.tasks[-1].lane == lane.waiting[0].lane and self._now - worker.since < TOGETHER_SECONDS:
                room = min(_moment(lane), BATCH_MAX) - len(worker.tasks)
                if room > 0 and not worker.tasks[0].is_suspect and not lane.waiting[0].is_suspect:
                    self._give(worker, lane, queue.take(lane, _unsuspected(lane, room)), ADDED_BYTES_MAX - worker.added)

    def _give(self, worker: _Worker, lane: Lane[_Task], tasks: list[_Task], room: int | None = None) -> None:
        """Give jobs to a worker; with `room`, in bytes, as many as fit and need no other bundle, and the queue gets the rest back."""
        data = bytearray()
        count = 0
        for place, task in enumerate(tasks):
            words = [] if room is not None else self._prepare(worker, task.job.bundle)
            run = Run(task.job, task.scope, self._calls)
            words.append([*task.words[:-1], run.read_ahead()] if task.job.ahead else task.words)
            told = messages.packed(words)
            if room is not None and (len(data) + len(told) > room or task.job.bundle.id not in worker.bundles):
                for left in reversed(tasks[place:]):
                    self._groups[0].queue.put_back(left)
                break
            task.run = run
            data += told
            count += len(words)
            worker.tasks.append(task)
            if len(worker.tasks) == 1:
                lane.held += 1
                worker.arm(self._now, anew=True)
        worker.added = 0 if room is None else worker.added + len(data)
        if count:
            self._ready.send.append((worker.name, messages.frame_of(bytes(data), count)))

    def _prepare(self, worker: _Worker, bundle: Bundle) -> list[Any]:
        """What to tell a worker so that it has the bundle."""
        if bundle.id in worker.bundles:
            worker.bundles.move_to_end(bundle.id)
            return []
        worker.bundles[bundle.id] = None
        words: list[Any] = [[messages.BUNDLE, bundle.id, bundle.modules]]
        if len(worker.bundles) > BUNDLES_MAX:
            words.append([messages.FORGET, worker.bundles.popitem(last=False)[0]])
        return words


def _moment(lane: Lane[_Task]) -> int:
    """How many of a lane's jobs one worker does in a moment; 0 if they are long, or nothing is known of them."""
    return 0 if lane.seconds is None else int(TOGETHER_SECONDS / max(lane.seconds, TOGETHER_SECONDS / BATCH_MAX))


def _writes(task: _Task) -> bool:
    """Whether a job may write: those of a lane all may, or none."""
    return task.job.access is not Access.APP_RO


def _unsuspected(lane: Lane[_Task], most: int) -> int:
    """How many of the next jobs may be given together: one that may have stopped a worker is run by itself."""
    for place, task in enumerate(islice(lane.waiting, most)):
        if task.is_suspect:
            return max(place, 1)
    return most
