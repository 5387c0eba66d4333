"""A client asks the service for its nodes, so that it outlives all that it was told of."""

import json
from typing import Any

import pytest

from ledgerd.network.client.attempts import Attempting, Lost, Received, Result, Send, Trouble
from ledgerd.network.client.learning import HOPS_MAX, NODES_PATH, learn_nodes, take_nodes
from ledgerd.network.client.nodes import Nodes
from ledgerd.network.client.values import Budget

A, B, C = "https://a:1", "https://b:1", "https://c:1"


def listing(*addresses: str, status: str = "Trusted") -> bytes:
    nodes = [{"status": status, "rpc_interfaces": {"primary_rpc_interface": {"published_address": address}}} for address in addresses]
    return json.dumps({"nodes": nodes}).encode()


def learn(nodes: Nodes, *results: Result, now: float = 0.0) -> list[Send]:
    """Drive one round with these results; returns what was sent."""
    shared = Attempting(Budget(), lambda: now, lambda: 0.0, lambda size: "")
    nodes.should_learn(now - 10.0)  # the first look only winds the clock
    steps = learn_nodes(nodes, shared)
    sent: list[Send] = []
    given = iter(results)
    result: Result = None
    try:
        while True:
            step = steps.send(result)
            assert isinstance(step, Send)
            sent.append(step)
            result = next(given)
    except StopIteration:
        return sent


def test_the_list_comes_from_whoever_answers_and_trouble_is_none_of_the_callers() -> None:
    nodes = Nodes([A, B])
    sent = learn(nodes, Lost(Trouble.NOT_SENT, "refused"), Received(200, {}, listing("b:1", "c:1")))
    assert [(step.origin, step.method, step.path) for step in sent] == [(A, "GET", NODES_PATH), (B, "GET", NODES_PATH)]
    assert nodes.origins == (A, B, C)
    assert nodes.pick() == B
    assert learn(Nodes([A]), Lost(Trouble.CUT, "cut")) != []
    assert len(learn(Nodes([f"n{number}:1" for number in range(9)]), *[Lost(Trouble.CUT, "cut")] * 9)) == HOPS_MAX


def test_a_node_that_has_left_shows_the_way_to_the_list() -> None:
    nodes = Nodes([A])
    sent = learn(nodes, Received(307, {"location": "https://c:1/node/network/nodes"}, b""), Received(200, {}, listing("b:1", "c:1")))
    assert [step.origin for step in sent] == [A, C]
    assert nodes.pick() == C


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b'{"nodes": 5}',
        b'{"nodes": [5]}',
        b'{"nodes": [{"status": "Trusted"}]}',
        b'{"nodes": [{"status": "Trusted", "rpc_interfaces": {}}]}',
        b'{"nodes": [{"status": "Trusted", "rpc_interfaces": []}]}',
        b'{"nodes": [{"status": "Trusted", "rpc_interfaces": {"a": {}}}]}',
        b"[" * 100_000,
        listing("http://c:1"),
        listing("c:1", "c:99999999"),
        listing("c:1", status="Retired"),
    ],
)
def test_what_is_no_list_of_trusted_nodes_changes_nothing(body: bytes) -> None:
    nodes = Nodes([A])
    take_nodes(nodes, body)
    assert nodes.origins == (A,)


def test_a_client_that_has_just_begun_does_not_ask() -> None:
    shared = Attempting(Budget(), lambda: 5.0, lambda: 0.0, lambda size: "")
    steps: Any = learn_nodes(Nodes([A]), shared)
    with pytest.raises(StopIteration):
        next(steps)
