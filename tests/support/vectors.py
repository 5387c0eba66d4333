"""Where other people's data lies. It is never copied into this repository."""

import os
from pathlib import Path

import pytest


def vectors(*parts: str) -> Path:
    """Return the folder (or file) of vectors that `parts` name, or skip the test, saying so.

    In CI, where `CI` is set, missing vectors are a failure: a skipped check looks like a passed one.
    """
    root = os.environ.get("LEDGERD_VECTORS")
    if not root:
        message = "LEDGERD_VECTORS does not name the folder of vectors"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return Path(root, *parts)
