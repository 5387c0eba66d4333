"""Majorities of configurations, and of several at once.

A configuration counts from the moment its entry is appended, together with all earlier ones that are not yet superseded by a committed one.
A decision then needs a majority in *each* of them. (A majority of their union is not enough: two disjoint ones could exist.)
"""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from ledgerd.ledger.ids import NodeId, Seqno


class Configuration(NamedTuple):
    """The nodes that decide, from entry `seqno` on."""

    seqno: Seqno
    nodes: frozenset[NodeId]


def majority(count: int) -> int:
    """How many of `count` nodes are more than half of them."""
    return count // 2 + 1


def quorum_seqno(nodes: Collection[NodeId], stored: Mapping[NodeId, Seqno]) -> Seqno:
    """The highest seqno that a majority of `nodes` has stored; nodes not in `stored` have nothing."""
    highest = sorted([stored.get(node, Seqno(0)) for node in nodes], reverse=True)
    return highest[majority(len(highest)) - 1]


def has_quorums(configurations: Iterable[Configuration], agreeing: Collection[NodeId]) -> bool:
    """Whether `agreeing` contains a majority of every configuration; never true without any configuration."""
    decided = False
    for configuration in configurations:
        if len(configuration.nodes.intersection(agreeing)) < majority(len(configuration.nodes)):
            return False
        decided = True
    return decided
