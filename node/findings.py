"""What a constitution finds wrong with a proposal, made fit for people: each finding on a line of its own, names that were meant said.

The service says all of it in one sentence, since it is one field of an error. Members may have rules that say it otherwise; such
sentences stay as they are. Pure. Not here: what is found (`governance/constitution`).
"""

import difflib
import re
from typing import Final

_NEXT: Final = re.compile(r"; (?=\w+ at position \d+: )")
_NO_SUCH: Final = re.compile(r"(\w+)( at position \d+: there is no such action): there are (\w+(?:, \w+)*)$")


def readable(message: str) -> str:
    """A service's message, by which a proposal is not valid; any other comes back as it is."""
    first, *others = _NEXT.split(message)
    if others:  # the first stands behind the sentence that introduces them all
        intro, colon, rest = first.partition("validate: ")
        others = [intro + colon.rstrip(), rest, *others] if colon else [first, *others]
    return "\n".join(map(_suggest, others or [first]))


def _suggest(finding: str) -> str:
    found = _NO_SUCH.search(finding)
    near = difflib.get_close_matches(found[1], found[3].split(", "), n=1) if found else []
    return f"{finding[: found.start()]}{found[1]}{found[2]}; did you mean {near[0]}?" if found and near else finding
