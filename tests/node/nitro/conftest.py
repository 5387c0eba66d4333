from collections.abc import Iterator
from pathlib import Path

import pytest

from support.nitro import Instance


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    with Instance(tmp_path) as instance:
        yield instance
