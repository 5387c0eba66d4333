"""What a client knows about the nodes: their addresses, which one answered last, and the newest transaction id it has seen.

Shared by all requests of a client, and by threads: every change is one assignment. Opens nothing.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Final
from urllib.parse import urlsplit

from ledgerd.ledger.errors import ConfigurationError, FormatError
from ledgerd.ledger.ids import TransactionId, parse_transaction_id
from ledgerd.network.client.values import TRANSACTION_ID_HEADER

NODES_MAX: Final = 64  # redirects may name nodes we were not told of; a hostile host must not make us collect them for ever
PORT_DEFAULT: Final = 443
LEARN_FIRST_SECONDS: Final = 1.0
LEARN_SECONDS: Final = 10.0  # one small request in so many; a node that leaves shows the way for a minute
LEARN_SECONDS_MIN: Final = 0.5  # while nodes fail one after the other


def origin_of(url: str) -> str:
    """Return `https://host:port` of a URL.

    Raises: ConfigurationError: It is not an https URL with a host; there is no unencrypted way to talk to a node.
    """
    try:
        parts = urlsplit(url if "://" in url else f"https://{url}")
        port = parts.port
    except ValueError as error:
        raise ConfigurationError(f"{url!r} is not a URL: {error}") from None
    if parts.scheme != "https" or not parts.hostname or parts.path not in ("", "/") or parts.query or parts.username:
        raise ConfigurationError(f"{url!r} is not the address of a node: give https://HOST:PORT")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"https://{host}:{PORT_DEFAULT if port is None else port}"


class Nodes:
    """The nodes of one service, in the order in which to try them."""

    __slots__ = ("_learn_at", "_learn_not_before", "_listed", "_moved", "_order", "newest")

    def __init__(self, urls: Iterable[str]) -> None:
        """Start with the nodes that the caller names.

        Raises: ConfigurationError: There are none, or one of them is not an https URL.
        """
        self._order = (tuple(dict.fromkeys(origin_of(url) for url in urls)), 0)  # and which of them is asked first
        self._listed: frozenset[str] = frozenset()  # those that the service itself has named
        self._moved = False
        self._learn_at: float | None = None
        self._learn_not_before = float("-inf")
        self.newest: TransactionId | None = None
        if not self._order[0]:
            raise ConfigurationError("no node to talk to: give at least one https URL")

    @property
    def origins(self) -> tuple[str, ...]:
        """All nodes known, those named first by the caller."""
        return self._order[0]

    def pick(self, without: Collection[str] = ()) -> str | None:
        """Return the node to ask next, or None where `without` holds them all."""
        origins, at = self._order
        for step in range(len(origins)):
            origin = origins[(at + step) % len(origins)]
            if origin not in without:
                return origin
        return None

    def leave(self, origin: str) -> None:
        """`origin` did not do: the next one is asked first from now on, unless somebody has moved on already."""
        origins, at = self._order
        self._moved = True
        if origins[at] == origin:
            self._order = (origins, (at + 1) % len(origins))

    def prefer(self, origin: str) -> None:
        """`origin` did well: it is asked first from now on."""
        origins, at = self._order
        if origins[at] != origin and origin in origins:
            self._order = (origins, origins.index(origin))

    def follow(self, location: str) -> bool:
        """Prefer the node that a redirect names. Only the node is taken from it: path and query stay the caller's.

        Returns: False where the location names no usable node.
        """
        if "://" not in location:
            return False
        parts = urlsplit(location)
        try:
            origin = origin_of(f"{parts.scheme}://{parts.netloc}")
        except ConfigurationError:
            return False
        origins, at = self._order
        self._moved = True
        if origin not in origins:
            if len(origins) >= NODES_MAX:
                return False
            self._order = ((*origins, origin), at)
        self.prefer(origin)
        return True

    def should_learn(self, now: float) -> bool:
        """Whether to ask the service for its nodes now; if so, whoever has asked this does it.

        Now and then, and soon after a node did not do: the set may have changed. A client that lives for a moment never asks.
        """
        if self._learn_at is None:
            self._learn_at = now + LEARN_FIRST_SECONDS
        if now < self._learn_not_before or (now < self._learn_at and not self._moved):
            return False
        self._moved = False
        self._learn_at = now + LEARN_SECONDS
        self._learn_not_before = now + LEARN_SECONDS_MIN
        return True

    def learn(self, listed: Iterable[str]) -> None:
        """Take over the service's own list, the addresses of those that it trusts.

        Who is listed no more goes; what the caller named stays while it was never listed, since it may be another name of a node, or of
        something in front of several.
        """
        origins, at = self._order
        trusted = tuple(dict.fromkeys(listed))
        kept = [origin for origin in origins if origin in trusted or origin not in self._listed]
        new = [origin for origin in trusted if origin not in kept]
        found = (*kept, *new)[:NODES_MAX]
        if not trusted:
            return
        self._listed = self._listed.union(trusted).intersection(found)
        first = next(origin for step in range(len(origins)) if (origin := origins[(at + step) % len(origins)]) in found) if kept else None
        self._order = (found, found.index(first) if first is not None else 0)

    def saw(self, headers: Mapping[str, str]) -> None:
        """Remember the newest transaction id; it dates the idempotency keys that are made from now on."""
        text = headers.get(TRANSACTION_ID_HEADER)
        if text is None:
            return
        try:
            seen = parse_transaction_id(text)
        except FormatError:
            return
        if self.newest is None or seen > self.newest:
            self.newest = seen
