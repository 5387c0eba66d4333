"""The search for an order, against the definition: all orders of all subsets, tried one by one."""

from itertools import combinations, permutations
from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st

from support.linearizability import ANYTHING, Anything, Operation, Value, judge


def by_definition(operations: list[Operation]) -> bool:
    required = [o for o in operations if o.returned < inf]
    optional = [o for o in operations if o.returned == inf]
    for count in range(len(optional) + 1):
        for some in combinations(optional, count):
            if any(_explains(order) for order in permutations([*required, *some])):
                return True
    return False


def _explains(order: tuple[Operation, ...]) -> bool:
    value: Value = None
    for index, operation in enumerate(order):
        if any(later.returned < operation.invoked for later in order[index:]):
            return False
        if operation.read is not ANYTHING and operation.read != value:
            return False
        if not isinstance(operation.written, Anything):
            value = operation.written
    return True


_VALUES = st.sampled_from([None, "a", "b", "c"])


@st.composite
def histories(draw: st.DrawFn) -> list[Operation]:
    operations = []
    for _ in range(draw(st.integers(0, 6))):
        invoked = draw(st.integers(0, 8))
        lasted = draw(st.one_of(st.just(inf), st.integers(0, 4)))
        returned = invoked + lasted
        read: Value | Anything = draw(st.one_of(st.just(ANYTHING), _VALUES)) if returned < inf else ANYTHING
        written: Value | Anything = draw(st.one_of(st.just(ANYTHING), _VALUES))
        operations.append(Operation(invoked, returned, read, written))
    return operations


@given(histories())
@settings(max_examples=600, deadline=None)
def test_it_finds_an_order_exactly_where_there_is_one(operations: list[Operation]) -> None:
    verdict = judge(operations)
    assert verdict.is_linearizable == by_definition(operations)
    if verdict.is_linearizable:
        assert _explains(tuple(verdict.order))
    else:
        assert verdict.stuck


def test_a_busy_register_is_judged_in_reasonable_time() -> None:
    operations = []
    for number in range(400):  # eight clients, each waiting for its last answer
        at = number // 8 * 10 + number % 8
        operations.append(Operation(at, at + 9, ANYTHING if number % 2 else str(number - 1) if number else None, str(number)))
    assert judge(operations).is_linearizable
    wrong = [*operations, Operation(5_000, 5_001, "12", ANYTHING)]
    assert not judge(wrong).is_linearizable


def test_writes_of_unknown_fate_that_nobody_saw_cost_nothing() -> None:
    lost = [Operation(number, inf, ANYTHING, f"lost {number}") for number in range(200)]
    reads = [Operation(number * 2 + 1, number * 2 + 2, None, ANYTHING) for number in range(100)]
    assert judge([*lost, *reads]).is_linearizable
    assert judge([*lost, *reads, Operation(300, 301, "lost 7", ANYTHING)]).is_linearizable
    assert not judge([*lost, *reads, Operation(300, 301, "lost 7", ANYTHING), Operation(302, 303, None, ANYTHING)]).is_linearizable
