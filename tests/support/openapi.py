"""The rules of OpenAPI that our documents could break, and finding in one what an endpoint may answer."""

import json
import re
from typing import Any

from ledgerd.enclave.shapes import shape_of


def check_openapi(made: dict[str, Any]) -> None:
    """The rules of OpenAPI 3.0.3 that our documents could break."""
    assert made["openapi"] == "3.0.3"
    assert made["info"]["title"] and made["info"]["version"]
    identifiers = []
    for path, item in made["paths"].items():
        assert path.startswith("/")
        for method, operation in item.items():
            assert method in {"get", "put", "post", "delete", "options", "head", "patch"}
            identifiers.append(operation.get("operationId"))
            declared = [(parameter["name"], parameter["in"]) for parameter in operation.get("parameters", [])]
            assert len(declared) == len(set(declared))
            assert sorted(name for name, where in declared if where == "path") == sorted(re.findall(r"\{(\w+)\}", path))
            assert all(parameter["required"] for parameter in operation.get("parameters", []) if parameter["in"] == "path")
            assert all("schema" in parameter for parameter in operation.get("parameters", []))
            assert operation["responses"]
            for status, response in operation["responses"].items():
                assert re.fullmatch(r"[1-5][0-9][0-9]|default", status)
                assert response["description"]
            for policy in operation.get("security", []):
                assert set(policy) <= set(made["components"]["securitySchemes"])
    named = [identifier for identifier in identifiers if identifier]
    assert len(named) == len(set(named))
    for reference in re.findall(r'"\$ref": "([^"]*)"', json.dumps(made)):
        node = made
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]


def check_answer(made: dict[str, Any], types: object, operation: dict[str, Any], status: int, content_type: str, body: bytes) -> None:
    """Whether an answer is one that its operation describes: its status, its content type, and of JSON every field.

    Args: types: The module that has the types of which the document is made; their readers refuse what a schema does not allow.
    """
    answers = operation["responses"]
    described = answers.get(str(status)) or answers["default"]
    if not body:
        assert "content" not in described or not described["content"].get("application/json"), "an answer without its JSON"
        return
    assert content_type in described["content"], (content_type, described)
    reference = described["content"][content_type]["schema"].get("$ref", "")
    name = reference.removeprefix("#/components/schemas/")
    if name == "Error":
        assert json.loads(body)["error"].keys() >= {"code", "message"}
    elif name:
        assert name in made["components"]["schemas"]
        shape_of(getattr(types, name), {})[0](json.loads(body), name)
