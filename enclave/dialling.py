"""Whom to dial: keeps a channel to every peer that consensus may talk to, with patience after a failure.

Not here: what a channel is and whom it believes (`enclave.channels`), which peers there are (`enclave.consensus`).
"""

from collections.abc import Callable, Mapping
from typing import Final

from cryptography import x509

from ledgerd.enclave.boundary import Connect, Ready
from ledgerd.enclave.channels import Channels
from ledgerd.enclave.keys import NodeKeys
from ledgerd.ledger.ids import NodeId

PATIENCE_SECONDS: Final = 0.05  # after a first failure; doubled with each further one, up to the limit
PATIENCE_SECONDS_MAX: Final = 2.0
CONNECT_SECONDS_MAX: Final = 10.0  # for the host to say what came of it; an honest one gives up after five
_NEVER: Final = float("inf")


class Dialling:
    """The channels of one node and the streams that were asked for on their behalf.

    Attributes:
        next_deadline: When `dial` will find something to do that it left for later; infinity if nothing.
    """

    def __init__(
        self,
        keys: NodeKeys,
        certificate: x509.Certificate,
        service: x509.Certificate,
        is_former: Callable[[NodeId], bool],
        next_stream: Callable[[], int],
        now: float,
        address: str,
    ) -> None:
        """Make the channels.

        Args:
            is_former: Whether the ledger excludes a node for good.
            next_stream: Gives a fresh, negative number for a stream that this enclave asks for.
            address: Where this node listens for peers, `host:port`.
        """
        self.channels = Channels(keys.id, [certificate], keys.identity, service, is_former, address=address, learn=self._hear, now=now)
        self.next_deadline = _NEVER
        self._own = keys.id
        self._next_stream = next_stream
        self._addresses: dict[NodeId, str] = {}
        self._asked: dict[int, tuple[NodeId, float]] = {}  # whom, and until when the host may take
        self._open: dict[int, NodeId] = {}
        self._retry_at: dict[NodeId, tuple[float, float]] = {}

    def learn(self, addresses: Mapping[NodeId, str]) -> None:
        """Where peers listen for each other, `host:port`; later news wins."""
        self._addresses.update(addresses)

    def _hear(self, node_id: NodeId, address: str) -> None:
        """Where a peer itself says that it listens: for what no ledger of ours says yet."""
        self._addresses.setdefault(node_id, address)

    def address_of(self, node_id: NodeId) -> str:
        """The address of a peer, or "" while it is unknown."""
        return self._addresses.get(node_id, "")

    def dial(self, peers: frozenset[NodeId], now: float, ready: Ready) -> None:
        """Ask the host for a stream to every peer that has none."""
        channels = self.channels
        asked = self._asked
        if not asked and channels.reaches(peers):
            self.next_deadline = _NEVER
            return
        for stream in [stream for stream, (_, until) in asked.items() if until <= now]:
            del asked[stream]
            ready.closes.append(stream)
        waited_for = {node_id for node_id, _ in asked.values()}
        deadline = min((until for _, until in asked.values()), default=_NEVER)
        for node_id in peers:
            if channels.dialling(node_id) or node_id == self._own or node_id in waited_for:
                continue
            address = self._addresses.get(node_id)
            retry_at, patience = self._retry_at.get(node_id, (0.0, PATIENCE_SECONDS))
            if address is None:
                continue
            if now < retry_at:
                deadline = min(deadline, retry_at)
                continue
            self._retry_at[node_id] = (now + patience, min(2 * patience, PATIENCE_SECONDS_MAX))
            host, _, port = address.rpartition(":")
            stream = self._next_stream()
            asked[stream] = (node_id, now + CONNECT_SECONDS_MAX)
            ready.connects.append(Connect(stream, host, int(port)))
            deadline = min(deadline, now + CONNECT_SECONDS_MAX)
        self.next_deadline = deadline

    def opened(self, stream: int) -> bool:
        """A stream that was asked for is there; False if it is none of ours."""
        asked = self._asked.pop(stream, None)
        if asked is None:
            return False
        node_id = asked[0]
        self._open[stream] = node_id
        self.channels.connect(node_id, stream)
        return True

    def closed(self, stream: int) -> None:
        """A stream is gone, or was never there."""
        self._asked.pop(stream, None)
        self._open.pop(stream, None)
        self.channels.closed(stream)

    def settle(self) -> None:
        """Forget the impatience with peers that are connected again."""
        for node_id in [node_id for node_id in self._retry_at if self.channels.connected(node_id)]:
            del self._retry_at[node_id]
