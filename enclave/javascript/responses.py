"""What becomes of what an endpoint's function returned or threw: CCF's statuses, codes and texts.

Law: nothing that a script returns reaches a client, or the ledger, unless it is a response by HTTP's rules; what it threw is told to the
operator and to the client only as far as members have decided so.
Not here: running (`enclave.scripts`), sending (`enclave.http`).
"""

from collections.abc import Callable
from typing import Any, Final

from ledgerd.enclave.javascript.options import Options
from ledgerd.enclave.requests import BINARY, HEADERS_MAX, JSON, OWN_HEADERS, TEXT, Response, is_header_name, is_header_value
from ledgerd.enclave.scripts import jobs
from ledgerd.enclave.scripts.jobs import DEADLINE_TEXT, End, Outcome
from ledgerd.ledger.errors import RequestError

THROWN_TEXT: Final = "Exception thrown while executing."
LOG_LINES_MAX: Final = 100  # of one request: the way to the host is everybody's
LOG_LENGTH_MAX: Final = 2_048  # of a line

# What CCF's engine calls what ours has other words for, or the node: tools and tests look for these.
_INTERRUPTED: Final = "InternalError: interrupted"
_STACK_OVERFLOW: Final = "InternalError: stack overflow"
_CALLED: Final = {End.DEADLINE: _INTERRUPTED, End.STACK: _STACK_OVERFLOW}

_CONTENT_TYPES: Final = {jobs.TEXT: TEXT, jobs.BYTES: BINARY, jobs.JSON: JSON}
_BODILESS: Final = (204, 304)
_SOON: Final = (("retry-after", "1"),)

Log = Callable[[str, str], None]


def respond(outcome: Outcome, options: Options, label: str, log: Log, range_refusal: RequestError | None) -> Response:
    """The answer to the client.

    Args:
        label: The endpoint, for the operator.
        log: Tells the operator: level and text.
        range_refusal: Why it was refused a range of the ledger; None if it was not.
    Raises: RequestError: 500 InternalError, it is no response, or the function threw or went beyond a limit; 503, it was not run; the
        refusal, if that is what it threw: scripts made for CCF know of ranges that come later only; clients are to hear of others.
    """
    if outcome.logs:
        _log(outcome, label, log)
    if outcome.end is End.DONE:
        assert isinstance(outcome.value, jobs.Response), "the job asks for one"
        return _response(outcome.value)
    if outcome.end is End.UNAVAILABLE:
        raise RequestError(503, "TooManyPendingTransactions", f"{outcome.text} Nothing was done; ask again.", _SOON)
    is_response = outcome.end is not End.INVALID
    thrown, trace = (outcome.text, outcome.trace) if is_response else (outcome.trace, "")
    thrown = _CALLED.get(outcome.end, thrown)
    if options.logs_exceptions or outcome.end is End.CRASHED:
        for line in f"{label}: {outcome.text}{_indented(outcome.trace)}"[:LOG_LENGTH_MAX].split("\n"):
            log("error", line)
    if range_refusal is not None and outcome.end is End.EXCEPTION and outcome.text.endswith(range_refusal.message):
        raise range_refusal
    details: tuple[dict[str, Any], ...] = ()
    if options.returns_exceptions and thrown:
        detail = {"code": "JSException", "message": thrown}
        details = ({**detail, "trace": trace} if trace else detail,)
    if not is_response:
        raise _invalid(outcome.text, details)
    text = DEADLINE_TEXT if outcome.end is End.DEADLINE else THROWN_TEXT
    raise RequestError(500, "InternalError", text, (), details)


def used_up(options: Options) -> RequestError:
    """The answer where not even the engine can start: what a script is told that has used up the same."""
    details = ({"code": "JSException", "message": f"InternalError: {options.used_up}"},) if options.returns_exceptions else ()
    return RequestError(500, "InternalError", THROWN_TEXT, (), details)


def _response(said: jobs.Response) -> Response:
    status, kind, body = said.status, said.body.kind, said.body.data
    if not 200 <= status <= 599:
        raise _invalid("status code type")
    content_type = _CONTENT_TYPES.get(kind, "")
    headers: dict[str, str] = {}
    for written, value in said.headers:
        name = written.lower()
        if is_header_name(name) is None:
            raise _invalid("header type")
        if is_header_value(value) is None:
            raise _invalid("header value type")
        if name == "content-type":
            content_type = value
        elif name not in OWN_HEADERS:  # what the node itself says of its answers, CCF overwrites, too
            headers[name] = value
    if len(headers) > HEADERS_MAX:
        raise _invalid(f"more than {HEADERS_MAX} headers")
    if status in _BODILESS:
        return Response(status, tuple(headers.items()))
    return Response(status, tuple(headers.items()), body, content_type or (BINARY if body else ""))


def _invalid(why: str, details: tuple[dict[str, Any], ...] = ()) -> RequestError:
    return RequestError(500, "InternalError", f"Invalid endpoint function return value ({why}).", (), details)


def _log(outcome: Outcome, label: str, log: Log) -> None:
    lines = [(level, line) for level, text in outcome.logs for line in text.split("\n")]
    for level, line in lines[:LOG_LINES_MAX]:
        log(level, f"[app] {line}"[:LOG_LENGTH_MAX])
    left = len(lines) - LOG_LINES_MAX
    if left > 0:
        log("warning", f"{label} wrote {left} more log lines; the first {LOG_LINES_MAX} of a request are shown")


def _indented(trace: str) -> str:
    return "".join(f"\n  {line}" for line in trace.splitlines())
