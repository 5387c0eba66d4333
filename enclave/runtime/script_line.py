"""A script worker's way to the enclave, and the interpreters that it keeps.

Law: messages leave in order, and nothing but what is said here leaves at all.
Not here: what is said (`enclave.runtime.script_worker`), the words' form (`enclave.scripts.messages`).
"""

import os
import socket
import struct
import time
from collections import OrderedDict, deque
from typing import Any, Final

import msgpack

from ledgerd.enclave.runtime.quickjs import Engine, ScriptError, Value
from ledgerd.enclave.scripts import messages
from ledgerd.enclave.scripts.jobs import Limits, canonical
from ledgerd.enclave.scripts.messages import frame

_FLUSH_BYTES: Final = 256 << 10
_HOLD_SECONDS: Final = 0.002  # for which a finished job's words may wait for those of the next: to wake the enclave costs more than they do
_READ_BYTES: Final = 256 << 10
_LENGTH: Final = struct.Struct(">I")
STACK_BYTES_MAX: Final = 4 << 20  # of the engine; half of what a process has by default


class Connection:
    """The way to the enclave: messages out, together as far as nobody waits for them, and frames in."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._out: list[list[Any]] = []
        self._out_bytes = 0
        self._in = bytearray()
        self._flushed_at = 0.0
        self._aside: deque[list[Any]] = deque()

    def send(self, message: list[Any], size: int = 0) -> None:
        """Say something, soon."""
        self._out.append(message)
        self._out_bytes += size
        if self._out_bytes > _FLUSH_BYTES or len(self._out) >= messages.MESSAGES_MAX // 4:
            self.flush()

    def flush(self) -> None:
        """Say all of it now."""
        if self._out:
            self._stream.sendall(frame(self._out))
            self._out.clear()
            self._out_bytes = 0

    def flush_late(self, now: float) -> None:
        """Say it now if it has waited long enough."""
        if now > self._flushed_at + _HOLD_SECONDS:
            self._flushed_at = now
            self.flush()

    def answer(self) -> list[Any]:
        """The answer to what was asked last. Further jobs may come before it, and wait."""
        while True:
            words = self.receive()
            if words[0][0] in (messages.ANSWER, messages.REFUSAL):
                answer: list[Any] = words[0]
                return answer
            self._aside.append(words)

    def jobs(self) -> list[Any]:
        """What there is to do next."""
        return self._aside.popleft() if self._aside else self.receive()

    def receive(self) -> list[Any]:
        """The next frame's messages. The enclave's words need no care: it could do anything to this process anyway."""
        self.flush()
        waiting = self._in
        while len(waiting) < _LENGTH.size or len(waiting) < (end := _LENGTH.size + _LENGTH.unpack_from(waiting)[0]):
            data = self._stream.recv(_READ_BYTES)
            if not data:
                os._exit(0)  # the enclave is gone, or wants this process no more
            waiting += data
        body = bytes(memoryview(waiting)[_LENGTH.size : end])
        del waiting[:end]
        self._flushed_at = time.monotonic()
        return msgpack.unpackb(body, raw=False, max_bin_len=end, max_str_len=end)  # type: ignore[no-any-return]


class Interpreter:
    """An engine with the prelude, and the maps that its scripts have named so far: handles of theirs keep the numbers."""

    def __init__(self, modules: dict[str, str], limits: Limits, prelude: bytes, configuration: bytes) -> None:
        self.engine = Engine(limits.heap_bytes, min(limits.stack_bytes, STACK_BYTES_MAX), canonical, modules.get, lambda count: 0.0)
        self.maps: list[str] = []
        self.numbers: dict[str, int] = {}
        self.functions: dict[tuple[str, str], Value] = {}
        try:
            self.describe, self.tell, self._again, self.endpoint = self.engine.start(prelude, configuration)
        except ScriptError:
            self.engine.close()
            raise

    def again(self, configuration: bytes) -> None:
        """A further run begins."""
        settings = self.engine.new_json(configuration)
        self.engine.free(self.engine.call(self._again, settings), settings)


class Interpreters:
    """Contexts that are kept for further runs, newest used last; each for one key, bundle, rights, functions and limits."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Any, Interpreter] = OrderedDict()

    def take(self, key: Any) -> Interpreter | None:
        """The one of this key, which is given back by `keep` or not at all."""
        return self._kept.pop(key, None)

    def keep(self, key: Any, interpreter: Interpreter, limit: int) -> None:
        """Keep one, at the cost of those that were used least lately."""
        self._kept[key] = interpreter
        while len(self._kept) > limit:
            self._kept.popitem(last=False)[1].engine.close()

    def forget(self, bundle: bytes) -> None:
        """Give up those of a bundle."""
        for key in [key for key in self._kept if key[0] == bundle]:
            self._kept.pop(key).engine.close()
