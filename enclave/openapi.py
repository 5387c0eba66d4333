"""The OpenAPI 3.0 document of a registry, from what its endpoints declare.

Law: an operation is described by its endpoint and nothing else, so the document cannot tell of what does not exist.
Not here: JSON schemas of declared types (`enclave.shapes`).
"""

from typing import Any, Final

from ledgerd.enclave.endpoints import Endpoint, Registry

_ERROR: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "details": {"type": "array", "items": {"type": "object"}},
            },
        }
    },
}
_FORWARDING: Final = {
    "always": "A backup passes this request to the primary.",
    "sometimes": "A backup answers this request itself, from the state that it has, unless it turns out to write.",
    "never": "The node that gets this request answers it.",
}


def document(registry: Registry, title: str, version: str, description: str = "") -> dict[str, Any]:
    """Describe every endpoint of `registry` that is not hidden.

    Returns: A JSON value, for `GET /PREFIX/api`. Paths are relative to the server `/PREFIX`, as in CCF.
    """
    schemas: dict[str, Any] = {}
    security: dict[str, Any] = {}
    paths: dict[str, dict[str, Any]] = {}
    identifiers: set[str] = set()
    for endpoint in registry:
        if not endpoint.hidden:
            operation = _operation(endpoint)
            identifier = operation.get("operationId")
            if identifier in identifiers:  # one function may serve several endpoints; the name must be unique
                identifier = operation["operationId"] = f"{identifier}_{len(identifiers)}"
            if identifier is not None:
                identifiers.add(identifier)
            paths.setdefault(endpoint.template, {})[endpoint.method.lower()] = operation
            schemas.update(endpoint.schemas)
            named = [part for policy in endpoint.policies for part in policy.parts or (policy,)]
            security.update({policy.name: policy.security for policy in named if policy.security})
    components: dict[str, Any] = {"schemas": {**dict(sorted(schemas.items())), "Error": _ERROR}}
    if security:
        components["securitySchemes"] = security
    info = {"title": title, "version": version}
    if description:
        info["description"] = description
    return {"openapi": "3.0.3", "info": info, "servers": [{"url": f"/{registry.prefix}"}], "paths": paths, "components": components}


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    operation = dict(endpoint.operation)
    declared = operation.get("parameters", [])
    named = {parameter["name"] for parameter in declared if parameter.get("in") == "path"}
    parameters = [
        *({"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in endpoint.names if name not in named),
        *declared,
    ]
    if parameters:
        operation["parameters"] = parameters
    responses = dict(operation.get("responses") or {"200": {"description": "The answer."}})
    responses.setdefault(
        "default",
        {"description": "The request is refused.", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}},
    )
    operation["responses"] = responses
    # OpenAPI 3.0 has no words for client certificates; the policies stand in an extension, and in `security` where they can.
    operation["x-ledgerd-policies"] = [policy.name for policy in endpoint.policies]
    schemes: list[dict[str, list[str]]] = [
        {part.name: [] for part in policy.parts or (policy,) if part.security} for policy in endpoint.policies
    ]
    if any(schemes):
        operation["security"] = [scheme for scheme in schemes if scheme] + ([{}] if {} in schemes else [])
    operation["x-ccf-forwarding"] = {"value": endpoint.forwarding, "description": _FORWARDING[endpoint.forwarding]}
    return operation
