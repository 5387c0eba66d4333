"""TLC for the tests of this folder. Where it is not installed they are skipped, but not in CI."""

import os

import pytest

from support.tlc import Tlc


@pytest.fixture(scope="session")
def tlc() -> Tlc:
    try:
        return Tlc()
    except FileNotFoundError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))
