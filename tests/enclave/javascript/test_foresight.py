"""Reading ahead: what is guessed from what was read before, and that no guess changes a result."""

import json
from typing import Any

import pytest

from ledgerd.enclave.javascript import foresight
from ledgerd.enclave.javascript.foresight import RUNS
from ledgerd.enclave.scripts import messages
from support.executing import USER
from support.javascript import Installed

GET = "const v = ccf.kv.m.get(ccf.strToBuf({0})); return {{body: v === undefined ? null : ccf.bufToStr(v)}};"


class Counting(Installed):
    """Counts what scripts ask the enclave for, beside what they write and return."""

    asked = 0

    def __init__(self) -> None:
        super().__init__()
        received = self.scripts.received

        def count(name: int, data: bytes) -> None:
            for body in messages.Frames().feed(data):
                self.asked += sum(message[0] in (messages.GET, messages.HAS) for message in messages.read(body))
            received(name, data)

        self.scripts.received = count  # type: ignore[method-assign]

    def run(self, target: str = "/app/x", body: Any = b"", **more: Any) -> Any:
        """The answer's JSON, and how often it was asked for something."""
        before = self.asked
        response = self.answer("POST", target, body, **more)
        assert response.status == 200, response
        return json.loads(response.body), self.asked - before


def service(source: str, **records: str) -> Counting:
    made = Counting()
    made.install(source, authn_policies=["user_cert", "no_auth"])
    made.put({"m": {key.encode(): value.encode() for key, value in records.items()}})
    return made


@pytest.mark.parametrize(
    ("key", "target", "body"),
    [
        ("request.query.slice(2)", "/app/x?k={0}", ""),
        ("request.body.json().k", "/app/x", '{{"k":"{0}"}}'),
    ],
)
def test_a_key_that_the_request_names_is_read_ahead_from_the_second_time_on(key: str, target: str, body: str) -> None:
    made = service(GET.format(key), one="1", two="2")
    for name, value, asked in (("one", "1", 1), ("two", "2", 0), ("three", None, 0), ("one", "1", 0)):
        found, count = made.run(target.format(name), body.format(name))
        assert (found and str(found), count) == (value, asked)


def test_a_key_in_the_path_in_json_or_of_the_caller_too() -> None:
    made = service(GET.format("JSON.stringify(request.body.json().k)"), **{'"a"': "1"})
    assert [made.run(body=b'{"k": "a"}') for _ in range(2)] == [(1, 1), (1, 0)]
    made = service(GET.format("request.caller.id"), **{USER: "1"})
    assert [made.run(caller=USER) for _ in range(2)] == [(1, 1), (1, 0)]


def test_a_key_that_is_always_the_same_is_read_ahead_from_the_third_time_on() -> None:
    made = service(GET.format("'fixed'"), fixed="1")
    assert [made.run() for _ in range(3)] == [(1, 1), (1, 1), (1, 0)]


def test_what_a_run_has_written_is_what_it_reads() -> None:
    source = """
    const m = ccf.kv.m; const k = ccf.strToBuf('k'); const seen = [];
    const look = () => seen.push(m.has(k) ? ccf.bufToStr(m.get(k)) : null);
    look(); m.set(k, ccf.strToBuf('new')); look(); m.delete(k); look(); m.set(k, ccf.strToBuf('x')); m.clear(); look();
    return {body: seen, statusCode: 200};
    """
    made = service(source, k="old")
    for _ in range(4):
        made.put({"m": {b"k": b"old"}})
        assert made.run()[0] == ["old", "new", None, None]


def test_the_value_is_that_of_the_moment_at_which_the_run_begins() -> None:
    made = service(GET.format("'k'"), k="0")
    for number in range(6):
        made.put({"m": {b"k": str(number).encode()}})
        assert made.run()[0] == number


def test_what_was_read_ahead_and_has_changed_meanwhile_is_read_again() -> None:
    count = "m.set(k, ccf.strToBuf(`${Number(ccf.bufToStr(m.get(k))) + 1}`));"
    made = service(f"const m = ccf.kv.m; const k = ccf.strToBuf('k'); {count} return {{body: 1}};", k="0")
    for _ in range(3):
        made.run()
    assert made.store.get("m", b"k") == b"3"

    def change(scripted: Any) -> None:
        made.on_scripted = lambda scripted: None
        made.put({"m": {b"k": b"100"}})

    made.on_scripted = change
    made.run()
    assert made.store.get("m", b"k") == b"101"


def test_large_values_are_asked_for() -> None:
    made = service("return {body: ccf.kv.m.get(ccf.strToBuf('k')).byteLength};", k="x" * 70_000)
    assert [made.run() for _ in range(4)] == [(70_000, 1)] * 4


def test_maps_that_may_not_be_read_are_not_read_ahead() -> None:
    made = service("try { ccf.kv['ccf.gov.x'].get(ccf.strToBuf('k')); } catch (e) { return {body: 1}; }")
    assert [made.run() for _ in range(4)] == [(1, 0)] * 4


def test_guesses_are_made_anew_now_and_then() -> None:
    made = service(GET.format("'k'"), k="1")
    counts = [made.run()[1] for _ in range(RUNS + 3)]
    assert sum(counts[2 : RUNS - 1]) == 0
    assert sum(counts[RUNS - 1 :]) == 2


def test_keys_that_are_computed_are_not_looked_at_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sends bodies with many fields must not make every request dear."""
    looks = 0
    sources = foresight.Foresight._sources

    def counting(context: Any) -> Any:
        nonlocal looks
        looks += 1
        return sources(context)

    monkeypatch.setattr(foresight.Foresight, "_sources", staticmethod(counting))
    made = service(GET.format("'x' + request.body.json().k"))
    many = {f"f{number}": str(number) for number in range(100)}
    for number in range(100):
        made.run(body=json.dumps({"k": str(number), **many}).encode())
    assert looks == foresight.TRIES


def test_a_number_too_long_to_be_written_is_no_fault_of_the_nodes() -> None:
    made = service("ccf.kv.m.get(ccf.strToBuf('k' + Math.random())); return {body: 1};")
    assert made.run(body=b'{"k": ' + b"9" * 4_000 + b"}")[0] == 1
