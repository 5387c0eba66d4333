"""What anybody may read of governance, at `/gov/service`: the tables, in CCF's words, and where a transaction stands.

Not here: the words (`governance.descriptions`), nodes as they are at this moment (`/node/network`, in `enclave.frontend`).
"""

from typing import Any, Final, Protocol

from ledgerd.enclave.endpoints import Context, Registry, Result
from ledgerd.enclave.governing.api import JAVASCRIPT, id_in_path, javascript, reading
from ledgerd.enclave.kv import MapView
from ledgerd.governance import descriptions, tables
from ledgerd.ledger.errors import FormatError, RequestError
from ledgerd.ledger.ids import TransactionId, parse_entry_id

_MISSING: Final = {404: "ResourceNotFound"}
_BY_ID: Final = {400: "InvalidResourceName", 404: "ResourceNotFound"}


class Node(Protocol):
    """What these endpoints ask of the node that they run on."""

    @property
    def committed(self) -> TransactionId: ...
    @property
    def view_history(self) -> list[TransactionId]: ...
    def status_of(self, transaction: TransactionId) -> str: ...


class ServiceState:
    """The endpoints."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def add_to(self, registry: Registry) -> None:
        """Add them."""
        case = {
            "name": "case",
            "in": "query",
            "required": False,
            "schema": {"type": "string", "enum": ["original"]},
            "description": "With it, properties as they were installed.",
        }
        for path, handler, summary, answer, refusals, query in (
            ("/constitution", _constitution, "The constitution.", JAVASCRIPT, _MISSING, ()),
            ("/info", self._info, "The service.", descriptions.ServiceInfo, _MISSING, ()),
            (
                "/javascript-app",
                _app,
                "Endpoints of the application in JavaScript.",
                descriptions.JavaScriptApp,
                {400: "InvalidQueryParameterValue"},
                (case,),
            ),
            ("/javascript-modules", _modules, "Its modules.", descriptions.JavaScriptModules, {}, ()),
            ("/javascript-modules/{moduleName}", _module, "One of its modules.", JAVASCRIPT, _MISSING, ()),
            ("/join-policy", _join_policy, "What a node has to show to join.", descriptions.JoinPolicy, {}, ()),
            ("/jwk", _jwk, "Which tokens the service takes.", descriptions.JwtInfo, {}, ()),
            ("/members", _members, "All members.", descriptions.Members, {}, ()),
            ("/members/{memberId}", _member, "One member.", descriptions.Member, _BY_ID, ()),
            ("/users", _users, "All users.", descriptions.Users, {}, ()),
            ("/users/{userId}", _user, "One user.", descriptions.User, _BY_ID, ()),
            ("/nodes", _nodes, "All nodes.", descriptions.Nodes, {}, ()),
            ("/nodes/{nodeId}", _one_node, "One node.", descriptions.Node, _BY_ID, ()),
            ("/transactions/commit", self._commit, "The last committed transaction.", descriptions.TransactionStatus, {}, ()),
            (
                "/transactions/{transactionId}",
                self._transaction,
                "Where a transaction stands.",
                descriptions.TransactionStatus,
                {400: "InvalidQueryParameterValue"},
                (),
            ),
        ):
            registry.add(reading(f"/service{path}", handler, summary, answer, refusals, query))

    def _info(self, context: Context) -> Result:
        info = context.governance(tables.SERVICE_INFO).get(tables.SINGLETON)
        if info is None:
            raise RequestError(404, "ResourceNotFound", "This node has not read the service's first entry yet. Ask again, or another node.")
        configuration = context.governance(tables.SERVICE_CONFIG).get(tables.SINGLETON)
        return descriptions.service(info, configuration, self._previous(tables.decode(info)))

    def _previous(self, info: dict[str, Any]) -> str | None:
        """First transaction of the service before this one, of which the record has the seqno only."""
        seqno = info.get("previous_service_identity_version")
        if seqno is None:
            return None
        view = max((first.view for first in self._node.view_history if first.seqno <= seqno), default=0)
        return f"{view}.{seqno}"

    def _commit(self, _: Context) -> Result:
        return self._status(self._node.committed)

    def _transaction(self, context: Context) -> Result:
        try:
            return self._status(parse_entry_id(context.params["transactionId"]))
        except FormatError as error:
            raise RequestError(400, "InvalidQueryParameterValue", f"transactionId is none: {error}.") from None

    def _status(self, transaction: TransactionId) -> dict[str, str]:
        return {"transactionId": str(transaction), "status": self._node.status_of(transaction)}


def _constitution(context: Context) -> Result:
    source = context.governance(tables.CONSTITUTION).get(tables.SINGLETON)
    if source is None:
        raise RequestError(404, "ResourceNotFound", "Constitution not found.")
    return javascript(tables.decode(source).encode())


def _app(context: Context) -> Result:
    case = context.query.get("case")
    if case not in (None, "original"):
        raise RequestError(400, "InvalidQueryParameterValue", "The query parameter 'case' is 'original', or not there.")
    return descriptions.javascript_app(context.governance(tables.ENDPOINTS).items(), original=case is not None)


def _modules(context: Context) -> Result:
    return descriptions.javascript_modules(context.governance(tables.MODULES).items())


def _module(context: Context) -> Result:
    name = context.params["moduleName"]
    source = context.governance(tables.MODULES).get(name.encode())
    if source is None:
        raise RequestError(404, "ResourceNotFound", f"Module {name[:256]!r} does not exist; a slash in its name is sent as %2F.")
    return javascript(source)


def _join_policy(context: Context) -> Result:
    def rows(name: str) -> descriptions.Rows:
        return context.governance(name).items()

    return descriptions.JoinPolicy(
        nitro=descriptions.nitro_join_policy(rows(tables.NITRO_MEASUREMENTS), rows(tables.NITRO_ROOTS)),
        snp=descriptions.snp_join_policy(
            rows(tables.SNP_MEASUREMENTS), rows(tables.SNP_HOST_DATA), rows(tables.SNP_UVM_ENDORSEMENTS), rows(tables.SNP_TCB_VERSIONS)
        ),
        sgx={"measurements": []},
        virtual={"measurements": [], "hostData": []},
    )


def _jwk(context: Context) -> Result:
    issuers, keys, bundles = (context.governance(name).items() for name in (tables.JWT_ISSUERS, tables.JWT_KEYS, tables.CA_CERT_BUNDLES))
    return descriptions.jwt(issuers, keys, bundles)


def _members(context: Context) -> Result:
    return {"value": [_shown_member(context, key, info) for key, info in context.governance(tables.MEMBER_INFO).items()]}


def _member(context: Context) -> Result:
    key, info = _row(context, "memberId", context.governance(tables.MEMBER_INFO), "member")
    return _shown_member(context, key, info)


def _shown_member(context: Context, key: bytes, info: bytes) -> descriptions.Member:
    certificate = context.governance(tables.MEMBER_CERTS).get(key)
    return descriptions.member(key.decode(), info, certificate, context.governance(tables.MEMBER_ENCRYPTION_KEYS).get(key))


def _users(context: Context) -> Result:
    return {"value": [_shown_user(context, key, certificate) for key, certificate in context.governance(tables.USER_CERTS).items()]}


def _user(context: Context) -> Result:
    return _shown_user(context, *_row(context, "userId", context.governance(tables.USER_CERTS), "user"))


def _shown_user(context: Context, key: bytes, certificate: bytes) -> descriptions.User:
    return descriptions.user(key.decode(), certificate, context.governance(tables.USER_INFO).get(key))


def _nodes(context: Context) -> Result:
    return {"value": [_shown_node(context, key, info) for key, info in context.governance(tables.NODE_INFO).items()]}


def _one_node(context: Context) -> Result:
    return _shown_node(context, *_row(context, "nodeId", context.governance(tables.NODE_INFO), "node"))


def _shown_node(context: Context, key: bytes, info: bytes) -> descriptions.Node:
    return descriptions.node(key.decode(), info, context.governance(tables.NODE_ENDORSED_CERTIFICATES).get(key))


def _row(context: Context, name: str, rows: MapView, what: str) -> tuple[bytes, bytes]:
    """The row of whoever the path names.

    Raises: RequestError: 400 InvalidResourceName, 404 ResourceNotFound.
    """
    named = id_in_path(context, name)
    value = rows.get(named.encode())
    if value is None:
        raise RequestError(404, "ResourceNotFound", f"There is no {what} {named}; /gov/service/{what}s lists all.")
    return named.encode(), value
