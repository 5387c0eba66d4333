"""What a script is run as, and what can become of it: values only.

Not here: their bytes on the way to a worker (`enclave.scripts.messages`), running (`enclave.scripts.run`).
"""

import hashlib
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Final, NamedTuple

from ledgerd.enclave.scripts.access import Access
from ledgerd.ledger.errors import UsageError

SOURCES_BYTES_MAX: Final = 16 << 20  # of all modules of a bundle; as much as one message between nodes carries
MODULES_MAX: Final = 4_096
MAPS_MAX: Final = 256  # that one run opens
LOOKED_MAX: Final = 250_000  # entries that one run's questions go through, each KiB of an answer counted as one: as many are looked at
# again at its end, on the enclave's own loop
ASKED_BYTES_MAX: Final = 16 << 20  # of all keys that one run asks for: they are kept to its end, to be looked at again
AHEAD_MAX: Final = 16  # keys that are read ahead
AHEAD_BYTES_MAX: Final = 64 << 10  # of one value of these; larger ones are asked for
LOG_LINES_MAX: Final = 1_000  # of one run


class Limits(NamedTuple):
    """What one run may use up; the first three and the last are CCF's `js_runtime_options` and their defaults.

    Attributes:
        heap_bytes: Of the engine; a script beyond it is told "out of memory".
        stack_bytes: Of the engine's calls.
        deadline_ms: Of running, without the time for which the enclave lets it wait.
        output_bytes: Of what it returns, and of all that it logs.
        operations: On maps, and calls into the enclave.
        writes_bytes: Keys and values that it sets.
        interpreters: That a worker keeps for jobs with `reuse`.
    """

    heap_bytes: int = 100 << 20
    stack_bytes: int = 1 << 20
    deadline_ms: int = 1_000
    output_bytes: int = 8 << 20
    operations: int = 100_000
    writes_bytes: int = 8 << 20
    interpreters: int = 10


class Bundle:
    """Sources of modules by name, as `/src/app.js`; known by their digest, so that a worker is sent them once.

    Raises: UsageError: A name is taken twice, or there is too much of it.
    """

    __slots__ = ("id", "modules", "size_bytes")

    def __init__(self, modules: Mapping[str, str]) -> None:
        self.modules = {canonical(name): source for name, source in modules.items()}
        if len(self.modules) != len(modules):
            raise UsageError("two modules have the same name, once a leading slash is added")
        digest = hashlib.sha256()
        self.size_bytes = 0
        for name, source in sorted(self.modules.items()):
            for text in (name.encode(errors="surrogatepass"), source.encode(errors="surrogatepass")):
                digest.update(len(text).to_bytes(8, "big") + text)
                self.size_bytes += len(text)
        if self.size_bytes > SOURCES_BYTES_MAX or len(self.modules) > MODULES_MAX:
            raise UsageError(
                f"a bundle of {len(self.modules)} modules, {self.size_bytes} bytes; at most {MODULES_MAX}, {SOURCES_BYTES_MAX}"
            )
        self.id = digest.digest()


def canonical(name: str, base: str = "/") -> str:
    """The name under which a module is known: absolute, without `.` and `..`; relative ones count from the folder of module `base`.

    As in CCF, a name that does not begin with a dot counts from the root.
    """
    if name.startswith("."):
        name = f"{base.rpartition('/')[0]}/{name}"
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            del parts[-1:]  # there is nothing above the root
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


class Json(NamedTuple):
    """An argument that is JSON already."""

    text: bytes


class Clock(NamedTuple):
    """What a script is told of time and chance: the same for the whole of a run, so that the same job gives the same result.

    Attributes:
        time_ms: What `Date` says, since 1970.
        seed: Of `Math.random`; None for unpredictable numbers, which an application may use and a decision may not.
    """

    time_ms: int = 0
    seed: int | None = 1


class Job(NamedTuple):
    """One call of one function.

    Attributes:
        bundle: All modules that can be imported; nothing else can.
        module: The entry; with `is_script` it is run as a plain script, and `function` is a global of it.
        function: Exported by the module, or a global where it exports none of that name.
        arguments: None, bool, numbers, str, bytes (an ArrayBuffer), and lists and dicts of all but bytes; or `Json`.
        access: Which maps it may read and write.
        calls: Names of functions of the enclave that it may call, as `pemToId` or `rpc.setClaimsDigest`: below `ccf.`.
        body: If not None, it is an endpoint that is called: the one argument, a dict, is its request, and gets these bytes as its body; the
            value is a `Response` then, and a `Result` otherwise.
        content: If not None, what the request's caller has signed: an ArrayBuffer at `caller.cose.content`.
        ahead: Keys, with their maps, that the script is expected to read: their values go with the job, and count as read.
        clock: Time and chance.
        limits: What it may use up.
        reuse: If not "", the context of an earlier run with the same key, bundle, rights, functions and limits is used again where there is
            one, with all that is in its modules' variables. As CCF's `interpreter_reuse`: nobody can rely on there being one.
        alone: In a process that has run nothing before and runs nothing after. For decisions: a ballot that broke the engine must not
            have a hand in the next one's.
        lane: Whose jobs it waits behind, such as those of one endpoint: lanes take turns.
        kind: What `run.kind_of` gives for a job of this module, function, access, calls, limits and reuse; if b"" it is worked out.
    """

    bundle: Bundle
    module: str
    function: str
    arguments: Sequence[Any] = ()
    access: Access = Access.APP_RO
    calls: Sequence[str] = ()
    body: bytes | None = None
    is_script: bool = False
    clock: Clock = Clock()
    limits: Limits = Limits()
    reuse: str = ""
    alone: bool = False
    content: bytes | None = None
    ahead: Sequence[tuple[str, bytes]] = ()
    lane: str = ""
    kind: bytes = b""


class End(Enum):
    """How a run ended."""

    DONE = "done"
    INVALID = "invalid"  # what an endpoint returned is no response: `text` says why, `trace` what was thrown meanwhile
    EXCEPTION = "exception"  # thrown, or a module or function that is not there
    DEADLINE = "deadline"
    MEMORY = "memory"
    STACK = "stack"
    OUTPUT = "output"  # more than `output_bytes`
    OPERATIONS = "operations"  # more than `operations` or `writes_bytes`
    CRASHED = "crashed"  # the process died, or broke the protocol, and was killed: the script found a flaw, or there was no memory
    UNAVAILABLE = "unavailable"  # no process to run it in, or too many jobs wait


UNDEFINED: Final = "undefined"
TEXT: Final = "text"
BYTES: Final = "bytes"
JSON: Final = "json"
KINDS: Final = (UNDEFINED, TEXT, BYTES, JSON)


class Result(NamedTuple):
    """What a function returned: kind `undefined`, `text` (a string), `bytes` (of an ArrayBuffer or a view of one) or `json`, as UTF-8."""

    kind: str
    data: bytes


class Response(NamedTuple):
    """What an endpoint returned, checked in form only: the status is an integer, headers are pairs of texts."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: Result


class Outcome(NamedTuple):
    """What became of a job.

    Attributes:
        end: How it ended.
        value: For `DONE`.
        text: Otherwise, what to tell its author: the exception's text, or which limit was passed.
        trace: Where an exception came from.
        logs: (level, line), as far as they were within limits.
    """

    end: End
    value: Result | Response | None = None
    text: str = ""
    trace: str = ""
    logs: tuple[tuple[str, str], ...] = ()


DEADLINE_TEXT: Final = "Operation took too long to complete."
