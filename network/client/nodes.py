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

    __slots__ = ("_at", "_origins", "newest")

    def __init__(self, urls: Iterable[str]) -> None:
        """Start with the nodes that the caller names.

        Raises: ConfigurationError: There are none, or one of them is not an https URL.
        """
        self._origins = tuple(dict.fromkeys(origin_of(url) for url in urls))
        self._at = 0
        self.newest: TransactionId | None = None
        if not self._origins:
            raise ConfigurationError("no node to talk to: give at least one https URL")

    @property
    def origins(self) -> tuple[str, ...]:
        """All nodes known, those named first by the caller."""
        return self._origins

    def pick(self, without: Collection[str] = ()) -> str | None:
        """Return the node to ask next, or None where `without` holds them all."""
        origins, at = self._origins, self._at
        for step in range(len(origins)):
            origin = origins[(at + step) % len(origins)]
            if origin not in without:
                return origin
        return None

    def leave(self, origin: str) -> None:
        """`origin` did not do: the next one is asked first from now on, unless somebody has moved on already."""
        origins, at = self._origins, self._at
        if origins[at] == origin:
            self._at = (at + 1) % len(origins)

    def prefer(self, origin: str) -> None:
        """`origin` did well: it is asked first from now on."""
        if self._origins[self._at] != origin and origin in self._origins:
            self._at = self._origins.index(origin)

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
        if origin not in self._origins:
            if len(self._origins) >= NODES_MAX:
                return False
            self._origins = (*self._origins, origin)
        self.prefer(origin)
        return True

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
