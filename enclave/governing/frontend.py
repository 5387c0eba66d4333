"""All of `/gov`, put together for one node. Not here: what the endpoints do (the other modules of this package)."""

from typing import Protocol

from ledgerd.enclave.endpoints import Registry
from ledgerd.enclave.governing import acks, effects, engine, proposals, proposing, recovery, service
from ledgerd.enclave.governing.renewal import Renewal


class Node(acks.Node, engine.Node, proposals.Node, proposing.Node, service.Node, Protocol):
    """What governance asks of the node that it runs on."""


def add_to(registry: Registry, node: Node, renewal: Renewal) -> None:
    """Add the endpoints."""
    constitution = engine.Engine(node, renewal.complete)
    proposing.Proposing(node, constitution).add_to(registry)
    effects.Effects(constitution).add_to(registry)
    proposals.KnownProposals(node, constitution).add_to(registry)
    acks.Acknowledgement(node, renewal).add_to(registry)
    service.ServiceState(node).add_to(registry)
    recovery.add_to(registry)
