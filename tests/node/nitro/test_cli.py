"""`nitro-cli` driven: what it answers becomes values, and each of its errors one cause with what to do."""

import json
import os
import signal
from pathlib import Path

import pytest

from ledgerd.node.nitro.causes import _CAUSES, cause_of
from ledgerd.node.nitro.cli import NitroCli, NitroError
from support.nitro import Instance


@pytest.fixture
def cli(instance: Instance) -> NitroCli:
    return NitroCli(str(instance.cli))


def run(cli: NitroCli, image: Path, *, memory_mb: int = 512, cpus: int = 2) -> None:
    cli.run(image, memory_mb=memory_mb, cpus=cpus, name="one", cid=None, debug=False)


def test_an_enclave_is_started_described_and_ended(instance: Instance, cli: NitroCli) -> None:
    assert cli.version() == (1, 3, 4)
    assert cli.describe() == []
    started = cli.run(instance.image, memory_mb=512, cpus=2, name="one", cid=20, debug=True)
    assert (started.name, started.cid, started.cpus, started.memory_mb, started.debug) == ("one", 20, 2, 512, True)
    assert [started.process_id] == instance.running()
    assert cli.describe() == [started]
    (call,) = instance.calls("run-enclave")
    options = "--memory 512 --cpu-count 2 --enclave-name one --enclave-cid 20 --debug-mode"
    assert call == ["--eif-path", str(instance.image), *options.split()]
    cli.terminate(started.id)
    assert cli.describe() == []


def test_words_before_the_answer_are_passed_over(instance: Instance, cli: NitroCli) -> None:
    """`Started enclave with ... cpu-ids: [1, 2]` stands before it, and has a list in it."""
    run(cli, instance.image)
    assert cli.describe()[0].name == "one"


@pytest.mark.parametrize(
    ("memory_mb", "cpus", "code", "text"),
    [(8192, 2, "E27", "fewer huge pages are free"), (512, 6, "E22", "fewer free CPUs"), (512, 2, "", "")],
)
def test_what_the_instance_lacks_is_named(instance: Instance, cli: NitroCli, memory_mb: int, cpus: int, code: str, text: str) -> None:
    if not code:
        run(cli, instance.image)
        return
    with pytest.raises(NitroError) as caught:
        run(cli, instance.image, memory_mb=memory_mb, cpus=cpus)
    assert caught.value.cause.code == code, "not E39, which is only what follows"
    assert text in str(caught.value)
    assert "allocator.yaml" in str(caught.value)


@pytest.mark.parametrize("code", sorted(_CAUSES))
def test_every_code_has_one_cause_and_something_to_do(instance: Instance, cli: NitroCli, code: str) -> None:
    instance.settings(errors={"describe-enclaves": [code]})
    with pytest.raises(NitroError) as caught:
        cli.describe()
    cause = caught.value.cause
    assert cause.code == code
    assert cause.text
    assert cause.advice
    assert f"({code})" in str(caught.value)


def test_all_codes_of_the_real_program_are_known() -> None:
    """E00 to E58; E00 says nothing that could be explained."""
    assert set(_CAUSES) == {f"E{number:02}" for number in range(1, 59)}


def test_a_code_of_a_newer_program_is_repeated_with_its_text() -> None:
    cause = cause_of("Start allocating memory...\n[ E77 ] The moon is in the way.\nFailed connections: 1\n[ E39 ] Connection failure.\n")
    assert (cause.code, cause.text) == ("E77", "it says 'The moon is in the way.'")


@pytest.mark.parametrize(("errors", "text"), [("", "it says nothing"), ("error: no such option\nmore", "it says 'error: no such option'")])
def test_an_error_without_a_code_is_repeated(errors: str, text: str) -> None:
    assert cause_of(errors).text == text


def program(folder: Path, script: str) -> NitroCli:
    """Some other program in the place of `nitro-cli`."""
    (folder / "nitro-cli").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "nitro-cli").chmod(0o755)
    return NitroCli(str(folder / "nitro-cli"))


@pytest.mark.parametrize(
    "answer", ["", "{}", "null", "[1]", "[{}]", '{"a": ', '[{"EnclaveID": 1, "ProcessID": "x"}]', "[" * 100_000, "[\n" * 300_000]
)
def test_an_answer_of_another_form_is_an_error(tmp_path: Path, answer: str) -> None:
    (tmp_path / "answer").write_text(answer)
    with pytest.raises(NitroError, match="unknown form"):
        program(tmp_path, f"cat {tmp_path}/answer").describe()


RIGHT = {
    "EnclaveName": "a",
    "EnclaveID": "i-0-enc0",
    "ProcessID": 7,
    "EnclaveCID": 16,
    "NumberOfCPUs": 2,
    "MemoryMiB": 512,
    "Flags": "NONE",
}


@pytest.mark.parametrize(
    "change",
    [
        *({"ProcessID": value} for value in (0, -1, 1 << 31, True, 7.0, float("inf"), "7", None)),
        *({"EnclaveCID": value} for value in (0, 1 << 32, "16", [16])),
        *({"EnclaveID": value} for value in ("", "--help", "i 0", "i-0\n", "x" * 129, 7, None)),
        *({"EnclaveName": value} for value in ("a\x1b[2J", "x" * 257, 7, ["a"])),
    ],
)
def test_a_value_that_no_enclave_has_is_an_error(tmp_path: Path, change: dict[str, object]) -> None:
    (tmp_path / "answer").write_text(json.dumps([RIGHT]))
    cli = program(tmp_path, f"cat {tmp_path}/answer")
    assert cli.describe()[0].id == "i-0-enc0"
    (tmp_path / "answer").write_text(json.dumps([{**RIGHT, **change}]))
    with pytest.raises(NitroError, match="unknown form"):
        cli.describe()


def test_output_without_end_is_given_up_before_it_fills_anything(tmp_path: Path) -> None:
    for where in ("", " >&2"):
        with pytest.raises(NitroError, match="printed more than 1 MiB"):
            program(tmp_path, f"exec yes{where}").describe()


def test_a_process_that_it_leaves_behind_with_its_descriptors_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "answer").write_text(json.dumps([RIGHT]))
    cli = program(tmp_path, f"sleep 1000 & echo $! > {tmp_path}/left; cat {tmp_path}/answer")
    try:
        assert cli.describe()[0].cid == 16
    finally:
        os.kill(int((tmp_path / "left").read_text()), signal.SIGKILL)


def test_a_program_that_is_not_there_is_an_error_that_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(NitroError, match="install aws-nitro-enclaves-cli"):
        NitroCli(str(tmp_path / "none")).version()


def test_a_program_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli = program(tmp_path, "exec sleep 1000")
    with pytest.raises(NitroError, match="did not end within 0 s") as caught:
        cli._call("describe-enclaves", seconds=0.05)
    assert caught.value.cause.passes


def test_the_stand_in_answers_in_the_real_ones_shapes(instance: Instance, cli: NitroCli) -> None:
    """Names of fields as in src/common/json_output.rs, so that a stand-in that drifts is seen."""
    run(cli, instance.image)
    (path,) = (instance.cli.parent / "enclaves").glob("*.json")
    assert list(json.loads(path.read_text())) == [
        "EnclaveName", "EnclaveID", "ProcessID", "EnclaveCID", "NumberOfCPUs", "CPUIDs", "MemoryMiB", "State", "Flags"
    ]  # fmt: skip


def test_a_version_of_ever_more_digits_is_none(tmp_path: Path) -> None:
    """Python itself refuses to read numbers of so many digits, with an error of its own."""
    program = tmp_path / "nitro-cli"
    program.write_text(f"#!/bin/sh\necho 1.{'9' * 5_000}.0\n")
    program.chmod(0o755)
    with pytest.raises(NitroError, match="names no version"):
        NitroCli(str(program)).version()
