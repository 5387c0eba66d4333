"""How much a serving node remembers, keeps from the disk and sends at once. Given to its parts, so that all of them go by the same numbers.

Not here: what clients and hosts may ask for at once; those limits stand where they are kept.
"""

from typing import Final, NamedTuple

from ledgerd.enclave.consensus.contract import Settings
from ledgerd.enclave.history import RECENT_RANGES_MAX
from ledgerd.enclave.idempotency import WINDOW_ENTRIES

UNSIGNED_ENTRIES: Final = 2_000  # more than a round holds, but for the largest loads: then replication overlaps with execution
NEWCOMER_SECONDS: Final = 8.0  # joiners ask at least every second; and less than a commit may stand still


class ServingLimits(NamedTuple):
    """Those of one node.

    Attributes:
        consensus: Its settings, but for the times that the configuration names.
        idempotency_window: Entries for which an idempotency key is remembered.
        recent_ranges: Committed ranges whose leaves are kept for receipts.
    """

    consensus: Settings = Settings(unsigned_entries=UNSIGNED_ENTRIES, promise=True, newcomer=NEWCOMER_SECONDS)
    idempotency_window: int = WINDOW_ENTRIES
    recent_ranges: int = RECENT_RANGES_MAX


LIMITS: Final = ServingLimits()
