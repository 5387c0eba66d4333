"""One fact about a machine or a configuration, judged: success, warning or failure, what was found, and what to do next.

The values that `ledgerd doctor` prints and launchers refuse by. Who looks is elsewhere: `node.doctor`, `node.nitro.preflight`.
"""

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import NamedTuple


class Verdict(IntEnum):
    """How bad it is; the worst of several is their maximum."""

    SUCCESS = 0
    WARNING = 1
    FAILURE = 2

    def __str__(self) -> str:
        return self.name.lower()


class Check(NamedTuple):
    """What was looked at.

    Attributes:
        name: Short, in lower case; the same on every machine.
        found: What is there, in a few words.
        advice: What to do next; empty where nothing needs to be done.
    """

    name: str
    verdict: Verdict
    found: str
    advice: str = ""


class Section(NamedTuple):
    """Checks that belong together."""

    name: str
    checks: tuple[Check, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst of its checks."""
        return worst(self.checks)


def success(name: str, found: str) -> Check:
    """All is well."""
    return Check(name, Verdict.SUCCESS, found)


def warning(name: str, found: str, advice: str) -> Check:
    """It works, but not well, or not for long."""
    return Check(name, Verdict.WARNING, found, advice)


def failure(name: str, found: str, advice: str) -> Check:
    """It cannot work."""
    return Check(name, Verdict.FAILURE, found, advice)


def worst(items: Iterable[Check | Section]) -> Verdict:
    """The worst verdict; success for none."""
    return max((item.verdict for item in items), default=Verdict.SUCCESS)


def failures(checks: Sequence[Check]) -> list[str]:
    """One line for each failure: name, what was found, what to do."""
    return [f"{check.name}: {check.found}; {check.advice}" for check in checks if check.verdict is Verdict.FAILURE]
