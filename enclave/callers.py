"""Whom authentication finds, and what a policy is: the words that all policies share.

Not here: the policies (`enclave.auth` and the modules that it names).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

from ledgerd.enclave.requests import Request
from ledgerd.governance import tables
from ledgerd.governance.requests import SignedRequest


class Tables(Protocol):
    """The state as far as a policy may look at it; what it has looked at, it depends on."""

    def get(self, map_name: str, key: bytes, /) -> bytes | None:
        """The value of a key, or None."""


def field_of(store: Tables, map_name: str, key: bytes, field: str) -> Any:
    """One field of a record (JSON value), or None without it."""
    record = store.get(map_name, key)
    return tables.decode(record).get(field) if record is not None else None


class Caller:
    """Whom a policy has found.

    Attributes:
        policy: Name of the policy that accepted; of `all_of` the names of its parts, joined by `+`.
        id: Hex SHA-256 of the DER certificate for users and members, of issuer and subject for tokens; "" where nobody is
            known by an id.
        certificate: DER of the session's certificate, for policies that ask for one; None otherwise.
        signed: The request that a member has signed for the service, for endpoints of `/gov`.
        content: What was signed, for policies of signed requests.
        parts: For `all_of`, whom each of its policies has found, by its name.
    """

    __slots__ = ("_info", "_registered", "_token", "certificate", "content", "id", "parts", "policy", "signed")

    def __init__(
        self,
        policy: str,
        caller_id: str,
        certificate: bytes | None,
        info: Callable[[], Any] | None = None,
        signed: SignedRequest | None = None,
        *,
        registered: bytes | None = None,
        content: bytes | None = None,
        token: Callable[[], dict[str, Any]] | None = None,
        parts: "Mapping[str, Caller] | None" = None,
    ) -> None:
        self.policy = policy
        self.id = caller_id
        self.certificate = certificate
        self.signed = signed
        self.content = content
        self._token = token
        self.parts = parts or {}
        self._info = info
        self._registered = registered

    @property
    def data(self) -> Any:
        """`user_data` or `member_data` as governance has set it (JSON value), or None."""
        return self._info() if self._info is not None else None

    @property
    def jwt(self) -> dict[str, Any] | None:
        """`keyIssuer`, `header` and `payload` of the caller's token (JSON values, made at each call), or None without one."""
        return self._token() if self._token is not None else None

    @property
    def pem(self) -> str | None:
        """The certificate as governance has registered it, PEM; None for who is not registered."""
        return self._registered.decode(errors="replace") if self._registered is not None else None


Authenticate: TypeAlias = Callable[[Request, Tables], "Caller | str"]
"""Returns the caller, or why this policy refuses it. It looks at nothing but its arguments."""


class Policy(NamedTuple):
    """One way to authenticate.

    Attributes:
        name: As written in an endpoint's policies, and in `auth_policy` of a refusal.
        authenticate: Looks the caller up.
        reads_tables: The answer depends on the state, so it carries a transaction id even if the handler opens no map.
        security: OpenAPI security scheme; None where OpenAPI 3.0 has no words for it, as for client certificates.
        challenge: For `www-authenticate` of a refusal; "" for none.
        parts: Of `all_of`, the policies of which each must accept.
    """

    name: str
    authenticate: Authenticate
    reads_tables: bool
    security: dict[str, str] | None
    challenge: str = ""
    parts: "tuple[Policy, ...]" = ()
