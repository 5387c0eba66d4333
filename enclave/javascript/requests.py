"""What an endpoint in JavaScript is told of its request: CCF's object, by CCF's names.

Law: the script sees what the client sent and whom authentication found, and nothing else of the node.
Not here: the body and what was signed, which the worker turns into ArrayBuffers (`enclave.scripts.jobs`).
Source: CCF's type declarations for applications, `Request` and the caller's identities; CCF src/http (what of a URL is decoded when).
"""

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from json.encoder import encode_basestring_ascii as quoted
from typing import Any, Final
from urllib.parse import unquote_plus

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ledgerd.enclave.auth import NOBODY
from ledgerd.enclave.callers import Caller
from ledgerd.enclave.endpoints import Context

_SIGNED = ("user_cose_sign1", "member_cose_sign1")
_ALIKE_MAX: Final = 256  # sets of headers that are remembered; those of a connection's requests mostly stay the same
_ALIKE_COUNT_MAX: Final = 32  # headers in such a set
_ALIKE_LENGTH_MAX: Final = 1_024  # of their names and values
_encode_json: Final = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode


def request_text(context: Context, route: str) -> bytes:
    """The argument of an endpoint's function, as JSON, without its body. Written piece by piece: one is made for every request.

    Args: route: The template that was matched, with its prefix, as JSON: `"/app/records/{key}"`.
    Raises: TypeError, ValueError: What governance has stored about the caller, or the caller's token, is no JSON.
    """
    request = context.request
    headers = request.headers
    host = headers.get("host")
    shown = quoted(request.path)
    query, url = '""', shown
    if request.query:
        decoded = decoded_query(request.query)
        query, url = quoted(decoded), quoted(f"{request.path}?{decoded}")
    caller = context.caller
    return "".join(
        (
            '{"headers":',
            _headers_text(headers),
            ',"params":',
            _object(context.params.items()),
            ',"query":',
            query,
            ',"path":',
            shown,
            ',"url":',
            url,
            ',"route":',
            route,
            ',"method":',
            quoted(request.method),
            ',"hostname":',
            "null" if host is None else quoted(host),
            ',"caller":',
            _NOBODY if caller is NOBODY else _encode_json(caller_object(caller)),
            "}",
        )
    ).encode()


def _headers_text(headers: Mapping[str, str]) -> str:
    pairs = tuple(headers.items())
    is_short = len(pairs) <= _ALIKE_COUNT_MAX and sum(map(len, headers)) + sum(map(len, headers.values())) <= _ALIKE_LENGTH_MAX
    return _remembered(pairs) if is_short else _object(pairs)


def _object(pairs: Iterable[tuple[str, str]]) -> str:
    """Texts by name, as JSON."""
    return f"{{{','.join([f'{quoted(name)}:{quoted(value)}' for name, value in pairs])}}}"


_remembered: Final = lru_cache(maxsize=_ALIKE_MAX)(_object)


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


_NOBODY: Final = _encode_json(caller_object(NOBODY))


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
