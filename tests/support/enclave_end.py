"""The enclave's end of a link in the hands of a test: blocking, with a time limit, granting credit only when told."""

import socket
import time

from ledgerd.enclave.boundary import Event, Framing, Ready, decode_events, encode_ready_frames

SECONDS_MAX = 120.0


class EnclaveEnd:
    """Send what the enclave would be ready with; take the events that the host sends.

    Attributes:
        grants: Whether events taken give the host its credit back.
    """

    def __init__(self, sock: socket.socket, grants: bool = True) -> None:
        self.socket = sock
        self.framing = Framing()
        self.grants = grants
        sock.settimeout(SECONDS_MAX)

    def send(self, ready: Ready) -> None:
        for body in encode_ready_frames(ready):
            while self.framing.credit <= 0:
                self._read()
            self.socket.sendall(self.framing.frame(body))

    def _read(self) -> list[Event]:
        count = self.socket.recv_into(self.framing.space())
        if not count:
            raise EOFError("the host closed the link")
        self.framing.filled(count)
        events: list[Event] = []
        for body in self.framing.bodies():
            events += decode_events(body)
            if self.grants:
                self.framing.consumed(len(body))
        if grant := self.framing.grant():
            self.socket.sendall(grant)
        return events

    def wait(self, kind: type[Event], seen: list[Event] | None = None) -> list[Event]:
        """Read until an event of a kind has come; return all that came."""
        events = [] if seen is None else seen
        deadline = time.monotonic() + SECONDS_MAX
        while not any(type(event) is kind for event in events):
            assert time.monotonic() < deadline, (
                f"no {kind.__name__} within {SECONDS_MAX} s, only {[type(event).__name__ for event in events]}"
            )
            events += self._read()
        return events
