"""What the host said that no honest host says: refused, counted by reason, and told in the log now and then.

A reason is a word of the few below, so that a metric by reason stays small whatever the host does. A count is no proof of malice: two nodes
on one port, a damaged disk or another version of the host end here, too. What breaks the link itself is not counted: it ends the node.
"""

from collections.abc import Callable
from typing import Final

# For `ledgerd_host_rejects_total{reason}`.
CONFIGURED: Final = "configured"  # a second configuration
OPENED: Final = "opened"  # a stream that nobody asked for, or a number used before
STORED: Final = "stored"  # entries that were never handed over
FETCHED: Final = "fetched"  # entries that are not the ones asked for
DOCUMENT: Final = "document"  # no answer of a security module
SEALED: Final = "sealed"  # a sealed secret that is none, or another's
REASONS: Final = (CONFIGURED, OPENED, STORED, FETCHED, DOCUMENT, SEALED)


class HostRejects:
    """Counts.

    Attributes:
        counts: By reason; a reason is there from its first time on.
    """

    __slots__ = ("_log", "counts")

    def __init__(self, log: Callable[[str, str], None]) -> None:
        """Args: log: tells the operator: level, text."""
        self.counts: dict[str, int] = {}
        self._log = log

    def count(self, reason: str, error: Exception | str) -> None:
        """Note one refusal. Args: error: what was wrong."""
        assert reason in REASONS, "a reason is one of ours"
        count = self.counts[reason] = self.counts.get(reason, 0) + 1
        if count.bit_count() == 1:  # the first, second, fourth, ... of a kind: a host that lies all the time must not fill its own log
            self._log("error", f"host refused ({reason}, {count} so far): {error}")
