"""Addresses of nodes, and the order in which they are asked."""

import pytest

from ledgerd.ledger.errors import ConfigurationError
from ledgerd.ledger.ids import parse_transaction_id
from ledgerd.network.client.nodes import NODES_MAX, Nodes, origin_of


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://127.0.0.1:8000", "https://127.0.0.1:8000"),
        ("https://example.com", "https://example.com:443"),
        ("localhost:8000", "https://localhost:8000"),
        ("https://[::1]:8000/", "https://[::1]:8000"),
    ],
)
def test_an_address_becomes_an_origin(url: str, origin: str) -> None:
    assert origin_of(url) == origin


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000", "https://", "https://host:99999", "https://host/app", "https://u:p@host", "ftp://host", "https://h?q"]
)
def test_anything_but_an_https_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        origin_of(url)


def test_no_node_at_all_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        Nodes([])


def test_leaving_a_node_that_somebody_else_left_already_changes_nothing() -> None:
    nodes = Nodes(["a:1", "b:1", "c:1"])
    nodes.leave("https://a:1")
    nodes.leave("https://a:1")
    assert nodes.pick() == "https://b:1"


def test_a_hostile_host_cannot_make_us_collect_nodes_for_ever() -> None:
    nodes = Nodes(["a:1"])
    followed = [nodes.follow(f"https://n{i}:1/") for i in range(NODES_MAX + 10)]
    assert len(nodes.origins) == NODES_MAX
    assert followed.count(False) == 11


def test_the_newest_id_only_grows_and_nonsense_is_ignored() -> None:
    nodes = Nodes(["a:1"])
    for text in ("2.9", "2.5", "nonsense", "3.1", ""):
        nodes.saw({"x-ms-ccf-transaction-id": text})
    assert nodes.newest == parse_transaction_id("3.1")
