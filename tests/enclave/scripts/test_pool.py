"""Which worker runs what, until when: without processes, the clock in the test's hand."""

from typing import Any

import msgpack
import pytest

from ledgerd.enclave.kv import Store
from ledgerd.enclave.scripts import messages as m
from ledgerd.enclave.scripts import pool as pools
from ledgerd.enclave.scripts.access import Access
from ledgerd.enclave.scripts.jobs import Bundle, End, Job, Limits, Outcome
from ledgerd.enclave.scripts.messages import Frames, frame
from ledgerd.enclave.scripts.overlay import Overlay
from ledgerd.enclave.scripts.pool import BATCH_MAX, GRACE_SECONDS, RETRY_SECONDS, START_SECONDS_MAX, Pool
from support.scripts import Scope


class World:
    """A pool, the words for its workers, and what became of jobs."""

    def __init__(self, workers: int = 1, store: Store | None = None) -> None:
        self.store = store or Store()
        self.now = 100.0
        self.pool = Pool({}, workers, self.now)
        self.sent: dict[int, list[Any]] = {}
        self.killed: list[int] = []
        self.started: list[int] = []
        self.ended: dict[str, Outcome] = {}
        self.overlays: dict[str, Overlay] = {}
        self.logs: list[str] = []
        self.pool.prepare(alone=False)
        self.pool.prepare(alone=True)
        self.turn()

    def turn(self, later: float = 0.0) -> None:
        """Let time pass, and take what there is to do."""
        self.now += later
        self.pool.tick(self.now)
        ready = self.pool.ready()
        self.killed += ready.kill
        self.started += ready.start
        self.logs += [text for _, text in ready.logs]
        for name, data in ready.send:
            (body,) = Frames().feed(data)
            self.sent.setdefault(name, []).extend(msgpack.unpackb(body))

    def submit(
        self, name: str, *, alone: bool = False, module: str = "m", lane: str = "", access: Access = Access.APP_RW, **limits: Any
    ) -> None:
        """Queue a job that is known by its function's name."""

        def done(outcome: Outcome) -> None:
            assert name not in self.ended, "a job ends once"
            self.ended[name], self.overlays[name] = outcome, scope.overlay

        job = Job(Bundle({"/m": module}), "/m", name, (), access, limits=Limits(**limits), alone=alone, lane=lane)
        scope = Scope(self.store)
        self.pool.submit(job, scope, done)

    def say(self, worker: int, *words: list[Any]) -> None:
        """A worker says something, and the pool reacts."""
        self.pool.received(worker, frame(list(words)))
        self.turn()

    def hello(self, *workers: int) -> None:
        """Workers are up."""
        for worker in workers:
            self.say(worker, [m.HELLO, ["own-process"]])

    def busy(self) -> list[int]:
        """Workers that have something to do."""
        return [name for group in self.pool._groups for name, worker in group.workers.items() if worker.tasks]

    def jobs_of(self, worker: int) -> list[str]:
        """Functions that a worker was told to call."""
        return [msgpack.unpackb(word[2])[1] for word in self.sent.get(worker, []) if word[0] == m.JOB]


DONE = [m.DONE, "json", b"1"]
ALONE = 2  # in a world of one worker, the name of the other


def test_jobs_wait_for_a_worker_and_are_run_in_order() -> None:
    world = World()
    world.submit("a")
    world.turn()
    assert (world.started, world.sent) == ([1, ALONE], {})
    world.hello(1)
    world.submit("b")
    world.turn()
    assert world.jobs_of(1) == ["a"]
    world.say(1, DONE)
    assert world.jobs_of(1) == ["a", "b"]
    assert world.ended.keys() == {"a"}
    assert len(world.pool) == 1


def test_a_slow_endpoint_leaves_a_worker_to_others_and_they_take_turns() -> None:
    world = World(workers=2)
    world.hello(1, 2)
    world.submit("slow", lane="loops", deadline_ms=1_000)
    world.turn()
    (first,) = world.busy()
    world.turn(1.0 + GRACE_SECONDS)
    assert world.ended["slow"].end is End.DEADLINE
    world.hello(*world.started[-1:])
    for number in range(50):
        world.submit(f"slow {number}", lane="loops", deadline_ms=1_000)
    world.turn()
    assert len(world.busy()) == 1, "the last worker is for others"
    for name in ("a", "b"):
        world.submit(name, lane=name)
    world.turn()
    assert len(world.busy()) == 2
    for _ in range(2):
        (other,) = [worker for worker in world.busy() if "slow" not in world.jobs_of(worker)[-1]]
        world.say(other, DONE)
    assert {"a", "b"} <= world.ended.keys()
    assert first not in world.busy()


def test_short_jobs_go_together_and_long_ones_apart() -> None:
    for seconds, shares in ((0.0, [8, 0]), (0.1, [4, 4]), (0.001, [4, 4]), (0.0006, [6, 2])):
        world = World(workers=2)
        world.hello(1, 2)
        for _ in range(400):  # until the average is known
            world.submit(f"before {world.now} {len(world.ended)}")
            world.turn()
            (worker,) = world.busy()
            world.now += seconds
            world.pool.tick(world.now)
            world.say(worker, DONE)
        before = [len(world.jobs_of(worker)) for worker in (1, 2)]
        for number in range(8):
            world.submit(f"{number}")
        world.turn()
        assert sorted((len(world.jobs_of(worker)) - before[worker - 1] for worker in (1, 2)), reverse=True) == shares, seconds


def test_short_jobs_are_added_to_those_of_a_worker_that_has_just_begun() -> None:
    world = World(workers=2)
    world.hello(1, 2)
    for number in range(3):
        world.submit(f"{number}")
        world.turn()
        assert len(world.busy()) == min(number + 1, 2), "nothing is known of them"
    for worker in (1, 2, 1, 2):
        if worker in world.busy():
            world.say(worker, DONE)
    assert not world.busy()
    for number in range(3, 6):
        world.submit(f"{number}")
        world.turn()
        assert len(world.busy()) == 1
    world.submit("later")
    world.turn(later=pools.TOGETHER_SECONDS)
    assert len(world.busy()) == 2, "the first takes longer than it should"
    for worker in (1, 2):
        world.say(worker, *[DONE] * len(world.pool._groups[0].workers[worker].tasks))
    assert len(world.ended) == 7


def test_short_jobs_end_soon_until_their_worker_has_been_silent_for_long() -> None:
    world = World()
    world.hello(1)
    world.submit("first")
    world.turn()
    assert world.pool.soon == 0, "nothing is known of it"
    world.say(1, DONE)
    for name in ("a", "b", "c"):
        world.submit(name)
    assert world.pool.soon == 3, "they wait"
    world.turn()
    assert world.pool.soon == 3, "they run"
    world.turn(pools.SOON_SECONDS * 0.9)
    world.say(1, DONE)
    assert world.pool.soon == 2, "one has ended"
    world.turn(pools.SOON_SECONDS * 0.9)
    assert world.pool.soon == 2
    world.turn(pools.SOON_SECONDS * 0.11)
    assert world.pool.soon == 0, "the second takes longer than it should"


def test_jobs_that_cannot_write_are_not_waited_for() -> None:
    world = World()
    world.hello(1)
    for access, soon in ((Access.APP_RO, 0), (Access.APP_RW, 1)):
        lane = access.name
        world.submit(f"{lane}, which nothing is known of", lane=lane, access=access)
        world.turn()
        world.say(1, DONE)
        world.submit(lane, lane=lane, access=access)
        assert world.pool.soon == soon, "it waits"
        world.turn()
        assert world.pool.soon == soon, "it runs"
        world.say(1, DONE)


def test_long_jobs_do_not_end_soon() -> None:
    world = World()
    world.hello(1)
    for name in ("before", "now"):
        world.submit(name)
        world.turn()
        assert world.pool.soon == 0
        world.now += pools.TOGETHER_SECONDS * 1.1
        world.pool.tick(world.now)
        world.say(1, DONE)


def test_many_jobs_are_shared_out_and_a_bundle_is_told_once() -> None:
    world = World(workers=2)
    for number in range(2 * BATCH_MAX + 3):
        world.submit(str(number))
    world.hello(1, 2)
    assert [len(world.jobs_of(worker)) for worker in (1, 2)] == [BATCH_MAX, BATCH_MAX]
    assert [[word[0] for word in world.sent[worker]].count(m.BUNDLE) for worker in (1, 2)] == [1, 1]
    world.say(1, *[DONE] * BATCH_MAX)
    assert len(world.jobs_of(1)) == BATCH_MAX + 3
    assert [word[0] for word in world.sent[1]].count(m.BUNDLE) == 1


def test_a_worker_is_told_to_forget_what_it_has_not_used_for_long() -> None:
    world = World()
    world.hello(1)
    for number in range(pools.BUNDLES_MAX + 1):
        world.submit(f"j{number}", module=str(number))
        world.turn()
        world.say(1, DONE)
    assert [word[1] for word in world.sent[1] if word[0] == m.FORGET] == [Bundle({"/m": "0"}).id]
    world.submit("again", module="0")
    world.turn()
    assert world.sent[1][-3][0] == m.BUNDLE


def test_jobs_of_a_worker_that_says_nothing_are_run_one_by_one_until_it_is_known_which_is_to_blame() -> None:
    world = World()
    for name in ("first", "loops", "behind"):
        world.submit(name, deadline_ms=1_000)
    world.hello(1)
    assert world.jobs_of(1) == ["first", "loops", "behind"]
    world.turn(0.9)
    world.say(1, DONE)  # from now on it is the second one's time
    world.turn(0.9 + GRACE_SECONDS)
    assert list(world.ended) == ["first"]
    assert not world.killed
    world.turn(0.2)
    assert world.killed == [1]
    assert list(world.ended) == ["first"], "it may be either of the others: the answer of one that ended may still be in the worker"
    new = world.started[-1]
    world.submit("later")
    world.hello(new)
    assert world.jobs_of(new) == ["loops"]
    world.turn(1.1 + GRACE_SECONDS)
    assert (world.ended["loops"].end, world.ended["loops"].text) == (End.DEADLINE, "Operation took too long to complete.")
    assert world.killed == [1, new]
    new = world.started[-1]
    world.hello(new)
    assert world.jobs_of(new) == ["behind"], "alone, for it may be to blame as well"
    world.say(new, DONE)
    assert world.ended["behind"].end is End.DONE


def test_the_time_of_a_job_goes_on_when_it_asks_something() -> None:
    world = World()
    world.submit("asks", deadline_ms=1_000)
    world.hello(1)
    for _ in range(10):
        world.turn(0.2)
        if world.killed:
            break
        world.say(1, [m.GET, "m", b"k"])
    assert world.killed == [1]
    assert world.ended["asks"].end is End.DEADLINE
    assert world.now - 100.0 <= 1.0 + GRACE_SECONDS + 0.21


def test_a_worker_that_breaks_the_protocol_takes_only_its_job_with_it() -> None:
    for words in ([[m.GET, "ledgerd.x", b"k"]], [[99]], [[m.GET, "m", b"k"], DONE], [[m.HELLO, []]]):
        world = World()
        world.submit("bad")
        world.submit("behind")
        world.hello(1)
        world.say(1, *words)
        assert world.killed == [1]
        assert world.ended["bad"].end is End.CRASHED
        assert "behind" not in world.ended
        world.say(1, DONE)  # of a dead worker, nothing counts
        assert "behind" not in world.ended
        new = world.started[-1]
        world.hello(new)
        world.say(new, DONE)
        assert world.ended["behind"].end is End.DONE


def test_a_worker_without_a_job_has_nothing_to_say() -> None:
    world = World()
    world.hello(1)
    world.say(1, DONE)
    assert world.killed == [1]
    assert (world.ended, len(world.pool)) == ({}, 0)


def test_a_worker_that_dies_is_replaced() -> None:
    world = World()
    world.submit("fatal")
    world.hello(1)
    world.pool.ended(1, "killed by SIGSEGV")
    world.turn()
    assert world.ended["fatal"].end is End.CRASHED
    assert "SIGSEGV" in world.ended["fatal"].text
    assert world.started == [1, ALONE, 3]


def test_a_job_that_must_be_alone_has_a_process_for_itself() -> None:
    world = World()
    world.hello(1, ALONE)
    world.submit("vote1", alone=True)
    world.submit("vote2", alone=True)
    world.submit("app")
    world.turn()
    assert (world.jobs_of(1), world.jobs_of(ALONE)) == (["app"], ["vote1"])
    world.say(ALONE, DONE, DONE)  # the second is no answer of anybody's
    assert (world.killed, list(world.ended)) == ([ALONE], ["vote1"])
    world.hello(3)
    assert world.jobs_of(3) == ["vote2"]


def test_workers_that_do_not_start_are_not_started_for_ever_and_jobs_are_told() -> None:
    world = World()
    world.submit("waits")
    for _ in range(4):
        world.turn(START_SECONDS_MAX)
        if "waits" in world.ended:
            break
    assert world.ended["waits"].end is End.UNAVAILABLE
    assert any("did not start" in text for text in world.logs)
    before = list(world.started)
    world.submit("too early")
    world.turn()
    assert world.ended["too early"].end is End.UNAVAILABLE
    assert world.started == before
    world.turn(RETRY_SECONDS)
    assert len(world.started) == len(before) + 2
    world.hello(*world.started[-2:])
    world.submit("later")
    world.turn()
    world.say(world.started[-2], DONE)
    assert world.ended["later"].end is End.DONE


def test_no_worker_is_started_before_there_is_something_to_run() -> None:
    pool = Pool({}, 2, 0.0)
    assert pool.ready().start == []
    pool.submit(Job(Bundle({"/m": "m"}), "/m", "f", alone=True), Scope(), lambda outcome: None)
    assert pool.has_news
    assert len(pool.ready().start) == 1
    assert not pool.has_news


def test_a_queue_that_is_full_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "QUEUED_MAX", 2)
    world = World()
    for name in ("a", "b", "c"):
        world.submit(name)
    world.turn()
    assert world.ended.keys() == {"c"}
    assert world.ended["c"].end is End.UNAVAILABLE


def test_it_wakes_when_something_is_due_and_not_before() -> None:
    world = World()
    assert world.pool.next_wakeup() == world.now + START_SECONDS_MAX
    world.hello(1, ALONE)
    assert world.pool.next_wakeup() == float("inf")
    world.submit("a", deadline_ms=2_000)
    world.turn()
    assert world.pool.next_wakeup() == world.now + 2.0 + GRACE_SECONDS


def test_what_is_run_again_finds_nothing_of_what_it_did_before() -> None:
    world = World()
    world.submit("first")
    world.submit("behind")
    world.hello(1)
    world.say(1, [m.SET, "m", b"k", b"1"], [m.GET, "m", b"k"])
    assert world.sent[1][-1] == [m.ANSWER, b"1"]
    world.pool.ended(1, "killed by SIGSEGV")
    world.turn()
    new = world.started[-1]
    world.hello(new)
    assert world.jobs_of(new) == ["first"]
    world.say(new, [m.GET, "m", b"k"])
    assert world.sent[new][-1] == [m.ANSWER, None]
    world.say(new, DONE)
    assert world.overlays["first"].writes == {}
