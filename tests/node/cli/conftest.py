"""The command line as tests call it, without the caller's own environment; and a service of one node that it asks."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.command_line import Ledgerd, run
from support.council import Council
from support.fake_service import FakeService


@pytest.fixture
def ledgerd(monkeypatch: pytest.MonkeyPatch) -> Ledgerd:
    for name in list(os.environ):
        if name.startswith("LEDGERD_") and name != "LEDGERD_VECTORS":
            monkeypatch.delenv(name)
    return run


@pytest.fixture
def service(tmp_path: Path) -> Iterator[FakeService]:
    with FakeService(tmp_path, nodes=1) as service:
        yield service


@pytest.fixture
def options(service: FakeService) -> list[object]:
    return ["--url", service.urls[0], "--service-cert", service.certificate_file, "--timeout", 60]


@pytest.fixture
def council(service: FakeService) -> Council:
    """What the service's one node says under `/gov`."""
    council = Council()
    service.nodes[0].behaviour = council
    return council
