"""Bytes for peers that wait for the disk: what an enclave has sealed beside entries, to be sent once these are stored.

Law: a stream's bytes stay in their order, for TLS knows no other. So whatever an enclave has for a stream of which some wait, waits, too.
Not here: what is on disk (`node.storage`), sending (`network.streams`).
"""

from collections import deque


class Promises:
    """Bytes that wait, in the order given.

    Attributes:
        size_bytes: All that wait.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, int, bytes]] = deque()  # the batch, which never falls; the stream; its bytes
        self.size_bytes = 0

    def promise(self, batch: int, pieces: list[tuple[int, bytes]]) -> None:
        """Keep `pieces` (stream, bytes) until that many batches are on disk."""
        for stream, data in pieces:
            self._keep(batch, stream, data)

    def holds(self, stream: int) -> bool:
        """Whether bytes of that stream wait."""
        return any(waiting[1] == stream for waiting in self._waiting)

    def follow(self, stream: int, data: bytes) -> None:
        """Keep bytes behind those of the same stream that wait."""
        self._keep(self._waiting[-1][0], stream, data)

    def due(self, batches: int) -> list[tuple[int, bytes]]:
        """What may be sent now that so many batches are on disk; each piece is handed over once."""
        due: list[tuple[int, bytes]] = []
        waiting = self._waiting
        while waiting and waiting[0][0] <= batches:
            _, stream, data = waiting.popleft()
            self.size_bytes -= len(data)
            due.append((stream, data))
        return due

    def _keep(self, batch: int, stream: int, data: bytes) -> None:
        self._waiting.append((batch, stream, data))
        self.size_bytes += len(data)
