"""Where other people's data lies. It is never copied into this repository."""

import os
from pathlib import Path

import pytest


def vectors(*parts: str) -> Path:
    """Return the folder (or file) of vectors that `parts` name, or skip the test, saying so.

    A folder that is named but not there is a failure: a check that is skipped by mistake looks like one that passed.
    """
    root = os.environ.get("LEDGERD_VECTORS")
    if not root:
        pytest.skip("LEDGERD_VECTORS does not name the folder of vectors")
    found = Path(root, *parts)
    if not found.exists():
        pytest.fail(f"{found} is not there; LEDGERD_VECTORS must name the folder of vectors")
    return found
