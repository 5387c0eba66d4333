"""The guest's first process, as far as it can be run outside of a guest: the ioctl's three rounds, and the files it reads."""

import errno
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ledgerd.enclave.runtime import nsm as driver
from ledgerd.node.simulator.server import serve
from ledgerd.node.vm import guest

UNRESTRICTED = 1
RETRY = 4
ARGUMENT_AT, REQUEST_AT, ANSWER_AT = 0x1000, 0x2000, 0x3000


class Echo:
    """In place of a simulated module: says which request it got."""

    answer: Callable[[bytes], bytes] = staticmethod(lambda request: b"answer to " + request)

    def request(self, request: bytes) -> bytes:
        return type(self).answer(request)


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The way to the host's simulator, which is there."""
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=serve, args=(Echo(), theirs))
    thread.start()
    yield ours
    ours.close()
    thread.join()


class Process:
    """Memory of a process that calls ioctl, and the kernel's part of an unrestricted one: copy what is named, ask again."""

    def __init__(self, request: bytes, answer_bytes: int = 0x3000) -> None:
        argument = struct.pack("=QQQQ", REQUEST_AT, len(request), ANSWER_AT, answer_bytes)
        self.memory = {ARGUMENT_AT: bytearray(argument), REQUEST_AT: bytearray(request), ANSWER_AT: bytearray(0x3000)}
        self.rounds = 0

    def ioctl(self, stream: socket.socket, command: int = driver.IOCTL_REQUEST) -> int:
        """Returns the error's number, or 0."""
        given = b""
        outputs: list[tuple[int, int]] = []
        while True:
            self.rounds += 1
            assert self.rounds <= 3
            sizes = (len(given), sum(size for _, size in outputs))
            answer = guest.ioctl(stream, struct.pack("=QIIQII", 1, UNRESTRICTED << 1, command, ARGUMENT_AT, *sizes) + given)
            if isinstance(answer, int):
                return answer
            result, flags, inputs_count, outputs_count = struct.unpack_from("=iIII", answer)
            assert result == 0
            rest = answer[16:]
            if flags & RETRY:
                pairs = [(address, size) for address, size in struct.iter_unpack("=QQ", rest)]
                assert len(pairs) == inputs_count + outputs_count
                given = b"".join(self.memory[address][:size] for address, size in pairs[:inputs_count])
                outputs = pairs[inputs_count:]
                continue
            assert len(rest) <= sizes[1]
            for address, size in outputs:
                self.memory[address][: len(rest[:size])] = rest[:size]
                rest = rest[size:]
            return 0

    @property
    def answer(self) -> bytes:
        """What the process finds, as long as its argument says."""
        return bytes(self.memory[ANSWER_AT][: struct.unpack("=QQQQ", self.memory[ARGUMENT_AT])[3]])


def test_a_request_is_answered_in_three_rounds(stream: socket.socket) -> None:
    process = Process(b"a request")
    assert process.ioctl(stream) == 0
    assert (process.answer, process.rounds) == (b"answer to a request", 3)
    again = Process(b"x" * 0x1000)
    assert again.ioctl(stream) == 0
    assert again.answer == b"answer to " + b"x" * 0x1000


def test_what_the_driver_refuses_is_refused_with_its_errors(stream: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Process(b"x" * 0x1001).ioctl(stream) == errno.EMSGSIZE
    assert Process(b"a request").ioctl(stream, command=0xC0200A01) == errno.ENOTTY
    assert Process(b"a request", answer_bytes=5).ioctl(stream) == errno.EINVAL
    monkeypatch.setattr(Echo, "answer", staticmethod(lambda request: bytes(0x3001)))
    assert Process(b"a request").ioctl(stream) == errno.EINVAL


def test_the_numbers_are_those_of_the_client_in_the_enclave() -> None:
    """Which are AWS's; two programs that cannot import each other."""
    assert (guest.IOCTL, guest.REQUEST_BYTES_MAX, guest.ANSWER_BYTES_MAX) == (
        driver.IOCTL_REQUEST,
        driver.REQUEST_BYTES_MAX,
        driver.RESPONSE_BYTES_MAX,
    )
    numbers = (guest._EINVAL, guest._ENOSYS, guest._ENOTTY, guest._EMSGSIZE, guest._EIO)
    assert numbers == (errno.EINVAL, errno.ENOSYS, errno.ENOTTY, errno.EMSGSIZE, errno.EIO)


def test_a_host_that_closes_is_an_error(stream: socket.socket) -> None:
    stream.shutdown(socket.SHUT_WR)
    with pytest.raises(OSError, match="closed the stream"):
        guest.receive(stream, 1)


def test_cmd_and_env_are_read_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "cmd"
    path.write_text("/usr/bin/python3.11\n-I\nlast\n")
    assert guest.lines(str(path)) == ["/usr/bin/python3.11", "-I", "last"]
    assert not os.path.exists(path)
