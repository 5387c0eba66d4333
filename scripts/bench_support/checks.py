"""What an answer is worth: it counts when the service, asked afterwards, calls its transaction Committed.

Every answer's id is collected, and ids that came twice count once. The highest id of each view and a random sample are asked for; a single
one of them that is not Committed makes us ask for every id. (That `V.S` is Committed means that so is every lower seqno issued in view V.)
"""

import json
import random
from pathlib import Path

from bench_support.wire import Wire

SAMPLE = 1000
FLIGHT = 50


def count_committed(url: str, ca: Path, ids: list[str]) -> tuple[int, int]:
    """How many answers count.

    Returns: the number that count, and the number asked for. Raises: OSError.
    """
    unique = set(ids)
    highest: dict[int, int] = {}
    for identifier in unique:
        view, _, seqno = identifier.partition(".")
        highest[int(view)] = max(highest.get(int(view), 0), int(seqno))
    asked = {f"{view}.{seqno}" for view, seqno in highest.items()}
    asked.update(random.sample(sorted(unique), min(SAMPLE, len(unique))))
    if _committed(url, ca, sorted(asked)) == len(asked):
        return len(unique), len(asked)
    return _committed(url, ca, sorted(unique)), len(unique)


def compiled_modules(url: str, ca: Path) -> int:
    """How many modules of a node run as machine code, as the node itself counts them; 0 if it is interpreted. Raises: OSError."""
    with Wire(url, ca) as wire:
        (answer,) = wire.get_all(["/node/version"])
    return int(json.loads(answer.body)["compiled_modules"])


def _committed(url: str, ca: Path, ids: list[str]) -> int:
    committed = 0
    with Wire(url, ca) as wire:
        for start in range(0, len(ids), FLIGHT):
            answers = wire.get_all(f"/app/tx?transaction_id={identifier}" for identifier in ids[start : start + FLIGHT])
            committed += sum(answer.status == 200 and json.loads(answer.body)["status"] == "Committed" for answer in answers)
    return committed
