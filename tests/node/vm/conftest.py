from collections.abc import Iterator

import pytest

from support.virtio import Guest


@pytest.fixture
def guest() -> Iterator[Guest]:
    made = Guest()
    yield made
    made.close()
