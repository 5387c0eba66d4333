import ctypes
import errno
import socket
import struct
import threading
from pathlib import Path

import pytest

from ledgerd.enclave.runtime.nsm import REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX, DeviceNsm, SocketNsm
from ledgerd.ledger.errors import HostError


def device(tmp_path: Path, answer: bytes, claim: int | None = None) -> tuple[DeviceNsm, list[bytes]]:
    """A device whose driver is a function: reads the request from memory and writes the answer there, as drivers/misc/nsm.c does."""
    path = tmp_path / "nsm"
    path.touch()
    requests: list[bytes] = []

    def ioctl(descriptor: int, argument: bytearray) -> None:
        address, length, answer_address, room = struct.unpack("=QQQQ", argument)
        assert room == RESPONSE_BYTES_MAX, "the device insists on the whole response buffer"
        requests.append(ctypes.string_at(address, length))
        ctypes.memmove(answer_address, answer, len(answer))
        argument[:] = struct.pack("=QQQQ", address, length, answer_address, len(answer) if claim is None else claim)

    return DeviceNsm(str(path), ioctl), requests


def test_the_device_gets_the_request_and_gives_as_much_as_it_says(tmp_path: Path) -> None:
    nsm, requests = device(tmp_path, b"\xa1answer")
    assert nsm.request(b"\x69GetRandom") == b"\xa1answer"
    assert requests == [b"\x69GetRandom"]


def test_a_length_that_the_device_cannot_have_written_is_refused(tmp_path: Path) -> None:
    nsm, _ = device(tmp_path, b"x", claim=RESPONSE_BYTES_MAX + 1)
    with pytest.raises(HostError, match="claims"):
        nsm.request(b"x")


def test_a_request_above_the_drivers_limit_does_not_reach_it(tmp_path: Path) -> None:
    nsm, requests = device(tmp_path, b"x")
    with pytest.raises(HostError, match="takes"):
        nsm.request(bytes(REQUEST_BYTES_MAX + 1))
    assert requests == []


def test_a_refusal_of_the_driver_is_told(tmp_path: Path) -> None:
    (tmp_path / "nsm").touch()

    def ioctl(descriptor: int, argument: bytearray) -> None:
        raise OSError(errno.EMSGSIZE, "Message too long")

    with pytest.raises(HostError, match="Message too long"):
        DeviceNsm(str(tmp_path / "nsm"), ioctl).request(b"x")


def ask_simulator(answers: bytes) -> bytes:
    """Send a request to a simulator that writes some bytes and closes."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with theirs:
            theirs.recv(1 << 16)
            theirs.sendall(answers)

    thread = threading.Thread(target=serve)
    thread.start()
    with ours:
        try:
            return SocketNsm(ours).request(b"x")
        finally:
            thread.join()


def test_the_simulator_answers_behind_a_length() -> None:
    assert ask_simulator(b"\0\0\0\x05hello") == b"hello"


@pytest.mark.parametrize("answers", [b"", b"\0\0", b"\0\0\0\x05hell"])
def test_a_simulator_that_breaks_off_is_told(answers: bytes) -> None:
    with pytest.raises(HostError, match="closed its socket"):
        ask_simulator(answers)


def test_a_simulator_that_claims_too_much_is_refused() -> None:
    with pytest.raises(HostError, match="claims"):
        ask_simulator((RESPONSE_BYTES_MAX + 1).to_bytes(4, "big"))
