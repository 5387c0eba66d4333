"""The one door for applications: declare endpoints, and get a request and a transaction.

    app = App("notes")

    @app.put("/notes/{name}")
    def write(ctx: Context, name: str, body: str) -> None:
        ctx.kv["notes"].set(name.encode(), body.encode())

Law: what a handler's signature declares is what a client may send, what OpenAPI says, and what the handler gets.
A handler runs alone, from its first line to its last: it reads one state, and all that it writes becomes one entry, or nothing does.
Not here: how requests are run (`enclave.execution`), who the callers are (`enclave.auth`).
"""

import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple, TypeVar

from ledgerd.enclave.auth import Named
from ledgerd.enclave.callers import Caller
from ledgerd.enclave.endpoints import Context, Deferred, Endpoint, Forwarding, Handler, Registry
from ledgerd.enclave.kv import MapHandle, MapView
from ledgerd.enclave.requests import BINARY, JSON, TEXT, TRANSACTION_ID_HEADER, Request, Response
from ledgerd.enclave.shapes import PARAMETER_TYPES, read_json, read_text, shape_of
from ledgerd.enclave.states import HistoricalMap, HistoricalState
from ledgerd.ledger.errors import RequestError, UsageError
from ledgerd.ledger.ids import TransactionId

Function = TypeVar("Function", bound=Callable[..., Any])

# What the genesis configuration may say about endpoints that name no policies themselves.
CONFIGURED_POLICIES: Final[dict[str, tuple[str, ...]]] = {"user_cert": ("user_cert",), "open": ("no_auth",)}

_BODY: Final = "body"


class _Declared(NamedTuple):
    method: str
    template: str
    handler: Handler
    policies: tuple[Named, ...] | None
    readonly: bool | None
    forwarding: Forwarding | None
    operation: dict[str, Any]
    schemas: dict[str, Any]
    hidden: bool


class App:
    """An application: its name and its endpoints, reachable under `/app` and without it.

    Args:
        name: Shown as the title of the OpenAPI document.
        version: The application's own version.
        description: For the OpenAPI document.
    """

    def __init__(self, name: str, *, version: str = "1.0.0", description: str = "") -> None:
        self.name = name
        self.version = version
        self.description = description
        self._declared: list[_Declared] = []
        self._schemas: dict[str, Any] = {}

    def endpoint(
        self,
        method: str,
        template: str,
        *,
        policies: Iterable[Named] | None = None,
        readonly: bool | None = None,
        forwarding: Forwarding | None = None,
        responses: Mapping[int, Any] | None = None,
        hidden: bool = False,
        historical: bool = False,
    ) -> Callable[[Function], Function]:
        """Declare the decorated function as the handler of `method` on `template`.

        The function takes a Context and then, by name: each parameter of the path; `body`, if it wants one; anything else is a parameter
        of the query, optional if it has a default. Parameters are str, int, float or bool; a body is str, bytes or any type
        that `enclave.shapes` knows. It returns None (204), str, bytes, a JSON value (dataclasses included) or a Response, or raises
        RequestError.

        Args:
            policies: Who may call, tried in order: user_cert, member_cert, any_cert, jwt, user_cose_sign1, member_cose_sign1, no_auth, or
                `{"all_of": [...]}` of some of them. By default what the service's genesis says.
            readonly: Writing is refused; by default for GET and HEAD.
            forwarding: When a backup passes the request on; by default always for writers, never needed for readers.
            responses: Further statuses and their types, for OpenAPI.
            hidden: Leave it out of OpenAPI.
            historical: The request names a committed transaction, in header `x-ms-ccf-transaction-id`, and `ctx.historical` is what that
                wrote. CCF's `mode: historical`, but that the client waits for the answer and need not ask again.
        Raises: UsageError: Template, signature or policies do not fit each other.
        """

        def declare(function: Function) -> Function:
            schemas = self._schemas
            handler, operation = _compile(function, template, responses or {}, schemas)
            if historical:
                handler = _with_historical(handler, operation)
            chosen = tuple(policies) if policies is not None else None
            declared = _Declared(method, template, handler, chosen, readonly, forwarding, operation, schemas, hidden)
            _endpoint(declared, "open")  # to refuse a wrong declaration where it stands
            self._declared.append(declared)
            return function

        return declare

    def get(self, template: str, **options: Any) -> Callable[[Function], Function]:
        """`endpoint("GET", ...)`."""
        return self.endpoint("GET", template, **options)

    def put(self, template: str, **options: Any) -> Callable[[Function], Function]:
        """`endpoint("PUT", ...)`."""
        return self.endpoint("PUT", template, **options)

    def post(self, template: str, **options: Any) -> Callable[[Function], Function]:
        """`endpoint("POST", ...)`."""
        return self.endpoint("POST", template, **options)

    def patch(self, template: str, **options: Any) -> Callable[[Function], Function]:
        """`endpoint("PATCH", ...)`."""
        return self.endpoint("PATCH", template, **options)

    def delete(self, template: str, **options: Any) -> Callable[[Function], Function]:
        """`endpoint("DELETE", ...)`."""
        return self.endpoint("DELETE", template, **options)

    def endpoints(self, policy: str = "user_cert") -> list[Endpoint]:
        """Every endpoint; those without policies of their own get the configured ones.

        Args:
            policy: `user_cert` or `open`, from the genesis configuration.
        Raises: UsageError: `policy` is unknown.
        """
        return [_endpoint(declared, policy) for declared in self._declared]

    def register(self, registry: Registry, policy: str = "user_cert") -> None:
        """Add `endpoints(policy)` to the registry. Raises: UsageError: One is there already, or `policy` is unknown."""
        for endpoint in self.endpoints(policy):
            registry.add(endpoint)


def _endpoint(declared: _Declared, policy: str) -> Endpoint:
    if policy not in CONFIGURED_POLICIES:
        raise UsageError(f"policy {policy!r} is not one of {', '.join(CONFIGURED_POLICIES)}")
    return Endpoint(
        declared.method,
        declared.template,
        declared.handler,
        policies=declared.policies if declared.policies is not None else CONFIGURED_POLICIES[policy],
        readonly=declared.readonly,
        forwarding=declared.forwarding,
        system=False,
        operation=declared.operation,
        schemas=declared.schemas,
        hidden=declared.hidden,
    )


def _compile(
    function: Callable[..., Any], template: str, responses: Mapping[int, Any], schemas: dict[str, Any]
) -> tuple[Handler, dict[str, Any]]:
    """Make the handler that reads the request as the function's signature says, and the OpenAPI operation that says the same."""
    where = f"handler {function.__qualname__} of {template}"
    names = Endpoint("GET", template, lambda ctx: None).names
    hints = typing.get_type_hints(function)
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters or any(parameter.kind is not parameter.POSITIONAL_OR_KEYWORD for parameter in parameters):
        raise UsageError(f"{where} must take a context and then plain named parameters")
    missing = set(names) - {parameter.name for parameter in parameters[1:]}
    if missing:
        raise UsageError(f"{where} does not take {', '.join(sorted(missing))}")

    readers: list[Callable[[Context], Any]] = []
    described: list[dict[str, Any]] = []
    operation: dict[str, Any] = {"operationId": function.__name__}
    if function.__doc__:
        summary, _, description = inspect.cleandoc(function.__doc__).partition("\n")
        operation["summary"] = summary
        if description.strip():
            operation["description"] = description.strip()
    for parameter in parameters[1:]:
        name = parameter.name
        declared = hints.get(name, str)
        if name == _BODY and name not in names:
            reader, operation["requestBody"] = _body(declared, schemas)
        elif declared not in PARAMETER_TYPES:
            raise UsageError(f"{where}: parameter {name} must be str, int, float or bool")
        elif name in names:
            reader = _path_reader(name, declared)
            described.append({"name": name, "in": "path", "required": True, "schema": shape_of(declared, schemas)[1]})
        else:
            required = parameter.default is parameter.empty
            reader = _query_reader(name, declared, parameter.default, required)
            schema = dict(shape_of(declared, schemas)[1])
            if not required and parameter.default is not None:
                schema["default"] = parameter.default
            described.append({"name": name, "in": "query", "required": required, "schema": schema})
        readers.append(reader)
    if described:
        operation["parameters"] = described
    operation["responses"] = {
        **_answers(hints.get("return", Any), schemas),
        **{str(status): _answer(status, declared, schemas) for status, declared in responses.items()},
    }
    return _handler(function, tuple(readers)), operation


def _with_historical(handler: Handler, operation: dict[str, Any]) -> Handler:
    """The handler, called only when the named transaction's state is there; say so in its operation."""
    header = {"name": TRANSACTION_ID_HEADER, "in": "header", "required": True, "schema": {"type": "string"}}
    operation["parameters"] = [*operation.get("parameters", ()), header]
    operation["responses"].setdefault("404", _answer(404, RequestError, {}))

    def run(ctx: Context) -> Any:
        _ = ctx.historical  # refused, or waited for, before anything else
        return handler(ctx)

    return run


def _handler(function: Callable[..., Any], readers: tuple[Callable[[Context], Any], ...]) -> Handler:
    # The common signatures are spelt out: a generic call costs half a microsecond more, on every request.
    if not readers:
        return function
    first = readers[0]
    if len(readers) == 1:
        return lambda ctx: function(ctx, first(ctx))
    if len(readers) == 2:
        second = readers[1]
        return lambda ctx: function(ctx, first(ctx), second(ctx))
    return lambda ctx: function(ctx, *[reader(ctx) for reader in readers])


def _path_reader(name: str, declared: Any) -> Callable[[Context], Any]:
    if declared is str:
        return lambda ctx: ctx.params[name]
    return lambda ctx: read_text(ctx.params[name], declared, f"path parameter {name}")


def _query_reader(name: str, declared: Any, default: Any, required: bool) -> Callable[[Context], Any]:
    def read(ctx: Context) -> Any:
        text = ctx.query.get(name)
        if text is None:
            if required:
                raise RequestError(400, "InvalidQueryParameterValue", f"query parameter {name} is missing.")
            return default
        return read_text(text, declared, f"query parameter {name}")

    return read


def _body(declared: Any, schemas: dict[str, Any]) -> tuple[Callable[[Context], Any], dict[str, Any]]:
    if declared is bytes:
        return lambda ctx: ctx.request.body, _content(BINARY, {"type": "string", "format": "binary"}, required=False)
    if declared is str:
        return _read_text_body, _content(TEXT, {"type": "string"}, required=False)  # none and an empty one are the same in HTTP
    reader, schema = shape_of(declared, schemas)
    return lambda ctx: read_json(ctx.request.body, reader), _content(JSON, schema, required=True)


def _read_text_body(ctx: Context) -> str:
    try:
        return ctx.request.body.decode()
    except UnicodeDecodeError:
        raise RequestError(400, "InvalidInput", "The body is not UTF-8.") from None


def _content(content_type: str, schema: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"content": {content_type: {"schema": schema}}, **more}


def _answers(declared: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    """Statuses of a return annotation: None is 204, the rest of a union is 200."""
    members = typing.get_args(declared) if type(None) in typing.get_args(declared) else (declared,)
    answers = {}
    for member in members:
        status = 204 if member is type(None) or member is None else 200
        answers[str(status)] = _answer(status, member, schemas)
    return answers


def _answer(status: int, declared: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    description = _DESCRIPTIONS.get(status, "The answer.")
    if declared is None or declared is type(None) or declared is Response or declared is Any:
        return {"description": description}
    if declared is RequestError:
        return {"description": description, **_content(JSON, {"$ref": "#/components/schemas/Error"})}
    if declared is str:
        return {"description": description, **_content(TEXT, {"type": "string"})}
    if declared is bytes:
        return {"description": description, **_content(BINARY, {"type": "string", "format": "binary"})}
    return {"description": description, **_content(JSON, shape_of(declared, schemas)[1])}


_DESCRIPTIONS: Final = {204: "Done; there is nothing to return.", 404: "There is no such thing.", 409: "It conflicts with the state."}

__all__ = [
    "App",
    "Caller",
    "Context",
    "Deferred",
    "HistoricalMap",
    "HistoricalState",
    "MapHandle",
    "MapView",
    "Registry",
    "Request",
    "RequestError",
    "Response",
    "TransactionId",
    "UsageError",
]
