"""One thing missing, one failure, with what to do; and a well-prepared instance has none."""

from collections.abc import Callable
from typing import Any

import pytest

from ledgerd.node.checks import Check, Verdict
from ledgerd.node.nitro.cli import NitroCli
from ledgerd.node.nitro.machine import cpu_list
from ledgerd.node.nitro.preflight import preflight
from support.nitro import Instance

NAMES = [
    "enclave device",
    "vsock",
    "image",
    "memory for the image",
    "allocator",
    "full cores",
    "nitro-cli",
    "running enclaves",
    "free CPUs",
    "free huge pages",
]


def look(instance: Instance, **changes: Any) -> list[Check]:
    return preflight(instance.config(**changes), "one", instance.machine, NitroCli(str(instance.cli)))


def bad(instance: Instance, **changes: Any) -> list[Check]:
    return [check for check in look(instance, **changes) if check.verdict is not Verdict.SUCCESS]


def test_a_well_prepared_instance_has_nothing_to_do(instance: Instance) -> None:
    checks = look(instance)
    assert [check.name for check in checks] == NAMES
    assert {check.verdict for check in checks} == {Verdict.SUCCESS}
    assert not any(check.advice for check in checks)


def not_ec2(instance: Instance) -> None:
    instance.remove("dev/nitro_enclaves")
    instance.write("sys/class/dmi/id/sys_vendor", "QEMU")


def no_driver(instance: Instance) -> None:
    # Without the driver nothing has a CPU pool either, which is then not a second failure of its own but the allocator's.
    instance.remove("dev/nitro_enclaves")
    instance.remove("sys/module/nitro_enclaves")


def no_option(instance: Instance) -> None:
    instance.remove("dev/nitro_enclaves")


def not_in_group(instance: Instance) -> None:
    instance.machine.may_use = False


def not_logged_in_again(instance: Instance) -> None:
    instance.machine.may_use = False
    instance.machine.is_new_to_group = True


def allocator_not_run(instance: Instance) -> None:
    instance.write("sys/module/nitro_enclaves/parameters/ne_cpus", "")


def allocator_without_memory(instance: Instance) -> None:
    instance.write("etc/nitro_enclaves/allocator.yaml", "cpu_count: 2\n")


def no_program(instance: Instance) -> None:
    instance.cli.unlink()


def few_huge_pages(instance: Instance) -> None:
    instance.write("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "255")


CASES: list[tuple[Callable[[Instance], None], str, str, str]] = [
    (not_ec2, "enclave device", "no EC2 instance", "run this on an EC2 instance"),
    (no_option, "enclave device", "not enabled for this instance", "--enclave-options Enabled=true"),
    (not_in_group, "enclave device", "ec2-user may not use", "usermod -aG ne ec2-user"),
    (not_logged_in_again, "enclave device", "before ec2-user was in group", "log out and in again"),
    (lambda it: it.remove("dev/vsock"), "vsock", "no /dev/vsock", "modprobe vsock"),
    (lambda it: it.image.unlink(), "image", "No such file", "--image"),
    (lambda it: (it.image.write_bytes(b"\x7fELF"), None)[1], "image", "no enclave image, by rule 'size'", "image build"),
    (lambda it: it.remove("etc/nitro_enclaves/allocator.yaml"), "allocator", "no /etc/nitro_enclaves/allocator.yaml", "install"),
    (allocator_without_memory, "allocator", "lacks memory_mib", "set memory_mib"),
    (allocator_not_run, "allocator", "has set no CPUs aside", "systemctl enable --now nitro-enclaves-allocator"),
    (no_program, "nitro-cli", "cannot be run: No such file", "install aws-nitro-enclaves-cli"),
    (lambda it: it.settings(errors={"describe-enclaves": ["E07"]}), "nitro-cli", "E07", "group `ne`"),
    (few_huge_pages, "free huge pages", "510 of 4096 MiB are free, 512 are needed", "raise memory_mib"),
    (lambda it: it.write("sys/module/nitro_enclaves/parameters/ne_cpus", "3"), "free CPUs", "1 of 1 in the pool", "raise cpu_count"),
]


@pytest.mark.parametrize(("spoil", "name", "found", "advice"), CASES)
def test_one_thing_missing_is_one_failure(
    instance: Instance, spoil: Callable[[Instance], None], name: str, found: str, advice: str
) -> None:
    spoil(instance)
    (check,) = bad(instance)
    assert (check.name, check.verdict) == (name, Verdict.FAILURE)
    assert found in check.found
    assert advice in check.advice


def test_a_driver_that_is_not_loaded_is_told_apart(instance: Instance) -> None:
    no_driver(instance)
    device = bad(instance)[0]
    assert "driver is not loaded" in device.found
    assert "modprobe nitro_enclaves" in device.advice


@pytest.mark.parametrize(
    ("changes", "name", "found"),
    [
        ({"cpus": 3}, "full cores", "3 CPUs, and a core of this machine is 2"),
        ({"memory_mb": 8192}, "free huge pages", "4096 of 4096 MiB are free, 8192 are needed"),
        ({"cpus": 6}, "free CPUs", "4 of 4 in the pool are free, 6 are needed"),
    ],
)
def test_what_the_configuration_asks_for_must_be_there(instance: Instance, changes: dict[str, Any], name: str, found: str) -> None:
    (check,) = bad(instance, **changes)
    assert (check.name, check.found) == (name, found)
    assert check.advice


def test_memory_must_be_four_times_the_image(instance: Instance) -> None:
    instance.build(size=16 << 20)
    assert instance.image.stat().st_size == 16 << 20
    (check,) = bad(instance, memory_mb=63)
    assert (check.name, check.found) == ("memory for the image", "63 MiB, and four times the image is 64 MiB")
    assert not bad(instance, memory_mb=64)
    instance.build(size=(16 << 20) + 1)
    assert bad(instance, memory_mb=64)[0].name == "memory for the image"


def test_other_enclaves_count(instance: Instance) -> None:
    cli = NitroCli(str(instance.cli))
    cli.run(instance.image, memory_mb=512, cpus=4, name="other", cid=20, debug=False)
    assert [check.name for check in bad(instance)] == ["free CPUs"]
    assert bad(instance, cpus=2, cid=20)[0].found == "CID 20 is taken: other (CID 20)"
    (name, _) = preflight(instance.config(), "other", instance.machine, cli)[7:9]
    assert name.found == "one of the name other runs already"
    assert "terminate-enclave" in name.advice


def test_an_instance_holds_four_enclaves(instance: Instance) -> None:
    instance.settings(cpus=16)
    instance.write("sys/module/nitro_enclaves/parameters/ne_cpus", "2-17")
    cli = NitroCli(str(instance.cli))
    for number in range(4):
        assert not bad(instance)
        cli.run(instance.image, memory_mb=64, cpus=2, name=f"other{number}", cid=None, debug=False)
    (check,) = bad(instance)
    assert "4, the limit of an instance" in check.found


def test_an_old_program_is_a_warning(instance: Instance) -> None:
    instance.settings(version="1.1.0")
    (check,) = bad(instance)
    assert (check.name, check.verdict, check.found) == ("nitro-cli", Verdict.WARNING, "version 1.1.0")


@pytest.mark.parametrize(
    ("text", "found"), [("", []), ("3", [3]), ("2-3,6", [2, 3, 6]), ("(null)", []), ("1-x,4", [4]), (" 1 , 2 ", [1, 2])]
)
def test_lists_of_cpus_are_read(text: str, found: list[int]) -> None:
    assert cpu_list(text) == found


def test_the_allocators_file_is_read_with_comments_and_quotes(instance: Instance) -> None:
    instance.write("etc/nitro_enclaves/allocator.yaml", "---\n# a: 1\nmemory_mib: 512 # MiB\ncpu_pool: '2,3'\n  nested: 1\n")
    assert instance.machine.allocator() == {"memory_mib": "512", "cpu_pool": "2,3"}
    assert not bad(instance)
