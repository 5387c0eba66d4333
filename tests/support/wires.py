"""A proxy before a node's published address, which writes down whatever passes: what anybody on the network sees."""

import contextlib
import socket
import threading
from collections.abc import Callable


class Proxy:
    """Carries TCP connections to wherever `target` says when they come.

    Attributes:
        host, port: Where it listens.
        captured: The bytes of each connection, one buffer for each direction.
    """

    def __init__(self, target: Callable[[], tuple[str, int]]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host, self.port = self._listener.getsockname()
        self.captured: list[bytearray] = []
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"{self.host}:{self.port}"

    def close(self) -> None:
        """Stop listening, and cut every connection."""
        self._closed = True
        with self._lock:
            for sock in (self._listener, *self._sockets):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            self._listener.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._target())
            except OSError:
                near.close()
                continue
            with self._lock:
                self._sockets += [near, far]
            ways = ((near, far), (far, near))
            threads = [threading.Thread(target=self._pump, args=way, daemon=True) for way in ways]
            for thread in threads:
                thread.start()
            threading.Thread(target=_close_after, args=(threads, (near, far)), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        captured = bytearray()
        self.captured.append(captured)
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                captured += data
                target.sendall(data)
        for sock, how in ((target, socket.SHUT_WR), (source, socket.SHUT_RD)):
            with contextlib.suppress(OSError):
                sock.shutdown(how)


def _close_after(threads: list[threading.Thread], sockets: tuple[socket.socket, ...]) -> None:
    for thread in threads:
        thread.join()
    for sock in sockets:
        sock.close()
