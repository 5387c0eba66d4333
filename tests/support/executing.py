"""One node's execution without consensus: every entry is applied at once, and views change when the test says so."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ledgerd.enclave import idempotency
from ledgerd.enclave.app import App
from ledgerd.enclave.endpoints import Endpoint, Registry
from ledgerd.enclave.execution import SCRIPTED, Executor, Outcome, Settings
from ledgerd.enclave.kv import Store
from ledgerd.enclave.requests import Request, Response
from ledgerd.enclave.scripting import Scripted, Scripting
from ledgerd.enclave.scripts.pool import Pool
from ledgerd.enclave.scripts.run import Call
from ledgerd.ledger.entry import WriteSet
from ledgerd.ledger.ids import Seqno, TransactionId, View
from support.script_workers import ScriptWorkers
from support.tls import NOW, identity

USER = "ab" * 32
OTHER_USER = "cd" * 32
MEMBER = "ef" * 32
STRANGER = "09" * 32

CERTIFICATE = identity("somebody").der  # of every session; who it is, is said by the caller's id alone
NOW_S = int(NOW.timestamp())

GENESIS: WriteSet = {
    "public:ccf.gov.users.certs": {USER.encode(): b"PEM", OTHER_USER.encode(): b"PEM"},
    "public:ccf.gov.users.info": {USER.encode(): b'{"user_data":{"role":"clerk"}}'},
    "public:ccf.gov.members.certs": {MEMBER.encode(): b"PEM"},
}


DEFAULTS = Settings()


class Node:
    """An executor with its store, at seqno 1 (the genesis above) in view 2."""

    def __init__(
        self, endpoints: Iterable[Endpoint] = (), *, app: App | None = None, policy: str = "user_cert", settings: Settings = DEFAULTS
    ) -> None:
        self.store = Store({idempotency.MAP: settings.idempotency_window})
        self.app = Registry("app")
        self.node = Registry("node")
        self.gov = Registry("gov")
        for endpoint in endpoints:
            self.app.add(endpoint)
        if app is not None:
            app.register(self.app, policy)
        self.is_open = True
        self.is_primary = True
        self.views: list[tuple[int, int]] = [(2, 1)]  # view, its first seqno
        self.executor = Executor(
            self.store,
            {"app": self.app, "node": self.node, "gov": self.gov},
            app_is_open=lambda: self.is_open,
            view_of=self.view_of,
            ledger=self,
            settings=settings,
        )
        self.scripts = Pool(self.calls(), 1, 0.0)
        self.scripting = Scripting(self.store, self.scripts, self)
        self.workers = ScriptWorkers(self.scripts)
        self.on_scripted: Callable[[Scripted], None] = lambda _: None  # scripts have answered, and it is about to take effect
        self.store.apply(1, GENESIS)

    def calls(self) -> dict[str, Call]:
        """Functions for scripts."""
        return {}

    def view_of(self, seqno: Seqno) -> View:
        return View(max(view for view, first in self.views if first <= seqno))

    @property
    def committed(self) -> TransactionId:
        """Everything that cannot be rolled back."""
        return TransactionId(self.view_of(Seqno(self.store.compacted)) if self.store.compacted else View(0), Seqno(self.store.compacted))

    def status_of(self, transaction: TransactionId) -> str:
        """By this node's own entries alone."""
        if transaction.seqno > self.store.version:
            return "Unknown"
        if self.view_of(transaction.seqno) != transaction.view:
            return "Invalid"
        return "Committed" if transaction.seqno <= self.store.compacted else "Pending"

    @property
    def view(self) -> int:
        return self.views[-1][0]

    def elect(self, view: int, to: int) -> None:
        """A new primary rolls back to `to` and begins its view with a signature entry."""
        self.store.rollback(to)
        self.views = [(old, first) for old, first in self.views if first <= to] + [(view, to + 1)]
        self.store.apply(to + 1, {})

    def pass_entries(self, count: int) -> None:
        """Let `count` entries go by, all committed."""
        for _ in range(count):
            self.store.apply(self.store.version + 1, {})
        self.store.compact(self.store.version)

    def ask(
        self,
        method: str,
        target: str,
        body: bytes | str = b"",
        *,
        caller: str = USER,
        headers: Mapping[str, str] | None = None,
        certificate: bytes = CERTIFICATE,
        now_s: int = NOW_S,
    ) -> Outcome:
        """Execute one request."""
        path, _, query = target.partition("?")
        data = body.encode() if isinstance(body, str) else body
        request = Request("reply", method, path, query, headers or {}, data, certificate if caller else None, caller)
        request.now_s = now_s
        outcome = self._execute(request)
        if outcome.kind != SCRIPTED:
            return outcome
        assert outcome.endpoint is not None
        assert outcome.params is not None
        self.scripting.begin(request, outcome.endpoint, outcome.params)
        while True:
            while (scripted := self.scripting.take_finished()) is None:
                self.workers.turn(0.0)
            self.on_scripted(scripted)
            if scripted.is_current():
                return self._execute(request, scripted)
            self.scripting.again(scripted)

    def _execute(self, request: Request, scripted: Scripted | None = None) -> Outcome:
        last = Seqno(self.store.version)
        next_id = TransactionId(View(self.view), Seqno(last + 1))
        return self.executor.execute(request, self.is_primary, next_id, TransactionId(self.view_of(last), last), (), scripted)

    def answer(self, method: str, target: str, body: bytes | str = b"", **more: Any) -> Response:
        """As `ask`, for the answer alone, which there must be."""
        response = self.ask(method, target, body, **more).response
        assert response is not None
        return response


def error_of(response: Response) -> dict[str, Any]:
    """The `error` object of a refusal."""
    assert response.content_type == "application/json"
    document = json.loads(response.body)
    assert set(document) == {"error"}
    error: dict[str, Any] = document["error"]
    return error


def endpoint(method: str, template: str, handler: Callable[[Any], Any], **more: Any) -> Endpoint:
    """An application's endpoint that anybody may call."""
    return Endpoint(method, template, handler, **{"policies": ["no_auth"], "system": False, **more})
