"""Whose jobs are next."""

from typing import NamedTuple

import pytest

from ledgerd.enclave.scripts import lanes as module
from ledgerd.enclave.scripts.lanes import SLOW_SECONDS, Lanes


class Item(NamedTuple):
    lane: str
    number: int


def waiting(*items: tuple[str, int]) -> Lanes[Item]:
    lanes: Lanes[Item] = Lanes()
    for item in items:
        lanes.put(Item(*item))
    return lanes


def taken(lanes: Lanes[Item], most: int = 1, workers: int = 2) -> list[int] | None:
    lane = lanes.next(workers)
    return None if lane is None else [item.number for item in lanes.take(lane, most)]


def test_lanes_take_turns_and_each_keeps_its_order() -> None:
    lanes = waiting(("a", 1), ("a", 2), ("a", 3), ("b", 4), ("c", 5))
    assert [taken(lanes) for _ in range(6)] == [[1], [4], [5], [2], [3], None]
    assert len(lanes) == 0


def test_several_of_one_lane_are_taken_together() -> None:
    lanes = waiting(("a", 1), ("b", 2), ("a", 3))
    assert taken(lanes, 8) == [1, 3]
    assert taken(lanes, 8) == [2]


def test_what_was_taken_back_is_first_of_its_lane() -> None:
    lanes = waiting(("a", 1), ("a", 2), ("b", 3))
    lane = lanes.next(2)
    assert lane is not None
    (item,) = lanes.take(lane, 1)
    lanes.put_back(item)
    assert len(lanes) == 3
    assert sorted(item.number for item in lanes) == [1, 2, 3]
    assert [taken(lanes) for _ in range(3)] == [[3], [1], [2]]
    lanes.put_back(Item("d", 9))
    assert taken(lanes) == [9]


def test_a_slow_lane_does_not_get_the_last_worker_but_the_only_one() -> None:
    lanes = waiting(("slow", 1), ("slow", 2), ("other", 3))
    slow = lanes.lane("slow")
    slow.took(SLOW_SECONDS * 2)
    slow.held = 1
    assert taken(lanes, workers=2) == [3]
    assert taken(lanes, workers=2) is None
    assert taken(lanes, workers=3) == [1]
    slow.held = 0
    assert taken(lanes, workers=1) == [2]


def test_what_a_lane_takes_is_an_average_of_late() -> None:
    lane = waiting().lane("a")
    assert not lane.is_slow, "nothing is known of it"
    lane.took(1.0)
    assert lane.is_slow
    for _ in range(200):
        lane.took(0.0)
    assert not lane.is_slow


def test_lanes_that_nobody_uses_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LANES_MAX", 3)
    lanes = waiting(("waits", 1))
    lanes.lane("runs").held = 1
    lanes.lane("gone").took(1.0)
    lanes.lane("new")
    assert not lanes.lane("gone").is_slow
    assert lanes.lane("runs").held == 1
    assert taken(lanes) == [1]


def test_nobody_waits_after_clear() -> None:
    lanes = waiting(("a", 1), ("b", 2))
    lanes.clear()
    assert (len(lanes), list(lanes), lanes.next(2)) == (0, [], None)
    lanes.put(Item("a", 3))
    assert taken(lanes) == [3]
