"""The vsock device: packets of the guest's queues on one side, sockets of the host on the other.

Law: a guest's mistake costs its stream (a RESET) or, where the queues themselves are wrong, its device (`GuestError`); never this process.
Everything is bounded: streams, what waits for each (`streams`), and resets that the guest has not taken; while those are at their bound,
nothing more is taken from the guest. So is one turn: a guest that always has more must not keep this thread from its other work, nor the
host's own thread from the processor.
"""

import select
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

from ledgerd.node.vm.errors import GuestError
from ledgerd.node.vm.packets import DATA_BYTES_MAX, HEADER, SHUTDOWN_SEND, STREAM, Header, Operation, decode
from ledgerd.node.vm.rings import Chain, Queue
from ledgerd.node.vm.streams import BOTH, BUFFER_BYTES, Stream

HOST_CIDS: Final = (2, 3)  # the host of virtual machines by convention, the parent of Nitro Enclaves
STREAMS_MAX: Final = 64  # an enclave has a handful
RESETS_MAX: Final = 64
PACKETS_MAX: Final = 256  # taken from the guest, and rounds of packets to it, in one turn


class Device:
    """One guest's vsock.

    Args:
        cid: The guest's context id.
        connect: Called with the port that the guest connects to; gives a connected socket, or None for a refusal.
        epoll: Told which sockets to wait for; events go to `woken`.
    Attributes:
        receive, transmit: The guest's queues, named from its side; None while it has not started them.
    """

    def __init__(self, cid: int, connect: Callable[[int], socket.socket | None], epoll: select.epoll) -> None:
        self.cid = cid
        self.receive: Queue | None = None
        self.transmit: Queue | None = None
        self._connect = connect
        self._epoll = epoll
        self._streams: dict[tuple[int, int, int], Stream] = {}
        self._by_descriptor: dict[int, Stream] = {}
        self._resets: deque[Header] = deque()
        self._starved = False  # the guest has no buffer for us
        self._more = False

    def __len__(self) -> int:
        return len(self._streams)

    def close(self) -> None:
        """Close all sockets, and let go of the guest's memory."""
        self.receive = self.transmit = None
        for stream in list(self._streams.values()):
            self._drop(stream)

    def woken(self, descriptor: int, events: int) -> bool:
        """Something happened on a socket; False if it is none of this device's."""
        stream = self._by_descriptor.get(descriptor)
        if stream is None:
            return False
        if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
            stream.readable = True
        if events & (select.EPOLLHUP | select.EPOLLERR):
            stream.host_gone = True
            if stream.host_ended:
                stream.owes_shutdown = BOTH
        if events & select.EPOLLOUT and not stream.flush():
            self._reset(stream)
        return True

    def work(self) -> bool:
        """Take what the guest sent, send it what it has room for, and wait for the right things; True if there may be more at once.

        Raises: GuestError: Its queues are not well-formed.
        """
        self._starved = False
        self._more = False
        self._take()
        self._send()
        self._take()  # what resets had held up
        for stream in list(self._streams.values()):
            if stream.finished:
                self._reset(stream)
            else:
                self._watch(stream)
        return self._more

    # From the guest.

    def _take(self) -> None:
        queue = self.transmit
        for _ in range(PACKETS_MAX):
            if queue is None or len(self._resets) >= RESETS_MAX or (chain := queue.take()) is None:
                return
            if chain.writable:
                raise GuestError("a packet to the host with a writable buffer")
            header, data = decode(chain.readable)
            queue.give_back(chain.head, 0)
            self._packet(header, data)
        self._more = True

    def _packet(self, header: Header, data: bytes) -> None:
        if header.source_cid != self.cid or header.target_cid not in HOST_CIDS:
            return  # there is nobody else on this bus
        stream = self._streams.get((header.source_port, header.target_cid, header.target_port))
        if header.operation == Operation.REQUEST and header.kind == STREAM and stream is None:
            self._open(header)
            return
        if stream is None:
            if header.operation != Operation.RESET:
                self._refuse(header)
            return
        stream.learn_credit(header.buffer_bytes, header.forwarded)
        match header.operation:
            case Operation.DATA:
                if not stream.receive(data):
                    self._reset(stream)
            case Operation.CREDIT_UPDATE:
                pass
            case Operation.CREDIT_REQUEST:
                stream.owes_credit = True
            case Operation.SHUTDOWN:
                stream.guest_shut |= header.flags & BOTH
                if not stream.flush():
                    self._reset(stream)
            case Operation.RESET:
                self._drop(stream)
            case _:
                self._reset(stream)

    def _open(self, header: Header) -> None:
        sock = self._connect(header.target_port) if len(self._streams) < STREAMS_MAX else None
        if sock is None:
            self._refuse(header)
            return
        stream = Stream(header.source_port, header.target_cid, header.target_port, sock)
        stream.learn_credit(header.buffer_bytes, header.forwarded)
        self._streams[stream.key] = stream
        self._by_descriptor[sock.fileno()] = stream

    def _refuse(self, header: Header) -> None:
        self._resets.append(
            Header(header.target_cid, self.cid, header.target_port, header.source_port, 0, STREAM, Operation.RESET, 0, 0, 0)
        )

    def _reset(self, stream: Stream) -> None:
        self._resets.append(self._header(stream, Operation.RESET))
        self._drop(stream)

    def _drop(self, stream: Stream) -> None:
        if self._streams.pop(stream.key, None) is None:
            return
        del self._by_descriptor[stream.socket.fileno()]
        if stream.watched:
            self._epoll.unregister(stream.socket)
        stream.socket.close()

    # To the guest.

    def _header(self, stream: Stream, operation: Operation, length: int = 0, flags: int = 0) -> Header:
        return Header(
            *(stream.host_cid, self.cid, stream.host_port, stream.guest_port, length, STREAM, operation, flags),
            *(BUFFER_BYTES, stream.told()),
        )

    def _send(self) -> None:
        while self._resets and (chain := self._buffer()) is not None:
            self._give(chain, self._resets.popleft())
        for _ in range(PACKETS_MAX):
            # One packet for each in turn: no stream can keep another from the guest's buffers.
            if self._starved or not sum(map(self._send_one, list(self._streams.values()))):
                return
        self._more = True

    def _send_one(self, stream: Stream) -> bool:
        """Send one packet of a stream, if there is one and the guest has a buffer; whether it did."""
        if stream.owes_response:
            if not self._put(stream, Operation.RESPONSE):
                return False
            stream.owes_response = False
            return True
        if stream.readable and not stream.host_ended and stream.room and self._send_data(stream):
            return True
        if stream.owes_shutdown and self._put(stream, Operation.SHUTDOWN, stream.owes_shutdown):
            stream.owes_shutdown = 0
            return True
        return stream.owes_credit and self._put(stream, Operation.CREDIT_UPDATE)

    def _send_data(self, stream: Stream) -> bool:
        chain = self._buffer()
        if chain is None:
            return False
        assert self.receive is not None, "it gave the chain"
        parts = _skip(chain.writable, HEADER.size)
        if not parts:
            raise GuestError("a buffer for packets without room for data")
        try:
            count = stream.socket.recv_into(parts[0][: min(stream.room, DATA_BYTES_MAX)])
        except BlockingIOError:
            stream.readable = False
            self.receive.put_back()
            return False
        except OSError:
            self.receive.put_back()
            self._reset(stream)
            return False
        if not count:
            stream.host_ended = True
            stream.owes_shutdown = BOTH if stream.host_gone else SHUTDOWN_SEND
            self.receive.put_back()
            return False
        stream.sent(count)
        self._give(chain, self._header(stream, Operation.DATA, count))
        return True

    def _put(self, stream: Stream, operation: Operation, flags: int = 0) -> bool:
        chain = self._buffer()
        if chain is None:
            return False
        self._give(chain, self._header(stream, operation, flags=flags))
        return True

    def _give(self, chain: Chain, header: Header) -> None:
        assert self.receive is not None, "it gave the chain"
        _fill(chain.writable, header.encode())
        self.receive.give_back(chain.head, HEADER.size + header.length)

    def _buffer(self) -> Chain | None:
        chain = None if self.receive is None else self.receive.take()
        if chain is None:
            self._starved = True
        elif chain.readable or sum(map(len, chain.writable)) < HEADER.size:
            raise GuestError("a buffer for packets from the host that cannot be written, or is shorter than a header")
        return chain

    def _watch(self, stream: Stream) -> None:
        wanted = 0 if stream.host_gone else select.EPOLLHUP
        if stream.waiting:
            wanted |= select.EPOLLOUT
        if not stream.readable and not stream.host_ended:
            wanted |= select.EPOLLIN
        if wanted == stream.watched:
            return
        if not stream.watched:
            self._epoll.register(stream.socket, wanted)
        elif not wanted:
            self._epoll.unregister(stream.socket)
        else:
            self._epoll.modify(stream.socket, wanted)
        stream.watched = wanted


def _skip(parts: tuple[memoryview, ...], count: int) -> list[memoryview]:
    """The buffers behind the first `count` bytes."""
    left = []
    for part in parts:
        if count < len(part):
            left.append(part[count:])
            count = 0
        else:
            count -= len(part)
    return left


def _fill(parts: tuple[memoryview, ...], data: bytes) -> None:
    """Write into the first of these buffers."""
    for part in parts:
        part[: len(data)] = data[: len(part)]
        data = data[len(part) :]
        if not data:
            return
