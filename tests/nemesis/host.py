"""One node's host as a process that takes orders to do wrong, `host.py PARENT_PID DIRECTORY [ENCLAVE_WORD...]`; else as
`support.node_process`.

An order is a JSON object in a file beside the node's directory, read at SIGUSR1: `{"clock": SECONDS}` moves the host's clocks, of the day
and monotonic; `{"disk": LIE, "seed": N}` answers reads of the ledger wrongly from now on, `{"disk": "honest"}` rightly again.
The stand-in for the enclave's security module keeps the right time: it is hardware, and not the host's.
"""

import json
import random
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from ledgerd.node.storage import Read, Storage
from support import node_process

LIES = ("older", "changed", "exchanged", "nothing", "short")


def orders_of(directory: Path) -> Path:
    """The file that orders for a node come in."""
    return directory.with_name(f"{directory.name}.orders")


class Liar:
    """Changes what a host gives back from its disk."""

    def __init__(self) -> None:
        self._lie = "honest"
        self._random = random.Random(0)
        self._honest = Storage._find

        def find(storage: Storage, read: Read) -> list[bytes]:
            return self._find(storage, read)

        setattr(Storage, "_find", find)  # noqa: B010  # a type checker takes it for a mistake, and rightly

    def obey(self, lie: str, seed: int) -> None:
        """Lie in this way from now on."""
        self._random = random.Random(seed)
        self._lie = lie

    def _find(self, storage: Storage, read: Read) -> list[bytes]:
        entries = self._honest(storage, read)
        choose = self._random
        match self._lie:
            case "older":  # as if the disk ended earlier, or the range stood somewhere before
                shift = choose.randint(1, max(1, read.first - 1))
                return self._honest(storage, read._replace(first=read.first - shift, through=max(1, read.through - shift)))
            case "changed" if entries:
                for _ in range(choose.randint(1, 3)):
                    index = choose.randrange(len(entries))
                    data = bytearray(entries[index])
                    data[choose.randrange(len(data))] ^= 1 << choose.randrange(8)
                    entries[index] = bytes(data)
            case "exchanged" if len(entries) > 1:
                one, other = choose.sample(range(len(entries)), 2)
                entries[one], entries[other] = entries[other], entries[one]
            case "nothing":
                return []
            case "short" if entries:
                return entries[: choose.randrange(len(entries))]
        return entries


class Clock:
    """The host's clocks, which jump."""

    def __init__(self) -> None:
        self._offset = 0.0
        day, monotonic = time.time, time.monotonic
        time.time = lambda: day() + self._offset
        time.monotonic = lambda: monotonic() + self._offset

    def jump(self, seconds: float) -> None:
        """Move on, or back."""
        self._offset += seconds


def main() -> int:
    """Be a node until it ends; returns its exit status."""
    liar, clock = Liar(), Clock()

    _, parent, directory, *enclave = sys.argv

    def obey(number: int, frame: FrameType | None) -> None:
        order = json.loads(orders_of(Path(directory)).read_text())
        if "clock" in order:
            clock.jump(order["clock"])
        else:
            liar.obey(order["disk"], order.get("seed", 0))

    signal.signal(signal.SIGUSR1, obey)
    return node_process.main(int(parent), tee=False, enclave=enclave)


if __name__ == "__main__":
    sys.exit(main())
