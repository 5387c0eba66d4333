"""What operations of OpenAPI are made of: answers by the types that are declared, refusals by their codes.

Not here: the document (`enclave.openapi`), JSON schemas of declared types (`enclave.shapes`), the words of each endpoint.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from ledgerd.enclave.requests import JSON
from ledgerd.enclave.shapes import shape_of

_ERROR: Final = {"$ref": "#/components/schemas/Error"}


def operation(
    summary: str,
    answers: Mapping[int, Any],
    refusals: Mapping[int, str],
    schemas: dict[str, Any],
    parameters: Iterable[dict[str, Any]] = (),
) -> dict[str, Any]:
    """An operation object.

    Args:
        summary: What it gives or does, one line.
        answers: By status, the type of its JSON, the content type of what is none, or None for an empty answer.
        refusals: By status, codes with commas between them.
        schemas: Gets the schemas of the named types.
    """
    made: dict[str, Any] = {
        "summary": summary,
        "responses": {
            **{str(status): _answer(answer, schemas) for status, answer in answers.items()},
            **{str(status): _refusal(refusals[status]) for status in sorted(refusals)},
        },
    }
    if declared := list(parameters):
        made["parameters"] = declared
    return made


def query(name: str, schema: dict[str, Any], text: str, *, required: bool = False) -> dict[str, Any]:
    """A parameter object of the query."""
    return {"name": name, "in": "query", "required": required, "schema": schema, "description": text}


def _answer(answer: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    if answer is None:
        return {"description": "Done."}
    if isinstance(answer, str):
        return {"description": "The answer.", "content": {answer: {"schema": {"type": "string"}}}}
    return {"description": "The answer.", "content": {JSON: {"schema": shape_of(answer, schemas)[1]}}}


def _refusal(codes: str) -> dict[str, Any]:
    return {"description": codes, "content": {JSON: {"schema": _ERROR}}}
