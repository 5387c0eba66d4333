"""Refusals are rationed, by source and in all; what is granted never is."""

from ledgerd.enclave.throttle import BURST, BURST_ALL, SECONDS, SECONDS_ALL, Throttle


def refuse(throttle: Throttle, remote: str, now: float, most: int = 1_000) -> int:
    """Ask until it is not looked at any more; how often it was."""
    for count in range(most):
        if not throttle.allows(remote, now):
            return count
        throttle.refused(remote, now)
    return most


def test_a_source_has_its_burst_and_then_its_rate() -> None:
    throttle = Throttle()
    assert refuse(throttle, "10.0.0.1:5000", 8.0) == BURST
    assert refuse(throttle, "10.0.0.1:5001", 8.0) == 0, "the same machine, by another port"
    assert sum(refuse(throttle, "10.0.0.1:5000", 8.0 + second * SECONDS) for second in range(1, 101)) == 100
    assert refuse(throttle, "10.0.0.1:5000", 1_000.0) == BURST, "no more than a burst is saved up"


def test_another_source_is_not_held_back_before_all_are() -> None:
    throttle = Throttle()
    found = [refuse(throttle, f"10.0.0.{number}:5000", 8.0) for number in range(BURST_ALL)]
    assert sum(found) == BURST_ALL
    assert found[: BURST_ALL // BURST] == [BURST] * (BURST_ALL // BURST)
    assert throttle.allows("10.0.1.1:5000", 8.0 + SECONDS_ALL)


def test_all_together_are_bounded_and_so_is_what_is_remembered_whatever_the_host_says_of_sources() -> None:
    throttle = Throttle()
    looked = 0
    for step in range(10_000):
        now = 8.0 + step / 100
        if throttle.allows(f"host's invention {step}", now):
            throttle.refused(f"host's invention {step}", now)
            looked += 1
            assert len(throttle._owes_until) <= BURST_ALL + SECONDS / SECONDS_ALL + 1
    assert looked <= BURST_ALL + 100 / SECONDS_ALL + 1


def test_asking_without_being_refused_costs_nothing() -> None:
    throttle = Throttle()
    assert all(throttle.allows("10.0.0.1:5000", 8.0) for _ in range(1_000))


def test_addresses_of_one_ipv6_network_are_one_source() -> None:
    throttle = Throttle()
    assert refuse(throttle, "2001:db8:0:1::1:5000", 8.0) == BURST
    assert refuse(throttle, "2001:db8:0:1:ffff::2:5000", 8.0) == 0
    assert refuse(throttle, "2001:db8:0:2::1:5000", 8.0) == BURST
