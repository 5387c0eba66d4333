"""Who asks: authentication policies, tried in the order in which an endpoint names them.

Law: TLS proves possession of a key and no more; who the caller is, is decided by the tables, at every request.
So a removed user is out at its next request. Texts and codes are CCF's, on which clients may rely.
Not here: TLS (`enclave.tls`), which endpoint asks for what (`enclave.endpoints`), signed bodies (`enclave.signed_bodies`),
tokens (`enclave.jwt`).
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, Final, TypeAlias

from cryptography import x509

from ledgerd.enclave.callers import Authenticate, Caller, Policy, Tables, field_of
from ledgerd.enclave.jwt.bearer import Verified
from ledgerd.enclave.jwt.bearer import authenticate as authenticate_bearer
from ledgerd.enclave.requests import Request
from ledgerd.enclave.signed_bodies import signed_body
from ledgerd.governance import tables
from ledgerd.ledger.errors import RequestError, UsageError

Named: TypeAlias = str | Policy | Mapping[str, Sequence[str]]
"""How an endpoint names a policy: by its name, by itself, or as `{"all_of": [names]}`, each of which must accept."""

_ALL_OF: Final = "all_of"


@lru_cache(maxsize=512)
def _validity(certificate: bytes) -> tuple[int, int] | None:
    """First and last second of a certificate, since 1970; None where nobody can read them."""
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        return int(parsed.not_valid_before_utc.timestamp()), int(parsed.not_valid_after_utc.timestamp())
    except Exception:  # of a stranger's bytes; the library's list of what it raises is long and grows
        return None


def _out_of_date(request: Request) -> str | None:
    """Why the session's certificate does not count at this time; None if it does."""
    certificate = request.certificate
    assert certificate is not None, "asked for callers that have shown one"
    validity = _validity(certificate)
    if validity is None:
        return "The caller's certificate has no dates that can be read"
    first, last = validity
    now = request.now_s
    if now < first:
        return f"Current time {now} is before certificate's Not Before validity period {first}"
    if now > last:
        return f"Current time {now} is after certificate's Not After validity period {last}"
    return None


def _certificate_policy(name: str, role: str, certificates: str, info: str, data: str) -> Policy:
    missing = f"No caller {role} certificate"
    unknown = f"Could not find matching {role} certificate"

    def authenticate(request: Request, store: Tables) -> Caller | str:
        caller_id = request.caller_id
        if not caller_id:
            return missing
        late = _out_of_date(request)
        if late is not None:
            return late
        key = caller_id.encode()
        registered = store.get(certificates, key)
        if registered is None:
            return unknown
        return Caller(name, caller_id, request.certificate, partial(field_of, store, info, key, data), registered=registered)

    return Policy(name, authenticate, reads_tables=True, security=None)


def _any_cert(request: Request, store: Tables) -> Caller | str:
    if not request.caller_id:
        return "No caller certificate"
    return _out_of_date(request) or Caller("any_cert", request.caller_id, request.certificate)


def _jwt(request: Request, store: Tables) -> Caller | str:
    authorization = request.headers.get("authorization")
    found = authenticate_bearer(authorization, _VERIFIED, lambda key: store.get(tables.JWT_KEYS, key), request.now_s)
    return found if isinstance(found, str) else Caller("jwt", found.id, None, token=found.shown)


# What a row of the table makes of a token is the same for every node and every state.
_VERIFIED: Final = Verified()
_BEARER: Final = {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
_BEARER_CHALLENGE: Final = 'Bearer realm="JWT bearer token access", error="invalid_token"'


def _no_auth(request: Request, store: Tables) -> Caller | str:
    return NOBODY


NOBODY: Final = Caller("no_auth", "", None)
NO_AUTH: Final = Policy("no_auth", _no_auth, reads_tables=False, security=None)

_USERS: Final = (tables.USER_CERTS, tables.USER_INFO, "user_data")
_MEMBERS: Final = (tables.MEMBER_CERTS, tables.MEMBER_INFO, "member_data")

POLICIES: Final[dict[str, Policy]] = {
    policy.name: policy
    for policy in (
        _certificate_policy("user_cert", "user", *_USERS),
        _certificate_policy("member_cert", "member", *_MEMBERS),
        Policy("any_cert", _any_cert, reads_tables=False, security=None),
        Policy("jwt", _jwt, reads_tables=True, security=_BEARER, challenge=_BEARER_CHALLENGE),
        signed_body("user_cose_sign1", "user", *_USERS),
        signed_body("member_cose_sign1", "member", *_MEMBERS),
        NO_AUTH,
    )
}


def all_of(policies: Iterable[Policy]) -> Policy:
    """The policy that accepts whom all of these accept. As in CCF they are tried, and named, by the order of their names.

    Raises: UsageError: There is none, one is there twice, or one is itself of several.
    """
    parts = tuple(sorted(policies, key=lambda policy: policy.name))
    names = [part.name for part in parts]
    if not parts or len(set(names)) != len(names) or any(part.parts for part in parts):
        raise UsageError(f"all_of needs policies that are different and simple, not {names}")
    name = "+".join(names)

    def authenticate(request: Request, store: Tables) -> Caller | str:
        found: dict[str, Caller] = {}
        for part in parts:
            caller = part.authenticate(request, store)
            if not isinstance(caller, Caller):
                return f"{part.name}: {caller}"
            found[part.name] = caller
        # Who is known by an id is the same to idempotency keys and to `caller.id`, whatever else was asked of it.
        first = next((caller for caller in found.values() if caller.id), None)
        return Caller(name, first.id if first is not None else "", request.certificate, parts=found)

    challenge = next((part.challenge for part in parts if part.challenge), "")
    return Policy(name, authenticate, any(part.reads_tables for part in parts), None, challenge, parts)


def resolve(names: Iterable[Named]) -> tuple[Policy, ...]:
    """The policies of these names; one that is given itself needs none.

    Raises: UsageError: There is no policy of that name, or it is not one that can be asked for.
    """
    return tuple(_resolve(name) for name in names)


def _resolve(name: Named) -> Policy:
    if isinstance(name, Policy):
        return name
    if isinstance(name, str):
        if name not in POLICIES:
            raise UsageError(f"there is no authentication policy {name!r}; known are {', '.join(POLICIES)}")
        return POLICIES[name]
    parts: Any = name.get(_ALL_OF) if isinstance(name, Mapping) and len(name) == 1 else None  # a table's record may say anything
    if not isinstance(parts, list | tuple):
        raise UsageError('a policy is a name, or {"all_of": [names]}')
    return all_of(_resolve(part) for part in parts)


def authenticate(request: Request, store: Tables, policies: tuple[Policy, ...]) -> Caller | None:
    """The caller by the first policy that accepts; None where no policy is asked for.

    Raises: RequestError: 401 InvalidAuthenticationInfo with one detail per policy.
    """
    if not policies:
        return None
    details = []
    for policy in policies:
        found = policy.authenticate(request, store)
        if type(found) is Caller:
            return found
        details.append({"auth_policy": policy.name, "code": "InvalidAuthenticationInfo", "message": str(found)})
    challenges = dict.fromkeys(policy.challenge for policy in policies if policy.challenge)
    headers = tuple(("www-authenticate", challenge) for challenge in challenges)
    raise RequestError(401, "InvalidAuthenticationInfo", "Invalid authentication credentials.", headers, tuple(details))


__all__ = [
    "NOBODY",
    "NO_AUTH",
    "POLICIES",
    "Authenticate",
    "Caller",
    "Named",
    "Policy",
    "Tables",
    "all_of",
    "authenticate",
    "resolve",
]
