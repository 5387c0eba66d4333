"""How the host waits for its enclave's link: a vsock here; tests put a UNIX socket in its place.

The only place outside of enclaves where AF_VSOCK is opened, and only when an enclave is about to start.
"""

import contextlib
import select
import socket
from typing import Final, NamedTuple, Protocol

from ledgerd.ledger.errors import ConfigurationError

_ANY_CID: Final = 0xFFFFFFFF  # VMADDR_CID_ANY
_BACKLOG: Final = 4


class Accepted(NamedTuple):
    """Somebody connected: the stream, and which virtual machine it comes from (None where there is only one)."""

    link: socket.socket
    cid: int | None


class Listener(Protocol):
    """Waits for connections of enclaves."""

    def accept(self, seconds: float) -> Accepted | None:
        """Wait that long; None if nobody came."""

    def close(self) -> None:
        """Wait no more; what was accepted stays."""


class VsockListener:
    """Listens on a vsock port of this instance, which its enclaves reach as CID 3."""

    def __init__(self, port: int) -> None:
        """Raises: ConfigurationError: The port is taken, or there is no vsock here."""
        try:
            self._socket = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            try:
                self._socket.bind((_ANY_CID, port))
                self._socket.listen(_BACKLOG)
            except OSError:
                self._socket.close()
                raise
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on vsock port {port}: {error.strerror}; something else here uses it, or `modprobe vsock` is needed"
            ) from None

    def accept(self, seconds: float) -> Accepted | None:
        """As `Listener.accept`."""
        return accept(self._socket, seconds)

    def close(self) -> None:
        """As `Listener.close`."""
        self._socket.close()


def accept(listener: socket.socket, seconds: float) -> Accepted | None:
    """Accept one connection within so many seconds, of any socket family that listens."""
    if not select.select([listener], [], [], max(seconds, 0.0))[0]:
        return None
    with contextlib.suppress(OSError):  # who connected may be gone already
        link, address = listener.accept()
        return Accepted(link, address[0] if isinstance(address, tuple) and address else None)
    return None
