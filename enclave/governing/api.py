"""What all endpoints of `/gov` have in common: a version of the API, names in paths, who signed; and how each of them is described.

Law: the version is demanded of every request, but after authentication, as in CCF.
Not here: what an endpoint does (the other modules of this package), who signed (`enclave.auth`).
"""

import base64
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from ledgerd.enclave.endpoints import Context, Endpoint, Handler, Result
from ledgerd.enclave.operations import operation
from ledgerd.enclave.requests import COSE, JSON, Response
from ledgerd.enclave.shapes import shape_of
from ledgerd.enclave.signed_bodies import signed_by_member
from ledgerd.governance import tables
from ledgerd.governance.requests import SignedRequest
from ledgerd.ledger.errors import RequestError

API_VERSIONS: Final = ("2023-06-01-preview", "2024-07-01")  # CCF's; the same to every endpoint, as there
JAVASCRIPT: Final = "text/javascript"

_is_id: Final = re.compile(r"[0-9A-Fa-f]{64}").fullmatch
_IDS: Final = frozenset({"memberId", "nodeId", "proposalId", "userId"})
_ID: Final = {"type": "string", "pattern": "^[0-9A-Fa-f]{64}$"}
_VERSION_PARAMETER: Final = {
    "name": "api-version",
    "in": "query",
    "required": True,
    "schema": {"type": "string", "enum": list(API_VERSIONS)},
}
_SIGNED_BODY: Final = {"required": True, "content": {COSE: {"schema": {"type": "string", "format": "binary"}}}}


def reading(
    template: str,
    handler: Handler,
    summary: str,
    answer: Any,
    refusals: Mapping[int, str] | None = None,
    query: Iterable[dict[str, Any]] = (),
) -> Endpoint:
    """An endpoint that anybody may read.

    Args:
        summary: What it gives, one line.
        answer: The type of its JSON, or the content type of what is none.
        refusals: Codes by status, beside those that every endpoint has.
        query: OpenAPI's description of more parameters.
    """
    return _endpoint("GET", template, handler, summary, {200: answer}, refusals or {}, query)


def signed(
    template: str,
    handler: Handler,
    summary: str,
    kind: str,
    answers: Mapping[int, Any],
    refusals: Mapping[int, str],
    *,
    active: bool = True,
    scripted: bool = False,
) -> Endpoint:
    """An endpoint for members' signed requests.

    Args:
        kind, active: See `auth.signed_by_member`.
        scripted: See `Endpoint`.
        answers: By status, the type of its JSON, or None.
    """
    by_all = {**refusals, 401: "InvalidAuthenticationInfo"}
    policies = (signed_by_member(kind, active=active),)
    return _endpoint("POST", template, handler, summary, answers, by_all, policies=policies, scripted=scripted, in_turn=scripted)


def trying(
    method: str, template: str, handler: Handler, summary: str, answer: Any, refusals: Mapping[int, str], body: Any = None
) -> Endpoint:
    """An endpoint by which members see what scripts would do; nothing is done. Asked with a member's certificate, since scripts take time.

    Args: body: the type of the request's JSON.
    """
    by_all = {**refusals, 401: "InvalidAuthenticationInfo"}
    answers = {200: answer}
    return _endpoint(
        method, template, handler, summary, answers, by_all, body=body, policies=("member_cert",), scripted=True, readonly=False
    )


def _endpoint(
    method: str,
    template: str,
    handler: Handler,
    summary: str,
    answers: Mapping[int, Any],
    refusals: Mapping[int, str],
    query: Iterable[dict[str, Any]] = (),
    body: Any = None,
    **options: Any,
) -> Endpoint:
    def versioned(context: Context) -> Result:
        check_version(context)
        return handler(context)

    schemas: dict[str, Any] = {}
    by_version = "MissingApiVersionParameter, UnsupportedApiVersionValue"
    codes = {**refusals, 400: f"{refusals[400]}, {by_version}" if 400 in refusals else by_version}
    described = operation(summary, answers, codes, schemas)
    if body is not None:
        described["requestBody"] = {"required": True, "content": {JSON: {"schema": shape_of(body, schemas)[1]}}}
    elif method == "POST":
        described["requestBody"] = _SIGNED_BODY
    endpoint = Endpoint(method, template, versioned, operation=described, schemas=schemas, **options)
    ids = [{"name": name, "in": "path", "required": True, "schema": _ID} for name in endpoint.names if name in _IDS]
    endpoint.operation["parameters"] = [*ids, _VERSION_PARAMETER, *query]
    return endpoint


# What handlers ask of a request.


def check_version(context: Context) -> None:
    """Raises: RequestError: 400, the request names no version of the API, or an unknown one."""
    version = context.query.get("api-version")
    known = ", ".join(API_VERSIONS)
    if version is None:
        raise RequestError(400, "MissingApiVersionParameter", f"The query parameter 'api-version' is missing; there are {known}.")
    if version not in API_VERSIONS:
        raise RequestError(400, "UnsupportedApiVersionValue", f"api-version {version[:32]!r} is not known; there are {known}.")


def id_in_path(context: Context, name: str) -> str:
    """The id that stands in the path as `name`. Raises: RequestError: 400 InvalidResourceName, it is none."""
    value = context.params[name]
    if _is_id(value) is None:
        raise RequestError(400, "InvalidResourceName", f"{name} {value[:64]!r} is not one: 64 hexadecimal digits are.")
    return value


def request_of(context: Context) -> SignedRequest:
    """The signed request, whose signer the policy has verified."""
    caller = context.caller
    assert caller is not None and caller.signed is not None, "the policy has found a signed request"
    return caller.signed


def signer_in_path(context: Context, code: str) -> str:
    """The member in the path, who must be the signer.

    Args: code: CCF's for a path that names another member; it differs between endpoints.
    Raises: RequestError: 400.
    """
    member_id = id_in_path(context, "memberId")
    signer = request_of(context).member_id
    if member_id != signer:
        raise RequestError(400, code, f"The path names member {member_id}, the request is signed by {signer}: it must be the same.")
    return member_id


def signed_proposal_in_path(context: Context) -> str:
    """The proposal in the path, which the signer must have named as well.

    Raises: RequestError: 400 InvalidResourceName, the signed request is about another proposal, or about none.
    """
    proposal_id = id_in_path(context, "proposalId")
    named = request_of(context).proposal_id
    if named != proposal_id:
        about = "none" if named is None else named[:64]
        raise RequestError(
            400, "InvalidResourceName", f"The path names proposal {proposal_id}, the signed request {about}: sign it for this proposal."
        )
    return proposal_id


def javascript(source: bytes) -> Response:
    """A script, as it is."""
    return Response(200, (), source, JAVASCRIPT) if source else Response(200)


def record_request(context: Context, request: SignedRequest) -> None:
    """Keep a member's last request in the ledger, for auditors."""
    envelope = tables.encode(base64.b64encode(request.envelope).decode())
    context.kv[tables.COSE_HISTORY].set(request.member_id.encode(), envelope)
