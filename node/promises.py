"""Bytes for peers that wait for the disk: what an enclave has sealed beside entries, to be sent once these are stored.

Law: a stream's bytes stay in their order, for TLS knows no other. So whatever an enclave has for a stream of which some wait, waits, too.
Not here: what is on disk (`node.storage`), sending (`network.streams`).
"""

from collections import deque


class Promises:
    """Bytes that wait, each stream's in the order given.

    Attributes:
        size_bytes: All that wait.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, deque[tuple[int, bytes]]] = {}  # by stream: the batch, which never falls, and the bytes
        self.size_bytes = 0

    def promise(self, batch: int, pieces: list[tuple[int, bytes]]) -> None:
        """Keep `pieces` (stream, bytes) until that many batches are on disk."""
        for stream, data in pieces:
            self._waiting.setdefault(stream, deque()).append((batch, data))
            self.size_bytes += len(data)

    def holds(self, stream: int) -> bool:
        """Whether bytes of that stream wait."""
        return stream in self._waiting

    def follow(self, stream: int, data: bytes) -> None:
        """Keep bytes behind those of the same stream that wait."""
        waiting = self._waiting[stream]
        waiting.append((waiting[-1][0], data))
        self.size_bytes += len(data)

    def forget(self, stream: int) -> None:
        """A stream is gone: what waits for it is nobody's any more."""
        waiting = self._waiting.pop(stream, None)
        if waiting is not None:
            self.size_bytes -= sum(len(data) for _, data in waiting)

    def due(self, batches: int) -> list[tuple[int, bytes]]:
        """What may be sent now that so many batches are on disk; each piece is handed over once."""
        due: list[tuple[int, bytes]] = []
        for stream, waiting in list(self._waiting.items()):
            while waiting and waiting[0][0] <= batches:
                data = waiting.popleft()[1]
                self.size_bytes -= len(data)
                due.append((stream, data))
            if not waiting:
                del self._waiting[stream]
        return due
