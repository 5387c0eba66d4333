"""How much may be spent on what turns out to be refused: a little for each source, and not much in all.

Only refusals count, so who gets what it asks for is never held back by itself. Whence a request comes is the host's word, and serves
fairness alone; that all sources together are bounded, and what is remembered of them, does not rest on it.
"""

from ipaddress import IPv6Address, ip_address
from typing import Final

# A document to join by costs two milliseconds, whatever it says: all that are refused cost a thirtieth of a node's time, and forty
# milliseconds at once. Whoever is refused for good asks once, and again when its operator has mended something.
BURST: Final = 5
SECONDS: Final = 1.0  # until one of them is forgiven
BURST_ALL: Final = 20
SECONDS_ALL: Final = 0.0625
_V6_NETWORK_BITS: Final = 64  # whoever has one address has at least so many


class Throttle:
    """Every refusal puts off the time at which its source, and all together, owe nothing any more; too far off, nothing is looked at."""

    def __init__(self) -> None:
        self._owes_until: dict[str, float] = {}  # of those that owe anything: a hundred at most, for all together may owe no more
        self._all_owe_until = 0.0

    def allows(self, remote: str, now: float) -> bool:
        """Whether to look at a request from `remote` (`address:port`), at monotonic time `now`."""
        owes = self._owes_until.get(_network(remote), now) - now
        return owes < BURST * SECONDS and self._all_owe_until - now < BURST_ALL * SECONDS_ALL

    def refused(self, remote: str, now: float) -> None:
        """One from there was looked at, and refused."""
        network = _network(remote)
        self._owes_until = {name: until for name, until in self._owes_until.items() if until > now}
        self._owes_until[network] = self._owes_until.get(network, now) + SECONDS
        self._all_owe_until = max(self._all_owe_until, now) + SECONDS_ALL


def _network(remote: str) -> str:
    """Whom an address stands for."""
    host = remote.rpartition(":")[0]
    try:
        address = ip_address(host)
    except ValueError:
        return host
    return f"{int(address) >> _V6_NETWORK_BITS:x}::" if isinstance(address, IPv6Address) else host
