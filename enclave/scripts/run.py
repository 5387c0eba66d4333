"""One job at one worker: what is sent, what is answered, how it ends.

Law: a worker's messages are believed in nothing but what they ask for, and that is checked against the job's rights and limits here,
however honest workers check it before. The worst that a worker in the wrong hands can do is to lie about the jobs that it was given.
Not here: the form of messages (`enclave.scripts.messages`), which worker runs what, and for how long (`enclave.scripts.pool`).
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, TypeAlias

import msgpack

from ledgerd.enclave.scripts import messages
from ledgerd.enclave.scripts.access import READ, WRITE, rights
from ledgerd.enclave.scripts.jobs import (
    AHEAD_BYTES_MAX,
    AHEAD_MAX,
    ASKED_BYTES_MAX,
    LOG_LINES_MAX,
    LOOKED_MAX,
    MAPS_MAX,
    End,
    Job,
    Json,
    Outcome,
    Response,
    Result,
)
from ledgerd.enclave.scripts.messages import LookedError, WorkerError
from ledgerd.enclave.scripts.overlay import Overlay
from ledgerd.ledger.errors import UsageError


class Scope(Protocol):
    """For whom a script runs: a request's `Context` as a rule. Functions of the enclave are given it."""

    @property
    def overlay(self) -> Overlay: ...

    def mark(self) -> Any:
        """What the runs for it have done so far."""

    def go_back(self, mark: Any) -> None:
        """Undo what they have done since."""


Call: TypeAlias = Callable[[Any, list[Any]], Any]
"""A function of the enclave's for scripts: given the run's scope, and its arguments, as many as there came, each None, bool, a number, str,
bytes, or a list or dict of these; gives one of these.

Raises: ValueError: With what to tell the script. Anything else is a fault of ours, by which a script, and with it whoever may have it run,
must not stop the node: the job ends, and the operator is told where it was.
"""

_encode_json: Final = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode

_ENDS: Final = (messages.DONE, messages.RESPONSE)  # of an endpoint's job the second

_NEEDS: Final = {
    messages.GET: READ,
    messages.HAS: READ,
    messages.VERSION: READ,
    messages.SIZE: READ,
    messages.PAGE: READ,
    messages.SET: WRITE,
    messages.DELETE: WRITE,
    messages.CLEAR: WRITE,
}


def job_message(job: Job) -> list[Any]:
    """The job as a worker is told it; its bundle goes before, once.

    Raises: UsageError: An argument is none that a script can be given.
    """
    arguments: list[list[Any]] = []
    for argument in job.arguments:
        if type(argument) is bytes:
            arguments.append([1, argument])
        elif type(argument) is str:
            arguments.append([2, argument.encode(errors="surrogatepass")])
        elif type(argument) is Json:
            arguments.append([3, argument.text])
        else:
            try:
                text = _encode_json(argument)
            except (TypeError, ValueError):
                raise UsageError(f"{job.function} cannot be given a {type(argument).__name__}: no JSON value") from None
            arguments.append([3, text.encode()])
    body = job.body if job.content is None else [job.body, job.content]
    return [messages.JOB, job.bundle.id, job.kind or kind_of(job), arguments, body, list(job.clock), []]


def kind_of(job: Job) -> bytes:
    """What jobs of one endpoint have in common, as bytes, so that both sides work it out once."""
    packed: bytes = msgpack.packb([job.module, job.function, job.access.name, job.calls, job.is_script, job.limits, job.reuse])
    return packed


class Run:
    """A job under way.

    Args:
        job: The job.
        scope: For whom it runs, with the overlay that it reads and writes.
        calls: Functions that it may call, of those that it names.

    Attributes:
        outcome: How it ended; None until then.
        is_waiting: The worker cannot go on without what `take` has given last.
    """

    __slots__ = (
        "_asked",
        "_calls",
        "_logged",
        "_logs",
        "_looked",
        "_maps",
        "_mark",
        "_operations",
        "_overlay",
        "_scope",
        "_written",
        "is_waiting",
        "job",
        "outcome",
    )

    def __init__(self, job: Job, scope: Scope, calls: Mapping[str, Call]) -> None:
        self.job = job
        self._scope = scope
        self._overlay = scope.overlay
        self._mark = scope.mark()
        self.outcome: Outcome | None = None
        self.is_waiting = False
        self._calls = calls
        self._operations = 0
        self._written = 0
        self._looked = 0
        self._asked = 0
        self._maps: set[str] = set()
        self._logs: list[tuple[str, str]] = []
        self._logged = 0

    def read_ahead(self) -> list[Any]:
        """What the script is expected to read, as it is now: [map, key, value or None] each."""
        found = []
        for name, key in self.job.ahead[:AHEAD_MAX]:
            if rights(self.job.access, name) & READ and len(key) <= messages.KEY_BYTES_MAX:
                value = self._overlay.get(name, key)
                if value is None or len(value) <= AHEAD_BYTES_MAX:
                    found.append([name, key, value])
        return found

    def take(self, message: list[Any]) -> list[Any] | None:
        """Take a message of the worker's, checked in form; give the answer if it needs one.

        Raises: WorkerError: The job does not allow it, or it comes at the wrong time.
        """
        if self.outcome is not None or self.is_waiting:
            raise WorkerError(f"message {message[0]} while the worker should wait")
        kind = message[0]
        needs = _NEEDS.get(kind)
        if needs is not None:
            return self._operate(kind, message, needs)
        if kind == messages.LOG:
            self._log(message[1], message[2])
        elif kind == messages.CALL:
            return self._call(message[1], message[2])
        elif kind in _ENDS and kind != _ENDS[self.job.body is not None]:
            raise WorkerError(f"message {kind}, which is not how such a job ends")
        elif kind == messages.DONE:
            self._check_output(len(message[2]))
            self._finish(Outcome(End.DONE, Result(message[1], message[2])))
        elif kind == messages.RESPONSE:
            self._check_output(len(message[4]) + sum(len(name) + len(value) for name, value in message[2]))
            headers = tuple((name, value) for name, value in message[2])
            self._finish(Outcome(End.DONE, Response(message[1], headers, Result(message[3], message[4]))))
        elif kind == messages.FAILED:
            self._finish(Outcome(End(message[1]), None, message[2], message[3]))
        else:
            raise WorkerError(f"message {kind} within a job")
        return None

    def stop(self, end: End, text: str) -> Outcome:
        """End it from outside: the worker is gone, or was killed."""
        self._finish(Outcome(end, None, text))
        assert self.outcome is not None
        return self.outcome

    def undo(self) -> None:
        """Have it done nothing, for it will be run again."""
        self._scope.go_back(self._mark)

    def answered(self) -> None:
        """What `take` gave was sent; the worker goes on."""
        self.is_waiting = False

    def _finish(self, outcome: Outcome) -> None:
        self.outcome = outcome._replace(logs=tuple(self._logs)) if self._logs else outcome

    def _check_output(self, size: int) -> None:
        if size > self.job.limits.output_bytes:
            raise WorkerError(f"a result of {size} bytes; the job's limit is {self.job.limits.output_bytes}")

    def _count(self) -> None:
        self._operations += 1
        if self._operations > self.job.limits.operations:
            raise WorkerError(f"more operations than the job's {self.job.limits.operations}")

    def _write(self, size: int) -> None:
        self._written += size
        if self._written > self.job.limits.writes_bytes:
            raise WorkerError(f"more written than the job's {self.job.limits.writes_bytes} bytes")

    def _look(self, entries: int) -> None:
        self._looked += entries
        if self._looked > LOOKED_MAX:
            raise LookedError(f"its script looks at more than {LOOKED_MAX} entries: at fewer keys, or less often, by a request")

    def _ask(self, key: bytes | None) -> None:
        """It asks for a key, which is remembered to the run's end, be there a value or not."""
        self._asked += len(key or b"")
        if self._asked > ASKED_BYTES_MAX:
            raise LookedError(f"its script asks for keys of more than {ASKED_BYTES_MAX} bytes together: for shorter ones, or fewer")

    def _log(self, level: str, text: str) -> None:
        self._logged += len(text)
        if self._logged > self.job.limits.output_bytes or len(self._logs) >= LOG_LINES_MAX:
            raise WorkerError("more log lines than the job may write")
        self._logs.append((level, text))

    def _operate(self, kind: int, message: list[Any], needs: int) -> list[Any] | None:
        name = message[1]
        if not rights(self.job.access, name) & needs:
            raise WorkerError(f"an operation {kind} on map {name!r}, which the job may not open so")
        self._count()
        if name not in self._maps:
            if len(self._maps) >= MAPS_MAX:
                raise WorkerError(f"more than {MAPS_MAX} maps in one job")
            self._maps.add(name)
        overlay = self._overlay
        if kind == messages.SET:
            key, value = message[2], message[3]
            self._write(len(key) + len(value))
            overlay.set(name, key, value)
            return None
        if kind == messages.DELETE:
            self._write(len(message[2]))
            overlay.delete(name, message[2])
            return None
        if kind == messages.CLEAR:
            self._look(overlay.effort(name, clearing=True))
            overlay.clear(name)
            return None
        if kind != messages.SIZE:
            self._ask(message[2])
        answer: Any
        if kind == messages.GET:
            answer = overlay.get(name, message[2])
            self._look(len(answer or b"") >> 10)
        elif kind == messages.HAS:
            answer = overlay.get(name, message[2]) is not None
        elif kind == messages.VERSION:
            answer = overlay.version(name, message[2])
        elif kind == messages.SIZE:
            self._look(overlay.effort(name))
            answer = overlay.size(name)
        else:
            self._look(overlay.effort(name))
            self._ask(message[3])
            answer = overlay.page(name, *message[2:])
            self._look(sum(1 + (len(key) + len(value) >> 10) for key, value in answer[0]))
        self.is_waiting = True
        return [messages.ANSWER, answer]

    def _call(self, name: str, arguments: list[Any]) -> list[Any]:
        function = self._calls.get(name) if name in self.job.calls else None
        if function is None:
            raise WorkerError(f"a call of {name!r}, which the job may not make")
        self._count()
        self.is_waiting = True
        try:
            return [messages.ANSWER, function(self._scope, arguments)]
        except ValueError as error:
            return [messages.REFUSAL, str(error)[: messages.TEXT_LENGTH_MAX]]
        except Exception as error:  # its text stays inside, for it may hold private data
            raise WorkerError(f"ccf.{name} failed inside the service: {type(error).__name__}; that is a fault of ledgerd's") from None
