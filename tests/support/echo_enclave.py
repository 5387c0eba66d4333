"""A fake core for the enclave process: echoes client bytes, or does as a client's first word says. Run as a script, it is that process.

Words: `store N SIZE` (append N entries, answer when stored), `stop N [REASON]` (end with status N), `crash` (raise, with a secret
in the message), `fetch FIRST THROUGH` (answer with the count), `nsm` (ask the NSM in a worker, answer), `flood N` (answer with N MiB),
`close` (answer, then close), `connect PORT TEXT` (send TEXT to a local port, answer with what comes back).
"""

import os
import sys
from typing import Any, NamedTuple

from ledgerd.enclave.boundary import OUTBOUND, Closed, Configured, Connect, Event, Fetch, Fetched, Opened, Ready, Received, Stopping, Stored
from ledgerd.enclave.runtime.main import main


class Job(NamedTuple):
    number: int
    work: Any


class EchoEnclave:
    scripts = None  # it runs none

    def __init__(self, app: object, now: float) -> None:
        self._now = now
        self._ready = Ready()
        self._ready.notices.append(("state", "echo"))
        self._seqno = 0
        self._waiting: list[tuple[int, int]] = []  # (seqno, client)
        self._fetching: dict[int, int] = {}
        self._dialled: dict[int, tuple[int, bytes]] = {}
        self._jobs: list[Job] = []

    def receive(self, events: list[Event]) -> None:
        out = self._ready.client_bytes
        for event in events:
            if type(event) is Received:
                stream, data = event
                if stream < 0:
                    out.append((self._dialled[stream][0], data))
                elif data[:1] in b"scfn" and data.split(b" ")[0].strip() in COMMANDS:
                    self._command(stream, data.decode().split())
                else:
                    out.append((stream, data))
            elif type(event) is Stored:
                for seqno, client in self._waiting:
                    if seqno <= event.seqno:
                        out.append((client, f"stored {event.generation} {event.view}.{event.seqno}".encode()))
                self._waiting = [item for item in self._waiting if item[0] > event.seqno]
            elif type(event) is Fetched:
                out.append((self._fetching.pop(event.request), f"fetched {len(event.entries)}".encode()))
            elif type(event) is Opened and event.kind == OUTBOUND:
                self._ready.peer_bytes.append((event.stream, self._dialled[event.stream][1]))
            elif type(event) is Closed and event.stream < 0:
                out.append((self._dialled[event.stream][0], b"closed"))
            elif type(event) is Stopping:
                self._ready.stop = 0
            elif type(event) is Configured:
                self._ready.logs.append(("info", f"configured with {len(event.document)} bytes"))

    def _command(self, stream: int, words: list[str]) -> None:
        ready = self._ready
        if words[0] == "store":
            count, size = int(words[1]), int(words[2])
            if not ready.entries:
                ready.first_seqno = self._seqno + 1
            ready.entries += [os.urandom(8) + bytes(size - 8)] * count
            ready.view = 2
            self._seqno += count
            self._waiting.append((self._seqno, stream))
        elif words[0] == "stop":
            ready.stop = int(words[1])
            if len(words) > 2:
                ready.notices.append(("refused", " ".join(words[2:])))
        elif words[0] == "crash":
            raise KeyError(SECRET)
        elif words[0] == "fetch":
            number = len(self._fetching) + 1
            self._fetching[number] = stream
            ready.fetches.append(Fetch(number, int(words[1]), int(words[2]), 1 << 20))
        elif words[0] == "nsm":
            self._jobs.append(Job(stream, lambda nsm: nsm.request(b"\x69GetRandom")))
        elif words[0] == "flood":
            ready.client_bytes.append((stream, bytes(int(words[1]) << 20)))
        elif words[0] == "close":
            ready.client_bytes.append((stream, b"goodbye"))
            ready.closes.append(stream)
        elif words[0] == "connect":
            number = -1 - len(self._dialled)
            self._dialled[number] = (stream, words[2].encode())
            ready.connects.append(Connect(number, "127.0.0.1", int(words[1])))

    def log(self, level: str, text: str) -> None:
        self._ready.logs.append((level, text))

    def tick(self, now: float) -> None:
        self._now = now

    def next_wakeup(self) -> float:
        return self._now + 60

    def ready(self) -> Ready:
        ready, self._ready = self._ready, Ready()
        return ready

    def jobs(self) -> list[Job]:
        jobs, self._jobs = self._jobs, []
        return jobs

    def finished(self, number: int, result: object) -> None:
        self._ready.client_bytes.append((number, result if isinstance(result, bytes) else repr(result).encode()))


SECRET = "a value that nobody may read"
COMMANDS = {b"store", b"stop", b"crash", b"fetch", b"nsm", b"flood", b"close", b"connect"}
app = None

if __name__ == "__main__":
    arguments = sys.argv[1:]
    arguments[arguments.index("--app") + 1] = "ledgerd.apps"
    import ledgerd.apps

    ledgerd.apps.app = None  # type: ignore[attr-defined]
    sys.exit(main(arguments, EchoEnclave))
