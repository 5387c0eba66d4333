"""The network between nodes, in the nemesis' hands: a gate before every node's peer address.

Each gate knows which node dials, by whose process holds the other end of the connection. `Network` says what happens to bytes from one
node to another: they pass, pass late, wait until the way is open again (nobody is told), are changed, or the connection is cut.
Not here: choosing among these (`nemesis.faults`), plain recording of bytes (`support.wires`).
"""

import contextlib
import os
import random
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class Way:
    """What happens on the way from one node to another.

    Attributes:
        blocked: Bytes wait; the connection stays.
        delay_seconds: Each piece waits so long.
        corrupt: Chance that a piece has one bit changed.
    """

    blocked: bool = False
    delay_seconds: float = 0.0
    corrupt: float = 0.0


OPEN = Way()


class Network:
    """All ways between nodes, by the nodes' numbers; what is not said is open. For any thread."""

    def __init__(self) -> None:
        self._ways: dict[tuple[int, int], Way] = {}
        self._gates: list[Gate] = []
        self.bits_changed = 0

    def add(self, gate: "Gate") -> None:
        """A gate asks this network from now on."""
        self._gates.append(gate)

    def set(self, source: int, target: int, way: Way) -> None:
        """Bytes from `source` to `target` go this way from now on."""
        self._ways[source, target] = way

    def way(self, source: int, target: int) -> Way:
        """How bytes go from one to the other."""
        return self._ways.get((source, target), OPEN)

    def heal(self) -> None:
        """All ways are open again; what waited arrives."""
        self._ways.clear()

    def cut(self, number: int) -> None:
        """Break every connection to and from a node, in the middle of whatever is on its way."""
        for gate in self._gates:
            gate.cut(None if gate.number == number else number)


class Gate:
    """Listens where a node is said to be, and carries what comes to where it is.

    Args:
        network: Says how.
        number: Of the node behind it.
        target: Where that node listens, once it does.
        number_of: The node whose process this is.
        seed: For the bits that are changed.
    """

    def __init__(
        self, network: Network, number: int, target: Callable[[], tuple[str, int]], number_of: Callable[[int], int | None], seed: int
    ) -> None:
        self.number = number
        self._network = network
        self._target = target
        self._number_of = number_of
        self._random = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host, self.port = self._listener.getsockname()
        self._connections: list[tuple[int, socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._closed = False
        network.add(self)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"{self.host}:{self.port}"

    def cut(self, source: int | None) -> None:
        """Break the connections of one node, or of all."""
        with self._lock:
            for dialler, near, far in self._connections:
                if source is None or dialler == source:
                    _shut(near, far)

    def close(self) -> None:
        """Stop listening, and cut every connection."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut(None)

    def _accept(self) -> None:
        while not self._closed:
            try:
                near, (_, port) = self._listener.accept()
            except OSError:
                return
            dialler = self._dialler(port)
            try:
                far = socket.create_connection(self._target())
            except (OSError, AssertionError):
                near.close()
                continue
            with self._lock:
                self._connections = [item for item in self._connections if item[1].fileno() >= 0]
                self._connections.append((dialler, near, far))
            there = threading.Thread(target=self._pump, args=(near, far, dialler, self.number), daemon=True)
            back = threading.Thread(target=self._pump, args=(far, near, self.number, dialler), daemon=True)
            there.start()
            back.start()
            threading.Thread(target=_close_after, args=((there, back), (near, far)), daemon=True).start()

    def _dialler(self, port: int) -> int:
        """The node that connected from a port of this machine; -1 if it is none that we know."""
        with open("/proc/net/tcp", encoding="ascii") as table:
            rows = [line.split() for line in table]
        sockets = {f"socket:[{row[9]}]" for row in rows if row[1] == f"0100007F:{port:04X}"}
        for process in (int(name) for name in os.listdir("/proc") if name.isdigit()):
            number = self._number_of(process)
            if number is None:
                continue
            with contextlib.suppress(OSError):
                for descriptor in os.listdir(f"/proc/{process}/fd"):
                    with contextlib.suppress(OSError):
                        if os.readlink(f"/proc/{process}/fd/{descriptor}") in sockets:
                            return number
        return -1

    def _pump(self, inward: socket.socket, outward: socket.socket, source: int, target: int) -> None:
        network = self._network
        with contextlib.suppress(OSError):
            while data := inward.recv(1 << 16):
                way = network.way(source, target)
                if way.delay_seconds:
                    time.sleep(way.delay_seconds)
                while network.way(source, target).blocked and not self._closed:
                    time.sleep(LOOK_SECONDS)
                if way.corrupt and self._random.random() < way.corrupt:
                    changed = bytearray(data)
                    changed[self._random.randrange(len(changed))] ^= 1 << self._random.randrange(8)
                    data = bytes(changed)
                    network.bits_changed += 1
                outward.sendall(data)
        _shut(inward, outward)


def _shut(*sockets: socket.socket) -> None:
    for sock in sockets:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def _close_after(threads: tuple[threading.Thread, ...], sockets: tuple[socket.socket, ...]) -> None:
    for thread in threads:
        thread.join()
    for sock in sockets:
        sock.close()
