"""An application that means harm, in real workers of real nodes: it ends for itself, and for nobody else."""

import concurrent.futures
import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from ledgerd.network.client.members import Member, proposal
from support.https import Answer, Request
from support.javascript import bundle
from support.processes import Service

OPTIONS = {
    "max_heap_bytes": 30 << 20,
    "max_stack_bytes": 1 << 20,
    "max_execution_time_ms": 10_000,  # so that what ends for another reason does, however slow the machine is
    "return_exception_details": True,
    "log_exception_details": False,
}
SHORT_MS = 500  # for those that end only when their time is over
COMMITS_MIN = 20  # while a script loops and others before it; if they waited for each of those there would be a few
ROUNDS_MAX = 20  # of attacks, for a machine that happens to stand still during one
TOO_LONG = "Operation took too long to complete."
THROWN = "Exception thrown while executing."

# What each does; the message of its 500 (None: it is answered as if nothing were), and what its details say.
HOSTILE: dict[str, tuple[str, str | None, str]] = {
    "an endless loop": ("for (;;);", TOO_LONG, ""),
    "an endless loop that catches": ("for (;;) { try { for (;;); } catch {} }", TOO_LONG, ""),
    "endless promises": ("const again = () => Promise.resolve().then(again); return again();", "", ""),  # time, or memory
    "a search that looks at no clock": ("return {body: 'a'.repeat(8e6).indexOf('a'.repeat(3e6) + 'b') + ''};", TOO_LONG, ""),
    "a pattern that takes for ever": ("return {body: /^(a+)+$/.test('a'.repeat(40) + 'b')};", TOO_LONG, ""),
    "memory in pieces": ("const a = []; for (;;) a.push(new Array(1000).fill(0));", THROWN, "out of memory"),
    "memory at once": ("return {body: new ArrayBuffer(2 ** 31)};", THROWN, ""),
    "memory as text": ("let s = 'x'; for (;;) s += s;", THROWN, ""),
    "recursion": ("return main(request);", THROWN, "InternalError: stack overflow"),
    "recursion through JSON": ("const a = []; let b = a; for (let i = 0; i < 1e5; i++) b = [b]; return {body: b};", "Invalid endpoint", ""),
    "a huge answer": ("return {body: 'x'.repeat(9 << 20)};", THROWN, "larger than"),
    "a huge header": ("return {headers: {a: 'x'.repeat(20000)}};", "Invalid endpoint", ""),
    "thousands of headers": ("const h = {}; for (let i = 0; i < 5000; i++) h['h' + i] = 'v'; return {headers: h};", THROWN, ""),
    "log lines without end": ("for (;;) console.log('x'.repeat(1000));", TOO_LONG, ""),
    "thousands of maps": ("const k = new ArrayBuffer(1); for (let i = 0; i < 5000; i++) ccf.kv['m' + i].set(k, k);", THROWN, "256 maps"),
    "writes without end": ("for (let i = 0; ; i++) ccf.kv.m.set(ccf.strToBuf('' + i), new ArrayBuffer(1e5));", THROWN, "writes more than"),
    "reads without end": ("for (let i = 0; ; i++) ccf.kv.m.has(ccf.strToBuf('' + i));", "", ""),  # too many, or too long for them
    "governance": ("ccf.kv['public:ccf.gov.users.certs'].clear(); return {};", THROWN, "read-only"),
    "the service's signatures": ("ccf.kv['public:ccf.internal.signatures'].delete(new ArrayBuffer(8)); return {};", THROWN, "read-only"),
    "a module that is not there": ("return import('/etc/passwd').then(() => ({}));", THROWN, "could not load module"),
    "an odd exception": ("throw Object.create(null, {toString: {get() { throw 1 }}});", THROWN, ""),
    "nothing at all thrown": ("throw undefined;", THROWN, "undefined"),
    "a broken prototype": ("Object.prototype.body = 'x'; Array.prototype.push = null; JSON.stringify = () => '[]'; return {};", None, ""),
    "a getter that loops": ("return {get body() { for (;;); }};", TOO_LONG, ""),
    "a text that loops": ("return {headers: {a: {toString() { for (;;); }}}};", TOO_LONG, ""),
    "a clock of its own": ("Date.now = () => 0; Math.random = () => 0; return {};", None, ""),
    "the engine's own functions": ("return {body: typeof std + typeof os + typeof process + typeof require + typeof fetch};", None, ""),
}  # fmt: skip


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Three nodes with the hostile application, beside an honest endpoint of its own and the application in the image."""
    with Service(tmp_path_factory.mktemp("javascript")) as service:
        endpoints: dict[str, Any] = {f"POST /{number}": {"js_module": f"{number}.js"} for number in range(len(HOSTILE))}
        modules = {
            f"{number}.js": f"export function main(request) {{ {source} }}" for number, (source, _, _) in enumerate(HOSTILE.values())
        }
        endpoints["POST /honest/{key}"] = {"js_module": "honest.js", "interpreter_reuse": {"key": "honest"}}
        modules["honest.js"] = (
            "const m = ccf.kv.records;"
            "export const main = (r) => {"
            "  m.set(ccf.strToBuf(r.params.key), r.body.arrayBuffer());"
            "  return {body: `${r.params.key} ${[].push.name} ${typeof {}.body}`}; }"
        )
        made = bundle(endpoints, modules)
        actions = [{"name": "set_js_app", "args": {"bundle": made}}, {"name": "set_js_runtime_options", "args": OPTIONS}]
        propose(service, actions)
        yield service


def propose(service: Service, actions: list[dict[str, Any]]) -> None:
    member = Member(service.folder / "member0_cert.pem", service.folder / "member0_privk.pem")
    call = member.sign(proposal(json.dumps({"actions": actions}).encode()))
    with service.primary().session() as session:
        answer = session.ask_all([Request(call.method, call.path, call.body, dict(call.headers))])[0]
    assert answer.json()["proposalState"] == "Accepted", answer


@contextlib.contextmanager
def time_is_short(service: Service) -> Iterator[None]:
    """Scripts have little time meanwhile."""
    name = "set_js_runtime_options"
    propose(service, [{"name": name, "args": {**OPTIONS, "max_execution_time_ms": SHORT_MS}}])
    try:
        yield
    finally:
        propose(service, [{"name": name, "args": OPTIONS}])


def attack(service: Service, number: int) -> Answer:
    with service.primary().session() as session:
        return session.ask("POST", f"/app/{number}", b"{}")


@pytest.mark.parametrize(("number", "name"), list(enumerate(HOSTILE)), ids=list(HOSTILE))
def test_it_is_answered_and_the_next_request_finds_everything_as_before(service: Service, number: int, name: str) -> None:
    _, message, detail = HOSTILE[name]
    with time_is_short(service) if message in (TOO_LONG, "") else contextlib.nullcontext():
        answer = attack(service, number)
    if message is None:
        assert answer.status == 200, answer
    else:
        assert answer.status == 500, answer
        error = answer.json()["error"]
        assert message in error["message"]
        assert detail in json.dumps(error.get("details", []))
    with service.primary().session() as session:
        honest = session.ask("POST", f"/app/honest/{number}", b"v", prefer="committed")
        assert (honest.status, honest.body.decode()) == (200, f"{number} push undefined")
        assert session.ask("GET", f"/app/records/{number}").body == b"v"


def test_while_scripts_loop_on_every_worker_the_service_goes_on(service: Service) -> None:
    """Consensus, the application in the image, governance and, once a worker is free, honest scripts."""
    primary = service.primary()
    loops = list(HOSTILE).index("an endless loop")
    views = {node.name: node.log().count("primary of view") for node in service.nodes}
    commits = most = 0

    def loop() -> int:
        """Attack, and see how many commits come and go meanwhile."""
        nonlocal most
        before = commits
        status = attack(service, loops).status
        most = max(most, commits - before)
        return status

    with time_is_short(service), concurrent.futures.ThreadPoolExecutor(6) as threads, primary.session() as session:
        for _ in range(ROUNDS_MAX):
            attacks = [threads.submit(loop) for _ in range(6)]
            while not all(each.done() for each in attacks):
                assert session.ask("PUT", "/app/records/python", b"v", prefer="committed").status == 204
                assert session.ask("GET", "/node/state").status == 200
                commits += 1
            assert {each.result() for each in attacks} == {500}
            if most >= COMMITS_MIN:
                break
    assert most >= COMMITS_MIN, "an endless loop kept others waiting"
    assert {node.name: node.log().count("primary of view") for node in service.nodes} == views, "a primary was lost"
    with primary.session() as session:
        assert session.ask("POST", "/app/honest/after", b"v", prefer="committed").status == 200


def test_the_nodes_stay_the_same_and_hold_the_same(service: Service) -> None:
    committed = service.primary().committed()
    service.settle(committed)
    first, *others = [node.entries(committed) for node in service.nodes]
    assert all(entries == first for entries in others)
