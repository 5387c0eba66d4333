"""Declared types of bodies and parameters: read JSON into them, and describe them as JSON schema for OpenAPI.

Law: what the schema allows is what is read. Unknown fields, NaN, duplicate names and lone surrogates are refused, never ignored:
in a ledger, a misspelt field must not look like an accepted one.
Known types: str, int, float, bool, None, Any, list[T], dict[str, T], T | U, Literal, Enum, dataclasses and TypedDicts.
"""

import dataclasses
import json
import re
import types
import typing
from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from typing import Any, Final, TypeAlias

from ledgerd.ledger.errors import RequestError, UsageError

Reader: TypeAlias = Callable[[Any, str], Any]
"""Takes a decoded JSON value and where it stood (`body.amount`), returns the typed value or raises Misshaped."""

Schema: TypeAlias = dict[str, Any]

INTEGER_MAX: Final = (1 << 53) - 1  # what every JSON reader holds exactly (RFC 8259 section 6)
FLOAT_MAX: Final = 1.7976931348623157e308
_INTEGER: Final = re.compile(r"-?[0-9]{1,16}")
_NUMBER: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


class Misshaped(ValueError):
    """A JSON value is not of the declared type; the message says where and what was expected."""


def read_json(data: bytes, reader: Reader) -> Any:
    """Decode a JSON body and read it by its declared type.

    Raises: RequestError: 400 InvalidInput, saying where and why.
    """
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
        return reader(value, "body")
    except Misshaped as error:
        raise RequestError(400, "InvalidInput", str(error)) from None
    except (ValueError, RecursionError) as error:
        why = "it is not UTF-8, or nested too deep"
        if isinstance(error, json.JSONDecodeError):
            why = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise RequestError(400, "InvalidInput", f"The body is not JSON: {why}.") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise Misshaped("body: a name stands twice in one object")
    return fields


def _refuse_constant(name: str) -> Any:
    raise Misshaped(f"body: {name} is not a JSON number")


def read_text(text: str, declared: Any, where: str) -> Any:
    """Read a path or query parameter: str, int, float or bool.

    Raises: RequestError: 400 InvalidQueryParameterValue (for `where` in the query) or InvalidResourceName (in the path).
    """
    if declared is str:
        return text
    try:
        if declared is bool:
            return {"true": True, "false": False}[text]
        if declared is int and _INTEGER.fullmatch(text) and abs(int(text)) <= INTEGER_MAX:
            return int(text)
        if declared is float and _NUMBER.fullmatch(text) and abs(float(text)) <= FLOAT_MAX:
            return float(text)
        raise ValueError
    except (KeyError, ValueError):
        code = "InvalidQueryParameterValue" if where.startswith("query") else "InvalidResourceName"
        raise RequestError(400, code, f"{where} must be {_NAMES[declared]}.") from None


_NAMES: Final = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}
PARAMETER_TYPES: Final = frozenset(_NAMES)


def _read_str(value: Any, where: str) -> str:
    if type(value) is not str:
        raise Misshaped(f"{where} must be a string")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Misshaped(f"{where} holds a lone surrogate") from None
    return value


def _read_int(value: Any, where: str) -> int:
    if type(value) is not int or abs(value) > INTEGER_MAX:
        raise Misshaped(f"{where} must be an integer of at most 53 bits")
    return value


def _read_float(value: Any, where: str) -> float:
    if type(value) is not float and type(value) is not int:
        raise Misshaped(f"{where} must be a number")
    if abs(value) > FLOAT_MAX:
        raise Misshaped(f"{where} is too large")
    return float(value)


def _read_bool(value: Any, where: str) -> bool:
    if type(value) is not bool:
        raise Misshaped(f"{where} must be true or false")
    return value


def _read_none(value: Any, where: str) -> None:
    if value is not None:
        raise Misshaped(f"{where} must be null")


def _read_any(value: Any, where: str) -> Any:
    return value


_PLAIN: Final[dict[Any, tuple[Reader, Schema]]] = {
    str: (_read_str, {"type": "string"}),
    int: (_read_int, {"type": "integer", "minimum": -INTEGER_MAX, "maximum": INTEGER_MAX}),
    float: (_read_float, {"type": "number"}),
    bool: (_read_bool, {"type": "boolean"}),
    type(None): (_read_none, {"nullable": True, "enum": [None]}),
    None: (_read_none, {"nullable": True, "enum": [None]}),
    Any: (_read_any, {}),
}


def shape_of(declared: Any, components: dict[str, Schema]) -> tuple[Reader, Schema]:
    """The reader and the OpenAPI 3.0 schema of a declared type. Named types are put into `components` and referred to.

    Raises: UsageError: The type has no JSON form.
    """
    try:
        if declared in _PLAIN:
            return _PLAIN[declared]
    except TypeError:  # unhashable
        raise UsageError(f"{declared!r} is not a type that JSON can hold") from None
    origin, arguments = typing.get_origin(declared), typing.get_args(declared)
    if origin is list and arguments:
        item, schema = shape_of(arguments[0], components)
        return _list_reader(item), {"type": "array", "items": schema}
    if origin is dict and arguments and arguments[0] is str:
        item, schema = shape_of(arguments[1], components)
        return _dict_reader(item), {"type": "object", "additionalProperties": schema or True}
    if origin in (typing.Union, types.UnionType):
        return _union(arguments, components)
    if origin is typing.Literal:
        return _choice_reader({value: value for value in arguments}), {"enum": list(arguments)}
    if isinstance(declared, type) and issubclass(declared, Enum):
        return _choice_reader({member.value: member for member in declared}), {"enum": [member.value for member in declared]}
    if isinstance(declared, type) and (dataclasses.is_dataclass(declared) or typing.is_typeddict(declared)):
        return _record(declared, components)
    raise UsageError(f"{declared!r} is not a type that JSON can hold; see the list in ledgerd.enclave.shapes")


def _list_reader(item: Reader) -> Reader:
    def read(value: Any, where: str) -> list[Any]:
        if type(value) is not list:
            raise Misshaped(f"{where} must be an array")
        return [item(each, f"{where}[{index}]") for index, each in enumerate(value)]

    return read


def _dict_reader(item: Reader) -> Reader:
    def read(value: Any, where: str) -> dict[str, Any]:
        if type(value) is not dict:
            raise Misshaped(f"{where} must be an object")
        return {_read_str(name, where): item(each, f"{where}.{name[:64]}") for name, each in value.items()}

    return read


def _choice_reader(choices: dict[Any, Any]) -> Reader:
    expected = ", ".join(json.dumps(choice) for choice in choices)

    def read(value: Any, where: str) -> Any:
        if type(value) in (str, int, bool) and value in choices and type(value) in {type(choice) for choice in choices}:
            return choices[value]
        raise Misshaped(f"{where} must be one of {expected}")

    return read


def _union(arguments: tuple[Any, ...], components: dict[str, Schema]) -> tuple[Reader, Schema]:
    shapes = [shape_of(argument, components) for argument in arguments]
    readers = [reader for reader, _ in shapes]
    some = [schema for argument, (_, schema) in zip(arguments, shapes, strict=True) if argument is not type(None)]
    nullable = {"nullable": True} if len(some) < len(shapes) else {}

    def read(value: Any, where: str) -> Any:
        wrongs = []
        for reader in readers:
            try:
                return reader(value, where)
            except Misshaped as wrong:
                wrongs.append(str(wrong))
        raise Misshaped(", or ".join(wrongs))

    if len(some) == 1:
        return read, ({"allOf": some, **nullable} if "$ref" in some[0] else {**some[0], **nullable})
    return read, {"anyOf": some, **nullable}


# To resolve annotations is most of what a record costs, and every registry of every node asks for the same ones. A class equals itself
# alone, which unions do not: `int | float` equals `float | int`, and reads 1 as something else.
@lru_cache(maxsize=1024)
def _hints_of(declared: type) -> dict[str, Any]:
    return typing.get_type_hints(declared)


def _record(declared: Any, components: dict[str, Schema]) -> tuple[Reader, Schema]:
    name = declared.__name__
    hints = _hints_of(declared)
    if dataclasses.is_dataclass(declared):
        required = {
            field.name
            for field in dataclasses.fields(declared)
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        }
        hints = {field.name: hints[field.name] for field in dataclasses.fields(declared) if field.init}
    else:
        required = set(declared.__required_keys__)
    schema: Schema = {"type": "object", "additionalProperties": False}
    reference = {"$ref": f"#/components/schemas/{name}"}
    readers: dict[str, Reader] = {}
    known = components.get(name)
    if known is not None and "properties" not in known:
        raise UsageError(f"{name} contains itself; JSON of unbounded depth is not read")
    components[name] = schema  # without properties while it is being read, so that a cycle shows
    properties: dict[str, Schema] = {}
    for field, hint in hints.items():
        readers[field], properties[field] = shape_of(hint, components)
    schema["properties"] = properties
    if required:
        schema["required"] = sorted(required)
    if known is not None and known != schema:
        raise UsageError(f"two different types are called {name}; clients could not tell them apart in the OpenAPI document")

    def read(value: Any, where: str) -> Any:
        if type(value) is not dict:
            raise Misshaped(f"{where} must be an object")
        for field in value:
            if field not in readers:
                raise Misshaped(f"{where} has no field {field[:64]!r}")
        for field in required:
            if field not in value:
                raise Misshaped(f"{where}.{field} is missing")
        return declared(**{field: readers[field](each, f"{where}.{field}") for field, each in value.items()})

    return read, reference
