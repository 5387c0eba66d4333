"""The program's version, and the members' floor for it."""

import re
from importlib import metadata
from typing import Any

import pytest

from ledgerd.apps.logging import app
from ledgerd.enclave import joining, program
from ledgerd.enclave.program import check_version, is_version
from ledgerd.enclave.runtime import quickjs
from ledgerd.governance import tables
from ledgerd.ledger.attestation.errors import AttestationError
from ledgerd.ledger.errors import ConfigurationError
from support.cluster import Cluster


def floor(version: Any) -> bytes:
    return tables.encode({"version": version})


def test_it_is_that_of_the_package_and_the_engine_that_of_its_interface() -> None:
    assert metadata.version("ledgerd") == program.VERSION
    assert quickjs.VERSION.decode() in program.QUICKJS


@pytest.mark.parametrize("text", ["0.0.0", "1.2.3", "10.20.30", "999999999.0.0"])
def test_versions(text: str) -> None:
    assert is_version(text)


@pytest.mark.parametrize(
    "text", ["", "1", "1.2", "1.2.3.4", "01.2.3", "1.2.3\n", "1.2.x", "-1.2.3", "1.2.1000000000", "٣.1.1", None, 1, ["1.2.3"]]
)
def test_what_is_no_version(text: Any) -> None:
    assert not is_version(text)


@pytest.mark.parametrize(("version", "least"), [("1.2.3", "1.2.3"), ("1.10.0", "1.9.9"), ("2.0.0", "1.99.99"), ("1.2.4", "1.2.3")])
def test_who_is_new_enough_may_join(version: str, least: str) -> None:
    check_version(version, floor(least))


@pytest.mark.parametrize(("version", "least"), [("1.2.2", "1.2.3"), ("1.9.9", "1.10.0"), ("0.99.99", "1.0.0")])
def test_who_is_older_may_not(version: str, least: str) -> None:
    with pytest.raises(AttestationError, match=re.escape(f"{least} or later")) as refusal:
        check_version(version, floor(least))
    assert refusal.value.rule == "version"


@pytest.mark.parametrize("record", [b"", b"{}", b"[]", b"1", floor("1"), floor(None)])
def test_a_floor_that_nobody_can_read_lets_nobody_in(record: bytes) -> None:
    with pytest.raises(ConfigurationError, match="holds no version"):
        check_version("1.0.0", record)


def test_an_old_image_does_not_join_and_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(app)
    (n0,) = cluster.start(1)
    serving: Any = n0.enclave._serving
    serving._apply_and_propose({tables.MINIMUM_VERSION: {tables.SINGLETON: floor("0.1.1")}})
    joiner = cluster.join("n1")
    cluster.until(lambda: joiner.stopped is not None)
    assert "rule 'version'" in joiner.notices["refused"]
    assert any("0.1.1 or later" in text for _, text in n0.logs)
    monkeypatch.setattr(joining, "VERSION", "0.2.0")
    newer = cluster.join("n2")
    cluster.until(lambda: newer.notices.get("open") == "yes")
    record = tables.decode(serving._replica.store.get(tables.NODE_INFO, newer.notices["node_id"].encode()))
    assert record["program"] == "0.2.0"
