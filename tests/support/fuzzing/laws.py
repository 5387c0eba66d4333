"""What is fuzzed, and the law that every input must keep.

The law: a reader answers hostile bytes with the typed refusal of its room and with nothing else, within its bounds of time and memory; and
what it accepts is what somebody could have meant: where bytes are signed, exactly the signed ones; where not, a value that is written
again, or read again, as it was read. Inputs may differ where nobody signs: (r, n-s), an unprotected header, white space in PEM.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple


class BrokenLaw(Exception):
    """A finding."""


class Bound(NamedTuple):
    """What one input may cost: some ten times what any does, so that only what grows in the wrong way costs more, whatever the machine.

    Attributes:
        seconds: CPU time of this thread, whatever the input.
        seconds_per_mebibyte: And so much more for each of the input's.
        memory_bytes: Of Python's at any moment, beyond what was there before, whatever the input.
        memory_factor: And so many bytes more for each of the input's.
    """

    seconds: float = 0.4
    seconds_per_mebibyte: float = 8.0
    memory_bytes: int = 512 << 10
    memory_factor: int = 80

    def seconds_for(self, size: int) -> float:
        """For an input of so many bytes."""
        return self.seconds + self.seconds_per_mebibyte * size / (1 << 20)

    def memory_for(self, size: int) -> int:
        """For an input of so many bytes."""
        return self.memory_bytes + self.memory_factor * size


PLAIN: Final = Bound()


class Target(NamedTuple):
    """One thing to fuzz.

    Attributes:
        name: For people and the command line.
        seeds: Inputs that are accepted.
        judge: Feeds one input; returns whether it was accepted. Raises: BrokenLaw, and whatever else a bug raises.
        tokens: Pieces that mean something to this reader, to be put in here and there.
        bombs: Inputs made by hand to cost much; whatever is said of them, it is said within the bounds.
        bound: Of one input.
        accepts_most: Most changes of an input leave it acceptable, as with bytes that say little.
    """

    name: str
    seeds: Sequence[bytes]
    judge: Callable[[bytes], bool]
    tokens: Sequence[bytes] = ()
    bombs: Sequence[bytes] = ()
    bound: Bound = PLAIN
    accepts_most: bool = False


Maker = Callable[[], Target]
"""Makes a target; keys and certificates are new each time."""
