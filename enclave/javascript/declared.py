"""What the table of endpoints says of each: the properties of an application's endpoint in JavaScript, as `set_js_app` has stored them.

Law: members' scripts write that table, so anything can stand there. A record that cannot be read stops no node: its endpoint is there and
says that it is broken, and where not even verb and path can be read, there is no endpoint; the operator is told of both.
Source: CCF documentation, "JavaScript application bundle", endpoint properties.
"""

import json
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from ledgerd.enclave import auth
from ledgerd.enclave.endpoints import METHODS, Forwarding
from ledgerd.ledger.errors import UsageError

READWRITE: Final = "readwrite"
READONLY: Final = "readonly"
HISTORICAL: Final = "historical"
Mode = Literal["readwrite", "readonly", "historical"]

REUSE_KEY_LENGTH_MAX: Final = 256
RECORD_BYTES_MAX: Final = 256 << 10
_MODES: Final = (READWRITE, READONLY, HISTORICAL)
_FORWARDING: Final = ("always", "sometimes", "never")


class Declared(NamedTuple):
    """One endpoint of the table.

    Attributes:
        method, path: Its verb, upper-case, and its path template under `/app`.
        module: Name of the module, with its leading slash.
        function: Exported by it.
        policies: Who may call.
        mode: What it may do with the maps.
        forwarding: When a backup passes the request on.
        operation: OpenAPI operation object.
        hidden: Not in the OpenAPI document.
        reuse: Key of the interpreter that is used again; None for a fresh one each time.
        broken: Why the record cannot be served; "" if it can.
    """

    method: str
    path: str
    module: str = ""
    function: str = ""
    policies: tuple[auth.Policy, ...] = ()
    mode: Mode = "readonly"
    forwarding: Forwarding = "always"
    operation: Mapping[str, Any] = {}
    hidden: bool = True
    reuse: str | None = None
    broken: str = ""


def read_declared(key: bytes, record: bytes) -> Declared:
    """One row of the table.

    Raises: UsageError: The key names no verb and path, so that there is no endpoint.
    """
    try:
        method, _, path = key.decode().partition(" ")
    except UnicodeDecodeError:
        raise UsageError("its key is not UTF-8") from None
    if method not in METHODS or not path.startswith("/"):
        raise UsageError(f"its key {key[:64]!r} is no verb and path, such as 'GET /records/{{key}}'")
    try:
        return _read(method, path, record)
    except UsageError as error:
        return Declared(method, path, broken=str(error))


def _read(method: str, path: str, record: bytes) -> Declared:
    try:
        said: Any = json.loads(record)
        # Lone surrogates, NaN and numbers without end (1e999) could be read, and not be told in OpenAPI.
        json.dumps(said, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        said = None
    if type(said) is not dict:
        raise UsageError("its record is no JSON object")
    policies = said.get("authn_policies", [])
    if type(policies) is not list:
        raise UsageError("authn_policies is no list")
    if len(record) > RECORD_BYTES_MAX:
        raise UsageError(f"its record is larger than {RECORD_BYTES_MAX} bytes")
    reuse = said.get("interpreter_reuse")
    if reuse is not None:
        reuse = reuse.get("key") if type(reuse) is dict else None
        if type(reuse) is not str or len(reuse) > REUSE_KEY_LENGTH_MAX:
            raise UsageError(f"interpreter_reuse has no key, a text of at most {REUSE_KEY_LENGTH_MAX} characters")
    return Declared(
        method,
        path,
        module=_text(said, "js_module"),
        function=_text(said, "js_function"),
        policies=auth.resolve(policies),
        mode=_choice(said, "mode", _MODES, READWRITE),
        forwarding=_choice(said, "forwarding_required", _FORWARDING, "always"),
        operation=_operation(said.get("openapi")),
        hidden=said.get("openapi_hidden") is True,
        reuse=reuse,
    )


def _operation(said: Any) -> dict[str, Any]:
    """What is well-formed of an OpenAPI operation object, as far as our document depends on it; the rest is as the members want it."""
    operation = dict(said) if type(said) is dict else {}
    parameters = operation.get("parameters", [])
    if type(parameters) is not list or not all(type(parameter) is dict and type(parameter.get("name")) is str for parameter in parameters):
        operation.pop("parameters", None)
    if type(operation.get("responses", {})) is not dict:
        del operation["responses"]
    if type(operation.get("operationId", "")) is not str:
        del operation["operationId"]
    return operation


def _text(said: Mapping[str, Any], name: str) -> str:
    value = said.get(name)
    if type(value) is not str or not value:
        raise UsageError(f"{name} is missing, or no text")
    return value


def _choice(said: Mapping[str, Any], name: str, choices: tuple[str, ...], default: str) -> Any:
    value = said.get(name, default)
    if type(value) is not str or value not in choices:
        raise UsageError(f"{name} is none of {', '.join(choices)}")
    return value
