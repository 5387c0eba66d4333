"""What exists: endpoints, what their handlers are given, and how a path finds its endpoint.

Law: per verb, a path without parameters goes before a template; within a template, literal segments go before parameters.
A path is matched as it was sent: only the values of parameters are percent-decoded, so no path has two spellings that differ in rights.
Not here: running a handler (`enclave.execution`), the document that describes endpoints (`enclave.openapi`).
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple, TypeAlias
from urllib.parse import parse_qsl, unquote_to_bytes

from ledgerd.enclave import auth
from ledgerd.enclave.kv import MapHandle, MapView, Transaction
from ledgerd.enclave.requests import TRANSACTION_ID_HEADER, Request
from ledgerd.enclave.scripts.overlay import Mark, Overlay, OverlayTransaction
from ledgerd.enclave.states import EMPTY_LEDGER, HistoricalState, Ledger, StatesWanted, check_committed, check_wanted
from ledgerd.ledger.entry import ZERO_DIGEST
from ledgerd.ledger.errors import FormatError, RequestError, UsageError
from ledgerd.ledger.ids import Seqno, TransactionId, View, parse_entry_id

Forwarding: TypeAlias = Literal["always", "sometimes", "never"]
METHODS: Final = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")

_PARAMETER: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_.-]*)\}(?::([A-Za-z0-9_.-]+))?")
_BROKEN_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


class Deferred(NamedTuple):
    """A built-in handler's promise: the enclave's core answers later. `what` says whom to ask, `data` is theirs.

    For example `Deferred("receipt", (transaction_id, COSE))` while entries are fetched.
    """

    what: str
    data: Any = None


STATES: Final = "states"
"""`Deferred(STATES, (request, range))`: fetch these states for the request, and execute it again."""


class Maps:
    """The maps within the running transaction, by name: `maps["records"].get(b"key")`. This one opens every map."""

    __slots__ = ("_transaction",)

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def __getitem__(self, name: str) -> MapHandle:
        """The map `name`; maps need no creation."""
        return self._transaction.map(name)


class ApplicationMaps(Maps):
    """The maps that an application may open for writing: all but those of the service itself."""

    __slots__ = ("_names",)

    def __init__(self, transaction: Transaction) -> None:
        super().__init__(transaction)
        self._names: set[str] = set()  # that were found good; an application has tens of them, and asks with every request

    def __getitem__(self, name: str) -> MapHandle:
        """The map `name`. `public:` maps stand in the ledger in plain text, all others are sealed.

        Raises: UsageError: The name belongs to the service (`ccf.`, `ledgerd.`); some of those can be read, see `Context.governance`.
        """
        if name not in self._names:
            if name.removeprefix("public:").startswith(RESERVED) or not 0 < len(name) <= NAME_LENGTH_MAX:
                raise UsageError(f"map {name[:NAME_LENGTH_MAX]!r} is not for applications to write")
            if len(self._names) < _GOOD_NAMES_MAX:
                self._names.add(name)
        return self._transaction.map(name)


RESERVED: Final = ("ccf.", "ledgerd.")
NAME_LENGTH_MAX: Final = 256
_GOOD_NAMES_MAX: Final = 256
_READABLE: Final = ("public:ccf.gov.", "public:ccf.internal.")


class Context:
    """What a handler is given: one request and one transaction. Valid until the handler returns.

    Attributes:
        request: The request, complete.
        params: Values of the path's parameters, percent-decoded (see `Endpoint.decodes`).
        caller: Whom authentication found; None for an endpoint without policies.
        kv: The maps, as this endpoint may open them.
        range_refusal: Why a script was last refused a range of the ledger; None if it never was.
    """

    __slots__ = (
        "_ledger",
        "_query",
        "_transaction",
        "applies_writes",
        "caller",
        "claims_digest",
        "kv",
        "params",
        "range_refusal",
        "request",
    )

    def __init__(
        self,
        request: Request,
        params: dict[str, str],
        caller: auth.Caller | None,
        kv: Maps,
        transaction: Transaction,
        ledger: Ledger = EMPTY_LEDGER,
    ) -> None:
        self.request = request
        self.params = params
        self.caller = caller
        self.kv = kv
        self.claims_digest = ZERO_DIGEST
        self.applies_writes: bool | None = None
        self.range_refusal: RequestError | None = None
        self._transaction = transaction
        self._ledger = ledger
        self._query: dict[str, str] | None = None

    @property
    def overlay(self) -> Overlay:
        """What a scripted request has read and would write (`enclave.scripting`). Raises: UsageError: The endpoint is not scripted."""
        transaction = self._transaction
        if not isinstance(transaction, OverlayTransaction):
            raise UsageError("only scripted endpoints have an overlay")
        return transaction.overlay

    def mark(self) -> tuple[Mark, bytes, bool | None]:
        """What scripts have done so far, for `go_back`."""
        return self.overlay.mark(), self.claims_digest, self.applies_writes

    def go_back(self, mark: tuple[Mark, bytes, bool | None]) -> None:
        """Undo what they have done since: one is run again."""
        written, self.claims_digest, self.applies_writes = mark
        self.overlay.go_back(written)

    @property
    def touched(self) -> bool:
        """Some map was opened, so that the answer depends on the state."""
        return self._transaction.touched

    @property
    def query(self) -> dict[str, str]:
        """Parameters of the query, decoded.

        Raises: RequestError: 400 InvalidQueryParameterValue, the query is not well-formed, or names one twice.
        """
        query = self._query
        if query is None:
            query = self._query = parse_query(self.request.query)
        return query

    def governance(self, name: str) -> MapView:
        """A public map of the service (`public:ccf.gov.`, `public:ccf.internal.`), as last applied, for reading only.

        Raises: UsageError: Any other map.
        """
        if not name.startswith(_READABLE):
            raise UsageError(f"map {name[:NAME_LENGTH_MAX]!r} is not a public map of the service")
        self._transaction.touched = True
        return self._transaction.applied(name)

    def set_claims_digest(self, digest: bytes) -> None:
        """Bind 32 bytes to the transaction, usually SHA-256 of claims; they are in its receipt for anyone to compare.

        Raises: UsageError: It is not 32 bytes.
        """
        if type(digest) is not bytes or len(digest) != 32:
            raise UsageError("a claims digest is 32 bytes")
        self.claims_digest = digest

    def set_apply_writes(self, apply: bool) -> None:
        """Apply (or discard) the transaction's writes whatever the status; by default they are applied for 2xx only."""
        self.applies_writes = apply

    # The ledger, as this node knows it.

    @property
    def committed(self) -> TransactionId:
        """The last committed transaction."""
        return self._ledger.committed

    def status_of(self, transaction: TransactionId) -> str:
        """Unknown, Pending, Committed or Invalid; the last two are final, the others may be otherwise a moment later."""
        return self._ledger.status_of(transaction)

    def view_of(self, seqno: int) -> View | None:
        """The view of an entry of this node's log, committed or not; None if there is no such entry here."""
        return self._ledger.view_of(Seqno(seqno))

    def states(self, first: int, last: int) -> list[HistoricalState]:
        """What committed entries `first` to `last` wrote, each with its receipt.

        Where they are not at hand, this does not return: the handler is left, the node fetches and checks them, and the handler is called
        again from its first line. All that a request asks for together is bounded as one range is.

        Raises: RequestError: 400 or 404, there is no such range, it is too large, or it is not committed; later, if the node cannot get
            them, the client is told so, and the handler is not called again.
        """
        wanted = (first, last)
        there = self.request.states
        if there is not None and wanted in there:
            return there[wanted]
        check_wanted(first, last, self._ledger.committed.seqno, there)
        raise StatesWanted(wanted)

    @property
    def historical(self) -> HistoricalState:
        """The state of the transaction that the request's header `x-ms-ccf-transaction-id` names; gets it as `states` does.

        Raises: RequestError: 400 MissingRequiredHeader, InvalidHeaderValue; 404 TransactionInvalid, TransactionPendingOrUnknown.
        """
        text = self.request.headers.get(TRANSACTION_ID_HEADER)
        if text is None:
            raise RequestError(400, "MissingRequiredHeader", f"Historical query is missing '{TRANSACTION_ID_HEADER}' header.")
        try:
            transaction = parse_entry_id(text)
        except FormatError as error:
            raise RequestError(400, "InvalidHeaderValue", f"The value of header '{TRANSACTION_ID_HEADER}' is not one: {error}.") from None
        check_committed(transaction, self._ledger.status_of(transaction))
        return self.states(transaction.seqno, transaction.seqno)[0]


Result: TypeAlias = Any
"""Response | Deferred | None (204) | str (text/plain) | bytes (application/octet-stream) | any JSON value (application/json)."""

Handler: TypeAlias = Callable[[Context], Result]


class Endpoint:
    """One verb on one path template.

    Args:
        method: Upper-case verb.
        template: Path under the registry's prefix, for example `/records/{key}` or `/proposals/{id}:withdraw`.
        handler: Called with a Context; may raise RequestError.
        policies: Authentication policies in the order in which they are tried; none means no authentication at all.
        readonly: Writing is refused; by default for GET and HEAD.
        forwarding: When a backup passes the request to the primary: `always` (by default for endpoints that write), `sometimes` (by default
            for others: executed here, and passed on only if it has written), `never`.
        system: The handler may open every map. Applications' endpoints may not.
        scripted: The handler is a generator that has scripts run: see `enclave.scripting`.
        operation: OpenAPI operation object; what it leaves out is filled in.
        schemas: JSON schemas of the named types that `operation` refers to.
        hidden: Not in the OpenAPI document.
        decodes: Values of the path's parameters are percent-decoded; otherwise they are as they were sent, whatever that is.
    Attributes:
        in_turn: Such requests are done one after the other, by turns of callers: what one has read, the others do not change.
        is_gone: The endpoint was replaced; a request that still runs must be looked up again.
    Raises: UsageError: The template or a policy is malformed.
    """

    __slots__ = (
        "decodes",
        "forwarding",
        "handler",
        "hidden",
        "in_turn",
        "is_gone",
        "is_open",
        "label",
        "method",
        "names",
        "operation",
        "policies",
        "readonly",
        "reads_tables",
        "schemas",
        "scripted",
        "system",
        "template",
    )

    def __init__(
        self,
        method: str,
        template: str,
        handler: Handler,
        *,
        policies: Iterable[auth.Named] = ("no_auth",),
        readonly: bool | None = None,
        forwarding: Forwarding | None = None,
        system: bool = True,
        scripted: bool = False,
        in_turn: bool = False,
        operation: Mapping[str, Any] | None = None,
        schemas: Mapping[str, Any] | None = None,
        hidden: bool = False,
        decodes: bool = True,
    ) -> None:
        if method not in METHODS:
            raise UsageError(f"{method!r} is not one of the verbs {', '.join(METHODS)}")
        self.method = method
        self.template = template
        self.handler = handler
        self.policies = auth.resolve(policies)
        self.reads_tables = any(policy.reads_tables for policy in self.policies)
        self.is_open = self.policies[:1] == (auth.NO_AUTH,)
        self.readonly = method in ("GET", "HEAD") if readonly is None else readonly
        self.forwarding: Forwarding = forwarding or ("sometimes" if self.readonly else "always")
        self.system = system
        self.scripted = scripted
        self.in_turn = in_turn
        self.operation = dict(operation or {})
        self.schemas = dict(schemas or {})
        self.hidden = hidden
        self.decodes = decodes
        self.is_gone = False
        self.names = tuple(match[0] for _, match in _parse_template(template) if match)
        self.label = f"{method} {template}"  # set by the registry with its prefix; of bounded number, so fit for metrics
        if len(set(self.names)) != len(self.names):
            raise UsageError(f"{template} names a parameter twice")


# Each is asked for more than once, and by each node that starts in a process.
@lru_cache(maxsize=1024)
def _parse_template(template: str) -> tuple[tuple[str, tuple[str, str] | None], ...]:
    """Segments of a template: (literal, None) or ("", (parameter name, action or ""))."""
    if not template.startswith("/"):
        raise UsageError(f"path template {template!r} does not begin with a slash")
    segments: list[tuple[str, tuple[str, str] | None]] = []
    for segment in template[1:].split("/"):
        match = _PARAMETER.fullmatch(segment)
        if match is not None:
            segments.append(("", (match[1], match[2] or "")))
        elif "{" in segment or "}" in segment:
            raise UsageError(f"segment {segment!r} of {template} is neither a literal nor {{name}} nor {{name}}:action")
        else:
            segments.append((segment, None))
    return tuple(segments)


def shape(template: str) -> str:
    """A template without the names of its parameters: those of one shape take the same requests. Raises: UsageError: It is none."""
    parts = (literal if match is None else f"{{}}:{match[1]}" for literal, match in _parse_template(template))
    return "/" + "/".join(parts)


class _Node:
    """One segment deep in the tree of templates of one verb."""

    __slots__ = ("actions", "endpoint", "literals", "parameter")

    def __init__(self) -> None:
        self.endpoint: Endpoint | None = None
        self.literals: dict[str, _Node] = {}
        self.parameter: _Node | None = None
        self.actions: dict[str, _Node] = {}


class Registry:
    """The endpoints under one prefix, such as `app`, `node`, `gov`."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._static: dict[str, dict[str, Endpoint]] = {method: {} for method in METHODS}
        self._roots: dict[str, _Node] = {method: _Node() for method in METHODS}
        # A short cut to templates whose one parameter is the last segment, by what stands before it.
        self._prefixes: dict[str, dict[str, Endpoint]] = {method: {} for method in METHODS}

    def __iter__(self) -> Iterator[Endpoint]:
        """Every endpoint, by path and verb."""
        return iter(sorted(self._all(), key=lambda endpoint: (endpoint.template, endpoint.method)))

    def _all(self) -> Iterator[Endpoint]:
        for static in self._static.values():
            yield from static.values()
        stack = list(self._roots.values())
        while stack:
            node = stack.pop()
            if node.endpoint is not None:
                yield node.endpoint
            stack.extend((*node.literals.values(), *node.actions.values()))
            if node.parameter is not None:
                stack.append(node.parameter)

    def add(self, endpoint: Endpoint) -> None:
        """Make the endpoint reachable under `/PREFIX`.

        Raises: UsageError: Verb and path are taken.
        """
        path = f"/{self.prefix}{endpoint.template}"
        endpoint.label = f"{endpoint.method} {path}"
        if not endpoint.names:
            if self._static[endpoint.method].setdefault(path, endpoint) is not endpoint:
                raise UsageError(f"{endpoint.label} is there already")
            return
        node = self._roots[endpoint.method]
        for literal, parameter in _parse_template(path):
            if parameter is None:
                node = node.literals.setdefault(literal, _Node())
            elif parameter[1]:
                node = node.actions.setdefault(parameter[1], _Node())
            else:
                if node.parameter is None:
                    node.parameter = _Node()
                node = node.parameter
        if node.endpoint is not None:
            raise UsageError(f"{endpoint.label} is there already, as {node.endpoint.label}")
        node.endpoint = endpoint
        before, _, last = path.rpartition("/")
        if ":" in last:
            self._prefixes[endpoint.method].pop(before, None)  # the way down the tree tells an action from a value
        elif len(endpoint.names) == 1 and last.startswith("{"):
            parent = self._roots[endpoint.method]
            for literal in before.split("/")[1:]:
                parent = parent.literals[literal]
            if not parent.actions:
                self._prefixes[endpoint.method][before] = endpoint

    def become(self, other: "Registry") -> None:
        """Have the endpoints of another registry with the same prefix, and no others."""
        self._static, self._roots, self._prefixes = other._static, other._roots, other._prefixes

    def match(self, method: str, path: str) -> tuple[Endpoint, dict[str, str]]:
        """Find the endpoint for a request's verb and whole path, prefix included, and the values of the path's parameters.

        Raises: RequestError: 404 ResourceNotFound; 405 UnsupportedHttpVerb with `allow`; 400 InvalidResourceName for a broken escape.
        """
        static = self._static.get(method)
        if static is not None:
            endpoint = static.get(path)
            if endpoint is not None:
                return endpoint, {}
            before, _, value = path.rpartition("/")
            endpoint = self._prefixes[method].get(before)
            if endpoint is not None and value:
                return endpoint, {endpoint.names[0]: decode_segment(value) if "%" in value and endpoint.decodes else value}
            values: list[str] = []
            endpoint = _find(self._roots[method], path.split("/"), values)
            if endpoint is not None:
                if "%" in path and endpoint.decodes:
                    values = [decode_segment(value) for value in values]
                return endpoint, dict(zip(endpoint.names, values, strict=True))
        shown = path if len(path) <= 256 else path[:256] + "..."
        allowed = self.allowed(path)
        if not allowed:
            raise RequestError(404, "ResourceNotFound", f"Unknown path: {shown}.")
        allow = ", ".join(("OPTIONS", *allowed))
        raise RequestError(405, "UnsupportedHttpVerb", f"Allowed methods for '{shown}' are: {allow}.", headers=(("allow", allow),))

    def allowed(self, path: str) -> list[str]:
        """Verbs that `path` knows, sorted; none if there is no such path."""
        segments = path.split("/")
        return [method for method in METHODS if path in self._static[method] or _find(self._roots[method], segments, []) is not None]


def _find(root: _Node, segments: list[str], values: list[str]) -> Endpoint | None:
    """Walk down the tree, literals first; go the careful way where a node left a choice."""
    node = root
    for segment in segments[1:]:
        child = node.literals.get(segment)
        if node.actions or (child is not None and node.parameter is not None):
            values.clear()
            return _search(root, segments, 1, values)
        if child is None:
            child = node.parameter
            if child is None or not segment:
                return None
            values.append(segment)
        node = child
    return node.endpoint


def _search(node: _Node, segments: list[str], index: int, values: list[str]) -> Endpoint | None:
    """As `_find`, with backtracking; the depth is bounded by the longest template."""
    if index == len(segments):
        return node.endpoint
    segment = segments[index]
    value, colon, action = segment.rpartition(":")
    choices = (
        (node.literals.get(segment), None),
        (node.actions.get(action) if colon and value else None, value),
        (node.parameter if segment else None, segment),
    )
    for child, taken in choices:
        if child is None:
            continue
        before = len(values)
        if taken is not None:
            values.append(taken)
        endpoint = _search(child, segments, index + 1, values)
        if endpoint is not None:
            return endpoint
        del values[before:]
    return None


def decode_segment(value: str) -> str:
    """Percent-decode one path segment.

    Raises: RequestError: 400 InvalidResourceName, an escape is broken or the bytes are not UTF-8.
    """
    try:
        if _BROKEN_ESCAPE.search(value):
            raise ValueError
        return unquote_to_bytes(value).decode()
    except ValueError:
        raise RequestError(400, "InvalidResourceName", "A percent-escape in the path is broken, or is not UTF-8.") from None


def parse_query(query: str) -> dict[str, str]:
    """Decode a raw query string.

    Raises: RequestError: 400 InvalidQueryParameterValue, it is not well-formed, or names a parameter twice: which of them
        counts would be a matter of taste.
    """
    if not query:
        return {}
    try:
        if _BROKEN_ESCAPE.search(query):
            raise ValueError
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=256)
    except ValueError:
        raise RequestError(400, "InvalidQueryParameterValue", "The query is not well-formed.") from None
    found = dict(pairs)
    if len(found) != len(pairs):
        raise RequestError(400, "InvalidQueryParameterValue", "The query names a parameter twice.")
    return found
