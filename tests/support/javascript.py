"""Applications in JavaScript in tests: installed as members' votes would have it, and asked without consensus."""

from collections.abc import Mapping
from typing import Any

from ledgerd.enclave.endpoints import Endpoint
from ledgerd.enclave.javascript.applications import FUNCTIONS, JavaScriptApplication
from ledgerd.enclave.scripts.run import Call
from ledgerd.governance import tables
from ledgerd.ledger.entry import WriteSet
from ledgerd.ledger.ids import Seqno
from support.executing import NOW_S, Node, endpoint

Properties = Mapping[str, Any]


def rows(endpoints: Mapping[str, Properties], modules: Mapping[str, str], options: Properties | None = None) -> WriteSet:
    """What `set_js_app`, and `set_js_runtime_options`, write.

    Args:
        endpoints: By verb and path: properties beside the usual ones (anybody may call, reading and writing).
        modules: Sources by name, with the leading slash.
    """
    made: WriteSet = {
        tables.ENDPOINTS: {name.encode(): tables.encode({**USUAL, **properties}) for name, properties in endpoints.items()},
        tables.MODULES: {name.encode(): source.encode() for name, source in modules.items()},
        tables.INTERPRETER_FLUSH: {tables.SINGLETON: b"true"},
    }
    if options is not None:
        made[tables.JS_RUNTIME_OPTIONS] = {tables.SINGLETON: tables.encode(options)}
    return made


def bundle(endpoints: Mapping[str, Properties], modules: Mapping[str, str]) -> dict[str, Any]:
    """The argument `bundle` of `set_js_app`; as `rows`, but names of modules have no slash."""
    found: dict[str, dict[str, Any]] = {}
    for name, properties in endpoints.items():
        method, _, path = name.partition(" ")
        found.setdefault(path, {})[method.lower()] = {**USUAL, "js_module": "app.js", **properties}
    return {"metadata": {"endpoints": found}, "modules": [{"name": name, "module": source} for name, source in modules.items()]}


USUAL: Properties = {
    "js_module": "/app.js",
    "js_function": "main",
    "authn_policies": ["no_auth"],
    "mode": "readwrite",
    "forwarding_required": "always",
}


class Installed(Node):
    """A node with one application in JavaScript, and `image` beside it.

    Attributes:
        logs: What the operator was told, each as `level: text`.
    """

    def __init__(self, image: tuple[Endpoint, ...] = ()) -> None:
        super().__init__([endpoint("GET", "/commit", lambda ctx: "the service's own")])
        self.logs: list[str] = []
        self.javascript = JavaScriptApplication(self.store, self, self.app)
        self.javascript.add_image(image)
        self.javascript.add_to(self.node)

    @property
    def now_ms(self) -> int:
        return NOW_S * 1000

    def log(self, level: str, text: str) -> None:
        self.logs.append(f"{level}: {text}")

    def calls(self) -> dict[str, Call]:
        return FUNCTIONS

    def put(self, writes: WriteSet) -> None:
        """Apply an entry of governance."""
        self.store.apply(self.store.version + 1, writes)
        self.javascript.learn()

    def install(self, source: str, options: Properties | None = None, **properties: Any) -> None:
        """Install one endpoint, `POST /x`, whose function is `main(request)` with this body, or a whole module that exports it."""
        text = source if "export" in source else f"export function main(request) {{ {source} }}"
        self.put(rows({"POST /x": properties}, {"/app.js": text}, options))

    def back(self, to: int) -> None:
        """Undo entries."""
        self.store.rollback(Seqno(to))
        self.javascript.learn()
