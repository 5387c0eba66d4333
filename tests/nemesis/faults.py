"""What the nemesis does to a running service: each fault begins, lasts for a while, and is healed.

All of it is what a hostile or broken machine could do to its own node, and what networks do; never to more nodes at one time than a
service of that size must bear. Not here: the order and the judgement (`nemesis.campaign`), the network (`nemesis.links`).
"""

import contextlib
import json
import os
import random
import signal
from collections.abc import Callable

from nemesis.host import LIES, orders_of
from nemesis.links import Network, Way
from support.processes import Node

Heal = Callable[[], None]
"""Ends a fault; may be called once."""


class Victims:
    """The nodes of a service that a fault may hit, and by what.

    Attributes:
        lost: Nodes that were killed.
        suspects: Nodes whose host has lied: they may stop, and say why, or go on rightly.
    """

    def __init__(self, network: Network, choose: random.Random) -> None:
        self.network = network
        self.choose = choose
        self.lost: list[Node] = []
        self.suspects: list[Node] = []

    # Faults that heal. Each takes the nodes that live, and the one it is about.

    def pause_host(self, nodes: list[Node], node: Node) -> Heal:
        """SIGSTOP to the host: its clock goes on, nothing else."""
        return _stopped(node.host_pid)

    def pause_enclave(self, nodes: list[Node], node: Node) -> Heal:
        """SIGSTOP to the enclave: it wakes with everything it believed."""
        return _stopped(node.enclave_pid)

    def isolate(self, nodes: list[Node], node: Node) -> Heal:
        """Nothing passes between the node and all others, and nobody is told."""
        return self._set(Way(blocked=True), [(node, other) for other in nodes] + [(other, node) for other in nodes])

    def deafen(self, nodes: list[Node], node: Node) -> Heal:
        """The node sends and hears nothing."""
        return self._set(Way(blocked=True), [(other, node) for other in nodes])

    def mute(self, nodes: list[Node], node: Node) -> Heal:
        """The node hears and cannot send."""
        return self._set(Way(blocked=True), [(node, other) for other in nodes])

    def bridge(self, nodes: list[Node], node: Node) -> Heal:
        """Only this node reaches all others; they do not reach each other."""
        others = [other for other in nodes if other is not node]
        return self._set(Way(blocked=True), [(one, other) for one in others for other in others if one is not other])

    def slow(self, nodes: list[Node], node: Node) -> Heal:
        """Every piece to and from the node is late."""
        way = Way(delay_seconds=self.choose.uniform(0.02, 0.25))
        return self._set(way, [(node, other) for other in nodes] + [(other, node) for other in nodes])

    def corrupt(self, nodes: list[Node], node: Node) -> Heal:
        """Bits change on the way to and from the node: channels break, and are made anew."""
        way = Way(corrupt=self.choose.uniform(0.005, 0.1))
        return self._set(way, [(node, other) for other in nodes] + [(other, node) for other in nodes])

    def cut(self, nodes: list[Node], node: Node) -> Heal:
        """All of the node's connections break in the middle of whatever is on its way."""
        self.network.cut(node.number)
        return _nothing

    def jump_clock(self, nodes: list[Node], node: Node) -> Heal:
        """The host's clocks, of the day and monotonic, jump by an hour to the one side or the other."""
        _order(node, {"clock": self.choose.choice((-3600, 3600))})
        return _nothing

    # Faults that a node does not survive, or may not.

    def kill_host(self, nodes: list[Node], node: Node) -> Heal:
        """SIGKILL to the host."""
        self.lost.append(node)
        node.kill_host()
        return _nothing

    def kill_enclave(self, nodes: list[Node], node: Node) -> Heal:
        """SIGKILL to the enclave."""
        self.lost.append(node)
        node.kill_enclave()
        return _nothing

    def lie(self, nodes: list[Node], node: Node) -> Heal:
        """The host answers reads of its disk wrongly: an older ledger, changed bits, entries in each other's places, or nothing at all."""
        self.suspects.append(node)
        _order(node, {"disk": self.choose.choice(LIES), "seed": self.choose.getrandbits(32)})

        def heal() -> None:
            if node.process.poll() is None:
                _order(node, {"disk": "honest"})

        return heal

    def _set(self, way: Way, pairs: list[tuple[Node, Node]]) -> Heal:
        for source, target in pairs:
            if source is not target:
                self.network.set(source.number, target.number, way)
        return self.network.heal


def _nothing() -> None:
    return None


def _stopped(process: int) -> Heal:
    os.kill(process, signal.SIGSTOP)

    def heal() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGCONT)

    return heal


def _order(node: Node, order: dict[str, object]) -> None:
    """Tell a host what to do wrong from now on (`nemesis.host` takes it)."""
    file = orders_of(node.directory)
    new = file.with_suffix(".new")
    new.write_text(json.dumps(order))
    new.replace(file)
    with contextlib.suppress(ProcessLookupError):
        os.kill(node.host_pid, signal.SIGUSR1)
