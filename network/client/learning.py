"""Which nodes there are, as the service says: asked now and then before a request, so that a client outlives all nodes it was told of.

The answer comes over a connection that ends at the pinned service, so an enclave has given it; the addresses are the nodes' operators',
and each is pinned again when it is used. No I/O. Not here: when (`Nodes.should_learn`), what the list changes (`Nodes.learn`).
"""

import json
from collections.abc import Generator
from typing import Final

from ledgerd.ledger.errors import ConfigurationError
from ledgerd.network.client.attempts import Attempting, Pause, Received, Result, Send
from ledgerd.network.client.nodes import Nodes, origin_of

NODES_PATH: Final = "/node/network/nodes?status=Trusted"
SECONDS_MAX: Final = 1.0  # for one answer: the request that waits behind this one has not begun
HOPS_MAX: Final = 3  # a node that has left names another


def learn_nodes(nodes: Nodes, shared: Attempting) -> Generator[Send | Pause, Result, None]:
    """Ask for the nodes if it is time. Failing does not matter: the nodes known are tried as before."""
    if not nodes.should_learn(shared.clock()):
        return
    asked: set[str] = set()
    while len(asked) < HOPS_MAX:
        origin = nodes.pick(asked)
        if origin is None:
            return
        asked.add(origin)
        result = yield Send(origin, "GET", NODES_PATH, {}, b"", min(SECONDS_MAX, shared.budget.attempt_seconds))
        if isinstance(result, Received) and result.status == 200:
            take_nodes(nodes, result.body)
            return
        if not isinstance(result, Received) or not nodes.follow(result.headers.get("location", "")):
            nodes.leave(origin)


def take_nodes(nodes: Nodes, body: bytes) -> None:
    """Take over what a node answered to `NODES_PATH`; what is not of that form changes nothing."""
    found = []
    try:
        for node in json.loads(body)["nodes"]:
            if node["status"] == "Trusted":
                interface = next(iter(node["rpc_interfaces"].values()))
                found.append(origin_of(str(interface["published_address"])))
    except (ValueError, TypeError, KeyError, AttributeError, StopIteration, RecursionError, ConfigurationError):
        return
    nodes.learn(found)
