"""The application that governance has installed: its endpoints beside the others under `/app`, and running their functions.

Precedence, per verb and path, as in CCF: JavaScript, then what every service has (`/commit`, `/tx`, `/receipt`, `/api`), then the
application in the image. What members have voted for is hidden by nothing; the service's own word on a transaction stands under `/node` as
well, where no application can take its place, and where our clients ask.
Law: which endpoints there are follows the tables, forward and back; a request of an application that was replaced while it ran takes no
effect, and is looked up again.
Not here: the form of the tables (`enclave.javascript.declared`), when requests run again (`enclave.scripting`).
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

from ledgerd.enclave.built_ins import built_in
from ledgerd.enclave.endpoints import Context, Endpoint, Registry, Result, shape
from ledgerd.enclave.javascript.declared import HISTORICAL, READWRITE, Declared, read_declared
from ledgerd.enclave.javascript.foresight import Foresight
from ledgerd.enclave.javascript.options import Options, read_options
from ledgerd.enclave.javascript.requests import request_text, signed_content
from ledgerd.enclave.javascript.responses import respond, used_up
from ledgerd.enclave.kv import Store
from ledgerd.enclave.scripting import Steps
from ledgerd.enclave.scripts.access import Access
from ledgerd.enclave.scripts.jobs import Bundle, Clock, Job, Json
from ledgerd.enclave.scripts.run import Call, kind_of
from ledgerd.governance import tables
from ledgerd.ledger.errors import RequestError, UsageError

ENDPOINTS_MAX: Final = 4_096  # more stand in the table in vain: each costs memory in every node
COMPLAINTS_MAX: Final = 10  # about one application
TITLE: Final = "Application in JavaScript"
_PATH_SHOWN_MAX: Final = 256
CALLS: Final = ("rpc.setApplyWrites", "rpc.setClaimsDigest")


class Node(Protocol):
    """What applications ask of the node that they run on."""

    @property
    def now_ms(self) -> int: ...
    def log(self, level: str, text: str) -> None: ...


class JavaScriptApplication:
    """What is installed now.

    Args:
        store: The state.
        node: The node.
        registry: Of `/app`, with what every service has and nothing else.
        calls: Names of functions that every endpoint may call, beside those of this module.
        historical_calls: Those that endpoints of mode `historical` may call, too.

    Attributes:
        options: In force.
    """

    def __init__(
        self, store: Store, node: Node, registry: Registry, calls: Iterable[str] = (), historical_calls: Iterable[str] = ()
    ) -> None:
        self.options = Options()
        self._store = store
        self._node = node
        self._registry = registry
        self._built_in = list(registry)
        self._image: list[Endpoint] = []
        self._calls = (*CALLS, *calls)
        self._historical_calls = (*self._calls, *historical_calls)
        self._seen: tuple[Any, ...] = ({}, {}, None, None)
        self._installed: list[Endpoint] = []
        self._bundle = Bundle({})

    def add_image(self, endpoints: Iterable[Endpoint]) -> None:
        """Have the application in the image served, too."""
        self._image = list(endpoints)
        self._rebuild()

    def add_to(self, registry: Registry) -> None:
        """Add what `/node` tells of applications."""
        registry.add(built_in("GET", "/js_metrics", self._metrics))

    @property
    def title(self) -> str:
        """Of the OpenAPI document; "" as long as nothing is installed. An application in JavaScript has no name of its own."""
        return TITLE if self._seen[0] else ""

    def learn(self) -> None:
        """Follow the tables; to be called whenever governance may have changed."""
        store = self._store
        seen = (
            dict(store.map(tables.ENDPOINTS).items()),
            dict(store.map(tables.MODULES).items()),
            store.get(tables.JS_RUNTIME_OPTIONS, tables.SINGLETON),
            store.map(tables.INTERPRETER_FLUSH).version_of(tables.SINGLETON),
        )
        if seen == self._seen:  # values are compared, and most are the very same objects
            return
        is_same = seen[:2] == self._seen[:2] == ({}, {})
        self._seen = seen
        self.options, complaint = read_options(seen[2])
        if complaint:
            self._node.log("warning", complaint)
        if not is_same:
            self._rebuild()

    # Building.

    def _rebuild(self) -> None:
        rows, modules, _, _ = self._seen
        for endpoint in self._installed:
            endpoint.is_gone = True
        self._installed = []
        fresh = Registry(self._registry.prefix)
        complaints: list[str] = []
        broken = self._bundle_of(modules)
        ambiguous = _ambiguous(rows)
        for key, record in sorted(rows.items()):
            try:
                if len(self._installed) >= ENDPOINTS_MAX:
                    raise UsageError(f"there are more than {ENDPOINTS_MAX}")
                declared = read_declared(key, record)
                if broken and not declared.broken:
                    declared = declared._replace(broken=broken)
                others = ambiguous[(declared.method, shape(declared.path))]
                if len(others) > 1:
                    if declared.path != others[0]:
                        continue  # the first one answers for all
                    declared = declared._replace(broken=f"several endpoints have this path: {', '.join(others)}")
                endpoint = self._endpoint(declared)
                fresh.add(endpoint)
            except UsageError as error:
                complaints.append(f"endpoint {key[:64]!r} is not there: {error}")
                continue
            self._installed.append(endpoint)
            if declared.broken:
                complaints.append(f"endpoint {endpoint.label} answers 500: {declared.broken}")
        for endpoint in (*self._built_in, *self._image):
            try:
                fresh.add(endpoint)
            except UsageError:
                continue  # what members have voted for goes before
        self._registry.become(fresh)
        for complaint in complaints[:COMPLAINTS_MAX]:
            self._node.log("warning", f"JavaScript application: {complaint}; a proposal with set_js_app can set it right")
        if len(complaints) > COMPLAINTS_MAX:
            self._node.log("warning", f"JavaScript application: the same of {len(complaints) - COMPLAINTS_MAX} more endpoints")

    def _bundle_of(self, modules: Mapping[bytes, bytes]) -> str:
        """Take the modules over; give what is wrong with them, or ""."""
        try:
            sources = {name.decode(errors="replace"): source.decode(errors="replace") for name, source in modules.items()}
            self._bundle = Bundle(sources)
        except UsageError as error:
            self._bundle = Bundle({})
            return f"its modules cannot be used: {error}"
        return ""

    def _endpoint(self, declared: Declared) -> Endpoint:
        handler: Callable[[Context], Any] = _broken(declared) if declared.broken else self._handler(declared)
        return Endpoint(
            declared.method,
            declared.path,
            handler,
            policies=declared.policies,
            readonly=declared.mode != READWRITE,
            forwarding=declared.forwarding,
            system=False,
            scripted=not declared.broken,
            operation=declared.operation,
            hidden=declared.hidden,
            decodes=False,  # as in CCF, where scripts decode parameters themselves
        )

    # Running.

    def _handler(self, declared: Declared) -> Callable[[Context], Steps]:
        route = f"/{self._registry.prefix}{declared.path}"
        label = f"{declared.method} {route}"
        node, options, limits = self._node, self.options, self.options.limits
        flushed = self._seen[3]
        bundle, module, function = self._bundle, declared.module, declared.function
        access = Access.APP_RW if declared.mode == READWRITE else Access.APP_RO
        calls = self._historical_calls if declared.mode == HISTORICAL else self._calls
        # A new version of the same text is a new application: what the old one's modules remember is not its own.
        reuse = f"{flushed}:{declared.reuse}" if declared.reuse is not None and limits.interpreters else ""
        kind = kind_of(Job(bundle, module, function, (), access, calls, limits=limits, reuse=reuse))
        route_text = json.dumps(route)
        foresight = Foresight()
        is_historical = declared.mode == HISTORICAL

        def handle(context: Context) -> Steps:
            if options.used_up:
                raise used_up(options)
            if is_historical:
                _ = context.historical  # the state must be at hand; so are refused the requests that name none
            ahead = foresight.keys(context)
            outcome = yield Job(
                bundle,
                module,
                function,
                (Json(request_text(context, route_text)),),
                access,
                calls,
                context.request.body,
                clock=Clock(node.now_ms, None),
                limits=limits,
                reuse=reuse,
                content=signed_content(context.caller),
                ahead=ahead,
                lane=label,
                kind=kind,
            )
            foresight.learn(context, ahead, context.overlay.keys_read)
            return respond(outcome, options, label, node.log, context.range_refusal)

        return handle

    def _metrics(self, _: Context) -> Result:
        limits = self.options.limits
        return {
            "bytecode_size": 0,  # modules are compiled where they run
            "bytecode_used": False,
            "max_heap_size": limits.heap_bytes,
            "max_stack_size": limits.stack_bytes,
            "max_execution_time": limits.deadline_ms,
            "max_cached_interpreters": limits.interpreters,
        }


def _broken(declared: Declared) -> Callable[[Context], Result]:
    def refuse(context: Context) -> Result:
        path = context.request.path[:_PATH_SHOWN_MAX]
        raise RequestError(500, "InternalError", f"{path} cannot be served: {declared.broken}.")

    return refuse


def _ambiguous(rows: Mapping[bytes, bytes]) -> dict[tuple[str, str], list[str]]:
    """The templates of each verb and shape, sorted. CCF, too, installs several of one shape, and answers 500 to what any of them takes."""
    found: dict[tuple[str, str], list[str]] = {}
    for key in sorted(rows):
        try:
            method, _, path = key.decode().partition(" ")
            found.setdefault((method, shape(path)), []).append(path)
        except (UnicodeDecodeError, UsageError):
            continue  # it is told when its endpoint is made
    return found


# What endpoints may call.


def _set_claims_digest(context: Context, arguments: list[Any]) -> None:
    """`setClaimsDigest(digest)`: 32 bytes that are bound to the transaction."""
    if len(arguments) != 1 or type(arguments[0]) is not bytes:
        raise ValueError("Passed something else than one ArrayBuffer to setClaimsDigest")
    try:
        context.set_claims_digest(arguments[0])
    except UsageError as error:
        raise ValueError(str(error)) from None


def _set_apply_writes(context: Context, arguments: list[Any]) -> None:
    """`setApplyWrites(apply)`: keep what was written whatever the status is, or do not."""
    if len(arguments) != 1 or type(arguments[0]) is not bool:
        raise ValueError("Passed something else than one boolean to setApplyWrites")
    context.set_apply_writes(arguments[0])


FUNCTIONS: Final[dict[str, Call]] = {"rpc.setApplyWrites": _set_apply_writes, "rpc.setClaimsDigest": _set_claims_digest}
