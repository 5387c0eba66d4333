"""What is read is what the schema allows; both are made from one declaration."""

import dataclasses
import json
from enum import Enum
from typing import Any, Literal, NotRequired, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledgerd.enclave.shapes import INTEGER_MAX, read_json, read_text, shape_of
from ledgerd.ledger.errors import RequestError, UsageError


class Currency(Enum):
    EURO = "EUR"
    YEN = "JPY"


@dataclasses.dataclass(frozen=True)
class Leg:
    account: str
    amount: int
    note: str | None = None


class Transfer(TypedDict):
    legs: list[Leg]
    currency: Currency
    kind: NotRequired[Literal["instant", "batch"]]
    labels: NotRequired[dict[str, float]]


def read(declared: Any, text: str | bytes) -> Any:
    return read_json(text if isinstance(text, bytes) else text.encode(), shape_of(declared, {})[0])


def refusal(declared: Any, text: str | bytes) -> str:
    with pytest.raises(RequestError) as caught:
        read(declared, text)
    assert (caught.value.status, caught.value.error_code) == (400, "InvalidInput")
    return caught.value.message


def test_a_nested_body_becomes_its_declared_types() -> None:
    text = '{"legs":[{"account":"a","amount":5},{"account":"b","amount":-5,"note":"ä"}],"currency":"EUR","labels":{"x":1}}'
    assert read(Transfer, text) == {"legs": [Leg("a", 5), Leg("b", -5, "ä")], "currency": Currency.EURO, "labels": {"x": 1.0}}


@pytest.mark.parametrize(
    ("declared", "text", "message"),
    [
        (Leg, '{"account":"a"}', "body.amount is missing"),
        (Leg, '{"account":"a","amount":1,"ammount":2}', "body has no field 'ammount'"),
        (Leg, '{"account":"a","amount":1,"amount":2}', "body: a name stands twice in one object"),
        (Leg, '{"account":"a","amount":true}', "body.amount must be an integer of at most 53 bits"),
        (Leg, '{"account":"a","amount":1.0}', "body.amount must be an integer of at most 53 bits"),
        (Leg, f'{{"account":"a","amount":{INTEGER_MAX + 1}}}', "body.amount must be an integer of at most 53 bits"),
        (Leg, '{"account":"\\ud800","amount":1}', "body.account holds a lone surrogate"),
        (Leg, '{"account":"a","amount":1,"note":2}', "body.note must be a string, or body.note must be null"),
        (Leg, "[]", "body must be an object"),
        (Transfer, '{"legs":[{"account":1,"amount":1}],"currency":"EUR"}', "body.legs[0].account must be a string"),
        (Transfer, '{"legs":{},"currency":"EUR"}', "body.legs must be an array"),
        (Transfer, '{"legs":[],"currency":"USD"}', 'body.currency must be one of "EUR", "JPY"'),
        (Transfer, '{"legs":[],"currency":["EUR"]}', 'body.currency must be one of "EUR", "JPY"'),
        (Transfer, '{"legs":[],"currency":"EUR","labels":{"x":"1"}}', "body.labels.x must be a number"),
        (Literal[1], "true", "body must be one of 1"),
        (float, "NaN", "body: NaN is not a JSON number"),
        (float, "-Infinity", "body: -Infinity is not a JSON number"),
        (float, "1e999", "body is too large"),
        (float, "1" * 400, "body is too large"),
        (bool, "0", "body must be true or false"),
        (None, "0", "body must be null"),
        (int, "", "The body is not JSON: line 1, column 1: Expecting value."),
        (int, "1 2", "The body is not JSON: line 1, column 3: Extra data."),
        (int, b"\xff", "The body is not JSON: it is not UTF-8, or nested too deep."),
        (Any, "[" * 100_000, "The body is not JSON: it is not UTF-8, or nested too deep."),
        (int, "1" * 5_000, "The body is not JSON: it is not UTF-8, or nested too deep."),
    ],
)
def test_what_is_not_declared_is_refused_and_named(declared: Any, text: str | bytes, message: str) -> None:
    assert refusal(declared, text) == message


def test_the_schema_says_the_same() -> None:
    components: dict[str, Any] = {}
    assert shape_of(Transfer, components)[1] == {"$ref": "#/components/schemas/Transfer"}
    integer = {"type": "integer", "minimum": -INTEGER_MAX, "maximum": INTEGER_MAX}
    assert components == {
        "Transfer": {
            "type": "object",
            "additionalProperties": False,
            "required": ["currency", "legs"],
            "properties": {
                "legs": {"type": "array", "items": {"$ref": "#/components/schemas/Leg"}},
                "currency": {"enum": ["EUR", "JPY"]},
                "kind": {"enum": ["instant", "batch"]},
                "labels": {"type": "object", "additionalProperties": {"type": "number"}},
            },
        },
        "Leg": {
            "type": "object",
            "additionalProperties": False,
            "required": ["account", "amount"],
            "properties": {"account": {"type": "string"}, "amount": integer, "note": {"type": "string", "nullable": True}},
        },
    }


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@given(json_values)
def test_every_json_value_is_read_or_refused(value: Any) -> None:
    data = json.dumps(value).encode()
    for declared in (Transfer, Leg, list[int] | str | None, dict[str, bool]):
        try:
            read(declared, data)
        except RequestError as error:
            assert error.status == 400


class Loop(TypedDict):
    again: "list[Loop]"


@pytest.mark.parametrize("declared", [bytes, set[int], dict[int, str], object, Loop, list, complex, [int]])
def test_a_type_that_json_cannot_hold_is_refused_where_it_is_declared(declared: Any) -> None:
    with pytest.raises(UsageError):
        shape_of(declared, {})


def test_two_types_of_one_name_are_refused() -> None:
    components: dict[str, Any] = {}
    shape_of(dataclasses.make_dataclass("Same", [("a", int)]), components)
    shape_of(dataclasses.make_dataclass("Same", [("a", int)]), components)
    with pytest.raises(UsageError, match="Same"):
        shape_of(dataclasses.make_dataclass("Same", [("b", int)]), components)


@pytest.mark.parametrize(
    ("text", "declared", "value"),
    [
        ("a", str, "a"),
        ("-12", int, -12),
        ("007", int, 7),
        ("1e3", float, 1e3),
        ("-1.5", float, -1.5),
        ("true", bool, True),
        ("false", bool, False),
    ],
)
def test_a_parameter_is_read_by_its_type(text: str, declared: type, value: Any) -> None:
    assert read_text(text, declared, "query parameter x") == value


@pytest.mark.parametrize(
    ("declared", "texts"),
    [
        (int, ["", "1.0", "+1", " 1", "1_0", "\u0663", "1" * 30, "--1", "9007199254740992", "0" * 20 + "9" * 20]),
        (bool, ["", "True", "1"]),
        (float, ["", "x", "nan", "inf", "1e999", "1_0.0", " 1", ".5", "\u0663"]),
    ],
)
def test_a_parameter_of_another_form_is_refused(declared: type, texts: list[str]) -> None:
    for text in texts:
        for where, code in (("query parameter x", "InvalidQueryParameterValue"), ("path parameter x", "InvalidResourceName")):
            with pytest.raises(RequestError) as caught:
                read_text(text, declared, where)
            assert (caught.value.status, caught.value.error_code) == (400, code), text
