"""Who asks: authentication policies, tried in the order in which an endpoint names them.

Law: TLS proves possession of a key and no more; who the caller is, is decided by the tables, at every request.
So a removed user is out at its next request. Texts and codes are CCF's, on which clients may rely.
Not here: TLS (`enclave.tls`), which endpoint asks for what (`enclave.endpoints`).
"""

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, TypeAlias

from ledgerd.enclave.jwt.bearer import Bearer, Verified
from ledgerd.enclave.jwt.bearer import authenticate as authenticate_bearer
from ledgerd.enclave.keys import parse_certificate
from ledgerd.enclave.kv import Store
from ledgerd.enclave.requests import COSE, Request
from ledgerd.governance import requests, tables
from ledgerd.governance.requests import SignedRequest
from ledgerd.ledger.errors import FormatError, IntegrityError, RequestError, UsageError


class Caller:
    """Whom a policy has found.

    Attributes:
        policy: Name of the policy that accepted.
        id: Hex SHA-256 of the DER certificate for certificate policies, of issuer and subject for tokens; "" where the policy knows nobody.
        certificate: DER, or None.
        signed: The request that the caller has signed, for policies of signed requests.
    """

    __slots__ = ("_bearer", "_info", "certificate", "id", "policy", "signed")

    def __init__(
        self,
        policy: str,
        caller_id: str,
        certificate: bytes | None,
        info: Callable[[], Any] | None = None,
        signed: SignedRequest | None = None,
        bearer: Bearer | None = None,
    ) -> None:
        self.policy = policy
        self.id = caller_id
        self.certificate = certificate
        self.signed = signed
        self._info = info
        self._bearer = bearer

    @property
    def data(self) -> Any:
        """`user_data` or `member_data` as governance has set it (JSON value), or None."""
        return self._info() if self._info is not None else None

    @property
    def jwt(self) -> dict[str, Any] | None:
        """`keyIssuer`, `header` and `payload` of the caller's token (JSON values, made at each call), or None without one."""
        return self._bearer.shown() if self._bearer is not None else None


Authenticate: TypeAlias = Callable[[Request, Store], "Caller | str"]
"""Returns the caller, or why this policy refuses it. Must not change the store."""


class Policy(NamedTuple):
    """One way to authenticate.

    Attributes:
        name: As written in an endpoint's policies, and in `auth_policy` of a refusal.
        authenticate: Looks the caller up.
        reads_tables: The answer depends on the state, so it carries a transaction id even if the handler opens no map.
        security: OpenAPI security scheme; None where OpenAPI 3.0 has no words for it, as for client certificates.
        challenge: For `www-authenticate` of a refusal; "" for none.
    """

    name: str
    authenticate: Authenticate
    reads_tables: bool
    security: dict[str, str] | None
    challenge: str = ""


def _certificate_policy(name: str, role: str, certificates: str, info: str, data: str) -> Policy:
    missing = f"No caller {role} certificate"
    unknown = f"Could not find matching {role} certificate"

    def authenticate(request: Request, store: Store) -> Caller | str:
        caller_id = request.caller_id
        if not caller_id:
            return missing
        key = caller_id.encode()
        if store.get(certificates, key) is None:
            return unknown

        def caller_data() -> Any:
            record = store.get(info, key)
            return tables.decode(record).get(data) if record is not None else None

        return Caller(name, caller_id, request.certificate, caller_data)

    return Policy(name, authenticate, reads_tables=True, security=None)


def signed_by_member(kind: str, *, active: bool = True) -> Policy:
    """The policy of an endpoint whose body is a COSE Sign1 of a member's, whoever has sent it: the session's certificate does not matter.

    For /gov only: an application must not be handed what was signed for the service.

    Args:
        kind: What the request must say that it is, one of `requests.TYPES`.
        active: The member must be Active; otherwise one that has not acknowledged yet is taken, too.
    """

    def authenticate(request: Request, store: Store) -> Caller | str:
        if request.headers.get("content-type") != COSE:
            return f"Missing or unexpected content type: a signed request is {COSE}"
        try:
            signed = requests.read(request.body)
        except FormatError as error:
            return f"Failed to parse the signed request: {error}"
        key = signed.member_id.encode()
        certificate, info = store.get(tables.MEMBER_CERTS, key), store.get(tables.MEMBER_INFO, key)
        if certificate is None or info is None:
            return "Signer is not a known member"
        try:
            requests.verify(signed, parse_certificate(certificate.decode()))
        except IntegrityError as error:
            return f"Failed to verify the signed request: {error}"
        if signed.kind != kind:
            return f"The request is signed as a {signed.kind}, not as a {kind}: {requests.HEADER_TYPE} must say {kind}"
        member = tables.decode(info)
        if active and member["status"] != tables.ACTIVE:
            return "Signer is not an active member"
        return Caller("member_cose_sign1", signed.member_id, None, lambda: member.get("member_data"), signed)

    return Policy(
        "member_cose_sign1", authenticate, reads_tables=True, security=_SIGNED, challenge='COSE-SIGN1 realm="Signed request access"'
    )


_SIGNED: Final = {"type": "http", "scheme": "cose_sign1", "description": "The body is a COSE_Sign1 with CCF's headers, by a member's key."}


def _jwt(request: Request, store: Store) -> Caller | str:
    found = authenticate_bearer(
        request.headers.get("authorization"), _VERIFIED, lambda key: store.get(tables.JWT_KEYS, key), request.clock()
    )
    return found if isinstance(found, str) else Caller("jwt", found.id, None, bearer=found)


# Of a token's signature by the bytes of a key, which is the same for every node and every state.
_VERIFIED: Final = Verified()
_BEARER: Final = {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}


def _any_cert(request: Request, store: Store) -> Caller | str:
    if not request.caller_id:
        return "No caller certificate"
    return Caller("any_cert", request.caller_id, request.certificate)


def _no_auth(request: Request, store: Store) -> Caller | str:
    return NOBODY


NOBODY: Final = Caller("no_auth", "", None)
NO_AUTH: Final = Policy("no_auth", _no_auth, reads_tables=False, security=None)

POLICIES: Final[dict[str, Policy]] = {
    policy.name: policy
    for policy in (
        _certificate_policy("user_cert", "user", tables.USER_CERTS, tables.USER_INFO, "user_data"),
        _certificate_policy("member_cert", "member", tables.MEMBER_CERTS, tables.MEMBER_INFO, "member_data"),
        Policy("any_cert", _any_cert, reads_tables=False, security=None),
        Policy(
            "jwt",
            _jwt,
            reads_tables=True,
            security=_BEARER,
            challenge='Bearer realm="JWT bearer token access", error="invalid_token"',
        ),
        NO_AUTH,
    )
}


def resolve(names: Iterable[str | Policy]) -> tuple[Policy, ...]:
    """The policies of these names; one that is given itself needs none.

    Raises: UsageError: There is no policy of that name.
    """
    policies = []
    for name in names:
        if isinstance(name, Policy):
            policies.append(name)
        elif name in POLICIES:
            policies.append(POLICIES[name])
        else:
            raise UsageError(f"there is no authentication policy {name!r}; known are {', '.join(POLICIES)}")
    return tuple(policies)


def authenticate(request: Request, store: Store, policies: tuple[Policy, ...]) -> Caller | None:
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
    headers = tuple(("www-authenticate", policy.challenge) for policy in policies if policy.challenge)
    raise RequestError(401, "InvalidAuthenticationInfo", "Invalid authentication credentials.", headers, tuple(details))
