"""What one input costs: CPU time of every one, memory of a part of them, since counting allocations makes Python four times slower."""

import gc
import time
import tracemalloc
from collections.abc import Callable

from support.fuzzing.laws import Bound, BrokenLaw, Target


def timed(target: Target, data: bytes) -> bool:
    """Judge one input and hold its time to the bound; one that seems slow is judged again, since machines have other things to do, too."""
    begin = time.thread_time()
    accepted = target.judge(data)
    if time.thread_time() - begin > target.bound.seconds_for(len(data)):
        _check_slow(target.judge, target.bound, data)
    return accepted


def _check_slow(judge: Callable[[bytes], bool], bound: Bound, data: bytes) -> None:
    gc.collect()
    least = float("inf")
    for _ in range(3):
        begin = time.thread_time()
        judge(data)
        least = min(least, time.thread_time() - begin)
    if least > bound.seconds_for(len(data)):
        raise BrokenLaw(f"{len(data)} bytes take {least:.3f} s of CPU; the bound is {bound.seconds_for(len(data)):.3f} s")


def weighed(target: Target, data: bytes) -> int:
    """Judge one input and hold the memory that it takes for a moment to the bound; returns how much that is, as far as Python counts it."""
    judge, bound = target.judge, target.bound
    judge(data)  # so that what is made once, and kept, is there already
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        judge(data)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    if peak > bound.memory_for(len(data)):
        raise BrokenLaw(f"{len(data)} bytes take {peak} bytes of memory; the bound is {bound.memory_for(len(data))}")
    return peak
