"""Each invariant notices what it is there for: a cluster at rest is damaged by hand, in one place."""

from collections.abc import Callable

import pytest

from ledgerd.enclave.consensus.core import Configuration, Retirement, Role
from ledgerd.ledger.ids import NodeId, Seqno
from support.scenarios import invariants
from support.scenarios.driver import Driver
from support.scenarios.language import parse

AT_REST = "start_node,0\nemit_signature,2\ntrust_nodes,2,1,2\nloop_until_sync\n"


def at_rest(more: str = "") -> Driver:
    driver = Driver()
    for step in parse(AT_REST + more, "test"):
        driver.do(step)
    return driver


def two_leaders(driver: Driver) -> None:
    driver.members["1"].core.role = Role.PRIMARY


def commit_falls(driver: Driver) -> None:
    driver.memory.commits["1"] = 9


def leader_rewrites(driver: Driver) -> None:
    driver.memory.leading["0"] = (2, 4, b"another digest")


def leader_lacks_a_final_entry(driver: Driver) -> None:
    driver.final.append(b"an entry that it never saw")


def removal_without_reason(driver: Driver) -> None:
    driver.members["2"].core.retirement = Retirement.ORDERED


def stops(driver: Driver) -> None:
    driver.members["2"].down = True


def term_falls(driver: Driver) -> None:
    driver.views["1"] = 7


def match_falls(driver: Driver) -> None:
    driver.matches["0"] = (2, {"1": 9})


def forgotten_configuration(driver: Driver) -> None:
    driver.members["1"].core._configurations.pop()


def forgotten_signature(driver: Driver) -> None:
    driver.members["1"].core._log.last_committable = Seqno(2)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (two_leaders, "MoreThanOneLeader"),
        (commit_falls, "MonotonicCommit"),
        (leader_rewrites, "PermittedLogChanges"),
        (leader_lacks_a_final_entry, "LeaderCompleteness"),
        (removal_without_reason, "MembershipStateConsistent"),
        (stops, "2 stopped itself"),
        (term_falls, "MonoTerm"),
        (match_falls, "MonotonicMatchIndex"),
        (forgotten_configuration, "LogConfigurationConsistent"),
        (forgotten_signature, "last committable"),
    ],
    ids=lambda value: getattr(value, "__name__", "-"),
)
def test_damage_is_noticed(damage: Callable[[Driver], None], words: str) -> None:
    driver = at_rest()
    invariants.check(driver)
    damage(driver)
    with pytest.raises(AssertionError, match=words):
        invariants.check(driver)


def test_what_is_committed_must_be_with_a_majority_of_each_configuration() -> None:
    driver = at_rest()
    invariants.check_commit_safety(driver, driver.members["0"])
    for name in ("1", "2"):
        machine = driver.members[name].machine
        machine.digests[4] = b"another log"
    with pytest.raises(AssertionError, match="QuorumLog: 0 has committed 4, which only 0 of configuration 3, 0, 1, 2, has"):
        invariants.check_commit_safety(driver, driver.members["0"])


def test_who_is_removed_is_in_no_configuration_from_before() -> None:
    driver = at_rest("swap_nodes,2,out,2\nloop_until_sync\n")
    two = driver.members["2"]
    assert invariants.phase_of(two) is two.core.retirement is Retirement.COMPLETED
    two.core._configurations.insert(0, Configuration(Seqno(3), frozenset(map(NodeId, "012"))))
    with pytest.raises(AssertionError, match="RetirementCompletedNotInConfigs"):
        invariants.check_membership(two)


@pytest.mark.parametrize(
    ("more", "phase"),
    [
        ("", Retirement.NONE),
        ("swap_nodes,2,out,2\nperiodic_one,0,10\ndispatch_all\n", Retirement.ORDERED),
        ("swap_nodes,2,out,2\nemit_signature,2\nperiodic_one,0,10\ndispatch_single,0,2\n", Retirement.SIGNED),
        ("swap_nodes,2,out,2\nloop_until_sync\n", Retirement.COMPLETED),
    ],
)
def test_the_phase_of_a_removal_can_be_read_from_the_log(more: str, phase: Retirement) -> None:
    driver = at_rest(more)
    assert invariants.phase_of(driver.members["2"]) is driver.members["2"].core.retirement is phase
