"""Two ways to the Nitro Secure Module: the device's ioctl, and a simulator behind a socket.

Law: both carry the same request and response bytes (`enclave.nsm` knows what they mean), block until answered, and may be called from any
thread; one request at a time, since the real driver serialises them anyway.
"""

import ctypes
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable
from typing import Final, Protocol

from ledgerd.ledger.errors import HostError

REQUEST_BYTES_MAX: Final = 0x1000  # limits of the Linux driver, drivers/misc/nsm.c
RESPONSE_BYTES_MAX: Final = 0x3000
IOCTL_REQUEST: Final = 0xC0200A00  # _IOWR(0x0A, 0, 32 bytes)
_ARGUMENT: Final = struct.Struct("=QQQQ")  # request address and length, response address and length
_LENGTH: Final = struct.Struct("!I")


class NsmTransport(Protocol):
    """Anything that answers an NSM request."""

    def request(self, request: bytes) -> bytes:
        """Send one CBOR request; return the CBOR response. Blocks."""


def _ioctl(descriptor: int, argument: bytearray) -> None:
    fcntl.ioctl(descriptor, IOCTL_REQUEST, argument, True)


class DeviceNsm:
    """The device of a Nitro Enclave, or of a kernel that emulates it."""

    def __init__(self, path: str = "/dev/nsm", ioctl: Callable[[int, bytearray], None] = _ioctl) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._ioctl = ioctl
        self._lock = threading.Lock()

    def request(self, request: bytes) -> bytes:
        """As `NsmTransport.request`.

        Raises: HostError: The request is larger than the driver takes, or the driver refuses it.
        """
        if len(request) > REQUEST_BYTES_MAX:
            raise HostError(f"an NSM request of {len(request)} bytes; the device takes {REQUEST_BYTES_MAX}")
        sent = ctypes.create_string_buffer(request, len(request))
        answer = ctypes.create_string_buffer(RESPONSE_BYTES_MAX)
        argument = bytearray(_ARGUMENT.pack(ctypes.addressof(sent), len(request), ctypes.addressof(answer), RESPONSE_BYTES_MAX))
        try:
            with self._lock:
                self._ioctl(self._descriptor, argument)
        except OSError as error:
            raise HostError(f"the NSM device refused a request of {len(request)} bytes: {error.strerror}") from None
        length = _ARGUMENT.unpack(argument)[3]
        if length > RESPONSE_BYTES_MAX:
            raise HostError(f"the NSM device claims an answer of {length} bytes")
        return answer.raw[:length]


class SocketNsm:
    """A simulator behind a connected stream: request and response each behind their length, 32 bits big-endian."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        self._socket = sock
        self._lock = threading.Lock()

    def request(self, request: bytes) -> bytes:
        """As `NsmTransport.request`.

        Raises: HostError: The simulator is gone, or claims an answer larger than the device could give.
        """
        try:
            with self._lock:
                self._socket.sendall(_LENGTH.pack(len(request)) + request)
                length: int = _LENGTH.unpack(self._read(_LENGTH.size))[0]
                if length > RESPONSE_BYTES_MAX:
                    raise HostError(f"the NSM simulator claims an answer of {length} bytes; the limit is {RESPONSE_BYTES_MAX}")
                return self._read(length)
        except OSError as error:
            raise HostError(f"the NSM simulator does not answer: {error.strerror}") from None

    def _read(self, count: int) -> bytes:
        data = self._socket.recv(count, socket.MSG_WAITALL)
        if len(data) < count:
            raise HostError("the NSM simulator closed its socket")
        return data
