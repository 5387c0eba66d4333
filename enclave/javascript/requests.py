"""What an endpoint in JavaScript is told of its request: CCF's object, by CCF's names.

Law: the script sees what the client sent and whom authentication found, and nothing else of the node.
Not here: the body and what was signed, which the worker turns into ArrayBuffers (`enclave.scripts.jobs`).
Source: CCF's type declarations for applications, `Request` and the caller's identities; CCF src/http (what of a URL is decoded when).
"""

from functools import lru_cache
from typing import Any
from urllib.parse import unquote_plus

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ledgerd.enclave.callers import Caller
from ledgerd.enclave.endpoints import Context

_SIGNED = ("user_cose_sign1", "member_cose_sign1")


def request_object(context: Context, route: str) -> dict[str, Any]:
    """The argument of an endpoint's function, as JSON, without its body.

    Args: route: The template that was matched, with its prefix: `/app/records/{key}`.
    """
    request = context.request
    path, query = request.path, decoded_query(request.query)
    return {
        "headers": dict(request.headers),
        "params": context.params,
        "query": query,
        "path": path,
        "url": f"{path}?{query}" if query else path,
        "route": route,
        "method": request.method,
        "hostname": request.headers.get("host"),
        "caller": caller_object(context.caller),
    }


def decoded_query(query: str) -> str:
    """A query as applications written for CCF expect it: decoded as a whole, before anybody takes it apart.

    Broken escapes stay as they are. So `%26` cannot be told from `&`; whoever needs that puts the value into the path or the body.
    """
    return unquote_plus(query) if "%" in query or "+" in query else query


def caller_object(caller: Caller | None) -> Any:
    """Whom authentication found; None for an endpoint without policies."""
    if caller is None:
        return None
    if caller.parts:
        found: dict[str, Any] = {name: caller_object(part) for name, part in caller.parts.items()}
        return {"policy": list(caller.parts), **found}
    policy = caller.policy
    if policy == "jwt":
        return {"policy": policy, "jwt": caller.jwt}
    if policy == "no_auth":
        return {"policy": policy}
    if policy == "any_cert":
        assert caller.certificate is not None, "the policy asks for one"
        return {"policy": policy, "cert": _pem(caller.certificate)}
    return {"policy": policy, "id": caller.id, "data": caller.data, "cert": caller.pem}


def signed_content(caller: Caller | None) -> bytes | None:
    """What was signed, where a policy of signed bodies has accepted; the worker gives it to the caller whom `policy` names so."""
    if caller is None:
        return None
    for part in (*caller.parts.values(), caller):
        if part.policy in _SIGNED:
            return part.content
    return None


@lru_cache(maxsize=256)
def _pem(certificate: bytes) -> str:
    """PEM of a certificate in DER."""
    return x509.load_der_x509_certificate(certificate).public_bytes(Encoding.PEM).decode()
