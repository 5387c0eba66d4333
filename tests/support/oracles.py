"""CCF's own package for tests: where it was not made, a test is skipped, but in CI it fails."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from support.ccf_oracle import Oracle


@contextmanager
def made_oracle(major: int) -> Iterator[Oracle]:
    """Open the oracle of one major version, for a fixture."""
    try:
        oracle = Oracle(major)
    except FileNotFoundError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))
    yield oracle
    oracle.close()
