"""Who asks: authentication policies, tried in the order in which an endpoint names them.

Law: TLS proves possession of a key and no more; who the caller is, is decided by the tables, at every request.
So a removed user is out at its next request. Texts and codes are CCF's, on which clients may rely.
Not here: TLS (`enclave.tls`), which endpoint asks for what (`enclave.endpoints`).
"""

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, TypeAlias

from ledgerd.enclave.kv import Store
from ledgerd.enclave.requests import Request
from ledgerd.governance import tables
from ledgerd.ledger.errors import RequestError, UsageError


class Caller:
    """Whom a policy has found.

    Attributes:
        policy: Name of the policy that accepted.
        id: Hex SHA-256 of the DER certificate for certificate policies; "" where the policy knows nobody.
        certificate: DER, or None.
    """

    __slots__ = ("_info", "certificate", "id", "policy")

    def __init__(self, policy: str, caller_id: str, certificate: bytes | None, info: Callable[[], Any] | None = None) -> None:
        self.policy = policy
        self.id = caller_id
        self.certificate = certificate
        self._info = info

    @property
    def data(self) -> Any:
        """`user_data` or `member_data` as governance has set it (JSON value), or None."""
        return self._info() if self._info is not None else None


Authenticate: TypeAlias = Callable[[Request, Store], "Caller | str"]
"""Returns the caller, or why this policy refuses it. Must not change the store."""


class Policy(NamedTuple):
    """One way to authenticate.

    Attributes:
        name: As written in an endpoint's policies, and in `auth_policy` of a refusal.
        authenticate: Looks the caller up.
        reads_tables: The answer depends on the state, so it carries a transaction id even if the handler opens no map.
        security: OpenAPI security scheme; None where OpenAPI 3.0 has no words for it, as for client certificates.
    """

    name: str
    authenticate: Authenticate
    reads_tables: bool
    security: dict[str, str] | None


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
        NO_AUTH,
    )
}


def resolve(names: Iterable[str]) -> tuple[Policy, ...]:
    """The policies of these names.

    Raises: UsageError: There is no policy of that name.
    """
    policies = []
    for name in names:
        if name not in POLICIES:
            raise UsageError(f"there is no authentication policy {name!r}; known are {', '.join(POLICIES)}")
        policies.append(POLICIES[name])
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
    raise RequestError(401, "InvalidAuthenticationInfo", "Invalid authentication credentials.", details=tuple(details))
