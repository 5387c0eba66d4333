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


def test_the_services_own_list_replaces_what_it_has_listed_before_and_keeps_what_the_caller_named() -> None:
    nodes = Nodes(["alias:1", "a:1"])
    nodes.prefer("https://a:1")
    nodes.learn(["https://a:1", "https://b:1"])
    assert nodes.origins == ("https://alias:1", "https://a:1", "https://b:1")
    assert nodes.pick() == "https://a:1", "who did well is asked first still"
    nodes.learn(["https://b:1", "https://c:1"])
    assert nodes.origins == ("https://alias:1", "https://b:1", "https://c:1"), "a was listed, and is no more; alias never was"
    assert nodes.pick() == "https://b:1", "whoever comes after the one that is gone"


def test_an_empty_list_changes_nothing_and_a_long_one_is_bounded() -> None:
    nodes = Nodes(["a:1"])
    nodes.learn([])
    assert nodes.origins == ("https://a:1",)
    nodes.learn([f"https://n{number}:1" for number in range(2 * NODES_MAX)])
    assert len(nodes.origins) == NODES_MAX
    assert nodes.origins[0] == "https://a:1"


def test_when_to_ask_for_the_list() -> None:
    nodes = Nodes(["a:1", "b:1"])
    assert not nodes.should_learn(100.0), "a client that lives for a moment never asks"
    assert not nodes.should_learn(100.9)
    assert nodes.should_learn(101.1)
    assert not nodes.should_learn(101.2), "whoever was told to ask does it"
    nodes.leave("https://a:1")
    assert not nodes.should_learn(101.3), "not at every trouble, where there is one after the other"
    assert nodes.should_learn(101.7)
    assert not nodes.should_learn(110.0)
    assert nodes.should_learn(112.0)
    nodes.follow("https://c:1/")
    assert nodes.should_learn(113.0)
