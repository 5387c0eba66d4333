"""The runner finds what it is there to find, mistakes planted in the house's own readers too, and tells how to see it again."""

import json
import os
import random
import re
import runpy
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ledgerd.enclave import boundary, forwarding, http
from ledgerd.enclave.javascript import declared, options
from ledgerd.enclave.requests import Response
from ledgerd.ledger import cose, entry, receipt
from ledgerd.ledger.ids import NodeId
from support.fuzzing import running
from support.fuzzing.bounds import timed, weighed
from support.fuzzing.catalogue import MAKERS
from support.fuzzing.laws import BrokenLaw, Target
from support.fuzzing.mutation import mutate
from support.fuzzing.running import Plan, Result, replay, run
from support.repository import ROOT

PLAN = Plan(None, 300, 7)


def fuzz(judge: Callable[[bytes], bool], plan: Plan = PLAN, **more: Any) -> Result:
    """Run a target of one seed, and take away what it kept."""
    result = run("planted", lambda: Target("planted", [b"a seed of some bytes"], judge, **more), plan)
    if result.kept is not None:
        Path(result.kept).unlink()
    return result


def test_what_keeps_the_law_is_counted() -> None:
    result = fuzz(lambda data: data.startswith(b"a seed"))
    assert result.finding is None
    assert result.executions == 301
    assert 0 < result.accepted < 301


def test_an_exception_is_a_finding_with_the_input_that_raised_it() -> None:
    def judge(data: bytes) -> bool:
        if b"\xff" in data:
            raise KeyError("gone")
        return False

    target = Target("planted", [b"a seed of some bytes"], judge)
    result = run("planted", lambda: target, PLAN)
    assert result.finding is not None and "raises KeyError: 'gone'" in result.finding
    assert result.kept is not None
    data = Path(result.kept).read_bytes()
    Path(result.kept).unlink()
    assert b"\xff" in data
    with pytest.raises(KeyError):
        replay(lambda: target, data)


def test_a_warning_is_a_finding() -> None:
    def judge(data: bytes) -> bool:
        import warnings

        warnings.warn("something is deprecated", DeprecationWarning, stacklevel=2)
        return False

    result = fuzz(judge)
    assert result.finding is not None and "DeprecationWarning" in result.finding


def test_what_takes_long_is_a_finding() -> None:
    def judge(data: bytes) -> bool:
        end = time.thread_time() + (0.8 if b"\0" in data else 0.0)
        while time.thread_time() < end:
            pass
        return False

    result = fuzz(judge)
    assert result.finding is not None and "s of CPU" in result.finding


def test_what_takes_much_memory_is_a_finding() -> None:
    result = fuzz(lambda data: len(bytearray(8 << 20)) == 0)
    assert result.finding is not None and "bytes of memory" in result.finding


def test_a_crash_is_a_finding() -> None:
    def judge(data: bytes) -> bool:
        if len(data) > 20:
            os.kill(os.getpid(), signal.SIGSEGV)
        return False

    result = fuzz(judge)
    assert result.finding is not None and "SIGSEGV" in result.finding


def test_what_never_returns_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "HANGING_SECONDS", 0.3)

    def judge(data: bytes) -> bool:
        while len(data) > 20:
            time.sleep(0.05)
        return False

    result = fuzz(judge)
    assert result.finding is not None and "does not come to an end" in result.finding


def test_memory_without_end_ends_the_input_s_process_alone() -> None:
    result = fuzz(lambda data: len(bytearray(1 << 40)) == 0)
    assert result.finding is not None and "MemoryError" in result.finding


# The house's own readers with a mistake in each: those that fuzzing found, and some more.


def find(name: str, mutations: int) -> str:
    """What a target finds within so many mutations, bombs included."""
    made = MAKERS[name]()
    assert any(map(made.judge, made.seeds)), "a reader that takes nothing any more was not made careless"
    chosen = random.Random(11)
    try:
        for data in made.bombs:
            weighed(made, data)
        for _ in range(mutations):
            timed(made, mutate(chosen.choice(made.seeds), chosen.choice(made.seeds), chosen, made.tokens))
    except BrokenLaw as error:
        return str(error)
    except Exception as error:
        return type(error).__name__
    return ""


def _plain_load(pem: str | bytes, what: str = "") -> Any:
    from cryptography import x509

    return x509.load_pem_x509_certificate(pem.encode() if isinstance(pem, str) else pem)


def _unchecked_answer(node: NodeId, data: bytes) -> tuple[int, Response]:
    number, status, headers, body, content_type = forwarding._unpack(node, data, 5)
    return number, Response(status, tuple((name, value) for name, value in headers), body, content_type)


_ANY_LINE = re.compile(r"(\S+) ([^? ]*)(?:\?(\S*))? HTTP/1\.[01]")

PLANTED: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], None]]] = {
    "a Ready whose form nobody checks": (
        "link-ready",
        lambda patch: patch.setattr(boundary, "_READY_SHAPES", dict.fromkeys(boundary._READY_SHAPES, lambda value: True)),
    ),
    "a shortcut for requests that judges less than the long way": ("http", lambda patch: patch.setattr(http, "_PLAIN_LINE", _ANY_LINE)),
    "a check of an answer left out": ("forwarded-answer", lambda patch: patch.setattr(forwarding, "decode_answer", _unchecked_answer)),
    "events of which one field is not looked at": (
        "link-events",
        lambda patch: patch.setitem(boundary._SHAPES, boundary.Fetched, lambda fields: True),
    ),
    "a certificate that is read without care": ("receipt-json", lambda patch: patch.setattr(receipt, "load_certificate", _plain_load)),
    "a path that nobody holds against its leaf": ("receipt-cose", lambda patch: patch.setattr(cose, "verify", lambda *arguments: b"")),
    "an entry whose sizes nobody compares": (
        "entry-public",
        lambda patch: patch.setattr(entry, "_read_fixed", lambda data: (2, 3, 0, entry._DOMAIN_END)),
    ),
    "a choice of an endpoint's that is any word": (
        "javascript-endpoint",
        lambda patch: patch.setattr(declared, "_choice", lambda said, name, choices, default: said.get(name, default)),
    ),
    "limits of scripts that are not the image's": (
        "javascript-options",
        lambda patch: patch.setattr(options, "HEAP_BYTES_MAX", 1 << 60),
    ),
}


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_mistake_is_found(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, plant = PLANTED[what]
    plant(monkeypatch)
    assert find(name, 3_000)


# The command.


class Command:
    """`scripts/fuzz`, in this process: what it needs is loaded already."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._main: Callable[[], int] = runpy.run_path(str(ROOT / "scripts" / "fuzz"))["main"]
        self._patch = monkeypatch
        self._shown = capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Status, standard output, standard error."""
        self._patch.setattr(sys, "argv", ["fuzz", *arguments])
        try:
            status = self._main()
        except SystemExit as error:
            status = int(str(error.code))
        shown = self._shown.readouterr()
        return status, shown.out, shown.err


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def test_the_command_runs_targets_and_prints_a_table_or_json(command: Command) -> None:
    status, shown, _ = command("names", "kms-sealed", "--mutations", "400")
    assert status == 0
    lines = shown.splitlines()
    assert lines[0].split() == ["target", "executions", "a", "second", "accepted", "findings"]
    assert [line.split()[0] for line in lines[1:]] == ["names", "kms-sealed", "all"]
    status, shown, _ = command("names", "--seconds", "0.2", "-o", "json", "--seed", "5")
    document = json.loads(shown)
    assert (status, document["findings"], document["seed"], document["targets"][0]["target"]) == (0, 0, 5, "names")
    assert document["executions"] == document["targets"][0]["executions"] > 100
    assert command("--list")[1].split() == list(MAKERS)


@pytest.mark.parametrize("arguments", [("nothing",), ("--seconds", "1", "--mutations", "1"), ("--guided", "--mutations", "1")])
def test_a_command_that_makes_no_sense_is_misuse(command: Command, arguments: tuple[str, ...]) -> None:
    status, _, why = command(*arguments)
    assert status == 2
    assert why


def test_a_finding_is_status_1_and_the_table_names_its_file(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def planted() -> Target:
        """Planted."""
        return Target("names", [b"abc"], lambda data: 1 // (len(data) - 5) > 1)

    monkeypatch.setitem(MAKERS, "names", planted)
    status, shown, _ = command("names", "--mutations", "500")
    assert status == 1
    assert "names: raises ZeroDivisionError" in shown
    kept = Path(shown.split("--replay ")[1].strip())
    assert len(kept.read_bytes()) == 5
    with pytest.raises(ZeroDivisionError):
        command("names", "--replay", str(kept))
    kept.unlink()
    (tmp_path / "fine").write_bytes(b"abc")
    assert command("names", "--replay", str(tmp_path / "fine"))[:2] == (0, "names: refused\n")
