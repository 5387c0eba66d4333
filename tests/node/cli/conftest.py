"""The command line as tests call it, without the caller's own environment."""

import os

import pytest

from support.command_line import Ledgerd, run


@pytest.fixture
def ledgerd(monkeypatch: pytest.MonkeyPatch) -> Ledgerd:
    for name in list(os.environ):
        if name.startswith("LEDGERD_") and name != "LEDGERD_VECTORS":
            monkeypatch.delenv(name)
    return run
