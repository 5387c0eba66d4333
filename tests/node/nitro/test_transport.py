"""The vsock listener, without a vsock: what it asks of the system, and what it says when the system refuses."""

import errno
import socket
from typing import Any, ClassVar

import pytest

from ledgerd.ledger.errors import ConfigurationError
from ledgerd.node.nitro import transport


class FakeSocket:
    """Records; refuses to bind where a test says so."""

    made: ClassVar[list["FakeSocket"]] = []
    refusal: ClassVar[OSError | None] = None

    def __init__(self, family: int, kind: int) -> None:
        self.family = family
        self.bound: Any = None
        self.is_closed = False
        FakeSocket.made.append(self)

    def bind(self, address: object) -> None:
        if FakeSocket.refusal is not None:
            raise FakeSocket.refusal
        self.bound = address

    def listen(self, backlog: int) -> None:
        pass

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture(autouse=True)
def no_vsock(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeSocket.made.clear()
    monkeypatch.setattr(FakeSocket, "refusal", None)
    monkeypatch.setattr(socket, "socket", FakeSocket)


def test_it_listens_on_the_port_for_any_cid() -> None:
    listener = transport.VsockListener(7000)
    (made,) = FakeSocket.made
    assert (made.family, made.bound) == (socket.AF_VSOCK, (0xFFFFFFFF, 7000))
    listener.close()
    assert made.is_closed


def test_a_port_that_is_taken_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeSocket, "refusal", OSError(errno.EADDRINUSE, "Address already in use"))
    with pytest.raises(ConfigurationError, match="vsock port 7000: Address already in use; something else here uses it"):
        transport.VsockListener(7000)
    assert FakeSocket.made[0].is_closed
