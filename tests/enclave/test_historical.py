"""Historical states: read back from the host, recognised, bounded, and never something else than what was committed."""

import gc
import json
import tracemalloc
from collections import deque
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledgerd.enclave import historical, states
from ledgerd.enclave.app import App, Context
from ledgerd.ledger import receipt
from ledgerd.ledger.entry import ZERO_DIGEST, Sealer, read_public
from ledgerd.ledger.errors import UsageError
from ledgerd.ledger.ids import Seqno, TransactionId, View
from ledgerd.ledger.signature import TREE
from support.cluster import Cluster, Host
from support.forks import rolled_back

ID = "x-ms-ccf-transaction-id"

app = App("historical")


@app.put("/{place}/{key}")
def write(ctx: Context, place: str, key: str, body: str) -> None:
    """Write to the map that the path names, with claims."""
    ctx.set_claims_digest(sha256(body.encode()).digest())
    ctx.kv[place].set(key.encode(), body.encode())
    ctx.kv[f"public:{place}"].set(key.encode(), body[::-1].encode())


@app.delete("/{place}/{key}")
def remove(ctx: Context, place: str, key: str) -> None:
    """Remove a key from both."""
    ctx.kv[place].delete(key.encode())
    ctx.kv[f"public:{place}"].delete(key.encode())


@app.get("/at/{place}", historical=True)
def at(ctx: Context, place: str) -> Any:
    """What the named transaction wrote."""
    return shown(ctx.historical, place)


@app.get("/blind", historical=True)
def blind(ctx: Context) -> Any:
    """Of mode historical, and not interested."""
    return ["seen nothing"]


@app.get("/between/{place}")
def between(ctx: Context, place: str, first: int, last: int) -> Any:
    """What a range of them wrote."""
    return [shown(state, place) for state in ctx.states(first, last)]


@app.get("/status/{view}/{seqno}")
def status(ctx: Context, view: int, seqno: int) -> Any:
    """What consensus says."""
    return [str(ctx.committed), ctx.status_of(TransactionId(View(view), Seqno(seqno))), ctx.view_of(seqno)]


runs: list[str] = []


@app.post("/stubborn")
def stubborn(ctx: Context) -> Any:
    """Write first, read the past then, and catch whatever can be caught."""
    runs.append("run")
    ctx.kv["runs"].set(b"k", b"%d" % len(runs))
    try:
        there = [ctx.states(2, 3), ctx.states(1, 1)]
    except Exception:
        return "caught"
    return [len(found) for found in there]


def shown(state: states.HistoricalState, place: str) -> dict[str, Any]:
    """A state as JSON."""
    maps = {name: {key.decode(): value.decode() for key, value in state.kv[name].items()} for name in (place, f"public:{place}")}
    return {"id": str(state.transaction_id), "maps": maps, "names": state.kv.names(), "receipt": state.receipt}


def service(nodes: int = 1, **more: Any) -> tuple[Cluster, list[Host]]:
    cluster = Cluster(app, **more)
    return cluster, cluster.start(nodes)


def commit(cluster: Cluster, host: Host, count: int, place: str = "a") -> list[str]:
    """Commit so many transactions one after the other; their ids."""
    client = cluster.client(host)
    return [client.ask("PUT", f"/app/{place}/k{n}", b"v%d" % n, prefer="committed").headers[ID] for n in range(count)]


def ask(cluster: Cluster, host: Host, path: str, **headers: Any) -> tuple[int, Any]:
    answer = cluster.client(host).ask("GET", path, **headers)
    value = json.loads(answer.body)
    return answer.status, value["error"] if answer.status >= 400 else value


def seqno_of(transaction: str) -> int:
    return int(transaction.split(".")[1])


@pytest.mark.parametrize("place", ["a", "ä"])
def test_a_state_is_what_its_transaction_wrote_with_the_receipt_that_proves_it(place: str) -> None:
    cluster, (host,) = service()
    ids = commit(cluster, host, 5, "%C3%A4" if place == "ä" else place)
    for number, transaction in enumerate(ids):
        status, value = ask(cluster, host, f"/app/at/{'%C3%A4' if place == 'ä' else place}", x_ms_ccf_transaction_id=transaction)
        assert status == 200
        assert value["maps"] == {place: {f"k{number}": f"v{number}"}, f"public:{place}": {f"k{number}": f"{number}v"}}
        assert value["names"] == sorted([place, f"public:{place}"])
        verified = receipt.verify_json(value["receipt"], host.notices["service_certificate"])
        assert str(verified.transaction_id) == transaction == value["id"]
        assert verified.claims_digest == sha256(b"v%d" % number).digest()
        _, same = ask(cluster, host, f"/app/receipt?transaction_id={transaction}")
        assert value["receipt"] == same


def test_a_removed_key_is_absent_and_known_to_be_removed() -> None:
    cluster, (host,) = service()
    commit(cluster, host, 1)
    removed = cluster.client(host).ask("DELETE", "/app/a/k0", prefer="committed").headers[ID]
    status, value = ask(cluster, host, "/app/at/a", x_ms_ccf_transaction_id=removed)
    assert (status, value["maps"]) == (200, {"a": {}, "public:a": {}})
    assert value["names"] == ["a", "public:a"]


def test_a_range_has_every_entry_signatures_and_genesis_included() -> None:
    cluster, (host,) = service()
    commit(cluster, host, 12)
    last = host.committed
    status, found = ask(cluster, host, f"/app/between/a?first=1&last={last}")
    assert status == 200
    assert [seqno_of(state["id"]) for state in found] == list(range(1, last + 1))
    signatures = [n for n in range(1, last + 1) if TREE in read_public(host.entries[n - 1]).writes]
    assert [seqno_of(state["id"]) for state in found if state["receipt"]["is_signature_transaction"]] == signatures
    assert "public:ccf.gov.service.info" in found[0]["names"]
    for state in found:
        if not state["receipt"]["is_signature_transaction"]:
            assert str(receipt.verify_json(state["receipt"], host.notices["service_certificate"]).transaction_id) == state["id"]
    # Every end of a range, each of them a signature entry, before one, or behind one.
    for end in range(last - 6, last + 1):
        assert ask(cluster, host, f"/app/between/a?first={end}&last={end}")[1] == [found[end - 1]]
        assert ask(cluster, host, f"/app/between/a?first=3&last={end}")[1] == found[2:end]


def test_ranges_cross_views_and_a_backup_reads_its_own_disk() -> None:
    cluster, hosts = service(3)
    before = commit(cluster, hosts[0], 4)
    cluster.kill(hosts[0])
    cluster.until(lambda: any(host.notices.get("role") == "primary" for host in hosts[1:]))
    new = next(host for host in hosts[1:] if host.notices.get("role") == "primary")
    after = commit(cluster, new, 4, "b")
    cluster.run(0.5)
    first, last = seqno_of(before[0]), seqno_of(after[-1])
    for host in hosts[1:]:
        status, found = ask(cluster, host, f"/app/between/b?first={first}&last={last}")
        assert status == 200
        assert {state["id"].split(".")[0] for state in found} == {"2", after[0].split(".")[0]}
        assert [state["id"] for state in found if state["id"] in (*before, *after)] == [*before, *after]
        for state in found:
            if not state["receipt"]["is_signature_transaction"]:
                receipt.verify_json(state["receipt"], new.notices["service_certificate"])


def test_consensus_is_asked_by_python_as_by_everybody() -> None:
    cluster, (host,) = service()
    ids = commit(cluster, host, 2)
    committed = ask(cluster, host, "/app/commit")[1]["transaction_id"]
    assert ask(cluster, host, f"/app/status/2/{seqno_of(ids[0])}")[1] == [committed, "Committed", 2]
    assert ask(cluster, host, f"/app/status/9/{seqno_of(ids[0])}")[1] == [committed, "Invalid", 2]
    assert ask(cluster, host, "/app/status/2/100000")[1] == [committed, "Unknown", None]
    assert ask(cluster, host, "/app/status/2/0")[1][2] is None


def test_the_header_is_checked_as_in_ccf_whether_the_handler_looks_at_the_state_or_not() -> None:
    cluster, (host,) = service()
    ids = commit(cluster, host, 1)
    for path in ("/app/at/a", "/app/blind"):
        assert ask(cluster, host, path)[1]["code"] == "MissingRequiredHeader"
    assert ask(cluster, host, "/app/blind", x_ms_ccf_transaction_id=ids[0]) == (200, ["seen nothing"])
    for wrong in ("", "2", "2.x", "2.3.4", "-2.3", "2.99999999999999999999"):
        status, error = ask(cluster, host, "/app/at/a", x_ms_ccf_transaction_id=wrong)
        assert (status, error["code"]) == (400, "InvalidHeaderValue")
    status, error = ask(cluster, host, "/app/at/a", x_ms_ccf_transaction_id="2.100000")
    assert (status, error["code"]) == (404, "TransactionPendingOrUnknown")
    status, error = ask(cluster, host, "/app/at/a", x_ms_ccf_transaction_id=f"3.{seqno_of(ids[0])}")
    assert (status, error["code"]) == (404, "TransactionInvalid")


def test_what_is_no_range_is_refused_before_anything_is_read() -> None:
    cluster, (host,) = service()
    commit(cluster, host, 1)
    host.read_back = lambda n, data: pytest.fail("nothing is to be read")
    for first, last in ((0, 1), (-1, 2), (3, 2)):
        assert ask(cluster, host, f"/app/between/a?first={first}&last={last}")[1]["code"] == "InvalidInput"
    assert ask(cluster, host, "/app/between/a?first=1&last=100")[1]["code"] == "TransactionPendingOrUnknown"
    status, error = ask(cluster, host, f"/app/between/a?first=1&last={states.RANGE_ENTRIES_MAX + 1}")
    assert (status, error["code"]) == (400, "RangeTooLarge")


def test_a_handler_is_called_again_and_what_it_wrote_before_never_was() -> None:
    cluster, (host,) = service()
    commit(cluster, host, 2)
    runs.clear()
    answer = cluster.client(host).ask("POST", "/app/stubborn", prefer="committed")
    assert (answer.status, json.loads(answer.body), len(runs)) == (200, [2, 1], 3)
    status, value = ask(cluster, host, "/app/at/runs", x_ms_ccf_transaction_id=answer.headers[ID])
    assert (status, value["maps"]["runs"]) == (200, {"k": "3"})


def test_private_maps_of_the_service_are_not_for_applications() -> None:
    cluster, (host,) = service()
    done = cluster.client(host).ask("PUT", "/app/a/k", b"v", prefer="committed", idempotency_key="once").headers[ID]
    [state] = read(host, cluster, seqno_of(done), seqno_of(done))
    private = [name for name in state.writes if name.startswith("ledgerd.")]
    assert private, "the idempotency key's record stands in the entry"
    assert not set(private) & set(state.kv.names())
    for name in (*private, "ccf.gov.users"):
        with pytest.raises(UsageError, match="service's own"):
            state.kv[name]


def read(host: Host, cluster: Cluster, first: int, last: int) -> Any:
    """The states of a range, or the RequestError."""
    found: list[Any] = []
    ended: list[Any] = []
    serving = host.enclave._serving
    assert serving is not None
    serving._historical.read((first, last), found.extend, ended.append)
    cluster.until(lambda: bool(ended), 60.0)
    return found if ended == [None] else ended[0]


# A host that lies.


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


Lie = Callable[[list[bytes], int, bytes], bytes | None]


@pytest.mark.parametrize(
    "lie",
    [
        pytest.param(lambda entries, n, data: flip(data, 10), id="a flipped bit in the tag"),
        pytest.param(lambda entries, n, data: flip(data, 3), id="a flipped bit in the header"),
        pytest.param(lambda entries, n, data: flip(data, 1), id="a flag"),
        pytest.param(lambda entries, n, data: flip(data, len(data) - 1), id="a flipped bit in what is sealed"),
        pytest.param(lambda entries, n, data: entries[n - 2], id="the entry before it"),
        pytest.param(lambda entries, n, data: entries[n], id="the entry after it"),
        pytest.param(lambda entries, n, data: data[:-1], id="truncated"),
        pytest.param(lambda entries, n, data: b"", id="empty"),
        pytest.param(lambda entries, n, data: bytes(len(data)), id="zeros"),
    ],
)
def test_a_range_with_one_entry_that_is_not_the_committed_one_is_refused_counted_and_asked_for_again(lie: Lie) -> None:
    cluster, (host,) = service()
    commit(cluster, host, 8)
    entries = list(host.entries)
    lies: list[int] = []

    def once(n: int, data: bytes) -> bytes | None:
        if n != 6 or len(lies) >= limit:
            return data
        lies.append(n)
        return lie(entries, n, data)

    host.read_back = once
    limit = historical.ATTEMPTS_MAX - 1
    assert [state.transaction_id.seqno for state in read(host, cluster, 2, 8)] == list(range(2, 9)), "it gave up too early"
    assert host.enclave._rejects.counts["fetched"] == limit == len(lies)
    limit = 1_000
    error = read(host, cluster, 2, 8)
    assert (error.status, error.error_code) == (503, "LedgerRangeRefused")
    assert "to 8" in error.message
    assert len(lies) == 2 * historical.ATTEMPTS_MAX - 1
    status, shown = ask(cluster, host, "/app/between/a?first=2&last=8")
    assert (status, shown["code"]) == (503, "LedgerRangeRefused")


def test_another_entry_of_that_very_id_is_refused_though_it_was_sealed_with_the_ledger_secret() -> None:
    """Nobody but an enclave could make it; the tree knows the difference all the same."""
    cluster, (host,) = service()
    commit(cluster, host, 8)
    serving = host.enclave._serving
    assert serving is not None
    other = Sealer(serving.status.secrets()[0][1]).seal(2, 6, {"a": {b"k": b"another"}}).data
    assert other != host.entries[5]
    host.read_back = lambda n, data: other if n == 6 else data
    for first, last in ((2, 8), (6, 6)):
        assert read(host, cluster, first, last).error_code == "LedgerRangeRefused"
    assert any("its leaf is not the one that was signed" in text for _, text in host.logs)


@pytest.mark.parametrize("withheld", [2, 5, 8])
def test_entries_withheld_are_a_404_that_names_them(withheld: int) -> None:
    cluster, (host,) = service()
    commit(cluster, host, 8)
    host.read_back = lambda n, data: None if n >= withheld else data
    status, error = ask(cluster, host, "/app/between/a?first=2&last=8")
    assert (status, error["code"]) == (404, "LedgerRangeMissing")
    assert f"entries {withheld} to 8" in error["message"]
    host.read_back = None
    assert ask(cluster, host, "/app/between/a?first=2&last=8")[0] == 200


def test_a_host_that_does_not_answer_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, (host,) = service()
    commit(cluster, host, 3)
    monkeypatch.setattr(cluster, "_read", lambda host, fetch: pytest.fail("not asked"))
    serving = host.enclave._serving
    assert serving is not None
    asked = []
    monkeypatch.setattr(serving._archive, "read", lambda first, through, size, now, done: asked.append(done))
    began = cluster.now
    found: list[Any] = []
    ended: list[Any] = []
    serving._historical.read((2, 3), found.extend, ended.append)
    cluster.until(lambda: bool(ended))
    assert [error.error_code for error in ended] == ["LedgerRangeMissing"]
    assert historical.READ_SECONDS_MAX <= cluster.now - began < historical.READ_SECONDS_MAX + 1
    asked[0](host.entries[1:])  # too late
    assert (found, len(ended)) == ([], 1)


def test_an_entry_of_a_view_that_was_rolled_back_is_refused_though_this_service_sealed_it() -> None:
    cluster, hosts = service(3)
    cluster.run(0.3)
    old = hosts[0]
    fork, _ = rolled_back(cluster, hosts, "/app/a/never", lambda new: commit(cluster, new, 3))
    honest = read(old, cluster, 1, old.committed)
    assert b"never" not in [key for state in honest for writes in state.writes.values() for key in writes]
    old.read_back = lambda n, data: fork[n - 1] if n <= len(fork) else data
    error = read(old, cluster, 1, old.committed)
    assert error.error_code == "LedgerRangeRefused"
    # The fork has a signature of its own, by this service's keys: within it, every leaf is the one that was signed.
    differ = [n for n, data in enumerate(fork, 1) if data != old.entries[n - 1]]
    assert len(differ) > 1 and TREE in read_public(fork[-1]).writes
    for seqno in differ:
        assert read(old, cluster, seqno, seqno).error_code == "LedgerRangeRefused"


def test_a_signed_range_larger_than_one_answer_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """No signature is in the first answers, yet an honest host is not accused."""
    cluster, (host,) = service()
    client = cluster.client(host)
    for n in range(40):
        client.start("PUT", f"/app/a/k{n}", b"x" * 1000)
    cluster.run(0.5)
    monkeypatch.setattr(historical, "FETCH_BYTES", 4_000)
    size = historical.FETCH_BYTES

    def read_in_pieces(host: Host, fetch: Any) -> list[bytes]:
        found = whole(host, fetch)
        kept = 0
        while kept < len(found) and (kept == 0 or sum(map(len, found[: kept + 1])) <= size):
            kept += 1
        return found[:kept]

    whole = cluster._read
    cluster._read = read_in_pieces  # type: ignore[method-assign]
    last = host.committed
    found = read(host, cluster, 1, last)
    assert [state.transaction_id.seqno for state in found] == list(range(1, last + 1))
    assert host.enclave._rejects.counts.get("fetched") is None
    for state in found:
        if not state.is_signature:
            receipt.verify_json(state.receipt, host.notices["service_certificate"])


@pytest.fixture(scope="module")
def served() -> tuple[Cluster, Host, list[Any]]:
    """One node with some history, and all of it as states."""
    cluster, (host,) = service()
    commit(cluster, host, 30)
    return cluster, host, [known(state) for state in read(host, cluster, 1, host.committed)]


def known(state: states.HistoricalState) -> Any:
    """A state, for comparison."""
    return state.transaction_id, state.writes, json.dumps(state.receipt, sort_keys=True)


places = st.integers(0, 9)
edits = st.lists(
    st.one_of(
        st.tuples(st.just("keep")),
        st.tuples(st.just("flip"), places, st.integers(0, 1 << 16)),
        st.tuples(st.just("drop"), places),
        st.tuples(st.just("double"), places),
        st.tuples(st.just("swap"), places, places),
        st.tuples(st.just("other"), places, st.integers(0, 40)),
        st.tuples(st.just("cut"), places),
        st.tuples(st.just("shorten"), places, st.integers(1, 100)),
        st.tuples(st.just("begin"), places),
        st.tuples(st.just("go on")),
    ),
    min_size=1,
    max_size=6,
)


def edited(edit: Any, found: list[bytes], everything: list[bytes]) -> list[bytes]:
    """An answer, as a host with something in mind would give it."""
    kind, *numbers = edit
    at = numbers[0] % len(found) if numbers else 0
    if kind == "flip":
        data = found[at]
        bit = numbers[1] % (8 * len(data))
        return [*found[:at], data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :], *found[at + 1 :]]
    if kind == "drop":
        return found[:at] + found[at + 1 :]
    if kind == "double":
        return found[: at + 1] + found[at:]
    if kind == "swap":
        other = numbers[1] % len(found)
        found[at], found[other] = found[other], found[at]
        return found
    if kind == "other":
        return [*found[:at], everything[numbers[1] % len(everything)], *found[at + 1 :]]
    if kind == "cut":
        return found[:at]
    if kind == "shorten":
        return [*found[:at], found[at][: -numbers[1]], *found[at + 1 :]]
    if kind == "begin":
        return everything[numbers[0] :][: len(found)]
    return found + everything if kind == "go on" else found


@given(first=st.integers(1, 30), length=st.integers(0, 30), answers=edits, size=st.sampled_from([300, 2_000, 1 << 20]))
@settings(max_examples=200, deadline=None)
def test_whatever_a_host_answers_states_are_the_committed_ones_or_there_are_none(
    served: tuple[Cluster, Host, list[Any]], first: int, length: int, answers: list[Any], size: int
) -> None:
    cluster, host, everything = served
    last = min(first + length, host.committed)
    script = deque(answers)
    whole = cluster._read

    def lying(host: Host, fetch: Any) -> list[bytes]:
        found, total = whole(host, fetch), 0
        for count, data in enumerate(found, 1):
            total += len(data)
            if total > size:
                found = found[:count]
                break
        return edited(script.popleft(), found, host.entries) if script else found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "_read", lying)
        found = read(host, cluster, first, last)
    if isinstance(found, list):
        assert [known(state) for state in found] == everything[first - 1 : last]
    else:
        assert found.error_code in ("LedgerRangeMissing", "LedgerRangeRefused")
        assert f"to {last}" in found.message


# Bounds.


def test_one_range_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(historical, "RANGE_BYTES_MAX", 20_000)
    cluster, (host,) = service()
    client = cluster.client(host)
    for n in range(6):
        client.ask("PUT", f"/app/a/k{n}", b"x" * 10_000, prefer="committed")
    error = read(host, cluster, 2, host.committed)
    assert (error.status, error.error_code) == (400, "RangeTooLarge")
    assert "20000 bytes" in error.message


def test_all_together_are_bounded_and_the_rest_hear_that_the_node_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, (host,) = service()
    commit(cluster, host, 3)
    serving = host.enclave._serving
    assert serving is not None
    monkeypatch.setattr(serving._archive, "read", lambda *arguments: None)
    ended: list[Any] = []
    for _ in range(historical.WAITING_MAX + historical.READINGS_MAX + 3):
        serving._historical.read((2, 3), lambda found: None, ended.append)
    assert [(error.status, error.error_code) for error in ended] == [(503, "TooManyRequests")] * 3


def test_what_is_held_is_bounded_before_it_is_read_and_while_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, (host,) = service()
    commit(cluster, host, 8)
    serving = host.enclave._serving
    assert serving is not None
    ended: list[Any] = []
    serving._historical.read((2, 3), lambda found: None, ended.append, historical.HELD_BYTES_MAX + 1)
    assert [error.error_code for error in ended] == ["TooManyRequests"]
    monkeypatch.setattr(historical, "HELD_BYTES_MAX", 3 * historical.STATE_BYTES)
    assert read(host, cluster, 2, 8).error_code == "TooManyRequests"
    assert len(read(host, cluster, 2, 2)) == 1
    assert serving._historical.held_bytes == 0


READS_MAX = 3


@pytest.mark.parametrize(("count", "value"), [(1, 10), (600, 10), (600, 1_000), (20, 100_000)])
def test_states_take_no_more_memory_than_is_counted_for_them(count: int, value: int) -> None:
    cluster, (host,) = service()
    client = cluster.client(host)
    for number in range(600):  # one tree of many leaves, of which one state or all are read
        client.start("PUT", f"/app/a/k{number}", b"x" * (value if number < count else 1))
    cluster.run(0.5)
    client.ask("PUT", "/app/a/last", prefer="committed")
    first = next(n for n, data in enumerate(host.entries, 1) if "public:a" in read_public(data).writes)
    read(host, cluster, first, first)
    for _ in range(READS_MAX):  # what else is alive in the process may grow beside one of them, and not beside each
        gc.collect()
        tracemalloc.start()
        try:
            found = read(host, cluster, first, first + count - 1)
            gc.collect()
            kept, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        counted = sum(state.size_bytes for state in found)
        assert len(found) == count
        if kept < counted + 20_000:
            break
    assert kept < counted + 20_000
    assert counted < 2 * kept + 200_000, "nor is much more counted than there is"
    assert peak < counted + (6 << 20), "and not much more while they were read: the answer, some times over"


def test_claims_of_transactions_without_any_are_zeros() -> None:
    cluster, (host,) = service()
    removed = cluster.client(host).ask("DELETE", "/app/a/k0", prefer="committed")
    assert ID not in removed.headers or removed.status == 204
    [state] = read(host, cluster, 1, 1)
    assert state.leaf.claims_digest == ZERO_DIGEST
