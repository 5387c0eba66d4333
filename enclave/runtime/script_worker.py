"""A script worker: `python -m ledgerd.enclave.runtime.script_worker`, with a connected socket as descriptor 0 and nothing else.

Runs one job after the other, each in an engine of its own that is thrown away with it, unless the job says that it may be used again. It
holds no key and no state: what a script wants of the maps, it asks the enclave, which checks everything again. What is checked here
serves the script: an exception in its own language where the enclave would only stop the worker.
Law: messages leave in order, at the latest with one that waits for an answer, and those of a finished job within milliseconds as far as
scripts let this process look. Whatever a script does, this process says how it ended, or dies.
Not here: what the process gives up (`enclave.runtime.sandbox`), the engine (`enclave.runtime.quickjs`), what scripts find (`prelude.js`).
"""

import binascii
import gc
import json
import os
import socket
import struct
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import msgpack

from ledgerd.enclave.runtime import constitution_check, later, module_check, sandbox
from ledgerd.enclave.runtime.crypto import functions, needs
from ledgerd.enclave.runtime.crypto.arguments import Kind, RefusalError, Surroundings
from ledgerd.enclave.runtime.quickjs import GIVEN, PART_BYTES, UNDEFINED, WRITTEN, Engine, EngineError, ScriptError, Value
from ledgerd.enclave.runtime.script_line import Connection, Interpreter, Interpreters
from ledgerd.enclave.scripts import messages
from ledgerd.enclave.scripts.access import READ, WRITE, Access, explain, rights
from ledgerd.enclave.scripts.jobs import DEADLINE_TEXT, LOG_LINES_MAX, MAPS_MAX, End, Limits, canonical
from ledgerd.enclave.scripts.messages import KEY_BYTES_MAX, LEVELS, TEXT_LENGTH_MAX

EXIT_NO_SANDBOX: Final = 3
_KNOWN_BYTES_MAX: Final = 1 << 20  # of keys and values that one run remembers, so as not to ask twice
_UNKNOWN: Final = object()

# The prelude's own operations; the others are messages of the same number.
_OPEN, _TO_BUFFER, _TO_TEXT, _RANDOM, _OWN = 1, 2, 3, 4, 5
_NONE, _GIVEN, _REFUSED, _FORBIDDEN, _OUT_OF_RANGE = 0.0, 1.0, -2.0, -3.0, -4.0
_THROWN: Final = {Kind.ERROR: _REFUSED, Kind.TYPE: _FORBIDDEN, Kind.RANGE: _OUT_OF_RANGE}
# What looks at sources, each in an engine of its own within the one that asks.
_LOOKERS: Final = {"gov.validateConstitution": constitution_check.check, "gov.checkModules": module_check.check}
_HEADER: Final = struct.Struct("=IIIIII")
_BOUNDS: Final = struct.Struct("<BBH")  # of a page: see `forEach` in `prelude.js`
_ENTRY: Final = struct.Struct("=III4x")  # of what is written: see `prelude.js`
_REMOVED: Final = 0xFFFFFFFF
_KINDS_MAX: Final = 256  # of jobs, and of responses' headers, that are remembered
_ALIKE_BYTES_MAX: Final = 1_024  # of such headers
_OUT_OF_MEMORY: Final = "InternalError: out of memory"
_STACK: Final = "RangeError: Maximum call stack size exceeded"
_COMPILER_HEAP_BYTES: Final = 16 << 20
_KEPT_MAPS_MAX: Final = MAPS_MAX // 2  # that leave room for those of a further run


class _LimitError(Exception):
    """A limit of the job's was passed, and the engine is being stopped."""


class JobKind:
    """What the jobs of one endpoint have in common.

    Attributes:
        key: Of the interpreters that may be used for it; None if each job has its own.
    """

    __slots__ = ("access", "calls", "function", "is_script", "key", "limits", "module")

    def __init__(self, data: bytes) -> None:
        self.module: str
        self.function: str
        self.calls: list[str]
        self.is_script: bool
        self.module, self.function, access, self.calls, self.is_script, limits, reuse = msgpack.unpackb(data)
        self.access = Access[access]
        self.limits = Limits(*limits)
        self.key = (reuse, access, tuple(self.calls), self.limits, self.is_script) if reuse else None


_kind_of: Final = lru_cache(maxsize=_KINDS_MAX)(JobKind)


class Execution:
    """One job under way."""

    def __init__(self, connection: Connection, modules: dict[str, str], job: list[Any], prelude: bytes, kept: Interpreters) -> None:
        _, bundle, kind, self._arguments, self._body, clock, self._ahead = job
        self._connection = connection
        self._modules = modules
        self._prelude = prelude
        self._kind = kind = _kind_of(kind)
        self._access = kind.access
        self._limits = kind.limits
        self._clock = clock
        self._known: dict[tuple[str, bytes], bytes | None] = {(name, key): value for name, key, value in self._ahead}
        self._known_bytes = 0
        self._kept = kept
        self._key = None if kind.key is None else (bundle, kind.key)
        self._spilled = bytearray()
        self._operations = 0
        self._written = 0
        self._taken = 0  # of the part of shared memory in which the script leaves what it writes
        self._logged = 0
        self._log_lines = 0
        self._over: tuple[End, str] | None = None
        self._interpreter: Interpreter | None = None

    def run(self) -> list[Any]:
        """Run it; give the message that says how it ended."""
        try:
            interpreter = self._interpreter = self._begin()
        except (EngineError, ScriptError):
            return [messages.FAILED, End.MEMORY.value, _OUT_OF_MEMORY, ""]
        engine = interpreter.engine
        try:
            message = self._call(interpreter)
        except ScriptError as error:
            message = self._failure(engine, error)
        except _LimitError:
            message = self._failure(engine, None)
        except OverflowError:
            message = [messages.FAILED, End.OUTPUT.value, f"The result is larger than {self._limits.output_bytes} bytes.", ""]
        except MemoryError:
            message = [messages.FAILED, End.MEMORY.value, _OUT_OF_MEMORY, ""]
        except Exception:  # where the prelude should have told stands something of the script's: an object that only looks like a promise
            message = [messages.FAILED, End.INVALID.value, "not an object", ""]
        if self._over is not None or engine.interrupted:  # whatever came of it afterwards
            message = self._failure(engine, None)
        engine.deadline = float("inf")
        # One that failed may have left things to be done, which a further run must not do for it.
        if self._key is not None and message[0] != messages.FAILED and len(interpreter.maps) < _KEPT_MAPS_MAX:
            self._kept.keep(self._key, interpreter, self._limits.interpreters)
        else:
            engine.close()
        return message

    def _begin(self) -> Interpreter:
        found = None if self._key is None else self._kept.take(self._key)
        if found is None:
            found = Interpreter(self._modules, self._limits, self._prelude, self._configuration())
        elif not self._is_endpoint:
            found.again(self._configuration())
        found.engine.door = self._door
        found.engine.look = self._connection.flush_late
        return found

    def _configuration(self) -> bytes:
        governs = self._access in (Access.GOV_RO, Access.GOV_RW)
        return json.dumps({"calls": self._kind.calls, "time": self._clock[0], "seed": self._clock[1], "governs": governs}).encode()

    @property
    def _is_endpoint(self) -> bool:
        """It is the run of an endpoint, from its request to its response."""
        return self._body is not None

    def _call(self, interpreter: Interpreter) -> list[Any]:
        engine = interpreter.engine
        engine.deadline = time.monotonic() + self._limits.deadline_ms / 1000
        function = self._find(interpreter)
        if self._is_endpoint:
            return self._call_endpoint(interpreter, function)
        arguments = [self._argument(engine, kind, data) for kind, data in self._arguments]
        result = engine.call(function, *arguments)
        shown = engine.call(interpreter.describe, result)
        engine.free(result, *arguments)
        left = self._limits.output_bytes
        kind = self._part(engine, shown, 0, left).decode()
        data = self._part(engine, shown, 1, left)
        engine.free(shown)
        return [messages.DONE, kind, data]

    def _call_endpoint(self, interpreter: Interpreter, function: Value) -> list[Any]:
        """As `_call`, with one way into the engine for all of it: that is most of what a short run costs."""
        engine = interpreter.engine
        now, seed = self._clock
        body, buffers = self._body, []
        size = b"null"
        end = 0
        if type(body) is bytes and len(body) <= PART_BYTES:
            end = len(body)
            engine.shared[GIVEN : GIVEN + end] = body
            size = b"%d" % end
        else:
            buffers = [engine.new_buffer(part) for part in (body if type(body) is list else [body])]
        expected = self._lay_out(engine, end) if self._ahead else b""
        chance = b"null" if seed is None else b"%d" % seed
        settings = engine.new_json(b"[%d,%b,%b,%b,[%b]]" % (now, chance, self._arguments[0][1], size, expected))
        shown, is_late = engine.answer(interpreter.endpoint, function, settings, *buffers)
        engine.free(settings, *buffers)
        if is_late:  # the response itself: what was waited for is not told yet
            response = shown
            shown = engine.call(interpreter.tell, response)
            engine.free(response)
        message = self._response(engine, shown)
        if message[0] == messages.RESPONSE:
            _, _, _, _, operations, left = _HEADER.unpack_from(engine.shared)
            self._count(operations)
            self._take_left(interpreter, left)
        return message

    def _lay_out(self, engine: Engine, at: int) -> bytes:
        """Give the script what it is expected to read, behind the first `at` bytes; what has no room there, it asks for."""
        told = []
        for name, key, value in self._ahead:
            if value is None:
                told.append(b'%b,"%b",0,null' % (_quoted(name), binascii.b2a_base64(key, newline=False)))
                continue
            at = (at + 7) & ~7
            size = len(value)
            if size < PART_BYTES and at + size <= PART_BYTES:
                engine.shared[GIVEN + at : GIVEN + at + size] = value
                told.append(b'%b,"%b",%d,%d' % (_quoted(name), binascii.b2a_base64(key, newline=False), at, size))
                at += size
        return b",".join(told)

    def _response(self, engine: Engine, shown: Value) -> list[Any]:
        """The message of what the prelude tells of a response; takes it over."""
        left = self._limits.output_bytes
        if engine.is_text(shown):
            head = engine.read(shown, left)
            data = None
        else:
            head = self._part(engine, shown, 0, left)
            thrown = engine.item(shown, 1)
            data = b"" if engine.is_undefined(thrown) else engine.read(thrown, left - len(head))
            engine.free(thrown)
        engine.free(shown)
        if data is not None and b"\n" not in head:
            return [messages.FAILED, End.INVALID.value, _cut(head.decode(errors="replace")), _cut(data.decode(errors="replace"))]
        kind, status, pairs, text = head.split(b"\n", 3)
        headers = _headers(pairs) if len(pairs) > _ALIKE_BYTES_MAX else _remembered(pairs)
        if len(headers) > messages.HEADERS_MAX:
            raise OverflowError
        return [messages.RESPONSE, int(status), headers, kind.decode(), text if data is None else data]

    def _find(self, interpreter: Interpreter) -> Value:
        """The function, looked for once in an interpreter's life."""
        kind = self._kind
        function = interpreter.functions.get((kind.module, kind.function))
        if function is None:
            source = self._modules.get(kind.module)
            if source is None:
                raise ScriptError(f"Error: there is no module {kind.module}", "")
            function = interpreter.engine.function(kind.module, source, kind.function, is_script=kind.is_script)
            if function is None:
                raise ScriptError(f"Error: {kind.module} has no function {kind.function}", "")
            interpreter.functions[(kind.module, kind.function)] = function
        return function

    @staticmethod
    def _part(engine: Engine, shown: Value, index: int, limit: int) -> bytes:
        part = engine.item(shown, index)
        try:
            return engine.read(part, limit)
        finally:
            engine.free(part)

    @staticmethod
    def _argument(engine: Engine, kind: int, data: bytes) -> Value:
        return engine.new_buffer(data) if kind == 1 else engine.new_text(data) if kind == 2 else engine.new_json(data)

    def _failure(self, engine: Engine, error: ScriptError | None) -> list[Any]:
        if self._over is not None:
            end, text = self._over
            return [messages.FAILED, end.value, text, ""]
        if engine.interrupted or error is None:
            return [messages.FAILED, End.DEADLINE.value, DEADLINE_TEXT, ""]
        if error.text is None or error.text == _OUT_OF_MEMORY:
            # Without memory for an Error the engine throws null. So may a script, which then is told the same.
            return [messages.FAILED, End.MEMORY.value, _OUT_OF_MEMORY, _cut(error.trace)]
        end = End.STACK if error.text == _STACK else End.EXCEPTION
        return [messages.FAILED, end.value, _cut(error.text), _cut(error.trace)]

    # What the script asks for. Called by the engine; nothing may be raised out of `_door`.

    def _door(self, count: int) -> float:
        assert self._interpreter is not None, "it is its engine that calls"
        engine = self._interpreter.engine
        if count < 0:
            self._spilled += engine.shared[:-count]
            return _NONE
        operation, number, key_size, value_size, operations, left = _HEADER.unpack_from(engine.shared)
        self._operations += operations
        if count == _HEADER.size and self._spilled:
            data = bytes(self._spilled)
            self._spilled.clear()
        else:
            data = bytes(engine.shared[_HEADER.size : count])
        try:
            if left > self._taken:  # before what follows it
                self._take_left(self._interpreter, left)
            return self._operate(self._interpreter, operation, number, data[:key_size], data[key_size : key_size + value_size])
        except _LimitError:
            engine.deadline = 0.0  # the engine looks within a few thousand steps
            return self._refuse(engine, "the script is being stopped")
        except RefusalError as error:
            return self._refuse(engine, str(error), _THROWN[error.kind])
        except ScriptError:
            return self._refuse(engine, "out of memory")
        except Exception as error:  # of a script that reaches past the prelude: its own request makes no sense
            return self._refuse(engine, f"malformed request: {type(error).__name__}")

    @staticmethod
    def _refuse(engine: Engine, text: str, code: float = _REFUSED) -> float:
        try:
            engine.hold(engine.new_text(text.encode(errors="replace")))
        except ScriptError:
            engine.hold(UNDEFINED)
        return code

    def _operate(self, interpreter: Interpreter, operation: int, number: int, key: bytes, value: bytes) -> float:
        engine = interpreter.engine
        if operation == messages.LOG:
            return self._log(LEVELS[number], key)
        if operation == _TO_BUFFER:
            held = engine.held()
            engine.hold(engine.new_buffer(engine.read(held)))
            engine.free(held)
            return _GIVEN
        if operation == _TO_TEXT:
            held = engine.held()
            engine.hold(engine.new_text(engine.read(held)))
            engine.free(held)
            return _GIVEN
        if operation == _OPEN:
            return self._open(interpreter, number)
        if operation == _RANDOM:
            return (int.from_bytes(os.urandom(7), "big") >> 3) / (1 << 53)
        self._count()
        if operation == messages.CALL:
            name, arguments = _called(key, value)
            return self._give(engine, self._ask([messages.CALL, name, arguments]))
        if operation == _OWN:
            name, arguments = _called(key, value)
            return self._give(engine, self._call_own(engine, name, arguments))
        name = interpreter.maps[number]
        needed = WRITE if operation in (messages.SET, messages.DELETE, messages.CLEAR) else READ
        if not rights(self._access, name) & needed:
            return self._refuse(engine, explain(self._access, name), _FORBIDDEN)
        if len(key) > KEY_BYTES_MAX:
            return self._refuse(engine, f"a key of {len(key)} bytes; at most {KEY_BYTES_MAX}")
        if operation == messages.SET:
            self._set(name, key, value)
            return _NONE
        if operation == messages.DELETE:
            self._remove(name, key)
            return _NONE
        if operation == messages.CLEAR:
            self._known = {known: value for known, value in self._known.items() if known[0] != name}
            self._connection.send([operation, name])
            return _NONE
        if operation == messages.SIZE:
            return float(self._ask([operation, name]))
        if operation == messages.PAGE:
            has_start, has_end, most = _BOUNDS.unpack_from(value)
            end = bytes(value[_BOUNDS.size :])
            if len(end) > KEY_BYTES_MAX:
                return self._refuse(engine, f"a key of {len(end)} bytes; at most {KEY_BYTES_MAX}")
            return self._page(engine, *self._ask([operation, name, key if has_start else None, end if has_end else None, most]))
        if operation == messages.VERSION:
            answer = self._ask([operation, name, key])
            return -1.0 if answer is None else float(answer)
        answer = self._known.get((name, key), _UNKNOWN)
        if operation == messages.HAS:
            if answer is _UNKNOWN:
                return _GIVEN if self._ask([operation, name, key]) else _NONE
            return _NONE if answer is None else _GIVEN
        if answer is _UNKNOWN:
            answer = self._ask([operation, name, key])
            self._learn(name, key, answer)
        if answer is None:
            return _NONE
        engine.hold(engine.new_buffer(answer))
        return _GIVEN

    def _take_left(self, interpreter: Interpreter, end: int) -> None:
        """Pass on what the script has written without coming through the door, up to `end` of that part. Whether it may, the prelude has
        seen when the map was opened, and the enclave sees again."""
        shared = interpreter.engine.shared
        at = self._taken
        while at < end:
            number, key_size, value_size = _ENTRY.unpack_from(shared, WRITTEN + at)
            begin = WRITTEN + at + _ENTRY.size
            middle = begin if value_size == _REMOVED else begin + value_size
            key = bytes(shared[middle : middle + key_size])
            if value_size == _REMOVED:
                self._remove(interpreter.maps[number], key)
            else:
                self._set(interpreter.maps[number], key, bytes(shared[begin:middle]))
            at = (middle + key_size - WRITTEN + 7) & ~7
        self._taken = max(at, self._taken)

    def _set(self, name: str, key: bytes, value: bytes) -> None:
        size = len(key) + len(value)
        self._write(size)
        self._learn(name, key, value)
        self._connection.send([messages.SET, name, key, value], size)

    def _remove(self, name: str, key: bytes) -> None:
        self._write(len(key))
        self._learn(name, key, None)
        self._connection.send([messages.DELETE, name, key], len(key))

    def _learn(self, name: str, key: bytes, value: bytes | None) -> None:
        """What a further look would find: within one run nothing changes but by the run itself."""
        size = len(key) + (0 if value is None else len(value))
        self._known_bytes += size
        if self._known_bytes <= _KNOWN_BYTES_MAX:
            self._known[(name, key)] = value
        else:
            self._known.pop((name, key), None)

    def _open(self, interpreter: Interpreter, number: int) -> float:
        engine = interpreter.engine
        held = engine.held()
        text = engine.read(held, 1 << 16).decode(errors="replace")
        engine.free(held)
        if number:  # an operation was refused before it was asked for; say why
            name = interpreter.maps[number - 1]
            return self._refuse(engine, f"Cannot call {text} on table named {name}. {explain(self._access, name)}", _FORBIDDEN)
        found = interpreter.numbers.get(text)
        if found is None:
            if len(interpreter.maps) >= MAPS_MAX:
                return self._refuse(engine, f"A script may open {MAPS_MAX} maps at most.")
            found = interpreter.numbers[text] = len(interpreter.maps)
            interpreter.maps.append(text)
        return float(found << 2 | rights(self._access, text))

    @staticmethod
    def _page(engine: Engine, entries: list[list[bytes]], more: bool) -> float:
        values = [engine.new_buffer(part) for pair in entries for part in pair]
        if more:
            values.append(engine.new_buffer(entries[-1][0] + b"\0"))  # where the next page begins
        engine.hold(engine.new_array(values))
        return float(2 * len(entries) + more)

    def _call_own(self, engine: Engine, name: str, arguments: list[Any]) -> Any:
        """Call a function of the worker's own."""
        looker = _LOOKERS.get(name)
        if looker is not None:
            try:
                return looker(arguments, self._limits, engine.deadline)
            except constitution_check.OvertimeError:
                self._over = self._over or (End.DEADLINE, DEADLINE_TEXT)
                raise _LimitError from None
            finally:
                engine.resume()
        self._connection.flush_late(time.monotonic())
        if not functions.is_loaded(name):
            began = time.monotonic()
            functions.load(name)
            engine.deadline += time.monotonic() - began  # once in a process's life, for whoever comes first
        surroundings = Surroundings(self._clock[0], is_decision=self._clock[1] is not None)
        return functions.call(name, arguments, surroundings)

    @staticmethod
    def _give(engine: Engine, answer: Any) -> float:
        if answer is None:
            return _NONE
        engine.hold(engine.new(answer))
        return _GIVEN

    def _ask(self, message: list[Any]) -> Any:
        """Ask the enclave; time spent waiting is not the script's."""
        assert self._interpreter is not None, "it is its engine that asks"
        began = time.monotonic()
        self._connection.send(message)
        kind, answer = self._connection.answer()
        self._interpreter.engine.deadline += time.monotonic() - began
        if kind == messages.REFUSAL:
            raise RefusalError(answer)
        return answer

    def _log(self, level: str, text: bytes) -> float:
        line = text.decode(errors="replace")[:TEXT_LENGTH_MAX]
        if self._log_lines < LOG_LINES_MAX and self._logged + len(line) <= self._limits.output_bytes:
            self._log_lines += 1
            self._logged += len(line)
            self._connection.send([messages.LOG, level, line], len(line))
        return _NONE

    def _count(self, operations: int = 1) -> None:
        self._operations += operations
        if self._operations > self._limits.operations:
            self._over = self._over or (End.OPERATIONS, f"The script asks for more than {self._limits.operations} operations.")
            raise _LimitError

    def _write(self, size: int) -> None:
        self._written += size
        if self._written > self._limits.writes_bytes:
            self._over = self._over or (End.OPERATIONS, f"The script writes more than {self._limits.writes_bytes} bytes.")
            raise _LimitError


def _called(words: bytes, buffers: bytes) -> tuple[str, list[Any]]:
    """The name of a function, and its arguments."""
    left = messages.CALL_ITEMS_MAX

    def restored(value: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise RefusalError(f"arguments of more than {messages.CALL_ITEMS_MAX} parts", Kind.RANGE)
        if type(value) is dict:
            if "$buffer" in value:
                at, length = value["$buffer"]
                return buffers[at : at + length]
            return {key: restored(item) for key, item in value.items()}
        return [restored(item) for item in value] if type(value) is list else value

    name, arguments = json.loads(words)
    return name, [restored(argument) for argument in arguments]


@lru_cache(maxsize=_KINDS_MAX)
def _quoted(name: str) -> bytes:
    return json.dumps(name).encode()


def _cut(text: str) -> str:
    return text[:TEXT_LENGTH_MAX]


def _headers(pairs: bytes) -> list[list[str]]:
    return [[_cut(name), _cut(value)] for name, value in json.loads(pairs.decode(errors="replace"))]


_remembered: Final = lru_cache(maxsize=_KINDS_MAX)(_headers)  # most of an endpoint's responses have headers that others have, too


def serve(connection: Connection, prelude: bytes) -> None:
    """Run what comes, until the enclave closes the socket."""
    bundles: dict[bytes, dict[str, str]] = {}
    kept = Interpreters()
    while True:
        for message in connection.jobs():
            if message[0] == messages.BUNDLE:
                bundles[message[1]] = message[2]
            elif message[0] == messages.FORGET:
                del bundles[message[1]]
                kept.forget(message[1])
            else:
                connection.send(Execution(connection, bundles[message[1]], message, prelude, kept).run())
                connection.flush_late(time.monotonic())


def compiled_prelude() -> bytes:
    """The prelude as bytecode, of this engine and for it alone."""
    with open(os.path.join(os.path.dirname(__file__), "prelude.js"), "rb") as file:
        source = file.read()
    engine = Engine(_COMPILER_HEAP_BYTES, 1 << 20, canonical, lambda name: None, lambda count: 0.0)
    try:
        return engine.compile(source)
    finally:
        engine.close()


def main(enter: Callable[[], list[str]] = sandbox.enter) -> int:
    """Serve on descriptor 0; return the exit status."""
    os.environ["TZ"] = "UTC0"
    time.tzset()  # while a file could still be read
    prelude = compiled_prelude()
    stream = socket.socket(fileno=sandbox.SOCKET)
    connection = Connection(stream)
    later.load(needs.AT_ONCE)
    kept = later.Kept()
    kept.keep(needs.MODULES)
    kept.close()
    gc.collect()
    gc.freeze()
    try:
        words = enter()
    except sandbox.SandboxError:
        return EXIT_NO_SANDBOX
    connection.send([messages.HELLO, words])
    serve(connection, prelude)
    return 0


if __name__ == "__main__":
    sys.exit(main())
