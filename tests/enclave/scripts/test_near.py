"""What a script reads and writes without coming through the door: it must be what the door would have made of it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledgerd.enclave.kv import Store
from ledgerd.enclave.scripts.access import Access
from ledgerd.enclave.scripts.jobs import Bundle, End, Job, Limits, Outcome, Response
from ledgerd.enclave.scripts.overlay import Overlay
from support.scripts import run_here, value_of

AHEAD = (("m", b"k"), ("m", b"none"))


def endpoint(source: str, store: Store | None = None, body: bytes = b"", **options: Any) -> tuple[Outcome, Overlay]:
    """Run the body of an endpoint's function; `m` is a map, `key` makes a buffer."""
    text = f"const m = ccf.kv.m; const key = ccf.strToBuf; export function f(request) {{ {source} }}"
    job = Job(Bundle({"/main.js": text}), "/main.js", "f", ({},), Access.APP_RW, body=body, ahead=AHEAD, **options)
    return run_here(job, store)


def told(outcome: Outcome) -> Any:
    """The JSON of a response."""
    assert isinstance(outcome.value, Response), outcome
    return json.loads(outcome.value.body.data)


def store(value: bytes = b"old") -> Store:
    made = Store()
    made.apply(1, {"m": {b"k": value}})
    return made


def test_a_run_sees_what_is_there_and_what_it_has_done() -> None:
    source = """
    const seen = [];
    const look = () => seen.push(m.has(key('k')) ? ccf.bufToStr(m.get(key('k'))) : null);
    look(); m.set(key('k'), key('new')); look(); m.delete(key('k')); look(); m.set(key('k'), key('')); look(); m.clear(); look();
    m.set(key('k'), key('last')); look();
    return {body: [seen, m.has(key('none')), m.get(key('none')) === undefined, m.size]};
    """
    outcome, overlay = endpoint(source, store())
    assert told(outcome) == [["old", "new", None, "", None, "last"], False, True, 1]
    assert overlay.writes == {"m": {b"k": b"last"}}


def test_what_a_script_does_to_its_buffers_afterwards_changes_nothing() -> None:
    source = """
    const value = key('aaaa'); const name = key('n');
    m.set(name, value); new Uint8Array(value).fill(98); new Uint8Array(name).fill(120);
    const first = m.get(key('n')); new Uint8Array(first).fill(99);
    const found = m.get(key('k')); new Uint8Array(found).fill(99);
    return {body: [ccf.bufToStr(m.get(key('n'))), ccf.bufToStr(m.get(key('k')))]};
    """
    outcome, overlay = endpoint(source, store())
    assert told(outcome) == ["aaaa", "old"]
    assert overlay.writes == {"m": {b"n": b"aaaa"}}


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 1_000, 40_000, 65_535, 65_536, 70_000])
def test_values_of_all_sizes_arrive(size: int) -> None:
    source = f"""
    const value = new ArrayBuffer({size}); new Uint8Array(value).fill(7);
    for (let i = 0; i < 5; i++) m.set(key(`w${{i}}`), value);
    return {{body: [m.get(key('k')).byteLength, m.get(key('w3')).byteLength, request.body.arrayBuffer().byteLength]}};
    """
    outcome, overlay = endpoint(source, store(b"v" * size), body=b"b" * size)
    assert told(outcome) == [size, size, size]
    assert overlay.writes["m"] == {b"w%d" % number: bytes([7]) * size for number in range(5)}


@pytest.mark.parametrize(
    ("before", "size"),
    [
        ("", 70_000),  # no room for the value within the engine
        ("for (let i = 0; i < 70; i++) m.set(key(`w${i}`), key(''));", 3),  # the worker has to look by now
        ("m.set(key('k'), key('other')); m.size;", 70_000),
    ],
)
def test_what_was_foreseen_and_then_written_through_the_door_is_what_is_read(before: str, size: int) -> None:
    source = f"""
    {before}
    m.set(key('k'), new ArrayBuffer({size})); m.set(key('none'), new ArrayBuffer({size}));
    const seen = [m.get(key('k')).byteLength, m.has(key('none'))];
    {before}
    m.delete(key('k'));
    return {{body: [...seen, m.has(key('k'))]}};
    """
    outcome, _ = endpoint(source, store())
    assert told(outcome) == [size, True, False]


def test_what_was_foreseen_and_then_removed_is_not_found_when_the_worker_has_to_be_asked() -> None:
    source = """
    m.delete(key('k')); m.set(key('none'), key('x'));
    for (let i = 0; i < 62; i++) m.has(key('none'));
    return {body: [m.has(key('k')), m.has(key('none'))]};
    """
    outcome, _ = endpoint(source, store())
    assert told(outcome) == [False, True]


def test_every_operation_counts() -> None:
    source = "for (let i = 0; i < {}; i++) m.has(key('k')); return {{body: 1}};"
    for count, end in ((300, End.DONE), (301, End.OPERATIONS)):
        outcome, _ = endpoint(source.format(count), store(), limits=Limits(operations=300))
        assert outcome.end is end, count
    for size, end in ((50, End.DONE), (51, End.OPERATIONS)):
        outcome, _ = endpoint(f"m.set(key('k'), new ArrayBuffer({size - 1})); return {{body: 1}};", limits=Limits(writes_bytes=50))
        assert outcome.end is end, size


def test_what_a_run_that_threw_has_written_is_not_what_the_next_one_finds() -> None:
    source = "if (request.body.text() === 'throw') { m.set(key('k'), key('x')); throw Error(); } return {body: m.has(key('k'))};"
    assert endpoint(source, Store(), body=b"throw")[0].end is End.EXCEPTION
    assert told(endpoint(source, Store())[0]) is False


def test_a_script_cannot_come_by_the_memory_in_between() -> None:
    source = """
    let seen = 0;
    Object.defineProperty(ArrayBuffer.prototype, 'constructor', { get() { if (this.byteLength > 1000) seen++; return ArrayBuffer; } });
    m.get(key('k')); request.body.arrayBuffer(); m.set(key('k'), key('x')); m.get(key('k'));
    return {body: seen};
    """
    assert told(endpoint(source, store(), body=b"b")[0]) == 0


@given(st.text(max_size=40))
def test_texts_become_bytes_and_come_back(text: str) -> None:
    assert value_of("return ccf.strToBuf(args[0]);", text) == text.encode()
    assert value_of("return ccf.bufToStr(args[0]);", text.encode()) == text


def test_half_a_surrogate_pair_becomes_its_three_bytes() -> None:
    assert value_of("return ccf.strToBuf(args[0]);", "a\ud800") == b"a\xed\xa0\x80"


@given(st.binary(max_size=40))
def test_bytes_that_are_no_text_become_what_the_engine_makes_of_them(data: bytes) -> None:
    found = value_of("const t = ccf.bufToStr(args[0]); return ccf.strToBuf(t + 'x'.repeat(5000));", data)
    assert found[:-5000] == value_of("return ccf.strToBuf(ccf.bufToStr(args[0]));", data)
