"""What scripts find and how they end: the language, `ccf`, limits, tricks. Within this process, through the enclave's own door.

The names and texts that CCF's applications rely on are from its documentation of the JavaScript API.
"""

import json
from typing import Any

import pytest

from ledgerd.enclave.kv import Store
from ledgerd.enclave.runtime.script_line import Interpreters
from ledgerd.enclave.scripts.access import Access
from ledgerd.enclave.scripts.jobs import Bundle, Clock, End, Job, Limits, Outcome, Response, Result
from ledgerd.enclave.scripts.messages import TEXT_LENGTH_MAX
from support.scripts import job, run_here, value_of

RW: dict[str, Any] = {"access": Access.APP_RW}


def store_of(name: str, entries: dict[bytes, bytes]) -> Store:
    """A state with one map."""
    store = Store()
    store.apply(1, {name: dict(entries)})
    return store


def outcome_of(body: str, /, *arguments: Any, **options: Any) -> Outcome:
    """How the body of a function ends."""
    return run_here(job(f"export function f(...args) {{ {body} }}", *arguments, **options))[0]


# Arguments and results.


@pytest.mark.parametrize("value", [None, True, 0, -1, 2**53, 1.5, "", "grüße\0", "\U0001f600", [1, [2]], {"a": {"b": [None]}, "": 1}])
def test_values_come_and_go_unchanged(value: Any) -> None:
    assert value_of("return args[0];", value) == value


def test_bytes_are_array_buffers_both_ways() -> None:
    assert value_of("return args[0];", b"\0\xff") == b"\0\xff"
    assert value_of("return args[0] instanceof ArrayBuffer && args[0].byteLength;", b"123") == 3
    assert value_of("return new Uint8Array(args[0], 1, 2);", b"\0\1\2\3") == b"\1\2"
    assert value_of("return new DataView(args[0], 3);", b"\0\1\2\3") == b"\3"
    assert value_of("return new Uint16Array([1, 2]);") == b"\1\0\2\0"


def test_nothing_is_a_result_of_its_own() -> None:
    assert outcome_of("return;").value == Result("undefined", b"")
    assert outcome_of("return () => 1;").value == Result("undefined", b"")


def test_a_promise_is_waited_for() -> None:
    assert run_here(job("export async function f() { await null; return 7; }"))[0].value == Result("json", b"7")
    rejected = run_here(job("export async function f() { await null; throw new RangeError('no'); }"))[0]
    assert (rejected.end, rejected.text) == (End.EXCEPTION, "RangeError: no")
    never = run_here(job("export function f() { return new Promise(() => {}); }"))[0]
    assert (never.end, "never settled" in never.text) == (End.EXCEPTION, True)


def test_what_is_thrown_is_told_with_its_place() -> None:
    thrown = outcome_of("null.x;")
    assert (thrown.end, thrown.text) == (End.EXCEPTION, "TypeError: cannot read property 'x' of null")
    assert "/main.js:1" in thrown.trace
    assert outcome_of("throw 'text';").text == "text"
    assert outcome_of("throw {a: 1};").text == '{"a":1}'
    assert outcome_of("throw 5;").text == "5"
    assert outcome_of("throw undefined;").text == "undefined"


def test_what_is_thrown_may_itself_throw() -> None:
    for trick in (
        "{toJSON() { throw 1; }}",
        "Object.defineProperty(new Error('x'), 'stack', {get() { throw 1; }})",
        "{get a() { return this.a; }}",
    ):
        assert outcome_of(f"throw {trick};").end in (End.EXCEPTION, End.MEMORY, End.STACK)
    assert (
        outcome_of("class E extends Error { toString() { for (;;); } }; throw new E();", limits=Limits(deadline_ms=50)).end is End.DEADLINE
    )


def test_what_is_not_there_is_an_exception() -> None:
    missing = run_here(Job(Bundle({}), "/none.js", "f"))[0]
    assert (missing.end, missing.text) == (End.EXCEPTION, "Error: there is no module /none.js")
    assert run_here(job("export function g() {}"))[0].text == "Error: /main.js has no function f"
    assert run_here(job("export const f = 1;"))[0].text == "Error: /main.js has no function f"
    assert run_here(job("export function f( {"))[0].text.startswith("SyntaxError")
    assert run_here(job("throw new Error('early'); export function f() {}"))[0].text == "Error: early"


# Modules.


def modules(entry: str, **others: str) -> Outcome:
    """How a bundle of modules below `/src/` ends."""
    sources = {"/src/main.js": entry, **{f"/src/{name}.js": source for name, source in others.items()}}
    return run_here(Job(Bundle(sources), "/src/main.js", "f"))[0]


def test_modules_are_imported_from_the_bundle_by_any_of_their_names() -> None:
    a = "import { y } from '../src/b.js'; import * as all from 'src/b.js'; export const x = y + all.y;"
    outcome = modules(
        "import { x } from './a.js'; import d from '/src/d.js'; export const f = () => [x, d];",
        a=a,
        b="export const y = 2;",
        d="export default 3;",
    )
    assert outcome.value == Result("json", b"[4,3]")


def test_a_module_is_one_whatever_it_is_called_by() -> None:
    counting = "export const seen = []; "
    outcome = modules(
        "import { seen as a } from './n.js'; import { seen as b } from 'src/n.js'; export async function f() {"
        " const { seen: c } = await import('/src//x/../n.js'); return a === b && b === c; }",
        n=counting,
    )
    assert outcome.value == Result("json", b"true")


def test_modules_may_import_each_other() -> None:
    outcome = modules(
        "import { g } from './a.js'; export const one = () => 1; export const f = () => g();",
        a="import { one } from './main.js'; export const g = () => one() + 1;",
    )
    assert outcome.value == Result("json", b"2")


@pytest.mark.parametrize(
    "name", ["./none.js", "none", "/etc/passwd", "file:///etc/passwd", "std", "os", "qjs:os", "https://example.org/a.js", "", "."]
)
def test_nothing_is_imported_from_elsewhere(name: str) -> None:
    static = modules(f"import * as x from '{name}'; export const f = () => 1;")
    assert (static.end, "could not load module" in static.text) == (End.EXCEPTION, True)
    dynamic = modules(f"export const f = async () => {{ await import('{name}'); }};")
    assert (dynamic.end, "could not load module" in dynamic.text) == (End.EXCEPTION, True)


def test_a_broken_module_is_told_with_its_name() -> None:
    broken = modules("import './a.js'; export const f = () => 1;", a="let x = ;")
    assert broken.text.startswith("SyntaxError")
    assert "/src/a.js" in broken.trace


def test_a_plain_script_s_functions_are_found() -> None:
    for source in ("function f(x) { return x + 1; }", "const f = (x) => x + 1;", "globalThis.f = (x) => x + 1;"):
        assert run_here(job(source, 1, is_script=True))[0].value == Result("json", b"2")
    assert run_here(job("globalThis.f = (x) => x + 1;", 1))[0].value == Result("json", b"2")


def test_there_is_nothing_of_the_machine_s() -> None:
    names = value_of("return Object.getOwnPropertyNames(globalThis).filter((name) => /^[a-z]/.test(name));")
    allowed = {"atob", "btoa", "ccf", "console", "decodeURI", "decodeURIComponent", "encodeURI", "encodeURIComponent", "escape", "unescape"}
    allowed |= {"eval", "globalThis", "isFinite", "isNaN", "parseFloat", "parseInt", "queueMicrotask", "snp_attestation", "undefined"}
    assert set(names) <= allowed
    assert value_of("return import.meta.url ?? null;") is None


# Conversions and the rest of `ccf`.


def test_conversions_are_ccf_s() -> None:
    assert value_of("return ccf.strToBuf('grüße');") == "grüße".encode()
    assert value_of("return ccf.bufToStr(args[0]);", "grüße\0x".encode()) == "grüße\0x"
    assert value_of("return ccf.jsonCompatibleToBuf({a: [1]});") == b'{"a":[1]}'
    assert value_of("return ccf.bufToJsonCompatible(args[0]);", b'{"a":[1]}') == {"a": [1]}
    large = "x" * 300_000
    assert value_of("return ccf.bufToStr(ccf.strToBuf(args[0]));", large) == large


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("ccf.strToBuf()", "TypeError: Passed 0 arguments, but expected 1"),
        ("ccf.strToBuf(5)", "TypeError: Argument must be a string"),
        ("ccf.bufToStr('x')", "TypeError: Argument must be an ArrayBuffer"),
        ("ccf.bufToStr(new Uint8Array(1))", "TypeError: Argument must be an ArrayBuffer"),
        ("ccf.jsonCompatibleToBuf(undefined)", "TypeError: Argument must be a JSON value"),
        ("ccf.bufToJsonCompatible(ccf.strToBuf('{'))", "SyntaxError"),
        ("ccf.kv.m.get('k')", "TypeError: Argument must be an ArrayBuffer"),
        ("ccf.kv.m.set(ccf.strToBuf('k'))", "TypeError: Passed 1 arguments, but expected 2"),
        ("ccf.kv.m.set(ccf.strToBuf('k'), 5)", "TypeError: Arguments must be ArrayBuffers"),
        ("ccf.kv.m.forEach(1)", "TypeError: Argument must be a function"),
        ("ccf.enableUntrustedDateTime(1)", "TypeError: First argument must be a boolean"),
    ],
)
def test_wrong_arguments_are_told(call: str, text: str) -> None:
    assert outcome_of(f"return {call};", **RW).text.startswith(text)


def test_old_switches_give_their_former_state() -> None:
    assert value_of("return [ccf.enableUntrustedDateTime(true), ccf.enableUntrustedDateTime(false), ccf.enableMetricsLogging(true)];") == [
        False,
        True,
        False,
    ]


def test_lines_are_logged_with_their_level() -> None:
    outcome = outcome_of("console.log('a', 1, null); console.warn({}); console.error(Symbol()); console.info(new Error('e'));")
    assert outcome.logs == (("info", "a 1 null"), ("warning", "[object Object]"), ("error", "symbol"), ("info", "Error: e"))


def test_lines_beyond_the_limit_are_left_out() -> None:
    assert len(outcome_of("for (let i = 0; i < 3000; i++) console.log('x');").logs) == 1_000
    assert len(outcome_of("for (let i = 0; i < 30; i++) console.log('0123456789');", limits=Limits(output_bytes=100)).logs) == 10


def test_functions_of_the_enclave_take_and_give_anything() -> None:
    def echo(arguments: list[Any]) -> Any:
        return arguments[0] if len(arguments) == 1 else len(arguments)

    def refuses(arguments: list[Any]) -> Any:
        raise ValueError("no such key")

    calls = {"crypto.digest": echo, "pemToId": refuses}
    assert value_of_calls("return ccf.crypto.digest(args[0]);", "text", calls=calls) == "text"
    assert value_of_calls("return ccf.crypto.digest(args[0]);", b"\0\xff", calls=calls) == b"\0\xff"
    assert value_of_calls("return ccf.crypto.digest({a: [1, null]});", calls=calls) == {"a": [1, None]}
    assert value_of_calls("return ccf.crypto.digest(1, undefined, 3);", calls=calls) == 3
    assert value_of_calls("return ccf.crypto.digest(null) === undefined;", calls=calls) is True
    assert value_of_calls("try { ccf.pemToId('x'); } catch (e) { return e.message; }", calls=calls) == "no such key"
    assert (
        value_of_calls("try { ccf.crypto.digest({$buffer: [0, 1]}); } catch (e) { return e.message; }", calls=calls)
        == "An argument has a property $buffer"
    )
    assert value_of("return typeof ccf.rpc;") == "undefined"


def value_of_calls(body: str, *arguments: Any, calls: dict[str, Any]) -> Any:
    """What a function gives that may call all of these."""
    return value_of(body, *arguments, functions=calls, calls=tuple(calls))


# Maps.


def test_maps_are_read_and_written_as_ccf_s() -> None:
    store = store_of("records", {b"a": b"1", b"b": b"2"})
    body = """
      const buf = ccf.strToBuf, str = ccf.bufToStr, m = ccf.kv['records'];
      const version = (key) => m.getVersionOfPreviousWrite(buf(key)) ?? null;
      const before = [m.size, m.has(buf('a')), m.has(buf('x')), version('a'), version('x')];
      const same = m.set(buf('c'), buf('3')) === m;
      m.delete(buf('a'));
      const seen = [];
      m.forEach((value, key, map) => seen.push([str(key), str(value), map === m]));
      return [before, same, seen, m.get(buf('a')) === undefined, str(m.get(buf('c'))), m.size, m._map_name];
    """
    outcome, overlay = run_here(job(f"export function f() {{ {body} }}", **RW), store)
    assert isinstance(outcome.value, Result), outcome
    assert json.loads(outcome.value.data) == [
        [2, True, False, 1, None],
        True,
        [["b", "2", True], ["c", "3", True]],
        True,
        "3",
        2,
        "records",
    ]
    transaction = store.begin()
    overlay.write_into(transaction)
    assert transaction.take() == {"records": {b"a": None, b"c": b"3"}}


def test_a_map_is_cleared_and_walked_while_it_changes() -> None:
    store = store_of("records", {b"%03d" % number: b"v" for number in range(600)})
    assert value_of("let n = 0; ccf.kv.records.forEach(() => n++); return n;", store=store, **RW) == 600
    assert value_of("const m = ccf.kv.records; m.forEach((v, k) => m.delete(k)); return m.size;", store=store, **RW) == 0
    assert value_of("const m = ccf.kv.records; m.clear(); let n = 0; m.forEach(() => n++); return [m.size, n];", store=store, **RW) == [
        0,
        0,
    ]
    stopped = run_here(job("export function f() { ccf.kv.records.forEach(() => { throw new Error('stop'); }); }", **RW), store)[0]
    assert (stopped.end, stopped.text) == (End.EXCEPTION, "Error: stop")


PAGED = """
  const names = (bounds) => { const found = []; ccf.kv.records.forEach((v, k) => found.push(ccf.bufToStr(k)), bounds); return found; };
  const key = ccf.strToBuf;
"""


def test_a_map_is_walked_between_bounds_page_by_page() -> None:
    """Ours: CCF's forEach goes through all there is."""
    every = [f"{number:04d}" for number in range(700)]
    store = store_of("records", {name.encode(): b"v" for name in every})

    def names(bounds: str) -> Any:
        return value_of(f"{PAGED} return names({bounds});", store=store, **RW)

    assert names("") == names("undefined") == names("{}") == every
    assert names("{from: key('0010'), to: key('0013')}") == every[10:13]
    assert names("{from: key('0010'), limit: 3}") == every[10:13]
    assert names("{limit: 600}") == every[:600]
    assert names("{to: key('0600')}") == every[:600]
    assert names("{from: key('0699\\0')}") == names("{limit: 0}") == names("{from: key('2'), to: key('1')}") == []
    assert names("{from: key(''), limit: 1}") == every[:1]
    walked = """
      let from = key(''), pages = [];
      for (;;) {
        const page = names({from, limit: 150});
        if (page.length === 0) return pages;
        pages.push(page.length);
        from = key(page[page.length - 1] + '\\0');
      }"""
    assert value_of(PAGED + walked, store=store, **RW) == [150, 150, 150, 150, 100]
    own = "ccf.kv.records.set(key('0010a'), key('')); ccf.kv.records.delete(key('0011')); return names({from: key('0010'), limit: 3});"
    assert value_of(PAGED + own, store=store, **RW) == ["0010", "0010a", "0012"]


@pytest.mark.parametrize(
    ("bounds", "text"),
    [
        ("{form: key('a')}", "no bound 'form'"),
        ("{from: 'a'}", "must be an ArrayBuffer"),
        ("{to: 1}", "must be an ArrayBuffer"),
        ("{limit: -1}", "whole number"),
        ("{limit: 1.5}", "whole number"),
        ("{limit: NaN}", "whole number"),
        ("{limit: '1'}", "whole number"),
        ("5", "must be an object"),
        ("null", "must be an object"),
        ("{}, 1", "Passed 3 arguments"),
        ("{to: new ArrayBuffer(2000000)}", "a key of 2000000 bytes"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(bounds: str, text: str) -> None:
    outcome = outcome_of(f"const key = ccf.strToBuf; ccf.kv.records.forEach(() => {{}}, {bounds});", **RW)
    assert outcome.end is End.EXCEPTION
    assert text in outcome.text


def test_large_and_empty_keys_and_values_pass() -> None:
    body = """const m = ccf.kv.m; m.set(args[0], args[1]); m.set(new ArrayBuffer(0), new ArrayBuffer(0));
      return [m.get(args[0]).byteLength, m.get(new ArrayBuffer(0)).byteLength];"""
    assert value_of(body, b"k" * 70_000, b"v" * 3_000_000, **RW) == [3_000_000, 0]
    assert value_of("const m = ccf.kv.m; m.set(args[0], args[1]); return m.get(args[0]);", b"k" * 65_520, b"", **RW) == b""
    assert (
        value_of("const m = ccf.kv.m; m.set(args[0], args[1]); return m.get(args[0]);", b"k", bytes(range(256)) * 300, **RW)
        == bytes(range(256)) * 300
    )
    assert "a key of" in outcome_of("ccf.kv.m.set(new ArrayBuffer(2000000), args[0]);", b"", **RW).text


@pytest.mark.parametrize(
    ("access", "name", "operation", "kind"),
    [
        (Access.APP_RO, "m", "set(k, k)", "read-only"),
        (Access.APP_RO, "m", "delete(k)", "read-only"),
        (Access.APP_RO, "m", "clear()", "read-only"),
        (Access.APP_RW, "public:ccf.gov.x", "set(k, k)", "read-only"),
        (Access.APP_RW, "ccf.internal.x", "get(k)", "inaccessible"),
        (Access.GOV_RO, "m", "has(k)", "inaccessible"),
        (Access.GOV_RW, "public:m", "get(k)", "write-only"),
        (Access.GOV_RW, "public:m", "size", "write-only"),
        (Access.GOV_RW, "public:m", "forEach(() => 1)", "write-only"),
        (Access.GOV_RW, "public:m", "getVersionOfPreviousWrite(k)", "write-only"),
    ],
)
def test_a_map_that_is_not_to_be_opened_refuses_when_it_is_used(access: Access, name: str, operation: str, kind: str) -> None:
    body = f"const k = ccf.strToBuf('k'); const m = ccf.kv['{name}']; try {{ m.{operation}; }} catch (e) {{ return [e.name, e.message]; }}"
    found = value_of(body, access=access)
    method = operation.partition("(")[0]
    assert found[0] == "TypeError"
    assert found[1].startswith(
        f"Cannot call {method} on table named {name}. This table is {kind} in the current ({access.value}) execution context"
    )


def test_a_script_is_stopped_at_its_limits_whatever_it_catches() -> None:
    loop = "const m = ccf.kv.m; for (;;) { try { m.set(args[0], args[0]); } catch {} }"
    many = outcome_of(loop, b"k", access=Access.APP_RW, limits=Limits(operations=100))
    assert (many.end, "100 operations" in many.text) == (End.OPERATIONS, True)
    much = outcome_of(loop, b"k" * 500, access=Access.APP_RW, limits=Limits(writes_bytes=5_000))
    assert (much.end, "5000 bytes" in much.text) == (End.OPERATIONS, True)
    maps = outcome_of("for (let i = 0; ; i++) ccf.kv['m' + i].get(args[0]);", b"k", **RW)
    assert (maps.end, "256 maps" in maps.text) == (End.EXCEPTION, True)


# Limits.


@pytest.mark.parametrize(
    "body",
    [
        "for (;;);",
        "for (;;) { try { throw 1; } catch {} finally { continue; } }",
        "/(a+)+$/.test('a'.repeat(100) + 'b');",
        "const g = function* () { for (;;) yield; }; for (const x of g());",
        "return { toJSON() { for (;;); } };",
        "return new Promise((done) => { const again = () => Promise.resolve().then(again); again(); });",
        "const m = ccf.kv.m; m.set(args[0], args[0]); for (;;) m.get(args[0]);",
    ],
)
def test_a_loop_is_stopped_in_time(body: str) -> None:
    outcome = outcome_of(body, b"k", access=Access.APP_RW, limits=Limits(deadline_ms=60, operations=10**9))
    assert (outcome.end, outcome.text) == (End.DEADLINE, "Operation took too long to complete.")


def test_a_loop_at_the_top_of_a_module_is_stopped_too() -> None:
    assert run_here(job("for (;;); export const f = 1;", limits=Limits(deadline_ms=60)))[0].end is End.DEADLINE


@pytest.mark.parametrize(
    "body",
    [
        "const a = []; for (;;) a.push(new Array(1000).fill(0));",
        "let s = 'x'; for (;;) s += s;",
        "return new ArrayBuffer(1 << 30);",
        "const o = {}; for (let i = 0; ; i++) o['key' + i] = i;",
        "const a = []; for (;;) { try { a.push(new Uint8Array(100000)); } catch { return a.map((x) => x.slice()); } }",
    ],
)
def test_memory_is_bounded(body: str) -> None:
    outcome = outcome_of(body, limits=Limits(heap_bytes=4 << 20, deadline_ms=20_000))
    assert outcome.end in (End.MEMORY, End.EXCEPTION)
    if outcome.end is End.EXCEPTION:
        assert outcome.text in ("RangeError: invalid string length", "InternalError: string too long", "RangeError: Invalid string length")


def test_there_must_be_memory_to_begin_with() -> None:
    for heap_bytes in (1, 10_000, 50_000, 100_000):
        assert outcome_of("return 1;", limits=Limits(heap_bytes=heap_bytes)).end is End.MEMORY


@pytest.mark.parametrize(
    "body",
    ["const g = () => g() + 1; g();", "let a = []; for (let i = 0; i < 1e5; i++) a = [a]; return a;", "JSON.parse('['.repeat(1e6));"],
)
def test_recursion_is_bounded(body: str) -> None:
    outcome = outcome_of(body, limits=Limits(deadline_ms=20_000))
    assert outcome.end in (End.STACK, End.EXCEPTION), outcome
    assert "stack" in outcome.text or "SyntaxError" in outcome.text


def test_what_is_too_large_is_not_handed_back() -> None:
    for body in ("return 'x'.repeat(1001);", "return new ArrayBuffer(1001);", "return Array(600).fill(1);"):
        assert outcome_of(body, limits=Limits(output_bytes=1_000)).end is End.OUTPUT
    assert outcome_of("return {headers: {a: 'x'.repeat(1001)}};", {}, body=b"", limits=Limits(output_bytes=1_000)).end is End.OUTPUT


# Time and chance.


def test_time_and_chance_are_the_enclave_s() -> None:
    body = """return [Date.now(), new Date().toISOString(), +new Date(5), typeof Date(), Math.random(), new Date() instanceof Date,
      new Date(2020, 1).getTimezoneOffset()];"""
    first = value_of(body, clock=Clock(86_400_000, 7))
    assert first[:4] == [86_400_000, "1970-01-02T00:00:00.000Z", 5, "string"]
    assert first[5:] == [True, 0]
    assert first == value_of(body, clock=Clock(86_400_000, 7))
    assert first[4] != value_of(body, clock=Clock(86_400_000, 8))[4]
    assert 0 <= first[4] < 1
    assert value_of("return Math.random();", clock=Clock(0, None)) != value_of("return Math.random();", clock=Clock(0, None))


def test_for_an_application_time_goes_on_from_where_its_run_began() -> None:
    body = """const first = Date.now(), created = +new Date();
      let last; do last = +new Date(); while (last - first < 20);
      return [first, created >= first, Number.isInteger(last), last - first < 500, Date().includes('1970')];"""
    assert value_of(body, clock=Clock(86_400_000, None)) == [86_400_000, True, True, True, True]


def test_a_decision_knows_one_moment() -> None:
    for way in (
        "Date.prototype.constructor",
        "new Date().constructor",
        "Object.getPrototypeOf(new Date()).constructor",
        "class extends Date {}",
    ):
        assert value_of(f"const D = {way}; return [+new D(), Date.now()];") == [0, 0]
    assert value_of("return [typeof performance, typeof WeakRef, typeof FinalizationRegistry, typeof gc];") == ["undefined"] * 4
    assert value_of("return [Date.parse('1970-01-01T00:00:01Z'), Date.UTC(1970, 0), Date.name, Date.length];") == [1000, 0, "Date", 7]


def test_the_same_job_gives_the_same_result() -> None:
    body = """
      const seen = []; const m = new Map(); for (let i = 0; i < 50; i++) m.set({i}, Math.random());
      for (const [k, v] of m) seen.push(k.i, v);
      try { null.x } catch (e) { seen.push(e.stack) }
      return [seen, Object.getOwnPropertyNames(globalThis), String(Math.random), (0.1).toString(36), 'ß'.normalize('NFD')];
    """
    assert value_of(body) == value_of(body)


# Endpoints.


def respond(body: str, request: dict[str, Any] | None = None, content: bytes = b"") -> Outcome:
    """How an endpoint ends."""
    return outcome_of(body, request or {}, body=content)


def test_a_request_has_a_body_in_three_forms() -> None:
    source = "const [r] = args; return {body: [r.body.text(), r.body.json(), ccf.bufToStr(r.body.arrayBuffer()), r.method]};"
    assert respond(source, {"method": "GET"}, b"[1]").value == Response(200, (), Result("json", b'["[1]",[1],"[1]","GET"]'))


@pytest.mark.parametrize(
    ("returned", "response"),
    [
        ("{}", Response(200, (), Result("undefined", b""))),
        ("{statusCode: 404, body: 'no'}", Response(404, (), Result("text", b"no"))),
        ("{headers: {a: 'b', 'c-d': ''}}", Response(200, (("a", "b"), ("c-d", "")), Result("undefined", b""))),
        ("{body: new Uint8Array([1, 2])}", Response(200, (), Result("bytes", b"\1\2"))),
        ("{body: null}", Response(200, (), Result("json", b"null"))),
        ("{body: {a: 1}}", Response(200, (), Result("json", b'{"a":1}'))),
        ("{statusCode: -1}", Response(-1, (), Result("undefined", b""))),
        ("{statusCode: null}", Response(200, (), Result("undefined", b""))),
        ("{headers: 1}", Response(200, (), Result("undefined", b""))),
        ("{headers: null}", Response(200, (), Result("undefined", b""))),
        (
            "{headers: {a: 1, b: undefined, c: [2, 3]}}",
            Response(200, (("a", "1"), ("b", "undefined"), ("c", "2,3")), Result("undefined", b"")),
        ),
        ("{body: () => 1}", Response(200, (), Result("undefined", b""))),
        ("Promise.resolve({statusCode: 201})", Response(201, (), Result("undefined", b""))),
    ],
)
def test_a_response_has_status_headers_and_body(returned: str, response: Response) -> None:
    assert respond(f"return {returned};").value == response


@pytest.mark.parametrize(
    ("returned", "why", "thrown"),
    [
        ("1", "not an object", ""),
        ("null", "not an object", ""),
        ("undefined", "not an object", ""),
        ("'x'", "not an object", ""),
        ("Object.setPrototypeOf(['text\\nx\\n[]\\n', ''], Promise.prototype)", "not an object", ""),
        ("{statusCode: '200'}", "status code type", ""),
        ("{statusCode: 1.5}", "status code type", ""),
        ("{statusCode: 2 ** 40}", "status code type", ""),
        ("{headers: {a: Symbol()}}", "header value type", ""),
        ("{headers: {a: {toString() { throw 1 }}}}", "header value type", ""),
        ("{headers: {a: Object.create(null)}}", "header value type", ""),
        ("{body: {toJSON() { throw new Error('no') }}}", "error during JSON conversion of body", "Error: no"),
        ("{body: {toJSON() { throw Symbol('s') }}}", "error during JSON conversion of body", ""),
        ("{body: {a: 1n}}", "error during JSON conversion of body", "TypeError: BigInt are forbidden in JSON.stringify"),
    ],
)
def test_what_is_no_response_is_told(returned: str, why: str, thrown: str) -> None:
    outcome = respond(f"return {returned};")
    assert (outcome.end, outcome.text, outcome.trace) == (End.INVALID, why, thrown)


def test_why_it_is_none_is_cut_where_a_script_has_a_say_in_it() -> None:
    """What looks like a promise and is none is taken for what the prelude tells."""
    outcome = respond("return Object.setPrototypeOf(['x'.repeat(100000), ''], Promise.prototype);")
    assert (outcome.end, len(outcome.text)) == (End.INVALID, TEXT_LENGTH_MAX)


def test_what_was_signed_is_given_to_the_caller_who_has_signed_it() -> None:
    show = "const [r] = args; return {body: [ccf.bufToStr((r.caller.member_cose_sign1 ?? r.caller).cose.content), r.body.text()]};"
    for caller in ({"policy": "user_cose_sign1"}, {"policy": ["any_cert", "member_cose_sign1"], "member_cose_sign1": {}, "any_cert": {}}):
        outcome = outcome_of(show, {"caller": caller}, body=b"all of it", content=b"signed")
        assert outcome.value == Response(200, (), Result("json", b'["signed","all of it"]'))


# Tricks.

TRICKS = [
    "Array.prototype.push = () => { throw 1 }; Array.prototype.join = null;",
    "JSON.stringify = () => 'forged'; JSON.parse = () => 'forged';",
    "Uint8Array.prototype.set = Object.getPrototypeOf(Uint8Array.prototype).set = function () { globalThis.stolen = this };",
    "globalThis.ArrayBuffer = globalThis.Uint8Array = globalThis.Uint32Array = class { constructor() { throw 1 } };",
    "Object.defineProperty(Object.prototype, 'then', {get() { globalThis.stolen = this }, configurable: true});",
    "Object.defineProperty(Object.prototype, '0', {set(v) { globalThis.stolen = this }, get() { return 'forged' }, configurable: true});",
    "Object.defineProperty(Array.prototype, '0', {set(v) { globalThis.stolen = this }, get() { return 'forged' }, configurable: true});",
    "Function.prototype.call = Function.prototype.apply = Function.prototype.bind = () => { throw 1 };",
    "Object.prototype.toJSON = undefined; Object.keys = Object.create = Object.defineProperty = () => { throw 1 };",
    "globalThis.Proxy = globalThis.Error = globalThis.TypeError = globalThis.String = globalThis.Math = globalThis.Number = null;",
    "Object.freeze(Array.prototype); Object.freeze(Object.prototype); Object.freeze(globalThis);",
    "ArrayBuffer.isView = () => true; Array.isArray = () => false; Number.isInteger = () => false;",
    "Object.defineProperty(ArrayBuffer.prototype, 'byteLength', {get: () => 1e9}); ArrayBuffer.prototype.slice = null;",
    "delete Array.prototype[Symbol.iterator];",
]


@pytest.mark.parametrize("trick", TRICKS)
def test_a_script_that_replaces_what_is_built_in_gets_no_hold_of_anything(trick: str) -> None:
    store = store_of("records", {b"a": b"1"})
    body = f"""
      {trick}
      const m = ccf.kv.records; const k = ccf.strToBuf('a');
      m.set(ccf.strToBuf('b'), ccf.bufToStr(m.get(k)) === '1' ? ccf.strToBuf('2') : k);
      console.log('x');
      return ccf.bufToStr(m.get(ccf.strToBuf('b'))) + typeof globalThis.stolen;
    """
    outcome, overlay = run_here(job(f"export function f() {{ {body} }}", **RW), store)
    assert outcome.value == Result("text", b"2undefined"), outcome
    transaction = store.begin()
    overlay.write_into(transaction)
    assert transaction.take() == {"records": {b"b": b"2"}}


@pytest.mark.parametrize(
    "body",
    [
        "ccf.kv.m = 1;",
        "delete ccf.kv.m; return new Proxy(ccf.kv, {});",
        "return Object.getPrototypeOf(ccf.kv.m).get.call({}, args[0]);",
        "return ccf.kv.m.get.call(ccf.kv, args[0]);",
        "return ccf.kv[Symbol.iterator];",
        "const {get} = ccf.kv.m; return get(args[0]);",
        "return ccf.kv['']?.get(args[0]);",
        "return ccf.kv['x'.repeat(300)].get(args[0]);",
        "return ccf.kv['x'.repeat(100000)].get(args[0]);",
        "const b = args[0].transfer ? (args[0].transfer(), args[0]) : args[0]; return ccf.kv.m.get(b);",
        "return ccf.strToBuf({toString() { return 'x' }});",
        "const p = new Proxy({}, {get() { throw new Error('trap') }}); return p;",
        "return new Proxy(function () {}, {});",
        "return Object.create(null, {a: {get() { return this }, enumerable: true}});",
        "const a = []; a.length = 4294967295; return JSON.stringify(a.length);",
        "ccf.kv.m.set(new SharedArrayBuffer(8), args[0]);",
        "Atomics.wait(new Int32Array(new SharedArrayBuffer(8)), 0, 0);",
        "throw new Proxy({}, {get() { throw 1 }});",
        "return 10n ** 10n;",
        "return Symbol();",
        "eval('for (const x of [1]) ccf.kv.m.get(args[0])'); return new Function('return this')().ccf === ccf;",
    ],
)
def test_odd_uses_end_as_results_or_exceptions(body: str) -> None:
    outcome = outcome_of(body, b"k", access=Access.APP_RW, limits=Limits(deadline_ms=5_000))
    assert outcome.end in (End.DONE, End.EXCEPTION, End.STACK), outcome


# Reuse.

COUNTING = """
import { seen } from './seen.js';
const m = ccf.kv['records'];
let runs = 0;
export function f(key) {
  runs++; seen.push(key);
  if (key === 'bad') { Promise.resolve().then(() => m.set(ccf.strToBuf('late'), ccf.strToBuf('x'))); throw new Error('bad'); }
  m.set(ccf.strToBuf(key), ccf.strToBuf(String(runs)));
  return [runs, seen.length, Date.now(), Math.random()];
}
"""


def counting(key: str, kept: Interpreters, time_ms: int = 0, **options: Any) -> tuple[Any, dict[str, Any]]:
    """What a run gives, and writes."""
    bundle = Bundle({"/main.js": COUNTING, "/seen.js": "export const seen = [];"})
    options = {"reuse": "k", **RW, **options}
    outcome, overlay = run_here(Job(bundle, "/main.js", "f", (key,), clock=Clock(time_ms, 5), **options), kept=kept)
    transaction = Store().begin()
    overlay.write_into(transaction)
    return json.loads(outcome.value.data) if isinstance(outcome.value, Result) else outcome.end, transaction.take()


def test_a_context_is_used_again_by_jobs_of_its_key_and_no_others() -> None:
    kept = Interpreters()
    first = counting("a", kept, time_ms=1)
    again = counting("b", kept, time_ms=2)
    assert first[0][:3] == [1, 1, 1]
    assert again[0][:3] == [2, 2, 2]
    assert first[0][3] == again[0][3]  # chance begins anew with every run
    assert again[1] == {"records": {b"b": b"2"}}
    for other in ({"reuse": "other"}, {"reuse": ""}, {"access": Access.APP_RO}, {"limits": Limits(deadline_ms=999)}):
        found = counting("c", kept, **other)[0]
        assert found is End.EXCEPTION if "access" in other else found[0] == 1
    assert counting("d", kept)[0][0] == 3


def test_a_context_in_which_a_run_failed_is_not_used_again() -> None:
    kept = Interpreters()
    counting("a", kept)
    assert counting("bad", kept) == (End.EXCEPTION, {})
    assert counting("b", kept) == ([1, 1, 0, counting("b", Interpreters())[0][3]], {"records": {b"b": b"1"}})


def test_few_contexts_are_kept_and_none_of_a_bundle_that_is_forgotten() -> None:
    kept = Interpreters()
    for number in range(Limits().interpreters + 1):
        counting("a", kept, reuse=str(number))
    assert counting("a", kept, reuse="0")[0][0] == 1
    assert counting("a", kept, reuse="5")[0][0] == 2
    kept.forget(Bundle({"/main.js": COUNTING, "/seen.js": "export const seen = [];"}).id)
    assert counting("a", kept, reuse="5")[0][0] == 1


def test_a_context_that_is_used_ten_thousand_times_does_not_grow() -> None:
    kept = Interpreters()
    body = "const m = ccf.kv.m; m.set(args[0], args[0]); return {a: ccf.bufToStr(m.get(args[0])), b: [1, 2, 3]};"
    one = job(f"export function f(...args) {{ {body} }}", b"k" * 100, reuse="k", limits=Limits(heap_bytes=1 << 20), **RW)
    for _ in range(10_000):
        outcome = run_here(one, kept=kept)[0]
        assert outcome.end is End.DONE
    (interpreter,) = kept._kept.values()
    assert interpreter.maps == ["m"]


# Governance.

CONSTITUTION = """
class Action { constructor(validate, apply) { this.validate = validate; this.apply = apply; } }
const actions = new Map([['set_user', new Action(
  (args) => { if (typeof args.cert !== 'string') throw new Error('cert must be a string'); },
  (args, proposalId) => ccf.kv['public:ccf.gov.users.certs'].set(ccf.strToBuf(args.id), ccf.strToBuf(args.cert)),
)]]);
export function validate(input) {
  const proposal = JSON.parse(input); const errors = [];
  for (const { name, args } of proposal.actions) {
    try { actions.get(name).validate(args); } catch (e) { errors.push(`${name}: ${e.message}`); }
  }
  return { valid: errors.length === 0, description: errors.join(', ') };
}
export function resolve(proposal, proposerId, votes) {
  let members = 0;
  ccf.kv['public:ccf.gov.members.info'].forEach((v) => { if (ccf.bufToJsonCompatible(v).status === 'Active') members++; });
  return votes.filter((v) => v.vote).length > members / 2 ? 'Accepted' : 'Open';
}
export function apply(proposal, proposalId) {
  for (const { name, args } of JSON.parse(proposal).actions) actions.get(name).apply(args, proposalId);
}
"""
PROPOSAL = json.dumps({"actions": [{"name": "set_user", "args": {"id": "u1", "cert": "PEM"}}]})


@pytest.mark.parametrize("is_script", [False, True])
def test_a_constitution_validates_resolves_and_applies(is_script: bool) -> None:
    source = CONSTITUTION.replace("export function", "function") if is_script else CONSTITUTION
    store = store_of("public:ccf.gov.members.info", dict.fromkeys((b"m1", b"m2", b"m3"), b'{"status":"Active"}'))

    def call(function: str, *arguments: Any, access: Access = Access.GOV_RO) -> tuple[Result, Any]:
        outcome, overlay = run_here(job(source, *arguments, function=function, access=access, is_script=is_script), store)
        assert isinstance(outcome.value, Result), outcome
        return outcome.value, overlay

    assert json.loads(call("validate", PROPOSAL)[0].data) == {"valid": True, "description": ""}
    assert json.loads(call("validate", PROPOSAL.replace('"PEM"', "1"))[0].data)["description"] == "set_user: cert must be a string"
    votes = [{"member_id": "m1", "vote": True}, {"member_id": "m2", "vote": True}, {"member_id": "m3", "vote": False}]
    assert call("resolve", PROPOSAL, "m1", votes)[0] == Result("text", b"Accepted")
    assert call("resolve", PROPOSAL, "m1", votes[1:])[0] == Result("text", b"Open")
    overlay = call("apply", PROPOSAL, "p1", access=Access.GOV_RW)[1]
    transaction = store.begin()
    overlay.write_into(transaction)
    assert transaction.take() == {"public:ccf.gov.users.certs": {b"u1": b"PEM"}}


def test_a_ballot_votes() -> None:
    ballot = """export function vote(rawProposal, proposerId) {
      return JSON.parse(rawProposal).actions[0].name === 'set_user' && proposerId === 'm1';
    }"""
    assert run_here(job(ballot, PROPOSAL, "m1", function="vote", access=Access.GOV_RO))[0].value == Result("json", b"true")
    assert run_here(job(ballot, PROPOSAL, "m2", function="vote", access=Access.GOV_RO))[0].value == Result("json", b"false")
