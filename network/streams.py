"""Many TCP streams in one poll: accept, connect, read and write in batches, never waiting.

Law: no task, thread or timer per stream; every buffer has an end. A stream whose other side does not read is not read from either, and
is dropped when its unsent bytes pass their limit or stand still too long. Bytes are opaque here: TLS ends elsewhere.
Not here: what streams are for (`node.host` names their kinds), what is in them.
"""

import contextlib
import errno
import ipaddress
import os
import queue
import select
import socket
import threading
import time
from collections import deque
from typing import Any, Final

from ledgerd.ledger.errors import ConfigurationError

READ_BYTES: Final = 64 << 10  # one read of one stream: a busy stream must not hold up the others
WAKE_UP_BYTES_MAX: Final = 1 << 20  # read in one wake-up; what is left shows up in the next
PAUSE_BYTES: Final = 256 << 10  # unsent bytes above which a stream is not read from
UNSENT_BYTES_MAX: Final = 256 << 20  # of all streams together
STALL_SECONDS_MAX: Final = 60.0  # unsent bytes that do not move
LINGER_SECONDS_MAX: Final = 2.0  # after we closed: let the other side read our last words before a reset could destroy them
CONNECT_SECONDS_MAX: Final = 5.0
CONNECTING_MAX: Final = 128
SWEEP_SECONDS: Final = 1.0

_IN: Final = select.EPOLLIN
_OUT: Final = select.EPOLLOUT
# A socket that is out of descriptors, or lost its client before it was accepted, fails these ways; the listener lives on.
_ACCEPT_LATER: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Kind:
    """What streams of one kind may use.

    Args:
        tag: Handed back with each new stream.
        unsent_bytes_max: A stream is dropped when this much is unsent and more comes.
        streams_max: Further ones take the place of one that is closing already, or are closed as soon as they are accepted.
        pauses: Whether a stream with much unsent is not read from.
    """

    __slots__ = ("closing", "count", "pauses", "streams_max", "tag", "unsent_bytes_max")

    def __init__(self, tag: int, unsent_bytes_max: int, streams_max: int, pauses: bool) -> None:
        self.tag = tag
        self.unsent_bytes_max = unsent_bytes_max
        self.streams_max = streams_max
        self.pauses = pauses
        self.count = 0
        self.closing: dict[_Stream, None] = {}  # in the order in which they were closed


class _Stream:
    __slots__ = ("closing", "deadline", "kind", "mask", "number", "opened", "remote", "socket", "unsent")

    def __init__(self, number: int, kind: Kind, sock: socket.socket, remote: str) -> None:
        self.number = number
        self.kind = kind
        self.socket = sock
        self.remote = remote
        self.unsent: bytearray | None = None
        self.mask = _IN
        self.opened = True
        self.closing = False
        self.deadline = 0.0  # when it is dropped unless something moves; 0 for never


class Streams:
    """All TCP streams of a node.

    Call `poll`; then take `opened`, `received` and `closed`, in this order, and clear them. A stream's number is never used again.

    Attributes:
        opened: (number, kind's tag, remote address) of streams accepted or connected.
        received: (number, bytes), in the order of arrival within each stream; never empty bytes.
        closed: Numbers of streams that are gone, whoever ended them; said once.
        reading: Set to False to leave all bytes in the kernel (the consumer is behind); connections are then not accepted either.
        dropped: Streams dropped for not reading, since the start.
    """

    def __init__(self) -> None:
        self.opened: list[tuple[int, int, str]] = []
        self.received: list[tuple[int, bytes]] = []
        self.closed: list[int] = []
        self.dropped = 0
        self._epoll = select.epoll()
        self._reading = True
        self._streams: dict[int, _Stream] = {}  # by number
        self._by_descriptor: dict[int, _Stream] = {}
        self._listeners: dict[int, tuple[socket.socket, Kind]] = {}
        self._resting_listeners: list[int] = []
        self._watched: set[int] = set()  # descriptors of others
        self._slow: set[_Stream] = set()  # those with a deadline
        self._unsent_total = 0
        self._next_number = 1
        self._next_sweep = 0.0
        self._resolver: _Resolver | None = None

    def __len__(self) -> int:
        return len(self._streams)

    # Descriptors of others, so that a host waits in one place.

    def watch(self, descriptor: int, writing: bool = False) -> None:
        """Have `poll` return `descriptor` when it can be read (or, with `writing`, also when it can be written)."""
        mask = _IN | _OUT if writing else _IN
        if descriptor in self._watched:
            self._epoll.modify(descriptor, mask)
        else:
            self._watched.add(descriptor)
            self._epoll.register(descriptor, mask)

    def unwatch(self, descriptor: int) -> None:
        """Undo `watch`; before the descriptor is closed."""
        self._watched.discard(descriptor)
        self._epoll.unregister(descriptor)

    # Accepting and connecting.

    def listen(self, host: str, port: int, kind: Kind) -> tuple[str, int]:
        """Accept streams of a kind at an address; port 0 lets the system choose. Returns the address bound.

        Raises: ConfigurationError: The port is in use, or is not ours to use.
        """
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
            listener = socket.create_server((host, port), family=family, backlog=1024)
        except OSError as error:
            advice = "stop the other program or choose another port" if error.errno == errno.EADDRINUSE else "choose another address"
            raise ConfigurationError(f"cannot listen on {host}:{port}: {_reason(error)}; {advice}") from None
        listener.setblocking(False)
        self._listeners[listener.fileno()] = (listener, kind)
        self._epoll.register(listener.fileno(), _IN if self._reading else 0)
        address = listener.getsockname()
        return str(address[0]), int(address[1])

    def connect(self, number: int, host: str, port: int, kind: Kind) -> None:
        """Open a stream to `host:port` under the caller's number; `opened` or `closed` tells what came of it."""
        if number in self._streams or kind.count >= min(kind.streams_max, CONNECTING_MAX):
            if number not in self._streams:
                self.closed.append(number)
            return
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            if self._resolver is None:
                self._resolver = _Resolver()
                self.watch(self._resolver.wake)
            if not self._resolver.ask(number, host, port, kind):
                self.closed.append(number)
            return
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        self._connect(number, family, (host, port), kind)

    def _connect(self, number: int, family: int, address: Any, kind: Kind) -> None:
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            problem = sock.connect_ex(address)
        except OSError:
            self.closed.append(number)
            return
        if problem not in (0, errno.EINPROGRESS):  # later failures show as an error event
            sock.close()
            self.closed.append(number)
            return
        stream = _Stream(number, kind, sock, f"{address[0]}:{address[1]}")
        stream.opened = False
        stream.mask = _OUT
        stream.deadline = time.monotonic() + CONNECT_SECONDS_MAX
        self._slow.add(stream)
        self._add(stream)

    def _add(self, stream: _Stream) -> None:
        stream.kind.count += 1
        self._streams[stream.number] = stream
        self._by_descriptor[stream.socket.fileno()] = stream
        self._epoll.register(stream.socket.fileno(), stream.mask if self._reading else stream.mask & ~_IN)

    def _accept(self, listener: socket.socket, kind: Kind) -> None:
        while True:
            try:
                sock, remote = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _ACCEPT_LATER:
                    # The kernel would wake us for it again and again; the sweep tries once a second.
                    self._epoll.modify(listener.fileno(), 0)
                    self._resting_listeners.append(listener.fileno())
                    return
                continue
            if kind.count >= kind.streams_max:
                if not kind.closing:
                    sock.close()
                    continue
                self._drop(next(iter(kind.closing)))
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stream = _Stream(self._next_number, kind, sock, f"{remote[0]}:{remote[1]}")
            self._next_number += 1
            self._add(stream)
            self.opened.append((stream.number, kind.tag, stream.remote))

    # The wake-up.

    def poll(self, timeout: float) -> list[int]:
        """Wait at most `timeout` seconds for anything; do all input and output that can be done.

        Returns: The watched descriptors that are ready.
        """
        others: list[int] = []
        streams = self._by_descriptor
        received = self.received
        room = WAKE_UP_BYTES_MAX
        for descriptor, mask in self._epoll.poll(timeout, 4096):
            stream = streams.get(descriptor)
            if stream is None:
                if descriptor in self._watched:
                    others.append(descriptor)
                elif descriptor in self._listeners:
                    self._accept(*self._listeners[descriptor])
                continue
            if mask & _OUT or not stream.opened:
                self._writable(stream)
                if stream.mask == 0:
                    continue  # it is gone
            if mask & ~_OUT and stream.opened:
                if mask & _IN and room <= 0:
                    continue  # level-triggered: it shows up again
                try:
                    data = stream.socket.recv(READ_BYTES)
                except BlockingIOError:
                    continue
                except OSError:
                    data = b""
                if not data:
                    self._drop(stream)
                elif not stream.closing:
                    received.append((stream.number, data))
                    room -= len(data)
        if self._resolver is not None and self._resolver.wake in others:
            others.remove(self._resolver.wake)
            for number, family, address, kind in self._resolver.answers():
                if address is None:
                    self.closed.append(number)
                else:
                    self._connect(number, family, address, kind)
        now = time.monotonic()
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP_SECONDS
            self._sweep(now)
        return others

    @property
    def reading(self) -> bool:
        """Whether bytes and connections are taken from the kernel."""
        return self._reading

    @reading.setter
    def reading(self, value: bool) -> None:
        if value is self._reading:
            return
        self._reading = value
        for stream in self._streams.values():
            self._epoll.modify(stream.socket.fileno(), stream.mask if value else stream.mask & ~_IN)
        for descriptor in self._listeners:
            self._epoll.modify(descriptor, _IN if value else 0)

    def _sweep(self, now: float) -> None:
        for stream in [stream for stream in self._slow if stream.deadline <= now]:
            self.dropped += not stream.closing
            self._drop(stream)
        for descriptor in self._resting_listeners:
            self._epoll.modify(descriptor, _IN if self._reading else 0)
        self._resting_listeners.clear()

    # Writing and closing.

    def send(self, number: int, data: bytes) -> None:
        """Send what the kernel takes, keep the rest; unknown numbers (just closed) are ignored."""
        stream = self._streams.get(number)
        if stream is None or stream.closing:
            return
        unsent = stream.unsent
        size = len(data)
        if unsent is None:
            if stream.opened:
                try:
                    sent = stream.socket.send(data)
                except BlockingIOError:
                    sent = 0
                except OSError:
                    self._drop(stream)
                    return
                if sent == size:
                    return
                size -= sent
                stream.unsent = bytearray(memoryview(data)[sent:])
            else:
                stream.unsent = bytearray(data)
            if not stream.deadline:
                stream.deadline = time.monotonic() + STALL_SECONDS_MAX
                self._slow.add(stream)
        elif len(unsent) > stream.kind.unsent_bytes_max:
            self.dropped += 1
            self._drop(stream)
            return
        else:
            unsent += data
        self._unsent_total += size
        while self._unsent_total > UNSENT_BYTES_MAX:
            self._drop_largest()
        if stream.unsent is None:
            return  # it was the largest
        paused = stream.kind.pauses and len(stream.unsent) > PAUSE_BYTES
        self._watch_stream(stream, _OUT if paused or not stream.opened else _IN | _OUT)

    def _drop_largest(self) -> None:
        """Make room, at the cost of who does not take what it asked for; a peer, which may be catching up, goes after all clients."""
        waiting = [(stream.kind.pauses, len(stream.unsent), stream) for stream in self._slow if stream.unsent]
        stream = max(waiting, key=lambda item: item[:2])[2]
        self.dropped += not stream.closing
        self._drop(stream)

    def close(self, number: int) -> None:
        """Close a stream once what was sent is out; `closed` tells at once."""
        stream = self._streams.get(number)
        if stream is None or stream.closing:
            return
        stream.closing = True
        stream.kind.closing[stream] = None
        self.closed.append(number)
        stream.deadline = time.monotonic() + (STALL_SECONDS_MAX if stream.unsent else LINGER_SECONDS_MAX)
        self._slow.add(stream)
        if stream.unsent is None:
            self._end_writing(stream)

    def _end_writing(self, stream: _Stream) -> None:
        try:
            stream.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(stream)
            return
        stream.deadline = time.monotonic() + LINGER_SECONDS_MAX
        self._watch_stream(stream, _IN)

    def _writable(self, stream: _Stream) -> None:
        if not stream.opened:
            if stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._drop(stream)
                return
            stream.opened = True
            self.opened.append((stream.number, stream.kind.tag, stream.remote))
        unsent = stream.unsent
        if unsent:
            try:
                sent = stream.socket.send(unsent)
            except BlockingIOError:
                return
            except OSError:
                self._drop(stream)
                return
            self._unsent_total -= sent
            del unsent[:sent]
        if unsent:
            stream.deadline = time.monotonic() + STALL_SECONDS_MAX
            if not stream.kind.pauses or len(unsent) <= PAUSE_BYTES:
                self._watch_stream(stream, _IN | _OUT)
            return
        stream.unsent = None
        if stream.closing:
            self._end_writing(stream)
            return
        stream.deadline = 0.0
        self._slow.discard(stream)
        self._watch_stream(stream, _IN)

    def _watch_stream(self, stream: _Stream, mask: int) -> None:
        if mask != stream.mask:
            stream.mask = mask
            self._epoll.modify(stream.socket.fileno(), mask if self._reading else mask & ~_IN)

    def _drop(self, stream: _Stream) -> None:
        """Forget a stream now."""
        if stream.mask == 0:
            return
        stream.mask = 0
        del self._by_descriptor[stream.socket.fileno()]
        del self._streams[stream.number]
        self._slow.discard(stream)
        stream.kind.count -= 1
        stream.kind.closing.pop(stream, None)
        if stream.unsent:
            self._unsent_total -= len(stream.unsent)
            stream.unsent = None
        if not stream.closing:
            self.closed.append(stream.number)
        stream.socket.close()  # leaves the poll by itself

    def shut(self) -> None:
        """Close everything at once."""
        for stream in list(self._streams.values()):
            self._drop(stream)
        for listener, _ in self._listeners.values():
            listener.close()
        self._listeners.clear()
        self._epoll.close()


def _reason(error: OSError) -> str:
    """In the system's words, without what Python adds."""
    return (os.strerror(error.errno) if error.errno is not None and error.errno > 0 else str(error.strerror)).lower()


class _Resolver:
    """Looks names up in a thread: the system's call blocks, and a name server may take seconds."""

    def __init__(self) -> None:
        self.wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._questions: queue.SimpleQueue[tuple[int, str, int, Kind]] = queue.SimpleQueue()
        self._answers: deque[tuple[int, int, Any, Kind]] = deque()
        threading.Thread(target=self._run, name="resolver", daemon=True).start()

    def ask(self, number: int, host: str, port: int, kind: Kind) -> bool:
        """Queue a question, unless too many wait."""
        if self._questions.qsize() >= CONNECTING_MAX:
            return False
        self._questions.put((number, host, port, kind))
        return True

    def _run(self) -> None:
        while True:
            number, host, port, kind = self._questions.get()
            family: int = socket.AF_UNSPEC
            address: Any = None
            with contextlib.suppress(OSError, UnicodeError):
                family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            self._answers.append((number, family, address, kind))
            os.eventfd_write(self.wake, 1)

    def answers(self) -> list[tuple[int, int, Any, Kind]]:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.wake)
        return [self._answers.popleft() for _ in range(len(self._answers))]
