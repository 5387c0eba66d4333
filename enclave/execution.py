"""Runs one request as one transaction: find the endpoint, name the caller, call the handler, keep or drop the writes.

Law: writes are kept only for 2xx (unless the handler says otherwise); an error answer never tells what went wrong inside.
Order of checks as in CCF: open, known, forward, authenticate, handle.
Not here: sealing and replicating the writes, waiting for commit, sending requests on (`enclave.core`).
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Final, NamedTuple

from ledgerd.enclave.auth import NOBODY, Caller, authenticate
from ledgerd.enclave.endpoints import STATES, ApplicationMaps, Context, Deferred, Endpoint, Maps, Registry, Result
from ledgerd.enclave.idempotency import HEADER, WINDOW_ENTRIES, Idempotency
from ledgerd.enclave.kv import Store
from ledgerd.enclave.requests import (
    BINARY,
    HEADERS_MAX,
    JSON,
    OWN_HEADERS,
    TEXT,
    Request,
    Response,
    is_header_name,
    is_header_value,
    with_id,
)
from ledgerd.enclave.scripting import Scripted
from ledgerd.enclave.states import Ledger, StatesWanted
from ledgerd.ledger.entry import ZERO_DIGEST, WriteSet
from ledgerd.ledger.errors import RequestError, UsageError
from ledgerd.ledger.ids import Seqno, TransactionId, View

# What is in the answer's hands:
ANSWER: Final = 0  # `response` is complete
FORWARD: Final = 1  # this node is a backup, and it is the primary's to do
DEFERRED: Final = 2  # the core has to find the answer, as `deferred` says
SCRIPTED: Final = 3  # scripts have to find it: `endpoint`, with `params`


class Settings(NamedTuple):
    """Limits of execution.

    Attributes:
        idempotency_window: Entries for which an idempotency key is remembered.
        writes_size_bytes_max: Keys and values that one transaction may write; half of what a message between nodes (16 MiB) holds.
    """

    idempotency_window: int = WINDOW_ENTRIES
    writes_size_bytes_max: int = 8 << 20


class Outcome:
    """What became of a request.

    Attributes:
        kind: ANSWER, FORWARD, DEFERRED or SCRIPTED.
        result: The answer (for ANSWER), without the headers that tell `transaction_id`: it may have to wait, and they cost memory.
        more_headers: What the answer tells besides `transaction_id`, if that is there.
        writes: If not None, the writes are in the store as entry `next_id`, and that entry must now be sealed and replicated.
        writes_bytes: Their size.
        claims_digest: For that entry; 32 bytes.
        transaction_id: On whose commit the answer rests: its own, the last one that it may have observed, or the first of a replay.
        replayed: The answer is that of an earlier request with the same idempotency key. `transaction_id` may be far below the last entry.
        deferred: What to find (for DEFERRED).
        params: Of the path (for SCRIPTED).
        endpoint: The endpoint, where one was found; its `label` is fit for metrics.
        failure: For the operator, if a handler failed by a fault of its own: kind and place, never data.
    """

    # Class attributes for what most outcomes leave as it is: one is made for every request.
    result: Response | None = None
    more_headers: tuple[tuple[str, str], ...] = ()
    writes: WriteSet | None = None
    writes_bytes: int = 0
    claims_digest: bytes = ZERO_DIGEST
    transaction_id: TransactionId | None = None
    replayed: bool = False
    deferred: Deferred | None = None
    params: dict[str, str] | None = None
    failure: str | None = None

    def __init__(self, endpoint: Endpoint | None, kind: int = ANSWER) -> None:
        self.endpoint = endpoint
        self.kind = kind

    @property
    def response(self) -> Response | None:
        """The answer (for ANSWER), with `x-ms-ccf-transaction-id` if it depends on the state."""
        result, transaction_id = self.result, self.transaction_id
        return result if result is None or transaction_id is None else with_id(result, transaction_id, self.more_headers)


_NO_CONTENT: Final = Response(204)
_LENGTHS_BYTES: Final = 16  # what the entry holds besides, for each key


class Executor:
    """Executes requests one after the other.

    Args:
        store: The state; made with `windows={idempotency.MAP: settings.idempotency_window}`.
        registries: By first path segment: `app`, `node`, `gov`. `app` also takes paths without one of these prefixes.
        app_is_open: Whether `/app` serves: the service is Open.
        view_of: View of an applied seqno.
        ledger: What handlers may ask of consensus.
    """

    __slots__ = (
        "_app",
        "_app_is_open",
        "_app_maps",
        "_idempotency",
        "_ledger",
        "_registries",
        "_store",
        "_system_maps",
        "_writes_size_max",
    )

    def __init__(
        self,
        store: Store,
        registries: Mapping[str, Registry],
        *,
        app_is_open: Callable[[], bool],
        view_of: Callable[[Seqno], View],
        ledger: Ledger,
        settings: Settings = Settings(),  # noqa: B008 - immutable
    ) -> None:
        self._store = store
        self._registries = {prefix: registries.get(prefix) or Registry(prefix) for prefix in ("app", "node", "gov")}
        self._app = self._registries["app"]
        self._app_is_open = app_is_open
        self._idempotency = Idempotency(store, view_of, settings.idempotency_window)
        self._ledger = ledger
        self._writes_size_max = settings.writes_size_bytes_max
        transaction = store.begin()
        self._app_maps = ApplicationMaps(transaction)
        self._system_maps = Maps(transaction)

    def execute(
        self,
        request: Request,
        is_primary: bool,
        next_id: TransactionId,
        read_id: TransactionId,
        more_headers: tuple[tuple[str, str], ...] = (),
        scripted: Scripted | None = None,
    ) -> Outcome:
        """Run the request to its end, or as far as this node can.

        Args:
            is_primary: This node may write.
            next_id: The id that the entry gets if there is one; its seqno follows the store's version.
            read_id: Id of the last applied entry.
            more_headers: For answers that carry a transaction id.
            scripted: The request as its scripts have answered it; all that they have read must still stand.
        Raises: UsageError: `next_id` does not follow the state.
        """
        store = self._store
        transaction = store.begin()
        endpoint = None
        failure = None
        writes: WriteSet = {}
        size = 0
        try:
            caller: Caller | None
            if scripted is None:
                path = request.path
                end = path.find("/", 1)
                registry = self._registries.get(path[1:end] if end > 0 else path[1:])
                if registry is None:
                    registry = self._app
                    path = "/app" + path
                if registry is self._app and not self._app_is_open():
                    raise RequestError(404, "FrontendNotOpen", "Frontend is not open.")
                endpoint, params = registry.match(request.method, path)
                if not is_primary and endpoint.forwarding == "always":
                    return Outcome(endpoint, FORWARD)
                if endpoint.scripted:
                    outcome = Outcome(endpoint, SCRIPTED)
                    outcome.params = params
                    return outcome
                caller = NOBODY if endpoint.is_open else authenticate(request, store, endpoint.policies)
            else:
                endpoint, params, caller = scripted.endpoint, scripted.params, scripted.context.caller
                if not is_primary and endpoint.forwarding == "always":
                    return Outcome(endpoint, FORWARD)  # no primary any more; nothing was done here
                if scripted.error is not None and not scripted.has_begun:
                    raise scripted.error

            readonly = transaction.readonly = endpoint.readonly
            transaction.touched = endpoint.reads_tables
            guard = None
            if not readonly and (key := request.headers.get(HEADER)) is not None:
                guard = self._idempotency.guard(request, key, (caller and caller.id) or request.caller_id)
                first = self._idempotency.find(guard)
                if first is not None:
                    outcome = Outcome(endpoint)
                    outcome.result = first.response
                    outcome.more_headers = more_headers
                    outcome.transaction_id = first.id
                    outcome.replayed = True
                    return outcome

            if scripted is None:
                maps = self._system_maps if endpoint.system else self._app_maps
                context = Context(request, params, caller, maps, transaction, self._ledger)
                result = endpoint.handler(context)
            else:
                context = scripted.context
                transaction.touched |= context.touched
                if scripted.error is not None:
                    raise scripted.error
                context.overlay.write_into(transaction)
                result = scripted.result

            if result is None:
                response = _NO_CONTENT
            elif type(result) is Deferred:
                if transaction.writes:
                    raise UsageError(f"{endpoint.label} has written and cannot answer later")
                transaction.discard()
                outcome = Outcome(endpoint, DEFERRED)
                outcome.deferred = result
                return outcome
            elif type(result) is Response:
                response = result
                if type(response.headers) is not tuple:  # a list that is the application's, which may change it before the answer leaves
                    response = response._replace(headers=tuple(response.headers))
                _check_response(response)  # before its writes are kept: afterwards there is no way back
            else:
                response = to_response(result)
            succeeded = 200 <= response.status < 300
            if readonly or not (succeeded if context.applies_writes is None else context.applies_writes):
                transaction.discard()
            else:
                if guard is not None and succeeded:
                    self._idempotency.remember(guard, response, transaction)
                writes = transaction.take()
                if writes:
                    size = self._size(writes)
                    if not is_primary:
                        if endpoint.forwarding == "sometimes":
                            return Outcome(endpoint, FORWARD)  # nothing was done here, so the primary may do it
                        raise RequestError(503, "TransactionReplicationFailed", "Transaction failed to replicate.")
        except RequestError as error:
            transaction.discard()
            if error.status == 405 and request.method == "OPTIONS":
                response = Response(204, error.headers)
            else:
                try:
                    response = error_response(error)
                    _check_response(response)
                except (UsageError, TypeError, ValueError) as fault:
                    failure = _place(fault)
                    response = _FAILED
            writes = {}
        except Exception as error:  # an application's fault must not stop the node
            transaction.discard()
            failure = _place(error)
            response = _FAILED
            writes = {}
        except StatesWanted as wanted:
            transaction.discard()
            outcome = Outcome(endpoint, DEFERRED)
            outcome.deferred = Deferred(STATES, (request, wanted.wanted))
            return outcome
        outcome = Outcome(endpoint)
        outcome.result = response
        outcome.more_headers = more_headers
        if writes:
            store.apply(next_id.seqno, writes)  # not inside `try`: a wrong seqno is our own fault, and must stop the node
            outcome.writes = writes
            outcome.writes_bytes = size
            outcome.claims_digest = context.claims_digest
            outcome.transaction_id = next_id
            return outcome
        outcome.failure = failure
        if transaction.touched:
            outcome.transaction_id = read_id
        return outcome

    def _size(self, writes: WriteSet) -> int:
        """Size of what a transaction writes. Raises: RequestError: It is too much."""
        size = 0
        for changes in writes.values():
            for key, value in changes.items():
                size += _LENGTHS_BYTES + len(key) + (0 if value is None else len(value))
        if size > self._writes_size_max:
            raise RequestError(413, "TransactionTooLarge", f"The transaction writes {size} bytes; the limit is {self._writes_size_max}.")
        return size


def _check_response(response: Response) -> None:
    status, headers, body, content_type = response
    if type(status) is not int or not 200 <= status <= 599:
        raise UsageError("the status of a response is an integer from 200 to 599")
    if type(body) is not bytes or (body and not content_type) or (content_type and status in (204, 304)):
        raise UsageError("a response has bytes and their content type, or none; 204 and 304 have neither")
    if len(headers) > HEADERS_MAX:
        raise UsageError(f"a response has at most {HEADERS_MAX} headers")
    for name, value in headers:
        if is_header_name(name) is None or name in OWN_HEADERS or is_header_value(value) is None:
            raise UsageError("a response header is a lower-case token with a value of one printable latin-1 line, and not one of ours")
    if content_type and is_header_value(content_type) is None:
        raise UsageError("a content type is one printable line")


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    raise TypeError(f"a handler returned a {type(value).__name__}, which is no JSON value")


_encode_json: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain).encode


def to_response(result: Result) -> Response:
    """The response that a handler's plain result stands for.

    None is 204; str is `text/plain`; bytes are `application/octet-stream`; everything else is JSON.
    Raises: TypeError, ValueError: It is no JSON value.
    """
    if result is None:
        return _NO_CONTENT
    if type(result) is str:
        return Response(200, (), result.encode(), TEXT)
    if type(result) is bytes:
        return Response(200, (), result, BINARY)
    if type(result) is Response:
        return result
    return Response(200, (), _encode_json(result).encode(), JSON)


def error_response(error: RequestError) -> Response:
    """The answer to a refused request, in CCF's error shape."""
    body: dict[str, object] = {"code": error.error_code, "message": error.message}
    if error.details:
        body["details"] = list(error.details)
    return Response(error.status, error.headers, _encode_json({"error": body}).encode(errors="replace"), JSON)


_FAILED: Final = error_response(RequestError(500, "InternalError", "The request failed inside the service; it changed nothing."))


def _place(error: Exception) -> str:
    """Where an exception came from: its kind and the innermost functions. Its text stays inside, for it may hold private data."""
    trace = error.__traceback__
    frames = []
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f"{code.co_name} ({code.co_filename.rpartition('/')[2]}:{trace.tb_lineno})")
        trace = trace.tb_next
    return f"{type(error).__name__} in {' > '.join(frames[-3:])}"
