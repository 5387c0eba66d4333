"""What scripts see of the ledger: states through the prelude, in real engines; handles, expiry and limits, in virtual time."""

import gc
import json
from typing import Any

import pytest

from ledgerd.apps.logging import app
from ledgerd.enclave import historical, ledger_calls, states
from ledgerd.enclave.endpoints import Context, Endpoint, Maps
from ledgerd.enclave.governing.engine import CALLS_BEFORE, CALLS_OF_APPLY
from ledgerd.enclave.requests import Request, Response
from ledgerd.enclave.runtime.script_line import Interpreters
from ledgerd.enclave.scripting import Steps
from ledgerd.enclave.scripts.access import READ, Access, rights
from ledgerd.enclave.scripts.jobs import Outcome, Result
from ledgerd.ledger import receipt
from ledgerd.ledger.errors import RequestError
from support.cluster import Cluster, Host
from support.scripts import job, run_here

ID = "x-ms-ccf-transaction-id"
CALLS = ledger_calls.APPLICATION_CALLS
BOTH = (*CALLS, ledger_calls.HISTORICAL_STATE)


class World:
    """One node, and scripts that may ask it."""

    def __init__(self) -> None:
        self.cluster = Cluster(app)
        self.host: Host = self.cluster.start(1)[0]
        serving = self.host.enclave._serving
        assert serving is not None
        self.serving = serving
        self.calls = ledger_calls.calls(serving._historical)
        transaction = serving._replica.store.begin()
        self.request = Request(None, "GET", "/x", "", {}, b"", None, "")
        self.context = Context(self.request, {}, None, Maps(transaction), transaction, serving.status)

    def commit(self, count: int, place: str = "records", value: bytes = b"v%d") -> list[int]:
        """Commit so many writes; their seqnos."""
        client = self.cluster.client(self.host)
        ids = [
            client.ask("PUT", f"/app/{place}/{n}", value % n if b"%" in value else value, prefer="committed").headers[ID]
            for n in range(count)
        ]
        return [int(transaction.split(".")[1]) for transaction in ids]

    def fetch(self, first: int, last: int) -> None:
        """Have the request's states at hand, as the node does it."""
        self.request.headers = {ID: f"{self.context.view_of(first)}.{first}"}
        with pytest.raises(states.StatesWanted) as wanted:
            _ = self.context.historical
        found: list[Any] = []
        ended: list[Any] = []
        self.serving._historical.read(wanted.value.wanted, found.extend, ended.append)
        self.cluster.until(lambda: bool(ended))
        self.request.states = {wanted.value.wanted: found}

    def run(self, body: str, *arguments: Any, kept: Interpreters | None = None, **options: Any) -> Outcome:
        """Run the body of a function."""
        source = job(f"export function f(...args) {{ {body} }}", *arguments, **{"calls": CALLS, **options})
        functions = {name: lambda given, call=call: call(self.context, given) for name, call in self.calls.items()}
        return run_here(source, functions=functions, kept=kept)[0]

    def value(self, body: str, *arguments: Any, **options: Any) -> Any:
        """What it gives, by way of JSON."""
        outcome = self.run(body, *arguments, **options)
        assert isinstance(outcome.value, Result), outcome
        return None if outcome.value.kind == "undefined" else json.loads(outcome.value.data) if outcome.value.kind == "json" else outcome

    def text(self, body: str, *arguments: Any) -> str:
        """The text of what it throws."""
        outcome = self.run(body, *arguments)
        assert outcome.value is None
        return outcome.text

    def get(self, *arguments: Any) -> Any:
        """`getStateRange`, as a call."""
        return self.calls["historical.getStateRange"](self.context, list(arguments))

    def wait(self, *arguments: Any) -> Any:
        """The same, until it is there."""
        self.cluster.until(lambda: self.get(*arguments) is not None)
        return self.get(*arguments)


@pytest.fixture
def world() -> World:
    return World()


RANGE = "const states = ccf.historical.getStateRange(args[0], args[1], args[2], 60);"


def test_a_range_is_null_while_it_is_read_and_then_complete(world: World) -> None:
    seqnos = world.commit(6)
    first, last = seqnos[0], seqnos[-1]
    assert world.value(f"{RANGE} return states;", 7, first, last) is None
    world.cluster.run(0.1)
    shown = world.value(
        f"""{RANGE}
        return states.map((state) => ({{
          id: state.transactionId,
          message: state.kv.records.get(ccf.strToBuf(args[3])) && ccf.bufToStr(state.kv.records.get(ccf.strToBuf(args[3]))),
          size: state.kv.records.size,
          receipt: state.receipt,
        }}));""",
        7,
        first,
        last,
        "3",
    )
    assert [int(state["id"].split(".")[1]) for state in shown] == list(range(first, last + 1))
    assert [state["message"] for state in shown if "message" in state] == ["v3"]
    assert [int(state["id"].split(".")[1]) for state in shown if state["size"]] == seqnos
    for state in shown:
        genuine = json.loads(world.cluster.client(world.host).ask("GET", f"/app/receipt?transaction_id={state['id']}").body)
        if state["receipt"]["is_signature_transaction"]:
            assert state["receipt"].pop("root_hex") == genuine["leaf"]
        else:
            verified = receipt.verify_json(state["receipt"], world.host.notices["service_certificate"])
            assert str(verified.transaction_id) == state["id"]
        assert state["receipt"] == genuine


def test_maps_of_a_state_are_read_like_maps_and_cannot_be_written(world: World) -> None:
    (written,) = world.commit(1, value=b"a\\x00\xc3\xa4")
    world.wait(1, written, written, 60)
    shown = world.value(
        f"""{RANGE}
        const kv = states[0].kv, map = kv['records'], key = ccf.strToBuf('0'), other = ccf.strToBuf('1');
        const seen = [];
        map.forEach((value, key, itself) => seen.push([ccf.bufToStr(key), ccf.bufToStr(value), itself === map]));
        const refused = ['set', 'delete', 'clear'].map((method) => {{
          try {{ map[method](key, key); return ''; }} catch (error) {{ return `${{error.name}}: ${{error.message}}`; }}
        }});
        return {{
          get: [map.get(key) instanceof ArrayBuffer, map.get(other) === undefined], has: [map.has(key), map.has(other)],
          size: [map.size, kv.nothing.size],
          version: [map.getVersionOfPreviousWrite(key), map.getVersionOfPreviousWrite(other) === undefined],
          seen, refused, name: map._map_name,
        }};""",
        1,
        written,
        written,
    )
    assert shown["get"] == [True, True]
    assert shown["has"] == [True, False]
    assert shown["size"] == [1, 0]
    assert shown["version"] == [written, True]
    assert shown["seen"] == [["0", "a\\x00ä", True]]
    assert all(
        "All tables are read-only during historical transaction" in text and text.startswith("TypeError") for text in shown["refused"]
    )


@pytest.mark.parametrize("count", [3, 32, 33, 300])
def test_keys_are_found_however_many_a_transaction_wrote(world: World, count: int) -> None:
    (written,) = world.commit(1)
    world.fetch(written, written)
    [[state]] = (world.request.states or {}).values()
    writes: dict[bytes, bytes | None] = {bytes([n % 256, n // 256]): b"v%d" % n for n in range(count)}
    state.writes = {"m": {**writes, bytes(3): None}, "empty key": {b"": b""}}
    shown = world.value(
        """const map = ccf.historicalState.kv.m, found = [];
        for (let n = 0; n < args[0]; n++) found.push(ccf.bufToStr(map.get(new Uint8Array([n % 256, n / 256]).buffer)));
        const others = [[], [0, 0, 0], [255, 255], [0]].map((key) => map.has(new Uint8Array(key).buffer));
        const empty = ccf.historicalState.kv['empty key'];
        return [found, others, map.size, empty.has(new ArrayBuffer(0)), empty.get(new ArrayBuffer(0)).byteLength];""",
        count,
        calls=BOTH,
    )
    assert shown == [[f"v{n}" for n in range(count)], [False] * 4, count, True, 0]


def test_a_removed_key_is_absent(world: World) -> None:
    world.commit(1)
    removed = world.cluster.client(world.host).ask("DELETE", "/app/records/0", prefer="committed").headers[ID]
    seqno = int(removed.split(".")[1])
    world.wait(1, seqno, seqno, 60)
    body = (
        f"{RANGE} const map = states[0].kv.records, key = ccf.strToBuf('0'); return [map.has(key), map.get(key) === undefined, map.size];"
    )
    assert world.value(body, 1, seqno, seqno) == [False, True, 0]


def test_public_maps_of_governance_are_seen_and_private_ones_of_the_service_are_refused(world: World) -> None:
    done = world.cluster.client(world.host).ask("PUT", "/app/records/k", b"v", prefer="committed", idempotency_key="once").headers[ID]
    seqno = int(done.split(".")[1])
    packed = world.wait(2, 1, seqno, 60)
    assert b"public:ccf.gov.service.info" in packed
    assert b'"ledgerd.' not in packed
    size = "return states[0].kv['public:ccf.gov.service.info'].size;"
    assert world.value(f"{RANGE} {size}", 2, 1, seqno) == 1
    for name in ("ledgerd.idempotency", "ccf.gov.secret"):
        text = world.text(f"{RANGE} return states[0].kv['{name}'].size;", 2, 1, seqno)
        assert text.startswith("TypeError") and "inaccessible" in text


@pytest.mark.parametrize("name", ["a", "public:a", "public:ccf.gov.x", "public:ccf.internal.x", "public:ledgerd.x", "ccf.x", "ledgerd.x"])
def test_what_a_state_shows_is_what_scripts_may_read(name: str) -> None:
    assert states.is_readable(name) is bool(rights(Access.APP_RO, name) & READ)


def test_the_historical_state_is_there_where_the_mode_gives_it(world: World) -> None:
    seqnos = world.commit(2)
    world.fetch(seqnos[1], seqnos[1])
    shown = "return [ccf.historicalState.transactionId, ccf.bufToStr(ccf.historicalState.kv.records.get(ccf.strToBuf('1')))];"
    assert world.value(shown, calls=BOTH) == [f"2.{seqnos[1]}", "v1"]
    assert world.value("return ccf.historicalState === ccf.historicalState;", calls=BOTH) is True
    assert world.value("return typeof ccf.historicalState;").value.data == b"undefined"
    # What CCF's sample does: the claims are taken out before the receipt is shown.
    body = "const r = ccf.historicalState.receipt; delete r.leaf_components.claims_digest; return ccf.historicalState.receipt;"
    assert "claims_digest" not in world.value(body, calls=BOTH)["leaf_components"]
    world.request.states = None
    outcome = world.run("return ccf.historicalState;", calls=BOTH)
    assert outcome.text == "Error: there is no historical state at hand"


def test_a_kept_context_has_the_state_of_each_run(world: World) -> None:
    seqnos = world.commit(2)
    kept = Interpreters()
    for number, seqno in enumerate(seqnos):
        world.fetch(seqno, seqno)
        body = "globalThis.runs = (globalThis.runs ?? 0) + 1; return [runs, ccf.historicalState.transactionId];"
        assert world.value(body, calls=BOTH, reuse="k", kept=kept) == [number + 1, f"2.{seqno}"]


def test_consensus_answers_scripts(world: World) -> None:
    (seqno, *_) = world.commit(2)
    committed = world.value("return ccf.consensus.getLastCommittedTxId();")
    assert committed == {"view": 2, "seqno": world.host.committed}
    assert world.value("return [ccf.consensus.getStatusForTxId(2, args[0])];", seqno) == ["Committed"]
    assert world.value("return [ccf.consensus.getStatusForTxId(3, args[0])];", seqno) == ["Invalid"]
    assert world.value("return ccf.consensus.getViewForSeqno(args[0]);", seqno) == 2
    assert world.value("return ccf.consensus.getViewForSeqno(100000) === null;") is True


@pytest.mark.parametrize(
    "call",
    [
        "historical.getStateRange(1, 2)",
        "historical.getStateRange(1, 2, 3, 4, 5)",
        "historical.getStateRange(-1, 2, 3, 4)",
        "historical.getStateRange(1, NaN, 3, 4)",
        "historical.getStateRange(1, 1.5, 3, 4)",
        "historical.getStateRange({}, 1, 3, 4)",
        "historical.getStateRange(1, 3, 2, 4)",
        "historical.getStateRange(1, 0, 2, 4)",
        "historical.getStateRange(1, 1, 10001, 4)",
        "historical.dropCachedStates()",
        "historical.dropCachedStates('x')",
        "consensus.getLastCommittedTxId(1)",
        "consensus.getStatusForTxId(2)",
        "consensus.getStatusForTxId(-2, 1)",
        "consensus.getViewForSeqno(2 ** 60)",
    ],
)
def test_what_makes_no_sense_is_an_exception_of_the_script_s(world: World, call: str) -> None:
    world.commit(1)
    assert world.text(f"return ccf.{call};").startswith("Error: ")


def test_what_is_not_committed_yet_is_null_as_in_ccf(world: World) -> None:
    world.commit(1)
    assert world.get(1, 1, world.host.committed + 1, 60) is None
    assert world.get(1, 5000, 5001, 60) is None
    assert not world.serving._historical._handles, "nothing is kept for it"


def test_states_are_kept_until_nobody_has_asked_for_so_long(world: World) -> None:
    world.commit(4)
    found = world.wait(1, 2, 3, 10)
    world.host.read_back = lambda n, data: pytest.fail("it is kept")
    for _ in range(3):
        world.cluster.run(9.0)
        assert world.get(1, 2, 3, 10) is found
    world.cluster.run(11.0)
    world.host.read_back = None
    assert world.get(1, 2, 3, 10) is None
    assert world.wait(1, 2, 3, 10) == found


def test_a_handle_holds_one_range_and_can_be_dropped(world: World) -> None:
    world.commit(4)
    one = world.wait(1, 2, 3, 60)
    other = world.wait(2, 2, 4, 60)
    assert world.get(1, 2, 3, 60) is one
    assert world.get(1, 2, 4, 60) is None, "another range under the same handle is read anew"
    assert world.wait(1, 2, 4, 60) == other
    drop = world.calls["historical.dropCachedStates"]
    assert [drop(world.context, [1]), drop(world.context, [1]), drop(world.context, [9])] == [True, False, False]
    assert world.get(2, 2, 4, 60) is other
    assert world.value("return [ccf.historical.dropCachedStates(2), ccf.historical.dropCachedStates(2)];") == [True, False]


def test_the_range_asked_for_longest_ago_goes_first_when_memory_is_short(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.commit(12)
    for number in range(3):
        world.wait(number, 2, 6, 60)
    monkeypatch.setattr(historical, "HELD_BYTES_MAX", world.serving._historical.held_bytes + 100)
    world.get(0, 2, 6, 60)
    world.wait(3, 2, 3, 60)
    assert sorted(world.serving._historical._handles) == [0, 2, 3]
    monkeypatch.setattr(historical, "HANDLES_MAX", 3)
    world.wait(4, 2, 3, 60)
    assert sorted(world.serving._historical._handles) == [0, 3, 4]


def test_what_is_kept_for_scripts_makes_room_for_requests_that_wait(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.commit(12)
    for number in range(3):
        world.wait(number, 2, 6, 3_000)
    held = world.serving._historical.held_bytes
    monkeypatch.setattr(historical, "HELD_BYTES_MAX", held)
    found: list[Any] = []
    ended: list[Any] = []
    world.serving._historical.read((2, 4), found.extend, ended.append)
    world.cluster.until(lambda: bool(ended))
    assert (ended, len(found)) == ([None], 3)
    assert 0 not in world.serving._historical._handles and 2 in world.serving._historical._handles
    assert world.serving._historical.held_bytes < held


def test_several_ranges_for_scripts_are_read_side_by_side(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read for a handle counts once: else two of half the memory would throw each other out, for ever."""
    world.commit(12)
    last = world.host.committed
    world.wait(1, 2, last, 60)
    monkeypatch.setattr(historical, "HELD_BYTES_MAX", 2 * world.serving._historical.held_bytes + 1_000)
    world.calls["historical.dropCachedStates"](world.context, [1])
    for number in (1, 2):
        assert world.get(number, 2, last, 60) is None
    world.cluster.run(0.3)
    assert [world.get(number, 2, last, 60) is None for number in (1, 2)] == [False, False]


def test_a_range_that_the_host_does_not_give_back_is_an_exception_that_names_it_and_is_tried_again_later(world: World) -> None:
    world.commit(6)
    world.host.read_back = lambda n, data: None if n >= 4 else data
    assert world.get(1, 2, 5, 60) is None
    world.cluster.run(1.0)
    for _ in range(3):
        with pytest.raises(ValueError, match="entries 4 to 5"):
            world.get(1, 2, 5, 60)
    assert "entries 4 to 5" in world.text("ccf.historical.getStateRange(1, 2, 5, 60);")
    world.host.read_back = None
    world.cluster.run(historical.FAILURE_SECONDS)
    assert world.get(1, 2, 5, 60) is None
    world.wait(1, 2, 5, 60)


def test_what_is_too_large_for_a_script_is_an_exception(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_calls, "RANGE_FOR_SCRIPTS_BYTES_MAX", 10_000)
    world.commit(6, value=b"x" * 5_000)
    assert world.get(1, 2, 7, 60) is None
    world.cluster.run(1.0)
    with pytest.raises(ValueError, match="10000 bytes"):
        world.get(1, 2, 7, 60)


def handler_of(body: str, *calls: str, mode: str = "") -> Any:
    """A scripted endpoint's handler, as a dispatcher of JavaScript applications has it."""

    def handler(context: Context) -> Steps:
        if mode == "historical":
            _ = context.historical
        query = context.query
        source = f"export function f(first, last) {{ {body} }}"
        outcome = yield job(source, int(query.get("first", 0)), int(query.get("last", 0)), calls=calls, access=Access.APP_RW)
        if outcome.value is None:
            raise RequestError(500, "InternalError", outcome.text)
        assert isinstance(outcome.value, Result)
        return Response(200, (), outcome.value.data, "application/json")

    return handler


def test_scripted_endpoints_are_held_until_their_state_is_there_and_ranges_are_asked_for_again(world: World) -> None:
    at = "return [ccf.historicalState.transactionId, ccf.historicalState.kv.records.has(ccf.strToBuf('1'))];"
    span = "const s = ccf.historical.getStateRange(1, first, last, 60); return s === null ? null : s.map((s) => s.transactionId);"
    endpoints = (("/at", handler_of(at, *BOTH, mode="historical")), ("/span", handler_of(span, *CALLS)))
    for path, handler in endpoints:
        world.serving._registries["app"].add(Endpoint("GET", path, handler, scripted=True, system=False))
    seqnos = world.commit(3)
    client = world.cluster.client(world.host)
    answer = client.ask("GET", "/app/at", x_ms_ccf_transaction_id=f"2.{seqnos[1]}")
    assert (answer.status, json.loads(answer.body)) == (200, [f"2.{seqnos[1]}", True])
    assert json.loads(client.ask("GET", "/app/at").body)["error"]["code"] == "MissingRequiredHeader"
    answer = client.ask("GET", "/app/at", x_ms_ccf_transaction_id="2.9999")
    assert json.loads(answer.body)["error"]["code"] == "TransactionPendingOrUnknown"
    path = f"/app/span?first={seqnos[0]}&last={seqnos[1]}"
    assert json.loads(client.ask("GET", path).body) is None
    world.cluster.run(0.1)
    assert json.loads(client.ask("GET", path).body) == [f"2.{seqno}" for seqno in range(seqnos[0], seqnos[1] + 1)]
    world.host.read_back = lambda n, data: None
    answer = client.ask("GET", "/app/at", x_ms_ccf_transaction_id=f"2.{seqnos[0]}")
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (404, "LedgerRangeMissing")
    path = f"/app/span?first={seqnos[0]}&last={seqnos[2]}"
    assert json.loads(client.ask("GET", path).body) is None
    world.cluster.run(1.0)
    assert f"entries {seqnos[0]} to {seqnos[2]}" in json.loads(client.ask("GET", path).body)["error"]["message"]


@pytest.mark.parametrize("calls", [CALLS_BEFORE, CALLS_OF_APPLY])
def test_governance_may_not_ask_the_ledger(world: World, calls: tuple[str, ...]) -> None:
    assert not set(calls) & set(BOTH)
    functions = {name: lambda arguments: None for name in calls}
    source = job("export function f() { return [typeof ccf.historical, typeof ccf.consensus, typeof ccf.historicalState]; }", calls=calls)
    outcome, _ = run_here(source, functions=functions)
    assert isinstance(outcome.value, Result), outcome
    assert json.loads(outcome.value.data) == ["undefined"] * 3


def test_a_script_that_replaces_what_is_built_in_still_reads_states(world: World) -> None:
    (seqno,) = world.commit(1)
    world.wait(1, seqno, seqno, 60)
    hostile = """
      Array.prototype[Symbol.iterator] = Map = Uint8Array = undefined; String.fromCharCode = () => 'x';
      ArrayBuffer.prototype.slice = () => { throw 1; }; JSON.parse = () => 1; Object.keys = () => []; Object.defineProperty = () => {};
    """
    shown = "return ccf.bufToStr(states[0].kv.records.get(ccf.strToBuf('0'))) + states[0].receipt.leaf_components.commit_evidence;"
    outcome = world.run(f"{hostile} {RANGE} {shown}", 1, seqno, seqno)
    assert isinstance(outcome.value, Result), outcome
    assert outcome.value.data.decode().startswith(f"v0ce:2.{seqno}:")


def test_what_was_read_for_nothing_is_let_go(world: World) -> None:
    """Whoever drops ranges while they are read costs no memory: no exception may keep the frames that it went through."""
    world.commit(6)
    for _ in range(3):
        assert world.get(1, 2, 5, 60) is None
        assert world.calls["historical.dropCachedStates"](world.context, [1])
        world.cluster.run(0.3)
    gc.collect()
    assert [kept for kept in gc.get_objects() if isinstance(kept, states.HistoricalState)] == []
    assert world.serving._historical.next_deadline == float("inf")


def test_a_range_that_cannot_be_read_does_not_keep_the_requests_that_were_told_so(world: World) -> None:
    world.commit(6)
    world.host.read_back = lambda n, data: None
    assert world.get(1, 2, 5, 60) is None
    world.cluster.run(1.0)
    transaction = world.serving._replica.store.begin()
    for _ in range(50):
        request = Request(None, "GET", "/told", "", {}, b"", None, "")
        told = Context(request, {}, None, Maps(transaction), transaction, world.serving.status)
        with pytest.raises(ValueError, match="entries 2 to 5"):
            world.calls["historical.getStateRange"](told, [1, 2, 5, 60])
    gc.collect()
    kept = [each for each in gc.get_objects() if isinstance(each, Request) and each.path == "/told"]
    assert len(kept) <= 2, "the last one, and what runs here"
