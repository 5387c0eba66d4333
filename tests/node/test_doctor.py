"""What is wrong with a machine is found, one check for each thing, and nothing is left behind by looking."""

import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledgerd.ledger.errors import ConfigurationError
from ledgerd.node import doctor
from ledgerd.node.checks import Check, Section, Verdict, worst
from ledgerd.node.config import NodeConfig, StartConfig
from ledgerd.node.launch import ProcessLauncher
from ledgerd.node.sections import Address
from support.nitro import Instance


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    with Instance(tmp_path) as instance:
        yield instance


def make_config(folder: Path, port: int = 0, app: str = "ledgerd.apps.logging") -> NodeConfig:
    return NodeConfig(
        directory=folder / "node0",
        app=app,
        rpc=Address("127.0.0.1", port),
        peer=Address("127.0.0.1", 0),
        roots=(),
        simulator=folder / "simulator",
        start=StartConfig(members=()),
    )


def examine(folder: Path, config: NodeConfig | None = None) -> dict[str, Check]:
    sections = doctor.examine(folder, launcher="process", config=config)
    return {check.name: check for section in sections for check in section.checks}


def test_this_machine_can_run_a_simulated_node_and_is_told_that_it_is_simulated(tmp_path: Path) -> None:
    found = examine(tmp_path, make_config(tmp_path))
    assert {name for name, check in found.items() if check.verdict is Verdict.FAILURE} == set()
    assert found["attestation"].verdict is Verdict.WARNING
    assert "SIMULATED" in found["attestation"].found
    assert list(found) == [
        "python",
        "dependencies",
        "disk sync",
        "open files",
        "memory",
        "directory",
        "clients' address",
        "peers' address",
        "application",
        "sandbox",
        "attestation",
    ]
    assert list(tmp_path.iterdir()) == [], "looking changes nothing"


def test_the_disk_is_timed_where_the_ledger_is_to_be_even_before_the_folder_exists(tmp_path: Path) -> None:
    assert str(tmp_path) in examine(tmp_path / "not" / "yet")["disk sync"].found


def test_a_slow_disk_is_a_warning(tmp_path: Path) -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 0.012
        return now[0]

    (check,) = doctor._disk(tmp_path, clock)
    assert check.verdict is Verdict.WARNING
    assert check.found.startswith("12.00 ms typically, 12.00 ms at worst, of 32 in ")


def test_a_place_that_cannot_be_written_is_a_failure() -> None:
    assert examine(Path("/proc/1/nowhere"))["disk sync"].verdict is Verdict.FAILURE


def test_an_address_in_use_is_a_failure(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        check = examine(tmp_path, make_config(tmp_path, server.getsockname()[1]))["clients' address"]
    assert check.verdict is Verdict.FAILURE
    assert "ddress already in use" in check.found


def test_a_directory_that_a_node_has_used_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "node0").mkdir()
    (tmp_path / "node0" / "host.pid").write_text("1")
    check = examine(tmp_path, make_config(tmp_path))["directory"]
    assert (check.verdict, check.advice) == (Verdict.FAILURE, "choose a new directory")


def test_an_application_that_is_none_is_a_failure(tmp_path: Path) -> None:
    assert examine(tmp_path, make_config(tmp_path, app="ledgerd.nothing"))["application"].verdict is Verdict.FAILURE


def test_too_few_open_files_are_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (256, 1000))
    check = doctor._files(None)
    assert (check.verdict, check.found) == (Verdict.FAILURE, "1000 are allowed, 1832 are needed")


def test_little_memory_is_a_warning(instance: Instance) -> None:
    instance.write("proc/meminfo", "MemTotal: 2000000 kB\nMemAvailable:  1000000 kB\n")
    check = doctor._memory(instance.machine)
    assert (check.verdict, check.found) == (Verdict.WARNING, "976 MiB are available")
    instance.remove("proc/meminfo")
    assert doctor._memory(instance.machine).verdict is Verdict.WARNING


def test_a_sandbox_without_name_spaces_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ProcessLauncher", lambda command: ProcessLauncher(command, isolations=[(0, ())]))
    sandbox = doctor._process(None)[0]
    assert sandbox.verdict is Verdict.WARNING
    assert "without name spaces" in sandbox.found


def test_a_process_that_cannot_be_started_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def __init__(self, command: object) -> None:
            pass

        def launch(self, app: str, nsm: socket.socket) -> None:
            nsm.close()
            raise ConfigurationError("the enclave process cannot be started")

    monkeypatch.setattr(doctor, "ProcessLauncher", Refusing)
    assert doctor._process(None)[0].verdict is Verdict.FAILURE


def test_the_nitro_launcher_is_looked_at_in_its_place(instance: Instance) -> None:
    sections = doctor.examine(instance.folder, launcher="nitro", nitro=instance.config(), machine=instance.machine)
    assert sections[-1].name == "nitro launcher"
    assert sections[-1].verdict is Verdict.SUCCESS
    instance.remove("dev/vsock")
    sections = doctor.examine(instance.folder, launcher="nitro", nitro=instance.config(), machine=instance.machine)
    assert sections[-1].verdict is Verdict.FAILURE


def test_without_an_image_the_nitro_launcher_asks_for_one(tmp_path: Path) -> None:
    (check,) = doctor.examine(tmp_path, launcher="nitro")[-1].checks
    assert (check.name, check.verdict) == ("image", Verdict.FAILURE)


def test_the_worst_of_several_counts() -> None:
    assert worst([]) is Verdict.SUCCESS
    good, bad = Check("a", Verdict.SUCCESS, ""), Check("b", Verdict.WARNING, "")
    assert Section("s", (good, bad, good)).verdict is Verdict.WARNING
