"""How a node leaves the service: whom the others can spare, the record that ends it, what may then be deleted, what it still answers.

CCF's way. A member's proposal writes `Retired`; from that entry on a configuration without the node is active. Once it is committed, the
primary, whichever it is by then, writes `retired_committed`; once that is committed nobody needs the node any more: it may be stopped and
its record deleted. Its name stays in a table of former nodes, so that it is neither admitted nor listened to again.
Not here: proposals (`enclave.governing`), configurations and phases (`enclave.consensus`), channels (`enclave.channels`).
"""

from collections.abc import Callable, Collection, Iterable
from typing import Any, Final, Protocol

from ledgerd.enclave.built_ins import built_in
from ledgerd.enclave.consensus.quorum import majority
from ledgerd.enclave.endpoints import Context, Registry, Result
from ledgerd.enclave.execution import error_response
from ledgerd.enclave.kv import Store
from ledgerd.enclave.requests import Request, Response
from ledgerd.governance import tables
from ledgerd.ledger.entry import WriteSet
from ledgerd.ledger.errors import RequestError
from ledgerd.ledger.ids import NodeId, Seqno

# A retired enclave still holds the service's key and the ledger's secrets, and nobody needs it: so it ends itself. Not at once, since
# clients that know no other node are told of one meanwhile.
RETIRED_SECONDS: Final = 60.0

RETIRED: Final = tables.encode("Retired")
REMOVED: Final = tables.encode("Removed")

# What a retired node can still say without being wrong: about itself.
_OWN: Final = frozenset(
    {
        "/node/state",
        "/node/consensus",
        "/node/version",
        "/node/metrics",
        "/node/self_signed_certificate",
        "/node/attestations/self",
        "/node/quotes/self",
        "/node/ready/app",
        "/node/ready/gov",
    }
)


class Node(Protocol):
    """What leaving asks of the node that it runs on."""

    @property
    def store(self) -> Store: ...
    @property
    def committed_seqno(self) -> Seqno: ...


def node_records(context: Context) -> dict[NodeId, dict[str, Any]]:
    """The records of all nodes, as the running transaction has them."""
    return {NodeId(key.decode()): tables.decode(value) for key, value in context.kv[tables.NODE_INFO].items()}


def trusted_nodes(records: dict[NodeId, dict[str, Any]]) -> frozenset[NodeId]:
    """Those that the service trusts."""
    return frozenset(node_id for node_id, record in records.items() if record["status"] == tables.TRUSTED)


def address_elsewhere(store: Store, node_id: NodeId, primary: NodeId | None) -> str | None:
    """Where clients of a node that leaves reach the primary, or while none is known any other node that is trusted; None without any."""
    records = {NodeId(key.decode()): tables.decode(value) for key, value in store.map(tables.NODE_INFO).items()}
    trusted = sorted(trusted_nodes(records) - {node_id})
    if not trusted:
        return None
    record = records[primary if primary in trusted else trusted[0]]
    address: str = next(iter(record["rpc_interfaces"].values()))["published_address"]
    return address


def check_quorum(before: Collection[NodeId], after: Collection[NodeId], live: Collection[NodeId]) -> None:
    """Refuse a change of the trusted nodes after which nothing could be committed any more; etcd has the same rule for its members.

    A node that is down may always go: a majority without it is no larger than one with it. One that is up may go if those that are left
    and up are a majority of those that are left.

    Args:
        before, after: The trusted nodes.
        live: Those that the primary hears from.
    Raises: RequestError: 400 LastNode, 400 TooFewLiveNodes.
    """
    if not after:
        raise RequestError(400, "LastNode", "This would remove the last node, and the service with it. Let another one join first.")
    left = set(after)
    up = left & {*live, *(left - set(before))}  # whoever is new has just asked to join
    needed = majority(len(left))
    if set(before) - left and len(up) < needed:
        down = ", ".join(f"{node[:16]}..." for node in sorted(left - up))
        raise RequestError(
            400,
            "TooFewLiveNodes",
            f"Of the {len(left)} nodes left, {needed} have to be up to commit anything; up would be {len(up)}. "
            f"Down, or so new that they have acknowledged nothing yet: {down}; wait for them, retire them first, or let others join.",
        )


class Leaving:
    """The part of it that every node has: endpoints, and on the primary the record that ends a retirement."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._records: dict[bytes, tuple[bytes, dict[str, Any]]] = {}  # of nodes: their bytes, and what those say
        self._unrecorded: list[tuple[bytes, dict[str, Any]]] = []

    def add_to(self, registry: Registry) -> None:
        """Add `DELETE /node/network/nodes/{node_id}`."""
        registry.add(built_in("DELETE", "/network/nodes/{node_id}", self._delete))

    def learn(self, found: Iterable[tuple[bytes, bytes]]) -> dict[bytes, dict[str, Any]]:
        """The records of nodes have changed, forward or back. Returns: all of them; only what is new is read."""
        before, self._records = self._records, {}
        for key, value in found:
            known = before.get(key)
            self._records[key] = known if known is not None and known[0] == value else (value, tables.decode(value))
        records = {key: record for key, (_, record) in self._records.items()}
        self._unrecorded = [
            (key, record) for key, record in records.items() if record["status"] == tables.RETIRED and not record["retired_committed"]
        ]
        return records

    def due(self) -> WriteSet | None:
        """On the primary: the writes that record retirements which are committed; None if there are none.

        It looks at the tables and at what is committed, so a new primary goes on where the last one has ended.
        """
        if not self._unrecorded:
            return None
        records = self._node.store.map(tables.NODE_INFO)
        committed = self._node.committed_seqno
        found = [(key, record) for key, record in self._unrecorded if (records.version_of(key) or 0) <= committed]
        if not found:
            return None
        return {
            tables.NODE_INFO: {key: tables.encode({**record, "retired_committed": True}) for key, record in found},
            tables.FORMER_NODES: {key: RETIRED for key, _ in found},
        }

    def is_former(self, node_id: NodeId) -> bool:
        """Whether the ledger excludes a node for good, as far as this node knows what is committed."""
        version = self._node.store.map(tables.FORMER_NODES).version_of(node_id.encode())
        return version is not None and version <= self._node.committed_seqno

    def _delete(self, context: Context) -> Result:
        node_id = context.params["node_id"]
        records = context.kv[tables.NODE_INFO]
        key = node_id.encode()
        value = records.get(key)
        if value is None:
            raise RequestError(404, "ResourceNotFound", f"Node {node_id} is not known.")
        if not is_removable(tables.decode(value), records.version_of(key), self._node.committed_seqno):
            raise RequestError(
                400,
                "NodeNotRetiredCommitted",
                f"Node {node_id} is not completely retired; once it is, /node/network/removable_nodes lists it.",
            )
        records.delete(key)
        context.kv[tables.NODE_ENDORSED_CERTIFICATES].delete(key)
        return True


def is_removable(record: dict[str, Any], version: int | None, committed: Seqno) -> bool:
    """Whether a node may be stopped and its record deleted: the record that says that it is not needed is itself committed."""
    return record["status"] == tables.RETIRED and record["retired_committed"] is True and version is not None and version <= committed


class Elsewhere:
    """What a retired node answers: about itself it speaks, for everything else it names a node of the service."""

    def __init__(self, address: Callable[[], str | None]) -> None:
        """Args: address: gives that of another node, `host:port`, the primary's if it is known; None if it knows none."""
        self._address = address

    def __call__(self, request: Request) -> Response | None:
        """The answer, or None if the request is to be executed here."""
        if request.path in _OWN:
            return None
        address = self._address()
        if address is None:
            text = "This node is retired, and knows no other one; nothing was done. Ask another node of the service."
            return error_response(RequestError(503, "NodeRetired", text))
        query = f"?{request.query}" if request.query else ""
        location = ("location", f"https://{address}{request.path}{query}")
        text = "This node is retired; nothing was done. Follow `location`, and ask this node no more."
        return error_response(RequestError(307, "NodeRetired", text, (location,)))

    def point(self, response: Response) -> Response:
        """Add to a refusal where to ask again."""
        address = self._address()
        return response if address is None else response._replace(headers=(*response.headers, ("location", f"https://{address}/")))
